//! All requests that are passed on: what comes in is matched, what has to be done is told.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hasher as _,
    net::SocketAddr,
};

use siphasher::sip::SipHasher13;

use super::{
    best::Best,
    call::{Call, End},
    context::{Branch, Cancelling, Context, Downstream, Role, Standing, Target, Upstream},
    effects::Effects,
    ledger::{Dies, Ledger},
    onward::{self, Onward, max_forwards, put_ack, put_cancel, put_response, put_sent_by},
    policy::Policy,
    timer::{TIMER_C, TRANSACTION, Wheel},
    token::{PARAM, Side, Sides, TokenKey, put_u64},
    transaction::{Client, ClientState, Due, InviteClient, InviteServer, Server, ServerState},
    way::Way,
};
use crate::{
    flow::Flow,
    sip::{
        Limits, Method, Parsed, Parser, Request, Response, Status,
        encode::{self, Buf, destination},
        header::{Elements, HeaderName, NameAddr, Params, Via},
        uri::SipUri,
    },
    time::{DeltaSeconds, Now},
};

/// How our branches begin; what follows says which client transaction it is.
const BRANCH: &[u8] = b"z9hG4bKbd";
/// How many requests one worker passes on at once.
const MAX_CONTEXTS: usize = 200_000;
/// Octets that are kept of them, of one worker: 200,000 requests of the usual kind to one phone each.
const MAX_OCTETS: usize = 512 << 20;
/// Octets of the longest message.
const MAX_MESSAGE: usize = 65_535;
/// What Max-Breadth is where a request has none (RFC 5393 §5.3.3).
const MAX_BREADTH: u32 = 60;
/// The port of a URI without one.
const DEFAULT_PORT: u16 = 5060;

/// A request that is being passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextId {
    index: u32,
    generation: u32,
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

/// Wakes a context, or ends a call.
#[derive(Clone, Copy, Debug)]
enum Wake {
    Context(ContextId),
    Call(u64),
}

/// What messages are made with.
#[derive(Debug)]
struct Kit {
    key: [u8; 16],
    token: TokenKey,
    listeners: Box<[SocketAddr]>,
    parser: Parser,
    out: Box<[u8]>,
    issued: u64,
}

/// The proxy of one worker.
#[derive(Debug)]
pub struct Core {
    kit: Kit,
    contexts: Vec<Option<Box<Context>>>,
    free: Vec<u32>,
    by_key: HashMap<u64, ContextId>,
    wheel: Wheel<Wake>,
    due: Vec<Wake>,
    ledger: Ledger,
    transactions: usize,
    /// Octets of what is kept of all requests.
    octets: usize,
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
            upstream,
            flow,
            reply_to: destination(&request.envelope, flow.remote),
            method: request.envelope.method.ordinal(),
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

    /// Passes on a request that was taken in, outside a dialog.
    pub fn forward(
        &mut self,
        now: Now,
        id: ContextId,
        request: &Request<'_>,
        plan: Plan,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        let Some(mut context) = self.take(id) else { return };
        if context.is_routed || context.upstream.state() != ServerState::Proceeding {
            return self.put_back(id, context);
        }
        context.is_routed = true;
        context.waiting = plan.groups;
        context.extra = plan.extra;
        context.caller = plan.caller;
        context.strips = plan.strips;
        context.ring = 1000 * u64::from(plan.ring_timeout.0);
        if let Some(call) = plan.call {
            let [caller_tag, _] = tags(request);
            let dialog = self.kit.dialog(request.call_id, caller_tag);
            let call = self.ledger.begin(now, dialog, call, fx);
            (context.call, context.role) = (Some(call), Role::Begins);
        }
        self.go_on(now, &mut context, id, terms, fx);
        self.put_back(id, context);
    }

