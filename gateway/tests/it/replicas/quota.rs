//! A quota tree under parallel creates through two gateways.

use std::{collections::BTreeMap, sync::Arc};

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    core::Core,
    operation::{Action, Outcome, Refusal},
    views,
};
use meridian_ledger::{Ledger, conformance::MemoryLedger};
use meridian_model::error::ErrorCode;
use tokio::task::JoinSet;

use super::{LEASE, on_redis};
use crate::journeys::world::{World, ask, create, spec};

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
    let mut action = create(tenant, name, name, &spec());
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
