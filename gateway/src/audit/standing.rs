//! Whether the disk takes records; shared by the thread that writes and by who asks before a change is begun.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};

use crate::telemetry::audit::AuditMetrics;

/// What is wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The disk's words.
    pub why: Arc<str>,
    /// Since when.
    pub since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Standing {
    trouble: watch::Sender<Option<Trouble>>,
    metrics: Arc<AuditMetrics>,
}

impl Standing {
    /// A log against which nothing is known.
    pub(super) fn new(metrics: Arc<AuditMetrics>) -> Self {
        metrics.unwritable(false);
        Self { trouble: watch::Sender::new(None), metrics }
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble.borrow().clone()
    }

    /// The disk took nothing. Said once, however many meet it.
    pub(super) fn failed(&self, why: &str) {
        let is_new = self.trouble.send_if_modified(|trouble| {
            let is_new = trouble.is_none();
            let since = trouble.as_ref().map_or_else(Instant::now, |known| known.since);
            *trouble = Some(Trouble { why: why.into(), since });
            is_new
        });
        if is_new {
            self.metrics.unwritable(true);
            tracing::error!(
                why,
                "the audit log cannot be written: this gateway changes nothing until it can; look at its disk"
            );
        }
    }

    /// A probe wrote.
    pub(super) fn mended(&self) {
        if let Some(trouble) = self.trouble.send_replace(None) {
            self.metrics.unwritable(false);
            let seconds = trouble.since.elapsed().as_secs();
            tracing::info!(seconds, "the audit log can be written again; changes are taken");
        }
    }

    /// Waits until something is wrong.
    pub(super) async fn unwell(&self) {
        // An error would mean that the sender, which is this, is gone.
        let _ = self.trouble.subscribe().wait_for(Option::is_some).await;
    }
}
