//! Which gateway reads a backend for all: the leader of its task, by a lease in the shared store.
//!
//! A leader that gets no answer from the store goes on reading: nobody can take over without the store, and at worst
//! two read the same for a while, which costs calls and nothing else. It counts as a leader ([`Leadership::leads`])
//! only while its lease certainly holds, by its own monotonic clock from before it asked. A gateway that has never
//! had an answer reads for itself alone.
//!
//! Each task has a preferred gateway among the living ([`Replicas::prefers_us`]), so that the tasks are shared out; a
//! leader that is not it resigns once and stands back for a while. If the preferred one does not come, it leads on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meridian_ledger::shared::{BoardPage, Lead, Post, Posted, Shared};
use tokio::{sync::watch, time::Instant};

use crate::replicas::Replicas;

/// A lease lasts this many sweeps, so that one slow sweep changes no leader.
const LEASE_SWEEPS: u32 = 3;

/// Bounds of a lease. The lower one is for the store's sake: a renewal a second. The upper one bounds how old data
/// gets when a leader dies.
const LEASE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));

/// A leader renews this often in its lease.
const RENEWALS: u32 = 3;

/// Longest wait before a store that did not answer is asked again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Longest wait for the store when a post is written or a lead is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Beyond the end of another's lease, so that it has ended when the store is asked.
const LEASE_MARGIN: Duration = Duration::from_millis(10);

/// For this many leases a leader that handed over in vain keeps the task.
const HOLD_LEASES: u32 = 10;

/// What a gateway is to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not known yet.
    Undecided,
    /// Reads for all, in this term.
    Leader(u64),
    /// Reads for itself: the store has never answered.
    Alone,
    /// Follows what the leader posts.
    Follower,
}

impl Role {
    /// The term of who reads for all, 0 of who reads for itself alone; none of who does not read.
    #[must_use]
    pub const fn term(self) -> Option<u64> {
        match self {
            Self::Leader(term) => Some(term),
            Self::Alone => Some(0),
            Self::Follower | Self::Undecided => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Leadership {
    shared: Arc<dyn Shared>,
    replicas: Replicas,
    task: String,
    lease: Duration,
    role: watch::Sender<Role>,
    until: Mutex<Option<Instant>>,
}

impl Leadership {
    /// Leads nothing before [`Self::keep`] runs.
    #[must_use]
    pub fn new(shared: Arc<dyn Shared>, replicas: Replicas, task: String, sweep_interval: Duration) -> Self {
        let lease = (sweep_interval * LEASE_SWEEPS).clamp(LEASE.0, LEASE.1);
        Self { shared, replicas, task, lease, role: watch::Sender::new(Role::Undecided), until: Mutex::default() }
    }

    /// What this gateway is to the task, and its changes.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// Certainly nobody else leads now.
    #[must_use]
    pub fn leads(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*self.role.borrow(), Role::Leader(_)) && until.is_some_and(|until| Instant::now() < until)
    }

    /// This gateway's name among those that may lead.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.replicas.owner()
    }

    fn become_(&self, role: Role, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        let changed = self.role.send_if_modified(|held| std::mem::replace(held, role) != role);
        if changed {
            tracing::info!(task = %self.task, ?role, "who reads a backend changed");
        }
    }

    /// Leads, or stands by to take over, for ever.
    pub async fn keep(&self) {
        let each = self.lease / RENEWALS;
        let mut hold: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            let answer = self.shared.lead(&self.task, self.replicas.owner(), self.lease);
            let wait = match tokio::time::timeout(each, answer).await {
                Ok(Ok(Lead::Leader { term })) => {
                    self.become_(Role::Leader(term), Some(asked + self.lease));
                    if !self.replicas.prefers_us(&self.task) && hold.is_none_or(|until| asked > until) {
                        hold = Some(asked + self.lease * HOLD_LEASES);
                        self.resign().await;
                        self.lease
                    } else {
                        each
                    }
                }
                Ok(Ok(Lead::Follower { left })) => {
                    self.become_(Role::Follower, None);
                    (left + LEASE_MARGIN).min(each)
                }
                Ok(Err(_)) | Err(_) => {
                    if *self.role.borrow() == Role::Undecided {
                        self.become_(Role::Alone, None);
                    }
                    each.min(RETRY_WAIT)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Gives the lead up, so that nobody waits for the lease.
    pub async fn resign(&self) {
        if !matches!(*self.role.borrow(), Role::Leader(_)) {
            return;
        }
        self.become_(Role::Follower, None);
        // Best effort: the lease ends anyway.
        let _ = tokio::time::timeout(CALL_TIMEOUT, self.shared.resign(&self.task, self.replicas.owner())).await;
    }

    /// Publishes; false when it did not come to be, or nobody knows. Who hears that it does not lead, follows.
    pub async fn post(&self, post: Post) -> bool {
        match tokio::time::timeout(CALL_TIMEOUT, self.shared.post(&self.task, post)).await {
            Ok(Ok(Posted::Written { .. })) => true,
            Ok(Ok(Posted::Deposed)) => {
                self.become_(Role::Follower, None);
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// What was posted since a version; none when the store does not answer.
    pub async fn read(&self, after: u64, wait: Duration) -> Option<BoardPage> {
        tokio::time::timeout(wait + CALL_TIMEOUT, self.shared.read(&self.task, after, wait)).await.ok()?.ok()
    }
}
