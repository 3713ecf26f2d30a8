//! What is told of changes, of restarts and of what the feed had no room for.

use std::{collections::BTreeMap, path::PathBuf};

use arc_swap::ArcSwap;
use persist::storage::{Storage, memory::MemoryStorage};

use super::*;
use crate::{
    backend::listed,
    location::Unrecorded,
    registrar::{RecordWriter, binding_for_tests},
    time::{Deadline, DeltaSeconds, Moment, SystemClock},
};

/// A location service, and a herald of what happens in it.
struct World {
    shared: Shared,
    herald: Herald,
    /// Whether what is told outlives the process.
    is_kept: bool,
}

const ALICE: &str = "alice@example.com";

impl World {
    /// With a state folder, and what an earlier process left of the location service.
    fn new(storage: &MemoryStorage, before: impl FnOnce(&Shared)) -> Self {
        let shared = Shared {
            rules: Arc::new(ArcSwap::from_pointee(listed::tests::rules(&["example.com"]))),
            location: Arc::new(Location::new([2; 16], 0)),
            clock: Arc::new(SystemClock::new()),
            listeners: Arc::new([]),
            status: Arc::default(),
            spool: Some(SpoolFolder {
                storage: Arc::new(storage.clone()) as Arc<dyn Storage>,
                path: PathBuf::from("/nowhere"),
            }),
        };
        before(&shared);
        let changes = shared.location.subscribe(8);
        let herald = Herald::new(&shared, Some(changes));
        Self { shared, herald, is_kept: true }
    }

    /// What is told, as event, AoR and how many bindings there are.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let mut tell = |event: Event, aor: &[u8], write: Write<'_>| {
                let mut body = Object::of(event, "1", "crm", 0);
                write(&mut body);
                let json: serde_json::Value = serde_json::from_slice(&body.finish()).unwrap();
                assert_eq!(json["aor"].as_str().unwrap().as_bytes(), aor);
                let bindings = json["bindings"].as_array().unwrap().len();
                let cause = json["cause"].as_str().unwrap();
                told.push(format!("{} {cause} {bindings}", event.as_str()));
            };
            if !self.herald.look(&mut tell, || self.is_kept) {
                return told;
            }
        }
    }

    fn bind(&self, cause: Cause, uris: &[&str]) {
        bind(&self.shared, ALICE, cause, uris);
    }
}

/// What the bindings of an AoR become: the time of others is up if that is the cause.
fn bind(shared: &Shared, aor: &str, cause: Cause, uris: &[&str]) {
    let after = if cause == Cause::Expired { 700 } else { 0 };
    let Now { millis, unix } = shared.clock.now();
    let now = Now { millis: millis + 1000 * after, unix: unix + after };
    bind_at(shared, (now, 600), aor, cause, uris);
}

fn bind_at(shared: &Shared, (now, expires): (Now, u32), aor: &str, cause: Cause, uris: &[&str]) {
    let mut packed = Vec::new();
    let mut writer = RecordWriter::new(&mut packed, aor.as_bytes(), b"nonces").unwrap();
    for uri in uris {
        let mut binding = binding_for_tests(uri.as_bytes());
        binding.deadline = Deadline::after(now, DeltaSeconds(expires));
        binding.updated = Moment::of(now);
        writer.push(&binding).unwrap();
    }
    writer.finish();
    let change = |entry: &mut crate::location::Entry<'_>| entry.commit(&packed);
    let location = &shared.location;
    location.update(aor.as_bytes(), (now, cause), &mut Unrecorded, change).unwrap();
}

const NOTHING: [&str; 0] = [];
const ONE: &str = "sip:a@192.0.2.1";
const OTHER: &str = "sip:b@192.0.2.1";
const NEW: &str = "sip:c@192.0.2.1";

#[test]
fn changes_are_told_and_refreshes_are_not() {
    let mut world = World::new(&MemoryStorage::new(), |_| {});
    assert_eq!(world.told(), NOTHING);
    for (cause, uris, told) in [
        (Cause::Registered, &[ONE][..], &["registered registered 1"][..]),
        (Cause::Registered, &[ONE], &[]),
        (Cause::Registered, &[OTHER, ONE], &["registered registered 2"]),
        // Which was refreshed last is no change.
        (Cause::Registered, &[ONE, OTHER], &[]),
        (Cause::Expired, &[OTHER], &["expire expired 1"]),
        // Another in its place.
        (Cause::Registered, &[ONE], &["registered registered 1"]),
        (Cause::Removed, &[], &["unregister removed 0"]),
        (Cause::Registered, &[], &[]),
        (Cause::Registered, &[ONE, OTHER], &["registered registered 2"]),
        // Both, and one that is new.
        (Cause::Registered, &[NEW], &["unregister registered 1", "registered registered 1"]),
        (Cause::Registered, &[], &["unregister registered 0"]),
    ] {
        world.bind(cause, uris);
        assert_eq!(world.told(), told, "{uris:?}");
    }
}

