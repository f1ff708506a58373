//! Whether the wall clock may be believed when old things are deleted by it.
//!
//! A clock that is wrong once must not delete what is young. So a clock that jumps is not believed until it
//! has run evenly for a while; nothing is deleted meanwhile.

use crate::clock::Instant;
use std::time::Duration;

/// How far the clock may be ahead of what was to be expected.
pub const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// How far it may be behind: more than time servers correct it by at once.
pub const BEHIND_MAX: Duration = Duration::from_secs(60);
/// How long it has to run evenly after a jump.
pub const HOLD: Duration = Duration::from_secs(6 * 3600);

/// Why nothing may be deleted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("the clock is {0:?} ahead of the last housekeeping, or of the newest record")]
    Ahead(Duration),
    #[error("the clock has moved back by {0:?}")]
    Behind(Duration),
    #[error("the clock jumped less than {HOLD:?} ago")]
    Held,
}

/// Follows the wall clock from look to look.
#[derive(Debug)]
pub struct Believer {
    /// The wall clock's nanoseconds since 1970 at the last look; with the monotonic time, if that was this
    /// process's.
    last: Option<(i64, Option<Instant>)>,
    held_until: Option<Instant>,
}

impl Believer {
    /// `last` is the last moment that an earlier process has believed, in nanoseconds since 1970.
    pub fn new(last: Option<i64>) -> Self {
        Self { last: last.map(|unix_ns| (unix_ns, None)), held_until: None }
    }

    /// Looks at the clocks, and says whether the wall clock may be believed.
    pub fn look(&mut self, unix_ns: i64, now: Instant) -> Result<(), Doubt> {
        let jump = self.last.and_then(|(last, at)| {
            let elapsed = at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
            let expected = i128::from(last) + elapsed.as_nanos() as i128;
            let off = i128::from(unix_ns) - expected;
            let by = Duration::from_nanos(u64::try_from(off.unsigned_abs()).unwrap_or(u64::MAX));
            match off {
                0.. if by > AHEAD_MAX => Some(Doubt::Ahead(by)),
                ..0 if by > BEHIND_MAX => Some(Doubt::Behind(by)),
                _ => None,
            }
        });
        self.last = Some((unix_ns, Some(now)));
        if let Some(jump) = jump {
            self.held_until = Some(now + HOLD);
            return Err(jump);
        }
        match self.held_until {
            Some(until) if now < until => Err(Doubt::Held),
            _ => {
                self.held_until = None;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const START: i64 = 1_800_000_000_000_000_000;

    fn wall(hours: i64) -> i64 {
        START + hours * 3_600_000_000_000
    }
    fn mono(hours: u64) -> Instant {
        Duration::from_secs(hours * HOUR)
    }

    #[test]
    fn a_jump_is_refused_until_the_clock_has_run_evenly_for_a_while() {
        let mut believer = Believer::new(None);
        assert_eq!(believer.look(wall(0), mono(10)), Ok(()));
        assert_eq!(believer.look(wall(1), mono(11)), Ok(()));
        // A thousand hours ahead at one look, and right again at the next: both are jumps.
        assert_eq!(believer.look(wall(1_002), mono(12)), Err(Doubt::Ahead(mono(1_000))));
        assert_eq!(believer.look(wall(3), mono(13)), Err(Doubt::Behind(mono(1_000))));
        assert_eq!(believer.look(wall(8), mono(18)), Err(Doubt::Held));
        assert_eq!(believer.look(wall(9), mono(19)), Ok(()));
        assert_eq!(believer.look(wall(10), mono(20)), Ok(()));
    }

    #[test]
    fn a_restart_is_no_jump_unless_the_clock_is_more_than_a_day_ahead_or_behind_what_was_believed() {
        for (hours, doubt) in
            [(0, Ok(())), (23, Ok(())), (25, Err(Doubt::Ahead(mono(25)))), (-1, Err(Doubt::Behind(mono(1))))]
        {
            assert_eq!(Believer::new(Some(wall(0))).look(wall(hours), mono(0)), doubt, "{hours} hours");
        }
        assert!(Believer::new(Some(i64::MIN)).look(i64::MAX, mono(0)).is_err());
    }
}
