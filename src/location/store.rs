//! The map of records.

use std::{
    cell::Cell,
    hash::{BuildHasherDefault, Hasher},
    hint::black_box,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use crossbeam::utils::CachePadded;
use dashmap::{DashMap, SharedValue};
use siphasher::sip::SipHasher13;

use super::{
    early::Early,
    entry::Entry,
    expiry::{WHEELS, Wheels},
    feed::{Cause, Feed, Subscription},
    recorder::{Recorder, Unrecorded},
    slab::{Chunk, Slab},
    trail::{Trace, Trail},
};
use crate::{
    flow::Transport,
    registrar::{AorRecord, RecordWriter},
    time::Now,
};

/// Parts of the map with a lock each. While one grows, its writers wait: with this many, that
/// takes less than a millisecond at ten million records, where the library's default stalls them
/// for 160.
const SHARDS: usize = 1024;

/// All bindings of all AoRs.
///
/// The map's key is half of a keyed 64-bit hash of the AoR: strangers can't aim at one shard. A
/// slot is that and the place of the record in the slab, eight octets together; who looks for an
/// AoR compares it with the one in the record.
#[derive(Debug)]
pub struct Location {
    /// Reached through its shards only: its own methods know no two records of one key.
    map: DashMap<u32, u32, BuildHasherDefault<NoHash>>,
    pub(super) slab: Slab,
    hash_key: [u8; 16],
    pub(super) wheels: Wheels,
    pub(super) feed: Feed,
    trail: OnceLock<Trail>,
    pub(super) sequences: CachePadded<Sequences>,
    pub(super) counts: Counts,
    pub(super) max_bindings: AtomicU64,
    /// How many bindings an AoR has at most once what came early joins what was saved.
    max_contacts: AtomicU16,
    /// Whether there is an early location service: asked for every request.
    is_loading: CachePadded<AtomicBool>,
    early: ArcSwapOption<Early>,
}

/// What all workers read at each change, and seldom write.
#[derive(Debug)]
pub(super) struct Sequences {
    /// No later sequence of a record that isn't there yet is below this.
    pub(super) floor: AtomicU64,
    /// The highest that was given out.
    highest: AtomicU64,
    /// Whether anything was changed since somebody asked.
    is_changed: AtomicBool,
    /// How often somebody asked and something had changed.
    changes: AtomicU64,
}

/// How much is stored: changed when something is added or goes, not on a refresh.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) aors: CachePadded<AtomicU64>,
    /// Records without a binding.
    pub(super) emptied: CachePadded<AtomicU64>,
    pub(super) bindings: [CachePadded<AtomicU64>; Transport::ALL.len()],
}

/// `max_bindings` is reached, or all memory that there can be is in use, so nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationFull;

/// A keyed hash of an AoR: where its record is. Worked out once for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AorKey(u64);

impl AorKey {
    /// The half that slots and wheels keep; they know an AoR by that and by what its record says.
    fn tag(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or_default()
    }

    /// Which part of the map it is in: records of one part wait for each other.
    pub fn shard(self) -> usize {
        shard_of(self.tag())
    }
}

/// The shard of a tag: its high bits.
fn shard_of(tag: u32) -> usize {
    usize::try_from(tag >> (u32::BITS - SHARDS.ilog2())).unwrap_or_default()
}

/// The hash of a tag within its shard. The table takes its place from the low bits and keeps the
/// seven highest: bits of the tag that neither the shard nor, below 32 million records, the place
/// is taken from.
fn table_hash(tag: u32) -> u64 {
    u64::from(tag) | u64::from(tag) << 42
}

/// Shards are chosen here, so nothing is hashed by the map.
#[derive(Debug, Default)]
struct NoHash;

impl Hasher for NoHash {
    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        0
    }
}

