//! The filters: everything that speaks against a zone.
//!
//! A filter is *permanent* when only another spec, another wish or another rule would lift it, *soft* when it rests
//! on what we remember rather than on what is known now, and else *temporary*.

use meridian_model::{
    error::QuotaShortage,
    ids::ZoneId,
    instance::{CapacityType, InstanceSpec, Shape},
    operation::{RejectedCandidate, Rejection},
    quantity::PricePerHour,
    time::Time,
};

use super::{BackendView, BreakerView, Demand, Rules, ShapeClass, Snapshot, ZoneKey, ZoneView};
use crate::quota::{self, Beside};

/// Why a zone is ruled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// The spec names other regions.
    RegionNotWished,
    /// The spec names other zones.
    ZoneNotWished,
    /// The spec names other adapters.
    ProviderNotWished,
    /// The tenant may not use the region or adapter.
    Policy,
    /// The adapter cannot honour a field of the spec.
    Unsupported,
    /// The vendor sells no size that holds the wish.
    NoSize,
    /// The network profile has no subnet in the zone.
    NoNetwork,
    /// The image or a secret profile does not resolve at the backend.
    NoProfile,
    /// The vendor does not sell here now.
    ZoneClosed,
    /// The operator took the backend out of service.
    Cordoned,
    /// The circuit breaker is open.
    BreakerOpen,
    /// The vendor account's quota does not hold it.
    AccountQuota,
    /// The tenant's quota does not hold this vendor's size.
    TenantQuota,
    /// The market price is above the spec's cap.
    SpotPrice,
    /// This operation has tried the zone.
    AlreadyTried,
    /// Sold out, as far as we remember.
    SoldOut,
    /// Ejected as an outlier.
    Ejected,
    /// Creates are held back by pacing.
    Throttled,
    /// Good, but the attempts are used up by better ones.
    AttemptLimit,
}

impl Filter {
    /// Every filter, in the order in which reasons are listed.
    pub const ALL: [Self; 19] = [
        Self::RegionNotWished,
        Self::ZoneNotWished,
        Self::ProviderNotWished,
        Self::Policy,
        Self::Unsupported,
        Self::NoSize,
        Self::NoNetwork,
        Self::NoProfile,
        Self::ZoneClosed,
        Self::Cordoned,
        Self::BreakerOpen,
        Self::AccountQuota,
        Self::TenantQuota,
        Self::SpotPrice,
        Self::AlreadyTried,
        Self::SoldOut,
        Self::Ejected,
        Self::Throttled,
        Self::AttemptLimit,
    ];

    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RegionNotWished => "region-not-wished",
            Self::ZoneNotWished => "zone-not-wished",
            Self::ProviderNotWished => "provider-not-wished",
            Self::Policy => "policy",
            Self::Unsupported => "unsupported",
            Self::NoSize => "no-size",
            Self::NoNetwork => "no-network",
            Self::NoProfile => "no-profile",
            Self::ZoneClosed => "zone-closed",
            Self::Cordoned => "cordoned",
            Self::BreakerOpen => "breaker-open",
            Self::AccountQuota => "account-quota",
            Self::TenantQuota => "tenant-quota",
            Self::SpotPrice => "spot-price",
            Self::AlreadyTried => "already-tried",
            Self::SoldOut => "sold-out",
            Self::Ejected => "ejected",
            Self::Throttled => "throttled",
            Self::AttemptLimit => "attempt-limit",
        }
    }

    /// Waiting does not help: only another spec, wish, rule or configuration would.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::RegionNotWished
                | Self::ZoneNotWished
                | Self::ProviderNotWished
                | Self::Policy
                | Self::Unsupported
                | Self::NoSize
                | Self::NoNetwork
                | Self::NoProfile
        )
    }

    /// It rests on memory or pacing, and must not be the only reason of a refusal.
    #[must_use]
    pub const fn is_soft(self) -> bool {
        matches!(self, Self::SoldOut | Self::Ejected | Self::Throttled)
    }
}

/// One zone (or a backend without zones) with everything against it.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    pub(super) backend: &'a BackendView,
    pub(super) zone: Option<&'a ZoneView>,
    pub(super) shape: Option<Shape>,
    pub(super) price: Option<PricePerHour>,
    pub(super) reasons: Vec<(Filter, Rejection)>,
    /// Soft reasons that were set aside because nothing else was left.
    pub(super) waived: Vec<(Filter, Rejection)>,
}

