//! The phones at work: requests out, answers in, each checked.

use std::io;

use super::answer::{Answer, MARK_LEN, Reader};
use super::challenge::{self, Challenge};
use super::churn::{self, Ledger, Standing};
use super::clock::{SECOND, Stopwatch};
use super::echo::Echo;
use super::line::Line;
use super::phones::Phones;
use super::plan::{Operation, Plan, Scenario};
use super::request::{Common, Credentials, Form, HEX, Values};
use super::respond::Secrets;
use super::tally::{Fault, Tally};
use super::timers::{Firing, Retransmissions, Returns};
use crate::net::PeerRecv;

/// Octets of an answer that are looked at: more than ten bindings take.
pub(super) const MAX_ANSWER: usize = 8192;

/// Challenges that one operation meets before it fails: one without credentials, and two that say
/// that the nonce got stale meanwhile.
const MAX_CHALLENGES: u8 = 3;

/// The longest back-off after failures (RFC 5626 §4.5), in seconds.
const MAX_BACKOFF: u64 = 1800;

/// All phones, their lines and what is known about the registrar.
#[derive(Debug)]
pub(super) struct Engine<'p> {
    pub(super) plan: &'p Plan,
    pub(super) clock: Stopwatch,
    pub(super) phones: Phones,
    pub(super) lines: Vec<Line>,
    pub(super) tally: Tally,
    pub(super) timers: Retransmissions,
    pub(super) returns: Returns,
    /// Operations under way.
    pub(super) waiting: u32,
    /// In a storm: when each phone was registered, in the order of their success.
    pub(super) registered_at: Vec<u64>,
    /// What chance is asked of.
    pub(super) random: Random,
    /// In a churn: what each user was told.
    ledger: Option<Ledger>,
    pub(super) common: Common,
    secrets: Secrets,
    reader: Reader,
    shape: Option<Shape>,
    pub(super) name: Vec<u8>,
    /// What an echo is to answer.
    pub(super) echo: Echo,
    /// The line that the next answers should come to.
    expected: usize,
}

