//! Policies: what the API makes of them, says about them, and tries with them on requests that were made before.
//!
//! What a file declares is changed there. A policy is compiled before it is stored; every gateway compiles it again when it
//! hears of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meridian_model::{
    error::{ErrorCode, FieldError, Problem},
    ids::{OperationId, ProfileName, TenantId},
    operation::{IMPORTED, OperationRecord, PROJECT, REBUILT},
    quantity::Span,
};
use meridian_policies::{
    access::Permission,
    rules::{self, Policy, RuleSet, SET_COST_MAX},
};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Caller, Outcome, PageRequest, Place, Reach, Refusal, Scope,
    bounds::{lineage, unknown_project},
    read_refusal,
    writing::{Condition, Pen, catch_up, declared_elsewhere, etag, expect, fault, paged, text},
};
use crate::{
    core::Core,
    directory::{
        Snapshot, Source,
        made::{self, ManifestRecord},
    },
    policies::{
        document,
        replay::{Recorded, Replay},
    },
    views,
};

/// Most policies that are tried together.
const TRIED_MAX: usize = 20;

/// Most records that one trial looks at, and as many as are read from the ledger at once.
const RECORDS_MAX: usize = 10_000;
const RECORDS_AT_ONCE: usize = 500;

/// Before every operation of a tenant: a name has at least one character, and none is less than this.
const LEAST_OPERATION: &str = "*";

/// Most policies that the API makes of one tenant, and of the platform.
const POLICIES_MAX: usize = 100;

/// Longest wait for the turn to write a policy: some writes that compile, and a store that answers slowly.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// Who may take a processor for more than a moment, one at a time each; none waits for another's.
#[derive(Debug)]
pub(crate) struct HeavyTurns {
    trials: Arc<Semaphore>,
    platform_policies: Arc<Semaphore>,
    tenants_policies: Arc<Semaphore>,
}

impl Default for HeavyTurns {
    fn default() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { trials: one(), platform_policies: one(), tenants_policies: one() }
    }
}

/// Whose policies are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// The platform's, which judge everybody's requests.
    Platform,
    /// Those of a tenant and its projects; `None` for `-`.
    Tenant(Option<TenantId>),
}

/// What is asked of policies.
#[derive(Debug, Clone)]
pub enum PolicyAction {
    /// All of them.
    List(Home, PageRequest),
    /// One.
    Get(Home, ProfileName),
    /// Make it, or replace it.
    Put {
        /// Whose.
        home: Home,
        /// Which.
        name: ProfileName,
        /// The document that declares it.
        manifest: Value,
        /// What the writer has seen.
        condition: Condition,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// Remove it.
    Delete {
        /// Whose.
        home: Home,
        /// Which.
        name: ProfileName,
        /// What the writer has seen.
        condition: Condition,
        /// Only say what would happen.
        validate_only: bool,
    },
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
            Self::List(..) => "list-policies",
            Self::Get(..) => "get-policy",
            Self::Put { .. } => "put-policy",
            Self::Delete { .. } => "delete-policy",
            Self::Test { .. } => "test-policies",
        }
    }

    pub(super) const fn permission(&self) -> Permission {
        match self {
            Self::List(home, _) | Self::Get(home, _) => match home {
                Home::Platform => Permission::PlatformPoliciesRead,
                Home::Tenant(_) => Permission::PoliciesRead,
            },
            Self::Put { home, .. } | Self::Delete { home, .. } => match home {
                Home::Platform => Permission::PlatformPoliciesWrite,
                Home::Tenant(_) => Permission::PoliciesWrite,
            },
            Self::Test { .. } => Permission::PoliciesTest,
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        let named = match self {
            Self::List(Home::Platform, _)
            | Self::Get(Home::Platform, _)
            | Self::Put { home: Home::Platform, .. }
            | Self::Delete { home: Home::Platform, .. } => return Place::Nowhere,
            Self::List(Home::Tenant(tenant), _)
            | Self::Get(Home::Tenant(tenant), _)
            | Self::Put { home: Home::Tenant(tenant), .. }
            | Self::Delete { home: Home::Tenant(tenant), .. }
            | Self::Test { tenant, .. } => tenant,
        };
        named.as_ref().map_or(Place::Any, Place::Tenant)
    }
}

/// Does it. What changes something goes on when nobody waits for it any more, as with tenants and keys.
///
/// # Errors
/// What stands against it, or the store's.
pub(super) async fn perform(
    core: &Arc<Core>,
    caller: Arc<Caller>,
    reach: Reach,
    action: PolicyAction,
) -> Result<Outcome, Refusal> {
    match action {
        PolicyAction::List(home, page) => Ok(Outcome::Policies(list(core, &reach, &home, &page))),
        PolicyAction::Get(home, name) => {
            let (snapshot, path) = (core.directory.load_full(), home.scope(&reach)?.path(&name));
            let view = view(&snapshot, &path).ok_or_else(Refusal::not_found)?;
            Ok(Outcome::Policy(Box::new(view)))
        }
        PolicyAction::Test { policies, window, .. } => test(core, &caller, &reach, policies, window).await,
        PolicyAction::Put { .. } | PolicyAction::Delete { .. } => {
            let own = Arc::clone(core);
            let work = async move { change(&own, &reach, action).await };
            core.driver.to_the_end(work).await.unwrap_or_else(|| {
                Err(Refusal { outcome_unknown: true, ..Refusal::internal("a change of a policy panicked") })
            })
        }
    }
}

