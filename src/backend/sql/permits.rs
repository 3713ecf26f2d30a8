//! How many queries are under way on an account's connections, and how many wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::error::DatabaseError;

/// How many queries may wait for a connection. A database that is this far behind won't catch up
/// within any timeout; memory stays bounded.
const MAX_WAITING: usize = 10_000;

/// Leave to run a query.
#[derive(Debug)]
pub(super) struct Permits {
    free: Semaphore,
    waiting: AtomicUsize,
}

impl Permits {
    /// So many queries at a time.
    pub(super) fn new(count: usize) -> Self {
        let free = Semaphore::new(count.min(Semaphore::MAX_PERMITS));
        Self { free, waiting: AtomicUsize::new(0) }
    }

    /// Waits for leave.
    ///
    /// # Errors
    /// [`DatabaseError::PoolExhausted`]: too many wait, or it is too late.
    pub(super) async fn acquire(
        &self,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, DatabaseError> {
        if let Ok(permit) = self.free.try_acquire() {
            return Ok(permit);
        }
        let _place = Place::take(&self.waiting).ok_or(DatabaseError::PoolExhausted)?;
        match timeout_at(deadline, self.free.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(DatabaseError::PoolExhausted),
        }
    }
}

/// A place among those who wait, given back however the waiting ends.
struct Place<'p>(&'p AtomicUsize);

impl<'p> Place<'p> {
    fn take(waiting: &'p AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
