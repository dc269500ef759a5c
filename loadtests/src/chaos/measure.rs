//! What the gateway makes of a Redis that syncs every write: creates through one gateway, in turns with the bare script
//! calls, as many of them, by the same client code without a gateway around it.
//!
//! A bare create writes what the gateway wrote for one of its own: a claim, and the same record in two steps. The calls
//! that a create took beyond these three are bare reads of the record. The bare calls have both cores to themselves,
//! where the gateway shares them with the clouds and the clients: that flatters the bare rate.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use meridian_gateway::{
    clock::Clock,
    config::{Config, Store},
    store,
};
use meridian_ledger::{
    Claim, Claimed, Ledger, Quota, Step, Stepped,
    embedded::SealKey,
    recovery::{Begun, Finish, Recovery as _},
    redis,
};
use meridian_model::{ids::TenantId, operation::OperationRecord};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use super::{
    config::{Settings, TENANT},
    redis::Redis,
    scenarios::Findings,
    world::{Shape, World},
};
use crate::{
    direct,
    generator::{Pool, Target},
    process,
};

/// The tenant of the bare calls.
const BARE: &str = "bare";
/// Steps of a create: the attempt is opened, the instance runs.
const STEPS: u64 = 2;
/// Lease of its begin.
const INIT_LEASE: Duration = Duration::from_secs(10);
/// Longest turn.
const TURN_MAX: Duration = Duration::from_secs(300);
/// Creates before anything is measured.
const WARM_UP: u64 = 50;
/// At least so much of the bare rate (issue 3, g).
const RATIO_MIN: f64 = 0.6;
/// Keys of the ledger for one instance: record, charge, name, place in the feed, due entry, and as many again.
const KEYS_PER_INSTANCE_MAX: f64 = 10.0;
/// Memory of the ledger for one instance, KiB: the record, with its plan, and what Redis adds.
const KIB_PER_INSTANCE_MAX: f64 = 16.0;

/// How much.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `meridian` binary.
    pub meridian: PathBuf,
    /// Seed of the clouds.
    pub seed: u64,
    /// Turns of each.
    pub turns: u64,
    /// Creates of a turn.
    pub creates: u64,
    /// Creates under way at once.
    pub connections: usize,
    /// The least part of the bare rate; `RATIO_MIN` unless the build is not optimised.
    pub ratio_min: Option<f64>,
}

