//! How fast calls may leave: a token bucket whose rate is learned from throttle answers.

use std::time::Duration;

/// Calls per second, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallRate(u64);

impl CallRate {
    /// So many calls a second, at least one in a hundred seconds.
    #[must_use]
    pub const fn per_second(calls: u32) -> Self {
        Self::milli(calls as u64 * 1000)
    }

    /// So many calls a minute, at least one in a hundred seconds.
    #[must_use]
    pub const fn per_minute(calls: u32) -> Self {
        Self::milli(calls as u64 * 1000 / 60)
    }

    const fn milli(milli: u64) -> Self {
        Self(if milli < RATE_MIN { RATE_MIN } else { milli })
    }

    /// A part of it in thousandths.
    #[must_use]
    pub const fn part(self, thousandths: u64) -> Self {
        Self::milli(self.0.saturating_mul(thousandths) / 1000)
    }

    /// Calls per second.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        // Far below 2^52: exact.
        self.0 as f64 / 1000.0
    }

    /// Thousandths of a call per second.
    #[must_use]
    pub const fn as_milli(self) -> u64 {
        self.0
    }
}

/// The slowest rate, in thousandths of a call per second: something is always tried again.
const RATE_MIN: u64 = 10;

/// Units of credit of one call: at a thousandth of a call per second one unit flows in each microsecond.
const CALL: i64 = 1_000_000_000;

/// Calls that may leave at once after a quiet time: half a second's worth.
const BURST_MS: u64 = 500;

/// Part of the ceiling in thousandths by which the rate climbs in a second (RELIABILITY 3).
const CLIMB_PER_SECOND: u64 = 50;

/// Longest `Retry-After` that is honoured (RELIABILITY 3).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Part of what was counted that is used from then on; the rest is for jitter.
const LEARNED_PART: u64 = 990;

/// Part of the rate at which a throttle came that is not passed any more, when nothing could be counted.
const REFUSED_PART: u64 = 950;

/// Part of the level known so far below which a throttle answer that nothing was counted before says nothing of the
/// vendor's rate: then somebody else uses the account, or the vendor is in trouble.
const TELLING_PART: u64 = 750;

/// Time between two cuts, in which a rate can show whether it is low enough: vendors count by the second.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// The least to which a rate is cut, as a part of the ceiling: an hour of throttle answers must not take hours to mend.
const CUT_MIN_PART: u64 = 20;

/// Least time and calls between two throttle answers from which a rate is told.
const COUNT_MIN: (Duration, u64) = (Duration::from_secs(1), 10);

/// Longest `Retry-After` over which the count goes on: a vendor's bucket that holds a second's worth is not full then.
const COUNT_HELD_MAX: Duration = Duration::from_secs(1);

/// Longest count: what a vendor allowed minutes ago says little.
const COUNT_MAX: Duration = Duration::from_secs(60);

/// How long after a throttle answer more than what was learned is tried; doubled each time that is refused, so that a
/// vendor that stays as it is sees a throttled call every two hours.
const TRY_WAIT: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(7200));

/// How long a higher level has to hold under load before one that is higher by twice as much is tried.
const TRIED_WAIT: Duration = Duration::from_secs(60);

/// What was accepted since a throttle answer, at which the vendor had nothing left.
#[derive(Debug, Clone, Copy)]
struct Count {
    since: Duration,
    accepted: u64,
    throttled: u64,
    /// Calls that all who share the rate could send meanwhile, in units of a call.
    flow: u128,
}

/// The part of a rate that a tap lets in by itself. What it does not, its owner draws from what all share and adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// In thousandths of the rate.
    pub own: u32,
    /// How many share the rate: each holds that part of the burst.
    pub of: u32,
}

impl Part {
    /// Nobody else has a part.
    pub const WHOLE: Self = Self { own: 1000, of: 1 };
}

/// The search for a level above the one that was learned.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// When it goes on.
    at: Duration,
    /// The wait after a throttle answer.
    wait: Duration,
    /// The step in thousandths of the ceiling.
    step: u64,
    /// The level before the one that is tried.
    from: Option<CallRate>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Tap {
    ceiling: CallRate,
    rate: CallRate,
    /// The rate up to which it climbs; the ceiling when nothing was learned.
    learned: Option<CallRate>,
    trial: Trial,
    part: Part,
    credit: i64,
    updated: Duration,
    /// Progress to a higher rate that does not make a thousandth of a call per second yet, in [`CLIMB_UNIT`].
    climbing: u64,
    held_until: Duration,
    last_cut: Option<Duration>,
    count: Option<Count>,
    throttles: u64,
}

impl Tap {
    /// A full bucket at the ceiling.
    #[must_use]
    pub fn new(ceiling: CallRate, now: Duration) -> Self {
        let mut tap = Self {
            ceiling,
            rate: ceiling,
            learned: None,
            trial: Trial { at: Duration::ZERO, wait: TRY_WAIT.0, step: CLIMB_PER_SECOND, from: None },
            part: Part::WHOLE,
            credit: 0,
            updated: now,
            climbing: 0,
            held_until: Duration::ZERO,
            last_cut: None,
            count: None,
            throttles: 0,
        };
        tap.credit = tap.burst();
        tap
    }

