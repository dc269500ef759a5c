//! What the ledger remembers of one instance's life: the operation record.
//!
//! One record per (tenant, idempotency key) is at once the idempotency record, the create journal and the
//! instance's ledger entry, so that nothing can tear between them (RELIABILITY 2.2).
//!
//! ```text
//! operation: Claimed -> Placing -> { Succeeded | Failed | Cancelled }      the final answer is stored verbatim
//! attempt:   Open -> { Applied | Refused | InDoubt };  InDoubt -> { Applied | Absent }
//!            Applied -> { Running | Unplaceable };  Unplaceable -> Removing -> Absent
//!            Running -> Removing -> Absent                                  when the instance is deleted
//!            Running -> Absent                                              when it was lost
//!            InDoubt -> condemned                                           with `onDoubt: replace`
//! condemned: InDoubt -> { Removing | Absent };  Removing -> Absent
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Effect, FaultKind, Problem},
    ids::{
        AdapterName, BackendId, ClientToken, CloudId, CloudName, InstanceName, InstanceUid, OperationId, ProjectName,
        RegionId, TenantId, ZoneId,
    },
    instance::{InstanceSpec, Labels, Shape, word_enum},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    status::Observed,
    time::Time,
};

/// Annotation of an instance that was there before its record: backend and id it was imported from. Its operation never
/// creates anything: a claim that was left before the instance was taken in fails.
pub const IMPORTED: &str = "meridian.dev/imported-from";

/// Annotation of a record that was found nowhere when a ledger was rebuilt, with what it was made from instead. What was
/// asked for is not known, so nothing is sent for it.
pub const REBUILT: &str = "meridian.dev/rebuilt";

/// Annotation of a record that is charged to a project of its tenant, with the project's name. It stands among the
/// annotations because an older gateway that writes the record keeps those, and would drop a field it does not know.
pub const PROJECT: &str = "meridian.dev/project";

/// Version of the record's layout, raised when a reader of the last version could misread it.
pub const RECORD_VERSION: u16 = 1;

word_enum!(
    /// State of an operation.
    OperationState {
        /// The key is taken; nothing charged, nothing sent.
        #[default] Claimed = "claimed",
        /// Charged; an attempt is open, in doubt, watched or about to be followed by the next.
        Placing = "placing",
        /// An instance was adopted and ran.
        Succeeded = "succeeded",
        /// Nothing of it exists and nothing can appear.
        Failed = "failed",
        /// Deleted before it ran; nothing of it exists and nothing can appear.
        Cancelled = "cancelled",
    }
);

impl OperationState {
    /// No further step of the create will change it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

word_enum!(
    /// State of one attempt to create the instance at one backend and zone.
    AttemptState {
        /// Journalled; a request may be on its way.
        #[default] Open = "open",
        /// The outcome of the request is not known.
        InDoubt = "in-doubt",
        /// The vendor gave an id; capacity is not proven.
        Applied = "applied",
        /// It ran: the attempt is the operation's instance.
        Running = "running",
        /// Capacity did not come; it is to be removed.
        Unplaceable = "unplaceable",
        /// A delete was sent or is to be sent; absence is not proven.
        Removing = "removing",
        /// The vendor refused; nothing exists.
        Refused = "refused",
        /// Proven not to exist.
        Absent = "absent",
    }
);

impl AttemptState {
    /// Nothing of the attempt exists or can appear.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Refused | Self::Absent)
    }
}

/// Who may write a record: compared for equality in every ledger step, so that a stale owner stops
/// (RELIABILITY 2.2). The three parts together are never given out twice, also after a store roll-back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Incarnation of the store.
    pub store: String,
    /// Counter, raised by each take-over.
    pub counter: u64,
    /// Random per owner process.
    pub owner: String,
}

/// Amounts charged to a tenant's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Charge {
    /// Number of instances.
    pub instances: u64,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory.
    pub memory: MemoryMib,
    /// GPUs of any model.
    pub gpu: u64,
    /// Public addresses.
    pub public_ips: u64,
    /// Disk space that was asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disk: MemoryMib,
    /// What it costs per hour; nothing where the price is not known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cost: PricePerHour,
}

/// A tenant's hard limits; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaLimits {
    /// Number of instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u64>,
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryMib>,
    /// GPUs of any model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u64>,
    /// Public addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ips: Option<u64>,
}

