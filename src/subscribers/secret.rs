//! What is known of an account's password: H(A1) by algorithm, never the password.

use std::fmt;

use md5::{Digest, Md5};
use sha2::{Sha256, Sha512_256};

use crate::auth::policy::Algorithm;

/// What is known about an account's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Every response is right: an empty `password=` in `regfile.conf`.
    AnyPassword,
    /// The hashes of a password.
    Ha1(Ha1Set),
    /// No response is right: a section without `password`.
    NoPassword,
}

/// H(A1) of one account, by algorithm; a hash that is not known is `None`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Ha1Set {
    /// For `MD5`.
    pub md5: Option<[u8; 16]>,
    /// For `SHA-256`.
    pub sha256: Option<[u8; 32]>,
    /// For `SHA-512-256`.
    pub sha512_256: Option<[u8; 32]>,
}

impl Ha1Set {
    /// Hashes a password for the algorithms given.
    pub fn of_password(
        algorithms: &[Algorithm],
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        let a1 = [username, b":", realm, b":", password];
        let mut set = Self::default();
        for algorithm in algorithms {
            match algorithm {
                Algorithm::Md5 => set.md5 = Some(hash::<Md5>(&a1).into()),
                Algorithm::Sha256 => set.sha256 = Some(hash::<Sha256>(&a1).into()),
                Algorithm::Sha512_256 => set.sha512_256 = Some(hash::<Sha512_256>(&a1).into()),
            }
        }
        set
    }
}

impl fmt::Debug for Ha1Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            self.md5.map(|_| Algorithm::Md5),
            self.sha256.map(|_| Algorithm::Sha256),
            self.sha512_256.map(|_| Algorithm::Sha512_256),
        ];
        f.write_str("Ha1Set")?;
        f.debug_list().entries(known.into_iter().flatten()).finish()
    }
}

fn hash<H: Digest>(parts: &[&[u8]]) -> md5::digest::Output<H> {
    let mut hasher = H::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
