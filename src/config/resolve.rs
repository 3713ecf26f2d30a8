//! From what was written to what runs: `bindery.conf` and the command line become a [`Config`].

mod calls;
mod listeners;
mod registrar;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use self::listeners::address;
use super::bounds;
use super::conf::{Conf, Section};
use super::hooks;
use super::nearest::{nearest, section_hint};
use super::section::Keys;
use super::settings::{Admin, Config, Durability, General, OnDiskError, Persist};
use super::values::{comma_list, lossy};
use super::{Findings, Place};
use crate::registrar::Domains;

pub use self::listeners::MAX_LISTENERS;

/// The name of the file in the configuration folder.
pub const FILE: &str = "bindery.conf";

/// The file in the state folder that holds the admin token, unless `[admin] token_file` names one.
pub const TOKEN_FILE: &str = "admin.token";

/// Sections of `bindery.conf`, besides `listener NAME`, `domain NAME` and `hook NAME`.
pub(super) const SECTIONS: [&str; 9] =
    ["general", "registrar", "auth", "cache", "backend", "calls", "persist", "admin", "limits"];

/// What the command line says; it goes before the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Listen here instead of on the listeners of bindery.conf; may be repeated
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Serve the admin API here
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
    /// Worker threads; 0 means one for each CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=256))]
    pub workers: Option<u16>,
    /// Users in an SQLite file with the tables that `bindery db init` makes, instead of what
    /// register.conf says
    #[arg(long, value_name = "sqlite:PATH", value_parser = crate::config::databases::sqlite_path)]
    pub db: Option<PathBuf>,
    /// Where bindings and keys are kept [default: ./state]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// What defaults depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The host's name: the realm where there is no domain.
    pub name: String,
    /// How many CPUs may be used.
    pub cpus: u16,
}

impl Host {
    /// This host.
    pub fn probe() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            name: if is_quotable(name) { name } else { "localhost" }.to_owned(),
            cpus: u16::try_from(cpus).unwrap_or(u16::MAX),
        }
    }
}

/// Reads `bindery.conf` of a folder.
///
/// The result is to be used only if `findings` holds no error.
pub fn read(folder: &Path, overrides: &Overrides, host: &Host, findings: &mut Findings) -> Config {
    let path = folder.join(FILE);
    let conf = Conf::read(&path, findings).unwrap_or_else(|| {
        findings
            .warning(Place::of_file(&*path), "there is no such file: all settings are defaults");
        Conf::default()
    });
    resolve(&conf, folder, overrides, host, findings)
}

fn resolve(
    conf: &Conf,
    folder: &Path,
    overrides: &Overrides,
    host: &Host,
    findings: &mut Findings,
) -> Config {
    let state = overrides.state.clone().unwrap_or_else(|| PathBuf::from("./state"));
    refuse_sections(conf, findings);
    let (general, realm) = general(conf, overrides, host, findings);
    let (auth, secret_file) = registrar::auth(conf, folder, realm, findings);
    let calls = calls::calls(conf, &general.domains, findings);
    Config {
        general,
        listeners: listeners::listeners(conf, folder, overrides, findings),
        registrar: registrar::registrar(conf, findings),
        auth,
        secret_file,
        persist: persist(conf, findings),
        cache: registrar::cache(conf, findings),
        backend: registrar::backend(conf, findings),
        calls,
        admin: admin(conf, folder, &state, overrides, findings),
        limits: registrar::limits(conf, findings),
        hooks: hooks::read(conf, folder, |name| named("hook", name).map(Into::into), findings),
        state,
    }
}

/// Notes sections nobody knows.
fn refuse_sections(conf: &Conf, findings: &mut Findings) {
    for Section { name, place, .. } in conf.sections() {
        let name = lossy(name);
        let named = |kind| named(kind, &name).is_some();
        let what = if SECTIONS.contains(&&*name)
            || named("listener")
            || named("domain")
            || named("hook")
        {
            continue;
        } else if name == "listener" {
            "a listener needs a name: [listener NAME]".to_owned()
        } else if name == "domain" {
            "a domain needs a name: [domain NAME]".to_owned()
        } else if name == "hook" {
            "a hook needs a name: [hook NAME]".to_owned()
        } else {
            format!("unknown section [{name}]{}", named_hint(&name))
        };
        findings.error(place.clone(), what);
    }
}

