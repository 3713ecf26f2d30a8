//! A script of datagrams and passing time, put through the whole registrar.
//!
//! After each datagram: no response and no ACK was answered, an answer is well-formed and belongs
//! to its request, and a 200 shows nothing that has ended. After each sweep and at the end: no AoR
//! has more than `max_contacts`, nothing has outlived its deadline, and the counts are those of a
//! scan.

use std::sync::Arc;

use bindery::{
    location::{Location, Unrecorded},
    registrar::{Policy, policy::OnLimit},
    sip::{Limits, Parsed, Parser, header::HeaderName},
    time::Now,
    worker::{Arrived, Handled, Pipeline},
};

use crate::{
    answer::read_answer,
    arrival::{START, udp_from},
    phone::Phone,
    registrar::registrar,
};

/// Few enough that scripts reach the limit.
const MAX_CONTACTS: u16 = 3;

/// What a script is read as; at its end all numbers are zero and all texts empty.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn octet(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.octet(), self.octet()])
    }

    fn text(&mut self, len: usize) -> &'a [u8] {
        let (text, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        text
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.octet()) % choices.len()]
    }
}

#[derive(Clone, Copy)]
enum Step {
    Datagram,
    Passes,
    Register,
    Again,
    Changed,
    Interrogate,
    RemoveAll,
}

const STEPS: [Step; 7] = [
    Step::Datagram,
    Step::Passes,
    Step::Register,
    Step::Again,
    Step::Changed,
    Step::Interrogate,
    Step::RemoveAll,
];

struct Run {
    pipeline: Pipeline,
    location: Arc<Location>,
    now: Now,
    out: Vec<u8>,
    last: Vec<u8>,
}

/// Runs one script.
pub(crate) fn check(script: &[u8]) {
    let mut script = Script(script);
    // The first step stays a step, so that one datagram is a script too.
    let flags = script.0.first().copied().unwrap_or_default() >> 4;
    let policy = Policy {
        max_contacts: MAX_CONTACTS,
        on_limit: if flags & 1 == 0 { OnLimit::Reject } else { OnLimit::EvictOldest },
        max_bindings: if flags & 2 == 0 { 0 } else { 4 },
        auth_required: flags & 4 == 0,
        ..Policy::default()
    };
    let users = [("alice", "secret"), ("bob", "secret"), ("carol", "")];
    let ([pipeline], location) = registrar(&["example.com"], &users, policy);
    let mut phones = users.map(|(user, password)| Phone::new(user, password));
    let mut run = Run { pipeline, location, now: START, out: vec![0; 65_535], last: Vec::new() };
    while !script.0.is_empty() {
        let octet = script.octet();
        match STEPS[usize::from(octet & 15) % STEPS.len()] {
            Step::Datagram => {
                let len = usize::from(script.number());
                run.last = script.text(len).to_vec();
                run.datagram();
            }
            Step::Passes => {
                let seconds = u64::from(script.number() % 4000);
                run.now.millis += seconds * 1000 + u64::from(script.octet());
                run.now.unix += seconds;
                run.location.sweep(run.now, &mut Unrecorded, |_| true);
                run.scan();
            }
            Step::Register => {
                let phone = &mut phones[usize::from(script.octet()) % users.len()];
                let headers = contacts(&mut script);
                run.register(phone, &headers);
            }
            Step::Again => {
                run.datagram();
            }
            Step::Changed => {
                let at = usize::from(script.number()) % (run.last.len() + 1);
                let cut = usize::from(script.octet() % 8).min(run.last.len() - at);
                let len = usize::from(script.octet() % 32);
                run.last.splice(at..at + cut, script.text(len).iter().copied());
                run.datagram();
            }
            Step::Interrogate => {
                run.register(&mut phones[usize::from(script.octet()) % users.len()], "");
            }
            Step::RemoveAll => {
                let phone = &mut phones[usize::from(script.octet()) % users.len()];
                run.register(phone, "Contact: *\r\nExpires: 0\r\n");
            }
        }
    }
    run.scan();
}

