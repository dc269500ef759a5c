//! What a dialect asks of the gateway and what it gets back, free of HTTP.
//!
//! A dialect decodes a request into an [`Operation`], the operation stack answers with an [`Outcome`] or a
//! [`Refusal`], and the dialect encodes it. Nothing here knows a path, a header or a status code.

mod across;
pub mod audit;
pub mod authorize;
mod bounds;
pub mod caller;
pub mod claim;
pub mod create;
pub mod delete;
pub mod directory;
pub mod policies;
pub mod quotas;
pub mod read;
pub mod writing;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use meridian_ledger::LedgerError;
use meridian_model::{
    error::{ErrorCode, FieldError, Problem},
    ids::{InstanceName, OperationId, ProjectName, RegionId, TenantId},
    instance::{InstanceSpec, Labels},
    operation::{Charge, QuotaLimits},
    quota::Line,
};
use meridian_policies::access::Permission;
use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};

pub use self::caller::{Caller, Place, Reach, Scope};
use self::{
    authorize::{Admitted, AuthorizeLayer, OutcomeFuture},
    claim::{ClaimKeyLayer, Work},
    directory::DirectoryAction,
    policies::PolicyAction,
};
use crate::{audit::query::Filter, config::quota::ROOT_NAME, core::Core, views};

/// The operation stack, its type hidden.
pub type OperationService = BoxCloneSyncService<Operation, Outcome, Refusal>;

/// One request to the gateway.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// Identifier of the request.
    pub request_id: Arc<str>,
    /// When an answer is due; work that was begun goes on after it.
    pub deadline: tokio::time::Instant,
    /// What is asked.
    pub action: Action,
}

/// What is asked. An action says which tenant's objects it speaks of ([`Action::place`]; `None` for `-`) and what it needs
/// ([`Action::permission`]); the operation stack compares both with the caller.
#[derive(Debug, Clone)]
pub enum Action {
    /// Create an instance.
    CreateInstance(Box<CreateInstance>),
    /// Read one instance.
    GetInstance(InstanceRef),
    /// List instances.
    ListInstances(Box<ListInstances>),
    /// The decision record of an instance.
    ExplainInstance(InstanceRef),
    /// Delete an instance.
    DeleteInstance(DeleteInstance),
    /// Read one operation.
    GetOperation(Option<TenantId>, OperationId),
    /// List the tenant's latest operations.
    ListOperations(Option<TenantId>, PageRequest),
    /// Limits and usage of the tenant.
    GetQuota(Option<TenantId>),
    /// The same, and of each of its projects.
    ListQuotas(Option<TenantId>),
    /// Of one project.
    GetProjectQuota(Option<TenantId>, ProjectName),
    /// Who uses most of a tenant's or a project's quota.
    ListConsumers(Box<ListConsumers>),
    /// The tenants the caller may see.
    ListTenants(PageRequest),
    /// One tenant.
    GetTenant(Option<TenantId>),
    /// Who changed what.
    ListAudit(Box<ListAudit>),
    /// All regions with health and freshness.
    ListRegions,
    /// One region with its zones.
    GetRegion(RegionId),
    /// What each backend can do.
    ListAdapters,
    /// Sizes on sale with prices.
    ListInstanceTypes(Option<RegionId>),
    /// Tenants, keys and service accounts; whether nothing is to be changed.
    Directory(Box<DirectoryAction>, bool),
    /// Policies.
    Policies(Box<PolicyAction>),
}

