//! From a record and the last sight of its instance to the public resources. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use meridian_model::{
    operation::{AttemptState, OperationRecord, OperationState, PROJECT},
    status::{Condition, Observed, ObservedPhase, Phase},
    time::Time,
};

use crate::{journal::machine, views};

/// One sight of an instance at its backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// When the call that showed it was sent.
    pub at: Time,
    /// What it showed.
    pub observed: Observed,
}

/// The instance resource.
#[must_use]
pub fn instance(record: &OperationRecord, seen: Option<&Sighting>, stale: bool) -> views::Instance {
    let status = status(record, seen, stale);
    let mut annotations = record.annotations.clone();
    annotations.remove(PROJECT);
    views::Instance {
        name: format!("tenants/{}/instances/{}", record.tenant, record.name),
        uid: record.uid.clone(),
        tenant: record.tenant.clone(),
        labels: record.labels.clone(),
        project: record.project(),
        annotations,
        generation: record.epoch,
        etag: etag(record, seen),
        create_time: record.created_at,
        update_time: record.updated_at,
        spec: std::sync::Arc::clone(&record.spec),
        status,
    }
}

/// The instance as it was when it was adopted: the same for every repetition of its create, whatever happened
/// since. `None` while nothing was adopted.
#[must_use]
pub fn created(record: &OperationRecord) -> Option<views::Instance> {
    let (ran_at, adopted) = (record.ran_at?, record.adopted.as_ref()?);
    let mut then = record.clone();
    // Undo what a later delete or end changed; everything else in the record is fixed at adoption.
    then.removal = None;
    then.rev = 0;
    then.updated_at = ran_at;
    if let Some(attempt) = then.attempts.last_mut() {
        attempt.state = AttemptState::Running;
        attempt.changed_at = ran_at;
        attempt.fault = None;
    }
    let seen = Sighting { at: ran_at, observed: adopted.clone() };
    Some(instance(&then, Some(&seen), false))
}

/// Changes with the record and with what was seen, not with when it was seen.
fn etag(record: &OperationRecord, seen: Option<&Sighting>) -> String {
    let mut hasher = DefaultHasher::new();
    seen.map(|s| &s.observed).hash(&mut hasher);
    format!("{}-{:016x}", record.rev, hasher.finish())
}

/// Summary of record and sight.
#[must_use]
pub fn phase(record: &OperationRecord, seen: Option<&Observed>) -> Phase {
    if record.removal.as_ref().is_some_and(|r| r.completed_at.is_none()) {
        return Phase::Terminating;
    }
    if machine::is_lost(record) {
        return Phase::Failed;
    }
    match record.state {
        OperationState::Claimed | OperationState::Placing => Phase::Pending,
        OperationState::Failed | OperationState::Cancelled => Phase::Failed,
        OperationState::Succeeded => match seen.map(|o| o.phase) {
            Some(ObservedPhase::Running | ObservedPhase::Updating) => Phase::Running,
            Some(ObservedPhase::Succeeded) => Phase::Succeeded,
            Some(ObservedPhase::Failed | ObservedPhase::Reclaimed | ObservedPhase::Unplaceable) => Phase::Failed,
            Some(ObservedPhase::Terminating) => Phase::Terminating,
            Some(ObservedPhase::Placing | ObservedPhase::Starting | ObservedPhase::Unknown) | None => Phase::Pending,
        },
    }
}

fn status(record: &OperationRecord, seen: Option<&Sighting>, stale: bool) -> views::InstanceStatus {
    let observed = seen.map(|s| &s.observed);
    let attempt = record.attempts.last();
    let lost = machine::is_lost(record);
    let at = attempt.filter(|a| lost || !a.state.is_closed());
    let mut status = views::InstanceStatus {
        phase: phase(record, observed),
        adapter: at.map(|a| a.adapter.clone()),
        backend: at.map(|a| a.backend.clone()),
        region: at.map(|a| a.region.clone()),
        zone: at.map(|a| a.zone.clone()),
        cloud_id: at.and_then(|a| a.cloud_id.clone()),
        shape: at.map(|a| a.shape.clone()),
        price_per_hour: at.and_then(|a| a.price),
        conditions: conditions(record, observed),
        start_time: record.ran_at,
        attempts: record.attempts.len() + record.condemned.len(),
        operation: Some(record.op_id.clone()),
        stale,
        ..views::InstanceStatus::default()
    };
    if let Some(fault) = attempt.and_then(|a| a.fault.as_ref()) {
        status.reason = if lost { "Lost".to_owned() } else { fault.kind.as_str().to_owned() };
        status.message = fault.public_text();
    }
    if let Some(Sighting { at, observed }) = seen {
        status.observed_at = Some(*at);
        status.private_ip.clone_from(&observed.private_ip);
        status.public_ip.clone_from(&observed.public_ip);
        status.containers.clone_from(&observed.containers);
        status.finish_time = observed.finished_at;
        if observed.zone.is_some() {
            status.zone.clone_from(&observed.zone);
        }
        if !observed.reason.is_empty() && !lost {
            status.reason.clone_from(&observed.reason);
            status.message.clone_from(&observed.message);
        }
    }
    if let Some((reason, _)) = taken_back(record) {
        status.reason = QUOTA_RECLAIMED.to_owned();
        status.message = reason.to_owned();
    }
    status
}

/// Reason and condition of an instance that the gateway itself removes.
const QUOTA_RECLAIMED: &str = "QuotaReclaimed";

/// Why the gateway removes an instance that nobody asked it to remove, and since when.
fn taken_back(record: &OperationRecord) -> Option<(&str, Time)> {
    let removal = record.removal.as_ref()?;
    Some((removal.reason.as_deref()?, removal.requested_at))
}

