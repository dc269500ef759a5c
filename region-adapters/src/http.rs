//! The HTTP client that the adapters share, and what its failures prove.
//!
//! A request that changes something at a vendor may be repeated elsewhere only if it was never sent. So the
//! one thing this module must get right is the border between "no connection was ever made" and everything
//! after it: a refused connection, a name that does not resolve or a failed TLS handshake end as
//! [`Sent::Never`]; from the moment a connection exists any failure is [`Sent::Maybe`]. hyper may pick a
//! pooled connection that the server is closing; it repeats the request on another one only while it can
//! prove that not a byte of it was written, and that stays switched on. Anything else that goes wrong on a
//! reused connection is `Maybe`, as on a new one.
//!
//! Deliberately absent: redirects (a signed request is meant for one host), cookies, decompression, proxies
//! and retries.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self, Client,
        connect::{HttpConnector, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use meridian_model::error::{Effect, FaultKind};
use rustls::ClientConfig;

use crate::{
    AdapterError,
    dial::{Dial, Dialler},
};

/// Largest reply body that is read, in bytes. A page of 100 EKSCI instances with 20 containers each stays
/// under 2 MiB, the largest log under 1 MiB; the rest is room for instances with much environment.
pub const REPLY_BYTES_MAX: usize = 8 << 20;

/// Longest time for name resolution, TCP and TLS together. A region that drops packets then fails early, as
/// `NotApplied`, and is told apart from one that took the request and fell silent.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept: below the shortest idle timeout seen at load balancers (60 s), so
/// that we, not they, close it.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle connections kept per host: twice the 20 calls a second that EKSCI takes, so that a burst of one
/// second does not open new ones.
const POOL_IDLE_PER_HOST_MAX: usize = 40;

/// Whether a failed request can have reached the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// No connection was made; not a byte left.
    Never,
    /// A connection existed; bytes may have left.
    Maybe,
}

/// A failure below HTTP: there is no complete reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct TransportError {
    /// Whether the request can have reached the vendor.
    pub sent: Sent,
    /// `transport.connect`, `transport.timeout`, `transport.cut` or `transport.oversize`.
    pub code: &'static str,
    /// The chain of causes as text.
    pub detail: String,
}

impl TransportError {
    /// What the failure means.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        match self.sent {
            Sent::Never => FaultKind::Unreachable,
            Sent::Maybe => FaultKind::Lost,
        }
    }

    /// The failure of a call that changes something at the vendor: unknown unless nothing was sent.
    #[must_use]
    pub fn of_write(self) -> AdapterError {
        let effect = match self.sent {
            Sent::Never => Effect::NotApplied,
            Sent::Maybe => Effect::Unknown,
        };
        AdapterError::new(self.kind(), effect, self.code, &self.detail)
    }

    /// The failure of a call that only reads: it has no effect to be unsure of.
    #[must_use]
    pub fn of_read(self) -> AdapterError {
        AdapterError::new(self.kind(), Effect::NotApplied, self.code, &self.detail)
    }
}

/// A pooling HTTP/1.1 client for `http` and `https` URLs. Cheap to clone; clones share the pool.
#[derive(Clone)]
pub struct HttpClient {
    inner: Transport,
}

#[derive(Clone)]
enum Transport {
    System(Client<Bounded<HttpsConnector<HttpConnector>>, Full<Bytes>>),
    Dialled(Client<Bounded<Dialler>, Full<Bytes>>),
}

impl Transport {
    fn request(&self, request: Request<Full<Bytes>>) -> legacy::ResponseFuture {
        match self {
            Self::System(client) => client.request(request),
            Self::Dialled(client) => client.request(request),
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client that trusts the system's certificate authorities.
    ///
    /// A system without any (an empty container image) is no error here, because endpoints may be plain
    /// HTTP; every `https` call then fails as [`Sent::Never`], and a warning was logged.
    ///
    /// # Errors
    /// [`rustls::Error`] when the TLS library refuses its own defaults.
    pub fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions =
            || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let tls = match versions()?.with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(%error, "no certificate authorities found; https endpoints cannot be reached");
                versions()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            }
        };
        Ok(Self::with_tls(tls))
    }

    /// A client with TLS settings of the caller, for private certificate authorities.
    #[must_use]
    pub fn with_tls(tls: ClientConfig) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        Self { inner: Transport::System(client().build(Bounded(https))) }
    }

    /// A client over connections that somebody else opens; it speaks plain HTTP only.
    #[must_use]
    pub fn over(dial: Arc<dyn Dial>) -> Self {
        let mut client = client();
        // The pool looks for idle connections in an order of its own making, and by the system's clock.
        client.pool_idle_timeout(None);
        Self { inner: Transport::Dialled(client.build(Bounded(Dialler(dial)))) }
    }

    /// Sends one request to its absolute URL and reads the whole reply, in `timeout` at most.
    ///
    /// # Errors
    /// [`TransportError`] when there is no complete reply of at most [`REPLY_BYTES_MAX`] bytes. Any status
    /// is a reply.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the call; whether the request was sent is then not known.
    pub async fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, TransportError> {
        let mut request = request.map(Full::new);
        let connection = capture_connection(&mut request);
        let exchange = async {
            let reply = self.inner.request(request).await.map_err(|e| from_client(&e))?;
            let (parts, body) = reply.into_parts();
            match Limited::new(body, REPLY_BYTES_MAX).collect().await {
                Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
                Err(error) => Err(from_body(&*error)),
            }
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
            // The exchange is dropped by now: without a connection so far there will be none for it.
            let sent = if connection.connection_metadata().is_none() { Sent::Never } else { Sent::Maybe };
            let detail = format!("no complete reply within {} ms", timeout.as_millis());
            Err(TransportError { sent, code: "transport.timeout", detail })
        })
    }
}

fn client() -> legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
        // On purpose: hyper repeats only what it proves unsent; see the module's text.
        .retry_canceled_requests(true);
    builder
}

fn from_client(error: &legacy::Error) -> TransportError {
    let (sent, code) =
        if error.is_connect() { (Sent::Never, "transport.connect") } else { (Sent::Maybe, "transport.cut") };
    TransportError { sent, code, detail: chain(error) }
}

fn from_body(error: &(dyn std::error::Error + 'static)) -> TransportError {
    let code = if error.is::<LengthLimitError>() { "transport.oversize" } else { "transport.cut" };
    TransportError { sent: Sent::Maybe, code, detail: chain(error) }
}

/// Most causes that are written out: hyper, its io error and a TLS alert make three.
const CAUSES_MAX: usize = 8;

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 1..CAUSES_MAX {
        let Some(cause) = next else { break };
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Puts [`CONNECT_TIMEOUT`] around the whole of connecting; the TCP connector's own limit leaves the TLS
/// handshake out.
#[derive(Clone)]
struct Bounded<C>(C);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<C> tower::Service<Uri> for Bounded<C>
where
    C: tower::Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
    C::Response: 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.call(to);
        Box::pin(async move {
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
                let text = format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
            })
        })
    }
}
