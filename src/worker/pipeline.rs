//! One datagram's way through every layer: the page to read after `lib.rs`.
//!
//! ```text
//! is the source fit to be answered? ─> sip::Parser ─> Exchange: method, Require, domain,
//!     Contact and Path ─> auth::Authenticator ─> does the account own the AoR?
//!     ─> location.update(aor, |record| nonce counts, registrar::register, commit) ─> answer
//! ```

use std::{net::SocketAddr, sync::Arc};

use super::{
    answer::Unavailable,
    calls::Calls,
    counters::{AllCounters, Counters, DropReason},
    exchange::{Answered, Exchange, Space, Step},
    parking::{Learned, Parked, Parking, Unparked},
    register::{Ended, Registration, Texts},
    rules::{Rules, RulesCache, SharedRules},
};
use crate::{
    auth::Trials,
    flow::Flow,
    location::{AorKey, Location, Recorder, Unrecorded},
    net::is_answerable,
    sip::{Envelope, Method, Parsed, Parser, encode::destination},
    subscribers::LoginKey,
    time::Now,
};

/// A datagram as it came from a listener.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Its octets.
    pub bytes: &'a [u8],
    /// Its path.
    pub flow: Flow,
    /// Whether octets are missing at its end.
    pub truncated: bool,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// An answer was written.
    Answer {
        /// Its length.
        len: usize,
        /// Where it goes.
        to: SocketAddr,
    },
    /// There is none.
    Dropped(DropReason),
}

/// Where a pipeline leaves its answers.
pub trait Answers {
    /// Has `write` write an answer into room for the longest there is, and sends it: its length, and
    /// where it goes. `flow` is what the request came by.
    ///
    /// # Errors
    /// What `write` says; then nothing is sent.
    fn answer<E>(
        &mut self,
        flow: &Flow,
        write: impl FnOnce(&mut [u8]) -> Result<(usize, SocketAddr), E>,
    ) -> Result<(), E>;
}

/// Requests that go side by side: as many as the digests of two of the CPU's widest vectors. What
/// is known of them meanwhile fits into its first cache.
const GROUP: usize = 16;

/// Everything a worker has but its sockets: datagrams in, answers out.
#[derive(Debug)]
pub struct Pipeline {
    location: Arc<Location>,
    rules: RulesCache,
    counters: Arc<AllCounters>,
    worker: usize,
    places: Box<[Place]>,
    trials: Trials,
    /// Where the accounts of a group are.
    logins: Vec<LoginKey>,
    /// Where the records of a group are.
    keys: Vec<AorKey>,
    space: Space,
    /// Where requests wait for back ends, if there are any.
    parking: Option<Parking>,
    /// Requests for others, and their responses, if they are passed on.
    calls: Option<Calls>,
}

/// What one request of a group needs for itself.
#[derive(Debug)]
struct Place {
    parser: Parser,
    texts: Texts,
}

/// A request that waits for its group's digests.
#[derive(Debug)]
struct Waiting<'a> {
    envelope: Envelope<'a>,
    flow: Flow,
    hash: u64,
    registration: Registration<'a>,
    datagram: &'a [u8],
    learned: Option<&'a Learned>,
}

/// Why there is no answer.
enum Unanswered {
    Dropped(DropReason),
    /// Not yet.
    Waiting,
}

impl Pipeline {
    /// A pipeline that counts as worker `worker` of `counters`. `hash_key` is random, and the same
    /// for all workers, so that a retransmission gets its To tag again wherever it lands.
    pub fn new(
        location: Arc<Location>,
        rules: SharedRules,
        counters: Arc<AllCounters>,
        worker: usize,
        hash_key: [u8; 16],
    ) -> Self {
        let mut rules = RulesCache::new(rules);
        let limits = &rules.load().limits;
        let place = || Place { parser: Parser::new(limits.clone()), texts: Texts::default() };
        let places = (0..GROUP).map(|_| place()).collect();
        let trials = Trials::with_capacity(GROUP);
        let (logins, keys) = (Vec::with_capacity(GROUP), Vec::with_capacity(GROUP));
        let space = Space::new(hash_key);
        let (parking, calls) = (None, None);
        Self {
            location,
            rules,
            counters,
            worker,
            places,
            trials,
            logins,
            keys,
            space,
            parking,
            calls,
        }
    }

