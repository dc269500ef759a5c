//! What silence proves at a vendor that shows an empty list to who may not list.

use std::{sync::Arc, time::Duration};

use meridian_cloudsim::Scenario;
use meridian_gateway::{operation::Outcome, status::poll::Silence};
use meridian_ledger::conformance::MemoryLedger;
use meridian_model::{
    ids::{CloudId, CloudName},
    operation::AttemptState,
    status::Phase,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    created, in_region,
    world::{LOOK, World, ask, create, until},
};

/// Hides what is there from who may not list.
const HIDES: &str = "cn-hangzhou";
/// The effect bound of the test's backends, and some looks more.
const CONCLUDED: Duration = Duration::from_secs(5);

async fn is_in_doubt(world: &World) -> bool {
    world.get("acme", "web").await.is_some()
        && world.explain("acme", "web").await.attempts.last().is_some_and(|a| a.outcome == AttemptState::InDoubt)
}

/// A create that ends in doubt and is deleted then.
async fn deleted_in_doubt(world: &Arc<World>, fault: Value) -> tokio::task::JoinHandle<bool> {
    let fault = world.fault(fault).await;
    let core = Arc::clone(&world.core);
    tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "k", &in_region(HIDES))).await });
    until("it is in doubt", || is_in_doubt(world)).await;
    let deleting = Arc::clone(world);
    let deleting = tokio::spawn(async move { matches!(deleting.delete("acme", "web").await, Ok(Outcome::Deleted)) });
    until("its removal is asked for", || async {
        world.get("acme", "web").await.unwrap().status.phase == Phase::Terminating
    })
    .await;
    world.control("DELETE", &format!("/v1/faults/{}", fault["id"].as_str().unwrap()), Value::Null).await;
    deleting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_withdrawn_amid_a_doubt_proves_nothing() {
    let world = Arc::new(World::start().await);
    created(world.create("acme", "stays", "s", &in_region(HIDES)).await);
    let hidden = world.fault(json!({"kind": "emptyList", "region": HIDES})).await;
    let deleting = deleted_in_doubt(&world, json!({"kind": "replyLost", "action": "CreateContainerGroup"})).await;
    let began = Instant::now();
    until("it could have been concluded", || async {
        assert!(is_in_doubt(&world).await && !deleting.is_finished());
        assert_eq!((world.existing().await.len(), world.used_instances("acme").await), (2, 2));
        began.elapsed() > CONCLUDED
    })
    .await;
    world.control("DELETE", &format!("/v1/faults/{}", hidden["id"].as_str().unwrap()), Value::Null).await;
    assert!(deleting.await.unwrap());
    assert_eq!((world.existing().await.len(), world.used_instances("acme").await), (1, 1));
}

/// The first request made nothing, and nobody can see that: its token tells, and what it makes is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_of_ours_is_shown_the_token_tells_what_is_to_be_deleted() {
    let world = Arc::new(World::start().await);
    let never = json!({"kind": "serverError", "when": "before", "action": "CreateContainerGroup"});
    let deleting = deleted_in_doubt(&world, never).await;
    assert_eq!(world.ever().await.len(), 0, "nothing is repeated before the bound");
    assert!(deleting.await.unwrap());
    assert_eq!((world.ever().await.len(), world.existing().await.len()), (1, 0));
    assert_eq!(world.used_instances("acme").await, 0);
}

/// Between two sweeps: the last one is trusted still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_shown_is_gone_only_beside_something_that_is() {
    let ledger = Arc::new(MemoryLedger::new("store"));
    let world = World::on(Arc::clone(&ledger) as _, Scenario::demo(7), "").await;
    created(world.create("acme", "stays", "s", &in_region(HIDES)).await);
    let core = world.another_that_sweeps_once(ledger).await;
    let poller = core.pollers.of(&HIDES.parse().unwrap()).unwrap();
    until("it has swept", || async { poller.trusts_sweeps() }).await;
    let stays = CloudId::new(world.existing().await[0]["id"].as_str().unwrap()).unwrap();
    let (no_id, no_name) = (CloudId::new("eci-none").unwrap(), CloudName::new("m1-none").unwrap());
    let told = async || {
        let sights = [
            poller.look_up(no_name.clone(), true, &LOOK).await.unwrap(),
            poller.look_at(&no_id, &LOOK).await.unwrap(),
            poller.look_at(&stays, &LOOK).await.unwrap(),
        ];
        sights.map(|sight| (sight.found.len(), sight.silence))
    };
    let [by_name, by_id, itself] = told().await;
    assert_eq!((by_name, by_id), ((0, Silence::Proof), (0, Silence::Proof)));
    assert_eq!(itself.0, 1);
    world.fault(json!({"kind": "emptyList", "region": HIDES})).await;
    assert_eq!(told().await, [(0, Silence::Hidden); 3], "nor is what was shown itself");
    assert!(poller.trusts_sweeps());
    let unproven = poller.look_up(no_name, false, &LOOK).await.unwrap();
    assert_eq!(unproven.silence, Silence::Unknown, "nobody asked what it means");
}
