//! The benchmark: sets the servers up, lets them take turns, gathers the report.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    arrivals::{Arrivals, Process},
    client::{Connection, Keep, Reply},
    direct::{self, Direct},
    generator::{MakeRequest, Pool, Target, Window, histogram},
    machine::{Machine, SyncProbe},
    process::{Server, Usage},
    report::{Overhead, Report, Row},
    scenario::Scenario,
    setup::{Clouds, Gateway, Hello},
};

/// Longest time for making the instances.
const POPULATE_MAX: Duration = Duration::from_secs(900);

/// How long the gateway is watched without requests: one interval of its sweeps, and a bit.
const IDLE_WINDOW: Duration = Duration::from_secs(16);

/// Pages of one walk, a bound on tokens that never end.
const PAGES_MAX: u32 = 100_000;

/// What a run is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Scenario file.
    pub scenario: PathBuf,
    /// Measured time of each server under each load.
    pub duration: Duration,
    /// The `meridian` binary.
    pub meridian: PathBuf,
    /// The command line, for the report.
    pub command: String,
    /// Remarks for the report.
    pub notes: Vec<String>,
    /// Title of the report.
    pub name: String,
    /// Told what is going on.
    pub progress: fn(&str),
}

/// How a load is applied.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Open { rate: f64, process: Process, seed: u64 },
    Saturate,
}

/// A server taking turns with others.
struct Contender<'s> {
    name: &'static str,
    server: &'s Server,
    pool: Pool,
    window: Window,
    cpu: Duration,
    turns_p99_ns: Vec<u64>,
}

impl<'s> Contender<'s> {
    fn new(name: &'static str, server: &'s Server, target: Target, connections: usize) -> Self {
        let pool = Pool::new(target, connections);
        Self { name, server, pool, window: Window::default(), cpu: Duration::ZERO, turns_p99_ns: Vec::new() }
    }

    async fn load(&mut self, mode: Mode, length: Duration, turn: u64) -> anyhow::Result<Window> {
        match mode {
            Mode::Open { rate, process, seed } => {
                self.pool.open_loop(Arrivals::new(process, rate, length, seed.wrapping_add(turn))).await
            }
            Mode::Saturate => self.pool.closed_loop(length, None).await,
        }
    }

    /// One turn: the load unmeasured, then measured with the server's processor time around it.
    async fn turn(&mut self, mode: Mode, (warm_up, length): (Duration, Duration), turn: u64) -> anyhow::Result<()> {
        self.load(mode, warm_up, u64::MAX - turn).await?;
        let before = self.server.usage()?;
        let window = self.load(mode, length, turn).await?;
        self.cpu += self.server.usage()?.cpu.saturating_sub(before.cpu);
        self.turns_p99_ns.push(window.latency.value_at_quantile(0.99));
        self.window.absorb(&window);
        Ok(())
    }

    fn row(self, load: &str) -> anyhow::Result<Row> {
        let rss_kib = self.server.usage()?.rss_kib;
        let (window, turns_p99_ns) = (self.window, self.turns_p99_ns);
        Ok(Row { load: load.to_owned(), server: self.name, window, cpu: Some(self.cpu), rss_kib, turns_p99_ns })
    }
}

/// A run under way.
struct Bench {
    options: Options,
    scenario: Scenario,
    clouds: Clouds,
    gateway: Gateway,
    folder: PathBuf,
    rows: Vec<Row>,
}

/// Runs a benchmark.
///
/// # Errors
/// A server does not start, the instances cannot be made, or the generator fails. Errors of requests are results.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    let scenario = Scenario::load(&options.scenario)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let machine = Machine::look(folder.path())?;
    let clouds = Clouds::start(&options.meridian, &scenario.clouds, folder.path()).await?;
    let gateway = Gateway::start(&options.meridian, &clouds, folder.path(), scenario.seed).await?;
    let folder_path = folder.path().to_owned();
    let mut bench = Bench { options, scenario, clouds, gateway, folder: folder_path, rows: Vec::new() };
    bench.populate().await?;
    bench.reads().await?;
    bench.walks().await?;
    let idle = bench.idle().await?;
    let overheads = bench.overheads().await?;
    bench.creates().await?;
    let usage = bench.gateway.server.usage()?;
    let Bench { options, clouds, gateway, rows, .. } = bench;
    gateway.server.end().await?;
    clouds.server.end().await?;
    Ok(Report {
        name: options.name,
        machine,
        command: options.command,
        rows,
        overheads,
        idle: Some(idle),
        gateway: usage,
        notes: options.notes,
    })
}

