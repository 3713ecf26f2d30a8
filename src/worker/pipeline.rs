//! One datagram's way through every layer: the page to read after `lib.rs`.
//!
//! ```text
//! is the source fit to be answered? ─> sip::Parser ─> Exchange: method, Require, domain,
//!     Contact and Path ─> auth::Authenticator ─> does the account own the AoR?
//!     ─> location.update(aor, |record| nonce counts, registrar::register, commit) ─> answer
//! ```

use std::{net::SocketAddr, sync::Arc};

use super::{
    counters::{AllCounters, Counters, DropReason},
    exchange::{Answered, Exchange, Space},
    rules::{RulesCache, SharedRules},
};
use crate::{
    flow::Flow,
    location::Location,
    net::is_answerable,
    sip::{Parsed, Parser, encode::destination},
    time::Now,
};

/// A datagram as it came from a listener.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Its octets.
    pub bytes: &'a [u8],
    /// Its path.
    pub flow: Flow,
    /// Whether octets are missing at its end.
    pub truncated: bool,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// An answer was written.
    Answer {
        /// Its length.
        len: usize,
        /// Where it goes.
        to: SocketAddr,
    },
    /// There is none.
    Dropped(DropReason),
}

/// Everything a worker has but its sockets: datagrams in, answers out.
#[derive(Debug)]
pub struct Pipeline {
    location: Arc<Location>,
    rules: RulesCache,
    counters: Arc<AllCounters>,
    worker: usize,
    parser: Parser,
    space: Space,
}

impl Pipeline {
    /// A pipeline that counts as worker `worker` of `counters`. `hash_key` is random, and the same
    /// for all workers, so that a retransmission gets its To tag again wherever it lands.
    pub fn new(
        location: Arc<Location>,
        rules: SharedRules,
        counters: Arc<AllCounters>,
        worker: usize,
        hash_key: [u8; 16],
    ) -> Self {
        let mut rules = RulesCache::new(rules);
        let parser = Parser::new(rules.load().limits.clone());
        Self { location, rules, counters, worker, parser, space: Space::new(hash_key) }
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters[self.worker]
    }

    /// Takes the rules in force, so that old ones can go even where no datagram comes.
    pub fn refresh(&mut self) {
        self.rules.load();
    }

    /// Handles one datagram; an answer is written to the start of `out`, which should have room
    /// for the largest datagram there is.
    pub fn handle(&mut self, now: Now, arrived: Arrived<'_>, out: &mut [u8]) -> Handled {
        match self.answer(now, arrived, out) {
            Ok((len, to)) => Handled::Answer { len, to },
            Err(reason) => {
                self.counters().dropped(reason, 1);
                Handled::Dropped(reason)
            }
        }
    }

    fn answer(
        &mut self,
        now: Now,
        arrived: Arrived<'_>,
        out: &mut [u8],
    ) -> Result<(usize, SocketAddr), DropReason> {
        let flow = arrived.flow;
        if !is_answerable(flow.remote) {
            return Err(DropReason::BadSource);
        }
        if arrived.truncated {
            return Err(DropReason::Truncated);
        }
        let rules = self.rules.load();
        if *self.parser.limits() != rules.limits {
            self.parser = Parser::new(rules.limits.clone());
        }
        let parsed = self.parser.parse(arrived.bytes);
        let envelope = match &parsed {
            Parsed::Silence(silence) => return Err((*silence).into()),
            Parsed::Rejected(rejected) => rejected.envelope,
            Parsed::Request(request) => request.envelope,
        };
        let counters = &*self.counters[self.worker];
        counters.request(&envelope.method, flow.transport);
        let hash = self.space.hash(&envelope);
        let mut exchange = Exchange {
            now,
            flow,
            envelope: &envelope,
            hash,
            rules,
            location: &self.location,
            counters,
            space: &mut self.space,
            out,
        };
        let answered = match &parsed {
            Parsed::Request(request) => exchange.request(request),
            Parsed::Rejected(rejected) => exchange.reject(rejected.fault),
            Parsed::Silence(silence) => return Err((*silence).into()),
        };
        let Answered { len, status } = answered.ok_or(DropReason::AnswerTooLong)?;
        counters.response(&envelope.method, status);
        Ok((len, destination(&envelope, flow.remote)))
    }
}
