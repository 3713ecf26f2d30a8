//! Notifications that are refused, postponed and left by a crash.

use std::{mem, path::PathBuf, sync::Arc};

use persist::storage::{
    Storage,
    faulty::{Fault, FaultyStorage},
    memory::{MemoryStorage, Survival},
};

use super::*;
use crate::{backend::spool::SpoolFolder, config::hooks::Event};

impl Waiting {
    /// Has all pauses be over.
    pub(in crate::backend::hook) fn end_pauses(&mut self) {
        for window in [&mut self.regular, &mut self.postponed] {
            let all = mem::take(&mut window.pauses);
            window.ready.extend(all.into_iter().map(|(_, number)| number));
        }
    }

    /// What is settled is noted, as it is each second.
    fn tick(&mut self) {
        self.settle().unwrap();
        self.sync(u64::MAX).unwrap();
    }

    /// Lets a receiver take what may be sent until that is nothing, or it has so many; it refuses
    /// what `refuses` says. Each is seen as often as it is tried.
    fn deliver(&mut self, most: usize, refuses: impl Fn(&str) -> bool) -> Vec<String> {
        let mut taken = Vec::new();
        for _ in 0..3 * TRIES {
            self.end_pauses();
            loop {
                assert!(self.fill().error.is_none());
                if taken.len() >= most {
                    return taken;
                }
                let Some((place, note)) = self.next(1) else { break };
                if refuses(&note.id) {
                    self.try_again(place).unwrap();
                } else {
                    self.done(place);
                    taken.push(note.id.to_string());
                }
                self.settle().unwrap();
            }
        }
        taken
    }

    fn add(&mut self, ids: &str) {
        for id in ids.split(' ') {
            assert!(matches!(self.put(&note(id), u64::MAX), Put::Kept));
        }
    }
}

/// A notification called `a1` is of the AoR `a`.
fn note(id: &str) -> Note {
    let key = id.trim_end_matches(|c: char| c.is_ascii_digit()).as_bytes().into();
    Note { event: Event::Registered, key, id: id.into(), unix: 7, body: id.to_owned().into() }
}

fn open(storage: &(impl Storage + Clone + 'static)) -> Waiting {
    let queue = |name: &str| {
        let path = PathBuf::new();
        let folder = SpoolFolder { storage: Arc::new(storage.clone()), path };
        let (queue, opened) = Queue::open(Some(folder), name);
        opened.unwrap();
        queue
    };
    let (waiting, read) = Waiting::new(queue("hook-crm"), queue("postponed-crm"));
    read.unwrap();
    waiting
}

/// Those of one AoR.
fn of<'t>(taken: &'t [String], aor: &str) -> Vec<&'t str> {
    let all = taken.iter().map(String::as_str);
    all.filter(|id| id.trim_end_matches(|c: char| c.is_ascii_digit()) == aor).collect()
}

/// Others, so many, that the receiver takes.
fn others(waiting: &mut Waiting, count: usize) {
    (0..count).for_each(|number| waiting.add(&format!("x{number}y")));
}

#[test]
fn what_is_refused_for_ever_holds_up_nobody_else() {
    for storage in [Some(MemoryStorage::new()), None] {
        let mut waiting = match &storage {
            Some(storage) => open(storage),
            None => Waiting::new(Queue::default(), Queue::default()).0,
        };
        waiting.add("a1 a2 b1");
        others(&mut waiting, 3 * WINDOW);
        waiting.add("a3 b2");
        let taken = waiting.deliver(usize::MAX, |id| id == "a1");
        assert_eq!(taken.len(), 3 * WINDOW + 2);
        assert_eq!(of(&taken, "b"), ["b1", "b2"]);
        waiting.tick();
        assert_eq!((waiting.len(), waiting.regular.queue.len()), (3, 0));
        // Once it is taken, all of its AoR is in order, and the AoR is as any other.
        waiting.add("a4");
        assert_eq!(waiting.deliver(usize::MAX, |_| false), ["a1", "a2", "a3", "a4"]);
        waiting.tick();
        assert_eq!(waiting.len(), 0);
        waiting.add("a5");
        waiting.fill();
        assert_eq!(waiting.next(1).unwrap().0.0, Row::Regular);
    }
}

