//! Memory for packed records: chunks of whole words, cut from pages of one size.
//!
//! A general allocator rounds a record of 150 octets to 160 or 192 and wants eight octets more to
//! point to it and eight for its length. Here a chunk is rounded to the next word and named by 32
//! bits. What a chunk was freed by one record is used for the next of its size.
//!
//! The words are atomics because that is how safe code shares memory whose lock is elsewhere: the
//! lock of the record's shard is what orders all accesses, so relaxed ones do, and those are plain
//! moves on the processors this runs on. Neither reading nor writing a chunk takes a lock of the
//! slab; only taking and freeing one does.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Octets of a word.
const WORD: usize = 8;

/// Words of a page, 256 KiB: short enough to be cleared between two datagrams.
const PAGE: usize = 1 << 15;

/// Pages there can be, 32 GiB together: as many as 32 bits can name.
const PAGES: usize = (1 << 32) / PAGE;

/// Words that chunks of one size are cut from at a time.
const SPAN: usize = 1 << 11;

/// Chunks of up to this many words, half a KiB, come in each number of words; larger ones in steps
/// of a sixteenth.
const EXACT: usize = 64;

type Page = Box<[AtomicU64; PAGE]>;

/// A chunk: where it starts, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk(pub(super) u32);

/// All chunks of all records.
#[derive(Debug)]
pub(super) struct Slab {
    pages: Box<[OnceLock<Page>]>,
    free: Mutex<Free>,
}

/// What is free.
#[derive(Debug, Default)]
struct Free {
    /// By chunk size in words.
    sizes: BTreeMap<usize, Size>,
    /// The next words that never belonged to a chunk; `next == end` where a new page is due.
    next: usize,
    end: usize,
}

/// The free chunks of one size.
#[derive(Debug, Default)]
struct Size {
    /// The chunk that was freed last; its first word names the one before, plus one.
    freed: Option<Chunk>,
    /// Words of the current span that are no chunks yet.
    next: usize,
    end: usize,
}

/// Words of the chunk that holds so many octets.
pub(super) fn words_for(octets: usize) -> usize {
    let words = octets.div_ceil(WORD).max(1);
    if words <= EXACT { words } else { words.next_multiple_of(words.next_power_of_two() / 16) }
}

impl Slab {
    /// A slab without a page.
    pub(super) fn new() -> Self {
        Self::with_room_for(PAGES)
    }

