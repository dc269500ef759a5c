//! What a tenant asks for: one instance, in the words of a Kubernetes Pod.
//!
//! Field names, defaults and quantities are those of the v1 Pod wherever Kubernetes has the field, so that a
//! Pod manifest inside our model is accepted as it is. What Kubernetes does not have (capacity type, placement
//! wishes, network profile, disks, inline files) sits beside it under names of its own. The types say nothing
//! about what a particular backend can do: that is [`crate::capability`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AdapterName, BackendId, ProfileName, RegionId, ZoneId},
    quantity::{MemoryMib, MilliCpu, PricePerHour, Span},
};

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The wish for one instance (a container group, a pod).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSpec {
    /// The containers; at least one.
    pub containers: Vec<Container>,
    /// Run one after the other before the containers start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// Volumes that containers mount by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// When containers are started again; the instance itself is never replaced by this.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Secret profiles whose registry credentials are used to pull images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<SecretRef>,
    /// Seconds between the stop signal and the kill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u32>,
    /// Seconds after which a still running instance is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u32>,
    /// Where name resolution comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_policy: Option<DnsPolicy>,
    /// Name servers, search domains and options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// Extra lines of the hosts file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_aliases: Vec<HostAlias>,
    /// The host name inside the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Operating system.
    #[serde(default, skip_serializing_if = "is_default")]
    pub os: Os,
    /// Processor architecture.
    #[serde(default, skip_serializing_if = "is_default")]
    pub architecture: Architecture,
    /// Size of the whole instance; without it the sum over the containers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// GPU model, for example `T4`; required when a container asks for `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Network profile and public address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// Profile that rewrites image names to each region's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_profile: Option<ProfileName>,
    /// On demand or spot.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capacity: Capacity,
    /// Where the instance may and should run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: PlacementWishes,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// A DNS label, unique in the instance.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Ports the container listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// Mounted volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Restarts the container when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Marks the container ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Holds the other probes back until it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// Hooks after start and before stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// User, capabilities and file-system rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Keeps standard input open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stdin: bool,
    /// Gives the container a terminal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tty: bool,
}

/// An environment variable with a literal value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value; empty when left out.
    #[serde(default)]
    pub value: String,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name that probes may refer to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// 1 to 65535.
    pub container_port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Requests and limits of a container, or the size of the whole instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// What is asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests: ResourceList,
    /// What may not be exceeded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ResourceList,
}

/// Amounts by resource, with Kubernetes' resource names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceList {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryMib>,
    /// Whole GPUs.
    #[serde(default, rename = "nvidia.com/gpu", skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuCount>,
    /// Temporary disk space.
    #[serde(default, rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<MemoryMib>,
}

/// A number of whole GPUs; on the wire a number or its text, as Kubernetes writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct GpuCount(pub u32);

impl<'de> Deserialize<'de> for GpuCount {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a whole number of GPUs such as 1")]
        enum Wire {
            Number(u32),
            Text(String),
        }
        match Wire::deserialize(d)? {
            Wire::Number(n) => Ok(Self(n)),
            Wire::Text(text) => {
                text.parse().map(Self).map_err(|_| serde::de::Error::custom("a whole number of GPUs such as 1"))
            }
        }
    }
}

/// Where a volume appears in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// Absolute path in the container.
    pub mount_path: String,
    /// No writing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// A path inside the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// How mounts travel between host and container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_propagation: Option<MountPropagation>,
}

/// A volume: a name and exactly one source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// A DNS label, unique in the instance.
    pub name: String,
    /// Empty at start, gone with the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// A file share over NFS, the vendors' CFS and NAS among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<Nfs>,
    /// An existing cloud disk. It lives in one zone of one vendor and binds the instance to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Files given in the spec itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<ConfigFile>,
}

/// An empty directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// `Memory` for a RAM file system, else disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<EmptyDirMedium>,
    /// Upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<MemoryMib>,
}

/// An NFS share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nfs {
    /// Host name or address.
    pub server: String,
    /// Exported path.
    pub path: String,
    /// No writing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// A cloud disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The vendor's disk id.
    pub disk_id: String,
    /// File system, for example `ext4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
}

/// Files whose content is in the spec.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFile {
    /// The files; at least one.
    pub items: Vec<ConfigFileItem>,
    /// Mode bits of files without their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_mode: Option<u32>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigFileItem {
    /// Path relative to the mount.
    pub path: String,
    /// Content as text.
    pub content: String,
    /// Mode bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// A probe: exactly one action and its timing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Runs a command; 0 is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// GET; 200 to 399 is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// Connects; success when it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// Seconds before the first try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay_seconds: Option<u32>,
    /// Seconds a try may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Seconds between tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    /// Successes in a row that count as success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// Failures in a row that count as failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
}

