//! Profiles: one name that stands for each region's own ids, so that a spec is portable.
//!
//! A network profile names VPC, subnets and security groups per backend; an image profile rewrites image names to
//! the registry near a backend; a secret profile holds registry credentials. Resolving is pure: configuration in,
//! vendor ids out.

use std::collections::{BTreeMap, BTreeSet};

use meridian_adapters::{AdapterError, RegistryCredential, ResolvedNetwork, ResolvedSpec};
use meridian_model::{
    error::{Effect, FaultKind},
    ids::{BackendId, ProfileName, ZoneId},
    instance::InstanceSpec,
};

use crate::config;

/// All profiles of the configuration.
#[derive(Debug, Default)]
pub struct Profiles {
    networks: BTreeMap<ProfileName, BTreeMap<BackendId, ResolvedNetwork>>,
    images: BTreeMap<ProfileName, Vec<config::ImageRule>>,
    secrets: BTreeMap<ProfileName, Vec<config::SecretEntry>>,
}

impl Profiles {
    /// Reads the profiles of a configuration.
    #[must_use]
    pub fn new(config: &config::Config) -> Self {
        let network = |n: &config::BackendNetwork| {
            let resolved = ResolvedNetwork {
                vpc_id: n.vpc_id.clone(),
                security_group_ids: n.security_group_ids.clone(),
                subnets: n.subnets.clone(),
            };
            (n.backend.clone(), resolved)
        };
        Self {
            networks: config
                .network_profiles
                .iter()
                .map(|p| (p.name.clone(), p.backends.iter().map(network).collect()))
                .collect(),
            images: config.image_profiles.iter().map(|p| (p.name.clone(), p.rules.clone())).collect(),
            secrets: config.secret_profiles.iter().map(|p| (p.name.clone(), p.entries.clone())).collect(),
        }
    }

    /// The network of a profile at a backend.
    #[must_use]
    pub fn network(&self, profile: &ProfileName, backend: &BackendId) -> Option<&ResolvedNetwork> {
        self.networks.get(profile)?.get(backend)
    }

    /// The network profiles with a subnet in a zone.
    #[must_use]
    pub fn networks_in(&self, backend: &BackendId, zone: &ZoneId) -> BTreeSet<ProfileName> {
        let reaches =
            |n: &BTreeMap<BackendId, ResolvedNetwork>| n.get(backend).is_some_and(|n| n.subnets.contains_key(zone));
        self.networks.iter().filter(|(_, n)| reaches(n)).map(|(name, _)| name.clone()).collect()
    }

    /// The image profiles; each resolves everywhere, by leaving names as they are where it has no rule.
    #[must_use]
    pub fn images(&self) -> BTreeSet<ProfileName> {
        self.images.keys().cloned().collect()
    }

    /// The secret profiles with an entry for a backend.
    #[must_use]
    pub fn secrets_at(&self, backend: &BackendId) -> BTreeSet<ProfileName> {
        let here = |e: &&config::SecretEntry| e.backends.is_empty() || e.backends.contains(backend);
        self.secrets
            .iter()
            .filter(|(_, entries)| entries.iter().any(|e| here(&e)))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Every zone that any network profile reaches at a backend.
    #[must_use]
    pub fn zones(&self, backend: &BackendId) -> BTreeSet<ZoneId> {
        self.networks.values().filter_map(|n| n.get(backend)).flat_map(|n| n.subnets.keys().cloned()).collect()
    }

    /// Which zone each subnet of a backend is in.
    #[must_use]
    pub fn subnet_zones(&self, backend: &BackendId) -> BTreeMap<String, String> {
        let networks = self.networks.values().filter_map(|n| n.get(backend));
        networks.flat_map(|n| n.subnets.iter().map(|(z, s)| (s.to_string(), z.to_string()))).collect()
    }

    /// The spec with every profile resolved for one backend.
    ///
    /// # Errors
    /// A profile has nothing for this backend: the wrong place, nothing was sent.
    pub fn resolve(&self, backend: &BackendId, spec: &InstanceSpec) -> Result<ResolvedSpec, AdapterError> {
        let missing = |what: &str, name: &ProfileName| {
            let text = format!("{what} profile {name} has nothing for backend {backend}");
            AdapterError::new(FaultKind::WrongPlace, Effect::NotApplied, "meridian.profile", text)
        };
        let mut spec = spec.clone();
        let network = match &spec.network.profile {
            Some(name) => self.network(name, backend).ok_or_else(|| missing("network", name))?.clone(),
            None => {
                let text = "no network profile was named and the tenant has no default";
                return Err(AdapterError::new(FaultKind::WrongPlace, Effect::NotApplied, "meridian.profile", text));
            }
        };
        let mut credentials = Vec::new();
        for secret in &spec.image_pull_secrets {
            let entries = self.secrets.get(&secret.name).ok_or_else(|| missing("secret", &secret.name))?;
            let here = entries.iter().filter(|e| e.backends.is_empty() || e.backends.contains(backend));
            credentials.extend(here.map(|e| RegistryCredential {
                server: e.server.clone(),
                username: e.username.clone(),
                password: e.password.clone(),
            }));
        }
        if let Some(name) = &spec.image_profile {
            let rules = self.images.get(name).ok_or_else(|| missing("image", name))?;
            let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut());
            for container in containers {
                container.image = rewrite(&container.image, rules, backend);
            }
        }
        Ok(ResolvedSpec { spec, network, credentials })
    }
}

/// The image with the longest matching prefix replaced; unchanged when none matches.
fn rewrite(image: &str, rules: &[config::ImageRule], backend: &BackendId) -> String {
    rules
        .iter()
        .filter(|r| r.backends.is_empty() || r.backends.contains(backend))
        .filter_map(|r| image.strip_prefix(r.from.as_str()).map(|rest| (r, rest)))
        .max_by_key(|(r, _)| (r.from.len(), !r.backends.is_empty()))
        .map_or_else(|| image.to_owned(), |(r, rest)| format!("{}{rest}", r.to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_for_the_backend_wins() {
        let [here, there] = ["here", "there"].map(|b| BackendId::new(b).unwrap());
        let rule = |from: &str, to: &str, backends: &[&BackendId]| config::ImageRule {
            from: from.to_owned(),
            to: to.to_owned(),
            backends: backends.iter().map(|b| (*b).clone()).collect(),
        };
        let rules = [
            rule("docker.io/", "mirror.example/", &[]),
            rule("docker.io/library/", "near.example/", &[&here]),
            rule("docker.io/library/", "far.example/", &[]),
        ];
        assert_eq!(rewrite("docker.io/library/nginx:1", &rules, &here), "near.example/nginx:1");
        assert_eq!(rewrite("docker.io/library/nginx:1", &rules, &there), "far.example/nginx:1");
        assert_eq!(rewrite("docker.io/x/y", &rules, &here), "mirror.example/x/y");
        assert_eq!(rewrite("quay.io/x", &rules, &here), "quay.io/x");
    }
}
