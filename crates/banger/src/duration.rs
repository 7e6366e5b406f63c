//! Durations as people write them: an integer and `ms`, `s`, `m` or `h`; bare means seconds.

use std::time::Duration;

/// Parses a duration.
///
/// # Errors
/// One sentence that says how to write it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|_| factor > 0)
        .and_then(|number| number.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| "write an integer and ms, s, m or h, for instance 30s".to_owned())
}

/// Whole milliseconds, as the API counts.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The same, rounded up: what is left of a bounded wait is not cut short.
pub fn milliseconds_up(duration: Duration) -> u64 {
    milliseconds(duration.saturating_add(Duration::from_nanos(999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("7", 7_000),
            ("7s", 7_000),
            ("250ms", 250),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(milliseconds_up(Duration::from_micros(999_001)), 1_000);
        assert_eq!(milliseconds_up(Duration::from_millis(7)), 7);
        assert_eq!(milliseconds_up(Duration::MAX), u64::MAX);
        for bad in [
            "",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "99999999999999999999",
            "18446744073709551615h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
