//! The loop around the pipeline: wait, receive a batch, answer it, send the answers.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam::channel::Receiver;
use mio::{Events, Poll, Token, Waker};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    counters::{Counters, DropReason},
    hops::Hop,
    log::{Leave, Log},
    outbox::Outbox,
    parking::Parked,
    pipeline::{Answers, Arrived, Pipeline},
};
use crate::{
    flow::{Flow, ListenerId, Transport},
    location::Unrecorded,
    net::{BATCH, RecvBatch, SendBatch, SlotLen, UdpListener},
    time::Clock,
};

/// Batches that a turn takes from one listener before it looks at the others and at the waker.
const BATCHES_PER_TURN: usize = 16;

/// Datagrams that are answered in less time than it takes for more to come, most likely. After a
/// batch of more a worker receives again, though the batch may not have been full: to do so in vain
/// now and then costs less than to ask each time.
const FEW: usize = 4;

/// The token of the waker, which is all that the readiness queue has.
const WAKE: Token = Token(0);

/// How long a worker that was told to stop goes on with what waits at its sockets, in batches for
/// each listener: the answers to what the kernel had accepted by then.
const BATCHES_AT_STOP: usize = 256;

/// How long it waits after that for a disk that its answers wait for.
const DISK_AT_STOP: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// A worker's own socket of a listener.
#[derive(Debug)]
pub struct Listening {
    listener: UdpListener,
    inbox: Inbox,
}

/// What a worker takes from one listener.
#[derive(Debug)]
struct Inbox {
    id: ListenerId,
    recv: RecvBatch,
    /// Whether the kernel may have more than was taken.
    ready: bool,
}

impl Listening {
    /// A listener that takes datagrams of up to `maxpkt`.
    pub fn new(listener: UdpListener, id: ListenerId, maxpkt: SlotLen) -> Self {
        Self { listener, inbox: Inbox { id, recv: RecvBatch::new(maxpkt), ready: true } }
    }
}

/// A worker before its thread runs.
///
/// Its sockets are in no readiness queue: being in one costs each datagram that arrives a walk
/// through it, even while nobody waits. The worker asks about them with poll(2), and only when it
/// found them empty, or once a turn; the queue has its waker alone, and is asked about likewise.
#[derive(Debug)]
pub struct Worker<C> {
    poll: Poll,
    waker: Arc<Waker>,
    listening: Vec<Listening>,
    pipeline: Pipeline,
    log: Box<dyn Log>,
    clock: C,
    stop: Arc<AtomicBool>,
    returned: Option<Receiver<Parked>>,
    hops: Option<Receiver<Hop>>,
}

impl<C: Clock> Worker<C> {
    /// A worker of these sockets, whose changes go to `log`. It ends after `stop` is set and its
    /// waker woken.
    ///
    /// # Errors
    /// The kernel's, of the readiness queue.
    pub fn new(
        pipeline: Pipeline,
        log: Box<dyn Log>,
        listening: Vec<Listening>,
        clock: C,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        Ok(Self { poll, waker, listening, pipeline, log, clock, stop, returned: None, hops: None })
    }

    /// Has requests handled again that come back from the back ends; who gives them back wakes the
    /// worker.
    pub fn with_returned(self, returned: Receiver<Parked>) -> Self {
        Self { returned: Some(returned), ..self }
    }

    /// Has datagrams handled that come to the sockets of other workers.
    pub fn with_hops(self, hops: Receiver<Hop>) -> Self {
        Self { hops: Some(hops), ..self }
    }

