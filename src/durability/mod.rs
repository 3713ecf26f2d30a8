//! Bindings on disk: what is written before an answer and every so often, and read at the start
//! (DESIGN: `persist` knows the bytes, this knows what they mean).

mod change;
mod convert;
mod journal;
mod offline;
mod recovery;
mod room;
mod snapshotter;

pub use self::{
    change::Listeners,
    journal::{Journal, JournalCounts, WorkerLane},
    offline::{CompactError, Contents, File, Folder},
    recovery::{Basis, Outlook, Progress, RestoreError, Restored, Saved},
    snapshotter::{Last, Pace, Request, SnapshotStatus, Snapshotter, Taken},
};

/// The snapshot's name in the state folder, unless regfile.conf says `file=`.
pub const SNAPSHOT: &str = "regfile.snapshot";
