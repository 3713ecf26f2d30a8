//! The thread of the back ends: takes the workers' questions, asks the handlers, and has them
//! follow the location service.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam::channel::Receiver;
use tokio::{
    runtime::Runtime,
    sync::{Notify, mpsc, oneshot},
    task::{JoinSet, LocalSet},
    time::MissedTickBehavior,
};

use super::{
    cdr::{Coming, Records, TakesRecords},
    chain::{Chain, Dispatched, Failure, Guests, Handler, OnError},
    dns::Resolver,
    engine::{self, EngineAnswer, EngineQuestion},
    follow::{Asked, Follower, Present, TRACES},
    garbage::Garbage,
    hook::{self, Hooks},
    listed::LISTED,
    message::{Message, MessageName},
    preload::Preload,
    reason,
    register::HASHES,
    request::{self, Context, UserKey},
    route,
    script::Modules,
    spool::SpoolFolder,
    sql::Notification,
    status::Status,
};
use crate::{
    auth::{Ha1Set, Secret},
    config::{
        extmodule::Extmodule,
        hooks::Hook,
        settings::{self, Dns},
    },
    hex::parse_hex,
    location::{Location, Subscription},
    proxy::Routed,
    subscribers::{Cached, Fetched, Known, split_name},
    time::{Clock, Deadline, DeltaSeconds, SystemClock},
    worker::{
        Rules, SharedRules,
        parking::{Learnt, Parked, Question, Registered, Returns},
    },
};

/// How often changes of the location service are looked for, and handlers for faults.
const LOOK: Duration = Duration::from_millis(50);

/// How often in a row `engine.timer` may wait for the rows of live phones to be renewed: rows of dead
/// ones have to go at some time.
const MOST_WAITS: u32 = 10;

/// How soon an AoR is asked for again that a handler is just being told of.
const BUSY: Duration = Duration::from_millis(5);

/// What the handlers are made of, on their own thread.
pub type MakeHandlers = Box<dyn FnOnce(&Shared) -> Made + Send>;

/// Handlers, and what goes with them.
#[derive(Debug)]
pub struct Made {
    pub(super) handlers: Vec<Rc<dyn Handler>>,
    /// Who keeps records of calls.
    pub(super) records: Vec<Rc<dyn TakesRecords>>,
    /// Usernames that are to be forgotten, or all of them.
    pub(super) notifications: Vec<mpsc::Receiver<Notification>>,
    pub(super) preload: Option<Preload>,
}

/// What the back ends go by; a reload brings another.
pub struct Setup {
    /// The handlers.
    pub handlers: MakeHandlers,
    /// What happens when one can't say.
    pub on_error: OnError,
    /// AoRs of which handlers are yet to be told.
    pub queue: usize,
    /// How often `engine.timer` is dispatched.
    pub timer: Duration,
    /// The external modules.
    pub scripts: Extmodule,
    /// The hooks, and which legs of calls they are told of.
    pub hooks: (Box<[Hook]>, settings::Records),
    /// The priority of `regfile.conf` for `user.auth`.
    pub listed: i32,
    /// Whether what queries say of users may be kept.
    pub keeps_queries: bool,
    /// How names of other domains are looked up.
    pub dns: Dns,
}

/// What they share with everybody else.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What workers go by.
    pub rules: SharedRules,
    /// What is followed.
    pub location: Arc<Location>,
    /// The clock of this process.
    pub clock: Arc<SystemClock>,
    /// The names of the listeners, by number.
    pub listeners: Arc<[Box<str>]>,
    /// How they do.
    pub status: Arc<Status>,
    /// Where records of calls wait for who keeps them; only in memory if there is none.
    pub spool: Option<SpoolFolder>,
}

/// What workers leave for the back ends.
#[derive(Debug)]
pub struct Inbox {
    /// Requests that wait for an answer.
    pub questions: Receiver<Parked>,
    /// Rung for each.
    pub bell: Arc<Notify>,
    /// What happens to calls.
    pub calls: Coming,
}

/// What the back ends are told to do.
enum Order {
    /// To go by this.
    Reload(Box<Setup>),
    /// To ask what an operator asks.
    Ask(engine::Asked),
}

