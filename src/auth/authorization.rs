//! The value of an Authorization header, read where it lies (RFC 3261 §20.7, RFC 7616 §3.4).

use crate::octets::{Class, words};

/// Octets of a Digest header value that are looked at.
///
/// A phone sends 200 to 350. The bound caps the hashing that a stranger can ask for: the longest
/// `uri` or `cnonce` costs 16 blocks of MD5, about 2 µs.
pub const MAX_VALUE: usize = 1024;

/// Octets of a `username` as sent; also the size of the buffer that escapes are removed into.
pub const MAX_USERNAME: usize = 255;

/// The credentials in one Authorization header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization<'a> {
    /// Scheme `Digest`.
    Digest(Credentials<'a>),
    /// Another scheme: answered with a challenge, never with an error (RFC 4475 §3.3.9).
    Other,
}

/// The parameters of the Digest scheme, as sent and without their quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// Whose password was used; at most [`MAX_USERNAME`] octets.
    pub username: Quoted<'a>,
    /// The protection space that the client answers for.
    pub realm: Quoted<'a>,
    /// The nonce of the challenge answered; empty from IMS phones that have not seen one.
    pub nonce: &'a [u8],
    /// The Request-URI as the client hashed it.
    pub uri: &'a [u8],
    /// The digest in hexadecimal.
    pub response: &'a [u8],
    /// Absent means MD5.
    pub algorithm: Option<&'a [u8]>,
    /// `auth`, `auth-int`, or absent in RFC 2069 clients.
    pub qop: Option<&'a [u8]>,
    /// The nonce count, as the eight hexadecimal digits that were hashed.
    pub nc: Option<&'a [u8]>,
    /// The client's own nonce.
    pub cnonce: Option<&'a [u8]>,
    /// Whether `username` is a hash of the name (RFC 7616 §3.4.4).
    pub userhash: bool,
}

impl<'a> Authorization<'a> {
    /// Reads a header value: the scheme, then parameters in any order.
    ///
    /// Names and the scheme match in any case. Each value may be a token or a quoted string,
    /// whichever the grammar wants, because phones differ; unknown parameters are skipped.
    ///
    /// # Errors
    /// When the value breaks the grammar, a known parameter is there twice or a needed one is
    /// missing, or a bound is exceeded.
    pub fn parse(value: &'a [u8]) -> Result<Self, AuthorizationError> {
        let mut cursor = Cursor { rest: value };
        cursor.skip_lws();
        let scheme = cursor.token()?;
        if !cursor.rest.first().is_none_or(|&octet| LWS.has(octet)) {
            return Err(AuthorizationError::Syntax);
        }
        if !scheme.eq_ignore_ascii_case(b"Digest") {
            return Ok(Self::Other);
        }
        if cursor.rest.len() > MAX_VALUE {
            return Err(AuthorizationError::TooLong);
        }
        Credentials::parse(cursor).map(Self::Digest)
    }
}

impl<'a> Credentials<'a> {
    fn parse(mut cursor: Cursor<'a>) -> Result<Self, AuthorizationError> {
        let mut slots: [Option<Quoted<'a>>; Parameter::COUNT] = [None; Parameter::COUNT];
        while let Some((name, value)) = cursor.parameter()? {
            let Some(parameter) = Parameter::from_name(name) else { continue };
            if slots[parameter as usize].replace(value).is_some() {
                return Err(AuthorizationError::Duplicate(parameter));
            }
        }
        let optional = |parameter: Parameter| slots[parameter as usize];
        let required =
            |parameter| optional(parameter).ok_or(AuthorizationError::Missing(parameter));

        let username = required(Parameter::Username)?;
        if username.raw.len() > MAX_USERNAME {
            return Err(AuthorizationError::TooLong);
        }
        Ok(Self {
            username,
            realm: required(Parameter::Realm)?,
            nonce: required(Parameter::Nonce)?.raw,
            uri: required(Parameter::Uri)?.raw,
            response: required(Parameter::Response)?.raw,
            algorithm: optional(Parameter::Algorithm).map(|v| v.raw),
            qop: optional(Parameter::Qop).map(|v| v.raw),
            nc: optional(Parameter::Nc).map(|v| v.raw),
            cnonce: optional(Parameter::Cnonce).map(|v| v.raw),
            userhash: optional(Parameter::Userhash)
                .is_some_and(|v| v.raw.eq_ignore_ascii_case(b"true")),
        })
    }
}

/// Why a header value can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizationError {
    /// Not a scheme followed by a list of `name=value`.
    #[error("Authorization is not a list of parameters")]
    Syntax,
    /// More octets than [`MAX_VALUE`], or a name of more than [`MAX_USERNAME`].
    #[error("Authorization is too long")]
    TooLong,
    /// The same parameter twice: which of them counts would be a guess.
    #[error("Authorization has two parameters {0}")]
    Duplicate(Parameter),
    /// A parameter that the digest can't be computed without.
    #[error("Authorization lacks {0}")]
    Missing(Parameter),
    /// A value that is not of its parameter's form.
    #[error("Authorization has an invalid {0}")]
    Invalid(Parameter),
}

