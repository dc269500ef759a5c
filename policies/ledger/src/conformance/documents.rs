//! The suite that every store of documents must pass.

use std::{pin::Pin, sync::Arc, time::Duration};

use meridian_model::time::Time;
use tokio::time::Instant;

use crate::{
    LedgerError,
    documents::{DOCUMENT_LEN_MAX, Document, Documents, Expect, News, Position, Put},
};

/// Longest wait until a store takes writes: one that may have lost some waits for gateways first.
const PATIENCE: Duration = Duration::from_secs(20);

/// When the suite writes, for stores that have no time of their own.
const NOW: Time = Time::from_unix_ms(1_767_225_600_000);

type Case = fn(Arc<dyn Documents>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($name:ident),+ $(,)?) => { vec![$((stringify!($name), (|s| Box::pin($name(s))) as Case)),+] };
}

/// Runs every case against a store of its own and returns how many there were.
///
/// # Panics
/// When a case fails; the case is named in the output of the test before.
pub async fn documents_suite<F: AsyncFn() -> Arc<dyn Documents>>(make: F) -> usize {
    let all = cases![
        a_reader_is_told_what_is_new,
        a_write_holds_to_what_was_seen,
        a_tombstone_is_told_and_does_not_stand_in_the_way,
        one_of_many_writers_wins,
        what_is_too_large_is_refused,
    ];
    let run = all.len();
    for (name, case) in all {
        #[expect(clippy::print_stderr, reason = "names the failing case")]
        {
            eprintln!("conformance: {name}");
        }
        case(make().await).await;
    }
    run
}

/// Writes as soon as the store takes writes.
///
/// # Panics
/// It does not in time, or fails otherwise.
pub async fn put(store: &dyn Documents, name: &str, body: Option<&str>, expect: Expect) -> Put {
    let until = Instant::now() + PATIENCE;
    loop {
        match store.put(name, body.map(str::to_owned), expect, NOW).await {
            Ok(put) => return put,
            Err(LedgerError::Recovering(_)) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn written(put: Put) -> u64 {
    match put {
        Put::Written(revision) => revision,
        other => panic!("not written: {other:?}"),
    }
}

async fn read(store: &dyn Documents, after: &Position) -> News {
    store.read(after).await.unwrap_or_else(|e| panic!("{e}"))
}

fn names(news: &News) -> Vec<(&str, Option<&str>)> {
    let mut all: Vec<_> = news.documents.iter().map(|d| (d.name.as_str(), d.body.as_deref())).collect();
    all.sort_unstable();
    all
}

async fn a_reader_is_told_what_is_new(store: Arc<dyn Documents>) {
    let a = written(put(&*store, "a", Some("1"), Expect::Absent).await);
    let first = read(&*store, &Position::default()).await;
    assert_eq!((names(&first), first.anew), (vec![("a", Some("1"))], true));
    let again = read(&*store, &first.position).await;
    assert_eq!((names(&again), again.anew, again.position == first.position), (vec![], false, true));
    // Text of any kind comes back as it was.
    let text = "{\"k\": \"line\\nline\"}\n\u{e4}\u{1f600} %s \0 end";
    let b = written(put(&*store, "b", Some(text), Expect::Absent).await);
    assert!(b > a);
    let next = read(&*store, &again.position).await;
    assert_eq!((names(&next), next.position.revision), (vec![("b", Some(text))], b));
}

async fn a_write_holds_to_what_was_seen(store: Arc<dyn Documents>) {
    assert_eq!(put(&*store, "a", Some("0"), Expect::Present).await, Put::Conflict(None));
    assert_eq!(put(&*store, "a", Some("0"), Expect::Revision(1)).await, Put::Conflict(None));
    let first = written(put(&*store, "a", Some("1"), Expect::Absent).await);
    let held = || Some(Document { name: "a".to_owned(), revision: first, body: Some("1".to_owned()) });
    assert_eq!(put(&*store, "a", Some("2"), Expect::Absent).await, Put::Conflict(held()));
    assert_eq!(put(&*store, "a", Some("2"), Expect::Revision(first + 1)).await, Put::Conflict(held()));
    let second = written(put(&*store, "a", Some("2"), Expect::Revision(first)).await);
    assert!(second > first);
    assert!(matches!(put(&*store, "a", Some("3"), Expect::Revision(first)).await, Put::Conflict(Some(_))));
    written(put(&*store, "a", Some("3"), Expect::Present).await);
}

async fn a_tombstone_is_told_and_does_not_stand_in_the_way(store: Arc<dyn Documents>) {
    let made = written(put(&*store, "a", Some("1"), Expect::Absent).await);
    let before = read(&*store, &Position::default()).await.position;
    written(put(&*store, "a", None, Expect::Revision(made)).await);
    let news = read(&*store, &before).await;
    assert_eq!(names(&news), [("a", None)]);
    assert!(matches!(put(&*store, "a", None, Expect::Present).await, Put::Conflict(Some(d)) if d.body.is_none()));
    assert!(matches!(put(&*store, "a", Some("2"), Expect::Never).await, Put::Conflict(Some(d)) if d.body.is_none()));
    written(put(&*store, "b", Some("1"), Expect::Never).await);
    assert!(matches!(put(&*store, "b", Some("2"), Expect::Never).await, Put::Conflict(Some(d)) if d.body.is_some()));
    written(put(&*store, "a", Some("2"), Expect::Absent).await);
}

async fn one_of_many_writers_wins(store: Arc<dyn Documents>) {
    let first = written(put(&*store, "a", Some("1"), Expect::Absent).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            matches!(put(&*store, "a", Some(&n.to_string()), Expect::Revision(first)).await, Put::Written(_))
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
}

async fn what_is_too_large_is_refused(store: Arc<dyn Documents>) {
    let large = "x".repeat(DOCUMENT_LEN_MAX + 1);
    for (name, body) in [("a", large.as_str()), ("", "x"), (large.as_str(), "x")] {
        let refused = store.put(name, Some(body.to_owned()), Expect::Absent, NOW).await;
        assert!(matches!(refused, Err(LedgerError::Invalid { .. })), "{refused:?}");
    }
}
