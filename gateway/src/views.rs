//! The public resources, as every dialect and the console read them. Pure data; built in `status` and
//! `operation`, serialised by the dialects.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use meridian_model::{
    capability::Capability,
    error::{FieldError, Problem},
    ids::{
        AdapterName, BackendId, CloudId, InstanceName, InstanceUid, OperationId, ProjectName, RegionId, TenantId,
        ZoneId,
    },
    instance::{CapacityType, InstanceSpec, Labels, Shape},
    operation::{AttemptView, Charge, Decision, OperationState, QuotaLimits, RankedCandidate},
    quantity::PricePerHour,
    status::{Condition, ContainerStatus, Phase},
    time::Time,
};
use serde::Serialize;
use serde_json::Value;

use crate::audit::{chain::SignedHead, record::AuditRecord};

/// A page of the audit log of one gateway, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The records.
    pub items: Vec<AuditRecord>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
    /// Name of the log that was read; each gateway writes one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Whether no other gateway has records of these tenants.
    pub complete: bool,
    /// Newest signed heads of the logs, this one's first: for `meridian audit verify --heads`. Only for the platform.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<SignedHead>,
}

/// An instance: wish and what was last seen of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// `tenants/{tenant}/instances/{instance}`.
    pub name: String,
    /// Never reused.
    pub uid: InstanceUid,
    /// Owner.
    pub tenant: TenantId,
    /// Labels.
    pub labels: Labels,
    /// The project it is charged to; absent: the tenant itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Annotations.
    pub annotations: Labels,
    /// Raised by each change of the spec.
    pub generation: u32,
    /// Changes whenever anything in the resource but times of observation does.
    pub etag: String,
    /// When the create was accepted.
    pub create_time: Time,
    /// Last change of the record.
    pub update_time: Time,
    /// The wish, defaults filled in.
    pub spec: Arc<InstanceSpec>,
    /// What was last seen.
    pub status: InstanceStatus,
}

/// What was last seen of an instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Summary.
    pub phase: Phase,
    /// CamelCase reason of the phase, empty if none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Text for people, empty if none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Adapter of the backend it is at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterName>,
    /// Backend it is at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendId>,
    /// Region it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionId>,
    /// Zone it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneId>,
    /// The vendor's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_id: Option<CloudId>,
    /// Address in the private network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    /// Public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<String>,
    /// Size the vendor gave and bills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Price the placement reckoned with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<PricePerHour>,
    /// Containers, init containers first.
    pub containers: Vec<ContainerStatus>,
    /// Conditions: `Placed`, `Ready`; `Lost` when the vendor took it away, `Clearing` while attempts that were given up
    /// are removed.
    pub conditions: Vec<Condition>,
    /// When it first ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_time: Option<Time>,
    /// Attempts made to place it.
    pub attempts: usize,
    /// The operation that made it.
    pub operation: Option<OperationId>,
    /// When the backend showed this; none before it was seen there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// The region's data is older than its limit, or the ledger has been away for some seconds; what changed since is
    /// not shown.
    pub stale: bool,
}

/// An instance in the fleet snapshot, with its JSON made once, when it is first asked for.
#[derive(Debug)]
pub struct Rendered {
    /// The tenant's short name for it.
    pub short_name: InstanceName,
    /// The resource.
    pub instance: Instance,
    json: OnceLock<Bytes>,
}

impl Rendered {
    /// Wraps an instance.
    #[must_use]
    pub fn new(short_name: InstanceName, instance: Instance) -> Self {
        Self { short_name, instance, json: OnceLock::new() }
    }

    /// The resource as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.json
            .get_or_init(|| {
                // The view holds nothing that JSON cannot: string keys, finite scores are not part of it.
                serde_json::to_vec(&self.instance).map(Bytes::from).unwrap_or_else(|_| Bytes::from_static(b"{}"))
            })
            .clone()
    }
}

/// A page of any collection.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Position of the last item when there is more; the dialect seals it into a token.
    #[serde(skip)]
    pub next_after: Option<String>,
}

