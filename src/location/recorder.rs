//! Who writes changes down before anybody is told of them.

use std::fmt;

use crate::{registrar::AorRecord, time::Now};

/// A change, as a journal needs it.
#[derive(Clone, Copy, Debug)]
pub enum Recorded<'a> {
    /// The AoR's record as it is now; without bindings and nonce counts it is gone.
    State(AorRecord<'a>),
    /// The AoR's record as it is now, of whose state with sequence `before` this recorder was told.
    /// Since then only the numbers of one binding have changed, which is now the first, and the
    /// nonce counts.
    Refresh {
        /// The record.
        record: AorRecord<'a>,
        /// The sequence it had.
        before: u64,
    },
    /// What an AoR's record would be, had nothing been saved of it: see [`super::Early`].
    Early(AorRecord<'a>),
}

/// Takes every change of a record, under the record's lock: what it is told of one AoR has the
/// order of its sequences.
pub trait Recorder: fmt::Debug {
    /// The number by which records remember who was told of them last; zero if it doesn't matter.
    fn writer(&self) -> u8;

    /// Takes a change. It must not wait, and can't refuse: what fails is dealt with later.
    fn record(&mut self, now: Now, what: Recorded<'_>);

    /// A moment without any lock, now and then, in which it may write.
    fn flush(&mut self);

    /// Whether requests that would change anything are to be turned away: it could not be kept.
    fn refuses(&self) -> bool;
}

/// Nobody: changes are in memory only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unrecorded;

impl Recorder for Unrecorded {
    fn writer(&self) -> u8 {
        0
    }

    fn record(&mut self, _: Now, _: Recorded<'_>) {}

    fn flush(&mut self) {}

    fn refuses(&self) -> bool {
        false
    }
}
