//! One pass over a file, in parts that threads take as they come.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crc32fast::Hasher;
use memchr::memmem;

use super::section::{Section, last_section, next_section, starts_section};
use super::text;
use crate::error::{ReadError, StorageError};
use crate::storage::Input;

/// Bytes read at a time; a larger section enlarges the buffer.
pub(super) const BUFFER: usize = 1 << 20;

/// A part begins at the first section after a multiple of this many bytes: small enough that
/// threads end together, large enough that finding its start costs nothing.
pub(super) const PART: u64 = 16 << 20;

/// A section may have this many bytes: a thousand times what an AoR full of contacts takes. More
/// is not a snapshot.
const SECTION_MAX: usize = 64 << 20;

/// Bytes in which the start of a part is looked for at a time.
const CUT_BUFFER: usize = 64 << 10;

/// Where a section of ours starts, after the line end: nothing else that we write looks like it.
/// Yate allows blanks between them.
const SECTION: &[u8] = b"\n[";

/// A byte-order mark, which an editor may have put before Yate's file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file being read.
pub(super) struct File {
    pub(super) name: String,
    pub(super) input: Box<dyn Input>,
    /// Where the sections end.
    pub(super) end: u64,
    /// How far the starts of its parts are apart: [`PART`], but for tests.
    pub(super) part: u64,
    /// Whether Yate wrote it: it has no escapes, and its last section may be torn.
    pub(super) is_yates: bool,
}

impl File {
    /// How many parts it has. Yate's has one: there is no telling what is a section but from the
    /// beginning.
    fn parts(&self) -> u64 {
        if self.is_yates { 1 } else { self.end.div_ceil(self.part).max(1) }
    }

    /// Where the part with this number starts; the end from the last on.
    fn cut(&self, number: u64) -> Result<u64, ReadError> {
        if number == 0 || number >= self.parts() {
            return Ok(if number == 0 { 0 } else { self.end });
        }
        let from = number * self.part - 1;
        let mut at = from;
        let mut buffer = vec![0; CUT_BUFFER];
        while at - from <= SECTION_MAX as u64 {
            let bytes = self.fill(at, &mut buffer)?;
            if let Some(found) = memmem::find(bytes, SECTION) {
                return Ok(at + found as u64 + 1);
            }
            if at + bytes.len() as u64 >= self.end {
                return Ok(self.end);
            }
            // The line end may be the last byte that was read.
            at += bytes.len() as u64 - 1;
        }
        Err(self.too_long(from))
    }

    /// Gives every section between `start` and `to` to `visit`, `None` for one that can't be used;
    /// returns the checksum of the bytes it saw, and adds their number to `done`.
    pub(super) fn pass(
        &self,
        mut start: u64,
        to: u64,
        done: &AtomicU64,
        visit: &mut impl FnMut(Option<Section<'_>>),
    ) -> Result<Hasher, ReadError> {
        let mut crc = Hasher::new();
        let mut buffer = vec![0; BUFFER];
        // `buffer[..held]` are the file's bytes from `start`.
        let mut held = 0;
        loop {
            let left = usize::try_from(to - start - held as u64).unwrap_or(usize::MAX);
            let (_, room) = buffer.split_at_mut(held);
            let (room, _) = room.split_at_mut(left.min(room.len()));
            let fresh = self.fill(start + held as u64, room)?;
            crc.update(fresh);
            done.fetch_add(fresh.len() as u64, Ordering::Relaxed);
            held += fresh.len();
            let bytes = buffer.get(..held).unwrap_or_default();
            let at_end = start + held as u64 >= to;
            let cut = match at_end {
                true => held,
                false if self.is_yates => last_section(bytes),
                false => memmem::rfind(bytes, SECTION).map_or(0, |at| at + 1),
            };
            let mut whole = bytes.get(..cut).unwrap_or_default();
            if at_end && self.is_yates && !whole.ends_with(b"\n") {
                // Yate rewrites its file in place: what a crash left of the last section may
                // lack its end, an expiry cut short among it.
                let (before, torn) = whole.split_at(last_section(whole));
                whole = before;
                if starts_section(torn) {
                    visit(None);
                }
            }
            self.sections(start, whole, visit);
            if at_end {
                return Ok(crc);
            }
            if cut == 0 {
                if held >= SECTION_MAX {
                    return Err(self.too_long(start));
                }
                if held == buffer.len() {
                    buffer.resize(held * 2, 0);
                }
            }
            buffer.copy_within(cut..held, 0);
            held -= cut;
            start += cut as u64;
        }
    }

    /// Cuts `bytes`, which lie at `start` in the file and end with a section's end.
    fn sections(&self, start: u64, bytes: &[u8], visit: &mut impl FnMut(Option<Section<'_>>)) {
        let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if start == 0 => rest,
            _ => bytes,
        };
        // Lines before any section belong to nobody, in Yate as well.
        let mut rest = bytes.get(next_section(bytes, true)..).unwrap_or_default();
        let ours = memmem::Finder::new(SECTION);
        while !rest.is_empty() {
            let end = match self.is_yates {
                true => next_section(rest, false),
                false => ours.find(rest).map_or(rest.len(), |at| at + 1),
            };
            let (section, after) = rest.split_at(end);
            let at = start + (bytes.len() - rest.len()) as u64;
            visit(Section::parse(section, at, !self.is_yates));
            rest = after;
        }
    }

    /// Reads at `at` up to the end as much as fits; a file that ends before is damaged.
    pub(super) fn fill<'b>(&self, at: u64, into: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = left.min(into.len());
        let (into, _) = into.split_at_mut(wanted);
        let count = self.input.read_at(at, into).map_err(StorageError::of("read", &self.name))?;
        if count < wanted {
            let expected = format!("{} bytes", self.end);
            return Err(self.damaged(at + count as u64, &expected, "the end".to_owned()));
        }
        Ok(into)
    }

