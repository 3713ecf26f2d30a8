//! When to look at which record: a wheel of seconds for each part of the map.
//!
//! A refresh moves a record's deadline but not its place in the wheel: when the second comes, the
//! record is looked at, and either something has ended or it is put back at the deadline it has by
//! then. So a phone that refreshes costs the wheel one visit per granted interval, and nothing per
//! refresh, whatever the size of the table.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Parts of the space of tags, each with a wheel of its own, so that workers which add bindings at
/// once seldom meet. A power of two.
pub(super) const WHEELS: usize = 64;

/// The tags of the records to visit, by second.
#[derive(Debug, Default)]
struct Wheel {
    seconds: BTreeMap<u32, Vec<u32>>,
    /// Taken to be visited, and perhaps not yet put back: whoever lists the tags must see them.
    visiting: Vec<u32>,
}

/// All wheels.
#[derive(Debug)]
pub(super) struct Wheels {
    wheels: Box<[Mutex<Wheel>]>,
}

impl Wheels {
    pub(super) fn new() -> Self {
        Self { wheels: (0..WHEELS).map(|_| Mutex::default()).collect() }
    }

    /// The wheel of a tag. The map takes its shards from the high bits.
    fn of(&self, tag: u32) -> MutexGuard<'_, Wheel> {
        self.lock(usize::try_from(tag).unwrap_or_default() % WHEELS)
    }

    fn lock(&self, wheel: usize) -> MutexGuard<'_, Wheel> {
        self.wheels[wheel].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `tag` visited at `second`.
    pub(super) fn schedule(&self, tag: u32, second: u32) {
        let mut wheel = self.of(tag);
        let tags = wheel.seconds.entry(second).or_default();
        if tags.len() == tags.capacity() {
            // In small steps: all wheels grow at the same time, and doubling would show.
            tags.reserve_exact(tags.len() / 4 + 4);
        }
        tags.push(tag);
    }

    /// Takes the tags of one wheel whose second is `now` or before; each with its second. They
    /// are still listed until [`Wheels::visited`].
    pub(super) fn take_due(&self, wheel: usize, now: u32) -> Vec<(u32, Vec<u32>)> {
        let mut wheel = self.lock(wheel);
        let mut due = Vec::new();
        while let Some(first) = wheel.seconds.first_entry()
            && *first.key() <= now
        {
            due.push(first.remove_entry());
        }
        wheel.visiting = due.iter().flat_map(|(_, tags)| tags).copied().collect();
        due
    }

    /// Forgets the tags that were taken last: each is back in the wheel, or gone for good.
    pub(super) fn visited(&self, wheel: usize) {
        self.lock(wheel).visiting = Vec::new();
    }

    /// The tags of one wheel, each once, in order.
    pub(super) fn tags(&self, wheel: usize) -> Vec<u32> {
        let mut tags: Vec<u32> = {
            let wheel = self.lock(wheel);
            wheel.seconds.values().flatten().chain(&wheel.visiting).copied().collect()
        };
        tags.sort_unstable();
        tags.dedup();
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_tags_are_taken_once() {
        let wheels = Wheels::new();
        wheels.schedule(1, 10);
        wheels.schedule(65, 10);
        wheels.schedule(1, 12);
        wheels.schedule(2, 10);
        assert_eq!(wheels.take_due(1, 9), []);
        assert_eq!(wheels.take_due(1, 11), [(10, vec![1, 65])]);
        assert_eq!(wheels.take_due(1, 11), []);
        assert_eq!(wheels.take_due(1, 12), [(12, vec![1])]);
        assert_eq!(wheels.tags(2), [2]);
    }

    #[test]
    fn tags_are_listed_while_they_are_visited() {
        let wheels = Wheels::new();
        wheels.schedule(1, 10);
        wheels.take_due(1, 10);
        assert_eq!(wheels.tags(1), [1]);
        wheels.schedule(1, 20);
        assert_eq!(wheels.tags(1), [1]);
        wheels.visited(1);
        assert_eq!(wheels.tags(1), [1]);
        wheels.take_due(1, 20);
        wheels.visited(1);
        assert!(wheels.tags(1).is_empty());
    }

    #[test]
    fn tags_are_listed_once() {
        let wheels = Wheels::new();
        for (tag, second) in [(64, 3), (0, 1), (64, 2)] {
            wheels.schedule(tag, second);
        }
        assert_eq!(wheels.tags(0), [0, 64]);
    }
}
