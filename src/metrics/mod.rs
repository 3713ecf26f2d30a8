//! Metrics: what the workers count, summed when somebody asks, as OpenMetrics text.
//!
//! The data plane only bumps its own cells; everything here runs in the thread that is asked.

mod cpu;
mod openmetrics;
mod totals;

use std::sync::Arc;

use crate::{
    backend::Status,
    calls::CallResult,
    control::Node,
    durability::{JournalCounts, Taken},
    flow::Transport,
    proxy::Probed,
    registrar::agent_places_taken,
    time::{Clock, Now},
};

pub use self::{
    cpu::WorkerCpu,
    openmetrics::{CONTENT_TYPE, encode},
    totals::Totals,
};

/// All that a node can say of itself in numbers, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What the workers have counted.
    pub totals: Totals,
    /// The listeners.
    pub listeners: Vec<ListenerSample>,
    /// Bindings by transport, in the order of [`Transport::ALL`].
    pub bindings: [u64; Transport::ALL.len()],
    /// AoRs with a binding.
    pub aors: u64,
    /// Bindings that ended by themselves.
    pub expirations: u64,
    /// Accounts.
    pub users: u64,
    /// User-Agents that are kept once for all bindings, of [`AGENT_PLACES`](crate::registrar::AGENT_PLACES).
    pub user_agents: u64,
    /// The last snapshot that was written.
    pub snapshot: Option<Taken>,
    /// Snapshots that could not be written.
    pub snapshot_failures: u64,
    /// What was written to the journal, and whether all that was acknowledged is on disk; `None`
    /// without a journal.
    pub journal: Option<(JournalCounts, bool)>,
    /// Requests that wait for back ends.
    pub parked: u64,
    /// Accounts that back ends told of, kept for a while; `None` where none are.
    pub cached: Option<u64>,
    /// Calls in progress.
    pub calls: u64,
    /// Calls that have begun.
    pub calls_begun: u64,
    /// Calls that have ended, in the order of [`CallResult::ALL`].
    pub calls_ended: [u64; CallResult::ALL.len()],
    /// Probes of calls that were sent, and what became of them, in the order of [`Probed::ALL`].
    pub probed: [u64; Probed::ALL.len()],
    /// Transactions of requests that are passed on, which have not ended.
    pub transactions: u64,
    /// How the back ends do.
    pub backends: Arc<Status>,
    /// Whether what was saved has been read.
    pub is_restored: bool,
    /// Files, sections and changes of what was saved that are damaged or missing.
    pub damaged: u64,
    /// When the process began, in Unix seconds.
    pub started: u64,
    /// How long ago that is, in milliseconds.
    pub uptime_millis: u64,
    /// CPU time of the workers' threads.
    pub workers: Vec<WorkerCpu>,
}

/// A listener's numbers.
#[derive(Clone, Debug)]
pub struct ListenerSample {
    /// Its name.
    pub name: Box<str>,
    /// Its transport.
    pub transport: Transport,
    /// Datagrams that the kernel dropped because a worker did not keep up.
    pub drops: u64,
}

impl Sample {
    /// The numbers of a node as they are now. It reads a few small files of `/proc`.
    pub fn of(node: &Node) -> Self {
        let now = node.clock.now();
        let listeners = node.listeners.iter().map(|listener| ListenerSample {
            name: listener.name.clone(),
            transport: listener.transport,
            drops: listener.drops(),
        });
        Self {
            totals: Totals::of(&node.counters),
            listeners: listeners.collect(),
            bindings: Transport::ALL.map(|transport| node.location.bindings_by(transport)),
            aors: node.location.aors(),
            expirations: node.expired(),
            users: node.rules.load().subscribers.len() as u64,
            user_agents: agent_places_taken() as u64,
            snapshot: node.snapshots.last(),
            snapshot_failures: node.snapshots.failed(),
            journal: node.journal.as_ref().map(|j| (j.counts(), !j.is_behind())),
            parked: node.questions.waiting(),
            cached: node.rules.load().elsewhere.fetched.as_ref().map(|c| c.len() as u64),
            calls: node.calls.len() as u64,
            calls_begun: node.calls.begun(),
            calls_ended: CallResult::ALL.map(|result| node.calls.ended(result)),
            probed: Probed::ALL.map(|what| node.calls.probed(what)),
            transactions: node.calls.transactions(),
            backends: Arc::clone(&node.backends),
            is_restored: !node.location.is_loading(),
            damaged: node.restored.get().map_or(0, |r| r.damaged + r.unreadable),
            started: node.started().unix,
            uptime_millis: uptime_millis(node.started(), now),
            workers: cpu::workers(),
        }
    }
}

/// How long a process that began at `started` has run.
pub fn uptime_millis(started: Now, now: Now) -> u64 {
    now.millis.saturating_sub(started.millis)
}
