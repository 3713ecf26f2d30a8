//! The calls in progress of all workers, as everybody else sees them, and how many each user has.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam::utils::CachePadded;
use dashmap::{DashMap, mapref::entry::Entry};

use crate::{
    proxy::{Call, End, Probed, Stage},
    time::Now,
};

/// All calls in progress.
#[derive(Debug)]
pub struct CallBook {
    calls: DashMap<u64, Call>,
    /// How many calls each AoR of ours has, as caller or callee.
    in_use: DashMap<Box<[u8]>, u32>,
    /// What each worker counts.
    workers: Box<[CachePadded<Cells>]>,
    /// How many calls had begun at each second of the last minute, with the milliseconds of the
    /// monotonic clock then; the control plane's.
    minute: Mutex<VecDeque<(u64, u64)>>,
}

/// Seconds that [`CallBook::per_second`] looks back.
const MINUTE: usize = 60;

/// One worker's numbers. Only it writes them.
#[derive(Debug, Default)]
struct Cells {
    /// Transactions that are open.
    transactions: AtomicU64,
    /// Calls that have begun.
    begun: AtomicU64,
    /// Calls that have ended, by [`CallResult`].
    ended: [AtomicU64; CallResult::ALL.len()],
    /// Probes that were sent, and what became of them, by [`Probed`].
    probed: [AtomicU64; Probed::ALL.len()],
}

/// Adds one: a load and a store, not a locked addition.
fn bump(cell: &AtomicU64) {
    add(cell, 1);
}

fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// How a call ended, for who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// It was answered, and a party hung up.
    Completed,
    /// The caller gave up before.
    Cancelled,
    /// Nobody answered: 408, 480.
    Unanswered,
    /// 486, 600.
    Busy,
    /// 300 to 399.
    Redirected,
    /// Another code from 400 to 499 or from 600 on.
    Refused,
    /// 500 to 599.
    Failed,
    /// It was answered, and no party was heard of any more.
    Dead,
    /// It was answered, and a party that was asked does not have it any more.
    Vanished,
}

impl CallResult {
    /// All results.
    pub const ALL: [Self; 9] = [
        Self::Completed,
        Self::Cancelled,
        Self::Unanswered,
        Self::Busy,
        Self::Redirected,
        Self::Refused,
        Self::Failed,
        Self::Dead,
        Self::Vanished,
    ];

    /// The value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Unanswered => "unanswered",
            Self::Busy => "busy",
            Self::Redirected => "redirected",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Vanished => "vanished",
        }
    }
}

impl From<End> for CallResult {
    fn from(end: End) -> Self {
        match end {
            End::Bye => Self::Completed,
            End::Cancelled | End::Refused(487) => Self::Cancelled,
            End::Dead => Self::Dead,
            End::Vanished => Self::Vanished,
            End::Refused(408 | 480) => Self::Unanswered,
            End::Refused(486 | 600) => Self::Busy,
            End::Refused(300..=399) => Self::Redirected,
            End::Refused(500..=599) => Self::Failed,
            End::Refused(_) => Self::Refused,
        }
    }
}

/// A user has as many calls as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

