//! The life of an operation as pure functions: what to do next, and what the record becomes.
//!
//! [`next`] looks only at a record and the time and says what its owner should do; the functions below it turn
//! the result of what was done into the next record. Neither knows a socket, a store or a clock, and both are
//! total: any record with any result gives an answer. The happy path, failover and recovery after a crash are
//! the same walk, begun at different records.
//!
//! Rules that the shape of this module holds (RELIABILITY 2):
//! - a record has at most one open attempt, and [`arm`] is the only way to open one; beside it there may be condemned
//!   ones (module [`condemned`]), of which none ever becomes the operation's instance;
//! - an attempt is closed only by a definite refusal or by proven absence, never by time alone;
//! - while an attempt is in doubt no other candidate is considered, unless the spec says `onDoubt: replace`: then it is
//!   condemned first;
//! - from the moment a removal is asked for, no attempt is opened;
//! - an operation fails, is cancelled or is deleted only when nothing of it exists, condemned attempts included;
//! - the charge covers what the open attempt may take and every condemned one, and shrinks only by proof.
//!
//! Times in a record are of the clock of the gateway that wrote them; two gateways' clocks may differ by what the
//! vendors tolerate in a signature (a minute and an alarm, RELIABILITY 2.3). Nothing is concluded from such a
//! difference that would be wrong by a minute: absence needs the owner's own monotonic clock as well
//! (`Doubt` in `task`), an attempt's time to run may end a minute early or late, and what is undetermined is so after
//! 45 minutes, give or take one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meridian_adapters::AdapterError;
use meridian_model::{
    bugs,
    error::{Effect, ErrorCode, FaultKind, Problem, QuotaShortage},
    ids::{BackendId, ClientToken, CloudId, CloudName},
    instance::RestartPolicy,
    operation::{
        Attempt, AttemptFault, AttemptState, Charge, Decision, IMPORTED, OperationRecord, OperationState, REBUILT,
        RankedCandidate, RejectedCandidate, Rejection,
    },
    quota::{Line, Scope},
    status::{ContainerPhase, Observed, ObservedEvent, ObservedPhase},
    time::Time,
};
use meridian_policies::{
    health::ZoneKey,
    placement,
    quota::{self, Beside},
};

pub mod condemned;

use self::condemned::{Finding, Which};

/// What the owner of a record should do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Make a plan.
    Plan,
    /// Open an attempt at this candidate, then send its create.
    Arm(Box<RankedCandidate>),
    /// Every candidate was tried or skipped: end with this problem.
    GiveUp(Box<Problem>),
    /// The attempt is open, but whether its request left is not known to this owner.
    Doubt,
    /// Look the attempt's instance up by its name; resend first if the vendor recognises the token.
    Resolve,
    /// Watch the attempt's instance until it runs or `until` has passed.
    Watch {
        /// When the next candidate's turn comes.
        until: Time,
    },
    /// Delete the attempt's instance and prove that it is gone.
    Remove,
    /// Only what was given up is left to be removed: wait for that.
    Clear,
    /// End as cancelled: nothing exists.
    Cancel,
    /// End the removal of an instance that was lost before: nothing exists.
    Complete,
    /// Nothing is left to do.
    Done,
}

/// Settings the walk depends on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long an attempt may take to run if the spec says nothing.
    pub place_timeout: Duration,
    /// Attempts of one operation if the spec says nothing.
    pub attempts_max: u32,
}

/// What the owner should do next.
#[must_use]
pub fn next(record: &OperationRecord) -> Next {
    let clears = !record.condemned.is_empty();
    if let Some(attempt) = record.open_attempt() {
        return match next_of_attempt(record, attempt) {
            Next::Done if clears => Next::Clear,
            next => next,
        };
    }
    let removal = record.removal.as_ref();
    if record.state.is_final() {
        return match record.state {
            _ if clears => Next::Clear,
            OperationState::Succeeded if removal.is_some_and(|r| r.completed_at.is_none()) => Next::Complete,
            _ => Next::Done,
        };
    }
    if removal.is_some() && !bugs::planted(bugs::REMOVAL_IGNORED) {
        return if clears { Next::Clear } else { Next::Cancel };
    }
    if record.annotations.contains_key(IMPORTED) {
        let problem = Problem::new(ErrorCode::Conflict, "the import was interrupted; repeat it");
        return if clears { Next::Clear } else { Next::GiveUp(Box::new(problem)) };
    }
    if !knows_wish(record) {
        let detail = "nothing of it exists, and what was asked for was lost with the ledger; ask again under a new key";
        let problem = Problem::new(ErrorCode::Conflict, detail);
        return if clears { Next::Clear } else { Next::GiveUp(Box::new(problem)) };
    }
    let Some(decision) = &record.decision else { return Next::Plan };
    match next_candidate(record, decision) {
        Some(candidate) => Next::Arm(Box::new(candidate.clone())),
        None if may_replan(record, decision) => Next::Plan,
        None if clears => Next::Clear,
        None => Next::GiveUp(Box::new(exhausted(record))),
    }
}

