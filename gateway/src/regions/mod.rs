//! One boxed stack per backend, and what the gateway has learned about each.
//!
//! ```text
//! retry      repeats writes that certainly were not applied, within a budget; hears of refused credentials
//! pace       the call's turn in the vendor's budget, and calls under way; outside the breaker so that they never count as the region's faults
//! breaker    closed passes, open refuses, half-open lets one read probe
//! attempt    the adapter with a timeout; after the first byte a timeout of a write means unknown
//! ```

pub mod attempt;
pub mod breaker;
pub mod budget;
pub mod build;
pub mod market;
pub mod pace;
pub mod retry;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meridian_adapters::{
    AccountUsage, AdapterError, Call, CallContext, CreateCall, Cursor, Page, PriceQuery, Reply, Request, VendorAction,
    ZoneReport,
};
use meridian_model::{
    bugs,
    capability::{Capability, Feature},
    error::{Effect, FaultKind},
    ids::{AccountName, AdapterName, BackendId, CloudId, CloudName, RegionId, TenantId, ZoneId},
    instance::Shape,
    quantity::PricePerHour,
    status::{Observed, ObservedEvent},
    time::Time,
};
use meridian_policies::budget::Purpose;
use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};
use tracing::{Instrument as _, field};

use self::{
    attempt::AttemptTimeoutLayer,
    breaker::{BreakerLayer, Breakers},
    budget::Budget,
    market::{Market, PriceBook},
    pace::{CreateTurn, Envelope, Pace, PaceLayer, PaceParts},
    retry::RetryLayer,
};
use crate::{
    clock::{Clock, Entropy},
    journal::identity::Deployment,
    secrets::rotate::Slot,
    status::fleet::Counts,
    telemetry::core::{CoreMetrics, REGION_CALL},
    views,
};

/// The stages of a region stack in the order in which a call meets them.
pub const STAGES: [&str; 4] = ["retry", "pace", "breaker", "attempt"];

/// A region stack, its type hidden.
pub type RegionService = BoxCloneSyncService<Envelope, Reply, AdapterError>;

/// One account in one region, with its stack and what was learned of it.
pub struct Backend {
    /// The operator's name for it.
    pub id: BackendId,
    /// Its adapter.
    pub adapter: AdapterName,
    /// Its region.
    pub region: RegionId,
    /// The operator's preference; smaller is tried first.
    pub priority: u32,
    /// What it can do.
    pub capability: Arc<Capability>,
    /// Tenants whose own account it is; all tenants' when empty.
    tenants: BTreeSet<TenantId>,
    /// Zones that a network profile reaches.
    pub zones: BTreeSet<ZoneId>,
    /// Stock, prices, zones and usage as far as known.
    pub market: Market,
    /// Its circuit breakers.
    pub breakers: Arc<Breakers>,
    /// Our own limits towards it.
    pub pace: Arc<Pace>,
    service: RegionService,
    clock: Clock,
    entropy: Entropy,
    call_timeout: Duration,
    read_timeout: Duration,
    deployment: Deployment,
    metrics: Arc<CoreMetrics>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("id", &self.id).field("adapter", &self.adapter).finish_non_exhaustive()
    }
}

/// What a backend is built from.
#[derive(Debug)]
pub struct BackendParts {
    /// The operator's name for it.
    pub id: BackendId,
    /// Its adapter.
    pub adapter: AdapterName,
    /// Its region.
    pub region: RegionId,
    /// The operator's preference.
    pub priority: u32,
    /// Tenants whose own account it is; all tenants' when empty.
    pub tenants: BTreeSet<TenantId>,
    /// The operator's name of its vendor account.
    pub account: AccountName,
    /// Calls per second and action that we allow ourselves; a part of what the vendor publishes when nothing is set.
    pub calls_per_second: Option<u32>,
    /// What the process may send to vendors.
    pub budget: Budget,
    /// Prices where the vendor tells none.
    pub price_book: Option<PriceBook>,
    /// Zones that a network profile reaches.
    pub zones: BTreeSet<ZoneId>,
    /// What the configured adapter can do.
    pub capability: Arc<Capability>,
    /// By what its vendor counts calls.
    pub actions: &'static [VendorAction],
    /// Where the adapter stands.
    pub slot: Slot,
    /// Longest time of one call that changes something.
    pub call_timeout: Duration,
    /// Longest time of one call that reads.
    pub read_timeout: Duration,
    /// Recognises our instances.
    pub deployment: Deployment,
    /// Wall clock.
    pub clock: Clock,
    /// Randomness for nonces.
    pub entropy: Entropy,
    /// Counts calls.
    pub metrics: Arc<CoreMetrics>,
}

