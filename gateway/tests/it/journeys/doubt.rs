//! What becomes of attempts that are given up, of instances too many, and of those that are lost.

use std::sync::Arc;

use meridian_gateway::{
    journal::{amend::Amended, machine::Settlement},
    operation::Outcome,
};
use meridian_ledger::{Step, Stepped, conformance::MemoryLedger};
use meridian_model::{
    error::ErrorCode,
    ids::{BackendId, CloudId, OperationId, RegionId, TenantId},
    instance::InstanceSpec,
    operation::{Attempt, AttemptState},
    quota::{LineQuota, QuotaNode, QuotaTree},
    status::{Observed, ObservedPhase, Phase},
    time::Time,
};
use serde_json::{Value, json};

use super::{
    created, in_region,
    world::{World, spec_from, until},
};

/// First where a create cannot be repeated safely, then where it can; the doubt is not waited for, and what takes its
/// place has time to run on a busy machine.
fn impatient() -> InstanceSpec {
    spec_from(json!({
        "containers": [{"name": "app", "image": "nginx:1.27"}],
        "placement": {"zones": ["ap-guangzhou-3", "cn-hangzhou-h"], "placeTimeout": "4s", "onDoubt": "replace"},
    }))
}

/// A world whose first create shows its effect so late that another has long taken its place, and within its bound.
async fn late_effect(after_ms: u64) -> World {
    let world = World::unhurried(Arc::new(MemoryLedger::new("store"))).await;
    let action = "CreateEKSContainerInstances";
    world.fault(json!({"kind": "lateEffect", "afterMs": after_ms, "action": action, "times": 1})).await;
    world
}

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

