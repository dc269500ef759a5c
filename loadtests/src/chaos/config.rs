//! The configuration of the chaos' gateways, as the text that an operator would write.
//!
//! Everything that waits is short: leases, time-outs, sweeps and the effect bound, which the clouds' signature windows
//! keep honest (`clouds.rs`).

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use anyhow::{Context as _, bail};
use meridian_cloudsim::BackendInfo;
use serde::Deserialize;
use tokio::process::Command;

use super::clouds::EFFECT_BOUND_MS;

/// The tenant that everything is done for.
pub const TENANT: &str = "acme";

/// An API key and its hash.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// What a client sends.
    pub api_key: String,
    sha256: String,
}

impl ApiKey {
    /// A new one, made as an operator makes one.
    ///
    /// # Errors
    /// `meridian auth new-key` does not.
    pub async fn new(meridian: &Path) -> anyhow::Result<Self> {
        let made = Command::new(meridian).args(["auth", "new-key", "--id", "chaos", "-o", "json"]).output().await;
        let made = made.with_context(|| format!("cannot run {}", meridian.display()))?;
        if !made.status.success() {
            bail!("meridian auth new-key: {}", String::from_utf8_lossy(&made.stderr));
        }
        serde_json::from_slice(&made.stdout).context("the new key")
    }
}

/// Where a gateway keeps its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In a file of its own.
    Embedded,
    /// In a Redis, reached at this address.
    Redis(SocketAddr),
}

/// What differs between worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// The tenant's limit of instances.
    pub limit: Option<u64>,
    /// Vendor calls a second and action; 0 is as many as the configuration takes.
    pub calls_per_second: u32,
    /// Whether the pollers look rarely, as shipped: for measuring.
    pub quiet: bool,
}

/// One gateway's part.
#[derive(Debug)]
pub struct Part<'w> {
    /// Its data.
    pub folder: &'w Path,
    /// Its ledger.
    pub store: Store,
    /// The regions, by the address that it uses for them.
    pub regions: &'w [(BackendInfo, SocketAddr)],
}

/// The whole text.
///
/// # Errors
/// A vendor without an adapter.
pub fn text(settings: &Settings, key: &ApiKey, part: &Part<'_>) -> anyhow::Result<String> {
    let mut text = head(settings, part);
    let quota = settings.limit.map_or_else(String::new, |limit| format!("quota = {{ instances = {limit} }}\n"));
    write!(
        text,
        "[[tenants]]\nname = \"{TENANT}\"\nkeys = [{{ id = \"chaos\", sha256 = \"{}\" }}]\n{quota}\
         rate = {{ requestsPerMinute = 10000000, burst = 1000000, createsPerMinute = 1000000, createBurst = 1000000 }}\n\
         defaultNetworkProfile = \"default\"\n",
        key.sha256
    )?;
    let calls = if settings.calls_per_second == 0 { 10_000 } else { settings.calls_per_second };
    for (n, (cloud, address)) in part.regions.iter().enumerate() {
        let vendor = serde_json::to_value(cloud.vendor)?;
        let (key_id, key_secret) = match vendor.as_str() {
            Some("tencent-eksci") => ("secretId", "secretKey"),
            Some("alibaba-eci") => ("accessKeyId", "accessKeySecret"),
            other => bail!("there is no adapter for {other:?}"),
        };
        write!(
            text,
            "[[backends]]\nid = \"{region}\"\nadapter = {vendor}\nregion = \"{region}\"\npriority = {priority}\n\
             callsPerSecond = {calls}\n[backends.settings]\nendpoint = \"http://{address}\"\n{key_id} = \"{id}\"\n\
             {key_secret} = \"{secret}\"\neffectBoundMs = {EFFECT_BOUND_MS}\n[backends.priceBook]\ncurrency = \"CNY\"\n\
             cpuPerHour = \"0.12\"\nmemoryGibPerHour = \"0.05\"\n",
            region = cloud.region,
            priority = (n + 1) * 10,
            id = cloud.key_id,
            secret = cloud.key_secret,
        )?;
    }
    text.push_str("[[networkProfiles]]\nname = \"default\"\n");
    for (cloud, _) in part.regions {
        let subnets: Vec<_> = cloud.zones.iter().map(|z| format!("\"{}\" = \"{}\"", z.zone, z.subnet_id)).collect();
        write!(
            text,
            "[[networkProfiles.backends]]\nbackend = \"{}\"\nvpcId = \"{}\"\nsecurityGroupIds = [\"{}\"]\n\
             subnets = {{ {} }}\n",
            cloud.region,
            cloud.vpc_id,
            cloud.security_group_id,
            subnets.join(", ")
        )?;
    }
    Ok(text)
}

fn head(settings: &Settings, part: &Part<'_>) -> String {
    let folder = part.folder.display();
    let ledger = match part.store {
        Store::Embedded => format!("path = \"{folder}/ledger.redb\""),
        Store::Redis(address) => {
            format!(
                "store = \"redis\"\nurl = \"redis://{address}\"\ncallTimeout = \"1s\"\njournalDir = \"{folder}/intents\""
            )
        }
    };
    let status = if settings.quiet {
        String::new()
    } else {
        "[status]\nsweepInterval = \"500ms\"\nfastInterval = \"100ms\"\nstaleAfter = \"2s\"\nunreachableAfter = \"4s\"\n\
         callTimeout = \"1s\"\ninventoryInterval = \"5s\"\n"
            .to_owned()
    };
    format!(
        "[deployment]\nid = \"chaos\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
         [server]\nlisten = \"127.0.0.1:0\"\nadminListen = \"127.0.0.1:0\"\n\
         [server.limits]\nconnectionsPerPeerMax = 10000\ndrainTimeout = \"5s\"\n\
         [ledger]\n{ledger}\n{status}\
         [driver]\nlease = \"3s\"\narmValid = \"1s\"\ncallTimeout = \"1s\"\nplaceTimeout = \"4s\"\n\
         [reconcile]\norphans = \"remove\"\nquarantine = \"1s\"\nremovalsMin = 100\n\
         [telemetry]\nfilter = \"info\"\n"
    )
}