    /// The most it may ever let out.
    #[must_use]
    pub const fn ceiling(&self) -> CallRate {
        self.ceiling
    }

    /// The rate as of the last call.
    #[must_use]
    pub const fn rate(&self) -> CallRate {
        self.rate
    }

    /// What throttle answers told of the vendor's rate.
    #[must_use]
    pub const fn learned(&self) -> Option<CallRate> {
        self.learned
    }

    /// Throttle answers so far.
    #[must_use]
    pub const fn throttles(&self) -> u64 {
        self.throttles
    }

    /// For how much longer the vendor asked to be left alone.
    #[must_use]
    pub fn held_for(&self, now: Duration) -> Option<Duration> {
        self.held_until.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// Sets a lower ceiling.
    pub fn lower(&mut self, ceiling: CallRate, now: Duration) {
        self.refill(now);
        self.ceiling = self.ceiling.min(ceiling);
        self.rate = self.rate.min(ceiling);
        self.credit = self.credit.min(self.burst());
    }

    /// Lets in another part of the rate by itself from now on.
    pub fn set_part(&mut self, part: Part, now: Duration) {
        if part == self.part {
            return;
        }
        self.refill(now);
        self.part = part;
        self.credit = self.credit.min(self.burst());
        // What was counted was counted of another part.
        self.count = None;
    }

    /// Adds calls that were drawn from what all share.
    pub fn add(&mut self, calls: u32) {
        self.credit = self.credit.saturating_add(i64::from(calls).saturating_mul(CALL)).min(self.burst());
    }

    /// Whole calls that it could hold beside what it has.
    #[must_use]
    pub fn room(&self) -> u32 {
        u32::try_from((self.burst() - self.credit) / CALL).unwrap_or(0)
    }

    /// Takes one call's worth, if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        self.refill(now);
        let ready = self.credit >= CALL && now >= self.held_until;
        if ready {
            self.credit -= CALL;
        }
        ready
    }

    /// Takes one call's worth whether or not there is one, for a call that cannot wait: later ones do.
    pub fn charge(&mut self, now: Duration) {
        self.refill(now);
        // A debt of more than a burst would hold others back for what they have nothing to do with.
        self.credit = (self.credit - CALL).max(-self.burst());
    }

    /// Gives back one that was not used.
    pub fn refund(&mut self) {
        self.credit = (self.credit + CALL).min(self.burst());
    }

    /// When the next call may leave if nobody else takes and nothing is added; not before `now`.
    #[must_use]
    pub fn next_at(&self, now: Duration) -> Duration {
        self.at_rate(1, self.inflow(), now)
    }

    /// When the `n`th call from now may leave, at the whole rate.
    #[must_use]
    pub fn after(&self, n: u64, now: Duration) -> Duration {
        self.at_rate(n, self.rate.0, now)
    }

    fn at_rate(&self, n: u64, milli: u64, now: Duration) -> Duration {
        let wanted = i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(CALL);
        let lacking = u64::try_from(wanted.saturating_sub(self.credit)).unwrap_or(0);
        let flow = Duration::from_nanos(lacking.saturating_mul(1000).div_ceil(milli.max(1)));
        (self.updated + flow).max(self.held_until).max(now)
    }

    /// What it lets in by itself, in thousandths of a call per second.
    fn inflow(&self) -> u64 {
        (self.rate.0 * u64::from(self.part.own) / 1000).max(1)
    }

    /// The vendor did what a call that left at `sent` asked.
    pub fn accepted(&mut self, sent: Duration) {
        if let Some(count) = self.count.as_mut().filter(|count| sent >= count.since) {
            count.accepted += 1;
        }
    }

    /// The vendor refused a call that left at `sent`, and may have said for how long.
    pub fn throttled(&mut self, sent: Duration, retry_after: Option<Duration>, now: Duration) {
        self.refill(now);
        self.throttles += 1;
        if let Some(wait) = retry_after {
            self.held_until = self.held_until.max(now + wait.min(RETRY_AFTER_MAX));
        }
        if let Some(count) = self.count.as_mut().filter(|count| sent >= count.since) {
            count.throttled += 1;
        }
        // Calls that were under way when the rate was cut say nothing of the new one, nor do the first after it: the
        // vendor had nothing left.
        if self.last_cut.is_some_and(|cut| sent < cut + CUT_WAIT) {
            return;
        }
        self.learn(now);
        self.rate = self.rate.part(500).max(self.ceiling.part(CUT_MIN_PART));
        self.credit = self.credit.min(0);
        self.last_cut = Some(now);
        if self.held_for(now).is_some_and(|wait| wait > COUNT_HELD_MAX) {
            self.count = None;
        } else if self.count.is_none_or(|count| now.saturating_sub(count.since) > COUNT_MAX / 2) {
            self.count = Some(Count { since: now, accepted: 0, throttled: 0, flow: 0 });
        }
    }

