//! One running registrar, as its control plane sees it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use crossbeam::channel::{Sender, bounded};
use mio::Waker;

use super::status::{Check, ListenerStatus};
use crate::{
    auth::{Authenticator, NonceKeys},
    backend::{
        self, BackEnds, Files, Loaded, Status,
        engine::{EngineAnswer, EngineQuestion},
        regfile::{General, Regfile},
    },
    calls::CallBook,
    config::{
        Accepted, Refused,
        extmodule::Extmodule,
        register::Register,
        resolve::{Host, Overrides},
        settings::Config,
    },
    durability::{Journal, Progress, Request, Restored, SnapshotStatus, Taken},
    location::{Cause, Entry, Location, Recorder, Unrecorded},
    registrar::{AorRecord, Domains, RecordWriter},
    time::{Clock, Now, SystemClock},
    worker::{AllCounters, Rules, SharedRules, parking::Questions},
};

/// Everything that the parts of the control plane share: the admin API asks it, signals tell it.
#[derive(Debug)]
pub struct Node {
    /// Where phones are.
    pub location: Arc<Location>,
    /// What workers go by.
    pub rules: SharedRules,
    /// What workers count.
    pub counters: Arc<AllCounters>,
    /// Calls in progress.
    pub calls: Arc<CallBook>,
    /// The clock of this process.
    pub clock: Arc<SystemClock>,
    /// The listeners.
    pub listeners: Box<[ListenerStatus]>,
    /// How snapshots go.
    pub snapshots: Arc<SnapshotStatus>,
    /// What changes are written to; `None` with `durability=snapshot`.
    pub journal: Option<Arc<Journal>>,
    /// How far what was saved is read.
    pub restoring: Arc<Progress>,
    /// How the back ends do.
    pub backends: Arc<Status>,
    /// What workers ask them.
    pub questions: Questions,
    /// What came back at the start, once it is.
    pub restored: OnceLock<Restored>,
    pub(super) started: Now,
    pub(super) expired: AtomicU64,
    /// What it was started with: settings that need a restart are still these.
    pub(super) running: Config,
    pub(super) config: ArcSwap<Config>,
    pub(super) source: Source,
    pub(super) keys: NonceKeys,
    pub(super) snapshotter: Mutex<Option<Sender<Request>>>,
    /// The back ends' thread, until it is stopped.
    pub(super) asked: Mutex<Option<BackEnds>>,
    /// What they were set up with.
    pub(super) register: Mutex<(General, Files)>,
    pub(super) wakers: Box<[Arc<Waker>]>,
    pub(super) stopping: AtomicBool,
    /// One reload at a time.
    pub(super) reloading: Mutex<()>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) folder: PathBuf,
    pub(super) overrides: Overrides,
    pub(super) host: Host,
}

impl Source {
    /// Reads every file; nothing is taken unless all of them are valid.
    pub(super) fn load(&self) -> Result<Accepted<Loaded>, Refused> {
        backend::load(&self.folder, &self.overrides, &self.host)
    }
}

/// The rules that the files come to.
pub(super) fn rules(
    config: &Config,
    regfile: Regfile,
    register: Option<&Register>,
    scripts: Option<&Extmodule>,
    keys: &NonceKeys,
) -> Result<Rules, ReloadError> {
    Ok(Rules {
        elsewhere: backend::elsewhere(config, &regfile, register, scripts),
        domains: Domains::new(config.general.domains.iter().map(AsRef::as_ref)),
        registrar: config.registrar.clone(),
        authenticator: Authenticator::new(config.auth.clone(), keys.clone())?,
        subscribers: regfile.subscribers,
        autocreate: regfile.general.autocreate,
        server: config.general.useragent.clone(),
        limits: config.limits.clone(),
        calls: config.calls.policy.clone(),
    })
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Accounts.
    pub users: u64,
    /// Bindings that went because their account did.
    pub removed: u64,
    /// What the operator should hear about.
    pub warnings: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something in the files.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The challenges.
    #[error("{0}")]
    Auth(#[from] crate::auth::authenticator::PolicyError),
}

/// What can't be written can't be changed: `on_disk_error=refuse` stands for it.
#[derive(Debug, thiserror::Error)]
#[error("the change can't be saved: {0}")]
pub struct NotSaved(String);

/// How much [`Node::remove`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Bindings that went.
    pub removed: u64,
    /// Bindings that are left.
    pub left: u64,
}

impl Node {
    /// The settings in force. Those that need a restart are what they were at the start.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// When the process began.
    pub fn started(&self) -> Now {
        self.started
    }

