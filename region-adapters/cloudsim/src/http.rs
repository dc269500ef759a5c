//! HTTP/1.1 servers for the faces: one listener per region, with the ways a region can be out of reach.
//!
//! A call runs in its own task: a client that goes away ends the waiting, never the effect, as at a real vendor.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::core::{Outage, RegionKey};
use crate::rim::Rim;

/// Largest body: Tencent's documented 10 MB for signature TC3 (vendor-api README 2.1).
pub(crate) const BODY_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Most headers of a request; SDKs send about fifteen.
const HEADERS_MAX: usize = 64;
/// Buffer for the head of a request: ECI puts whole specs, config files included, into the query.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// An idle or half-sent head is given up after this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at once per listener; more wait in the backlog.
const CONNECTIONS_MAX: usize = 4_096;
/// A hanging reply is given up after this, whatever the fault says.
const HANG_MAX: Duration = Duration::from_secs(600);
const BACKLOG: u32 = 1_024;
/// Between tries to listen again after an outage.
const RELISTEN_EVERY: Duration = Duration::from_millis(20);

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Takes over a connection that switched protocols.
pub(crate) type OnUpgrade = Box<dyn FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> BoxFuture<()> + Send>;

/// What a face does with a request.
pub(crate) enum FaceReply {
    /// Answers.
    Response(Response<Bytes>),
    /// Closes the connection without a byte.
    Cut,
    /// Never answers.
    #[expect(dead_code, reason = "part of what a face may do; black holes are made by the listener")]
    Hang,
    /// Answers 101 and takes the connection over.
    Upgrade(Response<Bytes>, OnUpgrade),
}

/// A vendor's API in one region.
pub(crate) trait Face: Send + Sync + 'static {
    /// Answers one request. The body is whole and at most [`BODY_BYTES_MAX`].
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> BoxFuture<FaceReply>;

    /// Answers a request whose body is too large.
    fn too_large(&self) -> Response<Bytes> {
        status_only(StatusCode::PAYLOAD_TOO_LARGE)
    }
}

