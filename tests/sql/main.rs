//! One battery over PostgreSQL, MariaDB and SQLite: real servers, and what can be wrong with them.

mod calls;
mod engines;
mod others;
mod outages;
mod registrar;
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "some of it is for other tests")]
mod support;
mod types;
mod users;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bindery::backend::sql::{Account, Database, DatabaseError, Dialect, Rows, Statements};
use bindery::config::Findings;
use bindery::config::register::{self, Message, Query, Register};
use futures_util::future::join_all;
use tokio::time::Instant;

use self::engines::{Engine, Kind};

/// What no query of these tests comes near on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Values that would do harm if they became part of a statement.
const HOSTILE: [&str; 12] = [
    "'; DROP TABLE users; --",
    "\\'; DROP TABLE users; --",
    "' OR ''='",
    "\\",
    "\\\\'",
    "\"; --",
    "`x`",
    "${username}",
    "$1 ? :a @b /* */ -- #",
    "%_",
    "ü 漢字 🦀 \u{202e}",
    "line\r\nbreak\t\u{1}",
];

/// A test of the battery.
type Test = for<'t> fn(&'t mut Battery) -> Pin<Box<dyn Future<Output = ()> + 't>>;

/// What each test finds: a server, and tables as they were made.
pub(crate) struct Battery {
    pub(crate) engine: Engine,
    pub(crate) account: Account,
    pub(crate) database: Database,
}

macro_rules! tests {
    ($($path:path),* $(,)?) => {
        &[$((stringify!($path), |battery| Box::pin($path(battery)))),*]
    };
}

/// All tests, in order; those that stop servers come last.
const TESTS: &[(&str, Test)] = tests![
    ready_made_queries_do_their_work,
    yates_own_samples_run_as_they_are,
    others::tables_of_other_registrars_will_do,
    hostile_values_stay_values,
    an_update_that_changes_nothing_counts,
    statements_are_done_together_or_not_at_all,
    many_messages_have_a_result_each,
    answers_belong_to_their_questions,
    a_pool_can_be_exhausted,
    a_query_ends_in_time,
    a_wrong_schema_is_told_and_can_be_mended,
    rows_are_told_one_by_one,
    a_query_can_be_stored,
    types::values_are_shown_as_the_client_shows_them,
    users::users_come_change_and_go,
    registrar::phones_register_with_users_of_the_database,
    registrar::a_hash_that_cannot_be_read_locks_its_account,
    registrar::a_new_password_counts_once_the_old_one_has_aged,
    registrar::only_the_address_itself_says_which_domain_it_is_of,
    registrar::a_refresh_asks_nobody,
    registrar::a_reload_reads_the_database_again,
    registrar::all_accounts_can_be_loaded_at_the_start,
    registrar::a_load_that_a_reload_cuts_short_keeps_nobody_waiting,
    registrar::a_restart_tells_the_database_what_it_missed,
    calls::each_leg_has_its_row,
    calls::one_record_for_a_call,
    calls::records_of_calls_survive_an_outage,
    calls::records_of_calls_wait_across_a_restart,
    outages::nobody_listens,
    outages::notifications_arrive_after_a_restart,
    outages::a_server_that_is_killed_is_survived,
    outages::a_server_that_is_paused_is_survived,
    outages::a_file_that_is_locked_is_survived,
    registrar::a_database_that_is_away_keeps_out_strangers_only,
];

#[test]
fn postgresql() {
    run(Kind::Postgres);
}

#[test]
fn mariadb() {
    run(Kind::Mariadb);
}

#[test]
fn sqlite() {
    run(Kind::Sqlite);
}

fn run(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Some(engine) = Engine::start(kind).await else { return };
        let account = engine.account(TIMEOUT, 4);
        let database = Database::open(&account).unwrap();
        let mut battery = Battery { engine, account, database };
        for (name, test) in TESTS {
            eprintln!("{kind:?} {name}");
            battery.fresh().await;
            test(&mut battery).await;
        }
    });
}

