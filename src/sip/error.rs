//! What is wrong with a message, and whether it can be told.

use super::{header::HeaderName, status::Status};

/// A fault in a request that is answered: the reason phrase names the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The value breaks the header's grammar, or says what can't be.
    Bad(HeaderName),
    /// A line of the header block is no header.
    BadHeaderLine,
    /// A header of this name is beyond its limit.
    Long(HeaderName),
    /// A header that each request needs is not there (RFC 3261 §8.1.1).
    Missing(HeaderName),
    /// A header that may stand once stands twice.
    Repeated(HeaderName),
    /// The request line is not three words with one space between (RFC 3261 §7.1).
    RequestLine,
    /// The Request-URI breaks the grammar.
    RequestUri,
    /// More values of this header than the limit.
    TooMany(HeaderName),
    /// More header lines than the limit.
    TooManyHeaders,
    /// The header block ends within a line.
    Unterminated,
    /// The version is not SIP/2.0.
    Version,
}

macro_rules! phrases {
    ($prefix:literal, $name:expr) => {
        match $name {
            HeaderName::Authorization => concat!($prefix, "Authorization"),
            HeaderName::CallId => concat!($prefix, "Call-ID"),
            HeaderName::Contact => concat!($prefix, "Contact"),
            HeaderName::ContentEncoding => concat!($prefix, "Content-Encoding"),
            HeaderName::ContentLength => concat!($prefix, "Content-Length"),
            HeaderName::ContentType => concat!($prefix, "Content-Type"),
            HeaderName::Cseq => concat!($prefix, "CSeq"),
            HeaderName::Date => concat!($prefix, "Date"),
            HeaderName::Expires => concat!($prefix, "Expires"),
            HeaderName::From => concat!($prefix, "From"),
            HeaderName::MaxForwards => concat!($prefix, "Max-Forwards"),
            HeaderName::Path => concat!($prefix, "Path"),
            HeaderName::ProxyRequire => concat!($prefix, "Proxy-Require"),
            HeaderName::Require => concat!($prefix, "Require"),
            HeaderName::Supported => concat!($prefix, "Supported"),
            HeaderName::To => concat!($prefix, "To"),
            HeaderName::UserAgent => concat!($prefix, "User-Agent"),
            HeaderName::Via => concat!($prefix, "Via"),
            HeaderName::Other => concat!($prefix, "Header"),
        }
    };
}

impl Fault {
    /// The answer this fault draws.
    pub fn status(self) -> Status {
        match self {
            Self::Bad(name) => Status::BAD_REQUEST.because(phrases!("Bad ", name)),
            Self::BadHeaderLine => Status::BAD_REQUEST.because("Bad Header Line"),
            Self::Long(name) => Status::BAD_REQUEST.because(phrases!("Too Long ", name)),
            Self::Missing(name) => Status::BAD_REQUEST.because(phrases!("Missing ", name)),
            Self::Repeated(name) => Status::BAD_REQUEST.because(phrases!("Repeated ", name)),
            Self::RequestLine => Status::BAD_REQUEST.because("Bad Request-Line"),
            Self::RequestUri => Status::BAD_REQUEST.because("Bad Request-URI"),
            Self::TooMany(name) => Status::BAD_REQUEST.because(phrases!("Too Many ", name)),
            Self::TooManyHeaders => Status::BAD_REQUEST.because("Too Many Headers"),
            Self::Unterminated => Status::BAD_REQUEST.because("Unterminated Header"),
            Self::Version => Status::VERSION_NOT_SUPPORTED,
        }
    }
}

/// Why a datagram draws no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// An ACK that is broken: it is never answered (RFC 3261 §17.1.1.3).
    Ack,
    /// A response that breaks the grammar.
    BadResponse,
    /// Its topmost Via can't be read, so nobody knows where an answer would have to go.
    BadVia,
    /// Line ends only: what keeps a NAT binding open (RFC 5626 §3.5.1).
    Keepalive,
    /// Not SIP at all.
    NotSip,
    /// A response that nobody waits for.
    Response,
}