/// The header of the last challenge: all of a registrar's differ in the nonce only.
#[derive(Debug)]
struct Shape {
    nonce_at: usize,
    nonce_len: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl<'p> Engine<'p> {
    /// Opens the lines; nothing is sent yet.
    pub(super) fn new(plan: &'p Plan, clock: Stopwatch) -> io::Result<Self> {
        let random = Random(plan.seed);
        let mut mark = [0; MARK_LEN];
        for (pair, octet) in mark.as_chunks_mut().0.iter_mut().zip(plan.run.to_be_bytes()) {
            *pair = HEX[usize::from(octet)];
        }
        let Plan { sources, port, target, batch, expires, .. } = *plan;
        let domain = plan.domain.clone();
        Ok(Self {
            plan,
            clock,
            phones: Phones::new(plan.users.count()),
            lines: Line::open_all(sources, port, target, batch)?,
            tally: Tally::new(0),
            timers: Retransmissions::default(),
            returns: Returns::default(),
            waiting: 0,
            registered_at: Vec::new(),
            random,
            ledger: (plan.scenario == Scenario::Churn).then(|| Ledger::new(plan.users.count())),
            common: Common { domain, mark, expires, credentials: None },
            secrets: Secrets::default(),
            reader: Reader::new(&mark),
            shape: None,
            name: Vec::new(),
            echo: Echo::default(),
            expected: 0,
        })
    }

    /// Learns from the registrar's first challenge how all are met, and hashes all passwords.
    pub(super) fn learn(&mut self, challenge: &Challenge<'_>) {
        let credentials = credentials(challenge);
        let Credentials { realm, algorithm, .. } = &credentials;
        let users = &self.plan.users;
        let count = usize::try_from(users.count()).unwrap_or(0);
        self.secrets = Secrets::new(*algorithm, count);
        let mut password = Vec::new();
        for user in 0..users.count() {
            users.name(user, &mut self.name);
            users.password(user, &mut password);
            self.secrets.push(*algorithm, &self.name, realm, &password);
        }
        self.common.credentials = Some(credentials);
        for line in &mut self.lines {
            line.authorize(&self.common);
        }
    }

    /// Begins an operation of an idle phone that was to begin at `started`.
    pub(super) fn begin(
        &mut self,
        user: u32,
        operation: Operation,
        started: u64,
        now: u64,
    ) -> io::Result<()> {
        let Some(phone) = self.phones.get_mut(user) else { return Ok(()) };
        phone.operation = Some(operation);
        phone.started = started;
        phone.challenges = 0;
        phone.authorized =
            phone.has_nonce() && !matches!(operation, Operation::Registration | Operation::Options);
        self.waiting += 1;
        self.line_of(user, |line| line.waiting += 1);
        self.request(user, now)
    }

    /// Sends a phone's request again.
    pub(super) fn repeat(&mut self, user: u32) -> io::Result<()> {
        self.tally.retransmissions += 1;
        self.push(user)
    }

    /// Ends a phone's operation without counting it.
    pub(super) fn settle(&mut self, user: u32) {
        let _ = self.end(user);
    }

    /// What a datagram answers, if it answers something of ours.
    pub(super) fn read<'a>(&mut self, datagram: &'a [u8]) -> Option<Answer<'a>> {
        self.reader.read(datagram)
    }

    fn line_of(&mut self, user: u32, act: impl FnOnce(&mut Line)) {
        let number = line_number(self.plan, user);
        if let Some(line) = self.lines.get_mut(number) {
            act(line);
        }
    }

    /// Sends a phone's next request.
    fn request(&mut self, user: u32, now: u64) -> io::Result<()> {
        let Some(phone) = self.phones.get_mut(user) else { return Ok(()) };
        phone.cseq += 1;
        phone.nc += u32::from(phone.authorized);
        phone.retransmissions = 0;
        phone.sent = now;
        let (cseq, authorized) = (phone.cseq, phone.authorized);
        if let Some(ledger) = &mut self.ledger
            && let Some(operation) = phone.operation.filter(|_| authorized)
        {
            ledger.asked(user, cseq, operation);
        }
        self.tally.requests += 1;
        self.timers.set(now, user, cseq, 0);
        self.push(user)
    }

    /// Puts a phone's request, or the same again, into its line's batch.
    fn push(&mut self, user: u32) -> io::Result<()> {
        let Some(phone) = self.phones.get(user) else { return Ok(()) };
        let Some(operation) = phone.operation else { return Ok(()) };
        let Some(line) = self.lines.get_mut(line_number(self.plan, user)) else { return Ok(()) };
        self.plan.users.name(user, &mut self.name);
        let nonce = if phone.authorized { self.phones.nonce(user) } else { b"" };
        let values = Values { name: &self.name, user, cseq: phone.cseq, nc: phone.nc, nonce };
        let ha1 = (operation != Operation::Echo)
            .then(|| self.secrets.of(usize::try_from(user).unwrap_or(usize::MAX)));
        let form = match self.plan.scenario {
            Scenario::Churn if form(operation) == Form::Bind => Form::Churn,
            _ => form(operation),
        };
        let taken = line.push(&self.common, form, &values, ha1);
        if !taken {
            let said = "the requests would be too long: shorten the names or the domain";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, said));
        }
        if line.is_full() {
            let refused = line.flush()?.refused;
            self.tally.refused += u64::try_from(refused).unwrap_or(0);
        }
        Ok(())
    }

    /// Sends what is assembled.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        for line in &mut self.lines {
            let refused = line.flush()?.refused;
            self.tally.refused += u64::try_from(refused).unwrap_or(0);
        }
        Ok(())
    }

    /// Takes the answers that wait; the result is how many.
    ///
    /// Answers come in about the order of the requests, line after line: it begins where the last
    /// ones came from and ends at a line that has none, if it has found any before.
    pub(super) fn receive(&mut self, inbox: &mut PeerRecv) -> io::Result<usize> {
        let mut received = 0;
        for _ in 0..self.lines.len() {
            let number = self.expected;
            let found = self.receive_from(number, inbox)?;
            received += found;
            let waits = self.lines.get(number).is_some_and(|line| line.waiting > 0);
            if waits && found == 0 && received > 0 {
                break;
            }
            self.expected = (number + 1) % self.lines.len().max(1);
        }
        Ok(received)
    }

    fn receive_from(&mut self, number: usize, inbox: &mut PeerRecv) -> io::Result<usize> {
        let Some(line) = self.lines.get(number).filter(|line| line.waiting > 0) else {
            return Ok(0);
        };
        let most = usize::try_from(line.waiting).unwrap_or(usize::MAX);
        let received = match inbox.recv(&line.peer, most) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.tally.refused += 1;
                return Ok(0);
            }
            other => other?,
        };
        if received > 0 {
            let now = self.clock.nanos();
            for datagram in inbox.iter() {
                if self.plan.scenario == Scenario::Echo {
                    self.echoed(number, datagram, now);
                } else {
                    self.answered(datagram, now)?;
                }
            }
        }
        Ok(received)
    }

    fn answered(&mut self, datagram: &[u8], now: u64) -> io::Result<()> {
        let Some(answer) = self.reader.read(datagram) else {
            self.tally.fault(Fault::Foreign, b"");
            return Ok(());
        };
        let Some(phone) = self.phones.get(answer.user) else {
            self.tally.fault(Fault::Foreign, b"");
            return Ok(());
        };
        let Some(operation) = phone.operation.filter(|_| answer.cseq == phone.cseq) else {
            self.tally.late += 1;
            return Ok(());
        };
        if answer.status < 200 {
            return Ok(());
        }
        self.tally.answer(answer.status);
        if answer.method != form(operation).method().as_bytes() {
            self.fail(&answer, Fault::Method, now);
            return Ok(());
        }
        if let Some(ledger) = &mut self.ledger
            && answer.status != 200
        {
            ledger.refused(answer.user, answer.cseq, phone.retransmissions > 0);
        }
        match (answer.status, operation) {
            (200, Operation::Options) => self.complete(answer.user, now),
            (200, _) => {
                self.plan.users.name(answer.user, &mut self.name);
                let number = line_number(self.plan, answer.user);
                if let Some(line) = self.lines.get(number) {
                    self.name.extend_from_slice(&line.at_host);
                }
                let lists = self.reader.lists(&answer, &self.name);
                if let Some(ledger) = &mut self.ledger {
                    let granted = churn::granted(answer.octets, &self.name).unwrap_or(0);
                    ledger.acknowledged(answer.user, granted);
                }
                let removes = matches!(operation, Operation::Unregistration | Operation::Clearing);
                match (lists, removes) {
                    (true, true) => self.fail(&answer, Fault::ContactLeft, now),
                    (false, false) => self.fail(&answer, Fault::ContactMissing, now),
                    _ => {
                        self.complete(answer.user, now);
                        // Only in a churn they may stay away.
                        if removes && self.ledger.is_none() {
                            return self.begin(answer.user, Operation::Restoration, now, now);
                        }
                    }
                }
            }
            (401, Operation::Options) => self.fail(&answer, Fault::Status, now),
            (401, _) => return self.challenged(&answer, now),
            _ => self.fail(&answer, Fault::Status, now),
        }
        Ok(())
    }

    /// In a churn: what each user was told. Otherwise nothing.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let Some(ledger) = &self.ledger else { return Vec::new() };
        let mut name = Vec::new();
        let mark = String::from_utf8_lossy(&self.common.mark);
        let standing = |user| {
            self.plan.users.name(user, &mut name);
            let ip = self.lines.get(line_number(self.plan, user))?.peer.local_addr().ip();
            let name = String::from_utf8_lossy(&name).into_owned();
            ledger.standing(user, name, format!("{user:08x}-{mark}@{ip}"))
        };
        (0..ledger.count()).filter_map(standing).collect()
    }

    fn challenged(&mut self, answer: &Answer<'_>, now: u64) -> io::Result<()> {
        let user = answer.user;
        let Some(phone) = self.phones.get_mut(user) else { return Ok(()) };
        phone.challenges += 1;
        let carried = phone.authorized;
        let again = carried && phone.challenges > 1;
        let spent = phone.challenges > MAX_CHALLENGES;
        let known = self.shape.as_ref().and_then(|shape| shape.nonce(answer.octets));
        if let Some(nonce) = known.filter(|_| !again) {
            self.phones.set_nonce(user, nonce);
        } else {
            let found = challenge::find(answer.octets, self.algorithm());
            let met = |challenge: &Challenge<'_>| {
                let Some(ours) = &self.common.credentials else { return false };
                let theirs = credentials(challenge);
                (ours.algorithm, ours.qop_auth) == (theirs.algorithm, theirs.qop_auth)
                    && ours.realm == theirs.realm
            };
            let Some(challenge) = found.filter(met) else {
                self.fail(answer, Fault::Challenge, now);
                return Ok(());
            };
            if spent || again && !challenge.stale {
                self.fail(answer, Fault::Credentials, now);
                return Ok(());
            }
            if !challenge.stale {
                self.shape = Shape::of(answer.octets, challenge.nonce);
            }
            self.phones.set_nonce(user, challenge.nonce);
        }
        self.tally.renewed += u64::from(carried);
        if let Some(phone) = self.phones.get_mut(user) {
            phone.authorized = true;
        }
        self.request(user, now)
    }

    fn algorithm(&self) -> Option<crate::auth::policy::Algorithm> {
        self.common.credentials.as_ref().map(|credentials| credentials.algorithm)
    }

    /// Ends a phone's operation; the result is what it was and when it began.
    pub(super) fn end(&mut self, user: u32) -> Option<(Operation, u64)> {
        let phone = self.phones.get_mut(user)?;
        let operation = phone.operation.take()?;
        let started = phone.started;
        self.waiting -= 1;
        self.line_of(user, |line| line.waiting -= 1);
        Some((operation, started))
    }

    pub(super) fn complete(&mut self, user: u32, now: u64) {
        if let Some(phone) = self.phones.get_mut(user) {
            phone.failures = 0;
        }
        if let Some((operation, started)) = self.end(user) {
            self.tally.complete(operation, started, now);
            if self.plan.scenario == Scenario::Storm {
                self.registered_at.push(now);
            }
        }
    }

    fn fail(&mut self, answer: &Answer<'_>, fault: Fault, now: u64) {
        let Some((operation, _)) = self.end(answer.user) else { return };
        self.tally.fault(fault, answer.status_line());
        if let Some(phone) = self.phones.get_mut(answer.user) {
            phone.drop_nonce();
        }
        // A server in trouble, unlike a wrong password, is worth another try.
        if self.plan.scenario == Scenario::Storm && (500..600).contains(&answer.status) {
            let wait = answer.retry_after().map(|seconds| u64::from(seconds) * SECOND);
            self.come_back(answer.user, wait, now);
        } else {
            self.tally.of(operation).failed += 1;
        }
    }

    /// Has a phone try again after `wait`, or else after RFC 5626's back-off.
    fn come_back(&mut self, user: u32, wait: Option<u64>, now: u64) {
        let Some(phone) = self.phones.get_mut(user) else { return };
        let doubled = u64::from(self.plan.backoff) << phone.failures.min(20);
        phone.failures = phone.failures.saturating_add(1);
        // "Uniformly at random between 50 and 100 %" of the bound (RFC 5626 §4.5).
        let bound = doubled.min(MAX_BACKOFF) * SECOND;
        let backoff = bound / 2 + self.random.below(bound / 2 + 1);
        self.tally.retries += 1;
        self.returns.set(now + wait.unwrap_or(backoff), user);
    }

    /// Lets phones begin anew whose time has come (a storm's).
    pub(super) fn start_over(&mut self, now: u64) -> io::Result<()> {
        while let Some(user) = self.returns.due(now) {
            // Its time counts from when it first came.
            let started = self.phones.get(user).map_or(now, |phone| phone.started);
            self.begin(user, Operation::Registration, started, now)?;
        }
        Ok(())
    }

    /// Sends requests again that were not answered, and gives up on those of 32 s.
    pub(super) fn fire(&mut self, now: u64) -> io::Result<()> {
        while let Some(due) = self.timers.fired(now) {
            let Some(phone) = self.phones.get_mut(due.user) else { continue };
            let Some(operation) = phone.operation.filter(|_| phone.cseq == due.cseq) else {
                continue;
            };
            match Firing::after(phone.retransmissions) {
                Firing::Again if operation != Operation::Echo => {
                    phone.retransmissions += 1;
                    let retransmissions = phone.retransmissions;
                    self.timers.set(now, due.user, due.cseq, retransmissions);
                    self.repeat(due.user)?;
                }
                Firing::Again | Firing::GiveUp => self.lose(due.user, now),
            }
        }
        Ok(())
    }

    fn lose(&mut self, user: u32, now: u64) {
        let Some((operation, _)) = self.end(user) else { return };
        if self.plan.scenario == Scenario::Storm {
            self.come_back(user, None, now);
        } else {
            self.tally.of(operation).lost += 1;
        }
    }

    /// Gives up on everything that is under way: it is lost, unless the run was stopped and its
    /// answer is not even late.
    pub(super) fn abandon(&mut self, is_stopped: bool) {
        for user in 0..self.phones.count() {
            let sent_again = self.phones.get(user).is_some_and(|phone| phone.retransmissions > 0);
            match self.end(user) {
                Some(_) if is_stopped && !sent_again => self.tally.unfinished += 1,
                Some((operation, _)) => self.tally.of(operation).lost += 1,
                None => {}
            }
        }
        while self.returns.due(u64::MAX).is_some() {
            self.tally.of(Operation::Registration).lost += 1;
        }
    }
}

