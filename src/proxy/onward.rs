//! Messages as they go on: RFC 3261 §16.6 for requests, §16.7 steps 3 and 9 for responses, and the
//! ACK and CANCEL that a proxy makes itself (§9.1, §17.1.1.3).

use std::net::{IpAddr, SocketAddr};

use super::way::Way;
use crate::sip::{
    Method, Request, Response, Status,
    encode::{Buf, put_top_via},
    header::{Elements, HeaderName},
};

/// The value of a Max-Forwards that a request came without (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u8 = 70;

/// What a proxy changes of a request.
#[derive(Debug)]
pub(super) struct Onward<'a> {
    /// Request-URI and Route.
    pub(super) way: &'a Way<'a>,
    /// Path of the binding: goes before what stays of Route. Elements with commas between; may be
    /// empty.
    pub(super) path: &'a [u8],
    /// Our address, for Via.
    pub(super) sent_by: SocketAddr,
    /// The branch of the client transaction.
    pub(super) branch: &'a [u8],
    /// Whole lines of Record-Route.
    pub(super) record_route: &'a [u8],
    /// Whole lines that are added.
    pub(super) extra: &'a [u8],
    /// The line of P-Asserted-Identity, or nothing.
    pub(super) identity: &'a [u8],
    /// Max-Breadth (RFC 5393 §5), where it is forked.
    pub(super) breadth: Option<u32>,
    /// Our realm: credentials for it are taken out.
    pub(super) realm: &'a [u8],
    /// Whether what only somebody trusted may say of its sender is taken out (RFC 3325 §5, §7).
    pub(super) strips: bool,
}

