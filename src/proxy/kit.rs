//! What the proxy's messages are made with: requests as they go on, ACK and CANCEL, branches.

use std::{hash::Hasher as _, net::SocketAddr};

use siphasher::sip::SipHasher13;

use super::{
    context::{Branch, Cancelling, Context, Downstream, Further, Standing, Target},
    core::{ContextId, Terms},
    effects::Effects,
    hop::DEFAULT_PORT,
    onward::{self, Onward, put_ack, put_cancel, put_sent_by},
    timer::{TIMER_C, TRANSACTION},
    token::{PARAM, Side, Sides, TokenKey, hex, put_side, put_u64},
    transaction::{Client, InviteClient},
    way::Way,
};
use crate::{
    flow::Flow,
    sip::{
        Limits, Method, Parsed, Parser, Request, Response, Status,
        encode::{self, Buf},
        header::{Elements, HeaderName, NameAddr, Params, Via},
        uri::SipUri,
    },
    time::Now,
};

/// How our branches begin; what follows says which client transaction it is.
const BRANCH: &[u8] = b"z9hG4bKbd";
/// What Max-Breadth is at most, and where a request has none (RFC 5393 §5.3.3).
const MAX_BREADTH: u32 = 60;

/// What messages are made with.
#[derive(Debug)]
pub(super) struct Kit {
    pub(super) key: [u8; 16],
    pub(super) token: TokenKey,
    pub(super) listeners: Box<[SocketAddr]>,
    pub(super) parser: Parser,
    pub(super) out: Box<[u8]>,
    pub(super) issued: u64,
}

