//! Calls of which nothing is heard: both parties are asked whether they still have them
//! (`[calls] probe`).
//!
//! A probe is a request within the dialog that looks as if the other party had sent it; its
//! responses go no further. We have no CSeq of our own there, so a probe has one that is out of
//! order: a UA that knows the dialog refuses it with 500 and nothing has changed (RFC 3261 §12.2.2),
//! and one that does not says 481.

use super::{
    call::End,
    context::Context,
    core::{Core, Terms, Wake},
    effects::Effects,
    kit::{Kit, tag_of},
    ledger::{Dies, Heard},
    onward::{put_body, put_header, put_own_via, put_route},
    policy::{Policy, ProbeBy},
    token::{PARAM, Side, Sides, TokenKey, hex, put_u64},
    transaction::{Client, Due},
    way::{Way, hop_of},
};
use crate::{
    sip::{
        Message, Parsed, Response,
        encode::Buf,
        header::{Elements, HeaderName, NameAddr, Params},
        uri::SipUri,
    },
    time::Now,
};

/// How the branches of probes begin; what follows says which it is.
const BRANCH: &[u8] = b"z9hG4bKbp";
/// Octets that are kept of the parties' names, Contacts and routes; a call with more is not probed.
const MAX_OCTETS: usize = 4096;

/// What is counted of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A party was asked.
    Sent,
    /// It answered, and has the call.
    Alive,
    /// It answered that it has not.
    Gone,
    /// It did not answer.
    Silent,
}

impl Probed {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Alive, Self::Gone, Self::Silent];

    /// What became of a probe, as the value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Alive => "alive",
            Self::Gone => "gone",
            Self::Silent => "silent",
        }
    }
}

/// What it takes to ask the parties of a call.
#[derive(Debug)]
pub(super) struct Probe {
    caller: Party,
    callee: Party,
    /// When both are asked next, in milliseconds of the monotonic clock; never while they are.
    next: u64,
    /// Tells this round from all others, and how it asks.
    round: u32,
    by: ProbeBy,
}

/// One party, as who asks it has to name it.
#[derive(Debug)]
struct Party {
    /// Where requests to it go.
    side: Side,
    /// Who it is: what From or To has, with its tag.
    name: Box<[u8]>,
    /// The URI of its Contact.
    target: Box<[u8]>,
    /// The route set from us to it, elements with commas between.
    routes: Box<[u8]>,
    /// The highest CSeq of its own requests; zero without any.
    cseq: u32,
    /// Its answer is waited for.
    client: Option<Client>,
}

/// Which probe a branch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    call: u64,
    round: u32,
    /// Whether the callee is asked.
    of_callee: bool,
}

/// The URI of a message's Contact.
fn contact<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    let element = Elements::new(message.all(HeaderName::Contact).next()?).next()?.ok()?;
    let uri = NameAddr::parse(element).ok()?.uri;
    SipUri::parse(uri).is_ok().then_some(uri)
}

/// When parties are asked of whom something was heard just now.
fn next(now: Now, policy: &Policy) -> u64 {
    match policy.probe.0 {
        0 => u64::MAX,
        seconds => now.millis + 1000 * u64::from(seconds),
    }
}

