//! The walk of one operation: asks [`machine::next`] what to do, does it, and writes the result through the ledger
//! before it goes on.
//!
//! A task stops early only when the ledger says that somebody else owns its record or refuses it for good, or when the
//! process drains; the record then says where to go on.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use meridian_adapters::AdapterError;
use meridian_ledger::{LedgerError, Step, Stepped};
use meridian_model::{
    bugs,
    error::{Effect, ErrorCode, FaultKind, Problem, QuotaShortage},
    ids::CloudId,
    operation::{Attempt, AttemptFault, AttemptState, OperationRecord, RankedCandidate},
    status::{EventClass, Observed, ObservedEvent, ObservedPhase},
    time::Time,
};
use meridian_policies::{
    budget::{Class, Purpose},
    health::{Outcome, ShapeClass},
    placement::TenantQuota,
    quota::{
        parts::{Pots, parts},
        tree,
    },
};
use tokio::time::Instant;

use super::{
    clearing::{Clearing, is_gone},
    driver::{Inner, Parts},
    identity,
    machine::{self, LookUp, Next, condemned},
    patience::{BACKOFF, Backoff, Doubt},
    reclaim::{unused, wishes},
    running::{Key, Running, key_of, tell},
    sending::delete,
    shortage::without,
};
use crate::{
    planner::{Wish, tenant_quota},
    regions::Backend,
    status::poll::{Poller, Watched},
};

/// A token is not resent after this: nobody says how long a vendor remembers it (vendor-api 4.1).
const RESEND_WITHIN: Duration = Duration::from_secs(30 * 60);

/// How long the answer to a create is held back from the ledger for a first sight of the instance.
const FIRST_SIGHT: Duration = Duration::from_millis(20);

/// First and longest wait between two tries of a ledger step: an outage of the ledger ends for all at once, and what is
/// known of an effect should be durable soon after.
const LEDGER_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// First and longest wait between two readings of the events of an instance that is not placed yet.
const EVENTS_BACKOFF: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(8));

/// So long after a delete was asked for, an instance that its backend hides is deleted without having been looked at.
const HIDDEN_MAX: Duration = Duration::from_secs(120);

/// Ledger writes that meet a record changed by somebody else; each such change is a removal, of which there is one.
const REWRITES_MAX: usize = 8;

/// Why a task ends before its operation does.
#[derive(Debug)]
pub(super) enum Stop {
    /// Another process owns the record.
    Fenced,
    /// This process ends.
    Draining,
    /// The record is gone from the ledger.
    Missing,
    /// The ledger refuses what would have to be written; repeating cannot help.
    Refused,
}

pub(super) type Driven = Result<Box<OperationRecord>, Stop>;

/// The record as it was, and what the tenant's quota lacks for the change.
pub(super) type Short = (Box<OperationRecord>, Box<QuotaShortage>);

/// An attempt that the tenant's quota did not hold.
pub(super) struct Unheld {
    /// The record without it, and what was short.
    pub(super) short: Short,
    /// What the record would be charged with it, and where.
    pub(super) wanted: Pots,
}

/// What became of a wish to open an attempt.
enum Armed {
    /// It is open, and its request may leave.
    Open(Box<OperationRecord>),
    /// The record as it is: a removal came first, or somebody else changed it.
    Not(Box<OperationRecord>),
    /// The quota does not hold what it would be charged.
    Short(Unheld),
}

/// What the last look at an instance showed before it is given up.
enum LastLook {
    /// It has a state that the walk goes on from.
    Runs(Box<OperationRecord>),
    /// It is not there, or does not run as it was seen.
    RunsNot(Box<OperationRecord>, Option<Box<Observed>>),
    /// Other instances that are there were not shown either.
    Hidden(Box<OperationRecord>),
    /// The backend could not be asked.
    Unasked(Box<OperationRecord>),
}

/// One operation's walk.
pub(super) struct Task {
    pub(super) inner: Arc<Inner>,
    pub(super) running: Running,
    /// Place of the state that readers were shown last.
    published: AtomicU64,
}

impl Task {
    pub(super) const fn new(inner: Arc<Inner>, running: Running) -> Self {
        Self { inner, running, published: AtomicU64::new(0) }
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.inner.parts
    }

    pub(super) fn now(&self) -> Time {
        self.parts().clock.now()
    }

