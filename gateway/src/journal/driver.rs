//! The driver: owns operations from their claim to their end, one task each.
//!
//! A task walks its record with [`machine::next`], does what that says, and writes each result through the
//! ledger before it acts on it. It lives in the driver, never in a request's future: a client that goes away or
//! a deadline that passes ends the waiting, not the work. After a restart [`Driver::recover`] begins the same
//! walk at whatever records are not finished.
//!
//! A task stops early only when the ledger says that somebody else owns its record, or when the process drains;
//! in both cases the record says where to go on.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use meridian_ledger::{Ledger, LedgerError, Step, Stepped, TakeOver, TakenOver};
use meridian_model::{
    ids::{OperationId, TenantId},
    operation::OperationRecord,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    identity::Deployment,
    intent::IntentLog,
    machine::{self, Limits, Next},
    task::Task,
};
use crate::{
    clock::{Clock, Entropy},
    planner::Planner,
    status::{
        fleet::Fleet,
        poll::{Ended, Pollers},
    },
    telemetry::core::{CoreMetrics, OPERATION},
};

/// Records per page of the walk at start-up.
const RECOVERY_PAGE: usize = 500;

/// Settings of the driver.
#[derive(Debug, Clone, Copy)]
pub struct DriverSettings {
    /// Defaults of an operation.
    pub limits: Limits,
    /// How long a record may be left alone before somebody else may take it over.
    pub lease: Duration,
    /// Longest time between the start of the arming ledger step and the first byte of the request.
    pub arm_valid: Duration,
    /// Operations driven at once; beyond it new creates are refused as overloaded.
    pub open_max: usize,
}

pub(super) type Key = (TenantId, OperationId);

/// An operation under way in this process.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) wake: Arc<Notify>,
    /// Somebody changed the record in the ledger; the task must look again before it ends.
    pub(super) asked: Arc<AtomicBool>,
    pub(super) updates: watch::Sender<Arc<OperationRecord>>,
}

impl Running {
    /// Has the task look at its record again; returns where its changes show. Called under the lock of the map,
    /// so that a task that is about to end sees it.
    fn ask(&self) -> watch::Receiver<Arc<OperationRecord>> {
        self.asked.store(true, Ordering::Release);
        self.wake.notify_one();
        self.updates.subscribe()
    }
}

/// Owns the operations of this process.
#[derive(Debug, Clone)]
pub struct Driver(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) owner: String,
    running: Mutex<HashMap<Key, Running>>,
    tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// What the driver works with.
#[derive(Debug)]
pub struct Parts {
    /// Durable records.
    pub ledger: Arc<dyn Ledger>,
    /// What reads see.
    pub fleet: Arc<Fleet>,
    /// Backends and their pollers.
    pub pollers: Pollers,
    /// Chooses candidates and resolves profiles.
    pub planner: Arc<Planner>,
    /// Names instances.
    pub deployment: Deployment,
    /// Wall clock.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// What is about to be sent, for the rebuild of a shared ledger.
    pub intents: Arc<dyn IntentLog>,
    /// Counts attempts and operations.
    pub metrics: Arc<CoreMetrics>,
    /// Settings.
    pub settings: DriverSettings,
}

impl Driver {
    /// A driver that owns nothing yet.
    #[must_use]
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let owner = format!("{:032x}", parts.entropy.next());
        Self(Arc::new(Inner { parts, owner, running: Mutex::default(), tasks: TaskTracker::new(), stop }))
    }

    /// The random part of this process' fences.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.0.owner
    }

    /// For how long this process may be waited for from its last sign of life.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.0.parts.settings.lease
    }

    /// Whether one more operation may be begun.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.running().len() < self.0.parts.settings.open_max
    }

    /// Whether any operation is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.0.running().is_empty()
    }

    /// Drives a record this process owns; returns where its changes can be followed.
    pub fn start(&self, record: Box<OperationRecord>) -> watch::Receiver<Arc<OperationRecord>> {
        let key = (record.tenant.clone(), record.op_id.clone());
        let mut running = self.0.running();
        if let Some(already) = running.get(&key) {
            // Who only joins must not drive: each wake-up costs calls to the vendor.
            return if record.removal.is_some() { already.ask() } else { already.updates.subscribe() };
        }
        let entry = Running {
            wake: Arc::new(Notify::new()),
            asked: Arc::new(AtomicBool::new(false)),
            updates: watch::Sender::new(Arc::new((*record).clone())),
        };
        let receiver = entry.updates.subscribe();
        running.insert(key.clone(), entry.clone());
        self.0.parts.metrics.running(running.len());
        drop(running);
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            let span = tracing::info_span!(OPERATION, meridian.tenant.id = %key.0, meridian.operation.id = %key.1);
            let task = Task { inner: Arc::clone(&inner), running: entry };
            let walk = AssertUnwindSafe(tracing::Instrument::instrument(task.run(&key, record), span));
            if walk.catch_unwind().await.is_err() {
                // What it did is in the ledger. Off the list, so that the next who asks has it driven again.
                inner.running().remove(&key);
                tracing::error!(meridian.operation.id = %key.1, "the task of an operation panicked");
            }
        });
        receiver
    }

    /// Takes over every record that is not finished, and fills the fleet with all others.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn recover(&self) -> Result<usize, LedgerError> {
        let parts = &self.0.parts;
        let (mut from, mut taken) = (None, 0);
        loop {
            let page = parts.ledger.records(from, RECOVERY_PAGE).await?;
            for record in page.records {
                let unfinished = machine::next(&record) != Next::Done;
                parts.fleet.put(Arc::new(record.clone()));
                if unfinished && self.adopt(Box::new(record)).await?.is_some() {
                    taken += 1;
                }
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(taken),
            }
        }
    }

    /// Drives a record, taking it over first unless it is this process' own. `None` when another process holds it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn adopt(
        &self,
        record: Box<OperationRecord>,
    ) -> Result<Option<watch::Receiver<Arc<OperationRecord>>>, LedgerError> {
        if record.fence.owner == self.0.owner {
            return Ok(Some(self.start(record)));
        }
        let (now, tenant, op_id) = (self.0.parts.clock.now(), record.tenant, record.op_id);
        let wish = TakeOver {
            tenant: tenant.clone(),
            op_id: op_id.clone(),
            owner: self.0.owner.clone(),
            now,
            lease: self.lease(),
        };
        Ok(match self.0.parts.ledger.take_over(wish).await? {
            TakenOver::Taken(record) => Some(self.start(record)),
            // Two requests of this process may find a record without an owner at once.
            TakenOver::Leased(_) => match self.0.parts.ledger.operation(&tenant, &op_id).await? {
                Some(record) if record.fence.owner == self.0.owner => Some(self.start(record)),
                _ => None,
            },
            TakenOver::Missing => None,
        })
    }

    /// Ends the charges of instances that ended by themselves.
    pub async fn settle_ended(self, mut ended: mpsc::Receiver<Ended>) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                next = ended.recv() => next,
            };
            let Some(Ended { record, observed }) = next else { return };
            let wish = self.0.parts.ledger.operation(&record.tenant, &record.op_id).await;
            let Ok(Some(current)) = wish else { continue };
            let Some(next) = machine::ended(*current, &observed, self.0.parts.clock.now()) else { continue };
            if let Ok(Stepped::Written(written)) = self.0.parts.ledger.step(Step { next: Box::new(next) }).await {
                self.0.parts.fleet.put(Arc::new(*written));
            }
        }
    }

    /// Waits until every task has come to a point where its record says how to go on.
    pub async fn drain(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    pub(super) fn running(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        // A poisoned lock means a panic between two complete states; the map is whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
