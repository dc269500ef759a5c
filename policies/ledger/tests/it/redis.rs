//! The Redis ledger on real servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use meridian_ledger::{
    Claimed, FeedPosition, Known, Ledger, LedgerError, Standing, Step, Stepped,
    conformance::{at, claim_new, failed, id, one_instance, redis_server::RedisServer, sample_claim, suite, write},
    redis::{Acks, Address, LeaseTime, LedgerOptions, Options, Redis, RedisLedger, Servers, User},
};
use meridian_model::operation::QuotaLimits;

use crate::key;

/// A suite that runs nothing proves nothing.
const CASES_MIN: usize = 19;

pub(crate) fn ledger_options(prefix: &str, time: LeaseTime) -> LedgerOptions {
    LedgerOptions { prefix: prefix.to_owned(), key: key(), time, acks: None }
}

/// A ledger on a server, not initialised.
fn plain(server: &RedisServer, time: LeaseTime) -> RedisLedger {
    let redis = Redis::connect(Options::single("127.0.0.1", server.port())).unwrap();
    RedisLedger::new(redis, ledger_options("test", time)).unwrap()
}

/// A new ledger on an empty server.
pub(crate) async fn fresh(server: &RedisServer, time: LeaseTime) -> RedisLedger {
    let ledger = plain(server, time);
    ledger.initialise().await.unwrap();
    ledger
}

/// Runs the suite with a prefix for each case on one connection.
async fn run_suite(options: Options) -> usize {
    let redis = Redis::connect(options).unwrap();
    let count = AtomicUsize::new(0);
    suite(async || {
        let prefix = format!("case{}", count.fetch_add(1, Ordering::Relaxed));
        let ledger = RedisLedger::new(redis.clone(), ledger_options(&prefix, LeaseTime::Callers)).unwrap();
        ledger.initialise().await.unwrap();
        Arc::new(ledger) as Arc<dyn Ledger>
    })
    .await
}

#[tokio::test]
async fn the_redis_ledger_conforms() {
    let server = RedisServer::start(&[]);
    assert!(run_suite(Options::single("127.0.0.1", server.port())).await >= CASES_MIN);
}

#[tokio::test]
async fn the_redis_ledger_conforms_through_sentinels() {
    let server = RedisServer::start(&[]);
    let _replica = server.replica();
    let sentinel = server.sentinel("meridian", 1);
    let addresses = vec![Address::new("127.0.0.1", sentinel.port())];
    let servers = Servers::Sentinel { master: "meridian".to_owned(), addresses, user: User::default() };
    assert!(run_suite(Options::new(servers)).await >= CASES_MIN);
}

#[tokio::test]
async fn the_redis_ledger_conforms_on_a_cluster() {
    let nodes = RedisServer::cluster(3);
    let addresses = vec![Address::new("127.0.0.1", nodes[0].port())];
    assert!(run_suite(Options::new(Servers::Cluster { addresses })).await >= CASES_MIN);
}

#[tokio::test]
async fn a_store_is_made_a_ledger_once() {
    let server = RedisServer::start(&[]);
    let ledger = plain(&server, LeaseTime::Server);
    assert!(!ledger.is_initialised().await.unwrap());
    let claim = sample_claim("acme", "op1", "web");
    assert!(matches!(ledger.claim(claim.clone()).await, Err(LedgerError::Recovering(_))), "nothing is made by itself");
    ledger.initialise().await.unwrap();
    assert!(ledger.is_initialised().await.unwrap());
    assert!(ledger.initialise().await.is_err());
    claim_new(&ledger, claim).await;
    let redis = Redis::connect(Options::single("127.0.0.1", server.port())).unwrap();
    let mut other = ledger_options("test", LeaseTime::Server);
    other.key = meridian_ledger::embedded::SealKey::new([8; 32]);
    let stranger = RedisLedger::new(redis, other).unwrap();
    assert!(matches!(stranger.is_initialised().await, Err(LedgerError::Damaged { .. })), "the key is checked");
}

