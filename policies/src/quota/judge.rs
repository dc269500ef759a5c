//! What a quota tree allows, without any order of computation: the judge of those who reckon with one.
//!
//! Usage of a line is a flow. Each unit in use comes from some node's nominal; on its way it leaves a node upwards within
//! that node's lending limit, and enters one downwards within its borrowing limit. By the theorem of Gale there is such a
//! flow exactly when no *set* of nodes uses more than the nominal of its members and all that may enter it from outside.
//! So every set is looked at, and nothing is carried from node to node as [`super::tree`] does. A line in which no node
//! has a nominal, a borrowing or a lending limit bounds no set. Hard limits hold on each node for all below it.
//!
//! Reserves are left out: who may use them is a question about one create, and they only ever allow less.

use std::fmt;

use meridian_model::{
    ids::ProjectName,
    quota::{Line, LineQuota, QuotaTree},
};

use super::{
    parts::{Pot, Pots},
    tree::counts,
};

/// Most nodes of a tree that is judged, the root included: 2^10 sets are looked at for each line.
pub const JUDGED_MAX: usize = 10;

/// The sets of a tree's nodes, in one line.
#[derive(Debug, Clone)]
pub struct Sets {
    parents: Vec<usize>,
    quotas: Vec<LineQuota>,
    /// Of each set (a bit for each node) what it may use: in all, and by node, when nothing may enter that node from
    /// above. None where something unlimited enters.
    bounds: Vec<(Option<i64>, Vec<Option<i64>>)>,
}

fn has(set: usize, n: usize) -> bool {
    set & (1 << n) != 0
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl Sets {
    /// The sets of at most [`JUDGED_MAX`] nodes. The first is the root; `quotas` has one for each.
    #[must_use]
    pub fn new(parents: Vec<usize>, quotas: Vec<LineQuota>) -> Self {
        let mut sets = Self { parents, quotas, bounds: Vec::new() };
        let nodes = 0..sets.parents.len();
        let all = 0..1_usize << nodes.len();
        let of = |set| (sets.bound(set, None), nodes.clone().map(|n| sets.bound(set, Some(n))).collect());
        sets.bounds = all.map(of).collect();
        sets
    }

    fn quota(&self, n: usize) -> LineQuota {
        self.quotas.get(n).copied().unwrap_or_default()
    }

    fn bound(&self, set: usize, closed: Option<usize>) -> Option<i64> {
        let nominal = |n: usize| self.quota(n).nominal.map_or(0, signed);
        let mut bound: i64 = (0..self.parents.len()).filter(|n| has(set, *n)).map(nominal).sum();
        for (n, parent) in self.parents.iter().enumerate().skip(1) {
            bound += match (has(set, n), has(set, *parent)) {
                (true, false) if closed != Some(n) => signed(self.quota(n).borrowing_limit?),
                (false, true) => signed(self.quota(n).lending_limit?),
                _ => 0,
            };
        }
        Some(bound)
    }

    /// What each set uses.
    fn used(&self, own: &[i64]) -> Vec<i64> {
        let mut used = Vec::with_capacity(self.bounds.len());
        used.push(0);
        // Sets with a node, after all that have only nodes before it.
        for amount in own {
            used.extend_from_within(..);
            let half = used.len() / 2;
            used.iter_mut().skip(half).for_each(|sum| *sum += amount);
        }
        used
    }

    /// What could still be used at each node, and what each leaves with all below it and nothing from above; below zero
    /// what must come from there. The least that any set around it lacks to its bound. None where no set has one.
    #[must_use]
    pub fn left(&self, own: &[i64]) -> Vec<(Option<i64>, Option<i64>)> {
        let mut left = vec![(None, None); own.len()];
        let subtree = |n: usize| (0..own.len()).filter(|m| self.is_below(*m, n)).map(|m| 1 << m).sum::<usize>();
        let subtrees: Vec<usize> = (0..own.len()).map(subtree).collect();
        let least = |all: Option<i64>, one: Option<i64>| all.into_iter().chain(one).min();
        for (set, (used, (bound, closed))) in self.used(own).into_iter().zip(&self.bounds).enumerate() {
            let nodes = left.iter_mut().zip(closed).zip(&subtrees).enumerate();
            for (_, ((left, closed), subtree)) in nodes.filter(|(n, _)| has(set, *n)) {
                left.0 = least(left.0, bound.map(|bound| bound - used));
                if set & !subtree == 0 {
                    left.1 = least(left.1, closed.map(|bound| bound - used));
                }
            }
        }
        left
    }

    fn is_below(&self, mut m: usize, n: usize) -> bool {
        while m != n && m != 0 {
            m = self.parents.get(m).copied().unwrap_or_default();
        }
        m == n
    }
}

/// More than a tree allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Of what.
    pub line: Line,
    /// The nodes that use it together; none is the root.
    pub nodes: Vec<Option<ProjectName>>,
    /// What they use.
    pub used: i64,
    /// The most that they may use.
    pub most: i64,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: &Option<ProjectName>| node.as_ref().map_or("the root", ProjectName::as_str).to_owned();
        let nodes: Vec<String> = self.nodes.iter().map(name).collect();
        write!(f, "{} use {} of {} and may use {}", nodes.join(" and "), self.used, self.line, self.most)
    }
}

