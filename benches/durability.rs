//! What snapshots and the journal cost for each record: `cargo bench --bench durability`. The files go
//! to the temporary folder, and away again; a snapshot's writing ends with its fsync.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use persist::journal::{SegmentId, Writer, read};
use persist::snapshot::{Checking, General, Generations, Section};
use persist::storage::Storage;
use persist::storage::file::FileStorage;

const NAME: &str = "regfile.snapshot";

/// AoRs of the snapshot: some ten megabytes, more than caches hold.
const SECTIONS: u64 = 20_000;

/// Records of a batch, and octets of a record: a full receive batch of refreshes.
const BATCH: u64 = 32;
const RECORD: usize = 120;

/// Batches of the journal.
const BATCHES: u64 = 1000;

fn snapshot(criterion: &mut Criterion) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let storage = FileStorage::create(home.path()).expect("a temporary folder");
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20).throughput(Throughput::Elements(SECTIONS));
    group.bench_function("write", |bench| bench.iter(|| write(&storage)));
    let open = || Checking::open(storage.as_ref(), NAME).expect("it was written");
    group.bench_function("check", |bench| {
        bench.iter(|| {
            let checking = open();
            checking.run();
            checking.finish().expect("it was written")
        });
    });
    group.bench_function("check and read", |bench| {
        bench.iter(|| {
            let checking = open();
            checking.run();
            let parts = checking.finish().expect("it was written").parts();
            let mut octets = 0;
            parts.run(|section| octets += touch(&section));
            parts.finish().expect("it was checked");
            octets
        });
    });
    group.finish();
}

fn journal(criterion: &mut Criterion) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let storage = FileStorage::create(home.path()).expect("a temporary folder");
    let record = [b'x'; RECORD];
    let fill = |id| {
        let mut writer = Writer::create(&storage, id, 1).expect("room");
        for _ in 0..BATCHES {
            for _ in 0..BATCH {
                writer.record(|out| out.extend_from_slice(&record)).expect("a short one");
            }
            writer.write().expect("room");
        }
    };
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(20).throughput(Throughput::Elements(BATCHES * BATCH));
    let id = SegmentId::new(1, 0).expect("it fits");
    group.bench_function("write", |bench| {
        bench.iter(|| {
            let _ = storage.remove(&id.to_string());
            fill(id);
        });
    });
    group.bench_function("read", |bench| {
        bench.iter(|| {
            let mut octets = 0;
            read(&storage, id, |record| octets += black_box(record.octets).len()).expect("written");
            octets
        });
    });
    group.finish();
}

fn write(storage: &Arc<dyn Storage>) -> u64 {
    let mut generations = Generations::new(Arc::clone(storage), NAME, 0);
    let general = General { sequence: 1, written: 2, journal: Some(1), writers: 0 };
    let mut writer = generations.begin(general).expect("room");
    for n in 0..SECTIONS {
        let number = format!("{n:08}");
        let name = [number.as_bytes(), b"@example.com"].concat();
        let contact = format!("sip:{number}@192.0.2.77:5060;transport=udp");
        let call_id = format!("{number}-6f1ed002ab5595859014ebf0951522d9@192.0.2.77");
        let data = format!("sip/{contact}");
        let pairs = [
            ("driver", "sip"),
            ("data", &data),
            ("expires", "1795446319"),
            ("nonces", "0000000165a1b2c3d4e5f60718293a4b5c6d7e8f"),
            ("contact.1", &contact),
            ("call_id.1", &call_id),
            ("agent.1", "Yealink SIP-T46S 66.85.0.5"),
            ("listener.1", "general"),
            ("transport.1", "udp"),
            ("remote.1", "192.0.2.77:5060"),
            ("expires.1", "1795446319"),
            ("updated.1", "1795446019"),
            ("cseq.1", "4711"),
            ("branch.1", "9a0b1c2d"),
        ];
        writer.section(&name, 1, pairs).expect("room");
    }
    writer.finish().expect("room").bytes
}

/// Looks at every octet of a section once, as whoever keeps them has to.
fn touch(section: &Section<'_>) -> u64 {
    let pairs: usize = section.pairs().map(|(key, value)| key.len() + value.len()).sum();
    (section.name().len() + pairs) as u64
}

criterion_group!(benches, snapshot, journal);
criterion_main!(benches);
