//! Our own limits towards a vendor, so that it never has to throttle us: a rate per verb and a number of calls
//! under way. The rate is the account's, so gateways that share it divide it by their number; each has its part in its
//! own memory, and no call waits for the shared store. They stand outside the breaker, because waiting for our own turn says nothing about the region.
//!
//! A create takes its turn before its attempt is journalled ([`Pace::create_turn`]), not in the layer: what is
//! journalled must leave within two seconds (RELIABILITY 2.3).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use meridian_adapters::{AdapterError, Call, Reply};
use meridian_model::error::{Effect, FaultKind};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tower::{Layer, Service};

use super::attempt::CallFuture;
use crate::replicas::Replicas;

/// Calls of one class (reads, writes) under way at once at one backend.
const CONCURRENCY_MAX: usize = 64;

/// Longest wait for a turn; a call that cannot be sent by then is refused as throttled by ourselves.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Share of the vendor's published rate that we use; the rest is for others on the same account.
const RATE_SHARE: f64 = 0.8;

/// Wait after a throttle answer that names none, and the longest that is honoured.
const THROTTLE_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Rates and numbers of calls under way of one backend.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    /// Who has a part of the rate; nobody else when it is not set.
    replicas: OnceLock<Replicas>,
    /// When the next call of each verb may leave; a bucket that is full when its time lies `burst` in the past.
    next: Mutex<HashMap<&'static str, Instant>>,
    throttled_until: Mutex<Option<Instant>>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

/// Calls of a verb that may leave at once after a quiet time: half a second's worth, at least one.
const BURST: Duration = Duration::from_millis(500);

impl Pace {
    /// A pace for a backend whose vendor allows this many calls a second and verb.
    #[must_use]
    pub fn new(calls_per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs_f64(1.0 / (f64::from(calls_per_second.max(1)) * RATE_SHARE)),
            replicas: OnceLock::new(),
            next: Mutex::default(),
            throttled_until: Mutex::default(),
            reads: Arc::new(Semaphore::new(CONCURRENCY_MAX)),
            writes: Arc::new(Semaphore::new(CONCURRENCY_MAX)),
        }
    }

    /// Divides the rate among living gateways from now on; a second call changes nothing.
    pub fn share_among(&self, replicas: Replicas) {
        let _ = self.replicas.set(replicas);
    }

    /// Time between two calls of a verb by this gateway.
    fn interval(&self) -> Duration {
        self.interval.saturating_mul(self.replicas.get().map_or(1, Replicas::count))
    }

    /// Waits for the turn of a create and for its place among the writes under way, which it holds until the answer
    /// is in.
    ///
    /// # Errors
    /// The turn would come too late; nothing was sent.
    pub async fn create_turn(&self) -> Result<OwnedSemaphorePermit, AdapterError> {
        self.turn(CREATE).await?;
        self.place(true).await
    }

    /// A place among the reads or writes under way.
    async fn place(&self, write: bool) -> Result<OwnedSemaphorePermit, AdapterError> {
        let class = if write { &self.writes } else { &self.reads };
        Arc::clone(class).acquire_owned().await.map_err(|_| {
            AdapterError::new(FaultKind::Throttled, Effect::NotApplied, "meridian.closing", "the gateway is closing")
        })
    }

    /// Waits for the turn of one call of a verb.
    ///
    /// # Errors
    /// The turn would come too late; nothing was sent.
    pub async fn turn(&self, verb: &'static str) -> Result<(), AdapterError> {
        let now = Instant::now();
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = next.entry(verb).or_insert(now);
            let floor = now.checked_sub(BURST).unwrap_or(now);
            let mut at = (*slot).max(floor);
            if let Some(until) = *self.throttled_until.lock().unwrap_or_else(PoisonError::into_inner) {
                at = at.max(until);
            }
            if at.duration_since(now) > WAIT_MAX {
                let message = format!("the next {verb} may leave in {} s", at.duration_since(now).as_secs());
                return Err(AdapterError::new(FaultKind::Throttled, Effect::NotApplied, "meridian.paced", message));
            }
            *slot = at + self.interval();
            at
        };
        tokio::time::sleep_until(at).await;
        Ok(())
    }

    /// Holds every call back after the vendor throttled one.
    pub fn throttled(&self, asked: Option<Duration>) {
        let wait = asked.unwrap_or(THROTTLE_WAIT.0).min(THROTTLE_WAIT.1);
        let until = Instant::now() + wait;
        let mut held = self.throttled_until.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |h| h.max(until)));
    }

    /// How much longer calls are held back.
    #[must_use]
    pub fn throttled_for(&self) -> Option<Duration> {
        let until = (*self.throttled_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        until.checked_duration_since(Instant::now())
    }
}

/// The verb whose turn the driver takes.
const CREATE: &str = "create";

/// Makes calls wait for their turn.
#[derive(Debug, Clone)]
pub struct Paced<S> {
    inner: S,
    pace: Arc<Pace>,
}

/// Layer of [`Paced`].
#[derive(Debug, Clone)]
pub struct PaceLayer(pub Arc<Pace>);

impl<S> Layer<S> for PaceLayer {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, pace: Arc::clone(&self.0) }
    }
}

impl<S> Service<Call> for Paced<S>
where
    S: Service<Call, Response = Reply, Error = AdapterError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = AdapterError;
    type Future = CallFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> CallFuture {
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let pace = Arc::clone(&self.pace);
        Box::pin(async move {
            let verb = call.request.verb();
            let _place = if verb == CREATE {
                None
            } else {
                pace.turn(verb).await?;
                Some(pace.place(call.request.is_write()).await?)
            };
            let result = ready.call(call).await;
            if let Err(error) = &result
                && error.kind == FaultKind::Throttled
            {
                pace.throttled(error.retry_after);
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use meridian_ledger::shared::MemoryShared;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gateways_that_share_an_account_share_its_rate() {
        let shared = Arc::new(MemoryShared::new());
        let mut paces = Vec::new();
        for n in 0..3 {
            let pace = Pace::new(20);
            let replicas = Replicas::new(shared.clone(), format!("g{n}"));
            replicas.attend().await;
            pace.share_among(replicas.clone());
            paces.push((pace, replicas));
        }
        for (_, replicas) in &paces {
            replicas.attend().await;
            assert_eq!(replicas.count(), 3);
        }
        let span = Duration::from_secs(10);
        let calls = paces.iter().map(|(pace, _)| async {
            let (started, mut n) = (Instant::now(), 0_u32);
            while pace.turn("create").await.is_ok() && started.elapsed() < span {
                n += 1;
            }
            n
        });
        let calls: u32 = futures_util::future::join_all(calls).await.into_iter().sum();
        // 80 % of 20 calls a second for 10 s, and a burst of half a second.
        assert!((150..=171).contains(&calls), "{calls}");
    }
}