/// Whether what was asked for is known: without it nothing may be sent, not under a token either that was sent before.
#[must_use]
pub fn knows_wish(record: &OperationRecord) -> bool {
    !record.annotations.contains_key(REBUILT)
}

/// Every attempt that was made, open, closed or condemned.
fn all_attempts(record: &OperationRecord) -> impl Iterator<Item = &Attempt> {
    record.attempts.iter().chain(&record.condemned)
}

/// Code of the fault of an attempt that was never sent because the intent journal of its gateway could not be written.
pub const UNWRITTEN: &str = "meridian.intent-unwritten";

/// So many attempts may come to nothing by a gateway's own disk before they count: with the most attempts that a
/// configuration allows (20) their numbers stay below what a cloud name holds (32).
const UNWRITTEN_MAX: usize = 8;

fn is_unwritten(attempt: &Attempt) -> bool {
    attempt.fault.as_ref().is_some_and(|fault| fault.code == UNWRITTEN)
}

/// Every attempt that says something of its zone: not those that a gateway's own disk kept from being sent, unless there
/// are too many of them.
fn tried_attempts(record: &OperationRecord) -> impl Iterator<Item = &Attempt> {
    let all_count = all_attempts(record).filter(|a| is_unwritten(a)).count() > UNWRITTEN_MAX;
    all_attempts(record).filter(move |a| all_count || !is_unwritten(a))
}

/// Something was tried since the plan was made, so what was only doubtful then may be all that is left now: zones
/// remembered as sold out, throttled or ejected.
fn may_replan(record: &OperationRecord, decision: &Decision) -> bool {
    let last = all_attempts(record).max_by_key(|a| a.n);
    let untried = |r: &RejectedCandidate| {
        all_attempts(record).all(|a| Some(&a.zone) != r.zone.as_ref() || a.backend != r.backend)
    };
    last.is_some_and(|a| a.changed_at > decision.at && !is_terminal_fault(a))
        && decision.rejected.iter().any(|r| untried(r) && placement::is_only_soft(r))
}

fn next_of_attempt(record: &OperationRecord, attempt: &Attempt) -> Next {
    match attempt.state {
        AttemptState::Open => Next::Doubt,
        AttemptState::InDoubt => Next::Resolve,
        AttemptState::Applied if record.removal.is_some() && !bugs::planted(bugs::REMOVAL_IGNORED) => Next::Remove,
        AttemptState::Applied => Next::Watch { until: attempt.place_until.unwrap_or(attempt.changed_at) },
        AttemptState::Running if wants_removal(record) => Next::Remove,
        AttemptState::Running => Next::Done,
        AttemptState::Unplaceable | AttemptState::Removing => Next::Remove,
        AttemptState::Refused | AttemptState::Absent => Next::Done,
    }
}

/// The instance runs, is to be removed, and is not.
fn wants_removal(record: &OperationRecord) -> bool {
    record.removal.as_ref().is_some_and(|r| r.completed_at.is_none()) && !bugs::planted(bugs::REMOVAL_IGNORED)
}

/// The best candidate whose zone was not tried and whose backend did not fail as a whole.
fn next_candidate<'a>(record: &OperationRecord, decision: &'a Decision) -> Option<&'a RankedCandidate> {
    if record.attempts.last().is_some_and(is_terminal_fault) {
        return None;
    }
    decision.candidates.iter().find(|candidate| {
        tried_attempts(record).all(|tried| {
            tried.backend != candidate.backend || (tried.zone != candidate.zone && !is_backend_wide(tried))
        })
    })
}

