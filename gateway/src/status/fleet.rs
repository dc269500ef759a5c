//! The fleet: every instance with what was last seen of it, in memory, for all reads.
//!
//! Written by the journal driver (records) and the pollers (sightings), read by every request. A tenant's
//! instances stand in name order under one lock that is held only to look up, to replace an entry, or to copy
//! a page of handles; what is handed out is immutable. Silence never removes anything: an instance leaves when
//! its record says that it was proven gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use meridian_model::{
    ids::{BackendId, CloudId, InstanceName, OperationId, TenantId, ZoneId},
    operation::{OperationRecord, OperationState},
    status::{Observed, ObservedPhase},
    time::Time,
};

use super::render::{self, Sighting};
use crate::{
    operation::{FieldPath, ListInstances, PageRequest, Requirement},
    views::Rendered,
};

/// Operations without an instance that are remembered per tenant, so that `:explain` works after a failure.
const FAILED_PER_TENANT_MAX: usize = 1000;

/// A record's place in the fleet.
#[derive(Debug, Clone)]
struct Entry {
    record: Arc<OperationRecord>,
    seen: Option<Sighting>,
    stale: bool,
    rendered: Arc<Rendered>,
}

impl Entry {
    fn new(record: Arc<OperationRecord>, seen: Option<Sighting>, stale: bool) -> Self {
        let resource = render::instance(&record, seen.as_ref(), stale);
        let rendered = Arc::new(Rendered::new(record.name.clone(), resource));
        Self { record, seen, stale, rendered }
    }

    /// Where it is, or may be.
    fn place(&self) -> Option<(BackendId, ZoneId)> {
        self.record.open_attempt().map(|a| (a.backend.clone(), a.zone.clone()))
    }

    fn backend(&self) -> Option<&BackendId> {
        self.record.open_attempt().map(|a| &a.backend)
    }
}

#[derive(Debug, Default)]
struct TenantFleet {
    instances: BTreeMap<InstanceName, Entry>,
    /// Latest operation per name that ended without an instance.
    failed: BTreeMap<InstanceName, OperationId>,
    /// How many instances are where; kept with every change, because each plan asks for it.
    counts: Counts,
}

impl TenantFleet {
    /// Replaces or removes an entry and keeps the counts.
    fn set(&mut self, name: InstanceName, entry: Option<Entry>) {
        let arrives = entry.as_ref().and_then(Entry::place);
        let leaves = match entry {
            Some(entry) => self.instances.insert(name, entry),
            None => self.instances.remove(&name),
        };
        if let Some(place) = arrives {
            *self.counts.entry(place).or_default() += 1;
        }
        if let Some(place) = leaves.as_ref().and_then(Entry::place)
            && let Some(n) = self.counts.get_mut(&place)
        {
            *n = n.saturating_sub(1);
        }
    }
}

/// Every instance with what was last seen of it.
#[derive(Debug, Default)]
pub struct Fleet {
    tenants: RwLock<BTreeMap<TenantId, Arc<RwLock<TenantFleet>>>>,
    /// Where an instance that a backend shows belongs.
    by_cloud_id: RwLock<HashMap<(BackendId, CloudId), (TenantId, InstanceName)>>,
    revision: AtomicU64,
}

