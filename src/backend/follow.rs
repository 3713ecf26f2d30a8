//! Has the back ends follow the location service: what was bound, refreshed or ended is told to the
//! handlers of `user.register` and `user.unregister` behind the answers.
//!
//! The database's row of a user always shows a live phone (DESIGN §13.3), so what is told is how
//! the record of an AoR is now, not what happened to it: two changes may be told as one, and what
//! could not be told is told later. A refresh that changes nothing but the time is told only when
//! two thirds of what the row says are left, or less; a row is renewed before it ends in any case.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::{
    chain::{Dispatched, Failure},
    message::Message,
    request::{self, Context},
};
use crate::{
    flow::Flow,
    location::{Location, Trace, Trail},
    registrar::{AorRecord, Binding},
    subscribers::split_name,
    time::{Deadline, Now},
};

/// Messages that go to the handlers together.
const BATCH: usize = 500;

/// Seconds before a row ends by which it is told anew: longer than a database is slow.
const LEAD: u32 = 45;

/// Seconds of the longest pause after a failure; a database that is back is not left waiting.
const LONGEST_PAUSE: u32 = 8;

/// Seconds for which it is remembered that nobody is there: longer than a nonce is good, so that
/// what its uses leave on the record is not told.
const REMEMBERED: u32 = 900;

/// Seconds after which a contact that a handler took is bound, if it is at all.
const SOON: u32 = 2;

/// AoRs that are looked at in one go when all have to be.
const SCANNED: usize = 5000;

/// Traces that may wait: two seconds of a storm of 100,000 REGISTERs a second.
pub(super) const TRACES: usize = 1 << 18;

/// What the handlers were told of an AoR.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// A hash of where its phone is; `None` if there is none.
    place: Option<u64>,
    /// The monotonic second by which they think that it is gone.
    until: u32,
    /// Whether its user is known by the AoR with its domain; `None` while nobody has said so.
    qualified: Option<bool>,
    /// Whether it is to be looked at in a second that is noted.
    scheduled: bool,
}

/// How an AoR is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Present {
    place: u64,
    until: u32,
}

/// What is to be told, and what was.
#[derive(Debug)]
pub(super) struct Follower {
    told: HashMap<Box<[u8]>, Told>,
    waiting: VecDeque<Box<[u8]>>,
    is_waiting: HashSet<Box<[u8]>>,
    /// Of which a handler is being told: what is told next of one may not overtake that.
    busy: HashSet<Box<[u8]>>,
    /// When AoRs have to be looked at, whatever happens.
    visits: BTreeMap<u32, Vec<Box<[u8]>>>,
    /// How many may wait.
    capacity: usize,
    scan: Option<Scan>,
    /// Not before this second, after a failure, and how long that took.
    pause: Option<(u32, u32)>,
}

/// How far all AoRs have been looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    part: usize,
    after: Option<u64>,
}

/// What is told at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    aors: Vec<(Box<[u8]>, Option<Present>, bool)>,
    /// `user.register` or `user.unregister`, one for each AoR.
    pub(super) messages: Vec<Message>,
}

