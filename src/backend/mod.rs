//! Where accounts come from.

pub mod cdr;
pub mod chain;
mod dns;
pub mod engine;
mod follow;
mod garbage;
pub mod hook;
mod listed;
pub mod message;
mod preload;
mod reason;
pub mod regfile;
mod register;
mod request;
mod route;
pub mod run;
pub mod script;
mod setup;
mod spool;
pub mod sql;
pub mod status;

pub use self::{
    cdr::CallEvents,
    run::{BackEnds, Inbox, Setup, Shared},
    setup::{Files, elsewhere, setup},
    spool::SpoolFolder,
    status::Status,
};

use std::path::Path;

use crate::auth::Secret;
use crate::config::cdrfile::{self, CdrFile};
use crate::config::extmodule::{self, Extmodule};
use crate::config::hooks::Event;
use crate::config::register::{self as register_conf, Register};
use crate::config::resolve::{self, Host, Overrides};
use crate::config::settings::Config;
use crate::config::{Accepted, Findings, Place, Refused};
use crate::registrar::Policy;
use crate::subscribers::Account;

/// All that the configuration folder says.
#[derive(Debug)]
pub struct Loaded {
    /// `bindery.conf`, with the command line.
    pub config: Config,
    /// `regfile.conf`.
    pub regfile: regfile::Regfile,
    /// `register.conf` with its accounts, if there is one.
    pub register: Option<Register>,
    /// `cdrfile.conf`, if it names a file.
    pub cdrfile: Option<CdrFile>,
    /// `extmodule.conf`, if there is one.
    pub scripts: Option<Extmodule>,
}

/// Warns of what is legal, and seldom meant.
fn advise(
    folder: &Path,
    config: &Config,
    regfile: &regfile::Regfile,
    has_others: bool,
    findings: &mut Findings,
) {
    let place = || Place::of_file(folder.join(regfile::FILE));
    let Policy { auth_required, max_bindings, .. } = config.registrar;
    if regfile.general.autocreate && !auth_required && max_bindings == 0 {
        let what = "autocreate=yes with auth_required=no and max_bindings=0: strangers can fill \
                    the memory";
        findings.warning(place(), what);
    }
    if auth_required && !has_others {
        let without = |account: &Account<'_>| matches!(account.secret(), Secret::NoPassword);
        let mut silent = regfile.subscribers.iter().filter(without);
        if let Some(first) = silent.next() {
            let more = silent.count();
            let others = if more == 0 { String::new() } else { format!(" and {more} more") };
            let what =
                format!("[{first:?}]{others}: neither password nor ha1, so no way to register");
            findings.warning(place(), what);
        }
    }
}

/// Warns of a query that has to be run for each request.
fn advise_register(
    folder: &Path,
    config: &Config,
    register: Option<&Register>,
    findings: &mut Findings,
) {
    let auth = register.and_then(|r| r.handler(register_conf::Message::UserAuth));
    let place = || Place::of_file(folder.join(register_conf::FILE));
    let elsewhere = elsewhere(config, &regfile::Regfile::default(), register, None);
    if auth.is_some() && elsewhere.fetched.is_none() {
        let known = run::OF_THE_USER.map(|name| format!("${{{name}}}")).join(", ");
        let what = format!(
            "[user.auth] the answer may depend on more than {known}, so it is not kept: the query \
             is run for every request"
        );
        findings.warning(place(), what);
    }
    if let (Some(query), Some(auth)) = (&config.cache.preload, auth) {
        let account = register.and_then(|register| register.account(&auth.account));
        let compiled = account.map(|account| sql::Statements::compile(query, account.dialect()));
        if let Some(Err(error)) = compiled {
            let what = format!("[cache] preload: {error}");
            findings.error(Place::of_file(folder.join(resolve::FILE)), what);
        }
    }
    if config.cache.preload.is_some() && elsewhere.fetched.is_none() {
        let what =
            "[cache] preload of bindery.conf: there is no [user.auth] whose answers are kept";
        findings.warning(place(), what);
    }
}

/// Reads all files of the configuration folder, at start, at a reload and for `check`.
///
/// # Errors
/// [`Refused`] with every mistake of every file: nothing is taken unless all is valid.
pub fn load(
    folder: &Path,
    overrides: &Overrides,
    host: &Host,
) -> Result<Accepted<Loaded>, Refused> {
    let mut findings = Findings::default();
    let config = resolve::read(folder, overrides, host, &mut findings);
    let register = match &overrides.db {
        Some(path) => {
            if !path.exists() {
                let path = path.display();
                let what =
                    format!("there is no such file: `bindery db init --db sqlite:{path}` makes it");
                findings.error(Place::of_file(Path::new("--db")), what);
            }
            Some(register_conf::embedded(path))
        }
        None => register_conf::read(folder, &mut findings),
    };
    let asks = |message| register.as_ref().is_some_and(|r| r.handler(message).is_some());
    let scripts = extmodule::read(folder, &mut findings);
    let has_scripts = scripts.as_ref().is_some_and(Extmodule::has_modules);
    let has_hooks = config.hooks.iter().any(|hook| hook.wants(Event::Auth));
    let has_others = has_scripts || has_hooks || asks(register_conf::Message::UserAuth);
    let regfile = regfile::read(folder, &config, has_others, &mut findings);
    advise(folder, &config, &regfile, has_others, &mut findings);
    advise_register(folder, &config, register.as_ref(), &mut findings);
    let cdrfile = cdrfile::read(folder, &mut findings);
    findings.finish(Loaded { config, regfile, register, cdrfile, scripts })
}
