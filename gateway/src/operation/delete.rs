//! Deletes an instance: makes the wish durable, has the driver carry it out, and waits as long as the caller wants.

use std::sync::Arc;

use meridian_model::ids::{OperationId, TenantId};
use tokio::time::Instant;

use super::{DeleteInstance, Outcome, Refusal, create::settled, store_refusal, write_refusal};
use crate::{
    core::Core,
    journal::NOTED_WITHIN,
    status::render::{self, DELETE_SUFFIX},
    views,
};

/// Deletes, or says what a delete would do.
///
/// # Errors
/// There is no such instance, or the ledger cannot be written.
pub async fn delete(
    core: &Core,
    tenant: &TenantId,
    wish: DeleteInstance,
    deadline: Instant,
) -> Result<Outcome, Refusal> {
    // Asked of the ledger, not of the fleet: another gateway may have made it a moment ago, or made it anew.
    let found = core.ledger.instance(tenant, &wish.instance.name).await.map_err(|e| store_refusal(&e))?;
    let Some(record) = found else {
        return if wish.allow_missing { Ok(Outcome::Deleted) } else { Err(Refusal::not_found()) };
    };
    if wish.validate_only {
        let nothing =
            views::Validation { spec: None, placement: None, quota: None, warnings: Vec::new(), policies: Vec::new() };
        return Ok(Outcome::Validated(Box::new(nothing)));
    }
    let removal = OperationId::new(format!("{}{DELETE_SUFFIX}", record.op_id)).map_err(Refusal::internal)?;
    let accepted = core.driver.remove(tenant, &record.op_id, None).await.map_err(|e| write_refusal(&e, removal))?;
    let Some((record, updates)) = accepted else { return Err(Refusal::not_found()) };
    let latest = match updates {
        Some(updates) => settled(core, updates, (Instant::now() + wish.wait).min(deadline), |r| r.is_gone()).await,
        None => Arc::new(*record),
    };
    core.driver.vouch(&latest, NOTED_WITHIN.min(deadline.saturating_duration_since(Instant::now()) / 2)).await;
    if latest.is_gone() {
        return Ok(Outcome::Deleted);
    }
    match render::delete_operation(&latest) {
        Some(operation) => Ok(Outcome::Accepted { operation: Box::new(operation), key: None }),
        None => Err(Refusal::internal("a delete was accepted, and its record does not say so")),
    }
}
