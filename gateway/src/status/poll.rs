//! Pollers: one set of tasks per backend that keep the fleet's knowledge young.
//!
//! - The *sweep* lists every page of a backend. It counts only when it is complete; an incomplete one changes
//!   no age. What it does not show is not removed: silence is not proof.
//! - The *watch* asks for instances in transition by id, twenty at a time, each with its own growing interval:
//!   at once when it is first watched, then after 50 ms, 100 ms, up to the configured interval. One call is
//!   under way at a time, so that many waiting instances share a call instead of queueing one each.
//! - The *market* loop reads zones, account usage and prices.
//!
//! - The *probe* reads one page when a breaker waits for a read and this gateway may have none to send.
//!
//! A poller never retries: its next turn is the retry.
//!
//! Where several gateways share a store, one of them sweeps a backend and reads its market (`share`); close watches
//! stay with the gateway that drives the operation. What silence proves is said in `proof`.

mod proof;
mod share;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_adapters::{AdapterError, Cursor, DESCRIBE_IDS_MAX, Page, PriceQuery};
use meridian_ledger::shared::Post;
use meridian_model::{
    bugs,
    ids::{BackendId, CloudId},
    instance::CapacityType,
    status::Observed,
    time::Time,
};
use meridian_policies::budget::{Class, Purpose};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::proof::{Sight, Silence};
use super::{
    board::{self, MarketData},
    fleet::Fleet,
    judged::Judged,
    lead::{Leadership, Role},
    sweep::{Lack, SweepReport},
};
use crate::{clock::Clock, operation::Refusal, regions::Backend, status::render::Sighting, views};

/// Pages of one sweep: 20 a page (the smallest vendor page) times this is more than any account's quota.
const SWEEP_PAGES_MAX: usize = 20_000;

/// Instances known at a backend from which a sweep that misses most of them renews nothing.
const MASS_SILENCE: usize = 3;

/// Wait between a failed sweep and the next.
const FAILED_SWEEP_WAIT: Duration = Duration::from_secs(1);

/// Failed sweeps in a row from which placement avoids the backend, before its breaker opens: one may be a slip.
const FAILURES_AVOIDED: u32 = 2;

/// First interval of the watch of one instance.
const WATCH_INTERVAL_FIRST: Duration = Duration::from_millis(50);

/// Ended instances on their way to the driver; when it is full the next sweep finds them again.
const ENDED_QUEUE: usize = 1024;

/// Between two looks at whether a breaker waits for a read. A breaker's pauses are five seconds and more.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for the lead to be given up when the process ends.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// Sweeps and the market serve every tenant.
const SWEEP: Purpose = Purpose::gateway(Class::Read);

/// Until a probe is answered no delete leaves.
const PROBE: Purpose = Purpose::gateway(Class::Delete);

/// Settings of the pollers.
#[derive(Debug, Clone, Copy)]
pub struct PollSettings {
    /// Time between the starts of two sweeps.
    pub sweep_interval: Duration,
    /// Longest interval of the watch of one instance.
    pub watch_interval: Duration,
    /// Time between two readings of zones and usage.
    pub market_interval: Duration,
    /// Age at which a region's data is stale.
    pub stale_after: Duration,
    /// Age at which a region that fails counts as unreachable.
    pub unreachable_after: Duration,
}

/// What a watched instance's backend said last.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// Not asked yet.
    Unasked,
    /// Shown.
    Seen(Box<Sighting>),
    /// A complete answer did not show it, at this time.
    Missing(Time),
}

#[derive(Debug)]
struct Watch {
    tell: watch::Sender<Watched>,
    /// The most urgent of what it is watched for.
    class: Class,
    due: Instant,
    interval: Duration,
}

/// How the sweeps of a backend go.
#[derive(Debug, Clone, Copy, Default)]
struct Sweeps {
    /// Start of the last complete one.
    observed_at: Option<Time>,
    /// The last one failed; since when they do.
    failing_since: Option<Time>,
    /// The last complete one missed so many known instances that its silence proves nothing.
    distrusted: bool,
    /// Failures in a row.
    failures: u32,
    /// Freshness as last marked in the fleet.
    marked_stale: bool,
    /// This gateway follows and could not read the board lately: nobody tells whether the sweeps still go well.
    unread: bool,
    /// Complete sweeps, the leader's or our own.
    round: u64,
}

