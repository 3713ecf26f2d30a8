//! Calls told to whoever keeps records: databases, files, the count of who is on the phone.
//!
//! Workers leave what happens to calls in a channel; `legs` makes Yate's `call.cdr` of it, and
//! each handler has a `lane` of its own, in which it gets them in order, each once, however long
//! it is away.

mod file;
mod lane;
mod legs;
mod told;

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use self::{lane::Lane, legs::Recorder};
use super::{
    chain::{Failure, Guests, Handles},
    message::Message,
    spool::SpoolFolder,
    status::Status,
};
use crate::worker::CallLog;
use crate::{
    proxy::CallEvent,
    time::{Clock, SystemClock},
};

pub(super) use self::{
    file::File,
    legs::{Operation, Operations},
};

/// How long what happens to calls may wait until it is looked at: each look wakes a thread, and a
/// call makes four events.
const GATHER: Duration = Duration::from_millis(5);

/// How many events are taken before others of the thread have their turn.
const AT_ONCE: usize = 256;

/// Where workers leave what happens to calls. It never waits: as many events are under way as calls
/// in progress make.
#[derive(Clone, Debug)]
pub struct CallEvents {
    sender: mpsc::UnboundedSender<CallEvent>,
    waiting: Arc<AtomicU64>,
    is_wanted: Arc<AtomicBool>,
}

/// What comes out of [`CallEvents`].
#[derive(Debug)]
pub struct Coming {
    receiver: mpsc::UnboundedReceiver<CallEvent>,
    waiting: Arc<AtomicU64>,
    /// Whether anybody keeps records; until that is known, somebody might.
    is_wanted: Arc<AtomicBool>,
}

