use meridian_model::{
    ids::{AdapterName, RegionId},
    operation::Charge,
    quantity::{MilliCpu, PricePerHour},
    quota::QuotaNode,
};
use proptest::prelude::*;

use super::*;
use crate::quota::{
    judge::{Judge, Sets},
    parts::move_parts,
};

/// Nodes of a tree whose sets are enumerated: 2^8 of them at every step.
const ENUMERATED_MAX: usize = 8;

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

/// Parents of at most so many nodes, each before its children, on at most five levels.
fn parents(most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..most).prop_map(|picks| {
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
    fn a_tree_knows_what_any_set_of_nodes_leaves(
        parents in parents(ENUMERATED_MAX),
        quotas in quotas(false),
        events in events(),
    ) {
        let config = config(&parents, &[("instances", quotas.clone())]);
        let tree = Tree::new(&config).unwrap();
        prop_assume!(!tree.is_empty() && tree.pools()[0].pooled);
        let judge = Judge::new(&config).unwrap();
        // A tree sorts its nodes.
        let index: Vec<usize> = (0..parents.len()).map(|n| tree.place(name(n).as_ref())).collect();
        let (mut own, sets) = (vec![0; parents.len()], Sets::new(parents, quotas.clone()));
        let (mut held, mut living) = (Pots::new(), Vec::new());
        let mut left = sets.left(&own);
        for event in events {
            match event {
                Event::Create(pick, _, size, _) => {
                    let n = pick.index(own.len());
                    let new: Pots = [(pot(n, "r1"), charge(size))].into();
                    let fits = signed(size) <= left[n].0.unwrap();
                    prop_assert_eq!(tree.admit(&held, &Pots::new(), &new, Class::First).is_ok(), fits);
                    let mut then = held.clone();
                    move_parts(&mut then, &Pots::new(), &new);
                    prop_assert_eq!(judge.passed(&then).is_empty(), fits);
                    if fits {
                        own[n] += signed(size);
                        move_parts(&mut held, &Pots::new(), &new);
                        living.push((n, size, new));
                    }
                }
                Event::Remove(pick) if !living.is_empty() => {
                    let (n, size, old) = living.remove(pick.index(living.len()));
                    own[n] -= signed(size);
                    move_parts(&mut held, &old, &Pots::new());
                }
                Event::Remove(_) => {}
            }
            left = sets.left(&own);
            let stands = tree.stands(&tree.pools()[0], &held);
            for (n, (available, balance)) in left.iter().enumerate() {
                let (available, balance) = (available.unwrap(), balance.unwrap());
                let stand = stands[index[n]];
                prop_assert_eq!(stand.available, Some(unsigned(available)), "node {}", n);
                prop_assert_eq!(stand.borrowed, unsigned(-balance), "node {}", n);
                let lends_most = quotas[n].lending_limit.map_or(i64::MAX, signed);
                prop_assert!(stand.lent <= unsigned(lends_most.min(balance)), "node {}", n);
            }
        }
    }

    #[test]
    fn nothing_passes_a_limit_and_what_is_guaranteed_is_there(
        parents in parents(13),
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

/// The two examples by which Kueue explains its terms (Concepts, ClusterQueue, "BorrowingLimit" and "LendingLimit").
#[test]
fn borrowing_and_lending_limits_mean_what_they_mean_in_kueue() {
    let borrows = LineQuota { borrowing_limit: Some(1), ..of(9) };
    let lends = LineQuota { lending_limit: Some(1), ..of(12) };
    for (a, b) in [(borrows, of(12)), (of(9), lends)] {
        let tree = Tree::new(&config(&[0, 0, 0], &[("instances", vec![LineQuota::default(), a, b])])).unwrap();
        let available: Vec<_> =
            tree.stands(&tree.pools()[0], &Pots::new()).iter().map(|stand| stand.available).collect();
        assert_eq!(available, [Some(if a == borrows { 21 } else { 10 }), Some(10), Some(21)]);
    }
}

#[test]
fn a_judge_names_who_passes_what() {
    let lends = LineQuota { lending_limit: Some(1), ..of(2) };
    let limited = LineQuota { limit: Some(1), ..LineQuota::default() };
    let none = LineQuota::default();
    let lines =
        [("instances", vec![none, lends, of(1), none]), ("instances@region:r1", vec![none, none, limited, none])];
    // The third hangs below the second.
    let judge = Judge::new(&config(&[0, 0, 0, 2], &lines)).unwrap();
    let told = |held: &[(Pot, Charge)]| -> Vec<String> {
        judge.passed(&held.iter().cloned().collect()).iter().map(ToString::to_string).collect()
    };
    assert_eq!(told(&[(pot(2, "r2"), charge(1)), (pot(3, "r1"), charge(1))]), Vec::<String>::new());
    let both = told(&[(pot(2, "r1"), charge(1)), (pot(3, "r1"), charge(1))]);
    assert_eq!(both, ["n2 and n3 use 2 of instances@region:r1 and may use 1"]);
    let borrowed = told(&[(pot(2, "r2"), charge(2)), (pot(3, "r2"), charge(1))]);
    assert_eq!(borrowed, ["the root and n2 and n3 use 3 of instances and may use 2"]);
    assert!(told(&[(pot(9, "r2"), charge(3))]).iter().any(|told| told.starts_with("the root")), "the root's");
    assert!(Judge::new(&config(&[0; 11], &[])).is_none());
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
