//! What a refresh costs the whole pipeline in memory, and how two workers compare with one.
//!
//! ```text
//! cargo bench --bench workers -- [--users N] [--rounds N] [--workers N]... [--batch N] [--hot 1]
//! ```
//!
//! With `--hot 1` all users have their record in one shard of the location service.
//!
//! Each worker is a thread with a pipeline of its own over one location service, as in the server,
//! only without sockets: phones write their refreshes outside of the measured time, and a worker
//! takes them in batches. The figure is the CPU time of its thread, so that what else the machine
//! does shows little; the rate is by the clock on the wall.

#![expect(clippy::print_stdout, reason = "it is a program that tells what it measured")]
#![expect(clippy::disallowed_methods, reason = "the wall clock is what is measured by")]

use std::{
    net::SocketAddr,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use bindery::{
    flow::Flow,
    location::{Location, Unrecorded},
    net::BATCH,
    registrar::Policy,
    worker::{Answers, Arrived, Handled, Pipeline},
};

use crate::{
    arrival::{START, udp_from},
    phone::Phone,
};

#[path = "support/arrival.rs"]
mod arrival;
#[path = "support/phone.rs"]
mod phone;
#[path = "support/registrar.rs"]
mod registrar;

fn main() {
    let mut users = 100_000;
    let mut rounds = 3;
    let mut batch = 32;
    let mut hot = 0;
    let mut workers = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|v| v.parse().ok());
        match (&*name, value) {
            ("--users", Some(value)) => users = value,
            ("--rounds", Some(value)) => rounds = value,
            ("--batch", Some(value)) => batch = value,
            ("--hot", Some(value)) => hot = value,
            ("--workers", Some(value)) => workers.push(value),
            _ => panic!("{name}: not an option with a number"),
        }
    }
    if workers.is_empty() {
        workers = vec![1, 2];
    }
    let names: Vec<String> =
        (0..).map(|u| format!("u{u:07}")).filter(is_wanted(hot > 0)).take(users).collect();
    for &workers in &workers {
        let mut best = f64::MAX;
        let mut costs = Vec::new();
        let measured = match workers {
            1 => measure::<1>(&names, rounds, batch),
            2 => measure::<2>(&names, rounds, batch),
            4 => measure::<4>(&names, rounds, batch),
            _ => panic!("--workers is 1, 2 or 4"),
        };
        for (cost, wall) in measured {
            best = best.min(wall);
            costs.push(cost);
        }
        costs.sort_by(f64::total_cmp);
        println!(
            "{workers} workers, {users} users{}, batches of {batch}: {:.0} ns of CPU a refresh \
             (median; least {:.0}), {:.0} refreshes/s",
            if hot > 0 { " of one shard" } else { "" },
            costs[costs.len() / 2],
            costs[0],
            1e9 / best
        );
    }
}

/// Whether a user takes part: anybody, or those of the first shard.
fn is_wanted(hot: bool) -> impl Fn(&String) -> bool {
    let location = Location::new(registrar::HASH_KEY, START, 0);
    move |name| !hot || location.key(format!("{name}@example.com").as_bytes()).shard() == 0
}

/// CPU nanoseconds a refresh by worker and round, and wall nanoseconds a refresh of all together.
fn measure<const WORKERS: usize>(names: &[String], rounds: usize, batch: usize) -> Vec<(f64, f64)> {
    let accounts: Vec<(&str, &str)> = names.iter().map(|n| (&**n, "secret")).collect();
    let (pipelines, _): ([Pipeline; WORKERS], _) =
        registrar::registrar(&["example.com"], &accounts, Policy::default());
    let barrier = Arc::new(Barrier::new(WORKERS));
    let each = names.len() / WORKERS;
    thread::scope(|scope| {
        let threads: Vec<_> = names
            .chunks(each)
            .zip(pipelines)
            .map(|(names, pipeline)| {
                let barrier = Arc::clone(&barrier);
                scope.spawn(move || work(pipeline, names, rounds, batch, &barrier))
            })
            .collect();
        let costs: Vec<Vec<(f64, f64)>> =
            threads.into_iter().map(|t| t.join().expect("a worker")).collect();
        let mut all = Vec::new();
        for round in 0..rounds {
            let slowest = costs.iter().map(|c| c[round].1).fold(0.0, f64::max);
            all.extend(costs.iter().map(|c| (c[round].0, slowest / WORKERS as f64)));
        }
        all
    })
}

