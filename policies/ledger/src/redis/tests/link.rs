use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::*;
use crate::{
    Standing,
    redis::{Acks, Address, Servers, Tls, User, link::Call, values},
};

#[tokio::test]
async fn a_script_reaches_a_server_that_does_not_know_it() {
    let server = RedisServer::start(&[]);
    let redis = Redis::connect(options(&server)).unwrap();
    for _ in 0..2 {
        let answer = redis.eval(&echo(), &[b"k"], &[b"v"]).await.unwrap();
        assert_eq!(values::texts(&answer).unwrap(), ["k", "v"]);
        assert_eq!(server.ask(&["SCRIPT", "FLUSH"]), "OK");
    }
    assert_eq!(redis.standing(), Standing::Serving);
}

#[tokio::test]
async fn the_codes_of_scripts_are_told_apart() {
    let server = RedisServer::start(&[]);
    let redis = Redis::connect(options(&server)).unwrap();
    let fails = async |code: &str| {
        let script = Script::new(&[&format!("return redis.error_reply('{code} because')")]);
        redis.eval(&script, &[b"k"], &[]).await.unwrap_err()
    };
    assert!(matches!(fails("RECOVERING").await, LedgerError::Recovering(why) if why == "because"));
    assert_eq!(redis.standing(), Standing::Recovering);
    assert!(matches!(fails("DAMAGED").await, LedgerError::Damaged { detail, .. } if detail == "because"));
    assert_eq!(redis.standing(), Standing::Serving);
    assert!(matches!(fails("ERR").await, LedgerError::Unavailable(_)));
}

#[tokio::test]
async fn an_outage_is_told_at_once_and_ends_by_itself() {
    let mut server = RedisServer::start(&[]);
    let redis = Redis::connect(options(&server)).unwrap();
    redis.eval(&echo(), &[b"k"], &[b"v"]).await.unwrap();
    server.kill();
    assert!(redis.eval(&echo(), &[b"k"], &[b"v"]).await.is_err());
    let since = Instant::now();
    for _ in 0..100 {
        assert!(matches!(redis.eval(&echo(), &[b"k"], &[b"v"]).await, Err(LedgerError::Unavailable(_))));
    }
    assert!(since.elapsed() < Duration::from_millis(400), "nobody waits for what is away: {:?}", since.elapsed());
    assert_eq!(redis.standing(), Standing::Unavailable);
    server.restart();
    settled(async || redis.eval(&echo(), &[b"k"], &[b"v"]).await).await;
}

#[tokio::test]
async fn a_frozen_server_costs_one_timeout() {
    let server = RedisServer::start(&[]);
    let redis = Redis::connect(options(&server)).unwrap();
    redis.eval(&echo(), &[b"k"], &[b"v"]).await.unwrap();
    server.stop();
    let since = Instant::now();
    let first = redis.eval(&echo(), &[b"k"], &[b"v"]).await;
    assert!(matches!(first, Err(LedgerError::Unanswered(_))), "it was sent: {first:?}");
    for _ in 0..50 {
        let next = redis.eval(&echo(), &[b"k"], &[b"v"]).await;
        assert!(matches!(next, Err(LedgerError::Unavailable(_))), "it was not: {next:?}");
    }
    assert!(since.elapsed() < Duration::from_millis(1_200), "only the first call waits: {:?}", since.elapsed());
    server.cont();
    settled(async || redis.eval(&echo(), &[b"k"], &[b"v"]).await).await;
}

#[tokio::test]
async fn messages_arrive_also_after_the_connection_was_lost() {
    let mut server = RedisServer::start(&[]);
    let redis = Redis::connect(options(&server)).unwrap();
    let mut subscription = redis.subscribe("news");
    for _ in 0..2 {
        assert_eq!(subscription.next().await, None, "something may have been missed");
        assert_eq!(server.ask(&["PUBLISH", "news", "one"]), "1");
        assert_eq!(subscription.next().await.as_deref(), Some(b"one".as_slice()));
        server.restart();
    }
}

