//! PostgreSQL: a few connections with many queries under way on each.

mod link;
mod listen;
mod text;

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

use self::link::Link;
use super::account::{Account, Postgres, TlsMode};
use super::backoff::{Backoff, Outage};
use super::error::DatabaseError;
use super::listen::Notification;
use super::params::Bound;
use super::permits::Permits;
use super::rows::{Rows, Sink};
use super::template::Statements;
use super::tls::{Connector, Stream};

/// How many queries are sent on one connection before the first is answered. Beyond some dozens
/// the server is no faster, and one that is slow holds up those behind it.
const PIPELINE: usize = 64;

/// The longest that connecting may take, whatever the account's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An account's connections.
pub(super) struct Pool {
    config: Config,
    tls: Option<Connector>,
    timeout: Duration,
    retry: u16,
    slots: Box<[Slot]>,
    permits: Permits,
    backoff: Backoff,
}

/// Room for one connection.
#[derive(Default)]
struct Slot {
    link: Mutex<Option<Arc<Link>>>,
    connecting: tokio::sync::Mutex<()>,
    busy: AtomicUsize,
}

impl Slot {
    fn usable(&self) -> Option<Arc<Link>> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.as_ref().is_some_and(|link| !link.is_usable()) {
            *link = None;
        }
        link.clone()
    }

    fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }
}

/// A connection while a query is on it.
struct Lease<'p> {
    slot: &'p Slot,
    link: Arc<Link>,
}

impl<'p> Lease<'p> {
    fn new(slot: &'p Slot, link: Arc<Link>) -> Self {
        slot.busy.fetch_add(1, Ordering::Relaxed);
        Self { slot, link }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.slot.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Both kinds of connection.
enum Reader {
    Plain(Box<Connection<Socket, NoTlsStream>>),
    Tls(Box<Connection<Socket, Stream<Socket>>>),
}

impl Pool {
    /// A pool without connections; each is made when it is needed.
    ///
    /// # Errors
    /// Certificates can't be read.
    pub(super) fn new(account: &Account, server: &Postgres) -> Result<Self, String> {
        let tls = match server.tls.mode {
            TlsMode::No => None,
            _ => Some(Connector::new(&server.tls)?),
        };
        let poolsize = usize::from(account.poolsize.max(1));
        Ok(Self {
            config: server.config.clone(),
            tls,
            timeout: account.timeout,
            retry: account.retry,
            slots: std::iter::repeat_with(Slot::default).take(poolsize).collect(),
            permits: Permits::new(poolsize * PIPELINE),
            backoff: Backoff::default(),
        })
    }

    pub(super) fn outage(&self) -> Option<Outage> {
        self.backoff.outage()
    }

    /// Runs a query for one message, again where that can do no harm.
    pub(super) async fn query(
        &self,
        statements: &Statements,
        bound: &Bound,
    ) -> Result<Rows, DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = self.permits.acquire(deadline).await?;
        let mut tries = 0;
        loop {
            let mut sink = Sink::Keep(Rows::default());
            let error = match self.attempt(statements, bound, &mut sink, deadline).await {
                Ok(()) => return Ok(sink.into_rows()),
                Err(error) => error,
            };
            let again = error.is_conflict()
                || is_stale(&error)
                || (matches!(error, DatabaseError::Unreachable(_)) && statements.only_read());
            tries += 1;
            if !again || tries > self.retry || self.backoff.ready().is_err() {
                return Err(error);
            }
        }
    }

    /// Tells each row of a query as it arrives. It isn't run again.
    pub(super) async fn stream(
        &self,
        statements: &Statements,
        bound: &Bound,
        sink: &mut Sink<'_>,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let _permit = self.permits.acquire(deadline).await?;
        self.attempt(statements, bound, sink, deadline).await
    }

    /// Runs a query for each of these messages in one transaction.
    pub(super) async fn batch(
        &self,
        statements: &Statements,
        messages: &[Bound],
    ) -> Result<Vec<Rows>, DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = self.permits.acquire(deadline).await?;
        let lease = self.lease(deadline).await?;
        let all = lease.link.run_each(statements, messages, deadline).await?;
        Ok(all.into_iter().map(|parts| statements.merge(parts)).collect())
    }

