//! The arguments of `simulate`, and what is printed.

use std::{io::Write as _, ops::RangeInclusive};

use anyhow::{Context as _, ensure};

use super::{runner, world};

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
    /// Show what happens in the first history, event by event
    #[arg(long)]
    trace: bool,
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
    let options = world::Options { trace: args.trace, ..world::Options::default() };
    if let Some(seed) = args.history {
        return print(&serde_json::to_string(&world::run(seed, options)?)?);
    }
    if args.trace {
        return show(*args.seeds.start(), options);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = runner::Run { seeds: args.seeds.clone(), mutant: args.mutant.clone(), jobs: args.jobs };
    let total = runtime.block_on(runner::run(&run, |line| {
        // Progress that nobody reads is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{line}");
    }))?;
    print(&total.table())?;
    ensure!(total.is_clean(), "{} of {} histories failed", total.failed.len(), total.histories);
    Ok(())
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