    /// Bindings that ended by themselves, since the start.
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Reads all files again and swaps them in, or leaves everything as it was.
    ///
    /// Workers take the new rules with their next datagram; they never wait. Bindings of accounts
    /// that are gone go.
    ///
    /// # Errors
    /// What is wrong with the files; nothing has changed then.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.try_reload().inspect_err(|error| {
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            tracing::error!("nothing was reloaded");
        })
    }

    fn try_reload(&self) -> Result<Reloaded, ReloadError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let Accepted { value, warnings, .. } = self.source.load()?;
        let Loaded { config, regfile, register, cdrfile, scripts } = value;
        let general = regfile.general.clone();
        let mut rules = rules(&config, regfile, register.as_ref(), scripts.as_ref(), &self.keys)?;
        let old = self.config();
        let written = (general, Files { register, cdrfile, scripts });
        let mut running = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = *running == written
            && (&old.cache, &old.backend, &old.auth)
                == (&config.cache, &config.backend, &config.auth)
            && (old.calls.cdr, &old.calls.dns) == (config.calls.cdr, &config.calls.dns)
            && old.hooks == config.hooks
            && old.general.domains == config.general.domains;
        let setup = (!is_same).then(|| {
            let (general, files) = &written;
            backend::setup(&config, general, files.clone())
        });
        if let Some(new) = &mut rules.elsewhere.scripts
            && let Some(old) = &self.rules.load().elsewhere.scripts
        {
            new.installed = Arc::clone(&old.installed);
        }
        if is_same && let Some(fetched) = self.rules.load().elsewhere.fetched.clone() {
            // Everybody is asked for again, and who can't be goes on.
            fetched.age(self.clock.now());
            rules.elsewhere.fetched = Some(fetched);
        }
        *running = written;
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        warnings.extend(self.running.needs_restart(&config));
        let users = rules.subscribers.len() as u64;

        self.location.set_max_bindings(config.registrar.max_bindings);
        self.location.set_max_contacts(config.registrar.max_contacts);
        self.config.store(Arc::new(config));
        let old = self.rules.swap(Arc::new(rules));
        if let Some(backends) = &*self.asked.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(setup) = setup
        {
            backends.reload(setup);
        }
        let removed = self.remove_orphans();
        self.wake_workers();
        retire(old);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(users, removed, "reloaded");
        Ok(Reloaded { users, removed, warnings })
    }

    /// Has every worker look around: at new rules, or at the order to stop.
    pub(super) fn wake_workers(&self) {
        for waker in &self.wakers {
            if let Err(error) = waker.wake() {
                tracing::error!(%error, "can't wake a worker");
            }
        }
    }

    /// Removes the bindings of AoRs that no longer have an account.
    pub(super) fn remove_orphans(&self) -> u64 {
        let rules = self.rules.load_full();
        let when = (self.clock.now(), Cause::Removed);
        let mut removed = 0;
        let mut orphans: Vec<Box<[u8]>> = Vec::new();
        for part in 0..Location::PARTS {
            self.location.scan(part, None, |_, record| {
                if !rules.has_account(record.aor()) {
                    orphans.push(record.aor().into());
                }
                true
            });
            // Written, and synced, together: there may be a million of them.
            self.change(|journal| {
                for aor in orphans.drain(..) {
                    removed += self.location.update(&aor, when, journal, |entry| {
                        let bindings = entry.record().map_or(0, |r| r.len());
                        entry.remove();
                        bindings as u64
                    });
                    journal.flush();
                }
            });
        }
        removed
    }

    /// Removes the bindings of `aor` that `which` says, and keeps what its nonces were used for.
    /// `None` if the AoR has no binding.
    ///
    /// # Errors
    /// It can't be saved, and `on_disk_error=refuse`. If the disk failed only now, the bindings are
    /// gone, but may be back after a restart.
    pub fn remove(
        &self,
        aor: &[u8],
        which: impl Fn(u64) -> bool,
    ) -> Result<Option<Pruned>, NotSaved> {
        self.is_saving()?;
        let now = self.clock.now();
        let change = |entry: &mut Entry<'_>| {
            let record = entry.record()?;
            let before = record.bindings(now).count() as u64;
            if before == 0 {
                return None;
            }
            let mut packed = Vec::new();
            let mut left = 0;
            let mut writer = RecordWriter::new(&mut packed, record.aor(), record.nonces())?;
            for binding in record.bindings(now).filter(|b| !which(b.id())) {
                writer.push(&binding)?;
                left += 1;
            }
            writer.finish();
            // Fewer bindings never exceed a bound.
            entry.commit(&packed).ok()?;
            Some(Pruned { removed: before - left, left })
        };
        let when = (now, Cause::Removed);
        let pruned = self.change(|journal| self.location.update(aor, when, journal, change));
        self.is_saving()?;
        Ok(pruned)
    }

    /// Asks external modules what an operator asks; `None` if there is nobody who could.
    pub fn ask_modules(
        &self,
        question: EngineQuestion,
    ) -> Option<tokio::sync::oneshot::Receiver<EngineAnswer>> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.as_ref().map(|backends| backends.ask(question))
    }

    /// Forgets what back ends told of a user, or of all: they are asked again. `false` if nothing
    /// of the kind is kept.
    pub fn forget(&self, username: Option<&[u8]>) -> bool {
        let rules = self.rules.load();
        let Some(cache) = &rules.elsewhere.fetched else { return false };
        match username {
            Some(username) => cache.forget(username),
            None => cache.clear(),
        }
        true
    }

    /// An error while changes are to be refused because the journal can't be written.
    fn is_saving(&self) -> Result<(), NotSaved> {
        let refusal = self.journal.as_ref().and_then(|journal| journal.refusal());
        refusal.map_or(Ok(()), |fault| Err(NotSaved(fault)))
    }

    /// Makes changes that no REGISTER asks for; when this returns, they are as safe as those of an
    /// answered one.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut dyn Recorder) -> R) -> R {
        match &self.journal {
            Some(journal) => journal.change(change),
            None => change(&mut Unrecorded),
        }
    }

    /// Writes a snapshot now and waits for it.
    ///
    /// # Errors
    /// Why it was not written.
    pub fn snapshot(&self) -> Result<Taken, String> {
        let (reply, answer) = bounded(1);
        let sender = self.snapshotter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stopping = || "the server is stopping".to_owned();
        sender.ok_or_else(stopping)?.send(reply).map_err(|_| stopping())?;
        answer.recv().map_err(|_| stopping())?
    }

    /// Has a snapshot written soon, without waiting for it.
    pub(super) fn ask_for_snapshot(&self) {
        let sender = self.snapshotter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (reply, _) = bounded(1);
        // One that is about to be written will do as well.
        let _ = sender.map(|sender| sender.try_send(reply));
    }

    /// What being ready takes, each with what is missing.
    pub fn checks(&self) -> Vec<Check> {
        let stopping = self.stopping.load(Ordering::Relaxed);
        let restoring = self.location.is_loading().then(|| {
            let (done, total) = self.restoring.octets();
            format!("restoring registrations: {done} of {total} octets read")
        });
        vec![
            Check { name: "running", reason: stopping.then(|| "stopping".to_owned()) },
            Check { name: "restored", reason: restoring },
            Check { name: "journal", reason: self.journal.as_ref().and_then(|j| j.fault()) },
            Check { name: "snapshot", reason: self.snapshots.error() },
            Check { name: "backends", reason: self.backends.reason() },
        ]
    }

    /// Ends what is past its deadline; called once a second.
    pub(super) fn tick(&self) {
        let stepped = self.clock.adjust();
        if stepped != 0 {
            tracing::warn!(seconds = stepped, "the wall clock was set; bindings last as granted");
            // What is on disk goes by the clock that was.
            self.ask_for_snapshot();
        }
        self.calls.tick(self.clock.now());
        if self.location.is_loading() {
            // What looks ended may yet turn out to last.
            return;
        }
        let now = self.clock.now();
        let is_spent = |record: &AorRecord<'_>| self.is_spent(now, record);
        let expired = self.change(|journal| self.location.sweep(now, journal, is_spent));
        self.expired.fetch_add(expired, Ordering::Relaxed);
        if expired > 0 {
            tracing::debug!(expired, "bindings expired");
        }
    }

    /// Whether a record without bindings has nothing left to protect.
    fn is_spent(&self, now: Now, record: &AorRecord<'_>) -> bool {
        let lifetime = self.rules.load().authenticator.policy().nonce_lifetime;
        let mut counts = crate::auth::NonceCounts::decode(record.nonces()).unwrap_or_default();
        counts.prune(now, lifetime);
        counts.is_empty()
    }
}

/// Drops old rules in this thread once no worker holds them: a worker that freed a million
/// accounts would stand still for it.
fn retire(old: Arc<Rules>) {
    /// Workers were woken; one that takes two seconds has worse to worry about.
    const ROUNDS: u32 = 100;
    let (_sender, never) = bounded::<()>(0);
    for _ in 0..ROUNDS {
        if Arc::strong_count(&old) == 1 {
            return;
        }
        let _ = never.recv_timeout(std::time::Duration::from_millis(20));
    }
}
