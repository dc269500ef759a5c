//! Many histories, each in a process of its own, some at a time; the table at the end.

use std::{collections::BTreeMap, fmt::Write as _, ops::RangeInclusive, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{process::Command, task::JoinSet, time::Instant};

use super::{schedules::Directed, world::Verdict};

/// Longest time of one history; beyond it the simulation itself hangs.
const HISTORY_MAX: Duration = Duration::from_secs(180);
/// Failing seeds that are shown.
const SHOWN_MAX: usize = 20;
/// Most histories at once.
pub const JOBS_MAX: usize = 64;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Seeds.
    pub seeds: RangeInclusive<u64>,
    /// The planted bug, if any.
    pub mutant: Option<String>,
    /// The schedule of every seed; each seed's own if nothing is said.
    pub schedule: Option<Directed>,
    /// Processes at once.
    pub jobs: usize,
    /// Whether the first seed that fails is enough.
    pub first_only: bool,
}

/// What came of all histories.
#[derive(Debug, Default)]
pub struct Total {
    /// Histories that ran.
    pub histories: usize,
    /// Sums over them.
    pub creates: usize,
    requests: usize,
    acknowledged: usize,
    made: usize,
    taken_back: usize,
    instances: usize,
    faults: BTreeMap<String, usize>,
    findings: BTreeMap<String, usize>,
    /// Seeds in which something did not hold, and what first.
    pub failed: Vec<(u64, String)>,
    wall: Duration,
}

impl Total {
    fn add(&mut self, verdict: &Verdict) {
        self.histories += 1;
        self.creates += verdict.creates;
        self.requests += verdict.requests;
        self.acknowledged += verdict.acknowledged;
        self.made += verdict.made;
        self.taken_back += verdict.taken_back;
        self.instances += verdict.instances;
        for (kind, n) in &verdict.faults {
            *self.faults.entry(kind.clone()).or_default() += n;
        }
        for finding in &verdict.findings {
            *self.findings.entry(finding.promise.clone()).or_default() += 1;
        }
        if let Some(first) = verdict.findings.first() {
            self.failed.push((verdict.seed, format!("{} at {} ms: {}", first.promise, first.at_ms, first.what)));
        }
    }

    /// Nothing that was promised failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let of = |promise: &str| self.findings.get(promise).copied().unwrap_or(0);
        let mut text = String::from("| what | number |\n| --- | --- |\n");
        let rows: [(&str, String); 15] = [
            ("histories", self.histories.to_string()),
            ("creates tried", self.creates.to_string()),
            ("requests that carried them", self.requests.to_string()),
            ("keys acknowledged", self.acknowledged.to_string()),
            ("keys that ended with an instance", self.made.to_string()),
            ("instances taken back for a project", self.taken_back.to_string()),
            ("instances the clouds ever had", self.instances.to_string()),
            ("doubled (R1)", of("R1").to_string()),
            ("two answers (R2)", of("R2").to_string()),
            ("alive after a final failure (R3)", of("R3").to_string()),
            ("oversold (R5)", of("R5").to_string()),
            ("leaked (R6)", of("R6").to_string()),
            ("stuck (R8)", of("R8").to_string()),
            ("lost acknowledgements (R9)", of("R9").to_string()),
            ("resurrected (R10)", of("R10").to_string()),
        ];
        for (what, number) in rows {
            let _ = writeln!(text, "| {what} | {number} |");
        }
        let _ = writeln!(text, "| wall time | {:.0} s |", self.wall.as_secs_f64());
        text.push_str("\n| fault | times |\n| --- | --- |\n");
        for (kind, n) in &self.faults {
            let _ = writeln!(text, "| {kind} | {n} |");
        }
        text
    }
}

/// The command that repeats a history.
#[must_use]
pub fn command(seed: u64, mutant: Option<&str>, schedule: Option<Directed>) -> String {
    let mutant = mutant.map(|m| format!(" --mutant {m}")).unwrap_or_default();
    let schedule = schedule.map(|s| format!(" --schedule {}", s.name())).unwrap_or_default();
    let features = if mutant.is_empty() { "" } else { " --features mutants" };
    format!("cargo run -p meridian-loadtests{features} -- simulate --seeds {seed}..{seed}{mutant}{schedule} --trace")
}

/// Runs every seed in a process of its own. `say` gets a line per failing seed.
///
/// # Errors
/// A process cannot be started, or one ended without a verdict.
pub async fn run(run: &Run, say: impl Fn(&str)) -> anyhow::Result<Total> {
    let started = Instant::now();
    let mut total = Total::default();
    let mut seeds = run.seeds.clone();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < run.jobs.clamp(1, JOBS_MAX) {
            if run.first_only && !total.is_clean() {
                break;
            }
            let Some(seed) = seeds.next() else { break };
            under_way.spawn(history(seed, run.mutant.clone(), run.schedule));
        }
        let Some(ended) = under_way.join_next().await else { break };
        let verdict = ended??;
        if let Some(first) = verdict.findings.first()
            && total.failed.len() < SHOWN_MAX
        {
            say(&format!("seed {}: {} at {} ms: {}", verdict.seed, first.promise, first.at_ms, first.what));
            say(&format!("  {}", command(verdict.seed, run.mutant.as_deref(), run.schedule)));
        }
        total.add(&verdict);
    }
    total.wall = started.elapsed();
    Ok(total)
}

async fn history(seed: u64, mutant: Option<String>, schedule: Option<Directed>) -> anyhow::Result<Verdict> {
    let program = std::env::current_exe().context("this program has no path")?;
    let mut command = Command::new(program);
    command.args(["simulate", "--history", &seed.to_string()]);
    if let Some(mutant) = &mutant {
        command.args(["--mutant", mutant]);
    }
    if let Some(schedule) = schedule {
        command.args(["--schedule", schedule.name()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(HISTORY_MAX, command.output());
    let output = output.await.with_context(|| format!("seed {seed} hangs"))??;
    let Ok(verdict) = serde_json::from_slice(&output.stdout) else {
        bail!("seed {seed} has no verdict: {}", String::from_utf8_lossy(&output.stderr));
    };
    Ok(verdict)
}
