//! The responses of a batch of requests to their challenges (RFC 7616 §3.4.1).

use std::fmt;

use md5::{Digest, Md5};
use sha2::{Sha256, Sha512_256};

use super::request::{CNONCE, Credentials, HEX, NC_LEN, put};
use crate::auth::digest::Ha1Set;
use crate::auth::md5_lanes::Batch;
use crate::auth::policy::Algorithm;
use crate::net::PEER_BATCH;

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
pub(super) struct Responses {
    algorithm: Algorithm,
    qop_auth: bool,
    ha2: Vec<u8>,
    /// What is hashed side by side: MD5, which is what most registrars ask for.
    lanes: Batch,
    /// What is hashed one by one, a text after the other.
    input: Vec<u8>,
    waiting: Vec<Waiting>,
}

/// A response that is asked for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The request it is for, and where in that it goes.
    slot: usize,
    at: usize,
    text: Text,
}

/// Where it stands what is hashed.
#[derive(Clone, Copy, Debug)]
enum Text {
    /// In the lanes, at this place.
    Lane(usize),
    /// In the input, up to this octet.
    Input(usize),
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").field("waiting", &self.waiting).finish_non_exhaustive()
    }
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
        let (lanes, input) = (Batch::with_capacity(PEER_BATCH), Vec::new());
        Self { algorithm, qop_auth, ha2, lanes, input, waiting: Vec::new() }
    }

    /// Asks for a response in request `slot` of the batch, at octet `at`.
    pub(super) fn push(
        &mut self,
        ha1: &[u8],
        nonce: &[u8],
        nc: &[u8; NC_LEN],
        (slot, at): (usize, usize),
    ) {
        let Self { algorithm, qop_auth, ha2, lanes, input, waiting } = self;
        let colon: &[u8] = b":";
        let counted = [ha1, colon, nonce, colon, nc, colon, CNONCE, b":auth:", ha2];
        let plain = [ha1, colon, nonce, colon, ha2];
        let parts = if *qop_auth { &counted[..] } else { &plain };
        let lane = if *algorithm == Algorithm::Md5 { lanes.push(parts) } else { None };
        let text = lane.map_or_else(
            || {
                parts.iter().for_each(|part| input.extend_from_slice(part));
                Text::Input(input.len())
            },
            Text::Lane,
        );
        waiting.push(Waiting { slot, at, text });
    }

    /// Writes all responses that were asked for into `requests`, and forgets them.
    pub(super) fn write<'a>(&mut self, requests: impl Iterator<Item = &'a mut [u8]>) {
        let digests = self.lanes.digests();
        let mut start = 0;
        let mut waiting = self.waiting.drain(..).peekable();
        for (slot, request) in requests.enumerate() {
            let Some(Waiting { at, text, .. }) = waiting.next_if(|next| next.slot == slot) else {
                continue;
            };
            match text {
                Text::Lane(place) => put_hex(request, at, digests.get(place).unwrap_or(&[0; 16])),
                Text::Input(end) => {
                    let text = self.input.get(start..end).unwrap_or_default();
                    hash(self.algorithm, text, |digest| put_hex(request, at, digest));
                    start = end;
                }
            }
        }
        drop(waiting);
        self.lanes.clear();
        self.input.clear();
    }
}

/// Writes a digest in hexadecimal at octet `at` of a request.
fn put_hex(request: &mut [u8], at: usize, digest: &[u8]) {
    let mut digits = [0; 64];
    for (pair, octet) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = HEX[usize::from(*octet)];
    }
    put(request, at, digits.get(..2 * digest.len()).unwrap_or_default());
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
    use crate::bench::challenge::MAX_NONCE;

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
                // The second request asks for none. So long a nonce has no room in a lane.
                let long = [b'n'; MAX_NONCE];
                let mut requests = [[b' '; 80]; 4];
                for _ in 0..2 {
                    responses.push(secrets.of(0), b"nonce", b"00000001", (0, 5));
                    responses.push(secrets.of(1), &long, b"00000001", (2, 9));
                    responses.push(secrets.of(1), b"nonce", b"00000001", (3, 7));
                    responses.write(requests.iter_mut().map(|request| &mut request[..]));
                }
                assert_eq!(requests[1], [b' '; 80]);
                for (request, at, name, password, nonce) in [
                    (&requests[0], 5, b"u0", b"p0", &b"nonce"[..]),
                    (&requests[2], 9, b"u1", b"p1", &long),
                    (&requests[3], 7, b"u1", b"p1", b"nonce"),
                ] {
                    let set = Ha1Set::of_password(&[algorithm], name, b"r", password);
                    let input = Input {
                        method: b"REGISTER",
                        uri: b"sip:bench.test",
                        nonce,
                        auth: qop_auth.then_some((b"00000001", CNONCE)),
                    };
                    let response = Response::parse(algorithm, &request[at..at + len]).unwrap();
                    assert!(response.is_right(set.ha1(algorithm).unwrap(), &input));
                }
            }
        }
    }
}
