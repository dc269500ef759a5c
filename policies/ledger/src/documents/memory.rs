//! Documents in memory: for tests, and the rule that the other stores are measured by.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{DOCUMENTS_MAX, Document, Documents, Expect, News, Position, Put, meets, too_large};
use crate::LedgerFuture;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryDocuments {
    held: Mutex<Held>,
    alone: bool,
}

#[derive(Debug, Default)]
struct Held {
    position: Position,
    documents: BTreeMap<String, Document>,
}

impl MemoryDocuments {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that nobody else writes to.
    #[must_use]
    pub fn alone() -> Self {
        Self { alone: true, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents for MemoryDocuments {
    fn is_shared(&self) -> bool {
        !self.alone
    }

    fn read<'a>(&'a self, after: &'a Position) -> LedgerFuture<'a, News> {
        let held = self.lock();
        let anew = after.restored != held.position.restored || *after == Position::default();
        let new = held.documents.values().filter(|d| anew || d.revision > after.revision);
        let news = News { position: held.position.clone(), anew, documents: new.cloned().collect(), wants: false };
        Box::pin(std::future::ready(Ok(news)))
    }

    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect) -> LedgerFuture<'a, Put> {
        if let Some(error) = too_large(name, body.as_ref()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut held = self.lock();
        let known = held.documents.get(name);
        let put = if !meets(expect, known) {
            Put::Conflict(known.cloned())
        } else if known.is_none() && held.documents.len() >= DOCUMENTS_MAX {
            Put::Full
        } else {
            held.position.revision += 1;
            let revision = held.position.revision;
            held.documents.insert(name.to_owned(), Document { name: name.to_owned(), revision, body });
            Put::Written(revision)
        };
        Box::pin(std::future::ready(Ok(put)))
    }

    fn restore(&self, documents: Vec<Document>) -> LedgerFuture<'_, ()> {
        let mut held = self.lock();
        for document in documents {
            if held.documents.get(&document.name).is_none_or(|d| d.revision < document.revision) {
                held.position.restored += 1;
                held.position.revision = held.position.revision.max(document.revision);
                held.documents.insert(document.name.clone(), document);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
