//! What a worker counts: plain cells of its own, summed by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::cause::Cause;
use crate::{
    auth,
    flow::Transport,
    registrar,
    sip::{Method, REGISTERED_CODES, Silence, Status, code_ordinal},
};

/// Why a datagram was dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// An ACK.
    Ack,
    /// The answer is longer than a datagram.
    AnswerTooLong,
    /// From port 0, or from an unspecified, broadcast or multicast address.
    BadSource,
    /// A response that breaks the grammar.
    BadResponse,
    /// For a worker that is too far behind with what others hand to it.
    Behind,
    /// Its topmost Via can't be read.
    BadVia,
    /// Line ends only.
    Keepalive,
    /// An answer to what could not be saved, with `on_disk_error=refuse`.
    NotSaved,
    /// Not SIP.
    NotSip,
    /// A response that nobody waits for.
    Response,
    /// The kernel did not take the answer.
    SendFailed,
    /// Longer than `maxpkt`.
    Truncated,
    /// A request that waits for a back end already.
    Waiting,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 13] = [
        Self::Ack,
        Self::AnswerTooLong,
        Self::BadSource,
        Self::BadResponse,
        Self::Behind,
        Self::BadVia,
        Self::Keepalive,
        Self::NotSaved,
        Self::NotSip,
        Self::Response,
        Self::SendFailed,
        Self::Truncated,
        Self::Waiting,
    ];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::AnswerTooLong => "answer_too_long",
            Self::BadResponse => "bad_response",
            Self::Behind => "behind",
            Self::BadSource => "bad_source",
            Self::BadVia => "bad_via",
            Self::Keepalive => "keepalive",
            Self::NotSaved => "not_saved",
            Self::NotSip => "not_sip",
            Self::Response => "response",
            Self::SendFailed => "send_failed",
            Self::Truncated => "truncated",
            Self::Waiting => "waiting",
        }
    }
}

impl From<Silence> for DropReason {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Ack => Self::Ack,
            Silence::BadResponse => Self::BadResponse,
            Silence::BadVia => Self::BadVia,
            Silence::Keepalive => Self::Keepalive,
            Silence::NotSip => Self::NotSip,
            Silence::Response => Self::Response,
        }
    }
}

/// What became of a request's credentials: `auth_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthResult {
    /// The client knows the password, and the nonce was good.
    Granted,
    /// It knows the password, but the nonce has aged, or may have been used.
    Stale,
    /// Its nonce count was used before.
    Replay,
    /// There were none.
    NoCredentials,
    /// Not the Digest scheme.
    OtherScheme,
    /// For another realm.
    WrongRealm,
    /// The header can't be read.
    Malformed,
    /// The nonce is not of our making, or its key is gone.
    ForgedNonce,
    /// An algorithm that was not offered.
    UnsupportedAlgorithm,
    /// A `qop` that was not offered.
    UnsupportedQop,
    /// No such account.
    UnknownUser,
    /// The account may not authenticate.
    NoPassword,
    /// The account has no hash for that algorithm.
    NoHa1,
    /// The response is not that of the account's password.
    WrongPassword,
    /// A back end turned the user down.
    Refused,
    /// No back end could say who the user is.
    Unavailable,
}

impl AuthResult {
    /// All results.
    pub const ALL: [Self; 16] = [
        Self::Granted,
        Self::Stale,
        Self::Replay,
        Self::NoCredentials,
        Self::OtherScheme,
        Self::WrongRealm,
        Self::Malformed,
        Self::ForgedNonce,
        Self::UnsupportedAlgorithm,
        Self::UnsupportedQop,
        Self::UnknownUser,
        Self::NoPassword,
        Self::NoHa1,
        Self::WrongPassword,
        Self::Refused,
        Self::Unavailable,
    ];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Stale => "stale",
            Self::Replay => "replay",
            Self::NoCredentials => "no_credentials",
            Self::OtherScheme => "other_scheme",
            Self::WrongRealm => "wrong_realm",
            Self::Malformed => "malformed",
            Self::ForgedNonce => "forged_nonce",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnsupportedQop => "unsupported_qop",
            Self::UnknownUser => "unknown_user",
            Self::NoPassword => "no_password",
            Self::NoHa1 => "no_ha1",
            Self::WrongPassword => "wrong_password",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<auth::Refusal> for AuthResult {
    fn from(refusal: auth::Refusal) -> Self {
        match refusal {
            auth::Refusal::NoCredentials => Self::NoCredentials,
            auth::Refusal::OtherScheme => Self::OtherScheme,
            auth::Refusal::WrongRealm => Self::WrongRealm,
            auth::Refusal::Malformed(_) => Self::Malformed,
            auth::Refusal::ForgedNonce => Self::ForgedNonce,
            auth::Refusal::UnsupportedAlgorithm => Self::UnsupportedAlgorithm,
            auth::Refusal::UnsupportedQop => Self::UnsupportedQop,
            auth::Refusal::UnknownUser => Self::UnknownUser,
            auth::Refusal::NoPassword => Self::NoPassword,
            auth::Refusal::NoHa1 => Self::NoHa1,
            auth::Refusal::WrongPassword => Self::WrongPassword,
        }
    }
}

/// What became of an authorised REGISTER, or of a contact in it: `register_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterResult {
    /// A contact was bound.
    Added,
    /// A contact was bound again.
    Refreshed,
    /// A contact was removed.
    Removed,
    /// The request asked for the bindings only.
    Queried,
    /// The request had been answered before.
    Retransmitted,
    /// A contact is longer than can be stored.
    ContactTooLong,
    /// A binding had to go for a newer one.
    Evicted,
    /// A binding past its deadline went with the update.
    Expired,
    /// The AoR is not the account's.
    Forbidden,
    /// The interval is below `expires_min`.
    IntervalTooBrief,
    /// What was saved is still being read.
    Loading,
    /// The location service holds as much as it may.
    LocationFull,
    /// There is no such AoR, or its domain is not ours.
    NotFound,
    /// The journal could not take it.
    NotSaved,
    /// The CSeq is not above the stored one.
    OutOfOrder,
    /// There is a Path, and the phone does not support it.
    PathUnsupported,
    /// More than `max_contacts`.
    TooManyContacts,
    /// `Contact: *` without `Expires: 0`.
    WildcardExpires,
    /// A back end turned the registration down.
    Refused,
    /// No back end could take it, or as many requests wait for one as may.
    Unavailable,
}

