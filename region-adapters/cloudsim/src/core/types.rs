//! Vendor-neutral records of the simulated world. Times are Unix milliseconds (`_ms`), memory is GiB, CPU is vCPU.
//!
//! A record holds what both vendors' describe replies need; the faces translate, the core never renders.
#![expect(
    missing_docs,
    reason = "each type says what it is; the fields carry the wire's own words and their unit in the name"
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which simulated cloud a region belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Vendor {
    #[serde(rename = "tencent-eksci")]
    TencentEksci,
    #[serde(rename = "alibaba-eci")]
    AlibabaEci,
}

impl Vendor {
    /// The name used in scenarios, the control API and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TencentEksci => "tencent-eksci",
            Self::AlibabaEci => "alibaba-eci",
        }
    }
}

impl std::fmt::Display for Vendor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The region a call acts on. Region names are unique per vendor only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegionKey {
    pub vendor: Vendor,
    pub region: String,
}

impl RegionKey {
    #[must_use]
    pub fn new(vendor: Vendor, region: &str) -> Self {
        Self { vendor, region: region.to_owned() }
    }
}

/// Where a call comes from and acts: one account in one region. Every instance belongs to one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    pub vendor: Vendor,
    pub region: String,
    /// Name of the account in the scenario.
    pub account: String,
}

impl Scope {
    #[must_use]
    pub fn region_key(&self) -> RegionKey {
        RegionKey { vendor: self.vendor, region: self.region.clone() }
    }
}

/// What happens to a container that ended. Default of both vendors: `Always`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::OnFailure => "OnFailure",
            Self::Never => "Never",
        }
    }

    /// The three spellings both vendors take; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
    /// ECI's `FieldRef.FieldPath`, if the value is taken from the instance.
    pub field_path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub port: u16,
    pub protocol: String,
}