/// The zones a further plan need not consider: those tried, and those of backends that failed as a whole.
#[must_use]
pub fn tried(record: &OperationRecord) -> BTreeSet<ZoneKey> {
    let failed = |backend: &BackendId| all_attempts(record).any(|a| a.backend == *backend && is_backend_wide(a));
    let planned = record.decision.iter().flat_map(|d| &d.candidates);
    let skipped = planned.filter(|c| failed(&c.backend)).map(|c| ZoneKey::new(c.backend.clone(), c.zone.clone()));
    let attempted = tried_attempts(record).map(|a| ZoneKey::new(a.backend.clone(), a.zone.clone()));
    attempted.chain(skipped).collect()
}

/// The request is wrong everywhere: trying elsewhere would only repeat the refusal.
fn is_terminal_fault(attempt: &Attempt) -> bool {
    attempt.fault.as_ref().is_some_and(|f| !f.kind.try_elsewhere())
}

/// What stopped the attempt stands for the whole account in that region, not for one zone.
fn is_backend_wide(attempt: &Attempt) -> bool {
    attempt.fault.as_ref().is_some_and(|fault| {
        matches!(
            fault.kind,
            FaultKind::Quota
                | FaultKind::Credentials
                | FaultKind::Account
                | FaultKind::Gone
                | FaultKind::BreakerOpen
                | FaultKind::Unreachable
                | FaultKind::Throttled
        )
    })
}

/// The record with its plan; a later plan adds its candidates to those of the first.
#[must_use]
pub fn planned(mut record: OperationRecord, mut decision: Decision, now: Time) -> OperationRecord {
    if let Some(earlier) = record.decision.take() {
        let known = |c: &RankedCandidate| earlier.candidates.iter().any(|e| e.backend == c.backend && e.zone == c.zone);
        decision.candidates.retain(|c| !known(c));
        decision.candidates.splice(0..0, Arc::unwrap_or_clone(earlier).candidates);
    }
    record.decision = Some(Arc::new(decision));
    record.updated_at = now;
    record
}

/// The record without the candidates that lie where a quota is exhausted; `None` when the quota is not of a place, or no
/// other candidate is left to be tried. It is written with the next attempt, like the plan.
#[must_use]
pub fn without_place(record: &OperationRecord, shortage: &QuotaShortage) -> Option<OperationRecord> {
    let line: Line = shortage.dimension.parse().ok().filter(|line: &Line| line.scope != Scope::Total)?;
    let is_there = |c: &RankedCandidate| match &line.scope {
        Scope::Total => true,
        Scope::Provider(name) => c.adapter == *name,
        Scope::Region(name) => c.region == *name,
    };
    let mut record = record.clone();
    let decision = Arc::make_mut(record.decision.as_mut()?);
    let (full, left): (Vec<_>, Vec<_>) = std::mem::take(&mut decision.candidates).into_iter().partition(is_there);
    let reason = Rejection {
        filter: "tenant-quota".to_owned(),
        detail: format!("{} quota of {}: {} used", shortage.dimension, shortage.limit, shortage.used),
        pointer: None,
        until: None,
    };
    decision.candidates = left;
    decision.rejected.extend(full.into_iter().map(|c| RejectedCandidate {
        backend: c.backend,
        adapter: c.adapter,
        region: c.region,
        zone: Some(c.zone),
        reasons: vec![reason.clone()],
    }));
    next_candidate(&record, record.decision.as_deref()?)?;
    Some(record)
}

/// Names of a new attempt.
#[derive(Debug, Clone)]
pub struct Names {
    /// Client token.
    pub token: ClientToken,
    /// Cloud name.
    pub name: CloudName,
}

/// The number the next attempt will have.
#[must_use]
pub fn next_number(record: &OperationRecord) -> u32 {
    all_attempts(record).map(|a| a.n).max().unwrap_or_default().saturating_add(1)
}

