//! What a backend can do, as data.
//!
//! A spec uses features ([`used_by`]); a backend supports a set of them ([`Capability`]). A feature that a
//! backend lacks removes it from the candidates with the JSON pointer of the field that asked for it:
//! nothing is dropped silently.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::{
    ids::AdapterName,
    instance::{
        Architecture, CapacityType, Container, EmptyDirMedium, ImagePullPolicy, InstanceSpec, LifecycleHandler, OsName,
        Probe, Shape, word_enum,
    },
    quantity::{MemoryMib, MilliCpu},
};

word_enum!(
    /// Something a spec can ask for and a backend may lack.
    Feature {
        /// `initContainers`.
        #[default] InitContainers = "initContainers",
        /// `volumes[].emptyDir`.
        EmptyDir = "emptyDir",
        /// `volumes[].emptyDir.medium: Memory`.
        EmptyDirMemory = "emptyDirMemory",
        /// `volumes[].emptyDir.sizeLimit`.
        EmptyDirSizeLimit = "emptyDirSizeLimit",
        /// `volumes[].nfs`.
        Nfs = "nfs",
        /// `volumes[].disk`.
        Disk = "disk",
        /// `volumes[].disk.fsType`.
        DiskFsType = "diskFsType",
        /// `volumes[].configFile`.
        ConfigFile = "configFile",
        /// `volumeMounts[].subPath`.
        SubPath = "subPath",
        /// `volumeMounts[].mountPropagation`.
        MountPropagation = "mountPropagation",
        /// `containers[].ports`.
        Ports = "ports",
        /// `containers[].imagePullPolicy: Always`.
        PullAlways = "pullAlways",
        /// `containers[].imagePullPolicy: Never`.
        PullNever = "pullNever",
        /// `imagePullSecrets`.
        PullSecrets = "pullSecrets",
        /// `livenessProbe` and `readinessProbe` with exec, httpGet or tcpSocket on the instance's own address.
        Probes = "probes",
        /// `startupProbe`.
        StartupProbe = "startupProbe",
        /// `httpGet.host`, `tcpSocket.host` of a probe.
        ProbeHost = "probeHost",
        /// `httpGet.httpHeaders` of a probe.
        ProbeHeaders = "probeHeaders",
        /// `lifecycle`.
        Lifecycle = "lifecycle",
        /// `securityContext.runAsUser`.
        RunAsUser = "runAsUser",
        /// `securityContext.runAsGroup`.
        RunAsGroup = "runAsGroup",
        /// `securityContext.runAsNonRoot`.
        RunAsNonRoot = "runAsNonRoot",
        /// `securityContext.readOnlyRootFilesystem`.
        ReadOnlyRootFilesystem = "readOnlyRootFilesystem",
        /// `securityContext.privileged`.
        Privileged = "privileged",
        /// `securityContext.capabilities.add`.
        CapabilitiesAdd = "capabilitiesAdd",
        /// `securityContext.capabilities.drop`.
        CapabilitiesDrop = "capabilitiesDrop",
        /// Security context of an init container beyond `runAsUser`, `readOnlyRootFilesystem` and `capabilities.add`.
        InitSecurityExtras = "initSecurityExtras",
        /// `stdin`, `tty`.
        Terminal = "terminal",
        /// `terminationGracePeriodSeconds`.
        TerminationGrace = "terminationGrace",
        /// `activeDeadlineSeconds`.
        ActiveDeadline = "activeDeadline",
        /// `dnsPolicy`.
        DnsPolicy = "dnsPolicy",
        /// `dnsConfig`.
        DnsConfig = "dnsConfig",
        /// `hostAliases`.
        HostAliases = "hostAliases",
        /// `hostname`.
        Hostname = "hostname",
        /// `os.name: windows`.
        Windows = "windows",
        /// `architecture: arm64`.
        Arm64 = "arm64",
        /// `resources.*.nvidia.com/gpu`.
        Gpu = "gpu",
        /// `resources.*.ephemeral-storage`.
        EphemeralStorage = "ephemeralStorage",
        /// `network.publicIp`.
        PublicIp = "publicIp",
        /// `network.publicIp.bandwidthMbps`.
        PublicIpBandwidth = "publicIpBandwidth",
        /// `capacity.type: spot`.
        Spot = "spot",
        /// The vendor honours a client token on create: a repeated create is not a second instance.
        ClientToken = "clientToken",
        /// The vendor keeps tags on an instance.
        Tags = "tags",
    }
);

