//! The map of records.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crossbeam::utils::CachePadded;
use dashmap::{DashMap, mapref::entry::Entry as Slot};
use siphasher::sip::SipHasher13;

use super::{
    expiry::{WHEELS, Wheels},
    feed::{Cause, Change, Feed, Subscription},
};
use crate::{
    auth::Renewal,
    flow::Transport,
    registrar::{AorRecord, RecordWriter, Refresh, set_scheduled, set_sequence},
    time::Now,
};

/// Parts of the map with a lock each. While one grows, its writers wait: with this many, that
/// takes 6 ms at ten million records, where the library's default stalls them for 160.
const SHARDS: usize = 1024;

/// Low bits of a sequence that count changes within a millisecond of the start's wall clock.
const SEQUENCE_BITS: u32 = 20;

type Packed = Box<[u8]>;

/// All bindings of all AoRs.
///
/// The map's key is a keyed 64-bit hash of the AoR: strangers can't aim at one shard, and a slot
/// holds no text. Should two AoRs ever share a hash, the second lives in `collided`.
#[derive(Debug)]
pub struct Location {
    map: DashMap<u64, Packed, BuildHasherDefault<Identity>>,
    collided: Mutex<HashMap<Box<[u8]>, Packed>>,
    collisions: AtomicUsize,
    hash_key: [u8; 16],
    wheels: Wheels,
    feed: Feed,
    /// The last sequence given out, by map shard.
    sequences: Box<[AtomicU64]>,
    counts: Counts,
    max_bindings: AtomicU64,
}

/// How much is stored: changed when something is added or goes, not on a refresh.
#[derive(Debug, Default)]
struct Counts {
    aors: CachePadded<AtomicU64>,
    bindings: [CachePadded<AtomicU64>; Transport::ALL.len()],
}

/// `max_bindings` is reached, so nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationFull;

/// A keyed hash of an AoR: where its record is. Worked out once for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AorKey(u64);

