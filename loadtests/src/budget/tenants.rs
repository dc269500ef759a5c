//! The tenants of a run: each polls what it has, and creates and deletes one instance after the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Connection, Keep},
    direct,
    tenancy::{Setting, Tenant},
};

/// Between two polls of a tenant; half of them are lists.
const POLL_PAUSE: Duration = Duration::from_millis(1000);

/// How long a create or delete is waited for by its caller.
const WAIT: &str = "wait=25";

/// Requests of one kind.
#[derive(Debug)]
struct Requests {
    latency: Mutex<Histogram<u64>>,
    errors: AtomicU64,
}

impl Requests {
    fn new() -> Self {
        // Up to two minutes in microseconds, to three digits.
        let latency = Histogram::new_with_bounds(1, 120_000_000, 3).expect("invariant: the library takes these bounds");
        Self { latency: Mutex::new(latency), errors: AtomicU64::new(0) }
    }

    fn note(&self, began: Instant, good: bool) {
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us.max(1));
        if !good {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was served.
#[derive(Debug)]
struct Counts {
    get: Requests,
    list: Requests,
    create: Requests,
    delete: Requests,
}

/// What was served to all tenants.
#[derive(Debug)]
pub(super) struct Served(Vec<(&'static str, u64, Histogram<u64>)>);

impl Served {
    /// Kind, errors and latencies.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, u64, &Histogram<u64>)> {
        self.0.iter().map(|(what, errors, latency)| (*what, *errors, latency))
    }

    /// Reads of all kinds.
    pub(super) fn reads(&self) -> u64 {
        self.0.iter().filter(|(what, ..)| ["get", "list"].contains(what)).map(|(_, _, latency)| latency.len()).sum()
    }
}

/// All tenants at work.
#[derive(Debug)]
pub(super) struct Crowd {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    counts: Arc<Counts>,
}

impl Crowd {
    /// Starts them.
    pub(super) fn start(setting: &Setting, creates: usize) -> Self {
        let counts =
            Counts { get: Requests::new(), list: Requests::new(), create: Requests::new(), delete: Requests::new() };
        let (stop, counts, turns) = (CancellationToken::new(), Arc::new(counts), Arc::new(Semaphore::new(creates)));
        let mut tasks = JoinSet::new();
        for (n, tenant) in setting.tenants.iter().enumerate() {
            let client = Client { tenant: tenant.clone(), api: setting.api, counts: Arc::clone(&counts) };
            // Spread over the pause, so that they do not poll in step.
            let first = POLL_PAUSE * u32::try_from(n).unwrap_or(0) / u32::try_from(setting.tenants.len()).unwrap_or(1);
            let (poller, turns, stopping) = (client.clone(), Arc::clone(&turns), stop.clone());
            tasks.spawn(async move {
                let work = async { tokio::join!(poller.poll(first), client.create_all(&turns)) };
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => {}
                    _ = work => {}
                }
            });
        }
        Self { stop, tasks, counts }
    }

    /// Ends them, and tells what was served.
    pub(super) async fn end(self) -> anyhow::Result<Served> {
        self.stop.cancel();
        self.tasks.join_all().await;
        let counts = Arc::into_inner(self.counts).context("a tenant is still at work")?;
        let Counts { get, list, create, delete } = counts;
        let rows = [("get", get), ("list", list), ("create", create), ("delete", delete)];
        let row = |(what, requests): (&'static str, Requests)| {
            let latency = requests.latency.into_inner().unwrap_or_else(PoisonError::into_inner);
            (what, requests.errors.into_inner(), latency)
        };
        Ok(Served(rows.map(row).into()))
    }
}

/// One tenant.
#[derive(Debug, Clone)]
struct Client {
    tenant: Tenant,
    api: SocketAddr,
    counts: Arc<Counts>,
}

impl Client {
    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let uri = format!("/v1/tenants/{}/instances{path}", self.tenant.name);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, self.api.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.tenant.key))
            .header("prefer", WAIT)
            .header("x-request-timeout-ms", "30000");
        let request = if body.is_empty() { request } else { request.header(header::CONTENT_TYPE, "application/json") };
        request.body(Full::new(body)).unwrap_or_default()
    }

    async fn poll(&self, first: Duration) {
        tokio::time::sleep(first).await;
        let mut connection = Connection::new(self.api);
        for n in 0_u64.. {
            let began = Instant::now();
            let (path, requests) = if n % 2 == 0 { ("", &self.counts.list) } else { ("/web", &self.counts.get) };
            let reply = connection.send(self.request(Method::GET, path, Bytes::new()), Keep::Errors).await;
            // A tenant may ask for what it does not have yet.
            let good = reply.is_ok_and(|r| r.status.is_success() || n % 2 == 1 && r.status.as_u16() == 404);
            requests.note(began, good);
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    async fn create_all(&self, turns: &Semaphore) {
        let mut connection = Connection::new(self.api);
        for n in 0_u64.. {
            let name = format!("web-{n}");
            let Ok(turn) = turns.acquire().await else { return };
            let began = Instant::now();
            let body = json!({"name": name, "spec": direct::spec()}).to_string();
            let mut request = self.request(Method::POST, "", Bytes::from(body));
            if let Ok(key) = format!("\"{}-{n}\"", self.tenant.name).parse() {
                request.headers_mut().insert("idempotency-key", key);
            }
            let reply = connection.send(request, Keep::Errors).await;
            self.counts.create.note(began, reply.is_ok_and(|r| r.status.is_success()));
            drop(turn);
            let began = Instant::now();
            let request = self.request(Method::DELETE, &format!("/{name}"), Bytes::new());
            let reply = connection.send(request, Keep::Errors).await;
            self.counts.delete.note(began, reply.is_ok_and(|r| r.status.is_success()));
        }
    }
}
