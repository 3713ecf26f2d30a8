//! Any datagram: the parser gives the same verdict on both of its paths, and what it takes can be
//! read and answered.

use bindery::sip::{
    Limits, Parsed, Parser, Response, Silence, Status,
    encode::{self, Buf},
    header::{Contact, Contacts, Elements, HeaderName, NameAddr},
};

use crate::answer::read_answer;

/// Checks one datagram.
pub(crate) fn check(datagram: &[u8]) {
    let Some(datagram) = datagram.get(..datagram.len().min(60_000)) else { return };
    let mut parser = Parser::new(Limits::default());
    let parsed = parser.parse(datagram);
    if let Some(tolerant) = on_the_tolerant_path(datagram) {
        let mut other = Parser::new(Limits::default());
        let other = other.parse(&tolerant);
        assert_eq!(facts(&parsed), facts(&other), "{}", datagram.escape_ascii());
    }
    let envelope = match &parsed {
        Parsed::Request(request) => request.envelope,
        Parsed::Rejected(rejected) => rejected.envelope,
        Parsed::Silence(_) | Parsed::Response(_) => return,
    };
    let mut space = vec![0; 2 * datagram.len() + 1024];
    let mut buf = Buf::new(&mut space);
    let source = "192.0.2.1:5062".parse().expect("an address");
    let response = encode::Response::start(&mut buf, Status::OK, &envelope, source, 7);
    let len = response.finish().expect("an answer copies no more than there was");
    read_answer(&space[..len]);
    let mut parser = Parser::new(Limits::default());
    // What a broken request lacks its answer lacks too.
    let reread = parser.parse(&space[..len]);
    assert!(matches!(reread, Parsed::Response(_) | Parsed::Silence(Silence::BadResponse)));
}

/// The same message with one more header, which has a blank before its colon, so that the fast path
/// does not take it. `None` if that would change what the message means.
fn on_the_tolerant_path(datagram: &[u8]) -> Option<Vec<u8>> {
    let start = datagram.iter().position(|b| !b"\r\n".contains(b))?;
    let line = datagram[start..].iter().position(|&b| b == b'\n')?;
    let (head, tail) = datagram.split_at(start + line + 1);
    // Nothing may be folded into the new line, and its number must not be one too many.
    let lines = tail.iter().filter(|&&b| b == b'\n').count();
    let is_plain = !matches!(tail.first(), None | Some(b' ' | b'\t'));
    (is_plain && lines < 100).then(|| [head, b"X-Path : tolerant\r\n", tail].concat())
}

/// All that was read, to be compared.
fn facts(parsed: &Parsed<'_>) -> String {
    let envelope = match parsed {
        Parsed::Silence(silence) => return format!("{silence:?}"),
        Parsed::Response(response) => {
            let Response { code, from, to, cseq, via, .. } = response;
            let (call_id, body) = (response.call_id.escape_ascii(), response.body.escape_ascii());
            return format!("{code} {from:?} {to:?} {cseq:?} {via:?} {call_id} {body}");
        }
        Parsed::Rejected(rejected) => &rejected.envelope,
        Parsed::Request(request) => &request.envelope,
    };
    let mut facts = match parsed {
        Parsed::Request(request) => format!(
            "{} {:?} {:?} {} {:?} {}",
            request.uri.escape_ascii(),
            request.from,
            request.to,
            request.call_id.escape_ascii(),
            request.cseq,
            request.body.escape_ascii(),
        ),
        Parsed::Rejected(rejected) => format!("{:?}", rejected.fault),
        Parsed::Silence(_) | Parsed::Response(_) => String::new(),
    };
    let message = envelope.message;
    facts += &format!("{:?} {:?} {}", envelope.method, envelope.via, envelope.via_rest.len());
    for name in [HeaderName::Contact, HeaderName::Path, HeaderName::Via, HeaderName::Require] {
        for value in message.all(name) {
            facts += &format!(" {:?} ", Elements::new(value).collect::<Vec<_>>());
            facts += &format!(" {:?} ", NameAddr::parse(value));
        }
    }
    let contacts = Contacts::survey(message.all(HeaderName::Contact), |_| {
        Ok::<_, bindery::sip::header::BadValue>(())
    });
    if let Ok(Contacts::List { count }) = contacts {
        let all: Vec<_> = Contact::all(message.all(HeaderName::Contact)).collect();
        assert_eq!(all.len(), count, "what was surveyed is what is read");
        facts += &format!(" {all:?} ");
    }
    facts
}
