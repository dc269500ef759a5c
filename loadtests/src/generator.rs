//! Sends load and measures it.
//!
//! *Open loop*: a thread of its own hands out arrivals at their planned times into a queue; connections take them in
//! order. If all connections are busy, an arrival waits, and its wait is part of its latency, because latency counts
//! from the planned time. *Closed loop*: every connection sends as soon as it has its reply; that measures
//! throughput, and its latencies say nothing about a service under a given load.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::Instant,
};

use crate::{
    arrivals::Arrivals,
    client::{Connection, Keep, REQUEST_TIMEOUT, Reply},
};

/// Most connections of one load: what a gateway allows one address by default.
pub const CONNECTIONS_MAX: usize = 256;

/// Arrivals handed out and not yet taken. When it is full the planner waits; the planned times stay what they are.
const QUEUE: usize = 65_536;

/// Longest wait for the last replies after the last arrival; what is not sent by then is counted as such.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Lowest latency that is told apart from zero.
const LATENCY_NS_UNIT: u64 = 100;

/// Highest latency that is told apart from a higher one.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Kinds of errors counted apart; the rest are counted together.
const ERROR_KINDS_MAX: usize = 32;

/// Makes the n-th request.
pub type MakeRequest = Arc<dyn Fn(u64) -> Request<Full<Bytes>> + Send + Sync>;

/// What is asked of a server.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// The requests.
    pub request: MakeRequest,
    /// The only status that is no error.
    pub expected: StatusCode,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Window {
    /// Nanoseconds from the planned time (closed loop: from the send) to the last byte of good replies.
    pub latency: Histogram<u64>,
    /// Nanoseconds from the send to the last byte of good replies.
    pub service: Histogram<u64>,
    /// Replies with the expected status.
    pub good: u64,
    /// Everything else, by code.
    pub errors: BTreeMap<String, u64>,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// From the first planned time to the last reply.
    pub elapsed: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            latency: histogram(),
            service: histogram(),
            good: 0,
            errors: BTreeMap::new(),
            body_bytes: 0,
            elapsed: Duration::ZERO,
        }
    }
}

/// An empty histogram of nanoseconds with three significant digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_UNIT, LATENCY_NS_MAX, 3)
        .expect("invariant: the bounds are constants in order")
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Window {
    /// Adds what another window measured.
    pub fn absorb(&mut self, other: &Self) {
        // Equal bounds, so that nothing can be out of range.
        let _ = self.latency.add(&other.latency);
        let _ = self.service.add(&other.service);
        self.good += other.good;
        self.body_bytes += other.body_bytes;
        self.elapsed += other.elapsed;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
    }

    /// Replies and failures together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.good + self.errors.values().sum::<u64>()
    }

    /// Good replies a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.good as f64 / seconds } else { 0.0 }
    }

    /// Counts one good reply.
    pub fn record(&mut self, latency: Duration, service: Duration, body_len: usize) {
        self.latency.saturating_record(nanos(latency));
        self.service.saturating_record(nanos(service));
        self.good += 1;
        self.body_bytes += body_len as u64;
    }

    /// Counts one error.
    pub fn fail(&mut self, code: String) {
        let known = self.errors.contains_key(&code) || self.errors.len() < ERROR_KINDS_MAX;
        *self.errors.entry(if known { code } else { "other".to_owned() }).or_default() += 1;
    }
}

/// What an error is counted as: the problem's `code`, else the status, else what broke.
fn code_of(sent: &anyhow::Result<Reply>) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
    }
    match sent {
        Err(error) => format!("transport: {error}"),
        Ok(reply) => match serde_json::from_slice::<Problem>(&reply.body) {
            Ok(problem) => format!("{} {}", reply.status.as_u16(), problem.code),
            Err(_) => reply.status.as_u16().to_string(),
        },
    }
}

/// Connections that stay open from one load to the next.
#[derive(Debug)]
pub struct Pool {
    target: Target,
    connections: Vec<Arc<Mutex<Connection>>>,
    sent: u64,
}

/// One arrival.
#[derive(Debug, Clone, Copy)]
struct Due {
    n: u64,
    planned: Instant,
}

impl Pool {
    /// A pool of at most [`CONNECTIONS_MAX`] connections; none is open yet.
    #[must_use]
    pub fn new(target: Target, connections: usize) -> Self {
        let new = || Arc::new(Mutex::new(Connection::new(target.address)));
        let connections = (0..connections.clamp(1, CONNECTIONS_MAX)).map(|_| new()).collect();
        Self { target, connections, sent: 0 }
    }

