//! The proof that the checkers see: every planted bug must be found within its budget of seeds.
//!
//! Most are planted in the product (`meridian_model::bugs`, feature `mutants`); some in the world, where the product has
//! a defence against what the world does.

use meridian_model::bugs;

use super::{schedules::Directed, world::Options};

/// A bug and how many seeds may pass before it is found.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// Seeds from the first on.
    pub budget: u64,
    /// What the faults must be about for it to show.
    pub schedule: Option<Directed>,
    /// What it does to the world; a bug of the product leaves it alone.
    world: Option<fn(&mut Options)>,
}

const fn product(name: &'static str, budget: u64) -> Mutant {
    Mutant { name, budget, schedule: None, world: None }
}

const fn directed(schedule: Directed, name: &'static str, budget: u64) -> Mutant {
    Mutant { name, budget, schedule: Some(schedule), world: None }
}

/// Every mutant. A budget is about three times the most that was needed from seeds 1, 1001 and 2001 on when it was set,
/// and at least 30.
pub const MUTANTS: [Mutant; 15] = [
    directed(Directed::Killed, bugs::NO_WRITE_AHEAD, 30),
    directed(Directed::Delayed, bugs::RESEND_BLIND, 30),
    directed(Directed::Killed, bugs::CHARGE_FREED, 30),
    directed(Directed::Delayed, bugs::FAILOVER_ON_TIMEOUT, 30),
    directed(Directed::Delayed, bugs::SILENCE_BELIEVED, 30),
    directed(Directed::Silent, bugs::EMPTY_BELIEVED, 30),
    directed(Directed::Denied, bugs::REFUSAL_BELIEVED, 30),
    product(bugs::REMOVAL_IGNORED, 30),
    directed(Directed::Undone, bugs::REMOVAL_FORGOTTEN, 30),
    directed(Directed::Undone, bugs::NOTHING_REMEMBERED, 48),
    directed(Directed::Undone, bugs::LOSS_CONFIRMED, 66),
    directed(Directed::Frozen, bugs::NO_SEND_FENCE, 48),
    product(bugs::LENDING_FORGOTTEN, 30),
    product(bugs::PROJECT_FORGOTTEN, 30),
    // A Redis that lost writes keeps its run id and is told nothing of what was seen: the incarnation guard is blind.
    Mutant { name: "no-recovery", budget: 60, schedule: None, world: Some(|options| options.keeps_run_id = true) },
];

/// The mutant of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Mutant> {
    MUTANTS.iter().find(|m| m.name == name)
}

impl Mutant {
    /// Plants it in this process; what it does to the world is in the options.
    ///
    /// # Errors
    /// This build has no bugs to plant.
    pub fn plant(&self, options: &mut Options) -> anyhow::Result<()> {
        if let Some(change) = self.world {
            change(options);
            return Ok(());
        }
        anyhow::ensure!(cfg!(feature = "mutants"), "build with --features mutants to plant {}", self.name);
        #[cfg(feature = "mutants")]
        bugs::plant(self.name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_a_name_of_its_own() {
        let names: BTreeSet<_> = MUTANTS.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), MUTANTS.len());
        assert!(MUTANTS.iter().all(|m| find(m.name).is_some()));
    }
}
