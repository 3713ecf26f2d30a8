//! The sections of `register.conf` as handlers.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    cdr::{Operation, Operations, TakesRecords},
    chain::{Failure, Handler, Handles, Handling},
    message::{Message, MessageName},
    sql::{Bound, Database, DatabaseError, Params, Rows, Statements},
    status::Status,
};
use crate::config::{
    register::{self, Query},
    settings::Records,
};
use crate::sip::extra;

/// Columns of `user.auth` with hashes, which go before its `result` (DESIGN §13.6).
pub(super) const HASHES: [&str; 3] = ["ha1", "ha1_sha256", "ha1_sha512_256"];

/// Whether calls may be taken, as far as the handlers of `call.cdr` know: all sections share it.
pub(super) type Critical = Rc<Cell<bool>>;

/// Between two tries of what is run once at the start.
const AGAIN: Duration = Duration::from_secs(2);

/// A fault that goes on is logged once in so long.
const LOGGED: Duration = Duration::from_secs(60);

/// One section that is switched on.
#[derive(Debug)]
pub(super) struct Section {
    /// Yate's name of all of them.
    name: Rc<str>,
    message: MessageName,
    section: register::Handler,
    database: Database,
    queries: RefCell<Queries>,
    critical: Critical,
    allow_empty_password: bool,
    /// Which legs `[call.cdr]` has records of.
    legs: Records,
    status: Arc<Status>,
    logged: Cell<Option<Instant>>,
    /// Why the last query failed, if it did.
    failing: RefCell<Option<String>>,
}

/// The queries, once those are known that stand in the database.
#[derive(Clone, Debug, Default)]
struct Queries {
    query: Option<Rc<Statements>>,
    initialize: Option<Rc<Statements>>,
    update: Option<Rc<Statements>>,
    status: Option<Rc<Statements>>,
    finalize: Option<Rc<Statements>>,
    combined: Option<Rc<Statements>>,
    /// Whether all are there.
    are_known: bool,
}

/// What a section says of why a message can't be handled.
fn failed(database: &Database, error: &DatabaseError) -> Handling {
    let reason = format!("database {}: {error}", database.name());
    Handling::Failed(Failure { reason, is_outage: error.is_outage() })
}

impl Params for Message {
    fn get(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        Self::get(self, name).map(std::borrow::Cow::Borrowed)
    }
}

impl Section {
    /// A handler for a section, on its account.
    pub(super) fn new(
        section: register::Handler,
        database: Database,
        critical: Critical,
        (allow_empty_password, legs): (bool, Records),
        status: Arc<Status>,
    ) -> Self {
        Self {
            name: "register".into(),
            message: section.message.handles(),
            section,
            database,
            queries: RefCell::default(),
            critical,
            allow_empty_password,
            legs,
            status,
            logged: Cell::new(None),
            failing: RefCell::default(),
        }
    }

