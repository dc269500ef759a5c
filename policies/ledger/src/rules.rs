//! What holds for every record in every ledger; pure, and shared by all of them.

use std::sync::Arc;

use meridian_model::{
    ids::TenantId,
    operation::{Charge, Fence, OperationRecord, OperationState, RECORD_VERSION},
    quota::QuotaTree,
};
use meridian_policies::quota::tree::Tree;

use crate::{Claim, LedgerError};

/// Counter of the fence that a claim gives out.
const FIRST_COUNTER: u64 = 1;
/// Generation of a new instance.
const FIRST_EPOCH: u32 = 1;
/// The rules of [`broken_rule`], in the order in which they are checked; a script answers with the number.
pub(crate) const RULES: [&str; 5] = [
    "name, fingerprint and time of creation of an operation never change",
    "the epoch of an instance never falls",
    "a removal that was asked for is never withdrawn",
    "what is gone stays gone",
    "what is gone holds no charge",
];

/// The rule that a step from `old` to `next` breaks, both of the same fence and revision; `None` if it breaks
/// none. A broken rule is a fault of the writer: nothing may be written.
#[must_use]
pub fn broken_rule(old: &OperationRecord, next: &OperationRecord) -> Option<&'static str> {
    let removal_kept = match (&old.removal, &next.removal) {
        (None, _) => true,
        (Some(old), Some(next)) => old.requested_at == next.requested_at,
        (Some(_), None) => false,
    };
    let same = old.name == next.name && old.fingerprint == next.fingerprint && old.created_at == next.created_at;
    let kept = [
        same,
        next.epoch >= old.epoch,
        removal_kept,
        !old.is_gone() || next.is_gone(),
        !next.is_gone() || next.charge == Charge::default(),
    ];
    RULES.into_iter().zip(kept).find(|(_, kept)| !kept).map(|(rule, _)| rule)
}

/// The tree ready for checks, or all that is wrong with it.
pub(crate) fn valid_tree(tenant: &TenantId, tree: &QuotaTree) -> Result<Tree, LedgerError> {
    Tree::new(tree).map_err(|faults| {
        let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
        LedgerError::Invalid { place: format!("{tenant}/tree"), detail: all.join("; ") }
    })
}

/// What is left of a record that is gone for long: enough to replay its final answer, no secret, no size.
#[must_use]
pub fn tombstone(mut record: OperationRecord) -> OperationRecord {
    record.labels.clear();
    record.annotations.clear();
    record.spec = Arc::default();
    record.decision = None;
    record.attempts.clear();
    record.condemned.clear();
    record.last_seen = None;
    record.restored_at = None;
    record.due = None;
    record
}

/// The record of a new claim, and its first fence.
pub(crate) fn first_record(claim: Claim, store: &str) -> OperationRecord {
    OperationRecord {
        v: RECORD_VERSION,
        rev: 1,
        seq: 0,
        tenant: claim.tenant,
        op_id: claim.op_id,
        uid: claim.uid,
        name: claim.name,
        fingerprint: claim.fingerprint,
        labels: claim.labels,
        annotations: claim.annotations,
        spec: claim.spec,
        state: OperationState::Claimed,
        epoch: FIRST_EPOCH,
        fence: Fence { store: store.to_owned(), counter: FIRST_COUNTER, owner: claim.owner },
        // A claim whose owner dies at once is found by the next one.
        due: Some(claim.now),
        created_at: claim.now,
        updated_at: claim.now,
        decision: None,
        attempts: Vec::new(),
        condemned: Vec::new(),
        charge: Charge::default(),
        removal: None,
        problem: None,
        ran_at: None,
        adopted: None,
        last_seen: None,
        restored_at: None,
    }
}
