//! What was declared, from all sources together. Pure: no file is read and no clock asked here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use meridian_model::ids::TenantId;
use meridian_policies::rules::{RuleSet, SET_COST_MAX, Scope};

use super::{files::Broken, made::Made};
use crate::{
    config::{self, Config, quota::missing_project},
    policies::document::Policy,
};

/// Where something was declared, and so where it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The gateway's configuration.
    Config,
    /// A file of the folder.
    File {
        /// Its path.
        file: String,
        /// Line of the name, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Whoever looks after the platform, over the API.
    Api,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("the configuration"),
            Self::File { file, .. } => f.write_str(file),
            Self::Api => f.write_str(super::API),
        }
    }
}

/// What files declare, each with its place.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Tenants.
    pub tenants: Vec<(config::Tenant, Source)>,
    /// Policies.
    pub policies: Vec<(Arc<Policy>, Source)>,
}

/// Policies by path, each with the place that declares it.
pub type Policies = BTreeMap<Arc<str>, (Arc<Policy>, Source)>;

/// Everything a snapshot is made from.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Tenants, each with the place that declares it.
    pub tenants: BTreeMap<TenantId, (Arc<config::Tenant>, Source)>,
    /// Who looks after all of them.
    pub platform: config::Platform,
    /// What judges their creates.
    pub policies: Policies,
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
        Self { tenants, platform: config::Platform::default(), policies: Policies::new() }
    }

    /// The same with what files declare.
    ///
    /// # Errors
    /// Every name and every key that is declared twice, at its later place; projects of policies that their tenants do not
    /// have; and all policies together, if they cost too much.
    pub fn with_files(mut self, files: &Files) -> Result<Self, Broken> {
        let mut keys: BTreeSet<String> = self.platform.keys.iter().map(|key| key.id.clone()).collect();
        keys.extend(self.tenants.values().flat_map(|(tenant, _)| tenant.keys.iter().map(|key| key.id.clone())));
        let mut broken = Broken(Vec::new());
        let mut wrong = |source: &Source, what: String, mend: &str| {
            let (file, line, column) = match source {
                Source::File { file, line, column } => (file.as_str(), *line, *column),
                Source::Config | Source::Api => ("the configuration", 1, 1),
            };
            broken.0.extend(Broken::of(file, line, column, what, mend).0);
        };
        let mut twice = |source: &Source, what: String| wrong(source, what, "rename or remove one of the two");
        for (tenant, source) in &files.tenants {
            for key in tenant.keys.iter().filter(|key| !keys.insert(key.id.clone())) {
                twice(source, format!("the key `{}` of tenant `{}` is declared before", key.id, tenant.name));
            }
            match self.tenants.get(&tenant.name) {
                Some((_, before)) => twice(source, format!("tenant `{}` is declared in {before} too", tenant.name)),
                None => drop(self.tenants.insert(tenant.name.clone(), (Arc::new(tenant.clone()), source.clone()))),
            }
        }
        for (policy, source) in &files.policies {
            let path = policy.compiled.path();
            match self.policies.get(path) {
                Some((_, before)) => twice(source, format!("{path} is declared in {before} too")),
                None => drop(self.policies.insert(Arc::clone(path), (Arc::clone(policy), source.clone()))),
            }
        }
        for (policy, source) in &files.policies {
            if let Some((what, mend)) = self.unknown_project(policy.compiled.scope()) {
                wrong(source, what, &mend);
            }
        }
        let cost = self.rules().cost_max(None);
        if let Some((_, source)) = files.policies.first().filter(|_| cost > SET_COST_MAX) {
            let what =
                format!("all rules of one request may cost {cost} units together, and {SET_COST_MAX} is the most");
            wrong(source, what, "delete rules, or loop over less in them");
        }
        if broken.0.is_empty() { Ok(self) } else { Err(broken) }
    }

    /// What is wrong with a scope that names a project which its tenant, if it is known, does not have, and the cure.
    pub(crate) fn unknown_project(&self, scope: &Scope) -> Option<(String, String)> {
        let Scope::Project(tenant, project) = scope else { return None };
        let (settings, _) = self.tenants.get(tenant)?;
        let mend = missing_project(&settings.projects, project)?;
        Some((format!("tenant {tenant} has no project {project}"), mend))
    }

    /// The policies as they judge together.
    #[must_use]
    pub fn rules(&self) -> RuleSet {
        RuleSet::of(self.policies.values().map(|(policy, _)| Arc::clone(&policy.compiled)))
    }

    /// The same with what the API declares. What stands in the configuration or in files takes its place.
    #[must_use]
    pub(crate) fn with_made(mut self, made: &Made) -> Self {
        for (name, (tenant, _)) in &made.tenants {
            match self.tenants.get(name) {
                Some((_, source)) => tracing::warn!(tenant = %name, %source, "a tenant made by the API is hidden"),
                None => drop(self.tenants.insert(name.clone(), (Arc::clone(tenant), Source::Api))),
            }
        }
        for (path, (policy, _)) in made.policies.iter() {
            match self.policies.get(path.as_str()) {
                Some((_, source)) => tracing::warn!(policy = path, %source, "a policy made by the API is hidden"),
                None => {
                    let declared = (Arc::clone(policy), Source::Api);
                    self.policies.insert(Arc::clone(policy.compiled.path()), declared);
                }
            }
        }
        self
    }
}
