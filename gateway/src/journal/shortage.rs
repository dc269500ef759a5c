//! What becomes of a create that the tenant's quota does not hold. That is final under its key, except for a while after
//! a rebuild of the ledger: then the quota may be held by what exists no more. A rebuild that does not see an instance
//! restores it charged all the same, because charge must never be less than reality (R5); the proof that it is gone was
//! lost with the ledger and comes anew within an effect bound, or some sweeps. Until then a create that only such
//! charges keep out waits, as one in doubt does: its caller gets 202, and it ends as the quota then stands.

use std::{sync::Arc, time::Duration};

use meridian_ledger::Books;
use meridian_model::{operation::OperationRecord, time::Time};
use meridian_policies::{
    placement::{Divided, TenantQuota},
    quota::{
        self,
        parts::{Pots, move_parts, parts, total},
        spend::{self, Moment},
        tree::{Tree, class_of},
    },
};
use tokio::time::Instant;

use super::{
    machine,
    patience::Backoff,
    task::{Driven, Task, Unheld},
};
use crate::{planner::quota_problem, status::render::Sighting};

/// Beside the longest effect bound, what a restored charge may take to be confirmed or freed: a minute for the end of
/// any operation (R8), and one by which two gateways' clocks may differ (RELIABILITY 2.3).
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// Longest wait for the feed to show what was written before the operation at hand.
const FED_WITHIN: Duration = Duration::from_secs(2);

/// What a record is charged that a rebuild since a time restored without knowing that it exists, and that nobody has
/// seen since.
fn unsettled(record: &OperationRecord, seen: Option<&Sighting>, since: Time) -> Pots {
    let Some(restored_at) = record.restored_at.filter(|at| *at >= since) else { return Pots::new() };
    let own = record.open_attempt().and_then(|a| a.cloud_id.as_ref());
    let shown = seen.is_some_and(|s| s.at > restored_at && s.observed.id.as_ref() == own && own.is_some());
    if shown && record.condemned.is_empty() { Pots::new() } else { parts(record) }
}

/// A tenant's quota as placement would see it without what is unsettled.
pub(super) fn without(quota: &TenantQuota, unsettled: &Pots) -> TenantQuota {
    let divided = quota.divided.as_ref().map(|divided| {
        let mut divided = Divided::clone(divided);
        move_parts(&mut divided.pots, unsettled, &Pots::new());
        Arc::new(divided)
    });
    TenantQuota { used: quota::release(quota.used, total(unsettled.values())), limits: quota.limits, divided }
}

/// Whether a tenant's quota, its tree and its budgets would hold what a record is `wanted` to hold, were it not for what
/// is unsettled, or going.
pub(super) fn would_hold(books: &Books, unsettled: &Pots, record: &OperationRecord, wanted: &Pots, now: Time) -> bool {
    let held = parts(record);
    let others = quota::release(books.usage.used, total(held.values()));
    let others = quota::release(others, total(unsettled.values()));
    let mut pots = books.pots.clone();
    move_parts(&mut pots, unsettled, &Pots::new());
    let moment = (&Moment::of(now), record.spec.active_deadline_seconds);
    let tree_holds = |tree: &Tree| {
        tree.admit(&pots, &held, wanted, class_of(record)).is_ok()
            && spend::affords(tree, (&books.spends, &pots), (&held, wanted), moment).is_ok()
    };
    quota::charge(others, total(wanted.values()), &books.usage.limits).is_ok()
        // A tree that this version cannot read is left to the ledger.
        && Tree::new(&books.tree).as_ref().map_or(true, tree_holds)
}

impl Task {
    /// Whether a shortage of quota may pass by itself: restored charges that are not settled yet are held, and without
    /// them it would not be (`fits`).
    pub(super) async fn is_passing(
        &self,
        record: &OperationRecord,
        fits: impl Fn(&Pots) -> bool + Send + Sync,
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
        let unsettled = fleet.parts(tenant, |record, seen| unsettled(record, seen, since));
        let passes = !unsettled.is_empty() && fits(&unsettled);
        if passes {
            tracing::info!("the quota is short by what a rebuild restored and nobody has seen since; the create waits");
        }
        passes
    }

