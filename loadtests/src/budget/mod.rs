//! `budget`: many tenants poll, create and delete through one gateway at a simulated vendor that keeps its published
//! limits; does the vendor throttle anybody, is its budget used, and does a delete wait behind creates?
//!
//! The gateway is configured with a ceiling above the vendor's limit, so that it has to learn it. Clouds and gateway are
//! processes of their own; what is counted is the clouds' count of calls and what the gateway's metrics and regions say.

mod scrape;
mod tenants;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use meridian_model::quantity::Span;
use tokio::time::Instant;

use self::{
    scrape::{Counted, Waits},
    tenants::Crowd,
};
use crate::{
    bench,
    tenancy::{Plan, Setting},
};

/// What the vendor allows of each action a second (vendor-api README 1), and what the gateway is told.
const VENDOR_PER_SECOND: f64 = 20.0;

/// The published limits, and instances that run soon.
const CLOUDS: &str = "seed = 1\n[timing]\nplaced_ms = 200\nrunning_ms = 300\njitter_ms = 100\nterminate_ms = 100\n\
                      [limits]\nenabled = true\n";

/// No tenant's own rate is what holds it back.
const RATE: &str = "{ requestsPerMinute = 6000, burst = 1000, createsPerMinute = 6000, createBurst = 1000 }";

/// In this time the gateway may be throttled, because it learns.
const LEARNING: Duration = Duration::from_secs(10);

/// Least part of the vendor's limit that is to be used.
const USED_MIN: f64 = 0.9;

/// The arguments of `budget`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Time of the run, learning included
    #[arg(long, default_value = "120s")]
    span: Span,
    /// Tenants, each of which polls and creates
    #[arg(long, default_value_t = 500)]
    tenants: usize,
    /// Creates under way at once, over all tenants
    #[arg(long, default_value_t = 200)]
    creates: usize,
    /// Calls a second and action that the gateway is told; the vendor allows 20
    #[arg(long, default_value_t = 40)]
    ceiling: u32,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// Runs it, prints what was found, and fails when it is not as promised.
///
/// # Errors
/// A server does not start, or a promise is not kept.
pub async fn run(args: Args, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    ensure!(args.span.0 > LEARNING * 3 / 2, "a run lasts more than 15 s, of which 10 s are for learning");
    let meridian = args.meridian.clone().map_or_else(bench::meridian_beside, Ok)?;
    let tenants = (0..args.tenants).map(|n| (format!("t{n}"), RATE)).collect();
    let setting = Setting::start(&meridian, &Plan { clouds: CLOUDS, tenants, ceiling: args.ceiling }).await?;
    let crowd = Crowd::start(&setting, args.creates);
    let began = Instant::now();
    tokio::time::sleep(LEARNING).await;
    let learned = Counted::take(&setting).await?;
    let measured = Instant::now();
    tokio::time::sleep_until(began + args.span.0).await;
    let (counted, span) = (Counted::take(&setting).await?, measured.elapsed());
    let waits = Waits::take(&setting).await?;
    let payers = scrape::payers(&setting).await?;
    let served = crowd.end().await?;
    setting.end().await?;

    print(&format!(
        "{} tenants, {} creates at once, {} s; the vendor allows {VENDOR_PER_SECOND} calls a second and action, the \
         gateway is told {}",
        args.tenants,
        args.creates,
        args.span.0.as_secs(),
        args.ceiling
    ))?;
    print("\n| action | calls/s after 10 s | of the vendor's limit | throttled before 10 s | after |")?;
    print("| --- | --- | --- | --- | --- |")?;
    let mut used = 0.0;
    for (action, all) in &counted.0 {
        let before = learned.0.get(action).copied().unwrap_or_default();
        let per_second = (all.accepted - before.accepted) as f64 / span.as_secs_f64();
        let part = per_second / VENDOR_PER_SECOND;
        if action.starts_with("Create") {
            used = part;
        }
        let throttled = all.throttled - before.throttled;
        print(&format!("| {action} | {per_second:.2} | {:.1} % | {} | {throttled} |", part * 100.0, before.throttled))?;
    }
    print("\n| action | class | calls | waited p50 | p90 | p99 | most |")?;
    print("| --- | --- | --- | --- | --- | --- | --- |")?;
    for row in &waits.0 {
        print(&row.to_string())?;
    }
    print("\n| tenants' requests | count | errors | p50 ms | p99 ms | most ms |")?;
    print("| --- | --- | --- | --- | --- | --- |")?;
    for (what, errors, latency) in served.rows() {
        print(&format!("| {what} | {} | {errors} | {} |", latency.len(), percentiles(latency)))?;
    }
    print(&format!(
        "\ncreate calls by tenant: {} tenants, least {}, median {}, most {}",
        payers.len(),
        payers.first().copied().unwrap_or_default(),
        payers.get(payers.len() / 2).copied().unwrap_or_default(),
        payers.last().copied().unwrap_or_default()
    ))?;
    print(&format!(
        "reads served for each list or describe call at the vendor: {:.1}",
        served.reads() as f64 / counted.looks().max(1) as f64
    ))?;

    let late = counted.throttled() - learned.throttled();
    ensure!(late == 0, "the vendor throttled {late} calls after the first 10 s");
    ensure!(used >= USED_MIN, "only {:.1} % of the vendor's creates were used", used * 100.0);
    let delete = waits.most("Delete", "delete").context("nothing was deleted")?;
    let create = waits.most("Create", "create").context("nothing was created")?;
    ensure!(delete <= create / 2.0, "deletes waited up to {delete} s beside creates that waited {create} s");
    Ok(())
}

fn percentiles(latency: &Histogram<u64>) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |q| ms(latency.value_at_quantile(q));
    format!("{:.1} | {:.1} | {:.1}", at(0.5), at(0.99), ms(latency.max()))
}
