//! The grammar of one `.conf` file: bytes in, borrowed lines out.
//!
//! A file of a million sections is read at the speed of memory: nothing is copied but values that
//! continue on another line.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2};

/// The mark some editors put at the start of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a file that mean something, in order. Blank lines and comments are passed over.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    number: u32,
}

/// A line, or a `key=value` with the lines it continues on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The number of its first line, counted from one.
    pub number: u32,
    /// Its octets in the file, line ends included.
    pub span: Range<usize>,
    /// What it says.
    pub kind: Kind<'a>,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A line that means nothing; Yate would skip it in silence.
    Broken(Broken),
    /// `[$word argument]`.
    Directive {
        /// The word with its `$`.
        word: &'a [u8],
        /// What follows it, trimmed.
        argument: &'a [u8],
    },
    /// `key=value`.
    Key {
        /// The trimmed text before the first `=`, never empty.
        key: &'a [u8],
        /// The trimmed text after it.
        value: Cow<'a, [u8]>,
        /// Whether there is no `=`: the line is a key with an empty value.
        is_bare: bool,
    },
    /// `[name]`; the name is trimmed and never empty.
    Section(&'a [u8]),
}

/// Why a line means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// `[]`.
    EmptySection,
    /// `=value`.
    NoKey,
    /// A NUL octet, which no editor writes.
    Nul,
    /// `[name` without `]`.
    OpenSection,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptySection => "the section has no name",
            Self::NoKey => "no key before the `=`",
            Self::Nul => "the line contains a NUL octet: is this a text file?",
            Self::OpenSection => "`[` without `]`",
        })
    }
}

impl<'a> Lines<'a> {
    /// The lines of the file with this content.
    pub fn new(bytes: &'a [u8]) -> Self {
        let at = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        Self { bytes, at, number: 0 }
    }

    /// The next line without its end (LF, CR LF or CR).
    fn next_raw(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        self.number = self.number.saturating_add(1);
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            self.at = self.bytes.len();
            return Some(rest);
        };
        let (line, ends) = rest.split_at(end);
        self.at += end + if ends.starts_with(b"\r\n") { 2 } else { 1 };
        Some(line)
    }

    /// A line whose first octet isn't blank, `;` or `[`.
    fn key(&mut self, line: &'a [u8]) -> Kind<'a> {
        let Some(equals) = memchr(b'=', line) else {
            return Kind::Key { key: trim(line), value: Cow::Borrowed(b""), is_bare: true };
        };
        let (key, value) = line.split_at(equals);
        let key = trim(key);
        if key.is_empty() {
            return Kind::Broken(Broken::NoKey);
        }
        let value = value.get(1..).unwrap_or_default();
        let Some(mut joined) = value.strip_suffix(b"\\").map(<[u8]>::to_vec) else {
            return Kind::Key { key, value: Cow::Borrowed(trim(value)), is_bare: false };
        };
        while let Some(next) = self.next_raw() {
            let next = trim_start(next);
            match next.strip_suffix(b"\\") {
                Some(next) => joined.extend_from_slice(next),
                None => {
                    joined.extend_from_slice(next);
                    break;
                }
            }
        }
        Kind::Key { key, value: Cow::Owned(trim(&joined).to_vec()), is_bare: false }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        loop {
            let start = self.at;
            let line = trim_start(self.next_raw()?);
            let number = self.number;
            let kind = match line.first() {
                None | Some(b';') => continue,
                Some(b'[') => section(line),
                Some(_) => self.key(line),
            };
            let span = start..self.at;
            // Checked on the whole span: a NUL may stand on a line that continues the value.
            let kind = match self.bytes.get(span.clone()) {
                Some(octets) if memchr(0, octets).is_some() => Kind::Broken(Broken::Nul),
                _ => kind,
            };
            return Some(Line { number, span, kind });
        }
    }
}

