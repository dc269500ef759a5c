//! `meridian demo`: gateway, embedded ledger and simulated clouds on loopback sockets, with two tenants.
//!
//! The gateway gets its configuration as the TOML text that an operator would write; it is kept as `meridian.toml`
//! in the data directory for people to look at. Keys and the deployment's secret are kept beside it, so that a
//! restart with the same directory finds its instances and takes the same keys.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use meridian_cloudsim::{Scenario, SimError, Simulator};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    cli::{self, Exit, Failure, write_private},
    clock::Entropy,
    http::authenticate,
};

/// Seed of the simulated clouds when none is given.
const SEED_DEFAULT: u64 = 1;
/// Keys and seed of a data directory.
const STATE_FILE: &str = "demo.json";
/// The generated configuration.
const CONFIG_FILE: &str = "meridian.toml";
/// Milliseconds after which a create that was sent cannot take effect any more. On loopback nothing stays in
/// flight longer, and the simulators take signatures of five minutes only from a clock that is ours.
const EFFECT_BOUND_MS: u64 = 15_000;
/// Instances of the small tenant.
const LAB_INSTANCES: u32 = 37;
/// Held while a demo uses its directory.
const LOCK_FILE: &str = "demo.lock";
/// The tenants.
const TENANTS: [&str; 2] = ["acme", "lab"];

/// What a demo keeps beside its ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct State {
    seed: u64,
    deployment_secret: String,
    tenants: Vec<TenantKey>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TenantKey {
    name: String,
    api_key: String,
    sha256: String,
}

/// The directory everything is kept in.
#[derive(Debug)]
enum Dir {
    Kept(PathBuf),
    /// Removed when the demo ends.
    Temporary(tempfile::TempDir),
}

impl Dir {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// Everything of a demo but the gateway.
#[derive(Debug)]
pub struct Demo {
    dir: Dir,
    /// Given back by the system when the process ends, however it ends.
    _lock: std::fs::File,
    state: State,
    simulator: Option<Simulator>,
    clouds: Value,
}

/// One backend of the `cloudsim` object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cloud {
    vendor: String,
    url: String,
    key_id: String,
    key_secret: String,
    region: String,
    zones: Vec<CloudZone>,
    vpc_id: String,
    security_group_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CloudZone {
    zone: String,
    subnet_id: String,
}

fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Error, format!("{what}: {why}"))
}

