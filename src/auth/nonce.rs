//! Nonces that need no memory: a time and a proof that a holder of the key wrote it.
//!
//! A nonce is 22 characters of base64url for 16 octets:
//!
//! | octets | what |
//! |---|---|
//! | 0–3 | when it was issued, Unix seconds, little-endian |
//! | 4 | which key made the proof |
//! | 5 | its scope: which of several domains it was issued for |
//! | 6–7 | what sets it apart from other nonces of that second |
//! | 8–15 | half of SipHash-2-4-128 over octets 0–7 |
//!
//! 22 characters leave 16 for the client's `cnonce` before an MD5 response takes a third block.
//!
//! # What an attacker can do
//!
//! - *Forge one*: 2^64 guesses, each a request to this server, for a key that is unknown. Nothing
//!   is gained but the right to be looked up: the response still needs the password.
//! - *Move the time*: the proof covers it. A later time would keep a captured response usable for
//!   longer, so a nonce from the future is refused even with a right proof; [`CLOCK_TOLERANCE`] is
//!   all that a wrong clock on another node can add to the lifetime.
//! - *Collect many*: they are free and say nothing about the key, which SipHash is made for.
//! - *Use it for another domain's address of record*: the digest does not cover To, so where one
//!   username stands for users of several domains, a response captured from one could be replayed
//!   to the other, whose nonce counts don't know it. [`Nonce::scope`] is there to refuse that.
//! - *Use one with another realm, address or account*: possible and harmless. The response binds
//!   realm and account; binding the address would challenge phones anew whenever NAT moves them.
//! - *Replay a response*: see [`NonceCounts`](super::NonceCounts), which tells nonces apart by time
//!   and octets 4–7, so a nonce must not have two spellings: bits that base64url leaves over have
//!   to be zero.
//! - *Replay it on another node*: nodes that share `secret_file` take each other's nonces, which
//!   saves a challenge when a phone moves, but nonce counts are per node until bindings are shared.
//!   Until then a captured response is good for one use on each other node, within the lifetime.
//! - *Read the key file*: then nonces can be made at will, which brings replay back for responses
//!   captured before. It is as secret as the accounts.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use super::digest::Ha1Set;
use crate::time::{DeltaSeconds, Now};

/// Characters of a nonce.
pub const NONCE_LEN: usize = 22;

/// Octets of the secret that nonces are made with.
pub const SECRET_LEN: usize = 32;

/// Seconds that a nonce may come from the future.
///
/// It covers small steps back of the wall clock and nodes that share a key but not quite the time.
/// Beyond it a nonce is stale, not forged: its owner is asked again, without a password prompt.
pub const CLOCK_TOLERANCE: u32 = 30;

/// The keys that nonces are made and checked with: the current one and the one before.
#[derive(Clone)]
pub struct NonceKeys {
    current: Key,
    previous: Key,
}

impl NonceKeys {
    /// Keys from 32 random octets, or from what [`NonceKeys::to_bytes`] gave.
    ///
    /// Two random halves are two keys of which one never made a nonce; nothing is lost by that.
    pub fn from_bytes(secret: &[u8; SECRET_LEN]) -> Self {
        let (mut current, mut previous) = ([0; 16], [0; 16]);
        current.copy_from_slice(&secret[..16]);
        previous.copy_from_slice(&secret[16..]);
        Self { current: Key::new(current), previous: Key::new(previous) }
    }

    /// The keys as they are stored: the current one first.
    pub fn to_bytes(&self) -> [u8; SECRET_LEN] {
        let mut secret = [0; SECRET_LEN];
        secret[..16].copy_from_slice(&self.current.octets);
        secret[16..].copy_from_slice(&self.previous.octets);
        secret
    }

    /// Makes a random `key` the current one; the one before the current is forgotten.
    ///
    /// Once per nonce lifetime is the most that leaves no nonce without its key.
    pub fn rotate(&mut self, key: [u8; 16]) {
        self.previous = std::mem::replace(&mut self.current, Key::new(key));
    }

