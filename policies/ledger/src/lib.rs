//! The ledger: operations, idempotency keys and usage, durable before anything is sent to a cloud.
//!
//! The trait is made for stores with one atomic check-and-change per step (one write transaction of the
//! embedded store, one script of a shared one). What the next state of a record should be is decided
//! elsewhere, purely; the ledger decides only whether it may be written: the writer's fence and the record's
//! revision must match, and the tenant's quota must hold what is charged. It is the only writer of usage.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod documents;
pub mod embedded;
mod known;
pub mod recovery;
pub mod redis;
mod rules;
mod seal;
pub mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use meridian_model::{
    error::QuotaShortage,
    ids::{InstanceName, InstanceUid, OperationId, TenantId},
    instance::{InstanceSpec, Labels},
    operation::{Charge, OperationRecord, QuotaLimits},
    quota::QuotaTree,
    time::Time,
};
use meridian_policies::quota::{parts::Pots, spend::Spends};

pub use self::known::Known;
pub use self::rules::{broken_rule, tombstone};

/// A boxed future of the ledger.
pub type LedgerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// Why the ledger could not do a step, and whether it may have been done all the same.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store cannot be reached, refuses or has stopped. A store that several share did nothing, and will not.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// It was asked and did not answer, or not as was asked for: it may have done it, may still, and may lose it again.
    #[error("the ledger did not answer, the outcome is not known: {0}")]
    Unanswered(String),
    /// The store may have lost writes that it had acknowledged, and takes none before it is rebuilt; nothing was done.
    #[error("the ledger is recovering: {0}")]
    Recovering(String),
    /// The store holds something this version cannot read; nothing was done.
    #[error("the ledger holds damaged or newer data at {place}: {detail}")]
    Damaged {
        /// Table and key.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The record to be written breaks a rule that holds for all records ([`broken_rule`]), or is larger than a
    /// record may be; nothing was done. A fault of the writer, not of the store: a repetition fails again.
    #[error("the record {place} may not be written: {detail}")]
    Invalid {
        /// Tenant and operation.
        place: String,
        /// The rule.
        detail: String,
    },
}

/// A wish to start an operation.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Owner of the key.
    pub tenant: TenantId,
    /// The operation, a pure function of the key.
    pub op_id: OperationId,
    /// Identifier for the instance if the claim is new.
    pub uid: InstanceUid,
    /// The instance's name.
    pub name: InstanceName,
    /// Fingerprint of the request.
    pub fingerprint: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// The wish.
    pub spec: Arc<InstanceSpec>,
    /// Random part of the claiming process' fences.
    pub owner: String,
    /// Now.
    pub now: Time,
    /// For how long the owner may be waited for from now on.
    pub lease: Duration,
}

/// The answer to a [`Claim`].
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// The operation is new and belongs to the claimer, whose fence is in the record.
    New(Box<OperationRecord>),
    /// The same request was claimed before; also when the instance is gone, and also from what an expired record
    /// left (then without spec, labels, plan and attempts).
    Joined(Box<OperationRecord>),
    /// The key was used with another request.
    KeyReused(OperationId),
    /// Another operation of the tenant holds the instance name. The name of a gone instance is free.
    NameTaken(OperationId),
}

/// One write of a record by its owner.
#[derive(Debug, Clone)]
pub struct Step {
    /// The record as it shall be. Its `rev` is the revision it was read with; its `fence` is the writer's. The
    /// ledger compares both with what is stored and writes `rev + 1`. A change of `charge` changes the
    /// tenant's usage in the same step; an increase is checked against the limits.
    pub next: Box<OperationRecord>,
    /// The increase is charged whatever the limits are: what exists already is paid for already.
    pub over_quota: bool,
}

impl Step {
    /// A step whose charge the quota must hold.
    #[must_use]
    pub const fn within(next: Box<OperationRecord>) -> Self {
        Self { next, over_quota: false }
    }

    /// A step that is charged even over the quota: it says what exists, and asks for nothing.
    #[must_use]
    pub const fn over_quota(next: Box<OperationRecord>) -> Self {
        Self { next, over_quota: true }
    }
}

/// The answer to a [`Step`].
#[derive(Debug, Clone, PartialEq)]
pub enum Stepped {
    /// Written and durable; the record with its new revision.
    Written(Box<OperationRecord>),
    /// Another owner has it now, or the operation is no longer there; the writer must stop.
    Fenced,
    /// Somebody who needs no fence changed it (a delete was asked for), or this very step was written before and
    /// its answer lost; decide again from this record.
    Changed(Box<OperationRecord>),
    /// The quota does not hold the charge; nothing was written.
    QuotaExceeded(Box<QuotaShortage>),
}

/// The answer to a take-over.
#[derive(Debug, Clone, PartialEq)]
pub enum TakenOver {
    /// The record is the caller's; its fence is new.
    Taken(Box<OperationRecord>),
    /// The owner's lease has not run out; it lasts this much longer unless it is renewed.
    Leased(Duration),
    /// There is no such operation, or only what an expired one left.
    Missing,
}

/// A tenant's usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sum of all charges.
    pub used: Charge,
    /// Limits.
    pub limits: QuotaLimits,
}

/// A tenant's quota as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    /// Limits of the tenant itself.
    pub limits: QuotaLimits,
    /// How it is divided among projects and places.
    pub tree: QuotaTree,
}

/// Where a tenant's charges lie, and how its quota is divided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Books {
    /// The sums, and the tenant's own limits.
    pub usage: Usage,
    /// The sums by project and place; all of them together are `usage.used`.
    pub pots: Pots,
    /// The quota tree.
    pub tree: QuotaTree,
    /// What each project spends; empty unless the tree has a budget.
    pub spends: Spends,
}

