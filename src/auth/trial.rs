//! The responses of many requests, computed side by side.

use md5::Md5;
use subtle::ConstantTimeEq;

use super::{
    authenticator::{Authenticator, Claim},
    digest::{Secret, hash, hex_into},
    md5_lanes::Batch,
    policy::Algorithm,
    verdict::{Refusal, Verdict},
};
use crate::octets::find;

/// The space in which the responses of a batch are computed; used again for the next.
pub struct Trials {
    batch: Batch,
    ha2: Ha2,
}

/// A claim whose response is on its way.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    claimed: [u8; 16],
    /// The place of the right response in the batch.
    place: usize,
    /// What becomes of the claim if both are the same.
    verdict: Verdict<'a>,
}

impl Trials {
    /// Space for `capacity` responses without allocating.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { batch: Batch::with_capacity(capacity), ha2: Ha2::default() }
    }

    /// Begins the next batch.
    pub fn clear(&mut self) {
        self.batch.clear();
    }

    /// Has the response to a claim computed with the others, or judges it at once, as
    /// [`Authenticator::judge`] would: what is not MD5, or has a `uri` that may take two tries.
    ///
    /// `secret` is that of the account, `None` if there is no such account: then there is a decoy,
    /// and no difference in the work.
    pub fn begin<'a>(
        &mut self,
        authenticator: &Authenticator,
        claim: &Claim<'a>,
        method: &[u8],
        request_uri: &[u8],
        secret: Option<Secret>,
    ) -> Result<Trial<'a>, Verdict<'a>> {
        let Some((ha1s, refusal)) = authenticator.opponent(claim, secret) else {
            return Err(claim.grant(request_uri));
        };
        let is_plain = claim.algorithm == Algorithm::Md5 && find(b';', claim.uri()).is_none();
        let ha1 = ha1s.md5.filter(|_| is_plain);
        let place = ha1.and_then(|ha1| self.push(&ha1, claim, method));
        let Some(place) = place else {
            return Err(authenticator.judge(claim, method, request_uri, secret));
        };
        // Worked out for a decoy as well.
        let granted = claim.grant(request_uri);
        let verdict = refusal.map_or(granted, Verdict::Challenge);
        Ok(Trial { claimed: claim.response.md5(), place, verdict })
    }

    fn push(&mut self, ha1: &[u8], claim: &Claim<'_>, method: &[u8]) -> Option<usize> {
        let input = claim.input(method);
        let ha2 = self.ha2.of(method, input.uri);
        let mut ha1_hex = [0; 64];
        let ha1_hex = hex_into(ha1, &mut ha1_hex);
        match input.auth {
            Some((nc, cnonce)) => self.batch.push(&[
                ha1_hex,
                b":",
                input.nonce,
                b":",
                nc,
                b":",
                cnonce,
                b":auth:",
                ha2,
            ]),
            None => self.batch.push(&[ha1_hex, b":", input.nonce, b":", ha2]),
        }
    }

    /// Computes what was begun.
    pub fn compute(&mut self) {
        self.batch.digests();
    }

    /// What became of a claim.
    pub fn verdict<'a>(&self, trial: &Trial<'a>) -> Verdict<'a> {
        let right = self.batch.computed().get(trial.place);
        if right.is_some_and(|right| is_equal(right, &trial.claimed)) {
            return trial.verdict;
        }
        match trial.verdict {
            // The account is to blame, not the response.
            Verdict::Challenge(refusal) => Verdict::Challenge(refusal),
            Verdict::Granted(_) | Verdict::Stale => Verdict::Challenge(Refusal::WrongPassword),
        }
    }
}

/// Whether two digests are the same, in a time that doesn't tell where they differ: two numbers take
/// fewer steps than sixteen octets.
fn is_equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    let halves = |digest: &[u8; 16]| {
        let half = |half: Option<&[u8; 8]>| half.map_or(0, |half| u64::from_le_bytes(*half));
        (half(digest.first_chunk()), half(digest.last_chunk()))
    };
    let ((a_first, a_last), (b_first, b_last)) = (halves(a), halves(b));
    (a_first.ct_eq(&b_first) & a_last.ct_eq(&b_last)).into()
}

impl std::fmt::Debug for Trials {
    /// Shows no digest: they are as good as a password while their nonce lives.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trials").field("len", &self.batch.len()).finish_non_exhaustive()
    }
}

/// H(A2) in hexadecimal, as it was computed last: phones of one domain have it in common.
#[derive(Debug, Default)]
struct Ha2 {
    /// Method, colon and URI.
    a2: Vec<u8>,
    hex: Option<[u8; 32]>,
}

