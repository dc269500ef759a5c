//! `noisy`: one tenant asks for a hundred times its rate; what does another one notice?
//!
//! Three kinds of slices take turns, and in all of them the noisy tenant is served its rate: it asks for no more; it asks
//! for no more while a bare hyper server beside the gateway is sent the rest; it asks the gateway for all of it. Client,
//! servers and clouds share one machine, and a thousand requests a second cost it something whoever answers them; the
//! gateway is answerable for what lies between the last two. The other tenant's requests are due at fixed times and their
//! latency counts from then (no coordinated omission).

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
use http::{Method, Request, header};
use http_body_util::Full;
use meridian_model::quantity::Span;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    bench,
    chaos::rng::Rng,
    client::{Connection, Keep},
    direct, machine,
    process::Server,
    setup::address_of,
    tenancy::{Plan, Setting, Tenant},
};

/// Clouds that hold nobody up: what is measured is the gateway.
const CLOUDS: &str = "seed = 1\n[timing]\nplaced_ms = 0\nrunning_ms = 0\njitter_ms = 0\nterminate_ms = 0\n\
                      [limits]\nenabled = false\n";

/// The noisy tenant's rate: 10 requests a second, one of them a create. Its buckets hold little, so that what it does not use
/// in one slice is not served in the next.
const NOISY_RATE: &str = "{ requestsPerMinute = 600, burst = 10, createsPerMinute = 60, createBurst = 2 }";
const NOISY_PER_SECOND: u32 = 10;
const NOISY_READS_PER_CREATE: u32 = 9;

/// The other one is within its rate.
const QUIET_RATE: &str = "{ requestsPerMinute = 60000, burst = 10000, createsPerMinute = 60000, createBurst = 10000 }";

/// Connections of the noisy tenant.
const NOISY_CONNECTIONS: u32 = 20;

/// Connections of the other one for its creates and for its reads.
const QUIET_CONNECTIONS: u32 = 8;

/// Bytes of the bare server's answers: about what a refusal has.
const REFUSAL_BYTES: &str = "400";

/// Most that its p99 may change.
const CHANGE_MAX: f64 = 0.1;

/// How often the rounds are drawn anew to see how far the change would have been another one.
const RESAMPLES: usize = 1000;

/// The arguments of `noisy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Slices of each kind
    #[arg(long, default_value_t = 120)]
    slices: u32,
    /// Length of a slice
    #[arg(long, default_value = "1s")]
    slice: Span,
    /// How many times its rate the noisy tenant asks for
    #[arg(long, default_value_t = 100)]
    times: u32,
    /// Creates a second of the other tenant
    #[arg(long, default_value_t = 30)]
    creates: u32,
    /// Reads a second of the other tenant
    #[arg(long, default_value_t = 200)]
    reads: u32,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// What the other tenant saw in one slice: latencies in microseconds.
#[derive(Debug, Default)]
struct Seen {
    creates: Vec<u64>,
    reads: Vec<u64>,
    errors: u64,
}

/// What the noisy tenant does in a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noise {
    /// Asks for its rate.
    AtRate,
    /// Asks for its rate, and a bare server is asked for the rest.
    Elsewhere,
    /// Asks for all of it.
    Over,
}

/// All kinds, as they are printed.
const KINDS: [(Noise, &str); 3] = [
    (Noise::AtRate, "at its rate"),
    (Noise::Elsewhere, "at its rate, the rest at a bare server"),
    (Noise::Over, "over its rate"),
];

/// All orders of the three kinds: none of them always follows the same other one.
const ORDERS: [[Noise; 3]; 6] = [
    [Noise::AtRate, Noise::Elsewhere, Noise::Over],
    [Noise::Over, Noise::Elsewhere, Noise::AtRate],
    [Noise::Elsewhere, Noise::AtRate, Noise::Over],
    [Noise::Over, Noise::AtRate, Noise::Elsewhere],
    [Noise::AtRate, Noise::Over, Noise::Elsewhere],
    [Noise::Elsewhere, Noise::Over, Noise::AtRate],
];

