//! What the program runs on: `bindery.conf` once resolved, valid by construction.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::hooks::Hook;
use crate::auth;
use crate::backend::chain::OnError;
use crate::config::bounds::DNS_TIMEOUT;
use crate::flow::Transport;
use crate::proxy::{self, Foreign, Mode};
use crate::registrar::{self, policy::CseqOrder, policy::OnLimit};
use crate::sip::Limits;
use crate::subscribers::Lifetimes;
use crate::time::DeltaSeconds;
use crate::worker::AskRegister;

/// All settings. It prints as the `bindery.conf` that would give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[general]`.
    pub general: General,
    /// `[listener NAME]`, in the order of the file; the position is the [`crate::flow::ListenerId`].
    pub listeners: Box<[Listener]>,
    /// `[registrar]`.
    pub registrar: registrar::policy::Policy,
    /// `[auth]`, with the realm of `[general]`.
    pub auth: auth::policy::Policy,
    /// `[auth] secret_file`: the key of the nonces, where several nodes share it. `None` keeps one
    /// in the state folder.
    pub secret_file: Option<PathBuf>,
    /// `[persist]`.
    pub persist: Persist,
    /// `[cache]`.
    pub cache: Cache,
    /// `[backend]`.
    pub backend: BackEnd,
    /// `[calls]`, with the modes of `[domain NAME]`.
    pub calls: Calls,
    /// `[admin]`; `None` with `enable=no`.
    pub admin: Option<Admin>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[hook NAME]`, in the order of the file.
    pub hooks: Box<[Hook]>,
    /// `--state`: where snapshots, the nonce key and the admin token are kept.
    pub state: PathBuf,
}

/// `[general]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct General {
    /// Our domains in lower case. None means one flat namespace: the user part alone is the key
    /// and any domain is accepted.
    pub domains: Box<[Box<str>]>,
    /// How many workers run; at least one.
    pub workers: u16,
    /// Whether each worker stays on one CPU.
    pub pin: bool,
    /// The value of the `Server` header; `None` sends none.
    pub useragent: Option<Box<str>>,
}

/// `[listener NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, for logs and metrics.
    pub name: Box<str>,
    /// The transport; only UDP so far.
    pub transport: Transport,
    /// Where it listens. Port zero takes any free one.
    pub addr: SocketAddr,
    /// SO_RCVBUF in octets; `None` leaves the kernel's default.
    pub buffer: Option<u32>,
    /// Octets of the largest datagram taken.
    pub maxpkt: u16,
}

/// `[persist]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// What a crash may take.
    pub durability: Durability,
    /// What happens to registrations that can't be saved.
    pub on_disk_error: OnDiskError,
    /// The time between two snapshots; never zero.
    pub snapshot_interval: DeltaSeconds,
    /// How much of a snapshot is written in a second, in MiB; zero sets no bound.
    pub snapshot_rate: u32,
    /// How many older snapshots stay beside the newest.
    pub keep: u16,
}

/// What happens to registrations while they can't be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDiskError {
    /// They are taken all the same, and are in memory only.
    Serve,
    /// They are turned away with 503.
    Refuse,
}

/// What a crash may take of the bindings that were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing, even if the power fails.
    Sync,
    /// Nothing if the process is killed; a second's if the power fails.
    Journal,
    /// Those since the last snapshot.
    Snapshot,
}

/// `[cache]`: accounts that back ends were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// How long they count.
    pub lifetimes: Lifetimes,
    /// How many there are room for.
    pub size: u32,
    /// The query that gives all of them at the start, with columns as that of `[user.auth]` has and
    /// one called `username`.
    pub preload: Option<Box<str>>,
}

/// `[backend]`: databases and scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackEnd {
    /// Which registrations wait for `user.register`.
    pub register_wait: AskRegister,
    /// How many requests may wait, and how many AoRs may be yet to be told of.
    pub queue: u32,
    /// What happens when one can't say.
    pub on_error: OnError,
    /// Whether a request without credentials is asked about, as Yate does.
    pub auth_without_username: bool,
    /// Whether an empty password lets anybody in, as it does in Yate.
    pub allow_empty_password: bool,
}

/// `[calls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Who may call, how long, and how.
    pub policy: proxy::Policy,
    /// What a call leaves records of.
    pub cdr: Records,
    /// How names of other domains are looked up.
    pub dns: Dns,
}

