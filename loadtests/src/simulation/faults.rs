//! What goes wrong in a history and when: a pure function of the seed.

use meridian_cloudsim::core::{FaultInput, Rng, Vendor};

use super::clouds::{LATE_EFFECT_MS_MAX, LIST_LAG_MS_MAX, REGIONS};

/// The gateways.
pub const GATEWAYS: [&str; 2] = ["gw-a", "gw-b"];
/// The name of a gateway by its number.
#[must_use]
pub const fn gateway_name(which: usize) -> &'static str {
    let [a, b] = GATEWAYS;
    if which.is_multiple_of(2) { a } else { b }
}

/// The ledger's host.
pub const REDIS: &str = "redis";

/// The first fault comes after this, milliseconds.
pub const FAULTS_FROM_MS: u64 = 1_500;
/// After this everything is well again.
pub const CALM_FROM_MS: u64 = 62_000;
/// Fewest and most faults of a history.
const FAULTS: (u64, u64) = (5, 14);
/// How far a gateway's wall clock may be off. The effect bound has room for it.
pub const SKEW_MS_MAX: i64 = 2_000;

/// What happens to a gateway that has journalled an attempt and not sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// It is not run for a time.
    Stall {
        /// How long.
        ms: u64,
    },
    /// What it sends waits on its way, and it dies meanwhile.
    Held {
        /// From the journal on until messages wait: connecting and sending take a moment.
        after_ms: u64,
        /// How long the messages wait, from the journal on.
        ms: u64,
        /// Until it is back.
        down_ms: u64,
    },
}

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A gateway's process dies and comes back.
    Crash {
        /// Which.
        gateway: usize,
        /// Until it is back.
        down_ms: u64,
    },
    /// The same, at the moment in which the clouds have made that many instances more.
    CrashAtCreate {
        /// Which.
        gateway: usize,
        /// Creates until then.
        after: usize,
        /// Until it is back.
        down_ms: u64,
    },
    /// A gateway is caught between the journal and the send of an attempt.
    AtArm {
        /// Which.
        gateway: usize,
        /// Attempts until then.
        after: usize,
        /// What happens.
        what: Caught,
    },
    /// A gateway is not run for a time.
    Stall {
        /// Which.
        gateway: usize,
        /// How long.
        ms: u64,
    },
    /// Messages between two hosts are lost.
    Partition {
        /// From.
        a: &'static str,
        /// To.
        b: &'static str,
        /// Only from `a` to `b`.
        one_way: bool,
        /// How long.
        ms: u64,
    },
    /// Messages between two hosts wait, and then arrive.
    Hold {
        /// One.
        a: &'static str,
        /// The other.
        b: &'static str,
        /// How long.
        ms: u64,
    },
    /// The clouds misbehave.
    Cloud(Box<FaultInput>),
    /// A gateway's wall clock jumps.
    ClockJump {
        /// Which.
        gateway: usize,
        /// How far it is off from then on.
        skew_ms: i64,
    },
    /// Redis' process dies and comes back with everything.
    RedisRestart {
        /// Until it is back.
        down_ms: u64,
    },
    /// Another Redis takes over, without the last writes that were acknowledged.
    RedisFailover {
        /// Writes that are lost.
        lost: usize,
        /// Until it takes calls.
        down_ms: u64,
    },
    /// The same, as soon as one more delete was accepted.
    FailoverAtDelete {
        /// Writes that are lost.
        lost: usize,
        /// Until it takes calls.
        down_ms: u64,
    },
}

impl Fault {
    /// What the table calls it.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Self::Crash { .. } => "crash".to_owned(),
            Self::CrashAtCreate { .. } => "crash at a create".to_owned(),
            Self::AtArm { what: Caught::Stall { .. }, .. } => "stall before a send".to_owned(),
            Self::AtArm { what: Caught::Held { .. }, .. } => "request held, sender dead".to_owned(),
            Self::Stall { .. } => "stall".to_owned(),
            Self::Partition { one_way: true, .. } => "partition, one way".to_owned(),
            Self::Partition { .. } => "partition".to_owned(),
            Self::Hold { .. } => "hold and release".to_owned(),
            Self::Cloud(input) => match input.when.as_deref() {
                Some(when) => format!("cloud: {} {when}", input.kind),
                None => format!("cloud: {}", input.kind),
            },
            Self::ClockJump { .. } => "clock jump".to_owned(),
            Self::RedisRestart { .. } => "redis restart".to_owned(),
            Self::RedisFailover { .. } => "redis failover with loss".to_owned(),
            Self::FailoverAtDelete { .. } => "redis failover with loss at a delete".to_owned(),
        }
    }
}

/// A fault and its moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Milliseconds since the beginning.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// The faults of a seed, by time.
#[must_use]
pub fn plan(seed: u64) -> Vec<Planned> {
    let mut rng = Rng::new(seed ^ 0x0066_6175_6c74);
    let n = between(&mut rng, FAULTS);
    let mut all: Vec<Planned> = (0..n)
        .map(|_| {
            let at_ms = between(&mut rng, (FAULTS_FROM_MS, CALM_FROM_MS - 10_000));
            Planned { at_ms, fault: fault(&mut rng) }
        })
        .collect();
    // A quiet seed is one fault only, and early: the table's kinds then show what each does alone.
    if rng.below(12) == 0 {
        all.truncate(1);
    }
    all.sort_by_key(|p| p.at_ms);
    all
}

/// A number from a range, its ends included.
pub(super) fn between(rng: &mut Rng, (low, high): (u64, u64)) -> u64 {
    low + rng.below(high - low + 1)
}

/// One of some.
pub(super) fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> Option<T> {
    let at = usize::try_from(rng.below(u64::try_from(of.len()).unwrap_or(1))).unwrap_or_default();
    of.get(at).copied()
}

