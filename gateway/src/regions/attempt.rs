//! One attempt at a call: the adapter, with an end to its patience.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use meridian_adapters::{AdapterError, BoxAdapter, Call, Reply};
use meridian_model::error::{Effect, FaultKind};
use tower::{Layer, Service};

/// A call under way.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Reply, AdapterError>> + Send>>;

/// Ends a call after its own timeout. After the first byte was sent nobody knows what a write did.
#[derive(Debug, Clone)]
pub struct AttemptTimeout<S = BoxAdapter>(S);

/// Layer of [`AttemptTimeout`].
#[derive(Debug, Clone, Copy)]
pub struct AttemptTimeoutLayer;

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = AttemptTimeout<S>;

    fn layer(&self, inner: S) -> AttemptTimeout<S> {
        AttemptTimeout(inner)
    }
}

impl<S> Service<Call> for AttemptTimeout<S>
where
    S: Service<Call, Response = Reply, Error = AdapterError>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = AdapterError;
    type Future = CallFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> CallFuture {
        let effect = if call.request.is_write() { Effect::Unknown } else { Effect::NotApplied };
        let (verb, timeout) = (call.request.verb(), call.at.timeout);
        let answer = self.0.call(call);
        Box::pin(async move {
            tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
                let message = format!("no answer to {verb} within {} ms", timeout.as_millis());
                Err(AdapterError::new(FaultKind::Lost, effect, "transport.timeout", message))
            })
        })
    }
}
