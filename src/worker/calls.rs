//! Requests for somebody else, and responses: a worker's part of the proxy.
//!
//! All that has one Call-ID is one worker's, so that calls need no lock: what comes to another's
//! socket hops over. What is sent is collected in [`Effects`], and leaves at the end of a turn.

use std::{collections::VecDeque, fmt, net::SocketAddr, sync::Arc};

use siphasher::sip::SipHasher13;

use super::{
    answer::{RETRY_AFTER_FAULT, RETRY_AFTER_LOADING},
    cause::Cause,
    counters::{AuthResult, DropReason},
    exchange::Exchange,
    hops::Hops,
    owner::{Claimant, Sought},
    parking::{Learned, Learnt, Parking, Question, Unparked},
    rules::Rules,
    spent::Spent,
    ways::Ways,
};
use crate::{
    auth::{self, Authenticator, Grant, RequestHash, Trials, Verdict},
    calls::{CallBook, InUse},
    flow::Flow,
    proxy::{
        self, Call, CallEvent, ContextId, Core, Effects, End, Foreign, Goal, Matched, Mode, Named,
        Parties, Plan, Refused, Routed, Side, Target, Terms, TokenKey, max_forwards, numeric,
    },
    registrar::{Aor, nat},
    sip::{
        Limits, Method, Request, Response, Status,
        encode::destination,
        header::{Elements, HeaderName, NameAddr, Quality, option_tags},
        uri::{SipUri, unescape_into},
    },
    subscribers,
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

/// What is known of a sender who may send.
#[derive(Clone, Debug, Default)]
struct Admitted {
    /// The account that proved itself.
    username: Option<Box<[u8]>>,
    /// Whether From names it.
    owns_from: bool,
}

/// Who a request is from.
struct Caller {
    admitted: Admitted,
    /// Its AoR, which the call counts for.
    aor: Option<Box<[u8]>>,
    /// Who it is, for whom it calls.
    identity: Option<Box<[u8]>>,
    /// Where later requests to it go.
    side: Side,
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
        if let Some(parties) = &self.parties {
            let aors = [parties.from_aor.as_deref(), to_aor.as_deref()];
            self.shared.book.reserve(&aors, policy.max_calls).map_err(|InUse| busy())?;
        }
        let call = self.parties.take().map(|parties| Call::new(x.now, parties, to_aor));
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
        self.core.forward(x.now, id, request, plan, &terms(x.rules), &mut self.fx);
        Ok(())
    }

    /// Who it is from, if it may be (DESIGN: users prove themselves, networks may be trusted).
    fn caller<'a>(
        &mut self,
        x: &mut Exchange<'_, 'a>,
        request: &Request<'a>,
        is_ours: bool,
        learned: Option<&Learned>,
    ) -> Result<Caller, Stop> {
        let rules = x.rules;
        let policy = &rules.calls;
        let from = SipUri::parse(request.from.uri).ok();
        let mut space = Vec::new();
        let aor = from.as_ref().and_then(|uri| Aor::canonical(uri, &rules.domains, &mut space));
        let own_aor = || aor.map(|aor| aor.as_bytes().into());
        // What a network says of its callers is its own affair; it counts for no user of ours.
        let server = |aor| Caller {
            admitted: Admitted::default(),
            aor,
            identity: None,
            side: Side::Server(x.flow),
        };
        if policy.trusts(x.flow.remote.ip()) {
            return Ok(server(None));
        }
        // RFC 3323 §4.1.1.3: who hides its name proves it all the same.
        let is_anonymous =
            from.is_some_and(|from| from.host_port.host.eq_ignore_ascii_case(b"anonymous.invalid"));
        if aor.is_none() && !is_anonymous {
            let is_let_in = policy.accept_foreign && is_ours;
            let status = Status::FORBIDDEN.because("Not From Here");
            return if is_let_in {
                Ok(server(None))
            } else {
                Err(Stop::status(Cause::ForeignCaller, status))
            };
        }
        let side = Side::Flow(x.flow);
        if !rules.registrar.auth_required {
            let admitted = Admitted::default();
            return Ok(Caller { admitted, aor: own_aor(), identity: None, side });
        }
        let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
        let proven = |username: Box<[u8]>, owns_from: bool| {
            let realm = rules.authenticator.policy().realm.as_bytes();
            let identity: Box<[u8]> = if owns_from && !is_anonymous {
                request.from.uri.into()
            } else {
                [b"sip:", &*username, b"@", realm].concat().into()
            };
            // Whoever From names: the call is the account's that proved itself.
            let aor =
                if owns_from { own_aor() } else { Some(account_aor(rules, &username, domain)) };
            let admitted = Admitted { username: Some(username), owns_from };
            Caller { admitted, aor, identity: Some(identity), side }
        };
        if let Some(learned) = learned
            && let Some(username) = learned.caller.clone()
        {
            return Ok(proven(username, learned.owns_from));
        }
        let scope = rules.domains.position(domain);
        let challenge = |refusal: auth::Refusal| {
            x.counters.auth(AuthResult::from(refusal));
            Stop::Challenged(scope, false)
        };
        let values = request.envelope.message.named("Proxy-Authorization");
        let claim = rules.authenticator.screen_any(x.now, values).map_err(challenge)?;
        let mut login = None;
        Authenticator::look_up(&claim, |username| {
            login = Some(rules.subscribers.login_key(username, domain));
            None
        });
        let claimant = Claimant { claim, domain, login };
        let (owner, secret) = match claimant.seek(x.now, rules, learned) {
            Sought::Found { owner, secret, .. } => (Some(owner), Some(secret)),
            Sought::Unknown => (None, None),
            Sought::Asks => return Err(Stop::Asks(Question::Auth)),
            Sought::Refused(code) => {
                x.counters.auth(AuthResult::Refused);
                return Err(Stop::Refused(
                    Cause::Refused,
                    Status::of_refusal(code),
                    extra(learned),
                ));
            }
            Sought::Unavailable => {
                x.counters.auth(AuthResult::Unavailable);
                return Err(Stop::later(
                    Cause::Unavailable,
                    "Back End Unavailable",
                    RETRY_AFTER_FAULT,
                ));
            }
        };
        self.trials.clear();
        let method = request.envelope.method.as_bytes();
        let begun = self.trials.begin(&rules.authenticator, &claim, method, request.uri, secret);
        self.trials.compute();
        let verdict = begun.map_or_else(|verdict| verdict, |trial| self.trials.verdict(&trial));
        let grant = match verdict {
            Verdict::Granted(grant) if grant.used.nonce.scope() == scope => grant,
            Verdict::Granted(_) | Verdict::Stale => {
                x.counters.auth(AuthResult::Stale);
                return Err(Stop::Challenged(scope, true));
            }
            Verdict::Challenge(refusal) => return Err(challenge(refusal)),
        };
        let username: Box<[u8]> = grant.username.octets().collect();
        if !self.is_first_use(x, &grant, &claim) {
            x.counters.auth(AuthResult::Replay);
            return Err(Stop::Challenged(scope, true));
        }
        x.counters.auth(AuthResult::Granted);
        let owns = aor.zip(owner).is_some_and(|(aor, owner)| owner.owns(aor.user(), domain));
        if policy.check_from && !owns && !is_anonymous {
            let status = Status::FORBIDDEN.because("From Is Not Yours");
            return Err(Stop::status(Cause::From, status));
        }
        Ok(proven(username, owns))
    }

    /// Whether credentials are used for the first time.
    fn is_first_use(
        &self,
        x: &Exchange<'_, '_>,
        grant: &Grant<'_>,
        claim: &auth::Claim<'_>,
    ) -> bool {
        let (nonce, response) = claim.nonce_and_response();
        let nc = grant.used.nc.unwrap_or(0).to_le_bytes();
        let text = [nonce, &nc, response.as_bytes()].concat();
        let hash = SipHasher13::new_with_key(&self.shared.key).hash(&text);
        let lifetime = x.rules.authenticator.policy().nonce_lifetime;
        self.shared.spent.spend(x.now, lifetime, hash)
    }

    /// Where it goes, as the handlers say, or as the accounts and their alternatives do.
    fn route(
        rules: &Rules,
        called: &Called,
        caller: &Caller,
        learned: Option<&Learned>,
    ) -> Result<Routed, Stop> {
        match learned.and_then(|learned| learned.routed.as_ref()) {
            Some(Learnt::Is(routed)) => return Ok((**routed).clone()),
            Some(Learnt::Unavailable) => {
                let what = "Back End Unavailable";
                return Err(Stop::later(Cause::Unavailable, what, RETRY_AFTER_FAULT));
            }
            None if rules.elsewhere.route => return Err(Stop::Asks(Question::Route)),
            None => {}
        }
        if !called.is_ours {
            // Nobody but our own users calls out.
            let is_let_out =
                rules.calls.foreign == Foreign::Dns && caller.admitted.username.is_some();
            let uri = Goal::Foreign(called.uri.clone());
            return Ok(if is_let_out { Routed::To(vec![vec![uri]]) } else { Routed::Unknown });
        }
        let (user, domain) = (&called.user, &called.domain);
        match subscribers::route::route(&rules.subscribers, &rules.domains, user, domain) {
            // Others than listed users may be bound.
            Routed::Unknown if rules.has_account(&called.aor(rules)) => {
                Ok(Routed::To(vec![vec![Goal::Aor(called.aor(rules).into())]]))
            }
            routed => Ok(routed),
        }
    }

    /// The contacts and addresses of the goals, in the order in which they are tried: by group, and
    /// in it by `q` (RFC 3261 §16.6). Users of ours who have `max_calls` are left out, unless that is
    /// zero.
    fn targets(
        &self,
        x: &Exchange<'_, '_>,
        groups: Vec<Vec<Goal>>,
        max_calls: u32,
        ways: &mut Ways<'_>,
    ) -> Reached {
        let (mut targets, mut is_busy) = (VecDeque::new(), false);
        let (mut names_users, mut has_user) = (false, false);
        let mut bindings = |aor: &[u8], ways: &mut Ways<'_>, found: &mut Vec<_>| {
            let others = found.len();
            names_users = true;
            if self.shared.book.is_full(aor, max_calls) {
                is_busy = true;
            } else {
                bindings(x, aor, ways, found);
            }
            // Who is bound is somebody.
            has_user = has_user || found.len() > others || x.rules.has_user(aor);
        };
        for group in groups {
            let mut found: Vec<(u16, Target)> = Vec::new();
            for goal in group {
                match goal {
                    Goal::Aor(aor) => bindings(&aor, ways, &mut found),
                    Goal::Uri(uri) => match self.own_aor(x, &uri) {
                        Some(aor) => bindings(&aor, ways, &mut found),
                        None => found.extend(server(ways.to(&uri), uri)),
                    },
                    Goal::Foreign(uri) => {
                        found.extend(server(ways.foreign(&uri, &x.rules.calls.foreign_deny), uri));
                    }
                }
            }
            found.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
            for same in found.chunk_by(|(a, _), (b, _)| a == b) {
                targets.push_back(same.iter().map(|(_, target)| target.clone()).collect());
            }
        }
        Reached { groups: targets, is_busy, is_unknown: names_users && !has_user }
    }

    /// The AoR of ours that a URI names.
    fn own_aor(&self, x: &Exchange<'_, '_>, text: &[u8]) -> Option<Vec<u8>> {
        let (uri, rules) = (SipUri::parse(text).ok()?, x.rules);
        if !self.core.is_own(&uri, &x.flow)
            && (rules.domains.is_flat() || !rules.domains.serves(uri.host_port.host))
        {
            return None;
        }
        Some(Called::read(text, &uri, rules, true).aor(rules))
    }
}

