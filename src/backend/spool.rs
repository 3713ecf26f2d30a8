//! What waits for somebody who may be away: in order, each once, on disk as long as that can be
//! written, else in memory within a bound.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use persist::{
    error::StorageError,
    spool::{Aside, Entry, Spool},
    storage::Storage,
};
use tokio::time::Instant;

/// Entries that wait in memory where there is no room on disk, or none may be used.
pub(super) const MAX_IN_MEMORY: usize = 10_000;

/// What can't be read is tried again after so long, and so often in all; then it is done without.
const READ_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });
const READ_TRIES: u32 = 10;

/// What can't be written is tried again after so long: on a full disk each try takes its time.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// A fault that goes on is logged once in so long.
const LOGGED: Duration = Duration::from_secs(60);

/// Where entries wait on disk.
#[derive(Clone)]
pub struct SpoolFolder {
    /// The state folder.
    pub storage: Arc<dyn Storage>,
    /// Its path.
    pub path: PathBuf,
}

impl fmt::Debug for SpoolFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolFolder").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Entries that wait.
#[derive(Default)]
pub(super) struct Queue {
    /// Those on disk are older than those in memory.
    spool: Option<Spool>,
    /// Where there is no spool, or until it can be written.
    memory: VecDeque<Vec<u8>>,
    /// Taken out of memory, and not dealt with.
    out_of_memory: u64,
    /// Whether the spool has entries that are newer than those.
    has_overtaken: bool,
    /// When the spool is tried again, after it could not be written.
    unwritten: Option<Instant>,
    /// Entries of the spool below this were left by an earlier process.
    first_own: u64,
    /// How often in a row the spool could not be read, and when it is tried again.
    unread: Option<(u32, Instant)>,
    /// Entries of files that could not be read, since this was last asked.
    lost: u64,
}

/// Which entry it is, for [`Queue::done`]: its number in the spool, if it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(Option<u64>);

/// What became of an entry that was put in.
#[derive(Debug)]
pub(super) enum Put {
    /// It waits.
    Kept,
    /// It waits in memory, since the disk could not be written.
    InMemory(StorageError),
    /// There is no room for it.
    Lost,
}

/// What a process leaves.
#[derive(Debug)]
pub(super) struct Left {
    /// Entries that the next process finds.
    pub(super) on_disk: u64,
    /// Entries that it doesn't.
    pub(super) lost: u64,
    /// Whether the spool was closed well.
    pub(super) closed: Result<(), StorageError>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Queue {
    /// The queue called `name` in the folder, with what an earlier process left in it; in memory
    /// without a folder.
    ///
    /// # Errors
    /// What is there can't be read. The queue is in memory then.
    pub(super) fn open(
        folder: Option<SpoolFolder>,
        name: &str,
    ) -> (Self, Result<(), StorageError>) {
        let (spool, opened) = match folder.map(|folder| Spool::open(folder.storage, name)) {
            Some(Ok(spool)) => (Some(spool), Ok(())),
            Some(Err(error)) => (None, Err(error)),
            None => (None, Ok(())),
        };
        let first_own = spool.as_ref().map_or(0, Spool::next_entry);
        (Self { spool, first_own, ..Self::default() }, opened)
    }

    /// How many wait, those included that were taken out and are not dealt with.
    pub(super) fn len(&self) -> u64 {
        self.on_disk() + self.in_memory()
    }

    fn on_disk(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::pending)
    }

    /// How many are gone if the process is killed.
    pub(super) fn in_memory(&self) -> u64 {
        self.memory.len() as u64 + self.out_of_memory
    }

