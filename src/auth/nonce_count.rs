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

/// The one entry of an encoding that [`NonceCounts::renewal`] found to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    floor: u32,
    at: usize,
    entry: Entry,
}

impl Renewal {
    /// Changes it in the encoding that it was found for.
    pub fn apply(&self, encoded: &mut [u8]) {
        let at = NonceCounts::FLOOR_LEN + self.at * NonceCounts::ENTRY_LEN;
        if let Some(floor) = encoded.get_mut(..NonceCounts::FLOOR_LEN) {
            floor.copy_from_slice(&self.floor.to_le_bytes());
        }
        if let Some(entry) = encoded.get_mut(at..at + NonceCounts::ENTRY_LEN) {
            entry.copy_from_slice(&self.entry.to_octets());
        }
    }
}

impl Entry {
    fn to_octets(self) -> [u8; NonceCounts::ENTRY_LEN] {
        let Self { nonce: Nonce { issued, tag }, nc, request: RequestHash(request) } = self;
        let mut octets = [0; NonceCounts::ENTRY_LEN];
        let (words, _) = octets.as_chunks_mut::<4>();
        for (octets, word) in words.iter_mut().zip([issued, tag, nc, request]) {
            *octets = word.to_le_bytes();
        }
        octets
    }

    fn from_octets(octets: &[u8; NonceCounts::ENTRY_LEN]) -> Self {
        let mut read = [0; 4];
        for (word, octets) in read.iter_mut().zip(octets.as_chunks().0) {
            *word = u32::from_le_bytes(*octets);
        }
        let [issued, tag, nc, request] = read;
        Self { nonce: Nonce { issued, tag }, nc, request: RequestHash(request) }
    }
}

impl NonceCounts {
    /// Nonces that are listed: the devices of one account that can register at once without being
    /// challenged twice. More than an AoR has bindings by default (ten); a nonce that isn't used
    /// takes no room in the encoding.
    pub const KEPT: usize = 12;

    /// Octets of the floor in an encoding that is not empty.
    const FLOOR_LEN: usize = 4;

    /// Octets of an encoded entry.
    const ENTRY_LEN: usize = 16;

    /// Octets of the longest encoding.
    pub const MAX_LEN: usize = Self::FLOOR_LEN + Self::KEPT * Self::ENTRY_LEN;

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

    /// Has every nonce issued by Unix second `second` that isn't listed be stale: it may have been
    /// used where nobody here can know.
    pub fn distrust_until(&mut self, second: u32) {
        self.floor = self.floor.max(second);
    }

    /// Takes the uses that `other` lists, and what it has forgotten.
    pub fn merge(&mut self, other: &Self) {
        self.floor = self.floor.max(other.floor);
        for Entry { nonce, nc, request } in other.used() {
            self.record(NonceUse { nonce: *nonce, nc: Some(*nc) }, *request);
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
        match *self == Self::new() {
            true => 0,
            false => Self::FLOOR_LEN + Self::ENTRY_LEN * usize::from(self.len),
        }
    }

    /// Writes the floor and 16 octets for each nonce, little-endian; nothing for a new account.
    pub fn encode_into(&self, out: &mut impl Sink) {
        if *self == Self::new() {
            return;
        }
        out.put(&self.floor.to_le_bytes());
        for entry in self.used() {
            out.put(&entry.to_octets());
        }
    }

    /// Reads what [`NonceCounts::encode_into`] wrote; `None` if the length can't be.
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let mut counts = Self::new();
        if octets.is_empty() {
            return Some(counts);
        }
        let (floor, entries) = octets.split_first_chunk::<{ Self::FLOOR_LEN }>()?;
        let (entries, []) = entries.as_chunks::<{ Self::ENTRY_LEN }>() else { return None };
        counts.floor = u32::from_le_bytes(*floor);
        counts.len = u8::try_from(entries.len()).ok()?;
        for (slot, octets) in counts.entries.get_mut(..entries.len())?.iter_mut().zip(entries) {
            *slot = Entry::from_octets(octets);
        }
        Some(counts)
    }

