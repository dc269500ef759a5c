//! The vendors' calls as one resource of the process: a lane for each account, region and action, and the task that
//! hands out its turns.
//!
//! What goes next and when is decided in [`meridian_policies::budget`]; here are its state, its clock and its waits. A
//! call that finds its lane idle takes its turn at once and wakes nobody. One that has to wait leaves its name and is
//! told by the lane's own task, which sleeps until the next turn is due; a call that is dropped meanwhile takes its name
//! out again, and a turn that was given to it goes back. Backends of one account and region whose adapters name the
//! same action have one lane.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use meridian_adapters::AdapterError;
use meridian_model::{
    error::{Effect, FaultKind},
    ids::{AccountName, RegionId, TenantId},
};
use meridian_policies::budget::{
    Answer, CLASSES, CallRate, Lane, LaneView, Payer, Purpose, Refused, Spent, TicketId, Turn, Weight,
};
use serde_json::json;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{replicas::Replicas, telemetry::budget::BudgetMetrics, views};

/// Longest wait for a turn; a call that cannot be sent by then is refused as throttled by ourselves.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a vendor counts together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneKey {
    /// The operator's name of the vendor account.
    pub account: AccountName,
    /// The vendor's region.
    pub region: RegionId,
    /// The vendor's name of the action.
    pub action: &'static str,
}

/// Weights of tenants; who is not in it has weight 1.
pub type Weights = BTreeMap<TenantId, Weight>;

/// Every lane of the process. Clones are handles.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lanes: Mutex<BTreeMap<LaneKey, Arc<VendorLane>>>,
    common: Arc<Common>,
}

/// What all lanes have in common.
#[derive(Debug)]
struct Common {
    origin: Instant,
    weights: ArcSwap<Weights>,
    /// Who has a part of the rates; nobody else when it is not set.
    replicas: OnceLock<Replicas>,
    metrics: BudgetMetrics,
}

impl Common {
    /// Time since the origin of the lanes' time.
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn weight(&self, payer: &Payer) -> Weight {
        match payer {
            Payer::Gateway => Weight::default(),
            Payer::Tenant(tenant) => self.weights.load().get(tenant).copied().unwrap_or_default(),
        }
    }

    fn replicas(&self) -> u32 {
        self.replicas.get().map_or(1, Replicas::count)
    }
}

impl Budget {
    /// No lanes yet.
    #[must_use]
    pub fn new(weights: Weights, metrics: BudgetMetrics) -> Self {
        let common = Common {
            origin: Instant::now(),
            weights: ArcSwap::from_pointee(weights),
            replicas: OnceLock::new(),
            metrics,
        };
        Self(Arc::new(Inner { lanes: Mutex::default(), common: Arc::new(common) }))
    }

    /// The lane of a key, whose vendor allows so many calls. Of two backends that name different ceilings for one lane
    /// the lower one holds: it is the same limit.
    #[must_use]
    pub fn lane(&self, key: LaneKey, ceiling: CallRate) -> Arc<VendorLane> {
        let mut lanes = lock(&self.0.lanes);
        if let Some(lane) = lanes.get(&key) {
            lane.lower(ceiling);
            return Arc::clone(lane);
        }
        let lane = Arc::new(VendorLane::new(key.clone(), ceiling, Arc::clone(&self.0.common)));
        lanes.insert(key, Arc::clone(&lane));
        lane
    }

    /// Divides every rate among the living gateways from now on; a second call changes nothing.
    pub fn share_among(&self, replicas: Replicas) {
        let _ = self.0.common.replicas.set(replicas);
    }

    /// Other weights of tenants, for calls that come from now on.
    pub fn set_weights(&self, weights: Weights) {
        self.0.common.weights.store(Arc::new(weights));
    }

    /// Every lane in the order of the keys.
    #[must_use]
    pub fn lanes(&self) -> Vec<Arc<VendorLane>> {
        lock(&self.0.lanes).values().map(Arc::clone).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a panic between two complete states; the data is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One vendor account's calls of one action in one region.
#[derive(Debug)]
pub struct VendorLane {
    key: LaneKey,
    state: Mutex<State>,
    wake: Arc<Notify>,
    common: Arc<Common>,
    /// Hands out turns; started with the first call that waits, so that a lane can be made outside a runtime.
    owner: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Debug)]
struct State {
    lane: Lane,
    /// The whole rate, of all gateways.
    whole: CallRate,
    /// By how many it is divided now.
    parts: u32,
    told: HashMap<TicketId, oneshot::Sender<()>>,
}

impl State {
    fn share(&mut self, parts: u32, now: Duration) {
        if parts != self.parts {
            self.parts = parts;
            self.lane.set_ceiling(part_of(self.whole, parts), now);
        }
    }

