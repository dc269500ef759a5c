//! What a policy says, as it is written. Fields that do not exist are for the reader of the document to tell: it knows
//! where they stand.

use std::{collections::BTreeMap, fmt};

use meridian_model::{
    ids::{ProfileName, ProjectName, RegionId, TenantId},
    instance::{CapacityType, Labels, Strategy},
    quantity::Span,
};
use serde::{Deserialize, Deserializer, de};

use crate::expr::value::Constant;

/// The `spec` of a policy's document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySpec {
    /// What it is for.
    pub description: String,
    /// Whose requests it judges; absent where the document's place says it.
    pub scope: Option<Scope>,
    /// Which of them.
    #[serde(rename = "match")]
    pub matching: Match,
    /// Values that its rules read as `params.NAME`.
    pub params: BTreeMap<String, Param>,
    /// What must hold.
    pub rules: Vec<Rule>,
    /// What is filled in where a request says nothing.
    pub defaults: Defaults,
    /// What is set, whatever a request says.
    pub mutations: Mutations,
}

/// Whose requests a policy judges.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everybody's.
    Platform,
    /// One tenant's.
    Tenant(TenantId),
    /// Those of one of its projects and of the projects below.
    Project(TenantId, ProjectName),
}

impl Scope {
    /// The tenant, if it is one's.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Platform => None,
            Self::Tenant(tenant) | Self::Project(tenant, _) => Some(tenant),
        }
    }
}

impl Scope {
    /// The path of a policy of this scope. Policies of a tenant and of its projects have their names in common.
    #[must_use]
    pub fn path(&self, name: &ProfileName) -> String {
        self.tenant().map_or_else(|| format!("policies/{name}"), |tenant| format!("tenants/{tenant}/policies/{name}"))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform => f.write_str("platform"),
            Self::Tenant(tenant) => write!(f, "tenants/{tenant}"),
            Self::Project(tenant, project) => write!(f, "tenants/{tenant}/projects/{project}"),
        }
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Of {
            tenant: TenantId,
            project: Option<ProjectName>,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Scope;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`platform`, or `tenant` and perhaps `project`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scope, E> {
                match text {
                    "platform" => Ok(Scope::Platform),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Scope, A::Error> {
                let of = Of::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(match of.project {
                    Some(project) => Scope::Project(of.tenant, project),
                    None => Scope::Tenant(of.tenant),
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Which requests a policy judges.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// What is done.
    pub operations: Vec<Operation>,
    /// Only requests of which this holds, as they came. A fault counts as true.
    pub condition: Option<String>,
}

impl Default for Match {
    fn default() -> Self {
        Self { operations: vec![Operation::Create], condition: None }
    }
}

/// What is done with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// It is created.
    Create,
}

impl Operation {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
        }
    }
}

/// What happens when a rule does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// The request is denied.
    #[default]
    Enforce,
    /// The caller is warned.
    Warn,
    /// It is counted.
    Audit,
}

impl Mode {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Warn => "warn",
            Self::Audit => "audit",
        }
    }
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Stable code of its denials, unique in the policy: a DNS label.
    pub id: String,
    /// What must hold.
    pub expression: String,
    /// What the caller is told when it does not.
    #[serde(default)]
    pub message: Option<String>,
    /// The same, made of the request.
    #[serde(default)]
    pub message_expression: Option<String>,
    /// JSON pointer of the field that is at fault; `*` stands for the element that failed an `all`.
    #[serde(default)]
    pub pointer: Option<String>,
    /// How to mend it.
    #[serde(default)]
    pub hint: Option<String>,
    /// What happens when it does not hold.
    #[serde(default)]
    pub mode: Mode,
}

/// What is filled in where a request says nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Defaults {
    /// Labels that are not there.
    pub labels: Labels,
    /// Annotations that are not there.
    pub annotations: Labels,
    /// Network profile.
    pub network_profile: Option<ProfileName>,
    /// Image profile.
    pub image_profile: Option<ProfileName>,
    /// Strategy, where a request names neither strategy nor order.
    pub strategy: Option<Strategy>,
    /// Regions.
    pub regions: Vec<RegionId>,
    /// Longest time of an attempt.
    pub place_timeout: Option<Span>,
    /// Longest life, in seconds.
    pub active_deadline_seconds: Option<u32>,
    /// Time between stop signal and kill, in seconds.
    pub termination_grace_period_seconds: Option<u32>,
}

/// What is set, whatever a request says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mutations {
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// How capacity is bought.
    pub capacity_type: Option<CapacityType>,
    /// How candidates are ranked.
    pub strategy: Option<Strategy>,
    /// Prefixes of image references and what stands there instead; the first that fits.
    pub registries: Vec<Rewrite>,
    /// Upper bound of the life, in seconds: a request that asks for more, or names none, gets this.
    pub active_deadline_seconds_max: Option<u32>,
    /// Takes the wish for a public address away.
    pub remove_public_ip: bool,
}

/// A prefix of image references and what stands there instead.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rewrite {
    /// A registry, or a registry and a path.
    pub from: String,
    /// The same.
    pub to: String,
}

/// A value of `params`.
#[derive(Debug, Clone, PartialEq)]
pub struct Param(pub Constant);

impl<'de> Deserialize<'de> for Param {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParamVisitor).map(Self)
    }
}

struct ParamVisitor;

impl<'de> de::Visitor<'de> for ParamVisitor {
    type Value = Constant;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, a number, a string, or a list or map of one of them")
    }

    fn visit_bool<E>(self, b: bool) -> Result<Constant, E> {
        Ok(Constant::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Constant, E> {
        Ok(Constant::Int(n))
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Constant, E> {
        i64::try_from(n).map(Constant::Int).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))
    }

    fn visit_f64<E>(self, d: f64) -> Result<Constant, E> {
        Ok(Constant::Double(d))
    }

    fn visit_str<E>(self, text: &str) -> Result<Constant, E> {
        Ok(Constant::Text(text.into()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Constant, A::Error> {
        let mut list = Vec::new();
        while let Some(Param(item)) = seq.next_element()? {
            list.push(item);
        }
        checked(Constant::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Constant, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, Param(value))) = map.next_entry::<String, Param>()? {
            entries.insert(key, value);
        }
        checked(Constant::Map(entries))
    }
}

fn checked<E: de::Error>(constant: Constant) -> Result<Constant, E> {
    constant.type_of().map_err(E::custom)?;
    Ok(constant)
}
