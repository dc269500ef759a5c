//! Names of spans, fields and metrics, the metrics themselves, and the set-up of logging.
//!
//! Labels are closed sets: route templates, status codes, error codes. Never an instance, a request or a key.
//! Logs go to standard error; standard output belongs to the commands.

pub mod audit;
pub mod budget;
pub mod core;
pub mod credentials;
pub mod directory;
pub mod identity;
pub mod policies;
pub mod reconcile;
pub mod seldom;

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogFormat, Telemetry};

/// Content type of the OpenMetrics text format.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the request-duration buckets in seconds: from a cached read to the longest wait allowed.
const DURATION_BUCKETS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 120.0];

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `http.request.method`.
    pub method: &'static str,
    /// `http.route`.
    pub route: &'static str,
    /// `http.response.status_code`.
    pub code: u16,
}

/// Labels of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// `error.type`: the public error code.
    pub code: &'static str,
}

/// Labels of a rate limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    /// Name of the limit: the configuration's, not a tenant's.
    pub limit: String,
}

/// Labels of a closed connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabels {
    /// Why a connection was not served to its end.
    pub reason: &'static str,
}

/// Labels of a look at changed TLS files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `taken` or `refused`.
    pub outcome: &'static str,
}

/// The metrics of the edge; other parts register theirs through [`Metrics::register`].
pub struct Metrics {
    registry: Mutex<Registry>,
    /// `http_server_request_duration_seconds`.
    pub request_duration: Family<RequestLabels, Histogram, fn() -> Histogram>,
    /// `http_server_active_requests`.
    pub in_flight: Gauge,
    /// `meridian_refusals`: requests answered with a problem.
    pub refusals: Family<RefusalLabels, Counter>,
    /// `meridian_rate_limited`: requests refused by a rate limit.
    pub rate_limited: Family<LimitLabels, Counter>,
    /// `meridian_rate_shadowed`: requests that a limit in shadow would have refused.
    pub rate_shadowed: Family<LimitLabels, Counter>,
    /// `meridian_panics`: panics caught in a request; each is a bug.
    pub panics: Counter,
    /// `meridian_connections`: open connections.
    pub connections: Gauge,
    /// `meridian_connections_dropped`: connections refused or cut by a bound.
    pub connections_dropped: Family<ConnectionLabels, Counter>,
    /// `meridian_tls_reloads`: changed certificates on disk, taken or refused.
    pub tls_reloads: Family<ReloadLabels, Counter>,
}

impl Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn duration_histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

impl Metrics {
    /// Metrics in a registry of their own.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        let request_duration = Family::new_with_constructor(duration_histogram as fn() -> Histogram);
        let in_flight = Gauge::default();
        let refusals = Family::default();
        let rate_limited = Family::default();
        let rate_shadowed = Family::default();
        let panics = Counter::default();
        let connections = Gauge::default();
        let connections_dropped = Family::default();
        let tls_reloads = Family::default();
        registry.register_with_unit(
            "http_server_request_duration",
            "Time from the end of the request's headers to the start of the response",
            Unit::Seconds,
            request_duration.clone(),
        );
        registry.register("http_server_active_requests", "Requests in work", in_flight.clone());
        registry.register("meridian_refusals", "Requests answered with a problem", refusals.clone());
        registry.register("meridian_rate_limited", "Requests refused by a rate limit", rate_limited.clone());
        registry.register(
            "meridian_rate_shadowed",
            "Requests that a rate limit in shadow would have refused",
            rate_shadowed.clone(),
        );
        registry.register("meridian_panics", "Panics caught in requests", panics.clone());
        registry.register("meridian_connections", "Open connections", connections.clone());
        registry.register(
            "meridian_connections_dropped",
            "Connections refused or cut by a bound",
            connections_dropped.clone(),
        );
        registry.register("meridian_tls_reloads", "Changed TLS files that were taken or refused", tls_reloads.clone());
        Arc::new(Self {
            registry: Mutex::new(registry),
            request_duration,
            in_flight,
            refusals,
            rate_limited,
            rate_shadowed,
            panics,
            connections,
            connections_dropped,
            tls_reloads,
        })
    }

    /// Lets another part of the gateway register its metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail; a metric that cannot encode itself would show as an empty scrape.
        if encode(&mut text, &registry).is_err() {
            text.clear();
        }
        text
    }
}

/// Installs the process-wide subscriber: log lines to standard error. A second call does nothing.
///
/// # Errors
/// The filter is not one; [`crate::config::Config`] has checked its own.
pub fn init(settings: &Telemetry) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter: EnvFilter = settings.filter.parse()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // Tests may have installed one; the first stays.
    let _ = match settings.log_format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
    };
    Ok(())
}
