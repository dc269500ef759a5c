//! Opens the store that the configuration names: the embedded database or a shared Redis.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::Engine as _;
use meridian_ledger::{
    Ledger, LedgerError,
    documents::Documents,
    embedded::{EmbeddedLedger, OpenError, Options, SealKey},
    recovery::Recovery,
    redis::{self, CheckError, RedisDocuments, RedisLedger, RedisShared},
    shared::{MemoryShared, Shared},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{self, Config, RedisServers, Store},
    journal::intent::{IntentLog, NoIntents, file::FileIntents},
};

/// Between two looks at the settings of the Redis in use: an operator's mistake is seen before its next failover.
const VETTED_EACH: Duration = Duration::from_secs(60);

/// How long replicas are waited for (RELIABILITY 2.9).
const ACKS_WITHIN: Duration = Duration::from_millis(100);
/// Bytes of the key that seals the ledger.
const KEY_LEN: usize = 32;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not open.
    #[error("the database does not open")]
    Embedded(#[from] OpenError),
    /// `ledger.keyFile` holds no key.
    #[error("ledger.keyFile must hold 32 bytes as 64 hexadecimal digits or base64")]
    Key,
    /// The thread that opens the file ended.
    #[error("opening the ledger was interrupted")]
    Interrupted,
    /// A file that it needs cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The options of the Redis cannot be used.
    #[error("the Redis cannot be reached as configured: {0}")]
    Options(String),
    /// The Redis is not one that may hold a ledger.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// What the Redis holds cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The intent journal cannot be used.
    #[error("the intent journal in {path} cannot be used")]
    Intents {
        /// Its folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// Operations and usage.
    pub ledger: Arc<dyn Ledger>,
    /// What several gateways hold in common that is no money: who sweeps, what was seen, rate limits.
    pub shared: Arc<dyn Shared>,
    /// How it is rebuilt, if several gateways share it.
    pub recovery: Option<Arc<dyn Recovery>>,
    /// Documents made by the API.
    pub documents: Arc<dyn Documents>,
    /// This gateway's intent journal.
    pub intents: Arc<dyn IntentLog>,
}

/// Opens the configured store; `fatal` is called once when it cannot go on.
///
/// # Errors
/// [`StoreError`].
pub async fn open(config: &Config, fatal: impl FnOnce(&str) + Send + 'static) -> Result<Opened, StoreError> {
    match &config.ledger.store {
        Store::Embedded { path } => {
            let ledger = Arc::new(embedded(path, seal_key(config)?, fatal).await?);
            Ok(Opened {
                documents: Arc::clone(&ledger) as Arc<dyn Documents>,
                ledger,
                shared: Arc::new(MemoryShared::alone()),
                recovery: None,
                intents: Arc::new(NoIntents),
            })
        }
        Store::Redis(settings) => shared(config, settings).await,
    }
}

/// A ledger in a Redis, and this gateway's intent journal. A Redis that does not answer is no error: it may come.
async fn shared(config: &Config, settings: &config::Redis) -> Result<Opened, StoreError> {
    let opened = shared_ledger(config, settings)?;
    match opened.check_server().await {
        // What weakens it was logged when the connection was made, and is again for each new server.
        Ok(_) => {}
        Err(CheckError::Ledger(error)) => tracing::warn!(%error, "the Redis does not answer yet"),
        Err(refused) => return Err(refused.into()),
    }
    match opened.is_initialised().await {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            "the Redis holds nothing of this deployment: creates are refused until every cloud was looked at; \
             `meridian ledger init` spares a new deployment that wait"
        ),
        Err(error @ LedgerError::Damaged { .. }) => return Err(error.into()),
        Err(error) => tracing::debug!(%error, "it is not known whether the Redis holds this deployment"),
    }
    let folder = settings.journal_dir.clone();
    let intents = tokio::task::spawn_blocking(move || FileIntents::open(&folder)).await;
    let (intents, found) = intents
        .map_err(|_| StoreError::Interrupted)?
        .map_err(|source| StoreError::Intents { path: settings.journal_dir.clone(), source })?;
    if found.damaged > 0 || found.torn_bytes > 0 {
        tracing::warn!(?found, "the intent journal is damaged; what can be read of it is used");
    }
    let ledger = Arc::new(opened);
    let recovery: Arc<dyn Recovery> = Arc::clone(&ledger) as Arc<dyn Recovery>;
    // A connection of its own: the ledger's tells by its answers how the ledger stands.
    let link = redis::Redis::connect(redis_options(settings)?).map_err(StoreError::Options)?;
    let prefix = format!("{}:{}", settings.prefix, config.deployment.id);
    let documents = RedisDocuments::new(link.clone(), &prefix);
    let shared = RedisShared::new(link, &prefix);
    Ok(Opened { ledger, shared, recovery: Some(recovery), documents, intents: Arc::new(intents) })
}

