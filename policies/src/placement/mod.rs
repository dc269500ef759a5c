//! Placement: which backends and zones can take an instance, in which order, and why not the others.
//!
//! [`plan`] is a pure function of the demand, one immutable snapshot, the tenant's rules and a seed. The order of
//! backends and zones in the snapshot does not matter: candidates are compared by what they are, and true ties
//! are broken by a seeded hash of their names, so that replicas with different seeds spread their load.
//!
//! 1. *Filters* ([`filter`]): every zone gets every reason against it, not only the first.
//! 2. *Second chance*: memory of stock, ejection and our own pacing are soft. If no zone is without a reason,
//!    those with only soft ones come back, marked by the term `last-resort`: a create is never refused from
//!    memory alone. An open breaker is not soft; probes find out when it may close.
//! 3. *Scores* ([`score`]): the strategy's criteria in order of importance; a more important one always
//!    outweighs all lesser ones together.
//! 4. *Attempt limit*: candidates past `maxAttempts` are listed as rejected with `attempt-limit`.

pub mod filter;
pub mod score;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use meridian_model::{
    capability::Capability,
    error::{ErrorCode, QuotaShortage},
    ids::{AdapterName, BackendId, ProfileName, ProjectName, RegionId, ZoneId},
    instance::{InstanceSpec, Shape},
    operation::{Charge, Decision, QuotaLimits, RankedCandidate, RejectedCandidate, Rejection},
    quantity::{MilliCpu, PricePerHour},
    time::Time,
    validate::ATTEMPTS_MAX,
};

pub use crate::health::{BreakerView, ShapeClass, ZoneKey};
use crate::{
    quota::{
        self, Beside,
        parts::{Pot, Pots},
        tree::{Class, Tree},
    },
    tenant::{Allow, TenantRules},
};
use filter::{Filter, View};

/// Attempts of one create when nobody says: enough for two regions of three zones.
pub const ATTEMPTS_DEFAULT: u32 = 6;

/// What is asked for, and what only the asking tenant knows.
#[derive(Debug, Clone)]
pub struct Demand<'a> {
    /// The admitted spec.
    pub spec: &'a InstanceSpec,
    /// The tenant's quota; none to leave it to the ledger alone.
    pub quota: Option<TenantQuota>,
    /// Zones this operation has tried; each counts as one attempt.
    pub tried: BTreeSet<ZoneKey>,
    /// The tenant's live instances by zone, for strategy `spread`.
    pub running: BTreeMap<ZoneKey, u64>,
}

impl<'a> Demand<'a> {
    /// A first plan for a spec, with neither quota nor history.
    #[must_use]
    pub fn new(spec: &'a InstanceSpec) -> Self {
        Self { spec, quota: None, tried: BTreeSet::new(), running: BTreeMap::new() }
    }
}

/// A tenant's quota as placement sees it; the ledger decides, this only saves a trip and explains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantQuota {
    /// Usage and reservations of the tenant, without what this operation itself holds.
    pub used: Charge,
    /// Limits.
    pub limits: QuotaLimits,
    /// How it is divided among projects and places; none when it is not.
    pub divided: Option<Arc<Divided>>,
}

/// A tenant's quota tree with what is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Divided {
    /// The tree.
    pub tree: Tree,
    /// What is used where.
    pub pots: Pots,
    /// What of that this operation holds.
    pub own: Pots,
    /// Whose it is.
    pub project: Option<ProjectName>,
    /// What it may use.
    pub class: Class,
}

impl Divided {
    /// Whether the tree holds a charge at a backend.
    ///
    /// # Errors
    /// What it lacks.
    pub fn holds(&self, backend: &BackendView, shape: &Shape, charge: Charge) -> Result<(), Box<QuotaShortage>> {
        let pot = Pot {
            project: self.project.clone(),
            provider: Some(backend.adapter.clone()),
            region: Some(backend.region.clone()),
            gpu_model: shape.gpu_type.clone().filter(|_| shape.gpu_count > 0),
        };
        self.tree.admit(&self.pots, &self.own, &[(pot, charge)].into(), self.class)
    }
}

/// The world at one moment. It holds nothing of any tenant, so one snapshot serves all.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The backends, in any order; ids are unique.
    pub backends: Vec<BackendView>,
}