#[tokio::test]
async fn a_server_that_would_lose_writes_is_refused() {
    let check = async |lines: &[&str]| {
        let server = RedisServer::start(lines);
        plain(&server, LeaseTime::Server).check_server().await.map(|w| w.len()).map_err(|e| e.to_string())
    };
    assert_eq!(check(&[]).await, Ok(0));
    assert_eq!(check(&["appendfsync everysec"]).await, Ok(1));
    assert!(check(&["maxmemory-policy allkeys-lru"]).await.is_err_and(|e| e.contains("noeviction")));
    assert!(check(&["appendonly no"]).await.is_err_and(|e| e.contains("appendonly yes")));
    // Where CONFIG is forbidden, INFO tells the half of it.
    assert_eq!(check(&["user default on nopass ~* &* +@all -config"]).await, Ok(2));
    let hidden = check(&["user default on nopass ~* &* +@all -config", "maxmemory-policy allkeys-lru"]).await;
    assert!(hidden.is_err_and(|e| e.contains("noeviction")));
}

#[tokio::test]
async fn leases_run_in_the_servers_time() {
    let server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let mut claim = sample_claim("acme", "op1", "web");
    claim.now = at(1_000_000);
    claim_new(&ledger, claim).await;
    // By the callers' times the lease is over, and was never begun.
    for now in [0, 9_000_000] {
        let left = ledger.abandoned("owner-b", at(now), 10).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
    ledger.release("owner-a").await.unwrap();
    assert_eq!(ledger.abandoned("owner-b", at(0), 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_claim_each_key_once() {
    let server = RedisServer::start(&["appendfsync everysec"]);
    let one = Arc::new(fresh(&server, LeaseTime::Server).await);
    let two = Arc::new(plain(&server, LeaseTime::Server));
    let mut tasks = tokio::task::JoinSet::new();
    for key in 0..50 {
        for sender in 0..8 {
            let ledger = Arc::clone(if sender % 2 == 0 { &one } else { &two });
            tasks.spawn(async move {
                let mut claim = sample_claim("acme", &format!("op{key}"), &format!("n{key}"));
                claim.uid = id(&format!("inst_{key}-{sender}"));
                claim.owner = format!("owner-{}", sender % 2);
                match ledger.claim(claim).await.unwrap() {
                    Claimed::New(record) => (key, true, record.uid),
                    Claimed::Joined(record) => (key, false, record.uid),
                    other @ (Claimed::KeyReused(_) | Claimed::NameTaken(_)) => panic!("{other:?}"),
                }
            });
        }
    }
    let mut uids = std::collections::BTreeMap::<_, std::collections::BTreeSet<_>>::new();
    let mut new = 0;
    for (key, first, uid) in tasks.join_all().await {
        new += usize::from(first);
        uids.entry(key).or_default().insert(uid.to_string());
    }
    assert_eq!(new, 50);
    assert!(uids.len() == 50 && uids.values().all(|u| u.len() == 1), "{uids:?}");
}

/// The server's own history of what was in use: at no write was it above the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_never_oversell() {
    const QUOTA: u64 = 20;
    let server = RedisServer::start(&["appendfsync everysec"]);
    let one = Arc::new(fresh(&server, LeaseTime::Server).await);
    let two = Arc::new(plain(&server, LeaseTime::Server));
    let limits = QuotaLimits { instances: Some(QUOTA), ..QuotaLimits::default() };
    one.set_limits(&id("acme"), limits).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..5 * QUOTA {
        let ledger = Arc::clone(if n % 2 == 0 { &one } else { &two });
        tasks.spawn(async move {
            let mut record = claim_new(&*ledger, sample_claim("acme", &format!("op{n}"), &format!("n{n}"))).await;
            let mut won = 0;
            for _ in 0..6 {
                record.charge = one_instance(10);
                match ledger.step(Step::within(record.clone())).await.unwrap() {
                    Stepped::Written(charged) => {
                        won += 1;
                        record = charged;
                        record.charge = meridian_model::operation::Charge::default();
                        record = write(&*ledger, record).await;
                    }
                    Stepped::QuotaExceeded(_) => {}
                    other @ (Stepped::Fenced | Stepped::Changed(_)) => panic!("{other:?}"),
                }
            }
            record.charge = one_instance(10);
            (won, matches!(ledger.step(Step::within(record)).await.unwrap(), Stepped::Written(_)))
        });
    }
    let answers = tasks.join_all().await;
    let used = one.usage(&id("acme")).await.unwrap().used.instances;
    let kept = answers.iter().filter(|(_, kept)| *kept).count() as u64;
    assert_eq!((used, used <= QUOTA), (kept, true));
    // Fill what is left: it must be possible to reach the limit, and not to pass it.
    for n in 0..=QUOTA {
        let mut record = claim_new(&*two, sample_claim("acme", &format!("last{n}"), &format!("last{n}"))).await;
        record.charge = one_instance(10);
        let full = two.usage(&id("acme")).await.unwrap().used.instances == QUOTA;
        let answer = two.step(Step::within(record)).await.unwrap();
        assert_eq!(matches!(answer, Stepped::QuotaExceeded(_)), full, "{answer:?}");
    }
    // The append-only file holds the effect of every script, in order: each amount that was ever written.
    let mut most = 0;
    for entry in std::fs::read_dir(server.data_folder()).unwrap() {
        let text = String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()).into_owned();
        for part in text.split("{t:acme}:usage\r\n").skip(1) {
            // $1 1 $N amount: the first dimension is written first.
            let amount: u64 = part.split("\r\n").nth(3).unwrap().parse().unwrap();
            most = amount.max(most);
        }
    }
    assert_eq!(most, QUOTA);
}

#[tokio::test]
async fn a_restarted_server_is_not_believed() {
    let mut server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    assert_eq!(ledger.standing(), Standing::Serving);
    server.restart();
    reached(async || ledger.renew("owner-a", at(0), Duration::from_secs(10)).await).await.unwrap();
    assert_ne!(ledger.standing(), Standing::Serving, "a server that answers may be another than before");
    let answer = reached(async || ledger.operation(&record.tenant, &record.op_id).await).await;
    assert!(matches!(answer, Err(LedgerError::Recovering(_))), "{answer:?}");
    assert_eq!(ledger.standing(), Standing::Recovering);
    let position = FeedPosition::new();
    ledger.renew("owner-a", at(0), Duration::from_secs(10)).await.unwrap();
    assert_eq!(ledger.standing(), Standing::Recovering, "leases say nothing of the data");
    let all: [Result<(), LedgerError>; 9] = [
        ledger.claim(sample_claim("acme", "op2", "db")).await.map(drop),
        ledger.claim(sample_claim("beta", "op2", "db")).await.map(drop),
        ledger.step(Step::within(record.clone())).await.map(drop),
        ledger.request_removal(&record.tenant, &record.op_id, at(1), None).await.map(drop),
        ledger.usage(&record.tenant).await.map(drop),
        ledger.set_limits(&record.tenant, QuotaLimits::default()).await,
        ledger.records(None, 10).await.map(drop),
        ledger.feed(&position, &Known::default(), Duration::ZERO).await.map(drop),
        ledger.instance(&record.tenant, &record.name).await.map(drop),
    ];
    for (n, answer) in all.iter().enumerate() {
        assert!(matches!(answer, Err(LedgerError::Recovering(_))), "{n}: {answer:?}");
    }
}

#[tokio::test]
async fn a_flush_is_noticed() {
    let server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    let gone = async |what: &str| {
        let claim = ledger.claim(sample_claim("acme", "op1", "web")).await;
        assert!(matches!(claim, Err(LedgerError::Recovering(_))), "{what}: {claim:?}");
        let read = ledger.operation(&record.tenant, &record.op_id).await;
        assert!(matches!(read, Err(LedgerError::Recovering(_))), "{what}: {read:?}");
        let step = ledger.step(Step::within(record.clone())).await;
        assert!(matches!(step, Err(LedgerError::Recovering(_))), "{what}: {step:?}");
    };
    assert_eq!(server.ask(&["DEL", "test{t:acme}:meta"]), "1");
    gone("the tenant's description").await;
    assert_eq!(server.ask(&["FLUSHALL"]), "OK");
    gone("everything").await;
}

/// Repeats what may find no connection until it finds one.
pub(crate) async fn reached<T>(mut run: impl AsyncFnMut() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
    for _ in 0..200 {
        match run().await {
            Err(LedgerError::Unavailable(_) | LedgerError::Unanswered(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            other => return other,
        }
    }
    panic!("it does not come back");
}

#[tokio::test]
async fn a_write_of_one_gateway_wakes_the_other() {
    let server = RedisServer::start(&[]);
    let one = fresh(&server, LeaseTime::Server).await;
    let two = Arc::new(plain(&server, LeaseTime::Server));
    let record = claim_new(&one, sample_claim("acme", "op1", "web")).await;
    let feed = two.feed(&FeedPosition::new(), &Known::default(), Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!(feed.records, [*record.clone()]);
    let since = tokio::time::Instant::now();
    let (mut record, mut position) = (record, feed.position);
    const WRITES: u32 = 20;
    for _ in 0..WRITES {
        let (follower, after) = (Arc::clone(&two), position.clone());
        let following =
            tokio::spawn(async move { follower.feed(&after, &Known::default(), Duration::from_secs(10)).await });
        record = write(&one, record).await;
        let told = following.await.unwrap().unwrap().unwrap();
        assert_eq!(told.records, [*record.clone()]);
        position = told.position;
    }
    assert!(since.elapsed() < Duration::from_secs(1) * WRITES / 4, "by hints, not by polls: {:?}", since.elapsed());
    assert_eq!(two.seen().get(&record.tenant).unwrap().seq, record.seq);
}

#[tokio::test]
async fn a_tenant_that_cannot_be_read_is_named_and_holds_up_no_other() {
    let server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let acme = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    let beta = claim_new(&ledger, sample_claim("beta", "op1", "web")).await;
    assert_eq!(server.ask(&["HSET", "test{t:acme}:op:op1", "b", "junk"]), "0");
    let feed = ledger.feed(&FeedPosition::new(), &Known::default(), Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(feed.records, [*beta.clone()]);
    assert_eq!(feed.behind.keys().collect::<Vec<_>>(), [&acme.tenant]);
    assert_eq!(feed.position.get(&acme.tenant), None);
    // Also while nothing is written of the others.
    let feed = ledger.feed(&feed.position, &Known::default(), Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((feed.records.len(), feed.behind.len()), (0, 1));
}

#[tokio::test]
async fn a_tenant_of_which_one_answer_does_not_hold_all_is_named() {
    let server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    for n in 0..101 {
        claim_new(&ledger, sample_claim("acme", &format!("op{n}"), &format!("i{n}"))).await;
    }
    let beta = claim_new(&ledger, sample_claim("beta", "op1", "web")).await;
    let feed = ledger.feed(&FeedPosition::new(), &Known::default(), Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((feed.records.len(), feed.unfinished.len()), (101, 1));
    assert!(!feed.unfinished.contains(&beta.tenant));
    let feed = ledger.feed(&feed.position, &Known::default(), Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((feed.records.len(), feed.unfinished.len()), (1, 0));
}

/// A record that cannot be read, and a tenant that recovers: neither holds up who takes over or shrinks the others.
#[tokio::test]
async fn a_tenant_that_fails_holds_up_neither_take_over_nor_expiry() {
    let server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    for (tenant, op) in [("acme", "op1"), ("acme", "op2"), ("beta", "op1")] {
        claim_new(&ledger, sample_claim(tenant, op, op)).await;
    }
    for (tenant, op) in [("acme", "op3"), ("acme", "op4"), ("beta", "op3")] {
        let open = claim_new(&ledger, sample_claim(tenant, op, op)).await;
        write(&ledger, failed(open, at(3))).await;
    }
    ledger.release("owner-a").await.unwrap();
    let left = async |limit: usize| {
        let left = ledger.abandoned("owner-b", at(0), limit).await;
        left.map(|all| all.into_iter().map(|r| format!("{}/{}", r.tenant, r.op_id)).collect::<Vec<_>>())
    };
    assert_eq!(left(10).await.unwrap(), ["acme/op1", "acme/op2", "beta/op1"]);
    for op in ["op1", "op3"] {
        assert_eq!(server.ask(&["HSET", &format!("test{{t:acme}}:op:{op}"), "b", "junk"]), "0");
    }
    assert_eq!(left(10).await.unwrap(), ["acme/op2", "beta/op1"]);
    assert_eq!(left(1).await.unwrap(), ["acme/op2"], "it hides none behind it");
    assert_eq!(ledger.expire(at(9), at(0), 10).await.unwrap(), 3);
    assert_eq!(server.ask(&["ZCARD", "test{t:acme}:tombs"]), "1");
    assert_eq!(server.ask(&["ZCARD", "test{t:beta}:tombs"]), "1");

    assert_eq!(server.ask(&["HSET", "test{t:acme}:meta", "incarnation", "behind"]), "0");
    let open = claim_new(&ledger, sample_claim("beta", "op5", "op5")).await;
    write(&ledger, failed(open, at(4))).await;
    ledger.release("owner-a").await.unwrap();
    assert_eq!(left(10).await.unwrap(), ["beta/op1"]);
    assert_eq!(ledger.expire(at(9), at(0), 10).await.unwrap(), 1);
    assert_eq!(server.ask(&["HSET", "test{t:beta}:meta", "incarnation", "behind"]), "0");
    assert!(matches!(left(10).await, Err(LedgerError::Recovering(_))), "nothing can be read");
    assert!(matches!(ledger.expire(at(9), at(0), 10).await, Err(LedgerError::Recovering(_))));
}

/// Bytes and keys of a fleet of ten thousand: printed for the documentation, and bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_instances_fit() {
    const INSTANCES: usize = 10_000;
    let server = RedisServer::start(&["appendonly no"]);
    let ledger = Arc::new(fresh(&server, LeaseTime::Server).await);
    let memory = || -> usize {
        let info = server.ask(&["INFO", "memory"]);
        let used = info.lines().find_map(|l| l.strip_prefix("used_memory:")).unwrap();
        used.trim().parse().unwrap()
    };
    let before = memory();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..50 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            for n in (worker..INSTANCES).step_by(50) {
                let record = claim_new(&*ledger, sample_claim("acme", &format!("{n:026}"), &format!("web-{n}"))).await;
                let mut placed = record;
                placed.charge = one_instance(1000);
                placed.state = meridian_model::operation::OperationState::Placing;
                write(&*ledger, placed).await;
            }
        });
    }
    tasks.join_all().await;
    let keys: usize = server.ask(&["DBSIZE"]).parse().unwrap();
    let bytes = (memory() - before) / INSTANCES;
    eprintln!("{bytes} bytes and {:.2} keys for each of {INSTANCES} instances", keys as f64 / INSTANCES as f64);
    assert!(bytes < 4_096, "{bytes}");
    assert!(keys < INSTANCES + 20, "{keys}");
}

/// A line to a server that is cut as soon as the server has answered something: the answer is lost, the write is not.
async fn cut_line(server: u16, cut: Arc<std::sync::atomic::AtomicBool>) -> u16 {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, copy},
        net::{TcpListener, TcpStream},
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cut = Arc::clone(&cut);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) =
                    TcpStream::connect(("127.0.0.1", server)).await.unwrap().into_split();
                let up = tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                let mut chunk = vec![0; 64 * 1024];
                while let Ok(read) = from_server.read(&mut chunk).await {
                    if read == 0 || cut.swap(false, Ordering::SeqCst) {
                        break;
                    }
                    to_client.write_all(&chunk[..read]).await.unwrap();
                }
                up.abort();
            });
        }
    });
    port
}

