//! The metrics of the directory of tenants.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// See the module.
#[derive(Debug, Default)]
pub struct DirectoryMetrics {
    reloads: Family<OutcomeLabels, Counter>,
    broken: Gauge,
}

impl DirectoryMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|r| {
            r.register(
                "meridian_directory_reloads",
                "Readings of the folder that declares tenants, by outcome: applied, unchanged, broken",
                own.reloads.clone(),
            );
            r.register(
                "meridian_directory_broken",
                "1 while that folder is broken and what was declared before is in force",
                own.broken.clone(),
            );
        });
        own
    }

    /// The folder was read.
    pub fn reload(&self, outcome: &'static str, is_broken: bool) {
        self.reloads.get_or_create(&OutcomeLabels { outcome }).inc();
        self.broken.set(i64::from(is_broken));
    }

    #[cfg(test)]
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get() == 1
    }
}
