//! What is told of a run: as JSON, every figure; as a table, what one looks at.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::clock::{MILLI, SECOND, seconds};
use super::plan::{Operation, Pace, Plan, Scenario};
use super::tally::Outcomes;
use super::warnings::{self, Requests};
use super::{CpuSpent, Outcome};
use crate::cli::table::Table;

/// All figures of a run. Times of one operation are in microseconds, others in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// When the run ended, in seconds since 1970-01-01 UTC.
    pub unix_time: u64,
    /// The same in words (RFC 9110 §5.6.7).
    pub date: String,
    /// The command as it was typed.
    pub command: String,
    /// The scenario.
    pub scenario: String,
    /// The server.
    pub target: String,
    /// Users that took part.
    pub users: u32,
    /// Those of them who could not be registered before the measurement.
    pub users_missing: u64,
    /// Operations always under way, in a closed loop.
    pub window: Option<u32>,
    /// Operations started in a second, in an open loop.
    pub offered_rate: Option<f64>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Whether the server went away in the middle.
    pub gone: bool,
    /// What one must know to understand the figures, in words.
    pub warnings: Vec<String>,
    /// From the first start to the last answer.
    pub seconds: f64,
    /// Operations of all kinds that ended as they should.
    pub completed: u64,
    /// Those that were answered otherwise.
    pub failed: u64,
    /// Those that were not answered.
    pub lost: u64,
    /// Those that had just begun when it was stopped.
    pub unfinished: u64,
    /// In an open loop: operations that were due and not started, as all phones were busy or the
    /// generator was.
    pub not_started: Option<u64>,
    /// Completed operations in a second.
    pub rate: f64,
    /// By kind, those that there were.
    pub operations: BTreeMap<&'static str, OperationReport>,
    /// Requests for each operation, without retransmissions.
    pub requests_per_operation: f64,
    /// Those that the scenario means; `null` of a storm and of a churn.
    pub requests_meant: Option<f64>,
    /// What was sent and received while it was measured.
    pub messages: Messages,
    /// The same in all parts of the run.
    pub all_messages: Messages,
    /// What was wrong, and how often.
    pub faults: BTreeMap<&'static str, u64>,
    /// The first answer that was wrong.
    pub first_wrong: Option<String>,
    /// The server's CPU time, where it is known.
    pub server_cpu: Option<CpuReport>,
    /// The generator's own, without the time in which it had nothing to do.
    pub generator_cpu: CpuReport,
    /// The share of the time in which the generator had nothing to do: near 0, it is the limit.
    pub generator_idle: f64,
    /// In an open loop: how late operations started, in microseconds (p50, p99, longest).
    pub lateness: Option<[f64; 3]>,
    /// In a storm.
    pub storm: Option<StormReport>,
}

/// The figures of one kind of operation.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// Ended as they should.
    pub completed: u64,
    /// Answered otherwise.
    pub failed: u64,
    /// Not answered.
    pub lost: u64,
    /// Completed in a second: registration and re-registration rates are RFC 7502's.
    pub rate: f64,
    /// Microseconds from the (intended) start to the last answer.
    pub latency: Latency,
}

/// Percentiles of a latency in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Messages in a part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Messages {
    /// Requests, without retransmissions.
    pub requests: u64,
    /// Requests sent again (Timer E).
    pub retransmissions: u64,
    /// Final answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Answers to what was answered already.
    pub late: u64,
    /// Challenges to credentials: nonces that were no longer good.
    pub renewed_nonces: u64,
    /// ICMP messages that nobody listens.
    pub refused: u64,
    /// Operations begun anew after a failure.
    pub retries: u64,
}

/// CPU time: of all, and of each completed operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuReport {
    /// In the program itself, seconds.
    pub user_seconds: f64,
    /// In the kernel for it, seconds.
    pub system_seconds: f64,
    /// Both, microseconds for an operation.
    pub per_operation: f64,
    /// In the program itself, microseconds for an operation.
    pub user_per_operation: f64,
}

