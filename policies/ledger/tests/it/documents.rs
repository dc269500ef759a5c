//! Documents: one suite for every store, and what a lossy failover does.

use std::{path::Path, sync::Arc, time::Duration};

use meridian_ledger::{
    LedgerError,
    conformance::{documents_suite, put_document, redis_server::RedisServer},
    documents::{
        DOCUMENTS_MAX, Document, Documents, Expect, FORGOTTEN_AFTER, Handed, MemoryDocuments, Position, Put, Replica,
        look,
    },
    redis::{Options, Redis, RedisDocuments},
};
use meridian_model::time::Time;

use crate::open_clean;

/// When tests write, for stores that have no time of their own.
const NOW: Time = Time::from_unix_ms(1_767_225_600_000);

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
    let refused = store.put("other", Some("x".to_owned()), Expect::Absent, NOW).await;
    assert!(matches!(refused, Err(LedgerError::Recovering(_))), "{refused:?}");
    let news = store.read(&late.position).await.unwrap();
    assert!(news.wants && news.documents.is_empty(), "who knows more is asked, and takes nothing older: {news:?}");
    let handed = |documents: &[Document]| Handed { documents: documents.to_vec(), ..Handed::default() };
    store.restore(handed(&late.documents)).await.unwrap();
    let healed = store.read(&early.position).await.unwrap();
    assert!(healed.anew, "whoever read before reads all again");
    assert_eq!(healed.documents, late.documents);
    // A second gateway that knows less changes nothing.
    store.restore(handed(&early.documents)).await.unwrap();
    assert_eq!(store.read(&Position::default()).await.unwrap().documents, late.documents);
    let Put::Written(next) = put_document(&*store, "other", Some("x"), Expect::Absent).await else { panic!() };
    assert!(next > revoked + 1000, "{next} {revoked}");
    // Whoever comes after the grace is heard too, where nothing newer stands.
    let lost = Document { name: "lost".to_owned(), revision: revoked + 1, body: Some("y".to_owned()) };
    store.restore(handed(&[lost.clone(), Document { name: "other".to_owned(), ..lost.clone() }])).await.unwrap();
    let all = store.read(&Position::default()).await.unwrap();
    assert!(!all.wants && all.documents.contains(&lost));
    assert!(all.documents.iter().any(|d| d.name == "other" && d.body.as_deref() == Some("x")));
    tokio::time::timeout(Duration::from_secs(1), store.read(&all.position)).await.unwrap().unwrap();
}

/// A reader, and how far it has read.
#[derive(Debug, Clone, Default)]
struct Reader(Replica, Position);

impl Reader {
    async fn look(&mut self, store: &dyn Documents) {
        let news = look(store, &self.1).await.unwrap();
        let position = news.position.clone();
        let wants = news.wants;
        if self.0.hear(news).revived || wants {
            store.restore(self.0.handed(&position)).await.unwrap();
        }
        self.1 = position;
    }

    fn lives(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|document| document.body.is_some())
    }
}

/// Names that a store holds, those of tombstones in brackets.
async fn held(store: &dyn Documents) -> String {
    let mut documents = store.read(&Position::default()).await.unwrap().documents;
    documents.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let shown = |d: &Document| if d.body.is_some() { d.name.clone() } else { format!("({})", d.name) };
    documents.iter().map(shown).collect()
}

/// A tombstone goes after a day, and what it stood for does not come back. `ages` has one become so much older, where the
/// store goes by its own time.
async fn forgets(store: &dyn Documents, ages: impl Fn(&str, Duration)) {
    let written = |put: Put| if let Put::Written(revision) = put { revision } else { panic!("not written: {put:?}") };
    let put = async |name: &str, body: Option<&str>, expect| written(put_document(store, name, body, expect).await);
    for name in ["a", "b", "c"] {
        put(name, Some("1"), Expect::Absent).await;
    }
    let (mut early, mut late) = (Reader::default(), Reader::default());
    early.look(store).await;
    put("a", None, Expect::Present).await;
    put("c", None, Expect::Present).await;
    late.look(store).await;
    let (asleep, moment) = (early.clone(), Duration::from_secs(1));
    ages("a", FORGOTTEN_AFTER - moment * 30);
    store.forget(NOW + (FORGOTTEN_AFTER - moment)).await.unwrap();
    assert_eq!(held(store).await, "(a)b(c)", "not before its time");

    // A name that is given again has no tombstone that could be forgotten.
    put("c", Some("2"), Expect::Absent).await;
    ages("a", moment * 30);
    store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
    assert_eq!(held(store).await, "bc");
    // Who had seen the end forgets it too; who had not learns that it has ended by not being told.
    late.look(store).await;
    assert_eq!(late.0.count(""), 2);
    early.look(store).await;
    assert!(!early.lives("a") && early.lives("b") && early.lives("c"), "{early:?}");
    // An older state that arrives late changes nothing, with whoever brings it and whoever knows better.
    store.restore(asleep.0.handed(&asleep.1)).await.unwrap();
    assert_eq!(held(store).await, "bc");
    assert!(!early.0.learn(asleep.0.get("a").unwrap().clone()));
    early.look(store).await;
    assert_eq!(early.0.count(""), 2);
    // The name can be given again, with a revision that none had.
    let again = put("a", Some("2"), Expect::Never).await;
    let known = [&early, &late].map(|reader| reader.1.revision);
    assert!(known.iter().all(|revision| *revision < again), "{known:?} {again}");
}

