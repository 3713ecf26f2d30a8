//! The ways to servers that URIs name: by which of our listeners, to which of their addresses.

use std::net::{IpAddr, SocketAddr};

use crate::{
    flow::{Flow, ListenerId},
    net::{is_answerable, source_toward},
    proxy::{Deny, Hop, Named, Resolved, Unreachable},
};

/// Addresses of one target that are tried one after the other. With 32 s each, nobody waits for more.
const MAX_ADDRESSES: usize = 8;

/// Names that are looked up for one request; more would be a way to have us ask for others.
const MAX_NAMES: usize = 16;

/// A name of a request's targets, and what it was looked up to, once it was.
pub type LookedUp = (Named, Option<Resolved>);

/// The ways of one request, as far as they are known.
#[derive(Debug)]
pub(super) struct Ways<'w> {
    listeners: &'w [SocketAddr],
    /// How the request came.
    flow: Flow,
    known: &'w [LookedUp],
    /// Whether nobody is sent there, but the caller told.
    redirects: bool,
    wanted: Vec<Named>,
    /// Why the first that was left out was.
    failure: Option<Unreachable>,
}

impl<'w> Ways<'w> {
    /// The ways of a request that came over `flow`. `known` is what was looked up so far.
    pub(super) fn new(
        listeners: &'w [SocketAddr],
        flow: Flow,
        known: &'w [LookedUp],
        redirects: bool,
    ) -> Self {
        Self { listeners, flow, known, redirects, wanted: Vec::new(), failure: None }
    }

    /// The ways to the server that a target's URI names, best first; none if there are none, or a
    /// name is still to be looked up.
    pub(super) fn to(&mut self, uri: &[u8]) -> Vec<Flow> {
        self.lead_to(uri, None)
    }

    /// The same for a URI that only the caller names, but to where nobody may have us send.
    pub(super) fn foreign(&mut self, uri: &[u8], deny: &Deny) -> Vec<Flow> {
        self.lead_to(uri, Some(deny))
    }

    fn lead_to(&mut self, uri: &[u8], deny: Option<&Deny>) -> Vec<Flow> {
        if self.redirects {
            return vec![self.flow];
        }
        self.by(uri, self.flow, deny).unwrap_or_else(|why| {
            self.failure.get_or_insert(why);
            Vec::new()
        })
    }

    /// The ways to the first hop of a binding's Path; if there are none, the one that its
    /// registration took is the best.
    pub(super) fn by_path(&mut self, uri: &[u8], registered: Flow) -> Vec<Flow> {
        match Hop::of(uri) {
            Ok(Hop::Name(_)) if self.redirects => Vec::new(),
            _ => self.by(uri, registered, None).unwrap_or_default(),
        }
    }

    /// What has to be looked up, and why nothing else can be done.
    pub(super) fn finish(self) -> (Vec<Named>, Option<Unreachable>) {
        (self.wanted, self.failure)
    }

    fn by(
        &mut self,
        uri: &[u8],
        from: Flow,
        deny: Option<&Deny>,
    ) -> Result<Vec<Flow>, Unreachable> {
        let named = match Hop::of(uri)? {
            Hop::Address(addr) => return self.flows([addr], from, deny),
            Hop::Name(named) => named,
        };
        let known = self.known;
        match known.iter().find(|(name, _)| *name == named) {
            Some((_, Some(resolved))) => {
                let servers = resolved.as_ref().map_err(|why| *why)?;
                // Of a server's addresses those first that the request can leave for as it came.
                let is_near = |addr: &&SocketAddr| addr.is_ipv4() == from.remote.is_ipv4();
                let addrs = servers.iter().flat_map(|addrs| {
                    let far = addrs.iter().filter(move |addr| !is_near(addr));
                    addrs.iter().filter(is_near).chain(far)
                });
                self.flows(addrs.copied(), from, deny)
            }
            Some((_, None)) => Ok(Vec::new()),
            None => {
                if !self.wanted.contains(&named) {
                    if self.known.len() + self.wanted.len() >= MAX_NAMES {
                        return Err(Unreachable::Unanswered);
                    }
                    self.wanted.push(named);
                }
                Ok(Vec::new())
            }
        }
    }

