//! Any two URIs, one a line: equality is reflexive and symmetric, and a canonical AoR is a key.

use bindery::{
    registrar::{Aor, Domains},
    sip::uri::{SipUri, equal, is_well_formed, split_scheme},
};

/// Checks the first two lines of `lines`.
pub(crate) fn check(lines: &[u8]) {
    let mut lines = lines.splitn(2, |&b| b == b'\n');
    let (one, other) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    assert_eq!(equal(one, other), equal(other, one), "symmetry");
    for uri in [one, other] {
        let Ok(sip) = SipUri::parse(uri) else { continue };
        assert!(is_well_formed(uri));
        let copy = uri.to_vec();
        assert!(equal(uri, &copy), "reflexivity");
        // Not the very same octets, so that all parts are compared.
        let host_at = sip.host_port.host.as_ptr().addr() - uri.as_ptr().addr();
        let mut upper = copy.clone();
        let (scheme, _) = split_scheme(uri).expect("a SIP URI has a scheme");
        upper[..scheme.len()].make_ascii_uppercase();
        upper[host_at..host_at + sip.host_port.host.len()].make_ascii_uppercase();
        assert!(equal(uri, &upper), "{}", uri.escape_ascii());

        let domains = Domains::default();
        let (mut key, mut upper_key) = (Vec::new(), Vec::new());
        let upper = SipUri::parse(&upper).expect("case changes no grammar");
        let aor = Aor::canonical(&sip, &domains, &mut key).map(|aor| aor.as_bytes());
        assert_eq!(aor, Aor::canonical(&upper, &domains, &mut upper_key).map(|a| a.as_bytes()));
        let _ = sip.params().count() + sip.headers().count();
    }
}
