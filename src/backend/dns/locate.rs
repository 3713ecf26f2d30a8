//! From a domain to its servers: RFC 3263 §4.1 and §4.2, with the order of RFC 2782.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::join_all;

use super::Dice;
use crate::proxy::{By, DEFAULT_PORT, Named, Resolved, Unreachable};

/// NAPTR records of UDP that are gone by: one is usual.
const MAX_NAPTR: usize = 4;
/// Servers of a domain whose addresses are looked up.
const MAX_SERVERS: usize = 8;
/// Addresses of a server.
const MAX_ADDRESSES: usize = 8;

/// What NAPTR calls SIP over UDP (RFC 3263 §4.1).
const SIP_OVER_UDP: &[u8] = b"SIP+D2U";

/// A NAPTR record (RFC 3403).
#[derive(Clone, Debug)]
pub(super) struct Naptr {
    pub(super) order: u16,
    pub(super) preference: u16,
    pub(super) flags: Box<[u8]>,
    pub(super) service: Box<[u8]>,
    pub(super) has_regexp: bool,
    pub(super) replacement: Box<str>,
}

/// An SRV record (RFC 2782). An empty target is the root: nobody serves there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Srv {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: Box<str>,
}

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// There are none, or no such name at all.
    None,
    /// Nobody was able to say.
    Unanswered,
}

/// Where records come from: never an empty list.
pub(super) trait Records {
    async fn naptr(&self, name: &str) -> Result<Vec<Naptr>, Missing>;
    async fn srv(&self, name: &str) -> Result<Vec<Srv>, Missing>;
    /// Those of both families.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Missing>;
}

/// The servers of a domain, the one to try first first.
pub(super) async fn locate(records: &impl Records, named: &Named, dice: &Dice) -> Resolved {
    let host = &*named.host;
    let port = match named.by {
        By::Port(port) => Some(port),
        By::Srv | By::Naptr => None,
    };
    let by_srv = match named.by {
        By::Port(_) => None,
        By::Srv => Some(vec![format!("_sip._udp.{host}").into()]),
        By::Naptr => Some(services(records, host).await?),
    };
    let mut servers = Vec::new();
    for name in by_srv.into_iter().flatten() {
        match records.srv(&name).await {
            Ok(found) => servers.extend(in_order(found, dice)),
            Err(Missing::None) => {}
            // Another server than the one that the domain wants asked first is not guessed at.
            Err(Missing::Unanswered) => return Err(Unreachable::Unanswered),
        }
    }
    if servers.is_empty() {
        // RFC 3263 §4.2: without any, the domain is a host.
        let (priority, weight, port) = (0, 0, port.unwrap_or(DEFAULT_PORT));
        servers.push(Srv { priority, weight, port, target: host.into() });
    }
    let lookups = servers
        .iter()
        .filter(|server| !server.target.is_empty())
        .take(MAX_SERVERS)
        .map(async |server| (server.port, records.addresses(&server.target).await));
    let mut why = Unreachable::Unknown;
    let mut located: Vec<Box<[SocketAddr]>> = Vec::new();
    for (port, found) in join_all(lookups).await {
        match found {
            Ok(found) => {
                let found = found.into_iter().take(MAX_ADDRESSES);
                located.push(found.map(|ip| SocketAddr::new(ip, port)).collect());
            }
            Err(Missing::Unanswered) => why = Unreachable::Unanswered,
            Err(Missing::None) => {}
        }
    }
    if located.is_empty() { Err(why) } else { Ok(Arc::from(located)) }
}

/// The names of a domain's SRV records for UDP, by its NAPTR records or by custom (RFC 3263 §4.1).
async fn services(records: &impl Records, host: &str) -> Result<Vec<Box<str>>, Unreachable> {
    // A server that can't tell of NAPTR records may still know of others.
    let mut naptr = records.naptr(host).await.unwrap_or_default();
    naptr.retain(|record| {
        let service = record.service.to_ascii_uppercase();
        let is_sip = service.starts_with(b"SIP+") || service.starts_with(b"SIPS+");
        is_sip && record.flags.eq_ignore_ascii_case(b"s") && !record.has_regexp
    });
    if naptr.is_empty() {
        return Ok(vec![format!("_sip._udp.{host}").into()]);
    }
    naptr.retain(|record| record.service.eq_ignore_ascii_case(SIP_OVER_UDP));
    if naptr.is_empty() {
        // It tells by what it can be reached, and UDP is not among that.
        return Err(Unreachable::Transport);
    }
    naptr.sort_by_key(|record| (record.order, record.preference));
    // RFC 3403 §4.1: of a greater order only where there is none of a lesser.
    let order = naptr.first().map(|record| record.order);
    naptr.retain(|record| Some(record.order) == order);
    naptr.truncate(MAX_NAPTR);
    Ok(naptr.into_iter().map(|record| record.replacement).collect())
}

