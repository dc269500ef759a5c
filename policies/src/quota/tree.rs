//! A tenant's quota tree: whether a charge fits, in every line and on every node above it.
//!
//! Per line the arithmetic is Kueue's (`pkg/cache/scheduler/resource_node.go`, read 2026-11-30), with two additions.
//! - *Subtree quota*: a node's nominal and what its children lend to it.
//! - *Guaranteed*: what a node does not lend, `max(0, subtree - lendingLimit)`; without a lending limit nothing.
//! - *Usage* of a node: its own, and of each child what goes beyond the child's guaranteed part.
//! - *Available* to a node: what is left of its guaranteed part, and what is available to its parent, but not more than
//!   the node lent and nobody took plus its borrowing limit. Of the root: its subtree quota less its usage.
//!
//! Our additions: inner nodes may be charged, too (Kueue charges leaves only); a *limit* bounds all that a node and
//! everything below it use, borrowed or not; and a *failover reserve* counts as used, on its node and on all nodes above,
//! for everybody but a replacement after a failover on that node or below it. Whatever first instances were admitted,
//! a replacement of the reserve's size fits, because the reserve was counted like one all the time. What it took of the
//! reserve is held back anew from what becomes free.
//!
//! A line in which any node has a nominal, borrowing or lending limit is *pooled*: a node that says nothing of it has
//! nothing of its own and can only borrow. A line in which no node has one knows limits only.
//!
//! All that is fixed by the configuration is worked out once, when a [`Tree`] is made; a check adds up the pots.

use std::collections::{BTreeMap, BTreeSet};

use meridian_model::{
    bugs,
    error::QuotaShortage,
    ids::ProjectName,
    operation::OperationRecord,
    quota::{Budget, Line, LineQuota, QuotaTree, Reclaim, Resource, Scope, UnknownPrice},
};

use super::parts::{Pot, Pots};

/// Nodes of a tree, its root included: so many are added up within a step that everybody waits for.
pub const NODES_MAX: usize = 64;
/// Nodes from the root to a leaf, both included: a tenant, divisions, departments, teams, projects.
pub const LEVELS_MAX: usize = 5;
/// Lines of a tree: as for the nodes, each is added up.
pub const LINES_MAX: usize = 32;
/// Greatest amount of one setting: the sum over all nodes, and twice that, stay below 2^53, where the numbers of a
/// script end to be exact.
pub const AMOUNT_MAX: u64 = 1 << 45;

/// Something wrong with a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}; {mend}")]
pub struct TreeFault {
    /// The node, and the line where it is about one.
    pub place: String,
    /// What is wrong.
    pub fault: String,
    /// How to mend it.
    pub mend: String,
}

/// What a node has of one line, worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// Its own.
    pub nominal: i64,
    /// Its own, and what its children lend to it.
    pub subtree: i64,
    /// What of that it does not lend.
    pub guaranteed: i64,
    /// Most that it may borrow.
    pub borrowing: Option<i64>,
    /// Most that it and everything below may use.
    pub limit: Option<i64>,
    /// Held back for failovers.
    pub reserve: i64,
}

/// One line over all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The line.
    pub line: Line,
    /// Whether quota is lent and borrowed in it.
    pub pooled: bool,
    /// What each node has, in the order of the nodes.
    pub cells: Vec<Cell>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// A first instance.
    #[default]
    First,
    /// The replacement of one that may be lost: it may use what is reserved.
    Failover,
}

/// A valid tree, ready for checks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Names in an order in which each parent stands before its children; the first is the root, which has none.
    names: Vec<Option<ProjectName>>,
    /// The parent of each; the root's is itself.
    parents: Vec<usize>,
    pools: Vec<Pool>,
    /// What each may spend.
    budgets: Vec<Option<Budget>>,
    /// What each takes back, and its priority.
    claims: Vec<(Reclaim, i32)>,
}

/// How one node stands in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stand {
    /// What the node itself is charged.
    pub own: u64,
    /// What it and everything below it are charged.
    pub used: u64,
    /// What of its usage is more than its subtree quota.
    pub borrowed: u64,
    /// What others use of its subtree quota.
    pub lent: u64,
    /// What a first instance could still take; none: nothing bounds it.
    pub available: Option<u64>,
}

