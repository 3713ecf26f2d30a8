//! Header names: which ones are known, by their long or compact form (RFC 3261 §7.3.3).

/// A header field's name, as far as a registrar acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HeaderName {
    /// `Authorization`.
    Authorization,
    /// `Call-ID`, `i`.
    CallId,
    /// `Contact`, `m`.
    Contact,
    /// `Content-Encoding`, `e`.
    ContentEncoding,
    /// `Content-Length`, `l`.
    ContentLength,
    /// `Content-Type`, `c`.
    ContentType,
    /// `CSeq`.
    Cseq,
    /// `Date`.
    Date,
    /// `Expires`.
    Expires,
    /// `From`, `f`.
    From,
    /// `Max-Forwards`.
    MaxForwards,
    /// `Path` (RFC 3327).
    Path,
    /// `Proxy-Require`.
    ProxyRequire,
    /// `Require`.
    Require,
    /// `Supported`, `k`.
    Supported,
    /// `To`, `t`.
    To,
    /// `User-Agent`.
    UserAgent,
    /// `Via`, `v`.
    Via,
    /// Any other name.
    Other,
}

impl HeaderName {
    /// How many names there are, for tables.
    pub const COUNT: usize = Self::Other as usize + 1;

    /// The name that `bytes` spells, in any case.
    pub fn parse(bytes: &[u8]) -> Self {
        let (long, name) = match bytes {
            [c] => {
                return match c.to_ascii_lowercase() {
                    b'c' => Self::ContentType,
                    b'e' => Self::ContentEncoding,
                    b'f' => Self::From,
                    b'i' => Self::CallId,
                    b'k' => Self::Supported,
                    b'l' => Self::ContentLength,
                    b'm' => Self::Contact,
                    b't' => Self::To,
                    b'v' => Self::Via,
                    _ => Self::Other,
                };
            }
            [first, .., last] => {
                match (bytes.len(), first.to_ascii_lowercase(), last.to_ascii_lowercase()) {
                    (2, b't', _) => ("to", Self::To),
                    (3, b'v', _) => ("via", Self::Via),
                    (4, b'c', _) => ("cseq", Self::Cseq),
                    (4, b'd', _) => ("date", Self::Date),
                    (4, b'f', _) => ("from", Self::From),
                    (4, b'p', _) => ("path", Self::Path),
                    (7, b'c', b'd') => ("call-id", Self::CallId),
                    (7, b'c', b't') => ("contact", Self::Contact),
                    (7, b'e', _) => ("expires", Self::Expires),
                    (7, b'r', _) => ("require", Self::Require),
                    (9, b's', _) => ("supported", Self::Supported),
                    (10, b'u', _) => ("user-agent", Self::UserAgent),
                    (12, b'c', _) => ("content-type", Self::ContentType),
                    (12, b'm', _) => ("max-forwards", Self::MaxForwards),
                    (13, b'a', _) => ("authorization", Self::Authorization),
                    (13, b'p', _) => ("proxy-require", Self::ProxyRequire),
                    (14, b'c', _) => ("content-length", Self::ContentLength),
                    (16, b'c', _) => ("content-encoding", Self::ContentEncoding),
                    _ => return Self::Other,
                }
            }
            [] => return Self::Other,
        };
        if bytes.eq_ignore_ascii_case(long.as_bytes()) { name } else { Self::Other }
    }

    /// The long form, as in a reason phrase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "Authorization",
            Self::CallId => "Call-ID",
            Self::Contact => "Contact",
            Self::ContentEncoding => "Content-Encoding",
            Self::ContentLength => "Content-Length",
            Self::ContentType => "Content-Type",
            Self::Cseq => "CSeq",
            Self::Date => "Date",
            Self::Expires => "Expires",
            Self::From => "From",
            Self::MaxForwards => "Max-Forwards",
            Self::Path => "Path",
            Self::ProxyRequire => "Proxy-Require",
            Self::Require => "Require",
            Self::Supported => "Supported",
            Self::To => "To",
            Self::UserAgent => "User-Agent",
            Self::Via => "Via",
            Self::Other => "header",
        }
    }

    /// Whether a message may carry it once only (RFC 3261 §7.3.1, §20).
    pub fn is_single(self) -> bool {
        matches!(
            self,
            Self::CallId
                | Self::ContentLength
                | Self::ContentType
                | Self::Cseq
                | Self::Date
                | Self::Expires
                | Self::From
                | Self::MaxForwards
                | Self::To
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [HeaderName; 18] = [
        HeaderName::Authorization,
        HeaderName::CallId,
        HeaderName::Contact,
        HeaderName::ContentEncoding,
        HeaderName::ContentLength,
        HeaderName::ContentType,
        HeaderName::Cseq,
        HeaderName::Date,
        HeaderName::Expires,
        HeaderName::From,
        HeaderName::MaxForwards,
        HeaderName::Path,
        HeaderName::ProxyRequire,
        HeaderName::Require,
        HeaderName::Supported,
        HeaderName::To,
        HeaderName::UserAgent,
        HeaderName::Via,
    ];

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for name in ALL {
            assert_eq!(HeaderName::parse(name.as_str().as_bytes()), name);
            assert_eq!(HeaderName::parse(name.as_str().to_uppercase().as_bytes()), name);
            assert_eq!(HeaderName::parse(name.as_str().to_lowercase().as_bytes()), name);
        }
    }

    #[test]
    fn compact_forms() {
        for (compact, name) in [
            (b"c", HeaderName::ContentType),
            (b"e", HeaderName::ContentEncoding),
            (b"F", HeaderName::From),
            (b"i", HeaderName::CallId),
            (b"K", HeaderName::Supported),
            (b"l", HeaderName::ContentLength),
            (b"m", HeaderName::Contact),
            (b"t", HeaderName::To),
            (b"V", HeaderName::Via),
            (b"x", HeaderName::Other),
        ] {
            assert_eq!(HeaderName::parse(compact), name);
        }
    }

    #[test]
    fn near_misses_are_other() {
        for bytes in [&b""[..], b"tp", b"vib", b"call_id", b"contacu", b"requirf", b"froo"] {
            assert_eq!(HeaderName::parse(bytes), HeaderName::Other);
        }
    }
}