/// Where there is no room for a living document, the oldest tombstone makes some, and nothing else does. `fill` makes so many
/// living ones.
async fn makes_room(store: &dyn Documents, fill: impl AsyncFnOnce(usize)) {
    put_document(store, "a", Some("1"), Expect::Absent).await;
    put_document(store, "a", None, Expect::Present).await;
    fill(DOCUMENTS_MAX - 1).await;
    let put = async |name: &str| store.put(name, Some(String::new()), Expect::Absent, NOW).await.unwrap();
    assert!(matches!(put("b").await, Put::Written(_)));
    assert_eq!(put("c").await, Put::Full);
    let all = store.read(&Position::default()).await.unwrap().documents;
    assert!(all.len() == DOCUMENTS_MAX && all.iter().all(|d| d.body.is_some() && d.name != "a"));
    // An end needs no room.
    assert!(matches!(store.put("b", None, Expect::Present, NOW).await, Ok(Put::Written(_))));
}

#[tokio::test(start_paused = true)]
async fn tombstones_in_memory_are_forgotten() {
    forgets(&MemoryDocuments::new(), |_, _| {}).await;
    let store = MemoryDocuments::new();
    makes_room(&store, async |count| {
        for n in 0..count {
            put_document(&store, &format!("x{n}"), Some(""), Expect::Absent).await;
        }
    })
    .await;
}

#[tokio::test]
async fn tombstones_in_the_embedded_store_are_forgotten_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    let before = {
        let store = open_clean(&path);
        forgets(&store, |_, _| {}).await;
        let Put::Written(last) = put_document(&store, "a", None, Expect::Present).await else { panic!() };
        store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
        assert_eq!(held(&store).await, "bc");
        last
    };
    // The last write was the end that is forgotten: after a restart its revision is still not given out again.
    let store = open_clean(&path);
    assert_eq!(held(&store).await, "bc");
    let Put::Written(next) = put_document(&store, "a", Some("3"), Expect::Never).await else { panic!() };
    assert!(next > before, "{next} {before}");
    let position = store.read(&Position::default()).await.unwrap().position;
    let news = store.read(&Position { revision: before - 1, ..position }).await.unwrap();
    assert!(news.anew, "who had not read the end is told everything");
}

const DOCUMENTS: redb::TableDefinition<'static, &str, &[u8]> = redb::TableDefinition::new("documents");

/// Changes a store's file behind its back.
fn change(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let tx = redb::Database::open(path).unwrap().begin_write().unwrap();
    change(&tx);
    tx.commit().unwrap();
}

#[tokio::test]
async fn a_document_that_is_damaged_stops_no_write_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    put_document(&open_clean(&path), "a", Some("1"), Expect::Absent).await;
    change(&path, |tx| drop(tx.open_table(DOCUMENTS).unwrap().insert("x", b"{".as_slice()).unwrap()));
    let store = open_clean(&path);
    assert!(store.read(&Position::default()).await.is_err(), "whoever looks at it cannot read it");
    for (name, body, expect) in
        [("b", Some("1"), Expect::Absent), ("b", Some("2"), Expect::Present), ("a", None, Expect::Present)]
    {
        let put = store.put(name, body.map(str::to_owned), expect, NOW).await;
        assert!(matches!(put, Ok(Put::Written(_))), "{put:?}");
    }
    store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
    assert_eq!(store.put("a", None, Expect::Present, NOW).await.unwrap(), Put::Conflict(None));
}

#[tokio::test]
async fn documents_of_a_version_that_counted_nothing_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    change_new(&path).await;
    let store = open_clean(&path);
    let news = store.read(&Position::default()).await.unwrap();
    assert_eq!((held(&store).await.as_str(), news.position.revision), ("a(b)", 7));
    assert_eq!(put_document(&store, "c", Some("1"), Expect::Absent).await, Put::Written(8));
    // Nobody knows how old its tombstones are: they are as old as the first write.
    store.forget(NOW + (FORGOTTEN_AFTER - Duration::from_secs(1))).await.unwrap();
    assert_eq!(held(&store).await, "a(b)c");
    store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
    assert_eq!(held(&store).await, "ac");
}

