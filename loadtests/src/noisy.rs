//! `noisy`: one tenant asks for a hundred times its rate; what does another one notice?
//!
//! Slices with and without the noise follow each other, because the machine is never quiet: what differs between the two
//! sums is the noise, and what both have in common is the machine. The other tenant's requests are due at fixed times
//! and their latency counts from then (no coordinated omission).

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use http_body_util::Full;
use meridian_model::quantity::Span;
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    bench,
    client::{Connection, Keep},
    direct,
    tenancy::{Plan, Setting, Tenant},
};

/// Clouds that hold nobody up: what is measured is the gateway.
const CLOUDS: &str = "seed = 1\n[timing]\nplaced_ms = 0\nrunning_ms = 0\njitter_ms = 0\nterminate_ms = 0\n\
                      [limits]\nenabled = false\n";

/// The noisy tenant's rate: 10 requests a second, which it asks for this many times over.
const NOISY_RATE: &str = "{ requestsPerMinute = 600, burst = 100, createsPerMinute = 60, createBurst = 60 }";
const NOISY_PER_SECOND: u32 = 10;

/// The other one is within its rate.
const QUIET_RATE: &str = "{ requestsPerMinute = 60000, burst = 10000, createsPerMinute = 60000, createBurst = 10000 }";

/// Connections of the noisy tenant.
const NOISY_CONNECTIONS: u32 = 20;

/// Connections of the other one for its creates and for its reads.
const QUIET_CONNECTIONS: u32 = 4;

/// Most that its p99 may change.
const CHANGE_MAX: f64 = 0.1;

/// The arguments of `noisy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Slices with and as many without the noise
    #[arg(long, default_value_t = 20)]
    pairs: u32,
    /// Length of a slice
    #[arg(long, default_value = "3s")]
    slice: Span,
    /// How many times its rate the noisy tenant asks for
    #[arg(long, default_value_t = 100)]
    times: u32,
    /// Creates a second of the other tenant
    #[arg(long, default_value_t = 20)]
    creates: u32,
    /// Reads a second of the other tenant
    #[arg(long, default_value_t = 200)]
    reads: u32,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// What the other tenant saw in all slices of one kind.
#[derive(Debug)]
struct Seen {
    create: Histogram<u64>,
    read: Histogram<u64>,
    errors: u64,
}

impl Seen {
    fn new() -> anyhow::Result<Self> {
        // Up to two minutes in microseconds, to three digits.
        let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3);
        Ok(Self { create: histogram()?, read: histogram()?, errors: 0 })
    }
}

/// Runs it, prints what was found, and fails when the other tenant notices.
///
/// # Errors
/// A server does not start, or a promise is not kept.
pub async fn run(args: Args, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let meridian = args.meridian.clone().map_or_else(bench::meridian_beside, Ok)?;
    let tenants = vec![("noisy".to_owned(), NOISY_RATE), ("quiet".to_owned(), QUIET_RATE)];
    let setting = Setting::start(&meridian, &Plan { clouds: CLOUDS, tenants, ceiling: 10_000 }).await?;
    let [noisy, quiet] = &setting.tenants[..] else { anyhow::bail!("two tenants") };
    let client = |tenant: &Tenant| Client { tenant: tenant.clone(), api: setting.api, next: Arc::default() };
    let (noisy, quiet) = (client(noisy), client(quiet));
    let (mut without, mut with) = (Seen::new()?, Seen::new()?);
    let (mut asked, mut served) = (0, 0);
    // Warm: connections, the ledger's file, the first plan.
    quiet.slice(&args, &mut Seen::new()?).await?;
    for n in 0..args.pairs * 2 {
        // The order changes from pair to pair: neither kind always comes second.
        if (n + n / 2) % 2 == 0 {
            quiet.slice(&args, &mut without).await?;
        } else {
            let noise = noisy.noise(args.slice.0, NOISY_PER_SECOND * args.times);
            let (measured, heard) = tokio::join!(quiet.slice(&args, &mut with), noise);
            measured?;
            asked += heard.0;
            served += heard.1;
        }
    }
    setting.end().await?;
    let span = args.slice.0.as_secs_f64() * f64::from(args.pairs);
    print(&format!(
        "{} slices of {:.0} s with and as many without a tenant that asks {:.0} times a second for {NOISY_PER_SECOND} and \
         is served {:.1}",
        args.pairs,
        args.slice.0.as_secs_f64(),
        asked as f64 / span,
        served as f64 / span
    ))?;
    print("\n| the other tenant's | n | p50 ms without | with | p99 ms without | with | change of p99 |")?;
    print("| --- | --- | --- | --- | --- | --- | --- |")?;
    let mut worst = 0.0_f64;
    for (what, before, after) in [("creates", &without.create, &with.create), ("reads", &without.read, &with.read)] {
        let at = |h: &Histogram<u64>, q| h.value_at_quantile(q) as f64 / 1000.0;
        let change = at(after, 0.99) / at(before, 0.99).max(0.001) - 1.0;
        worst = worst.max(change);
        print(&format!(
            "| {what} | {} + {} | {:.2} | {:.2} | {:.2} | {:.2} | {:+.1} % |",
            before.len(),
            after.len(),
            at(before, 0.5),
            at(after, 0.5),
            at(before, 0.99),
            at(after, 0.99),
            change * 100.0
        ))?;
    }
    ensure!(without.errors + with.errors == 0, "{} and {} requests failed", without.errors, with.errors);
    ensure!(worst < CHANGE_MAX, "the other tenant's p99 changed by {:.1} %", worst * 100.0);
    Ok(())
}

