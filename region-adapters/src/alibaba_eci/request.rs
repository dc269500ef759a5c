//! From our verbs to the vendor's flat parameters: pure, no network, no time.
//!
//! Names and nesting follow `CreateContainerGroup` of alibaba-eci.json; lists are numbered from 1. Every field
//! of the spec is either sent here or refused with its JSON pointer: by [`Capability`] (placement looks there
//! first, and [`create`] looks again), or by a rule of this file that depends on values.

use std::fmt::Display;

use base64::{Engine, engine::general_purpose::STANDARD};
use meridian_model::{
    capability::{Capability, GpuSize, used_by},
    error::{Effect, FaultKind},
    ids::{CloudId, CloudName, RegionId},
    instance::{
        Architecture, CapacityType, ConfigFile, Container, DnsConfig, EmptyDirMedium, InstanceSpec, LifecycleHandler,
        OsName, PortRef, Probe, Protocol, SecurityContext, Shape, Volume, VolumeMount,
    },
    quantity::{MemoryMib, MilliCpu, PricePerHour},
};
use secrecy::ExposeSecret;

use crate::{AdapterError, CreateCall, Cursor, PriceQuery};

/// Longest client token, in characters (vendor-api README 4.1).
pub(super) const CLIENT_TOKEN_LEN_MAX: usize = 64;

/// Most tags on an instance (alibaba-eci.json, constraints).
pub(super) const TAGS_MAX: usize = 20;

/// Most bytes in all config files together (alibaba-eci.json, constraints), taken before base64.
const CONFIG_BYTES_MAX: usize = 61_440;

/// Most bytes in one config file ("Mount a ConfigFile volume", vendor's user guide: 32 KB).
const CONFIG_FILE_BYTES_MAX: usize = 32_768;

/// Temporary storage that comes with every instance, GiB (vendor-api README 4.5).
const STORAGE_INCLUDED_GIB: u64 = 30;

/// Most extra temporary storage, GiB (alibaba-eci.json, constraints).
const STORAGE_EXTRA_GIB_MAX: u64 = 5000;

/// Instances on one page, the vendor's maximum (alibaba-eci.json, constraints).
pub(super) const PAGE_LEN: usize = 20;

/// A GPU size in the built-in list.
#[derive(Debug, Clone, Copy)]
pub(super) struct GpuSizeDefault(&'static str, u32, u64, u64, &'static str);

impl From<GpuSizeDefault> for GpuSize {
    fn from(GpuSizeDefault(gpu_type, gpu_count, cpu, gib, name): GpuSizeDefault) -> Self {
        Self {
            gpu_type: gpu_type.to_owned(),
            gpu_count,
            cpu: MilliCpu(cpu * 1000),
            memory: MemoryMib(gib * 1024),
            vendor_name: name.to_owned(),
        }
    }
}

/// GPU sizes of the families gn6i (T4), gn6v (V100) and gn7i (A10), with vCPU and GiB as Alibaba's ECS pages
/// list them. Which of them ECI sells where is not verified: `gpuSizes` in the configuration replaces the list.
pub(super) const GPU_SIZES_DEFAULT: &[GpuSizeDefault] = &[
    GpuSizeDefault("T4", 1, 4, 15, "ecs.gn6i-c4g1.xlarge"),
    GpuSizeDefault("T4", 1, 8, 31, "ecs.gn6i-c8g1.2xlarge"),
    GpuSizeDefault("T4", 1, 16, 62, "ecs.gn6i-c16g1.4xlarge"),
    GpuSizeDefault("T4", 1, 24, 93, "ecs.gn6i-c24g1.6xlarge"),
    GpuSizeDefault("T4", 2, 48, 186, "ecs.gn6i-c24g1.12xlarge"),
    GpuSizeDefault("T4", 4, 96, 372, "ecs.gn6i-c24g1.24xlarge"),
    GpuSizeDefault("V100", 1, 8, 32, "ecs.gn6v-c8g1.2xlarge"),
    GpuSizeDefault("V100", 4, 32, 128, "ecs.gn6v-c8g1.8xlarge"),
    GpuSizeDefault("V100", 8, 64, 256, "ecs.gn6v-c8g1.16xlarge"),
    GpuSizeDefault("A10", 1, 8, 30, "ecs.gn7i-c8g1.2xlarge"),
    GpuSizeDefault("A10", 1, 16, 60, "ecs.gn7i-c16g1.4xlarge"),
    GpuSizeDefault("A10", 1, 32, 188, "ecs.gn7i-c32g1.8xlarge"),
    GpuSizeDefault("A10", 2, 64, 376, "ecs.gn7i-c32g1.16xlarge"),
    GpuSizeDefault("A10", 4, 128, 752, "ecs.gn7i-c32g1.32xlarge"),
];