/// A page of instances with the honesty a partial view needs.
#[derive(Debug, Clone, Default)]
pub struct InstancePage {
    /// The items.
    pub items: Vec<Arc<Rendered>>,
    /// Position of the last item when there is more.
    pub next_after: Option<String>,
    /// Up to which write the tenant's instances are shown; none over all tenants, whose writes are counted apart.
    pub revision: Option<u64>,
    /// Regions with no usable data, as `regions/{region}`; over all tenants also those, as `tenants/{tenant}`.
    pub unreachable: Vec<String>,
    /// One row per backend.
    pub freshness: Arc<Vec<Freshness>>,
    /// Age of what is known of other gateways' writes; none when there are no others.
    pub ledger: Option<LedgerFreshness>,
}

/// How old what is known of other gateways' writes is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerFreshness {
    /// `ledger`.
    pub source: &'static str,
    /// Milliseconds since the ledger last told what was written.
    pub age_ms: u64,
    /// `fresh` or `stale`.
    pub state: FreshnessState,
}

/// How old the data of one region's backend is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// Region.
    pub region: RegionId,
    /// Backend.
    pub backend: BackendId,
    /// Start of the last complete sweep; none if there was none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Milliseconds since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// `poll`.
    pub source: &'static str,
    /// `fresh`, `stale` or `unreachable`.
    pub state: FreshnessState,
}

/// State of a backend's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FreshnessState {
    /// Younger than `staleAfter`.
    Fresh,
    /// Older, but the backend answers or did until recently.
    Stale,
    /// The backend does not answer.
    Unreachable,
}

/// A long-running operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// `tenants/{tenant}/operations/{operation}`.
    pub name: String,
    /// `create` or `delete`.
    pub verb: &'static str,
    /// The instance it is about.
    pub target: String,
    /// Nothing will change any more.
    pub done: bool,
    /// `claimed`, `placing`, `succeeded`, `failed` or `cancelled`; of a delete `removing` or `succeeded`.
    pub state: &'static str,
    /// What became of an attempt cannot be found out any more; the operation waits for a person to settle it.
    #[serde(skip_serializing_if = "is_false")]
    pub undetermined: bool,
    /// Where it stands.
    pub progress: Progress,
    /// What was tried, in order.
    pub attempts: Vec<AttemptView>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// What it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Box<Instance>>,
    /// When it was accepted.
    pub create_time: Time,
    /// Last change.
    pub update_time: Time,
    /// To be sent as `minRevision` of a read that shall show what the operation did so far, at any gateway.
    pub revision: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Attempts that ended.
    pub done: usize,
    /// Attempts that may be made in all.
    pub total: usize,
    /// Text for people.
    pub message: String,
}

/// What a mutation would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// The spec with defaults filled in; none for a delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Arc<InstanceSpec>>,
    /// Where it would be placed; none for a delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Decision>,
    /// What the quota would hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<FieldError>,
    /// How each rule of the policies judged, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyResult>,
}

/// How a rule of a policy judged a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyResult {
    /// Path of the policy: `policies/NAME` or `tenants/TENANT/policies/NAME`.
    pub policy: String,
    /// Id of the rule.
    pub rule: String,
    /// `enforce`, `warn` or `audit`.
    pub mode: String,
    /// Whether it held.
    pub held: bool,
    /// Units it cost.
    pub cost: u64,
    /// The most units it can cost.
    pub cost_max: u64,
}

