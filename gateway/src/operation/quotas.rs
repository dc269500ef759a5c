//! A tenant's quota tree as it is told: what each node has, uses, borrows and lends, when that will be used up, and who
//! uses most of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use meridian_ledger::Books;
use meridian_model::{
    error::FieldError,
    ids::{ProjectName, TenantId},
    operation::{OperationRecord, QuotaLimits},
    quantity::PricePerHour,
    quota::{Budget, Line, LineQuota, Reclaim, Resource, Scope},
    time::Time,
};
use meridian_policies::quota::{
    self,
    forecast::{self, Forecast, Why},
    parts::{self, Pots},
    spend::{self, Moment, Money},
    tree::{self, Pool, Stand, Tree},
};

use crate::{config::quota::ROOT_NAME, quota_watch::Sample, views};

const SOFT_PASSED: &str = "soft-passed";
const HARD_REACHED: &str = "hard-reached";
const NOT_THIS_MONTH: &str = "not-this-month";

/// All nodes of a tenant, the tenant itself first, with what the looks of the last hour foretell.
#[must_use]
pub fn nodes(tenant: &TenantId, books: &Books, samples: &[Sample], now: Time) -> Vec<views::Quota> {
    // A tree that this version cannot read limits nothing that it could tell of.
    let tree = Tree::new(&books.tree).unwrap_or_default();
    let stands: Vec<(&Pool, Vec<Stand>)> =
        tree.pools().iter().map(|pool| (pool, tree.stands(pool, &books.pots))).collect();
    let moment = Moment::of(now);
    let money = spend::money(&tree, &books.spends, &books.pots, &moment);
    let mut foretold = foretold(&tree, books, samples, now);
    let names: Vec<Option<ProjectName>> = tree.nodes().map(|(name, _)| name.cloned()).collect();
    let mut nodes: Vec<views::Quota> = tree
        .nodes()
        .enumerate()
        .map(|(n, (name, parent))| {
            let used = books.pots.iter().filter(|(pot, _)| below(&tree, n, pot.project.as_ref()));
            let mut forecast = foretold.get_mut(n).map(std::mem::take).unwrap_or_default();
            forecast.extend(budget_forecast(&tree, n, &money, &moment));
            views::Quota {
                name: quota_name(tenant, name),
                parent: names.get(parent).filter(|_| n > 0).map(|parent| quota_name(tenant, parent.as_ref())),
                limits: if n == 0 { books.usage.limits } else { QuotaLimits::default() },
                used: Some(parts::total(used.map(|(_, charge)| charge))),
                lines: stands.iter().filter_map(|(pool, stands)| line(books, name, pool, stands.get(n)?)).collect(),
                budget: budget(&tree, n, &money, &moment),
                reclaim: Some(tree.reclaim(n)).filter(|how| *how != Reclaim::Never).map(Reclaim::as_str),
                priority: Some(tree.priority(n)).filter(|priority| *priority != 0),
                forecast,
            }
        })
        .collect();
    if nodes.is_empty() {
        let forecast = foretold.pop().unwrap_or_default();
        nodes.push(views::Quota { forecast, ..super::quota_view(tenant, None, books.usage.limits) });
    }
    if let Some(root) = nodes.first_mut() {
        root.used = Some(books.usage.used);
    }
    nodes
}

/// The path of a node's quota.
fn quota_name(tenant: &TenantId, node: Option<&ProjectName>) -> String {
    format!("tenants/{tenant}/quotas/{}", node.map_or(ROOT_NAME, ProjectName::as_str))
}

/// What each node could still take of each line, in the order of the nodes.
type Left = Vec<BTreeMap<Line, u64>>;

/// What each node could still take of each line, its own and those of the tenant's own limits, when `pots` are in use.
fn left(tree: &Tree, limits: &QuotaLimits, pots: &Pots) -> Left {
    let mut left = vec![BTreeMap::new(); tree.nodes().count().max(1)];
    let mut bound = |n: usize, line: Line, amount: u64| {
        if let Some(lines) = left.get_mut(n) {
            lines.entry(line).and_modify(|least: &mut u64| *least = amount.min(*least)).or_insert(amount);
        }
    };
    for pool in tree.pools() {
        for (n, room) in tree.rooms(pool, pots).into_iter().enumerate() {
            if let Some(room) = room {
                bound(n, pool.line.clone(), room);
            }
        }
    }
    let QuotaLimits { instances, cpu, memory, gpu, public_ips } = quota::headroom(&parts::total(pots.values()), limits);
    let flat = [
        (Resource::Instances, instances),
        (Resource::Cpu, cpu.map(|n| n.0)),
        (Resource::Memory, memory.map(|n| n.0)),
        (Resource::Gpu, gpu),
        (Resource::PublicIps, public_ips),
    ];
    for (resource, room) in flat {
        let Some(room) = room else { continue };
        for n in 0..tree.nodes().count().max(1) {
            bound(n, Line { resource: resource.clone(), scope: Scope::Total }, room);
        }
    }
    left
}

