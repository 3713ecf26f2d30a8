//! The data plane: threads that answer datagrams, each on a CPU of its own.
//!
//! [`Pipeline`] is one datagram's way through every layer and has no socket; [`Worker`] is the
//! loop around it.

mod answer;
mod calls;
mod cause;
pub mod counters;
mod decide;
mod exchange;
mod hops;
mod log;
mod outbox;
mod owner;
pub mod parking;
mod pipeline;
mod refusals;
mod register;
mod rules;
mod spent;
mod turn;
mod ways;

pub use self::{
    calls::{CallLog, Calls, CallsShared},
    cause::Cause,
    counters::{AllCounters, Counters, DropReason},
    hops::{Hop, Hops},
    log::{Leave, Log, Settled},
    pipeline::{Answers, Arrived, Handled, Pipeline},
    rules::{AskAuth, AskRegister, Elsewhere, Installed, Rules, Scripts, SharedRules},
    spent::Spent,
    turn::{Listening, Worker},
    ways::LookedUp,
};