impl Action {
    /// Stable name for spans, metrics and limits.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Directory(action, _) => action.name(),
            Self::Policies(action) => action.name(),
            Self::CreateInstance(_) => "create-instance",
            Self::GetInstance(_) => "get-instance",
            Self::ListInstances(_) => "list-instances",
            Self::ExplainInstance(_) => "explain-instance",
            Self::DeleteInstance(_) => "delete-instance",
            Self::GetOperation(..) => "get-operation",
            Self::ListOperations(..) => "list-operations",
            Self::GetQuota(_) => "get-quota",
            Self::ListQuotas(_) => "list-quotas",
            Self::GetProjectQuota(..) => "get-project-quota",
            Self::ListConsumers(_) => "list-consumers",
            Self::ListTenants(_) => "list-tenants",
            Self::GetTenant(_) => "get-tenant",
            Self::ListAudit(_) => "list-audit",
            Self::ListRegions => "list-regions",
            Self::GetRegion(_) => "get-region",
            Self::ListAdapters => "list-adapters",
            Self::ListInstanceTypes(_) => "list-instance-types",
        }
    }

    /// What a caller needs for it.
    #[must_use]
    pub const fn permission(&self) -> Permission {
        match self {
            Self::Directory(action, _) => action.permission(),
            Self::Policies(action) => action.permission(),
            Self::CreateInstance(_) => Permission::InstancesCreate,
            Self::GetInstance(_) | Self::ListInstances(_) | Self::ExplainInstance(_) => Permission::InstancesRead,
            Self::DeleteInstance(_) => Permission::InstancesDelete,
            Self::GetOperation(..) | Self::ListOperations(..) => Permission::OperationsRead,
            Self::GetQuota(_) | Self::ListQuotas(_) | Self::GetProjectQuota(..) | Self::ListConsumers(_) => {
                Permission::QuotasRead
            }
            Self::ListTenants(_) | Self::GetTenant(_) => Permission::TenantsRead,
            Self::ListAudit(_) => Permission::AuditRead,
            Self::ListRegions | Self::GetRegion(_) | Self::ListAdapters | Self::ListInstanceTypes(_) => {
                Permission::RegionsRead
            }
        }
    }

    /// Which tenant's objects it speaks of.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        let named = match self {
            Self::Directory(action, _) => return action.place(),
            Self::Policies(action) => return action.place(),
            Self::CreateInstance(create) => Some(&create.tenant),
            Self::GetInstance(i) | Self::ExplainInstance(i) => i.tenant.as_ref(),
            Self::DeleteInstance(delete) => delete.instance.tenant.as_ref(),
            Self::ListInstances(list) => list.tenant.as_ref(),
            Self::ListAudit(list) => list.tenant.as_ref(),
            Self::ListConsumers(list) => list.tenant.as_ref(),
            Self::GetOperation(t, _)
            | Self::ListOperations(t, _)
            | Self::GetQuota(t)
            | Self::ListQuotas(t)
            | Self::GetProjectQuota(t, _)
            | Self::GetTenant(t) => t.as_ref(),
            Self::ListTenants(_) => None,
            Self::ListRegions | Self::GetRegion(_) | Self::ListAdapters | Self::ListInstanceTypes(_) => {
                return Place::Nowhere;
            }
        };
        named.map_or(Place::Any, Place::Tenant)
    }
}

/// Which consumers of a quota are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListConsumers {
    /// Tenant of the path; `None` for `-`.
    pub tenant: Option<TenantId>,
    /// The project; none: the whole tenant.
    pub project: Option<ProjectName>,
    /// Of what.
    pub line: Line,
    /// How many at most.
    pub most: usize,
}

/// An instance by tenant and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    /// Tenant of the path; `None` for `-`.
    pub tenant: Option<TenantId>,
    /// Name.
    pub name: InstanceName,
    /// Of a read: show at least what the write of this revision left.
    pub min_revision: Option<u64>,
}

/// A create.
#[derive(Debug, Clone)]
pub struct CreateInstance {
    /// Tenant of the path.
    pub tenant: TenantId,
    /// Name of the instance.
    pub name: InstanceName,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// The project it is charged to; none: the credential's, or the tenant itself.
    pub project: Option<ProjectName>,
    /// JSON pointer of what holds name, labels and annotations in the body; empty for the body itself.
    pub metadata_pointer: &'static str,
    /// The wish, parsed; validated by the operation stack.
    pub spec: InstanceSpec,
    /// The caller's key; the gateway makes one when there is none.
    pub idempotency_key: Option<String>,
    /// SHA-256 in hexadecimal of method, route, tenant and the canonical body before defaults (RELIABILITY 2.6).
    pub fingerprint: String,
    /// Only say what would happen.
    pub validate_only: bool,
    /// How long to wait for the final state before answering with the running operation.
    pub wait: Duration,
}