/// The record with a new open attempt and the operation's charge, beside that of what is condemned. Refused (`None`) when an attempt is open, a
/// removal was asked for, or the operation has ended.
#[must_use]
pub fn arm(
    mut record: OperationRecord,
    candidate: &RankedCandidate,
    names: Names,
    (charge, limits): (Charge, Limits),
    now: Time,
) -> Option<OperationRecord> {
    let removed = record.removal.is_some() && !bugs::planted(bugs::REMOVAL_IGNORED);
    if record.open_attempt().is_some() || removed || record.state.is_final() {
        return None;
    }
    let timeout = record.spec.placement.place_timeout.map_or(limits.place_timeout, |span| span.0);
    let n = next_number(&record);
    record.attempts.push(Attempt {
        n,
        backend: candidate.backend.clone(),
        adapter: candidate.adapter.clone(),
        region: candidate.region.clone(),
        zone: candidate.zone.clone(),
        token: names.token,
        name: names.name,
        shape: candidate.shape.clone(),
        price: candidate.price,
        takes: Some(quota::charge_of(&candidate.shape, Beside::of(&record.spec).at(candidate.price))),
        state: AttemptState::Open,
        started_at: now,
        armed_at: now,
        sends: 1,
        cloud_id: None,
        place_until: Some(now + timeout),
        fault: None,
        changed_at: now,
    });
    record.state = OperationState::Placing;
    record.charge = quota::sum(charge, condemned::charge(&record));
    record.due = Some(now);
    record.updated_at = now;
    Some(record)
}

/// Whether sending the token of an attempt in doubt once more may tell what became of it. After a repetition was
/// refused it would only ask again for what the vendor refuses, and could make what the look-ups miss.
#[must_use]
pub fn repetition_may_tell(attempt: &Attempt) -> bool {
    attempt.fault.as_ref().is_none_or(|fault| !is_refusal(fault.kind, fault.effect))
}

/// The vendor said no to what was asked; anything else may be answered differently in a moment.
fn is_refusal(kind: FaultKind, effect: Effect) -> bool {
    let passing =
        matches!(kind, FaultKind::Throttled | FaultKind::Temporary | FaultKind::Unreachable | FaultKind::BreakerOpen);
    effect == Effect::NotApplied && !passing
}

/// The vendor refused what was asked under a token that it knew of: who asks is looked at before the token, so that a
/// refusal of the whole account says nothing of what the token made.
fn tells_of_token(kind: FaultKind, effect: Effect) -> bool {
    let of_account = matches!(kind, FaultKind::Credentials | FaultKind::Account | FaultKind::Gone);
    is_refusal(kind, effect) && (!of_account || bugs::planted(bugs::REFUSAL_BELIEVED))
}

/// The record before its token is sent once more.
#[must_use]
pub fn rearmed(mut record: OperationRecord, now: Time) -> OperationRecord {
    if let Some(attempt) = record.open_attempt_mut().filter(|a| a.state == AttemptState::InDoubt) {
        attempt.sends = attempt.sends.saturating_add(1);
        attempt.armed_at = now;
    }
    touched(record, now)
}

/// The record after a create was answered, or was not.
#[must_use]
pub fn sent(mut record: OperationRecord, result: &Result<CloudId, AdapterError>, now: Time) -> OperationRecord {
    // Whatever else happened to the attempt meanwhile was learnt later and stands.
    let unsettled = |a: &&mut Attempt| matches!(a.state, AttemptState::Open | AttemptState::InDoubt);
    if let Some(attempt) = record.open_attempt_mut().filter(unsettled) {
        match result {
            Ok(id) => {
                attempt.cloud_id = Some(id.clone());
                set(attempt, AttemptState::Applied, now);
            }
            // A refusal is definite only as the answer to the one request sent under the token (RELIABILITY 2.5 b).
            Err(error)
                if (error.effect == Effect::NotApplied && attempt.sends <= 1)
                    || bugs::planted(bugs::FAILOVER_ON_TIMEOUT) =>
            {
                attempt.fault = Some(error.into());
                set(attempt, AttemptState::Refused, now);
            }
            Err(error) => {
                attempt.fault = Some(error.into());
                set(attempt, AttemptState::InDoubt, now);
            }
        }
    }
    touched(record, now)
}

/// The record after a repetition under the token was answered when nothing sent before it could take effect any
/// more, and a look-up had just shown nothing: then a refusal of what was asked is believed too (RELIABILITY 2.5 b).
#[must_use]
pub fn sent_late(mut record: OperationRecord, result: &Result<CloudId, AdapterError>, now: Time) -> OperationRecord {
    if let Err(error) = result
        && tells_of_token(error.kind, error.effect)
        && let Some(attempt) = record.open_attempt_mut().filter(|a| a.state == AttemptState::InDoubt)
    {
        attempt.fault = Some(error.into());
        set(attempt, AttemptState::Refused, now);
        return touched(record, now);
    }
    sent(record, result, now)
}

