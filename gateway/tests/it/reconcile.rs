//! The reconciler over simulated clouds: what is planted, what is taken away, what a person settles.

use std::{sync::Arc, time::Duration};

use meridian_adapters::CreateCall;
use meridian_cloudsim::Scenario;
use meridian_gateway::{
    core::Core,
    journal::{
        amend::Amended,
        doubts::{Outcome as Settlement, State},
        identity::Deployment,
        import::Import,
        listing::StrayView,
        reconcile::{Class, HeldBack},
    },
    operation::{Action, DeleteInstance, Outcome},
    regions::Backend,
};
use meridian_ledger::{
    Claim, Claimed, Ledger,
    conformance::{MemoryLedger, redis_server::RedisServer},
    redis::{Options, Redis, RedisShared},
    shared::{MemoryShared, Shared},
};
use meridian_model::{
    error::ErrorCode,
    ids::{BackendId, CloudId, CloudName},
    instance::{InstanceSpec, Shape},
    operation::{OperationState, QuotaLimits},
    quantity::{MemoryMib, MilliCpu},
    status::Phase,
};
use serde_json::{Value, json};

use crate::{
    journeys::world::{LOOK, World, ask, at, core_beside, create, spec_from, until},
    replicas::flaky::{Answers, Flaky},
};

const EKSCI: &str = "ap-guangzhou";
const ECI: &str = "cn-hangzhou";

/// Sweeps come every 300 ms; twice the effect bound of 3 s is the quarantine.
const REMOVE: &str = "[reconcile]\norphans = \"remove\"\nquarantine = \"1s\"";
const REPORT: &str = "[reconcile]\norphans = \"report\"\nquarantine = \"1s\"";

async fn world(settings: &str) -> World {
    World::with(Scenario::demo(7), settings).await
}

fn backend(world: &World, region: &str) -> Arc<Backend> {
    Arc::clone(world.core.pollers.of(&region.parse().unwrap()).unwrap().backend())
}

/// The deployment of the worlds' configuration.
fn deployment() -> Deployment {
    Deployment::new("test", b"0123456789abcdef0123456789abcdef")
}

fn our_name(tenant: &str, key: &str, n: u32, epoch: u32) -> CloudName {
    let tenant = tenant.parse().unwrap();
    let op = deployment().operation_id(&tenant, "POST instances", key).unwrap();
    deployment().cloud_name(&tenant, &op, n, epoch).unwrap()
}

/// Makes an instance with the vendor's own call, past every ledger.
async fn plant(world: &World, region: &str, name: CloudName) -> CloudId {
    let backend = backend(world, region);
    let wish = spec_from(json!({
        "containers": [{"name": "app", "image": "nginx:1.27"}],
        "network": {"profile": "default"},
    }));
    let shape = Shape { cpu: MilliCpu(1000), memory: MemoryMib(2048), ..Shape::default() };
    let call = CreateCall {
        token: name.as_str().parse().unwrap(),
        name,
        spec: Arc::new(world.core.planner.resolve(&backend, &wish).unwrap()),
        zone: backend.zones.first().unwrap().clone(),
        shape: backend.capability.round_up(&shape).unwrap(),
        marks: Default::default(),
    };
    backend.create(call, world.core.clock.now(), (&LOOK, None)).await.unwrap()
}

async fn exists(world: &World, id: &CloudId) -> bool {
    world.existing().await.iter().any(|i| i["id"] == id.as_str())
}

fn stray(world: &World, id: &CloudId) -> Option<StrayView> {
    stray_at(&world.core, id)
}

fn stray_at(core: &Core, id: &CloudId) -> Option<StrayView> {
    strays(core).into_iter().find(|s| s.cloud_id == *id)
}

fn strays(core: &Core) -> Vec<StrayView> {
    core.reconciler.strays(None, 1000).items
}

fn in_region(region: &str) -> InstanceSpec {
    spec_from(json!({"containers": [{"name": "app", "image": "nginx:1.27"}], "placement": {"regions": [region]}}))
}

