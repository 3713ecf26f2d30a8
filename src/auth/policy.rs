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

impl Algorithm {
    /// Every algorithm, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Md5, Self::Sha256, Self::Sha512_256];

    /// The name in the `algorithm` parameter.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// The algorithm of that name, in any case.
    pub fn from_token(token: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.token().as_bytes().eq_ignore_ascii_case(token))
    }

    /// Octets of a digest.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 | Self::Sha512_256 => 32,
        }
    }
}