    /// Passes on a request within a dialog, whichever side it is from: to the other, and only from
    /// the address that it was seen at, or from who is trusted.
    ///
    /// # Errors
    /// Why it is not.
    #[expect(clippy::too_many_arguments, reason = "a request as it came, and what it is judged by")]
    pub fn within(
        &mut self,
        now: Now,
        request: &Request<'_>,
        datagram: &[u8],
        flow: Flow,
        tag: u32,
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
            match open(from_tag) {
                Some(Sides { caller, callee }) => Some((caller, callee, from_tag, to_tag)),
                None => {
                    open(to_tag).map(|Sides { caller, callee }| (callee, caller, to_tag, from_tag))
                }
            }
        });
        let Some((own, other, caller_tag, callee_tag)) = opened else {
            return refused(Status::CALL_DOES_NOT_EXIST);
        };
        let source = flow.remote.ip();
        if own.flow().remote.ip() != source && !terms.policy.trusts(source) {
            return refused(Status::FORBIDDEN.because("Not A Party Of This Call"));
        }
        if max_forwards(request) == Some(0) {
            return refused(Status::TOO_MANY_HOPS);
        }
        if kit.has_looped(request) {
            return refused(Status::LOOP_DETECTED);
        }
        // What stands in Route and Request-URI counts for a server, and there only where it could
        // have sent from itself.
        let next = way.next_hop();
        let to = match other {
            Side::Flow(to) => to,
            Side::Server(seen) => {
                let is_its_own = |remote: &SocketAddr| {
                    remote.ip() == seen.remote.ip() || terms.policy.trusts(remote.ip())
                };
                let named = numeric(next).filter(is_its_own);
                Flow { remote: named.unwrap_or(seen.remote), ..seen }
            }
        };
        let call = self.ledger.of_dialog(kit.dialog(request.call_id, caller_tag));
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
        context.call = call.filter(|call| self.ledger.is_between(*call, callee_tag));
        context.role = match method {
            Method::Bye => Role::Ends,
            Method::Invite | Method::Update => Role::Renews,
            _ => Role::None,
        };
        if let Some(call) = context.call {
            self.ledger.hear(now, call, terms.policy.dead_call);
        }
        let target = Target { uri: Box::default(), path: Box::default(), flow: to, side: other };
        context.waiting.push_back(vec![target]);
        self.go_on(now, &mut context, id, terms, fx);
        self.put_back(id, context);
        Ok(())
    }

    /// Takes a response; whether anybody waited for it.
    pub fn response(
        &mut self,
        now: Now,
        response: &Response<'_>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some((id, number)) = branch_of(response.via.branch) else { return false };
        let Some(mut context) = self.take(id) else { return false };
        let known = self.branch_response(now, &mut context, id, number, response, terms, fx);
        self.put_back(id, context);
        known
    }

    #[expect(clippy::too_many_arguments, reason = "those of `response`, and whose it is")]
    fn branch_response(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        number: usize,
        response: &Response<'_>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some(branch) = context.branches.get_mut(number) else { return false };
        // Who knows one branch of ours can't make up another.
        if branch_in(&branch.sent) != Some(response.via.branch) {
            return false;
        }
        let code = response.code;
        if response.cseq.method == Method::Cancel {
            if let Cancelling::Sent(client, _) = &mut branch.cancelling {
                client.response(now.millis, code);
            }
            return true;
        }
        let is_news = match &mut branch.client {
            Downstream::Other(client) => client.response(now.millis, code),
            Downstream::Invite(client) => {
                let does = client.response(now.millis, code);
                if does.ack {
                    self.kit.send_ack(branch, response, fx);
                }
                does.is_news
            }
        };
        if !is_news {
            return true;
        }
        let target = branch.flow.remote;
        if code < 200 {
            // RFC 3261 §16.7 step 2. One that was cancelled has its own time.
            let is_cancelled = matches!(branch.cancelling, Cancelling::Sent(..));
            if code > 100 && !is_cancelled && matches!(branch.client, Downstream::Invite(_)) {
                branch.patience = now.millis + TIMER_C;
            }
            if matches!(branch.cancelling, Cancelling::Wanted) {
                self.kit.send_cancel(now, branch, reason_of(context.standing), fx);
            }
            // RFC 4320 §4.1: only INVITEs have provisional responses that matter.
            if code > 100 && matches!(context.upstream, Upstream::Invite(_)) {
                if let (Some(call), Role::Begins) = (context.call, context.role) {
                    self.ledger.ring(now, call, target, fx);
                }
                self.pass_back(now, context, response, code, fx);
            }
            return true;
        }
        branch.is_done = true;
        branch.patience = u64::MAX;
        if code < 300 {
            self.answered(now, context, response, target, terms, fx);
            self.cancel_pending(now, context, fx);
            return true;
        }
        if code == 408 && !matches!(context.upstream, Upstream::Invite(_)) {
            // RFC 4320 §4.2: it would come too late.
            context.best.consider_code(408);
        } else {
            context.best.consider(response, &mut self.kit.out);
        }
        if code >= 600 && context.standing == Standing::Open {
            context.standing = Standing::Declined;
            self.cancel_pending(now, context, fx);
        }
        self.settle(now, context, id, terms, fx);
        true
    }

    /// A 2xx has come.
    fn answered(
        &mut self,
        now: Now,
        context: &mut Context,
        response: &Response<'_>,
        target: SocketAddr,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        context.standing = Standing::Answered;
        context.ring_until = u64::MAX;
        context.waiting.clear();
        self.pass_back(now, context, response, response.code, fx);
        let Some(call) = context.call else { return };
        let dies = Dies::after(now, session_expires(response), terms.policy.dead_call);
        match context.role {
            Role::Begins => {
                let callee = (target, tag_of(&response.to));
                if self.ledger.answer(now, call, callee, dies, fx) {
                    self.wheel.set(dies.at, Wake::Call(call));
                }
            }
            Role::Renews => {
                self.ledger.renew(call, dies);
                self.wheel.set(dies.at, Wake::Call(call));
            }
            Role::Ends => self.ledger.end(now, call, End::Bye, fx),
            Role::None => {}
        }
    }

    /// Sends a response back as it is but for its topmost Via.
    fn pass_back(
        &mut self,
        now: Now,
        context: &mut Context,
        response: &Response<'_>,
        code: u16,
        fx: &mut Effects,
    ) {
        if !context.upstream.respond(now.millis, code) {
            return;
        }
        let mut out = Buf::new(&mut self.kit.out);
        put_response(&mut out, response, code, b"");
        if let Some(len) = out.finish() {
            let text = &self.kit.out[..len];
            context.last.clear();
            // A 2xx to an INVITE is repeated by who sent it.
            if !(matches!(context.upstream, Upstream::Invite(_)) && code >= 200) {
                context.last.extend_from_slice(text);
            }
            fx.respond(context.flow, context.reply_to, text, context.method);
        }
    }

    /// Does what is to be done once no branch is pending: the next group, or the best response.
    fn settle(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        if context.is_pending() || context.upstream.state() != ServerState::Proceeding {
            return;
        }
        if context.standing == Standing::Open && !context.waiting.is_empty() {
            return self.go_on(now, context, id, terms, fx);
        }
        context.ring_until = u64::MAX;
        let is_invite = matches!(context.upstream, Upstream::Invite(_));
        let (mut code, mut text) = context.best.take().unwrap_or((408, Vec::new()));
        if context.standing == Standing::Cancelled && code == 408 {
            (code, text) = (487, Vec::new());
        } else if context.rang_in_vain && matches!(code, 408 | 487) {
            // The callee was reached, and did not answer: nobody asked for a cancellation.
            (code, text) = (480, Vec::new());
        }
        if text.is_empty() {
            if !is_invite && code == 408 {
                // RFC 4320 §4.2: it would come too late, and be taken for another's.
                if let Upstream::Other(other) = &mut context.upstream {
                    other.terminate();
                }
                return self.ended(now, context, code, fx);
            }
            return self.respond_own(now, context, Status::of_code(code), b"", terms, fx);
        }
        if context.upstream.respond(now.millis, code) {
            fx.respond(context.flow, context.reply_to, &text, context.method);
            context.last = text;
        }
        self.ended(now, context, code, fx);
    }

    /// Answers with a response that is the proxy's own.
    fn respond_own(
        &mut self,
        now: Now,
        context: &mut Context,
        status: Status,
        headers: &[u8],
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        if !context.upstream.respond(now.millis, status.code) {
            return;
        }
        context.last.clear();
        let Kit { parser, out, .. } = &mut self.kit;
        if let Parsed::Request(request) = parser.parse(&context.request) {
            let mut buf = Buf::new(out);
            let (flow, tag) = (context.flow, context.tag);
            put_own_response(&mut buf, status, &request, flow, tag, terms.server, headers);
            if let Some(len) = buf.finish() {
                context.last = out[..len].to_vec();
                context.send_last(fx);
            }
        }
        if status.code >= 200 {
            self.ended(now, context, status.code, fx);
        }
    }

    /// A final response that is no 2xx went back, or none will.
    fn ended(&mut self, now: Now, context: &mut Context, code: u16, fx: &mut Effects) {
        let Some(call) = context.call else { return };
        match context.role {
            Role::Begins => {
                let is_cancelled = context.standing == Standing::Cancelled;
                let why = if is_cancelled { End::Cancelled } else { End::Refused(code) };
                self.ledger.end(now, call, why, fx);
            }
            // Who is asked for credentials tries again.
            Role::Ends if !matches!(code, 401 | 407) => self.ledger.end(now, call, End::Bye, fx),
            Role::Ends | Role::Renews | Role::None => {}
        }
    }

    /// The caller gives up.
    fn cancel(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        if context.upstream.state() != ServerState::Proceeding
            || !matches!(context.upstream, Upstream::Invite(_))
        {
            return;
        }
        context.standing = Standing::Cancelled;
        context.ring_until = u64::MAX;
        context.waiting.clear();
        self.cancel_pending(now, context, fx);
        self.settle(now, context, id, terms, fx);
    }

    /// Cancels all branches that are pending (RFC 3261 §16.10).
    fn cancel_pending(&mut self, now: Now, context: &mut Context, fx: &mut Effects) {
        let reason = reason_of(context.standing);
        for branch in context.branches.iter_mut().filter(|branch| !branch.is_done) {
            let Downstream::Invite(client) = &branch.client else { continue };
            match (client.state(), &branch.cancelling) {
                (ClientState::Proceeding, Cancelling::No | Cancelling::Wanted) => {
                    self.kit.send_cancel(now, branch, reason, fx);
                }
                (ClientState::Trying, Cancelling::No) => branch.cancelling = Cancelling::Wanted,
                _ => {}
            }
        }
    }

    /// Sends the request to the next group.
    fn go_on(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        let Some(group) = context.waiting.pop_front() else { return };
        context.rang_in_vain = false;
        if let Err(status) = self.kit.launch(now, context, id, group, terms, fx) {
            context.waiting.clear();
            return self.respond_own(now, context, status, b"", terms, fx);
        }
        if context.ring > 0 && matches!(context.upstream, Upstream::Invite(_)) {
            context.ring_until = now.millis + context.ring;
        }
    }

    /// Does all that is due.
    pub fn pass_time(&mut self, now: Now, terms: &Terms<'_>, fx: &mut Effects) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.take(now.millis, &mut due);
        for wake in due.drain(..) {
            match wake {
                Wake::Call(call) => match self.ledger.until(call) {
                    Some(until) if until <= now.millis => {
                        self.ledger.end(now, call, End::Dead, fx);
                    }
                    Some(until) => self.wheel.set(until, wake),
                    None => {}
                },
                Wake::Context(id) => {
                    let Some(mut context) = self.take(id) else { continue };
                    if context.armed <= now.millis {
                        context.armed = u64::MAX;
                        self.wake(now, &mut context, id, terms, fx);
                    }
                    self.put_back(id, context);
                }
            }
        }
        self.due = due;
    }

    fn wake(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        if context.upstream.due(now.millis) == Some(Due::Resend) && !context.last.is_empty() {
            context.send_last(fx);
        }
        let has_rung = context.ring_until <= now.millis;
        if has_rung {
            (context.ring_until, context.rang_in_vain) = (u64::MAX, true);
        }
        let mut has_failed = false;
        for branch in &mut context.branches {
            if let Cancelling::Sent(client, cancel) = &mut branch.cancelling
                && client.due(now.millis) == Some(Due::Resend)
            {
                fx.send(branch.flow, branch.flow.remote, cancel);
            }
            match branch.client.due(now.millis) {
                Some(Due::Resend) => fx.send(branch.flow, branch.flow.remote, &branch.sent),
                Some(Due::TimedOut) => {
                    branch.is_done = true;
                    has_failed = true;
                }
                Some(Due::Over) | None => {}
            }
            if branch.is_done || !(has_rung || branch.patience <= now.millis) {
                continue;
            }
            // It rings for too long, or does not react to being cancelled (§16.8, §9.1).
            let is_cancelled = matches!(branch.cancelling, Cancelling::Sent(..));
            if branch.client.state() == ClientState::Proceeding && !is_cancelled {
                self.kit.send_cancel(now, branch, b"", fx);
            } else if branch.patience <= now.millis || !is_cancelled {
                branch.client.terminate();
                branch.is_done = true;
                has_failed = true;
            }
        }
        if has_failed {
            context.best.consider_code(408);
            self.settle(now, context, id, terms, fx);
        }
    }

    fn take(&mut self, id: ContextId) -> Option<Box<Context>> {
        let slot = self.contexts.get_mut(id.index as usize)?;
        let context = slot.take_if(|context| context.generation == id.generation)?;
        self.transactions -= context.counted.0;
        self.octets -= context.counted.1;
        Some(context)
    }

    fn put_back(&mut self, id: ContextId, mut context: Box<Context>) {
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

impl Kit {
    fn is_own(&self, uri: &SipUri<'_>, flow: &Flow) -> bool {
        let Some(ip) = uri.host_port.ip() else { return false };
        let port = uri.host_port.port.unwrap_or(DEFAULT_PORT);
        // Of a listener at all addresses only the one that a datagram came to is known to be ours.
        self.listeners.iter().any(|listener| {
            let is_same = listener.ip() == ip
                || listener.ip().is_unspecified() && flow.local.is_some_and(|local| local == ip);
            listener.port() == port && is_same
        })
    }

    /// Whether an entry of Route is ours: it names us, or has a token that we made for this dialog.
    fn is_own_route(&self, uri: &SipUri<'_>, request: &Request<'_>, flow: &Flow) -> bool {
        let token = || Params::new(uri.params).find(PARAM)?.value;
        self.is_own(uri, flow)
            || token().is_some_and(|token| {
                let [from, to] = tags(request);
                let open = |tag| self.token.open(token, request.call_id, tag);
                open(from).or_else(|| open(to)).is_some()
            })
    }

    /// A number that nobody can guess.
    fn random(&mut self) -> u32 {
        self.issued += 1;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.issued);
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for part in parts {
            hasher.write(part);
            hasher.write_u8(b'\n');
        }
        hasher.finish()
    }

    /// What a request has in common with its repetitions, and an INVITE with its ACK and CANCEL
    /// (RFC 3261 §17.2.3).
    fn key_of(&self, request: &Request<'_>) -> u64 {
        let via = &request.envelope.via;
        let method = match request.envelope.method {
            Method::Ack | Method::Cancel => Method::Invite,
            method => method,
        };
        let cseq = request.cseq.number.to_le_bytes();
        // Without the magic cookie a branch need not be unique (RFC 2543): the rest tells.
        let uri = if via.branch.starts_with(b"z9hG4bK") { &b""[..] } else { request.uri };
        self.hash(&[
            via.head,
            via.branch,
            request.call_id,
            method.as_bytes(),
            &cseq,
            tag_of(&request.from),
            uri,
        ])
    }

    fn dialog(&self, call_id: &[u8], caller_tag: &[u8]) -> u64 {
        self.hash(&[b"dialog", call_id, caller_tag])
    }

    /// What tells a loop from a spiral (RFC 3261 §16.6 step 8, RFC 5393 §4.2.1): all that decides
    /// where a request goes.
    fn loop_hash(&self, request: &Request<'_>) -> u64 {
        let cseq = request.cseq.number.to_le_bytes();
        let message = &request.envelope.message;
        let route = message.named("Route").next().unwrap_or_default();
        let from = message.first(HeaderName::From).unwrap_or_default();
        let to = message.first(HeaderName::To).unwrap_or_default();
        self.hash(&[b"loop", request.uri, from, to, request.call_id, &cseq, route])
    }

    /// Whether a request was here before, and nothing about it has changed.
    fn has_looped(&self, request: &Request<'_>) -> bool {
        let message = &request.envelope.message;
        let vias = message.all(HeaderName::Via).flat_map(Elements::new).filter_map(Result::ok);
        let mut ours = vias
            .filter_map(|element| Via::parse(element).ok())
            .filter_map(|via| via.branch.strip_prefix(BRANCH)?.get(24..))
            .peekable();
        if ours.peek().is_none() {
            return false;
        }
        let mut space = [0; 16];
        let mut own = Buf::new(&mut space);
        put_u64(&mut own, self.loop_hash(request));
        ours.any(|hash| hash == own.written())
    }

    /// Our own address, as a peer of `flow` sees it.
    fn address(&self, flow: &Flow) -> SocketAddr {
        let listener = self.listeners.get(usize::from(flow.listener.0)).copied();
        let listener = listener.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)));
        match flow.local {
            Some(ip) => SocketAddr::new(ip, listener.port()),
            None => listener,
        }
    }

    /// Sends the request to all of a group.
    fn launch(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        group: Vec<Target>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Status> {
        // Both are lent out while the request is read from them.
        let mut parser = std::mem::replace(&mut self.parser, Parser::new(Limits::default()));
        let datagram = std::mem::take(&mut context.request);
        let launched = match parser.parse(&datagram) {
            Parsed::Request(request) => {
                self.launch_request(now, &request, context, id, group, terms, fx)
            }
            _ => Err(Status::SERVER_INTERNAL_ERROR),
        };
        (self.parser, context.request) = (parser, datagram);
        launched
    }

    #[expect(clippy::too_many_arguments, reason = "a request as it is kept, and where it goes")]
    fn launch_request(
        &mut self,
        now: Now,
        request: &Request<'_>,
        context: &mut Context,
        id: ContextId,
        group: Vec<Target>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Status> {
        let method = request.envelope.method;
        let message = &request.envelope.message;
        let most = message.named("Max-Breadth").next();
        let most = most.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
        let breadth = u32::try_from(group.len()).unwrap_or(u32::MAX);
        let share = most.unwrap_or(MAX_BREADTH).checked_div(breadth).unwrap_or(0);
        if share == 0 {
            return Err(Status::MAX_BREADTH_EXCEEDED);
        }
        let breadth = (most.is_some() || breadth > 1).then_some(share);
        let loop_hash = self.loop_hash(request);
        // RFC 3325 §7: whoever asked for that is not named to phones.
        let is_private = wants_privacy(request);
        let begins_dialog = !context.is_within
            && matches!(method, Method::Invite | Method::Subscribe | Method::Refer);
        for target in group {
            let flow = context.flow;
            let mut way = Way::read(request, |uri| self.is_own_route(uri, request, &flow));
            if context.is_within {
                way.next_hop();
            } else {
                way.uri = &target.uri;
                way.routes.clear();
            }
            let mut space = [0; 1024];
            let mut record_route = Buf::new(&mut space);
            if begins_dialog {
                let sides = Sides { caller: context.caller, callee: target.side };
                let near = [self.address(&target.flow), self.address(&context.flow)];
                let entries = if near[0] == near[1] { &near[..1] } else { &near[..] };
                for &address in entries {
                    record_route.put(b"Record-Route: <sip:");
                    put_sent_by(&mut record_route, address);
                    record_route.put(b";lr;");
                    record_route.put(PARAM.as_bytes());
                    record_route.put(b"=");
                    let tag = tag_of(&request.from);
                    self.token.put(&mut record_route, request.call_id, tag, &sides);
                    record_route.put(b">\r\n");
                }
            }
            let number = context.branches.len();
            let mut branch = [0; 64];
            let mut branch = Buf::new(&mut branch);
            branch.put(BRANCH);
            branch.put_hex(id.index);
            branch.put_hex(id.generation);
            branch.put_hex(u32::try_from(number).unwrap_or(u32::MAX));
            put_u64(&mut branch, loop_hash);
            let sent_by = self.address(&target.flow);
            let mut out = Buf::new(&mut self.out);
            onward::put_request(
                &mut out,
                request,
                context.flow.remote,
                &Onward {
                    way: &way,
                    path: &target.path,
                    sent_by,
                    branch: branch.written(),
                    record_route: record_route.written(),
                    extra: &context.extra,
                    breadth,
                    realm: terms.realm,
                    strips: context.strips || is_private && matches!(target.side, Side::Flow(_)),
                },
            );
            let Some(len) = out.finish() else {
                return Err(Status::MESSAGE_TOO_LARGE);
            };
            let sent = self.out[..len].to_vec();
            fx.send(target.flow, target.flow.remote, &sent);
            let is_invite = method == Method::Invite;
            let client = if is_invite {
                Downstream::Invite(InviteClient::begin(now.millis))
            } else {
                Downstream::Other(Client::begin(now.millis))
            };
            let patience = if is_invite { now.millis + TIMER_C } else { u64::MAX };
            context.branches.push(Branch {
                client,
                flow: target.flow,
                sent,
                cancelling: Cancelling::No,
                patience,
                is_done: false,
            });
        }
        Ok(())
    }

    /// Passes on the ACK of a 2xx (RFC 3261 §16.11: without a transaction).
    fn forward_ack(
        &mut self,
        request: &Request<'_>,
        (flow, to): (Flow, Flow),
        way: &Way<'_>,
        (terms, strips): (&Terms<'_>, bool),
        fx: &mut Effects,
    ) {
        let mut branch = [0; 64];
        let mut branch = Buf::new(&mut branch);
        branch.put(BRANCH);
        // No client transaction waits for a response to it.
        branch.put_hex(u32::MAX);
        put_u64(&mut branch, self.key_of(request));
        put_u64(&mut branch, self.loop_hash(request));
        let sent_by = self.address(&to);
        let mut out = Buf::new(&mut self.out);
        onward::put_request(
            &mut out,
            request,
            flow.remote,
            &Onward {
                way,
                path: b"",
                sent_by,
                branch: branch.written(),
                record_route: b"",
                extra: b"",
                breadth: None,
                realm: terms.realm,
                strips,
            },
        );
        if let Some(len) = out.finish() {
            fx.send(to, to.remote, &self.out[..len]);
        }
    }

    fn send_ack(&mut self, branch: &Branch, response: &Response<'_>, fx: &mut Effects) {
        let Self { parser, out, .. } = self;
        if let Parsed::Request(sent) = parser.parse(&branch.sent) {
            let mut buf = Buf::new(out);
            put_ack(&mut buf, &sent, response);
            if let Some(len) = buf.finish() {
                fx.send(branch.flow, branch.flow.remote, &out[..len]);
            }
        }
    }

    fn send_cancel(&mut self, now: Now, branch: &mut Branch, reason: &[u8], fx: &mut Effects) {
        let Self { parser, out, .. } = self;
        if let Parsed::Request(sent) = parser.parse(&branch.sent) {
            let mut buf = Buf::new(out);
            put_cancel(&mut buf, &sent, reason);
            if let Some(len) = buf.finish() {
                let cancel = &out[..len];
                fx.send(branch.flow, branch.flow.remote, cancel);
                let client = Client::begin(now.millis);
                branch.cancelling = Cancelling::Sent(client, cancel.into());
            }
        }
        // Should nothing come of it, the branch is given up.
        branch.patience = now.millis + TRANSACTION;
    }
}

/// The tag of From or To; empty without.
fn tag_of<'a>(address: &NameAddr<'a>) -> &'a [u8] {
    address.params.find("tag").and_then(|tag| tag.value).unwrap_or_default()
}

