//! The JSON that goes out: written by the server, read by the command line.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    elsewhere::{self, BackEndView, HookView},
    text::text,
};
use crate::{
    calls::{CallBook, CallResult},
    control::{ListenerStatus, Node, Pruned, Reloaded},
    durability::{Journal, JournalCounts, Restored, Taken},
    metrics::{Totals, uptime_millis},
    proxy::Call,
    registrar::Binding,
    time::{Clock, Now},
};

/// One call in progress. Texts that came from a phone are written as [`text`] does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallView {
    /// Its number, of this process.
    pub id: u64,
    /// `calling`, `ringing` or `answered`.
    pub stage: String,
    /// Who calls: the user part of From.
    pub caller: String,
    /// Who is called: the user part of the Request-URI.
    pub called: String,
    /// The account that proved to be the caller.
    pub username: Option<String>,
    /// The AoR of ours that calls.
    pub from_aor: Option<String>,
    /// The AoR of ours that is called.
    pub to_aor: Option<String>,
    /// Call-ID.
    pub call_id: String,
    /// Where the INVITE came from.
    pub source: String,
    /// Where it rings, or was answered.
    pub target: Option<String>,
    /// Seconds since it began.
    pub duration: u64,
    /// Seconds since it was answered.
    pub answered: Option<u64>,
}

impl CallView {
    /// A call as it is now.
    pub fn new(call: &Call, now: Now) -> Self {
        let some = |octets: Option<&[u8]>| octets.map(|o| text(o).into_owned());
        let parties = &call.parties;
        let since = |millis: u64| now.millis.saturating_sub(millis) / 1000;
        Self {
            id: call.id,
            stage: call.stage.as_str().to_owned(),
            caller: text(&parties.caller).into_owned(),
            called: text(&parties.called).into_owned(),
            username: some(parties.username.as_deref()),
            from_aor: some(parties.from_aor.as_deref()),
            to_aor: some(call.to_aor.as_deref()),
            call_id: text(&parties.call_id).into_owned(),
            source: parties.source.to_string(),
            target: call.target.map(|target| target.to_string()),
            duration: since(call.began),
            answered: call.answered.map(since),
        }
    }
}

/// A page of calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallPage {
    /// The calls, in the order in which they began at each worker.
    pub items: Vec<CallView>,
    /// Asks for the next page; none if this is the last.
    pub next: Option<String>,
}

/// One binding. Texts that came from a phone are written as [`text`] does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BindingView {
    /// Names the binding in `DELETE`: 16 hexadecimal digits, the same as long as its contact, or
    /// its instance and reg-id, are the same.
    pub id: String,
    /// The Contact URI.
    pub contact: String,
    /// The Contact's other parameters, each with its semicolon; without `expires`.
    pub params: String,
    /// Its `q`, from 0 to 1.
    pub q: Option<f64>,
    /// Seconds left.
    pub expires: u32,
    /// When it ends, in Unix seconds.
    pub expires_at: u64,
    /// When it was last refreshed, in Unix seconds.
    pub updated_at: u64,
    /// Call-ID of the request that last changed it.
    pub call_id: String,
    /// CSeq of that request.
    pub cseq: u32,
    /// The address and port that request came from.
    pub source: String,
    /// Our address it came to, where the listener has a wildcard address.
    pub local: Option<String>,
    /// The name of the listener it came to; none if there is no such listener any more.
    pub listener: Option<String>,
    /// The transport it came over.
    pub transport: String,
    /// The Path values (RFC 3327), joined by commas.
    pub path: Option<String>,
    /// User-Agent of that request.
    pub user_agent: Option<String>,
    /// `+sip.instance` (RFC 5626 §4.1), without its quotes.
    pub instance: Option<String>,
    /// `reg-id` (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
}

impl BindingView {
    pub(super) fn new(binding: &Binding<'_>, listeners: &[ListenerStatus], now: Now) -> Self {
        let listener = listeners.get(usize::from(binding.flow.listener.0));
        Self::with_listener(binding, listener.map(|listener| &*listener.name), now)
    }