/// [`section_hint`] for sections some of which have a name after their kind.
fn named_hint(section: &str) -> String {
    if let Some((kind, name)) = section.split_once([' ', '\t'])
        && let Some(near) = nearest(kind, ["listener", "domain", "hook"])
    {
        return format!(": did you mean [{near} {}]?", name.trim_start());
    }
    section_hint(section, SECTIONS.into_iter().chain(["listener NAME", "domain NAME", "hook NAME"]))
}

fn keys<'c, 'f>(conf: &'c Conf, name: &str, findings: &'f mut Findings) -> Keys<'c, 'f> {
    Keys::new(name, conf.section(name.as_bytes()), findings)
}

/// `[general]`, and the realm.
fn general(
    conf: &Conf,
    overrides: &Overrides,
    host: &Host,
    findings: &mut Findings,
) -> (General, Box<str>) {
    let mut keys = keys(conf, "general", findings);
    let mut domains: Vec<Box<str>> = Vec::new();
    let written = keys.text("domains").unwrap_or_default();
    for domain in comma_list(written).map(str::to_ascii_lowercase) {
        if !is_domain(&domain) {
            keys.refuse("domains", &format!("host names or addresses, not {domain}"));
        } else if !domains.iter().any(|known| **known == *domain) {
            domains.push(domain.into());
        }
    }
    if domains.len() > Domains::MAX {
        keys.refuse("domains", &format!("at most {} of them", Domains::MAX));
    }
    let realm = match keys.text("realm") {
        Some(realm) if is_quotable(realm) => realm,
        Some(_) => {
            keys.refuse("realm", "text without quotes, backslashes and control characters");
            ""
        }
        None => domains.first().map_or(&*host.name, |domain| domain),
    };
    let realm = realm.into();
    let workers = keys.short("workers", &bounds::WORKERS);
    let workers = match overrides.workers.unwrap_or(workers) {
        0 => host.cpus.clamp(1, u16::try_from(bounds::WORKERS.ceiling).unwrap_or(u16::MAX)),
        workers => workers,
    };
    let pin = keys.flag("pin", true);
    let useragent = keys.text("useragent");
    if useragent.is_some_and(|text| text.contains(char::is_control)) {
        keys.refuse("useragent", "text without control characters");
    }
    keys.finish();
    let useragent = useragent.map(Into::into);
    (General { domains: domains.into(), workers, pin, useragent }, realm)
}

fn persist(conf: &Conf, findings: &mut Findings) -> Persist {
    let mut keys = keys(conf, "persist", findings);
    let durability = [
        ("journal", Durability::Journal),
        ("sync", Durability::Sync),
        ("snapshot", Durability::Snapshot),
    ];
    let on_disk_error = [("serve", OnDiskError::Serve), ("refuse", OnDiskError::Refuse)];
    let persist = Persist {
        durability: keys.word("durability", &durability).unwrap_or(Durability::Journal),
        on_disk_error: keys.word("on_disk_error", &on_disk_error).unwrap_or(OnDiskError::Serve),
        snapshot_interval: keys.seconds("snapshot_interval", &bounds::SNAPSHOT_INTERVAL),
        snapshot_rate: keys.number("snapshot_rate", &bounds::SNAPSHOT_RATE),
        keep: keys.short("keep", &bounds::KEEP),
    };
    keys.finish();
    persist
}

fn admin(
    conf: &Conf,
    folder: &Path,
    state: &Path,
    overrides: &Overrides,
    findings: &mut Findings,
) -> Option<Admin> {
    let mut keys = keys(conf, "admin", findings);
    let enable = keys.flag("enable", true) || overrides.admin.is_some();
    let written = address(&mut keys, Ipv4Addr::LOCALHOST.into(), &bounds::ADMIN_PORT);
    let token_file = keys.text("token_file").map(|path| folder.join(path));
    keys.finish();
    enable.then(|| Admin {
        addr: overrides.admin.unwrap_or(written),
        token_file: token_file.unwrap_or_else(|| state.join(TOKEN_FILE)),
    })
}

/// The NAME of `listener NAME` or `domain NAME`.
fn named<'s>(kind: &str, section: &'s str) -> Option<&'s str> {
    let name = section.strip_prefix(kind)?;
    let trimmed = name.trim_start_matches([' ', '\t']);
    (trimmed.len() < name.len() && !trimmed.is_empty()).then_some(trimmed)
}

/// Whether `text` can be a domain of ours: the characters of host names, addresses and IPv6
/// references (RFC 3261 §25.1 `host`), and the `_` that some networks use.
fn is_domain(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .is_some_and(|text| text.parse::<IpAddr>().is_ok())
        || text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet))
}

