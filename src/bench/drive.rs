//! The loop: starts operations at their pace, until the time is up and all are answered.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::churn;
use super::clock::{MILLI, SECOND, seconds, thread_cpu};
use super::engine::{Engine, MAX_ANSWER};
use super::plan::{Extent, Operation, Pace, Plan, Scenario};
use super::tally::Tally;
use super::timers::TIMER_F;
use super::{Error, Progress};
use crate::net::{PeerRecv, await_any};

/// How long answers are waited for when no operation starts any more, in nanoseconds; in a storm
/// it is `--duration` that ends the waiting.
const DRAIN: u64 = 5 * SECOND;

/// How long a server may be gone (ICMP says that nobody listens, and nothing is answered) before
/// the run ends, in nanoseconds.
const GONE: u64 = 3 * SECOND;

/// Between two looks at the progress, in nanoseconds.
const PROGRESS: u64 = 100 * MILLI;

/// Sleeps end after this at the latest, so that a signal is seen, in nanoseconds.
const NAP: u64 = 50 * MILLI;

/// How long answers may come together in a closed loop, in nanoseconds: ten or so, each of 2 µs.
const GATHER: u64 = 20_000;

/// How long a closed loop waits for a whole batch to become free, in nanoseconds.
const LULL: u64 = MILLI;

/// Batches of operations that start between two looks at the answers.
const STARTS: u32 = 4;

/// What is to be driven: a part of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) work: Work,
    pub(super) pace: Pace,
    pub(super) extent: Extent,
}

/// Which operations of which users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One registration of each user, neighbours far apart: a registrar that keeps together what
    /// came together must not gain from it later.
    Enrol,
    /// One registration of each user in order.
    Each,
    /// The same operation of all users, round and round.
    Repeat(Operation),
    /// Operations by weight, round and round.
    Mix,
    /// A random change of a random user.
    Churn,
}

/// Where a part stands.
#[derive(Debug)]
struct Course {
    begun: u64,
    /// Operations started.
    started: u64,
    /// Of how many.
    of: u64,
    /// The last moment at which one may start.
    until: u64,
    /// The next user, or place in the order.
    next: u64,
    /// When the last one started.
    active: u64,
}

