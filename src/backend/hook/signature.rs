//! By what a receiver knows that a request is ours.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::hex::to_hex;

/// The header with the signature.
pub(super) const HEADER: &str = "bindery-signature";

/// The value of [`HEADER`] for a body that is sent at `unix`: `t=UNIX,v1=HEX`, where HEX is the
/// HMAC-SHA256 (RFC 2104) of `UNIX.BODY`. The time is part of it, so that a receiver can refuse
/// what somebody else sends again later.
pub(super) fn sign(secret: &[u8], unix: u64, body: &[u8]) -> String {
    // Any length is a key of HMAC's.
    let mac = Hmac::<Sha256>::new_from_slice(secret).ok().map(|mut mac| {
        mac.update(unix.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        to_hex(&mac.finalize().into_bytes())
    });
    format!("t={unix},v1={}", mac.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hmac_of_time_and_body() {
        // As `printf '1795446183.{"a":1}' | openssl dgst -sha256 -hmac secret` says.
        assert_eq!(
            sign(b"secret", 1_795_446_183, b"{\"a\":1}"),
            "t=1795446183,v1=6c5353eb415556ba9cb45dfa61ca1a93a1c0d40ae4443a860f1bf0f3ed85c48c"
        );
        let long = [b'k'; 200];
        assert_ne!(sign(&long, 1, b""), sign(&long[1..], 1, b""));
        assert_ne!(sign(b"secret", 1, b"x"), sign(b"secret", 2, b"x"));
    }
}
