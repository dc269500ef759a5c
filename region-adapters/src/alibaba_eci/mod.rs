//! Alibaba Cloud Elastic Container Instance (ECI), API version 2018-08-08.
//!
//! Creates are idempotent under the client token, so a repeat after an unknown outcome is safe; the adapter
//! still reports what is known of each single call. A success is an id, not capacity: sold out is told either
//! at create (`OperationDenied.NoStock`) or later (`ScheduleFailed` and an event). Capabilities, limits and
//! their sources are in `docs.md` beside this file.
//!
//! Building (`request.rs`), signing (`sign.rs`), sending (here) and reading (`convert.rs`, `errors.rs`) are
//! separate; all but the sending are pure.

mod config;
mod convert;
mod errors;
mod request;
mod sign;
mod wire;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use config::Endpoint;
pub use config::{Config, EFFECT_BOUND_DEFAULT, GpuSizeConfig};
use errors::Verb;
use meridian_model::{
    capability::{Capability, Feature, GpuSize, SizeRow, Support},
    error::{Effect, FaultKind},
    ids::{AdapterName, CloudId, CloudName},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    status::{Observed, ObservedEvent},
};
use request::Params;
use serde::de::DeserializeOwned;

use crate::{
    AccountUsage, AdapterError, CallContext, CreateCall, Cursor, DESCRIBE_IDS_MAX, Page, PriceQuery, RegionAdapter,
    VendorAction, ZoneReport,
    http::HttpClient,
    registry::{ConfigError, Configure},
};

/// The adapter's name in the configuration.
pub const NAME: &str = "alibaba-eci";

/// Most pages followed in one look-up by name. Names are unique per attempt, so that more than one page is
/// already a wonder; a look-up that is not complete ends as an error, never as an absence.
const FIND_PAGES_MAX: usize = 10;

/// Most GPU families asked about in one look at the zones, each a call of its own.
const FAMILIES_MAX: usize = 8;

/// One account in one region.
#[derive(Debug)]
pub struct AlibabaEci {
    config: Config,
    endpoint: Endpoint,
    http: HttpClient,
    capability: Arc<Capability>,
}

impl Configure for AlibabaEci {
    type Config = Config;
    const EFFECT_BOUND_MIN: Duration = config::EFFECT_BOUND_MIN;

    fn configure(config: Config, http: HttpClient) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint()?;
        config.check_key_id()?;
        let capability = Arc::new(capability(config.effect_bound()?, config.gpu_sizes()?));
        Ok(Self { config, endpoint, http, capability })
    }
}

