//! The same idempotency key, sent at once by many to both gateways: one instance, one answer.

use std::time::Duration;

use tokio::time::Instant;

use super::{Common, Findings, close};
use crate::chaos::{config::Settings, plan::Create, rng::Rng, round, verdict::Answer, workload, world::World};

/// Time for the last answers once the last key was sent.
const ANSWERS_MAX: Duration = Duration::from_secs(60);

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Keys.
    pub keys: u64,
    /// Who sends each of them at once.
    pub senders: usize,
    /// Keys a second.
    pub per_second: u64,
}

/// Runs it.
///
/// # Errors
/// The world cannot be run.
pub async fn run(common: &Common, options: Options) -> anyhow::Result<Findings> {
    let world = World::start(&common.shape(Settings::default())).await?;
    let caller = world.caller();
    let mut rng = Rng::new(common.seed);
    let gateways = caller.gateways.len();
    let creates: Vec<_> = (0..options.keys)
        .map(|n| Create {
            key: format!("k-{n}"),
            at_ms: n * 1_000 / options.per_second.max(1),
            senders: (0..options.senders).map(|s| s % gateways).collect(),
            delete: None,
            seed: rng.next(),
        })
        .collect();
    let start = Instant::now();
    let spread = Duration::from_millis(creates.last().map_or(0, |c| c.at_ms));
    let book = workload::run(&caller, &creates, start + spread + ANSWERS_MAX).await;
    let took = start.elapsed();
    let histories: Vec<_> = {
        let book = book.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        book.values().cloned().collect()
    };
    workload::settle(&caller, &book, Instant::now() + ANSWERS_MAX).await;
    let verdict = round::verdict(&world, &caller, &book, None).await?;

    let mut findings = Findings::default();
    let answers = || histories.iter().flat_map(|h| &h.answers).map(|t| &t.answer);
    let created = answers().filter(|a| matches!(a, Answer::Created { .. })).count() as u64;
    let wanted = options.keys * options.senders as u64;
    findings.row("keys", options.keys);
    findings.row("senders of each", options.senders);
    findings.row("gateways", gateways);
    findings.row("answers 201", created);
    findings.row("other answers meanwhile", answers().count() as u64 - created);
    findings.row("took", format!("{:.1} s", took.as_secs_f64()));
    findings.verdict(&verdict);
    findings.must(created == wanted, || format!("{created} of {wanted} senders were answered 201"));
    findings.must(verdict.instances == options.keys, || {
        format!("{} instances were made for {} keys", verdict.instances, options.keys)
    });
    close(world, &mut findings).await;
    Ok(findings)
}
