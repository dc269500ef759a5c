//! Attempts that were given up while something of theirs may exist or appear, and what an operation is charged for all
//! that may exist. Pure, like the rest of the machine.
//!
//! Each condemned attempt is looked for, deleted and proven absent while the operation goes on; it is charged until
//! then. Two things lead here: a doubt that the spec will not wait for (`onDoubt: replace`), and an instance of ours
//! that a sweep shows beside the adopted one.

use meridian_adapters::AdapterError;
use meridian_model::{
    ids::{CloudId, CloudName},
    instance::OnDoubt,
    operation::{Attempt, AttemptState, Charge, OperationRecord, OperationState},
    status::Observed,
    time::Time,
};
use meridian_policies::{
    placement,
    quota::{self, Beside, parts::taken_by},
};

use super::{Next, next, set};

/// Which of a record's condemned attempts: two may bear one name, and one may not have an id yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    /// Its name.
    pub name: CloudName,
    /// Its id, once it was found.
    pub cloud_id: Option<CloudId>,
}

impl Which {
    /// The way to find an attempt again.
    #[must_use]
    pub fn of(attempt: &Attempt) -> Self {
        Self { name: attempt.name.clone(), cloud_id: attempt.cloud_id.clone() }
    }

    fn is(&self, attempt: &Attempt) -> bool {
        attempt.name == self.name && attempt.cloud_id == self.cloud_id
    }
}

/// What was found out about a condemned attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// It exists, under this id.
    Found(Which, CloudId),
    /// It was proven not to exist.
    Gone(Which),
}

/// The record with its attempt in doubt given up in favour of the next candidate, and charged for both: `None` unless
/// the spec wants that, a candidate is left, and no removal was asked for. The epoch rises, so that whatever shows up
/// later is known to be of before.
#[must_use]
pub fn replaced(mut record: OperationRecord, now: Time) -> Option<OperationRecord> {
    if record.spec.placement.on_doubt != OnDoubt::Replace || record.removal.is_some() || record.state.is_final() {
        return None;
    }
    let mut attempt = record.attempts.pop_if(|a| a.state == AttemptState::InDoubt)?;
    attempt.changed_at = now;
    record.condemned.push(attempt);
    record.epoch = record.epoch.saturating_add(1);
    let Next::Arm(_) = next(&record) else { return None };
    record.charge = quota::max(record.charge, held(&record));
    record.due = Some(now);
    record.updated_at = now;
    Some(record)
}

/// The record with an instance condemned that a sweep showed beside what the record says. `None` when it is known, or
/// when the record is gone: then the instance is nobody's. With `charged` the quota must hold it too; without, it is
/// deleted all the same.
#[must_use]
pub fn stray(mut record: OperationRecord, stray: &Attempt, charged: bool, now: Time) -> Option<OperationRecord> {
    let which = Which::of(stray);
    let open = record.open_attempt();
    // An attempt without an id yet may be this very instance: its own look-up decides.
    let is_known = record.condemned.iter().any(|a| which.is(a) || a.name == which.name && a.cloud_id.is_none())
        || open.is_some_and(|a| which.is(a) || a.name == which.name && a.cloud_id.is_none());
    if is_known || record.is_gone() || stray.cloud_id.is_none() {
        return None;
    }
    // What the quota does not hold takes nothing of what it holds: the charge stays where the operation's own lies.
    let takes = Some(if charged { taken_by(&record, stray) } else { Charge::default() });
    record.condemned.push(Attempt { state: AttemptState::Removing, takes, changed_at: now, ..stray.clone() });
    if charged {
        record.charge = quota::max(record.charge, held(&record));
    }
    record.due = Some(now);
    record.updated_at = now;
    Some(record)
}

/// The record after the create of `attempt` was answered; `None` when that changes nothing. Usually the attempt is the
/// open one, and `settle` says what becomes of it. When it was closed or followed by another meanwhile, an instance that
/// the answer names exists all the same: it is condemned, charged if the quota holds it (`charged`). Only where the
/// operation is gone it is nobody's, and the reconciler's to find.
#[must_use]
pub fn answered(
    record: OperationRecord,
    (attempt, result): (&Attempt, &Result<CloudId, AdapterError>),
    settle: impl Fn(OperationRecord, &Result<CloudId, AdapterError>, Time) -> OperationRecord,
    charged: bool,
    now: Time,
) -> Option<OperationRecord> {
    let is_open = record.open_attempt().is_some_and(|open| open.name == attempt.name);
    let record = if is_open { settle(record, result, now) } else { record };
    if let Ok(id) = result {
        let made = Attempt { cloud_id: Some(id.clone()), ..attempt.clone() };
        if let Some(condemned) = stray(record.clone(), &made, charged, now) {
            return Some(condemned);
        }
    }
    is_open.then_some(record)
}

