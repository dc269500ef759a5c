//! Bounds the whole call. Work that was begun goes on after it; only the waiting ends (STYLE section 3).

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, header::HeaderName};
use meridian_model::error::{ErrorCode, FieldError, Problem};
use tower::{Layer, Service};

use super::{Exchange, LayerFuture, Reply};
use crate::{dialects::Class, refusal::Rejection};

/// The caller's bound in milliseconds.
pub const REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// The operation stack knows the deadline too and can say more about the outcome than we can; it gets this much
/// longer. R15 allows 100 ms.
const GRACE: Duration = Duration::from_millis(50);

/// Makes [`Deadline`].
#[derive(Debug, Clone)]
pub struct DeadlineLayer {
    default: Duration,
    max: Duration,
}

impl DeadlineLayer {
    /// A layer with a default and an upper bound.
    #[must_use]
    pub fn new(default: Duration, max: Duration) -> Self {
        Self { default, max }
    }

    fn timeout(&self, headers: &HeaderMap) -> Result<Duration, Rejection> {
        let mut values = headers.get_all(REQUEST_TIMEOUT_MS).iter();
        let Some(value) = values.next() else { return Ok(self.default) };
        let parsed = value.to_str().ok().and_then(|t| t.parse().ok()).map(Duration::from_millis);
        match parsed.filter(|t| !t.is_zero() && *t <= self.max) {
            Some(timeout) if values.next().is_none() => Ok(timeout),
            Some(_) | None => {
                let max = self.max.as_millis();
                let detail = format!("X-Request-Timeout-Ms must be one number from 1 to {max}");
                let error =
                    FieldError { code: "invalid-header".to_owned(), detail: detail.clone(), ..FieldError::default() };
                Err(Problem::new(ErrorCode::InvalidArgument, detail).with_errors(vec![error]).into())
            }
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S> Service<Exchange> for Deadline<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture>,
{
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> LayerFuture {
        let timeout = match self.layer.timeout(exchange.request.headers()) {
            Ok(timeout) => timeout,
            Err(refused) => return Box::pin(std::future::ready(Err(refused))),
        };
        let deadline = exchange.meta.started + timeout;
        exchange.meta.deadline = deadline;
        let changes = matches!(exchange.meta.route.class, Class::Create | Class::Delete | Class::Change);
        let handed_on = changes.then(Arc::<AtomicBool>::default);
        exchange.meta.handed_on.clone_from(&handed_on);
        let inner = self.inner.call(exchange);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline + GRACE, inner).await {
                Ok(answer) => answer,
                Err(_) => Err(expired(timeout, handed_on.is_some_and(|h| h.load(Ordering::Acquire)))),
            }
        })
    }
}

fn expired(timeout: Duration, outcome_unknown: bool) -> Rejection {
    let ms = timeout.as_millis();
    let detail = if outcome_unknown {
        format!("no outcome within {ms} ms; the work goes on, and a repetition with the same idempotency key joins it")
    } else {
        format!("no answer within {ms} ms; nothing was changed")
    };
    let mut rejection = Rejection::new(ErrorCode::DeadlineExceeded, detail);
    rejection.outcome_unknown = outcome_unknown;
    rejection
}
