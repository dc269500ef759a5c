//! Documents in memory: for tests, and the rule that the other stores are measured by.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use meridian_model::time::Time;

use super::{
    DOCUMENTS_MAX, Document, Documents, Expect, FORGOTTEN_AFTER, FORGOTTEN_AT_ONCE, Handed, News, Position, Put, meets,
    too_large,
};
use crate::LedgerFuture;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryDocuments {
    held: Mutex<Held>,
    alone: bool,
}

#[derive(Debug, Clone, Default)]
struct Held {
    position: Position,
    documents: BTreeMap<String, Document>,
    /// When each tombstone was made.
    graves: BTreeMap<String, Time>,
    floor: u64,
    /// The last time that a caller told.
    now: Time,
}

impl Held {
    fn write(&mut self, document: Document) {
        match &document.body {
            Some(_) => self.graves.remove(&document.name),
            None => self.graves.insert(document.name.clone(), self.now),
        };
        self.documents.insert(document.name.clone(), document);
    }

    /// Forgets the oldest tombstone, if it was made by then.
    fn forget(&mut self, until: Time) -> bool {
        let oldest = self.graves.iter().min_by_key(|(_, made)| **made).filter(|(_, made)| **made <= until);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return false };
        self.graves.remove(&name);
        if let Some(document) = self.documents.remove(&name) {
            self.floor = self.floor.max(document.revision);
        }
        true
    }
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
        let is_first = *after == Position::default();
        let anew = is_first || after.restored != held.position.restored || after.revision < held.floor;
        let wants = !is_first && after.incarnation != held.position.incarnation;
        let new = held.documents.values().filter(|d| anew || d.revision > after.revision);
        let (position, documents) = (held.position.clone(), new.cloned().collect());
        let news = News { position, anew, documents, wants, floor: held.floor };
        Box::pin(std::future::ready(Ok(news)))
    }

    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect, now: Time) -> LedgerFuture<'a, Put> {
        if let Some(error) = too_large(name, body.as_ref()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut held = self.lock();
        held.now = now;
        let known = held.documents.get(name);
        let has_room = known.is_some() || held.documents.len() < DOCUMENTS_MAX;
        let put = if !meets(expect, known) {
            Put::Conflict(known.cloned())
        } else if has_room || held.forget(now) {
            held.position.revision += 1;
            let revision = held.position.revision;
            held.write(Document { name: name.to_owned(), revision, body });
            Put::Written(revision)
        } else {
            Put::Full
        };
        Box::pin(std::future::ready(Ok(put)))
    }

    fn forget(&self, now: Time) -> LedgerFuture<'_, ()> {
        let mut held = self.lock();
        held.now = now;
        let mut left = FORGOTTEN_AT_ONCE;
        while left > 0 && held.forget(now - FORGOTTEN_AFTER) {
            left -= 1;
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn restore(&self, handed: Handed) -> LedgerFuture<'_, ()> {
        let mut held = self.lock();
        let mut is_other = handed.revision > held.position.revision || handed.floor > held.floor;
        for document in handed.documents {
            let known = held.documents.get(&document.name).map(|d| d.revision);
            if known.is_none() && document.revision <= held.floor {
                // Whoever hands it in is to read that it has ended.
                is_other |= document.body.is_some();
            } else if known.is_none_or(|known| known < document.revision) {
                held.write(document);
                is_other = true;
            }
        }
        held.position.revision = held.position.revision.max(handed.revision);
        held.floor = held.floor.max(handed.floor);
        held.position.restored += u64::from(is_other);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests;
