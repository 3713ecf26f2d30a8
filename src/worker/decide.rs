//! What a REGISTER does to the record of its AoR, under the record's lock.

use super::{counters::AuthResult, exchange::Space, parking::Question, rules::Rules};
use crate::{
    auth::{NonceCounts, NonceUse, RequestHash, Use},
    location::Entry,
    registrar::{self, Aor, Changes, Outcome, Refresh, Refusal, Register},
    time::Now,
};

/// Octets of a packed record: a 200 that lists the bindings of such a one fits into a datagram.
const MAX_RECORD: usize = 32 * 1024;

/// How a REGISTER ends, decided under the record's lock and answered after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing is done before this is asked.
    Asks(Question),
    /// The bindings are what the workspace holds.
    Done(Outcome),
    /// The location service holds as much as it may.
    Full,
    /// What the AoR has been bound to is still being read from disk.
    Loading,
    /// A rule of the registrar is broken.
    Refused(Refusal),
    /// The nonce was used before, or may have been.
    Stale { result: AuthResult, not_before: u32 },
}

/// What has to be asked before a REGISTER is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskFirst {
    /// This, whatever it binds.
    Always(Question),
    /// This, if it binds what was not bound.
    IfAdded(Question),
    /// Nothing, or it was.
    Nothing,
}

impl AskFirst {
    /// What has to be asked before these changes are made.
    fn before(self, changes: Changes) -> Option<Question> {
        match self {
            Self::Always(question) => (changes.added + changes.refreshed > 0).then_some(question),
            Self::IfAdded(question) => (changes.added > 0).then_some(question),
            Self::Nothing => None,
        }
    }
}

/// Judges and commits a REGISTER, under the lock of its record.
#[expect(clippy::too_many_arguments, reason = "all that the decision is made from")]
pub(super) fn decide(
    now: Now,
    rules: &Rules,
    register: &Register<'_>,
    aor: Aor<'_>,
    used: Option<(NonceUse, RequestHash)>,
    ask: AskFirst,
    entry: &mut Entry<'_>,
    space: &mut Space,
) -> Decision {
    let refreshed = match ask {
        AskFirst::Always(_) => None,
        AskFirst::IfAdded(_) | AskFirst::Nothing => {
            refresh(now, rules, register, used, entry, space)
        }
    };
    match refreshed {
        Some(outcome) => Decision::Done(outcome),
        None => work_out(now, rules, register, aor, used, ask, entry, space),
    }
}

/// [`decide`], whatever the request is.
#[expect(clippy::too_many_arguments, reason = "those of `decide`")]
fn work_out(
    now: Now,
    rules: &Rules,
    register: &Register<'_>,
    aor: Aor<'_>,
    used: Option<(NonceUse, RequestHash)>,
    ask: AskFirst,
    entry: &mut Entry<'_>,
    space: &mut Space,
) -> Decision {
    let record = entry.record();
    let stored = record.map(|r| r.nonces()).unwrap_or_default();
    space.nonces.clear();
    // For a retransmission: what a new nonce may not be older than, should it turn out to be none.
    let mut repeated = None;
    if let Some((used, request)) = used {
        let mut counts = NonceCounts::decode(stored).unwrap_or_default();
        counts.prune(now, rules.authenticator.policy().nonce_lifetime);
        if let Some(start) = entry.early() {
            counts.distrust_until(start);
        }
        let not_before = counts.not_before();
        match counts.check(used, request) {
            Use::Fresh => counts.record(used, request),
            Use::Retransmission => repeated = Some(not_before),
            Use::Replay => return Decision::Stale { result: AuthResult::Replay, not_before },
            Use::Stale => return Decision::Stale { result: AuthResult::Stale, not_before },
        }
        counts.encode_into(&mut space.nonces);
    } else {
        space.nonces.extend_from_slice(stored);
    }

    if entry.early().is_some() && !register.only_adds(&rules.registrar) {
        keep_bindings(now, aor.as_bytes(), entry, space);
        return Decision::Loading;
    }
    let worked_out = registrar::register(
        &rules.registrar,
        now,
        register,
        aor.as_bytes(),
        &space.nonces,
        record,
        &mut space.work,
    );
    let outcome = match worked_out {
        Ok(outcome) => outcome,
        Err(refusal) => {
            // The credentials are spent all the same: they don't cover Contact, and a stranger
            // who saw them must not be the one who gets it right.
            keep_bindings(now, aor.as_bytes(), entry, space);
            return Decision::Refused(refusal);
        }
    };
    if let Some(not_before) = repeated {
        // The same answer as before, refusals included; but whatever would touch a binding was
        // not in what was answered before, so it is no retransmission.
        return match outcome {
            Outcome::Registered(changes) if changes.touch_any() => {
                Decision::Stale { result: AuthResult::Replay, not_before }
            }
            Outcome::Registered(_) | Outcome::Retransmitted => {
                entry.confirm();
                Decision::Done(Outcome::Retransmitted)
            }
            Outcome::Queried => Decision::Done(outcome),
        };
    }
    if let Outcome::Registered(changes) = outcome
        && let Some(question) = ask.before(changes)
    {
        return Decision::Asks(question);
    }
    if !matches!(outcome, Outcome::Registered(_)) && space.nonces == stored {
        if outcome == Outcome::Retransmitted {
            entry.confirm();
        }
        return Decision::Done(outcome);
    }
    let bytes = space.work.record_bytes();
    if bytes.len() > MAX_RECORD {
        keep_bindings(now, aor.as_bytes(), entry, space);
        return Decision::Refused(Refusal::TooManyContacts);
    }
    if space.nonces.is_empty() && space.work.record().is_none_or(|r| r.is_empty()) {
        entry.remove();
    } else if entry.commit(bytes).is_err() {
        keep_bindings(now, aor.as_bytes(), entry, space);
        return Decision::Full;
    }
    Decision::Done(outcome)
}

