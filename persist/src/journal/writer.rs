//! Writes one segment: the records of a batch as one frame, in one write.

use super::layout::{FRAME_HEAD_LEN, FRAME_MAX, FrameHead, Head, LENGTH_LEN, RECORD_MAX};
use super::{SegmentId, SyncHandle};
use crate::error::{JournalError, StorageError};
use crate::storage::{FOLDER, Output, Storage};

/// Records wait for [`Writer::write`] in at most this many octets: some frames of the largest
/// size, where a batch of ordinary records has a few thousand.
pub const PENDING_MAX: usize = 8 << 20;

/// The one writer of a segment.
///
/// A write that fails, or a sync, leaves the file in a state that nobody knows: from then on every
/// call says so, and a segment of a later generation has to be begun.
pub struct Writer {
    id: SegmentId,
    output: Box<dyn Output>,
    handle: SyncHandle,
    length: u64,
    frames: u64,
    records: u64,
    failed: bool,
    pending: Pending,
}

impl Writer {
    /// Begins a segment, which must not be there yet; `begun` is now, in Unix seconds.
    ///
    /// When this returns, the segment and its name are on the medium, so that its frames need
    /// nothing but [`SyncHandle::sync`]. That takes two syncs: threads that must not wait are
    /// given their writers by another one.
    pub fn create(storage: &dyn Storage, id: SegmentId, begun: u64) -> Result<Self, StorageError> {
        let writer = Self::create_file(storage, id, 0, begun)?;
        if let Err(error) = storage.sync_folder().map_err(StorageError::of("sync", FOLDER)) {
            let _ = storage.remove(&id.to_string());
            return Err(error);
        }
        Ok(writer)
    }

    /// Begins all segments of a generation, those of so many writers from 0 on, as
    /// [`Writer::create`] does: each knows how many there are, so that one that is missing is
    /// missed. The folder is synced once.
    ///
    /// # Errors
    /// Then none of them is there, but for those that can't be removed either.
    pub fn create_all(
        storage: &dyn Storage,
        generation: u32,
        writers: u16,
        begun: u64,
    ) -> Result<Vec<Self>, StorageError> {
        let mut made = Vec::new();
        let create = |writer: u16| {
            let id = SegmentId::new(generation, writer).ok_or_else(|| used_up(generation))?;
            made.push(Self::create_file(storage, id, writers, begun)?);
            Ok(())
        };
        let done = (0..writers)
            .try_for_each(create)
            .and_then(|()| storage.sync_folder().map_err(StorageError::of("sync", FOLDER)));
        if let Err(error) = done {
            // Empty ones would stand in the way of the next attempt, and of the disk.
            for writer in made {
                let _ = storage.remove(&writer.id.to_string());
            }
            return Err(error);
        }
        Ok(made)
    }

    fn create_file(
        storage: &dyn Storage,
        id: SegmentId,
        writers: u16,
        begun: u64,
    ) -> Result<Self, StorageError> {
        let name = id.to_string();
        let mut output = storage.create(&name).map_err(StorageError::of("create", &name))?;
        let head = Head::new(id, writers, begun).encode();
        let written = output
            .append(&head)
            .map_err(StorageError::of("write", &name))
            .and_then(|()| output.sync().map_err(StorageError::of("sync", &name)));
        if let Err(error) = written {
            let _ = storage.remove(&name);
            return Err(error);
        }
        let length = head.len() as u64;
        let handle = SyncHandle::new(id, length, output.syncer());
        let pending = Pending::default();
        Ok(Self { id, output, handle, length, frames: 0, records: 0, failed: false, pending })
    }

    /// Adds a record, which `fill` puts into an empty buffer; [`Writer::write`] writes it.
    ///
    /// Nothing is allocated once the buffers have grown to what batches need.
    ///
    /// # Errors
    /// Nothing was added: the record is longer than [`RECORD_MAX`], [`PENDING_MAX`] is reached, or
    /// the writer has failed before.
    pub fn record(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), JournalError> {
        self.check()?;
        self.pending.push(fill)
    }

