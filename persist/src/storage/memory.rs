//! A folder in memory that knows what a power cut would leave of it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Input, Output, Storage, Syncer};

/// A folder in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage(Arc<Mutex<Disk>>);

/// What of the unsynced survives a [`MemoryStorage::crash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Everything: the process was killed, the machine lives.
    All,
    /// Nothing: the power went before the disk wrote anything by itself.
    Nothing,
    /// Some name changes in any combination. Of each file's unsynced bytes either the first ones,
    /// and zeros after them, or any of its blocks, the others being zero or as they were synced;
    /// and any length from the synced to the written. Which, is drawn from the number.
    Some(u64),
}

/// Bytes that survive together or not at all. Real ones are 512 or 4096; these are smaller than a
/// journal's frames, so that a frame is torn as well as missing.
const BLOCK: usize = 16;

impl MemoryStorage {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a durable file there, or replaces one.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk();
        disk.files.push(Content { live: bytes.to_vec(), synced: bytes.to_vec() });
        let number = disk.files.len() - 1;
        disk.live.insert(name.to_owned(), number);
        disk.durable.insert(name.to_owned(), number);
    }

    /// A file's bytes as a reader sees them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.live.get(name).and_then(|&number| disk.files.get(number)).map(|c| c.live.clone())
    }

    /// The folder as the next start finds it. `self` is left as it is.
    pub fn crash(&self, survival: Survival) -> Self {
        let disk = self.disk();
        let mut draw = Draw(if let Survival::Some(seed) = survival { seed } else { 0 });
        let mut names = disk.durable.clone();
        for change in &disk.pending {
            let kept = match survival {
                Survival::All => true,
                Survival::Nothing => false,
                Survival::Some(_) => draw.below(2) == 1,
            };
            if kept {
                change.apply(&mut names);
            }
        }
        let after = Self::new();
        for (name, number) in names {
            let Some(content) = disk.files.get(number) else { continue };
            let bytes = match survival {
                Survival::All => content.live.clone(),
                Survival::Nothing => content.synced.clone(),
                Survival::Some(_) if content.live == content.synced => content.live.clone(),
                Survival::Some(_) => content.survivor(&mut draw),
            };
            after.put(&name, &bytes);
        }
        after
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().live.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        let mut disk = self.disk();
        if disk.live.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        disk.files.push(Content::default());
        let number = disk.files.len() - 1;
        disk.change(Change::Link { name: name.to_owned(), number });
        Ok(Box::new(MemoryOutput { storage: self.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Input>> {
        let bytes = self.bytes(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(MemoryInput(bytes)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let number = *disk.live.get(from).ok_or(ErrorKind::NotFound)?;
        disk.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), number });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let number = *disk.live.get(name).ok_or(ErrorKind::NotFound)?;
        disk.change(Change::Unlink { name: name.to_owned(), number });
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.durable = disk.live.clone();
        disk.pending.clear();
        Ok(())
    }
}

/// Names point at files by number, as directory entries point at inodes.
#[derive(Debug, Default)]
struct Disk {
    files: Vec<Content>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Change>,
}

impl Disk {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }
}

#[derive(Debug, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
}

impl Content {
    /// What a power cut may leave of it.
    fn survivor(&self, draw: &mut Draw) -> Vec<u8> {
        let mut bytes = self.live.clone();
        if draw.below(2) == 0 {
            let whole = draw.below(bytes.len() + 1).max(self.synced.len());
            bytes.iter_mut().skip(whole).for_each(|byte| *byte = 0);
            return bytes;
        }
        for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
            if draw.below(2) == 0 {
                let old = self.synced.iter().skip(number * BLOCK).chain(std::iter::repeat(&0));
                block.iter_mut().zip(old).for_each(|(byte, old)| *byte = *old);
            }
        }
        let grown = self.live.len().saturating_sub(self.synced.len());
        if draw.below(2) == 0 {
            bytes.truncate(self.live.len() - draw.below(grown + 1));
        }
        bytes
    }
}

