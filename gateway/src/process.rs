//! A gateway as a process: opens the ledger, builds the stacks, binds both listeners, drains.
//!
//! The order of the end matters: first no new requests, then those in work, then the operations, then the admin
//! listener, which answers for health until the last moment.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use base64::Engine as _;
use meridian_ledger::embedded::{EmbeddedLedger, OpenError, Options, SealKey};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
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
    telemetry::{Metrics, core::CoreMetrics},
};

/// Bytes of the key that seals the ledger.
const KEY_LEN: usize = 32;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger does not open.
    #[error("the ledger cannot be used")]
    Ledger(#[from] OpenError),
    /// `ledger.keyFile` holds no key.
    #[error("ledger.keyFile must hold 32 bytes as 64 hexadecimal digits or base64")]
    Key,
    /// The stacks cannot be built.
    #[error("the configuration cannot be used")]
    Build(#[from] BuildError),
    /// A listener cannot be made.
    #[error("a listener cannot be made")]
    Serve(#[from] ServeError),
    /// The ledger's thread that opens the file ended.
    #[error("opening the ledger was interrupted")]
    Interrupted,
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

/// The key of the ledger: its own, or one that follows from the deployment's secret.
fn seal_key(config: &Config) -> Result<SealKey, StartError> {
    let Some(key) = &config.ledger.key else {
        let secret = config.deployment.secret.expose_secret();
        let hash = Sha256::new().chain_update(b"meridian ledger seal v1").chain_update(secret.as_bytes());
        return Ok(SealKey::new(hash.finalize().into()));
    };
    let text = key.expose_secret().trim();
    let bytes = if text.len() == 2 * KEY_LEN { hex(text) } else { base64::prelude::BASE64_STANDARD.decode(text).ok() };
    let bytes: [u8; KEY_LEN] = bytes.and_then(|b| b.try_into().ok()).ok_or(StartError::Key)?;
    Ok(SealKey::new(bytes))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

/// Makes the ledger's folder and opens the file, away from the runtime's threads.
async fn open_ledger(
    config: &Config,
    drain: &CancellationToken,
    fatal: &Arc<OnceLock<String>>,
) -> Result<EmbeddedLedger, StartError> {
    let path = config.ledger.path.clone();
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    }
    let (drain, fatal) = (drain.clone(), Arc::clone(fatal));
    let options = Options::new(path, seal_key(config)?, move |why| {
        // Nothing can be promised any more: stop taking work, and let a restart recover.
        tracing::error!(why, "the ledger cannot go on");
        let _ = fatal.set(why.to_owned());
        drain.cancel();
    });
    let opened = tokio::task::spawn_blocking(move || EmbeddedLedger::open(options)).await;
    Ok(opened.map_err(|_| StartError::Interrupted)??)
}

impl Process {
    /// Starts a gateway; when this returns, it takes requests.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (drain, admin_drain) = (CancellationToken::new(), CancellationToken::new());
        let fatal = Arc::new(OnceLock::new());
        let ledger = Arc::new(open_ledger(&config, &drain, &fatal).await?);
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let metrics = Metrics::new();
        let health = Health::new(drain.clone());
        let failed = Arc::clone(&fatal);
        health.depend_on("ledger", move || failed.get().map_or(Ok(()), |why| Err(why.clone())));
        let core_metrics = CoreMetrics::register(&metrics);
        let deps = Deps {
            clock: clock.clone(),
            entropy: entropy.clone(),
            ledger,
            metrics: core_metrics,
            draining: drain.clone(),
        };
        let core = Core::start(&config, deps).await?;
        let parts = Parts {
            operations: operation::stack(&core),
            metrics: Arc::clone(&metrics),
            clock,
            entropy: entropy.clone(),
            health: Arc::clone(&health),
        };
        let limits = &config.server.limits;
        let api = Setup {
            handler: Http::build(&config, parts),
            tls: config.server.tls.as_ref(),
            limits: limits.clone(),
            metrics: Arc::clone(&metrics),
            entropy: entropy.clone(),
            drain: drain.clone(),
        };
        let admin = Setup {
            handler: Admin::new(health, Arc::clone(&metrics), config.redacted()),
            tls: None,
            limits: limits.clone(),
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