    /// Writes a nonce for the second `issued`.
    ///
    /// The low octet of `unique` is the scope, the next two set the challenges of one second apart. A keyed hash of
    /// Call-ID, CSeq and branch is best: two phones get two nonces, and a retransmission gets the
    /// one that its first copy got.
    pub fn issue(&self, issued: u32, unique: u32) -> [u8; NONCE_LEN] {
        let [t0, t1, t2, t3] = issued.to_le_bytes();
        let [u0, u1, u2, _] = unique.to_le_bytes();
        let front = [t0, t1, t2, t3, self.current.id, u0, u1, u2];
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&front);
        octets[8..].copy_from_slice(&self.current.prove(front));
        to_base64url(octets)
    }

    /// Reads a nonce back; `None` unless one of these keys made it, whatever its age.
    pub fn open(&self, text: &[u8]) -> Option<Nonce> {
        let octets = from_base64url(text.try_into().ok()?)?;
        let (front, proof) = octets.split_first_chunk::<8>()?;
        let &[t0, t1, t2, t3, id, u0, u1, u2] = front;
        // Both are tried, since one in 256 pairs of keys has one id.
        let proof = u64::from_le_bytes(proof.try_into().ok()?);
        let is_proof = |own: [u8; 8]| bool::from(u64::from_le_bytes(own).ct_eq(&proof));
        let made_by = |key: &Key| key.id == id && is_proof(key.prove(*front));
        (made_by(&self.current) || made_by(&self.previous)).then(|| Nonce {
            issued: u32::from_le_bytes([t0, t1, t2, t3]),
            tag: u32::from_le_bytes([id, u0, u1, u2]),
        })
    }

    /// The hashes that an unknown user's response is compared with, so that it takes as long as a
    /// known one's. Nobody knows a password for them.
    pub(super) fn decoy(&self) -> Ha1Set {
        let low = self.current.derive(b"decoy low");
        let mut both = [0; 32];
        both[..16].copy_from_slice(&low);
        both[16..].copy_from_slice(&self.current.derive(b"decoy high"));
        Ha1Set { md5: Some(low), sha256: Some(both), sha512_256: Some(both) }
    }
}

impl std::fmt::Debug for NonceKeys {
    /// Shows which keys, not the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NonceKeys({:02x}, {:02x})", self.current.id, self.previous.id)
    }
}

/// A nonce that one of our keys made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// When, in Unix seconds.
    pub issued: u32,
    /// What sets it apart from the others of that second.
    pub tag: u32,
}

impl Nonce {
    /// What the low octet of `unique` was in [`NonceKeys::issue`].
    pub fn scope(self) -> u8 {
        let [_, scope, _, _] = self.tag.to_le_bytes();
        scope
    }

    /// Whether it may be used at `now`: neither older than `lifetime` nor from the future.
    pub fn is_current(self, now: Now, lifetime: DeltaSeconds) -> bool {
        !is_from_future(self.issued, now) && !is_aged(self.issued, now, lifetime)
    }
}

/// Whether a nonce issued then has outlived `lifetime`.
pub(super) fn is_aged(issued: u32, now: Now, lifetime: DeltaSeconds) -> bool {
    unix_second(now).saturating_sub(issued) > lifetime.0
}

/// Whether a nonce issued then comes from a clock that was ahead by more than is tolerated.
pub(super) fn is_from_future(issued: u32, now: Now) -> bool {
    issued.saturating_sub(unix_second(now)) > CLOCK_TOLERANCE
}

/// The wall clock in the four octets that a nonce has for it: enough until 2106.
pub(super) fn unix_second(now: Now) -> u32 {
    u32::try_from(now.unix).unwrap_or(u32::MAX)
}

#[derive(Clone)]
struct Key {
    octets: [u8; 16],
    /// Derived, so that nodes with one key agree on it and it needs no place on disk.
    id: u8,
}

impl Key {
    fn new(octets: [u8; 16]) -> Self {
        let mut key = Self { octets, id: 0 };
        let [id, ..] = key.derive(b"key id");
        key.id = id;
        key
    }

    fn prove(&self, front: [u8; 8]) -> [u8; 8] {
        SipHasher24::new_with_key(&self.octets).hash(&front).h1.to_le_bytes()
    }

    /// A value that only the key's holder can compute. `label` is never eight octets long, so it
    /// can't meet what [`Key::prove`] hashes.
    fn derive(&self, label: &[u8]) -> [u8; 16] {
        debug_assert!(label.len() != 8);
        let mut hasher = SipHasher24::new_with_key(&self.octets);
        hasher.write(label);
        hasher.finish128().as_bytes()
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// 128 bits as 21 digits of six bits and one of two, which stand at its top (RFC 4648 §5).
fn to_base64url(octets: [u8; 16]) -> [u8; NONCE_LEN] {
    let bits = u128::from_be_bytes(octets);
    std::array::from_fn(|at| {
        let digit = if at < 21 { bits >> (122 - 6 * at) } else { bits << 4 };
        let [.., low] = digit.to_be_bytes();
        ALPHABET[usize::from(low & 63)]
    })
}

/// The digit that each octet stands for; [`NO_DIGIT`] if none.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 64 {
        digits[ALPHABET[digit as usize] as usize] = digit;
        digit += 1;
    }
    digits
};

const NO_DIGIT: u8 = 0xff;

