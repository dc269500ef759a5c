//! The verbs of a rebuild on a real Redis: fenced by their token, and seen by the ledger only when they are finished.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use meridian_ledger::{
    Claimed, Ledger, LedgerError, Quota,
    conformance::{
        at, claim_new, id, placed,
        redis_server::{RedisServer, wait_until},
        sample_claim, write,
    },
    recovery::{Begun, Finish, Recovery, Token},
    redis::{Address, Connect, Connecting, LeaseTime, Options, Redis, RedisLedger, TcpConnect},
};
use meridian_model::{
    ids::{ProjectName, TenantId},
    operation::{Charge, OperationRecord, QuotaLimits},
    quantity::PricePerHour,
    quota::{Budget, QuotaNode, QuotaTree},
};
use meridian_policies::quota::spend::Spend;

use crate::redis::{fresh, ledger_options, reached};

const LEASE: Duration = Duration::from_secs(60);

fn yours(begun: Begun) -> Token {
    match begun {
        Begun::Yours(token) => token,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rebuilder_that_was_overtaken_changes_nothing() {
    let mut server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let claim = sample_claim("acme", "op1", "web");
    let tenant = claim.tenant.clone();
    let Claimed::New(record) = ledger.claim(claim.clone()).await.unwrap() else { panic!("not new") };
    assert_eq!(ledger.begin(&tenant, "a", "n0", LEASE).await.unwrap(), Begun::Whole);
    server.kill();
    server.restart();
    // The first call finds the old connection broken.
    let mut standings = reached(async || ledger.standings(vec![tenant.clone()]).await).await.unwrap();
    let standing = standings.remove(&tenant).unwrap();
    assert!(!standing.is_whole() && standing.holds(Recovery::seen(&ledger).get(&tenant)), "{standing:?}");
    assert!(matches!(ledger.claim(claim.clone()).await, Err(LedgerError::Recovering(_))));

    let first = yours(ledger.begin(&tenant, "a", "n1", LEASE).await.unwrap());
    assert!(matches!(ledger.begin(&tenant, "b", "n2", LEASE).await.unwrap(), Begun::Another(_)));
    let left = ledger.remaining(&first, None, 10).await.unwrap();
    assert_eq!((left.records.len(), left.unreadable.len()), (1, 0));
    // Its own later token takes the place of the first.
    let second = yours(ledger.begin(&tenant, "a", "n3", LEASE).await.unwrap());
    let mut restored = (*record).clone();
    restored.rev = 100;
    restored.charge = Charge { instances: 3, ..Charge::default() };
    assert!(!ledger.restore(&first, restored.clone()).await.unwrap());
    assert!(!ledger.finish(&first, Finish::Untouched { quota: None }, at(0)).await.unwrap());
    assert!(ledger.remaining(&first, None, 10).await.is_err());

    assert!(ledger.contribute(restored.clone()).await.unwrap());
    let handed = ledger.contributions(&second, None, 10).await.unwrap();
    assert_eq!(handed.records[0].rev, 100);
    assert_eq!(handed.records[0].spec, record.spec, "sealed and opened again");
    for (name, text) in [("b", "2"), ("a", "0"), ("c", "3"), ("a", "1")] {
        assert!(ledger.note(&tenant, name, text.to_owned()).await.unwrap());
    }
    assert!(ledger.notes(&first, None, 2).await.is_err(), "overtaken");
    let noted = ledger.notes(&second, None, 2).await.unwrap();
    let rest = ledger.notes(&second, noted.next, 2).await.unwrap();
    assert_eq!(
        (noted.notes, rest.notes, rest.next),
        (vec!["1".to_owned(), "2".to_owned()], vec!["3".to_owned()], None)
    );
    assert!(ledger.restore(&second, restored).await.unwrap());
    let limits = QuotaLimits { instances: Some(5), ..QuotaLimits::default() };
    assert!(
        ledger
            .finish(&second, Finish::Rebuilt { quota: Quota { limits, ..Quota::default() }, seq: 1_000 }, at(0))
            .await
            .unwrap()
    );
    ledger.enlist(vec![tenant.clone()]).await.unwrap();
    assert!(!ledger.restore(&second, (*record).clone()).await.unwrap(), "a finished rebuild is over");
    assert!(!ledger.note(&tenant, "late", "4".to_owned()).await.unwrap(), "nobody reads it any more");
    assert_eq!(server.ask(&["KEYS", "*note*"]), "", "what was handed in is forgotten");

    let now = ledger.operation(&tenant, &record.op_id).await.unwrap().unwrap();
    assert_eq!((now.rev, now.fence.store.as_str(), now.fence.owner.as_str()), (100, second.server.as_str(), ""));
    assert!(now.fence.counter > record.fence.counter);
    let usage = ledger.usage(&tenant).await.unwrap();
    assert_eq!((usage.used.instances, usage.limits.instances), (3, Some(5)));
    assert!(matches!(ledger.claim(claim).await.unwrap(), Claimed::Joined(_)));
    let Claimed::New(next) = ledger.claim(sample_claim("acme", "op2", "other")).await.unwrap() else {
        panic!("not new")
    };
    assert!(next.seq > 1_000, "{}", next.seq);
    let abandoned = ledger.abandoned("somebody", record.created_at, 10).await.unwrap();
    assert!(abandoned.iter().any(|r| r.op_id == record.op_id), "nobody's: whoever looks takes it over");
}

/// What runs costs money also when nothing of it changes after a loss.
#[tokio::test]
async fn spending_goes_on_from_the_end_of_a_rebuild() {
    let mut server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Callers).await;
    let tenant: TenantId = id("acme");
    let budget = Some(Budget { hard: Some(1_000_000), ..Budget::default() });
    let tree = QuotaTree { nodes: vec![QuotaNode { budget, ..QuotaNode::default() }] };
    ledger.set_tree(&tenant, &tree, at(0)).await.unwrap();
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    let charge = Charge { instances: 1, cost: PricePerHour(7), ..Charge::default() };
    let running = write(&ledger, placed(record, (Some("shop"), "cloud-a", "r1"), charge)).await;
    let shop = Some(id::<ProjectName>("shop"));
    let spend = async || ledger.books(&tenant).await.unwrap().spends.get(&shop).copied();
    let begun = spend().await.unwrap();
    assert_eq!(begun.rate, 7);

    // The end is lost, and with it what it costs.
    let spends = "test{t:acme}:spends";
    let before = format!("{} 0 0 {} 3 0", begun.month, begun.since);
    let _ = server.ask(&["HSET", spends, "shop", &before]);
    server.restart();
    let token = yours(reached(async || ledger.begin(&tenant, "a", "n1", LEASE).await).await.unwrap());
    assert!(ledger.finish(&token, Finish::Untouched { quota: None }, at(3_600)).await.unwrap());
    assert_eq!(spend().await, Some(Spend { rate: 7, spent: 3, since: begun.since + 3_600, ..begun }));

    // All is lost.
    let _ = server.ask(&["DEL", spends, "test{t:acme}:pots", "test{t:acme}:tree"]);
    server.restart();
    let token = yours(reached(async || ledger.begin(&tenant, "a", "n2", LEASE).await).await.unwrap());
    assert!(ledger.restore(&token, *running).await.unwrap());
    let quota = Quota { tree, ..Quota::default() };
    assert!(ledger.finish(&token, Finish::Rebuilt { quota, seq: 1_000 }, at(7_200)).await.unwrap());
    assert_eq!(spend().await, Some(Spend { rate: 7, spent: 0, since: begun.since + 7_200, ..begun }));
}

/// A rebuild does not outlive the server that it began under: what it waited for was another's loss.
#[tokio::test]
async fn a_token_is_lost_with_its_server() {
    let mut server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    let tenant = record.tenant;
    server.restart();
    let first = yours(reached(async || ledger.begin(&tenant, "a", "n1", LEASE).await).await.unwrap());
    assert!(Recovery::renew(&ledger, &first, LEASE).await.unwrap());
    server.restart();
    assert!(!reached(async || Recovery::renew(&ledger, &first, LEASE).await).await.unwrap());
    assert!(!ledger.finish(&first, Finish::Untouched { quota: None }, at(0)).await.unwrap());
    // Its holder begins anew, and may find that nothing was lost.
    let second = yours(ledger.begin(&tenant, "a", "n2", LEASE).await.unwrap());
    assert_ne!(second.server, first.server);
    assert!(ledger.finish(&second, Finish::Untouched { quota: None }, at(0)).await.unwrap());
}

/// What was lost may have been followed by another's: nobody makes it anew by holding on to it.
#[tokio::test]
async fn a_token_that_is_gone_is_not_renewed() {
    let mut server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    let tenant = record.tenant;
    server.restart();
    let short = Duration::from_millis(1);
    let first = yours(reached(async || ledger.begin(&tenant, "a", "n1", short).await).await.unwrap());
    assert!(Recovery::renew(&ledger, &first, LEASE).await.unwrap(), "late, and nobody had it in between");
    assert!(matches!(ledger.begin(&tenant, "b", "n2", LEASE).await.unwrap(), Begun::Another(_)));
    assert_eq!(server.ask(&["DEL", "test{t:acme}:rebuild"]), "1");
    assert!(!Recovery::renew(&ledger, &first, LEASE).await.unwrap());
    assert!(!ledger.finish(&first, Finish::Untouched { quota: None }, at(0)).await.unwrap());
    let second = yours(ledger.begin(&tenant, "b", "n3", LEASE).await.unwrap());
    assert!(!Recovery::renew(&ledger, &first, LEASE).await.unwrap(), "another's");
    assert!(ledger.finish(&second, Finish::Untouched { quota: None }, at(0)).await.unwrap());
    assert!(Recovery::renew(&ledger, &second, LEASE).await.unwrap(), "what is finished is whole");
}

/// Leads to one of several servers; what is connected already stays where it is.
#[derive(Debug, Default)]
struct Switch(AtomicU16);

impl Connect for Switch {
    fn connect<'a>(&'a self, address: &'a Address) -> Connecting<'a> {
        let at = Address::new(address.host.clone(), self.0.load(Ordering::SeqCst));
        Box::pin(async move { TcpConnect.connect(&at).await })
    }
}

impl Switch {
    fn ledger(self: &Arc<Self>) -> RedisLedger {
        let options = Options { connect: Arc::clone(self) as _, ..Options::single("127.0.0.1", 1) };
        RedisLedger::new(Redis::connect(options).unwrap(), ledger_options("test", LeaseTime::Server)).unwrap()
    }

    /// Every connection breaks, and new ones lead to another server.
    fn lead(&self, from: &RedisServer, to: &RedisServer) {
        self.0.store(to.port(), Ordering::SeqCst);
        for kind in ["normal", "pubsub"] {
            let _ = from.ask(&["CLIENT", "KILL", "TYPE", kind]);
        }
    }
}

fn is_recovering<T>(answer: &Result<T, LedgerError>) -> bool {
    matches!(answer, Err(LedgerError::Recovering(_)))
}

/// Every verb of every gateway is refused, also of one that saw nothing, and a rebuild is what ends it.
async fn left_behind(witness: &RedisLedger, stranger: &RedisLedger, lost: &OperationRecord) {
    let tenant = &lost.tenant;
    let answer = reached(async || witness.claim(sample_claim("acme", "op1", "web")).await).await;
    assert!(is_recovering(&answer), "{answer:?}");
    let answer = reached(async || stranger.claim(sample_claim("acme", "late", "late")).await).await;
    assert!(is_recovering(&answer), "who saw nothing is told as well: {answer:?}");
    for ledger in [witness, stranger] {
        let standing = ledger.standings(vec![tenant.clone()]).await.unwrap().remove(tenant).unwrap();
        assert!(!standing.is_whole() && !standing.is_new, "{standing:?}");
        assert!(!standing.holds(Recovery::seen(ledger).get(tenant)), "nobody can confirm it: {standing:?}");
    }
    let token = yours(stranger.begin(tenant, "b", "n9", LEASE).await.unwrap());
    assert!(!stranger.finish(&token, Finish::Untouched { quota: None }, at(0)).await.unwrap());
    let token = yours(witness.begin(tenant, "b", "n10", LEASE).await.unwrap());
    assert!(witness.restore(&token, lost.clone()).await.unwrap());
    let seq = lost.seq + 100;
    assert!(witness.finish(&token, Finish::Rebuilt { quota: Quota::default(), seq }, at(0)).await.unwrap());
    for ledger in [witness, stranger] {
        assert!(ledger.operation(tenant, &lost.op_id).await.unwrap().is_some());
        let op = format!("next{}", Recovery::seen(ledger).len());
        assert!(ledger.claim(sample_claim("acme", &op, &op)).await.is_ok());
    }
}

/// A primary that was cut off and replaced, and is a primary again without having been restarted: its `run_id` is the
/// one that its data carries.
#[tokio::test]
async fn an_old_primary_that_returns_is_not_believed() {
    let old = RedisServer::start(&[]);
    let new = old.replica();
    let switch = Arc::new(Switch::default());
    switch.lead(&old, &old);
    let (witness, stranger) = (switch.ledger(), switch.ledger());
    witness.initialise().await.unwrap();
    let first = claim_new(&witness, sample_claim("acme", "op1", "web")).await;
    wait_until("the replica has it", || new.ask(&["EXISTS", "test{t:acme}:op:op1"]) == "1");
    assert_eq!(new.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    switch.lead(&old, &new);
    let answer = reached(async || witness.operation(&first.tenant, &first.op_id).await).await;
    assert!(is_recovering(&answer), "{answer:?}");
    let standing = witness.standings(vec![first.tenant.clone()]).await.unwrap().remove(&first.tenant).unwrap();
    assert!(standing.holds(Recovery::seen(&witness).get(&first.tenant)), "{standing:?}");
    let token = yours(witness.begin(&first.tenant, "a", "n1", LEASE).await.unwrap());
    assert!(witness.finish(&token, Finish::Untouched { quota: None }, at(0)).await.unwrap());
    witness.enlist(vec![first.tenant.clone()]).await.unwrap();
    let lost = claim_new(&witness, sample_claim("acme", "op2", "db")).await;
    assert_eq!(Recovery::seen(&witness)[&first.tenant].generation, 1);

    switch.lead(&new, &old);
    left_behind(&witness, &stranger, &lost).await;
    assert_eq!(Recovery::seen(&witness)[&first.tenant].generation, 2);
}

/// The same primary, but it was a replica of an older state in between: data, `run_id` and generation are as they were,
/// and the end is missing.
#[tokio::test]
async fn a_primary_that_followed_an_older_state_is_not_believed() {
    let old = RedisServer::start(&[]);
    let other = old.replica();
    let switch = Arc::new(Switch::default());
    switch.lead(&old, &old);
    let (witness, stranger) = (switch.ledger(), switch.ledger());
    witness.initialise().await.unwrap();
    claim_new(&witness, sample_claim("acme", "op1", "web")).await;
    wait_until("the replica has it", || other.ask(&["EXISTS", "test{t:acme}:op:op1"]) == "1");
    assert_eq!(other.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    let lost = claim_new(&witness, sample_claim("acme", "op2", "db")).await;
    assert_eq!(old.ask(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]), "OK");
    wait_until("it follows the other", || old.ask(&["EXISTS", "test{t:acme}:op:op2"]) == "0");
    wait_until("it is in step", || old.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    assert_eq!(old.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    switch.lead(&old, &old);
    left_behind(&witness, &stranger, &lost).await;
}

/// The list of tenants comes back older, too: a tenant that was made meanwhile is not made once more.
#[tokio::test]
async fn a_tenant_that_was_seen_is_never_taken_for_new() {
    let server = RedisServer::start(&[]);
    let ledger = fresh(&server, LeaseTime::Server).await;
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    assert_eq!(server.ask(&["DEL", "test{t:acme}:meta", "test{all}:tenants"]), "2");
    let answer = ledger.claim(sample_claim("acme", "op1", "web")).await;
    assert!(is_recovering(&answer), "{answer:?}");
    let standing = ledger.standings(vec![record.tenant.clone()]).await.unwrap().remove(&record.tenant).unwrap();
    assert!(!standing.is_new && !standing.is_whole(), "{standing:?}");
}
