//! One record while it is changed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    difference::Difference,
    feed::{Cause, Change},
    recorder::{Recorded, Recorder},
    slab::{Chunk, words_for},
    store::{AorKey, Location, LocationFull},
    trail::Trace,
};
use crate::{
    auth::{NonceCounts, Renewal},
    flow::Transport,
    registrar::{
        AorRecord, Binding, RecordWriter, Refresh, set_scheduled, set_sequence, set_writer,
    },
    time::Now,
};

/// One AoR's record, held under its shard's lock.
#[derive(Debug)]
pub struct Entry<'e> {
    location: &'e Location,
    tag: u32,
    now: Now,
    cause: Cause,
    journal: &'e mut dyn Recorder,
    /// The record's octets; none if there is no record.
    record: &'e mut Vec<u8>,
    /// Where they are kept; always there if they are.
    chunk: Option<Chunk>,
    /// The Unix second of the start, while nothing is known of what was saved.
    early: Option<u32>,
}

/// Whether `max_bindings` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Kept,
    None,
}

impl<'e> Entry<'e> {
    /// The record in `record`, which is kept in `chunk` if there is one.
    pub(super) fn new(
        location: &'e Location,
        tag: u32,
        (now, cause): (Now, Cause),
        journal: &'e mut dyn Recorder,
        record: &'e mut Vec<u8>,
        chunk: Option<Chunk>,
    ) -> Self {
        Self { location, tag, now, cause, journal, record, chunk, early: None }
    }

    /// Who is told of its changes.
    pub(super) fn journal(&mut self) -> &mut dyn Recorder {
        self.journal
    }

    /// Notes that nothing is known of what was saved before Unix second `since`.
    pub(super) fn is_early_since(&mut self, since: u32) {
        self.early = Some(since);
    }

    /// The Unix second of the start, if what was saved of this AoR is not known yet: bindings can
    /// be added and refreshed, but not listed or removed, and no nonce issued by then is any good.
    pub fn early(&self) -> Option<u32> {
        self.early
    }

    /// Where the record is kept by now.
    pub(super) fn chunk(&self) -> Option<Chunk> {
        self.chunk
    }

