//! What the gateway that leads a backend's sweeps makes of them, in the form in which it goes to the others.
//!
//! Times go as ages, like everything on a board: no two machines' clocks are compared.

use std::collections::BTreeMap;

use meridian_model::{
    ids::{CloudId, OperationId, TenantId},
    time::Time,
};
use serde::{Deserialize, Serialize};

use super::reconcile::{Class, HeldBack, Memory};
use crate::status::board::ms;

/// Strays of one backend that are told in full; the rest is counted. More are for nobody to read.
pub(super) const STRAYS_MAX: usize = 1000;

/// What the leader makes of a backend's last sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Judgement {
    /// The gateway.
    pub(super) by: String,
    pub(super) sweep: Sweep,
    /// Removals that the brake of the region allows.
    pub(super) removals_left: usize,
    /// All strays by class.
    pub(super) counts: BTreeMap<Class, usize>,
    /// At most [`STRAYS_MAX`], by their ids.
    pub(super) strays: Vec<Told>,
}

/// The sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sweep {
    pub(super) started_ago_ms: u64,
    pub(super) trusted: bool,
    pub(super) ledger_serving: bool,
    pub(super) listed: usize,
    pub(super) shown: usize,
    pub(super) expected: usize,
    pub(super) removes_orphans: bool,
}

/// A stray.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    pub(super) id: CloudId,
    /// Empty when it is not shown.
    pub(super) name: String,
    pub(super) class: Class,
    pub(super) op: OperationId,
    pub(super) tenant: Option<TenantId>,
    pub(super) first_seen_ago_ms: u64,
    /// None when it is not shown.
    pub(super) last_seen_ago_ms: Option<u64>,
    /// By the vendor's clock.
    pub(super) created_at: Option<Time>,
    pub(super) sweeps: u32,
    pub(super) removals: u32,
    pub(super) held_back: HeldBack,
}

/// How many strays of each class are remembered.
pub(super) fn counts(memory: &Memory) -> BTreeMap<Class, usize> {
    let mut counts: BTreeMap<Class, usize> = BTreeMap::new();
    for stray in memory.strays.values() {
        *counts.entry(stray.class).or_default() += 1;
    }
    if !memory.missing.is_empty() {
        counts.insert(Class::Missing, memory.missing.len());
    }
    counts
}

/// The remembered strays, at most [`STRAYS_MAX`], by their ids. Those that the ledger could not be read for go last: they
/// are many when the others are too many.
pub(super) fn strays(memory: &Memory, now: Time, tenant_of: impl Fn(&str) -> Option<TenantId>) -> Vec<Told> {
    let ago = |at: Time| ms(now.since(at));
    let shown = memory.strays.iter().map(|(id, stray)| Told {
        id: id.clone(),
        name: stray.observed.name.clone(),
        class: stray.class,
        op: stray.op_id.clone(),
        tenant: tenant_of(&stray.observed.name),
        first_seen_ago_ms: ago(stray.first_seen),
        last_seen_ago_ms: Some(ago(stray.last_seen)),
        created_at: stray.observed.created_at,
        sweeps: stray.sights,
        removals: stray.deletes,
        held_back: stray.held_back,
    });
    let missing = memory.missing.iter().map(|((tenant, op), absence)| Told {
        id: absence.id.clone(),
        name: String::new(),
        class: Class::Missing,
        op: op.clone(),
        tenant: Some(tenant.clone()),
        first_seen_ago_ms: ago(absence.first_missed),
        last_seen_ago_ms: None,
        created_at: None,
        sweeps: absence.sweeps,
        removals: 0,
        held_back: HeldBack::Quarantine,
    });
    let mut told: Vec<Told> = shown.chain(missing).collect();
    told.sort_by(|a, b| (a.class == Class::Unread, &a.id).cmp(&(b.class == Class::Unread, &b.id)));
    told.truncate(STRAYS_MAX);
    told.sort_by(|a, b| a.id.cmp(&b.id));
    told
}
