//! Documents on a Redis: one hash, one script.
//!
//! | key | type | what |
//! |---|---|---|
//! | `P{all}:docs` | hash | name -> revision, whether it is there, text |
//! | `P{all}:docs-graves` | sorted set | names of tombstones by when they were made (ms, the server's time) |
//! | `P{all}:docs-meta` | hash | `revision`: the last one; `floor`: the last one whose tombstone is forgotten; `incarnation`: `run_id` of the server under which they are whole; `seen`, `since`: another server and since when it serves; `restored`: how often gateways handed in what was missing |
//!
//! A server that is not the one of the incarnation may have lost writes. For [`GRACE`] from when it is first seen it takes
//! none, and every reader is told so: gateways hand in what they know. A gateway that comes later hands in as well; what
//! was written meanwhile has higher revisions and stays.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use meridian_model::time::Time;
use redis::Value;

use super::{
    link::{Redis, Script},
    values,
};
use crate::{
    LedgerError, LedgerFuture,
    documents::{
        DOCUMENTS_MAX, Document, Documents, Expect, FORGOTTEN_AFTER, FORGOTTEN_AT_ONCE, Handed, News, Position, Put,
        too_large,
    },
};

/// How long gateways have to hand in what a store that may have lost writes lacks: several of their looks, which are two a
/// second.
const GRACE: Duration = Duration::from_secs(3);

/// How far revisions go on above the highest that is known after a loss: more than a deployment writes in the time in which
/// a write can be acknowledged, lost, and seen by no gateway that lives.
const JUMP: u64 = 1_000_000;

/// Documents that are handed in with one call.
const RESTORED_AT_ONCE: usize = 500;

static DOCUMENTS: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("lua/documents.lua")]));

/// See the module.
#[derive(Debug, Clone)]
pub struct RedisDocuments {
    redis: Redis,
    docs: Vec<u8>,
    meta: Vec<u8>,
    graves: Vec<u8>,
}

impl RedisDocuments {
    /// Documents over a connection that is not the ledger's; the prefix is the ledger's.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Arc<Self> {
        let key = |name: &str| format!("{prefix}{{all}}:{name}").into_bytes();
        Arc::new(Self { redis, docs: key("docs"), meta: key("docs-meta"), graves: key("docs-graves") })
    }

    async fn hand_in(&self, part: &[Document], (revision, floor): (u64, u64)) -> Result<(), LedgerError> {
        let (revision, floor) = (revision.to_string(), floor.to_string());
        let revisions: Vec<String> = part.iter().map(|d| d.revision.to_string()).collect();
        let mut args: Vec<&[u8]> = vec![b"restore", revision.as_bytes(), floor.as_bytes()];
        for (document, revision) in part.iter().zip(&revisions) {
            let has: &[u8] = if document.body.is_some() { b"1" } else { b"0" };
            let body = document.body.as_deref().unwrap_or_default().as_bytes();
            args.extend([document.name.as_bytes(), revision.as_bytes(), has, body]);
        }
        self.call(&args).await.map(drop)
    }

    async fn call(&self, args: &[&[u8]]) -> Result<Value, LedgerError> {
        self.redis.eval_unguarded(&DOCUMENTS, &[&self.docs, &self.meta, &self.graves], args).await
    }
}

fn odd(verb: &str) -> LedgerError {
    LedgerError::Damaged {
        place: format!("documents {verb}"),
        detail: "the script's answer has another form".to_owned(),
    }
}

fn body_of(has: &Value, body: &Value) -> Option<Option<String>> {
    if values::number(has)? == 1 { values::text(body).map(Some) } else { Some(None) }
}

fn document(value: &Value) -> Option<Document> {
    let [name, revision, has, body] = values::list(value)? else { return None };
    Some(Document { name: values::text(name)?, revision: values::number(revision)?, body: body_of(has, body)? })
}

