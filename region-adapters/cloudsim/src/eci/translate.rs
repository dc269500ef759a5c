//! Create and update requests, checked against the vendor's limits and turned into the core's words.

use base64::Engine as _;
use serde_json::Value;

use super::error::EciError;
use super::wire::{
    ConfigFilesIn, ContainerIn, CredentialIn, DnsIn, EnvIn, Group, MAX_TAGS, MountIn, PortIn, ProbeIn, VolumeIn,
    comma_list, tags,
};
use crate::core::{
    ConfigFile, ContainerSpec, Dns, EipRequest, EnvVar, HostAlias, InstanceSpec, Mount, Port, Probe, ProbeAction,
    RegistryCredential, RestartPolicy, SecurityContext, Spot, Volume, VolumeKind,
};

/// Limits of `alibaba-eci.json`, `constraints.CreateContainerGroup` (document).
const MAX_CONTAINERS: usize = 20;
const MAX_VOLUMES: usize = 20;
const MAX_VSWITCHES: usize = 10;
const MAX_CONFIG_FILE_BYTES: usize = 61_440;
const MAX_EPHEMERAL_GIB: i64 = 5_000;
/// Most instance types tried in turn; the vendor states no number.
const MAX_INSTANCE_TYPES: usize = 10;
const DEFAULT_SPOT_DURATION_HOURS: i64 = 1;

impl Group {
    /// The whole create request in the core's words.
    ///
    /// # Errors
    /// The vendor's refusal of the first parameter that is out of its limits.
    pub(crate) fn into_spec(self) -> Result<InstanceSpec, EciError> {
        check_name(&self.container_group_name)?;
        let subnets_random = match self.schedule_strategy.as_deref() {
            // Without a strategy the documents describe trying at random.
            None | Some("" | "VSwitchRandom") => true,
            Some("VSwitchOrdered") => false,
            Some(_) => return Err(EciError::invalid("ScheduleStrategy", "VSwitchOrdered or VSwitchRandom")),
        };
        let ephemeral = self.ephemeral_storage;
        if ephemeral.is_some_and(|gib| !(0..=MAX_EPHEMERAL_GIB).contains(&gib)) {
            return Err(EciError::invalid("EphemeralStorage", "0 to 5000"));
        }
        check_size(self.cpu, self.memory)?;
        for (name, value) in [
            ("TerminationGracePeriodSeconds", self.termination_grace_period_seconds),
            ("ActiveDeadlineSeconds", self.active_deadline_seconds),
        ] {
            if value.is_some_and(|secs| secs < 0) {
                return Err(EciError::invalid(name, "0 or more"));
            }
        }
        let spot = self.spot()?;
        let eip = self.eip()?;
        let dns = dns(self.dns_config, self.dns_policy);
        let volumes = volumes(self.volume.unwrap_or_default())?;
        let containers = containers("Container", self.container.unwrap_or_default(), &volumes)?;
        let init_containers = containers_init(self.init_container.unwrap_or_default(), &volumes)?;
        check_unique_names(&containers, &init_containers)?;
        Ok(InstanceSpec {
            name: self.container_group_name,
            vpc_id: None,
            subnet_ids: comma_list("VSwitchId", self.v_switch_id.as_deref(), MAX_VSWITCHES)?,
            subnets_random,
            zone: self.zone_id.filter(|zone| !zone.is_empty()),
            security_group_ids: self.security_group_id.into_iter().filter(|id| !id.is_empty()).collect(),
            cpu: self.cpu,
            memory_gib: self.memory,
            instance_types: comma_list("InstanceType", self.instance_type.as_deref(), MAX_INSTANCE_TYPES)?,
            restart_policy: restart_policy(self.restart_policy.as_deref())?.unwrap_or_default(),
            containers,
            init_containers,
            volumes,
            dns,
            host_aliases: self
                .host_aliase
                .into_iter()
                .map(|alias| HostAlias { ip: alias.ip, hostnames: alias.hostname })
                .collect(),
            credentials: credentials(self.image_registry_credential.unwrap_or_default()),
            eip,
            tags: tags(self.tag.unwrap_or_default(), MAX_TAGS)?,
            client_token: self.client_token,
            role_name: self.ram_role_name,
            spot,
            grace_secs: self.termination_grace_period_seconds,
            active_deadline_secs: self.active_deadline_seconds,
            ephemeral_gib: ephemeral,
            extra: self.extra,
            ..InstanceSpec::default()
        })
    }

