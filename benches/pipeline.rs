//! Octets to octets: a whole request's way, all but the sockets.
//!
//! Each refresh is a request of its own, with the next CSeq and nonce count; a phone writes it
//! outside the measured time.

use bindery::{
    registrar::Policy,
    worker::{Arrived, Handled, Pipeline},
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use crate::{
    arrival::{START, udp_from},
    phone::Phone,
    registrar::registrar,
};

#[path = "support/arrival.rs"]
mod arrival;
#[path = "support/phone.rs"]
mod phone;
#[path = "support/registrar.rs"]
mod registrar;

const CONTACT: &str = "Contact: <sip:alice@192.0.2.17:5060;transport=udp>;expires=600\r\n\
    User-Agent: Example Phone 7/2.4.1\r\n";

const OPTIONS: &[u8] = b"OPTIONS sip:example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.17:5060;rport;branch=z9hG4bK-1\r\nMax-Forwards: 70\r\n\
    From: <sip:alice@example.com>;tag=1\r\nTo: <sip:example.com>\r\nCall-ID: 1@192.0.2.17\r\n\
    CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

struct Bench {
    pipeline: Pipeline,
    out: Vec<u8>,
}

impl Bench {
    fn answer(&mut self, bytes: &[u8]) -> &[u8] {
        let flow = udp_from("192.0.2.17:5060");
        match self.pipeline.handle(START, Arrived { bytes, flow, truncated: false }, &mut self.out)
        {
            Handled::Answer { len, .. } => &self.out[..len],
            Handled::Dropped(reason) => panic!("{reason:?}"),
        }
    }

    /// Asserts that the bench measures what it says.
    fn expect(&mut self, bytes: &[u8], status: &str) {
        let answer = self.answer(bytes);
        assert!(answer.starts_with(status.as_bytes()), "{}", answer.escape_ascii());
    }
}

fn benches(c: &mut Criterion) {
    let ([pipeline], _location) =
        registrar(&["example.com"], &[("alice", "secret")], Policy::default());
    let mut bench = Bench { pipeline, out: vec![0; 65_535] };
    let mut phone = Phone::new("alice", "secret");
    let mut group = c.benchmark_group("pipeline");

    let stranger = phone.register(CONTACT);
    bench.expect(&stranger, "SIP/2.0 401 ");
    group.bench_function("challenge", |b| b.iter(|| bench.answer(&stranger).len()));
    bench.expect(OPTIONS, "SIP/2.0 200 ");
    group.bench_function("OPTIONS", |b| b.iter(|| bench.answer(OPTIONS).len()));

    assert!(phone.take_challenge(bench.answer(&stranger)), "the bench has credentials");
    for (name, headers) in [("refresh", CONTACT), ("interrogation", "")] {
        bench.expect(&phone.register(headers), "SIP/2.0 200 ");
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || phone.register(headers),
                |request| bench.answer(request).len(),
                BatchSize::SmallInput,
            );
        });
        bench.expect(&phone.register(headers), "SIP/2.0 200 ");
    }
    group.finish();
}

criterion_group!(octets, benches);
criterion_main!(octets);
