//! Who asks, and which part of the world that is.

use meridian_model::{
    ids::{ProjectName, TenantId},
    time::Time,
};
use meridian_policies::access::{Permission, Permissions, Role};

use super::Refusal;

/// Whose objects a credential reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One tenant's; every other tenant's are not there.
    Tenant(TenantId),
    /// Every tenant's.
    Platform,
}

/// Who is calling, taken only from the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose objects it reaches.
    pub scope: Scope,
    /// Identifier of the credential, for logs and audit; never the secret.
    pub principal: String,
    /// Which of the principal's credentials it is, where it has a name.
    pub credential: Option<String>,
    /// Its role, for people; what it may do is in `permissions`.
    pub role: Role,
    /// The project that it is bound to: what it makes is in it or below. What it reads and deletes is the tenant's, which
    /// alone isolates.
    pub project: Option<ProjectName>,
    /// What it may do: its role's permissions, or fewer.
    pub permissions: Permissions,
    /// When it ends, if what it was granted has an end. A token's own end is none: it is proof anew of a grant that lasts.
    pub expires: Option<Time>,
}

impl Caller {
    /// A caller with all that its role gives.
    #[must_use]
    pub fn new(scope: Scope, principal: impl Into<String>, role: Role) -> Self {
        Self {
            scope,
            principal: principal.into(),
            credential: None,
            role,
            project: None,
            permissions: role.permissions(),
            expires: None,
        }
    }

    /// The tenant it belongs to; none for the platform.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        match &self.scope {
            Scope::Tenant(tenant) => Some(tenant),
            Scope::Platform => None,
        }
    }

    /// Its tenant's name, or what stands for the platform where a tenant's name would.
    #[must_use]
    pub fn scope_name(&self) -> &str {
        self.tenant().map_or(crate::directory::PLATFORM, TenantId::as_str)
    }

    /// Whether it may.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        permission == Permission::SelfRead || self.permissions.contains(permission)
    }
}

/// Which tenant's objects an action speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// The one of this name.
    Tenant(&'a TenantId),
    /// `-`: of all that the caller may see, where that is a list; else of its own.
    Any,
    /// No tenant's.
    Nowhere,
}

/// What an admitted action reaches: decided once, in `authorize`, and the only thing that the stages below go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// One tenant's objects.
    Tenant(TenantId),
    /// Every tenant's: a caller of the platform that named none.
    All,
}

impl Reach {
    /// The one tenant.
    ///
    /// # Errors
    /// All are meant, where one is needed.
    pub fn one(&self) -> Result<&TenantId, Refusal> {
        match self {
            Self::Tenant(tenant) => Ok(tenant),
            Self::All => Err(Refusal::new(
                meridian_model::error::ErrorCode::InvalidArgument,
                "this needs one tenant's name in the path; '-' stands for all tenants in lists",
            )),
        }
    }
}
