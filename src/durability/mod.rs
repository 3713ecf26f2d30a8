//! Bindings on disk: what is written every so often, and read at the start (DESIGN: `persist`
//! knows the bytes, this knows what they mean).

mod convert;
mod restore;
mod snapshotter;

pub use self::{
    restore::{RestoreError, Restored, restore},
    snapshotter::{Request, SnapshotStatus, Snapshotter, Taken},
};
