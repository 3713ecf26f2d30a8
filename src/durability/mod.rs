//! Bindings on disk: what is written before an answer and every so often, and read at the start
//! (DESIGN: `persist` knows the bytes, this knows what they mean).

mod change;
mod convert;
mod journal;
mod recovery;
mod snapshotter;

pub use self::{
    journal::{Journal, JournalCounts, WorkerLane},
    recovery::{Basis, Outlook, Progress, RestoreError, Restored, Saved},
    snapshotter::{Pace, Request, SnapshotStatus, Snapshotter, Taken},
};
