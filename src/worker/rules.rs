//! What a worker goes by: all that a reload replaces, in one piece.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use arc_swap::{ArcSwap, Cache};

use crate::{
    auth::Authenticator,
    proxy,
    registrar::{self, Domains},
    sip::Limits,
    subscribers::{FetchedCache, Subscribers, split_name},
};

/// Everything a request is judged by but the bindings.
///
/// # Reload
/// A reload builds new rules and swaps them in whole, or not at all; the next datagram of each
/// worker goes by them.
#[derive(Debug)]
pub struct Rules {
    /// The domains we are responsible for.
    pub domains: Domains,
    /// What may be granted.
    pub registrar: registrar::Policy,
    /// How users prove who they are.
    pub authenticator: Authenticator,
    /// Who they are.
    pub subscribers: Subscribers,
    /// Who is asked besides them.
    pub elsewhere: Elsewhere,
    /// Whether anybody may register who has no account (`autocreate`).
    pub autocreate: bool,
    /// The Server header.
    pub server: Option<Box<str>>,
    /// What a message may hold.
    pub limits: Limits,
    /// Who may call, and how.
    pub calls: proxy::Policy,
}

impl Rules {
    /// Whether an AoR may have bindings at all: it has an account, or needs none, or who knows.
    pub fn has_account(&self, aor: &[u8]) -> bool {
        if self.elsewhere.knows_users() {
            return true;
        }
        let (user, domain) = match split_name(aor).filter(|_| !self.domains.is_flat()) {
            Some((user, domain)) => (user, domain),
            None => (aor, &b""[..]),
        };
        self.autocreate || self.subscribers.exists(user, domain)
    }

    /// Whether an AoR is that of somebody who could be called, bound or not: it has an account, is a
    /// number of one, or is one that nobody but a back end can know.
    pub(super) fn has_user(&self, aor: &[u8]) -> bool {
        let elsewhere = &self.elsewhere;
        // Without digests, who registers is a user; else, who is known.
        let is_bound_by_others =
            !self.registrar.auth_required && elsewhere.asks_register() != AskRegister::Never;
        if elsewhere.asks_auth() != AskAuth::Never || is_bound_by_others {
            return true;
        }
        let (user, domain) = match split_name(aor).filter(|_| !self.domains.is_flat()) {
            Some((user, domain)) => (user, domain),
            None => (aor, &b""[..]),
        };
        self.subscribers.exists(user, domain) || self.subscribers.owners(user).next().is_some()
    }

    /// The AoR that a section of a saved file means. Yate saves under the user part alone, which
    /// is also how a flat namespace does; with one domain there is no doubt which it is.
    pub fn aor_of_section<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        let mut names = self.domains.names();
        match (names.next(), names.next()) {
            (Some(domain), None) if !name.contains(&b'@') => {
                Cow::Owned([name, b"@", domain.as_bytes()].concat())
            }
            _ => Cow::Borrowed(name),
        }
    }
}

/// Who is asked besides `regfile.conf`: back ends, which a worker can't wait for.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Whether and when one is asked who a user is.
    pub auth: AskAuth,
    /// Whether and when one is asked whether contacts may be bound.
    pub register: AskRegister,
    /// Whether one is asked where requests go (`call.preroute`, `call.route`). If not, the accounts
    /// of `regfile.conf` say all that there is to say ([`crate::subscribers::route`]).
    pub route: bool,
    /// What they said of users.
    pub fetched: Option<Arc<FetchedCache>>,
    /// What scripts ask for, if there may be any.
    pub scripts: Option<Scripts>,
}

/// Scripts, as far as workers are concerned.
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    /// What they have installed.
    pub installed: Arc<Installed>,
    /// When they are asked whether contacts may be bound, if one has installed `user.register`.
    pub register: AskRegister,
}

/// What scripts have installed. It changes while the rules stay, and outlives them.
#[derive(Debug, Default)]
pub struct Installed {
    auth: AtomicU8,
    register: AtomicBool,
    failures: AtomicBool,
}

impl Installed {
    /// Takes note of what scripts have installed now.
    pub fn set(&self, auth: AskAuth, register: bool, failures: bool) {
        self.auth.store(auth as u8, Ordering::Relaxed);
        self.register.store(register, Ordering::Relaxed);
        self.failures.store(failures, Ordering::Relaxed);
    }

    fn auth(&self) -> AskAuth {
        let number = self.auth.load(Ordering::Relaxed);
        let all = [AskAuth::BeforeListed, AskAuth::AfterListed];
        all.into_iter().find(|auth| *auth as u8 == number).unwrap_or_default()
    }
}

/// When a back end is asked who a user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskAuth {
    /// Never.
    #[default]
    Never,
    /// If `regfile.conf` knows nothing of the user.
    AfterListed,
    /// Before `regfile.conf`: the priority of its handler is lower.
    BeforeListed,
}

/// When a back end is asked whether contacts may be bound (`[backend] register_wait`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskRegister {
    /// Before any is bound, or bound again.
    Always,
    /// Before one is bound that was not; it learns of the others later.
    New,
    /// Never: it only learns of them later.
    Later,
    /// There is none.
    #[default]
    Never,
}

impl Elsewhere {
    /// Whether there may be users that `regfile.conf` doesn't list.
    pub fn knows_users(&self) -> bool {
        // Also while no script has installed anything: one that restarts takes nobody along.
        let has_others = self.auth != AskAuth::Never || self.register != AskRegister::Never;
        has_others || self.scripts.is_some()
    }

    /// When a back end is asked who a user is, at this moment.
    pub fn asks_auth(&self) -> AskAuth {
        let installed = self.scripts.as_ref().map(|scripts| scripts.installed.auth());
        self.auth.max(installed.unwrap_or_default())
    }

    /// Whether anybody wants to hear of wrong passwords, at this moment.
    pub fn tells_failures(&self) -> bool {
        let scripts = self.scripts.as_ref();
        scripts.is_some_and(|scripts| scripts.installed.failures.load(Ordering::Relaxed))
    }

    /// When a back end is asked whether contacts may be bound, at this moment.
    pub fn asks_register(&self) -> AskRegister {
        match &self.scripts {
            Some(Scripts { installed, register }) if self.register == AskRegister::Never => {
                let is_installed = installed.register.load(Ordering::Relaxed);
                if is_installed { *register } else { AskRegister::Never }
            }
            _ => self.register,
        }
    }
}

/// The rules in force, shared by all threads.
pub type SharedRules = Arc<ArcSwap<Rules>>;

/// A worker's view of the rules in force: one load to see that they are still the same.
pub(super) type RulesCache = Cache<SharedRules, Arc<Rules>>;
