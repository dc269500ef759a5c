//! The adapter to Tencent Cloud's container instances (EKSCI: TKE API 2018-05-25).
//!
//! A create has neither client token nor tags: the name is the only identity, a repeated create is a second
//! instance, and nothing here ever repeats one. Errors come with HTTP status 200 and are looked for in every
//! reply whatever its content type. `docs.md` beside this file lists capabilities, limits and quirks with
//! their sources.

mod config;
mod convert;
mod errors;
mod request;
mod sign;
mod sizes;
mod wire;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use config::Endpoint;
pub use config::{Config, EFFECT_BOUND_MS_DEFAULT, GpuSizeConfig};
use meridian_model::{
    capability::{Capability, Feature, GpuSize, Support},
    error::{Effect, FaultKind},
    ids::{AdapterName, CloudId, CloudName},
    quantity::PricePerHour,
    status::{Observed, ObservedEvent},
};
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;

use crate::{
    AccountUsage, AdapterError, CallContext, CreateCall, Cursor, Page, PriceQuery, RegionAdapter, VendorAction,
    ZoneReport,
    http::HttpClient,
    registry::{ConfigError, Configure},
};

const NAME: &str = "tencent-eksci";
const SERVICE: &str = "tke";
const API_VERSION: &str = "2018-05-25";
/// Exactly this, without a charset: it is signed, and the vendor compares it (API 3.0 documentation).
const CONTENT_TYPE: &str = "application/json";
const USER_AGENT: &str = concat!("meridian/", env!("CARGO_PKG_VERSION"));

/// Most containers and volumes in one instance. The vendor documents no number; these are Alibaba's, so that
/// a spec that passes here passes there. Not verified.
const CONTAINERS_MAX: usize = 20;
const VOLUMES_MAX: usize = 20;

/// Pages read to find every instance of one name. A name is made for one attempt, so one page is the rule;
/// more than this many foreign instances of the same name is an error, not an answer.
const FIND_PAGES_MAX: usize = 10;

/// The adapter for one account in one region.
#[derive(Debug)]
pub struct TencentEksci {
    endpoint: Endpoint,
    config: Config,
    capability: Arc<Capability>,
    /// The tenant's GPU names by the vendor's.
    gpu_names: BTreeMap<String, String>,
    http: HttpClient,
}

impl Configure for TencentEksci {
    type Config = Config;
    const SUBNETS_TELL_ZONES: bool = true;
    const EFFECT_BOUND_MIN: Duration = config::EFFECT_BOUND_MIN;

    fn configure(config: Config, http: HttpClient) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint()?;
        for (setting, value) in [("secretId", config.secret_id.as_str()), ("region", config.region.as_str())] {
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(ConfigError::new(setting, "must be visible ASCII characters without spaces"));
            }
        }
        if !endpoint.is_private() {
            tracing::warn!(
                host = %endpoint.host,
                "requests go over plain HTTP: whoever reads one can replay it under another action for five minutes"
            );
        }
        let gpu_sizes: Vec<GpuSize> = config.gpu_sizes.iter().cloned().map(GpuSize::from).collect();
        let gpu_names = gpu_sizes.iter().map(|g| (g.vendor_name.clone(), g.gpu_type.clone())).collect();
        let capability = Arc::new(capability(gpu_sizes, config.effect_bound()?));
        Ok(Self { endpoint, config, capability, gpu_names, http })
    }
}

/// What EKSCI can do: the fields of `CreateEKSContainerInstances`, no more.
fn capability(gpu_sizes: Vec<GpuSize>, effect_bound_ms: u64) -> Capability {
    let native = [
        Feature::InitContainers,
        Feature::Nfs,
        Feature::Disk,
        Feature::SubPath,
        Feature::MountPropagation,
        Feature::PullSecrets,
        Feature::Probes,
        Feature::CapabilitiesAdd,
        Feature::CapabilitiesDrop,
        Feature::DnsConfig,
        Feature::Gpu,
        Feature::PublicIp,
        Feature::PublicIpBandwidth,
    ];
    let ports = "every port of the instance's own address is reachable as the security groups allow; \
                 there is nothing to declare";
    let implied = [(Feature::Ports, Support::Implied(ports))];
    Capability {
        adapter: AdapterName::new(NAME).expect("invariant: the constant is a DNS label"),
        features: native.into_iter().map(|f| (f, Support::Native)).chain(implied).collect(),
        sizes: sizes::table(),
        gpu_sizes,
        containers_max: CONTAINERS_MAX,
        volumes_max: VOLUMES_MAX,
        effect_bound_ms,
        // Missing permission is the error `UnauthorizedOperation` (Tencent API 3.0 documentation, common codes).
        denies_silently: false,
        forgets_ended: true,
    }
}

