//! Checks that need more than one section: references by name, duplicates, addresses.

use std::collections::BTreeSet;

use meridian_policies::budget::WEIGHT_MAX;

use super::{CheckBackend, CheckFolder, Config, SettingsMistake, Store, Tenant, reader::Report};

/// Reports a name that is used twice, at its second use.
fn unique<'a>(report: &Report<'_>, what: &str, names: impl Iterator<Item = (String, &'a str)>) {
    let mut seen = BTreeSet::new();
    for (path, name) in names {
        if !seen.insert(name) {
            report.mistake(&path, format!("{what} `{name}` is declared twice"), "rename or remove one of them");
        }
    }
}

/// Reports a reference to a name that does not exist.
fn exists(report: &Report<'_>, path: &str, what: &str, name: &str, known: &BTreeSet<&str>) {
    if let Some(SettingsMistake { path, what, mend }) = missing(path.to_owned(), what, name, known) {
        report.mistake(&path, what, mend);
    }
}

fn missing(path: String, what: &str, name: &str, known: &BTreeSet<&str>) -> Option<SettingsMistake> {
    if known.contains(name) {
        return None;
    }
    let mend = match super::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("declare a {what} of that name; there is none yet"),
        None => format!("use one of: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
    };
    Some(SettingsMistake { path, what: format!("there is no {what} `{name}`"), mend })
}

/// Checks references between sections.
pub(super) fn references(config: &Config, report: &Report<'_>) {
    addresses(config, report);
    duplicates(config, report);
    profiles(config, report);
    tenants(config, report);
    super::identity::references(config, report);
    config.ledger.consistent(&config.driver, report);
}

fn addresses(config: &Config, report: &Report<'_>) {
    let server = &config.server;
    if server.listen == server.admin_listen && server.listen.port() != 0 {
        let mend = "give the admin listener a port of its own";
        report.mistake("server.adminListen", "the same address as server.listen", mend);
    }
    if config.backends.is_empty() {
        report.mistake("backends", "there is no backend", "add a [[backends]] with id, adapter, region and settings");
    }
    // Tenants may come from files, and by whoever looks after the platform.
    if config.tenants.is_empty() && config.directory.path.is_none() && config.platform.keys.is_empty() {
        let mend = "add a [[tenants]] with name and keys, a [directory], or a [[platform.keys]] to make them with";
        report.mistake("tenants", "there is no tenant", mend);
    }
}

fn duplicates(config: &Config, report: &Report<'_>) {
    let at = |list: &'static str, key: &'static str| move |i: usize| format!("{list}[{i}].{key}");
    let path = at("tenants", "name");
    unique(report, "tenant", config.tenants.iter().enumerate().map(|(i, t)| (path(i), t.name.as_str())));
    let path = at("backends", "id");
    unique(report, "backend", config.backends.iter().enumerate().map(|(i, b)| (path(i), b.id.as_str())));
    let path = at("networkProfiles", "name");
    let names = config.network_profiles.iter().enumerate().map(|(i, p)| (path(i), p.name.as_str()));
    unique(report, "network profile", names);
    let path = at("imageProfiles", "name");
    let names = config.image_profiles.iter().enumerate().map(|(i, p)| (path(i), p.name.as_str()));
    unique(report, "image profile", names);
    let path = at("secretProfiles", "name");
    let names = config.secret_profiles.iter().enumerate().map(|(i, p)| (path(i), p.name.as_str()));
    unique(report, "secret profile", names);
    let keys = config.tenants.iter().enumerate().flat_map(|(i, t)| {
        t.keys.iter().enumerate().map(move |(k, key)| (format!("tenants[{i}].keys[{k}].id"), key.id.as_str()))
    });
    let platform = config.platform.keys.iter().enumerate();
    let platform = platform.map(|(k, key)| (format!("platform.keys[{k}].id"), key.id.as_str()));
    unique(report, "key", keys.chain(platform));
}

fn profiles(config: &Config, report: &Report<'_>) {
    let backends: BTreeSet<&str> = config.backends.iter().map(|b| b.id.as_str()).collect();
    for (i, profile) in config.network_profiles.iter().enumerate() {
        let path = format!("networkProfiles[{i}].backends");
        if profile.backends.is_empty() {
            report.mistake(&path, "the profile names no backend", "add a [[networkProfiles.backends]]");
        }
        let names = profile.backends.iter().enumerate();
        unique(report, "network of", names.map(|(k, n)| (format!("{path}[{k}].backend"), n.backend.as_str())));
        for (k, network) in profile.backends.iter().enumerate() {
            exists(report, &format!("{path}[{k}].backend"), "backend", network.backend.as_str(), &backends);
            if network.subnets.is_empty() {
                let mend = "add a zone with its subnet, for example { \"ap-guangzhou-3\" = \"subnet-1\" }";
                report.mistake(&format!("{path}[{k}].subnets"), "there is no zone", mend);
            }
        }
    }
    for (i, profile) in config.image_profiles.iter().enumerate() {
        for (k, rule) in profile.rules.iter().enumerate() {
            for (n, backend) in rule.backends.iter().enumerate() {
                let path = format!("imageProfiles[{i}].rules[{k}].backends[{n}]");
                exists(report, &path, "backend", backend.as_str(), &backends);
            }
        }
    }
    for (i, profile) in config.secret_profiles.iter().enumerate() {
        for (k, entry) in profile.entries.iter().enumerate() {
            for (n, backend) in entry.backends.iter().enumerate() {
                let path = format!("secretProfiles[{i}].entries[{k}].backends[{n}]");
                exists(report, &path, "backend", backend.as_str(), &backends);
            }
        }
    }
}

