//! Writing snapshots while traffic flows.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use persist::{
    error::WriteError,
    journal,
    snapshot::{General, Generations},
    storage::Storage,
};

use super::{
    convert::{Pairs, section},
    journal::Journal,
};
use crate::{
    location::Location,
    registrar::AorRecord,
    time::{Clock, Now},
};

/// A snapshot that was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// When it was begun, in Unix seconds.
    pub unix: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// AoRs in it.
    pub aors: u64,
    /// Bindings in it.
    pub bindings: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// How snapshots have gone.
#[derive(Debug, Default)]
pub struct SnapshotStatus {
    last: Mutex<(Option<Taken>, Option<String>)>,
    taken: AtomicU64,
    failed: AtomicU64,
}

impl SnapshotStatus {
    /// The last that succeeded.
    pub fn last(&self) -> Option<Taken> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Why the last one failed; `None` if it succeeded.
    pub fn error(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// How many succeeded.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn note(&self, result: &Result<Taken, String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(taken) => {
                *last = (Some(*taken), None);
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                last.1 = Some(error.clone());
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Asks the snapshotter for one now; the answer comes back when it is on disk.
pub type Request = Sender<Result<Taken, String>>;

/// The thread that writes snapshots: every so often, when asked, and a last one at the end.
pub struct Snapshotter<C> {
    generations: Generations,
    location: Arc<Location>,
    listeners: Arc<[Box<str>]>,
    clock: C,
    status: Arc<SnapshotStatus>,
    journal: Option<Arc<Journal>>,
    pace: Pace,
    /// The generation of the journal that a snapshot without one names.
    generation: Option<u32>,
    /// Where the journal is.
    journals: Arc<dyn Storage>,
    requests: Receiver<Request>,
    /// [`Location::changes`] before the last snapshot.
    covered: Option<u64>,
}

/// How often snapshots are taken, and how fast they are written.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// The time between two.
    pub interval: Duration,
    /// Octets a second; `None` sets no bound.
    pub rate: Option<u64>,
    /// Set when the process is to end: no bound holds then.
    pub hurry: Arc<AtomicBool>,
}

/// How soon a snapshot is tried that has to make up for a journal that failed.
const RETRY: Duration = Duration::from_secs(2);

impl<C: Clock> Snapshotter<C> {
    /// A snapshotter, and where to ask it for a snapshot. It ends, after a last snapshot, when
    /// every sender is gone.
    pub fn new(
        generations: Generations,
        journals: (Arc<dyn Storage>, Option<Arc<Journal>>, Option<u32>),
        location: Arc<Location>,
        listeners: Arc<[Box<str>]>,
        clock: C,
        status: Arc<SnapshotStatus>,
        pace: Pace,
    ) -> (Self, Sender<Request>) {
        // One waiting request is as good as many: they are answered by the same snapshot.
        let (sender, requests) = bounded(1);
        let (journals, journal, generation) = journals;
        let snapshotter = Self {
            generations,
            location,
            listeners,
            clock,
            status,
            journal,
            pace,
            generation,
            journals,
            requests,
            covered: None,
        };
        (snapshotter, sender)
    }

    /// Writes snapshots until every sender is gone; the result is that of the last one.
    ///
    /// # Errors
    /// Why the last one failed.
    pub fn run(mut self) -> Result<Taken, String> {
        let interval = u64::try_from(self.pace.interval.as_millis()).unwrap_or(u64::MAX);
        let mut last = self.clock.now().millis;
        loop {
            let left = (last + interval).saturating_sub(self.clock.now().millis);
            match self.requests.recv_timeout(Duration::from_millis(left).min(RETRY)) {
                Err(RecvTimeoutError::Disconnected) => return self.take(),
                Ok(request) if self.location.is_loading() => {
                    let _ = request.send(Err("registrations are being restored".to_owned()));
                }
                Ok(request) => {
                    let result = self.take();
                    // Who asked may have gone meanwhile.
                    let _ = request.send(result);
                }
                Err(RecvTimeoutError::Timeout) if self.location.is_loading() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let is_behind =
                        self.journal.as_ref().is_some_and(|journal| journal.is_behind());
                    let is_due = self.clock.now().millis >= last.saturating_add(interval);
                    if is_due {
                        last = self.clock.now().millis;
                    }
                    let is_changed = self.covered != Some(self.location.changes());
                    if is_behind || is_due && is_changed {
                        // Why it failed is in the log and in the status.
                        let _ = self.take();
                    }
                }
            }
        }
    }

