//! Forgets of the intent journal those old intents whose outcome the ledger has.
//!
//! The outcome is looked for when an intent is old and the ledger is whole, not noted when it is settled: what the ledger
//! was told may be lost since. A whole ledger lacks nothing that this gateway saw, so what the fleet shows is there, and
//! only for what the fleet does not show the ledger is asked: without that each create would be read once more. Looks go
//! round in the order of the names, each from where the last one ended, so that what stays open for long (a doubt, a
//! tenant that cannot be read) keeps nothing else from being forgotten.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use meridian_ledger::{LedgerError, LedgerFuture};
use meridian_model::{
    ids::{CloudName, OperationId, TenantId},
    operation::OperationRecord,
    time::Time,
};
use tokio::time::Instant;

use super::super::intent::{Intent, IntentLog, KEPT};

/// Between two looks through the journal while all is whole.
const EVERY: Duration = Duration::from_secs(10);
/// Old intents that one look asks the ledger about: with [`EVERY`] the rate of creates that it keeps up with, a thousand
/// a second.
const ASKED_MAX: usize = 10_000;
/// Questions under way at once: what a gateway's own requests leave of a connection.
const AT_ONCE: usize = 32;
/// Longest time for one look; what it did not come to is the next one's. Its caller says between two that it lives.
const WITHIN: Duration = Duration::from_secs(1);

/// How far the looks have come.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    looked_at: Option<Instant>,
    /// The last intent that was asked about.
    last: Option<CloudName>,
}

impl Tidy {
    /// Whether it is time for a look.
    pub(super) fn is_due(&self) -> bool {
        self.looked_at.is_none_or(|at| at.elapsed() >= EVERY)
    }

    /// One look at a ledger that is whole; `shown` is what readers here see of an intent's instance, `ask` reads an
    /// operation.
    ///
    /// # Errors
    /// The ledger answers nobody. A tenant that cannot be read is passed over.
    pub(super) async fn look<'a>(
        &mut self,
        intents: &dyn IntentLog,
        shown: impl Fn(&Intent) -> Option<Arc<OperationRecord>>,
        ask: impl Fn(&TenantId, &OperationId) -> LedgerFuture<'a, Option<Box<OperationRecord>>>,
        now: Time,
    ) -> Result<(), LedgerError> {
        let (started, before) = (Instant::now(), now - KEPT);
        self.looked_at = Some(started);
        let turn = intents.armed_before(before, self.last.as_ref(), ASKED_MAX);
        let is_open = |intent: &Intent| {
            let record = shown(intent).filter(|record| record.op_id == intent.op_id);
            let settled = record.is_some_and(|record| is_settled(intent, Some(&record)));
            if settled {
                intents.settle(&intent.cloud_name);
            }
            !settled
        };
        let asked = turn.into_iter().filter(is_open).map(|intent| {
            let record = ask(&intent.tenant, &intent.op_id);
            async move { (intent, record.await) }
        });
        let mut answers = stream::iter(asked).buffered(AT_ONCE);
        while let Ok(Some((intent, record))) = tokio::time::timeout_at(started + WITHIN, answers.next()).await {
            match record {
                Ok(record) if is_settled(&intent, record.as_deref()) => intents.settle(&intent.cloud_name),
                Ok(_) => {}
                Err(error @ (LedgerError::Recovering(_) | LedgerError::Damaged { .. })) => {
                    tracing::debug!(%error, tenant = %intent.tenant, "an old intent is kept");
                }
                Err(error) => return Err(error),
            }
            self.last = Some(intent.cloud_name);
        }
        Ok(())
    }
}