impl Kit {
    pub(super) fn is_own(&self, uri: &SipUri<'_>, flow: &Flow) -> bool {
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
    pub(super) fn is_own_route(
        &self,
        uri: &SipUri<'_>,
        request: &Request<'_>,
        flow: &Flow,
    ) -> bool {
        let token = || Params::new(uri.params).find(PARAM)?.value;
        self.is_own(uri, flow)
            || token().is_some_and(|token| {
                let [from, to] = tags(request);
                let open = |tag| self.token.open(token, request.call_id, tag);
                open(from).or_else(|| open(to)).is_some()
            })
    }

    /// A number that nobody can guess.
    pub(super) fn random(&mut self) -> u32 {
        self.issued += 1;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.issued);
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    pub(super) fn hash(&self, parts: &[&[u8]]) -> u64 {
        // Many short writes cost more than the hash; all but the longest fit into one.
        let mut space = [0; 512];
        let mut text = Buf::new(&mut space);
        for part in parts {
            text.put(part);
            text.put(b"\n");
        }
        let mut hasher = SipHasher13::new_with_key(&self.key);
        if text.finish().is_some() {
            return hasher.hash(text.written());
        }
        for part in parts {
            hasher.write(part);
            hasher.write_u8(b'\n');
        }
        hasher.finish()
    }

    /// What a request has in common with its repetitions, and an INVITE with its ACK and CANCEL
    /// (RFC 3261 §17.2.3).
    pub(super) fn key_of(&self, request: &Request<'_>) -> u64 {
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

    /// A dialog as we see it: its two parties' tags, and where each is. Where a request passes by us
    /// twice, each time is another.
    pub(super) fn dialog(
        &self,
        call_id: &[u8],
        [caller_tag, callee_tag]: [&[u8]; 2],
        sides: &Sides,
    ) -> u64 {
        let mut space = [0; 256];
        let mut text = Buf::new(&mut space);
        put_side(&mut text, sides.caller);
        text.put(b"-");
        put_side(&mut text, sides.callee);
        self.hash(&[b"dialog", call_id, caller_tag, callee_tag, text.written()])
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
    pub(super) fn has_looped(&self, request: &Request<'_>) -> bool {
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
    pub(super) fn address(&self, flow: &Flow) -> SocketAddr {
        let listener = self.listeners.get(usize::from(flow.listener.0)).copied();
        let listener = listener.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)));
        match flow.local {
            Some(ip) => SocketAddr::new(ip, listener.port()),
            None => listener,
        }
    }

    /// Sends the request to all of a group.
    pub(super) fn launch(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        group: Vec<Target>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Status> {
        self.lend(context, |kit, request, context| {
            kit.launch_request(now, request, context, id, group, terms, fx)
        })
    }

    /// The same for a request that is at hand.
    #[expect(clippy::too_many_arguments, reason = "a request as it came, and where it goes")]
    pub(super) fn launch_request(
        &mut self,
        now: Now,
        request: &Request<'_>,
        context: &mut Context,
        id: ContextId,
        group: Vec<Target>,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Status> {
        let breadth = breadth(request, group.len())?;
        for target in group {
            self.launch_one(now, request, context, id, (target, breadth), terms, fx)?;
        }
        Ok(())
    }

    /// Sends the request to a target's next address: a branch of its own (RFC 3263 §4.3).
    pub(super) fn launch_further(
        &mut self,
        now: Now,
        context: &mut Context,
        id: ContextId,
        Further { target, breadth }: Further,
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Status> {
        self.lend(context, |kit, request, context| {
            kit.launch_one(now, request, context, id, (target, breadth), terms, fx)
        })
    }

    /// Reads the request that a context keeps, and has it made something of.
    fn lend(
        &mut self,
        context: &mut Context,
        make: impl FnOnce(&mut Self, &Request<'_>, &mut Context) -> Result<(), Status>,
    ) -> Result<(), Status> {
        // Both are lent out while the request is read from them.
        let mut parser = std::mem::replace(&mut self.parser, Parser::new(Limits::default()));
        let datagram = std::mem::take(&mut context.request);
        let made = match parser.parse(&datagram) {
            Parsed::Request(request) => make(self, &request, context),
            _ => Err(Status::SERVER_INTERNAL_ERROR),
        };
        (self.parser, context.request) = (parser, datagram);
        made
    }

    #[expect(clippy::too_many_arguments, reason = "a request as it is kept, and where it goes")]
    fn launch_one(
        &mut self,
        now: Now,
        request: &Request<'_>,
        context: &mut Context,
        id: ContextId,
        (target, breadth): (Target, Option<u32>),
        terms: &Terms<'_>,
        fx: &mut Effects,
    ) -> Result<(), Status> {
        let method = request.envelope.method;
        let loop_hash = self.loop_hash(request);
        // RFC 3325 §7: whoever asked for that is not named to phones.
        let is_private = wants_privacy(request);
        // RFC 3325 §5: to who is trusted it goes whatever was asked, to nobody else but our users.
        let is_trusted = terms.policy.trusts(target.flow.remote.ip());
        let is_named = is_trusted || target.aor.is_some() && !is_private;
        let identity = if is_named { &*context.identity } else { b"" };
        let begins_dialog = !context.is_within
            && matches!(method, Method::Invite | Method::Subscribe | Method::Refer);
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
                identity,
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
        let client = if is_invite && !target.further.is_empty() {
            Downstream::Invite(InviteClient::begin_with_others(now.millis))
        } else if is_invite {
            Downstream::Invite(InviteClient::begin(now.millis))
        } else {
            Downstream::Other(Client::begin(now.millis))
        };
        let patience = if is_invite { now.millis + TIMER_C } else { u64::MAX };
        context.branches.push(Branch {
            client,
            flow: target.flow,
            side: target.side,
            further: Further::of(&target, breadth),
            aor: target.aor,
            sent,
            cancelling: Cancelling::No,
            patience,
            is_done: false,
        });
        Ok(())
    }

    /// Passes on the ACK of a 2xx (RFC 3261 §16.11: without a transaction).
    pub(super) fn forward_ack(
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
                identity: b"",
                breadth: None,
                realm: terms.realm,
                strips,
            },
        );
        if let Some(len) = out.finish() {
            fx.send(to, to.remote, &self.out[..len]);
        }
    }

    pub(super) fn send_ack(&mut self, branch: &Branch, response: &Response<'_>, fx: &mut Effects) {
        let Self { parser, out, .. } = self;
        if let Parsed::Request(sent) = parser.parse(&branch.sent) {
            let mut buf = Buf::new(out);
            put_ack(&mut buf, &sent, response);
            if let Some(len) = buf.finish() {
                fx.send(branch.flow, branch.flow.remote, &out[..len]);
            }
        }
    }

    pub(super) fn send_cancel(
        &mut self,
        now: Now,
        branch: &mut Branch,
        reason: &[u8],
        fx: &mut Effects,
    ) {
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

/// How many branches each of a group may become (RFC 5393 §5.3.3); `None` where nobody has to say.
fn breadth(request: &Request<'_>, targets: usize) -> Result<Option<u32>, Status> {
    let most = request.envelope.message.named("Max-Breadth").next();
    let most = most.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    let targets = u32::try_from(targets).unwrap_or(u32::MAX);
    // Who allows more than we would is not taken at its word.
    let share = most.map_or(MAX_BREADTH, |most: u32| most.min(MAX_BREADTH));
    let share = share.checked_div(targets).unwrap_or(0);
    if share == 0 {
        return Err(Status::MAX_BREADTH_EXCEEDED);
    }
    Ok((most.is_some() || targets > 1).then_some(share))
}

/// The tag of From or To; empty without.
pub(super) fn tag_of<'a>(address: &NameAddr<'a>) -> &'a [u8] {
    address.params.find("tag").and_then(|tag| tag.value).unwrap_or_default()
}

/// The tags of From and To.
pub(super) fn tags<'a>(request: &Request<'a>) -> [&'a [u8]; 2] {
    [tag_of(&request.from), tag_of(&request.to)]
}

/// The branch in a request as we sent it: our Via is its first header.
pub(super) fn branch_in(sent: &[u8]) -> Option<&[u8]> {
    let line = sent.split(|&b| b == b'\n').nth(1)?;
    let at = line.windows(8).position(|part| part == b";branch=")?;
    line.get(at + 8..)?.strip_suffix(b"\r")
}

/// Whether its sender wants not to be named (RFC 3323, RFC 3325 §9.3).
pub(super) fn wants_privacy(request: &Request<'_>) -> bool {
    let mut values = request.envelope.message.named("Privacy");
    values.any(|value| {
        value.split(|&b| b == b';').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"id"))
    })
}

/// Why branches are cancelled (RFC 3326): a phone shows no missed call that another one took.
pub(super) fn reason_of(standing: Standing) -> &'static [u8] {
    match standing {
        Standing::Answered => b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n",
        Standing::Open | Standing::Cancelled | Standing::Declined => b"",
    }
}

/// The client transaction that a branch of ours names.
pub(super) fn branch_of(branch: &[u8]) -> Option<(ContextId, usize)> {
    let rest = branch.strip_prefix(BRANCH)?;
    let number = |range| hex(rest.get(range)?).and_then(|number| u32::try_from(number).ok());
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

/// Seconds of the session, as a 2xx sets it (RFC 4028 §7.2).
pub(super) fn session_expires(response: &Response<'_>) -> Option<u32> {
    let value = response.message.named("Session-Expires").next();
    let value = value.or_else(|| response.message.named("x").next())?;
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()?.trim().parse().ok()
}

/// A response that the proxy makes itself.
pub(super) fn put_own_response(
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
