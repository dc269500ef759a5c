//! Several gateways on one ledger before the same clouds: whoever is asked gives the same answer, and what one leaves
//! another ends.

pub mod flaky;
mod on_redis;
mod quota;
mod vanished;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    core::Core,
    operation::{Action, DeleteInstance, ListInstances, Outcome, PageRequest, Refusal},
    views::{self, FreshnessState},
};
use meridian_ledger::{Ledger, Standing, conformance::MemoryLedger};
use meridian_model::{error::ErrorCode, instance::InstanceSpec, status::Phase};
use serde_json::json;
use tokio::{runtime::Runtime, task::JoinSet};

use self::flaky::Flaky;
use crate::journeys::world::{PATIENCE, World, ask, at, core_on, create, spec, spec_from, until};

/// A lease that a test can wait for.
const LEASE: &str = "lease = \"1s\"\narmValid = \"800ms\"";

struct Pair {
    world: World,
    b: Arc<Core>,
    ledger: Arc<MemoryLedger>,
}

impl Pair {
    async fn start() -> Self {
        let ledger = Arc::new(MemoryLedger::new("store"));
        let world = World::on(ledger.clone(), Scenario::demo(7), LEASE).await;
        let b = world.another(ledger.clone(), LEASE).await;
        Self { world, b, ledger }
    }

    fn a(&self) -> &Arc<Core> {
        &self.world.core
    }
}

fn created(outcome: Result<Outcome, Refusal>) -> views::Instance {
    match outcome {
        Ok(Outcome::Created { instance, .. }) => *instance,
        other => panic!("not created: {other:?}"),
    }
}

