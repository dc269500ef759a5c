//! The metrics of the reconciler.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::Metrics;

/// The classes are a closed set; see `journal::reconcile::Class`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    backend: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

/// The metrics of the reconciler.
#[derive(Debug, Default)]
pub struct ReconcileMetrics {
    strays: Family<ClassLabels, Gauge>,
    removals: Family<ClassLabels, Counter>,
    lost: Family<BackendLabels, Counter>,
    violations: Family<BackendLabels, Counter>,
}

impl ReconcileMetrics {
    /// Metrics in the given registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|r| {
            r.register(
                "meridian_orphans",
                "Instances under our names that no operation has, and adopted ones not shown, by class",
                own.strays.clone(),
            );
            r.register(
                "meridian_reconcile_removals",
                "Instances that the reconciler began to remove, by class",
                own.removals.clone(),
            );
            r.register(
                "meridian_lost",
                "Adopted instances that were proven gone without a delete of ours",
                own.lost.clone(),
            );
            r.register(
                "meridian_r1_violations",
                "Second instances of one operation; must stay 0, page somebody",
                own.violations.clone(),
            );
        });
        own
    }

    /// How many instances of a class a backend has.
    pub fn strays(&self, backend: &str, class: &'static str, count: usize) {
        let labels = ClassLabels { backend: backend.to_owned(), class };
        self.strays.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The removal of an instance began.
    pub fn removal(&self, backend: &str, class: &'static str) {
        self.removals.get_or_create(&ClassLabels { backend: backend.to_owned(), class }).inc();
    }

    /// An adopted instance was proven gone.
    pub fn lost(&self, backend: &str) {
        self.lost.get_or_create(&BackendLabels { backend: backend.to_owned() }).inc();
    }

    /// Second instances of an operation were found.
    pub fn violations(&self, backend: &str, count: u32) {
        self.violations.get_or_create(&BackendLabels { backend: backend.to_owned() }).inc_by(u64::from(count));
    }
}
