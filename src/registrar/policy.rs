//! The limits a registrar grants within: what `[registrar]` in `bindery.conf` resolves to.

use crate::time::DeltaSeconds;

/// How a REGISTER is judged and what it may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The shortest time granted; a shorter non-zero request draws 423 (RFC 3261 §10.3 step 7).
    pub expires_min: DeltaSeconds,
    /// The time granted when the request names none.
    pub expires_def: DeltaSeconds,
    /// The longest time granted; longer requests are shortened to it.
    pub expires_max: DeltaSeconds,
    /// How many bindings an AoR may have.
    pub max_contacts: u16,
    /// What happens to one more.
    pub on_limit: OnLimit,
    /// How strictly CSeq orders the requests of a Call-ID.
    pub cseq: CseqOrder,
    /// `P-NAT-Refresh` in a 200 to a client behind NAT, in seconds; zero sends none.
    pub nat_refresh: DeltaSeconds,
    /// Whether a REGISTER must carry valid credentials.
    pub auth_required: bool,
    /// How many bindings the location service holds in all; zero means no bound.
    pub max_bindings: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            expires_min: DeltaSeconds(60),
            expires_def: DeltaSeconds(600),
            expires_max: DeltaSeconds(3600),
            max_contacts: 10,
            on_limit: OnLimit::Reject,
            cseq: CseqOrder::Strict,
            nat_refresh: DeltaSeconds(25),
            auth_required: true,
            max_bindings: 0,
        }
    }
}

/// What a REGISTER that would exceed `max_contacts` draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLimit {
    /// The oldest binding gives way.
    EvictOldest,
    /// 503 with Retry-After; clients take 403 for a wrong password and loop.
    Reject,
}

/// How a CSeq that is not higher than the stored one is taken (RFC 3261 §10.3 step 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CseqOrder {
    /// Phones that reboot with a low CSeq, or reuse one, are let in.
    Lenient,
    /// The request fails.
    Strict,
}
