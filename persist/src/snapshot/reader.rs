//! Reads one snapshot: first the checksum over all of it, then the sections.
//!
//! Memory is bounded by one buffer and the largest section; the file is read twice.

use std::borrow::Cow;

use crc32fast::Hasher;
use memchr::{memchr, memchr_iter, memrchr_iter};

use super::text::{self, VERSION};
use super::{General, Origin, Summary};
use crate::error::{ReadError, StorageError};
use crate::storage::{Input, Storage};

/// Bytes read at a time; a larger section enlarges the buffer.
const BUFFER: usize = 1 << 20;

/// A section may have this many bytes: a thousand times what an AoR full of contacts takes. More
/// is not a snapshot.
const SECTION_MAX: usize = 64 << 20;

/// A byte-order mark, which an editor may have put before Yate's file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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

/// Checks a file without believing any of it: version and checksum of ours, structure of Yate's.
///
/// A file of ours is one that begins with `[general]` or ends in a checksum line; all others are
/// taken for Yate's, which have neither. One without any whole section is damaged in any case
/// (Yate's own file is empty while nobody is registered: there is nothing to read then).
pub fn verify(storage: &dyn Storage, name: &str) -> Result<Verified, ReadError> {
    let input = storage.open(name).map_err(StorageError::of("open", name))?;
    let mut file = Verified {
        summary: Summary {
            origin: Origin::Yate,
            sections: 0,
            bindings: 0,
            dropped: 0,
            bytes: input.size(),
        },
        name: name.to_owned(),
        input,
        end: 0,
        crc: 0,
    };
    file.end = file.summary.bytes;
    let mut first = [0; text::HEAD_START.len()];
    let first = file.fill(0, &mut first)?;
    let last_at = file.end.saturating_sub(text::CHECKSUM_LEN as u64);
    let mut last = [0; text::CHECKSUM_LEN];
    let last = file.fill(last_at, &mut last)?;
    match text::parse_checksum(last) {
        Some(stated) => file.verify_ours(stated, last_at)?,
        None if first == text::HEAD_START => {
            let expected = "`; crc32=` and 8 hex digits as the last line";
            return Err(file.damaged(last_at, expected, quoted(last)));
        }
        None => file.verify_yate()?,
    }
    Ok(file)
}

/// A file that was checked and can be read.
pub struct Verified {
    name: String,
    input: Box<dyn Input>,
    summary: Summary,
    /// Where the sections end.
    end: u64,
    /// Checksum of everything before `end`.
    crc: u32,
}

