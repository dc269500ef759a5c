//! Counters of calls: what a test asks to prove that a breaker was open or a budget was kept.

use std::collections::BTreeMap;

use super::types::RegionKey;

/// Most different outcomes counted; the rest falls under `other`.
const OUTCOMES_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    second: i64,
    in_second: u64,
    peak: u64,
}

/// Calls by region, action and outcome, and the busiest second of each action.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    outcomes: BTreeMap<(RegionKey, String, String), u64>,
    rates: BTreeMap<(RegionKey, String), Rate>,
}

impl Calls {
    pub(super) fn count(&mut self, region: &RegionKey, action: &str, outcome: &str, now_ms: i64) {
        let full = self.outcomes.len() >= OUTCOMES_MAX;
        let mut key = (region.clone(), action.to_owned(), outcome.to_owned());
        if full && !self.outcomes.contains_key(&key) {
            key = (region.clone(), "other".to_owned(), "other".to_owned());
        }
        let rate = self.rates.entry((key.0.clone(), key.1.clone())).or_default();
        let second = now_ms.div_euclid(1000);
        if rate.second != second {
            rate.second = second;
            rate.in_second = 0;
        }
        rate.in_second += 1;
        rate.peak = rate.peak.max(rate.in_second);
        *self.outcomes.entry(key).or_insert(0) += 1;
    }

    /// Region, action, outcome and number.
    pub fn outcomes(&self) -> impl Iterator<Item = (&RegionKey, &str, &str, u64)> {
        self.outcomes.iter().map(|((r, action, outcome), n)| (r, action.as_str(), outcome.as_str(), *n))
    }

    /// Region, action and most calls in one second of the clock.
    pub fn peaks(&self) -> impl Iterator<Item = (&RegionKey, &str, u64)> {
        self.rates.iter().map(|((r, action), rate)| (r, action.as_str(), rate.peak))
    }
}