    /// The ways to addresses, but to those that are ours, or nobody's, or that are denied.
    fn flows(
        &self,
        addrs: impl IntoIterator<Item = SocketAddr>,
        from: Flow,
        deny: Option<&Deny>,
    ) -> Result<Vec<Flow>, Unreachable> {
        let mut flows: Vec<Flow> = Vec::new();
        let mut why = Unreachable::NoWay;
        for addr in addrs {
            if self.is_own(addr) {
                why = Unreachable::Own;
            } else if deny.is_some_and(|deny| self.is_denied(addr, deny)) {
                why = Unreachable::Denied;
            } else if let Some(flow) = self.way(addr, from)
                && !flows.contains(&flow)
            {
                flows.push(flow);
                if flows.len() == MAX_ADDRESSES {
                    break;
                }
            }
        }
        if flows.is_empty() { Err(why) } else { Ok(flows) }
    }

    /// Whether an address is one of ours. Of a listener at all addresses, only the one that the
    /// request came to and the loopback are known to be.
    fn is_own(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip();
        self.listeners.iter().any(|listener| {
            let is_any = listener.ip().is_unspecified() && listener.is_ipv4() == addr.is_ipv4();
            listener.port() == addr.port()
                && (listener.ip() == ip
                    || is_any && (self.flow.local == Some(ip) || ip.is_loopback()))
        })
    }

    /// Whether a caller may not have us send there. What is not public includes other programs on
    /// this machine: whatever address of its own a listener has, or may have.
    fn is_denied(&self, addr: SocketAddr, deny: &Deny) -> bool {
        let ip = addr.ip();
        let is_this_machine = || {
            let is_any = |own: &SocketAddr| own.ip().is_unspecified();
            self.flow.local == Some(ip)
                || self.listeners.iter().any(|listener| listener.ip() == ip)
                // What is sent to an address of this machine leaves from it.
                || self.listeners.iter().any(is_any) && source_toward(addr) == Some(ip)
        };
        deny.covers(ip) || deny.internal && is_this_machine()
    }

