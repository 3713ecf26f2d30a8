//! Databases: PostgreSQL, MySQL/MariaDB and SQLite behind one small interface.
//!
//! ```no_run
//! # use bindery::backend::sql::{Account, Database, DatabaseError, Dialect, Statements};
//! # async fn example(account: &Account) -> Result<(), Box<dyn std::error::Error>> {
//! let query = Statements::compile("SELECT password FROM users WHERE username='${username}'",
//!                                 account.dialect())?;       // once, with the configuration
//! let database = Database::open(account)?;                   // connects later, when it has to
//! let bound = query.bind(&[("username", "100")]);            // anywhere: `Bound` is `Send`
//! let rows = database.query(&query, &bound).await?;          // on a tokio runtime
//! let password = rows.value(0, "password");                  // `None`: NULL, or no such row
//! # Ok(()) }
//! ```
//!
//! - [`Statements`] is a query template of Yate, compiled for a dialect; [`TemplateError`] tells
//!   the column of what can't be. [`Statements::bind`] takes [`Params`], the message's parameters.
//! - [`Database`] is cheap to clone, and its futures may be run side by side: their number is what
//!   a pool is filled by, and on PostgreSQL dozens share one connection. All end by the account's
//!   `timeout`, come what may. A future that is dropped leaves no transaction half done.
//! - [`Database::query`] answers with [`Rows`]; [`Database::query_each`] does so for many messages
//!   at once, writing for all of them in one transaction, with a result for each;
//!   [`Database::stream`] tells rows one by one, however many; [`Database::check`] only has the
//!   server parse; [`Database::listen`] gives [`Notification`]s.
//! - [`DatabaseError::is_outage`] divides "could not ask" from "was refused". Connections that
//!   broke are replaced, with pauses that grow to two seconds; [`Database::outage`] says whether
//!   the last attempt failed, since when and why. A query is tried again by itself only where that
//!   can't do harm: reads whose connection broke, and transactions the server undid.

mod account;
mod backoff;
mod dialect;
mod error;
mod lexer;
mod listen;
mod mysql;
mod params;
mod permits;
mod postgres;
mod rows;
mod sqlite;
mod template;
mod tls;

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use self::account::{Account, Mysql, Password, Postgres, Server, Sqlite, Tls, TlsMode};
pub use self::backoff::Outage;
pub use self::dialect::Dialect;
pub use self::error::DatabaseError;
pub use self::listen::Notification;
pub use self::params::{Bound, Params};
pub use self::rows::{MAX_ROWS, Row, Rows};
pub use self::template::{Statement, Statements, TemplateError};
pub(super) use self::tls::trusting;

use self::rows::Sink;

/// How many messages one transaction writes for: other writers wait for it. A failure has all of
/// them written one by one.
const MAX_BATCH: usize = 500;

/// A database that queries can be sent to.
#[derive(Clone)]
pub struct Database {
    name: Arc<str>,
    driver: Driver,
}

#[derive(Clone)]
enum Driver {
    Postgres(Arc<postgres::Pool>),
    Mysql(Arc<mysql::Pool>),
    Sqlite(Arc<sqlite::Pool>),
}

/// An account that can't be used at all, whether or not its server runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("account {account}: {what}")]
pub struct OpenError {
    /// The account.
    pub account: String,
    /// A file of certificates that can't be used, a thread that can't be started.
    pub what: String,
}

/// Why a query that is stored in the database can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// It couldn't be asked for.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It can't be compiled.
    #[error("the stored query can't be compiled: {0}")]
    Template(#[from] TemplateError),
    /// It is NULL.
    #[error("the stored query is NULL")]
    Null,
    /// There isn't one value.
    #[error("expected one row with one column, got {rows} with {columns}")]
    Shape {
        /// How many rows.
        rows: usize,
        /// How many columns.
        columns: usize,
    },
}