impl Bench {
    fn say(&self, what: &str) {
        (self.options.progress)(what);
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}/instances{rest}", self.gateway.tenant)
    }

    /// A request builder with what all requests to the gateway have.
    fn builder(&self) -> impl Fn(Method, &str) -> http::request::Builder + Send + Sync + 'static {
        let (host, key) = (self.gateway.address.to_string(), format!("Bearer {}", self.gateway.key));
        move |method, path| {
            Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, &host)
                .header(header::AUTHORIZATION, &key)
                .header(header::ACCEPT, "application/json")
        }
    }

    fn target(&self, request: MakeRequest, expected: StatusCode) -> Target {
        Target { address: self.gateway.address, request, expected }
    }

    /// Reads the n-th path that `path` makes.
    fn get(&self, path: impl Fn(u64) -> String + Send + Sync + 'static) -> Target {
        let builder = self.builder();
        self.target(Arc::new(move |n| whole(builder(Method::GET, &path(n)), Bytes::new())), StatusCode::OK)
    }

    /// Creates instances called `prefix` and a number, one region after the other, or all in `only`.
    fn create(&self, prefix: &str, only: Option<&str>) -> MakeRequest {
        let (builder, path, prefix) = (self.builder(), self.path(""), prefix.to_owned());
        let all = || self.clouds.info.backends.iter().map(|b| b.region.clone()).collect();
        let regions: Vec<String> = only.map_or_else(all, |region| vec![region.to_owned()]);
        Arc::new(move |n| {
            let at = usize::try_from(n).unwrap_or_default() % regions.len().max(1);
            let name = format!("{prefix}-{n}");
            let mut spec = direct::spec();
            if let Some(spec) = spec.as_object_mut() {
                spec.insert("placement".to_owned(), json!({"regions": [regions.get(at)]}));
            }
            let body = json!({"name": name, "labels": {"app": "load"}, "spec": spec}).to_string();
            let request = builder(Method::POST, &path)
                .header(header::CONTENT_TYPE, "application/json")
                .header("idempotency-key", &name);
            whole(request, Bytes::from(body))
        })
    }

    async fn ask(&self, target: &Target, n: u64) -> anyhow::Result<Reply> {
        let reply = Connection::new(target.address).send((target.request)(n), Keep::Body).await?;
        let told = || String::from_utf8_lossy(&reply.body).chars().take(500).collect::<String>();
        ensure!(reply.status == target.expected, "the gateway answered {}: {}", reply.status, told());
        Ok(reply)
    }

    /// Makes the instances through the API, as fast as the connections allow.
    async fn populate(&mut self) -> anyhow::Result<()> {
        let (count, connections) = (self.scenario.instances, self.scenario.create.populate_connections);
        self.say(&format!("making {count} instances through the API"));
        let target = self.target(self.create("i", None), StatusCode::CREATED);
        let mut contender = Contender::new("gateway", &self.gateway.server, target, connections);
        let before = self.gateway.server.usage()?;
        let window = contender.pool.closed_loop(POPULATE_MAX, Some(u64::from(count))).await?;
        contender.cpu = self.gateway.server.usage()?.cpu.saturating_sub(before.cpu);
        ensure!(window.good * 10 >= window.total() * 9, "creates fail: {:?}", window.errors);
        contender.window = window;
        let row = contender.row(&format!("create, saturated by {connections}"))?;
        self.rows.push(row);
        Ok(())
    }

    /// Gateway and yardstick in turns, each as often first as the other.
    async fn versus(
        &mut self,
        load: &str,
        hello: &Hello,
        target: Target,
        (connections, mode): (usize, Mode),
    ) -> anyhow::Result<()> {
        self.say(load);
        let request = Arc::new(|_| whole(Request::builder().uri("/").header(header::HOST, "hello"), Bytes::new()));
        let yard = Target { address: hello.address, request, expected: StatusCode::OK };
        let mut a = Contender::new("hello", &hello.server, yard, connections);
        let mut b = Contender::new("gateway", &self.gateway.server, target, connections);
        let slice = (self.scenario.slices.warm_up.0, self.scenario.slices.length.0.min(self.options.duration));
        let turns = self.options.duration.as_nanos().div_ceil(slice.1.as_nanos().max(1));
        for turn in 0..u64::try_from(turns).unwrap_or(u64::MAX) {
            if turn % 2 == 0 {
                a.turn(mode, slice, turn).await?;
                b.turn(mode, slice, turn).await?;
            } else {
                b.turn(mode, slice, turn).await?;
                a.turn(mode, slice, turn).await?;
            }
        }
        let rows = [a.row(load)?, b.row(load)?];
        self.rows.extend(rows);
        Ok(())
    }

    /// A yardstick whose replies have as many bytes on the wire as this one.
    async fn hello_like(&self, reply: &Reply) -> anyhow::Result<Hello> {
        let trial = Hello::start(0, &self.folder).await?;
        let request = whole(Request::builder().uri("/").header(header::HOST, "hello"), Bytes::new());
        let head = Connection::new(trial.address).send(request, Keep::Body).await?.head_len();
        trial.server.end().await?;
        // The digits of the length may differ by a few bytes; nothing that can be measured.
        Hello::start(reply.wire_len().saturating_sub(head), &self.folder).await
    }

    async fn reads(&mut self) -> anyhow::Result<()> {
        let (one, page) = (self.scenario.get_one.clone(), self.scenario.page.clone());
        let (count, seed) = (u64::from(self.scenario.instances), self.scenario.seed);
        let base = self.path("");
        // A step that shares no factor with most counts visits the instances in no order a cache would like.
        let get_one = self.get(move |n| format!("{base}/i-{}", n.wrapping_mul(7919) % count));
        let reply = self.ask(&get_one, 1).await?;
        let hello = self.hello_like(&reply).await?;
        let open = Mode::Open { rate: one.rate, process: one.arrivals, seed };
        let load = format!("get-one, {}/s, {} B", one.rate, reply.wire_len());
        self.versus(&load, &hello, get_one.clone(), (one.connections, open)).await?;
        let load = format!("get-one, saturated by {}", one.saturate_connections);
        self.versus(&load, &hello, get_one, (one.saturate_connections, Mode::Saturate)).await?;
        hello.server.end().await?;

        let first_page = self.path(&format!("?pageSize={}", page.size));
        let get_page = self.get(move |_| first_page.clone());
        let reply = self.ask(&get_page, 0).await?;
        let hello = self.hello_like(&reply).await?;
        let open = Mode::Open { rate: page.rate, process: page.arrivals, seed };
        let load = format!("page of {}, {}/s, {} KiB", page.size, page.rate, reply.wire_len() / 1024);
        self.versus(&load, &hello, get_page.clone(), (page.connections, open)).await?;
        let load = format!("page of {}, saturated by {}", page.size, page.saturate_connections);
        self.versus(&load, &hello, get_page, (page.saturate_connections, Mode::Saturate)).await?;
        hello.server.end().await
    }

    /// Walks through all pages, one after the other.
    async fn walks(&mut self) -> anyhow::Result<()> {
        let (size, walks, count) = (self.scenario.page.size, self.scenario.walk.walks, self.scenario.instances);
        let load = format!("walk of {count} in pages of {size}");
        self.say(&load);
        let builder = self.builder();
        let mut connection = Connection::new(self.gateway.address);
        let mut window = Window::default();
        let before = self.gateway.server.usage()?;
        let start = Instant::now();
        for _ in 0..walks {
            let (took, seen, bytes) = walk(&mut connection, &builder, &self.path(""), size).await?;
            ensure!(seen >= u64::from(count), "a walk showed {seen} of {count} instances");
            window.record(took, took, bytes);
        }
        window.elapsed = start.elapsed();
        let usage = self.gateway.server.usage()?;
        let cpu = Some(usage.cpu.saturating_sub(before.cpu));
        let row = Row { load, server: "gateway", window, cpu, rss_kib: usage.rss_kib, turns_p99_ns: Vec::new() };
        self.rows.push(row);
        Ok(())
    }

    /// What the gateway uses without requests.
    async fn idle(&self) -> anyhow::Result<(Duration, Duration)> {
        self.say("idle");
        let before: Usage = self.gateway.server.usage()?;
        let start = Instant::now();
        tokio::time::sleep(IDLE_WINDOW).await;
        Ok((self.gateway.server.usage()?.cpu.saturating_sub(before.cpu), start.elapsed()))
    }

    /// Creates one at a time, alternately through the gateway and straight to the first region of each cloud.
    async fn overheads(&self) -> anyhow::Result<Vec<Overhead>> {
        let mut seen = Vec::new();
        let mut overheads = Vec::new();
        for cloud in &self.clouds.info.backends {
            if seen.contains(&cloud.vendor) {
                continue;
            }
            seen.push(cloud.vendor);
            self.say(&format!("create pairs at {}", cloud.vendor));
            let mut direct = Direct::new(cloud)?;
            let request = self.create(&format!("pair-{}", cloud.region), Some(&cloud.region));
            let mut connection = Connection::new(self.gateway.address);
            let (mut gateway, mut alone, mut create, mut sync) = (histogram(), histogram(), histogram(), histogram());
            let mut probe = SyncProbe::new(&self.folder)?;
            let (mut looks, mut errors, mut kept) = (0_u32, 0_u64, Vec::new());
            for n in 0..self.scenario.create.pairs {
                let start = Instant::now();
                match connection.send(request(u64::from(n)), Keep::Errors).await {
                    Ok(reply) if reply.status == StatusCode::CREATED => {
                        gateway.saturating_record(nanos(start.elapsed()));
                    }
                    _ => errors += 1,
                }
                match direct.create(&format!("direct-{n}")).await {
                    Ok(took) => {
                        alone.saturating_record(nanos(took.create + took.look));
                        create.saturating_record(nanos(took.create));
                        looks += took.looks;
                        kept.push(took.id);
                    }
                    Err(_) => errors += 1,
                }
                sync.saturating_record(nanos(probe.once()?));
            }
            let looks_per_create = f64::from(looks) / f64::from(u32::try_from(kept.len()).unwrap_or(u32::MAX).max(1));
            for id in kept {
                direct.delete(id).await?;
            }
            overheads.push(Overhead {
                cloud: cloud.vendor.to_string(),
                gateway,
                direct: alone,
                direct_create: create,
                sync,
                looks_per_create,
                errors,
            });
        }
        Ok(overheads)
    }

    /// Creates in an open loop over all regions.
    async fn creates(&mut self) -> anyhow::Result<()> {
        let create = self.scenario.create.clone();
        let load = format!("create, {}/s", create.rate);
        self.say(&load);
        let target = self.target(self.create("open", None), StatusCode::CREATED);
        let mut contender = Contender::new("gateway", &self.gateway.server, target, create.connections);
        let mode = Mode::Open { rate: create.rate, process: create.arrivals, seed: self.scenario.seed };
        contender.turn(mode, (self.scenario.slices.warm_up.0, self.options.duration), 0).await?;
        let row = contender.row(&load)?;
        self.rows.push(row);
        Ok(())
    }
}

