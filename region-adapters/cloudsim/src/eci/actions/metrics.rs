//! `DescribeContainerGroupMetric` and `DescribeMultiContainerGroupMetric`.
//!
//! The numbers are made up, but repeatable: a function of instance id, container name and moment. Counters rise, usage
//! stays under its limit.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Call;
use crate::core::{Container, Instance};
use crate::eci::error::EciError;
use crate::eci::time;

/// Most records in one reply; a longer span is refused. The vendor keeps minutes, its limit is not verified.
const MAX_RECORDS: i64 = 1_000;
/// Seconds between records that can be asked for.
const PERIODS: &[i64] = &[15, 30, 60, 300, 600, 1_800, 3_600, 21_600];
const DEFAULT_PERIOD: i64 = 60;
/// Without `StartTime`: the last five minutes.
const DEFAULT_SPAN_SECS: i64 = 300;
const GIB: f64 = 1_073_741_824.0;

pub(super) fn one(call: &mut Call<'_>) -> Result<Value, EciError> {
    let id = call.required("ContainerGroupId")?;
    let period = match call.text("Period") {
        None => DEFAULT_PERIOD,
        Some(text) => text
            .parse()
            .ok()
            .filter(|secs| PERIODS.contains(secs))
            .ok_or_else(|| EciError::invalid("Period", "15, 30, 60, 300, 600, 1800, 3600 or 21600"))?,
    };
    let moment = |name: &str| {
        let parse = |text| time::parse(text).ok_or_else(|| EciError::invalid(name, "RFC 3339 in UTC"));
        call.text(name).map(parse).transpose()
    };
    let end_ms = moment("EndTime")?.unwrap_or(call.now_ms).min(call.now_ms);
    let start_ms = moment("StartTime")?.unwrap_or(end_ms - DEFAULT_SPAN_SECS * 1_000);
    call.world.advance(call.now_ms);
    let Some(instance) = call.world.existing(call.scope, id) else {
        return Err(EciError::not_found("ContainerGroupId", id));
    };
    let records = records(instance, (start_ms, end_ms), period)?;
    Ok(json!({"ContainerGroupId": id, "Records": records}))
}

pub(super) fn many(call: &mut Call<'_>) -> Result<Value, EciError> {
    let ids = call.ids("ContainerGroupIds")?.ok_or_else(|| EciError::missing("ContainerGroupIds"))?;
    call.world.advance(call.now_ms);
    let span = (call.now_ms - DEFAULT_PERIOD * 1_000, call.now_ms);
    let mut datas = Vec::with_capacity(ids.len());
    for id in &ids {
        let Some(instance) = call.world.existing(call.scope, id) else {
            return Err(EciError::not_found("ContainerGroupId", id));
        };
        datas.push(json!({"ContainerGroupId": id, "Records": records(instance, span, DEFAULT_PERIOD)?}));
    }
    Ok(json!({"MonitorDatas": datas}))
}

/// One record per period while the instance ran.
fn records(instance: &Instance, (start_ms, end_ms): (i64, i64), period: i64) -> Result<Vec<Value>, EciError> {
    let Some(running_ms) = instance.running_ms else {
        return Ok(Vec::new());
    };
    let first = start_ms.max(running_ms).div_euclid(1_000).div_euclid(period) + 1;
    let last = end_ms.min(instance.ended_ms.unwrap_or(end_ms)).div_euclid(1_000).div_euclid(period);
    if last - first >= MAX_RECORDS {
        return Err(EciError::invalid("StartTime", &format!("at most {MAX_RECORDS} records")));
    }
    Ok((first..=last).map(|n| record(instance, n * period, n * period - running_ms.div_euclid(1_000))).collect())
}

/// 0 to 1, always the same for the same place and time.
fn draw(instance: &Instance, what: &str, at_secs: i64) -> f64 {
    let hash = Sha256::digest(format!("{}/{what}/{at_secs}", instance.id));
    let number = hash.iter().take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    f64::from(number) / f64::from(u32::MAX)
}

fn record(instance: &Instance, at_secs: i64, age_secs: i64) -> Value {
    let draw = |what: &str| draw(instance, what, at_secs);
    let age = age_secs.max(1);
    let traffic = |per_sec: f64| (per_sec * 1_000.0) as i64 * age;
    let fill = draw("disk") * 0.2;
    json!({
        "Timestamp": time::format(at_secs * 1_000),
        "CPU": cpu(instance.cpu, draw("cpu"), age),
        "Memory": memory(instance.memory_gib, draw("memory")),
        "Containers": instance.containers.iter().map(|one| container(instance, one, at_secs, age)).collect::<Vec<_>>(),
        "Network": {"Interfaces": [{
            "Name": "eth0",
            "RxBytes": traffic(4.0), "RxPackets": traffic(0.02), "RxDrops": 0, "RxErrors": 0,
            "TxBytes": traffic(3.0), "TxPackets": traffic(0.02), "TxDrops": 0, "TxErrors": 0,
        }]},
        "Disk": [{
            "Device": "vda",
            "ReadBytes": traffic(1.0), "ReadIO": traffic(0.01), "WriteBytes": traffic(2.0), "WriteIO": traffic(0.02),
        }],
        "Filesystem": [{
            "FsName": "/dev/vda1", "Category": "rootfs",
            "Capacity": (30.0 * GIB) as i64, "Usage": (30.0 * GIB * fill) as i64,
            "Available": (30.0 * GIB * (1.0 - fill)) as i64,
        }],
    })
}

fn container(instance: &Instance, container: &Container, at_secs: i64, age: i64) -> Value {
    let spec = &container.spec;
    let draw = |what: &str| draw(instance, &format!("{}/{what}", spec.name), at_secs);
    let cores = spec.cpu.unwrap_or(instance.cpu);
    let gib = spec.memory_gib.unwrap_or(instance.memory_gib);
    json!({"Name": spec.name, "CPU": cpu(cores, draw("cpu"), age), "Memory": memory(gib, draw("memory"))})
}

fn cpu(cores: f64, share: f64, age_secs: i64) -> Value {
    let nano_cores = cores * 1e9 * (0.05 + 0.5 * share);
    json!({
        "Limit": (cores * 1_000.0) as i64,
        "Load": (cores * share) as i64,
        "UsageNanoCores": nano_cores as i64,
        // A counter must not fall, so it is not the sum of the drawn usage but a steady tenth of the cores.
        "UsageCoreNanoSeconds": (cores * 1e8) as i64 * age_secs,
    })
}

fn memory(gib: f64, share: f64) -> Value {
    let usage = gib * GIB * (0.1 + 0.4 * share);
    json!({
        "UsageBytes": usage as i64, "WorkingSet": (usage * 0.9) as i64, "Rss": (usage * 0.8) as i64,
        "Cache": (usage * 0.1) as i64, "AvailableBytes": (gib * GIB - usage) as i64,
    })
}