impl PolicyResult {
    /// The view of a judgement.
    #[must_use]
    pub fn of(judged: &meridian_policies::rules::Judged) -> Self {
        Self {
            policy: judged.policy.to_string(),
            rule: judged.rule.to_string(),
            mode: judged.mode.as_str().to_owned(),
            held: judged.held,
            cost: judged.cost,
            cost_max: judged.cost_max,
        }
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `policies/{policy}` or `tenants/{tenant}/policies/{policy}`.
    pub name: String,
    /// What its operators tell it by.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// How often it was changed; of one that the API made, as the next three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What `If-Match` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<Time>,
    /// When it was changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_time: Option<Time>,
    /// Where it is declared, and so where it is changed: `the API`, or a file.
    pub source: String,
    /// Most units that judging one request by it costs.
    pub cost_max: u64,
    /// What is declared of it, as the `spec` of a document of kind Policy.
    pub spec: Value,
}

/// What policies would change for requests that were made before. Of a request is kept what was made of it, not who made
/// it: rules see the principal `recorded` in the role `operator`, and defaults of then are in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTest {
    /// Requests that were judged.
    pub requests: u64,
    /// When the oldest of them was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Time>,
    /// When the newest was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
    /// There are more requests than were judged.
    pub truncated: bool,
    /// Requests that pass, and would be denied.
    pub denied: u64,
    /// Requests that would be denied if they were made now, and would pass.
    pub passed: u64,
    /// Requests that would be warned of anew.
    pub warned: u64,
    /// Requests that would be written to otherwise.
    pub written: u64,
    /// The rules that would judge otherwise.
    pub rules: Vec<RuleTest>,
    /// The first 200 requests for which anything would change.
    pub changes: Vec<TestedRequest>,
}

/// For how many requests a rule would judge otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleTest {
    /// Path of the policy.
    pub policy: String,
    /// Id of the rule.
    pub rule: String,
    /// `enforce`, `warn` or `audit`.
    pub mode: String,
    /// Requests of which it would not hold any more.
    pub broken: u64,
    /// Requests of which it would hold again, or would not be asked.
    pub mended: u64,
}

/// A request for which something would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestedRequest {
    /// The instance that was asked for.
    pub name: String,
    /// When.
    pub create_time: Time,
    /// `denied`, `passed`, or `same`.
    pub verdict: &'static str,
    /// Rules that would not hold any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<TestedRule>,
    /// Rules that would hold again, or would not be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<TestedRule>,
    /// Fields that would be written otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<TestedWrite>,
}

/// A rule that does not hold of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestedRule {
    /// Path of the policy.
    pub policy: String,
    /// Id of the rule.
    pub rule: String,
    /// `enforce`, `warn` or `audit`.
    pub mode: String,
    /// JSON pointer into the request.
    pub pointer: String,
    /// What the caller would be told.
    pub message: String,
}

/// A field that would be written otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestedWrite {
    /// JSON pointer into the request.
    pub pointer: String,
    /// Its value in force, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its value then, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Why an instance is where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The instance.
    pub name: String,
    /// State of its operation.
    pub state: OperationState,
    /// The candidate in use, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<RankedCandidate>,
    /// The plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Arc<Decision>>,
    /// What was tried, in order.
    pub attempts: Vec<AttemptView>,
    /// What the tenant's quota holds for it.
    pub charge: Charge,
    /// The tenant's quota now.
    pub quota: Quota,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// Limits and usage of a tenant, or of a project of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// `tenants/{tenant}/quotas/default`, or with a project's name.
    pub name: String,
    /// The quota that this one is a part of; absent: the tenant's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Limits; what is absent is not limited.
    pub limits: QuotaLimits,
    /// What is charged now; absent while the ledger cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Charge>,
    /// What it has and uses by resource and place; empty where the quota is not divided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<QuotaLine>,
    /// What it may spend in a month, and has spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<QuotaBudget>,
    /// `lowerPriority` or `any` when it takes back what others borrow of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<&'static str>,
    /// What is taken back is taken from the lowest first; absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// When each line, and the budget, will be used up if things go on as they did in the last hour.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forecast: Vec<QuotaForecast>,
}

/// When a line of a quota will be used up, as this gateway's looks of the last hour tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaForecast {
    /// The resource, and after `@` the place where it counts; or `budget`.
    pub line: String,
    /// What is left of it, in the resource's canonical text.
    pub left: String,
    /// How much less that becomes in an hour.
    pub per_hour: String,
    /// When nothing will be left; null when that cannot be told.
    pub exhaust_time: Option<Time>,
    /// Why it cannot be told: `too-few-samples`, `not-falling`, `too-far` or, of a budget, `not-this-month`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// Who uses most of a quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaConsumers {
    /// `tenants/{tenant}/quotas/{project}/consumers`.
    pub name: String,
    /// The resource, and after `@` the place where it counts.
    pub line: String,
    /// What all of them use, in the resource's canonical text.
    pub used: String,
    /// How many instances that is.
    pub instances: usize,
    /// Those that use most, the greatest first.
    pub items: Vec<QuotaConsumer>,
}

