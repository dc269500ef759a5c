//! What is under way in this process, and who waits for what is driven elsewhere.
//!
//! Several gateways write the records of one ledger. A task has to look again at its record when somebody else
//! changed it, and must not be woken by its own writes, because each look costs calls to the vendor. So a task says
//! when it writes and what it wrote ([`Running::writing`], [`Running::wrote`]), and [`Running::shown`] compares
//! what the ledger's feed shows with that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use meridian_model::{
    ids::{OperationId, TenantId},
    operation::OperationRecord,
};
use tokio::sync::{Notify, watch};

pub(super) type Key = (TenantId, OperationId);

/// Where the states of one record show.
pub(super) type Updates = watch::Sender<Arc<OperationRecord>>;

/// The key of a record.
pub(super) fn key_of(record: &OperationRecord) -> Key {
    (record.tenant.clone(), record.op_id.clone())
}

/// Whether one state of a record is later than another. A store that was rebuilt may count a record's revisions from
/// less than it did; the places of its writes are above all that were before (`rebuild`), so that what it says counts and
/// what arrives late from before does not.
pub(crate) fn is_newer(record: &OperationRecord, than: &OperationRecord) -> bool {
    if record.fence.store == than.fence.store { record.rev > than.rev } else { record.seq > than.seq }
}

/// Shows a state to who waits, unless they saw a later one.
pub(super) fn tell(updates: &Updates, record: &Arc<OperationRecord>) {
    updates.send_if_modified(|held| {
        let newer = is_newer(record, held);
        if newer {
            *held = Arc::clone(record);
        }
        newer
    });
}

/// An operation that a task of this process drives.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) wake: Arc<Notify>,
    /// Somebody changed the record in the ledger; the task must look again before it ends.
    pub(super) asked: Arc<AtomicBool>,
    pub(super) updates: Updates,
    marks: Arc<Marks>,
}

/// Revisions of a record, as its task and the feed know them.
#[derive(Debug, Default)]
struct Marks {
    /// A write of the task is under way; what the feed shows meanwhile may be that.
    writing: AtomicBool,
    /// The last that the task wrote or read.
    known: AtomicU64,
    /// The last that the feed showed.
    shown: AtomicU64,
}

impl Running {
    pub(super) fn new(updates: Updates) -> Self {
        let known = AtomicU64::new(updates.borrow().rev);
        let marks = Arc::new(Marks { known, ..Marks::default() });
        Self { wake: Arc::default(), asked: Arc::default(), updates, marks }
    }

    /// Has the task look at its record again; returns where its changes show. Called under the lock of the
    /// registry, so that a task that is about to end sees it.
    pub(super) fn ask(&self) -> watch::Receiver<Arc<OperationRecord>> {
        self.asked.store(true, Ordering::Release);
        self.wake.notify_one();
        self.updates.subscribe()
    }

    /// The task is about to write its record.
    pub(super) fn writing(&self) {
        self.marks.writing.store(true, Ordering::Release);
    }

    /// The task's write has ended, and this is the revision it knows now.
    pub(super) fn wrote(&self, rev: u64) {
        self.read(rev);
        self.marks.writing.store(false, Ordering::Release);
        if self.marks.shown.load(Ordering::Acquire) > self.marks.known.load(Ordering::Acquire) {
            drop(self.ask());
        }
    }

    /// The task has read its record.
    pub(super) fn read(&self, rev: u64) {
        self.marks.known.fetch_max(rev, Ordering::AcqRel);
    }

    /// The feed shows a state of the record; wakes the task if somebody else wrote it.
    pub(super) fn shown(&self, record: &OperationRecord) {
        self.marks.shown.fetch_max(record.rev, Ordering::AcqRel);
        // In this order: a write of the task that ended before the first look is seen by the second.
        let writing = self.marks.writing.load(Ordering::Acquire);
        if !writing && record.rev > self.marks.known.load(Ordering::Acquire) {
            drop(self.ask());
        }
    }
}

/// All operations under way, and who waits for others. One lock, so that a record is always in one place.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Tables>);

