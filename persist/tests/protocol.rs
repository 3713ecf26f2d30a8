//! The protocol of `FORMAT.md`, played at random: two threads change a table and write journals,
//! snapshots are taken meanwhile, and the process or the machine ends at any moment, life after
//! life. What was acknowledged must be there, and what was removed must not come back.
//!
//! Each rule that the protocol asks for is broken in turn, to see that the game finds it out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use persist::journal::{
    SegmentId, SyncHandle, Writer, first_free, prune, read, segments, set_aside,
};
use persist::snapshot::{Checking, General, Generations, Origin};
use persist::storage::Storage;
use persist::storage::faulty::{Fault, FaultyStorage};
use persist::storage::memory::{MemoryStorage, Survival};

const NAME: &str = "regfile.snapshot";
const AORS: u8 = 3;
const WRITERS: usize = 2;
const KEEP: usize = 1;

/// What breaks the protocol, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// A delta follows a record that another thread may not have written yet.
    DeltaAfterAnother,
    /// The floor is not raised: a change after the scan may have a low sequence.
    FloorNotRaised,
    /// An answer waits for the sync of its own segment only, not of the thread's one before.
    OldSegmentNotSynced,
    /// Old segments are removed as soon as the newest snapshot needs them no more.
    PrunedByNewest,
    /// The table is read before the threads have changed over to the next segment.
    ScannedBeforeRotation,
    /// The sequence is read, and the floor raised, before the threads have changed over.
    SequenceBeforeRotation,
    /// A start passes over nothing by the snapshot's sequence.
    SequenceIgnored,
    /// A tombstone is forgotten as soon as it is read.
    TombstoneForgotten,
}

/// What ends a life, and what an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The process is killed; answers wait for the write.
    Killed,
    /// The power goes; answers wait for the sync.
    PowerCut,
}

/// A state: one part is written with every change, the other stays as it is in a delta.
type State = (u32, u32);

/// What a table has of an AoR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    sequence: u64,
    state: State,
    /// The thread that has changed it last, if that was in this life.
    writer: Option<usize>,
}

type Table = BTreeMap<u8, Row>;

/// A record as it is in the journal.
#[derive(Clone, Copy, Debug)]
enum Record {
    State(State),
    /// The first part, and the sequence that it is a change to.
    Delta(u32, u64),
    Tombstone,
}

fn encode(out: &mut Vec<u8>, aor: u8, sequence: u64, record: Record) {
    let (kind, a, b) = match record {
        Record::State((first, second)) => (0, u64::from(first), u64::from(second)),
        Record::Delta(first, base) => (1, first.into(), base),
        Record::Tombstone => (2, 0, 0),
    };
    out.extend_from_slice(&[aor, kind]);
    [sequence, a, b].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn decode(octets: &[u8]) -> (u8, u64, Record) {
    let number = |at: usize| u64::from_le_bytes(octets[at..at + 8].try_into().unwrap());
    let (a, b) = (number(10), number(18));
    let record = match octets[1] {
        0 => Record::State((u32::try_from(a).unwrap(), u32::try_from(b).unwrap())),
        1 => Record::Delta(u32::try_from(a).unwrap(), b),
        _ => Record::Tombstone,
    };
    (octets[0], number(2), record)
}

/// Everything that ever was true, and what of it was acknowledged.
#[derive(Default)]
struct History {
    was: BTreeMap<(u8, u64), Option<State>>,
    acknowledged: BTreeMap<u8, u64>,
    /// AoRs that a start rightly found gone, by a removal that nobody was told of.
    gone: BTreeSet<u8>,
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }
}

/// One life of a process.
struct Life<'a> {
    storage: Arc<dyn Storage>,
    mistake: Mistake,
    end: End,
    history: &'a mut History,
    table: Table,
    floor: u64,
    highest: u64,
    writers: Vec<Writer>,
    /// Changes of each thread that are not written yet, and those whose answers wait for a sync.
    waiting: Vec<Vec<(u8, u64)>>,
    written: Vec<Vec<(u8, u64)>>,
    /// Segments that each thread has left, but that nobody has synced since.
    left: Vec<Vec<SyncHandle>>,
    counter: u32,
    snapshot: Snapshot,
    generation: u32,
}

/// How far a snapshot is.
#[derive(Clone, Debug)]
enum Snapshot {
    None,
    Rotating { left: Vec<usize>, sequence: Option<u64> },
    Sequence,
    Floor { sequence: u64 },
    Scanning { sequence: u64, sections: Vec<(u8, Row)>, next: u8 },
}

