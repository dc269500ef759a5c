//! The suite that every [`Shared`] must pass. Leases are short, because a store on another machine has a clock that no
//! test can move; every wait is for a condition, with a bound.

use std::{pin::Pin, sync::Arc, time::Duration};

use meridian_policies::rate::Limit;
use tokio::time::Instant;

use crate::{
    LedgerError,
    shared::{BOARD_PAGE_MAX, BOARD_REMOVED_MAX, BoardPage, Lead, Post, Posted, Shared},
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lease that ends while the suite waits for it.
const SHORT: Duration = Duration::from_millis(200);

/// A lease that does not end.
const LONG: Duration = Duration::from_secs(600);

type Case = fn(Arc<dyn Shared>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($name:ident),+ $(,)?) => { vec![$((stringify!($name), (|s| Box::pin($name(s))) as Case)),+] };
}

fn all() -> Vec<(&'static str, Case)> {
    cases![
        one_leads_and_the_others_hear_for_how_long,
        a_leader_keeps_its_term_and_the_next_has_a_higher_one,
        who_resigns_is_not_waited_for,
        many_wish_to_lead_at_once_and_one_does,
        a_deposed_leader_cannot_post,
        nobody_posts_without_a_term,
        a_board_tells_what_changed,
        a_large_board_is_read_in_pages,
        who_is_far_behind_starts_anew,
        a_reader_is_woken_by_a_post,
        ages_grow_and_are_never_too_small,
        a_post_is_bounded,
        a_bucket_is_full_at_first_then_flows,
        draws_never_exceed_rate_and_burst,
        a_changed_limit_holds_at_once,
        limits_that_differ_a_little_take_nothing_from_each_other,
        members_are_counted_while_they_live,
    ]
}

/// Runs every case against coordination of its own and returns how many there were.
///
/// # Panics
/// When a case fails; the case is named in the output of the test before.
pub async fn shared_suite<F: AsyncFn() -> Arc<dyn Shared>>(make: F) -> usize {
    let mut run = 0;
    for (name, case) in all() {
        #[expect(clippy::print_stderr, reason = "names the failing case")]
        {
            eprintln!("conformance: {name}");
        }
        case(make().await).await;
        run += 1;
    }
    run
}

fn must<T>(answer: Result<T, LedgerError>) -> T {
    answer.unwrap_or_else(|e| panic!("{e}"))
}

async fn term(shared: &dyn Shared, owner: &str, lease: Duration) -> Option<u64> {
    match must(shared.lead("t", owner, lease).await) {
        Lead::Leader { term } => Some(term),
        Lead::Follower { .. } => None,
    }
}

/// Waits until somebody leads.
async fn leads(shared: &dyn Shared, owner: &str, lease: Duration) -> u64 {
    let until = Instant::now() + PATIENCE;
    loop {
        match must(shared.lead("t", owner, lease).await) {
            Lead::Leader { term } => return term,
            Lead::Follower { left } => {
                assert!(Instant::now() < until, "{owner} never leads");
                tokio::time::sleep(left + Duration::from_millis(5)).await;
            }
        }
    }
}

async fn post(shared: &dyn Shared, term: u64, changed: &[(&str, Option<&str>)], head: Option<&str>) -> Posted {
    let changed = changed.iter().map(|(k, v)| ((*k).to_owned(), v.map(|v| v.as_bytes().to_vec()))).collect();
    must(shared.post("t", Post { term, changed, head: head.map(|h| h.as_bytes().to_vec()) }).await)
}

async fn read(shared: &dyn Shared, after: u64) -> BoardPage {
    must(shared.read("t", after, Duration::ZERO).await)
}

fn texts(page: &BoardPage) -> Vec<(String, Option<String>)> {
    let text = |v: &Vec<u8>| String::from_utf8_lossy(v).into_owned();
    page.entries.iter().map(|e| (e.key.clone(), e.value.as_ref().map(text))).collect()
}

fn pairs(of: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    of.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect()
}

fn head(page: &BoardPage) -> Option<String> {
    page.head.as_ref().map(|h| String::from_utf8_lossy(&h.value).into_owned())
}

async fn one_leads_and_the_others_hear_for_how_long(shared: Arc<dyn Shared>) {
    assert!(term(&*shared, "a", LONG).await.is_some());
    match must(shared.lead("t", "b", LONG).await) {
        Lead::Follower { left } => assert!(left <= LONG && left > LONG / 2, "{left:?}"),
        Lead::Leader { .. } => panic!("two lead"),
    }
    // Another task is another task.
    assert!(matches!(must(shared.lead("other", "b", LONG).await), Lead::Leader { .. }));
    assert!(shared.is_shared());
}