/// Whether a call changes something, which decides what a failure says of its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Read,
    Write,
}

impl TencentEksci {
    fn known(&self) -> convert::Known<'_> {
        convert::Known { subnet_zones: &self.config.subnet_zones, gpu_names: &self.gpu_names }
    }

    fn create_request(&self, call: &CreateCall) -> Result<request::Request, AdapterError> {
        request::create(call, |gpu| {
            let size = self.capability.gpu_sizes.iter().find(|g| g.gpu_type.eq_ignore_ascii_case(gpu));
            size.map_or(gpu, |g| g.vendor_name.as_str())
        })
    }

    /// The signed HTTP request; pure.
    fn sign(&self, request: request::Request, timestamp: i64) -> Result<http::Request<Bytes>, AdapterError> {
        let to_sign = sign::ToSign {
            service: SERVICE,
            method: "POST",
            query: "",
            content_type: CONTENT_TYPE,
            host: &self.endpoint.host,
            payload: &request.body,
        };
        let mut signed = http::Request::post(self.endpoint.url.clone())
            .header(http::header::HOST, &self.endpoint.host)
            .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
            .header(http::header::USER_AGENT, USER_AGENT)
            .header(
                http::header::AUTHORIZATION,
                sign::authorization(&to_sign, &self.config.secret_id, &self.config.secret_key, timestamp),
            )
            .header("X-TC-Action", request.action)
            .header("X-TC-Version", API_VERSION)
            .header("X-TC-Region", self.config.region.as_str())
            .header("X-TC-Timestamp", timestamp)
            .header("X-TC-Language", "en-US");
        if let Some(token) = &self.config.token {
            let mut token = http::HeaderValue::try_from(token.expose_secret())
                .map_err(|e| request::refused("adapter.encode", e.to_string()))?;
            token.set_sensitive(true);
            signed = signed.header("X-TC-Token", token);
        }
        signed.body(Bytes::from(request.body)).map_err(|e| request::refused("adapter.encode", e.to_string()))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        at: CallContext,
        verb: Verb,
        request: request::Request,
    ) -> Result<T, AdapterError> {
        let request = self.sign(request, at.signed_at.unix_seconds())?;
        let reply = self.http.send(request, at.timeout).await.map_err(|e| match verb {
            Verb::Read => e.of_read(),
            Verb::Write => e.of_write(),
        })?;
        read_reply(reply.status().as_u16(), reply.body(), verb)
    }

    async fn instances(&self, at: CallContext, request: request::Request) -> Result<Page, AdapterError> {
        let reply: wire::Described = self.call(at, Verb::Read, request).await?;
        let items =
            reply.eks_cis.into_iter().map(|ci| convert::instance(ci, self.known())).collect::<Result<_, _>>()?;
        Ok(Page { items, next: None, total: reply.total_count })
    }

    /// One page from `offset`, with the offset of the next page unless it is the last.
    async fn page(
        &self,
        at: CallContext,
        offset: usize,
        request: request::Request,
    ) -> Result<(Page, Option<usize>), AdapterError> {
        let page = self.instances(at, request).await?;
        let read = offset.saturating_add(page.items.len());
        let more = match page.total {
            Some(total) => u64::try_from(read).is_ok_and(|read| read < total),
            None => page.items.len() >= request::PAGE_SIZE,
        };
        if more && page.items.is_empty() {
            let text = format!("an empty page at {offset} of {} instances", page.total.unwrap_or_default());
            return Err(convert::unexpected("adapter.incomplete-list", text));
        }
        Ok((page, more.then_some(read)))
    }
}

