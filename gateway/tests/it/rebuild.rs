//! A shared Redis that restarts, forgets or fails over under running gateways: confirmed or rebuilt, never believed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use meridian_adapters::http::HttpClient;
use meridian_cloudsim::{Scenario, Simulator};
use meridian_gateway::{
    clock::{Clock, Entropy},
    core::{Core, Deps},
    journal::{
        identity::Deployment,
        intent::{Intent, IntentLog as _, file::FileIntents},
    },
    operation::{Action, ListInstances, Outcome, PageRequest, Refusal},
    store,
    telemetry::core::CoreMetrics,
    views,
};
use meridian_ledger::{Standing, conformance::redis_server::RedisServer};
use meridian_model::{
    error::ErrorCode,
    instance::{InstanceSpec, Shape},
    operation::{Charge, QuotaLimits},
    time::Time,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::journeys::world::{ask, at, config_on, create, spec, spec_from, until};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(30);
/// The effect bound of the simulated regions, as `config_on` sets it.
const BOUND: Duration = Duration::from_secs(3);

/// Gateways on one Redis before simulated clouds.
struct Shared {
    redis: RedisServer,
    sim: Simulator,
    http: HttpClient,
    folder: tempfile::TempDir,
}

impl Shared {
    async fn start() -> Self {
        Self::on(RedisServer::start(&[])).await
    }

    async fn on(redis: RedisServer) -> Self {
        let mut scenario = Scenario::demo(7);
        scenario.limits.enabled = false;
        let sim = Simulator::start(scenario, None).await.unwrap();
        Self { redis, sim, http: HttpClient::new().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    /// A gateway; each has a number, which names its intent journal.
    async fn gateway(&self, n: u32) -> Arc<Core> {
        self.gateway_at(n, &format!("url = \"redis://127.0.0.1:{}\"", self.redis.port())).await
    }

    async fn gateway_at(&self, n: u32, server: &str) -> Arc<Core> {
        gateway(&self.sim, server, &self.journal(n), QuotaLimits::default()).await
    }

    /// One whose tenant acme may have so many instances.
    async fn gateway_within(&self, n: u32, instances: u64) -> Arc<Core> {
        let server = format!("url = \"redis://127.0.0.1:{}\"", self.redis.port());
        let quota = QuotaLimits { instances: Some(instances), ..QuotaLimits::default() };
        gateway(&self.sim, &server, &self.journal(n), quota).await
    }

    fn journal(&self, n: u32) -> PathBuf {
        self.folder.path().join(format!("intents-{n}"))
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let uri = format!("{}{path}", self.sim.info().control);
        let request = http::Request::builder().method(method).uri(uri).body(Bytes::from(body.to_string())).unwrap();
        let reply = self.http.send(request, PATIENCE).await.unwrap();
        assert!(reply.status().is_success(), "{method} {path}: {:?}", reply.body());
        serde_json::from_slice(reply.body()).unwrap_or(Value::Null)
    }

    /// Ids of every instance that exists at any cloud, or ever did.
    async fn instances(&self, query: &str) -> Vec<String> {
        let ledger = self.control("GET", &format!("/v1/ledger{query}"), Value::Null).await;
        let ids = ledger["instances"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned());
        let mut ids: Vec<_> = ids.collect();
        ids.sort();
        ids
    }
}

async fn gateway(sim: &Simulator, server: &str, journal: &Path, acme: QuotaLimits) -> Arc<Core> {
    let ledger = format!("store = \"redis\"\n{server}\ncallTimeout = \"1s\"\njournalDir = \"{}\"", journal.display());
    let mut config = config_on(&sim.info(), &ledger, "");
    config.tenants[0].quota = acme;
    let opened = store::open(&config, |why| panic!("ledger: {why}")).await.unwrap();
    let deps = Deps {
        audit: meridian_gateway::audit::Audit::off(),
        clock: Clock::system(),
        entropy: Entropy::system(),
        ledger: opened.ledger,
        shared: opened.shared,
        recovery: opened.recovery,
        documents: opened.documents,
        intents: opened.intents,
        metrics: CoreMetrics::detached(),
        draining: CancellationToken::new(),
    };
    Core::start(&config, deps).await.unwrap()
}

async fn serving(core: &Core) {
    until("the ledger takes writes", || async {
        core.recovering.seconds_left() == 0 && core.ledger.standing() == Standing::Serving
    })
    .await;
}

fn created(outcome: Result<Outcome, Refusal>) -> views::Instance {
    match outcome {
        Ok(Outcome::Created { instance, .. }) => *instance,
        other => panic!("not created: {other:?}"),
    }
}

/// Creates as soon as the ledger takes it.
async fn create_when_it_can(core: &Arc<Core>, tenant: &str, name: &str, spec: &InstanceSpec) -> views::Instance {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask(core, tenant, create(tenant, name, name, spec)).await {
            Ok(Outcome::Created { instance, .. }) => return *instance,
            other => assert!(Instant::now() < until, "not created in time: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn used(core: &Arc<Core>, tenant: &str) -> u64 {
    match ask(core, tenant, Action::GetQuota(Some(tenant.parse().unwrap()))).await {
        Ok(Outcome::Quota(quota)) => quota.used.unwrap().instances,
        other => panic!("{other:?}"),
    }
}

fn uid(instance: &views::Instance) -> String {
    instance.uid.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_redis_becomes_a_ledger_by_itself_after_a_look_at_every_cloud() {
    let shared = Shared::start().await;
    let core = shared.gateway(1).await;
    let refused = ask(&core, "acme", create("acme", "web", "web", &spec())).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(shared.instances("").await.is_empty());
    create_when_it_can(&core, "acme", "web", &spec()).await;
    assert_eq!((shared.instances("").await.len(), used(&core, "acme").await), (1, 1));
}

/// What a gateway was about to send when it was killed.
fn intent(name: &str) -> Intent {
    let (tenant, zone) = ("acme".parse().unwrap(), "ap-guangzhou-3".parse().unwrap());
    let deployment = Deployment::new("test", b"0123456789abcdef0123456789abcdef");
    let op_id = deployment.operation_id(&tenant, "POST instances", name).unwrap();
    let backend = "ap-guangzhou".parse().unwrap();
    Intent {
        uid: format!("inst_{op_id}").parse().unwrap(),
        name: name.parse().unwrap(),
        fingerprint: "ab".repeat(32),
        created_at: Time::from_unix_ms(1),
        epoch: 1,
        n: 1,
        adapter: "tencent-eksci".parse().unwrap(),
        region: "ap-guangzhou".parse().unwrap(),
        zone,
        cloud_name: deployment.cloud_name(&tenant, &op_id, 1, 1).unwrap(),
        token: Deployment::client_token(&op_id, 1, &backend, 1).unwrap(),
        backend,
        shape: Shape::default(),
        charge: Charge { instances: 1, ..Charge::default() },
        project: None,
        armed_at: Time::from_unix_ms(2),
        op_id,
        tenant,
    }
}

async fn was_about_to_send(journal: &Path, intent: &Intent) {
    let (journal, _) = FileIntents::open(journal).unwrap();
    journal.arm(intent.clone()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_rebuilt_doubt_keeps_from_the_quota_waits_until_it_is_settled() {
    let shared = Shared::start().await;
    let doubtful = intent("doubtful");
    was_about_to_send(&shared.journal(1), &doubtful).await;
    let core = shared.gateway_within(1, 1).await;
    serving(&core).await;
    let record = core.ledger.operation(&doubtful.tenant, &doubtful.op_id).await.unwrap().expect("it is known");
    assert_eq!((record.charge.instances, record.restored_at.is_some()), (1, true), "{record:#?}");
    // The quota holds one, which may or may not exist. Two of these are too many whatever comes of it.
    let answers = tokio::join!(
        ask(&core, "acme", create("acme", "web", "web", &spec())),
        ask(&core, "acme", create("acme", "web-2", "web-2", &spec())),
    );
    let (made, refused) = match answers {
        (Ok(made), Err(refused)) | (Err(refused), Ok(made)) => (made, refused),
        other => panic!("one of both: {other:?}"),
    };
    created(Ok(made));
    assert_eq!(refused.problem.code, ErrorCode::QuotaExceeded);
    assert_eq!((shared.instances("").await.len(), used(&core, "acme").await), (1, 1));
    // What is settled keeps nobody waiting.
    let asked = Instant::now();
    let refused = ask(&core, "acme", create("acme", "web-3", "web-3", &spec())).await.unwrap_err();
    assert_eq!(refused.problem.code, ErrorCode::QuotaExceeded);
    assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_gateway_was_about_to_send_is_known_to_who_rebuilds() {
    let shared = Shared::start().await;
    let intent = intent("lost");
    was_about_to_send(&shared.journal(2), &intent).await;
    // The first has the right to rebuild before the second is there.
    let a = shared.gateway(1).await;
    until("it rebuilds", || async { a.recovering.seconds_left() > 0 }).await;
    let b = shared.gateway(2).await;
    serving(&a).await;
    serving(&b).await;
    let record = a.ledger.operation(&intent.tenant, &intent.op_id).await.unwrap().expect("it is known");
    assert_eq!(record.name, intent.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_that_loses_nothing_is_confirmed_within_seconds() {
    let mut shared = Shared::start().await;
    let (a, b) = (shared.gateway(1).await, shared.gateway(2).await);
    let first = create_when_it_can(&a, "acme", "web", &spec()).await;
    create_when_it_can(&b, "lab", "job", &spec()).await;
    // Both have looked since.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    shared.redis.kill();
    shared.redis.restart();
    let back = Instant::now();
    create_when_it_can(&a, "acme", "web-2", &spec()).await;
    assert!(back.elapsed() < BOUND, "confirmed, not rebuilt: {:?}", back.elapsed());
    serving(&b).await;
    assert_eq!(uid(&created(ask(&b, "acme", create("acme", "web", "web", &spec())).await)), uid(&first));
    assert_eq!((used(&b, "acme").await, used(&a, "lab").await), (2, 1));
    assert_eq!(shared.instances("").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_everything_is_rebuilt_from_what_gateways_remember() {
    let shared = Shared::start().await;
    let core = shared.gateway(1).await;
    let first = create_when_it_can(&core, "acme", "web", &spec()).await;
    create_when_it_can(&core, "acme", "gone", &spec()).await;
    let delete = meridian_gateway::operation::DeleteInstance {
        instance: at("acme", "gone"),
        allow_missing: false,
        validate_only: false,
        wait: PATIENCE,
    };
    let deleted = ask(&core, "acme", Action::DeleteInstance(delete)).await;
    assert!(matches!(deleted, Ok(Outcome::Deleted)), "{deleted:?}");
    for n in 0..3 {
        create_when_it_can(&core, "lab", &format!("job-{n}"), &spec()).await;
    }
    let before = shared.instances("?exists=true").await;
    let _ = shared.redis.ask(&["FLUSHALL"]);
    // The next create is not sent.
    let refused = ask(&core, "acme", create("acme", "web-2", "web-2", &spec())).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(shared.instances("?exists=true").await, before);
    create_when_it_can(&core, "acme", "web-2", &spec()).await;
    let after = shared.instances("?exists=true").await;
    assert!(before.iter().all(|id| after.contains(id)) && after.len() == before.len() + 1, "{before:?} {after:?}");
    let replay = created(ask(&core, "acme", create("acme", "web", "web", &spec())).await);
    assert_eq!(uid(&replay), uid(&first), "the same key names the same instance");
    created(ask(&core, "acme", create("acme", "gone", "gone", &spec())).await);
    assert_eq!(shared.instances("?exists=true").await, after, "what was deleted stays deleted");
    assert_eq!((used(&core, "acme").await, used(&core, "lab").await), (2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_remembers_nothing_finds_the_instances_at_their_clouds() {
    let shared = Shared::start().await;
    let core = shared.gateway(1).await;
    let mut uids = Vec::new();
    for region in ["ap-guangzhou", "cn-hangzhou"] {
        let wish = spec_from(json!({
            "containers": [{"name": "app", "image": "nginx:1.27"}],
            "placement": {"regions": [region]},
        }));
        uids.push(uid(&create_when_it_can(&core, "acme", region, &wish).await));
    }
    core.stop().await;
    drop(core);
    let before = shared.instances("?exists=true").await;
    let _ = shared.redis.ask(&["FLUSHALL"]);
    let core = shared.gateway(1).await;
    create_when_it_can(&core, "acme", "new", &spec()).await;
    until("both run again", || async { used(&core, "acme").await == 3 }).await;
    for (n, region) in ["ap-guangzhou", "cn-hangzhou"].into_iter().enumerate() {
        until("it is shown", || async {
            let shown = ask(&core, "acme", Action::GetInstance(at("acme", region))).await;
            matches!(shown, Ok(Outcome::Instance(i, _)) if i.instance.uid.to_string() == uids[n]
                && i.instance.status.phase.as_str() == "Running")
        })
        .await;
    }
    let after = shared.instances("?exists=true").await;
    assert!(before.iter().all(|id| after.contains(id)) && after.len() == 3, "{before:?} {after:?}");
}

/// What a tenant's list shows, or why it is refused.
async fn listed(core: &Arc<Core>, tenant: &str) -> Result<usize, ErrorCode> {
    let page = PageRequest { size: 100, after: None };
    let wish = Action::ListInstances(Box::new(ListInstances { page, ..ListInstances::default() }));
    match ask(core, tenant, wish).await {
        Ok(Outcome::Instances(page)) => Ok(page.items.len()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.problem.code),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_while_one_tenant_is_rebuilt_serves_the_others() {
    let shared = Shared::start().await;
    let core = shared.gateway(1).await;
    create_when_it_can(&core, "acme", "web", &spec()).await;
    create_when_it_can(&core, "lab", "job", &spec()).await;
    core.stop().await;
    drop(core);
    // As the script that finds it leaves it: somebody saw more of it than is there.
    let meta = shared.redis.ask(&["KEYS", "*{t:acme}:meta"]);
    assert_eq!(shared.redis.ask(&["HSET", &meta, "incarnation", "behind"]), "0");
    let core = shared.gateway(1).await;
    assert_eq!((listed(&core, "lab").await, listed(&core, "acme").await), (Ok(1), Err(ErrorCode::StoreUnavailable)));
    created(ask(&core, "lab", create("lab", "job-2", "job-2", &spec())).await);
    let refused = ask(&core, "acme", create("acme", "web-2", "web-2", &spec())).await;
    assert_eq!(refused.unwrap_err().problem.code, ErrorCode::StoreRecovering);
    assert_eq!((used(&core, "lab").await, core.driver.unread().unwrap().len()), (2, 1), "it is not rebuilt yet");
    until("the other is served as well", || async { listed(&core, "acme").await == Ok(1) }).await;
    create_when_it_can(&core, "acme", "web-2", &spec()).await;
    assert_eq!((shared.instances("").await.len(), used(&core, "acme").await), (4, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_acknowledged_writes_is_noticed_and_rebuilt() {
    let primary = RedisServer::start(&[]);
    let replica = primary.replica();
    let sentinel = primary.sentinel("main", 1);
    let server = format!("sentinel = {{ master = \"main\", addresses = [\"127.0.0.1:{}\"] }}", sentinel.port());
    let mut shared = Shared::on(primary).await;
    let (a, b) = (shared.gateway_at(1, &server).await, shared.gateway_at(2, &server).await);
    create_when_it_can(&a, "lab", "kept", &spec()).await;
    // The link is cut: what follows is acknowledged by the primary alone.
    let _ = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    let mut lost = Vec::new();
    for n in 0..5 {
        let core = if n % 2 == 0 { &a } else { &b };
        lost.push(uid(&create_when_it_can(core, "lab", &format!("lost-{n}"), &spec()).await));
    }
    let before = shared.instances("?exists=true").await;
    assert_eq!(before.len(), 6);
    shared.redis.kill();
    let _ = sentinel.ask(&["SENTINEL", "REMOVE", "main"]);
    let _ = sentinel.ask(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &replica.port().to_string(), "1"]);
    create_when_it_can(&a, "lab", "after", &spec()).await;
    for (n, uid_before) in lost.iter().enumerate() {
        let name = format!("lost-{n}");
        let replay = create_when_it_can(if n % 2 == 0 { &b } else { &a }, "lab", &name, &spec()).await;
        assert_eq!(uid(&replay), *uid_before);
    }
    let after = shared.instances("?exists=true").await;
    assert!(before.iter().all(|id| after.contains(id)) && after.len() == 7, "{before:?} {after:?}");
    assert_eq!((shared.instances("").await.len(), used(&b, "lab").await), (7, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_rebuild_one_ledger_once_and_a_dead_region_does_not_stop_it() {
    let shared = Shared::start().await;
    let (a, b) = (shared.gateway(1).await, shared.gateway(2).await);
    let wish = |region: &str| {
        spec_from(json!({
            "containers": [{"name": "app", "image": "nginx:1.27"}],
            "placement": {"regions": [region]},
        }))
    };
    create_when_it_can(&a, "acme", "dark", &wish("ap-guangzhou")).await;
    create_when_it_can(&b, "acme", "light", &wish("cn-hangzhou")).await;
    shared.control("POST", "/v1/faults", json!({"kind": "regionOutage", "region": "ap-guangzhou"})).await;
    let _ = shared.redis.ask(&["FLUSHALL"]);
    let light = wish("cn-hangzhou");
    let (one, two) =
        tokio::join!(create_when_it_can(&a, "acme", "new-a", &light), create_when_it_can(&b, "acme", "new-b", &light),);
    assert_ne!(uid(&one), uid(&two));
    assert_eq!((used(&a, "acme").await, used(&b, "acme").await), (4, 4), "what cannot be seen stays charged");
    shared.control("DELETE", "/v1/faults", Value::Null).await;
    assert_eq!(shared.instances("").await.len(), 4, "nothing was made twice");
}
