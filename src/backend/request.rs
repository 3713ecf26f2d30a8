//! Messages made of what phones send, with the parameters of Yate's own, in its order.

use std::sync::Arc;

use super::message::{Message, MessageName};
use crate::{
    auth::{Authenticator, Claim},
    flow::{Flow, Transport},
    registrar::{Aor, Binding, Register, Wanted, nat},
    sip::{
        Method, Parsed, Parser, Request,
        header::{Contact, HeaderName},
        uri::{SipUri, canonical_host_into, unescape_into},
    },
    subscribers::{Cached, Fetched, Known},
    time::{DeltaSeconds, Now},
    worker::{
        Rules,
        parking::{Learned, Learnt, Parked},
    },
};

/// Headers that are not given as `sip_` parameters: they have other ones, or are secrets.
const OWN_PARAMETERS: [&str; 11] = [
    "from",
    "to",
    "via",
    "route",
    "record-route",
    "call-id",
    "cseq",
    "max-forwards",
    "content-length",
    "authorization",
    "proxy-authorization",
];

/// Parameters of `user.auth` that `user.register` has its own of, or none.
const NOT_COPIED: [&str; 14] = [
    "protocol",
    "nonce",
    "method",
    "uri",
    "response",
    "ip_host",
    "ip_port",
    "ip_transport",
    "address",
    "id",
    "billid",
    "connection_id",
    "connection_reliable",
    "handlers",
];

/// Who asks to be known: the digest's username, and the domain of the AoR.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UserKey {
    /// Without escapes.
    pub(super) username: Box<[u8]>,
    /// In lower case; empty in a flat namespace.
    pub(super) domain: Box<[u8]>,
}

/// Reads a parked request once more and shows it to `read`, with the AoR whose user sends it: that
/// of To for a REGISTER, else of From. `None` if it is none any more, which limits that were lowered
/// meanwhile can make of it.
pub(super) fn read<R>(
    parked: &Parked,
    rules: &Rules,
    read: impl FnOnce(&Request<'_>, Option<Aor<'_>>) -> R,
) -> Option<R> {
    let mut parser = Parser::new(rules.limits.clone());
    let Parsed::Request(request) = parser.parse(&parked.datagram) else { return None };
    let mut space = Vec::new();
    let own = match request.envelope.method {
        Method::Register => request.to_uri,
        _ => SipUri::parse(request.from.uri).ok(),
    };
    let aor = own.and_then(|own| Aor::canonical(&own, &rules.domains, &mut space));
    Some(read(&request, aor))
}

/// Whom a request's credentials name.
pub(super) fn user_of(
    request: &Request<'_>,
    aor: Option<Aor<'_>>,
    rules: &Rules,
    now: Now,
) -> Option<UserKey> {
    let claim = claim(request, rules, now)?;
    let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
    let mut username = None;
    Authenticator::look_up(&claim, |name| {
        username = Some(name.into());
        None
    });
    Some(UserKey { username: username?, domain: domain.into() })
}

fn claim<'a>(request: &Request<'a>, rules: &Rules, now: Now) -> Option<Claim<'a>> {
    let message = &request.envelope.message;
    match request.envelope.method {
        Method::Register => {
            rules.authenticator.screen_any(now, message.all(HeaderName::Authorization)).ok()
        }
        _ => rules.authenticator.screen_any(now, message.named("Proxy-Authorization")).ok(),
    }
}

/// `user.auth`. `None` if the username is not text, which no back end could know.
pub(super) fn auth(
    request: &Request<'_>,
    flow: &Flow,
    user: Option<&UserKey>,
    context: &Context<'_>,
) -> Option<Message> {
    let mut message = Message::new(MessageName::UserAuth);
    message.set("protocol", "sip");
    if let Some(user) = user {
        message.set("username", std::str::from_utf8(&user.username).ok()?);
        message.set("realm", &*context.rules.authenticator.policy().realm);
        if let Some(claim) = claim(request, context.rules, context.now) {
            let (nonce, response) = claim.nonce_and_response();
            message.set("nonce", text(nonce));
            message.set("response", response);
        }
    }
    message.set("method", text(request.envelope.method.as_bytes()));
    message.set("uri", text(request.uri));
    set_flow(&mut message, flow, context.listener(flow));
    message.set("newcall", bool_text(request.envelope.method == Method::Invite));
    // Of the address-of-record, which is what the account will own: From may say anything.
    match user.filter(|user| !user.domain.is_empty()) {
        Some(user) => message.set("domain", text(&user.domain)),
        None => {
            if let Some(to) = &request.to_uri {
                message.set("domain", text(to.host_port.host));
            }
        }
    }
    set_device(&mut message, request);
    if let Some(number) = number(request) {
        message.set("number", number);
    }
    if let Some(expires) = request.envelope.message.first(HeaderName::Expires) {
        message.set("expires", text(expires));
    }
    Some(message)
}

