//! The workers' cells, summed.

use crate::{
    flow::Transport,
    sip::{Method, REGISTERED_CODES},
    worker::{
        AllCounters, Cause, DropReason,
        counters::{AuthResult, METHODS, RegisterResult},
    },
};

/// What all workers have counted since the start. It is summed cell by cell while they go on
/// counting, so that two numbers may be a datagram apart.
#[derive(Clone, Debug)]
pub struct Totals {
    requests: [[u64; Transport::ALL.len()]; METHODS],
    responses: [[u64; REGISTERED_CODES.len()]; METHODS],
    drops: [u64; DropReason::ALL.len()],
    auths: [u64; AuthResult::ALL.len()],
    registers: [u64; RegisterResult::ALL.len()],
    refused: [u64; Cause::ALL.len()],
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            requests: [[0; Transport::ALL.len()]; METHODS],
            responses: [[0; REGISTERED_CODES.len()]; METHODS],
            drops: [0; DropReason::ALL.len()],
            auths: [0; AuthResult::ALL.len()],
            registers: [0; RegisterResult::ALL.len()],
            refused: [0; Cause::ALL.len()],
        }
    }
}

impl Totals {
    /// The sums of all workers' cells.
    pub fn of(workers: &AllCounters) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            for (method, transports) in totals.requests.iter_mut().enumerate() {
                for (sum, transport) in transports.iter_mut().zip(Transport::ALL) {
                    *sum += worker.requests(method, transport);
                }
            }
            for (method, codes) in totals.responses.iter_mut().enumerate() {
                for (code, sum) in codes.iter_mut().enumerate() {
                    *sum += worker.responses(method, code);
                }
            }
            for (sum, reason) in totals.drops.iter_mut().zip(DropReason::ALL) {
                *sum += worker.drops(reason);
            }
            for (sum, result) in totals.auths.iter_mut().zip(AuthResult::ALL) {
                *sum += worker.auths(result);
            }
            for (sum, result) in totals.registers.iter_mut().zip(RegisterResult::ALL) {
                *sum += worker.registers(result);
            }
            for (sum, cause) in totals.refused.iter_mut().zip(Cause::ALL) {
                *sum += worker.refusals(cause);
            }
        }
        totals
    }

    /// Requests by method and transport.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, Transport, u64)> {
        self.requests.iter().enumerate().flat_map(|(method, transports)| {
            let cells = transports.iter().zip(Transport::ALL);
            cells.map(move |(&count, transport)| (method_label(method), transport, count))
        })
    }

    /// Responses by the request's method and status code.
    pub fn responses(&self) -> impl Iterator<Item = (&'static str, u16, u64)> {
        self.responses.iter().enumerate().flat_map(|(method, codes)| {
            let cells = codes.iter().zip(REGISTERED_CODES);
            cells.map(move |(&count, code)| (method_label(method), code, count))
        })
    }

    /// Datagrams that got no answer, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.drops.iter().zip(DropReason::ALL).map(|(&count, reason)| (reason.label(), count))
    }

    /// What became of credentials.
    pub fn auths(&self) -> impl Iterator<Item = (&'static str, u64)> {
        AuthResult::ALL.map(AuthResult::label).into_iter().zip(self.auths)
    }

    /// Calls that went to nobody, by why.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = Cause::ALL.into_iter().zip(self.refused);
        all.filter(|(cause, _)| cause.is_refusal()).map(|(cause, count)| (cause.label(), count))
    }

    /// What became of authorised REGISTERs.
    pub fn registers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RegisterResult::ALL.map(RegisterResult::label).into_iter().zip(self.registers)
    }
}

/// The `method` label of the cells at a [`Method::ordinal`].
fn method_label(ordinal: usize) -> &'static str {
    Method::REGISTERED.get(ordinal).map_or("other", Method::label)
}