/// The disk has failed, which here means that the life has ended.
struct Ended;

impl Life<'_> {
    fn change(&mut self, thread: usize, aor: u8, removed: bool) -> Result<(), Ended> {
        let before = self.table.get(&aor).copied();
        if removed && before.is_none() {
            return Ok(());
        }
        let sequence = before.map_or(0, |row| row.sequence).max(self.floor) + 1;
        self.highest = self.highest.max(sequence);
        self.counter += 1;
        let may_be_delta = before.filter(|row| {
            row.writer == Some(thread)
                || (self.mistake == Mistake::DeltaAfterAnother && row.writer.is_some())
        });
        let (state, record) = match may_be_delta {
            _ if removed => (None, Record::Tombstone),
            Some(row) if !self.counter.is_multiple_of(3) => {
                (Some((self.counter, row.state.1)), Record::Delta(self.counter, row.sequence))
            }
            _ => {
                let state = (self.counter, self.counter);
                (Some(state), Record::State(state))
            }
        };
        self.history.was.insert((aor, sequence), state);
        match state {
            Some(state) => {
                self.table.insert(aor, Row { sequence, state, writer: Some(thread) });
            }
            None => {
                self.table.remove(&aor);
                self.floor = self.floor.max(sequence);
            }
        }
        let recorded = self.writers[thread].record(|out| encode(out, aor, sequence, record));
        recorded.map_err(|_| Ended)?;
        self.waiting[thread].push((aor, sequence));
        Ok(())
    }

    /// The end of a thread's batch: the write, and the answers unless they wait for a sync.
    fn write(&mut self, thread: usize) -> Result<(), Ended> {
        self.writers[thread].write().map_err(|_| Ended)?;
        self.written[thread].append(&mut self.waiting[thread]);
        if self.end == End::Killed {
            self.answer(thread);
        }
        Ok(())
    }

    /// What the thread that syncs does for one that writes.
    fn sync(&mut self, thread: usize) -> Result<(), Ended> {
        let left = std::mem::take(&mut self.left[thread]);
        if self.mistake != Mistake::OldSegmentNotSynced {
            left.iter().try_for_each(|handle| handle.sync().map(drop)).map_err(|_| Ended)?;
        }
        let writer = &self.writers[thread];
        let durable = writer.handle().sync().map_err(|_| Ended)?;
        assert_eq!(durable, writer.length());
        self.answer(thread);
        Ok(())
    }

    fn answer(&mut self, thread: usize) {
        for (aor, sequence) in self.written[thread].drain(..) {
            let last = self.history.acknowledged.entry(aor).or_default();
            *last = sequence.max(*last);
            self.history.gone.remove(&aor);
        }
    }

    /// The next step of a snapshot.
    fn snapshot(&mut self, draw: &mut Draw) -> Result<(), Ended> {
        self.snapshot = match std::mem::replace(&mut self.snapshot, Snapshot::None) {
            Snapshot::None => {
                self.generation += 1;
                let left: Vec<_> = (0..WRITERS).collect();
                match self.mistake {
                    Mistake::ScannedBeforeRotation => Snapshot::Sequence,
                    Mistake::SequenceBeforeRotation => {
                        self.floor = self.floor.max(self.highest);
                        Snapshot::Rotating { left, sequence: Some(self.highest) }
                    }
                    _ => Snapshot::Rotating { left, sequence: None },
                }
            }
            Snapshot::Rotating { mut left, sequence } if !left.is_empty() => {
                self.rotate(left.swap_remove(draw.below(left.len())))?;
                Snapshot::Rotating { left, sequence }
            }
            Snapshot::Rotating { sequence, .. } => {
                sequence.map_or(Snapshot::Sequence, |sequence| Snapshot::Floor { sequence })
            }
            Snapshot::Sequence => Snapshot::Floor { sequence: self.highest },
            Snapshot::Floor { sequence } => {
                if self.mistake != Mistake::FloorNotRaised {
                    self.floor = self.floor.max(sequence);
                }
                Snapshot::Scanning { sequence, sections: Vec::new(), next: 0 }
            }
            Snapshot::Scanning { sequence, mut sections, next } if next < AORS => {
                sections.extend(self.table.get(&next).map(|row| (next, *row)));
                Snapshot::Scanning { sequence, sections, next: next + 1 }
            }
            Snapshot::Scanning { sequence, sections, .. } => {
                if self.mistake == Mistake::ScannedBeforeRotation {
                    (0..WRITERS).try_for_each(|thread| self.rotate(thread))?;
                }
                self.commit(sequence, &sections)?;
                Snapshot::None
            }
        };
        Ok(())
    }

    fn rotate(&mut self, thread: usize) -> Result<(), Ended> {
        let id = SegmentId::new(self.generation, u16::try_from(thread).unwrap()).unwrap();
        let next = Writer::create(self.storage.as_ref(), id, 0).map_err(|_| Ended)?;
        self.left[thread].push(self.writers[thread].replace(next).handle());
        Ok(())
    }

    fn commit(&mut self, sequence: u64, sections: &[(u8, Row)]) -> Result<(), Ended> {
        let mut generations = Generations::new(Arc::clone(&self.storage), NAME, KEEP);
        let general = General { sequence, journal: Some(self.generation), ..General::default() };
        let mut writer = generations.begin(general).map_err(|_| Ended)?;
        for (aor, row) in sections {
            let numbers = [row.sequence, row.state.0.into(), row.state.1.into()];
            let pairs = ["s", "a", "b"].into_iter().zip(numbers.map(|n| n.to_string()));
            writer.section(&[b'0' + aor], 1, pairs).map_err(|_| Ended)?;
        }
        writer.finish().map_err(|_| Ended)?;
        let needed = match self.mistake {
            Mistake::PrunedByNewest => self.generation,
            _ => generations.journal_needed().map_err(|_| Ended)?,
        };
        let pruned = prune(self.storage.as_ref(), needed).map_err(|_| Ended)?;
        if pruned.failed.is_empty() { Ok(()) } else { Err(Ended) }
    }
}

