//! A server whose settings lose writes is not used, whenever it turns up.

use std::{io::Write, time::Duration};

use meridian_ledger::{
    Ledger, LedgerError, Standing,
    conformance::{claim_new, redis_server::RedisServer, sample_claim},
    redis::{CheckError, LeaseTime, Options, Redis, RedisLedger},
};

use crate::redis::{ledger_options, reached};

/// Between two looks at the settings of a connected server.
const VETTED: Duration = Duration::from_millis(200);

fn vetted(server: &RedisServer) -> RedisLedger {
    let options = Options { vetted: Some(VETTED), ..Options::single("127.0.0.1", server.port()) };
    RedisLedger::new(Redis::connect(options).unwrap(), ledger_options("test", LeaseTime::Server)).unwrap()
}

async fn refused(ledger: &RedisLedger) {
    for _ in 0..200 {
        if ledger.trouble().is_some_and(|why| why.contains("noeviction")) {
            let answer = ledger.claim(sample_claim("acme", "op2", "db")).await;
            assert!(matches!(&answer, Err(LedgerError::Unavailable(why)) if why.contains("noeviction")), "{answer:?}");
            assert_eq!(ledger.standing(), Standing::Unavailable);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is used: {:?}", ledger.trouble());
}

#[tokio::test]
async fn a_server_that_comes_back_unfit_is_not_used_until_it_is_mended() {
    let mut server = RedisServer::start(&[]);
    let ledger = vetted(&server);
    ledger.initialise().await.unwrap();
    claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    assert_eq!(ledger.trouble(), None);
    server.kill();
    let mut settings = std::fs::OpenOptions::new().append(true).open(server.folder().join("redis.conf")).unwrap();
    settings.write_all(b"maxmemory-policy allkeys-lru\n").unwrap();
    server.restart();
    refused(&ledger).await;
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]), "OK");
    // From here on it is a server like any other that was restarted.
    let answer = reached(async || ledger.claim(sample_claim("acme", "op2", "db")).await).await;
    assert!(matches!(answer, Err(LedgerError::Recovering(_))), "{answer:?}");
    assert_eq!(ledger.trouble(), None);
}

#[tokio::test]
async fn a_server_that_turns_unfit_is_used_no_more_until_it_is_mended() {
    let server = RedisServer::start(&[]);
    let ledger = vetted(&server);
    ledger.initialise().await.unwrap();
    claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]), "OK");
    refused(&ledger).await;
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]), "OK");
    reached(async || ledger.claim(sample_claim("acme", "op2", "db")).await).await.expect("the same process goes on");
    assert_eq!(ledger.trouble(), None);
}

#[tokio::test]
async fn a_server_that_comes_late_is_looked_at_as_well() {
    let mut server = RedisServer::start(&["maxmemory-policy allkeys-lru"]);
    server.kill();
    let ledger = vetted(&server);
    assert!(matches!(ledger.check_server().await, Err(CheckError::Ledger(_))), "it does not answer yet");
    server.restart();
    refused(&ledger).await;
    assert!(matches!(ledger.check_server().await, Err(CheckError::Refused(_))));
}
