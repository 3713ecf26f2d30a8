//! The calls in progress of all workers, as everybody else sees them, and how many each user has.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use dashmap::{DashMap, mapref::entry::Entry};

use crate::proxy::{Call, Stage};

/// All calls in progress.
#[derive(Debug)]
pub struct CallBook {
    calls: DashMap<u64, Call>,
    /// How many calls each AoR of ours has, as caller or callee.
    in_use: DashMap<Box<[u8]>, u32>,
    /// How many transactions each worker has open.
    transactions: Box<[CachePadded<AtomicU64>]>,
}

/// A user has as many calls as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

impl CallBook {
    /// An empty book for so many workers.
    pub fn new(workers: usize) -> Self {
        let transactions = (0..workers).map(|_| CachePadded::default()).collect();
        Self { calls: DashMap::new(), in_use: DashMap::new(), transactions }
    }

    /// A call of these AoRs is about to begin; each may have `max`, or any number if that is zero.
    ///
    /// # Errors
    /// One has as many as it may; then neither is counted.
    pub fn reserve(&self, aors: &[Option<&[u8]>], max: u32) -> Result<(), InUse> {
        for (at, aor) in aors.iter().enumerate() {
            let Some(aor) = aor else { continue };
            let mut count = self.in_use.entry((*aor).into()).or_insert(0);
            if max > 0 && *count >= max {
                drop(count);
                aors.iter().take(at).flatten().for_each(|aor| self.release(aor));
                return Err(InUse);
            }
            *count += 1;
        }
        Ok(())
    }

    /// A call of this AoR is over.
    fn release(&self, aor: &[u8]) {
        if let Entry::Occupied(mut count) = self.in_use.entry(aor.into()) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether an AoR has `max` calls or more; never if that is zero.
    pub fn is_full(&self, aor: &[u8], max: u32) -> bool {
        max > 0 && self.in_use(aor) >= max
    }

    /// A call that was reserved does not begin.
    pub fn give_back(&self, aors: &[Option<&[u8]>]) {
        aors.iter().flatten().for_each(|aor| self.release(aor));
    }

    /// What has become of a call that was reserved, or that was refused without ever being.
    pub fn note(&self, call: &Call) {
        if call.stage == Stage::Ended {
            if let Some((_, call)) = self.calls.remove(&call.id) {
                self.give_back(&[call.parties.from_aor.as_deref(), call.to_aor.as_deref()]);
            }
            return;
        }
        let Some(before) = self.calls.insert(call.id, call.clone()) else { return };
        // A phone of somebody else has answered.
        if before.to_aor != call.to_aor {
            if let Some(aor) = &call.to_aor {
                *self.in_use.entry((**aor).into()).or_insert(0) += 1;
            }
            self.give_back(&[before.to_aor.as_deref()]);
        }
    }

    /// Calls with numbers from `first` on, in order, at most `most`.
    pub fn list(&self, first: u64, most: usize) -> Vec<Call> {
        let mut ids: Vec<u64> =
            self.calls.iter().map(|call| *call.key()).filter(|id| *id >= first).collect();
        ids.sort_unstable();
        ids.truncate(most);
        ids.iter().filter_map(|id| self.calls.get(id).map(|call| call.clone())).collect()
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many calls an AoR has.
    pub fn in_use(&self, aor: &[u8]) -> u32 {
        self.in_use.get(aor).map_or(0, |count| *count)
    }

    /// A worker has so many transactions open.
    pub fn set_transactions(&self, worker: usize, open: usize) {
        if let Some(cell) = self.transactions.get(worker) {
            cell.store(open as u64, Ordering::Relaxed);
        }
    }

    /// How many transactions are open.
    pub fn transactions(&self) -> u64 {
        self.transactions.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::{End, Parties},
        time::Now,
    };

    fn call(id: u64, stage: Stage) -> Call {
        let parties = Parties {
            call_id: (*b"c").into(),
            caller: (*b"a").into(),
            called: (*b"b").into(),
            username: None,
            from_aor: Some((*b"a").into()),
            source: ([192, 0, 2, 1], 5060).into(),
        };
        let now = Now { millis: 1, unix: 1 };
        let ended = (stage == Stage::Ended).then_some((2, End::Bye));
        Call { id, stage, ended, ..Call::new(now, parties.into(), Some((*b"b").into())) }
    }

    #[test]
    fn who_has_as_many_calls_as_it_may_gets_no_more() {
        let book = CallBook::new(1);
        let (a, b, c) = (Some(&b"a"[..]), Some(&b"b"[..]), Some(&b"c"[..]));
        assert_eq!(book.reserve(&[a, b], 1), Ok(()));
        assert_eq!(book.reserve(&[c, a], 1), Err(InUse));
        assert_eq!((book.in_use(b"a"), book.in_use(b"c")), (1, 0));
        assert_eq!(book.reserve(&[c, a], 0), Ok(()));
        assert_eq!(book.in_use(b"a"), 2);
        book.note(&call(1, Stage::Calling));
        book.note(&call(1, Stage::Answered));
        assert_eq!((book.len(), book.list(0, 9)[0].stage), (1, Stage::Answered));
        book.note(&call(1, Stage::Ended));
        assert_eq!((book.len(), book.in_use(b"a"), book.in_use(b"b")), (0, 1, 0));
    }

    #[test]
    fn a_call_counts_for_who_answers_it() {
        let book = CallBook::new(1);
        let (a, b) = (Some(&b"a"[..]), Some(&b"b"[..]));
        assert_eq!(book.reserve(&[a, b], 1), Ok(()));
        book.note(&call(1, Stage::Calling));
        assert!(book.is_full(b"b", 1) && !book.is_full(b"b", 0) && !book.is_full(b"c", 1));
        book.note(&Call { to_aor: Some((*b"c").into()), ..call(1, Stage::Answered) });
        assert_eq!([b"a", b"b", b"c"].map(|aor| book.in_use(aor)), [1, 0, 1]);
        // Whatever the last event says.
        book.note(&call(1, Stage::Ended));
        assert_eq!([b"a", b"b", b"c"].map(|aor| book.in_use(aor)), [0, 0, 0]);
    }

    #[test]
    fn a_call_that_never_began_counts_for_nobody() {
        let book = CallBook::new(1);
        assert_eq!(book.reserve(&[Some(b"a"), None], 0), Ok(()));
        book.note(&call(7, Stage::Ended));
        assert_eq!(book.in_use(b"a"), 1);
        book.give_back(&[Some(b"a"), None]);
        assert_eq!((book.in_use(b"a"), book.len()), (0, 0));
    }
}
