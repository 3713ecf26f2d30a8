//! A response whose mandatory headers have been read.

use super::{
    Message,
    grammar::number,
    header::{Cseq, HeaderName, NameAddr, Via},
    parser,
};

/// A response (RFC 3261 §7.2), with what it takes to find whom it is for.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// All headers.
    pub message: Message<'a>,
    /// 100 to 699.
    pub code: u16,
    /// What follows the code, as sent.
    pub phrase: &'a [u8],
    /// The topmost Via: of who sent the request.
    pub via: Via<'a>,
    /// What follows the topmost element in its Via line: a comma and more, or nothing.
    pub via_rest: &'a [u8],
    /// From.
    pub from: NameAddr<'a>,
    /// To.
    pub to: NameAddr<'a>,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// CSeq.
    pub cseq: Cseq<'a>,
    /// The body, as long as Content-Length says.
    pub body: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads what each response must have (RFC 3261 §8.2.6.2); `None` if it has not.
    pub(super) fn read(
        message: Message<'a>,
        line: &'a [u8],
        via: Via<'a>,
        via_rest: &'a [u8],
    ) -> Option<Self> {
        let (code, phrase) = status_line(line)?;
        Some(Self {
            message,
            code,
            phrase,
            via,
            via_rest,
            from: NameAddr::parse(message.first(HeaderName::From)?).ok()?,
            to: NameAddr::parse(message.first(HeaderName::To)?).ok()?,
            call_id: message.first(HeaderName::CallId).filter(|id| !id.is_empty())?,
            cseq: Cseq::parse(message.first(HeaderName::Cseq)?).ok()?,
            body: parser::body(&message).ok()?,
        })
    }
}

/// `SIP/2.0 code phrase`.
fn status_line(line: &[u8]) -> Option<(u16, &[u8])> {
    let (version, rest) = line.split_at_checked(8)?;
    if !version.eq_ignore_ascii_case(b"SIP/2.0 ") {
        return None;
    }
    let (code, phrase) = rest.split_at_checked(3)?;
    let code = number(code).filter(|code| (100..700).contains(code))?;
    match phrase {
        [] => Some((code, phrase)),
        [b' ', phrase @ ..] => Some((code, phrase)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Limits, Parsed, Parser};

    #[test]
    fn status_lines() {
        assert_eq!(status_line(b"SIP/2.0 200 OK"), Some((200, &b"OK"[..])));
        assert_eq!(status_line(b"sip/2.0 486 "), Some((486, &b""[..])));
        assert_eq!(status_line(b"SIP/2.0 100"), Some((100, &b""[..])));
        for bad in ["SIP/2.0 99 x", "SIP/2.0 700 x", "SIP/3.0 200 OK", "SIP/2.0 2000", "SIP/2.0"] {
            assert_eq!(status_line(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_response_tells_whom_it_is_for() {
        let text = "SIP/2.0 180 Ringing\r\n\
            Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1, SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2\r\n\
            From: <sip:alice@example.com>;tag=1\r\n\
            To: <sip:bob@example.com>;tag=2\r\n\
            Call-ID: a@b\r\n\
            CSeq: 7 INVITE\r\n\
            Content-Length: 2\r\n\r\nxyz";
        let mut parser = Parser::new(Limits::default());
        let Parsed::Response(response) = parser.parse(text.as_bytes()) else { panic!("{text}") };
        assert_eq!((response.code, response.phrase), (180, &b"Ringing"[..]));
        assert_eq!(response.via.branch, b"z9hG4bK1");
        assert_eq!(response.via_rest, b", SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2");
        assert_eq!((response.cseq.number, response.body), (7, &b"xy"[..]));
        let broken = text.replace("Call-ID: a@b\r\n", "");
        assert!(matches!(parser.parse(broken.as_bytes()), Parsed::Silence(_)));
    }
}
