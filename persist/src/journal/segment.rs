//! Segments in their folder: names, order, and the end of those that a snapshot has replaced.

use std::fmt;

use crate::error::StorageError;
use crate::storage::{self, FOLDER, Storage};

/// Digits of a generation in a name: a rotation a second fills them in three years.
const GENERATION_DIGITS: usize = 8;

/// Digits of a writer in a name.
const WRITER_DIGITS: usize = 3;

const PREFIX: &str = "journal-";
const SUFFIX: &str = ".log";

/// Which segment: in order of generation, then of writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    generation: u32,
    writer: u16,
}

impl SegmentId {
    /// The highest generation that a name has room for.
    pub const GENERATION_MAX: u32 = 99_999_999;

    /// The highest writer that a name has room for.
    pub const WRITER_MAX: u16 = 999;

    /// `None` if one of them does not fit into a name.
    pub fn new(generation: u32, writer: u16) -> Option<Self> {
        let fits = generation <= Self::GENERATION_MAX && writer <= Self::WRITER_MAX;
        fits.then_some(Self { generation, writer })
    }

    /// The segment whose file has this name; `None` if it is not exactly such a name.
    pub fn from_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let (generation, writer) = digits.split_once('-')?;
        let id = Self::new(generation.parse().ok()?, writer.parse().ok()?)?;
        (id.to_string() == name).then_some(id)
    }

    /// The rotation with which it was begun.
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// The number of the thread that wrote it.
    pub fn writer(self) -> u16 {
        self.writer
    }
}

impl fmt::Display for SegmentId {
    /// The file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, writer } = self;
        write!(f, "{PREFIX}{generation:0GENERATION_DIGITS$}-{writer:0WRITER_DIGITS$}{SUFFIX}")
    }
}

/// All segments in the folder, in their order. Other files are passed over.
pub fn segments(storage: &dyn Storage) -> Result<Vec<SegmentId>, StorageError> {
    let names = storage.list().map_err(StorageError::of("list", FOLDER))?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| SegmentId::from_name(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// A generation that no segment has or had, not even one that was set aside, and that is not
/// below `at_least` (what the snapshots say comes after them); at least 1.
///
/// `None` if the numbers are used up.
pub fn first_free(storage: &dyn Storage, at_least: u32) -> Result<Option<u32>, StorageError> {
    let names = storage.list().map_err(StorageError::of("list", FOLDER))?;
    let of_name = |name: &String| {
        let (segment, _) = name.split_at(name.find(SUFFIX)? + SUFFIX.len());
        SegmentId::from_name(segment)
    };
    let highest = names.iter().filter_map(of_name).map(SegmentId::generation).max();
    let free = highest.map_or(1, |highest| highest + 1).max(at_least).max(1);
    Ok((free <= SegmentId::GENERATION_MAX).then_some(free))
}

/// What [`prune`] did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// How many segments were removed.
    pub removed: u64,
    /// Those that are still there, and why. The next call tries them again.
    pub failed: Vec<StorageError>,
}

/// Removes the segments of generations below `before`, the oldest first.
///
/// The folder is not synced: a segment that comes back is passed over and removed again.
pub fn prune(storage: &dyn Storage, before: u32) -> Result<Pruned, StorageError> {
    let mut pruned = Pruned::default();
    for id in segments(storage)?.into_iter().take_while(|id| id.generation < before) {
        let name = id.to_string();
        match storage.remove(&name) {
            Ok(()) => pruned.removed += 1,
            Err(error) => pruned.failed.push(StorageError::of("remove", &name)(error)),
        }
    }
    Ok(pruned)
}

/// Renames a segment that can't be used at all to `*.corrupt`; returns the name it has then.
pub fn set_aside(storage: &dyn Storage, id: SegmentId) -> Result<String, StorageError> {
    storage::set_aside(storage, &id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn names_are_exact() {
        let id = SegmentId::new(17, 3).unwrap();
        assert_eq!(id.to_string(), "journal-00000017-003.log");
        assert_eq!(SegmentId::from_name("journal-00000017-003.log"), Some(id));
        for other in [
            "journal-17-3.log",
            "journal-00000017-003.log.corrupt",
            "journal-+0000017-003.log",
            "journal-00000017-003",
            "journal-100000000-003.log",
            "journal-00000017-1000.log",
            "regfile.snapshot",
        ] {
            assert_eq!(SegmentId::from_name(other), None, "{other}");
        }
        assert_eq!(SegmentId::new(100_000_000, 0), None);
        assert_eq!(SegmentId::new(0, 1000), None);
        let last = SegmentId::new(99_999_999, 999).unwrap();
        assert_eq!(SegmentId::from_name(&last.to_string()), Some(last));
    }

    #[test]
    fn the_folder_is_listed_in_order_and_pruned_from_below() {
        let storage = MemoryStorage::new();
        for name in ["journal-00000003-000.log", "regfile.snapshot", "journal-00000002-001.log"] {
            storage.put(name, b"");
        }
        storage.put("journal-00000002-000.log", b"");
        let all = |storage: &MemoryStorage| -> Vec<_> {
            segments(storage).unwrap().iter().map(|id| (id.generation(), id.writer())).collect()
        };
        assert_eq!(all(&storage), [(2, 0), (2, 1), (3, 0)]);
        let pruned = prune(&storage, 3).unwrap();
        assert_eq!((pruned.removed, pruned.failed.len()), (2, 0));
        assert_eq!(all(&storage), [(3, 0)]);
        assert_eq!(storage.list().unwrap().len(), 2);
    }

    #[test]
    fn a_generation_is_never_given_twice() {
        let storage = MemoryStorage::new();
        assert_eq!(first_free(&storage, 0).unwrap(), Some(1));
        assert_eq!(first_free(&storage, 9).unwrap(), Some(9));
        storage.put("journal-00000011-000.log", b"");
        assert_eq!(first_free(&storage, 9).unwrap(), Some(12));
        storage.put("journal-00000040-000.log.corrupt.1", b"");
        assert_eq!(first_free(&storage, 9).unwrap(), Some(41));
        storage.put("journal-99999999-000.log", b"");
        assert_eq!(first_free(&storage, 9).unwrap(), None);
    }
}
