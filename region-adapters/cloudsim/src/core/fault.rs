//! Faults: rules set while the clouds run, matched against calls, placements and instances.
//!
//! A rule is sent flat as [`FaultInput`] and checked into a [`Fault`]. The core decides; the rim (sockets, timers)
//! carries a [`Verdict`] out.

use serde::{Deserialize, Serialize};

use super::rng::Rng;
use super::specs::is_spec_key;
use super::types::{RegionKey, Scope, Vendor};
use crate::scenario::DURATION_MS_MAX;

/// Most rules at once.
pub const FAULTS_MAX: usize = 1_000;

/// A rule as the control API takes and shows it. Filters that are absent match everything; `name` and `action` may
/// end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultInput {
    /// Given by the world; refused in a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// See [`FaultKind`].
    pub kind: String,
    /// Cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<Vendor>,
    /// Region name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone name: of the subnet asked for, or of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Vendor action, for example `CreateContainerGroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Size key such as `2-4`, or `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// Instance name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hits left; absent: no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// 0 to 1; absent: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Unix milliseconds after which the rule is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// Instead of `untilMs`: milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<i64>,
    /// `soldOut`: `atCreate` | `afterCreate`; `serverError`: `before` | `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// `latency`, `listLag`: milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<i64>,
    /// `latency`: up to this many milliseconds more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<i64>,
    /// `serverError`, `lateEffect`: HTTP status 500 to 599.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `serverError`, `lateEffect`: an HTML body instead of the vendor's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<bool>,
    /// `lateEffect`, `containerCrash`, `exit`, `spotReclaim`: milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<i64>,
    /// `lateEffect`: `cut` | `serverError`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// `regionOutage`: `refused` | `blackhole`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `containerCrash`, `exit`: 0 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// How a region is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Nothing listens; open connections are reset.
    Refused,
    /// Connections open, nothing is ever answered.
    Blackhole,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// `soldOut`: no stock in the create call, or a create that never gets placed.
    SoldOut {
        /// False: after the create.
        at_create: bool,
    },
    /// `throttle`.
    Throttle,
    /// `unauthenticated`: good credentials fail.
    Unauthenticated,
    /// `latency`.
    Latency {
        /// At least.
        ms: i64,
        /// More, at most.
        jitter_ms: i64,
    },
    /// `serverError`.
    ServerError {
        /// The effect does not happen.
        before: bool,
        /// The reply.
        error: ServerError,
    },
    /// `replyLost`: the effect happens, the connection is cut.
    ReplyLost,
    /// `lateEffect`: an error now, the effect later.
    LateEffect {
        /// Milliseconds until the effect.
        after_ms: i64,
        /// `None`: the connection is cut.
        error: Option<ServerError>,
    },
    /// `listLag`: new instances stay hidden.
    ListLag {
        /// Milliseconds.
        ms: i64,
    },
    /// `emptyList`.
    EmptyList,
    /// `zoneOutage`: nothing new is placed there.
    ZoneOutage,
    /// `regionOutage`.
    RegionOutage(Outage),
    /// `containerCrash`, `exit`: containers of instances that start while the rule holds end after a time.
    ContainerExit {
        /// Milliseconds after the container's start.
        after_ms: i64,
        /// Exit code; a crash has 137 by default.
        code: i32,
        /// Looks like a crash (signal, reason).
        crash: bool,
    },
    /// `spotReclaim`: spot instances that start while the rule holds are taken back.
    SpotReclaim {
        /// Milliseconds after the start.
        after_ms: i64,
    },
}

/// A 5xx reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// HTTP status, if the rule names one; else the vendor's own.
    pub status: Option<u16>,
    /// HTML instead of the vendor's shape.
    pub html: bool,
}

/// What is wrong with a rule or any other control request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {allowed}")]
pub struct FieldError {
    /// JSON name of the field.
    pub field: String,
    /// What is allowed there.
    pub allowed: String,
}

impl FieldError {
    /// Builds one.
    #[must_use]
    pub fn new(field: &str, allowed: impl Into<String>) -> Self {
        Self { field: field.to_owned(), allowed: allowed.into() }
    }
}

/// A checked rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// As shown, with id and remaining hits.
    pub input: FaultInput,
    /// The checked meaning.
    pub kind: FaultKind,
}

/// What the control API says about a size key it does not take.
pub const SPEC_KEYS: &str = "* or vCPU-GiB[-GPUxCOUNT] without trailing zeros, for example 2-4 or 0.25-0.5";