impl Ha2 {
    fn of(&mut self, method: &[u8], uri: &[u8]) -> &[u8] {
        let Self { a2, hex } = self;
        let is_same = a2.len() == method.len() + 1 + uri.len()
            && a2.starts_with(method)
            && a2.get(method.len()) == Some(&b':')
            && a2.ends_with(uri);
        if !is_same {
            a2.clear();
            for part in [method, b":", uri] {
                a2.extend_from_slice(part);
            }
            *hex = None;
        }
        hex.get_or_insert_with(|| {
            let mut buffer = [0; 64];
            let mut hex = [0; 32];
            hex.copy_from_slice(hex_into(&hash::<Md5>(&[a2]), &mut buffer));
            hex
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::{Ha1Set, NonceKeys, RequestHash, policy::Policy},
        time::{DeltaSeconds, Now},
    };

    const REALM: &str = "example.com";
    const URI: &[u8] = b"sip:example.com";
    const ISSUED: Now = Now { millis: 77, unix: 1_700_000_000 };
    const ALGORITHMS: [Algorithm; 2] = [Algorithm::Md5, Algorithm::Sha256];

    fn authenticator() -> Authenticator {
        let policy = Policy {
            realm: REALM.into(),
            algorithms: ALGORITHMS.into(),
            nonce_lifetime: DeltaSeconds(300),
            qop_auth: true,
        };
        Authenticator::new(policy, NonceKeys::from_bytes(&[42; 32])).unwrap()
    }

    fn md5(text: &str) -> String {
        use md5::Digest;
        Md5::digest(text).iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// What a phone sends that hashes `hashed_uri` but says `uri`.
    fn header(nonce: &str, password: &str, uri: &str, hashed_uri: &str, cnonce: &str) -> String {
        let ha1 = md5(&format!("alice:{REALM}:{password}"));
        let ha2 = md5(&format!("REGISTER:{hashed_uri}"));
        let response = md5(&format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}"));
        format!(
            "Digest username=\"alice\",realm=\"{REALM}\",nonce=\"{nonce}\",uri=\"{uri}\",\
             response=\"{response}\",qop=auth,nc=00000001,cnonce=\"{cnonce}\""
        )
    }

    #[test]
    fn a_batch_is_judged_as_each_alone() {
        let authenticator = authenticator();
        let nonce = authenticator.challenge(ISSUED, RequestHash(1)).nonce().to_vec();
        let nonce = String::from_utf8(nonce).unwrap();
        let long = "c".repeat(200);
        let uri = "sip:example.com";
        let sha = format!("{},algorithm=SHA-256", header(&nonce, "secret", uri, uri, "c"))
            .replace("response=\"", &format!("response=\"{}", "0".repeat(32)));
        let headers = [
            header(&nonce, "secret", uri, uri, "c"),
            header(&nonce, "wrong", uri, uri, "c"),
            header(&nonce, "secret", uri, "sip:example.org", "c"),
            header(&nonce, "secret", "sip:example.org", "sip:example.org", "0a4f113b"),
            header(&nonce, "secret", "sip:example.com;x=y", "sip:example.com;x=y", "c"),
            header(&nonce, "secret", "sip:example.com;x=y", uri, "c"),
            header(&nonce, "wrong", "sip:example.com;x=y", uri, "c"),
            header(&nonce, "secret", uri, uri, &long),
            header(&nonce, "wrong", uri, uri, &long),
            sha,
        ];
        let ha1s = Ha1Set::of_password(&ALGORITHMS, b"alice", REALM.as_bytes(), b"secret");
        let only_sha = Ha1Set { md5: None, ..ha1s };
        let secrets = [
            None,
            Some(Secret::Ha1(ha1s)),
            Some(Secret::Ha1(only_sha)),
            Some(Secret::NoPassword),
            Some(Secret::AnyPassword),
        ];
        let later = Now { millis: 0, unix: ISSUED.unix + 301 };
        let mut trials = Trials::with_capacity(0);
        let mut granted = 0;
        for now in [ISSUED, later] {
            trials.clear();
            let mut begun = Vec::new();
            for header in &headers {
                for secret in secrets {
                    let claim = authenticator.screen_any(now, [header.as_bytes()]).unwrap();
                    let alone = authenticator.judge(&claim, b"REGISTER", URI, secret);
                    let trial = trials.begin(&authenticator, &claim, b"REGISTER", URI, secret);
                    begun.push((trial, alone, header));
                }
            }
            trials.compute();
            for (trial, alone, header) in begun {
                let verdict = trial.map_or_else(|judged| judged, |trial| trials.verdict(&trial));
                assert_eq!(verdict, alone, "{header}");
                granted += usize::from(matches!(verdict, Verdict::Granted(_)));
            }
        }
        // The right responses, and whatever comes where any password will do.
        assert_eq!(granted, 5 + headers.len());
    }

    #[test]
    fn what_was_not_computed_is_wrong() {
        let authenticator = authenticator();
        let nonce = authenticator.challenge(ISSUED, RequestHash(1)).nonce().to_vec();
        let nonce = String::from_utf8(nonce).unwrap();
        let header = header(&nonce, "secret", "sip:example.com", "sip:example.com", "c");
        let ha1s = Ha1Set::of_password(&ALGORITHMS, b"alice", REALM.as_bytes(), b"secret");
        let secret = Some(Secret::Ha1(ha1s));
        let claim = authenticator.screen_any(ISSUED, [header.as_bytes()]).unwrap();
        let mut trials = Trials::with_capacity(1);
        let begin = |trials: &mut Trials| {
            trials.begin(&authenticator, &claim, b"REGISTER", URI, secret).unwrap()
        };
        let trial = begin(&mut trials);
        trials.compute();
        assert!(matches!(trials.verdict(&trial), Verdict::Granted(_)));
        trials.clear();
        let trial = begin(&mut trials);
        assert_eq!(trials.verdict(&trial), Verdict::Challenge(Refusal::WrongPassword));
    }

    #[test]
    fn ha2_is_that_of_the_request() {
        let mut ha2 = Ha2::default();
        for (method, uri) in
            [("REGISTER", "sip:a"), ("REGISTER", "sip:b"), ("INVITE", "sip:b"), ("INVITE", "sip:b")]
        {
            let hex = ha2.of(method.as_bytes(), uri.as_bytes());
            assert_eq!(hex, md5(&format!("{method}:{uri}")).as_bytes());
        }
        assert_ne!(ha2.of(b"A", b"B:C").to_vec(), ha2.of(b"A:B", b"D").to_vec());
    }
}