async fn a_leader_keeps_its_term_and_the_next_has_a_higher_one(shared: Arc<dyn Shared>) {
    let first = leads(&*shared, "a", LONG).await;
    assert_eq!(term(&*shared, "a", SHORT).await, Some(first), "a lease is renewed, also to a shorter one");
    let second = leads(&*shared, "b", SHORT).await;
    assert!(second > first);
    let third = leads(&*shared, "a", SHORT).await;
    assert!(third > second);
    // Alone all the time: a lease that lapsed may have been somebody else's meanwhile.
    tokio::time::sleep(SHORT * 2).await;
    assert!(leads(&*shared, "a", LONG).await > third);
}

async fn who_resigns_is_not_waited_for(shared: Arc<dyn Shared>) {
    let first = leads(&*shared, "a", LONG).await;
    must(shared.resign("t", "b").await);
    assert_eq!(term(&*shared, "b", LONG).await, None, "only the leader can resign");
    must(shared.resign("t", "a").await);
    assert!(term(&*shared, "b", LONG).await.is_some_and(|t| t > first));
}

async fn many_wish_to_lead_at_once_and_one_does(shared: Arc<dyn Shared>) {
    let wishes = (0..50).map(|n| {
        let shared = Arc::clone(&shared);
        async move { term(&*shared, &format!("owner-{n}"), LONG).await }
    });
    let leaders = futures_util::future::join_all(wishes).await.into_iter().flatten().count();
    assert_eq!(leaders, 1);
}

async fn a_deposed_leader_cannot_post(shared: Arc<dyn Shared>) {
    let paused = leads(&*shared, "a", SHORT).await;
    assert!(matches!(post(&*shared, paused, &[("k", Some("a"))], Some("a")).await, Posted::Written { .. }));
    let next = leads(&*shared, "b", LONG).await;
    // Before the new leader posted anything.
    assert_eq!(post(&*shared, paused, &[("k", Some("late"))], Some("late")).await, Posted::Deposed);
    assert!(matches!(post(&*shared, next, &[("k", Some("b"))], None).await, Posted::Written { .. }));
    assert_eq!(post(&*shared, paused, &[("k", None)], None).await, Posted::Deposed);
    let page = read(&*shared, 0).await;
    assert_eq!((texts(&page), head(&page)), (pairs(&[("k", Some("b"))]), Some("a".to_owned())));
}

async fn nobody_posts_without_a_term(shared: Arc<dyn Shared>) {
    for term in [0, 1, 7] {
        assert_eq!(post(&*shared, term, &[("k", Some("v"))], None).await, Posted::Deposed);
    }
    let page = read(&*shared, 0).await;
    assert!(page.entries.is_empty() && page.head.is_none() && page.complete, "{page:?}");
    let term = leads(&*shared, "a", LONG).await;
    assert_eq!(post(&*shared, term + 1, &[("k", Some("v"))], None).await, Posted::Deposed);
}

async fn a_board_tells_what_changed(shared: Arc<dyn Shared>) {
    let term = leads(&*shared, "a", LONG).await;
    post(&*shared, term, &[("x", Some("1")), ("y", Some("1")), ("z", Some("1"))], Some("first")).await;
    let first = read(&*shared, 0).await;
    assert_eq!(texts(&first), pairs(&[("x", Some("1")), ("y", Some("1")), ("z", Some("1"))]));
    assert!(first.complete && first.anew && head(&first).as_deref() == Some("first"), "{first:?}");
    let again = read(&*shared, first.version).await;
    assert!(again.entries.is_empty() && again.version == first.version && !again.anew, "{again:?}");
    assert_eq!(head(&again).as_deref(), Some("first"));
    post(&*shared, term, &[("y", Some("2")), ("x", None), ("never", None)], None).await;
    let second = read(&*shared, first.version).await;
    assert_eq!(texts(&second), pairs(&[("y", Some("2")), ("x", None)]));
    assert!(second.version > first.version && head(&second).as_deref() == Some("first"));
    // Only a new head is a change too; bytes are bytes.
    let bytes = vec![0, 255, 13, 10, 0];
    must(shared.post("t", Post { term, changed: Vec::new(), head: Some(bytes.clone()) }).await);
    let third = read(&*shared, second.version).await;
    assert!(third.version > second.version && third.entries.is_empty());
    assert_eq!(third.head.map(|h| h.value), Some(bytes));
    assert_eq!(
        texts(&read(&*shared, 0).await),
        pairs(&[("z", Some("1")), ("y", Some("2"))]),
        "no word of what is gone"
    );
}

