//! How long ago something was, as people say it.

use time::OffsetDateTime;

/// `3 minutes`; the largest unit that fits at least twice, so that nothing is rounded by half.
pub fn age(then: OffsetDateTime, now: OffsetDateTime) -> String {
    const UNITS: [(i64, &str); 6] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
    ];
    // A clock that was set back makes nothing younger than now.
    let seconds = (now - then).whole_seconds().max(0);
    let (length, unit) = UNITS
        .into_iter()
        .find(|(length, _)| seconds >= 2 * length)
        .unwrap_or((1, "second"));
    let count = seconds / length;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now = time::macros::datetime!(2026-01-01 00:00 UTC);
        for (seconds, text) in [
            (-5, "0 seconds"),
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7_199, "119 minutes"),
            (7_200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (63_072_000, "2 years"),
        ] {
            assert_eq!(age(now - time::Duration::seconds(seconds), now), text);
        }
    }
}
