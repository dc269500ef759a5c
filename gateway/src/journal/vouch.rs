//! Answers that a caller relies on and no cloud shows: that an operation failed, or that a delete was accepted. The
//! gateway that gives one notes it on its own disk first, for a rebuild of a ledger that lost the write behind it.

use std::time::Duration;

use meridian_model::operation::{OperationRecord, OperationState};

use super::{
    driver::Driver,
    intent::{KEPT, vouched},
};

/// Longest wait for the disk. The ledger has what is answered; the note is for the loss of that.
pub(crate) const NOTED_WITHIN: Duration = Duration::from_millis(500);

impl Driver {
    /// Notes what is about to be answered from a record, unless a cloud shows it or it is old; within a time.
    pub async fn vouch(&self, record: &OperationRecord, within: Duration) {
        let parts = &self.0.parts;
        let failed = record.state.is_final() && record.state != OperationState::Succeeded;
        if !(failed || record.removal.is_some()) || record.updated_at + KEPT < parts.clock.now() {
            return;
        }
        let why = match tokio::time::timeout(within, parts.intents.answer(vouched(record))).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                let why = error.to_string();
                self.0.disk.failed(&why);
                why
            }
            Err(_) => format!("it did not answer within {} ms", within.as_millis()),
        };
        // That the disk refuses is said once (`disk`); here it is about one answer.
        tracing::warn!(
            why,
            meridian.tenant.id = %record.tenant,
            meridian.operation.id = %record.op_id,
            "an answer is not noted in the intent journal of this gateway"
        );
    }
}
