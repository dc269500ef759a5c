//! Real `redis-server` processes: started, killed, stopped, promoted.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    process::Child,
    time::{Instant, sleep, timeout},
};

use super::resp::Resp;
use crate::process;

/// Longest start, loading included.
const READY_MAX: Duration = Duration::from_secs(20);
/// Between two looks whether it is ready.
const READY_POLL: Duration = Duration::from_millis(10);
/// Longest wait for a killed one to be gone.
const GONE_MAX: Duration = Duration::from_secs(10);
/// Starts on a port that somebody else took meanwhile.
const PORT_TRIES: u32 = 5;

/// A server with a folder and a port of its own; killed with its value.
#[derive(Debug)]
pub struct Redis {
    folder: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
}

/// A port that nobody uses now.
fn free_port() -> anyhow::Result<u16> {
    let probe = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(probe.local_addr()?.port())
}

impl Redis {
    /// Starts one as an operator would for a ledger: append-only, every write synced before it is acknowledged, no
    /// eviction.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for _ in 1..PORT_TRIES {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
            let mut server = Self { folder: folder.to_owned(), address, child: None };
            // Between the probe and the start somebody else may have taken the port.
            if server.run().await.is_ok() {
                return Ok(server);
            }
        }
        bail!("redis-server does not start in {}", folder.display())
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again after a kill, with what is on its disk.
    ///
    /// # Errors
    /// It does not start.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("redis.log"))?;
        let port = self.address.port().to_string();
        let settings = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            ["--maxmemory-policy", "noeviction"],
            ["--save", ""],
            ["--repl-diskless-sync-delay", "0"],
            ["--repl-timeout", "3600"],
            ["--repl-ping-replica-period", "1"],
        ];
        let child = process::tethered(Path::new("redis-server"))
            .args(settings.as_flattened())
            .args(["--dir", &self.folder.to_string_lossy()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start redis-server (Debian: apt-get install redis-server)")?;
        self.child = Some(child);
        let until = Instant::now() + READY_MAX;
        while Instant::now() < until {
            if self.child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None))) {
                bail!("redis-server ended: {}", tail(&self.folder.join("redis.log")));
            }
            if let Ok(mut link) = Resp::connect(self.address).await
                && link.ask(&["PING"]).await.is_ok_and(|pong| pong == "PONG")
            {
                return Ok(());
            }
            sleep(READY_POLL).await;
        }
        bail!("redis-server is not ready in {READY_MAX:?}")
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.as_ref().and_then(Child::id).context("redis-server does not run")
    }

    /// Whether it was started and not killed since.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Kills it without a warning.
    ///
    /// # Errors
    /// It is not gone in time.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.start_kill().context("redis-server cannot be killed")?;
        timeout(GONE_MAX, child.wait()).await.context("redis-server is not gone")??;
        Ok(())
    }

    /// Stops or continues it (`STOP`, `CONT`).
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        match self.child.as_ref().and_then(Child::id) {
            Some(pid) => process::signal(pid, name).await,
            None => Ok(()),
        }
    }

    /// A connection to it.
    ///
    /// # Errors
    /// It does not accept.
    pub async fn link(&self) -> anyhow::Result<Resp> {
        Resp::connect(self.address).await
    }

    /// Makes it follow another and waits until it has all of it.
    ///
    /// # Errors
    /// It does not get there in time.
    pub async fn follow(&self, primary: SocketAddr) -> anyhow::Result<()> {
        let mut link = self.link().await?;
        link.ask(&["REPLICAOF", &primary.ip().to_string(), &primary.port().to_string()]).await?;
        let until = Instant::now() + READY_MAX;
        while Instant::now() < until {
            if link.ask(&["INFO", "replication"]).await?.contains("master_link_status:up") {
                return Ok(());
            }
            sleep(READY_POLL).await;
        }
        bail!("the replica does not catch up in {READY_MAX:?}")
    }

    /// Makes a follower the primary.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn promote(&self) -> anyhow::Result<()> {
        self.link().await?.ask(&["REPLICAOF", "NO", "ONE"]).await.map(drop)
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_server_comes_back_with_what_it_acknowledged_and_a_replica_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut primary = Redis::start(&folder.path().join("a")).await.unwrap();
        let replica = Redis::start(&folder.path().join("b")).await.unwrap();
        replica.follow(primary.address()).await.unwrap();
        primary.link().await.unwrap().ask(&["SET", "k", "v"]).await.unwrap();
        primary.kill().await.unwrap();
        assert!(!primary.runs() && primary.link().await.is_err());
        replica.promote().await.unwrap();
        assert_eq!(replica.link().await.unwrap().ask(&["SET", "other", "w"]).await.unwrap(), "OK");
        primary.run().await.unwrap();
        assert_eq!(primary.link().await.unwrap().ask(&["GET", "k"]).await.unwrap(), "v");
        assert_eq!(primary.link().await.unwrap().info("keyspace", "db0").await.ok(), None, "not a bare number");
    }
}
