//! `UpdateContainerGroup`, `RestartContainerGroup`, `DeleteContainerGroup` and the legacy batch delete.

use serde_json::{Value, json};

use super::Call;
use super::create::refusal as create_refusal;
use crate::core::ChangeError;
use crate::eci::error::EciError;
use crate::eci::wire::{self, Group};

pub(super) fn delete(call: &mut Call<'_>) -> Result<Value, EciError> {
    let id = call.required("ContainerGroupId")?;
    delete_one(call, id)?;
    Ok(json!({}))
}

/// All ids are looked up first: an unknown one refuses the whole batch. Which the vendor does is not documented.
pub(super) fn delete_batch(call: &mut Call<'_>) -> Result<Value, EciError> {
    let ids = call.ids("ContainerGroupIds")?.ok_or_else(|| EciError::missing("ContainerGroupIds"))?;
    call.world.advance(call.now_ms);
    if let Some(id) = ids.iter().find(|id| call.world.existing(call.scope, id).is_none()) {
        return Err(EciError::not_found("ContainerGroupId", id));
    }
    for id in &ids {
        delete_one(call, id)?;
    }
    Ok(json!({}))
}

fn delete_one(call: &mut Call<'_>, id: &str) -> Result<(), EciError> {
    call.world.delete(call.scope, id, call.now_ms).map_err(|error| refusal(&error, id))
}

pub(super) fn restart(call: &mut Call<'_>) -> Result<Value, EciError> {
    let id = call.required("ContainerGroupId")?;
    call.world.restart(call.scope, id, call.now_ms).map_err(|error| refusal(&error, id))?;
    Ok(json!({}))
}

pub(super) fn update(call: &mut Call<'_>) -> Result<Value, EciError> {
    let request: Group = wire::read(call.params)?;
    let id = call.required("ContainerGroupId")?;
    call.world.advance(call.now_ms);
    let Some(instance) = call.world.existing(call.scope, id) else {
        return Err(EciError::not_found("ContainerGroupId", id));
    };
    let spec = request.apply_to(&instance.spec)?;
    call.world.update(call.scope, id, spec, call.now_ms).map_err(|error| refusal(&error, id))?;
    Ok(json!({}))
}

fn refusal(error: &ChangeError, id: &str) -> EciError {
    match error {
        ChangeError::NotFound { .. } => EciError::not_found("ContainerGroupId", id),
        ChangeError::WrongState { state } => EciError::incorrect_status(id, state.as_str()),
        ChangeError::NothingToChange => EciError::new("NoNeedUpdate", format!("Nothing of {id} would change.")),
        ChangeError::Size(error) => create_refusal(error),
    }
}
