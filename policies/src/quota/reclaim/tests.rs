use meridian_model::{
    ids::ProjectName,
    operation::Charge,
    quota::{LineQuota, QuotaNode, QuotaTree},
};
use proptest::prelude::*;

use super::*;
use crate::quota::parts::Pot;

/// The root, three nodes below it, and one below the first of them.
const NAMES: [&str; 5] = ["", "a", "b", "c", "a1"];
const ROOT: usize = 0;

#[derive(Debug, Clone, Copy)]
struct Node {
    nominal: u64,
    limit: Option<u64>,
    reclaim: Option<Reclaim>,
    priority: Option<i32>,
}

const PLAIN: Node = Node { nominal: 2, limit: None, reclaim: None, priority: None };

fn name(n: usize) -> Option<ProjectName> {
    ProjectName::new(NAMES[n]).ok()
}

fn line() -> Line {
    "instances".parse().unwrap()
}

fn tree(nodes: [Node; 5]) -> Tree {
    let node = |(n, node): (usize, Node)| QuotaNode {
        name: name(n),
        parent: name(1).filter(|_| n == 4),
        lines: [(line(), LineQuota { nominal: Some(node.nominal), limit: node.limit, ..LineQuota::default() })].into(),
        reclaim: node.reclaim,
        priority: node.priority,
        ..QuotaNode::default()
    };
    Tree::new(&QuotaTree { nodes: nodes.into_iter().enumerate().map(node).collect() }).unwrap()
}

fn parts(n: usize, instances: u64) -> Pots {
    let pot = Pot { project: name(n), ..Pot::default() };
    [(pot, Charge { instances, ..Charge::default() })].into()
}

/// Instances of some nodes and sizes, in the order in which they were asked for.
fn held(of: &[(usize, u64)]) -> (Pots, Vec<Held>) {
    let mut pots = Pots::new();
    let one = |(at, (n, size)): (usize, &(usize, u64))| {
        let parts = parts(*n, *size);
        move_parts(&mut pots, &Pots::new(), &parts);
        let created_at = Time::from_unix_ms(i64::try_from(at).unwrap());
        let op = OperationId::new(format!("{}-{at}", if *n == ROOT { "root" } else { NAMES[*n] })).unwrap();
        Held { op, parts, created_at, leaving: false }
    };
    let held = of.iter().enumerate().map(one).collect();
    (pots, held)
}

fn victims(taking: Option<Taking>) -> Option<Vec<String>> {
    taking.map(|taking| taking.victims.iter().map(ToString::to_string).collect())
}

fn nodes(reclaim: Reclaim, priorities: [i32; 3]) -> [Node; 5] {
    let of = |priority| Node { priority: Some(priority), ..PLAIN };
    let root = Node { nominal: 0, reclaim: Some(reclaim), ..PLAIN };
    let [a, b, c] = priorities.map(of);
    [root, a, b, c, Node { nominal: 0, ..PLAIN }]
}

#[test]
fn the_lowest_and_the_newest_go_first() {
    let (pots, all) = held(&[(1, 1), (1, 1), (2, 1), (2, 1), (2, 1), (2, 1)]);
    let ask =
        |reclaim, priorities, wish| victims(take_back(&tree(nodes(reclaim, priorities)), &pots, &all, &parts(3, wish)));
    let some = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(ask(Reclaim::Never, [0, 0, 0], 1), None);
    assert_eq!(ask(Reclaim::Any, [0, 0, 0], 1), some(&["b-5"]), "the newest that is borrowed");
    assert_eq!(ask(Reclaim::Any, [-1, 0, 0], 1), some(&["b-5"]), "a is within its own quota");
    assert_eq!(ask(Reclaim::LowerPriority, [0, 0, 0], 1), None);
    assert_eq!(ask(Reclaim::LowerPriority, [0, 0, 1], 2), some(&["b-5", "b-4"]));
    assert_eq!(ask(Reclaim::Any, [0, 0, 0], 3), None, "more than is c's own");

    let (pots, all) = held(&[(1, 1), (1, 1), (1, 1), (2, 1), (2, 1), (2, 1)]);
    let lower = tree(nodes(Reclaim::Any, [-1, 0, 0]));
    assert_eq!(victims(take_back(&lower, &pots, &all, &parts(3, 1))), some(&["a-2"]), "a matters less than b");
    // What is below a node has its priority and its policy, unless it says otherwise.
    let (pots, all) = held(&[(4, 1), (4, 1), (4, 1), (2, 1), (2, 1), (2, 1)]);
    assert_eq!(victims(take_back(&lower, &pots, &all, &parts(3, 1))), some(&["a1-2"]));
}

