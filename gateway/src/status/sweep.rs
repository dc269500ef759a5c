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
}

/// A channel for the reports of one backend.
#[must_use]
pub fn report_channel() -> (mpsc::Sender<SweepReport>, mpsc::Receiver<SweepReport>) {
    mpsc::channel(REPORT_QUEUE)
}
