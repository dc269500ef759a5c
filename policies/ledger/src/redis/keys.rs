//! Names of keys. The layout is in the table of the parent module.

use meridian_model::ids::TenantId;

/// Names the keys of one deployment.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// `KEYS[1]` of every script on a tenant; the others follow from it.
    pub(super) fn meta(&self, tenant: &TenantId) -> Vec<u8> {
        format!("{}{{t:{tenant}}}:meta", self.prefix).into_bytes()
    }

    /// A key that belongs to no tenant; all of them are in one slot.
    pub(super) fn common(&self, name: &str) -> Vec<u8> {
        format!("{}{{all}}:{name}", self.prefix).into_bytes()
    }

    /// The channel on which scripts name the tenant they wrote for.
    pub(super) fn channel(&self) -> String {
        format!("{}:changed", self.prefix)
    }
}