#[tokio::test]
async fn what_a_version_that_counts_nothing_writes_in_between_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    {
        let store = open_clean(&path);
        put_document(&store, "a", Some("1"), Expect::Absent).await;
        put_document(&store, "b", Some("1"), Expect::Absent).await;
        put_document(&store, "b", None, Expect::Present).await;
    }
    // It makes the name anew, and has revisions of its own.
    change(&path, |tx| {
        let mut documents = tx.open_table(DOCUMENTS).unwrap();
        drop(documents.insert("b", br#"{"r":10,"b":"2"}"#.as_slice()).unwrap());
    });
    let store = open_clean(&path);
    let position = store.read(&Position::default()).await.unwrap().position;
    assert_eq!(put_document(&store, "a", None, Expect::Present).await, Put::Written(11), "news to whoever read all");
    assert_eq!(store.read(&position).await.unwrap().documents.len(), 1);
    store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
    assert_eq!(held(&store).await, "b", "its grave is an older one's");
}

/// A store as such a version left it.
async fn change_new(path: &Path) {
    put_document(&open_clean(path), "a", Some("1"), Expect::Absent).await;
    change(path, |tx| {
        tx.delete_table(redb::TableDefinition::<&str, u64>::new("document-counts")).unwrap();
        tx.delete_table(redb::TableDefinition::<(i64, u64), &str>::new("document-graves")).unwrap();
        drop(tx.open_table(DOCUMENTS).unwrap().insert("b", br#"{"r":7}"#.as_slice()).unwrap());
    });
}

fn ages(server: &RedisServer) -> impl Fn(&str, Duration) {
    |name, by| drop(server.ask(&["ZINCRBY", "test{all}:docs-graves", &format!("-{}", by.as_millis()), name]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_on_redis_are_forgotten() {
    let server = RedisServer::start(&[]);
    let store = RedisDocuments::new(connect(&server), "test");
    forgets(&*store, ages(&server)).await;
    assert_eq!(server.ask(&["FLUSHALL"]), "OK");
    makes_room(&*store, async |count| {
        let script = "for n = 1, ARGV[1] do redis.call('HSET', KEYS[1], 'x' .. n, '1 1') end";
        let _ = server.ask(&["EVAL", script, "1", "test{all}:docs", &count.to_string()]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_of_an_older_gateway_on_redis_are_forgotten_as_well() {
    let server = RedisServer::start(&[]);
    let store = RedisDocuments::new(connect(&server), "test");
    put_document(&*store, "a", Some("1"), Expect::Absent).await;
    let _ = server.ask(&["HSET", "test{all}:docs", "b", "2 0"]);
    let _ = server.ask(&["HSET", "test{all}:docs-meta", "revision", "2"]);
    assert_eq!(held(&*store).await, "a(b)");
    store.forget(NOW).await.unwrap();
    assert_eq!(held(&*store).await, "a(b)", "as old as the first look at it");
    ages(&server)("b", FORGOTTEN_AFTER);
    store.forget(NOW).await.unwrap();
    assert_eq!(held(&*store).await, "a");
}

/// A store that comes back from before an end brings what had ended, and nobody has a tombstone any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_and_is_forgotten_is_not_brought_back_by_a_store_from_before() {
    let server = RedisServer::start(&[]);
    let store = RedisDocuments::new(connect(&server), "test");
    let Put::Written(made) = put_document(&*store, "a", Some("1"), Expect::Absent).await else { panic!() };
    let (mut follows, mut asleep) = (Reader::default(), Reader::default());
    follows.look(&*store).await;
    asleep.look(&*store).await;
    let older = server.ask(&["HGET", "test{all}:docs", "a"]);
    let Put::Written(ended) = put_document(&*store, "a", None, Expect::Present).await else { panic!() };
    ages(&server)("a", FORGOTTEN_AFTER);
    store.forget(NOW).await.unwrap();
    follows.look(&*store).await;
    assert_eq!(held(&*store).await, "");

    for brings in [None, Some(older.as_str())] {
        assert_eq!(server.ask(&["FLUSHALL"]), "OK");
        if let Some(older) = brings {
            let _ = server.ask(&["HSET", "test{all}:docs", "a", older]);
            let _ = server.ask(&["HSET", "test{all}:docs-meta", "revision", &made.to_string(), "incarnation", "0"]);
        }
        let mut asleep = asleep.clone();
        follows.look(&*store).await;
        assert!(!held(&*store).await.replace("(a)", "").contains('a'), "{}", held(&*store).await);
        // Whoever slept through all of it hands in a living one, and is told better.
        asleep.look(&*store).await;
        assert!(!held(&*store).await.replace("(a)", "").contains('a'), "{}", held(&*store).await);
        follows.look(&*store).await;
        assert!(!asleep.lives("a") && !follows.lives("a"), "{asleep:?} {follows:?}");
        // What is written then is news to everybody.
        let Put::Written(next) = put_document(&*store, "b", Some("1"), Expect::Absent).await else { panic!() };
        assert!(next > ended, "{next} {ended}");
        asleep.look(&*store).await;
        follows.look(&*store).await;
        assert!(asleep.lives("b") && follows.lives("b"), "{asleep:?} {follows:?}");
        put_document(&*store, "b", None, Expect::Present).await;
        follows.look(&*store).await;
    }
}
