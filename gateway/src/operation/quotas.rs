//! A tenant's quota tree as it is told: what each node has, uses, borrows and lends.

use meridian_ledger::Books;
use meridian_model::{
    error::FieldError,
    ids::{ProjectName, TenantId},
    operation::QuotaLimits,
    quantity::PricePerHour,
    quota::{Budget, LineQuota},
    time::Time,
};
use meridian_policies::quota::{
    parts,
    spend::{self, Moment, Money},
    tree::{Pool, Stand, Tree},
};

use crate::{config::quota::ROOT_NAME, views};

const SOFT_PASSED: &str = "soft-passed";
const HARD_REACHED: &str = "hard-reached";

/// All nodes of a tenant, the tenant itself first.
#[must_use]
pub fn nodes(tenant: &TenantId, books: &Books, now: Time) -> Vec<views::Quota> {
    // A tree that this version cannot read limits nothing that it could tell of.
    let tree = Tree::new(&books.tree).unwrap_or_default();
    let stands: Vec<(&Pool, Vec<Stand>)> =
        tree.pools().iter().map(|pool| (pool, tree.stands(pool, &books.pots))).collect();
    let moment = Moment::of(now);
    let money = spend::money(&tree, &books.spends, &books.pots, &moment);
    let names: Vec<Option<ProjectName>> = tree.nodes().map(|(name, _)| name.cloned()).collect();
    let mut nodes: Vec<views::Quota> = tree
        .nodes()
        .enumerate()
        .map(|(n, (name, parent))| {
            let used = books.pots.iter().filter(|(pot, _)| below(&tree, &names, n, pot.project.as_ref()));
            views::Quota {
                name: format!("tenants/{tenant}/quotas/{}", name.map_or(ROOT_NAME, ProjectName::as_str)),
                parent: names.get(parent).filter(|_| n > 0).map(|parent| {
                    let parent = parent.as_ref().map_or(ROOT_NAME, ProjectName::as_str);
                    format!("tenants/{tenant}/quotas/{parent}")
                }),
                limits: if n == 0 { books.usage.limits } else { QuotaLimits::default() },
                used: Some(parts::total(used.map(|(_, charge)| charge))),
                lines: stands.iter().filter_map(|(pool, stands)| line(books, name, pool, stands.get(n)?)).collect(),
                budget: budget(&tree, n, &money, &moment),
            }
        })
        .collect();
    if nodes.is_empty() {
        nodes.push(views::Quota {
            name: format!("tenants/{tenant}/quotas/{ROOT_NAME}"),
            parent: None,
            limits: books.usage.limits,
            used: None,
            lines: Vec::new(),
            budget: None,
        });
    }
    if let Some(root) = nodes.first_mut() {
        root.used = Some(books.usage.used);
    }
    nodes
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
    let money = spend::money(tree, &books.spends, &books.pots, &Moment::of(now));
    let warning = |n: usize| {
        let (budget, money) = (tree.budget(n)?, money.get(n)?);
        let soft = budget.soft.filter(|soft| money.spent >= *soft)?;
        let whose = tree.name(n).map_or_else(|| "the tenant".to_owned(), |name| format!("project {name}"));
        let (spent, soft) = (PricePerHour(money.spent), PricePerHour(soft));
        let detail = format!("{whose} has spent {spent} of its soft budget of {soft} this month");
        Some(FieldError {
            pointer: "/project".to_owned(),
            code: "soft-budget".to_owned(),
            detail,
            ..FieldError::default()
        })
    };
    tree.path(tree.place(project)).into_iter().filter_map(warning).collect()
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
fn below(tree: &Tree, names: &[Option<ProjectName>], n: usize, project: Option<&ProjectName>) -> bool {
    let parents: Vec<usize> = tree.nodes().map(|(_, parent)| parent).collect();
    let mut at = names.iter().position(|name| name.as_ref() == project).unwrap_or_default();
    for _ in 0..names.len() {
        if at == n {
            return true;
        }
        at = parents.get(at).copied().unwrap_or_default();
    }
    false
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