/// A delete.
#[derive(Debug, Clone)]
pub struct DeleteInstance {
    /// Which.
    pub instance: InstanceRef,
    /// A missing instance is success.
    pub allow_missing: bool,
    /// Only say what would happen.
    pub validate_only: bool,
    /// How long to wait for the proof that it is gone.
    pub wait: Duration,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageRequest {
    /// Items per page, already coerced into 1 to 1000.
    pub size: usize,
    /// The last item of the page before, in the collection's order.
    pub after: Option<String>,
}

/// A list of instances.
#[derive(Debug, Clone, Default)]
pub struct ListInstances {
    /// Tenant of the path; `None` for `-`.
    pub tenant: Option<TenantId>,
    /// Page.
    pub page: PageRequest,
    /// Label requirements, all of which must hold.
    pub labels: Vec<Requirement>,
    /// Field requirements, all of which must hold; [`FieldPath`] says which fields there are.
    pub fields: Vec<(FieldPath, bool, String)>,
    /// Refuse a partial answer.
    pub complete_only: bool,
    /// Show at least what the write of this revision left.
    pub min_revision: Option<u64>,
}

/// Records of the audit log.
#[derive(Debug, Clone, Default)]
pub struct ListAudit {
    /// Tenant of the path; `None` for `-` and for a path without one.
    pub tenant: Option<TenantId>,
    /// Page.
    pub page: PageRequest,
    /// Which; the tenant in it is set by what the caller reaches.
    pub filter: Filter,
}

/// A Kubernetes label requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// `key=value` or `key in (a,b)`.
    In(String, Vec<String>),
    /// `key!=value` or `key notin (a,b)`; a missing label fulfils it.
    NotIn(String, Vec<String>),
    /// `key`.
    Exists(String),
    /// `!key`.
    Missing(String),
}

/// Fields a list can select by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldPath {
    /// `metadata.name`: the instance's short name.
    Name,
    /// `metadata.project`: the project it is charged to.
    Project,
    /// `status.phase`.
    Phase,
    /// `status.region`.
    Region,
    /// `status.zone`.
    Zone,
    /// `status.backend`.
    Backend,
    /// `status.adapter`.
    Adapter,
}

/// What the gateway answers.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The create ended well; the answer is the same for every repetition of the key.
    Created {
        /// The instance as it was when it was adopted.
        instance: Box<views::Instance>,
        /// The key in force.
        key: Arc<str>,
        /// The operation had ended before this request came.
        replayed: bool,
        /// What a read has to know to show it.
        revision: u64,
        /// The operation that made it.
        operation: OperationId,
    },
    /// The operation goes on.
    Accepted {
        /// The operation.
        operation: Box<views::Operation>,
        /// The key in force, for a create.
        key: Option<Arc<str>>,
    },
    /// The delete ended: proven gone.
    Deleted,
    /// What the mutation would do.
    Validated(Box<views::Validation>),
    /// One instance, rendered.
    Instance(Arc<views::Rendered>, Option<views::LedgerFreshness>),
    /// A page of instances.
    Instances(Box<views::InstancePage>),
    /// A decision record.
    Explanation(Box<views::Explanation>, Option<views::LedgerFreshness>),
    /// One operation.
    Operation(Box<views::Operation>),
    /// Operations.
    Operations(views::Page<views::Operation>),
    /// Limits and usage.
    Quota(Box<views::Quota>),
    /// The same of several tenants.
    Quotas(views::Page<views::Quota>),
    /// Who uses most of a quota.
    Consumers(Box<views::QuotaConsumers>),
    /// Records of the audit log, and where the next page begins.
    Audit(Box<views::AuditPage>, Option<String>),
    /// Tenants.
    Tenants(views::Page<views::Tenant>),
    /// One tenant.
    Tenant(Box<views::Tenant>),
    /// Regions.
    Regions(views::Page<views::Region>),
    /// One region.
    Region(Box<views::Region>),
    /// Adapters.
    Adapters(views::Page<views::Adapter>),
    /// Sizes and prices.
    InstanceTypes(views::Page<views::InstanceType>),
    /// A tenant as it is declared now.
    TenantWritten {
        /// The tenant.
        tenant: Box<views::Tenant>,
        /// It was made by this request.
        created: bool,
    },
    /// API keys, without their secrets.
    Keys(views::Page<views::ApiKey>),
    /// One API key, without its secret.
    Key(Box<views::ApiKey>),
    /// A key with its new secret.
    KeyMade {
        /// The key.
        key: Box<views::ApiKey>,
        /// It was made by this request, or the one that this one repeats.
        created: bool,
        /// It had been made before this request came.
        replayed: bool,
    },
    /// Service accounts.
    Accounts(views::Page<views::ServiceAccount>),
    /// One service account.
    Account(Box<views::ServiceAccount>),
    /// A service account that was made, or could be.
    AccountMade {
        /// The account.
        account: Box<views::ServiceAccount>,
        /// It was made by this request.
        created: bool,
    },
    /// Who the caller is.
    WhoAmI(Box<views::WhoAmI>),
    /// Policies.
    Policies(views::Page<views::Policy>),
    /// One policy.
    Policy(Box<views::Policy>),
    /// A policy as it is declared now, or would be.
    PolicyWritten {
        /// The policy.
        policy: Box<views::Policy>,
        /// It was made by this request.
        created: bool,
    },
    /// What policies would change.
    PolicyTest(Box<views::PolicyTest>),
    /// Any of the others, and what policies say of the request that they let pass.
    Warned(Box<Outcome>, Vec<FieldError>),
}

