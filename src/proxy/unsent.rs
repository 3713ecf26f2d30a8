//! Requests that could not be sent (RFC 3261 §16.9, §17.1.4; RFC 3263 §4.3).

use super::{
    context::{Context, Standing},
    core::{ContextId, Core, Terms},
    effects::Effects,
    kit::{branch_in, branch_of},
    transaction::ClientState,
};
use crate::time::Now;

impl Core {
    /// Takes back a datagram that the kernel did not take, because there is no way to where it was to
    /// go. A request of which nothing was heard goes to its target's next address, or it is as if
    /// its target had answered 503; whether it was such a one.
    pub fn unsent(
        &mut self,
        now: Now,
        datagram: &[u8],
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        if datagram.starts_with(b"SIP/2.0 ") {
            return false;
        }
        let Some((id, number)) = branch_in(datagram).and_then(branch_of) else { return false };
        let Some(mut context) = self.take(id) else { return false };
        let is_given_up = self.give_up(now, &mut context, (id, number), datagram, terms, fx);
        self.put_back(id, context);
        is_given_up
    }

    fn give_up(
        &mut self,
        now: Now,
        context: &mut Context,
        (id, number): (ContextId, usize),
        datagram: &[u8],
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some(branch) = context.branches.get_mut(number) else { return false };
        // An ACK or a CANCEL has the same branch.
        let is_it = !branch.is_done && branch.sent == datagram;
        if !is_it || branch.client.state() != ClientState::Trying {
            return false;
        }
        branch.client.terminate();
        let is_open = context.standing == Standing::Open;
        match branch.give_up(is_open) {
            Some(further) => self.fail_over(now, context, id, *further, terms, fx),
            None => {
                // A 503 of one server is a 500 of ours (§16.7 step 6). To a caller that has given
                // up, nobody has answered.
                context.best.consider_code(if is_open { 500 } else { 408 });
                self.settle(now, context, id, terms, fx);
            }
        }
        true
    }
}
