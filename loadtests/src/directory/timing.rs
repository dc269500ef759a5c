//! `timing`: does the time of an answer tell whether another tenant, or its object, exists?
//!
//! Rounds of three requests on one connection, in an order that is drawn: for an instance that another tenant has and that
//! runs, for one that this tenant does not have, and for one of a tenant that there is not. The answers are the same to the
//! byte; whether their times are is asked of the ranks.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::time::Instant;

use super::ranks;
use crate::{
    bench, chaos,
    client::{Connection, Keep},
    machine,
    tenancy::{Plan, Setting, Tenant},
};

/// Rounds before the first that counts.
const WARM_UP: usize = 200;

/// Clouds that hold nobody up.
const CLOUDS: &str = "seed = 1\n[timing]\nplaced_ms = 0\nrunning_ms = 0\njitter_ms = 0\nterminate_ms = 0\n\
                      [limits]\nenabled = false\n";

/// Far above what is asked, so that the limits count and never refuse.
const RATE: &str = "{ requestsPerMinute = 10000000, burst = 1000000 }";

/// Who asks, and who has what is asked for.
const ASKING: &str = "acme";
const OTHER: &str = "t0003";

/// What is asked for; the first is there.
const TARGETS: [(&str, &str); 3] = [
    ("another's instance", "/v1/tenants/t0003/instances/web"),
    ("one that it has not", "/v1/tenants/t0003/instances/nix"),
    ("one of no tenant", "/v1/tenants/x0003/instances/web"),
];

/// The arguments of `timing`.
#[derive(Debug, Clone, clap::Args)]
pub struct TimingArgs {
    /// Requests of each kind
    #[arg(long, default_value_t = 2000)]
    pairs: usize,
    /// Seed of the order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A difference this improbable is one; by default a false alarm in a thousand comparisons
    #[arg(long, default_value_t = 0.001)]
    p_min: f64,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

fn request(tenant: &Tenant, method: Method, path: &str, body: &'static str) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "gateway")
        .header(header::AUTHORIZATION, format!("Bearer {}", tenant.key));
    let request = if body.is_empty() { request } else { request.header(header::CONTENT_TYPE, "application/json") };
    Ok(request.body(Full::from(body))?)
}

/// Runs it, prints what was found, and fails when the times differ.
///
/// # Errors
/// The gateway does not start, or the times differ.
pub async fn timing(args: TimingArgs, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let meridian = args.meridian.clone().map_or_else(bench::meridian_beside, Ok)?;
    let tenants = vec![(ASKING.to_owned(), RATE), (OTHER.to_owned(), RATE)];
    let setting = Setting::start(&meridian, &Plan { clouds: CLOUDS, tenants, ceiling: 1000 }).await?;
    let [asking, other] = &setting.tenants[..] else { anyhow::bail!("two tenants") };
    let mut connection = Connection::new(setting.api);
    make(&mut connection, other).await?;
    let mut times: [Vec<u64>; TARGETS.len()] = Default::default();
    let mut rng = chaos::rng::Rng::new(args.seed);
    for round in 0..WARM_UP + args.pairs {
        let mut order: Vec<_> = TARGETS.iter().zip(&mut times).collect();
        while !order.is_empty() {
            let drawn = usize::try_from(rng.within(0, order.len() as u64))?;
            let ((_, path), times) = order.swap_remove(drawn);
            let asked = request(asking, Method::GET, path, "")?;
            let sent = Instant::now();
            let reply = connection.send(asked, Keep::Errors).await?;
            let took = u64::try_from(sent.elapsed().as_nanos())?;
            ensure!(reply.status == StatusCode::NOT_FOUND, "{}", reply.status);
            if round >= WARM_UP {
                times.push(took);
            }
        }
    }
    setting.end().await?;
    print(&format!("{} requests of each kind; load average {}", args.pairs, machine::load()))?;
    judge(&mut times, args.p_min, print)
}

/// Makes the other tenant's instance, and sees that its own tenant sees it.
async fn make(connection: &mut Connection, other: &Tenant) -> anyhow::Result<()> {
    let body = r#"{"name":"web","spec":{"containers":[{"name":"app","image":"nginx:1.27"}]}}"#;
    let create = request(other, Method::POST, &format!("/v1/tenants/{OTHER}/instances"), body)?;
    let made = connection.send(create, Keep::Errors).await?;
    ensure!(made.status == StatusCode::CREATED, "{}: {}", made.status, String::from_utf8_lossy(&made.body));
    let (_, path) = TARGETS.first().context("there are targets")?;
    let seen = connection.send(request(other, Method::GET, path, "")?, Keep::Errors).await?;
    ensure!(seen.status == StatusCode::OK, "{}: {}", seen.status, String::from_utf8_lossy(&seen.body));
    Ok(())
}

/// Compares the first of the samples with each of the others.
fn judge(times: &mut [Vec<u64>], p_min: f64, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (first, others) = times.split_first_mut().context("there are samples")?;
    let mut least = 1.0_f64;
    let mut told = vec![format!("{}: median {} us", TARGETS.first().map_or("", |(what, _)| what), median(first))];
    for (other, (what, _)) in others.iter_mut().zip(TARGETS.iter().skip(1)) {
        let verdict = ranks::mann_whitney(first, other);
        let (z, p) = (verdict.z, verdict.p);
        told.push(format!(
            "{what}: median {} us; Mann-Whitney against the first: z = {z:.2}, p = {p:.3}",
            median(other)
        ));
        least = least.min(p);
    }
    told.iter().try_for_each(|line| print(line))?;
    ensure!(least >= p_min, "the times differ: p = {least:.7}");
    Ok(())
}

/// The middle of some nanoseconds, in microseconds.
fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many times as CI takes, between 60 and 80 us, some later than others by a shift.
    fn times(shift: u64) -> Vec<u64> {
        (0..500_u64).map(|n| 60_000 + n * 7919 % 20_000 + shift).collect()
    }

    #[test]
    fn what_one_more_look_costs_is_found_in_as_few_rounds_as_ci_takes() {
        let judged = |of_object, of_tenant| {
            judge(&mut [times(0), times(of_object), times(of_tenant)], 0.000_001, |_| Ok(())).is_ok()
        };
        assert!(judged(0, 0));
        assert!(!judged(5_000, 0) && !judged(0, 5_000));
    }
}
