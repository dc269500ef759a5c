//! What silence proves at a vendor that shows an empty list to who may not list.

use std::{sync::Arc, time::Duration};

use meridian_gateway::operation::Outcome;
use meridian_model::{operation::AttemptState, status::Phase};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    created, in_region,
    world::{World, ask, create, until},
};

/// Hides what is there from who may not list.
const HIDES: &str = "cn-hangzhou";
/// The effect bound of the test's backends, and some looks more.
const CONCLUDED: Duration = Duration::from_secs(5);

async fn is_in_doubt(world: &World) -> bool {
    world.get("acme", "web").await.is_some()
        && world.explain("acme", "web").await.attempts.last().is_some_and(|a| a.outcome == AttemptState::InDoubt)
}

/// A create that ends in doubt and is deleted then, so that its token is not sent again.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_shows_nothing_of_ours_proves_nothing_before_it_does() {
    let world = Arc::new(World::start().await);
    let never = json!({"kind": "serverError", "when": "before", "action": "CreateContainerGroup"});
    let deleting = deleted_in_doubt(&world, never).await;
    let began = Instant::now();
    until("it could have been concluded", || async {
        assert!(is_in_doubt(&world).await && !deleting.is_finished());
        began.elapsed() > CONCLUDED
    })
    .await;
    created(world.create("acme", "other", "o", &in_region(HIDES)).await);
    assert!(deleting.await.unwrap(), "with something to be seen its absence is seen");
    assert_eq!((world.ever().await.len(), world.used_instances("acme").await), (1, 1));
}
