//! `[calls]` and `[domain NAME]`: who calls whom.

use std::net::SocketAddr;

use super::{keys, named};
use crate::config::conf::Conf;
use crate::config::nearest::hint;
use crate::config::section::Keys;
use crate::config::settings::{Calls, Dns, Records};
use crate::config::values::{comma_list, lossy};
use crate::config::{Findings, bounds};
use crate::proxy::{self, Deny, Foreign, INTERNAL, Mode, NONE, Network, ProbeBy};
use crate::time::DeltaSeconds;

/// Keys that will have a meaning in `[domain NAME]`.
const LATER_DOMAIN_KEYS: [&str; 23] = [
    "expires_min",
    "expires_def",
    "expires_max",
    "auth_required",
    "nat_refresh",
    "max_contacts",
    "on_limit",
    "cseq",
    "algorithms",
    "nonce_lifetime",
    "qop",
    "enable",
    "ring_timeout",
    "dead_call",
    "probe",
    "probe_by",
    "max_calls",
    "trusted",
    "check_from",
    "accept_foreign",
    "foreign",
    "foreign_deny",
    "cdr",
];

/// What callers of a domain meet.
const MODES: [(&str, Mode); 2] = [("proxy", Mode::Proxy), ("redirect", Mode::Redirect)];

/// What the parties of a call are asked with.
const PROBES: [(&str, ProbeBy); 2] = [("OPTIONS", ProbeBy::Options), ("UPDATE", ProbeBy::Update)];

/// A `probe=` below this is thought to be a mistake.
const OFTEN: DeltaSeconds = DeltaSeconds(60);

pub(super) fn calls(conf: &Conf, domains: &[Box<str>], findings: &mut Findings) -> Calls {
    let modes = modes(conf, domains, findings);
    let mut keys = keys(conf, "calls", findings);
    let expected = "a comma list of addresses and networks (10.0.0.0/8)";
    let trusted = list(&mut keys, "trusted", expected, |text| text.parse::<Network>().ok());
    let foreign_deny = foreign_deny(&mut keys);
    let expected = "a comma list of name servers (192.0.2.53, [2001:db8::53]:53)";
    let servers = list(&mut keys, "dns", expected, name_server);
    let timeout = keys.seconds("dns_timeout", &bounds::DNS_TIMEOUT);
    let dns = Dns { servers: servers.into(), timeout };
    let policy = proxy::Policy {
        enabled: keys.flag("enable", true),
        redirect: keys.word("mode", &MODES) == Some(Mode::Redirect),
        modes,
        ring_timeout: keys.seconds("ring_timeout", &bounds::RING_TIMEOUT),
        dead_call: keys.seconds("dead_call", &bounds::DEAD_CALL),
        probe: keys.seconds("probe", &bounds::PROBE),
        probe_by: keys.word("probe_by", &PROBES).unwrap_or_default(),
        max_calls: keys.number("max_calls", &bounds::MAX_CALLS),
        trusted: trusted.into(),
        check_from: keys.flag("check_from", true),
        accept_foreign: keys.flag("accept_foreign", false),
        foreign: keys
            .word("foreign", &[("refuse", Foreign::Refuse), ("dns", Foreign::Dns)])
            .unwrap_or(Foreign::Refuse),
        foreign_deny,
    };
    if policy.probe >= policy.dead_call {
        // Calls would be over before anybody is asked.
        keys.refuse("probe", &format!("less than dead_call={}", policy.dead_call.0));
    } else if policy.probe.0 != 0 && policy.probe < OFTEN {
        keys.doubt("probe", "0, or minutes: it is two requests a call each time");
    }
    let cdr = keys.word("cdr", &[("call", Records::Call), ("leg", Records::Leg)]);
    keys.finish();
    Calls { policy, cdr: cdr.unwrap_or_default(), dns }
}

/// Where calls to other domains never go.
fn foreign_deny(keys: &mut Keys<'_, '_>) -> Deny {
    const KEY: &str = "foreign_deny";
    const EXPECTED: &str = "internal, none, or a comma list of internal and networks (10.0.0.0/8)";
    let Some(written) = keys.text(KEY) else { return Deny::default() };
    if written.trim() == NONE {
        return Deny { internal: false, networks: Box::default() };
    }
    // `None` stands for what is internal.
    let words = list(keys, KEY, EXPECTED, |word| match word {
        INTERNAL => Some(None),
        network => network.parse::<Network>().ok().map(Some),
    });
    let internal = words.contains(&None);
    Deny { internal, networks: words.into_iter().flatten().collect() }
}

/// The elements of a comma list; if one can't be read the key is refused, once.
fn list<T>(
    keys: &mut Keys<'_, '_>,
    key: &'static str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let elements = comma_list(keys.text(key).unwrap_or_default()).map(read);
    elements.collect::<Option<_>>().unwrap_or_else(|| {
        keys.refuse(key, expected);
        Vec::new()
    })
}

/// A name server: its address, and its port if that is not 53.
fn name_server(text: &str) -> Option<SocketAddr> {
    const PORT: u16 = 53;
    let server = text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, PORT)));
    server.filter(|server: &SocketAddr| server.port() != 0 && !server.ip().is_unspecified())
}

/// The modes that domains have of their own.
fn modes(conf: &Conf, domains: &[Box<str>], findings: &mut Findings) -> Box<[(Box<str>, Mode)]> {
    let mut modes: Vec<(Box<str>, Mode)> = Vec::new();
    for section in conf.sections() {
        let name = lossy(&section.name);
        let Some(domain) = named("domain", &name).map(str::to_ascii_lowercase) else {
            continue;
        };
        if !domains.iter().any(|ours| **ours == *domain) {
            let hint = hint(&domain, domains.iter().map(AsRef::as_ref));
            let what = format!("[{name}] is not among [general] domains{hint}");
            findings.error(section.place.clone(), what);
        }
        if modes.iter().any(|(known, _)| **known == *domain) {
            let what = format!("[{name}] is written twice, in different letters");
            findings.error(section.place.clone(), what);
        }
        let mut keys = Keys::new(&name, Some(section), findings);
        let is_written = keys.is_written("mode");
        let mode = keys.word("mode", &MODES).filter(|_| is_written);
        keys.without_effect(&LATER_DOMAIN_KEYS);
        keys.finish();
        modes.extend(mode.map(|mode| (domain.into(), mode)));
    }
    modes.into()
}