async fn change(core: &Core, reach: &Reach, action: PolicyAction) -> Result<Outcome, Refusal> {
    match action {
        PolicyAction::Put { home, name, manifest, condition, validate_only } => {
            put(Pen { core, dry: validate_only }, (home.scope(reach)?, name), manifest, condition).await
        }
        PolicyAction::Delete { home, name, condition, validate_only } => {
            delete(Pen { core, dry: validate_only }, &home.scope(reach)?.path(&name), condition).await
        }
        PolicyAction::List(..) | PolicyAction::Get(..) | PolicyAction::Test { .. } => {
            Err(Refusal::internal("what changes nothing came here"))
        }
    }
}

/// The turn to take a processor for more than a moment; whoever waits no longer gives it back when the work is done.
type HeavyTurn = Arc<OwnedSemaphorePermit>;

async fn heavy_turn(turns: &Arc<Semaphore>) -> Result<HeavyTurn, Refusal> {
    Arc::clone(turns).acquire_owned().await.map(Arc::new).map_err(Refusal::internal)
}

/// Runs what takes a processor for more than a moment away from the threads that serve requests.
async fn aside<T: Send + 'static>(turn: &HeavyTurn, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let held = Arc::clone(turn);
    let work = move || {
        let _held = held;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(Refusal::internal)
}

fn invalid(faults: Vec<FieldError>) -> Refusal {
    let plural = if faults.len() == 1 { "fault" } else { "faults" };
    let detail = format!("the policy has {} {plural}", faults.len());
    Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults).into()
}

impl Home {
    fn scope(&self, reach: &Reach) -> Result<rules::Scope, Refusal> {
        match self {
            Self::Platform => Ok(rules::Scope::Platform),
            Self::Tenant(_) => reach.one().map(|tenant| rules::Scope::Tenant(tenant.clone())),
        }
    }
}

// ---- reading

fn view(snapshot: &Snapshot, path: &str) -> Option<views::Policy> {
    let (policy, source) = snapshot.policies().get(path)?;
    let kept = snapshot.made().policies.get(path).map(|(_, kept)| kept).filter(|_| *source == Source::Api);
    Some(views::Policy {
        etag: kept.map(|kept| etag(kept.revision)),
        ..shown(policy, source, kept.and_then(|k| k.record.as_ref()))
    })
}

fn shown(policy: &document::Policy, source: &Source, record: Option<&ManifestRecord>) -> views::Policy {
    views::Policy {
        name: policy.compiled.path().to_string(),
        labels: policy.labels.clone(),
        generation: record.map(|record| record.generation),
        etag: None,
        create_time: record.map(|record| record.create_time),
        update_time: record.map(|record| record.update_time),
        source: source.to_string(),
        cost_max: policy.compiled.cost_max(),
        spec: policy.spec.clone(),
    }
}

fn list(core: &Core, reach: &Reach, home: &Home, page: &PageRequest) -> views::Page<views::Policy> {
    let snapshot = core.directory.load_full();
    let is_wanted = |scope: &rules::Scope| match (home, reach) {
        (Home::Platform, _) => *scope == rules::Scope::Platform,
        (Home::Tenant(_), Reach::Tenant(tenant)) => scope.tenant() == Some(tenant),
        (Home::Tenant(_), Reach::All) => scope.tenant().is_some(),
    };
    let wanted = snapshot.policies().iter().filter(|(_, (policy, _))| is_wanted(policy.compiled.scope()));
    let all = wanted.filter_map(|(path, _)| view(&snapshot, path)).collect();
    paged(all, page, |policy| &policy.name)
}