/// Calls and the time they took.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    creates: u64,
    calls: u64,
    took: Duration,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.creates += other.creates;
        self.calls += other.calls;
        self.took += other.took;
    }

    fn calls_per_second(&self) -> f64 {
        count(self.calls) / self.took.as_secs_f64()
    }

    fn creates_per_second(&self) -> f64 {
        count(self.creates) / self.took.as_secs_f64()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes are far below 2^52")]
const fn count(n: u64) -> f64 {
    n as f64
}

/// Measures.
///
/// # Errors
/// A server does not start, or creates fail.
pub async fn run(options: &Options) -> anyhow::Result<Findings> {
    let settings = Settings { quiet: true, ..Settings::default() };
    let shape = Shape {
        meridian: options.meridian.clone(),
        gateways: 1,
        redis: true,
        replica: false,
        direct: true,
        seed: options.seed,
        settings,
    };
    let world = World::start(&shape).await?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let bare = Redis::start(folder.path()).await?;
    let ledger = open(&bare).await?;
    let mut gateway = Gateway::new(&world, options.connections)?;
    gateway.turn(WARM_UP).await?;
    let like = Arc::new(written(&world).await?);

    let before = Size::of(&world).await?;
    let (mut ours, mut theirs, mut used) = (Sum::default(), Sum::default(), [Duration::ZERO; 3]);
    for turn in 0..options.turns {
        let idle = cpu(&world)?;
        let one = gateway.turn(options.creates).await?;
        for ((used, now), then) in used.iter_mut().zip(cpu(&world)?).zip(idle) {
            *used += now.saturating_sub(then);
        }
        theirs.add(raw(&ledger, (turn, &like), one, options.connections).await?);
        ours.add(one);
    }
    let after = Size::of(&world).await?;

    let ratio = ours.calls_per_second() / theirs.calls_per_second();
    let each = |a: u64, b: u64| count(a.saturating_sub(b)) / count(ours.creates);
    let (keys, kib) = (each(after.keys, before.keys), each(after.bytes, before.bytes) / 1024.0);
    let least = options.ratio_min.unwrap_or(RATIO_MIN);
    let mut findings = Findings::default();
    findings.row("creates", ours.creates);
    findings.row("under way at once", options.connections);
    findings.row("script calls of a create", format!("{:.2}", count(ours.calls) / count(ours.creates)));
    findings.row("creates through the gateway, per second", format!("{:.0}", ours.creates_per_second()));
    findings.row("as bare script calls, per second", format!("{:.0}", theirs.creates_per_second()));
    findings.row("script calls through the gateway, per second", format!("{:.0}", ours.calls_per_second()));
    findings.row("bare script calls, per second", format!("{:.0}", theirs.calls_per_second()));
    let [by_gateway, by_redis, by_rest] = used.map(|all| all.as_secs_f64() * 1e6 / count(ours.creates));
    findings.row("processor time of a create: gateway, µs", format!("{by_gateway:.0}"));
    findings.row("processor time of a create: Redis, µs", format!("{by_redis:.0}"));
    findings.row("processor time of a create: clouds and clients, µs", format!("{by_rest:.0}"));
    findings.row("part of the bare rate", format!("{ratio:.2} (at least {least})"));
    findings.row("keys of an instance", format!("{keys:.2} (at most {KEYS_PER_INSTANCE_MAX})"));
    findings.row("memory of an instance, KiB", format!("{kib:.2} (at most {KIB_PER_INSTANCE_MAX})"));
    findings.row("append-only file of an instance, KiB", format!("{:.2}", each(after.file, before.file) / 1024.0));
    findings.must(ratio >= least, || format!("{ratio:.2} of the bare rate"));
    findings.must(keys <= KEYS_PER_INSTANCE_MAX, || format!("{keys:.2} keys of an instance"));
    findings.must(kib <= KIB_PER_INSTANCE_MAX, || format!("{kib:.2} KiB of an instance"));
    drop(ledger);
    world.stop().await;
    Ok(findings)
}

struct Size {
    keys: u64,
    bytes: u64,
    file: u64,
}

impl Size {
    async fn of(world: &World) -> anyhow::Result<Self> {
        let mut link = world.redis.as_ref().context("no redis")?.link().await?;
        let keys = link.ask(&["DBSIZE"]).await?.parse().context("DBSIZE")?;
        let bytes = link.info("memory", "used_memory").await?;
        Ok(Self { keys, bytes, file: link.info("persistence", "aof_current_size").await? })
    }
}

/// The gateway's turns.
struct Gateway<'w> {
    world: &'w World,
    pool: Pool,
}

impl<'w> Gateway<'w> {
    fn new(world: &'w World, connections: usize) -> anyhow::Result<Self> {
        let address = world.caller().gateways.first().and_then(|a| *a.borrow()).context("the gateway does not run")?;
        let (host, key) = (address.to_string(), format!("Bearer {}", world.key.api_key));
        let made = AtomicU64::new(0);
        let request = move |_| {
            let name = format!("m-{}", made.fetch_add(1, Ordering::Relaxed));
            let body = json!({"name": name, "spec": direct::spec()}).to_string();
            let request = Request::post(format!("/v1/tenants/{TENANT}/instances"))
                .header(header::HOST, &host)
                .header(header::AUTHORIZATION, &key)
                .header(header::CONTENT_TYPE, "application/json")
                .header("idempotency-key", &name)
                .body(Full::new(Bytes::from(body)));
            request.expect("invariant: the parts are constants and a number")
        };
        let target = Target { address, request: Arc::new(request), expected: StatusCode::CREATED };
        Ok(Self { world, pool: Pool::new(target, connections) })
    }

    async fn turn(&mut self, creates: u64) -> anyhow::Result<Sum> {
        let mut link = self.world.redis.as_ref().context("no redis")?.link().await?;
        let before = calls(&mut link).await?;
        let window = self.pool.closed_loop(TURN_MAX, Some(creates)).await?;
        ensure!(window.errors.is_empty(), "creates fail: {:?}", window.errors);
        let calls = calls(&mut link).await?.saturating_sub(before);
        Ok(Sum { creates: window.good, calls, took: window.elapsed })
    }
}

/// What gateway, Redis, and this process with the clouds and the clients have used so far.
fn cpu(world: &World) -> anyhow::Result<[Duration; 3]> {
    let gateway = world.gateways.first().context("no gateway")?.server()?.usage()?.cpu;
    let redis = process::usage(world.redis.as_ref().context("no redis")?.pid()?)?.cpu;
    Ok([gateway, redis, process::usage(std::process::id())?.cpu])
}

