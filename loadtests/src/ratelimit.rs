//! `ratelimit`: what a decision about all limits of a request costs, in one gateway alone and in two that share them over
//! a Redis, beside the crate `limitador` on the same machine, the same Redis and in the same run.
//!
//! Each decision takes three limits. The limits are so wide that nothing is refused: a refusal would be cheaper on both
//! sides. `limitador` runs in a program of its own (`loadtests/limitador`), because what it is built from is none of
//! ours; slices of both follow each other, and the median slice counts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use meridian_gateway::{
    clock::Clock,
    config::{NamedLimit, PerWord, Rate},
    http::{drawn::Drawer, rate_limit::TenantLimits},
    replicas::Replicas,
};
use meridian_ledger::{
    conformance::redis_server::RedisServer,
    redis::{Options, Redis, RedisShared},
    shared::Shared,
};
use meridian_model::quantity::Span;
use meridian_policies::rate::named::RouteClass;
use serde::Deserialize;
use tokio::{process::Command, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// Gateways that share the limits.
const GATEWAYS: usize = 2;

/// Callers at each gateway at once.
const CALLERS: usize = 8;

/// Least ratio to limitador's decisions over Redis.
const RATIO_MIN: f64 = 10.0;

/// Decisions between two looks at the clock.
const BATCH: u64 = 256;

/// The arguments of `ratelimit`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Slices of each kind
    #[arg(long, default_value_t = 5)]
    slices: usize,
    /// Length of a slice
    #[arg(long, default_value = "3s")]
    slice: Span,
    /// The program of `loadtests/limitador`; without it only our own is measured
    #[arg(long, value_name = "PATH")]
    limitador: Option<PathBuf>,
}

/// So many that nothing is ever refused.
fn rate() -> Rate {
    Rate { requests_per_minute: u32::MAX, burst: u32::MAX, creates_per_minute: u32::MAX, create_burst: u32::MAX }
}

fn principals() -> [NamedLimit; 1] {
    [NamedLimit {
        name: "principal".to_owned(),
        per: PerWord::Principal,
        class: Vec::new(),
        quota: u32::MAX,
        window: Span(Duration::from_secs(60)),
        burst: None,
        cost: std::collections::BTreeMap::new(),
        shadow: false,
    }]
}

/// Decisions of one slice.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Slice {
    decisions: u64,
    seconds: f64,
}

impl Slice {
    fn per_second(self) -> f64 {
        self.decisions as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// Runs it, prints what was found, and fails when the ratio is not as promised.
///
/// # Errors
/// No Redis, no limitador, or a promise is not kept.
pub async fn run(args: Args, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let redis = RedisServer::start(&["appendonly no", "appendfsync no"]);
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut add = |name: &'static str, slice: Slice| match rows.iter_mut().find(|(n, _)| *n == name) {
        Some((_, slices)) => slices.push(slice.per_second()),
        None => rows.push((name, vec![slice.per_second()])),
    };
    for _ in 0..args.slices {
        add(OURS_LOCAL, alone(args.slice.0));
        add(OURS_REDIS, shared(&redis, args.slice.0).await?);
        if let Some(program) = &args.limitador {
            for (name, storage) in [(THEIRS_LOCAL, "memory"), (THEIRS_REDIS, "redis"), (THEIRS_CACHED, "redis-cached")]
            {
                add(name, limitador(program, storage, redis.port(), args.slice.0).await?);
            }
        }
    }
    print("| decisions on three limits | a second | ns of one caller |")?;
    print("| --- | --- | --- |")?;
    let mut median = |name: &str| {
        let slices = rows.iter_mut().find(|(n, _)| *n == name).map(|(_, slices)| slices)?;
        slices.sort_unstable_by(f64::total_cmp);
        slices.get(slices.len() / 2).copied()
    };
    for name in [OURS_LOCAL, THEIRS_LOCAL, OURS_REDIS, THEIRS_REDIS, THEIRS_CACHED] {
        let Some(per_second) = median(name) else { continue };
        let alone = name == OURS_LOCAL || name == THEIRS_LOCAL;
        let ns = if alone { format!("{:.0}", 1e9 / per_second) } else { String::new() };
        print(&format!("| {name} | {per_second:.0} | {ns} |"))?;
    }
    if let (Some(ours), Some(theirs)) = (median(OURS_REDIS), median(THEIRS_REDIS)) {
        print(&format!("\nover Redis {:.1} times limitador's decisions", ours / theirs))?;
        ensure!(ours / theirs >= RATIO_MIN, "less than {RATIO_MIN} times limitador's decisions over Redis");
    }
    Ok(())
}

const OURS_LOCAL: &str = "one gateway alone, one caller";
const OURS_REDIS: &str = "two gateways on a Redis";
const THEIRS_LOCAL: &str = "limitador in memory, one caller";
const THEIRS_REDIS: &str = "limitador on the same Redis, twice";
const THEIRS_CACHED: &str = "limitador with its cache before the same Redis, twice";

/// One caller, one gateway.
fn alone(span: Duration) -> Slice {
    let clock = Clock::system();
    let limits = TenantLimits::new("acme", (&rate(), &principals()), clock.now(), None, None);
    let (began, mut decisions) = (Instant::now(), 0);
    while began.elapsed() < span {
        for _ in 0..BATCH {
            let decided = limits.take_now(RouteClass::Create, "ci", clock.now());
            std::hint::black_box(&decided);
        }
        decisions += BATCH;
    }
    Slice { decisions, seconds: began.elapsed().as_secs_f64() }
}

/// Many callers, two gateways.
async fn shared(redis: &RedisServer, span: Duration) -> anyhow::Result<Slice> {
    let (stop, mut drawing, mut callers) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
    let began = Instant::now();
    for n in 0..GATEWAYS {
        let link = Redis::connect(Options::single("127.0.0.1", redis.port())).map_err(anyhow::Error::msg)?;
        let store: Arc<dyn Shared> = RedisShared::new(link, "load");
        let replicas = Replicas::new(Arc::clone(&store), format!("g{n}"));
        replicas.attend().await;
        let clock = Clock::system();
        let drawer = Drawer::new(store, replicas, clock.clone());
        drawing.spawn(Arc::clone(&drawer).run(stop.clone()));
        let limits = TenantLimits::new("acme", (&rate(), &principals()), clock.now(), Some(&drawer), None);
        let limits = Arc::new(limits);
        for _ in 0..CALLERS {
            let (limits, clock) = (Arc::clone(&limits), clock.clone());
            callers.spawn(async move {
                let mut decisions = 0;
                while began.elapsed() < span {
                    for _ in 0..BATCH {
                        let now = clock.now();
                        if limits.take_now(RouteClass::Create, "ci", now).is_none() {
                            limits.take(RouteClass::Create, "ci", now).await;
                        }
                    }
                    decisions += BATCH;
                    // As a request would: nothing else of this process waits for long.
                    tokio::task::yield_now().await;
                }
                decisions
            });
        }
    }
    let decisions = callers.join_all().await.into_iter().sum();
    let seconds = began.elapsed().as_secs_f64();
    stop.cancel();
    drawing.join_all().await;
    Ok(Slice { decisions, seconds })
}

async fn limitador(program: &PathBuf, storage: &str, port: u16, span: Duration) -> anyhow::Result<Slice> {
    let done = Command::new(program)
        .args([storage, &format!("redis://127.0.0.1:{port}"), &span.as_millis().to_string()])
        .args([GATEWAYS.to_string(), CALLERS.to_string()])
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(done.status.success(), "limitador: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).context("what limitador said")
}
