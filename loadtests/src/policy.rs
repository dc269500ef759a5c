//! `policy`: what judging a create by policies costs, beside the whole create.
//!
//! Twenty rules judge an instance of three containers, in this process and on one thread; then a gateway without
//! policies creates instances of the same spec, and its processor time is counted. The first over the second is the
//! part that policies would add.

use std::{hint::black_box, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use meridian_model::{
    ids::{InstanceName, ProfileName, TenantId},
    instance::{InstanceSpec, Labels},
    time::Time,
};
use meridian_policies::rules::{Operation, Policy, RuleSet, Scope};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    bench,
    generator::{MakeRequest, Pool, Target},
    setup::{Clouds, Gateway},
};

/// Most of a create that policies may cost (issue 4, Must show b).
const RATIO_MAX: f64 = 0.05;

/// Longest time for the creates.
const CREATES_WITHIN: Duration = Duration::from_secs(300);

/// The arguments of `policy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Decisions measured
    #[arg(long, default_value_t = 200_000)]
    decisions: u32,
    /// Creates measured
    #[arg(long, default_value_t = 3000)]
    creates: u64,
    /// Connections that create
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Scenario of the simulated clouds
    #[arg(long, value_name = "FILE", default_value = "loadtests/scenarios/clouds.toml")]
    clouds: PathBuf,
    /// The gateway's binary; the one beside this program when left out
    #[arg(long, value_name = "PATH")]
    meridian: Option<PathBuf>,
}

/// Twenty rules of the kinds that people write.
const RULES: [&str; 20] = [
    "object.spec.containers.all(c, registry(c.image) in params.registries)",
    "object.spec.containers.all(c, !c.image.endsWith(':latest'))",
    "object.spec.containers.all(c, c.image.contains(':') || c.image.contains('@'))",
    "object.spec.containers.all(c, 'cpu' in c.resources.limits && 'memory' in c.resources.limits)",
    "object.spec.containers.all(c, !has(c.securityContext) || !has(c.securityContext.privileged) || !c.securityContext.privileged)",
    "object.spec.containers.all(c, c.env.all(e, e.name != 'AWS_SECRET_ACCESS_KEY' && !e.name.startsWith('ROOT_')))",
    "object.spec.containers.all(c, c.ports.all(p, p.containerPort >= 1024 || p.containerPort == 80 || p.containerPort == 443))",
    "object.spec.containers.exists(c, c.name == 'app')",
    "size(object.spec.containers) <= 8",
    "shape.cpu <= quantity('16')",
    "shape.memory <= quantity('64Gi')",
    "shape.gpuCount == 0 || 'cost-center' in object.labels",
    "params.labels.all(l, l in object.labels && object.labels[l] != '')",
    "'team' in object.labels && object.labels['team'].matches('^[a-z][a-z0-9-]*$')",
    "!has(object.spec.network.publicIp)",
    "object.spec.capacity.type == 'spot' || 'on-demand-approved' in object.labels",
    "object.spec.placement.regions.all(r, r in params.regions)",
    "has(object.spec.activeDeadlineSeconds) && object.spec.activeDeadlineSeconds <= 86400",
    "request.time.getDayOfWeek('+08:00') in [0, 1, 2, 3, 4, 5, 6] && request.time.getHours('+08:00') < 24",
    "object.name.matches('^[a-z0-9-]+$') && size(object.name) <= 40",
];

fn spec() -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/shop/{name}:1.27"),
            "env": [{"name": "MODE", "value": "load"}, {"name": "LOG", "value": "info"}],
            "ports": [{"containerPort": 8080}],
            "resources": {"limits": {"cpu": "250m", "memory": "512Mi"}},
        })
    };
    json!({
        "containers": [container("app"), container("proxy"), container("logs")],
        "capacity": {"type": "spot"}, "activeDeadlineSeconds": 3600,
    })
}

