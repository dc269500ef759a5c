//! Who gives back what was borrowed, when a node wants its own quota: Kueue's `reclaimWithinCohort`.
//!
//! A create that does not fit although its node would stay within its nominal quota may have instances of *other* nodes
//! removed, if the node's policy says so: `never` (the default), `lowerPriority` (only of nodes whose priority is lower) or
//! `any`. A victim's node uses more than its nominal, of the very line that is short, when the victim is chosen; who is
//! within its nominal loses nothing. The lowest priority goes first, in it the newest, and whoever turns out not to be
//! needed is spared. Either enough becomes free, or nothing is taken. With `any` what is one's own can always be had back:
//! where no node uses more than its nominal, nothing is lent, and each nominal fits.
//!
//! What is being removed already counts as gone, so that a create that is asked again meanwhile takes no more.

use meridian_model::{
    ids::OperationId,
    quota::{Line, Reclaim},
    time::Time,
};

use super::{
    parts::{Pots, move_parts},
    tree::{Class, Tree, amount},
};

/// Most instances removed for one create: more are a sign that the quota is set wrongly, and a person should look.
pub const VICTIMS_MAX: usize = 16;

/// An instance that holds quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its operation.
    pub op: OperationId,
    /// Where what it is charged lies.
    pub parts: Pots,
    /// When it was asked for.
    pub created_at: Time,
    /// Whether it is being removed.
    pub leaving: bool,
}

/// What is to become free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taking {
    /// To be removed, in the order in which they were chosen.
    pub victims: Vec<OperationId>,
    /// How many more are being removed already.
    pub leaving: usize,
}

/// The instances to be removed so that `wish`, the parts of one create, fits beside what the pots hold, of which `held` are
/// the instances. None when its node takes nothing back, when it would be borrowing itself, or when what others borrow is
/// not enough.
#[must_use]
pub fn take_back(tree: &Tree, pots: &Pots, held: &[Held], wish: &Pots) -> Option<Taking> {
    let node = |parts: &Pots| tree.place(parts.keys().next().and_then(|pot| pot.project.as_ref()));
    let priority = |held: &Held| tree.priority(node(&held.parts));
    let fits = |pots: &Pots| tree.admit(pots, &Pots::new(), wish, Class::First);
    let wisher = node(wish);
    let how = tree.reclaim(wisher);
    if how == Reclaim::Never {
        return None;
    }
    let (leaving, mut candidates): (Vec<&Held>, Vec<&Held>) = held.iter().partition(|held| held.leaving);
    candidates
        .retain(|held| node(&held.parts) != wisher && (how == Reclaim::Any || priority(held) < tree.priority(wisher)));
    candidates.sort_by(|a, b| {
        let by_worth = priority(a).cmp(&priority(b));
        by_worth.then_with(|| b.created_at.cmp(&a.created_at)).then_with(|| a.op.cmp(&b.op))
    });
    let mut pots = pots.clone();
    for gone in &leaving {
        move_parts(&mut pots, &gone.parts, &Pots::new());
    }
    let mut chosen: Vec<&Held> = Vec::new();
    while let Err(short) = fits(&pots) {
        let line: Line = short.dimension.parse().ok()?;
        // What is beyond the node's nominal, or past a hard limit, is nobody's to give back.
        if short.borrowable.is_none() || !tree.is_within(&pots, wish, &line) || chosen.len() == VICTIMS_MAX {
            return None;
        }
        let borrowers = tree.borrowers(&pots, &line);
        let borrows = |held: &&Held| {
            borrowers.get(node(&held.parts)).copied().unwrap_or_default() && amount(&line, &held.parts) > 0
        };
        let victim = candidates.remove(candidates.iter().position(borrows)?);
        move_parts(&mut pots, &victim.parts, &Pots::new());
        chosen.push(victim);
    }
    // The last ones may have made earlier ones needless.
    let mut victims = Vec::with_capacity(chosen.len());
    for victim in chosen.into_iter().rev() {
        let mut spared = pots.clone();
        move_parts(&mut spared, &Pots::new(), &victim.parts);
        if fits(&spared).is_ok() {
            pots = spared;
        } else {
            victims.push(victim.op.clone());
        }
    }
    victims.reverse();
    Some(Taking { victims, leaving: leaving.len() })
}

#[cfg(test)]
mod tests;
