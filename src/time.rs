//! Time as the program sees it: read once a batch, passed by value, injected in tests.

use std::sync::atomic::{AtomicI64, Ordering};

/// A moment, read once per batch of datagrams.
///
/// `millis` is monotonic and counts from the start of the process; every timer inside uses it.
/// `unix` is wall-clock seconds; the disk and the `Date` header use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on the monotonic clock since the [`Clock`] was made.
    pub millis: u64,
    /// Seconds since 1970-01-01 UTC.
    pub unix: u64,
}

impl Now {
    /// The whole monotonic second this moment lies in.
    pub fn second(self) -> u32 {
        u32::try_from(self.millis / 1000).unwrap_or(u32::MAX)
    }
}

/// A duration on the wire, in seconds (`delta-seconds`, RFC 3261 §25.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeltaSeconds(pub u32);

impl DeltaSeconds {
    /// The longest that a binding may be granted by any setting: a week.
    pub const LONGEST: Self = Self(604_800);

    /// A time that a setting grants: decimal digits, from one second to [`DeltaSeconds::LONGEST`].
    pub fn granted(text: &[u8]) -> Option<Self> {
        let seconds = std::str::from_utf8(text).ok()?.parse().ok().map(Self)?;
        (Self(1)..=Self::LONGEST).contains(&seconds).then_some(seconds)
    }
}

/// The monotonic second at which something ends.
///
/// A binding made at 10.9 s for 60 s ends at second 70: it may end up to a second early, never
/// late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(pub u32);

impl Deadline {
    /// The deadline `delta` after `now`.
    pub fn after(now: Now, delta: DeltaSeconds) -> Self {
        Self(now.second().saturating_add(delta.0))
    }

    /// The deadline whose wall-clock time is `unix` seconds; one already past is `None`.
    pub fn from_unix(now: Now, unix: u64) -> Option<Self> {
        let left = u32::try_from(unix.checked_sub(now.unix)?).ok()?;
        (left > 0).then(|| Self::after(now, DeltaSeconds(left)))
    }

    /// Whole seconds left; zero means ended.
    pub fn remaining(self, now: Now) -> DeltaSeconds {
        DeltaSeconds(self.0.saturating_sub(now.second()))
    }

    /// Whether the deadline has come.
    pub fn is_past(self, now: Now) -> bool {
        self.0 <= now.second()
    }

    /// This deadline on the wall clock, for the disk.
    pub fn to_unix(self, now: Now) -> u64 {
        (now.unix + u64::from(self.0)).saturating_sub(u64::from(now.second()))
    }
}

/// A monotonic second at which something was done, before the process began too.
///
/// It is kept by the monotonic clock, as a [`Deadline`] is, so that the time between them stays
/// what it was when the wall clock is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i32);

impl Moment {
    /// The second of `now`.
    pub fn of(now: Now) -> Self {
        Self(i32::try_from(now.second()).unwrap_or(i32::MAX))
    }

    /// The moment whose wall-clock time is `unix` seconds, for the clock's present setting.
    pub fn from_unix(now: Now, unix: u32) -> Self {
        let start = i64::try_from(now.unix).unwrap_or(i64::MAX) - i64::from(now.second());
        let second = i64::from(unix).saturating_sub(start);
        let nearest = if second < 0 { i32::MIN } else { i32::MAX };
        Self(i32::try_from(second).unwrap_or(nearest))
    }

    /// This moment on the wall clock, as that is set now.
    pub fn to_unix(self, now: Now) -> u32 {
        let start = i64::try_from(now.unix).unwrap_or(i64::MAX) - i64::from(now.second());
        let unix = start.saturating_add(i64::from(self.0)).max(0);
        u32::try_from(unix).unwrap_or(u32::MAX)
    }
}

/// Where time comes from.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Now;
}

impl<C: Clock> Clock for std::sync::Arc<C> {
    fn now(&self) -> Now {
        C::now(self)
    }
}

/// The operating system's clocks: one read of the monotonic clock a call. The wall clock is that
/// plus an offset which [`SystemClock::adjust`] refreshes.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
    /// Unix seconds at `start`. Whole seconds, so that both clocks tick together: what ends in
    /// 60 s by one does so by the other, whenever one asks.
    offset: AtomicI64,
}

impl SystemClock {
    /// A clock whose monotonic time starts at zero.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where clocks are read")]
    pub fn new() -> Self {
        let clock = Self { start: std::time::Instant::now(), offset: AtomicI64::new(0) };
        clock.adjust();
        clock
    }

    /// Reads the wall clock again, so that a step of it is followed. Called once a second. The
    /// result is by how many seconds it was set, where that is more than adjusting it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where clocks are read")]
    pub fn adjust(&self) -> i64 {
        /// What a clock may be off by before its daemon sets it instead of slewing it.
        const STEP: i64 = 2;
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let mono = i64::try_from(self.millis()).unwrap_or(i64::MAX);
        let exact = wall - mono;
        // Half a second off is as good as it gets; it must not change to and fro.
        let before = self.offset.load(Ordering::Relaxed);
        if (exact - before.saturating_mul(1000)).abs() < 1000 {
            return 0;
        }
        let offset = (exact + 500).div_euclid(1000);
        self.offset.store(offset, Ordering::Relaxed);
        let step = offset.saturating_sub(before);
        if step.abs() >= STEP { step } else { 0 }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let millis = self.millis();
        let unix = self.offset.load(Ordering::Relaxed).saturating_add_unsigned(millis / 1000);
        Now { millis, unix: u64::try_from(unix).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { millis: 10_900, unix: 1_700_000_000 };

    #[test]
    fn a_deadline_is_never_late() {
        let deadline = Deadline::after(NOW, DeltaSeconds(60));
        assert_eq!(deadline.remaining(NOW), DeltaSeconds(60));
        let later = Now { millis: 70_000, unix: 1_700_000_059 };
        assert!(deadline.is_past(later));
        assert_eq!(deadline.remaining(later), DeltaSeconds(0));
    }

    #[test]
    fn a_moment_keeps_its_distance_when_the_clock_is_set() {
        let moment = Moment::from_unix(NOW, 1_699_999_000);
        assert_eq!((moment, moment.to_unix(NOW)), (Moment(-990), 1_699_999_000));
        assert_eq!(Moment::of(NOW).to_unix(NOW), 1_700_000_000);
        let set = Now { unix: NOW.unix + 172_800, ..NOW };
        assert_eq!(moment.to_unix(set), 1_700_171_800);
        assert_eq!(Moment::from_unix(Now { millis: 0, unix: 0 }, u32::MAX), Moment(i32::MAX));
        assert_eq!(Moment(i32::MIN).to_unix(Now { millis: 0, unix: 5 }), 0);
    }

    #[test]
    fn unix_time_round_trips() {
        let deadline = Deadline::from_unix(NOW, 1_700_000_090).unwrap();
        assert_eq!(deadline.remaining(NOW), DeltaSeconds(90));
        assert_eq!(deadline.to_unix(NOW), 1_700_000_090);
        assert_eq!(Deadline::from_unix(NOW, 1_700_000_000), None);
        assert_eq!(Deadline::from_unix(NOW, 5), None);
    }
}
