//! Responses (RFC 3261 §8.2.6, §18.2.1, §18.2.2; RFC 3581 §4).

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::Buf;
use crate::sip::{
    grammar::find,
    header::{HeaderName, NameAddr, Params},
    request::Envelope,
    status::Status,
};

/// The port of a sent-by without one (RFC 3261 §18.2.2).
const DEFAULT_PORT: u16 = 5060;

/// Where the answer to a request from `source` goes (RFC 3261 §18.2.2, RFC 3581 §4).
///
/// Always to the address the request came from: `maddr`, and a `received` that the sender wrote
/// itself, would let a stranger aim our answers. Only the port is taken from the Via, and only
/// without `rport`.
pub fn destination(envelope: &Envelope<'_>, source: SocketAddr) -> SocketAddr {
    if envelope.via.rport {
        return source;
    }
    SocketAddr::new(source.ip(), envelope.via.sent_by.port.unwrap_or(DEFAULT_PORT))
}

/// A response being written: status line and the headers copied from the request first, then
/// whatever the caller adds, then [`Response::finish`].
#[derive(Debug)]
pub struct Response<'b, 's> {
    buf: &'b mut Buf<'s>,
}

impl<'b, 's> Response<'b, 's> {
    /// Writes the status line, Via, From, To with `tag`, Call-ID and CSeq.
    ///
    /// A To that has a tag keeps it. Headers that the request lacks are left out.
    pub fn start(
        buf: &'b mut Buf<'s>,
        status: Status,
        envelope: &Envelope<'_>,
        source: SocketAddr,
        tag: u32,
    ) -> Self {
        let message = &envelope.message;
        if status == Status::OK {
            buf.put(b"SIP/2.0 200 OK\r\nVia: ");
        } else {
            buf.put(b"SIP/2.0 ");
            buf.put_number(status.code);
            buf.put(b" ");
            buf.put(status.phrase.as_bytes());
            buf.put(b"\r\nVia: ");
        }
        put_top_via(buf, envelope, source);
        for value in message.all(HeaderName::Via).skip(1) {
            put_header(buf, b"Via: ", value);
        }
        if let Some(value) = message.first(HeaderName::From) {
            put_header(buf, b"From: ", value);
        }
        if let Some(value) = message.first(HeaderName::To) {
            buf.put(b"To: ");
            buf.put(value);
            if envelope.to_is_bare || !has_tag(value) {
                buf.put(b";tag=");
                buf.put_hex(tag);
            }
            buf.put(b"\r\n");
        }
        if let Some(value) = message.first(HeaderName::CallId) {
            put_header(buf, b"Call-ID: ", value);
        }
        if let Some(value) = message.first(HeaderName::Cseq) {
            put_header(buf, b"CSeq: ", value);
        }
        Self { buf }
    }

    /// The buffer, for headers written whole.
    pub fn buf(&mut self) -> &mut Buf<'s> {
        self.buf
    }

    /// Adds a header; `prefix` is its name, the colon and a blank.
    pub fn header(&mut self, prefix: &[u8], value: &[u8]) {
        put_header(self.buf, prefix, value);
    }

    /// Adds a header whose value is a number.
    pub fn number(&mut self, prefix: &[u8], value: u32) {
        self.buf.put(prefix);
        self.buf.put_number(value);
        self.buf.put(b"\r\n");
    }

    /// Ends the header block; there is no body. The result is the length, unless the response
    /// did not fit.
    pub fn finish(self) -> Option<usize> {
        self.buf.put(b"Content-Length: 0\r\n\r\n");
        self.buf.finish()
    }
}

fn put_header(buf: &mut Buf<'_>, prefix: &[u8], value: &[u8]) {
    buf.put(prefix);
    buf.put(value);
    buf.put(b"\r\n");
}

/// Whether a To has a tag. One that can't be read gets none.
fn has_tag(to: &[u8]) -> bool {
    // An address in brackets with nothing after it: what a phone registers with.
    if to.starts_with(b"<") && find(b'>', to) == to.len().checked_sub(1) {
        return false;
    }
    NameAddr::parse(to).map_or(true, |to| to.params.find("tag").is_some())
}

/// Appends the topmost Via's value with `received` and `rport` filled in. RFC 3261 §18.2.1 asks for `received`
/// where the sent-by is a name or another address; RFC 3581 §4 wherever `rport` is.
pub fn put_top_via(buf: &mut Buf<'_>, envelope: &Envelope<'_>, source: SocketAddr) {
    let via = &envelope.via;
    buf.put(via.head);
    let params = via.params.as_bytes();
    match via.bare_rport {
        // As they were sent, but for the port filled in.
        Some(end) if !via.received => {
            let (before, after) = params.split_at(end);
            buf.put(before);
            buf.put(b"=");
            buf.put_number(source.port());
            buf.put(after);
        }
        None if !via.rport && !via.received => buf.put(params),
        _ => put_via_params(buf, via.params, source.port()),
    }
    if via.rport || via.sent_by.ip() != Some(source.ip()) {
        buf.put(b";received=");
        put_ip(buf, source.ip());
    }
    buf.put(envelope.via_rest);
    buf.put(b"\r\n");
}

