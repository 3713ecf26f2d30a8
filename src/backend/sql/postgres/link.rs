//! One connection to a PostgreSQL server.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use tokio::sync::{OnceCell, RwLock};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement as Plan};

use super::text::{Raw, Shown, Text};
use super::{DatabaseError, error};
use crate::backend::sql::params::{Bound, Value};
use crate::backend::sql::rows::{Row, Rows, Sink};
use crate::backend::sql::template::{Statement, Statements};

/// A connection with the statements that were prepared on it.
pub(super) struct Link {
    client: Client,
    /// The task that reads what the server sends.
    reader: AbortHandle,
    /// Held alone by a transaction: others' queries on this connection would become part of it.
    gate: RwLock<()>,
    prepared: Mutex<HashMap<Box<str>, Cell>>,
    /// Whether an answer didn't come in time: nothing more is sent here.
    suspect: AtomicBool,
}

type Cell = Arc<OnceCell<Arc<Prepared>>>;

/// A part of a transaction that is sent with all others.
type Step<'f> = Pin<Box<dyn Future<Output = Result<Rows, DatabaseError>> + Send + 'f>>;

impl Drop for Link {
    fn drop(&mut self) {
        // A server that is stopped would keep the task, and the socket, for ever.
        self.reader.abort();
    }
}

/// A statement the server has parsed.
struct Prepared {
    plan: Plan,
    columns: Arc<[Box<str>]>,
    shown: Box<[Shown]>,
}

impl Link {
    pub(super) fn new(client: Client, reader: AbortHandle) -> Self {
        Self {
            client,
            reader,
            gate: RwLock::new(()),
            prepared: Mutex::default(),
            suspect: AtomicBool::new(false),
        }
    }