    /// Passes on requests for others, by `calls`.
    pub fn with_calls(self, calls: Calls) -> Self {
        Self { calls: Some(calls), ..self }
    }

    /// What is passed on.
    pub(super) fn calls(&mut self) -> Option<&mut Calls> {
        self.calls.as_mut()
    }

    /// Hands out what is passed on: the flow whose near end it leaves from, where it goes, its
    /// octets.
    pub fn pass_on(&mut self, mut send: impl FnMut(&Flow, SocketAddr, &[u8])) {
        if let Some(calls) = &mut self.calls {
            calls.sends().for_each(|(flow, to, octets)| send(flow, to, octets));
        }
        self.passed_on();
    }

    /// What was to be passed on has left: responses are counted, and all of it is forgotten.
    pub(super) fn passed_on(&mut self) {
        let counters = &self.counters[self.worker];
        if let Some(calls) = &mut self.calls {
            calls.responses().for_each(|(method, code)| counters.responded(method, code));
            calls.clear();
        }
    }

    /// What was to be passed on has left, but for what was at these places of
    /// [`Calls::sends`]: no way leads there.
    pub(super) fn unsent(&mut self, now: Now, places: &[usize]) {
        let lost = self.calls.as_ref().map(|calls| calls.taken_back(places)).unwrap_or_default();
        self.passed_on();
        if let Some(calls) = &mut self.calls {
            calls.unsent(now, self.rules.load(), &lost);
        }
    }

    /// Lets go of requests that are passed on, before the process ends.
    pub(super) fn stop_calls(&mut self, now: Now) {
        if let Some(calls) = &mut self.calls {
            calls.stop(now, self.rules.load());
        }
    }

    /// Does what is due for requests that are passed on.
    pub fn pass_time(&mut self, now: Now) {
        if let Some(calls) = &mut self.calls {
            calls.pass_time(now, self.rules.load());
        }
    }

    /// Has requests wait in `parking` for what only a back end knows.
    pub fn with_parking(self, parking: Parking) -> Self {
        Self { parking: Some(parking), ..self }
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters[self.worker]
    }

    #[cfg(test)]
    pub(super) fn rules_for_tests(&self) -> Arc<Rules> {
        self.rules.arc_swap().load_full()
    }

    /// Takes the rules in force, so that old ones can go even where no datagram comes.
    pub fn refresh(&mut self) {
        self.rules.load();
    }

    /// Handles one datagram, without a journal; an answer is written to the start of `out`, which
    /// should have room for the largest datagram there is.
    pub fn handle(&mut self, now: Now, arrived: Arrived<'_>, out: &mut [u8]) -> Handled {
        let mut only = Only { out, handled: None };
        let mut arrived = std::iter::once((arrived, None));
        let dropped = self.handle_group(now, &mut arrived, &mut Unrecorded, &mut only);
        let dropped = || Handled::Dropped(dropped.unwrap_or(DropReason::AnswerTooLong));
        only.handled.unwrap_or_else(dropped)
    }

