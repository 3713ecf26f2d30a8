//! SIP and SIPS URIs (RFC 3261 §19.1), and the few facts needed of others.

mod canonical;
mod compare;
mod host;

use super::grammar::{self, ANY_URI, HOST, PASSWORD, URI_HEADER, URI_PARAM, USER, is_escaped};

pub use self::{
    canonical::{canonical_host_into, unescape_into},
    compare::equal,
    host::HostPort,
};

/// `sip` or `sips`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `sip:`.
    Sip,
    /// `sips:`.
    Sips,
}

/// A SIP or SIPS URI, checked against the grammar; every part borrows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipUri<'a> {
    /// Which of the two schemes.
    pub scheme: Scheme,
    /// The user part with its escapes; `None` if there is no `@`.
    pub user: Option<&'a [u8]>,
    /// The password, which nobody should send (RFC 3261 §19.1.1).
    pub password: Option<&'a [u8]>,
    /// Host and port.
    pub host_port: HostPort<'a>,
    /// The parameters: empty, or beginning with a semicolon.
    pub params: &'a [u8],
    /// The headers without the question mark; empty if there are none.
    pub headers: &'a [u8],
}

/// Why a URI is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriError {
    /// It breaks the grammar.
    Malformed,
    /// Well-formed as far as is known, but of another scheme.
    OtherScheme,
}

impl<'a> SipUri<'a> {
    /// Parses `uri`, all of it.
    pub fn parse(uri: &'a [u8]) -> Result<Self, UriError> {
        if let Some(uri) = Self::parse_plain(uri) {
            return Ok(uri);
        }
        let (scheme, rest) = split_scheme(uri).ok_or(UriError::Malformed)?;
        let scheme = if scheme.eq_ignore_ascii_case(b"sip") {
            Scheme::Sip
        } else if scheme.eq_ignore_ascii_case(b"sips") {
            Scheme::Sips
        } else if ANY_URI.spells(rest) {
            return Err(UriError::OtherScheme);
        } else {
            return Err(UriError::Malformed);
        };
        Self::parse_rest(scheme, rest).ok_or(UriError::Malformed)
    }

    /// Parses what most phones send, in one pass: `sip:`, no escape, no password, a name or an
    /// IPv4 address, no headers. `None` means that it takes a closer look.
    fn parse_plain(uri: &'a [u8]) -> Option<Self> {
        let rest = uri.strip_prefix(b"sip:")?;
        let len = USER.run(rest);
        let (user, rest) = match rest.get(len) {
            Some(b'@') => (Some(&rest[..len]), &rest[len + 1..]),
            None => (None, rest),
            // Perhaps a password, perhaps a port: that depends on what follows.
            Some(_) => return None,
        };
        if user.is_some_and(<[u8]>::is_empty) {
            return None;
        }
        let (host, mut tail) = rest.split_at(HOST.run(rest));
        let mut port = None;
        if let [b':', digits @ ..] = tail {
            let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
            port = Some(grammar::number::<u16>(&digits[..len]).filter(|&port| port > 0)?);
            tail = &digits[len..];
        }
        let params = tail;
        while let [b';', param @ ..] = tail {
            let name = URI_PARAM.run(param);
            tail = &param[name..];
            if let [b'=', value @ ..] = tail {
                tail = &value[URI_PARAM.run(value)..];
            }
            if name == 0 {
                return None;
            }
        }
        (!host.is_empty() && tail.is_empty()).then_some(Self {
            scheme: Scheme::Sip,
            user,
            password: None,
            host_port: HostPort { host, port },
            params,
            headers: b"",
        })
    }

    fn parse_rest(scheme: Scheme, rest: &'a [u8]) -> Option<Self> {
        // A user part may hold `;` and `?`, but `@` only escaped: the first one ends it.
        let (user, password, rest) = match memchr::memchr(b'@', rest) {
            Some(at) => {
                let info = &rest[..at];
                let (user, password) = match memchr::memchr(b':', info) {
                    Some(colon) => (&info[..colon], Some(&info[colon + 1..])),
                    None => (info, None),
                };
                if user.is_empty()
                    || !is_escaped(&USER, user)
                    || !password.is_none_or(|p| is_escaped(&PASSWORD, p))
                {
                    return None;
                }
                (Some(user), password, &rest[at + 1..])
            }
            None => (None, None, rest),
        };
        let end = memchr::memchr2(b';', b'?', rest).unwrap_or(rest.len());
        let (host_port, rest) = rest.split_at(end);
        let end = memchr::memchr(b'?', rest).unwrap_or(rest.len());
        let (params, headers) = rest.split_at(end);
        let uri = Self {
            scheme,
            user,
            password,
            host_port: HostPort::parse_strict(host_port)?,
            params,
            headers: headers.strip_prefix(b"?").unwrap_or_default(),
        };
        let params_fit = uri.params().all(|(name, value)| {
            !name.is_empty()
                && is_escaped(&URI_PARAM, name)
                && value.is_none_or(|v| is_escaped(&URI_PARAM, v))
        });
        let headers_fit = headers.is_empty()
            || uri.headers().all(|(name, value)| {
                !name.is_empty() && is_escaped(&URI_HEADER, name) && is_escaped(&URI_HEADER, value)
            });
        (params_fit && headers_fit).then_some(uri)
    }

