//! The metrics of the audit log.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// See the module.
pub struct AuditMetrics {
    records: Family<KindLabels, Counter>,
    unwritable: Gauge,
    lost: Counter,
    cut_short: Gauge,
}

impl fmt::Debug for AuditMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditMetrics")
    }
}

impl AuditMetrics {
    /// Metrics in the given registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Arc<Self> {
        let audit = Self {
            records: Family::default(),
            unwritable: Gauge::default(),
            lost: Counter::default(),
            cut_short: Gauge::default(),
        };
        metrics.register(|r| {
            r.register("meridian_audit_records", "Records added to the audit log, by kind", audit.records.clone());
            r.register(
                "meridian_audit_unwritable",
                "1 while this gateway changes nothing because its audit log cannot be written",
                audit.unwritable.clone(),
            );
            r.register(
                "meridian_audit_lost",
                "Records that the audit log only counts because its disk did not take them in time",
                audit.lost.clone(),
            );
            r.register(
                "meridian_audit_cut_short",
                "1 since other gateways showed a later head of this gateway's audit log than its files have",
                audit.cut_short.clone(),
            );
        });
        Arc::new(audit)
    }

    /// A record was added.
    pub fn record(&self, kind: &'static str) {
        self.records.get_or_create(&KindLabels { kind }).inc();
    }

    /// A record found no place.
    pub fn lost(&self) {
        self.lost.inc();
    }

    /// Others know more of the log than its files.
    pub fn cut_short(&self) {
        self.cut_short.set(1);
    }

    /// Whether the log cannot be written.
    pub fn unwritable(&self, is_so: bool) {
        self.unwritable.set(i64::from(is_so));
    }
}
