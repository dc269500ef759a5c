//! What happens in a round: drawn from its seed, before anything starts. Pure.
//!
//! Which creates are made, by whom, and which faults come when is a function of the seed. When two processes meet is
//! not: a round is repeated as a plan, not as a history.

use std::fmt;

use serde_json::{Value, json};

use super::{
    clouds::{EFFECT_BOUND_MS, LAG_MS_MAX, LATE_MS_MAX, LATENCY_MS_MAX},
    proxy::{Cut, Gate},
    rng::Rng,
    tap::{Fate, Moment},
};

/// Gateways of a round.
pub const GATEWAYS: usize = 2;
/// Regions of its clouds.
const REGIONS: usize = 3;
/// Time over which a round's creates begin, milliseconds.
pub const SPREAD_MS: u64 = 2_000;
/// Creates of a round: so many, and up to [`CREATES_MORE`] more.
const CREATES_MIN: u64 = 66;
const CREATES_MORE: u64 = 10;
/// Longest stop of a process, milliseconds, but for one stop in [`LONG_STOP`]: a stop must outlive every lease and
/// signature window, and longer ones cost time and show no more.
const STOP_MS_MAX: u64 = 6_000;
const LONG_STOP: u64 = 12;
const LONG_STOP_MS_MAX: u64 = 20_000;
/// Longest break of a line, milliseconds.
const BREAK_MS_MAX: u64 = 3_500;

/// How much later than promised the creates of a dishonest world take effect.
const DISHONEST_MS: u64 = 3_000;

/// A create of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Idempotency key, and name of the instance.
    pub key: String,
    /// When it is first sent, milliseconds from the start.
    pub at_ms: u64,
    /// The gateways that it is sent to at once, in tasks of their own.
    pub senders: Vec<usize>,
    /// Delete it so many milliseconds after it was answered, at this gateway.
    pub delete: Option<(u64, usize)>,
    /// Draws of its senders.
    pub seed: u64,
}

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// So many milliseconds from the start.
    After(u64),
    /// When the n-th create from now reaches the wire to a cloud.
    Create(u64, Moment, Fate),
    /// When the n-th script from now reaches the wire to Redis.
    Script(u64, Moment, Fate),
}

/// Which gateways something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// One.
    One(usize),
    /// All.
    All,
}

impl Who {
    /// Whether it is one of them.
    #[must_use]
    pub fn holds(self, gateway: usize) -> bool {
        match self {
            Self::One(n) => n == gateway,
            Self::All => true,
        }
    }
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of gateways.
    KillGateways(Who),
    /// `kill -9` of Redis.
    KillRedis,
    /// `kill -9` of Redis and of gateways at once.
    KillBoth(Who),
    /// A gateway is stopped and goes on.
    StopGateway(usize),
    /// Redis is stopped and goes on.
    StopRedis,
    /// A gateway is asked to end, as in a rolling restart.
    Drain(usize),
    /// The way to Redis is shut.
    RedisGate(Who, Gate),
    /// The connections to Redis are cut.
    RedisCut(Who, Cut),
    /// A reply of Redis is cut after so many bytes.
    RedisReply(usize, usize),
    /// The way of a gateway to a region is shut.
    CloudGate(usize, usize, Gate),
    /// The connections of a gateway to a region are cut.
    CloudCut(usize, usize, Cut),
    /// A reply of a region is cut after so many bytes.
    CloudReply(usize, usize, usize),
    /// The line to the replica is cut for so many milliseconds; then the replica becomes the primary.
    FailOver(u64),
    /// Redis forgets everything.
    Flush,
}

/// A fault, when it happens, and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blow {
    /// When.
    pub point: Point,
    /// What.
    pub fault: Fault,
    /// How long, milliseconds.
    pub lasts_ms: u64,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?} for {} ms", self.fault, self.point, self.lasts_ms)
    }
}

/// A round.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its seed.
    pub seed: u64,
    /// The tenant's limit of instances.
    pub limit: Option<u64>,
    /// Creates, by time.
    pub creates: Vec<Create>,
    /// Faults of gateways, Redis and lines, one after the other.
    pub blows: Vec<Blow>,
    /// Faults of the clouds, all the time.
    pub vendor: Vec<Value>,
}

