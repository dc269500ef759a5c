//! Profiles: one name for what each region and vendor calls differently.

use std::collections::BTreeMap;

use meridian_model::ids::{BackendId, ProfileName, SubnetId, ZoneId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{reader::Section, sections::redact};

/// `[[networkProfiles]]`: one name for each backend's own network ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkProfile {
    /// Name that specs use.
    pub name: ProfileName,
    /// One entry per backend; backends left out cannot be used with this profile.
    pub backends: Vec<BackendNetwork>,
}

/// A network at one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendNetwork {
    /// Backend.
    pub backend: BackendId,
    /// VPC; may be left out where the vendor derives it from the subnet.
    pub vpc_id: String,
    /// Security groups.
    pub security_group_ids: Vec<String>,
    /// Subnet (vSwitch) by zone; zones left out are not used.
    pub subnets: BTreeMap<ZoneId, SubnetId>,
}

impl NetworkProfile {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name = s.required("name", "\"default\"");
        let backends: Vec<_> = s.sections("backends").into_iter().map(BackendNetwork::read).collect();
        s.finish();
        Some(Self { name: name?, backends: backends.into_iter().collect::<Option<_>>()? })
    }
}

impl BackendNetwork {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let backend = s.required("backend", "\"gz-main\"");
        let vpc_id = s.value("vpcId").unwrap_or_default();
        let security_group_ids = s.value("securityGroupIds").unwrap_or_default();
        let subnets = s.required("subnets", "{ \"ap-guangzhou-3\" = \"subnet-1\" }");
        s.finish();
        Some(Self { backend: backend?, vpc_id, security_group_ids, subnets: subnets? })
    }
}

/// `[[imageProfiles]]`: rewrites image names to registries near the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageProfile {
    /// Name that specs use.
    pub name: ProfileName,
    /// The first rule whose prefix matches is used.
    pub rules: Vec<ImageRule>,
}

/// One rewrite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRule {
    /// Prefix of the image name.
    pub from: String,
    /// What stands in its place.
    pub to: String,
    /// Backends it holds for; all when empty.
    pub backends: Vec<BackendId>,
}

impl ImageProfile {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name = s.required("name", "\"mirror\"");
        let rules: Vec<_> = s.sections("rules").into_iter().map(ImageRule::read).collect();
        s.finish();
        Some(Self { name: name?, rules: rules.into_iter().collect::<Option<_>>()? })
    }
}

impl ImageRule {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let from = s.required("from", "\"docker.io/\"");
        let to = s.required("to", "\"mirror.example/\"");
        let backends = s.value("backends").unwrap_or_default();
        s.finish();
        Some(Self { from: from?, to: to?, backends })
    }
}

/// `[[secretProfiles]]`: registry credentials that specs name but never see.
#[derive(Debug, Clone, Serialize)]
pub struct SecretProfile {
    /// Name that specs use in `imagePullSecrets`.
    pub name: ProfileName,
    /// Credentials.
    pub entries: Vec<SecretEntry>,
}

/// Credentials of one registry.
#[derive(Debug, Clone, Serialize)]
pub struct SecretEntry {
    /// Backends they are sent to; all when empty.
    pub backends: Vec<BackendId>,
    /// Registry host.
    pub server: String,
    /// User.
    pub username: String,
    /// Password.
    #[serde(serialize_with = "redact")]
    pub password: SecretString,
}

impl SecretProfile {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name = s.required("name", "\"registry\"");
        let entries: Vec<_> = s.sections("entries").into_iter().map(SecretEntry::read).collect();
        s.finish();
        Some(Self { name: name?, entries: entries.into_iter().collect::<Option<_>>()? })
    }
}

impl SecretEntry {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let backends = s.value("backends").unwrap_or_default();
        let server = s.required("server", "\"registry.example\"");
        let username = s.required("username", "\"robot\"");
        let password = s.secret("password", true);
        s.finish();
        Some(Self { backends, server: server?, username: username?, password: password? })
    }
}
