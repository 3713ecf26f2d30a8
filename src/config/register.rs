//! `register.conf`: which messages of Yate are answered by which queries.

use std::path::{Path, PathBuf};

use super::bounds;
use super::conf::{Conf, Section};
use super::databases::{self, Written};
use super::lenient::Lenient;
use super::nearest::{hint, section_hint};
use super::values::lossy;
use super::{Findings, Place};
use crate::backend::message::MessageName;
use crate::backend::sql::{Account, Dialect, Statements};
use crate::time::DeltaSeconds;

/// The name of the file in the configuration folder.
pub const FILE: &str = "register.conf";

/// Yate's priority of a handler, unless the file says otherwise.
const PRIORITY: i32 = 50;

/// The sections of `register.conf` that are no handlers of ours.
const OTHER_SECTIONS: [&str; 8] = [
    "general",
    "default",
    "fallback",
    "accounts",
    "resource.subscribe",
    "user.notify",
    "chan.disconnected",
    "call.answered",
];

/// Switches in `[general]` for what comes later.
const LATER: [&str; 8] = [
    "fallback",
    "chan.disconnected",
    "call.answered",
    "chan.hangup",
    "accounts",
    "subscriptions",
    "resource.subscribe",
    "user.notify",
];

/// All that `register.conf` and the files of accounts say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Register {
    /// Seconds between two runs of the `engine.timer` query.
    pub expires: DeltaSeconds,
    /// A basic regular expression: reasons of a disconnect at which fallback stops.
    pub stoperror: Option<Box<str>>,
    /// The handlers that are switched on, in the order of [`Message::ALL`].
    pub handlers: Box<[Handler]>,
    /// All accounts, those that no handler names included.
    pub accounts: Box<[Account]>,
}

impl Register {
    /// The handler of a message, if it is switched on and there is something to run.
    pub fn handler(&self, message: Message) -> Option<&Handler> {
        self.handlers.iter().find(|handler| handler.message == message)
    }

    /// The account with this name.
    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| *account.name == *name)
    }
}

/// A message that queries can answer. `call.cdr` is answered twice: by its own section and by
/// `[linetracker]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Who is that?
    UserAuth,
    /// Somebody can be reached.
    UserRegister,
    /// Somebody can't be reached any more.
    UserUnregister,
    /// Time goes by.
    EngineTimer,
    /// A call comes in.
    CallPreroute,
    /// Where does a call go?
    CallRoute,
    /// A call begins, changes, ends.
    CallCdr,
    /// The same, to count who is on the phone.
    Linetracker,
}

impl Message {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::UserAuth,
        Self::UserRegister,
        Self::UserUnregister,
        Self::EngineTimer,
        Self::CallPreroute,
        Self::CallRoute,
        Self::CallCdr,
        Self::Linetracker,
    ];

    /// The message of Yate that its section answers.
    pub fn handles(self) -> MessageName {
        match self {
            Self::UserAuth => MessageName::UserAuth,
            Self::UserRegister => MessageName::UserRegister,
            Self::UserUnregister => MessageName::UserUnregister,
            Self::EngineTimer => MessageName::EngineTimer,
            Self::CallPreroute => MessageName::CallPreroute,
            Self::CallRoute => MessageName::CallRoute,
            Self::CallCdr | Self::Linetracker => MessageName::CallCdr,
        }
    }

    /// The name of its section and of its switch in `[general]`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linetracker => "linetracker",
            other => other.handles().as_str(),
        }
    }

    fn is_about_calls_records(self) -> bool {
        self.handles() == MessageName::CallCdr
    }
}

/// A section that is switched on.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// What it answers.
    pub message: Message,
    /// Lower goes first.
    pub priority: i32,
    /// The account that its queries are run on: one of [`Register::accounts`].
    pub account: Box<str>,
    /// Run for each message; for `[call.cdr]` and `[linetracker]` see [`Handler::cdr`].
    pub query: Option<Query>,
    /// The column that becomes the message's return value.
    pub result: Option<Box<str>>,
    /// Run once at start.
    pub init: Option<Query>,
    /// `[call.route]`: whether rows without a route mean that the user is offline.
    pub offlineauto: bool,
    /// `[call.cdr]`, `[linetracker]`: whether nobody may register or call while its queries fail.
    pub critical: bool,
    /// `[call.cdr]`, `[linetracker]`: one query for each operation.
    pub cdr: Cdr,
}

impl Handler {
    /// Its queries by the names of their keys.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, &Query)> {
        let Cdr { initialize, update, status, finalize, combined } = &self.cdr;
        [
            ("query", &self.query),
            ("initquery", &self.init),
            ("cdr_initialize", initialize),
            ("cdr_update", update),
            ("cdr_status", status),
            ("cdr_finalize", finalize),
            ("cdr_combined", combined),
        ]
        .into_iter()
        .filter_map(|(name, query)| Some((name, query.as_ref()?)))
    }
}