    /// Ends the wait of [`Worker::run`].
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Answers datagrams until it is told to stop.
    ///
    /// # Errors
    /// The kernel's, of waiting or receiving: nothing that a peer can cause.
    pub fn run(self) -> io::Result<()> {
        let Self { mut poll, listening, pipeline, log, clock, stop, returned, hops, waker: _waker } =
            self;
        let outbox = Outbox::new(log.waits());
        let (listeners, inboxes): (Vec<_>, Vec<_>) =
            listening.into_iter().map(|l| (l.listener, l.inbox)).unzip();
        let queue = poll.registry().try_clone()?;
        let mut asked: Vec<_> = listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)).collect();
        asked.push(PollFd::new(&queue, PollFlags::IN));
        let returned = Returned { lane: returned, ready: VecDeque::new() };
        let listeners = &*listeners;
        let passed = SendBatch::new(SlotLen::MAX);
        let mut desk = Desk {
            listeners,
            asked,
            inboxes,
            outbox,
            pipeline,
            log,
            clock,
            returned,
            hops,
            passed,
            places: Vec::with_capacity(BATCH),
        };
        let mut woken = Events::with_capacity(1);
        while !stop.load(Ordering::Relaxed) {
            if desk.wait()? {
                poll.poll(&mut woken, Some(Duration::ZERO)).or_else(unless_interrupted)?;
            }
            desk.pipeline.refresh();
            desk.turn(BATCHES_PER_TURN)?;
        }
        desk.inboxes.iter_mut().for_each(|inbox| inbox.ready = true);
        desk.turn(BATCHES_AT_STOP)?;
        desk.pipeline.stop_calls(desk.clock.now());
        desk.pass_on();
        desk.let_go();
        while desk.outbox.is_waiting() {
            let mut queue = [PollFd::new(&queue, PollFlags::IN)];
            if rustix::event::poll(&mut queue, Some(&DISK_AT_STOP)) == Ok(0) {
                break;
            }
            poll.poll(&mut woken, Some(Duration::ZERO)).or_else(unless_interrupted)?;
            desk.let_go();
        }
        Ok(())
    }
}

fn unless_interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// A worker at work.
struct Desk<'l, C> {
    listeners: &'l [UdpListener],
    /// What poll(2) is asked about: the listeners in their order, then the waker's queue.
    asked: Vec<PollFd<'l>>,
    /// One for each listener, in the same order.
    inboxes: Vec<Inbox>,
    outbox: Outbox,
    pipeline: Pipeline,
    log: Box<dyn Log>,
    clock: C,
    returned: Returned,
    /// What other workers' sockets got.
    hops: Option<Receiver<Hop>>,
    /// What is passed on.
    passed: SendBatch,
    /// Which of all that is passed on is in that batch.
    places: Vec<usize>,
}

/// What the back ends are done with.
struct Returned {
    lane: Option<Receiver<Parked>>,
    ready: VecDeque<Parked>,
}

