//! The shared client on real sockets: what is known to be unsent, and what is not.

use std::time::Duration;

use bytes::Bytes;
use meridian_adapters::http::{HttpClient, REPLY_BYTES_MAX, Sent, TransportError};
use meridian_model::error::{Effect, FaultKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(10);

fn post(url: &str) -> http::Request<Bytes> {
    http::Request::post(url).body(Bytes::from_static(b"{\"a\":1}")).unwrap()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

/// Reads one request with its body.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        text.extend_from_slice(&buffer[..n]);
        if n == 0 || text.ends_with(b"{\"a\":1}") {
            return String::from_utf8_lossy(&text).into_owned();
        }
    }
}

fn assert_unknown(error: TransportError, code: &str) {
    assert_eq!((error.sent, error.code), (Sent::Maybe, code), "{error}");
    let write = error.clone().of_write();
    assert_eq!((write.kind, write.effect), (FaultKind::Lost, Effect::Unknown));
    assert_eq!(error.of_read().effect, Effect::NotApplied);
}

fn assert_unsent(error: TransportError) {
    assert_eq!((error.sent, error.code), (Sent::Never, "transport.connect"), "{error}");
    let write = error.of_write();
    assert_eq!((write.kind, write.effect), (FaultKind::Unreachable, Effect::NotApplied));
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let (listener, url) = listener().await;
    drop(listener);
    assert_unsent(HttpClient::new().unwrap().send(post(&url), LIMIT).await.unwrap_err());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_sent_nothing() {
    assert_unsent(HttpClient::new().unwrap().send(post("http://nowhere.invalid/"), LIMIT).await.unwrap_err());
}

#[tokio::test]
async fn a_failed_handshake_sent_nothing() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 this is not TLS\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        rest
    });
    let error = HttpClient::new().unwrap().send(post(&url.replace("http:", "https:")), LIMIT).await.unwrap_err();
    assert_unsent(error);
    let seen = server.await.unwrap();
    assert!(!seen.windows(4).any(|w| w == b"POST"), "no request in the clear");
}

#[tokio::test]
async fn a_handshake_that_never_ends_sent_nothing() {
    let (listener, url) = listener().await;
    let error = HttpClient::new().unwrap().send(post(&url.replace("http:", "https:")), LIMIT).await.unwrap_err();
    assert_unsent(error);
    drop(listener);
}

/// The limit of the call may come before that of connecting: still nothing was sent, and that is known.
#[tokio::test]
async fn a_call_that_ends_while_connecting_sent_nothing() {
    let (listener, url) = listener().await;
    let url = url.replace("http:", "https:");
    let error = HttpClient::new().unwrap().send(post(&url), Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((error.sent, error.code), (Sent::Never, "transport.timeout"), "{error}");
    assert_eq!(error.of_write().effect, Effect::NotApplied);
    drop(listener);
}

#[tokio::test]
async fn a_cut_after_the_request_is_unknown() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await
    });
    assert_unknown(HttpClient::new().unwrap().send(post(&url), LIMIT).await.unwrap_err(), "transport.cut");
    assert!(server.await.unwrap().starts_with("POST / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_cut_inside_the_reply_is_unknown() {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await.unwrap();
    });
    assert_unknown(HttpClient::new().unwrap().send(post(&url), LIMIT).await.unwrap_err(), "transport.cut");
}

#[tokio::test]
async fn a_silent_server_is_unknown_in_time() {
    let (listener, url) = listener().await;
    let error = HttpClient::new().unwrap().send(post(&url), Duration::from_millis(200)).await.unwrap_err();
    assert_unknown(error, "transport.timeout");
    drop(listener);
}

#[tokio::test]
async fn a_reply_without_end_is_not_read_to_its_end() {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..2 * REPLY_BYTES_MAX / chunk.len() {
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
    assert_unknown(HttpClient::new().unwrap().send(post(&url), LIMIT).await.unwrap_err(), "transport.oversize");
}

#[tokio::test]
async fn a_redirect_is_a_reply() {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        let reply = b"HTTP/1.1 302 Found\r\nlocation: http://nowhere.invalid/\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(reply).await.unwrap();
    });
    assert_eq!(HttpClient::new().unwrap().send(post(&url), LIMIT).await.unwrap().status(), 302);
}

/// The server answers once, takes the second request on the same connection and closes without a word: it may
/// have acted, so this is no less unknown than on a new connection, and it is not sent again.
#[tokio::test]
async fn a_reused_connection_that_is_cut_is_unknown() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        let second = read_request(&mut stream).await;
        drop(stream);
        let third = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
        (second, third.is_ok())
    });
    let client = HttpClient::new().unwrap();
    assert_eq!(&client.send(post(&url), LIMIT).await.unwrap().body()[..], b"ok");
    assert_unknown(client.send(post(&url), LIMIT).await.unwrap_err(), "transport.cut");
    let (second, sent_again) = server.await.unwrap();
    assert!(second.starts_with("POST"), "the connection was reused");
    assert!(!sent_again);
}

/// The server closes the idle connection: the next request goes over a new one and is sent once.
#[tokio::test]
async fn a_closed_idle_connection_is_replaced() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let mut requests = 0;
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            requests += 1;
            let reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(reply).await.unwrap();
        }
        requests
    });
    let client = HttpClient::new().unwrap();
    for _ in 0..2 {
        assert_eq!(client.send(post(&url), LIMIT).await.unwrap().status(), 200);
    }
    assert_eq!(server.await.unwrap(), 2);
}
