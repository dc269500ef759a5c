//! From a call to the vendor's JSON body: pure, and complete for everything in the adapter's capability.
//!
//! What is not in the capability is refused before this module is asked; it has no field here. Two facts
//! shape the mapping: a container's `Cpu` and `Memory` are limits (a request only counts into the size of the
//! instance), and identity can only travel in the name and in the environment, as there are no tags.

use meridian_model::{
    error::{Effect, FaultKind},
    ids::CloudId,
    instance::{Container, InstanceSpec, Labels, PortRef, Probe, UriScheme},
};
use secrecy::ExposeSecret;

use super::wire;
use crate::{AdapterError, CreateCall};

/// One request: the action header and the body. Its `Debug` shows no body: environment and registry passwords
/// are in it.
pub(super) struct Request {
    pub(super) action: &'static str,
    pub(super) body: Vec<u8>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("action", &self.action).field("body_len", &self.body.len()).finish()
    }
}

/// Largest body that the vendor takes with a JSON request, in bytes (API 3.0 documentation).
const BODY_BYTES_MAX: usize = 10 << 20;

/// Instances asked for in one page: the vendor's limit (document of `DescribeEKSContainerInstances`).
pub(super) const PAGE_SIZE: usize = 100;

/// Events asked for at once: the vendor's limit (document of `DescribeEKSContainerInstanceEvent`).
const EVENTS_MAX: usize = 100;

/// Anything but `Never` releases the address with the instance (document of `EipAttribute`).
const EIP_RELEASE: &str = "Release";

fn request<T: serde::Serialize>(action: &'static str, body: &T) -> Result<Request, AdapterError> {
    // Only a map with keys that are not text, or a type that refuses, can fail; ours have neither.
    let body = serde_json::to_vec(body).map_err(|e| refused("adapter.encode", e.to_string()))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(refused("adapter.body-too-large", format!("{} bytes; at most {BODY_BYTES_MAX}", body.len())));
    }
    Ok(Request { action, body })
}

/// A call that is wrong before it is sent.
pub(super) fn refused(code: &str, message: impl AsRef<str>) -> AdapterError {
    AdapterError::new(FaultKind::BadRequest, Effect::NotApplied, code, message)
}

/// The create request. `gpu_name` gives the vendor's name of the GPU model in the shape.
///
/// # Errors
/// `BadRequest` for a probe that names a port the container does not have, `WrongPlace` for a zone without a
/// subnet; nothing was sent.
pub(super) fn create<'a>(
    call: &'a CreateCall,
    gpu_name: impl FnOnce(&'a str) -> &'a str,
) -> Result<Request, AdapterError> {
    let (spec, network) = (&call.spec.spec, &call.spec.network);
    let subnet = network.subnets.get(&call.zone).ok_or_else(|| {
        let text = format!("the network profile has no subnet in zone {}", call.zone);
        AdapterError::new(FaultKind::WrongPlace, Effect::NotApplied, "adapter.no-subnet", text)
    })?;
    let containers = |list: &'a [Container], field: &str| {
        let at = |i: usize| format!("/spec/{field}/{i}");
        list.iter().enumerate().map(|(i, c)| container(c, &call.marks, &at(i))).collect::<Result<Vec<_>, _>>()
    };
    let credentials = call.spec.credentials.iter().enumerate().map(|(i, c)| wire::ImageRegistryCredential {
        name: format!("credential-{i}"),
        server: &c.server,
        username: &c.username,
        password: c.password.expose_secret(),
    });
    let eip = spec.network.public_ip.as_ref();
    let gpu = (call.shape.gpu_count > 0).then_some(call.shape.gpu_count);
    let body = wire::CreateEksContainerInstances {
        eks_ci_name: call.name.as_str(),
        vpc_id: &network.vpc_id,
        subnet_id: subnet.as_str(),
        security_group_ids: &network.security_group_ids,
        cpu: call.shape.cpu.vcpu(),
        memory: call.shape.memory.gib(),
        // One id per call: with more, one name would stand for several instances.
        replicas: 1,
        restart_policy: spec.restart_policy.as_str(),
        containers: containers(&spec.containers, "containers")?,
        init_containers: containers(&spec.init_containers, "initContainers")?,
        image_registry_credentials: credentials.collect(),
        eks_ci_volume: volumes(spec),
        dns_config: dns(spec),
        auto_create_eip: eip.map(|_| true),
        auto_create_eip_attribute: eip
            .map(|ip| wire::EipAttribute { delete_policy: EIP_RELEASE, internet_max_bandwidth_out: ip.bandwidth_mbps }),
        gpu_type: call.shape.gpu_type.as_deref().map(gpu_name),
        gpu_count: gpu,
    };
    request("CreateEKSContainerInstances", &body)
}