#[test]
fn who_is_turned_down_while_the_start_looks_at_all_is_not_told_of() {
    let before = |shared: &Shared| bind(shared, ALICE, Cause::Registered, &[ONE, OTHER]);
    let mut world = World::new(&MemoryStorage::new(), before);
    // The use of a nonce is written down.
    bind(&world.shared, "mallory@example.com", Cause::Registered, &[]);
    // Nor is a refresh; but what goes that was there before the start.
    world.bind(Cause::Registered, &[OTHER, ONE]);
    world.bind(Cause::Registered, &[ONE]);
    assert!(world.herald.scan.is_some());
    assert_eq!(world.told(), ["unregister registered 1"]);
}

#[test]
fn what_the_start_has_seen_before_the_feed_is_told_once_and_in_order() {
    let mut world = World::new(&MemoryStorage::new(), |_| {});
    world.bind(Cause::Registered, &[ONE]);
    world.bind(Cause::Registered, &[]);
    world.bind(Cause::Registered, &[OTHER]);
    let mut told = Vec::new();
    while world.herald.scan.is_some() {
        world.herald.scan(&mut |event, _, _| told.push(event));
    }
    assert_eq!(told, [Event::Registered, Event::Unregister, Event::Registered]);
    assert_eq!(world.told(), NOTHING);
}

