//! The grammar: names, values, the head and the checksum line. `FORMAT.md` is its specification.

use std::borrow::Cow;
use std::io::Write;

use memchr::memchr;

use super::General;

/// The newest format version: what is written if there is a journal, and the newest that is read.
pub const VERSION: u32 = 2;

/// The format version of a snapshot that needs no journal, so that an older build can read it.
const VERSION_WITHOUT_JOURNAL: u32 = 1;

/// The first section, which is no AoR's.
pub(super) const GENERAL: &[u8] = b"general";

/// How our files begin.
pub(super) const HEAD_START: &[u8] = b"[general]";

/// A head has fewer bytes than this, whatever keys are added to it.
pub(super) const HEAD_MAX: usize = 4096;

/// Digits of the largest `u64`: a count known at the end fits over its place at the start.
const COUNT_WIDTH: usize = 20;

const CHECKSUM_START: &[u8] = b"; crc32=";
const CHECKSUM_DIGITS: usize = 8;

/// Bytes of the last line with its line end. A comment, so Yate passes over it.
pub(super) const CHECKSUM_LEN: usize = CHECKSUM_START.len() + CHECKSUM_DIGITS + 1;

/// Writes the head. Its length does not depend on the counts.
pub(super) fn encode_head(general: General, sections: u64, bindings: u64) -> Vec<u8> {
    let General { sequence, written, journal, writers } = general;
    let version = version(general);
    let writers = if writers > 0 { format!("writers={writers}\n") } else { String::new() };
    let journal = journal.map(|first| format!("journal={first}\n{writers}")).unwrap_or_default();
    format!(
        "[general]\nversion={version}\nsequence={sequence}\nwritten={written}\n{journal}\
         sections={sections:<COUNT_WIDTH$}\nbindings={bindings:<COUNT_WIDTH$}\n"
    )
    .into_bytes()
}

/// The format version of a snapshot that says this of itself.
pub(super) fn version(general: General) -> u32 {
    if general.journal.is_some() { VERSION } else { VERSION_WITHOUT_JOURNAL }
}

/// The head as it is read.
pub(super) struct Head {
    pub(super) version: u32,
    pub(super) general: General,
    pub(super) sections: u64,
    pub(super) bindings: u64,
}

impl Head {
    /// Reads the numbers of the head; the error is the key of the one that is missing.
    pub(super) fn parse(number: impl Fn(&str) -> Option<u64>) -> Result<Self, &'static str> {
        let field = |key: &'static str| number(key).ok_or(key);
        let version = u32::try_from(field("version")?).unwrap_or(u32::MAX);
        let mut head = Self { version, general: General::default(), sections: 0, bindings: 0 };
        if version > VERSION {
            // What else it says is not ours to read.
            return Ok(head);
        }
        let journal = match version {
            VERSION_WITHOUT_JOURNAL => None,
            _ => Some(u32::try_from(field("journal")?).map_err(|_| "journal")?),
        };
        let writers = journal.and_then(|_| number("writers"));
        head.general = General {
            sequence: field("sequence")?,
            written: field("written")?,
            journal,
            writers: writers.and_then(|writers| u16::try_from(writers).ok()).unwrap_or(0),
        };
        (head.sections, head.bindings) = (field("sections")?, field("bindings")?);
        Ok(head)
    }
}

pub(super) fn encode_checksum(crc: u32) -> Vec<u8> {
    format!("; crc32={crc:08x}\n").into_bytes()
}

/// Reads the last line. Only what [`encode_checksum`] writes will do, so that no flipped bit in it
/// goes unseen.
pub(super) fn parse_checksum(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(CHECKSUM_START)?.strip_suffix(b"\n")?;
    let crc = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (encode_checksum(crc) == line).then_some(crc)
}

/// Writes `[name]` and its line end, after a blank line.
pub(super) fn encode_name(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(b"\n[");
    if name.is_empty() {
        out.push(b'%');
    }
    let last = name.len().wrapping_sub(1);
    // Nearly every name is nothing but these: no need to look at each octet's place.
    let simple = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'@' | b'.' | b'-' | b'_');
    if name != GENERAL && name.iter().all(simple) {
        out.extend_from_slice(name);
        out.extend_from_slice(b"]\n");
        return;
    }
    for (at, &byte) in name.iter().enumerate() {
        // Yate ends a name at the first `]`, trims it, and replaces `${...}` in it.
        let plain = match byte {
            b']' | b'%' | b'$' | b';' => false,
            b' ' => at != 0 && at != last,
            b'g' => at != 0 || name != GENERAL,
            _ => !byte.is_ascii_control(),
        };
        push(out, byte, plain);
    }
    out.extend_from_slice(b"]\n");
}