impl<C: Clock> Desk<'_, C> {
    /// Waits until there is something to do, unless there is; finds out at which listeners. The
    /// result is whether the waker was woken.
    fn wait(&mut self) -> io::Result<bool> {
        if self.outbox.is_full() {
            // More requests would find no room for their answers: the disk is what is waited for.
            let queue = self.asked.last_mut().map(std::slice::from_mut).unwrap_or_default();
            return match rustix::event::poll(queue, None) {
                Ok(_) => Ok(true),
                Err(rustix::io::Errno::INTR) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let is_busy = self.inboxes.iter().any(|inbox| inbox.ready);
        let timeout = if is_busy { Some(NO_TIME) } else { self.until_due() };
        match rustix::event::poll(&mut self.asked, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        for (inbox, asked) in self.inboxes.iter_mut().zip(&self.asked) {
            // An error of the socket, too, is taken by receiving.
            inbox.ready |= !asked.revents().is_empty();
        }
        Ok(self.asked.last().is_some_and(|queue| !queue.revents().is_empty()))
    }

    /// How long it may wait until a request that is passed on wants something; at most a minute.
    fn until_due(&mut self) -> Option<Timespec> {
        let now = self.clock.now();
        let wait = self.pipeline.calls()?.wait(now)?;
        let (seconds, millis) = (wait / 1000, wait % 1000);
        let tv_sec = i64::try_from(seconds).unwrap_or(60).min(60);
        Some(Timespec { tv_sec, tv_nsec: i64::try_from(millis).unwrap_or(0) * 1_000_000 })
    }

    /// Takes what other workers hand over: as much as it takes from its own sockets.
    fn take_hops(&mut self) {
        let Some(hops) = &self.hops else { return };
        for _ in 0..BATCHES_PER_TURN {
            let Some(send) = self.outbox.open() else { return };
            let hops: Vec<Hop> = hops.try_iter().take(BATCH).collect();
            if hops.is_empty() {
                return;
            }
            let arrived = hops.iter().map(|hop| Arrived {
                bytes: &hop.datagram,
                flow: hop.flow,
                truncated: false,
            });
            // All of it is passed on, and nothing of it changes a binding.
            self.pipeline.handle_all(self.clock.now(), arrived, &mut Unrecorded, send);
        }
        if let Some(inbox) = self.inboxes.first_mut() {
            // There may be more.
            inbox.ready = true;
        }
    }

    /// Sends what is passed on. What comes of requests that can't be sent goes after them: each round
    /// gives up a branch, or is the last.
    fn pass_on(&mut self) {
        while self.pipeline.calls().is_some_and(|calls| !calls.is_silent()) {
            let hopeless = self.send_passed();
            if hopeless.is_empty() {
                return self.pipeline.passed_on();
            }
            self.pipeline.unsent(self.clock.now(), &hopeless);
        }
    }

    /// Sends it once; the places of what could not be sent, and would not a moment later.
    fn send_passed(&mut self) -> Vec<usize> {
        let Self { listeners, pipeline, passed, places, .. } = self;
        let (mut lost, mut hopeless) = (0, Vec::new());
        let mut number = None;
        let mut flush = |number: Option<usize>, batch: &mut SendBatch, places: &mut Vec<usize>| {
            match number.and_then(|number| listeners.get(number)) {
                Some(listener) => {
                    let sent = batch.flush(listener);
                    lost += sent.dropped();
                    hopeless.extend(sent.hopeless.iter().filter_map(|at| places.get(*at)));
                }
                None => {
                    lost += batch.len();
                    batch.clear();
                }
            }
            places.clear();
        };
        let calls = pipeline.calls();
        let sends = calls.as_ref().map(|calls| calls.sends()).into_iter().flatten();
        for (place, (flow, to, octets)) in sends.enumerate() {
            let listener = Some(usize::from(flow.listener.0));
            if number != listener {
                flush(number, passed, places);
                number = listener;
            }
            if passed.slot().is_none() {
                flush(number, passed, places);
            }
            if let Some(mut slot) = passed.slot()
                && let Some(room) = slot.bytes().get_mut(..octets.len())
            {
                room.copy_from_slice(octets);
                slot.commit(octets.len(), to, flow.local);
                places.push(place);
            }
        }
        flush(number, passed, places);
        if lost > 0 {
            pipeline.counters().dropped(DropReason::SendFailed, lost as u64);
        }
        hopeless
    }

    /// Takes up to `batches` batches from each listener that has any.
    fn turn(&mut self, batches: usize) -> io::Result<()> {
        self.take_hops();
        if self.pipeline.calls().is_some_and(|calls| calls.has_timers()) {
            self.pipeline.pass_time(self.clock.now());
        }
        let turned = self.take_in(batches);
        self.pass_on();
        turned
    }

    fn take_in(&mut self, batches: usize) -> io::Result<()> {
        self.let_go();
        self.take_returned();
        let Self { listeners, inboxes, outbox, pipeline, log, clock, .. } = self;
        for (number, inbox) in inboxes.iter_mut().enumerate() {
            let Some(listener) = listeners.get(number) else { continue };
            for _ in 0..batches {
                if !inbox.ready {
                    break;
                }
                let Some(send) = outbox.open() else { return Ok(()) };
                let received = inbox.recv.recv(listener)?;
                inbox.ready = received > FEW;
                if received == 0 {
                    continue;
                }
                let leave = answer(inbox, pipeline, &mut **log, send, clock);
                dispatch(leave, outbox, number, listener, pipeline.counters());
            }
        }
        Ok(())
    }

    /// Answers what has come back from the back ends, batch by batch and each by its listener.
    fn take_returned(&mut self) {
        let Self { listeners, outbox, pipeline, log, clock, returned, .. } = self;
        let Returned { lane: Some(lane), ready } = returned else { return };
        loop {
            ready.extend(lane.try_iter().take(BATCH - ready.len().min(BATCH)));
            let Some(first) = ready.front() else { return };
            let Some(send) = outbox.open() else { return };
            let listener = first.flow.listener;
            let mut batch = Vec::with_capacity(ready.len());
            for parked in std::mem::take(ready) {
                if parked.flow.listener == listener {
                    batch.push(parked);
                } else {
                    ready.push_back(parked);
                }
            }
            let leave = log
                .batch(&mut |journal| pipeline.handle_returned(clock.now(), &batch, journal, send));
            pipeline.reuse(batch.into_iter());
            let number = usize::from(listener.0);
            if let Some(listener) = listeners.get(number) {
                dispatch(leave, outbox, number, listener, pipeline.counters());
            }
        }
    }

    /// Sends the answers that have waited long enough.
    fn let_go(&mut self) {
        if !self.outbox.is_waiting() {
            return;
        }
        let (settled, counters) = (self.log.settled(), self.pipeline.counters());
        while let Some((listener, number, send)) = self.outbox.first_parked() {
            if number <= settled.saved {
                if let Some(listener) = self.listeners.get(listener) {
                    flush(send, listener, counters);
                }
            } else if number <= settled.lost {
                give_up(send, counters);
            } else {
                break;
            }
            self.outbox.reuse_first();
        }
    }
}

/// A wait that doesn't.
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Answers the batch that was just received.
fn answer(
    inbox: &Inbox,
    pipeline: &mut Pipeline,
    log: &mut dyn Log,
    send: &mut SendBatch,
    clock: &impl Clock,
) -> Leave {
    let arrived = || {
        inbox.recv.iter().map(|datagram| Arrived {
            bytes: datagram.bytes,
            flow: Flow {
                listener: inbox.id,
                transport: Transport::Udp,
                local: datagram.local,
                remote: datagram.remote,
            },
            truncated: datagram.truncated,
        })
    };
    log.batch(&mut |journal| pipeline.handle_all(clock.now(), arrived(), journal, send))
}

/// Has the answers of the open batch leave when they may.
fn dispatch(
    leave: Leave,
    outbox: &mut Outbox,
    number: usize,
    listener: &UdpListener,
    counters: &Counters,
) {
    match (leave, outbox.open()) {
        (Leave::After(settled), _) => outbox.park(number, settled),
        (Leave::Now, Some(send)) => flush(send, listener, counters),
        (Leave::Never, Some(send)) => give_up(send, counters),
        (Leave::Now | Leave::Never, None) => {}
    }
}

/// Sends a batch's answers.
fn flush(send: &mut SendBatch, listener: &UdpListener, counters: &Counters) {
    let sent = send.flush(listener);
    if sent.dropped() > 0 {
        // Not repeated here: a client over UDP sends again (RFC 3261 §17.1.2.2).
        counters.dropped(DropReason::SendFailed, sent.dropped() as u64);
    }
}

/// Forgets a batch's answers: what they would acknowledge could not be saved, and phones that come
/// again are told so.
fn give_up(send: &mut SendBatch, counters: &Counters) {
    counters.dropped(DropReason::NotSaved, send.len() as u64);
    send.clear();
}

impl Answers for SendBatch {
    fn answer<E>(
        &mut self,
        flow: &Flow,
        write: impl FnOnce(&mut [u8]) -> Result<(usize, SocketAddr), E>,
    ) -> Result<(), E> {
        // There are as many slots as a batch has datagrams.
        let Some(mut slot) = self.slot() else { return Ok(()) };
        let (len, to) = write(slot.bytes())?;
        slot.commit(len, to, flow.local);
        Ok(())
    }
}
