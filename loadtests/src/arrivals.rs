//! When requests are due: planned before the first is sent, from a rate and a seed, and never changed by how the
//! server behaves.

use std::time::Duration;

use serde::Deserialize;

/// How the gaps between requests are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Process {
    /// Equal gaps.
    Constant,
    /// Exponential gaps: independent callers, bursts included.
    Poisson,
}

/// A plan of arrivals: yields the offset of each from the start, in order, below `length`.
#[derive(Debug, Clone)]
pub struct Arrivals {
    process: Process,
    gap_seconds: f64,
    length_seconds: f64,
    next_seconds: f64,
    state: u64,
}

impl Arrivals {
    /// A plan for `length` at `rate_per_second`; the same seed gives the same plan. A rate that is not positive and
    /// finite plans nothing.
    #[must_use]
    pub fn new(process: Process, rate_per_second: f64, length: Duration, seed: u64) -> Self {
        let usable = rate_per_second.is_finite() && rate_per_second > 0.0;
        let mut plan = Self {
            process,
            gap_seconds: if usable { 1.0 / rate_per_second } else { f64::INFINITY },
            length_seconds: length.as_secs_f64(),
            next_seconds: 0.0,
            state: seed,
        };
        plan.next_seconds = plan.gap();
        plan
    }

    fn gap(&mut self) -> f64 {
        match self.process {
            Process::Constant => self.gap_seconds,
            // 1 - u lies in (0, 1], so the logarithm is finite.
            Process::Poisson => -(1.0 - self.uniform()).ln() * self.gap_seconds,
        }
    }

    /// An even draw from [0, 1). `SplitMix64`: the plan must not change when a crate changes its generator.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let draw = (z >> 11) as f64;
        draw / 9_007_199_254_740_992.0
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.next_seconds >= self.length_seconds {
            return None;
        }
        let at = Duration::from_secs_f64(self.next_seconds);
        self.next_seconds += self.gap();
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn constant_arrivals_keep_the_rate() {
        let plan: Vec<_> = Arrivals::new(Process::Constant, 100.0, Duration::from_secs(1), 1).collect();
        assert_eq!(plan.len(), 99, "the first is due after one gap, the hundredth at the end, which is outside");
        assert_eq!(plan[0], Duration::from_millis(10));
        assert!(plan.windows(2).all(|w| (w[1] - w[0]).as_micros().abs_diff(10_000) <= 1));
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_spread_of_an_exponential() {
        let plan: Vec<_> = Arrivals::new(Process::Poisson, 500.0, MINUTE, 7).collect();
        let count = plan.len();
        // 30,000 expected with a standard deviation of 173: five of them.
        assert!(count.abs_diff(30_000) < 870, "{count}");
        let gaps: Vec<f64> = plan.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let spread = variance.sqrt() / mean;
        assert!((0.95..1.05).contains(&spread), "an exponential's deviation equals its mean: {spread}");
        assert!(plan.is_sorted());
    }

    #[test]
    fn a_seed_fixes_the_plan() {
        let plan = |seed| Arrivals::new(Process::Poisson, 50.0, MINUTE, seed).collect::<Vec<_>>();
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
    }

    #[test]
    fn an_impossible_rate_plans_nothing() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Arrivals::new(Process::Poisson, rate, MINUTE, 1).count(), 0, "{rate}");
        }
    }
}