    /// The record as it is.
    pub fn record(&self) -> Option<AorRecord<'_>> {
        AorRecord::new(self.record)
    }

    /// Makes `record`, packed by [`RecordWriter`], the AoR's record.
    ///
    /// One that fits where the old one is takes its place: a refresh allocates nothing, and a
    /// shorter one finds room in a slab that is full.
    ///
    /// # Errors
    /// When it has more bindings than there were and `max_bindings` is reached, or it is longer and
    /// there is no memory for it in the slab.
    pub fn commit(&mut self, record: &[u8]) -> Result<(), LocationFull> {
        self.commit_within(record, Bound::Kept)
    }

    /// [`Entry::commit`] of what was acknowledged already: whatever `max_bindings` is.
    ///
    /// # Errors
    /// When there is no memory for it in the slab.
    fn commit_unbounded(&mut self, record: &[u8]) -> Result<(), LocationFull> {
        self.commit_within(record, Bound::None)
    }

    fn commit_within(&mut self, record: &[u8], bound: Bound) -> Result<(), LocationFull> {
        let before = self.sequence();
        let difference = self.difference(record);
        let scheduled = self.put(record, bound)?;
        let sequence = self.location.next_sequence(before);
        self.settle(sequence, scheduled, None);
        if let Some(difference) = difference
            && let Some(new) = self.record()
        {
            // Empty means gone, to whoever follows the changes.
            let shown = if new.is_empty() { &[] } else { new.as_bytes() };
            self.publish(sequence, difference, new.aor().into(), shown.into());
        }
        Ok(())
    }

    /// Makes `record`, read from disk, the AoR's record with the sequence that it had. Nobody is
    /// told: whoever follows the changes, or writes them down, knows that one.
    ///
    /// # Errors
    /// When there is no memory for it in the slab: what was acknowledged stays, even beyond a
    /// `max_bindings` that was lowered meanwhile.
    pub fn restore(&mut self, record: &[u8], sequence: u64) -> Result<(), LocationFull> {
        let scheduled = self.put(record, Bound::None)?;
        self.number(sequence, scheduled, 0);
        Ok(())
    }

    /// The sequence of the record; zero if there is none.
    pub fn sequence(&self) -> u64 {
        self.record().map_or(0, |record| record.sequence())
    }

    /// Puts `record` in the place of what is there, but for writing it back. The result is when the
    /// wheel comes to it.
    fn put(&mut self, record: &[u8], bound: Bound) -> Result<u32, LocationFull> {
        let Some(new) = AorRecord::new(record) else { return Err(LocationFull) };
        let old = self.record();
        let scheduled = old.map_or(0, |old| old.scheduled());
        let chunk = self.location.chunk_for(self.chunk, self.record.len(), record.len())?;
        if let Err(full) = self.location.count(old, Some(new), bound) {
            if self.chunk != Some(chunk) {
                self.location.slab.give_back(chunk, words_for(record.len()));
            }
            return Err(full);
        }
        let (from, to) = (words_for(self.record.len()), words_for(record.len()));
        match self.chunk.replace(chunk) {
            Some(old) if old != chunk => self.location.slab.give_back(old, from),
            Some(_) if to < from => self.location.slab.cut(chunk, from, to),
            Some(_) | None => {}
        }
        let visit = visit_at(&new, self.now);
        // A record that was emptied keeps its place, however late.
        let visit = if new.is_empty() { visit.max(scheduled) } else { visit };
        let scheduled = self.schedule(scheduled, visit);
        self.record.clear();
        self.record.extend_from_slice(record);
        Ok(scheduled)
    }

    /// Writes the record back, with these numbers, and tells who writes changes down, and who follows
    /// their traces. `refreshed` is the sequence before, where only numbers of one binding changed, the first by now.
    fn settle(&mut self, sequence: u64, scheduled: u32, refreshed: Option<u64>) {
        let writer = self.journal.writer();
        let is_known = writer != 0 && self.record().is_some_and(|old| old.writer() == writer);
        self.number(sequence, scheduled, writer);
        if let Some(record) = AorRecord::new(self.record) {
            let what = match (self.early, refreshed.filter(|_| is_known)) {
                (Some(_), _) => Recorded::Early(record),
                (None, Some(before)) => Recorded::Refresh { record, before },
                (None, None) => Recorded::State(record),
            };
            self.journal.record(self.now, what);
        }
        self.location.leave_trace(|| Trace::Changed(self.tag));
    }

    fn number(&mut self, sequence: u64, scheduled: u32, writer: u8) {
        set_sequence(self.record, sequence);
        set_scheduled(self.record, scheduled);
        set_writer(self.record, writer);
        self.write_back();
    }

    /// Has the record written down as it is, unless it was by the same hand: what a request finds
    /// done by another one may not be on disk yet.
    pub fn confirm(&mut self) {
        let writer = self.journal.writer();
        let Some(record) = self.record().filter(|record| record.writer() != writer) else { return };
        let (sequence, scheduled) = (record.sequence(), record.scheduled());
        self.number(sequence, scheduled, writer);
        if let Some(record) = AorRecord::new(self.record) {
            let what = match self.early {
                Some(_) => Recorded::Early(record),
                None => Recorded::State(record),
            };
            self.journal.record(self.now, what);
        }
    }

    fn write_back(&self) {
        if let Some(chunk) = self.chunk {
            self.location.slab.write(chunk, self.record);
        }
    }

    /// Commits a refresh that leaves the texts of the record as they are, and what it changes of
    /// the nonce counts: [`Entry::commit`] of the same outcome, without a record to copy, and no
    /// [`Change`].
    ///
    /// Both must have been found for this very record.
    pub fn refresh(&mut self, refresh: &Refresh, renewal: Option<&Renewal>) {
        let Some(old) = self.record() else { return };
        let (nonces, scheduled, before) = (old.nonces_at(), old.scheduled(), old.sequence());
        let sequence = self.location.next_sequence(before);
        let visit = visit_second(refresh.first_deadline().0, self.now);
        let scheduled = self.schedule(scheduled, visit);
        if let Some(renewal) = renewal
            && let Some(nonces) = self.record.get_mut(nonces)
        {
            renewal.apply(nonces);
        }
        refresh.apply(self.record);
        self.settle(sequence, scheduled, Some(before));
    }

    /// Has the record visited at `visit`, unless the wheel holds it for an earlier second anyhow:
    /// it will look then, and put it back itself.
    fn schedule(&self, scheduled: u32, visit: u32) -> u32 {
        if scheduled != 0 && scheduled <= visit {
            return scheduled;
        }
        self.location.wheels.schedule(self.tag, visit);
        visit
    }

    /// Removes all bindings and nonce counts.
    ///
    /// What is left is an empty record, until the wheel comes to it: an AoR that comes and goes
    /// has one place in the wheel, not one for each time.
    pub fn remove(&mut self) {
        let Some(packed) = self.record().and_then(|old| emptied(old.aor())) else { return };
        // Neither fewer bindings nor a shorter record exceed a bound.
        let _ = self.commit(&packed);
    }

    /// Takes the record out of the map: the wheel has no place for it any more.
    pub(super) fn discard(&mut self) {
        let Some(old) = self.record() else { return };
        let sequence = self.location.next_sequence(old.sequence());
        // Whatever this AoR gets later comes after this.
        self.location.sequences.floor.fetch_max(sequence, Ordering::Relaxed);
        if let Some(difference) = self.difference(&[]) {
            self.publish(sequence, difference, old.aor().into(), Box::default());
        }
        if !old.is_empty() {
            self.location.leave_trace(|| Trace::Gone(old.aor().into()));
        }
        // That an empty record goes changes nothing for anybody who reads the journal.
        if self.journal.writer() != 0
            && !old.is_empty()
            && let Some(mut gone) = emptied(old.aor())
        {
            set_sequence(&mut gone, sequence);
            if let Some(gone) = AorRecord::new(&gone) {
                self.journal.record(self.now, Recorded::State(gone));
            }
        }
        self.drop_record();
    }

    fn drop_record(&mut self) {
        // Fewer bindings never exceed a bound.
        let _ = self.location.count(self.record(), None, Bound::None);
        if let Some(chunk) = self.chunk.take() {
            self.location.slab.give_back(chunk, words_for(self.record.len()));
        }
        self.record.clear();
    }

    /// Moves an early record into `main`, to what was saved of its AoR.
    pub(super) fn move_to(&mut self, main: &Location, key: AorKey) {
        let Some(early) = AorRecord::new(self.record) else { return };
        main.raise_sequences(early.sequence());
        let most = main.max_contacts();
        let when = (self.now, self.cause);
        main.update_here(key, early.aor(), when, &mut *self.journal, |entry| {
            let mut merged = Vec::new();
            // It was acknowledged: it stays, as what was saved does, even beyond `max_bindings`.
            let merge = entry.merge_into(&early, most, &mut merged);
            let kept = merge.ok_or(LocationFull).and_then(|()| entry.commit_unbounded(&merged));
            if let Err(LocationFull) = kept {
                let aor = early.aor().escape_ascii();
                tracing::error!(%aor, "no room for what was registered while the start went on");
            }
        });
        self.drop_record();
    }

    /// Packs what an early record and this one are together into `out`: the early bindings, and of
    /// the others those that none of them stands for, the latest refreshed first, as long as there
    /// are no more than `most` in force. `None` if the early ones are too long with all nonce
    /// counts, which those of phones are not.
    ///
    /// The early REGISTER was granted, so where both are too many it is the oldest that give way,
    /// whatever `on_limit` says.
    pub fn merge_into(&self, early: &AorRecord<'_>, most: u16, out: &mut Vec<u8>) -> Option<()> {
        let stored = self.record();
        let counts = |record: &AorRecord<'_>| NonceCounts::decode(record.nonces());
        let mut nonces = stored.as_ref().and_then(counts).unwrap_or_default();
        nonces.merge(&counts(early).unwrap_or_default());
        let mut packed = Vec::new();
        nonces.encode_into(&mut packed);
        let mut writer = RecordWriter::new(out, early.aor(), &packed)?;
        early.stored().try_for_each(|binding| writer.push(&binding))?;
        let mut room = usize::from(most).saturating_sub(early.bindings(self.now).count());
        for binding in stored.iter().flat_map(AorRecord::stored) {
            let is_it =
                |new: Binding<'_>| new.matches(binding.uri, binding.instance(), binding.reg_id());
            if early.stored().any(is_it) {
                continue;
            }
            // What has ended takes no room: a later change of the journal may make it last.
            let is_ended = binding.deadline.is_past(self.now);
            // What does not fit any more is the oldest.
            if is_ended || room > 0 {
                let is_in = writer.push(&binding).is_some();
                room -= usize::from(is_in && !is_ended);
            }
        }
        writer.finish();
        Some(())
    }

    /// Notes that the wheel no longer holds the record.
    pub(super) fn unschedule(&mut self) {
        set_scheduled(self.record, 0);
        self.write_back();
    }

    /// Puts a record whose second came, but which has not ended, back into the wheel.
    pub(super) fn reschedule(&mut self) {
        let Some(record) = self.record() else { return };
        let visit = visit_at(&record, self.now);
        self.location.wheels.schedule(self.tag, visit);
        set_scheduled(self.record, visit);
        self.write_back();
    }

    /// What a change to `new`, a record or nothing, does to the bindings, if that is anything and
    /// anybody listens.
    fn difference(&self, new: &[u8]) -> Option<Difference> {
        if !self.location.feed.is_active() {
            return None;
        }
        let difference = Difference::between(self.record(), AorRecord::new(new), self.now);
        (!difference.is_none()).then_some(difference)
    }

    fn publish(&self, sequence: u64, difference: Difference, aor: Box<[u8]>, record: Box<[u8]>) {
        let (now, cause) = (self.now, self.cause);
        self.location.feed.publish(&Change { sequence, now, cause, difference, aor, record });
    }
}