/// Judges one tenant's usage by its tree.
#[derive(Debug, Clone)]
pub struct Judge {
    names: Vec<Option<ProjectName>>,
    /// Each line, with its sets if quota is lent and borrowed in it.
    lines: Vec<(Line, Sets, bool)>,
}

impl Judge {
    /// The judge of a valid tree; none when it has more than [`JUDGED_MAX`] nodes.
    #[must_use]
    pub fn new(tree: &QuotaTree) -> Option<Self> {
        let projects = tree.nodes.iter().filter_map(|node| node.name.clone());
        let names: Vec<_> = std::iter::once(None).chain(projects.map(Some)).collect();
        if names.len() > JUDGED_MAX {
            return None;
        }
        let node = |name: &Option<ProjectName>| tree.nodes.iter().find(|node| node.name == *name);
        let place = |name: &Option<ProjectName>| names.iter().position(|known| known == name).unwrap_or_default();
        let parents: Vec<usize> = names.iter().map(|name| node(name).map_or(0, |node| place(&node.parent))).collect();
        let mut lines: Vec<&Line> = tree.nodes.iter().flat_map(|node| node.lines.keys()).collect();
        lines.sort();
        lines.dedup();
        let lines = lines.into_iter().map(|line| {
            let quota = |name| node(name).and_then(|node| node.lines.get(line)).copied().unwrap_or_default();
            let quotas: Vec<LineQuota> = names.iter().map(quota).collect();
            let lends = |quota: &LineQuota| {
                quota.nominal.is_some() || quota.borrowing_limit.is_some() || quota.lending_limit.is_some()
            };
            let pooled = quotas.iter().any(lends);
            (line.clone(), Sets::new(parents.clone(), quotas), pooled)
        });
        let lines = lines.collect();
        Some(Self { names, lines })
    }

    /// Everything that some usage passes: first hard limits, then sets of nodes.
    #[must_use]
    pub fn passed(&self, held: &Pots) -> Vec<Passed> {
        let mut passed = Vec::new();
        for (line, sets, pooled) in &self.lines {
            let own = self.own(line, held);
            let passes = |nodes: usize, used: i64, most: i64| Passed {
                line: line.clone(),
                nodes: self.names.iter().enumerate().filter(|(n, _)| has(nodes, *n)).map(|(_, n)| n.clone()).collect(),
                used,
                most,
            };
            for n in 0..own.len() {
                let below = (0..own.len()).filter(|m| sets.is_below(*m, n));
                let (nodes, used) = below.fold((0, 0), |(nodes, used): (usize, i64), m| {
                    (nodes | 1 << m, used.saturating_add(own.get(m).copied().unwrap_or_default()))
                });
                let limit = sets.quota(n).limit.map(signed);
                passed.extend(limit.filter(|most| used > *most).map(|most| passes(nodes, used, most)));
            }
            if *pooled {
                let all = sets.used(&own).into_iter().zip(&sets.bounds).enumerate();
                let over = all.filter_map(|(set, (used, (most, _)))| Some((set, used, (*most)?)));
                passed.extend(
                    over.filter(|(_, used, most)| used > most).map(|(set, used, most)| passes(set, used, most)),
                );
            }
        }
        passed
    }

    /// What each node itself uses of a line. What belongs to no node that is there is the root's.
    fn own(&self, line: &Line, held: &Pots) -> Vec<i64> {
        let place = |pot: &Pot| self.names.iter().position(|name| *name == pot.project).unwrap_or_default();
        let mut own = vec![0; self.names.len()];
        for (pot, charge) in held.iter().filter(|(pot, _)| counts(line, pot)) {
            if let Some(sum) = own.get_mut(place(pot)) {
                *sum += signed(line.resource.of(charge));
            }
        }
        own
    }
}
