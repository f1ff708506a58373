//! Sizes and durations as people write them.

use std::time::Duration;

/// Bytes from `64MiB` (1024s), `64MB` (1000s) or a plain number of bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let size = if has_few_digits(text) { parse_size::parse_size(text).ok() } else { None };
    size.ok_or_else(|| {
        format!(
            "{text:?} is not a size: write bytes, or a number with B, kB, MB, GB (1000s), KiB, MiB, GiB (1024s)"
        )
    })
}

/// Whether the digits make less than 2^64: the parser rounds longer numbers, and overflows at that.
fn has_few_digits(text: &str) -> bool {
    text.bytes().filter(u8::is_ascii_digit).count() <= 19
}

/// Whole milliseconds from `500ms`, `10s`, `5m`, `2h` or a sum such as `1m 30s`.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!("{text:?} is not a duration: write a number with ms, s, m, h or d, as in \"500ms\"")
    })?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("{text:?} is finer than a millisecond"));
    }
    u64::try_from(duration.as_millis()).map_err(|_| format!("{text:?} is too long"))
}

/// A size as it would be written in `vesta.toml`: exact, in the largest binary unit that divides it.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A duration as it would be written in `vesta.toml`.
pub fn format_duration_ms(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_in_either_system_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1500", 1500),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("64MB", 64_000_000),
            ("1.5KiB", 1536),
            ("4GiB", 4 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "64 MX", "64 apples", "99999999999999999999TiB"] {
            assert!(parse_size(bad).expect_err(bad).contains("not a size"), "{bad}");
        }
    }

    #[test]
    fn durations_are_whole_milliseconds() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000), ("1m 30s", 90_000)]
        {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for bad in ["", "10", "-1s", "5 fortnights", "10us", "999999999999999999999s"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_are_shown_in_the_words_of_the_file() {
        assert_eq!(format_size(4 << 30), "4GiB");
        assert_eq!(format_size(1 << 20), "1MiB");
        assert_eq!(format_size(1500), "1500");
        assert_eq!(format_size(0), "0");
        assert_eq!(format_duration_ms(600_000), "10m");
        assert_eq!(format_duration_ms(1), "1ms");
    }
}
