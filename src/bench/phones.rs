//! The phones: one flat record for each user, a million of them in some hundred megabytes.

use super::plan::Operation;
use super::request::FIRST_CSEQ;

/// What one phone is doing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phone {
    /// When its operation began, or was to begin, in nanoseconds.
    pub(super) started: u64,
    /// When its request was first sent.
    pub(super) sent: u64,
    /// The CSeq of its last request.
    pub(super) cseq: u32,
    /// How often it has used its nonce.
    pub(super) nc: u32,
    /// Octets of its nonce; 0 if it has none.
    nonce_len: u16,
    /// What it waits for.
    pub(super) operation: Option<Operation>,
    /// Whether its request has credentials.
    pub(super) authorized: bool,
    /// Challenges met in this operation.
    pub(super) challenges: u8,
    /// How often its request was sent again.
    pub(super) retransmissions: u8,
    /// Attempts that failed since it was last registered.
    pub(super) failures: u8,
}

impl Phone {
    const NEW: Self = Self {
        started: 0,
        sent: 0,
        cseq: FIRST_CSEQ,
        nc: 0,
        nonce_len: 0,
        operation: None,
        authorized: false,
        challenges: 0,
        retransmissions: 0,
        failures: 0,
    };

    /// Whether it has a nonce.
    pub(super) fn has_nonce(&self) -> bool {
        self.nonce_len > 0
    }

    /// Forgets its nonce.
    pub(super) fn drop_nonce(&mut self) {
        self.nonce_len = 0;
    }
}

/// All phones and their nonces.
#[derive(Debug)]
pub(super) struct Phones {
    phones: Vec<Phone>,
    /// Room for one nonce of `stride` octets each.
    nonces: Vec<u8>,
    stride: usize,
}

impl Phones {
    pub(super) fn new(count: u32) -> Self {
        let count = usize::try_from(count).unwrap_or(0);
        Self { phones: vec![Phone::NEW; count], nonces: Vec::new(), stride: 0 }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.phones.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, user: u32) -> Option<&Phone> {
        self.phones.get(usize::try_from(user).ok()?)
    }

    pub(super) fn get_mut(&mut self, user: u32) -> Option<&mut Phone> {
        self.phones.get_mut(usize::try_from(user).ok()?)
    }

    /// The nonce of `user`; empty if it has none.
    pub(super) fn nonce(&self, user: u32) -> &[u8] {
        let len = self.get(user).map_or(0, |phone| usize::from(phone.nonce_len));
        let at = usize::try_from(user).unwrap_or(0) * self.stride;
        self.nonces.get(at..at + len).unwrap_or_default()
    }

    /// Gives `user` a nonce that it has not used yet.
    pub(super) fn set_nonce(&mut self, user: u32, nonce: &[u8]) {
        if nonce.len() > self.stride {
            self.widen(nonce.len());
        }
        let at = usize::try_from(user).unwrap_or(0) * self.stride;
        let len = u16::try_from(nonce.len()).unwrap_or(0);
        if let Some(place) = self.nonces.get_mut(at..at + nonce.len()) {
            place.copy_from_slice(nonce);
        }
        if let Some(phone) = self.get_mut(user) {
            phone.nonce_len = len;
            phone.nc = 0;
        }
    }

    /// Makes room for longer nonces. Most registrars send one length, so it happens once.
    fn widen(&mut self, stride: usize) {
        let mut nonces = vec![0; self.phones.len() * stride];
        if self.stride > 0 {
            let old = self.nonces.chunks_exact(self.stride);
            for (new, old) in nonces.chunks_exact_mut(stride).zip(old) {
                if let Some(place) = new.get_mut(..old.len()) {
                    place.copy_from_slice(old);
                }
            }
        }
        (self.nonces, self.stride) = (nonces, stride);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_of_any_length_are_kept_apart() {
        let mut phones = Phones::new(3);
        assert_eq!(phones.nonce(1), b"");
        phones.set_nonce(1, b"short");
        phones.get_mut(1).unwrap().nc = 9;
        phones.set_nonce(2, b"a longer one");
        phones.set_nonce(0, b"mid len");
        assert_eq!((phones.nonce(0), phones.nonce(1)), (&b"mid len"[..], &b"short"[..]));
        assert_eq!(phones.nonce(2), b"a longer one");
        assert_eq!(phones.get(1).unwrap().nc, 9);
        phones.set_nonce(1, b"new");
        assert_eq!((phones.nonce(1), phones.get(1).unwrap().nc), (&b"new"[..], 0));
        phones.get_mut(1).unwrap().drop_nonce();
        assert_eq!(phones.nonce(1), b"");
        assert!(phones.get(3).is_none() && phones.nonce(3).is_empty());
    }

    #[test]
    fn a_phone_is_small() {
        assert!(size_of::<Phone>() <= 40);
    }
}