    /// Drives the record until nothing is left to do and nobody asked meanwhile.
    pub(super) async fn run(self, key: &Key, mut record: Box<OperationRecord>) {
        loop {
            let mut ended = self.drive(record).await.map(drop);
            loop {
                if self.left(key, &ended) {
                    return;
                }
                // Somebody asked: whoever took the record over for this process meanwhile counts on this task.
                match self.reread(key).await {
                    Ok(current) => {
                        record = current;
                        break;
                    }
                    Err(why) => ended = Err(why),
                }
            }
        }
    }

    /// Takes the task off the list, unless somebody asked it to look again meanwhile. True when it is off.
    fn left(&self, key: &Key, ended: &Result<(), Stop>) -> bool {
        let mut registry = self.inner.registry();
        let asked = self.running.asked.swap(false, Ordering::AcqRel);
        match ended {
            Ok(()) | Err(Stop::Fenced) if asked => return false,
            Err(Stop::Fenced) => registry.pass_on(key),
            Ok(()) | Err(Stop::Draining | Stop::Missing | Stop::Refused) => {
                registry.running.remove(key);
            }
        }
        self.parts().metrics.running(registry.running.len());
        true
    }

    /// Walks until nothing is left to do (the last record) or the task must stop.
    async fn drive(&self, mut record: Box<OperationRecord>) -> Driven {
        let mut backoff = Backoff::new(BACKOFF);
        let mut doubt = Doubt::default();
        let mut clearing = Clearing::default();
        loop {
            self.publish(&record);
            clearing.of(&self.inner, &self.running, &record);
            if self.inner.stop.is_cancelled() {
                return Err(Stop::Draining);
            }
            let before = (record.attempts.len(), record.attempts.last().map(|a| a.state));
            let was_final = record.state.is_final();
            if machine::next(&record) == Next::Done && record.due.is_none() && record.condemned.is_empty() {
                return Ok(record);
            }
            let next = clearing.finding().map_or_else(|| Err(machine::next(&record)), Ok);
            let driven = match next {
                Ok(finding) => self.write(record, |r, now| condemned::learned(r, &finding, now)).await,
                Err(next) => self.follow(record, next, &mut backoff, &mut doubt).await,
            };
            match driven {
                Ok(next) => {
                    if before != (next.attempts.len(), next.attempts.last().map(|a| a.state)) {
                        backoff = Backoff::new(BACKOFF);
                        self.count_attempt(&next);
                    }
                    if next.state.is_final() && !was_final {
                        let took = self.now().since(next.created_at);
                        self.parts().metrics.operation(next.state.as_str(), took);
                    }
                    record = next;
                }
                Err(Stop::Draining) => return Err(Stop::Draining),
                Err(why @ (Stop::Fenced | Stop::Missing | Stop::Refused)) => {
                    tracing::warn!(?why, "this process stops driving the record");
                    return Err(why);
                }
            }
        }
    }

    /// Does one step of the walk.
    async fn follow(
        &self,
        record: Box<OperationRecord>,
        next: Next,
        backoff: &mut Backoff,
        doubt: &mut Doubt,
    ) -> Driven {
        match next {
            // What rests is nobody's to visit: a due record would be taken over again and again.
            Next::Done => self.write(record, |r, now| Some(machine::idle(r, now))).await,
            Next::Plan => self.plan(record, backoff).await,
            Next::Arm(_) if self.inner.disk.trouble().is_some() => self.await_journal(record, backoff).await,
            Next::Arm(candidate) => self.attempt(record, &candidate, backoff).await,
            Next::GiveUp(problem) => self.fail(record, &problem).await,
            Next::Doubt => self.write(record, |r, now| Some(machine::doubted(r, now))).await,
            Next::Resolve => self.resolve(record, backoff, doubt).await,
            Next::Watch { until } => self.watch(record, until, backoff).await,
            Next::Remove => self.remove(record, backoff).await,
            Next::Clear => self.clear(record).await,
            Next::Cancel => self.write(record, |r, now| exists_nowhere(&r).then(|| machine::cancelled(r, now))).await,
            Next::Complete => self.write(record, |r, now| Some(condemned::completed(r, now))).await,
        }
    }

    /// Waits for what clears the condemned attempts to find something out, or for quota that was short.
    async fn clear(&self, record: Box<OperationRecord>) -> Driven {
        self.pause(BACKOFF.1).await?;
        self.reload(record).await
    }

