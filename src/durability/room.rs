//! Room on the disk for the next snapshot: when one is due because the journal has grown long, what
//! may go when the disk is full, and how soon to try again.

use std::io::ErrorKind;

use persist::{error::WriteError, journal, snapshot::Generations, storage::Storage};

use super::snapshotter::Untaken;

/// Octets of the journal since the last snapshot after which the next one is due, however short
/// the journal is beside a snapshot.
const JOURNAL_LEAST: u64 = 64 << 20;

/// The journal since the last snapshot may be so many times as long as that snapshot.
const JOURNAL_FACTOR: u64 = 2;

/// How soon a snapshot is tried again that has to make up for a journal that failed; twice as long
/// after each that fails, up to the longest.
const RETRY: u64 = 2000;
const RETRY_LONGEST: u64 = 32_000;

/// Whether so many octets of the journal since a snapshot of this size are too many.
pub(super) fn is_long(journal: u64, snapshot: u64) -> bool {
    journal > snapshot.saturating_mul(JOURNAL_FACTOR).max(JOURNAL_LEAST)
}

/// When a snapshot may be tried again, in milliseconds of the process.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: u64,
    failures: u32,
}

impl Retry {
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.at
    }

    /// Notes how an attempt went that has just ended.
    pub(super) fn note(&mut self, is_taken: bool, now: u64) {
        if is_taken {
            *self = Self::default();
            return;
        }
        let wait = RETRY.checked_shl(self.failures).unwrap_or(RETRY_LONGEST).min(RETRY_LONGEST);
        self.at = now + wait;
        self.failures = self.failures.saturating_add(1).min(u64::BITS / 2);
    }
}

/// Whether it failed because there is no room.
pub(super) fn is_full<T>(result: &Result<T, Untaken>) -> bool {
    let Err(Untaken::Failed(WriteError::Storage(error))) = result else { return false };
    matches!(error.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Removes what is there for older snapshots only: those that are too many anyhow, and the segments
/// of the journal that the newest does not need. What was acknowledged stays, but an older snapshot
/// can no longer stand in for the newest with all that came after it.
///
/// The result is whether anything went.
pub(super) fn make_room(generations: &Generations, journals: &dyn Storage) -> bool {
    let snapshots = generations.drop_surplus();
    let needed = generations.journal_needed_by_newest().unwrap_or(0);
    let segments = journal::prune(journals, needed).map_or(0, |pruned| pruned.removed);
    if snapshots == 0 && segments == 0 {
        return false;
    }
    tracing::warn!(
        segments,
        snapshots,
        "the disk is full: removed what only older snapshots need, to make room for a new one"
    );
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use persist::{journal::Writer, snapshot::General, storage::memory::MemoryStorage};

    use super::*;

    #[test]
    fn attempts_come_ever_more_seldom() {
        let (mut retry, mut now, mut waits) = (Retry::default(), 5, Vec::new());
        for _ in 0..40 {
            assert!(retry.is_due(now));
            retry.note(false, now);
            assert!(!retry.is_due(now));
            waits.push(retry.at - now);
            now = retry.at;
        }
        assert_eq!(waits[..6], [2000, 4000, 8000, 16_000, 32_000, 32_000]);
        assert_eq!(waits[39], 32_000);
        retry.note(true, now);
        retry.note(false, now);
        assert_eq!(retry.at - now, 2000);
    }

    #[test]
    fn a_long_journal_is_measured_by_the_snapshot() {
        assert!(!is_long(JOURNAL_LEAST, 0));
        assert!(is_long(JOURNAL_LEAST + 1, 0));
        assert!(!is_long(2 << 30, 1 << 30));
        assert!(is_long((2 << 30) + 1, 1 << 30));
    }

    #[test]
    fn what_only_older_snapshots_need_makes_room() {
        let storage = MemoryStorage::new();
        let mut generations = Generations::new(Arc::new(storage.clone()), "s", 2);
        for journal in [1, 3] {
            let general = General { journal: Some(journal), ..General::default() };
            let mut writer = generations.begin(general).unwrap();
            writer.section(b"alice", 1, [("k", "v")]).unwrap();
            writer.finish().unwrap();
        }
        for generation in 1..5 {
            Writer::create_all(&storage, generation, 1, 0).unwrap();
        }
        assert_eq!(generations.journal_needed().unwrap(), 0);
        assert!(make_room(&generations, &storage));
        let left = journal::segments(&storage).unwrap();
        assert_eq!(left.iter().map(|id| id.generation()).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(generations.names().unwrap(), ["s", "s.1"]);
        assert!(!make_room(&generations, &storage), "nothing is left to remove");
        assert!(make_room(&Generations::new(Arc::new(storage.clone()), "s", 0), &storage));
        assert_eq!(generations.names().unwrap(), ["s"]);
    }
}
