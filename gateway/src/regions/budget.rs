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
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use meridian_adapters::AdapterError;
use meridian_ledger::shared::Shared;
use meridian_model::{
    error::{Effect, FaultKind},
    ids::{AccountName, RegionId, TenantId},
};
use meridian_policies::{
    budget::{Answer, CLASSES, CallRate, Lane, LaneView, Part, Payer, Purpose, Refused, Spent, TicketId, Turn, Weight},
    rate::{Limit, reserve::Grant},
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

/// Part of a rate, in thousandths, that gateways let in by themselves while they share it, divided evenly; the rest goes
/// where calls wait. With it a gateway that is busy alone among two has nine tenths of the rate.
const OWN_PART: u32 = 200;

/// So much more than the rate, in thousandths, all gateways together may send while some have lost the store and others
/// draw all that is common: with the four fifths that are used of a published rate that is what the vendor allows.
const EXCESS_PART: u32 = 250;

/// The common bucket holds this part of a second's worth: with what each gateway may hold, which is half a second's in
/// all, and the fifth that is left of the published rate, a vendor that counts by the second sees no excess.
const COMMON_BURST_DIVISOR: u64 = 4;

/// Longest wait for one answer of the shared store; then each gateway goes on by itself.
const DRAW_TIMEOUT: Duration = Duration::from_millis(500);

/// Time between two draws while the store does not answer, and shortest one while it has nothing.
const DRAW_RETRY: Duration = Duration::from_millis(500);
const DRAW_PAUSE: Duration = Duration::from_millis(5);

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
    others: OnceLock<Others>,
    metrics: BudgetMetrics,
}

/// The gateways beside this one.
#[derive(Debug)]
struct Others {
    replicas: Replicas,
    shared: Arc<dyn Shared>,
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

    /// The part of a rate that a lane lets in by itself, while the others can be drawn from or not.
    fn part(&self, draws: bool) -> Part {
        let of = self.others.get().map_or(1, |others| others.replicas.count());
        match of {
            0 | 1 => Part::WHOLE,
            of if draws => Part { own: OWN_PART / of, of },
            // As if only one of the others still drew: its own part, the whole common one, and this for all the rest.
            of => Part { own: (OWN_PART + EXCESS_PART - OWN_PART / of) / (of - 1), of },
        }
    }
}

impl Budget {
    /// No lanes yet.
    #[must_use]
    pub fn new(metrics: BudgetMetrics) -> Self {
        let common = Common { origin: Instant::now(), weights: ArcSwap::default(), others: OnceLock::new(), metrics };
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

    /// Shares every rate with the living gateways from now on; a second call changes nothing.
    pub fn share_among(&self, replicas: Replicas, shared: Arc<dyn Shared>) {
        let _ = self.0.common.others.set(Others { replicas, shared });
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
    /// Draws from what all gateways share were answered lately.
    draws: bool,
    told: HashMap<TicketId, oneshot::Sender<()>>,
}

impl State {
    /// Tells every call whose turn it is.
    fn grant(&mut self, now: Duration) {
        while let Some(waiter) = self.lane.grant(now) {
            // Who is gone without having taken its name out drops its end only.
            if self.told.remove(&waiter.id).is_none_or(|tell| tell.send(()).is_err()) {
                self.lane.give_back();
                self.lane.ended(waiter.purpose.class);
            }
        }
    }
}

/// A call's turn, and its place among those under way until it is dropped. Dropped before its call left, the turn goes to
/// somebody else.
#[derive(Debug)]
pub struct Permit {
    lane: Arc<VendorLane>,
    purpose: Purpose,
    waited: Duration,
    used: AtomicBool,
}

impl Permit {
    /// The call leaves now.
    #[must_use]
    pub fn leave(&self) -> Left {
        self.used.store(true, Ordering::Relaxed);
        self.lane.leaves(self.purpose.clone(), self.waited)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.lane.state);
        if !self.used.load(Ordering::Relaxed) {
            state.lane.give_back();
        }
        state.lane.ended(self.purpose.class);
        let is_waited_for = state.lane.is_waited_for();
        drop(state);
        if is_waited_for {
            self.lane.wake.notify_one();
        }
    }
}

/// A call that left: its answer tells how fast others may. It is counted for its payer when it ends, however it does.
#[derive(Debug)]
pub struct Left {
    lane: Arc<VendorLane>,
    purpose: Purpose,
    waited: Duration,
    at: Duration,
    did: bool,
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.did {
            let lane = &self.lane;
            lock(&lane.state).lane.left(&self.purpose, self.waited, lane.common.now());
            lane.common.metrics.left(&lane.key, self.purpose.class, self.waited);
        }
    }
}

impl Left {
    /// It did not leave after all.
    pub fn never(mut self) {
        self.did = false;
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
            state.lane.ended(self.purpose.class);
        }
        drop(state);
        self.lane.wake.notify_one();
    }
}

impl VendorLane {
    fn new(key: LaneKey, ceiling: CallRate, common: Arc<Common>) -> Self {
        let lane = Lane::new(ceiling, common.now());
        let state = State { lane, draws: true, told: HashMap::new() };
        Self { key, state: Mutex::new(state), wake: Arc::default(), common, owner: Mutex::default() }
    }

    /// What it counts.
    #[must_use]
    pub const fn key(&self) -> &LaneKey {
        &self.key
    }

    fn lower(&self, ceiling: CallRate) {
        lock(&self.state).lane.lower(ceiling, self.common.now());
    }

