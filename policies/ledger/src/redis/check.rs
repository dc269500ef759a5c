//! What a server must be like to hold a ledger, and what it should be like.

use redis::RedisError;

use super::{RedisLedger, dial::Connection, link::gives_up, values};
use crate::LedgerError;

/// The least version: `WAIT` in scripts' replication, ACL channels and `LIMIT`s behave as is relied on (6.2).
const VERSION_MIN: (u64, u64) = (6, 2);
/// From here on `WAITAOF` is there.
const VERSION_WAITAOF: (u64, u64) = (7, 2);

/// Something about the server that weakens what the ledger promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

/// Why a server cannot hold a ledger.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Its settings lose writes.
    #[error("the Redis cannot hold a ledger: {0}")]
    Refused(String),
    /// It cannot be asked.
    #[error("the Redis cannot be asked")]
    Ledger(#[from] LedgerError),
}

/// What a server says of itself; none where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    version: Option<(u64, u64)>,
    replicas: Option<u64>,
    /// From `INFO` where `CONFIG` is forbidden.
    appendonly: Option<bool>,
    appendfsync: Option<String>,
    maxmemory_policy: Option<String>,
    min_replicas: Option<u64>,
    /// It follows another server.
    follows: Option<bool>,
}

impl RedisLedger {
    /// Compares the settings of the server (of a cluster: of the one that holds the list of tenants) with what the
    /// ledger needs. A managed Redis may forbid the question; then a warning says what could not be checked.
    ///
    /// # Errors
    /// [`CheckError::Refused`] where writes would be lost without a crash.
    pub async fn check_server(&self) -> Result<Vec<Warning>, CheckError> {
        match self.redis.inspect(&self.keys.common("meta")).await {
            Ok(Some(found)) => judge(&found.settings, self.acks.is_some_and(|a| a.disk)),
            Ok(None) => Ok(vec![Warning("a primary of the cluster is away; it could not be checked".to_owned())]),
            Err(error) => Err(self.redis.unfit().map_or(CheckError::Ledger(error), CheckError::Refused)),
        }
    }
}

/// A server, and how it is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// Its `run_id`.
    pub(super) process: String,
    pub(super) settings: Settings,
}

/// Asks the server that holds a key. What it may not be asked stays unknown.
///
/// None: another answered for it. A cluster's client sends what names no key to any node while the primary is away,
/// and no node redirects it.
pub(super) async fn inspect(connection: &mut Connection, place: &[u8]) -> Result<Option<Inspected>, RedisError> {
    const NAMES: [&str; 4] = ["appendonly", "appendfsync", "maxmemory-policy", "min-replicas-to-write"];
    let settings = NAMES.map(|name| redis::cmd("CONFIG").arg("GET").arg(name).clone());
    let asked: Vec<_> = [redis::cmd("INFO")].into_iter().chain(settings).collect();
    let mut answers = connection.send_together(place, &asked).await?.into_iter();
    let info = answers.next().as_ref().and_then(values::text).unwrap_or_default();
    let mut settings = from_info(&info);
    if settings.follows == Some(true) && matches!(connection, Connection::Cluster(_)) {
        return Ok(None);
    }
    for (name, answer) in NAMES.into_iter().zip(answers) {
        let answer = match answer.extract_error() {
            Ok(answer) => answer,
            Err(error) if !gives_up(&error) => continue,
            Err(error) => return Err(error),
        };
        if let Some(value) = values::list(&answer).and_then(|pair| pair.get(1)).and_then(values::text) {
            settings.set(name, &value);
        }
    }
    Ok(Some(Inspected { process: field(&info, "run_id").unwrap_or_default(), settings }))
}

impl Settings {
    fn set(&mut self, name: &str, value: &str) {
        match name {
            "appendonly" => self.appendonly = Some(value == "yes"),
            "appendfsync" => self.appendfsync = Some(value.to_owned()),
            "maxmemory-policy" => self.maxmemory_policy = Some(value.to_owned()),
            "min-replicas-to-write" => self.min_replicas = value.parse().ok(),
            _ => {}
        }
    }
}

fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|v| v.trim().to_owned())
}