/// How names of other domains are looked up (`[calls] dns`, `dns_timeout`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; none means those of the system's `resolv.conf`.
    pub servers: Box<[SocketAddr]>,
    /// How long a request may wait for all look-ups of one name.
    pub timeout: DeltaSeconds,
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Box::default(), timeout: DeltaSeconds(DNS_TIMEOUT.default) }
    }
}

/// What a call leaves records of (`[calls] cdr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Records {
    /// The call: its caller's leg.
    #[default]
    Call,
    /// The caller's leg and that of who is called, as in Yate.
    Leg,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where the admin HTTP server listens. Port zero takes any free one.
    pub addr: SocketAddr,
    /// The file with the bearer token.
    pub token_file: PathBuf,
}

impl Config {
    /// What a reload of `new` can't change: one sentence for each setting that needs a restart.
    pub fn needs_restart(&self, new: &Self) -> Vec<String> {
        let (old_general, new_general) = (&self.general, &new.general);
        [
            ("[general] workers", old_general.workers != new_general.workers),
            ("[general] pin", old_general.pin != new_general.pin),
            ("[listener]", self.listeners != new.listeners),
            ("[auth] secret_file", self.secret_file != new.secret_file),
            ("[persist]", self.persist != new.persist),
            ("[backend] queue", self.backend.queue != new.backend.queue),
            ("[admin]", self.admin != new.admin),
        ]
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| format!("{name} has changed; that takes effect with a restart"))
        .collect()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let general = &self.general;
        writeln!(f, "[general]")?;
        writeln!(f, "realm={}", self.auth.realm)?;
        writeln!(f, "domains={}", general.domains.join(","))?;
        writeln!(f, "workers={}", general.workers)?;
        writeln!(f, "pin={}", yes_no(general.pin))?;
        writeln!(f, "useragent={}", general.useragent.as_deref().unwrap_or_default())?;
        for listener in &self.listeners {
            writeln!(f, "\n[listener {}]", listener.name)?;
            writeln!(f, "type={}", listener.transport.name())?;
            write_addr(f, listener.addr)?;
            writeln!(f, "buffer={}", listener.buffer.unwrap_or(0))?;
            writeln!(f, "maxpkt={}", listener.maxpkt)?;
        }
        let registrar = &self.registrar;
        writeln!(f, "\n[registrar]")?;
        writeln!(f, "expires_min={}", registrar.expires_min.0)?;
        writeln!(f, "expires_def={}", registrar.expires_def.0)?;
        writeln!(f, "expires_max={}", registrar.expires_max.0)?;
        writeln!(f, "auth_required={}", yes_no(registrar.auth_required))?;
        writeln!(f, "nat_refresh={}", registrar.nat_refresh.0)?;
        writeln!(f, "max_contacts={}", registrar.max_contacts)?;
        let on_limit = match registrar.on_limit {
            OnLimit::EvictOldest => "evict_oldest",
            OnLimit::Reject => "reject",
        };
        writeln!(f, "on_limit={on_limit}")?;
        let cseq = match registrar.cseq {
            CseqOrder::Lenient => "lenient",
            CseqOrder::Strict => "strict",
        };
        writeln!(f, "cseq={cseq}")?;
        writeln!(f, "max_bindings={}", registrar.max_bindings)?;
        writeln!(f, "\n[auth]")?;
        let algorithms: Vec<&str> =
            self.auth.algorithms.iter().map(|algorithm| algorithm.token()).collect();
        writeln!(f, "algorithms={}", algorithms.join(","))?;
        writeln!(f, "nonce_lifetime={}", self.auth.nonce_lifetime.0)?;
        writeln!(f, "qop={}", if self.auth.qop_auth { "auth" } else { "none" })?;
        if let Some(path) = &self.secret_file {
            writeln!(f, "secret_file={}", path.display())?;
        }
        writeln!(f, "\n[persist]")?;
        let durability = match self.persist.durability {
            Durability::Snapshot => "snapshot",
            Durability::Journal => "journal",
            Durability::Sync => "sync",
        };
        writeln!(f, "durability={durability}")?;
        let on_disk_error = match self.persist.on_disk_error {
            OnDiskError::Serve => "serve",
            OnDiskError::Refuse => "refuse",
        };
        writeln!(f, "on_disk_error={on_disk_error}")?;
        writeln!(f, "snapshot_interval={}", self.persist.snapshot_interval.0)?;
        writeln!(f, "snapshot_rate={}", self.persist.snapshot_rate)?;
        writeln!(f, "keep={}", self.persist.keep)?;
        let Cache { lifetimes, size, preload } = &self.cache;
        writeln!(f, "\n[cache]")?;
        writeln!(f, "lifetime={}", lifetimes.found.0)?;
        writeln!(f, "negative={}", lifetimes.negative.0)?;
        writeln!(f, "stale={}", lifetimes.stale.0)?;
        writeln!(f, "size={size}")?;
        writeln!(f, "preload={}", preload.as_deref().unwrap_or_default())?;
        let backend = &self.backend;
        writeln!(f, "\n[backend]")?;
        let register_wait = match backend.register_wait {
            AskRegister::Always => "always",
            AskRegister::New => "new",
            AskRegister::Later | AskRegister::Never => "never",
        };
        writeln!(f, "register_wait={register_wait}")?;
        writeln!(f, "queue={}", backend.queue)?;
        let on_error = match backend.on_error {
            OnError::Next => "next",
            OnError::Refuse => "refuse",
        };
        writeln!(f, "on_error={on_error}")?;
        writeln!(f, "auth_without_username={}", yes_no(backend.auth_without_username))?;
        writeln!(f, "allow_empty_password={}", yes_no(backend.allow_empty_password))?;
        self.calls.fmt(f)?;
        writeln!(f, "\n[admin]")?;
        match &self.admin {
            None => writeln!(f, "enable=no")?,
            Some(admin) => {
                write_addr(f, admin.addr)?;
                writeln!(f, "token_file={}", admin.token_file.display())?;
            }
        }
        let limits = &self.limits;
        writeln!(f, "\n[limits]")?;
        writeln!(f, "max_headers={}", limits.max_headers)?;
        writeln!(f, "max_uri={}", limits.max_uri)?;
        writeln!(f, "max_call_id={}", limits.max_call_id)?;
        writeln!(f, "max_contacts={}", limits.max_contacts)?;
        writeln!(f, "max_path={}", limits.max_path)?;
        writeln!(f, "max_contact_params={}", limits.max_contact_params)?;
        self.hooks.iter().try_for_each(|hook| hook.fmt(f))
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = |mode| match mode {
            Mode::Proxy => "proxy",
            Mode::Redirect => "redirect",
        };
        let policy = &self.policy;
        let general = if policy.redirect { Mode::Redirect } else { Mode::Proxy };
        writeln!(f, "\n[calls]")?;
        writeln!(f, "enable={}", yes_no(policy.enabled))?;
        writeln!(f, "mode={}", mode(general))?;
        writeln!(f, "ring_timeout={}", policy.ring_timeout.0)?;
        writeln!(f, "dead_call={}", policy.dead_call.0)?;
        writeln!(f, "probe={}\nprobe_by={}", policy.probe.0, policy.probe_by.as_str())?;
        writeln!(f, "max_calls={}", policy.max_calls)?;
        let trusted: Vec<String> = policy.trusted.iter().map(ToString::to_string).collect();
        writeln!(f, "trusted={}", trusted.join(","))?;
        writeln!(f, "check_from={}", yes_no(policy.check_from))?;
        writeln!(f, "accept_foreign={}", yes_no(policy.accept_foreign))?;
        let foreign = match policy.foreign {
            Foreign::Refuse => "refuse",
            Foreign::Dns => "dns",
        };
        writeln!(f, "foreign={foreign}")?;
        writeln!(f, "foreign_deny={}", policy.foreign_deny)?;
        let servers: Vec<String> = self.dns.servers.iter().map(ToString::to_string).collect();
        writeln!(f, "dns={}", servers.join(","))?;
        writeln!(f, "dns_timeout={}", self.dns.timeout.0)?;
        let cdr = match self.cdr {
            Records::Call => "call",
            Records::Leg => "leg",
        };
        writeln!(f, "cdr={cdr}")?;
        for (domain, own) in &policy.modes {
            writeln!(f, "\n[domain {domain}]\nmode={}", mode(*own))?;
        }
        Ok(())
    }
}

fn write_addr(f: &mut fmt::Formatter<'_>, addr: SocketAddr) -> fmt::Result {
    let ip: IpAddr = addr.ip();
    writeln!(f, "addr={ip}\nport={}", addr.port())
}

fn yes_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}