fn labels() -> Labels {
    [("team", "core"), ("app", "load")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// The rules as a policy of the platform.
fn rules() -> anyhow::Result<RuleSet> {
    let rules = RULES.iter().enumerate().map(|(n, rule)| json!({"id": format!("r{n}"), "expression": rule}));
    let params = json!({
        "registries": ["registry.example", "mirror.example"], "labels": ["team", "app"],
        "regions": ["ap-guangzhou", "ap-shanghai", "cn-hangzhou", "cn-shanghai"],
    });
    let spec = serde_json::from_value(json!({"params": params, "rules": rules.collect::<Vec<_>>()}))?;
    Ok(RuleSet::of([Arc::new(Policy::load(Scope::Platform, &ProfileName::new("bench")?, spec)?)]))
}

/// Nanoseconds of a decision, and the units it cost.
fn decisions(count: u32) -> anyhow::Result<(f64, u64)> {
    let set = rules()?;
    let (tenant, name) = (TenantId::new("acme")?, InstanceName::new("load-1")?);
    let (labels, annotations) = (labels(), Labels::new());
    let spec: InstanceSpec = serde_json::from_value(spec())?;
    let roles = vec!["operator".to_owned()];
    let request = meridian_policies::rules::Request {
        operation: Operation::Create,
        tenant: &tenant,
        projects: &[],
        principal: "load",
        roles: &roles,
        time: Time::from_unix_ms(1_796_019_342_000),
        name: &name,
        labels: &labels,
        annotations: &annotations,
        spec: &spec,
    };
    let first = set.decide(&request);
    ensure!(first.broken.is_empty() && first.judged == 20, "the rules do not hold: {:?}", first.broken);
    for _ in 0..count / 10 {
        black_box(set.decide(black_box(&request)));
    }
    let began = Instant::now();
    for _ in 0..count {
        black_box(set.decide(black_box(&request)));
    }
    Ok((began.elapsed().as_secs_f64() * 1e9 / f64::from(count.max(1)), first.cost))
}

/// Creates of the same spec.
fn create(gateway: &Gateway) -> MakeRequest {
    let (host, key) = (gateway.address.to_string(), format!("Bearer {}", gateway.key));
    let path = format!("/v1/tenants/{}/instances", gateway.tenant);
    let (spec, labels) = (spec(), labels());
    Arc::new(move |n| {
        let name = format!("load-{n}");
        let body = json!({"name": name, "labels": labels, "spec": spec}).to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri(&path)
            .header(header::HOST, &host)
            .header(header::AUTHORIZATION, &key)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", &name)
            .body(Full::new(Bytes::from(body)));
        // What a builder refuses (it cannot here: all is ASCII) is counted as whatever it is answered with.
        request.unwrap_or_default()
    })
}

/// Measures both and prints them.
///
/// # Errors
/// A server does not start, creates fail, or policies cost more than they may.
pub async fn run(args: Args, print: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (ns, units) = decisions(args.decisions)?;
    let meridian = args.meridian.map_or_else(bench::meridian_beside, Ok)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let clouds = Clouds::start(&meridian, &args.clouds, folder.path()).await?;
    let gateway = Gateway::start(&meridian, &clouds, folder.path(), 1).await?;
    let target = Target { address: gateway.address, request: create(&gateway), expected: StatusCode::CREATED };
    let mut pool = Pool::new(target, args.connections);
    // A tenth to warm up, not counted.
    pool.closed_loop(CREATES_WITHIN, Some(args.creates / 10)).await?;
    let before = gateway.server.usage()?.cpu;
    let window = pool.closed_loop(CREATES_WITHIN, Some(args.creates)).await?;
    let cpu = gateway.server.usage()?.cpu.saturating_sub(before);
    gateway.server.end().await?;
    clouds.server.end().await?;
    ensure!(window.good > 0 && window.good * 10 >= window.total() * 9, "creates fail: {:?}", window.errors);
    #[expect(clippy::cast_precision_loss, reason = "counts of creates are far below")]
    let create_ns = cpu.as_secs_f64() * 1e9 / window.good as f64;
    let ratio = ns / create_ns;
    print(&format!(
        "20 rules on 3 containers: {ns:.0} ns and {units} units a decision ({} decisions, one thread)\n\
         a whole create: {:.0} us of the gateway's processor time ({} creates, {} connections)\n\
         ratio: {:.2} % (at most {:.0} %)",
        args.decisions,
        create_ns / 1e3,
        window.good,
        args.connections,
        ratio * 100.0,
        RATIO_MAX * 100.0
    ))?;
    ensure!(ratio < RATIO_MAX, "policies cost more of a create than they may");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_compile_and_hold() {
        let (ns, units) = decisions(1).unwrap();
        assert!(ns > 0.0 && units > 100, "{ns} ns, {units} units");
    }
}
