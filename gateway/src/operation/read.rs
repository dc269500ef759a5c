//! Answers reads from what is in memory: the fleet, the regions' health and the configuration. Only operations
//! that ended are read from the ledger. Nothing here calls a vendor.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{self, StreamExt as _};
use meridian_model::{
    error::{ErrorCode, Problem},
    ids::{InstanceName, OperationId, ProjectName, RegionId, TenantId},
    operation::{AttemptState, OperationRecord},
};
use tokio::time::Instant;

use super::{
    InstanceRef, ListConsumers, ListInstances, Outcome, PageRequest, Reach, Refusal,
    across::{self, Across},
    quota_view, quotas as trees, read_refusal,
    writing::etag,
};
use crate::{
    config,
    core::Core,
    directory::Source,
    journal::NOTED_WITHIN,
    status::{
        poll::Poller,
        render::{self, DELETE_SUFFIX},
    },
    views,
};

/// Age from which what is known of other gateways' writes is called stale, and with it all that is shown: a feed that
/// answers is at most a second old.
const LEDGER_STALE_AFTER: Duration = Duration::from_secs(2);

/// Age up to which reads are answered while the ledger is away (RELIABILITY 2.9).
const READS_WITHIN: Duration = Duration::from_secs(10 * 60);

/// Longest wait of a read for a write of another gateway.
const REVISION_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait for usage of a read that can be answered without it.
const USAGE_WITHIN: Duration = Duration::from_secs(1);

/// Usages that one list reads at the same time.
const USAGES_AT_ONCE: usize = 16;

/// Kept free before the request's deadline to answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// How old what is known of other gateways' writes to a tenant is; `None` when there are no others. One answer takes its mark, its
/// header and its body's entry from one such look.
///
/// # Errors
/// It is too old to be shown, or was never read.
fn heard(core: &Core, tenant: &TenantId) -> Result<Option<views::LedgerFreshness>, Refusal> {
    let refuse = |detail| Err(Refusal::new(ErrorCode::StoreUnavailable, detail));
    if !core.driver.has_read(tenant) {
        return refuse("what the ledger holds of this tenant was not read since this gateway started");
    }
    let Some(age) = core.driver.feed_age_of(tenant) else { return Ok(None) };
    if age > READS_WITHIN {
        return refuse("the ledger has been away for so long that nothing can be shown any more");
    }
    Ok(Some(views::LedgerFreshness {
        source: "ledger",
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        state: if age > LEDGER_STALE_AFTER { views::FreshnessState::Stale } else { views::FreshnessState::Fresh },
    }))
}

fn is_behind(ledger: Option<&views::LedgerFreshness>) -> bool {
    ledger.is_some_and(|l| l.state != views::FreshnessState::Fresh)
}

/// Waits until the write of a revision shows here.
///
/// # Errors
/// It does not in time; older data is not answered instead.
pub async fn shown(
    core: &Core,
    tenant: &TenantId,
    name: Option<&InstanceName>,
    revision: Option<u64>,
    deadline: Instant,
) -> Result<(), Refusal> {
    let Some(revision) = revision else { return Ok(()) };
    let deadline = deadline.checked_sub(ANSWER_MARGIN).unwrap_or(deadline);
    let until = (Instant::now() + REVISION_WITHIN).min(deadline);
    if core.fleet.shows(tenant, name, revision, until).await {
        return Ok(());
    }
    let known = core.fleet.position(tenant);
    Err(Refusal::new(ErrorCode::RevisionNotReached, format!("revision {revision} is not known here yet; {known} is")))
}

/// One instance.
///
/// # Errors
/// There is no such instance, or what is known is too old to be shown.
pub fn instance(core: &Core, tenant: &TenantId, wish: &InstanceRef) -> Result<Outcome, Refusal> {
    let ledger = heard(core, tenant)?;
    let found = core.fleet.answer(tenant, &wish.name, is_behind(ledger.as_ref())).ok_or_else(Refusal::not_found)?;
    Ok(Outcome::Instance(found, ledger))
}

/// A page of instances, with what is stale said.
///
/// # Errors
/// A partial answer was not wanted and a region is unreachable; of one tenant, also what is known is too old to be shown.
pub fn instances(core: &Core, reach: &Reach, query: &ListInstances) -> Result<Outcome, Refusal> {
    let freshness: Vec<views::Freshness> = seen(core, reach).map(|p| p.freshness()).collect();
    let mut unreachable: Vec<String> = freshness
        .iter()
        .filter(|f| f.state == views::FreshnessState::Unreachable)
        .map(|f| format!("regions/{}", f.region))
        .collect();
    unreachable.dedup();
    let mut page = match reach {
        Reach::Tenant(tenant) => of_one(core, tenant, query)?,
        Reach::All => of_all(core, query),
    };
    page.unreachable.splice(0..0, unreachable);
    page.freshness = Arc::new(freshness);
    if query.complete_only && !page.unreachable.is_empty() {
        let detail = format!("no usable data of {}", page.unreachable.join(", "));
        return Err(Problem::new(ErrorCode::RegionUnavailable, detail).with_retry_after(5).into());
    }
    Ok(Outcome::Instances(Box::new(page)))
}