    /// Gives all records since the last call to the kernel, in one write. Returns the segment's
    /// length with them: a [`SyncHandle::sync`] that returns as much has made them durable.
    ///
    /// When this returns, they outlive the process, but not yet the machine.
    ///
    /// # Errors
    /// Any part of them may be in the segment. They are dropped here.
    pub fn write(&mut self) -> Result<u64, JournalError> {
        let checked = self.check();
        let pending = &mut self.pending;
        if checked.is_ok() && !pending.octets.is_empty() {
            pending.seal(self.id, self.length);
            if let Err(error) = self.output.append(&pending.octets) {
                self.failed = true;
                pending.clear();
                return Err(StorageError::of("write", &self.id.to_string())(error).into());
            }
            self.length += pending.octets.len() as u64;
            self.frames += pending.starts.len() as u64;
            self.records += pending.records();
            self.handle.note_written(self.length);
        }
        pending.clear();
        checked.map(|()| self.length)
    }

    /// Goes on with the segment of `next`, to which nothing was recorded yet, and takes records
    /// that are not written yet along. Returns the writer of the segment before: that it is here
    /// says that its thread writes there no more.
    ///
    /// No system call is made, and nothing can fail.
    pub fn replace(&mut self, next: Self) -> Self {
        let mut before = std::mem::replace(self, next);
        std::mem::swap(&mut self.pending, &mut before.pending);
        before
    }

    /// For the thread that syncs.
    pub fn handle(&self) -> SyncHandle {
        self.handle.clone()
    }

    /// Which segment.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Octets of the segment, as far as the kernel has them.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Frames that were written.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Records that were written.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Octets that wait for [`Writer::write`].
    pub fn pending(&self) -> usize {
        self.pending.octets.len()
    }

    /// Whether a write or a sync has failed.
    pub fn is_failed(&self) -> bool {
        self.failed || self.handle.is_failed()
    }

    fn check(&self) -> Result<(), JournalError> {
        if self.is_failed() { Err(JournalError::Poisoned) } else { Ok(()) }
    }
}

/// Three years of a rotation a second.
fn used_up(generation: u32) -> StorageError {
    let source = std::io::Error::other("the numbers are used up");
    StorageError::of("create", &format!("a segment of generation {generation}"))(source)
}

/// Records that wait, laid out as frames whose heads are filled in when their place is known.
#[derive(Default)]
struct Pending {
    octets: Vec<u8>,
    /// Where each frame starts, and how many records it has.
    starts: Vec<(usize, u32)>,
    scratch: Vec<u8>,
}

impl Pending {
    fn push(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), JournalError> {
        self.scratch.clear();
        fill(&mut self.scratch);
        let length = self.scratch.len();
        if length > RECORD_MAX {
            self.scratch = Vec::new();
            return Err(JournalError::TooLong { length });
        }
        if self.octets.len() + FRAME_HEAD_LEN + LENGTH_LEN + length > PENDING_MAX {
            return Err(JournalError::Full);
        }
        let fits = self.starts.last().is_some_and(|(start, _)| {
            self.octets.len() - start + LENGTH_LEN + length <= FRAME_HEAD_LEN + FRAME_MAX
        });
        if !fits {
            self.starts.push((self.octets.len(), 0));
            self.octets.extend_from_slice(&[0; FRAME_HEAD_LEN]);
        }
        if let Some((_, count)) = self.starts.last_mut() {
            *count += 1;
        }
        let length = u32::try_from(length).map_err(|_| JournalError::TooLong { length })?;
        self.octets.extend_from_slice(&length.to_le_bytes());
        self.octets.extend_from_slice(&self.scratch);
        Ok(())
    }

    /// Fills in the heads, for a segment that has `length` octets before these.
    fn seal(&mut self, id: SegmentId, length: u64) {
        let mut rest = self.octets.as_mut_slice();
        for &(start, count) in self.starts.iter().rev() {
            let (before, frame) = rest.split_at_mut(start);
            FrameHead::seal(id, length + start as u64, count, frame);
            rest = before;
        }
    }

    fn records(&self) -> u64 {
        self.starts.iter().map(|&(_, count)| u64::from(count)).sum()
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.starts.clear();
    }
}
