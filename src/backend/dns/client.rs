//! The records that name servers have, by way of hickory-resolver: it asks several servers, over TCP
//! what UDP cuts short, and keeps what it learns for as long as its TTL says (RFC 1035, RFC 2308).

use std::{
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ServerOrderingStrategy},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};
use tokio::time::Instant;

use super::locate::{Missing, Naptr, Records, Srv};
use crate::{backend::status::Status, config::settings::Dns};

/// Answers that are kept, those that there is nothing included: some hundred octets each.
const MAX_KEPT: u64 = 8192;
/// For how long at most, whatever the TTL says.
const LONGEST_KEPT: Duration = Duration::from_secs(86_400);
/// The same for the answer that there is nothing: who moves in should be reachable soon.
const LONGEST_MISSED: Duration = Duration::from_secs(300);
/// Questions under way to one server over one connection.
const MAX_QUESTIONS: usize = 4096;
/// How often a question is asked within the time that there is. Who has not answered the first time
/// comes after the others the next.
const ATTEMPTS: u32 = 3;
/// Servers that are asked side by side, so that dead ones cost nothing while one of them answers: as
/// many as `/etc/resolv.conf` may have. One after the other they would each cost an attempt, since
/// the resolver gives all servers of one attempt no more time than the first.
const AT_ONCE: usize = 3;

/// Once addresses of one family are known, those of the other are waited for no longer than this: a
/// name server may be silent about a type that it doesn't know (RFC 4074 §4.1).
const OTHER_FAMILY: Duration = Duration::from_millis(300);

/// The name of all name servers in metrics.
const BACKEND: &str = "dns";

/// What a look-up finds.
type Found = Result<Vec<RData>, Missing>;

/// A client of name servers.
#[derive(Debug)]
pub(super) struct Client {
    resolver: TokioResolver,
    /// For the first of several questions that follow each other.
    share: Duration,
    status: Arc<Status>,
}

impl Client {
    /// A client of the servers of the settings, or of those of `/etc/resolv.conf`.
    pub(super) fn new(dns: &Dns, status: Arc<Status>) -> Result<Self, NetError> {
        let mut builder = if dns.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = dns.servers.iter().map(|server| name_server(*server)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        let share = Duration::from_secs(dns.timeout.0.into()) / ATTEMPTS;
        options.timeout = share;
        options.attempts = ATTEMPTS as usize - 1;
        options.cache_size = MAX_KEPT;
        options.positive_max_ttl = Some(LONGEST_KEPT);
        options.negative_max_ttl = Some(LONGEST_MISSED);
        options.max_active_requests = MAX_QUESTIONS;
        options.try_tcp_on_error = true;
        options.num_concurrent_reqs = AT_ONCE;
        // Those first that answer, and fast, whatever the order in which they are written.
        options.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
        Ok(Self { resolver: builder.build()?, share, status })
    }

    async fn look_up(&self, name: &str, kind: RecordType) -> Found {
        let mut name = Name::from_ascii(name).map_err(|_| Missing::None)?;
        // Never one of the own network's search list.
        name.set_fqdn(true);
        let begun = Instant::now();
        let answer = self.resolver.lookup(name, kind).await;
        self.status.took_for(BACKEND, label(kind), begun.elapsed());
        match answer {
            Ok(lookup) => Ok(lookup.answers().iter().map(|record| record.data.clone()).collect()),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(Missing::None),
            Err(error) => {
                tracing::debug!(%error, %kind, "no answer of a name server");
                Err(Missing::Unanswered)
            }
        }
    }
}

/// What two look-ups find; where one has found an address, the other has little time left.
async fn both(
    one: impl Future<Output = Found>,
    other: impl Future<Output = Found>,
) -> (Found, Found) {
    let rest = async |first: &Found, rest: Pin<&mut dyn Future<Output = Found>>| {
        let mut first = first.iter().flatten();
        if first.any(|record| record.ip_addr().is_some()) {
            let rest = tokio::time::timeout(OTHER_FAMILY, rest).await;
            rest.unwrap_or(Err(Missing::Unanswered))
        } else {
            rest.await
        }
    };
    let (mut one, mut other) = (pin!(one), pin!(other));
    tokio::select! {
        found = &mut one => { let rest = rest(&found, other).await; (found, rest) }
        found = &mut other => { let rest = rest(&found, one).await; (rest, found) }
    }
}

/// What records of this type are called in metrics.
fn label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::NAPTR => "naptr",
        RecordType::SRV => "srv",
        RecordType::AAAA => "aaaa",
        _ => "a",
    }
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    (udp.port, tcp.port) = (server.port(), server.port());
    NameServerConfig::new(server.ip(), true, vec![udp, tcp])
}

/// A name as text, without the dot at its end; empty for the root.
fn text(name: &Name) -> Box<str> {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).into()
}

fn found<T>(found: Vec<T>) -> Result<Vec<T>, Missing> {
    if found.is_empty() { Err(Missing::None) } else { Ok(found) }
}

impl Records for Client {
    async fn naptr(&self, name: &str) -> Result<Vec<Naptr>, Missing> {
        // Few domains have any, and who is silent about them may tell of others.
        let answer = tokio::time::timeout(self.share, self.look_up(name, RecordType::NAPTR)).await;
        let records = answer.unwrap_or(Err(Missing::Unanswered))?.into_iter();
        found(
            records
                .filter_map(|record| match record {
                    RData::NAPTR(naptr) => Some(Naptr {
                        order: naptr.order,
                        preference: naptr.preference,
                        flags: naptr.flags,
                        service: naptr.services,
                        has_regexp: !naptr.regexp.is_empty(),
                        replacement: text(&naptr.replacement),
                    }),
                    _ => None,
                })
                .collect(),
        )
    }

    async fn srv(&self, name: &str) -> Result<Vec<Srv>, Missing> {
        let records = self.look_up(name, RecordType::SRV).await?.into_iter();
        found(
            records
                .filter_map(|record| match record {
                    RData::SRV(srv) => Some(Srv {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        target: text(&srv.target),
                    }),
                    _ => None,
                })
                .collect(),
        )
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Missing> {
        let [six, four] = [RecordType::AAAA, RecordType::A].map(|kind| self.look_up(name, kind));
        let (six, four) = both(six, four).await;
        let is_unanswered = [&six, &four].into_iter().any(|r| *r == Err(Missing::Unanswered));
        let records = six.unwrap_or_default().into_iter().chain(four.unwrap_or_default());
        let addresses: Vec<IpAddr> =
            records.filter_map(|record| record.ip_addr().map(|ip| ip.to_canonical())).collect();
        if addresses.is_empty() && is_unanswered {
            return Err(Missing::Unanswered);
        }
        found(addresses)
    }
}
