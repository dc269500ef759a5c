//! The rim of placement: gathers the snapshot for one demand, calls the pure plan, and turns a dead end into the
//! answer the caller gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use meridian_adapters::{AdapterError, ResolvedSpec};
use meridian_ledger::Books;
use meridian_model::{
    error::{ErrorCode, FieldError, Problem, QuotaShortage},
    ids::{ProjectName, TenantId},
    instance::{CapacityType, InstanceSpec, Shape},
    operation::{Charge, Decision, OperationRecord},
    time::Time,
};
use meridian_policies::{
    health::{BreakerView, ShapeClass, ZoneKey},
    placement::{self, BackendView, DeadEnd, Demand, Divided, Rules, Snapshot, TenantQuota, ZoneView},
    quota::{
        self, Beside,
        parts::{self, Pots},
        spend,
        tree::{Class, Tree},
    },
};

use crate::{
    directory::Directory,
    journal::machine::Limits,
    profiles::Profiles,
    regions::Backend,
    status::{
        fleet::Fleet,
        poll::{Poller, Pollers},
    },
    telemetry::core::PLACEMENT_PLAN,
};

/// Refusals listed in an answer; a spec that meets more has the same few faults at every backend.
const REFUSALS_MAX: usize = 50;

/// Seconds after which a create that found every zone busy or shut is worth repeating.
const RETRY_SECONDS: u32 = 30;

/// Chooses candidates and resolves profiles.
#[derive(Debug)]
pub struct Planner {
    pollers: Pollers,
    fleet: Arc<Fleet>,
    profiles: Profiles,
    directory: Arc<Directory>,
    limits: Limits,
}

/// What is to be placed.
#[derive(Debug)]
pub struct Wish<'a> {
    /// For whom.
    pub tenant: &'a TenantId,
    /// What.
    pub spec: &'a InstanceSpec,
    /// What the tenant uses, without what this operation holds, and may use.
    pub quota: TenantQuota,
    /// Where it was tried already.
    pub tried: BTreeSet<ZoneKey>,
}

/// A plan, and the answer when it leads nowhere.
#[derive(Debug)]
pub struct Planned {
    /// Candidates and reasons.
    pub decision: Decision,
    /// Why there is no candidate.
    pub problem: Option<Problem>,
}

impl Planner {
    /// A planner over all backends.
    #[must_use]
    pub fn new(
        pollers: Pollers,
        fleet: Arc<Fleet>,
        profiles: Profiles,
        directory: Arc<Directory>,
        limits: Limits,
    ) -> Self {
        Self { pollers, fleet, profiles, directory, limits }
    }

    /// Whether the directory says what a tenant may use.
    #[must_use]
    pub fn knows(&self, tenant: &TenantId) -> bool {
        self.directory.load().tenant(tenant).is_some()
    }

    /// Ranks the zones that can take the instance.
    #[must_use]
    pub fn plan(&self, Wish { tenant, spec, quota, tried }: Wish<'_>, seed: u64, now: Time) -> Planned {
        let _span = tracing::info_span!(PLACEMENT_PLAN).entered();
        let counts = self.fleet.counts(Some(tenant));
        let running = counts.into_iter().map(|((backend, zone), n)| (ZoneKey::new(backend, zone), n as u64)).collect();
        let demand = Demand { running, tried, quota: Some(quota), ..Demand::new(spec) };
        let rules = self.directory.load().tenant(tenant).map(|t| Rules::from(&t.rules)).unwrap_or_default();
        let rules = Rules { attempts_default: self.limits.attempts_max, ..rules };
        // Another tenant's own account is none that could be explained.
        let open = self.pollers.all().into_iter().filter(|p| p.backend().serves(tenant));
        let snapshot = Snapshot { backends: open.map(|p| self.view(p, spec, now)).collect() };
        let decision = placement::plan(&demand, &snapshot, &rules, seed, now);
        tracing::debug!(
            meridian.candidates = decision.candidates.len(),
            meridian.rejected = decision.rejected.len(),
            "planned"
        );
        let problem = placement::dead_end(&decision).map(|end| {
            let shortage = placement::quota_shortage(&demand, &snapshot).filter(|_| end == DeadEnd::QuotaExceeded);
            shortage.map_or_else(|| explain(end, &decision), quota_problem)
        });
        Planned { decision, problem }
    }

    /// What placement needs to know of one backend for this spec.
    fn view(&self, poller: &Poller, spec: &InstanceSpec, now: Time) -> BackendView {
        let backend = poller.backend();
        let failing = if poller.is_failing() { BreakerView::HalfOpen } else { BreakerView::Closed };
        let shape = backend.capability.round_up(&spec.shape());
        let zones = backend.zones.iter().map(|zone| {
            let facts = backend.market.zone_facts(zone, now);
            let price = shape.as_ref().and_then(|s| Some((s, backend.market.price_view(zone, s)?.price_per_hour)));
            // Only on-demand prices are known; a spot price that nobody told rules nothing out.
            let class = |shape: &Shape| ShapeClass { shape: shape.clone(), capacity: CapacityType::OnDemand };
            let prices: BTreeMap<_, _> = price.iter().map(|(shape, price)| (class(shape), *price)).collect();
            ZoneView {
                zone: zone.clone(),
                network_profiles: self.profiles.networks_in(&backend.id, zone),
                on_sale: facts.on_sale,
                sold_out: facts.sold_out,
                ejected_until: facts.ejected_until,
                prices,
            }
        });
        let headroom = backend
            .market
            .usage()
            .map(|u| meridian_model::quantity::MilliCpu(u.cpu_max.0.saturating_sub(u.cpu_used.0)));
        BackendView {
            id: backend.id.clone(),
            adapter: backend.adapter.clone(),
            region: backend.region.clone(),
            capability: Arc::clone(&backend.capability),
            priority: backend.priority,
            breaker: worse(failing, worse(backend.breakers.state(true), backend.breakers.state(false))),
            throttled_until: backend.pace.throttled_for().map(|wait| now + wait),
            cordoned: false,
            account_headroom: headroom,
            image_profiles: self.profiles.images(),
            secret_profiles: self.profiles.secrets_at(&backend.id),
            zones: zones.collect(),
        }
    }

