//! The responses of many requests, computed side by side.

use md5::Md5;

use super::{
    authenticator::{Authenticator, Claim},
    digest::{Secret, hash, hex_into},
    md5_lanes::Batch,
    policy::Algorithm,
    verdict::{Refusal, Verdict},
};

/// The space in which the responses of a batch are computed; used again for the next.
pub struct Trials {
    batch: Batch,
    ha2: Ha2,
}

/// A claim whose response is on its way.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    claim: Claim<'a>,
    /// What the right response is made with; `None` where any is right.
    opponent: Option<Opponent>,
}

#[derive(Clone, Copy, Debug)]
struct Opponent {
    ha1: [u8; 32],
    /// Why even the right response would not do.
    refusal: Option<Refusal>,
    /// Its place in the batch; `None` if it has to be computed by itself.
    place: Option<usize>,
}

impl Trials {
    /// Space for `capacity` responses without allocating.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { batch: Batch::with_capacity(capacity), ha2: Ha2::default() }
    }

    /// Begins the next batch.
    pub fn clear(&mut self) {
        self.batch.clear();
    }

    /// Prepares what [`Trials::verdict`] will compare the response with.
    ///
    /// `secret` is that of the account, `None` if there is no such account: then there is a decoy,
    /// and no difference in the work.
    pub fn begin<'a>(
        &mut self,
        authenticator: &Authenticator,
        claim: Claim<'a>,
        method: &[u8],
        secret: Option<Secret>,
    ) -> Trial<'a> {
        let opponent = authenticator.opponent(&claim, secret).map(|(ha1s, refusal)| {
            let known = ha1s.ha1(claim.algorithm).unwrap_or_default();
            let mut ha1 = [0; 32];
            ha1[..known.len()].copy_from_slice(known);
            let place = (claim.algorithm == Algorithm::Md5)
                .then(|| self.push(known, &claim, method))
                .flatten();
            Opponent { ha1, refusal, place }
        });
        Trial { claim, opponent }
    }

    fn push(&mut self, ha1: &[u8], claim: &Claim<'_>, method: &[u8]) -> Option<usize> {
        let input = claim.input(method);
        let ha2 = self.ha2.of(method, input.uri);
        let mut ha1_hex = [0; 64];
        let ha1_hex = hex_into(ha1, &mut ha1_hex);
        match input.auth {
            Some((nc, cnonce)) => self.batch.push(&[
                ha1_hex,
                b":",
                input.nonce,
                b":",
                nc,
                b":",
                cnonce,
                b":auth:",
                ha2,
            ]),
            None => self.batch.push(&[ha1_hex, b":", input.nonce, b":", ha2]),
        }
    }

    /// Computes what was begun.
    pub fn compute(&mut self) {
        self.batch.digests();
    }

    /// What became of a claim, as [`Authenticator::judge`] would have it.
    pub fn verdict<'a>(&self, trial: &Trial<'a>, method: &[u8], request_uri: &[u8]) -> Verdict<'a> {
        let Trial { claim, opponent } = trial;
        let Some(Opponent { ha1, refusal, place }) = opponent else {
            return claim.grant(request_uri);
        };
        let ha1 = &ha1[..claim.algorithm.digest_len()];
        let computed = place.and_then(|at| self.batch.computed().get(at));
        // The compiler may not skip the work on finding that a refusal is certain.
        let is_right = std::hint::black_box(match computed {
            Some(right) => claim.response.is_md5(right) || claim.is_right_at_second(ha1, method),
            None => claim.is_right(ha1, method),
        });
        claim.verdict(is_right, *refusal, request_uri)
    }
}

impl std::fmt::Debug for Trials {
    /// Shows no digest: they are as good as a password while their nonce lives.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trials").field("len", &self.batch.len()).finish_non_exhaustive()
    }
}

/// H(A2) in hexadecimal, as it was computed last: phones of one domain have it in common.
#[derive(Debug, Default)]
struct Ha2 {
    /// Method, colon and URI.
    a2: Vec<u8>,
    hex: Option<[u8; 32]>,
}

impl Ha2 {
    fn of(&mut self, method: &[u8], uri: &[u8]) -> &[u8] {
        let Self { a2, hex } = self;
        let is_same = a2.len() == method.len() + 1 + uri.len()
            && a2.starts_with(method)
            && a2.get(method.len()) == Some(&b':')
            && a2.ends_with(uri);
        if !is_same {
            a2.clear();
            for part in [method, b":", uri] {
                a2.extend_from_slice(part);
            }
            *hex = None;
        }
        hex.get_or_insert_with(|| {
            let mut buffer = [0; 64];
            let mut hex = [0; 32];
            hex.copy_from_slice(hex_into(&hash::<Md5>(&[a2]), &mut buffer));
            hex
        })
    }
}
