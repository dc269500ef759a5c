//! Keeps the directory up with the documents that gateways share, and the other way round.
//!
//! Twice a second it asks what is new, so that a change made at any gateway holds at every one within a second. A store
//! that may have lost writes is handed all that this gateway knows. How long it was not heard of decides whether keys that
//! can be revoked are still believed (RELIABILITY 2.9).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meridian_ledger::{
    LedgerError,
    documents::{Document, Documents, Expect, Position, Put},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Directory, made};
use crate::telemetry::seldom::Seldom;

/// Between two looks for what is new.
const LOOK_EACH: Duration = Duration::from_millis(500);

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
        let late = |_| LedgerError::Unavailable("the documents were not told in time".to_owned());
        let news = tokio::time::timeout(ANSWER_WITHIN, self.store.read(&after)).await.map_err(late)??;
        if news.wants {
            let known = self.directory.documents();
            if !known.is_empty() {
                tokio::time::timeout(ANSWER_WITHIN, self.store.restore(known)).await.map_err(late)??;
            }
        }
        self.take_in(news.documents).await?;
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = news.position;
        self.directory.heard();
        Ok(())
    }

    /// Has the directory know documents. Policies are compiled, which is not for the threads that serve requests.
    async fn take_in(&self, documents: Vec<Document>) -> Result<(), LedgerError> {
        if !documents.iter().any(|document| made::is_policy(&document.name)) {
            self.directory.merge(documents);
            return Ok(());
        }
        let directory = Arc::clone(&self.directory);
        let merged = tokio::task::spawn_blocking(move || directory.merge(documents)).await;
        merged.map_err(|error| LedgerError::Unavailable(format!("the documents were not taken in: {error}")))
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
        let put = self.store.put(name, body.clone(), expect).await?;
        // What fails here is read again by the next look.
        match &put {
            Put::Written(revision) => {
                let _ = self.take_in(vec![Document { name: name.to_owned(), revision: *revision, body }]).await;
                self.wake.notify_one();
            }
            Put::Conflict(Some(held)) => drop(self.take_in(vec![held.clone()]).await),
            Put::Conflict(None) | Put::Full => {}
        }
        Ok(put)
    }

    /// Follows until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut seldom = Seldom::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EACH) => {}
                () = self.wake.notified() => {}
            }
            match self.look().await {
                Ok(()) => seldom.over(),
                Err(error) if seldom.is_due(&error) => {
                    tracing::warn!(%error, "the documents made by the API are not followed");
                }
                Err(_) => {}
            }
        }
    }
}