fn container<'a>(c: &'a Container, marks: &'a Labels, at: &str) -> Result<wire::ContainerSpec<'a>, AdapterError> {
    let own = c.env.iter().map(|e| wire::EnvironmentVariable { name: &e.name, value: &e.value });
    // Last, so that they win over variables of the same name.
    let marks = marks.iter().map(|(name, value)| wire::EnvironmentVariable { name, value });
    let limits = &c.resources.limits;
    let mounts = c.volume_mounts.iter().map(|m| wire::VolumeMount {
        name: &m.name,
        mount_path: &m.mount_path,
        read_only: m.read_only,
        sub_path: m.sub_path.as_deref(),
        mount_propagation: m.mount_propagation.map(|p| p.as_str()),
    });
    let capabilities = c.security_context.as_ref().and_then(|s| s.capabilities.as_ref());
    Ok(wire::ContainerSpec {
        name: &c.name,
        image: &c.image,
        commands: &c.command,
        args: &c.args,
        working_dir: c.working_dir.as_deref(),
        environment_vars: own.chain(marks).collect(),
        cpu: limits.cpu.map(|c| c.vcpu()),
        memory: limits.memory.map(|m| m.gib()),
        gpu_limit: limits.gpu.or(c.resources.requests.gpu).map(|g| g.0),
        volume_mounts: mounts.collect(),
        liveness_probe: probe(c, c.liveness_probe.as_ref(), &format!("{at}/livenessProbe"))?,
        readiness_probe: probe(c, c.readiness_probe.as_ref(), &format!("{at}/readinessProbe"))?,
        security_context: capabilities
            .map(|c| wire::SecurityContext { capabilities: wire::Capabilities { add: &c.add, drop: &c.drop } }),
    })
}

fn probe<'a>(
    c: &Container,
    probe: Option<&'a Probe>,
    at: &str,
) -> Result<Option<wire::LivenessOrReadinessProbe<'a>>, AdapterError> {
    let Some(p) = probe else { return Ok(None) };
    let http_get = match &p.http_get {
        None => None,
        Some(get) => Some(wire::HttpGet {
            path: &get.path,
            port: port(c, &get.port, &format!("{at}/httpGet/port"))?,
            scheme: match get.scheme {
                UriScheme::Http => "HTTP",
                UriScheme::Https => "HTTPS",
            },
        }),
    };
    let tcp_socket = match &p.tcp_socket {
        None => None,
        Some(tcp) => Some(wire::TcpSocket { port: port(c, &tcp.port, &format!("{at}/tcpSocket/port"))? }),
    };
    Ok(Some(wire::LivenessOrReadinessProbe {
        probe: wire::ProbeTiming {
            initial_delay_seconds: p.initial_delay_seconds,
            timeout_seconds: p.timeout_seconds,
            period_seconds: p.period_seconds,
            success_threshold: p.success_threshold,
            failure_threshold: p.failure_threshold,
        },
        exec: p.exec.as_ref().map(|e| wire::Exec { commands: &e.command }),
        http_get,
        tcp_socket,
    }))
}

