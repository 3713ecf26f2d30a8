//! Any file as a snapshot: it is read or refused. And any table: what is written is read again.

use std::sync::{Arc, Mutex};

use persist::{
    snapshot::{General, Generations, read, verify},
    storage::memory::MemoryStorage,
};

use crate::crc32::crc32;

const NAME: &str = "regfile.snapshot";

/// Checks `bytes` as a file, as a file whose checksum is right, and as a table.
pub(crate) fn check(bytes: &[u8]) {
    read_file(bytes);
    let mut sealed = bytes.to_vec();
    sealed.push(b'\n');
    sealed.extend_from_slice(format!("; crc32={:08x}\n", crc32(&sealed)).as_bytes());
    read_file(&sealed);
    write_and_read(bytes);
}

fn read_file(bytes: &[u8]) {
    let storage = MemoryStorage::new();
    storage.put(NAME, bytes);
    let mut sections = Vec::new();
    let summary = read(&storage, NAME, |section| {
        sections.push((section.offset(), section.name().into_owned()));
        assert!(section.pairs().count() <= bytes.len());
    });
    if let Ok(summary) = summary {
        assert_eq!(summary.sections, sections.len() as u64, "what was counted is what was shown");
        assert_eq!(summary.bytes, bytes.len() as u64);
        let parts = verify(&storage, NAME).expect("it was read").parts();
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    parts.run(|section| {
                        let section = (section.offset(), section.name().into_owned());
                        seen.lock().expect("no panic").push(section);
                    })
                });
            }
        });
        assert_eq!(parts.finish().expect("it was read"), summary);
        let mut seen = seen.into_inner().expect("no panic");
        seen.sort();
        assert_eq!(seen, sections, "by parts as in one");
    }
}

/// Names and values are what lies between the zeros of `bytes`, three at a time.
fn write_and_read(bytes: &[u8]) {
    let mut texts = bytes.split(|&b| b == 0);
    let mut table = Vec::new();
    while let (Some(name), one, other) = (texts.next(), texts.next(), texts.next()) {
        table.push((name, [("data", one), ("x.1-y", other)]));
    }
    let storage = MemoryStorage::new();
    let mut generations = Generations::new(Arc::new(storage.clone()), NAME, 0);
    let mut writer = generations
        .begin(General { sequence: 1, written: 2, ..General::default() })
        .expect("memory");
    for (name, pairs) in &table {
        let pairs = pairs.iter().map(|(key, value)| (*key, value.unwrap_or_default()));
        writer.section(name, 1, pairs).expect("keys that are keys");
    }
    writer.finish().expect("memory");

    let mut expected = table.iter();
    let summary = read(&storage, NAME, |section| {
        let (name, pairs) = expected.next().expect("no more sections than were written");
        assert_eq!(section.name(), *name);
        let read: Vec<_> = section.pairs().collect();
        assert_eq!(read.len(), pairs.len());
        for ((key, value), (expected_key, expected)) in read.iter().zip(pairs) {
            assert_eq!((*key, &**value), (expected_key.as_bytes(), expected.unwrap_or_default()));
        }
    });
    assert_eq!(summary.expect("a whole file").sections, table.len() as u64);
}
