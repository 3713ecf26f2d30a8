//! The character classes of RFC 3261 §25.1 and the few scans built on them.

/// A set of octets.
#[derive(Clone, Copy)]
pub(crate) struct Class([bool; 256]);

impl Class {
    const fn alphanumeric_and(more: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut i = 0;
        while i < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "i < 256; no try_from in const")]
            let byte = i as u8;
            set[i] = byte.is_ascii_alphanumeric();
            i += 1;
        }
        let mut i = 0;
        while i < more.len() {
            set[more[i] as usize] = true;
            i += 1;
        }
        Self(set)
    }

    pub(crate) const fn all_but(few: &[u8]) -> Self {
        let mut set = [true; 256];
        let mut i = 0;
        while i < few.len() {
            set[few[i] as usize] = false;
            i += 1;
        }
        Self(set)
    }

    const fn and_beyond_ascii(mut self) -> Self {
        let mut byte = 128;
        while byte < 256 {
            self.0[byte] = true;
            byte += 1;
        }
        self
    }

    #[inline]
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }

    /// How many octets at the start of `bytes` are of this class.
    #[inline]
    pub(crate) fn run(&self, bytes: &[u8]) -> usize {
        let mut at = 0;
        // Eight at a time: most texts are that long, and then cost one branch instead of eight.
        for chunk in bytes.as_chunks::<8>().0 {
            if !chunk.iter().fold(true, |all, &b| all & self.has(b)) {
                break;
            }
            at += 8;
        }
        while let Some(&byte) = bytes.get(at)
            && self.has(byte)
        {
            at += 1;
        }
        at
    }

    /// Whether `bytes` is not empty and made of this class only.
    #[inline]
    pub(crate) fn spells(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.run(bytes) == bytes.len()
    }
}

/// `token`.
pub(crate) const TOKEN: Class = Class::alphanumeric_and(b"-.!%*_+`'~");
/// A header's name: `token`, and what HTTP's tokens, and so the fast path's, have beyond it. No header
/// of such a name means anything here.
pub(crate) const HEADER_NAME: Class = Class::alphanumeric_and(b"-.!%*_+`'~#$&^|");
/// `word`, the halves of a Call-ID.
pub(crate) const WORD: Class = Class::alphanumeric_and(b"-.!%*_+`'~()<>:\\\"/[]?{}");
/// `hostname`, with the underscore that names inside networks do have.
pub(crate) const HOST: Class = Class::alphanumeric_and(b"-._");
/// `user` without escapes. `#` is not in the grammar, but feature codes carry it unescaped.
pub(crate) const USER: Class = Class::alphanumeric_and(b"-_.!~*'()&=+$,;?/#");
/// `password` without escapes.
pub(crate) const PASSWORD: Class = Class::alphanumeric_and(b"-_.!~*'()&=+$,");
/// `paramchar` of a URI parameter without escapes.
pub(crate) const URI_PARAM: Class = Class::alphanumeric_and(b"-_.!~*'()[]/:&+$");
/// `hname`/`hvalue` of a URI header without escapes.
pub(crate) const URI_HEADER: Class = Class::alphanumeric_and(b"-_.!~*'()[]/?:+$");
/// What the value of a header parameter may hold unquoted: `token` and `host`. Values seen on
/// phones hold more (`/`, `@`, `<urn:...>` stays quoted), so the class is wider than the grammar.
pub(crate) const PARAM_VALUE: Class = Class::alphanumeric_and(b"-.!%*_+`'~[]:/@$&=?#|^{}()");
/// [`PARAM_VALUE`] and whatever is not ASCII.
pub(crate) const LOOSE_VALUE: Class = PARAM_VALUE.and_beyond_ascii();
/// Any URI that is not `sip` or `sips` (RFC 3986 characters).
pub(crate) const ANY_URI: Class = Class::alphanumeric_and(b"-._~:/?#[]@!$&'()*+,;=%");