const KINDS: &str = "soldOut, throttle, unauthenticated, latency, serverError, replyLost, lateEffect, listLag, \
                     emptyList, zoneOutage, regionOutage, containerCrash, exit, spotReclaim";

impl Fault {
    /// Checks a rule; `now_ms` turns `forMs` into `untilMs`.
    ///
    /// # Errors
    /// The first field that is missing, unknown for this kind, or out of range.
    pub fn parse(mut input: FaultInput, now_ms: i64) -> Result<Self, FieldError> {
        if let Some(ms) = input.for_ms.take() {
            if input.until_ms.is_some() {
                return Err(FieldError::new("forMs", "not together with untilMs"));
            }
            input.until_ms = Some(now_ms + duration("forMs", ms)?);
        }
        if input.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(FieldError::new("probability", "0 to 1"));
        }
        if input.times == Some(0) {
            return Err(FieldError::new("times", "1 or more"));
        }
        if input.spec.as_deref().is_some_and(|spec| !is_spec_key(spec)) {
            return Err(FieldError::new("spec", SPEC_KEYS));
        }
        let kind = parse_kind(&input)?;
        refuse_foreign_fields(&input)?;
        Ok(Self { input, kind })
    }

    /// Rule id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.input.id.as_deref().unwrap_or_default()
    }

    fn is_on(&self, now_ms: i64) -> bool {
        self.input.until_ms.is_none_or(|until| now_ms < until)
    }
}

fn duration(field: &str, ms: i64) -> Result<i64, FieldError> {
    if (0..=DURATION_MS_MAX).contains(&ms) {
        Ok(ms)
    } else {
        Err(FieldError::new(field, format!("0 to {DURATION_MS_MAX} milliseconds")))
    }
}

fn parse_kind(input: &FaultInput) -> Result<FaultKind, FieldError> {
    let after_ms = || duration("afterMs", input.after_ms.unwrap_or(0));
    let server_error = || {
        let status = input.status;
        if status.is_some_and(|s| !(500..=599).contains(&s)) {
            return Err(FieldError::new("status", "500 to 599"));
        }
        Ok(ServerError { status, html: input.html.unwrap_or(false) })
    };
    let exit = |crash: bool, default: i32| {
        let code = input.exit_code.unwrap_or(default);
        if !(0..=255).contains(&code) {
            return Err(FieldError::new("exitCode", "0 to 255"));
        }
        Ok(FaultKind::ContainerExit { after_ms: after_ms()?, code, crash })
    };
    Ok(match input.kind.as_str() {
        "soldOut" => match input.when.as_deref() {
            None | Some("atCreate") => FaultKind::SoldOut { at_create: true },
            Some("afterCreate") => FaultKind::SoldOut { at_create: false },
            Some(_) => return Err(FieldError::new("when", "atCreate or afterCreate")),
        },
        "throttle" => FaultKind::Throttle,
        "unauthenticated" => FaultKind::Unauthenticated,
        "latency" => FaultKind::Latency {
            ms: duration("ms", input.ms.unwrap_or(0))?,
            jitter_ms: duration("jitterMs", input.jitter_ms.unwrap_or(0))?,
        },
        "serverError" => {
            let before = match input.when.as_deref() {
                None | Some("before") => true,
                Some("after") => false,
                Some(_) => return Err(FieldError::new("when", "before or after")),
            };
            FaultKind::ServerError { before, error: server_error()? }
        }
        "replyLost" => FaultKind::ReplyLost,
        "lateEffect" => {
            let error = match input.reply.as_deref() {
                None | Some("cut") => None,
                Some("serverError") => Some(server_error()?),
                Some(_) => return Err(FieldError::new("reply", "cut or serverError")),
            };
            FaultKind::LateEffect { after_ms: after_ms()?, error }
        }
        "listLag" => FaultKind::ListLag { ms: duration("ms", input.ms.unwrap_or(0))? },
        "emptyList" => FaultKind::EmptyList,
        "zoneOutage" => FaultKind::ZoneOutage,
        "regionOutage" => match input.mode.as_deref() {
            None | Some("refused") => FaultKind::RegionOutage(Outage::Refused),
            Some("blackhole") => FaultKind::RegionOutage(Outage::Blackhole),
            Some(_) => return Err(FieldError::new("mode", "refused or blackhole")),
        },
        "containerCrash" => exit(true, 137)?,
        "exit" => exit(false, 0)?,
        "spotReclaim" => FaultKind::SpotReclaim { after_ms: after_ms()? },
        _ => return Err(FieldError::new("kind", format!("one of {KINDS}"))),
    })
}

