//! The ledger that the gateways of a history share: the production Redis ledger, over simulated sockets, on a server
//! whose data and scripts are real and whose process is not.

use std::sync::Arc;

use anyhow::Context as _;
use meridian_ledger::{
    Ledger,
    embedded::SealKey,
    recovery::Recovery,
    redis::{
        Address, Connect, Connecting, LeaseTime, LedgerOptions, Options, Redis, RedisLedger, RedisShared, Servers,
    },
    shared::Shared,
};

use super::{
    faults::REDIS,
    gateways::DEPLOYMENT_ID,
    net::Host,
    redis::server::{PORT, Server},
};

/// The shared ledger.
#[derive(Clone)]
pub struct Store(pub Server);

/// The ledger as one process of a gateway sees it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Operations and usage.
    pub ledger: Arc<dyn Ledger>,
    /// What the gateways coordinate with.
    pub shared: Arc<dyn Shared>,
    /// How it is rebuilt.
    pub recovery: Option<Arc<dyn Recovery>>,
}

impl Connect for Host {
    fn connect<'a>(&'a self, address: &'a Address) -> Connecting<'a> {
        Box::pin(async move {
            let stream = Self::connect(self, &address.host, address.port).await?;
            Ok(Box::new(stream) as Box<dyn meridian_ledger::redis::Stream>)
        })
    }
}

impl Store {
    fn connect(host: &Host) -> anyhow::Result<Redis> {
        let mut options = Options::new(Servers::Single(Address::new(REDIS, PORT)));
        options.connect = Arc::new(host.clone());
        Redis::connect(options).map_err(|e| anyhow::anyhow!(e))
    }

    /// The ledger as one process on a host sees it.
    ///
    /// # Errors
    /// Its options are wrong.
    pub fn open(&self, host: &Host) -> anyhow::Result<RedisLedger> {
        let options = LedgerOptions {
            prefix: DEPLOYMENT_ID.to_owned(),
            key: SealKey::new([7; 32]),
            time: LeaseTime::Server,
            acks: None,
        };
        RedisLedger::new(Self::connect(host)?, options).context("the ledger does not open")
    }

    /// The same for a gateway; one that is the first of all makes the store a ledger, as an operator would.
    ///
    /// # Errors
    /// Its options are wrong.
    pub async fn open_for_gateway(&self, host: &Host, is_first: bool) -> anyhow::Result<Opened> {
        let ledger = Arc::new(self.open(host)?);
        if is_first {
            ledger.initialise().await.context("the store is not made a ledger")?;
        }
        let recovery: Arc<dyn Recovery> = Arc::clone(&ledger) as Arc<dyn Recovery>;
        // A connection of its own, as in production.
        let shared = RedisShared::new(Self::connect(host)?, DEPLOYMENT_ID);
        Ok(Opened { ledger, shared, recovery: Some(recovery) })
    }
}
