//! URI equality (RFC 3261 §19.1.4): the laws that it keeps. Transitivity is not among them.

use bindery::{
    registrar::{Aor, Domains},
    sip::uri::{SipUri, equal},
};
use proptest::prelude::*;

use crate::spelling::{host, sip_uri, user};

/// The URI with its scheme, host and parameters in the other case, and some of its user part
/// escaped.
fn respelled(uri: &str, escape: &[bool]) -> String {
    let (scheme, rest) = uri.split_once(':').expect("a scheme");
    let (user, rest) = rest.split_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let mut out = format!("{}:", scheme.to_uppercase());
    if let Some(user) = user {
        for (at, c) in user.char_indices() {
            let within_escape =
                user[..at].ends_with('%') || at > 1 && user[..at - 1].ends_with('%');
            let is_unreserved = c.is_ascii_alphanumeric() || "-_.!~*'()".contains(c);
            if escape[at % escape.len()] && is_unreserved && !within_escape {
                out += &format!("%{:02x}", u32::from(c));
            } else {
                out.push(c);
            }
        }
        out.push('@');
    }
    out + &rest.to_uppercase()
}

fn parsed(uri: &str) -> SipUri<'_> {
    SipUri::parse(uri.as_bytes()).unwrap_or_else(|error| panic!("{uri}: {error:?}"))
}

proptest! {
    #[test]
    fn equality_is_symmetric(one in sip_uri(), other in sip_uri()) {
        let (one, other) = (one.as_bytes(), other.as_bytes());
        prop_assert_eq!(equal(one, other), equal(other, one));
    }

    #[test]
    fn a_uri_equals_all_its_spellings(
        uri in sip_uri(),
        escape in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let other = respelled(&uri, &escape);
        prop_assert!(equal(uri.as_bytes(), other.as_bytes()), "{uri} {other}");
        prop_assert!(equal(other.as_bytes(), uri.as_bytes()), "{other} {uri}");
    }

    #[test]
    fn what_may_not_differ_makes_a_difference(
        uri in sip_uri(),
        host in "[a-z]{1,5}\\.other",
        ttl in 1..9_u8,
    ) {
        let at = |with: &str| equal(uri.as_bytes(), with.as_bytes());
        let sip = parsed(&uri);
        let user = sip.user.map_or(String::new(), |u| String::from_utf8_lossy(u).into_owned() + "@");
        let own_host = String::from_utf8_lossy(sip.host_port.host).into_owned();
        let scheme = uri.split(':').next().unwrap_or_default();
        let other_user = format!("{scheme}:{}", uri[scheme.len() + 1..].replacen(&user, "zz@", 1));
        let other_host = uri.replacen(&own_host, &host, 1);
        prop_assert!(user.is_empty() || user == "zz@" || !at(&other_user));
        prop_assert!(user.contains(&own_host) || !at(&other_host));
        prop_assume!(sip.param("ttl").is_none());
        let added = format!("{uri};ttl={ttl}");
        prop_assert!(!at(&added), "{added}");
    }

    #[test]
    fn one_user_of_one_domain_has_one_aor(
        user in user(),
        host in host(),
        escape in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let uri = format!("sip:{user}@{host}");
        let other = respelled(&uri, &escape) + ";transport=tcp";
        let domains = Domains::new([&*host]);
        let (mut one_key, mut other_key) = (Vec::new(), Vec::new());
        let one = Aor::canonical(&parsed(&uri), &domains, &mut one_key);
        let other = Aor::canonical(&parsed(&other), &domains, &mut other_key);
        prop_assert!(one.is_some());
        prop_assert_eq!(one, other);
    }
}
