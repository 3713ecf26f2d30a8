//! The rules of RFC 3261 §10.3: the heart of the program.
//!
//! [`register()`] sees one record and one request and decides what the record becomes. It has no
//! map, socket or clock, so that every rule can be tried with two values and a moment.
//!
//! The steps of §10.3, and where they are:
//!
//! | step | what | where |
//! |---|---|---|
//! | 1 | Request-URI names our domain | `worker::pipeline`, [`Domains`] |
//! | 2 | Require | `worker::pipeline` |
//! | 3 | authentication | [`crate::auth`] |
//! | 4 | authorisation | `worker::pipeline` |
//! | 5 | canonical address-of-record | [`Aor`] |
//! | 6 | `Contact: *` | [`register()`] |
//! | 7 | each contact | [`register()`], or [`Refresh`] where only numbers change |
//! | 8 | the 200 with all bindings | `worker::answer` |

mod agent;
mod aor;
mod binding;
pub mod nat;
mod outcome;
pub mod policy;
mod record;
mod refresh;
mod register;

pub(crate) use self::record::{set_scheduled, set_sequence, set_writer};
pub use self::{
    agent::{PLACES as AGENT_PLACES, places_taken as agent_places_taken},
    aor::{Aor, Domains},
    binding::{Binding, MAX_AGENT},
    outcome::{Changes, Outcome, Refusal},
    policy::Policy,
    record::{AorRecord, RecordWriter},
    refresh::Refresh,
    register::{Register, Wanted, Workspace, register},
};

#[cfg(test)]
pub(crate) use self::binding::tests::binding as binding_for_tests;
