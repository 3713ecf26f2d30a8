//! From what is on disk to the bindings in memory: the newest snapshot that is whole, and the
//! segments of the journal that came after it.
//!
//! Threads share the parts of the snapshot, then the segments of one generation after the other. A
//! change is applied if its sequence is above that of what is there, so the order in which threads
//! come to it does not matter; `persist/FORMAT.md` has the argument.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam::channel::{RecvTimeoutError, bounded};
use persist::{
    error::{ReadError, StorageError},
    journal::{self, Segment, SegmentId},
    snapshot::{Checking, Generations, Origin, Parts, Section, Verified},
    storage::Storage,
};

use super::{
    change::{Change, Listeners, Numbers, What},
    convert::record_of_section,
};
use crate::{
    location::{Entry, Location, LocationFull},
    registrar::{AorRecord, Binding, RecordWriter},
    time::{Moment, Now},
    worker::Rules,
};

/// How often progress is shown while files are read.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// Records and sections that can't be used and are logged one by one; more are only counted.
const LOGGED: u64 = 20;

/// Bindings whose refreshes wait for what they build on at most; of more, they are lost with it.
const LATE_MAX: usize = 1 << 18;

/// Shares that the AoRs of a segment are divided into at most: each reads all of it.
const SHARES_MAX: usize = 8;

/// Generations of sequences: within one, no AoR changes more often than this. At a million changes
/// a second of one AoR that is a day; a snapshot, which begins the next, is due every minute.
const SEQUENCES: u64 = 1 << 36;

/// Seconds by which the wall clock may be behind what was saved before that is worth a warning.
const CLOCK_TOLERANCE: u64 = 5;

/// What came back, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bindings that are in force again, with the time they had left.
    pub bindings: u64,
    /// Bindings that ended while nobody was here.
    pub expired: u64,
    /// Bindings, and changes in the journal, of AoRs that no longer have an account.
    pub orphaned: u64,
    /// Changes in the journal that were applied.
    pub changes: u64,
    /// Sections and changes that could not be used; the log says which.
    pub unreadable: u64,
    /// Files that are damaged or missing; the log says which, and what that costs.
    pub damaged: u64,
    /// AoRs that were registered while this went on.
    pub early: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Why nothing can be restored, and why the program must not go on as if there were nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot, the journal, or the folder.
    #[error("the saved registrations can't be read: {0}")]
    Read(#[from] ReadError),
    /// There is no room for more.
    #[error("the saved registrations don't fit into memory")]
    Full,
}

impl From<StorageError> for RestoreError {
    fn from(error: StorageError) -> Self {
        Self::Read(error.into())
    }
}

/// How far reading has come.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Octets that were read, of how many: the snapshot's count twice. What turns out not to be
    /// needed is never read.
    pub fn octets(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }
}

/// Where a process finds what those before it have saved.
pub struct Saved<'s> {
    /// The snapshots.
    pub snapshots: Generations,
    /// The folder with the journal.
    pub journals: &'s dyn Storage,
}

/// What a look at the names and heads of the files says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// A generation of the journal that nobody has used.
    pub generation: u32,
    /// No sequence that anybody gave out is above this.
    pub sequence: u64,
    /// Whether there are segments of a journal.
    pub has_journal: bool,
}

/// What restored changes are judged by.
#[derive(Clone, Copy)]
pub struct Basis<'b> {
    /// Who may be registered; anybody without.
    pub rules: Option<&'b Rules>,
    /// The listeners.
    pub listeners: &'b dyn Listeners,
    /// The present.
    pub now: Now,
    /// How many threads read.
    pub threads: usize,
}

