//! From the vendor's replies to our model: pure, and total over whatever a vendor may send.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_model::{
    capability::GpuSize,
    ids::{CloudId, CloudName, RegionId, ZoneId},
    instance::{CapacityType, Labels, Shape},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    status::{ContainerPhase, ContainerStatus, EventClass, Observed, ObservedEvent, ObservedPhase},
    time::Time,
};
use serde::de::DeserializeOwned;

use super::{
    errors::{Verb, not_understood},
    wire,
};
use crate::{AccountUsage, AdapterError, Cursor, Page, PriceQuery, ZoneReport};

/// Prefix of our marks among tags and environment variables.
const MARK_PREFIX: &str = "MERIDIAN_";

/// Longest text taken over from a vendor into an instance's status, in characters.
const TEXT_LEN_MAX: usize = 1000;

/// Reads a reply body.
///
/// # Errors
/// `(Unexpected, ...)` when it is not the documented JSON. The text says where, never what: bodies hold
/// environment variables.
pub(super) fn read<T: DeserializeOwned>(verb: Verb, body: &Bytes) -> Result<T, AdapterError> {
    serde_json::from_slice(body).map_err(|e| {
        not_understood(verb, &format!("not the documented JSON at line {}, column {}", e.line(), e.column()))
    })
}

/// The id of a created instance.
///
/// # Errors
/// `(Unexpected, Unknown)` for a success without an id: something may exist.
pub(super) fn created(reply: &wire::Created) -> Result<CloudId, AdapterError> {
    CloudId::new(&reply.container_group_id)
        .map_err(|_| not_understood(Verb::Create, "a success without a usable ContainerGroupId"))
}

/// One page of instances.
///
/// # Errors
/// `(Unexpected, NotApplied)` when one of them has a status or id that we do not know: a page with a gap would
/// prove absences that are none.
pub(super) fn page(reply: wire::ContainerGroups, gpu_sizes: &[GpuSize]) -> Result<Page, AdapterError> {
    let items = reply.container_groups.iter().map(|group| observed(group, gpu_sizes)).collect::<Result<_, _>>()?;
    let next = (!reply.next_token.is_empty()).then_some(Cursor(reply.next_token));
    Ok(Page { items, next, total: reply.total_count })
}

/// The instances of a page that carry exactly this name, whatever else the vendor's filter lets through.
pub(super) fn named(items: Vec<Observed>, name: &CloudName) -> impl Iterator<Item = Observed> {
    items.into_iter().filter(move |o| o.name == name.as_str())
}

fn observed(group: &wire::ContainerGroup, gpu_sizes: &[GpuSize]) -> Result<Observed, AdapterError> {
    let id = CloudId::new(&group.container_group_id)
        .map_err(|_| not_understood(Verb::Read, "an instance without a usable ContainerGroupId"))?;
    // One foreign instance with a new status must not hide all others of the region.
    let phase = phase(&group.status).unwrap_or(ObservedPhase::Unknown);
    let (reason, message) = explanation(group, phase);
    let init = group.init_containers.iter().map(|c| container(c, true));
    let ended = [&group.succeeded_time, &group.failed_time, &group.expired_time].into_iter().find_map(|t| time(t));
    Ok(Observed {
        id: Some(id),
        name: text(&group.container_group_name),
        zone: ZoneId::new(&group.zone_id).ok(),
        phase,
        reason,
        message,
        shape: shape(group, gpu_sizes),
        private_ip: some(&group.intranet_ip),
        public_ip: some(&group.internet_ip),
        containers: init.chain(group.containers.iter().map(|c| container(c, false))).collect(),
        tags: group.tags.iter().map(|t| (text(&t.key), text(&t.value))).collect(),
        marks: group.containers.first().map(marks).unwrap_or_default(),
        created_at: time(&group.creation_time),
        // Older replies carry these times from an earlier state; only an ended instance has an end.
        finished_at: ended.filter(|_| phase.is_ended()),
    })
}

/// The states of vendor-api README 4.3.
fn phase(status: &str) -> Option<ObservedPhase> {
    Some(match status {
        "Scheduling" => ObservedPhase::Placing,
        "ScheduleFailed" => ObservedPhase::Unplaceable,
        "Pending" => ObservedPhase::Starting,
        "Running" => ObservedPhase::Running,
        "Restarting" | "Updating" => ObservedPhase::Updating,
        "Terminating" => ObservedPhase::Terminating,
        "Succeeded" => ObservedPhase::Succeeded,
        "Failed" => ObservedPhase::Failed,
        "Expired" => ObservedPhase::Reclaimed,
        _ => return None,
    })
}

