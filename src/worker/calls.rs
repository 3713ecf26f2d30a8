//! Requests for somebody else, and responses: a worker's part of the proxy.
//!
//! All that has one Call-ID is one worker's, so that calls need no lock: what comes to another's
//! socket hops over. What is sent is collected in [`Effects`], and leaves at the end of a turn.

mod caller;
mod routing;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt, net::SocketAddr, sync::Arc};

use self::{
    caller::{Admitted, Caller},
    routing::{Called, Reached, contacts},
};
use super::{
    answer::{RETRY_AFTER_FAULT, RETRY_AFTER_LOADING},
    cause::Cause,
    counters::DropReason,
    exchange::Exchange,
    hops::Hops,
    parking::{Learned, Parking, Question, Unparked},
    rules::Rules,
    spent::Spent,
    ways::Ways,
};
use crate::{
    auth::{RequestHash, Trials},
    calls::{CallBook, InUse},
    flow::Flow,
    proxy::{
        self, Call, CallEvent, ContextId, Core, Effects, End, Goal, Matched, Mode, Named, Parties,
        Plan, Refused, Routed, Target, Terms, TokenKey, max_forwards,
    },
    registrar::Aor,
    sip::{
        Limits, Method, Request, Response, Status,
        encode::destination,
        header::{HeaderName, option_tags},
        uri::{SipUri, unescape_into},
    },
    time::Now,
};

/// Where the events of calls go.
pub trait CallLog: fmt::Debug + Send {
    /// Takes an event; never waits.
    fn tell(&mut self, event: CallEvent);
}

/// What the calls of all workers share.
#[derive(Clone, Debug)]
pub struct CallsShared {
    /// Calls in progress.
    pub book: Arc<CallBook>,
    /// Ways from worker to worker.
    pub hops: Hops,
    /// Credentials that were used.
    pub spent: Arc<Spent>,
    /// The key of the tokens in Record-Route; the same after a restart.
    pub token: TokenKey,
    /// Random, the same for all workers: whose a Call-ID is.
    pub key: [u8; 16],
    /// Our addresses, by the listeners' numbers.
    pub listeners: Box<[SocketAddr]>,
}

/// The calls of one worker.
#[derive(Debug)]
pub struct Calls {
    core: Core,
    fx: Effects,
    out: Box<[u8]>,
    trials: Trials,
    worker: usize,
    shared: CallsShared,
    log: Option<Box<dyn CallLog>>,
    /// Who the request is from that is being judged, if it is known to be somebody who may send.
    admitted: Option<Admitted>,
    /// Whom it would connect, if it is an INVITE of somebody who may call.
    parties: Option<Arc<Parties>>,
    /// What has to be looked up for it.
    wanted: Vec<Named>,
}

/// Why a request goes no further for now.
enum Stop {
    /// It is answered with this.
    Refused(Cause, Status, Vec<u8>),
    /// It is challenged; `true` if only the nonce was not good enough.
    Challenged(u8, bool),
    /// Somebody has to be asked.
    Asks(Question),
}

impl Stop {
    fn status(cause: Cause, status: Status) -> Self {
        Self::Refused(cause, status, Vec::new())
    }

    /// 503 to a client that may come again.
    fn later(cause: Cause, phrase: &'static str, seconds: u32) -> Self {
        let retry = format!("Retry-After: {seconds}\r\n").into_bytes();
        Self::Refused(cause, Status::SERVICE_UNAVAILABLE.because(phrase), retry)
    }
}

/// Numbers of calls that one worker may give out before they meet those of the next.
const CALLS_OF_A_WORKER: u64 = 1 << 48;

impl Calls {
    /// The calls of `worker`, whose events go to `log`.
    pub fn new(shared: CallsShared, worker: usize, log: Option<Box<dyn CallLog>>) -> Self {
        let first_call = CALLS_OF_A_WORKER * worker as u64 + 1;
        let (token, listeners) = (shared.token.clone(), shared.listeners.clone());
        // No two workers issue the same branches.
        let mut key = shared.key;
        key.iter_mut().zip(worker.to_le_bytes()).for_each(|(octet, own)| *octet ^= own);
        Self {
            // What it reads again was within the limits when it came.
            core: Core::new(key, token, listeners, Limits::NONE, first_call),
            fx: Effects::default(),
            out: vec![0; 65_535].into_boxed_slice(),
            trials: Trials::with_capacity(1),
            worker,
            shared,
            log,
            admitted: None,
            parties: None,
            wanted: Vec::new(),
        }
    }