/// How many instances are where.
pub type Counts = HashMap<(BackendId, ZoneId), usize>;

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    // A poisoned lock means a panic between two complete states; the data is whole.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Rises with every change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn tenant(&self, tenant: &TenantId) -> Option<Arc<RwLock<TenantFleet>>> {
        read(&self.tenants).get(tenant).cloned()
    }

    fn tenant_or_new(&self, tenant: &TenantId) -> Arc<RwLock<TenantFleet>> {
        if let Some(found) = self.tenant(tenant) {
            return found;
        }
        Arc::clone(write(&self.tenants).entry(tenant.clone()).or_default())
    }

    /// Takes in a record: its instance appears, changes, or leaves when it is gone.
    pub fn put(&self, record: Arc<OperationRecord>) {
        let tenant = self.tenant_or_new(&record.tenant);
        let mut tenant = write(&tenant);
        let key = record.name.clone();
        let held = tenant.instances.get(&key);
        if held.is_some_and(|e| e.record.op_id == record.op_id && e.record.rev >= record.rev) {
            return;
        }
        if record.is_gone() {
            self.forget(&record);
            if held.is_some_and(|e| e.record.op_id == record.op_id) {
                tenant.set(key.clone(), None);
            }
            if record.state != OperationState::Succeeded {
                tenant.failed.insert(key, record.op_id.clone());
                while tenant.failed.len() > FAILED_PER_TENANT_MAX {
                    tenant.failed.pop_first();
                }
            }
        } else {
            let held = held.filter(|e| e.record.op_id == record.op_id);
            let stale = held.is_some_and(|e| e.stale);
            let remembered =
                || record.last_seen.as_ref().map(|(at, observed)| Sighting { at: *at, observed: observed.clone() });
            // Between attempts the last sight belongs to an instance that is being given up.
            let same_life = |e: &Entry| e.record.attempts.len() == record.attempts.len();
            let seen = match held.filter(|e| same_life(e)).and_then(|e| e.seen.clone()) {
                Some(seen) if record.last_seen.as_ref().is_none_or(|(at, _)| *at <= seen.at) => Some(seen),
                _ => remembered(),
            };
            tenant.failed.remove(&key);
            if let Some((backend, id)) =
                record.open_attempt().and_then(|a| Some((a.backend.clone(), a.cloud_id.clone()?)))
            {
                write(&self.by_cloud_id).insert((backend, id), (record.tenant.clone(), key.clone()));
            }
            tenant.set(key, Some(Entry::new(record, seen, stale)));
        }
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    fn forget(&self, record: &OperationRecord) {
        let mut index = write(&self.by_cloud_id);
        for attempt in &record.attempts {
            if let Some(id) = &attempt.cloud_id {
                index.remove(&(attempt.backend.clone(), id.clone()));
            }
        }
    }

    /// Takes in what a backend showed. Returns the record when the instance ended by this sight, so that its
    /// charge can end. Instances that are not in the fleet, and sights older than the last, change nothing.
    pub fn sighted(&self, backend: &BackendId, at: Time, observed: &Observed) -> Option<Arc<OperationRecord>> {
        let id = observed.id.clone()?;
        let (tenant, name) = read(&self.by_cloud_id).get(&(backend.clone(), id.clone())).cloned()?;
        let tenant = self.tenant(&tenant)?;
        let mut tenant = write(&tenant);
        let entry = tenant.instances.get_mut(&name)?;
        let current = entry.record.open_attempt().is_some_and(|a| a.cloud_id.as_ref() == Some(&id));
        if !current || entry.seen.as_ref().is_some_and(|s| s.at >= at) {
            return None;
        }
        let was_ended = entry.record.last_seen.as_ref().is_some_and(|(_, o)| o.phase.is_ended());
        let ended_now = observed.phase.is_ended() && !was_ended && entry.record.state == OperationState::Succeeded;
        let mut observed = observed.clone();
        if observed.phase == ObservedPhase::Unknown
            && let Some(before) = &entry.seen
        {
            observed.phase = before.observed.phase;
        }
        *entry = Entry::new(Arc::clone(&entry.record), Some(Sighting { at, observed }), false);
        self.revision.fetch_add(1, Ordering::AcqRel);
        ended_now.then(|| Arc::clone(&entry.record))
    }

    /// Marks or unmarks every instance of a backend as stale.
    pub fn mark_stale(&self, backend: &BackendId, stale: bool) {
        let differs = |entry: &Entry| entry.backend() == Some(backend) && entry.stale != stale;
        let tenants: Vec<_> = read(&self.tenants).values().cloned().collect();
        for tenant in tenants {
            // Called again and again: readers wait only when there is something to change.
            if !read(&tenant).instances.values().any(differs) {
                continue;
            }
            for entry in write(&tenant).instances.values_mut().filter(|e| differs(e)) {
                *entry = Entry::new(Arc::clone(&entry.record), entry.seen.clone(), stale);
            }
            self.revision.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// One instance.
    #[must_use]
    pub fn get(&self, tenant: &TenantId, name: &InstanceName) -> Option<Arc<Rendered>> {
        let tenant = self.tenant(tenant)?;
        let tenant = read(&tenant);
        tenant.instances.get(name).map(|e| Arc::clone(&e.rendered))
    }

    /// The record behind an instance.
    #[must_use]
    pub fn record(&self, tenant: &TenantId, name: &InstanceName) -> Option<Arc<OperationRecord>> {
        let tenant = self.tenant(tenant)?;
        let tenant = read(&tenant);
        tenant.instances.get(name).map(|e| Arc::clone(&e.record))
    }

    /// The latest operation under a name that ended without an instance.
    #[must_use]
    pub fn failed(&self, tenant: &TenantId, name: &InstanceName) -> Option<OperationId> {
        let tenant = self.tenant(tenant)?;
        let tenant = read(&tenant);
        tenant.failed.get(name).cloned()
    }

    /// A page of a tenant's instances in name order, and whether there is more.
    #[must_use]
    pub fn page(&self, tenant: &TenantId, query: &ListInstances) -> (Vec<Arc<Rendered>>, bool) {
        let Some(tenant) = self.tenant(tenant) else { return (Vec::new(), false) };
        let tenant = read(&tenant);
        let from = match &query.page.after {
            Some(name) => Bound::Excluded(name.as_str()),
            None => Bound::Unbounded,
        };
        let mut items = Vec::with_capacity(query.page.size.min(tenant.instances.len()));
        for (_, entry) in tenant.instances.range::<str, _>((from, Bound::Unbounded)) {
            if !selected(&entry.rendered, query) {
                continue;
            }
            if items.len() == query.page.size {
                return (items, true);
            }
            items.push(Arc::clone(&entry.rendered));
        }
        (items, false)
    }

    /// A page of the latest operations per name, in name order, and where the next page starts.
    #[must_use]
    pub fn operations(&self, tenant: &TenantId, page: &PageRequest) -> (Vec<OperationId>, Option<String>) {
        let Some(tenant) = self.tenant(tenant) else { return (Vec::new(), None) };
        let tenant = read(&tenant);
        let live = tenant.instances.iter().map(|(name, e)| (name, &e.record.op_id));
        let mut all: Vec<_> = live.chain(tenant.failed.iter()).collect();
        all.sort();
        let after = |name: &InstanceName| page.after.as_ref().is_none_or(|a| name.as_str() > a.as_str());
        let mut rest = all.into_iter().filter(|(name, _)| after(name)).peekable();
        let mut ids = Vec::with_capacity(page.size);
        let mut last = None;
        for (name, op) in rest.by_ref().take(page.size) {
            ids.push(op.clone());
            last = Some(name.to_string());
        }
        let more = rest.peek().is_some();
        (ids, last.filter(|_| more))
    }

    /// The records of the instances that a complete list of the backend must show: those that run, as far as is known.
    #[must_use]
    pub fn expected(&self, backend: &BackendId) -> Vec<Arc<OperationRecord>> {
        let tenants: Vec<_> = read(&self.tenants).values().cloned().collect();
        let expected = |e: &&Entry| {
            let removing = e.record.removal.is_some();
            let ended = e.seen.as_ref().is_some_and(|s| s.observed.phase.is_ended());
            e.backend() == Some(backend) && e.record.state == OperationState::Succeeded && !removing && !ended
        };
        let of = |tenant: &Arc<RwLock<TenantFleet>>| -> Vec<_> {
            read(tenant).instances.values().filter(expected).map(|e| Arc::clone(&e.record)).collect()
        };
        tenants.iter().flat_map(of).collect()
    }

    /// The record whose instance has this id at the backend.
    #[must_use]
    pub fn record_at(&self, backend: &BackendId, id: &CloudId) -> Option<Arc<OperationRecord>> {
        let (tenant, name) = read(&self.by_cloud_id).get(&(backend.clone(), id.clone())).cloned()?;
        let record = self.record(&tenant, &name)?;
        let current = record.open_attempt().is_some_and(|a| a.backend == *backend && a.cloud_id.as_ref() == Some(id));
        current.then_some(record)
    }

    /// Every tenant that has, or had, an instance.
    #[must_use]
    pub fn tenants(&self) -> BTreeSet<TenantId> {
        read(&self.tenants).keys().cloned().collect()
    }

    /// Every record of an instance that is not gone, by tenant and name.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<OperationRecord>> {
        let tenants: BTreeMap<_, _> = read(&self.tenants).iter().map(|(t, f)| (t.clone(), Arc::clone(f))).collect();
        let of = |tenant: &Arc<RwLock<TenantFleet>>| -> Vec<_> {
            read(tenant).instances.values().map(|e| Arc::clone(&e.record)).collect()
        };
        tenants.values().flat_map(of).collect()
    }

    /// How many instances of one tenant, or of all, are where.
    #[must_use]
    pub fn counts(&self, only: Option<&TenantId>) -> Counts {
        let tenants: Vec<_> = read(&self.tenants)
            .iter()
            .filter(|(t, _)| only.is_none_or(|o| o == *t))
            .map(|(_, f)| Arc::clone(f))
            .collect();
        let mut counts = Counts::new();
        for tenant in tenants {
            for (place, n) in &read(&tenant).counts {
                *counts.entry(place.clone()).or_default() += n;
            }
        }
        counts
    }
}

/// Whether an instance fulfils every requirement of a list.
fn selected(item: &Rendered, query: &ListInstances) -> bool {
    let labels = &item.instance.labels;
    let by_label = query.labels.iter().all(|requirement| match requirement {
        Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
        Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
        Requirement::Exists(key) => labels.contains_key(key),
        Requirement::Missing(key) => !labels.contains_key(key),
    });
    let status = &item.instance.status;
    by_label
        && query.fields.iter().all(|(path, equal, wanted)| {
            let value = match path {
                FieldPath::Name => Some(item.short_name.as_str()),
                FieldPath::Phase => Some(status.phase.as_str()),
                FieldPath::Region => status.region.as_ref().map(AsRef::as_ref),
                FieldPath::Zone => status.zone.as_ref().map(AsRef::as_ref),
                FieldPath::Backend => status.backend.as_ref().map(AsRef::as_ref),
                FieldPath::Adapter => status.adapter.as_ref().map(AsRef::as_ref),
            };
            (value == Some(wanted.as_str())) == *equal
        })
}

#[cfg(test)]
mod tests;
