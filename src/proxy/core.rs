//! All requests that are passed on: what comes in is matched, what has to be done is told.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use super::{
    best::Best,
    call::{Call, End},
    context::{Context, Role, Standing, Target, Upstream},
    effects::Effects,
    kit::{Kit, put_own_response, tags},
    ledger::{Heard, Ledger},
    onward::max_forwards,
    policy::Policy,
    timer::Wheel,
    token::{Side, TokenKey},
    transaction::{InviteServer, Server, ServerState},
    way::{Way, hop_of},
};
use crate::{
    flow::Flow,
    sip::{
        Limits, Method, Parser, Request, Status,
        encode::{Buf, destination},
        uri::SipUri,
    },
    time::{DeltaSeconds, Now},
};

/// How many requests one worker passes on at once.
const MAX_CONTEXTS: usize = 200_000;
/// Octets that are kept of them, of one worker: 200,000 requests of the usual kind to one phone each.
const MAX_OCTETS: usize = 512 << 20;
/// Octets of the longest message.
const MAX_MESSAGE: usize = 65_535;

/// A request that is being passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What the proxy goes by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// `[calls]`.
    pub policy: &'a Policy,
    /// The realm of our challenges.
    pub realm: &'a [u8],
    /// The value of the Server header.
    pub server: Option<&'a str>,
}

/// Whether a request belongs to what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// It does, and is dealt with.
    Absorbed,
    /// It does not.
    New,
}

/// How a request outside a dialog is passed on.
#[derive(Debug)]
pub struct Plan {
    /// Targets; those of a group at once, and the groups one after the other.
    pub groups: VecDeque<Vec<Target>>,
    /// Where later requests to its sender go.
    pub caller: Side,
    /// Whole header lines that are added.
    pub extra: Box<[u8]>,
    /// The line of P-Asserted-Identity, if its sender is known; it goes to who may see it.
    pub identity: Box<[u8]>,
    /// Whether its sender may not say itself who it is for others (P-Asserted-Identity, RFC 3325).
    pub strips: bool,
    /// How long a group may ring.
    pub ring_timeout: DeltaSeconds,
    /// The call that it begins.
    pub call: Option<Call>,
}

/// Why a request of a dialog is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// With this answer.
    Status(Status),
    /// In silence: it is an ACK.
    Silence,
}

/// Wakes a context or a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wake {
    Context(ContextId),
    Call(u64),
}

/// The proxy of one worker.
#[derive(Debug)]
pub struct Core {
    pub(super) kit: Kit,
    pub(super) contexts: Vec<Option<Box<Context>>>,
    pub(super) free: Vec<u32>,
    pub(super) by_key: HashMap<u64, ContextId>,
    pub(super) wheel: Wheel<Wake>,
    pub(super) due: Vec<Wake>,
    pub(super) ledger: Ledger,
    pub(super) transactions: usize,
    /// Octets of what is kept of all requests.
    pub(super) octets: usize,
}

impl Core {
    /// A proxy with nothing to do. `key` is random, `token` is the node's, `listeners` are our
    /// addresses by number, and calls are numbered from `first_call` on.
    pub fn new(
        key: [u8; 16],
        token: TokenKey,
        listeners: Box<[SocketAddr]>,
        limits: Limits,
        first_call: u64,
    ) -> Self {
        let parser = Parser::new(limits);
        let out = vec![0; MAX_MESSAGE].into_boxed_slice();
        Self {
            kit: Kit { key, token, listeners, parser, out, issued: 0 },
            contexts: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            wheel: Wheel::new(),
            due: Vec::new(),
            ledger: Ledger::new(first_call),
            transactions: 0,
            octets: 0,
        }
    }

    /// How many transactions have not ended.
    pub fn transactions(&self) -> usize {
        self.transactions
    }

    /// How many calls are in progress.
    pub fn calls(&self) -> usize {
        self.ledger.len()
    }

    /// Whether anything will have to be done.
    pub fn has_timers(&self) -> bool {
        !self.wheel.is_empty()
    }