/// The line of a user. Users of one batch share theirs, so that it leaves by one call.
pub(super) fn line_number(plan: &Plan, user: u32) -> usize {
    let group = user / u32::from(plan.batch.max(1));
    usize::try_from(group % u32::from(plan.sources.max(1))).unwrap_or(0)
}

pub(super) fn form(operation: Operation) -> Form {
    match operation {
        Operation::Registration
        | Operation::Reregistration
        | Operation::Restoration
        | Operation::Echo => Form::Bind,
        Operation::Query => Form::Query,
        Operation::Unregistration => Form::Unbind,
        Operation::Clearing => Form::Clear,
        Operation::Options => Form::Options,
    }
}

fn credentials(challenge: &Challenge<'_>) -> Credentials {
    Credentials {
        realm: challenge.realm.to_vec(),
        opaque: challenge.opaque.map(<[u8]>::to_vec),
        algorithm: challenge.algorithm,
        qop_auth: challenge.qop_auth,
    }
}

impl Shape {
    fn of(answer: &[u8], nonce: &[u8]) -> Option<Self> {
        let nonce_at = memchr::memmem::find(answer, nonce)?;
        let (before, after) = (answer.get(..nonce_at)?, answer.get(nonce_at + nonce.len()..)?);
        let line_at = memchr::memrchr(b'\n', before)?;
        let line_end = memchr::memchr(b'\n', after)?;
        Some(Self {
            nonce_at,
            nonce_len: nonce.len(),
            before: before.get(line_at..)?.to_vec(),
            after: after.get(..=line_end)?.to_vec(),
        })
    }

    /// The nonce of an answer whose challenge is otherwise the same.
    fn nonce<'a>(&self, answer: &'a [u8]) -> Option<&'a [u8]> {
        let (before, rest) = answer.split_at_checked(self.nonce_at)?;
        let (nonce, after) = rest.split_at_checked(self.nonce_len)?;
        let same = before.ends_with(&self.before) && after.starts_with(&self.after);
        (same && !nonce.contains(&b'"')).then_some(nonce)
    }
}

/// Chance that a seed repeats: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}