/// One slice of each kind, in the order of [`KINDS`].
type Round = [Seen; 3];

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
    // Warm: connections, the ledger's file, the first plan.
    quiet.slice(&args).await?;
    let (span, over) = (args.slice.0, NOISY_PER_SECOND * args.times);
    let at_rate = (NOISY_PER_SECOND, NOISY_READS_PER_CREATE);
    let mut heard = [(0, 0); 3];
    let mut rounds = Vec::new();
    for order in ORDERS.iter().cycle().take(args.slices as usize) {
        let mut round = Round::default();
        for kind in order {
            let at = KINDS.iter().position(|(k, _)| k == kind).context("a kind without a name")?;
            let noise = async {
                match kind {
                    Noise::AtRate => noisy.noise(span, at_rate).await,
                    Noise::Elsewhere => {
                        let rest = elsewhere.noise(span, (over.saturating_sub(NOISY_PER_SECOND), 1));
                        tokio::join!(noisy.noise(span, at_rate), rest).0
                    }
                    Noise::Over => noisy.noise(span, (over, 1)).await,
                }
            };
            let (seen, (asked, served)) = tokio::join!(quiet.slice(&args), noise);
            let (slot, sum) = (round.get_mut(at).context("a kind")?, heard.get_mut(at).context("a kind")?);
            *slot = seen?;
            *sum = (sum.0 + asked, sum.1 + served);
        }
        rounds.push(round);
    }
    setting.end().await?;
    bare.end().await?;
    let worst = tell(&args, &rounds, heard, print)?;
    let errors: u64 = rounds.iter().flatten().map(|seen| seen.errors).sum();
    ensure!(errors == 0, "{errors} requests failed");
    ensure!(worst < CHANGE_MAX, "the other tenant's p99 changed by {:.1} %", worst * 100.0);
    Ok(())
}

/// Prints what was found; the result is the larger change of a p99, as a part.
fn tell(
    args: &Args,
    rounds: &[Round],
    heard: [(u64, u64); 3],
    print: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let slice = args.slice.0.as_secs_f64();
    let seconds = slice * f64::from(args.slices);
    print(&format!("{} slices of {slice} s of each kind; load average {}\n", args.slices, machine::load()))?;
    print("| the noisy tenant | asks/s | is served/s |\n| --- | --- | --- |")?;
    for ((_, name), (asked, served)) in KINDS.iter().zip(heard) {
        print(&format!("| {name} | {:.0} | {:.1} |", asked as f64 / seconds, served as f64 / seconds))?;
    }
    print(
        "\n| the other's | the noisy tenant | n | p50 ms | p90 ms | p99 ms |\n| --- | --- | --- | --- | --- | --- |",
    )?;
    for (what, of) in [("creates", creates as Of), ("reads", reads)] {
        for (at, (_, name)) in KINDS.iter().enumerate() {
            let mut all = of_kind(rounds.iter(), at, of);
            let n = all.len();
            let [p50, p90, p99] = [50, 90, 99].map(|q| quantile(&mut all, q) as f64 / 1000.0);
            print(&format!("| {what} | {name} | {n} | {p50:.2} | {p90:.2} | {p99:.2} |"))?;
        }
    }
    let mut worst = f64::MIN;
    print("\n| change of p99 by what is over the rate | beside a bare server | 90 % of resampled rounds |")?;
    print("| --- | --- | --- |")?;
    for (what, of) in [("creates", creates as Of), ("reads", reads)] {
        let change = change(rounds.iter(), of);
        let [low, high] = resampled(rounds, of);
        print(&format!("| {what} | {:+.1} % | {:+.1} to {:+.1} % |", change * 100.0, low * 100.0, high * 100.0))?;
        worst = worst.max(change);
    }
    Ok(worst)
}

/// What is looked at of a slice.
type Of = fn(&Seen) -> &[u64];

fn creates(seen: &Seen) -> &[u64] {
    &seen.creates
}

fn reads(seen: &Seen) -> &[u64] {
    &seen.reads
}

/// All latencies of one kind of slices.
fn of_kind<'r>(rounds: impl Iterator<Item = &'r Round>, at: usize, of: Of) -> Vec<u64> {
    rounds.filter_map(|round| round.get(at)).flat_map(|seen| of(seen).iter().copied()).collect()
}