    /// Ends the operation with a problem, as soon as nothing of it exists: while something condemned may, what stands
    /// in its way now may be gone by then.
    pub(super) async fn fail(&self, record: Box<OperationRecord>, problem: &Problem) -> Driven {
        if !record.condemned.is_empty() {
            return self.clear(record).await;
        }
        self.write(record, |r, now| exists_nowhere(&r).then(|| machine::failed(r, problem.clone(), now))).await
    }

    fn count_attempt(&self, record: &OperationRecord) {
        if let Some(attempt) = record.attempts.last() {
            self.parts().metrics.attempt(attempt.backend.as_str(), attempt.state.as_str());
        }
    }

    /// Shows the record to readers before anybody who waits for it is told; what was shown as it is, not again.
    fn publish(&self, record: &OperationRecord) {
        if self.published.swap(record.seq, Ordering::AcqRel) == record.seq {
            return;
        }
        let record = Arc::new(record.clone());
        self.parts().fleet.put(Arc::clone(&record));
        self.inner.feeding.shown(&record);
        tell(&self.running.updates, &record);
    }

    /// Writes what `change` makes of the record; if somebody changed it meanwhile, of the changed one. A ledger
    /// that cannot be reached is tried again until this process ends: the effect at the vendor is not undone.
    ///
    /// No quota is asked: what is learned of an instance is so whether or not there is room for it. It takes more than
    /// before where a charge comes to lie in a place that nobody had noted; what asks for more uses [`Self::try_write`].
    ///
    /// When the record has another fence of this process by then, others may have driven it in between and `change`
    /// may be about an attempt that is history: nothing is written, and the answer is the record as it is. Whoever does
    /// more than write compares the fences.
    pub(super) async fn write(
        &self,
        record: Box<OperationRecord>,
        change: impl Fn(OperationRecord, Time) -> Option<OperationRecord> + Send,
    ) -> Driven {
        self.written(record, Step::over_quota, change).await?.map_err(|(record, shortage)| {
            tracing::error!(?shortage, op_id = %record.op_id, "more would be in use than can be counted");
            Stop::Refused
        })
    }

    /// Like [`Self::write`], if the quota holds what it takes more.
    pub(super) async fn try_write(
        &self,
        record: Box<OperationRecord>,
        change: impl Fn(OperationRecord, Time) -> Option<OperationRecord> + Send,
    ) -> Result<Result<Box<OperationRecord>, Short>, Stop> {
        self.written(record, Step::within, change).await
    }

    async fn written(
        &self,
        record: Box<OperationRecord>,
        step: fn(Box<OperationRecord>) -> Step,
        change: impl Fn(OperationRecord, Time) -> Option<OperationRecord> + Send,
    ) -> Result<Result<Box<OperationRecord>, Short>, Stop> {
        self.running.writing();
        let written = self.steps(record, step, change).await;
        self.running.wrote(match &written {
            Ok(Ok(record) | Err((record, _))) => record.rev,
            Err(_) => 0,
        });
        written
    }

    async fn steps(
        &self,
        mut record: Box<OperationRecord>,
        step: fn(Box<OperationRecord>) -> Step,
        change: impl Fn(OperationRecord, Time) -> Option<OperationRecord> + Send,
    ) -> Result<Result<Box<OperationRecord>, Short>, Stop> {
        let mut backoff = Backoff::new(LEDGER_BACKOFF);
        let mut rewrites = 0;
        while rewrites < REWRITES_MAX {
            let Some(next) = change((*record).clone(), self.now()) else { return Ok(Ok(record)) };
            match self.parts().ledger.step(step(Box::new(next))).await {
                Ok(Stepped::Written(written)) => return Ok(Ok(written)),
                Ok(Stepped::Changed(current)) => {
                    record = current;
                    rewrites += 1;
                }
                // Taken over by this very process after its lease had run out, or the store was rebuilt and gave out
                // new fences.
                Ok(Stepped::Fenced) => return self.reread(&key_of(&record)).await.map(Ok),
                Ok(Stepped::QuotaExceeded(shortage)) => return Ok(Err((record, shortage))),
                Err(error @ LedgerError::Invalid { .. }) => {
                    tracing::error!(%error, "the ledger refuses a step for good; a person must look at this operation");
                    return Err(Stop::Refused);
                }
                Err(error) => {
                    tracing::error!(%error, "the ledger did not take a step; it is tried again");
                    self.pause(backoff.next()).await?;
                }
            }
        }
        Ok(Ok(record))
    }

