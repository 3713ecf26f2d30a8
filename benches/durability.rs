//! How fast snapshots are written and read: `cargo run --release -p persist --example speed --
//! [SECTIONS] [THREADS]`. The file goes to the temporary folder, and away again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use persist::journal::{SegmentId, Writer, read};
use persist::snapshot::{Checking, General, Generations, Section};
use persist::storage::{Storage, file::FileStorage};

const NAME: &str = "regfile.snapshot";

/// Records of a batch, and octets of a record: a full receive batch of refreshes.
const BATCH: u64 = 32;
const RECORD: usize = 120;

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let sections: u64 = arguments.next().unwrap_or(2_000_000);
    let threads = arguments.next().unwrap_or(2);
    let home = tempfile::tempdir().expect("a temporary folder");
    let storage: Arc<dyn Storage> =
        Arc::new(FileStorage::create(home.path()).expect("a temporary folder"));

    let bytes = timed("write the snapshot", sections, || write(&storage, sections));
    println!("{bytes} bytes, {} for each section", bytes / sections);
    for threads in [1, threads] {
        let checking = Checking::open(storage.as_ref(), NAME).expect("it was written");
        timed(&format!("check it by {threads}"), sections, || {
            in_parallel(threads, || checking.run());
        });
        let parts = checking.finish().expect("it was written").parts();
        let octets = AtomicU64::new(0);
        timed(&format!("read it by {threads}"), sections, || {
            in_parallel(threads, || {
                let mut sum = 0;
                parts.run(|section| sum += touch(&section));
                octets.fetch_add(sum, Ordering::Relaxed);
            });
        });
        println!("{} octets of names and values", octets.into_inner());
        parts.finish().expect("it was checked");
    }

    let id = SegmentId::new(1, 0).expect("it fits");
    timed("write as many records", sections, || journal(storage.as_ref(), id, sections));
    let mut records = 0;
    timed("read them", sections, || {
        read(storage.as_ref(), id, |record| records += record.octets.len()).expect("written");
    });
    assert_eq!(records as u64, sections / BATCH * BATCH * RECORD as u64);
}

fn write(storage: &Arc<dyn Storage>, sections: u64) -> u64 {
    let mut generations = Generations::new(Arc::clone(storage), NAME, 0);
    let general = General { sequence: 1, written: 2, journal: Some(1) };
    let mut writer = generations.begin(general).expect("room");
    for n in 0..sections {
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

fn journal(storage: &dyn Storage, id: SegmentId, records: u64) {
    let mut writer = Writer::create(storage, id, 1).expect("room");
    let record = [b'x'; RECORD];
    for _ in 0..records / BATCH {
        for _ in 0..BATCH {
            writer.record(|out| out.extend_from_slice(&record)).expect("a short one");
        }
        writer.write().expect("room");
    }
}

/// Looks at every octet of a section once, as whoever keeps them has to.
fn touch(section: &Section<'_>) -> u64 {
    let pairs: usize = section.pairs().map(|(key, value)| key.len() + value.len()).sum();
    (section.name().len() + pairs) as u64
}

fn in_parallel(threads: u64, work: impl Fn() + Sync) {
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(&work))));
}

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
#[expect(clippy::disallowed_methods, reason = "a stopwatch")]
fn timed<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    println!("{what}: {took:.2?}, {} ns each", took.as_nanos() / u128::from(count));
    result
}