fn work(
    mut pipeline: Pipeline,
    names: &[String],
    rounds: usize,
    batch: usize,
    barrier: &Barrier,
) -> Vec<(f64, f64)> {
    let mut out = vec![0; 65_535];
    let flow = udp_from("192.0.2.17:5060");
    let mut phones: Vec<Phone> = names.iter().map(|n| Phone::new(n, "secret")).collect();
    for phone in &mut phones {
        let request = phone.register(CONTACT);
        let len = answer(&mut pipeline, flow, &request, &mut out);
        assert!(phone.take_challenge(&out[..len]), "there is a challenge");
        let request = phone.register(CONTACT);
        let len = answer(&mut pipeline, flow, &request, &mut out);
        assert!(out[..len].starts_with(b"SIP/2.0 200 "));
    }
    let mut answers = Granted { slots: vec![vec![0; 65_535]; BATCH], granted: 0 };
    // A stride that is prime to their number: no order that memory could know beforehand.
    let order: Vec<usize> = (0..phones.len()).map(|i| i * 7_368_787 % phones.len()).collect();
    (0..rounds)
        .map(|_| {
            let requests: Vec<Vec<u8>> =
                order.iter().map(|&p| phones[p].register(CONTACT)).collect();
            barrier.wait();
            let (cpu, wall) = (thread_time(), Instant::now());
            for requests in requests.chunks(batch) {
                answer_all(&mut pipeline, flow, requests, &mut answers);
                assert_eq!(std::mem::take(&mut answers.granted), requests.len());
            }
            let cost = |time: Duration| time.as_nanos() as f64 / requests.len() as f64;
            (cost(thread_time() - cpu), cost(wall.elapsed()))
        })
        .collect()
}

const CONTACT: &str = "Contact: <sip:alice@192.0.2.17:5060;transport=udp>;expires=600\r\n\
    User-Agent: Example Phone 7/2.4.1\r\n";

#[inline(never)]
fn answer(pipeline: &mut Pipeline, flow: Flow, bytes: &[u8], out: &mut [u8]) -> usize {
    let arrived = Arrived { bytes, flow, truncated: false };
    match pipeline.handle(START, arrived, out) {
        Handled::Answer { len, .. } => len,
        Handled::Dropped(reason) => panic!("{reason:?}"),
    }
}

#[inline(never)]
fn answer_all(pipeline: &mut Pipeline, flow: Flow, batch: &[Vec<u8>], answers: &mut Granted) {
    let arrived = batch.iter().map(|bytes| Arrived { bytes, flow, truncated: false });
    pipeline.handle_all(START, arrived, &mut Unrecorded, answers);
}

/// Where answers go that are 200s: into as many slots as a worker has.
struct Granted {
    slots: Vec<Vec<u8>>,
    granted: usize,
}

impl Answers for Granted {
    fn answer<E>(
        &mut self,
        _: &Flow,
        write: impl FnOnce(&mut [u8]) -> Result<(usize, SocketAddr), E>,
    ) -> Result<(), E> {
        let slot = &mut self.slots[self.granted % BATCH];
        let (len, _) = write(slot)?;
        self.granted += usize::from(slot[..len].starts_with(b"SIP/2.0 200 "));
        Ok(())
    }
}

/// CPU time of this thread, as the kernel's scheduler accounts it.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds come first"))
}
