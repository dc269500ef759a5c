//! One round: a world, its plan, the calm, the verdict.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    clouds::EFFECT_BOUND_MS,
    config::Settings,
    plan::{Blow, Fault, GATEWAYS, Plan, Point, SPREAD_MS, Who},
    proxy::{Cut, Gate, Proxy},
    tap::Held,
    verdict::{Answer, Evidence, Verdict, judge},
    workload::{self, Book, Caller},
    world::{Shape, World},
};

/// A kill point that is not reached by then is no longer waited for, from the start of the round.
const POINT_MAX: Duration = Duration::from_millis(SPREAD_MS + 1_500);
/// Clients give up so long after the last fault ended; the calm asks again.
const CLIENTS_MAX: Duration = Duration::from_millis(1_500);
/// R8: an operation ends within the effect bound and this.
const ENDS_MAX: Duration = Duration::from_secs(60);
/// R6: what lives is listed within this once every operation ended, and what is surplus gone: its quarantine, which is
/// two effect bounds, and a few sweeps.
const SETTLES_MAX: Duration = Duration::from_millis(2 * EFFECT_BOUND_MS + 10_000);
/// Between two looks whether all is settled.
const SETTLE_POLL: Duration = Duration::from_millis(250);

/// What a round came to.
#[derive(Debug)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// The verdict.
    pub verdict: Verdict,
    /// How often a create was refused without a record, by code.
    pub refusals: BTreeMap<String, u64>,
    /// The whole round.
    pub took: Duration,
    /// From the end of the faults until every key had a final answer everywhere.
    pub settled: Duration,
    /// Where logs and data are, if promises were broken.
    pub kept: Option<PathBuf>,
}

/// Runs a round.
///
/// # Errors
/// The world does not start or does not heal: that is no verdict about the gateway.
pub async fn run(meridian: &Path, plan: Plan, redis: bool) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let shape = Shape {
        meridian: meridian.to_owned(),
        gateways: GATEWAYS,
        redis,
        replica: plan.wants_replica(),
        direct: false,
        seed: plan.seed,
        settings: Settings { limit: plan.limit, ..Settings::default() },
    };
    let mut world = World::start(&shape).await.context("the world does not start")?;
    let judged = drive(&mut world, &plan).await;
    let failed = !matches!(&judged, Ok((verdict, ..)) if verdict.violations.is_empty());
    let kept = if failed {
        Some(world.keep().await)
    } else {
        world.stop().await;
        None
    };
    let (verdict, refusals, settled) = judged.with_context(|| format!("logs are in {kept:?}"))?;
    Ok(Outcome { plan, verdict, refusals, took: start.elapsed(), settled, kept })
}

async fn drive(world: &mut World, plan: &Plan) -> anyhow::Result<(Verdict, BTreeMap<String, u64>, Duration)> {
    world.clouds.settle_strangers().await.context("the strangers do not settle")?;
    for fault in &plan.vendor {
        world.clouds.fault(fault).await?;
    }
    let caller = world.caller();
    let start = Instant::now();
    let lasts: u64 = plan.blows.iter().map(|b| b.lasts_ms).sum();
    let until = start + POINT_MAX + Duration::from_millis(lasts) + CLIENTS_MAX;
    let clients = workload::run(&caller, &plan.creates, until);
    let blows = async {
        for blow in &plan.blows {
            strike(world, blow, start).await?;
        }
        anyhow::Ok(())
    };
    let (book, struck) = tokio::join!(clients, blows);
    struck?;
    world.heal().await.context("the world does not heal")?;
    let calm = Instant::now();
    workload::settle(&caller, &book, calm + Duration::from_millis(EFFECT_BOUND_MS) + ENDS_MAX).await;
    let settled = calm.elapsed();
    let verdict = verdict(world, &caller, &book, plan.limit).await?;
    let refusals = refusals(&book);
    Ok((verdict, refusals, settled))
}

/// Judges; what may take a moment is looked at again until it is well or the bound is over.
///
/// # Errors
/// The clouds do not say what existed.
pub async fn verdict(world: &World, caller: &Caller, book: &Book, limit: Option<u64>) -> anyhow::Result<Verdict> {
    let until = Instant::now() + SETTLES_MAX;
    loop {
        let mut shown = Vec::new();
        for gateway in 0..caller.gateways.len() {
            shown.push(caller.shown(gateway).await.ok());
        }
        let keys = book.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let verdict = judge(&Evidence {
            keys,
            lives: world.clouds.lives().await?,
            shown,
            limit,
            foreign: world.clouds.foreign.clone(),
        });
        if verdict.violations.is_empty() || Instant::now() > until {
            return Ok(verdict);
        }
        sleep(SETTLE_POLL).await;
    }
}

fn refusals(book: &Book) -> BTreeMap<String, u64> {
    let mut refusals = BTreeMap::new();
    let book = book.lock().unwrap_or_else(PoisonError::into_inner);
    for told in book.values().flat_map(|history| &history.answers) {
        let code = match &told.answer {
            Answer::Refused { code, .. } => code.clone(),
            Answer::Lost => "no answer".to_owned(),
            Answer::Failed { code } => format!("final {code}"),
            Answer::Created { .. } | Answer::Accepted => continue,
        };
        *refusals.entry(code).or_default() += 1;
    }
    refusals
}