/// RFC 2782: by priority, and within one at random, by weight.
fn in_order(mut servers: Vec<Srv>, dice: &Dice) -> Vec<Srv> {
    // Those of no weight go first, so that they have a chance of being chosen at all.
    servers.sort_by_key(|server| (server.priority, server.weight > 0));
    let mut ordered: Vec<Srv> = Vec::new();
    while let Some(first) = servers.first().filter(|_| ordered.len() < MAX_SERVERS) {
        let same = servers.iter().take_while(|server| server.priority == first.priority);
        let weights: Vec<u32> = same.map(|server| u32::from(server.weight)).collect();
        let thrown = dice.throw(weights.iter().sum());
        let mut sum = 0;
        let chosen = weights.iter().position(|weight| {
            sum += weight;
            sum >= thrown
        });
        ordered.push(servers.remove(chosen.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A zone: lines of a name, a type and what the type has.
    struct Zone(HashMap<(&'static str, &'static str), Result<Vec<&'static str>, Missing>>);

    impl Zone {
        fn new(lines: &[&'static str]) -> Self {
            let mut zone: HashMap<_, Result<Vec<_>, _>> = HashMap::new();
            for line in lines {
                let mut words = line.splitn(3, ' ');
                let key = (words.next().unwrap(), words.next().unwrap());
                match words.next().unwrap() {
                    "?" => drop(zone.insert(key, Err(Missing::Unanswered))),
                    data => zone.entry(key).or_insert(Ok(vec![])).as_mut().unwrap().push(data),
                }
            }
            Self(zone)
        }

        fn get<T>(
            &self,
            name: &str,
            kind: &'static str,
            read: impl Fn(Vec<&str>) -> T,
        ) -> Result<Vec<T>, Missing> {
            let found = self.0.iter().find(|((n, k), _)| *n == name && *k == kind);
            let data = found.map_or(Err(Missing::None), |(_, data)| data.clone())?;
            Ok(data.into_iter().map(|data| read(data.split(' ').collect())).collect())
        }
    }

    impl Records for Zone {
        async fn naptr(&self, name: &str) -> Result<Vec<Naptr>, Missing> {
            self.get(name, "NAPTR", |words| Naptr {
                order: words[0].parse().unwrap(),
                preference: words[1].parse().unwrap(),
                flags: words[2].as_bytes().into(),
                service: words[3].as_bytes().into(),
                has_regexp: words[4] != "-",
                replacement: words[5].into(),
            })
        }

        async fn srv(&self, name: &str) -> Result<Vec<Srv>, Missing> {
            self.get(name, "SRV", |words| srv(&words.join(" ")))
        }

        async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Missing> {
            self.get(name, "A", |words| words[0].parse().unwrap())
        }
    }

    fn srv(text: &str) -> Srv {
        let words: Vec<&str> = text.split(' ').collect();
        let [priority, weight, port] = [0, 1, 2].map(|n| words[n].parse().unwrap());
        Srv { priority, weight, port, target: words[3].trim_matches('.').into() }
    }

    fn located(zone: &[&'static str], by: By) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let named = Named { host: "a.net".into(), by };
        match runtime.block_on(locate(&Zone::new(zone), &named, &Dice::new())) {
            Err(why) => format!("{why:?}"),
            Ok(servers) => {
                let shown = servers.iter().map(|addrs| {
                    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
                });
                shown.collect::<Vec<_>>().join(" ")
            }
        }
    }

    const HOSTS: [&str; 4] =
        ["h1.net A 192.0.2.1", "h1.net A 2001:db8::1", "h2.net A 192.0.2.2", "a.net A 192.0.2.9"];

    fn with_hosts(lines: &[&'static str]) -> Vec<&'static str> {
        [lines, &HOSTS].concat()
    }

    #[test]
    fn naptr_leads_to_srv_and_srv_to_addresses() {
        let zone = with_hosts(&[
            "a.net NAPTR 50 50 s SIPS+D2T - _sips._tcp.a.net",
            "a.net NAPTR 90 50 s SIP+D2T - _sip._tcp.a.net",
            "a.net NAPTR 100 60 s SIP+D2U - second.a.net",
            "a.net NAPTR 100 50 S sip+d2u - first.a.net",
            "a.net NAPTR 101 10 s SIP+D2U - never.a.net",
            "never.a.net SRV 0 1 5060 h2.net",
            "first.a.net SRV 0 1 5080 h1.net",
            "second.a.net SRV 0 1 5070 h2.net",
            "_sip._udp.a.net SRV 0 1 5060 h2.net",
        ]);
        let all = "192.0.2.1:5080,[2001:db8::1]:5080 192.0.2.2:5070";
        assert_eq!(located(&zone, By::Naptr), all);
        // Where the URI has the transport, or the port, nobody is asked for it.
        assert_eq!(located(&zone, By::Srv), "192.0.2.2:5060");
        assert_eq!(located(&zone, By::Port(5099)), "192.0.2.9:5099");
    }

    #[test]
    fn without_naptr_it_is_srv_by_custom_and_without_that_the_host() {
        let zone = with_hosts(&["_sip._udp.a.net SRV 0 1 5080 h1.net"]);
        assert_eq!(located(&zone, By::Naptr), "192.0.2.1:5080,[2001:db8::1]:5080");
        let zone = with_hosts(&[]);
        assert_eq!(located(&zone, By::Naptr), "192.0.2.9:5060");
        assert_eq!(located(&zone, By::Srv), "192.0.2.9:5060");
        // Records of other services say nothing of SIP, nor do such with an expression.
        for other in [
            "a.net NAPTR 1 1 u E2U+sip !^.*$!sip:x@y! -",
            "a.net NAPTR 1 1 s SIP+D2T !^.*$!y! -",
            "a.net NAPTR 1 1 s x+y - z",
            "a.net NAPTR ?",
        ] {
            let zone = with_hosts(&[other, "_sip._udp.a.net SRV 0 1 5080 h2.net"]);
            assert_eq!(located(&zone, By::Naptr), "192.0.2.2:5080", "{other}");
        }
        // It names a service, of which there is nothing more.
        let zone = with_hosts(&["a.net NAPTR 1 1 s SIP+D2U - none.a.net"]);
        assert_eq!(located(&zone, By::Naptr), "192.0.2.9:5060");
    }

    #[test]
    fn who_is_not_there_by_udp_is_not_sent_any() {
        let zone = with_hosts(&[
            "a.net NAPTR 50 50 s SIPS+D2T - _sips._tcp.a.net",
            "a.net NAPTR 90 50 s SIP+D2T - _sip._tcp.a.net",
            "_sip._udp.a.net SRV 0 1 5080 h2.net",
        ]);
        assert_eq!(located(&zone, By::Naptr), "Transport");
    }

    #[test]
    fn where_there_is_nothing_is_told_from_where_nobody_knows() {
        for (zone, why) in [
            (&[][..], "Unknown"),
            (&["_sip._udp.a.net SRV 0 0 0 .", "a.net A 192.0.2.9"], "Unknown"),
            (&["_sip._udp.a.net SRV 0 0 5060 gone.net", "a.net A 192.0.2.9"], "Unknown"),
            (&["_sip._udp.a.net SRV ?", "a.net A 192.0.2.9"], "Unanswered"),
            (&["a.net A ?"], "Unanswered"),
            (
                &[
                    "_sip._udp.a.net SRV 0 0 1 h1.net",
                    "_sip._udp.a.net SRV 1 0 1 h2.net",
                    "h2.net A ?",
                ],
                "Unanswered",
            ),
        ] {
            assert_eq!(located(zone, By::Naptr), why, "{zone:?}");
        }
        // One of them is enough.
        let zone = [
            "_sip._udp.a.net SRV 0 0 1 h1.net",
            "_sip._udp.a.net SRV 1 0 2 h2.net",
            "h1.net A ?",
            "h2.net A 192.0.2.2",
        ];
        assert_eq!(located(&zone, By::Naptr), "192.0.2.2:2");
    }

    #[test]
    fn there_is_an_end_to_servers() {
        let mut zone = vec![];
        for n in 0..100 {
            zone.push(&*format!("_sip._udp.a.net SRV {n} 0 5060 h{n}.net").leak());
            zone.push(&*format!("h{n}.net A 192.0.2.{n}").leak());
        }
        let shown = located(&zone, By::Srv);
        assert_eq!(shown.split(' ').count(), MAX_SERVERS);
        assert!(shown.starts_with("192.0.2.0:5060 192.0.2.1:5060 "), "{shown}");
    }

    #[test]
    fn servers_are_in_the_order_of_their_priority_and_by_chance_in_that_of_their_weight() {
        let dice = Dice::new();
        let servers: Vec<Srv> =
            ["20 0 1 last", "10 30 1 often", "10 10 1 seldom", "10 0 1 hardly", "0 0 1 first"]
                .map(srv)
                .into();
        let mut second: HashMap<Box<str>, u32> = HashMap::new();
        const TIMES: u32 = 10_000;
        for _ in 0..TIMES {
            let ordered = in_order(servers.clone(), &dice);
            assert_eq!(ordered.len(), 5);
            assert_eq!((&*ordered[0].target, &*ordered[4].target), ("first", "last"));
            *second.entry(ordered[1].target.clone()).or_default() += 1;
        }
        // 30, 10 and 1 of 41; four deviations of 10,000 throws are 2 %.
        for (who, share) in [("often", 30), ("seldom", 10), ("hardly", 1)] {
            let (seen, expected) = (second[who], TIMES * share / 41);
            assert!(seen.abs_diff(expected) < 200, "{who}: {seen}, not {expected}");
        }
    }
}
