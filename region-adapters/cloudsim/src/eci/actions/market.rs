//! What can be bought, where and for how much: `DescribeRegions`, `DescribeAvailableResource`,
//! `DescribeContainerGroupPrice`, `ListUsage`.
//!
//! Prices are in CNY: `Price` per second, `SpotPrices` per hour. The vendor's page of `DescribeContainerGroupPrice`
//! shows 0.00012252 for 2 vCPU and 4 GiB beside a spot price of 0.056 out of 0.622, and does not name the units.

use serde_json::{Value, json};

use super::Call;
use crate::core::{ALIBABA_DEFAULT, instance_type};
use crate::core::{
    FaultKind, IMAGE_CACHES_MAX, INSTANCE_TYPES, InstanceType, Region, Vendor, Zone, round_spec, spec_key,
};
use crate::eci::error::EciError;
use crate::eci::wire;

/// Most instance types in one price question.
const MAX_TYPES: usize = 10;
/// The endpoint `DescribeRegions` shows (README 3.1).
const ENDPOINT: &str = "eci.aliyuncs.com";
const SECONDS_PER_HOUR: f64 = 3_600.0;
/// A zone is recommended when this much of the default size is free.
const WELL_STOCKED: u32 = 10;

pub(super) fn regions(call: &mut Call<'_>) -> Result<Value, EciError> {
    let wanted = call.text("RegionId");
    let now_ms = call.now_ms;
    call.world.advance(now_ms);
    let closed: Vec<&str> = call
        .world
        .faults()
        .rules()
        .iter()
        .filter(|fault| fault.kind == FaultKind::ZoneOutage)
        .filter_map(|fault| fault.input.zone.as_deref())
        .collect();
    let regions: Vec<Value> = call
        .world
        .regions(Vendor::AlibabaEci)
        .filter(|region| wanted.is_none_or(|wanted| wanted == region.config.region))
        .map(|region| shown_region(region, &closed))
        .collect();
    Ok(json!({"Regions": regions}))
}

fn shown_region(region: &Region, closed: &[&str]) -> Value {
    let key = spec_key(ALIBABA_DEFAULT.0, ALIBABA_DEFAULT.1, None, 0);
    let names = |takes: &dyn Fn(&Zone) -> bool| -> Vec<&str> {
        region.zones.iter().filter(|zone| takes(zone)).map(|zone| zone.config().zone.as_str()).collect()
    };
    let is_closed = |zone: &Zone| closed.contains(&zone.config().zone.as_str());
    json!({
        "RegionId": region.config.region,
        "RegionEndpoint": ENDPOINT,
        "Zones": names(&|_| true),
        "RecommendZones":
            names(&|zone| !is_closed(zone) && zone.free_stock(&key).is_none_or(|free| free >= WELL_STOCKED)),
        "UnavailableZones": names(&is_closed),
    })
}

/// The zones of this region that `ZoneId` names, or all.
fn zones<'w>(call: &'w Call<'_>) -> Result<Vec<&'w Zone>, EciError> {
    let region = call.world.region(Vendor::AlibabaEci, &call.scope.region);
    let all = region.map(|region| region.zones.as_slice()).unwrap_or_default();
    let wanted = call.text("ZoneId");
    let zones: Vec<&Zone> =
        all.iter().filter(|zone| wanted.is_none_or(|wanted| wanted == zone.config().zone)).collect();
    match wanted {
        Some(wanted) if zones.is_empty() => Err(EciError::not_found("ZoneId", wanted)),
        _ => Ok(zones),
    }
}

fn stock_key(one: &InstanceType) -> String {
    spec_key(one.cpu, one.memory_gib, one.gpu_type, one.gpu_count)
}

/// `ecs.gn6i` of `ecs.gn6i-c4g1.xlarge`, `ecs.c6` of `ecs.c6.large`.
fn family(name: &str) -> &str {
    let end =
        name.char_indices().skip("ecs.".len()).find(|(_, c)| *c == '.' || *c == '-').map_or(name.len(), |(at, _)| at);
    name.get(..end).unwrap_or(name)
}

pub(super) fn available(call: &mut Call<'_>) -> Result<Value, EciError> {
    let destination = call.params.get("DestinationResource").unwrap_or(&Value::Null);
    let category = destination.get("Category").and_then(Value::as_str).unwrap_or_default();
    if !["InstanceTypeFamily", "InstanceType"].contains(&category) {
        return Err(EciError::invalid("DestinationResource.Category", "InstanceTypeFamily or InstanceType"));
    }
    let value = destination.get("Value").and_then(Value::as_str).filter(|value| !value.is_empty());
    let size = |name: &str| destination.get(name).and_then(Value::as_f64);
    let takes = |one: &InstanceType| {
        let name = if category == "InstanceType" { one.name } else { family(one.name) };
        value.is_none_or(|value| value == name)
            && size("Cores").is_none_or(|cores| cores == one.cpu)
            && size("Memory").is_none_or(|gib| gib == one.memory_gib)
    };
    call.world.advance(call.now_ms);
    let region = call.scope.region.clone();
    let shown: Vec<Value> = zones(call)?
        .into_iter()
        .filter_map(|zone| {
            let mut resources: Vec<(&str, bool)> = Vec::new();
            for one in INSTANCE_TYPES.iter().filter(|one| takes(one)) {
                let name = if category == "InstanceType" { one.name } else { family(one.name) };
                let in_stock = zone.has_stock(&stock_key(one));
                match resources.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, any)) => *any |= in_stock,
                    None => resources.push((name, in_stock)),
                }
            }
            (!resources.is_empty()).then(|| shown_zone(&region, zone, category, &resources))
        })
        .collect();
    Ok(json!({"AvailableZones": {"AvailableZone": shown}}))
}

