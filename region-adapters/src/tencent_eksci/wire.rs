//! The vendor's types, with the vendor's names; only what is sent or read.
//!
//! Requests leave unset fields out, as the vendor's SDKs do. Replies are read leniently: `null` stands for
//! absent and for an empty list, and unknown fields are ignored; both were seen (SDK 3.1.193, measured).

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Reads `null` as the default.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

// ---- requests ----

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateEksContainerInstances<'a> {
    pub(super) eks_ci_name: &'a str,
    pub(super) vpc_id: &'a str,
    pub(super) subnet_id: &'a str,
    pub(super) security_group_ids: &'a [String],
    pub(super) cpu: f64,
    pub(super) memory: f64,
    pub(super) replicas: u8,
    pub(super) restart_policy: &'a str,
    pub(super) containers: Vec<ContainerSpec<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) init_containers: Vec<ContainerSpec<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) image_registry_credentials: Vec<ImageRegistryCredential<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) eks_ci_volume: Option<EksCiVolume<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dns_config: Option<DnsConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auto_create_eip: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auto_create_eip_attribute: Option<EipAttribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpu_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpu_count: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerSpec<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) commands: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) args: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) working_dir: Option<&'a str>,
    pub(super) environment_vars: Vec<EnvironmentVariable<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpu_limit: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) volume_mounts: Vec<VolumeMount<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) liveness_probe: Option<LivenessOrReadinessProbe<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) readiness_probe: Option<LivenessOrReadinessProbe<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) security_context: Option<SecurityContext<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EnvironmentVariable<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VolumeMount<'a> {
    pub(super) name: &'a str,
    pub(super) mount_path: &'a str,
    pub(super) read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sub_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mount_propagation: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LivenessOrReadinessProbe<'a> {
    pub(super) probe: ProbeTiming,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exec: Option<Exec<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http_get: Option<HttpGet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tcp_socket: Option<TcpSocket>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ProbeTiming {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initial_delay_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) period_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) success_threshold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure_threshold: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Exec<'a> {
    pub(super) commands: &'a [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HttpGet<'a> {
    pub(super) path: &'a str,
    pub(super) port: u16,
    pub(super) scheme: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TcpSocket {
    pub(super) port: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SecurityContext<'a> {
    pub(super) capabilities: Capabilities<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capabilities<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) add: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) drop: &'a [String],
}

/// Not `Debug`: it holds a password.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageRegistryCredential<'a> {
    pub(super) name: String,
    pub(super) server: &'a str,
    pub(super) username: &'a str,
    pub(super) password: &'a str,
}

impl std::fmt::Debug for ImageRegistryCredential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageRegistryCredential").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EksCiVolume<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nfs_volumes: Vec<NfsVolume<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cbs_volumes: Vec<CbsVolume<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NfsVolume<'a> {
    pub(super) name: &'a str,
    pub(super) server: &'a str,
    pub(super) path: &'a str,
    pub(super) read_only: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CbsVolume<'a> {
    pub(super) name: &'a str,
    pub(super) cbs_disk_id: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DnsConfig<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) nameservers: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) searches: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) options: Vec<EnvironmentVariable<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EipAttribute {
    pub(super) delete_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) internet_max_bandwidth_out: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribeEksContainerInstances<'a> {
    pub(super) limit: usize,
    pub(super) offset: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) filters: Vec<Filter<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) eks_ci_ids: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Filter<'a> {
    pub(super) name: &'static str,
    pub(super) values: [&'a str; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteEksContainerInstances<'a> {
    pub(super) eks_ci_ids: [&'a str; 1],
    pub(super) release_auto_created_eip: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribeEksContainerInstanceEvent<'a> {
    pub(super) eks_ci_id: &'a str,
    pub(super) limit: usize,
}

// ---- replies ----

/// The envelope of every reply, error or not.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub(super) response: &'a RawValue,
}

/// What every reply has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Common {
    pub(super) error: Option<VendorError>,
    pub(super) request_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VendorError {
    pub(super) code: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Created {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) eks_ci_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    pub(super) total_count: Option<u64>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) eks_cis: Vec<EksCi>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Events {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) events: Vec<Event>,
}

/// A reply without content: delete.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EksCi {
    pub(super) eks_ci_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) eks_ci_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) status: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) subnet_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) cpu: f64,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) memory: f64,
    pub(super) gpu_type: Option<String>,
    pub(super) gpu_count: Option<u32>,
    pub(super) private_ip: Option<String>,
    pub(super) eip_address: Option<String>,
    pub(super) creation_time: Option<String>,
    pub(super) succeeded_time: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) init_containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) environment_vars: Vec<EnvironmentValue>,
    pub(super) current_state: Option<ContainerState>,
    pub(super) restart_count: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EnvironmentValue {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerState {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) state: String,
    pub(super) exit_code: Option<i64>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) reason: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) message: String,
    pub(super) start_time: Option<String>,
    pub(super) finish_time: Option<String>,
    pub(super) restart_count: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) reason: String,
    #[serde(default, rename = "Type", deserialize_with = "nullable")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) message: String,
    pub(super) count: Option<i64>,
    pub(super) first_timestamp: Option<String>,
    pub(super) last_timestamp: Option<String>,
}
