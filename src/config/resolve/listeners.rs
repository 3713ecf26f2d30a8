//! `[listener NAME]`: where phones are heard.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{FILE, Overrides, named};
use crate::config::conf::{Conf, Section};
use crate::config::section::Keys;
use crate::config::settings::Listener;
use crate::config::values::lossy;
use crate::config::{Findings, Place, bounds};
use crate::flow::Transport;

/// Listeners are numbered by one octet ([`crate::flow::ListenerId`]).
pub const MAX_LISTENERS: usize = 256;

/// Yate's keys of a listener that have no meaning here yet.
const LATER_LISTENER_KEYS: [&str; 9] = [
    "default",
    "ipv6",
    "backlog",
    "sslcontext",
    "thread",
    "role",
    "rtp_localip",
    "nat_address",
    "udp_force_bind",
];

/// The listeners: those of the command line, else those of the file, else one on the loopback
/// interface, since nobody said that the world may come in.
pub(super) fn listeners(
    conf: &Conf,
    folder: &Path,
    overrides: &Overrides,
    findings: &mut Findings,
) -> Box<[Listener]> {
    let mut listeners = Vec::new();
    let mut taken: HashMap<SocketAddr, Place> = HashMap::new();
    for section in conf.sections() {
        let name = lossy(&section.name);
        let Some(name) = named("listener", &name) else {
            continue;
        };
        let Some(listener) = listener(name, section, findings) else {
            continue;
        };
        if listener.addr.port() != 0
            && let Some(first) = taken.insert(listener.addr, section.place.clone())
        {
            let what = format!(
                "[listener {name}] {} is the address of the listener at {first}",
                listener.addr
            );
            findings.error(section.place.clone(), what);
        }
        listeners.push(listener);
    }
    let place = Place::of_file(folder.join(FILE));
    if !overrides.listen.is_empty() {
        let given = overrides.listen.iter().enumerate();
        listeners = given
            .map(|(position, addr)| udp_listener(&format!("command-line-{}", position + 1), *addr))
            .collect();
    } else if listeners.is_empty() {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 5060));
        findings.warning(place.clone(), format!("no [listener NAME]: listening on {addr} only"));
        listeners.push(udp_listener("loopback", addr));
    }
    if listeners.len() > MAX_LISTENERS {
        findings.error(
            place,
            format!("{} listeners: expected at most {MAX_LISTENERS}", listeners.len()),
        );
    }
    listeners.into()
}

fn listener(name: &str, section: &Section, findings: &mut Findings) -> Option<Listener> {
    let mut keys = Keys::new(&format!("listener {name}"), Some(section), findings);
    let types = Transport::ALL.map(|transport| (transport.name(), transport));
    let transport = keys.word("type", &types).unwrap_or(Transport::Udp);
    if transport != Transport::Udp {
        keys.not_yet("type");
    }
    let addr = address(&mut keys, Ipv4Addr::UNSPECIFIED.into(), &bounds::LISTENER_PORT);
    let buffer = keys.number("buffer", &bounds::BUFFER);
    if (1..4096).contains(&buffer) {
        keys.refuse("buffer", "0 or octets from 4096");
    }
    let maxpkt = keys.short("maxpkt", &bounds::MAXPKT);
    let enable = keys.flag("enable", true);
    keys.later(&LATER_LISTENER_KEYS);
    keys.finish();
    enable.then(|| Listener {
        transport,
        buffer: (buffer > 0).then_some(buffer),
        maxpkt,
        ..udp_listener(name, addr)
    })
}

fn udp_listener(name: &str, addr: SocketAddr) -> Listener {
    let maxpkt = u16::try_from(bounds::MAXPKT.default).unwrap_or(u16::MAX);
    Listener { name: name.into(), transport: Transport::Udp, addr, buffer: None, maxpkt }
}

/// `addr` and `port`.
pub(super) fn address(
    keys: &mut Keys<'_, '_>,
    default: IpAddr,
    port: &bounds::Bounds,
) -> SocketAddr {
    let addr = match keys.text("addr") {
        None => default,
        Some(text) => {
            let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            unbracketed.unwrap_or(text).parse().unwrap_or_else(|_| {
                keys.refuse("addr", "an IPv4 or IPv6 address");
                default
            })
        }
    };
    SocketAddr::new(addr, keys.short("port", port))
}