#[tokio::test]
async fn too_few_confirmations_are_no_success() {
    let server = RedisServer::start(&[]);
    let redis = Redis::connect(options(&server)).unwrap();
    let acks = Some(Acks { replicas: 1, disk: false, within: Duration::from_millis(50) });
    let write = Script::new(&["return redis.call('INCR', KEYS[1])"]);
    let call = Call { script: &write, keys: &[b"k"], args: &[] };
    let alone = redis.eval_acked(call, acks, |_| true).await;
    assert!(matches!(alone, Err(LedgerError::Unanswered(_))), "{alone:?}");
    assert_eq!(redis.eval_acked(call, acks, |_| false).await.unwrap(), Value::Int(2));
    let _replica = server.replica();
    let acks = acks.map(|a| Acks { within: Duration::from_secs(10), ..a });
    assert_eq!(redis.eval_acked(call, acks, |_| true).await.unwrap(), Value::Int(3));
}

#[tokio::test]
async fn the_primary_is_found_through_sentinels() {
    let mut server = RedisServer::start(&[]);
    let replica = server.replica();
    let sentinel = server.sentinel("meridian", 1);
    let servers = Servers::Sentinel {
        master: "meridian".to_owned(),
        // The first is nobody.
        addresses: vec![Address::new("127.0.0.1", 1), Address::new("127.0.0.1", sentinel.port())],
        user: User::default(),
    };
    let redis = Redis::connect(Options { servers, ..options(&server) }).unwrap();
    let whose = Script::new(&["return string.match(redis.call('INFO', 'server'), 'tcp_port:(%d+)')"]);
    let port = async || values::number(&settled(async || redis.eval(&whose, &[b"k"], &[]).await).await).unwrap();
    assert_eq!(port().await, u64::from(server.port()));
    server.kill();
    assert!(redis.eval(&whose, &[b"k"], &[]).await.is_err());
    assert_eq!(port().await, u64::from(replica.port()), "the promoted one");
}

#[tokio::test]
async fn a_cluster_is_reached_through_any_node() {
    let nodes = RedisServer::cluster(3);
    let servers = Servers::Cluster { addresses: vec![Address::new("127.0.0.1", nodes[1].port())] };
    let redis = Redis::connect(Options { servers, ..options(&nodes[0]) }).unwrap();
    let whose = Script::new(&[
        "redis.call('SET', KEYS[1], 1) return string.match(redis.call('INFO', 'server'), 'tcp_port:(%d+)')",
    ]);
    let mut ports = std::collections::BTreeSet::new();
    for n in 0..30 {
        let key = format!("k{n}");
        let port = redis.eval(&whose, &[key.as_bytes()], &[]).await.unwrap();
        let beside = redis.command_beside(key.as_bytes(), redis::cmd("INFO").arg("server")).await.unwrap();
        let port = values::text(&port).unwrap();
        assert!(values::text(&beside).unwrap().contains(&format!("tcp_port:{port}\r\n")));
        ports.insert(port);
    }
    assert_eq!(ports.len(), 3, "{ports:?}");
}

/// What names no key is answered by the replica then, and the parts of the others are served.
#[tokio::test]
async fn a_cluster_is_used_while_a_primary_is_away() {
    let mut nodes = RedisServer::cluster(3);
    // Slot of `{all}`: 3894, at the first node; of `a`: 15495, at the last.
    assert_eq!(nodes[0].ask(&["CLUSTER", "KEYSLOT", "{all}"]), "3894");
    let replica = nodes[0].replica();
    let port = replica.port().to_string();
    while !nodes[2].ask(&["CLUSTER", "SLOTS"]).contains(&port) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    nodes[0].kill();
    let servers = Servers::Cluster { addresses: vec![Address::new("127.0.0.1", nodes[2].port())] };
    let vetted = Some(Duration::from_secs(60));
    let redis = Redis::connect(Options { servers, vetted, ..options(&nodes[2]) }).unwrap();
    redis.eval(&echo(), &[b"a"], &[b"v"]).await.unwrap();
    // Any node answers.
    let mut looks = 0;
    while redis.inspect(b"{all}").await.unwrap().is_some() {
        looks += 1;
        assert!(looks < 1_000, "the replica is never asked");
    }
    assert_eq!(redis.unfit(), None);
}