#[tokio::test]
async fn a_line_cut_under_a_call_leaves_its_outcome_open() {
    let server = RedisServer::start(&[]);
    let truth = fresh(&server, LeaseTime::Server).await;
    let cut = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let port = cut_line(server.port(), Arc::clone(&cut)).await;
    let redis = Redis::connect(Options::single("127.0.0.1", port)).unwrap();
    let ledger = RedisLedger::new(redis, ledger_options("test", LeaseTime::Server)).unwrap();
    ledger.renew("owner-a", at(0), Duration::from_secs(60)).await.unwrap();
    let record = claim_new(&truth, sample_claim("acme", "op1", "web")).await;
    // The server knows the script from here on: what is lost below is an answer, not the question for the text.
    let mut next = write(&truth, record).await;
    next.charge = one_instance(10);
    reached(async || ledger.usage(&id("acme")).await).await.unwrap();
    cut.store(true, Ordering::SeqCst);
    let lost = ledger.step(Step::within(next.clone())).await;
    assert!(matches!(lost, Err(LedgerError::Unanswered(_))), "{lost:?}");
    assert_eq!(truth.usage(&id("acme")).await.unwrap().used.instances, 1, "it was written all the same, once");
    // The same step again says so, and writes nothing.
    let again = reached(async || ledger.step(Step::within(next.clone())).await).await.unwrap();
    match again {
        Stepped::Changed(written) => assert_eq!((written.rev, written.charge), (3, next.charge)),
        other @ (Stepped::Written(_) | Stepped::Fenced | Stepped::QuotaExceeded(_)) => panic!("{other:?}"),
    }
    let claim = sample_claim("acme", "op2", "db");
    cut.store(true, Ordering::SeqCst);
    assert!(matches!(ledger.claim(claim.clone()).await, Err(LedgerError::Unanswered(_))));
    let joined = reached(async || ledger.claim(claim.clone()).await).await.unwrap();
    assert!(matches!(joined, Claimed::Joined(record) if record.uid == claim.uid), "the claim was this one's own");
}

