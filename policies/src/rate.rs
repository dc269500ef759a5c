//! Token bucket as data, with exact integers.
//!
//! A bucket holds *credit* in units of one token divided by the milliseconds of the window, so that each
//! millisecond adds exactly the limit's quota of units: no fraction is ever rounded away and none drifts.
//! A bucket starts full. A clock that went back adds nothing and starves nobody: the bucket goes on from the
//! time it was last told.

pub mod named;
pub mod reserve;

use std::time::Duration;

use meridian_model::time::Time;

/// Longest window: one day in milliseconds. With it the largest bucket stays far below `u64::MAX` units.
const WINDOW_MS_MAX: u32 = 86_400_000;

/// Why a limit is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Nothing would ever be let through.
    #[error("quota and burst must be at least 1")]
    Zero,
    /// The window is outside of 1 ms to one day.
    #[error("the window must be between 1 ms and 24 h")]
    Window,
}

/// A rate with a burst: `quota` tokens per `window`, at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    quota: u32,
    window_ms: u32,
    burst: u32,
}

impl Limit {
    /// `quota` tokens per `window`, at most `burst` at once.
    ///
    /// # Errors
    /// [`LimitError`] when a number is zero or the window is longer than a day.
    pub fn new(quota: u32, window: Duration, burst: u32) -> Result<Self, LimitError> {
        if quota == 0 || burst == 0 {
            return Err(LimitError::Zero);
        }
        match u32::try_from(window.as_millis()) {
            Ok(window_ms @ 1..=WINDOW_MS_MAX) => Ok(Self { quota, window_ms, burst }),
            Ok(_) | Err(_) => Err(LimitError::Window),
        }
    }

    /// Tokens per window: `q` of the `RateLimit-Policy` header.
    #[must_use]
    pub const fn quota(&self) -> u32 {
        self.quota
    }

    /// The window: `w` of the `RateLimit-Policy` header.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms as u64)
    }

    /// Most tokens at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// The part of one of `n` equal holders of this limit: all parts together let through no more than the whole, but
    /// for the one token that each must be able to hold.
    #[must_use]
    pub fn divided(&self, n: u32) -> Self {
        let n = n.max(1);
        let burst = (self.burst / n).max(1);
        match self.window_ms.checked_mul(n).filter(|window| *window <= WINDOW_MS_MAX) {
            Some(window_ms) => Self { window_ms, burst, ..*self },
            None => Self { quota: (self.quota / n).max(1), burst, ..*self },
        }
    }

    /// The same rate with another burst.
    #[must_use]
    pub fn with_burst(&self, burst: u32) -> Self {
        Self { burst: burst.max(1), ..*self }
    }

    fn units(&self, tokens: u32) -> u64 {
        u64::from(tokens).saturating_mul(u64::from(self.window_ms))
    }

    /// Time in which so much credit flows in, rounded up to whole milliseconds.
    fn time_for(&self, units: u64) -> Duration {
        Duration::from_millis(units.div_ceil(u64::from(self.quota)))
    }
}

/// The answer of [`Bucket::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The tokens were taken.
    Taken {
        /// Whole tokens left: `r` of the `RateLimit` header.
        remaining: u32,
        /// Until the bucket is full again: `t` of the `RateLimit` header, to be rounded up to seconds.
        reset_after: Duration,
    },
    /// Not enough tokens; nothing was taken.
    Refused {
        /// Whole tokens left.
        remaining: u32,
        /// Until the same call would be let through if nobody else takes: `Retry-After`, and `t`.
        retry_after: Duration,
    },
    /// The cost is more than the burst: no waiting helps.
    TooLarge,
}

