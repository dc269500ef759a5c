//! The ledger in memory: what the trait means, with nothing else in the way.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use meridian_model::{
    ids::{InstanceName, OperationId, TenantId},
    operation::{Charge, Fence, OperationRecord, QuotaLimits, Removal},
    quantity::{MemoryMib, MilliCpu},
    time::Time,
};
use meridian_policies::quota;

use crate::{
    Claim, Claimed, Ledger, LedgerError, LedgerFuture, RecordPage, Step, Stepped, TakeOver, TakenOver, Usage,
    broken_rule, rules::first_record, tombstone,
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
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Key, OperationRecord>,
    tombstones: BTreeMap<Key, OperationRecord>,
    limits: BTreeMap<TenantId, QuotaLimits>,
}

impl State {
    fn used(&self, tenant: &TenantId) -> Charge {
        self.records.values().filter(|r| r.tenant == *tenant).fold(Charge::default(), |sum, r| Charge {
            instances: sum.instances + r.charge.instances,
            cpu: MilliCpu(sum.cpu.0 + r.charge.cpu.0),
            memory: MemoryMib(sum.memory.0 + r.charge.memory.0),
            gpu: sum.gpu + r.charge.gpu,
            public_ips: sum.public_ips + r.charge.public_ips,
        })
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
        Self { store: store.into(), state: Mutex::default() }
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
        let record = first_record(claim, &self.store);
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
        let limits = state.limits.get(&next.tenant).copied().unwrap_or_default();
        if let Err(shortage) = quota::charge(kept, change.increase, &limits) {
            return Ok(Stepped::QuotaExceeded(shortage));
        }
        next.rev += 1;
        next.lease_until = next.lease_until.max(old.lease_until);
        state.records.insert(key, next.clone());
        Ok(Stepped::Written(Box::new(next)))
    }

    fn remove_now(&self, key: &Key, now: Time) -> Option<Box<OperationRecord>> {
        let mut state = self.state();
        let Some(record) = state.records.get_mut(key) else {
            return state.tombstones.get(key).cloned().map(Box::new);
        };
        if record.removal.is_none() && !record.is_gone() {
            record.removal = Some(Removal { requested_at: now, completed_at: None });
            record.due = Some(now);
            record.updated_at = now;
            record.rev += 1;
        }
        Some(Box::new(record.clone()))
    }

    fn take_over_now(&self, wish: TakeOver) -> TakenOver {
        let mut state = self.state();
        let Some(record) = state.records.get_mut(&(wish.tenant, wish.op_id)) else {
            return TakenOver::Missing;
        };
        if record.lease_until > wish.now && !(wish.force && record.fence.owner != wish.owner) {
            return TakenOver::Leased(record.lease_until);
        }
        record.fence = Fence { store: self.store.clone(), counter: record.fence.counter + 1, owner: wish.owner };
        record.lease_until = wish.lease_until;
        record.updated_at = wish.now;
        record.rev += 1;
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
        ready(Ok(self.claim_now(claim)))
    }

    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped> {
        ready(self.step_now(step))
    }

    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        ready(Ok(self.remove_now(&(tenant.clone(), op.clone()), now)))
    }

    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver> {
        ready(Ok(self.take_over_now(wish)))
    }

    fn renew(&self, owner: &str, lease_until: Time) -> LedgerFuture<'_, ()> {
        for record in self.state().records.values_mut() {
            if record.due.is_some() && record.fence.owner == owner {
                record.lease_until = record.lease_until.max(lease_until);
            }
        }
        ready(Ok(()))
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

    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize> {
        ready(Ok(self.expire_now(keep_until, forget_until, limit)))
    }
}