impl Battery {
    /// Makes the tables anew, and puts somebody into them.
    async fn fresh(&mut self) {
        let tables = match self.account.dialect() {
            Dialect::Postgres => include_str!("../../deploy/sql/postgresql.sql"),
            Dialect::Mysql => include_str!("../../deploy/sql/mysql.sql"),
            Dialect::Sqlite => include_str!("../../deploy/sql/sqlite.sql"),
        };
        for table in ["users", "cdr", "accounts"] {
            self.database.script(&format!("DROP TABLE IF EXISTS {table}")).await.unwrap();
        }
        self.database.script(tables).await.unwrap();
        let users = "INSERT INTO users (username, password) VALUES ('100', 'secret'), ('200', '')";
        self.database.script(users).await.unwrap();
    }

    pub(crate) fn compile(&self, template: &str) -> Statements {
        Statements::compile(template, self.account.dialect()).unwrap()
    }

    pub(crate) async fn try_run(
        &self,
        template: &str,
        params: &[(&str, &str)],
    ) -> Result<Rows, DatabaseError> {
        let statements = self.compile(template);
        self.database.query(&statements, &statements.bind(params)).await
    }

    pub(crate) async fn run(&self, template: &str, params: &[(&str, &str)]) -> Rows {
        let result = self.try_run(template, params).await;
        result.unwrap_or_else(|error| panic!("{template}: {error}"))
    }

    /// The first cell of a query's answer.
    pub(crate) async fn cell(&self, template: &str, params: &[(&str, &str)]) -> Option<String> {
        let rows = self.run(template, params).await;
        rows.rows.first()?.first()?.as_deref().map(str::to_owned)
    }

    /// The ready-made queries for this engine.
    pub(crate) fn register(&self, name: &str) -> Register {
        let folder = tempfile::tempdir().unwrap();
        let (file, engine) = match self.account.dialect() {
            Dialect::Postgres => ("pgsqldb.conf", "postgresql"),
            Dialect::Mysql => ("mysqldb.conf", "mysql"),
            Dialect::Sqlite => ("sqlitedb.conf", "sqlite"),
        };
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sql");
        let queries = deploy.join(name).join(format!("{engine}.conf"));
        std::fs::copy(queries, folder.path().join("register.conf")).unwrap();
        std::fs::write(folder.path().join(file), "[default]\ndatabase=x\n").unwrap();
        let mut findings = Findings::default();
        let register = register::read(folder.path(), &mut findings).unwrap();
        assert_eq!((findings.errors, findings.warnings), (vec![], vec![]));
        register
    }

    pub(crate) async fn handle(&self, query: Option<&Query>, params: &[(&str, &str)]) -> Rows {
        let Some(Query::Template(statements)) = query else { panic!("{query:?}") };
        let result = self.database.query(statements, &statements.bind(params)).await;
        result.unwrap_or_else(|error| panic!("{statements}: {error}"))
    }
}