/// A reply's content, or the error it carries; total, and pure but for the receipt.
fn read_reply<T: DeserializeOwned>(status: u16, body: &[u8], verb: Verb) -> Result<T, AdapterError> {
    let effect_of = |unknown: Effect| match verb {
        Verb::Read => Effect::NotApplied,
        Verb::Write => unknown,
    };
    let unreadable =
        |kind, code: String, message: String| AdapterError::new(kind, effect_of(Effect::Unknown), code, message);
    let envelope = serde_json::from_slice::<wire::Envelope<'_>>(body)
        .and_then(|e| Ok((serde_json::from_str::<wire::Common>(e.response.get())?, e.response)));
    let (common, response) = match envelope {
        Ok(read) => read,
        Err(_) if status != 200 => {
            let start = String::from_utf8_lossy(body.get(..body.len().min(ERROR_BODY_SHOWN)).unwrap_or_default());
            return Err(unreadable(errors::of_status(status), format!("http.{status}"), start.into_owned()));
        }
        Err(error) => {
            return Err(unreadable(FaultKind::Unexpected, "adapter.unreadable-reply".to_owned(), error.to_string()));
        }
    };
    if let Some(error) = common.error {
        let (kind, effect) = errors::of_write(&error.code);
        // A status other than 200 is not the vendor's own answer, whatever the body says: no proof.
        let effect = if status == 200 { effect } else { Effect::Unknown };
        return Err(
            AdapterError::new(kind, effect_of(effect), error.code, error.message).with_request_id(common.request_id)
        );
    }
    if status != 200 {
        let text = "a reply without an error under this status".to_owned();
        return Err(
            unreadable(errors::of_status(status), format!("http.{status}"), text).with_request_id(common.request_id)
        );
    }
    crate::receipt::note(common.request_id.as_deref());
    serde_json::from_str(response.get()).map_err(|error| {
        unreadable(FaultKind::Unexpected, "adapter.unreadable-reply".to_owned(), error.to_string())
            .with_request_id(common.request_id)
    })
}

/// A create names no instance: what it did not find is a part of the network of this very place, and another place
/// has its own.
fn misplaced(mut error: AdapterError) -> AdapterError {
    if error.kind == FaultKind::NotFound {
        error.kind = FaultKind::WrongPlace;
    }
    error
}

/// Bytes of a foreign error page kept as text: enough to recognise what sent it.
const ERROR_BODY_SHOWN: usize = 200;

/// Calls a minute: 20 a second and action (vendor-api README 1, from the actions' documents).
const CALLS_PER_MINUTE: u32 = 20 * 60;

const ACTIONS: &[VendorAction] = &[
    VendorAction { name: "CreateEKSContainerInstances", verbs: &["create"], calls_per_minute: CALLS_PER_MINUTE },
    VendorAction { name: "DeleteEKSContainerInstances", verbs: &["delete"], calls_per_minute: CALLS_PER_MINUTE },
    VendorAction {
        name: "DescribeEKSContainerInstances",
        verbs: &["describe", "find", "list"],
        calls_per_minute: CALLS_PER_MINUTE,
    },
    VendorAction { name: "DescribeEKSContainerInstanceEvent", verbs: &["events"], calls_per_minute: CALLS_PER_MINUTE },
];

impl RegionAdapter for TencentEksci {
    fn capability(&self) -> &Arc<Capability> {
        &self.capability
    }

