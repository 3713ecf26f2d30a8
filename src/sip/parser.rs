//! From a datagram to a [`Request`].

use super::{
    Fault, Limits, Message, Method, Silence,
    grammar::{Class, TOKEN, WORD, find, number, trim, trim_end},
    header::{Cseq, Elements, HeaderName, NameAddr, Via},
    message::HeaderIndex,
    request::{Envelope, Parsed, Rejected, Request},
    response::Response,
    scan,
    uri::{SipUri, UriError},
};

/// Reads one datagram after another; owns the space that takes.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    index: HeaderIndex,
    scratch: Vec<u8>,
}

impl Parser {
    /// A parser that takes messages within `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, index: HeaderIndex::new(), scratch: Vec::new() }
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Parses a datagram of at most 65535 octets.
    ///
    /// A request is answerable when its method is known not to be ACK and its topmost Via can be
    /// read; whatever else is wrong with it is then a [`Rejected`].
    pub fn parse<'a>(&'a mut self, datagram: &'a [u8]) -> Parsed<'a> {
        // RFC 3261 §7.5: line ends before the start line are skipped.
        let start = datagram.iter().position(|&b| b != b'\r' && b != b'\n');
        let Some(datagram) = start.map(|at| &datagram[at..]) else {
            return Parsed::Silence(Silence::Keepalive);
        };
        let (line, head_at) = match find(b'\n', datagram) {
            Some(end) => (&datagram[..end], end + 1),
            None => (datagram, datagram.len()),
        };
        let start = match StartLine::parse(line.strip_suffix(b"\r").unwrap_or(line)) {
            Ok(start) => start,
            Err(Silence::Response) => return self.response(datagram, line, head_at),
            Err(silence) => return Parsed::Silence(silence),
        };
        let (message, scan_fault) =
            index(&mut self.index, &mut self.scratch, &self.limits, datagram, head_at);
        let Some((via, via_rest)) = message.first(HeaderName::Via).and_then(top_via) else {
            return Parsed::Silence(Silence::BadVia);
        };
        let to_is_bare = false;
        let envelope = Envelope { message, method: start.method, via, via_rest, to_is_bare };
        let fault = start.fault.or(scan_fault).map_or(Ok(()), Err);
        match fault.and_then(|()| read(envelope, start.uri, &self.limits)) {
            Ok(request) => Parsed::Request(request),
            // There is nobody to be told.
            Err(_) if envelope.method == Method::Ack => Parsed::Silence(Silence::Ack),
            Err(fault) => Parsed::Rejected(Rejected { envelope, fault }),
        }
    }

    /// Parses a response; a broken one is dropped (RFC 3261 §18.1.2).
    fn response<'a>(
        &'a mut self,
        datagram: &'a [u8],
        line: &'a [u8],
        head_at: usize,
    ) -> Parsed<'a> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (message, fault) =
            index(&mut self.index, &mut self.scratch, &self.limits, datagram, head_at);
        let Some((via, via_rest)) = message.first(HeaderName::Via).and_then(top_via) else {
            return Parsed::Silence(Silence::BadVia);
        };
        match fault {
            None => Response::read(message, line, via, via_rest)
                .map_or(Parsed::Silence(Silence::BadResponse), Parsed::Response),
            Some(_) => Parsed::Silence(Silence::BadResponse),
        }
    }
}

/// Finds the header lines, and what is wrong with them.
#[inline]
fn index<'a>(
    index: &'a mut HeaderIndex,
    scratch: &'a mut Vec<u8>,
    limits: &Limits,
    datagram: &'a [u8],
    head_at: usize,
) -> (Message<'a>, Option<Fault>) {
    index.clear();
    let most = usize::from(limits.max_headers);
    let (bytes, body_at, fault) = match scan::fast(datagram, head_at, index) {
        Some(body_at) => (datagram, body_at, (index.len() > most).then_some(Fault::TooManyHeaders)),
        None => {
            index.clear();
            scan::unfold(datagram, head_at, scratch);
            let (body_at, fault) = scan::tolerant(scratch, head_at, most, index);
            (&scratch[..], body_at, fault)
        }
    };
    let fault = fault.or_else(|| index.repeated().map(Fault::Repeated));
    (Message::new(bytes, index, body_at), fault)
}

