//! What the numbers were measured on.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;

/// Writes of the disk probe.
const SYNCS: usize = 100;
/// Bytes of each: one page.
const SYNC_LEN: usize = 4096;

/// The machine and the source.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Processor, cores, memory, kernel.
    pub hardware: String,
    /// Load averages before the run.
    pub load_before: String,
    /// Commit, with a mark if files were changed.
    pub commit: String,
    /// Compiler.
    pub compiler: String,
    /// Median of one write and `fdatasync` in the data folder.
    pub sync_p50: Duration,
}

impl Machine {
    /// Looks around; `folder` is where the ledger will be.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn look(folder: &Path) -> anyhow::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = field(&cpuinfo, "model name").unwrap_or("unknown processor").to_owned();
        let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib: u64 =
            field(&meminfo, "MemTotal").and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // What stands behind the version names a build, not a kernel.
        let kernel = kernel.trim().split('-').next().unwrap_or_default();
        let hardware = format!("{cores} cores of {model}, {} GiB, Linux {kernel}", memory_kib.div_ceil(1024 * 1024));
        let dirty = output("git", &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
        let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        Ok(Self {
            hardware,
            load_before: load(),
            commit: if dirty { format!("{commit} with uncommitted changes") } else { commit },
            compiler: output("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
            sync_p50: sync_p50(folder).context("the data folder cannot be written to")?,
        })
    }
}

/// The load averages of one, five and fifteen minutes.
#[must_use]
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name)).map(|(_, v)| v.trim())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// A file whose first page is written and synced again and again.
#[derive(Debug)]
pub struct SyncProbe(fs::File);

impl SyncProbe {
    /// A file in a folder, removed with the probe.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn new(folder: &Path) -> std::io::Result<Self> {
        let mut file = tempfile::tempfile_in(folder)?;
        // The room is taken first: a database does not grow at every commit.
        file.write_all(&[0; SYNC_LEN])?;
        file.sync_all()?;
        Ok(Self(file))
    }

    /// Writes and syncs once; how long that took. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn once(&mut self) -> std::io::Result<Duration> {
        let start = Instant::now();
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&[7; SYNC_LEN])?;
        self.0.sync_data()?;
        Ok(start.elapsed())
    }
}

fn sync_p50(folder: &Path) -> std::io::Result<Duration> {
    let mut probe = SyncProbe::new(folder)?;
    let mut took = (0..SYNCS).map(|_| probe.once()).collect::<Result<Vec<_>, _>>()?;
    took.sort();
    Ok(took.get(SYNCS / 2).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nMemTotal:       16384256 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "MemTotal"), Some("16384256 kB"));
        assert_eq!(field(text, "model"), None);
    }
}
