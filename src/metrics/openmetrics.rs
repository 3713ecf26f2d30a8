//! The text that Prometheus scrapes.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::Sample;
use crate::{
    calls::CallResult, durability::JournalCounts, flow::Transport, proxy::Probed,
    registrar::AGENT_PLACES, sip::Status,
};

/// The media type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Before every name.
const PREFIX: &str = "bindery";

/// A sample as OpenMetrics text.
pub fn encode(sample: Sample) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.encode_sip(&mut families)?;
        self.encode_location(&mut families)?;
        self.encode_snapshots(&mut families)?;
        self.encode_journal(&mut families)?;
        self.encode_backends(&mut families)?;
        self.encode_process(&mut families)
    }
}

impl Sample {
    /// What came and went.
    fn encode_sip(&self, families: &mut Families<'_>) -> fmt::Result {
        let listened = |transport| self.listeners.iter().any(|l| l.transport == transport);
        let requests = self.totals.requests().filter(|(_, transport, _)| listened(*transport));
        families.counters(
            "requests",
            "Requests that were read",
            requests.map(|(method, transport, count)| {
                ([("method", method), ("transport", transport.name())], count)
            }),
        )?;
        // All codes that we send for the method that we are here for, and of the others those that
        // occurred: a thousand zeros more would tell nothing.
        let responses = self.totals.responses();
        let is_ours = |code: u16| Status::ALL.iter().any(|status| status.code == code);
        let told = responses.filter(|(method, code, count)| {
            *count > 0 || (*method == "REGISTER" && is_ours(*code))
        });
        families.counters(
            "responses",
            "Responses that were sent, by the method of the request",
            told.map(|(method, code, count)| {
                ([("method", method.to_owned()), ("code", code.to_string())], count)
            }),
        )?;
        families.counters(
            "drops",
            "Datagrams that got no answer",
            self.totals.drops().map(|(reason, count)| ([("reason", reason)], count)),
        )?;
        families.counters(
            "receive_queue_drops",
            "Datagrams that the kernel dropped because a worker did not keep up",
            self.listeners.iter().map(|l| ([("listener", &*l.name)], l.drops)),
        )?;
        families.counters(
            "auth",
            "What became of the credentials of requests",
            self.totals.auths().map(|(result, count)| ([("result", result)], count)),
        )?;
        families.counters(
            "register",
            "What became of authorised REGISTER requests, by contact where contacts differ",
            self.totals.registers().map(|(result, count)| ([("result", result)], count)),
        )
    }

    /// Where phones are.
    fn encode_location(&self, families: &mut Families<'_>) -> fmt::Result {
        let bindings = Transport::ALL.into_iter().zip(self.bindings);
        families.gauges(
            "bindings",
            "Bindings in force",
            bindings.map(|(transport, count)| ([("transport", transport.name())], count)),
        )?;
        families.gauge("aors", "AoRs with a binding", None, self.aors)?;
        families.counter("expirations", "Bindings that ended by themselves", self.expirations)?;
        families.gauge("users", "Accounts of regfile.conf", None, self.users)?;
        families.gauge(
            "user_agents",
            &format!("User-Agents kept once for all bindings, of {AGENT_PLACES} places"),
            None,
            self.user_agents,
        )
    }

    /// How the bindings are saved.
    fn encode_snapshots(&self, families: &mut Families<'_>) -> fmt::Result {
        if let Some(taken) = self.snapshot {
            families.gauge(
                "snapshot_last_timestamp",
                "When the last snapshot was begun, in Unix time",
                Some(Unit::Seconds),
                taken.unix,
            )?;
            families.gauge_f64(
                "snapshot_duration",
                "How long the last snapshot took",
                Unit::Seconds,
                seconds(taken.millis),
            )?;
            families.gauge(
                "snapshot_size",
                "The size of the last snapshot",
                Some(Unit::Bytes),
                taken.bytes,
            )?;
            families.gauge("snapshot_sections", "AoRs in the last snapshot", None, taken.aors)?;
        }
        let failures = self.snapshot_failures;
        families.counter("snapshot_failures", "Snapshots that could not be written", failures)
    }

    /// What is written before each answer.
    fn encode_journal(&self, families: &mut Families<'_>) -> fmt::Result {
        let restored = u64::from(self.is_restored);
        families.gauge("restored", "1 once all saved bindings are back", None, restored)?;
        let help = "files, sections and changes of what was saved that were damaged or missing";
        families.gauge("restore_damage", help, None, self.damaged)?;
        let Some((counts, is_saved)) = self.journal else { return Ok(()) };
        let JournalCounts { records, bytes, syncs, faults } = counts;
        families.counter("journal_records", "Changes written to the journal", records)?;
        families.counter("journal_written_bytes", "Octets written to the journal", bytes)?;
        families.counter(
            "journal_syncs",
            "Syncs of the journal that had something to do",
            syncs,
        )?;
        families.counter(
            "journal_faults",
            "Writes and syncs of the journal that failed",
            faults,
        )?;
        families.gauge(
            "journal_healthy",
            "0 while what was acknowledged may be in memory only",
            None,
            u64::from(is_saved),
        )
    }