impl View<'_> {
    pub(super) fn reject(&mut self, filter: Filter, detail: impl Into<String>) {
        self.reject_with(filter, detail, None, None);
    }

    fn reject_at(&mut self, filter: Filter, detail: impl Into<String>, pointer: impl Into<String>) {
        self.reject_with(filter, detail, Some(pointer.into()), None);
    }

    fn reject_until(&mut self, filter: Filter, detail: impl Into<String>, until: Time) {
        self.reject_with(filter, detail, None, Some(until));
    }

    fn reject_with(&mut self, filter: Filter, detail: impl Into<String>, pointer: Option<String>, until: Option<Time>) {
        let reason = Rejection { filter: filter.as_str().to_owned(), detail: detail.into(), pointer, until };
        self.reasons.push((filter, reason));
    }

    /// Sets the reasons aside if all of them are soft.
    pub(super) fn second_chance(&mut self) {
        if self.zone.is_some() && self.reasons.iter().all(|(filter, _)| filter.is_soft()) {
            self.waived = std::mem::take(&mut self.reasons);
        }
    }

    pub(super) fn key(&self) -> Option<ZoneKey> {
        self.zone.map(|z| ZoneKey::new(self.backend.id.clone(), z.zone.clone()))
    }

    pub(super) fn into_rejected(mut self) -> RejectedCandidate {
        // A waived reason comes back when the zone is rejected after all.
        self.reasons.extend(self.waived);
        self.reasons.sort_by_key(|(filter, _)| *filter);
        RejectedCandidate {
            backend: self.backend.id.clone(),
            adapter: self.backend.adapter.clone(),
            region: self.backend.region.clone(),
            zone: self.zone.map(|z| z.zone.clone()),
            reasons: self.reasons.into_iter().map(|(_, reason)| reason).collect(),
        }
    }
}

/// Looks at every zone of every backend.
pub(super) fn views<'a>(demand: &Demand<'_>, snapshot: &'a Snapshot, rules: &Rules, now: Time) -> Vec<View<'a>> {
    let mut views = Vec::new();
    for backend in &snapshot.backends {
        let shape = backend.capability.round_up(&demand.spec.shape());
        let mut base = View { backend, zone: None, shape, price: None, reasons: Vec::new(), waived: Vec::new() };
        check_wishes(&mut base, demand.spec, rules);
        check_capability(&mut base, demand.spec);
        check_backend(&mut base, demand, now);
        if backend.zones.is_empty() {
            base.reject(Filter::NoNetwork, "no zone of the backend is configured");
            views.push(base);
            continue;
        }
        for zone in &backend.zones {
            let mut view = View { zone: Some(zone), ..base.clone() };
            check_zone(&mut view, zone, demand, now);
            views.push(view);
        }
    }
    views
}

fn check_wishes(view: &mut View<'_>, spec: &InstanceSpec, rules: &Rules) {
    let backend = view.backend;
    let wishes = &spec.placement;
    if !wishes.regions.is_empty() && !wishes.regions.contains(&backend.region) {
        let detail = format!("region {} is not among the wished ones", backend.region);
        view.reject_at(Filter::RegionNotWished, detail, "/spec/placement/regions");
    }
    if !wishes.providers.is_empty() && !wishes.providers.contains(&backend.adapter) {
        let detail = format!("provider {} is not among the wished ones", backend.adapter);
        view.reject_at(Filter::ProviderNotWished, detail, "/spec/placement/providers");
    }
    if !rules.regions.allows(&backend.region) {
        view.reject(Filter::Policy, format!("the tenant may not use region {}", backend.region));
    }
    if !rules.providers.allows(&backend.adapter) {
        view.reject(Filter::Policy, format!("the tenant may not use provider {}", backend.adapter));
    }
}

/// Where [`meridian_model::capability::Capability::refusals`] points when no size fits.
const SIZE_POINTER: &str = "/spec/resources";

fn check_capability(view: &mut View<'_>, spec: &InstanceSpec) {
    let backend = view.backend;
    for refusal in backend.capability.refusals(spec) {
        let no_size = view.shape.is_none() && refusal.pointer == SIZE_POINTER;
        let filter = if no_size { Filter::NoSize } else { Filter::Unsupported };
        view.reject_at(filter, refusal.reason, refusal.pointer);
    }
    if let Some(profile) = spec.image_profile.as_ref().filter(|p| !backend.image_profiles.contains(*p)) {
        let detail = format!("image profile {profile} has no entry for backend {}", backend.id);
        view.reject_at(Filter::NoProfile, detail, "/spec/imageProfile");
    }
    for (i, secret) in spec.image_pull_secrets.iter().enumerate() {
        if !backend.secret_profiles.contains(&secret.name) {
            let detail = format!("secret profile {} has no entry for backend {}", secret.name, backend.id);
            view.reject_at(Filter::NoProfile, detail, format!("/spec/imagePullSecrets/{i}"));
        }
    }
}