/// Whom a request's goals lead to.
struct Reached {
    /// In the order in which they are tried.
    groups: VecDeque<Vec<Target>>,
    /// Whether anybody was left out who has as many calls as may be.
    is_busy: bool,
    /// Whether users of ours are named, none of whom is one.
    is_unknown: bool,
}

/// The server that a URI names, by these ways, of which the first is the best.
fn server(flows: Vec<Flow>, uri: Box<[u8]>) -> Option<(u16, Target)> {
    let (&flow, further) = flows.split_first()?;
    let (path, side, further) = (Box::default(), Side::Server(flow), further.into());
    Some((Quality::DEFAULT.0, Target { uri, path, flow, side, aor: None, further }))
}

/// Who is called.
struct Called {
    /// The user part, escapes resolved.
    user: Vec<u8>,
    /// The domain of ours; empty in a flat namespace.
    domain: Vec<u8>,
    /// The Request-URI.
    uri: Box<[u8]>,
    /// Whether it is one of our users.
    is_ours: bool,
}

impl Called {
    fn read(text: &[u8], uri: &SipUri<'_>, rules: &Rules, is_ours: bool) -> Self {
        let mut space = Vec::new();
        let aor = Aor::canonical(uri, &rules.domains, &mut space);
        let (user, domain) = match aor {
            Some(aor) => (aor.user().to_vec(), aor.domain().unwrap_or_default().to_vec()),
            None => {
                // At our address rather than at our domain: at the first of them.
                let mut user = Vec::new();
                unescape_into(uri.user.unwrap_or_default(), &mut user);
                let first = rules.domains.names().next().unwrap_or_default();
                (user, first.as_bytes().to_vec())
            }
        };
        Self { user, domain, uri: text.into(), is_ours }
    }

