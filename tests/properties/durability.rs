//! Nothing acknowledged is lost and nothing removed comes back, through any history of requests,
//! snapshots, faults of the disk, kills and power cuts.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use bindery::{
    config::settings::{Durability, OnDiskError},
    durability::{Basis, Journal, Pace, Progress, Saved, Snapshotter, WorkerLane},
    flow::Flow,
    location::Location,
    registrar::Policy,
    time::{Clock, Now},
    worker::{Answers, Arrived, Leave, Log, Pipeline},
};
use persist::{
    snapshot::Generations,
    storage::{
        Storage,
        faulty::{Fault, FaultyStorage},
        memory::{MemoryStorage, Survival},
    },
};
use proptest::{collection::vec, prelude::*};

use crate::{
    arrival::{START, udp_from},
    registrar::registrar,
};

const USERS: u8 = 3;
const CONTACTS: u8 = 3;
const WORKERS: usize = 2;
const NAME: &str = "regfile.snapshot";

/// A REGISTER: who, from which worker's socket, and what for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    worker: usize,
    user: u8,
    what: Wanted,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Bind {
        contact: u8,
        expires: u32,
    },
    Unbind {
        contact: u8,
    },
    Wipe,
    /// The last request of this user once more.
    Again,
}

#[derive(Clone, Debug)]
enum Step {
    Request(Asked),
    Pass(u64),
    Snapshot,
    /// A fault at the disk's step of this number from here on.
    Fault(u64, bool),
    /// The process ends; these come before what was saved is read; the new one may be killed, too,
    /// before it is.
    Kill {
        early: Vec<Asked>,
        again: bool,
        seed: u64,
    },
}

fn asked() -> impl Strategy<Value = Asked> {
    let bind = (0..CONTACTS, prop_oneof![Just(60_u32), Just(90), Just(600)])
        .prop_map(|(contact, expires)| Wanted::Bind { contact, expires });
    let what = prop_oneof![
        6 => bind,
        2 => (0..CONTACTS).prop_map(|contact| Wanted::Unbind { contact }),
        1 => Just(Wanted::Wipe),
        1 => Just(Wanted::Again),
    ];
    (0..WORKERS, 0..USERS, what).prop_map(|(worker, user, what)| Asked { worker, user, what })
}

fn step(with_faults: bool) -> impl Strategy<Value = Step> {
    let faults = u32::from(with_faults);
    prop_oneof![
        12 => asked().prop_map(Step::Request),
        2 => (1..100_u64).prop_map(Step::Pass),
        2 => Just(Step::Snapshot),
        faults => (0..20_u64, any::<bool>()).prop_map(|(at, full)| Step::Fault(at, full)),
        2 => (vec(asked(), 0..4), any::<bool>(), any::<u64>())
            .prop_map(|(early, again, seed)| Step::Kill { early, again, seed }),
    ]
}

#[derive(Clone)]
struct ManualClock(Rc<Cell<Now>>);

impl Clock for ManualClock {
    fn now(&self) -> Now {
        self.0.get()
    }
}

/// The answer to the one request of a batch.
#[derive(Default)]
struct Taken(Vec<u8>);

impl Answers for Taken {
    fn answer<E>(
        &mut self,
        _: &Flow,
        write: impl FnOnce(&mut [u8]) -> Result<(usize, std::net::SocketAddr), E>,
    ) -> Result<(), E> {
        let mut out = vec![0; 65_535];
        let (len, _) = write(&mut out)?;
        out.truncate(len);
        self.0 = out;
        Ok(())
    }
}

/// What a user's contacts are: CSeq, and the Unix second of the end.
type Bound = BTreeMap<u8, (u32, u64)>;

/// A registrar in one process, and what its users believe.
struct World {
    disk: MemoryStorage,
    faulty: FaultyStorage,
    durability: Durability,
    clock: ManualClock,
    location: Arc<Location>,
    pipelines: [Pipeline; WORKERS],
    journal: Arc<Journal>,
    lanes: Vec<WorkerLane>,
    generation: u32,
    users: Vec<User>,
}

struct User {
    /// What may be served: more than one thing after a request that was never answered.
    possible: Vec<Bound>,
    cseq: u32,
    last: Option<(Vec<u8>, Wanted, u32)>,
}

impl User {
    fn new() -> Self {
        Self { possible: vec![Bound::new()], cseq: 0, last: None }
    }
}

/// What is still bound at `unix`.
fn still(bound: &Bound, unix: u64) -> Bound {
    bound.iter().filter(|(_, (_, end))| *end > unix).map(|(c, b)| (*c, *b)).collect()
}

/// What a request makes of what is bound.
fn apply(bound: &Bound, what: Wanted, cseq: u32, unix: u64) -> Bound {
    let mut after = still(bound, unix);
    match what {
        Wanted::Bind { contact, expires } => {
            after.insert(contact, (cseq, unix + u64::from(expires)));
        }
        Wanted::Unbind { contact } => drop(after.remove(&contact)),
        Wanted::Wipe => after.clear(),
        Wanted::Again => {}
    }
    after
}