/// What messages say besides what is in the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'c> {
    pub(super) rules: &'c Rules,
    pub(super) now: Now,
    /// The names of the listeners, by number.
    pub(super) listeners: &'c [Box<str>],
}

impl Context<'_> {
    /// What is kept of a user.
    fn cached(&self, username: &[u8], domain: &[u8]) -> Option<Arc<Known>> {
        match self.rules.elsewhere.fetched.as_ref()?.find(self.now, username, domain) {
            Cached::Fresh(known) | Cached::Stale(known) => Some(known),
            Cached::Missing => None,
        }
    }

    fn listener(&self, flow: &Flow) -> &str {
        self.listeners.get(usize::from(flow.listener.0)).map_or("general", |name| name)
    }
}

/// A question whether a contact may be bound.
#[derive(Debug)]
pub(super) struct Asked {
    /// `user.register`.
    pub(super) message: Message,
    /// The contact's URI.
    pub(super) contact: Box<[u8]>,
}

/// `user.register` for the first contact that a parked REGISTER binds; `None` if it binds none.
pub(super) fn register(
    request: &Request<'_>,
    aor: Option<Aor<'_>>,
    parked: &Parked,
    context: &Context<'_>,
) -> Option<Asked> {
    let (sip, policy) = (&request.envelope.message, &context.rules.registrar);
    let contacts: Vec<Contact<'_>> = Contact::all(sip.all(HeaderName::Contact)).collect();
    // Without digests, nobody has proved to be who the credentials name.
    let user = policy.auth_required.then(|| user_of(request, aor, context.rules, context.now));
    let user = user.flatten();
    let known = match (&parked.learned.account, &user) {
        (Some(Learnt::Is(known)), _) => Some(Arc::clone(known)),
        (_, Some(user)) => context.cached(&user.username, &user.domain),
        (_, None) => None,
    };
    let fetched = known.as_deref().and_then(fetched_of);
    let asked = Register {
        wanted: Wanted::Contacts(&contacts),
        expires: sip.first(HeaderName::Expires),
        granted: fetched.and_then(|fetched| fetched.granted),
        call_id: request.call_id,
        cseq: request.cseq.number,
        branch: 0,
        flow: parked.flow,
        path: b"",
        supports_path: false,
        agent: b"",
    };
    let interval = |contact: &Contact<'_>| asked.interval(policy, contact).ok();
    let bound = contacts.iter().find_map(|contact| {
        interval(contact).filter(|interval| *interval > DeltaSeconds(0)).map(|i| (contact, i))
    });
    let (contact, interval) = bound?;

    let mut message = Message::new(MessageName::UserRegister);
    if let Some(number) = number(request) {
        message.set("number", number);
    }
    message.set("sip_uri", text(request.uri));
    message.set("sip_callid", text(request.call_id));
    message.set("expires", interval.0.to_string());
    if let Some(auth) = auth(request, &parked.flow, user.as_ref(), context) {
        let kept = |(name, _): &(&str, &str)| !NOT_COPIED.contains(name);
        for (name, value) in auth.params().filter(kept) {
            if message.get(name).is_none() {
                message.set(name, value);
            }
        }
    }
    set_fetched(&mut message, fetched);
    let name = match &user {
        Some(user) => String::from_utf8(user.username.to_vec()).ok()?,
        None => String::from_utf8(aor?.user().to_vec()).ok()?,
    };
    message.set("username", name);
    set_data(&mut message, contact.uri, &parked.flow);
    set_flow(&mut message, &parked.flow, context.listener(&parked.flow));
    set_route(&mut message, contact.uri, &parked.flow, context);
    set_device(&mut message, request);
    set_headers(&mut message, sip);
    Some(Asked { message, contact: contact.uri.into() })
}

