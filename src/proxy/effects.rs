//! What the proxy wants done: datagrams sent, events told.

use std::{net::SocketAddr, ops::Range};

use super::call::CallEvent;
use crate::flow::Flow;

/// What came of what was handled, in order; the worker does it and clears it.
#[derive(Debug, Default)]
pub struct Effects {
    octets: Vec<u8>,
    sends: Vec<Outgoing>,
    events: Vec<CallEvent>,
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

    pub(super) fn tell(&mut self, event: CallEvent) {
        self.events.push(event);
    }

    /// What is to be sent: the flow whose near end it leaves from, where it goes, its octets.
    pub fn sends(&self) -> impl Iterator<Item = (&Flow, SocketAddr, &[u8])> {
        self.sends.iter().map(|outgoing| {
            let octets = self.octets.get(outgoing.octets.clone()).unwrap_or_default();
            (&outgoing.flow, outgoing.to, octets)
        })
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
        self.octets.clear();
        self.octets.shrink_to(KEPT);
    }
}
