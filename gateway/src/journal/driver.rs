//! The driver: owns operations from their claim to their end, one task each.
//!
//! A task walks its record with [`super::machine::next`], does what that says, and writes each result through the
//! ledger before it acts on it. It lives in the driver, never in a request's future: a client that goes away or
//! a deadline that passes ends the waiting, not the work. After a restart [`Driver::recover`] begins the same
//! walk at whatever records nobody drives, and while it runs [`Driver::adopt_abandoned`] does so for what other
//! gateways left.
//!
//! A task stops early only when the ledger says that somebody else owns its record, or when the process drains;
//! in both cases the record says where to go on. Requests that wait for a record that another gateway drives
//! follow it through the ledger's feed (`follow`).

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use futures_util::FutureExt as _;
use meridian_ledger::{Ledger, LedgerError, TakeOver, TakenOver};
use meridian_model::operation::OperationRecord;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    disk::Disk,
    follow::Feeding,
    identity::Deployment,
    intent::IntentLog,
    machine::Limits,
    running::{Key, Registry, Running, Tables, key_of, tell},
    task::Task,
};
use crate::{
    audit::Audit,
    clock::{Clock, Entropy},
    planner::Planner,
    status::{fleet::Fleet, poll::Pollers},
    telemetry::core::{CoreMetrics, OPERATION},
};

/// Records per page of the walk at start-up.
const RECOVERY_PAGE: usize = 500;

/// Records without an owner that are taken over in one go.
const ABANDONED_MAX: usize = 100;

/// Longest wait for the ledger to hear that this process ends; after it the lease runs out by itself.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// Where the states of a record show.
pub type Followed = watch::Receiver<Arc<OperationRecord>>;

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