/// The tags of From and To.
fn tags<'a>(request: &Request<'a>) -> [&'a [u8]; 2] {
    [tag_of(&request.from), tag_of(&request.to)]
}

/// The branch in a request as we sent it: our Via is its first header.
fn branch_in(sent: &[u8]) -> Option<&[u8]> {
    let line = sent.split(|&b| b == b'\n').nth(1)?;
    let at = line.windows(8).position(|part| part == b";branch=")?;
    line.get(at + 8..)?.strip_suffix(b"\r")
}

/// Whether its sender wants not to be named (RFC 3323, RFC 3325 §9.3).
pub fn wants_privacy(request: &Request<'_>) -> bool {
    let mut values = request.envelope.message.named("Privacy");
    values.any(|value| {
        value.split(|&b| b == b';').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"id"))
    })
}

/// Why branches are cancelled (RFC 3326): a phone shows no missed call that another one took.
fn reason_of(standing: Standing) -> &'static [u8] {
    match standing {
        Standing::Answered => b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n",
        Standing::Open | Standing::Cancelled | Standing::Declined => b"",
    }
}

/// The client transaction that a branch of ours names.
fn branch_of(branch: &[u8]) -> Option<(ContextId, usize)> {
    let rest = branch.strip_prefix(BRANCH)?;
    let number = |range| {
        let digits = rest.get(range)?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let id = ContextId { index: number(0..8)?, generation: number(8..16)? };
    Some((id, number(16..24)? as usize))
}

/// Whose Call-ID it is decides which worker a request or response belongs to.
pub fn owner(key: [u8; 16], call_id: &[u8], workers: usize) -> usize {
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(call_id);
    let workers = u64::try_from(workers.max(1)).unwrap_or(1);
    usize::try_from(hasher.finish() % workers).unwrap_or(0)
}

/// The address that a URI names, where it is one.
pub fn numeric(uri: &[u8]) -> Option<SocketAddr> {
    let uri = SipUri::parse(uri).ok()?;
    let maddr = Params::new(uri.params).find("maddr");
    if maddr.is_some() {
        return None;
    }
    Some(SocketAddr::new(uri.host_port.ip()?, uri.host_port.port.unwrap_or(DEFAULT_PORT)))
}

/// Seconds of the session, as a 2xx sets it (RFC 4028 §7.2).
fn session_expires(response: &Response<'_>) -> Option<u32> {
    let value = response.message.named("Session-Expires").next();
    let value = value.or_else(|| response.message.named("x").next())?;
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()?.trim().parse().ok()
}

/// A response that the proxy makes itself.
fn put_own_response(
    out: &mut Buf<'_>,
    status: Status,
    request: &Request<'_>,
    flow: Flow,
    tag: u32,
    server: Option<&str>,
    headers: &[u8],
) {
    let mut response = encode::Response::start(out, status, &request.envelope, flow.remote, tag);
    response.buf().put(headers);
    if let Some(server) = server {
        response.header(b"Server: ", server.as_bytes());
    }
    response.finish();
}
