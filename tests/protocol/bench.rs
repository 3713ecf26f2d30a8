//! A registrar on the bench: the pure pipeline with a clock that is moved by hand.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use bindery::{
    auth::{Authenticator, NonceCounts, NonceKeys},
    backend,
    config::resolve::{Host, Overrides},
    flow::{Flow, ListenerId, Transport},
    location::{Location, Unrecorded},
    registrar::Domains,
    sip::{Method, REGISTERED_CODES},
    time::{DeltaSeconds, Now},
    worker::{
        Arrived, Counters, DropReason, Elsewhere, Handled, Pipeline, Rules,
        counters::{AuthResult, RegisterResult},
    },
};

use crate::expect::{Answer, Came};

/// 2027-01-15 08:00:00 UTC.
const UNIX: u64 = 1_800_000_000;

/// Settings of every dialogue, unless it sets them otherwise.
const SETTINGS: [(&str, &str); 3] = [
    ("general", "domains=example.com"),
    ("registrar", "auth_required=no"),
    ("auth", "algorithms=SHA-256,MD5"),
];
const USERS: [(&str, &str); 3] =
    [("alice", "password=secret"), ("bob", "password=hunter2"), ("carol", "password=")];

/// A registrar.
pub(crate) struct Bench {
    pipeline: Pipeline,
    location: Arc<Location>,
    nonce_lifetime: DeltaSeconds,
    domains: Vec<String>,
    now: Now,
}

