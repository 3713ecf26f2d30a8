//! `bindery bench`: load for sizing a site, and the echo that bounds it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::client::write_json;
use super::table::printed;
use super::usage;
use crate::auth::policy::Algorithm;
use crate::bench::churn::Standing;
use crate::bench::clock::nanos;
use crate::bench::plan::{Extent, Pace, Plan, Scenario, Weights};
use crate::bench::report::Report;
use crate::bench::users::{BadUsers, Pattern, Users};
use crate::bench::{self, Progress};
use crate::net::{EchoServer, PEER_BATCH, available_cpus, pin_current_thread, shorten_slices};

/// Users that take part.
const USERS: u32 = 1000;

/// The same where accounts register with new nonces all the time: a registrar remembers some of
/// each account (Bindery twelve), and an account that uses more within a second is challenged anew.
/// So many can have 200,000 registrations a second.
const MANY_USERS: u32 = 20_000;

/// The highest rate, in operations a second: more than one thread can start.
const MAX_RATE: f64 = 10_000_000.0;

/// Put load on a registrar, or echo datagrams to find the machine's limit
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Bench {
    /// The echo server
    #[command(subcommand)]
    pub server: Option<Server>,
    /// The load
    #[command(flatten)]
    pub load: Option<Load>,
}

/// What can be run besides a scenario.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Server {
    /// Answer each datagram with its own octets: the least that a UDP server can do
    EchoServer(Echo),
}

/// `bindery bench SCENARIO`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("pace").args(["window", "rate"]))]
#[command(group = ArgGroup::new("extent").args(["duration", "count"]))]
pub struct Load {
    /// What the phones do
    #[arg(value_enum)]
    pub scenario: Scenario,
    /// The server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5060")]
    pub target: String,
    /// How many users take part [default: 1000, of auth and of a mix 20000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub users: Option<u32>,
    /// The first user's number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first: u32,
    /// The users' names; %06d is the number in six digits
    #[arg(long, value_name = "FORMAT", default_value = "u%06d")]
    pub user_format: String,
    /// The users' passwords
    #[arg(long, value_name = "FORMAT", default_value = "p%06d")]
    pub password_format: String,
    /// A file with NAME:PASSWORD on each line, instead
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["users", "first", "user_format", "password_format"])]
    pub user_file: Option<PathBuf>,
    /// The domain of the addresses-of-record [default: the target's address]
    #[arg(long, value_name = "NAME", alias = "realm")]
    pub domain: Option<String>,
    /// Closed loop: operations always under way [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub window: Option<u32>,
    /// Open loop: operations started in a second; the exit code is 1 if more than 1 % of those that
    /// were due could not be started
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Seconds to measure; a storm ends then at the latest [default: 10, of a storm 300]
    #[arg(long, value_name = "S", value_parser = positive)]
    pub duration: Option<f64>,
    /// Operations to measure
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Seconds of the same before that aren't measured [default: 1]
    #[arg(long, value_name = "S", value_parser = not_negative)]
    pub warmup: Option<f64>,
    /// Source ports
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub sources: u16,
    /// The first source port; 0 takes free ones [default: the first free from 26000 on]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Requests that leave one port together
    #[arg(long, value_name = "N", default_value_t = 32,
        value_parser = clap::value_parser!(u16).range(1..=PEER_BATCH as i64))]
    pub batch: u16,
    /// What the phones ask for, in seconds
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = expires)]
    pub expires: u32,
    /// The digest to answer with [default: the first that the registrar offers]
    #[arg(long, value_name = "NAME", value_parser = algorithm)]
    pub algorithm: Option<Algorithm>,
    /// How often each operation comes in a mix
    /// [default: refresh=80,auth=10,query=5,unregister=5]
    #[arg(long, value_name = "NAME=N,...", value_parser = Weights::parse)]
    pub weights: Option<Weights>,
    /// Seconds in which all phones of a storm come [default: 1]
    #[arg(long, value_name = "S", value_parser = not_negative)]
    pub ramp: Option<f64>,
    /// Seconds of a storm's first back-off after a failure [default: 30]
    #[arg(long, value_name = "S")]
    pub backoff: Option<u32>,
    /// The server's processes: tells their CPU time for each operation
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Stay on this CPU, and spin there rather than sleep
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// What chance follows from: which user, which operation, how long a phone stays away. Call-IDs
    /// differ from run to run all the same [default: another each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write what each user of a churn was told to a file, a line of JSON for each
    #[arg(long, value_name = "FILE")]
    pub acknowledged: Option<PathBuf>,
    /// Write all figures to a file, or to standard output (-) instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `bindery bench echo-server`.
