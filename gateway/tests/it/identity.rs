//! Callers that others vouch for: tokens of an issuer on a real socket, client certificates in real handshakes.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use meridian_gateway::{operation::Operation, telemetry::ReloadLabels};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Gateway, NOW_MS, Options, Reply, parse, raw, until};

/// An issuer of tokens.
pub(crate) struct IssuerServer {
    url: String,
    key: EncodingKey,
}

impl IssuerServer {
    pub(crate) async fn start() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("k1".to_owned());
        let keys = json!({"keys": [jwk]}).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let metadata = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (keys, metadata) = (keys.clone(), metadata.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let body = if request.uri().path() == "/keys" { keys.clone() } else { metadata.clone() };
                    std::future::ready(Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(body)))))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { url, key }
    }

    pub(crate) fn token(&self, changes: &Value) -> String {
        let now = NOW_MS / 1000;
        let mut claims = json!({
            "iss": self.url, "aud": "meridian", "sub": "u1", "groups": ["ops"], "iat": now, "exp": now + 600
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.key).unwrap()
    }

    /// The issuer as the gateway's configuration knows it.
    pub(crate) fn section(&self) -> String {
        format!(
            r#"
            [[oidc]]
            name = "corp"
            issuer = "{}"
            audiences = ["meridian"]
            [[oidc.grants]]
            claims = {{ groups = "root" }}
            role = "platform-admin"
            [[oidc.grants]]
            claims = {{ groups = "ops" }}
            tenant = "acme"
            role = "operator"
            project = "web"
            [[oidc.grants]]
            claims = {{ groups = "gone" }}
            tenant = "nobody"
            role = "viewer"
            "#,
            self.url
        )
    }
}

/// Who the operation stack was called by.
type Callers = Arc<Mutex<Vec<(String, String, String)>>>;

/// Notes who calls, and answers as the fake does.
fn noting(extra: String, server: String) -> (Options, Callers) {
    let callers = Callers::default();
    let seen = Arc::clone(&callers);
    let answer = move |operation: &Operation| {
        let caller = &operation.caller;
        let who = (caller.scope_name().to_owned(), caller.principal.clone(), caller.role.to_string());
        seen.lock().unwrap().push(who);
        None
    };
    (Options { server, extra, answer: Some(Arc::new(answer)), ..Options::default() }, callers)
}

fn who(scope: &str, principal: &str, role: &str) -> (String, String, String) {
    (scope.to_owned(), principal.to_owned(), role.to_owned())
}

#[tokio::test]
async fn a_token_of_a_trusted_issuer_is_a_credential() {
    let issuer = IssuerServer::start().await;
    let (options, callers) = noting(issuer.section(), String::new());
    let gateway = Gateway::start(options).await;
    let path = "GET /v1/tenants/acme/instances/web-1";
    // Sent at once: it waits for the first keys.
    let reply = gateway.send_as(&issuer.token(&json!({})), path, &[], b"").await;
    assert_eq!(reply.status, 200, "{}", reply.shown());
    assert!(reply.header("ratelimit").is_some(), "its tenant's limits count");
    // The first grant that fits counts; the fake behind knows nobody of the platform.
    let reply = gateway.send_as(&issuer.token(&json!({"groups": ["root", "ops"]})), path, &[], b"").await;
    assert_eq!(reply.status, 404, "{}", reply.shown());
    let expected = [who("acme", "oidc:corp:u1", "operator"), who("-", "oidc:corp:u1", "platform-admin")];
    assert_eq!(*callers.lock().unwrap(), expected);
}

