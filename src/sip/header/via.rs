//! `Via` (RFC 3261 §20.42, RFC 3581).

use super::{BadValue, Params};
use crate::sip::{
    grammar::{TOKEN, find, is_blank, trim, trim_end, trim_start},
    uri::HostPort,
};

/// One Via element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, ... in the sender's case.
    pub transport: &'a [u8],
    /// Where the sender says it is.
    pub sent_by: HostPort<'a>,
    /// The element up to its parameters, as sent.
    pub head: &'a [u8],
    /// All parameters.
    pub params: Params<'a>,
    /// The value of `branch`; empty if there is none (RFC 2543).
    pub branch: &'a [u8],
    /// Whether the sender asks for the answer at its source port (RFC 3581 §4).
    pub rport: bool,
    /// Where in `params` the only `rport` ends, if it is just that: the place to fill in its value.
    pub bare_rport: Option<usize>,
    /// Whether the sender set `received` itself, which only we may.
    pub received: bool,
}

impl<'a> Via<'a> {
    /// Parses one element, its parameters included.
    pub fn parse(element: &'a [u8]) -> Result<Self, BadValue> {
        let element = trim(element);
        let end = find(b';', element).unwrap_or(element.len());
        let (head, params) = element.split_at(end);
        let head = trim_end(head);
        // What nearly everybody writes, and what else the grammar allows.
        let (transport, tail) = match head.strip_prefix(b"SIP/2.0/UDP ") {
            Some(sent_by) => (&head[8..11], sent_by),
            None => sent_protocol(head)?,
        };
        let sent_by = HostPort::parse(trim(tail)).ok_or(BadValue)?;
        let params = Params::new(params);
        let mut via = Self {
            transport,
            sent_by,
            head,
            params,
            branch: b"",
            rport: false,
            bare_rport: None,
            received: false,
        };
        let mut rest = params;
        while let Some(param) = rest.next() {
            let param = param?;
            if param.is("branch") {
                via.branch = param.value.unwrap_or_default();
            } else if param.is("rport") {
                let end = params.as_bytes().len() - rest.as_bytes().len();
                via.bare_rport = (!via.rport && param.raw == b"rport").then_some(end);
                via.rport = true;
            } else if param.is("received") {
                via.received = true;
            }
        }
        Ok(via)
    }
}

/// The transport, and the blanks and the sent-by after it.
fn sent_protocol(head: &[u8]) -> Result<(&[u8], &[u8]), BadValue> {
    let (protocol, tail) = word(head)?;
    let (version, tail) = word(slash(tail)?)?;
    let (transport, tail) = word(slash(tail)?)?;
    let is_sip = protocol.eq_ignore_ascii_case(b"SIP") && version == b"2.0";
    let has_blank = tail.first().is_some_and(|&b| is_blank(b));
    if is_sip && has_blank { Ok((transport, tail)) } else { Err(BadValue) }
}

/// The characters up to a slash or a blank; they must be there.
fn word(bytes: &[u8]) -> Result<(&[u8], &[u8]), BadValue> {
    let len = bytes.iter().position(|&b| b == b'/' || is_blank(b)).unwrap_or(bytes.len());
    if len == 0 || !TOKEN.spells(&bytes[..len]) {
        return Err(BadValue);
    }
    Ok(bytes.split_at(len))
}

/// What follows a slash, which may have blanks around it.
fn slash(bytes: &[u8]) -> Result<&[u8], BadValue> {
    trim_start(bytes).strip_prefix(b"/").map(trim_start).ok_or(BadValue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual() {
        let via = Via::parse(b"SIP/2.0/UDP 192.0.2.1:5062;rport;branch=z9hG4bK87").unwrap();
        assert_eq!(via.transport, b"UDP");
        assert_eq!((via.sent_by.host, via.sent_by.port), (&b"192.0.2.1"[..], Some(5062)));
        assert_eq!(via.branch, b"z9hG4bK87");
        assert!(via.rport && !via.received);
    }

    #[test]
    fn blanks_where_the_grammar_allows_them() {
        let via = Via::parse(b"SIP  / 2.0\t/ TCP  spindle.example.com  ;branch = x;ttl=1").unwrap();
        assert_eq!(via.transport, b"TCP");
        assert_eq!(via.sent_by.host, b"spindle.example.com");
        assert_eq!(via.branch, b"x");
        let via = Via::parse(b"SIP/2.0/UDP first.example.com: 4000").unwrap();
        assert_eq!(via.sent_by.port, Some(4000));
    }

    #[test]
    fn ipv6() {
        let via = Via::parse(b"SIP/2.0/UDP [2001:db8::9:1]:6050;received=2001:db8::9:255").unwrap();
        assert_eq!(via.sent_by.host, b"[2001:db8::9:1]");
        assert_eq!(via.sent_by.port, Some(6050));
        assert!(via.received);
    }

    #[test]
    fn malformed() {
        for bad in [
            &b""[..],
            b"SIP/2.0/UDP",
            b"SIP/2.0 192.0.2.1",
            b"SIP/1.0/UDP 192.0.2.1",
            b"SIP/2.0/UDP 192.0.2.1:99999",
            b"SIP/2.0/UDP 192.0.2.1:0",
            b"SIP/2.0/UDP 192.0.2.15;;,;,,",
            b"HTTP/2.0/UDP 192.0.2.1",
            b"SIP/2.0/UDP a b",
        ] {
            assert_eq!(Via::parse(bad), Err(BadValue), "{}", bad.escape_ascii());
        }
    }
}