/// The value that so many percent do not pass; nought of nothing.
fn quantile(values: &mut [u64], percent: usize) -> u64 {
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    if at >= values.len() { 0 } else { *values.select_nth_unstable(at).1 }
}

/// By how much the p99 over the rate differs from that beside a bare server, as a part of the latter.
fn change<'r>(rounds: impl Iterator<Item = &'r Round> + Clone, of: Of) -> f64 {
    let p99 = |at| quantile(&mut of_kind(rounds.clone(), at, of), 99) as f64;
    p99(2) / p99(1).max(1.0) - 1.0
}

/// Between which changes nine tenths lie when the rounds are drawn anew, with replacement, from those that were seen.
fn resampled(rounds: &[Round], of: Of) -> [f64; 2] {
    let mut rng = Rng::new(1);
    let mut changes: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<&Round> = (0..rounds.len()).filter_map(|_| rng.pick(rounds)).collect();
            change(drawn.into_iter(), of)
        })
        .collect();
    changes.sort_unstable_by(f64::total_cmp);
    [RESAMPLES / 20, RESAMPLES - RESAMPLES / 20 - 1].map(|at| changes.get(at).copied().unwrap_or_default())
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
    async fn slice(&self, args: &Args) -> anyhow::Result<Seen> {
        let mut tasks = JoinSet::new();
        for (create, per_second) in [(true, args.creates), (false, args.reads)] {
            for k in 0..QUIET_CONNECTIONS {
                let (client, span) = (self.clone(), args.slice.0);
                tasks
                    .spawn(async move { (create, client.due(create, (k, QUIET_CONNECTIONS), per_second, span).await) });
            }
        }
        let mut seen = Seen::default();
        while let Some(done) = tasks.join_next().await {
            let (create, (latencies, errors)) = done?;
            let all = if create { &mut seen.creates } else { &mut seen.reads };
            all.extend(latencies);
            seen.errors += errors;
        }
        Ok(seen)
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

    /// Asks for so much a second over many connections, so many reads for each create; how often it asked, and how often it
    /// was served.
    async fn noise(&self, span: Duration, (per_second, reads_per_create): (u32, u32)) -> (u64, u64) {
        let mut tasks = JoinSet::new();
        let connections = NOISY_CONNECTIONS.min(per_second);
        for k in 0..connections {
            let client = self.clone();
            tasks.spawn(async move {
                let mut connection = Connection::new(client.api);
                let step = Duration::from_secs(1) * connections / per_second.max(1);
                let began = Instant::now() + step * k / connections;
                let (mut asked, mut served) = (0, 0);
                while began.elapsed() < span && step * asked < span {
                    tokio::time::sleep_until(began + step * asked).await;
                    let is_create = (asked * connections + k) % (reads_per_create + 1) == 0;
                    let reply = connection.send(client.request(is_create), Keep::Errors).await;
                    asked += 1;
                    served += u64::from(reply.is_ok_and(|r| r.status.is_success()));
                }
                (u64::from(asked), served)
            });
        }
        tasks.join_all().await.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(beside: u64, over: u64) -> Round {
        let seen = |us| Seen { creates: vec![us; 100], reads: vec![us; 100], errors: 0 };
        [seen(1), seen(beside), seen(over)]
    }

    #[test]
    fn the_change_is_that_of_the_slowest_hundredth() {
        let mut values: Vec<u64> = (1..=1000).rev().collect();
        assert_eq!([50, 99].map(|q| quantile(&mut values, q)), [500, 990]);
        assert_eq!(quantile(&mut [], 99), 0);
        let rounds: Vec<_> = (0..50).map(|_| round(1000, 1100)).collect();
        assert!((change(rounds.iter(), creates) - 0.1).abs() < 1e-9);
        assert_eq!(resampled(&rounds, reads), [change(rounds.iter(), reads); 2]);
    }

    #[test]
    fn a_change_that_some_rounds_make_lies_within_what_is_resampled() {
        let rounds: Vec<_> = (0..200).map(|n| round(1000, if n % 100 == 0 { 3000 } else { 1000 })).collect();
        let [low, high] = resampled(&rounds, reads);
        assert!(low < 0.1 && high > 1.9, "{low} to {high}");
    }
}
