//! A message as its octets and an index of its header lines.

use super::header::HeaderName;

/// One header line: spans of the message's octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) name: HeaderName,
    pub(super) name_at: u16,
    pub(super) name_len: u16,
    pub(super) value_at: u16,
    pub(super) value_len: u16,
}

/// Where the header lines of one message are. Kept by the parser and filled anew for each.
#[derive(Debug)]
pub(super) struct HeaderIndex {
    lines: Vec<Line>,
    /// For each name the position of its first line plus one; zero for none.
    first: [u16; HeaderName::COUNT],
    /// The first name that stood twice and may not.
    repeated: Option<HeaderName>,
}

impl HeaderIndex {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), first: [0; HeaderName::COUNT], repeated: None }
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.first = [0; HeaderName::COUNT];
        self.repeated = None;
    }

    pub(super) fn push(&mut self, line: Line) {
        let first = &mut self.first[line.name as usize];
        self.lines.push(line);
        if *first == 0 {
            *first = u16::try_from(self.lines.len()).unwrap_or(u16::MAX);
        } else if line.name.is_single() {
            self.repeated.get_or_insert(line.name);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn repeated(&self) -> Option<HeaderName> {
        self.repeated
    }
}

/// A message's header lines and body.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    index: &'a HeaderIndex,
    body_at: usize,
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8], index: &'a HeaderIndex, body_at: usize) -> Self {
        Self { bytes, index, body_at }
    }

    fn value(&self, line: &Line) -> &'a [u8] {
        let at = usize::from(line.value_at);
        self.bytes.get(at..at + usize::from(line.value_len)).unwrap_or_default()
    }

    /// The value of the first header of this name.
    pub fn first(&self, name: HeaderName) -> Option<&'a [u8]> {
        let position = usize::from(self.index.first[name as usize]).checked_sub(1)?;
        Some(self.value(self.index.lines.get(position)?))
    }

    /// The values of all headers of this name, in order.
    pub fn all(&self, name: HeaderName) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let message = *self;
        let start = usize::from(self.index.first[name as usize]).checked_sub(1);
        let lines = start.and_then(|at| self.index.lines.get(at..)).unwrap_or_default();
        lines.iter().filter(move |l| l.name == name).map(move |l| message.value(l))
    }

    /// The values of all headers of a name that the index has no place for, in order. Reads every
    /// line: what a registrar needs is in [`HeaderName`].
    pub fn named(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let is_it = move |(other, _): &(&[u8], _)| other.eq_ignore_ascii_case(name.as_bytes());
        self.headers().filter(is_it).map(|(_, value)| value)
    }

    /// Kind, name as sent, and value, of every header, in order.
    pub fn lines(&self) -> impl Iterator<Item = (HeaderName, &'a [u8], &'a [u8])> + use<'a> {
        let names = self.index.lines.iter().map(|line| line.name);
        names.zip(self.headers()).map(|(kind, (name, value))| (kind, name, value))
    }

    /// Name as sent, and value, of every header, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let message = *self;
        self.index.lines.iter().map(move |line| {
            let at = usize::from(line.name_at);
            let name = message.bytes.get(at..at + usize::from(line.name_len)).unwrap_or_default();
            (name, message.value(line))
        })
    }

    /// What follows the empty line. It may be longer than Content-Length says.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.body_at..).unwrap_or_default()
    }
}