    /// Waits; a wake-up ends the wait early, the end of the process ends the task.
    pub(super) async fn pause(&self, wait: Duration) -> Result<(), Stop> {
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => Err(Stop::Draining),
            () = self.running.wake.notified() => Ok(()),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// The record as the ledger has it now; asks until it is told.
    async fn reread(&self, (tenant, op): &Key) -> Driven {
        let mut backoff = Backoff::new(LEDGER_BACKOFF);
        loop {
            match self.parts().ledger.operation(tenant, op).await {
                Ok(Some(current)) if current.fence.owner == self.inner.owner => {
                    self.running.read(current.rev);
                    return Ok(current);
                }
                Ok(Some(_)) => return Err(Stop::Fenced),
                Ok(None) => return Err(Stop::Missing),
                Err(error) => {
                    tracing::error!(%error, "the ledger could not be read; it is asked again");
                    self.pause(backoff.next()).await?;
                }
            }
        }
    }

    /// The record as the ledger has it now, or as it was if the ledger does not say.
    pub(super) async fn reload(&self, record: Box<OperationRecord>) -> Driven {
        match self.parts().ledger.operation(&record.tenant, &record.op_id).await {
            Ok(Some(current)) if current.fence.owner == self.inner.owner => {
                self.running.read(current.rev);
                Ok(current)
            }
            Ok(Some(_)) => Err(Stop::Fenced),
            Ok(None) => Err(Stop::Missing),
            Err(error) => {
                tracing::error!(%error, "the ledger could not be read");
                Ok(record)
            }
        }
    }

    /// Makes a plan. It is written with the attempt that follows it; lost before that, it is made again.
    async fn plan(&self, record: Box<OperationRecord>, backoff: &mut Backoff) -> Driven {
        if !self.is_declared(&record) {
            return self.await_tenant(record, backoff).await;
        }
        let tried = machine::tried(&record);
        let again = !tried.is_empty();
        let quota = match self.parts().ledger.books(&record.tenant).await {
            Ok(books) => tenant_quota(books, &parts(&record), record.project(), tree::class_of(&record)),
            // The ledger decides when the attempt is opened; not knowing here only costs the explanation.
            Err(_) => TenantQuota::default(),
        };
        let plan_within = |quota| {
            let wish = Wish { tenant: &record.tenant, spec: &record.spec, quota, tried: tried.clone() };
            self.parts().planner.plan(wish, identity::seed(&record.op_id), self.now())
        };
        let is_short = |problem: &Problem| problem.code == ErrorCode::QuotaExceeded;
        let planned = plan_within(quota.clone());
        // After attempts the answer is about what they met, not about what was left.
        let problem = planned.problem.filter(|_| !again);
        let decision = planned.decision;
        let Some(problem) = problem else {
            return Ok(Box::new(machine::planned(*record, decision, self.now())));
        };
        if !record.condemned.is_empty() {
            return self.clear(record).await;
        }
        let fits = |unsettled: &Pots| !plan_within(without(&quota, unsettled)).problem.as_ref().is_some_and(is_short);
        if is_short(&problem) && self.is_passing(&record, fits).await {
            return self.await_quota(record, backoff).await;
        }
        let problem = if is_short(&problem) {
            let wishes = wishes(&record, &plan_within(unused(&quota)).decision.candidates);
            self.take_back(&record, problem, &wishes).await
        } else {
            problem
        };
        self.write(record, move |r, now| {
            let planned = machine::planned(r, decision.clone(), now);
            let ends = planned.removal.is_none() && exists_nowhere(&planned);
            Some(if ends { machine::failed(planned, problem.clone(), now) } else { planned })
        })
        .await
    }

    /// Opens an attempt and sends its create.
    async fn attempt(
        &self,
        record: Box<OperationRecord>,
        candidate: &RankedCandidate,
        backoff: &mut Backoff,
    ) -> Driven {
        let Ok(poller) = self.parts().pollers.of(&candidate.backend) else {
            let problem = Problem::new(
                ErrorCode::RegionUnavailable,
                format!("backend {} is not configured any more", candidate.backend),
            );
            return self.fail(record, &problem).await;
        };
        // The turn comes first: what is journalled must leave at once.
        let purpose = create_purpose(&record, machine::next_number(&record));
        let turn = tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => return Err(Stop::Draining),
            () = self.running.wake.notified() => return self.reload(record).await,
            turn = poller.backend().pace.create_turn(&purpose) => turn,
        };
        let Ok(turn) = turn else {
            self.pause(BACKOFF.1).await?;
            return self.reload(record).await;
        };
        let early = self.too_early(poller.backend(), &record, candidate).await;
        let arming = Instant::now();
        let armed = match self.arm(record, candidate).await? {
            Armed::Open(armed) => armed,
            Armed::Not(record) => return Ok(record),
            Armed::Short(unheld) => {
                // Others send meanwhile.
                drop(turn);
                return self.short(unheld, backoff).await;
            }
        };
        let Some(attempt) = armed.open_attempt().filter(|a| a.state == AttemptState::Open).cloned() else {
            return Ok(armed);
        };
        // Readers, and who rebuilds the ledger should it be lost now, know of it before its request leaves.
        self.publish(&armed);
        if let Some(why) = self.unwritten(&armed, &attempt).await {
            return self.write(armed, |r, now| Some(machine::never_sent(r, why.clone(), now))).await;
        }
        if arming.elapsed() >= self.parts().settings.arm_valid && !bugs::planted(bugs::NO_SEND_FENCE) {
            let why = fault("meridian.arm-expired", "the ledger took too long; nothing was sent");
            return self.write(armed, |r, now| Some(machine::never_sent(r, why.clone(), now))).await;
        }
        // Only what is really sent probes a zone that was sold out.
        poller.backend().market.trying(&attempt.zone, &class_of(&armed, &attempt), self.now());
        let result = match early {
            Some(result) => result,
            None => {
                let signed_at = if bugs::planted(bugs::NO_SEND_FENCE) { self.now() } else { attempt.armed_at };
                self.create(poller.backend(), &armed, (&attempt, signed_at), Some(&turn)).await
            }
        };
        self.learn(poller.backend(), &armed, &attempt, result.as_ref().err());
        let first = match &result {
            Ok(id) => first_sight(poller, id, purpose.class).await.filter(|seen| seen.phase.proves_capacity()),
            Err(_) => None,
        };
        if first.is_some() {
            poller.backend().market.in_stock(&attempt.zone, &class_of(&armed, &attempt));
        }
        self.answered(armed, (&attempt, &result), |r, result, now| {
            let sent = machine::sent(r, result, now);
            let own = |seen: &&Observed| sent.open_attempt().is_some_and(|a| a.cloud_id == seen.id);
            let ran = first.as_ref().filter(own).and_then(|seen| machine::sighted(sent.clone(), seen, now));
            ran.unwrap_or(sent)
        })
        .await
    }

