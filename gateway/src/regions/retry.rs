//! Repeats a write that certainly was not applied, within a budget. Reads are never repeated here: a poller's
//! next turn, or the journal's next look-up, is their retry.
//!
//! Refused credentials are told to whoever looks for new ones. A write waits a moment for them and is repeated when they
//! have come: no create fails because a key was replaced at the vendor first.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use meridian_adapters::{AdapterError, Reply};
use meridian_model::error::{Effect, FaultKind};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{attempt::CallFuture, pace::Envelope};
use crate::secrets::rotate::Slot;

/// Repetitions of one call.
const RETRIES_MAX: u32 = 2;

/// First wait; doubled for the second repetition.
const WAIT: Duration = Duration::from_millis(50);

/// First wait after a throttle answer: the vendors count by the second.
const THROTTLED_WAIT: Duration = Duration::from_millis(500);

/// Longest wait; whoever asks for more is left for another candidate.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Each call earns this part of a repetition; the floor is one a second (RELIABILITY 3).
const BUDGET_SHARE: f64 = 0.1;

/// Repetitions that may be saved up.
const BUDGET_MAX: f64 = 10.0;

/// Repeats calls that were not applied.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    budget: Arc<Mutex<Budget>>,
    credentials: Slot,
}

/// Layer of [`Retry`]; one budget per layer, so one per backend.
#[derive(Debug, Clone)]
pub struct RetryLayer {
    budget: Arc<Mutex<Budget>>,
    credentials: Slot,
}

/// Saved-up repetitions.
#[derive(Debug)]
struct Budget {
    saved: f64,
    updated: Instant,
}

impl Budget {
    fn earn(&mut self) {
        let now = Instant::now();
        let floor = now.duration_since(self.updated).as_secs_f64();
        self.updated = now;
        self.saved = (self.saved + floor + BUDGET_SHARE).min(BUDGET_MAX);
    }

    fn spend(&mut self) -> bool {
        let enough = self.saved >= 1.0;
        if enough {
            self.saved -= 1.0;
        }
        enough
    }
}

impl RetryLayer {
    /// A layer with a full budget, over an adapter that may be replaced.
    #[must_use]
    pub fn new(credentials: Slot) -> Self {
        let budget = Budget { saved: BUDGET_MAX, updated: Instant::now() };
        Self { budget: Arc::new(Mutex::new(budget)), credentials }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, budget: Arc::clone(&self.budget), credentials: self.credentials.clone() }
    }
}

/// The vendor's own wish, else a doubling wait; a throttle deserves more patience than a slip.
fn wait(error: &AdapterError, tries: u32) -> Duration {
    let first = if error.kind == FaultKind::Throttled { THROTTLED_WAIT } else { WAIT };
    error.retry_after.unwrap_or(first * 2_u32.pow(tries)).min(WAIT_MAX)
}

/// Nothing happened, and the same call may well succeed in a moment: no sooner than the vendor asks for.
fn worth_repeating(error: &AdapterError) -> bool {
    error.effect == Effect::NotApplied
        && matches!(error.kind, FaultKind::Throttled | FaultKind::Temporary)
        && error.retry_after.is_none_or(|asked| asked <= WAIT_MAX)
}

impl<S> Service<Envelope> for Retry<S>
where
    S: Service<Envelope, Response = Reply, Error = AdapterError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = AdapterError;
    type Future = CallFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut envelope: Envelope) -> CallFuture {
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let (budget, credentials) = (Arc::clone(&self.budget), self.credentials.clone());
        Box::pin(async move {
            let is_write = envelope.call.request.is_write();
            let mut tries = 0;
            loop {
                budget.lock().unwrap_or_else(PoisonError::into_inner).earn();
                let generation = credentials.generation();
                let result = ready.call(envelope.clone()).await;
                // A turn is good for one call.
                envelope.turn = None;
                match result {
                    Err(error) if error.kind == FaultKind::Credentials => {
                        let may_repeat = is_write && error.effect == Effect::NotApplied && tries < RETRIES_MAX;
                        if !may_repeat {
                            credentials.refused(generation);
                            return Err(error);
                        }
                        if !credentials.renewed(generation).await {
                            return Err(error);
                        }
                    }
                    Err(error)
                        if is_write
                            && tries < RETRIES_MAX
                            && worth_repeating(&error)
                            && budget.lock().unwrap_or_else(PoisonError::into_inner).spend() =>
                    {
                        tokio::time::sleep(wait(&error, tries)).await;
                    }
                    done => return done,
                }
                tries += 1;
                std::future::poll_fn(|cx| ready.poll_ready(cx)).await?;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_not_repeated_before_the_vendor_wants_it() {
        let seconds = Duration::from_secs;
        for (asked, waits) in [(None, Some(THROTTLED_WAIT)), (Some(2), Some(seconds(2))), (Some(10), None)] {
            let mut error = AdapterError::new(FaultKind::Throttled, Effect::NotApplied, "Throttling", "slower");
            error.retry_after = asked.map(seconds);
            assert_eq!(worth_repeating(&error).then(|| wait(&error, 0)), waits, "{asked:?}");
        }
    }
}
