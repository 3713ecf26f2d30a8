//! A database connection as the operator describes it: a section of `pgsqldb.conf`,
//! `mysqldb.conf` or `sqlitedb.conf`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::dialect::Dialect;

/// One account: what the handlers of `register.conf` name with `account=`.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// The section's name.
    pub name: Box<str>,
    /// Where the database is.
    pub server: Server,
    /// What a query may take, with all waiting before it.
    pub timeout: Duration,
    /// How many connections are kept; at least one.
    pub poolsize: u16,
    /// How often a query is tried again where that can do no harm.
    pub retry: u16,
    /// Channels of PostgreSQL to listen to.
    pub listen: Box<[Box<str>]>,
}

impl Account {
    /// The dialect that its templates are compiled for.
    pub fn dialect(&self) -> Dialect {
        match self.server {
            Server::Postgres(_) => Dialect::Postgres,
            Server::Mysql(_) => Dialect::Mysql,
            Server::Sqlite(_) => Dialect::Sqlite,
        }
    }
}

/// Where a database is and how to get in.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    /// `pgsqldb.conf`.
    Postgres(Box<Postgres>),
    /// `mysqldb.conf`.
    Mysql(Box<Mysql>),
    /// `sqlitedb.conf`.
    Sqlite(Sqlite),
}

/// A PostgreSQL server.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// Hosts, ports, database, user, password, and whether TLS is wanted. Its `Debug` shows no
    /// password.
    pub config: tokio_postgres::Config,
    /// Whom to believe, and who we are.
    pub tls: Tls,
}

/// A MySQL or MariaDB server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mysql {
    /// Name or address.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// A Unix socket, which goes before host and port.
    pub socket: Option<PathBuf>,
    /// The database.
    pub database: Box<str>,
    /// The user.
    pub user: Box<str>,
    /// The user's password.
    pub password: Option<Password>,
    /// Whether to compress what is sent.
    pub compress: bool,
    /// Whom to believe, and who we are.
    pub tls: Tls,
}

/// An SQLite database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sqlite {
    /// The file; `None` keeps everything in memory, for as long as the program runs.
    pub file: Option<PathBuf>,
    /// SQL to run when a connection is opened.
    pub initialize: Option<Box<str>>,
}

/// TLS toward a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whether and how.
    pub mode: TlsMode,
    /// PEM file of the authorities; `None` means those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How much TLS is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// None.
    #[default]
    No,
    /// If the server offers it. Its certificate isn't looked at: this helps against those who
    /// listen, not against those who interfere.
    Prefer,
    /// Always, with the certificate not looked at.
    Require,
    /// Always, with a certificate for the host's name by an authority we believe.
    Verify,
}

/// A password, which `Debug` doesn't show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Box<str>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(...)")
    }
}