    /// Journals the attempt and charges the quota in one durable step.
    async fn arm(&self, record: Box<OperationRecord>, candidate: &RankedCandidate) -> Result<Armed, Stop> {
        let n = machine::next_number(&record);
        let names = match self.names(&record, n, &candidate.backend) {
            Ok(names) => names,
            Err(error) => {
                let problem = Problem::new(ErrorCode::Internal, format!("attempt {n} cannot be named: {error}"));
                return self.fail(record, &problem).await.map(Armed::Not);
            }
        };
        let charge = self.parts().planner.charge(&record);
        let limits = self.parts().settings.limits;
        let (before, fence) = (record.attempts.len(), record.fence.clone());
        let arming = |r, now| machine::arm(r, candidate, names.clone(), (charge, limits), now);
        Ok(match self.try_write(record, &arming).await? {
            // Under another fence it may be somebody else's attempt, whose request left long ago.
            Ok(armed) if armed.attempts.len() > before && armed.fence == fence => Armed::Open(armed),
            Ok(changed) => Armed::Not(changed),
            Err(short) => {
                let armed = arming((*short.0).clone(), self.now());
                Armed::Short(Unheld { short, wanted: armed.map(|armed| parts(&armed)).unwrap_or_default() })
            }
        })
    }

    /// Feeds the outcome of a create into the memory of stock and faults.
    fn learn(&self, backend: &Backend, record: &OperationRecord, attempt: &Attempt, error: Option<&AdapterError>) {
        let now = self.now();
        let outcome = error.map_or(Outcome::Answered, |e| Outcome::of(e.kind));
        backend.market.zone_outcome(&attempt.zone, outcome, now);
        if let Some(error) = error.filter(|e| matches!(e.kind, FaultKind::Credentials | FaultKind::Account)) {
            tracing::error!(backend = %backend.id, %error, "the vendor refuses our account");
        }
        if error.is_some_and(|e| e.kind == FaultKind::NoCapacity) {
            backend.market.no_stock(&attempt.zone, class_of(record, attempt), now);
        }
    }