/// Everything that was acknowledged is in the file when the server is killed under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_killed_server() {
    let mut server = RedisServer::start(&[]);
    let ledger = Arc::new(fresh(&server, LeaseTime::Server).await);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (ledger, acknowledged) = (Arc::clone(&ledger), Arc::clone(&acknowledged));
        tasks.spawn(async move {
            let mut ops = Vec::new();
            for n in 0.. {
                let op = format!("op{worker}-{n}");
                let Ok(claimed) = ledger.claim(sample_claim("acme", &op, &format!("n{worker}-{n}"))).await else {
                    break;
                };
                assert!(matches!(claimed, Claimed::New(_)));
                acknowledged.fetch_add(1, Ordering::SeqCst);
                ops.push(op);
            }
            ops
        });
    }
    while acknowledged.load(Ordering::SeqCst) < 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.kill();
    let ops: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    let seen = ledger.seen().get("acme").unwrap().seq;
    server.restart();
    for op in &ops {
        assert_eq!(server.ask(&["EXISTS", &format!("test{{t:acme}}:op:{op}")]), "1", "{op}");
    }
    let seq: u64 = server.ask(&["HGET", "test{t:acme}:meta", "seq"]).parse().unwrap();
    assert!(ops.len() >= 200 && seq >= seen, "{} {seq} {seen}", ops.len());
}