/// Waits for the point, does the damage, lets it last, undoes it.
async fn strike(world: &mut World, blow: &Blow, start: Instant) -> anyhow::Result<()> {
    let late = start + POINT_MAX;
    let (held, fate) = match blow.point {
        Point::After(ms) => {
            sleep_until(start + Duration::from_millis(ms)).await;
            (None, None)
        }
        Point::Create(n, moment, fate) => {
            let trip = world.creates.trip(n, moment);
            (timeout_at(late, trip).await.ok().and_then(Result::ok), Some(fate))
        }
        Point::Script(n, moment, fate) => {
            let trip = world.scripts.trip(n, moment);
            (timeout_at(late, trip).await.ok().and_then(Result::ok), Some(fate))
        }
    };
    // The damage is done while the bytes are held; then they go on, or not.
    hurt(world, &blow.fault).await?;
    if let (Some(held), Some(fate)) = (held, fate) {
        Held::decide(held, fate);
    }
    sleep(Duration::from_millis(blow.lasts_ms)).await;
    mend(world, &blow.fault).await
}

async fn hurt(world: &mut World, fault: &Fault) -> anyhow::Result<()> {
    match fault {
        Fault::KillGateways(who) => {
            for (n, gateway) in world.gateways.iter_mut().enumerate().filter(|(n, _)| who.holds(*n)) {
                gateway.kill().await.with_context(|| format!("gateway {n}"))?;
            }
        }
        Fault::KillRedis => kill_redis(world).await?,
        Fault::KillBoth(who) => {
            kill_redis(world).await?;
            for (_, gateway) in world.gateways.iter_mut().enumerate().filter(|(n, _)| who.holds(*n)) {
                gateway.kill().await?;
            }
        }
        Fault::StopGateway(n) => {
            if let Some(gateway) = world.gateways.get(*n) {
                gateway.signal("STOP").await?;
            }
        }
        Fault::StopRedis => {
            if let Some(redis) = &world.redis {
                redis.signal("STOP").await?;
            }
        }
        Fault::Drain(n) => {
            if let Some(gateway) = world.gateways.get_mut(*n) {
                gateway.end().await?;
            }
        }
        Fault::RedisGate(who, gate) => {
            for (_, gateway) in world.gateways.iter().enumerate().filter(|(n, _)| who.holds(*n)) {
                gateway.redis.iter().for_each(|proxy| shut(proxy, *gate));
            }
        }
        Fault::RedisCut(who, cut) => {
            for (_, gateway) in world.gateways.iter().enumerate().filter(|(n, _)| who.holds(*n)) {
                gateway.redis.iter().for_each(|proxy| proxy.cut(*cut));
            }
        }
        Fault::RedisReply(n, bytes) => {
            let redis = world.gateways.get(*n).and_then(|g| g.redis.as_ref());
            redis.into_iter().for_each(|proxy| proxy.reset_reply_after(*bytes));
        }
        Fault::CloudGate(n, region, gate) => {
            cloud(world, *n, *region).for_each(|proxy| shut(proxy, *gate));
        }
        Fault::CloudCut(n, region, cut) => cloud(world, *n, *region).for_each(|proxy| proxy.cut(*cut)),
        Fault::CloudReply(n, region, bytes) => {
            cloud(world, *n, *region).for_each(|proxy| proxy.reset_reply_after(*bytes));
        }
        Fault::FailOver(ms) => {
            if world.replica.is_some() {
                world.sever();
                sleep(Duration::from_millis(*ms)).await;
                world.fail_over().await?;
            }
        }
        Fault::Flush => {
            if let Some(redis) = world.redis.as_ref().filter(|redis| redis.runs()) {
                redis.link().await?.ask(&["FLUSHALL"]).await?;
            }
        }
    }
    Ok(())
}

/// Shuts a line; one that refuses loses what is open as well.
fn shut(proxy: &Proxy, gate: Gate) {
    proxy.set_gate(gate);
    if gate == Gate::Refusing {
        proxy.cut(Cut::Reset);
    }
}

async fn kill_redis(world: &mut World) -> anyhow::Result<()> {
    match world.redis.as_mut() {
        Some(redis) => redis.kill().await,
        None => Ok(()),
    }
}

fn cloud(world: &World, gateway: usize, region: usize) -> impl Iterator<Item = &Proxy> {
    world.gateways.get(gateway).and_then(|g| g.clouds.get(region)).into_iter()
}

async fn mend(world: &mut World, fault: &Fault) -> anyhow::Result<()> {
    let everybody = |who: Who| (0..GATEWAYS).filter(move |n| who.holds(*n));
    match fault {
        Fault::KillGateways(who) => {
            for n in everybody(*who) {
                world.restart(n).await?;
            }
        }
        Fault::KillRedis => run_redis(world).await?,
        Fault::KillBoth(who) => {
            run_redis(world).await?;
            for n in everybody(*who) {
                world.restart(n).await?;
            }
        }
        Fault::StopGateway(n) => {
            if let Some(gateway) = world.gateways.get(*n) {
                gateway.signal("CONT").await?;
            }
        }
        Fault::StopRedis => {
            if let Some(redis) = &world.redis {
                redis.signal("CONT").await?;
            }
        }
        Fault::Drain(n) => world.restart(*n).await?,
        Fault::RedisGate(who, _) => {
            for n in everybody(*who) {
                world.gateways.get(n).and_then(|g| g.redis.as_ref()).into_iter().for_each(Proxy::heal);
            }
        }
        Fault::RedisReply(n, _) => {
            world.gateways.get(*n).and_then(|g| g.redis.as_ref()).into_iter().for_each(Proxy::heal);
        }
        Fault::CloudGate(n, region, _) | Fault::CloudReply(n, region, _) => {
            cloud(world, *n, *region).for_each(Proxy::heal);
        }
        Fault::RedisCut(..) | Fault::CloudCut(..) | Fault::FailOver(_) | Fault::Flush => {}
    }
    Ok(())
}

async fn run_redis(world: &mut World) -> anyhow::Result<()> {
    match world.redis.as_mut().filter(|redis| !redis.runs()) {
        Some(redis) => redis.run().await,
        None => Ok(()),
    }
}
