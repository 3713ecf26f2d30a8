//! The character classes of RFC 3261 §25.1 and the few scans built on them.

pub(crate) use crate::octets::{Class, find};

/// `token`.
pub(crate) const TOKEN: Class = Class::alphanumeric_and(b"-.!%*_+`'~");
/// A header's name: `token`, and what HTTP's tokens have beyond it, which proxies let through. No
/// header of such a name means anything here.
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
/// What a line is made of: anything but control characters, of which it may have HTAB.
pub(crate) const TEXT: Class = Class::all_but(b"").and_no_control().with(b'\t');
/// What stands for itself in a quoted string.
const UNESCAPED: Class = Class::all_but(b"\"\\");
/// Any URI that is not `sip` or `sips` (RFC 3986 characters).
pub(crate) const ANY_URI: Class = Class::alphanumeric_and(b"-._~:/?#[]@!$&'()*+,;=%");

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
    let mut rest = bytes.strip_prefix(b"\"")?;
    loop {
        rest = &rest[UNESCAPED.run(rest)..];
        match rest {
            [b'"', after @ ..] => return Some(bytes.len() - after.len()),
            [b'\\', _, after @ ..] => rest = after,
            _ => return None,
        }
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
    if bytes.len() < 20 {
        // Whatever 19 digits say fits.
        for &byte in bytes {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + u64::from(digit);
        }
        return T::try_from(value).ok();
    }
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
    fn numbers_overflow_to_none() {
        assert_eq!(number::<u32>(b"4294967295"), Some(u32::MAX));
        assert_eq!(number::<u32>(b"4294967296"), None);
        assert_eq!(number::<u32>(b"36893488147419103232"), None);
        assert_eq!(number::<u64>(b"9999999999999999999"), Some(9_999_999_999_999_999_999));
        assert_eq!(number::<u32>(b"00000000000000000000000007"), Some(7));
        assert_eq!(number::<u32>(b""), None);
        assert_eq!(number::<u32>(b"+1"), None);
        assert_eq!(number::<u32>(b"-1"), None);
    }
}