/// The number of a port; the vendor takes no names.
fn port(c: &Container, port: &PortRef, at: &str) -> Result<u16, AdapterError> {
    match port {
        PortRef::Number(number) => Ok(*number),
        PortRef::Name(name) => c
            .ports
            .iter()
            .find(|p| p.name.as_ref() == Some(name))
            .map(|p| p.container_port)
            .ok_or_else(|| refused("adapter.port-name", format!("{at}: container {} has no port {name:?}", c.name))),
    }
}

fn volumes(spec: &InstanceSpec) -> Option<wire::EksCiVolume<'_>> {
    let nfs = spec.volumes.iter().filter_map(|v| {
        let nfs = v.nfs.as_ref()?;
        Some(wire::NfsVolume { name: &v.name, server: &nfs.server, path: &nfs.path, read_only: nfs.read_only })
    });
    let disks = spec
        .volumes
        .iter()
        .filter_map(|v| Some(wire::CbsVolume { name: &v.name, cbs_disk_id: &v.disk.as_ref()?.disk_id }));
    let volumes = wire::EksCiVolume { nfs_volumes: nfs.collect(), cbs_volumes: disks.collect() };
    (!volumes.nfs_volumes.is_empty() || !volumes.cbs_volumes.is_empty()).then_some(volumes)
}

fn dns(spec: &InstanceSpec) -> Option<wire::DnsConfig<'_>> {
    let dns = spec.dns_config.as_ref()?;
    // The vendor requires a value; an option without one, such as `rotate`, gets an empty text.
    let options = dns
        .options
        .iter()
        .map(|o| wire::EnvironmentVariable { name: &o.name, value: o.value.as_deref().unwrap_or_default() });
    Some(wire::DnsConfig { nameservers: &dns.nameservers, searches: &dns.searches, options: options.collect() })
}

/// Instances by id; never without ids, which would mean all.
pub(super) fn describe(ids: &[CloudId]) -> Result<Request, AdapterError> {
    if ids.is_empty() || ids.len() > crate::DESCRIBE_IDS_MAX {
        let text = format!("{} ids; 1 to {} are allowed", ids.len(), crate::DESCRIBE_IDS_MAX);
        return Err(refused("adapter.describe-ids", text));
    }
    let eks_ci_ids = ids.iter().map(CloudId::as_str).collect();
    instances(wire::DescribeEksContainerInstances { limit: PAGE_SIZE, offset: 0, filters: Vec::new(), eks_ci_ids })
}

/// One page of the instances of a name.
pub(super) fn find(name: &str, offset: usize) -> Result<Request, AdapterError> {
    let filters = vec![wire::Filter { name: "eks-ci-name", values: [name] }];
    instances(wire::DescribeEksContainerInstances { limit: PAGE_SIZE, offset, filters, eks_ci_ids: Vec::new() })
}

/// One page of all instances.
pub(super) fn list(offset: usize) -> Result<Request, AdapterError> {
    let (filters, eks_ci_ids) = (Vec::new(), Vec::new());
    instances(wire::DescribeEksContainerInstances { limit: PAGE_SIZE, offset, filters, eks_ci_ids })
}

fn instances(body: wire::DescribeEksContainerInstances<'_>) -> Result<Request, AdapterError> {
    request("DescribeEKSContainerInstances", &body)
}

/// Deletes one instance and the address that was made with it.
pub(super) fn delete(id: &CloudId) -> Result<Request, AdapterError> {
    let body = wire::DeleteEksContainerInstances { eks_ci_ids: [id.as_str()], release_auto_created_eip: true };
    request("DeleteEKSContainerInstances", &body)
}

/// The latest events of an instance.
pub(super) fn events(id: &CloudId) -> Result<Request, AdapterError> {
    let body = wire::DescribeEksContainerInstanceEvent { eks_ci_id: id.as_str(), limit: EVENTS_MAX };
    request("DescribeEKSContainerInstanceEvent", &body)
}

#[cfg(test)]
mod tests;