    /// Milliseconds until something has to be done.
    pub fn wait(&self, now: Now) -> Option<u64> {
        self.wheel.wait(now.millis)
    }

    /// Whether a request was here before, and nothing about it has changed (RFC 3261 §16.3 step 4).
    pub fn has_looped(&self, request: &Request<'_>) -> bool {
        self.kit.has_looped(request)
    }

    /// Whether a URI names us: one of our listeners, by its address, as who sends over `flow` sees it.
    pub fn is_own(&self, uri: &SipUri<'_>, flow: &Flow) -> bool {
        self.kit.is_own(uri, flow)
    }

    /// Matches a request with those that are being passed on (RFC 3261 §17.2.3, §9.2).
    pub fn matched(
        &mut self,
        now: Now,
        request: &Request<'_>,
        flow: Flow,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Matched {
        let key = self.kit.key_of(request);
        let Some(&id) = self.by_key.get(&key) else { return Matched::New };
        let Some(mut context) = self.take(id) else { return Matched::New };
        let is_accepted = context.upstream.state() == ServerState::Accepted;
        let is_elsewhere = context.flow.remote.ip() != flow.remote.ip();
        match request.envelope.method {
            // Some phones have the ACK of a 2xx in the INVITE's transaction; and who else knows its
            // Via, as every callee does, may not cancel it.
            Method::Ack if is_accepted => {
                self.put_back(id, context);
                return Matched::New;
            }
            Method::Cancel if is_elsewhere => {
                self.put_back(id, context);
                return Matched::New;
            }
            Method::Ack => {
                if let Upstream::Invite(invite) = &mut context.upstream {
                    invite.ack(now.millis);
                }
            }
            Method::Cancel => {
                let mut out = Buf::new(&mut self.kit.out);
                let (status, tag) = (Status::OK, context.tag);
                put_own_response(&mut out, status, request, flow, tag, terms.server, b"");
                if let Some(len) = out.finish() {
                    let to = destination(&request.envelope, flow.remote);
                    let method = Method::Cancel.ordinal();
                    fx.respond(flow, to, &self.kit.out[..len], method);
                }
                self.cancel(now, &mut context, id, terms, fx);
            }
            _ => {
                if context.upstream.repeated() && !context.last.is_empty() {
                    context.send_last(fx);
                }
            }
        }
        self.put_back(id, context);
        Matched::Absorbed
    }

    /// Takes a request in. An INVITE is answered with 100, and may be cancelled from now on. `None`
    /// means that there are too many.
    pub fn begin(
        &mut self,
        request: &Request<'_>,
        datagram: &[u8],
        flow: Flow,
        tag: u32,
        fx: &mut Effects,
    ) -> Option<ContextId> {
        let key = self.kit.key_of(request);
        if let Some(id) = self.by_key.get(&key) {
            return Some(*id);
        }
        if self.by_key.len() >= MAX_CONTEXTS || self.octets >= MAX_OCTETS {
            return None;
        }
        let generation = self.kit.random();
        let is_invite = request.envelope.method == Method::Invite;
        let upstream = if is_invite {
            Upstream::Invite(InviteServer::begin())
        } else {
            Upstream::Other(Server::begin())
        };
        let mut context = Box::new(Context {
            generation,
            key,
            method: request.envelope.method.ordinal(),
            upstream,
            flow,
            reply_to: destination(&request.envelope, flow.remote),
            request: datagram.into(),
            last: Vec::new(),
            tag,
            branches: Vec::new(),
            waiting: VecDeque::new(),
            best: Best::default(),
            standing: Standing::Open,
            ring: 0,
            ring_until: u64::MAX,
            rang_in_vain: false,
            extra: Box::default(),
            identity: Box::default(),
            call: None,
            role: Role::None,
            is_routed: false,
            is_within: false,
            strips: false,
            caller: Side::Flow(flow),
            armed: u64::MAX,
            counted: (0, 0),
        });
        if is_invite {
            let mut out = Buf::new(&mut self.kit.out);
            put_own_response(&mut out, Status::TRYING, request, flow, tag, None, b"");
            if let Some(len) = out.finish() {
                context.last = self.kit.out[..len].to_vec();
                context.send_last(fx);
            }
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.contexts.push(None);
                u32::try_from(self.contexts.len() - 1).ok()?
            }
        };
        let id = ContextId { index, generation };
        self.by_key.insert(key, id);
        self.put_back(id, context);
        Some(id)
    }