#[tokio::test]
async fn wrong_tokens_are_refused_alike_and_reach_nothing() {
    let issuer = IssuerServer::start().await;
    let other = IssuerServer::start().await;
    let (options, callers) = noting(issuer.section(), String::new());
    let gateway = Gateway::start(options).await;
    let get = async |token: &str| {
        gateway.send_as(token, "GET /v1/tenants/acme/instances/web-1", &[("x-request-id", "r1")], b"").await
    };
    let mut refused: Vec<(u16, Vec<u8>)> = Vec::new();
    let forged = other.token(&json!({"iss": issuer.url}));
    let mut cut = issuer.token(&json!({}));
    cut.truncate(cut.len() - 8);
    for token in [
        forged.as_str(),
        &cut,
        "a.b.c",
        &other.token(&json!({})),
        &issuer.token(&json!({"aud": "another"})),
        &issuer.token(&json!({"nbf": NOW_MS / 1000 + 3600})),
    ] {
        let reply = get(token).await;
        refused.push((reply.status, reply.body));
    }
    assert!(refused.iter().all(|r| *r == refused[0] && r.0 == 401), "{refused:?}");
    let expired = get(&issuer.token(&json!({"iat": NOW_MS / 1000 - 900, "exp": NOW_MS / 1000 - 60}))).await;
    assert_eq!((expired.status, expired.code().as_str()), (401, "unauthenticated"));
    assert!(expired.json()["detail"].as_str().unwrap().contains("expired"), "{}", expired.shown());
    for groups in [json!(["none"]), json!(["gone"])] {
        let reply = get(&issuer.token(&json!({ "groups": groups }))).await;
        assert_eq!((reply.status, reply.code().as_str()), (403, "permission-denied"), "{}", reply.shown());
    }
    assert!(callers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_makes_its_tokens_wait_not_wrong() {
    let issuer = IssuerServer::start().await;
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let section = issuer.section().replace(&issuer.url, &format!("http://{away}"));
    let (options, _) = noting(section, String::new());
    let gateway = Gateway::start(options).await;
    let token = issuer.token(&json!({"iss": format!("http://{away}")}));
    let reply = gateway.send_as(&token, "GET /v1/tenants/acme/instances/web-1", &[], b"").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "issuer-unavailable"), "{}", reply.shown());
    assert!(reply.header("retry-after").is_some());
}

