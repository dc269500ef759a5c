//! Whose call is next: classes with reserved shares, and within a class a fair queue between payers.
//!
//! Shares. Each call that leaves gives every class its share of a call as credit, and takes a whole one from the class it
//! was of; credit stays within one call of debt and one of savings, so that nobody is punished for having used what
//! nobody else wanted. A class with credit is below its share and goes before those that are not, in the order of the
//! classes; when none has any, the order of the classes decides. Creates and failovers never go while a delete waits,
//! whatever their credit: a delete frees what they wait for, and there are never more deletes than creates were. A read
//! may: looking must not end because a thousand instances are deleted.
//!
//! Fairness. Start-time fair queueing (Goyal, Vin, Cheng 1996): a payer's next call has a start tag, the class serves the
//! lowest and takes its tag as the virtual time; whoever comes anew starts at the virtual time, so that being idle
//! earns nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{CLASSES, Class, Payer, Purpose, Weight};

/// Calls that wait for one lane, in all classes: as many as operations can be open.
pub const QUEUE_MAX: usize = 10_000;

/// Calls of one payer that wait in one class: at a vendor's usual 20 calls a second longer than any wait lasts.
pub const FLOW_MAX: usize = 1000;

/// Virtual time of one call of weight 1.
const COST: u64 = 1_000_000;

/// Credit of one call.
const CALL: i32 = 1000;

/// Names a waiting call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub u64);

/// A call that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    /// Its name.
    pub id: TicketId,
    /// Who it is for.
    pub purpose: Purpose,
    /// When it came.
    pub since: Duration,
    /// After this time it need not be sent any more.
    pub deadline: Duration,
}

/// Why a call may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// [`QUEUE_MAX`] or [`FLOW_MAX`] calls wait already.
    Full,
    /// Its turn would come after its deadline, in about this time.
    Late(Duration),
}

/// The calls of one payer in one class.
#[derive(Debug, Default)]
struct Flow {
    waiting: VecDeque<Waiter>,
    weight: Weight,
    /// Start tag of the next call.
    start: u64,
}

/// The calls of one class.
#[derive(Debug, Default)]
struct Flows {
    flows: BTreeMap<Payer, Flow>,
    /// Payers with waiting calls by the start tag of their next.
    order: BTreeSet<(u64, Payer)>,
    /// Payers without, by the tag up to which they were served; forgotten when the virtual time has passed it.
    served: BTreeSet<(u64, Payer)>,
    now: u64,
    waiting: usize,
    /// Sum of the weights of payers with waiting calls.
    weights: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    classes: [Flows; CLASSES],
    credit: [i32; CLASSES],
}

impl Flows {
    fn push(&mut self, waiter: Waiter, weight: Weight) {
        let payer = waiter.purpose.payer.clone();
        let flow = self.flows.entry(payer.clone()).or_default();
        if flow.waiting.is_empty() {
            self.served.remove(&(flow.start, payer.clone()));
            flow.start = flow.start.max(self.now);
            flow.weight = weight;
            self.weights += u64::from(weight.value());
            self.order.insert((flow.start, payer));
        }
        flow.waiting.push_back(waiter);
        self.waiting += 1;
    }

    fn pop(&mut self) -> Option<Waiter> {
        let (start, payer) = self.order.pop_first()?;
        let flow = self.flows.get_mut(&payer)?;
        let waiter = flow.waiting.pop_front()?;
        self.now = start;
        flow.start = start + COST / u64::from(flow.weight.value());
        self.waiting -= 1;
        self.rest(payer);
        self.forget();
        Some(waiter)
    }

    /// Puts a payer that is in no order where it belongs.
    fn rest(&mut self, payer: Payer) {
        let Some(flow) = self.flows.get(&payer) else { return };
        if flow.waiting.is_empty() {
            self.weights -= u64::from(flow.weight.value());
            self.served.insert((flow.start, payer));
        } else {
            self.order.insert((flow.start, payer));
        }
    }

    fn forget(&mut self) {
        if self.order.is_empty() {
            // Nobody waits: whoever comes next starts a new count.
            *self = Self::default();
            return;
        }
        while let Some((tag, _)) = self.served.first()
            && *tag <= self.now
            && let Some((_, payer)) = self.served.pop_first()
        {
            self.flows.remove(&payer);
        }
    }

    fn cancel(&mut self, payer: &Payer, id: TicketId) -> bool {
        let Some(flow) = self.flows.get_mut(payer) else { return false };
        let Some(at) = flow.waiting.iter().position(|w| w.id == id) else { return false };
        flow.waiting.remove(at);
        self.waiting -= 1;
        if flow.waiting.is_empty() {
            self.order.remove(&(flow.start, payer.clone()));
            self.rest(payer.clone());
            self.forget();
        }
        true
    }

