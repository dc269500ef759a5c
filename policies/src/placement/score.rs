//! The scores: the criteria of a strategy, in order of importance.
//!
//! Each criterion ranks the candidates among themselves: the best rank has the value 1, the next ones less, equal
//! ones the same. Weights are chosen so that one rank of a criterion outweighs all lesser criteria together: a
//! cheaper zone is never passed over because three small things spoke for a dearer one, and the order of the
//! scores is the order of the list. Values times weights are whole numbers, so that a score is exact and reads
//! back from JSON as it was written.
//!
//! | strategy | criteria, most important first |
//! |---|---|
//! | `priority` | fallback order, regions, zones, priority, price, spread |
//! | `cheapest` | fallback order, price, regions, zones, priority, spread |
//! | `spread`   | fallback order, spread, regions, zones, priority, price |
//!
//! Fallback order, regions and zones count only where the spec names them. When all candidates are last resorts,
//! whose memory ends first comes before all else.

use std::collections::BTreeMap;

use meridian_model::{
    ids::RegionId,
    instance::Strategy,
    operation::{RankedCandidate, ScoreTerm},
    time::Time,
};

use super::{Demand, Rules, Snapshot, filter::View};
use crate::mix::mix;

/// A candidate that passed all filters, with its place in the order.
#[derive(Debug)]
pub(super) struct Ranked<'a> {
    pub(super) view: View<'a>,
    pub(super) candidate: RankedCandidate,
}

/// A criterion of the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Criterion {
    LastResort,
    Fallback,
    Regions,
    Zones,
    Priority,
    Price,
    Spread,
}

impl Criterion {
    const fn name(self) -> &'static str {
        match self {
            Self::LastResort => "last-resort",
            Self::Fallback => "fallback-order",
            Self::Regions => "regions",
            Self::Zones => "zones",
            Self::Priority => "priority",
            Self::Price => "price",
            Self::Spread => "spread",
        }
    }
}

/// A candidate's standing in one criterion: smaller is better. Two numbers, compared one after the other.
type Standing = (u64, u64);

/// What the criteria need to know of all candidates.
struct Field<'a> {
    demand: &'a Demand<'a>,
    rules: &'a Rules,
    by_region: BTreeMap<&'a RegionId, u64>,
}

/// Orders the candidates, best first.
pub(super) fn rank<'a>(
    views: Vec<View<'a>>,
    demand: &Demand<'_>,
    snapshot: &Snapshot,
    rules: &Rules,
    seed: u64,
) -> Vec<Ranked<'a>> {
    let field = Field { demand, rules, by_region: running_by_region(snapshot, demand) };
    let criteria = criteria(&views, demand);
    let standings: Vec<Vec<Standing>> =
        criteria.iter().map(|c| views.iter().map(|v| field.standing(*c, v)).collect()).collect();
    let ladders: Vec<Ladder> = standings.iter().map(|column| Ladder::new(column)).collect();
    let weights = weights(&ladders);
    let mut ranked = Vec::with_capacity(views.len());
    for (row, view) in views.iter().enumerate() {
        let mut terms = Vec::with_capacity(criteria.len());
        let (mut score, mut place) = (0_u64, Vec::with_capacity(criteria.len()));
        for (column, criterion) in criteria.iter().enumerate() {
            let (Some(ladder), Some(step)) = (ladders.get(column), weights.get(column)) else { continue };
            let standing = standings.get(column).and_then(|c| c.get(row)).copied().unwrap_or((u64::MAX, u64::MAX));
            let rank = ladder.rank(standing);
            let points = ladder.len().saturating_sub(rank);
            score = score.saturating_add(points.saturating_mul(*step));
            place.push(rank);
            terms.push(ScoreTerm {
                name: criterion.name().to_owned(),
                value: ratio(points, ladder.len()),
                weight: float(ladder.len().saturating_mul(*step)),
                why: field.why(*criterion, view),
            });
        }
        ranked.push((place, tie(seed, view), row, terms, score));
    }
    // Ranks first, then the seeded hash; the ids make the order total should two hashes ever be equal.
    ranked.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)).then_with(|| ids(&views, a.2).cmp(&ids(&views, b.2))));
    let order: Vec<(usize, Vec<ScoreTerm>, u64)> = ranked.into_iter().map(|r| (r.2, r.3, r.4)).collect();
    let mut views: Vec<Option<View<'a>>> = views.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|(row, terms, score)| {
            let view = views.get_mut(row)?.take()?;
            let candidate = candidate(&view, terms, score)?;
            Some(Ranked { view, candidate })
        })
        .collect()
}