/// One backend.
#[derive(Debug, Clone)]
pub struct BackendView {
    /// Its id.
    pub id: BackendId,
    /// Its adapter.
    pub adapter: AdapterName,
    /// Its region.
    pub region: RegionId,
    /// What its adapter can do and sells.
    pub capability: Arc<Capability>,
    /// The operator's priority; smaller is preferred.
    pub priority: u32,
    /// Breaker of the calls that create.
    pub breaker: BreakerView,
    /// Until when our own pacing or the vendor's throttling holds creates back.
    pub throttled_until: Option<Time>,
    /// Taken out of service by the operator.
    pub cordoned: bool,
    /// vCPU left of the vendor account's quota; none when unknown.
    pub account_headroom: Option<MilliCpu>,
    /// Image profiles that resolve here.
    pub image_profiles: BTreeSet<ProfileName>,
    /// Secret profiles that resolve here.
    pub secret_profiles: BTreeSet<ProfileName>,
    /// Its zones, in any order; ids are unique within the backend.
    pub zones: Vec<ZoneView>,
}

/// One zone of a backend.
#[derive(Debug, Clone)]
pub struct ZoneView {
    /// The zone.
    pub zone: ZoneId,
    /// Network profiles with a subnet in this zone.
    pub network_profiles: BTreeSet<ProfileName>,
    /// Whether the vendor sells container instances here; none when unknown, which does not rule it out.
    pub on_sale: Option<bool>,
    /// Until when which size is believed sold out ([`crate::health::SoldOutMemory::in_zone`], stock queries).
    pub sold_out: BTreeMap<ShapeClass, Time>,
    /// Until when the zone is ejected as an outlier.
    pub ejected_until: Option<Time>,
    /// Prices by size and capacity type, all backends in one currency; unknown ones rank last by price.
    pub prices: BTreeMap<ShapeClass, PricePerHour>,
}

impl ZoneView {
    /// A zone of which nothing is known but the profiles that reach it.
    #[must_use]
    pub fn new(zone: ZoneId, network_profiles: BTreeSet<ProfileName>) -> Self {
        Self {
            zone,
            network_profiles,
            on_sale: None,
            sold_out: BTreeMap::new(),
            ejected_until: None,
            prices: BTreeMap::new(),
        }
    }
}

/// What the tenant's operator allows in placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Regions that may be used.
    pub regions: Allow<RegionId>,
    /// Adapters that may be used.
    pub providers: Allow<AdapterName>,
    /// Priorities before the backends' own; smaller is preferred.
    pub priorities: BTreeMap<BackendId, u32>,
    /// Attempts of a spec that does not say.
    pub attempts_default: u32,
    /// Most attempts, also of a spec that asks for more.
    pub attempts_max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            regions: Allow::Any,
            providers: Allow::Any,
            priorities: BTreeMap::new(),
            attempts_default: ATTEMPTS_DEFAULT,
            attempts_max: ATTEMPTS_MAX,
        }
    }
}

impl From<&TenantRules> for Rules {
    fn from(tenant: &TenantRules) -> Self {
        Self {
            regions: tenant.regions.clone(),
            providers: tenant.providers.clone(),
            priorities: tenant.priorities.clone(),
            attempts_default: ATTEMPTS_DEFAULT,
            attempts_max: tenant.attempts_max.unwrap_or(ATTEMPTS_MAX),
        }
    }
}

/// Ranks the zones that can take the instance and says why not of all others.
///
/// Every zone of the snapshot is in exactly one of the two lists; a backend without zones is rejected as a whole.
/// The same arguments give the same decision, whatever the order of backends and zones.
#[must_use]
pub fn plan(demand: &Demand<'_>, snapshot: &Snapshot, rules: &Rules, seed: u64, now: Time) -> Decision {
    let mut views = filter::views(demand, snapshot, rules, now);
    if !views.iter().any(|v| v.reasons.is_empty()) {
        for view in &mut views {
            view.second_chance();
        }
    }
    let (fit, mut lost): (Vec<View<'_>>, Vec<View<'_>>) = views.into_iter().partition(|v| v.reasons.is_empty());
    let wished = demand.spec.placement.max_attempts.unwrap_or(rules.attempts_default).min(rules.attempts_max);
    let left = usize::try_from(wished).unwrap_or(usize::MAX).saturating_sub(demand.tried.len());
    let mut candidates = Vec::new();
    for ranked in score::rank(fit, demand, snapshot, rules, seed) {
        if candidates.len() < left {
            candidates.push(ranked.candidate);
        } else {
            let mut view = ranked.view;
            view.reject(Filter::AttemptLimit, format!("at most {wished} attempts, and better candidates use them up"));
            lost.push(view);
        }
    }
    let mut rejected: Vec<RejectedCandidate> = lost.into_iter().map(View::into_rejected).collect();
    rejected.sort_by(|a, b| (&a.backend, &a.zone).cmp(&(&b.backend, &b.zone)));
    Decision { at: now, seed, candidates, rejected }
}

