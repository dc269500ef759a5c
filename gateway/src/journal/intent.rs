//! The intent journal: what this gateway was about to send, and what it answered for good, kept on its own disk for the
//! rebuild of a shared ledger that lost writes (RELIABILITY 2.9). Evidence, never authority: nothing is decided by it
//! while the ledger is whole.
//!
//! An intent is written after the attempt is armed in the ledger and before its request leaves; an answer that leaves
//! no trace at any cloud (a failure, an accepted delete) after the ledger has it and before it is given. Both are kept
//! for [`KEPT`]: a store that fails over loses what it took last.
//!
//! The seam is [`IntentLog`]: [`file::FileIntents`] in a process, [`MemoryIntents`] in
//! a simulation, [`NoIntents`] beside the embedded ledger, which is durable itself.

pub mod file;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::{Future, ready},
    ops::Bound,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_model::{
    ids::{
        AdapterName, BackendId, ClientToken, CloudName, InstanceName, InstanceUid, OperationId, ProjectName, RegionId,
        TenantId, ZoneId,
    },
    instance::{Labels, Shape},
    operation::{Attempt, Charge, OperationRecord, PROJECT},
    time::Time,
};
use serde::{Deserialize, Serialize};

/// How long everything is kept: far longer than a replica that may become the primary lags behind.
pub const KEPT: Duration = Duration::from_secs(5 * 60);
/// Intents from which no create is taken on, so that memory is bounded: about 200 MiB. 660 creates a second for all of
/// [`KEPT`], which is far above what the vendors' rates let through; none is forgotten for it.
const INTENTS_MAX: usize = 200_000;
/// Most answers that are kept; the oldest go first.
const ANSWERS_MAX: usize = 10_000;

/// One attempt that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Owner of the instance.
    pub tenant: TenantId,
    /// The operation.
    pub op_id: OperationId,
    /// Identifier of the instance's life.
    pub uid: InstanceUid,
    /// The tenant's name for it.
    pub name: InstanceName,
    /// Fingerprint of the request.
    pub fingerprint: String,
    /// When the key was claimed.
    pub created_at: Time,
    /// Generation of the instance.
    pub epoch: u32,
    /// Number of the attempt.
    pub n: u32,
    /// Where it is sent.
    pub backend: BackendId,
    /// The backend's adapter.
    pub adapter: AdapterName,
    /// The backend's region.
    pub region: RegionId,
    /// The zone asked for.
    pub zone: ZoneId,
    /// What the instance is called at the vendor.
    pub cloud_name: CloudName,
    /// What the vendor gets as client token.
    pub token: ClientToken,
    /// Size asked of the vendor.
    pub shape: Shape,
    /// What the operation holds of the tenant's quota.
    pub charge: Charge,
    /// The project that it is charged to; none: the tenant itself. An older gateway does not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The time in the request's signature.
    pub armed_at: Time,
}

impl Intent {
    /// The intent to send an attempt of a record.
    #[must_use]
    pub fn of(record: &OperationRecord, attempt: &Attempt) -> Self {
        Self {
            tenant: record.tenant.clone(),
            op_id: record.op_id.clone(),
            uid: record.uid.clone(),
            name: record.name.clone(),
            fingerprint: record.fingerprint.clone(),
            created_at: record.created_at,
            epoch: record.epoch,
            n: attempt.n,
            backend: attempt.backend.clone(),
            adapter: attempt.adapter.clone(),
            region: attempt.region.clone(),
            zone: attempt.zone.clone(),
            cloud_name: attempt.name.clone(),
            token: attempt.token.clone(),
            shape: attempt.shape.clone(),
            charge: record.charge,
            project: record.project(),
            armed_at: attempt.armed_at,
        }
    }

    /// What it is settled by: cloud names are given once.
    #[must_use]
    pub fn key(&self) -> &CloudName {
        &self.cloud_name
    }
}

/// Why an intent is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// The disk refuses.
    #[error("the intent journal cannot be written: {0}")]
    Disk(String),
    /// The journal was closed.
    #[error("the intent journal is closed")]
    Closed,
}

/// A boxed future of the journal.
pub type IntentFuture<'a> = Pin<Box<dyn Future<Output = Result<(), IntentError>> + Send + 'a>>;

/// What a journal tells to a rebuild.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Note {
    /// An attempt that was about to be sent.
    Intent(Box<Intent>),
    /// A record whose outcome was answered ([`vouched`]).
    Answer(Box<OperationRecord>),
}

impl Note {
    /// What it is called among the notes of its tenant, handed in by `owner`.
    #[must_use]
    pub fn key(&self, owner: &str) -> String {
        match self {
            Self::Intent(intent) => intent.key().to_string(),
            Self::Answer(record) => format!("answer/{owner}/{}", record.op_id),
        }
    }
}