    /// A slab that gets no more than so many pages.
    pub(super) fn with_room_for(pages: usize) -> Self {
        Self { pages: (0..pages).map(|_| OnceLock::new()).collect(), free: Mutex::default() }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a chunk of `words`, a number that [`words_for`] gave. `None` if all pages are in use.
    pub(super) fn take(&self, words: usize) -> Option<Chunk> {
        let free = &mut *self.free();
        let size = free.sizes.entry(words).or_default();
        if let Some(chunk) = size.freed {
            let before = self.words(chunk, 1).first()?.load(Relaxed);
            size.freed = before.checked_sub(1).and_then(|at| u32::try_from(at).ok()).map(Chunk);
            return Some(chunk);
        }
        if size.end - size.next < words {
            // A chunk never crosses the end of a page.
            let span = (SPAN / words).max(1) * words;
            if free.end - free.next < span {
                let page = free.end / PAGE;
                let fresh: Box<[AtomicU64]> = (0..PAGE).map(|_| AtomicU64::new(0)).collect();
                self.pages.get(page)?.set(fresh.try_into().ok()?).ok()?;
                (free.next, free.end) = (page * PAGE, (page + 1) * PAGE);
            }
            (size.next, size.end) = (free.next, free.next + span);
            free.next += span;
        }
        let chunk = Chunk(u32::try_from(size.next).ok()?);
        size.next += words;
        Some(chunk)
    }

    /// Gives a chunk of `words` back.
    pub(super) fn give_back(&self, chunk: Chunk, words: usize) {
        let free = &mut *self.free();
        let size = free.sizes.entry(words).or_default();
        if let [first, ..] = self.words(chunk, words) {
            first.store(size.freed.map_or(0, |Chunk(at)| u64::from(at) + 1), Relaxed);
            size.freed = Some(chunk);
        }
    }

    /// Makes a chunk of `words` one of `to`, fewer, and gives the rest of it back in pieces: what
    /// shortens a record does so however full the slab is.
    pub(super) fn cut(&self, Chunk(at): Chunk, words: usize, to: usize) {
        let mut kept = to;
        while let Some(rest) = words.checked_sub(kept).filter(|rest| *rest > 0) {
            // Any number of words up to that is a size.
            let piece = rest.min(EXACT);
            let Some(start) = u32::try_from(kept).ok().and_then(|kept| at.checked_add(kept)) else {
                return;
            };
            self.give_back(Chunk(start), piece);
            kept += piece;
        }
    }

    /// The words of a chunk; none if it isn't one.
    fn words(&self, Chunk(at): Chunk, words: usize) -> &[AtomicU64] {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let page = self.pages.get(at / PAGE).and_then(OnceLock::get);
        page.and_then(|page| page.get(at % PAGE..)?.get(..words)).unwrap_or_default()
    }

    /// Reads what was written to a chunk last, at least, into `octets`, whose length that is.
    pub(super) fn read(&self, chunk: Chunk, octets: &mut [u8]) {
        let words = self.words(chunk, octets.len().div_ceil(WORD));
        let (whole, rest) = octets.as_chunks_mut::<WORD>();
        for (octets, word) in whole.iter_mut().zip(words) {
            *octets = word.load(Relaxed).to_le_bytes();
        }
        if let Some(word) = words.get(whole.len()) {
            let last = word.load(Relaxed).to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    /// Reads a word of each cache line that the start of a chunk is likely to be in.
    pub(super) fn touch(&self, Chunk(at): Chunk) -> u64 {
        /// Words of a cache line, and lines of a usual record.
        const LINE: u32 = 8;
        const LINES: u32 = 3;
        let line = |n| self.words(Chunk(at.saturating_add(n * LINE)), 1).first();
        (0..LINES).filter_map(line).fold(0, |all, word| all ^ word.load(Relaxed))
    }

    /// The first word, and the second.
    pub(super) fn head(&self, chunk: Chunk) -> [u64; 2] {
        match self.words(chunk, 2) {
            [first, second] => [first.load(Relaxed), second.load(Relaxed)],
            _ => [0; 2],
        }
    }

    /// Writes `octets` to a chunk that has room for them.
    pub(super) fn write(&self, chunk: Chunk, octets: &[u8]) {
        let words = self.words(chunk, octets.len().div_ceil(WORD));
        let (whole, rest) = octets.as_chunks::<WORD>();
        for (octets, word) in whole.iter().zip(words) {
            word.store(u64::from_le_bytes(*octets), Relaxed);
        }
        if let Some(word) = words.get(whole.len()) {
            let mut last = [0; WORD];
            last[..rest.len()].copy_from_slice(rest);
            word.store(u64::from_le_bytes(last), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Chunks never overlap, and hold what was written whatever happens to others.
        #[test]
        fn chunks_are_their_own(
            steps in prop::collection::vec((any::<prop::sample::Index>(), 1..3000_usize), 1..200),
        ) {
            let slab = Slab::new();
            let mut held: Vec<(Chunk, Vec<u8>)> = Vec::new();
            for (step, (which, len)) in steps.into_iter().enumerate() {
                if step % 3 == 2 && !held.is_empty() {
                    let (chunk, octets) = held.swap_remove(which.index(held.len()));
                    slab.give_back(chunk, words_for(octets.len()));
                } else {
                    let octets = vec![u8::try_from(step).unwrap() + 1; len];
                    let chunk = slab.take(words_for(len)).unwrap();
                    slab.write(chunk, &octets);
                    held.push((chunk, octets));
                }
                for (chunk, octets) in &held {
                    let mut read = vec![0; octets.len()];
                    slab.read(*chunk, &mut read);
                    prop_assert_eq!(&read, octets);
                }
            }
        }
    }

    #[test]
    fn a_freed_chunk_is_used_again() {
        let slab = Slab::new();
        let taken: Vec<_> = (0..10_000).map(|_| slab.take(19).unwrap()).collect();
        for &chunk in &taken {
            slab.give_back(chunk, 19);
        }
        let again: Vec<_> = (0..10_000).map(|_| slab.take(19).unwrap()).collect();
        assert!(again.iter().eq(taken.iter().rev()));
    }

    #[test]
    fn a_chunk_that_was_cut_leaves_the_rest_to_others() {
        let slab = Slab::with_room_for(1);
        let size = words_for(3 * EXACT * WORD);
        let chunk = slab.take(size).unwrap();
        while slab.take(size).is_some() {}
        while slab.take(EXACT).is_some() {}
        while slab.take(10).is_some() {}
        slab.write(chunk, &[7; 80]);
        slab.cut(chunk, size, 10);
        let rest = [slab.take(EXACT), slab.take(EXACT), slab.take(size - 10 - 2 * EXACT)];
        for piece in rest {
            slab.write(piece.unwrap(), &[1; 8]);
        }
        let mut kept = [0; 80];
        slab.read(chunk, &mut kept);
        assert_eq!(kept, [7; 80]);
        assert_eq!((slab.take(EXACT), slab.take(size)), (None, None), "nothing is there twice");
    }

    #[test]
    fn a_chunk_has_room_for_its_octets_and_little_more() {
        for octets in 0..70_000 {
            let words = words_for(octets);
            assert!(words * WORD >= octets && words <= PAGE);
            assert_eq!(words_for(words * WORD), words, "a size is its own");
            assert!(words * WORD <= (octets + octets / 8).max(octets + 8));
        }
    }
}