impl Demo {
    /// Prepares the directory, starts the simulated clouds (or finds those that run) and writes the configuration.
    ///
    /// # Errors
    /// A directory, scenario, address or control API that cannot be used.
    pub async fn start(args: &cli::Demo) -> Result<Self, Failure> {
        let dir = match &args.data_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(|e| failed(&dir.display().to_string(), e))?;
                let whole = dir.canonicalize().map_err(|e| failed(&dir.display().to_string(), e))?;
                Dir::Kept(whole)
            }
            None => Dir::Temporary(tempfile::tempdir().map_err(|e| failed("no temporary directory", e))?),
        };
        let lock = lock(dir.path())?;
        let state = State::of(dir.path(), args.seed)?;
        let (simulator, clouds) = match &args.cloudsim {
            Some(control) => (None, running(control).await?),
            None => {
                let scenario = scenario(args.scenario.as_deref(), args.seed, state.seed)?;
                let kept = args.data_dir.is_some().then(|| dir.path().join("cloudsim"));
                let simulator = simulate(scenario, kept).await?;
                let info = serde_json::to_value(simulator.info()).map_err(|e| failed("the simulated clouds", e))?;
                (Some(simulator), info)
            }
        };
        let demo = Self { dir, _lock: lock, state, simulator, clouds };
        let text = demo.config_text(args.listen, args.admin_listen)?;
        let path = demo.config_path();
        write_private(&path, text.as_bytes()).map_err(|e| failed(&path.display().to_string(), e))?;
        Ok(demo)
    }

    /// Where the generated configuration is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join(CONFIG_FILE)
    }

    /// The configuration as an operator would write it.
    fn config_text(&self, listen: SocketAddr, admin: SocketAddr) -> Result<String, Failure> {
        let clouds: Vec<Cloud> = self
            .clouds
            .get("backends")
            .map(|b| serde_json::from_value(b.clone()))
            .transpose()
            .map_err(|e| failed("the simulators' list of backends", e))?
            .unwrap_or_default();
        if clouds.is_empty() {
            return Err(failed("the simulated clouds", "there is no backend"));
        }
        let mut text = String::from("# Made by `meridian demo`; written anew at each start.\n");
        head(&mut text, &self.state, &self.dir.path().join("ledger.redb"), (listen, admin));
        tenants(&mut text, &self.state);
        let ids = backend_ids(&clouds);
        for (n, (cloud, id)) in clouds.iter().zip(&ids).enumerate() {
            backend(&mut text, cloud, id, n)?;
        }
        text.push_str("\n[[networkProfiles]]\nname = \"default\"\n");
        for (cloud, id) in clouds.iter().zip(&ids) {
            network(&mut text, cloud, id);
        }
        Ok(text)
    }

    /// The line that says that all is ready.
    #[must_use]
    pub fn ready_line(&self, gateway: &str, admin: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Tenant<'a> {
            name: &'a str,
            api_key: &'a str,
        }
        #[derive(Serialize)]
        struct Ready<'a> {
            ready: bool,
            gateway: &'a str,
            admin: &'a str,
            tenants: Vec<Tenant<'a>>,
            cloudsim: &'a Value,
        }
        let tenants = self.state.tenants.iter().map(|t| Tenant { name: &t.name, api_key: &t.api_key }).collect();
        let ready = Ready { ready: true, gateway, admin, tenants, cloudsim: &self.clouds };
        // Texts and lists of them: JSON holds them all.
        serde_json::to_string(&ready).unwrap_or_default()
    }

    /// Commands to try, ready to be copied.
    #[must_use]
    pub fn hints(&self, program: &str, gateway: &str, admin: &str) -> String {
        let control = self.clouds.get("control").and_then(Value::as_str).unwrap_or_default();
        let first = self.clouds.pointer("/backends/0/region").and_then(Value::as_str).unwrap_or_default();
        let key = self.state.tenants.first().map(|t| t.api_key.as_str()).unwrap_or_default();
        let config = self.config_path();
        format!(
            "A gateway with simulated clouds is running at {gateway}; its configuration is {}.\nTry, in another shell:\n\n  \
             export MERIDIAN_SERVER={gateway} MERIDIAN_TOKEN={key} MERIDIAN_ADMIN={admin}\n  \
             {program} create web --image nginx:1.27 --wait\n  \
             {program} get inst -o wide\n  \
             {program} get regions\n\n  \
             # sell out a whole region, and see the next instance run elsewhere\n  \
             curl -X POST {control}/v1/faults -d '{{\"kind\":\"soldOut\",\"region\":\"{first}\"}}'\n  \
             {program} create web-2 --image nginx:1.27 --wait\n  \
             {program} explain web-2\n  \
             curl -X DELETE {control}/v1/faults\n\n  \
             {program} delete web web-2 --yes\n\nStop it with Ctrl-C.\n\n",
            config.display()
        )
    }

    /// Stops the simulated clouds, if they are ours, and removes what is temporary.
    pub async fn stop(self) {
        if let Some(simulator) = self.simulator {
            simulator.shutdown().await;
        }
        if let Dir::Temporary(dir) = self.dir {
            // What cannot be removed is the system's to clean up.
            let _ = dir.close();
        }
    }
}

/// Makes sure that nobody else uses the directory: two demos would write over each other's clouds.
fn lock(dir: &Path) -> Result<std::fs::File, Failure> {
    let path = dir.join(LOCK_FILE);
    let file = std::fs::File::create(&path).map_err(|e| failed(&path.display().to_string(), e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(failed(&dir.display().to_string(), "another demo uses this directory")
                .next("stop it, or use another --data-dir"))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(failed(&path.display().to_string(), e)),
    }
}

impl State {
    /// The state of a directory, made if it is new.
    fn of(dir: &Path, seed: Option<u64>) -> Result<Self, Failure> {
        let path = dir.join(STATE_FILE);
        let unusable = |why: String| {
            failed(&path.display().to_string(), why).next("use another --data-dir, or remove this one to start anew")
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let state: Self = serde_json::from_str(&text).map_err(|e| unusable(e.to_string()))?;
                match seed {
                    Some(seed) if seed != state.seed => {
                        Err(unusable(format!("it was made with seed {}, not {seed}", state.seed)))
                    }
                    _ => Ok(state),
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let state = Self::new(seed);
                let text = serde_json::to_string_pretty(&state).map_err(|e| unusable(e.to_string()))?;
                write_private(&path, text.as_bytes()).map_err(|e| unusable(e.to_string()))?;
                Ok(state)
            }
            Err(e) => Err(unusable(e.to_string())),
        }
    }

    /// Keys and secret: drawn from the seed if there is one, so that scripts can know them, else from the system.
    fn new(seed: Option<u64>) -> Self {
        let entropy = seed.map_or_else(Entropy::system, seeded);
        let deployment_secret = format!("{:032x}{:032x}", entropy.next(), entropy.next());
        let tenants = TENANTS
            .iter()
            .map(|name| {
                let minted = authenticate::mint("demo", name, &entropy);
                let api_key = minted.key.expose_secret().to_owned();
                TenantKey { name: (*name).to_owned(), api_key, sha256: minted.sha256_hex() }
            })
            .collect();
        Self { seed: seed.unwrap_or(SEED_DEFAULT), deployment_secret, tenants }
    }
}

/// Numbers that follow from a seed. Good enough for a demo that listens on loopback, and for nothing else.
fn seeded(seed: u64) -> Entropy {
    let count = std::sync::atomic::AtomicU64::new(0);
    Entropy::from_fn(move || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let hash =
            Sha256::new().chain_update(b"meridian demo").chain_update(seed.to_be_bytes()).chain_update(n.to_be_bytes());
        let bytes: [u8; 32] = hash.finalize().into();
        bytes.iter().take(16).fold(0, |number, byte| (number << 8) | u128::from(*byte))
    })
}

