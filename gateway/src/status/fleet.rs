//! The fleet: every instance with what was last seen of it, in memory, for all reads.
//!
//! Written by the journal driver (records) and the pollers (sightings), read by every request. A tenant's
//! instances stand in name order under one lock that is held only to look up, to replace an entry, or to copy
//! a page of handles; what is handed out is immutable. Silence never removes anything: an instance leaves when
//! its record says that it was proven gone.
//!
//! Records come from this process' own writes and, where several gateways share a ledger, from its feed; the two
//! overtake each other, so an entry is replaced only by a later state, also by one that was removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    pin::pin,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use meridian_ledger::{FeedPosition, tombstone};
use meridian_model::{
    ids::{BackendId, CloudId, InstanceName, OperationId, TenantId, ZoneId},
    operation::{OperationRecord, OperationState},
    status::{Observed, ObservedPhase},
    time::Time,
};
use meridian_policies::quota::parts::{Pots, move_parts};
use tokio::{sync::Notify, time::Instant};

use super::render::{self, Sighting};
use crate::{
    journal::is_newer,
    operation::{FieldPath, ListInstances, PageRequest, Requirement},
    views::Rendered,
};

/// Operations without an instance that are remembered per tenant, so that `:explain` works after a failure.
const FAILED_PER_TENANT_MAX: usize = 1000;

/// Gone operations whose last state is remembered per tenant, so that an earlier state that arrives late does not
/// bring them back. Late is a call to the ledger; this many deletes of one tenant do not fit into one.
const GONE_PER_TENANT_MAX: usize = 1000;

/// Gone records that are remembered per tenant for a rebuild of the ledger; about 1 KiB each.
const GRAVES_PER_TENANT_MAX: usize = 1000;

/// A record's place in the fleet.
#[derive(Debug, Clone)]
struct Entry {
    record: Arc<OperationRecord>,
    seen: Option<Sighting>,
    stale: bool,
    rendered: Arc<Rendered>,
    /// The same marked stale, for reads while the ledger is away; made when it is first asked for.
    marked: OnceLock<Arc<Rendered>>,
}

impl Entry {
    fn new(record: Arc<OperationRecord>, seen: Option<Sighting>, stale: bool) -> Self {
        let resource = render::instance(&record, seen.as_ref(), stale);
        let rendered = Arc::new(Rendered::new(record.name.clone(), resource));
        Self { record, seen, stale, rendered, marked: OnceLock::new() }
    }

    /// What a read is answered with; marked stale when what the ledger holds may have changed unseen.
    fn shown(&self, behind: bool) -> &Arc<Rendered> {
        if !behind || self.stale {
            return &self.rendered;
        }
        self.marked.get_or_init(|| {
            let resource = render::instance(&self.record, self.seen.as_ref(), true);
            Arc::new(Rendered::new(self.record.name.clone(), resource))
        })
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
    gone: Gone,
    /// The last gone records, without what is large or secret: a rebuild of the ledger must not bring them back.
    graves: VecDeque<Arc<OperationRecord>>,
    /// The greatest place among the tenant's writes that was seen here.
    latest: u64,
    /// Every write up to this place was seen here; only a feed tells.
    complete: u64,
}

/// Gone operations by the place of their last write, and those places by operation.
#[derive(Debug, Default)]
struct Gone {
    by_seq: BTreeMap<u64, GoneState>,
    by_op: BTreeMap<OperationId, u64>,
}

/// The last state of a gone operation, as far as it tells what comes after it.
#[derive(Debug)]
struct GoneState {
    op_id: OperationId,
    rev: u64,
    store: String,
}

impl Gone {
    fn insert(&mut self, record: &OperationRecord) {
        if let Some(before) = self.by_op.insert(record.op_id.clone(), record.seq) {
            self.by_seq.remove(&before);
        }
        let state = GoneState { op_id: record.op_id.clone(), rev: record.rev, store: record.fence.store.clone() };
        if let Some(other) = self.by_seq.insert(record.seq, state).filter(|o| o.op_id != record.op_id) {
            self.by_op.remove(&other.op_id);
        }
        while self.by_seq.len() > GONE_PER_TENANT_MAX {
            if let Some((_, oldest)) = self.by_seq.pop_first() {
                self.by_op.remove(&oldest.op_id);
            }
        }
    }