    /// Whether a request is for a user, and not for us.
    pub(super) fn is_for(&self, request: &Request<'_>) -> bool {
        match request.envelope.method {
            Method::Register => false,
            Method::Options => {
                request.sip_uri.is_some_and(|uri| uri.user.is_some())
                    || request.to.params.find("tag").is_some()
            }
            _ => true,
        }
    }

    /// Whether anything will have to be done.
    pub(super) fn has_timers(&self) -> bool {
        self.core.has_timers()
    }

    /// What is to be sent.
    pub(super) fn sends(&self) -> impl Iterator<Item = (&Flow, SocketAddr, &[u8])> {
        self.fx.sends()
    }

    /// The responses among it, by [`Method::ordinal`] and code.
    pub(super) fn responses(&self) -> impl Iterator<Item = (usize, u16)> {
        self.fx.responses()
    }

    /// Whether nothing is to be sent.
    pub(super) fn is_silent(&self) -> bool {
        self.fx.is_empty()
    }

    /// Forgets what was sent.
    pub(super) fn clear(&mut self) {
        self.fx.clear();
    }

    /// Copies of what is at these places of [`Calls::sends`].
    pub(super) fn taken_back(&self, places: &[usize]) -> Vec<Box<[u8]>> {
        let octets = |place: &usize| self.fx.sends().nth(*place).map(|(.., octets)| octets.into());
        places.iter().filter_map(octets).collect()
    }

    /// These could not be sent.
    pub(super) fn unsent(&mut self, now: Now, rules: &Rules, datagrams: &[Box<[u8]>]) {
        for datagram in datagrams {
            self.core.unsent(now, datagram, &terms(rules), &mut self.fx);
        }
        self.publish();
    }

    /// Milliseconds until something has to be done.
    pub(super) fn wait(&self, now: Now) -> Option<u64> {
        self.core.wait(now)
    }

    /// Tells callers and phones of INVITEs that have no final answer yet that nothing comes of them.
    pub(super) fn stop(&mut self, now: Now, rules: &Rules) {
        let retry = format!("Retry-After: {RETRY_AFTER_LOADING}\r\n");
        self.core.stop(now, retry.as_bytes(), &terms(rules), &mut self.fx);
        self.publish();
    }

    /// Does what is due.
    pub(super) fn pass_time(&mut self, now: Now, rules: &Rules) {
        self.core.pass_time(now, &terms(rules), &mut self.fx);
        self.publish();
    }

    /// Tells everybody what has happened to calls.
    fn publish(&mut self) {
        let Self { fx, shared, log, .. } = self;
        for event in fx.take_events() {
            shared.book.note(self.worker, &event.call);
            if let Some(log) = log {
                log.tell(event);
            }
        }
        shared.book.note_probes(self.worker, fx.take_probed());
        shared.book.set_transactions(self.worker, self.core.transactions());
    }

    /// Hands a datagram to the worker whose it is, if that is another.
    pub(super) fn hop(
        &self,
        call_id: &[u8],
        datagram: &[u8],
        flow: Flow,
    ) -> Option<Result<(), DropReason>> {
        let hops = &self.shared.hops;
        let owner = proxy::owner(self.shared.key, call_id, hops.workers());
        (owner != self.worker)
            .then(|| hops.send(owner, datagram, flow).then_some(()).ok_or(DropReason::Behind))
    }

    /// Takes a response.
    pub(super) fn response(
        &mut self,
        now: Now,
        rules: &Rules,
        response: &Response<'_>,
        datagram: &[u8],
        flow: Flow,
    ) -> Result<(), DropReason> {
        if let Some(hopped) = self.hop(response.call_id, datagram, flow) {
            return hopped;
        }
        let is_known = self.core.response(now, response, &terms(rules), &mut self.fx);
        self.publish();
        is_known.then_some(()).ok_or(DropReason::Response)
    }