    /// A binding of the listener with this name.
    pub fn with_listener(binding: &Binding<'_>, listener: Option<&str>, now: Now) -> Self {
        let flow = binding.flow;
        let some = |octets: &[u8]| (!octets.is_empty()).then(|| text(octets).into_owned());
        let unquoted = |value: &[u8]| {
            let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            text(inner.unwrap_or(value)).into_owned()
        };
        Self {
            id: format!("{:016x}", binding.id()),
            contact: text(binding.uri).into_owned(),
            params: text(binding.params).into_owned(),
            q: binding.q.map(|q| f64::from(q.0) / 1000.0),
            expires: binding.deadline.remaining(now).0,
            expires_at: binding.deadline.to_unix(now),
            updated_at: binding.updated.to_unix(now).into(),
            call_id: text(binding.call_id).into_owned(),
            cseq: binding.cseq,
            source: flow.remote.to_string(),
            local: flow.local.map(|local| local.to_string()),
            listener: listener.map(str::to_owned),
            transport: flow.transport.name().to_owned(),
            path: some(binding.path),
            user_agent: some(binding.agent),
            instance: binding.instance().map(unquoted),
            reg_id: binding.reg_id(),
        }
    }
}

/// All bindings of an AoR.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AorView {
    /// The AoR.
    pub aor: String,
    /// Its bindings, the latest refreshed first.
    pub bindings: Vec<BindingView>,
}

/// A binding in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// Whose it is.
    pub aor: String,
    /// The binding.
    #[serde(flatten)]
    pub binding: BindingView,
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// What is on it; a page may be short, or even empty, with others after it.
    pub items: Vec<Item>,
    /// What to give as `cursor` for the next page; none on the last.
    pub next: Option<String>,
}

/// What was removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovedView {
    /// From which AoR.
    pub aor: String,
    /// How many bindings.
    pub removed: u64,
    /// How many it still has.
    pub left: u64,
}

impl RemovedView {
    pub(super) fn new(aor: &[u8], pruned: Pruned) -> Self {
        Self { aor: text(aor).into_owned(), removed: pruned.removed, left: pruned.left }
    }
}

/// What external modules said to an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScriptsView {
    /// Whether one of them took it to be its own.
    pub handled: bool,
    /// Their text.
    pub text: String,
}

/// What a reload did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadedView {
    /// Accounts.
    pub users: u64,
    /// Bindings that went because their account did.
    pub removed: u64,
    /// What the operator should hear about.
    pub warnings: Vec<String>,
}

impl From<Reloaded> for ReloadedView {
    fn from(Reloaded { users, removed, warnings }: Reloaded) -> Self {
        Self { users, removed, warnings }
    }
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SnapshotView {
    /// When it was begun, in Unix seconds.
    pub taken_at: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// AoRs in it.
    pub aors: u64,
    /// Bindings in it.
    pub bindings: u64,
    /// Its size.
    pub bytes: u64,
}

impl From<Taken> for SnapshotView {
    fn from(Taken { unix, millis, aors, bindings, bytes }: Taken) -> Self {
        let seconds = Duration::from_millis(millis).as_secs_f64();
        Self { taken_at: unix, seconds, aors, bindings, bytes }
    }
}

/// Whether the node can do its work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadyView {
    /// Whether all checks are met.
    pub ready: bool,
    /// By name: `ok`, or what is missing.
    pub checks: BTreeMap<String, String>,
}

impl ReadyView {
    pub(super) fn of(node: &Node) -> Self {
        let checks = node.checks();
        let ready = checks.iter().all(|check| check.reason.is_none());
        let told = checks
            .into_iter()
            .map(|check| (check.name.to_owned(), check.reason.unwrap_or_else(|| "ok".to_owned())));
        Self { ready, checks: told.collect() }
    }
}