/// How a backend supports a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is sent to the vendor as a field of its own.
    Native,
    /// The platform behaves so without being told; the text says why leaving it out changes nothing.
    Implied(&'static str),
}

impl Serialize for Support {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Native => s.serialize_str("native"),
            Self::Implied(why) => s.collect_str(&format_args!("implied: {why}")),
        }
    }
}

/// What one adapter can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// The adapter.
    pub adapter: AdapterName,
    /// Supported features; one that is missing is refused.
    pub features: BTreeMap<Feature, Support>,
    /// Sizes without GPU that the vendor sells, by vCPU: the memory sizes.
    pub sizes: Vec<SizeRow>,
    /// GPU sizes.
    pub gpu_sizes: Vec<GpuSize>,
    /// Most containers, init containers included.
    pub containers_max: usize,
    /// Most volumes.
    pub volumes_max: usize,
    /// Longest doubt about a create after which a complete look-up proves absence: the time in which a request
    /// already sent may still take effect and become visible, in milliseconds (RELIABILITY 2.5).
    pub effect_bound_ms: u64,
    /// A caller who may not list gets an empty list, not an error: an empty answer alone proves nothing.
    pub denies_silently: bool,
    /// Instances that ended disappear from lists sooner or later, so that one that is not shown may have run.
    pub forgets_ended: bool,
}

/// Memory sizes sold with one number of vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeRow {
    /// vCPU.
    pub cpu: MilliCpu,
    /// Memory sizes in ascending order.
    pub memory: Vec<MemoryMib>,
}

/// A GPU size the vendor sells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuSize {
    /// Model in our spelling, for example `T4`.
    pub gpu_type: String,
    /// Number of GPUs.
    pub gpu_count: u32,
    /// vCPU that come with it.
    pub cpu: MilliCpu,
    /// Memory that comes with it.
    pub memory: MemoryMib,
    /// The vendor's name of the size.
    pub vendor_name: String,
}

/// A field of a spec that a backend cannot honour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// JSON pointer into the request body, for example `/spec/volumes/0/emptyDir`.
    pub pointer: String,
    /// The missing feature, or the limit that is passed.
    pub reason: String,
}

impl Capability {
    /// Whether the feature is supported in any way.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains_key(&feature)
    }

    /// The smallest size on sale that holds the wish, or `None`.
    #[must_use]
    pub fn round_up(&self, wish: &Shape) -> Option<Shape> {
        if wish.gpu_count > 0 || wish.gpu_type.is_some() {
            let fits = |g: &&GpuSize| {
                wish.gpu_type.as_ref().is_none_or(|t| t.eq_ignore_ascii_case(&g.gpu_type))
                    && g.gpu_count == wish.gpu_count.max(1)
                    && g.cpu >= wish.cpu
                    && g.memory >= wish.memory
            };
            return self.gpu_sizes.iter().filter(fits).min_by_key(|g| (g.cpu, g.memory)).map(|g| Shape {
                cpu: g.cpu,
                memory: g.memory,
                gpu_type: Some(g.gpu_type.clone()),
                gpu_count: g.gpu_count,
            });
        }
        self.sizes
            .iter()
            .filter(|row| row.cpu >= wish.cpu)
            .filter_map(|row| row.memory.iter().find(|m| **m >= wish.memory).map(|m| (row.cpu, *m)))
            .min()
            .map(|(cpu, memory)| Shape { cpu, memory, gpu_type: None, gpu_count: 0 })
    }

    /// Everything in the spec that this backend cannot honour; empty when it can run it.
    #[must_use]
    pub fn refusals(&self, spec: &InstanceSpec) -> Vec<Unsupported> {
        let mut refusals: Vec<Unsupported> = used_by(spec)
            .into_iter()
            .filter(|(feature, _)| !self.has(*feature))
            .map(|(feature, pointer)| Unsupported {
                pointer,
                reason: format!("{} has no {}", self.adapter, feature.as_str()),
            })
            .collect();
        let containers = spec.containers.len() + spec.init_containers.len();
        if containers > self.containers_max {
            refusals.push(Unsupported {
                pointer: "/spec/containers".to_owned(),
                reason: format!("{containers} containers; {} takes at most {}", self.adapter, self.containers_max),
            });
        }
        if spec.volumes.len() > self.volumes_max {
            refusals.push(Unsupported {
                pointer: "/spec/volumes".to_owned(),
                reason: format!("{} volumes; {} takes at most {}", spec.volumes.len(), self.adapter, self.volumes_max),
            });
        }
        let shape = spec.shape();
        if self.round_up(&shape).is_none() {
            let gpu = shape.gpu_type.as_ref().map(|t| format!(", {} x {t}", shape.gpu_count)).unwrap_or_default();
            refusals.push(Unsupported {
                pointer: "/spec/resources".to_owned(),
                reason: format!("{} sells no size of {} vCPU, {}{gpu} or more", self.adapter, shape.cpu, shape.memory),
            });
        }
        refusals
    }
}

