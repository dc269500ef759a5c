//! The sweeps of a backend among several gateways: one of them sweeps and posts what it saw, the others apply that
//! exactly like sweeps of their own (`status::board`), and take over when it is gone (`status::lead`). A gateway that
//! cannot read the board lets its data grow old, and believes no silence meanwhile.

use std::time::Duration;

use meridian_ledger::shared::Post;
use meridian_model::time::Time;

use super::{Poller, lock};
use crate::status::{
    board::{self, Followed, Head, Told, ms},
    lead::{Leadership, Role},
};

/// For how long a follower waits for something new on the board, and before it asks again a store that did not answer.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);
const UNREAD_WAIT: Duration = Duration::from_millis(500);

/// Pages of a board that are read at once: as many entries as a sweep may show.
const BOARD_PAGES_MAX: usize = 1000;

impl Poller {
    /// Leads or follows, as the lease says.
    pub(super) async fn share_sweeps(&self, leadership: &Leadership) {
        let mut role = leadership.role();
        let mut followed = Followed::default();
        loop {
            let now = *role.borrow_and_update();
            let turn = async {
                match now {
                    Role::Undecided => std::future::pending().await,
                    Role::Leader(term) => self.lead(leadership, term).await,
                    Role::Alone => loop {
                        let (_, next) = self.sweep_once().await;
                        tokio::time::sleep_until(next).await;
                    },
                    Role::Follower => self.follow(leadership, &mut followed).await,
                }
            };
            tokio::select! {
                biased;
                _ = role.changed() => {}
                () = turn => {}
            }
        }
    }

    /// Sweeps and posts until it leads no more.
    async fn lead(&self, leadership: &Leadership, term: u64) {
        lock(&self.sweeps).unread = false;
        // What is on the board; none when that is not known.
        let mut told: Option<Told> = None;
        loop {
            let (shown, next) = self.sweep_once().await;
            if told.is_none() {
                told = read_all(leadership).await;
            }
            let posted = match (&mut told, &shown) {
                (None, _) => false,
                (Some(told), Some(shown)) => self.post(leadership, term, told.changes(shown)).await,
                (Some(_), None) => self.post(leadership, term, vec![Vec::new()]).await,
            };
            if !posted {
                told = None;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Posts what changed, and with the last of it how the sweeps go.
    async fn post(&self, leadership: &Leadership, term: u64, chunks: Vec<Vec<board::Change>>) -> bool {
        let last = chunks.len().saturating_sub(1);
        for (n, changed) in chunks.into_iter().enumerate() {
            let head = if n == last { serde_json::to_vec(&self.head()).ok() } else { None };
            if !leadership.post(Post { term, changed, head }).await {
                return false;
            }
        }
        true
    }

    fn head(&self) -> Head {
        let sweeps = *lock(&self.sweeps);
        let now = self.clock.now();
        let ago = |at: Option<Time>| at.map(|at| ms(now.since(at)));
        Head {
            round: sweeps.round,
            failures: sweeps.failures,
            observed_ago_ms: ago(sweeps.observed_at),
            failing_for_ms: ago(sweeps.failing_since),
            distrusted: sweeps.distrusted,
        }
    }

    /// Applies what the leader posts until it follows no more.
    async fn follow(&self, leadership: &Leadership, followed: &mut Followed) {
        loop {
            let Some(page) = leadership.read(followed.version(), FOLLOW_WAIT).await else {
                lock(&self.sweeps).unread = true;
                tokio::time::sleep(UNREAD_WAIT).await;
                continue;
            };
            let now = self.clock.now();
            let news = followed.take(page, now);
            if news.unreadable > 0 {
                tracing::debug!(backend = %self.backend.id, entries = news.unreadable, "the board holds entries of another version");
            }
            if let Some(market) = news.market {
                self.backend.market.take(market);
            }
            if let Some((at, judged)) = news.judged {
                self.judged.keep(at, judged);
            }
            match news.head {
                Some((head, age)) => self.followed(&head, now - age, followed),
                None => lock(&self.sweeps).unread = false,
            }
        }
    }

    /// Notes a sweep of the leader as one of our own; its head was posted at `posted` by our clock.
    fn followed(&self, head: &Head, posted: Time, followed: &Followed) {
        let at = |ago_ms: Option<u64>| ago_ms.map(|ago| posted - Duration::from_millis(ago));
        let news = {
            let mut sweeps = lock(&self.sweeps);
            let news = sweeps.round != head.round;
            sweeps.round = head.round;
            sweeps.unread = false;
            sweeps.failures = head.failures;
            sweeps.failing_since = at(head.failing_for_ms);
            sweeps.distrusted = head.distrusted;
            // Answers take different times: what is known does not get older by a slow one.
            sweeps.observed_at = sweeps.observed_at.max(at(head.observed_ago_ms));
            news.then_some(sweeps.observed_at).flatten()
        };
        if let Some(started) = news {
            self.keep_canaries(followed.instances());
            for observed in followed.instances() {
                self.sight(started, observed);
            }
            self.backend.metrics().sweep(self.backend.id.as_str(), "followed");
        }
    }
}

/// What is on the board, from the beginning.
async fn read_all(leadership: &Leadership) -> Option<Told> {
    let (mut told, mut after) = (Told::default(), 0);
    for _ in 0..BOARD_PAGES_MAX {
        let page = leadership.read(after, Duration::ZERO).await?;
        let complete = page.complete;
        after = page.version;
        told.take(page);
        if complete {
            return Some(told);
        }
    }
    None
}