/// The annotations without which its charge would lie elsewhere.
fn kept(record: &OperationRecord) -> Labels {
    record.annotations.get_key_value(PROJECT).map(|(key, name)| (key.clone(), name.clone())).into_iter().collect()
}

/// What is kept of a record whose outcome was answered: all that the answer and what follows from it need, without the
/// wish, which may hold secrets.
#[must_use]
pub fn vouched(record: &OperationRecord) -> OperationRecord {
    OperationRecord {
        labels: Labels::new(),
        annotations: kept(record),
        spec: Arc::default(),
        decision: None,
        ..record.clone()
    }
}

/// Answers by operation.
#[derive(Debug, Default)]
struct Answers(BTreeMap<(TenantId, OperationId), Answer>);

#[derive(Debug)]
struct Answer {
    record: OperationRecord,
    durable: bool,
}

impl Answers {
    /// The same answer is on the disk already.
    fn has(&self, record: &OperationRecord) -> bool {
        let known = self.0.get(&(record.tenant.clone(), record.op_id.clone()));
        known.is_some_and(|a| a.durable && a.record.rev >= record.rev)
    }

    fn keep(&mut self, record: OperationRecord, durable: bool) {
        let key = (record.tenant.clone(), record.op_id.clone());
        if self.0.get(&key).is_some_and(|known| known.record.rev > record.rev) {
            return;
        }
        self.0.insert(key, Answer { record, durable });
        if self.0.len() > ANSWERS_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, a)| a.record.updated_at).map(|(key, _)| key.clone())
        {
            tracing::warn!(max = ANSWERS_MAX, "more answers than the intent journal keeps; the oldest is forgotten");
            self.0.remove(&oldest);
        }
    }

    fn forget(&mut self, before: Time) {
        self.0.retain(|_, a| a.record.updated_at >= before);
    }

    fn all(&self) -> Vec<OperationRecord> {
        self.0.values().map(|a| a.record.clone()).collect()
    }
}

/// Where intents are kept.
pub trait IntentLog: Debug + Send + Sync + 'static {
    /// Keeps an intent; durable when it returns.
    ///
    /// # Cancel safety
    /// An intent whose caller went away may or may not be kept.
    fn arm(&self, intent: Intent) -> IntentFuture<'_>;

    /// The ledger knows the outcome of an attempt: its intent may be forgotten. Needs no durability.
    fn settle(&self, name: &CloudName);

    /// What was not settled, of this process and of those before it.
    fn pending(&self) -> Vec<Intent>;

    /// The same, of attempts that were armed before a time: at most so many, in the order of their names, from the one
    /// after `last` on and round to it.
    fn armed_before(&self, time: Time, last: Option<&CloudName>, limit: usize) -> Vec<Intent>;

    /// How many were not settled.
    fn count(&self) -> usize;

    /// So many were not settled that no create should be taken on that will arm another; those that were taken on still
    /// do.
    fn is_full(&self) -> bool {
        self.count() >= INTENTS_MAX
    }

    /// Keeps a record ([`vouched`]) whose outcome is about to be answered; durable when it returns.
    fn answer(&self, record: OperationRecord) -> IntentFuture<'_>;

    /// What was answered, by this process and those before it.
    fn answers(&self) -> Vec<OperationRecord>;

    /// Forgets answers to what was written last before a time. Needs no durability.
    fn forget(&self, before: Time);

    /// Why it could not be written when it was opened, if so: nothing can be noted before a probe wrote.
    fn unwritable(&self) -> Option<String> {
        None
    }

    /// Writes something that is not kept, to find out whether a disk that refused takes writes again, and not only the
    /// next short one. Asked while it refuses, not on the way of a create.
    fn probe(&self) -> IntentFuture<'_> {
        Box::pin(ready(Ok(())))
    }
}

/// No journal: the ledger is durable itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoIntents;

impl IntentLog for NoIntents {
    fn arm(&self, _: Intent) -> IntentFuture<'_> {
        Box::pin(ready(Ok(())))
    }

    fn settle(&self, _: &CloudName) {}

    fn pending(&self) -> Vec<Intent> {
        Vec::new()
    }

    fn armed_before(&self, _: Time, _: Option<&CloudName>, _: usize) -> Vec<Intent> {
        Vec::new()
    }

    fn count(&self) -> usize {
        0
    }

    fn answer(&self, _: OperationRecord) -> IntentFuture<'_> {
        Box::pin(ready(Ok(())))
    }

    fn answers(&self) -> Vec<OperationRecord> {
        Vec::new()
    }

    fn forget(&self, _: Time) {}
}

/// A journal in memory, whose "disk" lives as long as its owner keeps it: for simulations and tests.
#[derive(Debug, Default)]
pub struct MemoryIntents(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    kept: Kept,
    refuses: Option<String>,
    probes: u32,
}