/// When each line of each node will be used up. What is judged are the limits of now: what was used before is looked at as
/// if they had held then.
fn foretold(tree: &Tree, books: &Books, samples: &[Sample], now: Time) -> Vec<Vec<views::QuotaForecast>> {
    let second = |time: Time| u64::try_from(time.unix_seconds()).unwrap_or_default();
    let limits = &books.usage.limits;
    let mut looks: Vec<(u64, Arc<Left>)> = Vec::with_capacity(samples.len() + 1);
    let mut before: Option<(&Arc<Pots>, Arc<Left>)> = None;
    for (at, pots) in samples.iter().filter(|(at, _)| *at < now) {
        // What has not changed since the look before shares its sums with it.
        let same = before.filter(|(sums, _)| Arc::ptr_eq(sums, pots)).map(|(_, left)| left);
        let left = same.unwrap_or_else(|| Arc::new(left(tree, limits, pots)));
        looks.push((second(*at), Arc::clone(&left)));
        before = Some((pots, left));
    }
    let last = Arc::new(left(tree, limits, &books.pots));
    looks.push((second(now), Arc::clone(&last)));
    let one = |n: usize, line: &Line, room: u64| {
        let of = |(at, nodes): &(u64, Arc<Left>)| Some(forecast::Sample { at: *at, left: *nodes.get(n)?.get(line)? });
        let (per_hour, told) = forecast::forecast(&looks.iter().filter_map(of).collect::<Vec<_>>());
        let (exhaust_time, reason) = match told {
            Forecast::In(seconds) => (Some(now + Duration::from_secs(seconds)), None),
            Forecast::Unknown(why) => (None, Some(why.as_str())),
        };
        let text = |amount| line.resource.text(amount);
        let (left, per_hour) = (text(room), text(per_hour));
        views::QuotaForecast { line: line.to_string(), left, per_hour, exhaust_time, reason }
    };
    let node =
        |(n, lines): (usize, &BTreeMap<Line, u64>)| lines.iter().map(|(line, room)| one(n, line, *room)).collect();
    last.iter().enumerate().map(node).collect()
}

/// When a node's hard budget of the month will be spent at the present rate.
fn budget_forecast(tree: &Tree, n: usize, money: &[Money], moment: &Moment) -> Option<views::QuotaForecast> {
    let hard = tree.budget(n)?.hard?;
    let Money { spent, rate, .. } = money.get(n).copied().unwrap_or_default();
    let left = hard.saturating_sub(spent);
    let lasts = left.saturating_mul(spend::HOUR_S).checked_div(rate);
    let (exhaust_time, reason) = match lasts {
        None => (None, Some(Why::NotFalling.as_str())),
        Some(seconds) if seconds > moment.left() => (None, Some(NOT_THIS_MONTH)),
        Some(seconds) => {
            let at = i64::try_from(moment.now.saturating_add(seconds)).unwrap_or(i64::MAX);
            (Some(Time::from_unix_ms(at.saturating_mul(1000))), None)
        }
    };
    let text = |amount: u64| PricePerHour(amount).to_string();
    Some(views::QuotaForecast {
        line: spend::BUDGET.to_owned(),
        left: text(left),
        per_hour: text(rate),
        exhaust_time,
        reason,
    })
}

/// The instances that use most of a line of a node, and what all of them use. `records` are those of the tenant.
#[must_use]
pub fn consumers(
    (tenant, project): (&TenantId, Option<&ProjectName>),
    books: &Books,
    records: &[Arc<OperationRecord>],
    (line, most): (&Line, usize),
) -> views::QuotaConsumers {
    let tree = Tree::new(&books.tree).unwrap_or_default();
    let node = tree.place(project);
    let amount = |pots: &Pots| {
        let counted =
            pots.iter().filter(|(pot, _)| tree::counts(line, pot) && below(&tree, node, pot.project.as_ref()));
        counted.map(|(_, charge)| line.resource.of(charge)).fold(0, u64::saturating_add)
    };
    let mut all: Vec<(u64, &OperationRecord)> = records.iter().map(|r| (amount(&parts::parts(r)), &**r)).collect();
    all.retain(|(amount, _)| *amount > 0);
    all.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
    let used = all.iter().map(|(amount, _)| *amount).fold(0, u64::saturating_add);
    let item = |(amount, record): &(u64, &OperationRecord)| views::QuotaConsumer {
        name: format!("tenants/{tenant}/instances/{}", record.name),
        project: record.project(),
        used: line.resource.text(*amount),
        percent: amount.saturating_mul(100).checked_div(used).unwrap_or_default(),
        create_time: record.created_at,
    };
    views::QuotaConsumers {
        name: format!("{}/consumers", quota_name(tenant, project)),
        line: line.to_string(),
        used: line.resource.text(used),
        instances: all.len(),
        items: all.iter().take(most).map(item).collect(),
    }
}

