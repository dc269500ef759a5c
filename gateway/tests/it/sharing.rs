//! Gateways that share their sweeps: each backend is read once, all know what was seen, and a dead leader is replaced.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use meridian_cloudsim::Scenario;
use meridian_gateway::{core::Core, operation::Outcome, views::FreshnessState};
use meridian_ledger::{
    Ledger,
    conformance::{MemoryLedger, redis_server::RedisServer},
    redis::{Options, Redis, RedisShared},
    shared::{MemoryShared, Shared},
};
use meridian_model::{ids::BackendId, status::Phase, time::Time};
use meridian_policies::health::BreakerView;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::Instant};

use crate::journeys::world::{LOOK, World, ask, core_beside, create, spec, until};

/// The sweep interval of these tests' gateways.
const SWEEP: Duration = Duration::from_millis(300);

/// The shortest lease of a leader.
const LEASE: Duration = Duration::from_secs(3);

/// Sweeps by which calls are counted.
const SWEEPS: u64 = 15;

/// A gateway that can be killed: it lives in a runtime of its own.
struct Mortal {
    runtime: Option<Runtime>,
    core: Arc<Core>,
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Mortal {
    async fn start(world: &World, others: (Arc<dyn Ledger>, Arc<dyn Shared>)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (info, folder) = (world.sim.info(), world.folder().to_owned());
        let core = runtime.spawn(async move { core_beside(&info, &folder, "", others).await }).await.unwrap();
        Self { runtime: Some(runtime), core }
    }
}

/// How often each backend was asked what it runs.
async fn reads(world: &World) -> BTreeMap<String, u64> {
    let calls = world.control("GET", "/v1/calls", Value::Null).await;
    let mut reads = BTreeMap::new();
    for call in calls["calls"].as_array().unwrap() {
        let action = call["action"].as_str().unwrap();
        if ["DescribeEKSContainerInstances", "DescribeContainerGroups"].contains(&action) {
            *reads.entry(call["region"].as_str().unwrap().to_owned()).or_default() += call["count"].as_u64().unwrap();
        }
    }
    reads
}

/// When each backend was last seen, as a gateway knows.
fn observed(core: &Core) -> BTreeMap<BackendId, Option<Time>> {
    core.pollers.all().iter().map(|p| (p.backend().id.clone(), p.freshness().observed_at)).collect()
}

fn all_fresh(core: &Core) -> bool {
    core.pollers.all().iter().all(|p| p.freshness().state == FreshnessState::Fresh && p.lists_now())
}

/// What a gateway shows of an instance, without the moment of the last look.
fn shown(core: &Core, name: &str) -> Option<(Phase, String)> {
    let rendered = core.fleet.get(&"acme".parse().unwrap(), &name.parse().unwrap())?;
    let status = &rendered.instance.status;
    Some((status.phase, status.cloud_id.as_ref()?.to_string()))
}

async fn each_backend_is_read_once(ledger: Arc<dyn Ledger>, shared: [Arc<dyn Shared>; 2]) {
    let [first, second] = shared;
    let world = World::beside((Arc::clone(&ledger), first), Scenario::demo(7), "").await;
    let other = Mortal::start(&world, (ledger, second)).await;
    for name in ["web", "api"] {
        let core = if name == "web" { &world.core } else { &other.core };
        let made = ask(core, "acme", create("acme", name, name, &spec())).await;
        assert!(matches!(made, Ok(Outcome::Created { .. })), "{made:?}");
    }
    until("both are up to date", || async { all_fresh(&world.core) && all_fresh(&other.core) }).await;
    let (before, started) = (reads(&world).await, Instant::now());
    until("there were more sweeps", || async {
        reads(&world).await.iter().all(|(region, n)| *n >= before.get(region).copied().unwrap_or(0) + SWEEPS)
    })
    .await;
    let after = reads(&world).await;
    let sweeps = started.elapsed().as_secs_f64() / SWEEP.as_secs_f64();
    for (region, n) in &after {
        let n = u32::try_from(n - before[region]).unwrap();
        assert!(f64::from(n) < sweeps * 1.3 + 2.0, "{region}: {n} reads in the time of {sweeps:.1} sweeps");
    }
    until("both show the same", || async {
        let same = |name| shown(&world.core, name).is_some() && shown(&world.core, name) == shown(&other.core, name);
        same("web") && same("api") && all_fresh(&world.core) && all_fresh(&other.core)
    })
    .await;
    // Also who follows knows something of a backend that hides what one may not list, by which it can tell.
    let existing = world.existing().await;
    for poller in world.core.pollers.all().into_iter().chain(other.core.pollers.all()) {
        let id = &poller.backend().id;
        let sight = poller.look_at(&"nothing-of-ours".parse().unwrap(), &LOOK).await.unwrap();
        let tells = !poller.backend().capability.denies_silently
            || existing.iter().any(|instance| instance["region"] == id.as_str());
        assert_eq!((sight.found.len(), sight.proves_absence()), (0, tells), "{id}");
    }

    drop(other);
    let (killed, at) = (Instant::now(), observed(&world.core));
    until("who is left reads all", || async {
        let later = observed(&world.core);
        at.iter().all(|(backend, before)| later[backend] > before.map(|t| t + SWEEP * 3))
    })
    .await;
    let took = killed.elapsed();
    assert!(took < LEASE + SWEEP * 4 + Duration::from_secs(3), "{took:?}");
    assert_eq!(shown(&world.core, "api").map(|s| s.0), Some(Phase::Running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_read_each_backend_once_and_a_dead_one_is_replaced() {
    let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
    each_backend_is_read_once(Arc::new(MemoryLedger::new("store")), [Arc::clone(&shared), shared]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_share_their_sweeps_over_a_redis() {
    let server = RedisServer::start(&[]);
    let link = || RedisShared::new(Redis::connect(Options::single("127.0.0.1", server.port())).unwrap(), "test");
    each_backend_is_read_once(Arc::new(MemoryLedger::new("store")), [link(), link()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_the_leader_reads_on_and_believes_itself() {
    let mut server = RedisServer::start(&[]);
    let link = || RedisShared::new(Redis::connect(Options::single("127.0.0.1", server.port())).unwrap(), "test");
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new("store"));
    let world = World::beside((Arc::clone(&ledger), link()), Scenario::demo(7), "").await;
    let other = Mortal::start(&world, (ledger, link())).await;
    until("both are up to date", || async { all_fresh(&world.core) && all_fresh(&other.core) }).await;
    server.kill();
    let (a, b) = (observed(&world.core), observed(&other.core));
    until("one of the two goes on reading each backend, the other believes no silence", || async {
        let (now_a, now_b) = (observed(&world.core), observed(&other.core));
        world.core.pollers.all().iter().zip(other.core.pollers.all()).all(|(of_a, of_b)| {
            let id = &of_a.backend().id;
            let goes_on = |now: &BTreeMap<_, _>, before: &BTreeMap<_, Option<Time>>| {
                now[id] > before[id].map(|t| t + Duration::from_secs(2))
            };
            (goes_on(&now_a, &a) && !of_b.lists_now()) || (goes_on(&now_b, &b) && !of_a.lists_now())
        })
    })
    .await;
    server.restart();
    until("both are up to date again", || async { all_fresh(&world.core) && all_fresh(&other.core) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_follows_probes_a_region_by_itself() {
    let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new("store"));
    let world = World::beside((Arc::clone(&ledger), Arc::clone(&shared)), Scenario::demo(7), "").await;
    let other = Mortal::start(&world, (ledger, shared)).await;
    until("both are up to date", || async { all_fresh(&world.core) && all_fresh(&other.core) }).await;
    let gateways = [&world.core, &other.core].map(|core| {
        let poller = core.pollers.all().into_iter().find(|p| p.backend().region.as_str() == "cn-hangzhou").unwrap();
        Arc::clone(poller.backend())
    });
    world.fault(json!({"kind": "serverError", "when": "before", "action": "Delete*", "region": "cn-hangzhou"})).await;
    for backend in &gateways {
        while backend.breakers.state(true) == BreakerView::Closed {
            assert!(backend.delete("eci-nobody".parse().unwrap(), &LOOK).await.is_err());
        }
    }
    world.control("DELETE", "/v1/faults", Value::Null).await;
    // One of the two leads the sweeps of the region and reads it anyway; the other has nothing to read.
    until("both may write again", || async {
        gateways.iter().all(|backend| backend.breakers.state(true) == BreakerView::Closed)
    })
    .await;
}
