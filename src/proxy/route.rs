//! Where the handlers of `call.route` say that a request goes.

/// What the handlers made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed {
    /// There: the goals of a group are tried together, and the groups one after the other until
    /// one is reached. There is at least one group, and none is empty.
    To(Vec<Vec<Goal>>),
    /// None of them knows who is called.
    Unknown,
    /// One of them knows, and refuses: a code from 300 to 699.
    Refused(u16),
}

/// One place where a request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Wherever this AoR of ours is bound, by the contacts' order of preference.
    Aor(Box<[u8]>),
    /// This SIP URI, as a handler names it.
    Uri(Box<[u8]>),
    /// This SIP URI, which only the caller names: `foreign_deny` says where that may not lead.
    Foreign(Box<[u8]>),
}
