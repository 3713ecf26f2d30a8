//! The challenges in a 401 (RFC 3261 §22.2, RFC 7616 §3.3).

use super::nonce::NONCE_LEN;
use super::policy::Algorithm;

/// Where encoded octets go: a response being built.
pub trait Sink {
    /// Appends octets. What no longer fits is the sink's to notice and to answer for.
    fn put(&mut self, octets: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// One WWW-Authenticate header for each algorithm, all with the same nonce.
///
/// A challenge answers a stranger, so it must not be much longer than what it answers: there is no
/// `opaque` (the nonce carries all state), no `domain` (the whole registrar), no `stale=false`.
#[derive(Clone, Debug)]
pub struct Challenge<'a> {
    pub(super) realm: &'a QuotedRealm,
    pub(super) algorithms: &'a [Algorithm],
    pub(super) qop_auth: bool,
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) stale: bool,
}

impl Challenge<'_> {
    /// Appends the header lines, the most preferred algorithm first (RFC 8760 §2.4).
    pub fn encode_into(&self, out: &mut impl Sink) {
        self.put(b"WWW-Authenticate: Digest realm=\"", out);
    }

    /// The same for a 407.
    pub fn encode_for_proxy_into(&self, out: &mut impl Sink) {
        self.put(b"Proxy-Authenticate: Digest realm=\"", out);
    }

    fn put(&self, prefix: &[u8], out: &mut impl Sink) {
        for algorithm in self.algorithms {
            out.put(prefix);
            out.put(&self.realm.0);
            out.put(b"\", nonce=\"");
            out.put(&self.nonce);
            out.put(if self.qop_auth {
                b"\", qop=\"auth\", algorithm="
            } else {
                b"\", algorithm="
            });
            out.put(algorithm.token().as_bytes());
            out.put(if self.stale { b", stale=true\r\n" } else { b"\r\n" });
        }
    }

    /// The nonce that is offered.
    pub fn nonce(&self) -> &[u8; NONCE_LEN] {
        &self.nonce
    }
}

/// A realm as it stands between quotes, escaped once when the policy is made.
#[derive(Clone, Debug)]
pub(super) struct QuotedRealm(Box<[u8]>);

impl QuotedRealm {
    /// Escapes a realm; `None` if it has a control character, which no quoting makes safe to send.
    pub(super) fn new(realm: &str) -> Option<Self> {
        let mut escaped = Vec::with_capacity(realm.len());
        for octet in realm.bytes() {
            match octet {
                0..=31 | 127 => return None,
                b'"' | b'\\' => escaped.extend([b'\\', octet]),
                _ => escaped.push(octet),
            }
        }
        Some(Self(escaped.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Octets(Vec<u8>);

    impl Sink for Octets {
        fn put(&mut self, octets: &[u8]) {
            self.0.extend_from_slice(octets);
        }
    }

    fn encode(realm: &str, algorithms: &[Algorithm], qop_auth: bool, stale: bool) -> String {
        let realm = QuotedRealm::new(realm).unwrap();
        let challenge =
            Challenge { realm: &realm, algorithms, qop_auth, nonce: [b'n'; NONCE_LEN], stale };
        let mut out = Octets(Vec::new());
        challenge.encode_into(&mut out);
        String::from_utf8(out.0).unwrap()
    }

    #[test]
    fn one_line_for_each_algorithm_in_order() {
        assert_eq!(
            encode("example.com", &[Algorithm::Sha256, Algorithm::Md5], true, false),
            "WWW-Authenticate: Digest realm=\"example.com\", nonce=\"nnnnnnnnnnnnnnnnnnnnnn\", \
             qop=\"auth\", algorithm=SHA-256\r\n\
             WWW-Authenticate: Digest realm=\"example.com\", nonce=\"nnnnnnnnnnnnnnnnnnnnnn\", \
             qop=\"auth\", algorithm=MD5\r\n"
        );
    }

    #[test]
    fn stale_is_said_only_when_true_and_qop_only_when_offered() {
        assert_eq!(
            encode("r", &[Algorithm::Sha512_256], false, true),
            "WWW-Authenticate: Digest realm=\"r\", nonce=\"nnnnnnnnnnnnnnnnnnnnnn\", \
             algorithm=SHA-512-256, stale=true\r\n"
        );
    }

    #[test]
    fn a_realm_cannot_leave_its_quotes() {
        assert!(encode(r#"a"b\c"#, &[Algorithm::Md5], true, false).contains(r#""a\"b\\c", nonce"#));
        assert!(QuotedRealm::new("a\r\nX: y").is_none());
    }

    #[test]
    fn two_challenges_stay_lean() {
        // The smallest REGISTER has 170 octets and draws three times that at most; the rest of a
        // 401 takes about as much as the request.
        let both = encode("sip.example.com", &[Algorithm::Sha256, Algorithm::Md5], true, true);
        assert!(both.len() <= 2 * 170 - 40, "{}", both.len());
    }
}
