//! Requests that go on to somebody else (RFC 3261 §16): transactions, forking, dialogs.
//!
//! This ring is pure: time, keys and where a request goes are arguments; what is to be sent and
//! what has happened are values.

mod call;
mod policy;
mod route;

pub use self::{
    call::{Call, CallEvent, End, Stage},
    policy::{Foreign, Mode, Network, NoNetwork, Policy},
    route::{Goal, Routed},
};
