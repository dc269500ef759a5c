//! Listeners: our own accept loop with bounds on everything a peer can hold open, TLS, and a graceful drain.
//!
//! HTTP/2 is spoken only where TLS negotiated it (ALPN); hyper's auto-detecting builder leaves silent connections
//! open, so each connection has a watchdog of ours (`watch`): first byte, headers, idle, age (RELIABILITY
//! section 3, "HTTP edge"). Every task belongs to the server: connections to a `JoinSet`, HTTP/2 streams to a
//! tracker; a drain waits for both, up to its bound, and then cuts.

mod tls;
mod watch;

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use self::{
    tls::Terminator,
    watch::{Activity, Watched},
};
use crate::{
    clock::Entropy,
    config::{Limits, Tls},
    http::{Http, Reply},
    identity::spiffe::SpiffeId,
    telemetry::{ConnectionLabels, Metrics},
};

/// Most header fields of a request.
const HEADER_FIELDS_MAX: usize = 64;
/// Most bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Concurrent streams of an HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 100;
/// Flow-control window of a stream: bodies are small.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
/// Flow-control window of a connection.
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams reset before they were accepted; more is an attack (rapid reset).
const H2_PENDING_RESETS_MAX: usize = 20;
/// Between two pings of an HTTP/2 connection.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a ping may go unanswered.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, for example because file descriptors ran out; closing connections frees them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections wait in the kernel up to this many.
const BACKLOG: u32 = 1024;
/// A tenth of a connection's age is spread, so that clients do not all come back at once.
const AGE_SPREAD: u128 = 10;

/// Who opened a connection. Cheap to clone: every request has one.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where from.
    pub address: SocketAddr,
    /// What its certificate proved in the handshake.
    pub identity: Option<Arc<SpiffeId>>,
}

/// Serves requests of a listener. Cloned per connection.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn handle(
        &mut self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send + use<Self>;
}

impl Handler for Http {
    fn handle(
        &mut self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send + use<> {
        self.serve(request, peer)
    }
}

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A PEM file cannot be read.
    #[error("cannot use {file} for TLS: {reason}")]
    Pem {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// Certificate and key do not make a server.
    #[error("the TLS certificate and key do not go together")]
    Tls(#[source] rustls::Error),
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because the drain's time was up.
    pub cut: usize,
}

/// Where connections come from: the seam at which a simulated network takes the place of the system's.
pub trait Listen: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and who opened it.
    ///
    /// # Errors
    /// This one failed; the next may do better.
    ///
    /// # Cancel safety
    /// A dropped future loses no connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are small and complete: waiting to fill a segment only adds latency. A connection that will not
        // have it has ended already, and its first read says so.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }
}

/// A bound listener.
pub struct Server<H, L = TcpListener> {
    listener: L,
    address: SocketAddr,
    shared: Arc<Shared<H>>,
}

struct Shared<H> {
    handler: H,
    tls: Option<Arc<Terminator>>,
    limits: Limits,
    metrics: Arc<Metrics>,
    entropy: Entropy,
    drain: CancellationToken,
    streams: TaskTracker,
    peers: Mutex<HashMap<IpAddr, usize>>,
}

impl<H, L> std::fmt::Debug for Server<H, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

/// What a server is made of, beside its address.
#[derive(Debug)]
pub struct Setup<'a, H> {
    /// What answers.
    pub handler: H,
    /// Certificate; plain HTTP/1.1 without it.
    pub tls: Option<&'a Tls>,
    /// Bounds.
    pub limits: Limits,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Spreads the age of connections.
    pub entropy: Entropy,
    /// Cancelled when the server shall end.
    pub drain: CancellationToken,
}

impl<H: Handler> Server<H> {
    /// Listens. Connections wait in the kernel until [`Server::run`].
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(address: SocketAddr, setup: Setup<'_, H>) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind { address, source };
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Self::over(listener, address, setup)
    }
}

impl<H: Handler, L: Listen> Server<H, L> {
    /// Serves what a listener of the caller's making accepts.
    ///
    /// # Errors
    /// [`ServeError::Pem`] and [`ServeError::Tls`].
    pub fn over(listener: L, address: SocketAddr, setup: Setup<'_, H>) -> Result<Self, ServeError> {
        let Setup { handler, tls, limits, metrics, entropy, drain } = setup;
        let tls = tls.map(|tls| Terminator::new(tls, Arc::clone(&metrics))).transpose()?.map(Arc::new);
        let streams = TaskTracker::new();
        let peers = Mutex::default();
        let shared = Arc::new(Shared { handler, tls, limits, metrics, entropy, drain, streams, peers });
        Ok(Self { listener, address, shared })
    }

