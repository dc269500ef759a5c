//! What the operation stack works with: everything that outlives a request, wired once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meridian_adapters::{http::HttpClient, registry::ConfigError};
use meridian_ledger::{Ledger, LedgerError, Quota, documents::Documents, recovery::Recovery, shared::Shared};
use meridian_model::ids::{BackendId, TenantId};
use secrecy::ExposeSecret;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agreement::{self, Agreement},
    audit::Audit,
    clock::{Clock, Entropy},
    config::{Config, Known},
    directory::{
        Declared, Directory, Snapshot,
        files::Broken,
        follower::Follower,
        watcher::{self, Watcher},
    },
    http::drawn::Drawer,
    identity::Identities,
    journal::{
        driver::{Driver, DriverSettings, Parts},
        identity::Deployment,
        intent::IntentLog,
        machine::Limits,
        rebuild::{self, Progress, Rebuilder},
        reconciler::Reconciler,
    },
    operation::policies::HeavyTurns,
    planner::Planner,
    profiles::Profiles,
    quota_watch::QuotaWatch,
    regions::{
        Backend,
        budget::Budget,
        build::{Outside, backends},
    },
    replicas::Replicas,
    secrets::rotate::Credentials,
    status::{
        fleet::Fleet,
        lead::Leadership,
        poll::{Ended, PollSettings, Poller, Pollers, ended_channel},
        sweep::{SweepReport, report_channel},
    },
    telemetry::{core::CoreMetrics, policies::PolicyMetrics, seldom::Seldom},
};

/// How often the ledger is asked to shrink what is long gone, and at most how many records at a time.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);
const EXPIRE_BATCH: usize = 1000;
const EXPIRE_BATCHES_MAX: usize = 1000;

/// Shortest time between two renewals of the lease or two looks for what was left.
const TICK_MIN: Duration = Duration::from_millis(10);

