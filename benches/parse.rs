//! What it takes to read a datagram: the fast path, the same with credentials, and what has to be
//! unfolded first.

use std::hint::black_box;

use bindery::sip::{Limits, Parsed, Parser};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use crate::phone::Phone;

#[path = "support/phone.rs"]
mod phone;

const CONTACT: &str = "Contact: <sip:alice@192.0.2.17:5060;transport=udp>;expires=600\r\n\
    User-Agent: Example Phone 7/2.4.1\r\nAllow: INVITE, ACK, CANCEL, BYE, NOTIFY, OPTIONS\r\n\
    Supported: path\r\n";

const COMPACT: &str = "REGISTER sip:example.com SIP/2.0\r\n\
    v:SIP/2.0/UDP 192.0.2.17:5060;branch=z9hG4bK1;rport\r\n\
    f:<sip:alice@example.com>;tag=1\r\nt:<sip:alice@example.com>\r\ni:1@192.0.2.17\r\n\
    CSeq:1 REGISTER\r\nm:<sip:alice@192.0.2.17>\r\nl:0\r\n\r\n";

fn is_request(parsed: &Parsed<'_>) -> bool {
    matches!(parsed, Parsed::Request(_))
}

fn benches(c: &mut Criterion) {
    let mut phone = Phone::new("alice", "secret");
    let typical = phone.register(CONTACT);
    let challenge = "SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"example.com\", \
        nonce=\"AAAAAAAAAAAAAAAAAAAAAA\"\r\n\r\n";
    assert!(phone.take_challenge(challenge.as_bytes()), "the bench has credentials");
    let with_credentials = phone.register(CONTACT);
    let folded = include_bytes!("../tests/vectors/rfc4475/wsinv.sip").to_vec();

    let mut parser = Parser::new(Limits::default());
    let mut group = c.benchmark_group("parse");
    for (name, datagram) in [
        ("typical REGISTER", typical),
        ("with Authorization", with_credentials),
        ("compact forms", COMPACT.into()),
        ("folded (wsinv)", folded),
    ] {
        assert!(is_request(&parser.parse(&datagram)), "the bench measures a request: {name}");
        group.throughput(Throughput::Bytes(datagram.len() as u64));
        group.bench_function(name, |b| b.iter(|| is_request(&parser.parse(black_box(&datagram)))));
    }
    group.finish();
}

criterion_group!(parse, benches);
criterion_main!(parse);