fn of_one(core: &Core, tenant: &TenantId, query: &ListInstances) -> Result<views::InstancePage, Refusal> {
    let ledger = heard(core, tenant)?;
    let (items, more) = core.fleet.page(tenant, query, is_behind(ledger.as_ref()));
    let next_after = items.last().filter(|_| more).map(|i| i.short_name.to_string());
    let revision = Some(core.fleet.position(tenant));
    Ok(views::InstancePage { items, next_after, revision, ledger, ..views::InstancePage::default() })
}

/// Of a tenant of which nothing can be shown it is said that it is missing; it hides no other.
fn of_all(core: &Core, query: &ListInstances) -> views::InstancePage {
    let (mut unreachable, mut ledger) = (Vec::new(), None::<views::LedgerFreshness>);
    let mut query = query.clone();
    let wish = std::mem::take(&mut query.page);
    let across = across::page(&across::everyone(core), &wish, |tenant, page| match heard(core, tenant) {
        Ok(of_tenant) => {
            query.page = page;
            let (items, _) = core.fleet.page(tenant, &query, is_behind(of_tenant.as_ref()));
            if of_tenant.as_ref().map(|l| l.age_ms) > ledger.as_ref().map(|l| l.age_ms) {
                ledger = of_tenant;
            }
            items.into_iter().map(|item| (item.short_name.to_string(), item)).collect()
        }
        Err(_) => {
            unreachable.push(format!("tenants/{tenant}"));
            Vec::new()
        }
    });
    let Across { items, next_after } = across;
    views::InstancePage { items, next_after, ledger, unreachable, ..views::InstancePage::default() }
}

/// The record of the latest operation under a name, also of one that failed.
async fn latest(core: &Core, tenant: &TenantId, wish: &InstanceRef) -> Result<Arc<OperationRecord>, Refusal> {
    if let Some(record) = core.fleet.record(tenant, &wish.name) {
        return Ok(record);
    }
    let Some(op) = core.fleet.failed(tenant, &wish.name) else { return Err(Refusal::not_found()) };
    record(core, tenant, &op).await
}

async fn record(core: &Core, tenant: &TenantId, op: &OperationId) -> Result<Arc<OperationRecord>, Refusal> {
    let found = core.ledger.operation(tenant, op).await.map_err(|e| read_refusal(&e))?;
    found.map(|r| Arc::new(*r)).ok_or_else(Refusal::not_found)
}

/// Why an instance is where it is, or why it is nowhere.
///
/// # Errors
/// There is and was no such instance.
pub async fn explain(core: &Core, tenant: &TenantId, wish: &InstanceRef) -> Result<Outcome, Refusal> {
    let ledger = heard(core, tenant)?;
    let record = latest(core, tenant, wish).await?;
    let quota = known_quota(core, tenant).await;
    let used = record.attempts.last().filter(|a| a.state != AttemptState::Refused && a.state != AttemptState::Absent);
    let chosen = record.decision.as_ref().zip(used).and_then(|(decision, attempt)| {
        decision.candidates.iter().find(|c| c.backend == attempt.backend && c.zone == attempt.zone).cloned()
    });
    let explanation = Box::new(views::Explanation {
        name: format!("tenants/{tenant}/instances/{}", record.name),
        state: record.state,
        chosen,
        decision: record.decision.clone(),
        attempts: record.attempt_views(),
        charge: record.charge,
        quota,
        error: record.problem.clone(),
    });
    Ok(Outcome::Explanation(explanation, ledger))
}

/// One operation.
///
/// # Errors
/// There is no such operation.
pub async fn operation(core: &Core, tenant: &TenantId, id: &OperationId) -> Result<Outcome, Refusal> {
    let create = id.as_str().strip_suffix(DELETE_SUFFIX);
    let of = create.map(OperationId::new).transpose().map_err(|_| Refusal::not_found())?;
    let record = record(core, tenant, of.as_ref().unwrap_or(id)).await?;
    core.driver.vouch(&record, NOTED_WITHIN).await;
    let view = match create {
        Some(_) => render::delete_operation(&record).ok_or_else(Refusal::not_found)?,
        None => render::create_operation(&record),
    };
    Ok(Outcome::Operation(Box::new(view)))
}