/// Creates like a client that repeats what it may: on a busy machine a Redis may answer late.
async fn persist(core: &Arc<Core>, name: &str, key: &str) -> views::Instance {
    for _ in 0..100 {
        match ask(core, "acme", create("acme", name, key, &unhurried())).await {
            Err(refusal) if refusal.problem.code.retryable() => {}
            Ok(Outcome::Accepted { .. }) => {}
            outcome => return created(outcome),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{key} is never answered");
}

async fn delete(core: &Arc<Core>, name: &str) -> Result<Outcome, Refusal> {
    let instance = at("acme", name);
    let wish = DeleteInstance { instance, allow_missing: false, validate_only: false, wait: PATIENCE };
    ask(core, "acme", Action::DeleteInstance(wish)).await
}

fn knows(core: &Core, name: &str) -> bool {
    core.fleet.get(&"acme".parse().unwrap(), &name.parse().unwrap()).is_some()
}

/// A gateway that can be killed: it lives in a runtime of its own.
struct Mortal {
    runtime: Runtime,
    core: Arc<Core>,
}

impl Mortal {
    /// The ledger is made within that runtime: what it runs in the background dies with it.
    async fn start(world: &World, ledger: impl FnOnce() -> Arc<dyn Ledger> + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (info, folder) = (world.sim.info(), world.folder().to_owned());
        let core = runtime.spawn(async move { core_on(&info, &folder, LEASE, ledger()).await }).await.unwrap();
        Self { runtime, core }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_keys_eight_times_at_two_gateways_are_a_hundred_instances() {
    let ledger = Arc::new(MemoryLedger::new("store"));
    let world = World::unhurried(ledger.clone()).await;
    let b = world.another_unhurried(ledger).await;
    a_hundred_keys_eight_times(&world, &b).await;
}

/// What runs late on a busy machine is not given up for another: that would be an instance more, after the first.
fn unhurried() -> InstanceSpec {
    spec_from(json!({
        "containers": [{"name": "app", "image": "nginx:1.27"}],
        "placement": {"placeTimeout": "60s"},
    }))
}

async fn a_hundred_keys_eight_times(world: &World, b: &Arc<Core>) {
    let mut tasks = JoinSet::new();
    for n in 0..100 {
        for sender in 0..8 {
            let core = Arc::clone(if sender % 2 == 0 { &world.core } else { b });
            let (name, key) = (format!("i-{n}"), format!("k-{n}"));
            tasks.spawn(async move { (n, persist(&core, &name, &key).await) });
        }
    }
    let mut answers: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    while let Some(answer) = tasks.join_next().await {
        let (n, answer) = answer.unwrap();
        answers.entry(n).or_default().insert(serde_json::to_string(&answer).unwrap());
    }
    assert!(answers.len() == 100 && answers.values().all(|a| a.len() == 1), "{answers:#?}");
    assert_eq!(world.ever().await.len(), 100);
    assert_eq!(world.used_instances("acme").await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_was_creating_another_ends_once() {
    let pair = Pair::start().await;
    let ledger = pair.ledger.clone();
    another_ends_what_a_killed_one_began(&pair.world, &pair.b, move || ledger.clone()).await;
}

/// Each gateway that is to die gets a ledger of its own making.
async fn another_ends_what_a_killed_one_began(
    world: &World,
    b: &Arc<Core>,
    ledger: impl Fn() -> Arc<dyn Ledger> + Clone + Send + 'static,
) {
    for (name, fault) in [
        ("before-reply", json!({"kind": "latency", "ms": 700, "action": "Create*"})),
        ("reply-lost", json!({"kind": "replyLost", "action": "Create*", "times": 1})),
    ] {
        let doomed = Mortal::start(world, ledger.clone()).await;
        world.fault(fault).await;
        let core = Arc::clone(&doomed.core);
        let action = create("acme", name, name, &spec());
        doomed.runtime.spawn(async move { ask(&core, "acme", action).await });
        until("another gateway knows of it", || async { knows(b, name) }).await;
        doomed.kill();
        let started = tokio::time::Instant::now();
        let instance = created(ask(b, "acme", create("acme", name, name, &spec())).await);
        assert_eq!(instance.status.phase, Phase::Running);
        assert!(started.elapsed() < Duration::from_secs(15), "{name}: {:?}", started.elapsed());
        world.control("DELETE", "/v1/faults", serde_json::Value::Null).await;
    }
    assert_eq!(world.existing().await.len(), 2);
    assert_eq!(world.ever().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_a_gateway_that_lost_its_record_gets_the_final_answer() {
    let pair = Pair::start().await;
    pair.world.fault(json!({"kind": "latency", "ms": 1000, "action": "Create*"})).await;
    let core = Arc::clone(pair.a());
    let waiting = tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "k", &spec())).await });
    until("b knows of it", || async { knows(&pair.b, "web") }).await;
    pair.ledger.forget_leases();
    assert_eq!(pair.b.driver.adopt_abandoned().await.unwrap(), 1);
    let first = created(waiting.await.unwrap());
    let second = created(ask(&pair.b, "acme", create("acme", "web", "k", &spec())).await);
    assert_eq!(first, second);
    assert_eq!(pair.world.ever().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_hammered_five_times_over_through_two_gateways_is_met_and_not_passed() {
    let pair = Pair::start().await;
    a_quota_of_37_is_met_and_not_passed(&pair.world, &pair.b).await;
}

async fn a_quota_of_37_is_met_and_not_passed(world: &World, b: &Arc<Core>) {
    let mut tasks = JoinSet::new();
    for n in 0..185 {
        let core = Arc::clone(if n % 2 == 0 { &world.core } else { b });
        tasks.spawn(
            async move { ask(&core, "lab", create("lab", &format!("i-{n}"), &format!("k-{n}"), &spec())).await },
        );
    }
    let (mut made, mut refused) = (0, 0);
    while let Some(answer) = tasks.join_next().await {
        match answer.unwrap() {
            Ok(Outcome::Created { .. }) => made += 1,
            Err(refusal) if refusal.problem.code == ErrorCode::QuotaExceeded => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((made, refused), (37, 148));
    assert_eq!(world.ever().await.len(), 37);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_gateway_creates_another_deletes() {
    let pair = Pair::start().await;
    created(ask(pair.a(), "acme", create("acme", "web", "k", &spec())).await);
    // At once: what the other gateway's fleet knows does not matter.
    let deleted = delete(&pair.b, "web").await;
    assert!(matches!(deleted, Ok(Outcome::Deleted)), "{deleted:?}");
    assert!(pair.world.existing().await.is_empty());
    until("it leaves the other gateway's list", || async { !knows(pair.a(), "web") }).await;

    pair.world.fault(json!({"kind": "latency", "ms": 500, "action": "Create*"})).await;
    let core = Arc::clone(pair.a());
    let creating = tokio::spawn(async move { ask(&core, "acme", create("acme", "web", "k2", &spec())).await });
    until("it is known", || async { knows(pair.a(), "web") }).await;
    let deleted = delete(&pair.b, "web").await;
    assert!(matches!(deleted, Ok(Outcome::Deleted)), "{deleted:?}");
    assert_eq!(creating.await.unwrap().unwrap_err().problem.code, ErrorCode::Cancelled);
    assert!(pair.world.existing().await.is_empty());
    assert_eq!(pair.world.used_instances("acme").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_nothing() {
    let Pair { world, b, ledger } = Pair::start().await;
    world.fault(json!({"kind": "latency", "ms": 50, "jitterMs": 300, "action": "Create*"})).await;
    let mut serving = vec![Arc::clone(&world.core), b];
    let mut tasks = JoinSet::new();
    let mut asked = 0;
    for round in 0..2 {
        for _ in 0..30 {
            let core = Arc::clone(&serving[asked % serving.len()]);
            let (name, key) = (format!("i-{asked}"), format!("k-{asked}"));
            tasks.spawn(async move { ask(&core, "acme", create("acme", &name, &key, &spec())).await });
            asked += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let old = serving.remove(0);
        old.draining.cancel();
        let stopping = tokio::spawn(async move { old.stop().await });
        // While one drains, requests go to the other.
        for _ in 0..10 {
            let core = Arc::clone(&serving[0]);
            let (name, key) = (format!("i-{asked}"), format!("k-{asked}"));
            tasks.spawn(async move { ask(&core, "acme", create("acme", &name, &key, &spec())).await });
            asked += 1;
        }
        stopping.await.unwrap();
        serving.push(world.another(ledger.clone(), LEASE).await);
        assert_eq!(serving.len(), 2, "round {round}");
    }
    let mut accepted = 0;
    while let Some(answer) = tasks.join_next().await {
        match answer.unwrap() {
            Ok(Outcome::Created { .. }) => {}
            Ok(Outcome::Accepted { .. }) => accepted += 1,
            other => panic!("a request was lost: {other:?}"),
        }
    }
    assert!(accepted > 0, "nothing was under way when a gateway drained");
    for n in 0..asked {
        created(ask(&serving[n % 2], "acme", create("acme", &format!("i-{n}"), &format!("k-{n}"), &spec())).await);
    }
    assert_eq!(world.existing().await.len(), asked);
    assert_eq!(ask_used(&serving[0]).await, asked as u64);
}

async fn ask_used(core: &Arc<Core>) -> u64 {
    match ask(core, "acme", Action::GetQuota(Some("acme".parse().unwrap()))).await {
        Ok(Outcome::Quota(quota)) => quota.used.unwrap().instances,
        other => panic!("{other:?}"),
    }
}

fn list(min_revision: Option<u64>) -> Action {
    let page = PageRequest { size: 1000, after: None };
    Action::ListInstances(Box::new(ListInstances { page, min_revision, ..ListInstances::default() }))
}

async fn names(core: &Arc<Core>, min_revision: Option<u64>) -> Result<Vec<String>, Refusal> {
    match ask(core, "acme", list(min_revision)).await? {
        Outcome::Instances(page) => Ok(page.items.iter().map(|i| i.short_name.to_string()).collect()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_anywhere_shows_the_write_whose_revision_it_names() {
    let pair = Pair::start().await;
    for n in 0..20 {
        let (name, key) = (format!("i-{n:02}"), format!("k-{n}"));
        let Ok(Outcome::Created { revision, .. }) = ask(pair.a(), "acme", create("acme", &name, &key, &spec())).await
        else {
            panic!("not created")
        };
        let mut read = at("acme", &name);
        read.min_revision = Some(revision);
        match ask(&pair.b, "acme", Action::GetInstance(read)).await {
            Ok(Outcome::Instance(seen, _)) => assert_eq!(seen.instance.status.phase, Phase::Running),
            other => panic!("{other:?}"),
        }
        assert_eq!(names(&pair.b, Some(revision)).await.unwrap().len(), n + 1);
    }
    let asked = tokio::time::Instant::now();
    let refusal = names(&pair.b, Some(1_000_000)).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::RevisionNotReached);
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&asked.elapsed()), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_ledger_is_away_reads_go_on_and_say_so_and_what_is_open_ends_after() {
    let flaky = Arc::new(Flaky::new(Arc::new(MemoryLedger::new("store"))));
    let world = World::on(flaky.clone(), Scenario::demo(7), LEASE).await;
    created(world.create("acme", "before", "a", &spec()).await);
    // One is on its way when the ledger goes.
    world.fault(json!({"kind": "latency", "ms": 500, "action": "Create*"})).await;
    let core = Arc::clone(&world.core);
    let waiting = tokio::spawn(async move { ask(&core, "acme", create("acme", "open", "b", &spec())).await });
    until("its create was sent", || async { world.ever().await.len() == 2 }).await;
    for (standing, code) in
        [(Standing::Unavailable, ErrorCode::StoreUnavailable), (Standing::Recovering, ErrorCode::StoreRecovering)]
    {
        flaky.set(standing);
        let refusal = world.create("acme", "during", "c", &spec()).await.unwrap_err();
        assert_eq!(refusal.problem.code, code);
        assert_eq!(world.delete("acme", "before").await.unwrap_err().problem.code, code);
        assert_eq!(names(&world.core, None).await.unwrap(), ["before", "open"]);
        let page = PageRequest { size: 10, after: None };
        for action in [Action::ListTenants(page), Action::GetTenant(Some("acme".parse().unwrap()))] {
            let quota = match world.ask("acme", action).await {
                Ok(Outcome::Tenants(page)) => page.items[0].quota.clone(),
                Ok(Outcome::Tenant(tenant)) => tenant.quota,
                other => panic!("{other:?}"),
            };
            assert_eq!(quota.used, None, "nobody can tell now");
        }
        let quota = world.ask("acme", Action::GetQuota(Some("acme".parse().unwrap()))).await.unwrap_err();
        assert_eq!(quota.problem.code, code, "it is nothing without what is used");
        let explained = world.explain("acme", "before").await;
        assert_eq!((explained.attempts.len(), explained.quota.used), (1, None));
    }
    until("reads say that the ledger is away", || async { marks(&world, "before").await == [true; 3] }).await;
    assert_eq!(world.ever().await.len(), 2, "nothing is sent without a ledger");
    flaky.set(Standing::Serving);
    let back = tokio::time::Instant::now();
    created(waiting.await.unwrap());
    created(world.create("acme", "during", "c", &spec()).await);
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    assert_eq!(world.ever().await.len(), 3);
    assert!(matches!(world.delete("acme", "before").await, Ok(Outcome::Deleted)));
    until("reads are fresh again", || async { marks(&world, "open").await == [false; 3] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_cannot_be_read_says_so_while_others_are_written() {
    let flaky = Arc::new(Flaky::new(Arc::new(MemoryLedger::new("store"))));
    let world = World::on(flaky.clone(), Scenario::demo(7), LEASE).await;
    created(world.create("acme", "web", "a", &spec()).await);
    until("reads are fresh", || async { marks(&world, "web").await == [false; 3] }).await;
    flaky.hide(&["acme"]);
    let mut n = 0;
    while marks(&world, "web").await != [true; 3] {
        n += 1;
        created(world.create("lab", &format!("job-{n}"), &n.to_string(), &spec()).await);
        assert!(n < 30, "the others' traffic hides it");
    }
    assert!(world.list("lab").await.ledger.is_some_and(|l| l.state == FreshnessState::Fresh));
    flaky.hide(&[]);
    until("reads are fresh again", || async { marks(&world, "web").await == [false; 3] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_serves_the_tenants_that_can_be_read_and_the_others_when_they_can() {
    let memory = Arc::new(MemoryLedger::new("store"));
    let world = World::on(memory.clone(), Scenario::demo(7), LEASE).await;
    created(world.create("acme", "web", "a", &spec()).await);
    created(world.create("lab", "job", "b", &spec()).await);
    let flaky = Arc::new(Flaky::new(memory));
    flaky.hide(&["acme"]);
    let late = world.another(flaky.clone(), LEASE).await;
    let list = async |tenant: &str| match ask(&late, tenant, list(None)).await {
        Ok(Outcome::Instances(page)) => Ok(page.items.len()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.problem.code),
    };
    assert_eq!((list("lab").await, list("acme").await), (Ok(1), Err(ErrorCode::StoreUnavailable)));
    let one = ask(&late, "acme", Action::GetInstance(at("acme", "web"))).await;
    assert_eq!(one.unwrap_err().problem.code, ErrorCode::StoreUnavailable, "not: it does not exist");
    assert_eq!(late.driver.unread(), Some(BTreeSet::from(["acme".parse().unwrap()])));
    created(ask(&late, "lab", create("lab", "job-2", "c", &spec())).await);
    flaky.hide(&[]);
    until("the other is served too", || async { list("acme").await == Ok(1) }).await;
    assert_eq!(late.driver.unread(), Some(BTreeSet::new()));
    late.stop().await;
}

/// Whether a list says that its ledger is stale, whether its items do, and whether a single read does.
async fn marks(world: &World, name: &str) -> [bool; 3] {
    let list = world.list("acme").await;
    let items: BTreeSet<bool> = list.items.iter().map(|i| i.instance.status.stale).collect();
    assert_eq!(items.len(), 1, "all items of a list carry the same mark");
    let one = world.get("acme", name).await.unwrap();
    [list.ledger.is_some_and(|l| l.state == FreshnessState::Stale), items.contains(&true), one.status.stale]
}

#[tokio::test]
async fn after_ten_minutes_without_the_ledger_nothing_is_shown_any_more() {
    let flaky = Arc::new(Flaky::new(Arc::new(MemoryLedger::new("store"))));
    let world = World::on(flaky.clone(), Scenario::demo(7), LEASE).await;
    created(world.create("acme", "web", "a", &spec()).await);
    flaky.set(Standing::Unavailable);
    // Until then an answer of the feed may still be on its way.
    until("reads say that the ledger is away", || async { marks(&world, "web").await == [true; 3] }).await;
    tokio::time::pause();
    for (seconds, shown) in [(590, true), (20, false)] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let one = world.ask("acme", Action::GetInstance(at("acme", "web"))).await;
        let list = world.ask("acme", list(None)).await;
        for answer in [one, list] {
            match answer {
                Ok(Outcome::Instance(web, _)) if shown => assert!(web.instance.status.stale),
                Ok(Outcome::Instances(page)) if shown => assert!(page.items[0].instance.status.stale),
                Err(refusal) if !shown => assert_eq!(refusal.problem.code, ErrorCode::StoreUnavailable),
                other => panic!("after {seconds} s more: {other:?}"),
            }
        }
    }
    tokio::time::resume();
    flaky.set(Standing::Serving);
    until("it is shown again", || async { world.get("acme", "web").await.is_some() }).await;
    until("reads are fresh again", || async { marks(&world, "web").await == [false; 3] }).await;
}