    /// Waits for the turn of one call and for its place among those under way, at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// The turn would come too late, or too many wait; nothing was sent.
    ///
    /// # Cancel safety
    /// A call that is dropped has no turn.
    pub async fn turn(self: &Arc<Self>, purpose: &Purpose) -> Result<Permit, AdapterError> {
        let asked = Instant::now();
        let deadline = asked + WAIT_MAX;
        let weight = self.common.weight(&purpose.payer);
        let (mut heard, mut waiting) = {
            let mut state = lock(&self.state);
            let now = self.common.now();
            let part = self.common.part(state.draws);
            state.lane.set_part(part, now);
            match state.lane.ask(purpose, weight, now + WAIT_MAX, now) {
                Ok(Turn::Now) => {
                    let wishes = part.of > 1 && state.lane.wish(now) > 0;
                    drop(state);
                    if wishes {
                        self.own();
                        self.wake.notify_one();
                    }
                    return Ok(self.permit(purpose, Duration::ZERO));
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
                    return Ok(self.permit(purpose, asked.elapsed()));
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
        lock(&self.state).lane.charge(self.common.now());
        self.leaves(purpose.clone(), Duration::ZERO)
    }

    fn leaves(self: &Arc<Self>, purpose: Purpose, waited: Duration) -> Left {
        Left { lane: Arc::clone(self), purpose, waited, at: self.common.now(), did: true }
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

    fn permit(self: &Arc<Self>, purpose: &Purpose, waited: Duration) -> Permit {
        Permit { lane: Arc::clone(self), purpose: purpose.clone(), waited, used: AtomicBool::new(false) }
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

/// A draw under way.
type Drawing = Pin<Box<dyn Future<Output = Option<Grant>> + Send>>;

/// What a lane's task does next.
struct Next {
    /// When the next turn is due.
    at: Option<Duration>,
    /// How much is to be drawn from what all gateways share.
    draw: Option<(Arc<dyn Shared>, Limit, u32)>,
}

impl VendorLane {
    /// Hands out what there is; says what comes next.
    fn hand_out(&self, may_draw: bool) -> Next {
        let mut state = lock(&self.state);
        let now = self.common.now();
        let part = self.common.part(state.draws);
        state.lane.set_part(part, now);
        state.grant(now);
        let want = if part.of > 1 && may_draw { state.lane.wish(now) } else { 0 };
        let drawn = self.common.others.get().filter(|_| want > 0).zip(common_limit(state.lane.tap().rate()));
        let draw = drawn.map(|(others, limit)| (Arc::clone(&others.shared), limit, want));
        Next { at: state.lane.next_at(now), draw }
    }

    /// Takes in the answer to a draw; says when the next may follow.
    fn drawn(&self, answer: Option<Grant>) -> Duration {
        let mut state = lock(&self.state);
        state.draws = answer.is_some();
        match answer {
            Some(grant) => {
                state.lane.drawn(grant.granted);
                let empty = if grant.granted == 0 { grant.next.max(DRAW_PAUSE) } else { Duration::ZERO };
                self.common.now() + empty
            }
            None => self.common.now() + DRAW_RETRY,
        }
    }
}

/// What all gateways draw from: the part of a rate that none of them lets in by itself.
fn common_limit(rate: CallRate) -> Option<Limit> {
    let common = |milli: u64| milli * u64::from(1000 - OWN_PART) / 1000;
    // Thousandths of a call a second are whole calls in a thousand seconds.
    let quota = u32::try_from(common(rate.as_milli())).ok()?;
    let burst = u32::try_from(common(rate.as_milli()) / 1000 / COMMON_BURST_DIVISOR).ok()?;
    Limit::new(quota, Duration::from_secs(1000), burst.max(1)).ok()
}

/// Hands out the turns of a lane as they come, until the lane is gone.
async fn hand_out(lane: Weak<VendorLane>, wake: Arc<Notify>) {
    let mut drawing: Option<Drawing> = None;
    let mut draws_from = Duration::ZERO;
    loop {
        let (next, origin) = {
            let Some(lane) = lane.upgrade() else { return };
            let may_draw = drawing.is_none() && lane.common.now() >= draws_from;
            let next = lane.hand_out(may_draw);
            let name = || format!("vendor/{}/{}/{}", lane.key.account, lane.key.region, lane.key.action);
            if let Some((shared, limit, want)) = next.draw {
                drawing = Some(Box::pin(draw(shared, name(), limit, want)));
            }
            // While calls wait, a draw that may not be made yet is a reason to look again.
            let later = drawing.is_none() && draws_from > lane.common.now();
            (next.at.map(|at| if later { at.min(draws_from) } else { at }), lane.common.origin)
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(origin + at).await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match &mut drawing {
                Some(drawing) => drawing.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = wake.notified() => {}
            answer = answer => {
                drawing = None;
                let Some(lane) = lane.upgrade() else { return };
                draws_from = lane.drawn(answer);
            }
            () = due => {}
        }
    }
}

async fn draw(shared: Arc<dyn Shared>, name: String, limit: Limit, want: u32) -> Option<Grant> {
    match tokio::time::timeout(DRAW_TIMEOUT, shared.draw(&name, limit, want)).await {
        Ok(Ok(grant)) => Some(grant),
        Ok(Err(error)) => {
            tracing::debug!(%error, name, "no calls were drawn");
            None
        }
        Err(_) => None,
    }
}
