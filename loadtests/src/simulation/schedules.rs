//! Directed schedules: histories whose faults are drawn from the few that a rare interleaving is made of. A search at
//! random over all faults meets these too seldom to say anything about what defends against them.
//!
//! Seven seeds in sixteen are directed ([`Directed::of_seed`]); a mutant may ask for one in all of its seeds. What ordinary
//! faults make often enough comes only when it is asked for.

use meridian_cloudsim::core::{FaultInput, Rng, Vendor};

use super::{
    clouds::{LATE_EFFECT_MS_MAX, REGIONS},
    faults::{self, CALM_FROM_MS, Caught, FAULTS_FROM_MS, Fault, Planned, between},
};

/// What the faults of a history are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Directed {
    /// A gateway is not run from between journal and send until after another one has taken over and concluded.
    Frozen,
    /// A gateway dies, and what it sent arrives after another one has taken over and concluded.
    Late,
    /// Redis fails over and loses writes right after a delete was accepted, with creates in doubt.
    Undone,
    /// A region goes silent for longer than the effect bound.
    Silent,
    /// The same, while it refuses creates to its account as a whole, some of which are in doubt.
    Denied,
    /// Creates without client tokens are answered with an error, and take effect after the first look-ups.
    Delayed,
    /// Gateways die as soon as their create has made an instance, for long enough to be taken over from.
    Killed,
}

/// Taking over, looking for as long as the effect bound and the longest wait between two looks.
const CONCLUDED_MS: (u64, u64) = (28_000, 44_000);
/// From the journal on until a request is under way: a connection may have to be made first.
const UNDER_WAY_MS: (u64, u64) = (15, 70);
/// What needs so long begins before this.
const BEGUN_BY_MS: u64 = 16_000;
/// How long after its request a create takes effect, when it does so late: at least some look-ups come before it.
const DELAY_MS: (u64, u64) = (800, LATE_EFFECT_MS_MAX);
/// Replies are lost for so long before their region refuses everything.
const DOUBTS_MS: (u64, u64) = (500, 4_000);
/// Clients begin before this.
const BUSY_UNTIL_MS: u64 = 40_000;
/// A lease and more.
const TAKEN_OVER_MS: (u64, u64) = (7_000, 14_000);
/// Ordinary faults beside those of the schedule.
const ORDINARY_MAX: u64 = 2;

impl Directed {
    /// The schedule of a seed that none was asked for.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Option<Self> {
        match seed % 16 {
            5 | 13 => Some(Self::Frozen),
            6 => Some(Self::Late),
            7 | 15 => Some(Self::Undone),
            14 => Some(Self::Silent),
            12 => Some(Self::Denied),
            _ => None,
        }
    }

    /// The faults of a seed under this schedule, by time.
    #[must_use]
    pub fn plan(self, seed: u64) -> Vec<Planned> {
        let mut rng = Rng::new(seed ^ 0x6469_7265_6374);
        let mut all: Vec<Planned> = faults::plan(seed);
        all.truncate(usize::try_from(rng.below(ORDINARY_MAX + 1)).unwrap_or(0));
        match self {
            Self::Frozen => all.extend(frozen(&mut rng)),
            Self::Late => all.extend(late(&mut rng)),
            Self::Undone => all.extend(undone(&mut rng)),
            Self::Silent => all.extend(silent(&mut rng)),
            Self::Denied => all.extend(denied(&mut rng)),
            Self::Delayed => all.extend(delayed(&mut rng)),
            Self::Killed => all.extend(killed(&mut rng)),
        }
        all.sort_by_key(|p| p.at_ms);
        all
    }

    /// What arguments call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Late => "late",
            Self::Undone => "undone",
            Self::Silent => "silent",
            Self::Denied => "denied",
            Self::Delayed => "delayed",
            Self::Killed => "killed",
        }
    }

    /// How probable it is that a client deletes before it knows, each time it asks.
    #[must_use]
    pub const fn haste(schedule: Option<Self>) -> f64 {
        match schedule {
            Some(Self::Undone) => 0.3,
            Some(Self::Frozen | Self::Late | Self::Silent | Self::Denied | Self::Delayed | Self::Killed) | None => 0.04,
        }
    }
}

fn count(rng: &mut Rng, range: (u64, u64)) -> usize {
    usize::try_from(between(rng, range)).unwrap_or(1)
}

fn frozen(rng: &mut Rng) -> Vec<Planned> {
    let gateway = count(rng, (0, 1));
    // One stall: what is armed meanwhile waits with it. The other gateway must live.
    let what = Caught::Stall { ms: between(rng, CONCLUDED_MS) };
    vec![Planned {
        at_ms: between(rng, (FAULTS_FROM_MS, BEGUN_BY_MS)),
        fault: Fault::AtArm { gateway, after: count(rng, (1, 2)), what },
    }]
}

fn late(rng: &mut Rng) -> Vec<Planned> {
    let gateway = count(rng, (0, 1));
    (0..2)
        .map(|_| {
            // It stays away until another one has concluded: it could not, without this region.
            let (ms, down_ms) = (between(rng, CONCLUDED_MS), between(rng, CONCLUDED_MS));
            let what = Caught::Held { after_ms: between(rng, UNDER_WAY_MS), ms, down_ms };
            let at_ms = between(rng, (FAULTS_FROM_MS, BEGUN_BY_MS));
            Planned { at_ms, fault: Fault::AtArm { gateway, after: count(rng, (1, 2)), what } }
        })
        .collect()
}

