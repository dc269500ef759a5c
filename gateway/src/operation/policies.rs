//! Policies: tried on requests that were made before.

use std::{collections::BTreeSet, sync::Arc};

use meridian_model::{
    error::{ErrorCode, FieldError, Problem},
    ids::{OperationId, TenantId},
    operation::{IMPORTED, OperationRecord, PROJECT, REBUILT},
    quantity::Span,
};
use meridian_policies::{
    access::Permission,
    rules::{self, Policy, RuleSet, SET_COST_MAX},
};
use serde_json::Value;

use super::{Caller, Outcome, Place, Reach, Refusal, Scope, bounds::lineage, read_refusal};
use crate::{
    config::quota::missing_project,
    core::Core,
    directory::Snapshot,
    policies::{
        document,
        replay::{Recorded, Replay},
    },
};

/// Most policies that are tried together.
const TRIED_MAX: usize = 20;

/// Most records that one trial looks at, and as many as are read from the ledger at once.
const RECORDS_MAX: usize = 10_000;
const RECORDS_AT_ONCE: usize = 500;

/// Before every operation of a tenant: a name has at least one character, and none is less than this.
const LEAST_OPERATION: &str = "*";

/// What is asked of policies.
#[derive(Debug, Clone)]
pub enum PolicyAction {
    /// What would policies change for requests that were made before?
    Test {
        /// Whose requests.
        tenant: Option<TenantId>,
        /// Documents of the policies.
        policies: Vec<Value>,
        /// Only requests that are no older.
        window: Option<Span>,
    },
}

impl PolicyAction {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Test { .. } => "test-policies",
        }
    }

    pub(super) const fn permission(&self) -> Permission {
        match self {
            Self::Test { .. } => Permission::PoliciesTest,
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        match self {
            Self::Test { tenant, .. } => tenant.as_ref().map_or(Place::Any, Place::Tenant),
        }
    }
}

/// Does it.
///
/// # Errors
/// What stands against it, or the store's.
pub(super) async fn perform(
    core: &Core,
    caller: &Caller,
    reach: &Reach,
    action: PolicyAction,
) -> Result<Outcome, Refusal> {
    match action {
        PolicyAction::Test { policies, window, .. } => test(core, caller, reach, policies, window).await,
    }
}

/// Runs what takes a processor for more than a moment away from the threads that serve requests.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(Refusal::internal)
}

fn invalid(faults: Vec<FieldError>) -> Refusal {
    let plural = if faults.len() == 1 { "fault" } else { "faults" };
    let detail = format!("the policy has {} {plural}", faults.len());
    Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults).into()
}

fn fault(pointer: impl Into<String>, code: &str, detail: String, hint: Option<String>) -> FieldError {
    FieldError { pointer: pointer.into(), code: code.to_owned(), detail, hint, ..FieldError::default() }
}

// ---- reading

/// Reads and compiles a document that was sent to a place; what it names must be there.
fn compiled(snapshot: &Snapshot, body: &Value, of: Option<&rules::Scope>) -> Result<document::Policy, Vec<FieldError>> {
    let policy = document::read(body, of)?;
    if let rules::Scope::Project(tenant, project) = policy.compiled.scope()
        && let Some(entry) = snapshot.tenant(tenant)
        && let Some(hint) = missing_project(&entry.settings.projects, project)
    {
        let detail = format!("tenant {tenant} has no project {project}");
        return Err(vec![fault("/spec/scope/project", "unknown-project", detail, Some(hint))]);
    }
    Ok(policy)
}

/// What is wrong with policies that are too costly together.
fn too_costly(pointer: &str, rules: &RuleSet, tenant: Option<&TenantId>) -> Option<FieldError> {
    let cost = rules.cost_max(tenant);
    let detail = || format!("all rules of one request may cost {cost} units together, and {SET_COST_MAX} is the most");
    let hint = || Some("delete rules, or loop over less in them".to_owned());
    (cost > SET_COST_MAX).then(|| fault(pointer, "too-costly", detail(), hint()))
}

// ---- trials

/// The scope of a document that says none, and the only one that one may say.
fn scope_of(caller: &Caller, reach: &Reach, body: &Value) -> Option<rules::Scope> {
    match (&caller.scope, reach) {
        (Scope::Tenant(own), _) => Some(rules::Scope::Tenant(own.clone())),
        // Whoever looks after the platform tries anybody's.
        (Scope::Platform, _) if body.pointer("/spec/scope").is_some() => None,
        (Scope::Platform, Reach::Tenant(named)) => Some(rules::Scope::Tenant(named.clone())),
        (Scope::Platform, Reach::All) => None,
    }
}

