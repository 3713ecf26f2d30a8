//! Users in a database: the rows of the table `users` that `bindery db init` makes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use tokio::time::Instant;

use super::SECRET_KEYS;
use crate::auth::policy::Algorithm;
use crate::backend::sql::{Account, Database, DatabaseError, Row, Rows, Statements};
use crate::cli::check::existing_folder;
use crate::config::{Findings, databases};

/// The longest that a list may take: ten million users, over a slow line.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which database is meant, on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// An account of pgsqldb.conf, mysqldb.conf or sqlitedb.conf.
    Account(Box<str>),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(path) = databases::sqlite_path(text) {
            return Ok(Self::Sqlite(path));
        }
        // A URL would have a password in it, for everybody on the machine to see.
        if text.is_empty() || text.contains([':', '/']) {
            let files = databases::FILES.join(", ");
            return Err(format!("expected sqlite:PATH, or the name of an account in {files}"));
        }
        Ok(Self::Account(text.into()))
    }
}

/// The table of users in one database.
#[derive(Debug)]
pub struct Table {
    account: Account,
    database: Database,
    /// How the database is called in messages.
    place: String,
}

impl Table {
    /// The table in a database that the command line names. It connects later.
    ///
    /// # Errors
    /// There is no such account or file.
    pub fn named(named: &Named, folder: Option<&Path>) -> anyhow::Result<Self> {
        match named {
            Named::Sqlite(path) => {
                let place = format!("sqlite:{}", path.display());
                // To open it would make it.
                ensure!(
                    path.exists(),
                    "there is no {}: `bindery db init --db {place}` makes it",
                    path.display()
                );
                Self::open(databases::sqlite_file("default", path), place)
            }
            Named::Account(name) => {
                let folder = existing_folder(folder)?;
                let mut findings = Findings::default();
                let accounts = databases::read(&folder, &mut findings);
                let accounts = findings.finish(accounts)?.value;
                let account = accounts.into_iter().map(|written| written.account);
                let account = account.into_iter().find(|account| account.name == *name);
                let account = account.with_context(|| {
                    let files = databases::FILES.join(", ");
                    format!("there is no account {name} in {files} of {}", folder.display())
                })?;
                Self::open(account, format!("account {name}"))
            }
        }
    }

    /// The table in the database of an account, which messages call `place`.
    ///
    /// # Errors
    /// Its certificates can't be used, or a thread can't be started.
    pub fn open(account: Account, place: String) -> anyhow::Result<Self> {
        let database = Database::open(&account)?;
        Ok(Self { account, database, place })
    }

    /// Whether a user is there or isn't, as a command wants it.
    ///
    /// # Errors
    /// It is the other way round, or nobody could be asked.
    pub async fn check_presence(&self, user: &str, wanted: bool) -> anyhow::Result<()> {
        let query = "SELECT username FROM users WHERE username='${username}'";
        let rows = self.run(query, user, &[]).await?;
        match rows.rows.is_empty() {
            false if !wanted => bail!("there is a user {user} in {}", self.place),
            true if wanted => bail!("there is no user {user} in {}", self.place),
            _ => Ok(()),
        }
    }

