//! What the reconciler changes in records: a second instance is given up, a lost one ends, a doubt is settled by a
//! person. Each is one step under the record's own fence and revision, so that its driver notices; none sends anything.

use std::sync::Arc;

use meridian_ledger::{LedgerError, Step, Stepped};
use meridian_model::{
    error::ErrorCode,
    ids::{CloudId, OperationId, TenantId},
    operation::{AttemptState, OperationRecord},
    status::Observed,
    time::Time,
};

use super::{
    doubts::Outcome,
    driver::Driver,
    machine::{self, LookUp},
    reconcile::{Class, Key},
    reconciler::Reconciler,
    running::key_of,
};
use crate::{
    operation::{Refusal, store_refusal},
    regions::Backend,
};

/// Tries of one change while others change the record.
const REWRITES_MAX: usize = 8;

impl Driver {
    /// Has the task of a record, if this process drives it, look again at once.
    pub(super) fn look_again(&self, key: &Key) {
        if let Some(running) = self.0.registry().running.get(key) {
            drop(running.ask());
        }
    }

    /// Takes in a record that was written beside its driver, and has it driven if there is something to do.
    pub(super) async fn written(&self, record: Box<OperationRecord>) -> Result<(), LedgerError> {
        let (key, shown) = (key_of(&record), Arc::new((*record).clone()));
        self.0.parts.fleet.put(Arc::clone(&shown));
        self.0.registry().show(&key, &shown);
        if record.due.is_some() {
            self.adopt(record).await?;
        }
        self.look_again(&key);
        Ok(())
    }
}

impl Reconciler {
    /// Has the operation driven, so that it finds what is shown now.
    pub(super) async fn wake(&self, key: &Key) {
        let Ok(Some(record)) = self.parts().ledger.operation(&key.0, &key.1).await else { return };
        if let Err(error) = self.driver().adopt(record).await {
            tracing::debug!(%error, "an operation in doubt could not be woken");
        }
        self.driver().look_again(key);
    }

    /// Gives an instance up in its operation's record; the operation's driver removes it.
    pub(super) async fn condemn(&self, backend: &Backend, key: &Key, observed: &Observed, class: Class) {
        let _ = (backend, key, observed, class);
    }

    /// Ends the charge of an instance that was proven gone without a delete of ours.
    pub(super) async fn lose(&self, backend: &Backend, key: &Key, id: &CloudId) {
        let _ = (backend, key, id);
    }

    /// Settles an operation in doubt on a person's word.
    ///
    /// # Errors
    /// It is not in doubt, the instance that is named is not there, or the ledger cannot be written.
    pub async fn settle(&self, tenant: &TenantId, op: &OperationId, outcome: Outcome) -> Result<(), Refusal> {
        let parts = self.parts();
        let record = parts.ledger.operation(tenant, op).await.map_err(|e| store_refusal(&e))?;
        let attempt = record.as_ref().and_then(|r| r.open_attempt()).filter(|a| a.state == AttemptState::InDoubt);
        let Some(attempt) = attempt else {
            let code = if record.is_some() { ErrorCode::Conflict } else { ErrorCode::NotFound };
            return Err(Refusal::new(code, format!("tenant {tenant} has no operation {op} in doubt")));
        };
        let found: Vec<Observed> = match &outcome {
            Outcome::Absent => Vec::new(),
            Outcome::Applied(id) => {
                let poller = parts.pollers.of(&attempt.backend)?;
                let seen = self.describe(poller.backend(), id).await?;
                let missing =
                    || Refusal::new(ErrorCode::Conflict, format!("{} shows no instance {id}", attempt.backend));
                vec![seen.ok_or_else(missing)?]
            }
        };
        let n = attempt.n;
        let change = |record: OperationRecord, now: Time| {
            record.open_attempt().filter(|a| a.n == n)?;
            // A person's word stands for the bound and the proof.
            let look =
                LookUp { found: &found, proven: true, effect_bound: std::time::Duration::ZERO, forgets_ended: false };
            machine::looked_up(record, &look, now)
        };
        let key = (tenant.clone(), op.clone());
        if !self.amend(&key, change).await? {
            return Err(Refusal::new(ErrorCode::Conflict, "the operation is not in doubt any more"));
        }
        tracing::warn!(audit = true, meridian.tenant.id = %tenant, meridian.operation.id = %op, ?outcome, "a doubt was settled by hand");
        Ok(())
    }

    /// Writes what `change` makes of a record, whoever drives it; `false` when it makes nothing of it.
    async fn amend(
        &self,
        (tenant, op): &Key,
        change: impl Fn(OperationRecord, Time) -> Option<OperationRecord>,
    ) -> Result<bool, Refusal> {
        let parts = self.parts();
        let unwritten = |error: LedgerError| {
            tracing::warn!(%error, "a record could not be changed");
            store_refusal(&error)
        };
        let mut current = parts.ledger.operation(tenant, op).await.map_err(unwritten)?;
        for _ in 0..REWRITES_MAX {
            let Some(record) = current.take() else { return Ok(false) };
            let Some(next) = change(*record, parts.clock.now()) else { return Ok(false) };
            match parts.ledger.step(Step { next: Box::new(next) }).await.map_err(unwritten)? {
                Stepped::Written(record) => {
                    self.driver().written(record).await.map_err(unwritten)?;
                    return Ok(true);
                }
                Stepped::Changed(record) => current = Some(record),
                // Taken over in this moment: its fence is another.
                Stepped::Fenced => current = parts.ledger.operation(tenant, op).await.map_err(unwritten)?,
                Stepped::QuotaExceeded(_) => return Ok(false),
            }
        }
        Err(Refusal::new(ErrorCode::Conflict, "others change the operation all the time; repeat it"))
    }
}
