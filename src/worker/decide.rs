//! What a REGISTER does to the record of its AoR, under the record's lock.

use super::{exchange::Space, rules::Rules};
use crate::{
    auth::{NonceCounts, NonceUse, RequestHash, Use},
    location::Entry,
    registrar::{self, Aor, Outcome, Refresh, Refusal, Register},
    time::Now,
};

/// Octets of a packed record: a 200 that lists the bindings of such a one fits into a datagram.
const MAX_RECORD: usize = 32 * 1024;

/// How a REGISTER ends, decided under the record's lock and answered after it.
pub(super) enum Decision {
    /// The bindings are what the workspace holds.
    Done(Outcome),
    /// The location service holds as much as it may.
    Full,
    /// A rule of the registrar is broken.
    Refused(Refusal),
    /// The nonce was used before, or may have been.
    Stale { label: &'static str, not_before: u32 },
}

/// Judges and commits a REGISTER, under the lock of its record.
pub(super) fn decide(
    now: Now,
    rules: &Rules,
    register: &Register<'_>,
    aor: Aor<'_>,
    used: Option<(NonceUse, RequestHash)>,
    entry: &mut Entry<'_>,
    space: &mut Space,
) -> Decision {
    if let Some(outcome) = refresh(now, rules, register, used, entry, space) {
        return Decision::Done(outcome);
    }
    let record = entry.record();
    let stored = record.map(|r| r.nonces()).unwrap_or_default();
    space.nonces.clear();
    // For a retransmission: what a new nonce may not be older than, should it turn out to be none.
    let mut repeated = None;
    if let Some((used, request)) = used {
        let mut counts = NonceCounts::decode(stored).unwrap_or_default();
        counts.prune(now, rules.authenticator.policy().nonce_lifetime);
        let not_before = counts.not_before();
        match counts.check(used, request) {
            Use::Fresh => counts.record(used, request),
            Use::Retransmission => repeated = Some(not_before),
            Use::Replay => return Decision::Stale { label: "replay", not_before },
            Use::Stale => return Decision::Stale { label: "stale", not_before },
        }
        counts.encode_into(&mut space.nonces);
    } else {
        space.nonces.extend_from_slice(stored);
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
                Decision::Stale { label: "replay", not_before }
            }
            Outcome::Registered(_) | Outcome::Retransmitted => {
                Decision::Done(Outcome::Retransmitted)
            }
            Outcome::Queried => Decision::Done(outcome),
        };
    }
    if !matches!(outcome, Outcome::Registered(_)) && space.nonces == stored {
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