/// The failure of one call, as it is kept in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFault {
    /// What it means.
    pub kind: FaultKind,
    /// What is known of its effect.
    pub effect: Effect,
    /// The vendor's code, or ours for a transport failure.
    pub code: String,
    /// Text for people, without secrets.
    pub message: String,
    /// The vendor's request id, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_request_id: Option<String>,
}

impl AttemptFault {
    /// What a tenant may read of it: the vendor's own words, unless they are about the operator's account.
    #[must_use]
    pub fn public_text(&self) -> String {
        match self.kind {
            FaultKind::Credentials | FaultKind::Account => {
                "the region does not accept the operator's account".to_owned()
            }
            _ => format!("{}: {}", self.code, self.message),
        }
    }
}

/// One attempt to create the instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// 1 for the first.
    pub n: u32,
    /// Backend.
    pub backend: BackendId,
    /// The backend's adapter.
    pub adapter: AdapterName,
    /// The backend's region.
    pub region: RegionId,
    /// The zone asked for.
    pub zone: ZoneId,
    /// What the vendor gets as client token.
    pub token: ClientToken,
    /// What the instance is called at the vendor.
    pub name: CloudName,
    /// Size asked of the vendor.
    pub shape: Shape,
    /// Price the plan reckoned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PricePerHour>,
    /// What the quota holds for it if it exists: of the size that was asked for. None in what an older gateway wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<Charge>,
    /// State.
    pub state: AttemptState,
    /// When the attempt began.
    pub started_at: Time,
    /// When the intent to send the last request became durable; no byte leaves before, and the request's
    /// signature bears this time.
    pub armed_at: Time,
    /// How many requests were sent under the token, as far as the journal knows.
    pub sends: u32,
    /// The vendor's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_id: Option<CloudId>,
    /// Until when the instance must run before the next candidate is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place_until: Option<Time>,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<AttemptFault>,
    /// When the attempt reached its present state.
    pub changed_at: Time,
}

/// Why a candidate was chosen or ruled out, kept for `:explain`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When the plan was made.
    pub at: Time,
    /// Seed of the plan's tie-breaks.
    pub seed: u64,
    /// Candidates, best first.
    pub candidates: Vec<RankedCandidate>,
    /// Ruled out, each with every reason.
    pub rejected: Vec<RejectedCandidate>,
}

/// A backend's zone that can take the instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RankedCandidate {
    /// Backend.
    pub backend: BackendId,
    /// The backend's adapter.
    pub adapter: AdapterName,
    /// Region.
    pub region: RegionId,
    /// Zone.
    pub zone: ZoneId,
    /// Size the vendor will give for the wish.
    pub shape: Shape,
    /// Price per hour, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PricePerHour>,
    /// Sum of the terms; higher is better.
    pub score: f64,
    /// The terms of the score by name.
    pub terms: Vec<ScoreTerm>,
}

/// One term of a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreTerm {
    /// Name, for example `price`.
    pub name: String,
    /// 0 (worst) to 1 (best).
    pub value: f64,
    /// Weight in the sum.
    pub weight: f64,
    /// What the value rests on.
    pub why: String,
}

/// A backend's zone (or a whole backend) that was ruled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedCandidate {
    /// Backend.
    pub backend: BackendId,
    /// The backend's adapter.
    pub adapter: AdapterName,
    /// Region.
    pub region: RegionId,
    /// Zone; none when the whole backend is ruled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneId>,
    /// Every reason.
    pub reasons: Vec<Rejection>,
}

