//! Coordination among gateways: one suite for every store.

use std::{sync::Arc, time::Duration};

use meridian_ledger::{
    conformance::{redis_server::RedisServer, shared_suite},
    redis::{Options, Redis, RedisShared},
    shared::{Lead, MemoryShared, Post, Posted, Shared},
};

/// A suite that runs nothing proves nothing.
const CASES_MIN: usize = 16;

#[tokio::test(start_paused = true)]
async fn coordination_in_memory_conforms() {
    let run = shared_suite(async || {
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
        shared
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
    assert!(!MemoryShared::alone().is_shared());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordination_on_redis_conforms() {
    let server = RedisServer::start(&[]);
    let redis = Redis::connect(Options::single("127.0.0.1", server.port())).unwrap();
    let run = shared_suite(async || {
        assert_eq!(server.ask(&["FLUSHALL"]), "OK");
        let shared: Arc<dyn Shared> = RedisShared::new(redis.clone(), "test");
        shared
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terms_and_boards_go_on_after_the_store_lost_everything() {
    let server = RedisServer::start(&[]);
    let shared = RedisShared::new(Redis::connect(Options::single("127.0.0.1", server.port())).unwrap(), "test");
    let lease = Duration::from_secs(60);
    let Lead::Leader { term } = shared.lead("t", "a", lease).await.unwrap() else { panic!("nobody else is there") };
    let post = |term| Post { term, changed: vec![("k".to_owned(), Some(vec![1]))], head: None };
    let Posted::Written { version } = shared.post("t", post(term)).await.unwrap() else { panic!("deposed") };
    assert_eq!(server.ask(&["FLUSHALL"]), "OK");
    assert_eq!(shared.post("t", post(term)).await.unwrap(), Posted::Deposed, "nobody knows that it leads");
    let page = shared.read("t", version, Duration::ZERO).await.unwrap();
    assert!(page.anew && page.version == 0, "{page:?}");
    let Lead::Leader { term: next } = shared.lead("t", "b", lease).await.unwrap() else { panic!("nobody leads") };
    assert!(next > term);
    let Posted::Written { version: after } = shared.post("t", post(next)).await.unwrap() else { panic!("deposed") };
    assert!(after > version);
    assert_eq!(shared.post("t", post(term)).await.unwrap(), Posted::Deposed);
}