/// The parameters of the Digest scheme that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `username`
    Username,
    /// `realm`
    Realm,
    /// `nonce`
    Nonce,
    /// `uri`
    Uri,
    /// `response`
    Response,
    /// `algorithm`
    Algorithm,
    /// `qop`
    Qop,
    /// `nc`
    Nc,
    /// `cnonce`
    Cnonce,
    /// `userhash`
    Userhash,
}

impl Parameter {
    const COUNT: usize = Self::ALL.len();

    /// Each at its own place.
    const ALL: [Self; 10] = [
        Self::Username,
        Self::Realm,
        Self::Nonce,
        Self::Uri,
        Self::Response,
        Self::Algorithm,
        Self::Qop,
        Self::Nc,
        Self::Cnonce,
        Self::Userhash,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Username => "username",
            Self::Realm => "realm",
            Self::Nonce => "nonce",
            Self::Uri => "uri",
            Self::Response => "response",
            Self::Algorithm => "algorithm",
            Self::Qop => "qop",
            Self::Nc => "nc",
            Self::Cnonce => "cnonce",
            Self::Userhash => "userhash",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        // By length first: most names then take one comparison, and unknown ones none.
        let candidates: &[Self] = match name.len() {
            2 => &[Self::Nc],
            3 => &[Self::Uri, Self::Qop],
            5 => &[Self::Realm, Self::Nonce],
            6 => &[Self::Cnonce],
            8 => &[Self::Username, Self::Response, Self::Userhash],
            9 => &[Self::Algorithm],
            _ => &[],
        };
        let words = words(name);
        candidates.iter().copied().find(|&p| WORDS[p as usize] == words)
    }
}

/// The names as they are compared.
const WORDS: [(u64, u64); Parameter::COUNT] = {
    let mut all = [(0, 0); Parameter::COUNT];
    let mut at = 0;
    while at < all.len() {
        all[at] = words(Parameter::ALL[at].name().as_bytes());
        at += 1;
    }
    all
};

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What stood between the quotes, with its escapes still in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    /// The octets as sent.
    pub raw: &'a [u8],
    /// Whether `raw` has a backslash, so that it differs from what is meant.
    pub has_escapes: bool,
}

impl<'a> Quoted<'a> {
    /// The octets that are meant, one by one.
    pub fn octets(self) -> impl Iterator<Item = u8> + 'a {
        let mut raw = self.raw.iter().copied();
        std::iter::from_fn(move || match raw.next() {
            Some(b'\\') if self.has_escapes => raw.next(),
            octet => octet,
        })
    }

    /// Whether `octets` are meant.
    pub fn means(self, octets: &[u8]) -> bool {
        if self.has_escapes { self.octets().eq(octets.iter().copied()) } else { self.raw == octets }
    }

    /// The octets that are meant, copied to `buffer` only if there are escapes; `None` if they
    /// don't fit.
    pub fn unescape_into<'b>(self, buffer: &'b mut [u8]) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        if !self.has_escapes {
            return Some(self.raw);
        }
        let mut len = 0;
        for octet in self.octets() {
            *buffer.get_mut(len)? = octet;
            len += 1;
        }
        buffer.get(..len)
    }
}

