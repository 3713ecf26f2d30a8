//! How credentials are asked for: what `[auth]` in `bindery.conf` resolves to.

use crate::time::DeltaSeconds;

/// The challenges sent and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The protection space (RFC 7616 §3.3), the same in all challenges.
    pub realm: Box<str>,
    /// One challenge for each, the most preferred first (RFC 8760 §2.4).
    pub algorithms: Box<[Algorithm]>,
    /// How old a nonce may be; an older one draws `stale=true`.
    pub nonce_lifetime: DeltaSeconds,
    /// Whether challenges offer `qop="auth"`. Clients may ignore it (RFC 2069).
    pub qop_auth: bool,
}

/// The digest algorithms of RFC 8760 §2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `MD5`.
    Md5,
    /// `SHA-256`.
    Sha256,
    /// `SHA-512-256`.
    Sha512_256,
}
