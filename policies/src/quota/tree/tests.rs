use meridian_model::{
    ids::{AdapterName, RegionId},
    operation::Charge,
    quantity::{MilliCpu, PricePerHour},
    quota::QuotaNode,
};
use proptest::prelude::*;

use super::*;
use crate::quota::parts::move_parts;

/// Kueue's own arithmetic for one resource, as it is written there: usage is kept on every node and carried upwards with
/// each change, and what is available is asked recursively.
#[derive(Debug, Default)]
struct Kueue {
    nodes: Vec<KueueNode>,
}

#[derive(Debug, Default, Clone)]
struct KueueNode {
    parent: Option<usize>,
    nominal: i64,
    borrowing_limit: Option<i64>,
    lending_limit: Option<i64>,
    usage: i64,
}

impl Kueue {
    fn subtree_quota(&self, n: usize) -> i64 {
        let children = (0..self.nodes.len()).filter(|c| self.nodes[*c].parent == Some(n));
        self.nodes[n].nominal + children.map(|c| self.subtree_quota(c) - self.guaranteed_quota(c)).sum::<i64>()
    }

    fn guaranteed_quota(&self, n: usize) -> i64 {
        self.nodes[n].lending_limit.map_or(0, |limit| (self.subtree_quota(n) - limit).max(0))
    }

    fn local_available(&self, n: usize) -> i64 {
        (self.guaranteed_quota(n) - self.nodes[n].usage).max(0)
    }

    fn available(&self, n: usize) -> i64 {
        let node = &self.nodes[n];
        let Some(parent) = node.parent else { return self.subtree_quota(n) - node.usage };
        let mut parent_available = self.available(parent);
        if let Some(limit) = node.borrowing_limit {
            let stored_in_parent = self.subtree_quota(n) - self.guaranteed_quota(n);
            let used_in_parent = (node.usage - self.guaranteed_quota(n)).max(0);
            parent_available = parent_available.min(stored_in_parent - used_in_parent + limit);
        }
        self.local_available(n) + parent_available
    }

    fn add_usage(&mut self, n: usize, amount: i64) {
        let local = self.local_available(n);
        self.nodes[n].usage += amount;
        if let Some(parent) = self.nodes[n].parent.filter(|_| amount > local) {
            self.add_usage(parent, amount - local);
        }
    }

    fn remove_usage(&mut self, n: usize, amount: i64) {
        let stored_in_parent = self.nodes[n].usage - self.guaranteed_quota(n);
        self.nodes[n].usage -= amount;
        if let Some(parent) = self.nodes[n].parent.filter(|_| stored_in_parent > 0) {
            self.remove_usage(parent, amount.min(stored_in_parent));
        }
    }
}

fn name(n: usize) -> Option<ProjectName> {
    (n > 0).then(|| ProjectName::new(format!("n{n}")).unwrap())
}

fn pot(n: usize, region: &str) -> Pot {
    Pot {
        project: name(n),
        provider: AdapterName::new(if region == "r1" { "cloud-a" } else { "cloud-b" }).ok(),
        region: RegionId::new(region).ok(),
        gpu_model: None,
    }
}

fn line(text: &str) -> Line {
    text.parse().unwrap()
}

fn charge(instances: u64) -> Charge {
    Charge { instances, cpu: MilliCpu(instances * 500), cost: PricePerHour(instances * 7), ..Charge::default() }
}

/// Parents of so many nodes, each before its children, on at most five levels.
fn parents() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12).prop_map(|picks| {
        let (mut parents, mut levels) = (vec![0], vec![1]);
        for pick in picks {
            let open: Vec<usize> = (0..parents.len()).filter(|n| levels[*n] < LEVELS_MAX).collect();
            let parent = open[pick.index(open.len())];
            parents.push(parent);
            levels.push(levels[parent] + 1);
        }
        parents
    })
}

fn quota(limits: bool) -> impl Strategy<Value = LineQuota> {
    let some = || prop::option::of(0..12_u64);
    (some(), some(), some(), prop::option::weighted(0.3, 0..20_u64), prop::option::weighted(0.2, 0..4_u64)).prop_map(
        move |(nominal, borrowing_limit, lending_limit, limit, reserve)| {
            let limit = limit.filter(|_| limits);
            let bound = limit.or(nominal).unwrap_or_default();
            LineQuota {
                nominal,
                borrowing_limit,
                lending_limit,
                limit,
                failover_reserve: reserve.map(|r| r.min(bound)).filter(|_| limits),
            }
        },
    )
}

