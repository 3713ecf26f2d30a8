//! Requests that wait for what a worker can't know: a password in a database, a script's verdict.
//!
//! A worker never waits with them. It copies the datagram into room that was there before, hands
//! that to the back ends, and goes on; what comes back is handled from the start again, with what
//! was learned beside it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam::channel::{Receiver, Sender};
use mio::Waker;
use tokio::sync::Notify;

use super::{pipeline::Arrived, ways::LookedUp};
use crate::{flow::Flow, proxy::Routed, subscribers::Known, time::DeltaSeconds};

/// What a back end is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who the user is that the credentials name: `user.auth`.
    Auth,
    /// The same, though the request was answered already, by what was known before.
    Renew,
    /// Whether the contacts may be bound: `user.register`.
    Register,
    /// Where the request goes: `call.preroute`, `call.route`.
    Route,
    /// The servers that its targets name ([`Learned::hops`]).
    Resolve,
    /// Nothing: its password was wrong, and it was answered so: `user.authfail`.
    AuthFailed,
}

impl Question {
    /// Whether nobody waits for the answer.
    pub fn is_behind(self) -> bool {
        matches!(self, Self::Renew | Self::AuthFailed)
    }
}

/// What the back ends said of one request.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// To [`Question::Auth`].
    pub account: Option<Learnt<Arc<Known>>>,
    /// To [`Question::Register`].
    pub registered: Option<Learnt<Registered>>,
    /// To [`Question::Route`].
    pub routed: Option<Learnt<Arc<Routed>>>,
    /// Header lines that go with the answer, or with the request if it is passed on
    /// ([`crate::sip::extra`]).
    pub extra: Option<Arc<[u8]>>,
    /// The account that the request proved to come from, as its credentials name it.
    pub caller: Option<Box<[u8]>>,
    /// Whether its From names an address of that account.
    pub owns_from: bool,
    /// To [`Question::Resolve`]: what each name came to, or that it is asked for.
    pub hops: Vec<LookedUp>,
}

/// An answer of the back ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learnt<T> {
    /// This.
    Is(T),
    /// None of those that could know was able to say.
    Unavailable,
}

/// What `user.register` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// A handler took it, and grants so much where it says how much.
    Taken {
        /// Whatever was asked for.
        granted: Option<DeltaSeconds>,
    },
    /// No handler knows the user.
    Unhandled,
    /// A handler turned it down, with a code from 300 to 699.
    Refused(u16),
}

/// A request that waits, and the room for the next one.
#[derive(Debug)]
pub struct Parked {
    /// The worker that parked it.
    pub worker: usize,
    /// Its octets.
    pub datagram: Vec<u8>,
    /// Its path.
    pub flow: Flow,
    /// What is asked.
    pub question: Question,
    /// What has been learned of it.
    pub learned: Learned,
    /// What tells it from others, but not from its retransmissions.
    hash: u64,
}

impl Parked {
    /// It, as if it had just come, and what has been learned of it.
    pub(super) fn again(&self) -> (Arrived<'_>, Option<&Learned>) {
        let arrived = Arrived { bytes: &self.datagram, flow: self.flow, truncated: false };
        (arrived, Some(&self.learned))
    }
}

/// Where the back ends leave what they are done with.
#[derive(Clone, Debug)]
pub struct Returns {
    lanes: Arc<[Lane]>,
}

/// Where one worker's requests come back.
#[derive(Debug)]
struct Lane {
    sender: Sender<Parked>,
    waker: OnceLock<Arc<Waker>>,
}

impl Returns {
    /// One lane for each worker, and what each worker takes its own from.
    pub fn new(workers: usize) -> (Self, Vec<Receiver<Parked>>) {
        let lanes = (0..workers).map(|_| crossbeam::channel::unbounded());
        let (senders, receivers): (Vec<_>, Vec<_>) = lanes.unzip();
        let lane = |sender| Lane { sender, waker: OnceLock::new() };
        let lanes = senders.into_iter().map(lane).collect();
        (Self { lanes }, receivers)
    }

    /// Has `waker` woken for what comes back to `worker`.
    pub fn wake_by(&self, worker: usize, waker: Arc<Waker>) {
        if let Some(lane) = self.lanes.get(worker) {
            let _ = lane.waker.set(waker);
        }
    }