/// How a storm was weathered.
#[derive(Clone, Debug, Serialize)]
pub struct StormReport {
    /// Phones registered within so many milliseconds after they came.
    pub within: Vec<(u64, u64)>,
    /// Seconds until so many percent of the phones were registered; null where it never was.
    pub until: Vec<(u64, Option<f64>)>,
    /// Registrations in each second.
    pub by_second: Vec<u64>,
}

/// Milliseconds that a phone waits: the intervals of RFC 3261 §17.1.2.2.
const WITHIN: [u64; 8] = [200, 500, 1000, 2000, 4000, 8000, 16_000, 32_000];

/// Percents of the phones.
const UNTIL: [u64; 4] = [50, 90, 99, 100];

/// The share of the due operations that may not have been started where a rate was kept.
const KEPT: f64 = 0.01;

/// What is due within so many seconds may be missing too: this machine may stand still for that
/// long at the very end.
const PAUSE: f64 = 0.1;

const RESTORATION: &str = Operation::Restoration.name();

impl Report {
    /// The report of an outcome.
    pub fn new(plan: &Plan, command: String, outcome: &Outcome) -> Self {
        let tally = &outcome.measured;
        let elapsed = tally.span.1 - tally.span.0;
        let completed = tally.completed();
        let sum = |count: fn(&Outcomes) -> u64| tally.operations.iter().map(count).sum();
        let kinds = Operation::ALL.into_iter().zip(&tally.operations);
        let happened = kinds.filter(|(_, o)| o.completed + o.failed + o.lost > 0);
        let CpuSpent { user, system } = outcome.generator;
        let spent = user + system;
        // To ask a socket in vain is the kernel's work but for some nanoseconds.
        let busy = CpuSpent {
            user: user.saturating_sub(tally.spun),
            system: system.saturating_sub(tally.idle - tally.spun),
        };
        let idle = if plan.spins { ratio(tally.idle, spent) } else { 1.0 - ratio(spent, elapsed) };
        let (window, offered_rate) = match plan.pace {
            _ if plan.scenario == Scenario::Storm => (None, None),
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        let late = &tally.lateness;
        let (requests, _) = Requests::of(plan, tally);
        let now = super::clock::wall();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            unix_time: super::clock::unix(),
            date: httpdate::fmt_http_date(now),
            command,
            scenario: format!("{:?}", plan.scenario).to_lowercase(),
            target: plan.target.to_string(),
            users: plan.users.count(),
            users_missing: outcome.missing,
            window,
            offered_rate,
            interrupted: outcome.interrupted,
            gone: tally.is_gone,
            warnings: warnings::all(plan, tally, outcome.server.is_some()),
            seconds: seconds(elapsed),
            completed,
            failed: sum(|outcomes| outcomes.failed),
            lost: sum(|outcomes| outcomes.lost),
            unfinished: tally.unfinished,
            not_started: offered_rate.map(|_| tally.not_started),
            rate: per_second(completed, elapsed),
            operations: happened
                .map(|(kind, outcomes)| (kind.name(), OperationReport::of(outcomes, elapsed)))
                .collect(),
            requests_per_operation: requests.found,
            requests_meant: requests.meant,
            messages: Messages::of(tally),
            all_messages: Messages::of(&outcome.messages),
            faults: tally.faults.iter().map(|(fault, count)| (fault.name(), *count)).collect(),
            first_wrong: tally.first_wrong.clone(),
            server_cpu: outcome.server.map(|spent| CpuReport::of(spent, completed)),
            generator_cpu: CpuReport::of(busy, completed),
            generator_idle: idle.max(0.0),
            lateness: (!late.is_empty() && plan.scenario != Scenario::Storm).then(|| {
                [late.value_at_quantile(0.5), late.value_at_quantile(0.99), late.max()].map(micros)
            }),
            storm: (plan.scenario == Scenario::Storm)
                .then(|| StormReport::of(plan.users.count(), outcome)),
        }
    }