fn config(parents: &[usize], lines: &[(&str, Vec<LineQuota>)]) -> QuotaTree {
    let nodes = parents.iter().enumerate().map(|(n, parent)| QuotaNode {
        name: name(n),
        parent: name(*parent).filter(|_| n > 0),
        lines: lines
            .iter()
            .filter_map(|(text, quotas)| Some((line(text), *quotas.get(n)?)))
            .filter(|(_, quota)| *quota != LineQuota::default())
            .collect(),
        ..QuotaNode::default()
    });
    QuotaTree { nodes: nodes.collect() }
}

/// A create (its node, its region, its size, whether it is a failover) or the removal of an earlier one.
#[derive(Debug, Clone)]
enum Event {
    Create(prop::sample::Index, bool, u64, bool),
    Remove(prop::sample::Index),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        3 => (any::<prop::sample::Index>(), any::<bool>(), 1..6_u64, prop::bool::weighted(0.2))
            .prop_map(|(node, first, size, failover)| Event::Create(node, first, size, failover)),
        1 => any::<prop::sample::Index>().prop_map(Event::Remove),
    ];
    prop::collection::vec(one, 1..60)
}

fn quotas(limits: bool) -> impl Strategy<Value = Vec<LineQuota>> {
    prop::collection::vec(quota(limits), 13)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_answers_as_kueue_does(parents in parents(), quotas in quotas(false), events in events()) {
        let tree = Tree::new(&config(&parents, &[("instances", quotas.clone())])).unwrap();
        let node = |(n, parent): (usize, &usize)| KueueNode {
            parent: (n > 0).then_some(*parent),
            nominal: quotas[n].nominal.map_or(0, signed),
            borrowing_limit: quotas[n].borrowing_limit.map(signed),
            lending_limit: quotas[n].lending_limit.map(signed),
            usage: 0,
        };
        let mut kueue = Kueue { nodes: parents.iter().enumerate().map(node).collect() };
        prop_assume!(!tree.is_empty() && tree.pools()[0].pooled);
        // A tree sorts its nodes.
        let index: Vec<usize> = (0..parents.len()).map(|n| tree.place(name(n).as_ref())).collect();
        let (mut held, mut living) = (Pots::new(), Vec::new());
        for event in events {
            match event {
                Event::Create(pick, _, size, _) => {
                    let n = pick.index(parents.len());
                    let new: Pots = [(pot(n, "r1"), charge(size))].into();
                    let fits = signed(size) <= kueue.available(n);
                    prop_assert_eq!(tree.admit(&held, &Pots::new(), &new, Class::First).is_ok(), fits);
                    if fits {
                        kueue.add_usage(n, signed(size));
                        move_parts(&mut held, &Pots::new(), &new);
                        living.push((n, size, new));
                    }
                }
                Event::Remove(pick) if !living.is_empty() => {
                    let (n, size, old) = living.remove(pick.index(living.len()));
                    kueue.remove_usage(n, signed(size));
                    move_parts(&mut held, &old, &Pots::new());
                }
                Event::Remove(_) => {}
            }
            let stands = tree.stands(&tree.pools()[0], &held);
            for (n, at) in index.iter().enumerate() {
                let have = stands[*at].available;
                prop_assert_eq!(have, Some(unsigned(kueue.available(n).max(0))), "node {}", n);
                let over = (kueue.nodes[n].usage - kueue.subtree_quota(n)).max(0);
                prop_assert_eq!(stands[*at].borrowed, unsigned(over));
                prop_assert!(stands[*at].lent <= unsigned(kueue.subtree_quota(n)));
            }
        }
    }

    #[test]
    fn nothing_passes_a_limit_and_what_is_guaranteed_is_there(
        parents in parents(),
        lines in (quotas(true), quotas(true), quotas(true)),
        events in events(),
    ) {
        let lines = [("instances", lines.0), ("cost@provider:cloud-b", lines.1), ("cpu@region:r1", lines.2)];
        let tree = Tree::new(&config(&parents, &lines)).unwrap();
        let (mut held, mut living) = (Pots::new(), Vec::new());
        let mut failovers = false;
        for event in events {
            let (old, new, class) = match event {
                Event::Create(pick, first, size, failover) => {
                    let n = pick.index(parents.len());
                    let region = if first { "r1" } else { "r2" };
                    let class = if failover { Class::Failover } else { Class::First };
                    (Pots::new(), [(pot(n, region), charge(size))].into(), class)
                }
                Event::Remove(pick) if !living.is_empty() => {
                    (living.remove(pick.index(living.len())), Pots::new(), Class::First)
                }
                Event::Remove(_) => continue,
            };
            let admitted = tree.admit(&held, &old, &new, class);
            prop_assert!(admitted.is_ok() || !new.is_empty(), "a release is never refused");
            if admitted.is_err() {
                continue;
            }
            failovers |= class == Class::Failover;
            move_parts(&mut held, &old, &new);
            if !new.is_empty() {
                living.push(new);
            }
            for pool in tree.pools() {
                let flow = tree.flow(pool, &held, None, None);
                for (n, cell) in pool.cells.iter().enumerate() {
                    prop_assert!(cell.limit.is_none_or(|limit| flow.total[n] <= limit));
                    if !pool.pooled {
                        continue;
                    }
                    let left = tree.available(pool, &flow, n);
                    prop_assert!(left >= 0, "no node is short of what it has");
                    prop_assert!(left >= cell.guaranteed - flow.usage[n], "what is not lent is there");
                    let bound = cell.borrowing.map(|most| cell.subtree + most).filter(|_| n > 0);
                    prop_assert!(bound.is_none_or(|most| flow.usage[n] <= most));
                    if n == 0 {
                        prop_assert!(flow.usage[0] <= cell.subtree, "no more is lent than there is");
                    }
                }
            }
        }
        // First instances alone leave every reserve.
        if !failovers {
            for pool in tree.pools() {
                let whole = tree.flow(pool, &Pots::new(), None, Some((0, Class::First)));
                let holds = |n: usize| tree.available(pool, &whole, n) >= 0 || !pool.pooled;
                let within = |n: usize| pool.cells[n].limit.is_none_or(|limit| whole.total[n] <= limit);
                if !(0..pool.cells.len()).all(|n| holds(n) && within(n)) {
                    // More is reserved than there is.
                    continue;
                }
                for (n, cell) in pool.cells.iter().enumerate().filter(|(_, cell)| cell.reserve > 0) {
                    let flow = tree.flow(pool, &held, None, Some((n, Class::Failover)));
                    prop_assert!(tree.fits(pool, &flow, (n, 0, cell.reserve)).is_ok(), "node {} of {:?}", n, pool);
                }
            }
        }
    }
}

