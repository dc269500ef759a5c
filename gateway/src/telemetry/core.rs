//! The metrics of everything behind the edge: calls to vendors, attempts, operations, pollers.

use std::{fmt, sync::Arc, time::Duration};

use meridian_policies::health::BreakerView;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    Metrics, budget::BudgetMetrics, credentials::CredentialMetrics, directory::DirectoryMetrics,
    identity::IdentityMetrics, policies::PolicyMetrics, reconcile::ReconcileMetrics,
};

/// Span of one call to a backend: `otel.kind=client`, `cloud.region`, `meridian.backend`, `meridian.verb`; at its end
/// `meridian.effect` (`applied`, `not-applied` or `unknown`) and `error.type`.
pub const REGION_CALL: &str = "region.call";

/// Span of one plan; its event carries `meridian.candidates` and `meridian.rejected`, which count zones.
pub const PLACEMENT_PLAN: &str = "placement.plan";

/// Span of an admission stage; its end carries `meridian.admission.verdict`.
pub const ADMISSION_AUTHORIZE: &str = "admission.authorize";

/// Span of the stage that takes the idempotency key.
pub const ADMISSION_CLAIM: &str = "admission.claim";

/// Span of one operation in the driver, from claim or take-over to its end.
pub const OPERATION: &str = "operation";

/// Upper bounds of the vendor-call buckets in seconds: from a loopback answer to the longest call allowed.
const CALL_BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the operation buckets in seconds: from a warm zone to several timed-out attempts.
const OPERATION_BUCKETS: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];

/// Labels of a vendor call. Backends and verbs are closed sets; the outcome is `ok` or the kind of fault.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    backend: String,
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    backend: String,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    backend: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BreakerLabels {
    backend: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SweepLabels {
    backend: String,
    outcome: &'static str,
}

/// The metrics behind the edge.
pub struct CoreMetrics {
    calls: Family<CallLabels, Counter>,
    call_duration: Family<VerbLabels, Histogram, fn() -> Histogram>,
    unexpected: Family<BackendLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    operations: Family<StateLabels, Counter>,
    operation_duration: Family<StateLabels, Histogram, fn() -> Histogram>,
    running: Gauge,
    breakers: Family<BreakerLabels, Gauge>,
    sweeps: Family<SweepLabels, Counter>,
    data_age: Family<BackendLabels, Gauge>,
    feed_age: Gauge,
    journal_unwritable: Gauge,
    limits_differ: Gauge,
    soft_budgets: Gauge,
    hard_budgets: Gauge,
    reclaims: Counter,
    /// Those of the vendors' credentials.
    pub credentials: CredentialMetrics,
    /// Those of the directory.
    pub directory: DirectoryMetrics,
    /// Those of issuers of tokens.
    pub identity: IdentityMetrics,
    /// Those of the reconciler.
    pub reconcile: ReconcileMetrics,
    /// Those of the vendors' budget.
    pub budget: BudgetMetrics,
    /// Those of policies.
    pub policies: PolicyMetrics,
}

impl fmt::Debug for CoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CoreMetrics")
    }
}

fn call_histogram() -> Histogram {
    Histogram::new(CALL_BUCKETS)
}

fn operation_histogram() -> Histogram {
    Histogram::new(OPERATION_BUCKETS)
}