/// `call.preroute` for a parked request, which goes on as `call.route`: what Yate's has, as far as a
/// proxy knows it before there is a call. Ours are `method`, `domain`, the caller's, and
/// `called_domain`.
pub(super) fn route(
    request: &Request<'_>,
    (flow, learned): (&Flow, &Learned),
    context: &Context<'_>,
) -> Message {
    let sip = &request.envelope.message;
    let rules = context.rules;
    let mut message = Message::new(MessageName::CallPreroute);
    message.set("module", "sip");
    message.set("status", "incoming");
    message.set("address", flow.remote.to_string());
    message.set("answered", "false");
    message.set("direction", "incoming");
    message.set("callid", text(request.call_id));
    let from = SipUri::parse(request.from.uri).ok();
    message.set("caller", from.and_then(|from| from.user).map_or_else(String::new, unescaped));
    let called = request.sip_uri.and_then(|uri| uri.user);
    message.set("called", called.map_or_else(String::new, unescaped));
    let name = display_name(request.from.display);
    if !name.is_empty() {
        message.set("callername", name);
    }
    set_flow(&mut message, flow, context.listener(flow));
    message.set("sip_uri", text(request.uri));
    message.set("sip_from", text(request.from.uri));
    message.set("sip_to", text(request.to.uri));
    message.set("sip_callid", text(request.call_id));
    set_device(&mut message, request);
    set_headers(&mut message, sip);
    let from_domain = from.map(|from| canonical(from.host_port.host)).unwrap_or_default();
    if let Some(username) = &learned.caller {
        let domain = if rules.domains.is_flat() { &b""[..] } else { &*from_domain };
        let known = match &learned.account {
            Some(Learnt::Is(known)) => Some(Arc::clone(known)),
            _ => context.cached(username, domain),
        };
        set_fetched(&mut message, known.as_deref().and_then(fetched_of));
        message.set("username", text(username));
        message.set("realm", &*rules.authenticator.policy().realm);
    }
    message.set("domain", text(&from_domain));
    if let Some(uri) = request.sip_uri {
        message.set("called_domain", text(&canonical(uri.host_port.host)));
    }
    message.set("method", text(request.envelope.method.as_bytes()));
    if request.envelope.method == Method::Message {
        message.set("route_type", "msg");
    }
    message
}

/// Escapes of a URI's user part resolved.
fn unescaped(user: &[u8]) -> String {
    let mut space = Vec::new();
    unescape_into(user, &mut space);
    text(&space)
}

fn canonical(host: &[u8]) -> Vec<u8> {
    let mut space = Vec::new();
    canonical_host_into(host, &mut space);
    space
}

/// A display name without quotes and escapes (RFC 3261 §25.1 `quoted-string`).
fn display_name(written: &[u8]) -> String {
    let Some(quoted) = written.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")) else {
        return text(written);
    };
    let mut name = Vec::with_capacity(quoted.len());
    let mut octets = quoted.iter();
    while let Some(octet) = octets.next() {
        let octet = if *octet == b'\\' { octets.next().unwrap_or(octet) } else { octet };
        name.push(*octet);
    }
    text(&name)
}

/// Headers as `sip_` parameters, but for those that have others. The first of a name counts.
fn set_headers(message: &mut Message, sip: &crate::sip::Message<'_>) {
    for (name, value) in sip.headers() {
        let name = match HeaderName::parse(name) {
            HeaderName::Other => text(name),
            known => known.as_str().to_owned(),
        };
        let name = name.to_ascii_lowercase();
        let param = format!("sip_{name}");
        if !OWN_PARAMETERS.contains(&&*name) && message.get(&param).is_none() {
            message.set(&param, text(value));
        }
    }
}

