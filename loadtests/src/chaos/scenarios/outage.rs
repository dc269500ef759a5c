//! Redis is away for a minute, under load: reads go on and say how old they are, creates are refused with a time to
//! come back, and nothing is doubled afterwards.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Common, Findings, close};
use crate::chaos::{
    clouds::EFFECT_BOUND_MS,
    config::{Settings, TENANT},
    plan::Create,
    rng::Rng,
    round,
    verdict::{Answer, History, Told},
    workload::{self, Book, Caller, now_ms},
    world::World,
};

/// Instances that are there before.
const BEFORE: u64 = 20;
/// Time for their answers.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Creates and reads a second while it is away.
const CREATES_PER_SECOND: u64 = 5;
const READS_PER_SECOND: u64 = 20;
/// What is on its way when Redis goes has an unknown outcome, not a refusal. Within this a gateway knows that it is gone:
/// a second between two of its own calls, the time-out of one, and that of a create beside it.
const GRACE: Duration = Duration::from_secs(5);
/// From when on every read must say that it is stale: a feed is a second old, and two make it stale.
const MARKED_AFTER: Duration = Duration::from_secs(3);
/// Longest time from the return to the first good create: a rebuild.
const RETURN_MAX: Duration = Duration::from_millis(EFFECT_BOUND_MS + 30_000);
/// `Retry-After` while the store is away, seconds (RELIABILITY 2.9).
const RETRY_AFTER: std::ops::RangeInclusive<u64> = 1..=5;

/// How Redis goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// It is killed, and started again with its files.
    Kill,
    /// It is stopped and goes on: connections stay, nothing is answered.
    Stop,
}

#[derive(Debug, Default)]
struct Reads {
    good: u64,
    marked: u64,
    other: BTreeMap<String, u64>,
    slowest: Duration,
}

#[derive(Debug, Default)]
struct Creates {
    refused: u64,
    without_retry_after: u64,
    other: BTreeMap<String, u64>,
}

/// Runs it.
///
/// # Errors
/// The world cannot be run.
pub async fn run(common: &Common, away: Duration, how: How) -> anyhow::Result<Findings> {
    let mut world = World::start(&common.shape(Settings::default())).await?;
    let caller = world.caller();
    let mut rng = Rng::new(common.seed);
    let first: Vec<_> = (0..BEFORE)
        .map(|n| {
            let senders = vec![usize::try_from(n % 2).unwrap_or_default()];
            Create { key: format!("before-{n}"), at_ms: n * 20, senders, delete: None, seed: rng.next() }
        })
        .collect();
    let book = workload::run(&caller, &first, Instant::now() + ANSWERS_MAX).await;
    // Every gateway has seen what the other made.
    sleep(GRACE).await;

    go(&mut world, how).await?;
    let gone = Instant::now();
    let until = gone + away;
    let (reads, creates) =
        tokio::join!(read(&caller, gone + MARKED_AFTER, until), create(&caller, &book, gone + GRACE, until));
    come_back(&mut world, how).await?;
    let back = Instant::now();
    let good = first_good(&caller, &book).await;

    let mut findings = Findings::default();
    findings.row("Redis was away for", format!("{:.0} s", away.as_secs_f64()));
    findings.row("reads answered 200", reads.good);
    findings.row("of these marked stale", reads.marked);
    findings.row("slowest read", format!("{} ms", reads.slowest.as_millis()));
    findings.row("creates refused with 503", creates.refused);
    match good {
        Some(at) => {
            findings.row("from its return to the first good create", format!("{:.1} s", (at - back).as_secs_f64()))
        }
        None => findings.must(false, || format!("no create succeeds within {RETURN_MAX:?} of its return")),
    }
    findings.must(reads.good > 0 && reads.other.is_empty(), || format!("reads were answered {:?}", reads.other));
    findings.must(reads.marked == reads.good, || {
        format!("{} of {} reads were not marked", reads.good - reads.marked, reads.good)
    });
    findings
        .must(creates.refused > 0 && creates.other.is_empty(), || format!("creates were answered {:?}", creates.other));
    findings.must(creates.without_retry_after == 0, || {
        format!("{} refusals came without a Retry-After of {RETRY_AFTER:?} s", creates.without_retry_after)
    });
    retry_all(&caller, &book, back + RETURN_MAX).await;
    workload::settle(&caller, &book, Instant::now() + RETURN_MAX).await;
    let verdict = round::verdict(&world, &caller, &book, None).await?;
    findings.verdict(&verdict);
    close(world, &mut findings).await;
    Ok(findings)
}

