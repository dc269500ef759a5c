//! One kept-alive HTTP/1.1 connection: as little as possible between the clock and the socket.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// One request, connecting included. Far above any latency worth a percentile, below the wait of a person.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest body read: a page of 1,000 instances with room to spare.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection that opens when it is first used and again after it broke.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Drives the socket; ends with the connection.
    _driver: JoinSet<()>,
}

/// A complete reply.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, if it was to be kept; else empty.
    pub body: Bytes,
    /// Bytes of the body.
    pub body_len: usize,
}

impl Reply {
    /// Bytes of the reply on the wire: status line, headers and body, as HTTP/1.1 writes them.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.head_len() + self.body_len
    }

    /// Bytes of status line and headers.
    #[must_use]
    pub fn head_len(&self) -> usize {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let line = "HTTP/1.1 200 ".len() + reason.len() + 2;
        line + self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + 2
    }
}

/// What of a reply's body is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of it.
    Body,
    /// Only of a reply whose status is an error: it names its code.
    Errors,
}

impl Connection {
    /// A connection to an address; nothing is opened yet.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, open: None }
    }

    /// Sends a request and reads the whole reply.
    ///
    /// # Errors
    /// No connection, no complete reply within [`REQUEST_TIMEOUT`], or more than [`REPLY_BYTES_MAX`]. The next
    /// request opens a new connection.
    pub async fn send(&mut self, request: Request<Full<Bytes>>, keep: Keep) -> anyhow::Result<Reply> {
        let exchanged = timeout(REQUEST_TIMEOUT, self.exchange(request, keep)).await;
        let reply = exchanged.unwrap_or_else(|_| Err(anyhow::anyhow!("timeout")));
        if reply.is_err() {
            self.open = None;
        }
        reply
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>, keep: Keep) -> anyhow::Result<Reply> {
        let usable = match &mut self.open {
            // A server may close a kept-alive connection at any time; that is not an error of the next request.
            Some(open) => open.sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.open = Some(connect(self.address).await?);
        }
        let Some(open) = &mut self.open else { bail!("not connected") };
        let reply = open.sender.send_request(request).await.context("cut")?;
        read(reply, keep).await
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<Open> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true).context("connect")?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.context("connect")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // The sender's caller sees the same failure.
        let _ = driver.await;
    });
    Ok(Open { sender, _driver: tasks })
}

async fn read(reply: http::Response<Incoming>, keep: Keep) -> anyhow::Result<Reply> {
    let (parts, mut body) = reply.into_parts();
    let kept = keep == Keep::Body || !parts.status.is_success();
    let (mut bytes, mut body_len) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("cut")?.into_data() else { continue };
        body_len += data.len();
        if body_len > REPLY_BYTES_MAX {
            bail!("oversize");
        }
        if kept {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Reply { status: parts.status, headers: parts.headers, body: bytes.freeze(), body_len })
}