/// The record of an owner that cannot know whether the open attempt's request left.
#[must_use]
pub fn doubted(mut record: OperationRecord, now: Time) -> OperationRecord {
    if let Some(attempt) = record.open_attempt_mut()
        && attempt.state == AttemptState::Open
    {
        set(attempt, AttemptState::InDoubt, now);
    }
    if bugs::planted(bugs::CHARGE_FREED) {
        record.charge = Charge::default();
    }
    touched(record, now)
}

/// The record of an owner that knows that the open attempt's request never left.
#[must_use]
pub fn never_sent(mut record: OperationRecord, why: AttemptFault, now: Time) -> OperationRecord {
    if let Some(attempt) = record.open_attempt_mut()
        && attempt.state == AttemptState::Open
    {
        attempt.fault = Some(why);
        set(attempt, AttemptState::Refused, now);
    }
    touched(record, now)
}

/// What a complete look-up by name showed.
#[derive(Debug, Clone)]
pub struct LookUp<'a> {
    /// Every instance with the attempt's name.
    pub found: &'a [Observed],
    /// The look-up can be believed when it shows nothing: the backend demonstrably lists what exists.
    pub proven: bool,
    /// Longest time in which a request already sent may still take effect and become visible.
    pub effect_bound: Duration,
    /// The vendor forgets instances that ended: what is not shown may have run.
    pub forgets_ended: bool,
}

/// Doubt about an instance that runs to its end, older than this, proves nothing by silence: it may have run, ended and
/// been forgotten (RELIABILITY 2.5; ECI keeps what ended over an hour ago only up to the last 100).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(45 * 60);

/// Code of the fault of an attempt whose outcome only a person can find out.
pub const UNDETERMINED: &str = "meridian.undetermined";

/// Whether only a person can find out what became of the open attempt: nothing is sent or concluded by itself; if it is
/// seen after all, it is adopted.
#[must_use]
pub fn is_undetermined(record: &OperationRecord) -> bool {
    let open = record.open_attempt().filter(|a| a.state == AttemptState::InDoubt);
    open.and_then(|a| a.fault.as_ref()).is_some_and(|f| f.code == UNDETERMINED)
}

/// What a person found out about an attempt whose outcome was not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It does not exist and did not run.
    Absent,
    /// It exists under this id.
    Applied(CloudId),
}

/// An instance is called absent on a person's word only this many effect bounds after its last request was armed, as an
/// orphan is removed only then: the clocks of two gateways differ by less than one of them.
const SETTLED_AFTER_BOUNDS: u32 = 2;

/// The attempts of which nobody knows what they made: the open one while it is in doubt, and those that were condemned
/// and not found yet.
pub fn doubts(record: &OperationRecord) -> impl Iterator<Item = &Attempt> {
    let open = record.open_attempt().filter(|a| a.state == AttemptState::InDoubt);
    open.into_iter().chain(record.condemned.iter().filter(|a| a.cloud_id.is_none()))
}

/// When a person's word that an attempt in doubt made nothing can be taken: a request that its owner may be sending at
/// this moment would make a second instance of the operation after that. Each request is journalled before it leaves, so
/// none leaves after this look that the step's revision does not tell of.
#[must_use]
pub fn may_be_settled_from(attempt: &Attempt, effect_bound: Duration) -> Time {
    attempt.armed_at + effect_bound.saturating_mul(SETTLED_AFTER_BOUNDS)
}

/// The record after a person said what became of attempt `n`; `None` when it is not in doubt, or when a request of it may
/// still take effect of which the person cannot know.
#[must_use]
pub fn decided(
    mut record: OperationRecord,
    n: u32,
    what: &Settlement,
    effect_bound: Duration,
    now: Time,
) -> Option<OperationRecord> {
    let attempt = doubts(&record).find(|a| a.n == n)?;
    if *what == Settlement::Absent && now <= may_be_settled_from(attempt, effect_bound) {
        return None;
    }
    if record.open_attempt().is_none_or(|open| open.n != n) {
        let which = Which::of(attempt);
        let finding = match what {
            Settlement::Absent => Finding::Gone(which),
            Settlement::Applied(id) => Finding::Found(which, id.clone()),
        };
        return condemned::learned(record, &finding, now);
    }
    let attempt = record.open_attempt_mut()?;
    attempt.fault = None;
    match what {
        Settlement::Absent => set(attempt, AttemptState::Absent, now),
        Settlement::Applied(id) => {
            attempt.cloud_id = Some(id.clone());
            set(attempt, AttemptState::Applied, now);
        }
    }
    Some(touched(record, now))
}