fn put_via_params(buf: &mut Buf<'_>, params: Params<'_>, port: u16) {
    for param in params.map_while(Result::ok) {
        if param.is("received") {
            continue;
        }
        buf.put(b";");
        if param.is("rport") {
            buf.put(b"rport=");
            buf.put_number(port);
        } else {
            buf.put(param.raw);
        }
    }
}

/// Appends an address without brackets, as `received` has it.
pub fn put_ip(buf: &mut Buf<'_>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let (mut text, mut len) = ([0_u8; 15], 0);
            let mut push = |octet| {
                if let Some(place) = text.get_mut(len) {
                    *place = octet;
                    len += 1;
                }
            };
            for (i, octet) in ip.octets().into_iter().enumerate() {
                if i > 0 {
                    push(b'.');
                }
                if octet > 99 {
                    push(b'0' + octet / 100);
                }
                if octet > 9 {
                    push(b'0' + octet / 10 % 10);
                }
                push(b'0' + octet % 10);
            }
            buf.put(&text[..len]);
        }
        IpAddr::V6(ip) => {
            // 39 octets is the longest form; an address never fails to be written there.
            let mut text = [0_u8; 46];
            let mut rest = &mut text[..];
            let written = write!(rest, "{ip}").is_ok();
            let len = 46 - rest.len();
            if written {
                buf.put(&text[..len]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_anybody_does() {
        for ip in ["0.9.10.99", "100.199.200.255", "255.255.255.255", "2001:db8::1"] {
            let mut space = [0; 46];
            let mut buf = Buf::new(&mut space);
            put_ip(&mut buf, ip.parse().unwrap());
            assert_eq!(buf.written(), ip.as_bytes());
        }
    }
    use crate::sip::{Limits, Parsed, Parser};

    /// The Via lines of the answer to a request with these, and where it goes.
    fn vias(lines: &str, source: &str) -> (String, SocketAddr) {
        let text = format!(
            "OPTIONS sip:example.com SIP/2.0\r\n{lines}From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
             Call-ID: a\r\nCSeq: 1 OPTIONS\r\n\r\n"
        );
        let source = source.parse().unwrap();
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!("{text}") };
        let mut space = [0; 2048];
        let mut buf = Buf::new(&mut space);
        let response = Response::start(&mut buf, Status::OK, &request.envelope, source, 0xabc);
        let len = response.finish().unwrap();
        let text = std::str::from_utf8(&space[..len]).unwrap();
        let vias = text.lines().filter(|l| l.starts_with("Via")).collect::<Vec<_>>().join("\n");
        (vias, destination(&request.envelope, source))
    }

    #[test]
    fn received_and_rport() {
        for (line, source, expected, goes_to) in [
            // The sender is where it says.
            (
                "Via: SIP/2.0/UDP 192.0.2.1:5062;branch=z\r\n",
                "192.0.2.1:40000",
                "Via: SIP/2.0/UDP 192.0.2.1:5062;branch=z",
                "192.0.2.1:5062",
            ),
            // The sender is elsewhere: its address, the sent-by's port.
            (
                "Via: SIP/2.0/UDP 10.0.0.1;branch=z\r\n",
                "192.0.2.1:40000",
                "Via: SIP/2.0/UDP 10.0.0.1;branch=z;received=192.0.2.1",
                "192.0.2.1:5060",
            ),
            // A name is never the source address.
            (
                "Via: SIP/2.0/UDP pc.example.com;branch=z\r\n",
                "[2001:db8::1]:5060",
                "Via: SIP/2.0/UDP pc.example.com;branch=z;received=2001:db8::1",
                "[2001:db8::1]:5060",
            ),
            // RFC 3581: both are filled in even where nothing differs.
            (
                "Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z\r\n",
                "192.0.2.1:5060",
                "Via: SIP/2.0/UDP 192.0.2.1:5060;rport=5060;branch=z;received=192.0.2.1",
                "192.0.2.1:5060",
            ),
            (
                "Via: SIP/2.0/UDP 10.0.0.1:5062;branch=z;RPORT\r\n",
                "192.0.2.1:40000",
                "Via: SIP/2.0/UDP 10.0.0.1:5062;branch=z;rport=40000;received=192.0.2.1",
                "192.0.2.1:40000",
            ),
            // What the sender says of received and maddr does not aim the answer.
            (
                "Via: SIP/2.0/UDP 10.0.0.1;received=198.51.100.9;maddr=198.51.100.9\r\n",
                "192.0.2.1:40000",
                "Via: SIP/2.0/UDP 10.0.0.1;maddr=198.51.100.9;received=192.0.2.1",
                "192.0.2.1:5060",
            ),
            // Only the topmost changes, in whichever way the rest is written.
            (
                "Via: SIP/2.0/UDP 10.0.0.1;rport, SIP/2.0/TCP x;rport\r\nv: SIP/2.0/UDP y;rport\r\n",
                "192.0.2.1:40000",
                "Via: SIP/2.0/UDP 10.0.0.1;rport=40000;received=192.0.2.1, SIP/2.0/TCP x;rport\n\
                 Via: SIP/2.0/UDP y;rport",
                "192.0.2.1:40000",
            ),
        ] {
            assert_eq!(vias(line, source), (expected.into(), goes_to.parse().unwrap()));
        }
    }
}