/// The node at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// The program's version.
    pub version: String,
    /// When it began, in Unix seconds.
    pub started_at: u64,
    /// How long it has run, in seconds.
    pub uptime: u64,
    /// Where it listens for SIP.
    pub listeners: Vec<ListenerView>,
    /// How many workers answer.
    pub workers: usize,
    /// Accounts of regfile.conf.
    pub users: u64,
    /// Accounts that back ends told of and that are kept; absent where none are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_accounts: Option<u64>,
    /// AoRs with a binding.
    pub aors: u64,
    /// Bindings.
    pub bindings: u64,
    /// Bindings that ended by themselves.
    pub expirations: u64,
    /// Calls.
    #[serde(default)]
    pub calls: CallsView,
    /// Back ends that were asked since the start.
    #[serde(default)]
    pub back_ends: Vec<BackEndView>,
    /// Hooks that were asked or told since the start.
    #[serde(default)]
    pub hooks: Vec<HookView>,
    /// How the bindings are saved.
    pub snapshot: SnapshotsView,
    /// What is written before each answer; absent with `durability=snapshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalView>,
    /// What came back at the start; absent until everything has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredView>,
    /// Whether it can do its work.
    #[serde(flatten)]
    pub ready: ReadyView,
    /// What the workers have counted since the start.
    pub counters: CountersView,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// Its transport.
    pub transport: String,
    /// Its address and port.
    pub addr: String,
    /// Datagrams that the kernel dropped because a worker did not keep up.
    pub receive_queue_drops: u64,
}

/// Calls since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CallsView {
    /// In progress.
    pub in_progress: u64,
    /// How many have begun.
    pub begun: u64,
    /// How many began each second of the last minute.
    pub per_second: f64,
    /// How many have ended, by result; zeros are left out.
    pub ended: BTreeMap<String, u64>,
    /// How often a party was probed (`sent`), and what became of it; zeros are left out.
    #[serde(default)]
    pub probes: BTreeMap<String, u64>,
}

impl CallsView {
    fn of(book: &CallBook) -> Self {
        let ended = CallResult::ALL.map(|result| (result.label().to_owned(), book.ended(result)));
        Self {
            in_progress: book.len() as u64,
            begun: book.begun(),
            per_second: book.per_second(),
            ended: sums(ended.into_iter()),
            probes: elsewhere::probes(book),
        }
    }
}

/// How snapshots have gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotsView {
    /// The last that was written.
    pub last: Option<SnapshotView>,
    /// How many were written.
    pub taken: u64,
    /// How many could not be.
    pub failures: u64,
    /// Why the last one could not be.
    pub error: Option<String>,
}

/// What has been written before answers, since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalView {
    /// Changes.
    pub records: u64,
    /// Octets.
    pub bytes: u64,
    /// Why changes are in memory only, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl JournalView {
    fn of(journal: &Journal) -> Self {
        let JournalCounts { records, bytes, .. } = journal.counts();
        Self { records, bytes, error: journal.fault() }
    }
}

/// What came back at the start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RestoredView {
    /// Bindings that are in force again.
    pub bindings: u64,
    /// Bindings that had ended.
    pub expired: u64,
    /// Bindings of AoRs that no longer have an account.
    pub orphaned: u64,
    /// Changes in the journal that were applied.
    pub changes: u64,
    /// Sections and changes that could not be used.
    pub unreadable: u64,
    /// Files that are damaged or missing.
    pub damaged: u64,
    /// AoRs that were registered meanwhile.
    pub early: u64,
    /// How long it took.
    pub seconds: f64,
}

impl From<Restored> for RestoredView {
    fn from(restored: Restored) -> Self {
        let Restored { bindings, expired, orphaned, changes, unreadable, damaged, early, millis } =
            restored;
        let seconds = Duration::from_millis(millis).as_secs_f64();
        Self { bindings, expired, orphaned, changes, unreadable, damaged, early, seconds }
    }
}

/// What the workers have counted, by the label of the metric of that name; zeros are left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountersView {
    /// By method.
    pub requests: BTreeMap<String, u64>,
    /// By status code.
    pub responses: BTreeMap<String, u64>,
    /// By reason.
    pub drops: BTreeMap<String, u64>,
    /// By result.
    pub auth: BTreeMap<String, u64>,
    /// By result.
    pub register: BTreeMap<String, u64>,
    /// Calls, by reason; absent in what an older server tells.
    #[serde(default)]
    pub calls_refused: BTreeMap<String, u64>,
}