impl Engine<'_> {
    /// Does a part and hands over its counts. Ends early when `stop` is set.
    pub(super) fn drive(
        &mut self,
        part: Part,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Tally, Error> {
        let begun = self.clock.nanos();
        self.tally = Tally::new(begun);
        let (mut of, mut until) = match part.extent {
            Extent::Time(nanos) => (u64::MAX, begun.saturating_add(nanos)),
            Extent::Count(count) => (count, u64::MAX),
        };
        if matches!(part.work, Work::Enrol | Work::Each) {
            of = u64::from(self.phones.count());
            if self.plan.scenario != Scenario::Storm {
                until = u64::MAX;
            }
        }
        let mut course = Course { begun, started: 0, of, until, next: 0, active: begun };
        let mut inbox = PeerRecv::new(MAX_ANSWER);
        let (mut shown, mut alive) = (begun, begun);
        let mut ended_at = None;
        // CPU time at the end of the last turn, where there was nothing to do in it.
        let mut idle_since = None;
        loop {
            let now = self.clock.nanos();
            let is_over =
                stop.load(Ordering::Relaxed) || now >= course.until || course.started >= course.of;
            let received = self.receive(&mut inbox)?;
            self.fire(now)?;
            let before = course.started;
            if !is_over {
                self.start(part, &mut course, now)?;
            }
            self.start_over(now)?;
            self.flush()?;
            if is_over {
                let ended = *ended_at.get_or_insert_with(|| {
                    self.tally.not_started = course.not_started(part.pace, now);
                    now
                });
                let is_storm = self.plan.scenario == Scenario::Storm;
                let patience = match part.work {
                    _ if is_storm => course.until,
                    // What is lost now is missing all the time.
                    Work::Enrol => ended + TIMER_F,
                    _ => ended + DRAIN,
                };
                let done = self.waiting == 0 && self.returns.is_empty();
                if done || now >= patience || stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            if received > 0 {
                alive = now;
            }
            let is_gone = self.tally.refused > 0 && now > alive + GONE;
            if is_gone && self.plan.scenario != Scenario::Storm {
                self.tally.is_gone = true;
                if !is_over {
                    self.tally.not_started = course.not_started(part.pace, alive);
                }
                break;
            }
            let failures = self.tally.failures();
            let bearable = ENROLMENT_FAILURES.max(bearable(self.phones.count()));
            if part.work == Work::Enrol && failures > bearable {
                break;
            }
            if now > shown + PROGRESS {
                shown = now;
                progress(&Progress::of(part, &course, &self.tally, now));
            }
            let is_idle = received == 0 && course.started == before;
            if !is_idle {
                idle_since = None;
            } else if self.plan.spins {
                let before = thread_cpu();
                self.spin(part.pace, now);
                let after = thread_cpu();
                self.tally.spun += after - before;
                self.tally.idle += after - idle_since.unwrap_or(before);
                idle_since = Some(after);
            } else {
                self.sleep(part, &course, is_over, now)?;
            }
        }
        if self.plan.scenario == Scenario::Churn {
            self.take_what_came(&mut inbox)?;
        }
        self.abandon(stop.load(Ordering::Relaxed));
        Ok(std::mem::replace(&mut self.tally, Tally::new(0)))
    }

    /// Takes every answer that the server has sent: one that was killed has still acknowledged them.
    fn take_what_came(&mut self, inbox: &mut PeerRecv) -> io::Result<()> {
        loop {
            // An ICMP message is told once, in place of the answers before it.
            let refused = self.tally.refused;
            if self.receive(inbox)? == 0 && self.tally.refused == refused {
                return Ok(());
            }
        }
    }

    /// Starts the operations that are due.
    fn start(&mut self, part: Part, course: &mut Course, now: u64) -> io::Result<()> {
        let most = u32::from(self.plan.batch) * STARTS;
        if let Pace::Window(window) = part.pace {
            // Whole batches are cheaper than one request for each answer. Those that are lost must
            // not keep the others back.
            let batch = u32::from(self.plan.batch).min(window / 4);
            let is_flowing = now < course.active + LULL;
            if is_flowing && window.saturating_sub(self.waiting) < batch {
                return Ok(());
            }
        }
        for _ in 0..most {
            if course.started >= course.of {
                break;
            }
            let due = match part.pace {
                Pace::Window(window) if self.waiting < window => now,
                Pace::Rate(rate) => course.due(rate),
                Pace::Window(_) => break,
            };
            if due > now {
                break;
            }
            // Where all phones are busy an open loop falls behind, and its latencies tell.
            let Some(user) = self.pick(part.work, course) else { break };
            if matches!(part.pace, Pace::Rate(_)) {
                self.tally.lateness.saturating_record(now - due);
            }
            let operation = match part.work {
                Work::Enrol | Work::Each => Operation::Registration,
                Work::Repeat(operation) => operation,
                Work::Mix => self.plan.weights.pick(self.random.next()),
                Work::Churn => churn::pick(self.random.next()),
            };
            course.started += 1;
            course.active = now;
            self.begin(user, operation, due, now)?;
        }
        Ok(())
    }

    /// The next user who is idle.
    fn pick(&mut self, work: Work, course: &mut Course) -> Option<u32> {
        let count = u64::from(self.phones.count());
        let batch = u64::from(self.plan.batch).max(1);
        for _ in 0..=batch {
            let place = course.next;
            course.next += 1;
            let user = match work {
                Work::Enrol => {
                    let groups = count.div_ceil(batch);
                    place % groups * batch + place / groups
                }
                Work::Each => place,
                Work::Repeat(_) | Work::Mix => place % count,
                Work::Churn => self.random.below(count),
            };
            // The last group of an enrolment may have gaps.
            let user = u32::try_from(user).ok()?;
            if self.phones.get(user).is_some_and(|phone| phone.operation.is_none()) {
                return Some(user);
            }
        }
        None
    }

    /// Lets answers come together, so that each call brings many: while a closed loop has enough
    /// under way, nobody waits for them.
    fn spin(&self, pace: Pace, now: u64) {
        let enough = 4 * u32::from(self.plan.batch);
        if matches!(pace, Pace::Window(_)) && self.waiting >= enough {
            while self.clock.nanos() < now + GATHER {
                std::hint::spin_loop();
            }
        }
    }

    /// Waits for what comes next: an answer, a timer or a start.
    fn sleep(&self, part: Part, course: &Course, is_over: bool, now: u64) -> io::Result<()> {
        let start = match part.pace {
            Pace::Rate(rate) if !is_over => Some(course.due(rate)),
            _ => None,
        };
        let events = [start, self.timers.next(), self.returns.next()];
        let next = events.into_iter().flatten().min().unwrap_or(u64::MAX);
        let waiting = self.lines.iter().filter(|line| line.waiting > 0);
        await_any(waiting.map(|line| &line.peer), next.saturating_sub(now).min(NAP))
    }
}

impl Course {
    /// When the next operation is to start at `rate` a second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "2^53 operations take years"
    )]
    fn due(&self, rate: f64) -> u64 {
        let since = (self.started as f64 * SECOND as f64 / rate) as u64;
        self.begun.saturating_add(since)
    }

    /// Operations that were due by the end, at `now`, and had not been started.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "2^53 operations take years"
    )]
    fn not_started(&self, pace: Pace, now: u64) -> u64 {
        let Pace::Rate(rate) = pace else { return 0 };
        // What came last was started before it was seen that no more was to come.
        let end = if self.started >= self.of { self.active } else { now.min(self.until) };
        let due = (seconds(end.saturating_sub(self.begun)) * rate) as u64;
        due.saturating_sub(self.started)
    }
}

