//! All external modules: those that we start and keep running, and those that connect.

use std::{
    cell::{Cell, RefCell},
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use memchr::memchr;
use tokio::{
    net::{TcpListener, UnixListener, unix::pipe},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    line::{Param, Sent},
    link::{Link, converse},
    module::{Beginning, Effect, Installed, Module},
    process::Process,
    rate::{Counted, Rate},
};
use crate::{
    backend::{
        cdr::Records,
        chain::{Chain, Dispatched, Failure, Guests, Handler, Handles, Handling, Watcher},
        garbage::on_one_line,
        message::{Message, MessageName},
        run::Shared,
    },
    config::extmodule::{At, Extmodule, Listener, Program},
    time::Clock,
    worker::AskAuth,
};

/// Between the end of a script and its next start: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Who ran for so long is started again without a longer pause.
const RAN_WELL: Duration = Duration::from_secs(60);

/// For so long after the start, and after a module that connected has gone, its absence is an outage
/// (503) and nobody is told that there is no such user.
const EXPECTED: Duration = Duration::from_secs(60);

/// For so long after the first module has come, others that go with it may be on their way.
const SETTLES: Duration = Duration::from_secs(2);

/// Places of modules that have gone; the oldest give way.
const MISSED: usize = 256;

/// Between two tries to listen.
const AGAIN: Duration = Duration::from_secs(5);

/// Modules that may be connected to a listener.
const CONNECTED: usize = 100;

/// What modules may do with `engine.halt`.
const FAREWELL: Duration = Duration::from_millis(300);

/// How long all scripts may take to end; each is killed before that.
const STOPPED: Duration = Duration::from_secs(2);

/// Octets of a line of a script's that goes to the log.
const SHOWN: usize = 2000;

/// Who may connect, as nobody is there yet.
const ANYBODY: &str = "no external module";

/// Messages that nobody but a module may be able to answer.
const QUESTIONS: [MessageName; 3] =
    [MessageName::UserAuth, MessageName::UserRegister, MessageName::CallRoute];

/// The external modules that one `extmodule.conf` brings.
pub(in crate::backend) struct Modules {
    settings: RefCell<Extmodule>,
    shared: Shared,
    /// Whom modules hear of calls from.
    records: Rc<Records>,
    guests: Guests,
    chain: RefCell<Chain>,
    /// `auth` of `regfile.conf`: who is asked before it has to be asked for each request.
    listed: Cell<i32>,
    present: RefCell<Vec<Rc<Module>>>,
    away: RefCell<Vec<Away>>,
    tasks: RefCell<JoinSet<()>>,
    numbers: Cell<u32>,
    began: Instant,
    /// Scripts that run.
    running: Cell<usize>,
    is_stopping: Cell<bool>,
    /// Whether the chain is about to be told of something.
    is_stale: Cell<bool>,
}

/// What a module had installed that has gone, or what one is expected to install.
#[derive(Clone, Debug)]
struct Away {
    who: Rc<str>,
    installed: Installed,
    /// When it is no longer expected; `None`: it is being started again.
    until: Option<Instant>,
    /// Whether the operator should know.
    is_fault: bool,
}

impl Away {
    /// Somebody who may yet install this; whoever installs it will do.
    fn expected(who: &str, name: MessageName, is_fault: bool) -> Self {
        let name = name.as_str().to_owned();
        let installed = Installed { priority: i32::MAX, name, filter: None };
        Self { who: who.into(), installed, until: Some(Instant::now() + EXPECTED), is_fault }
    }

    /// Who did this before, and is expected to do it again.
    fn of(who: &Rc<str>, installed: Installed) -> Self {
        let until = Some(Instant::now() + EXPECTED);
        Self { who: Rc::clone(who), installed, until, is_fault: false }
    }

    /// Whether it is not known what it will install, if anything.
    fn is_anything(&self) -> bool {
        self.installed.priority == i32::MAX
    }

    /// Whether that is something that somebody waits for.
    fn is_question(installed: &Installed) -> bool {
        QUESTIONS.iter().any(|question| question.as_str() == installed.name)
    }
}

impl Modules {
    /// The modules of these settings: `old` ones if they are the same programs and sockets, else
    /// others in their place, which are expected to do what those did.
    pub(in crate::backend) async fn renew(
        old: Option<Rc<Self>>,
        settings: Extmodule,
        (shared, records): (&Shared, &Rc<Records>),
        (chain, listed): (&Chain, i32),
    ) -> Option<Rc<Self>> {
        let mut did = Vec::new();
        if let Some(old) = old {
            if old.are_of(&settings) {
                old.adopt(settings);
                old.chain.replace(chain.clone());
                old.listed.set(listed);
                old.publish();
                return Some(old);
            }
            did = old.known();
            old.stop().await;
        }
        let has_any = settings.has_modules() || !settings.execute.is_empty();
        let with = (shared.clone(), Rc::clone(records));
        has_any.then(|| Self::start(settings, with, (chain.clone(), listed), did))
    }

    /// Whether these settings have the same programs and sockets.
    fn are_of(&self, settings: &Extmodule) -> bool {
        let own = self.settings.borrow();
        let of = |s: &Extmodule| (s.scripts.clone(), s.execute.clone(), s.listeners.clone());
        of(&own) == of(settings)
    }

    /// Has those that run go by other numbers.
    fn adopt(&self, settings: Extmodule) {
        let old = self.settings.replace(settings);
        let new = self.settings.borrow().module.clone();
        for module in &*self.present.borrow() {
            module.renew(&old.module, &new);
        }
    }

    /// Who has installed what, or had before it went.
    fn known(&self) -> Vec<Away> {
        let present = self.present.borrow();
        let installed = present.iter().flat_map(|module| {
            let of_it = |installed| Away::of(&module.name, installed);
            module.handles().into_iter().filter(Away::is_question).map(of_it)
        });
        let away = self.away.borrow();
        let gone = away.iter().filter(|away| !away.is_anything());
        installed.chain(gone.map(|away| Away::of(&away.who, away.installed.clone()))).collect()
    }

    fn start(
        settings: Extmodule,
        (shared, records): (Shared, Rc<Records>),
        (chain, listed): (Chain, i32),
        did: Vec<Away>,
    ) -> Rc<Self> {
        let scripts = settings.scripts.iter().map(name_of);
        let listeners = settings.listeners.iter().map(name_of_those_at);
        let names: Vec<String> = scripts.clone().chain(listeners).collect();
        let mut away: Vec<Away> =
            did.into_iter().filter(|away| names.iter().any(|name| *name == *away.who)).collect();
        let unknown: Vec<String> =
            scripts.filter(|name| !away.iter().any(|away| *away.who == **name)).collect();
        let anybody = (!settings.listeners.is_empty()).then(|| ANYBODY.to_owned());
        for who in unknown.into_iter().chain(anybody) {
            away.extend(QUESTIONS.map(|question| Away::expected(&who, question, false)));
        }
        let modules = Rc::new(Self {
            guests: chain.guests().clone(),
            chain: RefCell::new(chain),
            listed: Cell::new(listed),
            present: RefCell::default(),
            away: RefCell::new(away),
            tasks: RefCell::default(),
            numbers: Cell::new(0),
            began: Instant::now(),
            running: Cell::new(0),
            is_stopping: Cell::new(false),
            is_stale: Cell::new(false),
            settings: RefCell::new(settings),
            shared,
            records,
        });
        modules.publish();
        let Extmodule { scripts, execute, listeners, .. } = modules.settings.borrow().clone();
        let has_modules = modules.settings.borrow().has_modules();
        for program in scripts {
            modules.spawn(Rc::clone(&modules).keep(program));
        }
        for program in execute {
            modules.spawn(run_once(program));
        }
        for listener in listeners {
            modules.spawn(Rc::clone(&modules).listen(listener));
        }
        if has_modules {
            modules.spawn(Rc::clone(&modules).tick());
        }
        modules
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }

    /// Tells all modules of the end, and ends those that we have started.
    pub(in crate::backend) async fn stop(&self) {
        self.is_stopping.set(true);
        let present = self.present.borrow().clone();
        let farewell = present.iter().map(|module| async {
            tell(module, &mut Message::new(MessageName::EngineHalt)).await;
        });
        let _ = tokio::time::timeout(FAREWELL, futures_util::future::join_all(farewell)).await;
        for module in &present {
            module.end("stopping");
        }
        let ended = async {
            while self.running.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(STOPPED, ended).await;
        let mut tasks = self.tasks.take();
        tasks.shutdown().await;
        self.guests.replace(Vec::new(), Vec::new());
        self.records.set_listeners(false);
        for listener in &self.settings.borrow().listeners {
            if let At::Unix(path) = &listener.at {
                remove_socket(path);
            }
        }
    }

    /// Has the chain, and workers, go by what is installed now.
    fn publish(&self) {
        let (now, present) = (Instant::now(), self.present.borrow().clone());
        let settled = now + SETTLES;
        let mut handlers: Vec<(i32, MessageName, Rc<dyn Handler>)> = Vec::new();
        let mut watchers: Vec<Rc<dyn Watcher>> = Vec::new();
        for module in &present {
            if module.has_installed() || module.watches() {
                // What else it does, it will soon have installed.
                let mut away = self.away.borrow_mut();
                let its = |away: &&mut Away| away.is_anything() && away.who == module.name;
                for away in away.iter_mut().filter(its) {
                    away.is_fault = false;
                    away.until = away.until.map(|until| until.min(settled));
                }
            }
            for installed in module.handles() {
                let Some(name) = MessageName::parse(&installed.name) else { continue };
                self.away.borrow_mut().retain(|away| {
                    let is_it = away.who == module.name || &*away.who == ANYBODY;
                    !(is_it && away.installed.name == installed.name)
                });
                let (module, priority) = (Rc::clone(module), installed.priority);
                handlers.push((priority, name, Rc::new(Visitor { module, name, installed })));
            }
            if module.watches() {
                watchers.push(Rc::clone(module) as Rc<dyn Watcher>);
            }
        }
        let has_question = handlers.iter().any(|(_, name, _)| QUESTIONS.contains(name));
        for away in &mut *self.away.borrow_mut() {
            if has_question && &*away.who == ANYBODY {
                away.until = away.until.map(|until| until.min(settled));
            }
        }
        self.away.borrow_mut().retain(|away| away.until.is_none_or(|until| until > now));
        for away in &*self.away.borrow() {
            let Some(name) = MessageName::parse(&away.installed.name) else { continue };
            handlers.push((away.installed.priority, name, Rc::new(away.clone())));
        }
        let of = |wanted: MessageName| handlers.iter().filter(move |(_, name, _)| *name == wanted);
        let auth = of(MessageName::UserAuth).map(|(priority, ..)| match *priority {
            priority if priority < self.listed.get() => AskAuth::BeforeListed,
            _ => AskAuth::AfterListed,
        });
        let (auth, register) = (auth.max(), of(MessageName::UserRegister).next().is_some());
        let failed = MessageName::UserAuthfail;
        let is_watched = present.iter().any(|module| module.is_watching(failed));
        let failures = is_watched || of(failed).next().is_some();
        let hears = |name| {
            of(name).next().is_some() || present.iter().any(|module| module.is_watching(name))
        };
        self.records.set_listeners(MessageName::OF_CALLS.into_iter().any(hears));
        let had_auth = self.guests.want(MessageName::UserAuth);
        let rules = self.shared.rules.load();
        if auth.is_some() && !had_auth && self.settings.borrow().cache.0 == 0 {
            // What others have said, a script may see otherwise from now on.
            if let Some(fetched) = &rules.elsewhere.fetched {
                fetched.clear();
            }
        }
        self.guests.replace(handlers, watchers);
        if let Some(scripts) = &rules.elsewhere.scripts {
            scripts.installed.set(auth.unwrap_or_default(), register, failures);
        }
    }

    fn enter(&self, name: &str, restart: Option<bool>, has_to_connect: bool) -> Rc<Module> {
        let number = self.numbers.get() + 1;
        self.numbers.set(number);
        let module = Rc::new(Module::new(Beginning {
            number,
            name: name.into(),
            settings: self.settings.borrow().module.clone(),
            restart,
            has_to_connect,
            status: Arc::clone(&self.shared.status),
            clock: Arc::clone(&self.shared.clock),
            tap: None,
        }));
        self.present.borrow_mut().push(Rc::clone(&module));
        module
    }

    /// A module has gone; whether it comes back is to be said.
    fn leave(&self, module: &Module, comes_back: bool) {
        let until = (!comes_back).then(|| Instant::now() + EXPECTED);
        if !module.has_quit() {
            let missed = module.handles().into_iter().filter(Away::is_question);
            let mut all = self.away.borrow_mut();
            for installed in missed {
                all.retain(|away| !(away.who == module.name && away.installed == installed));
                if all.len() >= MISSED {
                    all.remove(0);
                }
                let who = Rc::clone(&module.name);
                all.push(Away { who, installed, until, is_fault: comes_back });
            }
        }
        module.gone();
        self.present.borrow_mut().retain(|other| other.number != module.number);
        self.publish();
    }

    /// A script that can't be started, or ends at once: who knows what it would have installed.
    fn miss(&self, name: &str) {
        let mut away = self.away.borrow_mut();
        away.retain(|away| !(&*away.who == name && away.is_anything()));
        away.extend(QUESTIONS.map(|question| Away::expected(name, question, true)));
        drop(away);
        self.publish();
    }

    /// Does what a line asks for.
    fn effect(self: &Rc<Self>, module: &Rc<Module>, effect: Effect) {
        match effect {
            Effect::Installed => {
                // Once for all that is said in this turn.
                if !self.is_stale.replace(true) {
                    let modules = Rc::clone(self);
                    self.spawn(async move {
                        tokio::task::yield_now().await;
                        modules.is_stale.set(false);
                        modules.publish();
                    });
                }
                let wants_start = || module.is_handling(MessageName::EngineStart);
                let is_early = self.began.elapsed() < EXPECTED;
                if is_early && !module.is_started.get() && wants_start() {
                    module.is_started.set(true);
                    let module = Rc::clone(module);
                    self.spawn(async move {
                        tell(&module, &mut Message::new(MessageName::EngineStart)).await;
                    });
                }
            }
            Effect::Sent(sent) => {
                let chain = self.chain.borrow().clone();
                self.spawn(dispatch(chain, Rc::clone(module), sent));
            }
        }
    }

    /// Starts a script, and starts it again when it has ended.
    async fn keep(self: Rc<Self>, program: Program) {
        let name = name_of(&program);
        let (first, longest) = PAUSES;
        let mut pause = first;
        while !self.is_stopping.get() {
            let begun = Instant::now();
            let is_again = match Process::start(&program) {
                Ok(started) => {
                    self.running.set(self.running.get() + 1);
                    let is_again = self.run(&program, &name, started).await;
                    self.running.set(self.running.get() - 1);
                    is_again
                }
                Err(error) => {
                    tracing::error!(script = %name, "can't be started: {error}");
                    self.miss(&name);
                    program.restart
                }
            };
            if !is_again {
                break;
            }
            pause = if begun.elapsed() >= RAN_WELL { first } else { (2 * pause).min(longest) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Talks to a script until it ends; whether it is to be started again.
    async fn run(
        self: &Rc<Self>,
        program: &Program,
        name: &str,
        (mut process, link, stderr): (Process, Link, pipe::Receiver),
    ) -> bool {
        let module = self.enter(name, Some(program.restart), false);
        tracing::info!(script = %module.name, "started");
        self.spawn(log_lines(Rc::clone(&module.name), stderr));
        let over = async { process.ended().await.why() };
        let why = converse(&module, &link, over, |effect| self.effect(&module, effect)).await;
        let (has_installed, is_ours) = (module.has_installed(), module.ends().is_some());
        let restarts = module.restarts();
        self.leave(&module, restarts);
        drop(link);
        let ended = process.stop().await;
        if self.is_stopping.get() {
            return false;
        }
        // A pipe may close a moment before its process is seen to have ended, which says more.
        let why = if is_ours { why } else { ended.why() };
        // One that ends well without having installed anything was for this once.
        let is_done = ended.is_success() && !has_installed;
        if module.has_quit() || is_done {
            // It has done what it was for.
            self.away.borrow_mut().retain(|away| !(away.who == module.name && away.is_anything()));
            self.publish();
            tracing::info!(script = %module.name, "{why}");
        } else {
            tracing::error!(script = %module.name, restart = restarts, "{why}");
            if !has_installed {
                self.miss(name);
            }
        }
        restarts && !is_done
    }

    async fn listen(self: Rc<Self>, listener: Listener) {
        let name: Rc<str> = name_of_those_at(&listener).into();
        let listening = loop {
            match Listening::open(&listener.at).await {
                Ok(listening) => break listening,
                Err(error) => tracing::error!(listener = %listener.name, "can't listen: {error}"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        tracing::info!(listener = %listener.name, "external modules may connect to {}", listening.at());
        loop {
            match listening.accept().await {
                Ok(link) => {
                    let of_it = |module: &&Rc<Module>| module.name == name;
                    if self.present.borrow().iter().filter(of_it).count() >= CONNECTED {
                        tracing::warn!(listener = %listener.name, "{CONNECTED} are connected: no more");
                        continue;
                    }
                    let module = self.enter(&name, None, !listener.is_global);
                    let modules = Rc::clone(&self);
                    self.spawn(async move {
                        tracing::info!(script = %module.name, number = module.number, "connected");
                        let for_ever = std::future::pending();
                        let effect = |effect| modules.effect(&module, effect);
                        let why = converse(&module, &link, for_ever, effect).await;
                        tracing::info!(script = %module.name, number = module.number, "{why}");
                        modules.leave(&module, false);
                    });
                }
                Err(error) => {
                    tracing::error!(listener = %listener.name, "can't accept: {error}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// `engine.timer`, each second as in Yate; and whoever is no longer expected is not.
    async fn tick(self: Rc<Self>) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            let now = Instant::now();
            if self.away.borrow().iter().any(|away| away.until.is_some_and(|until| until <= now)) {
                self.publish();
            }
            let mut message = Message::new(MessageName::EngineTimer);
            message.set("time", self.shared.clock.now().unix.to_string());
            for module in &*self.present.borrow() {
                module.check(now);
                // Who has not answered the last one is not asked.
                if !module.has_timer.replace(true) {
                    let (module, mut message) = (Rc::clone(module), message.clone());
                    self.spawn(async move {
                        tell(&module, &mut message).await;
                        module.has_timer.set(false);
                    });
                }
            }
            self.guests.see(&message, false);
        }
    }
}

/// What a script is called in logs and metrics.
fn name_of(program: &Program) -> String {
    format!("script {}", program.name)
}

/// The same of those that connect.
fn name_of_those_at(listener: &Listener) -> String {
    format!("listener {}", listener.name)
}

/// Shows a message to a module, if it has installed it.
async fn tell(module: &Module, message: &mut Message) {
    let name = message.name.as_str();
    let wants = |installed: &Installed| installed.name == name && installed.takes(message);
    if module.handles().iter().any(wants) {
        let _ = module.ask(message).await;
    }
}

/// Has a message of a module's handled by all others.
async fn dispatch(chain: Chain, module: Rc<Module>, sent: Sent) {
    let Some(name) = MessageName::parse(&sent.name) else {
        return module.sent(&sent, None, false);
    };
    let mut message = Message::new(name);
    message.sender = Some(module.number);
    message.retval.clone_from(&sent.retval);
    for param in &sent.params {
        if let Param::Set(name, value) = param {
            message.set(name, value.clone());
        }
    }
    let handled = if name.is_broadcast() {
        chain.broadcast(&mut message).await
    } else {
        matches!(chain.dispatch(&mut message).await, Dispatched::Handled { .. })
    };
    module.sent(&sent, Some(&message), handled);
}

/// A program of `[execute]`.
async fn run_once(program: Program) {
    let name: Rc<str> = format!("execute {}", program.name).into();
    match Process::start(&program) {
        Ok((mut process, link, stderr)) => {
            let Link::Pipes(stdout, stdin) = link else { return };
            drop(stdin);
            let said = [stdout, stderr].map(|pipe| log_lines(Rc::clone(&name), pipe));
            let said = futures_util::future::join_all(said);
            let ended = async {
                let ended = process.ended().await;
                tracing::info!(script = %name, "{}", ended.why());
            };
            futures_util::future::join(said, ended).await;
        }
        Err(error) => tracing::error!(script = %name, "can't be started: {error}"),
    }
}

/// Has what a program writes logged, within a rate.
async fn log_lines(name: Rc<str>, pipe: pipe::Receiver) {
    const RATE: u32 = 100;
    /// Reads a second, of 4096 octets: who writes more has to wait.
    const READS: u32 = 1024;
    let reads = Rate::new(READS);
    let (rate, mut space, mut line) = (Rate::new(RATE), vec![0; 4096], Vec::new());
    let log = |line: &[u8]| {
        let left_out = |lines| tracing::warn!(script = %name, "{lines} lines were left out");
        if !line.is_empty() && rate.allows(left_out) {
            let text = String::from_utf8_lossy(line);
            tracing::info!(script = %name, "{}", on_one_line(text.trim_end()));
        }
    };
    loop {
        let read = match pipe.readable().await {
            Ok(()) => pipe.try_read(&mut space),
            Err(error) => Err(error),
        };
        let mut rest = match read {
            Ok(octets @ 1..) => space.get(..octets).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Ok(_) | Err(_) => return log(&line),
        };
        while let Some(end) = memchr(b'\n', rest) {
            let (head, tail) = rest.split_at(end);
            line.extend_from_slice(head);
            line.truncate(SHOWN);
            log(&line);
            line.clear();
            rest = tail.get(1..).unwrap_or_default();
        }
        line.extend_from_slice(rest);
        line.truncate(SHOWN);
        match reads.count() {
            Counted::Within { .. } => tokio::task::yield_now().await,
            Counted::Beyond { until } => tokio::time::sleep_until(until).await,
        }
    }
}

/// A socket that modules connect to.
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    async fn open(at: &At) -> io::Result<Self> {
        Ok(match at {
            At::Tcp(addr) => Self::Tcp(TcpListener::bind(addr).await?),
            At::Unix(path) => {
                remove_socket(path);
                Self::Unix(UnixListener::bind(path)?)
            }
        })
    }

    fn at(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|e| e.to_string(), |addr| format!("tcp:{addr}"))
            }
            Self::Unix(listener) => {
                let addr = listener.local_addr().ok();
                let path = addr.as_ref().and_then(|addr| addr.as_pathname());
                format!("unix:{}", path.unwrap_or_else(|| Path::new("")).display())
            }
        }
    }

    async fn accept(&self) -> io::Result<Link> {
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                // A line is a message; none waits for the next.
                socket.set_nodelay(true)?;
                Ok(Link::Tcp(socket))
            }
            Self::Unix(listener) => listener.accept().await.map(|(socket, _)| Link::Unix(socket)),
        }
    }
}

/// Removes what another process left, if it is a socket.
fn remove_socket(path: &Path) {
    if path.symlink_metadata().is_ok_and(|at| at.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

/// What a module has installed, as a handler.
#[derive(Debug)]
struct Visitor {
    module: Rc<Module>,
    name: MessageName,
    installed: Installed,
}

impl Handler for Visitor {
    fn name(&self) -> &Rc<str> {
        &self.module.name
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        if name == self.name { vec![self.installed.priority] } else { Vec::new() }
    }

    fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
        Box::pin(async move {
            if self.installed.takes(message) {
                self.module.ask(message).await
            } else {
                Handling::Passed
            }
        })
    }

    fn handle_all<'m>(
        &'m self,
        priority: i32,
        messages: &'m mut [Message],
    ) -> Handles<'m, Vec<Handling>> {
        Box::pin(async move {
            let mut handlings = Vec::with_capacity(messages.len());
            for some in messages.chunks_mut(self.module.at_once()) {
                let asked = some.iter_mut().map(|message| self.handle(priority, message));
                handlings.extend(futures_util::future::join_all(asked).await);
            }
            handlings
        })
    }
}

impl Handler for Away {
    fn name(&self) -> &Rc<str> {
        &self.who
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        let is_it = name.as_str() == self.installed.name;
        if is_it { vec![self.installed.priority] } else { Vec::new() }
    }

    fn is_present(&self) -> bool {
        false
    }

    fn fault(&self) -> Option<String> {
        self.is_fault.then(|| format!("{} is away", self.who))
    }

    fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
        let handling = if self.installed.takes(message) {
            let reason = format!("{} is away", self.who);
            Handling::Failed(Failure { reason, is_outage: true })
        } else {
            Handling::Passed
        };
        Box::pin(async { handling })
    }
}
