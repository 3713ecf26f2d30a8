//! Writing snapshots while traffic flows.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use persist::{
    error::{StorageError, WriteError},
    journal,
    snapshot::{General, Generations, Sections, Summary},
    storage::Storage,
};

use super::{
    convert::{Pairs, section},
    journal::Journal,
    room::{self, Retry},
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

/// Why there is no snapshot.
#[derive(Debug)]
pub(super) enum Untaken {
    /// It could not be written.
    Failed(WriteError),
    /// The process ends, and takes a last one.
    Stopping,
    /// It would have taken longer than it may.
    TooSlow,
}

impl From<WriteError> for Untaken {
    fn from(error: WriteError) -> Self {
        Self::Failed(error)
    }
}

impl From<StorageError> for Untaken {
    fn from(error: StorageError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Untaken> for WriteError {
    fn from(untaken: Untaken) -> Self {
        match untaken {
            Untaken::Failed(error) => error,
            Untaken::Stopping | Untaken::TooSlow => Self::Abandoned,
        }
    }
}

/// What became of the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It was taken.
    Taken(Taken),
    /// The one before has everything.
    NotNeeded,
    /// It would have taken longer than it may.
    TooSlow,
}

/// Asks the snapshotter for one now; the answer comes back when it is on disk.
pub type Request = Sender<Result<Taken, String>>;

/// The thread that writes snapshots, every so often and when asked; [`Snapshotter::last`] is for
/// whoever ends it.
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
    /// Octets of the journal before the last snapshot.
    journaled: u64,
    retry: Retry,
}

/// How often snapshots are taken, and how fast they are written.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// The time between two.
    pub interval: Duration,
    /// Octets a second; `None` sets no bound.
    pub rate: Option<u64>,
    /// Set when the process is to end: a snapshot that is being written is given up then.
    pub stopping: Arc<AtomicBool>,
}

/// How often it is looked at whether one is due before its time.
const LOOK: Duration = Duration::from_secs(2);

impl<C: Clock> Snapshotter<C> {
    /// A snapshotter, and where to ask it for a snapshot. It ends when every sender is gone.
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
            journaled: 0,
            retry: Retry::default(),
        };
        (snapshotter, sender)
    }

    /// Writes snapshots until every sender is gone.
    #[must_use = "it may have a last one to take"]
    pub fn run(mut self) -> Self {
        let interval = u64::try_from(self.pace.interval.as_millis()).unwrap_or(u64::MAX);
        let mut last = self.clock.now().millis;
        loop {
            let left = (last + interval).saturating_sub(self.clock.now().millis);
            match self.requests.recv_timeout(Duration::from_millis(left).min(LOOK)) {
                Err(RecvTimeoutError::Disconnected) => return self,
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
                    let is_wanted = self.is_wanted();
                    let is_due = self.clock.now().millis >= last.saturating_add(interval);
                    if is_due {
                        last = self.clock.now().millis;
                    }
                    let is_changed = self.covered != Some(self.location.changes());
                    if is_wanted || is_due && is_changed {
                        // Why it failed is in the log and in the status.
                        let is_taken = self.take().is_ok();
                        self.retry.note(is_taken, self.clock.now().millis);
                    }
                }
            }
        }
    }

    /// Whether one is to be taken before its time: to make up for a journal that failed, or because
    /// the journal has grown too long.
    fn is_wanted(&self) -> bool {
        let Some(journal) = &self.journal else { return false };
        let since = journal.counts().bytes.saturating_sub(self.journaled);
        let snapshot = self.status.last().map_or(0, |taken| taken.bytes);
        self.retry.is_due(self.clock.now().millis)
            && (journal.is_behind() || room::is_long(since, snapshot))
    }

    /// Takes one snapshot.
    ///
    /// # Errors
    /// Why it was not written; the one before is what there is.
    pub fn take(&mut self) -> Result<Taken, String> {
        let mut result = self.write(write_all);
        if room::is_full(&result) && room::make_room(&self.generations, &*self.journals) {
            result = self.write(write_all);
        }
        match self.note(result)? {
            Last::Taken(taken) => Ok(taken),
            Last::NotNeeded | Last::TooSlow => Err("the server is stopping".to_owned()),
        }
    }

    /// Says how a snapshot went, to the log and the status.
    fn note(&self, result: Result<Taken, Untaken>) -> Result<Last, String> {
        let result = match result {
            Ok(taken) => Ok(taken),
            // Nothing is wrong with either.
            Err(Untaken::Stopping | Untaken::TooSlow) => return Ok(Last::TooSlow),
            Err(Untaken::Failed(error)) => Err(error.to_string()),
        };
        self.status.note(&result);
        match &result {
            Ok(Taken { aors, bindings, bytes, millis, .. }) => {
                tracing::debug!(aors, bindings, bytes, millis, "took a snapshot");
            }
            Err(error) => {
                tracing::error!(error, "can't write a snapshot");
            }
        }
        result.map(Last::Taken)
    }

    fn write(
        &mut self,
        all: impl FnOnce(&mut Generations, General, &Table<'_, C>, Brake) -> Result<Taken, Untaken>,
    ) -> Result<Taken, Untaken> {
        let started = self.clock.now();
        // In this order (persist/FORMAT.md): what changes from here on is in the new segments, and
        // has a higher sequence than what may be in the old ones only.
        let changes = self.location.changes();
        let journal = match &self.journal {
            Some(journal) => Some(journal.rotate(started.unix)?),
            None => self.generation,
        };
        let journaled = self.journal.as_ref().map_or(0, |journal| journal.counts().bytes);
        let writers = self.journal.as_ref().map_or(0, |journal| journal.lanes());
        let writers = u16::try_from(writers).unwrap_or(0);
        let sequence = self.location.sequence();
        self.location.raise_sequences(sequence);
        let general = General { sequence, written: started.unix, journal, writers };
        let Self { generations, location, listeners, clock, pace, .. } = self;
        let brake = Brake::new(pace, started);
        let table = Table { location, listeners, clock };
        let taken = all(generations, general, &table, brake)?;
        (self.covered, self.journaled) = (Some(changes), journaled);
        if let (Some(journal), Some(generation)) = (&self.journal, journal) {
            journal.covered(generation);
        }
        prune(&self.generations, &*self.journals);
        Ok(taken)
    }
}

