//! A snapshot is taken over an older one and something goes wrong at every possible step. The
//! next start must find the old snapshot or the new one: never a mix, never nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use persist::error::WriteError;
use persist::snapshot::{General, Generations, Summary};
use persist::storage::Storage;
use persist::storage::faulty::{Fault, FaultyStorage};
use persist::storage::memory::{MemoryStorage, Survival};

const NAME: &str = "regfile.snapshot";
const TEMPORARY: &str = "regfile.snapshot.tmp";

/// Name to value of the one key that these tests write.
type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// A table that is unlike that of any other sequence number.
fn table(sequence: u64) -> Table {
    (0..20 + sequence)
        .map(|n| (n.to_string().into_bytes(), format!("{sequence}/{n}").into_bytes()))
        .collect()
}

fn take(storage: Arc<dyn Storage>, keep: usize, sequence: u64) -> Result<Summary, WriteError> {
    take_padded(storage, keep, sequence, 0)
}

/// Takes a snapshot; with padding to each section, a writer's buffer goes out several times.
fn take_padded(
    storage: Arc<dyn Storage>,
    keep: usize,
    sequence: u64,
    padding: usize,
) -> Result<Summary, WriteError> {
    let mut generations = Generations::new(storage, NAME, keep);
    let mut writer =
        generations.begin(General { sequence, written: sequence, ..General::default() })?;
    for (name, value) in table(sequence) {
        writer.section(&name, 1, [("v", value), ("padding", vec![b'x'; padding])])?;
    }
    writer.finish()
}

/// What a start finds: the sequence of a snapshot and all that is in it.
fn find(storage: &MemoryStorage) -> Option<(u64, Table)> {
    let found = Generations::new(Arc::new(storage.clone()), NAME, 2).newest().unwrap();
    let mut table = Table::new();
    let summary = found
        .snapshot?
        .read(|section| {
            let value = section.pairs().next().unwrap().1.into_owned();
            table.insert(section.name().into_owned(), value);
        })
        .unwrap();
    let persist::snapshot::Origin::Bindery { general, .. } = summary.origin else {
        panic!("taken for Yate's");
    };
    Some((general.sequence, table))
}

/// A folder in which snapshots 1 to `last` were taken.
fn folder(keep: usize, last: u64) -> MemoryStorage {
    let memory = MemoryStorage::new();
    for sequence in 1..=last {
        take(Arc::new(memory.clone()), keep, sequence).unwrap();
    }
    memory
}

fn survivals() -> impl Iterator<Item = Survival> {
    [Survival::All, Survival::Nothing].into_iter().chain((0..40).map(Survival::Some))
}

