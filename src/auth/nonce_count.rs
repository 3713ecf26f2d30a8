//! Which nonces an account used lately and how often: what makes a captured response useless.
//!
//! The rule needs memory, and memory must be bounded, so it is kept by account, next to the
//! bindings, and only for the [`NonceCounts::KEPT`] nonces issued last. What falls out raises a
//! floor: a nonce that isn't listed and was issued at or before the floor may have been used and
//! forgotten, so it is stale. Forgetting can cost a challenge; it can't let a replay through.
//!
//! What the holder of the record owes for that to be true:
//!
//! - one record of counts for each *authenticated username*. If one username may register several
//!   addresses of record, counts kept with each address would let a response captured from one be
//!   replayed to another, since the digest doesn't cover To;
//! - the record outlives its bindings until [`NonceCounts::prune`] has emptied it, and is written
//!   to disk with them;
//! - [`NonceCounts::check`] and [`NonceCounts::record`] run under the same lock, and only after
//!   the digest was verified, or strangers could spend a phone's counts.
//!
//! A response without `qop` has no count. It is good for as long as its nonce is: RFC 2069 clients
//! use one nonce for many requests and can't tell them apart. That window, `nonce_lifetime`, is
//! what an operator who serves such phones chooses.

use super::challenge::Sink;
use super::nonce::{self, Nonce};
use crate::time::{DeltaSeconds, Now};

/// How a grant used its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceUse {
    /// The nonce.
    pub nonce: Nonce,
    /// The `nc` parameter (RFC 7616 §3.4); `None` without `qop`.
    pub nc: Option<u32>,
}

/// A keyed hash of Call-ID, CSeq and branch: what a retransmission has in common with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHash(pub u32);

/// What a use of a nonce turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Not seen before: go on, and record it.
    Fresh,
    /// The request seen last with this nonce: give the same answer again and change nothing.
    Retransmission,
    /// A count that is not higher than the last: answered like a stale nonce, because phones that
    /// forget to count recover from that by themselves.
    Replay,
    /// Too old to tell: answered with `stale=true`, with a nonce not before
    /// [`NonceCounts::not_before`].
    Stale,
}

/// The nonces that an account used lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceCounts {
    /// The issue time of the newest nonce that was used and is no longer listed.
    floor: u32,
    len: u8,
    entries: [Entry; Self::KEPT],
}

/// A nonce and its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    nonce: Nonce,
    nc: u32,
    request: RequestHash,
}

impl NonceCounts {
    /// Nonces that are listed: the devices of one account that can register at once without being
    /// challenged twice. More than an AoR has bindings by default (ten); a nonce that isn't used
    /// takes no room in the encoding.
    pub const KEPT: usize = 12;

    /// Octets of an encoded entry.
    const ENTRY_LEN: usize = 16;

    /// Octets of the longest encoding.
    pub const MAX_LEN: usize = 4 + Self::KEPT * Self::ENTRY_LEN;

    /// An account that used no nonce yet.
    pub const fn new() -> Self {
        const UNUSED: Entry =
            Entry { nonce: Nonce { issued: 0, tag: 0 }, nc: 0, request: RequestHash(0) };
        Self { floor: 0, len: 0, entries: [UNUSED; Self::KEPT] }
    }

    /// Judges a use of a nonce that the authenticator granted; changes nothing.
    pub fn check(&self, used: NonceUse, request: RequestHash) -> Use {
        let Some(nc) = used.nc else { return Use::Fresh };
        match self.used().iter().find(|entry| entry.nonce == used.nonce) {
            // Gaps are fine: a request may be lost, or have gone to another method or node.
            Some(entry) if nc > entry.nc => Use::Fresh,
            Some(entry) if nc == entry.nc && request == entry.request => Use::Retransmission,
            Some(_) => Use::Replay,
            None if used.nonce.issued <= self.floor => Use::Stale,
            None => Use::Fresh,
        }
    }

    /// Records a use that was [`Use::Fresh`].
    ///
    /// A full list loses the nonce issued first, never the one being used.
    pub fn record(&mut self, used: NonceUse, request: RequestHash) {
        let Some(nc) = used.nc else { return };
        let entry = Entry { nonce: used.nonce, nc, request };
        if let Some(known) = self.used_mut().iter_mut().find(|known| known.nonce == used.nonce) {
            if nc > known.nc {
                *known = entry;
            }
        } else if let Some(free) = self.entries.get_mut(usize::from(self.len)) {
            *free = entry;
            self.len += 1;
        } else if let Some(oldest) = self.entries.iter_mut().min_by_key(|e| e.nonce.issued) {
            self.floor = self.floor.max(oldest.nonce.issued);
            *oldest = entry;
        }
    }

