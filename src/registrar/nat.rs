//! Contacts that name an address their phone can't be reached at.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    flow::{Flow, Transport},
    sip::uri::SipUri,
};

/// The port of a Contact without one.
const DEFAULT_PORT: u16 = 5060;

/// Whether a phone that names `contact` and sends over `flow` is behind NAT, by Yate's rule: a
/// private address that isn't the one it sends from, or, over UDP, another port.
pub fn is_behind_nat(contact: &SipUri<'_>, flow: &Flow) -> bool {
    let source = flow.remote;
    let private = match (contact.host_port.ip(), source.ip()) {
        (Some(IpAddr::V4(named)), IpAddr::V4(seen)) => is_private(named) && !is_private(seen),
        _ => false,
    };
    let port = contact.host_port.port.unwrap_or(DEFAULT_PORT);
    private || flow.transport == Transport::Udp && port != source.port()
}

fn is_private(ip: Ipv4Addr) -> bool {
    ip.is_private() || ip.is_link_local()
}

/// Appends the URI at which a binding is reached: its Contact, or, behind NAT, the Contact with
/// host and port of its flow. A Contact that is no SIP URI stays as it is.
pub fn reachable_uri_into(contact: &[u8], flow: &Flow, out: &mut Vec<u8>) {
    match SipUri::parse(contact) {
        Ok(uri) if is_behind_nat(&uri, flow) => {
            let host_at = uri.host_port.host.as_ptr().addr() - contact.as_ptr().addr();
            let rest = uri.params.len() + uri.headers.len();
            let question_mark = usize::from(!uri.headers.is_empty());
            out.extend_from_slice(&contact[..host_at]);
            out.extend_from_slice(flow.remote.to_string().as_bytes());
            out.extend_from_slice(&contact[contact.len() - rest - question_mark..]);
        }
        _ => out.extend_from_slice(contact),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::ListenerId;

    fn reachable(contact: &str, source: &str) -> String {
        let flow = Flow {
            listener: ListenerId(0),
            transport: Transport::Udp,
            local: None,
            remote: source.parse().unwrap(),
        };
        let mut out = Vec::new();
        reachable_uri_into(contact.as_bytes(), &flow, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_flow_takes_the_place_of_what_cannot_be_reached() {
        for (contact, source, expected) in [
            ("sip:a@192.0.2.1", "192.0.2.1:5060", "sip:a@192.0.2.1"),
            ("sip:a@10.0.0.1", "10.0.0.1:5060", "sip:a@10.0.0.1"),
            ("sip:a@10.0.0.1", "192.0.2.1:5060", "sip:a@192.0.2.1:5060"),
            ("sip:a@192.0.2.1:5062;ob?x=y", "192.0.2.1:40000", "sip:a@192.0.2.1:40000;ob?x=y"),
            // Yate puts the address into the first place that spells the host: the user part here.
            ("sip:10.0.0.1@10.0.0.1;x", "192.0.2.1:9", "sip:10.0.0.1@192.0.2.1:9;x"),
            ("sip:a@[2001:db8::9]:1", "[2001:db8::1]:2", "sip:a@[2001:db8::1]:2"),
            // A port elsewhere says nothing of the host, but by Yate's rule it does.
            ("sip:a@proxy.example.com", "192.0.2.1:5062", "sip:a@192.0.2.1:5062"),
            ("tel:+1555", "192.0.2.1:5062", "tel:+1555"),
        ] {
            assert_eq!(reachable(contact, source), expected);
        }
    }
}
