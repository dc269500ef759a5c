//! The ledger in memory: what the trait means, with nothing else in the way.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_model::{
    ids::{InstanceName, OperationId, TenantId},
    operation::{Charge, Fence, OperationRecord, QuotaLimits, Removal},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    quota::QuotaTree,
    time::Time,
};
use meridian_policies::quota::{
    self,
    parts::{Pots, move_parts, parts},
    spend::{self, Moment, Spends},
    tree::{self, Tree},
};
use tokio::sync::Notify;

use crate::{
    Books, Claim, Claimed, Feed, FeedPosition, Known, Ledger, LedgerError, LedgerFuture, RecordPage, Step, Stepped,
    TakeOver, TakenOver, Usage, broken_rule,
    rules::{first_record, valid_tree},
    tombstone,
};

type Key = (TenantId, OperationId);

/// Most records a page or an expiry takes, as for every ledger.
const MANY_MAX: usize = 1_000;

/// A ledger that lives as long as its process, for tests; its answers are ready at once, so that it works under
/// a paused clock. Usage is no state of its own here: it is the sum of the charges.
#[derive(Debug)]
pub struct MemoryLedger {
    store: String,
    state: Mutex<State>,
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Key, OperationRecord>,
    tombstones: BTreeMap<Key, OperationRecord>,
    limits: BTreeMap<TenantId, QuotaLimits>,
    trees: BTreeMap<TenantId, QuotaTree>,
    spends: BTreeMap<TenantId, Spends>,
    leases: BTreeMap<String, Time>,
    seqs: BTreeMap<TenantId, u64>,
}

impl State {
    /// The next place among the tenant's writes.
    fn place(&mut self, tenant: &TenantId) -> u64 {
        let seq = self.seqs.entry(tenant.clone()).or_default();
        *seq += 1;
        *seq
    }

    fn lease(&mut self, owner: &str, until: Time) {
        let lease = self.leases.entry(owner.to_owned()).or_insert(until);
        *lease = until.max(*lease);
    }

    fn leased_until(&self, owner: &str, now: Time) -> Option<Time> {
        self.leases.get(owner).copied().filter(|until| *until > now)
    }

    fn since(&self, after: &FeedPosition, known: &Known) -> Feed {
        let seen = |tenant: &TenantId| after.get(tenant).copied().unwrap_or_default();
        let told = |r: &&OperationRecord| r.seq > seen(&r.tenant) && !known.has(&r.tenant, r.seq);
        let mut records: Vec<_> = self.records.values().filter(told).cloned().collect();
        records.sort_by(|a, b| (&a.tenant, a.seq).cmp(&(&b.tenant, b.seq)));
        Feed { records, position: self.seqs.clone(), ..Feed::default() }
    }

    fn used(&self, tenant: &TenantId) -> Charge {
        self.records.values().filter(|r| r.tenant == *tenant).fold(Charge::default(), |sum, r| Charge {
            instances: sum.instances + r.charge.instances,
            cpu: MilliCpu(sum.cpu.0 + r.charge.cpu.0),
            memory: MemoryMib(sum.memory.0 + r.charge.memory.0),
            gpu: sum.gpu + r.charge.gpu,
            public_ips: sum.public_ips + r.charge.public_ips,
            disk: MemoryMib(sum.disk.0 + r.charge.disk.0),
            cost: PricePerHour(sum.cost.0 + r.charge.cost.0),
        })
    }

    fn pots(&self, tenant: &TenantId) -> Pots {
        let mut pots = Pots::new();
        for record in self.records.values().filter(|r| r.tenant == *tenant) {
            move_parts(&mut pots, &Pots::new(), &parts(record));
        }
        pots
    }

    fn holder(&self, tenant: &TenantId, name: &InstanceName) -> Option<&OperationRecord> {
        self.records.values().find(|r| r.tenant == *tenant && r.name == *name && !r.is_gone())
    }

    fn oldest(of: &BTreeMap<Key, OperationRecord>, before: Time, limit: usize) -> Vec<Key> {
        let mut keys: Vec<_> =
            of.iter().filter(|(_, r)| r.is_gone() && r.updated_at < before).map(|(k, r)| (r.updated_at, k)).collect();
        keys.sort();
        keys.into_iter().take(limit).map(|(_, k)| k.clone()).collect()
    }
}

impl MemoryLedger {
    /// An empty ledger of the given incarnation.
    #[must_use]
    pub fn new(store: impl Into<String>) -> Self {
        Self { store: store.into(), state: Mutex::default(), written: Notify::new() }
    }