    /// Handles the datagrams of a batch and tells `journal` what they change.
    ///
    /// Each is answered as if it had come alone. What takes the record of an AoR is done in the
    /// order of arrival; other answers may leave before it.
    pub fn handle_all<'b>(
        &mut self,
        now: Now,
        batch: impl Iterator<Item = Arrived<'b>>,
        journal: &mut dyn Recorder,
        answers: &mut impl Answers,
    ) {
        let mut batch = batch.map(|arrived| (arrived, None)).peekable();
        while batch.peek().is_some() {
            self.handle_group(now, &mut batch, journal, answers);
        }
    }

    /// Handles requests again that have come back from the back ends.
    pub fn handle_returned(
        &mut self,
        now: Now,
        returned: &[Parked],
        journal: &mut dyn Recorder,
        answers: &mut impl Answers,
    ) {
        if let Some(parking) = &mut self.parking {
            returned.iter().for_each(|parked| parking.came_back(parked));
        }
        let answerable = returned.iter().filter(|parked| !parked.question.is_behind());
        let mut batch = answerable.map(|parked| parked.again()).peekable();
        while batch.peek().is_some() {
            self.handle_group(now, &mut batch, journal, answers);
        }
    }

    /// Takes the room of requests that came back and are dealt with.
    pub fn reuse(&mut self, parked: impl Iterator<Item = Parked>) {
        if let Some(parking) = &mut self.parking {
            parked.for_each(|parked| parking.reuse(parked));
        }
    }

    /// Handles as many datagrams as go side by side. The result is why the last of those that were
    /// dropped was.
    fn handle_group<'b>(
        &mut self,
        now: Now,
        batch: &mut impl Iterator<Item = (Arrived<'b>, Option<&'b Learned>)>,
        journal: &mut dyn Recorder,
        answers: &mut impl Answers,
    ) -> Option<DropReason> {
        let Self {
            location,
            rules,
            counters,
            worker,
            places,
            trials,
            logins,
            keys,
            space,
            parking,
            calls,
        } = self;
        let counters = &counters[*worker];
        let rules = rules.load();
        let mut last = None;
        let mut drop = |reason| {
            counters.dropped(reason, 1);
            last = Some(reason);
        };
        trials.clear();
        // Not a constant, which would be copied whole: only its marks are set.
        let mut waiting: [_; GROUP] = std::array::from_fn(|_| None);
        for ((place, waits), (arrived, learned)) in places.iter_mut().zip(&mut waiting).zip(batch) {
            let flow = arrived.flow;
            let answered = answers.answer(&flow, |out| {
                let shared = Shared { now, rules, location, journal, counters, space };
                shared.open(place, arrived, learned, (parking, calls), waits, out)
            });
            match answered {
                Ok(()) | Err(Unanswered::Waiting) => {}
                Err(Unanswered::Dropped(reason)) => drop(reason),
            }
        }
        logins.clear();
        logins.extend(waiting.iter().flatten().filter_map(|w| w.registration.login()));
        rules.subscribers.touch(logins);
        for Waiting { registration, .. } in waiting.iter_mut().flatten() {
            registration.prove(now, rules, trials);
        }
        trials.compute();
        // Who proved nothing has no record fetched.
        keys.clear();
        for Waiting { registration, .. } in waiting.iter_mut().flatten() {
            registration.judge(trials);
            keys.extend(registration.key());
        }
        location.touch(keys);
        for waiting in waiting.iter().flatten() {
            let Waiting { envelope, flow, hash, registration, datagram, learned } = waiting;
            let mut park = |question| match parking {
                Some(parking) => parking.park((datagram, *flow), *hash, question, *learned),
                None => Err(Unparked::NoRoom),
            };
            let answered = answers.answer(flow, |out| {
                let mut shared = Shared { now, rules, location, journal, counters, space };
                let mut exchange = shared.exchange(envelope, *flow, *hash, out);
                let answered = match exchange.register(registration) {
                    Ended::Answered(answered) => answered,
                    Ended::Behind(answered, question) => {
                        // If there is no room, the next refresh asks.
                        let _ = park(question);
                        answered
                    }
                    Ended::Asks(question) => match park(question) {
                        Ok(()) => return Err(Unanswered::Waiting),
                        Err(Unparked::NoRoom) => exchange.no_back_end(Unavailable::Busy),
                        Err(Unparked::Waits) => {
                            return Err(Unanswered::Dropped(DropReason::Waiting));
                        }
                    },
                };
                finish(counters, envelope, flow, answered).map_err(Unanswered::Dropped)
            });
            match answered {
                Ok(()) | Err(Unanswered::Waiting) => {}
                Err(Unanswered::Dropped(reason)) => drop(reason),
            }
        }
        last
    }
}

/// What all requests of a group share.
struct Shared<'s, 'a> {
    now: Now,
    rules: &'a Rules,
    location: &'a Location,
    journal: &'s mut dyn Recorder,
    counters: &'a Counters,
    space: &'s mut Space,
}