/// A record of `aor` with nothing in it.
fn emptied(aor: &[u8]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    RecordWriter::new(&mut packed, aor, b"")?.finish();
    Some(packed)
}

/// When the sweep has to look at a record: at its first deadline, or, without bindings, soon, to
/// ask whether its nonce counts are still needed.
fn visit_at(record: &AorRecord<'_>, now: Now) -> u32 {
    const NONCES_ONLY: u32 = 60;
    let first = record.stored().map(|b| b.deadline.0).min();
    visit_second(first.unwrap_or_else(|| now.second().saturating_add(NONCES_ONLY)), now)
}

/// The second of the visit to what has to be looked at by `second`.
///
/// Far seconds share one place with those before them, so that a wheel has few, each with many
/// records: a visit that comes too early puts the record where it belongs. No refresh moves a
/// record there and back, as the wheel is only told of earlier seconds.
fn visit_second(second: u32, now: Now) -> u32 {
    const FAR: u32 = 64;
    const SHARED: u32 = 16;
    let soonest = now.second().saturating_add(1);
    if second > soonest.saturating_add(FAR) {
        second - second % SHARED
    } else {
        second.max(soonest)
    }
}

impl Location {
    /// The chunk for a record of `to` octets in the place of one of `from` octets in `chunk`.
    fn chunk_for(
        &self,
        chunk: Option<Chunk>,
        from: usize,
        to: usize,
    ) -> Result<Chunk, LocationFull> {
        let (from, to) = (words_for(from), words_for(to));
        match chunk {
            Some(chunk) if from == to => Ok(chunk),
            // A smaller one is in the old one, where there is no other.
            _ => self.slab.take(to).or_else(|| chunk.filter(|_| to < from)).ok_or(LocationFull),
        }
    }

