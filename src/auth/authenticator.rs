//! From credentials to a verdict.

use super::authorization::{Authorization, AuthorizationError, Credentials, MAX_USERNAME};
use super::authorization::{Parameter, Quoted};
use super::challenge::{Challenge, QuotedRealm};
use super::digest::{Ha1Set, Input, Response, Secret};
use super::nonce::{self, CLOCK_TOLERANCE, Nonce, NonceKeys};
use super::nonce_count::{NonceUse, RequestHash};
use super::policy::{Algorithm, Policy};
use super::verdict::{Grant, Refusal, Verdict};
use crate::time::Now;

/// Authorization headers that are looked at in one request. A phone behind a proxy that challenges
/// too sends two.
pub const MAX_CREDENTIALS: usize = 8;

/// One protection space: what it challenges with and whom it believes.
#[derive(Clone, Debug)]
pub struct Authenticator {
    policy: Policy,
    keys: NonceKeys,
    realm: QuotedRealm,
    decoy: Ha1Set,
}

/// Why a policy can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It would end the header line.
    #[error("the realm has a control character")]
    Realm,
    /// Nobody could answer.
    #[error("there is no algorithm to challenge with")]
    NoAlgorithm,
}

impl Authenticator {
    /// Prepares a policy.
    ///
    /// # Errors
    /// When no challenge can be made from it.
    pub fn new(policy: Policy, keys: NonceKeys) -> Result<Self, PolicyError> {
        if policy.algorithms.is_empty() {
            return Err(PolicyError::NoAlgorithm);
        }
        let realm = QuotedRealm::new(&policy.realm).ok_or(PolicyError::Realm)?;
        Ok(Self { decoy: keys.decoy(), policy, keys, realm })
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Judges a request by the values of all its Authorization headers.
    ///
    /// Of several, the one that answers a challenge of ours counts, and of several such the one
    /// with the newest nonce: some phones send what they cached along with what they were asked
    /// for. `lookup` is called with the username without escapes, once or not at all.
    pub fn verify_any<'a>(
        &self,
        now: Now,
        method: &[u8],
        request_uri: &[u8],
        values: impl IntoIterator<Item = &'a [u8]>,
        lookup: impl FnOnce(&[u8]) -> Option<Secret>,
    ) -> Verdict<'a> {
        match self.screen_any(now, values) {
            Ok(claim) => self.look_up_and_judge(&claim, method, request_uri, lookup),
            Err(refusal) => Verdict::Challenge(refusal),
        }
    }

    /// [`Authenticator::screen`] for the values of all Authorization headers of a request: the one
    /// that [`Authenticator::verify_any`] judges by.
    ///
    /// # Errors
    /// Why none of the credentials count.
    pub fn screen_any<'a>(
        &self,
        now: Now,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Claim<'a>, Refusal> {
        let read = |value| {
            let authorization = Authorization::parse(value).map_err(Refusal::Malformed)?;
            self.screen(now, &authorization)
        };
        let mut values = values.into_iter().take(MAX_CREDENTIALS);
        let Some(first) = values.next() else { return Err(Refusal::NoCredentials) };
        let mut best = read(first);
        for value in values {
            let screened = read(value);
            let better = match (&best, &screened) {
                (Ok(best), Ok(claim)) => claim.nonce.issued > best.nonce.issued,
                (Ok(_), Err(_)) => false,
                (Err(_), Ok(_)) => true,
                (Err(best), Err(_)) => best.is_not_ours(),
            };
            if better {
                best = screened;
            }
        }
        best
    }

    /// Judges a request by one Authorization header.
    pub fn verify<'a>(
        &self,
        now: Now,
        method: &[u8],
        request_uri: &[u8],
        authorization: &Authorization<'a>,
        lookup: impl FnOnce(&[u8]) -> Option<Secret>,
    ) -> Verdict<'a> {
        match self.screen(now, authorization) {
            Ok(claim) => self.look_up_and_judge(&claim, method, request_uri, lookup),
            Err(refusal) => Verdict::Challenge(refusal),
        }
    }

    /// Refuses whatever does not answer a challenge of ours, before any account is looked up: a
    /// stranger who never took a challenge costs no query.
    ///
    /// # Errors
    /// Why the credentials don't count.
    pub fn screen<'a>(
        &self,
        now: Now,
        authorization: &Authorization<'a>,
    ) -> Result<Claim<'a>, Refusal> {
        let Authorization::Digest(credentials) = authorization else {
            return Err(Refusal::OtherScheme);
        };
        if credentials.nonce.is_empty() {
            return Err(Refusal::NoCredentials);
        }
        if !credentials.realm.means(self.policy.realm.as_bytes()) {
            return Err(Refusal::WrongRealm);
        }
        let nonce = self.keys.open(credentials.nonce).ok_or(Refusal::ForgedNonce)?;
        let algorithm = match credentials.algorithm {
            None => Some(Algorithm::Md5),
            Some(token) => Algorithm::from_token(token),
        };
        let algorithm = algorithm
            .filter(|algorithm| self.policy.algorithms.contains(algorithm))
            .ok_or(Refusal::UnsupportedAlgorithm)?;
        let invalid = |parameter| Refusal::Malformed(AuthorizationError::Invalid(parameter));
        let auth = Auth::of(credentials)?;
        let response = Response::parse(algorithm, credentials.response)
            .ok_or_else(|| invalid(Parameter::Response))?;
        Ok(Claim {
            username: credentials.username,
            userhash: credentials.userhash,
            uri: credentials.uri,
            nonce_text: credentials.nonce,
            algorithm,
            response,
            nonce,
            is_current: nonce.is_current(now, self.policy.nonce_lifetime),
            auth,
        })
    }

    /// Compares the digest with the account's, or with the decoy's if there is none to compare
    /// with. Between the two there is no difference in work or answer.
    ///
    /// The `uri` parameter goes into the digest as sent and need not equal the Request-URI, though
    /// RFC 7616 §3.4.6 would have it so. Phones and proxies on the way add and drop ports and
    /// parameters (the second try below is for phones that hash without the parameters they send),
    /// and other registrars don't check either. What would a check win for REGISTER? Who captured
    /// a response can't use it again anyhow, and who changes requests on the way can leave the
    /// Request-URI alone and change To or Contact, which no digest covers. Whoever authenticates
    /// INVITE should look at [`Grant::uri_differs`], because there the Request-URI is the callee.
    pub fn judge<'a>(
        &self,
        claim: &Claim<'a>,
        method: &[u8],
        request_uri: &[u8],
        secret: Option<Secret>,
    ) -> Verdict<'a> {
        let Some((ha1s, refusal)) = self.opponent(claim, secret) else {
            return claim.grant(request_uri);
        };
        let ha1 = ha1s.ha1(claim.algorithm).unwrap_or_default();
        // The compiler may not skip the work on finding that a refusal is certain.
        let is_right = std::hint::black_box(claim.is_right(ha1, method));
        claim.verdict(is_right, refusal, request_uri)
    }

    /// What a claim is compared with, and why that is in vain: the account's hashes, or the
    /// decoy's. `None` where any response is right.
    pub(super) fn opponent(
        &self,
        claim: &Claim<'_>,
        secret: Option<Secret>,
    ) -> Option<(Ha1Set, Option<Refusal>)> {
        Some(match secret {
            Some(Secret::AnyPassword) => return None,
            Some(Secret::Ha1(ha1s)) if ha1s.ha1(claim.algorithm).is_some() => (ha1s, None),
            Some(Secret::Ha1(_)) => (self.decoy, Some(Refusal::NoHa1)),
            Some(Secret::NoPassword) => (self.decoy, Some(Refusal::NoPassword)),
            None => (self.decoy, Some(Refusal::UnknownUser)),
        })
    }

    /// The secret of the account that a claim names, by `lookup`, which is called with the username
    /// without escapes.
    pub fn look_up(
        claim: &Claim<'_>,
        lookup: impl FnOnce(&[u8]) -> Option<Secret>,
    ) -> Option<Secret> {
        let username = claim.username();
        if claim.userhash {
            // A hashed name is no name of ours.
            None
        } else if username.has_escapes {
            // The parser lets no name through that doesn't fit.
            username.unescape_into(&mut [0; MAX_USERNAME]).and_then(lookup)
        } else {
            lookup(username.raw)
        }
    }

    /// A challenge for a request that is not granted.
    ///
    /// `request` tells the nonces of one second apart, so that each phone counts on its own.
    pub fn challenge(&self, now: Now, request: RequestHash) -> Challenge<'_> {
        self.challenge_at(nonce::unix_second(now), request, false)
    }

    /// A challenge for a request of which only the nonce is not good enough: [`Verdict::Stale`],
    /// or a use that the nonce counts found stale or replayed.
    ///
    /// `not_before` is [`NonceCounts::not_before`](super::NonceCounts::not_before), or zero after
    /// [`Verdict::Stale`].
    pub fn stale_challenge(
        &self,
        now: Now,
        request: RequestHash,
        not_before: u32,
    ) -> Challenge<'_> {
        let now = nonce::unix_second(now);
        let issued = not_before.clamp(now, now.saturating_add(CLOCK_TOLERANCE));
        self.challenge_at(issued, request, true)
    }

    fn challenge_at(&self, issued: u32, request: RequestHash, stale: bool) -> Challenge<'_> {
        Challenge {
            realm: &self.realm,
            algorithms: &self.policy.algorithms,
            qop_auth: self.policy.qop_auth,
            nonce: self.keys.issue(issued, request.0),
            stale,
        }
    }

    fn look_up_and_judge<'a>(
        &self,
        claim: &Claim<'a>,
        method: &[u8],
        request_uri: &[u8],
        lookup: impl FnOnce(&[u8]) -> Option<Secret>,
    ) -> Verdict<'a> {
        let secret = Self::look_up(claim, lookup);
        self.judge(claim, method, request_uri, secret)
    }
}