    /// Tells every call whose turn it is.
    fn grant(&mut self, now: Duration, metrics: &BudgetMetrics, key: &LaneKey) {
        while let Some(waiter) = self.lane.grant(now) {
            // Who is gone without having taken its name out drops its end only.
            if self.told.remove(&waiter.id).is_some_and(|tell| tell.send(()).is_ok()) {
                metrics.left(key, waiter.purpose.class, now.saturating_sub(waiter.since));
            } else {
                self.lane.give_back();
            }
        }
    }
}

fn part_of(whole: CallRate, parts: u32) -> CallRate {
    whole.part(1000 / u64::from(parts.max(1)))
}

/// A call's turn. Dropped before its call left, the turn goes to somebody else.
#[derive(Debug)]
pub struct Permit {
    lane: Arc<VendorLane>,
    used: AtomicBool,
}

impl Permit {
    /// The call leaves now.
    #[must_use]
    pub fn leave(&self) -> Left {
        self.used.store(true, Ordering::Relaxed);
        Left { lane: Arc::clone(&self.lane), at: self.lane.common.now() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.used.load(Ordering::Relaxed) {
            lock(&self.lane.state).lane.give_back();
            self.lane.wake.notify_one();
        }
    }
}

/// A call that left: its answer tells how fast others may.
#[derive(Debug)]
pub struct Left {
    lane: Arc<VendorLane>,
    at: Duration,
}

impl Left {
    /// It did not leave after all.
    pub fn never(self) {
        lock(&self.lane.state).lane.give_back();
        self.lane.wake.notify_one();
    }

    /// The vendor answered.
    pub fn answered(self, answer: Answer) {
        let lane = &self.lane;
        let now = lane.common.now();
        lock(&lane.state).lane.answered(answer, self.at, now);
        if let Answer::Throttled(_) = answer {
            lane.common.metrics.throttled(&lane.key);
        }
    }
}

/// A call that waits: dropped, it is taken out.
struct Waiting<'l> {
    lane: &'l Arc<VendorLane>,
    purpose: &'l Purpose,
    id: TicketId,
    told: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let mut state = lock(&self.lane.state);
        if state.told.remove(&self.id).is_some() {
            state.lane.cancel(self.purpose, self.id);
        } else {
            // It was told, and did not hear it any more.
            state.lane.give_back();
        }
        drop(state);
        self.lane.wake.notify_one();
    }
}

impl VendorLane {
    fn new(key: LaneKey, ceiling: CallRate, common: Arc<Common>) -> Self {
        let lane = Lane::new(ceiling, common.now());
        let state = State { lane, whole: ceiling, parts: 1, told: HashMap::new() };
        Self { key, state: Mutex::new(state), wake: Arc::default(), common, owner: Mutex::default() }
    }

    /// What it counts.
    #[must_use]
    pub const fn key(&self) -> &LaneKey {
        &self.key
    }

    fn lower(&self, ceiling: CallRate) {
        let mut state = lock(&self.state);
        if ceiling < state.whole {
            state.whole = ceiling;
            let part = part_of(ceiling, state.parts);
            state.lane.set_ceiling(part, self.common.now());
        }
    }

    /// Waits for the turn of one call, at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// The turn would come too late, or too many wait; nothing was sent.
    ///
    /// # Cancel safety
    /// A call that is dropped has no turn.
    pub async fn turn(self: &Arc<Self>, purpose: &Purpose) -> Result<Permit, AdapterError> {
        let deadline = Instant::now() + WAIT_MAX;
        let weight = self.common.weight(&purpose.payer);
        let (mut heard, mut waiting) = {
            let mut state = lock(&self.state);
            let now = self.common.now();
            state.share(self.common.replicas(), now);
            match state.lane.ask(purpose, weight, now + WAIT_MAX, now) {
                Ok(Turn::Now) => {
                    drop(state);
                    self.common.metrics.left(&self.key, purpose.class, Duration::ZERO);
                    return Ok(self.permit());
                }
                Ok(Turn::Waits(id)) => {
                    let (tell, heard) = oneshot::channel();
                    state.told.insert(id, tell);
                    (heard, Waiting { lane: self, purpose, id, told: false })
                }
                Err(refused) => {
                    drop(state);
                    self.common.metrics.refused(&self.key, purpose.class);
                    return Err(self.refusal(refused));
                }
            }
        };
        self.own();
        self.wake.notify_one();
        tokio::select! {
            biased;
            told = &mut heard => {
                waiting.told = told.is_ok();
                if waiting.told {
                    return Ok(self.permit());
                }
            }
            () = tokio::time::sleep_until(deadline) => {}
        }
        self.common.metrics.refused(&self.key, purpose.class);
        Err(self.refusal(Refused::Late(WAIT_MAX)))
    }