/// What a journal holds.
#[derive(Debug, Default)]
struct Kept {
    intents: BTreeMap<CloudName, Intent>,
    answers: Answers,
}

impl Kept {
    fn armed_before(&self, time: Time, last: Option<&CloudName>, limit: usize) -> Vec<Intent> {
        let first = last.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.intents.range::<CloudName, _>((first, Bound::Unbounded));
        let round = last.into_iter().flat_map(|last| self.intents.range::<CloudName, _>(..=last));
        let old = behind.chain(round).map(|(_, intent)| intent).filter(|i| i.armed_at < time);
        old.take(limit).cloned().collect()
    }
}

impl MemoryIntents {
    /// What the disk answers from now on to whatever is to be kept; none when it is well.
    pub fn refuse(&self, why: Option<&str>) {
        self.memory().refuses = why.map(str::to_owned);
    }

    /// How often it was probed.
    #[must_use]
    pub fn probes(&self) -> u32 {
        self.memory().probes
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A poisoned lock means a panic between two complete states; the map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(memory: &Memory) -> IntentFuture<'static> {
        Box::pin(ready(memory.refuses.clone().map_or(Ok(()), |why| Err(IntentError::Disk(why)))))
    }
}

impl IntentLog for MemoryIntents {
    fn arm(&self, intent: Intent) -> IntentFuture<'_> {
        let mut memory = self.memory();
        memory.kept.intents.insert(intent.cloud_name.clone(), intent);
        Self::answered(&memory)
    }

    fn settle(&self, name: &CloudName) {
        self.memory().kept.intents.remove(name);
    }

    fn pending(&self) -> Vec<Intent> {
        self.memory().kept.intents.values().cloned().collect()
    }

    fn armed_before(&self, time: Time, last: Option<&CloudName>, limit: usize) -> Vec<Intent> {
        self.memory().kept.armed_before(time, last, limit)
    }

    fn count(&self) -> usize {
        self.memory().kept.intents.len()
    }

    fn answer(&self, record: OperationRecord) -> IntentFuture<'_> {
        let mut memory = self.memory();
        memory.kept.answers.keep(record, true);
        Self::answered(&memory)
    }

    fn answers(&self) -> Vec<OperationRecord> {
        self.memory().kept.answers.all()
    }

    fn forget(&self, before: Time) {
        self.memory().kept.answers.forget(before);
    }

    fn probe(&self) -> IntentFuture<'_> {
        let mut memory = self.memory();
        memory.probes += 1;
        Self::answered(&memory)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An intent of operation `opN`.
    pub(in crate::journal) fn intent(n: u32) -> Intent {
        Intent {
            tenant: "acme".parse().unwrap(),
            op_id: format!("op{n}").parse().unwrap(),
            uid: format!("inst_{n}").parse().unwrap(),
            name: format!("web-{n}").parse().unwrap(),
            fingerprint: "ab".repeat(32),
            created_at: Time::from_unix_ms(1),
            epoch: 1,
            n,
            backend: "gz".parse().unwrap(),
            adapter: "tencent-eksci".parse().unwrap(),
            region: "ap-guangzhou".parse().unwrap(),
            zone: "ap-guangzhou-3".parse().unwrap(),
            cloud_name: format!("m1-{n}").parse().unwrap(),
            token: format!("t{n}").parse().unwrap(),
            shape: Shape::default(),
            charge: Charge { instances: 1, ..Charge::default() },
            project: None,
            armed_at: Time::from_unix_ms(2),
        }
    }

    #[tokio::test]
    async fn old_intents_are_walked_round_from_where_the_last_walk_ended() {
        let log = MemoryIntents::default();
        for n in 1..=5 {
            log.arm(Intent { armed_at: Time::from_unix_ms(i64::from(n)), ..intent(n) }).await.unwrap();
        }
        let walk = |before, last: Option<u32>, limit| {
            let last = last.map(|n| intent(n).cloud_name);
            let found = log.armed_before(Time::from_unix_ms(before), last.as_ref(), limit);
            found.iter().map(|i| i.n).collect::<Vec<_>>()
        };
        for (before, last, limit, expected) in [
            (5, None, 9, vec![1, 2, 3, 4]),
            (5, None, 2, vec![1, 2]),
            (5, Some(2), 3, vec![3, 4, 1]),
            (5, Some(2), 9, vec![3, 4, 1, 2]),
            (9, Some(5), 9, vec![1, 2, 3, 4, 5]),
            // The last one is gone meanwhile.
            (9, Some(7), 2, vec![1, 2]),
            (1, Some(3), 9, vec![]),
        ] {
            assert_eq!(walk(before, last, limit), expected, "{before} {last:?} {limit}");
        }
        assert_eq!(log.count(), 5);
    }
}