/// `user.register` for a binding that is there, as far as it is known without its request.
pub(super) fn bound(
    username: &str,
    domain: &str,
    binding: &Binding<'_>,
    context: &Context<'_>,
) -> Message {
    let mut message = Message::new(MessageName::UserRegister);
    let user = SipUri::parse(binding.uri).ok().and_then(|uri| uri.user);
    message.set("number", user.map_or_else(|| username.to_owned(), text));
    message.set("sip_callid", text(binding.call_id));
    message.set("expires", binding.deadline.remaining(context.now).0.to_string());
    message.set("username", username);
    message.set("realm", &*context.rules.authenticator.policy().realm);
    message.set("newcall", "false");
    if !domain.is_empty() {
        message.set("domain", domain);
    }
    let known = context.cached(username.as_bytes(), domain.as_bytes());
    set_fetched(&mut message, known.as_deref().and_then(fetched_of));
    set_data(&mut message, binding.uri, &binding.flow);
    set_flow(&mut message, &binding.flow, context.listener(&binding.flow));
    set_route(&mut message, binding.uri, &binding.flow, context);
    if !binding.agent.is_empty() {
        message.set("device", text(binding.agent));
        message.set("sip_user-agent", text(binding.agent));
    }
    message.set("sip_contact", format!("<{}>{}", text(binding.uri), text(binding.params)));
    if !binding.path.is_empty() {
        message.set("sip_path", text(binding.path));
    }
    message
}

/// `user.unregister`: the last binding of a user is gone.
pub(super) fn unbound(username: &str, domain: &str) -> Message {
    let mut message = Message::new(MessageName::UserUnregister);
    message.set("username", username);
    message.set("driver", "sip");
    message.set("expires", "0");
    if !domain.is_empty() {
        message.set("domain", domain);
    }
    message
}

/// What a back end said of the user besides.
fn set_fetched(message: &mut Message, fetched: Option<&Fetched>) {
    for (name, value) in fetched.iter().flat_map(|fetched| &fetched.params) {
        if !NOT_COPIED.contains(&&**name) && &**name != "expires" {
            message.set(name, &**value);
        }
    }
}

fn fetched_of(known: &Known) -> Option<&Fetched> {
    match known {
        Known::Account(fetched) => Some(fetched),
        Known::Listed | Known::Refused(_) | Known::Unknown => None,
    }
}

/// The user part of the Contact, else of To.
fn number(request: &Request<'_>) -> Option<String> {
    let sip = &request.envelope.message;
    let contact = sip.first(HeaderName::Contact).and_then(|value| Contact::parse(value).ok());
    let of_contact = contact.and_then(|contact| SipUri::parse(contact.uri).ok()?.user);
    of_contact.or_else(|| request.to_uri.and_then(|to| to.user)).map(text)
}

/// `driver` and `data`: where calls go (DESIGN §13.4).
fn set_data(message: &mut Message, contact: &[u8], flow: &Flow) {
    message.set("driver", "sip");
    let mut data = b"sip/".to_vec();
    nat::reachable_uri_into(contact, flow, &mut data);
    if let Ok(uri) = SipUri::parse(contact)
        && nat::is_behind_nat(&uri, flow)
    {
        let port = uri.host_port.port.unwrap_or(5060);
        message.set("reg_nat_addr", format!("{}:{port}", text(uri.host_port.host)));
    }
    message.set("data", text(&data));
}

/// Where the request came from.
fn set_flow(message: &mut Message, flow: &Flow, listener: &str) {
    message.set("ip_host", flow.remote.ip().to_string());
    message.set("ip_port", flow.remote.port().to_string());
    message.set("ip_transport", flow.transport.name().to_ascii_uppercase());
    message.set("address", flow.remote.to_string());
    message.set("connection_id", listener);
    message.set("connection_reliable", bool_text(flow.transport != Transport::Udp));
}

/// How calls go back the same way.
fn set_route(message: &mut Message, contact: &[u8], flow: &Flow, context: &Context<'_>) {
    message.set("route_params", "oconnection_id");
    message.set("oconnection_id", context.listener(flow));
    message.set("sip_to", text(contact));
}

fn set_device(message: &mut Message, request: &Request<'_>) {
    if let Some(agent) = request.envelope.message.first(HeaderName::UserAgent) {
        message.set("device", text(agent));
    }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// A text for handlers; what is not UTF-8 is shown, not passed on.
fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