impl CoreMetrics {
    /// Metrics in the given registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Arc<Self> {
        let core = Self {
            calls: Family::default(),
            call_duration: Family::new_with_constructor(call_histogram as fn() -> Histogram),
            unexpected: Family::default(),
            attempts: Family::default(),
            operations: Family::default(),
            operation_duration: Family::new_with_constructor(operation_histogram as fn() -> Histogram),
            running: Gauge::default(),
            breakers: Family::default(),
            sweeps: Family::default(),
            data_age: Family::default(),
            feed_age: Gauge::default(),
            journal_unwritable: Gauge::default(),
            limits_differ: Gauge::default(),
            soft_budgets: Gauge::default(),
            hard_budgets: Gauge::default(),
            reclaims: Counter::default(),
            credentials: CredentialMetrics::register(metrics),
            directory: DirectoryMetrics::register(metrics),
            identity: IdentityMetrics::register(metrics),
            reconcile: ReconcileMetrics::register(metrics),
            budget: BudgetMetrics::register(metrics),
            policies: PolicyMetrics::register(metrics),
        };
        metrics.register(|r| {
            r.register("meridian_vendor_calls", "Calls to backends by verb and outcome", core.calls.clone());
            r.register_with_unit(
                "meridian_vendor_call_duration",
                "Time of a call to a backend, with the wait for our own turn",
                Unit::Seconds,
                core.call_duration.clone(),
            );
            r.register(
                "meridian_vendor_unexpected",
                "Answers of a backend that no adapter knows; each is worth a look",
                core.unexpected.clone(),
            );
            r.register("meridian_attempts", "Attempts by backend and the state they came to", core.attempts.clone());
            r.register("meridian_operations", "Operations by the state they ended in", core.operations.clone());
            r.register_with_unit(
                "meridian_operation_duration",
                "Time from claim to end of a create",
                Unit::Seconds,
                core.operation_duration.clone(),
            );
            r.register("meridian_operations_running", "Operations under way in this process", core.running.clone());
            r.register("meridian_breaker_state", "0 closed, 1 half-open, 2 open", core.breakers.clone());
            r.register("meridian_sweeps", "Sweeps of a backend by outcome", core.sweeps.clone());
            r.register_with_unit(
                "meridian_data_age",
                "Age of the last complete sweep of a backend",
                Unit::Seconds,
                core.data_age.clone(),
            );
            r.register_with_unit(
                "meridian_feed_age",
                "Age of what is known of other gateways' writes; 0 when there are none",
                Unit::Seconds,
                core.feed_age.clone(),
            );
            r.register(
                "meridian_intent_journal_unwritable",
                "1 while this gateway takes no creates because its intent journal cannot be written",
                core.journal_unwritable.clone(),
            );
            core.register_quotas(r);
        });
        Arc::new(core)
    }

    /// Those of limits and budgets.
    fn register_quotas(&self, r: &mut Registry) {
        r.register(
            "meridian_quota_limits_differ",
            "Tenants whose limits in the ledger are not those of this gateway's configuration",
            self.limits_differ.clone(),
        );
        r.register(
            "meridian_quota_soft_budgets_passed",
            "Tenants and projects that have passed their soft budget of the month, as of the last minute",
            self.soft_budgets.clone(),
        );
        r.register(
            "meridian_quota_hard_budgets_reached",
            "Tenants and projects that have spent their hard budget of the month, as of the last minute",
            self.hard_budgets.clone(),
        );
        r.register(
            "meridian_quota_reclaims",
            "Instances removed because their project borrowed quota that another wanted back",
            self.reclaims.clone(),
        );
    }

    /// Metrics that nobody reads, for tests.
    #[must_use]
    pub fn detached() -> Arc<Self> {
        Self::register(&Metrics::new())
    }

    /// A call to a backend ended.
    pub fn call(&self, backend: &str, verb: &'static str, outcome: &'static str, took: Duration) {
        let backend = backend.to_owned();
        self.calls.get_or_create(&CallLabels { backend: backend.clone(), verb, outcome }).inc();
        self.call_duration.get_or_create(&VerbLabels { backend, verb }).observe(took.as_secs_f64());
    }

    /// A backend answered in a way that the adapter does not know.
    pub fn unexpected(&self, backend: &str) {
        self.unexpected.get_or_create(&BackendLabels { backend: backend.to_owned() }).inc();
    }

    /// An attempt came to a state.
    pub fn attempt(&self, backend: &str, state: &'static str) {
        self.attempts.get_or_create(&AttemptLabels { backend: backend.to_owned(), state }).inc();
    }

    /// A create ended.
    pub fn operation(&self, state: &'static str, took: Duration) {
        self.operations.get_or_create(&StateLabels { state }).inc();
        self.operation_duration.get_or_create(&StateLabels { state }).observe(took.as_secs_f64());
    }

    /// How many operations are under way.
    pub fn running(&self, operations: usize) {
        self.running.set(i64::try_from(operations).unwrap_or(i64::MAX));
    }

    /// The breakers of a backend.
    pub fn breakers(&self, backend: &str, reads: BreakerView, writes: BreakerView) {
        for (class, view) in [("read", reads), ("write", writes)] {
            let level = match view {
                BreakerView::Closed => 0,
                BreakerView::HalfOpen => 1,
                BreakerView::Open { .. } => 2,
            };
            self.breakers.get_or_create(&BreakerLabels { backend: backend.to_owned(), class }).set(level);
        }
    }

    /// A sweep of a backend ended.
    pub fn sweep(&self, backend: &str, outcome: &'static str) {
        self.sweeps.get_or_create(&SweepLabels { backend: backend.to_owned(), outcome }).inc();
    }

    /// The age of a backend's data.
    pub fn data_age(&self, backend: &str, age: Duration) {
        let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        self.data_age.get_or_create(&BackendLabels { backend: backend.to_owned() }).set(seconds);
    }

    /// The age of what is known of other gateways' writes.
    pub fn feed_age(&self, age: Duration) {
        self.feed_age.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// Whether the intent journal cannot be written.
    pub fn journal_unwritable(&self, is_so: bool) {
        self.journal_unwritable.set(i64::from(is_so));
    }

    /// How many nodes of quota trees have passed their soft budget, and how many have reached their hard one.
    pub fn budgets_passed(&self, soft: usize, hard: usize) {
        self.soft_budgets.set(i64::try_from(soft).unwrap_or(i64::MAX));
        self.hard_budgets.set(i64::try_from(hard).unwrap_or(i64::MAX));
    }

    /// An instance is removed for what it borrowed.
    pub fn reclaimed(&self) {
        self.reclaims.inc();
    }

    /// How many tenants have other limits in the ledger than in this gateway's configuration.
    pub fn limits_differ(&self, tenants: usize) {
        self.limits_differ.set(i64::try_from(tenants).unwrap_or(i64::MAX));
    }
}
