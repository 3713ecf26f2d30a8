//! Reads one snapshot: first the checksum over all of it, then the sections.
//!
//! Memory is bounded by one buffer and the largest section, for each thread; the file is read
//! twice. Both times as many threads as like to may take part.

use std::sync::atomic::{AtomicU64, Ordering};

use crc32fast::Hasher;

use super::parts::{BUFFER, File, PART, Progress};
use super::section::Section;
use super::text::{self, Head, VERSION};
use super::{General, Origin, Summary};
use crate::error::{ReadError, StorageError};
use crate::storage::Storage;

/// Reads a file: checked as a whole first, then `visitor` gets every section in its order.
///
/// With an error from the second pass (the medium fails, or changes under us) sections may have
/// been visited: they are to be forgotten.
pub fn read(
    storage: &dyn Storage,
    name: &str,
    visitor: impl FnMut(Section<'_>),
) -> Result<Summary, ReadError> {
    verify(storage, name)?.read(visitor)
}

/// Checks a file without believing any of it: [`Checking`], by one thread.
pub fn verify(storage: &dyn Storage, name: &str) -> Result<Verified, ReadError> {
    Checking::open(storage, name)?.finish()
}

/// A file that is being checked, by as many threads as call [`Checking::run`]: version and
/// checksum of ours, structure of Yate's.
///
/// A file of ours is one that begins with `[general]` or ends in a checksum line; all others are
/// taken for Yate's, which have neither. One without any whole section is damaged in any case
/// (Yate's own file is empty while nobody is registered: there is nothing to read then).
pub struct Checking {
    file: File,
    /// Length of the file.
    bytes: u64,
    /// What the last line says; `None` in Yate's.
    stated: Option<u32>,
    progress: Progress,
}

impl Checking {
    /// Opens the file and looks at both of its ends.
    pub fn open(storage: &dyn Storage, name: &str) -> Result<Self, ReadError> {
        let input = storage.open(name).map_err(StorageError::of("open", name))?;
        let bytes = input.size();
        let mut file =
            File { name: name.to_owned(), input, end: bytes, part: PART, is_yates: false };
        let mut first = [0; text::HEAD_START.len()];
        let first = file.fill(0, &mut first)?;
        let last_at = bytes.saturating_sub(text::CHECKSUM_LEN as u64);
        let mut last = [0; text::CHECKSUM_LEN];
        let last = file.fill(last_at, &mut last)?;
        let stated = text::parse_checksum(last);
        match stated {
            Some(_) => file.end = last_at,
            None if first == text::HEAD_START => {
                let expected = "`; crc32=` and 8 hex digits as the last line";
                return Err(file.damaged(last_at, expected, quoted(last)));
            }
            None => file.is_yates = true,
        }
        Ok(Self { file, bytes, stated, progress: Progress::default() })
    }

    /// Checks part after part, until none is left. Threads that call this share the work.
    pub fn run(&self) {
        if self.stated.is_none() {
            return;
        }
        let mut buffer = vec![0; BUFFER];
        self.progress.run(&self.file, false, |start, end| {
            let mut crc = Hasher::new();
            let mut at = start;
            while at < end {
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                let (room, _) = buffer.split_at_mut(left.min(BUFFER));
                let bytes = self.file.fill(at, room)?;
                crc.update(bytes);
                at += bytes.len() as u64;
                self.progress.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Ok(crc)
        });
    }

    /// Does what is left to do, and says whether the file can be read.
    pub fn finish(self) -> Result<Verified, ReadError> {
        self.run();
        let summary = Summary {
            origin: Origin::Yate,
            sections: 0,
            bindings: 0,
            dropped: 0,
            bytes: self.bytes,
        };
        match self.stated {
            Some(stated) => self.finish_ours(stated, summary),
            None => self.finish_yates(summary),
        }
    }

    /// How many bytes are checked, of [`Checking::bytes`].
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish_ours(self, stated: u32, summary: Summary) -> Result<Verified, ReadError> {
        let Self { file, progress, .. } = self;
        let crc = progress.finish()?;
        if crc != stated {
            let expected = format!("checksum {crc:08x} of the bytes before");
            return Err(file.damaged(file.end, &expected, format!("{stated:08x}")));
        }
        // Whoever wrote this meant it: only a whole file can be of a newer version.
        let Head { version, general, sections, bindings } = Head::of(&file)?;
        if version > VERSION {
            return Err(ReadError::Newer { name: file.name, found: version, known: VERSION });
        }
        let origin = Origin::Bindery { version, general };
        let summary = Summary { origin, sections, bindings, ..summary };
        Ok(Verified { file, summary, crc })
    }

    fn finish_yates(self, summary: Summary) -> Result<Verified, ReadError> {
        let Self { file, progress, .. } = self;
        let (mut sections, mut dropped) = (0, 0);
        let crc = file.pass(0, file.end, &progress.done, &mut |section| match section {
            Some(_) => sections += 1,
            None => dropped += 1,
        })?;
        if sections == 0 {
            return Err(file.damaged(0, "a section", "none that is whole".to_owned()));
        }
        let summary = Summary { sections, bindings: sections, dropped, ..summary };
        Ok(Verified { file, summary, crc: crc.finalize() })
    }
}

/// A file that was checked and can be read.
pub struct Verified {
    file: File,
    summary: Summary,
    /// Checksum of everything before the last line.
    crc: u32,
}

impl Verified {
    /// The file's name.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// What the file says of itself.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Gives every section to `visitor`, in the file's order. About errors see [`read`].
    pub fn read(self, visitor: impl FnMut(Section<'_>)) -> Result<Summary, ReadError> {
        let parts = self.parts();
        parts.run(visitor);
        parts.finish()
    }

    /// For reading it by several threads.
    pub fn parts(self) -> Parts {
        Parts { file: self, progress: Progress::default(), sections: AtomicU64::new(0) }
    }
}

/// A file that is being read, by as many threads as call [`Parts::run`].
pub struct Parts {
    file: Verified,
    progress: Progress,
    sections: AtomicU64,
}

impl Parts {
    /// Takes part after part and gives its sections to `visitor`, until none is left. Threads that
    /// call this share the work; each section goes to one of them.
    pub fn run(&self, mut visitor: impl FnMut(Section<'_>)) {
        let file = &self.file.file;
        let mut sections = 0;
        self.progress.run(file, true, |start, end| {
            file.pass(start, end, &self.progress.done, &mut |section| {
                if let Some(section) = section.filter(|section| !section.is_general()) {
                    sections += 1;
                    visitor(section);
                }
            })
        });
        self.sections.fetch_add(sections, Ordering::Relaxed);
    }

    /// Says whether the visitors were given what was checked before, after every [`Parts::run`]
    /// has returned. About errors see [`read`].
    pub fn finish(self) -> Result<Summary, ReadError> {
        let Verified { file, summary, crc } = self.file;
        let seen = self.progress.finish()?;
        if seen != crc {
            let expected = format!("checksum {crc:08x} again");
            return Err(file.damaged(file.end, &expected, format!("{seen:08x}")));
        }
        let sections = self.sections.into_inner();
        if sections != summary.sections {
            let expected = format!("{} sections", summary.sections);
            return Err(file.damaged(file.end, &expected, sections.to_string()));
        }
        Ok(summary)
    }

    /// How many bytes are read, of those of the [`Summary`].
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }
}

/// What a file says of itself, from its head alone: `None` if it is Yate's.
pub(super) fn general_of(storage: &dyn Storage, name: &str) -> Result<Option<General>, ReadError> {
    let input = storage.open(name).map_err(StorageError::of("open", name))?;
    let file =
        File { name: name.to_owned(), end: input.size(), input, part: PART, is_yates: false };
    let mut first = [0; text::HEAD_START.len()];
    if file.fill(0, &mut first)? != text::HEAD_START {
        return Ok(None);
    }
    Ok(Some(Head::of(&file)?.general))
}

/// A few bytes for a message.
fn quoted(bytes: &[u8]) -> String {
    format!("`{}`", bytes.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    type Sections = Vec<(String, Vec<(String, String)>)>;

    fn sections(bytes: &[u8]) -> Result<(Summary, Sections), ReadError> {
        let storage = MemoryStorage::new();
        storage.put("file", bytes);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all = Vec::new();
        let summary = read(&storage, "file", |section| {
            let pairs = section.pairs().map(|(key, value)| (text(key), text(&value)));
            all.push((text(&section.name()), pairs.collect()));
        })?;
        Ok((summary, all))
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        sections(bytes).unwrap().1.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_yate_file_is_read_as_yate_reads_it() {
        let file = b"\xef\xbb\xbf; by hand\nlost=1\n [ 100 ] x\r\n a = b=c \r\n;no=1\n\
            [x%41]\nk%=v%41\nflag\n";
        let (summary, all) = sections(file).unwrap();
        assert_eq!(summary.origin, Origin::Yate);
        assert_eq!((summary.sections, summary.bindings, summary.dropped), (2, 2, 0));
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(all[0], ("100".to_owned(), vec![pair("a", "b=c")]));
        assert_eq!(all[1].1, [pair("k%", "v%41"), pair("flag", "")]);
        assert_eq!(all[1].0, "x%41");
    }

    #[test]
    fn unusable_sections_of_yate_take_their_lines_with_them() {
        let file = b"[1]\na=1\n[torn\nb=2\n[$include x]\n[]\nc=3\n[2]\n[general]\nd=4\n";
        let (summary, all) = sections(file).unwrap();
        assert_eq!((summary.sections, summary.dropped), (2, 4));
        assert_eq!(all[0].1.len(), 1);
    }

    #[test]
    fn a_truncated_yate_file_loses_only_the_torn_section() {
        let file = b"[1]\nexpires=17954\n\n[2]\nexpires=17954\n";
        for length in 0..file.len() {
            let Ok((summary, all)) = sections(&file[..length]) else {
                assert!(length < 18, "{length}");
                continue;
            };
            for (_, pairs) in &all {
                // Cut at a line's end, a section without its keys looks whole.
                assert!(pairs.iter().all(|(_, value)| value == "17954"), "{length}");
            }
            assert_eq!(length >= 18, !all[0].1.is_empty(), "{length}");
            assert_eq!(summary.sections, all.len() as u64);
            assert_eq!(summary.dropped, u64::from((20..23).contains(&length) || length > 23));
        }
        assert_eq!(names(file), ["1", "2"]);
    }

    #[test]
    fn an_empty_file_is_no_snapshot() {
        for bytes in [&b""[..], b"\n", b"\0\0\0\0\0\0\0\0", b"[gener", b"; nothing\n"] {
            assert!(matches!(sections(bytes), Err(ReadError::Damaged { .. })));
        }
    }

    #[test]
    fn sections_across_the_buffer_and_larger_than_it() {
        let mut file = Vec::new();
        for number in 0..40 {
            let length = if number == 7 { 3 * BUFFER } else { BUFFER / 3 };
            file.extend_from_slice(format!("[{number}]\nv=").as_bytes());
            file.resize(file.len() + length, b'x');
            file.extend_from_slice(b"\n\n");
        }
        let (summary, all) = sections(&file).unwrap();
        assert_eq!((summary.sections, summary.dropped), (40, 0));
        for (number, (name, pairs)) in all.iter().enumerate() {
            assert_eq!(*name, number.to_string());
            assert_eq!(pairs[0].1.len(), if number == 7 { 3 * BUFFER } else { BUFFER / 3 });
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_named() {
        let mut file = b"[general]\nversion=3\nother=x\n\n[a]\n\n".to_vec();
        let crc = crc32fast::hash(&file);
        file.extend_from_slice(format!("; crc32={crc:08x}\n").as_bytes());
        let error = sections(&file).unwrap_err();
        assert!(matches!(error, ReadError::Newer { found: 3, known: 2, .. }));
        assert_eq!(
            error.to_string(),
            "file: format version 3 is newer than the newest known here, 2"
        );
        file[18] = b'1';
        assert!(matches!(sections(&file), Err(ReadError::Damaged { .. })));
    }

    #[test]
    fn errors_say_where_and_what() {
        let file = b"[general]\nversion=1\nsequence=0\n\n; crc32=00000000\n";
        let error = sections(file).unwrap_err().to_string();
        assert!(error.starts_with("file: at byte 32: expected checksum "), "{error}");
        assert!(error.ends_with(" of the bytes before, found 00000000"), "{error}");
        let error = sections(b"[general]\nversion=1\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "file: at byte 3: expected `; crc32=` and 8 hex digits as the last line, \
             found `neral]\\nversion=1\\n`"
        );
    }
}