impl CallEvents {
    /// A channel of events.
    pub fn channel() -> (Self, Coming) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicU64::new(0));
        let is_wanted = Arc::new(AtomicBool::new(true));
        let events =
            Self { sender, waiting: Arc::clone(&waiting), is_wanted: Arc::clone(&is_wanted) };
        (events, Coming { receiver, waiting, is_wanted })
    }

    /// Tells of something that has happened to a call. Events of one call are told in order, by
    /// whichever worker; the last one once.
    pub fn send(&self, event: CallEvent) {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.send(event).is_err() {
            // The back ends have stopped.
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl CallLog for CallEvents {
    fn tell(&mut self, event: CallEvent) {
        self.send(event);
    }
}

/// Somebody who keeps records of calls.
pub(super) trait TakesRecords: fmt::Debug {
    /// The name of its lane, and of what waits there across restarts.
    fn lane(&self) -> &str;

    /// Whether it has anything to do with a record.
    fn wants(&self, record: &Message) -> bool;

    /// The operations whose records it may want.
    fn operations(&self) -> Operations {
        Operations::ALL
    }

    /// Whether what waits may go to disk.
    fn is_spooled(&self) -> bool {
        true
    }

    /// Whether what an earlier process left undone is void, since [`TakesRecords::begin`] begins
    /// anew.
    fn begins_anew(&self) -> bool {
        false
    }

    /// What it has to do once in the life of this process, after what was left and before what is
    /// new.
    fn begin(&self) -> Handles<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    /// Keeps a record. A failure that is an outage is tried again, with the same record; any other
    /// is about this record.
    fn take<'m>(&'m self, record: &'m mut Message) -> Handles<'m, Result<(), Failure>>;
}

/// Who keeps records of calls, for as long as the process lives.
pub(super) struct Records {
    recorder: RefCell<Recorder>,
    lanes: RefCell<Vec<(Rc<Lane>, JoinHandle<()>)>>,
    folder: Option<SpoolFolder>,
    clock: Arc<SystemClock>,
    status: Arc<Status>,
    waiting: Arc<AtomicU64>,
    is_wanted: Arc<AtomicBool>,
    /// Who is told as it happens, and no later.
    guests: Guests,
    /// Whether any of those wants to hear of calls.
    has_listeners: Cell<bool>,
    /// Whether anybody ever wanted to.
    was_wanted: Cell<bool>,
    /// The records that handlers may want.
    operations: Cell<Operations>,
}

impl Records {
    /// Begins to take what comes; on the thread's local set.
    pub(super) fn start(
        coming: Coming,
        folder: Option<SpoolFolder>,
        clock: Arc<SystemClock>,
        status: Arc<Status>,
        guests: Guests,
    ) -> Rc<Self> {
        let now = clock.now();
        let records = Rc::new(Self {
            recorder: RefCell::new(Recorder::new(now.unix)),
            lanes: RefCell::default(),
            folder,
            clock,
            status,
            waiting: coming.waiting,
            is_wanted: coming.is_wanted,
            guests,
            has_listeners: Cell::new(false),
            was_wanted: Cell::new(false),
            operations: Cell::default(),
        });
        let own = Rc::clone(&records);
        let mut receiver = coming.receiver;
        tokio::task::spawn_local(async move {
            let mut events = Vec::with_capacity(AT_ONCE);
            while receiver.recv_many(&mut events, AT_ONCE).await > 0 {
                for event in events.drain(..) {
                    let made = own.recorder.borrow_mut().take(event);
                    own.give(made);
                    own.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                if receiver.is_empty() {
                    tokio::time::sleep(GATHER).await;
                }
            }
        });
        records
    }

    /// Has these handlers keep records from now on, and no others. One with the lane of an earlier
    /// one goes on where that one stands.
    pub(super) fn set_handlers(&self, handlers: &[Rc<dyn TakesRecords>]) {
        let mut lanes = self.lanes.borrow_mut();
        for (lane, _) in lanes.iter() {
            let handler = handlers.iter().find(|handler| handler.lane() == lane.name());
            lane.set_handler(handler.map(Rc::clone));
        }
        for handler in handlers {
            if lanes.iter().any(|(lane, _)| lane.name() == handler.lane()) {
                continue;
            }
            let folder = self.folder.clone().filter(|_| handler.is_spooled());
            let lane = Rc::new(Lane::open(handler.lane(), folder, Arc::clone(&self.status)));
            lane.set_handler(Some(Rc::clone(handler)));
            let running = Rc::clone(&lane);
            let task = tokio::task::spawn_local(async move { running.run().await });
            lanes.push((lane, task));
        }
        drop(lanes);
        let wanted = handlers.iter().map(|handler| handler.operations());
        self.operations.set(wanted.fold(Operations::default(), Operations::union));
        self.want();
    }

    /// Whether anybody wants to hear of calls as they go.
    pub(super) fn set_listeners(&self, has_any: bool) {
        self.has_listeners.set(has_any);
        self.want();
    }

    fn want(&self) {
        // Most sites keep none, and making them would cost a call a third more. Who has begun goes
        // on: of calls whose end is missed, nobody would know that they have ended.
        let is_wanted = self.has_listeners.get() || !self.lanes.borrow().is_empty();
        let is_wanted = self.was_wanted.replace(is_wanted || self.was_wanted.get()) || is_wanted;
        self.is_wanted.store(is_wanted, Ordering::Relaxed);
        // Modules are told all.
        let has_listeners = self.has_listeners.get();
        let operations = if has_listeners { Operations::ALL } else { self.operations.get() };
        self.recorder.borrow_mut().want(operations);
    }

    fn give(&self, records: Vec<Message>) {
        let lanes = self.lanes.borrow();
        for record in records {
            for (lane, _) in lanes.iter() {
                lane.put(&record);
            }
            if self.has_listeners.get() {
                let [before, after] = told::of(&record);
                for message in before.iter().chain([&record]).chain(&after) {
                    let (status, name) = (Arc::clone(&self.status), message.name);
                    self.guests.notify(message, move || status.failed(name));
                }
            }
        }
    }

    /// At the end: has everything taken that happened, ends all records, and waits until they are
    /// kept, but for those whose keepers take longer than `patience`. Those wait on disk.
    pub(super) async fn finish(&self, patience: Duration) {
        const LOOK: Duration = Duration::from_millis(2);
        let all_kept = async {
            while self.waiting.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK).await;
            }
            let made = self.recorder.borrow_mut().finish(self.clock.now());
            self.give(made);
            while !self.lanes.borrow().iter().all(|(lane, _)| lane.is_idle()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(patience, all_kept).await;
        for (lane, task) in self.lanes.take() {
            task.abort();
            lane.close();
        }
    }
}
