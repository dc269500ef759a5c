//! `[ledger]`: where operations and usage are kept, in a file of this gateway or in a Redis that several share.

use std::{fmt, path::PathBuf, time::Duration};

use meridian_model::quantity::Span;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{
    reader::Section,
    sections::{Driver, redact_option},
};

/// The port of a Redis or Sentinel whose address names none.
const REDIS_PORT: u16 = 6379;
/// The most addresses of one Redis: a cluster of sixteen with a spare each.
const ADDRESSES_MAX: usize = 32;
/// Longest prefix of keys; it is repeated in every key that is stored.
const PREFIX_LEN_MAX: usize = 32;
/// A renewal of the lease that takes this many calls must still come in time.
const CALLS_PER_LEASE: u32 = 2;

/// `[ledger]`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Where it is kept. Default `embedded`: one gateway needs nothing else.
    #[serde(flatten)]
    pub store: Store,
    /// 32 bytes in hexadecimal or base64 that seal environment values and registry passwords at rest; derived
    /// from the deployment secret without it.
    #[serde(serialize_with = "redact_option")]
    pub key: Option<SecretString>,
}

/// Where the ledger is kept.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "store", rename_all = "camelCase")]
pub enum Store {
    /// A database file of this gateway alone.
    Embedded {
        /// The file; it is made when it is not there. Relative to the working directory, as data paths are.
        path: PathBuf,
    },
    /// A Redis that all gateways of the deployment share.
    Redis(Box<Redis>),
}

/// `[ledger]` with `store = "redis"`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// How the server is found.
    pub servers: RedisServers,
    /// ACL user. Default none: the server's default user.
    pub user: Option<String>,
    /// Its password.
    #[serde(serialize_with = "redact_option")]
    pub password: Option<SecretString>,
    /// TLS to the server; plain without it.
    pub tls: Option<RedisTls>,
    /// Replicas that must have confirmed a write before it counts as durable (`WAIT`). Default 0: without a replica
    /// nobody could confirm; set 1 where there is one.
    pub min_replica_acks: u8,
    /// One call. Default 2 s: with `appendfsync always` a slow disk's fsync takes hundreds of milliseconds, and a call
    /// that takes longer than `driver.armValid` arms nothing anyway.
    pub call_timeout: Span,
    /// First part of every key. Default `meridian`; deployments that share a Redis must differ in it or in their id.
    pub prefix: String,
    /// Folder of this gateway's intent journal: what it was about to send, for the rebuild of a Redis that lost
    /// writes. On a local disk, one folder for each gateway, kept over restarts.
    pub journal_dir: PathBuf,
}

/// How a Redis is found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RedisServers {
    /// One server.
    Single(RedisAddress),
    /// The primary that Sentinels name.
    Sentinel {
        /// The Sentinels' name for it.
        master: String,
        /// The Sentinels.
        addresses: Vec<RedisAddress>,
        /// ACL user at the Sentinels, if they want one.
        user: Option<String>,
        /// Its password.
        #[serde(serialize_with = "redact_option")]
        password: Option<SecretString>,
    },
    /// A Redis Cluster; any of its nodes will do.
    Cluster {
        /// Nodes to ask first.
        addresses: Vec<RedisAddress>,
    },
}

/// `tls` of a Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// PEM with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM with the client's certificate, where the server asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM with its key.
    pub key_file: Option<PathBuf>,
}

/// Host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RedisAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<RedisAddress> for String {
    fn from(address: RedisAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for RedisAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bad = || format!("`{text}` is not of the form host:port");
        let (host, rest) = match text.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or_else(bad)?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| bad())?,
            None if rest.is_empty() => REDIS_PORT,
            None => return Err(bad()),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || port == 0 || !host.chars().all(fits) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// The words of `store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Embedded,
    Redis,
}

impl Ledger {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let kind = s.value("store").unwrap_or(Kind::Embedded);
        let key_file = s.value::<String>("keyFile");
        let key = key_file.and_then(|file| s.resolve(&s.at("keyFile"), &format!("file:{file}")));
        let store = match kind {
            Kind::Embedded => s.required("path", "\"data/ledger.redb\"").map(|path| Store::Embedded { path }),
            Kind::Redis => Redis::read(&mut s).map(|redis| Store::Redis(Box::new(redis))),
        };
        s.finish();
        Some(Self { store: store?, key: key.map(SecretString::from) })
    }

    /// Checks against the driver's settings.
    pub(super) fn consistent(&self, driver: &Driver, report: &super::reader::Report<'_>) {
        let Store::Redis(redis) = &self.store else { return };
        if redis.call_timeout.0.saturating_mul(CALLS_PER_LEASE) > driver.lease.0 {
            let what = format!("more than half of driver.lease ({})", driver.lease);
            report.mistake(
                "ledger.callTimeout",
                what,
                "lower it, or raise driver.lease: one late call must not end it",
            );
        }
    }
}

