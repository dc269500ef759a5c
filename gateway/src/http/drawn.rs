//! Rate limits that several gateways share: buckets in the shared store, spent from batches that are drawn ahead.
//!
//! The arithmetic is `meridian_policies::rate::reserve`; here are its state and the one task that asks the store. A
//! request whose batch is not used up asks nobody. A caller that was idle waits for its first batch, at most
//! `DRAW_WAIT`; then this gateway's own bucket, of the limit divided by the living gateways, serves it.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use meridian_ledger::shared::Shared;
use meridian_policies::rate::{
    Limit, Take,
    reserve::{Reserve, Spend},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::authenticate::lock;
use crate::{clock::Clock, replicas::Replicas};

/// Longest wait of a request for tokens: ten round trips to a healthy store.
const DRAW_WAIT: Duration = Duration::from_millis(100);

/// Longest wait for one answer of the store.
const DRAW_TIMEOUT: Duration = Duration::from_millis(500);

/// Draws under way at once.
const DRAWS_MAX: usize = 64;

/// One limit of one tenant.
#[derive(Debug)]
pub struct DrawnBucket {
    name: String,
    reserve: Mutex<Reserve>,
    answered: Notify,
}

/// Draws tokens for every bucket of a gateway.
#[derive(Debug)]
pub struct Drawer {
    shared: Arc<dyn Shared>,
    replicas: Replicas,
    clock: Clock,
    /// Buckets that want tokens; each is in it or under way at most once.
    queue: Mutex<VecDeque<(Arc<DrawnBucket>, u32)>>,
    wake: Notify,
}

impl Drawer {
    /// Draws nothing before [`Self::run`] runs.
    #[must_use]
    pub fn new(shared: Arc<dyn Shared>, replicas: Replicas, clock: Clock) -> Arc<Self> {
        Arc::new(Self { shared, replicas, clock, queue: Mutex::default(), wake: Notify::new() })
    }

    /// A bucket that all gateways share by its name, of which no request takes more than `dearest`.
    #[must_use]
    pub fn bucket(&self, name: String, limit: Limit, dearest: u32) -> Arc<DrawnBucket> {
        let reserve = Mutex::new(Reserve::new(limit, dearest, self.replicas.count(), self.clock.now()));
        Arc::new(DrawnBucket { name, reserve, answered: Notify::new() })
    }

    /// Takes tokens, or says when to come back, without waiting; `None` when nothing is known.
    #[must_use]
    pub fn take_now(&self, bucket: &Arc<DrawnBucket>, cost: u32) -> Option<Take> {
        match self.spend(bucket, cost) {
            Spend::Told(take) => Some(take),
            Spend::Dry => None,
        }
    }

    /// Takes tokens, or says when to come back; waits for a draw only when nothing is known.
    pub async fn take(&self, bucket: &Arc<DrawnBucket>, cost: u32) -> Take {
        if let Some(take) = self.take_now(bucket, cost) {
            return take;
        }
        let drawn = async {
            loop {
                let mut answered = pin!(bucket.answered.notified());
                // First the place to wait at, then the look: an answer between the two is not missed.
                answered.as_mut().enable();
                if let Some(take) = self.take_now(bucket, cost) {
                    return take;
                }
                answered.await;
            }
        };
        match tokio::time::timeout(DRAW_WAIT, drawn).await {
            Ok(take) => take,
            Err(_) => lock(&bucket.reserve).take_own(cost, self.clock.now()),
        }
    }

    /// Gives tokens back whose request was not served.
    pub fn refund(&self, bucket: &DrawnBucket, cost: u32) {
        lock(&bucket.reserve).refund(cost);
    }

    fn spend(&self, bucket: &Arc<DrawnBucket>, cost: u32) -> Spend {
        let now = self.clock.now();
        let (spend, wish) = {
            let mut reserve = lock(&bucket.reserve);
            reserve.share(self.replicas.count(), now);
            (reserve.take(cost, now), reserve.wish(now))
        };
        if let Some(want) = wish {
            lock(&self.queue).push_back((Arc::clone(bucket), want));
            self.wake.notify_one();
        }
        spend
    }

    async fn draw(&self, bucket: Arc<DrawnBucket>, want: u32) {
        let limit = lock(&bucket.reserve).limit();
        let answer = tokio::time::timeout(DRAW_TIMEOUT, self.shared.draw(&bucket.name, limit, want)).await;
        let now = self.clock.now();
        match answer {
            Ok(Ok(grant)) => lock(&bucket.reserve).drawn(grant, now),
            Ok(Err(error)) => {
                tracing::debug!(bucket = %bucket.name, %error, "no tokens were drawn");
                lock(&bucket.reserve).failed(now);
            }
            Err(_) => lock(&bucket.reserve).failed(now),
        }
        bucket.answered.notify_waiters();
    }

    /// Draws what is wished for until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < DRAWS_MAX {
                let Some((bucket, want)) = lock(&self.queue).pop_front() else { break };
                under_way.push(self.draw(bucket, want));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                () = self.wake.notified() => {}
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use meridian_ledger::{LedgerError, LedgerFuture, shared::*};
    use meridian_model::time::Time;
    use meridian_policies::rate::reserve::Grant;
    use tokio::time::Instant;

    use super::*;

    const QUOTA: u32 = 200;
    const BURST: u32 = 40;

    fn limit() -> Limit {
        Limit::new(QUOTA, Duration::from_secs(1), BURST).unwrap()
    }

    fn clock() -> Clock {
        let began = Instant::now();
        Clock::from_fn(move || Time::from_unix_ms(1_700_000_000_000) + began.elapsed())
    }

    /// Two gateways hammer one limit for a while; how many requests were served.
    async fn hammer(shared: [Arc<dyn Shared>; 2], span: Duration) -> u32 {
        let stop = CancellationToken::new();
        let mut gateways = Vec::new();
        for (n, shared) in shared.into_iter().enumerate() {
            let replicas = Replicas::new(Arc::clone(&shared), format!("g{n}"));
            replicas.attend().await;
            gateways.push((Drawer::new(shared, replicas.clone(), clock()), replicas));
        }
        for (_, replicas) in &gateways {
            replicas.attend().await;
        }
        let mut tasks = tokio::task::JoinSet::new();
        for (drawer, _) in &gateways {
            tasks.spawn(Arc::clone(drawer).run(stop.clone()));
        }
        let served = gateways.iter().map(|(drawer, _)| async {
            let bucket = drawer.bucket("acme".to_owned(), limit(), 1);
            let (started, mut served) = (Instant::now(), 0);
            while started.elapsed() < span {
                served += u32::from(matches!(drawer.take(&bucket, 1).await, Take::Taken { .. }));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            served
        });
        let served = futures_util::future::join_all(served).await.into_iter().sum();
        stop.cancel();
        tasks.join_all().await;
        served
    }

    /// Rate, burst and what two gateways may hold.
    fn most(span: Duration) -> u32 {
        QUOTA * u32::try_from(span.as_secs()).unwrap() + BURST + 2 * Reserve::held_max(limit(), 1)
    }

    #[tokio::test(start_paused = true)]
    async fn two_gateways_serve_one_limit_within_the_stated_error() {
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
        let span = Duration::from_secs(10);
        let served = hammer([Arc::clone(&shared), shared], span).await;
        assert!(served <= most(span) && served >= QUOTA * 9, "{served}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_gateways_on_a_redis_serve_one_limit_within_the_stated_error() {
        use meridian_ledger::{
            conformance::redis_server::RedisServer,
            redis::{Options, Redis, RedisShared},
        };
        let server = RedisServer::start(&[]);
        let link = || Redis::connect(Options::single("127.0.0.1", server.port())).unwrap();
        let span = Duration::from_secs(3);
        let served = hammer([RedisShared::new(link(), "test"), RedisShared::new(link(), "test")], span).await;
        // The span of a gateway ends with a request that began in it.
        assert!(served <= most(span) + QUOTA / 10 && served >= QUOTA * 2, "{served}");
    }

    /// Counts its members and grants nothing.
    #[derive(Debug)]
    pub(crate) struct Silent(pub(crate) Arc<dyn Shared>);

    impl Shared for Silent {
        fn lead<'a>(&'a self, task: &'a str, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Lead> {
            self.0.lead(task, owner, lease)
        }
        fn resign<'a>(&'a self, task: &'a str, owner: &'a str) -> LedgerFuture<'a, ()> {
            self.0.resign(task, owner)
        }
        fn post<'a>(&'a self, task: &'a str, post: Post) -> LedgerFuture<'a, Posted> {
            self.0.post(task, post)
        }
        fn read<'a>(&'a self, task: &'a str, after: u64, wait: Duration) -> LedgerFuture<'a, BoardPage> {
            self.0.read(task, after, wait)
        }
        fn draw<'a>(&'a self, _: &'a str, _: Limit, _: u32) -> LedgerFuture<'a, Grant> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err(LedgerError::Unavailable("silent".to_owned()))
            })
        }
        fn attend<'a>(&'a self, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Vec<String>> {
            self.0.attend(owner, lease)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_store_each_gateway_has_its_part() {
        let shared: Arc<dyn Shared> = Arc::new(Silent(Arc::new(MemoryShared::new())));
        let span = Duration::from_secs(10);
        let served = hammer([Arc::clone(&shared), shared], span).await;
        assert!((QUOTA * 8..=QUOTA * 10 + BURST).contains(&served), "{served}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_limit_says_when_to_come_back() {
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
        let drawer = Drawer::new(Arc::clone(&shared), Replicas::new(shared, "g".to_owned()), clock());
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&drawer).run(stop.clone()));
        let slow = Limit::new(1, Duration::from_secs(60), 3).unwrap();
        let bucket = drawer.bucket("b".to_owned(), slow, 1);
        for left in [2, 1, 0] {
            let take = drawer.take(&bucket, 1).await;
            assert!(matches!(take, Take::Taken { remaining, .. } if remaining == left), "{take:?}");
        }
        let take = drawer.take(&bucket, 1).await;
        assert!(
            matches!(take, Take::Refused { remaining: 0, retry_after } if retry_after > Duration::from_secs(59)),
            "{take:?}"
        );
        drawer.refund(&bucket, 1);
        assert!(matches!(drawer.take(&bucket, 1).await, Take::Taken { .. }));
        stop.cancel();
        task.await.unwrap();
    }
}