fn from_base64url(text: &[u8; NONCE_LEN]) -> Option<[u8; 16]> {
    let digits = text.map(|octet| DIGITS[usize::from(octet)]);
    let (last, whole) = digits.split_last()?;
    // Bits that no digit has, and those of the last one that base64url leaves over.
    if digits.iter().fold(last & 15, |seen, digit| seen | digit & 0xc0) != 0 {
        return None;
    }
    let bits = whole.iter().fold(0, |bits: u128, &digit| bits << 6 | u128::from(digit));
    Some((bits << 2 | u128::from(last >> 4)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIFETIME: DeltaSeconds = DeltaSeconds(300);

    fn at(unix: u64) -> Now {
        Now { millis: 5, unix }
    }

    fn keys(octet: u8) -> NonceKeys {
        NonceKeys::from_bytes(&[octet; SECRET_LEN])
    }

    #[test]
    fn base64url_is_that_of_rfc_4648() {
        let octets = [
            0x14, 0xfb, 0x9c, 0x03, 0xd9, 0x7e, 0xff, 0xef, 0xbe, 0x00, 0x10, 0x83, 0x10, 0x51,
            0x87, 0xff,
        ];
        assert_eq!(&to_base64url(octets), b"FPucA9l-_---ABCDEFGH_w");
        assert_eq!(from_base64url(b"FPucA9l-_---ABCDEFGH_w"), Some(octets));
        assert_eq!(from_base64url(b"FPucA9l-_---ABCDEFGH_x"), None, "a second spelling");
        assert_eq!(from_base64url(b"FPucA9l+/+++ABCDEFGH/w"), None, "the other alphabet");
    }

    #[test]
    fn every_changed_bit_is_refused() {
        let keys = keys(7);
        let text = keys.issue(1_700_000_000, 0xffab_cdef);
        assert_eq!(keys.open(&text).map(|nonce| nonce.issued), Some(1_700_000_000));
        for bit in 0..8 * NONCE_LEN {
            let mut forged = text;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(&forged), None, "bit {bit}");
        }
        let octets = from_base64url(&text).unwrap();
        for bit in 0..128 {
            let mut forged = octets;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(&to_base64url(forged)), None, "bit {bit}");
        }
        assert_eq!(keys.open(&text[..21]), None);
        assert_eq!(keys.open(&[&text[..], b"A"].concat()), None);
        assert_eq!(keys.open(b""), None);
    }

    #[test]
    fn a_nonce_holds_for_its_lifetime_and_not_before_its_time() {
        let nonce = Nonce { issued: 1_000_000, tag: 0 };
        assert!(nonce.is_current(at(1_000_000), LIFETIME));
        assert!(nonce.is_current(at(1_000_300), LIFETIME));
        assert!(!nonce.is_current(at(1_000_301), LIFETIME));
        assert!(nonce.is_current(at(1_000_000 - 30), LIFETIME), "the clock stepped back");
        assert!(!nonce.is_current(at(1_000_000 - 31), LIFETIME));
        assert!(!nonce.is_current(at(0), LIFETIME));
        assert!(!nonce.is_current(at(u64::MAX), LIFETIME));
    }

    #[test]
    fn a_nonce_outlives_one_rotation_and_a_restart() {
        let mut keys = keys(1);
        let text = keys.issue(9, 9);
        keys.rotate([2; 16]);
        assert!(keys.open(&text).is_some());
        let restored = NonceKeys::from_bytes(&keys.to_bytes());
        assert_eq!(restored.open(&text), keys.open(&text));
        assert_eq!(restored.issue(10, 1), keys.issue(10, 1));
        keys.rotate([3; 16]);
        assert_eq!(keys.open(&text), None);
    }

    #[test]
    fn one_second_has_many_nonces() {
        let keys = keys(3);
        let (a, b) = (keys.issue(9, 1), keys.issue(9, 2));
        assert_ne!(a, b);
        assert_ne!(keys.open(&a).unwrap().tag, keys.open(&b).unwrap().tag);
        assert_eq!(a, keys.issue(9, 1), "a retransmission gets what the first copy got");
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", keys(0x5a));
        assert!(!shown.contains("90") && shown.len() == "NonceKeys(00, 00)".len(), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_issued_opens(secret: [u8; SECRET_LEN], issued: u32, unique: u32) {
            let keys = NonceKeys::from_bytes(&secret);
            let nonce = keys.open(&keys.issue(issued, unique)).unwrap();
            prop_assert_eq!(nonce.issued, issued);
            prop_assert_eq!(nonce.tag >> 8, unique & 0x00ff_ffff);
        }

        #[test]
        fn other_keys_open_nothing(a: [u8; 32], b: [u8; 32], text in "[A-Za-z0-9_-]{22}") {
            prop_assume!(a != b);
            let issued = NonceKeys::from_bytes(&a).issue(1, 1);
            prop_assert_eq!(NonceKeys::from_bytes(&b).open(&issued), None);
            prop_assert_eq!(NonceKeys::from_bytes(&a).open(text.as_bytes()), None);
        }
    }
}
