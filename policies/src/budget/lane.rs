//! One vendor account's calls of one action in one region: tap, queue and meter together, and how many calls are under way.
//!
//! A call has its turn when the tap lets one out *and* a place among those under way is free: a vendor that answers slowly
//! fills the places, and what waits for one keeps its class and its rank in the queue. Deletes have places of their own, so
//! that none waits for the answer to another call.

use std::time::Duration;

use super::{
    CLASSES, CallRate, Class, Meter, Part, Payer, Purpose, Queue, Refused, Spent, Tap, TicketId, Waiter, Weight,
};

/// The answer to a wish to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It may leave now.
    Now,
    /// It waits under this name.
    Waits(TicketId),
}

/// How a call that left was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// In any way but as throttled.
    Accepted,
    /// Too many calls; the vendor may have said for how long to stay away.
    Throttled(Option<Duration>),
}

/// What a lane shows of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneView {
    /// The most it may ever let out.
    pub ceiling: CallRate,
    /// What it lets out now.
    pub rate: CallRate,
    /// What throttle answers told of the vendor's rate.
    pub learned: Option<CallRate>,
    /// Calls per second lately.
    pub used_per_second: f64,
    /// Calls that wait, by class in the order of precedence.
    pub waiting: [usize; CLASSES],
    /// Calls since the start, and what they waited.
    pub spent: Spent,
    /// Throttle answers since the start.
    pub throttles: u64,
    /// Calls that were refused because they would have waited too long or too many waited.
    pub refused: u64,
}

/// Use for which calls are drawn ahead of need: some round trips to a healthy store.
const AHEAD: Duration = Duration::from_millis(100);

/// Calls under way at once, of deletes and of all else.
pub const PLACES: u32 = 64;

/// Calls under way.
#[derive(Debug, Default)]
struct Places {
    deletes: u32,
    others: u32,
}

impl Places {
    const fn of(&mut self, class: Class) -> &mut u32 {
        match class {
            Class::Delete => &mut self.deletes,
            Class::Failover | Class::Create | Class::Read => &mut self.others,
        }
    }

    const fn is_free(&self, class: Class) -> bool {
        match class {
            Class::Delete => self.deletes < PLACES,
            Class::Failover | Class::Create | Class::Read => self.others < PLACES,
        }
    }

    const fn take(&mut self, class: Class) {
        *self.of(class) += 1;
    }

    const fn free(&mut self, class: Class) {
        let taken = self.of(class);
        *taken = taken.saturating_sub(1);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    tap: Tap,
    queue: Queue,
    places: Places,
    meter: Meter,
    last: u64,
    refused: u64,
}

impl Lane {
    /// A lane nobody used yet.
    #[must_use]
    pub fn new(ceiling: CallRate, now: Duration) -> Self {
        Self {
            tap: Tap::new(ceiling, now),
            queue: Queue::default(),
            places: Places::default(),
            meter: Meter::default(),
            last: 0,
            refused: 0,
        }
    }

    /// Its tap.
    #[must_use]
    pub const fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Sets a lower ceiling.
    pub fn lower(&mut self, ceiling: CallRate, now: Duration) {
        self.tap.lower(ceiling, now);
    }

    /// Lets in another part of the rate by itself from now on.
    pub fn set_part(&mut self, part: Part, now: Duration) {
        self.tap.set_part(part, now);
    }

    /// Waiting calls for which a place is free.
    fn ready(&self) -> usize {
        Class::ALL.into_iter().filter(|c| self.places.is_free(*c)).map(|c| self.queue.waiting(c)).sum()
    }

    /// Whether a call waits for its turn or a place.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many calls to draw from what all share: what waits for nothing else, and ahead of need what is used in a tenth of a second, as far as
    /// there is room. Nothing while nothing is used.
    pub fn wish(&mut self, now: Duration) -> u32 {
        let used = self.meter.per_second(now).max(self.meter.this_second(now)) * AHEAD.as_secs_f64();
        let ahead = if used > 0.0 { used.ceil() as u32 } else { 0 };
        let ready = self.ready();
        let wanted = u32::try_from(ready).unwrap_or(u32::MAX).saturating_add(ahead);
        let room = self.tap.room();
        // Half of what is held ahead is left: nothing is urgent.
        if ready == 0 && room.saturating_mul(2) < self.tap.burst_calls() { 0 } else { wanted.min(room) }
    }

