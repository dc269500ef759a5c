//! What the clouds counted, and what the gateway says of its waits.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use meridian_gateway::telemetry::budget;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    client::{Connection, Keep},
    tenancy::Setting,
};

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let request = Request::builder().uri(path).header(header::HOST, address.to_string()).body(Full::default())?;
    let reply = Connection::new(address).send(request, Keep::Body).await.with_context(|| path.to_owned())?;
    ensure!(reply.status.is_success(), "{path} answers {}", reply.status);
    Ok(reply.body)
}

/// Calls of one action, as the clouds count them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calls {
    /// Answered in any way but as throttled.
    pub(super) accepted: u64,
    /// Throttled.
    pub(super) throttled: u64,
}

/// Calls of every action.
#[derive(Debug)]
pub(super) struct Counted(pub(super) BTreeMap<String, Calls>);

#[derive(Deserialize)]
struct Told {
    calls: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    action: String,
    outcome: String,
    count: u64,
}

impl Counted {
    /// As the clouds have it now.
    ///
    /// # Errors
    /// They do not answer.
    pub(super) async fn take(setting: &Setting) -> anyhow::Result<Self> {
        let told: Told =
            serde_json::from_slice(&get(setting.control, "/v1/calls").await?).context("the clouds' calls")?;
        let mut counted: BTreeMap<String, Calls> = BTreeMap::new();
        for row in told.calls {
            let calls = counted.entry(row.action).or_default();
            if row.outcome.contains("RequestLimitExceeded") || row.outcome.contains("Throttl") {
                calls.throttled += row.count;
            } else {
                calls.accepted += row.count;
            }
        }
        Ok(Self(counted))
    }

    /// Throttle answers of all actions.
    pub(super) fn throttled(&self) -> u64 {
        self.0.values().map(|calls| calls.throttled).sum()
    }

    /// Calls that show instances.
    pub(super) fn looks(&self) -> u64 {
        self.0.get("DescribeEKSContainerInstances").map_or(0, |calls| calls.accepted)
    }
}

/// How long calls of one class waited.
#[derive(Debug)]
pub(super) struct Wait {
    action: String,
    class: String,
    count: u64,
    /// Upper bound of a bucket in seconds, and how many waited no longer.
    buckets: Vec<(f64, u64)>,
}

impl Wait {
    /// The upper bound of the bucket that the quantile is in.
    fn at(&self, quantile: f64) -> f64 {
        let rank = (self.count as f64 * quantile).ceil() as u64;
        self.buckets.iter().find(|(_, n)| *n >= rank).map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, class, count, .. } = self;
        let [p50, p90, p99, most] = [0.5, 0.9, 0.99, 1.0].map(|q| self.at(q));
        write!(f, "| {action} | {class} | {count} | <= {p50} s | <= {p90} s | <= {p99} s | <= {most} s |")
    }
}

/// All waits.
#[derive(Debug)]
pub(super) struct Waits(pub(super) Vec<Wait>);

impl Waits {
    /// As the gateway's metrics have them now.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn take(setting: &Setting) -> anyhow::Result<Self> {
        let text = get(setting.admin, "/metrics").await?;
        let text = std::str::from_utf8(&text).context("the metrics")?;
        Ok(Self(read(text)))
    }

    /// Bound of the longest wait of a class at the actions whose name begins so.
    pub(super) fn most(&self, action: &str, class: &str) -> Option<f64> {
        self.0.iter().find(|w| w.action.starts_with(action) && w.class == class).map(|w| w.at(1.0))
    }
}

fn read(text: &str) -> Vec<Wait> {
    let mut waits: BTreeMap<(String, String), Wait> = BTreeMap::new();
    let bucket = format!("{}_seconds_bucket{{", budget::WAIT);
    for line in text.lines() {
        let Some((labels, value)) = line.strip_prefix(&bucket).and_then(|rest| rest.rsplit_once("} ")) else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let (Some(action), Some(class), Some(le)) = (label("action"), label("class"), label("le")) else { continue };
        let count = value.parse::<u64>().unwrap_or_default();
        let key = (action.clone(), class.clone());
        let wait = waits.entry(key).or_insert_with(|| Wait { action, class, count: 0, buckets: Vec::new() });
        wait.count = wait.count.max(count);
        wait.buckets.extend(le.parse().ok().filter(|bound: &f64| bound.is_finite()).map(|bound| (bound, count)));
    }
    waits.into_values().collect()
}

/// Create calls of each tenant, the fewest first.
///
/// # Errors
/// The gateway does not answer.
pub(super) async fn payers(setting: &Setting) -> anyhow::Result<Vec<u64>> {
    let told: Value = serde_json::from_slice(&get(setting.admin, "/vendorBudgets").await?).context("who used what")?;
    let items = told.get("items").and_then(Value::as_array).context("no items")?;
    let is_create = |item: &&Value| {
        item.pointer("/budget/action").and_then(Value::as_str).is_some_and(|action| action.starts_with("Create"))
    };
    let lanes = items.iter().filter(is_create).filter_map(|item| item.get("payers").and_then(Value::as_array));
    let mut calls: Vec<u64> =
        lanes.flatten().filter_map(|p| p.pointer("/calls/create").and_then(Value::as_u64)).collect();
    calls.sort_unstable();
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_from_the_metrics() {
        let name = format!("{}_seconds", budget::WAIT);
        let labels = "account=\"a\",region=\"r\",action=\"Make\",class=\"create\"";
        let text = format!(
            "{name}_sum{{{labels}}} 3.0\n{name}_bucket{{{labels},le=\"0.1\"}} 5\n{name}_bucket{{{labels},le=\"1.0\"}} 9\n\
             {name}_bucket{{{labels},le=\"+Inf\"}} 10\n"
        );
        let waits = read(&text);
        let [wait] = &waits[..] else { panic!("{waits:?}") };
        assert_eq!((wait.count, wait.at(0.5), wait.at(0.9), wait.at(1.0)), (10, 0.1, 1.0, f64::INFINITY));
    }
}