/// What is left of a header value.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// The next `name=value` and the commas around it. Empty list elements are skipped, as
    /// RFC 7230 §7 asks of recipients.
    fn parameter(&mut self) -> Result<Option<(&'a [u8], Quoted<'a>)>, AuthorizationError> {
        // Mostly a comma and a blank.
        if let [b',', b' ', rest @ ..] | [b',', rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.first().is_some_and(|&octet| BETWEEN.has(octet)) {
            self.take_while(&BETWEEN);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let name = self.token()?;
        self.skip_lws();
        let [b'=', after_equal @ ..] = self.rest else { return Err(AuthorizationError::Syntax) };
        self.rest = after_equal;
        self.skip_lws();
        let value = match self.rest {
            [b'"', opened @ ..] => {
                self.rest = opened;
                self.quoted()?
            }
            _ => Quoted { raw: self.take_while(&BARE), has_escapes: false },
        };
        self.skip_lws();
        match self.rest {
            [] | [b',', ..] => Ok(Some((name, value))),
            _ => Err(AuthorizationError::Syntax),
        }
    }

    fn token(&mut self) -> Result<&'a [u8], AuthorizationError> {
        let token = self.take_while(&TOKEN);
        if token.is_empty() { Err(AuthorizationError::Syntax) } else { Ok(token) }
    }

    /// The rest of a quoted string (RFC 3261 §25.1). Control characters are refused even where the
    /// grammar would let them be escaped: no name or URI has them, and logs would.
    fn quoted(&mut self) -> Result<Quoted<'a>, AuthorizationError> {
        let opened = self.rest;
        let mut has_escapes = false;
        loop {
            self.take_while(&QUOTED);
            match self.rest {
                [b'"', closed @ ..] => {
                    let len = opened.len() - self.rest.len();
                    self.rest = closed;
                    let raw = opened.get(..len).unwrap_or_default();
                    return Ok(Quoted { raw, has_escapes });
                }
                [b'\\', escaped, after @ ..] if ESCAPED.has(*escaped) => {
                    has_escapes = true;
                    self.rest = after;
                }
                _ => return Err(AuthorizationError::Syntax),
            }
        }
    }

    #[inline]
    fn skip_lws(&mut self) {
        // Mostly there is none.
        if self.rest.first().is_some_and(|&octet| LWS.has(octet)) {
            self.take_while(&LWS);
        }
    }

    /// Takes the octets that are of `class`.
    #[inline]
    fn take_while(&mut self, class: &Class) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(class.run(self.rest));
        self.rest = rest;
        taken
    }
}

