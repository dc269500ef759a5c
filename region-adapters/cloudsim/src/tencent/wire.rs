//! Request parameters in Tencent's words, and how they become the core's records. The schema has checked names and
//! types; here values are checked.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::error::TcError;
use crate::core::{
    ContainerSpec, Dns, EipRequest, EnvVar, InstanceSpec, Mount, Probe, ProbeAction, RegistryCredential, RestartPolicy,
    SecurityContext, Volume, VolumeKind,
};

/// Longest name taken. The vendor's limit is not documented; this only keeps records small.
const NAME_CHARS_MAX: usize = 128;
/// Most instances one create makes. Not documented either.
const REPLICAS_MAX: i64 = 100;
/// GPU types of the documents (vendor-api README 2.7), with the ones vouchers name.
const GPU_TYPES: [&str; 11] =
    ["V100", "1/2*V100", "1/4*V100", "T4", "1/2*T4", "1/4*T4", "a10*gnv4", "a10*gnv4v", "a10*pnv4", "l20", "l40"];
const CPU_TYPES: [&str; 2] = ["intel", "amd"];
const ISPS: [&str; 4] = ["BGP", "CMCC", "CTCC", "CUCC"];

/// Reads checked parameters into a request struct.
pub(crate) fn read<T: serde::de::DeserializeOwned>(params: Value) -> Result<T, TcError> {
    // Only a number out of range gets here: the schema has checked everything else.
    serde_json::from_value(params).map_err(|e| TcError::new("InvalidParameter", e.to_string()))
}

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($field:ident : $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub(crate) struct $name { $(pub(crate) $field: $kind,)* }
    )*};
}

wire! {
    Create {
        containers: Vec<Container>, eks_ci_name: String, security_group_ids: Vec<String>, subnet_id: String,
        vpc_id: String, memory: f64, cpu: f64, restart_policy: Option<String>,
        image_registry_credentials: Vec<Credential>, eks_ci_volume: EksCiVolume, replicas: Option<i64>,
        init_containers: Vec<Container>, dns_config: Option<DnsConfig>, existed_eip_ids: Vec<String>,
        auto_create_eip_attribute: Option<EipAttribute>, auto_create_eip: bool, cpu_type: Option<String>,
        gpu_type: Option<String>, gpu_count: Option<u32>, cam_role_name: Option<String>,
    }
    Update {
        eks_ci_id: String, restart_policy: Option<String>, eks_ci_volume: Option<EksCiVolume>,
        containers: Option<Vec<Container>>, init_containers: Option<Vec<Container>>, name: Option<String>,
        image_registry_credentials: Option<Vec<Credential>>,
    }
    Describe { limit: Option<i64>, offset: Option<i64>, filters: Vec<Filter>, eks_ci_ids: Vec<String> }
    Ids { eks_ci_ids: Vec<String> }
    Events { eks_ci_id: String, limit: Option<i64> }
    Log {
        eks_ci_id: String, container_name: Option<String>, tail: Option<i64>, start_time: Option<String>,
        previous: bool, since_seconds: Option<i64>, limit_bytes: Option<i64>,
    }
    CreateImageCache {
        images: Vec<String>, subnet_id: String, vpc_id: String, image_cache_name: Option<String>,
        security_group_ids: Vec<String>, image_registry_credentials: Vec<Credential>,
        existed_eip_id: Option<String>, auto_create_eip: bool, image_cache_size: Option<u64>,
        retention_days: Option<u64>, tags: Vec<Tag>,
    }
    UpdateImageCache {
        image_cache_id: String, image_cache_name: Option<String>, images: Option<Vec<String>>,
        image_registry_credentials: Option<Vec<Credential>>, image_cache_size: Option<u64>,
        retention_days: Option<u64>, security_group_ids: Option<Vec<String>>, tags: Option<Vec<Tag>>,
    }
    DescribeImageCaches {
        image_cache_ids: Vec<String>, image_cache_names: Vec<String>, limit: Option<i64>, offset: Option<i64>,
        filters: Vec<Filter>,
    }
    ImageCacheIds { image_cache_ids: Vec<String> }
    MostSuitable { images: Vec<String> }
    Filter { name: String, values: Vec<String> }
    Tag { key: String, value: String }
    Container {
        image: String, name: String, args: Vec<String>, commands: Vec<String>, cpu: Option<f64>,
        environment_vars: Vec<Env>, gpu_limit: Option<u32>, liveness_probe: Option<ProbeIn>, memory: Option<f64>,
        readiness_probe: Option<ProbeIn>, security_context: Option<Security>, volume_mounts: Vec<MountIn>,
        working_dir: Option<String>,
    }
    Env { name: String, value: String }
    ProbeIn { probe: Timings, exec: Option<Exec>, http_get: Option<HttpGet>, tcp_socket: Option<Tcp> }
    Timings {
        failure_threshold: Option<i64>, initial_delay_seconds: Option<i64>, period_seconds: Option<i64>,
        success_threshold: Option<i64>, timeout_seconds: Option<i64>,
    }
    Exec { commands: Vec<String> }
    HttpGet { path: String, port: u16, scheme: String }
    Tcp { port: u16 }
    Security { capabilities: Option<Capabilities> }
    Capabilities { add: Vec<String>, drop: Vec<String> }
    MountIn {
        mount_path: String, name: String, mount_propagation: Option<String>, read_only: bool,
        sub_path: Option<String>, sub_path_expr: Option<String>,
    }
    Credential { server: String, username: String, password: String, name: Option<String> }
    EksCiVolume { cbs_volumes: Vec<Cbs>, nfs_volumes: Vec<Nfs> }
    Cbs { cbs_disk_id: String, name: String }
    Nfs { name: String, path: String, server: String, read_only: bool }
    DnsConfig { nameservers: Vec<String>, options: Vec<DnsOption>, searches: Vec<String> }
    DnsOption { name: String, value: Option<String> }
    EipAttribute { delete_policy: String, internet_service_provider: Option<String>, internet_max_bandwidth_out: Option<u32> }
}

