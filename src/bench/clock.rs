//! The generator's clock: nanoseconds, where the server's counts milliseconds.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// One millisecond.
pub const MILLI: u64 = 1_000_000;
/// One second.
pub const SECOND: u64 = 1_000_000_000;

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// A clock that reads zero now.
    #[expect(clippy::disallowed_methods, reason = "what is measured here is time itself")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let whole = u64::try_from(time.tv_sec).unwrap_or(0) * SECOND;
    whole + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The wall clock, for the record.
#[expect(clippy::disallowed_methods, reason = "what is measured here is time itself")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Seconds since 1970-01-01 UTC, for the record.
pub fn unix() -> u64 {
    wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}

/// Seconds as nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float is clamped when it is cast"
)]
pub fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}
