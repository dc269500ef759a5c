//! The simulated network below every seam: turmoil's sockets, tapped for the trace and for stalls.
//!
//! A stalled host neither reads nor writes, while its peers, the network and everybody's clocks go on: what a process
//! that the system does not run looks like from outside. Its own timers still fire, which a stopped process' would do
//! at once when it goes on.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use meridian_adapters::dial::{Dial, Dialling};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use turmoil::net::{TcpListener, TcpStream};

use super::trace::Trace;

/// The port every simulated service listens on.
pub const PORT: u16 = 80;

/// A host's end of its connections.
#[derive(Debug, Clone)]
pub struct Host {
    name: Arc<str>,
    trace: Arc<Trace>,
}

impl Host {
    /// A host by its name.
    #[must_use]
    pub fn new(name: &str, trace: &Arc<Trace>) -> Self {
        Self { name: Arc::from(name), trace: Arc::clone(trace) }
    }

    fn tap(&self, inner: TcpStream, peer: &str) -> Tapped {
        Tapped { inner, host: self.clone(), peer: Arc::from(peer), opened_ms: self.trace.elapsed_ms(), nap: None }
    }

    /// Connects to a host by name.
    ///
    /// # Errors
    /// Nobody listens there, or the network does not lead there.
    pub async fn connect(&self, to: &str, port: u16) -> io::Result<Tapped> {
        // A host without a name is the world's mistake, and turmoil panics on one.
        let stream = TcpStream::connect((to, port)).await?;
        Ok(self.tap(stream, to))
    }

    /// Listens on a port of this host.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn listen(&self, port: u16) -> io::Result<Listener> {
        let inner = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await?;
        Ok(Listener { inner, host: self.clone() })
    }
}

impl Dial for Host {
    fn dial(&self, host: &str, port: u16) -> Dialling {
        let (this, to) = (self.clone(), host.to_owned());
        Box::pin(async move {
            let stream = this.connect(&to, port).await?;
            Ok(Box::new(stream) as Box<dyn meridian_adapters::dial::Stream>)
        })
    }
}

/// A listener of a host.
pub struct Listener {
    inner: TcpListener,
    host: Host,
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// As turmoil's.
    pub async fn next(&mut self) -> io::Result<(Tapped, SocketAddr)> {
        let (stream, peer) = self.inner.accept().await?;
        let name = turmoil::reverse_lookup(peer.ip()).unwrap_or_default();
        Ok((self.host.tap(stream, &name), peer))
    }
}

impl meridian_gateway::server::Listen for Listener {
    type Stream = Tapped;

    async fn accept(&mut self) -> io::Result<(Tapped, SocketAddr)> {
        self.next().await
    }
}

/// The network of a simulated region.
#[derive(Debug, Clone)]
pub struct CloudNet(pub Host);

impl meridian_cloudsim::Net for CloudNet {
    type Stream = Tapped;
    type Listener = Listener;
    type Held = ();

    async fn listen(&self, _: Option<()>) -> io::Result<Listener> {
        self.0.listen(PORT).await
    }

    fn hold(&self, listener: Listener) {
        drop(listener);
    }

    async fn accept(listener: &mut Listener) -> io::Result<Tapped> {
        listener.next().await.map(|(stream, _)| stream)
    }
}

/// A connection with the trace on it.
pub struct Tapped {
    inner: TcpStream,
    host: Host,
    peer: Arc<str>,
    opened_ms: u64,
    nap: Option<Pin<Box<Sleep>>>,
}

impl Tapped {
    /// Waits out a stall of the host; an error when the connection is dead.
    fn poll_awake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(nap) = &mut self.nap {
                ready!(nap.as_mut().poll(cx));
                self.nap = None;
            }
            let left = self.host.trace.stalled_for(&self.host.name);
            if left == Duration::ZERO {
                let ends = (&*self.host.name, &*self.peer);
                let dead = self.host.trace.is_cut(ends, self.opened_ms, cx.waker());
                return Poll::Ready(if dead { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) });
            }
            self.nap = Some(Box::pin(tokio::time::sleep(left)));
        }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_awake(cx))?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_awake(cx))?;
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.host.trace.wrote(&self.host.name, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_awake(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
