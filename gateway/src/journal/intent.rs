//! The intent journal: what this gateway was about to send, kept on its own disk for the rebuild of a shared ledger
//! that lost writes (RELIABILITY 2.9). Evidence, never authority: nothing is decided by it while the ledger is whole,
//! and a gateway without one is as safe, only slower to know again what it did.
//!
//! An entry is written after the attempt is armed in the ledger and before its request leaves, and marked as settled
//! when the ledger has its outcome. The seam is [`IntentLog`]: [`file::FileIntents`] in a process, [`MemoryIntents`] in
//! a simulation, [`NoIntents`] beside the embedded ledger, which is durable itself.

pub mod file;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::{Future, ready},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use meridian_model::{
    ids::{
        AdapterName, BackendId, ClientToken, CloudName, InstanceName, InstanceUid, OperationId, RegionId, TenantId,
        ZoneId,
    },
    instance::Shape,
    operation::{Attempt, Charge, OperationRecord},
    time::Time,
};
use serde::{Deserialize, Serialize};

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
}

/// A journal in memory, whose "disk" lives as long as its owner keeps it: for simulations and tests.
#[derive(Debug, Default)]
pub struct MemoryIntents(Mutex<BTreeMap<CloudName, Intent>>);

impl MemoryIntents {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<CloudName, Intent>> {
        // A poisoned lock means a panic between two complete states; the map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntentLog for MemoryIntents {
    fn arm(&self, intent: Intent) -> IntentFuture<'_> {
        self.kept().insert(intent.cloud_name.clone(), intent);
        Box::pin(ready(Ok(())))
    }

    fn settle(&self, name: &CloudName) {
        self.kept().remove(name);
    }

    fn pending(&self) -> Vec<Intent> {
        self.kept().values().cloned().collect()
    }
}