async fn go(world: &mut World, how: How) -> anyhow::Result<()> {
    match (how, world.redis.as_mut()) {
        (How::Kill, Some(redis)) => redis.kill().await,
        (How::Stop, Some(redis)) => redis.signal("STOP").await,
        (_, None) => Ok(()),
    }
}

async fn come_back(world: &mut World, how: How) -> anyhow::Result<()> {
    match (how, world.redis.as_mut()) {
        (How::Kill, Some(redis)) => redis.run().await,
        (How::Stop, Some(redis)) => redis.signal("CONT").await,
        (_, None) => Ok(()),
    }
}

async fn read(caller: &Caller, from: Instant, until: Instant) -> Reads {
    let mut reads = Reads::default();
    let mut due = from;
    let mut n = 0_u64;
    while due < until {
        sleep_until(due).await;
        due += Duration::from_millis(1_000 / READS_PER_SECOND);
        let gateway = usize::try_from(n).unwrap_or_default() % caller.gateways.len().max(1);
        let list = n.is_multiple_of(4);
        let path = match list {
            true => format!("/v1/tenants/{TENANT}/instances?pageSize=10"),
            false => format!("/v1/tenants/{TENANT}/instances/before-{}", n % BEFORE),
        };
        n += 1;
        let start = Instant::now();
        match caller.send(gateway, Request::get(path), Bytes::new()).await {
            Ok(reply) if reply.status == StatusCode::OK => {
                reads.good += 1;
                let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                let item = if list { body.pointer("/items/0/status/stale") } else { body.pointer("/status/stale") };
                reads.marked += u64::from(item.and_then(Value::as_bool) == Some(true));
            }
            Ok(reply) => *reads.other.entry(reply.status.to_string()).or_default() += 1,
            Err(error) => *reads.other.entry(format!("{error:#}")).or_default() += 1,
        }
        reads.slowest = reads.slowest.max(start.elapsed());
    }
    reads
}

fn note(book: &Book, key: &str, told: Told) {
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    let sent_ms = told.at_ms;
    book.entry(key.to_owned()).or_insert_with(|| History { sent_ms, ..History::default() }).answers.push(told);
}

async fn create(caller: &Caller, book: &Book, from: Instant, until: Instant) -> Creates {
    let mut creates = Creates::default();
    let mut due = from;
    let mut n = 0_u64;
    while due < until {
        sleep_until(due).await;
        due += Duration::from_millis(1_000 / CREATES_PER_SECOND);
        let gateway = usize::try_from(n).unwrap_or_default() % caller.gateways.len().max(1);
        let key = format!("away-{n}");
        n += 1;
        let answer = caller.create(gateway, &key).await;
        note(book, &key, Told { at_ms: now_ms(), gateway, answer: answer.clone() });
        match answer {
            Answer::Refused { code, retry_after } if code == "503 store-unavailable" => {
                creates.refused += 1;
                creates.without_retry_after += u64::from(!retry_after.is_some_and(|s| RETRY_AFTER.contains(&s)));
            }
            other => *creates.other.entry(format!("{other:?}")).or_default() += 1,
        }
    }
    creates
}

/// When the first new create succeeded.
async fn first_good(caller: &Caller, book: &Book) -> Option<Instant> {
    let until = Instant::now() + RETURN_MAX;
    let mut n = 0_usize;
    while Instant::now() < until {
        let gateway = n % caller.gateways.len().max(1);
        n += 1;
        let answer = caller.create(gateway, "after").await;
        note(book, "after", Told { at_ms: now_ms(), gateway, answer: answer.clone() });
        if matches!(answer, Answer::Created { .. }) {
            return Some(Instant::now());
        }
        sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Everybody who was refused comes back, at both gateways.
async fn retry_all(caller: &Caller, book: &Book, until: Instant) {
    let keys: Vec<String> = book.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
    let gateways = caller.gateways.len();
    let creates: Vec<_> = keys
        .into_iter()
        .enumerate()
        .map(|(n, key)| Create {
            key,
            at_ms: n as u64 * 5,
            senders: (0..gateways).collect(),
            delete: None,
            seed: n as u64,
        })
        .collect();
    let told = workload::run(caller, &creates, until).await;
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    for (key, history) in told {
        for answer in history.answers {
            note(book, &key, answer);
        }
    }
}