impl Container {
    fn into_spec(self, at: &str) -> Result<ContainerSpec, TcError> {
        if self.name.is_empty() || self.name.chars().count() > NAME_CHARS_MAX {
            return Err(TcError::invalid(&format!("{at}.Name"), "must be 1 to 128 characters"));
        }
        if self.image.is_empty() {
            return Err(TcError::invalid(&format!("{at}.Image"), "may not be empty"));
        }
        let amount = |name: &str, value: Option<f64>| match value {
            Some(v) if !v.is_finite() || v < 0.0 => Err(TcError::invalid(&format!("{at}.{name}"), "must be 0 or more")),
            value => Ok(value),
        };
        let security = self.security_context.map(|s| {
            let capabilities = s.capabilities.unwrap_or_default();
            SecurityContext { add: capabilities.add, drop: capabilities.drop, ..SecurityContext::default() }
        });
        Ok(ContainerSpec {
            cpu: amount("Cpu", self.cpu)?,
            memory_gib: amount("Memory", self.memory)?,
            gpu: self.gpu_limit,
            env: self.environment_vars.into_iter().map(Env::into_core).collect(),
            liveness: self.liveness_probe.map(|p| p.into_core(&format!("{at}.LivenessProbe"))).transpose()?,
            readiness: self.readiness_probe.map(|p| p.into_core(&format!("{at}.ReadinessProbe"))).transpose()?,
            mounts: self.volume_mounts.into_iter().map(MountIn::into_core).collect(),
            name: self.name,
            image: self.image,
            command: self.commands,
            args: self.args,
            working_dir: self.working_dir,
            security,
            ..ContainerSpec::default()
        })
    }
}

impl Env {
    fn into_core(self) -> EnvVar {
        EnvVar { name: self.name, value: self.value, field_path: None }
    }
}

impl MountIn {
    fn into_core(self) -> Mount {
        Mount {
            name: self.name,
            mount_path: self.mount_path,
            sub_path: self.sub_path,
            sub_path_expr: self.sub_path_expr,
            propagation: self.mount_propagation,
            read_only: self.read_only,
        }
    }
}

