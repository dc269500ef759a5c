//! The admin listener: liveness, readiness, metrics, effective configuration, drain, who used the vendors' calls
//! (`GET /vendorBudgets`). It never shares a port with
//! the API. What needs a person is `operators`.

mod audited;
mod operators;

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use meridian_ledger::Standing;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    core::Core,
    http::Reply,
    regions::budget::attribution,
    server::{Handler, Peer},
    telemetry::{Metrics, OPENMETRICS},
};

/// A check of something the gateway needs; the text says what is wrong.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Says how something stands on which readiness does not depend; an error is what is wrong with it.
pub type Tell = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Whether the gateway should get requests.
#[derive(Default)]
pub struct Health {
    drain: CancellationToken,
    checks: Mutex<Vec<(&'static str, Check)>>,
    told: Mutex<Vec<(&'static str, Tell)>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("draining", &self.drain.is_cancelled()).finish_non_exhaustive()
    }
}

impl Health {
    /// Health of a gateway that ends when the token is cancelled.
    #[must_use]
    pub fn new(drain: CancellationToken) -> Arc<Self> {
        Arc::new(Self { drain, checks: Mutex::default(), told: Mutex::default() })
    }

    /// Adds a dependency without which the gateway is not ready. Checks are called on each request for
    /// readiness: they read a flag, they do not probe.
    pub fn depend_on(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.lock().push((name, Arc::new(check)));
    }

    /// Adds something whose state is shown and changes nothing: what all gateways share must not make all of them
    /// unready at once (RELIABILITY 2.9), and what only creates need must not take a gateway's reads away.
    pub fn tell(&self, name: &'static str, state: impl Fn() -> Result<String, String> + Send + Sync + 'static) {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((name, Arc::new(state)));
    }

    /// What is told beside the dependencies.
    #[must_use]
    pub fn told(&self) -> Vec<(&'static str, Result<String, String>)> {
        let told: Vec<(&'static str, Tell)> =
            self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        told.into_iter().map(|(name, state)| (name, state())).collect()
    }

    /// Every dependency with its state; a drain is one of them.
    #[must_use]
    pub fn report(&self) -> Vec<(&'static str, Result<(), String>)> {
        let draining = if self.drain.is_cancelled() { Err("draining".to_owned()) } else { Ok(()) };
        let checks: Vec<(&'static str, Check)> = self.lock().clone();
        std::iter::once(("drain", draining)).chain(checks.into_iter().map(|(name, check)| (name, check()))).collect()
    }

    /// Everything is well.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().iter().all(|(_, state)| state.is_ok())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, Check)>> {
        self.checks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The admin listener's answers.
#[derive(Clone)]
pub struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    config: Arc<Value>,
    core: Option<Arc<Core>>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admin")
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Reply::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn json_answer(status: StatusCode, value: &Value) -> Reply {
    answer(status, "application/json", value.to_string())
}

fn not_found() -> Reply {
    json_answer(StatusCode::NOT_FOUND, &json!({ "status": "not found" }))
}

impl Admin {
    /// An admin listener; `config` is [`crate::config::Config::redacted`].
    #[must_use]
    pub fn new(health: Arc<Health>, metrics: Arc<Metrics>, config: Value) -> Self {
        Self { health, metrics, config: Arc::new(config), core: None }
    }

    /// The same with what needs a person.
    #[must_use]
    pub fn over(self, core: Arc<Core>) -> Self {
        Self { core: Some(core), ..self }
    }

    fn ready(&self, verbose: bool) -> Reply {
        let report = self.health.report();
        let ready = report.iter().all(|(_, state)| state.is_ok());
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut body = json!({ "status": if ready { "ready" } else { "not ready" } });
        if verbose {
            let state = |s: &Result<(), String>| s.as_ref().map_or_else(Clone::clone, |()| "ok".to_owned());
            let told = self.health.told();
            let told = told.iter().map(|(name, state)| {
                let (Ok(text) | Err(text)) = state;
                json!({ "name": name, "ok": state.is_ok(), "state": text })
            });
            let rows: Vec<Value> = report
                .iter()
                .map(|(name, s)| json!({ "name": name, "ok": s.is_ok(), "state": state(s) }))
                .chain(told)
                .collect();
            if let Some(object) = body.as_object_mut() {
                object.insert("checks".to_owned(), Value::Array(rows));
                // Not a reason to send requests elsewhere: all gateways share it, and reads go on (RELIABILITY 2.9).
                if let Some(core) = &self.core {
                    let standing = match core.ledger.standing() {
                        Standing::Serving => "serving",
                        Standing::Unavailable => "unavailable",
                        Standing::Recovering => "recovering",
                    };
                    let age = core.driver.feed_age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                    let mut ledger = json!({ "standing": standing, "feedAgeMs": age });
                    let unread = Some(core.unread()).filter(|unread| !unread.is_empty());
                    if let Some(ledger) = ledger.as_object_mut() {
                        ledger.extend(core.ledger.trouble().map(|why| ("detail".to_owned(), why.into())));
                        // These tenants alone are refused; the others are served.
                        ledger.extend(unread.map(|unread| ("unreadTenants".to_owned(), json!(unread))));
                    }
                    object.insert("ledger".to_owned(), ledger);
                }
            }
        }
        json_answer(status, &body)
    }

    /// Answers what needs nothing but this process; `None` for any other path.
    fn route(&self, request: &Request<Incoming>, peer: &Peer) -> Option<Reply> {
        let verbose =
            request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "verbose" || p == "verbose=true"));
        Some(match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => json_answer(StatusCode::OK, &json!({ "status": "ok" })),
            (&Method::GET, "/readyz") => self.ready(verbose),
            (&Method::GET, "/metrics") => answer(StatusCode::OK, OPENMETRICS, self.metrics.render()),
            (&Method::GET, "/config") => json_answer(StatusCode::OK, &self.config),
            (&Method::GET, "/directory") => match &self.core {
                Some(core) => json_answer(StatusCode::OK, &directory(core)),
                None => return None,
            },
            (&Method::POST, "/drain") => {
                tracing::info!("drain asked for on the admin listener");
                let status = StatusCode::ACCEPTED;
                if let Some(core) = &self.core {
                    audited::note_drain(core, peer, status.as_u16());
                }
                self.health.drain.cancel();
                json_answer(status, &json!({ "status": "draining" }))
            }
            (&Method::GET, "/vendorBudgets") => match &self.core {
                Some(core) => json_answer(StatusCode::OK, &attribution(&core.budget)),
                None => not_found(),
            },
            (_, "/livez" | "/readyz" | "/metrics" | "/config" | "/drain" | "/vendorBudgets" | "/directory") => {
                json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({ "status": "method not allowed" }))
            }
            _ => return None,
        })
    }
}

/// What is in force of tenants, and what is wrong with their folder.
fn directory(core: &Core) -> Value {
    let snapshot = core.directory.load();
    let broken = core.sources.watcher.as_ref().and_then(|watcher| watcher.broken());
    json!({ "generation": snapshot.generation, "broken": broken, "declared": snapshot.shown() })
}

impl Handler for Admin {
    fn handle(
        &mut self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send + use<> {
        let own = self.route(&request, &peer);
        let core = self.core.clone();
        async move {
            match (own, core) {
                (Some(reply), _) => Ok(reply),
                (None, Some(core)) => Ok(operators::answer(&core, request, &peer).await.unwrap_or_else(not_found)),
                (None, None) => Ok(not_found()),
            }
        }
    }
}
