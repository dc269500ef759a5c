//! The deletes that this gateway accepted, against a ledger that was rebuilt without it.

use meridian_ledger::{Ledger, LedgerError};
use meridian_model::bugs;

use super::super::intent::IntentLog;

/// Has the deletes carried out that this gateway accepted, if the ledger was rebuilt without it and lacks them.
///
/// # Errors
/// The ledger cannot be read or written; what was asked for before stays asked for.
pub(super) async fn keep(ledger: &dyn Ledger, intents: &dyn IntentLog) -> Result<(), LedgerError> {
    if bugs::planted(bugs::REMOVAL_FORGOTTEN) || bugs::planted(bugs::NOTHING_REMEMBERED) {
        return Ok(());
    }
    for answered in intents.answers() {
        let Some(removal) = answered.removal else { continue };
        let (tenant, op) = (&answered.tenant, &answered.op_id);
        let record = ledger.operation(tenant, op).await?;
        if record.is_some_and(|r| r.removal.is_none() && !r.is_gone()) {
            tracing::error!(%tenant, %op, "the ledger lacks a delete that was accepted here; it is asked for again");
            ledger.request_removal(tenant, op, removal.requested_at).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use meridian_ledger::conformance::{MemoryLedger, at, claim_new, failed, sample_claim, write};
    use meridian_model::operation::{OperationRecord, Removal};

    use super::*;
    use crate::journal::intent::{MemoryIntents, vouched};

    /// What a gateway noted of a delete that it accepted at a time.
    fn accepted(record: &OperationRecord, seconds: u64) -> OperationRecord {
        let removal = Some(Removal { requested_at: at(seconds), completed_at: None });
        vouched(&OperationRecord { removal, updated_at: at(seconds), ..record.clone() })
    }

    #[tokio::test]
    async fn a_delete_that_was_accepted_is_asked_for_again_where_the_ledger_lacks_it() {
        let (ledger, intents) = (MemoryLedger::new("store"), MemoryIntents::default());
        let claim = async |op: &str| claim_new(&ledger, sample_claim("acme", op, op)).await;
        let (lacking, known, over) = (claim("lacking").await, claim("known").await, claim("over").await);
        let (answered, unasked) = (claim("answered").await, claim("unasked").await);
        let known = ledger.request_removal(&known.tenant, &known.op_id, at(3)).await.unwrap().unwrap();
        let over = write(&ledger, failed(over, at(2))).await;
        for record in [&lacking, &known, &over] {
            intents.answer(accepted(record, 5)).await.unwrap();
        }
        // A failure was answered, no delete; and one of an operation that the ledger has never heard of.
        intents.answer(vouched(&failed(answered.clone(), at(4)))).await.unwrap();
        let stranger = OperationRecord { op_id: "stranger".parse().unwrap(), ..(*lacking).clone() };
        intents.answer(accepted(&stranger, 5)).await.unwrap();
        for _ in 0..2 {
            keep(&ledger, &intents).await.unwrap();
            let now = async |op: &OperationRecord| ledger.operation(&op.tenant, &op.op_id).await.unwrap();
            let asked = now(&lacking).await.unwrap();
            assert_eq!(asked.removal.as_ref().map(|r| r.requested_at), Some(at(5)), "when it was accepted");
            assert!(asked.due.is_some() && asked.rev == lacking.rev + 1, "once, and somebody drives it");
            for unchanged in [&known, &over, &answered, &unasked] {
                assert_eq!(now(unchanged).await.as_ref(), Some(unchanged));
            }
            assert_eq!(now(&stranger).await, None);
        }
    }
}
