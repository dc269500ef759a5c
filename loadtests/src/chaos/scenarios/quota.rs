//! A quota that is wanted five times over, through both gateways at once, while instances are deleted: never one too
//! many at the clouds, and not one left unused.

use std::{sync::PoisonError, time::Duration};

use tokio::time::Instant;

use super::{Common, Findings, close};
use crate::chaos::{
    config::Settings,
    plan::Create,
    rng::Rng,
    round,
    verdict::{Answer, History},
    workload::{self, Book},
    world::World,
};

/// How many times the limit is wanted.
const TIMES: u64 = 5;
/// Time over which a wave's creates begin, milliseconds.
const WAVE_MS: u64 = 1_500;
/// Time for a wave's last answers.
const ANSWERS_MAX: Duration = Duration::from_secs(60);
/// Of a hundred that run, how many the first wave deletes again.
const DELETED_PERCENT: u64 = 30;

fn wave(rng: &mut Rng, name: &str, count: u64, gateways: usize, deletes: bool) -> Vec<Create> {
    let gateway = |rng: &mut Rng| usize::try_from(rng.within(0, gateways as u64)).unwrap_or_default();
    (0..count)
        .map(|n| Create {
            key: format!("{name}-{n}"),
            at_ms: rng.within(0, WAVE_MS),
            senders: vec![gateway(rng)],
            delete: (deletes && rng.percent(DELETED_PERCENT)).then(|| (rng.within(0, WAVE_MS), gateway(rng))),
            seed: rng.next(),
        })
        .collect()
}

fn merge(into: &Book, from: &Book) {
    let mut from = from.lock().unwrap_or_else(PoisonError::into_inner);
    into.lock().unwrap_or_else(PoisonError::into_inner).append(&mut from);
}

/// Runs it with a limit of so many instances.
///
/// # Errors
/// The world cannot be run.
pub async fn run(common: &Common, limit: u64) -> anyhow::Result<Findings> {
    let world = World::start(&common.shape(Settings { limit: Some(limit), ..Settings::default() })).await?;
    let caller = world.caller();
    let mut rng = Rng::new(common.seed);
    let gateways = caller.gateways.len();
    let start = Instant::now();
    let book = Book::default();
    // The first wave deletes some of what it made while the rest still comes; the second finds the room of the last
    // deletes; the third fills what is left when all deletes are done.
    for (name, count, deletes) in [("a", TIMES * limit, true), ("b", TIMES * limit, true), ("c", TIMES * limit, false)]
    {
        let creates = wave(&mut rng, name, count, gateways, deletes);
        let told = workload::run(&caller, &creates, Instant::now() + ANSWERS_MAX).await;
        merge(&book, &told);
    }
    gone(&world, &book).await?;
    let last = wave(&mut rng, "d", limit, gateways, false);
    merge(&book, &workload::run(&caller, &last, Instant::now() + ANSWERS_MAX).await);
    let took = start.elapsed();
    workload::settle(&caller, &book, Instant::now() + ANSWERS_MAX).await;
    let verdict = round::verdict(&world, &caller, &book, Some(limit)).await?;
    let alive = world.clouds.lives().await?.iter().filter(|life| life.until_ms.is_none()).count() as u64;
    let refused = |h: &History| {
        h.answers.iter().any(|t| matches!(&t.answer, Answer::Failed { code } if code == "quota-exceeded"))
    };
    let refused = book.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|h| refused(h)).count();

    let mut findings = Findings::default();
    findings.row("limit", limit);
    findings.row("gateways", gateways);
    findings.row("keys refused for the quota", refused);
    findings.row("deletes", verdict.deleted);
    findings.row("at the end", alive);
    findings.row("took", format!("{:.1} s", took.as_secs_f64()));
    findings.verdict(&verdict);
    findings.must(alive == limit, || format!("{alive} instances at the end, the limit is {limit}"));
    findings.must(verdict.peak == limit, || format!("at most {} at one time, the limit is {limit}", verdict.peak));
    close(world, &mut findings).await;
    Ok(findings)
}

/// Waits until what was deleted is gone, so that its room is free.
async fn gone(world: &World, book: &Book) -> anyhow::Result<()> {
    let until = Instant::now() + ANSWERS_MAX;
    while Instant::now() < until {
        let lives = world.clouds.lives().await?;
        let book = book.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let deleted = |key: &str| book.get(key).is_some_and(|h| h.deleted_ms.is_some());
        if !lives.iter().any(|life| life.until_ms.is_none() && deleted(&life.key)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