impl ProbeIn {
    fn into_core(self, at: &str) -> Result<Probe, TcError> {
        let action = match (self.exec, self.http_get, self.tcp_socket) {
            (Some(exec), None, None) => ProbeAction::Exec { commands: exec.commands },
            (None, Some(h), None) => ProbeAction::Http { path: h.path, port: h.port, scheme: h.scheme, host: None },
            (None, None, Some(tcp)) => ProbeAction::Tcp { port: tcp.port, host: None },
            _ => return Err(TcError::invalid(at, "must have exactly one of Exec, HttpGet, TcpSocket")),
        };
        Ok(Probe {
            action: Some(action),
            initial_delay_secs: self.probe.initial_delay_seconds,
            period_secs: self.probe.period_seconds,
            timeout_secs: self.probe.timeout_seconds,
            success_threshold: self.probe.success_threshold,
            failure_threshold: self.probe.failure_threshold,
        })
    }
}

fn credentials(all: Vec<Credential>) -> Vec<RegistryCredential> {
    all.into_iter()
        .map(|c| RegistryCredential { server: c.server, username: c.username, password: c.password, name: c.name })
        .collect()
}

impl EksCiVolume {
    fn into_core(self) -> Vec<Volume> {
        let nfs = self.nfs_volumes.into_iter().map(|v| Volume {
            name: v.name,
            kind: VolumeKind::Nfs { server: v.server, path: v.path, read_only: v.read_only },
        });
        let cbs = self.cbs_volumes.into_iter().map(|v| Volume {
            name: v.name,
            kind: VolumeKind::Disk { disk_id: v.cbs_disk_id, fs_type: None, size_gib: None },
        });
        nfs.chain(cbs).collect()
    }
}

fn container_list(field: &str, all: Vec<Container>) -> Result<Vec<ContainerSpec>, TcError> {
    all.into_iter().enumerate().map(|(i, c)| c.into_spec(&format!("{field}.{i}"))).collect()
}

fn restart_policy(text: Option<&str>) -> Result<RestartPolicy, TcError> {
    match text {
        None => Ok(RestartPolicy::default()),
        Some(text) => RestartPolicy::parse(text)
            .ok_or_else(|| TcError::invalid("RestartPolicy", "must be Always, OnFailure or Never")),
    }
}

/// What must hold between the parts of a spec, for create and update alike.
fn check_spec(spec: &InstanceSpec) -> Result<(), TcError> {
    if spec.containers.is_empty() {
        return Err(TcError::invalid("Containers", "may not be empty"));
    }
    if spec.name.is_empty() || spec.name.chars().count() > NAME_CHARS_MAX {
        return Err(TcError::invalid("EksCiName", "must be 1 to 128 characters"));
    }
    let mut names = BTreeSet::new();
    for container in spec.containers.iter().chain(&spec.init_containers) {
        if !names.insert(&container.name) {
            return Err(TcError::invalid("Containers", &format!("have the name {} twice", container.name)));
        }
        let over = |part: Option<f64>, whole: Option<f64>| part.zip(whole).is_some_and(|(p, w)| p > w);
        if over(container.cpu, spec.cpu) || over(container.memory_gib, spec.memory_gib) {
            let text = format!("of container {} exceed those of the instance", container.name);
            return Err(TcError::invalid("Cpu and Memory", &text));
        }
        if let Some(mount) = container.mounts.iter().find(|m| !spec.volumes.iter().any(|v| v.name == m.name)) {
            return Err(TcError::invalid("VolumeMounts", &format!("name {}, which is no volume", mount.name)));
        }
    }
    let mut volumes = BTreeSet::new();
    match spec.volumes.iter().find(|v| !volumes.insert(&v.name)) {
        Some(twice) => Err(TcError::invalid("EksCiVolume", &format!("has the name {} twice", twice.name))),
        None => Ok(()),
    }
}