    /// Whether a state of a record is of before it was gone, or that very state.
    fn has_later(&self, record: &OperationRecord) -> bool {
        let at = self.by_op.get(&record.op_id);
        let gone = at.and_then(|seq| Some((seq, self.by_seq.get(seq)?)));
        gone.is_some_and(
            |(seq, g)| {
                if record.fence.store == g.store { record.rev <= g.rev } else { record.seq <= *seq }
            },
        )
    }
}

impl TenantFleet {
    /// Whether a later state of the record, or of the instance that has its name, was taken in.
    fn has_later(&self, record: &OperationRecord) -> bool {
        match self.instances.get(&record.name).map(|e| &e.record) {
            Some(held) if held.op_id == record.op_id => !is_newer(record, held),
            Some(other) if other.op_id != record.op_id && other.seq > record.seq => true,
            Some(_) | None => self.gone.has_later(record),
        }
    }

    /// How far the writes of the tenant are seen here: as the feed tells, or, from a ledger without one, as the
    /// writes of this process do.
    fn position(&self, fed: bool) -> u64 {
        if fed { self.complete } else { self.latest }
    }

    /// Remembers what is left of a gone record.
    fn bury(&mut self, record: &OperationRecord) {
        self.graves.retain(|grave| grave.op_id != record.op_id);
        self.graves.push_back(Arc::new(tombstone(record.clone())));
        if self.graves.len() > GRAVES_PER_TENANT_MAX {
            self.graves.pop_front();
        }
    }

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
    /// The ledger has a feed, which alone tells that nothing is missing.
    fed: AtomicBool,
    /// Told of every change; who waits for a write looks again.
    changed: Notify,
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

