//! A tenant's quota tree and budgets at work: what was borrowed is taken back, what is spent is warned of.

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    operation::{Action, ListConsumers, Outcome, Refusal},
    views,
};
use meridian_model::{
    error::{ErrorCode, Problem},
    ids::TenantId,
    instance::InstanceSpec,
};
use serde_json::json;

use super::{
    created,
    world::{World, create, spec, spec_from, until},
};
use crate::audit::Log;

/// Three instances in all; `shop` takes its two back from who matters less.
const RETAIL: &str = r#"
[[tenants]]
name = "retail"
defaultNetworkProfile = "default"
[[tenants.projects]]
name = "shop"
nominal = { instances = 2 }
reclaim = "lowerPriority"
priority = 10
[[tenants.projects]]
name = "blog"
nominal = { instances = 1 }
"#;

async fn create_in(world: &World, tenant: &str, project: &str, name: &str, key: &str) -> Result<Outcome, Refusal> {
    create_of(world, tenant, (project, name, key), &spec()).await
}

async fn create_of(
    world: &World,
    tenant: &str,
    (project, name, key): (&str, &str, &str),
    spec: &InstanceSpec,
) -> Result<Outcome, Refusal> {
    let mut action = create(tenant, name, key, spec);
    if let Action::CreateInstance(create) = &mut action {
        create.project = Some(project.parse().unwrap());
    }
    world.ask(tenant, action).await
}

fn short(answer: Result<Outcome, Refusal>) -> Problem {
    let problem = *answer.unwrap_err().problem;
    assert_eq!(problem.code, ErrorCode::QuotaExceeded, "{problem:?}");
    problem
}

async fn delete_of(world: &World, tenant: &str, instance: &views::Instance) -> views::Operation {
    let id = format!("{}-delete", instance.status.operation.as_ref().unwrap()).parse().unwrap();
    match world.ask(tenant, Action::GetOperation(Some(tenant.parse().unwrap()), id)).await {
        Ok(Outcome::Operation(operation)) => *operation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_borrowed_is_taken_back_for_its_owner_and_says_so() {
    let log = Log::usual();
    let world = World::recorded(Scenario::demo(7), RETAIL, log.audit.clone()).await;
    let make = |project, name, key| create_in(&world, "retail", project, name, key);
    let mut blogs = Vec::new();
    for name in ["b1", "b2", "b3"] {
        blogs.push(created(make("blog", name, name).await));
    }
    let problem = short(make("shop", "s1", "first").await);
    let quota = problem.quota.unwrap();
    assert_eq!((&*quota.dimension, quota.reclaiming, problem.retry_after_seconds), ("instances", Some(1), Some(10)));
    assert!(problem.detail.contains("1 instances of other projects that borrow it are being removed"));
    until("the newest that was borrowed is gone", || async { world.existing().await.len() == 2 }).await;
    until("the newest is shown no more", || async { world.get("retail", "b3").await.is_none() }).await;
    assert_eq!(world.used_instances("retail").await, 2);
    let told = delete_of(&world, "retail", &blogs[2]).await.progress.message;
    assert!(told.ends_with("reclaimed by project shop, whose own quota it was borrowing"), "{told}");

    until("the audit tells of it", || async { log.records("reclaimed").len() == 1 }).await;
    let record = &log.records("reclaimed")[0];
    let told = ["tenant", "object", "action", "borrower", "owner"].map(|key| record[key].as_str().unwrap());
    assert_eq!(told, ["retail", "tenants/retail/instances/b3", "reclaim-instance", "blog", "shop"]);

    // The refusal is final under its key; under another one the place is there.
    assert_eq!(short(make("shop", "s1", "first").await).quota.unwrap().reclaiming, Some(1));
    created(make("shop", "s1", "second").await);
    assert_eq!(short(make("shop", "s2", "third").await).quota.unwrap().reclaiming, Some(1));
    until("another is gone", || async { world.used_instances("retail").await == 2 }).await;
    created(make("shop", "s2", "fourth").await);
    // Both are within their own now, and nobody takes from whom is.
    for (project, name) in [("shop", "s3"), ("blog", "b4")] {
        assert_eq!(short(make(project, name, name).await).quota.unwrap().reclaiming, None);
    }
    let left: Vec<String> = world.list("retail").await.items.iter().map(|i| i.short_name.to_string()).collect();
    assert_eq!(left, ["b1", "s1", "s2"]);
}

/// A project that has passed its soft budget a moment after its first instance runs.
const THRIFT: &str = r#"
[[tenants]]
name = "thrift"
defaultNetworkProfile = "default"
[[tenants.projects]]
name = "rich"
nominal = { instances = 3 }
budget = { hard = "1000000", soft = "0.000001" }
[[tenants.projects]]
name = "calm"
nominal = { instances = 1 }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_soft_budget_warns_each_create_and_the_greatest_consumers_are_told() {
    let world = World::with(Scenario::demo(7), THRIFT).await;
    let thrift: TenantId = "thrift".parse().unwrap();
    created(create_in(&world, "thrift", "rich", "one", "one").await);
    until("the soft budget is passed", || async {
        world.core.quota_watch.look().await;
        !world.core.quota_watch.warnings(&thrift, "rich".parse().ok().as_ref()).is_empty()
    })
    .await;
    let big = spec_from(json!({"containers": [{"name": "app", "image": "nginx:1.27",
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}}}]}));
    let answer = create_of(&world, "thrift", ("rich", "two", "two"), &big).await.unwrap();
    let Outcome::Warned(outcome, warnings) = answer else { panic!("{answer:?}") };
    created(Ok(*outcome));
    assert_eq!(warnings.iter().map(|w| (&*w.pointer, &*w.code)).collect::<Vec<_>>(), [("/project", "soft-budget")]);
    // The budget is rich's alone.
    created(create_in(&world, "thrift", "calm", "three", "three").await);

    let consumers = async |project: Option<&str>, line: &str, most| {
        let project = project.map(|name| name.parse().unwrap());
        let wish = ListConsumers { tenant: Some(thrift.clone()), project, line: line.parse().unwrap(), most };
        match world.ask("thrift", Action::ListConsumers(Box::new(wish))).await {
            Ok(Outcome::Consumers(found)) => *found,
            other => panic!("{other:?}"),
        }
    };
    let names = |found: &views::QuotaConsumers| {
        found.items.iter().map(|i| i.name.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = consumers(None, "cpu", 10).await;
    assert_eq!((names(&all)[0].as_str(), all.instances), ("two", 3), "{all:?}");
    assert_eq!(names(&consumers(Some("calm"), "cpu", 10).await), ["three"]);
    let one = consumers(Some("rich"), "instances", 1).await;
    assert_eq!((names(&one), one.used.as_str(), one.items[0].percent), (vec!["one".to_owned()], "2", 50));
    assert!(consumers(None, "gpu", 10).await.items.is_empty());

    let Ok(Outcome::Quotas(page)) = world.ask("thrift", Action::ListQuotas(Some(thrift.clone()))).await else {
        panic!("quotas")
    };
    let rich = page.items.iter().find(|quota| quota.name.ends_with("/rich")).unwrap();
    let told = rich.forecast.iter().find(|forecast| forecast.line == "instances").unwrap();
    assert_eq!((told.left.as_str(), told.exhaust_time, told.reason), ("1", None, Some("too-few-samples")));
}
