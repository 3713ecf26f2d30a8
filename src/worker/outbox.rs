//! A worker's answers, some of which wait for the disk.

use std::collections::VecDeque;

use crate::net::{SendBatch, SlotLen};

/// Batches whose answers may wait at once: 2048 datagrams, or 100,000 requests a second if a sync
/// takes 20 ms. With more, requests wait in the socket.
const PARKED: usize = 64;

/// The batch that answers are written to, and those before it that wait to be sent.
#[derive(Debug)]
pub(super) struct Outbox {
    open: Option<SendBatch>,
    parked: VecDeque<Parked>,
    free: Vec<SendBatch>,
    /// Batches that there may still be.
    left: usize,
}

/// Answers that wait.
#[derive(Debug)]
struct Parked {
    listener: usize,
    settled: u64,
    send: SendBatch,
}

/// Answers may be longer than requests; pages that are never written cost nothing.
fn batch() -> SendBatch {
    SendBatch::new(SlotLen::MAX)
}

impl Outbox {
    /// An outbox of one batch, or of more if answers may have to wait.
    pub(super) fn new(waits: bool) -> Self {
        let left = if waits { PARKED } else { 0 };
        let (parked, free) = (VecDeque::with_capacity(left), Vec::with_capacity(left));
        Self { open: Some(batch()), parked, free, left }
    }

    /// The batch to write to; `None` if as many wait as may.
    pub(super) fn open(&mut self) -> Option<&mut SendBatch> {
        if self.open.is_none() {
            self.open = self.free.pop().or_else(|| {
                self.left = self.left.checked_sub(1)?;
                Some(batch())
            });
        }
        self.open.as_mut()
    }

    /// Whether as many wait as may.
    pub(super) fn is_full(&self) -> bool {
        self.open.is_none() && self.free.is_empty() && self.left == 0
    }

    /// Has the open batch wait until `settled`, to be sent by the listener with this number.
    pub(super) fn park(&mut self, listener: usize, settled: u64) {
        if let Some(send) = self.open.take() {
            self.parked.push_back(Parked { listener, settled, send });
        }
    }

    /// Whether any waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.parked.is_empty()
    }

    /// The batch that has waited longest: its listener, what it waits for, and its answers.
    pub(super) fn first_parked(&mut self) -> Option<(usize, u64, &mut SendBatch)> {
        let Parked { listener, settled, send } = self.parked.front_mut()?;
        Some((*listener, *settled, send))
    }

    /// Has the batch that has waited longest used again, now that it is sent.
    pub(super) fn reuse_first(&mut self) {
        self.free.extend(self.parked.pop_front().map(|parked| parked.send));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_wait_as_may_and_leave_in_order() {
        let mut outbox = Outbox::new(true);
        let mut parked = 0;
        while outbox.open().is_some() {
            parked += 1;
            outbox.park(0, parked);
        }
        assert_eq!(parked, PARKED as u64 + 1);
        assert!(outbox.is_full());
        for expected in 1..=parked {
            assert_eq!(outbox.first_parked().map(|(_, settled, _)| settled), Some(expected));
            outbox.reuse_first();
            assert!(!outbox.is_full());
        }
        assert!(!outbox.is_waiting() && outbox.open().is_some());
    }
}
