//! One world: clouds, Redis, gateways, and a proxy on every line between them. Everything in it ends with it.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

use super::{
    clouds::{Clouds, HIDES},
    config::{self, ApiKey, Part, Settings, Store},
    proxy::{Cut, Gate, Proxy},
    redis::Redis,
    tap::Tap,
    workload::Caller,
};
use crate::{
    process::{self, Server},
    setup::address_of,
};

/// Every create has this once in its head, at either vendor.
const CREATE: &[u8] = b"-action: Create";
/// Longest `meridian ledger init`: it looks at every cloud once.
const INIT_MAX: Duration = Duration::from_secs(30);
/// Tries of it.
const INIT_TRIES: u32 = 5;
/// Every ledger script has this once.
const SCRIPT: &[u8] = b"EVALSHA";

/// What a world consists of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The `meridian` binary.
    pub meridian: PathBuf,
    /// Gateways on one Redis; with none in `redis` there is one, with a ledger of its own.
    pub gateways: usize,
    /// Whether the ledger is a Redis.
    pub redis: bool,
    /// Whether that Redis has a replica.
    pub replica: bool,
    /// For measuring: the gateways speak to Redis and the clouds without proxies between them, the clouds do at once
    /// what they are asked for, and files are on the disk.
    pub direct: bool,
    /// Seed of the clouds.
    pub seed: u64,
    /// The gateways' settings.
    pub settings: Settings,
}

/// Where a gateway listens; none while it is down.
pub type Address = watch::Receiver<Option<SocketAddr>>;

/// One gateway and the lines that are its own.
#[derive(Debug)]
pub struct Gateway {
    config: PathBuf,
    log: PathBuf,
    starts: u32,
    server: Option<Server>,
    address: watch::Sender<Option<SocketAddr>>,
    admin: watch::Sender<Option<SocketAddr>>,
    /// The way to Redis.
    pub redis: Option<Proxy>,
    /// The ways to the regions.
    pub clouds: Vec<Proxy>,
}

impl Gateway {
    /// Starts it.
    ///
    /// # Errors
    /// It does not.
    pub async fn run(&mut self, meridian: &Path) -> anyhow::Result<()> {
        self.starts += 1;
        let arguments = [OsStr::new("serve"), OsStr::new("--config"), self.config.as_os_str()];
        let log = self.log.with_extension(format!("{}.log", self.starts));
        let server = Server::start("gateway", meridian, &arguments, &log, |line| line.get("gateway").is_some()).await?;
        let at = |name: &str| {
            let url = server.ready.get(name).and_then(Value::as_str).with_context(|| format!("no {name} URL"))?;
            address_of(url)
        };
        self.admin.send_replace(Some(at("admin")?));
        self.address.send_replace(Some(at("gateway")?));
        self.server = Some(server);
        Ok(())
    }

    /// Whether its process is there.
    pub fn runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| !server.has_ended())
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn server(&self) -> anyhow::Result<&Server> {
        self.server.as_ref().context("the gateway does not run")
    }

    /// Kills it without a warning.
    ///
    /// # Errors
    /// It is not gone in time.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.address.send_replace(None);
        self.admin.send_replace(None);
        match self.server.take() {
            Some(server) => server.kill().await,
            None => Ok(()),
        }
    }

    /// Ends it as an operator would; until it is gone clients go on to call it.
    ///
    /// # Errors
    /// It does not end.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        let ended = match self.server.take() {
            Some(server) => server.end().await,
            None => Ok(()),
        };
        self.address.send_replace(None);
        self.admin.send_replace(None);
        ended
    }

    /// Stops or continues its process (`STOP`, `CONT`).
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        match &self.server {
            Some(server) => server.signal(name).await,
            None => Ok(()),
        }
    }
}

/// A world.
#[derive(Debug)]
pub struct World {
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// The clouds.
    pub clouds: Clouds,
    /// The Redis that is the primary now.
    pub redis: Option<Redis>,
    /// Its replica.
    pub replica: Option<Redis>,
    /// The line between the two.
    pub link: Option<Proxy>,
    /// Creates on their way to a cloud.
    pub creates: Arc<Tap>,
    /// Scripts on their way to Redis.
    pub scripts: Arc<Tap>,
    /// What clients send.
    pub key: ApiKey,
    meridian: PathBuf,
    folder: TempDir,
}

/// Where files live in memory, if the system has such a place. What is killed here are processes, not the machine: what
/// a process had written is there afterwards either way, and the disk is left to those who measure it.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

impl World {
    /// Starts one.
    ///
    /// # Errors
    /// A part of it does not start.
    pub async fn start(shape: &Shape) -> anyhow::Result<Self> {
        let parent = if shape.direct { std::env::temp_dir() } else { memory() };
        let folder = tempfile::Builder::new().prefix("meridian-chaos-").tempdir_in(parent);
        let folder = folder.context("no temporary folder")?;
        let key = ApiKey::new(&shape.meridian).await?;
        let clouds = Clouds::start(shape.seed, shape.direct).await?;
        let redis = match shape.redis {
            true => Some(Redis::start(&folder.path().join("redis-a")).await?),
            false => None,
        };
        let mut world = Self {
            gateways: Vec::new(),
            clouds,
            redis,
            replica: None,
            link: None,
            creates: Arc::new(Tap::new(CREATE)),
            scripts: Arc::new(Tap::new(SCRIPT)),
            key,
            meridian: shape.meridian.clone(),
            folder,
        };
        if shape.replica {
            world.add_replica().await?;
        }
        for n in 0..if shape.redis { shape.gateways } else { 1 } {
            let gateway = world.gateway(n, shape).await?;
            world.gateways.push(gateway);
        }
        world.init().await?;
        let started = world.gateways.iter_mut().map(|g| g.run(&shape.meridian));
        for result in join_all(started).await {
            result?;
        }
        Ok(world)
    }