    fn spot(&self) -> Result<Option<Spot>, EciError> {
        let hours = self.spot_duration.unwrap_or(DEFAULT_SPOT_DURATION_HOURS);
        // 1 h of protection or none (README 4.5).
        let duration_hours = match hours {
            0 => 0,
            1 => 1,
            _ => return Err(EciError::invalid("SpotDuration", "0 or 1")),
        };
        match self.spot_strategy.as_deref() {
            None | Some("" | "NoSpot") => Ok(None),
            Some("SpotAsPriceGo") => Ok(Some(Spot { price_limit: None, duration_hours })),
            Some("SpotWithPriceLimit") => match self.spot_price_limit {
                Some(limit) if limit > 0.0 => Ok(Some(Spot { price_limit: Some(limit), duration_hours })),
                Some(_) => Err(EciError::invalid("SpotPriceLimit", "more than 0")),
                None => Err(EciError::missing("SpotPriceLimit")),
            },
            Some(_) => Err(EciError::invalid("SpotStrategy", "NoSpot, SpotWithPriceLimit or SpotAsPriceGo")),
        }
    }

    fn eip(&self) -> Result<Option<EipRequest>, EciError> {
        let existing = self.eip_instance_id.clone().filter(|id| !id.is_empty());
        let bandwidth = |mbps: i64| {
            u32::try_from(mbps)
                .ok()
                .filter(|mbps| *mbps > 0)
                .ok_or_else(|| EciError::invalid("EipBandwidth", "1 or more Mbit/s"))
        };
        match (existing, self.auto_create_eip) {
            (Some(_), Some(true)) => Err(EciError::invalid("AutoCreateEip", "not together with EipInstanceId")),
            (Some(id), _) => Ok(Some(EipRequest::Existing { id })),
            (None, Some(true)) => Ok(Some(EipRequest::Create {
                keep_on_delete: false,
                isp: self.eip_isp.clone(),
                bandwidth_mbps: self.eip_bandwidth.map(bandwidth).transpose()?,
            })),
            (None, Some(false) | None) => Ok(None),
        }
    }

    /// This update applied to what the instance is now.
    ///
    /// `RenewUpdate` replaces a list or struct that is given; `IncrementalUpdate` changes the items given, by name, and
    /// adds new ones (README 4.2). What is not given stays, in both.
    ///
    /// # Errors
    /// As [`Group::into_spec`], and `InvalidParameter` for an unknown `UpdateType`.
    pub(crate) fn apply_to(self, old: &InstanceSpec) -> Result<InstanceSpec, EciError> {
        let incremental = match self.update_type.as_deref() {
            None | Some("" | "RenewUpdate") => false,
            Some("IncrementalUpdate") => true,
            Some(_) => return Err(EciError::invalid("UpdateType", "RenewUpdate or IncrementalUpdate")),
        };
        check_size(self.cpu, self.memory)?;
        let mut spec = old.clone();
        if let Some(given) = self.volume {
            let given = volumes(given)?;
            spec.volumes = if incremental { merged(spec.volumes, given, |v| &v.name) } else { given };
        }
        if let Some(given) = self.container {
            spec.containers = update_containers("Container", &spec.containers, given, &spec.volumes, incremental)?;
        }
        if let Some(given) = self.init_container {
            spec.init_containers =
                update_containers("InitContainer", &spec.init_containers, given, &spec.volumes, incremental)?;
        }
        check_unique_names(&spec.containers, &spec.init_containers)?;
        if let Some(given) = self.tag {
            let given = tags(given, MAX_TAGS)?;
            spec.tags = if incremental { merged(spec.tags, given, |(key, _)| key) } else { given };
        }
        if let Some(given) = self.image_registry_credential {
            let given = credentials(given);
            spec.credentials = if incremental { merged(spec.credentials, given, |c| &c.server) } else { given };
        }
        if let Some(given) = self.dns_config {
            let policy = spec.dns.take().and_then(|dns| dns.policy);
            spec.dns = dns(Some(given), policy);
        }
        spec.extra.extend(self.extra);
        spec.restart_policy = restart_policy(self.restart_policy.as_deref())?.unwrap_or(spec.restart_policy);
        spec.cpu = self.cpu.or(spec.cpu);
        spec.memory_gib = self.memory.or(spec.memory_gib);
        Ok(spec)
    }
}