fn from_info(info: &str) -> Settings {
    let field = |name: &str| field(info, name);
    let version = field("redis_version").and_then(|v| {
        let mut parts = v.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    Settings {
        version,
        follows: field("role").map(|role| role == "slave"),
        replicas: field("connected_slaves").and_then(|n| n.parse().ok()),
        appendonly: field("aof_enabled").map(|n| n == "1"),
        maxmemory_policy: field("maxmemory_policy"),
        ..Settings::default()
    }
}

pub(super) fn judge(found: &Settings, wants_waitaof: bool) -> Result<Vec<Warning>, CheckError> {
    let refuse = |why: &str| Err(CheckError::Refused(why.to_owned()));
    if found.version.is_some_and(|v| v < VERSION_MIN) {
        return refuse("its version is below 6.2");
    }
    if found.follows == Some(true) {
        return refuse("it is a replica; name the primary, or its Sentinels, which tell who that is");
    }
    if wants_waitaof && found.version.is_some_and(|v| v < VERSION_WAITAOF) {
        return refuse("its version has no WAITAOF (7.2)");
    }
    if found.maxmemory_policy.as_deref().is_some_and(|p| p != "noeviction") {
        return refuse("it evicts keys when memory is short; set maxmemory-policy noeviction");
    }
    if found.appendonly == Some(false) {
        return refuse("it keeps no append-only file; set appendonly yes");
    }
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(Warning(text.to_owned()));
    for (unknown, name) in [
        (found.version.is_none(), "its version"),
        (found.maxmemory_policy.is_none(), "maxmemory-policy"),
        (found.appendonly.is_none(), "appendonly"),
        (found.appendfsync.is_none(), "appendfsync"),
        (found.min_replicas.is_none(), "min-replicas-to-write"),
    ] {
        if unknown {
            warn(&format!("the Redis does not tell {name}; it could not be checked"));
        }
    }
    if found.appendfsync.as_deref().is_some_and(|f| f != "always") {
        warn("appendfsync is not `always`: a crash of Redis loses what it acknowledged last, and a rebuild follows");
    }
    if found.replicas.is_some_and(|n| n > 0) && found.min_replicas == Some(0) {
        warn("there are replicas and min-replicas-to-write is 0: a primary that is cut off goes on to take writes");
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Settings {
        Settings {
            version: Some((7, 0)),
            replicas: Some(1),
            appendonly: Some(true),
            appendfsync: Some("always".to_owned()),
            maxmemory_policy: Some("noeviction".to_owned()),
            min_replicas: Some(1),
            follows: Some(false),
        }
    }

    #[test]
    fn settings_are_judged() {
        let check = |change: fn(&mut Settings), waitaof: bool| {
            let mut settings = good();
            change(&mut settings);
            judge(&settings, waitaof).map(|w| w.len()).map_err(|e| e.to_string())
        };
        assert_eq!(check(|_| {}, false), Ok(0));
        assert_eq!(check(|s| s.appendfsync = Some("everysec".to_owned()), false), Ok(1));
        assert_eq!(check(|s| s.min_replicas = Some(0), false), Ok(1));
        assert_eq!(check(|s| (s.min_replicas, s.replicas) = (Some(0), Some(0)), false), Ok(0));
        assert_eq!(check(|s| *s = Settings::default(), false), Ok(5));
        for change in [
            |s: &mut Settings| s.version = Some((6, 0)),
            |s: &mut Settings| s.maxmemory_policy = Some("allkeys-lru".to_owned()),
            |s: &mut Settings| s.appendonly = Some(false),
            |s: &mut Settings| s.follows = Some(true),
        ] {
            assert!(check(change, false).is_err());
        }
        assert!(check(|_| {}, true).is_err_and(|e| e.contains("WAITAOF")));
    }

    #[test]
    fn info_is_read() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\nconnected_slaves:2\r\naof_enabled:0\r\nmaxmemory_policy:noeviction\r\n";
        let want = Settings {
            version: Some((7, 0)),
            replicas: Some(2),
            appendonly: Some(false),
            maxmemory_policy: Some("noeviction".to_owned()),
            follows: Some(false),
            ..Settings::default()
        };
        assert_eq!(from_info(info), want);
    }
}
