//! The create and update requests in the vendor's words; `translate` turns them into the core's.
//!
//! Shapes: `CreateContainerGroupRequest` and `UpdateContainerGroupRequest` of the vendor's SDK 2.1.0. What the core
//! does not interpret is kept in `extra`, so that nothing a caller sent is lost from the truth ledger.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::error::EciError;
use crate::core::RegistryCredential;

/// Limits of `alibaba-eci.json`, `constraints.CreateContainerGroup` (document).
pub(crate) const MAX_TAGS: usize = 20;
const MAX_CLIENT_TOKEN: usize = 64;

type Extra = BTreeMap<String, Value>;

/// `CreateContainerGroup`, and the parts of it that `UpdateContainerGroup` takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Group {
    pub(crate) container_group_id: String,
    pub(crate) update_type: Option<String>,
    pub(crate) region_id: String,
    pub(crate) zone_id: Option<String>,
    pub(crate) v_switch_id: Option<String>,
    pub(crate) security_group_id: Option<String>,
    pub(crate) schedule_strategy: Option<String>,
    pub(crate) container_group_name: String,
    pub(crate) cpu: Option<f64>,
    pub(crate) memory: Option<f64>,
    pub(crate) instance_type: Option<String>,
    pub(crate) restart_policy: Option<String>,
    pub(crate) container: Option<Vec<ContainerIn>>,
    pub(crate) init_container: Option<Vec<ContainerIn>>,
    pub(crate) volume: Option<Vec<VolumeIn>>,
    pub(crate) dns_config: Option<DnsIn>,
    pub(crate) dns_policy: Option<String>,
    pub(crate) host_aliase: Vec<HostAliasIn>,
    pub(crate) image_registry_credential: Option<Vec<CredentialIn>>,
    pub(crate) eip_instance_id: Option<String>,
    pub(crate) auto_create_eip: Option<bool>,
    pub(crate) eip_bandwidth: Option<i64>,
    #[serde(rename = "EipISP")]
    pub(crate) eip_isp: Option<String>,
    pub(crate) tag: Option<Vec<TagIn>>,
    pub(crate) client_token: Option<String>,
    pub(crate) dry_run: Option<bool>,
    pub(crate) ram_role_name: Option<String>,
    pub(crate) spot_strategy: Option<String>,
    pub(crate) spot_price_limit: Option<f64>,
    pub(crate) spot_duration: Option<i64>,
    pub(crate) termination_grace_period_seconds: Option<i64>,
    pub(crate) active_deadline_seconds: Option<i64>,
    pub(crate) ephemeral_storage: Option<i64>,
    #[serde(flatten)]
    pub(crate) extra: Extra,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ContainerIn {
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) arg: Option<Vec<String>>,
    pub(crate) environment_var: Option<Vec<EnvIn>>,
    pub(crate) cpu: Option<f64>,
    pub(crate) memory: Option<f64>,
    pub(crate) gpu: Option<i64>,
    pub(crate) working_dir: Option<String>,
    pub(crate) port: Option<Vec<PortIn>>,
    pub(crate) liveness_probe: Option<ProbeIn>,
    pub(crate) readiness_probe: Option<ProbeIn>,
    pub(crate) volume_mount: Option<Vec<MountIn>>,
    pub(crate) security_context: Option<SecurityIn>,
    pub(crate) security_context_privileged: Option<bool>,
    pub(crate) image_pull_policy: Option<String>,
    pub(crate) lifecycle_pre_stop_handler_exec: Option<Vec<String>>,
    pub(crate) stdin: Option<bool>,
    pub(crate) stdin_once: Option<bool>,
    pub(crate) tty: Option<bool>,
    #[serde(flatten)]
    pub(crate) extra: Extra,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EnvIn {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) field_ref: FieldRefIn,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct FieldRefIn {
    pub(crate) field_path: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PortIn {
    pub(crate) port: i64,
    pub(crate) protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ProbeIn {
    pub(crate) exec: Option<ExecIn>,
    pub(crate) http_get: Option<HttpGetIn>,
    pub(crate) tcp_socket: Option<TcpIn>,
    pub(crate) initial_delay_seconds: Option<i64>,
    pub(crate) period_seconds: Option<i64>,
    pub(crate) timeout_seconds: Option<i64>,
    pub(crate) success_threshold: Option<i64>,
    pub(crate) failure_threshold: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecIn {
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HttpGetIn {
    pub(crate) path: Option<String>,
    pub(crate) port: i64,
    pub(crate) scheme: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TcpIn {
    pub(crate) port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct MountIn {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    pub(crate) sub_path: Option<String>,
    pub(crate) mount_propagation: Option<String>,
    pub(crate) read_only: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct SecurityIn {
    pub(crate) capability: CapabilityIn,
    pub(crate) read_only_root_filesystem: Option<bool>,
    pub(crate) run_as_user: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CapabilityIn {
    pub(crate) add: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct VolumeIn {
    pub(crate) name: String,
    pub(crate) r#type: String,
    pub(crate) empty_dir_volume: EmptyDirIn,
    #[serde(rename = "NFSVolume")]
    pub(crate) nfs_volume: Option<NfsIn>,
    pub(crate) config_file_volume: Option<ConfigFilesIn>,
    pub(crate) disk_volume: Option<DiskIn>,
    pub(crate) flex_volume: Option<FlexIn>,
    pub(crate) host_path_volume: Option<HostPathIn>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EmptyDirIn {
    pub(crate) medium: Option<String>,
    pub(crate) size_limit: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NfsIn {
    pub(crate) server: String,
    pub(crate) path: String,
    pub(crate) read_only: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ConfigFilesIn {
    pub(crate) config_file_to_path: Vec<ConfigFileIn>,
    pub(crate) default_mode: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ConfigFileIn {
    pub(crate) path: String,
    pub(crate) content: String,
    pub(crate) mode: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DiskIn {
    pub(crate) disk_id: String,
    pub(crate) fs_type: Option<String>,
    pub(crate) disk_size: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct FlexIn {
    pub(crate) driver: String,
    pub(crate) fs_type: Option<String>,
    pub(crate) options: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostPathIn {
    pub(crate) path: String,
    pub(crate) r#type: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DnsIn {
    pub(crate) name_server: Vec<String>,
    pub(crate) search: Vec<String>,
    pub(crate) option: Vec<DnsOptionIn>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DnsOptionIn {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostAliasIn {
    pub(crate) ip: String,
    pub(crate) hostname: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CredentialIn {
    pub(crate) server: String,
    pub(crate) user_name: String,
    pub(crate) password: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TagIn {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Reads a request that `flatten` has typed. A mismatch is a mistake in our schema, not in the request.
pub(crate) fn read<'de, T: Deserialize<'de>>(params: &'de Value) -> Result<T, EciError> {
    T::deserialize(params)
        .map_err(|error| EciError::new("InternalError", format!("the request does not fit its schema: {error}")))
}

/// A client token is at most 64 ASCII characters; the empty one counts as none.
pub(crate) fn client_token(token: Option<&str>) -> Result<Option<&str>, EciError> {
    match token {
        Some(token) if token.len() > MAX_CLIENT_TOKEN || !token.is_ascii() => {
            Err(EciError::invalid("ClientToken", "at most 64 ASCII characters"))
        }
        Some("") | None => Ok(None),
        Some(token) => Ok(Some(token)),
    }
}

/// Splits a comma list, refusing empty items and more than `max`.
pub(crate) fn comma_list(parameter: &str, text: Option<&str>, max: usize) -> Result<Vec<String>, EciError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
    if items.len() > max || items.iter().any(String::is_empty) {
        return Err(EciError::invalid(parameter, &format!("a comma list of 1 to {max} items")));
    }
    Ok(items)
}

/// Checks tags and turns them into pairs. Keys are unique.
pub(crate) fn tags(tags: Vec<TagIn>, max: usize) -> Result<Vec<(String, String)>, EciError> {
    if tags.len() > max {
        return Err(EciError::invalid("Tag", &format!("at most {max}")));
    }
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(tags.len());
    for tag in tags {
        if tag.key.is_empty() {
            return Err(EciError::missing("Tag.N.Key"));
        }
        if pairs.iter().any(|(key, _)| *key == tag.key) {
            return Err(EciError::invalid("Tag", &format!("the key {} is given twice", tag.key)));
        }
        pairs.push((tag.key, tag.value));
    }
    Ok(pairs)
}

impl CredentialIn {
    /// The same in the core's words.
    pub(crate) fn into_core(self) -> RegistryCredential {
        RegistryCredential { server: self.server, username: self.user_name, password: self.password, name: None }
    }
}