/// Where `byte` stands first in `bytes`.
///
/// For the short texts of a message: `memchr` takes longer to begin than these take to end.
#[inline]
pub(crate) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let wanted = ONES * u64::from(byte);
    let (chunks, tail) = bytes.as_chunks::<8>();
    for (i, chunk) in chunks.iter().enumerate() {
        // An octet is zero here where it is `byte`; the lowest bit set below is the first of them.
        let differs = u64::from_le_bytes(*chunk) ^ wanted;
        let zero = differs.wrapping_sub(ONES) & !differs & HIGHS;
        if zero != 0 {
            return Some(8 * i + (zero.trailing_zeros() / 8) as usize);
        }
    }
    tail.iter().position(|&b| b == byte).map(|at| bytes.len() - tail.len() + at)
}

/// Whether `byte` is SP or HTAB: what is left of LWS once lines are unfolded.
pub(crate) const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// `bytes` without blanks at either end.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    trim_start(trim_end(bytes))
}

/// `bytes` without blanks at its start.
pub(crate) fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    bytes
}

/// `bytes` without blanks at its end.
pub(crate) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., last] = bytes
        && is_blank(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The length of the quoted string that `bytes` starts with, quotes included; `None` if it does
/// not start with a quote or never ends.
pub(crate) fn quoted_len(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Whether `bytes` is made of `class` and well-formed `%` escapes. Empty is well-formed.
pub(crate) fn is_escaped(class: &Class, bytes: &[u8]) -> bool {
    let mut rest = &bytes[class.run(bytes)..];
    while let [first, tail @ ..] = rest {
        rest = if class.has(*first) {
            tail
        } else if let (b'%', [high, low, tail @ ..]) = (first, tail)
            && high.is_ascii_hexdigit()
            && low.is_ascii_hexdigit()
        {
            tail
        } else {
            return false;
        };
    }
    true
}

/// An unsigned number of digits only; `None` for anything else and on overflow.
pub(crate) fn number<T: TryFrom<u64>>(bytes: &[u8]) -> Option<T> {
    if bytes.is_empty() {
        return None;
    }
    let mut value = 0_u64;
    for &byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    T::try_from(value).ok()
}

/// The value of a hexadecimal digit.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_end_at_the_unescaped_quote() {
        assert_eq!(quoted_len(br#""a" b"#), Some(3));
        assert_eq!(quoted_len(br#""a\"b\\""#), Some(8));
        for unbalanced in [&br#""a"#[..], br#""a\""#, br#""a\"#, b"a", b""] {
            assert_eq!(quoted_len(unbalanced), None, "{}", unbalanced.escape_ascii());
        }
    }

    #[test]
    fn escapes_need_two_digits() {
        assert!(is_escaped(&USER, b"a%20b"));
        assert!(is_escaped(&USER, b""));
        for bad in [&b"a%2"[..], b"%", b"%zz", b"a b", b"a\0"] {
            assert!(!is_escaped(&USER, bad), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn runs_and_finds() {
        for len in 0..40 {
            let text = vec![b'a'; len];
            assert_eq!((TOKEN.run(&text), find(b' ', &text)), (len, None));
            for at in 0..len {
                let mut text = text.clone();
                text[at] = b'"';
                text[len - 1] = b'"';
                assert_eq!((TOKEN.run(&text), find(b'"', &text)), (at, Some(at)));
            }
        }
        // One below and one above what is looked for, and what borrows in a subtraction.
        assert_eq!(find(b'b', b"\x00\xffac\x80\xe2ab"), Some(7));
    }

    #[test]
    fn numbers_overflow_to_none() {
        assert_eq!(number::<u32>(b"4294967295"), Some(u32::MAX));
        assert_eq!(number::<u32>(b"4294967296"), None);
        assert_eq!(number::<u32>(b"36893488147419103232"), None);
        assert_eq!(number::<u32>(b""), None);
        assert_eq!(number::<u32>(b"+1"), None);
        assert_eq!(number::<u32>(b"-1"), None);
    }
}
