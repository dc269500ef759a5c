//! The deletes that this gateway accepted, against a ledger that was rebuilt without it.
//!
//! A rebuild takes longer than answers are kept, so none is forgotten before the ledger was compared with it.

use std::{collections::VecDeque, time::Duration};

use futures_util::{StreamExt as _, stream};
use meridian_ledger::{Ledger, LedgerError, LedgerFuture};
use meridian_model::{
    bugs,
    ids::{OperationId, TenantId},
    operation::{OperationRecord, Removal},
    time::Time,
};
use tokio::time::{Instant, timeout_at};

use super::super::intent::{IntentLog, KEPT};

/// Deletes that are compared at once.
const AT_ONCE: usize = 32;
/// Longest time for one look; what it did not come to is the next one's. Its caller says between two that it lives.
const WITHIN: Duration = Duration::from_secs(1);

/// How far the ledger was compared with what this gateway answered.
#[derive(Debug, Default)]
pub(super) struct Word {
    /// What is still to be compared; none before the first look since anything may have been lost.
    owed: Option<VecDeque<Delete>>,
}

/// A delete that was accepted.
#[derive(Debug, Clone)]
struct Delete {
    tenant: TenantId,
    op: OperationId,
    requested_at: Time,
    reason: Option<String>,
}

/// Reads an operation.
pub(super) trait Ask<'a>: Fn(&TenantId, &OperationId) -> LedgerFuture<'a, Option<Box<OperationRecord>>> {}

impl<'a, T: Fn(&TenantId, &OperationId) -> LedgerFuture<'a, Option<Box<OperationRecord>>>> Ask<'a> for T {}

impl Delete {
    fn of(answered: OperationRecord) -> Option<Self> {
        let Removal { requested_at, reason, .. } = answered.removal?;
        Some(Self { tenant: answered.tenant, op: answered.op_id, requested_at, reason })
    }

    /// Asks for it again if the ledger lacks it.
    async fn keep<'a>(self, ledger: &dyn Ledger, ask: &impl Ask<'a>) -> Result<(), LedgerError> {
        let Self { tenant, op, requested_at, reason } = &self;
        let kept = async {
            let record = ask(tenant, op).await?;
            if record.is_some_and(|r| r.removal.is_none() && !r.is_gone()) {
                tracing::error!(%tenant, %op, "the ledger lacks a delete that was accepted here; it is asked for again");
                ledger.request_removal(tenant, op, *requested_at, reason.as_deref()).await?;
            }
            Ok(())
        };
        match kept.await {
            Err(error @ (LedgerError::Damaged { .. } | LedgerError::Invalid { .. })) => {
                tracing::error!(%error, %tenant, %op, "a delete that was accepted here cannot be compared with the ledger");
                Ok(())
            }
            kept => kept,
        }
    }
}

impl Word {
    /// Anything may have been lost: all is compared again.
    pub(super) fn doubt(&mut self) {
        self.owed = None;
    }

    /// The ledger has all that was answered here.
    pub(super) fn is_kept(&self) -> bool {
        self.owed.as_ref().is_some_and(VecDeque::is_empty)
    }