impl Saved<'_> {
    /// Looks at names and heads.
    ///
    /// # Errors
    /// When a folder can't be listed.
    pub fn outlook(&self) -> Result<Outlook, StorageError> {
        let heads = self.snapshots.heads()?;
        let at_least = heads.iter().filter_map(|head| head.journal).max().unwrap_or(0);
        let generation = journal::first_free(self.journals, at_least)?
            .unwrap_or(SegmentId::GENERATION_MAX.saturating_add(1));
        // Whatever the wall clock says: since a snapshot began, each generation has given out so
        // many at most.
        let after = |head: &persist::snapshot::General| {
            let generations = u64::from(generation - head.journal.unwrap_or(0).min(generation)) + 1;
            head.sequence.saturating_add(generations.saturating_mul(SEQUENCES))
        };
        let sequence = heads
            .iter()
            .map(after)
            .max()
            .unwrap_or_else(|| u64::from(generation).saturating_mul(SEQUENCES));
        let has_journal = !journal::segments(self.journals)?.is_empty();
        Ok(Outlook { generation, sequence, has_journal })
    }

    /// Reads everything up to the journal's generation `until` into `location`.
    ///
    /// Files that can't be used are renamed and reported, never deleted.
    ///
    /// # Errors
    /// When a folder or a file can't be read at all, or is of a later version of this program.
    pub fn restore(
        &mut self,
        location: &Location,
        until: u32,
        basis: Basis<'_>,
        progress: &Progress,
    ) -> Result<Restored, RestoreError> {
        let segments: Vec<_> = journal::segments(self.journals)?
            .into_iter()
            .filter(|segment| segment.generation() < until)
            .collect();
        let length = |id: &SegmentId| self.journals.open(&id.to_string()).ok().map(|f| f.size());
        progress.total.store(segments.iter().filter_map(length).sum(), Ordering::Relaxed);
        let reading = Reading::new(location, basis, progress);
        let snapshot = self.newest(&reading)?;
        let general = snapshot.as_ref().and_then(|snapshot| match snapshot.summary().origin {
            Origin::Bindery { general, .. } => Some(general),
            Origin::Yate => None,
        });
        let first = general.and_then(|general| general.journal).unwrap_or(0);
        let covered = general.map_or(0, |general| general.sequence);
        if let Some(general) = general {
            location.raise_sequences(general.sequence);
            reading.check_clock(general.written);
        }
        if let Some(snapshot) = snapshot {
            reading.snapshot(snapshot, covered)?;
        }
        let segments: Vec<_> = segments.into_iter().filter(|s| s.generation() >= first).collect();
        for generation in segments.chunk_by(|a, b| a.generation() == b.generation()) {
            reading.segments(self.journals, generation, covered)?;
        }
        reading.look_for_missing(general.map(|general| (first, general.writers)));
        reading.finish(covered)
    }

    /// The newest snapshot that is whole.
    fn newest(&mut self, reading: &Reading<'_>) -> Result<Option<Verified>, RestoreError> {
        let newest = self.snapshots.newest_checked_by(|checking| {
            reading.progress.total.fetch_add(checking.bytes() * 2, Ordering::Relaxed);
            reading.share(Checking::run, checking, Checking::done);
        })?;
        reading.damaged.fetch_add(newest.set_aside.len() as u64, Ordering::Relaxed);
        for aside in &newest.set_aside {
            match &aside.renamed {
                Ok(renamed) => {
                    tracing::error!(file = aside.name, renamed, error = %aside.error, "set a damaged snapshot aside");
                }
                Err(error) => {
                    tracing::error!(file = aside.name, %error, damage = %aside.error, "a damaged snapshot can't be set aside");
                }
            }
        }
        Ok(newest.snapshot)
    }
}

/// Files being read.
struct Reading<'r> {
    location: &'r Location,
    basis: Basis<'r>,
    progress: &'r Progress,
    expired: AtomicU64,
    orphaned: AtomicU64,
    changes: AtomicU64,
    unreadable: AtomicU64,
    damaged: AtomicU64,
    is_full: AtomicU64,
    /// What the segments were found to be.
    found: Mutex<Vec<Segment>>,
    /// The first changes that could not be used, for when it is known what led to it.
    left_out: Mutex<Vec<LeftOut>>,
    late: Mutex<HashMap<LateKey, Late>>,
}

