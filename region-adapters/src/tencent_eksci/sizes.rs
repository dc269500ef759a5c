//! Sizes that the vendor sells.

use meridian_model::{
    capability::SizeRow,
    quantity::{MemoryMib, MilliCpu},
};

use super::config::GpuSizeConfig;

/// Pay-as-you-go sizes of the platform's pods: thousandths of a vCPU, then memory in MiB as single sizes or
/// as a range in steps of 1 GiB (vendor document "resource specifications"; for EKSCI itself not verified).
const TABLE: [(u64, Memory); 10] = [
    (250, Memory::Sizes(&[512, 1 << 10, 2 << 10])),
    (500, Memory::GibRange(1, 4)),
    (1000, Memory::GibRange(1, 8)),
    (2000, Memory::GibRange(4, 16)),
    (4000, Memory::GibRange(8, 32)),
    (8000, Memory::GibRange(16, 32)),
    (12_000, Memory::GibRange(24, 48)),
    (16_000, Memory::GibRange(32, 64)),
    (32_000, Memory::Sizes(&[64 << 10, 128 << 10, 256 << 10])),
    (64_000, Memory::Sizes(&[128 << 10, 192 << 10, 256 << 10, 512 << 10])),
];

enum Memory {
    Sizes(&'static [u64]),
    GibRange(u64, u64),
}

/// The sizes without GPU.
pub(super) fn table() -> Vec<SizeRow> {
    let memory = |m: &Memory| match m {
        Memory::Sizes(mib) => mib.iter().copied().map(MemoryMib).collect(),
        Memory::GibRange(from, to) => (*from..=*to).map(|gib| MemoryMib(gib << 10)).collect(),
    };
    TABLE.iter().map(|(cpu, m)| SizeRow { cpu: MilliCpu(*cpu), memory: memory(m) }).collect()
}

/// GPU sizes when none are configured. The models are the vendor's (`GpuType` of the create action); vCPU and
/// memory are not verified and meant to be overridden.
pub(super) fn gpu_default() -> Vec<GpuSizeConfig> {
    let rows: [(&str, u32, u64, u64); 8] = [
        ("1/4*T4", 1, 4, 20),
        ("1/2*T4", 1, 10, 40),
        ("T4", 1, 8, 32),
        ("T4", 1, 20, 80),
        ("T4", 2, 40, 160),
        ("V100", 1, 8, 40),
        ("V100", 2, 18, 80),
        ("V100", 4, 36, 160),
    ];
    let size = |(gpu, gpu_count, cpu, gib): (&str, u32, u64, u64)| GpuSizeConfig {
        gpu_type: gpu.to_owned(),
        gpu_count,
        cpu: MilliCpu(cpu * 1000),
        memory: MemoryMib(gib << 10),
        vendor_name: None,
    };
    rows.into_iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_ascend() {
        let table = table();
        assert!(table.windows(2).all(|w| w[0].cpu < w[1].cpu));
        assert!(table.iter().all(|row| !row.memory.is_empty() && row.memory.windows(2).all(|w| w[0] < w[1])));
        assert_eq!(table[1].memory, [1, 2, 3, 4].map(|g| MemoryMib(g << 10)));
    }
}