#[test]
fn what_is_leaving_already_is_waited_for() {
    let (pots, mut all) = held(&[(2, 3), (2, 3)]);
    let tree = tree(nodes(Reclaim::Any, [0, 0, 0]));
    let ask = |all: &[Held], wish| take_back(&tree, &pots, all, &parts(3, wish)).unwrap();
    assert_eq!(victims(Some(ask(&all, 1))).unwrap(), ["b-1"]);
    all[1].leaving = true;
    assert_eq!(ask(&all, 2), Taking { victims: Vec::new(), leaving: 1 });
}

#[test]
fn a_hard_limit_and_too_many_victims_are_left_to_people() {
    let mut limited = nodes(Reclaim::Any, [0, 0, 0]);
    limited[ROOT].limit = Some(3);
    let (pots, all) = held(&[(2, 3)]);
    assert_eq!(take_back(&tree(limited), &pots, &all, &parts(3, 1)), None);
    let mut many = nodes(Reclaim::Any, [0, 0, 0]);
    many[3].nominal = 40;
    let (pots, all) = held(&[(2, 1); 44]);
    let ask = |wish| take_back(&tree(many), &pots, &all, &parts(3, wish)).map(|taking| taking.victims.len());
    assert_eq!((ask(16), ask(17)), (Some(16), None));
}

fn node() -> impl Strategy<Value = Node> {
    let reclaim = prop_oneof![
        1 => Just(None),
        1 => Just(Some(Reclaim::Never)),
        2 => Just(Some(Reclaim::LowerPriority)),
        4 => Just(Some(Reclaim::Any)),
    ];
    (0..5_u64, reclaim, prop::option::of(-2..3_i32)).prop_map(|(nominal, reclaim, priority)| Node {
        nominal,
        limit: None,
        reclaim,
        priority,
    })
}

fn nodes_of() -> impl Strategy<Value = [Node; 5]> {
    prop::array::uniform5(node())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn only_what_is_borrowed_is_taken_and_no_more_than_is_needed(
        nodes in nodes_of(),
        of in prop::collection::vec((0..5_usize, 1..4_u64), 0..14),
        (wisher, size) in (0..5_usize, 1..4_u64),
    ) {
        let tree = tree(nodes);
        let (mut pots, mut all) = (Pots::new(), Vec::new());
        for held in held(&of).1 {
            if tree.admit(&pots, &Pots::new(), &held.parts, Class::First).is_ok() {
                move_parts(&mut pots, &Pots::new(), &held.parts);
                all.push(held);
            }
        }
        let wish = parts(wisher, size);
        let fits = |pots: &Pots| tree.admit(pots, &Pots::new(), &wish, Class::First).is_ok();
        let at = |n: usize| tree.place(name(n).as_ref());
        let (how, mine) = (tree.reclaim(at(wisher)), tree.priority(at(wisher)));
        let used = |pots: &Pots, n: usize| pots.get(parts(n, 1).keys().next().unwrap()).map_or(0, |c| c.instances);
        let is_own = used(&pots, wisher) + size <= nodes[wisher].nominal;
        let Some(taking) = take_back(&tree, &pots, &all, &wish) else {
            prop_assert!(how == Reclaim::Never || !fits(&pots));
            prop_assert!(!(how == Reclaim::Any && is_own), "what is one's own can always be had back");
            return Ok(());
        };
        prop_assert_eq!(taking.victims.is_empty(), fits(&pots));
        prop_assert!(how != Reclaim::Never && taking.victims.len() <= VICTIMS_MAX);
        prop_assert!(is_own || taking.victims.is_empty(), "it would be borrowing itself");
        let mut after = pots.clone();
        let mut taken = Vec::new();
        for op in &taking.victims {
            let victim = all.iter().find(|held| held.op == *op).unwrap();
            let project = victim.parts.keys().next().unwrap().project.clone();
            let n = (0..NAMES.len()).find(|n| name(*n) == project).unwrap();
            prop_assert!(n != wisher && (how == Reclaim::Any || tree.priority(at(n)) < mine));
            prop_assert!(used(&after, n) > nodes[n].nominal, "nobody loses what is its own");
            move_parts(&mut after, &victim.parts, &Pots::new());
            taken.push(victim);
        }
        prop_assert!(fits(&after));
        for victim in taken {
            let mut spared = after.clone();
            move_parts(&mut spared, &Pots::new(), &victim.parts);
            prop_assert!(!fits(&spared), "each of them is needed");
        }
    }
}