/// Whether `text` can stand between quotes as it is: H(A1) covers the realm without escapes, and
/// not every client takes escapes away first.
fn is_quotable(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::policy::Algorithm;
    use crate::config::settings::{Calls, Dns, Records};
    use crate::proxy::{self, Deny, Foreign, Mode, ProbeBy};
    use crate::registrar::policy::{OnLimit, Policy};
    use crate::sip::Limits;
    use crate::time::DeltaSeconds;

    fn host() -> Host {
        Host { name: "box".into(), cpus: 4 }
    }

    fn read_text(text: &str, overrides: &Overrides) -> (Config, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let mut findings = Findings::default();
        let config = read(folder.path(), overrides, &host(), &mut findings);
        let prefix = format!("{}/", folder.path().display());
        let faults = findings.errors.iter().chain(&findings.warnings);
        (config, faults.map(|fault| fault.to_string().replace(&prefix, "")).collect())
    }

    fn accepted(text: &str) -> Config {
        let (config, findings) = read_text(text, &Overrides::default());
        assert_eq!(findings, [""; 0], "{text}");
        config
    }

    const LISTENER: &str = "[listener office]\naddr=192.0.2.1\n";

    #[test]
    fn nothing_written_is_all_defaults() {
        let config = accepted(LISTENER);
        assert_eq!(config.registrar, Policy::default());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.calls, Calls::default());
        assert_eq!(&*config.auth.realm, "box");
        assert_eq!(*config.auth.algorithms, [Algorithm::Md5]);
        assert_eq!(config.general.workers, 4);
        assert_eq!(config.listeners[0].addr, "192.0.2.1:5060".parse().unwrap());
        let admin = config.admin.unwrap();
        assert_eq!(admin.addr, "127.0.0.1:8060".parse().unwrap());
        assert_eq!(admin.token_file, Path::new("./state/admin.token"));
    }

    #[test]
    fn without_a_listener_only_the_loopback_is_served() {
        let (config, findings) = read_text("[listener a]\nenable=no\n", &Overrides::default());
        assert_eq!(config.listeners[0].addr, "127.0.0.1:5060".parse().unwrap());
        assert_eq!(
            findings,
            ["bindery.conf: no [listener NAME]: listening on 127.0.0.1:5060 only"]
        );
    }

    #[test]
    fn what_is_written_is_what_runs() {
        let config = accepted(
            "[general]\ndomains = Example.COM, example.org,example.com\nworkers=2\npin=no\n\
             useragent=Bindery\n[listener a]\naddr=::\nport=5080\nbuffer=8192\nmaxpkt=1500\n\
             [listener b]\naddr=[::1]\n\
             [registrar]\nexpires_min=0x3c\nauth_required=off\non_limit=evict_oldest\ncseq=lenient\n\
             max_bindings=1000000\n[auth]\nalgorithms=md5\nqop=none\nnonce_lifetime=600\n\
             [persist]\ndurability=snapshot\nkeep=0\n[admin]\nenable=no\n[limits]\nmax_uri=1024\n\
             [calls]\nmode=redirect\nring_timeout=30\ndead_call=600\nmax_calls=2\n\
             probe=300\nprobe_by=UPDATE\n\
             trusted=10.0.0.0/8, ::1\ncheck_from=no\naccept_foreign=yes\nforeign=dns\ncdr=leg\n\
             foreign_deny=internal, 192.0.2.0/24\n\
             dns=192.0.2.53,::1, [2001:db8::53]:5353\ndns_timeout=3\n\
             [domain Example.org]\nmode=proxy\n",
        );
        assert_eq!(config.general.domains.join(" "), "example.com example.org");
        assert_eq!(&*config.auth.realm, "example.com");
        assert_eq!(config.listeners[0].addr, "[::]:5080".parse().unwrap());
        assert_eq!(config.listeners[0].buffer, Some(8192));
        assert_eq!(config.listeners[1].addr, "[::1]:5060".parse().unwrap());
        assert_eq!(config.registrar.on_limit, OnLimit::EvictOldest);
        assert_eq!(config.registrar.max_bindings, 1_000_000);
        assert_eq!(*config.auth.algorithms, [Algorithm::Md5]);
        assert!(!config.auth.qop_auth);
        assert_eq!(config.admin, None);
        assert_eq!(config.limits.max_uri, 1024);
        let policy = proxy::Policy {
            enabled: true,
            redirect: true,
            modes: [("example.org".into(), Mode::Proxy)].into(),
            ring_timeout: DeltaSeconds(30),
            dead_call: DeltaSeconds(600),
            probe: DeltaSeconds(300),
            probe_by: ProbeBy::Update,
            max_calls: 2,
            trusted: ["10.0.0.0/8", "::1"].map(|network| network.parse().unwrap()).into(),
            check_from: false,
            accept_foreign: true,
            foreign: Foreign::Dns,
            foreign_deny: Deny {
                internal: true,
                networks: ["192.0.2.0/24".parse().unwrap()].into(),
            },
        };
        let servers = ["192.0.2.53:53", "[::1]:53", "[2001:db8::53]:5353"];
        let servers = servers.map(|server| server.parse().unwrap()).into();
        let dns = Dns { servers, timeout: DeltaSeconds(3) };
        assert_eq!(config.calls, Calls { policy, cdr: Records::Leg, dns });
        // What is printed reads back as the same.
        let (again, findings) = read_text(&config.to_string(), &Overrides::default());
        assert_eq!(findings, [""; 0]);
        assert_eq!(again, config);
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let cases = [
            (
                "[registrar]\nexpires_min=abc",
                "4: [registrar] expires_min=abc: expected seconds from 1 to 3600",
            ),
            (
                "[registrar]\nexpires_max=0",
                "4: [registrar] expires_max=0: expected seconds from 1 to 604800",
            ),
            (
                "[registrar]\nexpires_min=-1",
                "4: [registrar] expires_min=-1: expected seconds from 1 to 3600",
            ),
            (
                "[registrar]\nexpire_min=60",
                "4: [registrar] unknown key expire_min: did you mean expires_min?",
            ),
            ("[registrar]\nzzz=60", "4: [registrar] unknown key zzz"),
            ("[registar]", "3: unknown section [registar]: did you mean [registrar]?"),
            ("[listner lan]", "3: unknown section [listner lan]: did you mean [listener lan]?"),
            ("[domian a.org]", "3: unknown section [domian a.org]: did you mean [domain a.org]?"),
            ("[listner]", "3: unknown section [listner]: did you mean [listener NAME]?"),
            ("[zzz x]", "3: unknown section [zzz x]"),
            ("[limits]\ncall_id=9", "4: [limits] unknown key call_id: did you mean max_call_id?"),
            ("[limits]\nmaxpath=9", "4: [limits] unknown key maxpath: did you mean max_path?"),
            (
                "[registrar]\nexpires_min=900",
                "4: [registrar] expires_min=900: expected at most expires_def (600)",
            ),
            (
                "[registrar]\nexpires_max=300",
                "4: [registrar] expires_max=300: expected at least expires_def (600)",
            ),
            ("[registrar]\nauth_required=1", "4: [registrar] auth_required=1: expected yes or no"),
            (
                "[registrar]\non_limit=evict",
                "4: [registrar] on_limit=evict: expected reject or evict_oldest",
            ),
            (
                "[registrar]\ncseq=strict\ncseq=lenient",
                "5: [registrar] cseq is written twice; first at bindery.conf:4",
            ),
            (
                "[auth]\nalgorithms=SHA256",
                "4: [auth] algorithms=SHA256: expected a comma list of SHA-512-256, SHA-256 and MD5",
            ),
            (
                "[auth]\nalgorithms=MD5,md5",
                "4: [auth] algorithms=MD5,md5: expected each algorithm once",
            ),
            ("[auth]\nqop=auth-int", "4: [auth] qop=auth-int: expected auth or none"),
            ("[listener]", "3: a listener needs a name: [listener NAME]"),
            ("[listener b]\ntype=tcp", "4: [listener b] not supported yet: type=tcp"),
            (
                "[listener b]\ntype=sctp",
                "4: [listener b] type=sctp: expected udp or tcp or tls or ws or wss",
            ),
            (
                "[listener b]\nport=70000",
                "4: [listener b] port=70000: expected a port from 0 to 65535",
            ),
            (
                "[listener b]\naddr=localhost",
                "4: [listener b] addr=localhost: expected an IPv4 or IPv6 address",
            ),
            (
                "[listener b]\nbuffer=100",
                "4: [listener b] buffer=100: expected 0 or octets from 4096",
            ),
            ("[listener b]\nrole=x", "4: [listener b] not supported yet: role=x"),
            (
                "[listener b]\naddr=192.0.2.1",
                "3: [listener b] 192.0.2.1:5060 is the address of the listener at bindery.conf:1",
            ),
            (
                "[persist]\ndurability=disk",
                "4: [persist] durability=disk: expected journal or sync or snapshot",
            ),
            (
                "[persist]\non_disk_error=stop",
                "4: [persist] on_disk_error=stop: expected serve or refuse",
            ),
            ("[domain example.com]", "3: [domain example.com] is not among [general] domains"),
            ("[domain]", "3: a domain needs a name: [domain NAME]"),
            ("[call]", "3: unknown section [call]: did you mean [calls]?"),
            (
                "[general]\ndomains=a.example\n[domain a.example]\nmod=proxy",
                "6: [domain a.example] unknown key mod: did you mean mode?",
            ),
            (
                "[general]\ndomains=a.example\n[domain a.example]\nmax_calls=2",
                "6: [domain a.example] max_calls: not supported here yet, no effect",
            ),
            ("[calls]\nmode=b2bua", "4: [calls] mode=b2bua: expected proxy or redirect"),
            (
                "[calls]\ntrusted=10.0.0.1/8,x",
                "4: [calls] trusted=10.0.0.1/8,x: expected a comma list of addresses and networks \
                 (10.0.0.0/8)",
            ),
            (
                "[calls]\nforeign_deny=inside",
                "4: [calls] foreign_deny=inside: expected internal, none, or a comma list of \
                 internal and networks (10.0.0.0/8)",
            ),
            ("[calls]\nforeign=yes", "4: [calls] foreign=yes: expected refuse or dns"),
            (
                "[calls]\ndns=192.0.2.53,ns.example",
                "4: [calls] dns=192.0.2.53,ns.example: expected a comma list of name servers \
                 (192.0.2.53, [2001:db8::53]:53)",
            ),
            ("[calls]\ndns_timeout=0", "4: [calls] dns_timeout=0: expected seconds from 1 to 30"),
            ("[calls]\ncdr=both", "4: [calls] cdr=both: expected call or leg"),
            ("[calls]\ndead_call=0", "4: [calls] dead_call=0: expected seconds from 60 to 604800"),
            ("[calls]\nprobe=90000", "4: [calls] probe=90000: expected seconds from 0 to 86400"),
            ("[calls]\nprobe=7200", "4: [calls] probe=7200: expected less than dead_call=7200"),
            (
                "[calls]\nprobe=1",
                "4: [calls] probe=1: expected 0, or minutes: it is two requests a call each time",
            ),
            ("[calls]\nprobe_by=info", "4: [calls] probe_by=info: expected OPTIONS or UPDATE"),
            ("[calls]\nmax_call=1", "4: [calls] unknown key max_call: did you mean max_calls?"),
            (
                "[general]\nrealm=my \"realm\"",
                "4: [general] realm=my \"realm\": expected text without quotes, backslashes and \
                 control characters",
            ),
            (
                "[general]\ndomains=a b",
                "4: [general] domains=a b: expected host names or addresses, not a b",
            ),
            ("[limits]\nmax_uri=10", "4: [limits] max_uri=10: expected octets from 64 to 8192"),
            ("[general", "3: `[` without `]`"),
        ];
        for (text, expected) in cases {
            let (_, findings) = read_text(&format!("{LISTENER}{text}\n"), &Overrides::default());
            assert_eq!(findings, [format!("bindery.conf:{expected}")], "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let (_, findings) = read_text(
            &format!("{LISTENER}[registrar]\nexpires_min=x\n[admin]\nport=y\nprot=1\n"),
            &Overrides::default(),
        );
        assert_eq!(findings.len(), 3, "{findings:?}");
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let overrides = Overrides {
            db: None,
            listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:5060".parse().unwrap()],
            admin: Some("127.0.0.1:0".parse().unwrap()),
            workers: Some(1),
            state: Some("/var/lib/bindery".into()),
        };
        let (config, findings) = read_text("[admin]\nenable=no\n", &overrides);
        assert_eq!(findings, [""; 0]);
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.listeners[0].addr, overrides.listen[0]);
        assert_eq!(config.general.workers, 1);
        let admin = config.admin.unwrap();
        assert_eq!(admin.addr.port(), 0);
        assert_eq!(admin.token_file, Path::new("/var/lib/bindery/admin.token"));
    }

    #[test]
    fn a_missing_file_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let mut findings = Findings::default();
        read(folder.path(), &Overrides::default(), &host(), &mut findings);
        assert_eq!(findings.errors, []);
        assert!(
            findings.warnings[0]
                .to_string()
                .ends_with("bindery.conf: there is no such file: all settings are defaults")
        );
    }
}
