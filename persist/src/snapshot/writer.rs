//! Writes one snapshot: streamed to a temporary, synced, then published by a rename.

use crc32fast::Hasher;

use super::text;
use super::{General, Generations, Origin, Summary};
use crate::error::{StorageError, WriteError};
use crate::storage::Output;

/// Bytes gathered before they go to the storage: large enough that system calls cost nothing
/// beside formatting, small enough to stay in a core's cache.
const BUFFER: usize = 256 << 10;

/// Sections on their way to a [`Writer`]: threads that have one each make them side by side.
#[derive(Debug, Default)]
pub struct Sections {
    text: Vec<u8>,
    sections: u64,
    bindings: u64,
}

impl Sections {
    /// Adds a section, as [`Writer::section`] does.
    pub fn section<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        name: &[u8],
        bindings: u64,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), WriteError> {
        let start = self.text.len();
        text::encode_name(&mut self.text, name);
        for (key, value) in pairs {
            let key = key.as_ref();
            if !text::is_key(key) {
                self.text.truncate(start);
                return Err(WriteError::Key(String::from_utf8_lossy(key).into_owned()));
            }
            text::encode_pair(&mut self.text, key, value.as_ref());
        }
        self.sections += 1;
        self.bindings += bindings;
        Ok(())
    }

    /// Whether there are so many that it is time to give them to the writer.
    pub fn is_full(&self) -> bool {
        self.text.len() >= BUFFER
    }

    fn clear(&mut self) {
        self.text.clear();
        (self.sections, self.bindings) = (0, 0);
    }
}

/// A snapshot being written, made by [`Generations::begin`].
///
/// Memory is bounded by one buffer and one section. Dropped before [`Writer::finish`], it takes
/// its temporary away, and what was published before stays as it was.
pub struct Writer<'a> {
    generations: &'a Generations,
    /// `None` once published, or when there is nothing to take away.
    file: Option<Box<dyn Output>>,
    temporary: String,
    buffer: Sections,
    general: General,
    /// Checksum and length of what follows the head, as far as written.
    body: Hasher,
    bytes: u64,
    sections: u64,
    bindings: u64,
    failed: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        generations: &'a Generations,
        temporary: String,
        file: Box<dyn Output>,
        general: General,
    ) -> Result<Self, StorageError> {
        let mut writer = Self {
            generations,
            file: Some(file),
            temporary,
            buffer: Sections::default(),
            general,
            body: Hasher::new(),
            bytes: 0,
            sections: 0,
            bindings: 0,
            failed: false,
        };
        let head = text::encode_head(general, 0, 0);
        writer.bytes = head.len() as u64;
        writer.with_file("write", |file| file.append(&head))?;
        Ok(writer)
    }

    /// Adds a section of `key=value` lines, which stands for `bindings` bindings.
    ///
    /// Name and values may be any bytes and come back as they are. Names are not checked for
    /// being there already: a reader gets both sections.
    pub fn section<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        name: &[u8],
        bindings: u64,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Abandoned);
        }
        self.buffer.section(name, bindings, pairs)?;
        if self.buffer.is_full() { Ok(self.flush()?) } else { Ok(()) }
    }

    /// Adds sections that were made elsewhere, and empties what they were made in.
    pub fn append(&mut self, sections: &mut Sections) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Abandoned);
        }
        self.flush()?;
        self.write(sections)?;
        Ok(())
    }

    /// Bytes so far, those among them that the storage has not got yet: for whoever wants to write
    /// no more than so many in a second.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.buffer.text.len() as u64
    }

    /// Publishes the snapshot: when this returns, it is on the medium under its name.
    ///
    /// After an error either this snapshot or the one before it is what a start finds; never
    /// count on this one.
    pub fn finish(mut self) -> Result<Summary, WriteError> {
        if self.failed {
            return Err(WriteError::Abandoned);
        }
        // A blank line before the last one, as before every section.
        self.buffer.text.push(b'\n');
        self.flush()?;
        let head = text::encode_head(self.general, self.sections, self.bindings);
        let mut crc = Hasher::new();
        crc.update(&head);
        crc.combine(&self.body);
        let last = text::encode_checksum(crc.finalize());
        self.bytes += last.len() as u64;
        self.with_file("write", |file| file.append(&last))?;
        self.with_file("write", |file| file.patch(0, &head))?;
        self.with_file("sync", |file| file.sync())?;
        self.generations.publish(&self.temporary)?;
        // The name is given: from here on there is no temporary to take away.
        self.file = None;
        self.generations.settle()?;
        Ok(Summary {
            origin: Origin::Bindery { version: text::version(self.general), general: self.general },
            sections: self.sections,
            bindings: self.bindings,
            dropped: 0,
            bytes: self.bytes,
        })
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write(&mut buffer)?;
        self.buffer = buffer;
        Ok(())
    }

    fn write(&mut self, sections: &mut Sections) -> Result<(), StorageError> {
        if !sections.text.is_empty() {
            self.body.update(&sections.text);
            self.bytes += sections.text.len() as u64;
            self.sections += sections.sections;
            self.bindings += sections.bindings;
            self.with_file("write", |file| file.append(&sections.text))?;
            sections.clear();
        }
        Ok(())
    }

    fn with_file(
        &mut self,
        action: &'static str,
        act: impl FnOnce(&mut dyn Output) -> std::io::Result<()>,
    ) -> Result<(), StorageError> {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        let done = act(file.as_mut()).map_err(StorageError::of(action, &self.temporary));
        self.failed |= done.is_err();
        done
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // If this fails too, the next begin takes it away.
            let _ = self.generations.storage().remove(&self.temporary);
        }
    }
}
