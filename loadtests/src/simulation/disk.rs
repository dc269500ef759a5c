//! A gateway's disk: its intent journal, and the moment between an attempt that is journalled and its request, in which
//! the world may catch the gateway.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_gateway::journal::intent::{Intent, IntentFuture, IntentLog, MemoryIntents};
use meridian_model::{
    ids::{BackendId, CloudName},
    operation::OperationRecord,
    time::Time,
};

use super::{faults::Caught, trace::Trace};

/// How long who is caught waits for what the world does to it: more than one step of the world.
const CAUGHT_WAIT: Duration = Duration::from_millis(12);

/// The disk of one gateway, which outlives its processes.
#[derive(Debug)]
pub struct Disk {
    host: &'static str,
    trace: Arc<Trace>,
    journal: MemoryIntents,
    traps: Mutex<Traps>,
}

#[derive(Debug, Default)]
struct Traps {
    /// Attempts until it happens, and what.
    set: VecDeque<(usize, Caught)>,
    /// Where the attempt that was caught goes, and what is to happen.
    sprung: Vec<(BackendId, Caught)>,
}

impl Disk {
    /// The empty disk of a host.
    #[must_use]
    pub fn new(host: &'static str, trace: &Arc<Trace>) -> Self {
        Self { host, trace: Arc::clone(trace), journal: MemoryIntents::default(), traps: Mutex::default() }
    }

    fn traps(&self) -> MutexGuard<'_, Traps> {
        // A poisoned lock means a panic between two complete states.
        self.traps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a trap for the attempt that many from now.
    pub fn set_trap(&self, after: usize, what: Caught) {
        self.traps().set.push_back((after.max(1), what));
    }

    /// Takes every trap away.
    pub fn clear(&self) {
        *self.traps() = Traps::default();
    }

    /// What was caught since this was asked last.
    #[must_use]
    pub fn sprung(&self) -> Vec<(BackendId, Caught)> {
        std::mem::take(&mut self.traps().sprung)
    }

    /// Counts an attempt; whether it is caught.
    fn catches(&self, backend: &BackendId) -> bool {
        let mut traps = self.traps();
        for (left, _) in &mut traps.set {
            *left = left.saturating_sub(1);
        }
        let at = traps.set.iter().position(|(left, _)| *left == 0);
        let caught = at.and_then(|at| traps.set.remove(at));
        if let Some((_, what)) = caught {
            traps.sprung.push((backend.clone(), what));
        }
        caught.is_some()
    }
}

impl IntentLog for Disk {
    fn arm(&self, intent: Intent) -> IntentFuture<'_> {
        let caught = self.catches(&intent.backend);
        Box::pin(async move {
            self.journal.arm(intent).await?;
            if caught {
                tokio::time::sleep(CAUGHT_WAIT).await;
            }
            loop {
                let left = self.trace.stalled_for(self.host);
                if left == Duration::ZERO {
                    return Ok(());
                }
                tokio::time::sleep(left).await;
            }
        })
    }

    fn settle(&self, name: &CloudName) {
        self.journal.settle(name);
    }

    fn pending(&self) -> Vec<Intent> {
        self.journal.pending()
    }

    fn armed_before(&self, time: Time) -> Vec<Intent> {
        self.journal.armed_before(time)
    }

    fn answer(&self, record: OperationRecord) -> IntentFuture<'_> {
        self.journal.answer(record)
    }

    fn answers(&self) -> Vec<OperationRecord> {
        self.journal.answers()
    }

    fn forget(&self, before: Time) {
        self.journal.forget(before);
    }
}
