//! What a reader of the figures must know before he believes them.

use super::plan::{Operation, Plan, Scenario};
use super::tally::Tally;

/// How far the requests of an operation may be from what its scenario means, as a share.
const TOLERANCE: f64 = 0.01;

/// How many requests operations take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Requests {
    /// Those that were sent for each, without retransmissions.
    pub(super) found: f64,
    /// Those that their scenario means: of a registration REGISTER, 401, REGISTER, 200. `None`
    /// where phones begin anew whatever happens.
    pub(super) meant: Option<f64>,
}

/// Counts of operations and of the requests that they mean.
#[derive(Clone, Copy, Debug, Default)]
struct Meant {
    operations: u64,
    requests: u64,
}

impl Meant {
    fn add(&mut self, operation: Operation, count: u64) {
        self.operations += count;
        self.requests += count * if operation == Operation::Registration { 2 } else { 1 };
    }
}

impl Requests {
    /// Those of a measurement, and what to say if they are not what is meant.
    pub(super) fn of(plan: &Plan, tally: &Tally) -> (Self, Option<String>) {
        let (mut completed, mut begun) = (Meant::default(), Meant::default());
        for (operation, outcomes) in Operation::ALL.into_iter().zip(&tally.operations) {
            completed.add(operation, outcomes.completed);
            begun.add(operation, outcomes.completed + outcomes.failed + outcomes.lost);
        }
        let found = ratio(tally.requests, begun.operations + tally.unfinished);
        if matches!(plan.scenario, Scenario::Storm | Scenario::Churn) || begun.operations == 0 {
            return (Self { found, meant: None }, None);
        }
        let meant = ratio(begun.requests, begun.operations);
        // Those under way may have had one or two; those that were not answered, fewer.
        let most = begun.requests + 2 * tally.unfinished;
        let differs = format!("an operation took {found:.2} requests, not {meant:.2}");
        let said = if ratio(tally.requests, most) > 1.0 + TOLERANCE {
            Some(differs + &renewals(plan.scenario, tally.renewed))
        } else if ratio(tally.requests, completed.requests) < 1.0 - TOLERANCE {
            Some(differs + ": the registrar did not challenge all of them")
        } else {
            None
        };
        (Self { found, meant: Some(meant) }, said)
    }
}

/// Why there were more requests than are meant.
fn renewals(scenario: Scenario, renewed: u64) -> String {
    let advice = match scenario {
        // Registrars remember some nonces of each account, not dozens a second.
        Scenario::Auth | Scenario::Mix => {
            ". Accounts that register so often are challenged twice, as no phone is: take more \
             --users"
        }
        _ => "",
    };
    match renewed {
        0 => String::new(),
        _ => format!(": {renewed} times a nonce was no longer good{advice}"),
    }
}

/// All that there is to say.
pub(super) fn all(plan: &Plan, tally: &Tally, has_server_cpu: bool) -> Vec<String> {
    let mut all = Vec::new();
    if tally.is_gone {
        all.push(format!(
            "udp:{} went away: nobody listens there any more, and the figures are those until then",
            plan.target
        ));
    }
    let is_empty = tally.operations.iter().all(|o| o.completed + o.failed + o.lost == 0);
    if is_empty {
        all.push("nothing was measured".to_owned());
    }
    all.extend(Requests::of(plan, tally).1);
    if !plan.pids.is_empty() && !has_server_cpu && !is_empty {
        all.push(
            "the server's CPU time is unknown: it, or a thread of it, ended while it was measured"
                .to_owned(),
        );
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is never that exact")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::{Extent, Pace, Weights};
    use crate::bench::users::{Pattern, Users};

    fn plan(scenario: Scenario) -> Plan {
        let pattern = |text| Pattern::parse(text).unwrap();
        Plan {
            scenario,
            target: "127.0.0.1:5060".parse().unwrap(),
            domain: "bench.test".into(),
            users: Users::numbered(pattern("u%d"), pattern("p%d"), 0, 9).unwrap(),
            pace: Pace::Window(1),
            extent: Extent::Count(9),
            warmup: 0,
            sources: 1,
            port: None,
            batch: 1,
            expires: 3600,
            algorithm: None,
            weights: Weights::default(),
            ramp: 0,
            backoff: 30,
            seed: 0,
            run: 0,
            spins: false,
            pids: vec![7],
        }
    }

    fn tally(operation: Operation, completed: u64, lost: u64, requests: u64) -> Tally {
        let mut tally = Tally::new(0);
        let outcomes = tally.of(operation);
        (outcomes.completed, outcomes.lost) = (completed, lost);
        tally.requests = requests;
        tally
    }

    #[test]
    fn an_operation_takes_the_requests_that_are_meant() {
        for (scenario, operation, (completed, lost, requests), is_meant) in [
            (Scenario::Auth, Operation::Registration, (1000, 0, 2000), true),
            (Scenario::Auth, Operation::Registration, (1000, 0, 2020), true),
            (Scenario::Auth, Operation::Registration, (1000, 0, 3000), false),
            (Scenario::Auth, Operation::Registration, (1000, 0, 1000), false),
            // Half were never challenged, as nobody answered.
            (Scenario::Auth, Operation::Registration, (500, 500, 1500), true),
            (Scenario::Refresh, Operation::Reregistration, (1000, 0, 1000), true),
            (Scenario::Refresh, Operation::Reregistration, (1000, 0, 2000), false),
            (Scenario::Storm, Operation::Registration, (1000, 0, 9000), true),
        ] {
            let tally = tally(operation, completed, lost, requests);
            let (_, said) = Requests::of(&plan(scenario), &tally);
            assert_eq!(said.is_none(), is_meant, "{scenario:?}, {requests} requests");
        }
    }

    #[test]
    fn what_is_unknown_is_said() {
        let (plan, good) = (plan(Scenario::Query), tally(Operation::Query, 9, 0, 9));
        assert!(all(&plan, &good, true).is_empty());
        assert!(all(&plan, &good, false)[0].contains("CPU time is unknown"));
        assert_eq!(all(&plan, &Tally::new(0), true), ["nothing was measured"]);
        let mut gone = good;
        gone.is_gone = true;
        assert!(all(&plan, &gone, true)[0].starts_with("udp:127.0.0.1:5060 went away"));
    }
}