/// The record after a look-up of an attempt in doubt; `None` when the look-up settles nothing.
#[must_use]
pub fn looked_up(mut record: OperationRecord, look: &LookUp<'_>, now: Time) -> Option<OperationRecord> {
    let (undetermined, is_wanted) = (is_undetermined(&record), record.removal.is_none());
    let runs_to_its_end = record.spec.restart_policy != RestartPolicy::Always;
    let attempt = record.open_attempt_mut().filter(|a| a.state == AttemptState::InDoubt)?;
    let may_be_forgotten =
        look.forgets_ended && runs_to_its_end && now.since(attempt.started_at) > FORGOTTEN_AFTER && is_wanted;
    // More than one must not happen; the oldest is the one that a first, unanswered request made.
    let first = look.found.iter().filter(|o| o.id.is_some()).min_by_key(|o| (o.created_at, o.id.clone()));
    if let Some(seen) = first {
        attempt.cloud_id.clone_from(&seen.id);
        attempt.fault = None;
        // A doubt may outlast the time to run; what is found after it gets that time from here.
        attempt.place_until = attempt.place_until.map(|until| until.max(now + until.since(attempt.started_at)));
        set(attempt, AttemptState::Applied, now);
    } else if may_be_forgotten {
        if undetermined {
            return None;
        }
        attempt.fault = Some(AttemptFault {
            kind: FaultKind::Lost,
            effect: Effect::Unknown,
            code: UNDETERMINED.to_owned(),
            message: "it may have run, ended and been forgotten by the vendor; a person must settle it".to_owned(),
            vendor_request_id: None,
        });
    } else if look.proven && (now > attempt.armed_at + look.effect_bound || bugs::planted(bugs::SILENCE_BELIEVED)) {
        set(attempt, AttemptState::Absent, now);
    } else {
        return None;
    }
    Some(touched(record, now))
}

/// The record after the attempt's instance was seen; `None` when the sight changes nothing.
#[must_use]
pub fn sighted(mut record: OperationRecord, seen: &Observed, now: Time) -> Option<OperationRecord> {
    let attempt = record.open_attempt_mut().filter(|a| a.state == AttemptState::Applied)?;
    if seen.phase.proves_capacity() {
        attempt.fault = None;
        set(attempt, AttemptState::Running, now);
        record.state = OperationState::Succeeded;
        record.ran_at = Some(now);
        record.adopted = Some(seen.clone());
        record.last_seen = Some((now, seen.clone()));
        // What the plan charged for its largest candidate shrinks to what this one really takes.
        return Some(condemned::rested(record, now));
    }
    if seen.phase == ObservedPhase::Unplaceable {
        let message = if seen.message.is_empty() { "the vendor could not place it" } else { seen.message.as_str() };
        attempt.fault =
            Some(capacity_fault(if seen.reason.is_empty() { "unplaceable" } else { &seen.reason }, message));
        set(attempt, AttemptState::Unplaceable, now);
        return Some(touched(record, now));
    }
    None
}

/// The record after the vendor's events said that there is no stock for it.
#[must_use]
pub fn out_of_stock(mut record: OperationRecord, event: &ObservedEvent, now: Time) -> OperationRecord {
    if let Some(attempt) = record.open_attempt_mut().filter(|a| a.state == AttemptState::Applied) {
        attempt.fault = Some(capacity_fault(&event.reason, &event.message));
        set(attempt, AttemptState::Unplaceable, now);
    }
    touched(record, now)
}

/// Code of the fault of an instance that had its place and did not come to run in it.
const NOT_STARTED: &str = "not-started";

/// What keeps an instance that has its place from running, in the vendor's words: its node speaks of it (Kubernetes'
/// reasons of a kubelet). Of one that waits for a place nobody says such a thing.
#[must_use]
pub fn stands_still(seen: &Observed) -> Option<String> {
    let of_node = |reason: &str| reason.ends_with("BackOff") || reason.ends_with("Error") || reason.contains("Image");
    let stuck = seen.containers.iter().find(|c| c.state == ContainerPhase::Waiting && of_node(&c.reason))?;
    let message = if stuck.message.is_empty() { String::new() } else { format!(": {}", stuck.message) };
    Some(format!("container {} waits: {}{message}", stuck.name, stuck.reason))
}

