//! The journal: what every change is written to before it is answered.
//!
//! Each worker has a *lane*, and one is for everybody else: the sweep of what expires, operators,
//! the start. A lane writes a segment of its own, so workers share no lock; a lane's lock is taken
//! once a batch, by its worker, and for a moment when a snapshot has the lanes go on with new
//! segments. `persist/FORMAT.md` has the rules that this keeps to, and why nothing is lost.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam::{
    channel::{Receiver, Sender, after, bounded},
    utils::CachePadded,
};
use mio::Waker;
use persist::{
    error::{JournalError, StorageError},
    journal::{SyncHandle, Writer},
    storage::Storage,
};

use super::change;
use crate::{
    config::settings::{Durability, OnDiskError},
    location::{Recorded, Recorder},
    time::Now,
    worker::{Leave, Log, Settled},
};

/// Without anybody waiting, the time between two syncs: what a power cut may take.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The time from one sync that somebody waited for to the next, at least. Without it, syncs follow
/// each other as fast as the disk goes, and at full load a fifth of a CPU that has other work to do
/// is spent on them; with it, answers leave later by as much, but only where there are many.
const SYNC_PACE: Duration = Duration::from_millis(2);

/// How often a sync that is due is put off because the worker has more than it can do, and for how
/// long each time: until then it may be about to write as much again. Together with the pace that
/// is what `durability=sync` adds to an answer at most, beside the disk's own time; it is gone as
/// soon as there is nothing to be gained by it.
const PUT_OFF: u32 = 6;
const PUT_OFF_BY: Duration = Duration::from_millis(1);

/// Records of a batch after which another one most likely waits: half of what a batch may have.
const MANY: u64 = 16;

/// Octets that are written together where there is no batch to wait for.
const TOGETHER: usize = 64 << 10;

/// The lane of whoever is no worker.
const CONTROL: usize = 0;

/// The journal of a process.
pub struct Journal {
    storage: Arc<dyn Storage>,
    lanes: Box<[CachePadded<Mutex<Lane>>]>,
    progress: Box<[Arc<Progress>]>,
    durability: Durability,
    on_error: OnDiskError,
    /// The generation that [`Journal::rotate`] begins next.
    next: AtomicU32,
    /// Whether anything acknowledged may be in memory only.
    is_behind: AtomicBool,
    fault: Mutex<Option<String>>,
    faults: AtomicU64,
}

/// One writer's way to its segment.
struct Lane {
    /// What records remember: the lane's number and one.
    id: u8,
    listeners: Arc<[Box<str>]>,
    /// `None` once its segment was given up.
    writer: Option<Writer>,
    /// The generation in which a segment was given up: what was written there can't be built upon.
    gave_up: Option<u32>,
    on_error: OnDiskError,
    /// Why the segment is about to be given up.
    error: Option<JournalError>,
    progress: Arc<Progress>,
}

/// How far a lane has come, for those that wait for it.
struct Progress {
    /// Batches that the kernel has.
    written: AtomicU64,
    /// Records of the last of them.
    last: AtomicU64,
    settled: Mutex<Settled>,
    /// The lane's segments that are not synced yet, the one in use last.
    handles: Mutex<Vec<SyncHandle>>,
    /// Asks for a sync now.
    ask: Sender<()>,
    asked: Receiver<()>,
    records: AtomicU64,
    octets: AtomicU64,
    syncs: AtomicU64,
}

/// What has been written, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalCounts {
    /// Changes.
    pub records: u64,
    /// Octets.
    pub bytes: u64,
    /// Syncs that found something to do.
    pub syncs: u64,
    /// Faults of the disk.
    pub faults: u64,
}

