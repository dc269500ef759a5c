//! What a follower of a feed has taken in without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use meridian_model::ids::TenantId;

use crate::FeedPosition;

/// Places of one tenant that are kept; the earliest go first, and are told then.
const PLACES_MAX: usize = 4096;

/// Places of writes that a follower of a feed knows already, because it made them or read them: a feed need not tell
/// them. Clones share what is known.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<BTreeMap<TenantId, Places>>>);

#[derive(Debug, Default)]
struct Places {
    /// Up to here the feed was followed.
    passed: u64,
    known: BTreeSet<u64>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, Places>> {
        // A poisoned lock means a panic between two complete states; the map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the record with this place is known as it is there.
    pub fn note(&self, tenant: &TenantId, seq: u64) {
        let mut all = self.lock();
        if !all.contains_key(tenant) {
            all.insert(tenant.clone(), Places::default());
        }
        let Some(places) = all.get_mut(tenant).filter(|places| seq > places.passed) else { return };
        places.known.insert(seq);
        if places.known.len() > PLACES_MAX {
            places.known.pop_first();
        }
    }

    /// Whether the record with this place is known as it is there.
    #[must_use]
    pub fn has(&self, tenant: &TenantId, seq: u64) -> bool {
        self.lock().get(tenant).is_some_and(|places| places.known.contains(&seq))
    }

    /// At most so many known places after one, in order.
    #[must_use]
    pub fn after(&self, tenant: &TenantId, seq: u64, limit: usize) -> Vec<u64> {
        let all = self.lock();
        let known = all.get(tenant).into_iter().flat_map(|places| places.known.range(seq.saturating_add(1)..));
        known.take(limit).copied().collect()
    }

    /// Forgets what lies behind the position of a feed.
    pub fn pass(&self, position: &FeedPosition) {
        let mut all = self.lock();
        for (tenant, seq) in position {
            if let Some(places) = all.get_mut(tenant).filter(|places| *seq > places.passed) {
                places.passed = *seq;
                places.known = places.known.split_off(&seq.saturating_add(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_kept_until_the_feed_has_passed_it() {
        let (known, acme): (_, TenantId) = (Known::default(), "acme".parse().unwrap());
        for seq in [5, 3, 9] {
            known.note(&acme, seq);
        }
        assert_eq!((known.after(&acme, 3, 9), known.after(&acme, 0, 2)), (vec![5, 9], vec![3, 5]));
        assert!(known.has(&acme, 3) && !known.has(&acme, 4) && !known.has(&"lab".parse().unwrap(), 3));
        known.pass(&FeedPosition::from([(acme.clone(), 5)]));
        known.note(&acme, 4);
        assert_eq!(known.after(&acme, 0, 9), [9], "what lies behind is not kept again");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (known, acme): (_, TenantId) = (Known::default(), "acme".parse().unwrap());
        let most = u64::try_from(PLACES_MAX).unwrap();
        (1..=most + 1).for_each(|seq| known.note(&acme, seq));
        let places = known.after(&acme, 0, usize::MAX);
        assert_eq!((places.len(), places[0]), (PLACES_MAX, 2), "the earliest is told by the feed");
    }
}