impl<'a> Shared<'_, 'a> {
    /// Reads a datagram and answers what it takes neither a digest nor a record to answer; `waits`
    /// is for the others.
    fn open(
        mut self,
        place: &'a mut Place,
        arrived: Arrived<'a>,
        learned: Option<&'a Learned>,
        (parking, calls): (&mut Option<Parking>, &mut Option<Calls>),
        waits: &mut Option<Waiting<'a>>,
        out: &mut [u8],
    ) -> Result<(usize, SocketAddr), Unanswered> {
        let Arrived { bytes, flow, truncated } = arrived;
        if !is_answerable(flow.remote) {
            return Err(Unanswered::Dropped(DropReason::BadSource));
        }
        if truncated {
            return Err(Unanswered::Dropped(DropReason::Truncated));
        }
        let Place { parser, texts } = place;
        if *parser.limits() != self.rules.limits {
            *parser = Parser::new(self.rules.limits.clone());
        }
        let counters = self.counters;
        let parsed = parser.parse(bytes);
        let envelope = match &parsed {
            Parsed::Silence(silence) => return Err(Unanswered::Dropped((*silence).into())),
            Parsed::Rejected(rejected) => &rejected.envelope,
            Parsed::Response(response) => {
                let calls = calls.as_mut().ok_or(Unanswered::Dropped(DropReason::Response))?;
                let taken = calls.response(self.now, self.rules, response, bytes, flow);
                return Err(taken.map_or_else(Unanswered::Dropped, |()| Unanswered::Waiting));
            }
            Parsed::Request(request) => &request.envelope,
        };
        let hash = self.space.hash(envelope);
        let passes = self.rules.calls.enabled;
        if learned.is_none() {
            // Counted where it is handled.
            if let Parsed::Request(request) = &parsed
                && let Some(calls) = calls.as_ref().filter(|c| passes && c.is_for(request))
                && let Some(hopped) = calls.hop(request.call_id, bytes, flow)
            {
                return Err(hopped.map_or_else(Unanswered::Dropped, |()| Unanswered::Waiting));
            }
            counters.request(&envelope.method, flow.transport);
            if parking.as_ref().is_some_and(|parking| parking.has(hash, flow.remote)) {
                return Err(Unanswered::Dropped(DropReason::Waiting));
            }
        }
        if let Parsed::Request(request) = &parsed
            && let Some(calls) = calls.as_mut().filter(|calls| passes && calls.is_for(request))
        {
            let mut exchange = self.exchange(envelope, flow, hash, out);
            let taken = calls.request(&mut exchange, request, bytes, learned, parking.as_mut());
            return Err(taken.map_or_else(Unanswered::Dropped, |()| Unanswered::Waiting));
        }
        if envelope.method == Method::Ack {
            return Err(Unanswered::Dropped(DropReason::Ack));
        }
        let mut exchange = self.exchange(envelope, flow, hash, out);
        let answered = match &parsed {
            Parsed::Silence(_) | Parsed::Response(_) => None,
            Parsed::Rejected(rejected) => exchange.reject(rejected.fault),
            Parsed::Request(request) => match exchange.request(request, texts, learned) {
                Step::Answered(answered) => answered,
                Step::Waits(registration) => {
                    let envelope = *envelope;
                    let datagram = bytes;
                    *waits =
                        Some(Waiting { envelope, flow, hash, registration, datagram, learned });
                    return Err(Unanswered::Waiting);
                }
            },
        };
        finish(counters, envelope, &flow, answered).map_err(Unanswered::Dropped)
    }

    fn exchange<'x>(
        &'x mut self,
        envelope: &'x Envelope<'a>,
        flow: Flow,
        hash: u64,
        out: &'x mut [u8],
    ) -> Exchange<'x, 'a> {
        let Self { now, rules, location, journal, counters, space } = self;
        let (now, journal) = (*now, &mut **journal);
        let extra = None;
        Exchange {
            now,
            flow,
            envelope,
            hash,
            rules,
            location,
            journal,
            counters,
            space,
            out,
            extra,
        }
    }
}

/// Counts an answer, and tells where it goes.
fn finish(
    counters: &Counters,
    envelope: &Envelope<'_>,
    flow: &Flow,
    answered: Option<Answered>,
) -> Result<(usize, SocketAddr), DropReason> {
    let Answered { len, status } = answered.ok_or(DropReason::AnswerTooLong)?;
    counters.response(&envelope.method, status);
    Ok((len, destination(envelope, flow.remote)))
}

/// The answer to one datagram.
struct Only<'o> {
    out: &'o mut [u8],
    handled: Option<Handled>,
}

impl Answers for Only<'_> {
    fn answer<E>(
        &mut self,
        _: &Flow,
        write: impl FnOnce(&mut [u8]) -> Result<(usize, SocketAddr), E>,
    ) -> Result<(), E> {
        let (len, to) = write(self.out)?;
        self.handled = Some(Handled::Answer { len, to });
        Ok(())
    }
}
