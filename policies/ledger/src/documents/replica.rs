//! What a reader knows of a store of documents. Pure.
//!
//! Two readings of one store may reach a reader in any order, and a store may come back as it was before. What stays true
//! is decided by revisions: of a name the higher one stays; and since a reader whose floor is F knows all that lived at F,
//! whatever comes with a revision up to F under a name that it does not know has ended, and its end is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::{Document, News, Position};

/// Documents and tombstones by name, and the floor up to which ends are forgotten.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    documents: BTreeMap<String, Document>,
    floor: u64,
}

/// What a reader hands in to a store that may have lost writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handed {
    /// All documents and tombstones that it knows.
    pub documents: Vec<Document>,
    /// The highest revision that it has heard of: no write gets this one or a lower one again.
    pub revision: u64,
    /// Its floor.
    pub floor: u64,
}

/// What news changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// Names of documents that are other ones, or are there no more.
    pub changed: Vec<String>,
    /// The store holds living what has ended: it should be handed in again.
    pub revived: bool,
}

impl Replica {
    /// A document or a tombstone of the name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Document> {
        self.documents.get(name)
    }

    /// How many there are whose names begin so, tombstones included.
    #[must_use]
    pub fn count(&self, prefix: &str) -> usize {
        let from = self.documents.range(prefix.to_owned()..);
        from.take_while(|(name, _)| name.starts_with(prefix)).count()
    }

    /// Everything, for a store that may have lost writes; the reader has read to `position`.
    #[must_use]
    pub fn handed(&self, position: &Position) -> Handed {
        let documents: Vec<_> = self.documents.values().cloned().collect();
        let last = documents.iter().map(|d| d.revision).max().unwrap_or_default();
        Handed { documents, revision: last.max(position.revision).max(self.floor), floor: self.floor }
    }

    /// Takes in what a write told of one document. Returns whether it is new.
    pub fn learn(&mut self, document: Document) -> bool {
        let is_new = match self.documents.get(&document.name) {
            Some(held) => held.revision < document.revision,
            None => document.revision > self.floor,
        };
        if is_new {
            self.documents.insert(document.name.clone(), document);
        }
        is_new
    }

    /// Takes in what the store told.
    pub fn hear(&mut self, news: News) -> Heard {
        let mut heard = Heard { changed: self.forget(&news), revived: false };
        for document in news.documents {
            match self.documents.get(&document.name) {
                Some(held) if held.revision >= document.revision => {
                    // Until the store has heard of the end.
                    heard.revived |= held.body.is_none() && document.body.is_some();
                }
                None if document.revision <= self.floor => {
                    if document.body.is_some() {
                        let end = Document { revision: self.floor, body: None, ..document };
                        self.documents.insert(end.name.clone(), end);
                        heard.revived = true;
                    }
                }
                Some(_) | None => {
                    heard.changed.push(document.name.clone());
                    self.documents.insert(document.name.clone(), document);
                }
            }
        }
        self.floor = self.floor.max(news.floor);
        heard
    }

    /// Forgets tombstones up to the store's floor and, when everything is told, all up to there that is not. Returns the
    /// names of documents that are gone by it.
    fn forget(&mut self, news: &News) -> Vec<String> {
        let mut gone = Vec::new();
        if !news.anew && news.floor <= self.floor {
            return gone;
        }
        let told: BTreeSet<&str> = news.documents.iter().map(|d| d.name.as_str()).collect();
        self.documents.retain(|name, document| {
            let is_over = document.revision <= news.floor && (news.anew || document.body.is_none());
            if !is_over || told.contains(name.as_str()) {
                return true;
            }
            if document.body.is_some() {
                gone.push(name.clone());
            }
            false
        });
        gone
    }
}
