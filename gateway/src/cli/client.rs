//! A small client of the REST API: one connection kept alive, bounded retries, errors as [`Failure`]s.
//!
//! A create is repeated only under its idempotency key, so a repetition joins the first; reads and deletes may be
//! repeated by their nature. What the gateway answered for good (no capacity, quota) is never repeated here.

use std::{fmt::Write as _, path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    context::Connection,
    failure::{Exit, Failure, ProblemBody},
    output::{note, text},
};

/// Tries of one request in all.
const TRIES_MAX: u32 = 4;
/// Pause before the second try; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// Longest `Retry-After` that is honoured; a person does not wait longer for a prompt.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Resolving, connecting and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request: the gateway's own bound is 15 s by default and 120 s at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer: 1000 instances of 32 KiB.
const ANSWER_LEN_MAX: usize = 32 * 1024 * 1024;
/// What may stand in a path segment or query value as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Codes that a little patience heals.
const PASSING: [&str; 4] = ["rate-limited", "overloaded", "store-unavailable", "revision-not-reached"];

/// A segment of a path or a value of a query.
#[must_use]
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Option<Bytes>,
    headers: Vec<(&'static str, String)>,
}

impl Ask {
    /// Reads a path (with its query).
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, headers: Vec::new() }
    }

    /// Deletes a path.
    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: None, headers: Vec::new() }
    }

    /// Puts a body, in place of what has this entity tag, if any.
    pub(super) fn put(path: impl Into<String>, body: &Value, tag: Option<&str>) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { method: Method::PUT, path: path.into(), body: Some(Bytes::from(body.to_string())), headers }.only(tag)
    }

    /// Posts a body under an idempotency key.
    pub(super) fn post(path: impl Into<String>, body: &Value, key: &str) -> Self {
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        Self {
            method: Method::POST,
            path: path.into(),
            body: Some(Bytes::from(body.to_string())),
            headers: vec![("content-type", "application/json".to_owned()), ("idempotency-key", quoted)],
        }
    }

    /// Asks for it only of what has this entity tag, if there is one.
    #[must_use]
    pub(super) fn only(mut self, tag: Option<&str>) -> Self {
        self.headers.extend(tag.map(|tag| ("if-match", format!("\"{tag}\""))));
        self
    }

    /// Asks to hold the answer up to so many seconds for the final state.
    #[must_use]
    pub(super) fn wait(mut self, seconds: u64) -> Self {
        self.headers.push(("prefer", format!("wait={seconds}")));
        self
    }
}

/// An answer, good or bad.
#[derive(Debug)]
pub(super) struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is empty or is none.
    #[must_use]
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// The client.
pub(super) struct Client {
    connection: Connection,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tenant: OnceCell<String>,
    /// Adds request ids to failures.
    pub verbose: bool,
    curl: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.connection.server).finish_non_exhaustive()
    }
}

fn tls(connection: &Connection) -> Result<rustls::ClientConfig, Failure> {
    let builder = rustls::ClientConfig::builder();
    if !connection.server.starts_with("https:") {
        // Reading the system's authorities takes longer than most commands.
        return Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    }
    if let Some(file) = &connection.ca_file {
        return Ok(builder.with_root_certificates(authorities(file)?).with_no_client_auth());
    }
    let native = builder.with_native_roots();
    native.map(|b| b.with_no_client_auth()).map_err(|e| {
        Failure::new(Exit::Error, format!("the system's certificate authorities cannot be read: {e}"))
            .next("give them with --ca-file FILE")
    })
}

fn authorities(file: &Path) -> Result<rustls::RootCertStore, Failure> {
    let wrong =
        |why: String| Failure::new(Exit::Error, format!("{} is no PEM with certificates: {why}", file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("it has none".to_owned())) } else { Ok(roots) }
}

/// Why one try failed below HTTP.
enum Lost {
    /// Nothing was sent.
    Never(String),
    /// The request may have arrived.
    Maybe(String),
}