/// Flat parameters in the order in which they were set.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Params(pub(super) Vec<(String, String)>);

impl Params {
    fn of(region: &RegionId) -> Self {
        let mut p = Self::default();
        p.set("RegionId", region);
        p
    }

    fn set(&mut self, name: impl Into<String>, value: impl Display) {
        self.0.push((name.into(), value.to_string()));
    }

    fn opt(&mut self, name: impl Into<String>, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    fn list<T: Display>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        for (i, value) in values.into_iter().enumerate() {
            self.set(format!("{name}.{}", i + 1), value);
        }
    }
}

/// A refusal by a rule that depends on values; names the field as a problem document would.
fn refused(pointer: impl Display, why: impl Display) -> AdapterError {
    AdapterError::new(FaultKind::BadRequest, Effect::NotApplied, "request.unsupported", format!("{pointer}: {why}"))
}

type Step = Result<(), AdapterError>;

/// Floats as the SDK writes them: `2.0`, `0.25`.
fn float(x: f64) -> String {
    format!("{x:?}")
}

/// Parameters of `CreateContainerGroup`.
///
/// # Errors
/// `(BadRequest, NotApplied)` with the pointer of a field that cannot be sent; `(WrongPlace, NotApplied)` when
/// the network has nothing for the zone.
pub(super) fn create(region: &RegionId, capability: &Capability, call: &CreateCall) -> Result<Params, AdapterError> {
    let spec = &call.spec.spec;
    if let Some((feature, pointer)) = used_by(spec).into_iter().find(|(feature, _)| !capability.has(*feature)) {
        return Err(refused(pointer, format_args!("{} has no {}", capability.adapter, feature.as_str())));
    }
    flatten(region, capability, call)
}

/// [`create`] for a spec whose features are all supported.
fn flatten(region: &RegionId, capability: &Capability, call: &CreateCall) -> Result<Params, AdapterError> {
    let spec = &call.spec.spec;
    if call.token.as_str().len() > CLIENT_TOKEN_LEN_MAX {
        return Err(refused("clientToken", format_args!("longer than {CLIENT_TOKEN_LEN_MAX} characters")));
    }
    let mut p = Params::of(region);
    p.set("ContainerGroupName", &call.name);
    p.set("ClientToken", &call.token);
    p.set("RestartPolicy", spec.restart_policy.as_str());
    place(&mut p, call)?;
    size(&mut p, capability, &call.shape)?;
    platform(&mut p, spec);
    network(&mut p, spec);
    capacity(&mut p, spec)?;
    storage(&mut p, spec)?;
    let gpu_to_first = call.shape.gpu_count > 0 && !spec.containers.iter().any(|c| gpu(c) > 0);
    for (i, c) in spec.containers.iter().enumerate() {
        let gpus = if gpu_to_first && i == 0 { call.shape.gpu_count } else { gpu(c) };
        let at = Place { prefix: format!("Container.{}", i + 1), pointer: format!("/spec/containers/{i}") };
        container(&mut p, &at, c, gpus, call)?;
        hooks_and_probes(&mut p, &at, c)?;
        security(&mut p, &at.prefix, c.security_context.as_ref());
    }
    for (i, c) in spec.init_containers.iter().enumerate() {
        let at = Place { prefix: format!("InitContainer.{}", i + 1), pointer: format!("/spec/initContainers/{i}") };
        container(&mut p, &at, c, gpu(c), call)?;
        no_hooks(&at, c)?;
        init_security(&mut p, &at.prefix, c.security_context.as_ref());
    }
    volumes(&mut p, &spec.volumes)?;
    for (i, credential) in call.spec.credentials.iter().enumerate() {
        let prefix = format!("ImageRegistryCredential.{}", i + 1);
        p.set(format!("{prefix}.Server"), &credential.server);
        p.set(format!("{prefix}.UserName"), &credential.username);
        p.set(format!("{prefix}.Password"), credential.password.expose_secret());
    }
    tags(&mut p, call)?;
    Ok(p)
}