impl Backend {
    /// Builds the stack.
    #[must_use]
    pub fn new(parts: BackendParts) -> Self {
        let seed = u64::try_from(parts.entropy.next() & u128::from(u64::MAX)).unwrap_or_default();
        let breakers = Arc::new(Breakers::new(parts.clock.clone(), seed));
        let pace = PaceParts {
            account: &parts.account,
            region: &parts.region,
            actions: parts.actions,
            calls_per_second: parts.calls_per_second,
        };
        let pace = Arc::new(Pace::new(&pace, &parts.budget));
        let stack = ServiceBuilder::new()
            // Outermost: each repetition takes its own turn and its own look at the breaker.
            .layer(RetryLayer::new(parts.slot.clone()))
            // Outside the breaker: waiting for our own turn says nothing about the region.
            .layer(PaceLayer(Arc::clone(&pace)))
            .layer(BreakerLayer(Arc::clone(&breakers)))
            // Innermost: only here is it known whether a byte may have left.
            .layer(AttemptTimeoutLayer)
            .service(parts.slot);
        Self {
            market: Market::new(parts.id.clone(), parts.zones.clone(), parts.price_book),
            id: parts.id,
            adapter: parts.adapter,
            region: parts.region,
            priority: parts.priority,
            capability: parts.capability,
            tenants: parts.tenants,
            zones: parts.zones,
            breakers,
            pace,
            service: BoxCloneSyncService::new(stack),
            clock: parts.clock,
            entropy: parts.entropy,
            call_timeout: parts.call_timeout,
            read_timeout: parts.read_timeout,
            deployment: parts.deployment,
            metrics: parts.metrics,
        }
    }

    /// Where this backend's calls are counted.
    #[must_use]
    pub fn metrics(&self) -> &CoreMetrics {
        &self.metrics
    }

    /// Whether a tenant may be placed there, and may know of it.
    #[must_use]
    pub fn serves(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.contains(tenant)
    }

    /// Whether a cloud name is one that this deployment gives.
    #[must_use]
    pub fn is_ours(&self, name: &str) -> bool {
        self.deployment.identify(name).is_some()
    }

    /// Whether a repeated create under one token is one instance.
    #[must_use]
    pub fn honours_tokens(&self) -> bool {
        self.capability.has(Feature::ClientToken) || bugs::planted(bugs::RESEND_BLIND)
    }

    /// Longest time in which a sent create may still take effect and become visible.
    #[must_use]
    pub fn effect_bound(&self) -> Duration {
        Duration::from_millis(self.capability.effect_bound_ms)
    }

    async fn read(&self, request: Request, purpose: &Purpose) -> Result<Reply, AdapterError> {
        self.call(request, self.clock.now(), (purpose, None)).await
    }

    async fn call(
        &self,
        request: Request,
        signed_at: Time,
        (purpose, turn): (&Purpose, Option<&CreateTurn>),
    ) -> Result<Reply, AdapterError> {
        let timeout = if request.is_write() { self.call_timeout } else { self.read_timeout };
        let at = CallContext { signed_at, nonce: self.entropy.next(), timeout };
        let verb = request.verb();
        let started = tokio::time::Instant::now();
        let span = tracing::info_span!(
            REGION_CALL,
            otel.kind = "client",
            cloud.region = %self.region,
            meridian.backend = %self.id,
            meridian.verb = verb,
            meridian.effect = field::Empty,
            error.r#type = field::Empty,
        );
        let mut service = self.service.clone();
        let sent = async {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            let (purpose, turn) = (purpose.clone(), turn.and_then(CreateTurn::permit));
            service.call(Envelope { call: Call { at, request }, purpose, turn }).await
        };
        let result = sent.instrument(span.clone()).await;
        if let Err(error) = &result {
            span.record(
                "meridian.effect",
                match error.effect {
                    Effect::NotApplied => "not-applied",
                    Effect::Unknown => "unknown",
                },
            );
            span.record("error.type", error.kind.as_str());
            tracing::debug!(parent: &span, backend = %self.id, verb, %error, "vendor call failed");
            if error.kind == FaultKind::Unexpected {
                self.metrics.unexpected(self.id.as_str());
            }
        } else {
            span.record("meridian.effect", "applied");
        }
        let outcome = result.as_ref().map_or_else(|e| e.kind.as_str(), |_| "ok");
        self.metrics.call(self.id.as_str(), verb, outcome, started.elapsed());
        result
    }

    /// Creates an instance; its request is signed with the time at which the attempt was journalled. Without a turn it
    /// leaves at once, and others wait the longer.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::create`].
    pub async fn create(
        &self,
        call: CreateCall,
        signed_at: Time,
        of: (&Purpose, Option<&CreateTurn>),
    ) -> Result<CloudId, AdapterError> {
        match self.call(Request::Create(Box::new(call)), signed_at, of).await? {
            Reply::Created(id) => Ok(id),
            other => Err(mismatch(&other, Effect::Unknown)),
        }
    }

