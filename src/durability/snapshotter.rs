//! Writing snapshots while traffic flows.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use persist::{
    error::WriteError,
    snapshot::{General, Generations},
};

use super::convert::{Pairs, section};
use crate::{
    location::Location,
    registrar::AorRecord,
    time::{Clock, SystemClock},
};

/// A snapshot that was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// When it was begun, in Unix seconds.
    pub unix: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// AoRs in it.
    pub aors: u64,
    /// Bindings in it.
    pub bindings: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// How snapshots have gone.
#[derive(Debug, Default)]
pub struct SnapshotStatus {
    last: Mutex<(Option<Taken>, Option<String>)>,
    taken: AtomicU64,
    failed: AtomicU64,
}

impl SnapshotStatus {
    /// The last that succeeded.
    pub fn last(&self) -> Option<Taken> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Why the last one failed; `None` if it succeeded.
    pub fn error(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// How many succeeded.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn note(&self, result: &Result<Taken, String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(taken) => {
                *last = (Some(*taken), None);
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                last.1 = Some(error.clone());
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Asks the snapshotter for one now; the answer comes back when it is on disk.
pub type Request = Sender<Result<Taken, String>>;

/// The thread that writes snapshots: every so often, when asked, and a last one at the end.
pub struct Snapshotter {
    generations: Generations,
    location: Arc<Location>,
    listeners: Arc<[Box<str>]>,
    clock: Arc<SystemClock>,
    status: Arc<SnapshotStatus>,
    interval: Duration,
    requests: Receiver<Request>,
    /// [`Location::changes`] before the last snapshot.
    covered: Option<u64>,
}

impl Snapshotter {
    /// A snapshotter, and where to ask it for a snapshot. It ends, after a last snapshot, when
    /// every sender is gone.
    pub fn new(
        generations: Generations,
        location: Arc<Location>,
        listeners: Arc<[Box<str>]>,
        clock: Arc<SystemClock>,
        status: Arc<SnapshotStatus>,
        interval: Duration,
    ) -> (Self, Sender<Request>) {
        // One waiting request is as good as many: they are answered by the same snapshot.
        let (sender, requests) = bounded(1);
        let covered = None;
        let snapshotter =
            Self { generations, location, listeners, clock, status, interval, requests, covered };
        (snapshotter, sender)
    }

    /// Writes snapshots until every sender is gone; the result is that of the last one.
    ///
    /// # Errors
    /// Why the last one failed.
    pub fn run(mut self) -> Result<Taken, String> {
        loop {
            match self.requests.recv_timeout(self.interval) {
                Ok(request) => {
                    let result = self.take();
                    // Who asked may have gone meanwhile.
                    let _ = request.send(result);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.covered != Some(self.location.changes()) {
                        // Why it failed is in the log and in the status.
                        let _ = self.take();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return self.take(),
            }
        }
    }

    /// Takes one snapshot.
    fn take(&mut self) -> Result<Taken, String> {
        let result = self.write().map_err(|error| error.to_string());
        self.status.note(&result);
        match &result {
            Ok(Taken { aors, bindings, bytes, millis, .. }) => {
                tracing::debug!(aors, bindings, bytes, millis, "took a snapshot");
            }
            Err(error) => {
                tracing::error!(error, "can't save registrations; going on from memory");
            }
        }
        result
    }

    fn write(&mut self) -> Result<Taken, WriteError> {
        let started = self.clock.now();
        // Read first: what changes from here on may or may not be in it.
        let (changes, sequence) = (self.location.changes(), self.location.sequence());
        let general = General { sequence, written: started.unix, journal: None };
        let mut writer = self.generations.begin(general)?;
        let mut part = Vec::new();
        let mut ends = Vec::new();
        let (mut pairs, mut aors) = (Pairs::default(), 0);
        for number in 0..Location::PARTS {
            // Records are copied while their shard is locked, and written after that.
            part.clear();
            ends.clear();
            self.location.scan(number, None, |_, record| {
                part.extend_from_slice(record.as_bytes());
                ends.push(part.len());
                true
            });
            let now = self.clock.now();
            let mut start = 0;
            for &end in &ends {
                let record = part.get(start..end).and_then(AorRecord::new);
                start = end;
                if let Some(record) = record
                    && let Some(bindings) = section(&record, now, &self.listeners, &mut pairs)
                {
                    writer.section(record.aor(), bindings, pairs.iter())?;
                    aors += u64::from(bindings > 0);
                }
            }
        }
        let summary = writer.finish()?;
        self.covered = Some(changes);
        Ok(Taken {
            unix: started.unix,
            millis: self.clock.now().millis - started.millis,
            aors,
            bindings: summary.bindings,
            bytes: summary.bytes,
        })
    }
}
