//! What was last seen of an instance.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CloudId, ZoneId},
    instance::{Labels, Shape, word_enum},
    time::Time,
};

word_enum!(
    /// Summary of an instance's conditions, in Kubernetes' words.
    Phase {
        /// Being placed or started.
        #[default] Pending = "Pending",
        /// At least one container runs.
        Running = "Running",
        /// All containers ended with 0.
        Succeeded = "Succeeded",
        /// Ended badly, or could not be placed.
        Failed = "Failed",
        /// Being deleted; nothing may still appear from it.
        Terminating = "Terminating",
    }
);

word_enum!(
    /// State of an instance at its backend, over all vendors.
    ObservedPhase {
        /// Accepted by the vendor, not yet placed; it may never be.
        #[default] Placing = "Placing",
        /// The vendor says it cannot be placed.
        Unplaceable = "Unplaceable",
        /// Placed, no container runs yet.
        Starting = "Starting",
        /// At least one container runs or is being restarted by policy.
        Running = "Running",
        /// Being changed in place or restarted on request.
        Updating = "Updating",
        /// Being stopped.
        Terminating = "Terminating",
        /// Ended, all with 0.
        Succeeded = "Succeeded",
        /// Ended, at least one badly.
        Failed = "Failed",
        /// A spot instance that the vendor took back.
        Reclaimed = "Reclaimed",
        /// A status that the adapter does not know. It proves nothing: what was known before stands.
        Unknown = "Unknown",
    }
);

impl ObservedPhase {
    /// Capacity is proven: the instance runs, or ran to its end.
    #[must_use]
    pub const fn proves_capacity(self) -> bool {
        matches!(
            self,
            Self::Running | Self::Updating | Self::Succeeded | Self::Failed | Self::Reclaimed | Self::Terminating
        )
    }

    /// It will not run again.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Reclaimed | Self::Unplaceable)
    }
}

/// One instance as a backend showed it, in our words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The vendor's id.
    pub id: Option<CloudId>,
    /// The name at the vendor, whatever it is: foreign instances have names we did not make.
    pub name: String,
    /// Zone, where the vendor shows it or the subnet tells it.
    pub zone: Option<ZoneId>,
    /// State.
    pub phase: ObservedPhase,
    /// Short reason in the vendor's words, empty if none.
    #[serde(default)]
    pub reason: String,
    /// The vendor's text, empty if none.
    #[serde(default)]
    pub message: String,
    /// Size the vendor gave (and bills).
    pub shape: Shape,
    /// Address in the private network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    /// Public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<String>,
    /// The containers, init containers first.
    #[serde(default)]
    pub containers: Vec<ContainerStatus>,
    /// Tags, where the vendor has them.
    #[serde(default)]
    pub tags: Labels,
    /// The `MERIDIAN_*` variables of the first container, where the vendor returns its environment.
    #[serde(default)]
    pub marks: Labels,
    /// When the vendor made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// State of one container, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name.
    pub name: String,
    /// Runs before the others.
    #[serde(default)]
    pub init: bool,
    /// `waiting`, `running` or `terminated`.
    pub state: ContainerPhase,
    /// The readiness probe succeeds, or there is none and it runs.
    #[serde(default)]
    pub ready: bool,
    /// Restarts so far.
    #[serde(default)]
    pub restart_count: u32,
    /// Exit code of a terminated container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Reason in the vendor's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The vendor's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Start of the current or last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// End of the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

word_enum!(
    /// State of a container.
    ContainerPhase {
        /// Not started yet.
        #[default] Waiting = "waiting",
        /// Runs.
        Running = "running",
        /// Ended.
        Terminated = "terminated",
    }
);

/// An event of an instance, as the vendor told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedEvent {
    /// What it means to us.
    pub class: EventClass,
    /// Reason in the vendor's words.
    pub reason: String,
    /// The vendor's text.
    pub message: String,
    /// How often it was seen.
    pub count: u32,
    /// First time seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
    /// Last time seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

word_enum!(
    /// What an event means to placement.
    EventClass {
        /// Nothing that changes a decision.
        #[default] Normal = "Normal",
        /// Something went wrong, but placement is not in question.
        Warning = "Warning",
        /// The zone has no stock for this instance now.
        NoCapacity = "NoCapacity",
    }
);

/// A condition, as in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Placed`, `Ready`, `Observed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase reason.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// When the status last changed.
    pub last_transition_time: Time,
}
