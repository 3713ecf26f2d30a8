//! One request that is passed on: its server transaction, its branches, its best response
//! (RFC 3261 §16.2, §16.7).

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use super::{
    best::Best,
    effects::Effects,
    token::Side,
    transaction::{Client, ClientState, Due, InviteClient, InviteServer, Server, ServerState},
};
use crate::flow::Flow;

/// Where a request is passed on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its Request-URI there.
    pub uri: Box<[u8]>,
    /// The route to it (RFC 3327), elements with commas between; may be empty.
    pub path: Box<[u8]>,
    /// The way it takes: our end, and the address it is sent to.
    pub flow: Flow,
    /// Where later requests of a dialog go.
    pub side: Side,
    /// The AoR of ours that it is bound to.
    pub aor: Option<Arc<[u8]>>,
    /// Further ways to the same server or domain, in the order in which they are tried if nothing
    /// is heard by the one before (RFC 3263 §4.3).
    pub further: Box<[Flow]>,
}

/// A transaction on either side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Upstream {
    Invite(InviteServer),
    Other(Server),
}

impl Upstream {
    pub(super) fn state(&self) -> ServerState {
        match self {
            Self::Invite(invite) => invite.state(),
            Self::Other(other) => other.state(),
        }
    }

    pub(super) fn next(&self) -> u64 {
        match self {
            Self::Invite(invite) => invite.next(),
            Self::Other(other) => other.next(),
        }
    }

    pub(super) fn respond(&mut self, now: u64, code: u16) -> bool {
        match self {
            Self::Invite(invite) => invite.respond(now, code),
            Self::Other(other) => other.respond(now, code),
        }
    }

    pub(super) fn repeated(&self) -> bool {
        match self {
            Self::Invite(invite) => invite.repeated(),
            Self::Other(other) => other.repeated(),
        }
    }

    pub(super) fn due(&mut self, now: u64) -> Option<Due> {
        match self {
            Self::Invite(invite) => invite.due(now),
            Self::Other(other) => other.due(now),
        }
    }
}

/// A transaction towards a target.
#[derive(Clone, Copy, Debug)]
pub(super) enum Downstream {
    Invite(InviteClient),
    Other(Client),
}

impl Downstream {
    pub(super) fn state(&self) -> ClientState {
        match self {
            Self::Invite(invite) => invite.state(),
            Self::Other(other) => other.state(),
        }
    }

    pub(super) fn next(&self) -> u64 {
        match self {
            Self::Invite(invite) => invite.next(),
            Self::Other(other) => other.next(),
        }
    }

    pub(super) fn terminate(&mut self) {
        match self {
            Self::Invite(invite) => invite.terminate(),
            Self::Other(other) => other.terminate(),
        }
    }

    pub(super) fn due(&mut self, now: u64) -> Option<Due> {
        match self {
            Self::Invite(invite) => invite.due(now),
            Self::Other(other) => other.due(now),
        }
    }
}

/// How far a branch's CANCEL is.
#[derive(Clone, Debug)]
pub(super) enum Cancelling {
    No,
    /// It is sent when a provisional response has come (RFC 3261 §9.1).
    Wanted,
    Sent(Client, Box<[u8]>),
}

/// A target's next address, should nothing come of the one before.
#[derive(Debug)]
pub(super) struct Further {
    pub(super) target: Target,
    /// Its Max-Breadth, as it is at all addresses (RFC 5393 §5.3.3).
    pub(super) breadth: Option<u32>,
}

impl Further {
    /// What is left of a target when its first address is tried.
    pub(super) fn of(target: &Target, breadth: Option<u32>) -> Option<Box<Self>> {
        let (&flow, rest) = target.further.split_first()?;
        let side = match target.side {
            Side::Server(_) => Side::Server(flow),
            side @ Side::Flow(_) => side,
        };
        let target = Target { flow, side, further: rest.into(), ..target.clone() };
        Some(Box::new(Self { target, breadth }))
    }

    fn octets(&self) -> usize {
        let Target { uri, path, further, .. } = &self.target;
        size_of::<Self>() + uri.len() + path.len() + size_of_val(&**further)
    }
}

/// A branch: the request as it was sent to one target.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) client: Downstream,
    pub(super) flow: Flow,
    /// Where later requests of a dialog with who answers go.
    pub(super) side: Side,
    /// The AoR of ours that is called there.
    pub(super) aor: Option<Arc<[u8]>>,
    /// What was sent. Its ACK and its CANCEL are made from it.
    pub(super) sent: Vec<u8>,
    pub(super) cancelling: Cancelling,
    /// When it is given up though its callee rings, or has been cancelled.
    pub(super) patience: u64,
    /// Whether a final response has come, or will not come any more.
    pub(super) is_done: bool,
    /// Where it goes if nobody is there.
    pub(super) further: Option<Box<Further>>,
}