#[test]
fn what_is_refused_in_an_outage_stays_where_it_is() {
    let mut waiting = open(&MemoryStorage::new());
    waiting.add("a1 b1 c1");
    assert!(waiting.deliver(usize::MAX, |_| true).is_empty());
    assert_eq!(waiting.postponed.items.len(), 0);
    assert_eq!(waiting.deliver(usize::MAX, |_| false), ["a1", "b1", "c1"]);
}

#[test]
fn at_whatever_moment_it_ends_all_is_told_and_in_order() {
    for taken_before in 0..60 {
        for is_synced in [true, false] {
            let storage = MemoryStorage::new();
            let mut waiting = open(&storage);
            waiting.add("j1 a1 a2");
            others(&mut waiting, 20);
            waiting.add("a3 b1");
            let refuses = |id: &str| ["j1", "a1"].contains(&id);
            // The first is under way all the time, so that nothing is settled behind it.
            let mut told = waiting.deliver(usize::from(taken_before > 20) * 1000, refuses);
            let hangs = taken_before % 2 == 0;
            if hangs {
                waiting.postponed.pauses.clear();
            }
            told.extend(waiting.deliver(taken_before % 20, |id| refuses(id) && taken_before < 40));
            if is_synced {
                waiting.tick();
                waiting.add("a4");
                waiting.fill();
            } else {
                waiting.add("a4");
            }
            drop(waiting);
            let storage = storage.crash(Survival::All);
            let mut waiting = open(&storage);
            waiting.add("a5");
            let rest = waiting.deliver(usize::MAX, |_| false);
            let last = of(&rest, "a");
            let all = ["a1", "a2", "a3", "a4", "a5"];
            // What is told again is told from there on in order, and all that was not told.
            assert!(all.ends_with(&last), "{taken_before} {last:?}");
            let before = of(&told, "a");
            assert!(before.len() + last.len() >= all.len(), "{before:?} {last:?}");
            assert!(all.starts_with(&before), "{before:?}");
            assert!(told.iter().chain(&rest).any(|id| id == "j1"));
            waiting.tick();
            assert_eq!(waiting.len(), 0);
            assert_eq!(open(&storage).len(), 0);
        }
    }
}

#[test]
fn what_a_crash_left_in_both_is_told_once_and_in_order() {
    let storage = MemoryStorage::new();
    let mut waiting = open(&storage);
    waiting.add("j1 a1 a2 a3");
    waiting.fill();
    // The first is under way; the others are postponed, and two of them are taken.
    let (_, first) = waiting.next(1).unwrap();
    assert_eq!(&*first.id, "j1");
    let (place, _) = waiting.next(1).unwrap();
    waiting.done += u64::from(TRIES);
    waiting.regular.item(1).unwrap().tries = TRIES;
    waiting.regular.item(1).unwrap().done_before = 0;
    assert!(matches!(waiting.try_again(place), Ok(Again::Postponed)));
    assert_eq!(waiting.deliver(2, |_| false), ["a1", "a2"]);
    waiting.tick();
    assert_eq!((waiting.len(), waiting.postponed.queue.len()), (4, 3));
    drop(waiting);
    let mut waiting = open(&storage.crash(Survival::All));
    waiting.add("a4");
    assert_eq!(of(&waiting.deliver(usize::MAX, |_| false), "a"), ["a1", "a2", "a3", "a4"]);
    waiting.tick();
    assert_eq!(waiting.len(), 0);
}