/// The gateway said no, or something broke; either way a public problem and, apart from it, what only logs may say.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// For the caller.
    pub problem: Box<Problem>,
    /// For the log.
    pub internal: Option<String>,
    /// The idempotency key in force, for a create that got that far.
    pub key: Option<Arc<str>>,
    /// The outcome is final and would be the same for every repetition of the key.
    pub replayed: bool,
    /// Something may have been changed all the same, or a part of it.
    pub outcome_unknown: bool,
}

impl Refusal {
    /// A refusal with nothing but a code and a text.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// What cannot be seen and what does not exist are the same to a caller, to the byte.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "no such resource")
    }

    /// A fault of ours: the caller learns nothing but the code.
    #[must_use]
    pub fn internal(context: impl std::fmt::Display) -> Self {
        let mut refusal =
            Self::new(ErrorCode::Internal, "the gateway met a fault of its own; nothing is known to be lost");
        refusal.internal = Some(context.to_string());
        refusal
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), internal: None, key: None, replayed: false, outcome_unknown: false }
    }
}

/// The stages of the operation stack in the order in which a request meets them.
pub const STAGES: [&str; 3] = ["authorize", "claim", "perform"];

/// Builds the operation stack.
#[must_use]
pub fn stack(core: &Arc<Core>) -> OperationService {
    let recovering = core.recovering.clone();
    let stack = ServiceBuilder::new()
        // No stage but a word in what any of them refuses.
        .map_err(move |refusal| come_back(refusal, recovering.seconds_left()))
        // Refuses before anything is counted, stored or looked up.
        .layer(AuthorizeLayer(Arc::clone(core)))
        // After authorisation so that a replay leaks nothing, before quota so that it costs nothing.
        .layer(ClaimKeyLayer(Arc::clone(core)))
        .service(Perform(Arc::clone(core)));
    BoxCloneSyncService::new(stack)
}

/// Carries out what was admitted and claimed.
#[derive(Debug, Clone)]
struct Perform(Arc<Core>);

impl Service<Work> for Perform {
    type Response = Outcome;
    type Error = Refusal;
    type Future = OutcomeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, work: Work) -> OutcomeFuture {
        let core = Arc::clone(&self.0);
        match work {
            Work::Follow(follow) => Box::pin(async move { create::follow(&core, follow).await }),
            Work::Perform(admitted) => match at_once(&core, &admitted) {
                Some(answer) => Box::pin(std::future::ready(answer)),
                None => Box::pin(async move { perform(&core, admitted).await }),
            },
        }
    }
}

