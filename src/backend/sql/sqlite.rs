//! SQLite: a file, one thread that writes to it and a few that read.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::account::{Account, Sqlite};
use super::error::DatabaseError;
use super::params::{Bound, Number, Value};
use super::rows::{Row, Rows, Sink};
use super::template::{Statement, Statements};

/// How many queries may wait for a thread. A disk that is this far behind won't catch up within
/// any timeout; memory stays bounded.
const MAX_WAITING: usize = 10_000;

/// Statements that each connection keeps prepared: all of a `register.conf`, several times over.
const PREPARED: usize = 256;

/// How many steps of SQLite's machine go by between two looks at the clock: some 50 µs.
const STEPS: i32 = 1000;

/// How many rows are on their way from a thread to who asked for them.
const ROWS_UNDER_WAY: usize = 256;

/// An account's threads.
pub(super) struct Pool {
    writer: Sender<Job>,
    readers: Sender<Job>,
    timeout: Duration,
}

/// Work for one of the threads: it is given the connection or the reason why there is none.
type Work = Box<dyn FnOnce(Result<&mut Connection, DatabaseError>) + Send>;

struct Job {
    work: Work,
    deadline: Instant,
}

impl Pool {
    /// Starts the threads; each opens the file when it is first needed.
    ///
    /// # Errors
    /// A thread can't be started.
    pub(super) fn new(account: &Account, server: &Sqlite) -> Result<Self, String> {
        let (writer, jobs) = bounded(MAX_WAITING);
        start("sqlite-writer", server, jobs)?;
        // What is only in memory is there for one connection only.
        let readers = if server.file.is_some() {
            let (readers, jobs) = bounded(MAX_WAITING);
            for number in 1..=account.poolsize.max(1) {
                start(&format!("sqlite-{number:02}"), server, jobs.clone())?;
            }
            readers
        } else {
            writer.clone()
        };
        Ok(Self { writer, readers, timeout: account.timeout })
    }

    /// Runs a query for one message.
    pub(super) async fn query(
        &self,
        statements: &Statements,
        bound: &Bound,
    ) -> Result<Rows, DatabaseError> {
        let (statements, bound) = (statements.clone(), bound.clone());
        self.submit(statements.only_read(), Instant::now() + self.timeout, move |connection| {
            let mut sink = Sink::Keep(Rows::default());
            let single = statements.list().len() == 1;
            if single {
                each(connection, &statements, &bound, &mut sink)?;
            } else {
                in_transaction(connection, |connection| {
                    each(connection, &statements, &bound, &mut sink)
                })?;
            }
            Ok(sink.into_rows())
        })
        .await
    }

    /// Tells each row of a query as it arrives.
    pub(super) async fn stream(
        &self,
        statements: &Statements,
        bound: &Bound,
        sink: &mut Sink<'_>,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        /// What a thread says on the way.
        enum Told {
            Columns(Arc<[Box<str>]>),
            Row(Row),
        }
        let (sender, mut receiver) = mpsc::channel(ROWS_UNDER_WAY);
        let (statements, bound) = (statements.clone(), bound.clone());
        let work = self.submit(true, deadline, move |connection| {
            let mut columns = false;
            let mut tell = |names: &[Box<str>], row: Row| {
                if !std::mem::replace(&mut columns, true) {
                    let _ = sender.blocking_send(Told::Columns(names.into()));
                }
                let _ = sender.blocking_send(Told::Row(row));
            };
            let mut sink = Sink::Tell(&mut tell, Rows::default());
            each(connection, &statements, &bound, &mut sink)
        });
        let hear = async {
            while let Some(told) = receiver.recv().await {
                match told {
                    Told::Columns(columns) => sink.columns(columns),
                    Told::Row(row) => sink.row(row),
                }
            }
        };
        tokio::join!(work, hear).0
    }

    /// Runs a query for each of these messages in one transaction.
    pub(super) async fn batch(
        &self,
        statements: &Statements,
        messages: &[Bound],
    ) -> Result<Vec<Result<Rows, DatabaseError>>, DatabaseError> {
        let (statements, messages) = (statements.clone(), messages.to_vec());
        let deadline = Instant::now() + self.timeout;
        let batch = self.submit(false, deadline, move |connection| {
            let mut results = Vec::with_capacity(messages.len());
            in_transaction(connection, |connection| {
                for bound in &messages {
                    results.push(in_savepoint(connection, &statements, bound));
                }
                Ok(())
            })?;
            Ok(results)
        });
        batch.await
    }

    /// Has SQLite parse the statements.
    pub(super) async fn check(&self, statements: &Statements) -> Result<(), DatabaseError> {
        let statements = statements.clone();
        self.submit(false, Instant::now() + self.timeout, move |connection| {
            for statement in statements.list() {
                connection.prepare_cached(statement.sql())?;
            }
            Ok(())
        })
        .await
    }

    /// Runs SQL as it stands.
    pub(super) async fn script(&self, sql: &str) -> Result<(), DatabaseError> {
        let sql = sql.to_owned();
        self.submit(false, Instant::now() + self.timeout, move |connection| {
            connection.execute_batch(&sql)
        })
        .await
    }

    /// Has a thread do some work.
    async fn submit<T: Send + 'static>(
        &self,
        reads: bool,
        deadline: Instant,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (reply, result) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            // Nobody waits any more: a write that was given up must not happen later.
            if reply.is_closed() {
                return;
            }
            let result = connection.and_then(|connection| work(connection).map_err(error));
            let _ = reply.send(result);
        });
        let threads = if reads { &self.readers } else { &self.writer };
        match threads.try_send(Job { work, deadline }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(DatabaseError::PoolExhausted),
            Err(TrySendError::Disconnected(_)) => return Err(ended()),
        }
        match timeout_at(deadline, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(DatabaseError::TimedOut),
        }
    }
}