    /// Finds out what became of an attempt in doubt.
    async fn resolve(&self, record: Box<OperationRecord>, backoff: &mut Backoff, doubt: &mut Doubt) -> Driven {
        let Some(attempt) = record.open_attempt().cloned() else { return Ok(record) };
        let Ok(poller) = self.parts().pollers.of(&attempt.backend) else {
            self.pause(BACKOFF.1).await?;
            return self.reload(record).await;
        };
        let backend = poller.backend();
        // A look-up shows what was there when it was asked, or later; what it proves, it proves for then.
        let asked = self.now();
        let effect_bound = backend.effect_bound();
        // Nothing that was sent so far can take effect any more.
        let in_time = doubt.lasted(attempt.armed_at) <= effect_bound || asked <= attempt.armed_at + effect_bound;
        let mut shows_none = false;
        let concludes = !in_time || bugs::planted(bugs::SILENCE_BELIEVED);
        if let Ok(sight) = poller.look_up(attempt.name.clone(), concludes, &doubt_purpose(&record, &attempt)).await {
            shows_none = sight.found.is_empty() && (!sight.is_denied() || bugs::planted(bugs::REFUSAL_BELIEVED));
            let look = LookUp {
                found: &sight.found,
                proven: sight.proves_absence(),
                effect_bound,
                forgets_ended: backend.capability.forgets_ended,
            };
            if machine::looked_up((*record).clone(), &look, asked).is_some() {
                return self.write(record, |r, _| machine::looked_up(r, &look, asked)).await;
            }
        }
        if doubt.of_attempt(attempt.n) >= self.place_timeout(&record)
            && condemned::replaced((*record).clone(), asked).is_some()
        {
            match self.try_write(record, condemned::replaced).await? {
                Ok(replaced) => return Ok(replaced),
                // The quota does not hold both: then it is waited after all.
                Err((kept, _)) => {
                    self.pause(backoff.next()).await?;
                    return self.reload(kept).await;
                }
            }
        }
        let is_late = shows_none && !in_time;
        // A delete needs to know what it has to delete. Where silence tells nobody, because nothing else of ours is there to
        // be shown, only the token does: whatever it makes is deleted like what it made before.
        let is_wanted = record.removal.is_none() || is_late && poller.trusts_sweeps();
        let may_resend = backend.honours_tokens()
            && is_wanted
            && !machine::is_undetermined(&record)
            && machine::knows_wish(&record)
            && asked.since(attempt.started_at) < RESEND_WITHIN
            && (is_late || machine::repetition_may_tell(&attempt));
        if may_resend && backoff.tries > 0 {
            let fence = record.fence.clone();
            let record = self.write(record, |r, now| Some(machine::rearmed(r, now))).await?;
            if let Some(attempt) = record.open_attempt().filter(|a| a.state == AttemptState::InDoubt).cloned()
                && (record.removal.is_none() || is_late)
                && record.fence == fence
            {
                let result = self.create(backend, &record, (&attempt, attempt.armed_at), None).await;
                let settle = if is_late { machine::sent_late } else { machine::sent };
                let next = self.answered(record, (&attempt, &result), settle).await?;
                self.pause(backoff.next()).await?;
                return self.reload(next).await;
            }
            return Ok(record);
        }
        self.pause(backoff.next()).await?;
        self.reload(record).await
    }

    fn place_timeout(&self, record: &OperationRecord) -> Duration {
        let default = self.parts().settings.limits.place_timeout;
        record.spec.placement.place_timeout.map_or(default, |span| span.0)
    }

