//! Datagrams that another worker is to handle: all that belongs to one Call-ID is one worker's.

use std::sync::{Arc, OnceLock};

use crossbeam::channel::{Receiver, Sender, TrySendError};
use mio::Waker;

use crate::flow::Flow;

/// Datagrams that wait for a worker to take them: more than come in a few milliseconds.
const WAITING: usize = 8192;

/// A datagram on its way from the worker whose socket it came to.
#[derive(Debug)]
pub struct Hop {
    pub(super) datagram: Box<[u8]>,
    pub(super) flow: Flow,
}

/// The ways to all workers.
#[derive(Clone, Debug)]
pub struct Hops {
    lanes: Arc<[Lane]>,
}

#[derive(Debug)]
struct Lane {
    sender: Sender<Hop>,
    waker: OnceLock<Arc<Waker>>,
}

impl Hops {
    /// A way to each worker, and what each takes its own from.
    pub fn new(workers: usize) -> (Self, Vec<Receiver<Hop>>) {
        let lanes = (0..workers).map(|_| crossbeam::channel::bounded(WAITING));
        let (senders, receivers): (Vec<_>, Vec<_>) = lanes.unzip();
        let lane = |sender| Lane { sender, waker: OnceLock::new() };
        (Self { lanes: senders.into_iter().map(lane).collect() }, receivers)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.lanes.len()
    }

    /// Has `waker` woken for what goes to `worker`.
    pub fn wake_by(&self, worker: usize, waker: Arc<Waker>) {
        if let Some(lane) = self.lanes.get(worker) {
            let _ = lane.waker.set(waker);
        }
    }

    /// Hands a datagram on; `false` if that worker is too far behind.
    pub(super) fn send(&self, worker: usize, datagram: &[u8], flow: Flow) -> bool {
        let Some(Lane { sender, waker }) = self.lanes.get(worker) else { return false };
        match sender.try_send(Hop { datagram: datagram.into(), flow }) {
            Ok(()) => {
                // Before one that still waits nobody can have gone to sleep: it is yet to be taken,
                // and this one with it.
                if sender.len() <= 1
                    && let Some(waker) = waker.get()
                    && let Err(error) = waker.wake()
                {
                    tracing::error!(%error, "can't wake a worker");
                }
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}
