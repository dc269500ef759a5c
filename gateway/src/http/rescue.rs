//! The one place where a refusal, a failure or a panic becomes a response.

use std::{
    any::Any,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use http::HeaderName;
use meridian_model::error::ErrorCode;
use tower::{Layer, Service};

use super::{Exchange, LayerFuture, Meta, Reply};
use crate::{
    audit::Audit,
    clock::Entropy,
    operation::Refusal,
    refusal::Rejection,
    telemetry::{Metrics, RefusalLabels},
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `Retry-After` of a 503 that names none: spread over this many seconds, so that a crowd does not come back at once.
const RETRY_AFTER_SPREAD_S: u128 = 5;

/// Adds the headers of a tenant's rate limits.
pub(super) fn add_limits(reply: &mut Reply, limits: crate::refusal::LimitHeaders) {
    reply.headers_mut().insert(RATE_LIMIT_POLICY, limits.policy);
    reply.headers_mut().insert(RATE_LIMIT, limits.state);
}

/// Makes [`Rescue`].
#[derive(Debug, Clone)]
pub struct RescueLayer {
    metrics: Arc<Metrics>,
    entropy: Entropy,
    audit: Audit,
}

impl RescueLayer {
    /// A layer that counts refusals and panics, and strangers for the audit log.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, entropy: Entropy, audit: Audit) -> Self {
        Self { metrics, entropy, audit }
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
    layer: RescueLayer,
}

impl<S> Service<Exchange> for Rescue<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        let layer = self.layer.clone();
        let head = exchange.request.method() == http::Method::HEAD;
        let path = exchange.request.uri().path_and_query().cloned();
        let meta = exchange.meta.clone();
        // The layers below keep no state that a panic could leave half-changed: atomics and short critical
        // sections without calls. So going on after one is sound.
        let inner = catch_unwind(AssertUnwindSafe(|| self.inner.call(exchange)));
        Box::pin(async move {
            let outcome = match inner {
                Ok(inner) => AssertUnwindSafe(inner).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let rejection = match outcome {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(rejection)) => rejection,
                Err(panic) => {
                    layer.metrics.panics.inc();
                    Refusal::internal(format_args!("panic: {}", panic_text(panic.as_ref()))).into()
                }
            };
            let path = path.as_ref().map_or("", |p| p.path());
            let mut reply = layer.answer(rejection, &meta, path);
            if head {
                super::without_body(&mut reply);
            }
            Ok(reply)
        })
    }
}

impl RescueLayer {
    fn answer(&self, mut rejection: Rejection, meta: &Meta, path: &str) -> Reply {
        let code = rejection.code();
        self.metrics.refusals.get_or_create(&RefusalLabels { code: code.as_str() }).inc();
        log(&rejection);
        if code == ErrorCode::Unauthenticated {
            self.audit.unauthenticated(meta.peer.address.ip());
        }
        let problem = &mut rejection.refusal.problem;
        if code.status() == 503 && problem.retry_after_seconds.is_none() {
            let spread = u32::try_from(self.entropy.next() % RETRY_AFTER_SPREAD_S).unwrap_or(0);
            problem.retry_after_seconds = Some(1 + spread);
        }
        let mut reply = meta.dialect.encode_refusal(&rejection, &meta.request_id, path);
        if let Some(limits) = rejection.limits {
            add_limits(&mut reply, *limits);
        }
        reply
    }
}

/// Says once, where it is handled, what went wrong; the detail that is not for the caller stands only here.
fn log(rejection: &Rejection) {
    let problem = &rejection.refusal.problem;
    let internal = rejection.refusal.internal.as_deref().unwrap_or_default();
    if problem.code == ErrorCode::Internal {
        tracing::error!(error.r#type = problem.code.as_str(), internal, "request failed");
    } else if problem.code.status() >= 500 {
        tracing::warn!(error.r#type = problem.code.as_str(), detail = problem.detail, internal, "request failed");
    } else {
        tracing::debug!(error.r#type = problem.code.as_str(), detail = problem.detail, internal, "request refused");
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}
