//! A ledger that can be taken away and given back, be slow to write, and whose answers to writes can be held up or lost.

use std::{
    collections::BTreeMap,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use meridian_ledger::{
    Books, Claim, Claimed, Feed, FeedPosition, Known, Ledger, LedgerError, LedgerFuture, RecordPage, Standing, Step,
    Stepped, TakeOver, TakenOver, Usage,
};
use meridian_model::{
    ids::{InstanceName, OperationId, TenantId},
    operation::{OperationRecord, OperationState, QuotaLimits},
    quota::QuotaTree,
    time::Time,
};
use tokio::sync::watch;

/// What becomes of the answer to a claim or a removal that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Given,
    /// Comes when they are given again.
    Held,
    Lost,
}

#[derive(Debug)]
pub struct Flaky {
    inner: Arc<dyn Ledger>,
    mood: AtomicU8,
    success_takes_ms: AtomicU64,
    answers: watch::Sender<Answers>,
    /// The tenants that the feed cannot read.
    behind: Mutex<BTreeMap<TenantId, String>>,
    /// Limits are not taken while it says so; it counts how often they were not.
    limits: watch::Sender<(bool, u64)>,
}

impl Flaky {
    pub fn new(inner: Arc<dyn Ledger>) -> Self {
        Self {
            inner,
            mood: AtomicU8::new(0),
            success_takes_ms: AtomicU64::new(0),
            answers: watch::Sender::new(Answers::Given),
            behind: Mutex::default(),
            limits: watch::Sender::default(),
        }
    }

    /// From now on limits are not taken, or are again.
    pub fn refuse_limits(&self, refuse: bool) {
        self.limits.send_modify(|(refuses, _)| *refuses = refuse);
    }

    /// How often they were not taken.
    pub fn refused_limits(&self) -> watch::Receiver<(bool, u64)> {
        self.limits.subscribe()
    }

    /// From now on an operation's success is written so much later than it is asked for.
    pub fn delay_success(&self, ms: u64) {
        self.success_takes_ms.store(ms, Ordering::Release);
    }

    pub fn answer(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }

    fn after<'a, T: Send + 'a>(&'a self, write: LedgerFuture<'a, T>) -> LedgerFuture<'a, T> {
        Box::pin(async move {
            let answer = write.await?;
            let mut answers = self.answers.subscribe();
            let how = *answers.wait_for(|how| *how != Answers::Held).await.unwrap();
            if how == Answers::Lost { Err(LedgerError::Unanswered("the line was cut".to_owned())) } else { Ok(answer) }
        })
    }

    pub fn set(&self, standing: Standing) {
        let mood = match standing {
            Standing::Serving => 0,
            Standing::Unavailable => 1,
            Standing::Recovering => 2,
        };
        self.mood.store(mood, Ordering::Release);
    }

    pub fn hide(&self, tenants: &[&str]) {
        let why = |tenant: &&str| (tenant.parse().unwrap(), "damaged".to_owned());
        *self.behind.lock().unwrap() = tenants.iter().map(why).collect();
    }

    fn or<'a, T: Send + 'a>(&'a self, answer: impl FnOnce() -> LedgerFuture<'a, T>) -> LedgerFuture<'a, T> {
        match self.standing() {
            Standing::Serving => answer(),
            Standing::Unavailable => Box::pin(ready(Err(LedgerError::Unavailable("taken away".to_owned())))),
            Standing::Recovering => Box::pin(ready(Err(LedgerError::Recovering("rolled back".to_owned())))),
        }
    }
}

impl Ledger for Flaky {
    fn claim(&self, claim: Claim) -> LedgerFuture<'_, Claimed> {
        self.or(|| self.after(self.inner.claim(claim)))
    }

    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped> {
        let ms = self.success_takes_ms.load(Ordering::Acquire);
        if ms > 0 && step.next.state == OperationState::Succeeded {
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.or(|| self.inner.step(step)).await
            });
        }
        self.or(|| self.inner.step(step))
    }

    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
        reason: Option<&str>,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, op, reason) = (tenant.clone(), op.clone(), reason.map(ToOwned::to_owned));
        self.or(|| self.after(self.inner.request_removal(&tenant, &op, now, reason.as_deref())))
    }

    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver> {
        self.or(|| self.inner.take_over(wish))
    }

    fn renew(&self, owner: &str, now: Time, lease: Duration) -> LedgerFuture<'_, ()> {
        let owner = owner.to_owned();
        self.or(|| self.inner.renew(&owner, now, lease))
    }

    fn release(&self, owner: &str) -> LedgerFuture<'_, ()> {
        let owner = owner.to_owned();
        self.or(|| self.inner.release(&owner))
    }

    fn abandoned(&self, except: &str, now: Time, limit: usize) -> LedgerFuture<'_, Vec<OperationRecord>> {
        let except = except.to_owned();
        self.or(|| self.inner.abandoned(&except, now, limit))
    }

    fn feed(&self, after: &FeedPosition, known: &Known, wait: Duration) -> LedgerFuture<'_, Option<Feed>> {
        let (after, known) = (after.clone(), known.clone());
        self.or(|| {
            let feed = self.inner.feed(&after, &known, wait);
            Box::pin(async move {
                let Some(mut feed) = feed.await? else { return Ok(None) };
                feed.behind.clone_from(&self.behind.lock().unwrap());
                Ok(Some(feed))
            })
        })
    }

    fn standing(&self) -> Standing {
        match self.mood.load(Ordering::Acquire) {
            0 => Standing::Serving,
            1 => Standing::Unavailable,
            _ => Standing::Recovering,
        }
    }

    fn operation(&self, tenant: &TenantId, op: &OperationId) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, op) = (tenant.clone(), op.clone());
        self.or(|| self.inner.operation(&tenant, &op))
    }

    fn instance(&self, tenant: &TenantId, name: &InstanceName) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, name) = (tenant.clone(), name.clone());
        self.or(|| self.inner.instance(&tenant, &name))
    }

    fn records(&self, from: Option<(TenantId, OperationId)>, limit: usize) -> LedgerFuture<'_, RecordPage> {
        self.or(|| self.inner.records(from, limit))
    }

    fn usage(&self, tenant: &TenantId) -> LedgerFuture<'_, Usage> {
        let tenant = tenant.clone();
        self.or(|| self.inner.usage(&tenant))
    }

    fn set_limits(&self, tenant: &TenantId, limits: QuotaLimits) -> LedgerFuture<'_, ()> {
        if self.limits.borrow().0 {
            self.limits.send_modify(|(_, count)| *count += 1);
            return Box::pin(ready(Err(LedgerError::Recovering("limits are not taken".to_owned()))));
        }
        let tenant = tenant.clone();
        self.or(|| self.inner.set_limits(&tenant, limits))
    }

    fn books(&self, tenant: &TenantId) -> LedgerFuture<'_, Books> {
        let tenant = tenant.clone();
        self.or(|| self.inner.books(&tenant))
    }

    fn set_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> LedgerFuture<'_, ()> {
        let (tenant, tree) = (tenant.clone(), tree.clone());
        self.or(|| self.inner.set_tree(&tenant, &tree, now))
    }

    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize> {
        self.or(|| self.inner.expire(keep_until, forget_until, limit))
    }
}