    /// Adds a user. The keys are columns of the table.
    ///
    /// # Errors
    /// The user is there already, or the database refuses it.
    pub async fn add(&self, user: &str, secret: &[(&'static str, String)]) -> anyhow::Result<()> {
        self.check_presence(user, false).await?;
        let (mut columns, mut values) = (String::new(), String::new());
        for (key, _) in secret {
            columns.push_str(&format!(", {key}"));
            values.push_str(&format!(", '${{{key}}}'"));
        }
        let query =
            format!("INSERT INTO users (username{columns}) VALUES ('${{username}}'{values})");
        self.run(&query, user, secret).await.map(drop)
    }

    /// Gives a user another secret; columns that aren't given become NULL.
    ///
    /// # Errors
    /// There is no such user, or the database refuses it.
    pub async fn passwd(
        &self,
        user: &str,
        secret: &[(&'static str, String)],
    ) -> anyhow::Result<()> {
        let given = |key: &str| secret.iter().any(|(given, _)| *given == key);
        let set = SECRET_KEYS.map(|key| {
            if given(key) { format!("{key}='${{{key}}}'") } else { format!("{key}=NULL") }
        });
        let set = set.join(", ");
        let query = format!("UPDATE users SET {set} WHERE username='${{username}}'");
        let rows = self.run(&query, user, secret).await?;
        self.expect_one(user, &rows)
    }

    /// Removes a user.
    ///
    /// # Errors
    /// There is no such user, or the database refuses it.
    pub async fn remove(&self, user: &str) -> anyhow::Result<()> {
        let rows = self.run("DELETE FROM users WHERE username='${username}'", user, &[]).await?;
        self.expect_one(user, &rows)
    }

    fn expect_one(&self, user: &str, rows: &Rows) -> anyhow::Result<()> {
        ensure!(rows.affected > 0, "there is no user {user} in {}", self.place);
        Ok(())
    }

    /// Prints users, one a line: the name and how it authenticates.
    ///
    /// # Errors
    /// There is no such user, the database refuses it, or `out` does.
    pub async fn list(
        &self,
        user: Option<&str>,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<()> {
        let filter = user.map_or("", |_| "WHERE username='${username}' ");
        let columns = SECRET_KEYS.join(", ");
        let query = format!("SELECT username, {columns} FROM users {filter}ORDER BY username");
        let statements = self.compile(&query)?;
        let bound = statements.bind(&[("username", user.unwrap_or_default())]);
        let (mut found, mut written) = (false, Ok(()));
        let mut row = |_: &[Box<str>], row: Row| {
            found = true;
            if written.is_ok() {
                written = print(&row, out);
            }
        };
        let deadline = Instant::now() + PATIENCE;
        let listed = self.database.stream(&statements, &bound, deadline, &mut row).await;
        listed.map_err(|error| self.told(error))?;
        written?;
        match user {
            Some(user) if !found => bail!("there is no user {user} in {}", self.place),
            _ => Ok(()),
        }
    }

    fn compile(&self, query: &str) -> anyhow::Result<Statements> {
        Ok(Statements::compile(query, self.account.dialect())?)
    }

    async fn run(
        &self,
        query: &str,
        user: &str,
        secret: &[(&'static str, String)],
    ) -> anyhow::Result<Rows> {
        let statements = self.compile(query)?;
        let secret = secret.iter().map(|(key, value)| (*key, value.as_str()));
        let params: Vec<(&str, &str)> = secret.chain([("username", user)]).collect();
        let ran = self.database.query(&statements, &statements.bind(&*params)).await;
        ran.map_err(|error| self.told(error))
    }

    /// An error with the database that it is from, and what may be the matter.
    fn told(&self, error: DatabaseError) -> anyhow::Error {
        let advice = match error {
            DatabaseError::Refused { .. } if !error.is_about_values() => {
                "; `bindery db init` makes the table users where it is missing"
            }
            _ => "",
        };
        anyhow!("{}: {error}{advice}", self.place)
    }
}

/// Prints a row of the list: the name, then the columns of [`SECRET_KEYS`].
fn print(row: &Row, out: &mut dyn Write) -> io::Result<()> {
    let mut cells = row.iter().map(|cell| cell.as_deref());
    let name = cells.next().flatten().unwrap_or_default();
    let password = cells.next().flatten();
    // The order of the columns.
    let hashes = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];
    let hashes = hashes.into_iter().zip(cells);
    let hashes = hashes.filter(|(_, hash)| hash.is_some_and(|hash| !hash.is_empty()));
    let hashes: Vec<_> = hashes.map(|(algorithm, _)| algorithm.token()).collect();
    let how = match password {
        _ if !hashes.is_empty() => hashes.join(", "),
        Some("") => "an empty password: nobody, without allow_empty_password=yes".to_owned(),
        Some(_) => "a password".to_owned(),
        None => "no password: nobody".to_owned(),
    };
    writeln!(out, "{name:32} {how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_a_file_or_an_account() {
        let named = |text: &str| text.parse::<Named>();
        assert_eq!(named("sqlite:a.db"), Ok(Named::Sqlite("a.db".into())));
        assert_eq!(named("default"), Ok(Named::Account("default".into())));
        for text in ["", "sqlite:", "postgres://u:p@h/d", "a.db/"] {
            assert_eq!(
                named(text),
                Err("expected sqlite:PATH, or the name of an account in pgsqldb.conf, \
                     mysqldb.conf, sqlitedb.conf"
                    .to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sqlitedb.conf"), "[a]\ndatabase=x\n").unwrap();
        let said = |named: &str| {
            let error = Table::named(&named.parse().unwrap(), Some(folder.path())).unwrap_err();
            error.to_string().replace(&folder.path().display().to_string(), "DIR")
        };
        assert_eq!(
            said("sqlite:none.db"),
            "there is no none.db: `bindery db init --db sqlite:none.db` makes it"
        );
        assert_eq!(
            said("b"),
            "there is no account b in pgsqldb.conf, mysqldb.conf, sqlitedb.conf of DIR"
        );
        let file = folder.path().join("empty.db");
        std::fs::write(&file, "").unwrap();
        let table = Table::named(&Named::Sqlite(file), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(table.remove("x")).unwrap_err().to_string();
        assert!(error.contains("no such table: users"), "{error}");
        assert!(error.ends_with("`bindery db init` makes the table users where it is missing"));
    }
}