pub(super) fn decode_name(raw: &[u8]) -> Cow<'_, [u8]> {
    if raw == b"%" { Cow::Borrowed(b"") } else { decode(raw) }
}

/// Whether `key` can stand left of `=` as it is.
pub(super) fn is_key(key: &[u8]) -> bool {
    !key.is_empty()
        && key.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Writes `key=value` and its line end; a value that can't be one line as `key%=` with escapes.
pub(super) fn encode_pair(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    let last = value.len().wrapping_sub(1);
    let edge_blank = value.first() == Some(&b' ') || value.last() == Some(&b' ');
    // Without an early end: that is done many octets at a time.
    let controls = value.iter().fold(false, |found, byte| found | byte.is_ascii_control());
    if edge_blank || controls {
        out.extend_from_slice(b"%=");
        for (at, &byte) in value.iter().enumerate() {
            let edge = at == 0 || at == last;
            push(out, byte, !(byte.is_ascii_control() || byte == b'%' || (byte == b' ' && edge)));
        }
    } else {
        out.push(b'=');
        out.extend_from_slice(value);
    }
    // A line that ends in `\` would go on with the next one. Readers trim the blank.
    if value.last() == Some(&b'\\') {
        out.push(b' ');
    }
    out.push(b'\n');
}

/// Cuts a line of a section body at its first `=`. Blank lines and comments are `None`.
pub(super) fn parse_pair(line: &[u8], escapes: bool) -> Option<(&[u8], Cow<'_, [u8]>)> {
    let line = trim(line);
    if line.is_empty() || matches!(line.first(), Some(b';' | b'=')) {
        return None;
    }
    let (key, value) = match find_equals(line) {
        Some(at) => (trim(line.get(..at)?), trim(line.get(at + 1..)?)),
        None => (line, &b""[..]),
    };
    match key.strip_suffix(b"%") {
        Some(key) if escapes => Some((key, decode(value))),
        _ => Some((key, Cow::Borrowed(value))),
    }
}

/// Where the first `=` is. Nearly always within sixteen octets, which are looked at together: a loop
/// that ends here and there, as keys are long, costs more than all the rest of the line.
fn find_equals(line: &[u8]) -> Option<usize> {
    const ONES: u128 = u128::MAX / 0xff;
    const EQUALS: u128 = ONES * 0x3d;
    if let Some(start) = line.first_chunk() {
        // An octet becomes zero where it is `=`; the subtraction then borrows into its top bit. It
        // may do so wrongly after the first of them, but not before.
        let differing = u128::from_le_bytes(*start) ^ EQUALS;
        let equal = differing.wrapping_sub(ONES) & !differing & (ONES << 7);
        if equal != 0 {
            return usize::try_from(equal.trailing_zeros() / 8).ok();
        }
    }
    memchr(b'=', line)
}

/// Where the line ends that `text` begins with, if no other control character is before its end.
/// Most lines are too short for a search that is made for long texts.
pub(super) fn plain_end(text: &[u8]) -> Option<usize> {
    const ONES: u128 = u128::MAX / 0xff;
    const FIRST_PRINTED: u128 = ONES * 0x20;
    let (chunks, rest) = text.as_chunks();
    let mut at = 0;
    for chunk in chunks {
        // As in `find_equals`: below is what borrows, but has not had the top bit before.
        let octets = u128::from_le_bytes(*chunk);
        let below = octets.wrapping_sub(FIRST_PRINTED) & !octets & (ONES << 7);
        if below != 0 {
            at += usize::try_from(below.trailing_zeros() / 8).ok()?;
            return (text.get(at) == Some(&b'\n')).then_some(at);
        }
        at += chunk.len();
    }
    let end = rest.iter().position(|octet| *octet < 0x20)?;
    (rest.get(end) == Some(&b'\n')).then_some(at + end)
}

/// Takes blanks, tabs, and a line end's CR off both ends.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] | [rest @ .., b' ' | b'\t' | b'\r'] = text {
        text = rest;
    }
    text
}

fn push(out: &mut Vec<u8>, byte: u8, plain: bool) {
    if plain {
        out.push(byte);
    } else {
        // Writing to a Vec can't fail.
        let _ = write!(out, "%{byte:02X}");
    }
}

