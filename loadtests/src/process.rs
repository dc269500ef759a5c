//! Servers in processes of their own, so that what each costs can be told apart, and what `/proc` says of them.

use std::{ffi::OsStr, fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
    task::JoinSet,
    time::timeout,
};

/// Ticks of `utime` and `stime` a second: `USER_HZ`, fixed at 100 for user space on every Linux platform (proc(5)).
const TICKS_PER_SECOND: u64 = 100;

/// Longest start of a server, opening a large ledger included.
const READY_MAX: Duration = Duration::from_secs(60);

/// Longest wait for a server to end after it was asked to.
const END_MAX: Duration = Duration::from_secs(30);

/// Lines read before the ready line.
const LINES_MAX: usize = 1000;

/// A running server.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: tokio::process::Child,
    pid: u32,
    /// What its ready line said.
    pub ready: Value,
    /// Keeps reading what it prints, so that it never blocks on a full pipe.
    _drain: JoinSet<()>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time, user and system, of all its threads. Counted in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory now, KiB.
    pub rss_kib: u64,
    /// The most it ever had, KiB.
    pub rss_peak_kib: u64,
}

impl Server {
    /// Starts a program, its standard error to `log`, and reads lines until one is a JSON object that `is_ready`
    /// accepts.
    ///
    /// # Errors
    /// It cannot be started, ends, or is not ready in time; the end of its log is part of the message.
    pub async fn start(
        name: &'static str,
        program: &Path,
        arguments: &[&OsStr],
        log: &Path,
        is_ready: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Self> {
        let errors = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = tethered(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name} as {}", program.display()))?;
        let pid = child.id().context("the process has ended")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let wait = async {
            for _ in 0..LINES_MAX {
                let Some(line) = lines.next_line().await? else { bail!("it ended") };
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                if is_ready(&value) {
                    return Ok(value);
                }
            }
            bail!("no ready line among the first {LINES_MAX}")
        };
        let ready = timeout(READY_MAX, wait).await.unwrap_or_else(|_| bail!("not ready in {READY_MAX:?}"));
        let ready = ready.with_context(|| format!("{name} did not start; its log ends: {}", tail(log)))?;
        let mut drain = JoinSet::new();
        drain.spawn(async move {
            let mut rest = lines.into_inner();
            let mut buffer = [0; 4096];
            while rest.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        });
        Ok(Self { name, child, pid, ready, _drain: drain })
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.pid).with_context(|| format!("{} has ended", self.name))
    }

    /// Sends it a signal, named as `kill` names it.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        signal(self.pid, name).await
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// It is not gone in time.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.start_kill().with_context(|| format!("{} cannot be killed", self.name))?;
        timeout(END_MAX, self.child.wait()).await.with_context(|| format!("{} is not gone", self.name))??;
        Ok(())
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, as an operator would, and waits.
    ///
    /// # Errors
    /// It does not end.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.signal("TERM").await?;
        timeout(END_MAX, self.child.wait()).await.with_context(|| format!("{} does not end", self.name))??;
        Ok(())
    }
}

/// Where util-linux puts its `setpriv`.
const SETPRIV: &str = "/usr/bin/setpriv";

/// A command whose process also ends when this program is killed and can drop nothing any more, where the system has
/// the means for it.
#[must_use]
pub fn tethered(program: &Path) -> Command {
    if !Path::new(SETPRIV).exists() {
        return Command::new(program);
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Sends a signal. The standard library can only kill; the signal comes from the program made for it.
///
/// # Errors
/// There is no such program or process.
pub async fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await;
    ensure!(sent.context("cannot run kill")?.success(), "process {pid} does not take the signal {name}");
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// What the process `pid` has used so far.
///
/// # Errors
/// There is no such process, or `/proc` does not look as proc(5) says.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
    };
    Ok(Usage { cpu: cpu_of(&stat)?, rss_kib: kib("VmRSS"), rss_peak_kib: kib("VmHWM") })
}

/// `utime + stime`: fields 14 and 15 of `/proc/<pid>/stat`. The name in field 2 may hold anything, so counting starts
/// after its closing parenthesis.
fn cpu_of(stat: &str) -> anyhow::Result<Duration> {
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|f| f.parse::<u64>().ok()).context("no times in stat");
    let total = ticks()? + ticks()?;
    Ok(Duration::from_millis(total * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 7 8 20 0 3 0 100 1000 10";
        assert_eq!(cpu_of(stat).unwrap(), Duration::from_secs(3));
        assert!(cpu_of("42 (a) S 1").is_err());
    }

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let me = std::process::id();
        let before = usage(me).unwrap();
        let mut sum = 0_u64;
        // Work until the counter moves; a bound keeps a broken counter from hanging the test.
        for n in 0..2_000_000_000_u64 {
            sum = sum.wrapping_mul(31).wrapping_add(n);
            if n % 10_000_000 == 0 && usage(me).unwrap().cpu > before.cpu {
                break;
            }
        }
        std::hint::black_box(sum);
        let after = usage(me).unwrap();
        assert!(after.cpu > before.cpu);
        assert!(after.rss_kib > 0 && after.rss_peak_kib >= after.rss_kib);
    }
}