/// The features a spec uses, each with the JSON pointer of the first field that asks for it there.
#[must_use]
pub fn used_by(spec: &InstanceSpec) -> Vec<(Feature, String)> {
    let mut used = Used(Vec::new());
    used.instance(spec);
    for (i, volume) in spec.volumes.iter().enumerate() {
        let at = format!("/spec/volumes/{i}");
        if let Some(dir) = &volume.empty_dir {
            used.add(Feature::EmptyDir, || format!("{at}/emptyDir"));
            used.when(dir.medium == Some(EmptyDirMedium::Memory), Feature::EmptyDirMemory, || {
                format!("{at}/emptyDir/medium")
            });
            used.when(dir.size_limit.is_some(), Feature::EmptyDirSizeLimit, || format!("{at}/emptyDir/sizeLimit"));
        }
        used.when(volume.nfs.is_some(), Feature::Nfs, || format!("{at}/nfs"));
        if let Some(disk) = &volume.disk {
            used.add(Feature::Disk, || format!("{at}/disk"));
            used.when(disk.fs_type.is_some(), Feature::DiskFsType, || format!("{at}/disk/fsType"));
        }
        used.when(volume.config_file.is_some(), Feature::ConfigFile, || format!("{at}/configFile"));
    }
    for (i, container) in spec.init_containers.iter().enumerate() {
        used.container(container, &format!("/spec/initContainers/{i}"), true);
    }
    for (i, container) in spec.containers.iter().enumerate() {
        used.container(container, &format!("/spec/containers/{i}"), false);
    }
    used.0
}

struct Used(Vec<(Feature, String)>);

impl Used {
    fn add(&mut self, feature: Feature, pointer: impl FnOnce() -> String) {
        self.0.push((feature, pointer()));
    }

    fn when(&mut self, asked: bool, feature: Feature, pointer: impl FnOnce() -> String) {
        if asked {
            self.add(feature, pointer);
        }
    }

    fn instance(&mut self, spec: &InstanceSpec) {
        let at = |field: &'static str| move || format!("/spec/{field}");
        self.when(!spec.init_containers.is_empty(), Feature::InitContainers, at("initContainers"));
        self.when(!spec.image_pull_secrets.is_empty(), Feature::PullSecrets, at("imagePullSecrets"));
        self.when(
            spec.termination_grace_period_seconds.is_some(),
            Feature::TerminationGrace,
            at("terminationGracePeriodSeconds"),
        );
        self.when(spec.active_deadline_seconds.is_some(), Feature::ActiveDeadline, at("activeDeadlineSeconds"));
        self.when(spec.dns_policy.is_some(), Feature::DnsPolicy, at("dnsPolicy"));
        self.when(spec.dns_config.is_some(), Feature::DnsConfig, at("dnsConfig"));
        self.when(!spec.host_aliases.is_empty(), Feature::HostAliases, at("hostAliases"));
        self.when(spec.hostname.is_some(), Feature::Hostname, at("hostname"));
        self.when(spec.os.name == OsName::Windows, Feature::Windows, at("os/name"));
        self.when(spec.architecture == Architecture::Arm64, Feature::Arm64, at("architecture"));
        self.when(spec.gpu_type.is_some() || spec.shape().gpu_count > 0, Feature::Gpu, at("gpuType"));
        self.when(spec.capacity.kind == CapacityType::Spot, Feature::Spot, at("capacity/type"));
        let storage =
            |r: &crate::instance::Resources| r.limits.ephemeral_storage.or(r.requests.ephemeral_storage).is_some();
        self.when(storage(&spec.resources), Feature::EphemeralStorage, at("resources/limits/ephemeral-storage"));
        if let Some(ip) = &spec.network.public_ip {
            self.add(Feature::PublicIp, at("network/publicIp"));
            self.when(ip.bandwidth_mbps.is_some(), Feature::PublicIpBandwidth, at("network/publicIp/bandwidthMbps"));
        }
    }