    /// Takes one snapshot.
    ///
    /// # Errors
    /// Why it was not written; the one before is what there is.
    pub fn take(&mut self) -> Result<Taken, String> {
        let result = self.write().map_err(|error| error.to_string());
        self.status.note(&result);
        match &result {
            Ok(Taken { aors, bindings, bytes, millis, .. }) => {
                tracing::debug!(aors, bindings, bytes, millis, "took a snapshot");
            }
            Err(error) => {
                tracing::error!(error, "can't write a snapshot");
            }
        }
        result
    }

    fn write(&mut self) -> Result<Taken, WriteError> {
        let started = self.clock.now();
        // In this order (persist/FORMAT.md): what changes from here on is in the new segments, and
        // has a higher sequence than what may be in the old ones only.
        let changes = self.location.changes();
        let journal = match &self.journal {
            Some(journal) => Some(journal.rotate(started.unix)?),
            None => self.generation,
        };
        let sequence = self.location.sequence();
        self.location.raise_sequences(sequence);
        let general = General { sequence, written: started.unix, journal };
        let Self { generations, location, listeners, clock, pace, .. } = self;
        let brake = Brake::new(pace, started);
        let taken = write_all(generations, general, location, listeners, clock, brake)?;
        self.covered = Some(changes);
        if let (Some(journal), Some(generation)) = (&self.journal, journal) {
            journal.covered(generation);
        }
        prune(&self.generations, &*self.journals);
        Ok(taken)
    }
}

/// Writes all of a location service as a snapshot that says `general` of itself, shard by shard.
///
/// # Errors
/// Why it was not written; then the one before is what there is.
pub(super) fn write_all(
    generations: &mut Generations,
    general: General,
    location: &Location,
    listeners: &[Box<str>],
    clock: &impl Clock,
    mut brake: Brake,
) -> Result<Taken, WriteError> {
    let started = clock.now();
    let mut writer = generations.begin(general)?;
    let mut part = Vec::new();
    let mut ends = Vec::new();
    let (mut pairs, mut aors) = (Pairs::default(), 0);
    for number in 0..Location::PARTS {
        // Records are copied while their shard is locked, and written after that.
        part.clear();
        ends.clear();
        location.scan(number, None, |_, record| {
            part.extend_from_slice(record.as_bytes());
            ends.push(part.len());
            true
        });
        let mut now = clock.now();
        let mut start = 0;
        for &end in &ends {
            let record = part.get(start..end).and_then(AorRecord::new);
            start = end;
            if let Some(record) = record
                && let Some(bindings) = section(&record, now, listeners, &mut pairs)
            {
                writer.section(record.aor(), bindings, pairs.iter())?;
                aors += u64::from(bindings > 0);
                if brake.hold(writer.bytes(), clock) {
                    now = clock.now();
                }
            }
        }
    }
    let summary = writer.finish()?;
    Ok(Taken {
        unix: started.unix,
        millis: clock.now().millis - started.millis,
        aors,
        bindings: summary.bindings,
        bytes: summary.bytes,
    })
}

/// Removes the segments that no snapshot needs any more. What stays is tried again next time.
pub(super) fn prune(generations: &Generations, journals: &dyn Storage) {
    let needed = match generations.journal_needed() {
        Ok(needed) => needed,
        Err(error) => return tracing::warn!(%error, "can't tell which segments are needed"),
    };
    match journal::prune(journals, needed) {
        Ok(pruned) => {
            for error in pruned.failed {
                tracing::warn!(%error, "a segment of the journal stays");
            }
        }
        Err(error) => tracing::warn!(%error, "old segments of the journal stay"),
    }
}

/// Holds whoever writes faster than so many octets a second.
pub(super) struct Brake {
    rate: Option<u64>,
    hurry: Arc<AtomicBool>,
    started: Now,
    /// Where to look at the clock again.
    next: u64,
}

impl Brake {
    /// Octets between two looks at the clock.
    const STRIDE: u64 = 256 << 10;
    /// How soon it notices that it is to hurry.
    const NAP: Duration = Duration::from_millis(50);

    pub(super) fn new(pace: &Pace, started: Now) -> Self {
        Self { rate: pace.rate, hurry: Arc::clone(&pace.hurry), started, next: Self::STRIDE }
    }

    /// Sleeps if `written` octets are more than there should be by now; says whether it did.
    fn hold(&mut self, written: u64, clock: &impl Clock) -> bool {
        let Some(rate) = self.rate.filter(|_| written >= self.next) else { return false };
        self.next = written + Self::STRIDE;
        let due = written.saturating_mul(1000) / rate.max(1);
        let ahead = || due.saturating_sub(clock.now().millis - self.started.millis);
        let mut has_slept = false;
        while !self.hurry.load(Ordering::Relaxed) && ahead() > 0 {
            thread::park_timeout(Duration::from_millis(ahead()).min(Self::NAP));
            has_slept = true;
        }
        has_slept
    }
}