/// Commits a REGISTER that changes nothing but numbers, as most do; whatever else it is, or may be,
/// is `None` and goes the long way, which would come to the same.
fn refresh(
    now: Now,
    rules: &Rules,
    register: &Register<'_>,
    used: Option<(NonceUse, RequestHash)>,
    entry: &mut Entry<'_>,
    space: &mut Space,
) -> Option<Outcome> {
    let record = entry.record().filter(|r| r.as_bytes().len() <= MAX_RECORD)?;
    let lifetime = rules.authenticator.policy().nonce_lifetime;
    let renewal = match used {
        Some((used, request)) => {
            Some(NonceCounts::renewal(record.nonces(), used, request, now, lifetime)?)
        }
        None => None,
    };
    let refresh = Refresh::find(&rules.registrar, now, register, &record)?;
    entry.refresh(&refresh, renewal.as_ref());
    space.work.take(entry.record()?);
    Some(Outcome::Registered(Refresh::CHANGES))
}

/// Commits the bindings as they are, with the nonce counts in `space`.
pub(super) fn keep_bindings(now: Now, aor: &[u8], entry: &mut Entry<'_>, space: &mut Space) {
    let record = entry.record();
    if space.nonces == record.map(|r| r.nonces()).unwrap_or_default() {
        return;
    }
    if space.work.carry_over(now, aor, &space.nonces, record).is_some() {
        // As many bindings as before never exceed a bound.
        let _ = entry.commit(space.work.record_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        auth::{
            Authenticator, NonceKeys,
            nonce::Nonce,
            policy::{self, Algorithm},
        },
        flow::{Flow, ListenerId, Transport},
        location::{Cause, Location, Unrecorded},
        registrar::{AorRecord, Domains, Policy, Wanted},
        sip::{Limits, header::Contact, uri::SipUri},
        subscribers::builder::Builder,
        time::DeltaSeconds,
        worker::Elsewhere,
    };

    const CONTACTS: [&str; 3] = [
        "<sip:a@192.0.2.1>",
        "<sip:a@192.0.2.1>;expires=90",
        "<sip:b@192.0.2.1>;+sip.instance=\"<urn:uuid:1>\"",
    ];

    fn rules() -> Rules {
        let policy = policy::Policy {
            realm: "example.com".into(),
            algorithms: [Algorithm::Md5].into(),
            nonce_lifetime: DeltaSeconds(300),
            qop_auth: true,
        };
        let keys = NonceKeys::from_bytes(&[7; 32]);
        Rules {
            domains: Domains::new(["example.com"]),
            autocreate: false,
            registrar: Policy::default(),
            authenticator: Authenticator::new(policy, keys).unwrap(),
            subscribers: Builder::new("example.com", &[Algorithm::Md5]).build(),
            elsewhere: Elsewhere::default(),
            server: None,
            limits: Limits::default(),
            calls: crate::proxy::Policy::default(),
        }
    }

    /// A request: seconds since the one before, contact, Call-ID, by how much CSeq goes up; the
    /// nonce that is used (or none), how old it is and by how much its count goes up.
    type Asked = (u32, usize, usize, u32, Option<(u32, u32, u32)>);

    fn asked() -> impl Strategy<Value = Asked> {
        let used = prop::option::weighted(0.9, (0..2_u32, 0..400_u32, 0..3_u32));
        let call_id = prop_oneof![5 => Just(0), 1 => Just(1_usize)];
        (0..100_u32, 0..CONTACTS.len(), call_id, 0..4_u32, used)
    }

    proptest! {
        /// Two location services, of which one never takes the short way, hold the same octets and
        /// have decided the same after any history.
        #[test]
        fn the_short_way_is_the_long_way(history in prop::collection::vec(asked(), 1..40)) {
            let (rules, mut space) = (rules(), Space::new([1; 16]));
            let mut now = Now { millis: 1000, unix: 1_800_000_000 };
            let [short, long] = [0, 1].map(|_| Location::new([2; 16], 0));
            let uri = SipUri::parse(b"sip:alice@example.com").unwrap();
            let mut aor = Vec::new();
            let aor = Aor::canonical(&uri, &rules.domains, &mut aor).unwrap();
            let (mut cseq, mut issued, mut nc) = (1, 1_800_000_000_u32, 1);
            for (wait, contact, call_id, step, used) in history {
                now.millis += 1000 * u64::from(wait);
                now.unix += u64::from(wait);
                cseq += step;
                let contact = [Contact::parse(CONTACTS[contact].as_bytes()).unwrap()];
                let register = Register {
                    wanted: Wanted::Contacts(&contact),
                    expires: None,
                    granted: None,
                    call_id: [b"1@here", b"2@here"][call_id],
                    cseq,
                    branch: cseq,
                    flow: Flow {
                        listener: ListenerId(0),
                        transport: Transport::Udp,
                        local: None,
                        remote: ([192, 0, 2, 1], 5060).into(),
                    },
                    path: b"",
                    supports_path: true,
                    agent: b"Phone/1",
                };
                let used = used.map(|(tag, age, step)| {
                    let second = u32::try_from(now.unix).unwrap();
                    if second - issued > 300 || age > 370 {
                        (issued, nc) = (second - age / 8, 0);
                    }
                    nc += step;
                    let nonce = Nonce { issued, tag };
                    (NonceUse { nonce, nc: Some(nc) }, RequestHash(cseq))
                });
                let key = aor.as_bytes();
                let when = (now, Cause::Registered);
                let decided = short.update(key, when, &mut Unrecorded, |entry| {
                    decide(now, &rules, &register, aor, used, AskFirst::Nothing, entry, &mut space)
                });
                let answered = space.work.record().map(|r| answer_of(&r, now));
                let worked_out = long.update(key, when, &mut Unrecorded, |entry| {
                    work_out(now, &rules, &register, aor, used, AskFirst::Nothing, entry, &mut space)
                });
                prop_assert_eq!(decided, worked_out);
                if matches!(decided, Decision::Done(_)) {
                    prop_assert_eq!(answered, space.work.record().map(|r| answer_of(&r, now)));
                }
                let sweep = |l: &Location| l.sweep(now, &mut Unrecorded, |_| false);
                let stored = |l: &Location| l.read(key, |r| r.map(|r| r.as_bytes().to_vec()));
                prop_assert_eq!(stored(&short), stored(&long));
                prop_assert_eq!(short.bindings(), long.bindings());
                prop_assert_eq!(sweep(&short), sweep(&long));
                prop_assert_eq!(stored(&short), stored(&long));
            }
        }
    }

    /// What a 200 says of the bindings.
    fn answer_of(record: &AorRecord<'_>, now: Now) -> Vec<(Vec<u8>, Vec<u8>, u32)> {
        let line = |b: registrar::Binding<'_>| {
            (b.uri.to_vec(), b.params.to_vec(), b.deadline.remaining(now).0)
        };
        record.bindings(now).map(line).collect()
    }
}