    fn container(&mut self, c: &Container, base: &str, init: bool) {
        let at = |field: &'static str| move || format!("{base}/{field}");
        self.when(!c.ports.is_empty(), Feature::Ports, at("ports"));
        self.when(c.image_pull_policy == Some(ImagePullPolicy::Always), Feature::PullAlways, at("imagePullPolicy"));
        self.when(c.image_pull_policy == Some(ImagePullPolicy::Never), Feature::PullNever, at("imagePullPolicy"));
        self.when(c.stdin, Feature::Terminal, at("stdin"));
        self.when(c.tty, Feature::Terminal, at("tty"));
        let storage = c.resources.limits.ephemeral_storage.or(c.resources.requests.ephemeral_storage);
        self.when(storage.is_some(), Feature::EphemeralStorage, at("resources/limits/ephemeral-storage"));
        for (i, mount) in c.volume_mounts.iter().enumerate() {
            self.when(mount.sub_path.is_some(), Feature::SubPath, || format!("{base}/volumeMounts/{i}/subPath"));
            self.when(mount.mount_propagation.is_some(), Feature::MountPropagation, || {
                format!("{base}/volumeMounts/{i}/mountPropagation")
            });
        }
        for (probe, field) in [(&c.liveness_probe, "livenessProbe"), (&c.readiness_probe, "readinessProbe")] {
            if let Some(probe) = probe {
                self.add(Feature::Probes, at(field));
                self.probe(probe, &format!("{base}/{field}"));
            }
        }
        if let Some(probe) = &c.startup_probe {
            self.add(Feature::StartupProbe, at("startupProbe"));
            self.probe(probe, &format!("{base}/startupProbe"));
        }
        let hooks = |h: &LifecycleHandler| h.exec.is_some() || h.http_get.is_some() || h.tcp_socket.is_some();
        let lifecycle = c
            .lifecycle
            .as_ref()
            .is_some_and(|l| l.post_start.as_ref().is_some_and(hooks) || l.pre_stop.as_ref().is_some_and(hooks));
        self.when(lifecycle, Feature::Lifecycle, at("lifecycle"));
        self.security(c, base, init);
    }

    fn probe(&mut self, probe: &Probe, base: &str) {
        if let Some(get) = &probe.http_get {
            self.when(get.host.is_some(), Feature::ProbeHost, || format!("{base}/httpGet/host"));
            self.when(!get.http_headers.is_empty(), Feature::ProbeHeaders, || format!("{base}/httpGet/httpHeaders"));
        }
        let host = probe.tcp_socket.as_ref().is_some_and(|t| t.host.is_some());
        self.when(host, Feature::ProbeHost, || format!("{base}/tcpSocket/host"));
    }

    fn security(&mut self, c: &Container, base: &str, init: bool) {
        let Some(s) = &c.security_context else { return };
        let at = |field: &'static str| move || format!("{base}/securityContext/{field}");
        let extras = [
            (s.run_as_group.is_some(), Feature::RunAsGroup, "runAsGroup"),
            (s.run_as_non_root.is_some(), Feature::RunAsNonRoot, "runAsNonRoot"),
            (s.privileged.is_some(), Feature::Privileged, "privileged"),
        ];
        for (asked, feature, field) in extras {
            self.when(asked, if init { Feature::InitSecurityExtras } else { feature }, at(field));
        }
        self.when(s.run_as_user.is_some(), Feature::RunAsUser, at("runAsUser"));
        self.when(s.read_only_root_filesystem.is_some(), Feature::ReadOnlyRootFilesystem, at("readOnlyRootFilesystem"));
        if let Some(capabilities) = &s.capabilities {
            self.when(!capabilities.add.is_empty(), Feature::CapabilitiesAdd, at("capabilities/add"));
            self.when(!capabilities.drop.is_empty(), Feature::CapabilitiesDrop, at("capabilities/drop"));
        }
    }
}
