//! What is only counted, so that nobody can fill the disk with refusals.
//!
//! A stranger's failures to authenticate have no principal to hold to account, and a caller over its rate is refused as
//! often as it asks: both would write as many records as they send requests. So of the one every failure is counted by
//! address, and of the other the first [`SINGLE_PER_MINUTE`] of a minute are recorded each and the rest counted. Nothing
//! is left out: the counts of a minute are a record themselves.

use std::collections::{BTreeMap, HashMap};

use meridian_model::{error::ErrorCode, time::Time};

use super::record::{Actor, Decision, Tally};

/// Refusals by a rate limit that have a record each, per principal and minute: enough to see what was asked for.
pub const SINGLE_PER_MINUTE: u32 = 60;
/// Sources and principals that are counted apart; the others of the minute share one count. Bounds the records of a
/// minute, and their memory to some tens of kilobytes.
const APART_MAX: usize = 128;
/// Where the others are counted.
const OTHERS: &str = "others";

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Source(String),
    Principal(String, &'static str),
}

#[derive(Debug, Clone)]
struct Count {
    since: Time,
    count: u64,
    actor: Option<Actor>,
    tenant: Option<String>,
}

/// The counts of the minute.
#[derive(Debug, Default)]
pub struct Flood {
    single: HashMap<String, u32>,
    counts: BTreeMap<Who, Count>,
}

impl Flood {
    /// A request without a valid credential came from a source.
    pub fn unauthenticated(&mut self, source: &str, now: Time) {
        let who = |source: &str| Who::Source(source.to_owned());
        self.count(who(source), who(OTHERS), now, |_| {});
    }

    /// A rate limit refused a principal; whether that is to be a record of its own. If not, it is counted.
    pub fn limited(&mut self, actor: &Actor, tenant: Option<&str>, now: Time) -> bool {
        if self.single.len() < APART_MAX || self.single.contains_key(&actor.principal) {
            let seen = self.single.entry(actor.principal.clone()).or_default();
            if *seen < SINGLE_PER_MINUTE {
                *seen += 1;
                return true;
            }
        }
        self.refused(actor, tenant, ErrorCode::RateLimited.as_str(), now);
        false
    }

    /// A refusal of a principal that is only counted.
    pub fn refused(&mut self, actor: &Actor, tenant: Option<&str>, code: &'static str, now: Time) {
        let who = |principal: &str| Who::Principal(principal.to_owned(), code);
        self.count(who(&actor.principal), who(OTHERS), now, |count| {
            count.actor = Some(actor.clone());
            count.tenant = tenant.map(str::to_owned);
        });
    }

    fn count(&mut self, who: Who, others: Who, now: Time, describe: impl FnOnce(&mut Count)) {
        let is_known = self.counts.contains_key(&who);
        let is_apart = is_known || self.counts.len() < APART_MAX;
        let key = if is_apart { who } else { others };
        let count = self.counts.entry(key).or_insert(Count { since: now, count: 0, actor: None, tenant: None });
        count.count = count.count.saturating_add(1);
        if is_apart && !is_known {
            describe(count);
        }
    }

    /// Ends the minute: its counts, and a new one begins.
    pub fn take(&mut self) -> Vec<Tally> {
        self.single.clear();
        let counts = std::mem::take(&mut self.counts);
        counts.into_iter().map(|(who, count)| tally(who, count)).collect()
    }
}

fn tally(who: Who, Count { since, count, actor, tenant }: Count) -> Tally {
    let (action, code, source, actor) = match who {
        Who::Source(source) => ("authenticate", ErrorCode::Unauthenticated.as_str(), Some(source), None),
        Who::Principal(principal, code) => {
            let actor = actor.unwrap_or(Actor { principal, ..Actor::default() });
            ("change", code, None, Some(actor))
        }
    };
    Tally { action, actor, code, count, decision: Decision::Denied, since, source, tenant }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_unix_ms(0);

    #[test]
    fn a_stranger_makes_a_bounded_number_of_records() {
        let mut flood = Flood::default();
        for n in 0..10_000_u32 {
            flood.unauthenticated(&format!("10.0.{}.{}", n / 256 % 8, n % 256), NOW);
        }
        let tallies = flood.take();
        assert!(tallies.len() <= APART_MAX + 1, "{}", tallies.len());
        assert_eq!(tallies.iter().map(|t| t.count).sum::<u64>(), 10_000, "every one is counted");
        assert!(flood.take().is_empty());
    }

    #[test]
    fn a_caller_over_its_rate_has_some_records_and_a_count() {
        let mut flood = Flood::default();
        let actor = |n: u32| Actor { principal: format!("key:{n}"), ..Actor::default() };
        let single = (0..1000).filter(|_| flood.limited(&actor(1), Some("acme"), NOW)).count();
        assert_eq!(single, 60);
        assert!(flood.limited(&actor(2), Some("acme"), NOW), "another one's are its own");
        let tallies = flood.take();
        assert_eq!(tallies.len(), 1);
        assert_eq!((tallies[0].count, tallies[0].tenant.as_deref()), (940, Some("acme")));
        assert!(flood.limited(&actor(1), Some("acme"), NOW), "a new minute");
        let all: u32 = (0..1000).map(|n| u32::from(flood.limited(&actor(n), Some("acme"), NOW))).sum();
        assert!(all <= 128, "{all}");
    }
}
