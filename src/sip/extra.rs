//! Header lines that back ends have added to what is sent: parameters called `osip_` and the name of
//! the header, as in Yate.

use std::sync::Arc;

use super::header::HeaderName;

/// What the names of such parameters begin with.
pub const PREFIX: &str = "osip_";

/// Octets of all such lines of one message. A value of 30 KiB fits, and so does the rest of an answer
/// into a datagram beside them.
pub const MAX_LINES: usize = 40 * 1024;

/// Why a parameter can't become a header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has none of RFC 3261 §25.1's `token`.
    #[error("that is no header's name")]
    Name,
    /// It says what we alone can say: whom an answer is for, where requests went, how long it is.
    #[error("that header is ours to write")]
    Own,
    /// It would end the line, and begin another header.
    #[error("a header's value has no line end and no other control characters")]
    Control,
    /// There are too many octets of such lines already.
    #[error("the header lines are longer than may be")]
    Long,
}

/// Whether a parameter, if it is a header's at all, is fit to become its line.
///
/// # Errors
/// Why not.
pub fn check(param: &[u8], value: &[u8]) -> Result<(), Unfit> {
    let Some(name) = param.strip_prefix(PREFIX.as_bytes()) else { return Ok(()) };
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(b);
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(Unfit::Name);
    }
    let is_own = match HeaderName::parse(name) {
        HeaderName::Via
        | HeaderName::From
        | HeaderName::To
        | HeaderName::CallId
        | HeaderName::Cseq
        | HeaderName::Contact
        | HeaderName::ContentLength
        | HeaderName::MaxForwards => true,
        _ => [&b"Route"[..], b"Record-Route", b"WWW-Authenticate", b"Proxy-Authenticate"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own)),
    };
    if is_own {
        return Err(Unfit::Own);
    }
    if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Err(Unfit::Control);
    }
    if value.len() > MAX_LINES { Err(Unfit::Long) } else { Ok(()) }
}

/// The header lines of those of `params` that are fit to be some, up to [`MAX_LINES`]; `None` without
/// any.
pub fn lines<'p>(params: impl Iterator<Item = (&'p [u8], &'p [u8])>) -> Option<Arc<[u8]>> {
    let mut lines = Vec::new();
    for (param, value) in params {
        let Some(name) = param.strip_prefix(PREFIX.as_bytes()) else { continue };
        let len = name.len() + value.len() + b": \r\n".len();
        if check(param, value).is_ok() && lines.len() + len <= MAX_LINES {
            lines.extend_from_slice(name);
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value);
            lines.extend_from_slice(b"\r\n");
        }
    }
    (!lines.is_empty()).then(|| lines.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_message_is_no_header() {
        for (param, value, fit) in [
            ("osip_Service-Route", "<sip:a@b;lr>", Ok(())),
            ("osip_X-Ü", "a", Err(Unfit::Name)),
            ("osip_", "a", Err(Unfit::Name)),
            ("osip_A: b", "a", Err(Unfit::Name)),
            ("osip_X", "a\tü", Ok(())),
            ("osip_X", "", Ok(())),
            ("osip_X", "a\r\nContact: <sip:b@c>", Err(Unfit::Control)),
            ("osip_X", "a\nb", Err(Unfit::Control)),
            ("osip_X", "a\0b", Err(Unfit::Control)),
            ("osip_content-length", "1", Err(Unfit::Own)),
            ("osip_l", "1", Err(Unfit::Own)),
            ("osip_record-route", "<sip:a>", Err(Unfit::Own)),
            ("other", "a\nb", Ok(())),
        ] {
            assert_eq!(check(param.as_bytes(), value.as_bytes()), fit, "{param}: {value:?}");
        }
    }

    #[test]
    fn lines_are_whole_and_bounded() {
        let long = "x".repeat(30 << 10);
        let params = [
            ("osip_A", "1"),
            ("b", "2"),
            ("osip_C", "3\r\nD: 4"),
            ("osip_E", &long),
            ("osip_F", &long),
            ("osip_G", "5"),
        ];
        let of = |params: &[(&str, &str)]| {
            let octets = params.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            lines(octets).map(|lines| String::from_utf8(lines.to_vec()).unwrap())
        };
        assert_eq!(of(&params), Some(format!("A: 1\r\nE: {long}\r\nG: 5\r\n")));
        assert_eq!(of(&params[1..3]), None);
    }
}
