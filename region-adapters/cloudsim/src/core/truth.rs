//! The truth ledger: what really existed, whatever the vendor's API said.

use std::collections::BTreeMap;

use serde::Serialize;

use super::types::{Instance, Vendor};

/// One instance as the control API shows it. Times in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TruthEntry {
    /// Cloud.
    pub vendor: Vendor,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Account name in the scenario.
    pub account: String,
    /// Vendor id.
    pub id: String,
    /// Instance name.
    pub name: String,
    /// ECI client token.
    pub client_token: Option<String>,
    /// The name again: what an owner is found by.
    pub owner_name: String,
    /// Create.
    pub created_at_ms: i64,
    /// First time all containers ran.
    pub running_at_ms: Option<i64>,
    /// End of work: succeeded, failed, expired, could not be placed, or deleted.
    pub ended_at_ms: Option<i64>,
    /// Delete.
    pub deleted_at_ms: Option<i64>,
    /// State in ECI's words; `Deleted` when gone.
    pub state: &'static str,
    /// Exists and may run or be billed.
    pub alive: bool,
    /// The vendor still knows it.
    pub exists: bool,
    /// Billed at this moment.
    pub billed: bool,
    /// Billed so far, whole seconds.
    pub billed_seconds: i64,
    /// vCPU as placed.
    pub cpu: f64,
    /// GiB as placed.
    pub memory_gib: f64,
    /// GPUs.
    pub gpu_count: u32,
    /// Price per hour.
    pub price_hour: f64,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Environment of the first container.
    pub env: BTreeMap<String, String>,
}

impl TruthEntry {
    /// The entry of an instance at a moment.
    #[must_use]
    pub fn of(instance: &Instance, now_ms: i64) -> Self {
        let env = instance.spec.containers.first().map(|c| c.env.as_slice()).unwrap_or_default();
        Self {
            vendor: instance.scope.vendor,
            region: instance.scope.region.clone(),
            zone: instance.zone.clone(),
            account: instance.scope.account.clone(),
            id: instance.id.clone(),
            name: instance.spec.name.clone(),
            client_token: instance.spec.client_token.clone(),
            owner_name: instance.spec.name.clone(),
            created_at_ms: instance.created_ms,
            running_at_ms: instance.running_ms,
            ended_at_ms: instance.ended_ms,
            deleted_at_ms: instance.deleted_ms,
            state: instance.state.as_str(),
            alive: instance.alive(),
            exists: instance.exists(),
            billed: instance.billed_since_ms.is_some(),
            billed_seconds: instance.billed_secs(now_ms),
            cpu: instance.cpu,
            memory_gib: instance.memory_gib,
            gpu_count: instance.gpu_count,
            price_hour: instance.price_hour,
            tags: instance.spec.tags.iter().cloned().collect(),
            env: env.iter().map(|e| (e.name.clone(), e.value.clone())).collect(),
        }
    }
}