/// `old` with the items of `new` put in the place of those with the same key, others appended.
fn merged<T>(mut old: Vec<T>, new: Vec<T>, key: impl Fn(&T) -> &String) -> Vec<T> {
    for item in new {
        match old.iter_mut().find(|known| key(known) == key(&item)) {
            Some(known) => *known = item,
            None => old.push(item),
        }
    }
    old
}

fn update_containers(
    list: &str,
    old: &[ContainerSpec],
    given: Vec<ContainerIn>,
    volumes: &[Volume],
    incremental: bool,
) -> Result<Vec<ContainerSpec>, EciError> {
    if !incremental {
        let is_init = list == "InitContainer";
        return if is_init { containers_init(given, volumes) } else { containers(list, given, volumes) };
    }
    let mut all = old.to_vec();
    for (at, new) in given.into_iter().enumerate() {
        let name = new.name.clone().ok_or_else(|| EciError::missing(&format!("{list}.{}.Name", at + 1)))?;
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = overlay(known.clone(), new, volumes)?,
            None => all.push(container(list, at, new, volumes)?),
        }
    }
    if all.len() > MAX_CONTAINERS {
        return Err(EciError::new("InvalidParameter.ValueExceeded", format!("At most {MAX_CONTAINERS} containers.")));
    }
    Ok(all)
}

/// `old` with the fields that `new` gives.
fn overlay(old: ContainerSpec, new: ContainerIn, volumes: &[Volume]) -> Result<ContainerSpec, EciError> {
    let given = new.clone();
    let whole = ContainerIn { image: new.image.clone().or_else(|| Some(old.image.clone())), ..new };
    let new = container("Container", 0, whole, volumes)?;
    Ok(ContainerSpec {
        image: new.image,
        command: given.command.map_or(old.command, |_| new.command),
        args: given.arg.map_or(old.args, |_| new.args),
        env: given.environment_var.map_or(old.env, |_| new.env),
        cpu: new.cpu.or(old.cpu),
        memory_gib: new.memory_gib.or(old.memory_gib),
        gpu: new.gpu.or(old.gpu),
        working_dir: new.working_dir.or(old.working_dir),
        ports: given.port.map_or(old.ports, |_| new.ports),
        liveness: new.liveness.or(old.liveness),
        readiness: new.readiness.or(old.readiness),
        mounts: given.volume_mount.map_or(old.mounts, |_| new.mounts),
        security: new.security.or(old.security),
        image_pull_policy: new.image_pull_policy.or(old.image_pull_policy),
        pre_stop: new.pre_stop.or(old.pre_stop),
        stdin: given.stdin.unwrap_or(old.stdin),
        stdin_once: given.stdin_once.unwrap_or(old.stdin_once),
        tty: given.tty.unwrap_or(old.tty),
        extra: old.extra.into_iter().chain(new.extra).collect(),
        name: old.name,
        startup: old.startup,
    })
}