#[test]
fn what_has_ended_before_anybody_looks_is_told() {
    let mut world = World::new(&MemoryStorage::new(), |_| {});
    assert_eq!(world.told(), NOTHING);
    let shared = &world.shared;
    bind_at(shared, (shared.clock.now(), 1), ALICE, Cause::Registered, &[ONE]);
    while shared.location.read(ALICE.as_bytes(), |record| {
        record.is_some_and(|record| record.bindings(shared.clock.now()).next().is_some())
    }) {
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    shared.location.sweep(shared.clock.now(), &mut Unrecorded, |_| true);
    assert_eq!(world.told(), ["registered registered 1", "expire expired 0"]);
}

#[test]
fn what_was_there_before_is_told_only_after_a_crash() {
    let storage = MemoryStorage::new();
    let before = |shared: &Shared| {
        bind(shared, ALICE, Cause::Registered, &[ONE, OTHER]);
        bind(shared, "bob@example.com", Cause::Registered, &[]);
    };
    // Nobody was told anything: no crash.
    let mut world = World::new(&storage, before);
    assert_eq!(world.told(), NOTHING);
    world.bind(Cause::Registered, &[ONE, OTHER]);
    assert_eq!(world.told(), NOTHING);
    assert_eq!(world.herald.finish(true), 0);
    // A stop, and what ended before the next start.
    let mut world = World::new(&storage, |shared| {
        before(shared);
        bind(shared, "carol@example.com", Cause::Registered, &[ONE]);
    });
    world.bind(Cause::Expired, &[OTHER]);
    bind(&world.shared, "carol@example.com", Cause::Expired, &[]);
    assert_eq!(world.told(), ["expire expired 1", "expire expired 0"]);
    // A crash.
    drop(world);
    let mut world = World::new(&storage, before);
    let mut told = world.told();
    told.sort();
    assert_eq!(told, ["registered restored 2", "unregister restored 0"]);
    // What had been refreshed long before had been told.
    let temporary = format!("{MARK}.new");
    let mut mark = storage.create(&temporary).unwrap();
    mark.append(format!("{}\n", u64::from(u32::MAX)).as_bytes()).unwrap();
    storage.rename(&temporary, MARK).unwrap();
    assert_eq!(World::new(&storage, before).told(), ["unregister restored 0"]);
}

#[test]
fn what_a_stop_leaves_in_the_feed_is_told_by_the_next_start() {
    let storage = MemoryStorage::new();
    // As many as fit, and more than fit.
    for (bound, left) in [(1, 1), (8, 8), (10, 10)] {
        let mut world = World::new(&storage, |_| {});
        assert_eq!(world.told(), NOTHING);
        let names: Vec<_> = (0..bound).map(|number| format!("{number}@example.com")).collect();
        let all = |shared: &Shared| {
            names.iter().for_each(|aor| bind(shared, aor, Cause::Registered, &[ONE]));
        };
        all(&world.shared);
        // There was no time to look.
        assert_eq!(world.herald.finish(true), left);
        let mut world = World::new(&storage, all);
        assert_eq!(world.told(), vec!["registered restored 1"; bound]);
        // Now there was.
        assert_eq!(world.herald.finish(true), 0);
        assert_eq!(World::new(&storage, all).told(), NOTHING);
    }
}

#[test]
fn what_is_told_to_memory_only_is_told_again_by_the_next_start() {
    let older = |storage: &MemoryStorage| {
        // A mark of long ago.
        let _ = storage.remove(MARK);
        storage.create(MARK).unwrap().append(b"1800\n").unwrap();
    };
    let all = |shared: &Shared| bind(shared, ALICE, Cause::Registered, &[ONE]);
    for is_stopped in [false, true] {
        let storage = MemoryStorage::new();
        older(&storage);
        let mut world = World::new(&storage, |_| {});
        world.is_kept = false;
        world.bind(Cause::Registered, &[ONE]);
        assert_eq!(world.told(), ["registered registered 1"]);
        if is_stopped {
            assert_eq!(world.herald.finish(false), 0);
        }
        assert_eq!(storage.bytes(MARK).unwrap(), b"1800\n");
        let mut world = World::new(&storage, all);
        assert_eq!(world.told(), ["registered restored 1"]);
        // By then there is room on disk.
        assert_ne!(storage.bytes(MARK).unwrap(), b"1800\n");
        assert_eq!(world.herald.finish(true), 0);
        assert!(storage.bytes(MARK).unwrap().ends_with(b" stopped\n"));
    }
}

#[test]
fn what_was_missed_is_found() {
    let mut world = World::new(&MemoryStorage::new(), |_| {});
    world.bind(Cause::Registered, &[ONE]);
    assert_eq!(world.told(), ["registered registered 1"]);
    // More than the feed holds, and the end of one is beyond it.
    for number in 0..10 {
        bind(&world.shared, &format!("{number}@example.com"), Cause::Registered, &[ONE]);
    }
    world.bind(Cause::Registered, &[]);
    let mut told = world.told();
    told.sort();
    let mut all = vec!["registered registered 1"; 8];
    all.extend(["registered restored 1"; 2]);
    all.push("unregister restored 0");
    assert_eq!(told, all);
    assert_eq!(world.shared.status.hooks().changes_missed(), 3);
    world.bind(Cause::Registered, &[]);
    assert_eq!(world.told(), NOTHING);
}

#[test]
fn what_is_missed_while_all_is_looked_at_is_found_too() {
    // A quarter of an hour later, which is when the feed begins: what is older was told.
    let later = |shared: &Shared| {
        let Now { millis, unix } = shared.clock.now();
        Now { millis: millis + 900_000, unix: unix + 900 }
    };
    let names = |kind: &str| (0..20).map(|n| format!("{kind}{n}@example.com")).collect::<Vec<_>>();
    let (changed, gone, added) = (names("changed"), names("gone"), names("new"));
    let before = |shared: &Shared| {
        for aor in changed.iter().chain(&gone).chain(&names("same")) {
            bind_at(shared, (shared.clock.now(), 3600), aor, Cause::Registered, &[ONE]);
        }
    };
    for is_start in [true, false] {
        // After so many parts.
        for parts in [0, 1, Location::PARTS / 2, Location::PARTS - 1, Location::PARTS] {
            let mut world = World::new(&MemoryStorage::new(), before);
            let mut told = BTreeMap::new();
            if !is_start {
                assert_eq!(world.told(), NOTHING);
                world.herald.miss(1);
            }
            world.herald.begun = later(&world.shared).unix;
            (0..parts).for_each(|_| world.herald.scan(&mut |_, _, _| unreachable!()));
            let shared = &world.shared;
            let now = (later(shared), 3600);
            let bind = |aor: &String, uris| {
                bind_at(shared, now, aor, Cause::Registered, uris);
            };
            changed.iter().for_each(|aor| bind(aor, &[ONE, OTHER]));
            gone.iter().for_each(|aor| bind(aor, &[]));
            // The second change of each, of which there may be room for the first.
            added.iter().for_each(|aor| bind(aor, &[ONE]));
            added.iter().rev().for_each(|aor| bind(aor, &[ONE, OTHER]));
            let mut tell = |_: Event, aor: &[u8], write: Write<'_>| {
                let mut body = Object::of(Event::Registered, "1", "crm", 0);
                write(&mut body);
                let json: serde_json::Value = serde_json::from_slice(&body.finish()).unwrap();
                let aor = String::from_utf8(aor.to_vec()).unwrap();
                told.insert(aor, json["bindings"].as_array().unwrap().len());
            };
            while world.herald.look(&mut tell, || true) {}
            let all = changed.iter().chain(&added).map(|aor| (aor.clone(), 2));
            let all: BTreeMap<_, _> = all.chain(gone.iter().cloned().map(|aor| (aor, 0))).collect();
            assert_eq!(told, all, "{is_start} {parts}");
        }
    }
}