#[derive(Clone, Debug, Args)]
pub struct Echo {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5060")]
    pub listen: SocketAddr,
    /// Listen on an address that is not loopback: whoever reaches it can have datagrams sent to
    /// anybody else, whose address they forge
    #[arg(long)]
    pub anyone: bool,
    /// Octets of each answer: what was asked is cut to them, or filled up with zeros
    #[arg(long, value_name = "N", default_value_t = 500,
        value_parser = clap::value_parser!(u16).range(1..=1472))]
    pub answer_octets: u16,
    /// Stay on this CPU
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// Wait in poll(2), not in the call that receives
    #[arg(long)]
    pub poll: bool,
}

/// Runs `bindery bench`. The exit code is 1 if an operation failed or was lost, if the server went
/// away, if nothing was measured, or if a rate was not kept.
///
/// # Errors
/// There was nothing to measure: no such server, users or file.
pub fn run(args: &Bench) -> anyhow::Result<ExitCode> {
    match (&args.server, &args.load) {
        (Some(Server::EchoServer(echo)), _) => serve(echo),
        (None, Some(load)) => put_load(load),
        (None, None) => anyhow::bail!("a scenario is needed"),
    }
}

fn serve(args: &Echo) -> anyhow::Result<ExitCode> {
    if !args.anyone && !args.listen.ip().to_canonical().is_loopback() {
        return Err(usage(format!(
            "{} is not loopback, and an echo answers whomever a datagram says it is from: give \
             --anyone if only your own machines reach it",
            args.listen
        )));
    }
    pin(args.core)?;
    let mut server = EchoServer::bind(args.listen, args.answer_octets.into(), !args.poll)
        .with_context(|| format!("can't listen on {}", args.listen))?;
    eprintln!("echo on udp:{}", server.local_addr());
    loop {
        server.turn()?;
    }
}

fn put_load(args: &Load) -> anyhow::Result<ExitCode> {
    let plan = plan(args)?;
    pin(args.core)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the program at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let bar = bar();
    let outcome = bench::run(&plan, &stop, &mut |progress| show(&bar, progress));
    bar.finish_and_clear();
    let outcome = outcome?;
    if let Some(path) = &args.acknowledged {
        write_standings(path, &outcome.standings)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    let report = Report::new(&plan, command(std::env::args_os()), &outcome);
    let file = args.json.as_deref().filter(|path| *path != Path::new("-"));
    if let Some(path) = file {
        let failed = || format!("can't write {}", path.display());
        let mut file = File::create(path).with_context(failed)?;
        write_json(&mut file, &report).with_context(failed)?;
    }
    let is_table = args.json.is_none() || file.is_some();
    let mut out = io::stdout().lock();
    let written = if is_table { report.write(&mut out) } else { write_json(&mut out, &report) };
    printed(written.and_then(|()| out.flush()).map_err(Into::into))?;
    if !is_table {
        report.warnings.iter().for_each(|warning| eprintln!("bindery: {warning}"));
    }
    if let Some(shortfall) = report.shortfall() {
        eprintln!("bindery: {shortfall}");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_standings(path: &Path, standings: &[Standing]) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    for standing in standings {
        serde_json::to_writer(&mut file, standing)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

fn plan(args: &Load) -> anyhow::Result<Plan> {
    let target = resolve(&args.target)?;
    let users = match &args.user_file {
        Some(path) => {
            let failed = || path.display().to_string();
            Users::listed(&fs::read_to_string(path).with_context(failed)?).with_context(failed)?
        }
        None => numbered(args).map_err(|error| usage(error.to_string()))?,
    };
    let domain = args.domain.clone().unwrap_or_else(|| match target {
        SocketAddr::V4(addr) => addr.ip().to_string(),
        SocketAddr::V6(addr) => format!("[{}]", addr.ip()),
    });
    let fits =
        domain.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-[]:".contains(&octet));
    if !fits || domain.is_empty() {
        return Err(usage(format!("--domain {domain:?} is no domain")));
    }
    // The ports are in a row, so that two runs can be told to stay clear of each other.
    if let Some(port) = args.port.filter(|port| *port > 0)
        && port.checked_add(args.sources - 1).is_none()
    {
        return Err(usage(format!(
            "--port {port} with --sources {} goes beyond port 65535",
            args.sources
        )));
    }
    let seconds = if args.scenario == Scenario::Storm { 300.0 } else { 10.0 };
    let extent = match args.count {
        Some(count) => Extent::Count(count),
        None => Extent::Time(nanos(args.duration.unwrap_or(seconds))),
    };
    if let Some(said) = misplaced(args) {
        return Err(usage(said.to_owned()));
    }
    // More under way than there are phones can't be.
    let window = args.window.unwrap_or(256).min(users.count());
    Ok(Plan {
        scenario: args.scenario,
        target,
        domain,
        users,
        pace: args.rate.map_or(Pace::Window(window), Pace::Rate),
        extent,
        warmup: nanos(args.warmup.unwrap_or(1.0)),
        sources: args.sources,
        port: args.port,
        batch: args.batch,
        expires: args.expires,
        algorithm: args.algorithm,
        weights: args.weights.unwrap_or_default(),
        ramp: nanos(args.ramp.unwrap_or(1.0)),
        backoff: args.backoff.unwrap_or(30),
        seed: match args.seed {
            Some(seed) => seed,
            None => getrandom::u64().context("no random numbers")?,
        },
        run: getrandom::u64().context("no random numbers")?,
        spins: args.core.is_some(),
        pids: args.pid.clone(),
    })
}

/// Users by the formats.
fn numbered(args: &Load) -> Result<Users, BadUsers> {
    let count = args.users.unwrap_or(match args.scenario {
        Scenario::Auth | Scenario::Mix => MANY_USERS,
        _ => USERS,
    });
    let names = Pattern::parse(&args.user_format)?;
    Users::numbered(names, Pattern::parse(&args.password_format)?, args.first, count)
}

/// What is wrong with arguments that belong to other scenarios: to pass them over would measure
/// something else than was asked for.
fn misplaced(args: &Load) -> Option<&'static str> {
    let is_storm = args.scenario == Scenario::Storm;
    let is_paced = args.count.is_some() || args.rate.is_some() || args.window.is_some();
    let starts_at_once =
        matches!(args.scenario, Scenario::Storm | Scenario::Register | Scenario::Churn);
    let checks = [
        (
            is_storm && is_paced,
            "a storm is all users within --ramp seconds: it takes no --count, --rate or --window",
        ),
        (
            args.scenario == Scenario::Register
                && (args.count.is_some() || args.duration.is_some()),
            "register is each user once: it takes --users, not --count or --duration",
        ),
        (
            starts_at_once && args.warmup.is_some_and(|warmup| warmup > 0.0),
            "register, churn and storm measure from the first request on: they take no --warmup",
        ),
        (!is_storm && args.ramp.is_some(), "--ramp is for storm"),
        (!is_storm && args.backoff.is_some(), "--backoff is for storm"),
        (args.scenario != Scenario::Mix && args.weights.is_some(), "--weights is for mix"),
        (
            args.scenario != Scenario::Churn && args.acknowledged.is_some(),
            "--acknowledged is what a churn writes",
        ),
    ];
    checks.into_iter().find_map(|(is_wrong, said)| is_wrong.then_some(said))
}

fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    let mut found = target.to_socket_addrs().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => usage(format!("--target {target:?} is no HOST:PORT")),
        _ => anyhow::Error::new(error).context(format!("--target {target}")),
    })?;
    found.next().with_context(|| format!("--target {target}: there is no such host"))
}