/// Reads that need no waiting: the hot path takes no allocation but its future.
fn at_once(core: &Core, admitted: &Admitted) -> Option<Result<Outcome, Refusal>> {
    let reach = &admitted.reach;
    let page = |items| views::Page { items, next_after: None };
    match &admitted.operation.action {
        Action::GetInstance(wish) if wish.min_revision.is_none() => {
            Some(reach.one().and_then(|own| read::instance(core, own, wish)))
        }
        Action::ListInstances(query) if query.min_revision.is_none() => Some(read::instances(core, reach, query)),
        Action::ListRegions => {
            Some(Ok(Outcome::Regions(views::Page { items: read::regions(core, reach, None), next_after: None })))
        }
        Action::GetRegion(region) => {
            let found = read::regions(core, reach, Some(region)).pop();
            Some(found.map(|r| Outcome::Region(Box::new(r))).ok_or_else(Refusal::not_found))
        }
        Action::ListAdapters => {
            Some(Ok(Outcome::Adapters(views::Page { items: read::adapters(core, reach), next_after: None })))
        }
        Action::ListInstanceTypes(region) => {
            Some(Ok(Outcome::InstanceTypes(page(read::instance_types(core, reach, region.as_ref())))))
        }
        _ => None,
    }
}

async fn perform(core: &Arc<Core>, admitted: Admitted) -> Result<Outcome, Refusal> {
    let Admitted { operation, reach, .. } = admitted;
    match operation.action {
        Action::Directory(action, validate_only) => {
            directory::perform(core, operation.caller, reach, (*action, validate_only)).await
        }
        Action::Policies(action) => policies::perform(core, operation.caller, reach, *action).await,
        Action::CreateInstance(create) => create::validate(core, *create).await,
        Action::DeleteInstance(wish) => delete::delete(core, reach.one()?, wish, operation.deadline).await,
        Action::ExplainInstance(wish) => read::explain(core, reach.one()?, &wish).await,
        Action::GetOperation(_, id) => read::operation(core, reach.one()?, &id).await,
        Action::ListOperations(_, page) => read::operations(core, &reach, &page).await,
        Action::GetQuota(_) => read::quota(core, &reach).await,
        Action::ListQuotas(_) => read::project_quotas(core, &reach).await,
        Action::GetProjectQuota(_, project) => read::project_quota(core, reach.one()?, &project).await,
        Action::ListConsumers(wish) => read::consumers(core, reach.one()?, &wish).await,
        Action::ListAudit(wish) => audit::page(core, &operation.caller, &reach, *wish).await,
        Action::ListTenants(page) => Ok(Outcome::Tenants(read::tenants(core, &reach, &page).await)),
        Action::GetTenant(_) => read::tenant(core, reach.one()?).await.map(|t| Outcome::Tenant(Box::new(t))),
        Action::GetInstance(wish) => {
            let own = reach.one()?;
            read::shown(core, own, Some(&wish.name), wish.min_revision, operation.deadline).await?;
            read::instance(core, own, &wish)
        }
        Action::ListInstances(query) => {
            read::shown(core, reach.one()?, None, query.min_revision, operation.deadline).await?;
            read::instances(core, &reach, &query)
        }
        Action::ListRegions | Action::GetRegion(_) | Action::ListAdapters | Action::ListInstanceTypes(_) => {
            Err(Refusal::internal("a read that is answered at once came here"))
        }
    }
}

/// The quota resource.
fn quota_view(tenant: &TenantId, used: Option<Charge>, limits: QuotaLimits) -> views::Quota {
    views::Quota {
        name: format!("tenants/{tenant}/quotas/{ROOT_NAME}"),
        parent: None,
        limits,
        used,
        lines: Vec::new(),
        budget: None,
        reclaim: None,
        priority: None,
        forecast: Vec::new(),
    }
}

/// Longest time after which a client should come back while the ledger is rebuilt, seconds: an estimate may be wrong.
const STORE_RECOVERING_RETRY_SECONDS_MAX: u32 = 60;

