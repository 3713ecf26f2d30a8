//! Requests that wait for what a worker can't know: a password in a database, a script's verdict.
//!
//! A worker never waits with them. It copies the datagram into room that was there before, hands
//! that to the back ends, and goes on; what comes back is handled from the start again, with what
//! was learned beside it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam::channel::{Receiver, Sender};
use mio::Waker;
use tokio::sync::Notify;

use super::pipeline::Arrived;
use crate::{flow::Flow, subscribers::Known, time::DeltaSeconds};

/// What a back end is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who the user is that the credentials name: `user.auth`.
    Auth,
    /// The same, though the request was answered already, by what was known before.
    Renew,
    /// Whether the contacts may be bound: `user.register`.
    Register,
}

/// What the back ends said of one request.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// To [`Question::Auth`].
    pub account: Option<Learnt<Arc<Known>>>,
    /// To [`Question::Register`].
    pub registered: Option<Learnt<Registered>>,
}

/// An answer of the back ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learnt<T> {
    /// This.
    Is(T),
    /// None of those that could know was able to say.
    Unavailable,
}

/// What `user.register` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// A handler took it, and grants so much where it says how much.
    Taken {
        /// Whatever was asked for.
        granted: Option<DeltaSeconds>,
    },
    /// No handler knows the user.
    Unhandled,
    /// A handler turned it down, with a code from 300 to 699.
    Refused(u16),
}

/// A request that waits, and the room for the next one.
#[derive(Debug)]
pub struct Parked {
    /// The worker that parked it.
    pub worker: usize,
    /// Its octets.
    pub datagram: Vec<u8>,
    /// Its path.
    pub flow: Flow,
    /// What is asked.
    pub question: Question,
    /// What has been learned of it.
    pub learned: Learned,
    /// What tells it from others, but not from its retransmissions.
    hash: u64,
}

impl Parked {
    /// It, as if it had just come, and what has been learned of it.
    pub(super) fn again(&self) -> (Arrived<'_>, Option<&Learned>) {
        let arrived = Arrived { bytes: &self.datagram, flow: self.flow, truncated: false };
        (arrived, Some(&self.learned))
    }
}

/// Where the back ends leave what they are done with.
#[derive(Clone, Debug)]
pub struct Returns {
    lanes: Arc<[Lane]>,
}

/// Where one worker's requests come back.
#[derive(Debug)]
struct Lane {
    sender: Sender<Parked>,
    waker: OnceLock<Arc<Waker>>,
}

impl Returns {
    /// One lane for each worker, and what each worker takes its own from.
    pub fn new(workers: usize) -> (Self, Vec<Receiver<Parked>>) {
        let lanes = (0..workers).map(|_| crossbeam::channel::unbounded());
        let (senders, receivers): (Vec<_>, Vec<_>) = lanes.unzip();
        let lane = |sender| Lane { sender, waker: OnceLock::new() };
        let lanes = senders.into_iter().map(lane).collect();
        (Self { lanes }, receivers)
    }

    /// Has `waker` woken for what comes back to `worker`.
    pub fn wake_by(&self, worker: usize, waker: Arc<Waker>) {
        if let Some(lane) = self.lanes.get(worker) {
            let _ = lane.waker.set(waker);
        }
    }

    /// Gives a request back to its worker. No more can be under way than workers have parked, so
    /// the lane needs no bound of its own.
    pub fn give_back(&self, parked: Parked) {
        let Some(Lane { sender, waker }) = self.lanes.get(parked.worker) else { return };
        // At a stop nobody listens any more. A waker that fails has its worker look a second later,
        // when the next one wakes it.
        if sender.send(parked).is_ok()
            && let Some(waker) = waker.get()
            && let Err(error) = waker.wake()
        {
            tracing::error!(%error, "can't wake a worker");
        }
    }
}

/// Where workers put their questions.
#[derive(Clone, Debug)]
pub struct Questions {
    sender: Sender<Parked>,
    bell: Arc<Notify>,
    /// How many requests wait, of all workers.
    waiting: Arc<AtomicU64>,
}

impl Questions {
    /// A bounded channel of questions, and the bell that is rung for each.
    pub fn channel(capacity: usize) -> (Self, Receiver<Parked>, Arc<Notify>) {
        let (sender, receiver) = crossbeam::channel::bounded(capacity);
        let bell = Arc::new(Notify::new());
        let waiting = Arc::default();
        (Self { sender, bell: Arc::clone(&bell), waiting }, receiver, bell)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn put(&self, parked: Parked) -> Result<(), Parked> {
        self.sender.try_send(parked).map_err(crossbeam::channel::TrySendError::into_inner)?;
        self.bell.notify_one();
        Ok(())
    }
}

/// One worker's requests that wait.
#[derive(Debug)]
pub struct Parking {
    worker: usize,
    questions: Questions,
    free: Vec<Parked>,
    /// How many more there may be.
    left: usize,
    waiting: HashMap<u64, SocketAddr>,
}

/// As many wait as may, or nobody answers any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Parking {
    /// Room for `capacity` requests of `worker`, which are put to `questions`.
    pub fn new(worker: usize, capacity: usize, questions: Questions) -> Self {
        let waiting = HashMap::with_capacity(capacity);
        Self { worker, questions, free: Vec::new(), left: capacity, waiting }
    }

    /// Whether this request, or one that it repeats, waits.
    pub(super) fn has(&self, hash: u64, source: SocketAddr) -> bool {
        !self.waiting.is_empty() && self.waiting.get(&hash) == Some(&source)
    }

    /// Has a request wait for an answer; what was learned of it before goes along.
    pub(super) fn park(
        &mut self,
        (datagram, flow): (&[u8], Flow),
        hash: u64,
        question: Question,
        learned: Option<&Learned>,
    ) -> Result<(), NoRoom> {
        let mut parked = match self.free.pop() {
            Some(parked) => parked,
            None => {
                self.left = self.left.checked_sub(1).ok_or(NoRoom)?;
                Parked {
                    worker: self.worker,
                    datagram: Vec::new(),
                    flow,
                    question,
                    learned: Learned::default(),
                    hash,
                }
            }
        };
        parked.datagram.clear();
        parked.datagram.extend_from_slice(datagram);
        (parked.flow, parked.question, parked.hash) = (flow, question, hash);
        parked.learned = learned.cloned().unwrap_or_default();
        match self.questions.put(parked) {
            Ok(()) => {
                if question != Question::Renew {
                    self.waiting.insert(hash, flow.remote);
                    self.questions.waiting.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(parked) => {
                self.free.push(parked);
                Err(NoRoom)
            }
        }
    }

    /// Takes note that a request has come back: it may be parked again.
    pub(super) fn came_back(&mut self, parked: &Parked) {
        if parked.question != Question::Renew {
            self.waiting.remove(&parked.hash);
            self.questions.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes the room of a request that is dealt with.
    pub(super) fn reuse(&mut self, parked: Parked) {
        self.free.push(parked);
    }
}
