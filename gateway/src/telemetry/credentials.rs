//! The metrics of the vendors' credentials, by backend.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::Metrics;

/// New credentials of a backend, by what became of them.
pub const CREDENTIALS: &str = "meridian_credentials";

/// Whether new credentials of a backend cannot be had, so that old ones are in use.
pub const CREDENTIALS_BROKEN: &str = "meridian_credentials_broken";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    backend: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct CredentialMetrics {
    outcomes: Family<OutcomeLabels, Counter>,
    broken: Family<BackendLabels, Gauge>,
}

impl CredentialMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|r| {
            let help = "New credentials of backends: replaced, or refused where the old ones stay in use";
            r.register(CREDENTIALS, help, own.outcomes.clone());
            let help = "1 while what a backend's credentials come from cannot be used and the old ones are in use";
            r.register(CREDENTIALS_BROKEN, help, own.broken.clone());
        });
        own
    }

    /// New credentials are in use.
    pub fn replaced(&self, backend: &str) {
        self.count(backend, "replaced");
        self.standing(backend, false);
    }

    /// New credentials cannot be had or used.
    pub fn refused(&self, backend: &str) {
        self.count(backend, "refused");
        self.standing(backend, true);
    }

    /// How those of a backend stand.
    pub fn standing(&self, backend: &str, is_broken: bool) {
        self.broken.get_or_create(&BackendLabels { backend: backend.to_owned() }).set(i64::from(is_broken));
    }

    fn count(&self, backend: &str, outcome: &'static str) {
        self.outcomes.get_or_create(&OutcomeLabels { backend: backend.to_owned(), outcome }).inc();
    }
}