/// The record after the attempt's time to run has passed, with what was `seen` last; `None` while it has not.
#[must_use]
pub fn timed_out(mut record: OperationRecord, seen: Option<&Observed>, now: Time) -> Option<OperationRecord> {
    let attempt = record.open_attempt_mut().filter(|a| a.state == AttemptState::Applied)?;
    if attempt.place_until.is_some_and(|until| now < until) {
        return None;
    }
    attempt.fault = Some(match seen.and_then(stands_still) {
        Some(why) => capacity_fault(NOT_STARTED, &format!("it did not run within placeTimeout; {why}")),
        None => capacity_fault("place-timeout", "it did not run within placeTimeout"),
    });
    set(attempt, AttemptState::Unplaceable, now);
    Some(touched(record, now))
}

fn capacity_fault(code: &str, message: &str) -> AttemptFault {
    AttemptFault {
        kind: FaultKind::NoCapacity,
        effect: Effect::NotApplied,
        code: code.to_owned(),
        message: message.to_owned(),
        vendor_request_id: None,
    }
}

/// The record while a delete that was asked for is carried out.
#[must_use]
pub fn removing(mut record: OperationRecord, now: Time) -> OperationRecord {
    if record.removal.is_some()
        && let Some(attempt) = record.open_attempt_mut()
        && matches!(attempt.state, AttemptState::Applied | AttemptState::Running)
    {
        set(attempt, AttemptState::Removing, now);
    }
    touched(record, now)
}

/// The record after the attempt's instance was proven gone.
#[must_use]
pub fn gone(mut record: OperationRecord, now: Time) -> OperationRecord {
    if let Some(attempt) = record.open_attempt_mut() {
        set(attempt, AttemptState::Absent, now);
    }
    if record.state == OperationState::Succeeded {
        return condemned::rested(record, now);
    }
    touched(record, now)
}

/// Code of the fault of an instance that was lost.
pub const LOST: &str = "meridian.lost";

/// Whether the operation's instance was proven gone without anybody asking for its removal.
#[must_use]
pub fn is_lost(record: &OperationRecord) -> bool {
    record.state == OperationState::Succeeded
        && record.open_attempt().is_none()
        && record.attempts.last().and_then(|a| a.fault.as_ref()).is_some_and(|f| f.code == LOST)
}

/// The record of an adopted instance that was proven gone although nobody asked for its removal: it is charged no
/// longer, and stays readable until it is deleted. `None` when the record says otherwise: another instance is adopted,
/// or it is being removed.
#[must_use]
pub fn lost(mut record: OperationRecord, id: &CloudId, why: &str, now: Time) -> Option<OperationRecord> {
    if record.state != OperationState::Succeeded || record.removal.is_some() {
        return None;
    }
    let running = |a: &&mut Attempt| a.state == AttemptState::Running && a.cloud_id.as_ref() == Some(id);
    let attempt = record.open_attempt_mut().filter(running)?;
    attempt.fault = Some(AttemptFault {
        kind: FaultKind::NotFound,
        effect: Effect::NotApplied,
        code: LOST.to_owned(),
        message: why.to_owned(),
        vendor_request_id: None,
    });
    set(attempt, AttemptState::Absent, now);
    Some(condemned::rested(record, now))
}

/// The record of a lost instance that is shown again: it is the operation's once more, and charged. `None` when it was
/// not lost, or is to be removed.
#[must_use]
pub fn returned(mut record: OperationRecord, seen: &Observed, now: Time) -> Option<OperationRecord> {
    if !is_lost(&record) || record.removal.is_some() {
        return None;
    }
    let attempt = record.attempts.last_mut().filter(|a| a.cloud_id.is_some() && a.cloud_id == seen.id)?;
    attempt.fault = None;
    set(attempt, AttemptState::Running, now);
    record.last_seen = Some((now, seen.clone()));
    record.charge = quota::max(record.charge, condemned::held(&record));
    record.due = (next(&record) != Next::Done).then_some(now);
    record.updated_at = now;
    Some(record)
}

