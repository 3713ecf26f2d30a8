//! What our Record-Route carries: whom a dialog is between, as far as we have to know.
//!
//! A request within a dialog comes with it in its Route, from either side, and goes to the other
//! side's flow. So it finds phones behind NAT, needs no memory of the dialog, survives a restart,
//! and relays for nobody else: without the key nobody can make one up, and it is good for one
//! Call-ID and one pair of flows.

use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;
use std::hash::Hasher as _;

use crate::{
    flow::{Flow, ListenerId, Transport},
    sip::encode::Buf,
};

/// The name of the URI parameter that holds it.
pub const PARAM: &str = "bt";

/// Where one side of a dialog is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At the other end of this flow, whatever its Contact says.
    Flow(Flow),
    /// Where its Contact says, as long as that is at this address or in a trusted network: it is a
    /// server, and may answer at another port than it calls from. Else at the other end of this flow.
    Server(Flow),
}

impl Side {
    /// The flow that was seen of it.
    pub fn flow(self) -> Flow {
        let (Self::Flow(flow) | Self::Server(flow)) = self;
        flow
    }
}

/// The two sides of a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// The one that created it.
    pub caller: Side,
    /// The other.
    pub callee: Side,
}

/// The key of all tokens; the same after a restart, so that calls go on.
#[derive(Clone)]
pub struct TokenKey([u8; 16]);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// A key of these octets.
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    fn mac(&self, call_id: &[u8], caller_tag: &[u8], sides: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for part in [call_id, caller_tag, sides] {
            hasher.write(&part.len().to_le_bytes());
            hasher.write(part);
        }
        hasher.finish()
    }

    /// Writes the token of a dialog. `caller_tag` is the tag of who created it.
    pub fn put(&self, out: &mut Buf<'_>, call_id: &[u8], caller_tag: &[u8], sides: &Sides) {
        let mut space = [0; 160];
        let mut text = Buf::new(&mut space);
        put_side(&mut text, sides.caller);
        text.put(b".");
        put_side(&mut text, sides.callee);
        let text = text.written();
        put_u64(out, self.mac(call_id, caller_tag, text));
        out.put(b".");
        out.put(text);
    }

    /// Reads a token of ours; `None` for any other.
    pub fn open(&self, token: &[u8], call_id: &[u8], caller_tag: &[u8]) -> Option<Sides> {
        let (mac, text) = token.split_at_checked(17)?;
        let (mac, dot) = mac.split_at_checked(16)?;
        let sides = (dot == b".").then_some(text)?;
        if hex(mac)? != self.mac(call_id, caller_tag, sides) {
            return None;
        }
        let dot = memchr::memchr(b'.', sides)?;
        Some(Sides { caller: side(&sides[..dot])?, callee: side(sides.get(dot + 1..)?)? })
    }
}

/// The number that hexadecimal digits are, at most sixteen.
pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    let digit = |number: Option<u64>, digit: &u8| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number? << 4 | u64::from(digit))
    };
    (1..=16).contains(&digits.len()).then(|| digits.iter().fold(Some(0), digit)).flatten()
}

/// Appends sixteen lower-case hexadecimal digits.
pub(super) fn put_u64(out: &mut Buf<'_>, number: u64) {
    let [h, l] = [number >> 32, number & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(0));
    out.put_hex(h);
    out.put_hex(l);
}

pub(super) fn put_side(out: &mut Buf<'_>, side: Side) {
    let flow = side.flow();
    if matches!(side, Side::Server(_)) {
        out.put(b"s");
    }
    put_octets(out, &[flow.listener.0, flow.transport.code()]);
    put_addr(out, flow.remote.ip());
    put_octets(out, &flow.remote.port().to_be_bytes());
    if let Some(local) = flow.local {
        put_addr(out, local);
    }
}

fn put_addr(out: &mut Buf<'_>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            out.put(b"v");
            put_octets(out, &ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put(b"w");
            put_octets(out, &ip.octets());
        }
    }
}

fn put_octets(out: &mut Buf<'_>, octets: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for octet in octets {
        out.put(&[DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]);
    }
}

fn side(text: &[u8]) -> Option<Side> {
    let server = text.strip_prefix(b"s");
    let mut rest = server.unwrap_or(text);
    let [listener, transport] = take(&mut rest)?;
    let ip = take_addr(&mut rest)?;
    let port = u16::from_be_bytes(take(&mut rest)?);
    let local = if rest.is_empty() { None } else { Some(take_addr(&mut rest)?) };
    let flow = Flow {
        listener: ListenerId(listener),
        transport: Transport::from_code(transport)?,
        local,
        remote: SocketAddr::new(ip, port),
    };
    let side = if server.is_some() { Side::Server(flow) } else { Side::Flow(flow) };
    rest.is_empty().then_some(side)
}

fn take_addr(rest: &mut &[u8]) -> Option<IpAddr> {
    let (kind, tail) = rest.split_first()?;
    *rest = tail;
    match kind {
        b'v' => take::<4>(rest).map(IpAddr::from),
        b'w' => take::<16>(rest).map(IpAddr::from),
        _ => None,
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (digits, tail) = rest.split_at_checked(2 * N)?;
    *rest = tail;
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        *octet = u8::try_from(hex(pair)?).ok()?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(remote: &str, local: Option<&str>) -> Side {
        Side::Flow(Flow {
            listener: ListenerId(3),
            transport: Transport::Udp,
            local: local.map(|ip| ip.parse().unwrap()),
            remote: remote.parse().unwrap(),
        })
    }

    fn token(key: &TokenKey, sides: &Sides) -> Vec<u8> {
        let mut space = [0; 300];
        let mut out = Buf::new(&mut space);
        key.put(&mut out, b"call", b"tag", sides);
        assert!(out.finish().is_some());
        out.written().to_vec()
    }

    #[test]
    fn says_what_was_put_in_and_only_where_it_belongs() {
        let key = TokenKey::new([7; 16]);
        for (caller, callee) in [
            (flow("192.0.2.1:5060", None), Side::Server(flow("192.0.2.2:5060", None).flow())),
            (
                Side::Server(flow("192.0.2.2:5060", Some("192.0.2.3")).flow()),
                flow("[2001:db8::1]:40000", Some("2001:db8::2")),
            ),
            (flow("192.0.2.1:1", Some("198.51.100.1")), flow("[2001:db8::1]:65535", None)),
        ] {
            let sides = Sides { caller, callee };
            let text = token(&key, &sides);
            assert_eq!(key.open(&text, b"call", b"tag"), Some(sides));
            assert_eq!(key.open(&text, b"call2", b"tag"), None);
            assert_eq!(key.open(&text, b"call", b"other"), None);
            assert_eq!(TokenKey::new([8; 16]).open(&text, b"call", b"tag"), None);
            for at in 0..text.len() {
                let mut forged = text.clone();
                forged[at] = if forged[at] == b'1' { b'2' } else { b'1' };
                if forged != text {
                    assert_eq!(key.open(&forged, b"call", b"tag"), None);
                }
                assert_eq!(key.open(&text[..at], b"call", b"tag"), None);
            }
        }
    }
}
