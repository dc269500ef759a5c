//! Follows the ledger's feed: what other gateways write comes into this one's fleet, wakes its own tasks, and reaches
//! the requests that wait here for an operation driven elsewhere.
//!
//! A ledger that only this process writes has no feed; then everything here rests, and the fleet is as young as the
//! last write. While a feed does not answer, reads go on from the fleet and say so ([`Driver::feed_age`]).
//!
//! Each tenant's books are its own: they are open from when all of the tenant was read for the first time since the start
//! ([`Driver::has_read`]), which is at the start for all that can be read then, and for the others as soon as they can.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::{Feed, FeedPosition, Known, LedgerError};
use meridian_model::{ids::TenantId, operation::OperationRecord};
use tokio::time::Instant;

use super::{driver::Driver, running::key_of};
use crate::telemetry::seldom::Seldom;

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
pub(super) struct Feeding {
    followed: Mutex<Followed>,
    /// What readers see already.
    known: Known,
}

#[derive(Debug, Default)]
struct Followed {
    position: FeedPosition,
    /// When the last call that was answered began; none without a feed.
    answered_at: Option<Instant>,
    /// Tenants that could not be read in it, with when they were last.
    behind: BTreeMap<TenantId, Instant>,
    /// Tenants of which not all was read since the start; none known before anything was read.
    unread: Option<BTreeSet<TenantId>>,
}

/// Whose standing an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// Could be read, or were not tried, before.
    failed: Vec<TenantId>,
    /// All of them was read for the first time, later than of others.
    opened: Vec<TenantId>,
}

impl Followed {
    /// Notes an answer of `now` and the tenants of which it does not tell, or not all.
    fn answered(&mut self, feed: &Feed, now: Instant) -> News {
        let Feed { position, behind, unfinished, .. } = feed;
        let before = self.answered_at.unwrap_or(now);
        self.behind.retain(|tenant, _| behind.contains_key(tenant));
        let failed: Vec<_> = behind.keys().filter(|tenant| !self.behind.contains_key(*tenant)).cloned().collect();
        self.behind.extend(failed.iter().map(|tenant| (tenant.clone(), before)));
        (self.position, self.answered_at) = (position.clone(), Some(now));
        let lacks = |tenant: &TenantId| behind.contains_key(tenant) || unfinished.contains(tenant);
        let opened = match &mut self.unread {
            Some(unread) => unread.extract_if(.., |tenant| !lacks(tenant)).collect(),
            None => {
                self.unread = Some(behind.keys().chain(unfinished).cloned().collect());
                Vec::new()
            }
        };
        News { failed, opened }
    }

    fn has_read(&self, tenant: &TenantId) -> bool {
        self.unread.as_ref().is_some_and(|unread| !unread.contains(tenant))
    }

    fn heard_of(&self, tenant: &TenantId) -> Option<Instant> {
        self.behind.get(tenant).copied().or(self.answered_at)
    }

    fn heard_of_all(&self) -> Option<Instant> {
        self.behind.values().copied().chain(self.answered_at).min()
    }
}

/// What one call of the feed brought.
struct Fed {
    records: usize,
    /// Of some tenant there is more at once.
    has_more: bool,
}

impl Feeding {
    fn lock(&self) -> MutexGuard<'_, Followed> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that readers see a record as it is: the feed need not bring it.
    pub(super) fn shown(&self, record: &OperationRecord) {
        if self.lock().answered_at.is_some() {
            self.known.note(&record.tenant, record.seq);
        }
    }

    /// Whether all of a tenant was read since the start.
    pub(super) fn has_read(&self, tenant: &TenantId) -> bool {
        self.lock().has_read(tenant)
    }

