//! Journeys of an instance over simulated clouds: placed, failed over, refused, restarted, deleted.

mod accounts;
mod doubt;
mod policies;
mod proof;
mod quota;
mod roles;
mod undeclared;
pub mod world;

use std::{collections::BTreeSet, sync::Arc};

use meridian_gateway::{operation::Outcome, views::FreshnessState};
use meridian_model::{
    error::{ErrorCode, FaultKind},
    instance::InstanceSpec,
    operation::AttemptState,
    status::Phase,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::world::{World, ask, create, spec, spec_from, until};

fn created(outcome: Result<Outcome, meridian_gateway::operation::Refusal>) -> meridian_gateway::views::Instance {
    match outcome {
        Ok(Outcome::Created { instance, .. }) => *instance,
        other => panic!("not created: {other:?}"),
    }
}

fn in_region(region: &str) -> InstanceSpec {
    spec_from(json!({"containers": [{"name": "app", "image": "nginx:1.27"}], "placement": {"regions": [region]}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_runs_on_either_vendor_and_is_deleted_without_a_trace() {
    let world = World::start().await;
    for region in ["ap-guangzhou", "cn-hangzhou"] {
        let instance = created(world.create("acme", "web", region, &in_region(region)).await);
        assert_eq!(instance.status.phase, Phase::Running, "{region}");
        assert_eq!(instance.status.region.as_ref().unwrap().as_str(), region);
        let existing = world.existing().await;
        assert_eq!(existing.len(), 1);
        assert_eq!(existing[0]["id"], instance.status.cloud_id.as_ref().unwrap().as_str());
        assert!(existing[0]["name"].as_str().unwrap().starts_with("m1-"));
        assert_eq!(world.used_instances("acme").await, 1);
        let deleted = world.delete("acme", "web").await;
        assert!(matches!(deleted, Ok(Outcome::Deleted)), "{deleted:?}");
        assert!(world.existing().await.is_empty());
        assert!(world.get("acme", "web").await.is_none());
        assert_eq!(world.used_instances("acme").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_sold_out_at_create_or_after_is_left_for_the_next() {
    for (region, zone, next, when) in [
        ("ap-guangzhou", "ap-guangzhou-3", "ap-guangzhou-4", "atCreate"),
        ("ap-guangzhou", "ap-guangzhou-3", "ap-guangzhou-4", "afterCreate"),
        ("cn-hangzhou", "cn-hangzhou-h", "cn-hangzhou-i", "atCreate"),
        ("cn-hangzhou", "cn-hangzhou-h", "cn-hangzhou-i", "afterCreate"),
    ] {
        let world = World::start().await;
        world.fault(json!({"kind": "soldOut", "when": when, "zone": zone})).await;
        let wish = spec_from(json!({
            "containers": [{"name": "app", "image": "nginx:1.27"}],
            "placement": {"regions": [region], "zones": [zone, next]},
        }));
        let instance = created(world.create("acme", "web", "k", &wish).await);
        assert_eq!(instance.status.phase, Phase::Running);
        assert_ne!(instance.status.zone.as_ref().unwrap().as_str(), zone);
        let explanation = world.explain("acme", "web").await;
        let attempts: Vec<_> = explanation.attempts.iter().map(|a| (a.zone.as_str().to_owned(), a.outcome)).collect();
        assert_eq!(attempts.len(), 2, "{zone} {when}: {attempts:?}");
        assert_eq!(attempts[0].0, zone);
        assert_eq!(explanation.attempts[0].code, FaultKind::NoCapacity.as_str());
        assert_eq!(attempts[1].1, AttemptState::Running);
        assert_eq!(world.existing().await.len(), 1, "{zone} {when}: the withdrawn attempt is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_remembered_as_sold_out_is_tried_when_nothing_else_is_left() {
    let world = World::start().await;
    let wish = |zones: [&str; 2]| {
        spec_from(json!({"containers": [{"name": "app", "image": "nginx:1.27"}], "placement": {"zones": zones}}))
    };
    let (first, second) = ("ap-guangzhou-3", "cn-hangzhou-h");
    world.fault(json!({"kind": "soldOut", "zone": first})).await;
    created(world.create("acme", "a", "a", &wish([first, second])).await);
    world.control("DELETE", "/v1/faults", Value::Null).await;
    world.fault(json!({"kind": "soldOut", "zone": second})).await;
    let instance = created(world.create("acme", "b", "b", &wish([first, second])).await);
    assert_eq!(instance.status.zone.unwrap().as_str(), first);
    let attempts = world.explain("acme", "b").await.attempts;
    assert_eq!(attempts.iter().map(|a| a.zone.as_str()).collect::<Vec<_>>(), [second, first]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_credentials_are_no_lack_of_capacity_and_stay_inside() {
    let world = World::start().await;
    world.fault(json!({"kind": "unauthenticated", "action": "Create*"})).await;
    let refusal = world.create("acme", "web", "k", &spec()).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::BackendError);
    let text = serde_json::to_string(&refusal.problem).unwrap();
    assert!(!text.contains("AuthFailure") && !text.contains("AccessKey"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_sold_out_is_no_capacity_and_leaves_nothing() {
    for when in ["atCreate", "afterCreate"] {
        let world = World::start().await;
        world.fault(json!({"kind": "soldOut", "when": when})).await;
        let refusal = world.create("acme", "web", "k", &spec()).await.unwrap_err();
        assert_eq!(refusal.problem.code, ErrorCode::NoCapacity, "{when}");
        assert_eq!(refusal.problem.attempts.len(), 6, "{when}: {:?}", refusal.problem.attempts);
        assert!(refusal.problem.retry_after_seconds.is_some());
        assert!(world.existing().await.is_empty(), "{when}");
        assert_eq!(world.used_instances("acme").await, 0);
        let explanation = world.explain("acme", "web").await;
        assert_eq!(explanation.attempts.len(), 6, "a failure can be explained too");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled_is_no_shortage_and_shuts_no_zone() {
    let world = World::start().await;
    let zones = ["ap-guangzhou-3", "cn-hangzhou-h"];
    let bad = spec_from(json!({
        "containers": [{"name": "app", "image": "foo:missing"}],
        "placement": {"zones": zones, "placeTimeout": "2s"},
    }));
    let refusal = world.create("acme", "bad", "k", &bad).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::Unplaceable, "{:?}", refusal.problem);
    for part in ["2 times", "container app waits: ImagePullBackOff"] {
        assert!(refusal.problem.detail.contains(part), "{:?}", refusal.problem);
    }
    for zone in zones {
        let (backend, zone) = (zone.trim_end_matches(|c| c != '-').trim_end_matches('-'), zone.parse().unwrap());
        let poller = world.core.pollers.of(&backend.parse().unwrap()).unwrap();
        let facts = poller.backend().market.zone_facts(&zone, world.core.clock.now());
        assert!(facts.sold_out.is_empty(), "{facts:?}");
    }
    assert!(world.existing().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_fifty_times_at_once_is_one_instance_and_one_answer() {
    let world = World::start().await;
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let core = Arc::clone(&world.core);
        tasks.spawn(async move { ask(&core, "acme", create("acme", "web", "same", &spec())).await });
    }
    let mut answers = BTreeSet::new();
    while let Some(answer) = tasks.join_next().await {
        answers.insert(serde_json::to_string(&created(answer.unwrap())).unwrap());
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert_eq!(world.ever().await.len(), 1);
    // The same bytes also when the instance has changed since.
    world.delete("acme", "web").await.unwrap();
    let replay = created(world.create("acme", "web", "same", &spec()).await);
    assert!(answers.contains(&serde_json::to_string(&replay).unwrap()));
    assert!(world.existing().await.is_empty(), "a replay creates nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_cut_after_the_effect_is_still_one_instance() {
    for (region, action) in [("ap-guangzhou", "CreateEKSContainerInstances"), ("cn-hangzhou", "CreateContainerGroup")] {
        for kind in [
            json!({"kind": "replyLost", "action": action, "times": 1}),
            json!({"kind": "serverError", "when": "after", "action": action, "times": 1}),
            json!({"kind": "lateEffect", "afterMs": 800, "action": action, "times": 1}),
        ] {
            let world = World::start().await;
            world.fault(kind.clone()).await;
            let instance = created(world.create("acme", "web", "k", &in_region(region)).await);
            assert_eq!(instance.status.phase, Phase::Running, "{region} {kind}");
            assert_eq!(world.ever().await.len(), 1, "{region} {kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_never_took_effect_moves_on_only_after_the_proof() {
    let world = World::start().await;
    world
        .fault(json!({"kind": "serverError", "when": "before", "action": "CreateEKSContainerInstances", "times": 1}))
        .await;
    let wish = spec_from(json!({
        "containers": [{"name": "app", "image": "nginx:1.27"}],
        "placement": {"regions": ["ap-guangzhou"]},
    }));
    let started = std::time::Duration::from_millis(3000);
    let before = tokio::time::Instant::now();
    let instance = created(world.create("acme", "web", "k", &wish).await);
    assert_eq!(instance.status.phase, Phase::Running);
    assert!(before.elapsed() >= started, "the effect bound was not waited for");
    assert_eq!(world.explain("acme", "web").await.attempts[0].outcome, AttemptState::Absent);
    assert_eq!(world.ever().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_37_gives_37_of_100() {
    let world = World::start().await;
    let mut tasks = JoinSet::new();
    for n in 0..100 {
        let core = Arc::clone(&world.core);
        tasks.spawn(
            async move { ask(&core, "lab", create("lab", &format!("i-{n}"), &format!("k-{n}"), &spec())).await },
        );
    }
    let (mut made, mut refused) = (0, 0);
    while let Some(answer) = tasks.join_next().await {
        match answer.unwrap() {
            Ok(Outcome::Created { .. }) => made += 1,
            Err(refusal) if refusal.problem.code == ErrorCode::QuotaExceeded => {
                assert_eq!(refusal.problem.quota.as_ref().unwrap().limit, "37");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((made, refused), (37, 63));
    assert_eq!(world.ever().await.len(), 37);
    assert_eq!(world.used_instances("lab").await, 37);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_in_a_black_hole_is_marked_and_avoided() {
    let world = World::start().await;
    created(world.create("acme", "inside", "a", &in_region("cn-hangzhou")).await);
    created(world.create("acme", "outside", "b", &in_region("ap-shanghai")).await);
    world.fault(json!({"kind": "regionOutage", "mode": "blackhole", "region": "cn-hangzhou"})).await;
    until("the region is marked", || async { world.list("acme").await.unreachable == ["regions/cn-hangzhou"] }).await;
    let asked = tokio::time::Instant::now();
    let page = world.list("acme").await;
    assert!(asked.elapsed() < std::time::Duration::from_millis(100), "the list waited: {:?}", asked.elapsed());
    assert_eq!(page.items.len(), 2, "silence removes nothing");
    let inside = page.items.iter().find(|i| i.short_name.as_str() == "inside").unwrap();
    assert!(inside.instance.status.stale && inside.instance.status.phase == Phase::Running);
    let others = page.freshness.iter().filter(|f| f.region.as_str() != "cn-hangzhou");
    assert!(others.clone().count() == 3 && others.clone().all(|f| f.state == FreshnessState::Fresh));
    let avoids = || async {
        let plan = ask(&world.core, "acme", {
            let mut wish = create("acme", "probe", "p", &spec());
            if let meridian_gateway::operation::Action::CreateInstance(c) = &mut wish {
                c.validate_only = true;
            }
            wish
        })
        .await;
        match plan {
            Ok(Outcome::Validated(v)) => {
                v.placement.unwrap().candidates.iter().all(|c| c.region.as_str() != "cn-hangzhou")
            }
            other => panic!("{other:?}"),
        }
    };
    until("the breaker opens", avoids).await;
    world.control("DELETE", "/v1/faults", Value::Null).await;
    until("the region is back", || async { world.list("acme").await.unreachable.is_empty() }).await;
    until("it is planned with again", || async { !avoids().await }).await;
    assert!(!world.get("acme", "inside").await.unwrap().status.stale);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_ends_frees_its_quota_and_stays_readable() {
    let world = World::start().await;
    let job = spec_from(json!({
        "containers": [{"name": "app", "image": "busybox", "command": ["sh", "-c", "sleep 1; exit 0"]}],
        "restartPolicy": "Never",
    }));
    created(world.create("acme", "job", "k", &job).await);
    until("it ends", || async { world.get("acme", "job").await.unwrap().status.phase == Phase::Succeeded }).await;
    until("its quota is free", || async { world.used_instances("acme").await == 0 }).await;
    let world = world.restart().await;
    let status = world.get("acme", "job").await.unwrap().status;
    assert_eq!(status.phase, Phase::Succeeded, "also after a restart");
    assert!(matches!(world.delete("acme", "job").await, Ok(Outcome::Deleted)));
    assert!(world.existing().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_while_placing_leaves_nothing() {
    let world = World::start().await;
    world.fault(json!({"kind": "latency", "ms": 500, "action": "Create*"})).await;
    let core = Arc::clone(&world.core);
    let creating = tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "k", &spec())).await });
    until("it is known", || async { world.get("acme", "web").await.is_some() }).await;
    assert!(matches!(world.delete("acme", "web").await, Ok(Outcome::Deleted)));
    let refusal = creating.await.unwrap().unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::Cancelled);
    assert!(world.existing().await.is_empty());
    assert_eq!(world.used_instances("acme").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_who_waits_with_the_operation() {
    let world = World::start().await;
    world.fault(json!({"kind": "latency", "ms": 1500, "action": "Create*"})).await;
    let core = Arc::clone(&world.core);
    let creating = tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "k", &spec())).await });
    until("it is known", || async { world.get("acme", "web").await.is_some() }).await;
    world.core.draining.cancel();
    match creating.await.unwrap() {
        Ok(Outcome::Accepted { operation, .. }) => assert!(!operation.done),
        other => panic!("{other:?}"),
    }
    let world = world.restart().await;
    created(world.create("acme", "web", "k", &spec()).await);
    assert_eq!(world.existing().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_of_creates_ends_every_operation_once() {
    let world = World::start().await;
    world.fault(json!({"kind": "latency", "ms": 100, "jitterMs": 400, "action": "Create*"})).await;
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let core = Arc::clone(&world.core);
        tasks.spawn(async move {
            ask(&core, "acme", create("acme", &format!("i-{n}"), &format!("k-{n}"), &spec())).await.is_ok()
        });
    }
    until("some have begun", || async { world.ever().await.len() > 5 }).await;
    world.core.stop().await;
    tasks.shutdown().await;
    let world = world.restart().await;
    for n in 0..40 {
        created(world.create("acme", &format!("i-{n}"), &format!("k-{n}"), &spec()).await);
    }
    let existing = world.existing().await;
    assert_eq!(existing.len(), 40, "one instance per key");
    assert_eq!(world.ever().await.iter().filter(|i| i["exists"] == true).count(), 40);
    assert_eq!(world.used_instances("acme").await, 40);
}
