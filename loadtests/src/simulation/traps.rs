//! The moment between an attempt that is journalled and its request, in which the world may catch a gateway.
//!
//! A process that is not run there goes on as if nothing had happened, and finds its timers run out only where it looks
//! at one. So the answer of the ledger waits here, which nothing in the gateway limits in time: a wait below a time
//! limit would end with the limit, as it would not in a process that was stopped.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::{
    Books, Claim, Claimed, Feed, FeedPosition, Known, Ledger, LedgerFuture, RecordPage, Standing, Step, Stepped,
    TakeOver, TakenOver, Usage,
};
use meridian_model::{
    ids::{BackendId, InstanceName, OperationId, TenantId},
    operation::{AttemptState, OperationRecord, QuotaLimits},
    quota::QuotaTree,
    time::Time,
};

use super::{faults::Caught, trace::Trace};

/// How long who is caught waits for what the world does to it: more than one step of the world.
const CAUGHT_WAIT: Duration = Duration::from_millis(12);

/// The traps of one gateway, for all its processes.
#[derive(Debug)]
pub struct Traps {
    host: &'static str,
    trace: Arc<Trace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Attempts until it happens, and what.
    set: VecDeque<(usize, Caught)>,
    /// Where the attempt that was caught goes, and what is to happen.
    sprung: Vec<(BackendId, Caught)>,
}

impl Traps {
    /// No traps for a host.
    #[must_use]
    pub fn new(host: &'static str, trace: &Arc<Trace>) -> Self {
        Self { host, trace: Arc::clone(trace), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic between two complete states.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a trap for the attempt that many from now.
    pub fn set(&self, after: usize, what: Caught) {
        self.state().set.push_back((after.max(1), what));
    }

    /// Takes every trap away.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// What was caught since this was asked last.
    #[must_use]
    pub fn sprung(&self) -> Vec<(BackendId, Caught)> {
        std::mem::take(&mut self.state().sprung)
    }

    /// Counts an attempt; whether it is caught.
    fn catches(&self, backend: &BackendId) -> bool {
        let mut state = self.state();
        for (left, _) in &mut state.set {
            *left = left.saturating_sub(1);
        }
        let at = state.set.iter().position(|(left, _)| *left == 0);
        let caught = at.and_then(|at| state.set.remove(at));
        if let Some((_, what)) = caught {
            state.sprung.push((backend.clone(), what));
        }
        caught.is_some()
    }

    /// Holds the gateway that has journalled an attempt for as long as the world wants it.
    async fn pass(&self, backend: &BackendId) {
        if !self.catches(backend) {
            return;
        }
        tokio::time::sleep(CAUGHT_WAIT).await;
        loop {
            let left = self.trace.stalled_for(self.host);
            if left == Duration::ZERO {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// The ledger of a gateway, with traps.
#[derive(Debug)]
pub struct Trapped {
    /// The ledger.
    pub inner: Arc<dyn Ledger>,
    /// What its gateway can be caught in.
    pub traps: Arc<Traps>,
}

/// Where an attempt goes that was just armed: nothing else writes a record whose attempt is open.
fn armed(record: &OperationRecord) -> Option<&BackendId> {
    record.open_attempt().filter(|a| a.state == AttemptState::Open).map(|a| &a.backend)
}

impl Ledger for Trapped {
    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped> {
        Box::pin(async move {
            let stepped = self.inner.step(step).await?;
            if let Stepped::Written(record) = &stepped
                && let Some(backend) = armed(record)
            {
                self.traps.pass(backend).await;
            }
            Ok(stepped)
        })
    }

    fn claim(&self, claim: Claim) -> LedgerFuture<'_, Claimed> {
        self.inner.claim(claim)
    }

    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
        reason: Option<&str>,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        self.inner.request_removal(tenant, op, now, reason)
    }

    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver> {
        self.inner.take_over(wish)
    }

    fn renew(&self, owner: &str, now: Time, lease: Duration) -> LedgerFuture<'_, ()> {
        self.inner.renew(owner, now, lease)
    }

    fn release(&self, owner: &str) -> LedgerFuture<'_, ()> {
        self.inner.release(owner)
    }

    fn abandoned(&self, except: &str, now: Time, limit: usize) -> LedgerFuture<'_, Vec<OperationRecord>> {
        self.inner.abandoned(except, now, limit)
    }

    fn feed(&self, after: &FeedPosition, known: &Known, wait: Duration) -> LedgerFuture<'_, Option<Feed>> {
        self.inner.feed(after, known, wait)
    }

    fn standing(&self) -> Standing {
        self.inner.standing()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }

    fn operation(&self, tenant: &TenantId, op: &OperationId) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        self.inner.operation(tenant, op)
    }

    fn instance(&self, tenant: &TenantId, name: &InstanceName) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        self.inner.instance(tenant, name)
    }

    fn records(&self, from: Option<(TenantId, OperationId)>, limit: usize) -> LedgerFuture<'_, RecordPage> {
        self.inner.records(from, limit)
    }

    fn usage(&self, tenant: &TenantId) -> LedgerFuture<'_, Usage> {
        self.inner.usage(tenant)
    }

    fn set_limits(&self, tenant: &TenantId, limits: QuotaLimits) -> LedgerFuture<'_, ()> {
        self.inner.set_limits(tenant, limits)
    }

    fn books(&self, tenant: &TenantId) -> LedgerFuture<'_, Books> {
        self.inner.books(tenant)
    }

    fn set_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> LedgerFuture<'_, ()> {
        self.inner.set_tree(tenant, tree, now)
    }

    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize> {
        self.inner.expire(keep_until, forget_until, limit)
    }
}