/// How a node's budget stands.
fn budget(tree: &Tree, n: usize, money: &[Money], moment: &Moment) -> Option<views::QuotaBudget> {
    let Budget { hard, soft, mode, .. } = *tree.budget(n)?;
    let Money { spent, last, rate } = money.get(n).copied().unwrap_or_default();
    let text = |amount: u64| PricePerHour(amount).to_string();
    Some(views::QuotaBudget {
        hard: hard.map(text),
        soft: soft.map(text),
        mode: mode.as_str(),
        spent: text(spent),
        last_month: text(last),
        cost_per_hour: text(rate),
        month_end: text(spent.saturating_add(spend::cost_of(rate, moment.left()))),
        later_month: text(spend::cost_of(rate, spend::MONTH_MAX_S)),
        state: standing(tree.budget(n)?, spent),
    })
}

/// Where what is spent stands to a budget.
fn standing(budget: &Budget, spent: u64) -> &'static str {
    if budget.hard.is_some_and(|hard| spent >= hard) {
        HARD_REACHED
    } else if budget.soft.is_some_and(|soft| spent >= soft) {
        SOFT_PASSED
    } else {
        "within"
    }
}

/// What is to be said of a project's budgets, its own and those above, when it makes an instance.
#[must_use]
pub fn warnings(tree: &Tree, books: &Books, project: Option<&ProjectName>, now: Time) -> Vec<FieldError> {
    let passed = soft_passed(tree, books, now);
    tree.path(tree.place(project)).iter().filter_map(|n| passed.get(n).cloned()).collect()
}

/// What is to be said of each node whose soft budget is passed.
#[must_use]
pub fn soft_passed(tree: &Tree, books: &Books, now: Time) -> BTreeMap<usize, FieldError> {
    let money = spend::money(tree, &books.spends, &books.pots, &Moment::of(now));
    let warning = |(n, money): (usize, &Money)| {
        let soft = tree.budget(n)?.soft.filter(|soft| money.spent >= *soft)?;
        let whose = tree.name(n).map_or_else(|| "the tenant".to_owned(), |name| format!("project {name}"));
        let (spent, soft) = (PricePerHour(money.spent), PricePerHour(soft));
        let detail = format!("{whose} has spent {spent} of its soft budget of {soft} this month");
        let (pointer, code) = ("/project".to_owned(), "soft-budget".to_owned());
        Some((n, FieldError { pointer, code, detail, ..FieldError::default() }))
    };
    money.iter().enumerate().filter_map(warning).collect()
}

/// Nodes whose soft budget is passed, and nodes whose hard budget is reached.
#[must_use]
pub fn passed(books: &Books, now: Time) -> (Vec<Option<ProjectName>>, Vec<Option<ProjectName>>) {
    let tree = Tree::new(&books.tree).unwrap_or_default();
    let money = spend::money(&tree, &books.spends, &books.pots, &Moment::of(now));
    let (mut soft, mut hard) = (Vec::new(), Vec::new());
    for (n, money) in money.iter().enumerate() {
        match tree.budget(n).map(|budget| standing(budget, money.spent)) {
            Some(HARD_REACHED) => hard.push(tree.name(n).cloned()),
            Some(SOFT_PASSED) => soft.push(tree.name(n).cloned()),
            Some(_) | None => {}
        }
    }
    (soft, hard)
}

/// Whether a project is the node `n` or below it. One that is no node counts on the root.
fn below(tree: &Tree, n: usize, project: Option<&ProjectName>) -> bool {
    tree.path(tree.place(project)).contains(&n)
}

/// One line of a node; none where the node neither has nor uses any of it.
fn line(books: &Books, name: Option<&ProjectName>, pool: &Pool, stand: &Stand) -> Option<views::QuotaLine> {
    let node = books.tree.nodes.iter().find(|node| node.name.as_ref() == name);
    let quota = node.and_then(|node| node.lines.get(&pool.line)).copied().unwrap_or_default();
    if quota == LineQuota::default() && stand.used == 0 && !pool.pooled {
        return None;
    }
    let text = |amount: u64| pool.line.resource.text(amount);
    Some(views::QuotaLine {
        line: pool.line.to_string(),
        nominal: quota.nominal.map(text),
        borrowing_limit: quota.borrowing_limit.map(text),
        lending_limit: quota.lending_limit.map(text),
        limit: quota.limit.map(text),
        failover_reserve: quota.failover_reserve.map(text),
        own: text(stand.own),
        used: text(stand.used),
        borrowed: text(stand.borrowed),
        lent: text(stand.lent),
        available: stand.available.map(text),
    })
}
