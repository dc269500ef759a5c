//! `timing`: does the time of an answer tell whether another tenant, or its object, exists?
//!
//! Pairs of requests on one connection, in an order that is drawn: one for an object of a tenant that there is and that is
//! not the caller's, one for a tenant that there is not. The answers are the same to the byte; whether their times are is
//! asked of the ranks.

use std::path::PathBuf;

use anyhow::ensure;
use http::StatusCode;
use tokio::time::Instant;

use super::{ranks, setting::Setting};
use crate::{
    bench, chaos,
    client::{Connection, Keep},
    machine,
};

/// Pairs before the first that counts.
const WARM_UP: usize = 200;

/// A difference this improbable is one: a false alarm in a thousand runs.
const P_MIN: f64 = 0.001;

/// The arguments of `timing`.
#[derive(Debug, Clone, clap::Args)]
pub struct TimingArgs {
    /// Pairs of requests
    #[arg(long, default_value_t = 2000)]
    pairs: usize,
    /// Seed of the order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// Runs it, prints what was found, and fails when the times differ.
///
/// # Errors
/// The gateway does not start, or the times differ.
pub async fn timing(args: TimingArgs, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let meridian = args.meridian.clone().map_or_else(bench::meridian_beside, Ok)?;
    let setting = Setting::start(&meridian, 10).await?;
    let foreign = setting.request("/v1/tenants/t0003/instances/web");
    let missing = setting.request("/v1/tenants/x0003/instances/web");
    let mut connection = Connection::new(setting.api);
    let mut rng = chaos::rng::Rng::new(args.seed);
    let (mut of_foreign, mut of_missing) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP + args.pairs {
        let foreign_first = rng.within(0, 2) == 0;
        for is_foreign in [foreign_first, !foreign_first] {
            let request = if is_foreign { foreign.clone() } else { missing.clone() };
            let sent = Instant::now();
            let reply = connection.send(request, Keep::Errors).await?;
            let took = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
            ensure!(reply.status == StatusCode::NOT_FOUND, "{}", reply.status);
            if pair >= WARM_UP {
                if is_foreign { of_foreign.push(took) } else { of_missing.push(took) }
            }
        }
    }
    let verdict = ranks::mann_whitney(&of_foreign, &of_missing);
    let median = |sample: &mut Vec<u64>| {
        sample.sort_unstable();
        sample.get(sample.len() / 2).copied().unwrap_or_default() / 1000
    };
    let (foreign, missing) = (median(&mut of_foreign), median(&mut of_missing));
    let (pairs, load) = (args.pairs, machine::load());
    print(&format!(
        "{pairs} pairs; median of another's {foreign} us, of a missing one {missing} us; load average {load}"
    ))?;
    print(&format!("Mann-Whitney: z = {:.2}, p = {:.3}", verdict.z, verdict.p))?;
    setting.server.end().await?;
    ensure!(verdict.p >= P_MIN, "the times differ: p = {:.5}", verdict.p);
    Ok(())
}
