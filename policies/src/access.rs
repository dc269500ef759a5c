//! Who may do what: roles, permissions, and the table between them.
//!
//! A tenant's roles are ordered (viewer, operator, admin), the platform's too, and each platform role may in every tenant
//! what its namesake may in one: so "a higher role may more" holds without exception, and a test holds it. A credential may
//! be narrowed to some of its role's permissions, never widened. What is not in the table is denied.
//!
//! Deliberately absent: tenants. Whose object it is, is decided before, and answered as if it were not there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares a closed set of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire and in files.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// What a credential is trusted with.
    Role {
        /// Reads what the tenant has.
        Viewer = "viewer",
        /// Also makes and removes instances.
        Operator = "operator",
        /// Also hands out the tenant's credentials.
        Admin = "admin",
        /// Reads what every tenant has, its credentials and who changed what among it.
        PlatformViewer = "platform-viewer",
        /// May do everything in every tenant, and make tenants.
        PlatformAdmin = "platform-admin",
    }
);

words!(
    /// What an action needs. Every action needs exactly one.
    Permission {
        /// Read and list instances, and why they are where they are.
        InstancesRead = "instances.read",
        /// Create an instance, or ask what a create would do.
        InstancesCreate = "instances.create",
        /// Delete an instance.
        InstancesDelete = "instances.delete",
        /// Read and list operations.
        OperationsRead = "operations.read",
        /// Read limits and usage.
        QuotasRead = "quotas.read",
        /// Read a tenant's settings.
        TenantsRead = "tenants.read",
        /// Read who changed what.
        AuditRead = "audit.read",
        /// Read a tenant's policies.
        PoliciesRead = "policies.read",
        /// Make, change and remove a tenant's policies.
        PoliciesWrite = "policies.write",
        /// Read the platform's policies.
        PlatformPoliciesRead = "platformPolicies.read",
        /// Make, change and remove the platform's policies.
        PlatformPoliciesWrite = "platformPolicies.write",
        /// Ask what policies would change for requests that were made.
        PoliciesTest = "policies.test",
        /// Read regions, zones, adapters, sizes and prices.
        RegionsRead = "regions.read",
        /// Read which credentials a tenant has; never their secrets.
        KeysRead = "keys.read",
        /// Make, rotate and end a tenant's keys and service accounts.
        KeysWrite = "keys.write",
        /// Make, change and remove tenants.
        TenantsWrite = "tenants.write",
        /// Ask who one is: everybody may, however narrow the credential.
        SelfRead = "self.read",
    }
);

impl Permission {
    const fn bit(self) -> u64 {
        1 << (self as u32)
    }

    /// The lowest role of a tenant that has it, if any has.
    #[must_use]
    pub fn tenant_role(self) -> Option<Role> {
        [Role::Viewer, Role::Operator, Role::Admin].into_iter().find(|role| role.permissions().contains(self))
    }

    /// The roles that have it, for people: "operator or higher", "only platform-admin".
    #[must_use]
    pub fn roles_text(self) -> String {
        match self.tenant_role() {
            Some(Role::Admin) if Role::PlatformViewer.permissions().contains(self) => {
                "the roles admin, platform-viewer and platform-admin have".to_owned()
            }
            Some(Role::Admin) => "the role admin has".to_owned(),
            Some(role) => format!("the role {role} and higher ones have"),
            None if Role::PlatformViewer.permissions().contains(self) => {
                "only the roles platform-viewer and platform-admin have".to_owned()
            }
            None => "only the role platform-admin has".to_owned(),
        }
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u64);

impl Permissions {
    /// None at all.
    pub const NONE: Self = Self(0);

    /// Whether one is in it.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Those in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of it is in the other.
    #[must_use]
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |p| self.contains(*p))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

impl Role {
    /// Whether it is one of the platform's, which reach every tenant.
    #[must_use]
    pub const fn is_platform(self) -> bool {
        matches!(self, Self::PlatformViewer | Self::PlatformAdmin)
    }

    /// What it may do.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        Permission::ALL.iter().copied().filter(|permission| self.may(*permission)).collect()
    }

    /// The table. A new permission breaks this match on purpose.
    const fn may(self, permission: Permission) -> bool {
        use Permission as P;
        let least = match permission {
            P::InstancesRead
            | P::OperationsRead
            | P::QuotasRead
            | P::TenantsRead
            | P::PoliciesRead
            | P::PoliciesTest
            | P::RegionsRead
            | P::SelfRead => Self::Viewer,
            // It tells of everybody's doings, and of the addresses they came from.
            P::AuditRead => Self::Admin,
            P::InstancesCreate | P::InstancesDelete => Self::Operator,
            P::KeysRead | P::KeysWrite | P::PoliciesWrite => Self::Admin,
            P::PlatformPoliciesRead => Self::PlatformViewer,
            P::TenantsWrite | P::PlatformPoliciesWrite => Self::PlatformAdmin,
        };
        match (self, least) {
            // It looks after the platform as an auditor does: it may know of credentials and of who did what.
            (Self::PlatformViewer, _) if matches!(permission, P::AuditRead | P::KeysRead) => true,
            (Self::PlatformAdmin, _)
            | (Self::PlatformViewer, Self::PlatformViewer | Self::Viewer)
            | (Self::Admin, Self::Viewer | Self::Operator | Self::Admin)
            | (Self::Operator, Self::Viewer | Self::Operator)
            | (Self::Viewer, Self::Viewer) => true,
            (Self::PlatformViewer | Self::Admin | Self::Operator | Self::Viewer, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_permissions() -> impl Strategy<Value = Permissions> {
        proptest::collection::vec(proptest::sample::select(Permission::ALL), 0..8).prop_map(|p| p.into_iter().collect())
    }

    #[test]
    fn a_higher_role_may_all_that_a_lower_one_may() {
        for (lower, higher) in [
            (Role::Viewer, Role::Operator),
            (Role::Operator, Role::Admin),
            (Role::Viewer, Role::PlatformViewer),
            (Role::PlatformViewer, Role::PlatformAdmin),
            (Role::Admin, Role::PlatformAdmin),
        ] {
            let (less, more) = (lower.permissions(), higher.permissions());
            assert!(less.is_within(more), "{lower} may {less:?}, {higher} may {more:?}");
            assert!(less != more || lower == Role::Viewer, "{lower} and {higher} are the same");
        }
    }

    #[test]
    fn the_table() {
        let mut table = format!("{:<22}", "");
        Role::ALL.iter().for_each(|role| table += &format!(" {role}"));
        for permission in Permission::ALL {
            table += &format!("\n{permission:<22}");
            for role in Role::ALL {
                let may = if role.permissions().contains(*permission) { "x" } else { "" };
                table += &format!(" {may:<width$}", width = role.as_str().len());
            }
        }
        let table: Vec<&str> = table.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    proptest! {
        #[test]
        fn narrowing_never_widens(role in proptest::sample::select(Role::ALL), narrow in any_permissions()) {
            let left = role.permissions().and(narrow);
            prop_assert!(left.is_within(role.permissions()) && left.is_within(narrow));
            for permission in Permission::ALL {
                let both = role.permissions().contains(*permission) && narrow.contains(*permission);
                prop_assert_eq!(left.contains(*permission), both);
            }
            prop_assert_eq!(left.iter().collect::<Permissions>(), left);
        }
    }
}
