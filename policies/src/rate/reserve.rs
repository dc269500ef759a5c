//! One replica's part of a bucket that several replicas draw from.
//!
//! Design: the bucket itself stands in a shared store. A replica draws a *batch* of tokens ahead of need and spends it
//! from its own memory, so that a request asks the store nothing. A batch is what the last 100 ms used, within bounds;
//! the next is asked for when less than half of it is left. Tokens that were not used in the time for which they were
//! granted are dropped. At most [`Reserve::held_max`] tokens are held, so that all replicas together let through no
//! more than `rate * time + burst + replicas * held_max` in any window.
//!
//! When the store does not answer, the replica goes on with a bucket of its own, of the limit divided by the replicas
//! that were last known. That bucket is kept in step all the time: what is spent of drawn tokens is taken from it too,
//! so that it is not full at the moment it is needed. The limit becomes smaller in an outage, never larger, but for
//! the moment itself: a replica that was idle then has its share of the burst.
//!
//! An idle reserve holds nothing. Its first request finds it [`Spend::Dry`], waits for a draw for a bounded time and is
//! then served from the replica's own bucket ([`Reserve::take_own`]).

use std::time::Duration;

use meridian_model::time::Time;

use super::{Bucket, Limit, Take};

/// Share of the burst that a replica may hold: with fewer than that many replicas every one can hold a batch.
const HELD_DIVISOR: u32 = 4;

/// The least that is drawn at once is this part of the burst, so that a slow caller does not cost a call a request.
const BATCH_DIVISOR: u32 = 16;

/// And no more than this: an idle replica should not keep others from what it does not use.
const BATCH_MIN: u32 = 32;

/// Time of use that a batch should cover.
const BATCH_SPAN: Duration = Duration::from_millis(100);

/// Time between two draws while the store does not answer.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// The answer of [`Reserve::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spend {
    /// Decided.
    Told(Take),
    /// Nothing is held, and nobody knows whether the store has more: wait for a draw.
    Dry,
}

/// What the store granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Tokens.
    pub granted: u32,
    /// For how long they may be spent.
    pub good_for: Duration,
    /// Whole tokens that the store has left.
    pub left: u32,
    /// Time until the store has a token, zero if it has one.
    pub next: Duration,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Reserve {
    limit: Limit,
    /// Tokens of the dearest request.
    dearest: u32,
    /// Tokens of the dearest request that is waiting for a draw.
    wanted: u32,
    held: u32,
    good_until: Time,
    batch: u32,
    /// Whole tokens in the store when it was last asked.
    left: u32,
    /// The store has nothing before this.
    empty_until: Option<Time>,
    used: u32,
    used_since: Time,
    drawing: bool,
    own: Bucket,
    /// The last draw failed; when the next may be tried.
    cut_off: Option<Time>,
}

impl Reserve {
    /// Holds nothing yet. `replicas` share the limit when the store does not answer; no request takes more than
    /// `dearest`.
    #[must_use]
    pub fn new(limit: Limit, dearest: u32, replicas: u32, now: Time) -> Self {
        let dearest = dearest.clamp(1, limit.burst());
        Self {
            limit,
            dearest,
            wanted: 0,
            held: 0,
            good_until: now,
            batch: Self::batch_min(limit, dearest),
            left: limit.burst(),
            empty_until: None,
            used: 0,
            used_since: now,
            drawing: false,
            own: Bucket::new(part(limit, dearest, replicas), now),
            cut_off: None,
        }
    }

    /// The limit that all replicas share.
    #[must_use]
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// Most tokens that one replica holds of a limit whose dearest request takes so many.
    #[must_use]
    pub fn held_max(limit: Limit, dearest: u32) -> u32 {
        (limit.burst() / HELD_DIVISOR).max(dearest).max(1)
    }

    fn batch_min(limit: Limit, dearest: u32) -> u32 {
        (limit.burst() / BATCH_DIVISOR).clamp(1, BATCH_MIN).max(dearest)
    }