impl Branch {
    /// Nothing will come of it any more; where it goes instead, if it may go on.
    pub(super) fn give_up(&mut self, goes_on: bool) -> Option<Box<Further>> {
        self.is_done = true;
        self.further.take().filter(|_| goes_on)
    }
}

/// How the caller and the callees stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Somebody may still answer.
    Open,
    /// A 2xx went back.
    Answered,
    /// The caller has given up.
    Cancelled,
    /// A 6xx has come: nobody else is tried (§16.7 step 5).
    Declined,
}

/// What is kept of a request while it is passed on.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) generation: u32,
    /// What its repetitions have in common.
    pub(super) key: u64,
    pub(super) upstream: Upstream,
    /// Where it came from, and where its responses go.
    pub(super) flow: Flow,
    pub(super) reply_to: SocketAddr,
    /// [`Method::ordinal`](crate::sip::Method::ordinal), for who counts its responses.
    pub(super) method: usize,
    /// The datagram, until nothing is made of it any more.
    pub(super) request: Box<[u8]>,
    /// The last response, for repetitions.
    pub(super) last: Vec<u8>,
    /// The tag of To in responses that the proxy makes itself.
    pub(super) tag: u32,
    pub(super) branches: Vec<Branch>,
    /// Groups of targets that are tried one after the other.
    pub(super) waiting: VecDeque<Vec<Target>>,
    pub(super) best: Best,
    pub(super) standing: Standing,
    /// Milliseconds that a group may ring; when the last one stops.
    pub(super) ring: u64,
    pub(super) ring_until: u64,
    /// Whether a group has rung for too long.
    pub(super) rang_in_vain: bool,
    /// Whole lines that are added to the request.
    pub(super) extra: Box<[u8]>,
    /// The line of P-Asserted-Identity.
    pub(super) identity: Box<[u8]>,
    /// The call that it begins, changes or ends.
    pub(super) call: Option<u64>,
    pub(super) role: Role,
    /// Whether it is known where it goes.
    pub(super) is_routed: bool,
    /// Whether what its sender asserts of itself is taken out.
    pub(super) strips: bool,
    /// Whether it is of a dialog that is there.
    pub(super) is_within: bool,
    /// Where later requests to its sender go.
    pub(super) caller: Side,
    /// When the wheel wakes it.
    pub(super) armed: u64,
    /// How many transactions and octets it was counted with.
    pub(super) counted: (usize, usize),
}

/// What a request does to the call that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It begins one.
    Begins,
    /// It ends one.
    Ends,
    /// It says that both still live, and for how long.
    Renews,
    /// Nothing.
    None,
}

impl Context {
    /// Sends the last response, for the first time or again.
    pub(super) fn send_last(&self, fx: &mut Effects) {
        fx.respond(self.flow, self.reply_to, &self.last, self.method);
    }

    /// Whether a branch is still to end.
    pub(super) fn is_pending(&self) -> bool {
        self.branches.iter().any(|branch| !branch.is_done)
    }

    /// Whether nothing can happen to it any more.
    pub(super) fn is_over(&self) -> bool {
        let client_is_over = |branch: &Branch| {
            branch.client.state() == ClientState::Terminated
                && match &branch.cancelling {
                    Cancelling::Sent(client, _) => client.state() == ClientState::Terminated,
                    Cancelling::No | Cancelling::Wanted => true,
                }
        };
        self.upstream.state() == ServerState::Terminated && self.branches.iter().all(client_is_over)
    }

    /// When it wants to be woken.
    pub(super) fn next(&self) -> u64 {
        let branches = self.branches.iter().map(|branch| {
            let cancel = match &branch.cancelling {
                Cancelling::Sent(client, _) => client.next(),
                Cancelling::No | Cancelling::Wanted => u64::MAX,
            };
            let patience = if branch.is_done { u64::MAX } else { branch.patience };
            branch.client.next().min(cancel).min(patience)
        });
        branches.min().unwrap_or(u64::MAX).min(self.upstream.next()).min(self.ring_until)
    }

    /// Octets that are kept.
    pub(super) fn octets(&self) -> usize {
        let further = |branch: &Branch| branch.further.as_deref().map_or(0, Further::octets);
        let branches = self.branches.iter().map(|branch| branch.sent.len() + further(branch));
        self.request.len() + self.last.len() + branches.sum::<usize>()
    }

    /// How many transactions there are.
    pub(super) fn transactions(&self) -> usize {
        let open = |branch: &&Branch| branch.client.state() != ClientState::Terminated;
        usize::from(self.upstream.state() != ServerState::Terminated)
            + self.branches.iter().filter(open).count()
    }
}