fn shown_zone(region: &str, zone: &Zone, category: &str, resources: &[(&str, bool)]) -> Value {
    let supported: Vec<Value> = resources
        .iter()
        .map(|(name, in_stock)| json!({"Value": name, "StatusCategory": if *in_stock { "WithStock" } else { "WithoutStock" }}))
        .collect();
    json!({
        "RegionId": region,
        "ZoneId": zone.config().zone,
        "AvailableResources": {"AvailableResource": [
            {"Type": category, "SupportedResources": {"SupportedResource": supported}},
        ]},
    })
}

/// A size that has a price: name for `SpotPrices`, vCPU, GiB, GPUs.
struct Priced {
    name: String,
    cpu: f64,
    memory_gib: f64,
    gpus: u32,
}

fn priced(call: &Call<'_>) -> Result<Vec<Priced>, EciError> {
    let types = wire::comma_list("InstanceType", call.text("InstanceType"), MAX_TYPES)?;
    if !types.is_empty() {
        return types
            .into_iter()
            .map(|name| match instance_type(&name) {
                Some(one) => Ok(Priced { name, cpu: one.cpu, memory_gib: one.memory_gib, gpus: one.gpu_count }),
                None => {
                    Err(EciError::invalid("InstanceType", &format!("{name} is not a type that can be bought here")))
                }
            })
            .collect();
    }
    let (cpu, memory) = match (call.number("Cpu"), call.number("Memory")) {
        (Some(cpu), Some(memory)) => (cpu, memory),
        (None, Some(_)) => return Err(EciError::missing("Cpu")),
        (Some(_), None) => return Err(EciError::missing("Memory")),
        (None, None) => return Err(EciError::missing("InstanceType")),
    };
    let Some((cpu, memory_gib)) = round_spec(Vendor::AlibabaEci, cpu, memory).filter(|_| cpu > 0.0 && memory > 0.0)
    else {
        return Err(EciError::new("InvalidParameter.CPU.Memory", format!("No size fits {cpu} vCPU and {memory} GiB.")));
    };
    Ok(vec![Priced { name: String::new(), cpu, memory_gib, gpus: 0 }])
}

/// Without `ZoneId` the price is that of the cheapest zone: the vendor's is one per region.
pub(super) fn price(call: &mut Call<'_>) -> Result<Value, EciError> {
    let sizes = priced(call)?;
    let is_spot = call.text("SpotStrategy").is_some_and(|strategy| strategy != "NoSpot");
    let zones = zones(call)?;
    let cheapest = |size: &Priced| {
        zones.iter().map(|zone| zone.price_hour(size.cpu, size.memory_gib, size.gpus)).fold(f64::INFINITY, f64::min)
    };
    let original: f64 = sizes.iter().map(cheapest).fold(f64::INFINITY, f64::min);
    let spots: Vec<Value> = if is_spot {
        let pairs = zones.iter().flat_map(|zone| sizes.iter().map(move |size| (zone, size)));
        pairs
            .map(|(zone, size)| {
                json!({
                    "ZoneId": zone.config().zone,
                    "InstanceType": size.name,
                    "OriginPrice": money(zone.price_hour(size.cpu, size.memory_gib, size.gpus)),
                    "SpotPrice": money(zone.spot_price_hour(size.cpu, size.memory_gib, size.gpus)),
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    let price = money(original / SECONDS_PER_HOUR);
    Ok(json!({"PriceInfo": {
        "Price": {
            "Currency": "CNY", "OriginalPrice": price, "DiscountPrice": 0.0, "TradePrice": price,
            "DetailInfos": {"DetailInfo": [{
                "Resource": "instance", "OriginalPrice": price, "DiscountPrice": 0.0, "TradePrice": price,
                "Rules": {"Rule": []},
            }]},
        },
        "Rules": {"Rule": []},
        "SpotPrices": {"SpotPrice": spots},
    }}))
}

/// Nine decimals are enough for a second and keep binary fractions out of the reply.
fn money(price: f64) -> f64 {
    (price * 1e9).round() / 1e9
}

pub(super) fn usage(call: &mut Call<'_>) -> Result<Value, EciError> {
    call.world.advance(call.now_ms);
    let Some(quota) = call.world.quota(call.scope) else {
        return Err(EciError::invalid("RegionId", "this account may not use it"));
    };
    let caches = call.world.image_caches(call.scope, call.now_ms).len();
    Ok(json!({"Attributes": {
        "UsedCpu": quota.used_vcpu, "MaxCpu": quota.max_vcpu,
        "UsedImageCacheCount": caches, "MaxImageCacheCount": IMAGE_CACHES_MAX,
        "UsedAutoImageCacheCount": 0, "MaxAutoImageCacheCount": IMAGE_CACHES_MAX,
        "UsedDataCacheCount": 0, "MaxDataCacheCount": 0,
    }}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_end_before_the_size() {
        assert_eq!(family("ecs.gn6i-c4g1.xlarge"), "ecs.gn6i");
        assert_eq!(family("ecs.c6.large"), "ecs.c6");
    }
}