    /// A call that must not wait leaves: others wait the longer.
    #[must_use]
    pub fn charge(self: &Arc<Self>, purpose: &Purpose) -> Left {
        let now = self.common.now();
        lock(&self.state).lane.charge(purpose, now);
        self.common.metrics.left(&self.key, purpose.class, Duration::ZERO);
        Left { lane: Arc::clone(self), at: now }
    }

    /// For how much longer the vendor asked to be left alone.
    #[must_use]
    pub fn held_for(&self) -> Option<Duration> {
        lock(&self.state).lane.tap().held_for(self.common.now())
    }

    /// How it stands: this gateway's part.
    #[must_use]
    pub fn view(&self) -> LaneView {
        lock(&self.state).lane.view(self.common.now())
    }

    /// What each payer used of it through this gateway.
    #[must_use]
    pub fn payers(&self) -> Vec<(Payer, Spent)> {
        lock(&self.state).lane.payers().map(|(payer, spent)| (payer.clone(), *spent)).collect()
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit { lane: Arc::clone(self), used: AtomicBool::new(false) }
    }

    fn refusal(&self, refused: Refused) -> AdapterError {
        let action = self.key.action;
        let (code, message) = match refused {
            Refused::Late(wait) => ("meridian.paced", format!("the next {action} may leave in {} s", wait.as_secs())),
            Refused::Full => ("meridian.queue-full", format!("too many calls of {action} wait already")),
        };
        AdapterError::new(FaultKind::Throttled, Effect::NotApplied, code, message)
    }

    /// Starts the lane's task unless it runs.
    fn own(self: &Arc<Self>) {
        let mut owner = lock(&self.owner);
        if owner.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            let task = hand_out(Arc::downgrade(self), Arc::clone(&self.wake));
            *owner = Some(AbortOnDropHandle::new(tokio::spawn(task)));
        }
    }
}

/// A lane for the regions resource.
#[must_use]
pub fn action_view(lane: &VendorLane) -> views::ActionBudget {
    let LaneView { ceiling, rate, learned, used_per_second, waiting, spent, throttles, refused } = lane.view();
    let two_digits = |calls: f64| (calls * 100.0).round() / 100.0;
    views::ActionBudget {
        action: lane.key().action.to_owned(),
        ceiling: two_digits(ceiling.as_f64()),
        rate: two_digits(rate.as_f64()),
        learned: learned.map(|learned| two_digits(learned.as_f64())),
        used_per_second: two_digits(used_per_second),
        waiting: by_class(waiting.map(|n| n as u64)),
        calls: by_class(spent.calls),
        throttles,
        refused,
    }
}

/// Numbers in the order of the classes.
const fn by_class([delete, failover, create, read]: [u64; CLASSES]) -> views::ByClass {
    views::ByClass { delete, failover, create, read }
}

/// What each tenant used of each lane, as operators see it: every account, region and action with its payers, the
/// largest first.
#[must_use]
pub fn attribution(budget: &Budget) -> serde_json::Value {
    let lanes = budget.lanes();
    let items = lanes.iter().map(|lane| {
        let mut payers = lane.payers();
        let left_out = payers.len().saturating_sub(PAYERS_SHOWN);
        payers.sort_by_key(|(payer, spent)| (Reverse(spent.total()), payer.clone()));
        let payers = payers.iter().take(PAYERS_SHOWN).map(|(payer, spent)| {
            let waited_ms = u64::try_from(spent.waited.as_millis()).unwrap_or(u64::MAX);
            json!({ "payer": payer.to_string(), "calls": by_class(spent.calls), "waitedMs": waited_ms })
        });
        json!({
            "account": lane.key().account,
            "region": lane.key().region,
            "budget": action_view(lane),
            "payers": payers.collect::<Vec<_>>(),
            "payersLeftOut": left_out,
        })
    });
    json!({ "items": items.collect::<Vec<_>>() })
}

/// Payers of a lane that are shown: beyond the largest, sums say enough.
const PAYERS_SHOWN: usize = 1000;

/// Hands out the turns of a lane as they come, until the lane is gone.
async fn hand_out(lane: Weak<VendorLane>, wake: Arc<Notify>) {
    loop {
        let next = {
            let Some(lane) = lane.upgrade() else { return };
            let mut state = lock(&lane.state);
            let now = lane.common.now();
            state.share(lane.common.replicas(), now);
            state.grant(now, &lane.common.metrics, &lane.key);
            state.lane.next_at(now).map(|at| lane.common.origin + at)
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = due => {}
        }
    }
}
