//! The arguments of `chaos`, and what is printed.

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use meridian_model::quantity::Span;

use super::{
    measure, run,
    scenarios::{Common, Findings, failover, keys, outage, quota},
    verdict::Kind,
};
use crate::bench;

/// `chaos`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Seed of the first round; the others follow
    #[arg(long, default_value_t = 1, global = true)]
    seed: u64,
    /// Rounds at a time
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// No round is begun after this; a scenario is given up
    #[arg(long, default_value = "40m", global = true)]
    max_time: Span,
    /// One gateway with a ledger of its own instead of two on a Redis
    #[arg(long, global = true)]
    embedded: bool,
    /// Let creates take effect after the effect bound: the run must find the doubles that this makes, or it fails
    #[arg(long)]
    dishonest: bool,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH", global = true)]
    meridian: Option<PathBuf>,
    #[command(subcommand)]
    scenario: Option<Scenario>,
}

/// One question instead of rounds.
#[derive(Debug, Subcommand)]
enum Scenario {
    /// The same key, sent at once by many to both gateways: one instance
    Keys {
        /// Keys
        #[arg(long, default_value_t = 1_000)]
        keys: u64,
        /// Who sends each at once
        #[arg(long, default_value_t = 8)]
        senders: usize,
        /// Keys a second
        #[arg(long, default_value_t = 25)]
        per_second: u64,
    },
    /// A quota wanted five times over through both gateways: never over, and full at the end
    Quota {
        /// Instances
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
    /// A failover of Redis that loses acknowledged writes: noticed, rebuilt, nothing lost
    Failover {
        /// Creates before the line to the replica is cut, and as many after
        #[arg(long, default_value_t = 40)]
        creates: u64,
    },
    /// Redis away under load: reads go on, creates are refused, nothing is doubled
    Outage {
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// How it goes away
        #[arg(long, value_enum, default_value_t = outage::How::Kill)]
        how: outage::How,
    },
}

/// Runs what the arguments say.
///
/// # Errors
/// A promise was broken, or it could not be run.
pub async fn run(args: Args, progress: fn(&str)) -> anyhow::Result<()> {
    let meridian = args.meridian.map_or_else(bench::meridian_beside, Ok)?;
    let (seed, redis, max_time) = (args.seed, !args.embedded, args.max_time.0);
    let Some(scenario) = args.scenario else {
        let (rounds, jobs, dishonest) = (args.rounds, args.jobs, args.dishonest);
        let options = run::Options { meridian, rounds, seed, jobs, max_time, redis, dishonest, progress };
        let report = run::run(&options).await;
        print(&report.text())?;
        if dishonest {
            ensure!(report.total.count(Kind::Doubled) > 0, "no double was seen, though there must have been some");
            return Ok(());
        }
        ensure!(report.is_good(), "promises were broken, or rounds could not be run");
        return Ok(());
    };
    let common = Common { meridian, seed, redis };
    let findings = tokio::time::timeout(max_time, ask(&common, scenario)).await.context("the time is over")??;
    print(&findings.text())?;
    findings.check()
}

async fn ask(common: &Common, scenario: Scenario) -> anyhow::Result<Findings> {
    match scenario {
        Scenario::Keys { keys, senders, per_second } => {
            keys::run(common, keys::Options { keys, senders, per_second }).await
        }
        Scenario::Quota { limit } => quota::run(common, limit).await,
        Scenario::Failover { creates } => failover::run(common, creates).await,
        Scenario::Outage { seconds, how } => outage::run(common, Duration::from_secs(seconds), how).await,
    }
}

/// `redis`.
#[derive(Debug, clap::Args)]
pub struct Redis {
    /// Turns of gateway and bare calls
    #[arg(long, default_value_t = 6)]
    turns: u64,
    /// Creates of a turn
    #[arg(long, default_value_t = 1_000)]
    creates: u64,
    /// Creates under way at once
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seed of the clouds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The least part of the bare rate; 0.6 when left out, which needs an optimised build
    #[arg(long)]
    ratio_min: Option<f64>,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// Measures what the arguments say.
///
/// # Errors
/// It could not be run, or the gateway is too far from the bare rate.
pub async fn measure(args: Redis) -> anyhow::Result<()> {
    let Redis { turns, creates, connections, seed, ratio_min, meridian } = args;
    let meridian = meridian.map_or_else(bench::meridian_beside, Ok)?;
    let options = measure::Options { meridian, seed, turns, creates, connections, ratio_min };
    let findings = measure::run(&options).await?;
    print(&findings.text())?;
    findings.check()
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output is closed")
}
