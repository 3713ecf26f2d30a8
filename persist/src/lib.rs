//! What Bindery keeps on disk: text sections, records, checksums and files. It knows no SIP.
//!
//! [`storage`] is the folder, with a real one, one in memory and one that fails on demand.
//! [`snapshot`] writes and reads the table as text, and finds the newest usable one at a start.
//! [`journal`] keeps what was changed since, by writers that share nothing.
//! [`spool`] keeps what somebody has to be told who is away.
//! `FORMAT.md` beside this crate gives every line of the files, and the argument why a crash at
//! any moment loses nothing that was promised.
//!
//! Nothing here reads a clock or starts a thread: times are Unix seconds given by the caller, and
//! what may be done by several threads at once is called by them.

pub mod error;
pub mod journal;
pub mod snapshot;
pub mod spool;
pub mod storage;
