//! `bindery db`: the tables of a database, and whether the configured queries suit it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::check::existing_folder;
use super::table::told;
use super::usage;
use crate::backend::sql::{Account, Database, Dialect, Statements};
use crate::config::databases;
use crate::config::register::{self, Query, Register};
use crate::config::{Accepted, Findings};

/// Make the tables of a database, or try the configured queries on it
#[derive(Clone, Debug, clap::Args)]
pub struct Db {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Make the tables that Yate's queries are about, where they are missing
    Init {
        #[command(flatten)]
        place: Place,
        /// The account [default: the one that all handlers name, or the only one]
        account: Option<String>,
    },
    /// Connect and have the server parse every query of register.conf; exit code 1 if one fails
    Check {
        #[command(flatten)]
        place: Place,
    },
}

/// Where the accounts are.
#[derive(Clone, Debug, clap::Args)]
struct Place {
    /// The folder with register.conf [default: ./conf, else /etc/bindery]
    #[arg(long, value_name = "DIR", conflicts_with = "db")]
    config: Option<PathBuf>,
    /// An SQLite file instead, with the built-in queries
    #[arg(long, value_name = "sqlite:PATH", value_parser = databases::sqlite_path)]
    db: Option<PathBuf>,
}

/// Runs `bindery db`.
///
/// # Errors
/// The configuration can't be used, or no database is named.
pub fn run(args: &Db) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let out = &mut io::stdout().lock();
    told(match &args.command {
        Command::Init { place, account } => {
            let register = read(place)?;
            let account = chosen(&register, account.as_deref())?;
            runtime.block_on(init(account, out))
        }
        Command::Check { place } => runtime.block_on(check(&read(place)?, out)),
    })
}

fn read(place: &Place) -> anyhow::Result<Register> {
    if let Some(path) = &place.db {
        return Ok(register::embedded(path));
    }
    let folder = existing_folder(place.config.as_deref())?;
    let mut findings = Findings::default();
    let register = register::read(&folder, &mut findings);
    let Accepted { value, warnings, .. } = findings.finish(register)?;
    for warning in warnings {
        eprintln!("{}: warning: {}", warning.place, warning.what);
    }
    value.with_context(|| {
        format!(
            "there is no {} in {}; --db sqlite:PATH needs none",
            register::FILE,
            folder.display()
        )
    })
}

/// The account to make tables in.
fn chosen<'r>(register: &'r Register, name: Option<&str>) -> anyhow::Result<&'r Account> {
    if let Some(name) = name {
        return register.account(name).with_context(|| format!("there is no account {name}"));
    }
    let mut named = register.handlers.iter().map(|handler| &*handler.account);
    let first = named.next();
    match (first, &*register.accounts) {
        (Some(first), _) if named.all(|name| name == first) => {
            register.account(first).with_context(|| format!("there is no account {first}"))
        }
        (None, [only]) => Ok(only),
        (None, []) => bail!("there is no account"),
        (_, accounts) => {
            let names: Vec<&str> = accounts.iter().map(|account| &*account.name).collect();
            Err(usage(format!("name one of the accounts: {}", names.join(", "))))
        }
    }
}

/// The tables of `deploy/sql`.
fn tables(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => include_str!("../../deploy/sql/postgresql.sql"),
        Dialect::Mysql => include_str!("../../deploy/sql/mysql.sql"),
        Dialect::Sqlite => include_str!("../../deploy/sql/sqlite.sql"),
    }
}

async fn init(account: &Account, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let database = Database::open(account)?;
    let made = database.script(tables(account.dialect())).await;
    made.with_context(|| format!("account {}", account.name))?;
    writeln!(out, "{}: the tables users, cdr and accounts are there", account.name)?;
    Ok(ExitCode::SUCCESS)
}

async fn check(register: &Register, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut good = true;
    let mut report = |what: &str, result: Result<(), String>| -> io::Result<()> {
        good &= result.is_ok();
        writeln!(out, "{what}: {}", result.err().as_deref().unwrap_or("good"))
    };
    for account in &register.accounts {
        let name = &account.name;
        let database = match Database::open(account) {
            Ok(database) => database,
            Err(error) => {
                report(&format!("account {name}"), Err(error.what))?;
                continue;
            }
        };
        let probe = Statements::compile("SELECT 1", account.dialect())?;
        let reached = database.query(&probe, &probe.bind(&())).await;
        let lost = reached.is_err();
        let reached = reached.map(drop).map_err(|error| error.to_string());
        report(&format!("account {name} ({})", account.dialect()), reached)?;
        for handler in register.handlers.iter().filter(|handler| handler.account == *name) {
            for (key, query) in handler.queries() {
                let result =
                    if lost { Err("not tried".to_owned()) } else { tried(&database, query).await };
                report(&format!("[{}] {key}", handler.message.name()), result)?;
            }
        }
    }
    if register.handlers.is_empty() {
        report(register::FILE, Err("no handler is switched on".to_owned()))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Has the server parse a query, and one that is stored in the database as well.
async fn tried(database: &Database, query: &Query) -> Result<(), String> {
    match query {
        Query::Template(statements) => {
            database.check(statements).await.map_err(|error| error.to_string())
        }
        Query::Stored(statements) => {
            let stored = database.stored(statements).await.map_err(|error| error.to_string())?;
            database.check(&stored).await.map_err(|error| format!("{error}: `{stored}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn checked(register: &Register) -> (Vec<String>, bool) {
        let mut out = Vec::new();
        let code = runtime().block_on(check(register, &mut out)).unwrap();
        let out = String::from_utf8(out).unwrap();
        (out.lines().map(str::to_owned).collect(), code == ExitCode::SUCCESS)
    }

    #[test]
    fn tables_that_were_made_suit_the_queries_that_are_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let register = register::embedded(&folder.path().join("users.db"));
        let (told, good) = checked(&register);
        assert!(!good);
        assert_eq!(told[0], "account default (SQLite): good");
        assert!(
            told[1].starts_with("[user.auth] query: the database refuses the query: no such table")
        );

        for _ in 0..2 {
            let mut out = Vec::new();
            let account = chosen(&register, None).unwrap();
            runtime().block_on(init(account, &mut out)).unwrap();
        }
        let (told, good) = checked(&register);
        assert!(good, "{told:#?}");
        assert!(told.iter().all(|line| line.ends_with(": good")), "{told:#?}");
        assert_eq!(told.len(), 13, "{told:#?}");
    }

    #[test]
    fn a_database_that_is_away_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let register = register::embedded(&folder.path().join("none/users.db"));
        let (told, good) = checked(&register);
        assert!(!good);
        assert!(told[0].starts_with("account default (SQLite): the database can't be reached"));
        assert_eq!(told[1], "[user.auth] query: not tried");
    }
}
