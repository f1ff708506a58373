//! Times in JSON: RFC 3339 in UTC; days: `YYYY-MM-DD`.

use crate::ledger::Day;
use jiff::Timestamp;
use jiff::civil::Date;

const EPOCH: Date = Date::constant(1970, 1, 1);

pub fn from_unix_ms(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_string()
}

pub fn from_unix_ns(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::MAX).to_string()
}

pub fn from_day(day: Day) -> String {
    let date = jiff::SignedDuration::try_from_hours(day.0.saturating_mul(24));
    date.and_then(|since| EPOCH.checked_add(since).ok()).unwrap_or(Date::MAX).to_string()
}

pub fn to_day(text: &str) -> Option<Day> {
    // The length is checked since the parser takes a time of day, too.
    let date: Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    Some(Day(date.duration_since(EPOCH).as_hours() / 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_are_written_as_the_standards_say() {
        for (text, day) in [("1970-01-01", 0), ("1969-12-31", -1), ("2026-11-22", 20_779)] {
            assert_eq!(to_day(text), Some(Day(day)));
            assert_eq!(from_day(Day(day)), text);
        }
        for wrong in ["", "2026-11-31", "2026-1-1", "22.11.2026", "2026-11-22T00:00"] {
            assert_eq!(to_day(wrong), None, "{wrong}");
        }
        assert_eq!(from_unix_ms(1_500), "1970-01-01T00:00:01.5Z");
        assert_eq!(from_unix_ns(1_000_000_001), "1970-01-01T00:00:01.000000001Z");
    }
}