/// The back ends at work.
#[derive(Debug)]
pub struct BackEnds {
    orders: mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

impl BackEnds {
    /// Starts the thread. It takes what is in the inbox, and gives questions back to `returns`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(
        setup: Setup,
        shared: Shared,
        inbox: Inbox,
        returns: Returns,
        ended: impl Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, coming) = mpsc::unbounded_channel();
        // Before anything is restored: what has ended meanwhile is told too.
        let changes = hook::changes(&setup.hooks.0, &shared.location);
        let thread = thread::Builder::new().name("backends".to_owned()).spawn(move || {
            let _ended = ended;
            run(&runtime, setup, coming, (shared, changes), inbox, returns);
            // A name server that doesn't answer keeps nobody.
            runtime.shutdown_timeout(LOOK);
        })?;
        Ok(Self { orders, thread })
    }

    /// Has them go by another setup from now on.
    pub fn reload(&self, setup: Setup) {
        let _ = self.orders.send(Order::Reload(Box::new(setup)));
    }

    /// Asks external modules what an operator asks. There is no answer if they end before.
    pub fn ask(&self, question: EngineQuestion) -> oneshot::Receiver<EngineAnswer> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Ask(engine::Asked { question, answer }));
        answered
    }

    /// Ends the thread, once what waited to be told is told, or a second has passed.
    pub fn stop(self) {
        drop(self.orders);
        let _ = self.thread.join();
    }
}

fn run(
    runtime: &Runtime,
    setup: Setup,
    mut coming: mpsc::UnboundedReceiver<Order>,
    (shared, changes): (Shared, Option<Subscription>),
    Inbox { questions, bell, calls }: Inbox,
    returns: Returns,
) {
    /// A stop may take no longer for the handlers' sake.
    const LAST_WORDS: Duration = Duration::from_secs(1);
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        let mut setup = setup;
        let (clock, status) = (Arc::clone(&shared.clock), Arc::clone(&shared.status));
        let (guests, mut modules) = (Guests::default(), None);
        let spool = shared.spool.clone();
        let records = Records::start(calls, spool, clock, status, guests.clone());
        let hooks = Hooks::start(&shared, changes);
        loop {
            let keeps_scripts = setup.scripts.cache > DeltaSeconds(0);
            let Made { mut handlers, records: mut keepers, notifications, preload } =
                (setup.handlers)(&shared);
            let roles = hooks.replace(&setup.hooks.0, setup.hooks.1);
            handlers.extend(roles.handlers);
            keepers.extend(roles.keepers);
            records.set_handlers(&keepers);
            // Also of one that another setup cut short.
            shared.status.set_preloading(preload.is_some());
            let mut begun = JoinSet::new();
            for handler in handlers.iter().map(Rc::clone) {
                begun.spawn_local(async move { handler.start().await });
            }
            let chain = Chain::new(handlers, setup.on_error)
                .with_guests(guests.clone())
                .with_garbage(Garbage::new(Arc::clone(&shared.status)));
            let by = (&chain, setup.listed);
            modules = Modules::renew(modules, setup.scripts, (&shared, &records), by).await;
            let desk = Rc::new(Desk {
                chain,
                has_modules: modules.is_some(),
                keeps: (setup.keeps_queries, keeps_scripts),
                resolver: Resolver::new(setup.dns.clone(), Arc::clone(&shared.status)),
                shared: shared.clone(),
                returns: returns.clone(),
                flights: RefCell::default(),
                follower: RefCell::new(Follower::new(setup.queue)),
                is_telling: Cell::new(false),
                timer_waits: Cell::new(0),
            });
            for notifications in notifications {
                begun.spawn_local(forget(Rc::clone(&desk), notifications));
            }
            if let Some(preload) = preload {
                begun.spawn_local(load_all(Rc::clone(&desk), preload));
            }
            match desk.work(&questions, &bell, &mut coming, setup.timer).await {
                Some(next) => setup = next,
                None => {
                    let told = tokio::time::timeout(LAST_WORDS, desk.tell_all());
                    let _ = tokio::join!(told, records.finish(LAST_WORDS));
                    hooks.finish(LAST_WORDS).await;
                    if let Some(modules) = modules {
                        modules.stop().await;
                    }
                    break;
                }
            }
        }
    });
}