    /// Has the server parse the statements.
    pub(super) async fn check(&self, statements: &Statements) -> Result<(), DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = self.permits.acquire(deadline).await?;
        self.lease(deadline).await?.link.check(statements, deadline).await
    }

    /// Runs SQL as it stands.
    pub(super) async fn script(&self, sql: &str) -> Result<(), DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = self.permits.acquire(deadline).await?;
        self.lease(deadline).await?.link.script(sql, deadline).await
    }

    /// Listens to channels on a connection of its own.
    pub(super) fn listen(self: &Arc<Self>, channels: &[Box<str>]) -> mpsc::Receiver<Notification> {
        listen::start(Arc::clone(self), channels)
    }

    async fn attempt(
        &self,
        statements: &Statements,
        bound: &Bound,
        sink: &mut Sink<'_>,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let lease = self.lease(deadline).await?;
        lease.link.run(statements, bound, sink, deadline).await
    }

    /// A connection: an idle one, else a new one while there is room, else the least busy.
    async fn lease(&self, deadline: Instant) -> Result<Lease<'_>, DatabaseError> {
        let usable = self.slots.iter().filter_map(|slot| Some((slot, slot.usable()?)));
        let best = usable.min_by_key(|(slot, _)| slot.busy());
        let best = best.map(|(slot, link)| Lease::new(slot, link));
        // The lease itself is one.
        if let Some(lease) = best.as_ref()
            && (lease.slot.busy() <= 1 || self.backoff.ready().is_err())
        {
            return best.ok_or(DatabaseError::PoolExhausted);
        }
        let room = self.slots.iter().filter(|slot| slot.usable().is_none());
        // While one connects others wait for it only if they have nothing better.
        let room = room.min_by_key(|slot| slot.connecting.try_lock().is_err());
        let Some(slot) = room.filter(|slot| best.is_none() || slot.connecting.try_lock().is_ok())
        else {
            return best.ok_or(DatabaseError::PoolExhausted);
        };
        match (timeout_at(deadline, self.connect(slot)).await, best) {
            (Ok(Ok(link)), _) => Ok(Lease::new(slot, link)),
            (_, Some(lease)) => Ok(lease),
            (Ok(Err(error)), None) => Err(error),
            (Err(_), None) => Err(DatabaseError::TimedOut),
        }
    }

    /// Makes a connection; those who ask for the same one meanwhile share it.
    async fn connect(&self, slot: &Slot) -> Result<Arc<Link>, DatabaseError> {
        let _one = slot.connecting.lock().await;
        if let Some(link) = slot.usable() {
            return Ok(link);
        }
        self.backoff.ready()?;
        let deadline = Instant::now() + self.timeout.min(CONNECT_TIMEOUT);
        let link = match timeout_at(deadline, self.link()).await {
            Ok(Ok(link)) => Arc::new(link),
            Ok(Err(error)) => {
                self.backoff.failed(error.clone());
                return Err(error);
            }
            Err(_) => {
                let error = DatabaseError::Unreachable("no answer to the connection".to_owned());
                self.backoff.failed(error.clone());
                return Err(error);
            }
        };
        self.backoff.succeeded();
        *slot.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn link(&self) -> Result<Link, DatabaseError> {
        let (client, reader) = self.open().await?;
        let reader = match reader {
            Reader::Plain(connection) => tokio::spawn(async move { drop(connection.await) }),
            Reader::Tls(connection) => tokio::spawn(async move { drop(connection.await) }),
        };
        let link = Link::new(client, reader.abort_handle());
        // The server gives up when we do, so that a query nobody waits for holds no lock.
        let timeout = format!("SET statement_timeout = {}", self.timeout.as_millis());
        link.script(&timeout, Instant::now() + self.timeout).await?;
        Ok(link)
    }

    /// Connects, which says all there is to say about hosts and passwords.
    async fn open(&self) -> Result<(Client, Reader), DatabaseError> {
        let failed = |failed| DatabaseError::Unreachable(told(&failed));
        Ok(match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
                (client, Reader::Plain(Box::new(connection)))
            }
            Some(tls) => {
                let (client, connection) =
                    self.config.connect(tls.clone()).await.map_err(failed)?;
                (client, Reader::Tls(Box::new(connection)))
            }
        })
    }
}

/// Whether a prepared statement is no longer what its table wants; by now it was forgotten.
fn is_stale(error: &DatabaseError) -> bool {
    let stale = [&SqlState::FEATURE_NOT_SUPPORTED, &SqlState::INVALID_SQL_STATEMENT_NAME];
    matches!(error, DatabaseError::Refused { sqlstate, .. }
        if stale.iter().any(|state| state.code() == &**sqlstate))
}

/// An error with its causes.
fn told(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        told = format!("{told}: {deeper}");
        cause = deeper.source();
    }
    told
}

fn error(error: tokio_postgres::Error) -> DatabaseError {
    let Some(refused) = error.as_db_error() else {
        return DatabaseError::Unreachable(told(&error));
    };
    match refused.code().code() {
        "57014" => DatabaseError::TimedOut,
        code if matches!(code, "53300" | "57P01" | "57P02" | "57P03") || code.starts_with("08") => {
            DatabaseError::Unreachable(refused.message().to_owned())
        }
        code => DatabaseError::refused(code, refused.message()),
    }
}
