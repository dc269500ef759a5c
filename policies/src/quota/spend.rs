//! Money over time: what a project has spent in the present month, and whether a budget holds one instance more.
//!
//! What is charged has a price per hour; the sum over a project is its rate. [`Spend`] adds the rate up, to the second and
//! without rounding anything away: it is advanced whenever the rate changes, in the step that changes it. Whole seconds
//! are what vendors bill; a change counts from the second in which it was journalled.
//!
//! A *hard* budget is kept in one of two ways. `committed` (the default) reckons that everything that runs goes on, the new
//! instance to its deadline at most. A create is refused when that would pass the budget in this month, or in a later one:
//! what runs is paid from each month that it runs in, and a whole month of it, the longest there is, must fit by itself.
//! So neither a month's end nor its turn is a way past the budget, and at the turn the whole new month of what runs on is
//! committed at once. `accrued` refuses from the moment the budget is spent: it lets a tenant spend faster than it could
//! for a whole month, and what runs goes on to cost money after. Neither removes anything.

use std::collections::BTreeMap;

use meridian_model::{error::QuotaShortage, ids::ProjectName, quantity::PricePerHour, quota::BudgetMode, time::Time};
use serde::{Deserialize, Serialize};

use super::{parts::Pots, tree::Tree};
use crate::calendar;

const DAY_S: u64 = 86_400;
/// Seconds of the hour that prices are for.
pub const HOUR_S: u64 = 3600;
/// Greatest rate of a tenant, millionths of the currency unit per hour: what it costs in a month stays below 2^53, where
/// the numbers of a script end to be exact. Two million an hour.
pub const RATE_MAX: u64 = 1 << 41;
/// Seconds of the longest month: what goes on at a rate costs no more in any month to come.
pub const MONTH_MAX_S: u64 = 31 * 86_400;
/// What is short when the present month does not hold a create.
pub const BUDGET: &str = "budget";
/// What is short when a month to come does not.
pub const LATER_BUDGET: &str = "budget of a later month";

/// A month of the calendar, UTC, and a moment in it, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Now.
    pub now: u64,
    /// Months since the year 0.
    pub month: u64,
    /// When it began.
    pub start: u64,
    /// When it ends.
    pub end: u64,
    /// When the month before it began.
    pub before: u64,
}

impl Moment {
    /// The moment of a time. Times before 1970 are its first second.
    #[must_use]
    pub fn of(time: Time) -> Self {
        let now = u64::try_from(time.unix_ms().div_euclid(1000)).unwrap_or_default();
        let (year, month, _) = calendar::date(i64::try_from(now / DAY_S).unwrap_or(i64::MAX));
        let index = u64::try_from(year * 12 + month - 1).unwrap_or_default();
        let (start, end, before) = (month_start(index), month_start(index + 1), month_start(index.saturating_sub(1)));
        Self { now, month: index, start, end, before }
    }

    /// Seconds left of the month.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.end.saturating_sub(self.now)
    }
}

/// When a month began, counted like [`Moment::month`]; those before 1970 then.
#[must_use]
pub fn month_start(month: u64) -> u64 {
    let month = i64::try_from(month.max(1970 * 12)).unwrap_or(i64::MAX);
    u64::try_from(calendar::month_start(month / 12, month % 12 + 1)).unwrap_or_default() * DAY_S
}

/// What a project spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spend {
    /// The month that `spent` is of, as in [`Moment`].
    pub month: u64,
    /// Spent in it up to `since`, millionths of the currency unit.
    pub spent: u64,
    /// What was not a whole millionth yet, in 3600ths of one.
    pub rest: u64,
    /// Up to when that is, seconds since 1970.
    pub since: u64,
    /// Millionths per hour from then on.
    pub rate: u64,
    /// Spent in the month before.
    pub last: u64,
}

