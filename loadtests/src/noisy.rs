//! `noisy`: one tenant asks for a hundred times its rate; what does another one notice?
//!
//! Three kinds of slices take turns: without noise, with the noise sent to a bare hyper server that stands beside the
//! gateway, and with the noise sent to the gateway. Client, servers and clouds share one machine, and a thousand requests a
//! second cost it something whoever answers them; the gateway is answerable for what lies between the last two. The
//! other tenant's requests are due at fixed times and their latency counts from then (no coordinated omission).

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use http_body_util::Full;
use meridian_model::quantity::Span;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    bench,
    client::{Connection, Keep},
    direct, machine,
    process::Server,
    setup::address_of,
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

/// Bytes of the bare server's answers: about what a refusal has.
const REFUSAL_BYTES: &str = "400";

/// Most that its p99 may change.
const CHANGE_MAX: f64 = 0.1;

/// The arguments of `noisy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Slices of each kind
    #[arg(long, default_value_t = 60)]
    slices: u32,
    /// Length of a slice
    #[arg(long, default_value = "1s")]
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

    const fn create(&self) -> &Histogram<u64> {
        &self.create
    }

    const fn read(&self) -> &Histogram<u64> {
        &self.read
    }
}

/// Where the noise goes in a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noise {
    None,
    Elsewhere,
    Gateway,
}

/// All orders of the three kinds: none of them always follows the same other one.
const ORDERS: [[Noise; 3]; 6] = [
    [Noise::None, Noise::Elsewhere, Noise::Gateway],
    [Noise::Gateway, Noise::Elsewhere, Noise::None],
    [Noise::Elsewhere, Noise::None, Noise::Gateway],
    [Noise::Gateway, Noise::None, Noise::Elsewhere],
    [Noise::None, Noise::Gateway, Noise::Elsewhere],
    [Noise::Elsewhere, Noise::Gateway, Noise::None],
];

/// Runs it, prints what was found, and fails when the other tenant notices.
///
/// # Errors
/// A server does not start, or a promise is not kept.
pub async fn run(args: Args, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let meridian = args.meridian.clone().map_or_else(bench::meridian_beside, Ok)?;
    let tenants = vec![("noisy".to_owned(), NOISY_RATE), ("quiet".to_owned(), QUIET_RATE)];
    let setting = Setting::start(&meridian, &Plan { clouds: CLOUDS, tenants, ceiling: 10_000 }).await?;
    let folder = tempfile::tempdir().context("a folder")?;
    let bare = hello(&folder.path().join("hello.log")).await?;
    let [noisy, quiet] = &setting.tenants[..] else { anyhow::bail!("two tenants") };
    let client = |tenant: &Tenant, api| Client { tenant: tenant.clone(), api, next: Arc::default() };
    let elsewhere = address_of(bare.ready.get("hello").and_then(Value::as_str).context("no address")?)?;
    let elsewhere = client(noisy, elsewhere);
    let (noisy, quiet) = (client(noisy, setting.api), client(quiet, setting.api));
    let (mut without, mut beside, mut with) = (Seen::new()?, Seen::new()?, Seen::new()?);
    let (mut asked, mut served) = (0, 0);
    // Warm: connections, the ledger's file, the first plan.
    quiet.slice(&args, &mut Seen::new()?).await?;
    let per_second = NOISY_PER_SECOND * args.times;
    for kind in ORDERS.iter().cycle().take(args.slices as usize).flatten() {
        match kind {
            Noise::None => quiet.slice(&args, &mut without).await?,
            Noise::Elsewhere => {
                tokio::join!(quiet.slice(&args, &mut beside), elsewhere.noise(args.slice.0, per_second)).0?;
            }
            Noise::Gateway => {
                let noise = noisy.noise(args.slice.0, per_second);
                let (measured, heard) = tokio::join!(quiet.slice(&args, &mut with), noise);
                measured?;
                asked += heard.0;
                served += heard.1;
            }
        }
    }
    setting.end().await?;
    bare.end().await?;
    let span = args.slice.0.as_secs_f64() * f64::from(args.slices);
    print(&format!(
        "{} slices of {} s of each kind; the noisy tenant asks {:.0} times a second for {NOISY_PER_SECOND} and is \
         served {:.1}; load average {}",
        args.slices,
        args.slice.0.as_secs_f64(),
        asked as f64 / span,
        served as f64 / span,
        machine::load()
    ))?;
    print("\n| the other tenant's | n | noise | p50 ms | p90 ms | p99 ms |\n| --- | --- | --- | --- | --- | --- |")?;
    for (what, of) in [("creates", Seen::create as fn(&Seen) -> &Histogram<u64>), ("reads", Seen::read)] {
        for (noise, seen) in [("none", &without), ("at a bare server", &beside), ("at the gateway", &with)] {
            let at = |q| of(seen).value_at_quantile(q) as f64 / 1000.0;
            let (n, p50, p90, p99) = (of(seen).len(), at(0.5), at(0.9), at(0.99));
            print(&format!("| {what} | {n} | {noise} | {p50:.2} | {p90:.2} | {p99:.2} |"))?;
        }
    }
    let change = |of: fn(&Seen) -> &Histogram<u64>| {
        let p99 = |seen: &Seen| of(seen).value_at_quantile(0.99) as f64;
        p99(&with) / p99(&beside).max(1.0) - 1.0
    };
    let (creates, reads) = (change(Seen::create), change(Seen::read));
    print(&format!(
        "\nchange of p99 by noise at the gateway, beside noise at a bare server: creates {:+.1} %, reads {:+.1} %",
        creates * 100.0,
        reads * 100.0
    ))?;
    let errors = without.errors + beside.errors + with.errors;
    ensure!(errors == 0, "{errors} requests failed");
    let worst = creates.max(reads);
    ensure!(worst < CHANGE_MAX, "the other tenant's p99 changed by {:.1} %", worst * 100.0);
    Ok(())
}

/// A server that answers the noise and does nothing else.
async fn hello(log: &Path) -> anyhow::Result<Server> {
    let program = std::env::current_exe().context("this program")?;
    let arguments = ["hello", "--bytes", REFUSAL_BYTES].map(OsStr::new);
    Server::start("hello", &program, &arguments, log, |line| line.get("hello").is_some()).await
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