impl CountersView {
    fn new(totals: &Totals) -> Self {
        Self {
            requests: sums(totals.requests().map(|(method, _, count)| (method.into(), count))),
            responses: sums(totals.responses().map(|(_, code, count)| (code.to_string(), count))),
            drops: sums(totals.drops().map(|(reason, count)| (reason.into(), count))),
            auth: sums(totals.auths().map(|(result, count)| (result.into(), count))),
            register: sums(totals.registers().map(|(result, count)| (result.into(), count))),
            calls_refused: sums(totals.refused().map(|(reason, count)| (reason.into(), count))),
        }
    }
}

/// Cells by label, those of the same label added up, and zeros left out.
pub(super) fn sums(cells: impl Iterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (label, count) in cells.filter(|(_, count)| *count > 0) {
        *sums.entry(label).or_insert(0) += count;
    }
    sums
}

impl StatusView {
    pub(super) fn of(node: &Node) -> Self {
        let listeners = node.listeners.iter().map(|listener| ListenerView {
            name: listener.name.clone().into(),
            transport: listener.transport.name().to_owned(),
            addr: listener.addr.to_string(),
            receive_queue_drops: listener.drops(),
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: node.started().unix,
            uptime: uptime_millis(node.started(), node.clock.now()) / 1000,
            listeners: listeners.collect(),
            workers: node.counters.len(),
            users: node.rules.load().subscribers.len() as u64,
            cached_accounts: node.rules.load().elsewhere.fetched.as_ref().map(|c| c.len() as u64),
            aors: node.location.aors(),
            bindings: node.location.bindings(),
            expirations: node.expired(),
            calls: CallsView::of(&node.calls),
            back_ends: elsewhere::back_ends(&node.backends),
            hooks: elsewhere::hooks(&node.backends),
            snapshot: SnapshotsView {
                last: node.snapshots.last().map(SnapshotView::from),
                taken: node.snapshots.taken(),
                failures: node.snapshots.failed(),
                error: node.snapshots.error(),
            },
            journal: node.journal.as_deref().map(JournalView::of),
            restored: node.restored.get().copied().map(RestoredView::from),
            ready: ReadyView::of(node),
            counters: CountersView::new(&Totals::of(&node.counters)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registrar::binding_for_tests;

    #[test]
    fn a_binding_in_json() {
        let mut binding = binding_for_tests(b"sip:a\xff@192.0.2.1");
        binding.params = br#";q=0.5;+sip.instance="<urn:uuid:A>";reg-id=1"#;
        let now = Now { millis: 100_000, unix: 1_700_000_100 };
        let view = BindingView::new(&binding, &[], now);
        let json = serde_json::to_value(&view).unwrap();
        let mut expected = serde_json::json!({
            "contact": "sip:a\\xff@192.0.2.1",
            "params": ";q=0.5;+sip.instance=\"<urn:uuid:A>\";reg-id=1",
            "q": 0.5,
            "expires": 3500,
            "expires_at": 1_700_003_600_u64,
            "updated_at": 1_700_000_007_u64,
            "call_id": "call@host",
            "cseq": 42,
            "source": "192.0.2.1:5062",
            "local": null,
            "listener": null,
            "transport": "udp",
            "path": "<sip:p1;lr>,<sip:p2;lr>",
            "user_agent": "Phone/1.0",
            "instance": "<urn:uuid:A>",
            "reg_id": 1,
        });
        expected["id"] = format!("{:016x}", binding.id()).into();
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<BindingView>(json).unwrap(), view);
    }

    #[test]
    fn counters_of_one_label_add_up() {
        let cells = [("a", 1), ("b", 0), ("a", 2)].map(|(l, n)| (l.to_owned(), n));
        assert_eq!(sums(cells.into_iter()), BTreeMap::from([("a".to_owned(), 3)]));
    }
}
