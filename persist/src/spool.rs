//! A queue on disk: entries that somebody has to be told of, once and in order, and who may be away
//! for longer than this process lives.
//!
//! A spool is a row of files `NAME-00000001.spool`, each with a head and frames; `FORMAT.md` gives
//! every octet. An entry is a frame, and so is the note that an entry is dealt with. Only the newest
//! file is written, and a file goes when all of its entries are dealt with.

use std::collections::VecDeque;
use std::sync::Arc;

use crc32fast::Hasher;

use crate::error::StorageError;
use crate::storage::{FOLDER, Input, Output, Storage};

/// How a file begins.
const MAGIC: [u8; 8] = *b"BINDSPOL";

/// The format version that is written and read.
const VERSION: u32 = 1;

/// Octets of a file's head: magic, version, number, checksum.
const HEAD_LEN: usize = 20;

/// Octets of a frame before its payload: checksum, length, entry, kind.
const FRAME_HEAD_LEN: usize = 17;

/// An entry has at most this many octets.
pub const ENTRY_MAX: usize = 1 << 20;

/// A file isn't added to once it has this many octets, so that a long outage gives its space back
/// bit by bit.
const FILE_MAX: u64 = 4 << 20;

/// A file of which nothing is needed goes once it has this many octets; a smaller one is added to.
const FILE_KEPT: u64 = 64 << 10;

/// How much is read at a time.
const CHUNK: u64 = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Entry,
    /// The entry, and all before it, are dealt with.
    Done,
}

/// A queue on disk.
pub struct Spool {
    storage: Arc<dyn Storage>,
    name: String,
    /// Oldest first. The last one is being written if there is an `output`.
    files: VecDeque<File>,
    output: Option<Box<dyn Output>>,
    /// Files that are full, and may not be on the medium.
    unsynced: Vec<Box<dyn Output>>,
    /// The number of the next file.
    next_file: u32,
    /// The number of the next entry.
    next_entry: u64,
    /// The last entry that is dealt with.
    done: u64,
    /// The last entry that was told.
    told: u64,
    /// Where the next entry is read: in a file of this number, at this octet.
    cursor: (u32, u64),
    /// Entries that are not dealt with.
    pending: u64,
    /// Files that ended in something else than a frame.
    torn: u64,
    is_synced: bool,
}

/// A file of a spool.
#[derive(Clone, Copy, Debug)]
struct File {
    number: u32,
    /// Octets that are known to be frames.
    len: u64,
    /// The first and the last entry in it, and it has all between; zero if there is none.
    first: u64,
    last: u64,
}

/// A file that can't be read and has another name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// That name: its own with `.unreadable` behind.
    pub name: String,
    /// Entries in it that nobody was told.
    pub entries: u64,
}

/// An entry with its number. Numbers go up by one.
pub type Entry = (u64, Vec<u8>);