    /// Whether everything that was begun ended as it should, and as much was begun as was offered.
    pub fn is_clean(&self) -> bool {
        let is_whole = self.completed > 0 && !self.gone && self.shortfall().is_none();
        is_whole && self.failed == 0 && self.lost == 0
    }

    /// What there is to say of an open loop that could not keep its rate.
    pub fn shortfall(&self) -> Option<String> {
        let (rate, missing) = (self.offered_rate?, self.not_started?);
        // A restoration belongs to the removal before it, and was not due by itself.
        let started = self.operations.iter().filter(|(name, _)| **name != RESTORATION);
        let started: u64 = started.map(|(_, o)| o.completed + o.failed + o.lost).sum();
        let due = started + missing;
        let is_kept = ratio(missing, due) <= KEPT || ratio(missing, 1) <= rate * PAUSE;
        (!is_kept).then(|| {
            let percent = 100.0 * ratio(missing, due);
            format!(
                "{rate} operations a second were not kept up: {missing} of {due} that were due \
                 ({percent:.0} %) were not started, as all phones waited for answers or the \
                 generator was too slow"
            )
        })
    }

    /// Writes the table.
    ///
    /// # Errors
    /// `out`'s.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let pace = match (self.window, self.offered_rate) {
            (Some(window), _) => format!(", closed loop of {window}"),
            (_, Some(rate)) => format!(", {rate:.0}/s offered"),
            _ => String::new(),
        };
        writeln!(out, "{} against udp:{}: {} users{pace}", self.scenario, self.target, self.users)?;
        if self.interrupted {
            writeln!(out, "stopped early: what follows is what there was until then")?;
        }
        for warning in &self.warnings {
            writeln!(out, "WARNING: {warning}")?;
        }
        writeln!(out)?;
        let heads = [
            "OPERATION",
            "COMPLETED",
            "FAILED",
            "LOST",
            "RATE/S",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "MAX",
        ];
        let mut table = Table::new(heads);
        for (name, operation) in &self.operations {
            let OperationReport { completed, failed, lost, rate, latency } = operation;
            let Latency { p50, p90, p99, p999, max, .. } = *latency;
            let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(span);
            let [completed, failed, lost] = [completed, failed, lost].map(u64::to_string);
            let rate = format!("{rate:.0}");
            table.push([
                (*name).to_owned(),
                completed,
                failed,
                lost,
                rate,
                p50,
                p90,
                p99,
                p999,
                max,
            ]);
        }
        table.write(out, "")?;
        writeln!(out)?;
        self.write_rest(out)
    }

    fn write_rest(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new([""; 2]);
        let mut row = |name: &str, value: String| table.push([name.to_owned(), value]);
        row("time", format!("{:.2} s", self.seconds));
        if self.users_missing > 0 {
            row("not there", format!("{} users were not registered before", self.users_missing));
        }
        let Messages { requests, retransmissions, answers, late, renewed_nonces, .. } =
            &self.messages;
        row("requests", format!("{requests}, and {retransmissions} sent again"));
        if self.unfinished > 0 {
            row("under way", format!("{} operations when it was stopped", self.unfinished));
        }
        let mut told: Vec<_> =
            answers.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        if *late > 0 {
            told.push(format!("{late} to what was answered already"));
        }
        row("answers", if told.is_empty() { "none".to_owned() } else { told.join(", ") });
        if *renewed_nonces > 0 {
            row("nonces", format!("{renewed_nonces} were no longer good"));
        }
        if self.messages.retries > 0 {
            row("retries", self.messages.retries.to_string());
        }
        if self.messages.refused > 0 {
            row("refused", format!("{} ICMP messages: nobody listens", self.messages.refused));
        }
        for (fault, count) in &self.faults {
            row("wrong", format!("{count} {fault}"));
        }
        if let Some(line) = &self.first_wrong {
            row("first wrong", line.clone());
        }
        if let Some(cpu) = self.server_cpu {
            row("server CPU", cpu.told());
        }
        let idle = 100.0 * self.generator_idle;
        row(
            "generator CPU",
            format!("{}; idle {idle:.0} % of the time", self.generator_cpu.told()),
        );
        if let Some(missing) = self.not_started {
            row("not started", format!("{missing} that were due"));
        }
        if let Some([p50, p99, max]) = self.lateness {
            let [p50, p99, max] = [p50, p99, max].map(span);
            row("started late", format!("p50 {p50}, p99 {p99}, max {max}"));
        }
        if let Some(storm) = &self.storm {
            for (millis, phones) in &storm.within {
                row("within", format!("{} ms: {phones}", millis));
            }
            for (percent, until) in &storm.until {
                let until = until.map_or("never".to_owned(), |until| format!("{until:.2} s"));
                row("registered", format!("{percent} %: {until}"));
            }
            let rates: Vec<_> = storm.by_second.iter().map(u64::to_string).collect();
            row("each second", rates.join(" "));
        }
        table.write(out, "")
    }
}

