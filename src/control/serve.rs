//! From a configuration to a running registrar, and to its end.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::ArcSwap;
use crossbeam::{
    channel::{Receiver, RecvTimeoutError, SendError, Sender, bounded, unbounded},
    utils::CachePadded,
};
use persist::{
    error::StorageError,
    snapshot::Generations,
    storage::{Storage, file::FileStorage},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    node::{self, Node, ReloadError, Source},
    restore::Restorer,
    secrets,
    status::ListenerStatus,
};
use crate::{
    admin,
    backend::{self, BackEnds, CallEvents, Files, Inbox, Loaded, SpoolFolder, regfile},
    calls::CallBook,
    config::{
        Accepted,
        resolve::{Host, Overrides},
        settings::{Config, Durability, Listener},
    },
    durability::{
        Journal, Last, Outlook, Pace, RestoreError, SNAPSHOT, Saved, SnapshotStatus, Snapshotter,
        Taken, WorkerLane,
    },
    flow::ListenerId,
    location::{Location, Unrecorded},
    metrics::Totals,
    net::{self, BindError, ListenerOptions, SlotLen, UdpListener},
    proxy::TokenKey,
    time::{Clock, SystemClock},
    worker::{
        Calls, CallsShared, Counters, Hops, Listening, Log, Pipeline, Worker,
        parking::{Parking, Questions, Returns},
    },
};