/// A record as the gateway left it in its ledger.
async fn written(world: &World) -> anyhow::Result<OperationRecord> {
    let path = world.gateways.first().context("no gateway")?.config();
    let config = Config::load(path, &|_| Vec::new()).map_err(|why| anyhow::anyhow!("{why}"))?;
    let Store::Redis(settings) = &config.ledger.store else { bail!("the gateway has a ledger of its own") };
    let ledger = store::shared_ledger(&config, settings)?;
    let page = ledger.records(None, 1).await?;
    page.records.into_iter().next().context("the gateway wrote nothing")
}

async fn calls(link: &mut super::resp::Resp) -> anyhow::Result<u64> {
    // Before the first call there is no such line.
    Ok(link.info("commandstats", "cmdstat_evalsha").await.unwrap_or_default())
}

/// A ledger on a Redis of its own, marked as a new deployment.
async fn open(server: &Redis) -> anyhow::Result<Arc<dyn Ledger>> {
    let address = server.address();
    let options = redis::Options::single(address.ip().to_string(), address.port());
    let link = redis::Redis::connect(options).map_err(|why| anyhow::anyhow!("the bare ledger: {why}"))?;
    let options = redis::LedgerOptions {
        prefix: "bare".to_owned(),
        key: SealKey::new([7; 32]),
        time: redis::LeaseTime::Server,
        acks: None,
    };
    let ledger = redis::RedisLedger::new(link, options)?;
    let tenant: TenantId = BARE.parse()?;
    let Begun::Yours(token) = ledger.begin(&tenant, "init", "init", INIT_LEASE).await? else {
        bail!("an empty Redis is not empty")
    };
    let how = Finish::Rebuilt { quota: Quota::default(), seq: 0 };
    ensure!(ledger.finish(&token, how, Clock::system().now()).await?, "the bare ledger is not begun");
    ledger.enlist(std::iter::once(tenant).collect()).await?;
    Ok(Arc::new(ledger))
}

/// As many script calls as a turn of the gateway made, by as many at once.
async fn raw(
    ledger: &Arc<dyn Ledger>,
    (turn, model): (u64, &Arc<OperationRecord>),
    like: Sum,
    connections: usize,
) -> anyhow::Result<Sum> {
    let next = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(Mutex::new(None));
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..connections {
        let (ledger, next, failed) = (Arc::clone(ledger), Arc::clone(&next), Arc::clone(&failed));
        let model = Arc::clone(model);
        callers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= like.creates {
                    return;
                }
                let share = |n: u64| like.calls * n / like.creates.max(1);
                if let Err(error) = cycle(&*ledger, &format!("{turn}x{n}"), &model, share(n + 1) - share(n)).await {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        });
    }
    while callers.join_next().await.is_some() {}
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    Ok(Sum { took: start.elapsed(), ..like })
}

/// A create as the ledger sees it, in so many calls.
async fn cycle(ledger: &dyn Ledger, id: &str, model: &OperationRecord, calls: u64) -> anyhow::Result<()> {
    let tenant: TenantId = BARE.parse()?;
    let claim = Claim {
        tenant: tenant.clone(),
        op_id: format!("op{id}").parse()?,
        uid: format!("inst_{id}").parse()?,
        name: format!("m-{id}").parse()?,
        fingerprint: model.fingerprint.clone(),
        labels: model.labels.clone(),
        annotations: model.annotations.clone(),
        spec: Arc::clone(&model.spec),
        owner: "bare".to_owned(),
        now: model.created_at,
        lease: INIT_LEASE,
    };
    let Claimed::New(mut record) = ledger.claim(claim).await? else { bail!("a new claim is not new") };
    for call in 1..calls {
        if call > STEPS {
            ledger.operation(&tenant, &record.op_id).await?.context("a record is not there")?;
            continue;
        }
        let next = OperationRecord {
            tenant: record.tenant,
            op_id: record.op_id,
            uid: record.uid,
            name: record.name,
            fence: record.fence,
            rev: record.rev,
            seq: record.seq,
            due: (call < STEPS).then_some(model.created_at),
            ..model.clone()
        };
        match ledger.step(Step::within(Box::new(next))).await? {
            Stepped::Written(written) => record = written,
            other => bail!("a step is not written: {other:?}"),
        }
    }
    Ok(())
}
