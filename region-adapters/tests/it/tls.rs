//! TLS to the vendors is verified: chain and host name. What fails is known to be unsent.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use meridian_adapters::http::{HttpClient, Sent, TransportError};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// A server with a certificate for `host`, that answers each connection once; its URL and certificate.
async fn server(host: &str) -> (String, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([host.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    (format!("https://localhost:{port}/"), cert.der().clone())
}

fn trusting(root: CertificateDer<'static>) -> HttpClient {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    HttpClient::with_tls(tls)
}

async fn get(client: &HttpClient, url: &str) -> Result<Bytes, TransportError> {
    let request = http::Request::get(url).body(Bytes::new()).unwrap();
    client.send(request, Duration::from_secs(10)).await.map(http::Response::into_body)
}

#[tokio::test]
async fn a_trusted_certificate_is_taken() {
    let (url, cert) = server("localhost").await;
    assert_eq!(get(&trusting(cert), &url).await.unwrap(), "ok");
}

#[tokio::test]
async fn an_unknown_certificate_is_not() {
    let (url, _) = server("localhost").await;
    let error = get(&HttpClient::new().unwrap(), &url).await.unwrap_err();
    assert!(error.sent == Sent::Never && error.detail.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not() {
    let (url, cert) = server("elsewhere.example").await;
    let error = get(&trusting(cert), &url).await.unwrap_err();
    assert!(error.sent == Sent::Never && error.detail.contains("certificate"), "{error}");
}
