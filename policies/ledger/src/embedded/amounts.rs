//! Adding up charges, exactly or not at all.

use meridian_model::{
    operation::Charge,
    quantity::{MemoryMib, MilliCpu, PricePerHour},
};

/// Applies one operation to each dimension of two charges; `None` where any dimension leaves its range.
fn each(a: &Charge, b: &Charge, op: impl Fn(u64, u64) -> Option<u64>) -> Option<Charge> {
    Some(Charge {
        instances: op(a.instances, b.instances)?,
        cpu: MilliCpu(op(a.cpu.0, b.cpu.0)?),
        memory: MemoryMib(op(a.memory.0, b.memory.0)?),
        gpu: op(a.gpu, b.gpu)?,
        public_ips: op(a.public_ips, b.public_ips)?,
        disk: MemoryMib(op(a.disk.0, b.disk.0)?),
        cost: PricePerHour(op(a.cost.0, b.cost.0)?),
    })
}

/// The sum; `None` on overflow.
pub(super) fn sum(a: &Charge, b: &Charge) -> Option<Charge> {
    each(a, b, u64::checked_add)
}

/// The difference; `None` when any dimension would go below zero.
pub(super) fn difference(a: &Charge, b: &Charge) -> Option<Charge> {
    each(a, b, u64::checked_sub)
}

/// By how much each dimension of `a` exceeds `b`.
pub(super) fn excess(a: &Charge, b: &Charge) -> Charge {
    each(a, b, |a, b| Some(a.saturating_sub(b))).unwrap_or_default()
}
