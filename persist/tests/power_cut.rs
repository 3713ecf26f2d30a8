//! Two threads write journals, a snapshot is taken now and then, and something goes wrong at every
//! possible step: the power goes, or the disk fails once and the process goes on. What was synced
//! before it was acknowledged must be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use persist::journal::{SegmentId, Writer, prune, read, segments};
use persist::snapshot::{General, Generations, Origin};
use persist::storage::Storage;
use persist::storage::faulty::{Fault, FaultyStorage};
use persist::storage::memory::{MemoryStorage, Survival};

const NAME: &str = "regfile.snapshot";
const KEEP: usize = 1;
const THREADS: u16 = 2;

/// Each AoR's state is the sequence of its last change.
type Table = BTreeMap<u8, u64>;

struct Process {
    storage: Arc<dyn Storage>,
    table: Table,
    acknowledged: Table,
    sequence: u64,
    generation: u32,
    /// `None` for a thread whose segment was given up.
    writers: Vec<Option<Writer>>,
}

impl Process {
    fn start(storage: Arc<dyn Storage>) -> Self {
        let (table, acknowledged) = (Table::new(), Table::new());
        let writers = (0..THREADS).map(|_| None).collect();
        let mut process =
            Self { storage, table, acknowledged, sequence: 0, generation: 0, writers };
        process.rotate();
        process
    }

    fn change(&mut self, thread: usize, aor: u8) {
        self.sequence += 1;
        self.table.insert(aor, self.sequence);
        let Some(writer) = &mut self.writers[thread] else { return };
        let record = [&[aor][..], &self.sequence.to_le_bytes()].concat();
        let durable = writer
            .record(|out| out.extend_from_slice(&record))
            .and_then(|()| writer.write())
            .and_then(|length| Ok(writer.handle().sync()? >= length));
        match durable {
            Ok(durable) => {
                assert!(durable);
                self.acknowledged.insert(aor, self.sequence);
            }
            Err(_) => self.writers[thread] = None,
        }
    }

    fn rotate(&mut self) {
        self.generation += 1;
        for thread in 0..THREADS {
            let id = SegmentId::new(self.generation, thread).unwrap();
            self.writers[usize::from(thread)] = Writer::create(self.storage.as_ref(), id, 0).ok();
        }
    }

    fn snapshot(&mut self) -> bool {
        self.rotate();
        let mut generations = Generations::new(Arc::clone(&self.storage), NAME, KEEP);
        let general = General {
            sequence: self.sequence,
            journal: Some(self.generation),
            ..General::default()
        };
        let Ok(mut writer) = generations.begin(general) else { return false };
        for (aor, sequence) in &self.table {
            if writer.section(&[b'0' + aor], 1, [("s", sequence.to_string())]).is_err() {
                return false;
            }
        }
        if writer.finish().is_err() {
            return false;
        }
        // What no journal has is safe as well.
        self.acknowledged = self.table.clone();
        if let Ok(needed) = generations.journal_needed() {
            let _ = prune(self.storage.as_ref(), needed);
        }
        true
    }

    fn play(&mut self) {
        for round in 0..4 {
            for n in 0..5 {
                self.change(usize::from((n + round) % 2), n % 3);
            }
            self.snapshot();
        }
        self.change(0, 1);
        self.change(1, 2);
    }
}

fn recover(memory: &MemoryStorage) -> Table {
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let newest = Generations::new(storage, NAME, KEEP).newest().unwrap();
    assert!(newest.set_aside.is_empty());
    let (mut table, mut general) = (Table::new(), General::default());
    if let Some(snapshot) = newest.snapshot {
        let Origin::Bindery { general: found, .. } = snapshot.summary().origin else { panic!() };
        general = found;
        snapshot
            .read(|section| {
                let sequence = String::from_utf8(section.pairs().next().unwrap().1.into_owned());
                table.insert(section.name()[0] - b'0', sequence.unwrap().parse().unwrap());
            })
            .unwrap();
    }
    for id in segments(memory).unwrap() {
        if id.generation() < general.journal.unwrap_or(0) {
            continue;
        }
        read(memory, id, |record| {
            let sequence = u64::from_le_bytes(record.octets[1..].try_into().unwrap());
            let held = table.entry(record.octets[0]).or_default();
            *held = sequence.max(*held);
        })
        .unwrap();
    }
    table
}

fn check(process: &Process, memory: &MemoryStorage, place: &str) {
    let survivals = [Survival::All, Survival::Nothing].into_iter();
    for survival in survivals.chain((0..30).map(Survival::Some)) {
        let found = recover(&memory.crash(survival));
        for (aor, acknowledged) in &process.acknowledged {
            let found = found.get(aor).copied().unwrap_or(0);
            assert!(found >= *acknowledged, "{place}, {survival:?}: AoR {aor} is at {found}");
        }
        assert!(found.iter().all(|(aor, found)| *found <= process.table[aor]), "{place}");
    }
}

fn steps() -> u64 {
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let mut process = Process::start(Arc::new(faulty.clone()));
    process.play();
    assert_eq!(process.acknowledged, process.table);
    faulty.steps()
}

#[test]
fn the_power_goes_at_any_step() {
    for step in 0..=steps() {
        let memory = MemoryStorage::new();
        let faulty = FaultyStorage::new(memory.clone());
        faulty.fail_at(step, Fault::Crash);
        let mut process = Process::start(Arc::new(faulty));
        process.play();
        check(&process, &memory, &format!("step {step}"));
    }
}

#[test]
fn the_disk_fails_once_at_any_step_and_the_next_snapshot_heals_it() {
    let mut unhealed = 0;
    for fault in [Fault::Error, Fault::Full] {
        for step in 0..steps() {
            let place = format!("{fault:?} at {step}");
            let memory = MemoryStorage::new();
            let faulty = FaultyStorage::new(memory.clone());
            faulty.fail_at(step, fault);
            let mut process = Process::start(Arc::new(faulty));
            process.play();
            check(&process, &memory, &place);
            unhealed += u64::from(process.acknowledged != process.table);
            assert!(process.snapshot(), "{place}");
            process.change(0, 1);
            process.change(1, 2);
            assert_eq!(process.acknowledged, process.table, "{place}");
            check(&process, &memory, &place);
        }
    }
    assert!(unhealed > 0, "some faults came after the last snapshot");
}