    fn actions(&self) -> &'static [VendorAction] {
        ACTIONS
    }

    async fn create(&self, at: CallContext, call: CreateCall) -> Result<CloudId, AdapterError> {
        // Placement has asked before; a field that would be dropped is refused here once more.
        if let Some(refusal) = self.capability.refusals(&call.spec.spec).into_iter().next() {
            return Err(request::refused("adapter.unsupported", format!("{}: {}", refusal.pointer, refusal.reason)));
        }
        let request = self.create_request(&call)?;
        let reply: wire::Created = self.call(at, Verb::Write, request).await.map_err(misplaced)?;
        let unknown = |text: String| AdapterError::new(FaultKind::Unexpected, Effect::Unknown, "adapter.no-id", text);
        match reply.eks_ci_ids.as_slice() {
            [id] => CloudId::new(id).map_err(|e| unknown(e.to_string())),
            ids => Err(unknown(format!("{} ids in the reply to a create of one instance", ids.len()))),
        }
    }

    async fn describe(&self, at: CallContext, ids: Vec<CloudId>) -> Result<Vec<Observed>, AdapterError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let asked = |page: Page| page.items.into_iter().filter(|i| i.id.as_ref().is_some_and(|id| ids.contains(id)));
        match self.instances(at, request::describe(&ids)?).await {
            Ok(page) => Ok(asked(page).collect()),
            Err(error) if error.kind == FaultKind::NotFound && ids.len() == 1 => Ok(Vec::new()),
            // The vendor may answer for all ids at once that one is not there; then each is asked alone.
            Err(error) if error.kind == FaultKind::NotFound => {
                let one_by_one = async {
                    let mut found = Vec::new();
                    for id in &ids {
                        match self.instances(at, request::describe(std::slice::from_ref(id))?).await {
                            Ok(page) => found.extend(asked(page)),
                            Err(error) if error.kind == FaultKind::NotFound => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(found)
                };
                within(at, one_by_one).await
            }
            Err(error) => Err(error),
        }
    }

    async fn find(&self, at: CallContext, name: CloudName) -> Result<Vec<Observed>, AdapterError> {
        let pages = async {
            let (mut found, mut offset) = (Vec::new(), 0);
            for _ in 0..FIND_PAGES_MAX {
                let (page, next) = self.page(at, offset, request::find(name.as_str(), offset)?).await?;
                // Whether the vendor's filter matches whole names is not documented.
                found.extend(page.items.into_iter().filter(|i| i.name == name.as_str()));
                match next {
                    Some(next) => offset = next,
                    None => return Ok(found),
                }
            }
            let text = format!("more than {FIND_PAGES_MAX} pages of instances named {name}");
            Err(convert::unexpected("adapter.incomplete-list", text))
        };
        within(at, pages).await
    }

    async fn list(&self, at: CallContext, from: Option<Cursor>) -> Result<Page, AdapterError> {
        let offset = match &from {
            None => 0,
            Some(Cursor(text)) => {
                text.parse().map_err(|_| request::refused("adapter.cursor", format!("{text:?} is not an offset")))?
            }
        };
        let (page, next) = self.page(at, offset, request::list(offset)?).await?;
        Ok(Page { next: next.map(|n| Cursor(n.to_string())), ..page })
    }

    async fn delete(&self, at: CallContext, id: CloudId) -> Result<(), AdapterError> {
        match self.call::<wire::Nothing>(at, Verb::Write, request::delete(&id)?).await {
            Err(error) if error.kind == FaultKind::NotFound && error.effect == Effect::NotApplied => Ok(()),
            other => other.map(|wire::Nothing {}| ()),
        }
    }

    async fn events(&self, at: CallContext, id: CloudId) -> Result<Vec<ObservedEvent>, AdapterError> {
        let reply: wire::Events = self.call(at, Verb::Read, request::events(&id)?).await?;
        Ok(reply.events.into_iter().map(convert::event).collect())
    }

    /// The API has no zones: a subnet implies one.
    async fn zones(&self, _: CallContext) -> Result<Option<Vec<ZoneReport>>, AdapterError> {
        Ok(None)
    }

    /// The API shows no quota.
    async fn usage(&self, _: CallContext) -> Result<Option<AccountUsage>, AdapterError> {
        Ok(None)
    }

    /// The API has no price action; the operator's price book says what an instance costs.
    async fn price(&self, _: CallContext, _: PriceQuery) -> Result<Option<PricePerHour>, AdapterError> {
        Ok(None)
    }
}

/// Several reads under the limit of one call.
async fn within<T>(
    at: CallContext,
    reads: impl Future<Output = Result<T, AdapterError>> + Send,
) -> Result<T, AdapterError> {
    tokio::time::timeout(at.timeout, reads).await.unwrap_or_else(|_| {
        let text = format!("not all pages within {} ms", at.timeout.as_millis());
        Err(AdapterError::new(FaultKind::Lost, Effect::NotApplied, "transport.timeout", text))
    })
}

#[cfg(test)]
mod tests;