    /// Adds calls that were drawn.
    pub fn drawn(&mut self, calls: u32) {
        self.tap.add(calls);
    }

    /// Wishes to send a call before `deadline`.
    ///
    /// # Errors
    /// [`Refused`]; nothing was counted.
    pub fn ask(
        &mut self,
        purpose: &Purpose,
        weight: Weight,
        deadline: Duration,
        now: Duration,
    ) -> Result<Turn, Refused> {
        if self.ready() == 0 && self.places.is_free(purpose.class) && self.tap.take(now) {
            self.places.take(purpose.class);
            return Ok(Turn::Now);
        }
        let ahead = self.queue.ahead(purpose, weight) as u64;
        let at = self.tap.after(ahead + 1, now);
        if at > deadline {
            self.refused += 1;
            return Err(Refused::Late(at.saturating_sub(now)));
        }
        self.last += 1;
        let id = TicketId(self.last);
        let waiter = Waiter { id, purpose: purpose.clone(), since: now, deadline };
        self.queue.push(waiter, weight).inspect_err(|_| self.refused += 1)?;
        Ok(Turn::Waits(id))
    }

    /// The next call that may leave now; it has a place. One whose deadline has passed is left out; its owner knows by itself.
    pub fn grant(&mut self, now: Duration) -> Option<Waiter> {
        while self.ready() > 0 && self.tap.take(now) {
            let Some(waiter) = self.queue.pop(|class| self.places.is_free(class)) else {
                self.tap.refund();
                return None;
            };
            if waiter.deadline < now {
                self.tap.refund();
                self.refused += 1;
                continue;
            }
            self.places.take(waiter.purpose.class);
            return Some(waiter);
        }
        None
    }

    /// When [`Self::grant`] is to be called next; none while nobody waits, or only for a place.
    #[must_use]
    pub fn next_at(&self, now: Duration) -> Option<Duration> {
        (self.ready() > 0).then(|| self.tap.next_at(now))
    }

    /// A call waits no longer; whether it did.
    pub fn cancel(&mut self, purpose: &Purpose, id: TicketId) -> bool {
        self.queue.cancel(purpose, id)
    }

    /// A call that had its turn did not leave; it keeps its place until [`Self::ended`].
    pub fn give_back(&mut self) {
        self.tap.refund();
    }

    /// A call that had its turn is under way no longer, however it ended.
    pub fn ended(&mut self, class: Class) {
        self.places.free(class);
    }

    /// A call leaves without having waited: what must not wait makes others wait.
    pub fn charge(&mut self, now: Duration) {
        self.tap.charge(now);
    }

    /// A call left, after it had waited so long: only that is anybody's use.
    pub fn left(&mut self, purpose: &Purpose, waited: Duration, now: Duration) {
        self.meter.count(&purpose.payer, purpose.class, waited, now);
    }

    /// A call that left at `sent` was answered.
    pub fn answered(&mut self, answer: Answer, sent: Duration, now: Duration) {
        match answer {
            Answer::Accepted => self.tap.accepted(sent),
            Answer::Throttled(retry_after) => self.tap.throttled(sent, retry_after, now),
        }
    }

    /// What each payer used.
    pub fn payers(&self) -> impl Iterator<Item = (&Payer, &Spent)> {
        self.meter.payers()
    }

    /// How it stands.
    pub fn view(&mut self, now: Duration) -> LaneView {
        LaneView {
            ceiling: self.tap.ceiling(),
            rate: self.tap.rate(),
            learned: self.tap.learned(),
            used_per_second: self.meter.per_second(now),
            waiting: Class::ALL.map(|class| self.queue.waiting(class)),
            spent: self.meter.total(),
            throttles: self.tap.throttles(),
            refused: self.refused,
        }
    }
}