/// What a start makes of the folder: the table, the highest sequence there was, and the generation
/// to go on with.
fn recover(storage: &dyn Storage, found: Arc<dyn Storage>, mistake: Mistake) -> (Table, u64, u32) {
    let mut generations = Generations::new(found, NAME, KEEP);
    let newest = generations.newest_checked_by(Checking::run).unwrap();
    let (mut rows, mut covered, mut first) = (BTreeMap::new(), 0, 0);
    if let Some(snapshot) = newest.snapshot {
        let Origin::Bindery { general, .. } = snapshot.summary().origin else { panic!("Yate's") };
        (covered, first) = (general.sequence, general.journal.unwrap_or(0));
        snapshot
            .read(|section| {
                let numbers: Vec<u64> = section
                    .pairs()
                    .map(|(_, value)| std::str::from_utf8(&value).unwrap().parse().unwrap())
                    .collect();
                let state =
                    Some((u32::try_from(numbers[1]).unwrap(), u32::try_from(numbers[2]).unwrap()));
                rows.insert(section.name()[0] - b'0', (numbers[0], state));
            })
            .unwrap();
    }
    let mut highest = rows.values().map(|row| row.0).max().unwrap_or(0).max(covered);
    // Writer by writer, each in order of its generations; the last writer first.
    let mut ids: Vec<_> = segments(storage).unwrap();
    ids.retain(|id| id.generation() >= first);
    ids.sort_by_key(|id| (std::cmp::Reverse(id.writer()), id.generation()));
    for id in ids {
        let result = read(storage, id, |found| {
            let (aor, sequence, record) = decode(found.octets);
            highest = highest.max(sequence);
            if sequence <= covered && mistake != Mistake::SequenceIgnored {
                return;
            }
            let held: (u64, Option<State>) = rows.get(&aor).copied().unwrap_or_default();
            if sequence <= held.0 {
                return;
            }
            let state = match record {
                Record::State(state) => Some(state),
                Record::Tombstone => None,
                Record::Delta(first, base) => {
                    if base != held.0 {
                        return;
                    }
                    held.1.map(|state| (first, state.1))
                }
            };
            rows.insert(aor, (sequence, state));
            if state.is_none() && mistake == Mistake::TombstoneForgotten {
                rows.remove(&aor);
            }
        });
        if result.is_err() {
            set_aside(storage, id).unwrap();
        }
    }
    let table = rows
        .into_iter()
        .filter_map(|(aor, (sequence, state))| {
            Some((aor, Row { sequence, state: state?, writer: None }))
        })
        .collect();
    (table, highest, first_free(storage, first).unwrap().unwrap())
}