    fn aor(&self, rules: &Rules) -> Vec<u8> {
        if rules.domains.is_flat() {
            return self.user.clone();
        }
        [&self.user, &b"@"[..], &self.domain].concat()
    }
}

/// The contacts that are bound to an AoR.
fn bindings(x: &Exchange<'_, '_>, aor: &[u8], ways: &mut Ways<'_>, found: &mut Vec<(u16, Target)>) {
    let first = found.len();
    let own: Arc<[u8]> = aor.into();
    x.location.read(aor, |record| {
        for binding in record.iter().flat_map(|record| record.bindings(x.now)) {
            let target = Target {
                uri: binding.uri.into(),
                path: binding.path.into(),
                flow: binding.flow,
                side: Side::Flow(binding.flow),
                aor: Some(Arc::clone(&own)),
                further: Box::default(),
            };
            found.push((binding.q.unwrap_or(Quality::DEFAULT).0, target));
        }
    });
    // Where there is a path, its first hop; else where the phone registered from. Only who is trusted
    // names other hosts than itself: else any account could have us call, by a Path of its own, whom
    // it may not call.
    for (_, target) in found.iter_mut().skip(first).filter(|(_, t)| !t.path.is_empty()) {
        let source = target.flow.remote.ip();
        let may_name = |uri: &[u8]| {
            x.rules.calls.trusts(source) || numeric(uri).is_some_and(|hop| hop.ip() == source)
        };
        let hop = Elements::new(&target.path).next();
        let hop = hop.and_then(|hop| NameAddr::parse(hop.ok()?).ok());
        let hop = hop.filter(|hop| may_name(hop.uri));
        let flows = hop.map(|hop| ways.by_path(hop.uri, target.flow)).unwrap_or_default();
        if let Some((&flow, further)) = flows.split_first() {
            (target.flow, target.side) = (flow, Side::Server(flow));
            target.further = further.into();
        }
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

/// The AoR of an account, whose name may have its domain in it; `domain` is From's, empty where that
/// is none of ours.
fn account_aor(rules: &Rules, username: &[u8], domain: &[u8]) -> Box<[u8]> {
    if rules.domains.is_flat() || subscribers::split_name(username).is_some() {
        return username.into();
    }
    let first = rules.domains.names().next().unwrap_or_default().as_bytes();
    let domain = if domain.is_empty() { first } else { domain };
    [username, b"@", domain].concat().into()
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

/// Contact lines of a 302.
fn contacts(groups: &VecDeque<Vec<Target>>) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut q = 1000_u32;
    for group in groups {
        for target in group {
            lines.extend_from_slice(b"Contact: <");
            match target.side {
                // Its URI says all that there is to say.
                Side::Server(_) if target.path.is_empty() => lines.extend_from_slice(&target.uri),
                _ => nat::reachable_uri_into(&target.uri, &target.flow, &mut lines),
            }
            lines.extend_from_slice(format!(">;q={}.{:03}\r\n", q / 1000, q % 1000).as_bytes());
        }
        q = q.saturating_sub(100);
    }
    lines
}

#[cfg(test)]
mod tests;
