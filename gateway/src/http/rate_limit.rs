//! Token buckets per tenant, before the body is read.
//!
//! The arithmetic is `meridian_policies::rate`; here is only its state. A gateway that has others beside it spends from
//! buckets that it shares with them (`http::drawn`). A tenant has two named limits: `tenant` for
//! every request and `create` for creates. The headers of draft-ietf-httpapi-ratelimit-headers-11 are on every
//! response of an authenticated request and speak of the limit that is closer to exhaustion.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use meridian_model::{error::ErrorCode, error::Problem, time::Time};
use meridian_policies::rate::{Bucket, Limit, Take};
use tower::{Layer, Service};

use super::{
    Exchange, LayerFuture, Reply,
    authenticate::lock,
    drawn::{Drawer, DrawnBucket},
};
use crate::{
    clock::{Clock, Entropy},
    config::Rate,
    dialects::Class,
    refusal::{LimitHeaders, Rejection},
    telemetry::{LimitLabels, Metrics},
};

/// Window of both limits.
const WINDOW: Duration = Duration::from_secs(60);
/// Name of the limit on all requests.
pub const TENANT_LIMIT: &str = "tenant";
/// Name of the limit on creates.
pub const CREATE_LIMIT: &str = "create";
/// A refused caller is asked to stay away for up to this part longer than needed, so that a crowd spreads.
const JITTER_DIVISOR: u32 = 5;

/// The buckets of one tenant.
#[derive(Debug)]
pub struct TenantLimits {
    buckets: Where,
    policy: HeaderValue,
}

/// Where the buckets stand.
#[derive(Debug)]
enum Where {
    /// In this gateway alone.
    Here(Mutex<Buckets>),
    /// Where other gateways draw from them too.
    Shared { drawer: Arc<Drawer>, tenant: Arc<DrawnBucket>, create: Arc<DrawnBucket> },
}

#[derive(Debug)]
struct Buckets {
    tenant: Bucket,
    create: Bucket,
}

/// What one look at the buckets gave.
struct Verdict {
    headers: LimitHeaders,
    refused: Option<(&'static str, Duration)>,
}

fn limit(quota: u32, burst: u32) -> Limit {
    Limit::new(quota.max(1), WINDOW, burst.max(1))
        .expect("invariant: quota and burst are at least 1, the window is 60 s")
}

impl TenantLimits {
    /// Full buckets, or the tenant's part of those that a drawer shares.
    #[must_use]
    pub fn new(name: &str, rate: &Rate, now: Time, drawer: Option<&Arc<Drawer>>) -> Self {
        let tenant = limit(rate.requests_per_minute, rate.burst);
        let create = limit(rate.creates_per_minute, rate.create_burst);
        let seconds = WINDOW.as_secs();
        let policy = format!(
            "\"{TENANT_LIMIT}\";q={};w={seconds}, \"{CREATE_LIMIT}\";q={};w={seconds}",
            tenant.quota(),
            create.quota()
        );
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("\"tenant\""));
        let buckets = match drawer {
            None => {
                Where::Here(Mutex::new(Buckets { tenant: Bucket::new(tenant, now), create: Bucket::new(create, now) }))
            }
            Some(drawer) => Where::Shared {
                drawer: Arc::clone(drawer),
                tenant: drawer.bucket(format!("rate/{name}/{TENANT_LIMIT}"), tenant),
                create: drawer.bucket(format!("rate/{name}/{CREATE_LIMIT}"), create),
            },
        };
        Self { buckets, policy }
    }

    /// As [`Self::take_here`], waiting for tokens where nothing is known.
    async fn take(&self, create: bool, now: Time) -> Verdict {
        let (drawer, shared, creates) = match &self.buckets {
            Where::Here(buckets) => return self.take_here(buckets, create, now),
            Where::Shared { drawer, tenant, create } => (drawer, tenant, create),
        };
        let tenant = drawer.take(shared).await;
        if !create || !matches!(tenant, Take::Taken { .. }) {
            return self.verdict(TENANT_LIMIT, tenant);
        }
        let created = drawer.take(creates).await;
        match (created, tenant) {
            (Take::Taken { remaining, .. }, Take::Taken { remaining: other, .. }) if remaining > other => {
                self.verdict(TENANT_LIMIT, tenant)
            }
            (Take::Taken { .. }, _) => self.verdict(CREATE_LIMIT, created),
            (Take::Refused { .. } | Take::TooLarge, _) => {
                // The request is not served, so it does not count against the other limit.
                drawer.refund(shared);
                self.verdict(CREATE_LIMIT, created)
            }
        }
    }

    fn take_here(&self, buckets: &Mutex<Buckets>, create: bool, now: Time) -> Verdict {
        let mut guard = lock(buckets);
        let buckets = &mut *guard;
        let tenant = buckets.tenant.take(1, now);
        if !create || !matches!(tenant, Take::Taken { .. }) {
            return self.verdict(TENANT_LIMIT, tenant);
        }
        match buckets.create.take(1, now) {
            created @ Take::Taken { remaining, .. } => {
                if remaining <= buckets.tenant.remaining() {
                    self.verdict(CREATE_LIMIT, created)
                } else {
                    self.verdict(TENANT_LIMIT, tenant)
                }
            }
            refused @ (Take::Refused { .. } | Take::TooLarge) => {
                // The request is not served, so it does not count against the other limit.
                buckets.tenant.refund(1);
                self.verdict(CREATE_LIMIT, refused)
            }
        }
    }

    fn verdict(&self, name: &'static str, take: Take) -> Verdict {
        let (remaining, after, refused) = match take {
            Take::Taken { remaining, reset_after } => (remaining, reset_after, None),
            Take::Refused { remaining, retry_after } => (remaining, retry_after, Some((name, retry_after))),
            // A cost of 1 never exceeds a burst of at least 1; answered as a full window rather than believed.
            Take::TooLarge => (0, WINDOW, Some((name, WINDOW))),
        };
        let state = format!("\"{name}\";r={remaining};t={}", ceil_seconds(after));
        let state = HeaderValue::try_from(state).unwrap_or(HeaderValue::from_static("\"tenant\";r=0"));
        Verdict { headers: LimitHeaders { policy: self.policy.clone(), state }, refused }
    }
}

fn ceil_seconds(d: Duration) -> u32 {
    u32::try_from(d.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

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

    fn refuse(&self, limit: &'static str, retry_after: Duration, headers: LimitHeaders) -> Rejection {
        self.metrics.rate_limited.get_or_create(&LimitLabels { limit }).inc();
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
        let create = exchange.meta.route.class == Class::Create;
        let now = self.layer.clock.now();
        match &identity.limits.buckets {
            Where::Here(buckets) => {
                let verdict = identity.limits.take_here(buckets, create, now);
                answer(&self.layer, verdict, |exchange| self.inner.call(exchange), exchange)
            }
            Where::Shared { .. } => {
                let limits = Arc::clone(&identity.limits);
                let layer = self.layer.clone();
                let next = self.inner.clone();
                let mut ready = std::mem::replace(&mut self.inner, next);
                Box::pin(async move {
                    let verdict = limits.take(create, now).await;
                    answer(&layer, verdict, |exchange| ready.call(exchange), exchange).await
                })
            }
        }
    }
}

/// Refuses, or serves and adds the headers.
fn answer(
    layer: &RateLimitLayer,
    Verdict { headers, refused }: Verdict,
    serve: impl FnOnce(Exchange) -> LayerFuture,
    exchange: Exchange,
) -> LayerFuture {
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
