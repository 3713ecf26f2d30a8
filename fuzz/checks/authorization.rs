//! Any Authorization values, one a line: none is believed that no secret stands behind.

use bindery::{
    auth::{
        Authenticator, Authorization, NonceKeys, RequestHash, Secret, Verdict,
        authorization::MAX_USERNAME,
        policy::{Algorithm, Policy},
    },
    time::{DeltaSeconds, Now},
};

const NOW: Now = Now { millis: 0, unix: 1_800_000_000 };

/// Stands for a nonce of ours, which nobody guesses.
const PLACEHOLDER: &[u8] = b"NONCE";

/// Checks the lines of `values` as the headers of one request.
pub(crate) fn check(values: &[u8]) {
    let policy = Policy {
        realm: "example.com".into(),
        algorithms: Algorithm::ALL.into(),
        nonce_lifetime: DeltaSeconds(300),
        qop_auth: true,
    };
    let keys = NonceKeys::from_bytes(&[7; 32]);
    let authenticator = Authenticator::new(policy, keys).expect("a realm and an algorithm");
    let nonce = *authenticator.challenge(NOW, RequestHash(1)).nonce();
    let mut filled = values.to_vec();
    if let Some(at) = values.windows(PLACEHOLDER.len()).position(|w| w == PLACEHOLDER) {
        filled.splice(at..at + PLACEHOLDER.len(), nonce);
    }

    let lines = || filled.split(|&b| b == b'\n');
    for line in lines() {
        if let Ok(Authorization::Digest(credentials)) = Authorization::parse(line) {
            let mut space = [0; MAX_USERNAME];
            let name = credentials.username.unescape_into(&mut space).map(<[u8]>::to_vec);
            let octets: Vec<_> = credentials.username.octets().collect();
            assert_eq!(name, Some(octets), "every name that is taken fits");
        }
    }
    for secret in [None, Some(Secret::NoPassword)] {
        let verdict =
            authenticator.verify_any(NOW, b"REGISTER", b"sip:example.com", lines(), |_| secret);
        assert!(!matches!(verdict, Verdict::Granted(_)), "granted without a secret");
    }
    let anybody = |_: &[u8]| Some(Secret::AnyPassword);
    if let Verdict::Granted(grant) =
        authenticator.verify_any(NOW, b"REGISTER", b"sip:example.com", lines(), anybody)
    {
        let has_nonce = filled.windows(nonce.len()).any(|window| window == nonce);
        assert!(has_nonce, "granted without a nonce of ours: {grant:?}");
    }
}