/// The scenario of a file, or the demo's own.
///
/// # Errors
/// The file cannot be read or is no scenario.
pub fn scenario(file: Option<&Path>, seed: Option<u64>, seed_default: u64) -> Result<Scenario, Failure> {
    let Some(file) = file else { return Ok(Scenario::demo(seed.unwrap_or(seed_default))) };
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| failed(&name, e))?;
    let mut scenario = Scenario::from_toml(&text)
        .map_err(|e| failed(&name, e).next("region-adapters/cloudsim/README.md describes scenarios"))?;
    if let Some(seed) = seed {
        scenario.seed = seed;
    }
    Ok(scenario)
}

/// Starts simulated clouds.
///
/// # Errors
/// A scenario, directory or address that cannot be used.
pub async fn simulate(scenario: Scenario, data_dir: Option<PathBuf>) -> Result<Simulator, Failure> {
    if let Some(dir) = &data_dir {
        std::fs::create_dir_all(dir).map_err(|e| failed(&dir.display().to_string(), e))?;
    }
    Simulator::start(scenario, data_dir).await.map_err(|error| match &error {
        SimError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            failed("the simulated clouds", &error).next("another program has the port; use port 0 for a free one")
        }
        SimError::Listen { .. } | SimError::Scenario(_) | SimError::State(_) => failed("the simulated clouds", &error),
    })
}

/// The `cloudsim` object of simulators that already run.
async fn running(control: &str) -> Result<Value, Failure> {
    let value = cli::read_json(control, "/v1/backends").await.map_err(|failure| {
        Failure { cause: format!("the simulators' control API: {}", failure.cause), ..failure }
            .next("start them with `meridian cloudsim`, and give the `control` URL that it prints")
    })?;
    if value.get("backends").is_some_and(Value::is_array) {
        return Ok(value);
    }
    Err(failed(control, "this is not the control API of simulated clouds"))
}

/// A TOML text in quotes.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn head(text: &mut String, state: &State, ledger: &Path, (listen, admin): (SocketAddr, SocketAddr)) {
    let ledger = quote(&ledger.display().to_string());
    let secret = quote(&state.deployment_secret);
    let _ = write!(
        text,
        r#"
[deployment]
id = "demo"
secret = {secret}

[server]
listen = "{listen}"
adminListen = "{admin}"

[server.limits]
connectionsPerPeerMax = 10000   # everybody comes from loopback here
drainTimeout = "5s"

[ledger]
path = {ledger}

# The simulated clouds are fast and near: look often, give up soon.
[status]
sweepInterval = "1s"
fastInterval = "200ms"
staleAfter = "3s"
unreachableAfter = "6s"
callTimeout = "2s"
inventoryInterval = "10s"

[driver]
callTimeout = "2s"
placeTimeout = "8s"

[telemetry]
filter = "warn"
"#
    );
}

fn tenants(text: &mut String, state: &State) {
    for tenant in &state.tenants {
        let quota = if tenant.name == TENANTS[0] {
            "instances = 20000, cpu = \"40000\", memory = \"80000Gi\", gpu = 1000, publicIps = 1000".to_owned()
        } else {
            format!("instances = {LAB_INSTANCES}, cpu = \"200\", memory = \"400Gi\", gpu = 2, publicIps = 2")
        };
        let _ = write!(
            text,
            r#"
[[tenants]]
name = {name}
keys = [{{ id = {name}, sha256 = "{sha256}", role = "admin" }}]
quota = {{ {quota} }}
rate = {{ requestsPerMinute = 600000, burst = 20000, createsPerMinute = 60000, createBurst = 5000 }}
defaultNetworkProfile = "default"
"#,
            name = quote(&tenant.name),
            sha256 = tenant.sha256,
        );
    }
}