impl Client {
    /// A client of the connection's server; connects when it is first used.
    ///
    /// # Errors
    /// The server's address or the certificate authorities cannot be used.
    pub(super) fn new(connection: Connection, verbose: bool, curl: bool) -> Result<Self, Failure> {
        let uri = connection.server.parse::<http::Uri>();
        if !uri.is_ok_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some()) {
            return Err(Failure::new(Exit::Usage, format!("{:?} is not the URL of a server", connection.server))
                .next("write it like http://127.0.0.1:8080"));
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&connection)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new()).build(https);
        Ok(Self { connection, pool, tenant: OnceCell::new(), verbose, curl })
    }

    /// The server's URL.
    #[must_use]
    pub(super) fn server(&self) -> &str {
        &self.connection.server
    }

    /// The tenant: what was said, else the key's own.
    ///
    /// # Errors
    /// The server does not say.
    pub(super) async fn tenant(&self) -> Result<&str, Failure> {
        let tenant = self.tenant.get_or_try_init(|| async {
            if let Some(tenant) = &self.connection.tenant {
                return Ok(tenant.clone());
            }
            let answer = self.read("/v1/tenants").await?;
            let name = text(&answer, "/items/0/name").trim_start_matches("tenants/").to_owned();
            if name.is_empty() {
                return Err(Failure::new(Exit::Denied, "the key belongs to no tenant").next("say which with --tenant"));
            }
            Ok(name)
        });
        tenant.await.map(String::as_str)
    }

    /// The tenant that was said, if one was.
    #[must_use]
    pub(super) fn said_tenant(&self) -> Option<&str> {
        self.connection.tenant.as_deref()
    }

    /// The path of an instance, or of all of them.
    ///
    /// # Errors
    /// As [`Self::tenant`].
    pub(super) async fn instance_path(&self, name: &str) -> Result<String, Failure> {
        Ok(format!("/v1/tenants/{}/instances/{}", encode(self.tenant().await?), encode(name)))
    }

    /// Reads a path that must be there.
    ///
    /// # Errors
    /// What the server refuses with, or that it cannot be reached.
    pub(super) async fn read(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.ask(Ask::get(path)).await?;
        self.good(&answer)?;
        Ok(answer.json())
    }

    /// The same, and says what is missing: the gateway's own 404 is the same for all that cannot be seen.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) async fn read_named(&self, path: &str, what: &str) -> Result<Value, Failure> {
        self.read(path).await.map_err(|failure| {
            let Exit::NotFound = failure.exit else { return failure };
            let cause = format!("not-found: there is no {what}, or the key may not see it");
            Failure { cause, ..failure }
        })
    }

    /// Lets good answers pass.
    ///
    /// # Errors
    /// The failure that any other answer means.
    pub(super) fn good(&self, answer: &Answer) -> Result<(), Failure> {
        if answer.status.is_success() {
            return Ok(());
        }
        Err(ProblemBody::read(&answer.body).failure(answer.status.as_u16(), self.verbose))
    }

    /// Asks, and repeats what may be repeated.
    ///
    /// # Errors
    /// The server cannot be reached. What it refuses is an answer, not an error.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, Failure> {
        if self.curl {
            note(&self.curl_line(&ask));
        }
        let mut pause = PAUSE_FIRST;
        let mut lost_once = false;
        for attempt in 1..=TRIES_MAX {
            let last = attempt == TRIES_MAX;
            let why = match self.once(&ask).await {
                Ok(answer) => match patience(&answer) {
                    Some(wait) if !last => {
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    _ => return Ok(answer),
                },
                // Nobody listens: that does not change within a second, unless it was there a moment ago.
                Err(Lost::Never(why)) if !lost_once || last => return Err(self.unreachable(&why)),
                Err(Lost::Never(why)) => why,
                Err(Lost::Maybe(why)) => {
                    lost_once = true;
                    why
                }
            };
            if last {
                return Err(self.cut(&ask, &why));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(self.unreachable("no try was left"))
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::new(Exit::Error, format!("cannot reach {}: {why}", self.connection.server)).next(format!(
            "start a gateway with `meridian demo`, or say where it is with {}",
            self.connection.said_with
        ))
    }

    fn cut(&self, ask: &Ask, why: &str) -> Failure {
        let failure = Failure::new(Exit::Timeout, format!("no answer from {}: {why}", self.connection.server));
        if ask.method == Method::GET {
            return failure;
        }
        let mut failure =
            failure.next("the outcome is not known; look with `meridian get inst`, and repeat with the same key");
        for (name, value) in &ask.headers {
            if *name == "idempotency-key" {
                failure.details.push(format!("idempotency key {}", value.trim_matches('"')));
            }
        }
        failure
    }

    async fn once(&self, ask: &Ask) -> Result<Answer, Lost> {
        let mut request = Request::builder().method(&ask.method).uri(format!("{}{}", self.connection.server, ask.path));
        request = request.header(header::USER_AGENT, concat!("meridian/", env!("CARGO_PKG_VERSION")));
        request = request.header(header::ACCEPT, "application/json");
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.connection.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let body = Full::new(ask.body.clone().unwrap_or_default());
        let request = request.body(body).map_err(|e| Lost::Never(format!("the request cannot be written: {e}")))?;
        let exchange = async {
            let response = self.pool.request(request).await.map_err(|e| {
                let why = chain(&e);
                if e.is_connect() { Lost::Never(why) } else { Lost::Maybe(why) }
            })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_LEN_MAX).collect().await;
            let body = body.map_err(|e| Lost::Maybe(format!("the answer broke off: {e}")))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Lost::Maybe(format!("nothing within {} s", REQUEST_TIMEOUT.as_secs()))),
        }
    }

    /// The request as a line for a shell, with the key as a variable.
    fn curl_line(&self, ask: &Ask) -> String {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let mut line =
            format!("curl -sS -X {} {}", ask.method, quote(&format!("{}{}", self.connection.server, ask.path)));
        if self.connection.token.is_some() {
            line.push_str(" -H \"Authorization: Bearer $MERIDIAN_TOKEN\"");
        }
        for (name, value) in &ask.headers {
            let _ = write!(line, " -H {}", quote(&format!("{name}: {value}")));
        }
        if let Some(body) = &ask.body {
            let _ = write!(line, " --data {}", quote(&String::from_utf8_lossy(body)));
        }
        line.push('\n');
        line
    }
}

/// How long to wait before repeating what the gateway could not take just now.
fn patience(answer: &Answer) -> Option<Duration> {
    if !matches!(answer.status.as_u16(), 429 | 503) {
        return None;
    }
    let code = ProblemBody::read(&answer.body).code;
    if !PASSING.contains(&code.as_str()) {
        return None;
    }
    let seconds = answer.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|wait| *wait <= RETRY_AFTER_MAX)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        source = cause.source();
    }
    parts.join(": ")
}
