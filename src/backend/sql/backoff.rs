//! How soon a server that couldn't be reached is tried again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::DatabaseError;

/// The pause after the first failure; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause: a server that comes back is noticed that soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A server that can't be reached.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Since when.
    pub since: Instant,
    /// What the last attempt came to.
    pub error: DatabaseError,
}

/// Failures to connect, shared by all connections of an account.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failing: Mutex<Option<Failing>>,
}

#[derive(Debug)]
struct Failing {
    outage: Outage,
    pause: Duration,
    next: Instant,
}

impl Backoff {
    /// Whether to try at all.
    ///
    /// # Errors
    /// The server failed just now: its last error.
    pub(super) fn ready(&self) -> Result<(), DatabaseError> {
        match &*self.failing.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failing) if Instant::now() < failing.next => Err(failing.outage.error.clone()),
            _ => Ok(()),
        }
    }

    /// Notes that a connection couldn't be made.
    pub(super) fn failed(&self, error: DatabaseError) {
        let now = Instant::now();
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, pause) = match &*failing {
            Some(failing) => (failing.outage.since, (failing.pause * 2).min(LONGEST_PAUSE)),
            None => (now, FIRST_PAUSE),
        };
        *failing = Some(Failing { outage: Outage { since, error }, pause, next: now + pause });
    }

    /// Notes that a connection was made.
    pub(super) fn succeeded(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The outage, if the last attempt failed.
    pub(super) fn outage(&self) -> Option<Outage> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.as_ref().map(|failing| failing.outage.clone())
    }
}
