//! From octets to header lines.
//!
//! The fast path takes what phones send. What it does not take (folded lines, blanks before the
//! colon, bare line feeds, quoted control characters, a missing last line end) is unfolded into
//! scratch space and read by the tolerant scanner, which fills the same index.

use super::{
    error::Fault,
    grammar::{HEADER_NAME, TEXT, find, is_blank, trim, trim_end, trim_start},
    header::HeaderName,
    message::{HeaderIndex, Line},
};

/// Header lines that the fast path reads; a message with more takes the other one.
const FAST_LINES: usize = 64;

/// Reads the header block of `bytes` from `at`; `None` means the tolerant scanner has to.
///
/// The result is where the body starts.
pub(super) fn fast(bytes: &[u8], at: usize, index: &mut HeaderIndex) -> Option<usize> {
    let mut start = at;
    loop {
        let rest = bytes.get(start..)?;
        // To the end of the line, seeing on the way that there is no control character in it.
        let (line, end) = rest.split_at(TEXT.run(rest));
        if !end.starts_with(b"\r\n") {
            return None;
        }
        if line.is_empty() {
            return Some(start + 2);
        }
        if index.len() == FAST_LINES {
            return None;
        }
        index.push(plain_line(line, start)?);
        start += line.len() + 2;
    }
}

/// A line with no blank before its colon, and none at its end.
fn plain_line(line: &[u8], at: usize) -> Option<Line> {
    let colon = find(b':', line)?;
    let name = HeaderName::parse(&line[..colon]);
    // What is a known name is made of what names are made of.
    if name == HeaderName::Other && !HEADER_NAME.spells(&line[..colon]) {
        return None;
    }
    let value = trim_start(&line[colon + 1..]);
    let value_at = line.len() - value.len();
    let value = trim_end(value);
    Some(Line {
        name,
        name_at: u16::try_from(at).ok()?,
        name_len: u16::try_from(colon).ok()?,
        value_at: u16::try_from(at + value_at).ok()?,
        value_len: u16::try_from(value.len()).ok()?,
    })
}

/// Copies `bytes` into `scratch` with folded lines joined: each line end that a blank follows
/// becomes blanks (RFC 3261 §7.3.1), so that positions stay what they were. The body is copied
/// as it is.
pub(super) fn unfold(bytes: &[u8], at: usize, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(bytes);
    let mut from = at;
    while let Some(end) = scratch.get(from..).and_then(|s| memchr::memchr(b'\n', s)) {
        let end = from + end;
        let start = if end > from && scratch[end - 1] == b'\r' { end - 1 } else { end };
        if start == from && (from == at || scratch[from - 1] == b'\n') {
            // The empty line: what follows is the body.
            return;
        }
        if scratch.get(end + 1).is_some_and(|&b| is_blank(b)) {
            scratch[start..=end].fill(b' ');
        }
        from = end + 1;
    }
}

/// Reads the header block of unfolded `bytes` from `at`. All lines that can be read are indexed,
/// so that even a message with a fault can be answered; the first fault is reported.
///
/// The result is where the body starts, and the fault.
pub(super) fn tolerant(
    bytes: &[u8],
    mut at: usize,
    limit: usize,
    index: &mut HeaderIndex,
) -> (usize, Option<Fault>) {
    let mut fault = None;
    while let Some(tail) = bytes.get(at..).filter(|t| !t.is_empty()) {
        let Some(end) = memchr::memchr(b'\n', tail) else {
            // A datagram cut within a line: its last value can't be trusted.
            fault.get_or_insert(Fault::Unterminated);
            return (bytes.len(), fault);
        };
        let line = tail[..end].strip_suffix(b"\r").unwrap_or(&tail[..end]);
        if line.is_empty() {
            return (at + end + 1, fault);
        }
        if index.len() >= limit {
            fault.get_or_insert(Fault::TooManyHeaders);
            return (bytes.len(), fault);
        }
        match read_line(line, at) {
            Some(read) => {
                let value_at = usize::from(read.value_at);
                if has_stray_control(&bytes[value_at..value_at + usize::from(read.value_len)]) {
                    fault.get_or_insert(Fault::Bad(read.name));
                } else {
                    index.push(read);
                }
            }
            None => {
                fault.get_or_insert(Fault::BadHeaderLine);
            }
        }
        at += end + 1;
    }
    (bytes.len(), fault)
}

/// One line `name : value`; `at` is where the line starts.
fn read_line(line: &[u8], at: usize) -> Option<Line> {
    let colon = memchr::memchr(b':', line)?;
    let name = trim(&line[..colon]);
    if !HEADER_NAME.spells(name) {
        return None;
    }
    let value = trim(&line[colon + 1..]);
    let base = line.as_ptr().addr();
    // An empty value has no place of its own worth knowing.
    let value_at = if value.is_empty() { colon } else { value.as_ptr().addr() - base };
    Some(Line {
        name: HeaderName::parse(name),
        name_at: u16::try_from(at + (name.as_ptr().addr() - base)).ok()?,
        name_len: u16::try_from(name.len()).ok()?,
        value_at: u16::try_from(at + value_at).ok()?,
        value_len: u16::try_from(value.len()).ok()?,
    })
}