/// A field that the kind does not read is a mistake, not a no-op.
fn refuse_foreign_fields(input: &FaultInput) -> Result<(), FieldError> {
    let own: &[&str] = match input.kind.as_str() {
        "soldOut" => &["when", "zone", "spec", "name"],
        "latency" => &["ms", "jitterMs", "action", "zone", "spec", "name"],
        "serverError" => &["when", "status", "html", "action", "zone", "spec", "name"],
        "lateEffect" => &["afterMs", "reply", "status", "html", "action", "zone", "spec", "name"],
        "throttle" | "replyLost" | "unauthenticated" => &["action", "zone", "spec", "name"],
        "listLag" => &["ms", "zone", "spec", "name"],
        "zoneOutage" => &["zone"],
        "regionOutage" => &["mode"],
        "containerCrash" | "exit" => &["afterMs", "exitCode", "zone", "spec", "name"],
        "spotReclaim" => &["afterMs", "zone", "spec", "name"],
        _ => &[],
    };
    let given = [
        ("when", input.when.is_some()),
        ("ms", input.ms.is_some()),
        ("jitterMs", input.jitter_ms.is_some()),
        ("status", input.status.is_some()),
        ("html", input.html.is_some()),
        ("afterMs", input.after_ms.is_some()),
        ("reply", input.reply.is_some()),
        ("mode", input.mode.is_some()),
        ("exitCode", input.exit_code.is_some()),
        ("action", input.action.is_some()),
        ("zone", input.zone.is_some()),
        ("spec", input.spec.is_some()),
        ("name", input.name.is_some()),
    ];
    match given.iter().find(|(field, given)| *given && !own.contains(field)) {
        Some((field, _)) => Err(FieldError::new(field, format!("has no meaning for kind {}", input.kind))),
        None => Ok(()),
    }
}

/// What a rule is matched against; `None` is not known here and matches only rules without that filter.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Cloud.
    pub vendor: Vendor,
    /// Region.
    pub region: &'a str,
    /// Zone.
    pub zone: Option<&'a str>,
    /// Vendor action.
    pub action: Option<&'a str>,
    /// Size key.
    pub spec: Option<&'a str>,
    /// Instance name.
    pub name: Option<&'a str>,
}

impl<'a> Subject<'a> {
    /// Only the place.
    #[must_use]
    pub fn of_scope(scope: &'a Scope) -> Self {
        Self { vendor: scope.vendor, region: &scope.region, zone: None, action: None, spec: None, name: None }
    }
}

fn matches(input: &FaultInput, subject: &Subject<'_>) -> bool {
    let text = |filter: &Option<String>, value: Option<&str>| match (filter.as_deref(), value) {
        (None | Some("*"), _) => true,
        (Some(filter), Some(value)) => match filter.strip_suffix('*') {
            Some(prefix) => value.starts_with(prefix),
            None => value == filter,
        },
        (Some(_), None) => false,
    };
    input.vendor.is_none_or(|v| v == subject.vendor)
        && text(&input.region, Some(subject.region))
        && text(&input.zone, subject.zone)
        && text(&input.action, subject.action)
        && text(&input.spec, subject.spec)
        && text(&input.name, subject.name)
}

/// What the rim does with a call. The effect itself is the face's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Wait this long first.
    pub delay_ms: i64,
    /// Refuse without effect.
    pub refusal: Option<Refusal>,
    /// What becomes of the reply.
    pub after: After,
}

/// A call refused by a fault or a limit, in no vendor's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Rate limit.
    Throttled,
    /// Credentials.
    Unauthenticated,
    /// 5xx.
    ServerError(ServerError),
}

/// What becomes of the reply when the effect is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// It is sent.
    #[default]
    Reply,
    /// The connection is cut.
    Cut,
    /// A 5xx is sent instead.
    ServerError(ServerError),
    /// The effect waits; the caller gets the cut or the error at once.
    Late {
        /// Milliseconds until the effect.
        after_ms: i64,
        /// `None`: cut.
        error: Option<ServerError>,
    },
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rules: Vec<Fault>,
    next_id: u64,
    /// Ids changed or removed since the last look.
    changed: Vec<String>,
}

impl Faults {
    pub(super) fn add(&mut self, mut fault: Fault) -> Result<String, FieldError> {
        if self.rules.len() >= FAULTS_MAX {
            return Err(FieldError::new("kind", format!("at most {FAULTS_MAX} faults at once")));
        }
        self.next_id += 1;
        let id = format!("fault-{}", self.next_id);
        fault.input.id = Some(id.clone());
        self.rules.push(fault);
        self.changed.push(id.clone());
        Ok(id)
    }