    /// Counts a record's change from `old` to `new`, unless that would exceed the bound.
    fn count(
        &self,
        old: Option<AorRecord<'_>>,
        new: Option<AorRecord<'_>>,
        bound: Bound,
    ) -> Result<(), LocationFull> {
        let by_transport = |record: Option<AorRecord<'_>>| {
            let mut counts = [0_i64; Transport::ALL.len()];
            for binding in record.iter().flat_map(AorRecord::stored) {
                counts[usize::from(binding.flow.transport.code())] += 1;
            }
            counts
        };
        let is_emptied = |r: Option<AorRecord<'_>>| i64::from(r.is_some_and(|r| r.is_empty()));
        let emptied = is_emptied(new) - is_emptied(old);
        let (before, after) = (by_transport(old), by_transport(new));
        if before != after {
            let growth: i64 = after.iter().sum::<i64>() - before.iter().sum::<i64>();
            let max = self.max_bindings.load(Ordering::Relaxed);
            let held = self.bindings() + self.emptied();
            let is_bounded = bound == Bound::Kept && max > 0;
            if growth > 0 && is_bounded && held.saturating_add_signed(growth + emptied) > max {
                return Err(LocationFull);
            }
            for (cell, (after, before)) in self.counts.bindings.iter().zip(after.iter().zip(before))
            {
                add(cell, after - before);
            }
        }
        let is_bound = |r: Option<AorRecord<'_>>| i64::from(r.is_some_and(|r| !r.is_empty()));
        add(&self.counts.aors, is_bound(new) - is_bound(old));
        add(&self.counts.emptied, emptied);
        Ok(())
    }
}

fn add(cell: &AtomicU64, delta: i64) {
    if delta != 0 {
        // Wraps around zero for a negative delta, as a sum over threads must.
        cell.fetch_add(delta.cast_unsigned(), Ordering::Relaxed);
    }
}