struct StartLine<'a> {
    method: Method<'a>,
    uri: &'a [u8],
    fault: Option<Fault>,
}

impl<'a> StartLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Silence> {
        // What a phone that is sound sends, without a search for what may be wrong with it.
        if let Some(uri) = line.strip_prefix(b"REGISTER ").and_then(|l| l.strip_suffix(b" SIP/2.0"))
            && SOLID.spells(uri)
        {
            return Ok(Self { method: Method::Register, uri, fault: None });
        }
        if line.get(..4).is_some_and(|p| p.eq_ignore_ascii_case(b"SIP/")) {
            return Err(Silence::Response);
        }
        let first = memchr::memchr(b' ', line).ok_or(Silence::NotSip)?;
        let (method, tail) = (&line[..first], &line[first + 1..]);
        // What stands last tells SIP from anything else; a blank after it is SIP, but wrong.
        let trimmed = trim_end(tail);
        let version_at = memchr::memrchr2(b' ', b'\t', trimmed).map_or(0, |at| at + 1);
        let version = &trimmed[version_at..];
        if !TOKEN.spells(method)
            || !version.get(..4).is_some_and(|p| p.eq_ignore_ascii_case(b"SIP/"))
        {
            return Err(Silence::NotSip);
        }
        let uri = &trimmed[..version_at.saturating_sub(1)];
        let fault = if trimmed.len() != tail.len() {
            Some(Fault::RequestLine)
        } else if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            Some(Fault::Version)
        } else if uri.is_empty() || uri.iter().any(|&b| b == b' ' || b == b'\t') {
            Some(Fault::RequestLine)
        } else {
            None
        };
        Ok(Self { method: Method::parse(method), uri, fault })
    }
}

/// What has no place between the blanks of a request line.
const SOLID: Class = Class::all_but(b" \t");
/// What neither ends an element of a list nor begins a quoted string.
const LONE: Class = Class::all_but(b",\"");

/// The first element of a Via value, and what follows it.
fn top_via(value: &[u8]) -> Option<(Via<'_>, &[u8])> {
    // A lone element is the usual case; a comma could also stand in a quoted string.
    if LONE.run(value) == value.len() {
        return Some((Via::parse(value).ok()?, b""));
    }
    let element = Elements::new(value).next()?.ok()?;
    let at = element.as_ptr().addr() - value.as_ptr().addr();
    let rest = value.get(at + element.len()..)?;
    Some((Via::parse(element).ok()?, crate::sip::grammar::trim_start(rest)))
}

/// Reads the headers that any request must have (RFC 3261 §8.1.1).
fn read<'a>(
    mut envelope: Envelope<'a>,
    uri: &'a [u8],
    limits: &Limits,
) -> Result<Request<'a>, Fault> {
    let message = envelope.message;
    let required = |name| message.first(name).ok_or(Fault::Missing(name));

    if uri.len() > usize::from(limits.max_uri) {
        return Err(Fault::RequestUri);
    }
    let sip_uri = parts(uri, Fault::RequestUri)?;
    // Headers can't stand in a Request-URI (RFC 3261 §19.1.1, table 1).
    if sip_uri.is_some_and(|parsed| !parsed.headers.is_empty()) {
        return Err(Fault::RequestUri);
    }
    let address = |name| {
        let bad = Fault::Bad(name);
        let address = NameAddr::parse(required(name)?).map_err(|_| bad)?;
        address.params.check().map_err(|_| bad)?;
        if address.uri.len() > usize::from(limits.max_uri) {
            return Err(Fault::Long(name));
        }
        Ok(address)
    };
    let from = address(HeaderName::From)?;
    let from_uri = parts(from.uri, Fault::Bad(HeaderName::From))?;
    let to = address(HeaderName::To)?;
    envelope.to_is_bare = to.params.as_bytes().is_empty();
    // Who registers itself, as phones do, has the same in both.
    let to_uri =
        if to.uri == from.uri { from_uri } else { parts(to.uri, Fault::Bad(HeaderName::To))? };
    let call_id = required(HeaderName::CallId)?;
    if !is_call_id(call_id) {
        return Err(Fault::Bad(HeaderName::CallId));
    }
    if call_id.len() > usize::from(limits.max_call_id) {
        return Err(Fault::Long(HeaderName::CallId));
    }
    let bad_cseq = Fault::Bad(HeaderName::Cseq);
    let cseq = Cseq::parse(required(HeaderName::Cseq)?).map_err(|_| bad_cseq)?;
    if cseq.method != envelope.method {
        return Err(bad_cseq);
    }
    if let Some(value) = message.first(HeaderName::MaxForwards) {
        number::<u8>(trim(value)).ok_or(Fault::Bad(HeaderName::MaxForwards))?;
    }
    if let Some(value) = message.first(HeaderName::Date)
        && !is_date(value)
    {
        return Err(Fault::Bad(HeaderName::Date));
    }
    let body = body(&message)?;
    Ok(Request { envelope, uri, sip_uri, from, to, to_uri, call_id, cseq, body })
}

