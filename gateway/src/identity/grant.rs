//! What a proven identity may act as: the first grant whose conditions it meets, or nothing.
//!
//! An issuer says who somebody is; which tenant and role that means is the operator's word alone. No claim is ever taken
//! for a tenant's name by itself.

use meridian_model::ids::{ProjectName, TenantId};
use meridian_policies::access::Role;
use serde::Serialize;
use serde_json::{Map, Value};

use super::spiffe::{Pattern, SpiffeId};

/// What an identity acts as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// The tenant; none for the platform's roles, which belong to no tenant.
    pub tenant: Option<TenantId>,
    /// The role.
    pub role: Role,
    /// The project that it is bound to.
    pub project: Option<ProjectName>,
}

/// A claim that has to have a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Name of a claim, or a JSON pointer into the claims when it begins with `/`.
    pub claim: String,
    /// What it has to be, or what has to be among what it lists.
    pub value: String,
}

/// A grant to tokens that meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimGrant {
    /// At least one.
    pub conditions: Vec<Condition>,
    /// What is granted.
    pub grant: Grant,
}

impl ClaimGrant {
    /// Whether the claims meet all conditions.
    #[must_use]
    pub fn is_met(&self, claims: &Map<String, Value>) -> bool {
        !self.conditions.is_empty() && self.conditions.iter().all(|condition| condition.is_met(claims))
    }
}

impl Condition {
    fn is_met(&self, claims: &Map<String, Value>) -> bool {
        let is = |value: &Value| match value {
            Value::String(text) => *text == self.value,
            Value::Bool(truth) => truth.to_string() == self.value,
            Value::Number(number) => number.to_string() == self.value,
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        match claim(claims, &self.claim) {
            Some(Value::Array(some)) => some.iter().any(is),
            Some(one) => is(one),
            None => false,
        }
    }
}

/// A claim by name, or by JSON pointer (RFC 6901).
#[must_use]
pub fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    let Some(pointer) = name.strip_prefix('/') else { return claims.get(name) };
    let (first, rest) = pointer.find('/').map_or((pointer, ""), |at| pointer.split_at(at));
    let first = first.replace("~1", "/").replace("~0", "~");
    claims.get(&first)?.pointer(rest)
}

/// A grant to certificates of matching SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeGrant {
    /// Which IDs.
    pub id: Pattern,
    /// What is granted.
    pub grant: Grant,
}

/// The first grant to an ID.
#[must_use]
pub fn of_spiffe<'g>(grants: &'g [SpiffeGrant], id: &SpiffeId) -> Option<&'g Grant> {
    grants.iter().find(|grant| grant.id.matches(id)).map(|grant| &grant.grant)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(conditions: &[(&str, &str)]) -> ClaimGrant {
        let of = |(claim, value): &(&str, &str)| Condition { claim: (*claim).into(), value: (*value).into() };
        let grant = Grant { tenant: Some(TenantId::new("acme").unwrap()), role: Role::Operator, project: None };
        ClaimGrant { conditions: conditions.iter().map(of).collect(), grant }
    }

    #[test]
    fn all_conditions_have_to_be_met() {
        let claims = json!({
            "sub": "u1", "groups": ["dev", "acme-ops"], "verified": true, "level": 3, "none": null,
            "kubernetes.io": {"namespace": "ci", "a/b": {"~": "x"}}, "roles": {"acme": "ops"}
        });
        let claims = claims.as_object().unwrap();
        for (conditions, met) in [
            (&[("sub", "u1")][..], true),
            (&[("sub", "u")], false),
            (&[("groups", "acme-ops")], true),
            (&[("groups", "acme")], false),
            (&[("groups", "acme-ops"), ("sub", "u2")], false),
            (&[("verified", "true"), ("level", "3")], true),
            (&[("none", "null")], false),
            (&[("roles", "acme")], false),
            (&[("/kubernetes.io/namespace", "ci")], true),
            (&[("/kubernetes.io/a~1b/~0", "x")], true),
            (&[("/kubernetes.io", "ci")], false),
            (&[("/nothing/at/all", "")], false),
            (&[("missing", "")], false),
            (&[], false),
        ] {
            assert_eq!(grant(conditions).is_met(claims), met, "{conditions:?}");
        }
    }

    #[test]
    fn the_first_grant_counts() {
        let of = |id: &str, role| {
            let grant = Grant { tenant: Some(TenantId::new("acme").unwrap()), role, project: None };
            SpiffeGrant { id: Pattern::parse(id).unwrap(), grant }
        };
        let grants = [of("spiffe://a/ci/root", Role::Admin), of("spiffe://a/ci/*", Role::Viewer)];
        let role = |id| of_spiffe(&grants, &SpiffeId::parse(id).unwrap()).map(|grant| grant.role);
        assert_eq!(role("spiffe://a/ci/root"), Some(Role::Admin));
        assert_eq!(role("spiffe://a/ci/x"), Some(Role::Viewer));
        assert_eq!(role("spiffe://b/ci/x"), None);
    }
}
