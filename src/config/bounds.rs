//! Default, floor and ceiling of every number in `bindery.conf`, each in one constant.

use std::fmt;

/// What a number may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What stands if nothing is written.
    pub default: u32,
    /// The least that is taken.
    pub floor: u32,
    /// The most that is taken.
    pub ceiling: u32,
    /// What is counted, as a plural.
    pub unit: &'static str,
}

impl fmt::Display for Bounds {
    /// `seconds from 1 to 86400`, as it stands in errors and in comments of the first `bindery.conf`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.unit, self.floor, self.ceiling)
    }
}

const fn bounds(default: u32, floor: u32, ceiling: u32, unit: &'static str) -> Bounds {
    Bounds { default, floor, ceiling, unit }
}

/// A day: no phone stays silent longer, and a lost binding heals within it.
const DAY: u32 = 86_400;

/// `[general] workers`; zero means one for each CPU. More sockets share no port well, and records
/// remember by one octet whose journal has them.
pub const WORKERS: Bounds = bounds(0, 0, 254, "threads");
/// `[listener NAME] port`; zero takes any free one.
pub const LISTENER_PORT: Bounds = bounds(5060, 0, 65_535, "a port");
/// `[listener NAME] buffer`, SO_RCVBUF; zero leaves the kernel's default, less than 4096 is Yate's
/// floor and refused beyond zero.
pub const BUFFER: Bounds = bounds(0, 0, 1 << 30, "octets");
/// `[listener NAME] maxpkt`; RFC 3261 §18.1.1 wants datagrams of the largest size taken.
pub const MAXPKT: Bounds = bounds(65_535, 524, 65_535, "octets");
/// `[registrar] expires_min`; RFC 3261 §10.3 step 7 wants an hour's request never refused.
pub const EXPIRES_MIN: Bounds = bounds(60, 1, 3600, "seconds");
/// `[registrar] expires_def`.
pub const EXPIRES_DEF: Bounds = bounds(600, 1, DAY, "seconds");
/// `[registrar] expires_max`.
pub const EXPIRES_MAX: Bounds = bounds(3600, 1, 7 * DAY, "seconds");
/// `[registrar] nat_refresh`; zero sends no `P-NAT-Refresh`.
pub const NAT_REFRESH: Bounds = bounds(25, 0, 3600, "seconds");
/// `[registrar] max_contacts`. An answer lists all of them and must fit a datagram.
pub const MAX_CONTACTS: Bounds = bounds(10, 1, 100, "bindings");
/// `[registrar] max_bindings`; zero means no bound.
pub const MAX_BINDINGS: Bounds = bounds(0, 0, u32::MAX, "bindings");
/// `[auth] nonce_lifetime`. A phone that registers every hour is challenged each time anyway.
pub const NONCE_LIFETIME: Bounds = bounds(300, 1, DAY, "seconds");
/// `[cache] lifetime`: an account is asked for again after so long.
pub const CACHE_LIFETIME: Bounds = bounds(300, 1, DAY, "seconds");
/// `[cache] negative`: so long a user that nobody knows stays unknown; a new one waits no longer.
pub const CACHE_NEGATIVE: Bounds = bounds(10, 1, DAY, "seconds");
/// `[cache] stale`: a night without a database, and phones that register once an hour go on.
pub const CACHE_STALE: Bounds = bounds(43_200, 0, 7 * DAY, "seconds");
/// `[cache] size`.
pub const CACHE_SIZE: Bounds = bounds(1_000_000, 1, 100_000_000, "accounts");
/// `[backend] queue`: requests that may wait for back ends, and AoRs that these have yet to be told
/// of.
pub const QUEUE: Bounds = bounds(10_000, 1, 10_000_000, "requests");
/// `[calls] ring_timeout`: half an hour is longer than anybody lets a phone ring.
pub const RING_TIMEOUT: Bounds = bounds(60, 1, 1800, "seconds");
/// `[calls] dead_call`: a call without session timers may say nothing for as long as it lasts, and
/// one that is over must not count for ever.
pub const DEAD_CALL: Bounds = bounds(7200, 60, 7 * DAY, "seconds");
/// `[calls] probe`; zero probes nobody. Two requests a call each time: what makes sense is minutes.
pub const PROBE: Bounds = bounds(0, 0, DAY, "seconds");
/// `[calls] max_calls`; zero means no bound.
pub const MAX_CALLS: Bounds = bounds(0, 0, 1_000_000, "calls");
/// `[calls] dns_timeout`: less than the 32 s after which a caller has given up by itself.
pub const DNS_TIMEOUT: Bounds = bounds(5, 1, 30, "seconds");
/// `[persist] snapshot_interval`.
pub const SNAPSHOT_INTERVAL: Bounds = bounds(60, 1, DAY, "seconds");
/// `[persist] snapshot_rate`; zero sets no bound.
pub const SNAPSHOT_RATE: Bounds = bounds(0, 0, 100_000, "MiB a second");
/// `[persist] keep`: older snapshots beside the newest.
pub const KEEP: Bounds = bounds(2, 0, 100, "snapshots");
/// `[admin] port`; zero takes any free one.
pub const ADMIN_PORT: Bounds = bounds(8060, 0, 65_535, "a port");
/// `[limits] max_headers`.
pub const LIMIT_HEADERS: Bounds = bounds(128, 16, 1024, "header lines");
/// `[limits] max_uri`.
pub const LIMIT_URI: Bounds = bounds(512, 64, 8192, "octets");
/// `[limits] max_call_id`.
pub const LIMIT_CALL_ID: Bounds = bounds(255, 32, 255, "octets");
/// `[limits] max_contacts`.
pub const LIMIT_CONTACTS: Bounds = bounds(32, 1, 256, "contacts");
/// `[limits] max_path`.
pub const LIMIT_PATH: Bounds = bounds(1024, 64, 8192, "octets");
/// `[limits] max_contact_params`.
pub const LIMIT_CONTACT_PARAMS: Bounds = bounds(512, 64, 8192, "octets");
/// `timeout` of an account in `pgsqldb.conf` and `mysqldb.conf`; Yate's default.
pub const SERVER_TIMEOUT: Bounds = bounds(10_000, 100, 600_000, "milliseconds");
/// `timeout` of an account in `sqlitedb.conf`; Yate's default and floor.
pub const SQLITE_TIMEOUT: Bounds = bounds(2000, 100, 600_000, "milliseconds");
/// `retry` of an account; Yate's default.
pub const RETRY: Bounds = bounds(5, 0, 100, "more attempts");
/// `poolsize` in `pgsqldb.conf`: each connection carries dozens of queries, and a server has as
/// many cores.
pub const POSTGRES_POOLSIZE: Bounds = bounds(4, 1, 1000, "connections");
/// `poolsize` in `mysqldb.conf`: each connection carries one query.
pub const MYSQL_POOLSIZE: Bounds = bounds(16, 1, 1000, "connections");
/// `poolsize` in `sqlitedb.conf`: threads that read.
pub const SQLITE_POOLSIZE: Bounds = bounds(2, 1, 64, "connections");
/// `port` in `pgsqldb.conf`.
pub const POSTGRES_PORT: Bounds = bounds(5432, 1, 65_535, "a port");
/// `port` in `mysqldb.conf`; zero is MySQL's usual one, or its socket.
pub const MYSQL_PORT: Bounds = bounds(0, 0, 65_535, "a port");
/// `[general] expires` in `register.conf`: seconds between two runs of the timer's query.
pub const TIMER: Bounds = bounds(30, 1, DAY, "seconds");
/// `timeout` in `extmodule.conf`; Yate's default. Zero is [`crate::backend::script`]'s longest.
pub const SCRIPT_TIMEOUT: Bounds = bounds(10_000, 0, 300_000, "milliseconds");
/// `maxqueue` in `extmodule.conf`; Yate's default and ceiling. Zero is no bound of its own.
pub const SCRIPT_QUEUE: Bounds = bounds(1000, 0, 10_000, "messages");
/// `bufsize` in `extmodule.conf`: octets of a script's longest line with its end; Yate's.
pub const SCRIPT_LINE: Bounds = bounds(8192, 2048, 65_536, "octets");
/// `cache` in `[bindery]` of `extmodule.conf`; zero keeps nothing.
pub const SCRIPT_CACHE: Bounds = bounds(0, 0, DAY, "seconds");
/// Rights in `[bindery]` of `extmodule.conf`; zero leaves what this process has.
pub const SCRIPT_FILES: Bounds = bounds(0, 0, 1_000_000, "open files");
/// See [`SCRIPT_FILES`].
pub const SCRIPT_PROCESSES: Bounds = bounds(0, 0, 1_000_000, "processes");
/// See [`SCRIPT_FILES`].
pub const SCRIPT_MEMORY: Bounds = bounds(0, 0, 1_000_000, "MiB");
/// See [`SCRIPT_FILES`].
pub const SCRIPT_CPU: Bounds = bounds(0, 0, u32::MAX, "seconds");
/// `nice` in `[bindery]` of `extmodule.conf`: by how much scripts give way to phones. Not at all unless
/// set: phones that wait for a script wait longer, and with five on two busy CPUs it answers a third less.
pub const SCRIPT_NICE: Bounds = bounds(0, 0, 19, "steps of priority");
/// `[hook NAME] timeout`: a phone sends its REGISTER again after half a second, and gives up after
/// half a minute.
pub const HOOK_TIMEOUT: Bounds = bounds(1000, 50, 30_000, "milliseconds");
/// `[hook NAME] concurrency`.
pub const HOOK_CONCURRENCY: Bounds = bounds(16, 1, 1000, "requests");
/// `[hook NAME] queue`: questions that wait for a connection, for no longer than `timeout`.
pub const HOOK_QUEUE: Bounds = bounds(1000, 0, 100_000, "questions");
/// `[hook NAME] cache`; zero keeps nothing.
pub const HOOK_CACHE: Bounds = bounds(0, 0, DAY, "seconds");
/// `[hook NAME] retry_max`: a long weekend; zero sets no bound.
pub const HOOK_RETRY_MAX: Bounds = bounds(3 * DAY, 0, 365 * DAY, "seconds");
/// `[hook NAME] spool`: about a gigabyte of notifications.
pub const HOOK_SPOOL: Bounds = bounds(1_000_000, 1, 100_000_000, "notifications");
