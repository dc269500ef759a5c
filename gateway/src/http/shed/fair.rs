//! Under pressure, whoever has more than its part of the requests in work is refused first.
//!
//! Stands below authentication, because only then it is known whose a request is. Pressure is when the requests in work
//! pass [`PRESSURE_PERCENT`] of the gateway's bound; a tenant's part is the bound divided by the tenants that have any in
//! work. One that is alone has all of it. Deletes are never refused here, and whoever is within its part is not either:
//! for it the bounds of the classes hold (`http::shed`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use meridian_model::error::ErrorCode;
use tower::{Layer, Service};

use super::super::{Exchange, LayerFuture, Reply};
use crate::{dialects::Class, refusal::Rejection};

/// Part of the bound from which parts are looked at: below it there is room for everybody.
pub const PRESSURE_PERCENT: usize = 50;

/// What a tenant has of the requests in work.
#[derive(Debug, Default)]
pub struct Share {
    in_flight: AtomicUsize,
}

/// Makes [`Fair`].
#[derive(Debug, Clone)]
pub struct FairLayer {
    in_flight_max: usize,
    /// Requests in work, of everybody.
    in_flight: Arc<AtomicUsize>,
    /// Tenants with requests in work.
    active: Arc<AtomicUsize>,
}

impl FairLayer {
    /// A layer that looks at the requests in work that another one counts.
    #[must_use]
    pub fn new(in_flight_max: usize, in_flight: Arc<AtomicUsize>) -> Self {
        Self { in_flight_max, in_flight, active: Arc::default() }
    }

    /// Whether one more request of a tenant that has `own` in work is too much.
    fn is_too_much(&self, class: Class, own: usize) -> bool {
        let pressed = self.in_flight.load(Ordering::Relaxed).saturating_mul(100)
            >= self.in_flight_max.saturating_mul(PRESSURE_PERCENT);
        let part = self.in_flight_max / self.active.load(Ordering::Relaxed).max(1);
        pressed && own >= part.max(1) && !matches!(class, Class::Public | Class::Delete)
    }

    fn enter(&self, share: &Arc<Share>, class: Class) -> Result<Place, Rejection> {
        let own = share.in_flight.fetch_add(1, Ordering::Relaxed);
        if own == 0 {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        let place = Place { share: Arc::clone(share), active: Arc::clone(&self.active) };
        if self.is_too_much(class, own) {
            let detail = "the gateway is busy, and the tenant has more than its part of the requests in work";
            return Err(Rejection::new(ErrorCode::Overloaded, detail));
        }
        Ok(place)
    }
}

/// A tenant's request in work; gives its place back however the request ends.
#[derive(Debug)]
struct Place {
    share: Arc<Share>,
    active: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.share.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<S> Layer<S> for FairLayer {
    type Service = Fair<S>;

    fn layer(&self, inner: S) -> Fair<S> {
        Fair { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Fair<S> {
    inner: S,
    layer: FairLayer,
}

impl<S> Service<Exchange> for Fair<S>
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
        let Some(identity) = &exchange.meta.identity else { return self.inner.call(exchange) };
        let place = match self.layer.enter(&identity.limits.share, exchange.meta.route.class) {
            Ok(place) => place,
            Err(refused) => return Box::pin(std::future::ready(Err(refused))),
        };
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

    /// Lets requests in until one is refused, at most `most`; the places of those that are in.
    fn fill(layer: &FairLayer, share: &Arc<Share>, class: Class, most: usize) -> Vec<Place> {
        let mut places = Vec::new();
        while places.len() < most
            && let Ok(place) = layer.enter(share, class)
        {
            layer.in_flight.fetch_add(1, Ordering::Relaxed);
            places.push(place);
        }
        places
    }

    #[test]
    fn whoever_has_more_than_its_part_is_refused_first() {
        let layer = FairLayer::new(100, Arc::default());
        let (crowd, other) = (Arc::new(Share::default()), Arc::new(Share::default()));
        let alone = fill(&layer, &crowd, Class::Create, 100);
        assert_eq!(alone.len(), 100, "who is alone has it all");
        // Another comes: within its part it is let in, and the first is not any more.
        let few = fill(&layer, &other, Class::Read, 10);
        assert_eq!(few.len(), 10);
        assert!(layer.enter(&crowd, Class::Read).is_err());
        assert!(layer.enter(&crowd, Class::Delete).is_ok(), "never a delete");
        drop((alone, few));
        assert_eq!((layer.active.load(Ordering::Relaxed), crowd.in_flight.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn without_pressure_nobody_is_refused() {
        let layer = FairLayer::new(100, Arc::default());
        let tenants: Vec<_> = (0..40).map(|_| Arc::new(Share::default())).collect();
        let others: Vec<_> = tenants.iter().flat_map(|share| fill(&layer, share, Class::Read, 1)).collect();
        // Nine more than its part of two and a half, and still less than half of the bound.
        let greedy = fill(&layer, &tenants[0], Class::Read, 100);
        assert_eq!((others.len(), greedy.len()), (40, 10));
    }
}