/// Zone, its vSwitch, and the security group, of which the API takes one.
fn place(p: &mut Params, call: &CreateCall) -> Step {
    let misplaced = |why: String| AdapterError::new(FaultKind::WrongPlace, Effect::NotApplied, "request.network", why);
    let network = &call.spec.network;
    let subnet = network
        .subnets
        .get(&call.zone)
        .ok_or_else(|| misplaced(format!("the network profile has no vSwitch in {}", call.zone)))?;
    p.set("ZoneId", &call.zone);
    p.set("VSwitchId", subnet);
    match network.security_group_ids.as_slice() {
        [] => Ok(()), // the account's default group of the VPC
        [one] => {
            p.set("SecurityGroupId", one);
            Ok(())
        }
        many => Err(misplaced(format!("{} security groups; the API takes one", many.len()))),
    }
}

fn size(p: &mut Params, capability: &Capability, shape: &Shape) -> Step {
    if shape.gpu_count == 0 && shape.gpu_type.is_none() {
        p.set("Cpu", float(shape.cpu.vcpu()));
        p.set("Memory", float(shape.memory.gib()));
        return Ok(());
    }
    p.set("InstanceType", &gpu_size(&capability.gpu_sizes, shape)?.vendor_name);
    Ok(())
}

fn gpu_size<'a>(sizes: &'a [GpuSize], shape: &Shape) -> Result<&'a GpuSize, AdapterError> {
    let same_type = |g: &GpuSize| shape.gpu_type.as_ref().is_none_or(|t| t.eq_ignore_ascii_case(&g.gpu_type));
    sizes
        .iter()
        .find(|g| same_type(g) && g.gpu_count == shape.gpu_count && g.cpu == shape.cpu && g.memory == shape.memory)
        .ok_or_else(|| refused("/spec/resources", "no instance type of exactly this GPU size is configured"))
}

fn platform(p: &mut Params, spec: &InstanceSpec) {
    // The vendor's defaults are Linux and AMD64; leaving them out keeps the choice of family free.
    if spec.os.name == OsName::Windows {
        p.set("OsType", "Windows");
    }
    if spec.architecture == Architecture::Arm64 {
        p.set("CpuArchitecture", "ARM64");
    }
    p.opt("TerminationGracePeriodSeconds", spec.termination_grace_period_seconds);
    p.opt("ActiveDeadlineSeconds", spec.active_deadline_seconds);
    p.opt("HostName", spec.hostname.as_ref());
}

fn network(p: &mut Params, spec: &InstanceSpec) {
    if let Some(ip) = &spec.network.public_ip {
        p.set("AutoCreateEip", true);
        p.opt("EipBandwidth", ip.bandwidth_mbps);
    }
    p.opt("DnsPolicy", spec.dns_policy.map(|d| d.as_str()));
    if let Some(DnsConfig { nameservers, searches, options }) = &spec.dns_config {
        p.list("DnsConfig.NameServer", nameservers);
        p.list("DnsConfig.Search", searches);
        for (i, option) in options.iter().enumerate() {
            p.set(format!("DnsConfig.Option.{}.Name", i + 1), &option.name);
            p.opt(format!("DnsConfig.Option.{}.Value", i + 1), option.value.as_ref());
        }
    }
    for (i, alias) in spec.host_aliases.iter().enumerate() {
        p.set(format!("HostAliase.{}.Ip", i + 1), &alias.ip);
        p.list(&format!("HostAliase.{}.Hostname", i + 1), &alias.hostnames);
    }
}

