//! Which AoRs have changed, for one who reads them again in its own time.
//!
//! The change feed copies every record; whoever only follows where a phone is now needs its name,
//! and may see two changes as one. A refresh leaves four octets here.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

/// What a change leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// A record changed: one of those that [`Location::traced`](super::Location::traced) shows.
    Changed(u32),
    /// The last bindings of this AoR ended, and its record is gone.
    Gone(Box<[u8]>),
}

/// The traces that nobody has taken yet, in order for each AoR.
#[derive(Debug)]
pub struct Trail {
    traces: ArrayQueue<Trace>,
    has_missed: AtomicBool,
}

impl Trail {
    pub(super) fn new(capacity: usize) -> Self {
        Self { traces: ArrayQueue::new(capacity), has_missed: AtomicBool::new(false) }
    }

    /// Leaves a trace; where there is no room, that there was none.
    pub(super) fn leave(&self, trace: Trace) {
        if self.traces.push(trace).is_err() {
            self.has_missed.store(true, Ordering::Relaxed);
        }
    }

    /// The next trace.
    pub fn take(&self) -> Option<Trace> {
        self.traces.pop()
    }

    /// Whether traces were lost since this was last asked: then all records have to be read.
    pub fn take_missed(&self) -> bool {
        self.has_missed.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_told_once() {
        let trail = Trail::new(2);
        (0..3).for_each(|tag| trail.leave(Trace::Changed(tag)));
        assert_eq!(trail.take(), Some(Trace::Changed(0)));
        assert_eq!(trail.take(), Some(Trace::Changed(1)));
        assert_eq!(trail.take(), None);
        assert!(trail.take_missed());
        assert!(!trail.take_missed());
    }
}