fn check_backend(view: &mut View<'_>, demand: &Demand<'_>, now: Time) {
    let backend = view.backend;
    if backend.cordoned {
        view.reject(Filter::Cordoned, "the operator took the backend out of service");
    }
    match backend.breaker {
        BreakerView::Closed => {}
        BreakerView::Open { until } => {
            view.reject_until(Filter::BreakerOpen, "too many faults; no call is made", until);
        }
        BreakerView::HalfOpen => view.reject(Filter::BreakerOpen, "recovering from faults; only probes are made"),
    }
    if let Some(until) = backend.throttled_until.filter(|until| *until > now) {
        view.reject_until(Filter::Throttled, "creates are held back to keep the vendor's rate", until);
    }
    let Some(shape) = view.shape.clone() else { return };
    if let Some(left) = backend.account_headroom.filter(|left| *left < shape.cpu) {
        let detail = format!("the vendor account has {left} vCPU left of its quota; {} are needed", shape.cpu);
        view.reject(Filter::AccountQuota, detail);
    }
    if let Some(tenant) = &demand.quota {
        let cost = quota::charge_of(&shape, Beside::of(demand.spec));
        if let Err(short) = quota::charge(tenant.used, cost, &tenant.limits) {
            let detail = format!(
                "{} quota of {}: {} used, {} more needed",
                short.dimension, short.limit, short.used, short.requested
            );
            view.reject(Filter::TenantQuota, detail);
        }
    }
}

fn check_zone(view: &mut View<'_>, zone: &ZoneView, demand: &Demand<'_>, now: Time) {
    let spec = demand.spec;
    check_zone_wish(view, &zone.zone, spec);
    match &spec.network.profile {
        Some(profile) if !zone.network_profiles.contains(profile) => {
            let detail = format!("network profile {profile} has no subnet in zone {}", zone.zone);
            view.reject_at(Filter::NoNetwork, detail, "/spec/network/profile");
        }
        None if zone.network_profiles.is_empty() => {
            view.reject(Filter::NoNetwork, format!("no network profile has a subnet in zone {}", zone.zone));
        }
        Some(_) | None => {}
    }
    if zone.on_sale == Some(false) {
        view.reject(Filter::ZoneClosed, "the vendor does not sell container instances in this zone now");
    }
    if let Some(until) = zone.ejected_until.filter(|until| *until > now) {
        view.reject_until(Filter::Ejected, "calls for this zone failed again and again", until);
    }
    if view.key().is_some_and(|key| demand.tried.contains(&key)) {
        view.reject(Filter::AlreadyTried, "this operation has tried the zone");
    }
    let Some(shape) = view.shape.clone() else { return };
    let class = ShapeClass { shape, capacity: spec.capacity.kind };
    if let Some(until) = zone.sold_out.get(&class).copied().filter(|until| *until > now) {
        view.reject_until(Filter::SoldOut, "sold out when last tried", until);
    }
    view.price = zone.prices.get(&class).copied();
    if let Some(divided) = demand.quota.as_ref().and_then(|tenant| tenant.divided.as_ref()) {
        if view.price.is_none() && divided.tree.needs_price(divided.project.as_ref()) {
            view.reject(Filter::TenantQuota, "its price is not known, and the tenant's money is limited");
        }
        let charge = quota::charge_of(&class.shape, Beside::of(spec).at(view.price));
        if let Err(short) = divided.holds(view.backend, &class.shape, charge) {
            let whose = short.node.as_ref().map(|node| format!(" of project {node}")).unwrap_or_default();
            let QuotaShortage { dimension, limit, used, requested, .. } = &*short;
            let detail = format!("{dimension} quota{whose} of {limit}: {used} used, {requested} more needed");
            view.reject(Filter::TenantQuota, detail);
        }
    }
    let cap = spec.capacity.max_price_per_hour.filter(|_| spec.capacity.kind == CapacityType::Spot);
    if let (Some(price), Some(cap)) = (view.price, cap)
        && price > cap
    {
        let detail = format!("the market price is {price} per hour, the spec pays {cap} at most");
        view.reject_at(Filter::SpotPrice, detail, "/spec/capacity/maxPricePerHour");
    }
}

fn check_zone_wish(view: &mut View<'_>, zone: &ZoneId, spec: &InstanceSpec) {
    let wished = &spec.placement.zones;
    if !wished.is_empty() && !wished.contains(zone) {
        view.reject_at(
            Filter::ZoneNotWished,
            format!("zone {zone} is not among the wished ones"),
            "/spec/placement/zones",
        );
    }
}
