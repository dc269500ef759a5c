//! Whether the intent journal of this gateway can be written, and what follows while it cannot.
//!
//! Nothing is sent that the journal did not take (`sending`), so a gateway whose disk is full or broken can create
//! nothing. It says so instead of failing what it is given: new creates are refused before anything is claimed, and what
//! was claimed waits. Meanwhile it does not renew its lease and takes over only what is to be deleted, so that another
//! gateway whose disk is well ends what it has, as if this one were dead. Reads and deletes need no journal and go on; so
//! does whatever of this gateway's nobody else takes.
//!
//! Signals: a note that the disk refused, or did not answer within two seconds, makes it unwritable; only a probe
//! that wrote, with room to spare, makes it writable again. A note that is taken in between proves nothing: a full disk
//! takes a short one now and then.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{driver::Driver, intent::IntentLog, patience::Backoff};
use crate::telemetry::core::CoreMetrics;

/// Longest wait for the disk before a create: what an armed attempt is valid for (RELIABILITY 2.3). A disk that takes
/// longer is one that does not answer.
pub(super) const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// First and longest wait between two probes: a disk that was made room on is used again soon, a broken one is left
/// alone.
const PROBES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// After this long without a fault the next one is a new one: its probes begin at the first wait again.
const STEADY: Duration = Duration::from_secs(60);

/// What is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The disk's words.
    pub why: Arc<str>,
    /// Since when.
    pub since: Instant,
}

/// How the journal stands; shared by all who write it.
#[derive(Debug)]
pub(super) struct Disk {
    trouble: watch::Sender<Option<Trouble>>,
    metrics: Arc<CoreMetrics>,
}

impl Disk {
    /// A journal against which nothing is known.
    pub(super) fn new(metrics: Arc<CoreMetrics>) -> Self {
        metrics.journal_unwritable(false);
        Self { trouble: watch::Sender::new(None), metrics }
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble.borrow().clone()
    }

    /// A note was not taken. Said once, however many meet it.
    pub(super) fn failed(&self, why: &str) {
        let is_new = self.trouble.send_if_modified(|trouble| {
            let is_new = trouble.is_none();
            let since = trouble.as_ref().map_or_else(Instant::now, |known| known.since);
            *trouble = Some(Trouble { why: why.into(), since });
            is_new
        });
        if is_new {
            self.metrics.journal_unwritable(true);
            tracing::error!(
                why,
                "the intent journal of this gateway cannot be written: it takes no creates until it can; look at its disk"
            );
        }
    }

    fn mended(&self) {
        if let Some(trouble) = self.trouble.send_replace(None) {
            self.metrics.journal_unwritable(false);
            let seconds = trouble.since.elapsed().as_secs();
            tracing::info!(seconds, "the intent journal can be written again; creates are taken");
        }
    }

    /// Waits until nothing is known against it.
    pub(super) async fn writable(&self) {
        // An error would mean that the sender, which is this, is gone.
        let _ = self.trouble.subscribe().wait_for(Option::is_none).await;
    }

    async fn unwritable(&self) {
        let _ = self.trouble.subscribe().wait_for(Option::is_some).await;
    }

    /// Probes an unwritable journal until it is one no more, again and again; ends with `stop`.
    async fn look_after(&self, intents: &dyn IntentLog, stop: &CancellationToken) {
        let probing = async {
            let (mut backoff, mut mended_at) = (Backoff::new(PROBES), None::<Instant>);
            loop {
                self.unwritable().await;
                if mended_at.is_some_and(|at| at.elapsed() >= STEADY) {
                    backoff = Backoff::new(PROBES);
                }
                loop {
                    tokio::time::sleep(backoff.next()).await;
                    match tokio::time::timeout(NOTED_WITHIN, intents.probe()).await {
                        Ok(Ok(())) => break,
                        Ok(Err(error)) => self.failed(&error.to_string()),
                        Err(_) => self.failed(&unanswered()),
                    }
                }
                self.mended();
                mended_at = Some(Instant::now());
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = probing => {}
        }
    }
}

/// What is said of a disk that does not answer.
pub(super) fn unanswered() -> String {
    format!("it did not answer within {} s", NOTED_WITHIN.as_secs())
}

impl Driver {
    /// What keeps this gateway from noting what it sends, and so from creating anything; none while it can.
    #[must_use]
    pub fn journal_trouble(&self) -> Option<Trouble> {
        self.0.disk.trouble()
    }

    /// Whether so much was sent in the last minutes that no more may be noted.
    #[must_use]
    pub fn journal_is_full(&self) -> bool {
        self.0.parts.intents.is_full()
    }

    /// Sees to it that an unwritable journal is noticed to be well again.
    pub async fn look_after_journal(self, stop: CancellationToken) {
        self.0.disk.look_after(&*self.0.parts.intents, &stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::intent::MemoryIntents, telemetry::Metrics};

    #[tokio::test(start_paused = true)]
    async fn an_unwritable_journal_is_probed_with_backoff_until_it_is_well() {
        let metrics = Metrics::new();
        let unwritable = |is_so: u8| {
            let line = format!("meridian_intent_journal_unwritable {is_so}\n");
            assert!(metrics.render().contains(&line), "{}", metrics.render());
        };
        let (disk, intents, stop) =
            (Disk::new(CoreMetrics::register(&metrics)), MemoryIntents::default(), CancellationToken::new());
        unwritable(0);
        intents.refuse(Some("full"));
        let watched = async {
            disk.failed("full");
            let since = disk.trouble().unwrap().since;
            unwritable(1);
            tokio::time::sleep(Duration::from_secs(40)).await;
            assert_eq!(disk.trouble().map(|t| t.since), Some(since), "one fault, however often it is met");
            let probes = intents.probes();
            assert!((5..=8).contains(&probes), "{probes} probes within 40 s");
            intents.refuse(None);
            disk.writable().await;
            assert!(since.elapsed() < Duration::from_secs(60));
            stop.cancel();
        };
        tokio::join!(disk.look_after(&intents, &stop), watched);
        assert!(disk.trouble().is_none());
        unwritable(0);
    }
}