impl AlibabaEci {
    /// One signed request. `part` tells apart the requests of one call, whose nonces must differ.
    async fn send(&self, at: CallContext, part: usize, action: Action, params: &Params) -> Result<Bytes, AdapterError> {
        let nonce = if part == 0 { format!("{:032x}", at.nonce) } else { format!("{:032x}-{part}", at.nonce) };
        let envelope =
            sign::Envelope { endpoint: &self.endpoint, action: action.name, signed_at: at.signed_at, nonce: &nonce };
        let key = sign::Key {
            id: &self.config.access_key_id,
            secret: &self.config.access_key_secret,
            token: self.config.security_token.as_ref(),
        };
        let signed = sign::request(&envelope, &params.0, key).map_err(|e| {
            AdapterError::new(FaultKind::BadRequest, Effect::NotApplied, "request.unbuildable", e.to_string())
        })?;
        let reply = self.http.send(signed, at.timeout).await.map_err(|e| match action.verb {
            Verb::Read => e.of_read(),
            Verb::Create | Verb::Delete => e.of_write(),
        })?;
        match errors::in_reply(action.verb, &reply) {
            Some(error) => Err(error),
            None => {
                if action.verb != Verb::Read {
                    crate::receipt::note(errors::request_id(reply.body()).as_deref());
                }
                Ok(reply.into_body())
            }
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        at: CallContext,
        part: usize,
        action: Action,
        params: &Params,
    ) -> Result<T, AdapterError> {
        convert::read(action.verb, &self.send(at, part, action, params).await?)
    }

    async fn groups(&self, at: CallContext, part: usize, params: &Params) -> Result<Page, AdapterError> {
        convert::page(self.ask(at, part, DESCRIBE, params).await?, &self.capability.gpu_sizes)
    }

    /// Each id alone: the vendor may answer one unknown id among many with an error for all of them
    /// (vendor-api README 4.2).
    async fn describe_each(&self, at: CallContext, ids: &[CloudId]) -> Result<Vec<Observed>, AdapterError> {
        let mut found = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            let params = request::describe(&self.config.region, std::slice::from_ref(id), false);
            match self.groups(at, i + 1, &params).await {
                Ok(page) => found.extend(page.items),
                Err(error) if error.kind == FaultKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn find_all(&self, at: CallContext, name: &CloudName) -> Result<Vec<Observed>, AdapterError> {
        let mut found = Vec::new();
        let mut from = None;
        for part in 0..FIND_PAGES_MAX {
            let params = request::page(&self.config.region, Some(name), from.as_ref());
            let page = self.groups(at, part, &params).await?;
            found.extend(convert::named(page.items, name));
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(found),
            }
        }
        Err(errors::not_understood(Verb::Read, &format!("more than {FIND_PAGES_MAX} pages under one name")))
    }

    async fn look_at_zones(&self, at: CallContext) -> Result<Vec<ZoneReport>, AdapterError> {
        let region = &self.config.region;
        let regions: wire::Regions = self.ask(at, 0, REGIONS, &request::regional(region)).await?;
        let sizes = self.capability.gpu_sizes.iter().map(|g| request::family(&g.vendor_name));
        let families: BTreeSet<&str> = sizes.collect();
        let mut available = Vec::new();
        for (i, family) in families.into_iter().take(FAMILIES_MAX).enumerate() {
            available.push(self.ask(at, i + 1, AVAILABLE, &request::available(region, family)).await?);
        }
        convert::zones(region, &regions, &available)
    }
}

/// An action and what its failure may have done.
#[derive(Debug, Clone, Copy)]
struct Action {
    name: &'static str,
    verb: Verb,
}

const CREATE: Action = Action { name: "CreateContainerGroup", verb: Verb::Create };
const DELETE: Action = Action { name: "DeleteContainerGroup", verb: Verb::Delete };
const DESCRIBE: Action = Action { name: "DescribeContainerGroups", verb: Verb::Read };
const REGIONS: Action = Action { name: "DescribeRegions", verb: Verb::Read };
const AVAILABLE: Action = Action { name: "DescribeAvailableResource", verb: Verb::Read };
const USAGE: Action = Action { name: "ListUsage", verb: Verb::Read };
const PRICE: Action = Action { name: "DescribeContainerGroupPrice", verb: Verb::Read };

/// Bounds a read of several requests by the time of one call.
async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, AdapterError>> + Send,
) -> Result<T, AdapterError> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let text = format!("not complete within {} ms", timeout.as_millis());
        Err(AdapterError::new(FaultKind::Lost, Effect::NotApplied, "transport.timeout", text))
    })
}

/// Calls a minute of actions whose limit is not documented: the least of those that are, of reading actions.
const UNSTATED_PER_MINUTE: u32 = 500;

/// Calls a minute from vendor-api README 4.7.
const ACTIONS: &[VendorAction] = &[
    VendorAction { name: CREATE.name, verbs: &["create"], calls_per_minute: 1000 },
    VendorAction { name: DELETE.name, verbs: &["delete"], calls_per_minute: 1000 },
    VendorAction { name: DESCRIBE.name, verbs: &["describe", "find", "list", "events"], calls_per_minute: 2000 },
    VendorAction { name: PRICE.name, verbs: &["price"], calls_per_minute: 1000 },
    // Sent with `DescribeRegions`, once each for every family of sizes.
    VendorAction { name: AVAILABLE.name, verbs: &["zones"], calls_per_minute: UNSTATED_PER_MINUTE },
    VendorAction { name: USAGE.name, verbs: &["usage"], calls_per_minute: UNSTATED_PER_MINUTE },
];

impl RegionAdapter for AlibabaEci {
    fn capability(&self) -> &Arc<Capability> {
        &self.capability
    }

