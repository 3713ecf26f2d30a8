//! MySQL and MariaDB: a few connections with one query at a time on each.

mod text;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, SslOpts, Value as Sent};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use self::text::Shown;
use super::account::{Account, Mysql, Tls, TlsMode};
use super::backoff::{Backoff, Outage};
use super::error::DatabaseError;
use super::params::{Bound, Number, Value};
use super::permits::Permits;
use super::rows::{Row, Rows, Sink};
use super::template::{Statement, Statements};
use super::tls::authorities_file;

/// The longest that connecting may take, whatever the account's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be idle before it is asked whether it still is one. A server that was
/// restarted closes them all, and nobody reads what an idle one is told.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// Statements that each connection keeps prepared: all of a `register.conf`, several times over.
const PREPARED: usize = 256;

/// A statement that can't be prepared (`ER_UNSUPPORTED_PS`).
const UNSUPPORTED: u16 = 1295;

/// An account's connections.
pub(super) struct Pool {
    opts: Opts,
    timeout: Duration,
    retry: u16,
    idle: Mutex<Vec<Idle>>,
    permits: Permits,
    backoff: Backoff,
}

/// A connection after it was used, with what came of it; or why there is none.
type Worked<T> = Result<(Conn, mysql_async::Result<T>), DatabaseError>;

/// A connection that nobody uses.
struct Idle {
    conn: Conn,
    since: Instant,
}

impl Pool {
    /// A pool without connections; each is made when it is needed.
    ///
    /// # Errors
    /// There are no authorities to verify the server by.
    pub(super) fn new(account: &Account, server: &Mysql) -> Result<Self, String> {
        Ok(Self {
            opts: opts(server, account.timeout)?,
            timeout: account.timeout,
            retry: account.retry,
            idle: Mutex::default(),
            permits: Permits::new(usize::from(account.poolsize.max(1))),
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
        let work = async {
            let mut conn = self.connection().await?;
            let result = run_each(&mut conn, statements, messages).await;
            Ok((conn, result))
        };
        self.finish(timeout_at(deadline, work).await)
    }

    /// Has the server parse the statements.
    pub(super) async fn check(&self, statements: &Statements) -> Result<(), DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = self.permits.acquire(deadline).await?;
        let work = async {
            let mut conn = self.connection().await?;
            let result = parse(&mut conn, statements).await;
            Ok((conn, result))
        };
        self.finish(timeout_at(deadline, work).await)
    }

    /// Runs SQL as it stands.
    pub(super) async fn script(&self, sql: &str) -> Result<(), DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = self.permits.acquire(deadline).await?;
        let work = async {
            let mut conn = self.connection().await?;
            let result = conn.query_drop(sql).await;
            Ok((conn, result))
        };
        self.finish(timeout_at(deadline, work).await)
    }

    async fn attempt(
        &self,
        statements: &Statements,
        bound: &Bound,
        sink: &mut Sink<'_>,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let work = async {
            let mut conn = self.connection().await?;
            let result = run(&mut conn, statements, bound, sink).await;
            Ok((conn, result))
        };
        self.finish(timeout_at(deadline, work).await)
    }

    /// Keeps a connection for the next query if it is still good after the last. If time was up it
    /// is gone, with its answer under way.
    fn finish<T>(&self, worked: Result<Worked<T>, Elapsed>) -> Result<T, DatabaseError> {
        let (conn, result) = worked.map_err(|_| DatabaseError::TimedOut)??;
        if matches!(&result, Ok(_) | Err(mysql_async::Error::Server(_))) {
            let idle = Idle { conn, since: Instant::now() };
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
        }
        result.map_err(error)
    }

    /// The connection that was used last, or a new one.
    async fn connection(&self) -> Result<Conn, DatabaseError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(Idle { mut conn, since }) = idle else { break };
            if since.elapsed() < ASK_AFTER {
                return Ok(conn);
            }
            if matches!(timeout(CONNECT_TIMEOUT, conn.ping()).await, Ok(Ok(()))) {
                return Ok(conn);
            }
        }
        self.backoff.ready()?;
        let limit = self.timeout.min(CONNECT_TIMEOUT);
        let connected = match timeout(limit, Conn::new(self.opts.clone())).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer to the connection".to_owned()),
        };
        match connected {
            Ok(mut conn) => {
                self.backoff.succeeded();
                set_limits(&mut conn, self.timeout).await;
                Ok(conn)
            }
            Err(error) => {
                let error = DatabaseError::Unreachable(error);
                self.backoff.failed(error.clone());
                Err(error)
            }
        }
    }
}

/// Has the server give up when we do. The two engines call it differently; one that knows neither
/// goes on without.
async fn set_limits(conn: &mut Conn, limit: Duration) {
    let seconds = limit.as_secs().max(1);
    let _ = conn.query_drop(format!("SET SESSION innodb_lock_wait_timeout={seconds}")).await;
    let mariadb = format!("SET SESSION max_statement_time={}", limit.as_secs_f64());
    if conn.query_drop(mariadb).await.is_err() {
        let mysql = format!("SET SESSION max_execution_time={}", limit.as_millis());
        let _ = conn.query_drop(mysql).await;
    }
}

