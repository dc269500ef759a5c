//! Finds, deletes and proves absent what an operation condemned, beside the walk of the operation itself: one task for
//! each condemned attempt, owned by the operation's task and ended with it. They call the vendor and write nothing;
//! what they find out, the walk writes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_model::{
    ids::{CloudId, CloudName},
    operation::{Attempt, OperationRecord},
    time::Time,
};
use meridian_policies::budget::{Class, Purpose};
use tokio::{task::JoinSet, time::Instant};

use super::{
    driver::Inner,
    machine::condemned::{Finding, Which, first_id},
    patience::{BACKOFF, Backoff},
    running::Running,
    sending::delete,
};
use crate::status::poll::{Poller, Watched};

/// Findings on their way from the tasks to the walk.
type Findings = Arc<Mutex<VecDeque<Finding>>>;

/// The clearing of one operation's condemned attempts.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// What the tasks are at.
    at: Vec<Which>,
    /// Since when this process has looked for an attempt, by the monotonic clock (RELIABILITY 2.5 c).
    since: BTreeMap<CloudName, Instant>,
    findings: Findings,
    tasks: JoinSet<()>,
}

fn lock(findings: &Findings) -> MutexGuard<'_, VecDeque<Finding>> {
    // A poisoned lock means a panic between two complete states; the queue is whole.
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clearing {
    /// Sees to it that exactly what the record condemns is being cleared.
    pub(super) fn of(&mut self, inner: &Arc<Inner>, running: &Running, record: &OperationRecord) {
        let wanted: Vec<Which> = record.condemned.iter().map(Which::of).collect();
        if wanted == self.at {
            return;
        }
        self.tasks.abort_all();
        self.tasks = JoinSet::new();
        self.findings = Findings::default();
        for attempt in &record.condemned {
            let since = *self.since.entry(attempt.name.clone()).or_insert_with(Instant::now);
            let purpose = Purpose::tenant(&record.tenant, Class::Delete);
            let work = clear(Arc::clone(inner), attempt.clone(), since, purpose);
            let (findings, running) = (Arc::clone(&self.findings), running.clone());
            self.tasks.spawn(async move {
                let finding = work.await;
                lock(&findings).push_back(finding);
                running.wake.notify_one();
            });
        }
        self.at = wanted;
    }

    /// Something that was found out and not written yet.
    pub(super) fn finding(&mut self) -> Option<Finding> {
        let finding = lock(&self.findings).pop_front();
        if finding.is_some() {
            // Whatever becomes of it, the next look at the record begins anew: nothing is left without a task.
            self.at.clear();
        }
        finding
    }
}

/// Works on one condemned attempt until something is found out about it.
async fn clear(inner: Arc<Inner>, attempt: Attempt, since: Instant, purpose: Purpose) -> Finding {
    let which = Which::of(&attempt);
    let mut backoff = Backoff::new(BACKOFF);
    loop {
        // A backend that is not configured any more may come back with the next configuration.
        if let Ok(poller) = inner.parts.pollers.of(&attempt.backend) {
            let backend = poller.backend();
            if let Some(id) = &attempt.cloud_id {
                match delete(&inner.parts, backend, &purpose, (attempt.name.as_str(), id)).await {
                    Ok(()) if is_gone(poller, id, inner.parts.clock.now()).await => return Finding::Gone(which),
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%error, "delete of a condemned instance failed; it is tried again"),
                }
            } else {
                let asked = inner.parts.clock.now();
                let bound = backend.effect_bound();
                let late = since.elapsed() > bound && asked > attempt.armed_at + bound;
                if let Ok(sight) = poller.look_up(attempt.name.clone(), late, &purpose).await {
                    if let Some(id) = first_id(&sight.found) {
                        return Finding::Found(which, id);
                    }
                    if sight.proves_absence() {
                        return Finding::Gone(which);
                    }
                }
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Longest watch of a deleted instance before it is deleted once more.
const GONE_WITHIN: Duration = BACKOFF.1;

/// Watches an instance whose delete was answered, for a while; true when a complete answer asked for after `since` does
/// not show it.
pub(super) async fn is_gone(poller: &Poller, id: &CloudId, since: Time) -> bool {
    let mut sight = poller.watch(id, Class::Delete);
    let watching = async {
        loop {
            match sight.borrow_and_update().clone() {
                // Asked before the delete was answered proves nothing.
                Watched::Missing(at) if at >= since => return poller.lists_now(),
                _ => {}
            }
            if sight.changed().await.is_err() {
                return false;
            }
        }
    };
    tokio::time::timeout(GONE_WITHIN, watching).await.unwrap_or(false)
}
