//! A request whose mandatory headers have been read.

use super::{
    Fault, Message, Method, Response, Silence,
    header::{Cseq, NameAddr, Via},
    uri::SipUri,
};

/// What the parser makes of a datagram.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack, for one datagram")]
pub enum Parsed<'a> {
    /// A request to be judged.
    Request(Request<'a>),
    /// A broken request that can be told so.
    Rejected(Rejected<'a>),
    /// A response, to a request that was passed on if to any.
    Response(Response<'a>),
    /// Something that draws no answer.
    Silence(Silence),
}

/// What any answer to a request needs, readable even where other parts are broken.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// All headers.
    pub message: Message<'a>,
    /// The method of the request line.
    pub method: Method<'a>,
    /// The topmost Via.
    pub via: Via<'a>,
    /// What follows the topmost element in its Via line: a comma and more, or nothing.
    pub via_rest: &'a [u8],
    /// Whether To is known to have no parameter, thus no tag.
    pub to_is_bare: bool,
}

/// A broken request.
#[derive(Clone, Copy, Debug)]
pub struct Rejected<'a> {
    /// What the answer is made of.
    pub envelope: Envelope<'a>,
    /// What is wrong.
    pub fault: Fault,
}

/// A request with all headers that RFC 3261 §8.1.1 asks for, but for Max-Forwards, which old
/// clients leave out.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the answer is made of.
    pub envelope: Envelope<'a>,
    /// The Request-URI as it came.
    pub uri: &'a [u8],
    /// The Request-URI's parts; `None` if it is neither a SIP nor a SIPS URI.
    pub sip_uri: Option<SipUri<'a>>,
    /// From.
    pub from: NameAddr<'a>,
    /// To.
    pub to: NameAddr<'a>,
    /// The parts of To's URI; `None` if it is neither a SIP nor a SIPS URI.
    pub to_uri: Option<SipUri<'a>>,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// CSeq, whose method is that of the request line.
    pub cseq: Cseq<'a>,
    /// The body, as long as Content-Length says.
    pub body: &'a [u8],
}
