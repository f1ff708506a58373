//! Time, passed in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on the host's monotonic clock. The host starts at [`BEFORE_START`], so that what was before has a
/// name, too.
pub type Instant = Duration;

/// The moment at which a host starts: further back than anything reaches that is remembered of an earlier
/// run.
pub const BEFORE_START: Instant = Duration::from_secs(30 * 24 * 3600);

/// The two clocks of the platform. Policy runs on [`Clock::now`]; the wall clock decides calendars only.
pub trait Clock: Send + Sync {
    /// Monotonic time: [`BEFORE_START`] and the time since the host started.
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
        BEFORE_START + self.start.elapsed()
    }
    fn unix_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}
