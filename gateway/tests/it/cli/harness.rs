//! Runs the binary: a demo in the background, commands to their end.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

/// Longest wait for anything: a start on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with nothing of the caller's environment that could change its behaviour.
pub(crate) fn meridian(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// A command that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its output, if it ended well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

pub(crate) fn finish(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Polls another process; there is nothing to be woken by.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that prints one JSON line as its last line when it is ready; killed when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    /// Everything it printed up to the ready line.
    pub(crate) printed: Vec<String>,
    /// The ready line.
    pub(crate) ready: Value,
    _scratch: tempfile::TempDir,
}

impl Background {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = meridian(args);
        // What a killed process leaves behind goes with the test.
        let scratch = tempfile::tempdir().unwrap();
        command.env("TMPDIR", scratch.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = loop {
            let Some(Ok(line)) = lines.next() else {
                let mut stderr = String::new();
                child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                panic!("{args:?} ended before it was ready: {stderr}");
            };
            if let Some(ready) = line.strip_prefix('{') {
                break serde_json::from_str(&format!("{{{ready}")).unwrap();
            }
            printed.push(line);
        };
        Self { child, printed, ready, _scratch: scratch }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code, once it has ended.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the process ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|s| s.code())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A demo on ports of its own.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) process: Background,
    files: tempfile::TempDir,
}

impl Demo {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(flags: &[&str]) -> Self {
        let args = [&["demo", "--listen", "127.0.0.1:0"], flags].concat();
        Self { process: Background::start(&args), files: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn server(&self) -> String {
        self.process.ready["gateway"].as_str().unwrap().to_owned()
    }

    pub(crate) fn control(&self) -> String {
        self.process.ready["cloudsim"]["control"].as_str().unwrap().to_owned()
    }

    /// A tenant's key.
    pub(crate) fn tenant(&self, name: &str) -> String {
        let tenants = self.process.ready["tenants"].as_array().unwrap();
        let tenant = tenants.iter().find(|t| t["name"] == name).unwrap();
        tenant["apiKey"].as_str().unwrap().to_owned()
    }

    /// A client command of tenant acme.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = meridian(args);
        command.env("MERIDIAN_SERVER", self.server()).env("MERIDIAN_TOKEN", self.tenant("acme"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    /// A file with this content; its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

/// One request; none when the connection fails or is cut.
pub(crate) fn request(url: &str, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, Value)> {
    let address = url.strip_prefix("http://")?;
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let len = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}content-length: {len}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// One call of the simulators' control API.
pub(crate) fn control(url: &str, method: &str, path: &str, body: &str) -> Value {
    let (status, answer) = request(url, method, path, "", body).unwrap();
    assert_eq!(status / 100, 2, "{answer}");
    answer
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