/// The queries for the operations of a call's record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cdr {
    /// `operation=initialize`.
    pub initialize: Option<Query>,
    /// `operation=update`.
    pub update: Option<Query>,
    /// `operation=status`.
    pub status: Option<Query>,
    /// `operation=finalize`.
    pub finalize: Option<Query>,
    /// `operation=combined`.
    pub combined: Option<Query>,
}

/// What is run for a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// This.
    Template(Statements),
    /// What this gives: one row with one column, the template. To be asked for at start.
    Stored(Statements),
}

impl Query {
    /// The statements that can be prepared before anything is asked.
    pub fn statements(&self) -> &Statements {
        match self {
            Self::Template(statements) | Self::Stored(statements) => statements,
        }
    }
}

/// Reads `register.conf` and the accounts of a folder; `None` if there is no `register.conf`.
///
/// The result is to be used only if `findings` holds no error.
pub fn read(folder: &Path, findings: &mut Findings) -> Option<Register> {
    let accounts = databases::read(folder, findings);
    let conf = Conf::read(&folder.join(FILE), findings)?;
    Some(resolve(&conf, accounts, findings))
}

/// The handlers for a file of SQLite with the tables of `deploy/sql/sqlite.sql`, as
/// `--db sqlite:PATH` wants them without any file of configuration.
pub fn embedded(path: &Path) -> Register {
    const QUERIES: &[u8] = include_bytes!("../../deploy/sql/yate/sqlite.conf");
    let mut findings = Findings::default();
    let conf = Conf::parse(Path::new("(built in) register.conf"), QUERIES, &mut findings);
    let account = databases::sqlite_file("default", path);
    let place = Place::of_file(PathBuf::from("--db"));
    resolve(&conf, vec![Written { account, place }], &mut findings)
}

fn resolve(conf: &Conf, accounts: Vec<Written>, findings: &mut Findings) -> Register {
    refuse_sections(conf, findings);
    let mut general = Lenient::new("general", conf.section(b"general"), findings);
    let expires = DeltaSeconds(general.number("expires", &bounds::TIMER));
    let stoperror = general.text("stoperror").map(Into::into);
    let wanted = Message::ALL.map(|message| (message, general.flag(message.name(), false)));
    for key in LATER {
        if general.flag(key, false) {
            general.warn(key, "known, but not supported yet");
        }
    }
    general.finish();

    let mut default = Lenient::new("default", conf.section(b"default"), findings);
    let priority = default.priority("priority", PRIORITY);
    let account = default.text("account");
    default.finish();

    let accounts: Vec<Account> = accounts.into_iter().map(|written| written.account).collect();
    let defaults = Defaults { priority, account, accounts: &accounts };
    let handlers: Vec<Handler> = wanted
        .into_iter()
        .filter(|(_, on)| *on)
        .filter_map(|(message, _)| defaults.handler(message, conf, findings))
        .collect();
    Register { expires, stoperror, handlers: handlers.into(), accounts: accounts.into() }
}

/// Warns of sections nobody knows.
fn refuse_sections(conf: &Conf, findings: &mut Findings) {
    let known = || OTHER_SECTIONS.into_iter().chain(Message::ALL.map(Message::name));
    for Section { name, place, .. } in conf.sections() {
        let name = lossy(name);
        if name != "chan.hangup" && !known().any(|known| known == name) {
            let what = format!("unknown section [{name}]{}", section_hint(&name, known()));
            findings.warning(place.clone(), what);
        }
    }
}

/// What a handler's section needn't say.
struct Defaults<'c> {
    priority: i32,
    account: Option<&'c str>,
    accounts: &'c [Account],
}

