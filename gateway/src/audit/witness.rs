//! Gateways that share a ledger keep each other's heads.
//!
//! Each posts its newest head on a board that all read, and writes what it reads there into its own chain. So a chain that
//! was cut short, made anew or taken away is found out by those of the others (`meridian audit verify` with all of them),
//! and by its own gateway, when the board knows a later head of it than its files have. The board is no ledger: when it is
//! lost or away, nothing is known for a while and nothing is refused. Nor is it believed: a head counts by its signature,
//! and one that names another key stands beside the one it would displace.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use meridian_ledger::{
    LedgerError,
    shared::{BOARD_PAGE_MAX, Lead, Post, Shared},
};
use tokio_util::sync::CancellationToken;

use super::{Audit, chain::SignedHead};

/// The board's task. Who posts leads it for that long only: its entries are each gateway's own.
const TASK: &str = "audit/heads";
/// Longest time a gateway holds the board to post one entry.
const LEASE: Duration = Duration::from_secs(5);
/// Tries to have the board within one round; a handful of gateways post once a minute.
const TRIES: u32 = 10;
/// Between two tries.
const TRY_EACH: Duration = Duration::from_millis(500);
/// Between two rounds: as often as heads are signed.
const ROUND: Duration = Duration::from_secs(60);
/// Until the first round: a log that was cut is told of before much is added to it.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// Longest wait for the store in one round.
const ROUND_WITHIN: Duration = Duration::from_secs(15);
/// Pages of the board that are read; each has hundreds of entries, and a gateway has one for each chain it ever wrote.
const PAGES_MAX: usize = 4;
/// How long the head of a chain that nobody writes any more stays on the board: a gateway that was off for weeks and
/// comes back with less than it had is still found out.
const POSTED: Duration = Duration::from_secs(60 * 24 * 3600);

/// See the module.
#[derive(Debug)]
pub struct Witness {
    audit: Audit,
    shared: Arc<dyn Shared>,
    /// Newest head of each chain and key that was written into this one.
    seen: BTreeMap<(String, String), u64>,
}

impl Witness {
    /// Exchanges the heads of a log.
    #[must_use]
    pub fn new(audit: Audit, shared: Arc<dyn Shared>) -> Self {
        Self { audit, shared, seen: BTreeMap::new() }
    }

    /// Posts and reads each minute; ends with `stop`. Does nothing where there is nobody else.
    pub async fn keep(mut self, stop: CancellationToken) {
        if !self.shared.is_shared() || !self.audit.is_on() {
            return;
        }
        let rounds = async {
            tokio::time::sleep(FIRST_ROUND).await;
            loop {
                match tokio::time::timeout(ROUND_WITHIN, self.round()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "heads of audit logs were not exchanged"),
                    Err(_) => tracing::debug!("heads of audit logs were not exchanged in time"),
                }
                tokio::time::sleep(ROUND).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = rounds => {}
        }
    }

    /// Reads what others posted, then posts.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn round(&mut self) -> Result<(), LedgerError> {
        let (own, mut after) = (self.audit.head(), 0);
        let mut outdated = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.shared.read(TASK, after, Duration::ZERO).await?;
            for entry in &page.entries {
                if entry.age > POSTED {
                    outdated.push((entry.key.clone(), None));
                } else if let Some(Ok(head)) = entry.value.as_deref().map(serde_json::from_slice) {
                    self.learn(head, own.as_ref());
                }
            }
            after = page.version;
            if page.complete {
                break;
            }
        }
        // What the board knows of a log that was cut short stays there.
        let known = |own: &SignedHead| self.seen.get(&of(own)).copied();
        if let Some(head) = own.filter(|own| known(own).is_none_or(|seq| seq <= own.seq)) {
            self.post(&head, outdated).await?;
        }
        Ok(())
    }

    fn learn(&mut self, head: SignedHead, own: Option<&SignedHead>) {
        if !head.is_genuine() || self.seen.get(&of(&head)).is_some_and(|seq| *seq >= head.seq) {
            return;
        }
        let is_own = self.audit.chain() == Some(&head.chain) && self.audit.public_key() == Some(&head.public_key);
        if is_own {
            if own.is_some_and(|own| own.seq >= head.seq) {
                return;
            }
            self.audit.found_cut(&head);
        }
        self.seen.insert(of(&head), head.seq);
        self.audit.witness(head);
    }

    async fn post(&self, head: &SignedHead, mut changed: Vec<(String, Option<Vec<u8>>)>) -> Result<(), LedgerError> {
        let Ok(value) = serde_json::to_vec(head) else { return Ok(()) };
        changed.truncate(BOARD_PAGE_MAX - 1);
        changed.push((head.chain.clone(), Some(value)));
        for _ in 0..TRIES {
            if let Lead::Leader { term } = self.shared.lead(TASK, &head.chain, LEASE).await? {
                self.shared.post(TASK, Post { term, changed, head: None }).await?;
                return self.shared.resign(TASK, &head.chain).await;
            }
            tokio::time::sleep(TRY_EACH).await;
        }
        Ok(())
    }
}

