//! Sizes: the vendors' CPU/memory tables, rounding up, instance types, the stock key of a size.

use super::types::Vendor;

/// A row: vCPU and the GiB sizes sold with it, ascending.
type Row = (f64, &'static [f64]);

/// EKSCI: pay-as-you-go pods of the same platform (vendor-api README 2.7, document; for EKSCI itself unverified).
/// Ranges "in steps of 1" are kept as ranges, see [`steps`].
const TENCENT: &[Row] = &[
    (0.25, &[0.5, 1.0, 2.0]),
    (0.5, &[1.0, 2.0, 3.0, 4.0]),
    (1.0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
    (2.0, &[4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]),
    (4.0, STEPS_8_32),
    (8.0, STEPS_16_32),
    (12.0, STEPS_24_48),
    (16.0, STEPS_32_64),
    (32.0, &[64.0, 128.0, 256.0]),
    (64.0, &[128.0, 192.0, 256.0, 512.0]),
];

const STEPS: [f64; 65] = {
    let mut all = [0.0; 65];
    let mut i = 0;
    while i < 65 {
        #[expect(clippy::indexing_slicing, reason = "constant evaluation, bounded by the loop")]
        {
            all[i] = i as f64;
        }
        i += 1;
    }
    all
};
const STEPS_8_32: &[f64] = steps(8, 32);
const STEPS_16_32: &[f64] = steps(16, 32);
const STEPS_24_48: &[f64] = steps(24, 48);
const STEPS_32_64: &[f64] = steps(32, 64);

/// `from..=to` GiB in steps of one.
const fn steps(from: usize, to: usize) -> &'static [f64] {
    let (_, tail) = STEPS.split_at(from);
    let (range, _) = tail.split_at(to - from + 1);
    range
}

/// ECI: `constraints.cpu_memory_specs_all_regions` of alibaba-eci.json (document).
const ALIBABA: &[Row] = &[
    (0.25, &[0.5, 1.0]),
    (0.5, &[1.0, 2.0]),
    (1.0, &[2.0, 4.0, 8.0]),
    (2.0, &[1.0, 2.0, 4.0, 8.0, 16.0]),
    (4.0, &[2.0, 4.0, 8.0, 16.0, 32.0]),
    (8.0, &[4.0, 8.0, 16.0, 32.0, 64.0]),
    (12.0, &[12.0, 24.0, 48.0, 96.0]),
    (16.0, &[16.0, 32.0, 64.0, 128.0]),
    (24.0, &[24.0, 48.0, 96.0, 192.0]),
    (32.0, &[32.0, 64.0, 128.0, 256.0]),
    (52.0, &[96.0, 192.0, 384.0]),
    (64.0, &[128.0, 256.0, 512.0]),
];

/// ECI without any size: 2 vCPU, 4 GiB (vendor-api README 4.5).
pub const ALIBABA_DEFAULT: (f64, f64) = (2.0, 4.0);

fn table(vendor: Vendor) -> &'static [Row] {
    match vendor {
        Vendor::TencentEksci => TENCENT,
        Vendor::AlibabaEci => ALIBABA,
    }
}

/// The smallest size sold that is not below the one asked for, or `None` if nothing fits. Only finite sizes fit.
#[must_use]
pub fn round_spec(vendor: Vendor, cpu: f64, memory_gib: f64) -> Option<(f64, f64)> {
    table(vendor)
        .iter()
        .filter(|(row_cpu, _)| *row_cpu >= cpu)
        .find_map(|(row_cpu, sizes)| sizes.iter().find(|size| **size >= memory_gib).map(|size| (*row_cpu, *size)))
}

/// All sizes the vendor sells, for prices and stock listings.
pub fn all_specs(vendor: Vendor) -> impl Iterator<Item = (f64, f64)> {
    table(vendor).iter().flat_map(|(cpu, sizes)| sizes.iter().map(move |size| (*cpu, *size)))
}

/// How stock, faults and the control API name a size: `2-4`, `0.25-0.5`, with GPU `8-32-T4x1`.
#[must_use]
pub fn spec_key(cpu: f64, memory_gib: f64, gpu_type: Option<&str>, gpu_count: u32) -> String {
    match gpu_type {
        Some(gpu) if gpu_count > 0 => format!("{cpu}-{memory_gib}-{gpu}x{gpu_count}"),
        Some(_) | None => format!("{cpu}-{memory_gib}"),
    }
}

