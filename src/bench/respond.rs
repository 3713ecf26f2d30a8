//! The responses of a batch of requests to their challenges (RFC 7616 §3.4.1).

use sha2::{Sha256, Sha512_256};

use super::request::{CNONCE, Credentials, HEX, NC_LEN, put};
use crate::auth::digest::Ha1Set;
use crate::auth::policy::Algorithm;
use md5::{Digest, Md5};

/// Hashes H(A1) in hexadecimal, as they go into a response: one for each user.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    digits: Vec<u8>,
    len: usize,
}

impl Secrets {
    /// Hashes of `algorithm`, none of them yet.
    pub(super) fn new(algorithm: Algorithm, users: usize) -> Self {
        let len = 2 * algorithm.digest_len();
        Self { digits: Vec::with_capacity(users * len), len }
    }

    /// Adds the hash of the next user.
    pub(super) fn push(
        &mut self,
        algorithm: Algorithm,
        name: &[u8],
        realm: &[u8],
        password: &[u8],
    ) {
        let set = Ha1Set::of_password(&[algorithm], name, realm, password);
        let ha1 = set.ha1(algorithm).unwrap_or_default();
        self.digits.extend(ha1.iter().flat_map(|octet| HEX[usize::from(*octet)]));
    }

    /// The digits of one user's.
    pub(super) fn of(&self, user: usize) -> &[u8] {
        self.digits.get(user * self.len..(user + 1) * self.len).unwrap_or_default()
    }
}

/// Responses that are computed together, when all requests of a batch are known.
#[derive(Debug)]
pub(super) struct Responses {
    algorithm: Algorithm,
    qop_auth: bool,
    ha2: Vec<u8>,
    /// What is hashed, one text after the other.
    input: Vec<u8>,
    /// Where each text ends, the request it is for, and where in that one the response goes.
    waiting: Vec<(usize, usize, usize)>,
}

impl Responses {
    /// Responses to challenges of REGISTERs for `domain`.
    pub(super) fn new(credentials: &Credentials, domain: &str) -> Self {
        let Credentials { algorithm, qop_auth, .. } = *credentials;
        let a2 = format!("REGISTER:sip:{domain}");
        let mut ha2 = Vec::new();
        hash(algorithm, a2.as_bytes(), |digest| {
            ha2.extend(digest.iter().flat_map(|octet| HEX[usize::from(*octet)]));
        });
        Self { algorithm, qop_auth, ha2, input: Vec::new(), waiting: Vec::new() }
    }

    /// Asks for a response in request `slot` of the batch, at octet `at`.
    pub(super) fn push(
        &mut self,
        ha1: &[u8],
        nonce: &[u8],
        nc: &[u8; NC_LEN],
        (slot, at): (usize, usize),
    ) {
        let input = &mut self.input;
        input.extend_from_slice(ha1);
        input.push(b':');
        input.extend_from_slice(nonce);
        input.push(b':');
        if self.qop_auth {
            input.extend_from_slice(nc);
            input.push(b':');
            input.extend_from_slice(CNONCE);
            input.extend_from_slice(b":auth:");
        }
        input.extend_from_slice(&self.ha2);
        self.waiting.push((input.len(), slot, at));
    }

    /// Writes all responses that were asked for into `requests`, and forgets them.
    pub(super) fn write<'a>(&mut self, requests: impl Iterator<Item = &'a mut [u8]>) {
        let mut start = 0;
        let mut waiting = self.waiting.drain(..).peekable();
        for (slot, request) in requests.enumerate() {
            let Some((end, _, at)) = waiting.next_if(|(_, wanted, _)| *wanted == slot) else {
                continue;
            };
            let text = self.input.get(start..end).unwrap_or_default();
            hash(self.algorithm, text, |digest| {
                let mut digits = [0; 64];
                for (pair, octet) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
                    *pair = HEX[usize::from(*octet)];
                }
                put(request, at, digits.get(..2 * digest.len()).unwrap_or_default());
            });
            start = end;
        }
        drop(waiting);
        self.input.clear();
    }
}

fn hash(algorithm: Algorithm, text: &[u8], take: impl FnOnce(&[u8])) {
    match algorithm {
        Algorithm::Md5 => take(&Md5::digest(text)),
        Algorithm::Sha256 => take(&Sha256::digest(text)),
        Algorithm::Sha512_256 => take(&Sha512_256::digest(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::digest::{Input, Response};

    #[test]
    fn responses_are_what_the_registrar_computes() {
        for algorithm in Algorithm::ALL {
            for qop_auth in [true, false] {
                let credentials =
                    Credentials { realm: b"r".to_vec(), opaque: None, algorithm, qop_auth };
                let mut secrets = Secrets::new(algorithm, 2);
                secrets.push(algorithm, b"u0", b"r", b"p0");
                secrets.push(algorithm, b"u1", b"r", b"p1");
                let mut responses = Responses::new(&credentials, "bench.test");
                let len = 2 * algorithm.digest_len();
                // The request between them asks for none.
                let mut requests = [[b' '; 80]; 3];
                for _ in 0..2 {
                    responses.push(secrets.of(0), b"nonce", b"00000001", (0, 5));
                    responses.push(secrets.of(1), b"nonce", b"00000001", (2, 7));
                    responses.write(requests.iter_mut().map(|request| &mut request[..]));
                }
                assert_eq!(requests[1], [b' '; 80]);
                for (request, at, name, password) in
                    [(&requests[0], 5, b"u0", b"p0"), (&requests[2], 7, b"u1", b"p1")]
                {
                    let set = Ha1Set::of_password(&[algorithm], name, b"r", password);
                    let input = Input {
                        method: b"REGISTER",
                        uri: b"sip:bench.test",
                        nonce: b"nonce",
                        auth: qop_auth.then_some((b"00000001", CNONCE)),
                    };
                    let response = Response::parse(algorithm, &request[at..at + len]).unwrap();
                    assert!(response.is_right(set.ha1(algorithm).unwrap(), &input));
                }
            }
        }
    }
}