/// A command in the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecAction {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// An HTTP request to the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetAction {
    /// Path; `/` when left out.
    #[serde(default = "root_path")]
    pub path: String,
    /// Port number or name.
    pub port: PortRef,
    /// `HTTP` or `HTTPS`.
    #[serde(default)]
    pub scheme: UriScheme,
    /// Host; the instance's own address when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Extra headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

fn root_path() -> String {
    "/".to_owned()
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A connection to the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TcpSocketAction {
    /// Port number or name.
    pub port: PortRef,
    /// Host; the instance's own address when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A port by number, or by the name of one of the container's ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a port number or the name of one of the container's ports")]
pub enum PortRef {
    /// 1 to 65535.
    Number(u16),
    /// `ports[].name`.
    Name(String),
}

impl Default for PortRef {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// Hooks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Right after the container started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<LifecycleHandler>,
    /// Before the container is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<LifecycleHandler>,
}

/// What a hook does: exactly one action.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleHandler {
    /// Runs a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// Sends a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// Opens a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
}

/// Rights of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// User id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<i64>,
    /// Group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<i64>,
    /// Refuse to run as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// No writing to the image's file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
    /// All rights of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// Linux capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<LinuxCapabilities>,
}

/// Linux capabilities added and dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinuxCapabilities {
    /// Added, for example `NET_ADMIN`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

/// A secret profile by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    /// The profile.
    pub name: ProfileName,
}

/// Name resolution inside the instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Addresses of name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<DnsOption>,
}

/// A resolver option.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsOption {
    /// Name, for example `ndots`.
    pub name: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// One line of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostAlias {
    /// Address.
    pub ip: String,
    /// Names of the address.
    pub hostnames: Vec<String>,
}

/// The operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Os {
    /// `linux` or `windows`.
    pub name: OsName,
}

/// Network wishes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Network profile; the tenant's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileName>,
    /// Asks for a public address that is made and released with the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<PublicIp>,
}

/// A public address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicIp {
    /// Outgoing bandwidth in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_mbps: Option<u32>,
}

/// How the capacity is bought.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// On demand or spot.
    #[serde(default, rename = "type")]
    pub kind: CapacityType,
    /// Highest price of a spot instance; market price when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price_per_hour: Option<PricePerHour>,
}

/// Where the instance may and should run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementWishes {
    /// Only these regions, in this order of preference; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionId>,
    /// Only these zones, in this order of preference; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneId>,
    /// Only these adapters; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<AdapterName>,
    /// How candidates are ranked.
    #[serde(default)]
    pub strategy: Strategy,
    /// Backends in the order in which they are tried; those not named come last, by strategy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback_order: Vec<BackendId>,
    /// Upper bound of attempts, 1 to 20; 6 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long one attempt may take to run before the next candidate is tried; 60 s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place_timeout: Option<Span>,
    /// What to do while it is not known whether an attempt took effect.
    #[serde(default, skip_serializing_if = "OnDoubt::is_wait")]
    pub on_doubt: OnDoubt,
}

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}
pub(crate) use word_enum;

word_enum!(
    /// What to do while it is not known whether an attempt took effect.
    OnDoubt {
        /// Wait until it is known: there is never more than one instance.
        #[default] Wait = "wait",
        /// After `placeTimeout` give the attempt up and try the next candidate; if the first shows up later, it is
        /// removed. For a while there may be two instances, and the quota must hold both.
        Replace = "replace",
    }
);

impl OnDoubt {
    fn is_wait(&self) -> bool {
        *self == Self::Wait
    }
}

