//! Requests, assembled from a template: what differs between two users has its place in it.

use std::net::SocketAddr;

use super::answer::{INDEX_LEN, MARK_LEN};
use super::churn;
use crate::auth::policy::Algorithm;

/// Octets of the longest request: a slot of the batch that it is assembled in.
pub(super) const MAX_REQUEST: usize = 2048;

/// Digits of a CSeq. It begins with nine, so that no request changes its length.
pub(super) const CSEQ_LEN: usize = 9;
/// The first CSeq; 2^31 is the end (RFC 3261 §8.1.1.5).
pub(super) const FIRST_CSEQ: u32 = 100_000_000;

/// Digits of an expiry that differs from request to request.
const EXPIRES_LEN: usize = 4;

/// The client's nonce: the same in all requests, as nobody here is to be protected.
pub(super) const CNONCE: &[u8; 8] = b"0a4f113b";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A REGISTER with a Contact.
    Bind,
    /// A REGISTER without.
    Query,
    /// A REGISTER that removes the Contact.
    Unbind,
    /// OPTIONS.
    Options,
    /// A REGISTER with a Contact whose expiry differs each time.
    Churn,
    /// A REGISTER with `Contact: *`.
    Clear,
}

impl Form {
    pub(super) const COUNT: usize = 6;

    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Bind | Self::Query | Self::Unbind | Self::Churn | Self::Clear => "REGISTER",
            Self::Options => "OPTIONS",
        }
    }
}

/// What all requests of a run share.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// The domain of Request-URI, From and To.
    pub(super) domain: String,
    /// The run's mark, in each Call-ID and branch.
    pub(super) mark: [u8; MARK_LEN],
    /// What Contacts ask for, in seconds.
    pub(super) expires: u32,
    /// How to answer challenges; `None` where none came.
    pub(super) credentials: Option<Credentials>,
}

/// What stands in every Authorization header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    /// As it stood in the challenge, between quotes.
    pub(super) realm: Vec<u8>,
    pub(super) opaque: Option<Vec<u8>>,
    pub(super) algorithm: Algorithm,
    pub(super) qop_auth: bool,
}

/// What differs between two requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) name: &'a [u8],
    pub(super) user: u32,
    pub(super) cseq: u32,
    pub(super) nc: u32,
    /// Empty where there are no credentials.
    pub(super) nonce: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    User,
    CSeq,
    Nonce,
    Nc,
    Expires,
}

/// A request of one form from one port, for names and nonces of one length.
#[derive(Debug)]
pub(super) struct Template {
    octets: Vec<u8>,
    fields: Vec<(Field, usize)>,
    response_at: usize,
    name_len: usize,
    nonce_len: usize,
}

impl Template {
    /// A template for names and nonces as long as those in `values`; an empty nonce leaves the
    /// credentials out. `None` if it would be longer than [`MAX_REQUEST`].
    pub(super) fn new(
        common: &Common,
        form: Form,
        local: SocketAddr,
        values: &Values<'_>,
    ) -> Option<Self> {
        let mut template = Self {
            octets: Vec::with_capacity(MAX_REQUEST),
            fields: Vec::new(),
            response_at: 0,
            name_len: values.name.len(),
            nonce_len: values.nonce.len(),
        };
        let Common { domain, expires, .. } = common;
        let method = form.method();
        let mark = String::from_utf8_lossy(&common.mark);
        let branch = mark.get(..8).unwrap_or_default();
        template.text(&format!(
            "{method} sip:{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{branch}"
        ));
        template.field(Field::User, INDEX_LEN);
        template.field(Field::CSeq, CSEQ_LEN);
        template.text("\r\nMax-Forwards: 70\r\nFrom: <sip:");
        template.field(Field::Name, values.name.len());
        template.text(&format!("@{domain}>;tag="));
        template.field(Field::User, INDEX_LEN);
        template.text("\r\nTo: <sip:");
        template.field(Field::Name, values.name.len());
        template.text(&format!("@{domain}>\r\nCall-ID: "));
        template.field(Field::User, INDEX_LEN);
        template.text(&format!("-{mark}@{}\r\nCSeq: ", local.ip()));
        template.field(Field::CSeq, CSEQ_LEN);
        template.text(&format!(" {method}\r\n"));
        let contact_expires = match form {
            Form::Bind => Some(*expires),
            Form::Unbind => Some(0),
            Form::Query | Form::Options | Form::Churn | Form::Clear => None,
        };
        if let Some(expires) = contact_expires {
            template.text("Contact: <sip:");
            template.field(Field::Name, values.name.len());
            template.text(&format!("@{local}>\r\nExpires: {expires}\r\n"));
        }
        if form == Form::Churn {
            template.text("Contact: <sip:");
            template.field(Field::Name, values.name.len());
            template.text(&format!("@{local}>\r\nExpires: "));
            template.field(Field::Expires, EXPIRES_LEN);
            template.text("\r\n");
        } else if form == Form::Clear {
            template.text("Contact: *\r\nExpires: 0\r\n");
        }
        let version = env!("CARGO_PKG_VERSION");
        template.text(&format!("User-Agent: bindery-bench/{version}\r\n"));
        if let Some(credentials) = &common.credentials
            && !values.nonce.is_empty()
        {
            template.authorization(credentials, domain);
        }
        template.text("Content-Length: 0\r\n\r\n");
        (template.octets.len() <= MAX_REQUEST).then_some(template)
    }