    /// How many replicas share the limit when the store does not answer.
    pub fn share(&mut self, replicas: u32, now: Time) {
        let part = part(self.limit, self.dearest, replicas);
        if part != self.own.limit() {
            self.own.set_limit(part, now);
        }
    }

    /// Takes `cost` tokens, or says when to come back, or that the store has to be asked.
    pub fn take(&mut self, cost: u32, now: Time) -> Spend {
        if cost > self.limit.burst() {
            return Spend::Told(Take::TooLarge);
        }
        if now > self.good_until {
            self.held = 0;
        }
        if let Some(left) = self.held.checked_sub(cost) {
            self.held = left;
            self.own.take_up_to(cost, now);
            self.count(cost, now);
            return Spend::Told(self.taken());
        }
        if self.cut_off.is_some() {
            return Spend::Told(self.take_own(cost, now));
        }
        match self.empty_until.filter(|until| *until > now) {
            Some(until) => {
                let lacking = cost.saturating_sub(self.held).saturating_sub(1);
                let retry_after = until.since(now) + self.limit.time_for(self.limit.units(lacking));
                Spend::Told(Take::Refused { remaining: self.held, retry_after })
            }
            None => {
                self.wanted = self.wanted.max(cost);
                Spend::Dry
            }
        }
    }

    /// Takes tokens of the replica's own bucket, for a request that waited for a draw in vain.
    pub fn take_own(&mut self, cost: u32, now: Time) -> Take {
        let take = self.own.take(cost, now);
        if matches!(take, Take::Taken { .. }) {
            self.count(cost, now);
        }
        take
    }

    /// Gives tokens back whose request was not served.
    pub fn refund(&mut self, cost: u32) {
        self.held = self.held.saturating_add(cost).min(Self::held_max(self.limit, self.dearest));
        self.own.refund(cost);
    }

    /// How many tokens to ask the store for now. After `Some`, nothing more is wished for before [`Self::drawn`] or
    /// [`Self::failed`].
    pub fn wish(&mut self, now: Time) -> Option<u32> {
        let waits = |until: Option<Time>| until.is_some_and(|at| at > now);
        let held = if now > self.good_until { 0 } else { self.held };
        let plenty = held.saturating_mul(2) > self.batch && held >= self.wanted;
        if self.drawing || waits(self.empty_until) || waits(self.cut_off) || plenty {
            return None;
        }
        let most = Self::held_max(self.limit, self.dearest);
        self.batch =
            self.recent_use(now).max(self.wanted).clamp(Self::batch_min(self.limit, self.dearest).min(most), most);
        self.wanted = 0;
        let want = self.batch.min(most.saturating_sub(held));
        self.drawing = want > 0;
        (want > 0).then_some(want)
    }

    /// The store answered.
    pub fn drawn(&mut self, grant: Grant, now: Time) {
        self.drawing = false;
        self.cut_off = None;
        if now > self.good_until {
            self.held = 0;
        }
        self.held = self.held.saturating_add(grant.granted).min(Self::held_max(self.limit, self.dearest));
        self.left = grant.left;
        if grant.granted > 0 {
            // Of a slow limit the dearest request saves up for longer than that: what it has must last until it has all.
            let saving = self.limit.time_for(self.limit.units(self.dearest));
            self.good_until = now + grant.good_for.max(saving);
        }
        let too_little = grant.left == 0 && self.held < self.dearest;
        self.empty_until = (grant.granted == 0 || too_little).then_some(now + grant.next);
    }

    /// The store did not answer.
    pub fn failed(&mut self, now: Time) {
        self.drawing = false;
        self.cut_off = Some(now + RETRY_WAIT);
    }

    fn taken(&self) -> Take {
        let burst = self.limit.burst();
        let remaining = self.held.saturating_add(self.left).min(burst);
        let lacking = self.limit.units(burst - remaining);
        Take::Taken { remaining, reset_after: self.limit.time_for(lacking) }
    }

    fn count(&mut self, cost: u32, now: Time) {
        if now.since(self.used_since) >= BATCH_SPAN * 10 {
            (self.used, self.used_since) = (0, now);
        }
        self.used = self.used.saturating_add(cost);
    }