/// Undoes `%XX`. A `%` that starts none stands for itself.
fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'%') {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, after @ ..] if byte == b'%' => {
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, after));
        out.push(byte);
        rest = after;
    }
    Cow::Owned(out)
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &[u8]) -> String {
        let mut out = Vec::new();
        encode_name(&mut out, name);
        String::from_utf8_lossy(&out).trim_matches('\n').to_owned()
    }

    fn pair(key: &str, value: &[u8]) -> String {
        let mut out = Vec::new();
        encode_pair(&mut out, key.as_bytes(), value);
        String::from_utf8_lossy(&out).trim_matches('\n').to_owned()
    }

    #[test]
    fn names_that_cannot_be_a_section_are_escaped() {
        assert_eq!(name(b"100@example.com"), "[100@example.com]");
        assert_eq!(name("zo\u{eb} b".as_bytes()), "[zo\u{eb} b]");
        assert_eq!(name(b"a]b"), "[a%5Db]");
        assert_eq!(name(b"a\nb\rc\0d\te\x7f"), "[a%0Ab%0Dc%00d%09e%7F]");
        assert_eq!(name(b" a b "), "[%20a b%20]");
        assert_eq!(name(b" "), "[%20]");
        assert_eq!(name(b"100%"), "[100%25]");
        assert_eq!(name(b"$include x"), "[%24include x]");
        assert_eq!(name(b"a${b}"), "[a%24{b}]");
        assert_eq!(name(b";a"), "[%3Ba]");
        assert_eq!(name(b"general"), "[%67eneral]");
        assert_eq!(name(b"generals"), "[generals]");
        assert_eq!(name(b""), "[%]");
    }

    #[test]
    fn values_are_themselves_unless_they_cannot_be_a_line() {
        assert_eq!(pair("data", b"sip/sip:a%20b@h;x=1"), "data=sip/sip:a%20b@h;x=1");
        assert_eq!(pair("a", b""), "a=");
        assert_eq!(pair("a", b"x\\"), "a=x\\ ");
        assert_eq!(pair("a", b"\\"), "a=\\ ");
        assert_eq!(pair("a", b"x\r\nexpires=9%"), "a%=x%0D%0Aexpires=9%25");
        assert_eq!(pair("a", b" x y "), "a%=%20x y%20");
        assert_eq!(pair("a", b"\n\\"), "a%=%0A\\ ");
        assert_eq!(pair("a", b"\x1b[2J"), "a%=%1B[2J");
    }

    #[test]
    fn yate_escapes_nothing() {
        let pair = parse_pair(b" a% = x%41 ; y\r", false).unwrap();
        assert_eq!((pair.0, &*pair.1), (&b"a%"[..], &b"x%41 ; y"[..]));
        assert_eq!(parse_pair(b"lonely", false).unwrap().0, b"lonely");
        assert_eq!(parse_pair(b" ; comment", false), None);
        assert_eq!(parse_pair(b"=x", false), None);
        assert_eq!(parse_pair(b" \t", false), None);
    }

    #[test]
    fn the_head_is_as_long_whatever_it_counts() {
        let general = General { sequence: 7, written: 1_795_446_319, journal: Some(3), writers: 2 };
        let empty = encode_head(general, 0, 0);
        assert_eq!(empty.len(), encode_head(general, u64::MAX, u64::MAX).len());
    }

    #[test]
    fn a_checksum_line_has_one_form() {
        assert_eq!(parse_checksum(&encode_checksum(0x0a)), Some(0x0a));
        assert_eq!(parse_checksum(b"; crc32=0000000a\n"), Some(0x0a));
        for wrong in [&b"; crc32=0000000A\n"[..], b"; crc32=0000000a ", b"; crc32=+000000a\n", b""]
        {
            assert_eq!(parse_checksum(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn the_first_equals_sign_is_found(line in "[<=>a\u{bd}\u{3c}]{0,40}") {
            let expected = line.bytes().position(|b| b == b'=');
            prop_assert_eq!(find_equals(line.as_bytes()), expected);
        }

        #[test]
        fn a_plain_line_ends_where_any_other_does(
            line in "[ -~\u{9}\u{1f}\u{20}\u{7f}\u{a0}\n]{0,60}",
        ) {
            let expected = line.bytes().position(|b| b < 0x20);
            let expected = expected.filter(|at| line.as_bytes()[*at] == b'\n');
            prop_assert_eq!(plain_end(line.as_bytes()), expected);
        }

        #[test]
        fn any_name_and_value_come_back(name: Vec<u8>, value: Vec<u8>) {
            let mut out = Vec::new();
            encode_name(&mut out, &name);
            let raw = out.strip_prefix(b"\n[").unwrap().strip_suffix(b"]\n").unwrap();
            prop_assert!(!raw.contains(&b']') && trim(raw) == raw && !raw.is_empty());
            prop_assert_ne!(raw, GENERAL);
            prop_assert_eq!(&*decode_name(raw), &*name);

            let mut out = Vec::new();
            encode_pair(&mut out, b"k", &value);
            let line = out.strip_suffix(b"\n").unwrap();
            prop_assert!(!line.iter().any(u8::is_ascii_control));
            prop_assert!(!line.ends_with(b"\\"));
            let (key, read) = parse_pair(line, true).unwrap();
            prop_assert_eq!(key, b"k");
            prop_assert_eq!(&*read, &*value);
        }
    }
}