    /// Ends the operation that the ledger did not charge, unless the shortage may pass: then waits for that.
    pub(super) async fn short(&self, unheld: Unheld, backoff: &mut Backoff) -> Driven {
        let Unheld { short: (record, shortage), wanted } = unheld;
        if let Some(rest) = machine::without_place(&record, &shortage) {
            return Ok(Box::new(rest));
        }
        let books = self.parts().ledger.books(&record.tenant).await;
        // A ledger that does not say is asked again.
        let fits = |unsettled: &Pots| {
            books.as_ref().map_or(true, |books| would_hold(books, unsettled, &record, &wanted, self.now()))
        };
        if self.is_passing(&record, fits).await {
            return self.await_quota(record, backoff).await;
        }
        let problem = self.take_back(&record, quota_problem(shortage), &[wanted]).await;
        self.fail(record, &problem).await
    }

    /// Waits until a shortage may have passed.
    pub(super) async fn await_quota(&self, record: Box<OperationRecord>, backoff: &mut Backoff) -> Driven {
        self.pause(backoff.next()).await?;
        self.reload(record).await
    }
}

#[cfg(test)]
mod tests {
    use meridian_ledger::Usage;
    use meridian_model::{
        operation::{Charge, QuotaLimits},
        quota::{LineQuota, QuotaNode, QuotaTree},
        status::ObservedPhase,
    };
    use meridian_policies::quota::parts::Pot;

    use super::*;
    use crate::journal::machine::{
        self,
        tests::{armed, claimed, id, seen, with_plan},
    };

    fn one() -> Charge {
        Charge { instances: 1, ..Charge::default() }
    }

    #[test]
    fn only_what_was_restored_lately_without_proof_is_unsettled() {
        let at = |seconds: i64| Time::from_unix_ms(seconds * 1000);
        let of = |restored_at, charge| unsettled(&OperationRecord { restored_at, charge, ..claimed() }, None, at(100));
        assert_eq!(of(None, one()), Pots::new());
        assert_eq!(of(Some(at(99)), one()), Pots::new(), "nobody waits for it for ever");
        assert_eq!(total(of(Some(at(100)), one()).values()), one());
        assert_eq!(of(Some(at(100)), Charge::default()), Pots::new(), "it was freed");
    }

    #[test]
    fn what_was_seen_since_is_settled() {
        let at = |seconds: i64| Time::from_unix_ms(seconds * 1000);
        let armed = armed(with_plan(&[("gz", "gz-1")]), at(50));
        let record = OperationRecord { restored_at: Some(at(100)), ..machine::sent(armed, &Ok(id()), at(51)) };
        let of = |record: &OperationRecord, seconds, observed| {
            let sighting = Sighting { at: at(seconds), observed };
            unsettled(record, Some(&sighting), at(90)).is_empty()
        };
        assert!(of(&record, 101, seen(ObservedPhase::Running)));
        assert!(!of(&record, 99, seen(ObservedPhase::Running)), "that was before");
        let other = meridian_model::status::Observed { id: "other".parse().ok(), ..seen(ObservedPhase::Running) };
        assert!(!of(&record, 101, other));
        let doubtful = OperationRecord { condemned: record.attempts.clone(), ..record.clone() };
        assert!(!of(&doubtful, 101, seen(ObservedPhase::Running)), "what was given up may be gone");
    }

    #[test]
    fn a_shortage_passes_where_limits_and_tree_would_hold_without_what_is_unsettled() {
        let pot = |project: &str| Pot { project: project.parse().ok(), ..Pot::default() };
        let of = |project: &str| -> Pots { [(pot(project), one())].into() };
        let node = |name: &str| {
            let nominal = LineQuota { nominal: Some(1), borrowing_limit: Some(0), ..LineQuota::default() };
            let lines = [("instances".parse().unwrap(), nominal)].into();
            QuotaNode { name: name.parse().ok(), lines, ..QuotaNode::default() }
        };
        let mut books = Books {
            usage: Usage { used: quota::sum(one(), one()), limits: QuotaLimits::default() },
            pots: [(pot("shop"), one()), (pot("blog"), one())].into(),
            tree: QuotaTree { nodes: vec![node("shop"), node("blog")] },
            ..Books::default()
        };
        let now = Time::from_unix_ms(0);
        let holds = |books: &Books, unsettled: &str| would_hold(books, &of(unsettled), &claimed(), &of("shop"), now);
        assert!(holds(&books, "shop"), "its place is free again when that is gone");
        assert!(!holds(&books, "blog"), "what another project holds is none of its own");
        books.usage.limits.instances = Some(1);
        assert!(!holds(&books, "shop"));
    }
}