impl Bench {
    /// An empty registrar with the settings that `[section]` and `key=value` pairs say, and the
    /// users; the later of two settings holds.
    pub(crate) fn new(
        settings: &[(String, String)],
        users: &[(String, String)],
    ) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).map_err(|e| e.to_string())
        };
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        let settings: Vec<_> = SETTINGS.iter().map(owned).chain(settings.iter().cloned()).collect();
        let users: Vec<_> = USERS.iter().map(owned).chain(users.iter().cloned()).collect();
        let (regfile, bindery): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(|(section, _)| section == "regfile");
        let regfile = regfile.into_iter().map(|(_, setting)| ("general".to_owned(), setting));
        write("bindery.conf", conf(bindery))?;
        write("regfile.conf", conf(regfile.chain(users).collect()))?;
        let host = Host { name: "registrar.example.net".into(), cpus: 1 };
        let loaded = backend::load(folder.path(), &Overrides::default(), &host)
            .map_err(|refused| refused.to_string())?;
        let (config, regfile) = (loaded.value.config, loaded.value.regfile);

        let now = Now { millis: 1_000_000, unix: UNIX };
        let nonce_lifetime = config.auth.nonce_lifetime;
        let domains = config.general.domains.iter().map(ToString::to_string).collect();
        let location = Arc::new(Location::new([1; 16], config.registrar.max_bindings));
        let rules = Rules {
            domains: Domains::new(config.general.domains.iter().map(AsRef::as_ref)),
            registrar: config.registrar,
            authenticator: Authenticator::new(config.auth, NonceKeys::from_bytes(&[2; 32]))
                .map_err(|e| e.to_string())?,
            subscribers: regfile.subscribers,
            autocreate: regfile.general.autocreate,
            elsewhere: Elsewhere::default(),
            server: config.general.useragent,
            limits: config.limits,
            calls: config.calls.policy,
        };
        let counters = Arc::from(vec![crossbeam::utils::CachePadded::new(Counters::default())]);
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let pipeline = Pipeline::new(Arc::clone(&location), rules, counters, 0, [3; 16]);
        Ok(Self { pipeline, location, nonce_lifetime, domains, now })
    }

    /// The first of our domains.
    pub(crate) fn domain(&self) -> &str {
        self.domains.first().map_or("example.com", String::as_str)
    }

    /// The key of an AoR that may be written without the domain.
    pub(crate) fn aor(&self, aor: &[u8]) -> Vec<u8> {
        if self.domains.is_empty() || aor.contains(&b'@') {
            return aor.to_vec();
        }
        [aor, b"@", self.domain().as_bytes()].concat()
    }

    /// What comes of a datagram.
    pub(crate) fn send(&mut self, source: SocketAddr, bytes: &[u8], truncated: bool) -> Came {
        let mut out = vec![0; 65535];
        let flow = Flow {
            listener: ListenerId(0),
            transport: Transport::Udp,
            local: None,
            remote: source,
        };
        match self.pipeline.handle(self.now, Arrived { bytes, flow, truncated }, &mut out) {
            Handled::Answer { len, to } => Came::Answer(Answer {
                text: String::from_utf8_lossy(&out[..len]).into_owned(),
                to,
                source,
                request: bytes.to_vec(),
            }),
            Handled::Dropped(reason) => Came::Silence(reason.label()),
        }
    }

    /// Lets time go by; once a second what has ended is swept out, unless `swept` is false.
    pub(crate) fn pass(&mut self, millis: u64, swept: bool) {
        let end = self.now.millis + millis;
        while self.now.millis < end {
            let next_second = (self.now.millis / 1000 + 1) * 1000;
            self.now.millis = end.min(next_second);
            self.now.unix = UNIX + (self.now.millis - 1_000_000) / 1000;
            if swept && self.now.millis == next_second {
                let (now, lifetime) = (self.now, self.nonce_lifetime);
                self.location.sweep(now, &mut Unrecorded, |record| {
                    let mut counts = NonceCounts::decode(record.nonces()).unwrap_or_default();
                    counts.prune(now, lifetime);
                    counts.is_empty()
                });
            }
        }
    }

    /// The Date header's value.
    pub(crate) fn date(&self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(self.now.unix))
    }

    /// The bindings in force, as `uri key=value...`.
    pub(crate) fn bindings(&self, aor: &[u8]) -> Vec<(String, Vec<(&'static str, String)>)> {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        self.location.read(aor, |record| {
            let bindings = record.iter().flat_map(|r| r.bindings(self.now));
            bindings
                .map(|b| {
                    let q = b
                        .q
                        .map_or_else(|| "none".into(), |q| format!("{}", f64::from(q.0) / 1000.0));
                    let facts = vec![
                        ("expires", b.deadline.remaining(self.now).0.to_string()),
                        ("q", q),
                        ("params", text(b.params)),
                        ("call-id", text(b.call_id)),
                        ("cseq", b.cseq.to_string()),
                        ("path", text(b.path)),
                        ("agent", text(b.agent)),
                        ("source", b.flow.remote.to_string()),
                    ];
                    (text(b.uri), facts)
                })
                .collect()
        })
    }

    /// What a counter says.
    pub(crate) fn counter(&self, kind: &str, name: &str) -> Result<u64, String> {
        let counters = self.pipeline.counters();
        let unknown = || format!("there is no {kind} {name}");
        match kind {
            "auth" => AuthResult::ALL
                .into_iter()
                .find(|result| result.label() == name)
                .map(|result| counters.auths(result))
                .ok_or_else(unknown),
            "register" => RegisterResult::ALL
                .into_iter()
                .find(|result| result.label() == name)
                .map(|result| counters.registers(result))
                .ok_or_else(unknown),
            "drop" => DropReason::ALL
                .into_iter()
                .find(|reason| reason.label() == name)
                .map(|reason| counters.drops(reason))
                .ok_or_else(unknown),
            "requests" => {
                let method = Method::parse(name.as_bytes()).ordinal();
                Ok(counters.requests(method, Transport::Udp))
            }
            "responses" => {
                let code = REGISTERED_CODES.iter().position(|code| code.to_string() == name);
                let code = code.ok_or_else(|| format!("{name} is no code that is counted"))?;
                let methods = 0..bindery::worker::counters::METHODS;
                Ok(methods.map(|method| counters.responses(method, code)).sum())
            }
            "location" => match name {
                "aors" => Ok(self.location.aors()),
                "bindings" => Ok(self.location.bindings()),
                // Records without bindings included.
                "records" => {
                    let mut records = 0;
                    for part in 0..Location::PARTS {
                        self.location.scan(part, None, |_, _| {
                            records += 1;
                            true
                        });
                    }
                    Ok(records)
                }
                _ => Err(format!("there is no {kind} {name}")),
            },
            _ => Err(format!("there is no counter {kind}")),
        }
    }
}

/// A file of sections in the order they first stand; of two equal keys the later one.
fn conf(settings: Vec<(String, String)>) -> String {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for (section, setting) in settings {
        let keys = match sections.iter_mut().position(|(name, _)| *name == section) {
            Some(at) => &mut sections[at].1,
            None => {
                sections.push((section, Vec::new()));
                &mut sections.last_mut().expect("just pushed").1
            }
        };
        let key = |setting: &str| setting.split('=').next().map(str::to_owned);
        keys.retain(|other| key(other) != key(&setting));
        keys.push(setting);
    }
    let text = |(name, keys): &(String, Vec<String>)| format!("[{name}]\n{}\n", keys.join("\n"));
    sections.iter().map(text).collect()
}