impl RegisterResult {
    /// All results.
    pub const ALL: [Self; 20] = [
        Self::Added,
        Self::Refreshed,
        Self::Removed,
        Self::Queried,
        Self::Retransmitted,
        Self::ContactTooLong,
        Self::Evicted,
        Self::Expired,
        Self::Forbidden,
        Self::IntervalTooBrief,
        Self::Loading,
        Self::LocationFull,
        Self::NotFound,
        Self::NotSaved,
        Self::OutOfOrder,
        Self::PathUnsupported,
        Self::TooManyContacts,
        Self::WildcardExpires,
        Self::Refused,
        Self::Unavailable,
    ];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Refreshed => "refreshed",
            Self::Removed => "removed",
            Self::Queried => "queried",
            Self::Retransmitted => "retransmitted",
            Self::ContactTooLong => "contact_too_long",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::IntervalTooBrief => "interval_too_brief",
            Self::Loading => "loading",
            Self::LocationFull => "location_full",
            Self::NotFound => "not_found",
            Self::NotSaved => "not_saved",
            Self::OutOfOrder => "out_of_order",
            Self::PathUnsupported => "path_unsupported",
            Self::TooManyContacts => "too_many_contacts",
            Self::WildcardExpires => "wildcard_expires",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<registrar::Refusal> for RegisterResult {
    fn from(refusal: registrar::Refusal) -> Self {
        match refusal {
            registrar::Refusal::ContactTooLong => Self::ContactTooLong,
            registrar::Refusal::IntervalTooBrief { .. } => Self::IntervalTooBrief,
            registrar::Refusal::OutOfOrder => Self::OutOfOrder,
            registrar::Refusal::PathUnsupported => Self::PathUnsupported,
            registrar::Refusal::TooManyContacts => Self::TooManyContacts,
            registrar::Refusal::WildcardExpires => Self::WildcardExpires,
        }
    }
}

/// Methods with a cell: the registered ones, and one for all others.
pub const METHODS: usize = Method::REGISTERED.len() + 1;

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owner of the cell may: it is a load and a store, not a locked
    /// addition.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counters.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [[Counter; Transport::ALL.len()]; METHODS],
    responses: [ByCode; METHODS],
    drops: [Counter; DropReason::ALL.len()],
    auth: [Counter; AuthResult::ALL.len()],
    registers: [Counter; RegisterResult::ALL.len()],
    refused: [Counter; Cause::ALL.len()],
}

/// A counter for each of [`REGISTERED_CODES`].
#[derive(Debug)]
struct ByCode([Counter; REGISTERED_CODES.len()]);

impl Default for ByCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// All workers' counters.
pub type AllCounters = [CachePadded<Counters>];

impl Counters {
    pub(super) fn request(&self, method: &Method<'_>, transport: Transport) {
        self.requests[method.ordinal()][usize::from(transport.code())].add(1);
    }

    pub(super) fn response(&self, method: &Method<'_>, status: Status) {
        self.responded(method.ordinal(), status.code);
    }

    /// A response to a request whose method has this [`Method::ordinal`].
    pub(super) fn responded(&self, method: usize, code: u16) {
        if let Some(ByCode(codes)) = self.responses.get(method) {
            codes[code_ordinal(code)].add(1);
        }
    }

    pub(super) fn dropped(&self, reason: DropReason, count: u64) {
        self.drops[reason as usize].add(count);
    }

    pub(super) fn auth(&self, result: AuthResult) {
        self.auth[result as usize].add(1);
    }

    pub(super) fn register(&self, result: RegisterResult, count: u64) {
        self.registers[result as usize].add(count);
    }

    /// An INVITE was answered here.
    pub(super) fn refused(&self, cause: Cause) {
        self.refused[cause as usize].add(1);
    }

    /// Requests of a method by [`Method::ordinal`].
    pub fn requests(&self, method: usize, transport: Transport) -> u64 {
        self.requests.get(method).map_or(0, |m| m[usize::from(transport.code())].value())
    }

    /// Responses to a method by [`Method::ordinal`], with a code by its place in
    /// [`REGISTERED_CODES`].
    pub fn responses(&self, method: usize, code: usize) -> u64 {
        self.responses.get(method).and_then(|m| m.0.get(code)).map_or(0, Counter::value)
    }

    /// Datagrams dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    /// Requests with credentials of which this became.
    pub fn auths(&self, result: AuthResult) -> u64 {
        self.auth[result as usize].value()
    }

    /// INVITEs that were answered here for this cause.
    pub fn refusals(&self, cause: Cause) -> u64 {
        self.refused[cause as usize].value()
    }

    /// REGISTERs, or their contacts, of which this became.
    pub fn registers(&self, result: RegisterResult) -> u64 {
        self.registers[result as usize].value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_stand_where_they_count() {
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{}", reason.label());
        }
        for (at, result) in AuthResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at, "{}", result.label());
        }
        for (at, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, at, "{}", cause.label());
        }
        for (at, result) in RegisterResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at, "{}", result.label());
        }
    }
}