/// A client that repeats a call whose answer was lost may hear a refusal, which is true of the repetition alone.
#[tokio::test]
async fn a_call_whose_answer_a_cluster_lost_is_unanswered_and_not_repeated() {
    let mut nodes = RedisServer::cluster(3);
    let servers = Servers::Cluster { addresses: vec![Address::new("127.0.0.1", nodes[0].port())] };
    let redis = Redis::connect(Options { servers, ..options(&nodes[0]) }).unwrap();
    redis.eval(&echo(), &[b"a"], &[b"v"]).await.unwrap();
    // `a` lies in the last third of the slots, `b` in the first. An answer that is too long ends its connection.
    assert_eq!(nodes[2].ask(&["CONFIG", "SET", "client-output-buffer-limit", "normal 100000 0 0"]), "OK");
    let lossy = Script::new(&[
        "if redis.call('INCR', KEYS[1]) > 1 then return redis.error_reply('RECOVERING again') end",
        "return string.rep('x', 1000000)",
    ]);
    let lost = redis.eval(&lossy, &[b"a"], &[]).await;
    assert!(matches!(lost, Err(LedgerError::Unanswered(_))), "it was carried out: {lost:?}");
    assert_eq!(nodes[2].ask(&["GET", "a"]), "1");
    // What is asked of a node that is not there is certainly not done, and the others serve on.
    nodes.truncate(2);
    settled(async || redis.eval(&echo(), &[b"b"], &[b"v"]).await).await;
    let refused = redis.eval(&echo(), &[b"a"], &[b"v"]).await;
    assert!(matches!(refused, Err(LedgerError::Unavailable(_))), "nobody is there to run it: {refused:?}");
    assert!(redis.eval(&echo(), &[b"b"], &[b"v"]).await.is_ok());
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_is_followed() {
    let nodes = RedisServer::cluster(3);
    let servers = Servers::Cluster { addresses: vec![Address::new("127.0.0.1", nodes[0].port())] };
    let redis = Redis::connect(Options { servers, ..options(&nodes[0]) }).unwrap();
    redis.eval(&echo(), &[b"a"], &[b"v"]).await.unwrap();
    // Slot of `a`: 15495, at the last node. The first takes it over.
    let ids: Vec<String> = nodes.iter().map(|node| node.ask(&["CLUSTER", "MYID"])).collect();
    let slot = |node: usize, words: [&str; 2]| {
        assert_eq!(nodes[node].ask(&["CLUSTER", "SETSLOT", "15495", words[0], words[1]]), "OK");
    };
    slot(0, ["IMPORTING", &ids[2]]);
    slot(2, ["MIGRATING", &ids[0]]);
    let set = Script::new(&["return redis.call('INCR', KEYS[1])"]);
    assert_eq!(redis.eval(&set, &[b"a"], &[]).await.unwrap(), Value::Int(1));
    assert_eq!(nodes[2].ask(&["CLUSTER", "COUNTKEYSINSLOT", "15495"]), "0");
    assert_eq!(nodes[0].ask(&["CLUSTER", "COUNTKEYSINSLOT", "15495"]), "1", "it was carried out where the slot goes");
    for node in [0, 2, 1] {
        slot(node, ["NODE", &ids[0]]);
    }
    assert_eq!(redis.eval(&set, &[b"a"], &[]).await.unwrap(), Value::Int(2));
}

#[tokio::test]
async fn a_confirmation_is_of_the_node_that_wrote() {
    let nodes = RedisServer::cluster(3);
    let servers = Servers::Cluster { addresses: vec![Address::new("127.0.0.1", nodes[0].port())] };
    let redis =
        Redis::connect(Options { servers, call_timeout: Duration::from_secs(5), ..options(&nodes[0]) }).unwrap();
    let acks = Some(Acks { replicas: 1, disk: false, within: Duration::from_millis(500) });
    let write = Script::new(&["return redis.call('INCR', KEYS[1])"]);
    let call = Call { script: &write, keys: &[b"a"], args: &[] };
    let alone = redis.eval_acked(call, acks, |_| true).await;
    assert!(matches!(alone, Err(LedgerError::Unanswered(_))), "{alone:?}");
    assert_eq!(redis.eval_acked(call, acks, |_| false).await.unwrap(), Value::Int(2));
    let _replica = nodes[2].replica();
    assert_eq!(redis.eval_acked(call, acks, |_| true).await.unwrap(), Value::Int(3));
    // Slot of `a`: 15495. The first node, which has no replica, takes it over from the last.
    assert_eq!(nodes[2].ask(&["DEL", "a"]), "1");
    let ids: Vec<String> = nodes.iter().map(|node| node.ask(&["CLUSTER", "MYID"])).collect();
    assert_eq!(nodes[0].ask(&["CLUSTER", "SETSLOT", "15495", "IMPORTING", &ids[2]]), "OK");
    assert_eq!(nodes[2].ask(&["CLUSTER", "SETSLOT", "15495", "MIGRATING", &ids[0]]), "OK");
    let moved = redis.eval_acked(call, acks, |_| true).await;
    assert!(matches!(moved, Err(LedgerError::Unanswered(_))), "the new node has no replica: {moved:?}");
    assert_eq!(nodes[0].ask(&["CLUSTER", "COUNTKEYSINSLOT", "15495"]), "1");
}

#[tokio::test]
async fn a_user_and_tls_are_used_and_needed() {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let (cert, key) = (file("cert.pem", &signed.cert.pem()), file("key.pem", &signed.signing_key.serialize_pem()));
    let server = RedisServer::start(&[
        "user default on nopass ~* &* +@all",
        "user meridian on >secret ~m:* &m:* +@all -@admin",
        &format!("tls-cert-file {cert}"),
        &format!("tls-key-file {key}"),
        "tls-auth-clients no",
        "tls-port 0",
    ]);
    let mut plain = options(&server);
    plain.user = User { name: Some("meridian".to_owned()), password: Some("secret".to_owned().into()) };
    let redis = Redis::connect(plain.clone()).unwrap();
    redis.eval(&echo(), &[b"m:k"], &[b"v"]).await.unwrap();
    assert!(redis.eval(&echo(), &[b"other"], &[b"v"]).await.is_err(), "the user may not");
    plain.user.password = Some("wrong".to_owned().into());
    let redis = Redis::connect(plain.clone()).unwrap();
    assert!(redis.eval(&echo(), &[b"m:k"], &[b"v"]).await.is_err(), "the password is checked");
    assert!(!format!("{plain:?}").contains("wrong"));
    // TLS on a second port of the same server.
    let port = crate::conformance::redis_server::free_port();
    assert_eq!(server.ask(&["CONFIG", "SET", "tls-port", &port.to_string()]), "OK");
    let mut sealed = options(&server);
    sealed.servers = Servers::Single(Address::new("localhost", port));
    sealed.tls = Some(Tls { authorities: Some(signed.cert.pem().into_bytes()), client: None });
    let redis = Redis::connect(sealed.clone()).unwrap();
    redis.eval(&echo(), &[b"k"], &[b"v"]).await.unwrap();
    sealed.tls = Some(Tls::default());
    if let Ok(stranger) = Redis::connect(sealed) {
        assert!(stranger.eval(&echo(), &[b"k"], &[b"v"]).await.is_err(), "an unknown authority is not believed");
    }
}
