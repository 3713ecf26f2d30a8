//! Typical phones, told apart by a number, and what becomes of a REGISTER of theirs at the location
//! service: all that happens after the request was parsed and its credentials were found right.

use bindery::{
    auth::{NonceCounts, NonceUse, RequestHash, Sink, nonce::Nonce},
    flow::{Flow, ListenerId, Transport},
    location::{AorKey, Cause, Entry, Location, Unrecorded},
    registrar::{Policy, Refresh, Register, Wanted, Workspace, register},
    sip::header::Contact,
    time::{DeltaSeconds, Now},
};

/// How long a nonce is good for.
const LIFETIME: DeltaSeconds = DeltaSeconds(300);

/// What phones call themselves.
const AGENTS: [&str; 6] = [
    "Jitsi 2.10",
    "snomD785/10.1.175.16",
    "Yealink SIP-T46U 108.86.0.75",
    "Cisco/SPA504G-7.6.2c",
    "Grandstream GXP2170 1.0.11.64",
    "Linphone/5.2.5",
];

/// How the Contact of a phone looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `<sip:u000123@127.0.0.1:5060>`
    Short,
    /// `<sip:alice@192.168.1.23:5060;transport=udp>`
    Long,
}

/// A phone's texts.
#[derive(Debug)]
pub(crate) struct Typical {
    number: u32,
    pub(crate) aor: String,
    contact: String,
    call_id: String,
}

impl Typical {
    /// The phone with this number.
    pub(crate) fn new(number: u32, form: Form) -> Self {
        let scrambled = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let contact = match form {
            Form::Short => format!("<sip:u{number:06}@127.0.0.1:5060>;expires=3600"),
            Form::Long => "<sip:alice@192.168.1.23:5060;transport=udp>;expires=3600".to_owned(),
        };
        // 30 to 40 octets, as of stacks that write a random number and a host.
        let digits = 16 + usize::try_from(number % 11).unwrap_or(0);
        let call_id = format!("{scrambled:016x}{scrambled:016x}");
        let call_id = format!("{}@192.168.1.{}", &call_id[..digits], 100 + number % 100);
        Self { number, aor: format!("u{number:06}@bench.test"), contact, call_id }
    }

    /// What it does at `now`, its `count`th time: `visit` is shown the request and the use of a
    /// nonce.
    pub(crate) fn ask<R>(
        &self,
        count: u32,
        visit: impl FnOnce(&Register<'_>, NonceUse, RequestHash) -> R,
    ) -> R {
        let contact = [Contact::parse(self.contact.as_bytes()).expect("a contact")];
        let [_, b, c, d] = self.number.to_be_bytes();
        let request = Register {
            wanted: Wanted::Contacts(&contact),
            expires: None,
            granted: None,
            call_id: self.call_id.as_bytes(),
            cseq: count,
            branch: self.number ^ count,
            flow: Flow {
                listener: ListenerId(0),
                transport: Transport::Udp,
                local: None,
                remote: ([100, b, c, d], 5060).into(),
            },
            path: b"",
            supports_path: false,
            agent: AGENTS[self.number as usize % AGENTS.len()].as_bytes(),
        };
        let nonce = Nonce { issued: 1_800_000_000, tag: self.number };
        visit(&request, NonceUse { nonce, nc: Some(count) }, RequestHash(self.number ^ count))
    }
}

/// What a worker keeps.
#[derive(Debug, Default)]
pub(crate) struct Space {
    policy: Policy,
    work: Workspace,
    nonces: Octets,
}

#[derive(Debug, Default)]
struct Octets(Vec<u8>);

impl Sink for Octets {
    fn put(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }
}

impl Space {
    /// The rules' way, under the record's lock.
    pub(crate) fn register(
        &mut self,
        location: &Location,
        key: AorKey,
        phone: &Typical,
        count: u32,
        now: Now,
    ) {
        phone.ask(count, |request, used, hash| {
            let aor = phone.aor.as_bytes();
            location.update_at(key, aor, (now, Cause::Registered), &mut Unrecorded, |entry| {
                let record = entry.record();
                let stored = record.map(|r| r.nonces()).unwrap_or_default();
                let mut counts = NonceCounts::decode(stored).unwrap_or_default();
                counts.prune(now, LIFETIME);
                counts.check(used, hash);
                counts.record(used, hash);
                self.nonces.0.clear();
                counts.encode_into(&mut self.nonces);
                let Self { policy, work, nonces } = self;
                register(policy, now, request, aor, &nonces.0, record, work).expect("it may");
                entry.commit(work.record_bytes()).expect("there is no bound");
            });
        });
    }

    /// The refresh's way, under the record's lock.
    pub(crate) fn refresh(
        &mut self,
        location: &Location,
        key: AorKey,
        phone: &Typical,
        count: u32,
        now: Now,
    ) {
        phone.ask(count, |request, used, hash| {
            let aor = phone.aor.as_bytes();
            location.update_at(
                key,
                aor,
                (now, Cause::Registered),
                &mut Unrecorded,
                |entry: &mut Entry<'_>| {
                    let record = entry.record().expect("it is registered");
                    let renewal = NonceCounts::renewal(record.nonces(), used, hash, now, LIFETIME);
                    let refresh = Refresh::find(&self.policy, now, request, &record);
                    entry.refresh(&refresh.expect("a refresh"), renewal.as_ref());
                    self.work.take(entry.record().expect("it is registered"));
                },
            );
        });
    }
}
