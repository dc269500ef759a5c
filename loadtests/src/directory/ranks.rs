//! The test of Mann and Whitney: do two samples come from one distribution?

/// What the test says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    /// Standard deviations between the sum of ranks and what is expected of it.
    pub(super) z: f64,
    /// Probability of so large a difference if there is none, two-sided.
    pub(super) p: f64,
}

/// Compares two samples by their ranks, ties at their middle rank, with the normal approximation that is good from twenty
/// values each.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn mann_whitney(one: &[u64], other: &[u64]) -> Verdict {
    let mut all: Vec<(u64, bool)> = one.iter().map(|v| (*v, true)).chain(other.iter().map(|v| (*v, false))).collect();
    all.sort_unstable();
    let (n, m) = (one.len() as f64, other.len() as f64);
    let (mut ranks, mut ties, mut at) = (0.0, 0.0, 0_usize);
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let len = group.len() as f64;
        let middle = at as f64 + (len + 1.0) / 2.0;
        ranks += middle * group.iter().filter(|(_, of_one)| *of_one).count() as f64;
        ties += len * len * len - len;
        at += group.len();
    }
    let u = ranks - n * (n + 1.0) / 2.0;
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)).max(1.0));
    let z = if variance > 0.0 { (u - n * m / 2.0) / variance.sqrt() } else { 0.0 };
    Verdict { z, p: erfc(z.abs() / std::f64::consts::SQRT_2) }
}

/// The complementary error function (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; error below
/// 1.5e-7).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    poly.iter().fold(0.0, |sum, c| sum * t + c) * t * (-x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_samples_are_equal_and_shifted_ones_are_not() {
        let sample = |shift: u64| -> Vec<u64> { (0..500_u64).map(|n| n * 7919 % 1000 + shift).collect() };
        let same = mann_whitney(&sample(0), &sample(0));
        assert!(same.z.abs() < 1e-9 && same.p > 0.999, "{same:?}");
        let shifted = mann_whitney(&sample(0), &sample(100));
        assert!(shifted.z < -3.0 && shifted.p < 0.003, "{shifted:?}");
        assert_eq!(mann_whitney(&[5; 30], &[5; 30]).z, 0.0, "nothing but ties");
    }

    #[test]
    fn the_probabilities_are_those_of_the_tables() {
        for (z, p) in [(0.0, 1.0), (1.0, 0.317_31), (1.96, 0.049_996), (3.0, 0.002_700)] {
            assert!((erfc(z / std::f64::consts::SQRT_2) - p).abs() < 1e-5, "{z}");
        }
    }
}
