//! How long a durable step takes: one caller alone, then 64 at once.
//!
//! `cargo run -p meridian-ledger --profile ci --example step_latency -- FOLDER`, with a folder on the disk in
//! question (a RAM disk tells nothing).
#![expect(clippy::print_stdout, reason = "prints its result")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use std::{
    error::Error,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use meridian_ledger::{
    Ledger,
    conformance::{claim_new, one_instance, sample_claim, write},
    embedded::{EmbeddedLedger, Options, SealKey},
};

/// Long enough for steady percentiles, short enough to be run without thought.
const STEPS_ALONE: u64 = 2_000;
const CALLERS: u64 = 64;
const STEPS_EACH: u64 = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    let path = folder.join(format!("step-latency-{}.redb", std::process::id()));
    let ledger = Arc::new(EmbeddedLedger::open(Options::new(&path, SealKey::new([3; 32]), |_| {}))?);

    let mut alone = steps(&ledger, 0, STEPS_ALONE).await;
    print_line("1 caller", &mut alone, None);

    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 1..=CALLERS {
        let ledger = Arc::clone(&ledger);
        callers.spawn(async move { steps(&ledger, caller, STEPS_EACH).await });
    }
    let mut all: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    print_line("64 callers", &mut all, Some(start.elapsed()));

    let mut reads = Vec::new();
    let record = claim_new(&*ledger, sample_claim("acme", "read", "read")).await;
    for _ in 0..STEPS_ALONE {
        let start = Instant::now();
        ledger.operation(&record.tenant, &record.op_id).await?;
        reads.push(start.elapsed());
    }
    print_line("1 reader", &mut reads, None);

    drop(ledger);
    std::fs::remove_file(path)?;
    Ok(())
}

/// One claim and so many steps that each change the charge; the time of each step.
async fn steps(ledger: &EmbeddedLedger, caller: u64, count: u64) -> Vec<Duration> {
    let op = format!("op{caller}");
    let mut record = claim_new(ledger, sample_claim("acme", &op, &op)).await;
    let mut times = Vec::new();
    for n in 0..count {
        record.charge = one_instance(n);
        let start = Instant::now();
        record = write(ledger, record).await;
        times.push(start.elapsed());
    }
    times
}

fn print_line(what: &str, times: &mut [Duration], total: Option<Duration>) {
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    let rate = total.map_or(String::new(), |t| format!(", {:.0} per second", times.len() as f64 / t.as_secs_f64()));
    println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}{rate}", at(50), at(90), at(99));
}