/// A reply without a body.
pub(crate) fn status_only(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// The request makes hyper drop the connection.
#[derive(Debug, thiserror::Error)]
#[error("connection cut on purpose")]
struct CutOff;

fn socket(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Binds and listens; port 0 takes a free one.
pub(crate) fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    socket(addr)?.listen(BACKLOG)
}

/// Where calls come from: the seam at which a simulated network takes the place of the system's.
pub trait Net: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What accepts them.
    type Listener: Send;
    /// The address while nothing listens there.
    type Held: Send;

    /// Listens, again if the address was held.
    fn listen(&self, held: Option<Self::Held>) -> impl Future<Output = std::io::Result<Self::Listener>> + Send;

    /// Stops listening, so that connects are refused, and keeps the address.
    fn hold(&self, listener: Self::Listener) -> Self::Held;

    /// The next connection.
    fn accept(listener: &mut Self::Listener) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

/// The system's network at one address.
pub(crate) struct Tcp(pub(crate) SocketAddr);

impl Net for Tcp {
    type Stream = TcpStream;
    type Listener = TcpListener;
    /// Bound but not listening, so that nobody else takes the port.
    type Held = Option<TcpSocket>;

    async fn listen(&self, held: Option<Self::Held>) -> std::io::Result<TcpListener> {
        let socket = held.flatten().map_or_else(|| socket(self.0), Ok)?;
        socket.listen(BACKLOG)
    }

    fn hold(&self, listener: TcpListener) -> Self::Held {
        drop(listener);
        socket(self.0).ok()
    }

    async fn accept(listener: &mut TcpListener) -> std::io::Result<TcpStream> {
        let (stream, _) = listener.accept().await?;
        // Small replies must not wait for a full segment.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Serves a face until the rim stops. `region` is `None` for the control API, which knows no outage.
pub(crate) async fn serve<N: Net>(
    rim: Arc<Rim>,
    (net, mut listener): (N, N::Listener),
    region: Option<RegionKey>,
    face: Arc<dyn Face>,
) {
    // Without a region nothing is ever sent; the sender lives as long as this function.
    let (_never, no_outage) = watch::channel(None);
    let mut outage = region.as_ref().map_or(no_outage, |key| rim.watch_outage(key));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        if *outage.borrow_and_update() == Some(Outage::Refused) {
            let held = net.hold(listener);
            match refuse_until_over(&rim, (&net, held), &mut outage).await {
                Some(again) => listener = again,
                None => return,
            }
        }
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        tokio::select! {
            biased;
            () = rim.stop.cancelled() => return,
            changed = outage.changed() => if changed.is_err() { return },
            accepted = N::accept(&mut listener) => match accepted {
                Ok(stream) => {
                    let connection = Connection {
                        region: region.clone(),
                        rim: Arc::clone(&rim),
                        face: Arc::clone(&face),
                        outage: outage.clone(),
                    };
                    rim.tasks.spawn(async move {
                        connection.run(stream).await;
                        drop(slot);
                    });
                }
                // Out of file descriptors, or the peer is gone already: the next one may do better.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(RELISTEN_EVERY).await;
                }
            },
        }
    }
}

/// Waits for the end of an outage in which nothing listens, and listens again.
async fn refuse_until_over<N: Net>(
    rim: &Rim,
    (net, held): (&N, N::Held),
    outage: &mut watch::Receiver<Option<Outage>>,
) -> Option<N::Listener> {
    let mut held = Some(held);
    loop {
        if *outage.borrow_and_update() != Some(Outage::Refused) {
            match net.listen(held.take()).await {
                Ok(listener) => return Some(listener),
                Err(error) => tracing::warn!(%error, "cannot listen again yet"),
            }
            tokio::time::sleep(RELISTEN_EVERY).await;
            continue;
        }
        tokio::select! {
            biased;
            () = rim.stop.cancelled() => return None,
            changed = outage.changed() => changed.ok()?,
        }
    }
}

#[derive(Clone)]
struct Connection {
    region: Option<RegionKey>,
    rim: Arc<Rim>,
    face: Arc<dyn Face>,
    outage: watch::Receiver<Option<Outage>>,
}

impl Connection {
    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut outage = self.outage.clone();
        let stop = self.rim.stop.clone();
        let service = service_fn(move |request| self.clone().answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            biased;
            result = connection => if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            },
            () = refused(&mut outage) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, CutOff> {
        let mut outage = self.outage.clone();
        let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        if *outage.borrow() == Some(Outage::Blackhole) {
            self.count_swallowed(&request);
        }
        self.blackhole(&mut outage).await?;
        let (parts, body) = request.into_parts();
        let reply = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => self.handle(Request::from_parts(parts, body.to_bytes())).await,
            Err(error) if error.is::<LengthLimitError>() => FaceReply::Response(self.face.too_large()),
            Err(_) => FaceReply::Cut,
        };
        // An outage that began meanwhile swallows the reply: the effect stays.
        self.blackhole(&mut outage).await?;
        match reply {
            FaceReply::Response(response) => Ok(response.map(Full::new)),
            FaceReply::Cut => Err(CutOff),
            FaceReply::Hang => {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(HANG_MAX) => {}
                    () = self.rim.stop.cancelled() => {}
                }
                Err(CutOff)
            }
            FaceReply::Upgrade(response, then) => {
                if let Some(upgrade) = upgrade {
                    let stop = self.rim.stop.clone();
                    self.rim.tasks.spawn(async move {
                        let Ok(upgraded) = upgrade.await else { return };
                        tokio::select! {
                            biased;
                            () = then(TokioIo::new(upgraded)) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Ok(response.map(Full::new))
            }
        }
    }

    async fn handle(&self, request: Request<Bytes>) -> FaceReply {
        let face = Arc::clone(&self.face);
        let call = self.rim.tasks.spawn(async move { face.handle(request).await });
        match call.await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::error!(%error, "a face panicked");
                FaceReply::Response(status_only(StatusCode::INTERNAL_SERVER_ERROR))
            }
        }
    }

    /// A request that falls into a black hole is counted by what its headers say it is: how else would anybody prove
    /// that a client stopped sending.
    fn count_swallowed(&self, request: &Request<Incoming>) {
        let Some(region) = &self.region else { return };
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        let action = header("x-tc-action").or_else(|| header("x-acs-action")).unwrap_or("unknown");
        self.rim.with(|world, now_ms| world.count_call(region, action, "Blackhole", now_ms));
    }

    /// Waits while the region is a black hole, and cuts what waited.
    async fn blackhole(&self, outage: &mut watch::Receiver<Option<Outage>>) -> Result<(), CutOff> {
        if *outage.borrow_and_update() != Some(Outage::Blackhole) {
            return Ok(());
        }
        tokio::select! {
            biased;
            _ = outage.wait_for(|o| *o != Some(Outage::Blackhole)) => {}
            () = tokio::time::sleep(HANG_MAX) => {}
            () = self.rim.stop.cancelled() => {}
        }
        Err(CutOff)
    }
}

async fn refused(outage: &mut watch::Receiver<Option<Outage>>) {
    if outage.wait_for(|o| *o == Some(Outage::Refused)).await.is_err() {
        std::future::pending::<()>().await;
    }
}