/// What one instance uses of a quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaConsumer {
    /// `tenants/{tenant}/instances/{instance}`.
    pub name: String,
    /// The project that it is charged to; absent: the tenant itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// What it is charged.
    pub used: String,
    /// Of all that is used, percent, rounded down.
    pub percent: u64,
    /// When it was asked for.
    pub create_time: Time,
}

/// The money of one node of a quota tree in the present month (UTC), in currency units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaBudget {
    /// Creates are refused for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard: Option<String>,
    /// Only warned of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft: Option<String>,
    /// `committed` or `accrued`.
    pub mode: &'static str,
    /// Spent so far.
    pub spent: String,
    /// Spent in the month before.
    pub last_month: String,
    /// What runs costs per hour.
    pub cost_per_hour: String,
    /// What will be spent by the month's end if everything runs on.
    pub month_end: String,
    /// What a month of 31 days costs if everything runs on.
    pub later_month: String,
    /// `within`, `soft-passed` or `hard-reached`, by what is spent.
    pub state: &'static str,
}

/// A resource in a place, on one node of a quota tree. Amounts are in the resource's canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaLine {
    /// The resource, and after `@` the place where it counts.
    pub line: String,
    /// The node's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nominal: Option<String>,
    /// Most that it may borrow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub borrowing_limit: Option<String>,
    /// Most that it lends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lending_limit: Option<String>,
    /// Most that it and everything below it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Held back for failovers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_reserve: Option<String>,
    /// What the node itself uses.
    pub own: String,
    /// What it and everything below it use.
    pub used: String,
    /// What of that is borrowed.
    pub borrowed: String,
    /// What others use of the node's.
    pub lent: String,
    /// What a create could still take; absent where nothing limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<String>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// `tenants/{tenant}`.
    pub name: String,
    /// What its operators tell it by.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// How often it was changed; of one that the API made, as the next three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What `If-Match` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<Time>,
    /// When it was changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_time: Option<Time>,
    /// Where it is declared, and so where it is changed: `the API`, `the configuration`, or a file.
    pub source: String,
    /// Limits and usage.
    pub quota: Quota,
    /// Regions it may use; all when empty.
    pub regions: Vec<RegionId>,
    /// Adapters it may use; all when empty.
    pub providers: Vec<AdapterName>,
    /// What is declared of it, as the `spec` of a document of kind Tenant.
    pub spec: Value,
}

/// An API key. Its secret is in the answer that makes or rotates it, and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// `tenants/{tenant}/keys/{key}`.
    pub name: String,
    /// Its public part.
    pub id: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is trusted with.
    pub role: &'static str,
    /// What it makes is in this project or below it, and in this one where the request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The only permissions of the role that it has; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<&'static str>>,
    /// Whose key it is; its own principal when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// It has ended.
    pub expired: bool,
    /// Until when the secret before the last rotation is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_secret_until: Option<Time>,
    /// When it was made; absent for one that is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<Time>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Where it is declared, and so where it is changed.
    pub source: String,
    /// What `If-Match` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The whole key, in the answer that makes or rotates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ShownOnce>,
}

/// A secret on its way to who asked for it; nobody else sees it.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct ShownOnce(pub String);

impl std::fmt::Debug for ShownOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShownOnce")
    }
}

/// A principal that is no person and owns keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccount {
    /// `tenants/{tenant}/serviceAccounts/{account}`.
    pub name: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The most that its keys may be trusted with.
    pub role: &'static str,
    /// What its keys make is in this project or below it, and in this one where neither the request nor the key names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// When it ends, and its keys with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// It has ended.
    pub expired: bool,
    /// When it was made.
    pub create_time: Time,
    /// Who made it.
    pub created_by: String,
    /// What `If-Match` takes.
    pub etag: String,
}

