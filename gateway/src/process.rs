//! A gateway as a process: opens the ledger, builds the stacks, binds both listeners, drains.
//!
//! The order of the end matters: first no new requests, then those in work, then the operations, then the admin
//! listener, which answers for health until the last moment.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use meridian_ledger::{Standing, shared::Shared};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Health},
    audit::{Audit, OpenError, witness::Witness},
    clock::{Clock, Entropy},
    config::Config,
    core::{BuildError, Core, Deps},
    http::{Http, Parts},
    operation,
    server::{Drained, ServeError, Server, Setup},
    store::{self, StoreError},
    telemetry::{Metrics, audit::AuditMetrics, core::CoreMetrics},
};

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger does not open.
    #[error("the ledger cannot be used")]
    Ledger(#[from] StoreError),
    /// The stacks cannot be built.
    #[error("the configuration cannot be used")]
    Build(#[from] BuildError),
    /// The audit log does not open.
    #[error("the audit log cannot be used")]
    Audit(#[from] OpenError),
    /// The thread that opens it ended.
    #[error("opening the audit log was interrupted")]
    Interrupted,
    /// A listener cannot be made.
    #[error("a listener cannot be made")]
    Serve(#[from] ServeError),
}

/// A running gateway.
#[derive(Debug)]
pub struct Process {
    core: Arc<Core>,
    audit: Audit,
    api: SocketAddr,
    admin: SocketAddr,
    drain: CancellationToken,
    admin_drain: CancellationToken,
    end_audit: CancellationToken,
    keeping: JoinHandle<()>,
    fatal: Arc<OnceLock<String>>,
    serving: JoinHandle<Drained>,
    administering: JoinHandle<Drained>,
}

/// Health that depends on a ledger that can go on.
fn health(drain: &CancellationToken, fatal: &Arc<OnceLock<String>>) -> Arc<Health> {
    let (health, failed) = (Health::new(drain.clone()), Arc::clone(fatal));
    health.depend_on("ledger", move || failed.get().map_or(Ok(()), |why| Err(why.clone())));
    health
}

/// Shows how the ledger and the intent journal stand, which make no gateway unready: the one is all gateways', and
/// without the other reads and deletes go on.
pub fn tell_of(health: &Health, core: &Core) {
    let (store, recovering) = (Arc::clone(&core.ledger), core.recovering.clone());
    health.tell("store", move || {
        Ok(match (store.standing(), recovering.seconds_left()) {
            (Standing::Unavailable, _) => "unavailable".to_owned(),
            (Standing::Serving, 0) => "serving".to_owned(),
            (Standing::Serving | Standing::Recovering, left) => format!("recovering, about {left} s left"),
        })
    });
    if let Some(watcher) = core.sources.watcher.clone() {
        health.tell("directory", move || watcher.broken().map_or_else(|| Ok("in force".to_owned()), Err));
    }
    let credentials = Arc::clone(&core.credentials);
    health.tell("credentials", move || {
        let told =
            credentials.troubles().into_iter().map(|(backend, why)| format!("{backend} keeps the old ones: {why}"));
        let told: Vec<String> = told.collect();
        if told.is_empty() { Ok("current".to_owned()) } else { Err(told.join("; ")) }
    });
    if !core.identities.issuers().is_empty() {
        let identities = Arc::clone(&core.identities);
        health.tell("issuers", move || identities.standing());
    }
    let driver = core.driver.clone();
    health.tell("intentJournal", move || match driver.journal_trouble() {
        None => Ok("writable".to_owned()),
        Some(trouble) => {
            let (why, seconds) = (trouble.why, trouble.since.elapsed().as_secs());
            Err(format!("creates are refused for {seconds} s now: {why}"))
        }
    });
}

/// Shows whether changes can be recorded. A gateway that cannot goes on with its reads, so it stays ready.
pub fn tell_of_audit(health: &Health, audit: &Audit) {
    let audit = audit.clone();
    health.tell("audit", move || match audit.trouble() {
        None if audit.is_on() => Ok("writable".to_owned()),
        None => Ok("off".to_owned()),
        Some(trouble) => {
            let (why, seconds) = (trouble.why, trouble.since.elapsed().as_secs());
            Err(format!("changes are refused for {seconds} s now: {why}"))
        }
    });
}

/// Opens the configured audit log, away from the runtime's threads.
async fn open_audit(
    config: &Config,
    (clock, entropy): (&Clock, &Entropy),
    metrics: &Metrics,
) -> Result<Audit, StartError> {
    let Some(settings) = config.audit.settings() else { return Ok(Audit::off()) };
    let (clock, entropy, metrics) = (clock.clone(), entropy.clone(), AuditMetrics::register(metrics));
    let opened = tokio::task::spawn_blocking(move || Audit::open(settings, clock, &entropy, metrics)).await;
    Ok(opened.map_err(|_| StartError::Interrupted)??)
}

/// Signs the audit log's heads, and exchanges them with other gateways.
fn keep_audit(audit: &Audit, shared: Arc<dyn Shared>, stop: &CancellationToken) -> JoinHandle<()> {
    let (keeping, witness) = (audit.clone().keep(stop.clone()), Witness::new(audit.clone(), shared));
    let witnessing = witness.keep(stop.clone());
    tokio::spawn(async move {
        tokio::join!(keeping, witnessing);
    })
}

/// What both listeners are made of.
struct Edge<'a> {
    core: &'a Arc<Core>,
    audit: &'a Audit,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    clock: Clock,
    entropy: Entropy,
}

impl Edge<'_> {
    /// Binds the API and the admin listener; each ends with its token.
    fn bind(
        self,
        config: &Config,
        (drain, admin_drain): (&CancellationToken, &CancellationToken),
    ) -> Result<(Server<Http>, Server<Admin>), ServeError> {
        let Self { core, audit, metrics, health, clock, entropy } = self;
        let parts = Parts {
            operations: operation::stack(core),
            metrics: Arc::clone(&metrics),
            clock,
            entropy: entropy.clone(),
            health: Arc::clone(&health),
            directory: Arc::clone(&core.directory),
            identities: Arc::clone(&core.identities),
            audit: audit.clone(),
        };
        let api = Setup {
            handler: Http::build(config, parts),
            tls: config.server.tls.as_ref(),
            limits: config.server.limits.clone(),
            metrics: Arc::clone(&metrics),
            entropy: entropy.clone(),
            drain: drain.clone(),
        };
        let admin = Setup {
            handler: Admin::new(health, Arc::clone(&metrics), config.redacted()).over(Arc::clone(core)),
            tls: None,
            limits: config.server.limits.clone(),
            metrics,
            entropy,
            drain: admin_drain.clone(),
        };
        let api = Server::bind(config.server.listen, api)?;
        Ok((api, Server::bind(config.server.admin_listen, admin)?))
    }
}

impl Process {
    /// Starts a gateway; when this returns, it takes requests.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (drain, admin_drain) = (CancellationToken::new(), CancellationToken::new());
        let fatal = Arc::new(OnceLock::new());
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let (ending, failure) = (drain.clone(), Arc::clone(&fatal));
        let opened = store::open(&config, move |why| {
            // Nothing can be promised any more: stop taking work, and let a restart recover.
            tracing::error!(why, "the ledger cannot go on");
            let _ = failure.set(why.to_owned());
            ending.cancel();
        })
        .await?;
        let (metrics, shared) = (Metrics::new(), Arc::clone(&opened.shared));
        let health = health(&drain, &fatal);
        let audit = open_audit(&config, (&clock, &entropy), &metrics).await?;
        let deps = Deps {
            clock: clock.clone(),
            entropy: entropy.clone(),
            ledger: opened.ledger,
            shared: opened.shared,
            recovery: opened.recovery,
            documents: opened.documents,
            intents: opened.intents,
            metrics: CoreMetrics::register(&metrics),
            draining: drain.clone(),
            audit: audit.clone(),
        };
        let core = Core::start(&config, deps).await?;
        tell_of(&health, &core);
        tell_of_audit(&health, &audit);
        let edge = Edge { core: &core, audit: &audit, metrics, health, clock, entropy };
        let bound = edge.bind(&config, (&drain, &admin_drain));
        let (api, admin) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                core.stop().await;
                return Err(error.into());
            }
        };
        let end_audit = CancellationToken::new();
        Ok(Self {
            core,
            keeping: keep_audit(&audit, shared, &end_audit),
            audit,
            end_audit,
            api: api.local_addr(),
            admin: admin.local_addr(),
            drain,
            admin_drain,
            fatal,
            serving: tokio::spawn(api.run()),
            administering: tokio::spawn(admin.run()),
        })
    }

    /// Address of the API.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Address of the admin listener.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Reads anew, at once, the folder that declares tenants, and what the backends' credentials come from.
    pub async fn reload(&self) {
        let Core { credentials, sources, .. } = &*self.core;
        if credentials.is_empty() && sources.watcher.is_none() {
            tracing::warn!("there is nothing to reload: neither [directory] nor credentials in files or from commands");
        }
        credentials.reload();
        let Some(watcher) = &sources.watcher else { return };
        if let Err(broken) = watcher.reload().await {
            tracing::error!(%broken, "the folder is broken; everything stays as it was");
        }
    }

    /// Waits until somebody asks for the end: the admin listener, or a ledger that cannot go on.
    pub async fn stopping(&self) {
        self.drain.cancelled().await;
    }

    /// Drains and stops.
    ///
    /// # Errors
    /// The ledger had failed; the text says why.
    pub async fn stop(self) -> Result<(), String> {
        let Self { core, audit, drain, admin_drain, end_audit, keeping, fatal, serving, administering, .. } = self;
        drain.cancel();
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API listener ended badly");
        }
        core.stop().await;
        admin_drain.cancel();
        if let Err(error) = administering.await {
            tracing::error!(%error, "the admin listener ended badly");
        }
        // Last: whatever changes something is recorded.
        end_audit.cancel();
        if let Err(error) = keeping.await {
            tracing::error!(%error, "the keeper of the audit log ended badly");
        }
        audit.close().await;
        fatal.get().map_or(Ok(()), |why| Err(why.clone()))
    }
}