/// The ledger has the outcome of the attempt, or nothing of the operation.
fn is_settled(intent: &Intent, record: Option<&OperationRecord>) -> bool {
    record.is_none_or(|r| {
        let named = r.attempts.iter().find(|a| a.name == intent.cloud_name);
        r.is_gone() || named.is_some_and(|a| a.state.is_closed() || a.cloud_id.is_some())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use meridian_ledger::{
        Ledger as _,
        conformance::{MemoryLedger, START, at, claim_new, failed, sample_claim, write},
    };

    use super::*;
    use crate::journal::intent::{MemoryIntents, tests::intent};

    const LATER: u64 = KEPT.as_secs() + 1;

    fn nobody(_: &Intent) -> Option<Arc<OperationRecord>> {
        None
    }

    fn names(intents: &MemoryIntents) -> Vec<u32> {
        intents.pending().iter().map(|i| i.n).collect()
    }

    /// Intents of operations `op0`, `op1`, ..., of which the ledger knows that the first ones failed.
    async fn journal(open: u32, all: u32) -> (MemoryLedger, MemoryIntents) {
        let (ledger, intents) = (MemoryLedger::new("store"), MemoryIntents::default());
        for n in 0..all {
            let op = format!("op{n}");
            let record = claim_new(&ledger, sample_claim("acme", &op, &op)).await;
            if n >= open {
                write(&ledger, failed(record, at(1))).await;
            }
            intents.arm(Intent { armed_at: START, ..intent(n) }).await.unwrap();
        }
        (ledger, intents)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_and_settled_is_forgotten_and_nothing_else() {
        let (ledger, intents) = journal(2, 4).await;
        intents.arm(Intent { armed_at: at(2), ..intent(9) }).await.unwrap();
        let ask = |tenant: &TenantId, op: &OperationId| ledger.operation(tenant, op);
        let mut tidy = Tidy::default();
        assert!(tidy.is_due());
        tidy.look(&intents, nobody, ask, START + KEPT).await.unwrap();
        assert_eq!(names(&intents), [0, 1, 2, 3, 9], "kept, however settled");
        assert!(!tidy.is_due());
        tidy.look(&intents, nobody, ask, at(LATER)).await.unwrap();
        assert_eq!(names(&intents), [0, 1, 9], "the ledger has no outcome of these, or they are young");
        tidy.look(&intents, nobody, ask, at(LATER + 2)).await.unwrap();
        assert_eq!(names(&intents), [0, 1], "nor is there such an operation");
    }

    #[tokio::test]
    async fn what_is_shown_here_is_not_asked_for() {
        let (ledger, intents) = journal(1, 3).await;
        let (records, asked) = (ledger.records(None, 9).await.unwrap().records, AtomicUsize::new(0));
        let shown = |i: &Intent| records.iter().find(|r| r.op_id == i.op_id).map(|r| Arc::new(r.clone()));
        let ask = |tenant: &TenantId, op: &OperationId| {
            asked.fetch_add(1, Ordering::Relaxed);
            ledger.operation(tenant, op)
        };
        Tidy::default().look(&intents, shown, ask, at(LATER)).await.unwrap();
        assert_eq!((names(&intents), asked.load(Ordering::Relaxed)), (vec![0], 1), "only what is open");
    }

    /// Within a second of a ledger that takes 50 ms for each answer.
    #[tokio::test(start_paused = true)]
    async fn a_slow_ledger_is_asked_about_many_at_once_and_each_look_goes_on_where_the_last_ended() {
        let (ledger, intents) = journal(500, 1_000).await;
        let answered = AtomicUsize::new(0);
        let ask = |tenant: &TenantId, op: &OperationId| -> LedgerFuture<'_, _> {
            let (answer, answered) = (ledger.operation(tenant, op), &answered);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                answered.fetch_add(1, Ordering::Relaxed);
                answer.await
            })
        };
        let mut tidy = Tidy::default();
        let began = Instant::now();
        tidy.look(&intents, nobody, ask, at(LATER)).await.unwrap();
        assert!(began.elapsed() <= WITHIN, "{:?}", began.elapsed());
        assert!((600..1_000).contains(&answered.load(Ordering::Relaxed)), "{answered:?}");
        for _ in 0..2 {
            tidy.look(&intents, nobody, ask, at(LATER)).await.unwrap();
        }
        assert_eq!(intents.count(), 500, "what is open keeps nothing else");
    }

    #[tokio::test]
    async fn a_tenant_that_cannot_be_read_is_passed_over_and_a_ledger_that_is_away_is_not_asked_on() {
        let (ledger, intents) = journal(0, 3).await;
        let failing = |error: fn() -> LedgerError| {
            let ledger = &ledger;
            move |tenant: &TenantId, op: &OperationId| -> LedgerFuture<'_, _> {
                if op.as_str() == "op1" { Box::pin(async move { Err(error()) }) } else { ledger.operation(tenant, op) }
            }
        };
        let away = failing(|| LedgerError::Unavailable("away".to_owned()));
        assert!(Tidy::default().look(&intents, nobody, away, at(LATER)).await.is_err());
        assert_eq!(names(&intents), [1, 2]);
        let damaged = failing(|| LedgerError::Damaged { place: "acme".to_owned(), detail: "junk".to_owned() });
        Tidy::default().look(&intents, nobody, damaged, at(LATER)).await.unwrap();
        assert_eq!(names(&intents), [1]);
    }
}