/// The life of a user and of a call, by the queries of `deploy/sql`.
async fn ready_made_queries_do_their_work(battery: &mut Battery) {
    let register = battery.register("yate");
    for handler in &register.handlers {
        for (key, query) in handler.queries() {
            let checked = battery.database.check(query.statements()).await;
            assert_eq!(checked, Ok(()), "{} {key}", handler.message.name());
        }
    }
    let query = |message| register.handler(message).unwrap().query.as_ref();
    let user = [("username", "100"), ("data", "sip/sip:100@192.0.2.1"), ("expires", "600")];
    let rows = battery.handle(query(Message::UserAuth), &user).await;
    assert_eq!((rows.value(0, "password"), rows.value(0, "ha1")), (Some("secret"), None));
    assert_eq!(battery.handle(query(Message::UserRegister), &user).await.affected, 1);
    let nobody = [("username", "999"), ("data", "sip/x"), ("expires", "600")];
    assert_eq!(battery.handle(query(Message::UserRegister), &nobody).await.affected, 0);
    assert_eq!(battery.handle(query(Message::EngineTimer), &[]).await.affected, 0);
    let route = |called| [("called", called)];
    let rows = battery.handle(query(Message::CallRoute), &route("100")).await;
    assert_eq!(rows.value(0, "location"), Some("sip/sip:100@192.0.2.1"));
    let rows = battery.handle(query(Message::CallRoute), &route("200")).await;
    assert_eq!((rows.rows.len(), rows.value(0, "location")), (1, None));
    assert!(battery.handle(query(Message::CallRoute), &route("999")).await.rows.is_empty());
    // What ended a second ago is swept away.
    let past = [("username", "100"), ("data", "sip/x"), ("expires", "-1")];
    assert_eq!(battery.handle(query(Message::UserRegister), &past).await.affected, 1);
    assert_eq!(battery.handle(query(Message::EngineTimer), &[]).await.affected, 1);
    battery.handle(query(Message::UserRegister), &user).await;
    assert_eq!(battery.handle(query(Message::UserUnregister), &user).await.affected, 1);
    assert_eq!(battery.handle(query(Message::UserUnregister), &user).await.affected, 0);

    let call = [
        ("time", "1795446213.123"),
        ("chan", "sip/1"),
        ("address", "192.0.2.1:5060"),
        ("direction", "incoming"),
        ("billid", "1-1"),
        ("caller", "100"),
        ("called", "200"),
        ("duration", "1.5"),
        ("billtime", "1.25"),
        ("ringtime", "0.25"),
        ("status", "answered"),
        ("reason", ""),
        ("external", "100"),
        ("inuse", "1"),
    ];
    let cdr = &register.handler(Message::CallCdr).unwrap().cdr;
    assert_eq!(battery.handle(cdr.initialize.as_ref(), &call).await.affected, 1);
    assert_eq!(battery.handle(cdr.initialize.as_ref(), &call).await.affected, 0);
    assert_eq!(battery.handle(cdr.update.as_ref(), &call).await.affected, 1);
    assert_eq!(battery.handle(cdr.finalize.as_ref(), &call).await.affected, 1);
    let line = register.handler(Message::Linetracker).unwrap();
    battery.handle(line.cdr.initialize.as_ref(), &call).await;
    assert_eq!(
        battery.cell("SELECT inuse FROM users WHERE username='100'", &[]).await.unwrap(),
        "1"
    );
    let over = [("external", "100"), ("inuse", "0")];
    battery.handle(line.cdr.finalize.as_ref(), &over).await;
    battery.handle(line.cdr.finalize.as_ref(), &over).await;
    assert_eq!(
        battery.cell("SELECT inuse FROM users WHERE username='100'", &[]).await.unwrap(),
        "0"
    );
    battery.handle(line.init.as_ref(), &[]).await;
}

