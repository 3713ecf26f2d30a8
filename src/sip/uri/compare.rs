//! URI equality (RFC 3261 §19.1.4).

use super::{SipUri, split_scheme, unescaped_eq};

/// Whether two URIs are equal.
///
/// SIP and SIPS URIs compare as RFC 3261 §19.1.4 has it; any other URI compares by octets, its
/// scheme in any case. Equality is not transitive: a URI without a parameter equals two that
/// differ in it.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (SipUri::parse(a), SipUri::parse(b)) {
        (Ok(a), Ok(b)) => equal_sip(&a, &b),
        (Err(_), Err(_)) => match (split_scheme(a), split_scheme(b)) {
            (Some((s, a)), Some((t, b))) => s.eq_ignore_ascii_case(t) && a == b,
            _ => false,
        },
        _ => false,
    }
}

fn equal_sip(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
    a.scheme == b.scheme
        && equal_part(a.user, b.user)
        && equal_part(a.password, b.password)
        // A URI that omits a component does not match one that gives it, even its default.
        && a.host_port.port == b.host_port.port
        && equal_host(a, b)
        && params_agree(a, b)
        && params_agree(b, a)
        && headers_within(a, b)
        && headers_within(b, a)
}

fn equal_part(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => unescaped_eq(a, b, false),
        (None, None) => true,
        _ => false,
    }
}

/// Hosts compare without case; IPv6 addresses by value (RFC 5954 §4.2).
fn equal_host(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
    a.host_port.host.eq_ignore_ascii_case(b.host_port.host)
        || match (a.host_port.ip(), b.host_port.ip()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
}

/// Whether each parameter of `a` matches that of `b` where both have it, and none of those that
/// must be in both is in `a` alone.
fn params_agree(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
    a.params().all(|(name, value)| {
        // A name that stands more than once is against the grammar; even so a URI equals itself.
        let mut twins = b.params().filter(|(other, _)| unescaped_eq(name, other, true)).peekable();
        if twins.peek().is_none() {
            return !["user", "ttl", "method", "maddr", "transport"]
                .iter()
                .any(|p| unescaped_eq(name, p.as_bytes(), true));
        }
        twins.any(|(_, other)| match (value, other) {
            (Some(value), Some(other)) => unescaped_eq(value, other, true),
            (None, None) => true,
            _ => false,
        })
    })
}

/// Whether each header of `a` is in `b`. Header components are never ignored; without a
/// header-specific rule their values compare by octets, escapes resolved.
fn headers_within(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
    let same = |(name, value): (&[u8], &[u8]), (other, other_value): (&[u8], &[u8])| {
        unescaped_eq(name, other, true) && unescaped_eq(value, other_value, false)
    };
    a.headers().count() == b.headers().count()
        && a.headers().all(|header| b.headers().any(|other| same(header, other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfc_examples_that_are_equal() {
        for (a, b) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
        ] {
            assert!(equal(a.as_bytes(), b.as_bytes()), "{a} {b}");
            assert!(equal(b.as_bytes(), a.as_bytes()), "{b} {a}");
        }
    }

    #[test]
    fn the_rfc_examples_that_differ() {
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
            ("sip:bob@biloxi.com", "sip:biloxi.com"),
            ("sip:bob@biloxi.com;lr", "sip:bob@biloxi.com;lr=1"),
        ] {
            assert!(!equal(a.as_bytes(), b.as_bytes()), "{a} {b}");
            assert!(!equal(b.as_bytes(), a.as_bytes()), "{b} {a}");
        }
    }

    #[test]
    fn addresses_by_value() {
        assert!(equal(b"sip:a@[2001:db8::1]", b"sip:a@[2001:DB8:0::1]"));
        assert!(!equal(b"sip:a@[2001:db8::1]", b"sip:a@[2001:db8::2]"));
    }

    #[test]
    fn repeated_parameters() {
        assert!(equal(b"sip:a@b;x=1;x=2", b"sip:a@B;x=2;x=1"));
        assert!(!equal(b"sip:a@b;x=1;x=2", b"sip:a@b;x=1;x=3"));
    }

    #[test]
    fn other_schemes_by_octets() {
        assert!(equal(b"TEL:+1555", b"tel:+1555"));
        assert!(!equal(b"tel:+1555", b"tel:+1-555"));
        assert!(!equal(b"tel:+1555", b"sip:+1555@a"));
    }
}
