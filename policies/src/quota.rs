//! Quota arithmetic: `usage + charge <= limits`, in every dimension.
//!
//! The ledger calls this inside its atomic step; nothing else changes usage. Rules that hold throughout:
//! - A charge either fits in all dimensions or changes none.
//! - Only dimensions that grow are checked: a limit set below the usage stops new charges of that dimension
//!   and hinders nothing else, least of all a release.
//! - Usage never goes below zero and never wraps; without a limit the largest number we can count is one.
//!
//! Where a charge lies says [`parts`]; how a tenant's quota is divided among its projects and places, [`tree`]; what it
//! may cost in a month, [`spend`]; who gives back what was borrowed, [`reclaim`]; when it
//! will be used up, [`forecast`].

pub mod forecast;
#[cfg(any(test, feature = "conformance"))]
pub mod judge;
pub mod parts;
pub mod reclaim;
pub mod spend;
pub mod tree;

use meridian_model::{
    error::QuotaShortage,
    instance::{InstanceSpec, Shape},
    operation::{Charge, QuotaLimits},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
};

/// One dimension of a quota. The order of [`DIMENSIONS`] is the order in which a shortage is reported.
struct Dimension {
    name: &'static str,
    amount: fn(&Charge) -> u64,
    limit: fn(&QuotaLimits) -> Option<u64>,
    text: fn(u64) -> String,
}

const DIMENSIONS: [Dimension; 5] = [
    Dimension { name: "instances", amount: |c| c.instances, limit: |l| l.instances, text: |n| n.to_string() },
    Dimension { name: "cpu", amount: |c| c.cpu.0, limit: |l| l.cpu.map(|n| n.0), text: |n| MilliCpu(n).to_string() },
    Dimension {
        name: "memory",
        amount: |c| c.memory.0,
        limit: |l| l.memory.map(|n| n.0),
        text: |n| MemoryMib(n).to_string(),
    },
    Dimension { name: "gpu", amount: |c| c.gpu, limit: |l| l.gpu, text: |n| n.to_string() },
    Dimension { name: "publicIps", amount: |c| c.public_ips, limit: |l| l.public_ips, text: |n| n.to_string() },
];

/// Combines two charges dimension by dimension.
fn zip(a: &Charge, b: &Charge, f: impl Fn(u64, u64) -> u64) -> Charge {
    Charge {
        instances: f(a.instances, b.instances),
        cpu: MilliCpu(f(a.cpu.0, b.cpu.0)),
        memory: MemoryMib(f(a.memory.0, b.memory.0)),
        gpu: f(a.gpu, b.gpu),
        public_ips: f(a.public_ips, b.public_ips),
        disk: MemoryMib(f(a.disk.0, b.disk.0)),
        cost: PricePerHour(f(a.cost.0, b.cost.0)),
    }
}

/// What an instance takes beside its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    /// A public address.
    pub public_ip: bool,
    /// Disk space that was asked for.
    pub disk: MemoryMib,
    /// Its price per hour; nothing where it is not known.
    pub cost: PricePerHour,
}

impl Beside {
    /// What a spec asks for; the price is not known yet.
    #[must_use]
    pub fn of(spec: &InstanceSpec) -> Self {
        Self { public_ip: spec.network.public_ip.is_some(), disk: spec.disk(), cost: PricePerHour::default() }
    }

    /// The same at a price.
    #[must_use]
    pub fn at(self, price: Option<PricePerHour>) -> Self {
        Self { cost: price.unwrap_or_default(), ..self }
    }
}

/// What one instance of this size costs a quota: one instance, its vCPU (thousandths), memory (MiB), GPUs, and what it
/// takes beside.
#[must_use]
pub fn charge_of(shape: &Shape, beside: Beside) -> Charge {
    Charge {
        instances: 1,
        cpu: shape.cpu,
        memory: shape.memory,
        gpu: u64::from(shape.gpu_count),
        public_ips: u64::from(beside.public_ip),
        disk: beside.disk,
        cost: beside.cost,
    }
}