/// One page of a walk over all records.
#[derive(Debug, Clone, Default)]
pub struct RecordPage {
    /// Records in key order.
    pub records: Vec<OperationRecord>,
    /// Where the walk goes on; none at the end.
    pub next: Option<(TenantId, OperationId)>,
}

/// Durable operations and usage. Every answer that says something was written means it is on disk.
///
/// # Cancel safety
/// A call whose future is dropped may or may not have been carried out, like one that ends `Unanswered`.
pub trait Ledger: Debug + Send + Sync + 'static {
    /// Takes an idempotency key, or joins who has it. Nothing is charged.
    fn claim(&self, claim: Claim) -> LedgerFuture<'_, Claimed>;

    /// Writes the next state of a record and its charge, if fence, revision and quota allow.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] when the step breaks one of the rules of [`broken_rule`].
    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped>;

    /// Asks for the removal of an instance, whoever owns its operation: sets `removal`, makes it due now and
    /// raises the revision. Repeating it changes nothing, nor does asking it of what is gone: the first time and reason
    /// stand. Returns the record, or `None` when there is none.
    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
        reason: Option<&str>,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>>;

    /// Takes a record over from an owner that holds no lease any more. An embedded store keeps leases in memory, so
    /// that after a restart every former owner is known to be gone.
    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver>;

    /// Extends an owner's lease to `now + lease`; never shortens it. A claim and a take-over do the same. An owner has
    /// one lease for all its records.
    fn renew(&self, owner: &str, now: Time, lease: Duration) -> LedgerFuture<'_, ()>;

    /// Ends an owner's lease now: its process drives nothing any more, and nobody need wait for it.
    fn release(&self, owner: &str) -> LedgerFuture<'_, ()>;

    /// Records that are to be driven (`due` is set) and whose owner holds no lease, in no order, at most `limit` and at
    /// most 1000. What other owners than `except` left.
    fn abandoned(&self, except: &str, now: Time, limit: usize) -> LedgerFuture<'_, Vec<OperationRecord>>;

    /// What was written after a position, by anybody, but for what is `known` when it is read; waits for up to `wait`
    /// while there is nothing. `None` from a store that only this process writes: there is nothing to follow.
    fn feed(&self, after: &FeedPosition, known: &Known, wait: Duration) -> LedgerFuture<'_, Option<Feed>> {
        let _ = (after, known, wait);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether the store can be worked with, as far as its last answers tell; asks nothing and never blocks.
    fn standing(&self) -> Standing {
        Standing::Serving
    }

    /// Why the store cannot be worked with, for who operates it; none while nothing is known against it.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Reads one operation, or what an expired one left.
    fn operation(&self, tenant: &TenantId, op: &OperationId) -> LedgerFuture<'_, Option<Box<OperationRecord>>>;

    /// The operation that holds an instance name now.
    fn instance(&self, tenant: &TenantId, name: &InstanceName) -> LedgerFuture<'_, Option<Box<OperationRecord>>>;

    /// All records from a key on (that one included), at most `limit` and at most 1000; for start-up. What
    /// expired records left is not among them.
    fn records(&self, from: Option<(TenantId, OperationId)>, limit: usize) -> LedgerFuture<'_, RecordPage>;

    /// A tenant's usage and limits.
    fn usage(&self, tenant: &TenantId) -> LedgerFuture<'_, Usage>;

    /// Sets a tenant's limits. Limits below the usage stop new charges and remove nothing.
    fn set_limits(&self, tenant: &TenantId, limits: QuotaLimits) -> LedgerFuture<'_, ()>;

    /// A tenant's usage by project and place, and its quota tree.
    fn books(&self, tenant: &TenantId) -> LedgerFuture<'_, Books>;

    /// Sets a tenant's quota tree. What is in use already is not touched: a node that is over its quota takes nothing
    /// more, and what belongs to a node that is gone counts on the root. From a tree with a budget on, what the tenant spends
    /// is kept.
    ///
    /// # Errors
    /// [`LedgerError::Invalid`] when the tree is not valid ([`meridian_policies::quota::tree::Tree::new`]).
    fn set_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> LedgerFuture<'_, ()>;

    /// Forgets tombstones of records whose last write was before `forget_until`, then shrinks gone records whose
    /// last write was before `keep_until` to tombstones (RELIABILITY 2.6); oldest first, at most `limit` and at
    /// most 1000 per call. Returns how many were touched; call again while that is `limit`.
    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize>;
}

/// A wish to take a record over.
#[derive(Debug, Clone)]
pub struct TakeOver {
    /// Tenant of the record.
    pub tenant: TenantId,
    /// The operation.
    pub op_id: OperationId,
    /// Random part of the new owner's fences.
    pub owner: String,
    /// Now.
    pub now: Time,
    /// For how long the new owner may be waited for from now on.
    pub lease: Duration,
}

/// How far somebody has followed the writes of each tenant: the greatest `seq` of a record that was seen. A tenant
/// that is missing was not followed at all.
pub type FeedPosition = BTreeMap<TenantId, u64>;

/// What was written since a position.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    /// Every record written since, as it is now, by tenant and `seq`. A record written twice is there once. What only
    /// left a tombstone is not there, nor what is known as it is.
    pub records: Vec<OperationRecord>,
    /// Where to go on; for a tenant in it, everything up to there was seen.
    pub position: FeedPosition,
    /// Tenants that could not be read while others could, and why; their position is as it was.
    pub behind: BTreeMap<TenantId, String>,
    /// Tenants of which more was written than one answer holds: the next call brings more at once.
    pub unfinished: BTreeSet<TenantId>,
}

/// Whether a store can be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The last call was answered.
    Serving,
    /// It has not answered since.
    Unavailable,
    /// It answers, but has lost writes or may have; it takes none before it is rebuilt.
    Recovering,
}