fn tenants(config: &Config, report: &Report<'_>) {
    let known = Known::of(config);
    for (i, tenant) in config.tenants.iter().enumerate() {
        for SettingsMistake { path, what, mend } in known.mistakes(tenant) {
            report.mistake(&format!("tenants[{i}].{path}"), what, mend);
        }
    }
}

/// The names of a configuration that a tenant may refer to.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    networks: BTreeSet<String>,
    images: BTreeSet<String>,
    secrets: BTreeSet<String>,
    regions: BTreeSet<String>,
    adapters: BTreeSet<String>,
}

impl Known {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            networks: config.network_profiles.iter().map(|p| p.name.to_string()).collect(),
            images: config.image_profiles.iter().map(|p| p.name.to_string()).collect(),
            secrets: config.secret_profiles.iter().map(|p| p.name.to_string()).collect(),
            regions: config.backends.iter().map(|b| b.region.to_string()).collect(),
            adapters: config.backends.iter().map(|b| b.adapter.to_string()).collect(),
        }
    }

    /// Everything in a tenant's settings that refers to nothing, with its path below the tenant.
    pub(crate) fn mistakes(&self, tenant: &Tenant) -> Vec<SettingsMistake> {
        let mut mistakes = Vec::new();
        let mut all = |key: &str, what: &str, names: &mut dyn Iterator<Item = &str>, known: &BTreeSet<String>| {
            let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
            for (n, name) in names.enumerate() {
                mistakes.extend(missing(format!("{key}[{n}]"), what, name, &known));
            }
        };
        let t = tenant;
        let networks = &mut t.network_profiles.iter().map(AsRef::as_ref);
        all("networkProfiles", "network profile", networks, &self.networks);
        all("imageProfiles", "image profile", &mut t.image_profiles.iter().map(AsRef::as_ref), &self.images);
        all("secretProfiles", "secret profile", &mut t.secret_profiles.iter().map(AsRef::as_ref), &self.secrets);
        all("regions", "backend in region", &mut t.regions.iter().map(AsRef::as_ref), &self.regions);
        all("providers", "backend with adapter", &mut t.providers.iter().map(AsRef::as_ref), &self.adapters);
        if let Some(default) = &tenant.default_network_profile {
            let path = || "defaultNetworkProfile".to_owned();
            let known: BTreeSet<&str> = self.networks.iter().map(String::as_str).collect();
            mistakes.extend(missing(path(), "network profile", default.as_str(), &known));
            if !tenant.network_profiles.is_empty() && !tenant.network_profiles.contains(default) {
                let mend = format!("add `{default}` to networkProfiles, or choose one of them");
                let what = "not one of the tenant's networkProfiles".to_owned();
                mistakes.push(SettingsMistake { path: path(), what, mend });
            }
        }
        mistakes.extend(super::limits::mistakes(&tenant.limits));
        let projects: BTreeSet<&str> =
            tenant.projects.nodes.iter().filter_map(|node| node.name.as_ref()).map(AsRef::as_ref).collect();
        for (k, key) in tenant.keys.iter().enumerate() {
            let named = key.project.as_ref();
            mistakes.extend(
                named.and_then(|project| missing(format!("keys[{k}].project"), "project", project.as_str(), &projects)),
            );
        }
        if !(1..=WEIGHT_MAX).contains(&tenant.weight) {
            let what = format!("{} is outside 1 to {WEIGHT_MAX}", tenant.weight);
            let mend = "choose a number in that range; the default is 1".to_owned();
            mistakes.push(SettingsMistake { path: "weight".to_owned(), what, mend });
        }
        mistakes
    }
}

/// Lets the adapters check their backends.
pub(super) fn backends(config: &Config, report: &Report<'_>, check: CheckBackend<'_>) {
    for (i, backend) in config.backends.iter().enumerate() {
        // Without its credentials every adapter would say that they are missing.
        if report.has_mistake(&format!("backends[{i}].credentials")) {
            continue;
        }
        for mistake in check(backend) {
            report.mistake(&format!("backends[{i}].{}", mistake.path), mistake.what, mistake.mend);
        }
    }
}

/// Has the folders looked at that a gateway will write to.
pub(super) fn folders(config: &Config, report: &Report<'_>, check: CheckFolder<'_>) {
    if let Store::Redis(redis) = &config.ledger.store
        && let Err(why) = check(&redis.journal_dir)
    {
        report.mistake(
            "ledger.journalDir",
            format!("cannot be used: {why}"),
            "name a folder on a local disk with room that the gateway's user may write, or mend that one",
        );
    }
}