impl World {
    fn start(
        disk: MemoryStorage,
        durability: Durability,
        clock: ManualClock,
        users: Vec<User>,
    ) -> Self {
        let policy = Policy {
            auth_required: false,
            expires_min: Policy::default().expires_min,
            ..Policy::default()
        };
        let (pipelines, location) = registrar::<WORKERS>(&["example.com"], &[], policy);
        let faulty = FaultyStorage::new(disk.clone());
        let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
        let snapshots = Generations::new(Arc::clone(&storage), NAME, 1);
        let outlook = Saved { snapshots, journals: &*storage }.outlook().unwrap();
        location.raise_sequences(outlook.sequence);
        location.begin_loading(clock.now());
        let names: Arc<[Box<str>]> = Arc::from([Box::from("general")]);
        let how = (durability, OnDiskError::Refuse);
        let generation = outlook.generation;
        let journal =
            Journal::begin(storage, WORKERS, generation, clock.now().unix, &names, how).unwrap();
        let journal = Arc::new(journal);
        let lanes = (0..WORKERS).map(|n| WorkerLane::new(Arc::clone(&journal), n)).collect();
        Self {
            disk,
            faulty,
            durability,
            clock,
            location,
            pipelines,
            journal,
            lanes,
            generation,
            users,
        }
    }

    fn restore(&mut self) {
        let now = self.clock.now();
        let storage: Arc<dyn Storage> = Arc::new(self.faulty.clone());
        let snapshots = Generations::new(Arc::clone(&storage), NAME, 1);
        let names: Vec<Box<str>> = vec!["general".into()];
        let basis = Basis { rules: None, listeners: &names, now, threads: 2 };
        let restored = Saved { snapshots, journals: &*storage }
            .restore(&self.location, self.generation, basis, &Progress::default())
            .unwrap();
        assert_eq!(restored.unreadable, 0);
        if self.durability == Durability::Journal {
            // A kill takes nothing that was written: no alarm is raised for it.
            assert_eq!(restored.damaged, 0);
        }
        self.journal.change(|journal| self.location.end_loading(now, journal));
    }

    fn request(&mut self, asked: Asked) {
        let Asked { worker, user: number, mut what } = asked;
        let now = self.clock.now();
        let user = &mut self.users[usize::from(number)];
        let (datagram, cseq) = match what {
            Wanted::Again => {
                let Some((datagram, before, cseq)) = user.last.clone() else { return };
                what = before;
                (datagram, cseq)
            }
            _ => {
                user.cseq += 1;
                (spell(number, user.cseq, what), user.cseq)
            }
        };
        user.last = Some((datagram.clone(), what, cseq));
        let is_again = matches!(asked.what, Wanted::Again);
        let mut taken = Taken::default();
        let pipeline = &mut self.pipelines[worker];
        let leave = self.lanes[worker].batch(&mut |journal| {
            let arrived =
                Arrived { bytes: &datagram, flow: udp_from("192.0.2.9:5060"), truncated: false };
            pipeline.handle_all(now, std::iter::once(arrived), journal, &mut taken);
        });
        let is_saved = match leave {
            Leave::Now => true,
            Leave::Never => false,
            Leave::After(number) => {
                self.journal.sync(worker + 1);
                self.lanes[worker].settled().saved >= number
            }
        };
        let is_ok = taken.0.starts_with(b"SIP/2.0 200");
        if !is_ok {
            return;
        }
        let done = user.possible.iter().map(|bound| apply(bound, what, cseq, now.unix));
        let done: Vec<_> = done.collect();
        if is_again || !is_saved {
            // Done before, or just now, or not at all.
            user.possible.extend(done);
        } else {
            user.possible = done;
        }
    }

    fn snapshot(&mut self) -> bool {
        let storage: Arc<dyn Storage> = Arc::new(self.faulty.clone());
        let (mut snapshotter, _) = Snapshotter::new(
            Generations::new(Arc::clone(&storage), NAME, 1),
            (storage, Some(Arc::clone(&self.journal)), None),
            Arc::clone(&self.location),
            Arc::from([Box::from("general")]),
            self.clock.clone(),
            Arc::default(),
            Pace { interval: Duration::from_secs(60), ..Pace::default() },
        );
        // With a fault of the disk it fails, and that is all.
        snapshotter.take().is_ok() && !self.journal.is_behind()
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let Now { millis, unix } = self.clock.now();
            self.clock.0.set(Now { millis: millis + 1000, unix: unix + 1 });
            let now = self.clock.now();
            self.journal.change(|journal| self.location.sweep(now, journal, |_| true));
        }
    }

    fn kill(self, seed: u64) -> Self {
        let survival = match self.durability {
            Durability::Sync => Survival::Some(seed),
            Durability::Journal | Durability::Snapshot => Survival::All,
        };
        let disk = self.disk.crash(survival);
        // A new process's monotonic clock begins anew.
        let unix = self.clock.now().unix;
        self.clock.0.set(Now { millis: START.millis, unix });
        Self::start(disk, self.durability, self.clock, self.users)
    }

    /// Who is registered, as the users believe. Where memory is what the disk has, as `is_saved`
    /// says, what was in doubt is known then.
    fn check(&mut self, is_saved: bool) -> Result<(), TestCaseError> {
        let now = self.clock.now();
        for (number, user) in self.users.iter_mut().enumerate() {
            let aor = format!("u{number}@example.com");
            let served: Bound = self.location.read(aor.as_bytes(), |record| {
                let bindings = record.iter().flat_map(|record| record.bindings(now));
                bindings.map(|b| (b.uri[4] - b'0', (b.cseq, b.deadline.to_unix(now)))).collect()
            });
            let is_it = |bound: &Bound| still(bound, now.unix) == served;
            prop_assert!(
                user.possible.iter().any(is_it),
                "user {number}: {served:?}, not one of {:?}",
                user.possible
            );
            if is_saved {
                user.possible = vec![served];
            }
        }
        Ok(())
    }
}

