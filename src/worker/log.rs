//! A worker's way to whatever its changes are written to before they are answered.

use std::fmt;

use crate::location::{Recorder, Unrecorded};

/// Takes the changes of a worker, batch by batch.
pub trait Log: fmt::Debug + Send {
    /// Has `run` handle a batch and tell its changes, writes them all at once, and says when the
    /// answers may leave.
    fn batch(&mut self, run: &mut dyn FnMut(&mut dyn Recorder)) -> Leave;

    /// How far batches that were to wait have come.
    fn settled(&self) -> Settled;

    /// Whether batches may have to wait.
    fn waits(&self) -> bool;
}

/// When the answers of a batch may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// At once.
    Now,
    /// When [`Settled`] comes to this number.
    After(u64),
    /// Never: what they would acknowledge could not be written.
    Never,
}

/// How far batches have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Answers up to this number may leave.
    pub saved: u64,
    /// Those above it up to this number may not, ever.
    pub lost: u64,
}

impl Log for Unrecorded {
    fn batch(&mut self, run: &mut dyn FnMut(&mut dyn Recorder)) -> Leave {
        run(self);
        Leave::Now
    }

    fn settled(&self) -> Settled {
        Settled::default()
    }

    fn waits(&self) -> bool {
        false
    }
}
