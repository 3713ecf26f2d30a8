//! Segments that are not there, or have lost all they had.

use super::{HEAD_LEN, Segment, SegmentId};

/// A segment of which nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub id: SegmentId,
    /// Whether its file is there, and holds nothing.
    pub is_empty: bool,
}

/// Finds the segments that must have been there, given those that were read, in any order, and what
/// a snapshot says: the generation of its `journal=`, and how many writers that had. Of generations
/// that are missing one after the other, the first is named.
///
/// All segments of a generation are begun, heads and names synced, before anything is written to
/// any of them. So where one has a frame, the others have a head at least; and no generation is
/// left out. Of a generation in which nothing was written, whatever is missing was never begun.
pub fn missing(read: &[Segment], snapshot: Option<(u32, u16)>) -> Vec<Missing> {
    let first = snapshot.map_or(0, |(first, _)| first.max(1));
    let mut read: Vec<&Segment> = read.iter().filter(|s| s.id.generation() >= first).collect();
    read.sort_unstable_by_key(|segment| segment.id);
    let mut missing = Vec::new();
    let mut absent = |generation: u32, writers: std::ops::Range<u16>, of: &[&Segment]| {
        let ids = writers.filter_map(|writer| SegmentId::new(generation, writer));
        let is_absent = |id: &SegmentId| of.iter().all(|segment| segment.id != *id);
        missing.extend(ids.filter(is_absent).map(|id| Missing { id, is_empty: false }));
    };
    let mut next = snapshot.map(|_| first);
    if let Some((_, writers)) = snapshot.filter(|(_, writers)| *writers > 0) {
        let end = read.partition_point(|segment| segment.id.generation() == first);
        absent(first, 0..writers, read.get(..end).unwrap_or_default());
        next = if end == 0 { Some(first + 1) } else { next };
    }
    for of in read.chunk_by(|a, b| a.id.generation() == b.id.generation()) {
        let Some(generation) = of.first().map(|segment| segment.id.generation()) else { continue };
        if let Some(gone) = next.filter(|next| *next < generation) {
            absent(gone, 0..1, &[]);
        }
        next = Some(generation + 1);
        if of.iter().any(|segment| segment.frames > 0) {
            let writers = of.iter().map(|segment| segment.writers).max().unwrap_or(0);
            absent(generation, 0..writers, of);
        }
    }
    for of in read.chunk_by(|a, b| a.id.generation() == b.id.generation()) {
        if of.iter().any(|segment| segment.frames > 0) {
            let empty = of.iter().filter(|segment| segment.is_empty());
            missing.extend(empty.map(|segment| Missing { id: segment.id, is_empty: true }));
        }
    }
    missing.sort_unstable_by_key(|missing| missing.id);
    missing.dedup();
    missing
}

impl Segment {
    /// Whether there is not even a head.
    fn is_empty(&self) -> bool {
        self.begun.is_none() && self.frames == 0 && self.bytes <= HEAD_LEN as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Writer, read};
    use crate::storage::{Storage, memory::MemoryStorage};

    /// What is missing of three generations of two writers, the second with a record of writer 1,
    /// after `change` to the folder.
    fn found(first: u32, writers: u16, change: impl FnOnce(&MemoryStorage)) -> Vec<(String, bool)> {
        let storage = MemoryStorage::new();
        for generation in 1..=3 {
            let mut made = Writer::create_all(&storage, generation, 2, 7).unwrap();
            if generation == 2 {
                made[1].record(|out| out.push(1)).unwrap();
                made[1].write().unwrap();
            }
        }
        change(&storage);
        let ids = crate::journal::segments(&storage).unwrap();
        let read: Vec<_> = ids.iter().map(|id| read(&storage, *id, |_| ()).unwrap()).collect();
        let missing = missing(&read, Some((first, writers)));
        missing.iter().map(|m| (m.id.to_string(), m.is_empty)).collect()
    }

    fn gone(name: &str, is_empty: bool) -> Vec<(String, bool)> {
        vec![(name.to_owned(), is_empty)]
    }

    #[test]
    fn what_was_begun_with_others_is_missed() {
        assert_eq!(found(1, 2, |_| ()), []);
        let name = "journal-00000002-000.log";
        assert_eq!(found(1, 2, |s| s.remove(name).unwrap()), gone(name, false));
        assert_eq!(found(1, 2, |s| s.put(name, b"")), gone(name, true));
        assert_eq!(found(1, 2, |s| s.put(name, b"BINDJRNL")), gone(name, true));
        assert_eq!(found(3, 2, |s| s.put(name, b"")), [], "the snapshot has it");
    }

    #[test]
    fn what_the_snapshot_names_is_missed() {
        let name = "journal-00000001-001.log";
        assert_eq!(found(1, 2, |s| s.remove(name).unwrap()), gone(name, false));
        assert_eq!(found(1, 0, |s| s.remove(name).unwrap()), [], "nothing was written there");
        let all = found(4, 2, |_| ());
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(found(4, 0, |_| ()), [], "none was begun");
    }

    #[test]
    fn a_generation_is_missed() {
        let all = found(1, 0, |s| {
            s.remove("journal-00000002-000.log").unwrap();
            s.remove("journal-00000002-001.log").unwrap();
        });
        assert_eq!(all, gone("journal-00000002-000.log", false));
    }

    #[test]
    fn what_was_never_written_is_not_missed() {
        assert_eq!(found(1, 0, |s| s.put("journal-00000003-001.log", b"")), []);
    }
}
