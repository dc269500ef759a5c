//! How much the reconciler may take away in a span of time. A mistake of ours, or of a vendor, must stay small until a
//! person has seen it (RELIABILITY 2.8).

use std::{collections::VecDeque, time::Duration};

/// Share of the fleet, as a divisor, that may be removed in one window: 2 %.
const FLEET_SHARE: usize = 50;

/// How many removals one window allows in a region with so many instances.
#[must_use]
pub fn allowance(fleet: usize, least: usize) -> usize {
    least.max(fleet / FLEET_SHARE)
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

    /// How many are left in the window before `now`.
    #[must_use]
    pub fn left(&self, now: Duration, window: Duration, allowed: usize) -> usize {
        allowed.saturating_sub(self.taken.iter().filter(|at| now.saturating_sub(**at) < window).count())
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

    #[test]
    fn a_small_fleet_has_its_least_and_a_large_one_its_share() {
        for (fleet, expected) in [(0, 5), (249, 5), (250, 5), (300, 6), (10_000, 200)] {
            assert_eq!(allowance(fleet, 5), expected, "{fleet}");
        }
    }

    #[test]
    fn a_window_slides() {
        let (mut brake, window) = (Brake::default(), Duration::from_secs(10));
        let take = |brake: &mut Brake, at| brake.take(Duration::from_secs(at), window, 2);
        assert!(take(&mut brake, 0) && take(&mut brake, 5));
        assert!(!take(&mut brake, 9));
        assert_eq!(brake.left(Duration::from_secs(9), window, 2), 0);
        assert!(take(&mut brake, 10), "the first is out of the window");
        assert!(!take(&mut brake, 11));
    }
}