    /// Notes that everything was read without a feed.
    pub(super) fn read_all(&self) {
        self.lock().unread = Some(BTreeSet::new());
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

    /// Whether all of a tenant was read since the start; before, what it has cannot be told from what it has not.
    #[must_use]
    pub fn has_read(&self, tenant: &TenantId) -> bool {
        self.0.feeding.has_read(tenant)
    }

    /// The tenants of which that is not so; none known before anything was read.
    #[must_use]
    pub fn unread(&self) -> Option<BTreeSet<TenantId>> {
        self.0.feeding.lock().unread.clone()
    }

    /// Reads the feed up to the end of every tenant that can be read. False when the ledger has none.
    ///
    /// # Errors
    /// No tenant can be read.
    pub(super) async fn catch_up(&self) -> Result<bool, LedgerError> {
        for _ in 0..CATCH_UP_CALLS_MAX {
            match self.feed(Duration::ZERO).await? {
                None => return Ok(false),
                Some(fed) if !fed.has_more => return Ok(true),
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// Follows the feed until the process ends; returns early only from a ledger that has none.
    pub async fn follow_feed(self) {
        let following = async {
            let (mut wait, mut seldom) = (FAILED_WAIT.0, Seldom::default());
            loop {
                let asked = Instant::now();
                let answer = tokio::time::timeout(FEED_ANSWER_WITHIN, self.feed(FEED_WAIT)).await;
                self.0.parts.metrics.feed_age(self.feed_age().unwrap_or_default());
                match answer {
                    Ok(Ok(None)) => return,
                    Ok(Ok(Some(fed))) => {
                        wait = FAILED_WAIT.0;
                        seldom.over();
                        if fed.records == 0 && asked.elapsed() < EMPTY_WAIT {
                            tokio::time::sleep(EMPTY_WAIT).await;
                        }
                    }
                    Ok(Err(error)) => {
                        if seldom.is_due(&error) {
                            tracing::warn!(%error, "the feed of the ledger failed; reads go on from what is known");
                        }
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

    /// One call; `None` from a ledger without a feed.
    async fn feed(&self, wait: Duration) -> Result<Option<Fed>, LedgerError> {
        let (asked, position) = (Instant::now(), self.0.feeding.lock().position.clone());
        let Some(mut feed) = self.0.parts.ledger.feed(&position, &self.0.feeding.known, wait).await? else {
            return Ok(None);
        };
        let fed = Fed { records: feed.records.len(), has_more: !feed.unfinished.is_empty() };
        for record in std::mem::take(&mut feed.records) {
            self.take_in(record);
        }
        self.0.parts.fleet.reached(&feed.position);
        self.0.feeding.known.pass(&feed.position);
        // An answer that was held back is as old as its end; one that was not, as its beginning.
        let now = if wait.is_zero() { asked } else { Instant::now() };
        let (news, unread) = {
            let mut followed = self.0.feeding.lock();
            (followed.answered(&feed, now), followed.unread.clone().unwrap_or_default())
        };
        for (tenant, why) in feed.behind.iter().filter(|(tenant, _)| news.failed.contains(tenant)) {
            if unread.contains(tenant) {
                tracing::error!(%tenant, why, "a tenant's ledger cannot be read: its reads are refused until it can");
            } else {
                tracing::warn!(%tenant, why, "the feed of a tenant failed; its reads go on from what is known");
            }
        }
        for tenant in news.opened {
            tracing::info!(%tenant, "a tenant's ledger was read; its reads are answered");
        }
        Ok(Some(fed))
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

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn feed(behind: &[&str], unfinished: &[&str]) -> Feed {
        Feed {
            behind: behind.iter().map(|name| (tenant(name), "damaged".to_owned())).collect(),
            unfinished: unfinished.iter().map(|name| tenant(name)).collect(),
            ..Feed::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_fails_is_not_hidden_by_the_others() {
        let (acme, lab) = (tenant("acme"), tenant("lab"));
        let (mut followed, start) = (Followed::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(followed.answered(&feed(&[], &[]), at(1)), News::default());
        assert_eq!(followed.answered(&feed(&["acme"], &[]), at(2)).failed, std::slice::from_ref(&acme));
        assert_eq!(followed.answered(&feed(&["acme"], &[]), at(3)), News::default(), "said once");
        let heard = |followed: &Followed| (followed.heard_of(&acme), followed.heard_of(&lab), followed.heard_of_all());
        assert_eq!(heard(&followed), (Some(at(1)), Some(at(3)), Some(at(1))));
        assert!(followed.has_read(&acme), "what is known of it goes on to be shown");
        followed.answered(&feed(&[], &[]), at(4));
        assert_eq!(heard(&followed), (Some(at(4)), Some(at(4)), Some(at(4))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_books_of_each_tenant_open_when_all_of_it_was_read() {
        let (mut followed, now) = (Followed::default(), Instant::now());
        let open = |followed: &Followed| ["acme", "lab", "beta"].map(|name| followed.has_read(&tenant(name)));
        assert_eq!(open(&followed), [false; 3], "nothing was read");
        for (answer, opened, expected) in [
            (feed(&["acme"], &["lab"]), vec![], [false, false, true]),
            (feed(&["acme"], &["lab"]), vec![], [false, false, true]),
            (feed(&["acme"], &[]), vec!["lab"], [false, true, true]),
            // What was read once is open for good.
            (feed(&["acme", "lab"], &["beta"]), vec![], [false, true, true]),
            // It can be read again, and there is more of it than one answer holds.
            (feed(&[], &["acme"]), vec![], [false, true, true]),
            (feed(&[], &[]), vec!["acme"], [true; 3]),
        ] {
            let opened: Vec<TenantId> = opened.into_iter().map(tenant).collect();
            assert_eq!(followed.answered(&answer, now).opened, opened, "{answer:?}");
            assert_eq!(open(&followed), expected, "{answer:?}");
        }
    }
}