/// The usage after a charge.
///
/// # Errors
/// The first dimension that `add` would take past its limit, in the order instances, cpu, memory, gpu, public
/// addresses. Nothing is charged then.
pub fn charge(used: Charge, add: Charge, limits: &QuotaLimits) -> Result<Charge, Box<QuotaShortage>> {
    for dimension in &DIMENSIONS {
        let (have, more) = ((dimension.amount)(&used), (dimension.amount)(&add));
        let limit = (dimension.limit)(limits).unwrap_or(u64::MAX);
        let fits = more == 0 || have.checked_add(more).is_some_and(|sum| sum <= limit);
        if !fits {
            return Err(Box::new(QuotaShortage {
                dimension: dimension.name.to_owned(),
                limit: (dimension.text)(limit),
                used: (dimension.text)(have),
                requested: (dimension.text)(more),
                ..QuotaShortage::default()
            }));
        }
    }
    Ok(zip(&used, &add, u64::saturating_add))
}

/// The usage after a charge was given back; never below zero.
#[must_use]
pub fn release(used: Charge, give_back: Charge) -> Charge {
    zip(&used, &give_back, u64::saturating_sub)
}

/// The larger of two charges in each dimension: what covers either.
#[must_use]
pub fn max(a: Charge, b: Charge) -> Charge {
    zip(&a, &b, u64::max)
}

/// What two things take together; as large as can be counted where it is more.
#[must_use]
pub fn sum(a: Charge, b: Charge) -> Charge {
    zip(&a, &b, u64::saturating_add)
}

/// The smaller of two charges in each dimension.
#[must_use]
pub fn min(a: Charge, b: Charge) -> Charge {
    zip(&a, &b, u64::min)
}

/// What is left under the limits; `None` where there is no limit, zero where the usage is past it.
#[must_use]
pub fn headroom(used: &Charge, limits: &QuotaLimits) -> QuotaLimits {
    QuotaLimits {
        instances: limits.instances.map(|l| l.saturating_sub(used.instances)),
        cpu: limits.cpu.map(|l| MilliCpu(l.0.saturating_sub(used.cpu.0))),
        memory: limits.memory.map(|l| MemoryMib(l.0.saturating_sub(used.memory.0))),
        gpu: limits.gpu.map(|l| l.saturating_sub(used.gpu)),
        public_ips: limits.public_ips.map(|l| l.saturating_sub(used.public_ips)),
    }
}

/// How one charge becomes another; in each dimension at most one of the two parts is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// What must fit under the limits.
    pub increase: Charge,
    /// What is given back.
    pub decrease: Charge,
}

/// The way from a record's present charge to its next one.
#[must_use]
pub fn difference(from: Charge, to: Charge) -> Change {
    Change { increase: release(to, from), decrease: release(from, to) }
}

