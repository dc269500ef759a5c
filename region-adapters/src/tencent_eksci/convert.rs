//! From the vendor's replies to the model: pure and total. Nothing a vendor sends may panic here, and nothing
//! it sends is guessed: a status that is not known is an error.

use std::collections::BTreeMap;

use meridian_model::{
    error::{Effect, FaultKind},
    ids::{CloudId, SubnetId, ZoneId},
    instance::{Labels, Shape},
    quantity::{MemoryMib, MilliCpu},
    status::{ContainerPhase, ContainerStatus, EventClass, Observed, ObservedEvent, ObservedPhase},
    time::Time,
};

use super::wire;
use crate::AdapterError;

/// What the start of a variable's name says that it is one of our marks.
const MARK_PREFIX: &str = "MERIDIAN_";

/// What is needed beside the reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) subnet_zones: &'a BTreeMap<SubnetId, ZoneId>,
    /// The tenant's name of a GPU model by the vendor's.
    pub(super) gpu_names: &'a BTreeMap<String, String>,
}

/// A reply that is not what the vendor documents.
pub(super) fn unexpected(code: &str, message: impl AsRef<str>) -> AdapterError {
    AdapterError::new(FaultKind::Unexpected, Effect::NotApplied, code, message)
}

/// An id made by the vendor.
pub(super) fn cloud_id(text: &str) -> Result<CloudId, AdapterError> {
    CloudId::new(text).map_err(|e| unexpected("adapter.bad-id", e.to_string()))
}

/// One instance.
///
/// # Errors
/// `Unexpected` for an id that is not one, or a status that is not known.
pub(super) fn instance(ci: wire::EksCi, known: Known<'_>) -> Result<Observed, AdapterError> {
    let init = ci.init_containers.iter().map(|c| container(c, true));
    let containers: Vec<ContainerStatus> = init.chain(ci.containers.iter().map(|c| container(c, false))).collect();
    let phase = phase(&ci.status, &ci.init_containers, &ci.containers);
    let failed = containers.iter().find(|c| phase == ObservedPhase::Failed && c.exit_code.is_some_and(|e| e != 0));
    let last_end = || containers.iter().filter_map(|c| c.finished_at).max();
    let finished_at = ci.succeeded_time.as_deref().and_then(time).or_else(last_end).filter(|_| phase.is_ended());
    let gpu_type = ci.gpu_type.filter(|t| !t.is_empty());
    Ok(Observed {
        id: Some(cloud_id(&ci.eks_ci_id)?),
        name: ci.eks_ci_name,
        zone: known.subnet_zones.get(ci.subnet_id.as_str()).cloned(),
        phase,
        reason: failed.map(|c| c.reason.clone()).unwrap_or_default(),
        message: failed.map(|c| c.message.clone()).unwrap_or_default(),
        shape: Shape {
            cpu: MilliCpu(scaled(ci.cpu, 1000.0)),
            memory: MemoryMib(scaled(ci.memory, 1024.0)),
            gpu_count: ci.gpu_count.unwrap_or(0),
            gpu_type: gpu_type.map(|t| known.gpu_names.get(&t).cloned().unwrap_or(t)),
        },
        private_ip: ci.private_ip.filter(|ip| !ip.is_empty()),
        public_ip: ci.eip_address.filter(|ip| !ip.is_empty()),
        tags: Labels::new(),
        marks: ci.containers.first().map(marks).unwrap_or_default(),
        created_at: ci.creation_time.as_deref().and_then(time),
        finished_at,
        containers,
    })
}

/// A float of the vendor in our whole units; what is negative becomes 0, what is too large the largest.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, which is what is wanted")]
fn scaled(value: f64, by: f64) -> u64 {
    (value * by).round() as u64
}

fn marks(c: &wire::Container) -> Labels {
    let ours = c.environment_vars.iter().filter(|e| e.name.starts_with(MARK_PREFIX));
    ours.map(|e| (e.name.clone(), e.value.clone())).collect()
}