impl Plan {
    /// The round of a seed. With `redis` faults of Redis are among the blows.
    #[must_use]
    pub fn new(seed: u64, redis: bool) -> Self {
        let mut rng = Rng::new(seed);
        let gateways = if redis { GATEWAYS } else { 1 };
        let creates = creates(&mut rng.fork(), gateways);
        // In half of the rounds the quota is a little too small, so that it is really contended.
        let limit = rng.percent(50).then(|| creates.len() as u64 - rng.within(3, 12));
        let mut draws = rng.fork();
        let count = if draws.percent(35) { 2 } else { 1 };
        let blows = (0..count).map(|_| blow(&mut draws, redis)).collect();
        let vendor = vendor(&mut rng.fork());
        Self { seed, limit, creates, blows, vendor }
    }

    /// The same round in a world that breaks the assumption the protocol rests on: creates take effect after the
    /// effect bound. It must end badly, or the chaos cannot see a double.
    #[must_use]
    pub fn dishonest(mut self) -> Self {
        let late = json!({"kind": "lateEffect", "action": "Create*", "afterMs": EFFECT_BOUND_MS + DISHONEST_MS,
                          "vendor": "tencent-eksci", "probability": 0.3});
        self.vendor = vec![late];
        self.limit = None;
        self
    }

    /// Whether Redis needs a replica.
    #[must_use]
    pub fn wants_replica(&self) -> bool {
        self.blows.iter().any(|blow| matches!(blow.fault, Fault::FailOver(_)))
    }
}

fn index(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.within(0, count as u64)).unwrap_or_default()
}

fn creates(rng: &mut Rng, gateways: usize) -> Vec<Create> {
    let count = CREATES_MIN + rng.within(0, CREATES_MORE + 1);
    let mut all: Vec<Create> = (0..count)
        .map(|n| {
            let first = index(rng, gateways);
            let senders = match rng.within(0, 10) {
                0..6 => vec![first],
                6..9 => vec![0, gateways - 1],
                _ => vec![first, first, (first + 1) % gateways],
            };
            let delete = rng.percent(15).then(|| (rng.within(0, 1_500), index(rng, gateways)));
            Create { key: format!("c-{n}"), at_ms: rng.within(0, SPREAD_MS), senders, delete, seed: rng.next() }
        })
        .collect();
    all.sort_by_key(|create| create.at_ms);
    all
}

fn point(rng: &mut Rng, redis: bool) -> Point {
    let moment = if rng.percent(50) { Moment::Request } else { Moment::Reply };
    let fate = if rng.percent(50) { Fate::Forward } else { Fate::Drop };
    match rng.within(0, 10) {
        0..2 => Point::After(rng.within(100, SPREAD_MS)),
        2..7 => Point::Create(rng.within(1, 30), moment, fate),
        _ if redis => Point::Script(rng.within(1, 120), moment, fate),
        _ => Point::After(rng.within(100, SPREAD_MS)),
    }
}

fn blow(rng: &mut Rng, redis: bool) -> Blow {
    let one = index(rng, if redis { GATEWAYS } else { 1 });
    let who = if redis && rng.percent(30) { Who::All } else { Who::One(one) };
    let point = point(rng, redis);
    let region = index(rng, REGIONS);
    let bytes = usize::try_from(rng.within(0, 400)).unwrap_or_default();
    let cut = *rng.pick(&[Cut::Reset, Cut::HalfUp, Cut::HalfDown]).unwrap_or(&Cut::Reset);
    let gate = *rng.pick(&[Gate::Stalled, Gate::Refusing]).unwrap_or(&Gate::Stalled);
    let stop = if rng.within(0, LONG_STOP) == 0 { LONG_STOP_MS_MAX } else { STOP_MS_MAX };
    let kinds = if redis { 100 } else { 50 };
    let (fault, lasts_ms) = match rng.within(0, kinds) {
        0..14 => (Fault::KillGateways(who), rng.within(0, 2_000)),
        14..24 => (Fault::StopGateway(one), rng.within(500, stop)),
        24..28 => (Fault::Drain(one), rng.within(0, 500)),
        28..35 => (Fault::CloudGate(one, region, gate), rng.within(300, BREAK_MS_MAX)),
        35..42 => (Fault::CloudCut(one, region, cut), 0),
        42..50 => (Fault::CloudReply(one, region, bytes), rng.within(300, 1_000)),
        50..58 => (Fault::KillRedis, rng.within(0, 2_000)),
        58..66 => (Fault::KillBoth(who), rng.within(0, 2_000)),
        66..73 => (Fault::StopRedis, rng.within(300, STOP_MS_MAX)),
        73..80 => (Fault::RedisGate(who, gate), rng.within(300, BREAK_MS_MAX)),
        80..86 => (Fault::RedisCut(who, cut), 0),
        86..91 => (Fault::RedisReply(one, bytes), rng.within(300, 1_000)),
        91..98 => (Fault::FailOver(rng.within(50, 800)), 0),
        _ => (Fault::Flush, 0),
    };
    Blow { point, fault, lasts_ms }
}

