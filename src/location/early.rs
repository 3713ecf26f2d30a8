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
        // Who has not seen it yet has a lock, and is in the list by the time it is free.
        self.location.pass_every_lock();
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

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicU64},
        thread,
    };

    use super::*;
    use crate::{
        location::Unrecorded,
        registrar::{AorRecord, Binding, RecordWriter, binding_for_tests},
        time::{Deadline, DeltaSeconds},
    };

    const NOW: Now = Now { millis: 1000, unix: 1_800_000_000 };

    fn record(aor: &[u8], uris: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, aor, b"").unwrap();
        for uri in uris {
            let deadline = Deadline::after(NOW, DeltaSeconds(60));
            let binding = binding_for_tests(uri.as_bytes());
            writer.push(&Binding { deadline, ..binding }).unwrap();
        }
        writer.finish();
        bytes
    }

    fn location() -> Location {
        let location = Location::new([7; 16], 0);
        location.begin_loading(NOW);
        location
    }

    fn register(location: &Location, aor: &[u8], uris: &[&str]) -> bool {
        let bytes = record(aor, uris);
        let when = (NOW, Cause::Registered);
        location.update(aor, when, &mut Unrecorded, |entry| {
            entry.commit(&bytes).unwrap();
            entry.early().is_some()
        })
    }

    fn restore(location: &Location, aor: &[u8], uris: &[&str], sequence: u64) {
        let bytes = record(aor, uris);
        location.restore(aor, NOW, |entry| entry.restore(&bytes, sequence)).unwrap();
    }

    fn uris(location: &Location, aor: &[u8]) -> Vec<String> {
        let text = |uri: &[u8]| String::from_utf8_lossy(uri).into_owned();
        let all = |record: AorRecord<'_>| record.bindings(NOW).map(|b| text(b.uri)).collect();
        location.read(aor, |record| record.map(all).unwrap_or_default())
    }

    #[test]
    fn early_bindings_join_those_that_were_saved() {
        let location = location();
        assert!(register(&location, b"alice", &["sip:new@192.0.2.1", "sip:same@192.0.2.1"]));
        restore(&location, b"alice", &["sip:same@192.0.2.1", "sip:old@192.0.2.1"], 5);
        assert!(register(&location, b"bob", &["sip:b@192.0.2.1"]));
        restore(&location, b"carol", &["sip:c@192.0.2.1"], 6);
        assert_eq!(uris(&location, b"bob"), [""; 0], "not before everything is restored");
        assert_eq!(location.end_loading(NOW, &mut Unrecorded), 2);
        let all = ["sip:new@192.0.2.1", "sip:same@192.0.2.1", "sip:old@192.0.2.1"];
        assert_eq!(uris(&location, b"alice"), all);
        assert_eq!(uris(&location, b"bob"), ["sip:b@192.0.2.1"]);
        assert_eq!(uris(&location, b"carol"), ["sip:c@192.0.2.1"]);
        assert_eq!((location.aors(), location.bindings()), (3, 5));
        let sequence = location.read(b"alice", |r| r.map(|r| r.sequence()));
        assert!(sequence > Some(5), "{sequence:?}");
        assert!(!register(&location, b"bob", &["sip:later@192.0.2.1"]));
    }

    /// Both were acknowledged, the one before the start and the other during it.
    #[test]
    fn a_bound_on_all_bindings_turns_nothing_away_that_was_acknowledged() {
        let location = Location::new([7; 16], 2);
        location.begin_loading(NOW);
        assert!(register(&location, b"alice", &["sip:new@192.0.2.1"]));
        assert!(register(&location, b"bob", &["sip:b@192.0.2.1"]));
        restore(&location, b"alice", &["sip:old@192.0.2.1"], 5);
        restore(&location, b"carol", &["sip:c@192.0.2.1"], 6);
        location.end_loading(NOW, &mut Unrecorded);
        assert_eq!(uris(&location, b"alice"), ["sip:new@192.0.2.1", "sip:old@192.0.2.1"]);
        assert_eq!(uris(&location, b"bob"), ["sip:b@192.0.2.1"]);
        assert_eq!(location.bindings(), 4);
    }

    #[test]
    fn the_oldest_give_way_where_an_aor_has_too_many() {
        let location = location();
        location.set_max_contacts(2);
        assert!(register(&location, b"alice", &["sip:new@192.0.2.1"]));
        restore(&location, b"alice", &["sip:old@192.0.2.1", "sip:older@192.0.2.1"], 5);
        restore(&location, b"bob", &["sip:1@192.0.2.1", "sip:2@192.0.2.1", "sip:3@192.0.2.1"], 6);
        location.end_loading(NOW, &mut Unrecorded);
        assert_eq!(uris(&location, b"alice"), ["sip:new@192.0.2.1", "sip:old@192.0.2.1"]);
        assert_eq!(uris(&location, b"bob").len(), 3, "a lowered bound takes nothing away");
    }

    /// Threads register while loading ends: whenever a change was made, it is there afterwards.
    #[test]
    fn no_change_is_lost_at_the_end_of_loading() {
        const THREADS: usize = 4;
        const AORS: usize = 200;
        for _ in 0..20 {
            let location = Arc::new(location());
            let done = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (location, done) = (Arc::clone(&location), Arc::clone(&done));
                    thread::spawn(move || {
                        for n in 0..AORS {
                            register(&location, format!("{thread}-{n}").as_bytes(), &["sip:x@h"]);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            while done.load(Ordering::Relaxed) < (AORS / 2) as u64 {
                thread::yield_now();
            }
            location.end_loading(NOW, &mut Unrecorded);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(location.aors(), (THREADS * AORS) as u64);
        }
    }
}
