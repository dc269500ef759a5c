//! Identifier, span, duration and access log of every request, refused ones included.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, header::HeaderName};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};

use super::{Exchange, Reply};
use crate::{
    clock::{Clock, Entropy},
    telemetry::{Metrics, RequestLabels},
};

/// The request's identifier, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest identifier taken from a caller, in characters (API-CONVENTIONS 9).
const REQUEST_ID_LEN_MAX: usize = 64;
/// Length of a version-00 `traceparent`.
const TRACEPARENT_LEN: usize = 55;

/// Makes [`Trace`].
#[derive(Debug, Clone)]
pub struct TraceLayer {
    metrics: Arc<Metrics>,
    clock: Clock,
    entropy: Entropy,
}

impl TraceLayer {
    /// A layer that counts into `metrics` and makes identifiers of time and randomness.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, clock: Clock, entropy: Entropy) -> Self {
        Self { metrics, clock, entropy }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    layer: TraceLayer,
}

impl<S> Service<Exchange> for Trace<S>
where
    S: Service<Exchange, Response = Reply, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> Self::Future {
        let (id, id_header) = self.request_id(exchange.request.headers());
        exchange.meta.request_id = id;
        let span = span(&exchange);
        let method = method_name(exchange.request.method());
        let route = exchange.meta.route.template;
        let started = exchange.meta.started;
        let metrics = Arc::clone(&self.layer.metrics);
        let inner = span.in_scope(|| self.inner.call(exchange));
        let record = span.clone();
        let answer = async move {
            let mut reply = inner.await?;
            reply.headers_mut().insert(REQUEST_ID, id_header);
            let code = reply.status().as_u16();
            let took = started.elapsed();
            metrics.request_duration.get_or_create(&RequestLabels { method, route, code }).observe(took.as_secs_f64());
            record.record("http.response.status_code", code);
            tracing::debug!(code, duration_us = took.as_micros(), "answered");
            Ok(reply)
        };
        Box::pin(answer.instrument(span))
    }
}

impl<S> Trace<S> {
    /// The caller's identifier when it is one, else ours; as text and as a header.
    fn request_id(&self, headers: &HeaderMap) -> (Arc<str>, HeaderValue) {
        let given = headers
            .get(REQUEST_ID)
            .filter(|v| (1..=REQUEST_ID_LEN_MAX).contains(&v.len()) && v.as_bytes().iter().all(u8::is_ascii_graphic));
        if let Some((text, value)) = given.and_then(|v| Some((v.to_str().ok()?, v))) {
            return (Arc::from(text), value.clone());
        }
        let ms = u64::try_from(self.layer.clock.now().unix_ms()).unwrap_or(0);
        let [_, _, _, _, _, _, random @ ..] = self.layer.entropy.next().to_be_bytes();
        let uuid = uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid();
        let text: Arc<str> = format!("req_{}", uuid.simple()).into();
        let header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("req_unknown"));
        (text, header)
    }
}

/// The server span. Reads are traced at debug level: they are the hot path and change nothing.
fn span(exchange: &Exchange) -> Span {
    let meta = &exchange.meta;
    let (method, path) = (exchange.request.method(), exchange.request.uri().path());
    let parent = exchange.request.headers().get(TRACEPARENT).and_then(|v| parse_traceparent(v.as_bytes()));
    macro_rules! server_span {
        ($level:expr) => {
            tracing::span!(
                $level,
                "request",
                otel.kind = "server",
                http.request.method = %method,
                http.route = meta.route.template,
                url.path = path,
                client.address = %meta.peer.address.ip(),
                meridian.request.id = &*meta.request_id,
                meridian.dialect = meta.dialect.name(),
                meridian.tenant.id = Empty,
                http.response.status_code = Empty,
                trace_id = parent.map(|p| p.0),
                parent_span_id = parent.map(|p| p.1),
            )
        };
    }
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if is_read { server_span!(tracing::Level::DEBUG) } else { server_span!(tracing::Level::INFO) }
}

/// Trace id and parent span id of a version-00 header; anything else is ignored, as the standard asks.
fn parse_traceparent(value: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(value).ok().filter(|t| t.len() == TRACEPARENT_LEN)?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, len| s.len() == len && s.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let real = |s: &str| s.bytes().any(|c| c != b'0');
    let good = version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && real(trace) && real(parent);
    good.then_some((trace, parent))
}

/// The method as a label from a closed set.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::parse_traceparent;

    #[test]
    fn traceparent_table() {
        let good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parse_traceparent(good), Some(("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "",
            "\u{fc}",
        ] {
            assert_eq!(parse_traceparent(bad.as_bytes()), None, "{bad}");
        }
    }
}
