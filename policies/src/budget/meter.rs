//! Who used a lane: calls of each class and payer, in all and lately.

use std::{collections::BTreeMap, time::Duration};

use super::{CLASSES, Class, Payer};

/// Time over which "lately" looks back: short enough to see a change, long enough to smooth a burst.
const WINDOW_SECONDS: usize = 10;

/// Payers that are counted apart; who comes later is counted in the sums alone. As many tenants as a gateway is made for.
pub const PAYERS_MAX: usize = 10_000;

/// What a payer used of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Calls since the start, by class in the order of precedence.
    pub calls: [u64; CLASSES],
    /// Time its calls waited in all.
    pub waited: Duration,
}

impl Spent {
    /// Calls of all classes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.calls.iter().sum()
    }

    fn count(&mut self, class: Class, waited: Duration) {
        if let Some(calls) = self.calls.get_mut(class.index()) {
            *calls += 1;
        }
        self.waited += waited;
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Meter {
    total: Spent,
    payers: BTreeMap<Payer, Spent>,
    /// Calls of each second of the window, the present one at `second % WINDOW_SECONDS`.
    slots: [u32; WINDOW_SECONDS],
    second: u64,
    /// The second of the first call.
    first: Option<u64>,
}

impl Meter {
    /// A call left.
    pub fn count(&mut self, payer: &Payer, class: Class, waited: Duration, now: Duration) {
        self.turn_to(now.as_secs());
        self.first.get_or_insert(now.as_secs());
        if let Some(slot) = self.slots.get_mut(slot_of(now.as_secs())) {
            *slot += 1;
        }
        self.total.count(class, waited);
        if let Some(spent) = self.payers.get_mut(payer) {
            spent.count(class, waited);
        } else if self.payers.len() < PAYERS_MAX {
            self.payers.entry(payer.clone()).or_default().count(class, waited);
        }
    }

    /// Calls of everybody.
    #[must_use]
    pub const fn total(&self) -> Spent {
        self.total
    }

    /// Calls of each payer.
    pub fn payers(&self) -> impl Iterator<Item = (&Payer, &Spent)> {
        self.payers.iter()
    }

    /// Calls per second over the last whole seconds of the window.
    pub fn per_second(&mut self, now: Duration) -> f64 {
        self.turn_to(now.as_secs());
        let Some(first) = self.first else { return 0.0 };
        let present = slot_of(self.second);
        let whole = self.slots.iter().enumerate().filter(|(n, _)| *n != present).map(|(_, calls)| *calls);
        let calls: u32 = whole.sum();
        let seconds = (self.second - first).clamp(1, WINDOW_SECONDS as u64 - 1);
        f64::from(calls) / seconds as f64
    }

    /// Calls of the present second so far.
    pub fn this_second(&mut self, now: Duration) -> f64 {
        self.turn_to(now.as_secs());
        self.slots.get(slot_of(self.second)).copied().map_or(0.0, f64::from)
    }

    /// Empties the slots of seconds that have passed since.
    fn turn_to(&mut self, second: u64) {
        let passed = second.saturating_sub(self.second);
        for n in 0..passed.min(WINDOW_SECONDS as u64) {
            if let Some(slot) = self.slots.get_mut(slot_of(second - n)) {
                *slot = 0;
            }
        }
        self.second = self.second.max(second);
    }
}

const fn slot_of(second: u64) -> usize {
    (second % WINDOW_SECONDS as u64) as usize
}