fn of(nominal: u64) -> LineQuota {
    LineQuota { nominal: Some(nominal), ..LineQuota::default() }
}

#[test]
fn a_shortage_names_node_line_and_what_can_be_borrowed() {
    let lend = LineQuota { lending_limit: Some(2), ..of(6) };
    let tree = Tree::new(&config(&[0, 0, 0], &[("instances", vec![of(1), of(4), lend])])).unwrap();
    let held: Pots = [(pot(1, "r1"), charge(4))].into();
    let ask = |n: u64| tree.admit(&held, &Pots::new(), &[(pot(1, "r1"), charge(n))].into(), Class::First);
    assert_eq!(ask(3), Ok(()));
    let short = ask(4).unwrap_err();
    assert_eq!(
        (&*short.dimension, short.node, &*short.limit, &*short.used, &*short.requested, short.borrowable.as_deref()),
        ("instances", name(1), "4", "4", "4", Some("3"))
    );
    let limited = LineQuota { limit: Some(2000), ..LineQuota::default() };
    let tree = Tree::new(&config(&[0, 0], &[("cpu@region:r1", vec![limited])])).unwrap();
    let short = tree.admit(&held, &Pots::new(), &[(pot(1, "r1"), charge(1))].into(), Class::First).unwrap_err();
    assert_eq!((&*short.dimension, short.node, &*short.limit, &*short.used), ("cpu@region:r1", None, "2", "2"));
    assert_eq!(tree.admit(&held, &Pots::new(), &[(pot(1, "r2"), charge(9))].into(), Class::First), Ok(()));
}

