//! A failover of Redis that loses writes it had acknowledged: noticed before the next create leaves, rebuilt, and
//! nothing lost or doubled.

use std::{sync::PoisonError, time::Duration};

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::{Common, Findings, close};
use crate::chaos::{
    clouds::EFFECT_BOUND_MS,
    config::Settings,
    plan::Create,
    rng::Rng,
    round,
    verdict::{Answer, History, Told},
    workload::{self, Book, Caller, now_ms},
    world::{Shape, World},
};

/// Time for the answers of a wave.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Longest rebuild: the effect bound, complete sweeps, and as much again.
const REBUILT_MAX: Duration = Duration::from_millis(EFFECT_BOUND_MS + 30_000);
/// Between two tries while it is rebuilt.
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Without a create under way for so long, none is on the wire.
const QUIET: Duration = Duration::from_millis(1_500);

fn wave(rng: &mut Rng, name: &str, count: u64, deletes: bool) -> Vec<Create> {
    (0..count)
        .map(|n| Create {
            key: format!("{name}-{n}"),
            at_ms: n * 20,
            senders: vec![usize::try_from(n % 2).unwrap_or_default()],
            delete: (deletes && n % 4 == 0).then_some((200, 0)),
            seed: rng.next(),
        })
        .collect()
}

fn merge(into: &Book, from: &Book) -> u64 {
    let mut from = from.lock().unwrap_or_else(PoisonError::into_inner);
    let acknowledged = from.values().filter(|h| h.acknowledged()).count() as u64;
    into.lock().unwrap_or_else(PoisonError::into_inner).append(&mut from);
    acknowledged
}

/// Runs it with so many creates before the link is cut, and as many after.
///
/// # Errors
/// The world cannot be run.
pub async fn run(common: &Common, creates: u64) -> anyhow::Result<Findings> {
    let shape = Shape { replica: true, redis: true, ..common.shape(Settings::default()) };
    let mut world = World::start(&shape).await?;
    let caller = world.caller();
    let mut rng = Rng::new(common.seed);
    let book = Book::default();
    let mut findings = Findings::default();

    let before = workload::run(&caller, &wave(&mut rng, "kept", creates, false), Instant::now() + ANSWERS_MAX).await;
    findings.row("acknowledged before the link is cut", merge(&book, &before));
    world.sever();
    let after = workload::run(&caller, &wave(&mut rng, "lost", creates, true), Instant::now() + ANSWERS_MAX).await;
    let unreplicated = merge(&book, &after);
    sleep(QUIET).await;
    let keys = keys_of(&world).await?;
    world.fail_over().await?;
    let forgotten = keys.saturating_sub(keys_of(&world).await?);
    findings.row("acknowledged after it", unreplicated);
    findings.row("keys that the new primary lacks", forgotten);
    findings.must(forgotten > 0, || "the failover lost nothing: it shows nothing".to_owned());

    let (on_wire, failed_over) = (world.creates.passed(), Instant::now());
    let waited = until_good(&caller, &book).await;
    findings.row("refused meanwhile", waited.refused);
    findings.row("creates on the wire before the first refusal", waited.passed_before_refusal(&world, on_wire));
    match waited.good {
        Some(at) => {
            findings.row("from failover to the first good create", format!("{:.1} s", (at - failed_over).as_secs_f64()))
        }
        None => findings
            .must(false, || format!("no create succeeds in {REBUILT_MAX:?}; the last answer was {:?}", waited.last)),
    }
    findings.must(waited.refused > 0, || "the first create after the failover was not refused".to_owned());
    findings.must(waited.first_is_store, || format!("the first answer was not a 503 of the store: {:?}", waited.first));

    workload::settle(&caller, &book, Instant::now() + REBUILT_MAX).await;
    let verdict = round::verdict(&world, &caller, &book, None).await?;
    findings.verdict(&verdict);
    close(world, &mut findings).await;
    Ok(findings)
}

async fn keys_of(world: &World) -> anyhow::Result<u64> {
    let redis = world.redis.as_ref().context("no redis")?;
    redis.link().await?.ask(&["DBSIZE"]).await?.parse().context("DBSIZE")
}

/// What was answered until a create succeeded.
#[derive(Debug, Default)]
struct Waited {
    refused: u64,
    first: Option<Answer>,
    first_is_store: bool,
    last: Option<Answer>,
    good: Option<Instant>,
}

impl Waited {
    /// Creates that left although the store had forgotten; read after the wait, so the good one is taken off.
    fn passed_before_refusal(&self, world: &World, before: u64) -> u64 {
        (world.creates.passed() - before).saturating_sub(u64::from(self.good.is_some()))
    }
}

/// Sends new creates, one after the other, until one succeeds.
async fn until_good(caller: &Caller, book: &Book) -> Waited {
    let mut waited = Waited::default();
    let until = Instant::now() + REBUILT_MAX;
    let mut n = 0_usize;
    while Instant::now() < until {
        // The same key until it is answered for good: every refusal must have left nothing behind.
        let (key, gateway) = ("first", n % caller.gateways.len().max(1));
        n += 1;
        let sent_ms = now_ms();
        let answer = caller.create(gateway, key).await;
        let told = Told { at_ms: now_ms(), gateway, answer: answer.clone() };
        {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || History { sent_ms, ..History::default() };
            book.entry(key.to_owned()).or_insert_with(fresh).answers.push(told);
        }
        if waited.first.is_none() {
            waited.first_is_store = matches!(&answer, Answer::Refused { code, .. } if code.starts_with("503 store-"));
            waited.first = Some(answer.clone());
        }
        waited.last = Some(answer.clone());
        match answer {
            Answer::Created { .. } => {
                waited.good = Some(Instant::now());
                return waited;
            }
            _ => waited.refused += 1,
        }
        sleep(TRY_EVERY).await;
    }
    waited
}