/// Authorities and certificates of a mesh.
struct Mesh {
    dir: tempfile::TempDir,
    authority: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Mesh {
    fn new() -> Self {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mesh = Self {
            dir: tempfile::tempdir().unwrap(),
            authority: Issuer::new(params, key),
            certificate: certificate.der().clone(),
        };
        std::fs::write(mesh.path("ca.pem"), certificate.pem()).unwrap();
        let (certificate, key) = mesh.leaf();
        std::fs::write(mesh.path("cert.pem"), certificate).unwrap();
        std::fs::write(mesh.path("key.pem"), key).unwrap();
        mesh
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A new certificate for the gateway, and its key, in PEM.
    fn leaf(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem())
    }

    fn section(&self, more: &str) -> String {
        let path = |name| self.path(name).display().to_string();
        format!(
            "[server]\ntls = {{ certFile = \"{}\", keyFile = \"{}\", clientCaFile = \"{}\"{more} }}",
            path("cert.pem"),
            path("key.pem"),
            path("ca.pem")
        )
    }

    /// A certificate of this mesh for an ID.
    fn client(&self, id: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let made = params.signed_by(&key, &self.authority).unwrap();
        (made.der().clone(), PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
    }

    fn client_config(
        &self,
        client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match client {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        }
    }

    /// A request over TLS; none when the handshake or the connection fails.
    async fn get(
        &self,
        gateway: &Gateway,
        client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        bearer: Option<&str>,
    ) -> Option<Reply> {
        let config = self.client_config(client, rustls::DEFAULT_VERSIONS);
        Self::get_over(gateway, Arc::new(config), bearer).await.map(|(reply, _)| reply)
    }

    /// The same by a client that remembers its sessions; and whether the handshake was a whole one.
    async fn get_over(
        gateway: &Gateway,
        config: Arc<rustls::ClientConfig>,
        bearer: Option<&str>,
    ) -> Option<(Reply, rustls::HandshakeKind)> {
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = TcpStream::connect(gateway.api).await.unwrap();
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.ok()?;
        let kind = stream.get_ref().1.handshake_kind()?;
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut request = http::Request::get("/v1/tenants/acme/instances/web-1").header("host", "localhost");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let reply = send.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.ok()?.to_bytes();
        Some((parse(&[format!("HTTP/1.1 {status} -\r\n\r\n").as_bytes(), &body].concat()), kind))
    }
}

const GRANTS: &str = r#"
[[spiffe]]
id = "spiffe://mesh.example/ci/*"
tenant = "acme"
role = "operator"
"#;

#[tokio::test]
async fn a_certificate_of_the_mesh_is_a_credential() {
    let (mesh, stranger) = (Mesh::new(), Mesh::new());
    let (options, callers) = noting(GRANTS.to_owned(), mesh.section(""));
    let gateway = Gateway::start(options).await;
    let status = async |client, bearer| mesh.get(&gateway, client, bearer).await.map(|reply| reply.status);
    let ci = || Some(mesh.client("spiffe://mesh.example/ci/build"));
    assert_eq!(status(ci(), None).await, Some(200));
    assert_eq!(*callers.lock().unwrap(), [who("acme", "spiffe://mesh.example/ci/build", "operator")]);
    assert_eq!(status(Some(mesh.client("spiffe://mesh.example/cd")), None).await, Some(403), "no grant");
    assert_eq!(status(Some(mesh.client("https://mesh.example/ci/build")), None).await, Some(401), "no SPIFFE ID");
    assert_eq!(status(None, None).await, Some(401), "neither");
    assert_eq!(status(Some(stranger.client("spiffe://mesh.example/ci/build")), None).await, None, "another authority");
    assert_eq!(status(None, Some(&gateway.acme)).await, Some(200), "a key alone still opens");
    assert_eq!(status(ci(), Some("mrd_wrong")).await, Some(401), "a wrong key is not mended by a certificate");
    assert_eq!(status(ci(), Some(&gateway.lab)).await, Some(404), "the key is who calls");
}

#[tokio::test]
async fn who_has_to_show_a_certificate_is_not_spoken_to_without_one() {
    let mesh = Mesh::new();
    let (options, _) = noting(GRANTS.to_owned(), mesh.section(", clientAuth = \"required\""));
    let gateway = Gateway::start(options).await;
    assert!(mesh.get(&gateway, None, Some(&gateway.acme)).await.is_none());
    let ci = mesh.client("spiffe://mesh.example/ci/build");
    assert_eq!(mesh.get(&gateway, Some(ci), None).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_certificate_is_verified_in_every_handshake() {
    let mesh = Mesh::new();
    let (options, _) = noting(GRANTS.to_owned(), mesh.section(""));
    let gateway = Gateway::start(options).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let ci = mesh.client("spiffe://mesh.example/ci/build");
        let config = Arc::new(mesh.client_config(Some(ci), &[version]));
        for _ in 0..3 {
            let (reply, kind) = Mesh::get_over(&gateway, Arc::clone(&config), None).await.unwrap();
            assert_eq!((reply.status, kind), (200, rustls::HandshakeKind::Full), "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_head_that_a_client_writes_itself_proves_nothing() {
    let (options, callers) = noting(String::new(), String::new());
    let gateway = Gateway::start(options).await;
    for header in ["x-forwarded-client-cert", "x-spiffe-id", "x-tenant", "x-client-cert"] {
        let headers = [(header, "URI=spiffe://mesh.example/ci/build")];
        let reply = raw(gateway.api, "GET /v1/tenants/acme/instances/web-1", &headers, b"").await;
        assert_eq!(reply.status, 401);
    }
    assert!(callers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_new_certificate_on_disk_is_served_without_a_restart() {
    let mesh = Mesh::new();
    let (options, _) = noting(GRANTS.to_owned(), mesh.section(", reloadInterval = \"10ms\""));
    let gateway = Gateway::start(options).await;
    let reloads = |outcome| gateway.metrics.tls_reloads.get_or_create(&ReloadLabels { outcome }).get();
    let served = async || {
        let config = mesh.client_config(None, rustls::DEFAULT_VERSIONS);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(gateway.api).await.unwrap();
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = served().await;
    // Half a change, a certificate without its key, is not taken.
    let old_key = std::fs::read(mesh.path("key.pem")).unwrap();
    std::fs::write(mesh.path("cert.pem"), mesh.leaf().0).unwrap();
    until("the half change is refused", || reloads("refused") > 0).await;
    assert_eq!((served().await, reloads("taken")), (first.clone(), 0));
    let (certificate, key) = mesh.leaf();
    assert_ne!(key.as_bytes(), old_key);
    std::fs::write(mesh.path("cert.pem"), certificate).unwrap();
    std::fs::write(mesh.path("key.pem"), key).unwrap();
    until("the whole change is taken", || reloads("taken") > 0).await;
    assert_ne!(served().await, first);
}
