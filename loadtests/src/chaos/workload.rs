//! Clients: each sends its create until it has a final answer, as a careful caller would, and writes down every answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header, request::Builder};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    config::TENANT,
    plan::Create,
    rng::Rng,
    verdict::{Answer, History, Shown, Told},
    world::Address,
};
use crate::{
    client::{Connection, Keep, Reply},
    direct,
};

/// One request. Longer than any call of the gateway, shorter than a stopped process.
const REQUEST_MAX: Duration = Duration::from_secs(6);
/// How long a create is asked to wait for its end.
const PREFER_WAIT_SECS: u32 = 3;
/// Between two tries, milliseconds.
const PAUSE_MS: (u64, u64) = (50, 400);
/// Tries of one sender; a round ends long before.
const TRIES_MAX: u32 = 1_000;
/// Pages of one list.
const PAGES_MAX: usize = 100;

/// Now, in Unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Speaks to the gateways as the tenant.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where the gateways listen.
    pub gateways: Vec<Address>,
    /// Where their admin listeners are.
    pub admins: Vec<Address>,
    /// The tenant's key.
    pub key: String,
}

/// Histories under way.
pub type Book = Arc<Mutex<BTreeMap<String, History>>>;

fn note(book: &Book, key: &str, change: impl FnOnce(&mut History)) {
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    change(book.entry(key.to_owned()).or_default());
}