impl Probe {
    /// What it takes to ask the parties of a call whose INVITE had this Contact, and was answered
    /// with this. `None` where a party could not be named, or it takes too much room.
    fn of(
        now: Now,
        caller_contact: &[u8],
        response: &Response<'_>,
        sides: &Sides,
        token: &TokenKey,
        policy: &Policy,
    ) -> Option<Box<Self>> {
        let (message, caller_tag) = (&response.message, tag_of(&response.from));
        if caller_tag.is_empty() || tag_of(&response.to).is_empty() {
            return None;
        }
        let routes = message.named("Record-Route").flat_map(Elements::new);
        let mut routes: Vec<&[u8]> = routes.filter_map(Result::ok).collect();
        let is_ours = |route: &&[u8]| {
            let uri = NameAddr::parse(route).ok().and_then(|route| SipUri::parse(route.uri).ok());
            let value = uri.and_then(|uri| Params::new(uri.params).find(PARAM)?.value);
            let opened = value.and_then(|text| token.open(text, response.call_id, caller_tag));
            opened.as_ref() == Some(sides)
        };
        // The last one of the list is next to the caller (RFC 3261 §12.1). Where a callee has left
        // out all of it, the parties' requests pass us by, and ours need no route.
        let to_caller = match routes.iter().rposition(is_ours) {
            Some(last) => routes.split_off(last + 1),
            None if routes.is_empty() => Vec::new(),
            None => return None,
        };
        let first = routes.iter().position(is_ours).unwrap_or(0);
        routes.truncate(first);
        routes.reverse();
        let party = |side, name: Option<&[u8]>, target: Option<&[u8]>, routes: Vec<&[u8]>, cseq| {
            let (name, target) = (name?.into(), target?.into());
            let routes = routes.join(&b", "[..]).into();
            Some(Party { side, name, target, routes, cseq, client: None })
        };
        let (from, to) = (message.first(HeaderName::From), message.first(HeaderName::To));
        let cseq = response.cseq.number;
        let probe = Self {
            caller: party(sides.caller, from, Some(caller_contact), to_caller, cseq)?,
            callee: party(sides.callee, to, contact(message), routes, 0)?,
            next: next(now, policy),
            round: 0,
            by: ProbeBy::default(),
        };
        (probe.octets() <= MAX_OCTETS).then(|| Box::new(probe))
    }

    fn octets(&self) -> usize {
        let of = |party: &Party| party.name.len() + party.target.len() + party.routes.len();
        of(&self.caller) + of(&self.callee)
    }

    fn party(&mut self, is_callee: bool) -> &mut Party {
        if is_callee { &mut self.callee } else { &mut self.caller }
    }

    /// When something has to be done.
    pub(super) fn next(&self) -> u64 {
        let clients = [&self.caller, &self.callee].map(|party| party.client.as_ref());
        let clients = clients.into_iter().flatten().map(Client::next);
        clients.fold(self.next, u64::min)
    }

    /// One party has sent a request: nobody needs to be asked for now.
    pub(super) fn hear(&mut self, now: Now, heard: Heard, policy: &Policy) {
        let party = self.party(!heard.by_caller);
        party.cseq = party.cseq.max(heard.cseq);
        // A phone that has moved, or got another port, can be asked there only.
        if matches!(party.side, Side::Flow(_)) && !policy.trusts(heard.flow.remote.ip()) {
            party.side = Side::Flow(heard.flow);
        }
        (self.caller.client, self.callee.client) = (None, None);
        self.next = next(now, policy);
    }

    /// A request was answered that may have changed where both are (RFC 3261 §12.2): `asked` is the
    /// Contact of who sent it. The result is whether there is room for that.
    fn retarget(&mut self, asked: Option<&[u8]>, response: &Response<'_>) -> bool {
        let from = tag_of(&response.from);
        let is_it = |name| NameAddr::parse(name).is_ok_and(|name| tag_of(&name) == from);
        let by_callee = is_it(&self.callee.name);
        let answered = contact(&response.message);
        for (is_callee, target) in [(by_callee, asked), (!by_callee, answered)] {
            let party = self.party(is_callee);
            if let Some(target) = target.filter(|target| **target != *party.target) {
                party.target = target.into();
            }
        }
        self.octets() <= MAX_OCTETS
    }

    /// A response to the probe of one party has come; what it says.
    fn respond(&mut self, now: Now, mark: Mark, code: u16) -> Option<Probed> {
        if mark.round != self.round {
            return None;
        }
        let party = self.party(mark.of_callee);
        if !party.client.as_mut()?.response(now.millis, code) || code < 200 {
            return None;
        }
        party.client = None;
        Some(if matches!(code, 408 | 481) { Probed::Gone } else { Probed::Alive })
    }

