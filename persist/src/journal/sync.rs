//! Makes a segment durable from another thread than the one that writes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::SegmentId;
use crate::error::{JournalError, StorageError};
use crate::storage::Syncer;

/// Syncs one segment. Clones are the same segment's, and outlive its writer.
#[derive(Clone)]
pub struct SyncHandle(Arc<Shared>);

struct Shared {
    id: SegmentId,
    /// Octets that were written, and how many of them are durable.
    written: AtomicU64,
    synced: AtomicU64,
    failed: AtomicBool,
    /// One sync at a time: two at once would be told of an error only once, and the other would
    /// take its octets for durable.
    syncer: Mutex<Box<dyn Syncer>>,
}

impl SyncHandle {
    /// For a segment of which `durable` octets are written and on the medium.
    pub(super) fn new(id: SegmentId, durable: u64, syncer: Box<dyn Syncer>) -> Self {
        Self(Arc::new(Shared {
            id,
            written: AtomicU64::new(durable),
            synced: AtomicU64::new(durable),
            failed: AtomicBool::new(false),
            syncer: Mutex::new(syncer),
        }))
    }

    /// Makes durable what was written before the call; returns the length that is durable, which
    /// is that or more.
    ///
    /// What is durable already costs no system call. While one thread syncs, others wait.
    ///
    /// # Errors
    /// The first error is for good: [`JournalError::Poisoned`] from then on, here and for the
    /// writer. Only what was synced before counts; how much of the rest is on the medium, nobody
    /// can tell.
    pub fn sync(&self) -> Result<u64, JournalError> {
        let shared = &*self.0;
        let written = shared.written.load(Ordering::Acquire);
        let syncer = shared.syncer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_failed() {
            return Err(JournalError::Poisoned);
        }
        if self.synced() < written {
            syncer.sync_data().map_err(|error| {
                shared.failed.store(true, Ordering::Release);
                StorageError::of("sync", &shared.id.to_string())(error)
            })?;
            shared.synced.fetch_max(written, Ordering::AcqRel);
        }
        Ok(self.synced())
    }

    /// Which segment.
    pub fn id(&self) -> SegmentId {
        self.0.id
    }

    /// The segment's length, as far as the kernel has it.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Acquire)
    }

    /// The segment's length, as far as it is durable.
    pub fn synced(&self) -> u64 {
        self.0.synced.load(Ordering::Acquire)
    }

    /// Whether a sync has failed.
    pub fn is_failed(&self) -> bool {
        self.0.failed.load(Ordering::Acquire)
    }

    /// Tells that the kernel has the segment up to this length.
    pub(super) fn note_written(&self, length: u64) {
        self.0.written.store(length, Ordering::Release);
    }
}