    fn authorization(&mut self, credentials: &Credentials, domain: &str) {
        let Credentials { realm, opaque, algorithm, qop_auth } = credentials;
        self.text("Authorization: Digest username=\"");
        self.field(Field::Name, self.name_len);
        self.text("\", realm=\"");
        self.octets.extend_from_slice(realm);
        self.text("\", nonce=\"");
        self.field(Field::Nonce, self.nonce_len);
        self.text(&format!("\", uri=\"sip:{domain}\", response=\""));
        self.response_at = self.octets.len();
        self.octets.resize(self.response_at + 2 * algorithm.digest_len(), b'0');
        self.text(&format!("\", algorithm={}", algorithm.token()));
        if let Some(opaque) = opaque {
            self.text(", opaque=\"");
            self.octets.extend_from_slice(opaque);
            self.text("\"");
        }
        if *qop_auth {
            self.text(&format!(", qop=auth, cnonce=\"{}\", nc=", String::from_utf8_lossy(CNONCE)));
            self.field(Field::Nc, NC_LEN);
        }
        self.text("\r\n");
    }

    fn text(&mut self, text: &str) {
        self.octets.extend_from_slice(text.as_bytes());
    }

    fn field(&mut self, field: Field, len: usize) {
        self.fields.push((field, self.octets.len()));
        self.octets.resize(self.octets.len() + len, b'0');
    }

    /// Whether it is for names and nonces of these lengths.
    pub(super) fn fits(&self, values: &Values<'_>) -> bool {
        self.name_len == values.name.len() && self.nonce_len == values.nonce.len()
    }

    /// Where the branch says for whom it is and which one: [`read_branch`].
    pub(super) fn branch_at(&self) -> usize {
        self.fields.first().map_or(0, |(_, at)| *at)
    }

    /// Where the response goes.
    pub(super) fn response_at(&self) -> usize {
        self.response_at
    }

    /// Writes the request but for its response; the result is its length.
    ///
    /// The slot must be [`MAX_REQUEST`] long; a shorter one is left with a part.
    pub(super) fn write(&self, slot: &mut [u8], values: &Values<'_>) -> usize {
        let len = self.octets.len();
        if let Some(slot) = slot.get_mut(..len) {
            slot.copy_from_slice(&self.octets);
        }
        let user = hexadecimal(values.user);
        let cseq = decimal::<CSEQ_LEN>(values.cseq);
        let nc = hexadecimal(values.nc);
        for (field, at) in &self.fields {
            match field {
                Field::Name => put(slot, *at, values.name),
                Field::User => put(slot, *at, &user),
                Field::CSeq => put(slot, *at, &cseq),
                Field::Nonce => put(slot, *at, values.nonce),
                Field::Nc => put(slot, *at, &nc),
                Field::Expires => {
                    let expires = churn::expires(values.user, values.cseq);
                    put(slot, *at, &decimal::<EXPIRES_LEN>(expires));
                }
            }
        }
        len
    }
}

/// Digits of a nonce count (RFC 7616 §3.4).
pub(super) const NC_LEN: usize = 8;

/// Overwrites a part of `slot`; what goes beyond its end is left out.
#[inline]
pub(super) fn put(slot: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = slot.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// A number in eight lower-case hexadecimal digits.
pub(super) fn hexadecimal(number: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    for (pair, octet) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = HEX[usize::from(octet)];
    }
    digits
}

/// The user and the CSeq that stand at `at` in a request; `None` where there are none.
pub(super) fn read_branch(octets: &[u8], at: usize) -> Option<(u32, u32)> {
    let (user, rest) = octets.get(at..)?.split_first_chunk::<INDEX_LEN>()?;
    let cseq = rest.first_chunk::<CSEQ_LEN>()?;
    // Of so many digits neither can be too large.
    let user = user.iter().try_fold(0_u32, |number, octet| {
        let digit = match octet {
            b'0'..=b'9' => octet - b'0',
            b'a'..=b'f' => octet - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(digit))
    })?;
    let cseq = cseq.iter().try_fold(0_u32, |number, octet| {
        octet.is_ascii_digit().then(|| number * 10 + u32::from(octet - b'0'))
    })?;
    Some((user, cseq))
}

