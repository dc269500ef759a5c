//! `CreateContainerGroup`.

use serde_json::{Value, json};

use super::Call;
use crate::core::{CreateError, ImageCacheState};
use crate::eci::error::EciError;
use crate::eci::wire::{self, Group};

pub(super) fn create(call: &mut Call<'_>) -> Result<Value, EciError> {
    let request: Group = wire::read(call.params)?;
    let is_dry_run = request.dry_run.unwrap_or(false);
    let snapshot = call.text("ImageSnapshotId");
    let spec = request.into_spec()?;
    if let Some(id) = snapshot {
        check_snapshot(call, id)?;
    }
    if is_dry_run {
        call.world.plan(call.scope, &spec, call.now_ms).map_err(|error| refusal(&error))?;
        // A dry run that passes is an error too (README 4.2).
        return Err(EciError::new("DryRun.Success", "This request is a dryrun request with successful result."));
    }
    let id = call.world.create(call.scope, spec, call.now_ms).map_err(|error| refusal(&error))?;
    Ok(json!({"ContainerGroupId": id}))
}

fn check_snapshot(call: &Call<'_>, id: &str) -> Result<(), EciError> {
    let caches = call.world.image_caches(call.scope, call.now_ms);
    let Some(cache) = caches.iter().find(|cache| cache.snapshot_id == id || cache.id == id) else {
        return Err(EciError::new("ImageSnapshot.NotFound", format!("The image snapshot {id} does not exist.")));
    };
    if cache.state(call.now_ms) != ImageCacheState::Ready {
        return Err(EciError::new("ImageSnapshot.IncorrectStatus", format!("The image snapshot {id} is not ready.")));
    }
    Ok(())
}

/// A refusal of the core in the vendor's words (per-action lists of `alibaba-eci.json`).
pub(super) fn refusal(error: &CreateError) -> EciError {
    match error {
        CreateError::UnknownRegion => EciError::invalid("RegionId", "this account may not use it"),
        CreateError::UnknownSubnet { id } => EciError::not_found("VSwitchId", id),
        CreateError::WrongVpc { id } => EciError::not_found("VpcId", id),
        CreateError::UnknownSecurityGroup { id } => EciError::new(
            "OperationDenied.SecurityGroupMisMatch",
            format!("The security group {id} is not in the VPC of the vSwitch."),
        ),
        CreateError::ZoneMismatch { zone } => EciError::new(
            "OperationDenied.VswZoneMisMatch",
            format!("None of the specified vSwitches lies in zone {zone}."),
        ),
        CreateError::NoSuchSize { cpu, memory_gib } => EciError::new(
            "InvalidParameter.CPU.Memory",
            format!("The specified cpu {cpu} and memory {memory_gib} are not supported together."),
        ),
        CreateError::UnknownInstanceType { name } => {
            EciError::invalid("InstanceType", &format!("{name} is not a type that can be bought here"))
        }
        CreateError::QuotaExceeded { what, limit, used, asked } => EciError::new(
            "QuotaExceeded",
            format!("The quota of {what} is exceeded: {used} of {limit} used, {asked} more asked for."),
        ),
        CreateError::NoFreeIp { subnet } => EciError::new(
            "InvalidVSwitchId.IpNotEnough",
            format!("The specified vSwitch {subnet} has not enough IP addresses."),
        ),
        CreateError::NoStock { zone, spec } => EciError::new(
            "OperationDenied.NoStock",
            format!(
                "The resource {spec} is out of stock in zone {zone}. Try other types or choose other regions and zones."
            ),
        ),
        CreateError::SpotPriceTooLow { limit, price } => {
            EciError::new("Spot.NotMatched", format!("The spot price {price} is above the limit {limit}."))
        }
    }
}
