//! What the proxy wants done: datagrams sent, events told.

use std::{net::SocketAddr, ops::Range};

use super::{call::CallEvent, probe::Probed};
use crate::flow::Flow;
#[cfg(doc)]
use crate::sip::Method;

/// What came of what was handled, in order; the worker does it and clears it.
#[derive(Debug, Default)]
pub struct Effects {
    octets: Vec<u8>,
    sends: Vec<Outgoing>,
    /// Responses among them: the method's ordinal and the code, for who counts.
    responses: Vec<(usize, u16)>,
    events: Vec<CallEvent>,
    /// How many probes there were, and what became of them: by [`Probed`].
    probed: [u64; Probed::ALL.len()],
}

/// The code of a response that was written here: three digits after `SIP/2.0` and a blank.
fn code_of(response: &[u8]) -> u16 {
    let digits = response.get(8..11).unwrap_or_default();
    digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit.wrapping_sub(b'0') % 10))
}

/// A datagram to be sent.
#[derive(Clone, Debug)]
struct Outgoing {
    flow: Flow,
    to: SocketAddr,
    octets: Range<usize>,
}

impl Effects {
    /// Has `datagram` sent from the near end of `flow` to `to`.
    pub fn send(&mut self, flow: Flow, to: SocketAddr, datagram: &[u8]) {
        let start = self.octets.len();
        self.octets.extend_from_slice(datagram);
        self.sends.push(Outgoing { flow, to, octets: start..self.octets.len() });
    }

    /// The same for a response to a request whose method has this [`Method::ordinal`].
    pub fn respond(&mut self, flow: Flow, to: SocketAddr, response: &[u8], method: usize) {
        self.send(flow, to, response);
        self.responses.push((method, code_of(response)));
    }

    pub(super) fn tell(&mut self, event: CallEvent) {
        self.events.push(event);
    }

    pub(super) fn probed(&mut self, what: Probed) {
        self.probed[what as usize] += 1;
    }

    /// Takes how many probes there were, and what became of them, in the order of [`Probed::ALL`].
    pub fn take_probed(&mut self) -> [u64; Probed::ALL.len()] {
        std::mem::take(&mut self.probed)
    }

    /// What is to be sent: the flow whose near end it leaves from, where it goes, its octets.
    pub fn sends(&self) -> impl Iterator<Item = (&Flow, SocketAddr, &[u8])> {
        self.sends.iter().map(|outgoing| {
            let octets = self.octets.get(outgoing.octets.clone()).unwrap_or_default();
            (&outgoing.flow, outgoing.to, octets)
        })
    }

    /// The responses among what is to be sent: the method's [`Method::ordinal`] and the code.
    pub fn responses(&self) -> impl Iterator<Item = (usize, u16)> {
        self.responses.iter().copied()
    }

    /// Takes what has happened to calls.
    pub fn take_events(&mut self) -> std::vec::Drain<'_, CallEvent> {
        self.events.drain(..)
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }

    /// Forgets what was sent.
    pub fn clear(&mut self) {
        /// Octets of room that are kept.
        const KEPT: usize = 1 << 20;
        self.sends.clear();
        self.responses.clear();
        self.octets.clear();
        self.octets.shrink_to(KEPT);
    }
}
