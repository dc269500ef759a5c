//! Who asked is gone when the write is durable, or never hears that it is.

use std::sync::Arc;

use meridian_cloudsim::Scenario;
use meridian_gateway::operation::Outcome;
use meridian_ledger::{
    Ledger,
    conformance::MemoryLedger,
    embedded::{EmbeddedLedger, Options, SealKey},
};
use meridian_model::{error::ErrorCode, operation::OperationState};

use super::{
    LEASE, created, delete,
    flaky::{Answers, Flaky},
};
use crate::journeys::world::{World, ask, create, spec, until};

async fn state(ledger: &Flaky, name: &str) -> Option<OperationState> {
    let held = ledger.instance(&"acme".parse().unwrap(), &name.parse().unwrap()).await.unwrap();
    held.map(|record| record.state)
}

/// The embedded ledger has no feed and no other gateway that would find what was left lying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_for_a_client_that_vanished_is_driven_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path().join("ledger.redb"), SealKey::new([7; 32]), |why| panic!("ledger: {why}"));
    let ledger = Arc::new(Flaky::new(Arc::new(EmbeddedLedger::open(options).unwrap())));
    let world = World::on(ledger.clone(), Scenario::demo(7), LEASE).await;

    ledger.answer(Answers::Held);
    let core = Arc::clone(&world.core);
    let client = tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "a", &spec())).await });
    until("the claim is durable", || async { state(&ledger, "web").await.is_some() }).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    ledger.answer(Answers::Given);
    until("it runs", || async { state(&ledger, "web").await == Some(OperationState::Succeeded) }).await;

    ledger.answer(Answers::Held);
    let core = Arc::clone(&world.core);
    let client = tokio::spawn(async move { delete(&core, "web").await });
    let removing = async || {
        let held = ledger.instance(&"acme".parse().unwrap(), &"web".parse().unwrap()).await.unwrap();
        held.is_some_and(|record| record.removal.is_some())
    };
    until("the removal is durable", &removing).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    ledger.answer(Answers::Given);
    until("it is gone", || async { state(&ledger, "web").await.is_none() && world.existing().await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_an_answer_has_an_unknown_outcome_and_says_where_to_look() {
    let ledger = Arc::new(Flaky::new(Arc::new(MemoryLedger::new("store"))));
    let world = World::on(ledger.clone(), Scenario::demo(7), LEASE).await;
    ledger.answer(Answers::Lost);
    let refusal = world.create("acme", "web", "a", &spec()).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::DeadlineExceeded, "{refusal:?}");
    let op = refusal.problem.operation.expect("it names the operation");
    let record = ledger.operation(&"acme".parse().unwrap(), &op).await.unwrap().expect("it was claimed");
    assert_eq!(record.name.as_str(), "web");
    assert!(refusal.key.is_some(), "the key to repeat it with");
    // The retry joins it, and nothing is made twice.
    ledger.answer(Answers::Given);
    created(world.create("acme", "web", "a", &spec()).await);
    assert_eq!(world.ever().await.len(), 1);

    ledger.answer(Answers::Lost);
    let refusal = world.delete("acme", "web").await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::DeadlineExceeded, "{refusal:?}");
    assert_eq!(refusal.problem.operation.unwrap().as_str(), format!("{op}-delete"));
    ledger.answer(Answers::Given);
    let outcome = world.delete("acme", "web").await;
    assert!(matches!(outcome, Ok(Outcome::Deleted)) || state(&ledger, "web").await.is_none(), "{outcome:?}");
    until("it is gone", || async { world.existing().await.is_empty() }).await;
    // Without a retry as well: what was claimed is found in the feed.
    ledger.answer(Answers::Lost);
    world.create("acme", "late", "b", &spec()).await.unwrap_err();
    until("it runs", || async { state(&ledger, "late").await == Some(OperationState::Succeeded) }).await;
}