#[test]
fn a_power_cut_loses_nothing_that_is_postponed() {
    let storage = MemoryStorage::new();
    let mut waiting = open(&storage);
    waiting.add("a1 a2");
    others(&mut waiting, 20);
    waiting.sync(u64::MAX).unwrap();
    waiting.deliver(usize::MAX, |id| id == "a1");
    assert!(waiting.needs_sync());
    for seed in 0..100 {
        let taken = open(&storage.crash(Survival::Some(seed))).deliver(usize::MAX, |_| false);
        assert_eq!(of(&taken, "a"), ["a1", "a2"], "{seed}");
    }
    waiting.tick();
    assert!(!waiting.needs_sync());
    for seed in 0..100 {
        let taken = open(&storage.crash(Survival::Some(seed))).deliver(usize::MAX, |_| false);
        assert_eq!(of(&taken, "a"), ["a1", "a2"], "{seed}");
    }
}

#[test]
fn where_no_more_can_be_postponed_order_stays() {
    let mut waiting = open(&MemoryStorage::new());
    waiting.room = 2;
    waiting.add("a1 a2 b1");
    others(&mut waiting, 20);
    assert_eq!(waiting.deliver(usize::MAX, |id| id == "a1" || id == "b1").len(), 20);
    waiting.tick();
    assert_eq!((waiting.postponed.items.len(), waiting.regular.items.len()), (2, 21));
    waiting.add("a3 b2");
    assert!(waiting.deliver(usize::MAX, |id| id == "a1" || id == "b1").is_empty());
    let taken = waiting.deliver(usize::MAX, |_| false);
    assert_eq!((of(&taken, "a"), of(&taken, "b")), (vec!["a1", "a2", "a3"], vec!["b1", "b2"]));
}

#[test]
fn what_can_t_be_written_stays_where_it_is() {
    let faults = FaultyStorage::new(MemoryStorage::new());
    let mut waiting = open(&faults);
    waiting.add("a1 a2");
    waiting.fill();
    let (place, _) = waiting.next(1).unwrap();
    waiting.done = u64::from(TRIES);
    waiting.regular.item(0).unwrap().tries = TRIES;
    // The second of the two: a file, its head, the first.
    faults.fail_at(3, Fault::Full);
    waiting.try_again(place).unwrap_err();
    assert_eq!((waiting.postponed.items.len(), waiting.regular.lines.len()), (1, 1));
    assert_eq!(waiting.deliver(usize::MAX, |_| false), ["a1", "a2"]);
}

#[test]
fn what_a_full_disk_kept_in_memory_outlives_a_stop_once_there_is_room() {
    let memory = MemoryStorage::new();
    let faults = FaultyStorage::new(memory.clone());
    let mut waiting = open(&faults);
    faults.fail_at(0, Fault::Crash);
    assert!(matches!(waiting.put(&note("a1"), u64::MAX), Put::InMemory(_)));
    for id in ["b1", "a2"] {
        assert!(!matches!(waiting.put(&note(id), u64::MAX), Put::Lost));
    }
    waiting.fill();
    waiting.put(&note("c1"), u64::MAX);
    assert!(waiting.is_in_memory() && waiting.waits_for_disk());
    waiting.sync(u64::MAX).unwrap_err();
    // The first is under way, the second taken, and there is room again.
    let taken = [waiting.next(1).unwrap(), waiting.next(1).unwrap()];
    assert_eq!([&*taken[0].1.id, &*taken[1].1.id], ["a1", "b1"]);
    waiting.done(taken[1].0);
    faults.fail_at(u64::MAX, Fault::Full);
    let Left { on_disk, lost, closed } = waiting.close();
    closed.unwrap();
    assert_eq!((on_disk, lost), (3, 0));
    let mut waiting = open(&memory);
    assert!(!waiting.is_in_memory());
    assert_eq!(of(&waiting.deliver(usize::MAX, |_| false), "a"), ["a1", "a2"]);
    assert_eq!(waiting.done, 3);
}
