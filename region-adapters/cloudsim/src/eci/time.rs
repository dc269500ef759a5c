//! ECI times: RFC 3339, UTC, whole seconds, `Z` (README 4.3).

use jiff::Timestamp;

/// Writes Unix milliseconds as `2026-01-01T00:00:00Z`. A time outside the calendar becomes the epoch.
pub(crate) fn format(ms: i64) -> String {
    Timestamp::from_second(ms.div_euclid(1_000)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Reads `2026-01-01T00:00:00Z` into Unix milliseconds. Only the UTC form ending in `Z` is one.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let timestamp: Timestamp = text.parse().ok()?;
    text.ends_with('Z').then(|| timestamp.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_with_z() {
        assert_eq!(format(1_767_225_600_999), "2026-01-01T00:00:00Z");
        assert_eq!(parse("2026-01-01T00:00:00Z"), Some(1_767_225_600_000));
        assert_eq!(parse("2026-01-01T08:00:00+08:00"), None);
        assert_eq!(parse("yesterday"), None);
        assert_eq!(format(i64::MAX), "1970-01-01T00:00:00Z");
    }
}