/// Compiles the documents of a trial.
fn candidates(
    snapshot: &Snapshot,
    documents: &[(Value, Option<rules::Scope>)],
) -> Result<Vec<Arc<Policy>>, Vec<FieldError>> {
    let (mut all, mut faults, mut paths) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (i, (body, of)) in documents.iter().enumerate() {
        match compiled(snapshot, body, of.as_ref()) {
            Ok(policy) => {
                let path = Arc::clone(policy.compiled.path());
                if !paths.insert(Arc::clone(&path)) {
                    let pointer = format!("/policies/{i}/metadata/name");
                    faults.push(fault(pointer, "duplicate", format!("there are two {path}"), None));
                }
                all.push(policy.compiled);
            }
            Err(of_policy) => {
                faults.extend(of_policy.into_iter().map(|of_policy| FieldError {
                    pointer: format!("/policies/{i}{}", of_policy.pointer),
                    ..of_policy
                }))
            }
        }
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

async fn test(
    core: &Core,
    caller: &Caller,
    reach: &Reach,
    documents: Vec<Value>,
    window: Option<Span>,
) -> Result<Outcome, Refusal> {
    if documents.is_empty() || documents.len() > TRIED_MAX {
        let detail = format!("give 1 to {TRIED_MAX} policies");
        return Err(invalid(vec![fault("/policies", "out-of-range", detail, None)]));
    }
    // One at a time: a trial may take a processor for a while, and nobody's request waits for it.
    let _turn = core.trials.acquire().await.map_err(Refusal::internal)?;
    let snapshot = core.directory.load_full();
    let placed = |body| {
        let of = scope_of(caller, reach, &body);
        (body, of)
    };
    let documents: Vec<_> = documents.into_iter().map(placed).collect();
    let known = Arc::clone(&snapshot);
    let candidates = aside(move || candidates(&known, &documents)).await?.map_err(invalid)?;
    let before = snapshot.rules().clone();
    let after = candidates.into_iter().fold(before.clone(), |set, policy| set.with(policy));
    let tenant = reach.one().ok();
    if let Some(fault) = too_costly("/policies", &after, tenant) {
        return Err(invalid(vec![fault]));
    }
    let since = window.map(|window| core.clock.now() - window.0);
    let mut replay = Replay::new(before, after);
    let mut from = match tenant {
        Some(tenant) => Some((tenant.clone(), OperationId::new(LEAST_OPERATION).map_err(Refusal::internal)?)),
        None => None,
    };
    for _ in 0..RECORDS_MAX / RECORDS_AT_ONCE {
        let page = core.ledger.records(from.take(), RECORDS_AT_ONCE).await.map_err(|e| read_refusal(&e))?;
        let is_wanted = |name: &TenantId| tenant.is_none_or(|tenant| tenant == name);
        let records =
            page.records.into_iter().filter(|r| is_wanted(&r.tenant) && since.is_none_or(|s| r.created_at >= s));
        let requests: Vec<Recorded> = records.filter_map(|record| recorded(&snapshot, record)).collect();
        from = page.next.filter(|(name, _)| is_wanted(name));
        let is_enough;
        (replay, is_enough) = aside(move || {
            let is_enough = !requests.iter().all(|request| replay.judge(request));
            (replay, is_enough)
        })
        .await?;
        if from.is_none() || is_enough {
            break;
        }
    }
    if from.is_some() {
        replay.cut();
    }
    Ok(Outcome::PolicyTest(Box::new(replay.finish())))
}

/// The request that a record is of; none for what nobody asked for in these words.
fn recorded(snapshot: &Snapshot, record: OperationRecord) -> Option<Recorded> {
    let project = record.project();
    let OperationRecord { tenant, name, labels, mut annotations, spec, created_at, .. } = record;
    if [IMPORTED, REBUILT].iter().any(|mark| annotations.contains_key(*mark)) {
        return None;
    }
    annotations.remove(PROJECT);
    let projects = match snapshot.tenant(&tenant) {
        Some(entry) => lineage(&entry.settings, project.as_ref()),
        None => project.into_iter().collect(),
    };
    Some(Recorded { tenant, projects, name, labels, annotations, spec, at: created_at })
}