/// Who a credential speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WhoAmI {
    /// The tenant it belongs to; absent for the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Who acts.
    pub principal: String,
    /// Its role.
    pub role: &'static str,
    /// What it makes is in this project or below it, and in this one where the request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What it may do.
    pub permissions: Vec<&'static str>,
}

/// One backend in its region.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Region {
    /// `regions/{region}`.
    pub name: String,
    /// Backends there.
    pub backends: Vec<BackendStatus>,
}

/// Health of one backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// Backend.
    pub backend: BackendId,
    /// Its adapter.
    pub adapter: AdapterName,
    /// Age of its data.
    pub freshness: Freshness,
    /// State of the breaker for creates and deletes.
    pub write_breaker: BreakerView,
    /// State of the breaker for reads.
    pub read_breaker: BreakerView,
    /// Instances of ours there.
    pub instances: usize,
    /// vCPU used and allowed in the vendor's account, where the vendor tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_cpu: Option<AccountCpu>,
    /// Zones.
    pub zones: Vec<Zone>,
    /// This gateway's part of the vendor's calls, by action.
    pub budget: Vec<ActionBudget>,
}

/// What may be sent of one action of a vendor, and what was.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionBudget {
    /// The vendor's name of the action.
    pub action: String,
    /// Calls a second that are allowed at most: configured or published, divided by the living gateways.
    pub ceiling: f64,
    /// Calls a second that are let out now.
    pub rate: f64,
    /// Calls a second that the vendor was found to allow; absent before it throttled any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<f64>,
    /// Calls a second over the last ten seconds.
    pub used_per_second: f64,
    /// Calls that wait for their turn.
    pub waiting: ByClass,
    /// Calls that left since the start.
    pub calls: ByClass,
    /// Throttle answers since the start.
    pub throttles: u64,
    /// Calls that were not sent because they would have waited too long.
    pub refused: u64,
}

/// Numbers of calls by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ByClass {
    /// Deletes, and what proves that something is gone.
    pub delete: u64,
    /// Attempts after one that failed.
    pub failover: u64,
    /// First attempts.
    pub create: u64,
    /// Sweeps and everything else.
    pub read: u64,
}

/// A vendor account's vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountCpu {
    /// In use.
    pub used: meridian_model::quantity::MilliCpu,
    /// Allowed.
    pub max: meridian_model::quantity::MilliCpu,
}

/// A circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BreakerView {
    /// `closed`, `open` or `half-open`.
    pub state: &'static str,
    /// When an open one lets a probe pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// A zone of a backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    /// `regions/{region}/zones/{zone}`.
    pub name: String,
    /// Zone id.
    pub zone: ZoneId,
    /// Whether the vendor sells there now, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_sale: Option<bool>,
    /// What was found sold out.
    pub sold_out: Vec<SoldOut>,
    /// Until when the zone is left out because of faults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<Time>,
    /// Instances of ours there.
    pub instances: usize,
}

/// A memory of no stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SoldOut {
    /// Size that was not to be had.
    pub shape: Shape,
    /// How it was to be bought.
    pub capacity: CapacityType,
    /// When it is tried again.
    pub until: Time,
}

/// What an adapter can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Adapter {
    /// `adapters/{adapter}`.
    pub name: String,
    /// Backends that use it.
    pub backends: Vec<BackendId>,
    /// Features, sizes, bounds.
    pub capability: Arc<Capability>,
}

/// A size on sale.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceType {
    /// `{adapter}/{cpu}-{memory}` or the vendor's name of a GPU size.
    pub name: String,
    /// Adapter.
    pub adapter: AdapterName,
    /// Region.
    pub region: RegionId,
    /// Backend.
    pub backend: BackendId,
    /// Size.
    pub shape: Shape,
    /// Price by zone.
    pub prices: Vec<ZonePrice>,
}

/// A price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZonePrice {
    /// Zone.
    pub zone: ZoneId,
    /// On demand.
    pub price_per_hour: PricePerHour,
    /// `vendor` or `price-book`.
    pub source: &'static str,
    /// When the vendor said so; none for a price book.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}