impl Journal {
    /// A journal for `workers`, whose first segments are those of `generation`, which nobody has
    /// used before; `unix` is now.
    ///
    /// Where the disk can't be written and that is not to stop service, it begins behind.
    ///
    /// # Errors
    /// The disk's, with `on_disk_error=refuse`.
    pub fn begin(
        storage: Arc<dyn Storage>,
        workers: usize,
        generation: u32,
        unix: u64,
        listeners: &Arc<[Box<str>]>,
        (durability, on_error): (Durability, OnDiskError),
    ) -> Result<Self, StorageError> {
        let progress: Box<[Arc<Progress>]> =
            (0..=workers).map(|_| Arc::new(Progress::new())).collect();
        let lane = |(id, progress): (u8, &Arc<Progress>)| {
            CachePadded::new(Mutex::new(Lane {
                id,
                listeners: Arc::clone(listeners),
                writer: None,
                gave_up: None,
                on_error,
                error: None,
                progress: Arc::clone(progress),
            }))
        };
        let journal = Self {
            storage,
            lanes: (1..=u8::MAX).zip(&progress).map(lane).collect(),
            progress,
            durability,
            on_error,
            next: AtomicU32::new(generation),
            is_behind: AtomicBool::new(false),
            fault: Mutex::new(None),
            faults: AtomicU64::new(0),
        };
        if let Err(error) = journal.rotate(unix) {
            if on_error == OnDiskError::Refuse {
                return Err(error);
            }
            // Nothing is written until a snapshot has made up for what was not.
            for lane in &journal.lanes {
                lock(lane).gave_up = Some(generation.saturating_sub(1));
            }
            journal.fell_behind(&error);
        }
        Ok(journal)
    }

    /// Has all lanes go on with segments of the next generation, which is the result: whatever they
    /// take from now on is there.
    ///
    /// # Errors
    /// The disk's; then all go on as they were.
    pub fn rotate(&self, unix: u64) -> Result<u32, StorageError> {
        let generation = self.next.load(Ordering::Relaxed);
        let lanes = u16::try_from(self.lanes.len()).unwrap_or(u16::MAX);
        let created = Writer::create_all(&*self.storage, generation, lanes, unix);
        // A number that was not used is not left out: one that is missing is missed at a start.
        let is_taken = match &created {
            Ok(_) => true,
            Err(error) => error.source.kind() == std::io::ErrorKind::AlreadyExists,
        };
        self.next.fetch_add(u32::from(is_taken), Ordering::Relaxed);
        let writers = created?;
        for (lane, writer) in self.lanes.iter().zip(writers) {
            lock(lane).go_on_with(writer);
        }
        Ok(generation)
    }

    /// Notes that a snapshot was committed before whose scan all lanes went over to `generation`.
    pub fn covered(&self, generation: u32) {
        let mut is_behind = false;
        for lane in &self.lanes {
            let mut lane = lock(lane);
            if lane.gave_up.is_some_and(|at| at < generation) {
                lane.gave_up = None;
            }
            is_behind |= lane.gave_up.is_some();
        }
        if !is_behind && self.is_behind.swap(false, Ordering::Relaxed) {
            *lock(&self.fault) = None;
            tracing::info!("everything acknowledged is on disk again");
        }
    }