async fn operation_of(world: &World, name: &str) -> OperationId {
    world.get("acme", name).await.unwrap().status.operation.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_that_is_not_waited_for_is_replaced_and_its_late_effect_removed() {
    let world = late_effect(12_000).await;
    let instance = created(world.create("acme", "web", "k", &impatient()).await);
    assert_eq!(instance.status.region.as_ref().unwrap().as_str(), "cn-hangzhou");
    assert_eq!(world.used_instances("acme").await, 2, "both are charged");
    let attempts = world.explain("acme", "web").await.attempts;
    assert_eq!(attempts.iter().map(|a| a.condemned).collect::<Vec<_>>(), [true, false]);
    let status = world.get("acme", "web").await.unwrap().status;
    assert!(status.conditions.iter().any(|c| c.kind == "Clearing"), "{:?}", status.conditions);
    until("the late effect came and went", || async {
        world.ever().await.len() == 2 && world.existing().await.len() == 1
    })
    .await;
    until("it is charged no longer", || async { world.used_instances("acme").await == 1 }).await;
    let attempts = world.explain("acme", "web").await.attempts;
    assert_eq!(attempts[0].outcome, AttemptState::Absent);
    assert!(attempts.iter().all(|a| !a.condemned));
    let existing = world.existing().await;
    assert_eq!(existing[0]["id"], instance.status.cloud_id.as_ref().unwrap().as_str(), "the adopted one is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_is_waited_for_after_all_when_the_quota_does_not_hold_both() {
    let world = late_effect(6_000).await;
    world.core.ledger.set_limits(&acme(), serde_json::from_value(json!({"instances": 1})).unwrap()).await.unwrap();
    let instance = created(world.create("acme", "web", "k", &impatient()).await);
    assert_eq!(instance.status.region.as_ref().unwrap().as_str(), "ap-guangzhou", "the first one, when it showed up");
    assert_eq!(world.ever().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reserved_for_failovers_is_there_for_the_replacement_alone() {
    let world = late_effect(12_000).await;
    let reserved = json!({"nodes": [{"lines": {"instances": {"limit": 2, "failoverReserve": 1}}}]});
    let tree = serde_json::from_value(reserved).unwrap();
    world.core.ledger.set_tree(&acme(), &tree, world.core.clock.now()).await.unwrap();
    let web = created(world.create("acme", "web", "k", &impatient()).await);
    assert_eq!(
        web.status.region.as_ref().unwrap().as_str(),
        "cn-hangzhou",
        "the replacement, charged beside the first"
    );
    assert_eq!(world.used_instances("acme").await, 2);
    until("the first came and went", || async { world.used_instances("acme").await == 1 }).await;
    let plain = spec_from(json!({"containers": [{"name": "app", "image": "nginx:1.27"}]}));
    let problem = world.create("acme", "two", "k2", &plain).await.unwrap_err().problem;
    assert_eq!(problem.code, ErrorCode::QuotaExceeded, "one is used and one reserved: {problem:?}");
    assert_eq!(problem.quota.unwrap().used, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_waits_for_the_proof_of_what_was_given_up() {
    let world = late_effect(12_000).await;
    created(world.create("acme", "web", "k", &impatient()).await);
    assert!(matches!(world.delete("acme", "web").await, Ok(Outcome::Deleted)));
    assert_eq!((world.ever().await.len(), world.existing().await.len()), (2, 0), "deleted means nothing is left");
    assert_eq!(world.used_instances("acme").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_too_many_is_deleted_and_the_adopted_one_left() {
    let world = World::start().await;
    created(world.create("acme", "one", "a", &in_region("ap-guangzhou")).await);
    created(world.create("acme", "two", "b", &in_region("ap-guangzhou")).await);
    // The second's instance, taken for a surplus one of the first by its id; its name is of the first.
    let (one, two) = (world.get("acme", "one").await.unwrap(), world.get("acme", "two").await.unwrap());
    let name = |id: &CloudId, all: &[Value]| {
        all.iter().find(|i| i["id"] == id.as_str()).unwrap()["name"].as_str().unwrap().to_owned()
    };
    let existing = world.existing().await;
    let first = one.status.cloud_id.clone().unwrap();
    let surplus = Observed {
        id: two.status.cloud_id.clone(),
        name: name(&first, &existing),
        phase: ObservedPhase::Running,
        shape: one.status.shape.clone().unwrap(),
        ..Observed::default()
    };
    let (op, backend) = (operation_of(&world, "one").await, BackendId::new("ap-guangzhou").unwrap());
    let driver = &world.core.driver;
    let amended = driver.condemn_stray(&acme(), &op, &backend, &surplus).await.unwrap();
    assert!(matches!(amended, Amended::Written(_)), "{amended:?}");
    let again = driver.condemn_stray(&acme(), &op, &backend, &surplus).await.unwrap();
    assert!(matches!(again, Amended::Unchanged(_)), "{again:?}");
    let adopted = Observed { id: Some(first.clone()), ..surplus };
    let again = driver.condemn_stray(&acme(), &op, &backend, &adopted).await.unwrap();
    assert!(matches!(again, Amended::Unchanged(_)), "the adopted one is none too many");
    until("it is gone", || async { world.existing().await.len() == 1 }).await;
    assert_eq!(world.existing().await[0]["id"], first.as_str());
    until("it is charged no longer", || async { world.used_instances("acme").await == 2 }).await;
    assert_eq!(world.get("acme", "one").await.unwrap().status.phase, Phase::Running);
}

/// A tree in which a region holds so many instances.
fn tree_of(region: &str, limit: u64) -> QuotaTree {
    let quota = LineQuota { limit: Some(limit), ..LineQuota::default() };
    let lines = [(format!("instances@region:{region}").parse().unwrap(), quota)].into();
    QuotaTree { nodes: vec![QuotaNode { lines, ..QuotaNode::default() }] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exists_is_cleared_whatever_the_quota_of_its_place_holds() {
    let world = World::start().await;
    let one = created(world.create("acme", "one", "a", &in_region("ap-guangzhou")).await);
    let (op, ledger) = (operation_of(&world, "one").await, &world.core.ledger);
    let name = world.existing().await[0]["name"].as_str().unwrap().to_owned();
    let record = async || ledger.operation(&acme(), &op).await.unwrap().unwrap();

    // One too many where nothing more may be. A cloud that does not know it has proven it gone.
    ledger.set_tree(&acme(), &tree_of("cn-hangzhou", 0), Time::from_unix_ms(0)).await.unwrap();
    let surplus = Observed {
        id: CloudId::new("eci-surplus").ok(),
        name,
        phase: ObservedPhase::Running,
        shape: one.status.shape.clone().unwrap(),
        ..Observed::default()
    };
    let backend = BackendId::new("cn-hangzhou").unwrap();
    let amended = world.core.driver.condemn_stray(&acme(), &op, &backend, &surplus).await.unwrap();
    assert!(matches!(&amended, Amended::Written(record) if record.condemned.len() == 1), "{amended:?}");
    until("it is cleared", || async { record().await.condemned.is_empty() }).await;

    // An older gateway let one of these have the operation's charge, which has to come back to where it runs.
    ledger.set_tree(&acme(), &tree_of("ap-guangzhou", 0), Time::from_unix_ms(0)).await.unwrap();
    let mut older = record().await;
    let own = older.attempts[0].clone();
    let elsewhere = (RegionId::new("cn-hangzhou").unwrap(), CloudId::new("eci-zombie").ok());
    let zombie = Attempt { backend, region: elsewhere.0, cloud_id: elsewhere.1, state: AttemptState::Removing, ..own };
    older.condemned.push(Attempt { takes: Some(older.charge), ..zombie });
    older.due = Some(older.updated_at);
    let Stepped::Written(older) = ledger.step(Step::over_quota(older)).await.unwrap() else { panic!("written") };
    world.core.driver.start(older);
    until("it is cleared", || async { record().await.condemned.is_empty() }).await;
    assert_eq!((world.used_instances("acme").await, world.existing().await.len()), (1, 1));
    assert_eq!(world.get("acme", "one").await.unwrap().status.phase, Phase::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_instance_says_so_is_charged_no_longer_and_can_be_deleted() {
    let world = World::start().await;
    let instance = created(world.create("acme", "web", "k", &in_region("ap-guangzhou")).await);
    let (op, id) = (operation_of(&world, "web").await, instance.status.cloud_id.clone().unwrap());
    let lost = world.core.driver.mark_lost(&acme(), &op, &id, "the region took it away").await.unwrap();
    assert!(matches!(lost, Amended::Written(_)), "{lost:?}");
    let status = world.get("acme", "web").await.unwrap().status;
    assert_eq!(
        (status.phase, &*status.reason, &*status.message),
        (Phase::Failed, "Lost", "meridian.lost: the region took it away")
    );
    assert!(status.conditions.iter().any(|c| c.kind == "Lost") && status.cloud_id.is_some());
    assert_eq!(world.used_instances("acme").await, 0);
    assert_eq!(
        created(world.create("acme", "web", "k", &in_region("ap-guangzhou")).await),
        instance,
        "the same answer"
    );
    assert!(matches!(world.delete("acme", "web").await, Ok(Outcome::Deleted)));
    assert!(world.get("acme", "web").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_settles_a_doubt() {
    let world = World::start().await;
    // Nothing can be looked up, so nothing can be found out.
    world.fault(json!({"kind": "serverError", "when": "before", "action": "CreateEKSContainerInstances"})).await;
    world.fault(json!({"kind": "serverError", "when": "before", "action": "Describe*"})).await;
    let core = Arc::clone(&world.core);
    let creating = tokio::spawn(async move {
        super::world::ask(&core, "acme", super::world::create("acme", "web", "k", &in_region("ap-guangzhou"))).await
    });
    let in_doubt = || async { world.core.reconciler.doubts(None).first().map(|doubt| doubt.attempt) };
    until("it is in doubt", || async { in_doubt().await.is_some() }).await;
    let op = operation_of(&world, "web").await;
    // Each zone of the region in turn.
    while !creating.is_finished() {
        if let Some(n) = in_doubt().await {
            world.core.driver.settle(&acme(), &op, n, Settlement::Absent).await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let refusal = creating.await.unwrap().unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::NoCapacity);
    assert_eq!(world.used_instances("acme").await, 0);
}

/// A create that its cloud made and of which nothing can be seen: `Describe*` fails until the fault is taken away.
async fn unseen(world: &World, spec: &InstanceSpec) -> (tokio::task::JoinHandle<Outcome>, Value) {
    let fault =
        world.fault(json!({"kind": "serverError", "when": "before", "action": "Describe*", "region": GZ})).await;
    let (core, spec) = (Arc::clone(&world.core), spec.clone());
    let creating = tokio::spawn(async move {
        super::world::ask(&core, "acme", super::world::create("acme", "web", "k", &spec)).await.unwrap()
    });
    until("it was made", || async { world.existing().await.len() == 1 }).await;
    (creating, fault)
}

const GZ: &str = "ap-guangzhou";

async fn seen_again(world: &World, fault: &Value) {
    world.control("DELETE", &format!("/v1/faults/{}", fault["id"].as_str().unwrap()), Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_seen_is_looked_at_before_its_time_is_over() {
    let world = World::start().await;
    let wish = spec_from(json!({
        "containers": [{"name": "app", "image": "nginx:1.27"}],
        "placement": {"zones": ["ap-guangzhou-3", "cn-hangzhou-h"], "placeTimeout": "1s"},
    }));
    let (creating, fault) = unseen(&world, &wish).await;
    let began = tokio::time::Instant::now();
    until("its time to run is over", || async { began.elapsed() > std::time::Duration::from_secs(3) }).await;
    seen_again(&world, &fault).await;
    let instance = created(Ok(creating.await.unwrap()));
    assert_eq!(instance.status.region.as_ref().unwrap().as_str(), GZ);
    assert_eq!(world.ever().await.len(), 1, "it ran all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_what_its_key_names_also_when_it_is_deleted_unseen() {
    let world = Arc::new(World::start().await);
    let (creating, fault) = unseen(&world, &in_region(GZ)).await;
    let deleting = Arc::clone(&world);
    let deleting = tokio::spawn(async move { deleting.delete("acme", "web").await });
    until("its removal is asked for", || async {
        world.get("acme", "web").await.unwrap().status.phase == Phase::Terminating
    })
    .await;
    let id = world.existing().await[0]["id"].as_str().unwrap().to_owned();
    until("it runs", || async { world.existing().await[0]["state"] == "Running" }).await;
    seen_again(&world, &fault).await;
    let instance = created(Ok(creating.await.unwrap()));
    assert_eq!(instance.status.cloud_id.as_ref().unwrap().as_str(), id);
    assert!(matches!(deleting.await.unwrap(), Ok(Outcome::Deleted)));
    assert_eq!((world.ever().await.len(), world.existing().await.len()), (1, 0));
    assert_eq!(created(world.create("acme", "web", "k", &in_region(GZ)).await), instance, "the same answer");
}
