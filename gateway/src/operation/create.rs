//! Answers a create: waits for its operation as long as the caller wants, and says how it stands.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meridian_model::{
    error::{ErrorCode, Problem},
    operation::{OperationRecord, OperationState},
};
use meridian_policies::{
    placement,
    quota::{
        Beside,
        parts::{Pot, Pots},
        spend::{self, Moment},
        tree::{Class, Tree},
    },
};
use tokio::{sync::watch, time::Instant};

use super::{
    CreateInstance, Outcome, Refusal,
    claim::{self, Follow},
    quota_view, quotas, store_refusal,
};
use crate::{
    core::Core,
    journal::{NOTED_WITHIN, identity},
    planner::{Wish, quota_problem, tenant_quota},
    status::render,
    views,
};

/// Kept free before the request's deadline to render and send the answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);

/// Follows the operation until it ends or the caller's patience does.
///
/// # Errors
/// The operation ended without an instance.
pub async fn follow(core: &Core, follow: Follow) -> Result<Outcome, Refusal> {
    let Follow { wait, deadline, key, mut record, updates, replayed } = follow;
    let until = deadline.checked_sub(ANSWER_MARGIN).unwrap_or(deadline);
    let until = (Instant::now() + wait).min(until);
    if let Some(updates) = updates {
        record = settled(core, updates, until, |r| r.state.is_final()).await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    core.driver.vouch(&record, NOTED_WITHIN.min(left / 2)).await;
    let outcome = answer(&record, key, replayed)?;
    let warnings = core.quota_watch.warnings(&record.tenant, record.project().as_ref());
    Ok(if warnings.is_empty() { outcome } else { Outcome::Warned(Box::new(outcome), warnings) })
}

/// The latest record, as soon as it fulfils the condition; at `until` or when a drain begins at the latest: the
/// operation goes on without us, and whoever waits is told so instead of being cut off.
pub async fn settled(
    core: &Core,
    mut updates: watch::Receiver<Arc<OperationRecord>>,
    until: Instant,
    done: impl Fn(&OperationRecord) -> bool + Send,
) -> Arc<OperationRecord> {
    let ended = async {
        // An error means that the task ended; the last value is the last record it had.
        let _ = updates.wait_for(|record| done(record)).await;
    };
    tokio::select! {
        biased;
        () = ended => {}
        () = core.draining.cancelled() => {}
        () = tokio::time::sleep_until(until) => {}
    }
    updates.borrow().clone()
}

fn answer(record: &OperationRecord, key: Arc<str>, replayed: bool) -> Result<Outcome, Refusal> {
    match record.state {
        OperationState::Succeeded => match render::created(record) {
            Some(instance) => Ok(Outcome::Created {
                instance: Box::new(instance),
                key,
                replayed,
                revision: record.seq,
                operation: record.op_id.clone(),
            }),
            None => Err(Refusal::internal("a succeeded record has no adopted instance")),
        },
        OperationState::Failed | OperationState::Cancelled => {
            let problem =
                record.problem.clone().unwrap_or_else(|| Problem::new(ErrorCode::Internal, "no answer was recorded"));
            Err(Refusal { key: Some(key), replayed, ..Refusal::from(problem) })
        }
        OperationState::Claimed | OperationState::Placing => {
            Ok(Outcome::Accepted { operation: Box::new(render::create_operation(record)), key: Some(key) })
        }
    }
}

/// What a create would do, without a trace.
///
/// # Errors
/// Whatever the real call would be refused with.
pub async fn validate(core: &Core, create: CreateInstance) -> Result<Outcome, Refusal> {
    let key = create.idempotency_key.as_deref().unwrap_or_default();
    let op = core.deployment.operation_id(&create.tenant, claim::ROUTE, key).map_err(Refusal::internal)?;
    if core.fleet.get(&create.tenant, &create.name).is_some() {
        let detail = format!("tenants/{}/instances/{} exists already", create.tenant, create.name);
        return Err(Refusal::new(ErrorCode::AlreadyExists, detail));
    }
    let spec = Arc::new(create.spec);
    let books = core.ledger.books(&create.tenant).await.map_err(|e| store_refusal(&e))?;
    let usage = books.usage;
    let now = core.clock.now();
    let (tree, project) = (Tree::new(&books.tree).unwrap_or_default(), create.project.clone());
    let warnings = quotas::warnings(&tree, &books, project.as_ref(), now);
    let (spends, pots) = (books.spends.clone(), books.pots.clone());
    let quota = tenant_quota(books, &Pots::new(), create.project, Class::First);
    let wish = Wish { tenant: &create.tenant, spec: &spec, quota, tried: BTreeSet::new() };
    let planned = core.planner.plan(wish, identity::seed(&op), core.clock.now());
    if let Some(problem) = planned.problem {
        return Err(problem.into());
    }
    let charge = placement::charge_of(&planned.decision.candidates, Beside::of(&spec));
    if let Some(first) = planned.decision.candidates.first() {
        let pot =
            Pot { project, provider: Some(first.adapter.clone()), region: Some(first.region.clone()), gpu_model: None };
        let (money, moment) = ((&spends, &pots), (&Moment::of(now), spec.active_deadline_seconds));
        spend::affords(&tree, money, (&Pots::new(), &[(pot, charge)].into()), moment)
            .map_err(|shortage| Refusal::from(quota_problem(shortage)))?;
    }
    let used = meridian_policies::quota::charge(usage.used, charge, &usage.limits)
        .map_err(|shortage| Refusal::from(quota_problem(shortage)))?;
    Ok(Outcome::Validated(Box::new(views::Validation {
        spec: Some(spec),
        placement: Some(planned.decision),
        quota: Some(quota_view(&create.tenant, Some(used), usage.limits)),
        warnings,
        policies: Vec::new(),
    })))
}
