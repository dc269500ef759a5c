//! Keeps the directory up with the documents that gateways share, and the other way round.
//!
//! Twice a second it asks what is new, so that a change made at any gateway holds at every one within a second. A store
//! that may have lost writes is handed all that this gateway knows. Each minute it has the store forget what ended long ago.
//! How long it was not heard of decides whether keys that can be revoked are still believed (RELIABILITY 2.9).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meridian_ledger::{
    LedgerError,
    documents::{self, Document, Documents, Expect, Handed, News, Position, Put},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Directory, made};
use crate::telemetry::seldom::Seldom;

/// Between two looks for what is new.
const LOOK_EACH: Duration = Duration::from_millis(500);

/// The same where nobody else writes: then all that can be new is what is forgotten.
const LOOK_ALONE_EACH: Duration = Duration::from_secs(60);

/// Between two calls that have the store forget what ended long ago.
const FORGET_EACH: Duration = Duration::from_secs(60);

/// Longest wait for one answer of the store.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Follows the documents of a store.
#[derive(Debug)]
pub struct Follower {
    store: Arc<dyn Documents>,
    directory: Arc<Directory>,
    position: Mutex<Position>,
    wake: Notify,
}

impl Follower {
    pub(crate) fn new(store: Arc<dyn Documents>, directory: Arc<Directory>) -> Arc<Self> {
        Arc::new(Self { store, directory, position: Mutex::default(), wake: Notify::new() })
    }

    /// One look.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn look(&self) -> Result<(), LedgerError> {
        let after = self.position.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let news = answered(documents::look(&*self.store, &after)).await?;
        let (position, wants) = (news.position.clone(), news.wants);
        if self.hear(news).await? || wants {
            let handed = self.directory.handed(&position);
            if handed != Handed::default() {
                answered(self.store.restore(handed)).await?;
            }
        }
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = position;
        self.directory.heard();
        Ok(())
    }

    /// Has the directory know what the store told. Returns whether the store should be handed in what has ended.
    async fn hear(&self, news: News) -> Result<bool, LedgerError> {
        let is_slow = news.documents.iter().any(|document| made::is_policy(&document.name));
        self.take_in(is_slow, |directory| directory.hear(news)).await
    }

    /// Has the directory know a document.
    async fn learn(&self, document: Document) -> Result<(), LedgerError> {
        self.take_in(made::is_policy(&document.name), |directory| directory.learn(document)).await
    }

    /// Policies are compiled, which is not for the threads that serve requests.
    async fn take_in<T: Send + 'static>(
        &self,
        is_slow: bool,
        work: impl FnOnce(&Directory) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        if !is_slow {
            return Ok(work(&self.directory));
        }
        let directory = Arc::clone(&self.directory);
        let done = tokio::task::spawn_blocking(move || work(&directory)).await;
        done.map_err(|error| LedgerError::Unavailable(format!("the documents were not taken in: {error}")))
    }

    /// Looks, where others write too.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn catch_up(&self) -> Result<(), LedgerError> {
        if self.store.is_shared() { self.look().await } else { Ok(()) }
    }

    /// Writes a document, and has this gateway know it, or what stands in its way, before it returns.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// None: dropped, it may be written and not be known here, so it is called from what is run to its end.
    pub(crate) async fn put(&self, name: &str, body: Option<String>, expect: Expect) -> Result<Put, LedgerError> {
        let put = self.store.put(name, body.clone(), expect, self.directory.now()).await?;
        // What fails here is read again by the next look.
        match &put {
            Put::Written(revision) => {
                let _ = self.learn(Document { name: name.to_owned(), revision: *revision, body }).await;
                if self.store.is_shared() {
                    self.wake.notify_one();
                }
            }
            Put::Conflict(Some(held)) => drop(self.learn(held.clone()).await),
            Put::Conflict(None) | Put::Full => {}
        }
        Ok(put)
    }

    /// Follows until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut seldom = Seldom::default();
        let each = if self.store.is_shared() { LOOK_EACH } else { LOOK_ALONE_EACH };
        let mut forgets_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(each) => {}
                () = self.wake.notified() => {}
            }
            let mut forgotten = Ok(());
            if forgets_at <= Instant::now() {
                forgets_at = Instant::now() + FORGET_EACH;
                forgotten = answered(self.store.forget(self.directory.now())).await;
            }
            match self.look().await.and(forgotten) {
                Ok(()) => seldom.over(),
                Err(error) if seldom.is_due(&error) => {
                    tracing::warn!(%error, "the documents made by the API are not followed");
                }
                Err(_) => {}
            }
        }
    }
}

/// What the store answers in time.
async fn answered<T>(answer: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    let late = |_| LedgerError::Unavailable("the documents were not told in time".to_owned());
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(late)?
}