/// Reads and compiles a document that was sent to a place; what it names must be there.
fn compiled(snapshot: &Snapshot, body: &Value, of: Option<&rules::Scope>) -> Result<document::Policy, Vec<FieldError>> {
    let policy = document::read(body, of)?;
    if let rules::Scope::Project(tenant, project) = policy.compiled.scope()
        && let Some(entry) = snapshot.tenant(tenant)
        && let Some(fault) = unknown_project(&entry.settings, project, "/spec/scope/project".to_owned())
    {
        return Err(vec![fault]);
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

// ---- writing

/// Refuses what is declared elsewhere than by the API.
fn unless_declared(snapshot: &Snapshot, path: &str) -> Result<(), Refusal> {
    match snapshot.policies().get(path) {
        Some((_, source)) if *source != Source::Api => Err(declared_elsewhere(path, source)),
        Some(_) | None => Ok(()),
    }
}

fn revision(snapshot: &Snapshot, path: &str) -> Option<u64> {
    snapshot.made().policies.get(path).map(|(_, kept)| kept.revision)
}

async fn put(
    pen: Pen<'_>,
    (scope, name): (rules::Scope, ProfileName),
    manifest: Value,
    condition: Condition,
) -> Result<Outcome, Refusal> {
    let (core, path) = (pen.core, scope.path(&name));
    pen.check_len(&path, &text(&manifest)?)?;
    // From the look at what there is to the write: two that are written at once are counted one after the other.
    let turns = if scope.tenant().is_some() { &core.turns.tenants_policies } else { &core.turns.platform_policies };
    let waited = tokio::time::timeout(TURN_WITHIN, heavy_turn(turns)).await;
    let turn = waited.map_err(|_| Refusal::new(ErrorCode::Overloaded, "too many policies are being written"))??;
    catch_up(core, condition, |snapshot| revision(snapshot, &path)).await?;
    let snapshot = core.directory.load_full();
    if scope.tenant().is_some_and(|tenant| snapshot.tenant(tenant).is_none()) {
        return Err(Refusal::not_found());
    }
    unless_declared(&snapshot, &path)?;
    if manifest.pointer("/metadata/name").and_then(Value::as_str).is_some_and(|said| said != name.as_str()) {
        let (detail, hint) = ("the name is not that of the path".to_owned(), Some(format!("write {name}")));
        return Err(invalid(vec![fault("/metadata/name", "mismatch", detail, hint)]));
    }
    let held = snapshot.made().policies.get(&path).map(|(_, kept)| kept);
    let of_home = |policy: &document::Policy| policy.compiled.scope().tenant() == scope.tenant();
    let count = snapshot.made().policies.values().filter(|(policy, _)| of_home(policy)).count();
    if held.is_none() && count >= POLICIES_MAX {
        let detail = format!("the API makes at most {POLICIES_MAX} policies of one tenant or of the platform");
        return Err(Refusal::new(ErrorCode::Conflict, detail));
    }
    if held.is_none() {
        pen.check_room(&scope.tenant().map_or_else(|| made::POLICIES.to_owned(), made::below))?;
    }
    let (known, body, of) = (Arc::clone(&snapshot), manifest.clone(), scope.clone());
    let policy = aside(&turn, move || compiled(&known, &body, Some(&of))).await?.map_err(invalid)?;
    let after = snapshot.rules().with(Arc::clone(&policy.compiled));
    if let Some(fault) = too_costly("/spec/rules", &after, scope.tenant()) {
        return Err(invalid(vec![fault]));
    }
    let expect = expect(condition, held.map(|kept| kept.revision), true)?;
    let now = core.clock.now();
    let before = held.and_then(|kept| kept.record.as_ref());
    let record = ManifestRecord {
        manifest,
        generation: before.map_or(1, |record| record.generation + 1),
        create_time: before.map_or(now, |record| record.create_time),
        update_time: now,
    };
    let held = held.map(|kept| kept.revision);
    let revision = pen.write((&path, held), Some(text(&record)?), expect).await?;
    let policy = match revision {
        Some(revision) => views::Policy { etag: Some(etag(revision)), ..shown(&policy, &Source::Api, Some(&record)) },
        None => shown(&policy, &Source::Api, None),
    };
    Ok(Outcome::PolicyWritten { policy: Box::new(policy), created: held.is_none() && revision.is_some() })
}

async fn delete(pen: Pen<'_>, path: &str, condition: Condition) -> Result<Outcome, Refusal> {
    catch_up(pen.core, condition, |snapshot| revision(snapshot, path)).await?;
    let snapshot = pen.core.directory.load_full();
    unless_declared(&snapshot, path)?;
    let (_, kept) = snapshot.made().policies.get(path).ok_or_else(Refusal::not_found)?;
    let expect = expect(condition, Some(kept.revision), true)?;
    pen.write((path, Some(kept.revision)), None, expect).await?;
    Ok(Outcome::Deleted)
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
                    faults.push(fault(&pointer, "duplicate", format!("there are two {path}"), None));
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
    let turn = heavy_turn(&core.turns.trials).await?;
    let snapshot = core.directory.load_full();
    let placed = |body| {
        let of = scope_of(caller, reach, &body);
        (body, of)
    };
    let documents: Vec<_> = documents.into_iter().map(placed).collect();
    let known = Arc::clone(&snapshot);
    let candidates = aside(&turn, move || candidates(&known, &documents)).await?.map_err(invalid)?;
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
        (replay, is_enough) = aside(&turn, move || {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_gives_up_has_its_turn_until_the_work_is_done() {
        let turns = Arc::new(Semaphore::new(1));
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        let given_up = async {
            let turn = heavy_turn(&turns).await.unwrap();
            aside(&turn, move || until_done.recv()).await
        };
        assert!(tokio::time::timeout(Duration::from_millis(50), given_up).await.is_err());
        assert_eq!(turns.available_permits(), 0, "the work goes on");
        done.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), heavy_turn(&turns)).await.unwrap().unwrap();
    }
}