    /// The request that is being passed on which this one is, or repeats.
    pub fn find(&self, request: &Request<'_>) -> Option<ContextId> {
        self.by_key.get(&self.kit.key_of(request)).copied()
    }

    /// Whether a request that was taken in has been answered meanwhile: its caller gave up.
    pub fn is_answered(&self, id: ContextId) -> bool {
        let context = self.contexts.get(id.index as usize).and_then(Option::as_deref);
        context.is_none_or(|context| {
            context.generation != id.generation
                || context.upstream.state() != ServerState::Proceeding
        })
    }

    /// Answers a request that was taken in; `headers` are whole lines.
    pub fn refuse(
        &mut self,
        now: Now,
        id: ContextId,
        status: Status,
        headers: &[u8],
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        let Some(mut context) = self.take(id) else { return };
        self.respond_own(now, &mut context, status, headers, terms, fx);
        self.put_back(id, context);
    }

    /// Ends all INVITEs that have no final response, with 503 and these whole lines; phones stop
    /// ringing. Nobody waits for what they say to it.
    pub fn stop(&mut self, now: Now, headers: &[u8], terms: &Terms<'_>, fx: &mut Effects) {
        for at in 0..self.contexts.len() {
            let Some(Some(context)) = self.contexts.get(at) else { continue };
            let Ok(index) = u32::try_from(at) else { continue };
            let id = ContextId { index, generation: context.generation };
            let Some(mut context) = self.take(id) else { continue };
            let is_invite = matches!(context.upstream, Upstream::Invite(_));
            if is_invite && context.upstream.state() == ServerState::Proceeding {
                context.waiting.clear();
                self.cancel_pending(now, &mut context, fx);
                let status = Status::SERVICE_UNAVAILABLE.because("Stopping");
                self.respond_own(now, &mut context, status, headers, terms, fx);
            }
            self.put_back(id, context);
        }
    }

    /// Tells of a call that is refused before it is passed on.
    pub fn refuse_call(&mut self, now: Now, call: Call, why: End, fx: &mut Effects) {
        self.ledger.refuse(now, call, why, fx);
    }

    /// Passes on a request that was taken in, outside a dialog. `false`: it has been, or was answered
    /// meanwhile, and its call does not begin.
    pub fn forward(
        &mut self,
        now: Now,
        id: ContextId,
        request: &Request<'_>,
        plan: Plan,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some(mut context) = self.take(id) else { return false };
        if context.is_routed || context.upstream.state() != ServerState::Proceeding {
            self.put_back(id, context);
            return false;
        }
        context.is_routed = true;
        context.waiting = plan.groups;
        context.extra = plan.extra;
        context.identity = plan.identity;
        context.caller = plan.caller;
        context.strips = plan.strips;
        context.ring = 1000 * u64::from(plan.ring_timeout.0);
        if let Some(call) = plan.call {
            let call = self.ledger.begin(now, call, fx);
            (context.call, context.role) = (Some(call), Role::Begins);
        }
        self.go_on_with(now, request, &mut context, id, terms, fx);
        self.put_back(id, context);
        true
    }