    /// Watches the instance until it runs, cannot be placed, or its time has passed.
    async fn watch(&self, record: Box<OperationRecord>, until: Time, backoff: &mut Backoff) -> Driven {
        let Some((attempt, id)) = record.open_attempt().and_then(|a| Some((a.clone(), a.cloud_id.clone()?))) else {
            return self.write(record, |r, now| Some(machine::doubted(r, now))).await;
        };
        let Ok(poller) = self.parts().pollers.of(&attempt.backend) else {
            self.pause(BACKOFF.1).await?;
            return self.reload(record).await;
        };
        let mut sight = poller.watch(&id, create_purpose(&record, attempt.n).class);
        let deadline = Instant::now() + until.since(self.now());
        // Beside the sights, not between them: an answer about events waits for its turn, and no sight may wait with it.
        let mut no_stock = pin!(no_stock_event(poller.backend(), &id, Purpose::tenant(&record.tenant, Class::Read)));
        loop {
            tokio::select! {
                biased;
                () = self.inner.stop.cancelled() => return Err(Stop::Draining),
                () = self.running.wake.notified() => return self.reload(record).await,
                () = tokio::time::sleep_until(deadline) => {
                    return self.late(record, poller, (&attempt, &id), backoff).await;
                }
                event = &mut no_stock => {
                    poller.backend().market.no_stock(&attempt.zone, class_of(&record, &attempt), self.now());
                    return self.write(record, |r, now| Some(machine::out_of_stock(r, &event, now))).await;
                }
                changed = sight.changed() => {
                    if changed.is_err() {
                        // The poller ended with the process.
                        return Err(Stop::Draining);
                    }
                    let Watched::Seen(seen) = sight.borrow_and_update().clone() else { continue };
                    let observed = seen.observed;
                    if observed.phase == ObservedPhase::Unplaceable {
                        poller.backend().market.no_stock(&attempt.zone, class_of(&record, &attempt), self.now());
                    } else if observed.phase.proves_capacity() {
                        poller.backend().market.in_stock(&attempt.zone, &class_of(&record, &attempt));
                    }
                    if machine::sighted((*record).clone(), &observed, self.now()).is_some() {
                        return self.write(record, |r, now| machine::sighted(r, &observed, now)).await;
                    }
                }
            }
        }
    }

    /// Gives up an instance whose time to run has passed, unless it runs.
    async fn late(
        &self,
        record: Box<OperationRecord>,
        poller: &Poller,
        (attempt, id): (&Attempt, &CloudId),
        backoff: &mut Backoff,
    ) -> Driven {
        match self.last_look(record, poller, id).await? {
            LastLook::Runs(record) => Ok(record),
            LastLook::RunsNot(record, seen) => {
                let seen = seen.as_deref();
                // What has its place and does not run says nothing of the zone's stock.
                if seen.and_then(machine::stands_still).is_none() {
                    poller.backend().market.no_stock(&attempt.zone, class_of(&record, attempt), self.now());
                }
                self.write(record, |r, now| machine::timed_out(r, seen, now)).await
            }
            LastLook::Hidden(record) | LastLook::Unasked(record) => {
                self.pause(backoff.next()).await?;
                self.reload(record).await
            }
        }
    }

    /// Looks whether an instance runs before it is given up. A region that did not answer says nothing, and what runs
    /// may have been answered for, by a write that the ledger lost: its key names it for good, also when it is deleted.
    async fn last_look(&self, record: Box<OperationRecord>, poller: &Poller, id: &CloudId) -> Result<LastLook, Stop> {
        // What is looked at here is to be removed.
        let sight = match poller.look_at(id, &Purpose::tenant(&record.tenant, Class::Delete)).await {
            Ok(sight) if sight.is_denied() => return Ok(LastLook::Hidden(record)),
            Ok(sight) => sight,
            Err(_) => return Ok(LastLook::Unasked(record)),
        };
        match sight.found.first() {
            Some(seen) if machine::sighted((*record).clone(), seen, self.now()).is_some() => {
                self.write(record, |r, now| machine::sighted(r, seen, now)).await.map(LastLook::Runs)
            }
            seen => Ok(LastLook::RunsNot(record, seen.cloned().map(Box::new))),
        }
    }

