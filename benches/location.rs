//! A refresh of one record among many: hash, shard lock, overwrite in place. The records are taken
//! in no order, so that tables beyond the caches show what memory costs.

use std::hint::black_box;

use bindery::{
    location::{Cause, Location},
    registrar::{AorRecord, Binding, RecordWriter},
    time::{Deadline, DeltaSeconds, Now},
};
use criterion::{Criterion, criterion_group, criterion_main};

use crate::arrival::{START, udp_from};

#[path = "support/arrival.rs"]
mod arrival;

/// A prime above each size: steps of it visit every record in no order.
const STRIDE: usize = 2_147_483_647;

fn pack(aor: &[u8], now: Now, out: &mut Vec<u8>) {
    let binding = Binding {
        uri: b"sip:alice@192.0.2.17:5060;transport=udp",
        params: b"",
        q: None,
        deadline: Deadline::after(now, DeltaSeconds(600)),
        updated: now.second(),
        call_id: b"8f1c2b7a90d14e55@192.0.2.17",
        cseq: now.second(),
        branch: now.second(),
        flow: udp_from("192.0.2.17:5060"),
        path: b"",
        agent: b"Example Phone 7/2.4.1",
    };
    let mut writer = RecordWriter::new(out, aor, &[0; 20]).expect("it fits");
    writer.push(&binding).expect("it fits");
    writer.finish();
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("location");
    for (name, size) in [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000)] {
        let location = Location::new([1; 16], START, 0);
        let aors: Vec<String> = (0..size).map(|n| format!("{n:07}@example.com")).collect();
        let mut octets = Vec::new();
        for aor in &aors {
            pack(aor.as_bytes(), START, &mut octets);
            location
                .update(aor.as_bytes(), START, Cause::Registered, |e| e.commit(&octets))
                .expect("there is no bound");
        }
        let now = Now { millis: START.millis + 300_000, unix: START.unix + 300 };
        let mut at = 0;
        let mut next = || {
            at = (at + STRIDE) % size;
            aors[at].as_bytes()
        };
        group.bench_function(format!("read, {name}"), |b| {
            b.iter(|| {
                location.read(black_box(next()), |r| r.map_or(0, |r| r.bindings(now).count()))
            });
        });
        pack(aors[0].as_bytes(), now, &mut octets);
        group.bench_function(format!("refresh, {name}"), |b| {
            b.iter(|| {
                let aor = next();
                // The names are of one length: the record of one becomes that of another.
                let name_at = AorRecord::new(&octets)
                    .map_or(0, |r| r.aor().as_ptr().addr() - octets.as_ptr().addr());
                octets[name_at..name_at + aor.len()].copy_from_slice(aor);
                location.update(aor, now, Cause::Registered, |e| e.commit(black_box(&octets)))
            });
        });
    }
    group.finish();
}

criterion_group!(location, benches);
criterion_main!(location);
