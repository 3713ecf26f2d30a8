//! What a worker counts: plain cells of its own, summed by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::{
    flow::Transport,
    sip::{Method, Silence, Status},
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
    /// Its topmost Via can't be read.
    BadVia,
    /// Line ends only.
    Keepalive,
    /// An answer to what could not be saved, with `on_disk_error=refuse`.
    NotSaved,
    /// Not SIP.
    NotSip,
    /// A response.
    Response,
    /// The kernel did not take the answer.
    SendFailed,
    /// Longer than `maxpkt`.
    Truncated,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Ack,
        Self::AnswerTooLong,
        Self::BadSource,
        Self::BadVia,
        Self::Keepalive,
        Self::NotSaved,
        Self::NotSip,
        Self::Response,
        Self::SendFailed,
        Self::Truncated,
    ];

    /// The value of the `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::AnswerTooLong => "answer_too_long",
            Self::BadSource => "bad_source",
            Self::BadVia => "bad_via",
            Self::Keepalive => "keepalive",
            Self::NotSaved => "not_saved",
            Self::NotSip => "not_sip",
            Self::Response => "response",
            Self::SendFailed => "send_failed",
            Self::Truncated => "truncated",
        }
    }
}

impl From<Silence> for DropReason {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Ack => Self::Ack,
            Silence::BadVia => Self::BadVia,
            Silence::Keepalive => Self::Keepalive,
            Silence::NotSip => Self::NotSip,
            Silence::Response => Self::Response,
        }
    }
}

/// What became of a request's credentials: the labels of `auth_total`.
pub const AUTH_RESULTS: [&str; 14] = [
    "granted",
    "stale",
    "replay",
    "no_credentials",
    "other_scheme",
    "wrong_realm",
    "malformed",
    "forged_nonce",
    "unsupported_algorithm",
    "unsupported_qop",
    "unknown_user",
    "no_password",
    "no_ha1",
    "wrong_password",
];

/// What became of an authorised REGISTER: the labels of `register_total`.
pub const REGISTER_RESULTS: [&str; 18] = [
    "added",
    "refreshed",
    "removed",
    "queried",
    "retransmitted",
    "contact_too_long",
    "evicted",
    "expired",
    "forbidden",
    "interval_too_brief",
    "loading",
    "location_full",
    "not_found",
    "not_saved",
    "out_of_order",
    "path_unsupported",
    "too_many_contacts",
    "wildcard_expires",
];

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
    responses: [[Counter; RESPONSE_CODES]; METHODS],
    drops: [Counter; DropReason::ALL.len()],
    auth: [Counter; AUTH_RESULTS.len()],
    registers: [Counter; REGISTER_RESULTS.len()],
}

const RESPONSE_CODES: usize = Status::ALL.len();

/// All workers' counters.
pub type AllCounters = [CachePadded<Counters>];

impl Counters {
    pub(super) fn request(&self, method: &Method<'_>, transport: Transport) {
        self.requests[method.ordinal()][usize::from(transport.code())].add(1);
    }

    pub(super) fn response(&self, method: &Method<'_>, status: Status) {
        if let Some(code) = status.ordinal() {
            self.responses[method.ordinal()][code].add(1);
        }
    }

    pub(super) fn dropped(&self, reason: DropReason, count: u64) {
        self.drops[reason as usize].add(count);
    }

    pub(super) fn auth(&self, label: &'static str) {
        count_label(&self.auth, &AUTH_RESULTS, label, 1);
    }

    pub(super) fn register(&self, label: &'static str, count: u64) {
        count_label(&self.registers, &REGISTER_RESULTS, label, count);
    }

    /// Requests of a method by [`Method::ordinal`].
    pub fn requests(&self, method: usize, transport: Transport) -> u64 {
        self.requests.get(method).map_or(0, |m| m[usize::from(transport.code())].value())
    }

    /// Responses to a method by [`Method::ordinal`], with a code by its place in [`Status::ALL`].
    pub fn responses(&self, method: usize, code: usize) -> u64 {
        self.responses.get(method).and_then(|m| m.get(code)).map_or(0, Counter::value)
    }

    /// Datagrams dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    /// Results by their place in [`AUTH_RESULTS`].
    pub fn auths(&self) -> impl Iterator<Item = u64> {
        self.auth.iter().map(Counter::value)
    }

    /// Results by their place in [`REGISTER_RESULTS`].
    pub fn registers(&self) -> impl Iterator<Item = u64> {
        self.registers.iter().map(Counter::value)
    }
}

fn count_label(cells: &[Counter], labels: &[&str], label: &str, count: u64) {
    let position = labels.iter().position(|&l| l == label);
    debug_assert!(position.is_some(), "{label} has no cell");
    if let Some(cell) = position.and_then(|at| cells.get(at)) {
        cell.add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_where_they_count() {
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{}", reason.label());
        }
    }
}
