//! Where a request is to go by its own headers: Request-URI and Route (RFC 3261 §16.4, §16.6
//! steps 6 and 7, §16.12).

use std::net::SocketAddr;

use super::{hop::numeric, policy::Policy, token::Side};
use crate::{
    flow::Flow,
    sip::{
        Message, Request,
        header::{Elements, NameAddr},
        uri::SipUri,
    },
};

/// The route set of a request as it goes on, after our own entries were taken from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way<'a> {
    /// The Request-URI.
    pub(super) uri: &'a [u8],
    /// What stays of Route, one element each.
    pub(super) routes: Vec<&'a [u8]>,
    /// The first token among the entries that were ours.
    pub(super) token: Option<&'a [u8]>,
    /// How many entries were ours.
    pub(super) own: usize,
}

/// All elements of Route.
fn routes<'a>(message: &Message<'a>) -> Vec<&'a [u8]> {
    message.named("Route").flat_map(Elements::new).filter_map(Result::ok).collect()
}

/// The value of the token in a URI.
fn token_of<'a>(uri: &SipUri<'a>) -> Option<&'a [u8]> {
    crate::sip::header::Params::new(uri.params).find(super::token::PARAM)?.value
}

/// Whether a URI has `lr`.
fn is_loose(uri: &SipUri<'_>) -> bool {
    crate::sip::header::Params::new(uri.params).find("lr").is_some()
}

/// Where a request within a dialog goes: to one side of it, `next` being the URI of its next hop.
/// That counts for a server, and there only where it could have sent from itself.
pub(super) fn hop_of(side: Side, next: &[u8], policy: &Policy) -> Flow {
    match side {
        Side::Flow(to) => to,
        Side::Server(seen) => {
            // Else whoever calls from elsewhere could name a gateway of ours as its Contact.
            let is_trusted = policy.trusts(seen.remote.ip());
            let is_its_own = |remote: &SocketAddr| {
                remote.ip() == seen.remote.ip() || is_trusted && policy.trusts(remote.ip())
            };
            let has_way = |remote: &SocketAddr| remote.is_ipv4() == seen.remote.is_ipv4();
            let named = numeric(next).filter(is_its_own).filter(has_way);
            Flow { remote: named.unwrap_or(seen.remote), ..seen }
        }
    }
}

impl<'a> Way<'a> {
    /// RFC 3261 §16.4: what a strict router did is undone, and what names us is taken away.
    /// `is_own` tells whether a URI does.
    pub(super) fn read(request: &Request<'a>, is_own: impl Fn(&SipUri<'_>) -> bool) -> Self {
        let mut routes = routes(&request.envelope.message);
        let mut way = Self { uri: request.uri, routes: Vec::new(), token: None, own: 0 };
        // A strict router has put our entry into the Request-URI, and the Request-URI last.
        if let Some(uri) = request.sip_uri.filter(|uri| is_own(uri))
            && let Some(token) = token_of(&uri)
            && let Some(last) = routes.pop()
            && let Ok(last) = NameAddr::parse(last)
        {
            (way.uri, way.token, way.own) = (last.uri, Some(token), 1);
        }
        let own = routes.iter().take_while(|route| {
            let Ok(route) = NameAddr::parse(route) else { return false };
            let Ok(uri) = SipUri::parse(route.uri) else { return false };
            let is_own = is_own(&uri);
            if is_own && way.token.is_none() {
                way.token = token_of(&uri);
            }
            is_own
        });
        let own = own.count();
        way.own += own;
        way.routes = routes.split_off(own);
        way
    }

    /// §16.6 step 6: for a next hop that is a strict router, its URI becomes the Request-URI, and
    /// that the last Route. The result is the URI that says where the request goes.
    pub(super) fn next_hop(&mut self) -> &'a [u8] {
        let Some(first) = self.routes.first().and_then(|route| NameAddr::parse(route).ok()) else {
            return self.uri;
        };
        match SipUri::parse(first.uri) {
            Ok(uri) if !is_loose(&uri) => {
                self.routes.remove(0);
                self.routes.push(self.uri);
                self.uri = first.uri;
                first.uri
            }
            _ => first.uri,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Limits, Parsed, Parser};

    fn on_its_way(uri: &str, routes: &str) -> (String, Vec<String>, Option<String>, String) {
        let text = format!(
            "BYE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n{routes}\
             From: <sip:a@b>;tag=1\r\nTo: <sip:b@b>;tag=2\r\nCall-ID: a\r\nCSeq: 1 BYE\r\n\r\n"
        );
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!("{text}") };
        let mut way = Way::read(&request, |uri| uri.host_port.host == b"us");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let next = text(way.next_hop());
        let routes = way.routes.iter().map(|route| text(route)).collect();
        (text(way.uri), routes, way.token.map(text), next)
    }

    #[test]
    fn our_own_routes_are_taken_away() {
        let found = on_its_way(
            "sip:bob@192.0.2.9",
            "Route: <sip:us;lr;bt=T>, <sip:us;lr>\r\nRoute: <sip:next;lr>\r\n",
        );
        let next = || "<sip:next;lr>".to_owned();
        let expected =
            ("sip:bob@192.0.2.9".into(), vec![next()], Some("T".into()), "sip:next;lr".into());
        assert_eq!(found, expected);
        let (uri, routes, token, next) = on_its_way("sip:bob@192.0.2.9", "");
        assert_eq!((uri, routes, token), ("sip:bob@192.0.2.9".into(), vec![], None));
        assert_eq!(next, "sip:bob@192.0.2.9");
    }

    #[test]
    fn what_a_strict_router_did_is_undone() {
        let found = on_its_way("sip:us;lr;bt=T", "Route: <sip:a;lr>, <sip:bob@192.0.2.9>\r\n");
        let expected = (
            "sip:bob@192.0.2.9".into(),
            vec!["<sip:a;lr>".to_owned()],
            Some("T".into()),
            "sip:a;lr".into(),
        );
        assert_eq!(found, expected);
    }

    #[test]
    fn a_strict_router_gets_its_own_name_as_request_uri() {
        let found =
            on_its_way("sip:bob@192.0.2.9", "Route: <sip:us;lr>, <sip:old>, <sip:x;lr>\r\n");
        let expected = (
            "sip:old".into(),
            vec!["<sip:x;lr>".to_owned(), "sip:bob@192.0.2.9".into()],
            None,
            "sip:old".into(),
        );
        assert_eq!(found, expected);
    }

    #[test]
    fn only_who_is_trusted_names_who_is_trusted() {
        use crate::flow::{ListenerId, Transport};

        let flow = |remote: &str| Flow {
            listener: ListenerId(0),
            transport: Transport::Udp,
            local: None,
            remote: remote.parse().unwrap(),
        };
        let policy =
            Policy { trusted: vec!["10.0.0.0/8".parse().unwrap()].into(), ..Policy::default() };
        let next = b"sip:900@10.0.0.9:5080";
        for (seen, goes_to) in [
            ("10.0.0.1:5060", "10.0.0.9:5080"),
            ("192.0.2.1:5060", "192.0.2.1:5060"),
            ("10.0.0.9:5060", "10.0.0.9:5080"),
        ] {
            assert_eq!(hop_of(Side::Server(flow(seen)), next, &policy), flow(goes_to), "{seen}");
        }
    }
}
