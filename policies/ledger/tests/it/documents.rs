//! Documents: one suite for every store, and what a lossy failover does.

use std::{sync::Arc, time::Duration};

use meridian_ledger::{
    LedgerError,
    conformance::{documents_suite, put_document, redis_server::RedisServer},
    documents::{Document, Documents, Expect, MemoryDocuments, Position, Put},
    redis::{Options, Redis, RedisDocuments},
};

use crate::open_clean;

/// A suite that runs nothing proves nothing.
const CASES_MIN: usize = 5;

#[tokio::test(start_paused = true)]
async fn documents_in_memory_conform() {
    let run = documents_suite(async || {
        let store: Arc<dyn Documents> = Arc::new(MemoryDocuments::new());
        store
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
}

#[tokio::test]
async fn documents_in_the_embedded_store_conform_and_last() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let run = documents_suite(async || {
        count.set(count.get() + 1);
        let store: Arc<dyn Documents> = Arc::new(open_clean(&folder.path().join(format!("{}.redb", count.get()))));
        store
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
    // What the first case wrote is there after a restart.
    let news = open_clean(&folder.path().join("1.redb")).read(&Position::default()).await.unwrap();
    assert_eq!(news.documents.len(), 2);
}

fn connect(server: &RedisServer) -> Redis {
    Redis::connect(Options::single("127.0.0.1", server.port())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_on_redis_conform() {
    let server = RedisServer::start(&[]);
    let redis = connect(&server);
    let run = documents_suite(async || {
        assert_eq!(server.ask(&["FLUSHALL"]), "OK");
        let store: Arc<dyn Documents> = RedisDocuments::new(redis.clone(), "test");
        store
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
}

/// A gateway that saw the revocation brings it back to a store that lost it; nothing is written before, and revisions that
/// the lost ones had are not given out again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_lost_is_brought_back_by_whoever_saw_it() {
    let server = RedisServer::start(&[]);
    let store = RedisDocuments::new(connect(&server), "test");
    let Put::Written(made) = put_document(&*store, "key", Some("secret"), Expect::Absent).await else { panic!() };
    let older = server.ask(&["HGET", "test{all}:docs", "key"]);
    let early = store.read(&Position::default()).await.unwrap();
    let Put::Written(revoked) = put_document(&*store, "key", None, Expect::Revision(made)).await else { panic!() };
    let late = store.read(&Position::default()).await.unwrap();
    assert!(!late.wants);

    // The server comes back as it was before the revocation, under another run_id.
    let _ = server.ask(&["HSET", "test{all}:docs", "key", &older]);
    let _ = server.ask(&["HSET", "test{all}:docs-meta", "revision", &made.to_string(), "incarnation", "0"]);
    let refused = store.put("other", Some("x".to_owned()), Expect::Absent).await;
    assert!(matches!(refused, Err(LedgerError::Recovering(_))), "{refused:?}");
    let news = store.read(&late.position).await.unwrap();
    assert!(news.wants && news.documents.is_empty(), "who knows more is asked, and takes nothing older: {news:?}");
    store.restore(late.documents.clone()).await.unwrap();
    let healed = store.read(&early.position).await.unwrap();
    assert!(healed.anew, "whoever read before reads all again");
    assert_eq!(healed.documents, late.documents);
    // A second gateway that knows less changes nothing.
    store.restore(early.documents.clone()).await.unwrap();
    assert_eq!(store.read(&Position::default()).await.unwrap().documents, late.documents);
    let Put::Written(next) = put_document(&*store, "other", Some("x"), Expect::Absent).await else { panic!() };
    assert!(next > revoked + 1000, "{next} {revoked}");
    // Whoever comes after the grace is heard too, where nothing newer stands.
    let lost = Document { name: "lost".to_owned(), revision: revoked + 1, body: Some("y".to_owned()) };
    store.restore(vec![lost.clone(), Document { name: "other".to_owned(), ..lost.clone() }]).await.unwrap();
    let all = store.read(&Position::default()).await.unwrap();
    assert!(!all.wants && all.documents.contains(&lost));
    assert!(all.documents.iter().any(|d| d.name == "other" && d.body.as_deref() == Some("x")));
    tokio::time::timeout(Duration::from_secs(1), store.read(&all.position)).await.unwrap().unwrap();
}