/// A bucket of one tenant, backend or peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    limit: Limit,
    credit: u64,
    updated: Time,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(limit: Limit, now: Time) -> Self {
        Self { limit, credit: limit.units(limit.burst), updated: now }
    }

    /// The limit in force.
    #[must_use]
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// Changes the limit. What there is stays, as far as the new burst holds it; of another window, in whole tokens. Who
    /// draw from one bucket at limits that differ a little, one after the other, take no part of a token from each other.
    pub fn set_limit(&mut self, limit: Limit, now: Time) {
        self.refill(now);
        let same_units = limit.window_ms == self.limit.window_ms;
        let credit = if same_units { self.credit } else { limit.units(self.remaining()) };
        *self = Self { limit, credit: credit.min(limit.units(limit.burst)), updated: now };
    }

    /// Takes `cost` tokens, or says when to come back.
    pub fn take(&mut self, cost: u32, now: Time) -> Take {
        if cost > self.limit.burst {
            return Take::TooLarge;
        }
        self.refill(now);
        let wanted = self.limit.units(cost);
        match self.credit.checked_sub(wanted) {
            Some(left) => {
                self.credit = left;
                Take::Taken { remaining: self.remaining(), reset_after: self.limit.time_for(self.lacking()) }
            }
            None => Take::Refused {
                remaining: self.remaining(),
                retry_after: self.limit.time_for(wanted.saturating_sub(self.credit)),
            },
        }
    }

    /// Takes as many of `want` tokens as there are, and says how many.
    pub fn take_up_to(&mut self, want: u32, now: Time) -> u32 {
        self.refill(now);
        let taken = want.min(self.remaining());
        self.credit = self.credit.saturating_sub(self.limit.units(taken));
        taken
    }

    /// Time until there is a whole token, as of the last call; zero when there is one.
    #[must_use]
    pub fn next_token(&self) -> Duration {
        self.limit.time_for(self.limit.units(1).saturating_sub(self.credit))
    }

    /// Gives tokens back, for a call that turned out to cost nothing; never above the burst.
    pub fn refund(&mut self, cost: u32) {
        self.credit = self.credit.saturating_add(self.limit.units(cost)).min(self.limit.units(self.limit.burst));
    }

    /// Whole tokens now in the bucket, as of the last call.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        u32::try_from(self.credit / u64::from(self.limit.window_ms)).unwrap_or(u32::MAX)
    }

    /// Full at `now`: such a bucket can be forgotten, a new one is the same.
    #[must_use]
    pub fn is_full(&self, now: Time) -> bool {
        let mut bucket = *self;
        bucket.refill(now);
        bucket.lacking() == 0
    }

    fn lacking(&self) -> u64 {
        self.limit.units(self.limit.burst).saturating_sub(self.credit)
    }

    fn refill(&mut self, now: Time) {
        let elapsed_ms = u64::try_from(now.since(self.updated).as_millis()).unwrap_or(u64::MAX);
        let inflow = elapsed_ms.saturating_mul(u64::from(self.limit.quota));
        self.credit = self.credit.saturating_add(inflow).min(self.limit.units(self.limit.burst));
        self.updated = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Time {
        Time::from_unix_ms(1_700_000_000_000 + ms)
    }

    fn limit(quota: u32, window_ms: u64, burst: u32) -> Limit {
        Limit::new(quota, Duration::from_millis(window_ms), burst).unwrap()
    }

    #[test]
    fn burst_then_rate_then_headers() {
        let mut bucket = Bucket::new(limit(60, 60_000, 10), at(0));
        for left in (0..10).rev() {
            let reset_after = Duration::from_secs(u64::from(10 - left));
            assert_eq!(bucket.take(1, at(0)), Take::Taken { remaining: left, reset_after });
        }
        let refused = Take::Refused { remaining: 0, retry_after: Duration::from_secs(1) };
        assert_eq!(bucket.take(1, at(0)), refused);
        assert_eq!(bucket.take(1, at(999)), Take::Refused { remaining: 0, retry_after: Duration::from_millis(1) });
        assert!(matches!(bucket.take(1, at(1000)), Take::Taken { remaining: 0, .. }));
        bucket.refund(3);
        assert!(matches!(bucket.take(3, at(1000)), Take::Taken { remaining: 0, .. }));
        assert_eq!(bucket.take(11, at(1000)), Take::TooLarge);
        assert!(!bucket.is_full(at(1000)) && bucket.is_full(at(11_000)));
    }

    #[test]
    fn a_clock_that_goes_back_neither_gives_nor_starves() {
        let mut bucket = Bucket::new(limit(1, 1000, 1), at(0));
        assert!(matches!(bucket.take(1, at(0)), Take::Taken { .. }));
        assert!(matches!(bucket.take(1, at(-3_600_000)), Take::Refused { .. }));
        assert!(matches!(bucket.take(1, at(-3_599_000)), Take::Taken { .. }));
    }

    #[test]
    fn bad_limits_are_refused() {
        assert_eq!(Limit::new(0, Duration::from_secs(1), 1), Err(LimitError::Zero));
        assert_eq!(Limit::new(1, Duration::ZERO, 1), Err(LimitError::Window));
        assert_eq!(Limit::new(1, Duration::from_secs(90_000), 1), Err(LimitError::Window));
    }

    #[test]
    fn parts_of_a_limit_are_no_more_than_the_whole() {
        for (quota, burst, n) in [(60, 10, 2), (60, 10, 7), (1, 1, 3), (600, 1, 1), (1000, 100, 40)] {
            let whole = limit(quota, 60_000, burst);
            let part = whole.divided(n);
            assert!(part.burst() * n <= burst.max(n), "{quota} {burst} {n}");
            let flow = |l: Limit| f64::from(l.quota()) / l.window().as_secs_f64();
            assert!(flow(part) * f64::from(n) <= flow(whole) * 1.000_001, "{quota} {burst} {n}");
        }
        assert_eq!(limit(60, 60_000, 10).divided(0), limit(60, 60_000, 10));
        // A window that would be too long: the quota is divided, rounded down.
        assert_eq!(limit(5, 86_400_000, 1).divided(2), limit(2, 86_400_000, 1));
    }

    #[test]
    fn what_there_is_can_be_taken() {
        let mut bucket = Bucket::new(limit(60, 60_000, 10), at(0));
        assert_eq!((bucket.take_up_to(7, at(0)), bucket.next_token()), (7, Duration::ZERO));
        assert_eq!((bucket.take_up_to(7, at(0)), bucket.next_token()), (3, Duration::from_secs(1)));
        assert_eq!(bucket.take_up_to(7, at(2500)), 2);
        assert_eq!(bucket.next_token(), Duration::from_millis(500));
    }

    #[test]
    fn a_new_limit_keeps_what_there_is() {
        let mut bucket = Bucket::new(limit(10, 1000, 10), at(0));
        bucket.take(4, at(0));
        bucket.set_limit(limit(100, 60_000, 100), at(0));
        assert_eq!(bucket.remaining(), 6);
        bucket.set_limit(limit(1, 1000, 2), at(0));
        assert_eq!(bucket.remaining(), 2);
    }

    #[test]
    fn limits_that_differ_a_little_share_the_whole_rate() {
        // Learned apart: 12.672 and 12.568 a second. Each comes back when there would be a token.
        let limits = [12_672, 12_568].map(|quota| limit(quota, 1_000_000, 3));
        let mut bucket = Bucket::new(limits[0], at(0));
        let (mut taken, mut from) = (0, [0, 0]);
        for ms in 0..100_000 {
            for (limit, from) in limits.into_iter().zip(&mut from).filter(|(_, from)| ms >= **from) {
                bucket.set_limit(limit, at(ms));
                taken += bucket.take_up_to(1, at(ms));
                *from = ms + i64::try_from(bucket.next_token().as_millis()).unwrap().max(20);
            }
        }
        assert!((1_230..=1_275).contains(&taken), "{taken} of some 1,260");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate(
            quota in 1_u32..1000, window_ms in 1_u64..100_000, burst in 1_u32..100,
            steps in proptest::collection::vec((0_i64..5_000, 1_u32..20), 1..200),
        ) {
            let mut bucket = Bucket::new(limit(quota, window_ms, burst), at(0));
            let (mut ms, mut taken) = (0_i64, 0_u128);
            for (pause, cost) in steps {
                ms += pause;
                if let Take::Taken { .. } = bucket.take(cost, at(ms)) {
                    taken += u128::from(cost);
                }
                // taken <= burst + quota * elapsed / window, without division
                let most = u128::from(burst) * u128::from(window_ms) + u128::from(quota) * u128::try_from(ms).unwrap();
                prop_assert!(taken * u128::from(window_ms) <= most);
            }
        }

        #[test]
        fn retry_after_is_enough_and_no_longer_than_needed(
            quota in 1_u32..1000, window_ms in 1_u64..100_000, burst in 1_u32..100, cost in 1_u32..100,
            drain in 0_u32..100,
        ) {
            let mut bucket = Bucket::new(limit(quota, window_ms, burst), at(0));
            bucket.take(drain.min(burst), at(0));
            if let Take::Refused { retry_after, .. } = bucket.take(cost, at(0)) {
                let mut early = bucket;
                let one_ms = Duration::from_millis(1);
                prop_assert!(matches!(early.take(cost, at(0) + (retry_after - one_ms)), Take::Refused { .. }), "early");
                prop_assert!(matches!(bucket.take(cost, at(0) + retry_after), Take::Taken { .. }), "enough");
            }
        }
    }
}
