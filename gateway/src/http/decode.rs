//! The last stage that knows HTTP: the dialect reads the request, the operation stack answers, the dialect writes.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use http::Method;
use tower::{Service, ServiceExt as _};

use super::{Exchange, LayerFuture, Reply};
use crate::{
    config::Limits,
    dialects::{BodyLimits, Decoded},
    operation::{Operation, OperationService},
    refusal::Rejection,
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Decode {
    operations: OperationService,
    body: BodyLimits,
}

impl Decode {
    /// The bottom of the HTTP stack over an operation stack.
    #[must_use]
    pub fn new(operations: OperationService, limits: &Limits) -> Self {
        let body = BodyLimits { len_max: limits.body_bytes_max, rate_min: limits.body_rate_min };
        Self { operations, body }
    }
}

impl Service<Exchange> for Decode {
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        // Each request takes its own clone of the operation stack and waits for that one, within its deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Exchange { request, meta }: Exchange) -> LayerFuture {
        let operations = self.operations.clone();
        let body = self.body;
        Box::pin(async move {
            let head = request.method() == Method::HEAD;
            let dialect = Arc::clone(&meta.dialect);
            let mut reply = match dialect.decode(request, &meta, body).await? {
                Decoded::Answered(reply) => reply,
                Decoded::Action(action, plan) => {
                    let operation = Operation {
                        caller: Arc::clone(meta.caller()?),
                        request_id: Arc::clone(&meta.request_id),
                        deadline: meta.deadline,
                        action,
                    };
                    if let Some(handed_on) = meta.handed_on.as_ref().filter(|_| !plan.validate_only) {
                        handed_on.store(true, Ordering::Release);
                    }
                    if let Some(note) = &meta.note {
                        note.asked(&operation.action, plan.validate_only);
                    }
                    let outcome = operations.oneshot(operation).await;
                    if let Some(note) = &meta.note {
                        note.answered(&outcome);
                    }
                    dialect.encode(outcome?, &plan)?
                }
            };
            if head {
                super::without_body(&mut reply);
            }
            Ok(reply)
        })
    }
}
