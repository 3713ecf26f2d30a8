//! The challenge of a 401, as a client reads it (RFC 7616 §3.3).

use crate::auth::policy::Algorithm;

/// The longest nonce that is answered, in octets. Known registrars send 16 to some 150.
pub(super) const MAX_NONCE: usize = 512;

/// One WWW-Authenticate header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge<'a> {
    /// The realm as it stands between its quotes.
    pub(super) realm: &'a [u8],
    /// The nonce, likewise.
    pub(super) nonce: &'a [u8],
    /// `opaque`, to be sent back unchanged.
    pub(super) opaque: Option<&'a [u8]>,
    /// The algorithm; MD5 where none is named.
    pub(super) algorithm: Algorithm,
    /// Whether `qop` offers `auth`.
    pub(super) qop_auth: bool,
    /// Whether only the nonce was too old.
    pub(super) stale: bool,
}

/// The challenge in an answer that is to be met: the one with `wanted`, or else the first whose
/// algorithm is known (RFC 8760 §2.4: the registrar lists its favourite first).
pub(super) fn find(answer: &[u8], wanted: Option<Algorithm>) -> Option<Challenge<'_>> {
    let mut known = lines(answer).filter_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|&octet| octet == b':')?);
        if !name.trim_ascii().eq_ignore_ascii_case(b"www-authenticate") {
            return None;
        }
        Challenge::parse(value.get(1..)?)
    });
    match wanted {
        Some(wanted) => known.find(|challenge| challenge.algorithm == wanted),
        None => known.next(),
    }
}

/// The header lines of a message; a folded line is none of ours to read.
pub(super) fn lines(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    message
        .split(|&octet| octet == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
}

impl<'a> Challenge<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let value = value.trim_ascii_start();
        let (scheme, mut rest) = value.split_at_checked(b"Digest ".len())?;
        if !scheme.eq_ignore_ascii_case(b"digest ") {
            return None;
        }
        let mut algorithm = Some(Algorithm::Md5);
        let (mut realm, mut nonce, mut opaque) = (None, None, None);
        let (mut qop_auth, mut stale) = (false, false);
        while let Some((name, value, after)) = parameter(rest) {
            rest = after;
            match name {
                _ if name.eq_ignore_ascii_case(b"realm") => realm = Some(value),
                _ if name.eq_ignore_ascii_case(b"nonce") => nonce = Some(value),
                _ if name.eq_ignore_ascii_case(b"opaque") => opaque = Some(value),
                _ if name.eq_ignore_ascii_case(b"stale") => {
                    stale = value.eq_ignore_ascii_case(b"true");
                }
                _ if name.eq_ignore_ascii_case(b"algorithm") => {
                    algorithm = Algorithm::from_token(value);
                }
                _ if name.eq_ignore_ascii_case(b"qop") => {
                    let mut offered = value.split(|&octet| octet == b',');
                    qop_auth = offered.any(|qop| qop.trim_ascii().eq_ignore_ascii_case(b"auth"));
                }
                _ => {}
            }
        }
        let nonce = nonce.filter(|nonce| nonce.len() <= MAX_NONCE)?;
        Some(Self { realm: realm?, nonce, opaque, algorithm: algorithm?, qop_auth, stale })
    }
}

/// The first parameter of a list: its name, its value without quotes, and what follows.
fn parameter(list: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let start = list.iter().position(|octet| !matches!(octet, b' ' | b'\t' | b','))?;
    let list = list.get(start..)?;
    let (name, value) = list.split_at(list.iter().position(|&octet| octet == b'=')?);
    let value = value.get(1..)?.trim_ascii_start();
    let (value, after) = if let [b'"', quoted @ ..] = value {
        let mut escaped = false;
        let end = quoted.iter().position(|&octet| {
            let ends = octet == b'"' && !escaped;
            escaped = octet == b'\\' && !escaped;
            ends
        })?;
        (quoted.get(..end)?, quoted.get(end + 1..)?)
    } else {
        value.split_at(value.iter().position(|&octet| octet == b',').unwrap_or(value.len()))
    };
    Some((name.trim_ascii(), value.trim_ascii(), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_algorithm_is_found() {
        let answer = b"SIP/2.0 401 Unauthorized\r\nTo: x\r\n\
            WWW-Authenticate: Digest realm=\"a b\", nonce=\"n1\", algorithm=SHA-256, qop=\"auth\"\r\n\
            www-authenticate : digest  nonce=\"n\\\"2\" ,realm=r, opaque=\"\", qop=\"auth-int, auth\",stale=TRUE\r\n\
            \r\nWWW-Authenticate: Digest realm=body,nonce=body";
        let sha = find(answer, None).unwrap();
        assert_eq!((sha.algorithm, sha.nonce), (Algorithm::Sha256, &b"n1"[..]));
        assert!(sha.qop_auth && !sha.stale && sha.opaque.is_none());
        let md5 = find(answer, Some(Algorithm::Md5)).unwrap();
        assert_eq!((md5.realm, md5.nonce), (&b"r"[..], &b"n\\\"2"[..]));
        assert!(md5.qop_auth && md5.stale && md5.opaque == Some(b""));
        assert_eq!(find(answer, Some(Algorithm::Sha512_256)), None);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        for value in [
            "Basic realm=x",
            "Digest realm=x",
            "Digest nonce=\"x",
            "Digest",
            "",
            "Digest realm=r, nonce=n, algorithm=MD5-sess",
        ] {
            let answer = format!("SIP/2.0 401 U\r\nWWW-Authenticate: {value}\r\n\r\n");
            assert_eq!(find(answer.as_bytes(), None), None, "{value}");
        }
        // RFC 2069 knows no qop.
        let old = find(b"S\nWWW-Authenticate: Digest realm=\"r\",nonce=\"n\"\n\n", None).unwrap();
        assert!(!old.qop_auth);
    }
}
