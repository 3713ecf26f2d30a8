//! The location service against a plain map, through any history of changes and passing time.

use std::collections::HashMap;

use bindery::{
    flow::Transport,
    location::{Cause, Location, Unrecorded},
    registrar::{AorRecord, Binding, RecordWriter},
    time::{Deadline, DeltaSeconds, Moment, Now},
};
use proptest::{collection::vec, prelude::*};

use crate::arrival::{START, udp_from};

/// No binding of any AoR beyond this many.
const MAX_BINDINGS: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// The AoR gets these bindings: the seconds that each has, and its transport.
    Commit(usize, Vec<(u32, usize)>),
    Remove(usize),
    /// Time passes, with a sweep in the end or without.
    Pass(u32, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bindings = vec((prop_oneof![1..4_u32, 1..200_u32], 0..Transport::ALL.len()), 0..4);
    let step = prop_oneof![
        5 => (0..6_usize, bindings).prop_map(|(aor, bindings)| Step::Commit(aor, bindings)),
        1 => (0..6_usize).prop_map(Step::Remove),
        4 => (prop_oneof![0..3_u32, 0..100_u32], any::<bool>())
            .prop_map(|(seconds, sweep)| Step::Pass(seconds, sweep)),
    ];
    vec(step, 0..60)
}

fn record(aor: &[u8], bindings: &[(Deadline, Transport)]) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut writer = RecordWriter::new(&mut octets, aor, b"").expect("it fits");
    for (at, &(deadline, transport)) in bindings.iter().enumerate() {
        let mut flow = udp_from("192.0.2.1:5060");
        flow.transport = transport;
        let uri = format!("sip:{at}@192.0.2.1");
        let binding = Binding {
            uri: uri.as_bytes(),
            params: b"",
            q: None,
            deadline,
            updated: Moment(0),
            call_id: b"1",
            cseq: 1,
            branch: 0,
            flow,
            path: b"",
            agent: b"",
        };
        writer.push(&binding).expect("it fits");
    }
    writer.finish();
    octets
}

type Model = HashMap<usize, Vec<(Deadline, Transport)>>;

/// A binding ends in its second, not in the one after: nothing is served late.
fn has_ended(end: Deadline, now: Now) -> bool {
    u64::from(end.0) * 1000 <= now.millis
}

fn total(model: &Model) -> u64 {
    model.values().map(|bindings| bindings.len() as u64).sum()
}

/// What `max_bindings` bounds: an AoR without a binding counts as one until its record is gone.
fn held(model: &Model) -> usize {
    model.values().map(|bindings| bindings.len().max(1)).sum()
}

fn is_same(location: &Location, model: &Model, now: Now) {
    for aor in 0..6 {
        let expected: Vec<_> = model.get(&aor).into_iter().flatten().copied().collect();
        let live: Vec<_> =
            expected.iter().filter(|(end, _)| !has_ended(*end, now)).copied().collect();
        let read = |r: Option<AorRecord<'_>>| {
            let read = |b: Binding<'_>| (b.deadline, b.flow.transport);
            let stored: Vec<_> = r.iter().flat_map(|r| r.stored()).map(read).collect();
            let live: Vec<_> = r.iter().flat_map(|r| r.bindings(now)).map(read).collect();
            (stored, live)
        };
        assert_eq!(location.read(name(aor).as_bytes(), read), (expected, live));
    }
    assert_eq!(location.bindings(), total(model));
    assert_eq!(location.aors(), model.values().filter(|b| !b.is_empty()).count() as u64);
    for transport in Transport::ALL {
        let expected = model.values().flatten().filter(|(_, t)| *t == transport).count();
        assert_eq!(location.bindings_by(transport), expected as u64, "{transport:?}");
    }
    let mut scanned = Vec::new();
    for part in 0..Location::PARTS {
        location.scan(part, None, |_, record| {
            scanned.push(String::from_utf8_lossy(record.aor()).into_owned());
            true
        });
    }
    scanned.sort();
    // A record without bindings and nonce counts is not there for anybody.
    let bound = model.iter().filter(|(_, bindings)| !bindings.is_empty());
    let mut names: Vec<_> = bound.map(|(&aor, _)| name(aor)).collect();
    names.sort();
    assert_eq!(scanned, names, "a scan shows each record once");
}

fn name(aor: usize) -> String {
    format!("user{aor}@example.com")
}

proptest! {
    #[test]
    fn any_history_leaves_what_a_map_would_hold(steps in steps()) {
        let location = Location::new([3; 16], MAX_BINDINGS);
        let feed = location.subscribe(10_000);
        let mut model = Model::new();
        let mut now = START;
        for step in steps {
            match step {
                Step::Commit(aor, bindings) => {
                    let end = |seconds| Deadline::after(now, DeltaSeconds(seconds));
                    let bindings: Vec<_> =
                        bindings.into_iter().map(|(s, t)| (end(s), Transport::ALL[t])).collect();
                    let octets = record(name(aor).as_bytes(), &bindings);
                    let committed = location
                        .update(name(aor).as_bytes(), (now, Cause::Registered), &mut Unrecorded, |entry| {
                            entry.commit(&octets)
                        });
                    let mut after = model.clone();
                    let grows = bindings.len() > model.get(&aor).map_or(0, Vec::len);
                    after.insert(aor, bindings);
                    let fits = !grows || held(&after) as u64 <= MAX_BINDINGS;
                    prop_assert_eq!(committed.is_ok(), fits);
                    if fits {
                        model = after;
                    }
                }
                Step::Remove(aor) => {
                    let when = (now, Cause::Removed);
                    location.update(name(aor).as_bytes(), when, &mut Unrecorded, |e| e.remove());
                    model.entry(aor).and_modify(Vec::clear);
                }
                Step::Pass(seconds, sweep) => {
                    now.millis += u64::from(seconds) * 1000;
                    now.unix += u64::from(seconds);
                    if sweep {
                        let before = total(&model);
                        for bindings in model.values_mut() {
                            bindings.retain(|(end, _)| !has_ended(*end, now));
                        }
                        let ended = before - total(&model);
                        prop_assert_eq!(location.sweep(now, &mut Unrecorded, |_| false), ended);
                    }
                }
            }
            is_same(&location, &model, now);
        }
        // Records without bindings were kept for their nonces: they go once those are spent.
        now.millis += 300_000;
        now.unix += 300;
        location.sweep(now, &mut Unrecorded, |_| true);
        is_same(&location, &Model::new(), now);

        let mut last = HashMap::new();
        for change in feed.changes().try_iter() {
            let before = last.insert(change.aor, change.sequence);
            prop_assert!(before.is_none_or(|before| before < change.sequence));
        }
    }
}
