//! The brakes of all gateways together: removals are drawn from slots in what the gateways share (`reconcile::brakes`
//! has the arithmetic), so that a change of the leader, or two leaders in one region, allow no more of them.
//!
//! Each slot is a bucket of one token that comes back after a window. What this process knows to be used is not asked
//! for, also when the store has forgotten it. When the store does not answer nothing is granted: what was drawn before
//! is lost, in the safe direction.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::shared::Shared;
use meridian_model::ids::RegionId;
use meridian_policies::rate::Limit;
use tokio::time::Instant;

use super::reconcile::{Grant, Slots};

/// Longest wait for one slot: a sweep comes again, and its removals with it.
const DRAW_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    shared: Arc<dyn Shared>,
    began: Instant,
    known: Mutex<BTreeMap<RegionId, Slots>>,
}

impl Budget {
    pub(super) fn new(shared: Arc<dyn Shared>) -> Self {
        Self { shared, began: Instant::now(), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<RegionId, Slots>> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws `wanted` removals in a region where a window allows so many. Asks the store at most `allowed` times.
    pub(super) async fn draw(&self, region: &RegionId, wanted: usize, allowed: usize, window: Duration) -> Grant {
        let Ok(limit) = Limit::new(1, window, 1) else { return Grant::Away };
        let (mut granted, mut from) = (0, 0);
        while granted < wanted {
            let now = self.began.elapsed();
            let free = self.known().entry(region.clone()).or_default().free(from, allowed, now);
            let Some(slot) = free else { break };
            from = slot + 1;
            let bucket = format!("removals/{region}/{slot}");
            let draw = tokio::time::timeout(DRAW_WITHIN, self.shared.draw(&bucket, limit, 1)).await;
            let Ok(Ok(grant)) = draw else { return Grant::Away };
            let used_for = if grant.granted > 0 { window } else { grant.next };
            granted += usize::from(grant.granted > 0);
            self.known().entry(region.clone()).or_default().used(slot, self.began.elapsed() + used_for);
        }
        Grant::Of(granted)
    }

    /// How many of so many are left, as far as this process knows.
    pub(super) fn left(&self, region: &RegionId, allowed: usize) -> usize {
        self.known().get(region).map_or(allowed, |slots| slots.left(allowed, self.began.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use meridian_ledger::{
        redis::{Options, Redis, RedisShared},
        shared::MemoryShared,
    };

    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn two_gateways_together_never_take_more_than_a_window_allows() {
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
        let (a, b) = (Budget::new(Arc::clone(&shared)), Budget::new(shared));
        let region: RegionId = "gz".parse().unwrap();
        let mut taken: Vec<(u64, usize)> = Vec::new();
        for minute in 0..60_u64 {
            // The lead goes to and fro.
            let who = if minute % 3 == 0 { &a } else { &b };
            let Grant::Of(got) = who.draw(&region, 3, 5, WINDOW).await else { panic!("the store is there") };
            taken.push((minute, got));
            let window = taken.iter().filter(|(at, _)| minute - at < 10);
            let sum: usize = window.map(|(_, n)| n).sum();
            assert!(sum <= 5, "{sum} in ten minutes: {taken:?}");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let all: usize = taken.iter().map(|(_, n)| n).sum();
        assert_eq!(all, 30, "and no less than it allows: {taken:?}");
        assert_eq!(a.draw(&"sh".parse().unwrap(), 9, 5, WINDOW).await, Grant::Of(5), "each region has its own");
        assert_eq!(b.draw(&region, 1, 0, WINDOW).await, Grant::Of(0));
    }

    #[tokio::test]
    async fn nothing_is_granted_without_the_store() {
        // Nobody listens there.
        let away = RedisShared::new(Redis::connect(Options::single("127.0.0.1", 1)).unwrap(), "test");
        let budget = Budget::new(away);
        assert_eq!(budget.draw(&"gz".parse().unwrap(), 1, 5, WINDOW).await, Grant::Away);
    }
}