    /// Reads instances by id.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::describe`].
    pub async fn describe(&self, ids: Vec<CloudId>, purpose: &Purpose) -> Result<Vec<Observed>, AdapterError> {
        match self.read(Request::Describe(ids), purpose).await? {
            Reply::Instances(found) => Ok(found),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// Every instance of a name.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::find`].
    pub async fn find(&self, name: CloudName, purpose: &Purpose) -> Result<Vec<Observed>, AdapterError> {
        match self.read(Request::Find(name), purpose).await? {
            Reply::Instances(found) => Ok(found),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// One page of all instances.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::list`].
    pub async fn list(&self, from: Option<Cursor>, purpose: &Purpose) -> Result<Page, AdapterError> {
        match self.read(Request::List(from), purpose).await? {
            Reply::Page(page) => Ok(page),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// Deletes an instance.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::delete`].
    pub async fn delete(&self, id: CloudId, purpose: &Purpose) -> Result<(), AdapterError> {
        match self.read(Request::Delete(id), purpose).await? {
            Reply::Deleted => Ok(()),
            other => Err(mismatch(&other, Effect::Unknown)),
        }
    }

    /// Events of an instance.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::events`].
    pub async fn events(&self, id: CloudId, purpose: &Purpose) -> Result<Vec<ObservedEvent>, AdapterError> {
        match self.read(Request::Events(id), purpose).await? {
            Reply::Events(events) => Ok(events),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// What the vendor says of its zones.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::zones`].
    pub async fn zones(&self, purpose: &Purpose) -> Result<Option<Vec<ZoneReport>>, AdapterError> {
        match self.read(Request::Zones, purpose).await? {
            Reply::Zones(zones) => Ok(zones),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// What the account uses.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::usage`].
    pub async fn usage(&self, purpose: &Purpose) -> Result<Option<AccountUsage>, AdapterError> {
        match self.read(Request::Usage, purpose).await? {
            Reply::Usage(usage) => Ok(usage),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// What a size costs.
    ///
    /// # Errors
    /// As [`meridian_adapters::RegionAdapter::price`].
    pub async fn price(&self, query: PriceQuery, purpose: &Purpose) -> Result<Option<PricePerHour>, AdapterError> {
        match self.read(Request::Price(query), purpose).await? {
            Reply::Price(price) => Ok(price),
            other => Err(mismatch(&other, Effect::NotApplied)),
        }
    }

    /// Sizes whose price is unknown or old, zone by zone.
    #[must_use]
    pub fn stale_prices(&self, now: Time) -> Vec<(ZoneId, Shape)> {
        let shapes = self.shapes();
        self.zones
            .iter()
            .flat_map(|zone| shapes.iter().map(move |shape| (zone.clone(), shape.clone())))
            .filter(|(zone, shape)| self.market.price_is_old(zone, shape, now))
            .collect()
    }

    /// Every size on sale, without its vendor name.
    fn shapes(&self) -> Vec<Shape> {
        let plain = self.capability.sizes.iter().flat_map(|row| {
            row.memory.iter().map(|memory| Shape { cpu: row.cpu, memory: *memory, gpu_type: None, gpu_count: 0 })
        });
        let gpu = self.capability.gpu_sizes.iter().map(|g| Shape {
            cpu: g.cpu,
            memory: g.memory,
            gpu_type: Some(g.gpu_type.clone()),
            gpu_count: g.gpu_count,
        });
        plain.chain(gpu).collect()
    }

    /// Every size on sale with its prices.
    #[must_use]
    pub fn instance_types(&self) -> Vec<views::InstanceType> {
        let name = |shape: &Shape| match &shape.gpu_type {
            Some(gpu) => format!("{}/{}-{}-{}x{gpu}", self.adapter, shape.cpu, shape.memory, shape.gpu_count),
            None => format!("{}/{}-{}", self.adapter, shape.cpu, shape.memory),
        };
        self.shapes()
            .into_iter()
            .map(|shape| views::InstanceType {
                name: name(&shape),
                adapter: self.adapter.clone(),
                region: self.region.clone(),
                backend: self.id.clone(),
                prices: self.zones.iter().filter_map(|zone| self.market.price_view(zone, &shape)).collect(),
                shape,
            })
            .collect()
    }

    /// Its health for the regions resource.
    #[must_use]
    pub fn status(&self, freshness: views::Freshness, counts: &Counts, now: Time) -> views::BackendStatus {
        let here = |zone: &ZoneId| counts.get(&(self.id.clone(), zone.clone())).copied().unwrap_or(0);
        let zones = self.market.zone_views(now);
        let zones: Vec<views::Zone> = zones
            .into_iter()
            .map(|z| views::Zone {
                name: format!("regions/{}/zones/{}", self.region, z.zone),
                instances: here(&z.zone),
                ..z
            })
            .collect();
        views::BackendStatus {
            backend: self.id.clone(),
            adapter: self.adapter.clone(),
            freshness,
            write_breaker: self.breakers.view(true),
            read_breaker: self.breakers.view(false),
            instances: zones.iter().map(|z| z.instances).sum(),
            account_cpu: self.market.usage().map(|u| views::AccountCpu { used: u.cpu_used, max: u.cpu_max }),
            zones,
            budget: self.pace.lanes().into_iter().map(|lane| budget::action_view(lane)).collect(),
        }
    }
}

/// An adapter that answers another verb than it was asked; a fault of ours.
fn mismatch(reply: &Reply, effect: Effect) -> AdapterError {
    let message = format!("the adapter answered another verb: {}", std::any::type_name_of_val(reply));
    AdapterError::new(FaultKind::Unexpected, effect, "meridian.mismatch", message)
}
