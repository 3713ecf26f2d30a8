//! The folder that everything is kept in, as a handful of steps that can each fail.
//!
//! What a step promises is what a file system promises, no more: bytes are on the medium after
//! [`Output::sync`], names after [`Storage::sync_folder`], and a rename happens whole or not at
//! all. Callers are tested against [`memory::MemoryStorage`], which keeps exactly that promise.

pub mod faulty;
pub mod file;
pub mod memory;

use std::io;

use crate::error::StorageError;

/// What errors call the folder itself.
pub(crate) const FOLDER: &str = "the folder";

/// A flat folder of files.
pub trait Storage: Send + Sync {
    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file that is not there yet.
    fn create(&self, name: &str) -> io::Result<Box<dyn Output>>;

    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Box<dyn Input>>;

    /// Gives a file another name; a file of that name is replaced in the same step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a name away.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when every `create`, `rename` and `remove` so far is on the medium.
    fn sync_folder(&self) -> io::Result<()>;
}

/// A file being written.
pub trait Output: Send {
    /// Adds all of `bytes` at the end. After an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes `bytes` over what was appended at `offset` before.
    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written so far is on the medium.
    fn sync(&mut self) -> io::Result<()>;

    /// Something that syncs the same file from another thread, while this one goes on writing.
    fn syncer(&self) -> Box<dyn Syncer>;
}

/// Syncs a file that an [`Output`] writes. It outlives the output.
pub trait Syncer: Send + Sync {
    /// Returns when the bytes that were written before the call, and the length that is needed to
    /// find them, are on the medium.
    ///
    /// An error is told once: the kernel may mark clean what it could not write, so that the next
    /// call succeeds. After an error nothing may be believed of what was not synced before.
    fn sync_data(&self) -> io::Result<()>;
}

/// A file being read, by as many threads as like to.
pub trait Input: Send + Sync {
    /// Its length in bytes when it was opened.
    fn size(&self) -> u64;

    /// Reads at `offset` until `into` is full or the file ends; returns how many bytes.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// Gives a file that can't be used another name, `*.corrupt` (`*.corrupt.1`… where that is taken),
/// and makes that durable. Returns the name.
pub(crate) fn set_aside(storage: &dyn Storage, name: &str) -> Result<String, StorageError> {
    let names = storage.list().map_err(StorageError::of("list", FOLDER))?;
    let aside = (0..=names.len())
        .map(|n| if n == 0 { format!("{name}.corrupt") } else { format!("{name}.corrupt.{n}") })
        .find(|aside| !names.contains(aside))
        .unwrap_or_else(|| format!("{name}.corrupt"));
    storage.rename(name, &aside).map_err(StorageError::of("rename", name))?;
    storage.sync_folder().map_err(StorageError::of("sync", FOLDER))?;
    Ok(aside)
}