    /// What [`BATCH_SPAN`] uses at the present pace.
    fn recent_use(&self, now: Time) -> u32 {
        let span = BATCH_SPAN.as_millis();
        let elapsed = now.since(self.used_since).as_millis().max(span);
        u32::try_from((u128::from(self.used) * span).div_ceil(elapsed)).unwrap_or(u32::MAX)
    }
}

/// One replica's part of a limit; it holds the dearest request, however many share it.
fn part(limit: Limit, dearest: u32, replicas: u32) -> Limit {
    let divided = limit.divided(replicas);
    if divided.burst() >= dearest { divided } else { divided.with_burst(dearest) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Time {
        Time::from_unix_ms(1_700_000_000_000 + ms)
    }

    fn limit(quota: u32, burst: u32) -> Limit {
        Limit::new(quota, Duration::from_secs(1), burst).unwrap()
    }

    fn draw(reserve: &mut Reserve, store: &mut Bucket, now: Time) {
        if let Some(want) = reserve.wish(now) {
            let granted = store.take_up_to(want, now);
            let good_for = Duration::from_secs(1);
            reserve.drawn(Grant { granted, good_for, left: store.remaining(), next: store.next_token() }, now);
        }
    }

    fn took(spend: Spend) -> bool {
        matches!(spend, Spend::Told(Take::Taken { .. }))
    }

    #[test]
    fn an_idle_reserve_is_dry_then_spends_its_batch_and_draws_ahead() {
        let mut reserve = Reserve::new(limit(160, 160), 1, 1, at(0));
        assert_eq!(reserve.take(1, at(0)), Spend::Dry);
        assert_eq!(reserve.wish(at(0)), Some(10));
        assert_eq!(reserve.wish(at(0)), None, "one draw at a time");
        let good_for = Duration::from_secs(1);
        reserve.drawn(Grant { granted: 10, good_for, left: 150, next: Duration::ZERO }, at(0));
        for _ in 0..4 {
            assert!(took(reserve.take(1, at(1))));
            assert_eq!(reserve.wish(at(1)), None, "more than half is left");
        }
        assert!(took(reserve.take(1, at(1))));
        assert_eq!(reserve.wish(at(1)), Some(10));
        reserve.drawn(Grant { granted: 0, good_for, left: 0, next: Duration::from_millis(50) }, at(2));
        for _ in 0..5 {
            assert!(took(reserve.take(1, at(3))));
        }
        let refused = Take::Refused { remaining: 0, retry_after: Duration::from_millis(49) };
        assert_eq!(reserve.take(1, at(3)), Spend::Told(refused));
        assert_eq!(reserve.wish(at(3)), None, "the store is known to be empty");
        assert_eq!(reserve.wish(at(53)), Some(10));
    }

    #[test]
    fn tokens_that_are_not_used_in_time_are_dropped() {
        let mut reserve = Reserve::new(limit(160, 160), 1, 1, at(0));
        let grant = Grant { granted: 10, good_for: Duration::from_secs(1), left: 150, next: Duration::ZERO };
        reserve.wish(at(0));
        reserve.drawn(grant, at(0));
        assert_eq!(reserve.take(1, at(1001)), Spend::Dry);
    }

    #[test]
    fn batches_follow_the_use_within_bounds() {
        let (limit, mut now) = (limit(10_000, 10_000), 0);
        let mut reserve = Reserve::new(limit, 1, 1, at(0));
        let mut store = Bucket::new(limit, at(0));
        let mut draws = 0;
        for n in 0..20_000 {
            now = n / 5;
            if reserve.take(1, at(now)) == Spend::Dry {
                draw(&mut reserve, &mut store, at(now));
                assert!(took(reserve.take(1, at(now))));
            }
            let held = reserve.held;
            draw(&mut reserve, &mut store, at(now));
            draws += u32::from(reserve.held > held);
        }
        assert!(now > 3_900 && draws < 200, "{draws} draws for 20,000 requests in 4 s");
    }

    #[test]
    fn an_outage_leaves_the_share_of_one_replica() {
        let limit = limit(100, 100);
        let mut reserve = Reserve::new(limit, 1, 4, at(0));
        reserve.wish(at(0));
        reserve.failed(at(0));
        let passed = (0..10_000).filter(|ms| took(reserve.take(1, at(*ms)))).count();
        assert!((250..=275).contains(&passed), "{passed}: a quarter of 100 a second, and of the burst");
        assert_eq!(reserve.wish(at(0)), None);
        assert!(reserve.wish(at(500)).is_some(), "the store is asked again");
    }

    #[test]
    fn what_was_spent_of_the_store_is_not_there_again_in_an_outage() {
        let limit = limit(1, 100);
        let (mut reserve, mut store) = (Reserve::new(limit, 1, 2, at(0)), Bucket::new(limit, at(0)));
        let mut passed = 0;
        for _ in 0..100 {
            draw(&mut reserve, &mut store, at(0));
            passed += u32::from(took(reserve.take(1, at(0))));
        }
        assert_eq!(passed, 100);
        reserve.failed(at(0));
        assert!(!took(reserve.take(1, at(0))));
    }

    proptest! {
        #[test]
        fn replicas_together_let_through_rate_burst_and_what_they_hold(
            quota in 1_u32..500, burst in 1_u32..200, replicas in 1_usize..5, dearest in 1_u32..20,
            steps in proptest::collection::vec((0_i64..200, 0_usize..5, 1_u32..40, 1_u32..20), 1..300),
        ) {
            let limit = limit(quota, burst);
            let dearest = dearest.min(burst);
            let mut store = Bucket::new(limit, at(0));
            let mut reserves = vec![Reserve::new(limit, dearest, 1, at(0)); replicas];
            let mut ms = 0;
            let mut passed: Vec<(i64, u64)> = Vec::new();
            for (pause, who, asked, cost) in steps {
                ms += pause;
                let (reserve, cost) = (&mut reserves[who % replicas], cost.min(dearest));
                passed.push((ms, 0));
                for _ in 0..asked {
                    draw(reserve, &mut store, at(ms));
                    if took(reserve.take(cost, at(ms))) && let Some((_, n)) = passed.last_mut() {
                        *n += u64::from(cost);
                    }
                    prop_assert!(reserve.held <= Reserve::held_max(limit, dearest));
                }
            }
            let error = u64::from(Reserve::held_max(limit, dearest)) * u64::try_from(replicas).unwrap();
            for (i, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (to, n) in &passed[i..] {
                    sum += n * 1000;
                    let elapsed = u64::try_from(to - from).unwrap();
                    prop_assert!(sum <= u64::from(quota) * elapsed + (u64::from(burst) + error) * 1000);
                }
            }
        }

        /// Whatever requests cost: where a draw comes at once, one that the store could serve is not refused for ever.
        #[test]
        fn a_dear_request_is_served_when_it_is_told_to_come_back(
            quota in 1_u32..500, burst in 1_u32..200, dearest in 1_u32..50, drain in 0_u32..200,
        ) {
            let limit = limit(quota, burst);
            let cost = dearest.min(burst);
            let (mut store, mut reserve) = (Bucket::new(limit, at(0)), Reserve::new(limit, cost, 1, at(0)));
            store.take_up_to(drain, at(0));
            let mut ms = 0;
            for _ in 0..50 {
                draw(&mut reserve, &mut store, at(ms));
                match reserve.take(cost, at(ms)) {
                    Spend::Told(Take::Taken { .. }) => return Ok(()),
                    Spend::Told(Take::Refused { retry_after, .. }) => {
                        prop_assert!(retry_after <= Duration::from_secs(1) * burst, "{retry_after:?}");
                        ms += i64::try_from(retry_after.as_millis()).unwrap().max(1);
                    }
                    Spend::Told(Take::TooLarge) => prop_assert!(false, "it fits the burst"),
                    Spend::Dry => {}
                }
            }
            prop_assert!(false, "never served in {ms} ms");
        }
    }
}