/// Why the instance is as it is. The vendor has no such field: the latest warning says it where events were
/// asked for, else the first container that has a reason, else the status itself.
fn explanation(group: &wire::ContainerGroup, phase: ObservedPhase) -> (String, String) {
    if matches!(phase, ObservedPhase::Running | ObservedPhase::Succeeded) {
        return Default::default();
    }
    let warning = group.events.iter().rev().find(|e| e.kind == "Warning").map(|e| (&e.reason, &e.message));
    let containers = group.init_containers.iter().chain(&group.containers).map(|c| &c.current_state);
    let stopped =
        containers.filter(|s| s.exit_code != Some(0) && !s.reason.is_empty()).map(|s| (&s.reason, &s.message)).next();
    let plain = (&group.status, &String::new());
    let (reason, message) = warning.or(stopped).unwrap_or(plain);
    (text(reason), text(message))
}

/// What the vendor gave; the model of a GPU follows from the instance type.
fn shape(group: &wire::ContainerGroup, gpu_sizes: &[GpuSize]) -> Shape {
    let known = gpu_sizes.iter().find(|g| g.vendor_name == group.instance_type);
    let of_containers = group.containers.iter().fold(0_u32, |sum, c| sum.saturating_add(c.gpu));
    Shape {
        cpu: MilliCpu(scaled(group.cpu, 1000.0).or(known.map(|g| g.cpu.0)).unwrap_or(0)),
        memory: MemoryMib(scaled(group.memory, 1024.0).or(known.map(|g| g.memory.0)).unwrap_or(0)),
        gpu_type: known.map(|g| g.gpu_type.clone()),
        gpu_count: known.map_or(of_containers, |g| g.gpu_count),
    }
}

fn container(c: &wire::Container, init: bool) -> ContainerStatus {
    let (now, before) = (&c.current_state, &c.previous_state);
    let state = match now.state.as_str() {
        "Running" => ContainerPhase::Running,
        "Terminated" => ContainerPhase::Terminated,
        // `Waiting`, or nothing yet. A word we do not know decides nothing and is shown as the reason.
        _ => ContainerPhase::Waiting,
    };
    let known = matches!(now.state.as_str(), "Running" | "Terminated" | "Waiting" | "");
    let reason = [&now.reason, &now.detail_status].into_iter().find(|r| !r.is_empty()).unwrap_or(&now.state);
    let reason = if state == ContainerPhase::Running { String::new() } else { text(reason) };
    ContainerStatus {
        name: text(&c.name),
        init,
        state,
        ready: c.ready && state == ContainerPhase::Running,
        restart_count: c.restart_count,
        exit_code: (state == ContainerPhase::Terminated)
            .then_some(now.exit_code)
            .flatten()
            .and_then(|code| i32::try_from(code).ok()),
        reason: if known { reason } else { text(&now.state) },
        message: text(&now.message),
        started_at: time(&now.start_time).or_else(|| time(&before.start_time)),
        finished_at: time(&now.finish_time).or_else(|| time(&before.finish_time)),
    }
}

/// Our marks among a container's variables.
fn marks(c: &wire::Container) -> Labels {
    let ours = c.environment_vars.iter().filter(|v| v.key.starts_with(MARK_PREFIX));
    ours.map(|v| (text(&v.key), text(&v.value))).collect()
}

/// The events of one instance, oldest first as the vendor lists them.
pub(super) fn events(group: &wire::ContainerGroup) -> Vec<ObservedEvent> {
    group
        .events
        .iter()
        .map(|e| ObservedEvent {
            class: class(e),
            reason: text(&e.reason),
            message: text(&e.message),
            count: e.count.max(1),
            first_seen: time(&e.first_timestamp),
            last_seen: time(&e.last_timestamp),
        })
        .collect()
}

