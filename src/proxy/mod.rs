//! Requests that go on to somebody else (RFC 3261 §16): transactions, forking, dialogs.
//!
//! This ring is pure: time, keys and where a request goes are arguments; what is to be sent and
//! what has happened are values.

mod best;
mod call;
mod context;
pub mod core;
mod effects;
mod ledger;
mod onward;
mod route;
mod timer;
pub mod token;
mod transaction;
mod way;

pub use self::{
    call::{Call, CallEvent, End, Stage},
    route::{Goal, Routed},
};