/// Credentials that answer a challenge of ours; whether rightly is not known yet.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    username: Quoted<'a>,
    userhash: bool,
    uri: &'a [u8],
    nonce_text: &'a [u8],
    pub(super) algorithm: Algorithm,
    pub(super) response: Response,
    nonce: Nonce,
    is_current: bool,
    auth: Option<Auth<'a>>,
}

impl<'a> Claim<'a> {
    /// Who the client says it is.
    pub fn username(&self) -> Quoted<'a> {
        self.username
    }

    /// `nonce` as sent, and `response` in lower case.
    pub fn nonce_and_response(&self) -> (&'a [u8], String) {
        (self.nonce_text, self.response.to_text())
    }

    /// The `uri` that was hashed.
    pub(super) fn uri(&self) -> &'a [u8] {
        self.uri
    }

    /// Which of the account's hashes it takes to judge this.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn is_right(&self, ha1: &[u8], method: &[u8]) -> bool {
        self.response.is_right(ha1, &self.input(method)) || self.is_right_at_second(ha1, method)
    }

    /// Whether the response is right for the `uri` without its parameters.
    fn is_right_at_second(&self, ha1: &[u8], method: &[u8]) -> bool {
        let uri = self.uri;
        match memchr::memchr(b';', uri).and_then(|semicolon| uri.get(..semicolon)) {
            Some(uri) => self.response.is_right(ha1, &Input { uri, ..self.input(method) }),
            None => false,
        }
    }

    /// What the response is to be computed from, besides H(A1).
    pub(super) fn input<'m>(&self, method: &'m [u8]) -> Input<'m>
    where
        'a: 'm,
    {
        Input {
            method,
            uri: self.uri,
            nonce: self.nonce_text,
            auth: self.auth.map(|auth| (auth.nc_text, auth.cnonce)),
        }
    }

    pub(super) fn verdict(
        &self,
        is_right: bool,
        refusal: Option<Refusal>,
        request_uri: &[u8],
    ) -> Verdict<'a> {
        match refusal {
            Some(refusal) => Verdict::Challenge(refusal),
            None if is_right => self.grant(request_uri),
            None => Verdict::Challenge(Refusal::WrongPassword),
        }
    }

    pub(super) fn grant(&self, request_uri: &[u8]) -> Verdict<'a> {
        if !self.is_current {
            return Verdict::Stale;
        }
        Verdict::Granted(Grant {
            username: self.username(),
            used: NonceUse { nonce: self.nonce, nc: self.auth.map(|auth| auth.nc) },
            uri_differs: !is_same_host(self.uri, request_uri),
        })
    }
}