async fn a_large_board_is_read_in_pages(shared: Arc<dyn Shared>) {
    let term = leads(&*shared, "a", LONG).await;
    let total = BOARD_PAGE_MAX * 2 + 7;
    let all: Vec<_> = (0..total).map(|n| (format!("k{n:05}"), Some(vec![1]))).collect();
    for changed in all.chunks(BOARD_PAGE_MAX) {
        must(shared.post("t", Post { term, changed: changed.to_vec(), head: None }).await);
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), 0, 0);
    loop {
        let page = read(&*shared, after).await;
        assert!(page.entries.len() <= BOARD_PAGE_MAX && page.anew == (pages == 0));
        seen.extend(page.entries.iter().map(|e| e.key.clone()));
        (after, pages) = (page.version, pages + 1);
        if page.complete {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, all.into_iter().map(|(k, _)| k).collect::<Vec<_>>());
}

async fn who_is_far_behind_starts_anew(shared: Arc<dyn Shared>) {
    let term = leads(&*shared, "a", LONG).await;
    post(&*shared, term, &[("stays", Some("1"))], None).await;
    let before = read(&*shared, 0).await.version;
    let keys: Vec<_> = (0..BOARD_REMOVED_MAX + 10).map(|n| format!("k{n:05}")).collect();
    for value in [Some(vec![1]), None] {
        for chunk in keys.chunks(BOARD_PAGE_MAX) {
            let changed = chunk.iter().map(|k| (k.clone(), value.clone())).collect();
            must(shared.post("t", Post { term, changed, head: None }).await);
        }
    }
    let page = read(&*shared, before).await;
    assert!(page.anew && page.complete, "{page:?}");
    assert_eq!(texts(&page), pairs(&[("stays", Some("1"))]));
    // A version that the board never had: of a store that lost its memory.
    let page = read(&*shared, page.version + 1_000_000_000).await;
    assert!(page.anew && texts(&page) == pairs(&[("stays", Some("1"))]), "{page:?}");
}

async fn a_reader_is_woken_by_a_post(shared: Arc<dyn Shared>) {
    let term = leads(&*shared, "a", LONG).await;
    let before = match post(&*shared, term, &[("x", Some("1"))], None).await {
        Posted::Written { version } => version,
        Posted::Deposed => panic!("deposed"),
    };
    let started = Instant::now();
    let (page, ()) = tokio::join!(shared.read("t", before, PATIENCE), async {
        tokio::time::sleep(SHORT).await;
        post(&*shared, term, &[("x", Some("2"))], None).await;
    });
    assert_eq!(texts(&must(page)), pairs(&[("x", Some("2"))]));
    assert!(started.elapsed() < PATIENCE / 2);
    let started = Instant::now();
    let page = must(shared.read("t", u64::MAX >> 12, Duration::ZERO).await);
    assert!(page.complete && started.elapsed() < PATIENCE / 2);
}

async fn ages_grow_and_are_never_too_small(shared: Arc<dyn Shared>) {
    let term = leads(&*shared, "a", LONG).await;
    let posting = Instant::now();
    post(&*shared, term, &[("x", Some("1"))], Some("h")).await;
    let posted = Instant::now();
    tokio::time::sleep(SHORT).await;
    let read_at = Instant::now();
    let page = read(&*shared, 0).await;
    let most = posting.elapsed() + Duration::from_millis(20);
    let least = (read_at - posted).saturating_sub(Duration::from_millis(5));
    let ages = page.entries.iter().map(|e| e.age).chain(page.head.iter().map(|h| h.age));
    let mut n = 0;
    for age in ages {
        assert!(age >= least && age <= most, "{age:?} is not between {least:?} and {most:?}");
        n += 1;
    }
    assert_eq!(n, 2);
}

async fn a_post_is_bounded(shared: Arc<dyn Shared>) {
    let term = leads(&*shared, "a", LONG).await;
    let changed = (0..=BOARD_PAGE_MAX).map(|n| (n.to_string(), None)).collect();
    let posted = shared.post("t", Post { term, changed, head: None }).await;
    assert!(matches!(posted, Err(LedgerError::Invalid { .. })), "{posted:?}");
}

fn limit(quota: u32, burst: u32) -> Limit {
    Limit::new(quota, Duration::from_secs(1), burst).unwrap_or_else(|e| panic!("{e}"))
}