    fn is_asking(&self) -> bool {
        self.caller.client.is_some() || self.callee.client.is_some()
    }

    /// Does what is due; whether both may still be there.
    fn pass_time(
        &mut self,
        now: Now,
        (call, call_id): (u64, &[u8]),
        kit: &mut Kit,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        if self.next <= now.millis {
            (self.next, self.round, self.by) = (u64::MAX, kit.random(), terms.policy.probe_by);
            for of_callee in [false, true] {
                self.party(of_callee).client = Some(Client::begin(now.millis));
                self.ask(Mark { call, round: self.round, of_callee }, call_id, kit, terms, fx);
                fx.probed(Probed::Sent);
            }
            return true;
        }
        for of_callee in [false, true] {
            let Some(client) = &mut self.party(of_callee).client else { continue };
            match client.due(now.millis) {
                Some(Due::Resend) => {
                    self.ask(Mark { call, round: self.round, of_callee }, call_id, kit, terms, fx);
                }
                Some(Due::TimedOut | Due::Over) => {
                    fx.probed(Probed::Silent);
                    return false;
                }
                None => {}
            }
        }
        true
    }

    /// Sends a probe, for the first time or again.
    fn ask(&self, mark: Mark, call_id: &[u8], kit: &mut Kit, terms: &Terms<'_>, fx: &mut Effects) {
        let (mut party, mut other) = (&self.caller, &self.callee);
        if mark.of_callee {
            (party, other) = (other, party);
        }
        let routes = Elements::new(&party.routes).filter_map(Result::ok);
        let routes = routes.filter(|route| !route.is_empty()).collect();
        let mut way = Way { uri: &party.target, routes, token: None, own: 0 };
        let to = hop_of(party.side, way.next_hop(), terms.policy);
        let mut branch = [0; 64];
        let mut branch = Buf::new(&mut branch);
        kit.put_mark(&mut branch, mark);
        let sent_by = kit.address(&to);
        let mut out = Buf::new(&mut kit.out);
        let method = self.by.as_str().as_bytes();
        out.put(method);
        out.put(b" ");
        out.put(way.uri);
        out.put(b" SIP/2.0\r\n");
        put_own_via(&mut out, sent_by, branch.written());
        for route in &way.routes {
            put_route(&mut out, route);
        }
        out.put(b"Max-Forwards: 70\r\n");
        put_header(&mut out, b"From", &other.name);
        put_header(&mut out, b"To", &party.name);
        put_header(&mut out, b"Call-ID", call_id);
        // Lower than what came, and not the same: some UAs take that for a request that has come
        // again, and are silent. Where none came, zero is below whatever may still come.
        out.put(b"CSeq: ");
        out.put_number(other.cseq.saturating_sub(1));
        out.put(b" ");
        out.put(method);
        out.put(b"\r\n");
        match self.by {
            ProbeBy::Options => out.put(b"Accept: application/sdp\r\n"),
            // RFC 3311 §5.1. Whoever takes it for a target refresh goes on as before.
            ProbeBy::Update => {
                out.put(b"Contact: <");
                out.put(&other.target);
                out.put(b">\r\n");
            }
        }
        put_body(&mut out, b"");
        if let Some(len) = out.finish() {
            fx.send(to, to.remote, &kit.out[..len]);
        }
    }
}

impl Kit {
    fn put_mark(&self, out: &mut Buf<'_>, Mark { call, round, of_callee }: Mark) {
        out.put(BRANCH);
        put_u64(out, call);
        out.put_hex(round);
        let which: &[u8] = if of_callee { b"1" } else { b"0" };
        out.put(which);
        put_u64(out, self.hash(&[b"probe", &call.to_le_bytes(), &round.to_le_bytes(), which]));
    }