impl Spool {
    /// The spool called `name`, with what an earlier process left in it.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn open(storage: Arc<dyn Storage>, name: &str) -> Result<Self, StorageError> {
        let mut spool = Self {
            storage,
            name: name.to_owned(),
            files: VecDeque::new(),
            output: None,
            unsynced: Vec::new(),
            next_file: 1,
            next_entry: 1,
            done: 0,
            told: 0,
            cursor: (0, 0),
            pending: 0,
            torn: 0,
            is_synced: true,
        };
        let names = spool.storage.list().map_err(StorageError::of("list", FOLDER))?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|file| spool.number(file)).collect();
        numbers.sort_unstable();
        let mut entries = Vec::new();
        for number in numbers {
            let file = spool.scan(number, &mut entries)?;
            spool.files.push_back(file);
            spool.next_file = number.saturating_add(1);
        }
        let done = spool.done;
        spool.pending = entries.iter().filter(|entry| **entry > done).count() as u64;
        spool.next_entry = entries.last().copied().unwrap_or(0).max(done) + 1;
        spool.tidy()?;
        spool.cursor = spool.files.front().map_or((0, 0), |file| (file.number, HEAD));
        Ok(spool)
    }

    /// How many entries are not dealt with.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The number that the next entry will have.
    pub fn next_entry(&self) -> u64 {
        self.next_entry
    }

    /// How many files ended in something else than a frame: the end of what a crash interrupted.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Adds an entry of at most [`ENTRY_MAX`] octets, and says its number. When this returns, the
    /// kernel has it: it outlives the process. With [`Spool::sync`] it outlives a power cut.
    ///
    /// # Errors
    /// The disk. The entry is not there, and the next one goes to another file.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, StorageError> {
        let entry = self.next_entry;
        self.write(Kind::Entry, entry, payload)?;
        self.next_entry += 1;
        self.pending += 1;
        if let Some(file) = self.files.back_mut() {
            file.last = entry;
            if file.first == 0 {
                file.first = entry;
            }
        }
        Ok(entry)
    }

    /// The next entries, in order, each told once by each [`Spool`]: some of those there are, none
    /// if there is none.
    ///
    /// # Errors
    /// The disk: it can be tried again, or done without that file ([`Spool::set_aside`]).
    pub fn read_next(&mut self) -> Result<Vec<Entry>, StorageError> {
        loop {
            let (number, at) = self.cursor;
            let Some(file) = self.files.iter().find(|file| file.number >= number).copied() else {
                return Ok(Vec::new());
            };
            let at = if file.number == number { at } else { HEAD };
            if at >= file.len {
                let is_last = self.files.back().is_none_or(|last| last.number == file.number);
                if is_last {
                    self.cursor = (file.number, at);
                    return Ok(Vec::new());
                }
                self.cursor = (file.number.saturating_add(1), HEAD);
                continue;
            }
            let input = self.input(file.number)?;
            let mut entries = Vec::new();
            let after =
                frames(&*input, file.number, at, file.len, CHUNK, |kind, entry, payload| {
                    if kind == Kind::Entry && entry > self.done {
                        entries.push((entry, payload.to_vec()));
                    }
                })
                .map_err(StorageError::of("read", &self.file_name(file.number)))?;
            // Never: up to `len` there are frames. But if so, what follows isn't lost too.
            let after = if after == at { file.len } else { after };
            self.cursor = (file.number, after);
            if let Some((last, _)) = entries.last() {
                self.told = *last;
                return Ok(entries);
            }
        }
    }

    /// Goes on without the file that [`Spool::read_next`] can't read, and leaves it to the operator
    /// under another name. What was told of it can be noted as done; but after a crash it isn't there
    /// to be told again. `None` if there is nothing to be read.
    ///
    /// # Errors
    /// The file can't be renamed; it stays where it is, then.
    pub fn set_aside(&mut self) -> Result<Option<Aside>, StorageError> {
        let Some(at) = self.files.iter().position(|file| file.number >= self.cursor.0) else {
            return Ok(None);
        };
        let is_last = at + 1 == self.files.len();
        let Some(File { number, first, last, .. }) = self.files.get(at).copied() else {
            return Ok(None);
        };
        let old = self.file_name(number);
        let name = format!("{old}.unreadable");
        self.storage.rename(&old, &name).map_err(StorageError::of("rename", &old))?;
        self.files.remove(at);
        self.is_synced = false;
        if is_last {
            self.output = None;
        }
        self.cursor = (number.saturating_add(1), HEAD);
        let dealt_with = self.done.max(self.told).max(first.saturating_sub(1));
        let entries = last.saturating_sub(dealt_with);
        self.pending = self.pending.saturating_sub(entries);
        self.told = self.told.max(last);
        // There may have been notes in it about what is in older files. If they can't be written again,
        // the next process may tell that again.
        if at > 0 && self.done > 0 {
            let _ = self.write(Kind::Done, self.done, b"");
        }
        Ok(Some(Aside { name, entries }))
    }

    /// Notes that an entry that [`Spool::read_next`] told, and with it all before, is dealt with.
    ///
    /// # Errors
    /// The disk. This process knows it all the same; the next one may tell the entry again.
    pub fn done(&mut self, entry: u64) -> Result<(), StorageError> {
        if entry <= self.done {
            return Ok(());
        }
        self.pending = self.pending.saturating_sub(1);
        self.done = entry;
        let is_all = self.pending == 0;
        if is_all {
            // A file that is to go needs no note.
            if self.files.iter().map(|file| file.len).sum::<u64>() > FILE_KEPT {
                self.output = None;
                return self.tidy();
            }
        }
        self.write(Kind::Done, entry, b"")?;
        self.tidy()
    }

    /// Has all entries dealt with, told or not.
    ///
    /// # Errors
    /// The disk.
    pub fn clear(&mut self) -> Result<(), StorageError> {
        self.pending = 0;
        self.done = self.next_entry - 1;
        self.output = None;
        self.tidy()
    }

    /// Returns when what was added is on the medium. Costs nothing if it is.
    ///
    /// # Errors
    /// The disk. What was added since the last sync may not be there after a power cut.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        if self.is_synced {
            return Ok(());
        }
        let name = format!("{}, its newest file", self.name);
        // A sync that failed is not tried again: the kernel would say that all is well.
        for mut output in std::mem::take(&mut self.unsynced) {
            output.sync().map_err(StorageError::of("sync", &name))?;
        }
        if let Some(output) = &mut self.output {
            output.sync().map_err(StorageError::of("sync", &name))?;
        }
        self.storage.sync_folder().map_err(StorageError::of("sync", FOLDER))?;
        self.is_synced = true;
        Ok(())
    }

    /// Ends this process's use of it: a spool without entries leaves no file.
    ///
    /// # Errors
    /// The disk.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.sync()?;
        self.output = None;
        self.tidy()
    }

    fn write(&mut self, kind: Kind, entry: u64, payload: &[u8]) -> Result<(), StorageError> {
        if self.files.back().is_some_and(|file| file.len >= FILE_MAX) {
            let full = self.output.take();
            self.unsynced.extend(full.filter(|_| !self.is_synced));
        }
        if self.output.is_none() {
            self.begin()?;
        }
        let (Some(output), Some(file)) = (&mut self.output, self.files.back_mut()) else {
            return Ok(());
        };
        let mut frame = Vec::with_capacity(FRAME_HEAD_LEN + payload.len());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        frame.extend_from_slice(&entry.to_le_bytes());
        frame.push(match kind {
            Kind::Entry => 0,
            Kind::Done => 1,
        });
        frame.extend_from_slice(payload);
        let crc = checksum(file.number, file.len, frame.get(4..).unwrap_or_default());
        if let Some(place) = frame.first_chunk_mut() {
            *place = crc.to_le_bytes();
        }
        self.is_synced = false;
        let result = output.append(&frame);
        if let Err(source) = result {
            // Part of it may be there: nothing is put behind it.
            self.output = None;
            // On a full disk that is so each time. A file without a frame is no use.
            if file.len == HEAD && self.storage.remove(&file_name(&self.name, file.number)).is_ok()
            {
                self.files.pop_back();
            }
            let name = self.name.clone();
            return Err(StorageError { action: "write", name, source });
        }
        file.len += frame.len() as u64;
        Ok(())
    }

    /// Begins another file.
    fn begin(&mut self) -> Result<(), StorageError> {
        let number = self.next_file;
        let name = self.file_name(number);
        let mut output = self.storage.create(&name).map_err(StorageError::of("create", &name))?;
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&number.to_le_bytes());
        let crc = crc32fast::hash(&head);
        head.extend_from_slice(&crc.to_le_bytes());
        if let Err(source) = output.append(&head) {
            drop(output);
            // On a full disk that is so each time: nothing is left of it, and the number is free again.
            if self.storage.remove(&name).is_err() {
                self.next_file = number.saturating_add(1);
            }
            return Err(StorageError { action: "write", name, source });
        }
        self.next_file = number.saturating_add(1);
        self.files.push_back(File { number, len: HEAD, first: 0, last: 0 });
        self.output = Some(output);
        Ok(())
    }

    /// Removes the files of which nothing is needed.
    fn tidy(&mut self) -> Result<(), StorageError> {
        while let Some(file) = self.files.front().copied() {
            let is_written = self.files.len() == 1 && self.output.is_some();
            // Notes of entries in older files are needed no longer than those files.
            if is_written || file.last > self.done {
                break;
            }
            let name = self.file_name(file.number);
            self.storage.remove(&name).map_err(StorageError::of("remove", &name))?;
            self.files.pop_front();
            // Or it may come back, without the notes about what is in it.
            self.is_synced = false;
        }
        Ok(())
    }

    /// Reads what is in a file, at the start.
    fn scan(&mut self, number: u32, entries: &mut Vec<u64>) -> Result<File, StorageError> {
        let name = self.file_name(number);
        let input = self.input(number)?;
        let read = StorageError::of("read", &name);
        let mut head = [0; HEAD_LEN];
        let size = input.size();
        let (mut len, mut first, mut last, mut done) = (HEAD, 0, 0, self.done);
        let got = input.read_at(0, &mut head);
        let is_ours = match got {
            Ok(got) => got == HEAD_LEN && is_head(&head, number),
            Err(source) => return Err(read(source)),
        };
        if is_ours {
            loop {
                let after =
                    frames(&*input, number, len, size, CHUNK, |kind, entry, _| match kind {
                        Kind::Entry => {
                            entries.push(entry);
                            last = entry;
                            if first == 0 {
                                first = entry;
                            }
                        }
                        Kind::Done => done = done.max(entry),
                    })
                    .map_err(StorageError::of("read", &name))?;
                if after == len {
                    break;
                }
                len = after;
            }
        }
        self.done = done;
        self.torn += u64::from(len < size || !is_ours);
        Ok(File { number, len, first, last })
    }

    fn input(&self, number: u32) -> Result<Box<dyn Input>, StorageError> {
        let name = self.file_name(number);
        self.storage.open(&name).map_err(StorageError::of("open", &name))
    }

    fn file_name(&self, number: u32) -> String {
        file_name(&self.name, number)
    }

    /// The number of a file of this spool.
    fn number(&self, file: &str) -> Option<u32> {
        let digits = file.strip_prefix(&self.name)?.strip_prefix('-')?.strip_suffix(".spool")?;
        let number = digits.parse().ok()?;
        (self.file_name(number) == file).then_some(number)
    }
}