impl Spend {
    fn add_up(&mut self, until: u64) {
        let seconds = until.saturating_sub(self.since);
        // Whole hours apart: the products stay exact in a script, too.
        let rest = self.rate.saturating_mul(seconds % HOUR_S).saturating_add(self.rest);
        let hours = self.rate.saturating_mul(seconds / HOUR_S);
        self.spent = self.spent.saturating_add(hours).saturating_add(rest / HOUR_S);
        self.rest = rest % HOUR_S;
        self.since = self.since.max(until);
    }

    /// The same at a later moment. A moment before the last change is that change: clocks of gateways differ.
    #[must_use]
    pub fn at(mut self, moment: &Moment) -> Self {
        if self.month < moment.month {
            if self.month + 1 == moment.month {
                self.add_up(moment.start);
                self.last = self.spent;
            } else {
                let whole = Self { since: moment.before, rate: self.rate, ..Self::default() };
                self.last = whole.added_up(moment.start).spent;
            }
            (self.month, self.spent, self.rest, self.since) = (moment.month, 0, 0, moment.start);
        }
        if self.month == moment.month {
            self.add_up(moment.now);
        }
        self
    }

    fn added_up(mut self, until: u64) -> Self {
        self.add_up(until);
        self
    }
}

/// What each project spends; the tenant itself is none.
pub type Spends = BTreeMap<Option<ProjectName>, Spend>;

/// What running at a rate costs for some seconds, rounded up.
#[must_use]
pub fn cost_of(rate: u64, seconds: u64) -> u64 {
    let rest = rate.saturating_mul(seconds % HOUR_S).div_ceil(HOUR_S);
    rate.saturating_mul(seconds / HOUR_S).saturating_add(rest)
}

/// What all that lies in some pots costs per hour.
#[must_use]
pub fn rate_of(pots: &Pots) -> u64 {
    pots.values().map(|charge| charge.cost.0).fold(0, u64::saturating_add)
}

fn rate_in(pots: &Pots, project: Option<&ProjectName>) -> u64 {
    let own = pots.iter().filter(|(pot, _)| pot.project.as_ref() == project);
    own.map(|(_, charge)| charge.cost.0).fold(0, u64::saturating_add)
}

/// The projects of which a step changes what they cost.
#[must_use]
pub fn repriced(before: &Pots, after: &Pots) -> Vec<Option<ProjectName>> {
    let mut all: Vec<_> = before.keys().chain(after.keys()).map(|pot| pot.project.clone()).collect();
    all.sort();
    all.dedup();
    all.retain(|project| rate_in(before, project.as_ref()) != rate_in(after, project.as_ref()));
    all
}

/// What some projects spend from a moment on, when `pots` is what is used then.
#[must_use]
pub fn advanced(spends: &Spends, projects: Vec<Option<ProjectName>>, pots: &Pots, moment: &Moment) -> Spends {
    let one = |project: Option<ProjectName>| {
        let spend = spends.get(&project).copied().unwrap_or_default().at(moment);
        let rate = rate_in(pots, project.as_ref());
        (project, Spend { rate, ..spend })
    };
    projects.into_iter().map(one).collect()
}

/// Every project that costs anything, and those of which spending is known already.
#[must_use]
pub fn all_projects(spends: &Spends, pots: &Pots) -> Vec<Option<ProjectName>> {
    let costly = pots.iter().filter(|(_, charge)| charge.cost.0 > 0).map(|(pot, _)| pot.project.clone());
    let mut all: Vec<_> = costly.chain(spends.keys().cloned()).collect();
    all.sort();
    all.dedup();
    all
}

/// How a node's money stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Money {
    /// Spent in the month, rounded up.
    pub spent: u64,
    /// In the month before.
    pub last: u64,
    /// Per hour.
    pub rate: u64,
}