/// Whether a control character stands anywhere but after a backslash, where `quoted-pair` allows
/// it (RFC 3261 §25.1; RFC 4475 §3.1.1.2 has such a message). CR and LF are never allowed: what is
/// copied into an answer must not end a line.
fn has_stray_control(value: &[u8]) -> bool {
    let mut escaped = false;
    value.iter().any(|&byte| {
        let control = byte.is_ascii_control() && byte != b'\t';
        let stray = control && (!escaped || byte == b'\r' || byte == b'\n');
        escaped = byte == b'\\' && !escaped;
        stray
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names and values, where the body starts, and the fault.
    type Read = (Vec<(HeaderName, Vec<u8>)>, usize, Option<Fault>);

    fn lines(block: &[u8]) -> Read {
        let mut scratch = Vec::new();
        unfold(block, 0, &mut scratch);
        assert_eq!(scratch.len(), block.len());
        let mut index = HeaderIndex::new();
        let (body, fault) = tolerant(&scratch, 0, 5, &mut index);
        let message = super::super::Message::new(&scratch, &index, body);
        let lines = message.headers().map(|(n, v)| (HeaderName::parse(n), v.to_vec())).collect();
        (lines, body, fault)
    }

    #[test]
    fn folding_and_blanks() {
        let block = b"TO :\r\n sip:a@b ;\r\n\ttag=1\r\nl: 0\n\n a\r\n b";
        let (read, body, fault) = lines(block);
        assert_eq!(read[0], (HeaderName::To, b"sip:a@b ;  \ttag=1".to_vec()));
        assert_eq!(read[1], (HeaderName::ContentLength, b"0".to_vec()));
        assert_eq!((read.len(), &block[body..], fault), (2, &b" a\r\n b"[..], None));
    }

    #[test]
    fn both_paths_agree() {
        let block = b"Via: SIP/2.0/UDP a\r\nf:<sip:a@b>\r\nX#Y:\r\nTo:  x  \r\n\r\nbody";
        let mut index = HeaderIndex::new();
        let body = fast(block, 0, &mut index).unwrap();
        let message = super::super::Message::new(block, &index, body);
        let quick: Vec<_> =
            message.headers().map(|(n, v)| (HeaderName::parse(n), v.to_vec())).collect();
        assert_eq!((quick, body, None), lines(block));
    }

    #[test]
    fn faults_leave_the_other_lines_readable() {
        let (read, _, fault) = lines(b"Via: x\r\nnonsense\r\nTo: a\r\n\r\n");
        assert_eq!((read.len(), fault), (2, Some(Fault::BadHeaderLine)));
        let (_, _, fault) = lines(b"Via: x\r\nTo: a");
        assert_eq!(fault, Some(Fault::Unterminated));
        let (_, _, fault) = lines(b"Via: x\r\nTo: a\0b\r\n\r\n");
        assert_eq!(fault, Some(Fault::Bad(HeaderName::To)));
        let (_, _, fault) = lines(b"a:1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\n\r\n");
        assert_eq!(fault, Some(Fault::TooManyHeaders));
        let (read, _, fault) = lines(b"Via: x\r\nTo: \"\\\0\\\x07\"\r\n");
        assert_eq!((read.len(), fault), (2, None));
    }

    proptest! {
        /// What the fast path takes, the strict parser of a well-kept library takes, and reads the
        /// same lines. (The other way round, bare line feeds and folded lines go the other path.)
        #[test]
        fn the_fast_path_is_no_laxer_than_httparse(
            lines in prop::collection::vec(
                prop::sample::select(vec![
                    "Via: x\r\n", "To:\t\"a\u{e9}\" <sip:a@b> \r\n", "X:\r\n", "x: \r\n", " a: b\r\n",
                    "a b: c\r\n", ": c\r\n", "n\r\n", "a: b\n", "a: b\rc\r\n", "a: \0\r\n",
                    "a: \u{7f}\r\n", "\r\n", "\n", "a(b: c\r\n", "i : d\r\n",
                ]),
                0..6,
            ),
        ) {
            let block = lines.concat() + "\r\nbody";
            let mut index = HeaderIndex::new();
            let Some(body) = fast(block.as_bytes(), 0, &mut index) else { return Ok(()) };
            let message = super::super::Message::new(block.as_bytes(), &index, body);
            let ours: Vec<_> = message.headers().collect();
            let mut headers = [httparse::EMPTY_HEADER; FAST_LINES];
            let parsed = httparse::parse_headers(block.as_bytes(), &mut headers);
            let Ok(httparse::Status::Complete((end, headers))) = parsed else {
                panic!("{block:?}")
            };
            prop_assert_eq!(end, body);
            let theirs: Vec<_> = headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