    /// Takes a request; what is answered goes with all that is sent.
    pub(super) fn request<'a>(
        &mut self,
        x: &mut Exchange<'_, 'a>,
        request: &Request<'a>,
        datagram: &'a [u8],
        learned: Option<&Learned>,
        parking: Option<&mut Parking>,
    ) -> Result<(), DropReason> {
        if learned.is_none() {
            let matched = self.core.matched(x.now, request, x.flow, &terms(x.rules), &mut self.fx);
            if matched == Matched::Absorbed {
                self.publish();
                return Ok(());
            }
        }
        (self.admitted, self.parties) = (None, None);
        self.wanted.clear();
        let done = self.judge(x, request, datagram, learned);
        let done = match done {
            Err(Stop::Asks(question)) => {
                self.park(x, request, datagram, learned, question, parking)
            }
            done => done,
        };
        let result = match done {
            Ok(()) => Ok(()),
            Err(_) if request.envelope.method == Method::Ack => Err(DropReason::Ack),
            Err(stop) => self.turn_down(x, request, datagram, stop),
        };
        self.publish();
        result
    }

    /// Has a request wait for the back ends. An INVITE can be cancelled meanwhile.
    fn park(
        &mut self,
        x: &mut Exchange<'_, '_>,
        request: &Request<'_>,
        datagram: &[u8],
        learned: Option<&Learned>,
        question: Question,
        parking: Option<&mut Parking>,
    ) -> Result<(), Stop> {
        let busy = || Stop::later(Cause::NoBackEnd, "Too Many Requests Wait", RETRY_AFTER_FAULT);
        let parking = parking.ok_or_else(busy)?;
        let mut learned = learned.cloned().unwrap_or_default();
        if let Some(Admitted { username, owns_from }) = &self.admitted {
            (learned.caller, learned.owns_from) = (username.clone(), *owns_from);
        }
        learned.hops.extend(self.wanted.drain(..).map(|named| (named, None)));
        match parking.park((datagram, x.flow), x.hash, question, Some(&learned)) {
            Ok(()) => {
                let tag = x.answer().tag;
                self.core.begin(request, datagram, x.flow, tag, &mut self.fx);
                Ok(())
            }
            Err(Unparked::Waits) => Ok(()),
            Err(Unparked::NoRoom) => Err(busy()),
        }
    }

    /// Answers a request that goes no further.
    fn turn_down(
        &mut self,
        x: &mut Exchange<'_, '_>,
        request: &Request<'_>,
        datagram: &[u8],
        stop: Stop,
    ) -> Result<(), DropReason> {
        let (cause, status, headers) = match stop {
            Stop::Asks(_) => return Ok(()),
            Stop::Refused(cause, status, headers) => (Some(cause), status, headers),
            Stop::Challenged(scope, is_stale) => {
                let RequestHash(hash) = x.request_hash();
                let unique = RequestHash(hash << 8 | u32::from(scope));
                let authenticator = &x.rules.authenticator;
                let challenge = if is_stale {
                    authenticator.stale_challenge(x.now, unique, 0)
                } else {
                    authenticator.challenge(x.now, unique)
                };
                let mut headers = Vec::new();
                challenge.encode_for_proxy_into(&mut headers);
                (None, Status::PROXY_AUTHENTICATION_REQUIRED, headers)
            }
        };
        if let Some(cause) = cause {
            x.log_refusal(cause.label(), status);
        }
        let tag = x.answer().tag;
        // A stranger's request leaves nothing behind; a user's INVITE is answered until it has
        // been acknowledged.
        let begun = match self.core.find(request) {
            None if self.admitted.is_some() && request.envelope.method == Method::Invite => {
                self.core.begin(request, datagram, x.flow, tag, &mut self.fx)
            }
            found => found,
        };
        let is_invite = request.envelope.method == Method::Invite;
        let has_given_up = begun.is_some_and(|id| self.core.is_answered(id));
        if let Some(cause) = cause.filter(|_| is_invite && !has_given_up) {
            x.counters.refused(cause);
        }
        if let Some(id) = begun {
            // There is a record of a call that came to nothing here, but for one that may come again
            // with credentials.
            if let Some(parties) = self.parties.take().filter(|_| cause.is_some()) {
                let why = if has_given_up { End::Cancelled } else { End::Refused(status.code) };
                self.core.refuse_call(x.now, Call::new(x.now, parties, None), why, &mut self.fx);
            }
            self.core.refuse(x.now, id, status, &headers, &terms(x.rules), &mut self.fx);
            return Ok(());
        }
        let answered = x.answer().plain(&mut self.out, status, |buf| buf.put(&headers));
        let len = answered.ok_or(DropReason::AnswerTooLong)?;
        let to = destination(&request.envelope, x.flow.remote);
        let method = request.envelope.method.ordinal();
        self.fx.respond(x.flow, to, self.out.get(..len).unwrap_or_default(), method);
        Ok(())
    }

    /// RFC 3261 §16.3 and §16.5: is it fit to go on, may it, and where to?
    fn judge<'a>(
        &mut self,
        x: &mut Exchange<'_, 'a>,
        request: &Request<'a>,
        datagram: &[u8],
        learned: Option<&Learned>,
    ) -> Result<(), Stop> {
        let envelope = &request.envelope;
        let (message, method) = (&envelope.message, envelope.method);
        let has_tag = request.to.params.find("tag").is_some();
        let terms = terms(x.rules);
        if method == Method::Cancel {
            return Err(Stop::status(Cause::NoTransaction, Status::CALL_DOES_NOT_EXIST));
        }
        let unknown: Vec<&[u8]> =
            message.all(HeaderName::ProxyRequire).flat_map(option_tags).collect();
        if !unknown.is_empty() {
            let unsupported = [b"Unsupported: ", &*unknown.join(&b", "[..]), b"\r\n"].concat();
            return Err(Stop::Refused(Cause::ProxyRequire, Status::BAD_EXTENSION, unsupported));
        }
        if has_tag {
            let tag = x.answer().tag;
            let (now, flow, fx) = (x.now, x.flow, &mut self.fx);
            let has_moved = || is_bound_here(x, request);
            let within =
                self.core.within(now, request, datagram, (flow, tag), has_moved, &terms, fx);
            return match within {
                Ok(()) => Ok(()),
                // An ACK draws no answer; it is counted.
                Err(Refused::Silence) => Err(Stop::status(Cause::Ack, Status::CALL_DOES_NOT_EXIST)),
                Err(Refused::Status(status)) => Err(Stop::status(Cause::WithinDialog, status)),
            };
        }
        if method == Method::Ack {
            return Err(Stop::status(Cause::Ack, Status::CALL_DOES_NOT_EXIST));
        }
        let uri = request
            .sip_uri
            .ok_or_else(|| Stop::status(Cause::Scheme, Status::UNSUPPORTED_URI_SCHEME))?;
        if max_forwards(request) == Some(0) {
            return Err(Stop::status(Cause::MaxForwards, Status::TOO_MANY_HOPS));
        }
        if self.core.has_looped(request) {
            return Err(Stop::status(Cause::Loop, Status::LOOP_DETECTED));
        }

        let rules = x.rules;
        let domains = &rules.domains;
        let is_ours = domains.serves(uri.host_port.host) || self.core.is_own(&uri, &x.flow);
        let caller = self.caller(x, request, is_ours, learned)?;
        let called = Called::read(request.uri, &uri, rules, is_ours);
        self.admitted = Some(caller.admitted.clone());
        let is_call = method == Method::Invite;
        self.parties = is_call.then(|| parties(request, x.flow.remote, &caller, &called).into());
        let routed = Self::route(rules, &called, &caller, learned)?;
        let groups = match routed {
            Routed::To(groups) => groups,
            Routed::Unknown if is_ours => {
                return Err(Stop::status(Cause::UnknownCallee, Status::NOT_FOUND));
            }
            Routed::Unknown => {
                let status = Status::FORBIDDEN.because("Domain Not Served Here");
                return Err(Stop::status(Cause::ForeignCallee, status));
            }
            Routed::Refused(407) => {
                // A handler wants to know who it is.
                let domain = SipUri::parse(request.from.uri).map(|from| from.host_port.host);
                let scope = domains.position(domain.unwrap_or_default());
                return Err(Stop::Challenged(scope, false));
            }
            Routed::Refused(code) => {
                return Err(Stop::Refused(Cause::Route, Status::of_refusal(code), extra(learned)));
            }
        };
        let max_calls = if is_call { rules.calls.max_calls } else { 0 };
        let names_users = groups.iter().flatten().any(|goal| matches!(goal, Goal::Aor(_)));
        let mode = rules.calls.mode_for(uri.host_port.host);
        let known = learned.map_or(&[][..], |learned| &learned.hops);
        let mut ways = Ways::new(&self.shared.listeners, x.flow, known, mode == Mode::Redirect);
        let Reached { groups, is_busy, is_unknown } = self.targets(x, groups, max_calls, &mut ways);
        let (wanted, unreachable) = ways.finish();
        if !wanted.is_empty() {
            self.wanted = wanted;
            return Err(Stop::Asks(Question::Resolve));
        }
        if groups.is_empty() {
            if is_busy {
                return Err(busy());
            }
            if let Some(why) = unreachable.filter(|_| !names_users) {
                return Err(Stop::status(Cause::from(why), why.status()));
            }
            if x.location.is_loading() {
                let what = "Registrations Are Being Restored";
                return Err(Stop::later(Cause::Loading, what, RETRY_AFTER_LOADING));
            }
            // Who is bound without an account is nobody without a binding; and whom a handler names
            // may be nobody either.
            if is_unknown {
                return Err(Stop::status(Cause::UnknownCallee, Status::NOT_FOUND));
            }
            return Err(Stop::status(Cause::Offline, Status::TEMPORARILY_UNAVAILABLE));
        }
        if mode == Mode::Redirect {
            let contacts = contacts(&groups);
            return Err(Stop::Refused(Cause::Redirect, Status::MOVED_TEMPORARILY, contacts));
        }
        let tag = x.answer().tag;
        let id = self.core.begin(request, datagram, x.flow, tag, &mut self.fx);
        let Some(id) = id.filter(|id| !self.core.is_answered(*id)) else {
            return match id {
                // Its caller has given up meanwhile.
                Some(_) => {
                    if let Some(parties) = self.parties.take() {
                        let call = Call::new(x.now, parties, None);
                        self.core.refuse_call(x.now, call, End::Cancelled, &mut self.fx);
                    }
                    Ok(())
                }
                None => Err(Stop::later(Cause::Full, "Too Many Requests", RETRY_AFTER_FAULT)),
            };
        };
        self.forward(x, request, id, caller, groups, extra(learned))
    }

    fn forward(
        &mut self,
        x: &mut Exchange<'_, '_>,
        request: &Request<'_>,
        id: ContextId,
        caller: Caller,
        groups: VecDeque<Vec<Target>>,
        extra: Vec<u8>,
    ) -> Result<(), Stop> {
        let policy = &x.rules.calls;
        let to_aor = groups.iter().flatten().find_map(|target| target.aor.clone());
        let parties = self.parties.clone();
        let reserved = parties.as_deref().map(|parties| {
            let aors = [parties.from_aor.as_deref(), to_aor.as_deref()];
            self.shared.book.reserve(aors, policy.max_calls)
        });
        let reserved = reserved.transpose().map_err(|InUse| busy())?;
        let call = self.parties.take().map(|parties| Call::new(x.now, parties, to_aor.clone()));
        let strips = caller.identity.is_some() || !policy.trusts(x.flow.remote.ip());
        let identity = caller.identity.map(|uri| {
            [&b"P-Asserted-Identity: <"[..], &uri, b">\r\n"].concat().into_boxed_slice()
        });
        let plan = Plan {
            groups,
            caller: caller.side,
            strips,
            extra: extra.into(),
            identity: identity.unwrap_or_default(),
            ring_timeout: policy.ring_timeout,
            call,
        };
        let terms = terms(x.rules);
        let has_begun = self.core.forward(x.now, id, request, plan, &terms, &mut self.fx);
        if let Some(reserved) = reserved.filter(|_| has_begun) {
            reserved.keep();
        }
        Ok(())
    }
}

