//! RFC 3261 §10.3 steps 6 to 8 on one record: a refresh, a new binding, an interrogation.

use std::hint::black_box;

use bindery::{
    registrar::{AorRecord, Policy, Register, Wanted, Workspace, register},
    sip::header::Contact,
};
use criterion::{Criterion, criterion_group, criterion_main};

use crate::arrival::{START, udp_from};

#[path = "support/arrival.rs"]
mod arrival;

const AOR: &[u8] = b"alice@example.com";

fn benches(c: &mut Criterion) {
    let policy = Policy::default();
    let elements: Vec<String> = (1..=10)
        .map(|n| {
            format!(
                "<sip:alice@192.0.2.{n}:5060;transport=udp>;expires=600;\
                 +sip.instance=\"<urn:uuid:00000000-0000-1000-8000-{n:012}>\";reg-id=1"
            )
        })
        .collect();
    let contacts: Vec<Contact<'_>> =
        elements.iter().map(|e| Contact::parse(e.as_bytes()).expect("a contact")).collect();
    let request = |wanted, cseq| Register {
        wanted,
        expires: None,
        granted: None,
        call_id: b"8f1c2b7a90d14e55@192.0.2.17",
        cseq,
        branch: cseq,
        flow: udp_from("192.0.2.17:5060"),
        path: b"",
        supports_path: true,
        agent: b"Example Phone 7/2.4.1",
    };
    let stored = |count: usize| {
        let mut work = Workspace::default();
        let request = request(Wanted::Contacts(&contacts[..count]), 1);
        register(&policy, START, &request, AOR, b"", None, &mut work).expect("it is registered");
        work.record_bytes().to_vec()
    };

    let (one, nine, ten) = (stored(1), stored(9), stored(10));
    let mut work = Workspace::default();
    let mut group = c.benchmark_group("register");
    for (name, record, wanted) in [
        ("add the first", None, Wanted::Contacts(&contacts[..1])),
        ("refresh the only", Some(&one), Wanted::Contacts(&contacts[..1])),
        ("refresh one of ten", Some(&ten), Wanted::Contacts(&contacts[9..])),
        ("add the tenth", Some(&nine), Wanted::Contacts(&contacts[9..])),
        ("ask for one", Some(&one), Wanted::Bindings),
        ("remove the only by *", Some(&one), Wanted::Nothing),
    ] {
        let record = record.and_then(|record| AorRecord::new(record));
        let mut request = request(wanted, 2);
        if matches!(wanted, Wanted::Nothing) {
            request.expires = Some(b"0");
        }
        group.bench_function(name, |b| {
            b.iter(|| {
                let request = black_box(&request);
                register(&policy, START, request, AOR, b"", record, &mut work).is_ok()
            });
        });
    }
    group.finish();
}

criterion_group!(registering, benches);
criterion_main!(registering);
