//! Comma-separated header values (RFC 3261 §7.3.1).

use super::BadValue;
use crate::sip::grammar::{Class, find, quoted_len, trim, trim_end};

/// What neither ends an element nor hides an end of one.
const PLAIN: Class = Class::all_but(b",\"<");

/// The elements of a comma-separated value, blanks trimmed. Commas inside quoted strings and
/// angle brackets do not separate.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Elements<'a> {
    /// The elements of `value`; an empty value has one empty element.
    pub fn new(value: &'a [u8]) -> Self {
        Self { rest: Some(value) }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], BadValue>;

    fn next(&mut self) -> Option<Self::Item> {
        let value = self.rest.take()?;
        // One address in brackets, the usual Contact.
        if let [b'<', inner @ ..] = value
            && let Some(close) = find(b'>', inner)
            && PLAIN.run(&inner[close..]) == inner.len() - close
        {
            return Some(Ok(trim_end(value)));
        }
        let mut at = 0;
        loop {
            let tail = value.get(at..).unwrap_or_default();
            let Some(found) = memchr::memchr3(b',', b'"', b'<', tail) else {
                return Some(Ok(trim(value)));
            };
            at += found;
            match value[at] {
                b',' => {
                    self.rest = Some(&value[at + 1..]);
                    return Some(Ok(trim(&value[..at])));
                }
                b'"' => match quoted_len(&value[at..]) {
                    Some(len) => at += len,
                    None => return Some(Err(BadValue)),
                },
                _ => match memchr::memchr(b'>', &value[at..]) {
                    Some(len) => at += len + 1,
                    None => return Some(Err(BadValue)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(value: &[u8]) -> Vec<Result<&[u8], BadValue>> {
        Elements::new(value).collect()
    }

    #[test]
    fn commas_separate_outside_quotes_and_brackets() {
        assert_eq!(split(b"a , b,c"), [Ok(&b"a"[..]), Ok(b"b"), Ok(b"c")]);
        assert_eq!(split(br#""x, \"y" <a,b>, z"#), [Ok(&br#""x, \"y" <a,b>"#[..]), Ok(b"z")]);
        assert_eq!(split(b""), [Ok(&b""[..])]);
        assert_eq!(split(b"a,"), [Ok(&b"a"[..]), Ok(b"")]);
    }

    #[test]
    fn what_never_ends_is_bad() {
        assert_eq!(split(b"\"a, b"), [Err(BadValue)]);
        assert_eq!(split(b"a, <b"), [Ok(&b"a"[..]), Err(BadValue)]);
    }
}
