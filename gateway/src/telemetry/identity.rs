//! The metrics of issuers of tokens.

use std::fmt;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::Metrics;

/// Fetches of an issuer's keys.
pub const ISSUER_FETCHES: &str = "meridian_issuer_fetches";

/// Whether an issuer's tokens cannot be checked.
pub const ISSUER_UNUSABLE: &str = "meridian_issuer_unusable";

/// Issuers are those of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    outcome: &'static str,
}

/// See the module.
#[derive(Clone, Default)]
pub struct IdentityMetrics {
    fetches: Family<FetchLabels, Counter>,
    unusable: Family<IssuerLabels, Gauge>,
}

impl fmt::Debug for IdentityMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityMetrics")
    }
}

impl IdentityMetrics {
    /// Metrics in the given registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        metrics.register(|registry| {
            let help = "Fetches of the keys of an issuer of tokens, by outcome: fetched, failed";
            registry.register(ISSUER_FETCHES, help, all.fetches.clone());
            let help = "1 while the keys of an issuer are missing or too old, so that its tokens cannot be checked";
            registry.register(ISSUER_UNUSABLE, help, all.unusable.clone());
        });
        all
    }

    /// A fetch has ended.
    pub fn fetch(&self, issuer: &str, outcome: &'static str) {
        self.fetches.get_or_create(&FetchLabels { issuer: issuer.to_owned(), outcome }).inc();
    }

    /// Whether tokens cannot be checked.
    pub fn unusable(&self, issuer: &str, is_so: bool) {
        self.unusable.get_or_create(&IssuerLabels { issuer: issuer.to_owned() }).set(i64::from(is_so));
    }
}