/// 2 to 128 lower-case letters, digits and hyphens, no hyphen at either end (constraints, document).
fn check_name(name: &str) -> Result<(), EciError> {
    let good = (2..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(EciError::invalid(
        "ContainerGroupName",
        "2 to 128 lower-case letters, digits and hyphens, no hyphen at either end",
    ))
}

/// Both of `Cpu` and `Memory`, or neither; positive.
fn check_size(cpu: Option<f64>, memory: Option<f64>) -> Result<(), EciError> {
    if cpu.is_some_and(|cpu| cpu <= 0.0) || memory.is_some_and(|gib| gib <= 0.0) {
        return Err(EciError::new("InvalidParameter.CPU.Memory", "Cpu and Memory must be more than 0."));
    }
    Ok(())
}

fn check_unique_names(containers: &[ContainerSpec], init: &[ContainerSpec]) -> Result<(), EciError> {
    let mut names: Vec<&str> = containers.iter().chain(init).map(|container| container.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.iter().zip(names.iter().skip(1)).find(|(one, other)| one == other);
    match twice {
        Some((name, _)) => {
            Err(EciError::new("InvalidParameter.DuplicatedName", format!("The container name {name} is given twice.")))
        }
        None => Ok(()),
    }
}

fn restart_policy(text: Option<&str>) -> Result<Option<RestartPolicy>, EciError> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => RestartPolicy::parse(text)
            .map(Some)
            .ok_or_else(|| EciError::invalid("RestartPolicy", "Always, OnFailure or Never")),
    }
}

fn credentials(given: Vec<CredentialIn>) -> Vec<RegistryCredential> {
    given.into_iter().map(CredentialIn::into_core).collect()
}

fn dns(config: Option<DnsIn>, policy: Option<String>) -> Option<Dns> {
    if config.is_none() && policy.is_none() {
        return None;
    }
    let config = config.unwrap_or_default();
    Some(Dns {
        nameservers: config.name_server,
        searches: config.search,
        options: config.option.into_iter().map(|option| (option.name, option.value)).collect(),
        policy,
    })
}

fn containers_init(given: Vec<ContainerIn>, volumes: &[Volume]) -> Result<Vec<ContainerSpec>, EciError> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    containers("InitContainer", given, volumes)
}

fn containers(list: &str, given: Vec<ContainerIn>, volumes: &[Volume]) -> Result<Vec<ContainerSpec>, EciError> {
    if given.is_empty() {
        return Err(EciError::missing(&format!("{list}.1")));
    }
    if given.len() > MAX_CONTAINERS {
        return Err(EciError::new("InvalidParameter.ValueExceeded", format!("At most {MAX_CONTAINERS} containers.")));
    }
    given.into_iter().enumerate().map(|(at, one)| container(list, at, one, volumes)).collect()
}