/// Yate's `register.conf.sample`, which is for PostgreSQL, character for character.
async fn yates_own_samples_run_as_they_are(battery: &mut Battery) {
    if battery.engine.kind() != Kind::Postgres {
        return;
    }
    let user = [("username", "100"), ("data", "sip/sip:100@192.0.2.1"), ("expires", "600")];
    let auth = "SELECT password FROM users WHERE username='${username}' AND password IS NOT NULL \
                AND password<>''";
    assert_eq!(battery.cell(auth, &user).await.as_deref(), Some("secret"));
    assert_eq!(battery.cell(auth, &[("username", "200")]).await, None);
    let register = "UPDATE users SET location='${data}',expires=CURRENT_TIMESTAMP + INTERVAL \
                    '${expires} s' WHERE username='${username}'";
    assert_eq!(battery.run(register, &user).await.affected, 1);
    let route = "SELECT location,(CASE WHEN location IS NULL THEN 'offline' ELSE NULL END) AS error \
                 FROM users WHERE username='${called}'";
    let rows = battery.run(route, &[("called", "100")]).await;
    assert_eq!(rows.value(0, "location"), Some("sip/sip:100@192.0.2.1"));
    assert_eq!(rows.value(0, "error"), None);
    let rows = battery.run(route, &[("called", "200")]).await;
    assert_eq!((rows.value(0, "location"), rows.value(0, "error")), (None, Some("offline")));
    let unregister = "UPDATE users SET location=NULL,expires=NULL WHERE expires IS NOT NULL AND \
                      username='${username}'";
    assert_eq!(battery.run(unregister, &user).await.affected, 1);
    let timer = "UPDATE users SET location=NULL,expires=NULL WHERE expires IS NOT NULL AND \
                 expires<=CURRENT_TIMESTAMP";
    assert_eq!(battery.run(timer, &[]).await.affected, 0);
    let call = [
        ("time", "1795446213.123"),
        ("chan", "sip/1"),
        ("duration", "1.5"),
        ("billtime", "1.25"),
        ("ringtime", "0.25"),
        ("external", "100"),
        ("caller", "O'Brien"),
    ];
    battery.run("UPDATE cdr SET ended=true WHERE ended IS NULL OR NOT ended", &[]).await;
    let initialize = "INSERT INTO cdr VALUES(TIMESTAMP 'EPOCH' + INTERVAL '${time} s','${chan}', \
                      '${address}','${direction}','${billid}','${caller}','${called}',INTERVAL \
                      '${duration} s', INTERVAL '${billtime} s',INTERVAL '${ringtime} s',\
                      '${status}','${reason}',false)";
    assert_eq!(battery.run(initialize, &call).await.affected, 1);
    let finalize = "UPDATE cdr SET address='${address}',direction='${direction}', \
                    billid='${billid}',caller='${caller}',called='${called}',duration=INTERVAL \
                    '${duration} s', billtime=INTERVAL '${billtime} s',ringtime=INTERVAL \
                    '${ringtime} s',status='${status}', reason='${reason}',ended=true WHERE \
                    chan='${chan}' AND time=TIMESTAMP 'EPOCH' + INTERVAL '${time} s'";
    assert_eq!(battery.run(finalize, &call).await.affected, 1);
    let rows = battery.run("SELECT * FROM cdr", &[]).await;
    assert_eq!(rows.value(0, "time"), Some("2026-11-23 15:03:33.123"));
    assert_eq!(rows.value(0, "duration"), Some("00:00:01.5"));
    assert_eq!((rows.value(0, "caller"), rows.value(0, "ended")), (Some("O'Brien"), Some("t")));
    battery.run("UPDATE users SET inuse=inuse+1 WHERE username='${external}'", &call).await;
    let down = "UPDATE users SET inuse=(CASE WHEN inuse>0 THEN inuse-1 ELSE 0 END) WHERE \
                username='${external}'";
    assert_eq!(battery.run(down, &call).await.affected, 1);
    battery.run("INSERT INTO accounts (account, modified) VALUES ('a', true)", &[]).await;
    let timer = "BEGIN; SELECT (CASE WHEN enabled IS FALSE THEN 'logout' ELSE 'login' END) AS \
                 operation, account,protocol,username,password,server FROM accounts WHERE modified \
                 IS TRUE; UPDATE accounts SET modified=FALSE; COMMIT";
    let rows = battery.run(timer, &[]).await;
    assert_eq!((rows.value(0, "operation"), rows.affected), (Some("login"), 1));
    assert!(battery.run(timer, &[]).await.rows.is_empty());
}

async fn hostile_values_stay_values(battery: &mut Battery) {
    let write = "UPDATE users SET location='x${v}y',password='${v}' WHERE username='${u}'";
    for value in HOSTILE {
        battery.run("DELETE FROM users WHERE username='${v}'", &[("v", value)]).await;
        battery.run("INSERT INTO users (username) VALUES ('${v}')", &[("v", value)]).await;
        let written = battery.run(write, &[("v", value), ("u", value)]).await;
        assert_eq!(written.affected, 1, "{value:?}");
        let read = "SELECT location, password FROM users WHERE username='${v}' AND '${v}'<>''";
        let rows = battery.run(read, &[("v", value)]).await;
        assert_eq!(rows.value(0, "password"), Some(value));
        assert_eq!(rows.value(0, "location"), Some(&*format!("x{value}y")));
    }
    let all = battery.cell("SELECT count(*) FROM users", &[]).await.unwrap();
    assert_eq!(all, (HOSTILE.len() + 2).to_string());
    // No row can have a NUL in it.
    let nul = battery.try_run("SELECT 1 FROM users WHERE username='${v}'", &[("v", "10\0")]).await;
    match battery.account.dialect() {
        Dialect::Postgres => assert_eq!(nul, Err(DatabaseError::NoSuchText)),
        _ => assert!(nul.unwrap().rows.is_empty()),
    }
    let bare = "SELECT username FROM users WHERE inuse=${n}-1 AND username='100'";
    assert_eq!(battery.cell(bare, &[("n", "1")]).await.as_deref(), Some("100"));
    let bare = battery.try_run(bare, &[("n", "1 OR 1=1")]).await;
    assert!(!matches!(bare, Ok(ref rows) if rows.rows.len() > 1), "{bare:?}");
}

async fn an_update_that_changes_nothing_counts(battery: &mut Battery) {
    let same = "UPDATE users SET password='secret' WHERE username='${u}'";
    assert_eq!(battery.run(same, &[("u", "100")]).await.affected, 1);
    assert_eq!(battery.run(same, &[("u", "999")]).await.affected, 0);
    assert_eq!(battery.run("SELECT * FROM users", &[]).await.affected, 0);
}