    /// The way to an address: by the listener of `from` where that is of its family, else by the
    /// first that is.
    fn way(&self, remote: SocketAddr, from: Flow) -> Option<Flow> {
        // An address of one link says nothing without the link.
        let is_of_a_link = matches!(remote.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !is_answerable(remote) || is_of_a_link {
            return None;
        }
        if from.remote.is_ipv4() == remote.is_ipv4() {
            return Some(Flow { remote, ..from });
        }
        let mut listeners = self.listeners.iter().enumerate();
        let (number, listener) = listeners.find(|(_, own)| own.is_ipv4() == remote.is_ipv4())?;
        let local = match listener.ip().is_unspecified() {
            true => Some(source_toward(remote)?),
            false => None,
        };
        let listener = ListenerId(u8::try_from(number).ok()?);
        Some(Flow { listener, transport: from.transport, local, remote })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Transport, proxy::By};

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn flow(remote: &str) -> Flow {
        let (listener, transport) = (ListenerId(1), Transport::Udp);
        Flow { listener, transport, local: None, remote: addr(remote) }
    }

    fn named(host: &str) -> Named {
        Named { host: host.into(), by: By::Naptr }
    }

    fn servers(addrs: &[&[&str]]) -> Resolved {
        Ok(addrs.iter().map(|addrs| addrs.iter().map(|a| addr(a)).collect()).collect())
    }

    const LISTENERS: [&str; 4] =
        ["192.0.2.1:5060", "192.0.2.2:5060", "[2001:db8::1]:5060", "[2001:db8::2]:5060"];

    /// The ways to `uri` of a request from `source`: listener and address of each, or why not.
    fn ways(source: &str, uri: &str, known: &[LookedUp]) -> Result<String, Option<Unreachable>> {
        let listeners = LISTENERS.map(addr);
        let mut ways = Ways::new(&listeners, flow(source), known, false);
        let flows = ways.to(uri.as_bytes());
        let shown = flows.iter().map(|flow| format!("{}>{}", flow.listener.0, flow.remote));
        let shown = shown.collect::<Vec<_>>().join(" ");
        if shown.is_empty() { Err(ways.finish().1) } else { Ok(shown) }
    }

    #[test]
    fn a_request_leaves_as_it_came_or_by_the_first_listener_of_the_family() {
        for (source, uri, way) in [
            ("198.51.100.7:5060", "sip:bob@203.0.113.1", "1>203.0.113.1:5060"),
            ("198.51.100.7:5060", "sip:bob@[2001:db8::9]:5080", "2>[2001:db8::9]:5080"),
            ("[2001:db8::7]:5060", "sip:bob@203.0.113.1", "0>203.0.113.1:5060"),
        ] {
            assert_eq!(ways(source, uri, &[]), Ok(way.to_owned()));
        }
        let listeners = [addr("192.0.2.1:5060")];
        let mut ways = Ways::new(&listeners, flow("198.51.100.7:5060"), &[], false);
        assert_eq!(ways.to(b"sip:bob@[2001:db8::9]"), []);
        assert_eq!(ways.finish(), (vec![], Some(Unreachable::NoWay)));
    }

    #[test]
    fn a_listener_at_all_addresses_says_which_of_them_it_sends_from() {
        let listeners = [addr("0.0.0.0:5060"), addr("[::]:5060")];
        let mut ways = Ways::new(&listeners, flow("[2001:db8::7]:5060"), &[], false);
        let flows = ways.to(b"sip:bob@127.0.0.9:5080");
        assert_eq!(flows[0].local, Some(addr("127.0.0.1:0").ip()));
        // That is itself.
        assert_eq!(ways.to(b"sip:bob@127.0.0.1:5060"), []);
        assert_eq!(ways.finish().1, Some(Unreachable::Own));
    }

    #[test]
    fn names_are_looked_up_once_and_tried_in_their_order() {
        let source = "198.51.100.7:5060";
        let listeners = LISTENERS.map(addr);
        let mut asking = Ways::new(&listeners, flow(source), &[], false);
        for uri in ["sip:a@example.net", "sip:b@Example.NET", "sip:b@example.org;transport=tcp"] {
            assert_eq!(asking.to(uri.as_bytes()), []);
        }
        let (wanted, why) = asking.finish();
        assert_eq!((wanted, why), (vec![named("example.net")], Some(Unreachable::Transport)));

        let found = servers(&[
            &["[2001:db8::9]:5080", "203.0.113.1:5080"],
            &["203.0.113.2:5070", "203.0.113.1:5080"],
        ]);
        let known = [(named("example.net"), Some(found))];
        let shown = ways(source, "sip:a@example.net", &known).unwrap();
        assert_eq!(shown, "1>203.0.113.1:5080 2>[2001:db8::9]:5080 1>203.0.113.2:5070");

        for why in [Unreachable::Unknown, Unreachable::Unanswered] {
            let known = [(named("example.net"), Some(Err(why)))];
            assert_eq!(ways(source, "sip:a@example.net", &known), Err(Some(why)));
        }
    }

    #[test]
    fn nobody_is_sent_to_ourselves_nor_to_where_nobody_is() {
        let source = "198.51.100.7:5060";
        for (addrs, way) in [
            (&["192.0.2.1:5060"][..], Err(Some(Unreachable::Own))),
            (&["192.0.2.1:5060", "192.0.2.9:5060"], Ok("1>192.0.2.9:5060".to_owned())),
            (&["192.0.2.1:5070"], Ok("1>192.0.2.1:5070".to_owned())),
            (
                &["0.0.0.0:5060", "224.0.0.1:5060", "255.255.255.255:5060", "192.0.2.7:0"],
                Err(Some(Unreachable::NoWay)),
            ),
            (&["[::]:5060", "[ff02::1]:5060", "[fe80::1]:5060"], Err(Some(Unreachable::NoWay))),
        ] {
            let known = [(named("example.net"), Some(servers(&[addrs])))];
            assert_eq!(ways(source, "sip:a@example.net", &known), way, "{addrs:?}");
        }
        assert_eq!(ways(source, "sip:a@x;maddr=192.0.2.1", &[]), Err(Some(Unreachable::Own)));
    }

    /// The ways to a URI that a caller names.
    fn foreign(uri: &str, known: &[LookedUp], deny: &Deny) -> Result<String, Option<Unreachable>> {
        let listeners = LISTENERS.map(addr);
        let mut ways = Ways::new(&listeners, flow("198.51.100.7:5060"), known, false);
        let flows = ways.foreign(uri.as_bytes(), deny);
        let shown: Vec<_> = flows.iter().map(|flow| flow.remote.to_string()).collect();
        if shown.is_empty() { Err(ways.finish().1) } else { Ok(shown.join(" ")) }
    }

    #[test]
    fn who_calls_out_has_nobody_sent_into_what_is_not_public() {
        let deny = Deny::default();
        let denied = || Err(Some(Unreachable::Denied));
        for (addrs, way) in [
            (&["10.0.0.1:5060"][..], denied()),
            (&["169.254.169.254:80", "[fd00::1]:5060", "127.0.0.1:5060"], denied()),
            // The public one of several is called.
            (&["10.0.0.1:5060", "203.0.113.1:5060"], Ok("203.0.113.1:5060".to_owned())),
            // Whatever else listens on this machine.
            (&["192.0.2.1:5070", "[2001:db8::2]:22"], denied()),
            (&["192.0.2.1:5060"], Err(Some(Unreachable::Own))),
        ] {
            let known = [(named("example.net"), Some(servers(&[addrs])))];
            assert_eq!(foreign("sip:a@example.net", &known, &deny), way, "{addrs:?}");
            // A handler that names it is an operator who does.
            let by_handler = ways("198.51.100.7:5060", "sip:a@example.net", &known);
            assert!(by_handler != denied(), "{addrs:?}: {by_handler:?}");
        }
        for uri in
            ["sip:a@10.0.0.1", "sip:a@203.0.113.1;maddr=127.0.0.1", "sip:a@[::ffff:10.0.0.1]"]
        {
            assert_eq!(foreign(uri, &[], &deny), denied(), "{uri}");
        }
    }

    #[test]
    fn what_is_denied_is_the_operators_to_say() {
        let networks = ["203.0.113.0/24".parse().unwrap()].into();
        let deny = Deny { internal: false, networks };
        let denied = || Err(Some(Unreachable::Denied));
        assert_eq!(foreign("sip:a@203.0.113.1", &[], &deny), denied());
        for addr in ["10.0.0.1:5060", "192.0.2.1:5070"] {
            assert_eq!(foreign(&format!("sip:a@{addr}"), &[], &deny), Ok(addr.to_owned()));
        }
    }

    #[test]
    fn a_listener_at_all_addresses_has_those_of_this_machine() {
        // Not denied by the list, so that only the kernel knows it for an address of ours.
        let deny = Deny { internal: true, networks: Box::default() };
        let listeners = [addr("0.0.0.0:5060")];
        let ways = Ways::new(&listeners, flow("198.51.100.7:5060"), &[], false);
        assert!(ways.is_denied(addr("127.0.0.1:80"), &deny));
        let from = Flow { local: Some(addr("203.0.113.9:0").ip()), ..flow("198.51.100.7:5060") };
        let ways = Ways::new(&listeners, from, &[], false);
        assert!(ways.is_denied(addr("203.0.113.9:80"), &deny));
    }

    #[test]
    fn there_is_an_end_to_names_and_addresses() {
        let listeners = LISTENERS.map(addr);
        let mut asking = Ways::new(&listeners, flow("198.51.100.7:5060"), &[], false);
        for n in 0..100 {
            asking.to(format!("sip:a@{n}.example.net").as_bytes());
        }
        let (wanted, why) = asking.finish();
        assert_eq!((wanted.len(), why), (MAX_NAMES, Some(Unreachable::Unanswered)));
        let many: Vec<String> = (1..100).map(|n| format!("203.0.113.{n}:5060")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let known = [(named("example.net"), Some(servers(&[&many])))];
        let shown = ways("198.51.100.7:5060", "sip:a@example.net", &known).unwrap();
        assert_eq!(shown.split(' ').count(), MAX_ADDRESSES);
    }

    #[test]
    fn who_is_told_where_to_go_finds_it_himself() {
        let listeners = LISTENERS.map(addr);
        let mut ways = Ways::new(&listeners, flow("198.51.100.7:5060"), &[], true);
        for uri in ["sip:a@example.net", "sip:a@example.net;transport=tcp", "sips:a@example.net"] {
            assert_eq!(ways.to(uri.as_bytes()).len(), 1);
        }
        assert_eq!(ways.by_path(b"sip:edge.example.net;lr", flow("198.51.100.8:1")), []);
        assert_eq!(ways.finish(), (vec![], None));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_left_to_the_way_of_the_registration() {
        let listeners = LISTENERS.map(addr);
        let registered = flow("198.51.100.8:1");
        let known = [(named("edge.example.net"), Some(Err(Unreachable::Unknown)))];
        let mut ways = Ways::new(&listeners, flow("198.51.100.7:5060"), &known, false);
        assert_eq!(ways.by_path(b"sip:edge.example.net;lr", registered), []);
        let far = ways.by_path(b"sip:[2001:db8::9];lr", registered);
        assert_eq!((far[0].listener, far[0].remote), (ListenerId(2), addr("[2001:db8::9]:5060")));
        assert_eq!(ways.finish(), (vec![], None));
    }
}
