//! What happens to calls, told to the back ends: the rows that Yate's queries make of it, and who is
//! on the phone.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bindery::auth::{Authenticator, NonceKeys};
use bindery::backend::sql::Dialect;
use bindery::backend::{
    self, BackEnds, CallEvents, Files, Inbox, Setup, Shared, SpoolFolder, Status,
};
use bindery::config::Accepted;
use bindery::config::resolve::{Host, Overrides};
use bindery::location::Location;
use bindery::proxy::{Call, CallEvent, End, Parties, Stage};
use bindery::registrar::Domains;
use bindery::time::{Now, SystemClock};
use bindery::worker::Rules;
use bindery::worker::parking::{Questions, Returns};
use persist::storage::file::FileStorage;
use tokio::time::{Instant, sleep};

use super::{Battery, Kind, recovers};

/// What no test comes near on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Back ends on the battery's tables, as a process has them.
struct Process {
    calls: CallEvents,
    back_ends: BackEnds,
    status: Arc<Status>,
}

impl Process {
    /// Starts them, with `calls` in `[calls]`.
    fn start(battery: &Battery, state: &Path, calls: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (name, account) = battery.engine.conf();
        for (name, text) in [
            ("bindery.conf", &*format!("[calls]\n{calls}\n")),
            ("register.conf", battery.engine.ready_made()),
            (name, &*account),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let host = Host { name: "host".to_owned(), cpus: 1 };
        let loaded = backend::load(folder.path(), &Overrides::default(), &host);
        let Accepted { value: loaded, .. } = loaded.unwrap();
        let config = loaded.config;
        let general = loaded.regfile.general.clone();
        let keys = NonceKeys::from_bytes(&[1; 32]);
        let rules = Rules {
            elsewhere: backend::elsewhere(&config, &loaded.regfile, loaded.register.as_ref(), None),
            domains: Domains::default(),
            registrar: config.registrar.clone(),
            authenticator: Authenticator::new(config.auth.clone(), keys).unwrap(),
            subscribers: loaded.regfile.subscribers,
            autocreate: false,
            server: None,
            limits: config.limits.clone(),
            calls: config.calls.policy.clone(),
        };
        assert!(rules.elsewhere.route);
        let status = Arc::new(Status::default());
        let shared = Shared {
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            location: Arc::new(Location::new([1; 16], 0)),
            clock: Arc::new(SystemClock::new()),
            listeners: Arc::new([]),
            status: Arc::clone(&status),
            spool: Some(SpoolFolder {
                storage: Arc::new(FileStorage::create(state).unwrap()),
                path: state.to_owned(),
            }),
        };
        let files =
            Files { register: loaded.register, cdrfile: loaded.cdrfile, ..Files::default() };
        let setup: Setup = backend::setup(&config, &general, files);
        let (calls, coming) = CallEvents::channel();
        let (_, questions, bell) = Questions::channel(1);
        let inbox = Inbox { questions, bell, calls: coming };
        let back_ends = BackEnds::start(setup, shared, inbox, Returns::new(0).0, ()).unwrap();
        Self { calls, back_ends, status }
    }

    /// Waits until handlers have taken `count` records, and none is left for them.
    async fn written(&self, count: u64) {
        let started = Instant::now();
        loop {
            let all: Vec<(&str, u64)> =
                self.status.records().map(|(kept, count)| (kept.as_str(), count)).collect();
            // The last one is counted a moment before it is taken off the spool.
            let waiting = self.status.spooled();
            if all == [("written", count), ("refused", 0), ("lost", 0)] && waiting == 0 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{all:?}, and {waiting} wait");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        tokio::task::spawn_blocking(|| self.back_ends.stop()).await.unwrap();
    }
}

const BEGAN: u64 = 30_123;

fn at(millis: u64) -> Now {
    Now { millis, unix: 1_795_446_213 + millis / 1000 }
}

/// A call from 100 to 200 as it begins.
fn call(id: u64) -> Call {
    let parties = Parties {
        call_id: (*b"abc").into(),
        caller: (*b"100").into(),
        called: (*b"200").into(),
        username: Some((*b"100").into()),
        from_aor: Some((*b"100").into()),
        source: "192.0.2.1:5060".parse().unwrap(),
    };
    Call { id, ..Call::new(at(BEGAN + id), parties.into(), Some((*b"200").into())) }
}

/// All that happens to a call: it rings after 0.377 s, and ends after 2.877 s; is answered after
/// 1.627 s if it ends in BYE.
fn life(id: u64, end: End) -> Vec<CallEvent> {
    let calling = call(id);
    let began = calling.began;
    let target = Some("192.0.2.2:5062".parse().unwrap());
    let rang = Some(began + 377);
    let ringing = Call { stage: Stage::Ringing, rang, target, ..calling.clone() };
    let mut events = vec![(began, calling), (began + 377, ringing.clone())];
    let mut last = ringing;
    if end == End::Bye {
        last = Call { stage: Stage::Answered, answered: Some(began + 1627), ..last };
        events.push((began + 1627, last.clone()));
    }
    let ended = Some((began + 2877, end));
    events.push((began + 2877, Call { stage: Stage::Ended, ended, ..last }));
    events.into_iter().map(|(millis, call)| CallEvent { now: at(millis), call }).collect()
}

/// All rows as text, in the order of calls and legs, with times in milliseconds.
async fn rows(battery: &Battery) -> Vec<String> {
    let millis = |column: &str| match battery.account.dialect() {
        Dialect::Postgres => format!("ROUND(EXTRACT(EPOCH FROM {column})*1000)"),
        Dialect::Mysql | Dialect::Sqlite => format!("ROUND({column}*1000)"),
    };
    let times = ["duration", "billtime", "ringtime"].map(millis).join(",");
    let sql = format!(
        "SELECT {times},direction,address,caller,called,status,reason,\
         CASE WHEN ended THEN 'ended' ELSE 'open' END FROM cdr ORDER BY billid,direction"
    );
    let rows = battery.run(&sql, &[]).await;
    let shown = |(at, value): (usize, &Option<Box<str>>)| {
        let value = value.as_deref().unwrap_or("NULL");
        match value.parse::<f64>() {
            Ok(number) if at < 3 => format!("{number:.0}"),
            _ => value.to_owned(),
        }
    };
    let row =
        |row: &[Option<Box<str>>]| row.iter().enumerate().map(shown).collect::<Vec<_>>().join(" ");
    rows.rows.iter().map(|cells| row(cells)).collect()
}

async fn inuse(battery: &Battery) -> (String, String) {
    let of = async |user| {
        let sql = "SELECT inuse FROM users WHERE username='${u}'";
        battery.cell(sql, &[("u", user)]).await.unwrap()
    };
    (of("100").await, of("200").await)
}

fn counted(number: u32) -> (String, String) {
    (number.to_string(), number.to_string())
}

pub(crate) async fn each_leg_has_its_row(battery: &mut Battery) {
    let state = tempfile::tempdir().unwrap();
    battery.run("UPDATE users SET inuse=7", &[]).await;
    let process = Process::start(battery, state.path(), "cdr=leg");
    let lives = [life(1, End::Bye), life(2, End::Refused(486)), life(3, End::Cancelled)];
    // They begin, then they ring.
    for stage in 0..2 {
        lives.iter().for_each(|life| process.calls.send(life[stage].clone()));
    }
    process.written(3 * (2 + 2 + 2)).await;
    assert_eq!(inuse(battery).await, counted(3));
    assert!(rows(battery).await.iter().all(|row| row.ends_with("ringing  open")));
    for life in lives {
        life.into_iter().skip(2).for_each(|event| process.calls.send(event));
    }
    process.written(3 * (2 + 2 + 2) + 2 + 3 * (2 + 2)).await;
    let answered = "100 200 answered  ended";
    let expected = |direction: &str, address: &str, end: &str, times: &str| {
        format!("{times} {direction} {address} {end}")
    };
    let both = |times: &str, end: &str| {
        [
            expected("incoming", "192.0.2.1:5060", end, times),
            expected("outgoing", "192.0.2.2:5062", end, times),
        ]
    };
    assert_eq!(
        rows(battery).await,
        [
            both("2877 1250 1250", answered),
            both("2877 0 2500", "100 200 ringing busy ended"),
            both("2877 0 2500", "100 200 ringing cancelled ended"),
        ]
        .concat()
    );
    assert_eq!(inuse(battery).await, counted(0));
    process.stop().await;
}

pub(crate) async fn one_record_for_a_call(battery: &mut Battery) {
    let state = tempfile::tempdir().unwrap();
    let process = Process::start(battery, state.path(), "cdr=call");
    let mut life = life(1, End::Bye);
    let end = life.pop().unwrap();
    life.into_iter().for_each(|event| process.calls.send(event));
    process.written(3 + 2).await;
    assert_eq!(inuse(battery).await, counted(1));
    process.calls.send(end);
    process.written(4 + 4).await;
    assert_eq!(
        rows(battery).await,
        ["2877 1250 1250 incoming 192.0.2.1:5060 100 200 answered  ended"]
    );
    assert_eq!(inuse(battery).await, counted(0));
    process.stop().await;
    // Nothing is left in the state folder.
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

/// After so long a write to a file that is locked is given up: twice the default timeout of SQLite's
/// accounts.
const GIVES_UP: Duration = Duration::from_secs(4);

/// The server goes away.
enum Outage {
    Killed,
    Locked(rusqlite::Connection),
}

impl Outage {
    fn begin(battery: &mut Battery) -> Self {
        if battery.engine.kind() == Kind::Sqlite {
            let other = rusqlite::Connection::open(battery.engine.path("users.db")).unwrap();
            other.busy_timeout(PATIENCE).unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            return Self::Locked(other);
        }
        battery.engine.kill();
        Self::Killed
    }

    async fn end(self, battery: &mut Battery) {
        match self {
            Self::Killed => {
                battery.engine.resume_after_kill().await;
                recovers(&battery.database).await;
            }
            Self::Locked(other) => {
                // A process that was stopped would take its last write along.
                sleep(GIVES_UP).await;
                other.execute_batch("COMMIT").unwrap();
            }
        }
    }
}

/// Exactly the rows of `calls` calls that were answered, and nobody on the phone.
async fn reconciles(battery: &Battery, calls: usize) {
    let rows = rows(battery).await;
    assert_eq!(rows.len(), 2 * calls);
    for (number, row) in rows.iter().enumerate() {
        let (direction, address) = match number % 2 {
            0 => ("incoming", "192.0.2.1:5060"),
            _ => ("outgoing", "192.0.2.2:5062"),
        };
        let expected = format!("2877 1250 1250 {direction} {address} 100 200 answered  ended");
        assert_eq!(*row, expected, "{number}");
    }
    assert_eq!(inuse(battery).await, counted(0));
}

/// Records of a call whose legs are all told: each leg twice more than its end, and its two ends.
const RECORDS: u64 = 2 * 4 + 2 * 2;

pub(crate) async fn records_of_calls_survive_an_outage(battery: &mut Battery) {
    const CALLS: u64 = 300;
    let state = tempfile::tempdir().unwrap();
    let process = Process::start(battery, state.path(), "cdr=leg");
    let mut outage = None;
    for id in 0..CALLS {
        // Calls overlap: each ends when the tenth after it begins.
        let mut events = life(id, End::Bye);
        let end = events.split_off(2);
        events.into_iter().for_each(|event| process.calls.send(event));
        if let Some(earlier) = id.checked_sub(10) {
            life(earlier, End::Bye).into_iter().skip(2).for_each(|e| process.calls.send(e));
        }
        drop(end);
        match id {
            100 => outage = Some(Outage::begin(battery)),
            200 => outage.take().unwrap().end(battery).await,
            _ => sleep(Duration::from_millis(1)).await,
        }
    }
    for id in CALLS - 10..CALLS {
        life(id, End::Bye).into_iter().skip(2).for_each(|event| process.calls.send(event));
    }
    process.written(CALLS * RECORDS).await;
    reconciles(battery, usize::try_from(CALLS).unwrap()).await;
    process.stop().await;
}

pub(crate) async fn records_of_calls_wait_across_a_restart(battery: &mut Battery) {
    const CALLS: u64 = 20;
    let state = tempfile::tempdir().unwrap();
    let process = Process::start(battery, state.path(), "cdr=leg");
    life(0, End::Bye).into_iter().for_each(|event| process.calls.send(event));
    process.written(RECORDS).await;
    let outage = Outage::begin(battery);
    for id in 1..CALLS {
        life(id, End::Bye).into_iter().for_each(|event| process.calls.send(event));
    }
    // This one goes on when the process stops.
    process.calls.send(life(CALLS, End::Bye).remove(0));
    process.stop().await;
    assert!(fs::read_dir(state.path()).unwrap().count() > 0);
    outage.end(battery).await;

    let process = Process::start(battery, state.path(), "cdr=leg");
    // The counts of the process before are void, its records are not.
    let left = (CALLS - 1) * (2 * 4) + 2 * 2;
    process.written(left).await;
    battery.run("DELETE FROM cdr WHERE reason='shutdown' AND ended", &[]).await;
    reconciles(battery, usize::try_from(CALLS).unwrap()).await;
    process.stop().await;
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}
