//! Documents in the embedded store: a table of their own, read into memory when the store opens.

use std::collections::BTreeMap;

use redb::{ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{
    EmbeddedLedger,
    tables::{Fault, decode, encode},
};
use crate::{
    LedgerFuture,
    documents::{DOCUMENTS_MAX, Document, Documents, Expect, News, Position, Put, meets, too_large},
};

/// Name -> revision and text as JSON. A gateway that does not know the table leaves it alone.
const DOCUMENTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("documents");

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    r: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b: Option<String>,
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
        let name = name.value().to_owned();
        let Stored { r, b } = decode("documents", name.as_bytes(), bytes.value())?;
        all.insert(name.clone(), Document { name, revision: r, body: b });
    }
    Ok(all)
}

impl EmbeddedLedger {
    async fn documents_since(&self, after: Position) -> Result<News, crate::LedgerError> {
        let all = self.read(|tx, _| read_all(tx)).await?;
        let anew = after == Position::default();
        let revision = all.values().map(|d| d.revision).max().unwrap_or_default();
        // The only writer there is: whoever read to here has read all.
        let position = Position { incarnation: self.incarnation().to_owned(), restored: 0, revision };
        let documents = all.into_values().filter(|d| anew || d.revision > after.revision).collect();
        Ok(News { position, anew, documents, wants: false })
    }

    async fn put_document(
        &self,
        name: String,
        body: Option<String>,
        expect: Expect,
    ) -> Result<Put, crate::LedgerError> {
        self.write(move |tables| {
            let mut table = tables.tx.open_table(DOCUMENTS)?;
            let held = table.get(name.as_str())?.map(|bytes| bytes.value().to_vec());
            let held = held.map(|bytes| decode::<Stored>("documents", name.as_bytes(), &bytes)).transpose()?;
            let held = held.map(|s| Document { name: name.clone(), revision: s.r, body: s.b });
            if !meets(expect, held.as_ref()) {
                return Ok(Put::Conflict(held));
            }
            let mut last = 0;
            let mut count = 0_usize;
            for row in table.iter()? {
                let (name, bytes) = row?;
                last = decode::<Stored>("documents", name.value().as_bytes(), bytes.value())?.r.max(last);
                count += 1;
            }
            if held.is_none() && count >= DOCUMENTS_MAX {
                return Ok(Put::Full);
            }
            let revision = last + 1;
            table.insert(name.as_str(), encode(&Stored { r: revision, b: body })?.as_slice())?;
            drop(table);
            tables.dirty = true;
            Ok(Put::Written(revision))
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

    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect) -> LedgerFuture<'a, Put> {
        if let Some(error) = too_large(name, body.as_ref()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        Box::pin(self.put_document(name.to_owned(), body, expect))
    }

    fn restore(&self, _: Vec<Document>) -> LedgerFuture<'_, ()> {
        // What was acknowledged is on the disk, or the store does not open: there is nothing to be handed in.
        Box::pin(std::future::ready(Ok(())))
    }
}
