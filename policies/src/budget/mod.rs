//! A vendor's calls as a resource that is scheduled: who may send next, and how fast.
//!
//! Design. A vendor counts calls per account, region and action. For each of these there is one [`Lane`]: a [`Tap`] that
//! says when the next call may leave, and a [`Queue`] that says whose it is.
//! - *Rate.* The tap lets calls out at its rate, at most half a second's worth at once. A throttle answer halves the
//!   rate; it climbs back by 5 % of the ceiling a second (RELIABILITY 3) up to what was learned: between two throttle
//!   answers under load exactly the vendor's rate was accepted, so counting tells it. The level is remembered and tried
//!   anew only after minutes.
//! - *Classes.* Deletes go before all else; what is left is shared so that each class below its reserved share goes
//!   first, in the order of the classes, and nothing is left unused while anybody waits.
//! - *Tenants.* Within a class start-time fair queueing by weight: two tenants that both wait get calls in the ratio of
//!   their weights, but for one call each.
//! - *Others.* Several taps may share a rate ([`Part`]): each lets in a small part by itself, and its owner adds what it
//!   draws from a common bucket for the calls that wait.
//! - *Bounds.* Queues are bounded in all and per tenant; who cannot be served before its deadline is told at once.
//!
//! Time is a `Duration` since an origin of the caller's choice that never goes back. Deliberately absent: the wait
//! itself, and calls under way at once, which are the owner's (`gateway/src/regions`).

mod lane;
mod meter;
mod queue;
mod tap;

use std::fmt;

use meridian_model::ids::TenantId;

pub use self::{
    lane::{Answer, Lane, LaneView, PLACES, Turn},
    meter::{Meter, PAYERS_MAX, Spent},
    queue::{FLOW_MAX, QUEUE_MAX, Queue, Refused, TicketId, Waiter},
    tap::{CallRate, Part, Tap},
};

/// What a call is for; the order is the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Takes something away, or proves that it is gone. It frees what others wait for, and stops costs.
    Delete,
    /// Another attempt after one that failed: somebody already waited for it.
    Failover,
    /// A first attempt.
    Create,
    /// Everything else: sweeps, prices, events.
    Read,
}

/// Number of classes.
pub const CLASSES: usize = 4;

impl Class {
    /// All of them, in the order of precedence.
    pub const ALL: [Self; CLASSES] = [Self::Delete, Self::Failover, Self::Create, Self::Read];

    /// Reserved share in thousandths. Together they are the whole: what a class does not use, others do.
    #[must_use]
    pub const fn share(self) -> i32 {
        match self {
            // Removing an instance takes a call and some looks, and must keep up with any number of creates.
            Self::Delete => 400,
            Self::Failover => 200,
            Self::Create => 200,
            // Enough for a sweep of 4,000 instances in 15 s at 20 calls a second and 100 instances a page.
            Self::Read => 200,
        }
    }

    /// Its word in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Failover => "failover",
            Self::Create => "create",
            Self::Read => "read",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// Who a call is counted for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payer {
    /// The gateway itself: what serves every tenant alike.
    Gateway,
    /// One tenant.
    Tenant(TenantId),
}

impl fmt::Display for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Not the name of a tenant: a name may not hold a dot.
            Self::Gateway => f.write_str(GATEWAY),
            Self::Tenant(tenant) => tenant.fmt(f),
        }
    }
}

/// How the gateway's own calls are named among tenants.
pub const GATEWAY: &str = "meridian.gateway";

/// For whom and for what a call is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Who it is counted for.
    pub payer: Payer,
    /// What it is for.
    pub class: Class,
}

impl Purpose {
    /// A call of the gateway's own.
    #[must_use]
    pub const fn gateway(class: Class) -> Self {
        Self { payer: Payer::Gateway, class }
    }

    /// A call for a tenant.
    #[must_use]
    pub fn tenant(tenant: &TenantId, class: Class) -> Self {
        Self { payer: Payer::Tenant(tenant.clone()), class }
    }
}

/// The part of the vendor's capacity that a payer has beside others; 1 when nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

/// Largest weight: with it one tenant has a thousand times the part of another, beyond which a limit says it better.
pub const WEIGHT_MAX: u16 = 1000;

impl Weight {
    /// A weight within 1 and [`WEIGHT_MAX`]; what is outside becomes the nearest one.
    #[must_use]
    pub const fn new(weight: u16) -> Self {
        match weight {
            0 => Self(1),
            w if w > WEIGHT_MAX => Self(WEIGHT_MAX),
            w => Self(w),
        }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

#[cfg(test)]
mod tests;