    /// Takes a rule back from disk under its old id.
    pub(super) fn restore(&mut self, fault: Fault) {
        let number = fault.id().strip_prefix("fault-").and_then(|n| n.parse().ok()).unwrap_or(0);
        self.next_id = self.next_id.max(number);
        self.rules.retain(|f| f.id() != fault.id());
        self.rules.push(fault);
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.rules.len();
        self.rules.retain(|f| f.id() != id);
        let removed = self.rules.len() != before;
        if removed {
            self.changed.push(id.to_owned());
        }
        removed
    }

    pub(super) fn clear(&mut self) -> usize {
        let n = self.rules.len();
        self.changed.extend(self.rules.iter().map(|f| f.id().to_owned()));
        self.rules.clear();
        n
    }

    pub(super) fn expire(&mut self, now_ms: i64) {
        let changed = &mut self.changed;
        self.rules.retain(|f| {
            let on = f.is_on(now_ms);
            if !on {
                changed.push(f.id().to_owned());
            }
            on
        });
    }

    /// All rules, oldest first.
    #[must_use]
    pub fn rules(&self) -> &[Fault] {
        &self.rules
    }

    pub(super) fn take_changed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.changed)
    }

    /// The first matching rule that `pick` understands; counts the hit and draws its probability.
    pub(super) fn hit<T>(
        &mut self,
        subject: &Subject<'_>,
        now_ms: i64,
        rng: &mut Rng,
        pick: impl Fn(&FaultKind) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        for fault in &mut self.rules {
            let Some(value) = pick(&fault.kind) else { continue };
            if !fault.is_on(now_ms) || !matches(&fault.input, subject) {
                continue;
            }
            if fault.input.probability.is_some_and(|p| !rng.chance(p)) {
                continue;
            }
            if let Some(times) = &mut fault.input.times {
                *times -= 1;
                self.changed.push(fault.id().to_owned());
            }
            found = Some(value);
            break;
        }
        self.rules.retain(|f| f.input.times != Some(0));
        found
    }

    /// What happens to a call. Latency adds to any other fault; of the rest the oldest rule wins.
    pub(super) fn verdict(&mut self, subject: &Subject<'_>, now_ms: i64, rng: &mut Rng) -> Verdict {
        if self.rules.is_empty() {
            return Verdict::default();
        }
        let latency = self.hit(subject, now_ms, rng, |kind| {
            if let FaultKind::Latency { ms, jitter_ms } = kind { Some((*ms, *jitter_ms)) } else { None }
        });
        let delay_ms = latency.map_or(0, |(ms, jitter)| ms + draw(rng, jitter));
        let (refusal, after) = self.hit(subject, now_ms, rng, call_effect).unwrap_or_default();
        Verdict { delay_ms, refusal, after }
    }

    /// Whether a region is out of reach now. Counts no hit.
    #[must_use]
    pub fn outage(&self, key: &RegionKey, now_ms: i64) -> Option<Outage> {
        let subject =
            Subject { vendor: key.vendor, region: &key.region, zone: None, action: None, spec: None, name: None };
        let on = self.rules.iter().filter(|f| f.is_on(now_ms) && matches(&f.input, &subject));
        on.map(|f| &f.kind)
            .find_map(|kind| if let FaultKind::RegionOutage(outage) = kind { Some(*outage) } else { None })
    }
}

/// 0..=`max_ms`.
pub(super) fn draw(rng: &mut Rng, max_ms: i64) -> i64 {
    let bound = u64::try_from(max_ms).unwrap_or(0).saturating_add(1);
    i64::try_from(rng.below(bound)).unwrap_or(0)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most kinds are no call faults")]
fn call_effect(kind: &FaultKind) -> Option<(Option<Refusal>, After)> {
    match *kind {
        FaultKind::Throttle => Some((Some(Refusal::Throttled), After::Reply)),
        FaultKind::Unauthenticated => Some((Some(Refusal::Unauthenticated), After::Reply)),
        FaultKind::ServerError { before: true, error } => Some((Some(Refusal::ServerError(error)), After::Reply)),
        FaultKind::ServerError { before: false, error } => Some((None, After::ServerError(error))),
        FaultKind::ReplyLost => Some((None, After::Cut)),
        FaultKind::LateEffect { after_ms, error } => Some((None, After::Late { after_ms, error })),
        _ => None,
    }
}