fn file_name(name: &str, number: u32) -> String {
    format!("{name}-{number:08}.spool")
}

/// [`HEAD_LEN`] as an offset.
const HEAD: u64 = HEAD_LEN as u64;

fn is_head(head: &[u8; HEAD_LEN], number: u32) -> bool {
    let mut right = Vec::with_capacity(HEAD_LEN);
    right.extend_from_slice(&MAGIC);
    right.extend_from_slice(&VERSION.to_le_bytes());
    right.extend_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&right);
    right.extend_from_slice(&crc.to_le_bytes());
    *head == *right
}

/// The checksum of a frame: also over where it stands, so that what an earlier file left on the
/// medium is none.
fn checksum(number: u32, offset: u64, frame: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(frame);
    hasher.finalize()
}

/// Shows the frames from `at` on, about `chunk` octets of them, and says where the next one is:
/// still `at` if there is none.
fn frames(
    input: &dyn Input,
    number: u32,
    at: u64,
    end: u64,
    chunk: u64,
    mut show: impl FnMut(Kind, u64, &[u8]),
) -> std::io::Result<u64> {
    let mut space = read(input, at, chunk.min(end.saturating_sub(at)))?;
    // One that is longer than the chunk is read whole.
    if let Some(len) = frame_len(&space).filter(|len| *len > space.len()) {
        space = read(input, at, (len as u64).min(end.saturating_sub(at)))?;
    }
    let (mut rest, mut offset) = (&*space, at);
    while let Some((frame, after)) = frame_len(rest).and_then(|len| rest.split_at_checked(len)) {
        let (Some(crc), Some(covered)) = (frame.first_chunk(), frame.get(4..)) else { break };
        if u32::from_le_bytes(*crc) != checksum(number, offset, covered) {
            break;
        }
        let (Some(entry), Some(kind), Some(payload)) = (
            frame.get(8..).and_then(|f| f.first_chunk()),
            frame.get(16),
            frame.get(FRAME_HEAD_LEN..),
        ) else {
            break;
        };
        let kind = if *kind == 0 { Kind::Entry } else { Kind::Done };
        show(kind, u64::from_le_bytes(*entry), payload);
        offset += frame.len() as u64;
        rest = after;
    }
    Ok(offset)
}

