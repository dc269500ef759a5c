//! Changes of a record that do not come from its walk: an instance that ended or was lost, an instance too many, what a
//! person found out. Any gateway may make them: a step compares the fence and the revision that it read, so it is
//! written in the owner's name or not at all, and the owner decides again from the changed record.

use std::{sync::Arc, time::Duration};

use meridian_ledger::{LedgerError, Step, Stepped};
use meridian_model::{
    error::QuotaShortage,
    ids::{BackendId, CloudId, CloudName, OperationId, TenantId},
    operation::{Attempt, AttemptState, OperationRecord},
    status::Observed,
    time::Time,
};
use tokio::sync::mpsc;

use super::{
    driver::Driver,
    identity::Deployment,
    machine::{self, Settlement, condemned},
};
use crate::status::poll::Ended;

/// Writes that meet a record that was changed meanwhile; each is decided again.
const REWRITES_MAX: usize = 8;

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Amended {
    /// Written; the record as it is now. What follows from it is being done.
    Written(Arc<OperationRecord>),
    /// The record says otherwise, or says it already; nothing was written.
    Unchanged(Arc<OperationRecord>),
    /// There is no such operation, or only what an expired one left.
    Missing,
    /// The tenant's quota does not hold it; nothing was written.
    Short(Box<QuotaShortage>),
    /// It was changed by others again and again; nothing was written.
    Contended,
}

impl Driver {
    /// Changes a record whoever owns it, and has it driven on if something is left to do. `step` says whether the quota
    /// must hold what it takes more; what is learned of an instance is so in any case.
    async fn amend(
        &self,
        (tenant, op): (&TenantId, &OperationId),
        step: fn(Box<OperationRecord>) -> Step,
        change: impl Fn(OperationRecord, Time) -> Option<OperationRecord> + Send,
    ) -> Result<Amended, LedgerError> {
        let parts = &self.0.parts;
        for _ in 0..REWRITES_MAX {
            let Some(record) = parts.ledger.operation(tenant, op).await? else { return Ok(Amended::Missing) };
            let Some(next) = change((*record).clone(), parts.clock.now()) else {
                return Ok(Amended::Unchanged(Arc::new(*record)));
            };
            match parts.ledger.step(step(Box::new(next))).await? {
                Stepped::Written(written) => {
                    let shown = Arc::new((*written).clone());
                    parts.fleet.put(Arc::clone(&shown));
                    if written.due.is_some() {
                        drop(self.adopt_anew(written).await?);
                    }
                    return Ok(Amended::Written(shown));
                }
                Stepped::QuotaExceeded(shortage) => return Ok(Amended::Short(shortage)),
                Stepped::Fenced | Stepped::Changed(_) => {}
            }
        }
        Ok(Amended::Contended)
    }

    /// Notes that an adopted instance was proven gone although nobody asked for its removal: its charge ends, its
    /// status says so, and it stays readable until it is deleted. `why` is for the tenant.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn mark_lost(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        id: &CloudId,
        why: &str,
    ) -> Result<Amended, LedgerError> {
        self.amend((tenant, op), Step::over_quota, |record, now| machine::lost(record, id, why, now)).await
    }

    /// Takes a lost instance that is shown again back into its operation, if the quota holds it; else it is condemned: its
    /// tenant was told that it is lost, and has used what it was charged otherwise. `Unchanged` when it was not lost.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn take_back(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        backend: &BackendId,
        observed: &Observed,
    ) -> Result<Amended, LedgerError> {
        let back = |record, now| machine::returned(record, observed, now);
        match self.amend((tenant, op), Step::within, back).await? {
            Amended::Short(_) => self.condemn_stray(tenant, op, backend, observed).await,
            other => Ok(other),
        }
    }

    /// Condemns an instance of an operation that a sweep showed beside what its record says: a duplicate, or a zombie
    /// of a lower epoch. The driver deletes it and proves it gone; it is charged until then if the quota holds it.
    /// `Unchanged` when the record knows the instance, or is gone.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn condemn_stray(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        backend: &BackendId,
        observed: &Observed,
    ) -> Result<Amended, LedgerError> {
        let Some(stray) = self.stray(backend, observed) else { return Ok(Amended::Missing) };
        let charged = |record, now| condemned::stray(record, &stray, true, now);
        let uncharged = |record, now| condemned::stray(record, &stray, false, now);
        match self.amend((tenant, op), Step::within, charged).await? {
            // It exists whether or not the quota holds it; what matters is that it goes.
            Amended::Short(_) => self.amend((tenant, op), Step::over_quota, uncharged).await,
            other => Ok(other),
        }
    }

    /// The attempt that an instance at a cloud is, by its name. `None` when the name is not of this deployment, or the
    /// backend is not configured.
    fn stray(&self, backend: &BackendId, observed: &Observed) -> Option<Attempt> {
        let parts = &self.0.parts;
        let identity = parts.deployment.identify(&observed.name)?;
        let place = parts.pollers.of(backend).ok()?.backend();
        let now = parts.clock.now();
        let zone = observed.zone.clone().or_else(|| place.zones.first().cloned())?;
        Some(Attempt {
            n: identity.n,
            backend: backend.clone(),
            adapter: place.adapter.clone(),
            region: place.region.clone(),
            zone,
            token: Deployment::client_token(&identity.op_id, identity.n, backend, identity.epoch).ok()?,
            name: CloudName::new(observed.name.clone()).ok()?,
            shape: observed.shape.clone(),
            price: None,
            takes: None,
            state: AttemptState::Removing,
            started_at: observed.created_at.unwrap_or(now),
            armed_at: observed.created_at.unwrap_or(now),
            sends: 1,
            cloud_id: Some(observed.id.clone()?),
            place_until: None,
            fault: None,
            changed_at: now,
        })
    }

    /// Settles attempt `n` by what a person found out. `Unchanged` when it is not in doubt, or when it is said to be absent
    /// and may still take effect ([`machine::may_be_settled_from`]).
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn settle(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        n: u32,
        what: Settlement,
    ) -> Result<Amended, LedgerError> {
        let change = |record: OperationRecord, now| {
            let bound = machine::doubts(&record).find(|a| a.n == n).map(|a| self.effect_bound(&a.backend))?;
            machine::decided(record, n, &what, bound, now)
        };
        self.amend((tenant, op), Step::over_quota, change).await
    }

    /// The effect bound of a backend; the longest of all when it is not configured any more.
    pub(super) fn effect_bound(&self, backend: &BackendId) -> Duration {
        let pollers = &self.0.parts.pollers;
        let own = pollers.of(backend).ok().map(|p| p.backend().effect_bound());
        own.or_else(|| pollers.all().iter().map(|p| p.backend().effect_bound()).max()).unwrap_or_default()
    }

    /// Ends the charges of instances that ended by themselves.
    pub async fn settle_ended(self, mut ended: mpsc::Receiver<Ended>) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                next = ended.recv() => next,
            };
            let Some(Ended { record, observed }) = next else { return };
            let (tenant, op) = (&record.tenant, &record.op_id);
            // A ledger that fails loses nothing: the next sweep tells again.
            let change = |record, now| machine::ended(record, &observed, now);
            let amended = self.amend((tenant, op), Step::over_quota, change).await;
            if let Err(error) = amended {
                tracing::debug!(%error, "the end of an instance was not noted; the next sweep tells again");
            }
        }
    }
}
