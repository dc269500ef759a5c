//! One OpenID Connect issuer: its rules, its keys as last fetched, and the task that keeps them fresh.
//!
//! A token is checked without waiting, against the keys that are held. Only a token whose key is not known waits, for
//! one fetch at most: that is how a rollover of keys is followed at once. Strangers can name as many keys as they like,
//! so `FORCED_INTERVAL` keeps them from making us ask the issuer for each, and nobody waits for a fetch that cannot come
//! in time, or beside `WAITING_MAX` others: a request that waits takes the place of one that could be served. While the
//! issuer does not answer the held keys go on, for [`KEYS_AGE_MAX`] at most; then its tokens are refused as something
//! that may pass, not as wrong.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, StatusCode, header::ACCEPT};
use jsonwebtoken::Algorithm;
use meridian_adapters::http::HttpClient;
use meridian_model::time::Time;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    grant::{ClaimGrant, Grant, claim},
    jwks::KeySet,
    token::{self, Expected, Fault},
};
use crate::{
    clock::Clock,
    telemetry::{identity::IdentityMetrics, seldom::Seldom},
};

/// Between two fetches of keys that are known. Issuers publish a key hours before they sign with it.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// First and longest pause after a fetch that failed, doubled from one to the other.
const RETRY_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Shortest time between two fetches, whatever tokens come.
const FORCED_INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait of a request for keys it does not find.
const KEY_WAIT: Duration = Duration::from_secs(2);
/// Requests that wait for keys at once: a small part of the requests in work, and enough for a rollover.
const WAITING_MAX: usize = 64;
/// Longest fetch of one document.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Age from which on keys are not believed any more: a key that was withdrawn works that long at most.
pub const KEYS_AGE_MAX: Duration = Duration::from_secs(3600);
/// Largest document of an issuer in bytes; the largest sets known have 20 KiB.
const DOCUMENT_LEN_MAX: usize = 256 * 1024;
/// Verified tokens that are remembered, so that a caller who sends one again costs a hash, not a signature.
const REMEMBERED_MAX: usize = 4096;

/// What the operator says of an issuer.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Its short name in principals.
    pub name: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// Where its keys are; found by discovery when not set.
    pub jwks_uri: Option<String>,
    /// Who its tokens are for when they are for us.
    pub audiences: Vec<String>,
    /// Algorithms it may sign with.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may be from ours.
    pub leeway: Duration,
    /// The longest life of a token.
    pub lifetime_max: Duration,
    /// The claim that names the caller.
    pub principal_claim: String,
    /// What its tokens mean, the first that fits.
    pub grants: Vec<ClaimGrant>,
}

/// Whom a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `oidc:ISSUER:CALLER`.
    pub principal: String,
    /// What it may act as.
    pub grant: Grant,
    /// When the token ends.
    pub until: Time,
}

/// What became of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It proves this.
    Subject(Arc<Subject>),
    /// It proves nothing; the text is for the log.
    Refused(Fault),
    /// It is a good token of this principal, and no grant fits it.
    NoGrant(String),
    /// The keys are too old to say.
    KeysMissing,
}

/// Keys as they were fetched.
#[derive(Debug)]
struct Held {
    keys: KeySet,
    fetched: Instant,
    /// Verified tokens by their SHA-256: they are as good as the keys they were verified with, so they go with them.
    remembered: Mutex<HashMap<[u8; 32], Arc<Subject>>>,
}

/// See the module.
#[derive(Debug)]
pub struct Issuer {
    rules: Rules,
    held: ArcSwapOption<Held>,
    http: HttpClient,
    clock: Clock,
    wanted: Notify,
    /// When the next fetch may begin; set when one has ended, for who waits for that.
    fetched: watch::Sender<Instant>,
    waiting: Semaphore,
    /// Why the last fetch failed, if it did.
    failed: ArcSwapOption<String>,
    metrics: IdentityMetrics,
}

impl Issuer {
    /// An issuer whose keys are fetched by [`Self::run`].
    #[must_use]
    pub fn new(rules: Rules, http: HttpClient, clock: Clock, metrics: IdentityMetrics) -> Arc<Self> {
        Arc::new(Self {
            rules,
            held: ArcSwapOption::empty(),
            http,
            clock,
            wanted: Notify::new(),
            fetched: watch::Sender::new(Instant::now()),
            waiting: Semaphore::new(WAITING_MAX),
            failed: ArcSwapOption::empty(),
            metrics,
        })
    }