    /// How the back ends do.
    fn encode_backends(&self, families: &mut Families<'_>) -> fmt::Result {
        families.gauge("parked", "Requests that wait for back ends", None, self.parked)?;
        families.gauge("calls", "Calls in progress", None, self.calls)?;
        families.counter("calls_begun", "Calls that have begun", self.calls_begun)?;
        let ended = CallResult::ALL.into_iter().zip(self.calls_ended);
        families.counters(
            "calls_ended",
            "Calls that have ended, by how",
            ended.map(|(result, count)| ([("result", result.label())], count)),
        )?;
        families.counters(
            "calls_refused",
            "Calls that were turned down here, before they went to anybody",
            self.totals.refused().map(|(reason, count)| ([("reason", reason)], count)),
        )?;
        let [sent, answered @ ..] = self.probed;
        families.counter("probes", "Times that a party of a call was probed", sent)?;
        let answered = Probed::ALL.into_iter().skip(1).zip(answered);
        families.counters(
            "probes_ended",
            "What became of that, unless somebody was heard of meanwhile",
            answered.map(|(what, count)| ([("result", what.label())], count)),
        )?;
        let transactions = "Transactions of requests that are passed on";
        families.gauge("transactions", transactions, None, self.transactions)?;
        let records = self.backends.records();
        families.counters(
            "cdr",
            "Records of calls, counted for each handler",
            records.map(|(kept, count)| ([("result", kept.as_str())], count)),
        )?;
        let spooled = self.backends.spooled();
        families.gauge("cdr_spooled", "Records of calls that wait for handlers", None, spooled)?;
        let help = "Answers of back ends that mean nothing";
        families.counters("backend_garbage", help, self.backends.garbages().into_iter())?;
        let (name, help) = ("backend", "How long queries of back ends and name servers took");
        let unit = Some(&Unit::Seconds);
        let family = families.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        self.backends.queries().encode(family)?;
        let hooks = self.backends.hooks();
        if !hooks.is_empty() {
            self.encode_hooks(families)?;
        }
        let cached = self.cached.unwrap_or(0);
        families.gauge("cached_accounts", "Accounts that back ends told of", None, cached)?;
        families.gauge(
            "backend_behind",
            "AoRs that back ends have yet to be told of",
            None,
            self.backends.behind(),
        )?;
        let failures = self.backends.failures().filter(|(name, _)| name.is_about_users());
        families.counters(
            "backend_failures",
            "Messages that no back end could handle, though one should have",
            failures.map(|(name, count)| ([("message", name.as_str())], count)),
        )
    }

    /// How hooks do.
    fn encode_hooks(&self, families: &mut Families<'_>) -> fmt::Result {
        let hooks = self.backends.hooks();
        let help = "Questions to hooks, by what became of them";
        families.counters("hook_questions", help, hooks.questions().into_iter())?;
        let help = "Notifications to hooks, by what became of them";
        families.counters("hook_notifications", help, hooks.notifications().into_iter())?;
        let spooled = hooks.spooled().into_iter();
        let spooled = spooled.map(|(hook, count)| ([("hook", hook)], count));
        families.gauges("hook_spooled", "Notifications that wait for hooks", spooled)?;
        let help = "Changes that came faster than hooks could be told of them";
        families.counter("hook_changes_missed", help, hooks.changes_missed())
    }

    /// The process itself.
    fn encode_process(&self, families: &mut Families<'_>) -> fmt::Result {
        families.gauge(
            "start_time",
            "When the process began, in Unix time",
            Some(Unit::Seconds),
            self.started,
        )?;
        families.gauge_f64(
            "uptime",
            "How long the process has run",
            Unit::Seconds,
            seconds(self.uptime_millis),
        )?;
        families.worker_cpu(self)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut info = families.0.encode_descriptor(
            "build",
            "The program that runs",
            None,
            MetricType::Info,
        )?;
        info.encode_info(&version)
    }
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}

/// Writes metric families.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let counter = ConstCounter::new(count);
        counter.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        cells: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        each(family, cells.map(|(labels, count)| (labels, ConstCounter::new(count))))
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?)
    }

    fn gauge_f64(&mut self, name: &str, help: &str, unit: Unit, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        cells: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        each(family, cells.map(|(labels, value)| (labels, ConstGauge::new(value))))
    }

    fn worker_cpu(&mut self, sample: &Sample) -> fmt::Result {
        let (name, help) = ("worker_cpu", "CPU time of a worker's thread, user and system");
        let unit = Some(&Unit::Seconds);
        let family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        let cells = sample.workers.iter();
        each(family, cells.map(|w| ([("worker", &*w.worker)], ConstCounter::new(w.seconds))))
    }
}

fn each<L: EncodeLabelSet, M: EncodeMetric>(
    mut family: MetricEncoder<'_>,
    mut cells: impl Iterator<Item = (L, M)>,
) -> fmt::Result {
    cells.try_for_each(|(labels, metric)| metric.encode(family.encode_family(&labels)?))
}