/// The operations of instances, in the order of the tenants' and the instances' names.
///
/// # Errors
/// Never yet; what cannot be read is left out.
pub async fn operations(core: &Core, reach: &Reach, page: &PageRequest) -> Result<Outcome, Refusal> {
    let (ids, next_after) = match reach {
        Reach::Tenant(tenant) => {
            let (ids, next_after) = core.fleet.operations(tenant, page);
            (ids.into_iter().map(|(_, id)| (tenant.clone(), id)).collect(), next_after)
        }
        Reach::All => {
            let across = across::page(&across::everyone(core), page, |tenant, page| {
                let (ids, _) = core.fleet.operations(tenant, &page);
                ids.into_iter().map(|(name, id)| (name.to_string(), (tenant.clone(), id))).collect()
            });
            (across.items, across.next_after)
        }
    };
    let mut items = Vec::with_capacity(ids.len());
    for (tenant, id) in ids {
        let Ok(record) = record(core, &tenant, &id).await else { continue };
        core.driver.vouch(&record, NOTED_WITHIN).await;
        items.push(render::create_operation(&record));
        items.extend(render::delete_operation(&record));
    }
    Ok(Outcome::Operations(views::Page { items, next_after }))
}

/// Limits and usage.
///
/// # Errors
/// The ledger cannot be read.
pub async fn quota(core: &Core, reach: &Reach) -> Result<Outcome, Refusal> {
    let tenant = match reach {
        Reach::Tenant(tenant) => tenant,
        Reach::All => return Ok(Outcome::Quotas(quotas(core).await)),
    };
    let own = all_quotas(core, tenant).await?.into_iter().next();
    own.map(|quota| Outcome::Quota(Box::new(quota))).ok_or_else(|| Refusal::internal("a tenant without a quota"))
}

async fn all_quotas(core: &Core, tenant: &TenantId) -> Result<Vec<views::Quota>, Refusal> {
    let books = core.ledger.books(tenant).await.map_err(|e| read_refusal(&e))?;
    Ok(trees::nodes(tenant, &books, &core.quota_watch.samples(tenant), core.clock.now()))
}

/// The quotas of a tenant and of each of its projects; of all tenants only their own.
///
/// # Errors
/// The ledger cannot be read.
pub async fn project_quotas(core: &Core, reach: &Reach) -> Result<Outcome, Refusal> {
    let tenant = match reach {
        Reach::Tenant(tenant) => tenant,
        Reach::All => return Ok(Outcome::Quotas(quotas(core).await)),
    };
    Ok(Outcome::Quotas(views::Page { items: all_quotas(core, tenant).await?, next_after: None }))
}

/// The quota of one project.
///
/// # Errors
/// There is no such project, or the ledger cannot be read.
pub async fn project_quota(core: &Core, tenant: &TenantId, project: &ProjectName) -> Result<Outcome, Refusal> {
    let name = format!("tenants/{tenant}/quotas/{project}");
    let found = all_quotas(core, tenant).await?.into_iter().find(|quota| quota.name == name);
    found.map(|quota| Outcome::Quota(Box::new(quota))).ok_or_else(Refusal::not_found)
}

/// Who uses most of a quota, as far as this gateway has followed the ledger.
///
/// # Errors
/// There is no such project, or the ledger cannot be read.
pub async fn consumers(core: &Core, tenant: &TenantId, wish: &ListConsumers) -> Result<Outcome, Refusal> {
    let books = core.ledger.books(tenant).await.map_err(|e| read_refusal(&e))?;
    let is_there = |name: &ProjectName| books.tree.nodes.iter().any(|node| node.name.as_ref() == Some(name));
    if !wish.project.as_ref().is_none_or(is_there) {
        return Err(Refusal::not_found());
    }
    let records = core.fleet.records_of(tenant);
    let found = trees::consumers((tenant, wish.project.as_ref()), &books, &records, (&wish.line, wish.most));
    Ok(Outcome::Consumers(Box::new(found)))
}

/// Of every tenant.
async fn quotas(core: &Core) -> views::Page<views::Quota> {
    let names: Vec<TenantId> = core.directory.load().tenants().map(|(name, _)| name.clone()).collect();
    let items = stream::iter(names).map(async |name| known_quota(core, &name).await);
    views::Page { items: items.buffered(USAGES_AT_ONCE).collect().await, next_after: None }
}

/// Limits and usage; the configured limits alone while the ledger does not answer.
async fn known_quota(core: &Core, tenant: &TenantId) -> views::Quota {
    match tokio::time::timeout(USAGE_WITHIN, core.ledger.usage(tenant)).await {
        Ok(Ok(usage)) => quota_view(tenant, Some(usage.used), usage.limits),
        Ok(Err(_)) | Err(_) => quota_view(tenant, None, core.directory.load().quota(tenant).unwrap_or_default()),
    }
}

