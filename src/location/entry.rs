//! One record while it is changed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    feed::{Cause, Change},
    slab::{Chunk, words_for},
    store::{Location, LocationFull},
};
use crate::{
    auth::Renewal,
    flow::Transport,
    registrar::{AorRecord, RecordWriter, Refresh, set_scheduled, set_sequence},
    time::Now,
};

/// One AoR's record, held under its shard's lock.
#[derive(Debug)]
pub struct Entry<'e> {
    location: &'e Location,
    tag: u32,
    now: Now,
    cause: Cause,
    /// The record's octets; none if there is no record.
    record: &'e mut Vec<u8>,
    /// Where they are kept; always there if they are.
    chunk: Option<Chunk>,
}

impl<'e> Entry<'e> {
    /// The record in `record`, which is kept in `chunk` if there is one.
    pub(super) fn new(
        location: &'e Location,
        tag: u32,
        now: Now,
        cause: Cause,
        record: &'e mut Vec<u8>,
        chunk: Option<Chunk>,
    ) -> Self {
        Self { location, tag, now, cause, record, chunk }
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
        let Some(new) = AorRecord::new(record) else { return Ok(()) };
        let old = self.record();
        let before = old.map_or(0, |old| old.sequence());
        let scheduled = old.map_or(0, |old| old.scheduled());
        let chunk = self.location.chunk_for(self.chunk, self.record.len(), record.len())?;
        if let Err(full) = self.location.count(old, Some(new)) {
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
        self.settle(self.location.next_sequence(before), scheduled);
        Ok(())
    }

    /// Writes the record back, with these numbers, and tells who follows the changes.
    fn settle(&mut self, sequence: u64, scheduled: u32) {
        set_sequence(self.record, sequence);
        set_scheduled(self.record, scheduled);
        self.write_back();
        if self.location.feed.is_active()
            && let Some(new) = self.record()
        {
            // Empty means gone, to whoever follows the changes.
            let shown = if new.is_empty() { &[] } else { new.as_bytes() };
            self.publish(sequence, new.aor().into(), shown.into());
        }
    }

    fn write_back(&self) {
        if let Some(chunk) = self.chunk {
            self.location.slab.write(chunk, self.record);
        }
    }

    /// Commits a refresh that leaves the texts of the record as they are, and what it changes of
    /// the nonce counts: [`Entry::commit`] of the same outcome, without a record to copy.
    ///
    /// Both must have been found for this very record.
    pub fn refresh(&mut self, refresh: &Refresh, renewal: Option<&Renewal>) {
        let Some(old) = self.record() else { return };
        let (nonces, scheduled) = (old.nonces_at(), old.scheduled());
        let sequence = self.location.next_sequence(old.sequence());
        let visit = visit_second(refresh.first_deadline().0, self.now);
        let scheduled = self.schedule(scheduled, visit);
        if let Some(renewal) = renewal
            && let Some(nonces) = self.record.get_mut(nonces)
        {
            renewal.apply(nonces);
        }
        refresh.apply(self.record);
        self.settle(sequence, scheduled);
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
        let Some(old) = self.record() else { return };
        let mut packed = Vec::new();
        let Some(writer) = RecordWriter::new(&mut packed, old.aor(), b"") else { return };
        writer.finish();
        // Neither fewer bindings nor a shorter record exceed a bound.
        let _ = self.commit(&packed);
    }

    /// Takes the record out of the map: the wheel has no place for it any more.
    pub(super) fn discard(&mut self) {
        let Some(old) = self.record() else { return };
        let sequence = self.location.next_sequence(old.sequence());
        // Whatever this AoR gets later comes after this.
        self.location.sequences.floor.fetch_max(sequence, Ordering::Relaxed);
        // Fewer bindings never exceed a bound.
        let _ = self.location.count(Some(old), None);
        if self.location.feed.is_active() {
            self.publish(sequence, old.aor().into(), Box::default());
        }
        if let Some(chunk) = self.chunk.take() {
            self.location.slab.give_back(chunk, words_for(self.record.len()));
        }
        self.record.clear();
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

    fn publish(&self, sequence: u64, aor: Box<[u8]>, record: Box<[u8]>) {
        self.location.feed.publish(&Change { sequence, cause: self.cause, aor, record });
    }
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
            if growth > 0 && max > 0 && held.saturating_add_signed(growth + emptied) > max {
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