impl Database {
    /// Opens an account. Nothing is connected before the first query.
    ///
    /// # Errors
    /// Its certificates can't be used, or a thread can't be started.
    pub fn open(account: &Account) -> Result<Self, OpenError> {
        let driver = match &account.server {
            Server::Postgres(server) => {
                postgres::Pool::new(account, server).map(|pool| Driver::Postgres(Arc::new(pool)))
            }
            Server::Mysql(server) => {
                mysql::Pool::new(account, server).map(|pool| Driver::Mysql(Arc::new(pool)))
            }
            Server::Sqlite(server) => {
                sqlite::Pool::new(account, server).map(|pool| Driver::Sqlite(Arc::new(pool)))
            }
        };
        match driver {
            Ok(driver) => Ok(Self { name: (&*account.name).into(), driver }),
            Err(what) => Err(OpenError { account: account.name.to_string(), what }),
        }
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dialect that its statements are compiled for.
    pub fn dialect(&self) -> Dialect {
        match self.driver {
            Driver::Postgres(_) => Dialect::Postgres,
            Driver::Mysql(_) => Dialect::Mysql,
            Driver::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a query for one message.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn query(
        &self,
        statements: &Statements,
        bound: &Bound,
    ) -> Result<Rows, DatabaseError> {
        match &self.driver {
            Driver::Postgres(pool) => pool.query(statements, bound).await,
            Driver::Mysql(pool) => pool.query(statements, bound).await,
            Driver::Sqlite(pool) => pool.query(statements, bound).await,
        }
    }

    /// Runs a query for each of many messages; the results are in their order.
    ///
    /// What writes is done for up to 500 of them in one transaction and, on PostgreSQL, one round
    /// trip. If the server refuses one, the others are done nevertheless.
    pub async fn query_each(
        &self,
        statements: &Statements,
        messages: &[Bound],
    ) -> Vec<Result<Rows, DatabaseError>> {
        if statements.only_read() || messages.len() < 2 {
            return join_all(messages.iter().map(|bound| self.query(statements, bound))).await;
        }
        let mut results = Vec::with_capacity(messages.len());
        for messages in messages.chunks(MAX_BATCH) {
            match self.batch(statements, messages).await {
                Ok(batch) => results.extend(batch),
                Err(error) if error.is_outage() => {
                    results.extend(messages.iter().map(|_| Err(error.clone())));
                }
                // One of them is at fault: each for itself, so that the others are done.
                Err(_) => {
                    for bound in messages {
                        results.push(self.query(statements, bound).await);
                    }
                }
            }
        }
        results
    }

    async fn batch(
        &self,
        statements: &Statements,
        messages: &[Bound],
    ) -> Result<Vec<Result<Rows, DatabaseError>>, DatabaseError> {
        let all = match &self.driver {
            Driver::Postgres(pool) => pool.batch(statements, messages).await?,
            Driver::Mysql(pool) => pool.batch(statements, messages).await?,
            Driver::Sqlite(pool) => return pool.batch(statements, messages).await,
        };
        Ok(all.into_iter().map(Ok).collect())
    }

    /// Runs a query and tells each row as it arrives, with the names of the columns. It ends by
    /// `deadline` instead of the account's timeout.
    ///
    /// # Errors
    /// See [`DatabaseError`]; rows may have been told before.
    pub async fn stream(
        &self,
        statements: &Statements,
        bound: &Bound,
        deadline: Instant,
        row: &mut (dyn FnMut(&[Box<str>], Row) + Send),
    ) -> Result<(), DatabaseError> {
        let mut sink = Sink::Tell(row, Rows::default());
        match &self.driver {
            Driver::Postgres(pool) => pool.stream(statements, bound, &mut sink, deadline).await,
            Driver::Mysql(pool) => pool.stream(statements, bound, &mut sink, deadline).await,
            Driver::Sqlite(pool) => pool.stream(statements, bound, &mut sink, deadline).await,
        }
    }

    /// Has the server parse a query, without running it.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn check(&self, statements: &Statements) -> Result<(), DatabaseError> {
        match &self.driver {
            Driver::Postgres(pool) => pool.check(statements).await,
            Driver::Mysql(pool) => pool.check(statements).await,
            Driver::Sqlite(pool) => pool.check(statements).await,
        }
    }

    /// The template that a query gives: Yate's `query=@SELECT ...`. It has to give one row with one
    /// column.
    ///
    /// # Errors
    /// It gives something else, or what can't be compiled, or nothing at all.
    pub async fn stored(&self, query: &Statements) -> Result<Statements, StoredError> {
        let rows = self.query(query, &query.bind(&())).await?;
        match &rows.rows[..] {
            [row] if row.len() == 1 => match row.first() {
                Some(Some(template)) => Ok(Statements::compile(template, self.dialect())?),
                _ => Err(StoredError::Null),
            },
            many => Err(StoredError::Shape { rows: many.len(), columns: rows.columns.len() }),
        }
    }

    /// Runs SQL as it stands, any number of statements, as for making tables.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn script(&self, sql: &str) -> Result<(), DatabaseError> {
        match &self.driver {
            Driver::Postgres(pool) => pool.script(sql).await,
            Driver::Mysql(pool) => pool.script(sql).await,
            Driver::Sqlite(pool) => pool.script(sql).await,
        }
    }

    /// Listens to channels of PostgreSQL until the receiver is dropped; `None` on other engines.
    /// To be called on a tokio runtime, which has to keep running.
    pub fn listen(&self, channels: &[Box<str>]) -> Option<mpsc::Receiver<Notification>> {
        match &self.driver {
            Driver::Postgres(pool) => Some(pool.listen(channels)),
            Driver::Mysql(_) | Driver::Sqlite(_) => None,
        }
    }

    /// The outage, if the last attempt to connect failed. SQLite has none: its queries tell.
    pub fn outage(&self) -> Option<Outage> {
        match &self.driver {
            Driver::Postgres(pool) => pool.outage(),
            Driver::Mysql(pool) => pool.outage(),
            Driver::Sqlite(_) => None,
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({}, {})", self.name, self.dialect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::databases::sqlite_file;

    /// Whoever runs them may do so on any runtime.
    #[test]
    fn futures_can_be_sent_to_other_threads() {
        fn sent<T: Send>(_: T) {}
        let account = sqlite_file("x", Path::new("none/x.db"));
        let database = Database::open(&account).unwrap();
        let query = Statements::compile("SELECT '${a}'", Dialect::Sqlite).unwrap();
        let bound = query.bind(&());
        sent(database.query(&query, &bound));
        sent(database.query_each(&query, std::slice::from_ref(&bound)));
        sent(database.stream(&query, &bound, Instant::now(), &mut |_, _| ()));
        sent(database.check(&query));
        sent(database.script("SELECT 1"));
        sent(database.stored(&query));
    }
}