/// The ledger in the configured Redis alone; asks nothing yet. Must be called within a runtime.
///
/// # Errors
/// [`StoreError`].
pub fn shared_ledger(config: &Config, settings: &config::Redis) -> Result<RedisLedger, StoreError> {
    let mut options = redis_options(settings)?;
    options.vetted = Some(VETTED_EACH);
    let redis = redis::Redis::connect(options).map_err(StoreError::Options)?;
    let replicas = settings.min_replica_acks;
    let acks = (replicas > 0).then_some(redis::Acks { replicas, disk: false, within: ACKS_WITHIN });
    let options = redis::LedgerOptions {
        prefix: format!("{}:{}", settings.prefix, config.deployment.id),
        key: seal_key(config)?,
        time: redis::LeaseTime::Server,
        acks,
    };
    Ok(RedisLedger::new(redis, options)?)
}

/// How the configured Redis is reached.
fn redis_options(redis: &config::Redis) -> Result<redis::Options, StoreError> {
    let address = |a: &config::RedisAddress| redis::Address::new(a.host.clone(), a.port);
    let addresses = |list: &[config::RedisAddress]| list.iter().map(address).collect();
    let servers = match &redis.servers {
        RedisServers::Single(one) => redis::Servers::Single(address(one)),
        RedisServers::Sentinel { master, addresses: list, user, password } => redis::Servers::Sentinel {
            master: master.clone(),
            addresses: addresses(list),
            user: redis::User { name: user.clone(), password: password.clone() },
        },
        RedisServers::Cluster { addresses: list } => redis::Servers::Cluster { addresses: addresses(list) },
    };
    let mut options = redis::Options::new(servers);
    options.user = redis::User { name: redis.user.clone(), password: redis.password.clone() };
    options.call_timeout = redis.call_timeout.0;
    options.tls = redis.tls.as_ref().map(tls).transpose()?;
    Ok(options)
}

fn tls(files: &config::RedisTls) -> Result<redis::Tls, StoreError> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|source| StoreError::File { path: path.clone(), source });
    let client = match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            let text = std::fs::read_to_string(key);
            let key = text.map_err(|source| StoreError::File { path: key.clone(), source })?;
            Some((read(cert)?, SecretString::from(key)))
        }
        _ => None,
    };
    Ok(redis::Tls { authorities: files.ca_file.as_ref().map(read).transpose()?, client })
}

/// Makes the ledger's folder and opens the file, away from the runtime's threads.
async fn embedded(
    path: &Path,
    key: SealKey,
    fatal: impl FnOnce(&str) + Send + 'static,
) -> Result<EmbeddedLedger, StoreError> {
    let path = path.to_owned();
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    }
    let options = Options::new(path, key, fatal);
    let opened = tokio::task::spawn_blocking(move || EmbeddedLedger::open(options)).await;
    Ok(opened.map_err(|_| StoreError::Interrupted)??)
}

/// The key of the ledger: its own, or one that follows from the deployment's secret.
fn seal_key(config: &Config) -> Result<SealKey, StoreError> {
    let Some(key) = &config.ledger.key else {
        let secret = config.deployment.secret.expose_secret();
        let hash = Sha256::new().chain_update(b"meridian ledger seal v1").chain_update(secret.as_bytes());
        return Ok(SealKey::new(hash.finalize().into()));
    };
    let text = key.expose_secret().trim();
    let bytes = if text.len() == 2 * KEY_LEN { hex(text) } else { base64::prelude::BASE64_STANDARD.decode(text).ok() };
    let bytes: [u8; KEY_LEN] = bytes.and_then(|b| b.try_into().ok()).ok_or(StoreError::Key)?;
    Ok(SealKey::new(bytes))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}