/// Hashes a key that is a hash already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Location {
    /// An empty location service. `hash_key` is random and its own; `now` seeds the sequences, so
    /// that they go on upwards after a restart; `max_bindings` of zero sets no bound.
    pub fn new(hash_key: [u8; 16], now: Now, max_bindings: u64) -> Self {
        let first = now.unix.saturating_mul(1000) << SEQUENCE_BITS;
        Self {
            map: DashMap::with_capacity_and_hasher_and_shard_amount(
                0,
                BuildHasherDefault::default(),
                SHARDS,
            ),
            collided: Mutex::default(),
            collisions: AtomicUsize::new(0),
            hash_key,
            wheels: Wheels::new(),
            feed: Feed::default(),
            sequences: (0..SHARDS).map(|_| AtomicU64::new(first)).collect(),
            counts: Counts::default(),
            max_bindings: AtomicU64::new(max_bindings),
        }
    }

    /// Changes the bound on all bindings together; zero sets none.
    ///
    /// # Reload
    /// What is stored beyond a lowered bound stays until it ends.
    pub fn set_max_bindings(&self, max: u64) {
        self.max_bindings.store(max, Ordering::Relaxed);
    }

    /// AoRs with a binding.
    pub fn aors(&self) -> u64 {
        self.counts.aors.load(Ordering::Relaxed)
    }

    /// Bindings of one transport.
    pub fn bindings_by(&self, transport: Transport) -> u64 {
        self.counts.bindings[usize::from(transport.code())].load(Ordering::Relaxed)
    }

    /// All bindings.
    pub fn bindings(&self) -> u64 {
        Transport::ALL.into_iter().map(|t| self.bindings_by(t)).sum()
    }

    /// The changes from now on; a subscriber that lags more than `capacity` behind misses some.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        self.feed.subscribe(capacity)
    }

    /// The key of an AoR, which every call for this AoR takes; of this location service only.
    pub fn key(&self, aor: &[u8]) -> AorKey {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(aor);
        AorKey(hasher.finish())
    }

    fn collided(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Packed>> {
        self.collided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the record of `aor` under its shard's lock.
    ///
    /// `read` must be short: no IO, no other call into this module.
    pub fn read<R>(&self, aor: &[u8], read: impl FnOnce(Option<AorRecord<'_>>) -> R) -> R {
        if let Some(packed) = self.map.get(&self.key(aor).0)
            && let Some(record) = AorRecord::new(&packed)
            && record.aor() == aor
        {
            return read(Some(record));
        }
        if self.collisions.load(Ordering::Relaxed) > 0
            && let Some(packed) = self.collided().get(aor)
        {
            return read(AorRecord::new(packed));
        }
        read(None)
    }

    /// Gives the record of `aor` to `change`, under its shard's lock, to be changed or left.
    ///
    /// `change` must be short: no IO, no waiting, no other call into this module.
    pub fn update<R>(
        &self,
        aor: &[u8],
        now: Now,
        cause: Cause,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        self.update_at(self.key(aor), aor, now, cause, change)
    }

    /// [`Location::update`] where the key is known already.
    pub fn update_at<R>(
        &self,
        AorKey(key): AorKey,
        aor: &[u8],
        now: Now,
        cause: Cause,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        match self.map.entry(key) {
            Slot::Occupied(mut slot) => {
                if AorRecord::new(slot.get()).is_some_and(|r| r.aor() == aor) {
                    let held = Held::Stored(slot.get_mut());
                    let mut entry = Entry::new(self, key, now, cause, held);
                    let result = change(&mut entry);
                    if matches!(entry.held, Held::Removed) {
                        slot.remove();
                    }
                    return result;
                }
                self.update_collided(aor, key, now, cause, change)
            }
            Slot::Vacant(slot) => {
                if self.collisions.load(Ordering::Relaxed) > 0 && self.collided().contains_key(aor)
                {
                    return self.update_collided(aor, key, now, cause, change);
                }
                let mut entry = Entry::new(self, key, now, cause, Held::Nothing);
                let result = change(&mut entry);
                if let Held::Fresh(packed) = entry.held {
                    slot.insert(packed);
                }
                result
            }
        }
    }

    /// [`Location::update`] for an AoR whose hash another AoR has; the caller holds the shard.
    fn update_collided<R>(
        &self,
        aor: &[u8],
        key: u64,
        now: Now,
        cause: Cause,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        let mut collided = self.collided();
        let held = collided.get_mut(aor).map_or(Held::Nothing, Held::Stored);
        let mut entry = Entry::new(self, key, now, cause, held);
        let result = change(&mut entry);
        match entry.held {
            Held::Fresh(packed) => {
                collided.insert(aor.into(), packed);
            }
            Held::Removed => {
                collided.remove(aor);
            }
            Held::Nothing | Held::Stored(_) => {}
        }
        self.collisions.store(collided.len(), Ordering::Relaxed);
        result
    }

    /// Ends what is past its deadline; called once a second. The result is how many bindings.
    ///
    /// Records whose last binding is gone go too, once `is_spent` says that their nonce counts
    /// protect nothing any more.
    pub fn sweep(&self, now: Now, is_spent: impl Fn(&AorRecord<'_>) -> bool) -> u64 {
        let mut expired = 0;
        let mut record = Vec::new();
        for wheel in 0..WHEELS {
            for (second, keys) in self.wheels.take_due(wheel, now.second()) {
                for key in keys {
                    for aor in self.aors_of(key, second) {
                        expired += self.update(&aor, now, Cause::Expired, |entry| {
                            sweep_one(entry, now, second, &mut record, &is_spent)
                        });
                    }
                }
            }
            self.wheels.visited(wheel);
        }
        expired
    }

    /// The AoRs that the wheel means by `key` at `second`: one, unless hashes collided.
    fn aors_of(&self, key: u64, second: u32) -> Vec<Box<[u8]>> {
        let mut aors = Vec::new();
        let mut look = |packed: &Packed| {
            if let Some(record) = AorRecord::new(packed)
                && record.scheduled() == second
            {
                aors.push(record.aor().into());
            }
        };
        if let Some(packed) = self.map.get(&key) {
            look(&packed);
        }
        if self.collisions.load(Ordering::Relaxed) > 0 {
            self.collided().values().for_each(look);
        }
        aors
    }

    /// How many parts [`Location::scan`] takes.
    pub const PARTS: usize = WHEELS;

    /// Shows every record of one part to `visit`, while traffic flows: each record that is there
    /// all the while is shown once, as it was at some moment of the scan.
    ///
    /// Only one record's shard is locked at a time; `visit` must be short and must not call this
    /// module. The records come in the order of a hash; `after` skips those up to a
    /// cursor that `visit` was shown before.
    pub fn scan(
        &self,
        part: usize,
        after: Option<u64>,
        mut visit: impl FnMut(u64, AorRecord<'_>) -> bool,
    ) {
        let keys = self.wheels.keys(part);
        let start = after.map_or(0, |after| keys.partition_point(|&key| key <= after));
        // What was emptied, and waits for the wheel, is not there for anybody else.
        let mut show = |key, packed: &Packed| match AorRecord::new(packed) {
            Some(record) if !record.is_empty() || !record.nonces().is_empty() => visit(key, record),
            _ => true,
        };
        for &key in &keys[start..] {
            if self.map.get(&key).is_some_and(|packed| !show(key, &packed)) {
                return;
            }
        }
        if part == 0 && after.is_none() {
            let _ = self.collided().values().all(|packed| show(0, packed));
        }
    }

    /// The highest sequence given out.
    pub fn sequence(&self) -> u64 {
        self.sequences.iter().map(|s| s.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// A number that differs whenever something has changed.
    pub fn changes(&self) -> u64 {
        self.sequences.iter().fold(0, |sum, s| sum.wrapping_add(s.load(Ordering::Relaxed)))
    }

    /// Has all later sequences be above `sequence`: what an earlier process gave out, whatever the
    /// wall clock said then.
    pub fn raise_sequences(&self, sequence: u64) {
        for last in &self.sequences {
            last.fetch_max(sequence, Ordering::Relaxed);
        }
    }

    fn next_sequence(&self, key: u64, before: u64) -> u64 {
        // The map's own choice of a shard: the bits after the seven that its table keeps.
        let shard = usize::try_from((key << 7) >> (64 - SHARDS.ilog2())).unwrap_or_default();
        let next = self.sequences[shard].fetch_add(1, Ordering::Relaxed) + 1;
        if next > before {
            return next;
        }
        self.sequences[shard].fetch_max(before + 1, Ordering::Relaxed);
        before + 1
    }
}

/// Ends what is past its deadline in one record and puts the rest back into the wheel.
fn sweep_one(
    entry: &mut Entry<'_>,
    now: Now,
    second: u32,
    space: &mut Vec<u8>,
    is_spent: &impl Fn(&AorRecord<'_>) -> bool,
) -> u64 {
    let Some(record) = entry.record() else { return 0 };
    if record.scheduled() != second {
        return 0;
    }
    entry.unschedule();
    let Some(record) = entry.record() else { return 0 };
    let left = record.bindings(now).count();
    if left == 0 && is_spent(&record) {
        let expired = record.len() as u64;
        entry.discard();
        return expired;
    }
    let expired = record.len() - left;
    if expired == 0 {
        entry.reschedule();
        return 0;
    }
    let written = RecordWriter::new(space, record.aor(), record.nonces()).and_then(|mut writer| {
        record.bindings(now).try_for_each(|binding| writer.push(&binding))?;
        writer.finish();
        Some(())
    });
    // What was packed once can be packed again.
    if written.is_some() && entry.commit(space).is_ok() {
        return expired as u64;
    }
    0
}

/// One AoR's record, held under its shard's lock.
#[derive(Debug)]
pub struct Entry<'e> {
    location: &'e Location,
    key: u64,
    now: Now,
    cause: Cause,
    held: Held<'e>,
}

/// Where a record is while it is held.
#[derive(Debug)]
enum Held<'e> {
    /// To be put into the map.
    Fresh(Packed),
    /// There is none, and was none.
    Nothing,
    /// To be taken out of the map.
    Removed,
    /// In the map.
    Stored(&'e mut Packed),
}

impl Held<'_> {
    fn packed(&self) -> Option<&Packed> {
        match self {
            Self::Fresh(packed) => Some(packed),
            Self::Stored(packed) => Some(packed),
            Self::Nothing | Self::Removed => None,
        }
    }

    fn packed_mut(&mut self) -> Option<&mut Packed> {
        match self {
            Self::Fresh(packed) => Some(packed),
            Self::Stored(packed) => Some(packed),
            Self::Nothing | Self::Removed => None,
        }
    }
}

impl<'e> Entry<'e> {
    fn new(location: &'e Location, key: u64, now: Now, cause: Cause, held: Held<'e>) -> Self {
        Self { location, key, now, cause, held }
    }

    /// The record as it is.
    pub fn record(&self) -> Option<AorRecord<'_>> {
        self.held.packed().and_then(|packed| AorRecord::new(packed))
    }

    /// Makes `record`, packed by [`RecordWriter`], the AoR's record.
    ///
    /// A record of the same length is overwritten in place: a refresh allocates nothing.
    ///
    /// # Errors
    /// When it has more bindings than there were and `max_bindings` is reached.
    pub fn commit(&mut self, record: &[u8]) -> Result<(), LocationFull> {
        let Some(new) = AorRecord::new(record) else { return Ok(()) };
        let old = self.record();
        let before = old.map_or(0, |old| old.sequence());
        let scheduled = old.map_or(0, |old| old.scheduled());
        self.location.count(old, Some(new))?;

        let sequence = self.location.next_sequence(self.key, before);
        let visit = visit_at(&new, self.now);
        // A record that was emptied keeps its place, however late.
        let visit = if new.is_empty() { visit.max(scheduled) } else { visit };
        let scheduled = self.schedule(scheduled, visit);
        match self.held.packed_mut() {
            Some(packed) if packed.len() == record.len() => packed.copy_from_slice(record),
            Some(packed) => *packed = record.into(),
            None => self.held = Held::Fresh(record.into()),
        }
        if let Some(packed) = self.held.packed_mut() {
            set_sequence(packed, sequence);
            set_scheduled(packed, scheduled);
        }
        if self.location.feed.is_active() {
            // Empty means gone, to whoever follows the changes.
            let record = self.held.packed().filter(|_| !new.is_empty()).cloned();
            self.publish(sequence, new.aor().into(), record.unwrap_or_default());
        }
        Ok(())
    }

    /// Commits a refresh that leaves the texts of the record as they are, and what it changes of
    /// the nonce counts: [`Entry::commit`] of the same outcome, without a record to copy.
    ///
    /// Both must have been found for this very record.
    pub fn refresh(&mut self, refresh: &Refresh, renewal: Option<&Renewal>) {
        let Some(old) = self.record() else { return };
        let (nonces, scheduled) = (old.nonces_at(), old.scheduled());
        let sequence = self.location.next_sequence(self.key, old.sequence());
        let visit = refresh.first_deadline().0.max(self.now.second() + 1);
        let scheduled = self.schedule(scheduled, visit);
        let Some(packed) = self.held.packed_mut() else { return };
        if let Some(renewal) = renewal
            && let Some(nonces) = packed.get_mut(nonces)
        {
            renewal.apply(nonces);
        }
        refresh.apply(packed);
        set_sequence(packed, sequence);
        set_scheduled(packed, scheduled);
        if self.location.feed.is_active()
            && let Some(new) = self.record()
        {
            self.publish(sequence, new.aor().into(), new.as_bytes().into());
        }
    }

    /// Has the record visited at `visit`, unless the wheel holds it for an earlier second anyhow:
    /// it will look then, and put it back itself.
    fn schedule(&self, scheduled: u32, visit: u32) -> u32 {
        if scheduled != 0 && scheduled <= visit {
            return scheduled;
        }
        self.location.wheels.schedule(self.key, visit);
        visit
    }

    /// Removes all bindings and nonce counts.
    ///
    /// What is left is an empty record, until the wheel comes to it: an AoR that comes and goes
    /// has one place in the wheel, not one for each time.
    pub fn remove(&mut self) {
        let Some(old) = self.record() else { return };
        let mut packed = Vec::new();
        let Some(writer) = RecordWriter::new(&mut packed, old.aor(), b"") else { return };
        writer.finish();
        // Fewer bindings never exceed a bound.
        let _ = self.commit(&packed);
    }

    /// Takes the record out of the map: the wheel has no place for it any more.
    fn discard(&mut self) {
        let Some(old) = self.record() else { return };
        let sequence = self.location.next_sequence(self.key, old.sequence());
        // Fewer bindings never exceed a bound.
        let _ = self.location.count(Some(old), None);
        if self.location.feed.is_active() {
            self.publish(sequence, old.aor().into(), Packed::default());
        }
        self.held = match self.held {
            Held::Stored(_) | Held::Removed => Held::Removed,
            Held::Fresh(_) | Held::Nothing => Held::Nothing,
        };
    }

    /// Notes that the wheel no longer holds the record.
    fn unschedule(&mut self) {
        if let Some(packed) = self.held.packed_mut() {
            set_scheduled(packed, 0);
        }
    }

    /// Puts a record whose second came, but which has not ended, back into the wheel.
    fn reschedule(&mut self) {
        let Some(record) = self.record() else { return };
        let visit = visit_at(&record, self.now);
        self.location.wheels.schedule(self.key, visit);
        if let Some(packed) = self.held.packed_mut() {
            set_scheduled(packed, visit);
        }
    }

    fn publish(&self, sequence: u64, aor: Box<[u8]>, record: Packed) {
        self.location.feed.publish(&Change { sequence, cause: self.cause, aor, record });
    }
}

/// When the sweep has to look at a record: at its first deadline, or, without bindings, soon, to
/// ask whether its nonce counts are still needed.
fn visit_at(record: &AorRecord<'_>, now: Now) -> u32 {
    const NONCES_ONLY: u32 = 60;
    let first = record.stored().map(|b| b.deadline.0).min();
    first.unwrap_or_else(|| now.second().saturating_add(NONCES_ONLY)).max(now.second() + 1)
}

impl Location {
    /// Counts a record's change from `old` to `new`, unless that would exceed the bound.
    fn count(
        &self,
        old: Option<AorRecord<'_>>,
        new: Option<AorRecord<'_>>,
    ) -> Result<(), LocationFull> {
        let by_transport = |record: Option<AorRecord<'_>>| {
            let mut counts = [0_i64; Transport::ALL.len()];
            for binding in record.iter().flat_map(AorRecord::stored) {
                counts[usize::from(binding.flow.transport.code())] += 1;
            }
            counts
        };
        let (before, after) = (by_transport(old), by_transport(new));
        if before != after {
            let growth: i64 = after.iter().sum::<i64>() - before.iter().sum::<i64>();
            let max = self.max_bindings.load(Ordering::Relaxed);
            if growth > 0 && max > 0 && self.bindings().saturating_add_signed(growth) > max {
                return Err(LocationFull);
            }
            for (cell, (after, before)) in self.counts.bindings.iter().zip(after.iter().zip(before))
            {
                add(cell, after - before);
            }
        }
        let is_bound = |r: Option<AorRecord<'_>>| i64::from(r.is_some_and(|r| !r.is_empty()));
        add(&self.counts.aors, is_bound(new) - is_bound(old));
        Ok(())
    }
}

fn add(cell: &AtomicU64, delta: i64) {
    if delta != 0 {
        // Wraps around zero for a negative delta, as a sum over threads must.
        cell.fetch_add(delta.cast_unsigned(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registrar::Binding,
        time::{Deadline, DeltaSeconds},
    };

    const START: Now = Now { millis: 0, unix: 1_800_000_000 };

    fn at(second: u64) -> Now {
        Now { millis: second * 1000, unix: START.unix + second }
    }

    fn store() -> Location {
        Location::new([7; 16], START, 0)
    }

    /// A record of `aor` with a binding for each of `seconds`.
    fn record(aor: &[u8], now: Now, seconds: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, aor, b"").unwrap();
        for (i, &seconds) in seconds.iter().enumerate() {
            let uri = format!("sip:{i}@192.0.2.1");
            let (binding, _) = Binding::decode(&PACKED).unwrap();
            let deadline = Deadline::after(now, DeltaSeconds(seconds));
            writer.push(&Binding { uri: uri.as_bytes(), deadline, ..binding }).unwrap();
        }
        writer.finish();
        bytes
    }

    /// A packed binding without texts: UDP, IPv4, all else zero.
    const PACKED: [u8; 35] = [0; 35];

    fn put(location: &Location, now: Now, aor: &[u8], seconds: &[u32]) {
        let bytes = record(aor, now, seconds);
        location.update(aor, now, Cause::Registered, |e| e.commit(&bytes)).unwrap();
    }

    fn served(location: &Location, now: Now, aor: &[u8]) -> usize {
        location.read(aor, |r| r.map_or(0, |r| r.bindings(now).count()))
    }

    #[test]
    fn what_is_stored_is_read() {
        let location = store();
        put(&location, at(0), b"alice", &[60]);
        assert_eq!(served(&location, at(59), b"alice"), 1);
        assert_eq!(served(&location, at(59), b"bob"), 0);
        assert_eq!((location.aors(), location.bindings()), (1, 1));
        put(&location, at(1), b"alice", &[60, 90]);
        assert_eq!((location.aors(), location.bindings()), (1, 2));
        location.update(b"alice", at(2), Cause::Removed, |e| e.remove());
        assert_eq!(served(&location, at(2), b"alice"), 0);
        assert_eq!((location.aors(), location.bindings()), (0, 0));
    }

    #[test]
    fn sweeping_ends_each_binding_in_its_second() {
        let location = store();
        put(&location, at(0), b"alice", &[60, 90]);
        put(&location, at(0), b"bob", &[60]);
        assert_eq!(location.sweep(at(59), |_| true), 0);
        assert_eq!(location.sweep(at(60), |_| true), 2);
        assert_eq!((location.aors(), location.bindings()), (1, 1));
        assert_eq!(location.sweep(at(89), |_| true), 0);
        assert_eq!(location.sweep(at(90), |_| true), 1);
        assert_eq!((location.aors(), location.bindings()), (0, 0));
        assert!(location.map.is_empty());
    }

    #[test]
    fn a_refresh_moves_the_end_later_or_earlier() {
        let location = store();
        put(&location, at(0), b"alice", &[60]);
        put(&location, at(30), b"alice", &[60]);
        assert_eq!(location.sweep(at(60), |_| true), 0);
        assert_eq!(location.sweep(at(90), |_| true), 1);

        put(&location, at(100), b"bob", &[3600]);
        put(&location, at(101), b"bob", &[10]);
        assert_eq!(location.sweep(at(111), |_| true), 1);
        assert_eq!(location.sweep(at(4000), |_| true), 0);
    }

    #[test]
    fn nonce_counts_outlive_the_bindings_until_they_are_spent() {
        let location = store();
        put(&location, at(0), b"alice", &[60]);
        assert_eq!(location.sweep(at(60), |_| false), 1);
        assert_eq!(location.map.len(), 1);
        assert_eq!(location.aors(), 0);
        assert_eq!(location.sweep(at(119), |_| true), 0);
        location.sweep(at(120), |_| true);
        assert!(location.map.is_empty());
    }

    #[test]
    fn an_aor_that_comes_and_goes_has_one_place_in_the_wheel() {
        let location = store();
        for _ in 0..100 {
            put(&location, at(0), b"alice", &[3600]);
            location.update(b"alice", at(0), Cause::Removed, |e| e.remove());
        }
        let due = (0..WHEELS).flat_map(|wheel| location.wheels.take_due(wheel, 4000));
        let visits: usize = due.map(|(_, keys)| keys.len()).sum();
        assert_eq!(visits, 1);
    }

    #[test]
    fn the_bound_holds_and_a_refusal_changes_nothing() {
        let location = store();
        location.set_max_bindings(2);
        put(&location, at(0), b"alice", &[60]);
        let bytes = record(b"bob", at(0), &[60, 60]);
        let full = location.update(b"bob", at(0), Cause::Registered, |e| e.commit(&bytes));
        assert_eq!(full, Err(LocationFull));
        assert_eq!(served(&location, at(0), b"bob"), 0);
        assert_eq!((location.aors(), location.bindings()), (1, 1));
        put(&location, at(0), b"bob", &[60]);
        put(&location, at(1), b"bob", &[60]);
    }

    #[test]
    fn changes_come_in_order_and_a_gap_is_told() {
        let location = store();
        put(&location, at(0), b"early", &[60]);
        let subscription = location.subscribe(3);
        put(&location, at(0), b"alice", &[60]);
        put(&location, at(1), b"alice", &[60]);
        location.sweep(at(61), |_| true);
        location.update(b"alice", at(61), Cause::Removed, |e| e.remove());
        let changes: Vec<Change> = subscription.changes().try_iter().collect();
        let seen: Vec<_> = changes.iter().map(|c| (&*c.aor, c.cause)).collect();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[..2], [(&b"alice"[..], Cause::Registered), (b"alice", Cause::Registered)]);
        assert!(changes[0].sequence < changes[1].sequence);
        // "early" and "alice" both ended: one of the two did not fit.
        assert_eq!(seen[2].1, Cause::Expired);
        assert_eq!(subscription.take_missed(), 1);
        assert_eq!(subscription.take_missed(), 0);
    }

    #[test]
    fn sequences_go_up_across_removal() {
        let location = store();
        let subscription = location.subscribe(10);
        put(&location, at(0), b"alice", &[60]);
        location.update(b"alice", at(1), Cause::Removed, |e| e.remove());
        put(&location, at(2), b"alice", &[60]);
        let sequences: Vec<_> = subscription.changes().try_iter().map(|c| c.sequence).collect();
        assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
        assert_eq!(sequences.len(), 3);
    }

    #[test]
    fn scanning_shows_each_record_once_and_goes_on_from_a_cursor() {
        let location = store();
        for i in 0..1000_u32 {
            put(&location, at(0), format!("user{i}").as_bytes(), &[60]);
            put(&location, at(0), format!("user{i}").as_bytes(), &[30]);
        }
        let mut seen = Vec::new();
        for part in 0..Location::PARTS {
            let mut cursor = None;
            loop {
                let mut page = 0;
                location.scan(part, cursor, |key, record| {
                    seen.push(record.aor().to_vec());
                    cursor = Some(key);
                    page += 1;
                    page < 3
                });
                if page < 3 {
                    break;
                }
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn two_aors_with_one_hash_live_side_by_side() {
        let location = store();
        put(&location, at(0), b"alice", &[60]);
        // As if "mallory" hashed to what "alice" does.
        let AorKey(key) = location.key(b"alice");
        let bytes = record(b"mallory", at(0), &[60]);
        let guard = location.map.get(&key);
        location
            .update_collided(b"mallory", key, at(0), Cause::Registered, |e| e.commit(&bytes))
            .unwrap();
        drop(guard);
        assert_eq!(served(&location, at(0), b"mallory"), 1);
        assert_eq!(served(&location, at(0), b"alice"), 1);
        let mut seen = 0;
        for part in 0..Location::PARTS {
            location.scan(part, None, |_, _| {
                seen += 1;
                true
            });
        }
        assert_eq!(seen, 2);
        assert_eq!(location.bindings(), 2);
    }
}
