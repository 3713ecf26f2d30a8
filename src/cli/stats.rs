//! `bindery stats`: the node at a glance.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
};

use super::{
    client::{Client, ServerArgs, write_json},
    snapshot::{size, summary},
    table::{Table, count, printed, span},
};
use crate::admin::{
    elsewhere::{BackEndView, HookView, QueryView},
    view::{CallsView, SnapshotsView, StatusView},
};

/// Show how the server is doing
#[derive(Clone, Debug, clap::Args)]
pub struct Stats {
    /// How to reach the server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery stats`.
///
/// # Errors
/// No server answers.
pub fn run(args: &Stats) -> anyhow::Result<ExitCode> {
    let view: StatusView = Client::new(&args.server)?.get("status")?;
    let mut out = io::stdout().lock();
    let written =
        if args.server.json { write_json(&mut out, &view) } else { write(&mut out, &view) };
    printed(written.map_err(Into::into))
}

fn write(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let mut table = Table::new([""; 2]);
    let mut row = |name: &str, value: String| table.push([name.to_owned(), value]);
    let workers = count(view.workers as u64, "worker");
    row("server", format!("bindery {}, up {}, {workers}", view.version, span(view.uptime)));
    row("ready", if view.ready.ready { "yes".to_owned() } else { missing(view) });
    let kept = view.cached_accounts.map(|kept| format!(", {kept} known from back ends"));
    row("users", format!("{} in regfile.conf{}", view.users, kept.unwrap_or_default()));
    row("aors", view.aors.to_string());
    row("bindings", format!("{} ({} expired so far)", view.bindings, view.expirations));
    row("calls", calls(&view.calls));
    if let Some(probes) = probes(&view.calls.probes) {
        row("probes", probes);
    }
    view.back_ends.iter().for_each(|view| row("back end", back_end(view)));
    view.hooks.iter().for_each(|view| row("hook", hook(view)));
    row("snapshot", snapshots(&view.snapshot, view.started_at + view.uptime));
    if let Some(journal) = &view.journal {
        let written = format!("{}, {}", count(journal.records, "change"), size(journal.bytes));
        row("journal", journal.error.as_ref().map_or(written, |error| format!("failed: {error}")));
    }
    let restored = view.restored.map_or_else(
        || "not all yet".to_owned(),
        |restored| {
            format!(
                "{} in {:.1} s ({} expired, {} without account, {} unreadable, {} damaged)",
                count(restored.bindings, "binding"),
                restored.seconds,
                restored.expired,
                restored.orphaned,
                restored.unreadable,
                count(restored.damaged, "file")
            )
        },
    );
    row("restored", restored);
    for listener in &view.listeners {
        row(
            "listener",
            format!(
                "{} {}:{}, {} dropped by the kernel",
                listener.name, listener.transport, listener.addr, listener.receive_queue_drops
            ),
        );
    }
    let counters = &view.counters;
    row("requests", counts(&counters.requests));
    row("responses", counts(&counters.responses));
    row("register", counts(&counters.register));
    row("auth", counts(&counters.auth));
    row("refused", counts(&counters.calls_refused));
    row("drops", counts(&counters.drops));
    table.write(out, "")
}

fn missing(view: &StatusView) -> String {
    let unmet = view.ready.checks.iter().filter(|(_, reason)| *reason != "ok");
    let told: Vec<_> = unmet.map(|(name, reason)| format!("{name}: {reason}")).collect();
    format!("no: {}", told.join("; "))
}

fn calls(view: &CallsView) -> String {
    let CallsView { in_progress, begun, per_second, ended, probes: _ } = view;
    let ended = counts(ended);
    format!("{in_progress} in progress, {begun} begun ({per_second:.1}/s), ended: {ended}")
}

/// How often parties were asked whether they still have their calls; none if they weren't.
fn probes(counters: &BTreeMap<String, u64>) -> Option<String> {
    let mut ended = counters.clone();
    let sent = ended.remove("sent")?;
    Some(format!("{sent} sent: {}", counts(&ended)))
}

/// What it was asked how often, with what each took on average.
fn back_end(BackEndView { name, queries, garbage }: &BackEndView) -> String {
    let mean = |query: &QueryView| query.seconds * 1000.0 / query.count.max(1) as f64;
    let told = |(what, query): (&String, &QueryView)| {
        format!("{what} {} ({:.1} ms)", query.count, mean(query))
    };
    let mut said =
        vec![format!("{name}: {}", queries.iter().map(told).collect::<Vec<_>>().join(", "))];
    if !garbage.is_empty() {
        said.push(format!("answers that mean nothing: {}", counts(garbage)));
    }
    said.join("; ")
}

fn hook(HookView { name, asked, told, spooled }: &HookView) -> String {
    format!("{name}: asked: {}; told: {}; {spooled} waiting", counts(asked), counts(told))
}

fn snapshots(view: &SnapshotsView, now: u64) -> String {
    let last = view.last.map_or_else(
        || "none yet".to_owned(),
        |last| format!("{} ago: {}", span(now.saturating_sub(last.taken_at)), summary(&last)),
    );
    match &view.error {
        None => last,
        Some(error) => format!("FAILED: {error}; last {last}"),
    }
}

/// Counters, the largest first.
fn counts(counters: &BTreeMap<String, u64>) -> String {
    if counters.is_empty() {
        return "none".to_owned();
    }
    let mut counters: Vec<_> = counters.iter().collect();
    counters.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let told: Vec<_> = counters.iter().map(|(label, count)| format!("{label} {count}")).collect();
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{
        CountersView, JournalView, ListenerView, ReadyView, RestoredView, SnapshotView,
    };

    fn status() -> StatusView {
        let counters = |cells: &[(&str, u64)]| {
            cells.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect()
        };
        StatusView {
            version: "1.2.3".into(),
            started_at: 1_700_000_000,
            uptime: 3700,
            listeners: vec![ListenerView {
                name: "lan".into(),
                transport: "udp".into(),
                addr: "192.0.2.9:5060".into(),
                receive_queue_drops: 3,
            }],
            workers: 2,
            users: 5,
            cached_accounts: None,
            aors: 4,
            bindings: 6,
            expirations: 1,
            calls: CallsView {
                in_progress: 3,
                begun: 20,
                per_second: 0.25,
                ended: counters(&[("busy", 2), ("completed", 15)]),
                probes: BTreeMap::new(),
            },
            back_ends: Vec::new(),
            hooks: Vec::new(),
            snapshot: SnapshotsView {
                last: Some(SnapshotView {
                    taken_at: 1_700_003_690,
                    seconds: 0.012,
                    aors: 4,
                    bindings: 6,
                    bytes: 2048,
                }),
                taken: 9,
                failures: 0,
                error: None,
            },
            journal: Some(JournalView { records: 12, bytes: 1024, error: None }),
            restored: Some(RestoredView {
                bindings: 1,
                expired: 2,
                orphaned: 0,
                changes: 3,
                unreadable: 0,
                damaged: 0,
                early: 0,
                seconds: 0.25,
            }),
            ready: ReadyView { ready: true, checks: BTreeMap::new() },
            counters: CountersView {
                requests: counters(&[("OPTIONS", 1), ("REGISTER", 10)]),
                responses: counters(&[("200", 11)]),
                drops: BTreeMap::new(),
                auth: counters(&[("granted", 10)]),
                register: counters(&[("added", 10)]),
                calls_refused: counters(&[("offline", 2), ("unknown_callee", 3)]),
            },
        }
    }

    fn printed(view: &StatusView) -> String {
        let mut out = Vec::new();
        write(&mut out, view).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_healthy_node() {
        let expected = "\
server     bindery 1.2.3, up 1h01m, 2 workers
ready      yes
users      5 in regfile.conf
aors       4
bindings   6 (1 expired so far)
calls      3 in progress, 20 begun (0.2/s), ended: completed 15, busy 2
snapshot   10s ago: 4 AoRs, 6 bindings, 2.0 KiB in 12 ms
journal    12 changes, 1.0 KiB
restored   1 binding in 0.2 s (2 expired, 0 without account, 0 unreadable, 0 files damaged)
listener   lan udp:192.0.2.9:5060, 3 dropped by the kernel
requests   REGISTER 10, OPTIONS 1
responses  200 11
register   added 10
auth       granted 10
refused    unknown_callee 3, offline 2
drops      none
";
        assert_eq!(printed(&status()), expected);
    }

    #[test]
    fn who_is_asked_elsewhere_has_a_line() {
        let counters = |cells: &[(&str, u64)]| {
            cells.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect()
        };
        let mut view = status();
        view.calls.probes = counters(&[("sent", 4), ("alive", 2), ("gone", 1)]);
        let queries = [("call.route", 1, 0.25), ("user.auth", 4, 0.01)];
        let query = |(what, count, seconds)| (String::from(what), QueryView { count, seconds });
        view.back_ends = vec![BackEndView {
            name: "script a.py".into(),
            queries: queries.map(query).into(),
            garbage: counters(&[("call.route", 1)]),
        }];
        view.hooks = vec![HookView {
            name: "crm".into(),
            asked: counters(&[("late", 1), ("decided", 3)]),
            told: BTreeMap::new(),
            spooled: 2,
        }];
        let expected = "
probes     4 sent: alive 2, gone 1
back end   script a.py: call.route 1 (250.0 ms), user.auth 4 (2.5 ms); answers that mean nothing: \
                        call.route 1
hook       crm: asked: decided 3, late 1; told: none; 2 waiting
snapshot";
        assert!(printed(&view).contains(expected), "{}", printed(&view));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut view = status();
        view.ready.ready = false;
        view.ready.checks = BTreeMap::from([
            ("running".to_owned(), "ok".to_owned()),
            ("snapshot".to_owned(), "disk full".to_owned()),
        ]);
        view.snapshot.error = Some("disk full".into());
        view.snapshot.last = None;
        view.cached_accounts = Some(7);
        let text = printed(&view);
        assert!(text.contains("\nusers      5 in regfile.conf, 7 known from back ends\n"));
        assert!(text.contains("\nready      no: snapshot: disk full\n"), "{text}");
        assert!(text.contains("\nsnapshot   FAILED: disk full; last none yet\n"), "{text}");
    }
}
