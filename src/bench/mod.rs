//! `bindery bench`: a load of phones, and what becomes of it.
//!
//! One thread, a few connected sockets, one flat record for each phone. A request is copied from a
//! template in which only the user, CSeq, nonce and nonce count change; answers are read where the
//! last one had its values. So the generator costs less than any server, of which the kernel's part
//! can't be saved.
//!
//! A run has parts: a first request that finds out how the registrar challenges (`probe`), a
//! registration of all users where the scenario needs one, a warm-up, the measurement (`drive`).

mod answer;
mod challenge;
pub mod churn;
pub mod clock;
pub mod cpu;
mod drive;
mod echo;
mod engine;
mod line;
mod phones;
pub mod plan;
mod probe;
pub mod report;
mod request;
mod respond;
pub mod tally;
mod timers;
pub mod users;
mod warnings;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use clock::Stopwatch;
use cpu::{CpuSpent, CpuTime};
use drive::{Part, enrolled, enrolment, measured};
use engine::Engine;
use plan::{Extent, Plan, Scenario};
use tally::Tally;

use crate::auth::policy::Algorithm;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ICMP says so.
    #[error("nobody listens on udp:{0} (ICMP: port unreachable)")]
    Nobody(SocketAddr),
    /// No answer to the first request.
    #[error("no answer from udp:{0} within 4 s")]
    Silent(SocketAddr),
    /// The first request was refused.
    #[error("the first request was refused: {0}")]
    Refused(String),
    /// The first challenge offers nothing that can be answered.
    #[error("the registrar's challenge can't be met{}", .0.map_or(String::new(), |algorithm|
        format!(": it does not offer {}", algorithm.token())))]
    Challenge(Option<Algorithm>),
    /// The first answer to an echo's request is something else.
    #[error("udp:{0} is no echo: it answers something else than it is sent")]
    NoEcho(SocketAddr),
    /// Its answers don't say what they answer.
    #[error("udp:{0} answers with {1} octets, of which {2} are needed to tell whose they are")]
    ShortEcho(SocketAddr, usize, usize),
    /// The server went away before there was anything to report.
    #[error("udp:{0} went away: nobody listens there any more")]
    Gone(SocketAddr),
    /// The registration of all users before the measurement went wrong.
    #[error("{failures} users of {users} could not be registered before the measurement \
        ({lost} of them got no answer){}",
        .first.as_ref().map_or(String::new(), |line| format!("; first answer: {line}")))]
    Enrolment {
        /// How many.
        failures: u64,
        /// Those of them that were not answered.
        lost: u64,
        /// Of how many.
        users: u32,
        /// The first answer that was wrong.
        first: Option<String>,
    },
    /// Another error of this machine's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How far a part has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is being done.
    pub part: &'static str,
    /// Operations completed.
    pub completed: u64,
    /// Operations failed or lost.
    pub failures: u64,
    /// From 0 to 1.
    pub share: f64,
}

/// What a run has found.
#[derive(Debug)]
pub struct Outcome {
    /// The measurement.
    pub measured: Tally,
    /// The messages of all parts together.
    pub messages: Tally,
    /// Users who could not be registered before the measurement, too few to spoil it.
    pub missing: u64,
    /// The server's CPU time in the measurement, if it was asked for and is known.
    pub server: Option<CpuSpent>,
    /// The generator's own.
    pub generator: CpuSpent,
    /// In a storm: when each phone was registered, in nanoseconds since it began.
    pub registered_at: Vec<u64>,
    /// Of a churn: what each user was told.
    pub standings: Vec<churn::Standing>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

/// Carries out a plan. `stop` ends it early, with what it has.
///
/// # Errors
/// There was nothing to measure, or this machine failed.
pub fn run(
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Error> {
    // A mistyped number is to be told before the users are registered.
    CpuTime::of_processes(&plan.pids)?;
    let mut engine = Engine::new(plan, Stopwatch::start())?;
    engine.probe()?;
    let mut messages = std::mem::replace(&mut engine.tally, Tally::new(0));
    let mut missing = 0;
    if let Some(part) = enrolment(plan) {
        let tally = engine.drive(part, stop, progress)?;
        if tally.is_gone {
            return Err(Error::Gone(plan.target));
        }
        messages.add_messages(&tally);
        if !stop.load(Ordering::Relaxed) {
            missing = enrolled(plan.users.count(), tally)?;
        }
    }
    let part = measured(plan);
    if plan.warmup > 0 && !measures_from_the_start(plan.scenario) {
        let warmup = Part { name: "warming up", extent: Extent::Time(plan.warmup), ..part };
        let tally = engine.drive(warmup, stop, progress)?;
        if tally.is_gone {
            return Err(Error::Gone(plan.target));
        }
        messages.add_messages(&tally);
    }
    let server = CpuTime::of_processes(&plan.pids)?;
    let generator = CpuTime::of_this_thread()?;
    let measured = engine.drive(part, stop, progress)?;
    let generator = CpuTime::of_this_thread()?.since(&generator).unwrap_or_default();
    let server = match plan.pids.as_slice() {
        [] => None,
        // A server that has ended meanwhile takes its figures with it, not the others.
        pids => CpuTime::of_processes(pids).ok().and_then(|now| now.since(&server)),
    };
    messages.add_messages(&measured);
    let begun = measured.span.0;
    let registered_at = engine.registered_at.iter().map(|at| at.saturating_sub(begun)).collect();
    let standings = engine.standings();
    let interrupted = stop.load(Ordering::Relaxed);
    Ok(Outcome {
        measured,
        messages,
        missing,
        server,
        generator,
        registered_at,
        standings,
        interrupted,
    })
}

/// Whether there is nothing to warm up: what comes first counts.
fn measures_from_the_start(scenario: Scenario) -> bool {
    matches!(scenario, Scenario::Register | Scenario::Storm | Scenario::Churn)
}
