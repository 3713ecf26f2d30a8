//! At most so much in each second.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// At most so many in each second.
#[derive(Debug)]
pub(super) struct Rate {
    most: u32,
    /// When the second began, and how many there have been in it.
    second: Cell<Option<(Instant, u32)>>,
}

impl Rate {
    pub(super) fn new(most: u32) -> Self {
        Self { most, second: Cell::new(None) }
    }

    /// Counts one more; how many were too many in the second that has just passed, else when the
    /// next begins.
    pub(super) fn count(&self) -> Counted {
        let now = Instant::now();
        let (begun, count) = self.second.get().unwrap_or((now, 0));
        if now >= begun + Duration::from_secs(1) {
            self.second.set(Some((now, 1)));
            return Counted::Within { left_out: count.saturating_sub(self.most) };
        }
        self.second.set(Some((begun, count + 1)));
        if count < self.most {
            Counted::Within { left_out: 0 }
        } else {
            Counted::Beyond { until: begun + Duration::from_secs(1) }
        }
    }

    /// Whether one more is within the rate; where some were left out, `said` is told.
    pub(super) fn allows(&self, said: impl FnOnce(u32)) -> bool {
        match self.count() {
            Counted::Within { left_out } => {
                if left_out > 0 {
                    said(left_out);
                }
                true
            }
            Counted::Beyond { .. } => false,
        }
    }
}

/// What may be said unasked: so much each second, and more by who answers what it is asked.
#[derive(Debug)]
pub(super) struct Credit {
    most: u32,
    left: Cell<u32>,
    /// Until when what comes with time is counted in.
    counted: Cell<Option<Instant>>,
}

/// How long who has said too much is not listened to: a few lines are read then, and not a second's.
const HOLD: Duration = Duration::from_millis(100);

/// How much an answer earns: a script may log a few lines for each question.
const EARNED: u32 = 4;

impl Credit {
    pub(super) fn new(most: u32) -> Self {
        Self { most, left: Cell::new(most), counted: Cell::new(None) }
    }

    /// One more is said that nobody has asked for; until when it is to be the last, if it was too
    /// much. The clock is read only then.
    pub(super) fn spend(&self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        if let Some(left @ 1..) = self.left.get().checked_sub(1) {
            self.left.set(left);
            return None;
        }
        let now = now();
        let counted = self.counted.get().unwrap_or(now);
        let passed = now.duration_since(counted).as_millis();
        let gained = passed.saturating_mul(self.most.into()) / 1000;
        let gained = u32::try_from(gained).unwrap_or(u32::MAX).min(self.most);
        if gained == 0 {
            self.counted.set(Some(counted));
            return Some(now + HOLD);
        }
        self.left.set(gained);
        self.counted.set(Some(now));
        None
    }

    /// A question is answered.
    pub(super) fn earn(&self) {
        self.left.set((self.left.get() + EARNED).min(EARNED * self.most));
    }
}

/// Whether one more is within a rate.
pub(super) enum Counted {
    Within { left_out: u32 },
    Beyond { until: Instant },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_may_say_more() {
        let begun = Instant::now();
        let spent = |credit: &Credit, after: Duration| {
            let now = || begun + after;
            (0..10_000).take_while(|_| credit.spend(now).is_none()).count()
        };
        let credit = Credit::new(1000);
        assert_eq!(spent(&credit, Duration::ZERO), 999);
        assert_eq!(spent(&credit, Duration::ZERO), 0);
        assert_eq!(credit.spend(|| begun), Some(begun + HOLD));
        assert_eq!(spent(&credit, HOLD), 100);
        // Each answer pays for what is said beside it.
        for _ in 0..10_000 {
            credit.earn();
            assert_eq!(credit.spend(|| begun + HOLD), None);
        }
        assert!(spent(&credit, HOLD) <= 4000);
        assert_eq!(spent(&credit, 100 * HOLD), 1000);
    }
}