    /// The probe that a branch is of, if it is one of ours.
    fn mark_of(&self, branch: &[u8]) -> Option<Mark> {
        let rest = branch.strip_prefix(BRANCH)?;
        let number = |range| hex(rest.get(range)?);
        let round = u32::try_from(number(16..24)?).ok()?;
        let mark = Mark { call: number(0..16)?, round, of_callee: number(24..25)? == 1 };
        let mut space = [0; 64];
        let mut own = Buf::new(&mut space);
        self.put_mark(&mut own, mark);
        (own.written() == branch).then_some(mark)
    }
}

impl Core {
    /// Has a call be looked at when the next thing is due of it.
    pub(super) fn arm(&mut self, call: u64) {
        if let Some(at) = self.ledger.arm(call) {
            self.wheel.set(at, Wake::Call(call));
        }
    }

    /// Keeps what it takes to ask the parties of a call that was answered just now.
    pub(super) fn watch(
        &mut self,
        now: Now,
        call: u64,
        (context, sides): (&Context, &Sides),
        response: &Response<'_>,
        policy: &Policy,
    ) {
        if policy.probe.0 == 0 {
            return;
        }
        let Kit { parser, token, .. } = &mut self.kit;
        // Who has a session timer refreshes the call, and is asked nothing (RFC 4028 §10).
        if let Some(entry) = self.ledger.entry(call).filter(|entry| !entry.is_timed)
            && let Parsed::Request(invite) = parser.parse(&context.request)
            && let Some(contact) = contact(&invite.envelope.message)
        {
            entry.probe = Probe::of(now, contact, response, sides, token, policy);
        }
    }

    /// Both parties of a call may be elsewhere now: a re-INVITE or an UPDATE was answered.
    pub(super) fn retarget(&mut self, call: u64, context: &Context, response: &Response<'_>) {
        let Some(entry) = self.ledger.entry(call) else { return };
        let Some(probe) = &mut entry.probe else { return };
        let has_room = match self.kit.parser.parse(&context.request) {
            Parsed::Request(asked) => probe.retarget(contact(&asked.envelope.message), response),
            _ => false,
        };
        if !has_room {
            entry.probe = None;
        }
    }

    /// Takes a response to nothing that was passed on; whether it is one to a probe of ours.
    pub(super) fn probe_response(
        &mut self,
        now: Now,
        response: &Response<'_>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some(mark) = self.kit.mark_of(response.via.branch) else { return false };
        // It is ours, though the call may have ended, or somebody been heard, meanwhile.
        let Some(entry) = self.ledger.entry(mark.call) else { return true };
        let Some(probe) = &mut entry.probe else { return true };
        let said = probe.respond(now, mark, response.code);
        if let Some(said) = said {
            fx.probed(said);
        }
        if said == Some(Probed::Gone) {
            self.ledger.end(now, mark.call, End::Vanished, fx);
            return true;
        }
        if said == Some(Probed::Alive) && !probe.is_asking() {
            probe.next = next(now, terms.policy);
            entry.until = Dies::after(now, None, terms.policy.dead_call).at;
        }
        self.arm(mark.call);
        true
    }

    /// Does what is due of a call.
    pub(super) fn wake_call(&mut self, now: Now, call: u64, terms: &Terms<'_>, fx: &mut Effects) {
        let Some(entry) = self.ledger.entry(call) else { return };
        if entry.armed > now.millis {
            // Another wake is to come.
            return;
        }
        entry.armed = u64::MAX;
        if entry.until <= now.millis {
            return self.ledger.end(now, call, End::Dead, fx);
        }
        if terms.policy.probe.0 == 0 {
            // The setting has changed meanwhile.
            entry.probe = None;
        }
        if let Some(probe) = &mut entry.probe {
            let call_id = &entry.call.parties.call_id;
            if !probe.pass_time(now, (call, call_id), &mut self.kit, terms, fx) {
                return self.ledger.end(now, call, End::Vanished, fx);
            }
        }
        self.arm(call);
    }
}
