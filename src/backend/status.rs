//! How the back ends do, for whoever asks.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
};

use super::{hook::Counts, message::MessageName};

/// A query of a back end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct QueryLabels {
    /// The account.
    pub backend: String,
    /// The message that it is for; of name servers, the type of the records.
    pub query: &'static str,
}

/// Queries of one kind, for those who want no histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many.
    pub count: u64,
    /// How long all of them took together.
    pub time: Duration,
}

/// What became of a record of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A handler has it.
    Written,
    /// A handler can't take it: it is in a file for the operator.
    Refused,
    /// It is gone.
    Lost,
}

impl Kept {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Written, Self::Refused, Self::Lost];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// Bounds in seconds: from what a query takes on the same machine to a timeout.
fn seconds() -> Histogram {
    Histogram::new([0.000_25, 0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0])
}

/// Numbers and faults that everybody may read.
#[derive(Debug)]
pub struct Status {
    faults: Mutex<Vec<String>>,
    behind: AtomicU64,
    is_preloading: AtomicBool,
    failures: [AtomicU64; MessageName::ALL.len()],
    queries: Family<QueryLabels, Histogram, fn() -> Histogram>,
    asked: Mutex<BTreeMap<QueryLabels, Asked>>,
    garbage: Mutex<BTreeMap<QueryLabels, u64>>,
    records: [AtomicU64; Kept::ALL.len()],
    spooled: AtomicU64,
    hooks: Counts,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            faults: Mutex::default(),
            behind: AtomicU64::new(0),
            is_preloading: AtomicBool::new(false),
            failures: Default::default(),
            queries: Family::new_with_constructor(seconds),
            asked: Mutex::default(),
            garbage: Mutex::default(),
            records: Default::default(),
            spooled: AtomicU64::new(0),
            hooks: Counts::default(),
        }
    }
}

impl Status {
    /// What keeps handlers from saying anything.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_faults(&self, faults: Vec<String>) {
        let mut old = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if *old == faults {
            return;
        }
        for fault in faults.iter().filter(|fault| !old.contains(fault)) {
            tracing::error!("{fault}");
        }
        for fault in old.iter().filter(|fault| !faults.contains(fault)) {
            tracing::info!("no longer: {fault}");
        }
        *old = faults;
    }

    /// What keeps the back ends from being ready.
    pub fn reason(&self) -> Option<String> {
        let faults = self.faults();
        if !faults.is_empty() {
            return Some(faults.join("; "));
        }
        self.is_preloading().then(|| "loading accounts".to_owned())
    }

    /// Whether accounts are still being loaded.
    pub fn is_preloading(&self) -> bool {
        self.is_preloading.load(Ordering::Relaxed)
    }

    pub(super) fn set_preloading(&self, preloading: bool) {
        self.is_preloading.store(preloading, Ordering::Relaxed);
    }

    /// AoRs of which handlers are yet to be told.
    pub fn behind(&self) -> u64 {
        self.behind.load(Ordering::Relaxed)
    }

    pub(super) fn set_behind(&self, aors: usize) {
        self.behind.store(aors as u64, Ordering::Relaxed);
    }

    /// Messages of each name that nobody could handle, though somebody should have.
    pub fn failures(&self) -> impl Iterator<Item = (MessageName, u64)> + '_ {
        let count = |failures: &AtomicU64| failures.load(Ordering::Relaxed);
        MessageName::ALL.into_iter().zip(self.failures.iter().map(count))
    }

    pub(super) fn failed(&self, name: MessageName) {
        self.failures[name as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers of handlers that mean nothing, by handler and message.
    pub fn garbages(&self) -> Vec<(QueryLabels, u64)> {
        let garbage = self.garbage.lock().unwrap_or_else(PoisonError::into_inner);
        garbage.iter().map(|(labels, count)| (labels.clone(), *count)).collect()
    }

    pub(super) fn garbage(&self, backend: &str, name: MessageName) {
        let labels = QueryLabels { backend: backend.to_owned(), query: name.as_str() };
        let mut garbage = self.garbage.lock().unwrap_or_else(PoisonError::into_inner);
        *garbage.entry(labels).or_default() += 1;
    }

    /// What became of records of calls, counted once for each handler.
    pub fn records(&self) -> impl Iterator<Item = (Kept, u64)> + '_ {
        let count = |records: &AtomicU64| records.load(Ordering::Relaxed);
        Kept::ALL.into_iter().zip(self.records.iter().map(count))
    }

    pub(super) fn record(&self, kept: Kept) {
        self.records[kept as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Records of calls that wait for handlers, counted once for each.
    pub fn spooled(&self) -> u64 {
        self.spooled.load(Ordering::Relaxed)
    }

    /// One of the handlers' counts has changed.
    pub(super) fn set_spooled(&self, before: u64, now: u64) {
        // Only the back ends' thread writes.
        let others = self.spooled.load(Ordering::Relaxed).saturating_sub(before);
        self.spooled.store(others.saturating_add(now), Ordering::Relaxed);
    }

    /// How hooks do.
    pub fn hooks(&self) -> &Counts {
        &self.hooks
    }

    /// How long queries took.
    pub fn queries(&self) -> &Family<QueryLabels, Histogram, fn() -> Histogram> {
        &self.queries
    }

    /// The same in short, as the histograms can't be read again.
    pub fn asked(&self) -> Vec<(QueryLabels, Asked)> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().map(|(labels, asked)| (labels.clone(), *asked)).collect()
    }

    pub(super) fn took(&self, backend: &str, name: MessageName, time: Duration) {
        self.took_for(backend, name.as_str(), time);
    }

    /// The same for what is no message: records of name servers.
    pub(super) fn took_for(&self, backend: &str, query: &'static str, time: Duration) {
        let labels = QueryLabels { backend: backend.to_owned(), query };
        self.queries.get_or_create(&labels).observe(time.as_secs_f64());
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = all.entry(labels).or_default();
        asked.count += 1;
        asked.time += time;
    }
}