impl Defaults<'_> {
    /// A handler; `None` if there is nothing to run.
    fn handler(&self, message: Message, conf: &Conf, findings: &mut Findings) -> Option<Handler> {
        let name = message.name();
        let section = conf.section(name.as_bytes());
        if section.is_none() {
            let what = format!("{name} is switched on, and there is no section [{name}]");
            findings.warning(switch(conf, name), what);
            return None;
        }
        let errors = findings.errors.len();
        let mut keys = Lenient::new(name, section, findings);
        let priority = keys.priority("priority", self.priority);
        let account = self.account(&mut keys);
        let dialect = account.map(Account::dialect);
        let mut query = |key: &'static str| compiled(&mut keys, key, dialect);
        let init = query("initquery");
        let general = query("query");
        let mut cdr = Cdr::default();
        if message.is_about_calls_records() {
            cdr = Cdr {
                initialize: query("cdr_initialize"),
                update: query("cdr_update"),
                status: query("cdr_status"),
                finalize: query("cdr_finalize"),
                combined: query("cdr_combined"),
            };
            // One that isn't written is `query`; one that is empty is none.
            for (key, operation) in [
                ("cdr_initialize", &mut cdr.initialize),
                ("cdr_update", &mut cdr.update),
                ("cdr_status", &mut cdr.status),
                ("cdr_finalize", &mut cdr.finalize),
            ] {
                if section.is_some_and(|section| section.first(key.as_bytes()).is_none()) {
                    operation.clone_from(&general);
                }
            }
        }
        let query = if message.is_about_calls_records() { None } else { general };
        let result = match message {
            Message::UserAuth | Message::CallPreroute | Message::CallRoute => {
                keys.text("result").map(Into::into)
            }
            _ => None,
        };
        let offlineauto = message == Message::CallRoute && keys.flag("offlineauto", true);
        let critical =
            message.is_about_calls_records() && keys.flag("critical", message == Message::CallCdr);
        keys.finish();
        let handler = Handler {
            message,
            priority,
            account: account?.name.clone(),
            query,
            result,
            init,
            offlineauto,
            critical,
            cdr,
        };
        if handler.queries().next().is_none() {
            // One that was written and refused is told already.
            if findings.errors.len() > errors {
                return None;
            }
            let what = format!("[{name}] is switched on, and has no query");
            findings.warning(section?.place.clone(), what);
            return None;
        }
        Some(handler)
    }

    /// The account of a handler. Yate takes its name from the message where it has a `${}`; then
    /// nothing could be prepared, nor checked.
    fn account(&self, keys: &mut Lenient<'_, '_>) -> Option<&Account> {
        let Some(name) = keys.text("account").or(self.account) else {
            keys.error("account", "no account is named, neither here nor in [default]");
            return None;
        };
        if name.contains("${") {
            keys.error("account", "expected a name without ${}");
            return None;
        }
        let found = self.accounts.iter().find(|account| *account.name == *name);
        if found.is_none() {
            let hint = hint(name, self.accounts.iter().map(|account| &*account.name));
            let files = databases::FILES.join(", ");
            keys.error("account", &format!("there is no [{name}] in {files}{hint}"));
        }
        found
    }
}

/// Where a switch of `[general]` is.
fn switch(conf: &Conf, name: &str) -> Place {
    let general = conf.section(b"general");
    let key = general.and_then(|general| general.first(name.as_bytes()));
    let place = key.map(|key| key.place.clone());
    place.unwrap_or_else(|| Place::of_file(PathBuf::from(FILE)))
}

