use std::sync::Arc;

use meridian_ledger::{
    Ledger,
    conformance::{MemoryLedger, suite},
};

use crate::open_clean;

/// A suite that runs nothing proves nothing.
const CASES_MIN: usize = 16;

#[tokio::test]
async fn the_embedded_ledger_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let run = suite(async || {
        count.set(count.get() + 1);
        let ledger: Arc<dyn Ledger> = Arc::new(open_clean(&folder.path().join(format!("{}.redb", count.get()))));
        ledger
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
    // What the cases left is in order.
    for n in 1..=count.get() {
        open_clean(&folder.path().join(format!("{n}.redb")));
    }
}

#[tokio::test(start_paused = true)]
async fn the_ledger_in_memory_conforms() {
    let run = suite(async || {
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new("memory"));
        ledger
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
}

/// The same race as in the suite, from tasks on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_tasks_share_a_quota_of_37() {
    use meridian_ledger::{Step, Stepped, conformance::*};
    use meridian_model::operation::QuotaLimits;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let ledger = Arc::new(open_clean(&path));
    let limits = QuotaLimits { instances: Some(37), ..QuotaLimits::default() };
    ledger.set_limits(&id("acme"), limits).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..100 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            let mut record = claim_new(&*ledger, sample_claim("acme", &format!("op{i}"), &format!("n{i}"))).await;
            record.charge = one_instance(10);
            matches!(ledger.step(Step::within(record)).await.unwrap(), Stepped::Written(_))
        });
    }
    let written = tasks.join_all().await.into_iter().filter(|w| *w).count();
    assert_eq!(written, 37);
    assert_eq!(ledger.usage(&id("acme")).await.unwrap().used.instances, 37);
    drop(ledger);
    assert_eq!(open_clean(&path).usage(&id("acme")).await.unwrap().used.instances, 37);
}
