//! Many rounds, several at a time, and their table.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    path::PathBuf,
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use super::{
    plan::Plan,
    round::{self, Outcome},
    verdict::{Kind, Verdict},
};

/// What a run is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `meridian` binary.
    pub meridian: PathBuf,
    /// Rounds.
    pub rounds: u64,
    /// Seed of the first; the others follow.
    pub seed: u64,
    /// Rounds at a time. Most of a round is waiting.
    pub jobs: usize,
    /// No round is begun after this.
    pub max_time: Duration,
    /// Two gateways on a Redis; else one with a ledger of its own.
    pub redis: bool,
    /// Clouds that take effect after the effect bound: the run must find what that breaks.
    pub dishonest: bool,
    /// Told what is going on.
    pub progress: fn(&str),
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Rounds that have a verdict.
    pub rounds: u64,
    /// Rounds that were not begun because the time was over.
    pub skipped: u64,
    /// Rounds that could not be run, with the reason.
    pub broken: Vec<(u64, String)>,
    /// Seeds of rounds that broke promises, with what they broke.
    pub failed: Vec<(u64, Vec<String>)>,
    /// All verdicts together.
    pub total: Verdict,
    /// How often each fault was done.
    pub faults: BTreeMap<String, u64>,
    /// How often a create was refused, by code.
    pub refusals: BTreeMap<String, u64>,
    /// The longest time from the calm to the last final answer.
    pub settled_max: Duration,
    /// The whole run.
    pub took: Duration,
}

impl Report {
    /// Whether every round ran and broke nothing.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.broken.is_empty() && self.failed.is_empty() && self.skipped == 0
    }

    fn add(&mut self, outcome: Outcome) {
        self.rounds += 1;
        let seed = outcome.plan.seed;
        for blow in &outcome.plan.blows {
            let name = format!("{:?}", blow.fault);
            *self.faults.entry(name.split('(').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        for fault in &outcome.plan.vendor {
            let name = fault.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default();
            *self.faults.entry(format!("cloud {name}")).or_default() += 1;
        }
        for (code, n) in outcome.refusals {
            *self.refusals.entry(code).or_default() += n;
        }
        self.settled_max = self.settled_max.max(outcome.settled);
        if !outcome.verdict.violations.is_empty() {
            let mut said: Vec<String> =
                outcome.verdict.violations.iter().map(|v| format!("{}: {}", v.kind, v.text)).collect();
            said.extend(outcome.plan.blows.iter().map(|blow| format!("  blow: {blow}")));
            said.extend(outcome.plan.vendor.iter().map(|fault| format!("  cloud: {fault}")));
            said.extend(outcome.kept.iter().map(|folder| format!("  logs: {}", folder.display())));
            self.failed.push((seed, said));
        }
        self.total.absorb(outcome.verdict);
    }

    /// The table, and whatever went wrong.
    #[must_use]
    pub fn text(&self) -> String {
        let total = &self.total;
        let mut out = String::new();
        let rows: [(&str, String); 14] = [
            ("rounds", self.rounds.to_string()),
            ("creates tried", total.tried.to_string()),
            ("acknowledged", total.acknowledged.to_string()),
            ("instances made", total.instances.to_string()),
            ("deletes", total.deleted.to_string()),
            ("doubled", total.count(Kind::Doubled).to_string()),
            ("leaked", total.count(Kind::Leaked).to_string()),
            ("lost acknowledgements", total.count(Kind::Lost).to_string()),
            ("oversold", total.count(Kind::Oversold).to_string()),
            ("stuck", total.count(Kind::Stuck).to_string()),
            ("other broken promises", self.others().to_string()),
            ("max time in doubt", format!("{:.1} s", ms(total.open_max_ms))),
            ("max from calm to last answer", format!("{:.1} s", self.settled_max.as_secs_f64())),
            ("took", format!("{:.0} s", self.took.as_secs_f64())),
        ];
        let _ = writeln!(out, "| | |\n| --- | ---: |");
        for (name, value) in rows {
            let _ = writeln!(out, "| {name} | {value} |");
        }
        let list = |map: &BTreeMap<String, u64>| {
            map.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            out,
            "\nFaults: {}.\nAnswers that were not 201 or 202: {}.",
            list(&self.faults),
            list(&self.refusals)
        );
        if self.skipped > 0 {
            let _ = writeln!(out, "{} rounds were not begun: the time was over.", self.skipped);
        }
        for (seed, why) in &self.broken {
            let _ = writeln!(out, "\nseed {seed} could not be run: {why}\n{}", again(*seed));
        }
        for (seed, said) in &self.failed {
            let _ = writeln!(out, "\nseed {seed}:\n  {}\n{}", said.join("\n  "), again(*seed));
        }
        out
    }

    fn others(&self) -> u64 {
        use Kind::{Doubled, Leaked, Lost, Oversold, Stuck};
        let told = [Doubled, Leaked, Lost, Oversold, Stuck];
        self.total.violations.iter().filter(|v| !told.contains(&v.kind)).count() as u64
    }
}

fn ms(ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default()).as_secs_f64()
}

fn again(seed: u64) -> String {
    format!("  repeat it with: meridian-loadtests chaos --seed {seed} --rounds 1")
}

/// Runs rounds.
pub async fn run(options: &Options) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let mut waiting: VecDeque<u64> = (0..options.rounds).map(|n| options.seed.wrapping_add(n)).collect();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < options.jobs.max(1) {
            if start.elapsed() > options.max_time {
                report.skipped += waiting.len() as u64;
                waiting.clear();
            }
            let Some(seed) = waiting.pop_front() else { break };
            let (meridian, redis) = (options.meridian.clone(), options.redis);
            let plan = Plan::new(seed, redis);
            let plan = if options.dishonest { plan.dishonest() } else { plan };
            under_way.spawn(async move { (seed, round::run(&meridian, plan, redis).await) });
        }
        let Some(ended) = under_way.join_next().await else { break };
        match ended {
            Ok((seed, Ok(mut outcome))) => {
                if let Some(folder) = outcome.kept.take_if(|_| options.dishonest) {
                    // What was wrong there is known beforehand.
                    let _ = std::fs::remove_dir_all(folder);
                }
                let (took, settled) = (outcome.took.as_secs_f64(), outcome.settled.as_secs_f64());
                let blows: Vec<_> = outcome.plan.blows.iter().map(|b| format!("{:?}", b.fault)).collect();
                let bad = outcome.verdict.violations.len();
                let mark = if bad == 0 { "ok".to_owned() } else { format!("{bad} BROKEN PROMISES") };
                (options.progress)(&format!(
                    "seed {seed}: {mark}, {took:.1} s, settled in {settled:.1} s, {}",
                    blows.join(" + ")
                ));
                report.add(outcome);
            }
            Ok((seed, Err(error))) => {
                (options.progress)(&format!("seed {seed}: could not be run: {error:#}"));
                report.broken.push((seed, format!("{error:#}")));
            }
            Err(error) => report.broken.push((0, format!("a round ended badly: {error}"))),
        }
    }
    report.took = start.elapsed();
    report
}
