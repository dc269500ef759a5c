//! The one writer: a thread that takes waiting commands, runs them in one write transaction, commits it durably
//! and only then answers them all.
//!
//! A failed commit ends it for good. What the disk holds is unknown then, and the system may answer a second
//! fsync with success although pages of the first were lost; only a new start from what is on disk is honest.
//! So every waiting command is answered `Unanswered` and every later one `Unavailable`, and the owner is told through its hook, once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use redb::{Database, Durability, WriteTransaction};
use tokio::sync::mpsc;

use super::{
    pots::Trees,
    tables::{Fault, Tables},
};
use crate::{LedgerError, seal::Sealer};

/// Commands that wait for the writer; further callers wait for room. Two full transactions: enough that the writer
/// never waits for callers, and no more, since what waits is held in memory either way.
pub(super) const QUEUE_MAX: usize = 512;
/// Commands in one transaction: enough that the fsync is a small part of each, few enough that none waits long.
const BATCH_MAX: usize = 256;
/// From this size on each commit also stores the allocator's state, so that a crash is recovered from without a
/// walk over the file (redb `set_quick_repair`); below, the walk takes under a second or two.
const QUICK_REPAIR_FROM_BYTES: u64 = 256 * 1024 * 1024;
/// How often the file's size is looked at, in transactions.
const SIZE_CHECK_EVERY: u32 = 1_024;

/// A command: does its part of a transaction and returns what answers its caller after the commit.
pub(super) type Job = Box<dyn FnOnce(&mut Tables<'_>) -> Result<Answer, String> + Send>;
/// Sends an answer.
pub(super) type Answer = Box<dyn FnOnce() + Send>;
/// Told once, with the reason, when the ledger cannot go on.
pub type FatalHook = Box<dyn FnOnce(&str) + Send>;

/// What writer and readers share.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) db: Database,
    pub(super) sealer: Sealer,
    /// Quota trees that are ready for checks.
    pub(super) trees: Trees,
    /// Incarnation of the store.
    pub(super) incarnation: String,
    /// Why the ledger cannot go on.
    pub(super) failure: OnceLock<String>,
}

impl Store {
    /// The answer of a ledger that stopped.
    pub(super) fn unavailable(&self) -> LedgerError {
        LedgerError::Unavailable(self.failure.get().map_or("it has been closed", String::as_str).to_owned())
    }
}

/// Makes a job of a command; the answer goes to `reply` unless the transaction fails.
pub(super) fn job<T: Send + 'static>(
    run: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    reply: tokio::sync::oneshot::Sender<Result<T, LedgerError>>,
) -> Job {
    Box::new(move |tables| {
        let answer = match run(tables) {
            Ok(answer) => Ok(answer),
            Err(Fault::Command(error)) => Err(error),
            Err(Fault::Store(why)) => {
                drop(reply.send(Err(LedgerError::Unavailable(why.clone()))));
                return Err(why);
            }
        };
        // A caller that is gone needs no answer.
        Ok(Box::new(move || drop(reply.send(answer))))
    })
}

/// The writer thread's whole life.
pub(super) fn write_loop(store: &Arc<Store>, path: &PathBuf, mut queue: mpsc::Receiver<Job>, fatal: FatalHook) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut answers = Vec::with_capacity(BATCH_MAX);
    let mut quick_repair = false;
    let mut turn = 0;
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        if turn % SIZE_CHECK_EVERY == 0 {
            quick_repair = std::fs::metadata(path).is_ok_and(|m| m.len() >= QUICK_REPAIR_FROM_BYTES);
        }
        turn = turn.wrapping_add(1);
        // The store's own checks may panic on a file that was changed under it; that is a failure like another.
        let mut jobs = batch.drain(..);
        let done = catch_unwind(AssertUnwindSafe(|| transact(store, &mut jobs, &mut answers, quick_repair)));
        match done.unwrap_or_else(|_| Err("the store panicked".to_owned())) {
            Ok(()) => answers.drain(..).for_each(|answer| answer()),
            Err(why) => {
                // First the reason, then the end of the channels that callers wait on.
                let why = store.failure.get_or_init(|| format!("a write failed and the ledger stopped: {why}"));
                queue.close();
                drop(jobs);
                answers.clear();
                while queue.try_recv().is_ok() {}
                fatal(why);
                return;
            }
        }
    }
}

/// One transaction. Jobs that did not come to their turn and answers stay with the caller when it fails.
fn transact(
    store: &Store,
    jobs: &mut std::vec::Drain<'_, Job>,
    answers: &mut Vec<Answer>,
    quick_repair: bool,
) -> Result<(), String> {
    let text = |e: redb::Error| e.to_string();
    let mut tx = store.db.begin_write().map_err(|e| text(e.into()))?;
    make_durable(&mut tx, quick_repair)?;
    let dirty = {
        let mut tables = Tables::open(&tx, (&store.sealer, &store.trees), &store.incarnation).map_err(reason)?;
        for job in jobs {
            answers.push(job(&mut tables)?);
        }
        tables.dirty
    };
    if dirty {
        tx.commit().map_err(|e| text(e.into()))?;
    } else {
        tx.abort().map_err(|e| text(e.into()))?;
    }
    Ok(())
}

/// Each commit reaches the disk before it returns. In two phases: the new root becomes current only after all
/// its pages are on disk. With one phase a damaged page of the newest commit looks like a commit that was cut
/// short, and acknowledged steps would be rolled back without a word; with two it refuses to open.
pub(super) fn make_durable(tx: &mut WriteTransaction, quick_repair: bool) -> Result<(), String> {
    tx.set_durability(Durability::Immediate).map_err(|e| redb::Error::from(e).to_string())?;
    tx.set_two_phase_commit(true);
    tx.set_quick_repair(quick_repair);
    Ok(())
}

/// The text of a fault outside any command.
pub(super) fn reason(fault: Fault) -> String {
    match fault {
        Fault::Command(error) => error.to_string(),
        Fault::Store(why) => why,
    }
}
