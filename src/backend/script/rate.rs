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

/// Whether one more is within a rate.
pub(super) enum Counted {
    Within { left_out: u32 },
    Beyond { until: Instant },
}
