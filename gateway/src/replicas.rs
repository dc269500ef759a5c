//! Who else lives: how many gateways share what one deployment may use.
//!
//! Every gateway attends in the shared store again and again, and hears who else does. The count divides limits that
//! are kept locally: the pace towards a vendor at all times, the tenants' rates while the store does not answer. When
//! it does not, the last count holds. Stated error: for one [`ATTEND_INTERVAL`] after a gateway joined, the others do
//! not know it yet.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use meridian_ledger::shared::Shared;
use meridian_policies::share::preferred;
use tokio_util::sync::CancellationToken;

/// Time between two attendances.
pub const ATTEND_INTERVAL: Duration = Duration::from_secs(1);

/// A gateway that was not heard of for this long does not count.
pub const ATTEND_LEASE: Duration = Duration::from_secs(5);

/// Longest wait for one answer.
const ATTEND_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module; clones are handles.
#[derive(Debug, Clone)]
pub struct Replicas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<dyn Shared>,
    owner: String,
    count: AtomicU32,
    members: Mutex<Vec<String>>,
}

impl Replicas {
    /// Knows of nobody but the caller.
    #[must_use]
    pub fn new(shared: Arc<dyn Shared>, owner: String) -> Self {
        let members = Mutex::new(vec![owner.clone()]);
        Self(Arc::new(Inner { shared, owner, count: AtomicU32::new(1), members }))
    }

    /// This gateway's name among them.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.0.owner
    }

    /// How many live, this one included; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Whether a task belongs to this gateway when all are well: each task has one of the living.
    #[must_use]
    pub fn prefers_us(&self, task: &str) -> bool {
        let members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
        preferred(task, &members).is_none_or(|owner| owner == self.0.owner)
    }

    /// Attends once; a store that does not answer changes nothing.
    pub async fn attend(&self) {
        if !self.0.shared.is_shared() {
            return;
        }
        let answer = self.0.shared.attend(&self.0.owner, ATTEND_LEASE);
        match tokio::time::timeout(ATTEND_TIMEOUT, answer).await {
            Ok(Ok(members)) => {
                let count = u32::try_from(members.len()).unwrap_or(u32::MAX).max(1);
                if self.0.count.swap(count, Ordering::Relaxed) != count {
                    tracing::info!(replicas = count, "the number of living gateways changed");
                }
                *self.0.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
            }
            Ok(Err(error)) => tracing::debug!(%error, "could not attend"),
            Err(_) => tracing::debug!("could not attend in time"),
        }
    }

    /// Attends until `stop`, then leaves.
    pub async fn run(self, stop: CancellationToken) {
        if !self.0.shared.is_shared() {
            return;
        }
        let attending = async {
            loop {
                tokio::time::sleep(ATTEND_INTERVAL).await;
                self.attend().await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = attending => {}
        }
        // Best effort: the lease ends anyway.
        let _ = tokio::time::timeout(ATTEND_TIMEOUT, self.0.shared.attend(&self.0.owner, Duration::ZERO)).await;
    }
}
