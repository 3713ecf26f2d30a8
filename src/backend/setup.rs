//! From the configuration to handlers, and to what workers go by.

use std::{
    cell::Cell,
    collections::{HashMap, hash_map},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    cdr::{File, TakesRecords},
    chain::{Failure, Handler, Handles, Handling},
    listed::{Listed, has_own_routes},
    message::{Message, MessageName},
    preload::{self, Preload},
    regfile::{General, Regfile},
    register::{Critical, Section},
    run::{Made, OF_THE_USER, Setup, Shared},
    sql::{Account, Database, Notification, Statements},
};
use crate::{
    config::{
        cdrfile::CdrFile,
        extmodule::Extmodule,
        hooks::Event,
        register::{self, Query, Register},
        settings::{Config, Records},
    },
    subscribers::{FetchedCache, Lifetimes},
    time::DeltaSeconds,
    worker::{AskAuth, AskRegister, Elsewhere, Installed, Scripts},
};

/// How long `engine.timer` waits where nobody says.
const TIMER: Duration = Duration::from_secs(30);

/// The files that tell of back ends, besides `bindery.conf` and `regfile.conf`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Files {
    /// `register.conf` with its accounts.
    pub register: Option<Register>,
    /// `cdrfile.conf`, if it names a file.
    pub cdrfile: Option<CdrFile>,
    /// `extmodule.conf`.
    pub scripts: Option<Extmodule>,
}

/// When workers have to ask, by these files. Nothing is cached yet.
pub fn elsewhere(
    config: &Config,
    regfile: &Regfile,
    register: Option<&Register>,
    scripts: Option<&Extmodule>,
) -> Elsewhere {
    let general = &regfile.general;
    // Who calls may have a say in that, by parameters of the own section.
    let has_own_routes = has_own_routes(&regfile.subscribers);
    let routes = |register: &Register| {
        [register::Message::CallPreroute, register::Message::CallRoute]
            .into_iter()
            .any(|message| register.handler(message).is_some())
    };
    let scripts = scripts.filter(|scripts| scripts.has_modules());
    let auth = register.and_then(|register| register.handler(register::Message::UserAuth));
    let has_hook = |event| config.hooks.iter().any(|hook| hook.wants(event));
    let asks = |register: &Register| register.handler(register::Message::UserRegister).is_some();
    let kept = scripts.map(|scripts| scripts.cache).filter(|kept| *kept > DeltaSeconds(0));
    let auth_hooks = || config.hooks.iter().filter(|hook| hook.wants(Event::Auth));
    let of_queries = auth.map(|_| config.cache.lifetimes.found);
    let of_hooks = auth_hooks().map(|hook| hook.cache).min();
    let found = [of_queries, kept, of_hooks].into_iter().flatten().min();
    let found = found.filter(|_| keeps_queries(config, register) && keeps_hooks(config));
    let size = usize::try_from(config.cache.size).unwrap_or(usize::MAX);
    let cache = |found| FetchedCache::new(size, Lifetimes { found, ..config.cache.lifetimes });
    let installed = Arc::new(Installed::default());
    // Until the first of them has come, somebody is to say that none is there.
    installed.set(AskAuth::AfterListed, true, false);
    Elsewhere {
        auth: auth
            .map(|auth| auth.priority)
            .into_iter()
            .chain(auth_hooks().map(|hook| hook.priority))
            .map(|priority| match priority < general.auth {
                true => AskAuth::BeforeListed,
                false => AskAuth::AfterListed,
            })
            .max()
            .unwrap_or_default(),
        register: if register.is_some_and(asks) || has_hook(Event::Register) {
            config.backend.register_wait
        } else {
            AskRegister::Never
        },
        // A script may want to hear of each call.
        route: has_own_routes
            || register.is_some_and(routes)
            || scripts.is_some()
            || has_hook(Event::Route),
        fetched: found.map(|found| Arc::new(cache(found))),
        scripts: scripts.map(|_| Scripts { installed, register: config.backend.register_wait }),
    }
}

/// Whether what hooks say of a user may be kept.
fn keeps_hooks(config: &Config) -> bool {
    let mut asked = config.hooks.iter().filter(|hook| hook.wants(Event::Auth));
    asked.all(|hook| hook.cache > DeltaSeconds(0))
}

/// Whether what queries say of a user depends on nothing but who that is.
fn keeps_queries(config: &Config, register: Option<&Register>) -> bool {
    // In a flat namespace the domain is not part of who a user is.
    let is_flat = config.general.domains.is_empty();
    let is_of_the_user = |name: &str| OF_THE_USER.contains(&name) && !(is_flat && name == "domain");
    let auth = register.and_then(|register| register.handler(register::Message::UserAuth));
    let Some(auth) = auth else { return true };
    match &auth.query {
        Some(Query::Template(statements)) => statements.parameters().all(is_of_the_user),
        Some(Query::Stored(_)) | None => false,
    }
}