/// The vendor has no status for "placed, images are being pulled": only a container that ran, an init container
/// in practice, shows it. `created` does not: whether an instance that waits for stock shows it is not
/// documented, and taking it for placed would hide a shortage. `Creating` and `Updating` are not documented but waited for by the vendor's Terraform provider.
fn phase(status: &str, init: &[wire::Container], main: &[wire::Container]) -> ObservedPhase {
    match status {
        "Pending" | "Creating" => {
            let made = |c: &wire::Container| {
                c.current_state.as_ref().is_some_and(|s| matches!(s.state.as_str(), "running" | "exited"))
            };
            if init.iter().chain(main).any(made) { ObservedPhase::Starting } else { ObservedPhase::Placing }
        }
        "Running" => ObservedPhase::Running,
        "Updating" => ObservedPhase::Updating,
        "Succeeded" => ObservedPhase::Succeeded,
        "Failed" => ObservedPhase::Failed,
        // One foreign instance with a new status must not hide all others of the region.
        _ => ObservedPhase::Unknown,
    }
}

fn container(c: &wire::Container, init: bool) -> ContainerStatus {
    let state = c.current_state.as_ref();
    let phase = match state.map(|s| s.state.as_str()) {
        Some("running") => ContainerPhase::Running,
        Some("exited") => ContainerPhase::Terminated,
        // `created`, `unknown` and whatever else: it does not run, and did not end.
        _ => ContainerPhase::Waiting,
    };
    let restarts = c.restart_count.or_else(|| state.and_then(|s| u64::try_from(s.restart_count?).ok())).unwrap_or(0);
    let ended = phase == ContainerPhase::Terminated;
    let text = |pick: fn(&wire::ContainerState) -> &String| state.map(|s| pick(s).clone()).unwrap_or_default();
    let at = |pick: fn(&wire::ContainerState) -> &Option<String>| state.and_then(|s| time(pick(s).as_deref()?));
    ContainerStatus {
        name: c.name.clone(),
        init,
        state: phase,
        // The API shows no readiness; a container that runs is taken as ready.
        ready: phase == ContainerPhase::Running,
        restart_count: u32::try_from(restarts).unwrap_or(u32::MAX),
        exit_code: state.and_then(|s| s.exit_code).filter(|_| ended).map(clamped),
        reason: text(|s| &s.reason),
        message: text(|s| &s.message),
        started_at: at(|s| &s.start_time),
        finished_at: at(|s| &s.finish_time).filter(|_| ended),
    }
}

fn clamped(exit_code: i64) -> i32 {
    i32::try_from(exit_code).unwrap_or(if exit_code < 0 { i32::MIN } else { i32::MAX })
}

/// One event, classified.
pub(super) fn event(e: wire::Event) -> ObservedEvent {
    ObservedEvent {
        class: event_class(&e.reason, &e.kind, &e.message),
        count: e.count.and_then(|c| u32::try_from(c).ok()).unwrap_or(1),
        first_seen: e.first_timestamp.as_deref().and_then(time),
        last_seen: e.last_timestamp.as_deref().and_then(time),
        reason: e.reason,
        message: e.message,
    }
}

/// Reasons under which the platform says that it cannot place a pod (document "common problems of serverless
/// pods"; that EKSCI uses the first too is not verified).
const PLACEMENT_REASONS: [&str; 2] = ["FailedCreatePodSandBox", "FailedScheduling"];

/// Texts that make such an event a lack of stock. Everything else under these reasons, for example a disk
/// that is elsewhere, is a warning: placement then waits for its timeout.
const NO_STOCK_TEXTS: [&str; 3] = ["insufficient resource", "resource insufficient", "sold out"];

fn event_class(reason: &str, kind: &str, message: &str) -> EventClass {
    let message = message.to_lowercase();
    if PLACEMENT_REASONS.contains(&reason) && NO_STOCK_TEXTS.iter().any(|t| message.contains(t)) {
        EventClass::NoCapacity
    } else if kind == "Warning" {
        EventClass::Warning
    } else {
        EventClass::Normal
    }
}

/// A time in one of the vendor's notations: RFC 3339, or Go's (`2021-06-24 03:32:02.42 +0000 UTC`, with or
/// without what follows the offset). The zero time, and one without an offset, is no time: eight hours are too
/// much to guess.
pub(super) fn time(text: &str) -> Option<Time> {
    let text = text.trim();
    let parsed = Time::parse(text).ok().or_else(|| {
        let mut parts = text.split_ascii_whitespace();
        let (date, clock, offset) = (parts.next()?, parts.next()?, parts.next()?);
        let (hours, minutes) = offset.split_at_checked(3)?;
        let colon = if minutes.starts_with(':') { "" } else { ":" };
        Time::parse(&format!("{date}T{clock}{hours}{colon}{minutes}")).ok()
    })?;
    (parsed.unix_ms() > 0).then_some(parsed)
}

#[cfg(test)]
mod tests;
