//! The vendor calls of a create without the gateway: what is left of a create's latency when these are taken off is
//! what the gateway itself costs.
//!
//! A create through the gateway makes two calls: the create, and a look at the new instance, repeated until it runs.
//! The same two are made here with the same adapters, the same HTTP client and marks of the same length.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use meridian_adapters::{
    Call, CallContext, CreateCall, Reply, Request, ResolvedNetwork, ResolvedSpec,
    http::HttpClient,
    registry::{self, BoxedBackend},
};
use meridian_cloudsim::BackendInfo;
use meridian_model::{
    ids::{ClientToken, CloudId, CloudName, SubnetId, ZoneId},
    instance::{InstanceSpec, Labels, Shape},
    status::ObservedPhase,
    time::Time,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::{Service as _, ServiceExt as _};

/// One vendor call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at an instance that does not run yet, and the pause between them: the gateway's first one.
const LOOKS_MAX: u32 = 40;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Milliseconds after which a create cannot take effect any more; what the demo says of its clouds.
const EFFECT_BOUND_MS: u64 = 10_000;

/// One cloud, called without a gateway.
#[derive(Debug)]
pub struct Direct {
    backend: BoxedBackend,
    network: ResolvedNetwork,
    spec: Arc<ResolvedSpec>,
    shape: Shape,
    zone: ZoneId,
    nonce: u128,
}

/// How long one create took.
#[derive(Debug, Clone)]
pub struct Took {
    /// The create call.
    pub create: Duration,
    /// From the create's reply until it was seen running.
    pub look: Duration,
    /// How often it was looked at.
    pub looks: u32,
    /// What was made.
    pub id: CloudId,
}

/// The wish that all creates have in common.
#[must_use]
pub fn spec() -> Value {
    json!({"containers": [{"name": "app", "image": "nginx:1.27", "env": [{"name": "MODE", "value": "load"}]}]})
}

impl Direct {
    /// The first zone of a cloud.
    ///
    /// # Errors
    /// The cloud's settings do not make an adapter.
    pub fn new(cloud: &BackendInfo) -> anyhow::Result<Self> {
        let vendor = serde_json::to_value(cloud.vendor)?;
        let vendor = vendor.as_str().context("a vendor without a name")?;
        let http = HttpClient::new().context("the HTTP client")?;
        let backend = registry::build(vendor, settings(vendor, cloud)?, http)?;
        let mut subnets = BTreeMap::new();
        for zone in &cloud.zones {
            subnets.insert(ZoneId::new(&zone.zone)?, SubnetId::new(&zone.subnet_id)?);
        }
        let zone = subnets.keys().next().context("a cloud without zones")?.clone();
        let network = ResolvedNetwork {
            vpc_id: cloud.vpc_id.clone(),
            security_group_ids: vec![cloud.security_group_id.clone()],
            subnets,
        };
        let spec: InstanceSpec = serde_json::from_value(spec())?;
        let shape = backend.capability.round_up(&spec.shape()).context("no size on sale holds the spec")?;
        let spec = Arc::new(ResolvedSpec { spec, network: network.clone(), credentials: Vec::new() });
        Ok(Self { backend, network, spec, shape, zone, nonce: 0 })
    }

    /// Zones it could use.
    #[must_use]
    pub fn zones(&self) -> usize {
        self.network.subnets.len()
    }

    async fn call(&mut self, request: Request) -> anyhow::Result<Reply> {
        self.nonce += 1;
        // Unique over runs as well: the clouds remember nonces.
        let now = jiff::Timestamp::now();
        let nonce = (u128::from(now.as_nanosecond().unsigned_abs() as u64) << 64) | self.nonce;
        let at = CallContext { signed_at: Time::from_unix_ms(now.as_millisecond()), nonce, timeout: CALL_TIMEOUT };
        let mut service = self.backend.service.clone();
        Ok(service.ready().await?.call(Call { at, request }).await?)
    }

    /// Creates an instance and waits until it runs.
    ///
    /// # Errors
    /// A call fails, or the instance does not run.
    pub async fn create(&mut self, name: &str) -> anyhow::Result<Took> {
        let call = CreateCall {
            name: CloudName::new(name)?,
            token: ClientToken::new(name)?,
            spec: Arc::clone(&self.spec),
            zone: self.zone.clone(),
            shape: self.shape.clone(),
            marks: marks(name),
        };
        let start = Instant::now();
        let Reply::Created(id) = self.call(Request::Create(Box::new(call))).await? else {
            bail!("a create was answered with something else")
        };
        let create = start.elapsed();
        for looks in 1..=LOOKS_MAX {
            let Reply::Instances(seen) = self.call(Request::Describe(vec![id.clone()])).await? else {
                bail!("a describe was answered with something else")
            };
            if seen.iter().any(|i| i.phase == ObservedPhase::Running) {
                return Ok(Took { create, look: start.elapsed() - create, looks, id });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        bail!("{id} does not run after {LOOKS_MAX} looks")
    }

    /// Deletes what a create made.
    ///
    /// # Errors
    /// The call fails.
    pub async fn delete(&mut self, id: CloudId) -> anyhow::Result<()> {
        self.call(Request::Delete(id)).await.map(drop)
    }
}

fn settings(vendor: &str, cloud: &BackendInfo) -> anyhow::Result<Value> {
    let (id, secret) = match vendor {
        "tencent-eksci" => ("secretId", "secretKey"),
        "alibaba-eci" => ("accessKeyId", "accessKeySecret"),
        other => bail!("no adapter is known for {other}"),
    };
    let mut settings = json!({
        "endpoint": cloud.url, "region": cloud.region, id: cloud.key_id, secret: cloud.key_secret,
        "effectBoundMs": EFFECT_BOUND_MS,
    });
    if registry::subnets_tell_zones(vendor)
        && let Some(map) = settings.as_object_mut()
    {
        let zones = cloud.zones.iter().map(|z| (z.subnet_id.clone(), Value::from(z.zone.clone()))).collect();
        map.insert("subnetZones".to_owned(), Value::Object(zones));
    }
    Ok(settings)
}

/// Marks as long as the gateway's.
fn marks(name: &str) -> Labels {
    [
        ("MERIDIAN_TENANT", "acme".to_owned()),
        ("MERIDIAN_INSTANCE", name.to_owned()),
        ("MERIDIAN_UID", format!("inst_{}", "0".repeat(26))),
        ("MERIDIAN_EPOCH", "0".to_owned()),
        ("MERIDIAN_FINGERPRINT", "0".repeat(64)),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}