    /// The address it listens on, with the port the system chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the token is cancelled, then drains.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and aborts every connection.
    pub async fn run(self) -> Drained {
        let Self { mut listener, shared, .. } = self;
        let mut connections = JoinSet::new();
        let mut aside = JoinSet::new();
        if let Some(tls) = &shared.tls {
            aside.spawn(Arc::clone(tls).follow());
        }
        loop {
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => break,
                Some(ended) = connections.join_next() => note_end(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => shared.admit(stream, peer, &mut connections),
                    Err(error) => {
                        tracing::warn!(error = %error, "accept failed");
                        shared.drop_counted("accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop((listener, aside));
        shared.finish(connections).await
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A restarted gateway takes its port back although old connections linger in the kernel.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = %error, "a connection's task panicked");
    }
}

/// One more connection of a peer; gives the place back when it ends.
struct PeerPlace<H>(Arc<Shared<H>>, IpAddr);

impl<H> Drop for PeerPlace<H> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
        let mut peers = self.0.lock_peers();
        if let Some(count) = peers.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                peers.remove(&self.1);
            }
        }
    }
}

impl<H> Shared<H> {
    fn lock_peers(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn drop_counted(&self, reason: &'static str) {
        self.metrics.connections_dropped.get_or_create(&ConnectionLabels { reason }).inc();
    }
}

impl<H: Handler> Shared<H> {
    /// Takes a connection in, or drops it when a bound is reached.
    fn admit<S>(self: &Arc<Self>, stream: S, peer: SocketAddr, connections: &mut JoinSet<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if connections.len() >= self.limits.connections_max {
            return self.drop_counted("connections-max");
        }
        {
            let mut peers = self.lock_peers();
            let count = peers.entry(peer.ip()).or_insert(0);
            if *count >= self.limits.connections_per_peer_max {
                return self.drop_counted("peer-max");
            }
            *count += 1;
        }
        self.metrics.connections.inc();
        let place = PeerPlace(Arc::clone(self), peer.ip());
        let shared = Arc::clone(self);
        let serve = async move {
            let _place = place;
            if let Err(reason) = shared.serve(stream, peer).await {
                shared.drop_counted(reason);
            }
        };
        // A span of its own: a connection outlives the requests whose spans it carries.
        connections.spawn(serve.instrument(tracing::debug_span!("connection", client.address = %peer.ip())));
    }

    async fn serve<S>(self: &Arc<Self>, stream: S, peer: SocketAddr) -> Result<(), &'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else {
            return self.speak(stream, Peer { address: peer, identity: None }, false).await;
        };
        let handshake = timeout(self.limits.handshake_timeout.0, tls.acceptor().accept(stream)).await;
        let stream = handshake.map_err(|_| "handshake-timeout")?.map_err(|_| "handshake")?;
        let connection = stream.get_ref().1;
        let h2 = connection.alpn_protocol() == Some(b"h2");
        let peer = Peer { address: peer, identity: tls::identity(connection) };
        self.speak(stream, peer, h2).await
    }

    /// Speaks HTTP on a connection until it ends.
    async fn speak<S>(self: &Arc<Self>, stream: S, peer: Peer, h2: bool) -> Result<(), &'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new(&self.limits, h2));
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
        let handler = Mutex::new(self.handler.clone());
        let counted = Arc::clone(&activity);
        let service = service_fn(move |request: Request<Incoming>| {
            let in_work = counted.request();
            let answer = {
                // Held for the time of building the future only; the handler awaits nothing in it.
                let mut handler = handler.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                handler.handle(request, peer.clone())
            };
            async move {
                let reply = answer.await;
                drop(in_work);
                reply
            }
        });
        let age = self.limits.connection_age_max.0;
        let spread = u32::try_from(self.entropy.next() % AGE_SPREAD).unwrap_or(0);
        let age = age + age / 100 * spread;
        if h2 {
            let connection = self.http2().serve_connection(io, service);
            let close = hyper::server::conn::http2::Connection::graceful_shutdown;
            watch::drive(connection, close, &activity, &self.drain, age).await
        } else {
            let connection = http1().serve_connection(io, service);
            let close = hyper::server::conn::http1::Connection::graceful_shutdown;
            watch::drive(connection, close, &activity, &self.drain, age).await
        }
    }

    fn http2(&self) -> hyper::server::conn::http2::Builder<Tracked> {
        let mut builder = hyper::server::conn::http2::Builder::new(Tracked(self.streams.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        builder
    }

    /// Waits for what is in work, up to the drain's bound, then cuts.
    async fn finish(&self, mut connections: JoinSet<()>) -> Drained {
        self.streams.close();
        let all = async {
            while let Some(ended) = connections.join_next().await {
                note_end(ended);
            }
            self.streams.wait().await;
        };
        let in_time = timeout(self.limits.drain_timeout.0, all).await.is_ok();
        let cut = connections.len();
        if !in_time {
            tracing::warn!(connections = cut, "drain ran out of time; cutting what is left");
            connections.shutdown().await;
        }
        Drained { cut }
    }
}

fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // hyper's own header timer also ends idle connections; the watchdog tells the two apart.
    builder.header_read_timeout(None).max_headers(HEADER_FIELDS_MAX).max_buf_size(HEADER_BYTES_MAX as usize);
    builder
}

/// Spawns HTTP/2 streams where a drain can wait for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future.in_current_span());
    }
}