    /// Deletes the attempt's instance and proves that it is gone.
    async fn remove(&self, record: Box<OperationRecord>, backoff: &mut Backoff) -> Driven {
        let Some(attempt) = record.open_attempt().cloned() else { return Ok(record) };
        let (Ok(poller), Some(id)) = (self.parts().pollers.of(&attempt.backend), attempt.cloud_id.clone()) else {
            self.pause(BACKOFF.1).await?;
            return self.reload(record).await;
        };
        let record = match attempt.state {
            AttemptState::Applied => match self.last_look(record, poller, &id).await? {
                LastLook::Runs(record) => return Ok(record),
                LastLook::RunsNot(record, _) => record,
                LastLook::Hidden(record) if hides_for_good(&record, self.now()) => record,
                LastLook::Hidden(record) | LastLook::Unasked(record) => {
                    self.pause(backoff.next()).await?;
                    return self.reload(record).await;
                }
            },
            _ => record,
        };
        let record = if matches!(attempt.state, AttemptState::Applied | AttemptState::Running) {
            let fence = record.fence.clone();
            let record = self.write(record, |r, now| Some(machine::removing(r, now))).await?;
            self.publish(&record);
            if record.fence != fence {
                return Ok(record);
            }
            record
        } else {
            record
        };
        let purpose = Purpose::tenant(&record.tenant, Class::Delete);
        match delete(self.parts(), poller.backend(), &purpose, (attempt.name.as_str(), &id)).await {
            Ok(()) => {
                let gone = is_gone(poller, &id, self.now());
                let gone = tokio::select! {
                    biased;
                    () = self.inner.stop.cancelled() => return Err(Stop::Draining),
                    gone = gone => gone,
                };
                if gone {
                    return self.write(record, |r, now| Some(machine::gone(r, now))).await;
                }
            }
            Err(error) => tracing::debug!(%error, "delete failed; it is tried again"),
        }
        self.pause(backoff.next()).await?;
        self.reload(record).await
    }
}

/// What is to be deleted was hidden for so long that the delete is sent unseen.
fn hides_for_good(record: &OperationRecord, now: Time) -> bool {
    record.removal.as_ref().is_some_and(|removal| now.since(removal.requested_at) > HIDDEN_MAX)
}

/// Nothing of the operation exists or can appear: it may end without an instance.
fn exists_nowhere(record: &OperationRecord) -> bool {
    record.condemned.is_empty() && record.open_attempt().is_none()
}

/// For what the `n`th attempt is made: whoever failed over has waited before.
pub(super) fn create_purpose(record: &OperationRecord, n: u32) -> Purpose {
    Purpose::tenant(&record.tenant, if n > 1 { Class::Failover } else { Class::Create })
}

/// For what an attempt in doubt is looked up.
fn doubt_purpose(record: &OperationRecord, attempt: &Attempt) -> Purpose {
    let create = create_purpose(record, attempt.n);
    Purpose { class: if record.removal.is_some() { Class::Delete } else { create.class }, ..create }
}

/// Reads the events of an instance that does not run yet, again and again, until one says that there is no stock.
async fn no_stock_event(backend: &Backend, id: &CloudId, purpose: Purpose) -> ObservedEvent {
    let mut backoff = Backoff::new(EVENTS_BACKOFF);
    loop {
        tokio::time::sleep(backoff.next()).await;
        let Ok(events) = backend.events(id.clone(), &purpose).await else { continue };
        if let Some(event) = events.into_iter().find(|e| e.class == EventClass::NoCapacity) {
            return event;
        }
    }
}

/// What the backend shows of a new instance right away, if it answers at once: an instance that runs already saves a
/// ledger step. A crash in this short time is a crash before the answer was noted: the attempt is in doubt and found.
async fn first_sight(poller: &Poller, id: &CloudId, class: Class) -> Option<Observed> {
    let mut sight = poller.watch(id, class);
    tokio::time::timeout(FIRST_SIGHT, sight.changed()).await.ok()?.ok()?;
    match sight.borrow_and_update().clone() {
        Watched::Seen(seen) => Some(seen.observed),
        Watched::Unasked | Watched::Missing(_) => None,
    }
}

pub(super) fn fault(code: &str, message: &str) -> AttemptFault {
    AttemptFault {
        kind: FaultKind::Temporary,
        effect: Effect::NotApplied,
        code: code.to_owned(),
        message: message.to_owned(),
        vendor_request_id: None,
    }
}

/// The class of stock that an attempt draws on.
fn class_of(record: &OperationRecord, attempt: &Attempt) -> ShapeClass {
    ShapeClass { shape: attempt.shape.clone(), capacity: record.spec.capacity.kind }
}