/// A name for each backend: the vendor's first word and the region, with a number where that is not enough.
fn backend_ids(clouds: &[Cloud]) -> Vec<String> {
    let base = |cloud: &Cloud| {
        let vendor = cloud.vendor.split('-').next().unwrap_or("cloud");
        let label = format!("{vendor}-{}", cloud.region).to_lowercase();
        label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(56).collect::<String>()
    };
    let mut seen: Vec<String> = Vec::new();
    for cloud in clouds {
        let base = base(cloud).trim_matches('-').to_owned();
        let again = seen.iter().filter(|s| **s == base || s.starts_with(&format!("{base}-n"))).count();
        seen.push(if again == 0 { base } else { format!("{base}-n{}", again + 1) });
    }
    seen
}

fn backend(text: &mut String, cloud: &Cloud, id: &str, n: usize) -> Result<(), Failure> {
    let (key_id, key_secret) = match cloud.vendor.as_str() {
        "tencent-eksci" => ("secretId", "secretKey"),
        "alibaba-eci" => ("accessKeyId", "accessKeySecret"),
        other => return Err(failed("the simulated clouds", format!("there is no adapter for {other:?}"))),
    };
    let _ = write!(
        text,
        r#"
[[backends]]
id = {id}
adapter = {vendor}
region = {region}
priority = {priority}

[backends.settings]
endpoint = {url}
{key_id} = {key}
{key_secret} = {secret}
effectBoundMs = {EFFECT_BOUND_MS}
"#,
        id = quote(id),
        vendor = quote(&cloud.vendor),
        region = quote(&cloud.region),
        priority = (n + 1) * 10,
        url = quote(&cloud.url),
        key = quote(&cloud.key_id),
        secret = quote(&cloud.key_secret),
    );
    // EKSCI has no price call; these are the simulated clouds' own prices.
    if cloud.vendor == "tencent-eksci" {
        text.push_str(
            r#"
[backends.priceBook]
currency = "CNY"
cpuPerHour = "0.12"
memoryGibPerHour = "0.05"
gpuPerHour = { T4 = "8", V100 = "8" }
"#,
        );
    }
    Ok(())
}

fn network(text: &mut String, cloud: &Cloud, id: &str) {
    let subnets: Vec<String> =
        cloud.zones.iter().map(|z| format!("{} = {}", quote(&z.zone), quote(&z.subnet_id))).collect();
    let _ = write!(
        text,
        "\n[[networkProfiles.backends]]\nbackend = {}\nvpcId = {}\nsecurityGroupIds = [{}]\nsubnets = {{ {} }}\n",
        quote(id),
        quote(&cloud.vpc_id),
        quote(&cloud.security_group_id),
        subnets.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(vendor: &str, region: &str) -> Cloud {
        let zones = vec![CloudZone { zone: "z\"1".to_owned(), subnet_id: "s".to_owned() }];
        let text = |t: &str| t.to_owned();
        Cloud {
            vendor: text(vendor),
            url: text("http://127.0.0.1:1"),
            key_id: text("AK\\ID"),
            key_secret: text("s\"ecret"),
            region: text(region),
            zones,
            vpc_id: text("vpc"),
            security_group_id: text("sg"),
        }
    }

    #[test]
    fn backends_have_names_of_their_own() {
        let clouds = [cloud("tencent-eksci", "ap-x"), cloud("tencent-eksci", "ap-x"), cloud("alibaba-eci", "cn_Y")];
        assert_eq!(backend_ids(&clouds), ["tencent-ap-x", "tencent-ap-x-n2", "alibaba-cn-y"]);
    }

    #[test]
    fn texts_are_quoted_for_toml() {
        let table: toml::Table = toml::from_str(&format!("a = {}", quote("q\" b\\ n\n é"))).unwrap();
        assert_eq!(table["a"].as_str(), Some("q\" b\\ n\n é"));
    }

    #[test]
    fn keys_follow_the_seed_and_differ_without_one() {
        let key = |seed| State::new(seed).tenants[0].api_key.clone();
        assert_eq!(key(Some(7)), key(Some(7)));
        assert_ne!(key(Some(7)), key(Some(8)));
        assert_ne!(key(None), key(None));
        let state = State::new(Some(7));
        assert_ne!(state.tenants[0].api_key, state.tenants[1].api_key);
    }

    #[test]
    fn a_directory_keeps_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        let first = State::of(dir.path(), None).unwrap();
        assert_eq!(State::of(dir.path(), None).unwrap().tenants[0].api_key, first.tenants[0].api_key);
        let refused = State::of(dir.path(), Some(99)).unwrap_err();
        assert!(refused.cause.contains("seed 1, not 99"), "{refused:?}");
    }
}
