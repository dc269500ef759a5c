//! Parts of a time, at a fixed offset.

use super::node::TimePart;
use crate::calendar::date;

const DAY_MS: i64 = 86_400_000;

/// A part of a time given in Unix milliseconds, the offset already added.
pub(super) fn part(part: TimePart, ms: i64) -> i64 {
    let days = ms.div_euclid(DAY_MS);
    let in_day = ms.rem_euclid(DAY_MS);
    match part {
        TimePart::Hours => in_day / 3_600_000,
        TimePart::Minutes => in_day / 60_000 % 60,
        TimePart::Seconds => in_day / 1000 % 60,
        // 1 January 1970 was a Thursday.
        TimePart::DayOfWeek => (days + 4).rem_euclid(7),
        TimePart::Year | TimePart::Month | TimePart::DayOfMonth | TimePart::Date => {
            let (year, month, day) = date(days);
            match part {
                TimePart::Year => year,
                TimePart::Month => month - 1,
                TimePart::DayOfMonth => day - 1,
                _ => day,
            }
        }
    }
}

/// An offset from UTC such as `UTC`, `+08:00` or `-05:30`, in milliseconds.
pub(super) fn offset(text: &str) -> Option<i64> {
    if matches!(text, "UTC" | "Z") {
        return Some(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 || !(hours.bytes().chain(minutes.bytes())).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 14 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_known_times() {
        // 2026-11-30T06:15:42Z was a Monday; 2000-02-29 a Tuesday; 1969-12-31 a Wednesday.
        for (ms, expected) in [
            (1_796_019_342_000, [2026, 10, 29, 30, 1, 6, 15, 42]),
            (951_782_400_000, [2000, 1, 28, 29, 2, 0, 0, 0]),
            (-1, [1969, 11, 30, 31, 3, 23, 59, 59]),
        ] {
            let parts = [
                TimePart::Year,
                TimePart::Month,
                TimePart::DayOfMonth,
                TimePart::Date,
                TimePart::DayOfWeek,
                TimePart::Hours,
                TimePart::Minutes,
                TimePart::Seconds,
            ];
            assert_eq!(parts.map(|p| part(p, ms)), expected, "{ms}");
        }
    }

    #[test]
    fn offsets() {
        assert_eq!(offset("+08:00"), Some(28_800_000));
        assert_eq!(offset("-05:30"), Some(-19_800_000));
        assert_eq!(offset("UTC"), Some(0));
        for wrong in ["Asia/Shanghai", "+8:00", "+99:00", "08", "", "+0a:00", "+08:60"] {
            assert_eq!(offset(wrong), None, "{wrong}");
        }
    }
}