/// The handlers of one setup, and what is under way.
struct Desk {
    chain: Chain,
    has_modules: bool,
    /// Whether what queries, and what scripts say of users may be kept.
    keeps: (bool, bool),
    /// Who knows where other domains are.
    resolver: Resolver,
    shared: Shared,
    returns: Returns,
    /// Requests that wait for the same user.
    flights: RefCell<HashMap<UserKey, Vec<Parked>>>,
    follower: RefCell<Follower>,
    is_telling: Cell<bool>,
    /// How often in a row `engine.timer` has waited.
    timer_waits: Cell<u32>,
}

/// Octets of what is kept of a user, but for the name: a million of them are to fit.
const MAX_KEPT: usize = 4096;

/// What `user.auth` may depend on for its answer to hold for other requests of the user.
pub(super) const OF_THE_USER: [&str; 4] = ["username", "domain", "realm", "protocol"];

impl Desk {
    /// Works until another setup comes, or none can any more.
    async fn work(
        self: &Rc<Self>,
        questions: &Receiver<Parked>,
        bell: &Notify,
        coming: &mut mpsc::UnboundedReceiver<Order>,
        timer: Duration,
    ) -> Option<Setup> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Of scripts, nobody knows what they will install.
        let is_remote = self.has_modules
            || MessageName::ALL.into_iter().any(|name| self.chain.has_remote(name));
        let mut timer = tokio::time::interval(timer);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for parked in questions.try_iter() {
                self.take(parked);
            }
            tokio::select! {
                () = bell.notified() => {}
                order = coming.recv() => match order {
                    Some(Order::Ask(asked)) => {
                        tokio::task::spawn_local(engine::answer(self.chain.clone(), asked));
                    }
                    Some(Order::Reload(setup)) => return Some(*setup),
                    None => return None,
                },
                _ = look.tick(), if is_remote => {
                    self.shared.status.set_faults(self.chain.faults());
                    if self.chain.has_followers() {
                        self.follow();
                    }
                }
                _ = timer.tick() => self.tick(),
            }
        }
    }

    /// Has a question answered, along with others of the same user.
    fn take(self: &Rc<Self>, parked: Parked) {
        let now = self.shared.clock.now();
        let rules = self.shared.rules.load_full();
        let user = match parked.question {
            Question::Register | Question::Route | Question::Resolve | Question::AuthFailed => None,
            Question::Auth | Question::Renew => request::read(&parked, &rules, |request, aor| {
                request::user_of(request, aor, &rules, now)
            })
            .flatten(),
        };
        let desk = Rc::clone(self);
        match user.filter(|_| rules.elsewhere.fetched.is_some() && self.keeps()) {
            None => {
                tokio::task::spawn_local(async move { desk.answer(rules, parked).await });
            }
            Some(user) => {
                let mut flights = self.flights.borrow_mut();
                if let Some(others) = flights.get_mut(&user) {
                    return others.push(parked);
                }
                flights.insert(user.clone(), Vec::new());
                tokio::task::spawn_local(async move { desk.answer_all(rules, user, parked).await });
            }
        }
    }

    /// Answers one question on its own.
    async fn answer(&self, rules: Arc<Rules>, mut parked: Parked) {
        match parked.question {
            Question::Register => {
                let (registered, extra) = self.register(&rules, &parked).await;
                (parked.learned.registered, parked.learned.extra) = (Some(registered), extra);
            }
            Question::Route => {
                let (routed, extra) = self.route(&rules, &parked).await;
                (parked.learned.routed, parked.learned.extra) = (Some(routed), extra);
            }
            Question::Resolve => self.resolver.resolve_all(&mut parked.learned.hops).await,
            Question::AuthFailed => self.tell_failure(&rules, &parked).await,
            Question::Auth | Question::Renew => {
                let (account, extra) = self.authenticate(&rules, &parked, None).await;
                (parked.learned.account, parked.learned.extra) = (Some(account), extra);
            }
        }
        self.returns.give_back(parked);
    }

    /// Answers a question, and all that come meanwhile for the same user.
    async fn answer_all(&self, rules: Arc<Rules>, user: UserKey, parked: Parked) {
        let (account, extra) = self.authenticate(&rules, &parked, Some(&user)).await;
        let others = self.flights.borrow_mut().remove(&user).unwrap_or_default();
        for mut parked in std::iter::once(parked).chain(others) {
            parked.learned.account = Some(account.clone());
            parked.learned.extra.clone_from(&extra);
            self.returns.give_back(parked);
        }
    }

    /// Whether what is said of a user now holds for the user's other requests.
    fn keeps(&self) -> bool {
        let (queries, scripts) = self.keeps;
        queries && (scripts || !self.chain.guests().want(MessageName::UserAuth))
    }

    fn context<'c>(&'c self, rules: &'c Rules) -> Context<'c> {
        let now = self.shared.clock.now();
        Context { rules, now, listeners: &self.shared.listeners }
    }

    /// Asks who a user is; header lines of the answer go with a refusal, since those of an account are
    /// among what is known of it.
    async fn authenticate(
        &self,
        rules: &Rules,
        parked: &Parked,
        user: Option<&UserKey>,
    ) -> (Learnt<Arc<Known>>, Option<Arc<[u8]>>) {
        let unknown = || (Learnt::Is(Arc::new(Known::Unknown)), None);
        let context = self.context(rules);
        let message = request::read(parked, rules, |request, aor| {
            let own = user.cloned().or_else(|| request::user_of(request, aor, rules, context.now));
            let message = request::auth(request, &parked.flow, own.as_ref(), &context)?;
            Some((own?, message))
        });
        let Some((user, asked)) = message.flatten() else { return unknown() };
        let mut message = asked.clone();
        let cache = rules.elsewhere.fetched.as_ref();
        let keeps = self.keeps();
        let generation = cache.map(|cache| cache.generation());
        let (known, is_last_word) = match self.chain.dispatch(&mut message).await {
            Dispatched::Handled { by, failed } => {
                let is_listed = &*by == LISTED;
                let told = || account(rules, &user, &asked, &message);
                // What somebody said in the place of one who could not is for this time only.
                (if is_listed { Known::Listed } else { told() }, !failed)
            }
            Dispatched::Unhandled => match reason::code_of(&message) {
                Some(401) | None => (Known::Unknown, true),
                Some(code) => (Known::Refused(code), true),
            },
            Dispatched::Failed(Failure { reason, .. }) => {
                tracing::debug!(reason, "user.auth failed");
                self.shared.status.failed(MessageName::UserAuth);
                let now = self.shared.clock.now();
                let learnt = match cache.map(|c| c.find(now, &user.username, &user.domain)) {
                    Some(Cached::Fresh(known) | Cached::Stale(known)) => Learnt::Is(known),
                    Some(Cached::Missing) | None => Learnt::Unavailable,
                };
                return (learnt, None);
            }
        };
        let known = Arc::new(known);
        // What is long is asked for again, lest it fill the memory.
        let is_kept = keeps && is_last_word && known.octets() <= MAX_KEPT;
        if let Some((cache, generation)) = cache.zip(generation).filter(|_| is_kept) {
            let now = self.shared.clock.now();
            cache.keep(now, generation, &user.username, &user.domain, &known);
        }
        let extra = matches!(*known, Known::Refused(_)).then(|| message.header_lines());
        (Learnt::Is(known), extra.flatten())
    }

    /// Asks where a request goes.
    async fn route(
        &self,
        rules: &Rules,
        parked: &Parked,
    ) -> (Learnt<Arc<Routed>>, Option<Arc<[u8]>>) {
        let context = self.context(rules);
        let message = request::read(parked, rules, |request, _| {
            request::route(request, (&parked.flow, &parked.learned), &context)
        });
        let Some(mut message) = message else {
            return (Learnt::Is(Arc::new(Routed::Unknown)), None);
        };
        match route::route(&self.chain, rules, &mut message).await {
            Ok(routed) => (Learnt::Is(Arc::new(routed)), message.header_lines()),
            Err(Failure { reason, .. }) => {
                tracing::debug!(reason, "call.route failed");
                self.shared.status.failed(MessageName::CallRoute);
                (Learnt::Unavailable, None)
            }
        }
    }

    /// `user.authfail`, to those who want to hear of wrong passwords.
    async fn tell_failure(&self, rules: &Rules, parked: &Parked) {
        let context = self.context(rules);
        let message = request::read(parked, rules, |request, aor| {
            let user = request::user_of(request, aor, rules, context.now);
            request::auth(request, &parked.flow, user.as_ref(), &context)
        });
        if let Some(mut message) = message.flatten() {
            message.name = MessageName::UserAuthfail;
            self.chain.broadcast(&mut message).await;
        }
    }

    /// Asks whether a phone may be bound.
    async fn register(
        &self,
        rules: &Rules,
        parked: &Parked,
    ) -> (Learnt<Registered>, Option<Arc<[u8]>>) {
        let context = self.context(rules);
        let message = request::read(parked, rules, |request, aor| {
            let aor = aor?;
            let binding = request::register(request, Some(aor), parked, &context)?;
            Some((aor.as_bytes().to_vec(), binding))
        });
        let Some((aor, request::Asked { mut message, contact })) = message.flatten() else {
            return (Learnt::Is(Registered::Unhandled), None);
        };
        let asked = message.get("expires").map(str::to_owned);
        message.is_question = true;
        let follows = self.chain.has_followers();
        while follows && !self.follower.borrow_mut().begin(&aor) {
            tokio::time::sleep(BUSY).await;
        }
        let dispatched = self.chain.dispatch(&mut message).await;
        let now = self.shared.clock.now();
        let (asked, learnt) = match dispatched {
            // A hook's refusal, which leaves nobody else a say.
            Dispatched::Handled { .. } if message.retval == "-" => {
                let code = reason::code_of(&message).unwrap_or(403);
                (Asked::Nothing, Learnt::Is(Registered::Refused(code)))
            }
            Dispatched::Handled { failed, .. } => {
                let expires = message.get("expires");
                let granted = expires.filter(|expires| Some(*expires) != asked.as_deref());
                let granted = granted.and_then(|text| DeltaSeconds::granted(text.as_bytes()));
                let interval = expires.and_then(|text| DeltaSeconds::granted(text.as_bytes()));
                let username = message.get("username").unwrap_or_default();
                let qualified = username.as_bytes() == aor && split_name(&aor).is_some();
                let until = Deadline::after(now, interval.unwrap_or_default());
                let present = Present::at(&contact, &parked.flow, until);
                // Who could not be asked is still to be told.
                let taken = Asked::Taken { present, qualified };
                let asked = if failed { Asked::Unknown } else { taken };
                (asked, Learnt::Is(Registered::Taken { granted }))
            }
            Dispatched::Unhandled => {
                let code = reason::code_of(&message);
                let registered = code.map_or(Registered::Unhandled, Registered::Refused);
                (Asked::Nothing, Learnt::Is(registered))
            }
            Dispatched::Failed(Failure { reason, .. }) => {
                tracing::debug!(reason, "user.register failed");
                self.shared.status.failed(MessageName::UserRegister);
                // It may have been written all the same.
                (Asked::Unknown, Learnt::Unavailable)
            }
        };
        if follows {
            self.follower.borrow_mut().end(now, &aor, asked);
        }
        (learnt, message.header_lines())
    }

    /// Has the handlers told of what has changed.
    fn follow(self: &Rc<Self>) {
        let trail = self.shared.location.trail(TRACES);
        let mut follower = self.follower.borrow_mut();
        follower.look(self.shared.clock.now(), &self.shared.location, trail);
        self.shared.status.set_behind(follower.len());
        if !self.is_telling.get() && follower.is_behind() {
            self.is_telling.set(true);
            let desk = Rc::clone(self);
            tokio::task::spawn_local(async move {
                while desk.tell_next().await {}
                desk.is_telling.set(false);
            });
        }
    }

    /// Tells the handlers of the next AoRs; whether there were any, and it went well.
    async fn tell_next(&self) -> bool {
        let rules = self.shared.rules.load_full();
        let mut batch = {
            let mut follower = self.follower.borrow_mut();
            follower.next(&self.shared.location, &self.context(&rules))
        };
        if batch.is_empty() {
            return false;
        }
        let dispatched = self.chain.dispatch_all(std::mem::take(&mut batch.messages)).await;
        let now = self.shared.clock.now();
        let failure = self.follower.borrow_mut().done(now, batch, dispatched);
        if let Some(reason) = &failure {
            tracing::debug!(reason, "telling failed");
            self.shared.status.failed(MessageName::UserRegister);
        }
        failure.is_none()
    }

    /// At the end: tells what is to be told.
    async fn tell_all(&self) {
        let trail = self.shared.location.trail(TRACES);
        let now = self.shared.clock.now();
        self.follower.borrow_mut().look(now, &self.shared.location, trail);
        while self.tell_next().await {}
    }

    /// `engine.timer`. A query of it may take rows for ended that are yet to be renewed, so it waits
    /// for those.
    fn tick(self: &Rc<Self>) {
        if !self.chain.has_remote(MessageName::EngineTimer) {
            return;
        }
        let waited = self.timer_waits.get();
        if waited < MOST_WAITS && self.follower.borrow().is_catching_up() {
            return self.timer_waits.set(waited + 1);
        }
        self.timer_waits.set(0);
        let desk = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let mut message = Message::new(MessageName::EngineTimer);
            message.set("time", desk.shared.clock.now().unix.to_string());
            // Scripts have their own, each second.
            desk.chain.broadcast_to_fixed(&mut message).await;
        });
    }
}