#[derive(Debug)]
enum Change {
    Link { name: String, number: usize },
    Rename { from: String, to: String, number: usize },
    Unlink { name: String, number: usize },
}

impl Change {
    /// The numbers keep a change meaningful where an earlier one did not survive.
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link { name, number } => {
                names.insert(name.clone(), *number);
            }
            Self::Rename { from, to, number } => {
                if names.get(from) == Some(number) {
                    names.remove(from);
                }
                names.insert(to.clone(), *number);
            }
            Self::Unlink { name, number } => {
                if names.get(name) == Some(number) {
                    names.remove(name);
                }
            }
        }
    }
}

struct MemoryOutput {
    storage: MemoryStorage,
    number: usize,
}

impl MemoryOutput {
    fn with<T>(&self, act: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        act(self.storage.disk().files.get_mut(self.number).ok_or(ErrorKind::NotFound)?)
    }
}

impl Output for MemoryOutput {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|content| {
            content.live.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|content| {
            let start = usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
            let end = start.checked_add(bytes.len()).ok_or(ErrorKind::InvalidInput)?;
            let range = content.live.get_mut(start..end).ok_or(ErrorKind::InvalidInput)?;
            range.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|content| {
            content.synced.clone_from(&content.live);
            Ok(())
        })
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        Box::new(MemorySyncer(Self { storage: self.storage.clone(), number: self.number }))
    }
}

struct MemorySyncer(MemoryOutput);

impl Syncer for MemorySyncer {
    fn sync_data(&self) -> io::Result<()> {
        self.0.with(|content| {
            content.synced.clone_from(&content.live);
            Ok(())
        })
    }
}

struct MemoryInput(Vec<u8>);

impl Input for MemoryInput {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.0.get(start..));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(into.len());
        into.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(count)
    }
}

/// A small generator (splitmix64), so that a failing draw can be drawn again.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        usize::try_from(bits % (bound as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_synced_survives_a_power_cut() {
        let storage = MemoryStorage::new();
        let mut file = storage.create("a").unwrap();
        file.append(b"one").unwrap();
        file.sync().unwrap();
        assert!(storage.crash(Survival::Nothing).list().unwrap().is_empty());
        storage.sync_folder().unwrap();
        file.append(b" two").unwrap();
        storage.rename("a", "b").unwrap();
        let after = storage.crash(Survival::Nothing);
        assert_eq!(after.bytes("a").unwrap(), b"one");
        assert_eq!(after.bytes("b"), None);
        assert_eq!(storage.crash(Survival::All).bytes("b").unwrap(), b"one two");
    }

    #[test]
    fn draws_differ_and_keep_what_was_synced() {
        let storage = MemoryStorage::new();
        let mut file = storage.create("a").unwrap();
        file.append(b"one").unwrap();
        file.sync().unwrap();
        storage.sync_folder().unwrap();
        file.append(b" two").unwrap();
        let drawn: std::collections::BTreeSet<_> =
            (0..50).filter_map(|seed| storage.crash(Survival::Some(seed)).bytes("a")).collect();
        assert!(drawn.len() > 2);
        assert!(drawn.iter().all(|bytes| bytes.starts_with(b"one")));
    }

    #[test]
    fn any_block_may_be_missing_but_no_synced_one() {
        let storage = MemoryStorage::new();
        let mut file = storage.create("a").unwrap();
        file.append(&[b'x'; BLOCK]).unwrap();
        file.syncer().sync_data().unwrap();
        storage.sync_folder().unwrap();
        file.append(&[b'y'; 3 * BLOCK]).unwrap();
        let mut shapes = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let bytes = storage.crash(Survival::Some(seed)).bytes("a").unwrap();
            assert_eq!(bytes[..BLOCK], [b'x'; BLOCK]);
            shapes.insert(bytes.chunks_exact(BLOCK).map(|block| block[0]).collect::<Vec<_>>());
        }
        assert!(shapes.contains(&b"x\0yy"[..]) && shapes.contains(&b"xy\0y"[..]), "{shapes:?}");
        assert!(shapes.contains(&b"x"[..]), "only the synced length");
    }
}