impl<C: Clock + Sync> Snapshotter<C> {
    /// Takes the last snapshot, by so many threads with this one's priority, unless the one before
    /// has everything. It is given up as soon as it looks as if it were not written `within` that
    /// time.
    ///
    /// # Errors
    /// Why it was not written.
    pub fn last(mut self, threads: usize, within: Option<Duration>) -> Result<Last, String> {
        if self.covered == Some(self.location.changes()) {
            return Ok(Last::NotNeeded);
        }
        let limit = Limit { started: self.clock.now(), within };
        let mut result = self.together(threads, limit);
        if room::is_full(&result) && room::make_room(&self.generations, &*self.journals) {
            result = self.together(threads, limit);
        }
        self.note(result)
    }

    fn together(&mut self, threads: usize, limit: Limit) -> Result<Taken, Untaken> {
        self.write(|generations, general, table, _| {
            write_together(generations, general, table, threads, limit)
        })
    }
}

/// What a snapshot is taken of.
pub(super) struct Table<'t, C> {
    pub(super) location: &'t Location,
    pub(super) listeners: &'t [Box<str>],
    pub(super) clock: &'t C,
}

/// Space for one part of the table, used for the next one again.
#[derive(Default)]
struct Part {
    records: Vec<u8>,
    ends: Vec<usize>,
    pairs: Pairs,
}

impl<C: Clock> Table<'_, C> {
    /// Gives the sections of a part to `write`, each with its AoR and number of bindings; the
    /// result is how many AoRs had one. `write` says whether time has passed.
    ///
    /// Records are copied while their shard is locked, and written after that.
    fn part<E>(
        &self,
        number: usize,
        Part { records, ends, pairs }: &mut Part,
        mut write: impl FnMut(&[u8], u64, &Pairs) -> Result<bool, E>,
    ) -> Result<u64, E> {
        records.clear();
        ends.clear();
        self.location.scan(number, None, |_, record| {
            records.extend_from_slice(record.as_bytes());
            ends.push(records.len());
            true
        });
        let mut now = self.clock.now();
        let (mut start, mut aors) = (0, 0);
        for &end in &*ends {
            let record = records.get(start..end).and_then(AorRecord::new);
            start = end;
            if let Some(record) = record
                && let Some(bindings) = section(&record, now, self.listeners, pairs)
            {
                aors += u64::from(bindings > 0);
                if write(record.aor(), bindings, pairs)? {
                    now = self.clock.now();
                }
            }
        }
        Ok(aors)
    }
}