fn of(head: &SignedHead) -> (String, String) {
    (head.chain.clone(), head.public_key.clone())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use meridian_ledger::shared::MemoryShared;
    use meridian_model::time::Time;

    use super::*;
    use crate::{
        audit::{Settings, file, verify},
        clock::{Clock, Entropy},
        telemetry::{Metrics, audit::AuditMetrics},
    };

    fn open(folder: &Path, metrics: &Metrics) -> Audit {
        let settings = Settings {
            folder: folder.to_owned(),
            key_file: None,
            rotate_bytes: 1024 * 1024,
            rotate_age: ROUND * 60,
            retention: ROUND * 60,
        };
        let clock = Clock::from_fn(|| Time::from_unix_ms(1_767_225_600_000));
        Audit::open(settings, clock, &Entropy::system(), AuditMetrics::register(metrics)).unwrap()
    }

    /// Signs a head. Nothing that is waited for follows one, so the thread is asked until it is there.
    async fn signed(audit: &Audit) {
        audit.sign("minute").await;
        while audit.head().is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_of_a_chain_that_nobody_writes_leaves_the_board_in_time() {
        let (shared, metrics) = (Arc::new(MemoryShared::new()), Metrics::new());
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ended, going_on] = folders.each_ref().map(|folder| open(folder.path(), &metrics));
        let posted = async || shared.read(TASK, 0, Duration::ZERO).await.unwrap().entries.len();
        let witness = |audit: &Audit| Witness::new(audit.clone(), shared.clone());
        for audit in [&ended, &going_on] {
            signed(audit).await;
            witness(audit).round().await.unwrap();
        }
        assert_eq!(posted().await, 2);
        tokio::time::advance(POSTED).await;
        witness(&going_on).round().await.unwrap();
        assert_eq!(posted().await, 2);
        tokio::time::advance(ROUND).await;
        witness(&going_on).round().await.unwrap();
        assert_eq!(posted().await, 1, "its own");
    }

    #[tokio::test]
    async fn a_log_that_is_cut_short_or_gone_is_found_in_those_of_the_others() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
        let metrics = Metrics::new();
        let gateway = |folder: &Path, metrics: &Metrics| {
            let audit = open(folder, metrics);
            (audit.clone(), Witness::new(audit, Arc::clone(&shared)))
        };
        let ((first, mut of_first), (second, mut of_second)) =
            (gateway(a.path(), &Metrics::new()), gateway(b.path(), &Metrics::new()));
        signed(&first).await;
        signed(&second).await;
        of_first.round().await.unwrap();
        of_second.round().await.unwrap();
        of_second.round().await.unwrap();
        let known = first.head().unwrap();
        assert_eq!(second.heads().iter().filter(|head| **head == known).count(), 1);
        first.close().await;
        second.close().await;
        let witnessed = verify::folder(b.path(), &[], &[]).unwrap();
        assert!(witnessed.is_whole(), "{:?}", witnessed.findings);
        assert_eq!(witnessed.witnessed, [known], "each head is written once");
        assert!(verify::folder(a.path(), &[], &witnessed.witnessed).unwrap().is_whole());

        let (_, path) = file::list(a.path()).unwrap().remove(0);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{}\n", text.lines().next().unwrap())).unwrap();
        fs::remove_file(a.path().join(file::HEAD_FILE)).unwrap();
        let cut = verify::folder(a.path(), &[], &witnessed.witnessed).unwrap();
        assert!(cut.findings.iter().any(|f| f.what.contains("cut short")), "{:?}", cut.findings);
        let (again, mut of_again) = gateway(a.path(), &metrics);
        assert!(metrics.render().contains("meridian_audit_cut_short 0\n"));
        of_again.round().await.unwrap();
        assert!(metrics.render().contains("meridian_audit_cut_short 1\n"));
        again.close().await;
        let own = verify::folder(a.path(), &[], &[]).unwrap();
        assert_eq!(own.witnessed.len(), 2, "the own one that is missing, and the other's");
    }
}