impl CallBook {
    /// An empty book for so many workers.
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| CachePadded::default()).collect();
        let minute = Mutex::default();
        Self { calls: DashMap::new(), in_use: DashMap::new(), workers, minute }
    }

    /// A call of these AoRs is about to begin; each may have `max`, or any number if that is zero.
    /// If nothing comes of it, dropping the reservation gives it back.
    ///
    /// # Errors
    /// One has as many as it may; then neither is counted.
    pub fn reserve<'r>(
        &'r self,
        aors: [Option<&'r [u8]>; 2],
        max: u32,
    ) -> Result<Reservation<'r>, InUse> {
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
        Ok(Reservation { book: self, aors })
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

    /// These have a call less.
    fn give_back(&self, aors: &[Option<&[u8]>]) {
        aors.iter().flatten().for_each(|aor| self.release(aor));
    }

    /// What has become of a call of this worker that was reserved, or that was refused without ever
    /// being: such a one counts as none.
    pub fn note(&self, worker: usize, call: &Call) {
        let (cells, ended) = (self.workers.get(worker), call.ended);
        if call.stage == Stage::Ended {
            if let Some((_, call)) = self.calls.remove(&call.id) {
                if let (Some(cells), Some((_, why))) = (cells, ended) {
                    bump(&cells.ended[CallResult::from(why) as usize]);
                }
                self.give_back(&[call.parties.from_aor.as_deref(), call.to_aor.as_deref()]);
            }
            return;
        }
        let Some(before) = self.calls.insert(call.id, call.clone()) else {
            cells.map(|cells| &cells.begun).map(bump);
            return;
        };
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
        if let Some(cells) = self.workers.get(worker) {
            cells.transactions.store(open as u64, Ordering::Relaxed);
        }
    }

    /// A worker has probed calls: how often, and what became of it, in the order of [`Probed::ALL`].
    pub fn note_probes(&self, worker: usize, counts: [u64; Probed::ALL.len()]) {
        let Some(cells) = self.workers.get(worker) else { return };
        for (cell, count) in cells.probed.iter().zip(counts).filter(|(_, count)| *count > 0) {
            add(cell, count);
        }
    }

    /// How many probes were sent, or became of so.
    pub fn probed(&self, what: Probed) -> u64 {
        let cells = self.workers.iter().map(|cells| &cells.probed[what as usize]);
        cells.map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    /// How many transactions are open.
    pub fn transactions(&self) -> u64 {
        self.workers.iter().map(|cells| cells.transactions.load(Ordering::Relaxed)).sum()
    }

    /// How many calls have begun.
    pub fn begun(&self) -> u64 {
        self.workers.iter().map(|cells| cells.begun.load(Ordering::Relaxed)).sum()
    }

    /// A second has passed.
    pub fn tick(&self, now: Now) {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        minute.push_back((now.millis, self.begun()));
        if minute.len() > MINUTE + 1 {
            minute.pop_front();
        }
    }

    /// How many calls have begun each second of the last minute, or since the start.
    pub fn per_second(&self) -> f64 {
        let minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(first), Some(last)) = (minute.front(), minute.back()) else { return 0.0 };
        let millis = last.0.saturating_sub(first.0).max(1);
        #[expect(clippy::cast_precision_loss, reason = "neither comes near 2^53")]
        let rate = last.1.saturating_sub(first.1) as f64 * 1000.0 / millis as f64;
        rate
    }

    /// How many calls have ended so.
    pub fn ended(&self, result: CallResult) -> u64 {
        let cells = self.workers.iter().map(|cells| &cells.ended[result as usize]);
        cells.map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

/// Calls that are counted, but have not begun.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub struct Reservation<'r> {
    book: &'r CallBook,
    aors: [Option<&'r [u8]>; 2],
}

impl Reservation<'_> {
    /// The call has begun: from now on [`CallBook::note`] tells of it.
    pub fn keep(mut self) {
        self.aors = [None; 2];
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.book.give_back(&self.aors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Parties;

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
        book.reserve([a, b], 1).unwrap().keep();
        assert!(book.reserve([c, a], 1).is_err());
        assert_eq!((book.in_use(b"a"), book.in_use(b"c")), (1, 0));
        book.reserve([c, a], 0).unwrap().keep();
        assert_eq!(book.in_use(b"a"), 2);
        book.note(0, &call(1, Stage::Calling));
        book.note(0, &call(1, Stage::Answered));
        assert_eq!((book.len(), book.list(0, 9)[0].stage), (1, Stage::Answered));
        book.note(0, &call(1, Stage::Ended));
        assert_eq!((book.len(), book.in_use(b"a"), book.in_use(b"b")), (0, 1, 0));
        assert_eq!((book.begun(), book.ended(CallResult::Completed)), (1, 1));
        assert_eq!(book.ended(CallResult::Dead), 0);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let book = CallBook::new(2);
        let tick = |second: u64| book.tick(Now { millis: second * 1000, unix: second });
        assert_eq!(book.per_second(), 0.0);
        for second in 0..100 {
            tick(second);
            if second < 50 {
                book.note(1, &call(second, Stage::Calling));
                book.note(0, &call(1000 + second, Stage::Calling));
            }
        }
        // From 39 to 99, with two calls a second until 49.
        assert_eq!(book.per_second(), 22.0 / 60.0);
    }

    #[test]
    fn results_stand_where_they_count() {
        for (at, result) in CallResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at, "{}", result.label());
        }
        let ends = [(302, "redirected"), (404, "refused"), (480, "unanswered"), (486, "busy")];
        for (code, label) in ends.into_iter().chain([(503, "failed"), (603, "refused")]) {
            assert_eq!(CallResult::from(End::Refused(code)).label(), label);
        }
    }

    #[test]
    fn a_call_counts_for_who_answers_it() {
        let book = CallBook::new(1);
        let (a, b) = (Some(&b"a"[..]), Some(&b"b"[..]));
        book.reserve([a, b], 1).unwrap().keep();
        book.note(0, &call(1, Stage::Calling));
        assert!(book.is_full(b"b", 1) && !book.is_full(b"b", 0) && !book.is_full(b"c", 1));
        book.note(0, &Call { to_aor: Some((*b"c").into()), ..call(1, Stage::Answered) });
        assert_eq!([b"a", b"b", b"c"].map(|aor| book.in_use(aor)), [1, 0, 1]);
        // Whatever the last event says.
        book.note(0, &call(1, Stage::Ended));
        assert_eq!([b"a", b"b", b"c"].map(|aor| book.in_use(aor)), [0, 0, 0]);
    }

    #[test]
    fn a_call_that_never_began_counts_for_nobody() {
        let book = CallBook::new(1);
        let reserved = book.reserve([Some(b"a"), None], 0).unwrap();
        book.note(0, &call(7, Stage::Ended));
        assert_eq!(book.in_use(b"a"), 1);
        drop(reserved);
        assert_eq!((book.in_use(b"a"), book.len()), (0, 0));
    }
}
