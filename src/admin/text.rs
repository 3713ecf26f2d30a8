//! SIP texts as JSON strings, and back, without a loss.
//!
//! What phones send may hold any octet, a JSON string only Unicode. Octets that are not UTF-8
//! become `\xNN`, and a backslash becomes two; everything else stands as it came.

use std::borrow::Cow;
use std::fmt::Write;

use crate::hex::parse_hex;

/// Octets as text.
pub fn text(octets: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(octets)
        && !text.contains('\\')
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(octets.len() + 8);
    for chunk in octets.utf8_chunks() {
        out.push_str(&chunk.valid().replace('\\', "\\\\"));
        for octet in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(out, "\\x{octet:02x}");
        }
    }
    Cow::Owned(out)
}

/// The octets that [`text`] made a text of; `None` if it made no such text.
pub fn octets(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at_checked(at)?;
        out.extend_from_slice(plain);
        rest = match escape {
            [_, b'\\', rest @ ..] => {
                out.push(b'\\');
                rest
            }
            [_, b'x', high, low, rest @ ..] => {
                out.extend(parse_hex::<1>(&[*high, *low])?);
                rest
            }
            _ => return None,
        };
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_json_cannot_hold_is_escaped() {
        for (octets, expected) in [
            (&b"sip:a@b"[..], "sip:a@b"),
            ("Büro\u{7}".as_bytes(), "Büro\u{7}"),
            (b"a\\b", "a\\\\b"),
            (b"a\xffb\xc3", "a\\xffb\\xc3"),
            (b"\\xff", "\\\\xff"),
        ] {
            assert_eq!(text(octets), expected);
        }
        assert_eq!(octets("a\\b"), None);
        assert_eq!(octets("a\\xf"), None);
        assert_eq!(octets("a\\"), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(any in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(octets(&text(&any)), Some(any));
        }
    }
}