    /// Marks an empty Redis as a new deployment, as an operator does.
    async fn init(&self) -> anyhow::Result<()> {
        let Some(gateway) = self.gateways.first().filter(|_| self.redis.is_some()) else { return Ok(()) };
        let mut said = String::new();
        for _ in 0..INIT_TRIES {
            let mut command = process::tethered(&self.meridian);
            // Nobody but the test has been here, and what hides from who may not list shows nothing yet.
            let init = command.args(["ledger", "init", "--nothing-at", HIDES, "--config"]);
            let done = init.arg(&gateway.config).output();
            let done = timeout(INIT_MAX, done).await.context("meridian ledger init takes too long")??;
            if done.status.success() {
                return Ok(());
            }
            // A busy machine does not answer in time; an operator asks again.
            said = String::from_utf8_lossy(&done.stderr).into_owned();
        }
        bail!("meridian ledger init: {said}")
    }

    async fn add_replica(&mut self) -> anyhow::Result<()> {
        let primary = self.redis.as_ref().context("a replica without a primary")?;
        let replica = Redis::start(&self.folder.path().join("redis-b")).await?;
        let link = Proxy::start(primary.address(), Arc::new(Tap::new(SCRIPT))).await?;
        replica.follow(link.address()).await?;
        (self.replica, self.link) = (Some(replica), Some(link));
        Ok(())
    }

    async fn gateway(&self, n: usize, shape: &Shape) -> anyhow::Result<Gateway> {
        let folder = self.folder.path().join(format!("gateway-{n}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut store = self.redis.as_ref().map_or(Store::Embedded, |redis| Store::Redis(redis.address()));
        let mut redis = None;
        if let Store::Redis(address) = &mut store
            && !shape.direct
        {
            let proxy = Proxy::start(*address, Arc::clone(&self.scripts)).await?;
            *address = proxy.address();
            redis = Some(proxy);
        }
        let (mut proxies, mut regions) = (Vec::new(), Vec::new());
        for cloud in self.clouds.backends() {
            let mut address = address_of(&cloud.url)?;
            if !shape.direct {
                let proxy = Proxy::start(address, Arc::clone(&self.creates)).await?;
                address = proxy.address();
                proxies.push(proxy);
            }
            regions.push((cloud.clone(), address));
        }
        let part = Part { folder: &folder, store, regions: &regions };
        let config = folder.join("meridian.toml");
        fs::write(&config, config::text(&shape.settings, &self.key, &part)?)?;
        Ok(Gateway {
            config,
            log: folder.join("gateway"),
            starts: 0,
            server: None,
            address: watch::Sender::new(None),
            admin: watch::Sender::new(None),
            redis,
            clouds: proxies,
        })
    }

    /// A client of all gateways.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            gateways: self.gateways.iter().map(|g| g.address.subscribe()).collect(),
            admins: self.gateways.iter().map(|g| g.admin.subscribe()).collect(),
            key: self.key.api_key.clone(),
        }
    }

    /// Starts a gateway that was killed.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self, gateway: usize) -> anyhow::Result<()> {
        let Some(gateway) = self.gateways.get_mut(gateway) else { return Ok(()) };
        if gateway.runs() { Ok(()) } else { gateway.run(&self.meridian).await }
    }

    /// The replica, without what did not reach it, becomes the primary; the old one is gone for good.
    ///
    /// # Errors
    /// There is no replica, or it does not answer.
    pub async fn fail_over(&mut self) -> anyhow::Result<()> {
        let replica = self.replica.take().context("there is no replica")?;
        if let Some(mut old) = self.redis.take() {
            old.kill().await?;
        }
        replica.promote().await?;
        for proxy in self.gateways.iter().filter_map(|g| g.redis.as_ref()) {
            proxy.retarget(replica.address());
            proxy.cut(Cut::Reset);
        }
        self.redis = Some(replica);
        self.link = None;
        Ok(())
    }

    /// Ends every fault: all that was killed runs, all that was stopped goes on, every line is whole.
    ///
    /// # Errors
    /// Something does not come back.
    pub async fn heal(&mut self) -> anyhow::Result<()> {
        self.clouds.heal().await?;
        for proxy in self.gateways.iter().flat_map(|g| g.redis.iter().chain(&g.clouds)).chain(&self.link) {
            proxy.heal();
        }
        if let Some(redis) = self.redis.as_mut() {
            if redis.runs() {
                redis.signal("CONT").await?;
            } else {
                redis.run().await?;
            }
        }
        for n in 0..self.gateways.len() {
            if let Some(gateway) = self.gateways.get_mut(n).filter(|g| g.server.is_some()) {
                // One that ended by itself is started again; that it ended is in its log.
                let _ = gateway.signal("CONT").await;
            }
            self.restart(n).await?;
        }
        Ok(())
    }

    /// The line between the two Redis servers carries nothing any more.
    pub fn sever(&self) {
        if let Some(link) = &self.link {
            link.set_gate(Gate::Stalled);
        }
    }

    /// Ends everything and keeps the folder with logs and data; where it is.
    pub async fn keep(self) -> PathBuf {
        let Self { gateways, clouds, folder, redis, replica, .. } = self;
        drop((gateways, redis, replica));
        clouds.stop().await;
        folder.keep()
    }

    /// Ends everything in order.
    pub async fn stop(mut self) {
        for gateway in &mut self.gateways {
            // What does not go is killed by its drop.
            let _ = gateway.kill().await;
        }
        for redis in [&mut self.redis, &mut self.replica].into_iter().flatten() {
            let _ = redis.kill().await;
        }
        self.clouds.stop().await;
    }
}
