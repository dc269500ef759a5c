//! API keys of the configuration and `[platform]`, whose keys reach every tenant.

use meridian_model::{
    ids::{ProfileName, ProjectName},
    time::Time,
};
use meridian_policies::access::{Permission, Permissions, Role};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Rate, SettingsMistake, reader::Section};

/// Length of a SHA-256 in hexadecimal.
const SHA256_HEX_LEN: usize = 64;

/// An API key: the gateway knows only the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// The key's public part.
    pub id: String,
    /// SHA-256 of the secret's text, in hexadecimal. Not a secret, but of no use to anyone who reads the
    /// effective configuration.
    #[serde(skip)]
    pub sha256: [u8; 32],
    /// What it is trusted with. Default `operator`: a key may work with instances, and hands out nothing to others.
    pub role: Role,
    /// What it makes is in this project or below it, and in this one where the request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The only permissions of the role that it has; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<Permission>>,
    /// When it ends; never when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

/// A time as TOML has it or as text.
struct Moment(Time);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Toml(toml::value::Datetime),
        }
        let text = match Either::deserialize(d)? {
            Either::Text(text) => text,
            Either::Toml(datetime) => datetime.to_string(),
        };
        Time::parse(&text).map(Self).map_err(|_| {
            serde::de::Error::custom("not a time of RFC 3339 with an offset, for example 2027-01-01T00:00:00Z")
        })
    }
}

impl<'de> Deserialize<'de> for ApiKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Given {
            id: ProfileName,
            sha256: String,
            role: Option<Role>,
            project: Option<ProjectName>,
            permissions: Option<Vec<Permission>>,
            expires: Option<Moment>,
        }
        let Given { id, sha256, role, project, permissions, expires } = Given::deserialize(d)?;
        let not_hex = || serde::de::Error::custom(format!("sha256: not {SHA256_HEX_LEN} hexadecimal digits"));
        Ok(Self {
            id: id.into(),
            sha256: parse_sha256(&sha256).ok_or_else(not_hex)?,
            role: role.unwrap_or(Role::Operator),
            project,
            permissions,
            expires: expires.map(|m| m.0),
        })
    }
}

impl ApiKey {
    /// A key of a tenant.
    pub(super) fn read(s: Section<'_, '_>) -> Option<Self> {
        Self::read_as(s, Some(Role::Operator))
    }

    /// A key of the platform, which says its role: nobody gets all tenants by leaving something out.
    fn read_of_platform(s: Section<'_, '_>) -> Option<Self> {
        Self::read_as(s, None)
    }

    fn read_as(mut s: Section<'_, '_>, default: Option<Role>) -> Option<Self> {
        let id = s.required::<ProfileName>("id", "\"k1\"").map(String::from);
        let text = s.required::<String>("sha256", "\"<64 hexadecimal digits>\"");
        let sha256 = text.as_deref().and_then(parse_sha256);
        if text.is_some() && sha256.is_none() {
            let what = format!("not {SHA256_HEX_LEN} hexadecimal digits");
            s.report.mistake(&s.at("sha256"), what, "print it with `printf %s SECRET | sha256sum`");
        }
        let role = match default {
            Some(default) if !s.has("role") => {
                s.value::<Role>("role");
                Some(default)
            }
            Some(_) => s.value("role"),
            None => s.required("role", "\"platform-viewer\""),
        };
        let project = if default.is_some() { s.value("project") } else { None };
        let permissions: Option<Vec<Permission>> = s.value("permissions");
        let expires = s.value::<Moment>("expires").map(|m| m.0);
        if let Some(role) = role {
            let given = permissions.as_deref().unwrap_or_default();
            for SettingsMistake { path, what, mend } in role_mistakes(role, default.is_none(), given) {
                s.report.mistake(&s.at(&path), what, mend);
            }
        }
        s.finish();
        Some(Self { id: id?, sha256: sha256?, role: role?, project, permissions, expires })
    }

    /// What it may do.
    #[must_use]
    pub fn effective(&self) -> Permissions {
        let all = self.role.permissions();
        match &self.permissions {
            None => all,
            Some(only) => all.and(only.iter().copied().collect()),
        }
    }
}

/// What is wrong with the role and the permissions of a key, with the path below it.
pub(crate) fn role_mistakes(role: Role, of_platform: bool, permissions: &[Permission]) -> Vec<SettingsMistake> {
    let mut mistakes = Vec::new();
    if role.is_platform() != of_platform {
        let (what, mend) = if of_platform {
            ("a role of a tenant", "use platform-viewer or platform-admin, or make it a key of a tenant")
        } else {
            ("a role of the platform", "use viewer, operator or admin, or move the key to [[platform.keys]]")
        };
        let what = format!("{role} is {what}");
        mistakes.push(SettingsMistake { path: "role".to_owned(), what, mend: mend.to_owned() });
    }
    for (i, permission) in permissions.iter().enumerate().filter(|(_, p)| !role.permissions().contains(**p)) {
        mistakes.push(SettingsMistake {
            path: format!("permissions[{i}]"),
            what: format!("the role {role} has no `{permission}`"),
            mend: format!("remove it, or raise the role: {} it", permission.roles_text()),
        });
    }
    mistakes
}

pub(crate) fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != SHA256_HEX_LEN || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// `[platform]`: who looks after all tenants.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Platform {
    /// Their API keys; none unless listed.
    pub keys: Vec<ApiKey>,
    /// Request rates of all of them together.
    pub rate: Rate,
}

impl Platform {
    pub(super) fn read(section: Option<Section<'_, '_>>) -> Option<Self> {
        let Some(mut s) = section else { return Some(Self::default()) };
        let keys: Vec<_> = s.sections("keys").into_iter().map(ApiKey::read_of_platform).collect();
        let rate = Rate::read(s.section("rate"));
        s.finish();
        Some(Self { keys: keys.into_iter().collect::<Option<_>>()?, rate })
    }
}
