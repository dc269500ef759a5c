//! With real servers.

mod link;

use std::time::Duration;

use super::{Options, Redis, Script};
use crate::{LedgerError, conformance::redis_server::RedisServer};

/// Options for a server; calls end early, so that a test of an outage does.
fn options(server: &RedisServer) -> Options {
    Options { call_timeout: Duration::from_millis(500), ..Options::single("127.0.0.1", server.port()) }
}

/// Repeats something that may be unavailable until it answers.
async fn settled<T>(mut run: impl AsyncFnMut() -> Result<T, LedgerError>) -> T {
    for _ in 0..200 {
        match run().await {
            Err(LedgerError::Unavailable(_) | LedgerError::Unanswered(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            other => return other.unwrap(),
        }
    }
    panic!("it does not come back");
}

fn echo() -> Script {
    Script::new(&["return {KEYS[1], ARGV[1]}"])
}
