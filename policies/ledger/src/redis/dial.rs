//! Making connections: to the server, to the primary that Sentinels name, or to a cluster.
//!
//! A connection is handed out when it has answered a `PING`, so that a server that accepts and says nothing is not
//! taken for one that serves. Time is bounded by the caller.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, TlsMode, Value,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClientBuilder,
};
use secrecy::ExposeSecret;
use tokio::time::{sleep, timeout};

use super::{
    check::{self, CheckError, Warning},
    cluster::{Cluster, Place, first_answered, pipeline},
    connect::{Connect, Stream, TlsConnect},
    options::{Address, Options, Servers, Tls, User},
    values,
};

/// Calls under way on one connection; more wait, within their timeout. Far above what a gateway's drivers have, and
/// low enough that what is queued is answered within a timeout.
const CALLS_MAX: usize = 256;
/// A key of the slot of what belongs to no tenant, whatever the prefix is.
const COMMON_PLACE: &[u8] = b"{all}";
/// Server processes that are remembered as judged; a process restarts more seldom than a log is read.
const JUDGED_MAX: usize = 64;

/// A connection that takes many calls at once.
#[derive(Clone)]
pub(super) enum Connection {
    Node(MultiplexedConnection),
    Cluster(Cluster),
}

impl Connection {
    /// Sends one command and waits for its answer.
    pub(super) async fn send(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.send_to(Place::OfItsKeys, cmd).await
    }

    /// Sends a command that names no key to the server that holds one.
    pub(super) async fn send_beside(&mut self, key: &[u8], cmd: &Cmd) -> Result<Value, RedisError> {
        self.send_to(Place::Beside(key), cmd).await
    }

    /// Sends commands over one connection to the server that holds a key. Only the first one's error is an error, the
    /// others' are among the answers.
    pub(super) async fn send_together(&mut self, key: &[u8], cmds: &[Cmd]) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::Node(node) => first_answered(node.send_packed_commands(&pipeline(cmds), 0, cmds.len()).await?),
            Self::Cluster(cluster) => cluster.send_all(cmds, Place::Beside(key)).await,
        }
    }

    async fn send_to(&mut self, place: Place<'_>, cmd: &Cmd) -> Result<Value, RedisError> {
        match self {
            // An error inside a value is no answer of any of our commands.
            Self::Node(node) => node.send_packed_command(cmd).await?.extract_error(),
            Self::Cluster(cluster) => cluster.send(cmd, place).await,
        }
    }
}

/// Drives a connection; ends when the connection does.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct NoConnection(pub(super) String);

impl From<RedisError> for NoConnection {
    fn from(e: RedisError) -> Self {
        match (e.kind(), e.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
                Self(format!("it refuses these credentials, check ledger.user and ledger.password: {e}"))
            }
            _ => Self(e.to_string()),
        }
    }
}

/// Knows where and how to connect.
#[derive(Debug)]
pub(super) struct Dialer {
    options: Options,
    connect: Arc<dyn Connect>,
    judged: Mutex<Judged>,
}

/// What was found about servers.
#[derive(Debug, Default)]
struct Judged {
    /// Processes whose judgement was logged.
    told: BTreeSet<String>,
    /// Why the last one is not used.
    unfit: Option<String>,
}