/// How many steps snapshot `sequence` takes.
fn steps(keep: usize, sequence: u64) -> u64 {
    let faulty = FaultyStorage::new(folder(keep, sequence - 1));
    take(Arc::new(faulty.clone()), keep, sequence).unwrap();
    faulty.steps()
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_snapshot() {
    for keep in [0, 1, 2] {
        for sequence in [2, 3, 4, 5] {
            let before = folder(keep, sequence - 1);
            let (mut old, mut new) = (0, 0);
            for step in 0..=steps(keep, sequence) {
                let memory = before.crash(Survival::All);
                let faulty = FaultyStorage::new(memory.clone());
                faulty.fail_at(step, Fault::Crash);
                let done = take(Arc::new(faulty), keep, sequence);
                for survival in survivals() {
                    let after = memory.crash(survival);
                    let place = format!("keep {keep}, {sequence}, step {step}, {survival:?}");
                    let (found, content) = find(&after).expect(&place);
                    assert_eq!(content, table(found), "{place}");
                    assert!(found == sequence || found == sequence - 1, "{found}: {place}");
                    assert!(done.is_err() || found == sequence, "{place}");
                    assert!(
                        !after.list().unwrap().iter().any(|n| n.contains("corrupt")),
                        "{place}"
                    );
                    *if found == sequence { &mut new } else { &mut old } += 1;
                    // And the start after it is able to go on.
                    take(Arc::new(after.clone()), keep, 9).expect(&place);
                    assert_eq!(find(&after).unwrap().0, 9, "{place}");
                    assert_eq!(after.bytes(TEMPORARY), None, "{place}");
                }
            }
            assert!(old > 0 && new > 0);
        }
    }
}

#[test]
fn a_crash_between_two_buffers_leaves_the_old_snapshot() {
    const PADDING: usize = 50_000;
    let before = folder(1, 1);
    let faulty = FaultyStorage::new(before.crash(Survival::All));
    take_padded(Arc::new(faulty.clone()), 1, 2, PADDING).unwrap();
    let padded = faulty.steps();
    assert!(padded >= steps(1, 2) + 3, "several buffers went out");
    for step in 0..padded {
        let memory = before.crash(Survival::All);
        let faulty = FaultyStorage::new(memory.clone());
        faulty.fail_at(step, Fault::Crash);
        let _ = take_padded(Arc::new(faulty), 1, 2, PADDING);
        for survival in [Survival::All, Survival::Nothing, Survival::Some(step)] {
            let (found, content) = find(&memory.crash(survival)).unwrap();
            assert_eq!(content, table(found));
        }
    }
}

#[test]
fn the_first_snapshot_is_there_whole_or_not_at_all() {
    for step in 0..=steps(2, 1) {
        let memory = MemoryStorage::new();
        let faulty = FaultyStorage::new(memory.clone());
        faulty.fail_at(step, Fault::Crash);
        let done = take(Arc::new(faulty), 2, 1);
        for survival in survivals() {
            match find(&memory.crash(survival)) {
                Some((1, content)) => assert_eq!(content, table(1)),
                Some((found, _)) => panic!("{found}"),
                None => assert!(done.is_err()),
            }
        }
    }
}

#[test]
fn a_failing_disk_is_reported_and_costs_nothing() {
    for fault in [Fault::Error, Fault::Full] {
        for step in 0..steps(2, 4) {
            let memory = folder(2, 3);
            let faulty = FaultyStorage::new(memory.clone());
            faulty.fail_at(step, fault);
            let done = take(Arc::new(faulty.clone()), 2, 4);
            for survival in survivals() {
                let (found, content) = find(&memory.crash(survival)).unwrap();
                assert_eq!(content, table(found));
                assert!(found == 4 || (found == 3 && done.is_err()), "{step} {found}");
            }
            // The disk has come back: the next one succeeds, and the older ones still count.
            take(Arc::new(faulty), 2, 5).unwrap();
            assert_eq!(find(&memory).unwrap().0, 5);
            assert_eq!(memory.bytes(TEMPORARY), None);
            let second = memory.bytes("regfile.snapshot.1").unwrap();
            assert!(second.starts_with(b"[general]\nversion=1\nsequence="));
        }
    }
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let memory = folder(2, 1);
    let faulty = FaultyStorage::new(memory.clone());
    let mut errors = 0;
    for step in 0..steps(2, 2) {
        faulty.fail_at(step, Fault::Error);
        let Err(error) = take(Arc::new(faulty.clone()), 2, 2) else { continue };
        if error.to_string().starts_with("can't sync regfile.snapshot.tmp") {
            errors += 1;
            assert_eq!(find(&memory).unwrap().0, 1);
            assert_eq!(memory.bytes(TEMPORARY), None, "its bytes can't be trusted any more");
            break;
        }
    }
    assert_eq!(errors, 1);
}

#[test]
fn a_writer_that_failed_publishes_nothing() {
    let memory = folder(2, 1);
    let faulty = FaultyStorage::new(memory.clone());
    let mut generations = Generations::new(Arc::new(faulty.clone()), NAME, 2);
    let mut writer = generations.begin(General::default()).unwrap();
    faulty.fail_at(0, Fault::Full);
    let large = vec![b'x'; 1 << 20];
    assert!(writer.section(b"a", 1, [("v", &large)]).is_err());
    assert!(matches!(writer.section(b"b", 1, [("v", b"")]), Err(WriteError::Abandoned)));
    assert!(matches!(writer.finish(), Err(WriteError::Abandoned)));
    assert_eq!(find(&memory).unwrap().0, 1);
    assert_eq!(memory.bytes(TEMPORARY), None);
}

#[test]
fn a_disk_that_lies_is_found_out() {
    for step in 0..steps(2, 2) {
        let memory = folder(2, 1);
        let faulty = FaultyStorage::new(memory.clone());
        faulty.fail_at(step, Fault::BitFlip);
        take(Arc::new(faulty), 2, 2).unwrap();
        let (found, content) = find(&memory).unwrap();
        assert_eq!(content, table(found));
    }
}

#[test]
fn a_disk_that_fails_while_reading_gives_no_half_truth() {
    let memory = folder(2, 2);
    let faulty = FaultyStorage::new(memory.clone());
    for fault in [Fault::BitFlip, Fault::Error] {
        for step in 0..40 {
            let memory = memory.crash(Survival::All);
            let faulty = FaultyStorage::new(memory.clone());
            faulty.fail_at(step, fault);
            let mut generations = Generations::new(Arc::new(faulty.clone()), NAME, 2);
            let Ok(found) = generations.newest() else { continue };
            let snapshot = found.snapshot.unwrap();
            let sequence = if snapshot.name() == NAME { 2 } else { 1 };
            assert_eq!(found.set_aside.len() as u64, 2 - sequence);
            let mut content = Table::new();
            let read = snapshot.read(|section| {
                let value = section.pairs().next().map(|(_, value)| value.into_owned());
                content.insert(section.name().into_owned(), value.unwrap_or_default());
            });
            assert!(read.is_err() || content == table(sequence), "{fault:?} at {step}");
        }
    }
    assert_eq!(faulty.steps(), 0);
}