impl Caller {
    /// The address of a gateway that is up.
    fn address(&self, gateway: usize) -> Option<SocketAddr> {
        self.gateways.get(gateway).and_then(|address| *address.borrow())
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// No whole reply in time.
    pub async fn send(&self, gateway: usize, builder: Builder, body: Bytes) -> anyhow::Result<Reply> {
        let address = self.address(gateway).context("it is down")?;
        let request = builder
            .header(header::HOST, address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("a request")?;
        let mut connection = Connection::new(address);
        timeout(REQUEST_MAX, connection.send(request, Keep::Body)).await.context("no answer in time")?
    }

    /// Sends a create; what is answered.
    pub async fn create(&self, gateway: usize, key: &str) -> Answer {
        let body = json!({"name": key, "spec": direct::spec()}).to_string();
        let request = Request::post(format!("/v1/tenants/{TENANT}/instances"))
            .header("idempotency-key", key)
            .header("prefer", format!("wait={PREFER_WAIT_SECS}"));
        match self.send(gateway, request, Bytes::from(body)).await {
            Ok(reply) => answer(&reply),
            Err(_) => Answer::Lost,
        }
    }

    /// Sends a delete; the status of its answer, if there was one.
    async fn delete(&self, gateway: usize, name: &str) -> Option<StatusCode> {
        let request = Request::delete(format!("/v1/tenants/{TENANT}/instances/{name}"));
        self.send(gateway, request, Bytes::new()).await.ok().map(|reply| reply.status)
    }

    async fn get(&self, gateway: usize, path: &str) -> anyhow::Result<Value> {
        let reply = self.send(gateway, Request::get(path), Bytes::new()).await?;
        ensure!(reply.status == StatusCode::OK, "GET {path} is answered with {}", reply.status);
        serde_json::from_slice(&reply.body).with_context(|| format!("the answer to GET {path}"))
    }

    /// What a gateway shows.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn shown(&self, gateway: usize) -> anyhow::Result<Shown> {
        let mut listed = BTreeSet::new();
        let mut token = String::new();
        for _ in 0..PAGES_MAX {
            let page = self.get(gateway, &format!("/v1/tenants/{TENANT}/instances?pageSize=1000{token}")).await?;
            let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let ids = items.iter().filter_map(|i| i.pointer("/status/cloudId").and_then(Value::as_str));
            listed.extend(ids.map(str::to_owned));
            match page.get("nextPageToken").and_then(Value::as_str) {
                Some(next) => token = format!("&pageToken={next}"),
                None => break,
            }
        }
        let quota = self.get(gateway, &format!("/v1/tenants/{TENANT}/quotas/default")).await?;
        let used = quota.pointer("/used/instances").and_then(Value::as_u64);
        Ok(Shown { listed, orphans: self.orphans(gateway).await?, used })
    }

    async fn orphans(&self, gateway: usize) -> anyhow::Result<BTreeSet<String>> {
        let address = self.admins.get(gateway).and_then(|address| *address.borrow()).context("it is down")?;
        let request = Request::get("/orphans").header(header::HOST, address.to_string()).body(Full::default());
        let mut connection = Connection::new(address);
        let reply =
            timeout(REQUEST_MAX, connection.send(request?, Keep::Body)).await.context("no answer in time")??;
        ensure!(reply.status == StatusCode::OK, "GET /orphans is answered with {}", reply.status);
        let body: Value = serde_json::from_slice(&reply.body).context("the orphans")?;
        let items = body.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(items.iter().filter_map(|i| i.get("cloudId").and_then(Value::as_str)).map(str::to_owned).collect())
    }
}

/// What a reply says about a create.
fn answer(reply: &Reply) -> Answer {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    match reply.status {
        StatusCode::CREATED => Answer::Created { uid: text("/uid"), cloud_id: text("/status/cloudId") },
        StatusCode::ACCEPTED => Answer::Accepted,
        // The outcome is open.
        StatusCode::GATEWAY_TIMEOUT => Answer::Accepted,
        // The key is repeated with what was recorded for it. While the store is away nothing is.
        _ if reply.headers.contains_key("idempotency-key") && !text("/code").starts_with("store-") => {
            Answer::Failed { code: text("/code") }
        }
        status => {
            let retry_after = reply.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            Answer::Refused { code: format!("{} {}", status.as_u16(), text("/code")), retry_after }
        }
    }
}

/// Runs all clients of a round until each has its answer or the time is over.
pub async fn run(caller: &Caller, creates: &[Create], until: Instant) -> Book {
    let book = Book::default();
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for create in creates {
        let (caller, book, create) = (caller.clone(), Arc::clone(&book), create.clone());
        clients.spawn(async move {
            sleep_until(start + Duration::from_millis(create.at_ms)).await;
            let _ = tokio::time::timeout_at(until, client(&caller, &book, &create)).await;
        });
    }
    while clients.join_next().await.is_some() {}
    book
}

async fn client(caller: &Caller, book: &Book, create: &Create) {
    note(book, &create.key, |history| history.sent_ms = now_ms());
    let mut rng = Rng::new(create.seed);
    let senders = create.senders.iter().map(|gateway| sender(caller, book, &create.key, *gateway, rng.fork()));
    let answers = futures_util::future::join_all(senders.collect::<Vec<_>>()).await;
    let runs = answers.iter().any(|a| matches!(a, Answer::Created { .. }));
    if let Some((after_ms, gateway)) = create.delete.filter(|_| runs) {
        sleep(Duration::from_millis(after_ms)).await;
        delete(caller, book, &create.key, gateway, rng).await;
    }
}

async fn sender(caller: &Caller, book: &Book, key: &str, first: usize, mut rng: Rng) -> Answer {
    let mut gateway = first;
    for _ in 0..TRIES_MAX {
        let answer = caller.create(gateway, key).await;
        let told = Told { at_ms: now_ms(), gateway, answer: answer.clone() };
        note(book, key, |history| history.answers.push(told));
        if answer.is_final() {
            return answer;
        }
        sleep(Duration::from_millis(rng.within(PAUSE_MS.0, PAUSE_MS.1))).await;
        gateway = usize::try_from(rng.within(0, caller.gateways.len() as u64)).unwrap_or_default();
    }
    Answer::Lost
}

async fn delete(caller: &Caller, book: &Book, key: &str, first: usize, mut rng: Rng) {
    let mut gateway = first;
    for _ in 0..TRIES_MAX {
        note(book, key, |history| history.delete_sent = true);
        let status = caller.delete(gateway, key).await;
        match status {
            Some(StatusCode::NO_CONTENT | StatusCode::ACCEPTED) => {
                note(book, key, |history| history.deleted_ms = Some(now_ms()));
                return;
            }
            // Another gateway may not have seen it yet, or an earlier try may have removed it: who goes on cannot
            // tell, and asks the one that answered the create.
            _ => sleep(Duration::from_millis(rng.within(PAUSE_MS.0, PAUSE_MS.1))).await,
        }
        gateway = usize::try_from(rng.within(0, caller.gateways.len() as u64)).unwrap_or_default();
    }
}

/// Asks every gateway about every key until the answer is final or the time is over.
pub async fn settle(caller: &Caller, book: &Book, until: Instant) {
    let keys: Vec<String> = book.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
    let count = caller.gateways.len();
    let mut asking = JoinSet::new();
    for gateway in 0..count {
        for (n, key) in keys.iter().enumerate() {
            let (caller, book, key) = (caller.clone(), Arc::clone(book), key.clone());
            asking.spawn(async move {
                // Not all at once: what is measured here is not the load.
                sleep(Duration::from_millis(n as u64 * 2)).await;
                let mut rng = Rng::new(n as u64);
                let mut last = None;
                while Instant::now() < until && last.is_none() {
                    let answer = caller.create(gateway, &key).await;
                    if answer.is_final() {
                        last = Some(answer);
                    } else {
                        let told = Told { at_ms: now_ms(), gateway, answer };
                        note(&book, &key, |history| history.answers.push(told));
                        sleep(Duration::from_millis(rng.within(PAUSE_MS.0, PAUSE_MS.1))).await;
                    }
                }
                note(&book, &key, |history| {
                    history.at_rest.resize(count, None);
                    if let Some(answer) = last {
                        let told = Told { at_ms: now_ms(), gateway, answer: answer.clone() };
                        history.answers.push(told);
                        if let Some(slot) = history.at_rest.get_mut(gateway) {
                            *slot = Some(answer);
                        }
                    }
                });
            });
        }
    }
    while asking.join_next().await.is_some() {}
}