fn pin(core: Option<usize>) -> anyhow::Result<()> {
    // What is measured is how soon the other side answers, and not how soon we notice.
    let _ = shorten_slices();
    match core {
        Some(core) if !available_cpus()?.contains(&core) => {
            Err(usage(format!("--core {core} is no CPU that this program may use")))
        }
        Some(core) => pin_current_thread(core).with_context(|| format!("can't run on CPU {core}")),
        None => Ok(()),
    }
}

fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{msg:12} {bar:40} {percent:>3} %  {prefix}";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share from 0 to 1")]
fn show(bar: &ProgressBar, progress: &Progress) {
    let Progress { part, completed, failures, share } = *progress;
    bar.set_message(part);
    bar.set_position((1000.0 * share.clamp(0.0, 1.0)) as u64);
    let failures =
        if failures > 0 { format!(", {failures} failed or lost") } else { String::new() };
    bar.set_prefix(format!("{completed}{failures}"));
}

/// The command line, for the record.
fn command(args: impl Iterator<Item = OsString>) -> String {
    let mut args: Vec<_> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    // A report is kept and shown around; a password is neither.
    for at in 1..args.len() {
        if args[at - 1] == "--password-format" {
            args[at] = "...".into();
        } else if args[at].starts_with("--password-format=") {
            args[at] = "--password-format=...".into();
        }
    }
    args.join(" ")
}

fn positive(text: &str) -> Result<f64, String> {
    let number = not_negative(text)?;
    if number > 0.0 { Ok(number) } else { Err("it must be more than 0".into()) }
}

/// Operations in a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = positive(text)?;
    if rate <= MAX_RATE { Ok(rate) } else { Err(format!("it must be {MAX_RATE} at most")) }
}

/// Seconds that a Contact asks for.
fn expires(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("0 removes what is to be registered".into()),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err("it is no number of seconds".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let fits = number.is_finite() && number >= 0.0;
    if fits { Ok(number) } else { Err("it must be a number that is not negative".into()) }
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_token(text.as_bytes())
        .ok_or_else(|| format!("MD5, SHA-256 and SHA-512-256 are known, not {text:?}"))
}
