//! Around the send of a create: its intent on disk before, its answer in the record after.

use std::sync::Arc;

use meridian_adapters::{AdapterError, CreateCall};
use meridian_model::{
    bugs,
    ids::{BackendId, CloudId, IdError},
    instance::Labels,
    operation::{Attempt, AttemptFault, OperationRecord, RankedCandidate},
    time::Time,
};
use meridian_policies::budget::{Payer, Purpose};

use super::{
    disk::{NOTED_WITHIN, unanswered},
    driver::Parts,
    identity::Deployment,
    intent::Intent,
    machine::{self, Names, condemned},
    patience::Backoff,
    task::{Driven, Stop, Task, create_purpose, fault},
};
use crate::{
    audit::effect::Cause,
    regions::{Backend, pace::CreateTurn},
};

/// Records under which an answer is written: what was taken over by this very process meanwhile has another fence.
const FENCES_MAX: usize = 3;

impl Task {
    /// Waits before an attempt is opened that could not be sent: until the intent journal can be written, or it is time
    /// to look whether the record is still this gateway's.
    pub(super) async fn await_journal(&self, record: Box<OperationRecord>, backoff: &mut Backoff) -> Driven {
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => return Err(Stop::Draining),
            () = self.running.wake.notified() => {}
            () = self.inner.disk.writable() => {}
            () = tokio::time::sleep(backoff.next()) => {}
        }
        self.reload(record).await
    }

    /// Writes what is about to be sent into the intent journal. When that fails nothing may leave, and the answer is why:
    /// a rebuild that cannot see the attempt's region would not know of it.
    pub(super) async fn unwritten(&self, record: &OperationRecord, attempt: &Attempt) -> Option<AttemptFault> {
        let arming = self.parts().intents.arm(Intent::of(record, attempt));
        let why = match tokio::time::timeout(NOTED_WITHIN, arming).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => unanswered(),
        };
        self.inner.disk.failed(&why);
        tracing::debug!(why, "nothing is sent: the intent journal did not take it");
        Some(fault(machine::UNWRITTEN, "the gateway could not note what it was about to send; nothing was sent"))
    }

    /// Writes what the answer to the create of an attempt makes of the record, whatever became of the attempt meanwhile:
    /// an instance that the answer names exists, and is adopted or condemned, never forgotten.
    pub(super) async fn answered(
        &self,
        mut record: Box<OperationRecord>,
        (attempt, result): (&Attempt, &Result<CloudId, AdapterError>),
        settle: impl Fn(OperationRecord, &Result<CloudId, AdapterError>, Time) -> OperationRecord + Copy + Send + Sync,
    ) -> Driven {
        let mut charged = true;
        for _ in 0..FENCES_MAX {
            let fence = record.fence.clone();
            let change = |r, now| condemned::answered(r, (attempt, result), settle, charged, now);
            let written =
                if charged { self.try_write(record, change).await? } else { Ok(self.write(record, change).await?) };
            match written {
                // A refusal says nothing of what others may have sent under the token in between; an id does.
                Ok(written) if written.fence == fence || result.is_err() => {
                    record = written;
                    break;
                }
                Ok(taken_over) => record = taken_over,
                // It exists whether or not the quota holds it; what matters is that it goes.
                Err((kept, _)) => {
                    record = kept;
                    charged = false;
                }
            }
        }
        if let Ok(id) = result
            && record.attempts.iter().chain(&record.condemned).all(|a| a.cloud_id.as_ref() != Some(id))
        {
            tracing::error!(
                cloud_id = %id,
                meridian.tenant.id = %record.tenant,
                meridian.operation.id = %record.op_id,
                "a create was answered after its operation had ended: the reconciler removes the instance"
            );
        }
        Ok(record)
    }

    /// Planted bug: sends before anything is journalled.
    pub(super) async fn too_early(
        &self,
        backend: &Backend,
        record: &OperationRecord,
        candidate: &RankedCandidate,
    ) -> Option<Result<CloudId, AdapterError>> {
        if !bugs::planted(bugs::NO_WRITE_AHEAD) {
            return None;
        }
        let names = self.names(record, machine::next_number(record), &candidate.backend).ok()?;
        let plan = (self.parts().planner.charge(record), self.parts().settings.limits);
        let armed = machine::arm(record.clone(), candidate, names, plan, self.now())?;
        let attempt = armed.open_attempt()?;
        Some(self.create(backend, &armed, (attempt, attempt.armed_at), None).await)
    }

    pub(super) fn names(&self, record: &OperationRecord, n: u32, backend: &BackendId) -> Result<Names, IdError> {
        let token = Deployment::client_token(&record.op_id, n, backend, record.epoch)?;
        let name = self.parts().deployment.cloud_name(&record.tenant, &record.op_id, n, record.epoch)?;
        Ok(Names { token, name })
    }

    pub(super) async fn create(
        &self,
        backend: &Backend,
        record: &OperationRecord,
        (attempt, signed_at): (&Attempt, Time),
        turn: Option<&CreateTurn>,
    ) -> Result<CloudId, AdapterError> {
        let purpose = create_purpose(record, attempt.n);
        let spec = self.parts().planner.resolve(backend, &record.spec)?;
        let call = CreateCall {
            name: attempt.name.clone(),
            token: attempt.token.clone(),
            spec: Arc::new(spec),
            zone: attempt.zone.clone(),
            shape: attempt.shape.clone(),
            marks: marks(record),
        };
        let cause = Cause {
            backend: &backend.id,
            cloud_name: attempt.name.as_str(),
            tenant: Some(&record.tenant),
            operation: Some(&record.op_id),
        };
        let id = |told: Option<&CloudId>| told.map(ToString::to_string);
        self.parts().audit.effect(("create", cause), id, backend.create(call, signed_at, (&purpose, turn))).await
    }
}

/// Deletes an instance of ours; its name says for which operation.
pub(super) async fn delete(
    parts: &Parts,
    backend: &Backend,
    purpose: &Purpose,
    (cloud_name, id): (&str, &CloudId),
) -> Result<(), AdapterError> {
    let operation = parts.deployment.identify(cloud_name).map(|identity| identity.op_id);
    let tenant = match &purpose.payer {
        Payer::Tenant(tenant) => Some(tenant),
        Payer::Gateway => None,
    };
    let cause = Cause { backend: &backend.id, cloud_name, tenant, operation: operation.as_ref() };
    parts.audit.effect(("delete", cause), |_| Some(id.to_string()), backend.delete(id.clone(), purpose)).await
}

/// What the instance carries to say whose it is: enough to rebuild a lost ledger, nothing that is secret.
fn marks(record: &OperationRecord) -> Labels {
    let project = record.project();
    let marks = [
        ("MERIDIAN_TENANT", record.tenant.as_str()),
        ("MERIDIAN_INSTANCE", record.name.as_str()),
        ("MERIDIAN_UID", record.uid.as_str()),
        ("MERIDIAN_EPOCH", &record.epoch.to_string()),
        ("MERIDIAN_FINGERPRINT", &record.fingerprint),
    ];
    let project = project.as_ref().map(|name| ("MERIDIAN_PROJECT", name.as_str()));
    marks.into_iter().chain(project).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}