    /// Its `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.rules.issuer
    }

    /// How its keys stand, for who operates it; an error while tokens cannot be checked.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn standing(&self) -> Result<String, String> {
        let age = self.held.load().as_ref().map(|held| held.fetched.elapsed());
        let mut text = match age {
            None => format!("{}: its keys were not fetched yet", self.rules.name),
            Some(age) => format!("{}: keys of {} s ago", self.rules.name, age.as_secs()),
        };
        if let Some(why) = &*self.failed.load() {
            text += &format!("; the last fetch failed: {why}");
        }
        if age.is_some_and(|age| age <= KEYS_AGE_MAX) { Ok(text) } else { Err(text) }
    }

    /// Checks a token; waits for new keys only if it names one that is not held, and they may come in time.
    pub async fn check(&self, token: &str) -> Checked {
        let mut fetched = self.fetched.subscribe();
        // What ends from here on brings newer keys than were looked at.
        let may_begin = *fetched.borrow_and_update();
        let first = self.check_now(token);
        if !matches!(first, Checked::Refused(Fault::UnknownKey) | Checked::KeysMissing) {
            return first;
        }
        self.wanted.notify_one();
        if may_begin > Instant::now() + KEY_WAIT {
            return first;
        }
        let Ok(_place) = self.waiting.try_acquire() else { return first };
        match tokio::time::timeout(KEY_WAIT, fetched.changed()).await {
            Ok(Ok(())) => self.check_now(token),
            Ok(Err(_)) | Err(_) => first,
        }
    }

    /// Checks a token against the keys that are held.
    #[must_use]
    pub fn check_now(&self, token: &str) -> Checked {
        let held = self.held.load();
        let Some(held) = held.as_ref().filter(|held| held.fetched.elapsed() <= KEYS_AGE_MAX) else {
            return Checked::KeysMissing;
        };
        let now = self.clock.now();
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(subject) = lock(&held.remembered).get(&digest) {
            let ended = subject.until <= now;
            return if ended { Checked::Refused(Fault::Expired) } else { Checked::Subject(Arc::clone(subject)) };
        }
        let rules = &self.rules;
        let expected = Expected {
            issuer: &rules.issuer,
            audiences: &rules.audiences,
            algorithms: &rules.algorithms,
            leeway: rules.leeway,
            lifetime_max: rules.lifetime_max,
        };
        let verified = match token::verify(token, &expected, &held.keys, now) {
            Ok(verified) => verified,
            Err(fault) => return Checked::Refused(fault),
        };
        let Some(who) = claim(&verified.claims, &rules.principal_claim).and_then(|v| v.as_str()).filter(|w| is_name(w))
        else {
            return Checked::Refused(Fault::Claim("of the principal"));
        };
        let principal = format!("oidc:{}:{who}", rules.name);
        let Some(found) = rules.grants.iter().find(|grant| grant.is_met(&verified.claims)) else {
            return Checked::NoGrant(principal);
        };
        let subject = Arc::new(Subject { principal, grant: found.grant.clone(), until: verified.until });
        let mut remembered = lock(&held.remembered);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, subject| subject.until > now);
        }
        if remembered.len() >= REMEMBERED_MAX {
            // All still live: start anew rather than keep an order of use for what costs one signature.
            remembered.clear();
        }
        remembered.insert(digest, Arc::clone(&subject));
        Checked::Subject(subject)
    }

    /// Keeps the keys fresh until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut retry = RETRY_INTERVAL.0;
        let mut seldom = Seldom::default();
        loop {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = self.fetch() => outcome,
            };
            let pause = match outcome {
                Ok(keys) => {
                    seldom.over();
                    tracing::debug!(issuer = self.rules.name, keys = keys.len(), "fetched the keys of an issuer");
                    self.take(keys);
                    self.failed.store(None);
                    retry = RETRY_INTERVAL.0;
                    REFRESH_INTERVAL
                }
                Err(error) => {
                    self.failed.store(Some(Arc::new(error.clone())));
                    if seldom.is_due(&error) {
                        tracing::warn!(issuer = self.rules.name, error, "the keys of an issuer cannot be fetched");
                    }
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_INTERVAL.1);
                    pause
                }
            };
            let outcome = if self.failed.load().is_none() { "fetched" } else { "failed" };
            self.metrics.fetch(&self.rules.name, outcome);
            self.metrics.unusable(&self.rules.name, self.standing().is_err());
            let may_begin = Instant::now() + FORCED_INTERVAL.min(pause);
            self.fetched.send_replace(may_begin);
            let asked = async {
                tokio::time::sleep_until(may_begin).await;
                self.wanted.notified().await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = asked => {}
            }
        }
    }

    fn take(&self, keys: KeySet) {
        let held = Held { keys, fetched: Instant::now(), remembered: Mutex::default() };
        self.held.store(Some(Arc::new(held)));
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let uri = match &self.rules.jwks_uri {
            Some(uri) => uri.clone(),
            None => self.discover().await?,
        };
        KeySet::parse(&self.document(&uri).await?).map_err(|why| format!("{uri}: {why}"))
    }

    /// OpenID Connect Discovery 1.0, section 4.
    async fn discover(&self) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        let issuer = &self.rules.issuer;
        let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = self.document(&uri).await?;
        let found: Metadata =
            serde_json::from_slice(&document).map_err(|e| format!("{uri}: not the metadata of an issuer: {e}"))?;
        if found.issuer != *issuer {
            return Err(format!("{uri}: the metadata is of the issuer {}, not of {issuer}", found.issuer));
        }
        if issuer.starts_with("https://") && !found.jwks_uri.starts_with("https://") {
            return Err(format!("{uri}: jwks_uri is not https"));
        }
        Ok(found.jwks_uri)
    }

    async fn document(&self, uri: &str) -> Result<Bytes, String> {
        let request = Request::get(uri).header(ACCEPT, "application/json").body(Bytes::new());
        let request = request.map_err(|e| format!("{uri}: {e}"))?;
        let reply = self.http.send(request, FETCH_TIMEOUT).await.map_err(|e| format!("{uri}: {e}"))?;
        if reply.status() != StatusCode::OK {
            return Err(format!("{uri}: answered {}", reply.status()));
        }
        if reply.body().len() > DOCUMENT_LEN_MAX {
            return Err(format!("{uri}: answered {} bytes, more than {DOCUMENT_LEN_MAX}", reply.body().len()));
        }
        Ok(reply.into_body())
    }
}

/// Longest name of a caller.
const NAME_LEN_MAX: usize = 256;

/// Whether a claim can stand in logs and audit as the caller's name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_LEN_MAX && !text.chars().any(char::is_control)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