/// Creates an instance of acme; its id.
async fn run(world: &World, name: &str, region: &str) -> CloudId {
    match world.create("acme", name, name, &in_region(region)).await {
        Ok(Outcome::Created { instance, .. }) => instance.status.cloud_id.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Waits for so many more sweeps of every region.
async fn sweeps(world: &World, count: u32) {
    for _ in 0..count {
        let now = world.core.clock.now();
        until("every region was swept", || async {
            let status = world.core.reconciler.status();
            status.iter().all(|b| b.last_sweep.as_ref().is_some_and(|s| s.started_at > now))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_is_listed_within_two_sweeps_and_removed_after_its_quarantine() {
    let world = world(REMOVE).await;
    let own = run(&world, "web", EKSCI).await;
    for region in [EKSCI, ECI] {
        let foreign = plant(&world, region, "legacy-db".parse().unwrap()).await;
        let orphan = plant(&world, region, our_name("acme", region, 1, 1)).await;
        let planted = tokio::time::Instant::now();
        sweeps(&world, 2).await;
        let listed = stray(&world, &orphan).expect("listed after two sweeps");
        assert_eq!((listed.class, listed.held_back), (Class::Orphan, HeldBack::Quarantine));
        assert_eq!(listed.tenant.as_ref().unwrap().as_str(), "acme");
        until("it is removed", || async { !exists(&world, &orphan).await }).await;
        assert!(planted.elapsed() >= Duration::from_secs(6), "before its quarantine: {:?}", planted.elapsed());
        until("it is not listed", || async { stray(&world, &orphan).is_none() }).await;
        assert!(exists(&world, &foreign).await && stray(&world, &foreign).is_none(), "what is not ours is not seen");
    }
    assert!(exists(&world, &own).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_report_mode_an_orphan_is_removed_only_by_hand() {
    let world = world(REPORT).await;
    let own = run(&world, "web", EKSCI).await;
    let orphan = plant(&world, EKSCI, our_name("acme", "gone", 1, 1)).await;
    let long_enough = || async {
        let seen = stray(&world, &orphan);
        let waited = seen.as_ref().map(|s| s.last_seen.unwrap().since(s.first_seen));
        waited.is_some_and(|w| w > Duration::from_secs(7))
    };
    until("its quarantine is over", long_enough).await;
    let listed = stray(&world, &orphan).unwrap();
    assert_eq!((listed.held_back, listed.removals), (HeldBack::ReportOnly, 0));
    assert!(exists(&world, &orphan).await);
    let (reconciler, at): (_, BackendId) = (&world.core.reconciler, EKSCI.parse().unwrap());
    let refused = reconciler.remove(&at, &own).await.unwrap_err();
    assert_eq!(refused.problem.code, ErrorCode::Conflict, "what an operation has is deleted as an instance");
    let foreign = plant(&world, EKSCI, "legacy-db".parse().unwrap()).await;
    assert_eq!(reconciler.remove(&at, &foreign).await.unwrap_err().problem.code, ErrorCode::Conflict);
    reconciler.ignore(&at, &orphan).await.unwrap();
    sweeps(&world, 2).await;
    assert_eq!(stray(&world, &orphan).unwrap().held_back, HeldBack::Ignored);
    reconciler.remove(&at, &orphan).await.unwrap();
    until("it is removed", || async { !exists(&world, &orphan).await }).await;
    assert!(exists(&world, &own).await && exists(&world, &foreign).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_permission_to_list_loses_and_removes_nothing() {
    let world = world(REMOVE).await;
    for n in 0..3 {
        run(&world, &format!("i-{n}"), ECI).await;
    }
    sweeps(&world, 1).await;
    world.fault(json!({"kind": "emptyList", "region": ECI})).await;
    let trusted = || {
        let status = world.core.reconciler.status();
        status.iter().find(|b| b.backend.as_str() == ECI).unwrap().last_sweep.clone().unwrap().trusted
    };
    until("the sweep is distrusted", || async { !trusted() }).await;
    sweeps(&world, 8).await;
    assert!(strays(&world.core).is_empty(), "{:?}", strays(&world.core));
    assert_eq!(world.used_instances("acme").await, 3);
    assert_eq!(world.existing().await.len(), 3);
    for n in 0..3 {
        assert_eq!(world.get("acme", &format!("i-{n}")).await.unwrap().status.phase, Phase::Running);
    }
}

fn import(region: &str, id: &CloudId, name: &str) -> Import {
    Import {
        backend: region.parse().unwrap(),
        cloud_id: id.clone(),
        tenant: "lab".parse().unwrap(),
        name: name.parse().unwrap(),
        force: false,
        from_deployment: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_of_another_deployment_is_imported_only_from_that_by_name() {
    let world = world(REMOVE).await;
    let other = Deployment::new("other", b"0123456789abcdef0123456789abcdef");
    let (tenant, op) =
        ("lab".parse().unwrap(), deployment().operation_id(&"lab".parse().unwrap(), "POST", "k").unwrap());
    let theirs = plant(&world, EKSCI, other.cloud_name(&tenant, &op, 1, 1).unwrap()).await;
    let import_of = |from: Option<&str>| Import {
        force: true,
        from_deployment: from.map(str::to_owned),
        ..import(EKSCI, &theirs, "taken")
    };
    let refused = async |from: Option<&str>| {
        let refusal = world.core.reconciler.import(&import_of(from)).await.err()?;
        Some((refusal.problem.code, refusal.problem.detail.contains(&format!("deployment, {},", other.mark()))))
    };
    // It starts; only what runs is looked at further.
    until("it runs, and is another's", || async { refused(None).await == Some((ErrorCode::Conflict, true)) }).await;
    assert_eq!(refused(Some("unknown")).await, Some((ErrorCode::Conflict, true)));
    assert!(world.get("lab", "taken").await.is_none() && exists(&world, &theirs).await);
    world.core.reconciler.import(&import_of(Some(other.mark()))).await.unwrap();
    assert_eq!(world.get("lab", "taken").await.unwrap().status.cloud_id, Some(theirs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_was_there_before_becomes_a_tenants() {
    let world = world(REMOVE).await;
    let reconciler = &world.core.reconciler;
    for (region, name) in [(EKSCI, "old-one"), (ECI, "old-two")] {
        let foreign = plant(&world, region, "legacy-db".parse().unwrap()).await;
        let wish = import(region, &foreign, name);
        // It starts; only what runs is taken in.
        let mut record = reconciler.import(&wish).await;
        while record.as_ref().is_err_and(|p| p.problem.code == ErrorCode::Conflict) {
            tokio::task::yield_now().await;
            record = reconciler.import(&wish).await;
        }
        assert_eq!(record.unwrap().state, OperationState::Succeeded);
        assert_eq!(reconciler.import(&wish).await.unwrap().name.as_str(), name, "again is the same");
        let other = import(region, &foreign, "other");
        assert_eq!(reconciler.import(&other).await.unwrap_err().problem.code, ErrorCode::Conflict, "it has a name");
        let mut taken = import(region, &foreign, name);
        taken.tenant = "acme".parse().unwrap();
        assert_eq!(reconciler.import(&taken).await.unwrap_err().problem.code, ErrorCode::Conflict, "it has a tenant");
        let instance = world.get("lab", name).await.unwrap();
        assert_eq!((instance.status.phase, instance.status.cloud_id), (Phase::Running, Some(foreign.clone())));
        assert_eq!(world.used_instances("lab").await, 1);
        sweeps(&world, 4).await;
        assert!(strays(&world.core).is_empty() && exists(&world, &foreign).await);
        assert!(matches!(world.delete("lab", name).await, Ok(Outcome::Deleted)));
        assert!(!exists(&world, &foreign).await);
        assert_eq!(world.used_instances("lab").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_can_be_adopted_also_over_the_quota_and_lives_on() {
    let world = world(REMOVE).await;
    run(&world, "web", EKSCI).await;
    let limit = |n| QuotaLimits { instances: Some(n), ..Default::default() };
    world.core.ledger.set_limits(&"lab".parse().unwrap(), limit(0)).await.unwrap();
    let orphan = plant(&world, EKSCI, our_name("lab", "lost", 1, 1)).await;
    until("it is listed", || async { stray(&world, &orphan).is_some() }).await;
    let mut wish = import(EKSCI, &orphan, "found");
    until("the quota refuses it", || async {
        reconciler_refuses(&world, &wish).await == Some(ErrorCode::QuotaExceeded)
    })
    .await;
    assert!(world.get("lab", "found").await.is_none());
    wish.force = true;
    world.core.reconciler.import(&wish).await.unwrap();
    assert_eq!(world.used_instances("lab").await, 1);
    until("it is no stray", || async { stray(&world, &orphan).is_none() }).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(exists(&world, &orphan).await, "not removed as what it was");
    assert!(matches!(world.delete("lab", "found").await, Ok(Outcome::Deleted)));
    assert!(!exists(&world, &orphan).await);
}

async fn reconciler_refuses(world: &World, wish: &Import) -> Option<ErrorCode> {
    world.core.reconciler.import(wish).await.err().map(|p| p.problem.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_that_a_person_settles_goes_on() {
    let world = world(REPORT).await;
    world
        .fault(json!({"kind": "serverError", "when": "before", "action": "CreateEKSContainerInstances", "times": 1}))
        .await;
    let blind = json!({"kind": "serverError", "when": "before", "action": "DescribeEKSContainerInstances"});
    sweeps(&world, 1).await;
    world.fault(blind).await;
    let core = Arc::clone(&world.core);
    let creating = tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "k", &in_region(EKSCI))).await });
    until("it is in doubt", || async { world.core.reconciler.doubts(Some(State::InDoubt)).len() == 1 }).await;
    assert!(world.core.reconciler.doubts(Some(State::Undetermined)).is_empty());
    let doubt = world.core.reconciler.doubts(None).remove(0);
    let settle = |outcome| world.core.reconciler.settle(&doubt.tenant, &doubt.operation, None, outcome);
    let unseen = settle(Settlement::Applied("eksci-none".parse().unwrap())).await.unwrap_err();
    assert!([ErrorCode::RegionUnavailable, ErrorCode::BackendError].contains(&unseen.problem.code), "{unseen:?}");
    let early = settle(Settlement::Absent).await.unwrap_err();
    assert_eq!(early.problem.code, ErrorCode::Conflict, "a request may still take effect");
    assert!(early.problem.detail.contains("before"), "{early:?}");
    until("a person's word is taken", || async { settle(Settlement::Absent).await.is_ok() }).await;
    assert_eq!(settle(Settlement::Absent).await.unwrap_err().problem.code, ErrorCode::Conflict, "once");
    world.control("DELETE", "/v1/faults", Value::Null).await;
    match creating.await.unwrap() {
        Ok(Outcome::Created { instance, .. }) => assert_eq!(instance.status.phase, Phase::Running),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.existing().await.len(), 1);
    let instance = at("acme", "web");
    let wish = DeleteInstance { instance, allow_missing: false, validate_only: false, wait: Duration::from_secs(20) };
    assert!(matches!(world.ask("acme", Action::DeleteInstance(wish)).await, Ok(Outcome::Deleted)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_zombies_are_removed_also_in_report_mode() {
    let world = world(REPORT).await;
    for region in [EKSCI, ECI] {
        let own = run(&world, region, region).await;
        // The very name of the adopted one; and one that a failover would have left.
        let duplicate = plant(&world, region, our_name("acme", region, 1, 1)).await;
        let zombie = plant(&world, region, our_name("acme", region, 1, 0)).await;
        until("both are removed", || async { !exists(&world, &duplicate).await && !exists(&world, &zombie).await })
            .await;
        until("nothing is listed", || async { strays(&world.core).is_empty() }).await;
        assert!(exists(&world, &own).await);
        assert_eq!(world.get("acme", region).await.unwrap().status.cloud_id, Some(own));
    }
    until("only what lives is charged", || async { world.used_instances("acme").await == 2 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_deleted_behind_our_back_is_lost_and_charged_no_longer() {
    let world = world(REMOVE).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(run(&world, &format!("i-{n}"), EKSCI).await);
    }
    sweeps(&world, 1).await;
    backend(&world, EKSCI).delete(ids.remove(0), &LOOK).await.unwrap();
    until("its charge ends", || async { world.used_instances("acme").await == 4 }).await;
    until("it is said", || async { world.get("acme", "i-0").await.unwrap().status.phase == Phase::Failed }).await;
    sweeps(&world, 2).await;
    assert!(strays(&world.core).is_empty());
    assert!(matches!(world.delete("acme", "i-0").await, Ok(Outcome::Deleted)));
    for n in 1..5 {
        assert_eq!(world.get("acme", &format!("i-{n}")).await.unwrap().status.phase, Phase::Running);
    }
    assert_eq!(world.existing().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_instance_that_is_there_again_is_charged_again_or_removed() {
    let world = world(REPORT).await;
    let (acme, id) = ("acme".parse().unwrap(), run(&world, "web", EKSCI).await);
    let op = world.get("acme", "web").await.unwrap().status.operation.unwrap();
    let lose = async || {
        let lost = world.core.driver.mark_lost(&acme, &op, &id, "not shown").await.unwrap();
        assert!(matches!(lost, Amended::Written(_)), "{lost:?}");
        assert_eq!(world.used_instances("acme").await, 0);
    };
    lose().await;
    until("it is charged", || async { world.used_instances("acme").await == 1 }).await;
    until("it is shown", || async { world.get("acme", "web").await.unwrap().status.phase == Phase::Running }).await;
    until("nothing is listed", || async { world.core.reconciler.strays(None, 10).items.is_empty() }).await;
    // Once more, and what it was charged is somebody else's by then.
    let limits = QuotaLimits { instances: Some(1), ..QuotaLimits::default() };
    world.core.ledger.set_limits(&acme, limits).await.unwrap();
    lose().await;
    let other = run(&world, "other", ECI).await;
    until("the quota is kept", || async { !exists(&world, &id).await }).await;
    assert!(exists(&world, &other).await);
    assert_eq!(world.used_instances("acme").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_one_is_called_lost_and_the_last_of_a_backend_that_hides_is_not() {
    let world = world(REMOVE).await;
    let (first, last) = (run(&world, "i-0", ECI).await, run(&world, "i-1", ECI).await);
    sweeps(&world, 1).await;
    backend(&world, ECI).delete(first, &LOOK).await.unwrap();
    until("its charge ends", || async { world.used_instances("acme").await == 1 }).await;
    // An empty list is what this vendor answers who may not list, too.
    backend(&world, ECI).delete(last, &LOOK).await.unwrap();
    until("it is gone", || async { world.existing().await.is_empty() }).await;
    sweeps(&world, 8).await;
    assert_eq!(world.used_instances("acme").await, 1);
    assert_eq!(world.get("acme", "i-1").await.unwrap().status.phase, Phase::Running);
}

/// Two gateways that share everything, before the same clouds.
async fn two([first, second]: [Arc<dyn Shared>; 2], settings: &str) -> (World, Arc<Core>) {
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new("store"));
    let world = World::beside((Arc::clone(&ledger), first), Scenario::demo(7), settings).await;
    let info = world.sim.info();
    let other = core_beside(&info, world.folder(), settings, (ledger, second)).await;
    (world, other)
}

/// What a gateway tells of its strays, without the moment.
fn told(core: &Core) -> Vec<(String, Class, HeldBack, String)> {
    let of = |s: StrayView| (s.cloud_id.to_string(), s.class, s.held_back, s.judged.gateway);
    strays(core).into_iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gateway_tells_the_same_and_what_one_is_told_to_ignore_none_removes() {
    let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
    let (world, other) = two([Arc::clone(&shared), shared], REMOVE).await;
    run(&world, "web", EKSCI).await;
    let mut planted = Vec::new();
    for (region, key) in [(EKSCI, "one"), (EKSCI, "two"), (ECI, "three"), (ECI, "four")] {
        planted.push((region, plant(&world, region, our_name("acme", key, 1, 1)).await));
    }
    let all = [&world.core, &other];
    until("both tell of all", || async { all.iter().all(|core| strays(core).len() == planted.len()) }).await;
    until("both tell the same", || async { told(&world.core) == told(&other) }).await;
    let order: Vec<_> = strays(&other).into_iter().map(|s| (s.backend, s.cloud_id)).collect();
    assert!(order.is_sorted(), "{order:?}");
    let judges = |core: &Arc<Core>| strays(core).into_iter().map(|s| s.judged.here).collect::<Vec<_>>();
    let opposite: Vec<bool> = judges(&other).into_iter().map(|here| !here).collect();
    assert_eq!(judges(&world.core), opposite, "each backend has one judge");
    // In pages, each behind the last.
    let first = other.reconciler.strays(None, 3);
    assert_eq!((first.items.len(), first.total, first.next.is_some()), (3, 4, true));
    let rest = other.reconciler.strays(order.get(2), 3);
    assert_eq!((rest.items.len(), rest.next), (1, None));
    // To leave one alone in each region is said to the gateway that does not judge there.
    for (region, id) in [&planted[0], &planted[2]] {
        let not_judge = all.into_iter().find(|core| !stray_at(core, id).unwrap().judged.here).unwrap();
        not_judge.reconciler.ignore(&region.parse().unwrap(), id).await.unwrap();
        assert_eq!(stray_at(not_judge, id).unwrap().held_back, HeldBack::Ignored, "at once where it was said");
    }
    until("the others are removed", || async {
        !exists(&world, &planted[1].1).await && !exists(&world, &planted[3].1).await
    })
    .await;
    // Also whoever takes over hears of it.
    other.stop().await;
    sweeps(&world, 1).await;
    until("one gateway judges all", || async { strays(&world.core).iter().all(|s| s.judged.here) }).await;
    let since = tokio::time::Instant::now();
    until("another quarantine is over", || async { since.elapsed() > Duration::from_secs(8) }).await;
    sweeps(&world, 2).await;
    for (_, id) in [&planted[0], &planted[2]] {
        assert!(exists(&world, id).await, "{id} was to be left alone");
        assert_eq!(stray(&world, id).unwrap().held_back, HeldBack::Ignored);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_change_of_the_leader_the_brake_allows_no_more() {
    let server = RedisServer::start(&[]);
    let link = || RedisShared::new(Redis::connect(Options::single("127.0.0.1", server.port())).unwrap(), "test");
    let (world, other) = two([link(), link()], &format!("{REMOVE}\nremovalsMin = 2")).await;
    let own = run(&world, "web", EKSCI).await;
    let mut orphans = Vec::new();
    for n in 0..6 {
        // The ledger knows their operations, which are over: no reason to doubt it.
        let name = format!("gone-{n}");
        run(&world, &name, EKSCI).await;
        assert!(matches!(world.delete("acme", &name).await, Ok(Outcome::Deleted)));
        orphans.push(plant(&world, EKSCI, our_name("acme", &name, 9, 1)).await);
    }
    until("it is known who judges", || async { stray(&world, &orphans[0]).is_some() }).await;
    let left = || async {
        let existing = world.existing().await;
        orphans.iter().filter(|id| existing.iter().any(|i| i["id"] == id.as_str())).count()
    };
    until("two are removed", || async { left().await == 4 }).await;
    let here = strays(&world.core).iter().all(|s| s.judged.here);
    let (leads, follows) = if here { (&world.core, &other) } else { (&other, &world.core) };
    leads.stop().await;
    let braked = || async {
        let seen = strays(follows);
        !seen.is_empty() && seen.iter().all(|s| s.judged.here && s.held_back == HeldBack::Brake)
    };
    until("the next one is braked after a quarantine of its own", braked).await;
    assert_eq!(left().await, 4, "not one more than one gateway may");
    assert!(exists(&world, &own).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_is_not_taken_for_an_interrupted_one_while_it_is_written() {
    let slow = Arc::new(Flaky::new(Arc::new(MemoryLedger::new("store"))));
    let world = World::on(slow.clone(), Scenario::demo(7), REPORT).await;
    let foreign = plant(&world, ECI, "legacy-db".parse().unwrap()).await;
    let wish = import(ECI, &foreign, "old");
    until("it runs", || async {
        let found = backend(&world, ECI).describe(vec![foreign.clone()], &LOOK).await.unwrap();
        found.iter().any(|o| o.phase.proves_capacity())
    })
    .await;
    slow.delay_success(2000);
    // Who goes away in the middle leaves a claim that is given up soon.
    let gone = tokio::time::timeout(Duration::from_secs(1), world.core.reconciler.import(&wish)).await;
    assert!(gone.is_err(), "{gone:?}");
    let known =
        || world.core.fleet.get(&"lab".parse().unwrap(), &"old".parse().unwrap()).map(|r| r.instance.status.phase);
    until("the claim is given up", || async { known().is_none_or(|phase| phase == Phase::Failed) }).await;
    let record = world.core.reconciler.import(&wish).await.unwrap();
    assert_eq!((record.state, record.problem), (OperationState::Succeeded, None));
    assert_eq!(world.used_instances("lab").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_gives_way_to_another_tenants_that_was_claimed_at_once() {
    let inner = Arc::new(MemoryLedger::new("store"));
    let slow = Arc::new(Flaky::new(inner.clone()));
    let world = World::on(slow.clone(), Scenario::demo(7), REPORT).await;
    let foreign = plant(&world, ECI, "legacy-db".parse().unwrap()).await;
    let (wish, source) = (import(ECI, &foreign, "old"), format!("{ECI}/{foreign}"));
    until("it runs", || async {
        let found = backend(&world, ECI).describe(vec![foreign.clone()], &LOOK).await.unwrap();
        found.iter().any(|o| o.phase.proves_capacity())
    })
    .await;
    let claimed_by = |tenant: &str| {
        let tenant = tenant.parse().unwrap();
        (deployment().operation_id(&tenant, "IMPORT", &format!("{source}#0")).unwrap(), tenant)
    };
    // Another gateway's import has its claim between this one's look and its own.
    slow.answer(Answers::Held);
    let meanwhile = async {
        let (op, lab) = claimed_by("lab");
        until("it is claimed", || async { inner.operation(&lab, &op).await.unwrap().is_some() }).await;
        let (op_id, tenant) = claimed_by("acme");
        let mine = inner.operation(&lab, &op).await.unwrap().unwrap();
        let claim = Claim {
            tenant,
            op_id,
            uid: "inst_other".parse().unwrap(),
            name: mine.name.clone(),
            fingerprint: "other".to_owned(),
            labels: mine.labels.clone(),
            annotations: mine.annotations.clone(),
            spec: Arc::clone(&mine.spec),
            owner: "another".to_owned(),
            now: world.core.clock.now(),
            lease: Duration::from_secs(60),
        };
        assert!(matches!(inner.claim(claim).await.unwrap(), Claimed::New(_)));
        slow.answer(Answers::Given);
    };
    let (refused, ()) = tokio::join!(world.core.reconciler.import(&wish), meanwhile);
    assert_eq!(refused.unwrap_err().problem.code, ErrorCode::Conflict);
    assert_eq!(world.used_instances("lab").await, 0);
    let (op, lab) = claimed_by("lab");
    assert!(inner.operation(&lab, &op).await.unwrap().is_some_and(|r| r.state == OperationState::Failed));
}