/// A REGISTER of a user; the digit at octet 4 of a contact's URI says which it is.
fn spell(user: u8, cseq: u32, what: Wanted) -> Vec<u8> {
    let (contact, expires) = match what {
        Wanted::Bind { contact, expires } => (format!("<sip:{contact}@192.0.2.1>"), expires),
        Wanted::Unbind { contact } => (format!("<sip:{contact}@192.0.2.1>"), 0),
        Wanted::Wipe | Wanted::Again => ("*".to_owned(), 0),
    };
    format!(
        "REGISTER sip:example.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK{user}-{cseq}\r\n\
         From: <sip:u{user}@example.com>;tag=t\r\n\
         To: <sip:u{user}@example.com>\r\n\
         Call-ID: {user}\r\n\
         CSeq: {cseq} REGISTER\r\n\
         Contact: {contact}\r\n\
         Expires: {expires}\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn live(durability: Durability, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let clock = ManualClock(Rc::new(Cell::new(START)));
    let users = (0..USERS).map(|_| User::new()).collect();
    let mut world = World::start(MemoryStorage::new(), durability, clock, users);
    world.restore();
    for step in steps {
        let mut is_saved = false;
        match step {
            Step::Request(asked) => world.request(asked),
            Step::Pass(seconds) => world.pass(seconds),
            Step::Snapshot => is_saved = world.snapshot(),
            Step::Fault(at, true) => world.faulty.fail_at(at, Fault::Full),
            Step::Fault(at, false) => world.faulty.fail_at(at, Fault::Error),
            Step::Kill { early, again, seed } => {
                world = world.kill(seed);
                early.iter().for_each(|asked| world.request(*asked));
                if again {
                    world = world.kill(seed.wrapping_add(1));
                }
                world.restore();
                is_saved = true;
            }
        }
        world.check(is_saved)?;
    }
    let mut world = world.kill(7);
    world.restore();
    world.check(true)
}

/// A start on a disk that is full serves from memory, and saves all of it once there is room.
#[test]
fn a_start_on_a_full_disk_makes_up_for_it() {
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
    let names: Arc<[Box<str>]> = Arc::from([Box::from("general")]);
    let begin = |on_error| {
        faulty.fail_at(0, Fault::Full);
        let how = (Durability::Journal, on_error);
        Journal::begin(Arc::clone(&storage), WORKERS, 1, START.unix, &names, how)
    };
    assert!(begin(OnDiskError::Refuse).is_err());
    let journal = Arc::new(begin(OnDiskError::Serve).unwrap());
    assert!(journal.is_behind() && journal.fault().is_some());
    let (mut snapshotter, _) = Snapshotter::new(
        Generations::new(Arc::clone(&storage), NAME, 1),
        (Arc::clone(&storage), Some(Arc::clone(&journal)), None),
        Arc::new(Location::new([7; 16], 0)),
        names,
        ManualClock(Rc::new(Cell::new(START))),
        Arc::default(),
        Pace { interval: Duration::from_secs(60), ..Pace::default() },
    );
    snapshotter.take().unwrap();
    assert!(!journal.is_behind());
    assert_eq!(persist::journal::segments(&*storage).unwrap().len(), WORKERS + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_kill_loses_nothing(steps in vec(step(false), 1..40)) {
        live(Durability::Journal, steps)?;
    }

    #[test]
    fn a_power_cut_loses_nothing_that_was_synced(steps in vec(step(false), 1..40)) {
        live(Durability::Sync, steps)?;
    }

    #[test]
    fn a_fault_of_the_disk_loses_nothing_that_was_answered(steps in vec(step(true), 1..40)) {
        live(Durability::Journal, steps)?;
    }

    #[test]
    fn a_failed_sync_loses_nothing_that_was_answered(steps in vec(step(true), 1..40)) {
        live(Durability::Sync, steps)?;
    }
}
