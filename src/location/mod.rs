//! The location service: where every phone is (RFC 3261 §10.1).
//!
//! A sharded map from canonical AoR to one compact record. Who changes a record gets it under its
//! shard's lock, in a closure, and the guard never leaves this module, so nobody can hold one
//! while waiting for anything else. What must not happen under a shard's lock is said at
//! [`Location::update`].
//!
//! Lock order: a map shard, then a wheel or the slab's list of free chunks; never a map shard while
//! holding another, but for one of the early map before one of the map itself ([`Early`]).

mod difference;
mod early;
mod entry;
mod expiry;
mod feed;
mod recorder;
mod slab;
mod store;
mod trail;

pub use self::{
    difference::Difference,
    early::Early,
    entry::Entry,
    feed::{Cause, Change, Subscription},
    recorder::{Recorded, Recorder, Unrecorded},
    store::{AorKey, Location, LocationFull},
    trail::{Trace, Trail},
};