impl Dialer {
    /// # Errors
    /// What is wrong with the options.
    pub(super) fn new(options: Options) -> Result<Self, String> {
        let addresses = match &options.servers {
            Servers::Single(_) => 1,
            Servers::Sentinel { addresses, .. } | Servers::Cluster { addresses } => addresses.len(),
        };
        if addresses == 0 {
            return Err("no server is named".to_owned());
        }
        if matches!(options.servers, Servers::Cluster { .. }) && options.database != 0 {
            return Err("a cluster has only database 0".to_owned());
        }
        let connect: Arc<dyn Connect> = match &options.tls {
            Some(tls) => Arc::new(TlsConnect::new(Arc::clone(&options.connect), tls)?),
            None => Arc::clone(&options.connect),
        };
        Ok(Self { options, connect, judged: Mutex::default() })
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last server that was reached is not used.
    pub(super) fn unfit(&self) -> Option<String> {
        self.judged().unfit.clone()
    }

    /// Returns when a server that was fit is so no more, and why.
    pub(super) async fn turns_unfit(&self, mut connection: Connection) -> NoConnection {
        let Some(each) = self.options.vetted else { return std::future::pending().await };
        loop {
            sleep(each).await;
            // A server that does not answer is found out by who needs it.
            let vetted = timeout(self.options.call_timeout, self.vet(&mut connection)).await;
            if let (Ok(Err(why)), Some(_)) = (vetted, self.unfit()) {
                return why;
            }
        }
    }

    /// Refuses a server whose settings lose writes; what only weakens it is logged once for each process.
    async fn vet(&self, connection: &mut Connection) -> Result<(), NoConnection> {
        if self.options.vetted.is_none() {
            return Ok(());
        }
        let Some(found) = check::inspect(connection, COMMON_PLACE).await? else {
            // A primary that is away is looked at when it is back; one that was unfit is no better for being away.
            return self.unfit().map_or(Ok(()), |why| Err(NoConnection(why)));
        };
        let verdict = check::judge(&found.settings, false);
        let mut judged = self.judged();
        if judged.told.len() >= JUDGED_MAX {
            judged.told.clear();
        }
        let unheard = judged.told.insert(found.process);
        match verdict {
            Ok(warnings) => {
                judged.unfit = None;
                for Warning(warning) in warnings.into_iter().filter(|_| unheard) {
                    tracing::warn!(warning, "the Redis weakens what the ledger promises");
                }
                Ok(())
            }
            Err(CheckError::Refused(why)) => {
                if unheard || judged.unfit.as_ref() != Some(&why) {
                    tracing::error!(
                        why,
                        "the Redis cannot hold a ledger and is not used until its settings are mended"
                    );
                }
                judged.unfit = Some(why.clone());
                Err(NoConnection(format!("the Redis cannot hold a ledger: {why}")))
            }
            Err(CheckError::Ledger(error)) => Err(NoConnection(error.to_string())),
        }
    }

    /// A connection that answers, and its driver.
    pub(super) async fn dial(&self) -> Result<(Connection, Driver), NoConnection> {
        if let Servers::Cluster { addresses } = &self.options.servers {
            let mut cluster = self.cluster(addresses).await?;
            cluster.send(&redis::cmd("PING"), Place::Anywhere).await?;
            let mut connection = Connection::Cluster(cluster);
            self.vet(&mut connection).await?;
            return Ok((connection, Box::pin(std::future::pending())));
        }
        let stream = self.stream().await?;
        let (node, mut driver) = multiplexed(&user_info(&self.options.user, self.options.database), stream).await?;
        let mut connection = Connection::Node(node);
        let tried = async {
            connection.send(&redis::cmd("PING")).await?;
            self.vet(&mut connection).await
        };
        tokio::select! {
            biased;
            answer = tried => answer?,
            () = &mut driver => return Err(NoConnection("closed by the server".to_owned())),
        };
        Ok((connection, driver))
    }

    /// A connection for messages.
    pub(super) async fn dial_messages(&self) -> Result<PubSub, NoConnection> {
        let stream = self.stream().await?;
        Ok(PubSub::new(&user_info(&self.options.user, self.options.database), stream).await?)
    }

    /// A stream to the server, to the primary of the Sentinels, or to any node of the cluster.
    async fn stream(&self) -> Result<Box<dyn Stream>, NoConnection> {
        match &self.options.servers {
            Servers::Single(address) => self.open(address).await,
            Servers::Sentinel { master, addresses, user } => self.primary(master, addresses, user).await,
            Servers::Cluster { addresses } => {
                let mut last = None;
                for address in addresses {
                    match self.open(address).await {
                        Ok(stream) => return Ok(stream),
                        Err(why) => last = Some(why),
                    }
                }
                Err(last.unwrap_or_else(|| NoConnection("no node is named".to_owned())))
            }
        }
    }

    async fn open(&self, address: &Address) -> Result<Box<dyn Stream>, NoConnection> {
        self.connect.connect(address).await.map_err(|e| NoConnection(format!("{address}: {e}")))
    }

    /// Asks one Sentinel after the other and believes an answer when the named server says itself that it is primary.
    async fn primary(&self, master: &str, all: &[Address], user: &User) -> Result<Box<dyn Stream>, NoConnection> {
        let mut whys = Vec::new();
        // Each gets its share of the time, so that one that is silent does not hide the others.
        let share = self.options.call_timeout / u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
        for sentinel in all {
            let found = async {
                let address = self.ask_sentinel(sentinel, master, user).await?;
                self.confirm_primary(&address).await?;
                self.open(&address).await
            };
            match timeout(share, found).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(NoConnection(why))) => whys.push(format!("sentinel {sentinel}: {why}")),
                Err(_) => whys.push(format!("sentinel {sentinel}: no answer in time")),
            }
        }
        Err(NoConnection(whys.join("; ")))
    }

    async fn ask_sentinel(&self, at: &Address, master: &str, user: &User) -> Result<Address, NoConnection> {
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(master);
        let answer = once(&user_info(user, 0), self.open(at).await?, &ask).await?;
        let address = values::texts(&answer).filter(|parts| parts.len() == 2).and_then(|parts| {
            let mut parts = parts.into_iter();
            Some(Address::new(parts.next()?, parts.next()?.parse().ok()?))
        });
        address.ok_or_else(|| NoConnection(format!("it knows no primary `{master}`")))
    }

    async fn confirm_primary(&self, address: &Address) -> Result<(), NoConnection> {
        let info = user_info(&self.options.user, self.options.database);
        let answer = once(&info, self.open(address).await?, &redis::cmd("ROLE")).await?;
        let role = values::list(&answer).and_then(|parts| values::text(parts.first()?));
        if role.as_deref() == Some("master") {
            Ok(())
        } else {
            Err(NoConnection(format!("{address} is not the primary (any more)")))
        }
    }

    async fn cluster(&self, addresses: &[Address]) -> Result<Cluster, NoConnection> {
        let nodes: Result<Vec<ConnectionInfo>, _> =
            addresses.iter().map(|a| node_address(a, self.options.tls.is_some()).into_connection_info()).collect();
        let timeout = self.options.call_timeout;
        let mut builder = ClusterClientBuilder::new(nodes?)
            .retries(0)
            .connection_timeout(timeout)
            .response_timeout(timeout)
            .connection_concurrency_limit(CALLS_MAX);
        if let Some(password) = &self.options.user.password {
            builder = builder.password(password.expose_secret());
        }
        if let Some(name) = &self.options.user.name {
            builder = builder.username(name);
        }
        if let Some(tls) = &self.options.tls {
            builder = builder.tls(TlsMode::Secure);
            if tls.authorities.is_some() || tls.client.is_some() {
                builder = builder.certs(cluster_certificates(tls));
            }
        }
        let nodes = builder.build()?.get_async_connection().await?;
        Ok(Cluster::new(nodes, Arc::clone(&self.connect), self.options.user.clone()))
    }
}