/// Plays some lives; says what went wrong.
fn play(seed: u64, end: End, mistake: Mistake) -> Result<(), String> {
    let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut memory = MemoryStorage::new();
    let mut history = History::default();
    let mut counter = 0;
    for life in 0..4 {
        if life > 0 && draw.below(3) == 0 && memory.bytes("regfile.snapshot.1").is_some() {
            // The newest snapshot has rotted: the older one and its segments stand in.
            let mut bytes = memory.bytes(NAME).unwrap_or_default();
            let at = draw.below(bytes.len().max(1));
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 4);
            memory.put(NAME, &bytes);
        }
        let (table, highest, generation) = recover(&memory, Arc::new(memory.clone()), mistake);
        for aor in 0..AORS {
            let row = table.get(&aor);
            let acknowledged = history.acknowledged.get(&aor).copied().unwrap_or(0);
            let state = row.map(|row| row.state);
            let mut true_since = history.was.range((aor, acknowledged)..=(aor, u64::MAX));
            let fits = match row {
                Some(row) => {
                    row.sequence >= acknowledged
                        && history.was.get(&(aor, row.sequence)) == Some(&state)
                }
                None => {
                    acknowledged == 0
                        || history.gone.contains(&aor)
                        || true_since.any(|(_, was)| was.is_none())
                }
            };
            if !fits {
                return Err(format!(
                    "life {life}, AoR {aor}: {row:?}, acknowledged {acknowledged}"
                ));
            }
            // What was not acknowledged and is gone never was.
            if let Some(row) = row {
                history.was.retain(|&(a, sequence), _| a != aor || sequence <= row.sequence);
            } else {
                history.gone.insert(aor);
            }
        }
        counter += 1000;
        let faulty = FaultyStorage::new(memory.clone());
        let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
        let writer = |thread: usize| {
            let id = SegmentId::new(generation, u16::try_from(thread).unwrap()).unwrap();
            Writer::create(storage.as_ref(), id, 0).unwrap()
        };
        let writers = (0..WRITERS).map(writer).collect();
        let mut now = Life {
            storage: Arc::clone(&storage),
            mistake,
            end,
            history: &mut history,
            table,
            floor: highest,
            highest,
            writers,
            waiting: vec![Vec::new(); WRITERS],
            written: vec![Vec::new(); WRITERS],
            left: vec![Vec::new(); WRITERS],
            counter,
            snapshot: Snapshot::None,
            generation,
        };
        // It ends at any step of the storage.
        let last = draw.below(120) as u64;
        faulty.fail_at(last, Fault::Crash);
        for _ in 0..400 {
            let thread = draw.below(WRITERS);
            let aor = u8::try_from(draw.below(usize::from(AORS))).unwrap();
            let done = match draw.below(10) {
                0..=4 => now.change(thread, aor, false),
                5 => now.change(thread, aor, true),
                6 => now.write(thread),
                7 => now.write(thread).and_then(|()| match draw.below(2) {
                    0 if end == End::PowerCut => now.sync(thread),
                    _ => Ok(()),
                }),
                _ => now.snapshot(&mut draw),
            };
            if done.is_err() {
                break;
            }
        }
        drop(now);
        let survival = match end {
            End::Killed => Survival::All,
            End::PowerCut if draw.below(4) == 0 => Survival::Nothing,
            End::PowerCut => Survival::Some(draw.0),
        };
        memory = memory.crash(survival);
    }
    Ok(())
}

fn rounds() -> u64 {
    std::env::var("ROUNDS").map_or(1500, |rounds| rounds.parse().unwrap())
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    for seed in 0..rounds() {
        play(seed, End::Killed, Mistake::None).unwrap_or_else(|error| panic!("{seed}: {error}"));
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_synced() {
    for seed in 0..rounds() {
        play(seed, End::PowerCut, Mistake::None).unwrap_or_else(|error| panic!("{seed}: {error}"));
    }
}

#[test]
fn every_rule_is_needed() {
    for (mistake, end) in [
        (Mistake::DeltaAfterAnother, End::Killed),
        (Mistake::FloorNotRaised, End::Killed),
        (Mistake::OldSegmentNotSynced, End::PowerCut),
        (Mistake::PrunedByNewest, End::Killed),
        (Mistake::ScannedBeforeRotation, End::Killed),
        (Mistake::SequenceBeforeRotation, End::Killed),
        (Mistake::SequenceIgnored, End::Killed),
        (Mistake::TombstoneForgotten, End::Killed),
    ] {
        let found = (0..50_000).find_map(|seed| play(seed, end, mistake).err());
        assert!(found.is_some(), "{mistake:?} goes unnoticed");
    }
}