/// Longest time between two looks for what other gateways left: who drained has released its lease, and what it left
/// waits for nothing but this look (R17).
const TAKE_OVER_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// First and longest pause between two tries to set the limits of tenants that could not be written at the start, doubled
/// from one to the other. Who rebuilds a tenant sets them as well.
const LIMITS_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How long the tombstone of an operation is kept (RELIABILITY 2.6).
const TOMBSTONE_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why the core cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A backend's settings cannot be used.
    #[error("backend {backend}: {source}")]
    Backend {
        /// The backend.
        backend: BackendId,
        /// What is wrong.
        source: ConfigError,
    },
    /// The outgoing HTTP client cannot be made.
    #[error("the outgoing HTTP client cannot be made: {0}")]
    Http(String),
    /// The folder that declares tenants is broken.
    #[error("the directory is broken\n{0}")]
    Directory(#[from] Broken),
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Everything that outlives a request.
#[derive(Debug)]
pub struct Core {
    /// Wall clock.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// Names operations and instances.
    pub deployment: Deployment,
    /// Durable operations and usage.
    pub ledger: Arc<dyn Ledger>,
    /// What reads see.
    pub fleet: Arc<Fleet>,
    /// Backends and their pollers.
    pub pollers: Pollers,
    /// Chooses candidates.
    pub planner: Arc<Planner>,
    /// Drives operations.
    pub driver: Driver,
    /// Knows what runs without an operation.
    pub reconciler: Reconciler,
    /// Cancelled when the process begins to drain: who waits for an operation is answered with how it stands.
    pub draining: CancellationToken,
    /// How far a ledger that lost writes is from taking them again.
    pub recovering: Progress,
    /// Who there is, with which rules and limits.
    pub directory: Arc<Directory>,
    /// Counts what the rules of policies do.
    pub judged: PolicyMetrics,
    /// Turns of trials and of writes of policies.
    pub(crate) turns: HeavyTurns,
    /// Whose word is taken for who is calling.
    pub identities: Arc<Identities>,
    /// Looks at what tenants use.
    pub quota_watch: Arc<QuotaWatch>,
    pub(crate) is_shared: bool,
    /// The tenants whose quota this gateway has had the ledger keep: a tenant without one would be bounded by nothing.
    pub(crate) bounded: watch::Sender<BTreeSet<TenantId>>,
    /// What it is kept up with.
    pub sources: Sources,
    /// What keeps the backends' credentials up to date.
    pub credentials: Arc<Credentials>,
    /// The vendors' calls.
    pub budget: Budget,
    retention: Duration,
    /// Cancelled when nothing is written any more.
    written: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the directory is kept up with, besides the configuration.
#[derive(Debug)]
pub struct Sources {
    /// Follows the folder that declares a part of it, if there is one.
    pub watcher: Option<Arc<Watcher>>,
    /// Writes and follows the documents that declare another part.
    pub(crate) documents: Arc<Follower>,
}

/// What comes from outside the configuration.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Wall clock.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// The open ledger.
    pub ledger: Arc<dyn Ledger>,
    /// What this gateway has in common with others: `MemoryShared::alone()` when there are none, `RedisShared` on a
    /// connection of its own beside a Redis ledger.
    pub shared: Arc<dyn Shared>,
    /// How a ledger that several gateways share is rebuilt; none for one of this process alone.
    pub recovery: Option<Arc<dyn Recovery>>,
    /// Documents made by the API, which all gateways know.
    pub documents: Arc<dyn Documents>,
    /// What is about to be sent, for the rebuild of a shared ledger.
    pub intents: Arc<dyn IntentLog>,
    /// Counts what happens.
    pub metrics: Arc<CoreMetrics>,
    /// Cancelled when the process begins to drain.
    pub draining: CancellationToken,
    /// Records who changed what, and what was done for it.
    pub audit: Audit,
}

impl Core {
    /// Wires everything and starts the pollers; binds no socket. The fleet is filled, and operations that nobody
    /// drives are taken over, before this returns; of a shared ledger, as far as it can be read then.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn start(config: &Config, deps: Deps) -> Result<Arc<Self>, BuildError> {
        let http = HttpClient::new().map_err(|e| BuildError::Http(e.to_string()))?;
        Self::start_over(config, deps, http).await
    }

    /// As [`Core::start`], with calls to the vendors over a client of the caller's making.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn start_over(config: &Config, deps: Deps, http: HttpClient) -> Result<Arc<Self>, BuildError> {
        let deployment = Deployment::new(&config.deployment.id, config.deployment.secret.expose_secret().as_bytes());
        let profiles = Profiles::new(config);
        let (fleet, (ended_tx, ended_rx)) = (Arc::new(Fleet::default()), ended_channel());
        let replicas = Replicas::new(Arc::clone(&deps.shared), format!("{:032x}", deps.entropy.next()));
        replicas.attend().await;
        let outside = Outside::of(&deps, &replicas);
        let (built, rotations) = backends(config, &profiles, (&deployment, &http, &outside))?;
        let lead = |backend: &Backend| leadership(backend, &deps.shared, &replicas, config);
        let (pollers, reports) = polled(built, config, (&fleet, &deps.clock, &ended_tx), lead);
        let limits = Limits { place_timeout: config.driver.place_timeout.0, attempts_max: config.driver.max_attempts };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let told = (Arc::clone(&deps.shared), replicas.owner().to_owned());
        let (directory, sources) = attend(config, &deps, replicas, (&tasks, &stop)).await?;
        let quota_watch = QuotaWatch::new(&deps, &directory);
        let planner = Arc::new(Planner::new(pollers.clone(), fleet.clone(), profiles, directory.clone(), limits));
        let identities = identities(config, &http, &deps, (&tasks, &stop));
        let parts = Parts {
            ledger: Arc::clone(&deps.ledger),
            fleet: Arc::clone(&fleet),
            pollers: pollers.clone(),
            planner: Arc::clone(&planner),
            deployment: deployment.clone(),
            clock: deps.clock.clone(),
            entropy: deps.entropy.clone(),
            intents: deps.intents,
            audit: deps.audit.clone(),
            metrics: Arc::clone(&deps.metrics),
            settings: driver_settings(config, limits),
        };
        let driver = Driver::new(parts, stop.clone());
        let rebuilt = |recovery| Rebuilder::new(rebuild::Parts::of(recovery, &driver, &directory));
        let rebuilder = deps.recovery.map(rebuilt);
        let core = Arc::new(Self {
            judged: deps.metrics.policies.clone(),
            turns: HeavyTurns::default(),
            identities,
            quota_watch,
            recovering: rebuilder.as_ref().map(Rebuilder::progress).unwrap_or_default(),
            is_shared: deps.shared.is_shared(),
            bounded: watch::Sender::default(),
            clock: deps.clock,
            entropy: deps.entropy,
            deployment,
            ledger: deps.ledger,
            fleet,
            pollers,
            planner,
            reconciler: Reconciler::new(driver.clone(), Arc::clone(&directory), config.reconcile.clone(), told),
            driver,
            draining: deps.draining,
            directory,
            credentials: Credentials::start(rotations, (&tasks, &stop)),
            budget: outside.budget,
            sources,
            retention: config.driver.retention.0,
            written: CancellationToken::new(),
            stop,
            tasks,
        });
        core.begin(rebuilder, ended_rx, reports).await?;
        Ok(core)
    }

    /// Starts the pollers, opens the ledger's books and starts what works on it.
    async fn begin(
        self: &Arc<Self>,
        rebuilder: Option<Rebuilder>,
        ended: mpsc::Receiver<Ended>,
        reports: Vec<mpsc::Receiver<SweepReport>>,
    ) -> Result<(), BuildError> {
        for poller in self.pollers.all() {
            self.tasks.spawn(Arc::clone(poller).run(self.stop.clone()));
        }
        self.tasks.spawn(Arc::clone(&self.quota_watch).run(self.stop.clone()));
        self.tasks.spawn(self.driver.clone().settle_ended(ended));
        let is_shared = rebuilder.is_some();
        if let Some(rebuilder) = rebuilder {
            self.tasks.spawn(rebuilder.run(self.written.clone()));
        }
        let changes = self.directory.changes();
        self.budget.set_weights(self.directory.load().weights());
        let mut limits = KeptLimits::of(&self.directory.load());
        let opened = self.open_books(&mut limits).await;
        match opened {
            Ok(()) => {}
            // Whatever can be read is served, and the ledger answers for itself.
            Err(error) if is_shared && may_pass(&error) => {
                tracing::error!(%error, "the gateway starts without its ledger, or a part of it, until that is there");
            }
            Err(error) => {
                self.stop().await;
                return Err(error.into());
            }
        }
        self.tasks.spawn(Arc::clone(self).keep_limits(limits, changes));
        self.tasks.spawn(self.driver.clone().look_after_journal(self.stop.clone()));
        self.tasks.spawn(Arc::clone(self).keep_ledger());
        self.tasks.spawn(Arc::clone(self).take_over());
        self.tasks.spawn(self.driver.clone().follow_feed());
        for reported in reports {
            self.tasks.spawn(self.reconciler.clone().run(reported, self.stop.clone()));
        }
        Ok(())
    }

    /// Sets the tenants' limits, fills the fleet and takes over what nobody drives, of each tenant of which that can be
    /// done now; `limits` knows which are not set. The rest is read and taken over by the tasks that follow the
    /// ledger.
    async fn open_books(&self, limits: &mut KeptLimits) -> Result<(), LedgerError> {
        let limits = self.set_limits(limits).await;
        let taken = self.driver.recover().await?;
        if taken > 0 {
            tracing::info!(operations = taken, "took over operations that nobody drove");
        }
        limits
    }

    /// Sets the limits that are due. A tenant that cannot be written holds up no other.
    async fn set_limits(&self, limits: &mut KeptLimits) -> Result<(), LedgerError> {
        let mut failed = None;
        for (tenant, quota) in limits.due.clone() {
            match self.set_limit(&tenant, &quota).await {
                Ok(()) => {
                    self.bounded.send_if_modified(|bounded| bounded.insert(tenant.clone()));
                    limits.done(tenant, quota);
                }
                Err(error @ (LedgerError::Recovering(_) | LedgerError::Damaged { .. })) => failed = Some(error),
                // The store answers nobody.
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn set_limit(&self, tenant: &TenantId, quota: &Quota) -> Result<(), LedgerError> {
        if self.is_shared {
            agreement::tell_replaced(&*self.ledger, tenant, quota.limits).await?;
        }
        self.ledger.set_limits(tenant, quota.limits).await?;
        self.ledger.set_tree(tenant, &quota.tree, self.clock.now()).await
    }

    /// Sets limits as they change, and those that could not be set when they should.
    async fn keep_limits(self: Arc<Self>, mut limits: KeptLimits, mut changes: watch::Receiver<u64>) {
        let mut wait = LIMITS_WAIT.0;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = changes.changed() => {
                    // The directory lives as long as this task.
                    if changed.is_err() {
                        return;
                    }
                    limits.want(&self.directory.load());
                    self.budget.set_weights(self.directory.load().weights());
                    wait = LIMITS_WAIT.0;
                }
                () = tokio::time::sleep(wait), if !limits.due.is_empty() => {}
            }
            if limits.due.is_empty() {
                continue;
            }
            match self.set_limits(&mut limits).await {
                Ok(()) => tracing::info!("the limits of all tenants are set"),
                Err(error) => tracing::debug!(%error, tenants = limits.due.len(), "limits are not set yet"),
            }
            wait = (wait * 2).min(LIMITS_WAIT.1);
        }
    }

    /// The tenants whose books were not read since the start: their reads are refused.
    #[must_use]
    pub fn unread(&self) -> BTreeSet<TenantId> {
        let mut unread = self.driver.unread().unwrap_or_default();
        let snapshot = self.directory.load();
        let declared = snapshot.tenants().map(|(tenant, _)| tenant);
        unread.extend(declared.filter(|tenant| !self.driver.has_read(tenant)).cloned());
        unread
    }

    /// Renews the lease and shrinks what is long gone. A lease is renewed while something is driven; one that lapses
    /// in idle times harms nobody, and the next claim extends it. Who cannot begin what it has lets its lease end
    /// (`journal::disk`).
    async fn keep_ledger(self: Arc<Self>) {
        let lease = self.driver.lease();
        let each = (lease / 3).max(TICK_MIN);
        let mut renew = tokio::time::interval(each);
        let mut expire = tokio::time::interval(EXPIRE_INTERVAL);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        expire.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = renew.tick() => {
                    let now = self.clock.now();
                    if !self.driver.is_busy() || self.driver.journal_trouble().is_some() {
                        continue;
                    }
                    match tokio::time::timeout(each, self.ledger.renew(self.driver.owner(), now, lease)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(%error, "leases were not renewed"),
                        Err(_) => tracing::warn!("leases were not renewed in time"),
                    }
                }
                _ = expire.tick() => {
                    // A slow walk over old records must not cost the lease.
                    match tokio::time::timeout(each, self.expire_all()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(%error, "old operations were not shrunk"),
                        Err(_) => tracing::warn!("not all old operations were shrunk in time; the rest is later"),
                    }
                }
            }
        }
    }

    /// Shrinks what is long gone, batch after batch, so that it keeps up with any rate of creates.
    async fn expire_all(&self) -> Result<(), LedgerError> {
        let now = self.clock.now();
        for _ in 0..EXPIRE_BATCHES_MAX {
            if self.ledger.expire(now - self.retention, now - TOMBSTONE_KEPT, EXPIRE_BATCH).await? < EXPIRE_BATCH {
                break;
            }
        }
        Ok(())
    }

    /// Takes over what other gateways left, again and again.
    async fn take_over(self: Arc<Self>) {
        let mut tick = tokio::time::interval((self.driver.lease() / 3).clamp(TICK_MIN, TAKE_OVER_INTERVAL_MAX));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let taking = async {
            let mut seldom = Seldom::default();
            loop {
                tick.tick().await;
                match self.driver.adopt_abandoned().await {
                    Ok(operations) => {
                        seldom.over();
                        if operations > 0 {
                            tracing::info!(operations, "took over operations that nobody drove");
                        }
                    }
                    Err(error) if seldom.is_due(&error) => {
                        tracing::warn!(%error, "what nobody drives was not taken over");
                    }
                    Err(_) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = taking => {}
        }
    }

    /// Stops pollers and brings every operation to a point where its record says how to go on.
    pub async fn stop(&self) {
        self.driver.drain().await;
        self.stop.cancel();
        // Who says that it is gone is not asked what it saw: not before its last write.
        self.written.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What a shared ledger that cannot be worked with may recover from, or a tenant of it while others are served.
fn may_pass(error: &LedgerError) -> bool {
    match error {
        LedgerError::Unavailable(_)
        | LedgerError::Unanswered(_)
        | LedgerError::Recovering(_)
        | LedgerError::Damaged { .. } => true,
        LedgerError::Invalid { .. } => false,
    }
}

fn driver_settings(config: &Config, limits: Limits) -> DriverSettings {
    DriverSettings {
        limits,
        lease: config.driver.lease.0,
        arm_valid: config.driver.arm_valid.0,
        open_max: config.driver.open_max,
    }
}

/// A poller for each backend, and where the reports of their sweeps come out.
fn polled(
    built: Vec<Arc<Backend>>,
    config: &Config,
    (fleet, clock, ended): (&Arc<Fleet>, &Clock, &mpsc::Sender<Ended>),
    leadership: impl Fn(&Backend) -> Option<Leadership>,
) -> (Pollers, Vec<mpsc::Receiver<SweepReport>>) {
    let pairs = built.into_iter().map(|backend| {
        let (reporting, reported) = report_channel();
        let lead = leadership(&backend);
        let poller = Poller::new(backend, Arc::clone(fleet), clock.clone(), poll_settings(config), ended.clone());
        let poller = poller.reporting(reporting);
        (Arc::new(lead.into_iter().fold(poller, Poller::sharing)), reported)
    });
    let (pollers, reports): (Vec<_>, Vec<_>) = pairs.unzip();
    (Pollers::new(pollers), reports)
}

/// The limits that this gateway has the ledger keep.
#[derive(Debug)]
struct KeptLimits {
    /// As they were set last.
    set: BTreeMap<TenantId, Quota>,
    /// Not set yet.
    due: BTreeMap<TenantId, Quota>,
}

impl KeptLimits {
    fn of(snapshot: &Snapshot) -> Self {
        Self { set: BTreeMap::new(), due: snapshot.whole_quotas() }
    }

    fn want(&mut self, snapshot: &Snapshot) {
        self.due = snapshot.whole_quotas();
        self.due.retain(|tenant, quota| self.set.get(tenant) != Some(quota));
    }

    fn done(&mut self, tenant: TenantId, quota: Quota) {
        self.due.remove(&tenant);
        self.set.insert(tenant, quota);
    }
}

/// Reads the folder that declares tenants, if there is one, and follows it from then on.
async fn watch_folder(
    config: &Config,
    directory: &Arc<Directory>,
    deps: &Deps,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> Result<Option<Arc<Watcher>>, Broken> {
    let Some(mut first) = watcher::first(config).await? else { return Ok(None) };
    let changes = directory.set_files(std::mem::take(&mut first.files))?;
    // What was changed while no gateway ran shows as another digest than that of the start before.
    deps.audit.reloaded(first.folder(), &first.digest(), &changes);
    let told = (Arc::clone(&deps.metrics), deps.audit.clone());
    let watcher = Watcher::new(config, Arc::clone(directory), first, told);
    tasks.spawn(Arc::clone(&watcher).run(stop.clone()));
    Ok(Some(watcher))
}

/// Starts to attend and, if there are others, to draw from the limits that all share and to see that they agree on them.
async fn attend(
    config: &Config,
    deps: &Deps,
    replicas: Replicas,
    running: (&TaskTracker, &CancellationToken),
) -> Result<(Arc<Directory>, Sources), BuildError> {
    let directory = share_limits(config, deps, replicas, running);
    let watcher = watch_folder(config, &directory, deps, running).await?;
    let documents = Follower::new(Arc::clone(&deps.documents), Arc::clone(&directory));
    match documents.look().await {
        Ok(()) => {}
        Err(error) if deps.documents.is_shared() && may_pass(&error) => {
            tracing::error!(%error, "the gateway starts without the documents made by the API, until they are told");
        }
        Err(error) => return Err(error.into()),
    }
    running.0.spawn(Arc::clone(&documents).run(running.1.clone()));
    Ok((directory, Sources { watcher, documents }))
}

fn share_limits(
    config: &Config,
    deps: &Deps,
    replicas: Replicas,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> Arc<Directory> {
    tasks.spawn(replicas.clone().run(stop.clone()));
    let directory = |drawer| {
        let directory = Directory::over(Declared::of(config), Some(Known::of(config)), deps.clock.clone(), drawer);
        if deps.documents.is_shared() {
            directory.share();
        }
        directory
    };
    if !deps.shared.is_shared() {
        return directory(None);
    }
    let drawer = Drawer::new(Arc::clone(&deps.shared), replicas, deps.clock.clone());
    tasks.spawn(Arc::clone(&drawer).run(stop.clone()));
    let directory = directory(Some(drawer));
    let agreement = Agreement::new(Arc::clone(&deps.ledger), Arc::clone(&directory), Arc::clone(&deps.metrics));
    tasks.spawn(agreement.run(stop.clone()));
    directory
}

/// Starts to learn whose word is taken for who is calling.
fn identities(
    config: &Config,
    http: &HttpClient,
    deps: &Deps,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> Arc<Identities> {
    let identities = Identities::new(config.identity_rules(), http, &deps.clock, &deps.metrics.identity);
    identities.start(tasks, stop);
    identities
}

/// Makes a backend one that gateways share, if there are others.
fn leadership(backend: &Backend, shared: &Arc<dyn Shared>, replicas: &Replicas, config: &Config) -> Option<Leadership> {
    if !shared.is_shared() {
        return None;
    }
    let task = format!("sweep/{}", backend.id);
    Some(Leadership::new(Arc::clone(shared), replicas.clone(), task, config.status.sweep_interval.0))
}

fn poll_settings(config: &Config) -> PollSettings {
    PollSettings {
        sweep_interval: config.status.sweep_interval.0,
        watch_interval: config.status.fast_interval.0,
        market_interval: config.status.inventory_interval.0,
        stale_after: config.status.stale_after.0,
        unreachable_after: config.status.unreachable_after.0,
    }
}