/// The parts of a URI; `None` if it is of another scheme, `fault` if it breaks the grammar.
fn parts(uri: &[u8], fault: Fault) -> Result<Option<SipUri<'_>>, Fault> {
    match SipUri::parse(uri) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(UriError::OtherScheme) => Ok(None),
        Err(UriError::Malformed) => Err(fault),
    }
}

/// `word [ "@" word ]`.
fn is_call_id(value: &[u8]) -> bool {
    let (word, rest) = value.split_at(WORD.run(value));
    !word.is_empty()
        && match rest {
            [] => true,
            [b'@', host @ ..] => WORD.spells(host),
            _ => false,
        }
}

/// `SIP-date`: the fixed form of RFC 1123, in GMT (RFC 3261 §20.17).
fn is_date(value: &[u8]) -> bool {
    value.len() == 29 && value.ends_with(b" GMT")
}

/// RFC 3261 §18.3: over UDP a body shorter than Content-Length is an error, octets beyond it are
/// discarded, and without the header the body ends with the datagram.
pub(super) fn body<'a>(message: &Message<'a>) -> Result<&'a [u8], Fault> {
    let rest = message.rest();
    match message.first(HeaderName::ContentLength) {
        Some(value) => number(trim(value))
            .and_then(|len: usize| rest.get(..len))
            .ok_or(Fault::Bad(HeaderName::ContentLength)),
        None => Ok(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTER: &str = "REGISTER sip:example.com SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport\r\n\
        From: <sip:alice@example.com>;tag=1\r\n\
        To: <sip:alice@example.com>\r\n\
        Call-ID: a@b\r\n\
        CSeq: 1 REGISTER\r\n\
        Content-Length: 0\r\n\r\n";

    /// `ok`, the phrase of the rejection, or the kind of silence.
    fn verdict(datagram: &[u8]) -> String {
        match Parser::new(Limits::default()).parse(datagram) {
            Parsed::Request(_) => "ok".into(),
            Parsed::Rejected(r) => r.fault.status().phrase.into(),
            Parsed::Silence(s) => format!("{s:?}"),
            Parsed::Response(_) => "Response".into(),
        }
    }

    #[test]
    fn a_usual_request() {
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(REGISTER.as_bytes()) else { panic!() };
        assert_eq!(request.uri, b"sip:example.com");
        assert_eq!(request.envelope.method, Method::Register);
        assert_eq!(request.envelope.via.branch, b"z9hG4bK1");
        assert_eq!(request.to.uri, b"sip:alice@example.com");
        assert_eq!(request.call_id, b"a@b");
        assert_eq!(request.cseq.number, 1);
    }

    #[test]
    fn single_changes_and_what_they_draw() {
        for (from, to, expected) in [
            ("", "", "ok"),
            ("REGISTER sip:", "\r\n\r\nREGISTER sip:", "ok"),
            ("SIP/2.0\r\n", "sip/2.0\r\n", "ok"),
            ("Content-Length: 0\r\n", "", "ok"),
            ("\r\n", "\n", "ok"),
            ("Content-Length: 0\r\n\r\n", "", "ok"),
            ("Call-ID:", "i :", "ok"),
            ("Content-Length: 0\r\n\r\n", "Content-Length", "Unterminated Header"),
            ("SIP/2.0\r\n", "SIP/3.0\r\n", "Version Not Supported"),
            ("SIP/2.0\r\n", "SIP/2.0 \r\n", "Bad Request-Line"),
            ("SIP/2.0\r\n", "HTTP/1.1\r\n", "NotSip"),
            ("REGISTER sip:", "ACK sip:", "Ack"),
            ("REGISTER sip:example.com SIP/2.0", "SIP/2.0 200 OK", "Response"),
            ("REGISTER sip:", "REGISTER  sip:", "Bad Request-Line"),
            ("sip:example.com SIP", "<sip:example.com> SIP", "Bad Request-URI"),
            ("sip:example.com SIP", "sip:example.com?a=b SIP", "Bad Request-URI"),
            ("sip:example.com SIP", "foo:bar SIP", "ok"),
            ("1 REGISTER", "1 INVITE", "Bad CSeq"),
            ("1 REGISTER", "4294967296 REGISTER", "Bad CSeq"),
            ("CSeq: 1 REGISTER\r\n", "", "Missing CSeq"),
            ("Call-ID: a@b\r\n", "", "Missing Call-ID"),
            ("Call-ID: a@b\r\n", "Call-ID: a b\r\n", "Bad Call-ID"),
            ("Call-ID: a@b\r\n", "Call-ID: a@b\r\ni: a@b\r\n", "Repeated Call-ID"),
            ("To: <sip:alice@example.com>\r\n", "", "Missing To"),
            ("To: <sip:alice@example.com>", "To: \"a <sip:a@b>", "Bad To"),
            ("To: <sip:alice@example.com>", "To: <sip:a b@c>", "Bad To"),
            ("From: <sip:alice@example.com>;tag=1", "From: <sip:a@b>;;", "Bad From"),
            ("Content-Length: 0", "Content-Length: -1", "Bad Content-Length"),
            ("Content-Length: 0", "Content-Length: 1", "Bad Content-Length"),
            ("Content-Length: 0", "Max-Forwards: 300", "Bad Max-Forwards"),
            ("Content-Length: 0", "Date: Fri, 01 Jan 2010 16:00:00 EST", "Bad Date"),
            ("Content-Length: 0", "nonsense", "Bad Header Line"),
            ("Via:", "Vi:", "BadVia"),
            ("192.0.2.1:5060", "", "BadVia"),
        ] {
            let text = REGISTER.replacen(from, to, if from == "\r\n" { usize::MAX } else { 1 });
            assert_eq!(verdict(text.as_bytes()), expected, "{from:?} -> {to:?}");
        }
        assert_eq!(verdict(b""), "Keepalive");
        assert_eq!(verdict(b"\r\n\r\n"), "Keepalive");
        assert_eq!(verdict(b"\0\x01\0\0"), "NotSip");
    }

    #[test]
    fn limits() {
        let long = "a".repeat(600);
        for (from, to, expected) in [
            ("a@b", long.as_str(), "Too Long Call-ID"),
            ("sip:example.com SIP", &format!("sip:{long} SIP"), "Bad Request-URI"),
            ("To: <sip:alice", &format!("To: <sip:{long}"), "Too Long To"),
            ("Content-Length: 0", &"X: y\r\n".repeat(200), "Too Many Headers"),
        ] {
            assert_eq!(verdict(REGISTER.replacen(from, to, 1).as_bytes()), expected, "{from}");
        }
        // Fewer lines than one pass of the fast path takes.
        let mut parser = Parser::new(Limits { max_headers: 5, ..Limits::default() });
        let Parsed::Rejected(rejected) = parser.parse(REGISTER.as_bytes()) else { panic!() };
        assert_eq!(rejected.fault, Fault::TooManyHeaders);
    }

    #[test]
    fn the_rest_of_the_top_via_line_is_kept() {
        let text = REGISTER.replacen(";rport\r\n", ";rport , SIP/2.0/TCP x\r\n", 1);
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!() };
        assert_eq!(request.envelope.via_rest, b", SIP/2.0/TCP x");
    }
}