    fn actions(&self) -> &'static [VendorAction] {
        ACTIONS
    }

    async fn create(&self, at: CallContext, call: CreateCall) -> Result<CloudId, AdapterError> {
        let params = request::create(&self.config.region, &self.capability, &call)?;
        convert::created(&self.ask(at, 0, CREATE, &params).await?)
    }

    async fn describe(&self, at: CallContext, ids: Vec<CloudId>) -> Result<Vec<Observed>, AdapterError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        if ids.len() > DESCRIBE_IDS_MAX {
            let text = format!("{} ids; at most {DESCRIBE_IDS_MAX}", ids.len());
            return Err(AdapterError::new(FaultKind::BadRequest, Effect::NotApplied, "request.ids", text));
        }
        within(at.timeout, async {
            match self.groups(at, 0, &request::describe(&self.config.region, &ids, false)).await {
                Ok(page) => Ok(page.items),
                Err(error) if error.kind == FaultKind::NotFound => match ids.as_slice() {
                    [_] => Ok(Vec::new()),
                    many => self.describe_each(at, many).await,
                },
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn find(&self, at: CallContext, name: CloudName) -> Result<Vec<Observed>, AdapterError> {
        within(at.timeout, self.find_all(at, &name)).await
    }

    async fn list(&self, at: CallContext, from: Option<Cursor>) -> Result<Page, AdapterError> {
        self.groups(at, 0, &request::page(&self.config.region, None, from.as_ref())).await
    }

    async fn delete(&self, at: CallContext, id: CloudId) -> Result<(), AdapterError> {
        match self.send(at, 0, DELETE, &request::delete(&self.config.region, &id)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == FaultKind::NotFound && error.effect == Effect::NotApplied => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn events(&self, at: CallContext, id: CloudId) -> Result<Vec<ObservedEvent>, AdapterError> {
        let params = request::describe(&self.config.region, std::slice::from_ref(&id), true);
        match self.ask::<wire::ContainerGroups>(at, 0, DESCRIBE, &params).await {
            Ok(reply) => {
                let own = reply.container_groups.iter().find(|g| g.container_group_id == id.as_str());
                Ok(own.map(convert::events).unwrap_or_default())
            }
            Err(error) if error.kind == FaultKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn zones(&self, at: CallContext) -> Result<Option<Vec<ZoneReport>>, AdapterError> {
        within(at.timeout, self.look_at_zones(at)).await.map(Some)
    }

    async fn usage(&self, at: CallContext) -> Result<Option<AccountUsage>, AdapterError> {
        let reply = self.ask(at, 0, USAGE, &request::regional(&self.config.region)).await?;
        convert::usage(&reply).map(Some)
    }

    async fn price(&self, at: CallContext, query: PriceQuery) -> Result<Option<PricePerHour>, AdapterError> {
        let params = request::price(&self.config.region, &self.capability.gpu_sizes, &query)?;
        Ok(convert::price(&self.ask(at, 0, PRICE, &params).await?, &query))
    }
}

/// Sizes by vCPU thousandths and GiB halves (alibaba-eci.json, `cpu_memory_specs_all_regions`; some regions
/// sell finer ones, and the vendor rounds up and bills what it rounded to).
const SIZES: &[(u64, &[u64])] = &[
    (250, &[512, 1024]),
    (500, &[1024, 2048]),
    (1000, &[2048, 4096, 8192]),
    (2000, &[1024, 2048, 4096, 8192, 16_384]),
    (4000, &[2048, 4096, 8192, 16_384, 32_768]),
    (8000, &[4096, 8192, 16_384, 32_768, 65_536]),
    (12_000, &[12_288, 24_576, 49_152, 98_304]),
    (16_000, &[16_384, 32_768, 65_536, 131_072]),
    (24_000, &[24_576, 49_152, 98_304, 196_608]),
    (32_000, &[32_768, 65_536, 131_072, 262_144]),
    (52_000, &[98_304, 196_608, 393_216]),
    (64_000, &[131_072, 262_144, 524_288]),
];

/// What ECI has a parameter for. Absent: startup probes; host and headers of probes; dropping Linux
/// capabilities; group, non-root and privileged of init containers.
const FEATURES: &[Feature] = &[
    Feature::InitContainers,
    Feature::EmptyDir,
    Feature::EmptyDirMemory,
    Feature::EmptyDirSizeLimit,
    Feature::Nfs,
    Feature::Disk,
    Feature::DiskFsType,
    Feature::ConfigFile,
    Feature::SubPath,
    Feature::MountPropagation,
    Feature::Ports,
    Feature::PullAlways,
    Feature::PullNever,
    Feature::PullSecrets,
    Feature::Probes,
    Feature::Lifecycle,
    Feature::RunAsUser,
    Feature::RunAsGroup,
    Feature::RunAsNonRoot,
    Feature::ReadOnlyRootFilesystem,
    Feature::Privileged,
    Feature::CapabilitiesAdd,
    Feature::Terminal,
    Feature::TerminationGrace,
    Feature::ActiveDeadline,
    Feature::DnsPolicy,
    Feature::DnsConfig,
    Feature::HostAliases,
    Feature::Hostname,
    Feature::Windows,
    Feature::Arm64,
    Feature::EphemeralStorage,
    Feature::PublicIp,
    Feature::PublicIpBandwidth,
    Feature::Spot,
    Feature::ClientToken,
    Feature::Tags,
];

/// Most containers and volumes (alibaba-eci.json, constraints).
const CONTAINERS_MAX: usize = 20;
const VOLUMES_MAX: usize = 20;

fn capability(effect_bound: Duration, gpu_sizes: Vec<GpuSize>) -> Capability {
    let gpu = (!gpu_sizes.is_empty()).then_some(Feature::Gpu);
    let row = |(cpu, memory): &(u64, &[u64])| SizeRow {
        cpu: MilliCpu(*cpu),
        memory: memory.iter().map(|mib| MemoryMib(*mib)).collect(),
    };
    Capability {
        adapter: AdapterName::new(NAME).expect("invariant: the name above is a DNS label"),
        features: FEATURES.iter().copied().chain(gpu).map(|feature| (feature, Support::Native)).collect(),
        sizes: SIZES.iter().map(row).collect(),
        gpu_sizes,
        containers_max: CONTAINERS_MAX,
        volumes_max: VOLUMES_MAX,
        // A RAM user without permission gets an empty list (Alibaba ECI documentation, as read 2026-11).
        denies_silently: true,
        forgets_ended: true,
        effect_bound_ms: u64::try_from(effect_bound.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
#[path = "verb_tests.rs"]
mod verb_tests;

#[cfg(test)]
mod tests {
    use meridian_model::instance::Shape;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_vendors_table() {
        #[derive(serde::Deserialize)]
        struct Api {
            constraints: Constraints,
        }
        #[derive(serde::Deserialize)]
        struct Constraints {
            cpu_memory_specs_all_regions: std::collections::BTreeMap<String, Vec<f64>>,
        }
        let api: Api = serde_json::from_str(include_str!("fixtures/constraints.json")).unwrap();
        let table = api.constraints.cpu_memory_specs_all_regions;
        let ours = capability(Duration::from_secs(1), Vec::new()).sizes;
        assert_eq!(ours.len(), table.len());
        for row in ours {
            let gib: Vec<f64> = row.memory.iter().map(|m| m.gib()).collect();
            assert_eq!(table[&row.cpu.vcpu().to_string()], gib, "{}", row.cpu);
        }
    }

    #[test]
    fn rounding_follows_the_vendors_example() {
        // vendor-api README 4.5: 7 vCPU and 13 GiB becomes 8 and 16 by the coarse table.
        let ours = capability(Duration::from_secs(1), Vec::new());
        let wish = Shape { cpu: MilliCpu(7000), memory: MemoryMib(13 * 1024), gpu_type: None, gpu_count: 0 };
        let got = ours.round_up(&wish).unwrap();
        assert_eq!((got.cpu, got.memory), (MilliCpu(8000), MemoryMib(16 * 1024)));
    }

    #[test]
    fn gpu_is_declared_only_with_sizes() {
        assert!(!capability(Duration::from_secs(1), Vec::new()).has(Feature::Gpu));
    }
}