/// The price cap has three decimals at the vendor; rounded down, so that nobody pays more than was allowed.
fn capacity(p: &mut Params, spec: &InstanceSpec) -> Step {
    const MICROS_PER_STEP: u64 = 1000;
    let pointer = "/spec/capacity/maxPricePerHour";
    match (spec.capacity.kind, spec.capacity.max_price_per_hour) {
        (CapacityType::OnDemand, None) => Ok(()),
        (CapacityType::OnDemand, Some(_)) => Err(refused(pointer, "only a spot instance has a price cap")),
        (CapacityType::Spot, None) => {
            p.set("SpotStrategy", "SpotAsPriceGo");
            Ok(())
        }
        (CapacityType::Spot, Some(PricePerHour(micros))) if micros < MICROS_PER_STEP => {
            Err(refused(pointer, "the vendor takes caps in steps of 0.001, from 0.001"))
        }
        (CapacityType::Spot, Some(PricePerHour(micros))) => {
            p.set("SpotStrategy", "SpotWithPriceLimit");
            p.set("SpotPriceLimit", PricePerHour(micros / MICROS_PER_STEP * MICROS_PER_STEP));
            Ok(())
        }
    }
}

/// Temporary storage beyond what is included, for the instance or summed over the containers.
fn storage(p: &mut Params, spec: &InstanceSpec) -> Step {
    let of = |r: &meridian_model::instance::Resources| r.limits.ephemeral_storage.or(r.requests.ephemeral_storage);
    let containers: Vec<MemoryMib> = spec.containers.iter().filter_map(|c| of(&c.resources)).collect();
    let init = spec.init_containers.iter().filter_map(|c| of(&c.resources)).max();
    let sum = containers.iter().fold(0_u64, |sum, m| sum.saturating_add(m.0)).max(init.map_or(0, |m| m.0));
    let asked = match of(&spec.resources) {
        Some(own) => own.0,
        None if containers.is_empty() && init.is_none() => return Ok(()),
        None => sum,
    };
    let extra = asked.div_ceil(1024).saturating_sub(STORAGE_INCLUDED_GIB);
    if extra > STORAGE_EXTRA_GIB_MAX {
        let most = STORAGE_INCLUDED_GIB + STORAGE_EXTRA_GIB_MAX;
        return Err(refused("/spec/resources/limits/ephemeral-storage", format_args!("at most {most}Gi")));
    }
    p.set("EphemeralStorage", extra);
    Ok(())
}

fn gpu(c: &Container) -> u32 {
    c.resources.limits.gpu.or(c.resources.requests.gpu).unwrap_or_default().0
}

/// Where a container stands: in the parameters and in the spec.
struct Place {
    prefix: String,
    pointer: String,
}

/// What containers and init containers have in common.
fn container(p: &mut Params, at: &Place, c: &Container, gpus: u32, call: &CreateCall) -> Step {
    let name = |field: &str| format!("{}.{field}", at.prefix);
    p.set(name("Name"), &c.name);
    p.set(name("Image"), &c.image);
    p.opt(name("ImagePullPolicy"), c.image_pull_policy.map(|policy| policy.as_str()));
    p.list(&name("Command"), &c.command);
    p.list(&name("Arg"), &c.args);
    p.opt(name("WorkingDir"), c.working_dir.as_ref());
    let (limits, requests) = (&c.resources.limits, &c.resources.requests);
    p.opt(name("Cpu"), limits.cpu.or(requests.cpu).map(|cpu| float(cpu.vcpu())));
    p.opt(name("Memory"), limits.memory.or(requests.memory).map(|memory| float(memory.gib())));
    p.opt(name("Gpu"), (gpus > 0).then_some(gpus));
    // A variable of the same name as a mark would make the mark ambiguous; the mark is ours and wins.
    let own = c.env.iter().filter(|e| !call.marks.contains_key(&e.name)).map(|e| (&e.name, &e.value));
    for (i, (key, value)) in own.chain(&call.marks).enumerate() {
        p.set(name(&format!("EnvironmentVar.{}.Key", i + 1)), key);
        p.set(name(&format!("EnvironmentVar.{}.Value", i + 1)), value);
    }
    for (i, port) in c.ports.iter().enumerate() {
        if port.protocol == Protocol::Sctp {
            return Err(refused(format_args!("{}/ports/{i}/protocol", at.pointer), "only TCP and UDP"));
        }
        p.set(name(&format!("Port.{}.Port", i + 1)), port.container_port);
        p.set(name(&format!("Port.{}.Protocol", i + 1)), port.protocol.as_str());
    }
    for (i, mount) in c.volume_mounts.iter().enumerate() {
        let VolumeMount { name: volume, mount_path, read_only, sub_path, mount_propagation } = mount;
        let of = |field: &str| name(&format!("VolumeMount.{}.{field}", i + 1));
        p.set(of("Name"), volume);
        p.set(of("MountPath"), mount_path);
        p.set(of("ReadOnly"), read_only);
        p.opt(of("SubPath"), sub_path.as_ref());
        p.opt(of("MountPropagation"), mount_propagation.map(|m| m.as_str()));
    }
    Ok(())
}

