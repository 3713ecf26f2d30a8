//! Responses that come in, and what time brings: how a request that was passed on ends.

use std::{net::SocketAddr, sync::Arc};

use super::{
    call::End,
    context::{Cancelling, Context, Downstream, Further, Role, Standing, Upstream},
    core::{ContextId, Core, Terms, Wake},
    effects::Effects,
    kit::{Kit, branch_in, branch_of, put_own_response, reason_of, session_expires, tag_of},
    ledger::Dies,
    onward::put_response,
    timer::TIMER_C,
    token::{Side, Sides},
    transaction::{ClientState, Due, ServerState},
};
use crate::{
    sip::{Method, Parsed, Request, Response, Status, encode::Buf},
    time::Now,
};

impl Core {
    /// Takes a response; whether anybody waited for it.
    pub fn response(
        &mut self,
        now: Now,
        response: &Response<'_>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some((id, number)) = branch_of(response.via.branch) else {
            return self.probe_response(now, response, terms, fx);
        };
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
        let answers = (200..300).contains(&code).then(|| (branch.side, branch.aor.clone()));
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
        if let Some((side, aor)) = answers {
            self.answered(now, context, response, (target, side, aor), terms, fx);
            self.cancel_pending(now, context, fx);
            return true;
        }
        if code == 503
            && context.standing == Standing::Open
            && let Some(further) = branch.further.take()
        {
            self.fail_over(now, context, id, *further, terms, fx);
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
        (target, side, aor): (SocketAddr, Side, Option<Arc<[u8]>>),
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
                let sides = Sides { caller: context.caller, callee: side };
                let tags = [tag_of(&response.from), tag_of(&response.to)];
                let dialog = self.kit.dialog(response.call_id, tags, &sides);
                let callee = (target, aor, dialog);
                if self.ledger.answer(now, call, callee, dies, fx) {
                    self.watch(now, call, (&*context, &sides), response, terms.policy);
                    self.arm(call);
                }
            }
            Role::Renews => {
                self.ledger.renew(call, dies);
                self.retarget(call, context, response);
                self.arm(call);
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
    pub(super) fn settle(
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
    pub(super) fn respond_own(
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
            // Who refuses a BYE goes on with the call (a CSeq out of order, an extension that is not
            // known): anybody could have it counted no longer. RFC 3261 §15.1.1 names what ends it.
            Role::Ends if matches!(code, 408 | 481) => self.ledger.end(now, call, End::Bye, fx),
            Role::Ends | Role::Renews | Role::None => {}
        }
    }

    /// The caller gives up.
    pub(super) fn cancel(
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
    pub(super) fn cancel_pending(&mut self, now: Now, context: &mut Context, fx: &mut Effects) {
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
    pub(super) fn go_on(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        let Some(group) = context.waiting.pop_front() else { return };
        let launched = self.kit.launch(now, context, id, group, terms, fx);
        self.launched(now, context, launched, terms, fx);
    }

    /// Sends the request to the first group, while it is at hand as it came.
    pub(super) fn go_on_with(
        &mut self,
        now: Now,
        request: &Request<'_>,
        context: &mut Context,
        id: ContextId,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        let Some(group) = context.waiting.pop_front() else { return };
        let launched = self.kit.launch_request(now, request, context, id, group, terms, fx);
        self.launched(now, context, launched, terms, fx);
    }

    fn launched(
        &mut self,
        now: Now,
        context: &mut Context,
        launched: Result<(), Status>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        context.rang_in_vain = false;
        if let Err(status) = launched {
            context.waiting.clear();
            return self.respond_own(now, context, status, b"", terms, fx);
        }
        if context.ring > 0 && matches!(context.upstream, Upstream::Invite(_)) {
            context.ring_until = now.millis + context.ring;
        }
    }

    /// Tries a target's next address, since nobody is at the one before, or it can't serve
    /// (RFC 3263 §4.3).
    pub(super) fn fail_over(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        further: Further,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) {
        let is_alone = !context.is_pending();
        if let Err(status) = self.kit.launch_further(now, context, id, further, terms, fx) {
            context.best.consider_code(status.code);
            return self.settle(now, context, id, terms, fx);
        }
        // Nobody has rung so far.
        let is_invite = matches!(context.upstream, Upstream::Invite(_));
        if is_invite && context.ring > 0 && (is_alone || context.ring_until == u64::MAX) {
            (context.ring_until, context.rang_in_vain) = (now.millis + context.ring, false);
        }
    }

    /// Does all that is due.
    pub fn pass_time(&mut self, now: Now, terms: &Terms<'_>, fx: &mut Effects) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.take(now.millis, &mut due);
        for wake in due.drain(..) {
            match wake {
                Wake::Call(call) => self.wake_call(now, call, terms, fx),
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
        let mut given_up = Vec::new();
        for branch in &mut context.branches {
            // RFC 3263 §4.3: where nobody has said anything, another server may.
            let is_silent = branch.client.state() == ClientState::Trying;
            let goes_on = is_silent && context.standing == Standing::Open;
            if let Cancelling::Sent(client, cancel) = &mut branch.cancelling
                && client.due(now.millis) == Some(Due::Resend)
            {
                fx.send(branch.flow, branch.flow.remote, cancel);
            }
            match branch.client.due(now.millis) {
                Some(Due::Resend) => fx.send(branch.flow, branch.flow.remote, &branch.sent),
                Some(Due::TimedOut) => given_up.push(branch.give_up(goes_on)),
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
                given_up.push(branch.give_up(goes_on));
            }
        }
        let has_failed = given_up.iter().any(Option::is_none);
        for further in given_up.into_iter().flatten() {
            self.fail_over(now, context, id, *further, terms, fx);
        }
        if has_failed {
            context.best.consider_code(408);
            self.settle(now, context, id, terms, fx);
        }
    }
}
