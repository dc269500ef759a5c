//! The proleptic Gregorian calendar, after H. Hinnant (2013): years begin in March, so that the leap day is the last of a
//! year, and 400 years are one era.

/// Year, month (from 1) and day (from 1) of a day since 1970 (`civil_from_days`).
pub(crate) const fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

/// The day since 1970 on which a month (from 1) begins (`days_from_civil`).
pub(crate) const fn month_start(year: i64, month: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each day follows the one before, and each month begins on its first.
    #[test]
    fn days_and_months_agree() {
        let mut before = date(-200_001);
        for days in -200_000..200_000 {
            let (year, month, day) = date(days);
            let (y, m, d) = before;
            let next_month = if m == 12 { (y + 1, 1) } else { (y, m + 1) };
            assert!(
                (year, month, day) == (y, m, d + 1) || d >= 28 && (year, month, day) == (next_month.0, next_month.1, 1)
            );
            assert_eq!(month_start(year, month), days - (day - 1), "{year}-{month}-{day}");
            before = (year, month, day);
        }
        assert_eq!((date(0), date(11_016)), ((1970, 1, 1), (2000, 2, 29)));
    }
}
