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

    /// What has become of a call that was reserved.
    pub fn note(&self, call: &Call) {
        if call.stage == Stage::Ended {
            self.calls.remove(&call.id);
            [&call.from_aor, &call.to_aor].into_iter().flatten().for_each(|aor| self.release(aor));
        } else {
            self.calls.insert(call.id, call.clone());
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
    use crate::proxy::End;

    fn call(id: u64, stage: Stage) -> Call {
        Call {
            id,
            call_id: (*b"c").into(),
            caller: (*b"a").into(),
            called: (*b"b").into(),
            username: None,
            from_aor: Some((*b"a").into()),
            to_aor: Some((*b"b").into()),
            source: ([192, 0, 2, 1], 5060).into(),
            target: None,
            stage,
            began: 1,
            rang: None,
            answered: None,
            ended: (stage == Stage::Ended).then_some((2, End::Bye)),
        }
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
}