fn container(list: &str, at: usize, given: ContainerIn, volumes: &[Volume]) -> Result<ContainerSpec, EciError> {
    let path = |field: &str| format!("{list}.{}.{field}", at + 1);
    let required = |value: Option<String>, field: &str| {
        value.filter(|text| !text.is_empty()).ok_or_else(|| EciError::missing(&path(field)))
    };
    check_size(given.cpu, given.memory)?;
    if let Some(policy) = given.image_pull_policy.as_deref().filter(|policy| !policy.is_empty())
        && !["Always", "IfNotPresent", "Never"].contains(&policy)
    {
        return Err(EciError::invalid(&path("ImagePullPolicy"), "Always, IfNotPresent or Never"));
    }
    let mounts: Vec<Mount> = given.volume_mount.unwrap_or_default().into_iter().map(mount).collect();
    if let Some(mount) = mounts.iter().find(|mount| !volumes.iter().any(|volume| volume.name == mount.name)) {
        return Err(EciError::invalid(&path("VolumeMount"), &format!("there is no volume {}", mount.name)));
    }
    let gpu = given.gpu.map(|gpu| u32::try_from(gpu).map_err(|_| EciError::invalid(&path("Gpu"), "0 or more")));
    let mut extra = given.extra;
    if let Some(privileged) = given.security_context_privileged {
        extra.insert("SecurityContextPrivileged".to_owned(), Value::Bool(privileged));
    }
    let security = given.security_context.map(|context| SecurityContext {
        add: context.capability.add,
        drop: Vec::new(),
        read_only_root: context.read_only_root_filesystem,
        run_as_user: context.run_as_user,
        privileged: given.security_context_privileged,
    });
    Ok(ContainerSpec {
        name: required(given.name, "Name")?,
        image: required(given.image, "Image")?,
        command: given.command.unwrap_or_default(),
        args: given.arg.unwrap_or_default(),
        env: given.environment_var.unwrap_or_default().into_iter().map(env_var).collect(),
        cpu: given.cpu,
        memory_gib: given.memory,
        gpu: gpu.transpose()?,
        working_dir: given.working_dir,
        ports: ports(&path("Port"), given.port.unwrap_or_default())?,
        liveness: given.liveness_probe.map(|given| probe(&path("LivenessProbe"), given)).transpose()?,
        readiness: given.readiness_probe.map(|given| probe(&path("ReadinessProbe"), given)).transpose()?,
        startup: None,
        mounts,
        security,
        image_pull_policy: given.image_pull_policy,
        pre_stop: given.lifecycle_pre_stop_handler_exec,
        stdin: given.stdin.unwrap_or_default(),
        stdin_once: given.stdin_once.unwrap_or_default(),
        tty: given.tty.unwrap_or_default(),
        extra,
    })
}

fn env_var(given: EnvIn) -> EnvVar {
    EnvVar { name: given.key, value: given.value, field_path: given.field_ref.field_path }
}

fn mount(given: MountIn) -> Mount {
    Mount {
        name: given.name,
        mount_path: given.mount_path,
        sub_path: given.sub_path,
        sub_path_expr: None,
        propagation: given.mount_propagation,
        read_only: given.read_only,
    }
}

fn port_number(path: &str, port: i64) -> Result<u16, EciError> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| EciError::invalid(path, "a port is 1 to 65535"))
}

fn ports(path: &str, given: Vec<PortIn>) -> Result<Vec<Port>, EciError> {
    given
        .into_iter()
        .map(|given| {
            let protocol = given.protocol.unwrap_or_else(|| "TCP".to_owned());
            if !["TCP", "UDP"].contains(&protocol.as_str()) {
                return Err(EciError::invalid(path, "the protocol is TCP or UDP"));
            }
            Ok(Port { port: port_number(path, given.port)?, protocol })
        })
        .collect()
}

fn probe(path: &str, given: ProbeIn) -> Result<Probe, EciError> {
    let action = match (given.exec, given.http_get, given.tcp_socket) {
        (Some(exec), None, None) => Some(ProbeAction::Exec { commands: exec.command }),
        (None, Some(http), None) => Some(ProbeAction::Http {
            path: http.path.unwrap_or_else(|| "/".to_owned()),
            port: port_number(path, http.port)?,
            scheme: http.scheme.unwrap_or_else(|| "HTTP".to_owned()),
            host: None,
        }),
        (None, None, Some(tcp)) => Some(ProbeAction::Tcp { port: port_number(path, tcp.port)?, host: None }),
        (None, None, None) => None,
        _ => return Err(EciError::invalid(path, "one of Exec, HttpGet and TcpSocket")),
    };
    Ok(Probe {
        action,
        initial_delay_secs: given.initial_delay_seconds,
        period_secs: given.period_seconds,
        timeout_secs: given.timeout_seconds,
        success_threshold: given.success_threshold,
        failure_threshold: given.failure_threshold,
    })
}

