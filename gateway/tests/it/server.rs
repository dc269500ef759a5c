//! Listeners: TLS with both protocols, drain, bounds on what a peer can hold open.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meridian_gateway::telemetry::ConnectionLabels;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Gateway, Options, PATIENCE, raw, until};

struct Pki {
    _dir: tempfile::TempDir,
    server: String,
    client: Arc<rustls::RootCertStore>,
}

fn pki() -> Pki {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = format!("[server]\ntls = {{ certFile = \"{}\", keyFile = \"{}\" }}", cert.display(), key.display());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    Pki { _dir: dir, server, client: Arc::new(roots) }
}

async fn tls(gateway: &Gateway, pki: &Pki, alpn: &[&[u8]]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(&pki.client))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(gateway.api).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

fn request(key: &str, uri: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(uri)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {key}"))
        .body(Empty::new())
        .unwrap()
}

#[tokio::test]
async fn tls_speaks_http2_and_http1() {
    let pki = pki();
    let gateway = Gateway::start(Options { server: pki.server.clone(), ..Options::default() }).await;
    let stream = tls(&gateway, &pki, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..3 {
        let uri = "https://localhost/v1/tenants/acme/instances/web-1";
        let reply = send.send_request(request(&gateway.acme, uri)).await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_2));
        assert!(reply.into_body().collect().await.unwrap().to_bytes().starts_with(b"{\"name\":"));
    }
    drop(send);
    driver.await.unwrap().unwrap();
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let stream = tls(&gateway, &pki, alpn).await;
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let reply = send.send_request(request(&gateway.acme, "/v1/tenants/acme/instances/web-1")).await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_11));
        drop(reply.into_body().collect().await.unwrap());
        drop(send);
        driver.await.unwrap().unwrap();
    }
}

fn with_limits(limits: &str) -> Options {
    Options { server: format!("[server]\nlimits = {{ {limits} }}"), ..Options::default() }
}

/// Reads until the server closes; fails when it does not.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server did not close");
    bytes
}

async fn dropped(gateway: &Gateway, reason: &'static str) -> u64 {
    until("the connection is counted as dropped", || {
        gateway.metrics.connections_dropped.get_or_create(&ConnectionLabels { reason }).get() > 0
    })
    .await;
    gateway.metrics.connections_dropped.get_or_create(&ConnectionLabels { reason }).get()
}

