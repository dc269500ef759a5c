//! Refuses when too many requests are in work. It never queues: a queue would only make the answer late.
//!
//! What is shed first is what can best wait (RELIABILITY section 3, "Shed order"): lists and explanations at
//! [`LIST_PERCENT`] of the bound, creates at [`CREATE_PERCENT`], reads of one resource at the bound itself. Deletes
//! and the public routes (health, version) are let through whatever the load: they relieve it, or tell about it.
//! Between tenants [`fair`] decides, once it is known whose a request is.

pub mod fair;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use meridian_model::error::ErrorCode;
use tower::{Layer, Service};

pub use self::fair::Share;
use super::{Exchange, LayerFuture, Reply};
use crate::{dialects::Class, refusal::Rejection, telemetry::Metrics};

/// Part of the bound from which lists are shed: dashboards come back by themselves.
pub const LIST_PERCENT: usize = 80;
/// Part of the bound from which creates are shed: each brings more work than it is.
pub const CREATE_PERCENT: usize = 90;

/// Makes [`Shed`].
#[derive(Debug, Clone)]
pub struct ShedLayer {
    in_flight_max: usize,
    in_flight: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl ShedLayer {
    /// A layer that lets at most `in_flight_max` requests in.
    #[must_use]
    pub fn new(in_flight_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { in_flight_max, in_flight: Arc::default(), metrics }
    }

    /// The layer that stands below authentication and looks at the same requests.
    #[must_use]
    pub fn fair(&self) -> fair::FairLayer {
        fair::FairLayer::new(self.in_flight_max, Arc::clone(&self.in_flight))
    }

    /// How many requests may be in work for one more of this class to be let in.
    fn bound(&self, class: Class) -> usize {
        let part = |percent: usize| self.in_flight_max.saturating_mul(percent).div_ceil(100);
        match class {
            Class::List => part(LIST_PERCENT),
            Class::Create => part(CREATE_PERCENT),
            Class::Read | Class::Change => self.in_flight_max,
            Class::Public | Class::Delete => usize::MAX,
        }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Shed<S> {
    inner: S,
    layer: ShedLayer,
}

/// A request in work; gives its place back however the request ends.
struct Place(Arc<AtomicUsize>, Arc<Metrics>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.in_flight.dec();
    }
}

impl<S> Service<Exchange> for Shed<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture>,
{
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, exchange: Exchange) -> LayerFuture {
        let before = self.layer.in_flight.fetch_add(1, Ordering::Relaxed);
        self.layer.metrics.in_flight.inc();
        let place = Place(Arc::clone(&self.layer.in_flight), Arc::clone(&self.layer.metrics));
        if before >= self.layer.bound(exchange.meta.route.class) {
            let refused = Rejection::new(ErrorCode::Overloaded, "more requests are in work than the gateway takes");
            return Box::pin(std::future::ready(Err(refused)));
        }
        let inner = self.inner.call(exchange);
        Box::pin(async move {
            let _place = place;
            inner.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_wait_is_shed_first() {
        let layer = ShedLayer::new(100, Metrics::new());
        let bounds = [Class::List, Class::Create, Class::Read].map(|c| layer.bound(c));
        assert_eq!(bounds, [80, 90, 100]);
        assert_eq!(ShedLayer::new(1, Metrics::new()).bound(Class::List), 1);
        assert_eq!(layer.bound(Class::Delete), usize::MAX);
    }
}