/// A line that starts with `[`. What follows the first `]` is ignored.
fn section(line: &[u8]) -> Kind<'_> {
    let Some(end) = memchr(b']', line) else {
        return Kind::Broken(Broken::OpenSection);
    };
    let name = trim(line.get(1..end).unwrap_or_default());
    if name.is_empty() {
        return Kind::Broken(Broken::EmptySection);
    }
    if name.first() != Some(&b'$') {
        return Kind::Section(name);
    }
    // `[${name}]` is a section whose name is replaced, not a directive.
    if name.get(1) == Some(&b'{') {
        return Kind::Section(name);
    }
    let end = name.iter().position(|octet| is_blank(*octet)).unwrap_or(name.len());
    let (word, argument) = name.split_at(end);
    Kind::Directive { word, argument: trim(argument) }
}

/// `text` without the blanks around it.
pub fn trim(text: &[u8]) -> &[u8] {
    let text = trim_start(text);
    let end = text.iter().rposition(|octet| !is_blank(*octet)).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|octet| !is_blank(*octet)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Vec<String> {
        Lines::new(text)
            .map(|line| {
                let what = match line.kind {
                    Kind::Broken(broken) => format!("broken: {broken}"),
                    Kind::Directive { word, argument } => {
                        format!("{}({})", word.escape_ascii(), argument.escape_ascii())
                    }
                    Kind::Key { key, value, is_bare } => {
                        let equals = if is_bare { "" } else { "=" };
                        format!("{}{equals}{}", key.escape_ascii(), value.escape_ascii())
                    }
                    Kind::Section(name) => format!("[{}]", name.escape_ascii()),
                };
                format!("{} {what}", line.number)
            })
            .collect()
    }

    #[test]
    fn lines_mean_what_yate_takes_them_for() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"\xef\xbb\xbf[a]\nk=v", &["1 [a]", "2 k=v"]),
            (b"; c\n  ; c\n\n\t[ a b ] rest\n", &["4 [a b]"]),
            (b"[a]\r\nk = v \r\n\r\nl=w", &["1 [a]", "2 k=v", "4 l=w"]),
            (b"[a]\rk=v\r\rl=w", &["1 [a]", "2 k=v", "4 l=w"]),
            (b"k=v ; x", &["1 k=v ; x"]),
            (b"# no comment", &["1 # no comment"]),
            (b"k=a=b", &["1 k=a=b"]),
            (b"k=", &["1 k="]),
            (b"k", &["1 k"]),
            (b"k\\\nl", &["1 k\\\\", "2 l"]),
            (b"k=a\\\n   b\\\n\tc\nl=", &["1 k=abc", "4 l="]),
            (b"k=a \\\n b", &["1 k=a b"]),
            (b"k=a\\ \nl=b", &["1 k=a\\\\", "2 l=b"]),
            (b"k=a\\", &["1 k=a"]),
            (b"k=a\\\n; not a comment", &["1 k=a; not a comment"]),
            (b"k=\xe4", &["1 k=\\xe4"]),
            (b"[a]b]", &["1 [a]"]),
            (b"[$include  x y ]", &["1 $include(x y)"]),
            (b"[$enabled]", &["1 $enabled()"]),
            (b"[${x}]", &["1 [${x}]"]),
            (b"[a", &["1 broken: `[` without `]`"]),
            (b"[ ]", &["1 broken: the section has no name"]),
            (b" =v", &["1 broken: no key before the `=`"]),
            (b"k=\0", &["1 broken: the line contains a NUL octet: is this a text file?"]),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), *expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn spans_cover_the_lines_with_their_ends() {
        let text = b"; c\r\n[a]\r\nk=v\\\n w\nlast";
        let spans: Vec<&[u8]> = Lines::new(text).map(|line| &text[line.span]).collect();
        assert_eq!(spans, [&b"[a]\r\n"[..], b"k=v\\\n w\n", b"last"]);
    }

    proptest! {
        #[test]
        fn any_octets_are_lines_in_order(text in r"[\[\]$;=\\ \t\r\na\x00\xff]{0,40}") {
            let text = text.as_bytes();
            let (mut end, mut number) = (0, 0);
            for line in Lines::new(text) {
                prop_assert!(line.span.start >= end && line.span.end <= text.len());
                prop_assert!(line.number > number);
                (end, number) = (line.span.end, line.number);
                if let Kind::Key { key, value, .. } = line.kind {
                    prop_assert!(!key.is_empty() && trim(&value).len() == value.len());
                }
            }
        }
    }
}