    /// Passes on a request within a dialog, whichever side it is from: to the other, and only from
    /// the address that it was seen at, from who is trusted, or from where `has_moved` says that its
    /// sender is now. `tag` is that of an answer of ours.
    ///
    /// # Errors
    /// Why it is not.
    #[expect(clippy::too_many_arguments, reason = "a request as it came, and what it is judged by")]
    pub fn within(
        &mut self,
        now: Now,
        request: &Request<'_>,
        datagram: &[u8],
        (flow, tag): (Flow, u32),
        has_moved: impl FnOnce() -> bool,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Refused> {
        let method = request.envelope.method;
        let refused = |status| {
            Err(if method == Method::Ack { Refused::Silence } else { Refused::Status(status) })
        };
        let kit = &self.kit;
        let mut way = Way::read(request, |uri| kit.is_own_route(uri, request, &flow));
        let [from_tag, to_tag] = tags(request);
        let opened = way.token.filter(|_| !from_tag.is_empty() && !to_tag.is_empty());
        let opened = opened.and_then(|token| {
            let open = |tag| kit.token.open(token, request.call_id, tag);
            let by_caller = open(from_tag).map(|sides| (sides, true));
            by_caller.or_else(|| open(to_tag).map(|sides| (sides, false)))
        });
        let Some((sides, by_caller)) = opened else {
            return refused(Status::CALL_DOES_NOT_EXIST);
        };
        let ((own, other), tags) = if by_caller {
            ((sides.caller, sides.callee), [from_tag, to_tag])
        } else {
            ((sides.callee, sides.caller), [to_tag, from_tag])
        };
        let source = flow.remote.ip();
        if own.flow().remote.ip() != source && !terms.policy.trusts(source) && !has_moved() {
            return refused(Status::FORBIDDEN.because("Not A Party Of This Call"));
        }
        if max_forwards(request) == Some(0) {
            return refused(Status::TOO_MANY_HOPS);
        }
        if kit.has_looped(request) {
            return refused(Status::LOOP_DETECTED);
        }
        let to = hop_of(other, way.next_hop(), terms.policy);
        let dialog = kit.dialog(request.call_id, tags, &sides);
        let strips = !terms.policy.trusts(source);
        if method == Method::Ack {
            self.kit.forward_ack(request, (flow, to), &way, (terms, strips), fx);
            return Ok(());
        }
        let Some(id) = self.begin(request, datagram, flow, tag, fx) else {
            return refused(Status::SERVICE_UNAVAILABLE.because("Too Many Requests"));
        };
        let Some(mut context) = self.take(id) else { return Ok(()) };
        (context.is_routed, context.is_within, context.strips) = (true, true, strips);
        context.call = self.ledger.of_dialog(dialog);
        context.role = match method {
            Method::Bye => Role::Ends,
            Method::Invite | Method::Update => Role::Renews,
            _ => Role::None,
        };
        if let Some(call) = context.call {
            let heard = Heard { by_caller, cseq: request.cseq.number, flow };
            self.ledger.hear(now, call, heard, terms.policy);
        }
        let target = Target {
            uri: Box::default(),
            path: Box::default(),
            flow: to,
            side: other,
            aor: None,
            further: Box::default(),
        };
        context.waiting.push_back(vec![target]);
        self.go_on_with(now, request, &mut context, id, terms, fx);
        self.put_back(id, context);
        Ok(())
    }

    pub(super) fn take(&mut self, id: ContextId) -> Option<Box<Context>> {
        let slot = self.contexts.get_mut(id.index as usize)?;
        let context = slot.take_if(|context| context.generation == id.generation)?;
        self.transactions -= context.counted.0;
        self.octets -= context.counted.1;
        Some(context)
    }

    pub(super) fn put_back(&mut self, id: ContextId, mut context: Box<Context>) {
        if context.is_over() {
            if self.by_key.get(&context.key) == Some(&id) {
                self.by_key.remove(&context.key);
            }
            return self.free.push(id.index);
        }
        context.counted = (context.transactions(), context.octets());
        self.transactions += context.counted.0;
        self.octets += context.counted.1;
        let next = context.next();
        if next < context.armed {
            context.armed = next;
            self.wheel.set(next, Wake::Context(id));
        }
        if let Some(slot) = self.contexts.get_mut(id.index as usize) {
            *slot = Some(context);
        }
    }
}