/// The usage after a change: the increase is checked, the decrease never fails.
///
/// # Errors
/// The first dimension whose increase passes its limit; nothing is changed then.
pub fn apply(used: Charge, change: &Change, limits: &QuotaLimits) -> Result<Charge, Box<QuotaShortage>> {
    charge(used, change.increase, limits).map(|grown| release(grown, change.decrease))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0_u64..50, 1 => Just(u64::MAX), 1 => any::<u64>()]
    }

    fn charges() -> impl Strategy<Value = Charge> {
        (amount(), amount(), amount(), amount(), amount()).prop_map(|(instances, cpu, memory, gpu, public_ips)| {
            let (disk, cost) = (MemoryMib(instances), PricePerHour(gpu));
            Charge { instances, cpu: MilliCpu(cpu), memory: MemoryMib(memory), gpu, public_ips, disk, cost }
        })
    }

    fn limits() -> impl Strategy<Value = QuotaLimits> {
        let one = || proptest::option::of(amount());
        (one(), one(), one(), one(), one()).prop_map(|(instances, cpu, memory, gpu, public_ips)| QuotaLimits {
            instances,
            cpu: cpu.map(MilliCpu),
            memory: memory.map(MemoryMib),
            gpu,
            public_ips,
        })
    }

    fn web() -> Charge {
        let shape = Shape { cpu: MilliCpu(1500), memory: MemoryMib(2048), gpu_type: Some("T4".into()), gpu_count: 2 };
        charge_of(&shape, Beside { public_ip: true, ..Beside::default() })
    }

    #[test]
    fn a_shortage_names_the_first_dimension_in_canonical_text() {
        let none = QuotaLimits::default();
        let cases = [
            (QuotaLimits { instances: Some(1), cpu: Some(MilliCpu(0)), ..none }, "instances", "1", "1", "1"),
            (QuotaLimits { cpu: Some(MilliCpu(2000)), ..none }, "cpu", "2", "1500m", "1500m"),
            (QuotaLimits { memory: Some(MemoryMib(3072)), ..none }, "memory", "3Gi", "2Gi", "2Gi"),
            (QuotaLimits { gpu: Some(3), ..none }, "gpu", "3", "2", "2"),
            (QuotaLimits { public_ips: Some(1), ..none }, "publicIps", "1", "1", "1"),
        ];
        for (limits, dimension, limit, used, requested) in cases {
            let shortage = charge(web(), web(), &limits).unwrap_err();
            assert_eq!(
                (&*shortage.dimension, &*shortage.limit, &*shortage.used, &*shortage.requested),
                (dimension, limit, used, requested)
            );
        }
        assert!(charge(web(), web(), &none).is_ok());
    }

    #[test]
    fn exactly_the_quota_is_admitted() {
        let limits = QuotaLimits { instances: Some(37), ..QuotaLimits::default() };
        let one = charge_of(&Shape::default(), Beside::default());
        let mut used = Charge::default();
        let mut admitted = 0;
        for _ in 0..100 {
            if let Ok(next) = charge(used, one, &limits) {
                used = next;
                admitted += 1;
            }
        }
        assert_eq!((admitted, used.instances), (37, 37));
    }

    #[test]
    fn a_lowered_limit_hinders_only_its_own_dimension() {
        let used = Charge { gpu: 8, ..Charge::default() };
        let limits = QuotaLimits { gpu: Some(2), ..QuotaLimits::default() };
        assert!(charge(used, charge_of(&Shape::default(), Beside::default()), &limits).is_ok());
        assert!(apply(used, &difference(used, Charge { gpu: 7, ..used }), &limits).is_ok(), "shrinking is free");
    }

    proptest! {
        #[test]
        fn never_oversold(used in charges(), add in charges(), limits in limits()) {
            match charge(used, add, &limits) {
                Ok(sum) => for d in &DIMENSIONS {
                    let (before, more, after) = ((d.amount)(&used), (d.amount)(&add), (d.amount)(&sum));
                    prop_assert_eq!(u128::from(after), u128::from(before) + u128::from(more));
                    prop_assert!(more == 0 || after <= (d.limit)(&limits).unwrap_or(u64::MAX));
                },
                Err(shortage) => {
                    let d = DIMENSIONS.iter().find(|d| d.name == shortage.dimension).unwrap();
                    let sum = u128::from((d.amount)(&used)) + u128::from((d.amount)(&add));
                    prop_assert!(sum > u128::from((d.limit)(&limits).unwrap_or(u64::MAX)));
                }
            }
        }

        #[test]
        fn a_release_undoes_a_charge_and_never_goes_below_zero(used in charges(), add in charges()) {
            if let Ok(sum) = charge(used, add, &QuotaLimits::default()) {
                prop_assert_eq!(release(sum, add), used);
            }
            prop_assert_eq!(release(Charge::default(), add), Charge::default());
        }

        #[test]
        fn a_difference_leads_from_one_charge_to_the_other(from in charges(), to in charges()) {
            let change = difference(from, to);
            prop_assert_eq!(apply(from, &change, &QuotaLimits::default()), Ok(to));
            for d in &DIMENSIONS {
                prop_assert!((d.amount)(&change.increase) == 0 || (d.amount)(&change.decrease) == 0);
            }
        }

        #[test]
        fn the_larger_charge_covers_both(a in charges(), b in charges()) {
            let cover = max(a, b);
            prop_assert_eq!(difference(cover, a).increase, Charge::default());
            prop_assert_eq!(difference(cover, b).increase, Charge::default());
            prop_assert_eq!(cover, max(b, a));
        }

        #[test]
        fn what_fits_the_headroom_fits_the_limits(used in charges(), add in charges(), limits in limits()) {
            let left = headroom(&used, &limits);
            let fits_left = charge(Charge::default(), add, &left).is_ok();
            let counts = zip(&used, &add, |a, b| u64::from(a.checked_add(b).is_some())) == zip(&used, &add, |_, _| 1);
            if counts {
                prop_assert_eq!(fits_left, charge(used, add, &limits).is_ok());
            }
        }
    }
}