thread_local! {
    /// Where a record is read to, kept by each thread for its next one.
    static RECORD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends a thread's space for a record, with whatever is in it.
fn with_space<R>(run: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut space = RECORD.take();
    let result = run(&mut space);
    RECORD.set(space);
    result
}

impl Location {
    /// An empty location service. `hash_key` is random and its own; `max_bindings` of zero sets no
    /// bound. Sequences begin at 1, or above what [`Location::raise_sequences`] is told.
    pub fn new(hash_key: [u8; 16], max_bindings: u64) -> Self {
        let map = DashMap::with_capacity_and_hasher_and_shard_amount(
            0,
            BuildHasherDefault::default(),
            SHARDS,
        );
        Self {
            map,
            slab: Slab::new(),
            hash_key,
            wheels: Wheels::new(),
            feed: Feed::default(),
            trail: OnceLock::new(),
            sequences: CachePadded::new(Sequences {
                floor: AtomicU64::new(0),
                highest: AtomicU64::new(0),
                is_changed: AtomicBool::new(false),
                changes: AtomicU64::new(0),
            }),
            counts: Counts::default(),
            max_bindings: AtomicU64::new(max_bindings),
            max_contacts: AtomicU16::new(u16::MAX),
            is_loading: CachePadded::default(),
            early: ArcSwapOption::empty(),
        }
    }

    /// Has registrations kept apart until [`Location::end_loading`]: what was saved is going to be
    /// read into this location service by [`Location::restore`].
    pub fn begin_loading(&self, now: Now) {
        let early = Self::new(self.hash_key, self.max_bindings.load(Ordering::Relaxed));
        early.raise_sequences(self.sequence());
        self.early.store(Some(Arc::new(Early::new(early, now))));
        self.is_loading.store(true, Ordering::Release);
    }

    /// Joins what was registered meanwhile with what was read, and goes on as usual. The result is
    /// how many AoRs were.
    pub fn end_loading(&self, now: Now, journal: &mut dyn Recorder) -> u64 {
        let early = self.early.load_full();
        let moved = early.map_or(0, |early| early.merge(self, now, journal));
        self.is_loading.store(false, Ordering::Release);
        self.early.store(None);
        moved
    }

    /// Waits until whoever is changing a record is done.
    pub(super) fn pass_every_lock(&self) {
        self.map.shards().iter().for_each(|shard| drop(shard.write()));
    }

    /// Whether what was saved is still being read.
    pub fn is_loading(&self) -> bool {
        self.is_loading.load(Ordering::Acquire)
    }

    /// Changes the bound on all bindings together; zero sets none. An AoR that has lost its last
    /// binding counts as one until its record is gone, so that who comes and goes under ever
    /// other names takes no more memory than who stays.
    ///
    /// # Reload
    /// What is stored beyond a lowered bound stays until it ends.
    pub fn set_max_bindings(&self, max: u64) {
        self.max_bindings.store(max, Ordering::Relaxed);
    }

    /// Changes how many bindings an AoR keeps when those made during a start join those that were
    /// saved; there is no bound before. Whatever else changes an AoR asks the policy itself.
    ///
    /// # Reload
    /// What is stored beyond a lowered bound stays until it ends.
    pub fn set_max_contacts(&self, max: u16) {
        self.max_contacts.store(max, Ordering::Relaxed);
    }

    /// What [`Location::set_max_contacts`] was told.
    pub(crate) fn max_contacts(&self) -> u16 {
        self.max_contacts.load(Ordering::Relaxed)
    }

    /// Records without a binding, kept until the wheel comes to them.
    pub(super) fn emptied(&self) -> u64 {
        self.counts.emptied.load(Ordering::Relaxed)
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

    /// Whether anybody has subscribed to the changes, and still does.
    pub fn is_followed(&self) -> bool {
        self.feed.is_active()
    }

    /// The changes from now on; a subscriber that lags more than `capacity` behind misses some.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        self.feed.subscribe(capacity)
    }

    /// Where changes leave a trace from now on, of which `capacity` may wait to be taken. There is
    /// one trail, for one who follows it.
    pub fn trail(&self, capacity: usize) -> &Trail {
        self.trail.get_or_init(|| Trail::new(capacity))
    }

    pub(super) fn leave_trace(&self, trace: impl FnOnce() -> Trace) {
        if let Some(trail) = self.trail.get() {
            trail.leave(trace());
        }
    }

    /// Shows the records that a [`Trace::Changed`] may mean, each as it is now: one, unless two AoRs
    /// have the same half of a hash. `visit` must be short and must not call this module.
    pub fn traced(&self, trace: u32, visit: impl FnMut(AorRecord<'_>)) {
        self.each_of(trace, visit);
    }

    /// The key of an AoR, which every call for this AoR takes; of this location service only.
    pub fn key(&self, aor: &[u8]) -> AorKey {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(aor);
        AorKey(hasher.finish())
    }

    /// Reads the record of a slot into `space` and says whether it is that of `aor`.
    fn is_record_of(&self, at: u32, aor: &[u8], space: &mut Vec<u8>) -> bool {
        self.read_chunk(Chunk(at), space);
        AorRecord::new(space).is_some_and(|record| record.aor() == aor)
    }

    fn read_chunk(&self, chunk: Chunk, space: &mut Vec<u8>) {
        space.resize(AorRecord::len_of(self.slab.head(chunk)), 0);
        self.slab.read(chunk, space);
    }

    /// Reads the record of `aor`, as it is under its shard's lock, which is free again by the time
    /// that `read` sees it.
    pub fn read<R>(&self, aor: &[u8], read: impl FnOnce(Option<AorRecord<'_>>) -> R) -> R {
        with_space(|space| {
            let tag = self.key(aor).tag();
            let shard = self.map.shards()[shard_of(tag)].read();
            let is_it = |slot: &(u32, SharedValue<u32>)| {
                slot.0 == tag && self.is_record_of(*slot.1.get(), aor, space)
            };
            let found = shard.get(table_hash(tag), is_it).is_some();
            drop(shard);
            read(AorRecord::new(space).filter(|_| found))
        })
    }

    /// Gives the record of `aor` to `change`, under its shard's lock, to be changed or left; what is
    /// changed is told to `journal`.
    ///
    /// `change` must be short: no IO, no waiting, no other call into this module.
    pub fn update<R>(
        &self,
        aor: &[u8],
        when: (Now, Cause),
        journal: &mut dyn Recorder,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        self.update_at(self.key(aor), aor, when, journal, change)
    }

    /// Makes room for so many records in all, so that the map need not grow while they come.
    pub fn reserve(&self, records: u64) {
        /// More than 32 bits name no record.
        const MOST: u64 = 1 << 32;
        let each = usize::try_from(records.min(MOST)).unwrap_or_default() / SHARDS;
        // Some shards get more than others: by more than this, one of ten thousand.
        let each = each + 4 * each.isqrt();
        for shard in self.map.shards() {
            shard.write().reserve(each, |(tag, _)| table_hash(*tag));
        }
    }

    /// Gives the record of `aor` to `change`, to be replaced by [`Entry::restore`] with what was
    /// read from disk.
    pub fn restore<R>(&self, aor: &[u8], now: Now, change: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        let when = (now, Cause::Restored);
        self.update_here(self.key(aor), aor, when, &mut Unrecorded, change)
    }

    /// Has the records of a batch come nearer to the processor, all at once, before each is
    /// updated: in a large table the wait for memory is most of what an update takes.
    ///
    /// Only a hint: no lock is waited for, none is held after it, and what changes meanwhile does no
    /// harm.
    pub fn touch(&self, keys: &[AorKey]) {
        /// As many as go side by side.
        const TOGETHER: usize = 16;
        for keys in keys.chunks(TOGETHER) {
            // All locks first: one taken between two look-ups would have the second wait for the
            // first. None is waited for, so none can be waited for in a circle.
            let mut shards = [const { None }; TOGETHER];
            for (shard, key) in shards.iter_mut().zip(keys) {
                *shard = self.map.shards()[shard_of(key.tag())].try_read();
            }
            let mut chunks = [None; TOGETHER];
            for ((chunk, shard), key) in chunks.iter_mut().zip(&shards).zip(keys) {
                let tag = key.tag();
                let slot = shard.as_ref().and_then(|s| s.get(table_hash(tag), |(t, _)| *t == tag));
                *chunk = slot.map(|(_, at)| Chunk(*at.get()));
            }
            drop(shards);
            let words = chunks.into_iter().flatten().map(|chunk| self.slab.touch(chunk));
            black_box(words.fold(0, |all, word| all ^ word));
        }
    }

    /// [`Location::update`] where the key is known already.
    pub fn update_at<R>(
        &self,
        key: AorKey,
        aor: &[u8],
        when: (Now, Cause),
        journal: &mut dyn Recorder,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        match self.is_loading().then(|| self.early.load_full()).flatten() {
            None => self.update_here(key, aor, when, journal, change),
            Some(early) => early.update_at(self, key, aor, when, journal, change),
        }
    }

    /// [`Location::update_at`], whatever came early.
    pub(super) fn update_here<R>(
        &self,
        key: AorKey,
        aor: &[u8],
        when: (Now, Cause),
        journal: &mut dyn Recorder,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        let tag = key.tag();
        with_space(|space| {
            let mut shard = self.map.shards()[shard_of(tag)].write();
            let hash = table_hash(tag);
            let slot = shard.get_mut(hash, |(other, at)| {
                *other == tag && self.is_record_of(*at.get(), aor, space)
            });
            if slot.is_none() {
                // What was there before, or of another AoR with this tag.
                space.clear();
            }
            let chunk = slot.as_ref().map(|(_, at)| Chunk(*at.get()));
            let mut entry = Entry::new(self, tag, when, journal, space, chunk);
            let result = change(&mut entry);
            match (slot, entry.chunk()) {
                (Some((_, at)), Some(Chunk(to))) => *at.get_mut() = to,
                (None, Some(Chunk(to))) => {
                    shard.insert(hash, (tag, SharedValue::new(to)), |(tag, _)| table_hash(*tag));
                }
                (Some(_), None) => {
                    // The slot of this chunk, not of another AoR with this tag.
                    let gone = chunk.map(|Chunk(at)| at);
                    shard.remove_entry(hash, |(_, at)| Some(*at.get()) == gone);
                }
                (None, None) => {}
            }
            result
        })
    }

    /// Ends what is past its deadline; called once a second. The result is how many bindings.
    ///
    /// Records whose last binding is gone go too, once `is_spent` says that their nonce counts
    /// protect nothing any more.
    pub fn sweep(
        &self,
        now: Now,
        journal: &mut dyn Recorder,
        is_spent: impl Fn(&AorRecord<'_>) -> bool,
    ) -> u64 {
        self.sweep_until(now.second(), now, journal, is_spent)
    }

    /// Does the same to what was restored past its deadline, which the wheels hold for a moment
    /// later than `now`. Nobody is told of it: it ended by a deadline that is on disk.
    pub fn sweep_restored(&self, now: Now, is_spent: impl Fn(&AorRecord<'_>) -> bool) -> u64 {
        self.sweep_until(now.second().saturating_add(1), now, &mut Unrecorded, is_spent)
    }

    fn sweep_until(
        &self,
        due: u32,
        now: Now,
        journal: &mut dyn Recorder,
        is_spent: impl Fn(&AorRecord<'_>) -> bool,
    ) -> u64 {
        let when = (now, Cause::Expired);
        let mut expired = 0;
        let mut record = Vec::new();
        for wheel in 0..WHEELS {
            for (second, tags) in self.wheels.take_due(wheel, due) {
                for tag in tags {
                    for aor in self.aors_of(tag, second) {
                        expired += self.update_here(self.key(&aor), &aor, when, journal, |entry| {
                            sweep_one(entry, now, second, &mut record, &is_spent)
                        });
                        journal.flush();
                    }
                }
            }
            self.wheels.visited(wheel);
        }
        expired
    }

    /// The AoRs that the wheel means by `tag` at `second`: one, unless two have one tag.
    fn aors_of(&self, tag: u32, second: u32) -> Vec<Box<[u8]>> {
        let mut aors = Vec::new();
        self.each_of(tag, |record| {
            if record.scheduled() == second {
                aors.push(record.aor().into());
            }
        });
        aors
    }

    /// Shows each record of a tag, under its shard's lock.
    fn each_of(&self, tag: u32, mut visit: impl FnMut(AorRecord<'_>)) {
        with_space(|space| {
            let shard = self.map.shards()[shard_of(tag)].read();
            // Nothing is what is looked for, so all are looked at.
            shard.get(table_hash(tag), |(other, at)| {
                if *other == tag {
                    self.read_chunk(Chunk(*at.get()), space);
                    if let Some(record) = AorRecord::new(space) {
                        visit(record);
                    }
                }
                false
            });
        });
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
        let tags = self.wheels.tags(part);
        let after_tag = after.map_or(0, |after| AorKey(after).tag());
        let start = tags.partition_point(|&tag| tag < after_tag);
        let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
        for &tag in &tags[start..] {
            found.clear();
            self.each_of(tag, |record| {
                // What was emptied, and waits for the wheel, is not there for anybody else.
                let AorKey(key) = self.key(record.aor());
                let is_new = after.is_none_or(|after| key > after);
                if is_new && (!record.is_empty() || !record.nonces().is_empty()) {
                    found.push((key, record.as_bytes().to_vec()));
                }
            });
            found.sort_unstable();
            for (key, octets) in &found {
                if AorRecord::new(octets).is_some_and(|record| !visit(*key, record)) {
                    return;
                }
            }
        }
    }

    /// A number that no sequence given out is above.
    pub fn sequence(&self) -> u64 {
        self.sequences.highest.load(Ordering::Relaxed)
    }

    /// A number that differs whenever something has changed.
    pub fn changes(&self) -> u64 {
        let Sequences { is_changed, changes, .. } = &*self.sequences;
        match is_changed.swap(false, Ordering::Relaxed) {
            true => changes.fetch_add(1, Ordering::Relaxed) + 1,
            false => changes.load(Ordering::Relaxed),
        }
    }

    /// Has all later sequences be above `sequence`: what an earlier process gave out.
    pub fn raise_sequences(&self, sequence: u64) {
        self.sequences.floor.fetch_max(sequence, Ordering::Relaxed);
        self.sequences.highest.fetch_max(sequence, Ordering::Relaxed);
    }

    /// The sequence of a change to a record that has `before`; zero if there is none.
    ///
    /// Under the record's lock. Workers write nothing here that others read, but for the first to
    /// reach a number.
    pub(super) fn next_sequence(&self, before: u64) -> u64 {
        let Sequences { floor, highest, is_changed, .. } = &*self.sequences;
        let next = before.max(floor.load(Ordering::Relaxed)) + 1;
        if next > highest.load(Ordering::Relaxed) {
            highest.fetch_max(next, Ordering::Relaxed);
        }
        if !is_changed.load(Ordering::Relaxed) {
            is_changed.store(true, Ordering::Relaxed);
        }
        next
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
    // No room, even for less: what has ended is served to nobody, and is looked at again.
    entry.reschedule();
    0
}

#[cfg(test)]
mod tests {
    use super::{super::feed::Change, *};
    use crate::{
        registrar::{Binding, binding_for_tests},
        time::{Deadline, DeltaSeconds},
    };

    const START: Now = Now { millis: 0, unix: 1_800_000_000 };

    fn at(second: u64) -> Now {
        Now { millis: second * 1000, unix: START.unix + second }
    }

    fn store() -> Location {
        Location::new([7; 16], 0)
    }

    /// A record of `aor` with a binding for each of `seconds`.
    fn record(aor: &[u8], now: Now, seconds: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, aor, b"").unwrap();
        for (i, &seconds) in seconds.iter().enumerate() {
            let uri = format!("sip:{i}@192.0.2.1");
            let deadline = Deadline::after(now, DeltaSeconds(seconds));
            let binding = binding_for_tests(uri.as_bytes());
            writer.push(&Binding { deadline, ..binding }).unwrap();
        }
        writer.finish();
        bytes
    }

    fn update<R>(
        location: &Location,
        aor: &[u8],
        now: Now,
        cause: Cause,
        change: impl FnOnce(&mut Entry<'_>) -> R,
    ) -> R {
        location.update(aor, (now, cause), &mut Unrecorded, change)
    }

    fn put(location: &Location, now: Now, aor: &[u8], seconds: &[u32]) {
        let bytes = record(aor, now, seconds);
        update(location, aor, now, Cause::Registered, |e| e.commit(&bytes)).unwrap();
    }

    /// How many records there are, whatever they hold.
    fn records(location: &Location) -> usize {
        location.map.shards().iter().map(|shard| shard.read().len()).sum()
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
        update(&location, b"alice", at(2), Cause::Removed, |e| e.remove());
        assert_eq!(served(&location, at(2), b"alice"), 0);
        assert_eq!((location.aors(), location.bindings()), (0, 0));
    }

    #[test]
    fn sweeping_ends_each_binding_in_its_second() {
        let location = store();
        put(&location, at(0), b"alice", &[60, 90]);
        put(&location, at(0), b"bob", &[60]);
        assert_eq!(location.sweep(at(59), &mut Unrecorded, |_| true), 0);
        assert_eq!(location.sweep(at(60), &mut Unrecorded, |_| true), 2);
        assert_eq!((location.aors(), location.bindings()), (1, 1));
        assert_eq!(location.sweep(at(89), &mut Unrecorded, |_| true), 0);
        assert_eq!(location.sweep(at(90), &mut Unrecorded, |_| true), 1);
        assert_eq!((location.aors(), location.bindings()), (0, 0));
        assert_eq!(records(&location), 0);
    }

    #[test]
    fn a_refresh_moves_the_end_later_or_earlier() {
        let location = store();
        put(&location, at(0), b"alice", &[60]);
        put(&location, at(30), b"alice", &[60]);
        assert_eq!(location.sweep(at(60), &mut Unrecorded, |_| true), 0);
        assert_eq!(location.sweep(at(90), &mut Unrecorded, |_| true), 1);

        put(&location, at(100), b"bob", &[3600]);
        put(&location, at(101), b"bob", &[10]);
        assert_eq!(location.sweep(at(111), &mut Unrecorded, |_| true), 1);
        assert_eq!(location.sweep(at(4000), &mut Unrecorded, |_| true), 0);
    }

    #[test]
    fn nonce_counts_outlive_the_bindings_until_they_are_spent() {
        let location = store();
        put(&location, at(0), b"alice", &[60]);
        assert_eq!(location.sweep(at(60), &mut Unrecorded, |_| false), 1);
        assert_eq!(records(&location), 1);
        assert_eq!(location.aors(), 0);
        assert_eq!(location.sweep(at(119), &mut Unrecorded, |_| true), 0);
        location.sweep(at(120), &mut Unrecorded, |_| true);
        assert_eq!(records(&location), 0);
    }

    #[test]
    fn an_aor_that_comes_and_goes_has_one_place_in_the_wheel() {
        let location = store();
        for _ in 0..100 {
            put(&location, at(0), b"alice", &[3600]);
            update(&location, b"alice", at(0), Cause::Removed, |e| e.remove());
        }
        let due = (0..WHEELS).flat_map(|wheel| location.wheels.take_due(wheel, 4000));
        let visits: usize = due.map(|(_, tags)| tags.len()).sum();
        assert_eq!(visits, 1);
    }

    #[test]
    fn the_bound_holds_and_a_refusal_changes_nothing() {
        let location = store();
        location.set_max_bindings(2);
        put(&location, at(0), b"alice", &[60]);
        let bytes = record(b"bob", at(0), &[60, 60]);
        let full = update(&location, b"bob", at(0), Cause::Registered, |e| e.commit(&bytes));
        assert_eq!(full, Err(LocationFull));
        assert_eq!(served(&location, at(0), b"bob"), 0);
        assert_eq!((location.aors(), location.bindings()), (1, 1));
        put(&location, at(0), b"bob", &[60]);
        put(&location, at(1), b"bob", &[60]);
    }

    #[test]
    fn who_comes_and_goes_is_bounded_too() {
        let location = store();
        location.set_max_bindings(3);
        let put_and_remove = |aor: &[u8]| {
            let bytes = record(aor, at(0), &[3600]);
            location
                .update(aor, (at(0), Cause::Registered), &mut Unrecorded, |e| e.commit(&bytes))?;
            location.update(aor, (at(0), Cause::Removed), &mut Unrecorded, |e| e.remove());
            Ok(())
        };
        for aor in [b"a", b"b", b"c", b"a"] {
            assert_eq!(put_and_remove(aor), Ok(()));
        }
        assert_eq!((location.aors(), location.emptied()), (0, 3));
        assert_eq!(put_and_remove(b"d"), Err(LocationFull));
        // Who was here comes back, if only to as many bindings as its record stood for.
        put(&location, at(1), b"b", &[60]);
        assert_eq!((location.bindings(), location.emptied()), (1, 2));
        let more = record(b"b", at(1), &[60, 60]);
        let more =
            location.update(b"b", (at(1), Cause::Registered), &mut Unrecorded, |e| e.commit(&more));
        assert_eq!(more, Err(LocationFull));
        location.sweep(at(3700), &mut Unrecorded, |_| true);
        assert_eq!((records(&location), location.emptied()), (0, 0));
        assert_eq!(put_and_remove(b"d"), Ok(()));
    }

    #[test]
    fn what_is_shorter_finds_room_in_a_full_slab() {
        let mut location = store();
        location.slab = Slab::with_room_for(1);
        let mut count = 0;
        let full = loop {
            let aor = format!("user{count}");
            let bytes = record(aor.as_bytes(), at(0), &[60, 90]);
            let put =
                location.update(aor.as_bytes(), (at(0), Cause::Registered), &mut Unrecorded, |e| {
                    e.commit(&bytes)
                });
            if put.is_err() {
                break aor;
            }
            count += 1;
        };
        assert_eq!((location.aors(), served(&location, at(0), full.as_bytes())), (count, 0));
        put(&location, at(1), b"user0", &[90]);
        assert_eq!(served(&location, at(1), b"user0"), 1);
        for user in 1..count {
            let aor = format!("user{user}");
            location
                .update(aor.as_bytes(), (at(1), Cause::Removed), &mut Unrecorded, |e| e.remove());
            assert_eq!(served(&location, at(1), aor.as_bytes()), 0);
        }
        assert_eq!((location.aors(), location.bindings()), (1, 1));
    }

    #[test]
    fn changes_come_in_order_and_a_gap_is_told() {
        let location = store();
        put(&location, at(0), b"early", &[60]);
        let subscription = location.subscribe(3);
        put(&location, at(0), b"alice", &[60]);
        put(&location, at(1), b"alice", &[60, 60]);
        // Refreshes are none.
        put(&location, at(1), b"alice", &[61, 61]);
        location.sweep(at(62), &mut Unrecorded, |_| true);
        update(&location, b"alice", at(62), Cause::Removed, |e| e.remove());
        let changes: Vec<Change> = subscription.changes().try_iter().collect();
        assert_eq!((changes[0].now, changes[1].now), (at(0), at(1)));
        assert_eq!((changes[1].difference.added, changes[2].difference.ended > 0), (1, true));
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
        update(&location, b"alice", at(1), Cause::Removed, |e| e.remove());
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

    /// Two AoRs whose tags are the same.
    fn twins(location: &Location) -> [String; 2] {
        let mut tags = std::collections::HashMap::new();
        for i in 0.. {
            let aor = format!("{i}");
            let tag = location.key(aor.as_bytes()).tag();
            if let Some(twin) = tags.insert(tag, aor.clone()) {
                return [twin, aor];
            }
        }
        unreachable!("tags end before numbers do")
    }

    #[test]
    fn two_aors_with_one_tag_live_side_by_side() {
        let location = store();
        let [alice, mallory] = twins(&location);
        let count = |now, aor: &str| served(&location, now, aor.as_bytes());
        put(&location, at(0), alice.as_bytes(), &[60]);
        assert_eq!((count(at(0), &alice), count(at(0), &mallory)), (1, 0));
        put(&location, at(0), mallory.as_bytes(), &[60, 90]);
        assert_eq!((count(at(0), &alice), count(at(0), &mallory)), (1, 2));
        assert_eq!(location.bindings(), 3);
        let mut seen = Vec::new();
        for part in 0..Location::PARTS {
            let mut cursor = None;
            for _ in 0..3 {
                location.scan(part, cursor, |key, record| {
                    seen.push(record.len());
                    cursor = Some(key);
                    false
                });
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2], "a page of one record at a time shows each once");
        assert_eq!(location.sweep(at(60), &mut Unrecorded, |_| true), 2);
        assert_eq!((count(at(60), &alice), count(at(60), &mallory)), (0, 1));
        assert_eq!(location.sweep(at(90), &mut Unrecorded, |_| true), 1);
        assert_eq!(records(&location), 0);
    }
}