    pub(super) fn damaged(&self, byte: u64, expected: &str, found: String) -> ReadError {
        ReadError::Damaged { name: self.name.clone(), byte, expected: expected.to_owned(), found }
    }

    fn too_long(&self, byte: u64) -> ReadError {
        let expected = format!("a section of at most {SECTION_MAX} bytes");
        self.damaged(byte, &expected, "a longer one".to_owned())
    }
}

/// What is done of a file's parts, by all threads together.
#[derive(Default)]
pub(super) struct Progress {
    next: AtomicU64,
    /// Bytes that were seen.
    pub(super) done: AtomicU64,
    failed: AtomicBool,
    result: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    parts: Vec<(u64, Hasher)>,
    error: Option<ReadError>,
}

impl Progress {
    /// Takes part after part and gives its two ends to `part`, until none is left or one failed.
    pub(super) fn run(
        &self,
        file: &File,
        is_cut_at_sections: bool,
        mut part: impl FnMut(u64, u64) -> Result<Hasher, ReadError>,
    ) {
        while !self.failed.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= file.parts() {
                return;
            }
            let cut = |number: u64| match is_cut_at_sections {
                true => file.cut(number),
                false => Ok(number.saturating_mul(file.part).min(file.end)),
            };
            let crc = cut(number).and_then(|start| part(start, cut(number + 1)?));
            let mut seen = self.seen();
            match crc {
                Ok(crc) => seen.parts.push((number, crc)),
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    seen.error.get_or_insert(error);
                }
            }
        }
    }

    /// The checksum of all parts in their order, or the first error.
    pub(super) fn finish(&self) -> Result<u32, ReadError> {
        let mut seen = self.seen();
        if let Some(error) = seen.error.take() {
            return Err(error);
        }
        seen.parts.sort_unstable_by_key(|&(number, _)| number);
        let mut all = Hasher::new();
        seen.parts.iter().for_each(|(_, crc)| all.combine(crc));
        Ok(all.finalize())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl text::Head {
    /// Reads the head of a file of ours, whatever follows it.
    pub(super) fn of(file: &File) -> Result<Self, ReadError> {
        let mut first = vec![0; text::HEAD_MAX];
        let first = file.fill(0, &mut first)?;
        let head = first.split_at(next_section(first, false)).0;
        let general = Section::parse(head, 0, true).filter(Section::is_general);
        let number = |key: &str| {
            let (_, value) = general?.pairs().find(|(found, _)| *found == key.as_bytes())?;
            std::str::from_utf8(&value).ok()?.parse::<u64>().ok()
        };
        Self::parse(number).map_err(|key| {
            let expected = format!("a number as `{key}=` in [general]");
            file.damaged(0, &expected, "none".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::{Storage, memory::MemoryStorage};

    fn file(bytes: &[u8], part: u64) -> File {
        let storage = MemoryStorage::new();
        storage.put("file", bytes);
        let input = storage.open("file").unwrap();
        File { name: "file".to_owned(), end: input.size(), input, part, is_yates: false }
    }

    /// Where sections start, with their names, and the checksum.
    fn seen(file: &File) -> (Vec<(u64, Vec<u8>)>, u32) {
        let (progress, sections) = (Progress::default(), RefCell::new(Vec::new()));
        progress.run(file, true, |start, end| {
            assert!(start <= end);
            file.pass(start, end, &progress.done, &mut |section| {
                let section = section.map(|s| (s.offset(), s.name().into_owned()));
                sections.borrow_mut().extend(section);
            })
        });
        assert_eq!(progress.done.load(Ordering::Relaxed), file.end);
        (sections.into_inner(), progress.finish().unwrap())
    }

    #[test]
    fn parts_begin_with_sections() {
        let bytes = b"[general]\nversion=1\n\n[a]\nk=[\n\n[b]\n\n[c]\n";
        for part in 1..60 {
            let file = file(bytes, part);
            for number in 0..file.parts() + 1 {
                let cut = usize::try_from(file.cut(number).unwrap()).unwrap();
                assert!(cut == 0 || cut == bytes.len() || bytes[cut - 1..].starts_with(b"\n["));
                assert!(cut as u64 >= (number * part).min(file.end));
            }
        }
    }

    proptest! {
        #[test]
        fn in_any_parts_the_sections_are_the_same(
            lines in prop::collection::vec(
                prop::sample::select(vec!["[a]", "[]", "k=v", "", " [b]", "[", "k=[x]", "[cc]x"]),
                0..40),
            part in 1..80_u64,
        ) {
            let bytes = lines.join("\n").into_bytes();
            let whole = seen(&file(&bytes, PART));
            prop_assert_eq!(whole.1, crc32fast::hash(&bytes));
            prop_assert_eq!(seen(&file(&bytes, part)), whole);
        }
    }
}