/// One walk: time spent waiting for pages, instances seen, bytes.
async fn walk(
    connection: &mut Connection,
    builder: &(impl Fn(Method, &str) -> http::request::Builder + Sync),
    path: &str,
    size: u32,
) -> anyhow::Result<(Duration, u64, usize)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        items: Vec<serde::de::IgnoredAny>,
        next_page_token: Option<String>,
    }
    let (mut took, mut seen, mut bytes, mut token) = (Duration::ZERO, 0, 0, String::new());
    for _ in 0..PAGES_MAX {
        let request = whole(builder(Method::GET, &format!("{path}?pageSize={size}{token}")), Bytes::new());
        let start = Instant::now();
        let reply = connection.send(request, Keep::Body).await?;
        took += start.elapsed();
        ensure!(reply.status == StatusCode::OK, "a page was answered with {}", reply.status);
        let page: Page = serde_json::from_slice(&reply.body).context("a page that cannot be read")?;
        seen += page.items.len() as u64;
        bytes += reply.body_len;
        match page.next_page_token {
            // Tokens are opaque but made for a query string.
            Some(next) => token = format!("&pageToken={next}"),
            None => return Ok((took, seen, bytes)),
        }
    }
    bail!("a walk does not end after {PAGES_MAX} pages")
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// A request with its body. What a builder refuses (it cannot here: names and keys are ASCII) is sent as a plain
/// request and counted as whatever it is answered with.
fn whole(builder: http::request::Builder, body: Bytes) -> Request<Full<Bytes>> {
    builder.body(Full::new(body)).unwrap_or_default()
}

/// The `meridian` binary beside this program.
///
/// # Errors
/// This program has no path.
pub fn meridian_beside() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program has no path")?;
    Ok(program.parent().unwrap_or(Path::new(".")).join("meridian"))
}
