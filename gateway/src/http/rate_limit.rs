//! Named rate limits of a tenant and its principals, before the body is read.
//!
//! The arithmetic is `meridian_policies::rate`; the buckets are in `rate_limit/limits.rs`. A gateway that has others beside it spends
//! from buckets that it shares with them (`http::drawn`), and asks them nothing while it holds tokens. Each tenant has
//! the limits `tenant` for every request and `create` for creates (`rate`), and those of `[[tenants.limits]]`. The headers
//! of draft-ietf-httpapi-ratelimit-headers-11 are on every response of an authenticated request and speak of the limit
//! that is closest to exhaustion.

mod limits;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use meridian_model::error::{ErrorCode, Problem};
use meridian_policies::rate::named::RouteClass;
use tower::{Layer, Service};

use self::limits::ceil_seconds;
pub use self::limits::{CREATE_LIMIT, Decided, TENANT_LIMIT, TenantLimits};
use super::{Exchange, LayerFuture, Reply};
use crate::{
    clock::{Clock, Entropy},
    dialects::Class,
    refusal::{LimitHeaders, Rejection},
    telemetry::{LimitLabels, Metrics},
};

/// A refused caller is asked to stay away for up to this part longer than needed, so that a crowd spreads.
const JITTER_DIVISOR: u32 = 5;

/// Makes [`RateLimit`].
#[derive(Debug, Clone)]
pub struct RateLimitLayer {
    clock: Clock,
    entropy: Entropy,
    metrics: Arc<Metrics>,
}

impl RateLimitLayer {
    /// A layer; the limits come with the caller's identity.
    #[must_use]
    pub fn new(clock: Clock, entropy: Entropy, metrics: Arc<Metrics>) -> Self {
        Self { clock, entropy, metrics }
    }

    fn refuse(&self, limit: Arc<str>, retry_after: Duration, headers: LimitHeaders) -> Rejection {
        self.metrics.rate_limited.get_or_create(&LimitLabels { limit: limit.to_string() }).inc();
        let seconds = ceil_seconds(retry_after).max(1);
        let spread = u128::from(seconds.div_ceil(JITTER_DIVISOR)) + 1;
        let jitter = u32::try_from(self.entropy.next() % spread).unwrap_or(0);
        let detail = format!("the limit \"{limit}\" of the tenant is exhausted");
        let problem = Problem::new(ErrorCode::RateLimited, detail).with_retry_after(seconds.saturating_add(jitter));
        let mut rejection = Rejection::from(problem);
        rejection.violated_policy = Some(limit);
        rejection.limits = Some(Box::new(headers));
        rejection
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct RateLimit<S> {
    inner: S,
    layer: RateLimitLayer,
}

impl<S> Service<Exchange> for RateLimit<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture> + Clone + Send + 'static,
{
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, exchange: Exchange) -> LayerFuture {
        let Some(identity) = &exchange.meta.identity else { return self.inner.call(exchange) };
        let Some(class) = counted(exchange.meta.route.class) else { return self.inner.call(exchange) };
        let (limits, now) = (Arc::clone(&identity.limits), self.layer.clock.now());
        if let Some(decided) = limits.take_now(class, &identity.caller.principal, now) {
            let layer = self.layer.clone();
            return answer(&layer, &limits, decided, |exchange| self.inner.call(exchange), exchange);
        }
        let (layer, caller) = (self.layer.clone(), Arc::clone(&identity.caller));
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let decided = limits.take(class, &caller.principal, now).await;
            answer(&layer, &limits, decided, |exchange| ready.call(exchange), exchange).await
        })
    }
}

/// The class by which limits count a route; none for routes that they do not.
const fn counted(class: Class) -> Option<RouteClass> {
    match class {
        Class::Public => None,
        Class::Read => Some(RouteClass::Read),
        Class::List => Some(RouteClass::List),
        Class::Create => Some(RouteClass::Create),
        Class::Delete => Some(RouteClass::Delete),
        Class::Change => Some(RouteClass::Admin),
    }
}

/// Refuses, or serves and adds the headers.
fn answer(
    layer: &RateLimitLayer,
    limits: &TenantLimits,
    Decided { headers, refused, shadowed }: Decided,
    serve: impl FnOnce(Exchange) -> LayerFuture,
    exchange: Exchange,
) -> LayerFuture {
    for limit in limits.names(shadowed) {
        layer.metrics.rate_shadowed.get_or_create(&LimitLabels { limit: limit.to_owned() }).inc();
    }
    if let Some((limit, retry_after)) = refused {
        let refused = layer.refuse(limit, retry_after, headers);
        return Box::pin(std::future::ready(Err(refused)));
    }
    let inner = serve(exchange);
    Box::pin(async move {
        match inner.await {
            Ok(mut reply) => {
                super::rescue::add_limits(&mut reply, headers);
                Ok(reply)
            }
            Err(mut rejection) => {
                rejection.limits = Some(Box::new(headers));
                Err(rejection)
            }
        }
    })
}