word_enum!(
    /// When containers are started again.
    RestartPolicy {
        /// After every end.
        #[default] Always = "Always",
        /// After an end with a code other than 0.
        OnFailure = "OnFailure",
        /// Not at all.
        Never = "Never",
    }
);
word_enum!(
    /// When images are pulled.
    ImagePullPolicy {
        /// At every start.
        Always = "Always",
        /// When missing.
        #[default] IfNotPresent = "IfNotPresent",
        /// Not at all.
        Never = "Never",
    }
);
word_enum!(
    /// Transport protocol.
    Protocol {
        /// TCP.
        #[default] Tcp = "TCP",
        /// UDP.
        Udp = "UDP",
        /// SCTP.
        Sctp = "SCTP",
    }
);
word_enum!(
    /// Storage of an empty directory.
    EmptyDirMedium {
        /// The instance's disk.
        #[default] Disk = "",
        /// A RAM file system.
        Memory = "Memory",
    }
);
word_enum!(
    /// How mounts travel between host and container.
    MountPropagation {
        /// Not at all.
        #[default] None = "None",
        /// From the host.
        HostToContainer = "HostToContainer",
        /// Both ways.
        Bidirectional = "Bidirectional",
    }
);
word_enum!(
    /// Scheme of an HTTP probe.
    UriScheme {
        /// Plain.
        #[default] Http = "HTTP",
        /// TLS, not verified.
        Https = "HTTPS",
    }
);
word_enum!(
    /// Source of name resolution.
    DnsPolicy {
        /// The platform's resolver.
        #[default] Default = "Default",
        /// The cluster's resolver.
        ClusterFirst = "ClusterFirst",
        /// Only `dnsConfig`.
        None = "None",
    }
);
word_enum!(
    /// Operating system.
    OsName {
        /// Linux.
        #[default] Linux = "linux",
        /// Windows.
        Windows = "windows",
    }
);
word_enum!(
    /// Processor architecture.
    Architecture {
        /// x86-64.
        #[default] Amd64 = "amd64",
        /// 64-bit ARM.
        Arm64 = "arm64",
    }
);
word_enum!(
    /// How capacity is bought.
    CapacityType {
        /// Full price, not taken back.
        #[default] OnDemand = "onDemand",
        /// Cheaper, may be taken back.
        Spot = "spot",
    }
);
word_enum!(
    /// How candidates are ranked.
    Strategy {
        /// By the order of wishes and the operator's priorities.
        #[default] Priority = "priority",
        /// By price.
        Cheapest = "cheapest",
        /// Away from where the tenant's instances already run.
        Spread = "spread",
    }
);

/// The size an instance needs, summed over its containers and defaulted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory.
    pub memory: MemoryMib,
    /// GPU model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Number of GPUs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gpu_count: u32,
}

/// Size of an instance that states none: small, and in every vendor's table.
pub const SHAPE_DEFAULT: (MilliCpu, MemoryMib) = (MilliCpu(1000), MemoryMib(2048));

impl InstanceSpec {
    /// The disk space asked for: `ephemeral-storage` of `spec.resources` where given, else the larger of the sum over the
    /// containers and the largest init container (limits before requests). Zero when nothing is said: what a vendor
    /// includes with every instance costs nothing and is not counted.
    #[must_use]
    pub fn disk(&self) -> MemoryMib {
        let of = |r: &Resources| r.limits.ephemeral_storage.or(r.requests.ephemeral_storage).map(|m| m.0);
        if let Some(own) = of(&self.resources) {
            return MemoryMib(own);
        }
        let sum = self.containers.iter().filter_map(|c| of(&c.resources)).fold(0_u64, u64::saturating_add);
        let peak = self.init_containers.iter().filter_map(|c| of(&c.resources)).max().unwrap_or_default();
        MemoryMib(sum.max(peak))
    }

    /// The size asked for: `spec.resources` where given, else per resource the larger of the sum over the
    /// containers and the largest init container (limits before requests), else [`SHAPE_DEFAULT`].
    #[must_use]
    pub fn shape(&self) -> Shape {
        fn of(r: &Resources) -> (u64, u64, u32) {
            let pick = |f: fn(&ResourceList) -> Option<u64>| f(&r.limits).or_else(|| f(&r.requests)).unwrap_or(0);
            (
                pick(|l| l.cpu.map(|c| c.0)),
                pick(|l| l.memory.map(|m| m.0)),
                r.limits.gpu.or(r.requests.gpu).unwrap_or_default().0,
            )
        }
        let sum = self.containers.iter().map(|c| of(&c.resources)).fold((0_u64, 0_u64, 0_u32), |a, b| {
            (a.0.saturating_add(b.0), a.1.saturating_add(b.1), a.2.saturating_add(b.2))
        });
        let peak = self
            .init_containers
            .iter()
            .map(|c| of(&c.resources))
            .fold(sum, |a, b| (a.0.max(b.0), a.1.max(b.1), a.2.max(b.2)));
        let own = of(&self.resources);
        let first = |own: u64, sum: u64, default: u64| {
            if own > 0 {
                own
            } else if sum > 0 {
                sum
            } else {
                default
            }
        };
        Shape {
            cpu: MilliCpu(first(own.0, peak.0, SHAPE_DEFAULT.0.0)),
            memory: MemoryMib(first(own.1, peak.1, SHAPE_DEFAULT.1.0)),
            gpu_type: self.gpu_type.clone(),
            gpu_count: if own.2 > 0 { own.2 } else { peak.2 },
        }
    }
}