/// The money of every node with all below it, in the order of the nodes.
#[must_use]
pub fn money(tree: &Tree, spends: &Spends, pots: &Pots, moment: &Moment) -> Vec<Money> {
    let mut all = vec![Money::default(); tree.nodes().count()];
    for (project, spend) in spends {
        let spend = spend.at(moment);
        if let Some(money) = all.get_mut(tree.place(project.as_ref())) {
            money.spent = money.spent.saturating_add(spend.spent).saturating_add(u64::from(spend.rest > 0));
            money.last = money.last.saturating_add(spend.last);
        }
    }
    for (pot, charge) in pots {
        if let Some(money) = all.get_mut(tree.place(pot.project.as_ref())) {
            money.rate = money.rate.saturating_add(charge.cost.0);
        }
    }
    let parents: Vec<usize> = tree.nodes().map(|(_, parent)| parent).collect();
    for (n, parent) in parents.into_iter().enumerate().skip(1).rev() {
        let below = all.get(n).copied().unwrap_or_default();
        if let Some(above) = all.get_mut(parent) {
            above.spent = above.spent.saturating_add(below.spent);
            above.last = above.last.saturating_add(below.last);
            above.rate = above.rate.saturating_add(below.rate);
        }
    }
    all
}

/// Whether every hard budget above a record holds what it costs more than before. `pots` is what is used, the record's
/// parts `before` included; `lifetime` is for how many seconds it runs at most, if that is bounded.
///
/// # Errors
/// The lowest node whose budget does not hold it.
pub fn affords(
    tree: &Tree,
    (spends, pots): (&Spends, &Pots),
    (before, after): (&Pots, &Pots),
    (moment, lifetime): (&Moment, Option<u32>),
) -> Result<(), Box<QuotaShortage>> {
    let (old, new) = (rate_of(before), rate_of(after));
    if new <= old || !tree.has_budgets() {
        return Ok(());
    }
    let money = money(tree, spends, pots, moment);
    let project = after.keys().next().and_then(|pot| pot.project.as_ref());
    let left = moment.left();
    let runs = lifetime.map_or(u64::MAX, u64::from);
    for n in tree.path(tree.place(project)) {
        let Some((budget, hard)) = tree.budget(n).and_then(|budget| Some((budget, budget.hard?))) else { continue };
        let Money { spent, rate, .. } = money.get(n).copied().unwrap_or_default();
        let others = rate.saturating_sub(old);
        let holds = |dimension: &str, used: u64, more: u64| {
            if used.saturating_add(more) <= hard {
                return Ok(());
            }
            let text = |amount: u64| PricePerHour(amount).to_string();
            Err(Box::new(QuotaShortage {
                dimension: dimension.to_owned(),
                node: tree.name(n).cloned(),
                limit: text(hard),
                used: text(used),
                requested: text(more),
                ..QuotaShortage::default()
            }))
        };
        match budget.mode {
            BudgetMode::Committed => {
                let used = spent.saturating_add(cost_of(others, left));
                holds(BUDGET, used, cost_of(new, runs.min(left)))?;
                // What ends within the month is no later one's, whatever runs into that.
                let later = runs.saturating_sub(left).min(MONTH_MAX_S);
                if later > 0 {
                    holds(LATER_BUDGET, cost_of(others, MONTH_MAX_S), cost_of(new, later))?;
                }
            }
            // Spent to the last millionth is spent.
            BudgetMode::Accrued => holds(BUDGET, spent, 1)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use meridian_model::{
        operation::Charge,
        quota::{Budget, QuotaNode, QuotaTree},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::quota::parts::Pot;

    fn moment(text: &str) -> Moment {
        Moment::of(Time::parse(text).unwrap())
    }

    #[test]
    fn a_month_has_its_days() {
        for (text, start, end) in [
            ("2026-02-10T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("2028-02-29T23:59:59.999Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            ("2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2100-03-01T00:00:00Z", "2100-03-01T00:00:00Z", "2100-04-01T00:00:00Z"),
        ] {
            let at = moment(text);
            let second = |text: &str| u64::try_from(Time::parse(text).unwrap().unix_seconds()).unwrap();
            assert_eq!((at.start, at.end), (second(start), second(end)), "{text}");
            assert_eq!(moment(end).before, at.start);
        }
    }

    #[test]
    fn what_runs_into_a_month_is_paid_from_it() {
        let begun = Spend::default().at(&moment("2026-01-31T23:00:00Z"));
        let running = Spend { rate: 3_600, ..begun };
        let next = running.at(&moment("2026-02-01T02:00:00Z"));
        assert_eq!((next.last, next.spent, next.month), (3_600, 7_200, 2026 * 12 + 1));
        let later = running.at(&moment("2026-04-01T00:00:10Z"));
        assert_eq!((later.last, later.spent), (3_600 * 24 * 31, 10), "the whole of March");
        assert_eq!(next.at(&moment("2026-01-31T23:30:00Z")), next, "a slow clock changes nothing");
    }

    #[test]
    fn what_runs_on_over_the_turn_must_fit_the_months_after_it() {
        let project = ProjectName::new("shop").ok();
        let budget = Some(Budget { hard: Some(31 * 24 * 100), ..Budget::default() });
        let shop = QuotaNode { name: project.clone(), budget, ..QuotaNode::default() };
        let tree = Tree::new(&QuotaTree { nodes: vec![shop] }).unwrap();
        let pots = |cost| -> Pots {
            let pot = Pot { project: project.clone(), ..Pot::default() };
            [(pot, Charge { instances: 1, cost: PricePerHour(cost), ..Charge::default() })].into()
        };
        let ask = |at: &str, (spent, rate): (u64, u64), price, lifetime| {
            let at = moment(at);
            let spend = Spend { month: at.month, since: at.now, spent, rate, ..Spend::default() };
            let spends: Spends = [(project.clone(), spend)].into();
            let held = if rate > 0 { pots(rate) } else { Pots::new() };
            affords(&tree, (&spends, &held), (&Pots::new(), &pots(price)), (&at, lifetime))
        };
        // With an hour left of February even a hundredfold rate would not pass what is left of its budget.
        let end = "2026-02-28T23:00:00Z";
        let short = ask(end, (0, 0), 101, None).unwrap_err();
        assert_eq!((&*short.dimension, &*short.limit, &*short.requested), (LATER_BUDGET, "0.0744", "0.075144"));
        assert_eq!(ask(end, (0, 0), 100, None), Ok(()), "a whole month of it fits");
        assert_eq!(ask(end, (0, 0), 10_000, Some(3600)), Ok(()), "it ends with the month");
        assert_eq!(ask(end, (0, 0), 10_000, Some(3600 + 7 * 3600)), Ok(()));
        assert_eq!(ask(end, (0, 0), 10_000, Some(3600 + 8 * 3600)).unwrap_err().dimension, LATER_BUDGET);
        // At the turn the new month of what runs on is committed at once, though nothing of it is spent.
        let turn = "2026-03-01T00:00:00Z";
        assert_eq!(ask(turn, (0, 60), 40, None), Ok(()));
        let short = ask(turn, (0, 60), 41, None).unwrap_err();
        assert_eq!((&*short.dimension, &*short.used), (BUDGET, "0.04464"));
        // A later month is judged by what runs, not by what this one has spent.
        assert_eq!(ask("2026-03-31T23:00:00Z", (70_000, 60), 40, None), Ok(()));
    }

    proptest! {
        #[test]
        fn spending_is_the_exact_integral(changes in prop::collection::vec((0..40_000_u64, 0..90_000_u64), 1..40)) {
            let start = moment("2026-01-01T00:00:00Z");
            let mut now = start;
            let mut spend = Spend::default().at(&start);
            let mut exact = 0_u128;
            for (rate, seconds) in changes {
                spend.rate = rate;
                let seconds = seconds.min(now.left().saturating_sub(1));
                now = Moment { now: now.now + seconds, ..now };
                exact += u128::from(rate) * u128::from(seconds);
                spend = spend.at(&now);
                prop_assert_eq!(u128::from(spend.spent) * 3600 + u128::from(spend.rest), exact);
            }
        }
    }
}
