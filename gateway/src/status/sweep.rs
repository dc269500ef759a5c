//! What a complete sweep of a backend showed, on its way to the reconciler.

use std::collections::BTreeSet;

use meridian_model::{
    ids::{BackendId, CloudId},
    status::Observed,
    time::Time,
};
use tokio::sync::mpsc;

/// Reports of one backend on their way: the one that is being worked on and the next. Older ones are worth nothing.
const REPORT_QUEUE: usize = 2;

/// A sweep that reached the last page.
#[derive(Debug, Clone)]
pub struct SweepReport {
    /// The backend.
    pub backend: BackendId,
    /// When its first page was asked for: what was there before and later is shown.
    pub started_at: Time,
    /// Instances with a name of this deployment.
    pub shown: Vec<Observed>,
    /// Every id that was shown, of foreign instances too: an instance that was imported has a foreign name.
    pub listed: BTreeSet<CloudId>,
    /// What it does not show can be believed not to be there (RELIABILITY 2.5, 2.8).
    pub trusted: bool,
    /// This process leads the backend's sweeps: it may act on the report. Others only keep what it tells.
    pub leads: bool,
    /// The term in which it leads, 0 without other gateways. What was remembered of another term is worth nothing:
    /// somebody else may have judged since.
    pub term: u64,
}

/// A channel for the reports of one backend.
#[must_use]
pub fn report_channel() -> (mpsc::Sender<SweepReport>, mpsc::Receiver<SweepReport>) {
    mpsc::channel(REPORT_QUEUE)
}

/// What a complete sweep did not show of what is known to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lack {
    /// Known instances that it showed.
    pub(super) seen: usize,
    /// Known instances.
    pub(super) known: usize,
    /// It would have shown the others: it showed something of ours, or who may not list is refused.
    pub(super) may_list: bool,
}

impl Lack {
    /// Whether the silence is more likely an outage or a lost permission than the end of instances (RELIABILITY 2.8):
    /// more than a fifth are missing, and more than the one that in a small fleet is always more than a fifth. A list
    /// that may be empty because we may not see it proves nothing even of one.
    pub(super) const fn is_silence(self) -> bool {
        let missing = self.known.saturating_sub(self.seen);
        let many = missing * 5 > self.known;
        many && (missing > 1 || !self.may_list)
    }
}

#[cfg(test)]
mod tests {
    use super::Lack;

    #[test]
    fn silence_is_told_from_the_end_of_one_instance() {
        let silent = |seen, known, may_list| Lack { seen, known, may_list }.is_silence();
        for (seen, known) in [(0, 0), (3, 3), (0, 1), (1, 2), (3, 4), (4, 5), (8, 10), (80, 100)] {
            assert!(!silent(seen, known, true), "{seen} of {known}");
        }
        for (seen, known) in [(0, 2), (1, 3), (2, 4), (3, 5), (7, 10), (79, 100), (0, 100)] {
            assert!(silent(seen, known, true), "{seen} of {known}");
        }
        // Nothing of ours in a list that hides from who may not see: the one instance may still run.
        assert!(silent(0, 1, false) && silent(0, 3, false) && !silent(0, 0, false));
    }
}