/// Whether a text is `*` or names a size as [`spec_key`] writes it. A rule for `2.0-4` would silently match nothing.
#[must_use]
pub fn is_spec_key(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let canonical = |part: Option<&str>| {
        part.is_some_and(|p| p.parse::<f64>().is_ok_and(|n| n.is_finite() && n > 0.0 && n.to_string() == p))
    };
    text == "*"
        || (canonical(parts.next()) && canonical(parts.next()) && parts.next().is_none_or(|gpu| !gpu.is_empty()))
}

/// An ECS instance type that ECI can run on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceType {
    /// `ecs.<family>.<size>`.
    pub name: &'static str,
    /// vCPU.
    pub cpu: f64,
    /// GiB.
    pub memory_gib: f64,
    /// GPU model, if any.
    pub gpu_type: Option<&'static str>,
    /// Number of GPUs.
    pub gpu_count: u32,
}

const fn itype(name: &'static str, cpu: f64, memory_gib: f64, gpu: Option<&'static str>, count: u32) -> InstanceType {
    InstanceType { name, cpu, memory_gib, gpu_type: gpu, gpu_count: count }
}

/// A few types, sizes as Alibaba's ECS family pages list them; the list is not the vendor's whole one.
pub const INSTANCE_TYPES: &[InstanceType] = &[
    itype("ecs.c6.large", 2.0, 4.0, None, 0),
    itype("ecs.c6.xlarge", 4.0, 8.0, None, 0),
    itype("ecs.c6.2xlarge", 8.0, 16.0, None, 0),
    itype("ecs.g6.large", 2.0, 8.0, None, 0),
    itype("ecs.g6.xlarge", 4.0, 16.0, None, 0),
    itype("ecs.r6.large", 2.0, 16.0, None, 0),
    itype("ecs.gn6i-c4g1.xlarge", 4.0, 15.0, Some("T4"), 1),
    itype("ecs.gn6i-c8g1.2xlarge", 8.0, 31.0, Some("T4"), 1),
    itype("ecs.gn6v-c8g1.2xlarge", 8.0, 32.0, Some("V100"), 1),
    itype("ecs.gn7i-c8g1.2xlarge", 8.0, 30.0, Some("A10"), 1),
];

/// Looks an ECS instance type up by its full name.
#[must_use]
pub fn instance_type(name: &str) -> Option<&'static InstanceType> {
    INSTANCE_TYPES.iter().find(|t| t.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_up_as_documented() {
        let check = |vendor, asked: (f64, f64), want: Option<(f64, f64)>| {
            assert_eq!(round_spec(vendor, asked.0, asked.1), want, "{vendor} {asked:?}");
        };
        // vendor-api README 4.5: 7 vCPU/13 GiB becomes 8/16 by the coarse table.
        check(Vendor::AlibabaEci, (7.0, 13.0), Some((8.0, 16.0)));
        check(Vendor::AlibabaEci, (2.0, 4.0), Some((2.0, 4.0)));
        check(Vendor::AlibabaEci, (0.1, 0.1), Some((0.25, 0.5)));
        check(Vendor::AlibabaEci, (65.0, 1.0), None);
        check(Vendor::TencentEksci, (2.0, 4.0), Some((2.0, 4.0)));
        check(Vendor::TencentEksci, (2.0, 1.0), Some((2.0, 4.0)));
        check(Vendor::TencentEksci, (3.0, 9.5), Some((4.0, 10.0)));
        check(Vendor::TencentEksci, (1.0, 600.0), None);
        check(Vendor::TencentEksci, (f64::NAN, 1.0), None);
    }

    #[test]
    fn keys_name_sizes_without_trailing_zeros() {
        assert_eq!(spec_key(2.0, 4.0, None, 0), "2-4");
        assert_eq!(spec_key(0.25, 0.5, None, 0), "0.25-0.5");
        assert_eq!(spec_key(8.0, 32.0, Some("1/4*T4"), 1), "8-32-1/4*T4x1");
        for good in ["*", "2-4", "0.25-0.5", "8-32-1/4*T4x1"] {
            assert!(is_spec_key(good), "{good}");
        }
        for bad in ["", "2", "2.0-4", "2-4-", "two-four", "2-4Gi", "-2-4", "inf-1", "NaN-1"] {
            assert!(!is_spec_key(bad), "{bad}");
        }
    }
}
