//! What becomes of a create that the tenant's quota does not hold. That is final under its key, except for a while after
//! a rebuild of the ledger: then the quota may be held by what exists no more. A rebuild that does not see an instance
//! restores it charged all the same, because charge must never be less than reality (R5); the proof that it is gone was
//! lost with the ledger and comes anew within an effect bound, or some sweeps. Until then a create that only such
//! charges keep out waits, as one in doubt does: its caller gets 202, and it ends as the quota then stands.

use std::time::Duration;

use meridian_model::{
    operation::{Charge, OperationRecord},
    time::Time,
};
use meridian_policies::quota;
use tokio::time::Instant;

use super::{
    machine::{self, condemned},
    patience::Backoff,
    task::{Driven, Short, Task},
};
use crate::{planner::quota_problem, status::render::Sighting};

/// Beside the longest effect bound, what a restored charge may take to be confirmed or freed: a minute for the end of
/// any operation (R8), and one by which two gateways' clocks may differ (RELIABILITY 2.3).
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// Longest wait for the feed to show what was written before the operation at hand.
const FED_WITHIN: Duration = Duration::from_secs(2);

/// What a record is charged that a rebuild since a time restored without knowing that it exists, and that nobody has
/// seen since.
fn unsettled(record: &OperationRecord, seen: Option<&Sighting>, since: Time) -> Charge {
    let Some(restored_at) = record.restored_at.filter(|at| *at >= since) else { return Charge::default() };
    let own = record.open_attempt().and_then(|a| a.cloud_id.as_ref());
    let shown = seen.is_some_and(|s| s.at > restored_at && s.observed.id.as_ref() == own && own.is_some());
    if shown && record.condemned.is_empty() { Charge::default() } else { record.charge }
}

impl Task {
    /// Whether a shortage of quota may pass by itself: restored charges that are not settled yet are held, and without
    /// them it would not be (`fits`).
    pub(super) async fn is_passing(
        &self,
        record: &OperationRecord,
        fits: impl Fn(Charge) -> bool + Send + Sync,
    ) -> bool {
        let (fleet, tenant) = (&self.parts().fleet, &record.tenant);
        // A rebuild ends before anything is claimed after it: who has followed the writes up to this claim knows what
        // was restored. Who has not, or began while the ledger was away, may not say that anything is final.
        if !self.inner.feeding.has_read(tenant)
            || !fleet.shows(tenant, None, record.seq, Instant::now() + FED_WITHIN).await
        {
            return true;
        }
        let bound = self.parts().pollers.all().iter().map(|p| p.backend().effect_bound()).max().unwrap_or_default();
        let since = self.now() - (bound + SETTLED_WITHIN);
        let unsettled = fleet.charges(tenant, |record, seen| unsettled(record, seen, since));
        let passes = unsettled != Charge::default() && fits(unsettled);
        if passes {
            tracing::info!("the quota is short by what a rebuild restored and nobody has seen since; the create waits");
        }
        passes
    }

    /// Ends the operation that the ledger did not charge, unless the shortage may pass: then waits for that.
    pub(super) async fn short(&self, (record, shortage): Short, charge: Charge, backoff: &mut Backoff) -> Driven {
        if let Some(rest) = machine::without_place(&record, &shortage) {
            return Ok(Box::new(rest));
        }
        let usage = self.parts().ledger.usage(&record.tenant).await;
        let wanted = quota::sum(charge, condemned::charge(&record));
        // A ledger that does not say is asked again.
        let fits = |unsettled| {
            usage.as_ref().map_or(true, |usage| {
                let others = quota::release(usage.used, record.charge);
                quota::charge(quota::release(others, unsettled), wanted, &usage.limits).is_ok()
            })
        };
        if self.is_passing(&record, fits).await {
            return self.await_quota(record, backoff).await;
        }
        self.fail(record, &quota_problem(shortage)).await
    }

    /// Waits until a shortage may have passed.
    pub(super) async fn await_quota(&self, record: Box<OperationRecord>, backoff: &mut Backoff) -> Driven {
        self.pause(backoff.next()).await?;
        self.reload(record).await
    }
}

#[cfg(test)]
mod tests {
    use meridian_model::status::ObservedPhase;

    use super::*;
    use crate::journal::machine::{
        self,
        tests::{armed, claimed, id, seen, with_plan},
    };

    #[test]
    fn only_what_was_restored_lately_without_proof_is_unsettled() {
        let at = |seconds: i64| Time::from_unix_ms(seconds * 1000);
        let charge = Charge { instances: 1, ..Charge::default() };
        let of = |restored_at, charge| unsettled(&OperationRecord { restored_at, charge, ..claimed() }, None, at(100));
        assert_eq!(of(None, charge), Charge::default());
        assert_eq!(of(Some(at(99)), charge), Charge::default(), "nobody waits for it for ever");
        assert_eq!(of(Some(at(100)), charge), charge);
        assert_eq!(of(Some(at(100)), Charge::default()), Charge::default(), "it was freed");
    }
    #[test]
    fn what_was_seen_since_is_settled() {
        let at = |seconds: i64| Time::from_unix_ms(seconds * 1000);
        let armed = armed(with_plan(&[("gz", "gz-1")]), at(50));
        let record = OperationRecord { restored_at: Some(at(100)), ..machine::sent(armed, &Ok(id()), at(51)) };
        let of = |record: &OperationRecord, seconds, observed| {
            let sighting = Sighting { at: at(seconds), observed };
            unsettled(record, Some(&sighting), at(90)) == Charge::default()
        };
        assert!(of(&record, 101, seen(ObservedPhase::Running)));
        assert!(!of(&record, 99, seen(ObservedPhase::Running)), "that was before");
        let other = meridian_model::status::Observed { id: "other".parse().ok(), ..seen(ObservedPhase::Running) };
        assert!(!of(&record, 101, other));
        let doubtful = OperationRecord { condemned: record.attempts.clone(), ..record.clone() };
        assert!(!of(&doubtful, 101, seen(ObservedPhase::Running)), "what was given up may be gone");
    }
}
