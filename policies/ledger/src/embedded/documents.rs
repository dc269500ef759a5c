//! Documents in the embedded store: tables of their own. Nothing is held in memory; whoever reads keeps what it read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use meridian_model::time::Time;
use redb::{ReadableTable, Table, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{
    EmbeddedLedger,
    tables::{Fault, Tables, decode, encode},
};
use crate::{
    LedgerError, LedgerFuture,
    documents::{
        DOCUMENTS_MAX, Document, Documents, Expect, FORGOTTEN_AFTER, FORGOTTEN_AT_ONCE, Handed, News, Position, Put,
        meets, too_large,
    },
};

/// Name -> revision and text as JSON. A gateway that does not know the table leaves it alone.
const DOCUMENTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("documents");
/// When a tombstone was made (ms), and its revision -> its name.
const GRAVES: TableDefinition<'static, (i64, u64), &str> = TableDefinition::new("document-graves");
/// What holds for all of them, so that no write has to look at all.
const COUNTS: TableDefinition<'static, &str, u64> = TableDefinition::new("document-counts");

/// In `COUNTS`: the last revision.
const REVISION: &str = "revision";
/// In `COUNTS`: how many there are, tombstones included.
const COUNT: &str = "count";
/// In `COUNTS`: the last revision whose tombstone is forgotten.
const FLOOR: &str = "floor";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    r: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b: Option<String>,
    /// When it was deleted, of a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    t: Option<Time>,
}

impl Stored {
    fn of(name: &str, bytes: &[u8]) -> Result<Self, Fault> {
        decode("documents", name.as_bytes(), bytes)
    }

    fn named(self, name: &str) -> Document {
        Document { name: name.to_owned(), revision: self.r, body: self.b }
    }
}