/// One tenant. It needs no ledger but for its usage.
///
/// # Errors
/// It is in the directory no more.
pub async fn tenant(core: &Core, tenant: &TenantId) -> Result<views::Tenant, Refusal> {
    let snapshot = core.directory.load_full();
    let entry = snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?;
    let kept = snapshot.made().tenants.get(tenant).map(|(_, kept)| kept).filter(|_| entry.source == Source::Api);
    let shown = declared_tenant(&entry.settings, known_quota(core, tenant).await);
    Ok(views::Tenant {
        generation: kept.map(|kept| kept.record.generation),
        etag: kept.map(|kept| etag(kept.revision)),
        create_time: kept.map(|kept| kept.record.create_time),
        update_time: kept.map(|kept| kept.record.update_time),
        source: entry.source.to_string(),
        ..shown
    })
}

/// What a tenant is declared to be, as the API would declare it.
pub(super) fn declared_tenant(settings: &config::Tenant, quota: views::Quota) -> views::Tenant {
    let mut spec = serde_json::to_value(settings).unwrap_or_default();
    if let Some(spec) = spec.as_object_mut() {
        // What is the resource's own, and what are resources of their own.
        for elsewhere in ["name", "labels", "keys"] {
            spec.remove(elsewhere);
        }
        spec.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
    }
    views::Tenant {
        name: format!("tenants/{}", settings.name),
        labels: settings.labels.clone(),
        generation: None,
        etag: None,
        create_time: None,
        update_time: None,
        source: Source::Api.to_string(),
        quota,
        regions: settings.regions.clone(),
        providers: settings.providers.clone(),
        spec,
    }
}

/// The tenants that the caller may see, in the order of their names.
pub async fn tenants(core: &Core, reach: &Reach, page: &PageRequest) -> views::Page<views::Tenant> {
    let names: Vec<TenantId> = match reach {
        Reach::Tenant(own) => vec![own.clone()],
        Reach::All => {
            let after = |name: &TenantId| page.after.as_ref().is_none_or(|after| name.as_str() > after.as_str());
            let snapshot = core.directory.load();
            snapshot.tenants().map(|(name, _)| name).filter(|n| after(n)).take(page.size + 1).cloned().collect()
        }
    };
    let more = names.len() > page.size;
    let next_after = names.iter().take(page.size).next_back().filter(|_| more).map(ToString::to_string);
    let items = stream::iter(names.into_iter().take(page.size)).map(async |name| tenant(core, &name).await);
    // One that was removed meanwhile is left out.
    let items: Vec<_> = items.buffered(USAGES_AT_ONCE).filter_map(async |tenant| tenant.ok()).collect().await;
    views::Page { items, next_after }
}

/// The backends that a caller may know of: another tenant's own account is not there.
fn seen<'c>(core: &'c Core, reach: &Reach) -> impl Iterator<Item = &'c Arc<Poller>> {
    core.pollers.all().into_iter().filter(move |poller| match reach {
        Reach::Tenant(tenant) => poller.backend().serves(tenant),
        Reach::All => true,
    })
}

/// All regions, or the one that is named, with health and age.
#[must_use]
pub fn regions(core: &Core, reach: &Reach, only: Option<&RegionId>) -> Vec<views::Region> {
    let counts = core.fleet.counts(None);
    let mut regions: Vec<views::Region> = Vec::new();
    for poller in seen(core, reach) {
        let backend = poller.backend();
        if only.is_some_and(|r| *r != backend.region) {
            continue;
        }
        let status = backend.status(poller.freshness(), &counts, core.clock.now());
        let name = format!("regions/{}", backend.region);
        match regions.iter_mut().find(|r| r.name == name) {
            Some(region) => region.backends.push(status),
            None => regions.push(views::Region { name, backends: vec![status] }),
        }
    }
    regions.sort_by(|a, b| a.name.cmp(&b.name));
    regions
}

/// What each adapter in use can do.
#[must_use]
pub fn adapters(core: &Core, reach: &Reach) -> Vec<views::Adapter> {
    let mut adapters: Vec<views::Adapter> = Vec::new();
    for poller in seen(core, reach) {
        let backend = poller.backend();
        let name = format!("adapters/{}", backend.adapter);
        match adapters.iter_mut().find(|a| a.name == name) {
            Some(adapter) => adapter.backends.push(backend.id.clone()),
            None => adapters.push(views::Adapter {
                name,
                backends: vec![backend.id.clone()],
                capability: Arc::clone(&backend.capability),
            }),
        }
    }
    adapters.sort_by(|a, b| a.name.cmp(&b.name));
    adapters
}

/// Sizes on sale with their prices.
#[must_use]
pub fn instance_types(core: &Core, reach: &Reach, only: Option<&RegionId>) -> Vec<views::InstanceType> {
    let wanted = |region: &RegionId| only.is_none_or(|r| r == region);
    seen(core, reach).map(|p| p.backend()).filter(|b| wanted(&b.region)).flat_map(|b| b.instance_types()).collect()
}