/// The record after something was found out about a condemned attempt; `None` when that changes nothing.
#[must_use]
pub fn learned(mut record: OperationRecord, finding: &Finding, now: Time) -> Option<OperationRecord> {
    match finding {
        Finding::Found(which, id) => {
            let known = |a: &Attempt| a.cloud_id.as_ref() == Some(id);
            if record.open_attempt().is_some_and(known) || record.condemned.iter().any(known) {
                return None;
            }
            let attempt = record.condemned.iter_mut().find(|a| which.is(a))?;
            attempt.cloud_id = Some(id.clone());
            set(attempt, AttemptState::Removing, now);
            record.due = Some(now);
            record.updated_at = now;
            Some(record)
        }
        Finding::Gone(which) => {
            let at = record.condemned.iter().position(|a| which.is(a))?;
            let mut attempt = record.condemned.remove(at);
            set(&mut attempt, AttemptState::Absent, now);
            remember(&mut record, attempt);
            Some(rested(record, now))
        }
    }
}

/// Puts a closed attempt back among those that were made, unless it would stand where the operation's own stands.
fn remember(record: &mut OperationRecord, attempt: Attempt) {
    let is_known = record.attempts.iter().any(|a| a.n == attempt.n);
    let has_own = record.open_attempt().is_some() || record.state == OperationState::Succeeded;
    let before_own = !has_own || record.attempts.last().is_some_and(|own| attempt.n < own.n);
    if before_own && !is_known {
        let at = record.attempts.partition_point(|a| a.n < attempt.n);
        record.attempts.insert(at, attempt);
    }
}

/// The first id among what a look-up by name showed: more than one must not happen, and the others are seen by the next
/// sweep.
#[must_use]
pub fn first_id(found: &[Observed]) -> Option<CloudId> {
    found.iter().filter(|o| o.id.is_some()).min_by_key(|o| (o.created_at, o.id.clone())).and_then(|o| o.id.clone())
}

/// What condemned attempts are charged.
#[must_use]
pub fn charge(record: &OperationRecord) -> Charge {
    record.condemned.iter().fold(Charge::default(), |sum, attempt| quota::sum(sum, taken_by(record, attempt)))
}

/// What may exist of the operation at this moment or may be made by its plan: more is never charged, and less only if
/// the quota did not hold a stray.
#[must_use]
pub fn held(record: &OperationRecord) -> Charge {
    quota::sum(own(record), charge(record))
}

/// The part of the operation itself.
fn own(record: &OperationRecord) -> Charge {
    let open = record.open_attempt();
    let asked = open.map(|a| taken_by(record, a)).unwrap_or_default();
    match record.state {
        OperationState::Claimed | OperationState::Placing => {
            let planned = record.decision.as_ref().map(|d| d.candidates.as_slice()).unwrap_or_default();
            quota::max(asked, placement::charge_of(planned, Beside::of(&record.spec)))
        }
        OperationState::Failed | OperationState::Cancelled => Charge::default(),
        OperationState::Succeeded if open.is_none() => Charge::default(),
        OperationState::Succeeded => {
            // What ended cannot run any more, but its public address is the vendor's and billed until the delete.
            let ended = record.last_seen.as_ref().is_some_and(|(_, seen)| seen.phase.is_ended());
            let size = record.adopted.as_ref().map(|seen| &seen.shape);
            let cpu = size.map(|s| s.cpu).filter(|cpu| cpu.0 > 0).unwrap_or(asked.cpu);
            let memory = size.map(|s| s.memory).filter(|memory| memory.0 > 0).unwrap_or(asked.memory);
            let all = Charge { cpu, memory, ..asked };
            if ended { Charge { public_ips: all.public_ips, ..Charge::default() } } else { all }
        }
    }
}

/// The record after something of it was proven gone or ended: charged for what is left, done if nothing is.
pub(super) fn rested(mut record: OperationRecord, now: Time) -> OperationRecord {
    let nothing_left = record.open_attempt().is_none() && record.condemned.is_empty();
    if nothing_left
        && record.state == OperationState::Succeeded
        && let Some(removal) = &mut record.removal
    {
        removal.completed_at.get_or_insert(now);
    }
    record.charge = quota::min(record.charge, held(&record));
    record.updated_at = now;
    record.due = (next(&record) != Next::Done).then_some(now);
    record
}

/// The record of an instance that was lost and is now to be deleted: nothing is left to delete.
#[must_use]
pub fn completed(record: OperationRecord, now: Time) -> OperationRecord {
    rested(record, now)
}
