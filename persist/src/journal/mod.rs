//! What was changed since the last snapshot: segments of frames of records.
//!
//! A record is some octets that the caller understands. [`Writer::record`] gathers the records of
//! a batch and [`Writer::write`] gives them to the kernel in one write, as a *frame* with a
//! checksum. Each thread has a writer on a file of its own, a *segment*; a *rotation* gives each
//! thread the writer of a segment of the next *generation* ([`Writer::replace`]), and a snapshot
//! says with which generation what came after it begins. [`SyncHandle::sync`] makes what was
//! written durable, from another thread. After a crash [`read`] delivers every whole frame of a
//! segment, and tells what is missing.
//!
//! `FORMAT.md` beside this crate has every octet, and what a caller has to keep to.

mod layout;
mod missing;
mod reader;
mod segment;
mod sync;
mod writer;

pub use layout::{FRAME_MAX, HEAD_LEN, RECORD_MAX, VERSION};
pub use missing::{Missing, missing};
pub use reader::{GAPS_MAX, Gap, Record, Segment, UNREADABLE_MAX, read};
pub use segment::{Pruned, SegmentId, first_free, prune, segments, set_aside};
pub use sync::SyncHandle;
pub use writer::{PENDING_MAX, Writer};
