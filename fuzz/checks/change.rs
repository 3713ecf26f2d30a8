//! Any octets as changes in a journal: what a start makes of them could have been registered, and
//! comes back from the snapshot that it takes of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bindery::{
    durability::{Basis, Pace, Progress, Saved, Snapshotter},
    location::Location,
    registrar::Binding,
    sip::uri::is_well_formed,
    time::{Clock, Moment, Now},
};
use persist::{
    journal::{SegmentId, Writer},
    snapshot::Generations,
    storage::{Storage, memory::MemoryStorage},
};

const NOW: Now = Now { millis: 3_600_000, unix: 1_800_000_000 };

const NAME: &str = "regfile.snapshot";

/// Time stands still.
struct Still;

impl Clock for Still {
    fn now(&self) -> Now {
        NOW
    }
}

/// Checks `bytes` as records, each after its length in two octets, the low one first.
pub(crate) fn check(bytes: &[u8]) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let id = SegmentId::new(1, 0).expect("they fit");
    let mut writer = Writer::create(&*storage, id, NOW.unix).expect("memory");
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk() {
        let (record, after) = after.split_at(after.len().min(u16::from_le_bytes(*len).into()));
        // Longer ones than may be are refused.
        if writer.record(|out| out.extend_from_slice(record)).is_ok() {
            writer.write().expect("memory");
        }
        rest = after;
    }
    let names: Arc<[Box<str>]> = Arc::from([Box::from("general")]);
    let restored = restore(&storage, &names);
    let bindings = all(&restored);
    take_snapshot(&storage, restored, &names);
    assert_eq!(all(&restore(&storage, &names)), bindings);
}

fn restore(storage: &Arc<dyn Storage>, names: &Arc<[Box<str>]>) -> Arc<Location> {
    let location = Arc::new(Location::new([7; 16], 0));
    let basis = Basis { rules: None, listeners: names, now: NOW, threads: 1 };
    let snapshots = Generations::new(Arc::clone(storage), NAME, 0);
    let mut saved = Saved { snapshots, journals: &**storage };
    let restored = saved.restore(&location, 2, basis, &Progress::default());
    assert_eq!(restored.expect("no file is refused").bindings, location.bindings());
    location
}

/// Sequences and bindings by AoR, for people to read. None of their texts could break an answer.
fn all(location: &Location) -> BTreeMap<Vec<u8>, (u64, Vec<String>)> {
    let mut all = BTreeMap::new();
    for part in 0..Location::PARTS {
        location.scan(part, None, |_, record| {
            let bindings: Vec<_> = record.bindings(NOW).collect();
            for binding in &bindings {
                assert!(is_well_formed(binding.uri));
                let texts = [binding.uri, binding.params, binding.path, binding.call_id];
                assert!(!texts.concat().iter().any(u8::is_ascii_control));
                assert!(!binding.agent.iter().any(u8::is_ascii_control));
            }
            // One that a clock dated which was set back since ends sooner with each restore, so that it
            // never lasts longer than was granted.
            let is_dated = |binding: &&Binding<'_>| binding.updated <= Moment::of(NOW);
            let bindings: Vec<_> =
                bindings.iter().filter(is_dated).map(|binding| format!("{binding:?}")).collect();
            // Those without a binding are kept for their nonce counts only.
            if !bindings.is_empty() {
                all.insert(record.aor().to_vec(), (record.sequence(), bindings));
            }
            true
        });
    }
    all
}

/// Has the next restore read a snapshot, and no journal.
fn take_snapshot(storage: &Arc<dyn Storage>, location: Arc<Location>, names: &Arc<[Box<str>]>) {
    let (mut snapshotter, _) = Snapshotter::new(
        Generations::new(Arc::clone(storage), NAME, 0),
        (Arc::clone(storage), None, Some(2)),
        location,
        Arc::clone(names),
        Still,
        Arc::default(),
        Pace { interval: Duration::from_secs(60), ..Pace::default() },
    );
    snapshotter.take().expect("memory");
}
