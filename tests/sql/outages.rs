//! Servers that go away, come back, or say nothing.

use std::time::Duration;

use bindery::backend::sql::{Database, DatabaseError, Notification, Statements};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{Battery, Kind, recovers};

/// What a query may take here.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What a test's own machine may add to that.
const SLACK: Duration = Duration::from_secs(4);

/// Reads and writes one after the other until `stop`; how many went well, and what went wrong.
async fn load(database: &Database, stop: Instant) -> (u32, Vec<DatabaseError>) {
    let dialect = database.dialect();
    let read = "SELECT password FROM users WHERE username='${u}'";
    let read = Statements::compile(read, dialect).unwrap();
    let write = "UPDATE users SET location='${d}' WHERE username='${u}'";
    let write = Statements::compile(write, dialect).unwrap();
    let params = [("u", "100"), ("d", "sip/x")];
    let (mut good, mut bad) = (0, Vec::new());
    while Instant::now() < stop {
        for statements in [&read, &write] {
            let started = Instant::now();
            match database.query(statements, &statements.bind(&params)).await {
                Ok(rows) => {
                    assert!(rows.affected == 1 || rows.value(0, "password") == Some("secret"));
                    good += 1;
                }
                Err(error) => {
                    bad.push(error);
                    // A refusal costs nothing; who asks again at once learns nothing.
                    sleep(Duration::from_millis(5)).await;
                }
            }
            assert!(started.elapsed() < TIMEOUT + SLACK, "{:?}", started.elapsed());
        }
    }
    (good, bad)
}

pub(crate) async fn a_server_that_is_killed_is_survived(battery: &mut Battery) {
    if battery.engine.kind() == Kind::Sqlite {
        return;
    }
    let database = Database::open(&battery.engine.account(TIMEOUT, 3)).unwrap();
    recovers(&database).await;
    let stop = Instant::now() + Duration::from_secs(6);
    let all = join_all((0..20).map(|_| load(&database, stop)));
    let outage = async {
        sleep(Duration::from_secs(1)).await;
        battery.engine.kill();
        sleep(Duration::from_secs(1)).await;
        assert!(database.outage().is_some());
        battery.engine.resume_after_kill().await;
    };
    let (all, ()) = tokio::join!(all, outage);
    let good: u32 = all.iter().map(|(good, _)| good).sum();
    assert!(good > 100, "{good}");
    let bad: Vec<&DatabaseError> = all.iter().flat_map(|(_, bad)| bad).collect();
    assert!(!bad.is_empty());
    assert!(bad.iter().all(|error| error.is_outage()), "{bad:?}");
    recovers(&database).await;
    assert!(database.outage().is_none());
    recovers(&battery.database).await;
}

pub(crate) async fn a_server_that_is_paused_is_survived(battery: &mut Battery) {
    if battery.engine.kind() == Kind::Sqlite {
        return;
    }
    let database = Database::open(&battery.engine.account(TIMEOUT, 3)).unwrap();
    recovers(&database).await;
    let stop = Instant::now() + Duration::from_secs(6);
    let all = join_all((0..20).map(|_| load(&database, stop)));
    let outage = async {
        sleep(Duration::from_millis(500)).await;
        battery.engine.pause();
        sleep(Duration::from_secs(3)).await;
        battery.engine.go_on();
    };
    let (all, ()) = tokio::join!(all, outage);
    let bad: Vec<&DatabaseError> = all.iter().flat_map(|(_, bad)| bad).collect();
    assert!(bad.contains(&&DatabaseError::TimedOut), "{bad:?}");
    assert!(bad.iter().all(|error| error.is_outage()), "{bad:?}");
    recovers(&database).await;
    recovers(&battery.database).await;
}

/// A port where nobody listens.
pub(crate) async fn nobody_listens(battery: &mut Battery) {
    let mut account = battery.engine.account(TIMEOUT, 2);
    match &mut account.server {
        bindery::backend::sql::Server::Postgres(server) => {
            let mut config = tokio_postgres::Config::new();
            config.host("127.0.0.1").port(1).user("x");
            server.config = config;
        }
        bindery::backend::sql::Server::Mysql(server) => server.port = 1,
        bindery::backend::sql::Server::Sqlite(server) => {
            server.file = Some(battery.engine.path("none/users.db"));
        }
    }
    let database = Database::open(&account).unwrap();
    let probe = battery.compile("SELECT 1");
    let answers = (0..100).map(|_| async { database.query(&probe, &probe.bind(&())).await });
    for answer in join_all(answers).await {
        assert!(matches!(answer, Err(DatabaseError::Unreachable(_))), "{answer:?}");
    }
    assert!(battery.engine.kind() == Kind::Sqlite || database.outage().is_some());
}

pub(crate) async fn notifications_arrive_after_a_restart(battery: &mut Battery) {
    let channels = [Box::from("users"), "Other \"one\"".into()];
    let Some(mut heard) = battery.database.listen(&channels) else {
        assert_ne!(battery.engine.kind(), Kind::Postgres);
        return;
    };
    let patience = Duration::from_secs(30);
    assert_eq!(timeout(patience, heard.recv()).await, Ok(Some(Notification::Listening)));
    battery.run("SELECT pg_notify('users', '${u}')", &[("u", "10'0")]).await;
    let expected = |channel: &str, payload: &str| Notification::Notified {
        channel: channel.into(),
        payload: payload.into(),
    };
    assert_eq!(timeout(patience, heard.recv()).await, Ok(Some(expected("users", "10'0"))));
    battery.engine.kill();
    battery.engine.resume_after_kill().await;
    assert_eq!(timeout(patience, heard.recv()).await, Ok(Some(Notification::Listening)));
    recovers(&battery.database).await;
    battery.run("NOTIFY \"Other \"\"one\"\"\"", &[]).await;
    assert_eq!(timeout(patience, heard.recv()).await, Ok(Some(expected("Other \"one\"", ""))));
}

pub(crate) async fn a_file_that_is_locked_is_survived(battery: &mut Battery) {
    if battery.engine.kind() != Kind::Sqlite {
        return;
    }
    let database = Database::open(&battery.engine.account(Duration::from_millis(300), 1)).unwrap();
    recovers(&database).await;
    let other = rusqlite::Connection::open(battery.engine.path("users.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE users SET inuse=5").unwrap();
    let write = battery.compile("UPDATE users SET inuse=inuse+1 WHERE username='100'");
    let refused = database.query(&write, &write.bind(&())).await;
    assert_eq!(refused, Err(DatabaseError::TimedOut));
    // Who only reads sees what was before.
    let read = battery.compile("SELECT inuse FROM users WHERE username='100'");
    let rows = database.query(&read, &read.bind(&())).await.unwrap();
    assert_eq!(rows.value(0, "inuse"), Some("0"));
    other.execute_batch("COMMIT").unwrap();
    let written = database.query(&write, &write.bind(&())).await.unwrap();
    assert_eq!(written.affected, 1);
    let rows = database.query(&read, &read.bind(&())).await.unwrap();
    // A write that timed out may be done all the same, as on any server.
    assert!(matches!(rows.value(0, "inuse"), Some("6" | "7")), "{rows:?}");
}