/// What is checked against: hashes that are given, else those of a password; `None` without any.
/// Hashes that can't be read are no one's: `*` and the like lock an account.
pub(super) fn secret_of<'v>(
    rules: &Rules,
    username: &[u8],
    password: &str,
    value: impl Fn(&str) -> Option<&'v str>,
) -> Option<Secret> {
    let policy = rules.authenticator.policy();
    let [md5, sha256, sha512_256] = HASHES.map(|name| value(name).map(str::as_bytes));
    let given = Ha1Set {
        md5: md5.and_then(parse_hex),
        sha256: sha256.and_then(parse_hex),
        sha512_256: sha512_256.and_then(parse_hex),
    };
    if given != Ha1Set::default() {
        return Some(Secret::Ha1(given));
    }
    if HASHES.iter().any(|name| value(name).is_some_and(|hash| !hash.is_empty())) {
        return Some(Secret::NoPassword);
    }
    let (realm, password) = (policy.realm.as_bytes(), password.as_bytes());
    let hashed = || Ha1Set::of_password(&policy.algorithms, username, realm, password);
    (!password.is_empty()).then(|| Secret::Ha1(hashed()))
}

/// Forgets users that the database says have changed.
async fn forget(desk: Rc<Desk>, mut notifications: mpsc::Receiver<Notification>) {
    let mut is_first = true;
    while let Some(notification) = notifications.recv().await {
        let is_begun = std::mem::take(&mut is_first);
        let Some(cache) = desk.shared.rules.load().elsewhere.fetched.clone() else { continue };
        match notification {
            Notification::Notified { payload, .. } if !payload.is_empty() => {
                cache.forget(payload.as_bytes());
            }
            // At the start there is nothing to forget, and perhaps everybody has just been loaded.
            Notification::Listening if is_begun => {}
            // Whatever was told while nobody listened is lost.
            Notification::Notified { .. } | Notification::Listening => cache.clear(),
        }
    }
}