    /// Whether some wait in memory for the disk to be written again.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.is_on_disk() && !self.memory.is_empty()
    }

    /// Moves what waits in memory to the disk, in order, as far as that can be written.
    fn move_to_disk(&mut self) -> Result<(), StorageError> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        while let Some(entry) = self.memory.front() {
            if let Err(error) = spool.append(entry) {
                self.unwritten = Some(Instant::now() + WRITE_PAUSE);
                return Err(error);
            }
            self.memory.pop_front();
            self.has_overtaken = self.out_of_memory > 0;
        }
        self.unwritten = None;
        Ok(())
    }

    /// Moves what waits in memory to the disk, unless that could not be written just now.
    fn try_to_move(&mut self) -> Result<(), StorageError> {
        match self.unwritten {
            Some(again) if Instant::now() < again => Ok(()),
            _ => self.move_to_disk(),
        }
    }

    /// Whether entries go to the disk.
    pub(super) fn is_on_disk(&self) -> bool {
        self.spool.is_some()
    }

    /// Adds an entry of which the caller keeps a copy: it doesn't come out in this process. All that
    /// comes out has to be out.
    ///
    /// # Errors
    /// The disk. It isn't there then.
    pub(super) fn append(&mut self, entry: &[u8]) -> Result<Ticket, StorageError> {
        match &mut self.spool {
            Some(spool) => spool.append(entry).map(|entry| Ticket(Some(entry))),
            None => {
                self.out_of_memory += 1;
                Ok(Ticket(None))
            }
        }
    }

    /// How many files of an earlier process ended in something else than an entry.
    pub(super) fn torn(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::torn)
    }

    /// Whether an entry was left by an earlier process.
    pub(super) fn is_from_before(&self, Ticket(entry): Ticket) -> bool {
        entry.is_some_and(|entry| entry < self.first_own)
    }

    /// Adds an entry, if there are fewer than `most`.
    pub(super) fn put(&mut self, entry: Vec<u8>, most: u64) -> Put {
        if self.len() >= most {
            return Put::Lost;
        }
        self.memory.push_back(entry);
        let moved = self.try_to_move();
        if self.memory.len() > MAX_IN_MEMORY {
            self.memory.pop_back();
            return Put::Lost;
        }
        moved.map_or_else(Put::InMemory, |()| Put::Kept)
    }

    /// Has an entry that was taken out, and that was in memory only, wait again before the others
    /// there; none if it is dealt with. The last that was taken out has to be the first here. If newer
    /// ones are on disk by now there is no place for it any more: what comes out of order is worse
    /// than what is known to be lost.
    pub(super) fn put_back(&mut self, Ticket(entry): Ticket, octets: Option<Vec<u8>>) {
        if entry.is_some() || octets.is_some() && self.has_overtaken {
            return;
        }
        self.out_of_memory = self.out_of_memory.saturating_sub(1);
        if let Some(octets) = octets {
            self.memory.push_front(octets);
        }
    }

    /// The next entries, some of those there are, in order; none if there is none, or the disk is to
    /// be tried again later ([`Queue::read_again`]). Each comes out once in the life of a process.
    ///
    /// A file that the disk doesn't give back in a while is set aside: what is in it is lost
    /// ([`Queue::take_lost`]), and what is behind it is not.
    ///
    /// # Errors
    /// The disk. What is in memory is newer, and waits as well.
    pub(super) fn take(&mut self) -> Result<Vec<(Ticket, Vec<u8>)>, StorageError> {
        if self.unread.is_some_and(|(_, again)| Instant::now() < again) {
            return Ok(Vec::new());
        }
        let mut entries = self.read_next()?;
        if entries.is_empty() && self.waits_for_disk() {
            // What went wrong, the next sync says. Some may be there all the same.
            let _ = self.try_to_move();
            entries = self.read_next()?;
        }
        if !entries.is_empty() {
            let ticket = |(entry, octets)| (Ticket(Some(entry)), octets);
            return Ok(entries.into_iter().map(ticket).collect());
        }
        self.out_of_memory += u64::from(!self.memory.is_empty());
        Ok(self.memory.pop_front().map(|octets| (Ticket(None), octets)).into_iter().collect())
    }

    fn read_next(&mut self) -> Result<Vec<Entry>, StorageError> {
        let Some(spool) = &mut self.spool else { return Ok(Vec::new()) };
        loop {
            let error = match spool.read_next() {
                Ok(entries) => {
                    self.unread = None;
                    return Ok(entries);
                }
                Err(error) => error,
            };
            let tries = self.unread.map_or(1, |(tries, _)| tries.saturating_add(1));
            self.unread = Some((tries, Instant::now() + READ_PAUSE));
            if tries < READ_TRIES || is_about_process(&error.source) {
                return Err(error);
            }
            let Some(Aside { name, entries }) = spool.set_aside()? else { return Err(error) };
            tracing::error!(%error, file = name, entries, "a file is set aside, its entries are lost");
            self.lost += entries;
            self.unread = None;
        }
    }

    /// When the disk is to be tried again, after it could not be read.
    pub(super) fn read_again(&self) -> Option<Instant> {
        self.unread.map(|(_, again)| again)
    }

    /// How many entries were lost with files that can't be read, since this was last asked.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Notes that an entry that was taken out, and all before it, are dealt with.
    ///
    /// # Errors
    /// The disk. The next process may find the entry again.
    pub(super) fn done(&mut self, Ticket(entry): Ticket) -> Result<(), StorageError> {
        match (entry, &mut self.spool) {
            (Some(entry), Some(spool)) => spool.done(entry),
            (Some(_), None) => Ok(()),
            (None, _) => {
                self.out_of_memory = self.out_of_memory.saturating_sub(1);
                self.has_overtaken &= self.out_of_memory > 0;
                Ok(())
            }
        }
    }

    /// Has what waits go to the disk, and what is there outlive a power cut too.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        let moved = self.move_to_disk();
        let synced = self.spool.as_mut().map_or(Ok(()), Spool::sync);
        moved.and(synced)
    }

    /// Ends this process's use of it.
    pub(super) fn close(mut self) -> Left {
        let moved = self.move_to_disk();
        let (on_disk, lost) = (self.on_disk(), self.in_memory());
        let closed = self.spool.map_or(Ok(()), Spool::close);
        Left { on_disk, lost, closed: moved.and(closed) }
    }
}

