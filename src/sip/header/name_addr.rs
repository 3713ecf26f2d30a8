//! `name-addr` and `addr-spec`: From, To, Contact, Path (RFC 3261 §20, §25.1).

use super::{BadValue, Params};
use crate::sip::grammar::{TOKEN, find, is_blank, quoted_len, trim, trim_end, trim_start};

/// An address with an optional display name and header parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as sent, quotes included; empty if there is none.
    pub display: &'a [u8],
    /// The URI, without angle brackets, not parsed.
    pub uri: &'a [u8],
    /// What follows the URI.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Parses one element. Parameters are checked where they are read.
    pub fn parse(element: &'a [u8]) -> Result<Self, BadValue> {
        let element = trim(element);
        let open = match quoted_len(element) {
            None if element.first() == Some(&b'<') => 0,
            Some(len) => {
                let tail = trim_start(&element[len..]);
                if tail.first() != Some(&b'<') {
                    return Err(BadValue);
                }
                element.len() - tail.len()
            }
            None => match memchr::memchr2(b'<', b'"', element) {
                Some(open) if element[open] == b'<' => {
                    let display = trim_end(&element[..open]);
                    if !display.iter().all(|&b| TOKEN.has(b) || is_blank(b) || !b.is_ascii()) {
                        return Err(BadValue);
                    }
                    open
                }
                _ => return Self::parse_addr_spec(element),
            },
        };
        let close = open + find(b'>', &element[open..]).ok_or(BadValue)?;
        let uri = &element[open + 1..close];
        if uri.is_empty() {
            return Err(BadValue);
        }
        Ok(Self {
            display: trim_end(&element[..open]),
            uri,
            params: Params::new(&element[close + 1..]),
        })
    }

    /// Without brackets, what follows a semicolon belongs to the header, and a URI with a question
    /// mark or a comma can't be told from what follows it (RFC 3261 §20).
    fn parse_addr_spec(element: &'a [u8]) -> Result<Self, BadValue> {
        let end = memchr::memchr2(b';', b'"', element).unwrap_or(element.len());
        let (uri, params) = element.split_at(end);
        let uri = trim_end(uri);
        if uri.is_empty() || memchr::memchr2(b'?', b',', uri).is_some() {
            return Err(BadValue);
        }
        Ok(Self { display: b"", uri, params: Params::new(params) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(element: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
        let a = NameAddr::parse(element).ok()?;
        Some((a.display, a.uri, a.params.as_bytes()))
    }

    #[test]
    fn forms() {
        assert_eq!(parts(b"<sip:a@b>"), Some((&b""[..], &b"sip:a@b"[..], &b""[..])));
        assert_eq!(
            parts(br#""A. \"G\" <B>"<sip:a@b;lr?x=y> ;tag=1"#),
            Some((&br#""A. \"G\" <B>""#[..], &b"sip:a@b;lr?x=y"[..], &b" ;tag=1"[..]))
        );
        assert_eq!(
            parts(b"caller  one <sip:a@b>;tag=1"),
            Some((&b"caller  one"[..], &b"sip:a@b"[..], &b";tag=1"[..]))
        );
        assert_eq!(parts(b"sip:a@b;tag=1"), Some((&b""[..], &b"sip:a@b"[..], &b";tag=1"[..])));
    }

    #[test]
    fn malformed() {
        for bad in [
            &b""[..],
            b"<>",
            b"<sip:a@b",
            br#""Mr. J. User <sip:a@b>"#,
            b"Bell, Alexander <sip:a@b>",
            br#""x" sip:a@b"#,
            b"sip:a@b?Route=x",
            b"sip:a@b,c",
            br#"sip:a"b"#,
        ] {
            // An addr-spec that ends in a quote is caught by the parameters or the URI.
            let parsed = NameAddr::parse(bad).and_then(|a| a.params.check().map(|()| a));
            assert_eq!(parsed, Err(BadValue), "{}", bad.escape_ascii());
        }
    }
}
