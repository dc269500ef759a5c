//! A real `redis-server` for tests: on a free port of the loopback, in a folder of its own, gone with its handle.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// The program.
const PROGRAM: &str = "redis-server";
/// Between two looks whether something has happened.
const LOOK: Duration = Duration::from_millis(10);
/// Looks before a wait is given up: 20 seconds.
const LOOKS_MAX: usize = 2_000;
/// Ports that are tried before giving up: another process may take a free one first.
const PORTS_MAX: usize = 20;
/// The longest that a server may take for one answer here.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// One server process. Durable by default: `appendonly yes`, `appendfsync always`, `noeviction`.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    port: u16,
    /// Port of a cluster's bus.
    bus: u16,
    clustered: bool,
    args: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server with further lines of configuration, each as `["name", "value", ..]`-like words of one line, for
    /// example `"appendfsync everysec"`; a later line wins. Blocks until it answers.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(lines: &[&str]) -> Self {
        let durable = ["save \"\"", "appendonly yes", "appendfsync always", "maxmemory-policy noeviction"];
        Self::start_as(&durable.iter().chain(lines).copied().collect::<Vec<_>>(), &[])
    }

    /// Starts a replica of this server and waits until it has everything.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn replica(&self) -> Self {
        if self.clustered {
            return self.cluster_replica();
        }
        let replica = Self::start(&[&format!("replicaof 127.0.0.1 {}", self.port), "repl-diskless-sync-delay 0"]);
        wait_until("the replica is in step", || {
            let info = replica.ask(&["INFO", "replication"]);
            info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0")
        });
        replica
    }

    /// A replica in a cluster, which never takes its primary's place.
    fn cluster_replica(&self) -> Self {
        let lines = ["cluster-enabled yes", "cluster-node-timeout 5000", "cluster-replica-no-failover yes"];
        let replica = Self::start(&lines);
        assert_eq!(self.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]), "OK");
        let id = self.ask(&["CLUSTER", "MYID"]);
        let (port, bus) = (self.port.to_string(), self.bus.to_string());
        assert_eq!(replica.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]), "OK");
        wait_until("the primary is known", || replica.ask(&["CLUSTER", "REPLICATE", &id]) == "OK");
        wait_until("the replica is in step", || {
            let info = replica.ask(&["INFO", "replication"]);
            info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0")
        });
        replica
    }

    /// Starts a Sentinel that watches this server under a name and waits until it knows the replicas.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn sentinel(&self, master: &str, replicas: usize) -> Self {
        let monitor = format!("sentinel monitor {master} 127.0.0.1 {} 1", self.port);
        let down = format!("sentinel down-after-milliseconds {master} 500");
        let failover = format!("sentinel failover-timeout {master} 2000");
        let sentinel = Self::start_as(&[&monitor, &down, &failover], &["--sentinel"]);
        let known = format!("slaves={replicas},");
        wait_until("the sentinel knows the replicas", || sentinel.ask(&["INFO", "sentinel"]).contains(&known));
        sentinel
    }

    /// Starts a cluster of so many primaries, each with an equal part of the slots, and waits until all know it.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn cluster(nodes: u16) -> Vec<Self> {
        let all: Vec<_> =
            (0..nodes).map(|_| Self::start(&["cluster-enabled yes", "cluster-node-timeout 5000"])).collect();
        let share = 16_384_u16.div_ceil(nodes.max(1));
        for (n, node) in (0..nodes).zip(&all) {
            let (from, to) = (n * share, ((n + 1) * share).min(16_384) - 1);
            assert_eq!(node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]), "OK");
            assert_eq!(node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]), "OK");
        }
        for node in all.iter().skip(1) {
            let (port, bus) = all.first().map_or((0, 0), |f| (f.port, f.bus));
            assert_eq!(node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()]), "OK");
        }
        let known = format!("cluster_known_nodes:{nodes}");
        wait_until("the cluster is whole", || {
            all.iter().all(|node| {
                let info = node.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains(&known)
            })
        });
        all
    }

    fn start_as(lines: &[&str], args: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("redis").tempdir().expect("a temporary folder");
        let mut text = lines.join("\n");
        text.push_str("\nbind 127.0.0.1\ndaemonize no\nloglevel notice\nlogfile log\nenable-debug-command yes\n");
        text.push_str(&format!("dir {}\n", folder.path().display()));
        std::fs::write(folder.path().join("redis.conf"), text).expect("its configuration is written");
        let args = args.iter().map(|&a| a.to_owned()).collect();
        let clustered = lines.contains(&"cluster-enabled yes");
        let mut server = Self { folder, port: 0, bus: 0, clustered, args, child: None };
        for _ in 0..PORTS_MAX {
            (server.port, server.bus) = (free_port(), free_port());
            if server.spawn() {
                return server;
            }
        }
        panic!("no {PROGRAM} starts: {}", server.log());
    }

    /// Starts the process; whether it answers. It may find its port taken.
    fn spawn(&mut self) -> bool {
        let mut command = Command::new(PROGRAM);
        command.arg(self.folder.path().join("redis.conf"));
        // A cluster's bus port is the port and 10,000 unless told otherwise, which may be too high.
        command.args(["--port", &self.port.to_string()]).args(&self.args);
        if self.clustered {
            command.args(["--cluster-port", &self.bus.to_string()]);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed"));
        for _ in 0..LOOKS_MAX {
            let ended = self.child.as_mut().is_some_and(|c| !matches!(c.try_wait(), Ok(None)));
            if ended {
                self.child = None;
                return false;
            }
            // With a password the refusal is an answer too.
            if self.try_ask(&["PING"]).is_some_and(|a| a == "PONG" || a.starts_with("-NOAUTH")) {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's folder, with its log and its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process; none after [`RedisServer::kill`].
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the process at once (SIGKILL).
    ///
    /// # Panics
    /// It does not end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// Starts it again on the same port with the same data; kills it before if it runs.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.spawn(), "it does not start again: {}", self.log());
    }

    /// Freezes the process (SIGSTOP): its sockets stay open, nothing is answered.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn cont(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(process) = self.process() {
            let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
            assert!(sent.is_ok_and(|s| s.success()), "the signal is sent");
        }
    }

    /// Sends one command over a connection of its own; the answer as text: strings as they are, errors with `-`, list
    /// elements in lines.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).unwrap_or_else(|| panic!("no answer to {words:?}: {}", self.log()))
    }

    /// As [`RedisServer::ask`]; none when there is no answer.
    #[must_use]
    pub fn try_ask(&self, words: &[&str]) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX).ok()?;
        stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(request.as_bytes()).ok()?;
        Answer { stream, bytes: Vec::new(), at: 0 }.read()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The append-only files, which hold everything that was acknowledged.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("appendonlydir")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads one answer.
struct Answer {
    stream: TcpStream,
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        self.bytes.extend_from_slice(chunk.get(..read)?);
        Some(())
    }

    fn line(&mut self) -> Option<String> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            if let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(rest.get(..end)?).into_owned();
                self.at += end + 2;
                return Some(line);
            }
            self.fill()?;
        }
    }

    fn read(&mut self) -> Option<String> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1)?;
        match kind {
            "$" => {
                let Ok(len) = usize::try_from(rest.parse::<i64>().ok()?) else { return Some(String::new()) };
                while self.bytes.len() < self.at + len + 2 {
                    self.fill()?;
                }
                let text = String::from_utf8_lossy(self.bytes.get(self.at..self.at + len)?).into_owned();
                self.at += len + 2;
                Some(text)
            }
            "*" => {
                let count: i64 = rest.parse().ok()?;
                let parts: Option<Vec<_>> = (0..count).map(|_| self.read()).collect();
                Some(parts?.join("\n"))
            }
            "-" => Some(line),
            _ => Some(rest.to_owned()),
        }
    }
}

/// A port that was free just now.
///
/// # Panics
/// There is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Waits until something holds, 20 seconds at most.
///
/// # Panics
/// It does not come to hold.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if holds() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("in vain: {what}");
}