/// Init containers have none of these at the vendor.
fn no_hooks(at: &Place, c: &Container) -> Step {
    let present = [
        (c.liveness_probe.is_some(), "livenessProbe"),
        (c.readiness_probe.is_some(), "readinessProbe"),
        (c.lifecycle.is_some(), "lifecycle"),
        (c.stdin, "stdin"),
        (c.tty, "tty"),
    ];
    match present.iter().find(|(present, _)| *present) {
        Some((_, field)) => Err(refused(format_args!("{}/{field}", at.pointer), "not on init containers")),
        None => Ok(()),
    }
}

fn hooks_and_probes(p: &mut Params, at: &Place, c: &Container) -> Step {
    let probes = [
        ("LivenessProbe", "livenessProbe", &c.liveness_probe),
        ("ReadinessProbe", "readinessProbe", &c.readiness_probe),
    ];
    for (name, field, value) in probes {
        if let Some(value) = value {
            let at = Place { prefix: format!("{}.{name}", at.prefix), pointer: format!("{}/{field}", at.pointer) };
            probe(p, &at, value, c)?;
        }
    }
    if let Some(lifecycle) = &c.lifecycle {
        let hooks = [
            ("LifecyclePostStartHandler", "postStart", &lifecycle.post_start),
            ("LifecyclePreStopHandler", "preStop", &lifecycle.pre_stop),
        ];
        for (name, field, value) in hooks {
            if let Some(value) = value {
                let pointer = format!("{}/lifecycle/{field}", at.pointer);
                hook(p, &Place { prefix: format!("{}.{name}", at.prefix), pointer }, value, c)?;
            }
        }
    }
    if c.stdin {
        p.set(format!("{}.Stdin", at.prefix), true);
    }
    if c.tty {
        p.set(format!("{}.Tty", at.prefix), true);
    }
    Ok(())
}

/// The API knows port numbers only.
fn port(at: &Place, action: &str, port: &PortRef, c: &Container) -> Result<u16, AdapterError> {
    match port {
        PortRef::Number(number) => Ok(*number),
        PortRef::Name(wanted) => {
            c.ports.iter().find(|p| p.name.as_ref() == Some(wanted)).map(|p| p.container_port).ok_or_else(|| {
                refused(format_args!("{}/{action}/port", at.pointer), "no port of the container has this name")
            })
        }
    }
}

fn probe(p: &mut Params, at: &Place, probe: &Probe, c: &Container) -> Step {
    let name = |field: &str| format!("{}.{field}", at.prefix);
    if let Some(exec) = &probe.exec {
        p.list(&name("Exec.Command"), &exec.command);
    }
    if let Some(get) = &probe.http_get {
        p.set(name("HttpGet.Path"), &get.path);
        p.set(name("HttpGet.Port"), port(at, "httpGet", &get.port, c)?);
        p.set(name("HttpGet.Scheme"), get.scheme.as_str());
    }
    if let Some(tcp) = &probe.tcp_socket {
        p.set(name("TcpSocket.Port"), port(at, "tcpSocket", &tcp.port, c)?);
    }
    p.opt(name("InitialDelaySeconds"), probe.initial_delay_seconds);
    p.opt(name("TimeoutSeconds"), probe.timeout_seconds);
    p.opt(name("PeriodSeconds"), probe.period_seconds);
    p.opt(name("SuccessThreshold"), probe.success_threshold);
    p.opt(name("FailureThreshold"), probe.failure_threshold);
    Ok(())
}

