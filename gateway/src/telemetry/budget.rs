//! The metrics of the vendors' budget: by account, region, action and class, never by tenant.

use std::{fmt, time::Duration};

use meridian_policies::budget::Class;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Unit,
};

use super::Metrics;
use crate::regions::budget::LaneKey;

/// Calls that left for a vendor.
pub const CALLS: &str = "meridian_vendor_budget_calls";

/// Throttle answers.
pub const THROTTLES: &str = "meridian_vendor_budget_throttles";

/// Calls that were not sent.
pub const REFUSED: &str = "meridian_vendor_budget_refused";

/// Waits for a turn.
pub const WAIT: &str = "meridian_vendor_budget_wait";

/// Upper bounds of the buckets in seconds: from no wait at all to the longest.
const WAIT_BUCKETS: [f64; 14] = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 30.0];

/// Accounts, regions and actions are the configuration's and the adapters'; classes are a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    account: String,
    region: String,
    action: &'static str,
    class: &'static str,
}

impl ClassLabels {
    fn of(key: &LaneKey, class: Class) -> Self {
        let LaneKey { account, region, action } = key;
        Self { account: account.to_string(), region: region.to_string(), action, class: class.as_str() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    account: String,
    region: String,
    action: &'static str,
}

/// See the module.
#[derive(Clone)]
pub struct BudgetMetrics {
    calls: Family<ClassLabels, Counter>,
    refused: Family<ClassLabels, Counter>,
    throttles: Family<LaneLabels, Counter>,
    wait: Family<ClassLabels, Histogram, fn() -> Histogram>,
}

impl fmt::Debug for BudgetMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BudgetMetrics")
    }
}

fn wait_histogram() -> Histogram {
    Histogram::new(WAIT_BUCKETS)
}

impl BudgetMetrics {
    /// Metrics in the given registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let own = Self {
            calls: Family::default(),
            refused: Family::default(),
            throttles: Family::default(),
            wait: Family::new_with_constructor(wait_histogram as fn() -> Histogram),
        };
        metrics.register(|r| {
            r.register(CALLS, "Calls that left for a vendor, by what they were for", own.calls.clone());
            r.register(
                REFUSED,
                "Calls that were not sent because they would have waited too long",
                own.refused.clone(),
            );
            r.register(THROTTLES, "Throttle answers of a vendor", own.throttles.clone());
            r.register_with_unit(WAIT, "Wait of a call for its turn", Unit::Seconds, own.wait.clone());
        });
        own
    }

    /// A call left after a wait.
    pub fn left(&self, key: &LaneKey, class: Class, waited: Duration) {
        let labels = ClassLabels::of(key, class);
        self.calls.get_or_create(&labels).inc();
        self.wait.get_or_create(&labels).observe(waited.as_secs_f64());
    }

    /// A call was not sent.
    pub fn refused(&self, key: &LaneKey, class: Class) {
        self.refused.get_or_create(&ClassLabels::of(key, class)).inc();
    }

    /// The vendor throttled a call.
    pub fn throttled(&self, key: &LaneKey) {
        let LaneKey { account, region, action } = key;
        let labels = LaneLabels { account: account.to_string(), region: region.to_string(), action };
        self.throttles.get_or_create(&labels).inc();
    }
}