    /// What an operation must hold to walk through all candidates of its plan.
    #[must_use]
    pub fn charge(&self, record: &OperationRecord) -> Charge {
        let candidates = record.decision.as_ref().map(|d| d.candidates.as_slice()).unwrap_or_default();
        placement::charge_of(candidates, Beside::of(&record.spec))
    }

    /// The spec with every profile resolved for one backend.
    ///
    /// # Errors
    /// A profile has nothing for this backend.
    pub fn resolve(&self, backend: &Backend, spec: &InstanceSpec) -> Result<ResolvedSpec, AdapterError> {
        self.profiles.resolve(&backend.id, spec)
    }
}

/// A region that does not answer reads takes no creates either: nobody could see what became of them.
fn worse(one: BreakerView, other: BreakerView) -> BreakerView {
    match (one, other) {
        (BreakerView::Open { until: a }, BreakerView::Open { until: b }) => BreakerView::Open { until: a.max(b) },
        (open @ BreakerView::Open { .. }, _) | (_, open @ BreakerView::Open { .. }) => open,
        (BreakerView::HalfOpen, _) | (_, BreakerView::HalfOpen) => BreakerView::HalfOpen,
        (BreakerView::Closed, BreakerView::Closed) => BreakerView::Closed,
    }
}

/// The answer when the tenant's quota does not hold the instance.
#[must_use]
pub fn quota_problem(shortage: Box<QuotaShortage>) -> Problem {
    let QuotaShortage { dimension, node, limit, used, requested, borrowable, .. } = &*shortage;
    let budget = |text: &str| {
        let whose = node.as_ref().map_or_else(|| "the tenant".to_owned(), |node| format!("project {node}"));
        let detail = format!("the monthly budget of {whose} is {limit}, {text}");
        Problem { quota: Some(shortage.clone()), ..Problem::new(ErrorCode::QuotaExceeded, detail) }
    };
    if dimension == spend::BUDGET {
        return budget(&format!("of which {used} is spent or committed; it would cost {requested} more"));
    }
    if dimension == spend::LATER_BUDGET {
        return budget(&format!(
            "and what runs on takes {used} of each month to come; it would take {requested} more, unless its \
             activeDeadlineSeconds end it before"
        ));
    }
    let whose = node.as_ref().map_or_else(|| "the tenant's".to_owned(), |node| format!("project {node}'s"));
    let mut detail = format!("{whose} {dimension} quota of {limit} has {used} in use; {requested} more were asked for");
    if let Some(borrowable) = borrowable {
        detail.push_str(&format!(", and {borrowable} can be borrowed"));
    }
    Problem { quota: Some(shortage), ..Problem::new(ErrorCode::QuotaExceeded, detail) }
}

/// A tenant's quota as placement sees it, for an operation of a project that holds `own` of it.
#[must_use]
pub fn tenant_quota(books: Books, own: &Pots, project: Option<ProjectName>, class: Class) -> TenantQuota {
    let Books { usage, pots, tree, .. } = books;
    let used = quota::release(usage.used, parts::total(own.values()));
    // A tree that this version cannot read is left to the ledger.
    let tree = Tree::new(&tree).ok().filter(|tree| !tree.is_empty());
    let divided = tree.map(|tree| Arc::new(Divided { tree, pots, own: own.clone(), project, class }));
    TenantQuota { used, limits: usage.limits, divided }
}

/// The answer when a plan has no candidate.
fn explain(end: DeadEnd, decision: &Decision) -> Problem {
    let zones = decision.rejected.len();
    match end {
        DeadEnd::Unplaceable => {
            let mut errors: Vec<FieldError> = Vec::new();
            for rejection in decision.rejected.iter().flat_map(|r| &r.reasons) {
                let error = FieldError {
                    pointer: rejection.pointer.clone().unwrap_or_else(|| "/spec/placement".to_owned()),
                    code: rejection.filter.clone(),
                    detail: rejection.detail.clone(),
                    ..FieldError::default()
                };
                if errors.len() < REFUSALS_MAX && !errors.contains(&error) {
                    errors.push(error);
                }
            }
            Problem::new(ErrorCode::Unplaceable, format!("none of {zones} zones can run this spec as it is"))
                .with_errors(errors)
        }
        DeadEnd::NoCapacity | DeadEnd::RegionUnavailable | DeadEnd::QuotaExceeded => {
            Problem::new(end.code(), format!("all {zones} zones are ruled out for now; see :explain for every reason"))
                .with_retry_after(RETRY_SECONDS)
        }
    }
}