/// Hooks are flat: the action's name is glued to the handler's, without dots.
fn hook(p: &mut Params, at: &Place, hook: &LifecycleHandler, c: &Container) -> Step {
    let name = |field: &str| format!("{}{field}", at.prefix);
    if let Some(exec) = &hook.exec {
        p.list(&name("Exec"), &exec.command);
    }
    if let Some(get) = &hook.http_get {
        p.opt(name("HttpGetHost"), get.host.as_ref());
        p.set(name("HttpGetPath"), &get.path);
        p.set(name("HttpGetPort"), port(at, "httpGet", &get.port, c)?);
        p.set(name("HttpGetScheme"), get.scheme.as_str());
        for (i, header) in get.http_headers.iter().enumerate() {
            p.set(name(&format!("HttpGetHttpHeader.{}.Name", i + 1)), &header.name);
            p.set(name(&format!("HttpGetHttpHeader.{}.Value", i + 1)), &header.value);
        }
    }
    if let Some(tcp) = &hook.tcp_socket {
        p.opt(name("TcpSocketHost"), tcp.host.as_ref());
        p.set(name("TcpSocketPort"), port(at, "tcpSocket", &tcp.port, c)?);
    }
    Ok(())
}

fn security(p: &mut Params, prefix: &str, context: Option<&SecurityContext>) {
    init_security(p, prefix, context);
    if let Some(context) = context {
        p.opt(format!("{prefix}.SecurityContextPrivileged"), context.privileged);
        p.opt(format!("{prefix}.SecurityContextRunAsGroup"), context.run_as_group);
        p.opt(format!("{prefix}.SecurityContextRunAsNonRoot"), context.run_as_non_root);
    }
}

/// The part that init containers have too.
fn init_security(p: &mut Params, prefix: &str, context: Option<&SecurityContext>) {
    let Some(context) = context else { return };
    p.opt(format!("{prefix}.SecurityContext.RunAsUser"), context.run_as_user);
    p.opt(format!("{prefix}.SecurityContext.ReadOnlyRootFilesystem"), context.read_only_root_filesystem);
    if let Some(capabilities) = &context.capabilities {
        p.list(&format!("{prefix}.SecurityContext.Capability.Add"), &capabilities.add);
    }
}

fn volumes(p: &mut Params, volumes: &[Volume]) -> Step {
    let mut config_bytes = 0;
    for (i, volume) in volumes.iter().enumerate() {
        let name = |field: &str| format!("Volume.{}.{field}", i + 1);
        p.set(name("Name"), &volume.name);
        if let Some(dir) = &volume.empty_dir {
            p.set(name("Type"), "EmptyDirVolume");
            p.opt(
                name("EmptyDirVolume.Medium"),
                dir.medium.filter(|m| *m == EmptyDirMedium::Memory).map(|m| m.as_str()),
            );
            p.opt(name("EmptyDirVolume.SizeLimit"), dir.size_limit);
        }
        if let Some(nfs) = &volume.nfs {
            p.set(name("Type"), "NFSVolume");
            p.set(name("NFSVolume.Server"), &nfs.server);
            p.set(name("NFSVolume.Path"), &nfs.path);
            p.set(name("NFSVolume.ReadOnly"), nfs.read_only);
        }
        if let Some(disk) = &volume.disk {
            p.set(name("Type"), "DiskVolume");
            p.set(name("DiskVolume.DiskId"), &disk.disk_id);
            p.opt(name("DiskVolume.FsType"), disk.fs_type.as_ref());
        }
        if let Some(files) = &volume.config_file {
            p.set(name("Type"), "ConfigFileVolume");
            let at = Place { prefix: name("ConfigFileVolume"), pointer: format!("/spec/volumes/{i}/configFile") };
            config_bytes += config_files(p, &at, files, CONFIG_BYTES_MAX - config_bytes)?;
        }
    }
    Ok(())
}