    /// Whether what was acknowledged may be in memory only, until a snapshot is committed.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Why it is.
    pub fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }

    /// Why changes are to be refused, while they are.
    pub fn refusal(&self) -> Option<String> {
        let refuses = self.on_error == OnDiskError::Refuse && self.is_behind();
        refuses.then(|| self.fault().unwrap_or_default())
    }

    /// What has been written.
    pub fn counts(&self) -> JournalCounts {
        let sum = |of: fn(&Progress) -> &AtomicU64| {
            self.progress.iter().map(|progress| of(progress).load(Ordering::Relaxed)).sum()
        };
        JournalCounts {
            records: sum(|p| &p.records),
            bytes: sum(|p| &p.octets),
            syncs: sum(|p| &p.syncs),
            faults: self.faults.load(Ordering::Relaxed),
        }
    }

    /// Makes changes that are no worker's; when this returns they are as safe as an answered
    /// request's.
    pub fn change<R>(&self, change: impl FnOnce(&mut dyn Recorder) -> R) -> R {
        let mut lane = lock(&self.lanes[CONTROL]);
        let result = change(&mut *lane);
        let error = lane.write().err();
        drop(lane);
        if let Some(error) = error {
            self.give_up(CONTROL, &error);
        } else if self.durability == Durability::Sync {
            self.sync(CONTROL);
        }
        result
    }

    /// Syncs a lane's segments whenever somebody waits, and now and then, until the journal's other
    /// users are gone; wakes `waker` each time.
    pub fn keep_synced(&self, lane: usize, waker: Option<&Waker>, stop: &Receiver<()>) {
        let Some(progress) = self.progress.get(lane) else { return };
        let mut paced = after(Duration::ZERO);
        loop {
            let mut is_asked = false;
            let mut is_over = crossbeam::select! {
                recv(progress.asked) -> _ => {
                    is_asked = true;
                    false
                }
                recv(stop) -> _ => true,
                default(SYNC_EVERY) => false,
            };
            if !is_over {
                is_over = crossbeam::select! {
                    recv(paced) -> _ => false,
                    recv(stop) -> _ => true,
                };
            }
            if is_asked && !is_over {
                is_over = progress.gather(stop);
            }
            paced = after(SYNC_PACE);
            self.sync(lane);
            if let Some(waker) = waker.filter(|_| self.durability == Durability::Sync)
                && let Err(error) = waker.wake()
            {
                tracing::error!(%error, "can't wake a worker");
            }
            if is_over {
                return;
            }
        }
    }

    /// How many lanes there are: the workers' from 1 on.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Syncs what a lane has written by now.
    pub fn sync(&self, lane: usize) {
        if let Err(error) = self.progress[lane].sync() {
            self.give_up(lane, &error);
        }
    }

    /// Goes on without a lane's segment, until the next snapshot.
    fn give_up(&self, lane: usize, error: &JournalError) {
        let refuses = self.on_error == OnDiskError::Refuse;
        {
            let mut lane = lock(&self.lanes[lane]);
            let generation = lane.writer.as_ref().map(|writer| writer.id().generation());
            lane.gave_up = lane.gave_up.max(generation);
            lane.writer = None;
            lane.progress.abandon(refuses);
        }
        self.fell_behind(error);
    }

    fn fell_behind(&self, error: &dyn std::error::Error) {
        let refuses = self.on_error == OnDiskError::Refuse;
        self.faults.fetch_add(1, Ordering::Relaxed);
        // A writer that was given up says so again and again; what led to it is said once.
        if !self.is_behind.swap(true, Ordering::Relaxed) {
            *lock(&self.fault) = Some(error.to_string());
            let then = if refuses { "refusing registrations" } else { "going on from memory" };
            tracing::error!(%error, then, "the journal can't be written; a snapshot will be tried");
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("durability", &self.durability).finish_non_exhaustive()
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    fn go_on_with(&mut self, writer: Writer) {
        lock(&self.progress.handles).push(writer.handle());
        match &mut self.writer {
            Some(before) => drop(before.replace(writer)),
            None => self.writer = Some(writer),
        }
    }

    /// Gives what was told to the kernel.
    fn write(&mut self) -> Result<(), JournalError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        if writer.pending() == 0 && !writer.is_failed() {
            return Ok(());
        }
        let (octets, records) = (writer.length(), writer.records());
        writer.write()?;
        let Progress { written, last, octets: all, records: every, .. } = &*self.progress;
        let records = writer.records() - records;
        all.fetch_add(writer.length() - octets, Ordering::Relaxed);
        every.fetch_add(records, Ordering::Relaxed);
        last.store(records, Ordering::Relaxed);
        written.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Recorder for Lane {
    fn writer(&self) -> u8 {
        if self.writer.is_some() { self.id } else { 0 }
    }

    fn record(&mut self, now: Now, what: Recorded<'_>) {
        let Some(writer) = &mut self.writer else { return };
        let what = match what {
            Recorded::Refresh { record, .. } if self.gave_up.is_some() => Recorded::State(record),
            what => what,
        };
        let told = writer.record(|out| change::encode(what, now, &self.listeners, out));
        if let Err(error) = told {
            self.error.get_or_insert(error);
        }
    }

    fn flush(&mut self) {
        let is_much = self.writer.as_ref().is_some_and(|writer| writer.pending() >= TOGETHER);
        if is_much && let Err(error) = self.write() {
            self.error.get_or_insert(error);
        }
    }

    fn refuses(&self) -> bool {
        self.on_error == OnDiskError::Refuse && self.gave_up.is_some()
    }
}

impl Progress {
    fn new() -> Self {
        // One that waits is as good as many: one sync serves them all.
        let (ask, asked) = bounded(1);
        Self {
            written: AtomicU64::new(0),
            last: AtomicU64::new(0),
            settled: Mutex::default(),
            handles: Mutex::default(),
            ask,
            asked,
            records: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    /// Waits for as long as the lane's worker has all hands full; whether `stop` has ended it.
    ///
    /// A sync takes the worker's CPU part of the time, so that at full load fewer are better. When
    /// it stands still, because all who talk to it wait for their answers, none is soon enough.
    fn gather(&self, stop: &Receiver<()>) -> bool {
        let mut seen = self.written.load(Ordering::Relaxed);
        for _ in 0..PUT_OFF {
            if self.last.load(Ordering::Relaxed) < MANY {
                return false;
            }
            crossbeam::select! {
                recv(stop) -> _ => return true,
                default(PUT_OFF_BY) => {}
            }
            let written = self.written.load(Ordering::Relaxed);
            if std::mem::replace(&mut seen, written) == written {
                return false;
            }
        }
        false
    }

    /// Syncs whatever was written by now, in the segment before as well.
    fn sync(&self) -> Result<(), JournalError> {
        // Read first: a batch that is counted here is in a segment that is seen below.
        let written = self.written.load(Ordering::Acquire);
        if lock(&self.settled).saved >= written {
            return Ok(());
        }
        let handles = lock(&self.handles).clone();
        for handle in &handles {
            handle.sync()?;
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // The one in use is the last.
        let in_use = handles.last().map(SyncHandle::id);
        lock(&self.handles).retain(|handle| Some(handle.id()) >= in_use);
        let mut settled = lock(&self.settled);
        settled.saved = settled.saved.max(written);
        Ok(())
    }

    /// Lets go whoever waits: with an answer, unless `refuses`.
    fn abandon(&self, refuses: bool) {
        lock(&self.handles).clear();
        let written = self.written.load(Ordering::Acquire);
        let mut settled = lock(&self.settled);
        match refuses {
            true => settled.lost = settled.lost.max(written),
            false => settled.saved = settled.saved.max(written),
        }
    }
}

/// A worker's lane of a journal.
#[derive(Debug)]
pub struct WorkerLane {
    journal: Arc<Journal>,
    lane: usize,
}

impl WorkerLane {
    /// The lane of the worker with this number, from zero.
    pub fn new(journal: Arc<Journal>, worker: usize) -> Self {
        Self { journal, lane: worker + 1 }
    }
}

impl Log for WorkerLane {
    fn batch(&mut self, run: &mut dyn FnMut(&mut dyn Recorder)) -> Leave {
        let Self { journal, lane: number } = &*self;
        let mut lane = lock(&journal.lanes[*number]);
        run(&mut *lane);
        let written = lane.write();
        let is_given_up = lane.writer.is_none();
        drop(lane);
        let progress = &journal.progress[*number];
        match written {
            Ok(()) if journal.durability != Durability::Sync || is_given_up => Leave::Now,
            Ok(()) => {
                let written = progress.written.load(Ordering::Relaxed);
                if self.settled().saved >= written {
                    return Leave::Now;
                }
                // Somebody who has asked already asked for this as well.
                let _ = progress.ask.try_send(());
                Leave::After(written)
            }
            Err(error) => {
                journal.give_up(*number, &error);
                match journal.on_error {
                    OnDiskError::Refuse => Leave::Never,
                    OnDiskError::Serve => Leave::Now,
                }
            }
        }
    }

    fn settled(&self) -> Settled {
        *lock(&self.journal.progress[self.lane].settled)
    }

    fn waits(&self) -> bool {
        self.journal.durability == Durability::Sync
    }
}