async fn statements_are_done_together_or_not_at_all(battery: &mut Battery) {
    let both = "UPDATE users SET password='${p}' WHERE username='100'; \
                SELECT password FROM users WHERE username='100'; \
                DELETE FROM users WHERE username='${u}'";
    let rows = battery.run(both, &[("p", "new"), ("u", "200")]).await;
    assert_eq!((rows.value(0, "password"), rows.affected), (Some("new"), 1));
    let second_fails = "UPDATE users SET password='${p}' WHERE username='100'; \
                        INSERT INTO users (username) VALUES ('100')";
    let failed = battery.try_run(second_fails, &[("p", "newer")]).await;
    assert!(matches!(failed, Err(DatabaseError::Refused { .. })), "{failed:?}");
    let password = "SELECT password FROM users WHERE username='100'";
    assert_eq!(battery.cell(password, &[]).await.as_deref(), Some("new"));
}

async fn many_messages_have_a_result_each(battery: &mut Battery) {
    let insert = battery.compile("INSERT INTO users (username, password) VALUES ('${u}', '${p}')");
    let names: Vec<String> = (0..1200).map(|number| format!("user{number}")).collect();
    let mut all: Vec<_> =
        names.iter().map(|name| insert.bind(&[("u", &**name), ("p", "x")])).collect();
    // In the second transaction one is there already.
    all.insert(600, insert.bind(&[("u", "100"), ("p", "x")]));
    let results = battery.database.query_each(&insert, &all).await;
    assert_eq!(results.len(), 1201);
    for (position, result) in results.iter().enumerate() {
        match result {
            Ok(rows) => assert!(position != 600 && rows.affected == 1, "{position}: {rows:?}"),
            Err(DatabaseError::Refused { .. }) => assert_eq!(position, 600),
            Err(other) => panic!("{position}: {other}"),
        }
    }
    let count = battery.cell("SELECT count(*) FROM users", &[]).await;
    assert_eq!(count.as_deref(), Some("1202"));
    let read = battery.compile("SELECT username FROM users WHERE username='${u}'");
    let all: Vec<_> = names.iter().map(|name| read.bind(&[("u", &**name)])).collect();
    let results = battery.database.query_each(&read, &all).await;
    for (name, result) in names.iter().zip(results) {
        assert_eq!(result.unwrap().value(0, "username"), Some(&**name));
    }
}

async fn answers_belong_to_their_questions(battery: &mut Battery) {
    let echo = battery.compile("SELECT '${n}' AS n, password FROM users WHERE username='100'");
    let write =
        battery.compile("UPDATE users SET inuse=inuse+1 WHERE username='100'; SELECT '${n}' AS n");
    let ask = |number: u32| {
        let statements = if number.is_multiple_of(10) { &write } else { &echo };
        let database = battery.database.clone();
        async move {
            let number = number.to_string();
            let rows = database.query(statements, &statements.bind(&[("n", &*number)])).await;
            assert_eq!(rows.unwrap().value(0, "n"), Some(&*number));
        }
    };
    join_all((0..1000).map(ask)).await;
    let count = battery.cell("SELECT inuse FROM users WHERE username='100'", &[]).await;
    assert_eq!(count.as_deref(), Some("100"));
}

/// A query that takes a second or two.
pub(crate) fn slow(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "SELECT pg_sleep(1.5)",
        Dialect::Mysql => "SELECT SLEEP(1.5)",
        Dialect::Sqlite => {
            "SELECT count(*) FROM (WITH RECURSIVE n(i) AS \
             (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 40000000) SELECT i FROM n)"
        }
    }
}

async fn a_pool_can_be_exhausted(battery: &mut Battery) {
    let account = battery.engine.account(Duration::from_millis(600), 1);
    let database = Database::open(&account).unwrap();
    let statements = battery.compile(slow(account.dialect()));
    let bound = statements.bind(&());
    let started = Instant::now();
    let all = join_all((0..200).map(|_| database.query(&statements, &bound))).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // Which of the two it is depends on who wakes first where a query gives its place back.
    assert!(all.iter().all(|result| matches!(
        result,
        Err(DatabaseError::TimedOut | DatabaseError::PoolExhausted)
    )));
    recovers(&database).await;
}