/// Whether it says nothing about a file: there are too many open, or there is no memory.
fn is_about_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Adds a line to a file in which the operator finds what nobody would take.
///
/// # Errors
/// The disk.
pub(super) fn set_aside(file: &Path, line: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(file)?;
    file.write_all(line)
}

/// Keeps a fault that goes on from filling the log.
#[derive(Debug, Default)]
pub(super) struct Complaint(Cell<Option<Instant>>);

impl Complaint {
    /// Whether it is time to say so again.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let is_due = self.0.get().is_none_or(|last| now >= last + LOGGED);
        if is_due {
            self.0.set(Some(now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use persist::storage::{
        faulty::{Fault, FaultyStorage},
        memory::MemoryStorage,
    };

    use super::*;

    impl Queue {
        /// Has the pause be over after which the disk is tried again.
        fn end_pause(&mut self) {
            if let Some((_, again)) = &mut self.unread {
                *again = Instant::now();
            }
        }

        /// Has the pause be over after which the disk is written again; or last for long.
        fn pause_writing(&mut self, is_over: bool) {
            let again = self.unwritten.as_mut().unwrap();
            *again = Instant::now() + if is_over { Duration::ZERO } else { LOGGED };
        }
    }

    fn faulty(storage: &FaultyStorage) -> Queue {
        let folder = SpoolFolder { storage: Arc::new(storage.clone()), path: PathBuf::new() };
        let (queue, opened) = Queue::open(Some(folder), "test");
        opened.unwrap();
        queue
    }

    fn texts(queue: &mut Queue) -> Vec<String> {
        taken(queue).into_iter().map(|(_, text)| text).collect()
    }

    /// The disk is full for a moment, in which this is put.
    fn put_on_full_disk(queue: &mut Queue, storage: &FaultyStorage, text: &str) {
        storage.fail_at(0, Fault::Full);
        assert!(matches!(queue.put(text.into(), u64::MAX), Put::InMemory(_)));
        queue.pause_writing(false);
    }

    fn open(storage: &MemoryStorage) -> Queue {
        let folder =
            SpoolFolder { storage: Arc::new(storage.clone()), path: PathBuf::from("/nowhere") };
        let (queue, opened) = Queue::open(Some(folder), "test");
        opened.unwrap();
        queue
    }

    fn taken(queue: &mut Queue) -> Vec<(Ticket, String)> {
        let mut all = Vec::new();
        loop {
            let some = queue.take().unwrap();
            if some.is_empty() {
                return all;
            }
            let text = |(ticket, octets)| (ticket, String::from_utf8(octets).unwrap());
            all.extend(some.into_iter().map(text));
        }
    }

    fn put(queue: &mut Queue, text: &str) {
        assert!(matches!(queue.put(text.into(), u64::MAX), Put::Kept));
    }

    #[test]
    fn entries_come_out_once_and_wait_until_they_are_dealt_with() {
        let storage = MemoryStorage::new();
        for mut queue in [open(&storage), Queue::default()] {
            ["a", "b"].into_iter().for_each(|text| put(&mut queue, text));
            let some = taken(&mut queue);
            assert_eq!(some.iter().map(|(_, text)| &**text).collect::<Vec<_>>(), ["a", "b"]);
            assert!(taken(&mut queue).is_empty());
            put(&mut queue, "c");
            assert_eq!(queue.len(), 3);
            queue.done(some[0].0).unwrap();
            assert_eq!(queue.len(), 2);
            let rest = taken(&mut queue);
            assert_eq!(rest[0].1, "c");
            assert!(!queue.is_from_before(rest[0].0));
            let Left { on_disk, lost, closed } = queue.close();
            closed.unwrap();
            assert_eq!(on_disk + lost, 2);
        }
        // The next process finds what was on disk.
        let mut queue = open(&storage);
        let rest = taken(&mut queue);
        assert_eq!(rest.iter().map(|(_, text)| &**text).collect::<Vec<_>>(), ["b", "c"]);
        assert!(rest.iter().all(|(ticket, _)| queue.is_from_before(*ticket)));
    }

    #[test]
    fn a_file_that_can_t_be_read_for_a_while_is_lost_and_no_other() {
        let memory = MemoryStorage::new();
        let storage = FaultyStorage::new(memory.clone());
        for text in ["a", "b"] {
            put(&mut open(&memory), text);
        }
        let folder = SpoolFolder { storage: Arc::new(storage.clone()), path: PathBuf::new() };
        let (mut queue, opened) = Queue::open(Some(folder), "test");
        opened.unwrap();
        assert_eq!(queue.len(), 2);
        storage.refuse_reads_of(Some("test-00000001.spool"));
        for _ in 1..READ_TRIES {
            queue.take().unwrap_err();
            // Not before the pause is over.
            let (tries, _) = queue.unread.unwrap();
            queue.unread = Some((tries, Instant::now() + LOGGED));
            assert!(queue.take().unwrap().is_empty());
            assert!(queue.read_again().is_some());
            queue.end_pause();
        }
        assert_eq!(queue.take_lost(), 0);
        assert_eq!(taken(&mut queue).into_iter().map(|(_, text)| text).collect::<Vec<_>>(), ["b"]);
        assert_eq!((queue.len(), queue.take_lost(), queue.take_lost()), (1, 1, 0));
        assert_eq!(queue.read_again(), None);
        assert!(memory.list().unwrap().contains(&"test-00000001.spool.unreadable".to_owned()));
    }

    #[test]
    fn a_fault_that_passes_loses_nothing() {
        let storage = FaultyStorage::new(MemoryStorage::new());
        let folder = SpoolFolder { storage: Arc::new(storage.clone()), path: PathBuf::new() };
        let (mut queue, _) = Queue::open(Some(folder), "test");
        put(&mut queue, "a");
        storage.refuse_reads_of(Some("test-00000001.spool"));
        for _ in 1..READ_TRIES {
            queue.take().unwrap_err();
            queue.end_pause();
        }
        storage.refuse_reads_of(None);
        assert_eq!(taken(&mut queue).len(), 1);
        assert_eq!((queue.len(), queue.take_lost()), (1, 0));
    }

    #[test]
    fn what_a_full_disk_kept_in_memory_is_on_disk_once_there_is_room() {
        // Another entry comes, or a sync, or the end; or some are taken out.
        for then in ["put", "sync", "close", "take"] {
            let memory = MemoryStorage::new();
            let storage = FaultyStorage::new(memory.clone());
            let mut queue = faulty(&storage);
            put(&mut queue, "a");
            put_on_full_disk(&mut queue, &storage, "b");
            // In order, and not each tries the disk.
            let steps = storage.steps();
            put(&mut queue, "c");
            assert_eq!((storage.steps(), queue.in_memory()), (steps, 2));
            assert!(queue.waits_for_disk());
            let mut all = vec!["a", "b", "c"];
            match then {
                "put" => {
                    queue.pause_writing(true);
                    put(&mut queue, "d");
                    all.push("d");
                }
                "sync" => queue.sync().unwrap(),
                "take" => {
                    queue.pause_writing(true);
                    assert_eq!(texts(&mut queue), all);
                }
                _ => {
                    let Left { on_disk, lost, closed } = std::mem::take(&mut queue).close();
                    closed.unwrap();
                    assert_eq!((on_disk, lost), (3, 0));
                }
            }
            assert_eq!(queue.in_memory(), 0, "{then}");
            // A kill.
            drop(queue);
            assert_eq!(texts(&mut open(&memory)), all, "{then}");
        }
    }

    #[test]
    fn what_was_taken_out_of_memory_can_go_back_unless_newer_ones_went_to_the_disk() {
        for has_overtaken in [false, true] {
            let memory = MemoryStorage::new();
            let storage = FaultyStorage::new(memory.clone());
            let mut queue = faulty(&storage);
            put_on_full_disk(&mut queue, &storage, "a");
            put(&mut queue, "b");
            let out = taken(&mut queue);
            assert_eq!(out, [(Ticket(None), "a".to_owned()), (Ticket(None), "b".to_owned())]);
            put(&mut queue, "c");
            queue.done(out[0].0).unwrap();
            if has_overtaken {
                queue.sync().unwrap();
            }
            assert_eq!(queue.in_memory(), if has_overtaken { 1 } else { 2 });
            queue.put_back(out[1].0, Some("b".into()));
            let Left { on_disk, lost, closed } = queue.close();
            closed.unwrap();
            let (left, rest) =
                if has_overtaken { ((1, 1), &["c"][..]) } else { ((2, 0), &["b", "c"][..]) };
            assert_eq!((on_disk, lost), left);
            assert_eq!(texts(&mut open(&memory)), rest);
        }
    }

    #[test]
    fn a_disk_that_stays_full_keeps_order_and_the_bound() {
        let storage = FaultyStorage::new(MemoryStorage::new());
        let mut queue = faulty(&storage);
        storage.fail_at(0, Fault::Crash);
        assert!(matches!(queue.put(vec![b'x'], u64::MAX), Put::InMemory(_)));
        queue.pause_writing(false);
        (1..MAX_IN_MEMORY).for_each(|_| put(&mut queue, "x"));
        assert!(matches!(queue.put(vec![b'y'], u64::MAX), Put::Lost));
        queue.pause_writing(true);
        assert!(matches!(queue.put(vec![b'y'], u64::MAX), Put::Lost));
        assert_eq!(queue.len(), MAX_IN_MEMORY as u64);
        queue.sync().unwrap_err();
        let Left { on_disk, lost, closed } = queue.close();
        closed.unwrap_err();
        assert_eq!((on_disk, lost), (0, MAX_IN_MEMORY as u64));
    }

    #[test]
    fn there_is_a_bound_and_one_for_memory() {
        let mut queue = open(&MemoryStorage::new());
        assert!(matches!(queue.put(vec![1], 1), Put::Kept));
        assert!(matches!(queue.put(vec![1], 1), Put::Lost));
        let mut queue = Queue::default();
        for _ in 0..MAX_IN_MEMORY {
            put(&mut queue, "x");
        }
        assert!(matches!(queue.put(vec![1], u64::MAX), Put::Lost));
    }
}
