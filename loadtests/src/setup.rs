//! The servers of a benchmark: simulated clouds, gateway and yardstick, each a process of its own.
//!
//! The gateway's configuration is the one `meridian demo` writes, so that keys and networks are the demo's, with three
//! changes: `[status]`, `[driver]` and `[telemetry]` are left out, so that the shipped defaults hold (the demo's sweep
//! of every second is made for a handful of instances, not for 10,000); the tenants' request rates are raised out of
//! the way; and so is our own pace towards the clouds, which have no limits here.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use meridian_cloudsim::CloudsimInfo;
use serde_json::Value;

use crate::process::Server;

/// Requests and creates a minute, and at once: the most the configuration takes.
const RATE: [(&str, i64); 4] = [
    ("requestsPerMinute", 10_000_000),
    ("burst", 1_000_000),
    ("createsPerMinute", 1_000_000),
    ("createBurst", 1_000_000),
];

/// Calls a second and verb to a cloud: the most the configuration takes.
const CALLS_PER_SECOND: i64 = 10_000;

/// Sections in which the shipped defaults shall hold.
const DEFAULTED: [&str; 3] = ["status", "driver", "telemetry"];

/// Simulated clouds in a process of their own.
#[derive(Debug)]
pub struct Clouds {
    /// The process.
    pub server: Server,
    /// Addresses, keys and ids.
    pub info: CloudsimInfo,
}

/// A gateway in a process of its own.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub server: Server,
    /// Its API.
    pub address: SocketAddr,
    /// The tenant that everything is done for.
    pub tenant: String,
    /// Its API key.
    pub key: String,
}

/// A yardstick in a process of its own.
#[derive(Debug)]
pub struct Hello {
    /// The process.
    pub server: Server,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The socket address of a `http://host:port` URL.
///
/// # Errors
/// It is none.
pub fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not an http URL"))?;
    rest.trim_end_matches('/').parse().with_context(|| format!("{url} has no socket address"))
}

impl Clouds {
    /// Starts `meridian cloudsim` with a scenario.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(meridian: &Path, scenario: &Path, folder: &Path) -> anyhow::Result<Self> {
        let arguments = [OsStr::new("cloudsim"), OsStr::new("--scenario"), scenario.as_os_str()];
        let is_ready = |line: &Value| line.get("backends").is_some();
        let server = Server::start("cloudsim", meridian, &arguments, &folder.join("cloudsim.log"), is_ready).await?;
        let info = serde_json::from_value(server.ready.clone()).context("the ready line of cloudsim")?;
        Ok(Self { server, info })
    }
}

impl Gateway {
    /// Has `meridian demo` write a configuration, adapts it, and starts `meridian serve`.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(meridian: &Path, clouds: &Clouds, folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let data = folder.join("data");
        let seed = seed.to_string();
        let arguments: Vec<&OsStr> = [
            "demo",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--seed",
            &seed,
            "--cloudsim",
            &clouds.info.control,
            "--data-dir",
        ]
        .iter()
        .map(|a| OsStr::new(*a))
        .chain([data.as_os_str()])
        .collect();
        let is_ready = |line: &Value| line.get("gateway").is_some();
        let demo = Server::start("demo", meridian, &arguments, &folder.join("demo.log"), is_ready).await?;
        let text = |pointer: &str| {
            let found = demo.ready.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            found.with_context(|| format!("the demo's ready line has no {pointer}"))
        };
        let (tenant, key) = (text("/tenants/0/name")?, text("/tenants/0/apiKey")?);
        demo.end().await?;
        let config = adapt(&data.join("meridian.toml"), folder)?;
        let arguments = [OsStr::new("serve"), OsStr::new("--config"), config.as_os_str()];
        let server = Server::start("gateway", meridian, &arguments, &folder.join("gateway.log"), is_ready).await?;
        let url = server.ready.get("gateway").and_then(Value::as_str).context("no gateway URL")?;
        let address = address_of(url)?;
        Ok(Self { server, address, tenant, key })
    }
}

impl Hello {
    /// Starts this program's own `hello`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(body_len: usize, folder: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program has no path")?;
        let body_len = body_len.to_string();
        let arguments = [OsStr::new("hello"), OsStr::new("--bytes"), OsStr::new(&body_len)];
        let is_ready = |line: &Value| line.get("hello").is_some();
        let server = Server::start("hello", &program, &arguments, &folder.join("hello.log"), is_ready).await?;
        let url = server.ready.get("hello").and_then(Value::as_str).context("no hello URL")?;
        let address = address_of(url)?;
        Ok(Self { server, address })
    }
}

/// Writes the demo's configuration with the changes told above; returns its path.
fn adapt(demo: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let text = fs::read_to_string(demo).with_context(|| format!("cannot read {}", demo.display()))?;
    let path = folder.join("gateway.toml");
    fs::write(&path, adapted(&text)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn adapted(text: &str) -> anyhow::Result<String> {
    let mut config: toml::Table = toml::from_str(text).context("the demo's configuration")?;
    for section in DEFAULTED {
        config.remove(section);
    }
    for tenant in tables(&mut config, "tenants") {
        tenant.insert(
            "rate".to_owned(),
            RATE.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect::<toml::Table>().into(),
        );
        // Above what a benchmark makes; the dimensions stay charged.
        tenant.insert("quota".to_owned(), toml::Table::from_iter([("instances".to_owned(), 1_000_000.into())]).into());
    }
    for backend in tables(&mut config, "backends") {
        backend.insert("callsPerSecond".to_owned(), CALLS_PER_SECOND.into());
    }
    toml::to_string(&config).context("the adapted configuration")
}

fn tables<'t>(config: &'t mut toml::Table, name: &str) -> impl Iterator<Item = &'t mut toml::Table> {
    let list = config.get_mut(name).and_then(toml::Value::as_array_mut);
    list.into_iter().flatten().filter_map(toml::Value::as_table_mut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_configuration_is_adapted() {
        let demo = "[status]\nsweepInterval = \"1s\"\n[server]\nlisten = \"127.0.0.1:0\"\n[[tenants]]\nname = \"acme\"\n\
                    quota = { instances = 5 }\n[[backends]]\nid = \"a\"\n[[backends]]\nid = \"b\"\ncallsPerSecond = 3\n";
        let config: toml::Table = toml::from_str(&adapted(demo).unwrap()).unwrap();
        assert!(config.get("status").is_none() && config.get("server").is_some());
        assert_eq!(config["tenants"][0]["rate"]["createBurst"].as_integer(), Some(1_000_000));
        assert_eq!(config["tenants"][0]["quota"]["instances"].as_integer(), Some(1_000_000));
        for n in 0..2 {
            assert_eq!(config["backends"][n]["callsPerSecond"].as_integer(), Some(CALLS_PER_SECOND));
        }
    }

    #[test]
    fn addresses_are_read_from_urls() {
        assert_eq!(address_of("http://127.0.0.1:80/").unwrap(), SocketAddr::from(([127, 0, 0, 1], 80)));
        assert!(address_of("https://127.0.0.1:80").is_err());
        assert!(address_of("http://localhost").is_err());
    }
}
