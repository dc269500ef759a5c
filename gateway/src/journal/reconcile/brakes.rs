//! How much the reconciler may take away in a span of time. A mistake of ours, or of a vendor, must stay small until a
//! person has seen it (RELIABILITY 2.8).
//!
//! Removals of a region are counted in slots, as many as one window allows. A slot that was used is free again after a
//! window, so that no window of any position holds more removals than there are slots, whoever began them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Share of the fleet, as a divisor, that may be removed in one window: 2 %.
const FLEET_SHARE: usize = 50;

/// How many removals one window allows in a region with so many instances.
#[must_use]
pub fn allowance(fleet: usize, least: usize) -> usize {
    least.max(fleet / FLEET_SHARE)
}

/// How many removals may begin with one sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// At most so many.
    Of(usize),
    /// What all gateways share does not answer, so nobody knows what the others remove: none.
    Away,
}

/// The slots of a region, as far as this process knows them. Spans of time count from any fixed start.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    used_until: BTreeMap<usize, Duration>,
}

impl Slots {
    /// The first slot from `from` on that may be free, of so many.
    #[must_use]
    pub fn free(&self, from: usize, allowed: usize, now: Duration) -> Option<usize> {
        (from..allowed).find(|slot| self.used_until.get(slot).is_none_or(|until| *until <= now))
    }

    /// A slot is used until then.
    pub fn used(&mut self, slot: usize, until: Duration) {
        self.used_until.insert(slot, until);
    }

    /// How many of so many may be free.
    #[must_use]
    pub fn left(&self, allowed: usize, now: Duration) -> usize {
        allowed.saturating_sub(self.used_until.range(..allowed).filter(|(_, until)| **until > now).count())
    }
}

/// What was taken lately.
#[derive(Debug, Clone, Default)]
pub struct Brake {
    taken: VecDeque<Duration>,
}

impl Brake {
    /// Takes one, if fewer than `allowed` were taken in the window before `now`. Holds at most `allowed` entries.
    pub fn take(&mut self, now: Duration, window: Duration, allowed: usize) -> bool {
        self.forget(now, window);
        let may = self.taken.len() < allowed;
        if may {
            self.taken.push_back(now);
        }
        may
    }

    fn forget(&mut self, now: Duration, window: Duration) {
        while self.taken.front().is_some_and(|at| now.saturating_sub(*at) >= window) {
            self.taken.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_small_fleet_has_its_least_and_a_large_one_its_share() {
        for (fleet, expected) in [(0, 5), (249, 5), (250, 5), (300, 6), (10_000, 200)] {
            assert_eq!(allowance(fleet, 5), expected, "{fleet}");
        }
    }

    #[test]
    fn a_window_slides() {
        let (mut brake, window) = (Brake::default(), at(10));
        let take = |brake: &mut Brake, now| brake.take(at(now), window, 2);
        assert!(take(&mut brake, 0) && take(&mut brake, 5));
        assert!(!take(&mut brake, 9));
        assert!(take(&mut brake, 10), "the first is out of the window");
        assert!(!take(&mut brake, 11));
    }

    #[test]
    fn a_used_slot_is_free_after_its_window() {
        let mut slots = Slots::default();
        assert_eq!((slots.free(0, 2, at(0)), slots.left(2, at(0))), (Some(0), 2));
        slots.used(0, at(10));
        slots.used(1, at(15));
        assert_eq!((slots.free(0, 2, at(9)), slots.left(2, at(9))), (None, 0));
        assert_eq!((slots.free(0, 3, at(9)), slots.left(3, at(9))), (Some(2), 1));
        assert_eq!((slots.free(0, 2, at(10)), slots.left(2, at(10))), (Some(0), 1));
        assert_eq!(slots.free(1, 2, at(10)), None, "from the second on");
        assert_eq!(slots.free(0, 0, at(99)), None, "none are allowed");
    }
}
