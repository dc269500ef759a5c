//! Adapters to the vendors' container-instance APIs: the only crate that knows vendor wire formats.
//!
//! An adapter turns a [`CreateCall`] and the few other verbs of [`RegionAdapter`] into signed vendor requests
//! and vendor replies into the unified model. It sees a resolved spec, a client token and a time; never a
//! tenant, a quota or a policy. It keeps no state, retries nothing and reads no clock: the time of the
//! signature and the nonce come with each call ([`CallContext`]). The simulated clouds are unknown here; the
//! only difference from production is the endpoint URL.

pub mod alibaba_eci;
pub mod conformance;
pub mod dial;
mod error;
pub mod http;
pub mod receipt;
pub mod registry;
pub mod tencent_eksci;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

pub use error::{AdapterError, MESSAGE_LEN_MAX};
use meridian_model::{
    capability::Capability,
    ids::{ClientToken, CloudId, CloudName, SubnetId, ZoneId},
    instance::{CapacityType, InstanceSpec, Labels, Shape},
    quantity::{MilliCpu, PricePerHour},
    status::{Observed, ObservedEvent},
    time::Time,
};
use secrecy::SecretString;
use tower::util::BoxCloneSyncService;

/// What every call needs from outside: the clock and randomness of the caller.
#[derive(Debug, Clone, Copy)]
pub struct CallContext {
    /// Time the vendor's signature bears. For a create it is the time at which the attempt was journalled, so
    /// that a request sent too late is refused by the vendor.
    pub signed_at: Time,
    /// Unique per request; becomes the signature nonce where the vendor has one.
    pub nonce: u128,
    /// Longest time the whole call may take. After it the outcome of a call that changes something is unknown.
    pub timeout: Duration,
}

/// A spec in which every profile was resolved for one backend.
#[derive(Debug, Clone)]
pub struct ResolvedSpec {
    /// The wish, with images already rewritten for the region.
    pub spec: InstanceSpec,
    /// Vendor ids of the network.
    pub network: ResolvedNetwork,
    /// Registry credentials of `imagePullSecrets`.
    pub credentials: Vec<RegistryCredential>,
}

/// The vendor's ids for a network profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedNetwork {
    /// VPC; empty where the vendor derives it from the subnet.
    pub vpc_id: String,
    /// Security groups.
    pub security_group_ids: Vec<String>,
    /// The subnet (vSwitch) of each zone.
    pub subnets: BTreeMap<ZoneId, SubnetId>,
}

/// Credentials of an image registry.
#[derive(Debug, Clone)]
pub struct RegistryCredential {
    /// Registry host.
    pub server: String,
    /// User.
    pub username: String,
    /// Password.
    pub password: SecretString,
}

/// One create.
#[derive(Debug, Clone)]
pub struct CreateCall {
    /// What the instance is called at the vendor; the only carrier of identity where there are no tags.
    pub name: CloudName,
    /// Recognises a repeated create where the vendor honours one.
    pub token: ClientToken,
    /// What to run.
    pub spec: Arc<ResolvedSpec>,
    /// Where.
    pub zone: ZoneId,
    /// Size to buy, one the vendor sells ([`Capability::round_up`]).
    pub shape: Shape,
    /// `MERIDIAN_*` marks: environment variables of every container, and tags where the vendor has them.
    pub marks: Labels,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The instances, in the vendor's order.
    pub items: Vec<Observed>,
    /// Where the next page starts; none on the last.
    pub next: Option<Cursor>,
    /// How many instances the vendor says there are in all, where it says so.
    pub total: Option<u64>,
}

/// Where a page starts, in the adapter's own notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// What a vendor says of one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneReport {
    /// Zone.
    pub zone: ZoneId,
    /// Whether it sells at all now.
    pub on_sale: bool,
    /// Vendor names of the sizes on sale, where the vendor lists them.
    pub sizes: Vec<String>,
}

/// What an account uses and may use in its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountUsage {
    /// Processor time in use.
    pub cpu_used: MilliCpu,
    /// Processor time allowed.
    pub cpu_max: MilliCpu,
}

/// What a vendor counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VendorAction {
    /// The vendor's name of it. Backends of one account and region that have an action of one name share its limit.
    pub name: &'static str,
    /// Verbs that send it ([`Request::verb`]); one call of a verb may be several requests where the vendor pages.
    pub verbs: &'static [&'static str],
    /// Calls a minute that the vendor publishes.
    pub calls_per_minute: u32,
}

