//! What is only counted, so that nobody can fill the disk with refusals.
//!
//! A stranger's failures to authenticate have no principal to hold to account, whoever an issuer vouches for and nobody
//! here knows is no better, and a caller over its rate, or over its part of a busy gateway, is refused as often as it
//! asks: all would write as many records as they send requests. So strangers are counted by address, the unknown by the
//! name that is proven, and of a caller the first [`SINGLE_PER_MINUTE`] of a minute are recorded each and the rest
//! counted. Nothing is left out: the counts of a minute are a record themselves.

use std::collections::{BTreeMap, HashMap};

use meridian_model::{error::ErrorCode, time::Time};

use super::record::{Actor, Decision, Tally};

/// Refusals that no rate bounds and that have a record each, per principal and minute: enough to see what was asked for.
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
    Ungranted(String),
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

    /// A request came of a principal whose credential is good and means nothing here.
    pub fn ungranted(&mut self, principal: &str, now: Time) {
        let who = |principal: &str| Who::Ungranted(principal.to_owned());
        self.count(who(principal), who(OTHERS), now, |_| {});
    }

    /// A principal met a refusal that no rate bounds; whether that is to be a record of its own. If not, it is counted.
    pub fn bounded(&mut self, actor: &Actor, tenant: Option<&str>, code: &'static str, now: Time) -> bool {
        if self.single.len() < APART_MAX || self.single.contains_key(&actor.principal) {
            let seen = self.single.entry(actor.principal.clone()).or_default();
            if *seen < SINGLE_PER_MINUTE {
                *seen += 1;
                return true;
            }
        }
        self.refused(actor, tenant, code, now);
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
        Who::Ungranted(principal) => {
            let actor = Actor { principal, ..Actor::default() };
            ("authenticate", ErrorCode::PermissionDenied.as_str(), None, Some(actor))
        }
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
    fn who_is_proven_and_unknown_is_counted_by_name() {
        let mut flood = Flood::default();
        (0..10_000_u32).for_each(|n| flood.ungranted(&format!("oidc:corp:u{}", n % 300), NOW));
        let tallies = flood.take();
        assert!(tallies.len() <= APART_MAX + 1, "{}", tallies.len());
        assert_eq!(tallies.iter().map(|t| t.count).sum::<u64>(), 10_000);
        let actor = tallies[0].actor.as_ref().map(|actor| actor.principal.as_str());
        assert_eq!((tallies[0].code, actor), ("permission-denied", Some("oidc:corp:u0")));
    }

    #[test]
    fn a_caller_over_its_rate_has_some_records_and_a_count() {
        let mut flood = Flood::default();
        let actor = |n: u32| Actor { principal: format!("key:{n}"), ..Actor::default() };
        let is_single = |flood: &mut Flood, n, code| flood.bounded(&actor(n), Some("acme"), code, NOW);
        let single = (0..1000).filter(|_| is_single(&mut flood, 1, "rate-limited")).count();
        assert_eq!(single, 60);
        assert!(!is_single(&mut flood, 1, "overloaded"), "whatever it is that refuses");
        assert!(is_single(&mut flood, 2, "rate-limited"), "another one's are its own");
        let tallies = flood.take();
        let told: Vec<_> = tallies.iter().map(|t| (t.code, t.count, t.tenant.as_deref())).collect();
        assert_eq!(told, [("overloaded", 1, Some("acme")), ("rate-limited", 940, Some("acme"))]);
        assert!(is_single(&mut flood, 1, "rate-limited"), "a new minute");
        let all: u32 = (0..1000).map(|n| u32::from(is_single(&mut flood, n, "rate-limited"))).sum();
        assert!(all <= 128, "{all}");
    }
}