/// Has the server parse the statements.
async fn parse(conn: &mut Conn, statements: &Statements) -> mysql_async::Result<()> {
    for statement in statements.list() {
        match conn.prep(statement.sql()).await {
            Err(mysql_async::Error::Server(refused)) if refused.code == UNSUPPORTED => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Runs all statements for one message, several of them in a transaction.
async fn run(
    conn: &mut Conn,
    statements: &Statements,
    bound: &Bound,
    sink: &mut Sink<'_>,
) -> mysql_async::Result<()> {
    if statements.list().len() == 1 {
        return each(conn, statements, bound, sink).await;
    }
    conn.query_drop("START TRANSACTION").await?;
    let worked = each(conn, statements, bound, sink).await;
    end(conn, worked).await
}

/// Runs all statements for each message in one transaction.
async fn run_each(
    conn: &mut Conn,
    statements: &Statements,
    messages: &[Bound],
) -> mysql_async::Result<Vec<Rows>> {
    conn.query_drop("START TRANSACTION").await?;
    let mut all = Vec::with_capacity(messages.len());
    for bound in messages {
        let mut sink = Sink::Keep(Rows::default());
        if let Err(error) = each(conn, statements, bound, &mut sink).await {
            return end(conn, Err(error)).await;
        }
        all.push(sink.into_rows());
    }
    end(conn, Ok(all)).await
}

/// Ends a transaction as its work went.
async fn end<T>(conn: &mut Conn, worked: mysql_async::Result<T>) -> mysql_async::Result<T> {
    match &worked {
        Ok(_) => conn.query_drop("COMMIT").await?,
        Err(mysql_async::Error::Server(_)) => conn.query_drop("ROLLBACK").await?,
        Err(_) => {}
    }
    worked
}

/// Runs each statement for one message.
async fn each(
    conn: &mut Conn,
    statements: &Statements,
    bound: &Bound,
    sink: &mut Sink<'_>,
) -> mysql_async::Result<()> {
    for (position, statement) in statements.list().iter().enumerate() {
        one(conn, statement, bound.values(position), sink).await?;
    }
    Ok(())
}

async fn one(
    conn: &mut Conn,
    statement: &Statement,
    values: &[Value],
    sink: &mut Sink<'_>,
) -> mysql_async::Result<()> {
    let plan = match conn.prep(statement.sql()).await {
        Ok(plan) => plan,
        Err(mysql_async::Error::Server(refused))
            if refused.code == UNSUPPORTED && values.is_empty() =>
        {
            return conn.query_drop(statement.sql()).await;
        }
        Err(error) => return Err(error),
    };
    let values: Vec<Sent> = values.iter().map(sent).collect();
    let mut result = conn.exec_iter(plan, values).await?;
    let columns = result.columns().unwrap_or_default();
    if !columns.is_empty() {
        sink.columns(columns.iter().map(|column| column.name_str().into()).collect());
        let shown: Vec<Shown> = columns.iter().map(Shown::of).collect();
        while let Some(row) = result.next().await? {
            let values = row.unwrap().into_iter().zip(&shown);
            let row: Row = values.map(|(value, shown)| shown.text(value)).collect();
            sink.row(row);
        }
    }
    if statement.counts() {
        sink.affected(result.affected_rows());
    }
    result.drop_result().await
}

/// A parameter as it is sent: text, as a literal in quotes is.
fn sent(value: &Value) -> Sent {
    match value.number() {
        Some(Number::Integer(integer)) => Sent::Int(integer),
        Some(Number::Real(real)) => Sent::Double(real),
        None => Sent::Bytes(value.text.as_bytes().to_vec()),
    }
}

fn opts(server: &Mysql, timeout: Duration) -> Result<Opts, String> {
    let builder = OptsBuilder::default()
        .ip_or_hostname(&*server.host)
        .tcp_port(server.port)
        .user(Some(&*server.user))
        .pass(server.password.as_ref().map(|password| &*password.0))
        .db_name(Some(&*server.database).filter(|name| !name.is_empty()))
        .socket(server.socket.as_ref().map(|path| path.to_string_lossy().into_owned()))
        // Only if it is asked for: it isn't always the server that was named.
        .prefer_socket(server.socket.is_some())
        .tcp_nodelay(true)
        .tcp_keepalive(Some(timeout.max(CONNECT_TIMEOUT)))
        .compression(server.compress.then(mysql_async::Compression::fast))
        .stmt_cache_size(PREPARED)
        // An UPDATE that matched a row and left it as it was counts as one.
        .client_found_rows(true)
        .ssl_opts(ssl(&server.tls)?);
    Ok(builder.into())
}

fn ssl(tls: &Tls) -> Result<Option<SslOpts>, String> {
    let mut ssl = match tls.mode {
        TlsMode::No => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true),
        TlsMode::Verify => SslOpts::default()
            .with_disable_built_in_roots(true)
            .with_root_certs(vec![authorities_file(tls)?.into()]),
    };
    if let Some((certificate, key)) = &tls.identity {
        let identity = ClientIdentity::new(certificate.clone().into(), key.clone().into());
        ssl = ssl.with_client_identity(Some(identity));
    }
    Ok(Some(ssl))
}

fn error(error: mysql_async::Error) -> DatabaseError {
    /// Deadlock, and a lock not got in time: the one undoes the transaction, the other may be
    /// tried again as well.
    const DEADLOCK: u16 = 1213;
    /// `max_statement_time`, `max_execution_time`, `KILL QUERY`, `innodb_lock_wait_timeout`.
    const GAVE_UP: [u16; 4] = [1969, 3024, 1317, 1205];
    /// Too many connections, shutdown.
    const AWAY: [u16; 3] = [1040, 1053, 1927];
    match error {
        mysql_async::Error::Server(refused) if refused.code == DEADLOCK => {
            DatabaseError::refused("40001", &refused.message)
        }
        mysql_async::Error::Server(refused) if GAVE_UP.contains(&refused.code) => {
            DatabaseError::TimedOut
        }
        mysql_async::Error::Server(refused) if AWAY.contains(&refused.code) => {
            DatabaseError::Unreachable(refused.message)
        }
        mysql_async::Error::Server(refused) => {
            DatabaseError::refused(&refused.state, &refused.message)
        }
        other => DatabaseError::Unreachable(other.to_string()),
    }
}
