//! The arguments of `simulate`, and what is printed.

use std::{io::Write as _, ops::RangeInclusive};

use anyhow::{Context as _, ensure};

use super::{
    mutants::{self, MUTANTS, Mutant},
    runner,
    schedules::Directed,
    world,
};

/// `simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seeds, both ends included
    #[arg(long, value_name = "A..B", default_value = "1..20", value_parser = seeds)]
    seeds: RangeInclusive<u64>,
    /// Histories at once, each a process
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// A planted bug, which must be found
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// What the faults of every history are about; seven seeds in sixteen have such a schedule by themselves
    #[arg(long, value_enum)]
    schedule: Option<Directed>,
    /// Every planted bug, each with its own number of seeds; one that is not found is a failure
    #[arg(long, conflicts_with_all = ["mutant", "trace"])]
    mutants: bool,
    /// Show what happens in the first history, event by event
    #[arg(long)]
    trace: bool,
    /// With --trace: first what left each host; two runs of a seed may not differ in a line
    #[arg(long, requires = "trace")]
    wire: bool,
    /// One history in this process; its verdict as JSON
    #[arg(long, hide = true)]
    history: Option<u64>,
}

fn seeds(text: &str) -> anyhow::Result<RangeInclusive<u64>> {
    let (from, to) = text.split_once("..").context("write A..B")?;
    let (from, to) = (from.parse()?, to.trim_start_matches('=').parse()?);
    ensure!(from <= to, "the first seed is greater than the last");
    Ok(from..=to)
}

/// Runs what was asked for.
///
/// # Errors
/// A history failed, or could not be run.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut options =
        world::Options { trace: args.trace, wire: args.wire, schedule: args.schedule, ..world::Options::default() };
    let here = args.history.is_some() || args.trace;
    if let Some(name) = args.mutant.as_ref().filter(|_| here) {
        mutants::find(name).with_context(|| format!("there is no mutant {name}"))?.plant(&mut options)?;
    }
    if let Some(seed) = args.history {
        return print(&serde_json::to_string(&world::run(seed, options)?)?);
    }
    if args.trace {
        return show(*args.seeds.start(), options);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.mutants {
        return runtime.block_on(all_mutants(args.jobs));
    }
    let (seeds, mutant) = (args.seeds.clone(), args.mutant.clone());
    let run = runner::Run { seeds, mutant, schedule: args.schedule, jobs: args.jobs, first_only: false };
    let total = runtime.block_on(runner::run(&run, say))?;
    print(&total.table())?;
    ensure!(total.is_clean(), "{} of {} histories failed", total.failed.len(), total.histories);
    Ok(())
}

fn say(line: &str) {
    // Progress that nobody reads is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

async fn all_mutants(jobs: usize) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    print("| mutant | budget | histories until found | what was found |\n| --- | --- | --- | --- |")?;
    for mutant in MUTANTS {
        let found = hunt(&mutant, jobs).await?;
        let (seed, what) = found.clone().unwrap_or((mutant.budget, "NOT FOUND".to_owned()));
        print(&format!("| {} | {} | {seed} | {what} |", mutant.name, mutant.budget))?;
        if found.is_none() {
            missed.push(mutant.name);
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}

/// The first seed in which a mutant breaks what holds without it, and what it breaks.
async fn hunt(mutant: &Mutant, jobs: usize) -> anyhow::Result<Option<(u64, String)>> {
    let mut from = 1;
    while from <= mutant.budget {
        let name = Some(mutant.name.to_owned());
        let schedule = mutant.schedule;
        let run = runner::Run { seeds: from..=mutant.budget, mutant: name, schedule, jobs, first_only: true };
        let total = runner::run(&run, |_| {}).await?;
        let Some((seed, what)) = total.failed.into_iter().min() else { return Ok(None) };
        let plain = runner::Run { seeds: seed..=seed, mutant: None, schedule, jobs, first_only: true };
        if runner::run(&plain, |_| {}).await?.is_clean() {
            return Ok(Some((seed, what)));
        }
        from = seed + 1;
    }
    Ok(None)
}

fn show(seed: u64, options: world::Options) -> anyhow::Result<()> {
    let verdict = world::run(seed, options)?;
    for event in &verdict.events {
        print(event)?;
    }
    for finding in &verdict.findings {
        print(&format!("{} at {} ms: {}", finding.promise, finding.at_ms, finding.what))?;
    }
    print(&format!("digest {:016x}", verdict.digest))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output is closed")
}