    /// Sends every planned arrival and waits for the replies.
    ///
    /// # Errors
    /// A task of the generator itself failed.
    pub async fn open_loop(&mut self, plan: Arrivals) -> anyhow::Result<Window> {
        let (hand_out, queue) = mpsc::channel::<Due>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let start = Instant::now();
        let first = self.sent;
        let planner = tokio::task::spawn_blocking(move || hand_out_arrivals(plan, start, first, &hand_out));
        let mut workers = JoinSet::new();
        for connection in &self.connections {
            let (connection, queue, target) = (Arc::clone(connection), Arc::clone(&queue), self.target.clone());
            workers.spawn(async move {
                let mut connection = connection.lock().await;
                let mut window = Window::default();
                loop {
                    // The lock is held while waiting, so that connections take turns.
                    let due = queue.lock().await.recv().await;
                    let Some(due) = due else { return window };
                    exchange(&mut connection, &target, due, &mut window).await;
                }
            });
        }
        let planned = planner.await.context("the planner of arrivals failed")?;
        self.sent += planned;
        let mut window = join(workers, DRAIN_MAX + REQUEST_TIMEOUT).await?;
        window.elapsed = start.elapsed();
        for _ in window.total()..planned {
            window.fail("not answered".to_owned());
        }
        Ok(window)
    }

    /// Every connection sends one request after the other until `length` has passed, or until `total` were sent.
    ///
    /// # Errors
    /// A task of the generator itself failed.
    pub async fn closed_loop(&mut self, length: Duration, total: Option<u64>) -> anyhow::Result<Window> {
        let start = Instant::now();
        let end = start + length;
        let next = Arc::new(std::sync::atomic::AtomicU64::new(self.sent));
        let last = total.map_or(u64::MAX, |total| self.sent.saturating_add(total));
        let mut workers = JoinSet::new();
        for connection in &self.connections {
            let (connection, next, target) = (Arc::clone(connection), Arc::clone(&next), self.target.clone());
            workers.spawn(async move {
                let mut connection = connection.lock().await;
                let mut window = Window::default();
                loop {
                    let planned = Instant::now();
                    if planned >= end {
                        return window;
                    }
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n >= last {
                        return window;
                    }
                    exchange(&mut connection, &target, Due { n, planned }, &mut window).await;
                }
            });
        }
        let mut window = join(workers, length + DRAIN_MAX + REQUEST_TIMEOUT).await?;
        window.elapsed = start.elapsed();
        self.sent = next.load(std::sync::atomic::Ordering::Relaxed).min(last);
        Ok(window)
    }
}

/// Sleeps to each planned time and hands the arrival out; a thread of its own, because the runtime's timer counts
/// whole milliseconds. Returns how many there were.
fn hand_out_arrivals(plan: Arrivals, start: Instant, first: u64, to: &mpsc::Sender<Due>) -> u64 {
    let mut count = 0;
    for offset in plan {
        let planned = start + offset;
        std::thread::sleep(planned.saturating_duration_since(Instant::now()));
        if to.blocking_send(Due { n: first + count, planned }).is_err() {
            break;
        }
        count += 1;
    }
    count
}

async fn exchange(connection: &mut Connection, target: &Target, due: Due, window: &mut Window) {
    let request = (target.request)(due.n);
    let sent_at = Instant::now();
    let sent = connection.send(request, Keep::Errors).await;
    let done = Instant::now();
    match &sent {
        Ok(reply) if reply.status == target.expected => {
            window.record(done - due.planned, done - sent_at, reply.body_len);
        }
        failed => window.fail(code_of(failed)),
    }
}

async fn join(mut workers: JoinSet<Window>, patience: Duration) -> anyhow::Result<Window> {
    let mut all = Window::default();
    let joined = tokio::time::timeout(patience, async {
        while let Some(window) = workers.join_next().await {
            all.absorb(&window.context("a connection's task failed")?);
        }
        anyhow::Ok(())
    });
    // What is still open then is counted by the caller as not answered.
    joined.await.unwrap_or(Ok(()))?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn windows_add_up() {
        let mut all = Window::default();
        for (latency, code) in [(1, "429 rate-limited"), (3, "503 overloaded"), (5, "429 rate-limited")] {
            let mut one = Window { elapsed: 500 * MS, ..Window::default() };
            one.record(latency * MS, MS, 10);
            one.fail(code.to_owned());
            all.absorb(&one);
        }
        assert_eq!((all.good, all.total(), all.body_bytes), (3, 6, 30));
        assert_eq!(all.errors["429 rate-limited"], 2);
        assert!((all.per_second() - 2.0).abs() < 1e-9, "{}", all.per_second());
        assert_eq!(all.latency.value_at_quantile(0.5) / 1_000_000, 3);
        assert_eq!(all.service.value_at_quantile(1.0) / 1_000_000, 1);
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let mut window = Window::default();
        (0..100).for_each(|n| window.fail(format!("{n}")));
        assert_eq!(window.errors.len(), ERROR_KINDS_MAX + 1);
        assert_eq!(window.total(), 100);
    }

    #[test]
    fn a_latency_beyond_the_scale_is_not_lost() {
        let mut window = Window::default();
        window.record(Duration::from_secs(3600), MS, 0);
        assert_eq!(window.latency.len(), 1);
    }
}
