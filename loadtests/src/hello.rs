//! The yardstick: hyper and nothing else, answering every request with the same bytes.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

/// Connections at once; more are closed. Twice what a scenario may open.
const CONNECTIONS_MAX: usize = 2048;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `body_len` bytes to every request, for ever.
///
/// # Errors
/// The listener has no address any more.
pub async fn serve(listener: TcpListener, body_len: usize) -> anyhow::Result<()> {
    let body = Bytes::from(vec![b'x'; body_len]);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if connections.len() >= CONNECTIONS_MAX || stream.set_nodelay(true).is_err() {
            continue;
        }
        let body = body.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, body.clone()));
            // A connection that breaks is the client's business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[expect(clippy::unused_async, reason = "hyper's service is asynchronous")]
async fn answer(_: Request<Incoming>, body: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut reply = Response::new(Full::new(body));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

/// The line that tells where a hello server listens.
#[must_use]
pub fn ready_line(address: SocketAddr) -> String {
    format!("{{\"ready\":true,\"hello\":\"http://{address}\"}}")
}
