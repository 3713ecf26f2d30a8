//! Registrations that come before what was saved has been read.
//!
//! Whatever is in the map by then may still change with the next piece that is read, so nothing can
//! be decided on it. A REGISTER that adds or refreshes is decided on a second, empty location
//! service, the early one, and is journaled as what it is: to be merged with what is on disk. When
//! everything is read, early records move into the map, one by one, each before the next request
//! for its AoR: nobody waits for all of them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    entry::Entry,
    feed::Cause,
    recorder::Recorder,
    store::{AorKey, Location},
};
use crate::time::Now;

/// The early location service.
#[derive(Debug)]
pub struct Early {
    location: Location,
    /// The Unix second of the start: a nonce issued by then may have been used before.
    since: u32,
    /// Set once what was saved is all there.
    is_merging: AtomicBool,
}

impl Early {
    /// One for `location`, which nothing was read into yet.
    pub(super) fn new(location: Location, now: Now) -> Self {
        let since = u32::try_from(now.unix).unwrap_or(u32::MAX);
        Self { location, since, is_merging: AtomicBool::new(false) }
    }

    /// [`Location::update_at`] while this is needed.
    pub(super) fn update_at<R>(
        &self,
        main: &Location,
        key: AorKey,
        aor: &[u8],
        (now, cause): (Now, Cause),
        journal: &mut dyn Recorder,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        self.location.update_here(key, aor, (now, cause), journal, |entry| {
            // Asked under the early record's lock: who moves all records has been here, or sees
            // what is about to be changed.
            if self.is_merging.load(Ordering::Acquire) {
                entry.move_to(main, key);
                return main.update_here(key, aor, (now, cause), entry.journal(), change);
            }
            entry.is_early_since(self.since);
            change(entry)
        })
    }

    /// Moves every early record into `main`, where all that was saved is by now.
    pub(super) fn merge(&self, main: &Location, now: Now, journal: &mut dyn Recorder) -> u64 {
        self.is_merging.store(true, Ordering::Release);
        let mut moved = 0;
        for part in 0..Location::PARTS {
            let mut aors: Vec<Box<[u8]>> = Vec::new();
            self.location.scan(part, None, |_, record| {
                aors.push(record.aor().into());
                true
            });
            for aor in aors {
                let key = main.key(&aor);
                self.update_at(main, key, &aor, (now, Cause::Registered), journal, |_| ());
                moved += 1;
                journal.flush();
            }
        }
        moved
    }
}
