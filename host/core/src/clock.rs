//! Time, passed in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on the host's monotonic clock, as the time since the host started.
pub type Instant = Duration;

/// The two clocks of the platform. Policy runs on [`Clock::now`]; the wall clock decides calendars only.
pub trait Clock: Send + Sync {
    /// Monotonic time since the host started.
    fn now(&self) -> Instant;
    /// Nanoseconds since 1970.
    fn unix_ns(&self) -> i64;
}

/// The machine's clocks.
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        self.start.elapsed()
    }
    fn unix_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}