    /// Finds the queries that stand in the database, and runs `initquery`; tries again until it
    /// went well.
    async fn prepare(&self) {
        let section = &self.section;
        let cdr = &section.cdr;
        loop {
            let queries = async {
                Ok::<_, String>(Queries {
                    query: self.find(section.query.as_ref()).await?,
                    initialize: self.find(cdr.initialize.as_ref()).await?,
                    update: self.find(cdr.update.as_ref()).await?,
                    status: self.find(cdr.status.as_ref()).await?,
                    finalize: self.find(cdr.finalize.as_ref()).await?,
                    combined: self.find(cdr.combined.as_ref()).await?,
                    are_known: true,
                })
            };
            match queries.await {
                Ok(found) => break *self.queries.borrow_mut() = found,
                Err(error) => self.log(&error),
            }
            tokio::time::sleep(AGAIN).await;
        }
        // Those of calls' records have their turn between what was left and what is new.
        if self.message == MessageName::CallCdr {
            return;
        }
        while let Err(error) = self.run_init().await {
            self.log(&error);
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn find(&self, query: Option<&Query>) -> Result<Option<Rc<Statements>>, String> {
        match query {
            None => Ok(None),
            Some(Query::Template(statements)) => Ok(Some(Rc::new(statements.clone()))),
            Some(Query::Stored(statements)) => {
                let stored = self.database.stored(statements).await;
                stored.map(|stored| Some(Rc::new(stored))).map_err(|error| error.to_string())
            }
        }
    }

    async fn run_init(&self) -> Result<(), String> {
        let Some(init) = self.find(self.section.init.as_ref()).await? else { return Ok(()) };
        let message = Message::new(self.message);
        self.ask(&init, &message).await.map(drop).map_err(|error| error.to_string())
    }

    /// Runs a query for a message.
    async fn ask(&self, query: &Statements, message: &Message) -> Result<Rows, DatabaseError> {
        let begun = Instant::now();
        let result = self.database.query(query, &query.bind(message)).await;
        self.status.took(self.database.name(), self.message, begun.elapsed());
        self.note(result.as_ref().err());
        result
    }

    /// Takes note of how a query went.
    fn note(&self, error: Option<&DatabaseError>) {
        // About a value, not about the database.
        let error = error.filter(|error| !matches!(error, DatabaseError::NoSuchText));
        if let Some(error) = error {
            self.log(&error.to_string());
        }
        self.failing.replace(error.map(ToString::to_string));
    }

    /// Logs a fault, within the rate.
    fn log(&self, error: &str) {
        let now = Instant::now();
        if self.logged.get().is_some_and(|last| now < last + LOGGED) {
            return;
        }
        self.logged.set(Some(now));
        let section = self.section.message.name();
        tracing::error!(account = self.database.name(), section, "{error}");
    }

    fn query(&self) -> Result<Rc<Statements>, Handling> {
        let queries = self.queries.borrow();
        match &queries.query {
            Some(query) => Ok(Rc::clone(query)),
            None if queries.are_known => Err(Handling::Passed),
            None => Err(Handling::Failed(self.not_known())),
        }
    }

    async fn handle_one(&self, message: &mut Message) -> Handling {
        if self.critical.get() && self.message != MessageName::UserAuth {
            message.set("error", "failure");
            let reason = "calls can't be recorded".to_owned();
            return Handling::Failed(Failure { reason, is_outage: true });
        }
        let query = match self.query() {
            Ok(query) => query,
            Err(handling) => return handling,
        };
        match self.ask(&query, message).await {
            Ok(rows) => self.judge(message, &rows),
            Err(DatabaseError::NoSuchText) => Handling::Passed,
            Err(error) => failed(&self.database, &error),
        }
    }

    fn judge(&self, message: &mut Message, rows: &Rows) -> Handling {
        match self.message {
            MessageName::UserAuth => self.authenticate(message, rows),
            MessageName::UserRegister if rows.affected > 0 || !rows.rows.is_empty() => {
                Handling::Handled
            }
            MessageName::CallPreroute => {
                self.take_row(message, rows);
                Handling::Passed
            }
            MessageName::CallRoute => self.route(message, rows),
            _ => Handling::Passed,
        }
    }

    /// Sets the first row's columns on the message, but for those that are NULL. The result is what
    /// the column of the return value has.
    fn take_row(&self, message: &mut Message, rows: &Rows) -> Option<String> {
        let result = self.section.result.as_deref();
        for (column, value) in rows.named(0) {
            if Some(column) == result {
                message.retval = value.to_owned();
            } else if let Err(why) = extra::check(column.as_bytes(), value.as_bytes()) {
                self.log(&format!("{column}: {why}; left out"));
            } else {
                message.set(column, value);
            }
        }
        rows.value(0, result?).map(str::to_owned)
    }

    fn authenticate(&self, message: &mut Message, rows: &Rows) -> Handling {
        if rows.rows.is_empty() {
            return Handling::Passed;
        }
        let has_hash = |(name, value): &(&str, &str)| HASHES.contains(name) && !value.is_empty();
        let has_hash = rows.named(0).any(|column| has_hash(&column));
        let result = self.section.result.as_deref();
        if !has_hash && result.is_none_or(|result| rows.position(result).is_none()) {
            self.log(
                "no column of the answer is the password: `result=` names it, or one is `ha1`",
            );
            message.set("error", "failure");
            return Handling::Passed;
        }
        let password = result.and_then(|result| rows.value(0, result)).unwrap_or_default();
        if !has_hash && password.is_empty() && !self.allow_empty_password {
            // Not mine (DESIGN §13.6): Yate lets anybody in.
            return Handling::Passed;
        }
        self.take_row(message, rows);
        Handling::Handled
    }

    fn route(&self, message: &mut Message, rows: &Rows) -> Handling {
        if rows.rows.is_empty() {
            return Handling::Passed;
        }
        if self.take_row(message, rows).is_some_and(|route| !route.is_empty()) {
            // Where the call goes if it fails there, and so on: failover, as in Yate.
            let result = self.section.result.as_deref().unwrap_or_default();
            let further = (1..rows.rows.len()).filter_map(|row| rows.value(row, result));
            message.further = further.filter(|r| !r.is_empty()).map(str::to_owned).collect();
            return Handling::Handled;
        }
        if self.section.offlineauto {
            message.retval = "-".to_owned();
            message.set("error", "offline");
            message.set("reason", "Offline");
        }
        Handling::Passed
    }

    /// Runs the query of an operation of a call's record.
    async fn record(&self, message: &Message) -> Result<(), Failure> {
        let (query, are_known) = {
            let queries = self.queries.borrow();
            let query = match message.get("operation") {
                Some("initialize") => &queries.initialize,
                Some("update") => &queries.update,
                Some("status") => &queries.status,
                Some("finalize") => &queries.finalize,
                Some("combined") => &queries.combined,
                _ => &None,
            };
            (query.clone(), queries.are_known)
        };
        if !are_known {
            return Err(self.not_known());
        }
        let Some(query) = query else { return Ok(()) };
        let result = self.ask(&query, message).await;
        let is_kept = result.as_ref().err().is_none_or(DatabaseError::is_about_values);
        if self.section.critical {
            self.critical.set(!is_kept);
        }
        result.map(drop).map_err(|error| {
            let reason = format!("database {}: {error}", self.database.name());
            // Also what only an operator can mend, such as a table that isn't there.
            Failure { reason, is_outage: !error.is_about_values() }
        })
    }

    fn not_known(&self) -> Failure {
        let (account, section) = (self.database.name(), self.section.message.name());
        let reason = format!("database {account}: the query of [{section}] is not known yet");
        Failure { reason, is_outage: true }
    }

    /// Whether a message's own parameters have it left out, as in Yate.
    fn is_left_out(&self, message: &Message) -> bool {
        let gate = match self.message {
            MessageName::UserAuth => "auth_register",
            MessageName::UserRegister | MessageName::UserUnregister => "register_register",
            MessageName::CallPreroute => "preroute_register",
            MessageName::CallRoute => "route_register",
            MessageName::CallCdr => "cdrwrite_register",
            _ => return false,
        };
        message.get(gate) == Some("false")
            || self.message == MessageName::CallCdr && message.get("cdrwrite") == Some("false")
    }
}

impl TakesRecords for Section {
    fn lane(&self) -> &str {
        self.section.message.name()
    }

    fn wants(&self, record: &Message) -> bool {
        let cdr = &self.section.cdr;
        let query = match record.get("operation") {
            Some("initialize") => &cdr.initialize,
            Some("update") => &cdr.update,
            Some("status") => &cdr.status,
            Some("finalize") => &cdr.finalize,
            Some("combined") => &cdr.combined,
            _ => &None,
        };
        // Who is on the phone is at either end.
        let is_its_leg = self.section.message == register::Message::Linetracker
            || self.legs == Records::Leg
            || record.get("direction") == Some("incoming");
        query.is_some() && is_its_leg && !self.is_left_out(record)
    }

    fn operations(&self) -> Operations {
        let cdr = &self.section.cdr;
        [
            (Operation::Initialize, &cdr.initialize),
            (Operation::Update, &cdr.update),
            (Operation::Finalize, &cdr.finalize),
            (Operation::Combined, &cdr.combined),
        ]
        .into_iter()
        .filter(|(_, query)| query.is_some())
        .fold(Operations::default(), |wanted, (operation, _)| wanted.and(operation))
    }

    /// Calls of an earlier process are counted no more once all counts are zero.
    fn begins_anew(&self) -> bool {
        self.section.message == register::Message::Linetracker && self.section.init.is_some()
    }

    fn begin(&self) -> Handles<'_, Result<(), Failure>> {
        Box::pin(async {
            self.run_init().await.map_err(|error| {
                let reason = format!("database {}: {error}", self.database.name());
                Failure { reason, is_outage: true }
            })
        })
    }

    fn take<'m>(&'m self, record: &'m mut Message) -> Handles<'m, Result<(), Failure>> {
        Box::pin(self.record(record))
    }
}

impl Handler for Section {
    fn name(&self) -> &Rc<str> {
        &self.name
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        // Records of calls come by their lane.
        if name == self.message && name != MessageName::CallCdr {
            vec![self.section.priority]
        } else {
            Vec::new()
        }
    }