/// The three actions of a probe; at most one is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ProbeAction {
    Exec { commands: Vec<String> },
    Http { path: String, port: u16, scheme: String, host: Option<String> },
    Tcp { port: u16, host: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub action: Option<ProbeAction>,
    pub initial_delay_secs: Option<i64>,
    pub period_secs: Option<i64>,
    pub timeout_secs: Option<i64>,
    pub success_threshold: Option<i64>,
    pub failure_threshold: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
    pub sub_path: Option<String>,
    pub sub_path_expr: Option<String>,
    pub propagation: Option<String>,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecurityContext {
    pub add: Vec<String>,
    pub drop: Vec<String>,
    pub read_only_root: Option<bool>,
    pub run_as_user: Option<i64>,
    pub privileged: Option<bool>,
}

/// A container as asked for. `cpu`/`memory_gib` are limits; `None` means not given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub name: String,
    pub image: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<EnvVar>,
    pub cpu: Option<f64>,
    pub memory_gib: Option<f64>,
    pub gpu: Option<u32>,
    pub working_dir: Option<String>,
    pub ports: Vec<Port>,
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
    pub startup: Option<Probe>,
    pub mounts: Vec<Mount>,
    pub security: Option<SecurityContext>,
    pub image_pull_policy: Option<String>,
    /// ECI passes `Terminating` on delete if a container has one.
    pub pre_stop: Option<Vec<String>>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Vendor fields the core does not interpret, echoed by the face that put them there.
    #[serde(default)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigFile {
    pub path: String,
    /// As sent (ECI: base64).
    pub content: String,
    pub mode: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VolumeKind {
    EmptyDir {
        medium: Option<String>,
        size_limit: Option<String>,
    },
    Nfs {
        server: String,
        path: String,
        read_only: bool,
    },
    ConfigFile {
        files: Vec<ConfigFile>,
        default_mode: Option<i64>,
    },
    /// Tencent CBS or Alibaba disk.
    Disk {
        disk_id: String,
        fs_type: Option<String>,
        size_gib: Option<i64>,
    },
    Flex {
        driver: String,
        fs_type: Option<String>,
        options: Option<String>,
    },
    HostPath {
        path: String,
        kind: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub kind: VolumeKind,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// Name and value.
    pub options: Vec<(String, Option<String>)>,
    /// ECI `DnsPolicy`.
    pub policy: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostAlias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistryCredential {
    pub server: String,
    pub username: String,
    pub password: String,
    pub name: Option<String>,
}

/// A public address, asked for: an existing one, or one made with the instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EipRequest {
    Existing { id: String },
    Create { keep_on_delete: bool, isp: Option<String>, bandwidth_mbps: Option<u32> },
}

/// A public address, held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eip {
    pub id: String,
    pub address: String,
    pub auto_created: bool,
    pub keep_on_delete: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spot {
    /// Highest price per hour for the whole instance; `None` = market price.
    pub price_limit: Option<f64>,
    pub duration_hours: u32,
}

/// Everything asked for in a create. Both faces build one and hand it to [`crate::core::World::create`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub name: String,
    pub vpc_id: Option<String>,
    /// In order of preference; the zone follows from the subnet.
    pub subnet_ids: Vec<String>,
    /// Try the subnets in random order (ECI `VSwitchRandom`).
    pub subnets_random: bool,
    /// If given, the chosen subnet must lie in it (ECI `ZoneId`).
    pub zone: Option<String>,
    pub security_group_ids: Vec<String>,
    /// Instance size; both `None`: the sum of the containers, else the vendor's default.
    pub cpu: Option<f64>,
    pub memory_gib: Option<f64>,
    /// Tried in turn; wins over `cpu`/`memory_gib` (ECI `InstanceType`).
    pub instance_types: Vec<String>,
    pub cpu_type: Option<String>,
    pub gpu_type: Option<String>,
    pub gpu_count: u32,
    pub restart_policy: RestartPolicy,
    pub containers: Vec<ContainerSpec>,
    pub init_containers: Vec<ContainerSpec>,
    pub volumes: Vec<Volume>,
    pub dns: Option<Dns>,
    pub host_aliases: Vec<HostAlias>,
    pub credentials: Vec<RegistryCredential>,
    pub eip: Option<EipRequest>,
    pub tags: Vec<(String, String)>,
    pub client_token: Option<String>,
    pub role_name: Option<String>,
    pub spot: Option<Spot>,
    pub grace_secs: Option<i64>,
    pub active_deadline_secs: Option<i64>,
    pub ephemeral_gib: Option<i64>,
    /// Vendor fields the core does not interpret, echoed by the face that put them there.
    #[serde(default)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// Superset of both vendors' instance states. EKSCI shows the first four as `Pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Being placed; not billed. An EKSCI instance without capacity stays here.
    Scheduling,
    /// ECI only: could not be placed.
    ScheduleFailed,
    /// Placed, images pulled, init containers running; billed.
    Pending,
    /// Containers being restarted on request.
    Restarting,
    Running,
    Updating,
    Terminating,
    Succeeded,
    Failed,
    /// Spot instance taken back.
    Expired,
    /// Gone from the vendor; only the truth ledger still knows it.
    Deleted,
}

impl State {
    /// ECI's word; EKSCI's is made by its face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduling => "Scheduling",
            Self::ScheduleFailed => "ScheduleFailed",
            Self::Pending => "Pending",
            Self::Restarting => "Restarting",
            Self::Running => "Running",
            Self::Updating => "Updating",
            Self::Terminating => "Terminating",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Expired => "Expired",
            Self::Deleted => "Deleted",
        }
    }

    /// Whether the vendor charges in this state (vendor-api README 2.5, 4.3; for EKSCI before `Running`: unverified).
    #[must_use]
    pub fn is_billed(self) -> bool {
        match self {
            Self::Pending | Self::Restarting | Self::Running | Self::Updating | Self::Terminating => true,
            Self::Scheduling
            | Self::ScheduleFailed
            | Self::Succeeded
            | Self::Failed
            | Self::Expired
            | Self::Deleted => false,
        }
    }

    /// Ended by itself or taken back: nothing runs any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Expired | Self::Deleted | Self::ScheduleFailed => true,
            Self::Scheduling
            | Self::Pending
            | Self::Restarting
            | Self::Running
            | Self::Updating
            | Self::Terminating => false,
        }
    }
}

/// One life of a container, from start to end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    pub started_ms: i64,
    pub finished_ms: i64,
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ContainerState {
    Waiting { reason: String, message: String },
    Running { started_ms: i64 },
    Terminated(Termination),
}

/// A container and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub spec: ContainerSpec,
    pub state: ContainerState,
    /// The life before the last restart.
    pub previous: Option<Termination>,
    pub restart_count: u32,
}

