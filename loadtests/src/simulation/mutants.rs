//! The proof that the checkers see: every planted bug must be found within its budget of seeds.
//!
//! Most are planted in the product (`meridian_model::bugs`, feature `mutants`); some in the world, where the product has
//! a defence against what the world does.

use meridian_model::bugs;

use super::world::Options;

/// A bug and how many seeds may pass before it is found.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// Seeds from the first on.
    pub budget: u64,
    /// What it does to the world.
    world: fn(&mut Options),
}

const fn product(name: &'static str, budget: u64) -> Mutant {
    Mutant { name, budget, world: |_| {} }
}

/// Every mutant. A budget is about three times what was needed when it was set.
pub const MUTANTS: [Mutant; 9] = [
    product(bugs::NO_WRITE_AHEAD, 60),
    product(bugs::RESEND_BLIND, 60),
    product(bugs::CHARGE_FREED, 60),
    product(bugs::FAILOVER_ON_TIMEOUT, 30),
    product(bugs::SILENCE_BELIEVED, 60),
    product(bugs::REMOVAL_FORGOTTEN, 200),
    product(bugs::REMOVAL_IGNORED, 30),
    // The vendors take signatures of any age as well: each of the two fences covers for the other.
    Mutant { name: bugs::NO_SEND_FENCE, budget: 200, world: |options| options.old_signatures = true },
    // A Redis that lost writes keeps its run id, so that the incarnation guard is blind.
    Mutant { name: "no-recovery", budget: 60, world: |options| options.keeps_run_id = true },
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
        (self.world)(options);
        #[cfg(feature = "mutants")]
        bugs::plant(self.name);
        anyhow::ensure!(
            cfg!(feature = "mutants") || self.name == "no-recovery",
            "build with --features mutants to plant {}",
            self.name
        );
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
