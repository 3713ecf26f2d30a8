//! A registrar without sockets: what tests, benches and fuzz targets put datagrams into.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bindery::{
    auth::{
        Authenticator, NonceKeys,
        policy::{self, Algorithm},
    },
    location::Location,
    registrar::{Domains, Policy},
    sip::Limits,
    subscribers::builder::Builder,
    time::DeltaSeconds,
    worker::{AllCounters, Elsewhere, Pipeline, Rules},
};

/// What the location service hashes with.
pub(crate) const HASH_KEY: [u8; 16] = [1; 16];

/// The realm.
pub(crate) const REALM: &str = "example.com";

/// The workers of a registrar of these domains, users and their passwords. Where `policy` asks for no credentials,
/// anybody may register. Where they are given calls, strangers may call users.
pub(crate) fn registrar<const WORKERS: usize>(
    domains: &[&str],
    users: &[(&str, &str)],
    policy: Policy,
) -> ([Pipeline; WORKERS], Arc<Location>) {
    let algorithms = [Algorithm::Md5, Algorithm::Sha256];
    let mut builder = Builder::new(REALM, &algorithms);
    for (user, password) in users {
        builder.section(user.as_bytes()).expect("a user's name");
        builder.key(b"password", password.as_bytes()).expect("a password");
    }
    let challenges = policy::Policy {
        realm: REALM.into(),
        algorithms: algorithms.into(),
        nonce_lifetime: DeltaSeconds(300),
        qop_auth: true,
    };
    let keys = NonceKeys::from_bytes(&[7; 32]);
    let location = Arc::new(Location::new(HASH_KEY, policy.max_bindings));
    let rules = Rules {
        domains: Domains::new(domains.iter().copied()),
        autocreate: !policy.auth_required,
        registrar: policy,
        authenticator: Authenticator::new(challenges, keys).expect("a realm and an algorithm"),
        subscribers: builder.build(),
        elsewhere: Elsewhere::default(),
        server: None,
        limits: Limits::default(),
        calls: bindery::proxy::Policy { accept_foreign: true, ..Default::default() },
    };
    let rules = Arc::new(ArcSwap::from_pointee(rules));
    let counters: Arc<AllCounters> = (0..WORKERS).map(|_| Default::default()).collect();
    let pipelines = std::array::from_fn(|worker| {
        Pipeline::new(
            Arc::clone(&location),
            Arc::clone(&rules),
            Arc::clone(&counters),
            worker,
            [2; 16],
        )
    });
    (pipelines, location)
}
