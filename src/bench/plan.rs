//! What is to be done: the scenario, how fast, how long, with whom.

use std::net::SocketAddr;

use super::users::Users;
use crate::auth::policy::Algorithm;

/// What the phones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Each user registers once: REGISTER, 401, REGISTER, 200
    Register,
    /// Registrations, each with a new challenge: REGISTER, 401, REGISTER, 200
    Auth,
    /// Re-registrations with the nonce at hand: REGISTER, 200
    Refresh,
    /// REGISTER without Contact: which bindings are there?
    Query,
    /// Removals of the binding, each followed by a registration
    Unregister,
    /// OPTIONS
    Options,
    /// Re-registrations, registrations, queries and removals by weight
    Mix,
    /// Registrations, refreshes and removals at random, for a server that is killed meanwhile
    Churn,
    /// All phones come back at once, and again until they are registered
    Storm,
    /// The same datagrams against `bindery bench echo-server`
    Echo,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// With a new challenge.
    Registration,
    /// With the nonce at hand.
    Reregistration,
    /// Without Contact.
    Query,
    /// Removes the Contact.
    Unregistration,
    /// Puts it back.
    Restoration,
    /// Removes all Contacts at once: `Contact: *`.
    Clearing,
    /// OPTIONS.
    Options,
    /// A datagram that is answered by an echo.
    Echo,
}

impl Operation {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Registration,
        Self::Reregistration,
        Self::Query,
        Self::Unregistration,
        Self::Restoration,
        Self::Clearing,
        Self::Options,
        Self::Echo,
    ];

    /// The name in reports; RFC 7502 §3 has the first two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Reregistration => "re-registration",
            Self::Query => "query",
            Self::Unregistration => "unregistration",
            Self::Restoration => "restoration",
            Self::Clearing => "clearing",
            Self::Options => "options",
            Self::Echo => "echo",
        }
    }
}

/// How fast operations start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: this many are always under way.
    Window(u32),
    /// Open loop: this many a second, whatever becomes of them.
    Rate(f64),
}

/// How long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nanoseconds.
    Time(u64),
    /// Operations.
    Count(u64),
}

/// How often each operation comes in a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Re-registrations.
    pub refresh: u32,
    /// Registrations with a new challenge.
    pub auth: u32,
    /// Queries.
    pub query: u32,
    /// Removals with a registration after each.
    pub unregister: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { refresh: 80, auth: 10, query: 5, unregister: 5 }
    }
}

impl Weights {
    /// Reads `refresh=80,auth=10,query=5,unregister=5`; what is not named has none.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut weights = Self { refresh: 0, auth: 0, query: 0, unregister: 0 };
        for part in text.split(',') {
            let (name, weight) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=WEIGHT"))?;
            let place = match name.trim() {
                "refresh" => &mut weights.refresh,
                "auth" => &mut weights.auth,
                "query" => &mut weights.query,
                "unregister" => &mut weights.unregister,
                other => {
                    return Err(format!(
                        "there is no {other:?}: refresh, auth, query and unregister can be mixed"
                    ));
                }
            };
            let weight = weight.trim().parse::<u16>();
            *place = weight.map_err(|_| format!("{part:?} has no weight from 0 to 65535"))?.into();
        }
        if weights.sum() == 0 { Err("all weights are 0".into()) } else { Ok(weights) }
    }

    fn sum(self) -> u32 {
        self.refresh + self.auth + self.query + self.unregister
    }

    /// The operation that `number` falls on, any number being as likely as any other.
    pub fn pick(self, number: u64) -> Operation {
        let mut at = u32::try_from(number % u64::from(self.sum().max(1))).unwrap_or(0);
        for (weight, operation) in [
            (self.refresh, Operation::Reregistration),
            (self.auth, Operation::Registration),
            (self.query, Operation::Query),
        ] {
            if at < weight {
                return operation;
            }
            at -= weight;
        }
        Operation::Unregistration
    }
}

/// All that a run needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the phones do.
    pub scenario: Scenario,
    /// The server.
    pub target: SocketAddr,
    /// The domain of the addresses-of-record and of the Request-URI.
    pub domain: String,
    /// Who they are.
    pub users: Users,
    /// How fast they act.
    pub pace: Pace,
    /// How long.
    pub extent: Extent,
    /// Nanoseconds of the same before anything is counted.
    pub warmup: u64,
    /// Source ports, each for an equal part of the users.
    pub sources: u16,
    /// The first source port; 0 takes free ones, which differ from run to run.
    pub port: Option<u16>,
    /// Requests that leave one port together.
    pub batch: u16,
    /// What Contacts ask for, in seconds.
    pub expires: u32,
    /// The algorithm to answer with, if the registrar offers several.
    pub algorithm: Option<Algorithm>,
    /// For [`Scenario::Mix`].
    pub weights: Weights,
    /// For [`Scenario::Storm`]: nanoseconds in which all phones come.
    pub ramp: u64,
    /// For [`Scenario::Storm`]: seconds of the first back-off after a failure (RFC 5626 §4.5).
    pub backoff: u32,
    /// What chance follows from.
    pub seed: u64,
    /// What this run's Call-IDs and branches have, and no other's: a registrar that knows the
    /// Call-IDs of an earlier run wants higher CSeqs than those (RFC 3261 §10.3 step 7).
    pub run: u64,
    /// Whether to ask the sockets again and again rather than to sleep.
    pub spins: bool,
    /// The server's processes, whose CPU time is read.
    pub pids: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_met() {
        let weights = Weights::parse("refresh=2, query=1").unwrap();
        let picked: Vec<_> = (0..4).map(|number| weights.pick(number)).collect();
        let [refresh, query] = [Operation::Reregistration, Operation::Query];
        assert_eq!(picked, [refresh, refresh, query, refresh]);
        assert_eq!(Weights::default().pick(99), Operation::Unregistration);
        assert_eq!(Weights::default().pick(85), Operation::Registration);
        for text in ["refresh", "refresh=x", "refresh=0", "other=1", "query=70000"] {
            assert!(Weights::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn operations_are_numbered_in_their_order() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
        }
    }
}
