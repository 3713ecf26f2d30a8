//! Secrets that outlive the process.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::{
    auth::{NonceKeys, nonce::SECRET_LEN},
    config::store,
    hex::{parse_hex, to_hex},
};

/// The file of the nonce keys in the state folder, unless `[auth] secret_file` names one.
pub(super) const NONCE_KEY_FILE: &str = "nonce.key";

/// The keys that nonces are made with: read, or made at the first start. Since they are kept,
/// phones need no new challenge after a restart.
///
/// The file holds 64 hexadecimal digits; whoever can read it can make nonces. One that `is_ours`
/// and holds anything else, as a disk that was full leaves it, is set aside and made anew; an
/// operator's own is left to the operator.
pub(super) fn nonce_keys(path: &Path, is_ours: bool) -> io::Result<NonceKeys> {
    match read_keys(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => make_keys(path),
        Err(error) if error.kind() == ErrorKind::InvalidData && is_ours => {
            let renamed = store::set_aside(path)?;
            let (file, renamed) = (path.display(), renamed.display());
            tracing::warn!(
                %file,
                %renamed,
                %error,
                "the nonce key was damaged and is made anew: every phone is challenged once more"
            );
            make_keys(path)
        }
        read => read,
    }
}

fn read_keys(path: &Path) -> io::Result<NonceKeys> {
    let text = std::fs::read_to_string(path)?;
    let secret = parse_hex(text.trim().as_bytes())
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "expected 64 hexadecimal digits"))?;
    Ok(NonceKeys::from_bytes(&secret))
}

fn make_keys(path: &Path) -> io::Result<NonceKeys> {
    let secret = random::<SECRET_LEN>()?;
    let mut text = to_hex(&secret);
    text.push('\n');
    store::create(path, text.as_bytes(), store::PRIVATE)?;
    Ok(NonceKeys::from_bytes(&secret))
}

/// The key that requests are told apart with. It comes from the nonces' key, because nonce counts
/// that outlive the process hold hashes made with it.
pub(super) fn request_key(keys: &NonceKeys) -> [u8; 16] {
    derived(keys, b"request key")
}

/// The key that AoRs are hashed with. A snapshot has them in the order of their hashes: with the
/// same key after a restart they come back in the order of the table, and each finds its place in
/// the processor's cache. It is as secret as the nonces' key is.
pub(super) fn hash_key(keys: &NonceKeys) -> [u8; 16] {
    derived(keys, b"hash key")
}

/// The key of what Record-Route carries: calls go on after a restart.
pub(super) fn dialog_key(keys: &NonceKeys) -> [u8; 16] {
    derived(keys, b"dialog key")
}

fn derived(keys: &NonceKeys, purpose: &[u8]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(purpose).chain_update(keys.to_bytes()).finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

/// Random octets from the kernel.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(io::Error::from)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NONCE_KEY_FILE);
        let made = nonce_keys(&path, true).unwrap();
        assert_eq!(nonce_keys(&path, true).unwrap().to_bytes(), made.to_bytes());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for damaged in [&b"xyz"[..], b"", &[0xff; 65]] {
            std::fs::write(&path, damaged).unwrap();
            let error = nonce_keys(&path, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert_eq!(std::fs::read(&path).unwrap(), damaged, "an operator's own stays");
            let made = nonce_keys(&path, true).unwrap();
            assert_eq!(nonce_keys(&path, false).unwrap().to_bytes(), made.to_bytes());
        }
        assert!(folder.path().join("nonce.key.corrupt.2").exists());
    }
}