fn read_all(db: &redb::ReadTransaction) -> Result<BTreeMap<String, Document>, Fault> {
    let table = match db.open_table(DOCUMENTS) {
        Ok(table) => table,
        // Nobody has written one yet.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut all = BTreeMap::new();
    for row in table.iter()? {
        let (name, bytes) = row?;
        let document = Stored::of(name.value(), bytes.value())?.named(name.value());
        all.insert(document.name.clone(), document);
    }
    Ok(all)
}

fn value(counts: &impl ReadableTable<&'static str, u64>, what: &'static str) -> Result<u64, Fault> {
    Ok(counts.get(what)?.map_or(0, |value| value.value()))
}

/// The last revision and the floor.
fn bounds(db: &redb::ReadTransaction) -> Result<(u64, u64), Fault> {
    match db.open_table(COUNTS) {
        Ok(counts) => Ok((value(&counts, REVISION)?, value(&counts, FLOOR)?)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok((0, 0)),
        Err(error) => Err(error.into()),
    }
}

/// The tables of one write.
struct Writing<'t> {
    documents: Table<'t, &'static str, &'static [u8]>,
    graves: Table<'t, (i64, u64), &'static str>,
    counts: Table<'t, &'static str, u64>,
    now: Time,
}

impl<'t> Writing<'t> {
    /// The first of them since the store was opened counts: a version that keeps no counts may have written last.
    fn open(tables: &mut Tables<'t>, now: Time, counted: &AtomicBool) -> Result<Self, Fault> {
        let (documents, graves) = (tables.tx.open_table(DOCUMENTS)?, tables.tx.open_table(GRAVES)?);
        let mut own = Self { documents, graves, counts: tables.tx.open_table(COUNTS)?, now };
        if !counted.swap(true, Ordering::Relaxed) {
            own.count()?;
            // Committed with whatever this is the beginning of; a transaction that fails ends the ledger.
            tables.dirty = true;
        }
        Ok(own)
    }

    /// Counts everything; of the tombstones of a version that kept no counts nobody knows when they were made.
    fn count(&mut self) -> Result<(), Fault> {
        let (mut last, mut count, mut ended) = (value(&self.counts, REVISION)?, 0, Vec::new());
        last = last.max(value(&self.counts, FLOOR)?);
        for row in self.documents.iter()? {
            let (name, bytes) = row?;
            count += 1;
            // One that cannot be read stops those that ask for it, and no write.
            let Ok(stored) = Stored::of(name.value(), bytes.value()) else { continue };
            last = stored.r.max(last);
            if stored.b.is_none() {
                ended.push((name.value().to_owned(), stored.r, stored.t));
            }
        }
        for (name, revision, died) in ended {
            match died {
                Some(died) => drop(self.graves.insert((died.unix_ms(), revision), name.as_str())?),
                None => self.write(&name, None, revision)?,
            }
        }
        self.counts.insert(REVISION, last)?;
        self.counts.insert(COUNT, count)?;
        Ok(())
    }

    fn held(&self, name: &str) -> Result<Option<Stored>, Fault> {
        self.documents.get(name)?.map(|bytes| Stored::of(name, bytes.value())).transpose()
    }

    fn has_room(&self) -> Result<bool, Fault> {
        Ok(usize::try_from(value(&self.counts, COUNT)?).is_ok_and(|count| count < DOCUMENTS_MAX))
    }

    fn write(&mut self, name: &str, body: Option<String>, revision: u64) -> Result<(), Fault> {
        let died = body.is_none().then_some(self.now);
        if let Some(died) = died {
            self.graves.insert((died.unix_ms(), revision), name)?;
        }
        self.documents.insert(name, encode(&Stored { r: revision, b: body, t: died })?.as_slice())?;
        Ok(())
    }

    /// Forgets the oldest tombstone, if it was made by then; of a name that an older version made anew only the grave.
    fn forget(&mut self, until: Time) -> Result<bool, Fault> {
        loop {
            let oldest = self.graves.first()?.map(|(at, name)| (at.value(), name.value().to_owned()));
            let Some((grave, name)) = oldest else { return Ok(false) };
            if grave.0 > until.unix_ms() {
                return Ok(false);
            }
            self.graves.remove(grave)?;
            if !self.held(&name)?.is_some_and(|held| held.b.is_none() && held.r == grave.1) {
                continue;
            }
            self.documents.remove(name.as_str())?;
            let (count, floor) = (value(&self.counts, COUNT)?, value(&self.counts, FLOOR)?);
            self.counts.insert(COUNT, count.saturating_sub(1))?;
            self.counts.insert(FLOOR, floor.max(grave.1))?;
            return Ok(true);
        }
    }

    fn put(&mut self, name: &str, body: Option<String>, expect: Expect) -> Result<Put, Fault> {
        let held = self.held(name)?;
        let died = held.as_ref().and_then(|held| Some((held.t?.unix_ms(), held.r)));
        let held = held.map(|held| held.named(name));
        if !meets(expect, held.as_ref()) {
            return Ok(Put::Conflict(held));
        }
        if held.is_none() && !self.has_room()? && !self.forget(self.now)? {
            return Ok(Put::Full);
        }
        if let Some(grave) = died {
            self.graves.remove(grave)?;
        }
        let (revision, count) = (value(&self.counts, REVISION)? + 1, value(&self.counts, COUNT)?);
        self.write(name, body, revision)?;
        self.counts.insert(REVISION, revision)?;
        self.counts.insert(COUNT, count + u64::from(held.is_none()))?;
        Ok(Put::Written(revision))
    }
}

impl EmbeddedLedger {
    async fn documents_since(&self, after: Position) -> Result<News, LedgerError> {
        let incarnation = self.incarnation().to_owned();
        self.read(move |tx, _| {
            let (revision, floor) = bounds(tx)?;
            let anew = after == Position::default() || after.revision < floor;
            if !anew && after.revision >= revision {
                return Ok(News { position: after, floor, ..News::default() });
            }
            let all = read_all(tx)?;
            // A version that kept no counts may have written last.
            let revision = all.values().map(|d| d.revision).fold(revision, u64::max);
            // The only writer there is: whoever read to here has read all.
            let position = Position { incarnation, restored: 0, revision };
            let documents = all.into_values().filter(|d| anew || d.revision > after.revision).collect();
            Ok(News { position, anew, documents, wants: false, floor })
        })
        .await
    }

    async fn put_document(
        &self,
        name: String,
        body: Option<String>,
        expect: Expect,
        now: Time,
    ) -> Result<Put, LedgerError> {
        let counted = Arc::clone(&self.counted);
        self.write(move |tables| {
            let put = Writing::open(tables, now, &counted)?.put(&name, body, expect)?;
            tables.dirty |= matches!(put, Put::Written(_));
            Ok(put)
        })
        .await
    }

    async fn forget_documents(&self, now: Time) -> Result<(), LedgerError> {
        let counted = Arc::clone(&self.counted);
        self.write(move |tables| {
            let mut writing = Writing::open(tables, now, &counted)?;
            for _ in 0..FORGOTTEN_AT_ONCE {
                if !writing.forget(now - FORGOTTEN_AFTER)? {
                    break;
                }
                tables.dirty = true;
            }
            Ok(())
        })
        .await
    }
}

impl Documents for EmbeddedLedger {
    fn is_shared(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, after: &'a Position) -> LedgerFuture<'a, News> {
        Box::pin(self.documents_since(after.clone()))
    }

    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect, now: Time) -> LedgerFuture<'a, Put> {
        if let Some(error) = too_large(name, body.as_ref()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        Box::pin(self.put_document(name.to_owned(), body, expect, now))
    }

    fn forget(&self, now: Time) -> LedgerFuture<'_, ()> {
        Box::pin(self.forget_documents(now))
    }

    fn restore(&self, _: Handed) -> LedgerFuture<'_, ()> {
        // What was acknowledged is on the disk, or the store does not open: there is nothing to be handed in.
        Box::pin(std::future::ready(Ok(())))
    }
}