/// Tells who is refused by a ledger that is being rebuilt when to come back: as the rebuild estimates. Without an
/// estimate it is left to the edge, which spreads the callers.
fn come_back(mut refusal: Refusal, seconds_left: u32) -> Refusal {
    let problem = &mut refusal.problem;
    if problem.code == ErrorCode::StoreRecovering && problem.retry_after_seconds.is_none() && seconds_left > 0 {
        problem.retry_after_seconds = Some(seconds_left.min(STORE_RECOVERING_RETRY_SECONDS_MAX));
    }
    refusal
}

/// What the caller of a write learns of a ledger that failed: as of [`store_refusal`], unless the write may have been
/// made all the same; then the outcome is unknown (R4), and the operation says it when the ledger answers again.
pub(crate) fn write_refusal(error: &LedgerError, operation: OperationId) -> Refusal {
    if !matches!(error, LedgerError::Unanswered(_)) {
        return store_refusal(error);
    }
    let detail = "the ledger did not answer: the request may be carried out or not; follow the operation, which may not \
                  exist, or repeat the request with the same key";
    let mut problem = Problem::new(ErrorCode::DeadlineExceeded, detail);
    problem.operation = Some(operation);
    let mut refusal: Refusal = problem.into();
    refusal.internal = Some(error.to_string());
    refusal
}

/// What a caller learns of a ledger that failed: nothing was sent for this request, and repeating it is safe. When to
/// repeat it is told by [`come_back`].
pub(crate) fn store_refusal(error: &LedgerError) -> Refusal {
    let problem = match error {
        LedgerError::Recovering(_) => Problem::new(
            ErrorCode::StoreRecovering,
            "the ledger may have lost writes and is being rebuilt; repeating the request with the same key is safe",
        ),
        LedgerError::Unavailable(_)
        | LedgerError::Unanswered(_)
        | LedgerError::Damaged { .. }
        | LedgerError::Invalid { .. } => Problem::new(
            ErrorCode::StoreUnavailable,
            "the ledger cannot be used now; repeating the request with the same key is safe",
        ),
    };
    let mut refusal: Refusal = problem.into();
    refusal.internal = Some(error.to_string());
    refusal
}

/// The same of a read, which has no key and changes nothing.
pub(crate) fn read_refusal(error: &LedgerError) -> Refusal {
    let mut refusal = store_refusal(error);
    refusal.problem.detail = match refusal.problem.code {
        ErrorCode::StoreRecovering => "the ledger may have lost writes and is being rebuilt; it shows this when it is",
        _ => "this is in the ledger, which cannot be read now",
    }
    .to_owned();
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_may_have_been_made_has_an_unknown_outcome() {
        let why = || "why".to_owned();
        let op = OperationId::new("op1").unwrap();
        for (error, read, write) in [
            (LedgerError::Unavailable(why()), ErrorCode::StoreUnavailable, ErrorCode::StoreUnavailable),
            (LedgerError::Recovering(why()), ErrorCode::StoreRecovering, ErrorCode::StoreRecovering),
            (LedgerError::Unanswered(why()), ErrorCode::StoreUnavailable, ErrorCode::DeadlineExceeded),
        ] {
            assert_eq!(store_refusal(&error).problem.code, read, "{error:?}");
            let told = read_refusal(&error).problem;
            assert_eq!(told.code, read, "{error:?}");
            assert!(!told.detail.contains("key"), "a read has none: {}", told.detail);
            let refusal = write_refusal(&error, op.clone());
            assert_eq!(refusal.problem.code, write, "{error:?}");
            let told = refusal.problem.operation.is_some();
            assert_eq!(told, write == ErrorCode::DeadlineExceeded, "who is left in doubt is told where to look");
        }
    }

    #[test]
    fn who_is_refused_by_a_rebuild_is_told_how_long_it_takes() {
        let recovering = || store_refusal(&LedgerError::Recovering(String::new()));
        let away = || store_refusal(&LedgerError::Unavailable(String::new()));
        let told = |refusal, left| come_back(refusal, left).problem.retry_after_seconds;
        for (left, expected) in [(0, None), (1, Some(1)), (42, Some(42)), (60, Some(60)), (u32::MAX, Some(60))] {
            assert_eq!(told(recovering(), left), expected, "{left} s left");
            assert_eq!(told(away(), left), None, "nobody knows when it comes back");
        }
    }
}