fn conditions(record: &OperationRecord, observed: Option<&Observed>) -> Vec<Condition> {
    let condition = |kind: &str, holds: bool, reason: &str, message: String, since: Time| Condition {
        kind: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since,
    };
    let placed = match record.ran_at {
        Some(at) => condition("Placed", true, "Adopted", format!("after {} attempts", record.attempts.len()), at),
        None => {
            let (reason, since) = record
                .attempts
                .last()
                .map_or(("Claimed", record.created_at), |a| (attempt_reason(a.state), a.changed_at));
            condition("Placed", false, reason, progress_text(record), since)
        }
    };
    let containers = observed.map(|o| o.containers.as_slice()).unwrap_or_default();
    let mut apps = containers.iter().filter(|c| !c.init);
    let lost = machine::is_lost(record);
    let running = observed.is_some_and(|o| o.phase == ObservedPhase::Running) && !lost;
    let ready = running && apps.clone().next().is_some() && apps.all(|c| c.ready);
    let reason = if ready { "ContainersReady" } else { "ContainersNotReady" };
    let mut all =
        vec![placed, condition("Ready", ready, reason, String::new(), record.ran_at.unwrap_or(record.created_at))];
    if let Some(attempt) = record.attempts.last().filter(|_| lost) {
        let why = attempt.fault.as_ref().map(|f| f.message.clone()).unwrap_or_default();
        all.push(condition("Lost", true, "ProvenGone", why, attempt.changed_at));
    }
    if let Some(since) = record.condemned.iter().map(|a| a.changed_at).min() {
        let text = format!("{} attempts that were given up are being removed", record.condemned.len());
        all.push(condition("Clearing", true, "Condemned", text, since));
    }
    if let Some((reason, since)) = taken_back(record) {
        all.push(condition(QUOTA_RECLAIMED, true, QUOTA_RECLAIMED, reason.to_owned(), since));
    }
    all
}

const fn attempt_reason(state: AttemptState) -> &'static str {
    match state {
        AttemptState::Open => "Creating",
        AttemptState::InDoubt => "InDoubt",
        AttemptState::Applied => "Starting",
        AttemptState::Running => "Running",
        AttemptState::Unplaceable => "Unplaceable",
        AttemptState::Removing => "Removing",
        AttemptState::Refused => "Refused",
        AttemptState::Absent => "Absent",
    }
}

/// Where an operation stands, in words.
fn progress_text(record: &OperationRecord) -> String {
    match record.attempts.last() {
        Some(_) if machine::is_undetermined(record) => {
            "the outcome cannot be found out any more; a person must settle it".to_owned()
        }
        Some(_) if machine::is_lost(record) => "lost".to_owned(),
        None => "planning".to_owned(),
        Some(a) => {
            let what = match a.state {
                AttemptState::Open => "creating",
                AttemptState::InDoubt => "outcome unknown, looking it up",
                AttemptState::Applied => "created, waiting for it to run",
                AttemptState::Running => "running",
                AttemptState::Unplaceable => "no capacity, removing",
                AttemptState::Removing => "removing",
                AttemptState::Refused => "refused",
                AttemptState::Absent => "withdrawn",
            };
            format!("attempt {} in {}/{}: {what}", a.n, a.region, a.zone)
        }
    }
}

/// The create operation.
#[must_use]
pub fn create_operation(record: &OperationRecord) -> views::Operation {
    views::Operation {
        name: format!("tenants/{}/operations/{}", record.tenant, record.op_id),
        verb: "create",
        target: format!("tenants/{}/instances/{}", record.tenant, record.name),
        done: record.state.is_final(),
        state: record.state.as_str(),
        undetermined: machine::is_undetermined(record),
        progress: progress(record),
        attempts: record.attempt_views(),
        error: record.problem.clone(),
        response: created(record).map(Box::new),
        create_time: record.created_at,
        update_time: record.updated_at,
        revision: record.seq.to_string(),
    }
}

/// Suffix of the id of the operation that deletes an operation's instance.
pub const DELETE_SUFFIX: &str = "-delete";

/// The delete operation; `None` when no delete was asked for.
#[must_use]
pub fn delete_operation(record: &OperationRecord) -> Option<views::Operation> {
    let removal = record.removal.as_ref()?;
    let done = removal.completed_at.is_some();
    Some(views::Operation {
        name: format!("tenants/{}/operations/{}{DELETE_SUFFIX}", record.tenant, record.op_id),
        verb: "delete",
        target: format!("tenants/{}/instances/{}", record.tenant, record.name),
        done,
        state: if done { OperationState::Succeeded.as_str() } else { "removing" },
        undetermined: false,
        progress: deletion(record),
        attempts: Vec::new(),
        error: None,
        response: None,
        create_time: removal.requested_at,
        update_time: removal.completed_at.unwrap_or(record.updated_at),
        revision: record.seq.to_string(),
    })
}

/// The progress of a delete; one that the gateway wants itself says why.
fn deletion(record: &OperationRecord) -> views::Progress {
    let progress = progress(record);
    match taken_back(record) {
        Some((reason, _)) => views::Progress { message: format!("{}: {reason}", progress.message), ..progress },
        None => progress,
    }
}

fn progress(record: &OperationRecord) -> views::Progress {
    let candidates = record.decision.as_ref().map_or(0, |d| d.candidates.len());
    views::Progress {
        done: record.attempts.iter().filter(|a| a.state.is_closed() || a.state == AttemptState::Running).count(),
        total: candidates.max(record.attempts.len()),
        message: progress_text(record),
    }
}