fn news(answer: &Value) -> Option<News> {
    let [wants, run, restored, revision, anew, found, floor] = values::list(answer)? else { return None };
    let position = Position {
        incarnation: values::text(run)?,
        restored: values::number(restored)?,
        revision: values::number(revision)?,
    };
    let documents = values::list(found)?.iter().map(document).collect::<Option<_>>()?;
    let is = |flag: &Value| values::number(flag) == Some(1);
    Some(News { position, anew: is(anew), documents, wants: is(wants), floor: values::number(floor)? })
}

fn put(name: &str, answer: &Value) -> Result<Put, LedgerError> {
    let parts = values::list(answer).unwrap_or_default();
    let number = |n: usize| parts.get(n).and_then(values::number);
    match parts.first().and_then(values::text).as_deref() {
        Some("written") => number(1).map(Put::Written).ok_or_else(|| odd("put")),
        Some("full") => Ok(Put::Full),
        Some("shut") => Err(LedgerError::Recovering("gateways hand in what the store may have lost".to_owned())),
        Some("conflict") => match parts {
            [_] => Ok(Put::Conflict(None)),
            [_, revision, has, body] => {
                let body = body_of(has, body).ok_or_else(|| odd("put"))?;
                let revision = values::number(revision).ok_or_else(|| odd("put"))?;
                Ok(Put::Conflict(Some(Document { name: name.to_owned(), revision, body })))
            }
            _ => Err(odd("put")),
        },
        _ => Err(odd("put")),
    }
}

impl Documents for RedisDocuments {
    fn read<'a>(&'a self, after: &'a Position) -> LedgerFuture<'a, News> {
        Box::pin(async move {
            let known = *after != Position::default();
            let restored = if known { after.restored.to_string() } else { "none".to_owned() };
            let texts = [GRACE.as_millis().to_string(), JUMP.to_string(), after.revision.to_string(), restored];
            let [grace, jump, revision, restored] = texts.each_ref().map(String::as_bytes);
            let answer = self.call(&[&b"read"[..], grace, jump, revision, restored]).await?;
            let mut news = news(&answer).ok_or_else(|| odd("read"))?;
            // Another process than the one that was read from may have come back without what was read.
            news.wants |= known && news.position.incarnation != after.incarnation;
            Ok(news)
        })
    }

    /// The server's time counts, so that gateways need not agree on it.
    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect, _: Time) -> LedgerFuture<'a, Put> {
        Box::pin(async move {
            if let Some(error) = too_large(name, body.as_ref()) {
                return Err(error);
            }
            let expect = match expect {
                Expect::Absent => "absent".to_owned(),
                Expect::Never => "never".to_owned(),
                Expect::Present => "present".to_owned(),
                Expect::Revision(revision) => revision.to_string(),
            };
            let texts = [GRACE.as_millis().to_string(), JUMP.to_string(), DOCUMENTS_MAX.to_string()];
            let [grace, jump, most] = texts.each_ref().map(String::as_bytes);
            let has: &[u8] = if body.is_some() { b"1" } else { b"0" };
            let body = body.as_deref().unwrap_or_default().as_bytes();
            let args = [&b"put"[..], grace, jump, name.as_bytes(), has, body, expect.as_bytes(), most];
            put(name, &self.call(&args).await?)
        })
    }

    fn forget(&self, _: Time) -> LedgerFuture<'_, ()> {
        Box::pin(async move {
            let (grace, jump) = (GRACE.as_millis().to_string(), JUMP.to_string());
            let (after, at_once) = (FORGOTTEN_AFTER.as_millis().to_string(), FORGOTTEN_AT_ONCE.to_string());
            let texts = [&grace, &jump, &after, &at_once].map(|text| text.as_bytes());
            self.call(&[&[&b"forget"[..]], &texts[..]].concat()).await.map(drop)
        })
    }

    fn restore(&self, handed: Handed) -> LedgerFuture<'_, ()> {
        Box::pin(async move {
            let Handed { documents, revision, floor } = handed;
            let mut parts: Vec<&[Document]> = documents.chunks(RESTORED_AT_ONCE).collect();
            let last = parts.pop().unwrap_or_default();
            for part in parts {
                self.hand_in(part, (0, 0)).await?;
            }
            // The floor when all that lives below it is there.
            self.hand_in(last, (revision, floor)).await
        })
    }
}
