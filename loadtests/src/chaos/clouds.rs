//! The simulated clouds of the chaos: three regions in this process, on real sockets, with their truth ledger.
//!
//! Their signatures are taken for [`WINDOW_SECS`] only. That is what makes a short effect bound honest: a request that
//! was held back longer than that, by a stopped process or a stalled line, is refused by the cloud, as a real one
//! refuses it after five minutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use meridian_cloudsim::{BackendInfo, CloudsimInfo, Scenario, Simulator};
use serde::Deserialize;
use serde_json::Value;

use super::verdict::Life;
use crate::{
    client::{Connection, Keep},
    direct::Direct,
    setup::address_of,
};

/// How long the clouds take a signature, seconds. Tencent counts whole seconds, so that one may be used for nearly one
/// second more.
pub const WINDOW_SECS: i64 = 2;
/// Longest delay of a `lateEffect` fault, milliseconds.
pub const LATE_MS_MAX: u64 = 800;
/// Longest `listLag`, milliseconds.
pub const LAG_MS_MAX: u64 = 400;
/// Longest `latency` fault, milliseconds.
pub const LATENCY_MS_MAX: u64 = 150;
/// The gateways' effect bound, milliseconds: window and its rounding, latency, late effect and list lag are 4,350; the
/// rest is for a machine with more work than cores.
pub const EFFECT_BOUND_MS: u64 = 5_500;

const _: () = assert!((WINDOW_SECS as u64 + 1) * 1_000 + LATENCY_MS_MAX + LATE_MS_MAX + LAG_MS_MAX < EFFECT_BOUND_MS);

/// The region that shows an empty list to who may not list.
pub const HIDES: &str = "cn-hangzhou";
/// Regions: two of the vendor without client tokens, one of the other.
const REGIONS: [(&str, &str, [&str; 2]); 3] = [
    ("tencent-eksci", "ap-guangzhou", ["ap-guangzhou-3", "ap-guangzhou-4"]),
    ("tencent-eksci", "ap-shanghai", ["ap-shanghai-2", "ap-shanghai-4"]),
    ("alibaba-eci", HIDES, ["cn-hangzhou-h", "cn-hangzhou-i"]),
];

/// The clouds, running.
#[derive(Debug)]
pub struct Clouds {
    simulator: Simulator,
    control: SocketAddr,
    /// The ids of instances that are not ours.
    pub foreign: BTreeSet<String>,
    /// Addresses, keys and ids.
    pub info: CloudsimInfo,
}

/// `at_once`: instances run as soon as they are asked for, for measuring what is not the clouds'.
fn scenario(seed: u64, at_once: bool) -> anyhow::Result<Scenario> {
    let [placed, running, jitter, terminate] = if at_once { [0; 4] } else { [30, 60, 60, 50] };
    let mut text = format!(
        "seed = {seed}\n[timing]\nplaced_ms = {placed}\nrunning_ms = {running}\njitter_ms = {jitter}\n\
         terminate_ms = {terminate}\nplace_retry_ms = 300\n[rules]\ntencent_clock_window_secs = {WINDOW_SECS}\n\
         alibaba_clock_window_secs = {WINDOW_SECS}\n[limits]\nenabled = false\n"
    );
    for vendor in ["tencent-eksci", "alibaba-eci"] {
        text.push_str(&format!(
            "[[accounts]]\nname = \"{vendor}\"\nvendor = \"{vendor}\"\nkey_id = \"AK{vendor}\"\n\
             key_secret = \"secret-of-a-simulated-cloud\"\nmax_instances = 100000\nmax_vcpu = 1000000.0\n"
        ));
    }
    for (n, (vendor, region, zones)) in REGIONS.iter().enumerate() {
        text.push_str(&format!(
            "[[regions]]\nvendor = \"{vendor}\"\nregion = \"{region}\"\naccounts = [\"{vendor}\"]\n\
             vpc_id = \"vpc-{region}\"\nsecurity_group_id = \"sg-{region}\"\n"
        ));
        for (z, zone) in zones.iter().enumerate() {
            text.push_str(&format!(
                "[[regions.zones]]\nzone = \"{zone}\"\nsubnet_id = \"subnet-{zone}\"\ncidr = \"10.{}.0.0/16\"\n\
                 free_ips = 60000\n",
                10 * (n + 1) + z
            ));
        }
    }
    Scenario::from_toml(&text).context("the clouds' scenario")
}

#[derive(Deserialize)]
struct Ledger {
    instances: Vec<Truth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Truth {
    id: String,
    name: String,
    created_at_ms: i64,
    ended_at_ms: Option<i64>,
    deleted_at_ms: Option<i64>,
    env: BTreeMap<String, String>,
}

impl Clouds {
    /// Starts them; with `at_once` instances run as soon as they are made.
    ///
    /// # Errors
    /// They cannot listen.
    pub async fn start(seed: u64, at_once: bool) -> anyhow::Result<Self> {
        let simulator = Simulator::start(scenario(seed, at_once)?, None).await.context("the simulated clouds")?;
        let info = simulator.info();
        let control = address_of(&info.control)?;
        Ok(Self { simulator, control, foreign: BTreeSet::new(), info })
    }

    /// The regions.
    #[must_use]
    pub fn backends(&self) -> &[BackendInfo] {
        &self.info.backends
    }

    async fn control(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.control.to_string())
            .body(Full::new(body))
            .context("a control request")?;
        let reply = Connection::new(self.control).send(request, Keep::Body).await.context("the clouds' control")?;
        let told = || String::from_utf8_lossy(&reply.body).into_owned();
        ensure!(reply.status.is_success(), "the clouds' control answers {}: {}", reply.status, told());
        Ok(reply.body)
    }

    /// Sets a fault, as cloudsim's README describes them.
    ///
    /// # Errors
    /// It is none.
    pub async fn fault(&self, fault: &Value) -> anyhow::Result<()> {
        self.control(Method::POST, "/v1/faults", Bytes::from(fault.to_string())).await.map(drop)
    }

    /// Ends all faults.
    ///
    /// # Errors
    /// The control API does not answer.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.control(Method::DELETE, "/v1/faults", Bytes::new()).await.map(drop)
    }

    /// Makes an instance in every region that is not ours, as another user of the account would.
    ///
    /// # Errors
    /// A cloud refuses.
    pub async fn settle_strangers(&mut self) -> anyhow::Result<()> {
        for backend in &self.info.backends {
            let mut direct = Direct::new(backend)?;
            let took = direct.create(&format!("stranger-{}", backend.region)).await?;
            self.foreign.insert(took.id.as_str().to_owned());
        }
        Ok(())
    }

    /// Every instance that ever existed.
    ///
    /// # Errors
    /// The control API does not answer.
    pub async fn lives(&self) -> anyhow::Result<Vec<Life>> {
        let body = self.control(Method::GET, "/v1/ledger", Bytes::new()).await?;
        let ledger: Ledger = serde_json::from_slice(&body).context("the truth ledger")?;
        let life = |truth: Truth| Life {
            key: truth.env.get("MERIDIAN_INSTANCE").cloned().unwrap_or(truth.name),
            cloud_id: truth.id,
            from_ms: truth.created_at_ms,
            until_ms: [truth.ended_at_ms, truth.deleted_at_ms].into_iter().flatten().min(),
        };
        Ok(ledger.instances.into_iter().map(life).collect())
    }

    /// Stops them.
    pub async fn stop(self) {
        self.simulator.shutdown().await;
    }
}
