//! The verbs of a rebuild on a real Redis: fenced by their token, and seen by the ledger only when they are finished.

use std::time::Duration;

use meridian_ledger::{
    Claimed, Ledger, LedgerError,
    conformance::{redis_server::RedisServer, sample_claim},
    recovery::{Begun, Finish, Recovery, Token},
    redis::LeaseTime,
};
use meridian_model::operation::{Charge, QuotaLimits};

use crate::redis::fresh;

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
    while matches!(ledger.standings(vec![tenant.clone()]).await, Err(LedgerError::Unavailable(_))) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let standing = ledger.standings(vec![tenant.clone()]).await.unwrap().remove(&tenant).unwrap();
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
    assert!(!ledger.finish(&first, Finish::Untouched { limits: None }).await.unwrap());
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
    assert!(ledger.finish(&second, Finish::Rebuilt { limits, seq: 1_000 }).await.unwrap());
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