    /// About how many of this class go before a new call of a payer.
    fn ahead(&self, payer: &Payer, weight: Weight) -> usize {
        let own = self.flows.get(payer).map_or(0, |flow| flow.waiting.len());
        let weight = u64::from(weight.value());
        let others = self.weights.saturating_sub(if own > 0 { weight } else { 0 });
        let turns = (own as u64 + 1).saturating_mul(others).div_ceil(weight);
        let fair = usize::try_from(turns).unwrap_or(usize::MAX).saturating_add(own);
        fair.min(self.waiting)
    }
}

/// Whether a class never goes while a delete waits.
const fn yields(class: Class) -> bool {
    matches!(class, Class::Failover | Class::Create)
}

impl Queue {
    /// Calls that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.iter().map(|flows| flows.waiting).sum()
    }

    /// Nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls of a class that wait.
    #[must_use]
    pub fn waiting(&self, class: Class) -> usize {
        self.flows(class).waiting
    }

    /// About how many calls leave before one of this purpose that comes now: of its own class what fairness lets go first,
    /// of the classes before it no more than leaves its class its share; only deletes go before a create or a failover
    /// whatever their number.
    #[must_use]
    pub fn ahead(&self, purpose: &Purpose, weight: Weight) -> usize {
        let class = purpose.class;
        let own = self.flows(class).ahead(&purpose.payer, weight);
        let above = Class::ALL.into_iter().filter(|above| *above < class);
        let (strict, shared): (Vec<Class>, Vec<Class>) =
            above.partition(|above| yields(class) && *above == Class::Delete);
        let waiting = |classes: &[Class]| classes.iter().map(|class| self.waiting(*class)).sum::<usize>();
        let share = usize::try_from(class.share()).unwrap_or(1).max(1);
        let most = (own + 1) * 1000_usize.saturating_sub(share) / share;
        own + waiting(&strict) + waiting(&shared).min(most)
    }

    /// Lets a call wait.
    ///
    /// # Errors
    /// [`Refused::Full`].
    pub fn push(&mut self, waiter: Waiter, weight: Weight) -> Result<(), Refused> {
        let flows = self.flows(waiter.purpose.class);
        let own = flows.flows.get(&waiter.purpose.payer).map_or(0, |flow| flow.waiting.len());
        if self.len() >= QUEUE_MAX || own >= FLOW_MAX {
            return Err(Refused::Full);
        }
        self.flows_mut(waiter.purpose.class).push(waiter, weight);
        Ok(())
    }

    /// The call whose turn it is among the classes that may go, taken out.
    pub fn pop(&mut self, may_go: impl Fn(Class) -> bool) -> Option<Waiter> {
        let class = self.next_class(may_go)?;
        let waiter = self.flows_mut(class).pop()?;
        self.count(class);
        Some(waiter)
    }

    /// Takes out a call that waits no longer; whether it did.
    pub fn cancel(&mut self, purpose: &Purpose, id: TicketId) -> bool {
        self.flows_mut(purpose.class).cancel(&purpose.payer, id)
    }

    fn next_class(&self, may_go: impl Fn(Class) -> bool) -> Option<Class> {
        let deletes_wait = self.waiting(Class::Delete) > 0 && may_go(Class::Delete);
        let goes = |class: &Class| self.waiting(*class) > 0 && !(deletes_wait && yields(*class)) && may_go(*class);
        let below_share = Class::ALL.into_iter().filter(goes).find(|class| self.credit(*class) > 0);
        below_share.or_else(|| Class::ALL.into_iter().find(goes))
    }

    fn count(&mut self, served: Class) {
        for class in Class::ALL {
            if let Some(credit) = self.credit.get_mut(class.index()) {
                let spent = if class == served { CALL } else { 0 };
                *credit = (*credit + class.share() - spent).clamp(-CALL, CALL);
            }
        }
    }

    fn credit(&self, class: Class) -> i32 {
        self.credit.get(class.index()).copied().unwrap_or_default()
    }

    fn flows(&self, class: Class) -> &Flows {
        let [delete, failover, create, read] = &self.classes;
        match class {
            Class::Delete => delete,
            Class::Failover => failover,
            Class::Create => create,
            Class::Read => read,
        }
    }

    fn flows_mut(&mut self, class: Class) -> &mut Flows {
        let [delete, failover, create, read] = &mut self.classes;
        match class {
            Class::Delete => delete,
            Class::Failover => failover,
            Class::Create => create,
            Class::Read => read,
        }
    }
}
