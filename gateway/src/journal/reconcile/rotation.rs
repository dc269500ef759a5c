//! Which of very many names the ledger is read for after a sweep: each has its turn.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Included, Unbounded},
};

use meridian_model::ids::CloudId;

/// At most `most` of the names, in a circle from behind the last that had its turn: each of `n` names has one in
/// `n / most` turns, rounded up. The last of them comes with them, for the next turn.
#[must_use]
pub fn turn(names: &BTreeSet<CloudId>, behind: Option<&CloudId>, most: usize) -> (BTreeSet<CloudId>, Option<CloudId>) {
    let after = names.range::<CloudId, _>((behind.map_or(Unbounded, Excluded), Unbounded));
    let before = names.range::<CloudId, _>((Unbounded, behind.map_or(Unbounded, Included)));
    let circle: Vec<&CloudId> = after.chain(before).take(most.min(names.len())).collect();
    let last = circle.last().map(|id| (*id).clone());
    (circle.into_iter().cloned().collect(), last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> BTreeSet<CloudId> {
        (0..count).map(|n| format!("i-{n:05}").parse().unwrap()).collect()
    }

    #[test]
    fn each_name_has_its_turn() {
        for (count, most) in [(0, 10), (1, 10), (10, 10), (11, 10), (25, 10), (2500, 1000), (7, 1)] {
            let names = names(count);
            let (mut seen, mut behind) = (BTreeSet::new(), None);
            for _ in 0..count.div_ceil(most) {
                let (chosen, last) = turn(&names, behind.as_ref(), most);
                assert!(chosen.len() <= most);
                seen.extend(chosen);
                behind = last;
            }
            assert_eq!(seen, names, "{count} by {most}");
        }
    }

    #[test]
    fn names_that_come_and_go_cost_nobody_their_turn() {
        let mut all = names(30);
        let (first, last) = turn(&all, None, 10);
        // The one it stopped at is gone, and others came before it.
        all.remove(last.as_ref().unwrap());
        all.extend(["a-1", "a-2"].map(|id| id.parse().unwrap()));
        let (second, last) = turn(&all, last.as_ref(), 10);
        let (third, _) = turn(&all, last.as_ref(), 10);
        assert!(first.is_disjoint(&second) && second.is_disjoint(&third) && first.is_disjoint(&third));
        let (few, _) = turn(&names(3), Some(&"i-00001".parse().unwrap()), 10);
        assert_eq!(few, names(3), "all of few, once each");
    }
}