    /// Takes in a record: its instance appears, changes, or leaves when it is gone. False when a later state of it
    /// was taken in before.
    pub fn put(&self, record: Arc<OperationRecord>) -> bool {
        let tenant = self.tenant_or_new(&record.tenant);
        let mut tenant = write(&tenant);
        tenant.latest = tenant.latest.max(record.seq);
        if tenant.has_later(&record) {
            return false;
        }
        let key = record.name.clone();
        let held = tenant.instances.get(&key);
        if record.is_gone() {
            self.forget(&record);
            let same = held.is_some_and(|e| e.record.op_id == record.op_id);
            if same {
                tenant.set(key.clone(), None);
            }
            tenant.gone.insert(&record);
            tenant.bury(&record);
            if record.state != OperationState::Succeeded && !tenant.instances.contains_key(&key) {
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
            let latest = |r: &OperationRecord| r.attempts.last().map(|a| a.n);
            let same_life = |e: &Entry| latest(&e.record) == latest(&record);
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
        drop(tenant);
        self.revision.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        true
    }

    /// Every write up to these places was taken in.
    pub fn reached(&self, position: &FeedPosition) {
        self.fed.store(true, Ordering::Release);
        for (tenant, seq) in position {
            let tenant = self.tenant_or_new(tenant);
            // What is gone is kept: a call that was answered late may still show it as it was before.
            if read(&tenant).complete != *seq {
                write(&tenant).complete = *seq;
            }
        }
        self.changed.notify_waiters();
    }

    /// How far the writes of a tenant are seen here; what a list answers as its revision.
    #[must_use]
    pub fn position(&self, tenant: &TenantId) -> u64 {
        let fed = self.fed.load(Ordering::Acquire);
        self.tenant(tenant).map_or(0, |t| read(&t).position(fed))
    }

    /// Waits until a write of a tenant shows here, at most until `until`: in the instance of this name, or because
    /// all writes up to it are seen. False when it does not.
    pub async fn shows(&self, tenant: &TenantId, name: Option<&InstanceName>, revision: u64, until: Instant) -> bool {
        let shown = || {
            let Some(tenant) = self.tenant(tenant) else { return revision == 0 };
            let tenant = read(&tenant);
            let entry = name.and_then(|name| tenant.instances.get(name));
            tenant.position(self.fed.load(Ordering::Acquire)) >= revision
                || entry.is_some_and(|e| e.record.seq >= revision)
        };
        loop {
            let mut changed = pin!(self.changed.notified());
            // First the place to wait at, then the look: a change between the two is not missed.
            changed.as_mut().enable();
            if shown() {
                return true;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return shown();
            }
        }
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

    /// Every record of a tenant that is remembered here, gone ones as their tombstones.
    #[must_use]
    pub fn remembered(&self, tenant: &TenantId) -> Vec<OperationRecord> {
        let Some(tenant) = self.tenant(tenant) else { return Vec::new() };
        let tenant = read(&tenant);
        let live = tenant.instances.values().map(|e| &e.record);
        live.chain(&tenant.graves).map(|record| (**record).clone()).collect()
    }

    /// One instance.
    #[must_use]
    pub fn get(&self, tenant: &TenantId, name: &InstanceName) -> Option<Arc<Rendered>> {
        let tenant = self.tenant(tenant)?;
        let tenant = read(&tenant);
        tenant.instances.get(name).map(|e| Arc::clone(&e.rendered))
    }

    /// The same for an answer, which is marked stale while this process is behind the ledger.
    #[must_use]
    pub fn answer(&self, tenant: &TenantId, name: &InstanceName, behind: bool) -> Option<Arc<Rendered>> {
        let tenant = self.tenant(tenant)?;
        let tenant = read(&tenant);
        tenant.instances.get(name).map(|e| Arc::clone(e.shown(behind)))
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

    /// A page of a tenant's instances in name order, and whether there is more; all marked stale while this process is
    /// behind the ledger.
    #[must_use]
    pub fn page(&self, tenant: &TenantId, query: &ListInstances, behind: bool) -> (Vec<Arc<Rendered>>, bool) {
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
            items.push(Arc::clone(entry.shown(behind)));
        }
        (items, false)
    }

    /// A page of the latest operations per name, in name order, and where the next page starts.
    #[must_use]
    pub fn operations(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> (Vec<(InstanceName, OperationId)>, Option<String>) {
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
            ids.push((name.clone(), op.clone()));
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

    /// Whether a tenant has, or had, an instance.
    #[must_use]
    pub fn has_tenant(&self, tenant: &TenantId) -> bool {
        read(&self.tenants).contains_key(tenant)
    }

    /// Whether a tenant has no instance that is not gone.
    #[must_use]
    pub fn is_empty(&self, tenant: &TenantId) -> bool {
        self.tenant(tenant).is_none_or(|tenant| read(&tenant).instances.is_empty())
    }

    /// Every tenant that has, or had, an instance.
    #[must_use]
    pub fn tenants(&self) -> BTreeSet<TenantId> {
        read(&self.tenants).keys().cloned().collect()
    }

    /// The sum of the parts that are to be told of each record of a tenant that is not gone, and of its last sight.
    #[must_use]
    pub fn parts(&self, tenant: &TenantId, of: impl Fn(&OperationRecord, Option<&Sighting>) -> Pots) -> Pots {
        let mut sum = Pots::new();
        if let Some(tenant) = self.tenant(tenant) {
            for entry in read(&tenant).instances.values() {
                move_parts(&mut sum, &Pots::new(), &of(&entry.record, entry.seen.as_ref()));
            }
        }
        sum
    }

    /// Every record of a tenant's instances that are not gone, by name.
    #[must_use]
    pub fn records_of(&self, tenant: &TenantId) -> Vec<Arc<OperationRecord>> {
        let Some(tenant) = self.tenant(tenant) else { return Vec::new() };
        let fleet = read(&tenant);
        fleet.instances.values().map(|entry| Arc::clone(&entry.record)).collect()
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
                FieldPath::Project => item.instance.project.as_ref().map(AsRef::as_ref),
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
