//! A gateway as a process: opens the ledger, builds the stacks, binds both listeners, drains.
//!
//! The order of the end matters: first no new requests, then those in work, then the operations, then the admin
//! listener, which answers for health until the last moment.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use meridian_ledger::Standing;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Health},
    clock::{Clock, Entropy},
    config::Config,
    core::{BuildError, Core, Deps},
    http::{Http, Parts},
    operation,
    server::{Drained, ServeError, Server, Setup},
    store::{self, StoreError},
    telemetry::{Metrics, core::CoreMetrics},
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
    /// A listener cannot be made.
    #[error("a listener cannot be made")]
    Serve(#[from] ServeError),
}

/// A running gateway.
#[derive(Debug)]
pub struct Process {
    core: Arc<Core>,
    api: SocketAddr,
    admin: SocketAddr,
    drain: CancellationToken,
    admin_drain: CancellationToken,
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
    let driver = core.driver.clone();
    health.tell("intentJournal", move || match driver.journal_trouble() {
        None => Ok("writable".to_owned()),
        Some(trouble) => {
            let (why, seconds) = (trouble.why, trouble.since.elapsed().as_secs());
            Err(format!("creates are refused for {seconds} s now: {why}"))
        }
    });
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
        let metrics = Metrics::new();
        let health = health(&drain, &fatal);
        let deps = Deps {
            clock: clock.clone(),
            entropy: entropy.clone(),
            ledger: opened.ledger,
            shared: opened.shared,
            recovery: opened.recovery,
            intents: opened.intents,
            metrics: CoreMetrics::register(&metrics),
            draining: drain.clone(),
        };
        let core = Core::start(&config, deps).await?;
        tell_of(&health, &core);
        let parts = Parts {
            operations: operation::stack(&core),
            metrics: Arc::clone(&metrics),
            clock,
            entropy: entropy.clone(),
            health: Arc::clone(&health),
            directory: Arc::clone(&core.directory),
            identities: Arc::clone(&core.identities),
        };
        let api = Setup {
            handler: Http::build(&config, parts),
            tls: config.server.tls.as_ref(),
            limits: config.server.limits.clone(),
            metrics: Arc::clone(&metrics),
            entropy: entropy.clone(),
            drain: drain.clone(),
        };
        let admin = Setup {
            handler: Admin::new(health, Arc::clone(&metrics), config.redacted()).over(Arc::clone(&core)),
            tls: None,
            limits: config.server.limits.clone(),
            metrics,
            entropy,
            drain: admin_drain.clone(),
        };
        let bound = Server::bind(config.server.listen, api)
            .and_then(|api| Ok((api, Server::bind(config.server.admin_listen, admin)?)));
        let (api, admin) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                core.stop().await;
                return Err(error.into());
            }
        };
        Ok(Self {
            core,
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

    /// Waits until somebody asks for the end: the admin listener, or a ledger that cannot go on.
    pub async fn stopping(&self) {
        self.drain.cancelled().await;
    }

    /// Drains and stops.
    ///
    /// # Errors
    /// The ledger had failed; the text says why.
    pub async fn stop(self) -> Result<(), String> {
        let Self { core, drain, admin_drain, fatal, serving, administering, .. } = self;
        drain.cancel();
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API listener ended badly");
        }
        core.stop().await;
        admin_drain.cancel();
        if let Err(error) = administering.await {
            tracing::error!(%error, "the admin listener ended badly");
        }
        fatal.get().map_or(Ok(()), |why| Err(why.clone()))
    }
}