/// What `qop=auth` brings into the digest.
#[derive(Clone, Copy, Debug)]
struct Auth<'a> {
    nc_text: &'a [u8],
    nc: u32,
    cnonce: &'a [u8],
}

impl<'a> Auth<'a> {
    /// `None` if the client left `qop` out. It may send `nc` and `cnonce` nevertheless, and then
    /// doesn't hash them.
    fn of(credentials: &Credentials<'a>) -> Result<Option<Self>, Refusal> {
        match credentials.qop {
            None | Some(b"") => return Ok(None),
            Some(qop) if qop.eq_ignore_ascii_case(b"auth") => {}
            Some(_) => return Err(Refusal::UnsupportedQop),
        }
        let missing = |parameter| Refusal::Malformed(AuthorizationError::Missing(parameter));
        let nc_text = credentials.nc.ok_or_else(|| missing(Parameter::Nc))?;
        let cnonce = credentials.cnonce.ok_or_else(|| missing(Parameter::Cnonce))?;
        let nc = parse_nc(nc_text)
            .ok_or(Refusal::Malformed(AuthorizationError::Invalid(Parameter::Nc)))?;
        Ok(Some(Self { nc_text, nc, cnonce }))
    }
}

/// Up to eight hexadecimal digits; some phones send fewer.
fn parse_nc(text: &[u8]) -> Option<u32> {
    if !matches!(text.len(), 1..=8) {
        return None;
    }
    let mut number = 0;
    for &digit in text {
        number = number << 4 | char::from(digit).to_digit(16)?;
    }
    Some(number)
}