    /// Forgets all leases, as an embedded ledger does when its process ends.
    pub fn forget_leases(&self) {
        self.state().leases.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_now(&self, claim: Claim) -> Claimed {
        let mut state = self.state();
        let key = (claim.tenant.clone(), claim.op_id.clone());
        if let Some(known) = state.records.get(&key).or_else(|| state.tombstones.get(&key)) {
            return if known.fingerprint == claim.fingerprint {
                Claimed::Joined(Box::new(known.clone()))
            } else {
                Claimed::KeyReused(claim.op_id)
            };
        }
        if let Some(holder) = state.holder(&claim.tenant, &claim.name) {
            return Claimed::NameTaken(holder.op_id.clone());
        }
        state.lease(&claim.owner, claim.now + claim.lease);
        let mut record = first_record(claim, &self.store);
        record.seq = state.place(&record.tenant);
        state.records.insert(key, record.clone());
        Claimed::New(Box::new(record))
    }

    fn step_now(&self, step: Step) -> Result<Stepped, LedgerError> {
        let mut state = self.state();
        let mut next = *step.next;
        let key = (next.tenant.clone(), next.op_id.clone());
        let Some(old) = state.records.get(&key).filter(|o| o.fence == next.fence && o.uid == next.uid) else {
            return Ok(Stepped::Fenced);
        };
        if old.rev != next.rev {
            return Ok(Stepped::Changed(Box::new(old.clone())));
        }
        if let Some(rule) = broken_rule(old, &next) {
            return Err(LedgerError::Invalid {
                place: format!("{}/{}", next.tenant, next.op_id),
                detail: rule.to_owned(),
            });
        }
        let change = quota::difference(old.charge, next.charge);
        let kept = quota::release(state.used(&next.tenant), change.decrease);
        let limits = state.limits.get(&next.tenant).filter(|_| !step.over_quota).copied().unwrap_or_default();
        if let Err(shortage) = quota::charge(kept, change.increase, &limits) {
            return Ok(Stepped::QuotaExceeded(shortage));
        }
        if !step.over_quota
            && let Some(tree) = state.trees.get(&next.tenant).and_then(|tree| Tree::new(tree).ok())
            && let Err(shortage) =
                tree.admit(&state.pots(&next.tenant), &parts(old), &parts(&next), tree::class_of(&next))
        {
            return Ok(Stepped::QuotaExceeded(shortage));
        }
        let (before, after) = (parts(old), parts(&next));
        let tree = state.trees.get(&next.tenant).and_then(|tree| Tree::new(tree).ok()).unwrap_or_default();
        if tree.has_budgets() {
            let moment = Moment::of(next.updated_at);
            let (mut pots, spends) =
                (state.pots(&next.tenant), state.spends.get(&next.tenant).cloned().unwrap_or_default());
            let lifetime = next.spec.active_deadline_seconds;
            if !step.over_quota
                && let Err(shortage) = spend::affords(&tree, (&spends, &pots), (&before, &after), (&moment, lifetime))
            {
                return Ok(Stepped::QuotaExceeded(shortage));
            }
            move_parts(&mut pots, &before, &after);
            let changed = spend::advanced(&spends, spend::repriced(&before, &after), &pots, &moment);
            state.spends.entry(next.tenant.clone()).or_default().extend(changed);
        }
        next.rev += 1;
        next.seq = state.place(&next.tenant);
        state.records.insert(key, next.clone());
        Ok(Stepped::Written(Box::new(next)))
    }

    fn remove_now(&self, key: &Key, now: Time, reason: Option<&str>) -> Option<Box<OperationRecord>> {
        let mut state = self.state();
        let Some(mut record) = state.records.get(key).cloned() else {
            return state.tombstones.get(key).cloned().map(Box::new);
        };
        if record.removal.is_none() && !record.is_gone() {
            record.removal =
                Some(Removal { requested_at: now, completed_at: None, reason: reason.map(ToOwned::to_owned) });
            record.due = Some(now);
            record.updated_at = now;
            record.rev += 1;
            record.seq = state.place(&key.0);
            state.records.insert(key.clone(), record.clone());
        }
        Some(Box::new(record))
    }

    fn take_over_now(&self, wish: TakeOver) -> TakenOver {
        let mut state = self.state();
        let key = (wish.tenant, wish.op_id);
        let Some(mut record) = state.records.get(&key).cloned() else {
            return TakenOver::Missing;
        };
        if let Some(until) = state.leased_until(&record.fence.owner, wish.now) {
            return TakenOver::Leased(until.since(wish.now));
        }
        state.lease(&wish.owner, wish.now + wish.lease);
        record.fence = Fence { store: self.store.clone(), counter: record.fence.counter + 1, owner: wish.owner };
        record.updated_at = wish.now;
        record.rev += 1;
        record.seq = state.place(&key.0);
        state.records.insert(key, record.clone());
        TakenOver::Taken(Box::new(record.clone()))
    }

    fn expire_now(&self, keep_until: Time, forget_until: Time, limit: usize) -> usize {
        let mut state = self.state();
        let limit = limit.min(MANY_MAX);
        let forgotten = State::oldest(&state.tombstones, forget_until, limit);
        let gone = State::oldest(&state.records, keep_until, limit - forgotten.len());
        state.tombstones.retain(|key, _| !forgotten.contains(key));
        for key in &gone {
            if let Some(record) = state.records.remove(key) {
                state.tombstones.insert(key.clone(), tombstone(record));
            }
        }
        forgotten.len() + gone.len()
    }
}

/// An answer that needs no waiting.
fn ready<'a, T: Send + 'a>(answer: Result<T, LedgerError>) -> LedgerFuture<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl Ledger for MemoryLedger {
    fn claim(&self, claim: Claim) -> LedgerFuture<'_, Claimed> {
        let answer = self.claim_now(claim);
        self.written.notify_waiters();
        ready(Ok(answer))
    }

    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped> {
        let answer = self.step_now(step);
        self.written.notify_waiters();
        ready(answer)
    }

    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
        reason: Option<&str>,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let answer = self.remove_now(&(tenant.clone(), op.clone()), now, reason);
        self.written.notify_waiters();
        ready(Ok(answer))
    }

    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver> {
        let answer = self.take_over_now(wish);
        self.written.notify_waiters();
        ready(Ok(answer))
    }

    fn renew(&self, owner: &str, now: Time, lease: Duration) -> LedgerFuture<'_, ()> {
        self.state().lease(owner, now + lease);
        ready(Ok(()))
    }

    fn release(&self, owner: &str) -> LedgerFuture<'_, ()> {
        self.state().leases.remove(owner);
        ready(Ok(()))
    }

    fn abandoned(&self, except: &str, now: Time, limit: usize) -> LedgerFuture<'_, Vec<OperationRecord>> {
        let state = self.state();
        let left = |r: &&OperationRecord| {
            r.due.is_some() && r.fence.owner != except && state.leased_until(&r.fence.owner, now).is_none()
        };
        ready(Ok(state.records.values().filter(left).take(limit.min(MANY_MAX)).cloned().collect()))
    }

    fn feed(&self, after: &FeedPosition, known: &Known, wait: Duration) -> LedgerFuture<'_, Option<Feed>> {
        let (after, known) = (after.clone(), known.clone());
        Box::pin(async move {
            let changed = async {
                loop {
                    let written = self.written.notified();
                    let feed = self.state().since(&after, &known);
                    if feed.position != after {
                        return feed;
                    }
                    written.await;
                }
            };
            let feed = tokio::time::timeout(wait, changed).await;
            Ok(Some(feed.unwrap_or_else(|_| Feed { position: after.clone(), ..Feed::default() })))
        })
    }

    fn operation(&self, tenant: &TenantId, op: &OperationId) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let key = (tenant.clone(), op.clone());
        let state = self.state();
        let found = state.records.get(&key).or_else(|| state.tombstones.get(&key)).cloned();
        ready(Ok(found.map(Box::new)))
    }

    fn instance(&self, tenant: &TenantId, name: &InstanceName) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        ready(Ok(self.state().holder(tenant, name).cloned().map(Box::new)))
    }

    fn records(&self, from: Option<(TenantId, OperationId)>, limit: usize) -> LedgerFuture<'_, RecordPage> {
        let state = self.state();
        let mut rest = state.records.iter().filter(|(key, _)| from.as_ref().is_none_or(|from| *key >= from));
        let records = rest.by_ref().take(limit.clamp(1, MANY_MAX)).map(|(_, r)| r.clone()).collect();
        ready(Ok(RecordPage { records, next: rest.next().map(|(key, _)| key.clone()) }))
    }

    fn usage(&self, tenant: &TenantId) -> LedgerFuture<'_, Usage> {
        let state = self.state();
        ready(Ok(Usage { used: state.used(tenant), limits: state.limits.get(tenant).copied().unwrap_or_default() }))
    }

    fn set_limits(&self, tenant: &TenantId, limits: QuotaLimits) -> LedgerFuture<'_, ()> {
        self.state().limits.insert(tenant.clone(), limits);
        ready(Ok(()))
    }

    fn books(&self, tenant: &TenantId) -> LedgerFuture<'_, Books> {
        let state = self.state();
        let limits = state.limits.get(tenant).copied().unwrap_or_default();
        let tree = state.trees.get(tenant).cloned().unwrap_or_default();
        ready(Ok(Books {
            usage: Usage { used: state.used(tenant), limits },
            pots: state.pots(tenant),
            tree,
            spends: state.spends.get(tenant).cloned().unwrap_or_default(),
        }))
    }

    fn set_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> LedgerFuture<'_, ()> {
        let valid = match valid_tree(tenant, tree) {
            Ok(valid) => valid,
            Err(error) => return ready(Err(error)),
        };
        let mut state = self.state();
        state.trees.insert(tenant.clone(), tree.clone());
        if valid.has_budgets() {
            let (pots, spends) = (state.pots(tenant), state.spends.get(tenant).cloned().unwrap_or_default());
            let all = spend::all_projects(&spends, &pots);
            state.spends.insert(tenant.clone(), spend::advanced(&spends, all, &pots, &Moment::of(now)));
        } else {
            state.spends.remove(tenant);
        }
        ready(Ok(()))
    }

    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize> {
        ready(Ok(self.expire_now(keep_until, forget_until, limit)))
    }
}
