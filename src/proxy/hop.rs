//! The server that a URI names, as far as the URI alone tells: an address, or what has to be looked
//! up (RFC 3263 §4), for a proxy that speaks UDP and nothing else.

use std::{net::SocketAddr, sync::Arc};

use crate::sip::{
    Status,
    uri::{HostPort, Scheme, SipUri},
};

/// The port of a URI without one.
pub const DEFAULT_PORT: u16 = 5060;

/// Octets of the longest domain name (RFC 1035 §2.3.4), as it is written.
const MAX_NAME: usize = 253;

/// Where a URI says that requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// There.
    Address(SocketAddr),
    /// Where the domain name system says.
    Name(Named),
}

/// A name, and what it is looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// In lower case, without a dot at its end.
    pub host: Box<str>,
    /// Where the look-up begins.
    pub by: By,
}

/// Where a look-up begins (RFC 3263 §4.1, §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// At NAPTR records, which tell transports: nothing is known of them.
    Naptr,
    /// At SRV records of UDP, since the URI says that.
    Srv,
    /// At addresses, since the URI has a port.
    Port(u16),
}

/// What a look-up came to: servers, the one first that is to be tried first, each with its
/// addresses.
pub type Resolved = Result<Arc<[Box<[SocketAddr]>]>, Unreachable>;

/// Why a server that a URI names gets no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// It is to be reached by TLS.
    Secure,
    /// It is to be reached by something else than UDP, or says that it isn't there by UDP.
    Transport,
    /// There is no such domain, or nobody serves there.
    Unknown,
    /// The domain name system did not say, or not in time.
    Unanswered,
    /// It is this server.
    Own,
    /// It is where callers may not have us send anything (`foreign_deny`).
    Denied,
    /// No listener has an address of its family, or nobody can be at its address.
    NoWay,
}

impl Unreachable {
    /// What is answered where nobody else can be reached.
    ///
    /// A 503 would have a client turn to another proxy than this (RFC 3263 §4.3), so what the proxy
    /// has no transport for is a 500, as RFC 3261 §16.9 and §16.7 step 6 have it.
    pub fn status(self) -> Status {
        match self {
            Self::Secure => Status::UNSUPPORTED_URI_SCHEME.because("SIPS Is Not Spoken Here"),
            Self::Transport => Status::SERVER_INTERNAL_ERROR.because("Only UDP Is Spoken Here"),
            Self::Unknown => Status::NOT_FOUND.because("No Such Domain"),
            Self::Unanswered => Status::SERVER_TIMEOUT.because("Domain Name System Has No Answer"),
            Self::Own => Status::LOOP_DETECTED.because("That Leads Back Here"),
            Self::Denied => Status::FORBIDDEN.because("Address Not Called From Here"),
            Self::NoWay => Status::SERVER_INTERNAL_ERROR.because("No Way To That Address"),
        }
    }
}

impl Hop {
    /// Where `uri`, a Request-URI or an element of Route, says that a request goes.
    ///
    /// # Errors
    /// It can't go there by UDP, or there is nobody.
    pub fn of(uri: &[u8]) -> Result<Self, Unreachable> {
        let uri = SipUri::parse(uri).map_err(|_| Unreachable::Unknown)?;
        if uri.scheme == Scheme::Sips {
            return Err(Unreachable::Secure);
        }
        let names_udp = match uri.param("transport") {
            None => false,
            Some(Some(name)) if name.eq_ignore_ascii_case(b"udp") => true,
            Some(_) => return Err(Unreachable::Transport),
        };
        let port = uri.host_port.port;
        // It takes the place of the host, whose port stays.
        let target = match uri.param("maddr") {
            None => uri.host_port,
            Some(maddr) => maddr
                .and_then(HostPort::parse_strict)
                .filter(|maddr| maddr.port.is_none())
                .ok_or(Unreachable::Unknown)?,
        };
        if let Some(ip) = target.ip() {
            let addr = SocketAddr::new(ip.to_canonical(), port.unwrap_or(DEFAULT_PORT));
            return Ok(Self::Address(addr));
        }
        let host = std::str::from_utf8(target.host).map_err(|_| Unreachable::Unknown)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() || host.len() > MAX_NAME {
            return Err(Unreachable::Unknown);
        }
        let by = match port {
            Some(port) => By::Port(port),
            None if names_udp => By::Srv,
            None => By::Naptr,
        };
        Ok(Self::Name(Named { host: host.to_ascii_lowercase().into(), by }))
    }
}

