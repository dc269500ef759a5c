//! The `meridian-loadtests` binary: arguments, and what is printed.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use meridian_loadtests::{
    bench::{self, Options},
    budget, chaos, directory, hello, noisy, policy, ratelimit, simulation,
};
use meridian_model::quantity::Span;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// The gateway's: what stands beside it is measured on the same terms.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Open-loop load tests of the gateway.
#[derive(Debug, Parser)]
#[command(name = "meridian-loadtests", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure gateway and bare hyper side by side, and write a report
    Bench(Bench),
    /// Let many tenants poll and create at a vendor that keeps its limits, and see whether it throttles
    Budget(budget::Args),
    /// Let a tenant ask for a hundred times its rate, and see what another one notices
    Noisy(noisy::Args),
    /// Measure what a rate limit's decision costs, alone and over Redis, beside limitador
    Ratelimit(ratelimit::Args),
    /// Kill, stop and cut real gateways and a real Redis, and judge them by what the clouds had
    Chaos(chaos::cli::Args),
    /// Measure what judging a create by twenty rules costs, beside the whole create
    Policy(policy::Args),
    /// Measure creates on a Redis that syncs every write, beside the bare script calls
    Redis(chaos::cli::Redis),
    /// Change tenants and limits again and again under load, and see whether anybody notices
    Reload(directory::ReloadArgs),
    /// Ask whether the time of an answer tells what is another tenant's
    Timing(directory::TimingArgs),
    /// Play whole histories in virtual time, one seed each, and judge them by what the clouds had
    Simulate(simulation::cli::Args),
    /// Serve the yardstick: bare hyper, the same bytes to every request
    Hello {
        /// Bytes of the body
        #[arg(long, default_value_t = 1024)]
        bytes: usize,
    },
}

#[derive(Debug, Args)]
struct Bench {
    /// What to measure
    #[arg(long, value_name = "FILE", default_value = "loadtests/scenarios/first.toml")]
    scenario: PathBuf,
    /// Measured time of each server under each load
    #[arg(long, default_value = "10s")]
    duration: Span,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
    /// Name of the report
    #[arg(long, default_value = "first-bench")]
    name: String,
    /// Folder of the report; without it the report is only printed
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Remark for the report; may be given several times
    #[arg(long = "profile-note", value_name = "TEXT")]
    notes: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Chaos(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(until_signal(chaos::cli::run(args, progress)))
        }
        Verb::Budget(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(until_signal(budget::run(args, print)))
        }
        Verb::Reload(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(until_signal(directory::reload(args, print)))
        }
        Verb::Timing(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(until_signal(directory::timing(args, print)))
        }
        Verb::Noisy(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(until_signal(noisy::run(args, print)))
        }
        Verb::Ratelimit(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(until_signal(ratelimit::run(args, print)))
        }
        Verb::Policy(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(until_signal(policy::run(args, print)))
        }
        Verb::Simulate(args) => simulation::cli::run(&args),
        Verb::Redis(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(until_signal(chaos::cli::measure(args)))
        }
        Verb::Hello { bytes } => {
            // As many threads as the gateway has.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(serve_hello(bytes))
        }
        Verb::Bench(args) => {
            // One thread: the other core is the server's.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run_bench(args))
        }
    }
}

/// Runs something until it ends or the program is asked to: then it is dropped, and all that it started with it.
async fn until_signal(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => bail!("asked to end"),
        _ = tokio::signal::ctrl_c() => bail!("asked to end"),
    }
}

fn progress(what: &str) {
    // Progress that nobody reads is no reason to stop.
    let _ = writeln!(std::io::stderr(), "- {what}");
}

async fn serve_hello(body_len: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
    print(&hello::ready_line(listener.local_addr()?))?;
    hello::serve(listener, body_len).await
}

async fn run_bench(args: Bench) -> anyhow::Result<()> {
    let meridian = args.meridian.map_or_else(bench::meridian_beside, Ok)?;
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let options = Options {
        scenario: args.scenario,
        duration: args.duration.0,
        meridian,
        command: format!("meridian-loadtests {command}"),
        notes: args.notes,
        name: args.name.clone(),
        progress,
    };
    let report = bench::run(options).await?;
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let page = report.markdown(&date);
    print(&page)?;
    if let Some(folder) = args.results {
        let path = write(&folder, &date, &args.name, &page)?;
        print(&format!("written to {}", path.display()))?;
    }
    Ok(())
}

fn write(folder: &Path, date: &str, name: &str, page: &str) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{date}-{name}.md"));
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output is closed")
}
