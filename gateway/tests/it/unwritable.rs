//! A gateway whose intent journal cannot be written: it sends nothing, fails nothing, says so, and is well again by
//! itself.

use std::sync::Arc;

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    admin::Health,
    core::Core,
    journal::intent::{Intent, IntentFuture, IntentLog, MemoryIntents},
    operation::{Action, DeleteInstance, Outcome, Refusal},
    process,
};
use meridian_ledger::{
    Ledger,
    conformance::{MemoryLedger, claim_new, sample_claim},
    shared::MemoryShared,
};
use meridian_model::{
    error::ErrorCode,
    ids::CloudName,
    operation::{Charge, OperationRecord},
    time::Time,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::journeys::world::{PATIENCE, World, ask, at, core_noting, create, spec, until};

/// A lease that a test can wait for.
const LEASE: &str = "lease = \"1s\"\narmValid = \"800ms\"";

struct Pair {
    /// Its gateway has a journal that is well.
    world: World,
    ledger: Arc<MemoryLedger>,
}

impl Pair {
    async fn start() -> Self {
        let ledger = Arc::new(MemoryLedger::new("store"));
        let world = World::on(ledger.clone(), Scenario::demo(7), LEASE).await;
        Self { world, ledger }
    }

    /// A second gateway.
    async fn noting(&self, intents: Arc<dyn IntentLog>) -> Arc<Core> {
        let others = (self.ledger.clone() as Arc<dyn Ledger>, Arc::new(MemoryShared::alone()) as Arc<_>);
        core_noting(&self.world.sim.info(), self.world.folder(), LEASE, others, intents).await
    }
}

fn asking(core: &Arc<Core>, name: &str) -> JoinHandle<Result<Outcome, Refusal>> {
    let (core, action) = (Arc::clone(core), create("acme", name, name, &spec()));
    tokio::spawn(async move { ask(&core, "acme", action).await })
}

async fn unwritable(core: &Arc<Core>) {
    until("it is noticed", || async { core.driver.journal_trouble().is_some() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_meets_a_full_journal_waits_and_those_after_it_are_refused() {
    let Pair { world, ledger } = Pair::start().await;
    // Alone: nobody else could take it.
    world.core.stop().await;
    let (pair, intents) = (Pair { world, ledger }, Arc::new(MemoryIntents::default()));
    let core = pair.noting(intents.clone()).await;
    let health = Health::new(CancellationToken::new());
    process::tell_of(&health, &core);
    let told = || health.told().into_iter().find(|(name, _)| *name == "intentJournal").unwrap().1;
    assert_eq!(told(), Ok("writable".to_owned()));

    intents.refuse(Some("No space left on device"));
    let waiting = asking(&core, "web");
    unwritable(&core).await;
    assert!(told().is_err_and(|why| why.contains("No space left on device")));
    assert!(health.is_ready(), "reads and deletes need no journal");
    let refusal = ask(&core, "acme", create("acme", "late", "late", &spec())).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::StoreUnavailable);
    let late = pair.ledger.instance(&"acme".parse().unwrap(), &"late".parse().unwrap()).await.unwrap();
    assert!(late.is_none(), "nothing is claimed");
    let joined = asking(&core, "web");
    until("it was probed", || async { intents.probes() >= 2 }).await;
    assert!(!waiting.is_finished() && !joined.is_finished());
    assert!(pair.world.ever().await.is_empty());

    intents.refuse(None);
    for answer in [waiting.await.unwrap(), joined.await.unwrap()] {
        assert!(matches!(answer, Ok(Outcome::Created { .. })), "{answer:?}");
    }
    assert_eq!(told(), Ok("writable".to_owned()));
    let late = ask(&core, "acme", create("acme", "late", "late", &spec())).await;
    assert!(matches!(late, Ok(Outcome::Created { .. })), "{late:?}");
    assert_eq!(pair.world.ever().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_ends_what_one_with_a_full_journal_was_given() {
    let (pair, intents) = (Pair::start().await, Arc::new(MemoryIntents::default()));
    let core = pair.noting(intents.clone()).await;
    intents.refuse(Some("No space left on device"));
    let answer = asking(&core, "web").await.unwrap();
    assert!(matches!(answer, Ok(Outcome::Created { .. })), "{answer:?}");
    assert!(core.driver.journal_trouble().is_some(), "it never was well again");
    assert_eq!(pair.world.ever().await.len(), 1);
}

/// A journal on a disk that does not answer, with so many intents.
#[derive(Debug)]
struct Stuck(usize);

impl IntentLog for Stuck {
    fn arm(&self, _: Intent) -> IntentFuture<'_> {
        Box::pin(std::future::pending())
    }

    fn settle(&self, _: &CloudName) {}

    fn pending(&self) -> Vec<Intent> {
        Vec::new()
    }

    fn armed_before(&self, _: Time, _: Option<&CloudName>, _: usize) -> Vec<Intent> {
        Vec::new()
    }

    fn count(&self) -> usize {
        self.0
    }

    fn answer(&self, _: OperationRecord) -> IntentFuture<'_> {
        Box::pin(std::future::pending())
    }

    fn answers(&self) -> Vec<OperationRecord> {
        Vec::new()
    }

    fn forget(&self, _: Time) {}

    fn probe(&self) -> IntentFuture<'_> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_that_the_intent_journal_does_not_take() {
    let Pair { world, ledger } = Pair::start().await;
    world.core.stop().await;
    let pair = Pair { world, ledger };
    let core = pair.noting(Arc::new(Stuck(0))).await;
    let waiting = asking(&core, "web");
    unwritable(&core).await;
    let wish =
        DeleteInstance { instance: at("acme", "web"), allow_missing: false, validate_only: false, wait: PATIENCE };
    let deleted = ask(&core, "acme", Action::DeleteInstance(wish)).await;
    assert!(matches!(deleted, Ok(Outcome::Deleted)), "{deleted:?}");
    assert_eq!(waiting.await.unwrap().unwrap_err().problem.code, ErrorCode::Cancelled);
    assert!(pair.world.ever().await.is_empty());
    let tenant = "acme".parse().unwrap();
    assert_eq!(pair.ledger.usage(&tenant).await.unwrap().used, Charge::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_create_is_taken_on_while_the_intent_journal_is_full() {
    let pair = Pair::start().await;
    let core = pair.noting(Arc::new(Stuck(200_000))).await;
    let web = || create("acme", "web", "k", &spec());
    let refused = ask(&core, "acme", web()).await.unwrap_err().problem;
    assert_eq!(refused.code, ErrorCode::Overloaded);
    assert!(refused.detail.contains("five minutes"), "{refused:?}");
    assert!(pair.ledger.records(None, 1).await.unwrap().records.is_empty(), "the key is as free as before");
    let created = ask(&pair.world.core, "acme", web()).await;
    assert!(matches!(created, Ok(Outcome::Created { .. })), "{created:?}");
    let repeated = ask(&core, "acme", web()).await;
    assert!(matches!(repeated, Ok(Outcome::Created { .. })), "what is answered already sends nothing: {repeated:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_drives_waits_until_the_journal_is_well() {
    let Pair { world, ledger } = Pair::start().await;
    world.core.stop().await;
    let (pair, intents) = (Pair { world, ledger }, Arc::new(MemoryIntents::default()));
    let core = pair.noting(intents.clone()).await;
    intents.refuse(Some("No space left on device"));
    let _waiting = asking(&core, "web");
    unwritable(&core).await;
    let left = claim_new(&*pair.ledger, sample_claim("acme", "op1", "left")).await;
    let held = async || pair.ledger.operation(&left.tenant, &left.op_id).await.unwrap().unwrap();
    let mut followed = core.driver.adopt(held().await).await.unwrap();
    assert_eq!(held().await.fence, left.fence, "it is left to those who can");
    intents.refuse(None);
    tokio::time::timeout(PATIENCE, followed.wait_for(|r| r.fence != left.fence)).await.unwrap().unwrap();
}
