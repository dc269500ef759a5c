//! Our own limits towards a vendor, so that it never has to throttle us: the turn of each call in its lane of the
//! budget and its place among the calls under way (`regions::budget`). They stand outside the breaker, because waiting for our own
//! turn says nothing about the region. This layer is the last that knows for whom a call is made.
//!
//! A create takes its turn before its attempt is journalled ([`Pace::create_turn`]), not in the layer: what is
//! journalled must leave within two seconds (RELIABILITY 2.3). A create without a turn (sent again while its attempt is
//! in doubt, or repeated by `regions::retry`) does not wait either; its lane is charged for it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use meridian_adapters::{AdapterError, Call, Reply, VendorAction};
use meridian_model::{
    error::FaultKind,
    ids::{AccountName, RegionId},
};
use meridian_policies::budget::{Answer, CallRate, Purpose};
use tower::{Layer, Service};

use super::{
    attempt::CallFuture,
    budget::{Budget, LaneKey, Left, Permit, VendorLane},
};

/// Part of the vendor's published rate that we use, in thousandths; the rest is for others on the same account.
const PUBLISHED_PART: u64 = 800;

/// The verb whose turn the driver takes.
const CREATE: &str = "create";

/// A call, and for whom and what it is made. Below the pace only the call is left: an adapter never sees a tenant.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The call.
    pub call: Call,
    /// Whom it is counted for.
    pub purpose: Purpose,
    /// The turn that was taken for it.
    pub turn: Option<Arc<Permit>>,
}

/// A create's turn and its place among the creates under way, which it holds until the answer is in.
#[derive(Debug)]
pub struct CreateTurn {
    permit: Option<Arc<Permit>>,
}

impl CreateTurn {
    pub(super) fn permit(&self) -> Option<Arc<Permit>> {
        self.permit.clone()
    }
}

/// Turns and calls under way of one backend.
#[derive(Debug)]
pub struct Pace {
    lanes: BTreeMap<&'static str, Arc<VendorLane>>,
}

/// Where a backend's calls are counted.
#[derive(Debug)]
pub struct PaceParts<'a> {
    /// The operator's name of the vendor account.
    pub account: &'a AccountName,
    /// The vendor's region.
    pub region: &'a RegionId,
    /// What the vendor counts together.
    pub actions: &'a [VendorAction],
    /// Calls a second and action; a part of what the vendor publishes when nothing is set.
    pub calls_per_second: Option<u32>,
}

impl Pace {
    /// The lanes of a backend's actions.
    #[must_use]
    pub fn new(parts: &PaceParts<'_>, budget: &Budget) -> Self {
        let mut lanes = BTreeMap::new();
        for action in parts.actions {
            let published = CallRate::per_minute(action.calls_per_minute).part(PUBLISHED_PART);
            let ceiling = parts.calls_per_second.map_or(published, CallRate::per_second);
            let (account, region) = (parts.account.clone(), parts.region.clone());
            let lane = budget.lane(LaneKey { account, region, action: action.name }, ceiling);
            lanes.extend(action.verbs.iter().map(|verb| (*verb, Arc::clone(&lane))));
        }
        Self { lanes }
    }

    /// Waits for the turn of a create and for its place among those under way.
    ///
    /// # Errors
    /// The turn would come too late; nothing was sent.
    pub async fn create_turn(&self, purpose: &Purpose) -> Result<CreateTurn, AdapterError> {
        Ok(CreateTurn { permit: self.turn(CREATE, purpose).await?.map(Arc::new) })
    }

    /// Waits for the turn of one call of a verb and for its place, which it has until the turn is dropped; none for a verb that sends nothing.
    ///
    /// # Errors
    /// The turn would come too late; nothing was sent.
    pub async fn turn(&self, verb: &'static str, purpose: &Purpose) -> Result<Option<Permit>, AdapterError> {
        match self.lanes.get(verb) {
            Some(lane) => lane.turn(purpose).await.map(Some),
            None => Ok(None),
        }
    }

    /// How much longer creates are held back because the vendor asked for it.
    #[must_use]
    pub fn throttled_for(&self) -> Option<Duration> {
        self.lanes.get(CREATE)?.held_for()
    }

    /// The lanes, each once, in the order of their actions.
    #[must_use]
    pub fn lanes(&self) -> Vec<&Arc<VendorLane>> {
        let lanes: BTreeMap<_, _> = self.lanes.values().map(|lane| (lane.key().action, lane)).collect();
        lanes.into_values().collect()
    }

    /// A call leaves: by the turn that was taken for it, or, where that is not to be waited for, without.
    fn leaves(&self, verb: &'static str, purpose: &Purpose, turn: Option<&Permit>) -> Option<Left> {
        match turn {
            Some(turn) => Some(turn.leave()),
            None => self.lanes.get(verb).map(|lane| lane.charge(purpose)),
        }
    }
}

/// Makes calls wait for their turn.
#[derive(Debug, Clone)]
pub struct Paced<S> {
    inner: S,
    pace: Arc<Pace>,
}

/// Layer of [`Paced`].
#[derive(Debug, Clone)]
pub struct PaceLayer(pub Arc<Pace>);

impl<S> Layer<S> for PaceLayer {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, pace: Arc::clone(&self.0) }
    }
}

impl<S> Service<Envelope> for Paced<S>
where
    S: Service<Call, Response = Reply, Error = AdapterError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = AdapterError;
    type Future = CallFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, Envelope { call, purpose, turn }: Envelope) -> CallFuture {
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let pace = Arc::clone(&self.pace);
        Box::pin(async move {
            let verb = call.request.verb();
            let (left, _held) = if verb == CREATE {
                (pace.leaves(verb, &purpose, turn.as_deref()), None)
            } else {
                let turn = pace.turn(verb, &purpose).await?;
                (turn.as_ref().map(Permit::leave), turn)
            };
            let result = ready.call(call).await;
            if let Some(left) = left {
                match &result {
                    Ok(_) => left.answered(Answer::Accepted),
                    Err(error) => match error.kind {
                        FaultKind::Throttled => left.answered(Answer::Throttled(error.retry_after)),
                        FaultKind::BreakerOpen => left.never(),
                        // Nobody knows whether the vendor counted it.
                        kind if kind.is_region_fault() => {}
                        _ => left.answered(Answer::Accepted),
                    },
                }
            }
            result
        })
    }
}

#[cfg(test)]
mod tests;
