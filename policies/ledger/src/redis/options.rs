//! Where a Redis is and how it is spoken to.

use std::{fmt, sync::Arc, time::Duration};

use secrecy::SecretString;

use super::connect::{Connect, TcpConnect};

/// A call that takes longer has an unknown outcome. Two seconds: with `appendfsync always` a slow disk's fsync takes
/// hundreds of milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// An address of its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Name and password of an ACL user. `Debug` shows no password.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// None is the server's default user.
    pub name: Option<String>,
    /// None sends no `AUTH`.
    pub password: Option<SecretString>,
}

/// How the server is found.
#[derive(Debug, Clone)]
pub enum Servers {
    /// One server.
    Single(Address),
    /// The primary that Sentinels name.
    Sentinel {
        /// The Sentinels' name for it.
        master: String,
        /// The Sentinels, asked in this order.
        addresses: Vec<Address>,
        /// The user at the Sentinels.
        user: User,
    },
    /// A Redis Cluster.
    Cluster {
        /// Nodes to ask first.
        addresses: Vec<Address>,
    },
}

/// TLS to the servers (and to the Sentinels). All texts are PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Authorities to trust instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// The client's certificate chain and key, where the server asks for one.
    pub client: Option<(Vec<u8>, SecretString)>,
}

/// How to reach a Redis.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is.
    pub servers: Servers,
    /// Who we are there.
    pub user: User,
    /// Number of the database; a cluster has only 0.
    pub database: u16,
    /// Plain without it.
    pub tls: Option<Tls>,
    /// For how long a call is waited for, the time for the connection included.
    pub call_timeout: Duration,
    /// A server is used only while its settings are fit for a ledger ([`super::RedisLedger::check_server`]): they are
    /// looked at each time a connection is made, since after a failover it is another, and each time that this has
    /// passed, since an operator may change them. Of a cluster, the one that holds the list of tenants.
    pub vetted: Option<Duration>,
    /// Opens the byte streams. Not used for most commands of a cluster, whose client opens its own.
    pub connect: Arc<dyn Connect>,
}

impl Options {
    /// A server or servers without user, TLS and with the default timeout, over TCP.
    #[must_use]
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            user: User::default(),
            database: 0,
            tls: None,
            call_timeout: CALL_TIMEOUT,
            vetted: None,
            connect: Arc::new(TcpConnect),
        }
    }

    /// One plain server.
    pub fn single(host: impl Into<String>, port: u16) -> Self {
        Self::new(Servers::Single(Address::new(host, port)))
    }
}
