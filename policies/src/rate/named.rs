//! Named limits of a tenant: which of them a request counts against, and what it costs there.
//!
//! A limit is per tenant or per principal of it, for some classes of routes, each with a cost. A request is let through
//! when every limit that counts it has enough; what one refuses costs nothing at the others. A *shadow* limit is counted
//! like any other and never refuses: what it would have refused is told, so that a limit can be tried before it bites.
//!
//! Pure: the buckets are the caller's, and it says what each of them answered.

use std::time::Duration;

use super::{Limit, Take};

/// What a route does, as limits count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteClass {
    /// Reads one resource.
    Read,
    /// Reads many.
    List,
    /// Makes something.
    Create,
    /// Removes something.
    Delete,
    /// Changes what is declared: tenants, keys.
    Admin,
}

impl RouteClass {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::List, Self::Create, Self::Delete, Self::Admin];

    /// Its word in configurations and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }
}

/// Whose requests one bucket counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// The tenant's, all together.
    Tenant,
    /// Each principal's of the tenant.
    Principal,
}

/// Tokens that a request of each class takes; none where the limit does not count the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Costs([u32; RouteClass::ALL.len()]);

impl Costs {
    /// The same for every class.
    #[must_use]
    pub const fn all(cost: u32) -> Self {
        Self([cost; RouteClass::ALL.len()])
    }

    /// With another cost of one class; 0 leaves it out.
    #[must_use]
    pub fn with(mut self, class: RouteClass, cost: u32) -> Self {
        if let Some(slot) = self.0.get_mut(class as usize) {
            *slot = cost;
        }
        self
    }

    /// What a request costs; `None` when it is not counted.
    #[must_use]
    pub fn of(&self, class: RouteClass) -> Option<u32> {
        self.0.get(class as usize).copied().filter(|cost| *cost > 0)
    }

    /// The dearest.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.0.into_iter().max().unwrap_or_default()
    }
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<N> {
    /// Its name in headers, refusals, metrics and configuration.
    pub name: N,
    /// Whose requests one bucket counts.
    pub per: Per,
    /// What they cost.
    pub costs: Costs,
    /// How much may be spent.
    pub limit: Limit,
    /// Counts and never refuses.
    pub shadow: bool,
}

/// How a limit stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which limit.
    pub which: usize,
    /// Whole tokens left.
    pub remaining: u32,
    /// Until it is full again, or, of the one that refused, until the same request would be let through.
    pub after: Duration,
    /// Requests like this one that are left.
    left: u32,
}

/// What all limits together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The limit that is closest to exhaustion, or the one that refused; none when no limit counts the request.
    pub closest: Option<Standing>,
    /// The request is refused.
    pub refused: bool,
}

/// Gathers what the buckets of a request answer, one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally(Verdict);

impl Tally {
    /// Takes in the answer of one limit's bucket. True when the request is refused: then nothing more is to be asked, and
    /// what the others gave goes back.
    pub fn take<N>(&mut self, which: usize, limit: &Named<N>, cost: u32, take: Take) -> bool {
        let (remaining, after, refused) = match take {
            Take::Taken { remaining, reset_after } => (remaining, reset_after, false),
            Take::Refused { remaining, retry_after } => (remaining, retry_after, true),
            // Limits are checked to hold their dearest request; answered as a whole window rather than believed.
            Take::TooLarge => (0, limit.limit.window(), true),
        };
        if limit.shadow {
            return false;
        }
        let standing = Standing { which, remaining, after, left: remaining / cost.max(1) };
        if refused || self.0.closest.is_none_or(|closest| standing.left < closest.left) {
            self.0.closest = Some(standing);
        }
        self.0.refused = refused;
        refused
    }

    /// What all said.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &'static str, costs: Costs, shadow: bool) -> Named<&'static str> {
        Named { name, per: Per::Tenant, costs, limit: Limit::new(10, Duration::from_secs(60), 10).unwrap(), shadow }
    }

    fn taken(remaining: u32) -> Take {
        Take::Taken { remaining, reset_after: Duration::from_secs(1) }
    }

    #[test]
    fn the_limit_closest_to_exhaustion_is_the_one_that_lets_the_fewest_requests_through() {
        let limits = [named("all", Costs::all(1), false), named("dear", Costs::all(5), false)];
        let mut tally = Tally::default();
        assert!(!tally.take(0, &limits[0], 1, taken(8)));
        assert!(!tally.take(1, &limits[1], 5, taken(30)));
        // Eight more requests fit into the one, six into the other.
        let closest = tally.verdict().closest.unwrap();
        assert_eq!((closest.which, closest.remaining, tally.verdict().refused), (1, 30, false));
    }

    #[test]
    fn a_refusal_is_told_by_its_limit_and_a_shadow_never_refuses() {
        let limits = [named("shadow", Costs::all(1), true), named("all", Costs::all(1), false)];
        let refused = Take::Refused { remaining: 0, retry_after: Duration::from_secs(3) };
        let mut tally = Tally::default();
        assert!(!tally.take(0, &limits[0], 1, refused));
        assert_eq!(tally.verdict(), Verdict::default());
        assert!(tally.take(1, &limits[1], 1, refused));
        let closest = tally.verdict().closest.unwrap();
        assert_eq!((closest.which, closest.after, tally.verdict().refused), (1, Duration::from_secs(3), true));
    }

    #[test]
    fn what_has_no_cost_is_not_counted() {
        let creates = Costs::default().with(RouteClass::Create, 10);
        assert_eq!(
            (creates.of(RouteClass::Create), creates.of(RouteClass::Read), creates.most()),
            (Some(10), None, 10)
        );
        assert_eq!(Costs::all(1).with(RouteClass::Delete, 0).of(RouteClass::Delete), None);
    }
}