/// Writes all of a location service as a snapshot that says `general` of itself, shard by shard.
///
/// # Errors
/// Why it was not written; then the one before is what there is.
fn write_all<C: Clock>(
    generations: &mut Generations,
    general: General,
    table: &Table<'_, C>,
    mut brake: Brake,
) -> Result<Taken, Untaken> {
    let started = table.clock.now();
    let mut writer = generations.begin(general)?;
    let (mut part, mut aors) = (Part::default(), 0);
    for number in 0..Location::PARTS {
        aors += table.part(number, &mut part, |aor, bindings, pairs| {
            writer.section(aor, bindings, pairs.iter())?;
            brake.hold(writer.bytes(), table.clock)
        })?;
    }
    Ok(taken(started, table, aors, writer.finish()?))
}

/// [`write_all`] by so many threads, without a brake but within a limit.
pub(super) fn write_together<C: Clock + Sync>(
    generations: &mut Generations,
    general: General,
    table: &Table<'_, C>,
    threads: usize,
    limit: Limit,
) -> Result<Taken, Untaken> {
    let started = table.clock.now();
    let writer = Mutex::new(generations.begin(general)?);
    let (next, aors) = (AtomicUsize::new(0), AtomicU64::new(0));
    let append = |sections: &mut Sections| {
        writer.lock().unwrap_or_else(PoisonError::into_inner).append(sections)
    };
    let run = || -> Result<(), Untaken> {
        let (mut part, mut sections) = (Part::default(), Sections::default());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= Location::PARTS {
                return Ok(append(&mut sections)?);
            }
            if limit.is_beyond(number, table.clock) {
                next.store(Location::PARTS, Ordering::Relaxed);
                return Err(Untaken::TooSlow);
            }
            let found = table.part(number, &mut part, |aor, bindings, pairs| {
                sections.section(aor, bindings, pairs.iter())?;
                if sections.is_full() {
                    append(&mut sections)?;
                }
                Ok::<_, WriteError>(false)
            })?;
            aors.fetch_add(found, Ordering::Relaxed);
        }
    };
    let mut errors: Vec<Untaken> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(run)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().filter_map(|thread| join(thread).err()).collect()
    });
    // What made the others give up comes first.
    errors.sort_by_key(|error| matches!(error, Untaken::Failed(WriteError::Abandoned)));
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let summary = writer.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
    Ok(taken(started, table, aors.into_inner(), summary))
}

fn taken<C: Clock>(started: Now, table: &Table<'_, C>, aors: u64, summary: Summary) -> Taken {
    Taken {
        unix: started.unix,
        millis: table.clock.now().millis - started.millis,
        aors,
        bindings: summary.bindings,
        bytes: summary.bytes,
    }
}

/// How long a snapshot may take.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    started: Now,
    within: Option<Duration>,
}

impl Limit {
    /// As long as it takes.
    pub(super) fn none(started: Now) -> Self {
        Self { started, within: None }
    }

    /// Parts after which there is something to tell by.
    const ENOUGH: usize = Location::PARTS / 16;

    /// Whether a snapshot of which so many parts are begun will be too late.
    fn is_beyond(self, parts: usize, clock: &impl Clock) -> bool {
        let Some(within) = self.within.filter(|_| parts >= Self::ENOUGH) else { return false };
        let millis = u128::from(clock.now().millis - self.started.millis);
        millis * Location::PARTS as u128 > within.as_millis() * parts as u128
    }
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

/// Holds whoever writes faster than so many octets a second, and ends it when the process ends.
struct Brake {
    rate: Option<u64>,
    stopping: Arc<AtomicBool>,
    started: Now,
    /// Where to look at the clock again.
    next: u64,
}

impl Brake {
    /// Octets between two looks at the clock.
    const STRIDE: u64 = 256 << 10;
    /// How soon it notices the end.
    const NAP: Duration = Duration::from_millis(50);

    fn new(pace: &Pace, started: Now) -> Self {
        let stopping = Arc::clone(&pace.stopping);
        Self { rate: pace.rate, stopping, started, next: Self::STRIDE }
    }

    /// Sleeps if `written` octets are more than there should be by now; says whether it did.
    fn hold(&mut self, written: u64, clock: &impl Clock) -> Result<bool, Untaken> {
        if written < self.next {
            return Ok(false);
        }
        self.next = written + Self::STRIDE;
        let is_stopping = || self.stopping.load(Ordering::Relaxed);
        let mut has_slept = false;
        if let Some(rate) = self.rate {
            let due = written.saturating_mul(1000) / rate.max(1);
            let ahead = || due.saturating_sub(clock.now().millis - self.started.millis);
            while !is_stopping() && ahead() > 0 {
                thread::park_timeout(Duration::from_millis(ahead()).min(Self::NAP));
                has_slept = true;
            }
        }
        if is_stopping() { Err(Untaken::Stopping) } else { Ok(has_slept) }
    }
}

#[cfg(test)]
mod tests {
    use persist::{snapshot::verify, storage::memory::MemoryStorage};

