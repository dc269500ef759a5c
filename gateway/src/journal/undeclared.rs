//! What a tenant left open that is in the directory no more. Which regions and adapters it may use was said there, so
//! without it nothing of the tenant's is placed anywhere: a create that took its place from no rule at all could end up
//! where its data must not be. For a while it waits, because a tenant that was made through another gateway, or is being
//! moved from one source to another, may not be here yet.

use meridian_model::{
    error::{ErrorCode, Problem},
    operation::OperationRecord,
};

use super::{
    patience::Backoff,
    task::{Driven, Task},
};

/// Looks for a missing tenant, two minutes of them. Changes reach every gateway within a second, within a minute if the
/// store is away, and who moves a tenant from one file to another takes no longer.
const LOOKS_MAX: u32 = 14;

impl Task {
    /// Whether the operation's tenant is in the directory.
    pub(super) fn is_declared(&self, record: &OperationRecord) -> bool {
        self.parts().planner.knows(&record.tenant)
    }

    /// Waits for the tenant to be declared, or ends the operation when it was not for too long.
    pub(super) async fn await_tenant(&self, record: Box<OperationRecord>, backoff: &mut Backoff) -> Driven {
        if backoff.tries >= LOOKS_MAX {
            let detail = "the tenant is not declared any more, so nothing says where its instance may run";
            return self.fail(record, &Problem::new(ErrorCode::Unplaceable, detail)).await;
        }
        self.pause(backoff.next()).await?;
        self.reload(record).await
    }
}
