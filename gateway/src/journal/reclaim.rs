//! Takes back for a create what other projects of its tenant borrow, where the tenant's quota tree says so.
//!
//! Who has to give back is decided purely ([`take_back`]); each removal is an ordinary one, journalled with a reason that
//! its owner reads. The create itself ends: whoever asks again finds the quota free, or hears how many are still on their
//! way out. The decision is of one moment. Should an owner delete an instance of the same project in the next, that
//! project may end within its nominal quota by what was taken from it; it has its own claim to have that back.

use std::sync::Arc;

use meridian_model::{
    error::Problem,
    ids::{OperationId, ProjectName, TenantId},
    operation::{AttemptState, Charge, OperationRecord, RankedCandidate},
    quota::Reclaim,
};
use meridian_policies::{
    placement::{self, Divided, TenantQuota},
    quota::{
        Beside,
        parts::{Pot, Pots, move_parts, parts},
        reclaim::{Held, Taking, take_back},
        tree::{Class, Tree, class_of},
    },
};

use super::{driver::Driver, shortage::would_hold, task::Task};
use crate::audit::record::{Entry, Reclaimed};

/// Places that are considered for one create, best first: what is taken back for the first that it is enough for.
const PLACES_MAX: usize = 8;

/// Seconds after which the create is worth asking again: vendors delete within a few.
const RETRY_SECONDS: u32 = 10;

/// A tenant's quota of which nothing is used.
pub(super) fn unused(quota: &TenantQuota) -> TenantQuota {
    let divided = quota.divided.as_ref();
    let divided = divided.map(|d| Arc::new(Divided { pots: Pots::new(), own: Pots::new(), ..Divided::clone(d) }));
    TenantQuota { used: Charge::default(), limits: quota.limits, divided }
}

/// What a record would be charged at each of some candidates, best first and each place once.
pub(super) fn wishes(record: &OperationRecord, candidates: &[RankedCandidate]) -> Vec<Pots> {
    let charge = placement::charge_of(candidates, Beside::of(&record.spec));
    let mut wishes: Vec<Pots> = Vec::new();
    for candidate in candidates {
        let pot = Pot {
            project: record.project(),
            provider: Some(candidate.adapter.clone()),
            region: Some(candidate.region.clone()),
            gpu_model: candidate.shape.gpu_type.clone().filter(|_| candidate.shape.gpu_count > 0),
        };
        let wish = [(pot, charge)].into();
        if !wishes.contains(&wish) {
            wishes.push(wish);
        }
    }
    wishes
}

/// What an instance holds that may be taken back, or is becoming free. What is still being placed is neither.
fn held(record: &OperationRecord) -> Option<Held> {
    let leaving = record.removal.is_some();
    let runs = record.open_attempt().is_some_and(|attempt| attempt.state == AttemptState::Running);
    (leaving || runs).then(|| Held {
        op: record.op_id.clone(),
        parts: parts(record),
        created_at: record.created_at,
        leaving,
    })
}

/// What will be free when all that is to go is gone.
fn freed(all: &[Held], taking: &Taking) -> Pots {
    let mut freed = Pots::new();
    for held in all.iter().filter(|held| held.leaving || taking.victims.contains(&held.op)) {
        move_parts(&mut freed, &Pots::new(), &held.parts);
    }
    freed
}

fn named(project: Option<&ProjectName>) -> String {
    project.map_or_else(|| "the tenant itself".to_owned(), |name| format!("project {name}"))
}

impl Task {
    /// What a create is answered that is short of quota: the problem as it is, or that what others borrow is being taken
    /// back for it. `wishes` are what it would be charged, in each place that would do, best first.
    pub(super) async fn take_back(&self, record: &OperationRecord, problem: Problem, wishes: &[Pots]) -> Problem {
        // What holds quota of its own already came further than a first instance.
        if record.charge != Charge::default() || class_of(record) != Class::First {
            return problem;
        }
        // Nobody asked for what is removed here, so nothing is while it could not be recorded.
        if self.parts().audit.trouble().is_some() {
            return problem;
        }
        let Ok(books) = self.parts().ledger.books(&record.tenant).await else { return problem };
        let Ok(tree) = Tree::new(&books.tree) else { return problem };
        let project = record.project();
        if tree.reclaim(tree.place(project.as_ref())) == Reclaim::Never {
            return problem;
        }
        let all: Vec<Held> = self.parts().fleet.records_of(&record.tenant).iter().filter_map(|r| held(r)).collect();
        let enough = wishes.iter().take(PLACES_MAX).find_map(|wish| {
            let taking = take_back(&tree, &books.pots, &all, wish)?;
            // Nothing is taken for a create that the tenant's limits or a budget keep out all the same.
            would_hold(&books, &freed(&all, &taking), record, wish, self.now()).then_some(taking)
        });
        let Some(taking) = enough else { return problem };
        let mut going = taking.leaving;
        for victim in &taking.victims {
            going += usize::from(self.reclaim(record, victim, project.as_ref()).await);
        }
        let Some(reclaiming) = u32::try_from(going).ok().filter(|going| *going > 0) else { return problem };
        let detail = format!(
            "{}; {reclaiming} instances of other projects that borrow it are being removed: ask again after that, under \
             a new idempotency key",
            problem.detail
        );
        let quota = problem.quota.map(|mut shortage| {
            shortage.reclaiming = Some(reclaiming);
            shortage
        });
        Problem { detail, quota, ..problem }.with_retry_after(RETRY_SECONDS)
    }

    /// Begins the removal of one instance; false when it could not be.
    async fn reclaim(&self, record: &OperationRecord, victim: &OperationId, project: Option<&ProjectName>) -> bool {
        let tenant = &record.tenant;
        let reason = format!("reclaimed by {}, whose own quota it was borrowing", named(project));
        match Driver(Arc::clone(&self.inner)).remove(tenant, victim, Some(reason)).await {
            Ok(Some((removed, _))) => {
                tracing::info!(
                    meridian.tenant.id = %tenant,
                    meridian.operation.id = %victim,
                    instance = %removed.name,
                    borrower = %named(removed.project().as_ref()),
                    owner = %named(project),
                    for_operation = %record.op_id,
                    "an instance is removed because its project borrowed another's quota"
                );
                self.parts().metrics.reclaimed();
                self.parts().audit.note(Entry::Reclaimed(Box::new(reclaimed(tenant, &removed, record))));
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, meridian.operation.id = %victim, "what was borrowed could not be taken back");
                false
            }
        }
    }
}

/// The record of it for the audit.
fn reclaimed(tenant: &TenantId, victim: &OperationRecord, winner: &OperationRecord) -> Reclaimed {
    let project = |record: &OperationRecord| record.project().map(String::from);
    Reclaimed {
        action: "reclaim-instance",
        borrower: project(victim),
        for_operation: winner.op_id.clone(),
        object: format!("tenants/{tenant}/instances/{}", victim.name),
        operation: victim.op_id.clone(),
        owner: project(winner),
        tenant: tenant.clone(),
    }
}
