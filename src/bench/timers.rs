//! Timers E and F of RFC 3261 §17.1.2.2, and when a phone comes back after a failure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::clock::MILLI;

/// The estimate of a round trip (RFC 3261 §17.1.1.1).
pub(super) const T1: u64 = 500 * MILLI;
/// The longest interval between two retransmissions.
const T2: u64 = 4000 * MILLI;
/// How long a request may go unanswered: Timer F.
pub(super) const TIMER_F: u64 = 64 * T1;

/// A request that may have to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    at: u64,
    pub(super) user: u32,
    pub(super) cseq: u32,
}

/// The timers of all transactions: a queue for each interval, so that each is in order by itself.
#[derive(Debug, Default)]
pub(super) struct Retransmissions {
    /// T1, 2 T1, 4 T1, 8 T1 = T2.
    queues: [VecDeque<Due>; 4],
}

const INTERVALS: [u64; 4] = [T1, 2 * T1, 4 * T1, T2];

/// How often a request is sent again before Timer F ends it: after 0.5, 1.5, 3.5, 7.5, 11.5, 15.5,
/// 19.5, 23.5, 27.5 and 31.5 s.
const RETRANSMISSIONS: u8 = 10;

/// What to do when a timer fires after `sent` retransmissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Firing {
    /// Timer E: send it again.
    Again,
    /// Timer F: give up.
    GiveUp,
}

impl Firing {
    pub(super) fn after(retransmissions: u8) -> Self {
        if retransmissions >= RETRANSMISSIONS { Self::GiveUp } else { Self::Again }
    }
}

impl Retransmissions {
    /// Sets the timer of a request that was just sent, for the `retransmissions`th time again.
    pub(super) fn set(&mut self, now: u64, user: u32, cseq: u32, retransmissions: u8) {
        // After the last one Timer F is half a second away: the interval of the first.
        let queue = if retransmissions >= RETRANSMISSIONS { 0 } else { retransmissions.min(3) };
        let queue = usize::from(queue);
        if let (Some(interval), Some(queue)) = (INTERVALS.get(queue), self.queues.get_mut(queue)) {
            queue.push_back(Due { at: now + interval, user, cseq });
        }
    }

    /// The next timer that has fired. Requests that were answered since come as well.
    pub(super) fn fired(&mut self, now: u64) -> Option<Due> {
        self.queues.iter_mut().find_map(|queue| queue.pop_front_if(|due| due.at <= now))
    }

    /// When the next one fires.
    pub(super) fn next(&self) -> Option<u64> {
        self.queues.iter().filter_map(|queue| Some(queue.front()?.at)).min()
    }
}

/// Phones that come back at a time of their own.
#[derive(Debug, Default)]
pub(super) struct Returns(BinaryHeap<Reverse<(u64, u32)>>);

impl Returns {
    pub(super) fn set(&mut self, at: u64, user: u32) {
        self.0.push(Reverse((at, user)));
    }

    pub(super) fn due(&mut self, now: u64) -> Option<u32> {
        let Reverse((at, user)) = *self.0.peek()?;
        (at <= now).then(|| {
            self.0.pop();
            user
        })
    }

    pub(super) fn next(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_double_up_to_t2_and_timer_f_ends_them() {
        let mut timers = Retransmissions::default();
        let mut sent = vec![0];
        timers.set(0, 7, 1, 0);
        let mut retransmissions = 0;
        let end = loop {
            let at = timers.next().unwrap();
            assert_eq!(timers.fired(at - 1), None);
            let due = timers.fired(at).unwrap();
            assert_eq!((due.user, due.cseq), (7, 1));
            if Firing::after(retransmissions) == Firing::GiveUp {
                break at;
            }
            retransmissions += 1;
            sent.push(at / MILLI);
            timers.set(at, 7, 1, retransmissions);
        };
        let expected = [0, 500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
        assert_eq!(sent, expected);
        assert_eq!(end, TIMER_F);
    }

    #[test]
    fn phones_return_in_their_order() {
        let mut returns = Returns::default();
        returns.set(30, 1);
        returns.set(10, 2);
        assert_eq!((returns.next(), returns.due(9)), (Some(10), None));
        assert_eq!((returns.due(30), returns.due(30), returns.due(30)), (Some(2), Some(1), None));
        assert!(returns.is_empty());
    }
}