/// Whether two URIs name one host; scheme, user, port, parameters and headers aside.
fn is_same_host(a: &[u8], b: &[u8]) -> bool {
    a == b || host(a).eq_ignore_ascii_case(host(b))
}

/// The host of a `sip:` or `sips:` URI; of anything else, some part that stands for it.
fn host(uri: &[u8]) -> &[u8] {
    let after =
        |octet, from| memchr::memchr(octet, from).and_then(|at| from.get(at + 1..)).unwrap_or(from);
    // A user part may hold `;` and `?`, so it goes first.
    let rest = after(b'@', after(b':', uri));
    let end = match rest {
        [b'[', ..] => memchr::memchr(b']', rest).map(|at| at + 1),
        _ => rest.iter().position(|octet| b":;?>".contains(octet)),
    };
    end.and_then(|end| rest.get(..end)).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::digest::COMPUTED;
    use crate::auth::nonce_count::{NonceCounts, Use};
    use crate::time::DeltaSeconds;

    const NOW: Now = Now { millis: 77, unix: 1_700_000_000 };
    const REALM: &str = "example.com";
    const URI: &str = "sip:example.com";

    fn later(seconds: u64) -> Now {
        Now { millis: NOW.millis + 1000 * seconds, unix: NOW.unix + seconds }
    }

    fn authenticator(algorithms: &[Algorithm]) -> Authenticator {
        let policy = Policy {
            realm: REALM.into(),
            algorithms: algorithms.into(),
            nonce_lifetime: DeltaSeconds(300),
            qop_auth: true,
        };
        Authenticator::new(policy, NonceKeys::from_bytes(&[42; 32])).unwrap()
    }

    fn ours() -> Authenticator {
        authenticator(&[Algorithm::Sha256, Algorithm::Md5])
    }

    /// A phone: what it puts into the header, and what it hashes.
    #[derive(Clone)]
    struct Phone {
        username: &'static str,
        password: &'static str,
        realm: &'static str,
        nonce: String,
        uri: &'static str,
        hashed_uri: &'static str,
        qop: Option<&'static str>,
        nc: &'static str,
        algorithm: Option<Algorithm>,
        extra: &'static str,
    }

    impl Phone {
        fn new(nonce: &[u8]) -> Self {
            Self {
                username: "alice",
                password: "secret",
                realm: REALM,
                nonce: String::from_utf8(nonce.to_vec()).unwrap(),
                uri: URI,
                hashed_uri: URI,
                qop: Some("auth"),
                nc: "00000001",
                algorithm: Some(Algorithm::Sha256),
                extra: "",
            }
        }

        fn challenged_by(authenticator: &Authenticator) -> Self {
            Self::new(authenticator.challenge(NOW, RequestHash(1)).nonce())
        }

        /// The header value, hashed by other code than what checks it.
        fn header(&self) -> String {
            let Self { username, password, realm, nonce, uri, qop, nc, .. } = self;
            let name = username.replace("\\\"", "\"").replace("\\\\", "\\");
            let ha1 = self.hash(&format!("{name}:{realm}:{password}"));
            let ha2 = self.hash(&format!("REGISTER:{}", self.hashed_uri));
            let response = match qop {
                Some(qop) => self.hash(&format!("{ha1}:{nonce}:{nc}:0a4f113b:{qop}:{ha2}")),
                None => self.hash(&format!("{ha1}:{nonce}:{ha2}")),
            };
            let mut header = format!(
                "Digest username=\"{username}\",realm=\"{realm}\",nonce=\"{nonce}\",\
                 uri=\"{uri}\",response=\"{response}\"{}",
                self.extra
            );
            if let Some(qop) = qop {
                header += &format!(",qop={qop},nc={nc},cnonce=\"0a4f113b\"");
            }
            if let Some(algorithm) = self.algorithm {
                header += &format!(",algorithm={}", algorithm.token());
            }
            header
        }

        fn hash(&self, text: &str) -> String {
            use md5::Digest;
            let octets = match self.algorithm.unwrap_or(Algorithm::Md5) {
                Algorithm::Md5 => md5::Md5::digest(text).to_vec(),
                Algorithm::Sha256 => sha2::Sha256::digest(text).to_vec(),
                Algorithm::Sha512_256 => sha2::Sha512_256::digest(text).to_vec(),
            };
            octets.iter().map(|octet| format!("{octet:02x}")).collect()
        }
    }

    /// What `verify_any` says of one header, and whether an account was looked up.
    fn ask<'a>(
        authenticator: &Authenticator,
        now: Now,
        header: &'a str,
        secret: Option<Secret>,
    ) -> (Verdict<'a>, bool) {
        let mut asked = false;
        let verdict = authenticator.verify_any(
            now,
            b"REGISTER",
            URI.as_bytes(),
            [header.as_bytes()],
            |username| {
                asked = true;
                assert!(username == b"alice" || username == br#"a"\b"#, "{username:?}");
                secret
            },
        );
        (verdict, asked)
    }

    fn alice() -> Option<Secret> {
        account(b"alice", &Algorithm::ALL)
    }

    fn account(username: &[u8], algorithms: &[Algorithm]) -> Option<Secret> {
        let ha1s = Ha1Set::of_password(algorithms, username, REALM.as_bytes(), b"secret");
        Some(Secret::Ha1(ha1s))
    }

    fn granted(verdict: Verdict<'_>) -> Grant<'_> {
        match verdict {
            Verdict::Granted(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_offered_algorithm_is_granted() {
        let authenticator = authenticator(&Algorithm::ALL);
        for algorithm in [None, Some(Algorithm::Md5), Some(Algorithm::Sha256)]
            .into_iter()
            .chain([Some(Algorithm::Sha512_256)])
        {
            for qop in [Some("auth"), None] {
                let phone = Phone { algorithm, qop, ..Phone::challenged_by(&authenticator) };
                let header = phone.header();
                let grant = granted(ask(&authenticator, later(300), &header, alice()).0);
                assert!(grant.username.means(b"alice") && !grant.uri_differs);
                assert_eq!(grant.used.nc, qop.map(|_| 1));
                assert_eq!(u64::from(grant.used.nonce.issued), NOW.unix);
            }
        }
    }

    #[test]
    fn refusals_before_the_lookup() {
        use AuthorizationError::{Invalid, Missing};
        let authenticator = ours();
        let phone = Phone::challenged_by(&authenticator);
        let other_key = NonceKeys::from_bytes(&[43; 32]).issue(1_700_000_000, 1);
        let cases = [
            (Phone { nonce: String::new(), ..phone.clone() }, Refusal::NoCredentials),
            (Phone { realm: "example.org", ..phone.clone() }, Refusal::WrongRealm),
            (Phone::new(&other_key), Refusal::ForgedNonce),
            (Phone { nonce: "0123456789abcdef".into(), ..phone.clone() }, Refusal::ForgedNonce),
            (
                Phone { algorithm: Some(Algorithm::Sha512_256), ..phone.clone() },
                Refusal::UnsupportedAlgorithm,
            ),
            (
                Phone { algorithm: None, extra: ",algorithm=MD5-sess", ..phone.clone() },
                Refusal::UnsupportedAlgorithm,
            ),
            (Phone { qop: Some("auth-int"), ..phone.clone() }, Refusal::UnsupportedQop),
            (Phone { nc: "+0000001", ..phone.clone() }, Refusal::Malformed(Invalid(Parameter::Nc))),
            (
                Phone { nc: "000000001", ..phone.clone() },
                Refusal::Malformed(Invalid(Parameter::Nc)),
            ),
            (
                Phone { qop: None, extra: ",qop=auth", ..phone.clone() },
                Refusal::Malformed(Missing(Parameter::Nc)),
            ),
            (
                Phone { qop: None, extra: ",qop=auth,nc=00000001", ..phone.clone() },
                Refusal::Malformed(Missing(Parameter::Cnonce)),
            ),
        ];
        for (phone, refusal) in cases {
            let header = phone.header();
            let verdict = ask(&authenticator, NOW, &header, alice());
            assert_eq!(verdict, (Verdict::Challenge(refusal), false), "{header}");
        }
        let short = phone.header().replace("response=\"", "response=\"0");
        let refusal = Refusal::Malformed(Invalid(Parameter::Response));
        assert_eq!(ask(&authenticator, NOW, &short, alice()), (Verdict::Challenge(refusal), false));
        let scheme = ask(&authenticator, NOW, "Bearer x", alice());
        assert_eq!(scheme, (Verdict::Challenge(Refusal::OtherScheme), false));
    }

    #[test]
    fn every_refusal_after_the_lookup_costs_the_same_digests() {
        let authenticator = ours();
        let phone = Phone::challenged_by(&authenticator);
        let wrong = Phone { password: "guess", ..phone.clone() };
        let cases = [
            (&wrong, alice(), Refusal::WrongPassword),
            (&phone, None, Refusal::UnknownUser),
            (&phone, Some(Secret::NoPassword), Refusal::NoPassword),
            (&phone, account(b"alice", &[Algorithm::Md5]), Refusal::NoHa1),
        ];
        for now in [NOW, later(301)] {
            for (phone, secret, refusal) in cases {
                let header = phone.header();
                let before = COMPUTED.get();
                let verdict = ask(&authenticator, now, &header, secret);
                assert_eq!(verdict, (Verdict::Challenge(refusal), true));
                assert_eq!(COMPUTED.get() - before, 1, "{refusal:?}");
            }
        }
    }

    #[test]
    fn a_hashed_username_is_an_unknown_one() {
        let authenticator = ours();
        let phone = Phone { extra: ",userhash=true", ..Phone::challenged_by(&authenticator) };
        let before = COMPUTED.get();
        let header = phone.header();
        let verdict = ask(&authenticator, NOW, &header, alice());
        assert_eq!(verdict, (Verdict::Challenge(Refusal::UnknownUser), false));
        assert_eq!(COMPUTED.get() - before, 1);
    }

    #[test]
    fn the_decoy_opens_no_door() {
        // Somebody who knew the decoy's hash would still be refused.
        let authenticator = ours();
        let header = Phone::challenged_by(&authenticator).header();
        let Some(Secret::Ha1(ha1s)) = alice() else { panic!("alice has hashes") };
        let leaky = Authenticator { decoy: ha1s, ..authenticator };
        let verdict = ask(&leaky, NOW, &header, None).0;
        assert_eq!(verdict, Verdict::Challenge(Refusal::UnknownUser));
    }

    #[test]
    fn stale_needs_the_right_password() {
        let authenticator = ours();
        let phone = Phone::challenged_by(&authenticator);
        let wrong = Phone { password: "guess", ..phone.clone() }.header();
        assert_eq!(ask(&authenticator, later(301), &phone.header(), alice()).0, Verdict::Stale);
        assert_eq!(
            ask(&authenticator, later(301), &wrong, alice()).0,
            Verdict::Challenge(Refusal::WrongPassword)
        );
        // The clock stepped back by a little, then by more than two clocks may differ.
        let back = |seconds| Now { unix: NOW.unix - seconds, ..NOW };
        let header = phone.header();
        granted(ask(&authenticator, back(30), &header, alice()).0);
        assert_eq!(ask(&authenticator, back(31), &header, alice()).0, Verdict::Stale);
    }

    #[test]
    fn an_empty_password_takes_any_response_to_a_good_nonce() {
        let authenticator = ours();
        let header = Phone { password: "x", ..Phone::challenged_by(&authenticator) }.header();
        let any = Some(Secret::AnyPassword);
        granted(ask(&authenticator, NOW, &header, any).0);
        assert_eq!(ask(&authenticator, later(301), &header, any).0, Verdict::Stale);
        let forged = Phone::new(&[b'A'; 22]).header();
        let verdict = ask(&authenticator, NOW, &forged, any).0;
        assert_eq!(verdict, Verdict::Challenge(Refusal::ForgedNonce));
    }

    #[test]
    fn escapes_in_a_username_are_not_part_of_it() {
        let authenticator = ours();
        let phone = Phone { username: r#"a\"\\b"#, ..Phone::challenged_by(&authenticator) };
        let header = phone.header();
        let secret = account(br#"a"\b"#, &Algorithm::ALL);
        let grant = granted(ask(&authenticator, NOW, &header, secret).0);
        assert!(grant.username.means(br#"a"\b"#));
    }

    #[test]
    fn clients_without_qop_may_send_nc_and_cnonce() {
        let authenticator = ours();
        let phone = Phone {
            qop: None,
            extra: ",nc=00000001,cnonce=\"x\"",
            ..Phone::challenged_by(&authenticator)
        };
        let header = phone.header();
        assert_eq!(granted(ask(&authenticator, NOW, &header, alice()).0).used.nc, None);
    }

    #[test]
    fn the_uri_counts_as_sent() {
        let authenticator = ours();
        let phone = Phone::challenged_by(&authenticator);
        let cases = [
            ("sip:example.com", "sip:example.com", false),
            ("SIP:alice@EXAMPLE.com:5060;transport=udp", "", false),
            ("sip:example.com;transport=udp", "sip:example.com", false),
            ("sip:10.0.0.1", "", true),
        ];
        for (uri, hashed, differs) in cases {
            let hashed_uri = if hashed.is_empty() { uri } else { hashed };
            let header = Phone { uri, hashed_uri, ..phone.clone() }.header();
            let grant = granted(ask(&authenticator, NOW, &header, alice()).0);
            assert_eq!(grant.uri_differs, differs, "{uri}");
        }
        let header = Phone { hashed_uri: "sip:example", ..phone }.header();
        let verdict = ask(&authenticator, NOW, &header, alice()).0;
        assert_eq!(verdict, Verdict::Challenge(Refusal::WrongPassword));
    }

    #[test]
    fn hosts_are_found_in_uris() {
        for (uri, expected) in [
            ("sip:example.com", "example.com"),
            ("sips:a;b?c:d@example.com:5061;x=y", "example.com"),
            ("sip:[2001:db8::1]:5060", "[2001:db8::1]"),
            ("sip:u@[::1];x", "[::1]"),
            ("sip:example.com?h=v", "example.com"),
            ("example.com", "example.com"),
            ("sip:", ""),
            ("", ""),
        ] {
            assert_eq!(host(uri.as_bytes()), expected.as_bytes(), "{uri}");
        }
    }

    #[test]
    fn of_several_headers_the_newest_answer_to_us_counts() {
        let authenticator = ours();
        let at = |now| Phone::new(authenticator.challenge(now, RequestHash(1)).nonce());
        let elsewhere = Phone { realm: "proxy.example.com", ..at(NOW) }.header();
        let (old, new) = (at(NOW).header(), at(later(400)).header());
        let forged = Phone::new(&[b'A'; 22]).header();
        let any = |headers: &[&String]| {
            let values: Vec<Vec<u8>> = headers.iter().map(|h| h.as_bytes().to_vec()).collect();
            let values = values.iter().map(Vec::as_slice);
            match authenticator
                .verify_any(later(400), b"REGISTER", URI.as_bytes(), values, |_| alice())
            {
                Verdict::Granted(grant) => Ok(grant.used.nonce.issued),
                Verdict::Stale => Err(None),
                Verdict::Challenge(refusal) => Err(Some(refusal)),
            }
        };
        assert_eq!(any(&[&elsewhere, &old, &new, &forged]), Ok(1_700_000_400));
        assert_eq!(any(&[&new, &old]), Ok(1_700_000_400));
        assert_eq!(any(&[&old, &elsewhere]), Err(None));
        assert_eq!(any(&[&elsewhere, &forged]), Err(Some(Refusal::ForgedNonce)));
        assert_eq!(any(&[&forged, &elsewhere]), Err(Some(Refusal::ForgedNonce)));
        assert_eq!(any(&[&elsewhere]), Err(Some(Refusal::WrongRealm)));
        assert_eq!(any(&[]), Err(Some(Refusal::NoCredentials)));
        let mut many = vec![&elsewhere; MAX_CREDENTIALS];
        many.push(&new);
        assert_eq!(any(&many), Err(Some(Refusal::WrongRealm)));
    }

    #[test]
    fn a_phone_refreshes_with_one_nonce_and_nobody_repeats_it() {
        let authenticator = ours();
        let mut counts = NonceCounts::new();
        let phone = Phone::challenged_by(&authenticator);
        let mut send = |nc, request, seconds| {
            let header = Phone { nc, ..phone.clone() }.header();
            let used = granted(ask(&authenticator, later(seconds), &header, alice()).0).used;
            let found = counts.check(used, RequestHash(request));
            if found == Use::Fresh {
                counts.record(used, RequestHash(request));
            }
            found
        };
        assert_eq!(send("00000001", 1, 0), Use::Fresh);
        assert_eq!(send("00000001", 1, 1), Use::Retransmission);
        assert_eq!(send("0000000a", 2, 60), Use::Fresh);
        assert_eq!(send("00000001", 1, 61), Use::Replay);
        assert_eq!(send("0000000A", 3, 61), Use::Replay);
        assert_eq!(send("0000000B", 4, 120), Use::Fresh);
    }

    #[test]
    fn a_stale_challenge_is_good_where_it_is_sent() {
        let authenticator = ours();
        for (not_before, issued) in [(0, 0), (7, 0), (1_700_000_005, 5), (1_800_000_000, 30)] {
            let challenge = authenticator.stale_challenge(NOW, RequestHash(1), not_before);
            let header = Phone::new(challenge.nonce()).header();
            let grant = granted(ask(&authenticator, NOW, &header, alice()).0);
            assert_eq!(u64::from(grant.used.nonce.issued), NOW.unix + issued);
        }
    }

    #[test]
    fn a_policy_must_make_a_challenge() {
        let policy = ours().policy().clone();
        let keys = || NonceKeys::from_bytes(&[0; 32]);
        let no_algorithm = Policy { algorithms: [].into(), ..policy.clone() };
        assert_eq!(Authenticator::new(no_algorithm, keys()).err(), Some(PolicyError::NoAlgorithm));
        let bad_realm = Policy { realm: "a\nb".into(), ..policy };
        assert_eq!(Authenticator::new(bad_realm, keys()).err(), Some(PolicyError::Realm));
    }
}