/// Owns the operations of this process.
#[derive(Debug, Clone)]
pub struct Driver(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) owner: String,
    registry: Registry,
    pub(super) feeding: Feeding,
    pub(super) disk: Disk,
    pub(super) tasks: TaskTracker,
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
    /// Records what clouds were had to do.
    pub audit: Audit,
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
        let (registry, feeding, disk) =
            (Registry::default(), Feeding::default(), Disk::new(Arc::clone(&parts.metrics)));
        // No create has to find that out, and nothing is taken over for it.
        if let Some(why) = parts.intents.unwritable() {
            disk.failed(&why);
        }
        Self(Arc::new(Inner { parts, owner, registry, feeding, disk, tasks: TaskTracker::new(), stop }))
    }

    /// Records who changed what, and what clouds were had to do.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.0.parts.audit
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

    /// Whether one more operation may be begun. What is being begun by requests that nobody waits for any more counts
    /// too.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let max = self.0.parts.settings.open_max;
        self.0.registry().running.len() < max && self.0.tasks.len() < max.saturating_mul(2)
    }

    /// Whether any operation is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.0.registry().running.is_empty()
    }

    /// Drives a record this process owns; returns where its changes can be followed.
    pub fn start(&self, record: Box<OperationRecord>) -> Followed {
        let key = key_of(&record);
        let shown = Arc::new((*record).clone());
        let mut registry = self.0.registry();
        if let Some(already) = registry.running.get(&key) {
            // Who only joins must not drive: each wake-up costs calls to the vendor. A task whose record was taken over
            // for it may be about to stop, since its fence is an old one.
            let taken = already.updates.borrow().fence != record.fence;
            // Whoever waits sees what this call brought, though the task may be deaf for as long as a vendor takes.
            tell(&already.updates, &shown);
            return if taken || record.removal.is_some() { already.ask() } else { already.updates.subscribe() };
        }
        // Who waited while somebody else drove it goes on waiting.
        let updates = registry.followed.remove(&key).unwrap_or_else(|| watch::Sender::new(Arc::clone(&shown)));
        tell(&updates, &shown);
        let receiver = updates.subscribe();
        let entry = Running::new(updates);
        registry.running.insert(key.clone(), entry.clone());
        self.0.parts.metrics.running(registry.running.len());
        drop(registry);
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            let span = tracing::info_span!(OPERATION, meridian.tenant.id = %key.0, meridian.operation.id = %key.1);
            let task = Task::new(Arc::clone(&inner), entry);
            let walk = AssertUnwindSafe(tracing::Instrument::instrument(task.run(&key, record), span));
            if walk.catch_unwind().await.is_err() {
                // What it did is in the ledger. Off the list, so that it is driven again before long.
                let mut registry = inner.registry();
                registry.running.remove(&key);
                tracing::error!(meridian.operation.id = %key.1, "the task of an operation panicked");
                registry.fallen.insert(key);
            }
        });
        receiver
    }

    /// Fills the fleet with every record, and takes over those that nobody drives. Returns how many those are. Tenants
    /// that cannot be read while others can are read by [`Driver::follow_feed`] as soon as they can.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn recover(&self) -> Result<usize, LedgerError> {
        let parts = &self.0.parts;
        if !self.catch_up().await? {
            let mut from = None;
            loop {
                let page = parts.ledger.records(from, RECOVERY_PAGE).await?;
                for record in page.records {
                    parts.fleet.put(Arc::new(record));
                }
                match page.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            self.0.feeding.read_all();
        }
        let mut taken = 0;
        loop {
            match self.adopt_abandoned().await? {
                0 => return Ok(taken),
                more => taken += more,
            }
        }
    }

    /// Takes over records whose owner holds no lease any more, as far as there is room; returns how many. Called
    /// again and again while the gateway runs.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn adopt_abandoned(&self) -> Result<usize, LedgerError> {
        let parts = &self.0.parts;
        self.raise_fallen().await?;
        let room = parts.settings.open_max.saturating_sub(self.0.registry().running.len());
        let wanted = room.min(ABANDONED_MAX);
        // Who can create nothing leaves it to those who can.
        if wanted == 0 || self.0.stop.is_cancelled() || self.journal_trouble().is_some() {
            return Ok(0);
        }
        let left = parts.ledger.abandoned(&self.0.owner, parts.clock.now(), wanted).await?;
        let mut taken = 0;
        for record in left {
            if let TakenOver::Taken(record) = self.take_over(&record).await? {
                parts.fleet.put(Arc::new((*record).clone()));
                self.start(record);
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Drives on what a task left by a panic, or an import by its caller's going away: this process holds its lease, so nobody else will.
    async fn raise_fallen(&self) -> Result<(), LedgerError> {
        let fallen: Vec<Key> = {
            let registry = self.0.registry();
            registry.fallen.difference(&registry.importing).take(ABANDONED_MAX).cloned().collect()
        };
        for key in fallen {
            let record = self.0.parts.ledger.operation(&key.0, &key.1).await?;
            {
                let mut registry = self.0.registry();
                if registry.importing.contains(&key) {
                    continue;
                }
                registry.fallen.remove(&key);
            }
            if let Some(record) = record.filter(|r| r.fence.owner == self.0.owner && r.due.is_some()) {
                self.start(record);
            }
        }
        Ok(())
    }

    async fn take_over(&self, record: &OperationRecord) -> Result<TakenOver, LedgerError> {
        let parts = &self.0.parts;
        let wish = TakeOver {
            tenant: record.tenant.clone(),
            op_id: record.op_id.clone(),
            owner: self.0.owner.clone(),
            now: parts.clock.now(),
            lease: self.lease(),
        };
        parts.ledger.take_over(wish).await
    }

    /// Has a record driven, by this process if it is its own, or nobody's and the journal is writable, and returns where
    /// its changes show: from its task, or through the feed when another process drives it.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn adopt(&self, record: Box<OperationRecord>) -> Result<Followed, LedgerError> {
        if record.fence.owner == self.0.owner {
            return Ok(self.start(record));
        }
        // A delete needs no journal. Everything else is left to those who can create, and waited for like what they have.
        if self.journal_trouble().is_some() && record.removal.is_none() {
            return self.follow_other(record).await;
        }
        match self.take_over(&record).await? {
            TakenOver::Taken(record) => Ok(self.start(record)),
            TakenOver::Leased(_) => self.follow_other(record).await,
            // Nothing will change any more: whoever waits there is answered at once.
            TakenOver::Missing => Ok(watch::Sender::new(Arc::new(*record)).subscribe()),
        }
    }

    /// Where the changes of a record that this process does not drive show.
    async fn follow_other(&self, record: Box<OperationRecord>) -> Result<Followed, LedgerError> {
        let key = key_of(&record);
        // First the place to wait at, then the look: what is written after the look is shown there.
        let followed = self.0.registry().follow(&key, &Arc::new(*record));
        match self.0.parts.ledger.operation(&key.0, &key.1).await? {
            // Two requests of this process may find a record without an owner at once.
            Some(record) if record.fence.owner == self.0.owner => Ok(self.start(record)),
            Some(record) => {
                self.0.registry().show(&key, &Arc::new(*record));
                Ok(followed)
            }
            None => Ok(followed),
        }
    }

    /// The same for a record that was changed from outside its walk: its task, if this process has it, looks again.
    pub(super) async fn adopt_anew(&self, record: Box<OperationRecord>) -> Result<Followed, LedgerError> {
        if let Some(running) = self.0.registry().running.get(&key_of(&record)) {
            return Ok(running.ask());
        }
        self.adopt(record).await
    }

    /// Waits until every task has come to a point where its record says how to go on, then tells the ledger that
    /// this process drives nothing any more, so that others go on at once (R17).
    pub async fn drain(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        let released = tokio::time::timeout(RELEASE_WITHIN, self.0.parts.ledger.release(&self.0.owner)).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!("the ledger was not told of the end; others take over when the lease has run out");
        }
    }
}

impl Inner {
    pub(super) fn registry(&self) -> MutexGuard<'_, Tables> {
        self.registry.lock()
    }
}
