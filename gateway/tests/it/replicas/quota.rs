//! A quota tree under parallel creates through two gateways, and what one of them takes back that the other made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    core::Core,
    operation::{Action, Outcome, Refusal},
    views,
};
use meridian_ledger::{Ledger, conformance::MemoryLedger};
use meridian_model::{
    error::{ErrorCode, Problem},
    ids::TenantId,
    status::Phase,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{LEASE, created, list, on_redis};
use crate::journeys::world::{World, ask, at, create, spec, until};

/// Eight instances in all, of which three may be in one region; `blog` lends one of its four.
const RETAIL: &str = r#"
[[tenants]]
name = "retail"
defaultNetworkProfile = "default"
[tenants.root]
limit = { "instances@region:ap-guangzhou" = 3 }
[[tenants.projects]]
name = "shop"
nominal = { instances = 4 }
[[tenants.projects]]
name = "blog"
nominal = { instances = 4 }
lendingLimit = { instances = 1 }
[[tenants]]
name = "thrift"
defaultNetworkProfile = "default"
[[tenants.projects]]
name = "rich"
budget = { hard = "1000000", soft = "0.000001" }
[[tenants.projects]]
name = "poor"
budget = { hard = "0.000001" }
"#;

async fn create_in(core: &Arc<Core>, project: &str, name: &str) -> Result<Outcome, Refusal> {
    create_of(core, "retail", project, name).await
}

async fn create_of(core: &Arc<Core>, tenant: &str, project: &str, name: &str) -> Result<Outcome, Refusal> {
    create_under(core, (tenant, project), (name, name)).await
}

async fn create_under(
    core: &Arc<Core>,
    (tenant, project): (&str, &str),
    (name, key): (&str, &str),
) -> Result<Outcome, Refusal> {
    let mut action = create(tenant, name, key, &spec());
    if let Action::CreateInstance(create) = &mut action {
        create.project = Some(project.parse().unwrap());
    }
    ask(core, tenant, action).await
}

async fn quotas(core: &Arc<Core>, tenant: &str) -> Vec<views::Quota> {
    match ask(core, tenant, Action::ListQuotas(Some(tenant.parse().unwrap()))).await {
        Ok(Outcome::Quotas(page)) => page.items,
        other => panic!("{other:?}"),
    }
}

async fn a_tree_is_met_and_not_passed(world: &World, b: &Arc<Core>) {
    let mut tasks = JoinSet::new();
    for n in 0..60 {
        let core = Arc::clone(if n % 2 == 0 { &world.core } else { b });
        let project = if n % 3 == 0 { "blog" } else { "shop" };
        tasks.spawn(async move { (project, create_in(&core, project, &format!("i-{n}")).await) });
    }
    let (mut made, mut regions) = (BTreeMap::<&str, usize>::new(), BTreeMap::<String, usize>::new());
    while let Some(answer) = tasks.join_next().await {
        match answer.unwrap() {
            (project, Ok(Outcome::Created { instance, .. })) => {
                assert_eq!(instance.project.as_ref().map(AsRef::as_ref), Some(project));
                assert!(instance.annotations.is_empty(), "{:?}", instance.annotations);
                *made.entry(project).or_default() += 1;
                *regions.entry(instance.status.region.unwrap().to_string()).or_default() += 1;
            }
            (_, Err(refusal)) if refusal.problem.code == ErrorCode::QuotaExceeded => {
                let shortage = refusal.problem.quota.unwrap();
                assert!(shortage.dimension.starts_with("instances"), "{shortage:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    let of = |project: &str| made.get(project).copied().unwrap_or_default();
    assert_eq!(of("shop") + of("blog"), 8, "all there is, and no more: {made:?}");
    assert!(of("shop") <= 5 && of("blog") >= 3, "{made:?}");
    assert!(regions.get("ap-guangzhou").is_none_or(|n| *n <= 3), "{regions:?}");
    assert_eq!(world.ever().await.len(), 8);

    let quotas = quotas(b, "retail").await;
    let used: Vec<(&str, u64)> =
        quotas.iter().map(|quota| (quota.name.as_str(), quota.used.unwrap().instances)).collect();
    let (blog, shop) = (of("blog") as u64, of("shop") as u64);
    assert_eq!(
        used,
        [
            ("tenants/retail/quotas/default", 8),
            ("tenants/retail/quotas/blog", blog),
            ("tenants/retail/quotas/shop", shop)
        ]
    );
    let line = |quota: &views::Quota| quota.lines.iter().find(|line| line.line == "instances").cloned().unwrap();
    let (blog, shop) = (line(&quotas[1]), line(&quotas[2]));
    assert_eq!(shop.borrowed, blog.lent);
    assert_eq!((shop.available.as_deref(), blog.nominal.as_deref()), (Some("0"), Some("4")));

    let refusal = create_in(b, "shpo", "x").await.unwrap_err();
    let fault = &refusal.problem.errors[0];
    assert_eq!((&*fault.pointer, fault.hint.as_deref()), ("/project", Some("did you mean shop?")));
}

fn extra() -> String {
    format!("{LEASE}\n{RETAIL}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_tree_is_met_and_not_passed_through_two_gateways() {
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new("store"));
    let world = World::on(Arc::clone(&ledger), Scenario::demo(7), &extra()).await;
    let b = world.another(ledger, &extra()).await;
    a_tree_is_met_and_not_passed(&world, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_tree_is_met_and_not_passed_through_two_gateways_on_a_redis() {
    let (_server, world, b) = on_redis::pair_with(&extra()).await;
    a_tree_is_met_and_not_passed(&world, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_keeps_out_what_it_does_not_pay() {
    let (_server, world, b) = on_redis::pair_with(&extra()).await;
    let refusal = create_of(&world.core, "thrift", "poor", "no").await.unwrap_err();
    let shortage = refusal.problem.quota.unwrap();
    assert_eq!((&*shortage.dimension, shortage.node.as_ref().map(AsRef::as_ref)), ("budget", Some("poor")));
    assert!(matches!(create_of(&world.core, "thrift", "rich", "yes").await, Ok(Outcome::Created { .. })));
    let rich = quotas(&b, "thrift").await.into_iter().find(|quota| quota.name.ends_with("/rich")).unwrap();
    let budget = rich.budget.unwrap();
    assert_ne!(budget.cost_per_hour, "0", "{budget:?}");
    assert_eq!((budget.hard.as_deref(), budget.mode), (Some("1000000"), "committed"));
}

/// Three instances of which `blog` may borrow what is not its own. In `mall` its owner takes it back, in `fair` it does not.
const MALLS: &str = r#"
[[tenants]]
name = "mall"
defaultNetworkProfile = "default"
[[tenants.projects]]
name = "shop"
nominal = { instances = 2 }
reclaim = "any"
[[tenants.projects]]
name = "blog"
nominal = { instances = 1 }
[[tenants]]
name = "fair"
defaultNetworkProfile = "default"
[[tenants.projects]]
name = "shop"
nominal = { instances = 2 }
reclaim = "never"
[[tenants.projects]]
name = "blog"
nominal = { instances = 1 }
"#;

async fn get(core: &Arc<Core>, tenant: &str, name: &str) -> Option<views::Instance> {
    match ask(core, tenant, Action::GetInstance(at(tenant, name))).await {
        Ok(Outcome::Instance(seen, _)) => Some(seen.instance.clone()),
        _ => None,
    }
}

async fn names(core: &Arc<Core>, tenant: &str) -> Vec<String> {
    match ask(core, tenant, list(None)).await {
        Ok(Outcome::Instances(page)) => page.items.iter().map(|item| item.short_name.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

fn short(answer: Result<Outcome, Refusal>) -> Problem {
    let problem = *answer.unwrap_err().problem;
    assert_eq!(problem.code, ErrorCode::QuotaExceeded, "{problem:?}");
    problem
}

/// How many instances of others a refusal says are given back.
fn reclaiming(answer: Result<Outcome, Refusal>) -> Option<u32> {
    short(answer).quota.unwrap().reclaiming
}

/// Waits until an instance is on its way out, and says why, wherever it is asked for.
async fn it_says_why(cores: [&Arc<Core>; 2], name: &str) {
    for core in cores {
        until("it says why it goes", || async {
            get(core, "mall", name).await.is_some_and(|i| i.status.phase == Phase::Terminating)
        })
        .await;
        let status = get(core, "mall", name).await.unwrap().status;
        let condition = status.conditions.iter().find(|c| c.reason == "QuotaReclaimed").unwrap();
        for told in [&status.message, &condition.message] {
            assert_eq!(told, "reclaimed by project shop, whose own quota it was borrowing");
        }
        assert_eq!(status.reason, "QuotaReclaimed");
    }
}

async fn ids(world: &World) -> BTreeSet<String> {
    world.existing().await.iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect()
}

/// The clouds run what the ledger holds, and the ledger holds it where it belongs.
async fn ledger_and_clouds_agree(world: &World, ledger: &dyn Ledger) {
    let records = ledger.records(None, 1_000).await.unwrap().records;
    let (held, free): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.charge.instances > 0);
    assert!(free.iter().all(|record| record.is_gone()), "{free:#?}");
    let open = held.iter().map(|record| record.open_attempt().unwrap().cloud_id.as_ref().unwrap().to_string());
    assert_eq!(open.collect::<BTreeSet<_>>(), ids(world).await);
    for (tenant, [blog, shop]) in [("mall", [1, 2]), ("fair", [3, 0])] {
        let books = ledger.books(&tenant.parse::<TenantId>().unwrap()).await.unwrap();
        let of = |name: &str| -> u64 {
            let pots = books.pots.iter().filter(|(pot, _)| pot.project.as_ref().is_some_and(|p| p.as_str() == name));
            pots.map(|(_, charge)| charge.instances).sum()
        };
        assert_eq!(([of("blog"), of("shop")], books.usage.used.instances), ([blog, shop], 3), "{tenant}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_borrowed_through_one_gateway_is_taken_back_through_another_on_a_redis() {
    let (server, world, b) = on_redis::pair_with(&format!("{LEASE}\n{MALLS}")).await;
    let a = &world.core;
    for tenant in ["mall", "fair"] {
        for name in ["b1", "b2", "b3"] {
            created(create_of(a, tenant, "blog", name).await);
            let runs = || async { get(&b, tenant, name).await.is_some_and(|i| i.status.phase == Phase::Running) };
            until("the other gateway knows that it runs", runs).await;
        }
    }
    let third = get(a, "mall", "b3").await.unwrap().status;
    // While nothing can be deleted, what is taken back is there, says why and is charged.
    let kept = json!({"kind": "serverError", "when": "before", "action": "Delete*"});
    world.fault(kept.clone()).await;
    let first = async |core: &Arc<Core>, tenant: &str| create_under(core, (tenant, "shop"), ("s1", "first")).await;
    let problem = short(first(&b, "mall").await);
    let told = problem.quota.unwrap();
    let node = told.node.as_ref().map(AsRef::as_ref);
    assert_eq!((&*told.dimension, node, told.reclaiming), ("instances", Some("shop"), Some(1)));
    assert_eq!(problem.retry_after_seconds, Some(10));
    it_says_why([a, &b], "b3").await;
    assert_eq!((world.existing().await.len(), world.used_instances("mall").await), (6, 3));

    // Who takes nothing back is refused, and everybody keeps what they have.
    let problem = short(first(&b, "fair").await);
    let told = problem.quota.unwrap();
    let amounts = [&told.limit, &told.used, &told.requested].map(String::as_str);
    assert_eq!((&*told.dimension, amounts, told.borrowable.as_deref()), ("instances", ["2", "0", "1"], Some("0")));
    assert_eq!((told.node.as_ref().map(AsRef::as_ref), told.reclaiming), (Some("shop"), None));
    assert!(problem.retry_after_seconds.is_none() && !problem.detail.contains("removed"), "{}", problem.detail);

    world.control("DELETE", "/v1/faults", Value::Null).await;
    until("what was taken back is gone", || async { world.existing().await.len() == 5 }).await;
    assert!(!ids(&world).await.contains(third.cloud_id.as_ref().unwrap().as_str()), "it was the newest");
    for core in [a, &b] {
        until("it is shown no more", || async { get(core, "mall", "b3").await.is_none() }).await;
        let id = format!("{}-delete", third.operation.as_ref().unwrap()).parse().unwrap();
        let Ok(Outcome::Operation(delete)) =
            ask(core, "mall", Action::GetOperation(Some("mall".parse().unwrap()), id)).await
        else {
            panic!("its removal is an operation")
        };
        let why = &delete.progress.message;
        assert!(why.ends_with("reclaimed by project shop, whose own quota it was borrowing"), "{why}");
        // The refusal is final under its key, at both gateways.
        assert_eq!(reclaiming(first(core, "mall").await), Some(1));
    }
    created(create_under(&b, ("mall", "shop"), ("s1", "second")).await);

    // Both gateways at once take the same one back, and no more than one.
    world.fault(kept).await;
    let again = tokio::join!(
        create_under(a, ("mall", "shop"), ("s2", "third")),
        create_under(&b, ("mall", "shop"), ("s3", "fourth"))
    );
    assert_eq!((reclaiming(again.0), reclaiming(again.1)), (Some(1), Some(1)));
    it_says_why([a, &b], "b2").await;
    world.control("DELETE", "/v1/faults", Value::Null).await;
    until("one more is gone", || async { world.existing().await.len() == 5 }).await;
    until("it is charged no more", || async { world.used_instances("mall").await == 2 }).await;
    created(create_under(a, ("mall", "shop"), ("s2", "fifth")).await);
    // All are within their own, and nobody takes from whom is.
    assert_eq!(reclaiming(create_of(&b, "mall", "shop", "s4").await), None);
    assert_eq!(reclaiming(create_of(a, "mall", "blog", "b4").await), None);
    for core in [a, &b] {
        until("the rest stays", || async { names(core, "mall").await == ["b1", "s1", "s2"] }).await;
        assert_eq!(names(core, "fair").await, ["b1", "b2", "b3"]);
    }
    assert_eq!(world.ever().await.len(), 8, "none was made twice");
    ledger_and_clouds_agree(&world, &*on_redis::ledger(server.port())).await;
}
