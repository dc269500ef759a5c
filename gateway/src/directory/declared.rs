//! What was declared, from all sources together. Pure: no file is read and no clock asked here.

use std::{collections::BTreeMap, fmt, sync::Arc};

use meridian_model::ids::TenantId;

use crate::config::{self, Config};

/// Where something was declared, and so where it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The gateway's configuration.
    Config,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("the configuration"),
        }
    }
}

/// Everything a snapshot is made from.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Tenants, each with the place that declares it.
    pub tenants: BTreeMap<TenantId, (Arc<config::Tenant>, Source)>,
    /// Who looks after all of them.
    pub platform: config::Platform,
}

impl Declared {
    /// What the configuration declares. It is checked already: no name and no key is in it twice.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self { platform: config.platform.clone(), ..Self::tenants(config.tenants.iter().cloned()) }
    }

    /// These tenants, as the configuration would declare them, and nobody to look after them.
    #[must_use]
    pub fn tenants(tenants: impl IntoIterator<Item = config::Tenant>) -> Self {
        let tenants = tenants.into_iter().map(|t| (t.name.clone(), (Arc::new(t), Source::Config))).collect();
        Self { tenants, platform: config::Platform::default() }
    }
}