/// Up to two faults of the clouds, as cloudsim's control API takes them.
fn vendor(rng: &mut Rng) -> Vec<Value> {
    let count = rng.within(0, 3);
    let zones = ["ap-guangzhou-3", "ap-shanghai-2", "cn-hangzhou-h"];
    (0..count)
        .map(|_| {
            let probability = [0.03, 0.08, 0.15].get(usize::try_from(rng.within(0, 3)).unwrap_or_default());
            let probability = probability.copied().unwrap_or(0.1);
            let zone = rng.pick(&zones).copied().unwrap_or_default();
            let late = rng.within(100, LATE_MS_MAX + 1);
            match rng.within(0, 9) {
                0 => json!({"kind": "replyLost", "action": "Create*", "probability": probability}),
                1 => json!({"kind": "replyLost", "action": "Delete*", "probability": probability}),
                2 => json!({"kind": "lateEffect", "action": "Create*", "afterMs": late, "probability": probability}),
                3 => json!({"kind": "lateEffect", "action": "Create*", "afterMs": late, "reply": "serverError",
                            "probability": probability}),
                4 => json!({"kind": "serverError", "when": "after", "action": "Create*", "probability": probability}),
                5 => json!({"kind": "serverError", "when": "before", "status": 502, "html": true, "probability": probability}),
                6 => json!({"kind": "soldOut", "when": if rng.percent(50) { "atCreate" } else { "afterCreate" }, "zone": zone}),
                7 => json!({"kind": "throttle", "probability": probability}),
                _ if rng.percent(50) => json!({"kind": "listLag", "ms": LAG_MS_MAX}),
                _ => json!({"kind": "latency", "ms": LATENCY_MS_MAX / 2, "jitterMs": LATENCY_MS_MAX / 2}),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_fixes_the_plan() {
        assert_eq!(Plan::new(7, true), Plan::new(7, true));
        assert_ne!(Plan::new(7, true), Plan::new(8, true));
    }

    #[test]
    fn three_hundred_rounds_hold_every_fault_and_twenty_thousand_creates() {
        let plans: Vec<_> = (0..300).map(|seed| Plan::new(seed, true)).collect();
        assert!(plans.iter().map(|p| p.creates.len()).sum::<usize>() >= 20_000);
        let faults: BTreeSet<String> = plans
            .iter()
            .flat_map(|p| &p.blows)
            .map(|b| format!("{:?}", b.fault).split('(').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(faults.len(), 14, "{faults:?}");
        let kinds: BTreeSet<String> =
            plans.iter().flat_map(|p| &p.vendor).map(|f| format!("{}{}", f["kind"], f["when"])).collect();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
    }

    #[test]
    fn without_redis_nothing_of_it_is_planned() {
        for seed in 0..100 {
            let plan = Plan::new(seed, false);
            assert!(plan.creates.iter().all(|c| c.senders.iter().all(|g| *g == 0)));
            let text = format!("{:?}", plan.blows);
            assert!(!text.contains("Redis") && !text.contains("Script") && !plan.wants_replica(), "{text}");
        }
    }
}