/// A tenant's client.
#[derive(Debug, Clone)]
struct Client {
    tenant: Tenant,
    api: std::net::SocketAddr,
    next: Arc<AtomicU64>,
}

impl Client {
    fn request(&self, create: bool) -> Request<Full<Bytes>> {
        let name = &self.tenant.name;
        let (method, body) = if create {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            (Method::POST, json!({"name": format!("i-{n}"), "spec": direct::spec()}).to_string())
        } else {
            (Method::GET, String::new())
        };
        let path = if create { "" } else { "/i-0" };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/tenants/{name}/instances{path}"))
            .header(header::HOST, self.api.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header("prefer", "wait=10")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.tenant.key));
        request.body(Full::new(Bytes::from(body))).unwrap_or_default()
    }

    /// Sends what is due in a slice, and notes how long each took from when it was due.
    async fn slice(&self, args: &Args, seen: &mut Seen) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for (create, per_second) in [(true, args.creates), (false, args.reads)] {
            for k in 0..QUIET_CONNECTIONS {
                let (client, span) = (self.clone(), args.slice.0);
                tasks
                    .spawn(async move { (create, client.due(create, (k, QUIET_CONNECTIONS), per_second, span).await) });
            }
        }
        while let Some(done) = tasks.join_next().await {
            let (create, (latencies, errors)) = done?;
            let histogram = if create { &mut seen.create } else { &mut seen.read };
            for us in latencies {
                histogram.saturating_record(us);
            }
            seen.errors += errors;
        }
        Ok(())
    }

    /// Every `of`th request of so many a second; latencies in microseconds, and failures.
    async fn due(&self, create: bool, (k, of): (u32, u32), per_second: u32, span: Duration) -> (Vec<u64>, u64) {
        let mut connection = Connection::new(self.api);
        let (began, step) = (Instant::now(), Duration::from_secs(1) / per_second.max(1));
        let (mut latencies, mut errors) = (Vec::new(), 0);
        for n in (k..).step_by(usize::try_from(of).unwrap_or(1)) {
            let at = step * n;
            if at >= span {
                break;
            }
            tokio::time::sleep_until(began + at).await;
            let reply = connection.send(self.request(create), Keep::Errors).await;
            latencies.push(u64::try_from((began + at).elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
            errors += u64::from(!reply.is_ok_and(|r| r.status.is_success()));
        }
        (latencies, errors)
    }

    /// Asks for so much a second over many connections; how often, and how often it was served.
    async fn noise(&self, span: Duration, per_second: u32) -> (u64, u64) {
        let mut tasks = JoinSet::new();
        for k in 0..NOISY_CONNECTIONS {
            let client = self.clone();
            tasks.spawn(async move {
                let mut connection = Connection::new(client.api);
                let step = Duration::from_secs(1) * NOISY_CONNECTIONS / per_second.max(1);
                let began = Instant::now() + step * k / NOISY_CONNECTIONS;
                let (mut asked, mut served) = (0, 0);
                while began.elapsed() < span {
                    tokio::time::sleep_until(began + step * asked).await;
                    let reply = connection.send(client.request(asked % 2 == 0), Keep::Errors).await;
                    asked += 1;
                    served += u64::from(reply.is_ok_and(|r| r.status.is_success()));
                }
                (u64::from(asked), served)
            });
        }
        tasks.join_all().await.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
