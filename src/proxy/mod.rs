//! Requests that go on to somebody else (RFC 3261 §16): transactions, forking, dialogs.
//!
//! This ring is pure: time, keys and where a request goes are arguments; what is to be sent and
//! what has happened are values.

mod answering;
mod best;
mod call;
mod context;
mod core;
mod deny;
mod effects;
mod hop;
mod kit;
mod ledger;
mod onward;
mod policy;
mod probe;
mod route;
pub mod timer;
pub mod token;
pub mod transaction;
mod unsent;
mod way;

pub use self::{
    call::{Call, CallEvent, End, Parties, Stage},
    context::Target,
    core::{ContextId, Core, Matched, Plan, Refused, Terms},
    deny::{Deny, INTERNAL, NONE},
    effects::Effects,
    hop::{By, DEFAULT_PORT, Hop, Named, Resolved, Unreachable, numeric},
    kit::owner,
    onward::max_forwards,
    policy::{Foreign, Mode, Network, NoNetwork, Policy, ProbeBy},
    probe::Probed,
    route::{Goal, Routed},
    token::{Side, TokenKey},
};

#[cfg(test)]
mod tests;