impl Progress {
    fn of(part: Part, course: &Course, tally: &Tally, now: u64) -> Self {
        let completed = tally.completed();
        let (done, all) = match part.extent {
            Extent::Time(nanos) if course.of == u64::MAX => (now - course.begun, nanos),
            _ => (completed, course.of),
        };
        let share = seconds(done) / seconds(all.max(1));
        Self { part: part.name, completed, failures: tally.failures(), share }
    }
}

/// The part that counts.
pub(super) fn measured(plan: &Plan) -> Part {
    let work = match plan.scenario {
        Scenario::Register | Scenario::Storm => Work::Each,
        Scenario::Auth => Work::Repeat(Operation::Registration),
        Scenario::Refresh => Work::Repeat(Operation::Reregistration),
        Scenario::Query => Work::Repeat(Operation::Query),
        Scenario::Unregister => Work::Repeat(Operation::Unregistration),
        Scenario::Options => Work::Repeat(Operation::Options),
        Scenario::Echo => Work::Repeat(Operation::Echo),
        Scenario::Mix => Work::Mix,
        Scenario::Churn => Work::Churn,
    };
    let pace = match plan.scenario {
        Scenario::Storm => Pace::Rate(f64::from(plan.users.count()) / seconds(plan.ramp.max(1))),
        _ => plan.pace,
    };
    Part { name: "measuring", work, pace, extent: plan.extent }
}

/// The registration of all users before, if the scenario needs one.
pub(super) fn enrolment(plan: &Plan) -> Option<Part> {
    let needed = matches!(
        plan.scenario,
        Scenario::Auth | Scenario::Refresh | Scenario::Query | Scenario::Unregister | Scenario::Mix
    );
    needed.then_some(Part {
        name: "registering",
        work: Work::Enrol,
        pace: Pace::Window(ENROLMENT_WINDOW),
        extent: Extent::Count(u64::from(plan.users.count())),
    })
}

/// How many of so many users may not have been registered before a measurement: with 1 % of them
/// missing it still says what it is to say, and they register with their first operation.
fn bearable(users: u32) -> u64 {
    u64::from(users).div_ceil(100)
}

/// Whether enough users were registered for a measurement.
///
/// # Errors
/// Too few were, or none.
pub(super) fn enrolled(users: u32, tally: Tally) -> Result<u64, Error> {
    let (failures, lost) = (tally.failures(), tally.lost());
    if failures <= bearable(users) && tally.completed() > 0 {
        return Ok(failures);
    }
    Err(Error::Enrolment { failures, lost, users, first: tally.first_wrong })
}

/// Failures after which a registration of all users ends, however few are too many in the end:
/// enough to see that nothing can be measured with them.
const ENROLMENT_FAILURES: u64 = 100;

/// Registrations under way at a time before the measurement: no server drops that many.
const ENROLMENT_WINDOW: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_users_may_be_missing() {
        let tally = |completed: u64, failed, lost| {
            let mut tally = Tally::new(0);
            let outcomes = tally.of(Operation::Registration);
            (outcomes.completed, outcomes.failed, outcomes.lost) = (completed, failed, lost);
            tally
        };
        assert_eq!(enrolled(1000, tally(1000, 0, 0)).unwrap(), 0);
        assert_eq!(enrolled(1000, tally(990, 3, 7)).unwrap(), 10);
        let said = enrolled(1000, tally(989, 4, 7)).unwrap_err().to_string();
        assert!(said.starts_with("11 users of 1000 could not be registered"), "{said}");
        assert!(said.contains("(7 of them got no answer)"), "{said}");
        assert!(enrolled(50, tally(49, 0, 1)).is_ok(), "one user of a few");
        assert!(enrolled(1, tally(0, 0, 1)).is_err(), "nobody was registered");
    }

    #[test]
    fn what_was_due_and_not_started_is_counted() {
        let course =
            Course { begun: SECOND, started: 60, of: 100, until: 2 * SECOND, next: 0, active: 0 };
        let rate = Pace::Rate(100.0);
        assert_eq!(course.not_started(rate, SECOND + SECOND / 2), 0, "stopped, and ahead of it");
        assert_eq!(course.not_started(rate, SECOND + 3 * SECOND / 4), 15, "stopped");
        assert_eq!(course.not_started(rate, 3 * SECOND), 40, "nothing is due after the time is up");
        assert_eq!(course.not_started(Pace::Window(9), 3 * SECOND), 0);
        // All were started, in twice the time.
        let counted = Course { started: 100, until: u64::MAX, active: 3 * SECOND, ..course };
        assert_eq!(counted.not_started(rate, 9 * SECOND), 100);
    }
}
