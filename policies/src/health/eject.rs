//! Outlier ejection: a zone that fails while its backend as a whole answers.
//!
//! - *Signal.* 5 faults in a row of calls that concern one zone; only faults of the region or the way to it.
//! - *Pause.* 30 s x n for the n-th ejection, at most 5 min; n starts over once the zone answered again.
//! - *Brake.* At most half of a backend's zones count as ejected. If more would, none does: then the fault is
//!   the backend's (its breaker's matter) or ours, and shutting zones would only hide it.

use std::{collections::BTreeMap, time::Duration};

use meridian_model::{ids::BackendId, time::Time};

use super::{Outcome, ZoneKey};

/// Faults in a row that eject; the same number as the breaker's, for the same reason.
pub const EJECT_FAULTS: u32 = 5;
/// Pause of the first ejection; each further one in a row is longer by as much.
pub const EJECT_STEP: Duration = Duration::from_secs(30);
/// Longest pause.
pub const EJECT_MAX: Duration = Duration::from_secs(300);
/// Most zones that are remembered; far above any configuration.
pub const EJECT_ENTRIES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    faults_in_a_row: u32,
    ejections: u32,
    /// From and until.
    ejected: Option<(Time, Time)>,
}

impl Entry {
    /// The end of a pause that runs at `now`. One from the future (the clock went back) does not.
    fn until(&self, now: Time) -> Option<Time> {
        self.ejected.filter(|(since, until)| *since <= now && now < *until).map(|(_, until)| until)
    }
}

/// The ejected zones of all backends.
#[derive(Debug, Clone, Default)]
pub struct ZoneEjections {
    entries: BTreeMap<ZoneKey, Entry>,
}

impl ZoneEjections {
    /// Takes note of a call that concerned one zone.
    pub fn record(&mut self, zone: &ZoneKey, outcome: Outcome, now: Time) {
        match outcome {
            Outcome::Abandoned => {}
            Outcome::Answered => {
                // An answer to a call from before the ejection does not end it.
                if self.entries.get(zone).is_some_and(|entry| entry.until(now).is_none()) {
                    self.entries.remove(zone);
                }
            }
            Outcome::Fault => self.fault(zone, now),
        }
    }

    fn fault(&mut self, zone: &ZoneKey, now: Time) {
        if self.entries.len() >= EJECT_ENTRIES_MAX && !self.entries.contains_key(zone) {
            return;
        }
        let entry = self.entries.entry(zone.clone()).or_default();
        if entry.until(now).is_some() {
            return;
        }
        entry.faults_in_a_row = entry.faults_in_a_row.saturating_add(1);
        if entry.faults_in_a_row >= EJECT_FAULTS {
            entry.ejections = entry.ejections.saturating_add(1);
            entry.faults_in_a_row = 0;
            entry.ejected = Some((now, now + EJECT_STEP.saturating_mul(entry.ejections).min(EJECT_MAX)));
        }
    }

    /// Until when the zone is ejected; none when it is not, or when more than half of the backend's
    /// `zones_total` zones would be.
    #[must_use]
    pub fn until(&self, zone: &ZoneKey, zones_total: usize, now: Time) -> Option<Time> {
        let until = self.entries.get(zone)?.until(now)?;
        (self.ejected_count(&zone.backend, now).saturating_mul(2) <= zones_total).then_some(until)
    }

    fn ejected_count(&self, backend: &BackendId, now: Time) -> usize {
        self.entries.iter().filter(|(key, entry)| key.backend == *backend && entry.until(now).is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use meridian_model::ids::ZoneId;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_unix_ms(1_700_000_000_000 + seconds * 1000)
    }

    fn zone(n: u32) -> ZoneKey {
        ZoneKey::new(BackendId::new("b").unwrap(), ZoneId::new(format!("z-{n}")).unwrap())
    }

    fn fail(ejections: &mut ZoneEjections, n: u32, now: Time) {
        for _ in 0..EJECT_FAULTS {
            ejections.record(&zone(n), Outcome::Fault, now);
        }
    }

    #[test]
    fn thirty_seconds_more_each_time() {
        let mut ejections = ZoneEjections::default();
        let mut now = at(0);
        for seconds in [30, 60, 90] {
            fail(&mut ejections, 1, now);
            let until = ejections.until(&zone(1), 3, now).unwrap();
            assert_eq!(until.since(now).as_secs(), seconds);
            now = until;
            assert_eq!(ejections.until(&zone(1), 3, now), None);
        }
        ejections.record(&zone(1), Outcome::Answered, now);
        fail(&mut ejections, 1, now);
        assert_eq!(ejections.until(&zone(1), 3, now), Some(now + EJECT_STEP), "an answer starts over");
    }

    #[test]
    fn an_answer_in_between_ends_the_row() {
        let mut ejections = ZoneEjections::default();
        for n in 0..20 {
            let outcome = if n % 4 == 3 { Outcome::Answered } else { Outcome::Fault };
            ejections.record(&zone(1), outcome, at(0));
        }
        assert_eq!(ejections.until(&zone(1), 3, at(0)), None);
    }

    #[test]
    fn no_more_than_half_of_a_backend_is_ejected() {
        let mut ejections = ZoneEjections::default();
        fail(&mut ejections, 1, at(0));
        assert!(ejections.until(&zone(1), 2, at(0)).is_some(), "one of two");
        assert!(ejections.until(&zone(1), 1, at(0)).is_none(), "the only one");
        fail(&mut ejections, 2, at(0));
        assert!(ejections.until(&zone(1), 3, at(0)).is_none(), "two of three");
        assert!(ejections.until(&zone(1), 4, at(0)).is_some(), "two of four");
        let elsewhere = ZoneKey::new(BackendId::new("other").unwrap(), zone(1).zone);
        assert!(ejections.until(&elsewhere, 4, at(0)).is_none());
    }

    #[test]
    fn a_clock_that_went_back_ejects_nobody() {
        let mut ejections = ZoneEjections::default();
        fail(&mut ejections, 1, at(0));
        assert_eq!(ejections.until(&zone(1), 3, at(-1)), None);
    }
}
