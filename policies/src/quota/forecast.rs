//! When a quota will be used up, if things go on as they did: a straight line through what was left of it lately.
//!
//! What is *left* is what a first instance could still take ([`super::tree::Stand::available`]), so that limits, borrowing
//! and what others do to a shared pool are all in it. A line through too little, or through what does not fall, says
//! nothing, and one that ends in the far future says nothing that is worth being told.

/// Looks below which a line is drawn through chance.
pub const SAMPLES_MIN: usize = 5;
/// Seconds that the looks must span: shorter than a rollout of some instances, a line is steep or flat by chance.
pub const SPAN_MIN_S: u64 = 240;
/// Farthest that is told, seconds: a month. Nobody's hour says more.
pub const HORIZON_S: u64 = 31 * 86_400;

/// What was left at a moment, seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: u64,
    /// What was left.
    pub left: u64,
}

/// How it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forecast {
    /// Used up so many seconds after the last look.
    In(u64),
    /// Nothing can be told.
    Unknown(Why),
}

/// Why nothing can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There were too few looks, or in too short a time.
    TooFewSamples,
    /// What is left does not fall.
    NotFalling,
    /// It would last longer than [`HORIZON_S`].
    TooFar,
}

impl Why {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooFewSamples => "too-few-samples",
            Self::NotFalling => "not-falling",
            Self::TooFar => "too-far",
        }
    }
}

/// How fast what is left falls, per hour, and how long the last of it lasts. Samples are in the order of time.
#[must_use]
pub fn forecast(samples: &[Sample]) -> (u64, Forecast) {
    let unknown = |why| (0, Forecast::Unknown(why));
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return unknown(Why::TooFewSamples) };
    if samples.len() < SAMPLES_MIN || last.at.saturating_sub(first.at) < SPAN_MIN_S {
        return unknown(Why::TooFewSamples);
    }
    // The slope of least squares, as a fraction: exact, since a sample's numbers are below 2^47 and there are few.
    let (mut n, mut st, mut sl, mut stt, mut stl) = (0_i128, 0_i128, 0_i128, 0_i128, 0_i128);
    for Sample { at, left } in samples {
        let (t, l) = (i128::from(at.saturating_sub(first.at)), i128::from(*left));
        (n, st, sl, stt, stl) = (n + 1, st + t, sl + l, stt + t * t, stl + t * l);
    }
    let (falls, over) = (st * sl - n * stl, n * stt - st * st);
    if falls <= 0 || over <= 0 {
        return unknown(Why::NotFalling);
    }
    let per_hour = u64::try_from(falls.saturating_mul(3600) / over).unwrap_or(u64::MAX);
    let lasts = u64::try_from(i128::from(last.left).saturating_mul(over) / falls).unwrap_or(u64::MAX);
    (per_hour, if lasts > HORIZON_S { Forecast::Unknown(Why::TooFar) } else { Forecast::In(lasts) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(left: &[u64]) -> Vec<Sample> {
        left.iter().zip(0..).map(|(left, n)| Sample { at: 1_000 + n * 60, left: *left }).collect()
    }

    #[test]
    fn a_line_needs_enough_that_falls() {
        let of = |left: &[u64]| forecast(&samples(left)).1;
        assert_eq!(of(&[]), Forecast::Unknown(Why::TooFewSamples));
        assert_eq!(of(&[9, 8, 7, 6]), Forecast::Unknown(Why::TooFewSamples));
        let at_once: Vec<Sample> = (0..9).map(|n| Sample { at: n, left: 9 - n }).collect();
        assert_eq!(forecast(&at_once).1, Forecast::Unknown(Why::TooFewSamples));
        assert_eq!(of(&[9, 9, 9, 9, 9]), Forecast::Unknown(Why::NotFalling));
        assert_eq!(of(&[5, 6, 7, 8, 9]), Forecast::Unknown(Why::NotFalling));
        assert_eq!(of(&[0, 0, 0, 0, 0]), Forecast::Unknown(Why::NotFalling), "it is used up; nothing is to come");
        assert_eq!(forecast(&samples(&[9, 8, 7, 6, 5])), (60, Forecast::In(300)));
        assert_eq!(forecast(&samples(&[9, 9, 8, 8, 8])), (18, Forecast::In(1_600)), "what jumps is evened out");
        assert_eq!(of(&[1 << 45, 1 << 45, 1 << 45, 1 << 45, (1 << 45) - 1]), Forecast::Unknown(Why::TooFar));
    }

    proptest! {
        #[test]
        fn a_steady_fall_is_told_to_the_second(per_minute in 1..1_000_u64, minutes in 5..40_000_u64, n in 5..60_u64) {
            let samples: Vec<Sample> =
                (0..n).map(|k| Sample { at: k * 60, left: (minutes + n - 1 - k) * per_minute }).collect();
            prop_assert_eq!(forecast(&samples), (per_minute * 60, Forecast::In(minutes * 60)));
        }
    }
}
