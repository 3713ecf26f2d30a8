//! What the world learns of changes: bounded, in order for each AoR, numbered.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crossbeam::channel::{Receiver, Sender, TrySendError};

use super::difference::Difference;
use crate::time::Now;

/// A change of an AoR's bindings. What changes numbers only, as a refresh does and the use of a nonce,
/// is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Higher than that of any earlier change of the same AoR, across restarts too.
    pub sequence: u64,
    /// When it was made; a binding that ends soon may have ended by the time that it is read.
    pub now: Now,
    /// What it was.
    pub cause: Cause,
    /// What it did to the bindings.
    pub difference: Difference,
    /// The AoR.
    pub aor: Box<[u8]>,
    /// The record after the change, packed (`registrar::AorRecord`); empty if it is gone.
    pub record: Box<[u8]>,
}

/// Why a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Bindings ended by themselves.
    Expired,
    /// A REGISTER.
    Registered,
    /// An operator, or the end of the account.
    Removed,
    /// A snapshot was read.
    Restored,
}

/// The changes since `Location::subscribe`, in order for each AoR.
#[derive(Debug)]
pub struct Subscription {
    changes: Receiver<Change>,
    missed: Arc<AtomicU64>,
}

impl Subscription {
    /// The changes.
    pub fn changes(&self) -> &Receiver<Change> {
        &self.changes
    }

    /// How many changes did not fit since this was last asked. After any, the subscriber has to
    /// read the location service anew.
    pub fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

/// Hands changes to those who asked for them; costs one relaxed load while nobody has.
#[derive(Debug, Default)]
pub(super) struct Feed {
    active: AtomicBool,
    subscribers: Mutex<Vec<(Sender<Change>, Arc<AtomicU64>)>>,
}

impl Feed {
    /// Whether anybody listens.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Adds a subscriber that may lag `capacity` changes behind.
    pub(super) fn subscribe(&self, capacity: usize) -> Subscription {
        let (sender, changes) = crossbeam::channel::bounded(capacity);
        let missed = Arc::new(AtomicU64::new(0));
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.push((sender, Arc::clone(&missed)));
        self.active.store(true, Ordering::Relaxed);
        Subscription { changes, missed }
    }

    /// Hands `change` to all subscribers, under the lock of its record, which is what keeps the
    /// order. A subscriber that lags too far behind misses it and can tell.
    pub(super) fn publish(&self, change: &Change) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|(sender, missed)| match sender.try_send(change.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                missed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
        self.active.store(!subscribers.is_empty(), Ordering::Relaxed);
    }
}