impl Redis {
    fn read(s: &mut Section<'_, '_>) -> Option<Self> {
        let tls = s.section("tls").map(RedisTls::read);
        let (servers, wants_tls) = RedisServers::read(s);
        let user = s.value("user");
        // One that cannot be read is reported as that.
        let has_password = s.has("password");
        let password = s.secret("password", false);
        if user.is_some() && !has_password {
            s.report.mistake(&s.at("user"), "a user without `password`", "add `password = \"file:/run/secrets/NAME\"`");
        }
        let min_replica_acks = s.within("minReplicaAcks", 0, (0, 8));
        let second = Duration::from_secs(1);
        let call_timeout = s.within("callTimeout", Span(2 * second), (Span(second / 20), Span(60 * second)));
        let prefix = s.value::<String>("prefix").unwrap_or_else(|| "meridian".to_owned());
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if prefix.is_empty() || prefix.len() > PREFIX_LEN_MAX || !prefix.chars().all(fits) {
            let mend = format!("use 1 to {PREFIX_LEN_MAX} letters, digits and any of -_.");
            s.report.mistake(&s.at("prefix"), "cannot be part of a key", mend);
        }
        let journal_dir = s.required("journalDir", "\"data/intents\"");
        let tls = match tls {
            Some(tls) => Some(tls?),
            None => wants_tls.then(RedisTls::default),
        };
        Some(Self {
            servers: servers?,
            user,
            password,
            tls,
            min_replica_acks,
            call_timeout,
            prefix,
            journal_dir: journal_dir?,
        })
    }
}

impl RedisServers {
    /// The servers, and whether a URL asks for TLS.
    fn read(s: &mut Section<'_, '_>) -> (Option<Self>, bool) {
        let given = ["url", "sentinel", "cluster"].map(|key| s.has(key)).into_iter().filter(|has| *has).count();
        if given != 1 {
            let what =
                if given == 0 { "no server is named" } else { "more than one of `url`, `sentinel` and `cluster`" };
            let mend =
                "give one of: url = \"redis://HOST:PORT\", sentinel = { master, addresses }, cluster = { addresses }";
            s.report.mistake(&s.path, what, mend);
        }
        let url = s.value::<String>("url").map(|url| single(s, &url));
        let sentinel = s.section("sentinel").map(read_sentinel);
        let cluster = s.section("cluster").map(|mut c| {
            let addresses = addresses(&mut c);
            c.finish();
            Some(Self::Cluster { addresses: addresses? })
        });
        let wants_tls = matches!(url, Some(Some((_, true))));
        let single = url.map(|url| url.map(|(address, _)| Self::Single(address)));
        (single.or(sentinel).or(cluster).flatten(), wants_tls)
    }
}

fn single(s: &Section<'_, '_>, text: &str) -> Option<(RedisAddress, bool)> {
    let mistake = |what: &str, mend: &str| {
        s.report.mistake(&s.at("url"), what, mend);
        None
    };
    let form = "write it as redis://HOST:PORT, or rediss://HOST:PORT for TLS";
    let (tls, rest) = match text.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        _ => return mistake("is no address of a Redis", form),
    };
    if rest.contains('@') {
        return mistake("holds credentials", "move them to `user` and `password`, which are never shown");
    }
    match RedisAddress::try_from(rest.trim_end_matches('/').to_owned()) {
        Ok(address) => Some((address, tls)),
        Err(why) => mistake(&why, form),
    }
}

fn read_sentinel(mut s: Section<'_, '_>) -> Option<RedisServers> {
    let master = s.required("master", "\"meridian\"");
    let addresses = addresses(&mut s);
    let user = s.value("user");
    let password = s.secret("password", false);
    s.finish();
    Some(RedisServers::Sentinel { master: master?, addresses: addresses?, user, password })
}

fn addresses(s: &mut Section<'_, '_>) -> Option<Vec<RedisAddress>> {
    let list = s.required::<Vec<RedisAddress>>("addresses", "[\"redis-1:6379\", \"redis-2:6379\"]")?;
    if list.is_empty() || list.len() > ADDRESSES_MAX {
        let what = format!("{} addresses", list.len());
        s.report.mistake(&s.at("addresses"), what, format!("name 1 to {ADDRESSES_MAX}"));
        return None;
    }
    Some(list)
}

impl RedisTls {
    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let base = s.report.base();
        let mut file = |key: &'static str| {
            let file = s.value::<PathBuf>(key)?;
            if let Err(error) = std::fs::metadata(base.join(&file)) {
                s.report.mistake(&s.at(key), format!("cannot be read: {error}"), "check the path and its permissions");
            }
            Some(base.join(file))
        };
        let (ca_file, cert_file, key_file) = (file("caFile"), file("certFile"), file("keyFile"));
        if cert_file.is_some() != key_file.is_some() {
            s.report.mistake(&s.path, "certFile and keyFile belong together", "give both, or neither");
        }
        s.finish();
        Some(Self { ca_file, cert_file, key_file })
    }
}
