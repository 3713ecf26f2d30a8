//! The first request: is anybody there, and how does it challenge?

use std::io;

use super::challenge;
use super::clock::{MILLI, SECOND};
use super::engine::{Engine, MAX_ANSWER};
use super::plan::{Operation, Scenario};
use super::{Error, timers::T1};
use crate::net::{PEER_BATCH, PeerRecv, await_any};

/// How long an answer to the first request is waited for, in nanoseconds.
const PATIENCE: u64 = 4 * SECOND;

/// How often nobody may be found to listen: a server that is just starting has some time.
const REFUSALS: u32 = 3;

impl Engine<'_> {
    /// Sends the first user's request without credentials until it is answered, and learns from
    /// the challenge.
    pub(super) fn probe(&mut self) -> Result<(), Error> {
        let operation = match self.plan.scenario {
            Scenario::Options => Operation::Options,
            Scenario::Echo => Operation::Echo,
            _ => Operation::Registration,
        };
        if operation == Operation::Echo {
            self.pretend();
        }
        let mut inbox = PeerRecv::new(MAX_ANSWER);
        let begun = self.clock.nanos();
        let mut refusals = 0;
        let mut again_at = begun + T1;
        let mut interval = 2 * T1;
        self.begin(0, operation, begun, begun)?;
        self.flush()?;
        while self.clock.nanos() < begun + PATIENCE {
            let now = self.clock.nanos();
            if now >= again_at {
                self.repeat(0)?;
                self.flush()?;
                again_at = now + interval;
                interval *= 2;
            }
            let Some(line) = self.lines.first() else { break };
            await_any([&line.peer].into_iter(), again_at - now)?;
            match inbox.recv(&line.peer, PEER_BATCH) {
                Ok(0) => {}
                Ok(_) => {
                    if operation == Operation::Echo {
                        let known = inbox.iter().next().map(|datagram| self.first_echo(datagram));
                        self.settle(0);
                        return known.unwrap_or(Ok(()));
                    }
                    for datagram in inbox.iter() {
                        if let Some(known) = self.introduced(datagram) {
                            self.settle(0);
                            return known;
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    refusals += 1;
                    if refusals >= REFUSALS {
                        return Err(Error::Nobody(self.plan.target));
                    }
                    // A second look at 100, then 200 ms.
                    again_at = now + u64::from(refusals) * 100 * MILLI;
                    await_any(std::iter::empty(), again_at - now)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(if refusals > 0 {
            Error::Nobody(self.plan.target)
        } else {
            Error::Silent(self.plan.target)
        })
    }

    /// What the answer to the first request means; `None` if it is none.
    fn introduced(&mut self, datagram: &[u8]) -> Option<Result<(), Error>> {
        let answer = self.read(datagram).filter(|answer| answer.status >= 200)?;
        let (status, octets) = (answer.status, answer.octets);
        let line = String::from_utf8_lossy(answer.status_line()).into_owned();
        self.tally.answer(status);
        Some(match status {
            200 => Ok(()),
            401 if self.plan.scenario != Scenario::Options => {
                match challenge::find(octets, self.plan.algorithm) {
                    Some(challenge) => {
                        self.learn(&challenge);
                        Ok(())
                    }
                    None => Err(Error::Challenge(self.plan.algorithm)),
                }
            }
            _ => Err(Error::Refused(line)),
        })
    }
}