/// What a sweep that reached the last page showed.
#[derive(Debug, Default)]
struct Swept {
    /// Instances with a name of ours.
    ours: Vec<Observed>,
    /// Every id shown, of foreign instances too.
    listed: BTreeSet<CloudId>,
    /// The vendor's total shrank between two pages.
    hides: bool,
}

/// The poller of one backend.
#[derive(Debug)]
pub struct Poller {
    backend: Arc<Backend>,
    fleet: Arc<Fleet>,
    pub(super) clock: Clock,
    settings: PollSettings,
    watches: Mutex<HashMap<CloudId, Watch>>,
    wake: Notify,
    sweeps: Mutex<Sweeps>,
    canaries: Mutex<Vec<CloudId>>,
    ended: mpsc::Sender<Ended>,
    reports: Option<mpsc::Sender<SweepReport>>,
    pub(super) leadership: Option<Leadership>,
    pub(super) judged: Judged,
}

/// An instance that was seen to have ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its record.
    pub record: Arc<meridian_model::operation::OperationRecord>,
    /// The sight.
    pub observed: Observed,
}

/// A channel for instances that ended by themselves.
#[must_use]
pub fn ended_channel() -> (mpsc::Sender<Ended>, mpsc::Receiver<Ended>) {
    mpsc::channel(ENDED_QUEUE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a panic between two complete states; the data is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    /// A poller that does nothing until [`Self::run`] is awaited.
    #[must_use]
    pub fn new(
        backend: Arc<Backend>,
        fleet: Arc<Fleet>,
        clock: Clock,
        settings: PollSettings,
        ended: mpsc::Sender<Ended>,
    ) -> Self {
        Self {
            backend,
            fleet,
            clock,
            settings,
            watches: Mutex::default(),
            wake: Notify::new(),
            sweeps: Mutex::default(),
            canaries: Mutex::default(),
            ended,
            reports: None,
            leadership: None,
            judged: Judged::default(),
        }
    }

    /// The same poller, which shares its sweeps with other gateways.
    #[must_use]
    pub fn sharing(self, leadership: Leadership) -> Self {
        Self { leadership: Some(leadership), ..self }
    }

    /// The same poller, which reports each complete sweep.
    #[must_use]
    pub fn reporting(self, reports: mpsc::Sender<SweepReport>) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// The backend it polls.
    #[must_use]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Polls until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let all = async {
            tokio::join!(self.sweep_loop(), self.watch_loop(), self.market_loop(), self.age_loop(), self.probe_loop());
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = all => {}
        }
        if let Some(leadership) = &self.leadership {
            // Best effort: the lease ends anyway.
            let _ = tokio::time::timeout(RESIGN_TIMEOUT, leadership.resign()).await;
        }
    }

    /// Watches an instance closely until the receiver is dropped. Watches of several tenants share a call, which is the
    /// gateway's own and as urgent as the most urgent of them.
    #[must_use]
    pub fn watch(&self, id: &CloudId, class: Class) -> watch::Receiver<Watched> {
        let mut watches = lock(&self.watches);
        let now = Instant::now();
        let entry = watches.entry(id.clone()).or_insert_with(|| Watch {
            tell: watch::Sender::new(Watched::Unasked),
            class,
            due: now,
            interval: WATCH_INTERVAL_FIRST,
        });
        entry.class = entry.class.min(class);
        entry.due = now;
        entry.interval = WATCH_INTERVAL_FIRST;
        let receiver = entry.tell.subscribe();
        drop(watches);
        self.wake.notify_one();
        receiver
    }

    /// The age of this backend's data.
    #[must_use]
    pub fn freshness(&self) -> views::Freshness {
        let sweeps = *lock(&self.sweeps);
        let now = self.clock.now();
        let age = sweeps.observed_at.map(|at| now.since(at));
        let younger_than = |limit| age.is_some_and(|a| a <= limit);
        let state = match sweeps.failing_since {
            _ if younger_than(self.settings.stale_after) => views::FreshnessState::Fresh,
            Some(_) if !younger_than(self.settings.unreachable_after) => views::FreshnessState::Unreachable,
            _ => views::FreshnessState::Stale,
        };
        views::Freshness {
            region: self.backend.region.clone(),
            backend: self.backend.id.clone(),
            observed_at: sweeps.observed_at,
            age_ms: age.map(|a| u64::try_from(a.as_millis()).unwrap_or(u64::MAX)),
            source: "poll",
            state,
        }
    }

    async fn sweep_loop(&self) {
        match &self.leadership {
            None => loop {
                let (_, next) = self.sweep_once().await;
                tokio::time::sleep_until(next).await;
            },
            Some(leadership) => {
                tokio::join!(leadership.keep(), self.share_sweeps(leadership));
            }
        }
    }

    /// Sweeps once. Returns what was shown, if it was complete, and when the next sweep is due.
    async fn sweep_once(&self) -> (Option<Vec<Observed>>, Instant) {
        let next = Instant::now() + self.settings.sweep_interval;
        let started = self.clock.now();
        match self.sweep(started).await {
            Ok(swept) => {
                let shown = self.leadership.is_some().then(|| swept.ours.clone());
                self.swept(started, swept);
                (shown, next)
            }
            Err(error) => {
                self.sweep_failed(started, &error);
                // Sooner than usual: whether this was a slip or an outage decides where creates go.
                (None, Instant::now() + self.settings.sweep_interval.min(FAILED_SWEEP_WAIT))
            }
        }
    }

    fn sweep_failed(&self, started: Time, error: &AdapterError) {
        let mut sweeps = lock(&self.sweeps);
        sweeps.failing_since.get_or_insert(started);
        sweeps.failures = sweeps.failures.saturating_add(1);
        self.backend.metrics().sweep(self.backend.id.as_str(), "failed");
        tracing::debug!(backend = %self.backend.id, %error, "sweep failed");
    }

    /// The last two sweeps failed: creates sent there now would likely end in doubt.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        lock(&self.sweeps).failures >= FAILURES_AVOIDED
    }

    /// Lists every page.
    async fn sweep(&self, started: Time) -> Result<Swept, AdapterError> {
        let mut from: Option<Cursor> = None;
        let mut swept = Swept::default();
        let mut last_total = 0;
        for _ in 0..SWEEP_PAGES_MAX {
            let Page { items, next, total } = self.backend.list(from, &SWEEP).await?;
            // Where pages are counted by offset, a delete between two of them hides an instance.
            swept.hides |= total.is_some_and(|total| total < last_total);
            last_total = total.unwrap_or(0);
            for observed in items {
                self.sight(started, &observed);
                swept.listed.extend(observed.id.clone());
                if self.backend.is_ours(&observed.name) {
                    swept.ours.push(observed);
                }
            }
            match next {
                Some(cursor) => from = Some(cursor),
                None => return Ok(swept),
            }
        }
        Err(AdapterError::new(
            meridian_model::error::FaultKind::Unexpected,
            meridian_model::error::Effect::NotApplied,
            "meridian.endless-list",
            "the list did not end",
        ))
    }

    fn swept(&self, started: Time, Swept { ours, listed, hides }: Swept) {
        // Those that ran before it began: what came while it ran may stand on a page it had passed.
        let mut known = self.fleet.expected(&self.backend.id);
        known.retain(|record| record.ran_at.is_some_and(|ran| ran < started));
        let is_listed = |id: &CloudId| listed.contains(id);
        let seen = known.iter().filter(|r| r.open_attempt().and_then(|a| a.cloud_id.as_ref()).is_some_and(is_listed));
        let seen = seen.count();
        // Something of ours was shown, or a list that may not be read is refused and not empty.
        let may_list = seen > 0 || !ours.is_empty() || !self.backend.capability.denies_silently;
        self.judge(started, Lack { seen, known: known.len(), may_list }, hides);
        self.keep_canaries(&ours);
        let may_list = may_list || !listed.is_empty() || bugs::planted(bugs::EMPTY_BELIEVED);
        self.report(SweepReport {
            backend: self.backend.id.clone(),
            started_at: started,
            shown: ours,
            listed,
            trusted: may_list && self.trusts_sweeps(),
            leads: self.leadership.as_ref().is_none_or(Leadership::leads),
            term: self.term().unwrap_or(0),
        });
    }

    /// Hands a complete sweep to the reconciler. What a full queue refuses, the next sweep tells again.
    fn report(&self, report: SweepReport) {
        if let Some(reports) = &self.reports
            && reports.try_send(report).is_err()
        {
            self.backend.metrics().sweep(self.backend.id.as_str(), "unreported");
        }
    }

    /// Notes a complete sweep, and whether its silence means anything.
    fn judge(&self, started: Time, lack: Lack, hides: bool) {
        let mut sweeps = lock(&self.sweeps);
        let Lack { seen, known, .. } = lack;
        let lacks_many = lack.is_silence();
        sweeps.distrusted = (lacks_many || hides) && !bugs::planted(bugs::EMPTY_BELIEVED);
        if lacks_many {
            tracing::warn!(backend = %self.backend.id, seen, known, "sweep shows far fewer instances than known; its silence is not believed");
        }
        let outcome = if sweeps.distrusted { "distrusted" } else { "complete" };
        self.backend.metrics().sweep(self.backend.id.as_str(), outcome);
        sweeps.failing_since = None;
        sweeps.failures = 0;
        sweeps.round = sweeps.round.wrapping_add(1);
        // A fleet that is gone at one blow was not seen; two or three may well have been deleted by hand.
        if !(lacks_many && known >= MASS_SILENCE) {
            sweeps.observed_at = Some(started);
        }
    }

    fn sight(&self, at: Time, observed: &Observed) {
        if let Some(record) = self.fleet.sighted(&self.backend.id, at, observed) {
            // A full queue loses nothing: the record still says that it runs, so the next sweep tells again.
            let _ = self.ended.try_send(Ended { record, observed: observed.clone() });
        }
    }

    async fn watch_loop(&self) {
        loop {
            let (due, class) = self.due_ids();
            if due.is_empty() {
                let next = self.next_due();
                tokio::select! {
                    biased;
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(next) => {}
                }
                continue;
            }
            let asked_at = self.clock.now();
            match self.backend.describe(due.clone(), &Purpose::gateway(class)).await {
                Ok(found) => self.tell(&due, asked_at, &found),
                Err(error) => tracing::debug!(backend = %self.backend.id, %error, "watch failed"),
            }
        }
    }

    /// The watched ids whose turn it is, the longest waiting first, and the most urgent class among them; their next turn
    /// is set.
    fn due_ids(&self) -> (Vec<CloudId>, Class) {
        let now = Instant::now();
        let mut watches = lock(&self.watches);
        watches.retain(|_, watch| watch.tell.receiver_count() > 0);
        let mut due: Vec<(Instant, CloudId)> =
            watches.iter().filter(|(_, w)| w.due <= now).map(|(id, w)| (w.due, id.clone())).collect();
        due.sort();
        due.truncate(DESCRIBE_IDS_MAX);
        let mut class = Class::Read;
        for (_, id) in &due {
            if let Some(watch) = watches.get_mut(id) {
                class = class.min(watch.class);
                watch.due = now + watch.interval;
                watch.interval = (watch.interval * 2).min(self.settings.watch_interval);
            }
        }
        (due.into_iter().map(|(_, id)| id).collect(), class)
    }

    fn next_due(&self) -> Instant {
        let idle = Instant::now() + self.settings.watch_interval;
        lock(&self.watches).values().map(|w| w.due).min().unwrap_or(idle).min(idle)
    }

    fn tell(&self, asked: &[CloudId], at: Time, found: &[Observed]) {
        for observed in found {
            self.sight(at, observed);
        }
        let watches = lock(&self.watches);
        for id in asked {
            let Some(watch) = watches.get(id) else { continue };
            let shown = found.iter().find(|o| o.id.as_ref() == Some(id));
            watch.tell.send_replace(match shown {
                Some(observed) => Watched::Seen(Box::new(Sighting { at, observed: observed.clone() })),
                None => Watched::Missing(at),
            });
        }
    }

    async fn market_loop(&self) {
        let mut tick = tokio::time::interval(self.settings.market_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(leadership) = &self.leadership else {
                self.read_market().await;
                continue;
            };
            let mut role = leadership.role();
            let role = role.wait_for(|role| *role != Role::Undecided).await.map_or(Role::Alone, |role| *role);
            if role != Role::Follower {
                self.read_market().await;
            }
            if let Role::Leader(term) = role {
                let data: MarketData = self.backend.market.data();
                let changed = board::market_entry(&data, self.clock.now()).into_iter().collect();
                leadership.post(Post { term, changed, head: None }).await;
            }
        }
    }

    async fn read_market(&self) {
        if let Ok(Some(zones)) = self.backend.zones(&SWEEP).await {
            self.backend.market.set_zones(&zones);
        }
        if let Ok(Some(usage)) = self.backend.usage(&SWEEP).await {
            self.backend.market.set_usage(usage);
        }
        self.read_prices().await;
    }

    /// Asks for prices that are unknown or old, one after the other, within the backend's pace.
    async fn read_prices(&self) {
        for (zone, shape) in self.backend.stale_prices(self.clock.now()) {
            let query = PriceQuery { zone: zone.clone(), shape: shape.clone(), capacity: CapacityType::OnDemand };
            match self.backend.price(query, &SWEEP).await {
                Ok(Some(price)) => self.backend.market.set_price(&zone, &shape, price, self.clock.now()),
                // No such call, or not for this size: the price book answers.
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(backend = %self.backend.id, %error, "price query failed");
                    if error.kind.is_region_fault() {
                        return;
                    }
                }
            }
        }
    }

    /// Sends a read when a breaker waits for one. Writes are never probes, and a gateway that follows another's sweeps
    /// may have no read of its own for hours: its deletes would wait for ever behind a breaker that nothing closes.
    async fn probe_loop(&self) {
        let mut tick = tokio::time::interval(PROBE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.backend.breakers.awaits_probe() {
                // What it shows does not matter: the breakers hear whether it is answered.
                let _ = self.backend.list(None, &PROBE).await;
            }
        }
    }

    /// Marks the instances of this backend stale while its data is, and fresh again after.
    async fn age_loop(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            let freshness = self.freshness();
            let (id, metrics) = (self.backend.id.as_str(), self.backend.metrics());
            metrics.data_age(id, Duration::from_millis(freshness.age_ms.unwrap_or(u64::MAX)));
            metrics.breakers(id, self.backend.breakers.state(false), self.backend.breakers.state(true));
            let stale = freshness.state != views::FreshnessState::Fresh;
            let changed = {
                let mut sweeps = lock(&self.sweeps);
                std::mem::replace(&mut sweeps.marked_stale, stale) != stale
            };
            if stale || changed {
                // While it lasts also what is new or was shown alone meanwhile.
                self.fleet.mark_stale(&self.backend.id, stale);
            }
            if changed {
                tracing::info!(backend = %self.backend.id, stale, "freshness of the region's data changed");
            }
        }
    }
}

/// All pollers by backend.
#[derive(Debug, Clone, Default)]
pub struct Pollers(Arc<HashMap<BackendId, Arc<Poller>>>);

impl Pollers {
    /// The given pollers.
    #[must_use]
    pub fn new(pollers: impl IntoIterator<Item = Arc<Poller>>) -> Self {
        Self(Arc::new(pollers.into_iter().map(|p| (p.backend.id.clone(), p)).collect()))
    }

    /// The poller of a backend.
    ///
    /// # Errors
    /// A refusal when the configuration has no such backend any more.
    pub fn of(&self, backend: &BackendId) -> Result<&Arc<Poller>, Refusal> {
        self.0.get(backend).ok_or_else(|| Refusal::internal(format!("backend {backend} is not configured")))
    }

    /// All of them, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<&Arc<Poller>> {
        let mut all: Vec<_> = self.0.values().collect();
        all.sort_by(|a, b| a.backend.id.cmp(&b.backend.id));
        all
    }
}