/// The address that a URI names, where it is one, and by UDP.
pub fn numeric(uri: &[u8]) -> Option<SocketAddr> {
    match Hop::of(uri) {
        Ok(Hop::Address(addr)) => Some(addr),
        Ok(Hop::Name(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uri: &str) -> String {
        match Hop::of(uri.as_bytes()) {
            Ok(Hop::Address(addr)) => addr.to_string(),
            Ok(Hop::Name(Named { host, by })) => format!("{host} {by:?}"),
            Err(why) => format!("{why:?}"),
        }
    }

    #[test]
    fn a_uri_says_where_and_how() {
        for (uri, hop) in [
            // RFC 3263 §4.1: numeric is UDP, and needs no look-up.
            ("sip:bob@192.0.2.1", "192.0.2.1:5060"),
            ("sip:bob@192.0.2.1:5080;transport=UDP", "192.0.2.1:5080"),
            ("sip:bob@[2001:db8::1]", "[2001:db8::1]:5060"),
            ("sip:[::ffff:192.0.2.1]:5080", "192.0.2.1:5080"),
            // §4.2: with a port only addresses; with a transport no NAPTR.
            ("sip:bob@Example.NET:5080", "example.net Port(5080)"),
            ("sip:bob@example.net:5060", "example.net Port(5060)"),
            ("sip:bob@example.net:5080;transport=udp", "example.net Port(5080)"),
            ("sip:bob@example.net;transport=udp", "example.net Srv"),
            ("sip:bob@example.net;user=phone", "example.net Naptr"),
            ("sip:example.net.;lr", "example.net Naptr"),
            ("sip:bob@1.2.3", "1.2.3 Naptr"),
            // §4: maddr is the target, whatever the host is; the port stays.
            ("sip:bob@example.net;maddr=192.0.2.7", "192.0.2.7:5060"),
            ("sip:bob@example.net:5080;maddr=[2001:db8::7]", "[2001:db8::7]:5080"),
            ("sip:bob@192.0.2.1;maddr=Edge.Example.net", "edge.example.net Naptr"),
            ("sip:bob@example.net;maddr=edge.example.net:5070", "Unknown"),
            ("sip:bob@example.net;maddr", "Unknown"),
            // Nothing goes by UDP that was to go otherwise.
            ("sips:bob@192.0.2.1", "Secure"),
            ("sips:bob@example.net;transport=udp", "Secure"),
            ("sip:bob@192.0.2.1;transport=tcp", "Transport"),
            ("sip:bob@example.net:5060;transport=tls", "Transport"),
            ("sip:bob@example.net;transport", "Transport"),
            ("tel:+1555", "Unknown"),
        ] {
            assert_eq!(shown(uri), hop, "{uri}");
        }
        assert_eq!(shown(&format!("sip:{}a.net", "a.".repeat(130))), "Unknown");
    }

    #[test]
    fn refusals_have_codes_of_their_own() {
        for (why, code) in [
            (Unreachable::Secure, 416),
            (Unreachable::Transport, 500),
            (Unreachable::Unknown, 404),
            (Unreachable::Unanswered, 504),
            (Unreachable::Own, 482),
            (Unreachable::Denied, 403),
            (Unreachable::NoWay, 500),
        ] {
            assert_eq!(why.status().code, code);
        }
    }
}