/// What an event means to placement (vendor-api README 4.4; texts from the vendor's list of ECI events).
///
/// `FailedScheduling` alone is no proof: it also stands for an unknown error of the scheduler.
fn class(event: &wire::Event) -> EventClass {
    let message = event.message.to_ascii_lowercase();
    let no_stock = ["out of stock", "no stock", "nostock", "sold out"].iter().any(|words| message.contains(words));
    match event.reason.as_str() {
        "NoStock" | "StockClose" => EventClass::NoCapacity,
        "FailedScheduling" if no_stock => EventClass::NoCapacity,
        // Nearly out: the instance at hand has its place.
        "StockExhaust" => EventClass::Warning,
        _ if event.kind == "Warning" => EventClass::Warning,
        _ => EventClass::Normal,
    }
}

/// The zones of a region, with the families' sizes on sale.
///
/// # Errors
/// `(Unexpected, NotApplied)` when the reply does not name the region.
pub(super) fn zones(
    region: &RegionId,
    regions: &wire::Regions,
    available: &[wire::AvailableResources],
) -> Result<Vec<ZoneReport>, AdapterError> {
    let found = regions
        .regions
        .iter()
        .find(|r| r.region_id == region.as_str())
        .ok_or_else(|| not_understood(Verb::Read, &format!("DescribeRegions does not name {region}")))?;
    let mut sizes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for zone in available.iter().flat_map(|a| &a.available_zones.available_zone) {
        let groups = zone.available_resources.available_resource.iter();
        let sold = groups
            .flat_map(|g| &g.supported_resources.supported_resource)
            .filter(|r| is_sold(&r.status_category) && !r.value.is_empty())
            .map(|r| text(&r.value));
        sizes.entry(&zone.zone_id).or_default().extend(sold);
    }
    let report = |name: &String| {
        Some(ZoneReport {
            zone: ZoneId::new(name).ok()?,
            on_sale: !found.unavailable_zones.contains(name),
            sizes: sizes.remove(name.as_str()).unwrap_or_default(),
        })
    };
    Ok(found.zones.iter().filter_map(report).collect())
}

/// Anything but an explicit "none left" counts as sold: the report only orders candidates, a create decides.
fn is_sold(status_category: &str) -> bool {
    !matches!(status_category, "WithoutStock" | "ClosedWithoutStock")
}

/// vCPU in use and allowed.
///
/// # Errors
/// `(Unexpected, NotApplied)` when one of the two is missing.
pub(super) fn usage(reply: &wire::Usage) -> Result<AccountUsage, AdapterError> {
    let vcpu = |name: &str| {
        let value = reply.attributes.get(name)?;
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
        scaled(number, 1000.0).map(MilliCpu)
    };
    match (vcpu("UsedCpu"), vcpu("MaxCpu")) {
        (Some(cpu_used), Some(cpu_max)) => Ok(AccountUsage { cpu_used, cpu_max }),
        _ => Err(not_understood(Verb::Read, "ListUsage without UsedCpu and MaxCpu")),
    }
}

/// Seconds in an hour: the vendor quotes pay-as-you-go prices per second and spot prices per hour.
const SECONDS_PER_HOUR: f64 = 3600.0;

/// Hourly price; `None` where the vendor quotes none for the zone.
pub(super) fn price(reply: &wire::PriceReply, query: &PriceQuery) -> Option<PricePerHour> {
    let hourly = match query.capacity {
        CapacityType::OnDemand => {
            let price = reply.price_info.price.as_ref()?;
            price.trade_price.or(price.original_price)? * SECONDS_PER_HOUR
        }
        CapacityType::Spot => {
            let here = reply.price_info.spot_prices.spot_price.iter().filter(|p| p.zone_id == query.zone.as_str());
            here.filter_map(|p| p.spot_price).filter(|p| p.is_finite()).min_by(f64::total_cmp)?
        }
    };
    scaled(hourly, 1_000_000.0).map(PricePerHour)
}

/// `x * per` as a whole number; `None` for nothing, less than nothing, and more than any size or price.
fn scaled(x: f64, per: f64) -> Option<u64> {
    const MOST: f64 = 1e15;
    let y = (x * per).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie in 0..=1e15")]
    (y > 0.0 && y <= MOST || x == 0.0).then_some(y as u64)
}

fn text(s: &str) -> String {
    s.chars().take(TEXT_LEN_MAX).collect()
}

fn some(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| text(s))
}

/// RFC 3339; a time we cannot read is as good as none.
fn time(s: &str) -> Option<Time> {
    if s.is_empty() { None } else { Time::parse(s).ok() }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
