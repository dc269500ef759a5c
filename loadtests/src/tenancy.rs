//! Clouds and one gateway with many tenants, each a process of its own: for what tenants do to each other.

use std::{ffi::OsStr, fmt::Write as _, fs, net::SocketAddr, path::Path};

use anyhow::Context as _;
use meridian_cloudsim::BackendInfo;
use meridian_gateway::{clock::Entropy, http::authenticate};
use serde_json::Value;

use crate::{
    process::Server,
    setup::{Clouds, address_of},
};

/// One region of the vendor whose limits are the tightest.
const CLOUDS: &str = r#"
[[accounts]]
name = "tencent-load"
vendor = "tencent-eksci"
key_id = "AKIDload"
key_secret = "load-test-secret-of-a-simulated-cloud"
max_instances = 100000
max_vcpu = 1000000.0
[[regions]]
vendor = "tencent-eksci"
region = "ap-guangzhou"
accounts = ["tencent-load"]
vpc_id = "vpc-guangzhou"
security_group_id = "sg-guangzhou"
zones = [
    { zone = "ap-guangzhou-3", subnet_id = "subnet-guangzhou3", cidr = "10.10.0.0/16", free_ips = 60000 },
    { zone = "ap-guangzhou-4", subnet_id = "subnet-guangzhou4", cidr = "10.11.0.0/16", free_ips = 60000 },
]
"#;

/// The region.
const REGION: &str = "ap-guangzhou";

/// What is started.
#[derive(Debug)]
pub struct Plan<'p> {
    /// Timing and limits of the clouds, as a scenario has them.
    pub clouds: &'p str,
    /// Tenants and their `rate`, as the configuration has it.
    pub tenants: Vec<(String, &'p str)>,
    /// Vendor calls a second and action.
    pub ceiling: u32,
}

/// A tenant and what its client sends.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its API key.
    pub key: String,
}

/// Everything that runs.
#[derive(Debug)]
pub struct Setting {
    /// The tenants.
    pub tenants: Vec<Tenant>,
    /// The gateway's API.
    pub api: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    /// The clouds' control.
    pub control: SocketAddr,
    clouds: Clouds,
    gateway: Server,
    _folder: tempfile::TempDir,
}

impl Setting {
    /// Starts clouds and gateway.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(meridian: &Path, plan: &Plan<'_>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder")?;
        let scenario = folder.path().join("clouds.toml");
        fs::write(&scenario, format!("{}{CLOUDS}", plan.clouds)).context("the clouds' scenario")?;
        let clouds = Clouds::start(meridian, &scenario, folder.path()).await?;
        let control = address_of(&clouds.info.control)?;
        let cloud = clouds.info.backends.first().context("a cloud without regions")?;
        let entropy = Entropy::system();
        let minted: Vec<_> =
            plan.tenants.iter().map(|(name, rate)| (name, *rate, authenticate::mint("load", name, &entropy))).collect();
        let declared: Vec<_> =
            minted.iter().map(|(name, rate, key)| (name.as_str(), *rate, key.sha256_hex())).collect();
        let config = folder.path().join("gateway.toml");
        let text = text(cloud, &declared, plan.ceiling, folder.path())?;
        fs::write(&config, text).context("the gateway's configuration")?;
        let arguments = [OsStr::new("serve"), OsStr::new("--config"), config.as_os_str()];
        let is_ready = |line: &Value| line.get("gateway").is_some();
        let log = folder.path().join("gateway.log");
        let gateway = Server::start("gateway", meridian, &arguments, &log, is_ready).await?;
        let address = |name: &str| {
            let url = gateway.ready.get(name).and_then(Value::as_str);
            address_of(url.with_context(|| format!("the ready line has no {name}: {}", gateway.ready))?)
        };
        let (api, admin) = (address("gateway")?, address("admin")?);
        let tenants = minted.iter().map(|(name, _, key)| Tenant { name: (*name).clone(), key: secret(key) }).collect();
        Ok(Self { tenants, api, admin, control, clouds, gateway, _folder: folder })
    }

    /// Ends both.
    ///
    /// # Errors
    /// One does not end.
    pub async fn end(self) -> anyhow::Result<()> {
        self.gateway.end().await?;
        self.clouds.server.end().await
    }
}

fn secret(key: &authenticate::MintedKey) -> String {
    secrecy::ExposeSecret::expose_secret(&key.key).to_owned()
}

fn text(cloud: &BackendInfo, tenants: &[(&str, &str, String)], ceiling: u32, folder: &Path) -> anyhow::Result<String> {
    let mut text = format!(
        "[deployment]\nid = \"tenancy\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
         [server]\nlisten = \"127.0.0.1:0\"\nadminListen = \"127.0.0.1:0\"\n\
         [server.limits]\nconnectionsPerPeerMax = 10000\n\
         [ledger]\npath = \"{}\"\n[telemetry]\nfilter = \"warn\"\n\
         [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"{REGION}\"\naccount = \"tencent-load\"\n\
         callsPerSecond = {ceiling}\n\
         priceBook = {{ currency = \"CNY\", cpuPerHour = \"0.12\", memoryGibPerHour = \"0.05\" }}\n\
         settings = {{ endpoint = \"{}\", secretId = \"{}\", secretKey = \"{}\", effectBoundMs = 10000 }}\n",
        folder.join("ledger.redb").display(),
        cloud.url,
        cloud.key_id,
        cloud.key_secret,
    );
    for (name, rate, hash) in tenants {
        write!(
            text,
            "[[tenants]]\nname = \"{name}\"\nkeys = [{{ id = \"{name}\", sha256 = \"{hash}\" }}]\n\
             rate = {rate}\n\
             quota = {{ instances = 100000 }}\ndefaultNetworkProfile = \"default\"\n"
        )?;
    }
    let subnets: Vec<_> = cloud.zones.iter().map(|z| format!("\"{}\" = \"{}\"", z.zone, z.subnet_id)).collect();
    write!(
        text,
        "[[networkProfiles]]\nname = \"default\"\n[[networkProfiles.backends]]\nbackend = \"gz\"\nvpcId = \"{}\"\n\
         securityGroupIds = [\"{}\"]\nsubnets = {{ {} }}\n",
        cloud.vpc_id,
        cloud.security_group_id,
        subnets.join(", ")
    )?;
    Ok(text)
}