impl Container {
    /// A container not yet made.
    #[must_use]
    pub fn waiting(spec: ContainerSpec) -> Self {
        let state = ContainerState::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
        Self { spec, state, previous: None, restart_count: 0 }
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Equal events are counted, not repeated, as Kubernetes does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    pub reason: String,
    pub message: String,
    pub count: u32,
    pub first_ms: i64,
    pub last_ms: i64,
}

/// The next thing that happens to an instance by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Place,
    Init { index: usize },
    Start,
    Exit { index: usize, code: i32, signal: Option<i32>, reason: String, life: u32 },
    Restart { index: usize, life: u32 },
    RestartDone,
    UpdateDone,
    Gone,
    Deadline,
    SpotNotice,
    SpotReclaim,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    pub at_ms: i64,
    pub step: Step,
}

/// An instance, alive or not. Kept for ever: it is also the truth ledger's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    /// Order of creation in this world.
    pub seq: u64,
    pub scope: Scope,
    pub spec: InstanceSpec,
    pub vpc_id: String,
    pub subnet_id: String,
    pub zone: String,
    /// Size as placed and billed, after rounding.
    pub cpu: f64,
    pub memory_gib: f64,
    pub gpu_type: Option<String>,
    pub gpu_count: u32,
    pub instance_type: Option<String>,
    /// Key of the stock this instance takes from, see [`crate::core::spec_key`].
    pub stock_key: String,
    /// Price per hour at create, after any spot discount.
    pub price_hour: f64,
    pub private_ip: String,
    pub eip: Option<Eip>,
    pub state: State,
    pub created_ms: i64,
    pub visible_from_ms: i64,
    pub placed_ms: Option<i64>,
    pub running_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    pub deleted_ms: Option<i64>,
    /// Billed time of closed spans; the open one starts at `billed_since_ms`.
    pub billed_ms: i64,
    pub billed_since_ms: Option<i64>,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    pub events: Vec<Event>,
    /// Sold out after create: never placed, whatever the stock.
    pub stuck: bool,
    pub holds_stock: bool,
    pub holds_ip: bool,
    pub holds_quota: bool,
    /// Spec to take over when `Updating` ends.
    pub next_spec: Option<Box<InstanceSpec>>,
    pub timers: Vec<Timer>,
}

impl Instance {
    /// Still known to the vendor (it may be ended or stuck).
    #[must_use]
    pub fn exists(&self) -> bool {
        self.state != State::Deleted
    }

    /// Shown by list and describe at `now_ms` (list lag hides young ones).
    #[must_use]
    pub fn is_visible(&self, now_ms: i64) -> bool {
        self.exists() && self.visible_from_ms <= now_ms
    }

    /// Exists and may run or be billed.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.state.is_billed() || (self.state == State::Scheduling && !self.stuck)
    }

    /// Whole billed seconds up to `now_ms`, rounded down.
    #[must_use]
    pub fn billed_secs(&self, now_ms: i64) -> i64 {
        let open = self.billed_since_ms.map_or(0, |since| (now_ms - since).max(0));
        (self.billed_ms + open) / 1000
    }

    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().chain(&self.init_containers).find(|c| c.spec.name == name)
    }
}

/// State of an image cache at a moment. Tencent shows `Preparing`/`Creating` as `Pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageCacheState {
    Preparing,
    Creating,
    Ready,
    Failed,
    Updating,
    UpdateFailed,
}

/// An image cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageCache {
    pub id: String,
    pub seq: u64,
    pub scope: Scope,
    pub name: String,
    pub snapshot_id: String,
    pub images: Vec<String>,
    pub size_gib: u64,
    /// 0 = for ever.
    pub retention_days: u64,
    pub credentials: Vec<RegistryCredential>,
    pub security_group_ids: Vec<String>,
    pub tags: Vec<(String, String)>,
    pub created_ms: i64,
    pub updated_ms: Option<i64>,
    pub ready_ms: i64,
    pub last_matched_ms: Option<i64>,
    pub deleted_ms: Option<i64>,
    #[serde(default)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// What a caller asks of a new image cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageCacheSpec {
    pub name: String,
    pub images: Vec<String>,
    pub subnet_id: Option<String>,
    pub vpc_id: Option<String>,
    pub size_gib: Option<u64>,
    pub retention_days: Option<u64>,
    pub credentials: Vec<RegistryCredential>,
    pub security_group_ids: Vec<String>,
    pub tags: Vec<(String, String)>,
    pub extra: BTreeMap<String, serde_json::Value>,
}