/// Loads all accounts; tries again until it went well.
async fn load_all(desk: Rc<Desk>, preload: Preload) {
    const AGAIN: Duration = Duration::from_secs(2);
    let Shared { rules, clock, status, .. } = &desk.shared;
    let mut again = 3_u32;
    loop {
        let rules = rules.load_full();
        let Some(cache) = &rules.elsewhere.fetched else { break };
        let generation = cache.generation();
        match preload.run(&rules, cache, clock.now()).await {
            Ok(accounts) if cache.generation() == generation => {
                break tracing::info!(accounts, "loaded accounts");
            }
            // Of what was changed meanwhile, nobody knows whether it was read before or after.
            Ok(_) if again == 0 => {
                cache.clear();
                break tracing::warn!("accounts change faster than they can be loaded");
            }
            Ok(_) => again -= 1,
            Err(error) => tracing::error!("[cache] preload: {error}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    status.set_preloading(false);
}

/// The account that a handled `user.auth` tells of.
fn account(rules: &Rules, user: &UserKey, asked: &Message, told: &Message) -> Known {
    if told.retval == "-" {
        return Known::Refused(reason::code_of(told).unwrap_or(403));
    }
    let secret = secret_of(rules, &user.username, &told.retval, |name| told.get(name));
    let secret = secret.unwrap_or(Secret::AnyPassword);
    let changed = told.params().filter(|(name, value)| asked.get(name) != Some(value));
    let params: Box<[(Box<str>, Box<str>)]> = changed
        .filter(|(name, _)| !HASHES.contains(name))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let expires = params.iter().find(|(name, _)| **name == *"expires");
    let granted = expires.and_then(|(_, value)| DeltaSeconds::granted(value.as_bytes()));
    Known::Account(Fetched { secret, granted, params })
}