/// Why the registrar did not start, or did not go on; one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The files.
    #[error("{0}")]
    Config(#[from] ReloadError),
    /// An address that can't be listened on.
    #[error("can't listen on {0}")]
    Listen(#[from] BindError),
    /// The admin API's address.
    #[error("can't serve the admin API on {addr}: {source}")]
    Admin {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The state folder, or the one that `file=` names.
    #[error("can't use the folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A second process on one folder.
    #[error("another process uses the folder {}", .0.display())]
    FolderInUse(PathBuf),
    /// A file with a secret.
    #[error("can't use {}: {source}", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The saved registrations.
    #[error("{0}")]
    Restore(#[from] RestoreError),
    /// Something of the operating system's.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A thread that should have gone on for ever.
    #[error("the {0} stopped: {1}")]
    Thread(String, String),
    /// The journal.
    #[error("can't begin the journal: {0}")]
    Journal(#[from] StorageError),
    /// The last snapshot.
    #[error("the registrations were not saved: {0}")]
    LastSnapshot(String),
}

/// The priority of the thread that writes snapshots, the lowest: on the CPU of a worker it would
/// otherwise take half of each moment in which that has something to do. The last one, when nobody
/// else wants the CPU, is not written by that thread.
const SNAPSHOT_NICE: i32 = 19;

/// How long the last snapshot may take where the journal has everything: it only makes the next
/// start quicker.
const LAST_SNAPSHOT: Duration = Duration::from_secs(3);

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

/// A registrar that has started.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where it listens for SIP.
    pub listeners: Vec<(Box<str>, SocketAddr)>,
    /// Where its admin API is.
    pub admin: Option<SocketAddr>,
    /// How far what was saved is read: that goes on.
    pub restoring: Restoring,
}

/// How far what was saved is read.
#[derive(Clone, Debug)]
pub struct Restoring(Arc<Node>);

impl Restoring {
    /// Octets that were read, of how many; `None` once everything is restored.
    pub fn octets(&self) -> Option<(u64, u64)> {
        self.0.location.is_loading().then(|| self.0.restoring.octets())
    }
}

/// What the supervisor hears.
enum Event {
    Signal(i32),
    /// A thread has ended; its name, and why.
    Ended(String, String),
    /// What was saved can't be read.
    NotRestored(RestoreError),
}

/// Runs the registrar that `folder` configures until SIGTERM or SIGINT; SIGHUP reloads. `started`
/// is called once everything runs.
///
/// # Errors
/// Why it did not start, or why it had to stop.
pub fn serve(
    folder: &Path,
    overrides: Overrides,
    started: impl FnOnce(&Started),
) -> Result<(), ServeError> {
    // Before anything else, so that a signal during a long start is not lost.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(system("signals"))?;
    let (events, happened) = unbounded();
    let source = Source { folder: folder.to_path_buf(), overrides, host: Host::probe() };
    let running = start(source, &events)?;
    started(&running.describe());

    let forward = events.clone();
    let handle = signals.handle();
    let watcher = spawn("signals", move || {
        for signal in signals.forever() {
            if forward.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    let ended = supervise(&running.node, &happened);
    let stopped = running.stop();
    handle.close();
    let _ = watcher.join();
    ended.and(stopped)
}

/// Waits for the end: a signal, or a thread that should not have ended.
fn supervise(node: &Node, happened: &Receiver<Event>) -> Result<(), ServeError> {
    loop {
        match happened.recv() {
            Ok(Event::Signal(SIGHUP)) => {
                // What was wrong is in the log.
                let _ = node.reload();
            }
            Ok(Event::Signal(signal)) => {
                tracing::info!(signal, "stopping");
                return Ok(());
            }
            Ok(Event::Ended(name, reason)) => return Err(ServeError::Thread(name, reason)),
            Ok(Event::NotRestored(error)) => return Err(error.into()),
            Err(_) => return Ok(()),
        }
    }
}

/// All threads of a running registrar.
struct Running {
    node: Arc<Node>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    restorer: JoinHandle<bool>,
    /// Keep the lanes of the journal synced for as long as the sender lives.
    syncers: (Sender<()>, Vec<JoinHandle<()>>),
    snapshotter: JoinHandle<Snapshotter<Arc<SystemClock>>>,
    ticker: (Sender<()>, JoinHandle<()>),
    admin: Option<admin::Server>,
    /// Held for the locks on them.
    _folders: Vec<Arc<dyn Storage>>,
}

impl Running {
    fn describe(&self) -> Started {
        Started {
            listeners: self.node.listeners.iter().map(|l| (l.name.clone(), l.addr)).collect(),
            admin: self.admin.as_ref().map(admin::Server::addr),
            restoring: Restoring(Arc::clone(&self.node)),
        }
    }

    /// Answers what has arrived, saves the bindings, and ends all threads.
    fn stop(self) -> Result<(), ServeError> {
        let node = Arc::clone(&self.node);
        let (begun, before) = (node.clock.now(), requests(&node));
        self.node.stopping.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        self.node.wake_workers();
        for worker in self.workers {
            let _ = worker.join();
        }
        let drained = requests(&node).saturating_sub(before);
        let calls = node.calls.len();
        let stopped = |snapshot: &str| {
            let millis = node.clock.now().millis.saturating_sub(begun.millis);
            tracing::info!(millis, drained, calls, snapshot, "stopped");
        };
        let backends = self.node.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(backends) = backends {
            backends.stop();
        }
        // What is half restored must not be saved as if it were all.
        let is_restored = self.restorer.join().unwrap_or(false);
        drop(self.ticker.0);
        let _ = self.ticker.1.join();
        if let Some(admin) = self.admin {
            admin.stop();
        }
        // The process ends: to free millions of records one by one would only take time.
        std::mem::forget(Arc::clone(&self.node));
        // What the last snapshot does not cover is in the journal.
        drop(self.syncers.0);
        for syncer in self.syncers.1 {
            let _ = syncer.join();
        }
        if !is_restored {
            stopped("none: what was saved had not been read");
            return Ok(());
        }
        // The snapshotter ends when nobody can ask it any more.
        *self.node.snapshotter.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Without a journal, or with one that has failed, whatever it takes.
        let has_all = self.node.journal.as_ref().is_some_and(|journal| !journal.is_behind());
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let last = match self.snapshotter.join() {
            Ok(snapshotter) => snapshotter.last(threads, has_all.then_some(LAST_SNAPSHOT)),
            Err(_) => Err("the thread panicked".to_owned()),
        };
        match last {
            Ok(Last::Taken(Taken { bindings, .. })) => {
                stopped(&format!("written, bindings: {bindings}"));
                Ok(())
            }
            Ok(Last::NotNeeded) => {
                stopped("not needed: nothing has changed since the last");
                Ok(())
            }
            Ok(Last::TooSlow) => {
                stopped("none, as there is much: the next start reads the journal");
                Ok(())
            }
            Err(error) if has_all => {
                tracing::warn!(error, "no last snapshot: the next start reads the journal");
                stopped("failed");
                Ok(())
            }
            Err(error) => Err(ServeError::LastSnapshot(error)),
        }
    }
}

/// How many requests the workers have read.
fn requests(node: &Node) -> u64 {
    Totals::of(&node.counters).requests().map(|(_, _, count)| count).sum()
}

fn start(source: Source, events: &Sender<Event>) -> Result<Running, ServeError> {
    let clock = Arc::new(SystemClock::new());
    let Accepted { value, warnings, .. } = source.load().map_err(ReloadError::from)?;
    let Loaded { config, regfile, register, cdrfile, scripts } = value;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let mut folders = vec![open_folder(&config.state)?];
    let (storage, snapshot_name) = snapshot_place(&regfile, &config.state, &mut folders)?;
    let key_file =
        config.secret_file.clone().unwrap_or_else(|| config.state.join(secrets::NONCE_KEY_FILE));
    let keys = secrets::nonce_keys(&key_file, config.secret_file.is_none())
        .map_err(|source| ServeError::Secret { path: key_file, source })?;
    let hash_key = secrets::hash_key(&keys);
    let tag_key = secrets::request_key(&keys);

    let bound = bind(&config)?;
    // What may be taken is asked for before anything is written.
    let admin = match &config.admin {
        Some(settings) => Some((
            settings.addr,
            admin::Bound::new(settings, &config.state)
                .map_err(|source| ServeError::Admin { addr: settings.addr, source })?,
        )),
        None => None,
    };
    let general = regfile.general.clone();
    let rules = node::rules(&config, regfile, register.as_ref(), scripts.as_ref(), &keys)?;
    let now = clock.now();
    let location = Arc::new(Location::new(hash_key, config.registrar.max_bindings));
    location.set_max_contacts(config.registrar.max_contacts);
    let names: Arc<[Box<str>]> = config.listeners.iter().map(|l| l.name.clone()).collect();
    let generations =
        || Generations::new(Arc::clone(&storage), &snapshot_name, config.persist.keep.into());
    let journals = Arc::clone(&folders[0]);
    let Outlook { generation, sequence, has_journal } =
        Saved { snapshots: generations(), journals: &*journals }.outlook()?;
    location.raise_sequences(sequence);
    location.begin_loading(now);

    let workers = usize::from(config.general.workers);
    let journal = match config.persist.durability {
        Durability::Snapshot => None,
        durability => {
            let how = (durability, config.persist.on_disk_error);
            let storage = Arc::clone(&journals);
            let journal = Journal::begin(storage, workers, generation, now.unix, &names, how)?;
            Some(Arc::new(journal))
        }
    };
    let counters: Arc<[CachePadded<Counters>]> =
        (0..workers).map(|_| CachePadded::default()).collect();
    let rules = Arc::new(ArcSwap::from_pointee(rules));
    let files = Files { register, cdrfile, scripts };
    let setup = backend::setup(&config, &general, files.clone());
    let queue = usize::try_from(config.backend.queue).unwrap_or(usize::MAX);
    let (questions, taken, bell) = Questions::channel(queue);
    let (happenings, coming) = CallEvents::channel();
    let (returns, lanes) = Returns::new(workers);
    let (hops, hopping) = Hops::new(workers);
    let book = Arc::new(CallBook::new(workers));
    let calls = CallsShared {
        book: Arc::clone(&book),
        hops: hops.clone(),
        spent: Arc::default(),
        token: TokenKey::new(secrets::dialog_key(&keys)),
        key: secrets::random().map_err(system("random numbers"))?,
        listeners: addresses(&config, &bound),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (made, listeners) = make_workers(
        &config,
        bound,
        |worker| {
            let location = Arc::clone(&location);
            let rules = Arc::clone(&rules);
            let log: Box<dyn Log> = match &journal {
                Some(journal) => Box::new(WorkerLane::new(Arc::clone(journal), worker)),
                None => Box::new(Unrecorded),
            };
            let room = queue.div_ceil(workers);
            let parking = Parking::new(worker, room, questions.clone());
            let pipeline = Pipeline::new(location, rules, Arc::clone(&counters), worker, tag_key);
            let calls = Calls::new(calls.clone(), worker, Some(Box::new(happenings.clone())));
            (pipeline.with_parking(parking).with_calls(calls), log)
        },
        &clock,
        &stop,
    )?;

    let mut made: Vec<ClockedWorker> =
        made.into_iter().zip(lanes).map(|(worker, lane)| worker.with_returned(lane)).collect();
    made = made.into_iter().zip(hopping).map(|(worker, hops)| worker.with_hops(hops)).collect();
    for (number, worker) in made.iter_mut().enumerate() {
        returns.wake_by(number, worker.waker());
        hops.wake_by(number, worker.waker());
    }
    let snapshots = Arc::new(SnapshotStatus::default());
    let rate = u64::from(config.persist.snapshot_rate) << 20;
    let pace = Pace {
        interval: Duration::from_secs(config.persist.snapshot_interval.0.into()),
        rate: (rate > 0).then_some(rate),
        stopping: Arc::clone(&stop),
    };
    let (snapshotter, ask) = Snapshotter::new(
        generations(),
        (Arc::clone(&journals), journal.clone(), has_journal.then_some(generation)),
        Arc::clone(&location),
        Arc::clone(&names),
        Arc::clone(&clock),
        Arc::clone(&snapshots),
        pace,
    );
    let saved = generations();
    let node = Arc::new(Node {
        location,
        rules,
        counters,
        calls: book,
        clock,
        listeners,
        snapshots,
        journal,
        restoring: Arc::default(),
        restored: OnceLock::new(),
        backends: Arc::default(),
        questions,
        asked: Mutex::new(None),
        register: Mutex::new((general, files)),
        started: now,
        expired: AtomicU64::new(0),
        running: config.clone(),
        config: ArcSwap::from_pointee(config),
        source,
        keys,
        snapshotter: Mutex::new(Some(ask)),
        wakers: made.iter().map(Worker::waker).collect(),
        stopping: AtomicBool::new(false),
        reloading: Mutex::new(()),
    });
    let shared = backend::Shared {
        rules: Arc::clone(&node.rules),
        location: Arc::clone(&node.location),
        clock: Arc::clone(&node.clock),
        listeners: Arc::clone(&names),
        status: Arc::clone(&node.backends),
        spool: Some(SpoolFolder {
            storage: Arc::clone(&folders[0]),
            path: node.config().state.clone(),
        }),
    };
    let inbox = Inbox { questions: taken, bell, calls: coming };
    let notice = EndNotice::new("back ends", events);
    let backends = BackEnds::start(setup, shared, inbox, returns, notice)
        .map_err(system("the back ends' thread"))?;
    *node.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(backends);
    let config = node.config();
    let admin = match admin {
        Some((addr, bound)) => Some(
            admin::Server::start(Arc::clone(&node), bound, EndNotice::new("admin API", events))
                .map_err(|source| ServeError::Admin { addr, source })?,
        ),
        None => None,
    };
    let notice = EndNotice::new("snapshotter", events);
    let snapshotter = spawn("snapshotter", move || {
        let _notice = notice;
        // On Linux, this thread's alone. Where it is refused, snapshots only cost latency.
        if let Err(error) = rustix::process::setpriority_process(None, SNAPSHOT_NICE) {
            tracing::warn!(%error, "snapshots are written with the same priority as answers");
        }
        snapshotter.run()
    })?;
    let ticker = start_ticker(Arc::clone(&node), events)?;
    let syncers = start_syncers(&node, events)?;
    let restorer = Restorer { node: Arc::clone(&node), saved, journals, generation, names };
    let restorer = start_restorer(restorer, events)?;
    let workers = run_workers(made, config.general.pin, events)?;
    let _folders = folders;
    Ok(Running { node, stop, workers, restorer, syncers, snapshotter, ticker, admin, _folders })
}

/// Opens and locks a folder, and makes it if need be.
fn open_folder(path: &Path) -> Result<Arc<dyn Storage>, ServeError> {
    match FileStorage::create(path) {
        Ok(storage) => {
            warn_of_others(path);
            Ok(Arc::new(storage))
        }
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(ServeError::FolderInUse(path.to_path_buf()))
        }
        Err(source) => Err(ServeError::Folder { path: path.to_path_buf(), source }),
    }
}

/// Warns of a folder in which others than its owner and group can write: they can replace what is
/// restored from it, and the secrets.
fn warn_of_others(path: &Path) {
    const OTHERS_WRITE: u32 = 0o002;
    let mode = std::fs::metadata(path).map_or(0, |folder| folder.permissions().mode());
    if mode & OTHERS_WRITE != 0 {
        let (folder, mode) = (path.display(), format_args!("{:04o}", mode & 0o7777));
        tracing::warn!(%folder, %mode, "others can write to this folder: chmod o-w it");
    }
}

/// Where the snapshot is: in the state folder, or where regfile.conf's `file=` says.
fn snapshot_place(
    regfile: &regfile::Regfile,
    state: &Path,
    folders: &mut Vec<Arc<dyn Storage>>,
) -> Result<(Arc<dyn Storage>, String), ServeError> {
    let named = regfile
        .general
        .file
        .as_deref()
        .and_then(|file| Some((file.parent()?, file.file_name()?.to_str()?)));
    let Some((folder, name)) = named else {
        return Ok((Arc::clone(&folders[0]), SNAPSHOT.to_owned()));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if folder.canonicalize().is_ok_and(|path| state.canonicalize().is_ok_and(|own| own == path)) {
        // Its lock is held already.
        return Ok((Arc::clone(&folders[0]), name.to_owned()));
    }
    let storage = open_folder(folder)?;
    folders.push(Arc::clone(&storage));
    Ok((storage, name.to_owned()))
}

/// One socket for each worker, for every listener.
fn bind(config: &Config) -> Result<Vec<Vec<UdpListener>>, ServeError> {
    let workers = NonZeroUsize::new(config.general.workers.into()).unwrap_or(NonZeroUsize::MIN);
    let mut all = Vec::new();
    for Listener { name, addr, buffer, .. } in &config.listeners {
        let mut options = ListenerOptions::default();
        if let Some(octets) = buffer.and_then(|octets| usize::try_from(octets).ok()) {
            options.receive_buffer = octets;
        }
        let group = net::bind_group(*addr, workers, &options)?;
        if let Some(got) = group.first().map(UdpListener::buffers)
            && got.receive < options.receive_buffer
        {
            tracing::warn!(
                listener = %name,
                asked = options.receive_buffer,
                got = got.receive,
                "the receive buffer is smaller than asked: raise net.core.rmem_max"
            );
        }
        all.push(group);
    }
    Ok(all)
}

/// A worker that goes by the process's clock.
type ClockedWorker = Worker<Arc<SystemClock>>;

/// Gives each worker its sockets and a pipeline.
fn make_workers(
    config: &Config,
    bound: Vec<Vec<UdpListener>>,
    pipeline: impl Fn(usize) -> (Pipeline, Box<dyn Log>),
    clock: &Arc<SystemClock>,
    stop: &Arc<AtomicBool>,
) -> Result<(Vec<ClockedWorker>, Box<[ListenerStatus]>), ServeError> {
    let mut listening: Vec<Vec<Listening>> =
        (0..config.general.workers).map(|_| Vec::new()).collect();
    let mut statuses = Vec::new();
    for ((id, listener), group) in (0_u8..).zip(&config.listeners).zip(bound) {
        let maxpkt = SlotLen::new(listener.maxpkt.into()).unwrap_or_default();
        let addr = group.first().map_or(listener.addr, UdpListener::local_addr);
        let mut sockets = Vec::new();
        for (worker, socket) in listening.iter_mut().zip(group) {
            sockets.push(socket.try_clone().map_err(system("sockets"))?);
            worker.push(Listening::new(socket, ListenerId(id), maxpkt));
        }
        statuses.push(ListenerStatus {
            name: listener.name.clone(),
            transport: listener.transport,
            addr,
            sockets: sockets.into(),
        });
    }
    let workers = listening
        .into_iter()
        .enumerate()
        .map(|(n, sockets)| {
            let (pipeline, log) = pipeline(n);
            Worker::new(pipeline, log, sockets, Arc::clone(clock), Arc::clone(stop))
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(system("a worker's readiness queue"))?;
    Ok((workers, statuses.into()))
}

/// Where each listener listens, with the port that it got.
fn addresses(config: &Config, bound: &[Vec<UdpListener>]) -> Box<[SocketAddr]> {
    let listeners = config.listeners.iter().zip(bound);
    listeners
        .map(|(listener, group)| group.first().map_or(listener.addr, UdpListener::local_addr))
        .collect()
}

/// Starts a thread for each worker, on a CPU of its own.
fn run_workers(
    workers: Vec<ClockedWorker>,
    pin: bool,
    events: &Sender<Event>,
) -> Result<Vec<JoinHandle<()>>, ServeError> {
    let cpus = net::available_cpus().map_err(system("CPU affinity"))?;
    let mut threads = Vec::new();
    for (n, worker) in workers.into_iter().enumerate() {
        let name = format!("worker-{n:02}");
        let cpu = cpus.get(n % cpus.len().max(1)).copied().filter(|_| pin);
        let notice = EndNotice::new(&name, events);
        threads.push(spawn(&name, move || {
            if let Some(cpu) = cpu
                && let Err(error) = net::pin_current_thread(cpu)
            {
                tracing::warn!(cpu, %error, "can't stay on one CPU");
            }
            // Beside scripts and whatever else runs here, a phone is not to wait for their turn.
            if let Err(error) = net::shorten_slices() {
                tracing::debug!(%error, "can't have shorter slices of a CPU");
            }
            notice.ended(worker.run());
        })?);
    }
    Ok(threads)
}

/// Tells the supervisor when a thread ends, even by panic. At a stop nobody listens any more.
struct EndNotice {
    name: String,
    reason: Option<String>,
    events: Sender<Event>,
}

impl EndNotice {
    fn new(name: &str, events: &Sender<Event>) -> Self {
        Self { name: name.to_owned(), reason: None, events: events.clone() }
    }

    fn ended(mut self, result: io::Result<()>) {
        self.reason = result.err().map(|error| error.to_string());
    }
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        let reason = if thread::panicking() {
            "it panicked".to_owned()
        } else {
            self.reason.take().unwrap_or_else(|| "it returned".to_owned())
        };
        let _ = self.events.send(Event::Ended(std::mem::take(&mut self.name), reason));
    }
}

/// Ends bindings in their second, for as long as its sender lives.
fn start_ticker(
    node: Arc<Node>,
    events: &Sender<Event>,
) -> Result<(Sender<()>, JoinHandle<()>), ServeError> {
    const SECOND: Duration = Duration::from_secs(1);
    let (alive, ended) = bounded::<()>(0);
    let notice = EndNotice::new("ticker", events);
    let thread = spawn("ticker", move || {
        let _notice = notice;
        while ended.recv_timeout(SECOND) == Err(RecvTimeoutError::Timeout) {
            node.tick();
        }
    })?;
    Ok((alive, thread))
}

/// Has what was saved read, and waits for it as long as nobody minds; whether it was is the
/// thread's result.
fn start_restorer(
    restorer: Restorer,
    events: &Sender<Event>,
) -> Result<JoinHandle<bool>, ServeError> {
    /// Phones had better wait for so long than be served without what was saved.
    const PATIENCE: Duration = Duration::from_millis(500);
    let (done, in_time) = bounded(0);
    let events = events.clone();
    let thread = spawn("restorer", move || {
        let result = restorer.run();
        let is_restored = result.is_ok();
        // Nobody waits any more: the supervisor is told.
        if let Err(SendError(Err(error))) = done.send(result) {
            let _ = events.send(Event::NotRestored(error));
        }
        is_restored
    })?;
    match in_time.recv_timeout(PATIENCE) {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(())) | Err(_) => Ok(thread),
    }
}

/// Syncs the journal, each lane by a thread of its own, for as long as the sender lives.
fn start_syncers(
    node: &Arc<Node>,
    events: &Sender<Event>,
) -> Result<(Sender<()>, Vec<JoinHandle<()>>), ServeError> {
    let (alive, ended) = bounded::<()>(0);
    let mut threads = Vec::new();
    for lane in 0..node.journal.as_ref().map_or(0, |journal| journal.lanes()) {
        let (node, ended) = (Arc::clone(node), ended.clone());
        let name = format!("journal-{lane:02}");
        let notice = EndNotice::new(&name, events);
        threads.push(spawn(&name, move || {
            let _notice = notice;
            // The first lane is the control plane's.
            let waker = lane.checked_sub(1).and_then(|worker| node.wakers.get(worker));
            if let Some(journal) = &node.journal {
                journal.keep_synced(lane, waker.map(Arc::as_ref), &ended);
            }
        })?);
    }
    Ok((alive, threads))
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ServeError> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(system("a thread"))
}
