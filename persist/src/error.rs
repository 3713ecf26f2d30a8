//! What goes wrong: the storage, the caller's keys, or the bytes that were found.

use std::io;

use thiserror::Error;

use crate::journal::RECORD_MAX;

/// A step on the storage that failed.
///
/// After a failed write or sync the state of that file is unknown (a kernel may mark pages clean
/// which it could not write), so it is never retried: the temporary is discarded.
#[derive(Debug, Error)]
#[error("can't {action} {name}: {source}")]
pub struct StorageError {
    /// What was tried, as a verb: `write`, `sync`, `rename`…
    pub action: &'static str,
    /// The file concerned, or `the folder`.
    pub name: String,
    /// What the operating system said.
    pub source: io::Error,
}

impl StorageError {
    /// For `map_err`: an error of `action` on `name`.
    pub(crate) fn of(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, name: name.to_owned(), source }
    }
}

/// Why a snapshot was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// An earlier step of this writer failed; what it wrote is discarded.
    #[error("an earlier write of this snapshot failed")]
    Abandoned,
    /// A key that can't stand left of `=`. Nothing of its section was written.
    #[error("{0:?} can't be a key (wanted: ASCII letters, digits, `.`, `-`, `_`)")]
    Key(String),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a record is not in the journal, or not durable there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// As many records wait as may: they have to be written first.
    #[error("too many records wait to be written")]
    Full,
    /// An earlier write or sync of this segment failed: it is used no more.
    #[error("an earlier write or sync of this segment failed")]
    Poisoned,
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A record longer than any may be. Nothing of it was kept.
    #[error("a record of {length} bytes is longer than {RECORD_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

/// Why a snapshot or a segment of a journal was not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The bytes are not those of a whole snapshot, or of any part of a segment.
    #[error("{name}: at byte {byte}: expected {expected}, found {found}")]
    Damaged {
        /// The file.
        name: String,
        /// Where, counted from 0.
        byte: u64,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A whole file, written by a later version of this program.
    #[error("{name}: format version {found} is newer than the newest known here, {known}")]
    Newer {
        /// The file.
        name: String,
        /// Its format version.
        found: u32,
        /// The newest format version that this build reads.
        known: u32,
    },
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
