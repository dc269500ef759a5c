//! Who may be waited for. Kept in memory: the file lock makes this process the only one, so whoever held a lease
//! before it is gone.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_model::time::Time;

/// The leases of all owners.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<String, Time>>);

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Time>> {
        // A poisoned lock means a panic between two complete states; the map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn extend(&self, owner: &str, until: Time) {
        let mut leases = self.lock();
        let lease = leases.entry(owner.to_owned()).or_insert(until);
        *lease = until.max(*lease);
    }

    pub(super) fn end(&self, owner: &str) {
        self.lock().remove(owner);
    }

    /// What is left of an owner's lease; none when it has run out or never was.
    pub(super) fn left(&self, owner: &str, now: Time) -> Option<Duration> {
        self.lock().get(owner).filter(|until| **until > now).map(|until| until.since(now))
    }
}