    /// What a use changes in an encoding where it is plainly [`Use::Fresh`] and no more than one
    /// entry changes: a higher count of a nonce that is listed, or a nonce in the place of an aged
    /// one that is alone. `None` wherever it takes [`NonceCounts::prune`], [`NonceCounts::check`]
    /// and [`NonceCounts::record`] to tell; with them the outcome would be the same octets.
    pub fn renewal(
        encoded: &[u8],
        used: NonceUse,
        request: RequestHash,
        now: Now,
        lifetime: DeltaSeconds,
    ) -> Option<Renewal> {
        let (floor, entries) = encoded.split_first_chunk::<{ Self::FLOOR_LEN }>()?;
        let (entries, []) = entries.as_chunks::<{ Self::ENTRY_LEN }>() else { return None };
        let floor = u32::from_le_bytes(*floor);
        let nc = used.nc?;
        if nonce::is_from_future(floor, now) || entries.len() > Self::KEPT {
            return None;
        }
        let entry = Entry { nonce: used.nonce, nc, request };
        let mut found = None;
        for (at, octets) in entries.iter().enumerate() {
            let known = Entry::from_octets(octets);
            let issued = known.nonce.issued;
            if nonce::is_from_future(issued, now) {
                return None;
            }
            if nonce::is_aged(issued, now, lifetime) {
                let floor = floor.max(issued);
                let is_alone = entries.len() == 1 && used.nonce.issued > floor;
                return is_alone.then_some(Renewal { floor, at, entry });
            }
            if known.nonce == used.nonce {
                found = (nc > known.nc).then_some(Renewal { floor, at, entry });
                found?;
            }
        }
        found
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

    #[test]
    fn a_renewal_is_found_where_phones_refresh() {
        let renewal = |encoded: &[u8], used, now| {
            NonceCounts::renewal(encoded, used, RequestHash(7), at(now), LIFETIME)
        };
        let encode = |uses: &[NonceUse]| {
            let (mut counts, mut octets) = (NonceCounts::new(), Octets(Vec::new()));
            uses.iter().for_each(|used| counts.record(*used, RequestHash(1)));
            counts.encode_into(&mut octets);
            octets.0
        };
        let (one, two) =
            (encode(&[used(1000, 1, 1)]), encode(&[used(1000, 1, 1), used(1200, 2, 1)]));
        assert!(renewal(&one, used(1000, 1, 2), 1300).is_some(), "the next count");
        assert!(renewal(&two, used(1200, 2, 5), 1300).is_some(), "beside another device");
        assert!(renewal(&one, used(1400, 9, 1), 1400).is_some(), "after a new challenge");
        assert!(renewal(&one, used(1000, 1, 1), 1300).is_none(), "the same count");
        assert!(renewal(&one, used(1200, 2, 1), 1300).is_none(), "another nonce");
        assert!(renewal(&two, used(1200, 2, 2), 1301).is_none(), "one of two aged");
        assert!(renewal(&one, used(1000, 1, 2), 900).is_none(), "the clock was ahead");
        assert!(renewal(&[], used(1000, 1, 1), 1000).is_none(), "a new account");
        let plain = NonceUse { nc: None, ..used(1000, 1, 2) };
        assert!(renewal(&one, plain, 1000).is_none(), "no count");
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

        /// Where a renewal is found, pruning, judging and recording come to the same octets.
        #[test]
        fn a_renewal_is_what_the_long_way_does(
            steps in prop::collection::vec((0..40_u32, 0..3_u32, 0..400_u32, 0..4_u32), 0..60),
            step_back in prop::option::of(0..60_usize),
        ) {
            let mut encoded = Octets(Vec::new());
            let (mut clock, mut last) = (1000, NonceUse { nonce: Nonce { issued: 1000, tag: 0 }, nc: None });
            for (step, (before, tag, wait, nc)) in steps.into_iter().enumerate() {
                clock = if step_back == Some(step) { clock - 200 } else { clock + wait / 8 };
                let request = RequestHash(nc);
                // The nonce used last again, as phones do, or another.
                let used = match last.nc {
                    Some(count) if tag > 0 && wait > 40 => NonceUse { nc: Some(count + nc), ..last },
                    _ => used(clock - before, tag, nc),
                };
                last = used;
                let mut counts = NonceCounts::decode(&encoded.0).unwrap();
                counts.prune(at(clock), LIFETIME);
                let found = counts.check(used, request);
                let renewal =
                    NonceCounts::renewal(&encoded.0, used, request, at(clock), LIFETIME);
                counts.record(used, request);
                let mut long_way = Octets(Vec::new());
                counts.encode_into(&mut long_way);
                if let Some(renewal) = renewal {
                    prop_assert_eq!(found, Use::Fresh);
                    renewal.apply(&mut encoded.0);
                    prop_assert_eq!(&encoded.0, &long_way.0);
                }
                if found == Use::Fresh {
                    encoded = long_way;
                }
            }
        }
    }
}