impl Batch {
    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Follower {
    /// One of whose AoRs up to `capacity` may wait; all are looked at first, since nobody knows what
    /// was told before.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            told: HashMap::new(),
            waiting: VecDeque::new(),
            is_waiting: HashSet::new(),
            busy: HashSet::new(),
            visits: BTreeMap::new(),
            capacity: capacity.max(BATCH),
            scan: Some(Scan::default()),
            pause: None,
        }
    }

    /// How many AoRs wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether anything waits, or has not been looked at.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.scan.is_some()
    }

    /// Whether rows of live phones may end before they are renewed, which is told in time else.
    pub(super) fn is_catching_up(&self) -> bool {
        self.scan.is_some() || self.pause.is_some()
    }

    /// Takes the traces of changes, rows that have to be renewed, and, where traces were lost, looks
    /// at the next of all AoRs.
    pub(super) fn look(&mut self, now: Now, location: &Location, trail: &Trail) {
        while self.has_room() {
            match trail.take() {
                Some(Trace::Changed(tag)) => {
                    location.traced(tag, |record| self.consider(now, &record));
                }
                Some(Trace::Gone(aor)) => self.want(aor),
                None => break,
            }
        }
        if trail.take_missed() {
            self.scan = Some(Scan::default());
        }
        while let Some(due) = self.visits.first_entry().filter(|due| *due.key() <= now.second()) {
            for aor in due.remove() {
                self.visit(now, location, aor);
            }
        }
        self.scan(now, location);
    }

    /// Looks at an AoR whose second has come.
    fn visit(&mut self, now: Now, location: &Location, aor: Box<[u8]>) {
        let Some(told) = self.told.get_mut(&aor) else { return };
        told.scheduled = false;
        let is_gone = told.place.is_none();
        let present = location.read(&aor, |record| {
            let last = record.as_ref().and_then(|record| last_bound(now, record));
            last.map(|binding| Present::of(&binding))
        });
        if is_gone && present.is_none() {
            self.told.remove(&aor);
        } else {
            self.compare(now, &aor, present);
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < self.capacity
    }

    fn scan(&mut self, now: Now, location: &Location) {
        let Some(Scan { part, after }) = self.scan else { return };
        if !self.has_room() || location.is_loading() {
            return;
        }
        let (mut left, mut last) = (SCANNED, None);
        location.scan(part, after, |cursor, record| {
            self.consider(now, &record);
            left -= 1;
            last = Some(cursor);
            left > 0
        });
        self.scan = if left == 0 {
            Some(Scan { part, after: last })
        } else {
            Some(Scan { part: part + 1, after: None }).filter(|s| s.part < Location::PARTS)
        };
    }

    /// Decides whether a record is to be told of, and when.
    fn consider(&mut self, now: Now, record: &AorRecord<'_>) {
        let present = last_bound(now, record).map(|binding| Present::of(&binding));
        self.compare(now, record.aor(), present);
    }

    fn compare(&mut self, now: Now, aor: &[u8], present: Option<Present>) {
        if self.is_waiting.contains(aor) {
            return;
        }
        let is_busy = self.busy.contains(aor);
        match (self.told.get_mut(aor), present) {
            _ if is_busy => self.want(aor.into()),
            (Some(told), Some(present)) if told.place == Some(present.place) => {
                let (row, phone) = (told.until, present.until);
                let left = |until: u32| u64::from(until.saturating_sub(now.second()));
                if row >= phone {
                    return;
                }
                if 3 * left(row) < 2 * left(phone) || left(row) <= u64::from(LEAD) {
                    self.want(aor.into());
                } else if !told.scheduled {
                    told.scheduled = true;
                    self.visits.entry(row - LEAD).or_default().push(aor.into());
                }
            }
            (Some(told), None) if told.place.is_none() => {}
            // Who is turned down leaves a record without bindings; what was told before this process
            // began, the scan has taken back.
            (None, None) if self.scan.is_none() => {}
            _ => self.want(aor.into()),
        }
    }

    fn want(&mut self, aor: Box<[u8]>) {
        if self.is_waiting.insert(aor.clone()) {
            self.waiting.push_back(aor);
        }
    }

    /// What to tell next, as it is now; nothing after a failure, for a while.
    pub(super) fn next(&mut self, location: &Location, context: &Context<'_>) -> Batch {
        let now = context.now;
        let mut batch = Batch::default();
        if self.pause.is_some_and(|(until, _)| now.second() < until) {
            return batch;
        }
        let (mut name, mut busy) = (None, Vec::new());
        while batch.messages.len() < BATCH {
            let Some(aor) = self.waiting.pop_front() else { break };
            if self.busy.contains(&aor) {
                busy.push(aor);
                continue;
            }
            let is_flat = context.rules.domains.is_flat();
            let qualified = self.told.get(&aor).and_then(|told| told.qualified);
            // Of two users that it may be, the one whose name is the whole address goes first.
            let qualified = !is_flat && qualified.unwrap_or(true);
            let message = location.read(&aor, |record| {
                let best = record.as_ref().and_then(|record| last_bound(now, record));
                let (user, domain) = names(&aor, is_flat, qualified)?;
                Some(match best {
                    Some(binding) => {
                        let message = request::bound(user, domain, &binding, context);
                        (message, Some(Present::of(&binding)))
                    }
                    None => (request::unbound(user, domain), None),
                })
            });
            let Some((message, present)) = message else {
                // A name that is not text: no back end can know it.
                self.is_waiting.remove(&aor);
                continue;
            };
            if name.is_some_and(|name| name != message.name) {
                // One name at a time.
                self.waiting.push_front(aor);
                break;
            }
            name = Some(message.name);
            self.is_waiting.remove(&aor);
            self.busy.insert(aor.clone());
            batch.aors.push((aor, present, qualified));
            batch.messages.push(message);
        }
        busy.into_iter().rev().for_each(|aor| self.waiting.push_front(aor));
        batch
    }

    /// Takes note of what became of a batch. The result is why it failed, if any of it did.
    pub(super) fn done(
        &mut self,
        now: Now,
        batch: Batch,
        dispatched: Vec<Dispatched>,
    ) -> Option<String> {
        let mut failure = None;
        for ((aor, present, qualified), dispatched) in batch.aors.into_iter().zip(dispatched) {
            self.busy.remove(&aor);
            match dispatched {
                // Somebody else took it, and it is still owed to who could not.
                Dispatched::Handled { by, failed: true } => {
                    failure.get_or_insert_with(|| format!("only {by} could be told"));
                    self.want(aor);
                }
                Dispatched::Failed(Failure { reason, is_outage: true }) => {
                    failure.get_or_insert(reason);
                    self.want(aor);
                }
                // Nothing to do about it before the record changes.
                Dispatched::Failed(Failure { is_outage: false, .. }) => {
                    self.tell(now, aor, present, None);
                }
                Dispatched::Handled { failed: false, .. } => {
                    self.tell(now, aor, present, Some(qualified));
                }
                Dispatched::Unhandled
                    if qualified && present.is_some() && split_name(&aor).is_some() =>
                {
                    // Then it is a user of that name in any domain.
                    self.tell(now, aor.clone(), None, Some(false));
                    self.want(aor);
                }
                Dispatched::Unhandled if present.is_some() => {
                    // Whoever it is may be there the next time.
                    self.tell(now, aor.clone(), present, None);
                    if let Some(told) = self.told.get_mut(&aor) {
                        told.until = now.second();
                    }
                }
                // A row that showed nobody, or none: `user.unregister` is nobody's to handle.
                Dispatched::Unhandled => self.tell(now, aor, present, None),
            }
        }
        self.pause = failure.as_ref().map(|_| {
            let wait = self.pause.map_or(1, |(_, wait)| (2 * wait).min(LONGEST_PAUSE));
            (now.second() + wait, wait)
        });
        failure
    }

    /// Notes that a handler is being asked whether a contact of an AoR may be bound; `false` if it
    /// is being told of that AoR anyhow, which has to end first.
    pub(super) fn begin(&mut self, aor: &[u8]) -> bool {
        self.busy.insert(aor.into())
    }

    /// Takes note of what that came to.
    pub(super) fn end(&mut self, now: Now, aor: &[u8], asked: Asked) {
        self.busy.remove(aor);
        match asked {
            Asked::Nothing => return,
            Asked::Taken { present, qualified } => {
                self.tell(now, aor.into(), Some(present), Some(qualified));
            }
            Asked::Unknown => {
                let nowhere = Present { place: 0, until: 0 };
                self.tell(now, aor.into(), Some(nowhere), None);
            }
        }
        // Whether it is bound is seen then.
        self.visit_in(now, SOON, aor.into());
    }

    fn tell(
        &mut self,
        now: Now,
        aor: Box<[u8]>,
        present: Option<Present>,
        qualified: Option<bool>,
    ) {
        let told = self.told.entry(aor.clone());
        let nothing = Told { place: None, until: 0, qualified: None, scheduled: false };
        let told = told.or_insert(nothing);
        told.place = present.map(|present| present.place);
        told.until = present.map_or(0, |present| present.until);
        told.qualified = qualified;
        if present.is_none() {
            // Remembered for a while: a record without bindings still changes.
            self.visit_in(now, REMEMBERED, aor);
        }
    }

    fn visit_in(&mut self, now: Now, seconds: u32, aor: Box<[u8]>) {
        self.visits.entry(now.second() + seconds).or_default().push(aor);
    }
}