/// Whether only memory or pacing speaks against it: worth a try when nothing else is left.
#[must_use]
pub fn is_only_soft(rejected: &RejectedCandidate) -> bool {
    let is_soft = |x: &Rejection| Filter::ALL.iter().any(|f| f.is_soft() && x.filter == f.as_str());
    rejected.zone.is_some() && rejected.reasons.iter().all(is_soft)
}

/// Why a decision has no candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadEnd {
    /// No backend could run it at any time: the spec, its wishes or the tenant's rules exclude every zone.
    Unplaceable,
    /// Every zone that could run it needs more than the tenant's quota has left.
    QuotaExceeded,
    /// Every zone that could run it is behind an open breaker.
    RegionUnavailable,
    /// Some zone could run it, but not now.
    NoCapacity,
}

impl DeadEnd {
    /// The public code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Unplaceable => ErrorCode::Unplaceable,
            Self::QuotaExceeded => ErrorCode::QuotaExceeded,
            Self::RegionUnavailable => ErrorCode::RegionUnavailable,
            Self::NoCapacity => ErrorCode::NoCapacity,
        }
    }
}

/// Tells why there is no candidate; none when there is one.
#[must_use]
pub fn dead_end(decision: &Decision) -> Option<DeadEnd> {
    if !decision.candidates.is_empty() {
        return None;
    }
    let has = |r: &RejectedCandidate, filter: Filter| r.reasons.iter().any(|x| x.filter == filter.as_str());
    let is_permanent = |x: &Rejection| Filter::ALL.iter().any(|f| f.is_permanent() && x.filter == f.as_str());
    let possible: Vec<&RejectedCandidate> =
        decision.rejected.iter().filter(|r| r.zone.is_some() && !r.reasons.iter().any(is_permanent)).collect();
    Some(if possible.is_empty() {
        DeadEnd::Unplaceable
    } else if possible.iter().all(|r| has(r, Filter::TenantQuota)) {
        DeadEnd::QuotaExceeded
    } else if possible.iter().all(|r| has(r, Filter::BreakerOpen)) {
        DeadEnd::RegionUnavailable
    } else {
        DeadEnd::NoCapacity
    })
}

/// The shortage of the smallest size that the quota does not hold, for the answer to [`DeadEnd::QuotaExceeded`].
#[must_use]
pub fn quota_shortage(demand: &Demand<'_>, snapshot: &Snapshot) -> Option<Box<QuotaShortage>> {
    let tenant = demand.quota.as_ref()?;
    let wish = demand.spec.shape();
    let beside = Beside::of(demand.spec);
    let mut shapes: Vec<_> = snapshot.backends.iter().filter_map(|b| b.capability.round_up(&wish)).collect();
    shapes.sort();
    let short = |s| quota::charge(tenant.used, quota::charge_of(s, beside), &tenant.limits).err();
    let divided = tenant.divided.as_ref();
    let at = |backend: &BackendView, zone: &ZoneView| {
        let shape = backend.capability.round_up(&wish)?;
        let class = ShapeClass { shape, capacity: demand.spec.capacity.kind };
        let charge = quota::charge_of(&class.shape, beside.at(zone.prices.get(&class).copied()));
        divided?.holds(backend, &class.shape, charge).err()
    };
    let places = || snapshot.backends.iter().flat_map(|b| b.zones.iter().map(move |z| (b, z)));
    shapes.iter().find_map(short).or_else(|| places().find_map(|(b, z)| at(b, z)))
}

/// The largest charge of any candidate: what an operation must hold to walk through all of them.
#[must_use]
pub fn charge_of(candidates: &[RankedCandidate], beside: Beside) -> Charge {
    let of = |c: &RankedCandidate| quota::charge_of(&c.shape, beside.at(c.price));
    candidates.iter().fold(Charge::default(), |most, c| quota::max(most, of(c)))
}

#[cfg(test)]
mod tests;
