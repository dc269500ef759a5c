//! Follows the ledger's feed: what other gateways write comes into this one's fleet, wakes its own tasks, and reaches
//! the requests that wait here for an operation driven elsewhere.
//!
//! A ledger that only this process writes has no feed; then everything here rests, and the fleet is as young as the
//! last write. While a feed does not answer, reads go on from the fleet and say so ([`Driver::feed_age`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::{Feed, FeedPosition, LedgerError};
use meridian_model::{ids::TenantId, operation::OperationRecord};
use tokio::time::Instant;

use super::{driver::Driver, running::key_of};

/// How long the ledger may hold an answer back while there is nothing new.
const FEED_WAIT: Duration = Duration::from_secs(1);

/// Longest wait for an answer of the feed: what it may hold back, and what a slow store may take.
const FEED_ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// First and longest pause after a failure, doubled from one to the other: a feed is an outage's first witness and
/// should be the first to see its end.
const FAILED_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Pause before asking once more a ledger that answered at once without anything new.
const EMPTY_WAIT: Duration = Duration::from_millis(20);

/// Calls in a row that bring a starting gateway up to date; what is left comes while it runs.
const CATCH_UP_CALLS_MAX: usize = 10_000;

/// How far the feed was followed.
#[derive(Debug, Default)]
pub(super) struct Feeding(Mutex<Followed>);

#[derive(Debug, Default)]
struct Followed {
    position: FeedPosition,
    /// When the last call that was answered began; none without a feed.
    answered_at: Option<Instant>,
    /// Tenants that could not be read in it, with when they were last.
    behind: BTreeMap<TenantId, Instant>,
}

impl Followed {
    /// Notes an answer of `now` and the tenants that it could not tell of; the new among these.
    fn answered(&mut self, position: FeedPosition, behind: &BTreeMap<TenantId, String>, now: Instant) -> Vec<TenantId> {
        let before = self.answered_at.unwrap_or(now);
        self.behind.retain(|tenant, _| behind.contains_key(tenant));
        let new: Vec<TenantId> = behind.keys().filter(|tenant| !self.behind.contains_key(*tenant)).cloned().collect();
        self.behind.extend(new.iter().map(|tenant| (tenant.clone(), before)));
        (self.position, self.answered_at) = (position, Some(now));
        new
    }

    fn heard_of(&self, tenant: &TenantId) -> Option<Instant> {
        self.behind.get(tenant).copied().or(self.answered_at)
    }

    fn heard_of_all(&self) -> Option<Instant> {
        self.behind.values().copied().chain(self.answered_at).min()
    }
}

impl Feeding {
    fn lock(&self) -> MutexGuard<'_, Followed> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// The age of what is known of other gateways' writes, of the tenant of which it is oldest; `None` when there are no
    /// other gateways.
    #[must_use]
    pub fn feed_age(&self) -> Option<Duration> {
        self.0.feeding.lock().heard_of_all().map(|at| at.elapsed())
    }

    /// The same of one tenant: one that cannot be read is not as fresh as the others.
    #[must_use]
    pub fn feed_age_of(&self, tenant: &TenantId) -> Option<Duration> {
        self.0.feeding.lock().heard_of(tenant).map(|at| at.elapsed())
    }

    /// Reads the feed up to its end. False when the ledger has none.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) async fn catch_up(&self) -> Result<bool, LedgerError> {
        for _ in 0..CATCH_UP_CALLS_MAX {
            match self.feed(Duration::ZERO).await? {
                None => return Ok(false),
                Some(0) => return Ok(true),
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// Follows the feed until the process ends; returns early only from a ledger that has none.
    pub async fn follow_feed(self) {
        let following = async {
            let mut wait = FAILED_WAIT.0;
            loop {
                let asked = Instant::now();
                let answer = tokio::time::timeout(FEED_ANSWER_WITHIN, self.feed(FEED_WAIT)).await;
                self.0.parts.metrics.feed_age(self.feed_age().unwrap_or_default());
                match answer {
                    Ok(Ok(None)) => return,
                    Ok(Ok(Some(records))) => {
                        wait = FAILED_WAIT.0;
                        if records == 0 && asked.elapsed() < EMPTY_WAIT {
                            tokio::time::sleep(EMPTY_WAIT).await;
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the feed of the ledger failed; reads go on from what is known");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(FAILED_WAIT.1);
                    }
                    Err(_) => tracing::warn!("the feed of the ledger does not answer; reads go on from what is known"),
                }
            }
        };
        tokio::select! {
            biased;
            () = self.0.stop.cancelled() => {}
            () = following => {}
        }
    }

    /// One call: how many records came, or `None` from a ledger without a feed.
    async fn feed(&self, wait: Duration) -> Result<Option<usize>, LedgerError> {
        let (asked, position) = (Instant::now(), self.0.feeding.lock().position.clone());
        let Some(Feed { records, position, behind }) = self.0.parts.ledger.feed(&position, wait).await? else {
            return Ok(None);
        };
        let count = records.len();
        for record in records {
            self.take_in(record);
        }
        self.0.parts.fleet.reached(&position);
        // An answer that was held back is as old as its end; one that was not, as its beginning.
        let now = if wait.is_zero() { asked } else { Instant::now() };
        let new = self.0.feeding.lock().answered(position, &behind, now);
        for (tenant, why) in behind.iter().filter(|(tenant, _)| new.contains(tenant)) {
            tracing::warn!(%tenant, why, "the feed of a tenant failed; its reads go on from what is known");
        }
        match behind.into_iter().next() {
            // Who starts has nothing to go on from.
            Some((tenant, why)) if wait.is_zero() => Err(LedgerError::Unavailable(format!("tenant {tenant}: {why}"))),
            _ => Ok(Some(count)),
        }
    }

    /// A record that somebody wrote: readers see it, waiting requests are told, its task looks again if it was not
    /// the writer, and what is this process' own to drive and lies still is driven.
    fn take_in(&self, record: OperationRecord) {
        let record = Arc::new(record);
        let is_new = self.0.parts.fleet.put(Arc::clone(&record));
        let key = key_of(&record);
        let mut registry = self.0.registry();
        registry.followed.retain(|_, updates| updates.receiver_count() > 0);
        registry.show(&key, &record);
        let rests = !registry.running.contains_key(&key) && !registry.importing.contains(&key);
        drop(registry);
        if is_new && rests && record.fence.owner == self.0.owner && record.due.is_some() {
            self.start(Box::new((*record).clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_fails_is_not_hidden_by_the_others() {
        let (acme, lab): (TenantId, TenantId) = ("acme".parse().unwrap(), "lab".parse().unwrap());
        let (mut followed, start) = (Followed::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let failing = BTreeMap::from([(acme.clone(), "damaged".to_owned())]);
        assert!(followed.answered(FeedPosition::new(), &BTreeMap::new(), at(1)).is_empty());
        assert_eq!(followed.answered(FeedPosition::new(), &failing, at(2)), std::slice::from_ref(&acme));
        assert!(followed.answered(FeedPosition::new(), &failing, at(3)).is_empty(), "said once");
        let heard = |followed: &Followed| (followed.heard_of(&acme), followed.heard_of(&lab), followed.heard_of_all());
        assert_eq!(heard(&followed), (Some(at(1)), Some(at(3)), Some(at(1))));
        followed.answered(FeedPosition::new(), &BTreeMap::new(), at(4));
        assert_eq!(heard(&followed), (Some(at(4)), Some(at(4)), Some(at(4))));
    }
}
