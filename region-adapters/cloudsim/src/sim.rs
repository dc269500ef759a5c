//! The running simulators: listeners, the control API, the ticker; started together, stopped together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::clock::Clock;
use crate::control::Control;
use crate::core::{RegionKey, Vendor, World};
use crate::eci::EciFace;
use crate::http::{Face, Net, Tcp, listen, serve};
use crate::persist::{Journal, StateError, read_ports, write_ports};
use crate::rim::Rim;
use crate::scenario::{RegionConfig, Scenario, ScenarioError};
use crate::tencent::Tencent;

/// How often time passes without a call: outages end, transitions reach the disk.
const TICK: Duration = Duration::from_millis(50);
/// Stopping waits this long for calls in flight.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Why the simulators cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The scenario does not fit together.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The data directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} for {name}")]
    Listen {
        /// Region or `control`.
        name: String,
        /// Address.
        addr: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
}

/// What a client needs to use the simulated clouds; the `cloudsim` object of `meridian demo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudsimInfo {
    /// URL of the control API.
    pub control: String,
    /// One entry per region and account.
    pub backends: Vec<BackendInfo>,
}

/// One region as seen by one account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendInfo {
    /// Cloud.
    pub vendor: Vendor,
    /// URL of the vendor API.
    pub url: String,
    /// Secret id or access key id.
    pub key_id: String,
    /// Its secret (simulated, so it may be printed).
    pub key_secret: String,
    /// Region name.
    pub region: String,
    /// Account name in the scenario.
    pub account: String,
    /// Zones with their subnets.
    pub zones: Vec<ZoneInfo>,
    /// VPC.
    pub vpc_id: String,
    /// Security group.
    pub security_group_id: String,
}

/// One zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneInfo {
    /// Zone name.
    pub zone: String,
    /// Subnet id; for ECI the vSwitch id.
    pub subnet_id: String,
}

/// The simulated clouds, running.
#[derive(Debug)]
pub struct Simulator {
    rim: Arc<Rim>,
    info: CloudsimInfo,
}

impl Simulator {
    /// Binds every listener and starts serving. With a data directory, the state of an earlier run is taken up again
    /// and the same ports are tried first.
    ///
    /// # Errors
    /// [`SimError`]; nothing is left running then.
    pub async fn start(scenario: Scenario, data_dir: Option<PathBuf>) -> Result<Self, SimError> {
        scenario.check()?;
        let clock = Clock::system();
        let mut world = World::new(&scenario);
        let journal = match &data_dir {
            Some(dir) => Some(Journal::open(dir, &mut world, clock.now_ms())?),
            None => None,
        };
        let listeners = Listeners::bind(&scenario, data_dir.as_deref())?;
        let info = info(&scenario, &listeners);
        let rim = Arc::new(Rim::new(&scenario, world, journal, clock));
        rim.refresh_outages();
        let control: Arc<dyn Face> = Arc::new(Control::new(Arc::clone(&rim), info.clone()));
        let control_net = (Tcp(listeners.control_addr), listeners.control);
        rim.tasks.spawn(serve(Arc::clone(&rim), control_net, None, control));
        for ((listener, addr), config) in listeners.regions.into_iter().zip(&scenario.regions) {
            let key = RegionKey::new(config.vendor, &config.region);
            let face = face(&rim, &key);
            rim.tasks.spawn(serve(Arc::clone(&rim), (Tcp(addr), listener), Some(key), face));
        }
        rim.tasks.spawn(tick(Arc::clone(&rim)));
        Ok(Self { rim, info })
    }

    /// The simulated clouds without a socket, told the time by the caller. Regions are served by [`Self::serve`];
    /// [`Self::keep_time`] must run somewhere.
    ///
    /// # Errors
    /// [`SimError::Scenario`].
    pub fn detached(scenario: &Scenario, clock: Clock) -> Result<Self, SimError> {
        scenario.check()?;
        let rim = Arc::new(Rim::new(scenario, World::new(scenario), None, clock));
        Ok(Self { rim, info: CloudsimInfo { control: String::new(), backends: Vec::new() } })
    }

    /// Serves a region's API on a network of the caller's making, until the simulators stop.
    ///
    /// # Errors
    /// There is no listening on it.
    pub async fn serve<N: Net>(&self, region: RegionKey, net: N) -> std::io::Result<()> {
        let listener = net.listen(None).await?;
        let face = face(&self.rim, &region);
        serve(Arc::clone(&self.rim), (net, listener), Some(region), face).await;
        Ok(())
    }