impl Verified {
    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the file says of itself.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Gives every section to `visitor`, in the file's order. About errors see [`read`].
    pub fn read(self, mut visitor: impl FnMut(Section<'_>)) -> Result<Summary, ReadError> {
        let mut sections = 0;
        let seen = self.pass(|section| {
            if let Some(section) = section.filter(|section| !section.is_general()) {
                sections += 1;
                visitor(section);
            }
        })?;
        if seen != self.crc {
            let expected = format!("checksum {:08x} again", self.crc);
            return Err(self.damaged(self.end, &expected, format!("{seen:08x}")));
        }
        if sections != self.summary.sections {
            let expected = format!("{} sections", self.summary.sections);
            return Err(self.damaged(self.end, &expected, sections.to_string()));
        }
        Ok(self.summary)
    }

    fn verify_ours(&mut self, stated: u32, last_at: u64) -> Result<(), ReadError> {
        self.end = last_at;
        let mut crc = Hasher::new();
        let mut buffer = vec![0; BUFFER];
        let mut head = Vec::new();
        let mut at = 0;
        while at < self.end {
            let bytes = self.fill(at, &mut buffer)?;
            if at == 0 {
                head = bytes.split_at(next_section(bytes, false)).0.to_vec();
            }
            crc.update(bytes);
            at += bytes.len() as u64;
        }
        self.crc = crc.finalize();
        if self.crc != stated {
            let expected = format!("checksum {:08x} of the bytes before", self.crc);
            return Err(self.damaged(last_at, &expected, format!("{stated:08x}")));
        }
        // Whoever wrote this meant it: only a whole file can be of a newer version.
        let general = Section::parse(&head, 0, true).filter(Section::is_general);
        let number = |key: &str| {
            let (_, value) = general?.pairs().find(|(found, _)| *found == key.as_bytes())?;
            std::str::from_utf8(&value).ok()?.parse::<u64>().ok()
        };
        let field = |key: &str| {
            number(key).ok_or_else(|| {
                let expected = format!("a number as `{key}=` in [general]");
                self.damaged(0, &expected, "none".to_owned())
            })
        };
        let version = u32::try_from(field("version")?).unwrap_or(u32::MAX);
        if version > VERSION {
            return Err(ReadError::Newer {
                name: self.name.clone(),
                found: version,
                known: VERSION,
            });
        }
        let general = General { sequence: field("sequence")?, written: field("written")? };
        let (sections, bindings) = (field("sections")?, field("bindings")?);
        self.summary.origin = Origin::Bindery { version, general };
        self.summary.sections = sections;
        self.summary.bindings = bindings;
        Ok(())
    }

    fn verify_yate(&mut self) -> Result<(), ReadError> {
        let (mut sections, mut dropped) = (0, 0);
        self.crc = self.pass(|section| match section {
            Some(_) => sections += 1,
            None => dropped += 1,
        })?;
        if sections == 0 {
            return Err(self.damaged(0, "a section", "none that is whole".to_owned()));
        }
        self.summary = Summary { sections, bindings: sections, dropped, ..self.summary };
        Ok(())
    }

    /// Gives every section to `visit`, `None` for one that can't be used; returns the checksum of
    /// the bytes it saw.
    fn pass(&self, mut visit: impl FnMut(Option<Section<'_>>)) -> Result<u32, ReadError> {
        let mut crc = Hasher::new();
        let mut buffer = vec![0; BUFFER];
        // `buffer[..held]` are the file's bytes from `start`.
        let (mut start, mut held) = (0, 0);
        loop {
            let (_, room) = buffer.split_at_mut(held);
            let fresh = self.fill(start + held as u64, room)?;
            crc.update(fresh);
            held += fresh.len();
            let bytes = buffer.get(..held).unwrap_or_default();
            let at_end = start + held as u64 >= self.end;
            let cut = if at_end { held } else { last_section(bytes) };
            let mut whole = bytes.get(..cut).unwrap_or_default();
            if at_end && self.summary.origin == Origin::Yate && !whole.ends_with(b"\n") {
                // Yate rewrites its file in place: what a crash left of the last section may
                // lack its end, an expiry cut short among it.
                let (before, torn) = whole.split_at(last_section(whole));
                whole = before;
                if starts_section(torn) {
                    visit(None);
                }
            }
            self.sections(start, whole, &mut visit);
            if at_end {
                return Ok(crc.finalize());
            }
            if cut == 0 {
                if held >= SECTION_MAX {
                    let expected = format!("a section of at most {SECTION_MAX} bytes");
                    return Err(self.damaged(start, &expected, "a longer one".to_owned()));
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
        let escapes = self.summary.origin != Origin::Yate;
        // Lines before any section belong to nobody, in Yate as well.
        let mut rest = bytes.get(next_section(bytes, true)..).unwrap_or_default();
        while !rest.is_empty() {
            let (section, after) = rest.split_at(next_section(rest, false));
            let at = start + (bytes.len() - rest.len()) as u64;
            visit(Section::parse(section, at, escapes));
            rest = after;
        }
    }

    /// Reads at `at` up to `end` as much as fits; a file that ends before is damaged.
    fn fill<'b>(&self, at: u64, into: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
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

    fn damaged(&self, byte: u64, expected: &str, found: String) -> ReadError {
        ReadError::Damaged { name: self.name.clone(), byte, expected: expected.to_owned(), found }
    }
}

/// One section: a name and its `key=value` lines.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    raw_name: &'a [u8],
    body: &'a [u8],
    at: u64,
    /// Whether names and values may hold our escapes. Yate has none.
    escapes: bool,
}

impl<'a> Section<'a> {
    /// `None` for one that has no `]` or no name, and for what Yate would take as a directive.
    fn parse(section: &'a [u8], at: u64, escapes: bool) -> Option<Self> {
        let (head, body) = match memchr(b'\n', section) {
            Some(end) => section.split_at(end),
            None => (section, &b""[..]),
        };
        let head = text::trim(head).strip_prefix(b"[")?;
        let raw_name = text::trim(head.get(..memchr(b']', head)?)?);
        let section = Self { raw_name, body, at, escapes };
        let unusable = raw_name.is_empty()
            || (!escapes && (raw_name.starts_with(b"$") || section.is_general()));
        (!unusable).then_some(section)
    }

    fn is_general(&self) -> bool {
        self.raw_name == text::GENERAL
    }

    /// The name, as it was given to the writer.
    pub fn name(&self) -> Cow<'a, [u8]> {
        if self.escapes { text::decode_name(self.raw_name) } else { Cow::Borrowed(self.raw_name) }
    }

    /// The keys and values in their order. Of a key that comes twice, Yate takes the first.
    pub fn pairs(&self) -> Pairs<'a> {
        Pairs { lines: self.body, escapes: self.escapes }
    }

    /// Where the section starts in the file, in bytes from 0; for messages.
    pub fn offset(&self) -> u64 {
        self.at
    }
}

/// The pairs of a [`Section`].
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    lines: &'a [u8],
    escapes: bool,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], Cow<'a, [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.lines.is_empty() {
            let end = memchr(b'\n', self.lines);
            let (line, rest) = self.lines.split_at(end.unwrap_or(self.lines.len()));
            self.lines = rest.get(1..).unwrap_or_default();
            if let Some(pair) = text::parse_pair(line, self.escapes) {
                return Some(pair);
            }
        }
        None
    }
}

/// Whether a line starts a section.
fn starts_section(line: &[u8]) -> bool {
    line.iter().find(|b| !matches!(b, b' ' | b'\t')) == Some(&b'[')
}

/// Where the next section starts: at 0 only if `here` allows it; the length if there is none.
fn next_section(bytes: &[u8], here: bool) -> usize {
    if here && starts_section(bytes) {
        return 0;
    }
    let mut starts = memchr_iter(b'\n', bytes).map(|end| end + 1);
    starts.find(|&at| starts_section(bytes.get(at..).unwrap_or_default())).unwrap_or(bytes.len())
}

/// Where the last section starts; 0 if none starts after that.
fn last_section(bytes: &[u8]) -> usize {
    let mut starts = memrchr_iter(b'\n', bytes).map(|end| end + 1);
    starts.find(|&at| starts_section(bytes.get(at..).unwrap_or_default())).unwrap_or(0)
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
        let mut file = b"[general]\nversion=2\nother=x\n\n[a]\n\n".to_vec();
        let crc = crc32fast::hash(&file);
        file.extend_from_slice(format!("; crc32={crc:08x}\n").as_bytes());
        let error = sections(&file).unwrap_err();
        assert!(matches!(error, ReadError::Newer { found: 2, known: 1, .. }));
        assert_eq!(
            error.to_string(),
            "file: format version 2 is newer than the newest known here, 1"
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
