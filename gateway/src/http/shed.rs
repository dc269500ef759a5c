//! Refuses when too many requests are in work. It never queues: a queue would only make the answer late.
//!
//! Deletes and the public routes (health, version) are let through whatever the load: they relieve it, or tell
//! about it (RELIABILITY section 3, "Shed order").

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use meridian_model::error::ErrorCode;
use tower::{Layer, Service};

use super::{Exchange, LayerFuture, Reply};
use crate::{dialects::Class, refusal::Rejection, telemetry::Metrics};

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
        let exempt = matches!(exchange.meta.route.class, Class::Public | Class::Delete);
        if before >= self.layer.in_flight_max && !exempt {
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
