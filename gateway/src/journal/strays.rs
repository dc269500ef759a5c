//! What the reconciler has drivers do: look again, give up a second instance, end what was lost, go on with what a
//! person settled.

use meridian_model::{
    error::ErrorCode,
    ids::{CloudId, OperationId, TenantId},
    status::Observed,
};

use super::{
    amend::Amended,
    doubts::Outcome,
    machine::{self, Settlement},
    reconcile::{Class, Key},
    reconciler::Reconciler,
};
use crate::{
    operation::{Refusal, store_refusal},
    regions::Backend,
};

/// What a tenant reads of an instance that was lost.
const LOST_WHY: &str = "the region does not show the instance any more, and nobody asked for its removal";

impl Reconciler {
    /// Has the operation driven, so that it finds what is shown now.
    pub(super) async fn wake(&self, (tenant, op): &Key) {
        let Ok(Some(record)) = self.parts().ledger.operation(tenant, op).await else { return };
        if let Err(error) = self.driver().adopt_anew(record).await {
            tracing::debug!(%error, "an operation in doubt could not be woken");
        }
    }

    /// Gives an instance up in its operation's record; the operation's driver removes it.
    pub(super) async fn condemn(&self, backend: &Backend, (tenant, op): &Key, observed: &Observed, class: Class) {
        match self.driver().condemn_stray(tenant, op, &backend.id, observed).await {
            Ok(Amended::Written(_)) => {
                self.parts().metrics.reconcile.removal(backend.id.as_str(), class.as_str());
                tracing::warn!(
                    audit = true,
                    backend = %backend.id,
                    cloud.region = %backend.region,
                    cloud.id = observed.id.as_ref().map_or("", |id| id.as_str()),
                    name = observed.name,
                    meridian.operation.id = %op,
                    class = class.as_str(),
                    "an instance was condemned"
                );
            }
            // The record learned of it meanwhile, or a store that fails now answers for the next sweep.
            Ok(other) => tracing::debug!(?other, meridian.operation.id = %op, "nothing was condemned"),
            Err(error) => tracing::debug!(%error, meridian.operation.id = %op, "a stray could not be condemned"),
        }
    }

    /// Has a lost instance that is there again be its operation's and charged again, or removed.
    pub(super) async fn take_back(&self, backend: &Backend, (tenant, op): &Key, observed: &Observed) {
        match self.driver().take_back(tenant, op, &backend.id, observed).await {
            Ok(Amended::Written(record)) => tracing::warn!(
                audit = true,
                backend = %backend.id,
                cloud.region = %backend.region,
                cloud.id = observed.id.as_ref().map_or("", |id| id.as_str()),
                meridian.operation.id = %op,
                taken_back = record.open_attempt().is_some(),
                "an instance that was lost is there again"
            ),
            Ok(other) => tracing::debug!(?other, meridian.operation.id = %op, "nothing was taken back"),
            Err(error) => tracing::debug!(%error, meridian.operation.id = %op, "a lost instance is not taken back yet"),
        }
    }

    /// Ends the charge of an instance that was proven gone without a delete of ours.
    pub(super) async fn lose(&self, backend: &Backend, (tenant, op): &Key, id: &CloudId) {
        match self.driver().mark_lost(tenant, op, id, LOST_WHY).await {
            Ok(Amended::Written(_)) => {
                self.parts().metrics.reconcile.lost(backend.id.as_str());
                tracing::warn!(
                    audit = true,
                    backend = %backend.id,
                    cloud.region = %backend.region,
                    cloud.id = %id,
                    meridian.tenant.id = %tenant,
                    meridian.operation.id = %op,
                    "an instance was lost"
                );
            }
            Ok(other) => tracing::debug!(?other, meridian.operation.id = %op, "nothing was lost"),
            Err(error) => tracing::debug!(%error, meridian.operation.id = %op, "a loss could not be noted"),
        }
    }

    /// Settles an operation in doubt on a person's word: the attempt with this number, or the only one that is in doubt.
    ///
    /// # Errors
    /// It is not in doubt, the instance that is named is not there, or the ledger cannot be written.
    pub async fn settle(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        n: Option<u32>,
        outcome: Outcome,
    ) -> Result<(), Refusal> {
        let parts = self.parts();
        let record = parts.ledger.operation(tenant, op).await.map_err(|e| store_refusal(&e))?;
        let none = |code| Refusal::new(code, format!("tenant {tenant} has no operation {op} in doubt"));
        let record = record.ok_or_else(|| none(ErrorCode::NotFound))?;
        let doubts: Vec<_> = machine::doubts(&record).filter(|a| n.is_none_or(|n| n == a.n)).collect();
        let attempt = match doubts[..] {
            [attempt] => attempt,
            [] => {
                let which = n.map_or_else(String::new, |n| format!("attempt {n} of "));
                let why = format!("{which}operation {op} of tenant {tenant} is not in doubt");
                return Err(Refusal::new(ErrorCode::Conflict, why));
            }
            _ => {
                let numbers = doubts.iter().map(|a| a.n.to_string()).collect::<Vec<_>>().join(", ");
                let why = format!("attempts {numbers} of it are in doubt; say which one by its number");
                return Err(Refusal::new(ErrorCode::Conflict, why));
            }
        };
        let from = machine::may_be_settled_from(attempt, self.driver().effect_bound(&attempt.backend));
        if outcome == Outcome::Absent && parts.clock.now() <= from {
            let why =
                format!("its last request may still take effect; nothing of it can be called absent before {from}");
            return Err(Refusal::new(ErrorCode::Conflict, why));
        }
        if let Outcome::Applied(id) = &outcome {
            let poller = parts.pollers.of(&attempt.backend)?;
            let shown = self.describe(poller.backend(), id).await?;
            // What was given up is deleted when it is found: a slip must not name another instance.
            let why = match shown {
                None => Some(format!("backend {} shows no instance {id}", attempt.backend)),
                Some(shown) => (shown.name != attempt.name.as_str()).then(|| {
                    format!("instance {id} is called {:?}, attempt {} made {}", shown.name, attempt.n, attempt.name)
                }),
            };
            if let Some(why) = why {
                return Err(Refusal::new(ErrorCode::Conflict, why));
            }
        }
        let what = match &outcome {
            Outcome::Absent => Settlement::Absent,
            Outcome::Applied(id) => Settlement::Applied(id.clone()),
        };
        match self.driver().settle(tenant, op, attempt.n, what).await.map_err(|e| store_refusal(&e))? {
            Amended::Written(_) => {}
            Amended::Missing => return Err(none(ErrorCode::NotFound)),
            Amended::Unchanged(_) | Amended::Short(_) | Amended::Contended => return Err(none(ErrorCode::Conflict)),
        }
        tracing::warn!(
            audit = true,
            meridian.tenant.id = %tenant,
            meridian.operation.id = %op,
            ?outcome,
            "a doubt was settled by hand"
        );
        Ok(())
    }
}