/// The record of an instance that ended by itself: it cannot run or be billed any more, so its charge ends.
#[must_use]
pub fn ended(mut record: OperationRecord, seen: &Observed, now: Time) -> Option<OperationRecord> {
    let ends = record.state == OperationState::Succeeded && record.removal.is_none() && seen.phase.is_ended();
    let known = record.last_seen.as_ref().is_some_and(|(_, last)| last.phase.is_ended());
    if !ends || known {
        return None;
    }
    record.last_seen = Some((now, seen.clone()));
    Some(condemned::rested(record, now))
}

/// The record of an operation that ends without an instance.
#[must_use]
pub fn failed(mut record: OperationRecord, mut problem: Problem, now: Time) -> OperationRecord {
    problem.attempts = record.attempt_views();
    record.state = OperationState::Failed;
    record.problem = Some(problem);
    close(record, now)
}

/// The record of an operation that a delete ended before its instance ran.
#[must_use]
pub fn cancelled(mut record: OperationRecord, now: Time) -> OperationRecord {
    record.state = OperationState::Cancelled;
    record.problem = Some(Problem {
        attempts: record.attempt_views(),
        ..Problem::new(ErrorCode::Cancelled, "the instance was deleted before it ran; nothing of it exists")
    });
    if let Some(removal) = &mut record.removal {
        removal.completed_at = Some(now);
    }
    close(record, now)
}

fn close(mut record: OperationRecord, now: Time) -> OperationRecord {
    record.charge = Charge::default();
    record.due = None;
    record.updated_at = now;
    record
}

/// Seconds after which a create that found no capacity is worth repeating: the shortest sold-out memory.
const NO_CAPACITY_RETRY_SECONDS: u32 = 60;

/// The answer when every candidate was tried.
fn exhausted(record: &OperationRecord) -> Problem {
    if record.attempts.last().is_some_and(is_unwritten) {
        let detail =
            format!("gateways could not note what they were about to send, {UNWRITTEN_MAX} times; tell the operator");
        return Problem::new(ErrorCode::Internal, detail);
    }
    let attempts: Vec<&Attempt> = record.attempts.iter().filter(|a| !is_unwritten(a)).collect();
    let tried = attempts.len();
    let faults: Vec<&AttemptFault> = attempts.iter().filter_map(|a| a.fault.as_ref()).collect();
    if let Some(fault) = record.attempts.last().filter(|a| is_terminal_fault(a)).and_then(|a| a.fault.as_ref()) {
        return Problem::new(
            ErrorCode::BackendError,
            format!("the backend refused the instance: {}", fault.public_text()),
        );
    }
    let of_account = |f: &&AttemptFault| matches!(f.kind, FaultKind::Credentials | FaultKind::Account);
    if tried > 0 && faults.len() == tried && faults.iter().all(of_account) {
        return Problem::new(ErrorCode::BackendError, "no region accepts the operator's account; tell the operator");
    }
    if tried > 0
        && faults.len() == tried
        && faults.iter().all(|f| f.kind.is_region_fault() || f.kind == FaultKind::BreakerOpen)
    {
        return Problem::new(ErrorCode::RegionUnavailable, format!("{tried} attempts, and no region answered"))
            .with_retry_after(NO_CAPACITY_RETRY_SECONDS);
    }
    if let Some(last) = faults.last().filter(|_| faults.len() == tried && faults.iter().all(|f| f.code == NOT_STARTED))
    {
        let detail = format!("it had a place {tried} times and never ran: {}", last.public_text());
        return Problem::new(ErrorCode::Unplaceable, detail);
    }
    let untried = |r: &&RejectedCandidate| {
        all_attempts(record).all(|a| Some(&a.zone) != r.zone.as_ref() || a.backend != r.backend)
    };
    let ruled_out = record.decision.as_ref().map_or(0, |d| d.rejected.iter().filter(untried).count());
    Problem::new(
        ErrorCode::NoCapacity,
        format!("{tried} attempts, none found capacity; {ruled_out} further zones were ruled out, see :explain"),
    )
    .with_retry_after(NO_CAPACITY_RETRY_SECONDS)
}

fn set(attempt: &mut Attempt, state: AttemptState, now: Time) {
    attempt.state = state;
    attempt.changed_at = now;
}

/// The record with nothing left to do.
#[must_use]
pub fn idle(mut record: OperationRecord, now: Time) -> OperationRecord {
    record.due = None;
    record.updated_at = now;
    record
}

fn touched(mut record: OperationRecord, now: Time) -> OperationRecord {
    record.due = Some(now);
    record.updated_at = now;
    record
}

#[cfg(test)]
pub(super) mod tests;