    /// Drops the nonces that the authenticator would no longer grant.
    ///
    /// The aged ones raise the floor, so that they stay spent if the wall clock steps back. What
    /// lies in the future can only come from a clock that was wrong: it is dropped and the floor
    /// lowered, or the account would be locked out until that time has come. (A response captured
    /// meanwhile is good for one more use then; that is the smaller harm.)
    pub fn prune(&mut self, now: Now, lifetime: DeltaSeconds) {
        let mut kept = Self::new();
        kept.floor = self.floor;
        for entry in self.used() {
            let issued = entry.nonce.issued;
            if nonce::is_aged(issued, now, lifetime) {
                kept.floor = kept.floor.max(issued);
            } else if !nonce::is_from_future(issued, now)
                && let Some(free) = kept.entries.get_mut(usize::from(kept.len))
            {
                *free = *entry;
                kept.len += 1;
            }
        }
        if nonce::is_from_future(kept.floor, now) {
            kept.floor = nonce::unix_second(now);
        }
        *self = kept;
    }

    /// The first second whose nonces are not stale here.
    ///
    /// A challenge that follows [`Use::Stale`] takes it as its issue time if it is later than the
    /// clock: of more phones than [`NonceCounts::KEPT`] that register within one second, the late
    /// ones would otherwise be sent one stale nonce after the other.
    pub fn not_before(&self) -> u32 {
        self.floor.saturating_add(1)
    }

    /// Whether nothing is listed, so that forgetting the account lets no replay through.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets that [`NonceCounts::encode_into`] writes.
    pub fn encoded_len(&self) -> usize {
        if *self == Self::new() { 0 } else { 4 + Self::ENTRY_LEN * usize::from(self.len) }
    }

    /// Writes the floor and 16 octets for each nonce, little-endian; nothing for a new account.
    pub fn encode_into(&self, out: &mut impl Sink) {
        if *self == Self::new() {
            return;
        }
        out.put(&self.floor.to_le_bytes());
        for Entry { nonce, nc, request } in self.used() {
            out.put(&nonce.issued.to_le_bytes());
            out.put(&nonce.tag.to_le_bytes());
            out.put(&nc.to_le_bytes());
            out.put(&request.0.to_le_bytes());
        }
    }

    /// Reads what [`NonceCounts::encode_into`] wrote; `None` if the length can't be.
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let mut counts = Self::new();
        if octets.is_empty() {
            return Some(counts);
        }
        let (words, []) = octets.as_chunks::<4>() else { return None };
        let (floor, entries) = words.split_first()?;
        let (entries, []) = entries.as_chunks::<4>() else { return None };
        counts.floor = u32::from_le_bytes(*floor);
        counts.len = u8::try_from(entries.len()).ok()?;
        for (slot, words) in counts.entries.get_mut(..entries.len())?.iter_mut().zip(entries) {
            let [issued, tag, nc, request] = words.map(u32::from_le_bytes);
            *slot = Entry { nonce: Nonce { issued, tag }, nc, request: RequestHash(request) };
        }
        Some(counts)
    }

    fn used(&self) -> &[Entry] {
        self.entries.get(..usize::from(self.len)).unwrap_or(&self.entries)
    }

    fn used_mut(&mut self) -> &mut [Entry] {
        let len = usize::from(self.len).min(Self::KEPT);
        &mut self.entries[..len]
    }
}

