//! Tencent's times: Go's default format, not RFC 3339 (vendor-api README 2.5).

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What an unset Go time prints as.
pub(crate) const ZERO: &str = "0001-01-01 00:00:00 +0000 UTC";

/// `2021-06-24 03:32:02 +0000 UTC`, with a fraction if there is one, as Go prints it.
pub(crate) fn go_time(ms: i64) -> String {
    let whole = format_at(ms, "%Y-%m-%d %H:%M:%S");
    match ms.rem_euclid(1000) {
        0 => format!("{whole} +0000 UTC"),
        fraction => {
            let digits = format!("{fraction:03}");
            format!("{whole}.{} +0000 UTC", digits.trim_end_matches('0'))
        }
    }
}

/// The same in whole seconds.
pub(crate) fn go_time_secs(ms: i64) -> String {
    go_time(ms - ms.rem_euclid(1000))
}

/// `2021-12-06 22:52:24`, as image caches have it.
pub(crate) fn plain_time(ms: i64) -> String {
    format_at(ms, "%Y-%m-%d %H:%M:%S")
}

/// `YYYY-MM-DD` in UTC of Unix seconds; empty for times out of range.
pub(crate) fn utc_date(secs: i64) -> String {
    Timestamp::from_second(secs)
        .map_or_else(|_| String::new(), |t| t.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string())
}

fn format_at(ms: i64, format: &str) -> String {
    Timestamp::from_millisecond(ms)
        .map_or_else(|_| ZERO.to_owned(), |t| t.to_zoned(TimeZone::UTC).strftime(format).to_string())
}

/// Milliseconds of an RFC 3339 time.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        assert_eq!(go_time(1_624_505_522_000), "2021-06-24 03:32:02 +0000 UTC");
        assert_eq!(go_time(1_624_505_522_420), "2021-06-24 03:32:02.42 +0000 UTC");
        assert_eq!(go_time_secs(1_624_505_522_420), "2021-06-24 03:32:02 +0000 UTC");
        assert_eq!(plain_time(1_624_505_522_420), "2021-06-24 03:32:02");
        assert_eq!(utc_date(1_767_225_599), "2025-12-31");
        assert_eq!(utc_date(i64::MAX), "");
        assert_eq!(parse_rfc3339("2021-06-24T03:32:02Z"), Some(1_624_505_522_000));
    }
}