fn ended() -> DatabaseError {
    DatabaseError::Unreachable("its thread has ended".to_owned())
}

fn start(name: &str, server: &Sqlite, jobs: Receiver<Job>) -> Result<(), String> {
    let server = server.clone();
    let thread = thread::Builder::new().name(name.to_owned());
    let run = move || {
        let mut connection = None;
        for Job { work, deadline } in jobs {
            let opened = match &mut connection {
                Some(connection) => Ok(connection),
                none => open(&server).map(|opened| none.insert(opened)).map_err(error),
            };
            work(opened.and_then(|connection| {
                let left = deadline.saturating_duration_since(Instant::now());
                connection.busy_timeout(left).map_err(error)?;
                let late = move || Instant::now() >= deadline;
                connection.progress_handler(STEPS, Some(late)).map_err(error)?;
                Ok(connection)
            }));
        }
    };
    thread.spawn(run).map(drop).map_err(|error| error.to_string())
}

fn open(server: &Sqlite) -> rusqlite::Result<Connection> {
    if let Some(file) = server.file.as_deref().filter(|file| !is_uri(file)) {
        // There will be passwords in it. Where it exists, or can't be, that is told below.
        let _ = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    }
    let connection = match &server.file {
        None => Connection::open_in_memory()?,
        Some(file) => Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                // Yate's `database=` may be one.
                | if is_uri(file) { OpenFlags::SQLITE_OPEN_URI } else { OpenFlags::empty() },
        )?,
    };
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    // Readers and the writer don't wait for each other. On a disk where that can't be, it stays as
    // it is.
    let _ = connection.pragma_update(None, "journal_mode", "WAL");
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    if let Some(sql) = &server.initialize {
        connection.execute_batch(sql)?;
    }
    Ok(connection)
}

fn is_uri(file: &Path) -> bool {
    file.as_os_str().as_encoded_bytes().starts_with(b"file:")
}

fn in_transaction(
    connection: &mut Connection,
    work: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    // At once, since a transaction that begins to write later can find that it may not.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let worked = work(connection).and_then(|()| connection.execute_batch("COMMIT"));
    if worked.is_err() {
        // Some errors have rolled back already.
        let _ = connection.execute_batch("ROLLBACK");
    }
    worked
}

/// Runs the statements for one message, all or none, within a transaction.
fn in_savepoint(
    connection: &mut Connection,
    statements: &Statements,
    bound: &Bound,
) -> Result<Rows, DatabaseError> {
    let mut sink = Sink::Keep(Rows::default());
    connection.execute_batch("SAVEPOINT message").map_err(error)?;
    let worked = each(connection, statements, bound, &mut sink);
    let undo = if worked.is_err() { "ROLLBACK TO message; " } else { "" };
    let ended = connection.execute_batch(&format!("{undo}RELEASE message"));
    worked.and(ended).map(|()| sink.into_rows()).map_err(error)
}

fn each(
    connection: &mut Connection,
    statements: &Statements,
    bound: &Bound,
    sink: &mut Sink<'_>,
) -> rusqlite::Result<()> {
    for (position, statement) in statements.list().iter().enumerate() {
        one(connection, statement, bound.values(position), sink)?;
    }
    Ok(())
}

fn one(
    connection: &mut Connection,
    statement: &Statement,
    values: &[Value],
    sink: &mut Sink<'_>,
) -> rusqlite::Result<()> {
    let mut plan = connection.prepare_cached(statement.sql())?;
    for (position, value) in values.iter().enumerate() {
        match value.number() {
            Some(Number::Integer(integer)) => plan.raw_bind_parameter(position + 1, integer)?,
            Some(Number::Real(real)) => plan.raw_bind_parameter(position + 1, real)?,
            None => plan.raw_bind_parameter(position + 1, &*value.text)?,
        }
    }
    let count = plan.column_count();
    if count > 0 {
        sink.columns(plan.column_names().map(Into::into).collect());
    }
    let mut rows = plan.raw_query();
    while let Some(row) = rows.next()? {
        let values = (0..count).map(|column| row.get_ref(column).map(text));
        sink.row(values.collect::<rusqlite::Result<_>>()?);
    }
    drop(rows);
    // Its count would still be that of whatever wrote before.
    let wrote = statement.counts() && !plan.readonly();
    drop(plan);
    if wrote {
        sink.affected(connection.changes());
    }
    Ok(())
}

/// A value as SQLite's shell would show it.
fn text(value: ValueRef<'_>) -> Option<Box<str>> {
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(integer) => integer.to_string().into(),
        ValueRef::Real(real) => format!("{real:?}").into(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into(),
    })
}

fn error(error: rusqlite::Error) -> DatabaseError {
    let (failure, message) = match &error {
        rusqlite::Error::SqliteFailure(failure, message) => (failure, message.clone()),
        rusqlite::Error::SqlInputError { error: failure, msg, .. } => (failure, Some(msg.clone())),
        _ => return DatabaseError::refused("sqlite", &error.to_string()),
    };
    let message = message.unwrap_or_else(|| failure.to_string());
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OperationInterrupted => {
            DatabaseError::TimedOut
        }
        ErrorCode::CannotOpen
        | ErrorCode::DatabaseCorrupt
        | ErrorCode::DiskFull
        | ErrorCode::NotADatabase
        | ErrorCode::SystemIoFailure => DatabaseError::Unreachable(message),
        code => DatabaseError::refused(&format!("{code:?}"), &message),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.db");
        let server = Sqlite { file: Some(file.clone()), initialize: None };
        open(&server).unwrap().execute_batch("CREATE TABLE users (password TEXT)").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // An operator's choice stays.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        open(&server).unwrap().execute_batch("SELECT * FROM users").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
