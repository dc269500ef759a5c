//! Operations whose outcome is not known, for a person to see and settle.

use meridian_model::{
    ids::{BackendId, CloudId, CloudName, InstanceName, OperationId, TenantId},
    operation::{Attempt, OperationRecord},
    time::Time,
};
use serde::Serialize;

use super::{machine, reconciler::Reconciler};

/// A state in which an operation may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its driver finds out.
    InDoubt,
    /// Only a person can tell: what ran to completion may have vanished from the backend's lists.
    Undetermined,
}

/// What a person knows of an operation in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of it exists and nothing can appear.
    Absent,
    /// It made this instance.
    Applied(CloudId),
}

/// An attempt of an operation whose outcome is not known.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DoubtView {
    /// The tenant.
    pub tenant: TenantId,
    /// The operation.
    pub operation: OperationId,
    /// The instance it is about.
    pub instance: InstanceName,
    /// Who finds out.
    pub state: State,
    /// Where the request went.
    pub backend: BackendId,
    /// What is looked for.
    pub cloud_name: CloudName,
    /// Number of the attempt.
    pub attempt: u32,
    /// The operation goes on without it (`onDoubt: replace`): what it made is deleted, and charged until then.
    pub given_up: bool,
    /// Since when.
    pub since: Time,
    /// When its last request was journalled.
    pub armed_at: Time,
    /// Requests sent, as far as is known.
    pub sends: u32,
    /// The last failure, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Reconciler {
    /// Attempts in doubt, or undetermined, or both; as far as this process knows.
    #[must_use]
    pub fn doubts(&self, only: Option<State>) -> Vec<DoubtView> {
        let records = self.parts().fleet.records();
        let views = records.iter().flat_map(|r| machine::doubts(r).map(|attempt| view(r, attempt)));
        views.filter(|v| only.is_none_or(|state| state == v.state)).collect()
    }
}

fn view(record: &OperationRecord, attempt: &Attempt) -> DoubtView {
    let given_up = record.open_attempt().is_none_or(|open| open.n != attempt.n);
    let undetermined = !given_up && machine::is_undetermined(record);
    DoubtView {
        tenant: record.tenant.clone(),
        operation: record.op_id.clone(),
        instance: record.name.clone(),
        state: if undetermined { State::Undetermined } else { State::InDoubt },
        backend: attempt.backend.clone(),
        cloud_name: attempt.name.clone(),
        attempt: attempt.n,
        given_up,
        since: attempt.changed_at,
        armed_at: attempt.armed_at,
        sends: attempt.sends,
        fault: attempt.fault.as_ref().map(|f| format!("{}: {}", f.code, f.message)),
    }
}
