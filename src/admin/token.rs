//! The bearer token.
//!
//! The token is also what DNS rebinding and foreign pages in an operator's browser fail at: a
//! page can make a browser ask a loopback address, but not send a token that it can't read.
//! So neither `Host` nor `Origin` is looked at, and the API works behind any name or proxy.

use std::{
    fmt,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::{config::store, hex::to_hex};

/// Octets of a token that we make: beyond guessing.
const RANDOM_LEN: usize = 32;

/// The fewest characters of a token that an operator makes: 16 hexadecimal digits are 64 bits.
const MIN_LEN: usize = 16;

/// The most.
const MAX_LEN: usize = 512;

/// Mode bits by which others than the owner and the group get at a file.
const OTHERS: u32 = 0o007;

/// What a request must bring.
pub struct Token(Box<str>);

impl fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the token of a file.
    ///
    /// # Errors
    /// The file can't be read or holds no token.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let token = text.trim();
        let is_token = (MIN_LEN..=MAX_LEN).contains(&token.len())
            && token.bytes().all(|octet| octet.is_ascii_graphic());
        if !is_token {
            let what = format!("expected one line of {MIN_LEN} to {MAX_LEN} ASCII characters");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok(Self(token.into()))
    }

    /// Reads the token of a file, or makes one at the first start. A file that `is_ours`, none that
    /// an operator has named, is set aside if it holds no token, and made anew.
    ///
    /// # Errors
    /// The file can't be read, holds no token, or can't be made.
    pub(super) fn read_or_create(path: &Path, is_ours: bool) -> io::Result<Self> {
        match Self::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Self::create(path),
            Err(error) if error.kind() == ErrorKind::InvalidData && is_ours => {
                let renamed = store::set_aside(path)?;
                let (file, renamed) = (path.display(), renamed.display());
                tracing::warn!(
                    %file,
                    %renamed,
                    %error,
                    "the admin token was damaged and is made anew: who has the old one needs this"
                );
                Self::create(path)
            }
            Err(error) => Err(error),
            Ok(token) => {
                let mode = std::fs::metadata(path)?.permissions().mode();
                if mode & OTHERS != 0 {
                    let file = path.display();
                    tracing::warn!(%file, "others can read the admin token: chmod o= it");
                }
                Ok(token)
            }
        }
    }

    fn create(path: &Path) -> io::Result<Self> {
        let mut octets = [0; RANDOM_LEN];
        getrandom::fill(&mut octets).map_err(io::Error::from)?;
        let token = to_hex(&octets);
        store::create(path, format!("{token}\n").as_bytes(), store::PRIVATE)?;
        Ok(Self(token.into()))
    }

    /// Whether a request brings this token, compared in a time that tells nothing but its length
    /// (RFC 6750 §2.1).
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let credentials = value.and_then(|value| {
            let (scheme, token) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
        });
        credentials.is_some_and(|token| bool::from(token.ct_eq(self.0.as_bytes())))
    }

    /// The value of the `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert_eq!(Token::read(&path).unwrap_err().kind(), ErrorKind::NotFound);
        let made = Token::read_or_create(&path, true).unwrap();
        assert_eq!(made.0.len(), 2 * RANDOM_LEN);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Token::read_or_create(&path, true).unwrap().0, made.0);
        assert_eq!(Token::read(&path).unwrap().0, made.0);
        assert!(!format!("{made:?}").contains(&*made.0));
        for wrong in ["", "short", "with a blank in the middle"] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(Token::read(&path).unwrap_err().kind(), ErrorKind::InvalidData);
            assert!(Token::read_or_create(&path, false).is_err(), "an operator's own stays");
            let new = Token::read_or_create(&path, true).unwrap();
            assert_ne!(new.0, made.0);
            assert!(folder.path().join("token.corrupt").exists());
        }
    }

    #[test]
    fn only_the_token_opens() {
        let token = Token("0123456789abcdef".into());
        let is_in = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.is_in(&headers)
        };
        assert!(is_in("Bearer 0123456789abcdef"));
        assert!(is_in("bearer  0123456789abcdef"));
        assert!(is_in(&token.authorization()));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!is_in(wrong), "{wrong:?}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
    }
}