/// The query of a key. Without a dialect, that is without an account, an error was told already.
fn compiled(
    keys: &mut Lenient<'_, '_>,
    key: &'static str,
    dialect: Option<Dialect>,
) -> Option<Query> {
    let text = keys.text(key)?;
    let (template, stored) = match text.strip_prefix('@') {
        Some(template) => (template, true),
        None => (text, false),
    };
    match Statements::compile(template, dialect?) {
        Ok(statements) if stored => Some(Query::Stored(statements)),
        Ok(statements) => Some(Query::Template(statements)),
        Err(error) => {
            keys.error(key, &error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::databases::FILES;
    use super::*;

    const ACCOUNTS: &str = "[default]\n[other]\n";

    /// Reads a folder with this `register.conf` and two accounts of PostgreSQL.
    fn read_text(register: &str) -> (Register, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("register.conf"), register).unwrap();
        std::fs::write(folder.path().join("pgsqldb.conf"), ACCOUNTS).unwrap();
        let mut findings = Findings::default();
        let register = read(folder.path(), &mut findings).unwrap();
        let prefix = format!("{}/", folder.path().display());
        let errors = findings.errors.iter().map(|fault| format!("error {fault}"));
        let warnings = findings.warnings.iter().map(|fault| format!("warning {fault}"));
        (register, errors.chain(warnings).map(|line| line.replace(&prefix, "")).collect())
    }

    fn sql(query: Option<&Query>) -> &str {
        query.map_or("", |query| query.statements().list()[0].sql())
    }

    #[test]
    fn handlers_take_what_default_says_unless_they_say_it_themselves() {
        let (register, told) = read_text(
            "[general]\nuser.auth=yes\ncall.route=on\nengine.timer=no\nexpires=10\n\
             stoperror=busy\n[default]\naccount=default\npriority=40\n\
             [user.auth]\nquery=SELECT password FROM users WHERE username='${username}' \\\n\
             \x20 AND password<>''\nresult=password\n\
             [call.route]\naccount=other\npriority=120\nofflineauto=no\nquery=SELECT 1\n\
             [engine.timer]\nquery='\n",
        );
        assert_eq!(told, [""; 0]);
        assert_eq!(
            (register.expires, register.stoperror.as_deref()),
            (DeltaSeconds(10), Some("busy"))
        );
        assert_eq!(register.handlers.len(), 2);
        let auth = register.handler(Message::UserAuth).unwrap();
        assert_eq!((auth.priority, &*auth.account), (40, "default"));
        assert_eq!(auth.result.as_deref(), Some("password"));
        assert_eq!(
            sql(auth.query.as_ref()),
            "SELECT password FROM users WHERE username=$1 AND password<>''"
        );
        let route = register.handler(Message::CallRoute).unwrap();
        assert_eq!((route.priority, &*route.account, route.offlineauto), (120, "other", false));
    }

    #[test]
    fn operations_of_a_record_fall_back_to_the_query() {
        let (register, told) = read_text(
            "[general]\ncall.cdr=yes\nlinetracker=yes\n[default]\naccount=default\n\
             [call.cdr]\nquery=SELECT 1\ncdr_update=\ncdr_finalize=@SELECT '3'\n\
             [linetracker]\ninitquery=UPDATE users SET inuse=0\n",
        );
        assert_eq!(told, [""; 0]);
        let cdr = register.handler(Message::CallCdr).unwrap();
        assert!(cdr.critical && cdr.query.is_none());
        assert_eq!(sql(cdr.cdr.initialize.as_ref()), "SELECT 1");
        assert_eq!(cdr.cdr.update, None);
        assert!(matches!(cdr.cdr.finalize, Some(Query::Stored(_))));
        assert_eq!(cdr.cdr.combined, None);
        let lines = register.handler(Message::Linetracker).unwrap();
        assert!(!lines.critical);
        assert_eq!(lines.queries().count(), 1);
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        let (_, told) = read_text(
            "[general]\nuser.auth=yes\nuser.register=yes\nuser.unregister=yes\ncall.route=1\n\
             call.preroute=yes\nengine.timer=yes\nfallback=yes\nsubscriptions=no\n\
             [user.auth]\naccount=defualt\nquery=SELECT 'x\n\
             [user.register]\naccount=default\nquery=UPDATE users SET x='${data' WHERE true\n\
             [user.unregister]\naccount=${account}\n\
             [call.preroute]\naccount=other\nresutl=x\n[user.atuh]\n",
        );
        assert_eq!(
            told,
            [
                "error register.conf:11: [user.auth] account: there is no [defualt] in pgsqldb.conf, \
                 mysqldb.conf, sqlitedb.conf: did you mean default?",
                "error register.conf:15: [user.register] query: `UPDATE users SET x='${data' WHERE \
                 true`, column 21: expected the } that ends this ${",
                "error register.conf:17: [user.unregister] account: expected a name without ${}",
                "warning register.conf:21: unknown section [user.atuh]: did you mean [user.auth]?",
                "warning register.conf:5: [general] call.route=1: expected yes or no; the default \
                 stands",
                "warning register.conf:8: [general] fallback: known, but not supported yet",
                "warning register.conf:7: engine.timer is switched on, and there is no section \
                 [engine.timer]",
                "warning register.conf:20: [call.preroute] unknown key resutl: did you mean result?",
                "warning register.conf:18: [call.preroute] is switched on, and has no query",
            ]
        );
    }

    #[test]
    fn the_embedded_handlers_stand() {
        let register = embedded(Path::new("users.db"));
        assert!(register.handler(Message::UserAuth).is_some());
        assert!(register.handler(Message::CallRoute).is_some());
        assert_eq!(register.account("default").map(Account::dialect), Some(Dialect::Sqlite));
    }

    #[test]
    fn the_ready_made_queries_compile() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sql");
        for (engine, file) in FILES.into_iter().zip(["postgresql", "mysql", "sqlite"]) {
            for tables in ["yate", "kamailio", "opensips"] {
                let queries = deploy.join(tables).join(format!("{file}.conf"));
                if tables != "yate" && file == "sqlite" {
                    continue;
                }
                let folder = tempfile::tempdir().unwrap();
                std::fs::copy(&queries, folder.path().join(FILE)).unwrap();
                std::fs::write(folder.path().join(engine), "[default]\ndatabase=x\n").unwrap();
                let mut findings = Findings::default();
                let register = read(folder.path(), &mut findings).unwrap();
                let Findings { errors, warnings, .. } = findings;
                assert_eq!((errors, warnings), (vec![], vec![]), "{}", queries.display());
                assert!(register.handlers.len() >= 5, "{}", queries.display());
            }
        }
    }
}