    fn fault(&self) -> Option<String> {
        let outage = self.database.outage().map(|outage| outage.error.to_string());
        let fault = outage.or_else(|| self.failing.borrow().clone())?;
        Some(format!("database {}: {fault}", self.database.name()))
    }

    fn start(&self) -> Handles<'_, ()> {
        Box::pin(self.prepare())
    }

    fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
        Box::pin(async {
            if self.is_left_out(message) {
                Handling::Passed
            } else {
                self.handle_one(message).await
            }
        })
    }

    fn handle_all<'m>(
        &'m self,
        priority: i32,
        messages: &'m mut [Message],
    ) -> Handles<'m, Vec<Handling>> {
        let is_plain =
            matches!(self.message, MessageName::UserRegister | MessageName::UserUnregister)
                && !self.critical.get()
                && !messages.iter().any(|message| self.is_left_out(message));
        match self.query() {
            Ok(query) if is_plain => Box::pin(async move {
                let bound: Vec<Bound> =
                    messages.iter().map(|message| query.bind(message)).collect();
                let begun = Instant::now();
                let results = self.database.query_each(&query, &bound).await;
                self.status.took(self.database.name(), self.message, begun.elapsed());
                self.note(results.iter().find_map(|result| result.as_ref().err()));
                let judged =
                    messages.iter_mut().zip(results).map(|(message, result)| match result {
                        Ok(rows) => self.judge(message, &rows),
                        Err(DatabaseError::NoSuchText) => Handling::Passed,
                        Err(error) => failed(&self.database, &error),
                    });
                judged.collect()
            }),
            _ => Box::pin(async move {
                let mut handlings = Vec::with_capacity(messages.len());
                for message in messages {
                    handlings.push(self.handle(priority, message).await);
                }
                handlings
            }),
        }
    }
}