/// An AoR, and which of its bindings.
type LateKey = (Box<[u8]>, Option<u64>);

/// A change of the journal that could not be used.
struct LeftOut {
    file: SegmentId,
    byte: u64,
    what: &'static str,
}

/// The last refresh of a binding whose base was not there. What it says is absolute, so that it can
/// be applied to an older state; but only when nothing can come any more that has more of the AoR.
struct Late {
    sequence: u64,
    before: u64,
    numbers: Numbers,
    nonces: Box<[u8]>,
    file: SegmentId,
    byte: u64,
}

/// A thread's part of the AoRs, by the shard they are in.
#[derive(Clone, Copy)]
struct Share {
    number: usize,
    of: usize,
}

impl Share {
    /// Whether it is the one to speak of what is nobody's, or everybody's.
    fn is_first(self) -> bool {
        self.number == 0
    }

    fn has(self, shard: usize) -> bool {
        shard % self.of == self.number
    }
}

impl<'r> Reading<'r> {
    fn new(location: &'r Location, basis: Basis<'r>, progress: &'r Progress) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            location,
            basis,
            progress,
            expired: zero(),
            orphaned: zero(),
            changes: zero(),
            unreadable: zero(),
            damaged: zero(),
            is_full: zero(),
            found: Mutex::default(),
            left_out: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// Has all threads `run` a part of `work`, and shows how much is `done`.
    fn share<W: Sync>(&self, run: impl Fn(&W) + Sync, work: &W, done: impl Fn(&W) -> u64) {
        let before = self.progress.octets().0;
        thread::scope(|scope| {
            let (finished, all_finished) = bounded::<()>(0);
            for _ in 0..self.basis.threads.max(1) {
                let (run, finished) = (&run, finished.clone());
                scope.spawn(move || {
                    let _finished = finished;
                    run(work);
                });
            }
            drop(finished);
            while all_finished.recv_timeout(SHOWN_EVERY) == Err(RecvTimeoutError::Timeout) {
                self.progress.set(before + done(work));
            }
        });
        self.progress.set(before + done(work));
    }

    fn check_clock(&self, written: u64) {
        let now = self.basis.now.unix;
        if written > now + CLOCK_TOLERANCE {
            tracing::warn!(
                seconds = written - now,
                "the clock is behind that of the last snapshot: bindings last no longer than granted"
            );
        } else {
            tracing::info!(seconds = now.saturating_sub(written), "the last snapshot's age");
        }
    }

    fn snapshot(&self, snapshot: Verified, covered: u64) -> Result<(), RestoreError> {
        let file = snapshot.name().to_owned();
        self.location.reserve(snapshot.summary().sections);
        let parts = snapshot.parts();
        let run = |parts: &Parts| {
            let mut packed = Vec::new();
            parts.run(|section| self.section(&section, &file, covered, &mut packed));
        };
        self.share(run, &parts, Parts::done);
        parts.finish()?;
        Ok(())
    }

    /// Takes a section of the snapshot, whose changes have a sequence of at most `covered` if it
    /// doesn't say which.
    fn section(&self, section: &Section<'_>, file: &str, covered: u64, packed: &mut Vec<u8>) {
        let Basis { rules, listeners, now, .. } = self.basis;
        let name = section.name();
        let aor = match rules {
            Some(rules) => rules.aor_of_section(&name),
            None => (&*name).into(),
        };
        let unpacked = match record_of_section(&aor, section, now, listeners, packed) {
            Ok(unpacked) => unpacked,
            Err(what) => {
                if self.unreadable.fetch_add(1, Ordering::Relaxed) < LOGGED {
                    let (byte, aor) = (section.offset(), name.escape_ascii());
                    tracing::warn!(file, byte, %aor, what, "left a saved registration out");
                }
                return;
            }
        };
        if self.is_orphan(&aor, unpacked.bindings + unpacked.expired) {
            return;
        }
        self.put(&aor, unpacked.sequence.unwrap_or(covered).max(1), packed);
    }

    /// Puts a record in place, unless there is a later one.
    fn put(&self, aor: &[u8], sequence: u64, packed: &[u8]) -> bool {
        self.apply(aor, |entry| {
            let is_later = sequence > entry.sequence();
            if is_later { entry.restore(packed, sequence).map(|()| true) } else { Ok(false) }
        })
    }

    fn apply(
        &self,
        aor: &[u8],
        change: impl FnOnce(&mut Entry<'_>) -> Result<bool, LocationFull>,
    ) -> bool {
        self.location.restore(aor, self.basis.now, change).unwrap_or_else(|LocationFull| {
            self.is_full.fetch_add(1, Ordering::Relaxed);
            false
        })
    }

    /// Whether nothing of an AoR is to be read, since it has no account. But who follows the changes
    /// was told that it is bound, and it takes all that was saved to know whether it still is: it is
    /// read then, and removed as at a reload.
    fn is_orphan(&self, aor: &[u8], bindings: u64) -> bool {
        if self.location.is_followed() {
            return false;
        }
        let is_orphan = self.basis.rules.is_some_and(|rules| !rules.has_account(aor));
        if is_orphan {
            self.orphaned.fetch_add(bindings, Ordering::Relaxed);
        }
        is_orphan
    }

    /// Reads the segments of one generation.
    ///
    /// Threads share the AoRs of each segment, not its octets: changes of one AoR are taken in
    /// their order, and to apply them takes many times as long as to read past them.
    fn segments(
        &self,
        storage: &dyn Storage,
        segments: &[SegmentId],
        covered: u64,
    ) -> Result<(), RestoreError> {
        let (next, read) = (AtomicUsize::new(0), AtomicU64::new(0));
        let shares = self.basis.threads.clamp(1, SHARES_MAX);
        let refused = Mutex::new(Vec::new());
        let run = |next: &AtomicUsize| {
            let mut work = (Vec::new(), Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(&id) = segments.get(number / shares) else { return };
                let share = Share { number: number % shares, of: shares };
                let segment = journal::read(storage, id, |record| {
                    if share.is_first() {
                        read.fetch_add(record.octets.len() as u64, Ordering::Relaxed);
                    }
                    self.change(id, record, covered, share, &mut work);
                });
                match segment {
                    Ok(segment) if share.is_first() => {
                        self.damaged.fetch_add(u64::from(report(&segment)), Ordering::Relaxed);
                        lock(&self.found).push(segment);
                    }
                    Err(error) if share.is_first() => lock(&refused).push((id, error)),
                    Ok(_) | Err(_) => {}
                }
            }
        };
        self.share(run, &next, |_| read.load(Ordering::Relaxed));
        // Only now that nobody reads them any more.
        for (id, error) in refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.refused(storage, id, error)?;
        }
        Ok(())
    }

    fn refused(
        &self,
        storage: &dyn Storage,
        id: SegmentId,
        error: ReadError,
    ) -> Result<(), RestoreError> {
        let ReadError::Damaged { .. } = error else { return Err(error.into()) };
        self.damaged.fetch_add(1, Ordering::Relaxed);
        match journal::set_aside(storage, id) {
            Ok(renamed) => {
                tracing::error!(file = %id, renamed, %error, "set a damaged segment of the journal aside");
            }
            Err(failed) => {
                tracing::error!(file = %id, error = %failed, damage = %error, "a damaged segment of the journal can't be set aside");
            }
        }
        Ok(())
    }

    /// Applies one change of the journal.
    fn change(
        &self,
        id: SegmentId,
        record: journal::Record<'_>,
        covered: u64,
        share: Share,
        (packed, merged): &mut (Vec<u8>, Vec<u8>),
    ) {
        let unreadable =
            |what: &'static str| self.leave_out(LeftOut { file: id, byte: record.offset, what });
        let Some(change) = Change::decode(record.octets) else {
            if share.is_first() {
                unreadable("expected a change");
            }
            return;
        };
        let Change { aor, sequence, what, .. } = change;
        if sequence <= covered
            || !share.has(self.location.key(aor).shard())
            || self.is_orphan(aor, 1)
        {
            return;
        }
        let Basis { listeners, now, .. } = self.basis;
        let most = self.location.max_contacts();
        let is_applied = match what {
            What::State(_) | What::Early(_) => {
                if change.pack(aor, now, listeners, packed).is_none() {
                    return unreadable("expected bindings");
                }
                match (what, AorRecord::new(packed)) {
                    (What::Early(_), Some(early)) => self.apply(aor, |entry| {
                        let is_later = sequence > entry.sequence();
                        if !is_later || entry.merge_into(&early, most, merged).is_none() {
                            return Ok(false);
                        }
                        entry.restore(merged, sequence).map(|()| true)
                    }),
                    _ => self.put(aor, sequence, packed),
                }
            }
            What::Refresh { before, which, numbers } => {
                let mut held = 0;
                let is_applied = self.apply(aor, |entry| {
                    held = entry.sequence();
                    let renewed = entry
                        .record()
                        .filter(|_| held == before)
                        .and_then(|record| renew(&record, which, numbers, change.nonces, now));
                    renewed
                        .map_or(Ok(false), |record| entry.restore(&record, sequence).map(|()| true))
                });
                if !is_applied && held <= before {
                    let nonces = change.nonces.into();
                    let (file, byte) = (id, record.offset);
                    let late = Late { sequence, before, numbers, nonces, file, byte };
                    self.put_off(aor, which, late);
                }
                is_applied
            }
        };
        self.changes.fetch_add(u64::from(is_applied), Ordering::Relaxed);
    }

    fn leave_out(&self, left_out: LeftOut) {
        if self.unreadable.fetch_add(1, Ordering::Relaxed) < LOGGED {
            lock(&self.left_out).push(left_out);
        }
    }

    /// Keeps a refresh whose base is not there until everything is read.
    fn put_off(&self, aor: &[u8], which: Option<u64>, late: Late) {
        let mut all = lock(&self.late);
        let key = (Box::from(aor), which);
        let has_room = all.len() < LATE_MAX;
        match all.get_mut(&key) {
            Some(other) if other.sequence < late.sequence => *other = late,
            Some(_) => {}
            None if has_room => drop(all.insert(key, late)),
            None => {
                drop(all);
                let Late { file, byte, .. } = late;
                self.leave_out(LeftOut { file, byte, what: "a refresh of what is lost" });
            }
        }
    }

    /// Applies refreshes whose base was lost to what is there of their AoRs. The result is how many
    /// bindings that made last.
    ///
    /// One whose base the snapshot covers was overtaken, if its binding is not there: it was
    /// removed before the snapshot came to it, by a change that was not written any more.
    fn apply_late(&self, covered: u64) -> u64 {
        let late = std::mem::take(&mut *lock(&self.late));
        let mut late: Vec<_> = late.into_iter().collect();
        // One AoR's in their order.
        late.sort_unstable_by_key(|(_, late)| late.sequence);
        let mut applied = 0;
        for ((aor, which), Late { sequence, before, numbers, nonces, file, byte }) in late {
            let mut is_overtaken = before <= covered;
            let is_applied = self.apply(&aor, |entry| {
                if entry.sequence() >= sequence {
                    is_overtaken = true;
                    return Ok(false);
                }
                let renewed = entry
                    .record()
                    .and_then(|record| renew(&record, which, numbers, &nonces, self.basis.now));
                renewed.map_or(Ok(false), |record| entry.restore(&record, sequence).map(|()| true))
            });
            applied += u64::from(is_applied);
            if !is_applied && !is_overtaken {
                self.leave_out(LeftOut { file, byte, what: "a refresh of what is lost" });
            }
        }
        applied
    }

    /// Reports segments that are missing, or have lost all they had.
    fn look_for_missing(&self, snapshot: Option<(u32, u16)>) {
        let missing = journal::missing(&lock(&self.found), snapshot);
        self.damaged.fetch_add(missing.len() as u64, Ordering::Relaxed);
        if missing.is_empty() {
            return;
        }
        let segments = missing.len();
        tracing::error!(segments, "segments of the journal are missing: changes were lost");
        for journal::Missing { id, is_empty } in missing.iter().take(20) {
            let what = if *is_empty { "there is nothing in it" } else { "it is not there" };
            tracing::error!(file = %id, what, "a segment of the journal is missing");
        }
    }

    /// Ends what is past its deadline, now that nothing can make it last any more.
    fn finish(self, covered: u64) -> Result<Restored, RestoreError> {
        let renewed = self.apply_late(covered);
        if renewed > 0 {
            self.changes.fetch_add(renewed, Ordering::Relaxed);
            tracing::warn!(
                bindings = renewed,
                "applied refreshes to older states, as what they build on is lost"
            );
        }
        let unreadable = self.unreadable.load(Ordering::Relaxed);
        if unreadable > 0 {
            tracing::error!(unreadable, "some of what was saved can't be used");
        }
        for LeftOut { file, byte, what } in lock(&self.left_out).drain(..) {
            tracing::warn!(%file, byte, what, "left a change of the journal out");
        }
        if self.is_full.load(Ordering::Relaxed) > 0 {
            return Err(RestoreError::Full);
        }
        let swept = self.location.sweep_restored(self.basis.now, |r| r.nonces().is_empty());
        Ok(Restored {
            bindings: self.location.bindings(),
            expired: self.expired.into_inner() + swept,
            orphaned: self.orphaned.into_inner(),
            changes: self.changes.into_inner(),
            unreadable,
            damaged: self.damaged.into_inner(),
            ..Restored::default()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The record with the new numbers of the binding with an id, which comes first then, or of its
/// only one. `None` if it has no such binding.
fn renew(
    record: &AorRecord<'_>,
    which: Option<u64>,
    numbers: Numbers,
    nonces: &[u8],
    now: Now,
) -> Option<Vec<u8>> {
    let at = match which {
        Some(id) => record.stored().position(|binding| binding.id() == id)?,
        None => (record.len() == 1).then_some(0)?,
    };
    let binding = record.stored().nth(at)?;
    let Numbers { cseq, branch, .. } = numbers;
    let updated = Moment::from_unix(now, numbers.updated);
    let deadline = numbers.deadline(now);
    let mut out = Vec::new();
    let mut writer = RecordWriter::new(&mut out, record.aor(), nonces)?;
    writer.push(&Binding { deadline, updated, cseq, branch, ..binding })?;
    let mut others = record.stored().enumerate().filter(|(other, _)| *other != at);
    others.try_for_each(|(_, other)| writer.push(&other))?;
    writer.finish();
    Some(out)
}

/// Says what is wrong with a segment, if anything is, and whether changes were lost.
fn report(segment: &Segment) -> bool {
    let Segment { id, torn, hole_count, hole_bytes, unreadable, .. } = segment;
    if let Some(torn) = torn {
        let (byte, bytes) = (torn.offset, torn.bytes);
        tracing::warn!(file = %id, byte, bytes, "cut a torn end off: what was being written when the process or the machine ended");
    }
    if *hole_count > 0 {
        tracing::error!(file = %id, holes = hole_count, bytes = hole_bytes, unreadable, "the journal is damaged: changes were lost");
        for hole in &segment.holes {
            tracing::error!(file = %id, byte = hole.offset, bytes = hole.bytes, "a hole in the journal");
        }
    }
    *hole_count > 0
}