/// A vendor's container-instance API in one region under one account.
///
/// Every verb ends as done, as an error whose effect is `NotApplied`, or as one whose effect is `Unknown`;
/// see [`AdapterError`]. All verbs are cancel-safe in the sense that dropping the future leaves nothing
/// behind in the adapter, but a create or delete that was dropped has an unknown outcome.
pub trait RegionAdapter: Debug + Send + Sync + 'static {
    /// What this backend can do.
    fn capability(&self) -> &Arc<Capability>;

    /// The actions by which the vendor counts calls, and the verbs that are made of them. A verb in none of them sends
    /// nothing.
    fn actions(&self) -> &'static [VendorAction];

    /// Creates one instance; returns the vendor's id, which is not yet capacity.
    fn create(&self, at: CallContext, call: CreateCall) -> impl Future<Output = Result<CloudId, AdapterError>> + Send;

    /// Reads instances by id, at most [`DESCRIBE_IDS_MAX`]; unknown ids are left out of the answer.
    fn describe(
        &self,
        at: CallContext,
        ids: Vec<CloudId>,
    ) -> impl Future<Output = Result<Vec<Observed>, AdapterError>> + Send;

    /// Every instance that carries exactly this name; the basis of the proof of absence.
    fn find(
        &self,
        at: CallContext,
        name: CloudName,
    ) -> impl Future<Output = Result<Vec<Observed>, AdapterError>> + Send;

    /// One page of all instances of the account in the region.
    fn list(&self, at: CallContext, from: Option<Cursor>) -> impl Future<Output = Result<Page, AdapterError>> + Send;

    /// Deletes one instance; one that does not exist is success.
    fn delete(&self, at: CallContext, id: CloudId) -> impl Future<Output = Result<(), AdapterError>> + Send;

    /// The latest events of one instance, classified.
    fn events(
        &self,
        at: CallContext,
        id: CloudId,
    ) -> impl Future<Output = Result<Vec<ObservedEvent>, AdapterError>> + Send;

    /// What the vendor says of its zones; `None` where it has no such call.
    fn zones(&self, at: CallContext) -> impl Future<Output = Result<Option<Vec<ZoneReport>>, AdapterError>> + Send;

    /// What the account uses; `None` where the vendor has no such call.
    fn usage(&self, at: CallContext) -> impl Future<Output = Result<Option<AccountUsage>, AdapterError>> + Send;

    /// Hourly price of a size in a zone; `None` where the vendor has no such call.
    fn price(
        &self,
        at: CallContext,
        query: PriceQuery,
    ) -> impl Future<Output = Result<Option<PricePerHour>, AdapterError>> + Send;
}

/// Most ids in one [`RegionAdapter::describe`]: the smallest limit among the vendors (Alibaba's 20).
pub const DESCRIBE_IDS_MAX: usize = 20;

/// What a price is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceQuery {
    /// Zone.
    pub zone: ZoneId,
    /// Size the vendor sells.
    pub shape: Shape,
    /// On demand or spot.
    pub capacity: CapacityType,
}

/// A verb of [`RegionAdapter`] with its arguments, the request type of the region stack.
#[derive(Debug, Clone)]
pub enum Request {
    /// [`RegionAdapter::create`].
    Create(Box<CreateCall>),
    /// [`RegionAdapter::describe`].
    Describe(Vec<CloudId>),
    /// [`RegionAdapter::find`].
    Find(CloudName),
    /// [`RegionAdapter::list`].
    List(Option<Cursor>),
    /// [`RegionAdapter::delete`].
    Delete(CloudId),
    /// [`RegionAdapter::events`].
    Events(CloudId),
    /// [`RegionAdapter::zones`].
    Zones,
    /// [`RegionAdapter::usage`].
    Usage,
    /// [`RegionAdapter::price`].
    Price(PriceQuery),
}

impl Request {
    /// The verb's name, for spans, metrics and limits.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Describe(_) => "describe",
            Self::Find(_) => "find",
            Self::List(_) => "list",
            Self::Delete(_) => "delete",
            Self::Events(_) => "events",
            Self::Zones => "zones",
            Self::Usage => "usage",
            Self::Price(_) => "price",
        }
    }

    /// Changes something at the vendor.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Delete(_))
    }
}

/// One call of the region stack.
#[derive(Debug, Clone)]
pub struct Call {
    /// Time, nonce and limit.
    pub at: CallContext,
    /// Verb and arguments.
    pub request: Request,
}

/// The answer to a [`Request`], variant by variant.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Request::Create`].
    Created(CloudId),
    /// To [`Request::Describe`] and [`Request::Find`].
    Instances(Vec<Observed>),
    /// To [`Request::List`].
    Page(Page),
    /// To [`Request::Delete`].
    Deleted,
    /// To [`Request::Events`].
    Events(Vec<ObservedEvent>),
    /// To [`Request::Zones`].
    Zones(Option<Vec<ZoneReport>>),
    /// To [`Request::Usage`].
    Usage(Option<AccountUsage>),
    /// To [`Request::Price`].
    Price(Option<PricePerHour>),
}

/// An adapter as a tower service, with its type hidden.
pub type BoxAdapter = BoxCloneSyncService<Call, Reply, AdapterError>;

/// The bridge from [`RegionAdapter`] to tower.
#[derive(Debug)]
pub struct AdapterService<A>(Arc<A>);

impl<A: RegionAdapter> AdapterService<A> {
    /// Wraps an adapter and hides its type.
    pub fn boxed(adapter: A) -> BoxAdapter {
        BoxCloneSyncService::new(Self(Arc::new(adapter)))
    }
}

impl<A> Clone for AdapterService<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: RegionAdapter> tower::Service<Call> for AdapterService<A> {
    type Response = Reply;
    type Error = AdapterError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Reply, AdapterError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Call { at, request }: Call) -> Self::Future {
        let adapter = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(match request {
                Request::Create(call) => Reply::Created(adapter.create(at, *call).await?),
                Request::Describe(ids) => Reply::Instances(adapter.describe(at, ids).await?),
                Request::Find(name) => Reply::Instances(adapter.find(at, name).await?),
                Request::List(from) => Reply::Page(adapter.list(at, from).await?),
                Request::Delete(id) => {
                    adapter.delete(at, id).await?;
                    Reply::Deleted
                }
                Request::Events(id) => Reply::Events(adapter.events(at, id).await?),
                Request::Zones => Reply::Zones(adapter.zones(at).await?),
                Request::Usage => Reply::Usage(adapter.usage(at).await?),
                Request::Price(query) => Reply::Price(adapter.price(at, query).await?),
            })
        })
    }
}