/// The rights that a user needs, as the documentation gives them.
#[tokio::test]
async fn a_user_of_few_rights_will_do() {
    const RIGHTS: &str = "+@read +@write +@scripting +@connection +@pubsub +info +wait +time -@dangerous +info";
    let server = RedisServer::start(&[&format!("user meridian on >secret ~case* &case* {RIGHTS}")]);
    let mut options = Options::single("127.0.0.1", server.port());
    options.user = User { name: Some("meridian".to_owned()), password: Some("secret".to_owned().into()) };
    assert!(run_suite(options).await >= CASES_MIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_counts_when_replicas_have_it() {
    let server = RedisServer::start(&["appendfsync everysec"]);
    let replica = server.replica();
    // No call may be given up while others wait for the replica before it.
    let options = || Options { call_timeout: Duration::from_secs(20), ..Options::single("127.0.0.1", server.port()) };
    let redis = Redis::connect(options()).unwrap();
    let within = Duration::from_millis(500);
    let acks = Some(Acks { replicas: 1, disk: false, within });
    let ledger_options = || LedgerOptions { acks, ..ledger_options("test", LeaseTime::Server) };
    let ledger = Arc::new(RedisLedger::new(redis, ledger_options()).unwrap());
    ledger.initialise().await.unwrap();
    let burst = async |from: usize| {
        let claims = (from..from + 50).map(|n| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move {
                let record = claim_new_or(&ledger, sample_claim("acme", &format!("op{n}"), &format!("n{n}"))).await?;
                // Whatever was answered is at the replica.
                Ok::<_, LedgerError>(record)
            })
        });
        futures_util::future::join_all(claims).await.into_iter().map(|r| r.unwrap()).collect::<Vec<_>>()
    };
    for answer in burst(0).await {
        let record = answer.unwrap();
        assert_eq!(replica.ask(&["EXISTS", &format!("test{{t:acme}}:op:{}", record.op_id)]), "1");
    }
    replica.stop();
    let since = tokio::time::Instant::now();
    for answer in burst(50).await {
        assert!(matches!(answer, Err(LedgerError::Unanswered(_))), "{answer:?}");
    }
    assert!(since.elapsed() < within * 5, "they wait together: {:?}", since.elapsed());
    assert!(ledger.operation(&id("acme"), &id("op0")).await.unwrap().is_some(), "reads wait for nobody");
    let other = RedisLedger::new(Redis::connect(options()).unwrap(), ledger_options()).unwrap();
    let again = claim_new_or(&other, sample_claim("acme", "op50", "n50")).await;
    assert!(matches!(again, Err(LedgerError::Unanswered(_))), "joining it confirms no more than making it: {again:?}");
    replica.cont();
    reached(async || claim_new_or(&ledger, sample_claim("acme", "last", "last")).await).await.unwrap();
}

async fn claim_new_or(
    ledger: &RedisLedger,
    claim: meridian_ledger::Claim,
) -> Result<Box<meridian_model::operation::OperationRecord>, LedgerError> {
    match ledger.claim(claim).await? {
        Claimed::New(record) | Claimed::Joined(record) => Ok(record),
        other @ (Claimed::KeyReused(_) | Claimed::NameTaken(_)) => panic!("{other:?}"),
    }
}