#[tokio::test]
async fn silence_half_headers_and_idleness_end_a_connection() {
    let limits = "handshakeTimeout = \"40ms\", headerTimeout = \"40ms\", idleTimeout = \"80ms\"";
    let gateway = Gateway::start(with_limits(limits)).await;
    let mut silent = TcpStream::connect(gateway.api).await.unwrap();
    assert!(closed(&mut silent).await.is_empty());
    assert_eq!(dropped(&gateway, "first-byte").await, 1);
    let mut slow = TcpStream::connect(gateway.api).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: g\r\nx: ").await.unwrap();
    assert!(closed(&mut slow).await.is_empty());
    assert_eq!(dropped(&gateway, "headers").await, 1);
    let mut idle = TcpStream::connect(gateway.api).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    let answer = closed(&mut idle).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "served first, then closed for idleness");
    until("every connection is gone", || gateway.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn a_slow_body_is_not_waited_for() {
    let gateway = Gateway::start(with_limits("bodyRateMin = 1000000, requestTimeout = \"20s\"")).await;
    let mut stream = TcpStream::connect(gateway.api).await.unwrap();
    let head = format!(
        "POST /v1/tenants/acme/instances HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{",
        gateway.acme
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = String::from_utf8(closed(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("more slowly"), "{answer}");
}

#[tokio::test]
async fn a_peer_has_a_bound_on_connections() {
    let gateway = Gateway::start(with_limits("connectionsPerPeerMax = 2")).await;
    let held = [TcpStream::connect(gateway.api).await.unwrap(), TcpStream::connect(gateway.api).await.unwrap()];
    until("both are taken in", || gateway.metrics.connections.get() == 2).await;
    let mut third = TcpStream::connect(gateway.api).await.unwrap();
    assert!(closed(&mut third).await.is_empty());
    drop(held);
    until("the places are given back", || gateway.metrics.connections.get() == 0).await;
    assert_eq!(raw(gateway.api, "GET /healthz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_refused() {
    let gateway = Gateway::usual().await;
    let many: Vec<(String, String)> = (0..70).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(raw(gateway.api, "GET /healthz", &many, b"").await.status, 431);
    let large = "v".repeat(20_000);
    assert_eq!(raw(gateway.api, "GET /healthz", &[("x", &large)], b"").await.status, 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_requests_end_and_takes_no_more() {
    let (release, held) = tokio::sync::watch::channel(false);
    let answer = move |_: &meridian_gateway::operation::Operation| {
        // The fake answers in its own time: this thread is the request's.
        let mut held = held.clone();
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async { held.wait_for(|open| *open).await.map(drop).unwrap() });
        });
        None
    };
    let run = async move {
        let gateway = Gateway::start(Options { answer: Some(Arc::new(answer)), ..Options::default() }).await;
        let (api, key) = (gateway.api, gateway.acme.clone());
        let pending = tokio::spawn(async move {
            let bearer = format!("Bearer {key}");
            raw(api, "GET /v1/tenants/acme/instances/web-1", &[("authorization", &bearer)], b"").await
        });
        until("the request is in work", || gateway.metrics.in_flight.get() == 1).await;
        gateway.drain.cancel();
        until("the listener is closed", || std::net::TcpStream::connect(api).is_err()).await;
        assert!(!gateway.ended.is_finished(), "it waits for the request");
        release.send(true).unwrap();
        assert_eq!(pending.await.unwrap().status, 200);
        assert_eq!(tokio::time::timeout(PATIENCE, gateway.ended).await.unwrap().unwrap().cut, 0);
    };
    tokio::time::timeout(PATIENCE, run).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_by_its_bound() {
    let server = "[server]\nlimits = { drainTimeout = \"60ms\" }".to_owned();
    let gateway = Gateway::start(Options { server, stuck: true, ..Options::default() }).await;
    let (api, key) = (gateway.api, gateway.acme.clone());
    let request =
        format!("GET /v1/tenants/acme/instances/a HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\n\r\n");
    let mut stream = TcpStream::connect(api).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    until("the request is in work", || gateway.metrics.in_flight.get() == 1).await;
    gateway.drain.cancel();
    let drained = tokio::time::timeout(PATIENCE, gateway.ended).await.unwrap().unwrap();
    assert_eq!(drained.cut, 1);
    assert!(closed(&mut stream).await.is_empty());
    until("its place is given back", || gateway.metrics.in_flight.get() == 0).await;
}

#[tokio::test]
async fn old_connections_are_asked_to_close() {
    let gateway = Gateway::start(with_limits("connectionAgeMax = \"50ms\", headerTimeout = \"40ms\"")).await;
    let mut stream = TcpStream::connect(gateway.api).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    assert!(closed(&mut stream).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_half_handshake_is_not_waited_for() {
    let pki = pki();
    let server = format!("{}\nlimits = {{ handshakeTimeout = \"40ms\" }}", pki.server);
    let gateway = Gateway::start(Options { server, ..Options::default() }).await;
    let mut stream = TcpStream::connect(gateway.api).await.unwrap();
    // The first bytes of a ClientHello and no more.
    stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    assert!(closed(&mut stream).await.is_empty());
    assert_eq!(dropped(&gateway, "handshake-timeout").await, 1);
    let mut plain = TcpStream::connect(gateway.api).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    closed(&mut plain).await;
    assert_eq!(dropped(&gateway, "handshake").await, 1);
}

/// A peer that negotiated HTTP/2 and then says nothing, or half a preface.
#[tokio::test]
async fn a_silent_http2_peer_is_cut() {
    let pki = pki();
    let limits = "limits = { handshakeTimeout = \"500ms\", headerTimeout = \"60ms\" }";
    let gateway = Gateway::start(Options { server: format!("{}\n{limits}", pki.server), ..Options::default() }).await;
    for (said, reason) in [(&b""[..], "first-byte"), (b"PRI * HTT", "headers")] {
        let mut stream = tls(&gateway, &pki, &[b"h2"]).await;
        stream.write_all(said).await.unwrap();
        stream.flush().await.unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server did not close");
        assert_eq!(dropped(&gateway, reason).await, 1, "{reason}");
    }
}

/// Ambiguous framing must never make one request look like two.
#[tokio::test]
async fn ambiguous_lengths_are_one_request_at_most() {
    let gateway = Gateway::usual().await;
    let inner = "GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n";
    for framing in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        " folded: header\r\n",
        "bad header: x\r\n",
    ] {
        let text = format!("POST /v1/tenants HTTP/1.1\r\nhost: g\r\n{framing}\r\n{inner}");
        let answer =
            String::from_utf8_lossy(&crate::support::exchange(gateway.api, text.as_bytes()).await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{framing:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{framing:?}: {answer}");
    }
}