/// The hops that a request has left, as it says itself.
pub fn max_forwards(request: &Request<'_>) -> Option<u8> {
    let value = request.envelope.message.first(HeaderName::MaxForwards)?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Writes a request as it goes on.
pub(super) fn put_request(
    out: &mut Buf<'_>,
    request: &Request<'_>,
    source: SocketAddr,
    onward: &Onward<'_>,
) {
    let envelope = &request.envelope;
    out.put(envelope.method.as_bytes());
    out.put(b" ");
    out.put(onward.way.uri);
    out.put(b" SIP/2.0\r\n");
    put_own_via(out, onward.sent_by, onward.branch);
    out.put(b"Via: ");
    put_top_via(out, envelope, source);
    for value in envelope.message.all(HeaderName::Via).skip(1) {
        put_header(out, b"Via", value);
    }
    out.put(onward.record_route);
    if !onward.path.is_empty() {
        put_header(out, b"Route", onward.path);
    }
    for route in &onward.way.routes {
        put_route(out, route);
    }
    out.put(b"Max-Forwards: ");
    out.put_number(max_forwards(request).map_or(MAX_FORWARDS, |left| left.saturating_sub(1)));
    out.put(b"\r\n");
    if let Some(breadth) = onward.breadth {
        out.put(b"Max-Breadth: ");
        out.put_number(breadth);
        out.put(b"\r\n");
    }
    out.put(onward.extra);
    out.put(onward.identity);
    for (kind, name, value) in envelope.message.lines() {
        let is_replaced = match kind {
            HeaderName::Via | HeaderName::MaxForwards | HeaderName::ContentLength => true,
            HeaderName::Other => is_replaced(name, value, onward),
            _ => false,
        };
        if !is_replaced {
            put_header(out, name, value);
        }
    }
    put_body(out, request.body);
}

fn is_replaced(name: &[u8], value: &[u8], onward: &Onward<'_>) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    is("Route")
        || onward.breadth.is_some() && is("Max-Breadth")
        || is("Proxy-Authorization") && is_for(value, onward.realm)
        || onward.strips
            && (is("P-Asserted-Identity") || is("P-Preferred-Identity") || is("Remote-Party-ID"))
}

/// Whether credentials are for this realm; those for others go on (RFC 3261 §22.3).
fn is_for(credentials: &[u8], realm: &[u8]) -> bool {
    let own = [b"realm=\"", realm, b"\""].concat();
    credentials.windows(own.len()).any(|part| part.eq_ignore_ascii_case(&own))
}

/// Writes a response as it goes back, without its topmost Via. `code` and `extra`, whole lines, are
/// what the proxy changes.
pub(super) fn put_response(out: &mut Buf<'_>, response: &Response<'_>, code: u16, extra: &[u8]) {
    out.put(b"SIP/2.0 ");
    out.put_number(code);
    out.put(b" ");
    if code == response.code {
        out.put(response.phrase);
    } else {
        out.put(Status::of_refusal(code).phrase.as_bytes());
    }
    out.put(b"\r\n");
    let mut is_first = true;
    for (kind, name, value) in response.message.lines() {
        match kind {
            HeaderName::Via if std::mem::take(&mut is_first) => {
                let mut rest = Elements::new(value).filter_map(Result::ok).skip(1).peekable();
                if rest.peek().is_some() {
                    out.put(b"Via: ");
                    for (at, element) in rest.enumerate() {
                        if at > 0 {
                            out.put(b", ");
                        }
                        out.put(element);
                    }
                    out.put(b"\r\n");
                }
            }
            HeaderName::ContentLength => {}
            _ => put_header(out, name, value),
        }
    }
    out.put(extra);
    put_body(out, response.body);
}

/// Writes the ACK of a response that is no 2xx to an INVITE that was sent (§17.1.1.3).
pub(super) fn put_ack(out: &mut Buf<'_>, sent: &Request<'_>, response: &Response<'_>) {
    let to = response.message.first(HeaderName::To).unwrap_or_default();
    put_companion(out, sent, Method::Ack, to, b"");
}

/// Writes the CANCEL of an INVITE that was sent (§9.1); `reason` is a whole line or nothing.
pub(super) fn put_cancel(out: &mut Buf<'_>, sent: &Request<'_>, reason: &[u8]) {
    let to = sent.envelope.message.first(HeaderName::To).unwrap_or_default();
    put_companion(out, sent, Method::Cancel, to, reason);
}

/// A request of the same transaction as `sent`.
fn put_companion(
    out: &mut Buf<'_>,
    sent: &Request<'_>,
    method: Method<'_>,
    to: &[u8],
    extra: &[u8],
) {
    let message = &sent.envelope.message;
    out.put(method.as_bytes());
    out.put(b" ");
    out.put(sent.uri);
    out.put(b" SIP/2.0\r\n");
    put_header(out, b"Via", message.first(HeaderName::Via).unwrap_or_default());
    for value in message.named("Route") {
        put_header(out, b"Route", value);
    }
    out.put(b"Max-Forwards: 70\r\n");
    put_header(out, b"From", message.first(HeaderName::From).unwrap_or_default());
    put_header(out, b"To", to);
    put_header(out, b"Call-ID", sent.call_id);
    out.put(b"CSeq: ");
    out.put_number(sent.cseq.number);
    out.put(b" ");
    out.put(method.as_bytes());
    out.put(b"\r\n");
    out.put(extra);
    put_body(out, b"");
}

pub(super) fn put_own_via(out: &mut Buf<'_>, sent_by: SocketAddr, branch: &[u8]) {
    out.put(b"Via: SIP/2.0/UDP ");
    put_sent_by(out, sent_by);
    out.put(b";branch=");
    out.put(branch);
    out.put(b"\r\n");
}

/// An address as a URI or a Via has it: IPv6 in brackets.
pub(super) fn put_sent_by(out: &mut Buf<'_>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(_) => crate::sip::encode::put_ip(out, addr.ip()),
        IpAddr::V6(_) => {
            out.put(b"[");
            crate::sip::encode::put_ip(out, addr.ip());
            out.put(b"]");
        }
    }
    out.put(b":");
    out.put_number(addr.port());
}

pub(super) fn put_route(out: &mut Buf<'_>, route: &[u8]) {
    if memchr::memchr(b'<', route).is_some() {
        put_header(out, b"Route", route);
    } else {
        out.put(b"Route: <");
        out.put(route);
        out.put(b">\r\n");
    }
}

pub(super) fn put_header(out: &mut Buf<'_>, name: &[u8], value: &[u8]) {
    out.put(name);
    out.put(b": ");
    out.put(value);
    out.put(b"\r\n");
}

pub(super) fn put_body(out: &mut Buf<'_>, body: &[u8]) {
    out.put(b"Content-Length: ");
    out.put_number(body.len());
    out.put(b"\r\n\r\n");
    out.put(body);
}