    use super::*;
    use crate::{
        location::{Cause, Unrecorded},
        registrar::{RecordWriter, binding_for_tests},
        time::Deadline,
    };

    const NAME: &str = "regfile.snapshot";
    const AORS: u64 = 3000;

    /// A second passes whenever somebody looks.
    #[derive(Default)]
    struct Passing(AtomicU64);

    impl Clock for Passing {
        fn now(&self) -> Now {
            let seconds = self.0.fetch_add(1, Ordering::Relaxed);
            Now { millis: seconds * 1000, unix: 1_800_000_000 + seconds }
        }
    }

    fn register(location: &Location, number: u64) {
        let aor = format!("u{number}@example.com");
        let mut record = Vec::new();
        let mut writer = RecordWriter::new(&mut record, aor.as_bytes(), b"").unwrap();
        let mut binding = binding_for_tests(b"sip:a@192.0.2.1");
        binding.deadline = Deadline(100_000);
        writer.push(&binding).unwrap();
        writer.finish();
        let when = (Now { millis: 0, unix: 1_800_000_000 }, Cause::Registered);
        let put = |entry: &mut crate::location::Entry<'_>| entry.commit(&record);
        location.update(aor.as_bytes(), when, &mut Unrecorded, put).unwrap();
    }

    fn snapshotter(storage: &MemoryStorage, location: &Arc<Location>) -> Snapshotter<Passing> {
        let storage: Arc<dyn Storage> = Arc::new(storage.clone());
        let (snapshotter, _) = Snapshotter::new(
            Generations::new(Arc::clone(&storage), NAME, 0),
            (storage, None, None),
            Arc::clone(location),
            Arc::from([Box::from("general")]),
            Passing::default(),
            Arc::default(),
            Pace { interval: Duration::from_secs(60), ..Pace::default() },
        );
        snapshotter
    }

    fn table() -> (MemoryStorage, Arc<Location>) {
        let location = Arc::new(Location::new([7; 16], 0));
        (0..AORS).for_each(|number| register(&location, number));
        (MemoryStorage::new(), location)
    }

    #[test]
    fn the_last_snapshot_is_written_by_several_threads() {
        let (storage, location) = table();
        let last = snapshotter(&storage, &location).last(3, None).unwrap();
        let Last::Taken(taken) = last else { panic!("{last:?}") };
        assert_eq!((taken.aors, taken.bindings), (AORS, AORS));
        let mut names = Vec::new();
        let summary = verify(&storage, NAME)
            .and_then(|file| file.read(|section| names.push(section.name().into_owned())))
            .unwrap();
        names.sort();
        names.dedup();
        assert_eq!((summary.sections, names.len() as u64), (AORS, AORS));
    }

    #[test]
    fn the_last_snapshot_is_given_up_where_it_takes_too_long() {
        let (storage, location) = table();
        let before = snapshotter(&storage, &location).take().unwrap();
        register(&location, AORS);
        let within = Some(Duration::from_secs(10));
        assert_eq!(snapshotter(&storage, &location).last(2, within), Ok(Last::TooSlow));
        // The one before is there, and nothing of what was begun.
        assert_eq!(storage.list().unwrap(), [NAME]);
        assert_eq!(verify(&storage, NAME).map(|file| file.summary().bytes).unwrap(), before.bytes);
        let within = Some(Duration::from_secs(10_000));
        let last = snapshotter(&storage, &location).last(2, within).unwrap();
        assert!(matches!(last, Last::Taken(Taken { aors, .. }) if aors == AORS + 1));
    }

    #[test]
    fn there_is_no_last_snapshot_of_what_has_not_changed() {
        let (storage, location) = table();
        let mut snapshotter = snapshotter(&storage, &location);
        snapshotter.take().unwrap();
        assert_eq!(snapshotter.last(2, None), Ok(Last::NotNeeded));
    }

    #[test]
    fn one_that_is_written_at_the_end_is_given_up() {
        let (storage, location) = table();
        let mut snapshotter = snapshotter(&storage, &location);
        snapshotter.pace.stopping.store(true, Ordering::Relaxed);
        assert_eq!(snapshotter.take(), Err("the server is stopping".to_owned()));
        assert_eq!(storage.list().unwrap(), [""; 0]);
        assert!(matches!(snapshotter.last(2, None), Ok(Last::Taken(_))));
    }
}