fn volumes(given: Vec<VolumeIn>) -> Result<Vec<Volume>, EciError> {
    if given.len() > MAX_VOLUMES {
        return Err(EciError::new("InvalidParameter.ValueExceeded", format!("At most {MAX_VOLUMES} volumes.")));
    }
    let mut volumes: Vec<Volume> = Vec::with_capacity(given.len());
    let mut config_bytes = 0;
    for (at, one) in given.into_iter().enumerate() {
        let path = format!("Volume.{}", at + 1);
        if one.name.is_empty() {
            return Err(EciError::missing(&format!("{path}.Name")));
        }
        if volumes.iter().any(|known| known.name == one.name) {
            return Err(EciError::new(
                "InvalidParameter.DuplicatedVolumeName",
                format!("The volume name {} is given twice.", one.name),
            ));
        }
        volumes.push(Volume { name: one.name.clone(), kind: volume_kind(&path, one, &mut config_bytes)? });
    }
    if config_bytes > MAX_CONFIG_FILE_BYTES {
        return Err(EciError::new(
            "InvalidParameter.LengthExceeded",
            format!("The config files of an instance hold at most {MAX_CONFIG_FILE_BYTES} bytes together."),
        ));
    }
    Ok(volumes)
}

fn volume_kind(path: &str, given: VolumeIn, config_bytes: &mut usize) -> Result<VolumeKind, EciError> {
    let missing = |field: &str| EciError::missing(&format!("{path}.{field}"));
    match given.r#type.as_str() {
        "EmptyDirVolume" => Ok(VolumeKind::EmptyDir {
            medium: given.empty_dir_volume.medium,
            size_limit: given.empty_dir_volume.size_limit,
        }),
        "NFSVolume" => {
            let nfs =
                given.nfs_volume.filter(|nfs| !nfs.server.is_empty()).ok_or_else(|| missing("NFSVolume.Server"))?;
            let path = if nfs.path.is_empty() { "/".to_owned() } else { nfs.path };
            Ok(VolumeKind::Nfs { server: nfs.server, path, read_only: nfs.read_only })
        }
        "ConfigFileVolume" => config_files(path, given.config_file_volume.unwrap_or_default(), config_bytes),
        "DiskVolume" => {
            let disk = given
                .disk_volume
                .filter(|disk| !disk.disk_id.is_empty())
                .ok_or_else(|| missing("DiskVolume.DiskId"))?;
            Ok(VolumeKind::Disk { disk_id: disk.disk_id, fs_type: disk.fs_type, size_gib: disk.disk_size })
        }
        "FlexVolume" => {
            let flex =
                given.flex_volume.filter(|flex| !flex.driver.is_empty()).ok_or_else(|| missing("FlexVolume.Driver"))?;
            Ok(VolumeKind::Flex { driver: flex.driver, fs_type: flex.fs_type, options: flex.options })
        }
        "HostPathVolume" => {
            let host = given
                .host_path_volume
                .filter(|host| !host.path.is_empty())
                .ok_or_else(|| missing("HostPathVolume.Path"))?;
            Ok(VolumeKind::HostPath { path: host.path, kind: host.r#type })
        }
        "" => Err(missing("Type")),
        _ => Err(EciError::invalid(
            &format!("{path}.Type"),
            "EmptyDirVolume, NFSVolume, ConfigFileVolume, FlexVolume, DiskVolume or HostPathVolume",
        )),
    }
}

fn config_files(path: &str, given: ConfigFilesIn, total: &mut usize) -> Result<VolumeKind, EciError> {
    let mut files = Vec::with_capacity(given.config_file_to_path.len());
    for (at, file) in given.config_file_to_path.into_iter().enumerate() {
        let place = |field: &str| format!("{path}.ConfigFileVolume.ConfigFileToPath.{}.{field}", at + 1);
        if file.path.is_empty() {
            return Err(EciError::missing(&place("Path")));
        }
        let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(&file.content) else {
            return Err(EciError::invalid(&place("Content"), "it is not base64"));
        };
        *total += bytes.len();
        files.push(ConfigFile { path: file.path, content: file.content, mode: file.mode });
    }
    Ok(VolumeKind::ConfigFile { files, default_mode: given.default_mode })
}
