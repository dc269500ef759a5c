//! What it proves that a backend does not show something (RELIABILITY 2.5).
//!
//! Nothing, unless the last sweep was complete and showed what it had to. And where a vendor shows an empty list to who
//! may not list, nothing unless the same answer, or one before and one after it, shows an instance of which we know
//! that it is there: a *canary*, one of those that the last complete sweep showed. A permission can be withdrawn at any
//! moment and given back at another, so that having been shown something an hour ago, or a second ago, says nothing of
//! now. A backend that shows nothing of ours at all proves nothing by silence: what is in doubt there stays in doubt
//! until its token tells, something else runs there, or a person settles it.

use meridian_adapters::{AdapterError, DESCRIBE_IDS_MAX};
use meridian_model::{
    bugs,
    ids::{CloudId, CloudName},
    status::Observed,
};
use meridian_policies::budget::Purpose;

use super::{Poller, lock};

/// Canaries of a backend: as many as one call asks for beside the one it is about.
const CANARIES_MAX: usize = DESCRIBE_IDS_MAX - 1;

/// What a look-up showed.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// Every instance that was looked for.
    pub found: Vec<Observed>,
    /// What it means when nothing was found.
    pub silence: Silence,
}

/// What it means that a backend did not show something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Silence {
    /// It is not there.
    Proof,
    /// Nothing: other things that are there were not shown either.
    Hidden,
    /// Nothing: nobody knows whether it would have been shown.
    #[default]
    Unknown,
}

impl Sight {
    /// What was looked for is not there.
    #[must_use]
    pub fn proves_absence(&self) -> bool {
        self.found.is_empty() && self.silence == Silence::Proof
    }

    /// Whether what was looked for is there was not to be seen, and can be seen later.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.found.is_empty() && self.silence == Silence::Hidden
    }
}

impl Poller {
    /// Whether the last sweep was complete. Enough to believe that a deleted instance is gone when it is not shown:
    /// the delete was answered for it.
    #[must_use]
    pub fn lists_now(&self) -> bool {
        let sweeps = lock(&self.sweeps);
        sweeps.observed_at.is_some() && sweeps.failing_since.is_none() && !sweeps.unread
    }

    /// Whether the last sweep is complete and showed what it had to.
    #[must_use]
    pub fn trusts_sweeps(&self) -> bool {
        self.lists_now() && !lock(&self.sweeps).distrusted
    }

    /// Whether a list of a backend that shows nothing of ours is proof that there is nothing.
    #[must_use]
    pub fn emptiness_is_proof(&self) -> bool {
        self.trusts_sweeps() && !self.backend.capability.denies_silently
    }

    /// Looks for the instance of a name. Whoever `concludes` from silence pays for what tells what it means.
    ///
    /// # Errors
    /// The backend cannot be asked for it.
    pub async fn look_up(&self, name: CloudName, concludes: bool, purpose: &Purpose) -> Result<Sight, AdapterError> {
        let before = if concludes { self.tells_by_canaries(purpose).await } else { Silence::Unknown };
        let found = self.backend.find(name, purpose).await?;
        let silence = match before {
            Silence::Proof if found.is_empty() => self.tells_by_canaries(purpose).await,
            told => told,
        };
        Ok(Sight { found, silence: self.in_trusted_company(silence) })
    }

    /// Looks for an instance by its id, in one call with what tells what it means not to be shown.
    ///
    /// # Errors
    /// The backend cannot be asked.
    pub async fn look_at(&self, id: &CloudId, purpose: &Purpose) -> Result<Sight, AdapterError> {
        let mut asked = lock(&self.canaries).clone();
        // It is one itself if it was shown before: not to be shown now is no proof then, unless others are.
        let canaries = asked.len();
        if !asked.contains(id) {
            asked.push(id.clone());
        }
        let (found, others): (Vec<_>, Vec<_>) =
            self.backend.describe(asked, purpose).await?.into_iter().partition(|o| o.id.as_ref() == Some(id));
        Ok(Sight { found, silence: self.in_trusted_company(self.told_by(canaries, others.len())) })
    }

    /// What silence means now, by what is known to be there.
    async fn tells_by_canaries(&self, purpose: &Purpose) -> Silence {
        let canaries = lock(&self.canaries).clone();
        let asked = canaries.len();
        let shown = if asked == 0 { Ok(Vec::new()) } else { self.backend.describe(canaries, purpose).await };
        // Whoever is not answered learns nothing.
        shown.map_or(Silence::Unknown, |shown| self.told_by(asked, shown.len()))
    }

    fn told_by(&self, asked: usize, shown: usize) -> Silence {
        if bugs::planted(bugs::EMPTY_BELIEVED) {
            return Silence::Proof;
        }
        match (self.backend.capability.denies_silently, asked, shown) {
            (false, ..) => Silence::Proof,
            (true, 0, _) => Silence::Unknown,
            (true, _, 0) => Silence::Hidden,
            (true, ..) => Silence::Proof,
        }
    }

    /// Silence is no proof beside a sweep that lacks what it should show.
    fn in_trusted_company(&self, silence: Silence) -> Silence {
        match silence {
            Silence::Proof if !self.trusts_sweeps() => Silence::Unknown,
            told => told,
        }
    }

    /// Notes what a complete sweep showed of ours, as far as it stays there: what ended is forgotten by some vendors.
    /// A sweep that lacks what it should show says nothing of what is there.
    pub(super) fn keep_canaries<'o>(&self, shown: impl IntoIterator<Item = &'o Observed>) {
        if !self.backend.capability.denies_silently || lock(&self.sweeps).distrusted {
            return;
        }
        let lives = shown.into_iter().filter(|o| !o.phase.is_ended()).filter_map(|o| o.id.clone());
        // The rest of a large backend is as good, and these are there after each sweep anew.
        *lock(&self.canaries) = lives.take(CANARIES_MAX).collect();
    }
}