fn undone(rng: &mut Rng) -> Vec<Planned> {
    let doubts = REGIONS.map(|region| {
        let input = FaultInput {
            kind: "replyLost".to_owned(),
            region: Some(region.name.to_owned()),
            action: Some("Create*".to_owned()),
            for_ms: i64::try_from(between(rng, (8_000, 20_000))).ok(),
            ..FaultInput::default()
        };
        Planned { at_ms: between(rng, (FAULTS_FROM_MS, 24_000)), fault: Fault::Cloud(Box::new(input)) }
    });
    let failovers = (0..2).map(|_| {
        let (lost, down_ms) = (count(rng, (1, 3)), between(rng, (50, 1_000)));
        let at_ms = between(rng, (FAULTS_FROM_MS, CALM_FROM_MS - 20_000));
        Planned { at_ms, fault: Fault::FailoverAtDelete { lost, down_ms } }
    });
    let failovers: Vec<_> = failovers.collect();
    doubts.into_iter().chain(failovers).collect()
}

/// A rule for the only vendor that shows nothing to who may not list.
fn hiding(kind: &str, action: Option<&str>, (from_ms, for_ms): (u64, u64)) -> Planned {
    let hides = REGIONS.iter().find(|r| r.vendor == Vendor::AlibabaEci);
    let input = FaultInput {
        kind: kind.to_owned(),
        region: hides.map(|r| r.name.to_owned()),
        action: action.map(str::to_owned),
        for_ms: i64::try_from(for_ms).ok(),
        ..FaultInput::default()
    };
    Planned { at_ms: from_ms, fault: Fault::Cloud(Box::new(input)) }
}

fn silent(rng: &mut Rng) -> Vec<Planned> {
    let for_ms = between(rng, CONCLUDED_MS);
    vec![hiding("emptyList", None, (between(rng, (FAULTS_FROM_MS, BEGUN_BY_MS)), for_ms))]
}

fn denied(rng: &mut Rng) -> Vec<Planned> {
    let (lost_ms, refused_ms) = (between(rng, DOUBTS_MS), between(rng, CONCLUDED_MS));
    let from_ms = between(rng, (FAULTS_FROM_MS, BEGUN_BY_MS));
    vec![
        hiding("replyLost", Some("Create*"), (from_ms, lost_ms)),
        hiding("emptyList", None, (from_ms, lost_ms + refused_ms)),
        hiding("unauthenticated", Some("Create*"), (from_ms + lost_ms, refused_ms)),
    ]
}

fn delayed(rng: &mut Rng) -> Vec<Planned> {
    // The vendor without client tokens: a repetition makes a second instance.
    let nameless = REGIONS.into_iter().filter(|r| r.vendor == Vendor::TencentEksci);
    nameless
        .map(|region| {
            let input = FaultInput {
                kind: "lateEffect".to_owned(),
                region: Some(region.name.to_owned()),
                action: Some("Create*".to_owned()),
                probability: Some(0.7),
                after_ms: i64::try_from(between(rng, DELAY_MS)).ok(),
                reply: Some("serverError".to_owned()),
                for_ms: i64::try_from(BUSY_UNTIL_MS).ok(),
                ..FaultInput::default()
            };
            Planned { at_ms: FAULTS_FROM_MS, fault: Fault::Cloud(Box::new(input)) }
        })
        .collect()
}

fn killed(rng: &mut Rng) -> Vec<Planned> {
    (0..4)
        .map(|gateway| {
            let (after, down_ms) = (count(rng, (1, 2)), between(rng, TAKEN_OVER_MS));
            let at_ms = between(rng, (FAULTS_FROM_MS, BUSY_UNTIL_MS));
            Planned { at_ms, fault: Fault::CrashAtCreate { gateway, after, down_ms } }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_directed_seed_is_one_plan_with_the_faults_of_its_schedule() {
        for (schedule, kind) in [
            (Directed::Frozen, "stall before a send"),
            (Directed::Late, "request held, sender dead"),
            (Directed::Undone, "redis failover with loss at a delete"),
            (Directed::Silent, "cloud: emptyList"),
            (Directed::Denied, "cloud: unauthenticated"),
            (Directed::Delayed, "cloud: lateEffect"),
            (Directed::Killed, "crash at a create"),
        ] {
            for seed in 1..50 {
                let plan = schedule.plan(seed);
                assert_eq!(plan, schedule.plan(seed));
                assert!(plan.iter().any(|p| p.fault.kind() == kind), "{schedule:?} {seed}: {plan:?}");
                assert!(plan.is_sorted_by_key(|p| p.at_ms));
            }
        }
    }

    #[test]
    fn ordinary_seeds_come_by_what_faults_seldom_make() {
        let all: BTreeSet<String> = (1..=16).map(|seed| format!("{:?}", Directed::of_seed(seed))).collect();
        assert_eq!(all.len(), 6);
    }
}