fn cluster_certificates(tls: &Tls) -> redis::TlsCertificates {
    let client_tls = tls.client.as_ref().map(|(chain, key)| redis::ClientTlsConfig {
        client_cert: chain.clone(),
        client_key: key.expose_secret().as_bytes().to_vec(),
    });
    redis::TlsCertificates { client_tls, root_cert: tls.authorities.clone() }
}

fn node_address(address: &Address, tls: bool) -> ConnectionAddr {
    let (host, port) = (address.host.clone(), address.port);
    if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

pub(super) fn user_info(user: &User, database: u16) -> RedisConnectionInfo {
    // The library's name tells a server nothing that it needs, and an old one refuses the command.
    let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(i64::from(database));
    if let Some(name) = &user.name {
        info = info.set_username(name);
    }
    if let Some(password) = &user.password {
        info = info.set_password(password.expose_secret());
    }
    info
}

pub(super) async fn multiplexed(
    info: &RedisConnectionInfo,
    stream: Box<dyn Stream>,
) -> Result<(MultiplexedConnection, Driver), RedisError> {
    // Timeouts are the caller's: the library's own would end a call without ending the connection.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_concurrency_limit(CALLS_MAX);
    let (node, driver) = MultiplexedConnection::new_with_config(info, stream, config).await?;
    Ok((node, Box::pin(driver)))
}

/// One command over a connection of its own.
async fn once(info: &RedisConnectionInfo, stream: Box<dyn Stream>, cmd: &Cmd) -> Result<Value, NoConnection> {
    let (mut node, mut driver) = multiplexed(info, stream).await?;
    tokio::select! {
        biased;
        answer = node.send_packed_command(cmd) => Ok(answer?.extract_error()?),
        () = &mut driver => Err(NoConnection("closed by the server".to_owned())),
    }
}
