//! The client's side of digest access authentication, written apart from what it tests.

use md5::{Digest as _, Md5};
use sha2::{Sha256, Sha512_256};

use crate::macros::Expand;

/// One WWW-Authenticate.
#[derive(Clone, Debug)]
pub(crate) struct Challenge {
    pub(crate) realm: String,
    pub(crate) nonce: String,
    pub(crate) algorithm: String,
    pub(crate) qop: bool,
}

impl Challenge {
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let list = value.strip_prefix("Digest ")?;
        let of = |name: &str| {
            let (_, tail) = list.split_once(&format!("{name}="))?;
            Some(match tail.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next()?.to_owned(),
                None => tail.split([',', ' ']).next()?.to_owned(),
            })
        };
        Some(Self {
            realm: of("realm")?,
            nonce: of("nonce")?,
            algorithm: of("algorithm").unwrap_or_else(|| "MD5".into()),
            qop: of("qop").is_some(),
        })
    }
}

/// The Authorization value for `USER PASSWORD option=value...`.
///
/// | option | what |
/// |---|---|
/// | `alg` | the algorithm; else that of the first challenge |
/// | `algorithm` | what is written, if something else than `alg`; `none` leaves it out |
/// | `qop` | `none` answers without (RFC 2069); anything else is written and hashed |
/// | `nc` | the count; else the next for the nonce |
/// | `realm`, `nonce`, `uri`, `cnonce`, `method` | written and hashed in place of the right one |
/// | `hashed-uri` | hashed in place of `uri` |
/// | `username` | written in place of USER, which is hashed |
/// | `response` | written in place of the right one |
/// | `extra` | more parameters, written at the end |
///
/// In USER, PASSWORD and all values `%20` stands for a blank.
pub(crate) fn credentials(arguments: &str, expand: &Expand<'_>) -> Result<String, String> {
    let mut words = arguments.split_whitespace().map(|w| w.replace("%20", " "));
    let user = words.next().ok_or("digest takes a user")?;
    let password = words.next().ok_or("digest takes a password (\"\" for none)")?;
    let password = if password == "\"\"" { String::new() } else { password };
    let mut options: Vec<(String, String)> = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').ok_or(format!("{word} is no option=value"))?;
        const KNOWN: [&str; 12] = [
            "alg",
            "algorithm",
            "qop",
            "nc",
            "realm",
            "nonce",
            "uri",
            "cnonce",
            "method",
            "hashed-uri",
            "username",
            "response",
        ];
        if !KNOWN.contains(&key) && key != "extra" {
            return Err(format!("{key} is no option of digest"));
        }
        options.push((key.to_owned(), value.to_owned()));
    }
    let option = |name: &str| options.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());

    let challenge = expand.challenge(option("alg"))?;
    let algorithm = option("alg").unwrap_or(&challenge.algorithm).to_owned();
    let realm = option("realm").unwrap_or(&challenge.realm).to_owned();
    let nonce = option("nonce").unwrap_or(&challenge.nonce).to_owned();
    let uri = option("uri").unwrap_or(expand.uri).to_owned();
    let method = option("method").unwrap_or(expand.method);
    let cnonce = option("cnonce").unwrap_or("0a4f113b");
    let qop = match option("qop") {
        Some("none") => None,
        Some(qop) => Some(qop),
        None => challenge.qop.then_some("auth"),
    };
    let hash = |text: String| hash(&algorithm, text.as_bytes());
    let ha1 = hash(format!("{user}:{realm}:{password}"))?;
    let ha2 = hash(format!("{method}:{}", option("hashed-uri").unwrap_or(&uri)))?;
    let (counted, response) = match qop {
        Some(qop) => {
            let nc = match option("nc") {
                Some(nc) => u32::from_str_radix(nc, 16).map_err(|_| format!("{nc} is no count"))?,
                None => expand.counts.borrow().get(&nonce).map_or(1, |nc| nc + 1),
            };
            expand.counts.borrow_mut().insert(nonce.clone(), nc);
            (
                format!(", qop={qop}, nc={nc:08x}, cnonce=\"{cnonce}\""),
                hash(format!("{ha1}:{nonce}:{nc:08x}:{cnonce}:{qop}:{ha2}"))?,
            )
        }
        None => (String::new(), hash(format!("{ha1}:{nonce}:{ha2}"))?),
    };
    let username = option("username").unwrap_or(&user);
    let response = option("response").unwrap_or(&response);
    let algorithm = match option("algorithm").unwrap_or(&algorithm) {
        "none" => String::new(),
        algorithm => format!(", algorithm={algorithm}"),
    };
    let extra = option("extra").map_or(String::new(), |extra| format!(", {extra}"));
    Ok(format!(
        "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\"{algorithm}{counted}{extra}"
    ))
}

fn hash(algorithm: &str, text: &[u8]) -> Result<String, String> {
    let octets = match algorithm {
        "MD5" => Md5::digest(text).to_vec(),
        "SHA-256" => Sha256::digest(text).to_vec(),
        "SHA-512-256" => Sha512_256::digest(text).to_vec(),
        _ => return Err(format!("unknown algorithm {algorithm}")),
    };
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}
