//! What happened, counted.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::clock::SECOND;
use super::plan::Operation;

/// What was wrong with an operation or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A status that this operation does not end with.
    Status,
    /// A challenge to credentials that answered the one before: the password is wrong.
    Credentials,
    /// A 401 that can't be answered, or for another realm or algorithm than the first one.
    Challenge,
    /// A 200 that does not list the Contact just registered.
    ContactMissing,
    /// A 200 that still lists the Contact just removed.
    ContactLeft,
    /// Another method in CSeq than was asked.
    Method,
    /// An echo that is not what was sent.
    Altered,
    /// A datagram that answers nothing of this run; no operation fails by it.
    Foreign,
}

impl Fault {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "unexpected status",
            Self::Credentials => "credentials refused",
            Self::Challenge => "challenge not answerable",
            Self::ContactMissing => "contact missing",
            Self::ContactLeft => "contact not removed",
            Self::Method => "method differs",
            Self::Altered => "echo differs",
            Self::Foreign => "no answer of ours",
        }
    }
}

/// The outcomes of one kind of operation.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// Ended as they should.
    pub completed: u64,
    /// Answered otherwise.
    pub failed: u64,
    /// Not answered before Timer F, or before the run was over, unless it was stopped (see
    /// [`Tally::unfinished`]).
    pub lost: u64,
    /// Nanoseconds from the (intended) start to the last answer.
    pub latency: Histogram<u64>,
    /// The longest of them, exactly.
    pub longest: u64,
}

/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// The longest latency told apart from longer ones, in nanoseconds: an hour, longer than a storm.
const LONGEST: u64 = 3600 * SECOND;

impl Default for Outcomes {
    fn default() -> Self {
        let latency = histogram();
        Self { completed: 0, failed: 0, lost: 0, latency, longest: 0 }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST, DIGITS).unwrap_or_else(|_| unreachable!("both are in bounds"))
}

/// The counts of one part of a run.
#[derive(Clone, Debug)]
pub struct Tally {
    /// By [`Operation`].
    pub operations: [Outcomes; Operation::ALL.len()],
    /// Requests sent, without retransmissions.
    pub requests: u64,
    /// Requests sent again (Timer E).
    pub retransmissions: u64,
    /// Final answers, by status.
    pub answers: BTreeMap<u16, u64>,
    /// Answers to what was answered already: to retransmissions.
    pub late: u64,
    /// Challenges to credentials: nonces that were no longer good.
    pub renewed: u64,
    /// ICMP messages that nobody listens.
    pub refused: u64,
    /// Times a phone began anew after a failure.
    pub retries: u64,
    /// What was wrong.
    pub faults: BTreeMap<Fault, u64>,
    /// The status line of the first answer that was wrong.
    pub first_wrong: Option<String>,
    /// With a rate: nanoseconds between when an operation was to start and when it did.
    pub lateness: Histogram<u64>,
    /// With a rate: operations that were due when the last one started, or when the time was up,
    /// and had not been started.
    pub not_started: u64,
    /// Operations that were under way when the run was stopped, and whose request had not yet been
    /// sent again: nobody knows what would have become of them.
    pub unfinished: u64,
    /// Whether the server went away in the middle.
    pub is_gone: bool,
    /// When the part began and when its last operation ended, in nanoseconds.
    pub span: (u64, u64),
    /// CPU time spent looking for something to do, in nanoseconds, where it spins.
    pub idle: u64,
    /// The part of it outside of the kernel.
    pub spun: u64,
    /// 200 and 401, the common ones, counted without a look-up.
    common: [u64; 2],
}

impl Tally {
    /// Nothing yet, at the moment `now`.
    pub fn new(now: u64) -> Self {
        Self {
            operations: Default::default(),
            requests: 0,
            retransmissions: 0,
            answers: BTreeMap::new(),
            late: 0,
            renewed: 0,
            refused: 0,
            retries: 0,
            faults: BTreeMap::new(),
            first_wrong: None,
            lateness: histogram(),
            not_started: 0,
            unfinished: 0,
            is_gone: false,
            span: (now, now),
            idle: 0,
            spun: 0,
            common: [0; 2],
        }
    }

    /// The outcomes of one kind of operation.
    pub fn of(&mut self, operation: Operation) -> &mut Outcomes {
        // The array has a place for each variant.
        &mut self.operations[operation as usize]
    }

    /// An operation that began at `started` has ended well.
    pub fn complete(&mut self, operation: Operation, started: u64, now: u64) {
        self.span.1 = now;
        let latency = now.saturating_sub(started);
        let outcomes = self.of(operation);
        outcomes.completed += 1;
        outcomes.longest = outcomes.longest.max(latency);
        outcomes.latency.saturating_record(latency);
    }

    /// A final answer came.
    pub fn answer(&mut self, status: u16) {
        match status {
            200 => self.common[0] += 1,
            401 => self.common[1] += 1,
            _ => *self.answers.entry(status).or_default() += 1,
        }
    }

    /// All answers by status.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        let mut all = self.answers.clone();
        all.extend([200, 401].into_iter().zip(self.common).filter(|(_, count)| *count > 0));
        all
    }

    /// Something was wrong.
    pub fn fault(&mut self, fault: Fault, status_line: &[u8]) {
        *self.faults.entry(fault).or_default() += 1;
        if self.first_wrong.is_none() && fault != Fault::Foreign {
            self.first_wrong = Some(String::from_utf8_lossy(status_line).into_owned());
        }
    }

    /// Operations of all kinds that ended as they should.
    pub fn completed(&self) -> u64 {
        self.operations.iter().map(|outcomes| outcomes.completed).sum()
    }

    /// Operations of all kinds that did not.
    pub fn failures(&self) -> u64 {
        self.operations.iter().map(|outcomes| outcomes.failed + outcomes.lost).sum()
    }

    /// Operations of all kinds that were not answered.
    pub fn lost(&self) -> u64 {
        self.operations.iter().map(|outcomes| outcomes.lost).sum()
    }

    /// Adds the messages of another part, for the sum of a run.
    pub fn add_messages(&mut self, other: &Self) {
        self.requests += other.requests;
        self.retransmissions += other.retransmissions;
        self.late += other.late;
        self.retries += other.retries;
        self.renewed += other.renewed;
        self.refused += other.refused;
        for (status, count) in &other.answers {
            *self.answers.entry(*status).or_default() += count;
        }
        for (sum, count) in self.common.iter_mut().zip(other.common) {
            *sum += count;
        }
    }
}
