//! The circuit breakers of one backend as a layer: closed passes, open refuses, half-open lets one read probe.
//! What opens and closes them is decided in [`meridian_policies::health`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use meridian_adapters::{AdapterError, Call, Reply};
use meridian_model::error::{Effect, FaultKind};
use meridian_policies::health::{Breaker, BreakerSettings, BreakerView, CallClass, Outcome, Permit, Ticket};
use tower::{Layer, Service};

use super::attempt::CallFuture;
use crate::{clock::Clock, views};

/// The breakers of one backend: reads and writes fail for different reasons, so each class has its own.
#[derive(Debug)]
pub struct Breakers {
    clock: Clock,
    reads: Mutex<Breaker>,
    writes: Mutex<Breaker>,
}

impl Breakers {
    /// Closed breakers; the seed spreads the probes of several backends.
    #[must_use]
    pub fn new(clock: Clock, seed: u64) -> Self {
        let breaker = |seed| Mutex::new(Breaker::new(BreakerSettings::default(), seed));
        Self { clock, reads: breaker(seed), writes: breaker(!seed) }
    }

    fn lock(mutex: &Mutex<Breaker>) -> MutexGuard<'_, Breaker> {
        // A poisoned lock means a panic between two complete states; the breaker is whole.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may go, and with which ticket.
    fn permits(&self, write: bool) -> Result<Ticket, AdapterError> {
        let now = self.clock.now();
        let (mutex, class) = if write { (&self.writes, CallClass::Write) } else { (&self.reads, CallClass::Read) };
        match Self::lock(mutex).permits(class, now) {
            Permit::Pass(ticket) | Permit::Probe(ticket) => Ok(ticket),
            Permit::Refused { until } => {
                let mut error = AdapterError::new(
                    FaultKind::BreakerOpen,
                    Effect::NotApplied,
                    "meridian.breaker-open",
                    format!("the region failed repeatedly; it is tried again at {until}"),
                );
                error.retry_after = Some(until.since(now));
                Err(error)
            }
        }
    }

    fn record(&self, write: bool, ticket: Ticket, outcome: Outcome) {
        let now = self.clock.now();
        let mutex = if write { &self.writes } else { &self.reads };
        Self::lock(mutex).record(ticket, outcome, now);
        // A write breaker is never probed with somebody's create: a read that is answered proves the way for both.
        if !write && outcome == Outcome::Answered {
            let mut writes = Self::lock(&self.writes);
            if matches!(writes.view(now), BreakerView::HalfOpen)
                && let Permit::Probe(probe) = writes.permits(CallClass::Read, now)
            {
                writes.record(probe, Outcome::Answered, now);
            }
        }
    }

    /// The state of one class.
    #[must_use]
    pub fn state(&self, write: bool) -> BreakerView {
        Self::lock(if write { &self.writes } else { &self.reads }).view(self.clock.now())
    }

    /// Whether one of them lets only a read pass: nothing else closes it.
    #[must_use]
    pub fn awaits_probe(&self) -> bool {
        [false, true].into_iter().any(|write| matches!(self.state(write), BreakerView::HalfOpen))
    }

    /// The state of one class for the regions resource.
    #[must_use]
    pub fn view(&self, write: bool) -> views::BreakerView {
        let state = self.state(write);
        let until = match state {
            BreakerView::Open { until } => Some(until),
            BreakerView::Closed | BreakerView::HalfOpen => None,
        };
        views::BreakerView { state: state.as_str(), until }
    }
}

/// Hands a ticket back as abandoned when its call is dropped before it ended.
struct Outstanding {
    breakers: Arc<Breakers>,
    write: bool,
    ticket: Option<Ticket>,
}

impl Outstanding {
    fn report(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.breakers.record(self.write, ticket, outcome);
        }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breakers.record(self.write, ticket, Outcome::Abandoned);
        }
    }
}

/// Refuses calls to a region that fails.
#[derive(Debug, Clone)]
pub struct Broken<S> {
    inner: S,
    breakers: Arc<Breakers>,
}

/// Layer of [`Broken`].
#[derive(Debug, Clone)]
pub struct BreakerLayer(pub Arc<Breakers>);

impl<S> Layer<S> for BreakerLayer {
    type Service = Broken<S>;

    fn layer(&self, inner: S) -> Broken<S> {
        Broken { inner, breakers: Arc::clone(&self.0) }
    }
}

impl<S> Service<Call> for Broken<S>
where
    S: Service<Call, Response = Reply, Error = AdapterError>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = AdapterError;
    type Future = CallFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> CallFuture {
        let write = call.request.is_write();
        let ticket = match self.breakers.permits(write) {
            Ok(ticket) => ticket,
            Err(refused) => return Box::pin(std::future::ready(Err(refused))),
        };
        let outstanding = Outstanding { breakers: Arc::clone(&self.breakers), write, ticket: Some(ticket) };
        let answer = self.inner.call(call);
        Box::pin(async move {
            let result = answer.await;
            outstanding.report(match &result {
                Ok(_) => Outcome::Answered,
                // A code that no table knows, in an answer with the vendor's own request id, is an answer.
                Err(error) if error.kind == FaultKind::Unexpected && error.vendor_request_id.is_some() => {
                    Outcome::Answered
                }
                Err(error) => Outcome::of(error.kind),
            });
            result
        })
    }
}