/// What the back ends are set up with by these files.
pub fn setup(
    config: &Config,
    general: &General,
    Files { register, cdrfile, scripts }: Files,
) -> Setup {
    let timer = register.as_ref().map_or(TIMER, |r| Duration::from_secs(r.expires.0.into()));
    let keeps_queries = keeps_queries(config, register.as_ref()) && keeps_hooks(config);
    let hooks = (config.hooks.clone(), config.calls.cdr);
    let (general, listed) = (general.clone(), general.auth);
    let allow_empty_password = config.backend.allow_empty_password;
    let preload = config.cache.preload.clone();
    let legs = config.calls.cdr;
    let handlers = Box::new(move |shared: &Shared| {
        let register = register.unwrap_or_default();
        let mut made = make(register, &general, (allow_empty_password, legs), preload, shared);
        let file = cdrfile.map(|cdrfile| Rc::new(File::new(cdrfile, legs)) as Rc<dyn TakesRecords>);
        made.records.extend(file);
        made
    });
    let queue = usize::try_from(config.backend.queue).unwrap_or(usize::MAX);
    let (on_error, scripts) = (config.backend.on_error, scripts.unwrap_or_default());
    let dns = config.calls.dns.clone();
    Setup { handlers, on_error, queue, timer, scripts, hooks, listed, keeps_queries, dns }
}

fn make(
    register: Register,
    general: &General,
    judged: (bool, Records),
    preload: Option<Box<str>>,
    shared: &Shared,
) -> Made {
    let mut made = Made {
        handlers: vec![Rc::new(Listed::new(shared, general))],
        records: Vec::new(),
        notifications: Vec::new(),
        preload: None,
    };
    let critical = Critical::new(Cell::new(false));
    let mut databases: HashMap<Box<str>, Result<Database, String>> = HashMap::new();
    for section in &register.handlers {
        let database = match databases.entry(section.account.clone()) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(unknown) => {
                let account = register.account(&section.account);
                unknown.insert(open(account, &mut made.notifications))
            }
        };
        let is_about_records = section.message.handles() == MessageName::CallCdr;
        let handler: Rc<dyn Handler> = match database {
            Ok(database) => {
                if section.message == register::Message::UserAuth {
                    made.preload = preload.as_deref().and_then(|query| {
                        let account = register.account(&section.account)?;
                        preload_of(query, account, section.result.clone())
                    });
                }
                let handler = Rc::new(Section::new(
                    section.clone(),
                    database.clone(),
                    Rc::clone(&critical),
                    judged,
                    Arc::clone(&shared.status),
                ));
                if is_about_records {
                    made.records.push(Rc::clone(&handler) as Rc<dyn TakesRecords>);
                }
                handler
            }
            Err(fault) => {
                let handler = Rc::new(Broken {
                    name: "register".into(),
                    message: section.message,
                    priority: section.priority,
                    fault: fault.clone(),
                });
                if is_about_records {
                    made.records.push(Rc::clone(&handler) as Rc<dyn TakesRecords>);
                }
                handler
            }
        };
        made.handlers.push(handler);
    }
    made
}

fn open(
    account: Option<&Account>,
    notifications: &mut Vec<mpsc::Receiver<Notification>>,
) -> Result<Database, String> {
    let account = account.ok_or("there is no such account")?;
    let database = Database::open(account).map_err(|error| error.to_string())?;
    if !account.listen.is_empty() {
        notifications.extend(database.listen(&account.listen));
    }
    Ok(database)
}

fn preload_of(query: &str, account: &Account, result: Option<Box<str>>) -> Option<Preload> {
    // A connection of its own, since servers hold it to the account's timeout.
    let patient = Account { timeout: preload::PATIENCE, poolsize: 1, ..account.clone() };
    let statements =
        Statements::compile(query, account.dialect()).map_err(|error| error.to_string());
    let database = Database::open(&patient).map_err(|error| error.to_string());
    match statements.and_then(|statements| Ok((statements, database?))) {
        Ok((statements, database)) => Some(Preload { statements, database, result }),
        Err(error) => {
            tracing::error!("[cache] preload: {error}");
            None
        }
    }
}

/// A section whose account can't be used.
#[derive(Debug)]
struct Broken {
    name: Rc<str>,
    message: register::Message,
    priority: i32,
    fault: String,
}

impl Broken {
    fn failure(&self) -> Failure {
        Failure { reason: self.fault.clone(), is_outage: true }
    }
}

/// Records wait until the account is mended.
impl TakesRecords for Broken {
    fn lane(&self) -> &str {
        self.message.name()
    }

    fn wants(&self, record: &Message) -> bool {
        // What an earlier setup left waits in any case.
        record.get("cdrwrite") != Some("false")
    }

    fn take<'m>(&'m self, _: &'m mut Message) -> Handles<'m, Result<(), Failure>> {
        Box::pin(async { Err(self.failure()) })
    }
}

impl Handler for Broken {
    fn name(&self) -> &Rc<str> {
        &self.name
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        if name == self.message.handles() { vec![self.priority] } else { Vec::new() }
    }

    fn fault(&self) -> Option<String> {
        Some(self.fault.clone())
    }

    fn handle<'m>(&'m self, _: i32, _: &'m mut Message) -> Handles<'m> {
        let failure = self.failure();
        Box::pin(async { Handling::Failed(failure) })
    }
}