#[test]
fn a_move_to_another_place_is_checked_there_only() {
    let limited = LineQuota { limit: Some(1), ..LineQuota::default() };
    let full = LineQuota { limit: Some(2), ..LineQuota::default() };
    let tree = Tree::new(&config(&[0], &[("instances", vec![full]), ("instances@region:r2", vec![limited])])).unwrap();
    let held: Pots = [(pot(0, "r1"), charge(2))].into();
    let (old, new) = ([(pot(0, "r1"), charge(1))].into(), [(pot(0, "r2"), charge(1))].into());
    assert_eq!(tree.admit(&held, &old, &new, Class::First), Ok(()));
    let held: Pots = [(pot(0, "r1"), charge(1)), (pot(0, "r2"), charge(1))].into();
    let short = tree.admit(&held, &old, &new, Class::First).unwrap_err();
    assert_eq!((&*short.dimension, &*short.used), ("instances@region:r2", "1"));
}

#[test]
fn gpus_are_counted_by_model_and_together() {
    let limit = |n| LineQuota { limit: Some(n), ..LineQuota::default() };
    let tree = Tree::new(&config(&[0], &[("gpu", vec![limit(3)]), ("gpu:T4", vec![limit(2)])])).unwrap();
    let gpus = |model: &str, gpu| -> Pots {
        let pot = Pot { gpu_model: Some(model.to_owned()), ..pot(0, "r1") };
        [(pot, Charge { gpu, ..Charge::default() })].into()
    };
    let held = gpus("T4", 1);
    let ask = |new: Pots| tree.admit(&held, &Pots::new(), &new, Class::First).map_err(|short| short.dimension);
    assert_eq!(ask(gpus("T4", 1)), Ok(()));
    assert_eq!(ask(gpus("T4", 2)), Err("gpu:T4".to_owned()));
    assert_eq!(ask(gpus("A10", 2)), Ok(()));
    assert_eq!(ask(gpus("A10", 3)), Err("gpu".to_owned()));
}

#[test]
fn a_reserve_is_left_to_failovers() {
    let reserved = LineQuota { failover_reserve: Some(2), ..of(5) };
    let tree = Tree::new(&config(&[0, 0, 0], &[("instances", vec![LineQuota::default(), reserved, of(1)])])).unwrap();
    let ask = |held: &Pots, n: usize, size, class| {
        tree.admit(held, &Pots::new(), &[(pot(n, "r1"), charge(size))].into(), class).is_ok()
    };
    let none = Pots::new();
    assert!(ask(&none, 2, 4, Class::First) && !ask(&none, 2, 5, Class::First), "nobody borrows the reserve");
    assert!(!ask(&none, 2, 5, Class::Failover), "nor is it another's for a failover");
    assert!(ask(&none, 1, 4, Class::First), "with what can be borrowed");
    let used: Pots = [(pot(1, "r1"), charge(4))].into();
    assert!(!ask(&used, 1, 1, Class::First));
    assert!(ask(&used, 1, 2, Class::Failover) && !ask(&used, 1, 3, Class::Failover));
}

#[test]
fn every_fault_of_a_tree_is_told() {
    let node = |name: &str, parent: &str, lines: &[(&str, LineQuota)]| QuotaNode {
        name: ProjectName::new(name).ok(),
        parent: ProjectName::new(parent).ok(),
        lines: lines.iter().map(|(text, quota)| (line(text), *quota)).collect(),
        ..QuotaNode::default()
    };
    let reserved = LineQuota { failover_reserve: Some(2), ..of(1) };
    let tree = QuotaTree {
        nodes: vec![
            node("a", "b", &[]),
            node("b", "a", &[("cpu", of(AMOUNT_MAX + 1))]),
            node("c", "nobody", &[("instances", reserved)]),
            node("d", "", &[]),
            node("d", "", &[]),
            node("e1", "", &[]),
            node("e2", "e1", &[]),
            node("e3", "e2", &[]),
            node("e4", "e3", &[]),
            node("e5", "e4", &[]),
        ],
    };
    let faults: Vec<String> = Tree::new(&tree).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "d: named twice; give each node a name of its own",
            "e5: on level 6; use at most 5 levels",
            "a: its parents go round in a circle, by b; name a parent that is above it",
            "b: its parents go round in a circle, by a; name a parent that is above it",
            "c: there is no node nobody; name a node that is there, or leave the parent out",
            "b, cpu: an amount is too large; use at most 35184372088832m",
            "c, instances: more is reserved for failovers than the node has; give the node a nominal or a limit that \
             holds the reserve",
        ]
    );
}