/// What came of asking whether a contact may be bound.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// Nobody was told anything.
    Nothing,
    /// A handler took it.
    Taken {
        /// Where the phone is.
        present: Present,
        /// Whether the handler knows the user by the AoR with its domain.
        qualified: bool,
    },
    /// Perhaps it did.
    Unknown,
}

impl Present {
    /// A phone at `uri`, which sends over `flow`.
    pub(super) fn at(uri: &[u8], flow: &Flow, until: Deadline) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(uri);
        flow.remote.hash(&mut hasher);
        hasher.write_u8(flow.listener.0);
        Self { place: hasher.finish(), until: until.0 }
    }

    fn of(binding: &Binding<'_>) -> Self {
        Self::at(binding.uri, &binding.flow, binding.deadline)
    }
}

/// The binding that the row shows: the one registered last. Of those of one second it is the first,
/// as in the answer to the phone.
fn last_bound<'r>(now: Now, record: &AorRecord<'r>) -> Option<Binding<'r>> {
    let later = |last: Binding<'r>, next: Binding<'r>| {
        if next.updated > last.updated { next } else { last }
    };
    record.bindings(now).reduce(later)
}

/// The username and the domain of an AoR, as handlers know them; `None` if they are not text.
fn names(aor: &[u8], is_flat: bool, qualified: bool) -> Option<(&str, &str)> {
    let whole = std::str::from_utf8(aor).ok()?;
    let (user, domain) =
        if is_flat { (whole, "") } else { whole.rsplit_once('@').unwrap_or((whole, "")) };
    Some((if qualified { whole } else { user }, domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::{
            Authenticator, NonceKeys,
            policy::{self, Algorithm},
        },
        backend::message::MessageName,
        location::{Cause, Unrecorded},
        registrar::{Domains, Policy, RecordWriter, binding_for_tests},
        sip::Limits,
        subscribers::builder::Builder,
        time::{DeltaSeconds, Moment},
        worker::{Elsewhere, Rules},
    };

    fn rules() -> Rules {
        let policy = policy::Policy {
            realm: "example.com".into(),
            algorithms: [Algorithm::Md5].into(),
            nonce_lifetime: DeltaSeconds(300),
            qop_auth: true,
        };
        Rules {
            domains: Domains::new(["example.com"]),
            autocreate: false,
            registrar: Policy::default(),
            authenticator: Authenticator::new(policy, NonceKeys::from_bytes(&[7; 32])).unwrap(),
            subscribers: Builder::new("example.com", &[Algorithm::Md5]).build(),
            elsewhere: Elsewhere::default(),
            server: None,
            limits: Limits::default(),
            calls: crate::proxy::Policy::default(),
        }
    }

    /// A location service, and a database that follows it.
    struct World {
        rules: Rules,
        location: Location,
        follower: Follower,
        now: Now,
    }

    const ALICE: &[u8] = b"alice@example.com";

    impl World {
        fn new() -> Self {
            let location = Location::new([2; 16], 0);
            location.trail(TRACES);
            let now = Now { millis: 5_000_000, unix: 1_800_000_000 };
            let mut world = Self { rules: rules(), location, follower: Follower::new(10), now };
            // Nothing is there yet; the first scan finds that out.
            for _ in 0..Location::PARTS {
                world.look();
            }
            assert!(!world.follower.is_behind());
            world
        }

        fn pass(&mut self, seconds: u64) {
            self.now.millis += 1000 * seconds;
            self.now.unix += seconds;
        }

        /// Binds `aor` to these URIs, each for so many seconds; the last is the one bound last.
        fn bind(&self, aor: &[u8], bindings: &[(&str, u32)]) {
            let mut packed = Vec::new();
            let mut writer = RecordWriter::new(&mut packed, aor, b"").unwrap();
            for ((uri, seconds), updated) in bindings.iter().zip(1..) {
                let mut binding = binding_for_tests(uri.as_bytes());
                binding.deadline = Deadline::after(self.now, DeltaSeconds(*seconds));
                binding.updated = Moment(updated);
                writer.push(&binding).unwrap();
            }
            writer.finish();
            let when = (self.now, Cause::Registered);
            let committed =
                self.location.update(aor, when, &mut Unrecorded, |entry| entry.commit(&packed));
            assert_eq!(committed, Ok(()));
        }

        fn look(&mut self) {
            let trail = self.location.trail(TRACES);
            self.follower.look(self.now, &self.location, trail);
        }

        fn next(&mut self) -> Batch {
            self.look();
            let context = Context { rules: &self.rules, now: self.now, listeners: &[] };
            self.follower.next(&self.location, &context)
        }

        /// What is told next, and taken: `data`, or nothing for `user.unregister`.
        fn told(&mut self) -> Vec<Option<String>> {
            self.told_with(handled())
        }

        fn told_with(&mut self, dispatched: Dispatched) -> Vec<Option<String>> {
            let batch = self.next();
            let told = batch.messages.iter().map(|message| match message.name {
                MessageName::UserRegister => message.get("data").map(str::to_owned),
                _ => None,
            });
            let (told, count) = (told.collect(), batch.messages.len());
            self.follower.done(self.now, batch, vec![dispatched; count]);
            told
        }
    }

    fn handled() -> Dispatched {
        Dispatched::Handled { by: "db".into(), failed: false }
    }

    fn failed(is_outage: bool) -> Dispatched {
        Dispatched::Failed(Failure { reason: "down".to_owned(), is_outage })
    }

    fn at(uri: &str) -> Vec<Option<String>> {
        vec![Some(format!("sip/{uri}"))]
    }

    const GONE: [Option<String>; 1] = [None];

    #[test]
    fn the_row_shows_the_phone_that_came_last_while_there_is_one() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert_eq!(world.told(), at("sip:a@192.0.2.1:5062"));
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600), ("sip:b@192.0.2.1:5062", 600)]);
        assert_eq!(world.told(), at("sip:b@192.0.2.1:5062"));
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert_eq!(world.told(), at("sip:a@192.0.2.1:5062"));
        world.bind(ALICE, &[]);
        assert_eq!(world.told(), GONE);
        // What else happens to a record without bindings is of no concern.
        world.bind(ALICE, &[]);
        assert_eq!(world.told(), []);
    }

    #[test]
    fn who_was_never_bound_is_not_told_to_have_gone() {
        let mut world = World::new();
        world.bind(b"mallory@example.com", &[]);
        assert_eq!(world.told(), []);
        // Nor is who comes and goes before anybody looks.
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        world.bind(ALICE, &[]);
        assert_eq!(world.told(), []);
    }

    #[test]
    fn refreshes_are_told_in_time_and_not_each() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 3600)]);
        assert_eq!(world.told().len(), 1);
        let (mut told, mut row) = (0, world.now.second() + 3600);
        for _ in 0..400 {
            world.pass(30);
            world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 3600)]);
            if !world.told().is_empty() {
                told += 1;
                row = world.now.second() + 3600;
            }
            assert!(row > world.now.second() + LEAD, "a timer could take it for gone");
        }
        assert_eq!(told, 400 * 30 / 1230, "each time more than a third has passed");
    }

    #[test]
    fn a_row_is_renewed_before_it_ends_though_nothing_happens() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 3600)]);
        assert_eq!(world.told().len(), 1);
        world.pass(1000);
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 3600)]);
        assert_eq!(world.told(), []);
        world.pass(2599 - u64::from(LEAD));
        assert_eq!(world.told(), []);
        world.pass(1);
        assert_eq!(world.told().len(), 1);
    }

    #[test]
    fn short_lives_are_told_each_time() {
        let mut world = World::new();
        for _ in 0..5 {
            world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 60)]);
            assert_eq!(world.told().len(), 1);
            world.pass(30);
        }
    }

    #[test]
    fn a_change_while_one_is_told_is_told_after_it() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert_eq!(world.told().len(), 1);
        world.bind(ALICE, &[("sip:b@192.0.2.1:5062", 600)]);
        let batch = world.next();
        assert_eq!(batch.messages.len(), 1);
        // As it was told before the other: nothing to say, but for what is under way.
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert!(world.next().is_empty(), "not before that has come");
        world.follower.done(world.now, batch, vec![handled()]);
        assert_eq!(world.told(), at("sip:a@192.0.2.1:5062"));
    }

    #[test]
    fn what_was_asked_for_is_not_told_again_unless_it_came_to_nothing() {
        let mut world = World::new();
        let binding = binding_for_tests(b"sip:a@192.0.2.1:5062");
        let until = Deadline::after(world.now, DeltaSeconds(600));
        let present = Present::at(binding.uri, &binding.flow, until);
        assert!(world.follower.begin(ALICE));
        assert!(!world.follower.begin(ALICE), "one at a time");
        world.follower.end(world.now, ALICE, Asked::Taken { present, qualified: false });
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert_eq!(world.told(), []);
        world.pass(u64::from(SOON));
        assert_eq!(world.told(), []);

        let present = Present::at(b"sip:b@192.0.2.1:5062", &binding.flow, until);
        assert!(world.follower.begin(ALICE));
        world.follower.end(world.now, ALICE, Asked::Taken { present, qualified: false });
        assert_eq!(world.told(), [], "it may still be bound");
        world.pass(u64::from(SOON));
        assert_eq!(world.told(), at("sip:a@192.0.2.1:5062"));
    }

    #[test]
    fn what_could_not_be_told_is_told_later() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        let down = || failed(true);
        assert_eq!(world.told_with(down()).len(), 1);
        assert_eq!(world.told(), [], "not at once");
        for pause in [1, 2, 4, 8, 8] {
            world.pass(pause);
            assert_eq!(world.told_with(down()).len(), 1, "{pause}");
        }
        world.pass(u64::from(LONGEST_PAUSE));
        assert_eq!(world.told().len(), 1);
        assert!(!world.follower.is_behind());
    }

    #[test]
    fn the_user_with_the_whole_address_as_a_name_goes_first() {
        let mut world = World::new();
        let name = |batch: &Batch| batch.messages[0].get("username").map(str::to_owned);
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        let batch = world.next();
        assert_eq!(name(&batch).as_deref(), Some("alice@example.com"));
        world.follower.done(world.now, batch, vec![Dispatched::Unhandled]);
        let batch = world.next();
        assert_eq!(name(&batch).as_deref(), Some("alice"));
        world.follower.done(world.now, batch, vec![Dispatched::Unhandled]);
        assert!(world.next().is_empty(), "nobody's, then");
        // Until it comes again: the user may be there by then.
        world.pass(30);
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        let batch = world.next();
        assert_eq!(name(&batch).as_deref(), Some("alice@example.com"));
        world.follower.done(world.now, batch, vec![handled()]);
        world.bind(ALICE, &[]);
        let batch = world.next();
        assert_eq!(name(&batch).as_deref(), Some("alice@example.com"));
    }

    #[test]
    fn what_is_refused_for_good_keeps_up_nobody() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert_eq!(world.told_with(failed(false)).len(), 1);
        assert!(!world.follower.is_behind() && !world.follower.is_catching_up());
        world.bind(ALICE, &[("sip:b@192.0.2.1:5062", 600)]);
        assert_eq!(world.told(), at("sip:b@192.0.2.1:5062"));
    }

    #[test]
    fn what_somebody_else_took_is_still_owed() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        let by_another = Dispatched::Handled { by: "regfile".into(), failed: true };
        assert_eq!(world.told_with(by_another).len(), 1);
        world.pass(u64::from(LONGEST_PAUSE));
        assert_eq!(world.told(), at("sip:a@192.0.2.1:5062"));
    }

    #[test]
    fn a_question_without_an_answer_leaves_the_row_to_be_told() {
        let mut world = World::new();
        world.bind(ALICE, &[("sip:a@192.0.2.1:5062", 600)]);
        assert_eq!(world.told().len(), 1);
        assert!(world.follower.begin(ALICE));
        world.follower.end(world.now, ALICE, Asked::Unknown);
        world.pass(u64::from(SOON));
        assert_eq!(world.told(), at("sip:a@192.0.2.1:5062"));
    }

    #[test]
    fn all_are_looked_at_where_traces_were_lost() {
        let mut world = World::new();
        for user in 0..30 {
            let aor = format!("{user}@example.com");
            world.bind(aor.as_bytes(), &[("sip:a@192.0.2.1:5062", 600)]);
        }
        // As after a restart: nobody knows what was told.
        world.follower = Follower::new(BATCH);
        let trail = world.location.trail(TRACES);
        while trail.take().is_some() {}
        let mut told = 0;
        for _ in 0..=Location::PARTS {
            told += world.told().len();
        }
        assert_eq!(told, 30);
    }
}