/// The length of the frame that `bytes` begin with, if its head is there and can be one.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    bytes.get(..FRAME_HEAD_LEN)?;
    let payload = usize::try_from(u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?)).ok()?;
    (payload <= ENTRY_MAX).then_some(FRAME_HEAD_LEN + payload)
}

fn read(input: &dyn Input, at: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut space = vec![0; usize::try_from(len).unwrap_or(0)];
    let got = input.read_at(at, &mut space)?;
    space.truncate(got);
    Ok(space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::{MemoryStorage, Survival};

    fn open(storage: &MemoryStorage) -> Spool {
        Spool::open(Arc::new(storage.clone()), "cdr").unwrap()
    }

    fn texts(spool: &mut Spool) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let entries = spool.read_next().unwrap();
            if entries.is_empty() {
                return all;
            }
            all.extend(entries.into_iter().map(|(_, payload)| String::from_utf8(payload).unwrap()));
        }
    }

    #[test]
    fn what_is_added_is_told_once_and_again_to_the_next_process() {
        let storage = MemoryStorage::new();
        let mut spool = open(&storage);
        for text in ["a", "b", "c"] {
            spool.append(text.as_bytes()).unwrap();
        }
        assert_eq!(texts(&mut spool), ["a", "b", "c"]);
        assert_eq!(texts(&mut spool), [""; 0]);
        spool.append(b"d").unwrap();
        assert_eq!(texts(&mut spool), ["d"]);
        spool.done(1).unwrap();
        spool.done(2).unwrap();
        assert_eq!(spool.pending(), 2);
        drop(spool);
        let mut spool = open(&storage.crash(Survival::All));
        assert_eq!((spool.pending(), spool.next_entry()), (2, 5));
        assert_eq!(texts(&mut spool), ["c", "d"]);
        assert_eq!(spool.append(b"e").unwrap(), 5);
        assert_eq!(texts(&mut spool), ["e"]);
    }

    #[test]
    fn nothing_is_left_of_what_is_dealt_with() {
        let storage = MemoryStorage::new();
        let mut spool = open(&storage);
        for entry in 1..=3 {
            spool.append(b"x").unwrap();
            assert_eq!(spool.read_next().unwrap(), [(entry, b"x".to_vec())]);
            spool.done(entry).unwrap();
        }
        assert_eq!(storage.list().unwrap(), ["cdr-00000001.spool"]);
        spool.close().unwrap();
        assert_eq!(storage.list().unwrap(), [""; 0]);

        let mut spool = open(&storage);
        spool.append(b"x").unwrap();
        spool.clear().unwrap();
        assert_eq!((texts(&mut spool), spool.pending()), (vec![], 0));
        assert_eq!(storage.list().unwrap(), [""; 0]);
    }

    #[test]
    fn a_long_queue_is_many_files_and_gives_them_back() {
        let storage = MemoryStorage::new();
        let mut spool = open(&storage);
        let large = vec![b'x'; ENTRY_MAX];
        for _ in 0..10 {
            spool.append(&large).unwrap();
        }
        assert!(storage.list().unwrap().len() > 2);
        drop(spool);
        let mut spool = open(&storage);
        let mut count = 0;
        loop {
            let entries = spool.read_next().unwrap();
            if entries.is_empty() {
                break;
            }
            for (entry, payload) in entries {
                count += 1;
                assert_eq!((entry, payload.len()), (count, ENTRY_MAX));
                spool.done(entry).unwrap();
            }
        }
        assert_eq!((count, spool.pending()), (10, 0));
        assert_eq!(storage.list().unwrap(), [""; 0]);
    }

    #[test]
    fn a_torn_end_takes_nothing_else_along() {
        let storage = MemoryStorage::new();
        let mut spool = open(&storage);
        for text in ["a", "b", "c"] {
            spool.append(text.as_bytes()).unwrap();
        }
        let name = "cdr-00000001.spool";
        let whole = storage.bytes(name).unwrap();
        for cut in 0..whole.len() {
            for tail in [&b""[..], b"\0\0\0\0\0\0\0\0", &whole] {
                let storage = MemoryStorage::new();
                storage.put(name, &[&whole[..cut], tail].concat());
                let mut spool = open(&storage);
                let kept = cut.saturating_sub(HEAD_LEN) / (FRAME_HEAD_LEN + 1);
                let kept = if tail == whole && cut == 0 { 3 } else { kept };
                assert_eq!(texts(&mut spool), &["a", "b", "c"][..kept], "{cut}");
                // What is added later is behind it.
                spool.append(b"z").unwrap();
                assert_eq!(texts(&mut spool), ["z"]);
                drop(spool);
                let mut spool = open(&storage);
                assert_eq!(texts(&mut spool).len(), kept + 1);
            }
        }
    }

    #[test]
    fn what_was_synced_outlives_a_power_cut() {
        for seed in 0..200 {
            let storage = MemoryStorage::new();
            let mut spool = open(&storage);
            spool.append(b"a").unwrap();
            spool.append(b"b").unwrap();
            spool.sync().unwrap();
            spool.append(b"c").unwrap();
            spool.done(1).unwrap();
            let mut spool = open(&storage.crash(Survival::Some(seed)));
            let left = texts(&mut spool);
            // What was not synced may be there or not, in order.
            let all = ["a", "b", "c"];
            let from = if left.first().is_some_and(|first| first == "a") { 0 } else { 1 };
            assert!(left.len() + from >= 2, "{left:?}");
            assert_eq!(left, &all[from..from + left.len()], "{seed}");
        }
    }

    #[test]
    fn a_disk_that_is_full_loses_what_it_refused_only() {
        use crate::storage::faulty::{Fault, FaultyStorage};
        let memory = MemoryStorage::new();
        let faults = FaultyStorage::new(memory.clone());
        let mut spool = Spool::open(Arc::new(faults.clone()), "cdr").unwrap();
        spool.append(b"a").unwrap();
        faults.fail_at(0, Fault::Full);
        assert!(spool.append(b"b").is_err());
        assert_eq!(spool.append(b"c").unwrap(), 2);
        assert_eq!(texts(&mut spool), ["a", "c"]);
        assert_eq!(texts(&mut open(&memory)), ["a", "c"]);
    }

    #[test]
    fn a_disk_that_stays_full_gets_no_files() {
        use crate::storage::faulty::{Fault, FaultyStorage};
        let memory = MemoryStorage::new();
        let faults = FaultyStorage::new(memory.clone());
        let mut spool = Spool::open(Arc::new(faults.clone()), "cdr").unwrap();
        // Of a new file, the head has no room (step 1), or the frame (step 2).
        for step in [1, 2, 1, 2] {
            faults.fail_at(step, Fault::Full);
            assert!(spool.append(b"a").is_err());
            assert_eq!(memory.list().unwrap(), [""; 0], "{step}");
        }
        assert_eq!(spool.append(b"a").unwrap(), 1);
        assert_eq!(memory.list().unwrap(), ["cdr-00000003.spool"]);
        faults.fail_at(0, Fault::Full);
        assert!(spool.append(b"b").is_err());
        spool.append(b"c").unwrap();
        assert_eq!(texts(&mut spool), ["a", "c"]);
        assert_eq!(texts(&mut open(&memory)), ["a", "c"]);
    }

    #[test]
    fn a_file_that_is_full_is_synced_as_well() {
        let storage = MemoryStorage::new();
        let mut spool = open(&storage);
        let large = vec![b'x'; ENTRY_MAX];
        for _ in 0..6 {
            spool.append(&large).unwrap();
        }
        assert!(storage.list().unwrap().len() > 1);
        spool.sync().unwrap();
        assert_eq!(open(&storage.crash(Survival::Nothing)).pending(), 6);
    }

    #[test]
    fn a_file_that_can_t_be_read_is_set_aside_and_the_others_are_told() {
        use crate::storage::faulty::FaultyStorage;
        let (large, name) = (vec![b'x'; ENTRY_MAX], |n| format!("cdr-0000000{n}.spool"));
        // Four entries to a file: the first one, one between, or that which is being written. Or one
        // of which something was told.
        for (bad, told, lost) in [(1, 0, 4), (2, 0, 4), (3, 0, 2), (1, 3, 1), (2, 5, 3)] {
            let memory = MemoryStorage::new();
            let faults = FaultyStorage::new(memory.clone());
            let mut spool = Spool::open(Arc::new(faults.clone()), "cdr").unwrap();
            for _ in 0..10 {
                spool.append(&large).unwrap();
            }
            let mut seen: Vec<u64> = Vec::new();
            while seen.len() < told {
                seen.extend(spool.read_next().unwrap().into_iter().map(|(entry, _)| entry));
            }
            // Notes of that are in the newest file.
            seen.iter().take(1).for_each(|entry| spool.done(*entry).unwrap());
            faults.refuse_reads_of(Some(&name(bad)));
            let is_noted = usize::from(told > 0);
            let mut aside = None;
            loop {
                match spool.read_next() {
                    Ok(entries) if entries.is_empty() => break,
                    Ok(entries) => seen.extend(entries.into_iter().map(|(entry, _)| entry)),
                    Err(_) => aside = spool.set_aside().unwrap(),
                }
            }
            let Aside { name: aside, entries } = aside.unwrap();
            assert_eq!((aside, entries), (format!("{}.unreadable", name(bad)), lost));
            assert_eq!(spool.pending(), (seen.len() - is_noted) as u64);
            assert_eq!(seen.len() as u64, 10 - lost);
            assert!(seen.is_sorted());
            // What comes later too, and the next process finds what isn't noted and still there.
            assert_eq!(spool.append(b"z").unwrap(), 11);
            assert_eq!(texts(&mut spool), ["z"]);
            faults.refuse_reads_of(None);
            drop(spool);
            let mut next = open(&memory);
            let left = next.pending();
            assert_eq!(texts(&mut next).len() as u64, left, "{bad} {told}");
            assert_eq!(left, if bad == 3 { 9 } else { 7 } - u64::from(told == 5), "{bad} {told}");
            // Once all is done nothing but that file is there.
            let mut spool = open(&memory);
            while let Some((entry, _)) = spool.read_next().unwrap().pop() {
                (0..=entry).for_each(|entry| spool.done(entry).unwrap());
            }
            assert_eq!(spool.pending(), 0);
            spool.close().unwrap();
            assert_eq!(memory.list().unwrap(), [format!("{}.unreadable", name(bad))]);
        }
    }
}