/// Up to three Contacts, and what may go with them.
fn contacts(script: &mut Script<'_>) -> String {
    let mut headers = String::new();
    for _ in 0..script.octet() % 4 {
        headers += script.pick(&["Contact: ", "m: ", "CONTACT :\r\n "]);
        headers += script.pick(&[
            "<sip:a@192.0.2.17:5060>",
            "<sip:a@192.0.2.17:5060;transport=udp>",
            "<sip:a@10.0.0.1>",
            "\"A, B\" <sips:%61@[2001:db8::1]>, <sip:b@10.0.0.2>",
            "sip:c@10.0.0.3",
            "<tel:+1555>",
        ]);
        headers += script.pick(&["", ";expires=60", ";expires=0", ";expires=59", ";expires=7200"]);
        headers += script.pick(&[
            "",
            ";q=0.5",
            ";+sip.instance=\"<urn:uuid:1>\";reg-id=1",
            ";+sip.instance=\"<urn:uuid:1>\";reg-id=2",
        ]);
        headers += "\r\n";
    }
    headers += script.pick(&["", "Expires: 0\r\n", "Expires: 90\r\n", "Expires: x\r\n"]);
    headers += script.pick(&["", "", "Supported: path\r\nPath: <sip:p1;lr>\r\nPath: <sip:p2>\r\n"]);
    headers
}

impl Run {
    fn register(&mut self, phone: &mut Phone, headers: &str) {
        self.last = phone.register(headers);
        let answered = self.datagram();
        if answered.is_some_and(|len| phone.take_challenge(&self.out[..len])) {
            self.last = phone.register(headers);
            self.datagram();
        }
    }

    /// Puts the last datagram in; the result is the length of the answer.
    fn datagram(&mut self) -> Option<usize> {
        let bytes = &self.last[..self.last.len().min(65_535)];
        let flow = udp_from("192.0.2.17:5060");
        let arrived = Arrived { bytes, flow, truncated: false };
        let Handled::Answer { len, to } = self.pipeline.handle(self.now, arrived, &mut self.out)
        else {
            return None;
        };
        let shown = bytes.escape_ascii();
        assert_eq!(to.ip(), flow.remote.ip(), "answered to a stranger: {shown}");
        let start = bytes.iter().position(|b| !b"\r\n".contains(b)).unwrap_or_default();
        let is_mute = [&b"SIP/"[..], b"ACK "].iter().any(|mute| bytes[start..].starts_with(mute));
        assert!(!is_mute, "answered: {shown}");

        let (code, headers) = read_answer(&self.out[..len]);
        let mut parser = Parser::new(Limits::default());
        let message = match parser.parse(bytes) {
            Parsed::Request(request) => request.envelope.message,
            Parsed::Rejected(rejected) => rejected.envelope.message,
            Parsed::Silence(silence) => panic!("{silence:?} was answered: {shown}"),
            Parsed::Response(_) => panic!("a response was answered: {shown}"),
        };
        for (name, known) in [
            ("Call-ID", HeaderName::CallId),
            ("CSeq", HeaderName::Cseq),
            ("From", HeaderName::From),
        ] {
            let found =
                headers.iter().find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| *value);
            assert_eq!(found, message.first(known), "{name} of the answer to {shown}");
        }
        for (_, value) in headers.iter().filter(|(name, _)| code == 200 && *name == b"Contact") {
            let seconds = value.split(|&b| b == b'=').next_back().unwrap_or_default();
            let seconds = std::str::from_utf8(seconds).ok().and_then(|s| s.parse::<u32>().ok());
            assert!(seconds.is_some_and(|s| (1..=3600).contains(&s)), "{}", value.escape_ascii());
        }
        Some(len)
    }

    fn scan(&self) {
        let (mut aors, mut bindings) = (0, 0);
        for part in 0..Location::PARTS {
            self.location.scan(part, None, |_, record| {
                let live = record.bindings(self.now).count();
                assert!(live <= usize::from(MAX_CONTACTS), "{record:?}");
                aors += u64::from(!record.is_empty());
                bindings += record.len() as u64;
                true
            });
        }
        assert_eq!((self.location.aors(), self.location.bindings()), (aors, bindings));
    }
}
