//! `hostport` (RFC 3261 §25.1) and addresses in it.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::sip::grammar::{HOST, find, number, trim};

/// Octets of the longest text of an IPv6 address.
const LONGEST_IPV6: usize = 45;

/// A host and an optional port, as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// A name, an IPv4 address, or an IPv6 address with its brackets.
    pub host: &'a [u8],
    /// 1 to 65535.
    pub port: Option<u16>,
}

impl<'a> HostPort<'a> {
    /// Parses a `sent-by`: blanks may stand around the colon (RFC 4475 §3.1.1.1).
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (host, port) = split(bytes)?;
        Self::checked(trim(host), port.map(trim))
    }

    /// Parses a `hostport`: no blanks.
    pub fn parse_strict(bytes: &'a [u8]) -> Option<Self> {
        let (host, port) = split(bytes)?;
        Self::checked(host, port)
    }

    fn checked(host: &'a [u8], port: Option<&[u8]>) -> Option<Self> {
        let port = match port {
            Some(port) => Some(number(port).filter(|&p| p > 0)?),
            None => None,
        };
        let host_fits = match host {
            [b'[', ..] => ipv6(host).is_some(),
            _ => HOST.spells(host),
        };
        host_fits.then_some(Self { host, port })
    }

    /// The address, where the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host {
            [b'[', ..] => ipv6(self.host).map(IpAddr::V6),
            [b'0'..=b'9', ..] => ipv4(self.host).map(IpAddr::V4),
            _ => None,
        }
    }
}

/// Splits at the colon before the port, which is not one inside brackets.
fn split(bytes: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let after = if bytes.first() == Some(&b'[') { find(b']', bytes)? } else { 0 };
    Some(match find(b':', &bytes[after..]) {
        Some(colon) => (&bytes[..after + colon], Some(&bytes[after + colon + 1..])),
        None => (bytes, None),
    })
}

/// The address of an `IPv6reference`.
fn ipv6(host: &[u8]) -> Option<Ipv6Addr> {
    let inner = std::str::from_utf8(host.strip_prefix(b"[")?.strip_suffix(b"]")?).ok()?;
    inner.parse().ok().or_else(|| {
        // The grammar of RFC 3261 puts a third colon before an IPv4 tail; RFC 5118 §4.10 has it
        // tolerated.
        let (head, tail) = inner.split_once(":::")?;
        let mut text = [0; LONGEST_IPV6];
        let mut rest = &mut text[..];
        write!(rest, "{head}::{tail}").ok()?;
        let len = LONGEST_IPV6 - rest.len();
        std::str::from_utf8(&text[..len]).ok()?.parse().ok().filter(|_| tail.contains('.'))
    })
}

/// The address of an `IPv4address`.
fn ipv4(host: &[u8]) -> Option<Ipv4Addr> {
    let (mut address, mut octet) = (0_u32, 0_u32);
    let (mut digits, mut dots) = (0, 0);
    for &byte in host {
        match byte {
            b'0'..=b'9' if digits < 3 => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && dots < 3 && octet < 256 => {
                address = address << 8 | octet;
                (octet, digits, dots) = (0, 0, dots + 1);
            }
            _ => return None,
        }
    }
    let is_whole = dots == 3 && digits > 0 && octet < 256;
    is_whole.then(|| Ipv4Addr::from(address << 8 | octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Option<(&[u8], Option<u16>)> {
        HostPort::parse_strict(bytes).map(|h| (h.host, h.port))
    }

    #[test]
    fn forms() {
        assert_eq!(parsed(b"example.com"), Some((&b"example.com"[..], None)));
        assert_eq!(parsed(b"192.0.2.1:5060"), Some((&b"192.0.2.1"[..], Some(5060))));
        assert_eq!(parsed(b"[::1]:65535"), Some((&b"[::1]"[..], Some(65535))));
        for bad in [
            &b""[..],
            b":5060",
            b"a:",
            b"a:0",
            b"[::1]x",
            b"[::1",
            b"[]",
            b"a b",
            b"::1",
            b"[2:::1]",
        ] {
            assert_eq!(parsed(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn addresses() {
        let ip = |bytes| HostPort::parse_strict(bytes).unwrap().ip();
        assert_eq!(ip(b"192.0.2.255"), Some("192.0.2.255".parse().unwrap()));
        assert_eq!(ip(b"[2001:DB8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(ip(b"[::ffff:192.0.2.1]"), Some("::ffff:192.0.2.1".parse().unwrap()));
        assert_eq!(ip(b"[2001:db8:::192.0.2.1]"), Some("2001:db8::192.0.2.1".parse().unwrap()));
        assert_eq!(ip(b"example.com"), None);
        for name in [&b"192.0.2.256"[..], b"192.0.2", b"1.2.3.4.5", b"192.0.2.0001"] {
            assert_eq!(ip(name), None, "{}", name.escape_ascii());
        }
    }
}
