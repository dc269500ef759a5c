//! `reload`: tenants, limits and policies change again and again under load. Does a request fail, and what does it cost the
//! others?

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use http::StatusCode;
use meridian_model::quantity::Span;
use tokio::time::{Instant, MissedTickBehavior};

use super::setting::Setting;
use crate::{
    arrivals::{Arrivals, Process},
    bench,
    generator::{Pool, Target, Window},
    machine,
};

/// Connections of the load.
const CONNECTIONS: usize = 32;

/// The most that reloading may raise the 99th percentile, as a ratio.
const P99_RATIO_MAX: f64 = 1.5;

/// The arguments of `reload`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReloadArgs {
    /// Requests a second
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Measured time with and without reloads, in each round
    #[arg(long, default_value = "5s")]
    span: Span,
    /// Rounds; in each the load runs once without reloads and once with them
    #[arg(long, default_value_t = 6)]
    rounds: u64,
    /// Between two reloads
    #[arg(long, default_value = "500ms")]
    each: Span,
    /// Tenants in the folder, each in a file of its own
    #[arg(long, default_value_t = 200)]
    tenants: usize,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// Runs it, prints what was found, and fails when it is not as promised.
///
/// # Errors
/// The gateway does not start, or a promise is not kept.
pub async fn reload(args: ReloadArgs, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let meridian = args.meridian.clone().map_or_else(bench::meridian_beside, Ok)?;
    let mut setting = Setting::start(&meridian, args.tenants).await?;
    let request = setting.request("/v1/tenants/acme/instances?pageSize=1");
    let target = Target { address: setting.api, request: Arc::new(move |_| request.clone()), expected: StatusCode::OK };
    let mut pool = Pool::new(target, CONNECTIONS);
    let plan = |length, seed| Arrivals::new(Process::Poisson, f64::from(args.rate), length, seed);
    pool.open_loop(plan(Duration::from_secs(2), u64::MAX)).await?;
    let (mut quiet, mut busy, mut reloads) = (Window::default(), Window::default(), 0_u64);
    let mut ratios = Vec::new();
    for round in 0..args.rounds {
        let before = pool.open_loop(plan(args.span.0, 2 * round)).await?;
        let (during, done) =
            tokio::join!(pool.open_loop(plan(args.span.0, 2 * round + 1)), changing(&mut setting, &args, reloads));
        let during = during?;
        reloads += done?;
        ratios.push(p99_ms(&during) / p99_ms(&before));
        quiet.absorb(&before);
        busy.absorb(&during);
    }
    let (broken, why) = broken(&mut setting, &mut pool, plan(args.span.0, 999)).await?;
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().context("no round")?;
    print(&format!(
        "{} tenants, {} requests/s, {reloads} reloads; load average {}",
        args.tenants,
        args.rate,
        machine::load()
    ))?;
    for (what, window) in [("without reloads", &quiet), ("with reloads", &busy), ("beside a broken file", &broken)] {
        let ms = |q| window.latency.value_at_quantile(q) as f64 / 1e6;
        let (good, errors) = (window.good, &window.errors);
        print(&format!("{what:<22} {good:>8} good, errors {errors:?}, p50 {:.2} ms, p99 {:.2} ms", ms(0.5), ms(0.99)))?;
    }
    print(&format!("p99 with reloads / without, median of {} rounds: {ratio:.2} (all: {ratios:.2?})", ratios.len()))?;
    print(&format!("the broken file: {why}"))?;
    setting.server.end().await?;
    let failed = [&quiet, &busy, &broken].iter().map(|w| w.errors.values().sum::<u64>()).sum::<u64>();
    ensure!(failed == 0, "{failed} requests failed");
    ensure!(ratio < P99_RATIO_MAX, "the p99 rose by {ratio:.2}, more than {P99_RATIO_MAX}");
    Ok(())
}

fn p99_ms(window: &Window) -> f64 {
    window.latency.value_at_quantile(0.99) as f64 / 1e6
}

/// Changes and reloads until the time is over; returns how often.
async fn changing(setting: &mut Setting, args: &ReloadArgs, before: u64) -> anyhow::Result<u64> {
    let until = Instant::now() + args.span.0;
    let mut tick = tokio::time::interval(args.each.0);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut done = 0;
    loop {
        tick.tick().await;
        if Instant::now() >= until {
            return Ok(done);
        }
        done += 1;
        // Every change is another than the one before.
        setting.change(2 + before + done, args.tenants)?;
        setting.must_reload().await?;
    }
}

/// A broken file under load: nothing changes, and the gateway says why.
async fn broken(setting: &mut Setting, pool: &mut Pool, plan: Arrivals) -> anyhow::Result<(Window, String)> {
    setting.file(
        "broken.yaml",
        Some("apiVersion: meridian.dev/v1\nkind: Tenant\nmetadata: {name: x}\nspec: {qouta: {}}\n"),
    )?;
    let (window, reply) = tokio::join!(pool.open_loop(plan), setting.reload());
    let reply = reply?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    ensure!(reply.status == StatusCode::BAD_REQUEST, "a broken file was taken: {text}");
    let why = serde_json::from_str::<serde_json::Value>(&text)?;
    let why = why.pointer("/errors/0/detail").and_then(serde_json::Value::as_str).context("no reason was given")?;
    setting.file("broken.yaml", None)?;
    Ok((window?, why.rsplit('/').next().unwrap_or(why).to_owned()))
}
