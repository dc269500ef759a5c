//! The crate limitador under the load of `meridian-loadtests ratelimit`: three limits that are never reached.
//!
//! Arguments: storage (`memory`, `redis`, `redis-cached`), URL of the Redis, milliseconds, limiters, callers of each.
//! Prints `{"decisions": N, "seconds": S}`. In memory it is one limiter and one caller, as the other side.

use std::{
    collections::HashMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use limitador::{
    AsyncRateLimiter, RateLimiter,
    limit::{Context, Limit},
    storage::redis::{AsyncRedisStorage, CachedRedisStorage},
};

const NAMESPACE: &str = "acme";

/// Decisions between two looks at the clock.
const BATCH: u64 = 16;

/// Three limits without conditions; one is by principal.
fn limits() -> Result<Vec<Limit>, Box<dyn Error>> {
    let wide = 1 << 40;
    let principal = vec!["principal".try_into()?];
    Ok(vec![
        Limit::new(NAMESPACE, wide, 60, vec![], vec![]),
        Limit::new(NAMESPACE, wide, 61, vec![], vec![]),
        Limit::new(NAMESPACE, wide, 60, vec![], principal),
    ])
}

fn context() -> Context<'static> {
    HashMap::from([("principal".to_owned(), "ci".to_owned())]).into()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("storage, url, milliseconds, limiters and callers are needed");
    let (storage, url) = (next()?, next()?);
    let span = Duration::from_millis(next()?.parse()?);
    let (limiters, callers): (usize, usize) = (next()?.parse()?, next()?.parse()?);
    let began = Instant::now();
    let decisions = if storage == "memory" {
        alone(span)?
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(shared(&storage, &url, span, (limiters, callers)))?
    };
    println!("{{\"decisions\": {decisions}, \"seconds\": {}}}", began.elapsed().as_secs_f64());
    Ok(())
}

fn alone(span: Duration) -> Result<u64, Box<dyn Error>> {
    let limiter = RateLimiter::new(10_000);
    for limit in limits()? {
        limiter.add_limit(limit);
    }
    let (namespace, context) = (NAMESPACE.into(), context());
    let (began, mut decisions) = (Instant::now(), 0);
    while began.elapsed() < span {
        for _ in 0..BATCH {
            let decided = limiter.check_rate_limited_and_update(&namespace, &context, 1);
            assert!(!decided.map_err(|e| e.to_string())?.limited);
        }
        decisions += BATCH;
    }
    Ok(decisions)
}

async fn shared(
    storage: &str,
    url: &str,
    span: Duration,
    (limiters, callers): (usize, usize),
) -> Result<u64, Box<dyn Error>> {
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for _ in 0..limiters {
        let limiter = if storage == "redis" {
            AsyncRateLimiter::new_with_storage(Box::new(AsyncRedisStorage::new(url).await?))
        } else {
            AsyncRateLimiter::new_with_storage(Box::new(CachedRedisStorage::new(url).await?))
        };
        for limit in limits()? {
            limiter.add_limit(limit);
        }
        let limiter = Arc::new(limiter);
        for _ in 0..callers {
            let limiter = Arc::clone(&limiter);
            tasks.spawn(async move {
                let namespace = NAMESPACE.into();
                let mut decisions = 0;
                while began.elapsed() < span {
                    for _ in 0..BATCH {
                        let decided = {
                            let context = context();
                            limiter.check_rate_limited_and_update(&namespace, &context, 1).await
                        };
                        if decided.is_err() {
                            return Err("the storage does not answer");
                        }
                    }
                    decisions += BATCH;
                }
                Ok(decisions)
            });
        }
    }
    let mut decisions = 0;
    while let Some(done) = tasks.join_next().await {
        decisions += done??;
    }
    Ok(decisions)
}
