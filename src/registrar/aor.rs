//! Addresses-of-record in their canonical form (RFC 3261 §10.3 steps 1 and 5).

use crate::sip::uri::{SipUri, canonical_host_into, unescape_into};

/// The domains that this registrar is responsible for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    /// Lower-case names; empty means one flat namespace.
    names: Box<[Box<str>]>,
}

impl Domains {
    /// These domains; none makes one flat namespace, in which any domain is accepted and the user
    /// part alone is the key.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let lower = |name: &str| name.trim_end_matches('.').to_ascii_lowercase().into();
        Self { names: names.into_iter().map(lower).collect() }
    }

    /// Whether any domain is accepted and the user part alone is the key.
    pub fn is_flat(&self) -> bool {
        self.names.is_empty()
    }

    /// The position of a domain among them, which tells one from another where there are several;
    /// zero for any other. The configuration has at most [`Domains::MAX`].
    pub fn position(&self, domain: &[u8]) -> u8 {
        let found = self.names.iter().position(|n| is_same(domain, n));
        found.and_then(|at| u8::try_from(at).ok()).unwrap_or(0)
    }

    /// How many there may be: as many as a position has values.
    pub const MAX: usize = 256;

    /// The domains, in the configured order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }

    /// Whether `host` is one of them, in any case.
    pub fn serves(&self, host: &[u8]) -> bool {
        let host = without_root(host);
        self.is_flat() || self.names.iter().any(|n| is_same(host, n))
    }
}

/// Whether `host` is the lower-case `name`, in any case: mostly as it stands.
fn is_same(host: &[u8], name: &str) -> bool {
    host == name.as_bytes() || host.eq_ignore_ascii_case(name.as_bytes())
}

/// A host without the dot that a fully qualified name may end in.
fn without_root(host: &[u8]) -> &[u8] {
    host.strip_suffix(b".").unwrap_or(host)
}

/// A canonical address-of-record: `user@domain`, or `user` in a flat namespace.
///
/// Escapes are resolved, the domain is in lower case, the port and all parameters are gone; `sip`
/// and `sips` are the same. The user part keeps its case and may hold any octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aor<'a> {
    key: &'a [u8],
    user_len: usize,
}

impl<'a> Aor<'a> {
    /// The AoR of a To URI, written to `space`. `None` unless it is a user of `domains`.
    pub fn canonical(uri: &SipUri<'_>, domains: &Domains, space: &'a mut Vec<u8>) -> Option<Self> {
        let host = uri.host_port.host;
        let user = uri.user.filter(|_| domains.serves(host))?;
        space.clear();
        unescape_into(user, space);
        let user_len = space.len();
        if !domains.is_flat() {
            space.push(b'@');
            canonical_host_into(host, space);
        }
        (user_len > 0).then_some(Self { key: space, user_len })
    }

    /// The whole text: the key of the location service.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.key
    }

    /// The user part, escapes resolved.
    pub fn user(&self) -> &'a [u8] {
        &self.key[..self.user_len]
    }

    /// The domain; `None` in a flat namespace.
    pub fn domain(&self) -> Option<&'a [u8]> {
        self.key.get(self.user_len + 1..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(uri: &str, domains: &[&str]) -> Option<String> {
        let mut space = Vec::new();
        let uri = SipUri::parse(uri.as_bytes()).unwrap();
        let domains = Domains::new(domains.iter().copied());
        let aor = Aor::canonical(&uri, &domains, &mut space)?;
        assert_eq!(aor.domain().is_none(), domains.is_flat());
        Some(format!("{}", aor.as_bytes().escape_ascii()))
    }

    #[test]
    fn one_form_for_all_spellings() {
        let ours = &["example.com", "Example.ORG"][..];
        for (uri, aor) in [
            ("sip:alice@example.com", Some("alice@example.com")),
            ("sips:%61lice@EXAMPLE.com.:5070;transport=tcp;user=phone", Some("alice@example.com")),
            ("sip:alice:secret@example.org?x=y", Some("alice@example.org")),
            ("sip:Alice@example.com", Some("Alice@example.com")),
            ("sip:a%40b@example.com", Some("a@b@example.com")),
            ("sip:null-%00@example.com", Some("null-\\x00@example.com")),
            ("sip:example.com", None),
            ("sip:alice@example.net", None),
        ] {
            assert_eq!(canonical(uri, ours).as_deref(), aor, "{uri}");
        }
    }

    #[test]
    fn flat() {
        assert_eq!(canonical("sip:100@192.0.2.1:5060", &[]).as_deref(), Some("100"));
        assert_eq!(canonical("sip:100@anything", &[]).as_deref(), Some("100"));
    }
}