async fn a_bucket_is_full_at_first_then_flows(shared: Arc<dyn Shared>) {
    let limit = Limit::new(1, LONG, 10).unwrap_or_else(|e| panic!("{e}"));
    let first = must(shared.draw("b", limit, 4).await);
    assert_eq!((first.granted, first.left, first.next), (4, 6, Duration::ZERO));
    assert!(first.good_for > Duration::ZERO);
    assert_eq!(must(shared.draw("b", limit, 100).await).granted, 6);
    let none = must(shared.draw("b", limit, 1).await);
    assert_eq!((none.granted, none.left), (0, 0));
    assert!(none.next > LONG / 2 && none.next <= LONG, "{:?}", none.next);
    assert_eq!(must(shared.draw("other", limit, 1).await).granted, 1);
    // A bucket that fills while it is waited for.
    let quick = self::limit(20, 1);
    assert_eq!(must(shared.draw("q", quick, 1).await).granted, 1);
    let until = Instant::now() + PATIENCE;
    loop {
        let grant = must(shared.draw("q", quick, 1).await);
        if grant.granted == 1 {
            break;
        }
        assert!(Instant::now() < until && grant.next <= Duration::from_millis(50), "{grant:?}");
        tokio::time::sleep(grant.next).await;
    }
}

async fn draws_never_exceed_rate_and_burst(shared: Arc<dyn Shared>) {
    const QUOTA: u32 = 400;
    const BURST: u32 = 50;
    let started = Instant::now();
    let span = Duration::from_secs(1);
    let replicas = (1..=4_u32).map(|n| {
        let shared = Arc::clone(&shared);
        async move {
            let mut drawn = Vec::new();
            while started.elapsed() < span {
                let asked = Instant::now();
                let grant = must(shared.draw("b", limit(QUOTA, BURST), n * 3).await);
                drawn.push((asked, Instant::now(), grant.granted));
                // A different rhythm for each.
                tokio::time::sleep(Duration::from_millis(u64::from(n) * 3)).await;
            }
            drawn
        }
    });
    let mut drawn: Vec<_> = futures_util::future::join_all(replicas).await.into_iter().flatten().collect();
    drawn.sort();
    let total: u32 = drawn.iter().map(|d| d.2).sum();
    assert!(f64::from(total) > f64::from(QUOTA) * 0.8, "{total}: what there is can be had");
    // Every window that begins with one draw and ends with another. A draw took place between its question and its
    // answer; the store's clock counts whole milliseconds.
    for (i, (from, ..)) in drawn.iter().enumerate() {
        for (_, to, _) in drawn.iter().skip(i) {
            let inside = drawn.iter().filter(|(asked, answered, _)| asked >= from && answered <= to);
            let sum: u32 = inside.map(|d| d.2).sum();
            let most = f64::from(BURST) + f64::from(QUOTA) * ((*to - *from).as_secs_f64() + 0.002);
            assert!(f64::from(sum) <= most, "{sum} in {:?}", *to - *from);
        }
    }
}

async fn a_changed_limit_holds_at_once(shared: Arc<dyn Shared>) {
    let slow = |burst| Limit::new(1, LONG, burst).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(must(shared.draw("b", slow(100), 10).await).left, 90);
    assert_eq!(must(shared.draw("b", slow(20), 5).await).left, 15);
    assert_eq!(must(shared.draw("b", slow(100), 5).await).left, 10, "a larger bucket is not full at once");
}

async fn limits_that_differ_a_little_take_nothing_from_each_other(shared: Arc<dyn Shared>) {
    // A token takes 20 ms, and every few another limit draws.
    const WANTED: u32 = 10;
    let until = Instant::now() + PATIENCE;
    let mut drawn = 0;
    for turn in (0..2_u32).cycle() {
        drawn += must(shared.draw("b", limit(50 + turn, 1), 1).await).granted;
        if drawn == WANTED {
            break;
        }
        assert!(Instant::now() < until, "{drawn} of {WANTED}: the parts of a token are lost");
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

async fn members_are_counted_while_they_live(shared: Arc<dyn Shared>) {
    assert_eq!(must(shared.attend("b", LONG).await), ["b"]);
    assert_eq!(must(shared.attend("a", SHORT).await), ["a", "b"]);
    assert_eq!(must(shared.attend("b", LONG).await), ["a", "b"]);
    let until = Instant::now() + PATIENCE;
    while must(shared.attend("b", LONG).await) != ["b"] {
        assert!(Instant::now() < until, "a dead member is counted");
        tokio::time::sleep(SHORT / 4).await;
    }
    must(shared.attend("c", LONG).await);
    assert_eq!(must(shared.attend("c", Duration::ZERO).await), ["b"], "who leaves is not counted");
}