fn gateway(rng: &mut Rng) -> usize {
    usize::from(rng.chance(0.5))
}

fn link(rng: &mut Rng) -> (&'static str, &'static str) {
    let a = gateway_name(gateway(rng));
    let [gz, sh, hz] = REGIONS.map(|r| r.name);
    let far = [REDIS, REDIS, gz, sh, hz];
    let b = pick(rng, &far).unwrap_or(REDIS);
    if rng.chance(0.5) { (a, b) } else { (b, a) }
}

fn fault(rng: &mut Rng) -> Fault {
    match rng.below(24) {
        0 | 1 => Fault::Crash { gateway: gateway(rng), down_ms: between(rng, (100, 14_000)) },
        2..=5 => {
            let after = usize::try_from(between(rng, (1, 6))).unwrap_or(1);
            Fault::CrashAtCreate { gateway: gateway(rng), after, down_ms: between(rng, (100, 14_000)) }
        }
        6 | 7 => Fault::Stall { gateway: gateway(rng), ms: between(rng, (500, 22_000)) },
        8 | 9 => {
            let (a, b) = link(rng);
            Fault::Partition { a, b, one_way: rng.chance(0.5), ms: between(rng, (500, 20_000)) }
        }
        10 => {
            let (a, b) = link(rng);
            Fault::Hold { a, b, ms: between(rng, (500, 20_000)) }
        }
        11 => {
            let skew_ms = i64::try_from(rng.below(2 * SKEW_MS_MAX.unsigned_abs() + 1)).unwrap_or(0) - SKEW_MS_MAX;
            Fault::ClockJump { gateway: gateway(rng), skew_ms }
        }
        12 => Fault::RedisRestart { down_ms: between(rng, (100, 6_000)) },
        13 | 14 => {
            let lost = usize::try_from(between(rng, (1, 5))).unwrap_or(1);
            Fault::RedisFailover { lost, down_ms: between(rng, (50, 4_000)) }
        }
        _ => Fault::Cloud(Box::new(cloud(rng))),
    }
}

/// A rule for the clouds; every one ends by itself, except those for a number of calls, which end with the calm.
fn cloud(rng: &mut Rng) -> FaultInput {
    let region = pick(rng, &REGIONS.map(|r| r.name)).unwrap_or_default();
    let ms = |rng: &mut Rng, range| i64::try_from(between(rng, range)).unwrap_or(1);
    let base =
        FaultInput { region: Some(region.to_owned()), for_ms: Some(ms(rng, (2_000, 25_000))), ..FaultInput::default() };
    let creates = Some("Create*".to_owned());
    let kind = |kind: &str, when: Option<&str>| FaultInput {
        kind: kind.to_owned(),
        when: when.map(str::to_owned),
        ..base.clone()
    };
    let often = Some(0.3 + 0.7 * f64::from(u32::try_from(rng.below(100)).unwrap_or(0)) / 100.0);
    match rng.below(14) {
        0 | 1 => FaultInput { action: creates, probability: often, ..kind("replyLost", None) },
        2 | 3 => {
            let after_ms = Some(ms(rng, (200, LATE_EFFECT_MS_MAX)));
            let reply = rng.chance(0.5).then(|| "serverError".to_owned());
            FaultInput { action: creates, probability: often, after_ms, reply, ..kind("lateEffect", None) }
        }
        4 => FaultInput { action: creates, probability: often, ..kind("serverError", Some("before")) },
        5 | 6 => FaultInput { action: creates, probability: often, ..kind("serverError", Some("after")) },
        7 => FaultInput { probability: often, ..kind("throttle", None) },
        8 => FaultInput { probability: often, ..kind("soldOut", Some("atCreate")) },
        9 => FaultInput { probability: often, ..kind("soldOut", Some("afterCreate")) },
        10 => FaultInput { ms: Some(ms(rng, (200, LIST_LAG_MS_MAX))), ..kind("listLag", None) },
        11 => no_permission(region, &base),
        12 => {
            let mode = if rng.chance(0.5) { "refused" } else { "blackhole" };
            FaultInput { mode: Some(mode.to_owned()), ..kind("regionOutage", None) }
        }
        _ => FaultInput { ms: Some(ms(rng, (500, 6_000))), jitter_ms: Some(2_000), ..kind("latency", None) },
    }
}

/// The permission to list is missing for a while. Each vendor says so in its own words: ECI shows an empty list, Tencent
/// refuses with an error (common codes of its API 3.0). A Tencent region that showed nothing of what it has would be
/// another vendor than the one the adapter declares: nothing could be proven there at all.
fn no_permission(region: &str, base: &FaultInput) -> FaultInput {
    let hides = REGIONS.iter().any(|r| r.name == region && r.vendor == Vendor::AlibabaEci);
    let (kind, action) = if hides { ("emptyList", None) } else { ("unauthenticated", Some("Describe*".to_owned())) };
    FaultInput { kind: kind.to_owned(), action, ..base.clone() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_one_plan_and_all_kinds_come() {
        assert_eq!(plan(7), plan(7));
        let kinds: BTreeSet<String> = (0..300).flat_map(plan).map(|p| p.fault.kind()).collect();
        assert_eq!(kinds.len(), 21, "{kinds:#?}");
    }

    #[test]
    fn only_a_vendor_that_hides_shows_an_empty_list() {
        let empty = |fault| match fault {
            Fault::Cloud(input) if input.kind == "emptyList" => input.region,
            _ => None,
        };
        let regions: BTreeSet<String> = (0..300).flat_map(plan).filter_map(|p| empty(p.fault)).collect();
        assert_eq!(regions, BTreeSet::from(["cn-hangzhou".to_owned()]));
    }
}