impl OperationReport {
    fn of(outcomes: &Outcomes, elapsed: u64) -> Self {
        let Outcomes { completed, failed, lost, latency, longest } = outcomes;
        let at = |quantile| micros(latency.value_at_quantile(quantile).min(*longest));
        Self {
            completed: *completed,
            failed: *failed,
            lost: *lost,
            rate: per_second(*completed, elapsed),
            latency: Latency {
                mean: latency.mean() / 1000.0,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: micros(*longest),
            },
        }
    }
}

impl Messages {
    fn of(tally: &super::Tally) -> Self {
        Self {
            requests: tally.requests,
            retransmissions: tally.retransmissions,
            answers: tally.statuses(),
            late: tally.late,
            renewed_nonces: tally.renewed,
            refused: tally.refused,
            retries: tally.retries,
        }
    }
}

impl CpuReport {
    fn of(spent: CpuSpent, operations: u64) -> Self {
        let per_operation = |nanos: u64| ratio(nanos, operations) / 1e3;
        Self {
            user_seconds: seconds(spent.user),
            system_seconds: seconds(spent.system),
            per_operation: per_operation(spent.total()),
            user_per_operation: per_operation(spent.user),
        }
    }

    fn told(self) -> String {
        let Self { per_operation, user_per_operation, .. } = self;
        format!("{per_operation:.2} µs for each operation, {user_per_operation:.2} of it user")
    }
}

impl StormReport {
    fn of(users: u32, outcome: &Outcome) -> Self {
        let [registrations, ..] = &outcome.measured.operations;
        let latency = &registrations.latency;
        let within = |millis: u64| (millis, latency.count_between(0, millis * MILLI));
        let at = &outcome.registered_at;
        let until = |percent: u64| {
            let phones = (u64::from(users) * percent).div_ceil(100).max(1);
            let last = usize::try_from(phones - 1).ok().and_then(|last| at.get(last));
            (percent, last.map(|nanos| seconds(*nanos)))
        };
        let mut by_second = Vec::new();
        for nanos in at {
            let second = usize::try_from(nanos / SECOND).unwrap_or(0);
            if by_second.len() <= second {
                by_second.resize(second + 1, 0);
            }
            if let Some(count) = by_second.get_mut(second) {
                *count += 1;
            }
        }
        Self { within: WITHIN.map(within).into(), until: UNTIL.map(until).into(), by_second }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is never that exact")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn per_second(count: u64, nanos: u64) -> f64 {
    1e9 * ratio(count, nanos)
}

fn micros(nanos: u64) -> f64 {
    1e6 * seconds(nanos)
}

/// Microseconds for people.
fn span(micros: f64) -> String {
    match micros {
        ..1000.0 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}