    /// Lets time pass without a call, until the simulators stop.
    pub async fn keep_time(&self) {
        tick(Arc::clone(&self.rim)).await;
    }

    /// Looks at the world, or changes it, as the control API does; gets the time in Unix milliseconds.
    pub fn with<T>(&self, work: impl FnOnce(&mut World, i64) -> T) -> T {
        self.rim.with(work)
    }

    /// Addresses, keys and ids.
    #[must_use]
    pub fn info(&self) -> CloudsimInfo {
        self.info.clone()
    }

    /// Stops listening and ends every connection; waits a few seconds at most.
    pub async fn shutdown(self) {
        self.rim.stop.cancel();
        self.rim.tasks.close();
        if tokio::time::timeout(STOP_MAX, self.rim.tasks.wait()).await.is_err() {
            tracing::warn!("some calls to the simulated clouds did not end in time");
        }
    }
}

impl Drop for Simulator {
    /// A simulator that is dropped stops as well, without waiting.
    fn drop(&mut self) {
        self.rim.stop.cancel();
    }
}

fn face(rim: &Arc<Rim>, region: &RegionKey) -> Arc<dyn Face> {
    match region.vendor {
        Vendor::TencentEksci => Arc::new(Tencent::new(Arc::clone(rim), &region.region)),
        Vendor::AlibabaEci => Arc::new(EciFace::new(Arc::clone(rim), &region.region)),
    }
}

async fn tick(rim: Arc<Rim>) {
    loop {
        tokio::select! {
            biased;
            () = rim.stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        rim.with(|world, now_ms| world.advance(now_ms));
        rim.refresh_outages();
    }
}

struct Listeners {
    control: TcpListener,
    control_addr: SocketAddr,
    regions: Vec<(TcpListener, SocketAddr)>,
}

impl Listeners {
    fn bind(scenario: &Scenario, dir: Option<&Path>) -> Result<Self, SimError> {
        let old = dir.map(read_ports).unwrap_or_default();
        let mut ports = BTreeMap::new();
        let mut bind = |name: String, addr: SocketAddr| {
            // A free port was wanted: last time's is the best one, if nobody took it.
            let again = old.get(&name).filter(|_| addr.port() == 0);
            let reused = again.and_then(|port| listen(SocketAddr::new(addr.ip(), *port)).ok());
            let listener = reused.map_or_else(|| listen(addr), Ok);
            let bound = listener.and_then(|l| l.local_addr().map(|a| (l, a)));
            let (listener, bound) = bound.map_err(|source| SimError::Listen { name: name.clone(), addr, source })?;
            ports.insert(name, bound.port());
            Ok::<_, SimError>((listener, bound))
        };
        let (control, control_addr) = bind("control".to_owned(), scenario.control_listen)?;
        let regions = scenario
            .regions
            .iter()
            .map(|r| bind(format!("{}/{}", r.vendor, r.region), r.listen))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(dir) = dir {
            write_ports(dir, &ports)?;
        }
        Ok(Self { control, control_addr, regions })
    }
}

fn info(scenario: &Scenario, listeners: &Listeners) -> CloudsimInfo {
    let backends = listeners
        .regions
        .iter()
        .zip(&scenario.regions)
        .flat_map(|((_, addr), config)| backends(scenario, config, *addr))
        .collect();
    CloudsimInfo { control: format!("http://{}", listeners.control_addr), backends }
}

fn backends(scenario: &Scenario, config: &RegionConfig, addr: SocketAddr) -> Vec<BackendInfo> {
    let zone_info = |zone: &crate::ZoneConfig| ZoneInfo { zone: zone.zone.clone(), subnet_id: zone.subnet_id.clone() };
    let accounts = config.accounts.iter().filter_map(|name| scenario.accounts.iter().find(|a| a.name == *name));
    accounts
        .map(|account| BackendInfo {
            vendor: config.vendor,
            url: format!("http://{addr}"),
            key_id: account.key_id.clone(),
            key_secret: account.key_secret.clone(),
            region: config.region.clone(),
            account: account.name.clone(),
            zones: config.zones.iter().map(zone_info).collect(),
            vpc_id: config.vpc_id.clone(),
            security_group_id: config.security_group_id.clone(),
        })
        .collect()
}