fn candidate(view: &View<'_>, terms: Vec<ScoreTerm>, score: u64) -> Option<RankedCandidate> {
    Some(RankedCandidate {
        backend: view.backend.id.clone(),
        adapter: view.backend.adapter.clone(),
        region: view.backend.region.clone(),
        zone: view.zone?.zone.clone(),
        shape: view.shape.clone()?,
        price: view.price,
        score: float(score),
        terms,
    })
}

fn ids<'v>(views: &'v [View<'_>], row: usize) -> Option<(&'v str, Option<&'v str>)> {
    views.get(row).map(|v| (v.backend.id.as_str(), v.zone.map(|z| z.zone.as_str())))
}

fn tie(seed: u64, view: &View<'_>) -> u64 {
    mix(seed, &[view.backend.id.as_str(), view.zone.map_or("", |z| z.zone.as_str())])
}

/// The criteria that count for this demand, most important first.
fn criteria(views: &[View<'_>], demand: &Demand<'_>) -> Vec<Criterion> {
    use Criterion::{Fallback, LastResort, Price, Priority, Regions, Spread, Zones};
    let wishes = &demand.spec.placement;
    let order = match wishes.strategy {
        Strategy::Priority => [LastResort, Fallback, Regions, Zones, Priority, Price, Spread],
        Strategy::Cheapest => [LastResort, Fallback, Price, Regions, Zones, Priority, Spread],
        Strategy::Spread => [LastResort, Fallback, Spread, Regions, Zones, Priority, Price],
    };
    let counts = |c: &Criterion| match c {
        LastResort => views.iter().any(|v| !v.waived.is_empty()),
        Fallback => !wishes.fallback_order.is_empty(),
        Regions => !wishes.regions.is_empty(),
        Zones => !wishes.zones.is_empty(),
        Priority | Price | Spread => true,
    };
    order.into_iter().filter(counts).collect()
}

/// The tenant's instances by region; all backends of a region count, also those that are no candidates.
fn running_by_region<'a>(snapshot: &'a Snapshot, demand: &Demand<'_>) -> BTreeMap<&'a RegionId, u64> {
    let mut sums: BTreeMap<&RegionId, u64> = BTreeMap::new();
    for (key, count) in &demand.running {
        if let Some(backend) = snapshot.backends.iter().find(|b| b.id == key.backend) {
            let sum = sums.entry(&backend.region).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    sums
}

/// The distinct standings of a criterion, best first.
struct Ladder(Vec<Standing>);

impl Ladder {
    fn new(column: &[Standing]) -> Self {
        let mut steps = column.to_vec();
        steps.sort_unstable();
        steps.dedup();
        Self(steps)
    }

    fn rank(&self, standing: Standing) -> u64 {
        self.0.partition_point(|s| *s < standing) as u64
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Points per rank of each criterion: one more than all lesser criteria can give together.
fn weights(ladders: &[Ladder]) -> Vec<u64> {
    let mut lesser = 0_u64;
    let mut weights: Vec<u64> = ladders
        .iter()
        .rev()
        .map(|ladder| {
            let step = lesser.saturating_add(1);
            lesser = lesser.saturating_add(step.saturating_mul(ladder.len()));
            step
        })
        .collect();
    weights.reverse();
    weights
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53; the order of the list does not rest on it")]
fn float(n: u64) -> f64 {
    n as f64
}

/// `part / whole` with four decimals, so that it reads back from JSON as it was written.
fn ratio(part: u64, whole: u64) -> f64 {
    float(part.saturating_mul(10_000) / whole.max(1)) / 10_000.0
}

impl Field<'_> {
    fn standing(&self, criterion: Criterion, view: &View<'_>) -> Standing {
        let wishes = &self.demand.spec.placement;
        match criterion {
            Criterion::LastResort => {
                let end = memory_ends(view).map_or(0, Time::unix_ms);
                (u64::try_from(end).unwrap_or(0), 0)
            }
            Criterion::Fallback => (position(&wishes.fallback_order, &view.backend.id), 0),
            Criterion::Regions => (position(&wishes.regions, &view.backend.region), 0),
            Criterion::Zones => (view.zone.map_or(u64::MAX, |z| position(&wishes.zones, &z.zone)), 0),
            Criterion::Priority => (u64::from(self.priority(view)), 0),
            // An unknown price ranks behind every known one.
            Criterion::Price => view.price.map_or((1, 0), |p| (0, p.0)),
            Criterion::Spread => (self.in_region(view), self.in_zone(view)),
        }
    }

    fn why(&self, criterion: Criterion, view: &View<'_>) -> String {
        let wishes = &self.demand.spec.placement;
        match criterion {
            Criterion::LastResort => last_resort(view),
            Criterion::Fallback => match position(&wishes.fallback_order, &view.backend.id) {
                u64::MAX => "not named in the fallback order".to_owned(),
                n => format!("number {} of the fallback order", n + 1),
            },
            Criterion::Regions => format!("wish number {}", position(&wishes.regions, &view.backend.region) + 1),
            Criterion::Zones => {
                let place = view.zone.map_or(0, |z| position(&wishes.zones, &z.zone));
                format!("wish number {}", place.saturating_add(1))
            }
            Criterion::Priority => {
                let whose = if self.rules.priorities.contains_key(&view.backend.id) { "tenant's" } else { "backend's" };
                format!("the {whose} priority {}", self.priority(view))
            }
            Criterion::Price => view.price.map_or_else(|| "price unknown".to_owned(), |p| format!("{p} per hour")),
            Criterion::Spread => {
                format!(
                    "{} of the tenant's instances in the region, {} in the zone",
                    self.in_region(view),
                    self.in_zone(view)
                )
            }
        }
    }

    fn priority(&self, view: &View<'_>) -> u32 {
        self.rules.priorities.get(&view.backend.id).copied().unwrap_or(view.backend.priority)
    }

    fn in_region(&self, view: &View<'_>) -> u64 {
        self.by_region.get(&view.backend.region).copied().unwrap_or(0)
    }

    fn in_zone(&self, view: &View<'_>) -> u64 {
        view.key().and_then(|key| self.demand.running.get(&key)).copied().unwrap_or(0)
    }
}

/// When the last of the waived reasons ends.
fn memory_ends(view: &View<'_>) -> Option<Time> {
    view.waived.iter().filter_map(|(_, reason)| reason.until).max()
}

fn last_resort(view: &View<'_>) -> String {
    let reasons: Vec<String> = view
        .waived
        .iter()
        .map(|(filter, reason)| match reason.until {
            Some(until) => format!("{} until {until}", filter.as_str()),
            None => filter.as_str().to_owned(),
        })
        .collect();
    format!("{}; tried because nothing else is left", reasons.join(", "))
}

/// Place of the item in a list of wishes; the largest number when it is not there.
fn position<T: PartialEq>(wishes: &[T], item: &T) -> u64 {
    wishes.iter().position(|w| w == item).map_or(u64::MAX, |n| n as u64)
}
