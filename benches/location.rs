//! What a REGISTER costs at the location service, in batches of 32 as they are received: hash,
//! shard lock, rules or refresh in place, commit. The phones come in no order, so that tables
//! beyond the caches show what memory costs.

use std::hint::black_box;

use bindery::{location::Location, time::Now};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use crate::{
    arrival::START,
    typical::{Form, Space, Typical},
};

#[path = "support/arrival.rs"]
#[expect(dead_code, reason = "other benches and tests want the flow too")]
mod arrival;
#[path = "support/typical.rs"]
mod typical;

/// Datagrams that are received at once.
const BATCH: u32 = 32;

/// A prime above each size: steps of it visit every phone in no order.
const STRIDE: u64 = 2_147_483_647;

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("location");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, size, form) in [
        ("10k", 10_000, Form::Short),
        ("10k with long contacts", 10_000, Form::Long),
        ("1M", 1_000_000, Form::Short),
        ("10M", 10_000_000, Form::Short),
    ] {
        let location = Location::new([1; 16], 0);
        let mut space = Space::default();
        for number in 0..size {
            let phone = Typical::new(number, form);
            let key = location.key(phone.aor.as_bytes());
            space.register(&location, key, &phone, 1, START);
        }
        let now = Now { millis: START.millis + 200_000, unix: START.unix + 200 };
        let (mut at, mut count) = (0, 1);
        let mut batch = || {
            count += 1;
            let mut next = || {
                at = (at + STRIDE) % u64::from(size);
                Typical::new(u32::try_from(at).unwrap_or(0), form)
            };
            ((0..BATCH).map(|_| next()).collect::<Vec<_>>(), count)
        };
        group.bench_function(format!("read, {name}"), |b| {
            let read = |(phones, _): &mut (Vec<Typical>, u32)| {
                let read = |phone: &Typical| {
                    location
                        .read(phone.aor.as_bytes(), |r| r.map_or(0, |r| r.bindings(now).count()))
                };
                black_box(&phones[..]).iter().map(read).sum::<usize>()
            };
            b.iter_batched_ref(&mut batch, read, BatchSize::PerIteration);
        });
        group.bench_function(format!("refresh by the rules, {name}"), |b| {
            let by_the_rules = |(phones, count): &mut (Vec<Typical>, u32)| {
                for phone in black_box(&phones[..]) {
                    let key = location.key(phone.aor.as_bytes());
                    space.register(&location, key, phone, *count, now);
                }
            };
            b.iter_batched_ref(&mut batch, by_the_rules, BatchSize::PerIteration);
        });
        group.bench_function(format!("touch, refresh in place, {name}"), |b| {
            let touched = |(phones, count): &mut (Vec<Typical>, u32)| {
                let mut keys = [location.key(b""); BATCH as usize];
                for (key, phone) in keys.iter_mut().zip(black_box(&phones[..])) {
                    *key = location.key(phone.aor.as_bytes());
                }
                location.touch(&keys);
                for (key, phone) in keys.into_iter().zip(&phones[..]) {
                    space.refresh(&location, key, phone, *count, now);
                }
            };
            b.iter_batched_ref(&mut batch, touched, BatchSize::PerIteration);
        });
        group.bench_function(format!("refresh in place, {name}"), |b| {
            let in_place = |(phones, count): &mut (Vec<Typical>, u32)| {
                for phone in black_box(&phones[..]) {
                    let key = location.key(phone.aor.as_bytes());
                    space.refresh(&location, key, phone, *count, now);
                }
            };
            b.iter_batched_ref(&mut batch, in_place, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(location, benches);
criterion_main!(location);
