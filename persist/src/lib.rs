//! What Bindery keeps on disk: text sections, checksums and files. It knows no SIP.
//!
//! [`storage`] is the folder, with a real one, one in memory and one that fails on demand.
//! [`snapshot`] writes and reads the table as text, and finds the newest usable one at a start.
//! `FORMAT.md` beside this crate gives every line of the files, and the argument why a crash at
//! any moment leaves one of them whole.
//!
//! Nothing here reads a clock: times are Unix seconds given by the caller.

pub mod error;
pub mod snapshot;
pub mod storage;