    /// Notes what a throttle answer tells of the vendor's rate.
    fn learn(&mut self, now: Duration) {
        if let Some(known) = self.trial.from.take() {
            // More than before is too much.
            self.learned = Some(known);
            self.trial.wait = (self.trial.wait * 2).min(TRY_WAIT.1);
        } else {
            let known = self.goal();
            let refused = Some(self.rate.part(REFUSED_PART)).filter(|_| self.rate >= known.part(TELLING_PART));
            // What was counted is less than the truth, and longer counts are nearer to it.
            let told = self.counted(now).or(refused.map(|refused| refused.min(known)));
            self.learned = told.map(|told| told.min(self.ceiling)).or(self.learned);
        }
        self.trial.at = now + self.trial.wait;
        self.trial.step = CLIMB_PER_SECOND;
    }

    /// The vendor's rate, if enough was counted since a throttle answer. At both ends the vendor had less than one call
    /// left, so that what it accepted in between is what flowed in, but for one call. Of a rate that is shared only the
    /// own calls are seen; the vendor accepts of everybody's the same part.
    fn counted(&self, now: Duration) -> Option<CallRate> {
        let count = self.count?;
        let elapsed = now.saturating_sub(count.since);
        let nanos = elapsed.as_nanos().max(1);
        let accepted = if self.part.of > 1 {
            let sent = u128::from(count.accepted + count.throttled).max(1);
            count.flow * u128::from(count.accepted) / sent
        } else {
            u128::from(count.accepted.saturating_sub(1)) * u128::from(CALL.unsigned_abs())
        };
        // Units of a call in nanoseconds to thousandths of a call in seconds.
        let milli = u64::try_from(accepted * 1000 / nanos).unwrap_or(u64::MAX);
        let enough = elapsed >= COUNT_MIN.0 && elapsed <= COUNT_MAX && count.accepted >= COUNT_MIN.1;
        enough.then(|| CallRate::milli(milli).part(LEARNED_PART))
    }

    /// The rate up to which it climbs.
    fn goal(&self) -> CallRate {
        self.learned.map_or(self.ceiling, |learned| learned.min(self.ceiling))
    }

    /// Whole calls that it holds when it is full.
    #[must_use]
    pub fn burst_calls(&self) -> u32 {
        u32::try_from(self.burst() / CALL).unwrap_or(u32::MAX)
    }

    fn burst(&self) -> i64 {
        let units = self.rate.0.saturating_mul(BURST_MS).saturating_mul(1000) / u64::from(self.part.of.max(1));
        i64::try_from(units).unwrap_or(i64::MAX).max(CALL)
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated);
        if elapsed.is_zero() {
            return;
        }
        self.updated = now;
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let inflow = i64::try_from(u128::from(nanos) * u128::from(self.inflow()) / 1000).unwrap_or(i64::MAX);
        if let Some(count) = &mut self.count {
            count.flow += u128::from(nanos) * u128::from(self.rate.0) / 1000;
        }
        let burst = self.burst();
        self.credit = self.credit.saturating_add(inflow);
        if self.credit >= burst {
            self.credit = burst;
            // Less was sent than the vendor allows: from here on counting tells nothing of its rate, and a level that
            // nobody used was not held by it.
            self.count = None;
            self.trial.at = self.trial.at.max(now + TRIED_WAIT);
        }
        self.climb(nanos, now);
    }

    fn climb(&mut self, nanos: u64, now: Duration) {
        if now >= self.trial.at {
            self.go_on_trying(now);
        }
        let goal = self.goal();
        if self.rate >= goal {
            (self.rate, self.climbing) = (goal, 0);
            return;
        }
        let step = u128::from(self.ceiling.0) * u128::from(CLIMB_PER_SECOND) * u128::from(nanos);
        let progress = u128::from(self.climbing) + step;
        let whole = u64::try_from(progress / CLIMB_UNIT).unwrap_or(u64::MAX);
        self.climbing = u64::try_from(progress % CLIMB_UNIT).unwrap_or(0);
        self.rate = CallRate(self.rate.0.saturating_add(whole)).min(goal);
    }

    fn go_on_trying(&mut self, now: Duration) {
        let Some(learned) = self.learned else { return };
        if self.trial.from.is_some() {
            // What was tried held.
            self.trial.step = (self.trial.step * 2).min(1000);
            self.trial.wait = TRY_WAIT.0;
        }
        let next = CallRate(learned.0 + self.ceiling.part(self.trial.step).0);
        self.trial.from = Some(learned);
        self.trial.at = now + TRIED_WAIT;
        self.learned = Some(next).filter(|next| *next < self.ceiling);
    }
}

/// Progress of one thousandth of a call per second: thousandths of the ceiling times nanoseconds.
const CLIMB_UNIT: u128 = 1000 * 1_000_000_000;