/// Waits until a database answers again.
pub(crate) async fn recovers(database: &Database) {
    let probe = Statements::compile("SELECT 1", database.dialect()).unwrap();
    let started = Instant::now();
    loop {
        let answer = database.query(&probe, &probe.bind(&())).await;
        if answer.is_ok() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_query_ends_in_time(battery: &mut Battery) {
    let account = battery.engine.account(Duration::from_millis(300), 2);
    let database = Database::open(&account).unwrap();
    recovers(&database).await;
    let statements = battery.compile(slow(account.dialect()));
    let started = Instant::now();
    let result = database.query(&statements, &statements.bind(&())).await;
    assert_eq!(result, Err(DatabaseError::TimedOut));
    assert!(started.elapsed() < Duration::from_millis(1400), "{:?}", started.elapsed());
    recovers(&database).await;
}

async fn a_wrong_schema_is_told_and_can_be_mended(battery: &mut Battery) {
    let query = "SELECT extra FROM users WHERE username='100'";
    let refused = battery.try_run(query, &[]).await;
    let Err(DatabaseError::Refused { sqlstate, message }) = refused else { panic!("{refused:?}") };
    assert!(message.contains("extra"), "{message}");
    let expected = match battery.account.dialect() {
        Dialect::Postgres => "42703",
        Dialect::Mysql => "42S22",
        Dialect::Sqlite => "Unknown",
    };
    assert_eq!(&*sqlstate, expected);
    battery.database.script("ALTER TABLE users ADD extra INTEGER DEFAULT 7").await.unwrap();
    assert_eq!(battery.cell(query, &[]).await.as_deref(), Some("7"));
    // The type of a column changes under a statement that is prepared.
    match battery.account.dialect() {
        Dialect::Postgres => {
            let alter = "ALTER TABLE users ALTER extra TYPE text USING 'x' || extra";
            battery.database.script(alter).await.unwrap();
            assert_eq!(battery.cell(query, &[]).await.as_deref(), Some("x7"));
        }
        Dialect::Mysql => {
            battery.database.script("ALTER TABLE users MODIFY extra VARCHAR(9)").await.unwrap();
            assert_eq!(battery.cell(query, &[]).await.as_deref(), Some("7"));
        }
        Dialect::Sqlite => {}
    }
}

async fn rows_are_told_one_by_one(battery: &mut Battery) {
    let insert = battery.compile("INSERT INTO users (username) VALUES ('${u}')");
    let names: Vec<String> = (0..3000).map(|number| format!("u{number:04}")).collect();
    let all: Vec<_> = names.iter().map(|name| insert.bind(&[("u", &**name)])).collect();
    battery.database.query_each(&insert, &all).await;
    let query = battery.compile("SELECT username, password FROM users WHERE username LIKE 'u%'");
    let mut told = Vec::new();
    let deadline = Instant::now() + TIMEOUT;
    let mut tell = |columns: &[Box<str>], row: bindery::backend::sql::Row| {
        assert_eq!(columns, [Box::from("username"), "password".into()]);
        told.push(row[0].as_deref().unwrap().to_owned());
    };
    battery.database.stream(&query, &query.bind(&()), deadline, &mut tell).await.unwrap();
    told.sort();
    assert_eq!(told, names);
    // What is asked for at once has an end.
    let rows = battery.run("SELECT username FROM users", &[]).await;
    assert_eq!(rows.rows.len(), bindery::backend::sql::MAX_ROWS);
}

async fn a_query_can_be_stored(battery: &mut Battery) {
    let fetch = "SELECT 'SELECT password FROM users WHERE username=''$' || '{username}'''";
    let fetch = match battery.account.dialect() {
        Dialect::Mysql => {
            "SELECT CONCAT('SELECT password FROM users WHERE username=''$', '{username}''')"
        }
        _ => fetch,
    };
    let stored = battery.database.stored(&battery.compile(fetch)).await.unwrap();
    let rows = battery.database.query(&stored, &stored.bind(&[("username", "100")])).await.unwrap();
    assert_eq!(rows.value(0, "password"), Some("secret"));
    let several = battery.database.stored(&battery.compile("SELECT username FROM users")).await;
    assert_eq!(several.unwrap_err().to_string(), "expected one row with one column, got 2 with 1");
}