    /// The parameters as name and value, escapes kept.
    pub fn params(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone {
        // The first piece is what stands before the first semicolon: nothing.
        self.params.split(|&b| b == b';').skip(1).map(|param| match memchr::memchr(b'=', param) {
            Some(at) => (&param[..at], Some(&param[at + 1..])),
            None => (param, None),
        })
    }

    /// The value of a parameter: `Some(None)` for a bare name.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.params().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The headers as name and value, escapes kept.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let headers = (!self.headers.is_empty()).then_some(self.headers);
        headers.into_iter().flat_map(|h| h.split(|&b| b == b'&')).map(
            |header| match memchr::memchr(b'=', header) {
                Some(at) => (&header[..at], &header[at + 1..]),
                None => (header, &b""[..]),
            },
        )
    }
}

/// The scheme of any URI and what follows its colon; `None` if there is no scheme.
pub fn split_scheme(uri: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', uri)?;
    let scheme = &uri[..colon];
    let fits = scheme.first()?.is_ascii_alphabetic()
        && scheme.iter().all(|&b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    fits.then_some((scheme, &uri[colon + 1..]))
}

/// Whether `uri` may stand in a Contact or Path: a well-formed SIP URI, or any other absolute URI.
pub fn is_well_formed(uri: &[u8]) -> bool {
    !matches!(SipUri::parse(uri), Err(UriError::Malformed))
}

/// Whether two parts are equal: an escape equals the character it stands for, unless that is
/// reserved (RFC 3261 §19.1.4, RFC 2396 §2.2).
fn unescaped_eq(a: &[u8], b: &[u8], fold_case: bool) -> bool {
    if memchr::memchr(b'%', a).is_none() && memchr::memchr(b'%', b).is_none() {
        return if fold_case { a.eq_ignore_ascii_case(b) } else { a == b };
    }
    let comparable = |(octet, is_escaped): (u8, bool)| {
        let octet = if fold_case { octet.to_ascii_lowercase() } else { octet };
        (octet, is_escaped && b";/?:@&=+$,".contains(&octet))
    };
    octets(a).map(comparable).eq(octets(b).map(comparable))
}

/// The octets of `bytes` with `%` escapes resolved; a malformed escape stands for itself.
fn unescaped(bytes: &[u8]) -> impl Iterator<Item = u8> {
    octets(bytes).map(|(octet, _)| octet)
}

/// The octets of `bytes` with `%` escapes resolved, and whether each was escaped.
fn octets(mut bytes: &[u8]) -> impl Iterator<Item = (u8, bool)> {
    std::iter::from_fn(move || {
        let (&first, tail) = bytes.split_first()?;
        if first == b'%'
            && let [high, low, rest @ ..] = tail
            && let (Some(high), Some(low)) = (grammar::hex_digit(*high), grammar::hex_digit(*low))
        {
            bytes = rest;
            return Some((high << 4 | low, true));
        }
        bytes = tail;
        Some((first, false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let uri = SipUri::parse(
            b"sips:alice;day=tue:pa%20ss@[2001:db8::1]:5061;transport=tcp;lr?Subject=a%20b&x=",
        )
        .unwrap();
        assert_eq!(uri.scheme, Scheme::Sips);
        assert_eq!(uri.user, Some(&b"alice;day=tue"[..]));
        assert_eq!(uri.password, Some(&b"pa%20ss"[..]));
        assert_eq!(uri.host_port.host, b"[2001:db8::1]");
        assert_eq!(uri.host_port.port, Some(5061));
        assert_eq!(uri.param("Transport"), Some(Some(&b"tcp"[..])));
        assert_eq!(uri.param("lr"), Some(None));
        assert_eq!(uri.param("ttl"), None);
        let headers: Vec<_> = uri.headers().collect();
        assert_eq!(headers, [(&b"Subject"[..], &b"a%20b"[..]), (b"x", b"")]);
    }

    #[test]
    fn rfc4475_oddities_are_taken() {
        for good in [
            &b"sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com"[..],
            b"sip:null-%00-null@example.com",
            b"sip:user;par=u%40example.net@example.com",
            b"sip:vivekg@chair-dnrc.example.com;unknownparam",
            b"sip:+15551212@example.com;user=phone",
            b"sip:example.com",
            b"SIP:*21#@host_with_underscore",
        ] {
            assert!(SipUri::parse(good).is_ok(), "{}", good.escape_ascii());
        }
    }

    #[test]
    fn malformed() {
        for bad in [
            &b""[..],
            b"sip:",
            b"sip:@example.com",
            b"sip:a@",
            b"sip:a@b@c",
            b"sip:a b@c",
            b"sip:a@b c",
            b"sip:a@b;",
            b"sip:a@b;;x",
            b"sip:a@b;=x",
            b"sip:a@b:",
            b"sip:a@b:0",
            b"sip:a@b:65536",
            b"sip:a@b:5060x",
            b"sip:a@[::1",
            b"sip:a@[12345::1]",
            b"sip:a@::1",
            b"sip:%4@b",
            b"sip:a@b?=x",
            b"sip:a\0@b",
            b"a@b",
            b"1sip:a@b",
            b"<sip:a@b>",
            b"isbn: 123",
        ] {
            assert_eq!(SipUri::parse(bad), Err(UriError::Malformed), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn other_schemes_are_told_apart() {
        for other in [
            &b"tel:+1-201-555-0123;ext=1"[..],
            b"mailto:a@b",
            b"urn:uuid:1",
            b"nobodyKnowsThisScheme:totallyopaquecontent",
        ] {
            assert_eq!(SipUri::parse(other), Err(UriError::OtherScheme));
            assert!(is_well_formed(other));
        }
    }
}
