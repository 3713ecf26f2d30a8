//! The timers of RFC 3261 §17 (table 4), and a wheel that holds them.

/// Estimate of a round trip, in milliseconds; all others follow from it.
pub const T1: u64 = 500;
/// The longest time between retransmissions of a request that is no INVITE, and of a response to
/// one that is, in milliseconds.
pub const T2: u64 = 4_000;
/// How long a message stays in the network at most, in milliseconds.
pub const T4: u64 = 5_000;
/// Timers B, F, H, J, L and M, in milliseconds: how long the other side may be silent, and how long
/// its retransmissions may come.
pub const TRANSACTION: u64 = 64 * T1;
/// Timer B, in milliseconds, where another server can be tried (RFC 3263 §4.3): four transmissions.
/// Whoever is there answers an INVITE with 100 within 200 ms (RFC 3261 §17.2.1), and no caller waits
/// for 32 s.
pub const FAILOVER: u64 = 8 * T1;
/// Timer D, in milliseconds: how long a final response to an INVITE may come again (over 32 s).
pub const TIMER_D: u64 = 33_000;
/// Timer C, in milliseconds: how long a callee that rings may say nothing (over 3 minutes,
/// RFC 3261 §16.6 step 11).
pub const TIMER_C: u64 = 185_000;

/// Milliseconds of one place of the wheel.
const TICK: u64 = 16;
/// Places of the wheel: it goes round in 65 s, longer than all timers but a few.
const PLACES: usize = 4096;

/// Holds keys until their time has come, early by nothing and late by less than a tick.
///
/// Setting and taking cost the same however many there are. A timer can't be taken back: who sets
/// it finds out when it goes off whether it still matters.
#[derive(Debug)]
pub struct Wheel<K> {
    places: Box<[Vec<(u64, K)>]>,
    /// A bit for each place that holds anything.
    used: Box<[u64]>,
    /// The first tick that has not been taken.
    tick: u64,
    len: usize,
}

impl<K> Wheel<K> {
    /// An empty wheel.
    pub fn new() -> Self {
        let places = (0..PLACES).map(|_| Vec::new()).collect();
        Self { places, used: vec![0; PLACES / 64].into_boxed_slice(), tick: 0, len: 0 }
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Has `key` come back at `at`, in milliseconds.
    pub fn set(&mut self, at: u64, key: K) {
        let tick = at.div_ceil(TICK).max(self.tick);
        let place = place_of(tick);
        if let (Some(timers), Some(bits)) =
            (self.places.get_mut(place), self.used.get_mut(place / 64))
        {
            timers.push((tick, key));
            *bits |= 1 << (place % 64);
            self.len += 1;
        }
    }

    /// Takes all whose time has come at `now`, in milliseconds, in the order of their ticks.
    pub fn take(&mut self, now: u64, due: &mut Vec<K>) {
        let end = now / TICK + 1;
        // Once round is enough to see them all.
        let mut tick = self.tick.max(end.saturating_sub(PLACES as u64));
        while tick < end && self.len > 0 {
            let place = place_of(tick);
            tick += 1;
            let (Some(timers), Some(bits)) =
                (self.places.get_mut(place), self.used.get_mut(place / 64))
            else {
                continue;
            };
            if *bits & 1 << (place % 64) == 0 {
                continue;
            }
            let before = due.len();
            // Those of a later round stay.
            due.extend(timers.extract_if(.., |(at, _)| *at < end).map(|(_, key)| key));
            self.len -= due.len() - before;
            if timers.is_empty() {
                *bits &= !(1 << (place % 64));
            }
        }
        self.tick = self.tick.max(end);
    }

    /// Milliseconds from `now` until the next place that holds anything; `None` without any.
    pub fn wait(&self, now: u64) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        // Word by word, once round from the first that has not been taken.
        let first = place_of(self.tick);
        let words = self.used.len();
        let ahead = (0..=words).find_map(|word| {
            let at = first / 64 + word;
            let bits = *self.used.get(at % words)?;
            let bits = if word == 0 { bits & !0 << (first % 64) } else { bits };
            (bits != 0).then(|| (at * 64 + bits.trailing_zeros() as usize - first) as u64)
        })?;
        Some(((self.tick + ahead) * TICK).saturating_sub(now))
    }
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "less than the number of places")]
fn place_of(tick: u64) -> usize {
    (tick % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each comes once, never early, and by the first look after its tick.
        #[test]
        fn comes_when_it_is_due(
            timers in prop::collection::vec(0..200_000_u64, 0..60),
            steps in prop::collection::vec(1..90_000_u64, 1..20),
        ) {
            let mut wheel = Wheel::new();
            for &at in &timers {
                wheel.set(at, at);
            }
            let (mut now, mut came) = (0, Vec::new());
            for step in steps {
                now += step;
                let before = came.len();
                wheel.take(now, &mut came);
                prop_assert!(came[before..].iter().all(|&at| at <= now));
                let late = timers.iter().filter(|&&at| at + TICK <= now).count();
                prop_assert!(came.len() >= late);
                prop_assert_eq!(came.len() + wheel.len, timers.len());
                let next = timers.iter().filter(|&&at| at > now).min();
                if let (Some(wait), Some(&next)) = (wheel.wait(now), next) {
                    prop_assert!(now + wait < next + TICK);
                }
            }
        }
    }

    #[test]
    fn a_timer_set_for_the_past_goes_off_at_once() {
        let (mut wheel, mut due) = (Wheel::new(), Vec::new());
        wheel.take(10_000, &mut due);
        wheel.set(5, 'a');
        assert!(wheel.wait(10_000).is_some_and(|wait| wait <= TICK));
        wheel.take(10_000 + TICK, &mut due);
        assert_eq!((due, wheel.wait(10_016)), (vec!['a'], None));
    }
}
