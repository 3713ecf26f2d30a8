//! The loop around the pipeline: wait, receive a batch, answer it, send the answers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{
    counters::DropReason,
    pipeline::{Answers, Arrived, Pipeline},
};
use crate::{
    flow::{Flow, ListenerId, Transport},
    net::{RecvBatch, SendBatch, SlotLen, UdpListener},
    time::Clock,
};

/// Batches that a turn takes from one listener before it looks at the others and at the waker.
const BATCHES_PER_TURN: usize = 16;

/// Readiness events taken at once; what does not fit comes with the next poll.
const EVENTS: usize = 64;

/// The token of the waker; listeners have their position.
const WAKE: Token = Token(usize::MAX);

/// How long a worker that was told to stop goes on with what waits at its sockets, in batches for
/// each listener: the answers to what the kernel had accepted by then.
const BATCHES_AT_STOP: usize = 256;

/// A worker's own socket of a listener.
#[derive(Debug)]
pub struct Listening {
    listener: UdpListener,
    id: ListenerId,
    recv: RecvBatch,
    /// Whether the kernel has more than was taken.
    ready: bool,
}

impl Listening {
    /// A listener that takes datagrams of up to `maxpkt`.
    pub fn new(listener: UdpListener, id: ListenerId, maxpkt: SlotLen) -> Self {
        Self { listener, id, recv: RecvBatch::new(maxpkt), ready: true }
    }
}

/// A worker before its thread runs.
#[derive(Debug)]
pub struct Worker<C> {
    poll: Poll,
    waker: Arc<Waker>,
    listening: Vec<Listening>,
    send: SendBatch,
    pipeline: Pipeline,
    clock: C,
    stop: Arc<AtomicBool>,
}

impl<C: Clock> Worker<C> {
    /// A worker of these sockets. It ends after `stop` is set and its waker woken.
    ///
    /// # Errors
    /// The kernel's, of the readiness queue.
    pub fn new(
        pipeline: Pipeline,
        listening: Vec<Listening>,
        clock: C,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        for (position, socket) in listening.iter().enumerate() {
            use std::os::fd::AsRawFd;
            let fd = socket.listener.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(position), Interest::READABLE)?;
        }
        // Answers may be longer than requests; pages that are never written cost nothing.
        let send = SendBatch::new(SlotLen::MAX);
        Ok(Self { poll, waker, listening, send, pipeline, clock, stop })
    }

    /// Ends the wait of [`Worker::run`].
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Answers datagrams until it is told to stop.
    ///
    /// # Errors
    /// The kernel's, of waiting or receiving: nothing that a peer can cause.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stop.load(Ordering::Relaxed) {
            let backlog = self.listening.iter().any(|l| l.ready);
            match self.poll.poll(&mut events, backlog.then_some(Duration::ZERO)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            self.pipeline.refresh();
            for event in &events {
                if let Some(socket) = self.listening.get_mut(event.token().0) {
                    socket.ready = true;
                }
            }
            self.turn(BATCHES_PER_TURN)?;
        }
        self.turn(BATCHES_AT_STOP)
    }

    /// Takes up to `batches` batches from each listener that has any.
    fn turn(&mut self, batches: usize) -> io::Result<()> {
        for socket in &mut self.listening {
            for _ in 0..batches {
                if !socket.ready {
                    break;
                }
                let received = socket.recv.recv(&socket.listener)?;
                socket.ready = !received.drained;
                if received.count > 0 {
                    answer(socket, &mut self.pipeline, &mut self.send, &self.clock);
                }
            }
        }
        Ok(())
    }
}

/// Answers the batch that was just received.
fn answer(socket: &Listening, pipeline: &mut Pipeline, send: &mut SendBatch, clock: &impl Clock) {
    let arrived = socket.recv.iter().map(|datagram| Arrived {
        bytes: datagram.bytes,
        flow: Flow {
            listener: socket.id,
            transport: Transport::Udp,
            local: datagram.local,
            remote: datagram.remote,
        },
        truncated: datagram.truncated,
    });
    pipeline.handle_all(clock.now(), arrived, send);
    let sent = send.flush(&socket.listener);
    if sent.dropped() > 0 {
        // Not repeated here: a client over UDP sends again (RFC 3261 §17.1.2.2).
        pipeline.counters().dropped(DropReason::SendFailed, sent.dropped() as u64);
    }
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