impl Create {
    /// The specs to create: one per replica.
    pub(crate) fn into_specs(self) -> Result<Vec<InstanceSpec>, TcError> {
        let replicas = self.replicas.unwrap_or(1);
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            return Err(TcError::invalid("Replicas", "must be 1 to 100"));
        }
        let count = usize::try_from(replicas).unwrap_or(1);
        let eips = self.eips(count)?;
        if self.security_group_ids.is_empty() {
            return Err(TcError::invalid("SecurityGroupIds", "may not be empty"));
        }
        for (name, value) in [("Cpu", self.cpu), ("Memory", self.memory)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(TcError::invalid(name, "must be more than 0"));
            }
        }
        if let Some(cpu) = &self.cpu_type
            && cpu.split(',').any(|c| !CPU_TYPES.contains(&c))
        {
            return Err(TcError::invalid("CpuType", "must be intel, amd or a list of both"));
        }
        if let Some(gpu) = &self.gpu_type
            && !GPU_TYPES.contains(&gpu.as_str())
        {
            return Err(TcError::invalid("GpuType", &format!("must be one of {}", GPU_TYPES.join(", "))));
        }
        if self.gpu_type.is_some() != self.gpu_count.is_some_and(|n| n > 0) {
            return Err(TcError::invalid("GpuCount", "and GpuType must be given together"));
        }
        let dns = self.dns_config.map(|d| Dns {
            nameservers: d.nameservers,
            searches: d.searches,
            options: d.options.into_iter().map(|o| (o.name, o.value)).collect(),
            policy: None,
        });
        let spec = InstanceSpec {
            name: self.eks_ci_name,
            vpc_id: Some(self.vpc_id),
            subnet_ids: vec![self.subnet_id],
            security_group_ids: self.security_group_ids,
            cpu: Some(self.cpu),
            memory_gib: Some(self.memory),
            cpu_type: self.cpu_type,
            gpu_type: self.gpu_type,
            gpu_count: self.gpu_count.unwrap_or(0),
            restart_policy: restart_policy(self.restart_policy.as_deref())?,
            containers: container_list("Containers", self.containers)?,
            init_containers: container_list("InitContainers", self.init_containers)?,
            volumes: self.eks_ci_volume.into_core(),
            dns,
            credentials: credentials(self.image_registry_credentials),
            role_name: self.cam_role_name,
            ..InstanceSpec::default()
        };
        check_spec(&spec)?;
        Ok(eips.into_iter().map(|eip| InstanceSpec { eip, ..spec.clone() }).collect())
    }

    fn eips(&self, count: usize) -> Result<Vec<Option<EipRequest>>, TcError> {
        let attribute = self.auto_create_eip_attribute.as_ref();
        if !self.existed_eip_ids.is_empty() {
            if self.auto_create_eip || attribute.is_some() {
                return Err(TcError::invalid("ExistedEipIds", "may not be given with AutoCreateEip"));
            }
            if self.existed_eip_ids.len() != count {
                return Err(TcError::invalid("ExistedEipIds", "must be as many as Replicas"));
            }
            let existing = self.existed_eip_ids.iter().map(|id| Some(EipRequest::Existing { id: id.clone() }));
            return Ok(existing.collect());
        }
        let isp = attribute.and_then(|a| a.internet_service_provider.clone());
        if isp.as_deref().is_some_and(|isp| !ISPS.contains(&isp)) {
            let text = format!("must be one of {}", ISPS.join(", "));
            return Err(TcError::invalid("AutoCreateEipAttribute.InternetServiceProvider", &text));
        }
        let made = self.auto_create_eip.then(|| EipRequest::Create {
            keep_on_delete: attribute.is_some_and(|a| a.delete_policy == "Never"),
            isp,
            bandwidth_mbps: attribute.and_then(|a| a.internet_max_bandwidth_out),
        });
        Ok(vec![made; count])
    }
}

impl Update {
    /// The new spec: what is given replaces the old, whole lists included.
    pub(crate) fn apply_to(self, old: &InstanceSpec) -> Result<InstanceSpec, TcError> {
        let mut spec = old.clone();
        if let Some(name) = self.name {
            spec.name = name;
        }
        if self.restart_policy.is_some() {
            spec.restart_policy = restart_policy(self.restart_policy.as_deref())?;
        }
        if let Some(volumes) = self.eks_ci_volume {
            spec.volumes = volumes.into_core();
        }
        if let Some(all) = self.containers {
            spec.containers = container_list("Containers", all)?;
        }
        if let Some(all) = self.init_containers {
            spec.init_containers = container_list("InitContainers", all)?;
        }
        if let Some(all) = self.image_registry_credentials {
            spec.credentials = credentials(all);
        }
        check_spec(&spec)?;
        Ok(spec)
    }
}

/// Credentials of an image cache.
pub(crate) fn registry_credentials(all: Vec<Credential>) -> Vec<RegistryCredential> {
    credentials(all)
}
