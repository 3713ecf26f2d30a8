//! One section of a file, and where sections start.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memrchr_iter};

use super::text;

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
    pub(super) fn parse(section: &'a [u8], at: u64, escapes: bool) -> Option<Self> {
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

    pub(super) fn is_general(&self) -> bool {
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

    /// Its lines, for whoever knows which they are.
    pub fn plain(&self) -> Plain<'a> {
        Plain { lines: self.body.strip_prefix(b"\n").unwrap_or(self.body) }
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

/// The lines of a [`Section`], taken one by one as [`Writer`](super::Writer) has written those that
/// need no escape. Whoever knows which line is next reads it in half the time that [`Pairs`] takes
/// to find out; what looks any other way is left to those.
#[derive(Clone, Debug)]
pub struct Plain<'a> {
    lines: &'a [u8],
}

impl<'a> Plain<'a> {
    /// Takes the value of the next line if that begins with `start`, which is a key and its `=`.
    ///
    /// `None`, and the line is still there, if it begins otherwise, or if its value holds a control
    /// character, begins or ends with a blank, or has no line end.
    // Of a known length, so that it is compared in place.
    #[inline]
    pub fn take<const N: usize>(&mut self, start: &[u8; N]) -> Option<&'a [u8]> {
        let (found, line) = self.lines.split_first_chunk::<N>()?;
        if found != start {
            return None;
        }
        let (value, rest) = line.split_at(text::plain_end(line)?);
        if value.first() == Some(&b' ') || value.last() == Some(&b' ') {
            return None;
        }
        self.lines = rest.get(1..)?;
        Some(value)
    }

    /// Whether only the blank line is left that each section ends with.
    pub fn is_done(&self) -> bool {
        matches!(self.lines, b"" | b"\n")
    }
}

/// Whether a line starts a section.
pub(super) fn starts_section(line: &[u8]) -> bool {
    line.iter().find(|b| !matches!(b, b' ' | b'\t')) == Some(&b'[')
}

/// Where the next section starts: at 0 only if `here` allows it; the length if there is none.
pub(super) fn next_section(bytes: &[u8], here: bool) -> usize {
    if here && starts_section(bytes) {
        return 0;
    }
    let mut starts = memchr_iter(b'\n', bytes).map(|end| end + 1);
    starts.find(|&at| starts_section(bytes.get(at..).unwrap_or_default())).unwrap_or(bytes.len())
}

/// Where the last section starts; 0 if none starts after that.
pub(super) fn last_section(bytes: &[u8]) -> usize {
    let mut starts = memrchr_iter(b'\n', bytes).map(|end| end + 1);
    starts.find(|&at| starts_section(bytes.get(at..).unwrap_or_default())).unwrap_or(0)
}
