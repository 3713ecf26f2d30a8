//! Header names: which ones are known, by their long or compact form (RFC 3261 §7.3.3).

use crate::octets::words;

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

    /// All but [`HeaderName::Other`], each at its own place.
    pub const KNOWN: [Self; Self::COUNT - 1] = [
        Self::Authorization,
        Self::CallId,
        Self::Contact,
        Self::ContentEncoding,
        Self::ContentLength,
        Self::ContentType,
        Self::Cseq,
        Self::Date,
        Self::Expires,
        Self::From,
        Self::MaxForwards,
        Self::Path,
        Self::ProxyRequire,
        Self::Require,
        Self::Supported,
        Self::To,
        Self::UserAgent,
        Self::Via,
    ];

    /// The name that `bytes`, a token, spells in any case.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Self {
        if let [compact] = bytes {
            return match compact.to_ascii_lowercase() {
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
        // Length and last letter leave one name that it may be.
        let [.., last] = bytes else { return Self::Other };
        let name = match (bytes.len(), last | 0x20) {
            (2, _) => Self::To,
            (3, _) => Self::Via,
            (4, b'q') => Self::Cseq,
            (4, b'm') => Self::From,
            (4, b'h') => Self::Path,
            (4, _) => Self::Date,
            (7, b'd') => Self::CallId,
            (7, b't') => Self::Contact,
            (7, b's') => Self::Expires,
            (7, _) => Self::Require,
            (9, _) => Self::Supported,
            (10, _) => Self::UserAgent,
            (12, b's') => Self::MaxForwards,
            (12, _) => Self::ContentType,
            (13, b'n') => Self::Authorization,
            (13, _) => Self::ProxyRequire,
            (14, _) => Self::ContentLength,
            (16, _) => Self::ContentEncoding,
            _ => return Self::Other,
        };
        if WORDS[name as usize] == words(bytes) { name } else { Self::Other }
    }

    /// The long form, as in a reason phrase.
    pub const fn as_str(self) -> &'static str {
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

/// The long forms as they are compared.
const WORDS: [(u64, u64); HeaderName::KNOWN.len()] = {
    let mut all = [(0, 0); HeaderName::KNOWN.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = words(HeaderName::KNOWN[at].as_str().as_bytes());
        at += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for (at, name) in HeaderName::KNOWN.into_iter().enumerate() {
            assert_eq!(name as usize, at);
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