    /// Gives a request back to its worker. No more can be under way than workers have parked, so
    /// the lane needs no bound of its own.
    pub fn give_back(&self, parked: Parked) {
        let Some(Lane { sender, waker }) = self.lanes.get(parked.worker) else { return };
        // At a stop nobody listens any more. A waker that fails has its worker look a second later,
        // when the next one wakes it.
        if sender.send(parked).is_ok()
            && let Some(waker) = waker.get()
            && let Err(error) = waker.wake()
        {
            tracing::error!(%error, "can't wake a worker");
        }
    }
}

/// Where workers put their questions.
#[derive(Clone, Debug)]
pub struct Questions {
    sender: Sender<Parked>,
    bell: Arc<Notify>,
    /// How many requests wait, of all workers.
    waiting: Arc<AtomicU64>,
}

impl Questions {
    /// A bounded channel of questions, and the bell that is rung for each.
    pub fn channel(capacity: usize) -> (Self, Receiver<Parked>, Arc<Notify>) {
        let (sender, receiver) = crossbeam::channel::bounded(capacity);
        let bell = Arc::new(Notify::new());
        let waiting = Arc::default();
        (Self { sender, bell: Arc::clone(&bell), waiting }, receiver, bell)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    #[expect(clippy::result_large_err, reason = "its room is used for the next")]
    fn put(&self, parked: Parked) -> Result<(), Parked> {
        self.sender.try_send(parked).map_err(crossbeam::channel::TrySendError::into_inner)?;
        self.bell.notify_one();
        Ok(())
    }
}

/// One worker's requests that wait.
#[derive(Debug)]
pub struct Parking {
    worker: usize,
    questions: Questions,
    free: Vec<Parked>,
    /// How many more there may be.
    left: usize,
    waiting: HashMap<u64, SocketAddr>,
    /// How many of those that are away are long.
    long: usize,
}

/// Why a request can't wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unparked {
    /// As many wait as may, or as many long ones, or nobody answers any more.
    NoRoom,
    /// It does already.
    Waits,
}

/// Octets of a request that is like others: more than headers take that mean anything to a registrar.
const USUAL: usize = 8192;

/// Requests longer than that which may wait at once, up to the longest datagram each: 4 MiB for each
/// worker, whatever strangers send.
const MAX_LONG: usize = 64;

/// Octets of room that are kept for the next request.
const KEPT: usize = 2048;

impl Parking {
    /// Room for `capacity` requests of `worker`, which are put to `questions`.
    pub fn new(worker: usize, capacity: usize, questions: Questions) -> Self {
        let waiting = HashMap::with_capacity(capacity);
        Self { worker, questions, free: Vec::new(), left: capacity, waiting, long: 0 }
    }

    /// Whether this request, or one that it repeats, waits.
    pub(super) fn has(&self, hash: u64, source: SocketAddr) -> bool {
        !self.waiting.is_empty() && self.waiting.get(&hash) == Some(&source)
    }