/// One reason against a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// Stable code of the filter, for example `sold-out`, `breaker-open`, `unsupported`.
    pub filter: String,
    /// Text for people.
    pub detail: String,
    /// The field of the request that rules it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// When the reason may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// A delete that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// When it was accepted; from here nothing brings the instance back (R10).
    pub requested_at: Time,
    /// When absence was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Why the gateway asked for it, in words for the owner; none when a caller did. An older gateway that writes the
    /// record may drop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The record of one operation and of the instance it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationRecord {
    /// [`RECORD_VERSION`] of its writer.
    pub v: u16,
    /// Raised by one with each write.
    pub rev: u64,
    /// Place among all writes of the tenant, in every record; set by the ledger with each write.
    #[serde(default)]
    pub seq: u64,
    /// Owner of the instance.
    pub tenant: TenantId,
    /// A pure function of the request.
    pub op_id: OperationId,
    /// Identifier of this instance life.
    pub uid: InstanceUid,
    /// The tenant's name for it.
    pub name: InstanceName,
    /// SHA-256 of the canonical request, in hexadecimal.
    pub fingerprint: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Annotations.
    #[serde(default)]
    pub annotations: Labels,
    /// The wish, with defaults filled in.
    pub spec: Arc<InstanceSpec>,
    /// State of the create.
    pub state: OperationState,
    /// Generation of the instance; raised by a failover.
    pub epoch: u32,
    /// Present owner.
    pub fence: Fence,
    /// When the driver should look at it next; none when nothing is left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Time>,
    /// When the key was claimed.
    pub created_at: Time,
    /// Last write.
    pub updated_at: Time,
    /// The plan the attempts follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Arc<Decision>>,
    /// Attempts in order; only the last may be other than closed.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// Attempts that were given up while something of theirs may exist or appear: each is to be removed and proven
    /// absent, and is charged until then. Never the operation's instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub condemned: Vec<Attempt>,
    /// What the tenant's quota holds for it.
    #[serde(default)]
    pub charge: Charge,
    /// A delete that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
    /// The final answer of a failed or cancelled create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// When the instance ran for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_at: Option<Time>,
    /// The instance as it was first seen to run: what the create answers, every time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Observed>,
    /// Last sight of the instance that is worth surviving a restart: at adoption and at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<(Time, Observed)>,
    /// When a rebuild of the ledger restored it with a charge for what it had no proof of: its removal was under way, or
    /// no complete sweep showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<Time>,
}

impl OperationRecord {
    /// The attempt that is not closed, if there is one.
    #[must_use]
    pub fn open_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|a| !a.state.is_closed())
    }

    /// The same, to change it.
    #[must_use]
    pub fn open_attempt_mut(&mut self) -> Option<&mut Attempt> {
        self.attempts.last_mut().filter(|a| !a.state.is_closed())
    }

    /// Every attempt in the order in which it was made, as tenants see it; what is condemned says so.
    #[must_use]
    pub fn attempt_views(&self) -> Vec<AttemptView> {
        let mut all: Vec<_> = self.attempts.iter().map(|a| (a.n, AttemptView::from(a))).collect();
        all.extend(self.condemned.iter().map(|a| (a.n, AttemptView { condemned: true, ..AttemptView::from(a) })));
        all.sort_by_key(|(n, view)| (*n, view.condemned));
        all.into_iter().map(|(_, view)| view).collect()
    }

    /// The project it is charged to; none: the tenant itself.
    #[must_use]
    pub fn project(&self) -> Option<ProjectName> {
        // What is no name is nobody's project, and the tenant is charged all the same.
        self.annotations.get(PROJECT).and_then(|name| ProjectName::new(name).ok())
    }

    /// Nothing of it exists at any backend and nothing can appear: its charge is zero and its name is free.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let over = self.state.is_final() && self.open_attempt().is_none() && self.condemned.is_empty();
        over && (self.state != OperationState::Succeeded
            || self.removal.as_ref().is_some_and(|r| r.completed_at.is_some()))
    }
}

/// One attempt as tenants see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    /// Region.
    pub region: RegionId,
    /// Zone.
    pub zone: ZoneId,
    /// Adapter.
    pub adapter: AdapterName,
    /// State of the attempt.
    pub outcome: AttemptState,
    /// What a failure means; `ok` without one.
    pub code: String,
    /// Text for people, with the vendor's own code.
    pub message: String,
    /// When the attempt began.
    pub start_time: Time,
    /// Milliseconds until its present state.
    pub duration_ms: u64,
    /// It was given up while its outcome was not known, or is surplus; it is being removed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub condemned: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&Attempt> for AttemptView {
    fn from(a: &Attempt) -> Self {
        let (code, message) = match &a.fault {
            Some(f) => (f.kind.as_str().to_owned(), f.public_text()),
            None => ("ok".to_owned(), String::new()),
        };
        let duration_ms = u64::try_from(a.changed_at.since(a.started_at).as_millis()).unwrap_or(u64::MAX);
        Self {
            region: a.region.clone(),
            zone: a.zone.clone(),
            adapter: a.adapter.clone(),
            outcome: a.state,
            code,
            message,
            start_time: a.started_at,
            duration_ms,
            condemned: false,
        }
    }
}