    /// Whether queries may be sent here.
    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.suspect.load(Ordering::Relaxed)
    }

    /// Runs all statements for one message.
    pub(super) async fn run(
        &self,
        statements: &Statements,
        bound: &Bound,
        sink: &mut Sink<'_>,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let run = async {
            if let [statement] = statements.list() {
                let _shared = self.gate.read().await;
                let prepared = self.prepared(statement).await?;
                return self.one(statement, &prepared, bound.values(0), sink).await;
            }
            let mut parts = self.transaction(statements, std::slice::from_ref(bound)).await?;
            let rows = statements.merge(parts.pop().unwrap_or_default());
            sink.columns(rows.columns);
            rows.rows.into_iter().for_each(|row| sink.row(row));
            sink.affected(rows.affected);
            Ok(())
        };
        self.in_time(deadline, run).await
    }

    /// Runs all statements for each message in one transaction and one round trip.
    pub(super) async fn run_each(
        &self,
        statements: &Statements,
        messages: &[Bound],
        deadline: Instant,
    ) -> Result<Vec<Vec<Rows>>, DatabaseError> {
        self.in_time(deadline, self.transaction(statements, messages)).await
    }

    /// Prepares all statements.
    pub(super) async fn check(
        &self,
        statements: &Statements,
        deadline: Instant,
    ) -> Result<(), DatabaseError> {
        let check = async {
            let _shared = self.gate.read().await;
            for statement in statements.list() {
                self.prepared(statement).await?;
            }
            Ok(())
        };
        self.in_time(deadline, check).await
    }

    /// Runs SQL without parameters as it stands.
    pub(super) async fn script(&self, sql: &str, deadline: Instant) -> Result<(), DatabaseError> {
        let script = async {
            let _alone = self.gate.write().await;
            self.client.batch_execute(sql).await.map_err(error)
        };
        self.in_time(deadline, script).await
    }

    async fn in_time<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        timeout_at(deadline, work).await.unwrap_or_else(|_| {
            self.suspect.store(true, Ordering::Relaxed);
            Err(DatabaseError::TimedOut)
        })
    }

    /// The answers of each message's statements, if all of them go well.
    ///
    /// All is sent at once, with the COMMIT: if one statement fails the server refuses those after
    /// it and rolls back. So nothing is left half done if this future is dropped.
    async fn transaction(
        &self,
        statements: &Statements,
        messages: &[Bound],
    ) -> Result<Vec<Vec<Rows>>, DatabaseError> {
        let _alone = self.gate.write().await;
        let mut prepared = Vec::new();
        for statement in statements.list() {
            prepared.push((statement, self.prepared(statement).await?));
        }
        let mut steps = vec![self.control("BEGIN")];
        for bound in messages {
            for (position, (statement, prepared)) in prepared.iter().enumerate() {
                steps.push(self.step(statement, prepared, bound.values(position)));
            }
        }
        steps.push(self.control("COMMIT"));
        // Each sends at its first poll, and they are polled in order.
        let mut answers = join_all(steps).await.into_iter();
        answers.next();
        let mut all = Vec::with_capacity(messages.len());
        for _ in messages {
            let parts: Result<Vec<Rows>, _> = answers.by_ref().take(prepared.len()).collect();
            all.push(parts?);
        }
        answers.next().unwrap_or_else(|| Ok(Rows::default()))?;
        Ok(all)
    }

    /// A command of the transaction itself.
    fn control(&self, sql: &'static str) -> Step<'_> {
        Box::pin(async move {
            self.client.batch_execute(sql).await.map_err(error).map(|()| Rows::default())
        })
    }

    /// One statement of a transaction.
    fn step<'f>(
        &'f self,
        statement: &'f Statement,
        prepared: &'f Prepared,
        values: &'f [Value],
    ) -> Step<'f> {
        Box::pin(async move {
            let mut sink = Sink::Keep(Rows::default());
            self.one(statement, prepared, values, &mut sink).await?;
            Ok(sink.into_rows())
        })
    }

    async fn one(
        &self,
        statement: &Statement,
        prepared: &Prepared,
        values: &[Value],
        sink: &mut Sink<'_>,
    ) -> Result<(), DatabaseError> {
        if values.iter().any(|value| value.text.contains('\0')) {
            return Err(DatabaseError::NoSuchText);
        }
        let values = values.iter().map(|value| Text(&value.text));
        let refused = |refused| {
            // Its table has changed: the next one prepares it again.
            self.forget(statement, &refused);
            error(refused)
        };
        let stream = self.client.query_raw(&prepared.plan, values).await.map_err(refused)?;
        let mut stream = std::pin::pin!(stream);
        if !prepared.columns.is_empty() {
            sink.columns(Arc::clone(&prepared.columns));
        }
        while let Some(row) = stream.try_next().await.map_err(refused)? {
            let value = |(position, shown): (usize, &Shown)| {
                let raw = row.try_get::<_, Option<Raw<'_>>>(position).ok().flatten();
                raw.map(|raw| shown.text(raw.0))
            };
            let row: Row = prepared.shown.iter().enumerate().map(value).collect();
            sink.row(row);
        }
        if statement.counts() {
            sink.affected(stream.rows_affected().unwrap_or(0));
        }
        Ok(())
    }

    fn cell(&self, sql: &str) -> Cell {
        let mut all = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(sql) {
            Some(cell) => Arc::clone(cell),
            None => Arc::clone(all.entry(sql.into()).or_default()),
        }
    }

    /// Drops a prepared statement that the server can't run any more.
    fn forget(&self, statement: &Statement, refused: &tokio_postgres::Error) {
        let stale = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
        if refused.code().is_some_and(|code| stale.contains(code)) {
            let mut all = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(statement.sql());
        }
    }

    /// The statement as the server has parsed it, once for each connection.
    async fn prepared(&self, statement: &Statement) -> Result<Arc<Prepared>, DatabaseError> {
        let cell = self.cell(statement.sql());
        let prepare = || async { self.prepare(statement).await.map(Arc::new).map_err(error) };
        cell.get_or_try_init(prepare).await.map(Arc::clone)
    }

    async fn prepare(&self, statement: &Statement) -> Result<Prepared, tokio_postgres::Error> {
        let plan = self.parse(statement.sql(), statement.parameter_count()).await?;
        let columns: Arc<[Box<str>]> =
            plan.columns().iter().map(|column| column.name().into()).collect();
        let shown: Vec<Option<Shown>> =
            plan.columns().iter().map(|column| Shown::of(column.type_())).collect();
        if let Some(shown) = shown.iter().copied().collect() {
            return Ok(Prepared { plan, columns, shown });
        }
        let names: Vec<String> = (1..=shown.len()).map(|number| format!("c{number}")).collect();
        let list: Vec<String> = names
            .iter()
            .zip(&shown)
            .map(|(name, shown)| format!("{name}{}", if shown.is_some() { "" } else { "::text" }))
            .collect();
        // The line's end ends a comment that the statement may end in.
        let sql = format!(
            "WITH r ({}) AS (\n{}\n) SELECT {} FROM r",
            names.join(", "),
            statement.sql(),
            list.join(", ")
        );
        let plan = self.client.prepare_typed(&sql, plan.params()).await?;
        let shown = shown.into_iter().map(|shown| shown.unwrap_or(Shown::Text)).collect();
        Ok(Prepared { plan, columns, shown })
    }

    /// Has the server parse a statement. Where it can't tell a parameter's type, a literal would be
    /// taken for text, and so is the parameter.
    async fn parse(&self, sql: &str, parameters: usize) -> Result<Plan, tokio_postgres::Error> {
        let mut types: Vec<Type> = Vec::new();
        loop {
            let refused = match self.client.prepare_typed(sql, &types).await {
                Ok(plan) => return Ok(plan),
                Err(refused) => refused,
            };
            types.resize(parameters, Type::UNKNOWN);
            let unknown = refused
                .as_db_error()
                .filter(|error| *error.code() == SqlState::INDETERMINATE_DATATYPE)
                .and_then(|error| parameter_number(error.message()))
                .and_then(|number| types.get_mut(number.checked_sub(1)?))
                .filter(|kind| **kind == Type::UNKNOWN);
            match unknown {
                Some(kind) => *kind = Type::TEXT,
                None => return Err(refused),
            }
        }
    }
}

/// The `$N` of a message in whatever language.
fn parameter_number(message: &str) -> Option<usize> {
    let (_, after) = message.split_once('$')?;
    let end = after.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(after.len());
    after.get(..end)?.parse().ok()
}