/// Linear white space, with the line ends of a folded header (RFC 3261 §25.1 LWS).
const LWS: Class = Class::only(b" \t\r\n");
/// What stands between parameters.
const BETWEEN: Class = Class::only(b" \t\r\n,");
/// A character of `token` (RFC 3261 §25.1).
const TOKEN: Class = Class::alphanumeric_and(b"-.!%*_+`'~");
/// What stands for itself between quotes.
const QUOTED: Class = Class::all_but(b"\"\\").and_no_control().with(b'\t');
/// What may follow a backslash between quotes.
const ESCAPED: Class = QUOTED.with(b'"').with(b'\\');
/// A value without quotes: more than a token, since some phones leave the quotes of a URI out.
const BARE: Class = Class::all_but(b" ,\"").and_no_control();

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: &[u8] = b"Digest username=\"bob\", realm=\"biloxi.com\", nonce=\"n0\", \
        uri=\"sip:biloxi.com\", qop=auth, nc=00000001, cnonce=\"0a4f113b\", \
        response=\"6629fae49393a05397450978507c4ef1\", opaque=\"5ccc\", algorithm=MD5";

    fn digest(value: &[u8]) -> Credentials<'_> {
        match Authorization::parse(value) {
            Ok(Authorization::Digest(credentials)) => credentials,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_parameter_is_found() {
        let c = digest(FULL);
        assert!(c.username.means(b"bob") && c.realm.means(b"biloxi.com"));
        assert_eq!((c.nonce, c.uri), (&b"n0"[..], &b"sip:biloxi.com"[..]));
        assert_eq!(c.response, b"6629fae49393a05397450978507c4ef1");
        assert_eq!((c.qop, c.nc), (Some(&b"auth"[..]), Some(&b"00000001"[..])));
        assert_eq!((c.cnonce, c.algorithm), (Some(&b"0a4f113b"[..]), Some(&b"MD5"[..])));
        assert!(!c.userhash);
    }

    #[test]
    fn phones_differ() {
        let c = digest(
            b"dIGEST\r\n\tREALM = r ,, uri=sip:a@h:5060;x=1 ,username\t=\"b\" , NONCE=\"\",\
            response = \"00\",qop=\"auth\",nc=\"00000001\",algorithm=\"md5\",userhash=TRUE,x=\"a,b\",",
        );
        assert_eq!(c.uri, b"sip:a@h:5060;x=1");
        assert_eq!(c.nonce, b"");
        assert_eq!((c.qop, c.nc), (Some(&b"auth"[..]), Some(&b"00000001"[..])));
        assert!(c.userhash && c.realm.means(b"r"));
    }

    #[test]
    fn another_scheme_is_no_error() {
        // RFC 4475 §3.3.9
        let value = b"NoOneKnowsThisScheme opaque-data=here";
        assert_eq!(Authorization::parse(value), Ok(Authorization::Other));
        assert_eq!(Authorization::parse(b"Basic QWxhZGRpbg=="), Ok(Authorization::Other));
        assert_eq!(Authorization::parse(b"Bearer"), Ok(Authorization::Other));
    }

    #[test]
    fn refusals_name_their_reason() {
        use AuthorizationError::{Duplicate, Missing, Syntax, TooLong};
        let long_name =
            format!("Digest username=\"{}\",realm=r,nonce=n,uri=u,response=0", "x".repeat(256));
        let long_value = format!("Digest username=u,x=\"{}\"", "x".repeat(1024));
        let cases: &[(&[u8], AuthorizationError)] = &[
            (b"", Syntax),
            (b" ", Syntax),
            (b"Digest", Missing(Parameter::Username)),
            (b"Digest username", Syntax),
            (b"Digest=username", Syntax),
            (b"Digest username=\"a", Syntax),
            (b"Digest username=\"a\\\"", Syntax),
            (b"Digest username=\"a\" realm=\"b\"", Syntax),
            (b"Digest username=\"a\rb\"", Syntax),
            (b"Digest username=\"a\\\nb\"", Syntax),
            (b"Digest username=a\"b", Syntax),
            (b"Digest username=a\0b", Syntax),
            (b"Digest =a", Syntax),
            (b"Digest username=u,realm=r,nonce=n,uri=u", Missing(Parameter::Response)),
            (b"Digest username=u,Username=u", Duplicate(Parameter::Username)),
            (b"Digest username=u,nc=1,username*=UTF-8''u,nc=1", Duplicate(Parameter::Nc)),
            (long_name.as_bytes(), TooLong),
            (long_value.as_bytes(), TooLong),
        ];
        for (value, error) in cases {
            let found = Authorization::parse(value);
            assert_eq!(found, Err(*error), "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn escapes_are_removed_on_demand() {
        let c = digest(br#"Digest username="a\"\\\b",realm="r\\",nonce=n,uri=u,response=0"#);
        let mut buffer = [0; MAX_USERNAME];
        assert_eq!(c.username.unescape_into(&mut buffer), Some(&br#"a"\b"#[..]));
        assert_eq!(c.username.unescape_into(&mut [0; 3]), None);
        assert!(c.realm.means(br"r\") && !c.realm.means(br"r\\"));
    }

    /// Any quoted string, and a text with escapes that means it.
    fn quoted() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let octet = prop_oneof![3 => 0x20..=0x7e_u8, 1 => 0x80..=0xff_u8, 1 => Just(b'\t')];
        prop::collection::vec((octet, any::<bool>()), 0..60).prop_map(|pairs| {
            let meant = pairs.iter().map(|&(octet, _)| octet).collect();
            let sent = pairs.into_iter().fold(Vec::new(), |mut sent, (octet, escape)| {
                if escape || octet == b'"' || octet == b'\\' {
                    sent.push(b'\\');
                }
                sent.push(octet);
                sent
            });
            (meant, sent)
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(
            username in quoted(), realm in quoted(), nonce in quoted(), uri in quoted(),
            response in "[0-9a-f]{32}", qop in prop::option::of("auth|\"auth\""),
            order in Just([0, 1, 2, 3, 4, 5, 6]).prop_shuffle(), lws in "[ \t]{0,3}",
        ) {
            let q = |name: &str, sent: &[u8]| [name.as_bytes(), b"=\"", sent, b"\""].concat();
            let all = [
                q("username", &username.1), q("Realm", &realm.1), q("NONCE", &nonce.1),
                q("uri", &uri.1), format!("response{lws}={lws}{response}").into_bytes(),
                qop.as_ref().map(|v| format!("qop={v}").into_bytes()).unwrap_or_default(),
                b"opaque=\"a=b, username=\\\"x\\\"\"".to_vec(),
            ];
            let list = order.map(|at| all[at].clone()).join(format!("{lws},{lws}").as_bytes());
            let value = [b"Digest ", &list[..]].concat();
            let c = digest(&value);
            prop_assert!(c.username.means(&username.0));
            prop_assert!(c.realm.means(&realm.0));
            prop_assert_eq!(c.nonce, &nonce.1[..]);
            prop_assert_eq!(c.uri, &uri.1[..]);
            prop_assert_eq!(c.response, response.as_bytes());
            prop_assert_eq!(c.qop.is_some(), qop.is_some());
            let mut buffer = [0; MAX_USERNAME];
            prop_assert_eq!(c.username.unescape_into(&mut buffer), Some(&username.0[..]));
        }

        #[test]
        fn no_octets_panic(value in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Authorization::parse(&value);
            let _ = Authorization::parse(&[b"Digest ", &value[..]].concat());
        }
    }
}
