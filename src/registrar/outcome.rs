//! What a REGISTER comes to.

use crate::{sip::Status, time::DeltaSeconds};

/// A REGISTER that succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bindings were asked for; none is touched.
    Queried,
    /// The request that made one of the bindings, again: none is touched.
    Retransmitted,
    /// The bindings are to be what the workspace holds.
    Registered(Changes),
}

/// How many bindings a REGISTER touches, by what happens to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Bound for the first time.
    pub added: u16,
    /// Bound again.
    pub refreshed: u16,
    /// No longer bound, as asked.
    pub removed: u16,
    /// Found to be past their deadline.
    pub expired: u16,
    /// No longer bound, to make room (`on_limit=evict_oldest`).
    pub evicted: u16,
}

impl Changes {
    /// Whether any binding is touched; those that end by themselves don't count.
    pub fn touch_any(&self) -> bool {
        (self.added, self.refreshed, self.removed, self.evicted) != (0, 0, 0, 0)
    }
}

/// Why a REGISTER fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A text of a contact is longer than a binding can hold.
    ContactTooLong,
    /// A contact asks for less than the least that is granted.
    IntervalTooBrief {
        /// The least.
        min: DeltaSeconds,
    },
    /// Its CSeq is not higher than that of a binding with the same Call-ID.
    OutOfOrder,
    /// It came over a Path that the client does not say it knows (RFC 3327 §5.3): the phone would
    /// not know that what it is sent takes that path.
    PathUnsupported,
    /// The AoR would have more bindings than `max_contacts`.
    TooManyContacts,
    /// `Contact: *` without `Expires: 0`.
    WildcardExpires,
}

impl Refusal {
    /// The answer.
    pub fn status(self) -> Status {
        match self {
            Self::ContactTooLong => Status::BAD_REQUEST.because("Too Long Contact"),
            Self::IntervalTooBrief { .. } => Status::INTERVAL_TOO_BRIEF,
            Self::OutOfOrder => Status::BAD_REQUEST.because("CSeq Out of Order"),
            Self::PathUnsupported => Status::BAD_EXTENSION,
            Self::TooManyContacts => Status::SERVICE_UNAVAILABLE.because("Too Many Contacts"),
            Self::WildcardExpires => Status::BAD_REQUEST.because("Contact * Needs Expires 0"),
        }
    }
}