    /// Has a request wait for an answer; what was learned of it before goes along.
    pub(super) fn park(
        &mut self,
        (datagram, flow): (&[u8], Flow),
        hash: u64,
        question: Question,
        learned: Option<&Learned>,
    ) -> Result<(), Unparked> {
        // Another of the same batch may have been parked a moment ago.
        if self.has(hash, flow.remote) {
            return Err(Unparked::Waits);
        }
        let is_long = datagram.len() > USUAL;
        if is_long && self.long >= MAX_LONG {
            return Err(Unparked::NoRoom);
        }
        let mut parked = match self.free.pop() {
            Some(parked) => parked,
            None => {
                self.left = self.left.checked_sub(1).ok_or(Unparked::NoRoom)?;
                Parked {
                    worker: self.worker,
                    datagram: Vec::new(),
                    flow,
                    question,
                    learned: Learned::default(),
                    hash,
                }
            }
        };
        parked.datagram.clear();
        parked.datagram.extend_from_slice(datagram);
        (parked.flow, parked.question, parked.hash) = (flow, question, hash);
        parked.learned = learned.cloned().unwrap_or_default();
        match self.questions.put(parked) {
            Ok(()) => {
                self.long += usize::from(is_long);
                if !question.is_behind() {
                    self.waiting.insert(hash, flow.remote);
                    self.questions.waiting.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(parked) => {
                self.free.push(parked);
                Err(Unparked::NoRoom)
            }
        }
    }

    /// Takes note that a request has come back: it may be parked again.
    pub(super) fn came_back(&mut self, parked: &Parked) {
        if parked.datagram.len() > USUAL {
            self.long = self.long.saturating_sub(1);
        }
        if !parked.question.is_behind() {
            self.waiting.remove(&parked.hash);
            self.questions.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes the room of a request that is dealt with.
    pub(super) fn reuse(&mut self, mut parked: Parked) {
        parked.datagram.clear();
        parked.datagram.shrink_to(KEPT);
        self.free.push(parked);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::{
        auth::{
            Authenticator, Ha1Set, NonceKeys, Secret,
            policy::{self, Algorithm},
        },
        calls::CallBook,
        flow::{ListenerId, Transport},
        location::{Location, Unrecorded},
        proxy::{By, Goal, Resolved, TokenKey, Unreachable},
        registrar::{Domains, Policy},
        sip::Limits,
        subscribers::{Fetched, FetchedCache, Lifetimes, builder::Builder},
        time::Now,
        worker::{
            Answers, AskAuth, AskRegister, Calls, CallsShared, Counters, DropReason, Elsewhere,
            Handled, Hops, Pipeline, Rules,
        },
    };

    const REALM: &str = "example.com";

    /// A worker without sockets, and the back ends' end of its questions.
    pub(in crate::worker) struct World {
        pub(in crate::worker) pipeline: Pipeline,
        location: Arc<Location>,
        questions: Receiver<Parked>,
        waiting: Questions,
        pub(in crate::worker) now: Now,
        cseq: u32,
        nonce: String,
        nc: u32,
    }

    /// What was answered, in order.
    #[derive(Default)]
    struct Said(Vec<String>);

    impl Answers for Said {
        fn answer<E>(
            &mut self,
            _: &Flow,
            write: impl FnOnce(&mut [u8]) -> Result<(usize, SocketAddr), E>,
        ) -> Result<(), E> {
            let mut space = [0; 4096];
            let (len, _) = write(&mut space)?;
            self.0.push(String::from_utf8_lossy(&space[..len]).into_owned());
            Ok(())
        }
    }

    fn flow() -> Flow {
        Flow {
            listener: ListenerId(0),
            transport: Transport::Udp,
            local: None,
            remote: ([192, 0, 2, 1], 5060).into(),
        }
    }

    pub(in crate::worker) fn account(password: &str) -> Known {
        let algorithms = [Algorithm::Md5];
        let ha1 = Ha1Set::of_password(&algorithms, b"alice", REALM.as_bytes(), password.as_bytes());
        Known::Account(Fetched { secret: Secret::Ha1(ha1), granted: None, params: [].into() })
    }

    impl World {
        fn new(register: AskRegister, room: usize) -> Self {
            Self::make(register, room, false)
        }

        fn make(register: AskRegister, room: usize, route: bool) -> Self {
            Self::by(register, room, |rules| rules.elsewhere.route = route)
        }

        /// A world whose rules are changed before it begins.
        pub(in crate::worker) fn by(
            register: AskRegister,
            room: usize,
            change: impl FnOnce(&mut Rules),
        ) -> Self {
            let policy = policy::Policy {
                realm: REALM.into(),
                algorithms: [Algorithm::Md5].into(),
                nonce_lifetime: DeltaSeconds(300),
                qop_auth: true,
            };
            let lifetimes = Lifetimes {
                found: DeltaSeconds(100),
                negative: DeltaSeconds(10),
                stale: DeltaSeconds(1000),
            };
            let mut rules = Rules {
                domains: Domains::new([REALM]),
                autocreate: false,
                registrar: Policy::default(),
                authenticator: Authenticator::new(policy, NonceKeys::from_bytes(&[7; 32])).unwrap(),
                subscribers: Builder::new(REALM, &[Algorithm::Md5]).build(),
                elsewhere: Elsewhere {
                    auth: AskAuth::BeforeListed,
                    register,
                    route: false,
                    fetched: Some(Arc::new(FetchedCache::new(10, lifetimes))),
                    scripts: None,
                },
                server: None,
                limits: Limits::default(),
                calls: crate::proxy::Policy::default(),
            };
            change(&mut rules);
            let location = Arc::new(Location::new([1; 16], 0));
            let counters = Arc::from(vec![crossbeam::utils::CachePadded::new(Counters::default())]);
            let rules = Arc::new(ArcSwap::from_pointee(rules));
            let (waiting, questions, _) = Questions::channel(100);
            let pipeline = Pipeline::new(Arc::clone(&location), rules, counters, 0, [2; 16])
                .with_parking(Parking::new(0, room, waiting.clone()));
            let (hops, _) = Hops::new(1);
            let calls = CallsShared {
                book: Arc::new(CallBook::new(1)),
                hops,
                spent: Arc::default(),
                token: TokenKey::new([3; 16]),
                key: [4; 16],
                listeners: [([192, 0, 2, 9], 5060).into()].into(),
            };
            let pipeline = pipeline.with_calls(Calls::new(calls, 0, None));
            let now = Now { millis: 1_000_000, unix: 1_800_000_000 };
            let (cseq, nc, nonce) = (0, 0, String::new());
            Self { pipeline, location, questions, waiting, now, cseq, nonce, nc }
        }

        fn pass(&mut self, seconds: u64) {
            self.now.millis += 1000 * seconds;
            self.now.unix += seconds;
        }

        /// The next INVITE of alice to bob, by this password.
        pub(in crate::worker) fn invite(&mut self, password: &str) -> String {
            self.of_method(password, "INVITE", "bob@example.com")
                .replace("To: <sip:alice@", "To: <sip:bob@")
                .replace("Authorization:", "Proxy-Authorization:")
        }

        /// The next REGISTER of alice, by this password.
        fn request(&mut self, password: &str) -> String {
            self.of_method(password, "REGISTER", "example.com")
        }

        /// What was passed on, or answered by the proxy: first lines and where they went.
        pub(in crate::worker) fn passed_on(&mut self) -> Vec<(String, SocketAddr)> {
            let calls = self.pipeline.calls().unwrap();
            let first = |octets: &[u8]| {
                let line = octets.split(|&b| b == b'\r').next().unwrap_or_default();
                String::from_utf8_lossy(line).into_owned()
            };
            let sent = calls.sends().map(|(_, to, octets)| (first(octets), to)).collect();
            calls.clear();
            sent
        }

        pub(in crate::worker) fn of_method(
            &mut self,
            password: &str,
            method: &str,
            uri: &str,
        ) -> String {
            self.cseq += 1;
            self.nc += 1;
            let md5 = |parts: [&str; 3]| {
                let [a, b, c] = parts.map(str::as_bytes);
                let hash = Ha1Set::of_password(&[Algorithm::Md5], a, b, c).md5.unwrap();
                hash.map(|b| format!("{b:02x}")).concat()
            };
            let (cseq, nonce, nc) = (self.cseq, &self.nonce, format!("{:08x}", self.nc));
            let (ha1, ha2) = (md5(["alice", REALM, password]), md5([method, "sip", uri]));
            let response = md5([&ha1, nonce, &format!("{nc}:cn:auth:{ha2}")]);
            format!(
                "{method} sip:{uri} SIP/2.0\r\n\
                 Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{cseq}\r\n\
                 From: <sip:alice@example.com>;tag=t\r\n\
                 To: <sip:alice@example.com>\r\n\
                 Call-ID: c\r\n\
                 CSeq: {cseq} {method}\r\n\
                 Contact: <sip:alice@192.0.2.1>\r\n\
                 Authorization: Digest username=\"alice\", realm=\"{REALM}\", nonce=\"{nonce}\", \
                 uri=\"sip:{uri}\", response=\"{response}\", algorithm=MD5, qop=auth, \
                 nc={nc}, cnonce=\"cn\"\r\n\
                 Content-Length: 0\r\n\r\n"
            )
        }

        pub(in crate::worker) fn challenged(&mut self) {
            let text = self.request("");
            let (_, answer) = self.send(&text);
            let (_, rest) = answer.split_once("nonce=\"").unwrap();
            self.nonce = rest.split('"').next().unwrap().to_owned();
            self.nc = 0;
        }

        fn send(&mut self, text: &str) -> (Handled, String) {
            let mut space = [0; 4096];
            let arrived = Arrived { bytes: text.as_bytes(), flow: flow(), truncated: false };
            let handled = self.pipeline.handle(self.now, arrived, &mut space);
            let len = if let Handled::Answer { len, .. } = handled { len } else { 0 };
            (handled, String::from_utf8_lossy(&space[..len]).into_owned())
        }

        pub(in crate::worker) fn code(&mut self, text: &str) -> String {
            self.send(text).1.get(8..11).unwrap_or("none").to_owned()
        }

        /// What waits, of this kind.
        pub(in crate::worker) fn asked(&mut self, question: Question) -> Parked {
            let parked = self.questions.try_recv().expect("a question");
            assert_eq!(parked.question, question);
            parked
        }

        /// Gives back what was asked; the codes of what that draws.
        pub(in crate::worker) fn give_back(&mut self, parked: Parked) -> Vec<String> {
            let mut said = Said::default();
            let returned = [parked];
            self.pipeline.handle_returned(self.now, &returned, &mut Unrecorded, &mut said);
            self.pipeline.reuse(returned.into_iter());
            said.0.iter().map(|text| text[8..11].to_owned()).collect()
        }

        pub(in crate::worker) fn keep(&self, known: Known) {
            let cache = self.pipeline.rules_for_tests().elsewhere.fetched.clone().unwrap();
            cache.keep(self.now, cache.generation(), b"alice", REALM.as_bytes(), &Arc::new(known));
        }
    }

    #[test]
    fn a_call_is_routed_by_who_is_asked_and_its_credentials_count_once() {
        let mut world = World::make(AskRegister::Never, 4, true);
        world.keep(account("secret"));
        world.challenged();
        let text = world.invite("secret");
        assert_eq!(world.code(&text), "none");
        let from: SocketAddr = ([192, 0, 2, 1], 5060).into();
        assert_eq!(world.passed_on(), [("SIP/2.0 100 Trying".to_owned(), from)]);
        let mut parked = world.asked(Question::Route);
        assert_eq!(parked.learned.caller.as_deref(), Some(&b"alice"[..]));
        let goal = Goal::Uri((*b"sip:900@192.0.2.77:5080").into());
        parked.learned.routed = Some(Learnt::Is(Arc::new(Routed::To(vec![vec![goal]]))));
        assert_eq!(world.give_back(parked), [""; 0]);
        let invite = "INVITE sip:900@192.0.2.77:5080 SIP/2.0".to_owned();
        assert_eq!(world.passed_on(), [(invite, ([192, 0, 2, 77], 5080).into())]);
        // Who has seen the credentials gets nowhere with them.
        let replayed = text.replace("z9hG4bK", "z9hG4bKx").replace("Call-ID: c", "Call-ID: d");
        world.code(&replayed);
        let [(answer, _)] = &*world.passed_on() else { panic!("one answer") };
        assert_eq!(answer, "SIP/2.0 407 Proxy Authentication Required");
    }

    #[test]
    fn a_call_that_no_handler_wants_is_refused_until_that_is_acknowledged() {
        let mut world = World::make(AskRegister::Never, 4, true);
        world.keep(account("secret"));
        world.challenged();
        for (routed, code) in [
            (Learnt::Is(Routed::Unknown), "404"),
            (Learnt::Is(Routed::Refused(486)), "486"),
            (Learnt::Unavailable, "503"),
        ] {
            let text = world.invite("secret");
            world.code(&text);
            world.passed_on();
            let mut parked = world.asked(Question::Route);
            parked.learned.routed = Some(match routed {
                Learnt::Is(routed) => Learnt::Is(Arc::new(routed)),
                Learnt::Unavailable => Learnt::Unavailable,
            });
            world.give_back(parked);
            let [(answer, _)] = &*world.passed_on() else { panic!("one answer") };
            assert_eq!(answer.get(8..11), Some(code));
            world.now.millis += 600;
            world.pipeline.pass_time(world.now);
            assert_eq!(world.passed_on().len(), 1, "it comes again");
            let ack = text.replace("INVITE", "ACK");
            world.code(&ack);
            world.now.millis += 2000;
            world.pipeline.pass_time(world.now);
            assert_eq!(world.passed_on(), []);
        }
    }

    /// Has alice call these, in groups; what is asked next.
    fn calls_out(world: &mut World, groups: &[&[&str]]) -> Parked {
        let text = world.invite("secret");
        assert_eq!(world.code(&text), "none");
        world.passed_on();
        let mut parked = world.asked(Question::Route);
        let goal = |uri: &&str| Goal::Uri(uri.as_bytes().into());
        let groups = groups.iter().map(|group| group.iter().map(goal).collect()).collect();
        parked.learned.routed = Some(Learnt::Is(Arc::new(Routed::To(groups))));
        assert_eq!(world.give_back(parked), [""; 0]);
        assert_eq!(world.passed_on(), []);
        world.asked(Question::Resolve)
    }

    pub(in crate::worker) fn at(addr: &str) -> Resolved {
        Ok(Arc::from([Box::from([addr.parse().unwrap()])]))
    }

    #[test]
    fn a_call_to_a_name_waits_until_that_is_looked_up() {
        let mut world = World::make(AskRegister::Never, 4, true);
        world.keep(account("secret"));
        world.challenged();
        let groups = [&["sip:b@example.net", "sip:b@192.0.2.77"][..], &["sip:b@example.org:5080"]];
        let mut parked = calls_out(&mut world, &groups);
        let hosts: Vec<_> = parked.learned.hops.iter().map(|(n, _)| (&*n.host, n.by)).collect();
        assert_eq!(hosts, [("example.net", By::Naptr), ("example.org", By::Port(5080))]);
        parked.learned.hops[0].1 = Some(at("198.51.100.1:5090"));
        parked.learned.hops[1].1 = Some(Err(Unreachable::Unanswered));
        assert_eq!(world.give_back(parked), [""; 0]);
        let invite = |uri: &str, to: &str| (format!("INVITE {uri} SIP/2.0"), to.parse().unwrap());
        let sent = [
            invite("sip:b@example.net", "198.51.100.1:5090"),
            invite("sip:b@192.0.2.77", "192.0.2.77:5060"),
        ];
        assert_eq!(world.passed_on(), sent);
        assert_eq!(world.waiting.waiting(), 0);
    }

    #[test]
    fn a_call_to_a_name_that_leads_nowhere_is_refused() {
        let mut world = World::make(AskRegister::Never, 4, true);
        world.keep(account("secret"));
        world.challenged();
        for (resolved, code) in [
            (Err(Unreachable::Unknown), "404"),
            (Err(Unreachable::Unanswered), "504"),
            (Err(Unreachable::Transport), "500"),
            (at("192.0.2.9:5060"), "482"),
            (at("224.0.0.1:5060"), "500"),
            (at("[2001:db8::1]:5060"), "500"),
        ] {
            let mut parked = calls_out(&mut world, &[&["sip:b@example.net"]]);
            parked.learned.hops[0].1 = Some(resolved);
            world.give_back(parked);
            let [(answer, _)] = &*world.passed_on() else { panic!("one answer") };
            assert_eq!(answer.get(8..11), Some(code));
        }
    }

    #[test]
    fn who_gives_up_while_a_name_is_looked_up_is_told_so_at_once() {
        let mut world = World::make(AskRegister::Never, 4, true);
        world.keep(account("secret"));
        world.challenged();
        let mut parked = calls_out(&mut world, &[&["sip:b@example.net"]]);
        let invite = String::from_utf8(parked.datagram.clone()).unwrap();
        world.code(&invite.replace("INVITE", "CANCEL"));
        let codes: Vec<_> =
            world.passed_on().into_iter().map(|(answer, _)| answer[8..11].to_owned()).collect();
        assert_eq!(codes, ["200", "487"]);
        parked.learned.hops[0].1 = Some(at("198.51.100.1:5060"));
        world.give_back(parked);
        assert_eq!(world.passed_on(), []);
    }

    #[test]
    fn strangers_leave_nothing_behind() {
        let mut world = World::make(AskRegister::Never, 4, true);
        let text = world.invite("secret");
        for (text, code) in [
            (text.replace("From: <sip:alice@example.com>", "From: <sip:x@evil.example>"), "403"),
            (text.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=2"), "481"),
            (text.replace("Call-ID", "Max-Forwards: 0\r\nCall-ID"), "483"),
            (text.replace("Call-ID", "Proxy-Require: x\r\nCall-ID"), "420"),
            (text.clone(), "407"),
        ] {
            world.code(&text);
            let [(answer, _)] = &*world.passed_on() else { panic!("one answer") };
            assert_eq!(answer.get(8..11), Some(code), "{text}");
            world.now.millis += 40_000;
            world.pipeline.pass_time(world.now);
            assert_eq!(world.passed_on(), []);
        }
    }

    fn taken() -> Option<Learnt<Registered>> {
        Some(Learnt::Is(Registered::Taken { granted: None }))
    }

    #[test]
    fn who_nobody_knows_yet_is_asked_for_once() {
        let mut world = World::new(AskRegister::Never, 2);
        world.challenged();
        let text = world.request("secret");
        assert_eq!(world.code(&text), "none");
        assert_eq!(world.waiting.waiting(), 1);
        // Sent again while it waits.
        assert_eq!(world.send(&text).0, Handled::Dropped(DropReason::Waiting));
        let mut parked = world.asked(Question::Auth);
        assert!(world.questions.try_recv().is_err());
        parked.learned.account = Some(Learnt::Is(Arc::new(account("secret"))));
        assert_eq!(world.give_back(parked), ["200"]);
        assert_eq!((world.location.bindings(), world.waiting.waiting()), (1, 0));
        // The answer was lost: the same one again, and nobody is asked for what is kept.
        world.keep(account("secret"));
        assert_eq!(world.code(&text), "200");
    }

    #[test]
    fn what_is_learned_is_judged_as_ever() {
        for (learnt, code) in [
            (Learnt::Is(account("other")), "401"),
            (Learnt::Is(Known::Unknown), "401"),
            (Learnt::Is(Known::Listed), "401"),
            (Learnt::Is(Known::Refused(480)), "480"),
            (Learnt::Unavailable, "503"),
        ] {
            let mut world = World::new(AskRegister::Never, 2);
            world.challenged();
            let text = world.request("secret");
            world.send(&text);
            let mut parked = world.asked(Question::Auth);
            parked.learned.account = Some(match learnt {
                Learnt::Is(known) => Learnt::Is(Arc::new(known)),
                Learnt::Unavailable => Learnt::Unavailable,
            });
            assert_eq!(world.give_back(parked), [code]);
            assert_eq!(world.location.bindings(), 0);
        }
    }

    #[test]
    fn a_new_contact_waits_and_a_refresh_does_not() {
        let mut world = World::new(AskRegister::New, 2);
        world.keep(account("secret"));
        world.challenged();
        let text = world.request("secret");
        world.send(&text);
        assert_eq!(world.location.bindings(), 0, "not before it is allowed");
        let mut parked = world.asked(Question::Register);
        parked.learned.registered = taken();
        assert_eq!(world.give_back(parked), ["200"]);
        let text = world.request("secret");
        assert_eq!(world.code(&text), "200");
        assert!(world.questions.try_recv().is_err());
    }

    #[test]
    fn a_contact_that_is_turned_down_is_not_bound_and_its_nonce_is_spent() {
        for (learnt, code) in [
            (Learnt::Is(Registered::Unhandled), "404"),
            (Learnt::Is(Registered::Refused(486)), "486"),
            (Learnt::Unavailable, "503"),
        ] {
            let mut world = World::new(AskRegister::New, 2);
            world.keep(account("secret"));
            world.challenged();
            let text = world.request("secret");
            world.send(&text);
            let mut parked = world.asked(Question::Register);
            parked.learned.registered = Some(learnt);
            assert_eq!(world.give_back(parked), [code]);
            assert_eq!(world.location.bindings(), 0);
        }
    }

    #[test]
    fn always_means_refreshes_too() {
        let mut world = World::new(AskRegister::Always, 2);
        world.keep(account("secret"));
        world.challenged();
        for _ in 0..2 {
            let text = world.request("secret");
            world.send(&text);
            let mut parked = world.asked(Question::Register);
            parked.learned.registered = taken();
            assert_eq!(world.give_back(parked), ["200"]);
        }
    }

    #[test]
    fn a_stale_account_will_do_for_a_refresh_and_is_asked_for_behind_it() {
        let mut world = World::new(AskRegister::Never, 2);
        world.keep(account("secret"));
        world.challenged();
        let text = world.request("secret");
        assert_eq!(world.code(&text), "200");
        world.pass(150);
        let text = world.request("secret");
        assert_eq!(world.code(&text), "200");
        let mut parked = world.asked(Question::Renew);
        assert_eq!(world.waiting.waiting(), 0, "it waits for nothing");
        parked.learned.account = Some(Learnt::Is(Arc::new(Known::Unknown)));
        assert_eq!(world.give_back(parked), [""; 0]);

        // For a contact that is new it is not good enough.
        let text = world.request("secret").replace("Contact: <sip:alice@", "Contact: <sip:other@");
        assert_eq!(world.code(&text), "none");
        let mut parked = world.asked(Question::Auth);
        parked.learned.account = Some(Learnt::Is(Arc::new(account("changed"))));
        assert_eq!(world.give_back(parked), ["401"]);
        assert_eq!(world.location.bindings(), 1);
    }

    #[test]
    fn with_no_room_left_a_request_is_told_to_come_again() {
        let mut world = World::new(AskRegister::Never, 1);
        world.challenged();
        let text = world.request("secret");
        assert_eq!(world.code(&text), "none");
        let more = world.request("secret");
        let (_, answer) = world.send(&more);
        assert!(answer.starts_with("SIP/2.0 503 ") && answer.contains("Retry-After"), "{answer}");
        // The room is there again once the first is dealt with.
        let mut parked = world.asked(Question::Auth);
        parked.learned.account = Some(Learnt::Unavailable);
        assert_eq!(world.give_back(parked), ["503"]);
        let text = world.request("secret");
        assert_eq!(world.code(&text), "none");
    }

    #[test]
    fn few_long_requests_wait_and_any_number_of_others() {
        let mut world = World::new(AskRegister::Never, 100);
        world.challenged();
        let long = |world: &mut World| {
            let filler = format!("X-Filler: {}\r\nCall-ID", "x".repeat(USUAL));
            let text = world.request("secret").replacen("Call-ID", &filler, 1);
            world.send(&text).1
        };
        for number in 0..MAX_LONG {
            assert_eq!(long(&mut world), "", "{number}");
        }
        for _ in 0..2 {
            let answer = long(&mut world);
            let is_told = answer.starts_with("SIP/2.0 503 ") && answer.contains("Retry-After: ");
            assert!(is_told, "{answer}");
        }
        // One that is like others still waits.
        let usual = world.request("secret");
        assert_eq!(world.code(&usual), "none");
        assert_eq!(world.waiting.waiting(), MAX_LONG as u64 + 1);
        // Each that comes back makes room for another.
        let mut parked = world.asked(Question::Auth);
        assert!(parked.datagram.len() > USUAL);
        parked.learned.account = Some(Learnt::Unavailable);
        assert_eq!(world.give_back(parked), ["503"]);
        assert_eq!(long(&mut world), "");
        assert!(long(&mut world).starts_with("SIP/2.0 503 "));
    }

    #[test]
    fn a_request_that_was_overtaken_is_judged_by_what_is_there_now() {
        let mut world = World::new(AskRegister::New, 4);
        world.keep(account("secret"));
        world.challenged();
        let (first, second) = (world.request("secret"), world.request("secret"));
        world.send(&first);
        let mut first = world.asked(Question::Register);
        world.send(&second);
        let mut second = world.asked(Question::Register);
        second.learned.registered = taken();
        assert_eq!(world.give_back(second), ["200"]);
        first.learned.registered = taken();
        // Its CSeq is behind, and so is its nonce count: it could as well be a replay.
        assert_eq!(world.give_back(first), ["401"]);
        assert_eq!(world.location.bindings(), 1);
    }
}