/// Sums of one line.
#[derive(Debug, Default)]
struct Flow {
    own: Vec<i64>,
    /// With everything below.
    total: Vec<i64>,
    /// With what children use beyond their guaranteed parts.
    usage: Vec<i64>,
}

fn at(all: &[i64], n: usize) -> i64 {
    all.get(n).copied().unwrap_or_default()
}

fn add(all: &mut [i64], n: usize, amount: i64) {
    if let Some(sum) = all.get_mut(n) {
        *sum = sum.saturating_add(amount);
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn unsigned(amount: i64) -> u64 {
    u64::try_from(amount).unwrap_or_default()
}

/// Who a record asks for: an epoch above the first is a replacement.
#[must_use]
pub const fn class_of(record: &OperationRecord) -> Class {
    if record.epoch > 1 { Class::Failover } else { Class::First }
}

/// Whether a limit of a line counts what lies in a pot.
#[must_use]
pub fn counts(line: &Line, pot: &Pot) -> bool {
    let model = match &line.resource {
        Resource::GpuModel(model) => pot.gpu_model.as_ref() == Some(model),
        _ => true,
    };
    model
        && match &line.scope {
            Scope::Total => true,
            Scope::Provider(name) => pot.provider.as_ref() == Some(name),
            Scope::Region(name) => pot.region.as_ref() == Some(name),
        }
}

/// How much of a line some pots hold.
pub(super) fn amount(line: &Line, pots: &Pots) -> i64 {
    let counted = pots.iter().filter(|(pot, _)| counts(line, pot)).map(|(_, charge)| line.resource.of(charge));
    counted.fold(0, |sum: i64, amount| sum.saturating_add(signed(amount)))
}

impl Tree {
    /// A tree ready for checks.
    ///
    /// # Errors
    /// Every fault: too many nodes, levels or lines, names used twice, parents that are not there or go round in a
    /// circle, amounts that are too large.
    pub fn new(config: &QuotaTree) -> Result<Self, Vec<TreeFault>> {
        let mut faults = Vec::new();
        let (names, parents) = order(config, &mut faults);
        let lines: BTreeSet<&Line> = config.nodes.iter().flat_map(|node| node.lines.keys()).collect();
        if lines.len() > LINES_MAX {
            faults.push(fault("the tree", format!("{} lines", lines.len()), format!("name at most {LINES_MAX}")));
        }
        for node in &config.nodes {
            let who = node.name.as_ref().map_or("the tenant", ProjectName::as_str);
            if node.budget.is_some_and(|b| b.hard.max(b.soft).unwrap_or_default() > AMOUNT_MAX) {
                let most = format!("use at most {}", Resource::Cost.text(AMOUNT_MAX));
                faults.push(fault(format!("{who}, budget"), "it is too large".to_owned(), most));
            }
            for (line, quota) in &node.lines {
                let all =
                    [quota.nominal, quota.borrowing_limit, quota.lending_limit, quota.limit, quota.failover_reserve];
                if all.iter().flatten().any(|amount| *amount > AMOUNT_MAX) {
                    let most = format!("use at most {}", line.resource.text(AMOUNT_MAX));
                    faults.push(fault(format!("{who}, {line}"), "an amount is too large".to_owned(), most));
                }
                let bound = quota.limit.or(quota.nominal);
                if quota.failover_reserve.unwrap_or_default() > bound.unwrap_or_default() {
                    let mend = "give the node a nominal or a limit that holds the reserve".to_owned();
                    let text = "more is reserved for failovers than the node has".to_owned();
                    faults.push(fault(format!("{who}, {line}"), text, mend));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let of: BTreeMap<_, _> = config.nodes.iter().map(|node| (node.name.as_ref(), &node.lines)).collect();
        let pools = lines.into_iter().map(|line| {
            let quota = |name: &Option<ProjectName>| {
                of.get(&name.as_ref()).and_then(|lines| lines.get(line)).copied().unwrap_or_default()
            };
            pool(line, &names.iter().map(quota).collect::<Vec<_>>(), &parents)
        });
        let pools = pools.collect();
        let budget = |name: &Option<ProjectName>| {
            config.nodes.iter().find(|node| node.name == *name).and_then(|node| node.budget)
        };
        let budgets = names.iter().map(budget).collect();
        let claims = claims(config, &names, &parents);
        Ok(Self { names, parents, pools, budgets, claims })
    }

    /// Whether it limits nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty() && !self.has_budgets()
    }

    /// Whether any node may spend only so much.
    #[must_use]
    pub fn has_budgets(&self) -> bool {
        self.budgets.iter().any(Option::is_some)
    }

    /// What a node may spend.
    #[must_use]
    pub fn budget(&self, n: usize) -> Option<&Budget> {
        self.budgets.get(n)?.as_ref()
    }

    /// What a node takes back of what others borrow of it.
    #[must_use]
    pub fn reclaim(&self, n: usize) -> Reclaim {
        self.claims.get(n).map(|(reclaim, _)| *reclaim).unwrap_or_default()
    }

    /// How much the instances of a node matter.
    #[must_use]
    pub fn priority(&self, n: usize) -> i32 {
        self.claims.get(n).map(|(_, priority)| *priority).unwrap_or_default()
    }

    /// Whether a node's own instances stay within its nominal quota of a line, without its reserve, when it takes `wish`
    /// as well.
    #[must_use]
    pub fn is_within(&self, held: &Pots, wish: &Pots, line: &Line) -> bool {
        let node = self.place(wish.keys().next().and_then(|pot| pot.project.as_ref()));
        self.pool(line).is_some_and(|pool| {
            let own = at(&self.flow(pool, held, None, Some((node, Class::First))).own, node);
            own.saturating_add(amount(line, wish)) <= pool.cells.get(node).map_or(0, |cell| cell.nominal)
        })
    }

    /// Of every node, whether its own instances use more of a line than its nominal quota.
    #[must_use]
    pub fn borrowers(&self, held: &Pots, line: &Line) -> Vec<bool> {
        let Some(pool) = self.pool(line).filter(|pool| pool.pooled) else { return vec![false; self.names.len()] };
        let own = self.flow(pool, held, None, None).own;
        pool.cells.iter().zip(own).map(|(cell, own)| own > cell.nominal).collect()
    }

    fn pool(&self, line: &Line) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.line == *line)
    }

    /// The name of a node; none of the root.
    #[must_use]
    pub fn name(&self, n: usize) -> Option<&ProjectName> {
        self.names.get(n)?.as_ref()
    }

    /// Whether an instance of a project must have a known price: a budget above it says so, or its cost is limited and no
    /// budget says otherwise.
    #[must_use]
    pub fn needs_price(&self, project: Option<&ProjectName>) -> bool {
        let path = self.path(self.place(project));
        let budgets: Vec<&Budget> = path.iter().filter_map(|n| self.budget(*n)).collect();
        let limits = |pool: &Pool| {
            let limited = |n: &usize| pool.cells.get(*n).is_some_and(|cell| cell.limit.is_some());
            pool.line.resource == Resource::Cost && (pool.pooled || path.iter().any(limited))
        };
        match budgets.as_slice() {
            [] => self.pools.iter().any(limits),
            some => some.iter().any(|budget| budget.unknown_price == UnknownPrice::Refuse),
        }
    }

    /// The nodes in their order, each with its parent's place in it.
    pub fn nodes(&self) -> impl Iterator<Item = (Option<&ProjectName>, usize)> {
        self.names.iter().map(Option::as_ref).zip(self.parents.iter().copied())
    }

    /// The lines.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Whether there is such a project.
    #[must_use]
    pub fn has(&self, project: &ProjectName) -> bool {
        self.names.iter().any(|name| name.as_ref() == Some(project))
    }

    /// The place of a project among the nodes; it is in range unless there is no tree. What belongs to none that is there any more is the root's.
    #[must_use]
    pub fn place(&self, project: Option<&ProjectName>) -> usize {
        self.names.iter().position(|name| name.as_ref() == project).unwrap_or_default()
    }

    /// Whether a record's parts may become others: in each line of which they take more than before, it must fit on its
    /// node and on all nodes above. `old` are the parts that `held` has of the record now.
    ///
    /// # Errors
    /// The first line, in order, and in it the lowest node, that does not hold it.
    pub fn admit(&self, held: &Pots, old: &Pots, new: &Pots, class: Class) -> Result<(), Box<QuotaShortage>> {
        let project = new.keys().next().and_then(|pot| pot.project.as_ref());
        let node = self.place(project);
        for pool in &self.pools {
            let (before, after) = (amount(&pool.line, old), amount(&pool.line, new));
            if after <= before {
                continue;
            }
            let flow = self.flow(pool, held, Some(old), Some((node, class)));
            self.fits(pool, &flow, (node, before, after))?;
        }
        Ok(())
    }

    /// Adds up a line, without what `less` holds of it, and with the reserves that `asker` may not use.
    fn flow(&self, pool: &Pool, held: &Pots, less: Option<&Pots>, asker: Option<(usize, Class)>) -> Flow {
        let mut own = vec![0; self.names.len()];
        let count = |own: &mut Vec<i64>, pots: &Pots, sign: i64| {
            for (pot, charge) in pots.iter().filter(|(pot, _)| counts(&pool.line, pot)) {
                add(own, self.place(pot.project.as_ref()), sign * signed(pool.line.resource.of(charge)));
            }
        };
        count(&mut own, held, 1);
        if let Some(less) = less {
            count(&mut own, less, -1);
        }
        if let Some((node, class)) = asker {
            let open = if class == Class::Failover { self.path(node) } else { Vec::new() };
            for (n, cell) in pool.cells.iter().enumerate().filter(|(n, _)| !open.contains(n)) {
                add(&mut own, n, cell.reserve);
            }
        }
        let (mut total, mut usage) = (own.clone(), own.clone());
        for (n, parent) in self.parents.iter().copied().enumerate().skip(1).rev() {
            let guaranteed = pool.cells.get(n).map_or(0, |cell| cell.guaranteed);
            let (below, beyond) = (at(&total, n), (at(&usage, n) - guaranteed).max(0));
            add(&mut total, parent, below);
            add(&mut usage, parent, beyond);
        }
        Flow { own, total, usage }
    }

    /// From a node to the root.
    #[must_use]
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path = vec![node];
        let mut n = node;
        while n != 0 && path.len() <= LEVELS_MAX {
            n = self.parents.get(n).copied().unwrap_or_default();
            path.push(n);
        }
        path
    }

    fn fits(
        &self,
        pool: &Pool,
        flow: &Flow,
        (node, before, after): (usize, i64, i64),
    ) -> Result<(), Box<QuotaShortage>> {
        let text = |amount: i64| pool.line.resource.text(unsigned(amount));
        let shortage = |n: usize, limit: i64, used: i64, borrowable: Option<i64>| {
            Box::new(QuotaShortage {
                dimension: pool.line.to_string(),
                node: self.names.get(n).cloned().flatten(),
                limit: text(limit),
                used: text(used),
                requested: text(after - before),
                borrowable: borrowable.map(text),
                reclaiming: None,
            })
        };
        for n in self.path(node) {
            let limit = pool.cells.get(n).and_then(|cell| cell.limit);
            if let Some(limit) = limit.filter(|limit| at(&flow.total, n).saturating_add(after) > *limit) {
                return Err(shortage(n, limit, at(&flow.total, n) + before, None));
            }
        }
        let available = self.available(pool, flow, node);
        if pool.pooled && after > available {
            let subtree = pool.cells.get(node).map_or(0, |cell| cell.subtree);
            let used = at(&flow.usage, node);
            let borrowable = (available - (subtree - used).max(0)).max(0);
            return Err(shortage(node, subtree, used + before, Some(borrowable)));
        }
        Ok(())
    }

    /// What a node could still take of a pooled line.
    fn available(&self, pool: &Pool, flow: &Flow, node: usize) -> i64 {
        let mut left: Option<i64> = None;
        for n in self.path(node).into_iter().rev() {
            let cell = pool.cells.get(n).copied().unwrap_or_default();
            let usage = at(&flow.usage, n);
            left = Some(match left {
                None => cell.subtree - usage,
                Some(above) => {
                    let in_parent = cell.subtree - cell.guaranteed - (usage - cell.guaranteed).max(0);
                    let borrowed = cell.borrowing.map_or(above, |most| above.min(in_parent + most));
                    (cell.guaranteed - usage).max(0) + borrowed
                }
            });
        }
        left.unwrap_or_default()
    }

    /// What a first instance could still take at every node of a line, in the order of the nodes; none where nothing
    /// bounds it.
    #[must_use]
    pub fn rooms(&self, pool: &Pool, held: &Pots) -> Vec<Option<u64>> {
        let asked = self.flow(pool, held, None, Some((0, Class::First)));
        let under = |n: usize| {
            let limit = pool.cells.get(n)?.limit?;
            Some((limit - at(&asked.total, n)).max(0))
        };
        let room = |n: usize| {
            let bounded = self.path(n).into_iter().filter_map(under).min();
            let pooled = pool.pooled.then(|| self.available(pool, &asked, n).max(0));
            bounded.into_iter().chain(pooled).min().map(unsigned)
        };
        (0..pool.cells.len()).map(room).collect()
    }

    /// How every node stands in a line, in the order of the nodes.
    #[must_use]
    pub fn stands(&self, pool: &Pool, held: &Pots) -> Vec<Stand> {
        let flow = self.flow(pool, held, None, None);
        let stand = |((n, cell), available): ((usize, &Cell), Option<u64>)| {
            let usage = at(&flow.usage, n);
            let borrowed = if pool.pooled { (usage - cell.subtree).max(0) } else { 0 };
            Stand {
                own: unsigned(at(&flow.own, n)),
                used: unsigned(at(&flow.total, n)),
                borrowed: unsigned(borrowed),
                lent: 0,
                available,
            }
        };
        let cells = pool.cells.iter().enumerate();
        let mut stands: Vec<Stand> = cells.zip(self.rooms(pool, held)).map(stand).collect();
        if pool.pooled {
            self.lend(pool, &flow, &mut stands);
        }
        stands
    }

    /// Says who lends what is borrowed: among the children of a node each in proportion to what it leaves unused, whole
    /// numbers, the first ones a little more. Who lends does not matter for any check; only the sum does.
    fn lend(&self, pool: &Pool, flow: &Flow, stands: &mut [Stand]) {
        for parent in 0..self.names.len() {
            let children: Vec<usize> =
                self.parents.iter().enumerate().skip(1).filter(|(_, p)| **p == parent).map(|(n, _)| n).collect();
            let cell = |n: usize| pool.cells.get(n).copied().unwrap_or_default();
            let lendable = |n: usize| {
                let cell = cell(n);
                (cell.subtree - cell.guaranteed.max(at(&flow.usage, n))).max(0)
            };
            let borrowed: i64 = children.iter().map(|n| (at(&flow.usage, *n) - cell(*n).subtree).max(0)).sum();
            // What the parent has itself is used first.
            let own_use = at(&flow.own, parent);
            let free = (cell(parent).nominal - own_use).max(0);
            let mut owed = (borrowed + (own_use - cell(parent).nominal).max(0) - free).max(0);
            let mut left: i64 = children.iter().map(|n| lendable(*n)).sum();
            for n in children {
                let share = lendable(n);
                if left <= 0 || owed <= 0 {
                    break;
                }
                let part =
                    i64::try_from((i128::from(owed) * i128::from(share) + i128::from(left) - 1) / i128::from(left))
                        .unwrap_or(share)
                        .min(share);
                if let Some(stand) = stands.get_mut(n) {
                    stand.lent = unsigned(part);
                }
                owed -= part;
                left -= share;
            }
        }
    }
}

fn fault(place: impl Into<String>, fault: String, mend: String) -> TreeFault {
    TreeFault { place: place.into(), fault, mend }
}

/// The names in order and each one's parent; as much of the tree as hangs together.
fn order(config: &QuotaTree, faults: &mut Vec<TreeFault>) -> (Vec<Option<ProjectName>>, Vec<usize>) {
    if config.nodes.len() > NODES_MAX {
        faults.push(fault("the tree", format!("{} nodes", config.nodes.len()), format!("name at most {NODES_MAX}")));
    }
    let mut seen = BTreeSet::new();
    for node in &config.nodes {
        let who = node.name.as_ref().map_or("the tenant", ProjectName::as_str);
        if !seen.insert(&node.name) {
            faults.push(fault(who, "named twice".to_owned(), "give each node a name of its own".to_owned()));
        }
        if node.name.is_none() && node.parent.is_some() {
            faults.push(fault(who, "the root has a parent".to_owned(), "leave its parent out".to_owned()));
        }
    }
    let (mut names, mut parents): (Vec<Option<ProjectName>>, Vec<usize>) = (vec![None], vec![0]);
    let mut levels = vec![1];
    let mut waiting: Vec<_> = config.nodes.iter().filter(|node| node.name.is_some()).collect();
    waiting.sort_by(|a, b| a.name.cmp(&b.name));
    loop {
        let before = waiting.len();
        waiting.retain(|node| {
            let Some(parent) = names.iter().position(|name| *name == node.parent) else { return true };
            let level = levels.get(parent).copied().unwrap_or(1) + 1;
            if level > LEVELS_MAX {
                let who = node.name.as_ref().map_or("", ProjectName::as_str);
                faults.push(fault(who, format!("on level {level}"), format!("use at most {LEVELS_MAX} levels")));
            }
            names.push(node.name.clone());
            parents.push(parent);
            levels.push(level);
            false
        });
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    for node in waiting {
        let who = node.name.as_ref().map_or("", ProjectName::as_str);
        let parent = node.parent.as_ref().map_or("", ProjectName::as_str);
        let known = config.nodes.iter().any(|other| other.name == node.parent);
        let (text, mend) = if known {
            (format!("its parents go round in a circle, by {parent}"), "name a parent that is above it")
        } else {
            (format!("there is no node {parent}"), "name a node that is there, or leave the parent out")
        };
        faults.push(fault(who, text, mend.to_owned()));
    }
    (names, parents)
}

/// What each node takes back and its priority, its own word or that of the node above.
fn claims(config: &QuotaTree, names: &[Option<ProjectName>], parents: &[usize]) -> Vec<(Reclaim, i32)> {
    let mut claims = Vec::with_capacity(names.len());
    for (name, parent) in names.iter().zip(parents) {
        let (reclaim, priority) = claims.get(*parent).copied().unwrap_or_default();
        let node = config.nodes.iter().find(|node| node.name == *name);
        let own = node.map(|node| (node.reclaim.unwrap_or(reclaim), node.priority.unwrap_or(priority)));
        claims.push(own.unwrap_or((reclaim, priority)));
    }
    claims
}

fn pool(line: &Line, quotas: &[LineQuota], parents: &[usize]) -> Pool {
    let pooled = quotas
        .iter()
        .any(|quota| quota.nominal.is_some() || quota.borrowing_limit.is_some() || quota.lending_limit.is_some());
    let mut cells: Vec<Cell> = quotas
        .iter()
        .map(|quota| {
            let nominal = signed(quota.nominal.unwrap_or_default());
            Cell {
                nominal,
                subtree: nominal,
                guaranteed: 0,
                borrowing: quota.borrowing_limit.map(signed),
                limit: quota.limit.map(signed),
                reserve: signed(quota.failover_reserve.unwrap_or_default()),
            }
        })
        .collect();
    for (n, parent) in parents.iter().copied().enumerate().rev() {
        let keeps = !bugs::planted(bugs::LENDING_FORGOTTEN);
        let lending = quotas.get(n).and_then(|quota| quota.lending_limit).filter(|_| keeps).map(signed);
        let Some(cell) = cells.get_mut(n) else { continue };
        cell.guaranteed = lending.map_or(0, |lending| (cell.subtree - lending).max(0));
        let lent = cell.subtree - cell.guaranteed;
        if n != 0
            && let Some(parent) = cells.get_mut(parent)
        {
            parent.subtree += lent;
        }
    }
    Pool { line: line.clone(), pooled, cells }
}

#[cfg(test)]
mod tests;