/// The files of one volume, base64; returns their size.
fn config_files(p: &mut Params, at: &Place, files: &ConfigFile, room: usize) -> Result<usize, AdapterError> {
    let name = |field: &str| format!("{}.{field}", at.prefix);
    let mut bytes = 0_usize;
    for (i, file) in files.items.iter().enumerate() {
        let pointer = format!("{}/items/{i}/content", at.pointer);
        if file.content.len() > CONFIG_FILE_BYTES_MAX {
            return Err(refused(pointer, format_args!("a file may have {CONFIG_FILE_BYTES_MAX} bytes")));
        }
        bytes += file.content.len();
        if bytes > room {
            return Err(refused(pointer, format_args!("all config files together may have {CONFIG_BYTES_MAX} bytes")));
        }
        p.set(name(&format!("ConfigFileToPath.{}.Path", i + 1)), &file.path);
        p.set(name(&format!("ConfigFileToPath.{}.Content", i + 1)), STANDARD.encode(&file.content));
        p.opt(name(&format!("ConfigFileToPath.{}.Mode", i + 1)), file.mode.map(octal));
    }
    p.opt(name("DefaultMode"), files.default_mode.map(octal));
    Ok(bytes)
}

/// Mode bits as the vendor writes them: four octal digits, `0644` (user guide, "Mount a ConfigFile volume").
fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

fn tags(p: &mut Params, call: &CreateCall) -> Step {
    if call.marks.len() > TAGS_MAX {
        return Err(refused("marks", format_args!("{} marks; at most {TAGS_MAX} tags", call.marks.len())));
    }
    for (i, (key, value)) in call.marks.iter().enumerate() {
        p.set(format!("Tag.{}.Key", i + 1), key);
        p.set(format!("Tag.{}.Value", i + 1), value);
    }
    Ok(())
}

/// Parameters of `DescribeContainerGroups` by id: JSON text in one value.
pub(super) fn describe(region: &RegionId, ids: &[CloudId], events: bool) -> Params {
    let mut p = Params::of(region);
    let ids: Vec<&str> = ids.iter().map(CloudId::as_str).collect();
    p.set("ContainerGroupIds", serde_json::json!(ids));
    p.set("Limit", PAGE_LEN);
    if events {
        p.set("WithEvent", true);
    }
    p
}

/// Parameters of `DescribeContainerGroups` for one page of all instances, or of those with one name.
pub(super) fn page(region: &RegionId, name: Option<&CloudName>, from: Option<&Cursor>) -> Params {
    let mut p = Params::of(region);
    p.opt("ContainerGroupName", name);
    p.opt("NextToken", from.map(|c| &c.0));
    p.set("Limit", PAGE_LEN);
    p
}

/// Parameters of `DeleteContainerGroup`. Without a client token: the id already makes a repeat harmless.
pub(super) fn delete(region: &RegionId, id: &CloudId) -> Params {
    let mut p = Params::of(region);
    p.set("ContainerGroupId", id);
    p
}

/// Parameters of the actions that take only the region.
pub(super) fn regional(region: &RegionId) -> Params {
    Params::of(region)
}

/// Parameters of `DescribeAvailableResource` for one family, in all zones.
pub(super) fn available(region: &RegionId, family: &str) -> Params {
    let mut p = Params::of(region);
    p.set("DestinationResource.Category", "InstanceTypeFamily");
    p.set("DestinationResource.Value", family);
    p
}

/// The family of an instance type: `ecs.gn6i` of `ecs.gn6i-c4g1.xlarge`, `ecs.c6` of `ecs.c6.large`.
pub(super) fn family(instance_type: &str) -> &str {
    let after_product = instance_type.find('.').map_or(0, |dot| dot + 1);
    let end = instance_type
        .char_indices()
        .find(|(i, c)| *i >= after_product && matches!(c, '-' | '.'))
        .map_or(instance_type.len(), |(i, _)| i);
    instance_type.get(..end).unwrap_or(instance_type)
}

/// Parameters of `DescribeContainerGroupPrice`.
///
/// # Errors
/// `(BadRequest, NotApplied)` for a GPU size that is not configured.
pub(super) fn price(region: &RegionId, sizes: &[GpuSize], query: &PriceQuery) -> Result<Params, AdapterError> {
    let mut p = Params::of(region);
    p.set("ZoneId", &query.zone);
    p.set("Cpu", float(query.shape.cpu.vcpu()));
    p.set("Memory", float(query.shape.memory.gib()));
    if query.shape.gpu_count > 0 || query.shape.gpu_type.is_some() {
        p.set("InstanceType", &gpu_size(sizes, &query.shape)?.vendor_name);
    }
    if query.capacity == CapacityType::Spot {
        p.set("SpotStrategy", "SpotAsPriceGo");
    }
    Ok(p)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
