//! The seam below the shared client: whoever hands out connections decides what network there is.
//!
//! In production hyper's own TCP and TLS connectors do; the simulation hands out connections of its simulated
//! network. The seam ends below HTTP, so that everything above it is the code that runs in production.

use std::{
    fmt::Debug,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection under way.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Opens connections.
pub trait Dial: Debug + Send + Sync + 'static {
    /// Connects to a host by name or address.
    ///
    /// # Errors
    /// There is no connection, and not a byte was sent.
    fn dial(&self, host: &str, port: u16) -> Dialling;
}

/// Port of a URL that names none.
const HTTP_PORT: u16 = 80;

/// A [`Dial`] as hyper's client wants it.
#[derive(Debug, Clone)]
pub(crate) struct Dialler(pub(crate) Arc<dyn Dial>);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<Uri> for Dialler {
    type Response = TokioIo<Dialled>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let dialling = self.0.dial(to.host().unwrap_or_default(), to.port_u16().unwrap_or(HTTP_PORT));
        Box::pin(async move { Ok(TokioIo::new(Dialled(dialling.await?))) })
    }
}

/// A connection that hyper's client can pool.
pub(crate) struct Dialled(Box<dyn Stream>);

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
