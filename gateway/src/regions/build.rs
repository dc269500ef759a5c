//! Makes the configured backends, with and without a gateway around them.

use std::sync::Arc;

use meridian_adapters::{
    http::HttpClient,
    registry::{self, ConfigError},
};
use meridian_model::capability::Capability;
use secrecy::ExposeSecret as _;

use super::{Backend, BackendParts, budget::Budget, market::PriceBook};
use crate::{
    clock::{Clock, Entropy},
    config::{self, Config},
    core::{BuildError, Deps},
    journal::identity::Deployment,
    profiles::Profiles,
    replicas::Replicas,
    secrets::rotate::{self, Build, Rotation, Slot},
    telemetry::core::CoreMetrics,
};

/// What backends take from outside the configuration.
pub(crate) struct Outside {
    clock: Clock,
    entropy: Entropy,
    metrics: Arc<CoreMetrics>,
    pub(crate) budget: Budget,
}

impl Outside {
    pub(crate) fn of(deps: &Deps, replicas: &Replicas) -> Self {
        let outside = Self::new(deps.clock.clone(), deps.entropy.clone(), Arc::clone(&deps.metrics));
        if deps.shared.is_shared() {
            outside.budget.share_among(replicas.clone(), Arc::clone(&deps.shared));
        }
        outside
    }

    fn new(clock: Clock, entropy: Entropy, metrics: Arc<CoreMetrics>) -> Self {
        let budget = Budget::new(metrics.budget.clone());
        Self { clock, entropy, metrics, budget }
    }
}

/// The configured backends, without a gateway around them.
///
/// # Errors
/// [`BuildError`].
pub fn backends_alone(config: &Config) -> Result<Vec<Arc<Backend>>, BuildError> {
    let deployment = Deployment::new(&config.deployment.id, config.deployment.secret.expose_secret().as_bytes());
    let http = HttpClient::new().map_err(|e| BuildError::Http(e.to_string()))?;
    let outside = Outside::new(Clock::system(), Entropy::system(), CoreMetrics::detached());
    backends(config, &Profiles::new(config), (&deployment, &http, &outside)).map(|(backends, _)| backends)
}

/// The configured backends, and what keeps their credentials up to date.
///
/// # Errors
/// [`BuildError::Backend`].
pub(crate) fn backends(
    config: &Config,
    profiles: &Profiles,
    parts: (&Deployment, &HttpClient, &Outside),
) -> Result<(Vec<Arc<Backend>>, Vec<Rotation>), BuildError> {
    let (mut backends, mut rotations) = (Vec::new(), Vec::new());
    for backend in &config.backends {
        let (backend, rotation) = build_backend(backend, config, profiles, parts)?;
        backends.push(Arc::new(backend));
        rotations.extend(rotation);
    }
    Ok((backends, rotations))
}

fn build_backend(
    backend: &config::Backend,
    config: &Config,
    profiles: &Profiles,
    (deployment, http, outside): (&Deployment, &HttpClient, &Outside),
) -> Result<(Backend, Option<Rotation>), BuildError> {
    let build = builder(backend, profiles, http);
    let boxed = build(backend.settings.clone())
        .map_err(|source| BuildError::Backend { backend: backend.id.clone(), source })?;
    let (slot, asked) = Slot::new(boxed.service);
    let rotation = Rotation::new(rotate::Parts {
        id: backend.id.clone(),
        sources: backend.sources.clone(),
        settings: backend.settings.clone(),
        build,
        capability: Arc::clone(&boxed.capability),
        slot: slot.clone(),
        asked,
        clock: outside.clock.clone(),
        entropy: outside.entropy.clone(),
        metrics: Arc::clone(&outside.metrics),
    });
    let backend = Backend::new(BackendParts {
        id: backend.id.clone(),
        adapter: backend.adapter.clone(),
        region: backend.region.clone(),
        priority: backend.priority,
        tenants: backend.tenants.iter().cloned().collect(),
        account: backend.account.clone(),
        calls_per_second: backend.calls_per_second,
        budget: outside.budget.clone(),
        price_book: backend.price_book.as_ref().map(PriceBook::from),
        zones: profiles.zones(&backend.id),
        capability: boxed.capability,
        actions: boxed.actions,
        slot,
        call_timeout: config.driver.call_timeout.0,
        read_timeout: config.status.call_timeout.0,
        deployment: deployment.clone(),
        clock: outside.clock.clone(),
        entropy: outside.entropy.clone(),
        metrics: Arc::clone(&outside.metrics),
    });
    Ok((backend, rotation))
}

/// Makes the adapter of a backend, of its settings and what the configuration says elsewhere already: the region and the
/// subnets' zones.
fn builder(backend: &config::Backend, profiles: &Profiles, http: &HttpClient) -> Build {
    let (adapter, region, http) = (backend.adapter.clone(), backend.region.to_string(), http.clone());
    let zones: toml::Table = profiles.subnet_zones(&backend.id).into_iter().map(|(s, z)| (s, z.into())).collect();
    Arc::new(move |mut settings| {
        settings.entry("region").or_insert_with(|| region.clone().into());
        if registry::subnets_tell_zones(adapter.as_str()) && !zones.is_empty() {
            settings.entry("subnetZones").or_insert_with(|| zones.clone().into());
        }
        registry::build(adapter.as_str(), settings, http.clone())
    })
}

/// Checks a backend's settings without opening a connection; for `meridian check`.
///
/// # Errors
/// The setting that cannot be used.
pub fn check_backend(backend: &config::Backend) -> Result<Arc<Capability>, ConfigError> {
    let http = HttpClient::new().map_err(|e| ConfigError::new("", e.to_string()))?;
    builder(backend, &Profiles::default(), &http)(backend.settings.clone()).map(|built| built.capability)
}