    /// One look at a ledger that is whole, where `ask` reads it: has the deletes carried out that were accepted here and that it lacks.
    ///
    /// # Errors
    /// The ledger cannot be read or written; what was asked for before stays asked for. A record that cannot be read is
    /// passed over.
    pub(super) async fn keep<'a>(
        &mut self,
        ledger: &dyn Ledger,
        ask: impl Ask<'a>,
        intents: &dyn IntentLog,
    ) -> Result<(), LedgerError> {
        let until = Instant::now() + WITHIN;
        let owed = self.owed.get_or_insert_with(|| {
            let forgets = bugs::planted(bugs::REMOVAL_FORGOTTEN) || bugs::planted(bugs::NOTHING_REMEMBERED);
            let answers = if forgets { Vec::new() } else { intents.answers() };
            answers.into_iter().filter_map(Delete::of).collect()
        });
        let mut compared = 0;
        let mut results =
            stream::iter(owed.clone().into_iter().map(|delete| delete.keep(ledger, &ask))).buffered(AT_ONCE);
        while let Ok(Some(kept)) = timeout_at(until, results.next()).await {
            kept?;
            compared += 1;
        }
        drop(results);
        owed.drain(..compared);
        Ok(())
    }

    /// Forgets answers that are old, if the ledger has them all.
    pub(super) fn forget(&self, intents: &dyn IntentLog, now: Time) {
        if self.is_kept() {
            intents.forget(now - KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_ledger::conformance::{MemoryLedger, at, claim_new, failed, sample_claim, write};

    use super::*;
    use crate::journal::intent::{MemoryIntents, vouched};

    /// What a gateway noted of a delete that it accepted at a time.
    fn accepted(record: &OperationRecord, seconds: u64) -> OperationRecord {
        let removal = Some(Removal { requested_at: at(seconds), completed_at: None, reason: None });
        vouched(&OperationRecord { removal, updated_at: at(seconds), ..record.clone() })
    }

    fn read(ledger: &MemoryLedger) -> impl Ask<'_> {
        |tenant: &TenantId, op: &OperationId| ledger.operation(tenant, op)
    }

    #[tokio::test]
    async fn a_delete_that_was_accepted_is_asked_for_again_where_the_ledger_lacks_it() {
        let (ledger, intents) = (MemoryLedger::new("store"), MemoryIntents::default());
        let claim = async |op: &str| claim_new(&ledger, sample_claim("acme", op, op)).await;
        let (lacking, known, over) = (claim("lacking").await, claim("known").await, claim("over").await);
        let (answered, unasked) = (claim("answered").await, claim("unasked").await);
        let known = ledger.request_removal(&known.tenant, &known.op_id, at(3), None).await.unwrap().unwrap();
        let over = write(&ledger, failed(over, at(2))).await;
        for record in [&lacking, &known, &over] {
            intents.answer(accepted(record, 5)).await.unwrap();
        }
        // A failure was answered, no delete; and one of an operation that the ledger has never heard of.
        intents.answer(vouched(&failed(answered.clone(), at(4)))).await.unwrap();
        let stranger = OperationRecord { op_id: "stranger".parse().unwrap(), ..(*lacking).clone() };
        intents.answer(accepted(&stranger, 5)).await.unwrap();
        let mut word = Word::default();
        for _ in 0..2 {
            word.doubt();
            word.keep(&ledger, read(&ledger), &intents).await.unwrap();
            assert!(word.is_kept());
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
    #[tokio::test]
    async fn an_answer_is_not_forgotten_before_the_ledger_was_compared_with_it() {
        let (ledger, intents) = (MemoryLedger::new("store"), MemoryIntents::default());
        let record = claim_new(&ledger, sample_claim("acme", "op", "op")).await;
        intents.answer(accepted(&record, 5)).await.unwrap();
        let (mut word, long_after) = (Word::default(), at(6) + KEPT);
        word.forget(&intents, long_after);
        assert_eq!(intents.answers().len(), 1);
        word.keep(&ledger, read(&ledger), &intents).await.unwrap();
        let asked = ledger.operation(&record.tenant, &record.op_id).await.unwrap().unwrap();
        assert!(asked.removal.is_some());
        word.forget(&intents, long_after);
        assert_eq!(intents.answers(), []);
    }
    /// Within a second of a ledger that takes 50 ms for each answer and cannot read one record.
    #[tokio::test(start_paused = true)]
    async fn many_deletes_are_compared_at_once_and_what_cannot_be_read_holds_up_none() {
        let (ledger, intents) = (MemoryLedger::new("store"), MemoryIntents::default());
        for n in 0..1_000 {
            let op = format!("op{n}");
            let record = claim_new(&ledger, sample_claim("acme", &op, &op)).await;
            intents.answer(accepted(&record, 5)).await.unwrap();
        }
        let slow = |tenant: &TenantId, op: &OperationId| -> LedgerFuture<'_, _> {
            let (answer, damaged) = (ledger.operation(tenant, op), op.as_str() == "op1");
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let damage = LedgerError::Damaged { place: "acme".to_owned(), detail: "junk".to_owned() };
                if damaged { Err(damage) } else { answer.await }
            })
        };
        let mut word = Word::default();
        let began = Instant::now();
        word.keep(&ledger, slow, &intents).await.unwrap();
        assert!(began.elapsed() <= WITHIN && !word.is_kept(), "{:?}", began.elapsed());
        word.keep(&ledger, slow, &intents).await.unwrap();
        assert!(word.is_kept());
        let records = ledger.records(None, 2_000).await.unwrap().records;
        let unasked: Vec<_> = records.iter().filter(|r| r.removal.is_none()).map(|r| r.op_id.as_str()).collect();
        assert_eq!(unasked, ["op1"]);
    }
}