impl Default for NonceCounts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIFETIME: DeltaSeconds = DeltaSeconds(300);

    fn at(unix: u32) -> Now {
        Now { millis: 0, unix: u64::from(unix) }
    }

    fn used(issued: u32, tag: u32, nc: u32) -> NonceUse {
        NonceUse { nonce: Nonce { issued, tag }, nc: Some(nc) }
    }

    /// Judges and, as the registrar does, records what is fresh.
    fn go(counts: &mut NonceCounts, used: NonceUse, request: u32) -> Use {
        let found = counts.check(used, RequestHash(request));
        if found == Use::Fresh {
            counts.record(used, RequestHash(request));
        }
        found
    }

    #[test]
    fn two_devices_count_on_their_own() {
        use Use::{Fresh, Replay, Retransmission};
        let (a, b) = (|nc| used(100, 1, nc), |nc| used(100, 2, nc));
        let mut counts = NonceCounts::new();
        let steps = [
            (a(1), 11, Fresh),
            (b(1), 21, Fresh),
            (a(1), 11, Retransmission),
            (b(1), 21, Retransmission),
            (a(2), 12, Fresh),
            (a(1), 11, Replay),
            (b(1), 99, Replay),
            (b(5), 25, Fresh),
            (b(4), 24, Replay),
            (b(5), 25, Retransmission),
            (a(2), 13, Replay),
            (a(3), 12, Fresh),
            (b(u32::MAX), 26, Fresh),
            (b(u32::MAX), 27, Replay),
        ];
        for (step, (used, request, expected)) in steps.into_iter().enumerate() {
            assert_eq!(go(&mut counts, used, request), expected, "step {step}");
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is 12")]
    const KEPT: u32 = NonceCounts::KEPT as u32;

    #[test]
    fn more_devices_than_are_kept_never_open_a_window() {
        let mut counts = NonceCounts::new();
        let last = KEPT + 2;
        for device in 1..=last {
            assert_eq!(go(&mut counts, used(100 + device, device, 1), device), Use::Fresh);
        }
        for device in 1..=2 {
            let forgotten = used(100 + device, device, 1);
            assert_eq!(go(&mut counts, forgotten, device), Use::Stale);
            assert_eq!(go(&mut counts, used(100 + device, device, 2), 0), Use::Stale);
        }
        for device in 3..=last {
            assert_eq!(go(&mut counts, used(100 + device, device, 1), 0), Use::Replay);
            assert_eq!(go(&mut counts, used(100 + device, device, 2), 0), Use::Fresh);
        }
        assert_eq!(counts.not_before(), 103);
    }

    #[test]
    fn a_crowd_within_one_second_gets_in_with_later_nonces() {
        let mut counts = NonceCounts::new();
        for tag in 1..=KEPT + 1 {
            assert_eq!(go(&mut counts, used(100, tag, 1), tag), Use::Fresh);
        }
        assert_eq!(go(&mut counts, used(100, 99, 1), 99), Use::Stale);
        let issued = counts.not_before();
        assert_eq!(issued, 101);
        assert_eq!(go(&mut counts, used(issued, 99, 1), 99), Use::Fresh);
    }

    #[test]
    fn a_late_answer_to_an_old_challenge_stays() {
        let mut counts = NonceCounts::new();
        for device in 1..=KEPT {
            go(&mut counts, used(200 + device, device, 1), device);
        }
        let late = used(150, 99, 1);
        assert_eq!(go(&mut counts, late, 99), Use::Fresh);
        assert_eq!(go(&mut counts, late, 99), Use::Retransmission);
        assert_eq!(go(&mut counts, used(150, 99, 2), 98), Use::Fresh);
        assert_eq!(go(&mut counts, used(201, 1, 1), 1), Use::Stale);
    }

    #[test]
    fn without_qop_nothing_is_counted() {
        let mut counts = NonceCounts::new();
        let plain = NonceUse { nonce: Nonce { issued: 5, tag: 5 }, nc: None };
        assert_eq!(go(&mut counts, plain, 1), Use::Fresh);
        assert_eq!(go(&mut counts, plain, 1), Use::Fresh);
        assert_eq!(counts, NonceCounts::new());
    }

    #[test]
    fn pruning_drops_what_aged_and_keeps_it_spent() {
        let mut counts = NonceCounts::new();
        go(&mut counts, used(1000, 1, 1), 1);
        go(&mut counts, used(1200, 2, 1), 2);
        counts.prune(at(1300), LIFETIME);
        assert_eq!(go(&mut counts, used(1000, 1, 1), 1), Use::Retransmission);
        counts.prune(at(1301), LIFETIME);
        assert_eq!(counts.encoded_len(), 20);
        assert_eq!(go(&mut counts, used(1000, 1, 2), 3), Use::Stale);
        assert_eq!(go(&mut counts, used(1200, 2, 1), 2), Use::Retransmission);
        counts.prune(at(5000), LIFETIME);
        assert!(counts.is_empty());
        assert_eq!(counts.not_before(), 1201);
    }

    #[test]
    fn a_clock_that_was_ahead_locks_nobody_out() {
        let mut counts = NonceCounts::new();
        for device in 1..=KEPT + 2 {
            go(&mut counts, used(9000 + device, device, 1), device);
        }
        counts.prune(at(1000), LIFETIME);
        assert!(counts.is_empty());
        let issued = counts.not_before();
        assert!(Nonce { issued, tag: 1 }.is_current(at(1000), LIFETIME));
        assert_eq!(go(&mut counts, used(issued, 1, 1), 1), Use::Fresh);
    }

    #[test]
    fn odd_lengths_are_not_decoded() {
        for len in 0..=NonceCounts::MAX_LEN + 20 {
            let fits = len == 0 || (len <= NonceCounts::MAX_LEN && len % 16 == 4);
            assert_eq!(NonceCounts::decode(&vec![1; len]).is_some(), fits, "{len} octets");
        }
    }

    struct Octets(Vec<u8>);

    impl Sink for Octets {
        fn put(&mut self, octets: &[u8]) {
            self.0.extend_from_slice(octets);
        }
    }

    proptest! {
        /// Whatever is used in whatever order, no nonce is ever fresh twice with one count.
        #[test]
        fn nothing_is_fresh_twice(
            steps in prop::collection::vec((0..8_u32, 0..4_u32, 0..5_u32, 0..3_u32), 0..200),
        ) {
            let mut counts = NonceCounts::new();
            let mut spent = std::collections::HashSet::new();
            for (issued, tag, nc, request) in steps {
                let used = used(issued, tag, nc);
                match go(&mut counts, used, request) {
                    Use::Fresh => prop_assert!(spent.insert((issued, tag, nc))),
                    Use::Retransmission | Use::Replay => {
                        prop_assert!(spent.iter().any(|&(i, t, n)| (i, t) == (issued, tag) && n >= nc));
                    }
                    Use::Stale => prop_assert!(issued < counts.not_before()),
                }
                let mut encoded = Octets(Vec::new());
                counts.encode_into(&mut encoded);
                prop_assert_eq!(encoded.0.len(), counts.encoded_len());
                prop_assert_eq!(NonceCounts::decode(&encoded.0), Some(counts));
            }
        }
    }
}