fn decimal<const LEN: usize>(mut number: u32) -> [u8; LEN] {
    let mut digits = [b'0'; LEN];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    digits
}

/// Each octet as two lower-case hexadecimal digits.
pub(super) const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = [DIGITS[octet >> 4], DIGITS[octet & 15]];
        octet += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip;

    fn common() -> Common {
        Common {
            domain: "bench.test".into(),
            mark: *b"0123456789abcdef",
            expires: 3600,
            credentials: Some(Credentials {
                realm: b"re alm".to_vec(),
                opaque: Some(b"op".to_vec()),
                algorithm: Algorithm::Md5,
                qop_auth: true,
            }),
        }
    }

    const VALUES: Values<'_> =
        Values { name: b"u000042", user: 42, cseq: 100_000_007, nc: 0x1f, nonce: b"abcd" };

    fn written(form: Form, values: &Values<'_>) -> String {
        let local = "192.0.2.7:26001".parse().unwrap();
        let template = Template::new(&common(), form, local, values).unwrap();
        assert!(template.fits(values));
        let mut slot = [b'x'; MAX_REQUEST];
        let len = template.write(&mut slot, values);
        let text = String::from_utf8(slot[..len].to_vec()).unwrap();
        if !values.nonce.is_empty() {
            assert!(text[..template.response_at()].ends_with("response=\""));
        }
        text
    }

    #[test]
    fn a_refresh_has_every_value_in_its_place() {
        let text = written(Form::Bind, &VALUES);
        let expected = format!(
            "REGISTER sip:bench.test SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.7:26001;rport;branch=z9hG4bK012345670000002a100000007\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:u000042@bench.test>;tag=0000002a\r\n\
             To: <sip:u000042@bench.test>\r\n\
             Call-ID: 0000002a-0123456789abcdef@192.0.2.7\r\n\
             CSeq: 100000007 REGISTER\r\n\
             Contact: <sip:u000042@192.0.2.7:26001>\r\n\
             Expires: 3600\r\n\
             User-Agent: bindery-bench/{}\r\n\
             Authorization: Digest username=\"u000042\", realm=\"re alm\", nonce=\"abcd\", \
             uri=\"sip:bench.test\", response=\"{}\", algorithm=MD5, opaque=\"op\", qop=auth, \
             cnonce=\"0a4f113b\", nc=0000001f\r\n\
             Content-Length: 0\r\n\r\n",
            env!("CARGO_PKG_VERSION"),
            "0".repeat(32),
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_branch_says_whose_request_it_is() {
        let text = written(Form::Bind, &VALUES);
        let local = "192.0.2.7:26001".parse().unwrap();
        let template = Template::new(&common(), Form::Bind, local, &VALUES).unwrap();
        let at = template.branch_at();
        assert_eq!(read_branch(text.as_bytes(), at), Some((42, 100_000_007)));
        assert_eq!(read_branch(&text.as_bytes()[..at + 16], at), None);
        assert_eq!(read_branch(text.as_bytes(), at + 1), None);
        assert_eq!(read_branch(b"", at), None);
    }

    #[test]
    fn each_form_is_what_the_parser_takes() {
        let forms =
            [Form::Bind, Form::Query, Form::Unbind, Form::Options, Form::Churn, Form::Clear];
        for form in forms {
            for nonce in [&b""[..], b"abcd"] {
                let text = written(form, &Values { nonce, ..VALUES });
                let mut parser = sip::Parser::new(sip::Limits::default());
                assert!(
                    matches!(parser.parse(text.as_bytes()), sip::Parsed::Request(..)),
                    "{text}"
                );
                assert_eq!(text.contains("Authorization"), !nonce.is_empty());
                let has_contact = !matches!(form, Form::Query | Form::Options);
                assert_eq!(text.contains("Contact"), has_contact);
                let removes = matches!(form, Form::Unbind | Form::Clear);
                assert_eq!(text.contains("Expires: 0"), removes);
                assert!(text.starts_with(form.method()));
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let local = "192.0.2.7:26001".parse().unwrap();
        let common = Common { domain: "x".repeat(MAX_REQUEST), ..common() };
        assert!(Template::new(&common, Form::Bind, local, &VALUES).is_none());
    }
}