/// Whether the user that From names is bound where a request comes from: a phone that has moved says
/// so by registering.
fn is_bound_here(x: &Exchange<'_, '_>, request: &Request<'_>) -> bool {
    let mut space = Vec::new();
    let Ok(from) = SipUri::parse(request.from.uri) else { return false };
    let Some(aor) = Aor::canonical(&from, &x.rules.domains, &mut space) else { return false };
    x.location.read(aor.as_bytes(), |record| {
        let mut bindings = record.iter().flat_map(|record| record.bindings(x.now));
        bindings.any(|binding| binding.flow.remote.ip() == x.flow.remote.ip())
    })
}

/// Who calls whom.
fn parties(request: &Request<'_>, source: SocketAddr, caller: &Caller, called: &Called) -> Parties {
    let mut from = Vec::new();
    let user = SipUri::parse(request.from.uri).ok().and_then(|uri| uri.user);
    unescape_into(user.unwrap_or_default(), &mut from);
    Parties {
        call_id: request.call_id.into(),
        caller: from.into(),
        called: called.user.as_slice().into(),
        username: caller.admitted.username.clone(),
        from_aor: caller.aor.clone(),
        source,
    }
}

/// Somebody has as many calls as may be.
fn busy() -> Stop {
    Stop::status(Cause::MaxCalls, Status::BUSY_HERE.because("Too Many Calls"))
}

/// Header lines that handlers have said go along.
fn extra(learned: Option<&Learned>) -> Vec<u8> {
    learned.and_then(|learned| learned.extra.as_deref()).unwrap_or_default().to_vec()
}

/// What the proxy goes by.
fn terms(rules: &Rules) -> Terms<'_> {
    Terms {
        policy: &rules.calls,
        realm: rules.authenticator.policy().realm.as_bytes(),
        server: rules.server.as_deref(),
    }
}
