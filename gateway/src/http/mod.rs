//! The HTTP stack: from a request on a connection to the operation stack and back.
//!
//! [`Http::serve`] is stage 0: it picks the dialect and the route. The layers below it are one list in admission
//! order ([`Http::build`]); a snapshot test prints it. Every layer is always ready and decides in `call`, so the
//! stack is never cloned per request; nothing in it queues. What a layer refuses travels up as a [`Rejection`] and
//! becomes a response in [`rescue`], in the words of the route's dialect.

pub mod audit;
pub mod authenticate;
pub mod deadline;
pub mod decode;
pub mod drawn;
pub mod rate_limit;
pub mod rescue;
pub mod shed;
pub mod trace;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Service as _, util::BoxCloneSyncService};

use crate::{
    audit::Audit,
    clock::{Clock, Entropy},
    config::Config,
    dialects::{self, Dialect, Route},
    directory::{Directory, keys::Identity},
    identity::Identities,
    operation::{Caller, OperationService},
    refusal::Rejection,
    server::Peer,
    telemetry::Metrics,
};

/// A response; every body of ours is in memory.
pub type Reply = Response<Full<Bytes>>;

/// What a layer below [`rescue`] returns.
pub type LayerFuture = Pin<Box<dyn Future<Output = Result<Reply, Rejection>> + Send>>;

/// A request in the stack, with what the layers found out about it.
#[derive(Debug)]
pub struct Exchange {
    /// The request.
    pub request: Request<Incoming>,
    /// What is known of it.
    pub meta: Meta,
}

/// What the stack knows of a request. Cheap to clone: the layer that turns a refusal into a response keeps one.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Where it came from.
    pub peer: Peer,
    /// The dialect it is spoken in.
    pub dialect: Arc<dyn Dialect>,
    /// Its route.
    pub route: Route,
    /// When its headers were complete.
    pub started: Instant,
    /// When its answer is due; set by [`deadline`].
    pub deadline: Instant,
    /// Its identifier; set by [`trace`].
    pub request_id: Arc<str>,
    /// Who sent it; set by [`authenticate`], absent on public routes.
    pub identity: Option<Identity>,
    /// Set once a mutation was handed to the operation stack.
    pub handed_on: Option<Arc<AtomicBool>>,
    /// What the audit log will say of it; set by [`audit`] for what changes something.
    pub note: Option<Arc<audit::Note>>,
}

impl Meta {
    /// Who sent it.
    ///
    /// # Errors
    /// A fault of ours: the route needs an identity and none was set.
    pub fn caller(&self) -> Result<&Arc<Caller>, Rejection> {
        match &self.identity {
            Some(identity) => Ok(&identity.caller),
            None => Err(crate::operation::Refusal::internal("a route that needs a caller has none").into()),
        }
    }
}

/// Writes a stack as one list, top first, and keeps the names of its layers in the same order.
///
/// The result is `(service, names)`. The list is the only place where the order stands, so the names that the
/// snapshot test prints cannot differ from what runs.
macro_rules! stack {
    ($($name:literal => $layer:expr,)+ ; $bottom:literal => $service:expr) => {{
        let builder = tower::ServiceBuilder::new();
        $(let builder = builder.layer($layer);)+
        (builder.service($service), &[$($name,)+ $bottom] as &'static [&'static str])
    }};
}

/// Leaves of an answer to HEAD what an answer to GET would have had, but the body.
pub(crate) fn without_body(reply: &mut Reply) {
    let body = std::mem::take(reply.body_mut());
    if let Some(len) = hyper::body::Body::size_hint(&body).exact().filter(|len| *len > 0) {
        reply.headers_mut().insert(http::header::CONTENT_LENGTH, http::HeaderValue::from(len));
    }
}

/// What the HTTP stack is built from.
#[derive(Debug)]
pub struct Parts {
    /// The operation stack.
    pub operations: OperationService,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Wall clock.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// Health, for `/readyz`.
    pub health: Arc<crate::admin::Health>,
    /// Who there is.
    pub directory: Arc<Directory>,
    /// Whose word is taken for who is calling.
    pub identities: Arc<Identities>,
    /// Records who changed what.
    pub audit: Audit,
}

/// The HTTP stack, its type hidden.
#[derive(Debug, Clone)]
pub struct Http {
    stack: BoxCloneSyncService<Exchange, Reply, Infallible>,
    dialects: dialects::Dialects,
    order: &'static [&'static str],
}

impl Http {
    /// Builds the stack for a configuration.
    #[must_use]
    pub fn build(config: &Config, parts: Parts) -> Self {
        let Parts { operations, metrics, clock, entropy, health, directory, identities, audit } = parts;
        let limits = &config.server.limits;
        let dialects = dialects::Dialects::new(config, &clock, health);
        let shed = shed::ShedLayer::new(limits.in_flight_max, Arc::clone(&metrics));
        let fair = shed.fair();
        let (service, order) = stack! {
            // First of all, so that even a refused request has an identifier, a span and a place in the metrics.
            "trace" => trace::TraceLayer::new(Arc::clone(&metrics), clock.clone(), entropy.clone()),
            // Right below it: the one place that turns a refusal, a failure or a panic of anything under it into
            // a response.
            "rescue" => rescue::RescueLayer::new(Arc::clone(&metrics), entropy.clone(), audit.clone()),
            // Sees how everything below it ended, a panic and the end of the time included, and holds the answer back
            // until that is on the disk.
            "audit" => audit::AuditLayer::new(audit.clone(), &config.deployment.secret),
            // Costs nothing and comes before anything that costs: an overloaded gateway refuses fast.
            "shed" => shed,
            // From here on every stage has the time that is left.
            "deadline" => deadline::DeadlineLayer::new(limits.request_timeout.0, limits.request_timeout_max.0),
            // Identity before anything that is counted per tenant.
            "authenticate" => authenticate::AuthenticateLayer::new(directory, identities, audit.clone()),
            // As soon as it is known who asks, and before anything is done for what could not be recorded.
            "accountable" => audit::AccountableLayer::new(audit),
            // Under pressure whoever has more than its part goes first; costs nothing, so it comes before what is counted.
            "fair" => fair,
            // The tenant's share, before a byte of the body is read.
            "rate-limit" => rate_limit::RateLimitLayer::new(clock, entropy, metrics),
            ;
            // The last stage that knows HTTP.
            "decode" => decode::Decode::new(operations, limits)
        };
        Self { stack: BoxCloneSyncService::new(service), dialects, order }
    }

    /// Names of the stages in admission order.
    #[must_use]
    pub fn order(&self) -> &'static [&'static str] {
        self.order
    }

    /// Stage 0: picks the dialect and the route, then hands the request to the stack.
    pub fn serve(
        &mut self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send + use<> {
        let (dialect, route) = self.dialects.route(request.method(), request.uri().path());
        let started = Instant::now();
        let meta = Meta {
            peer,
            dialect,
            route,
            started,
            deadline: started,
            request_id: Arc::clone(&self.dialects.no_id),
            identity: None,
            handed_on: None,
            note: None,
        };
        // Every layer is always ready: see the module's text.
        self.stack.call(Exchange { request, meta })
    }
}