#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Driven by a task of this process.
    pub(super) running: BTreeMap<Key, Running>,
    /// Driven elsewhere, with requests of this process that wait for their end. Bounded by the requests in work.
    pub(super) followed: BTreeMap<Key, Updates>,
    /// Claimed by an import of this process that is still being written: no task may take it for an interrupted one.
    pub(super) importing: BTreeSet<Key>,
    /// Their task panicked, or their import ended: whoever has them has to look whether something is left to do.
    pub(super) fallen: BTreeSet<Key>,
}

impl Registry {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        // A poisoned lock means a panic between two complete states; the tables are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The task of a record has ended, and another process drives it from here: who waited here goes on waiting.
    pub(super) fn pass_on(&mut self, key: &Key) {
        if let Some(running) = self.running.remove(key).filter(|r| r.updates.receiver_count() > 0) {
            self.followed.insert(key.clone(), running.updates);
        }
    }

    /// Where the states of a record that is driven elsewhere show.
    pub(super) fn follow(&mut self, key: &Key, record: &Arc<OperationRecord>) -> watch::Receiver<Arc<OperationRecord>> {
        self.followed.retain(|_, updates| updates.receiver_count() > 0);
        let updates = self.followed.entry(key.clone()).or_insert_with(|| watch::Sender::new(Arc::clone(record)));
        tell(updates, record);
        updates.subscribe()
    }

    /// Shows a state from the feed to the record's task and to who waits.
    pub(super) fn show(&self, key: &Key, record: &Arc<OperationRecord>) {
        if let Some(running) = self.running.get(key) {
            tell(&running.updates, record);
            running.shown(record);
        } else if let Some(updates) = self.followed.get(key) {
            tell(updates, record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::machine::tests::claimed;

    fn state(rev: u64, store: &str) -> Arc<OperationRecord> {
        let mut record = claimed();
        record.rev = rev;
        record.fence.store = store.to_owned();
        Arc::new(record)
    }

    fn asked(running: &Running) -> bool {
        running.asked.swap(false, Ordering::AcqRel)
    }

    #[test]
    fn a_task_is_woken_by_what_others_write_and_not_by_its_own_writes() {
        let running = Running::new(watch::Sender::new(state(1, "a")));
        running.shown(&state(1, "a"));
        assert!(!asked(&running), "it began with this");
        running.writing();
        running.shown(&state(2, "a"));
        assert!(!asked(&running), "may be its own");
        running.wrote(2);
        assert!(!asked(&running), "was its own");
        running.shown(&state(2, "a"));
        assert!(!asked(&running));
        running.shown(&state(3, "a"));
        assert!(asked(&running), "somebody else's");
        running.read(3);
        running.writing();
        running.shown(&state(5, "a"));
        running.wrote(4);
        assert!(asked(&running), "somebody wrote after it, before it knew that its own write had ended");
    }

    #[test]
    fn who_waits_never_sees_a_state_before_one_they_saw() {
        let updates = watch::Sender::new(state(3, "a"));
        tell(&updates, &state(2, "a"));
        assert_eq!(updates.borrow().rev, 3);
        tell(&updates, &state(4, "a"));
        assert_eq!(updates.borrow().rev, 4);
        let mut rebuilt = (*state(2, "b")).clone();
        rebuilt.seq = 1_000;
        tell(&updates, &Arc::new(rebuilt));
        assert_eq!(updates.borrow().rev, 2, "a rebuilt store");
        tell(&updates, &state(5, "a"));
        assert_eq!(updates.borrow().rev, 2, "and not what comes late from before");
    }

    #[test]
    fn who_waits_for_a_task_goes_on_waiting_when_another_process_has_its_record() {
        let registry = Registry::default();
        let (key, record) = (key_of(&state(1, "a")), state(1, "a"));
        let running = Running::new(watch::Sender::new(Arc::clone(&record)));
        let mut waiting = running.updates.subscribe();
        registry.lock().running.insert(key.clone(), running);
        registry.lock().pass_on(&key);
        registry.lock().show(&key, &state(2, "a"));
        assert!(waiting.has_changed().unwrap());
        assert_eq!(waiting.borrow_and_update().rev, 2);
        drop(waiting);
        let other = (key.0.clone(), "other".parse().unwrap());
        drop(registry.lock().follow(&other, &record));
        assert!(!registry.lock().followed.contains_key(&key), "nobody waits any more");
    }
}
