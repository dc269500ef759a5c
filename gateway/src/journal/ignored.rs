//! The strays that a person said to leave alone, known to all gateways.
//!
//! They stand on a board of their own in what the gateways share. Anybody may write it: who has something to add leads
//! its task for a moment. Each gateway keeps all it has ever read, and writes it anew when the store has forgotten it,
//! and every [`RENEWAL`], because a board that nobody writes is forgotten after a day. So an instance is left alone until
//! the last gateway has ended, or for a day longer.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::shared::{BOARD_PAGE_MAX, Lead, Post, Posted, Shared};
use meridian_model::ids::{BackendId, CloudId};
use tokio::time::{Instant, timeout};

/// The board.
const TASK: &str = "reconcile/ignored";

/// Most instances that are left alone by hand: one post holds them. The setting `reconcile.keep` holds more.
const IGNORED_MAX: usize = BOARD_PAGE_MAX;

/// Pages that are read at once; more cannot be on a board of so few entries.
const PAGES_MAX: usize = 8;

/// Longest wait for the store to answer, for a person or a sweep.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long the board is led for one post, and how often and with which pauses that is tried: others do the same.
const LEASE: Duration = Duration::from_secs(2);
const TRIES: u32 = 30;
const TRY_WAIT: Duration = Duration::from_millis(100);

/// Time between two renewals.
const RENEWAL: Duration = Duration::from_secs(3600);

type Stray = (BackendId, CloudId);

/// Why one more is not taken in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotIgnored {
    /// There are too many.
    Full,
    /// The store does not answer, so the other gateways would not know.
    Away,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ignored {
    shared: Arc<dyn Shared>,
    owner: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    strays: BTreeSet<Stray>,
    version: u64,
    renewed: Option<Instant>,
}

fn entry((backend, id): &Stray) -> (String, Option<Vec<u8>>) {
    (format!("{backend}/{id}"), Some(b"1".to_vec()))
}

fn stray(key: &str) -> Option<Stray> {
    let (backend, id) = key.split_once('/')?;
    Some((backend.parse().ok()?, id.parse().ok()?))
}

impl Ignored {
    pub(super) fn new(shared: Arc<dyn Shared>, owner: String) -> Self {
        Self { shared, owner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a backend, as of the last [`Self::refresh`].
    pub(super) fn of(&self, backend: &BackendId) -> BTreeSet<CloudId> {
        self.state().strays.iter().filter(|(at, _)| at == backend).map(|(_, id)| id.clone()).collect()
    }

    /// Reads what other gateways added; false when the store does not answer.
    pub(super) async fn refresh(&self) -> bool {
        for _ in 0..PAGES_MAX {
            let after = self.state().version;
            let read = timeout(ANSWER_WITHIN, self.shared.read(TASK, after, Duration::ZERO)).await;
            let Ok(Ok(page)) = read else { return false };
            let mut state = self.state();
            state.version = page.version;
            if page.anew {
                // Perhaps the store has forgotten something.
                state.renewed = None;
            }
            state.strays.extend(page.entries.iter().filter(|e| e.value.is_some()).filter_map(|e| stray(&e.key)));
            if page.complete {
                break;
            }
        }
        self.renew().await;
        true
    }

    /// Writes all that is known, when it is time. Best effort: the next sweep comes here again.
    async fn renew(&self) {
        let due: Vec<_> = {
            let state = self.state();
            if state.renewed.is_some_and(|at| at.elapsed() < RENEWAL) {
                return;
            }
            state.strays.iter().take(IGNORED_MAX).map(entry).collect()
        };
        let done = due.is_empty() || matches!(timeout(ANSWER_WITHIN, self.post(due)).await, Ok(Some(())));
        if done {
            self.state().renewed = Some(Instant::now());
        }
    }

    /// Adds one for all gateways.
    pub(super) async fn add(&self, backend: &BackendId, id: &CloudId) -> Result<(), NotIgnored> {
        let stray = (backend.clone(), id.clone());
        if !self.refresh().await {
            return Err(NotIgnored::Away);
        }
        {
            let state = self.state();
            if state.strays.contains(&stray) {
                return Ok(());
            }
            if state.strays.len() >= IGNORED_MAX {
                return Err(NotIgnored::Full);
            }
        }
        match timeout(ANSWER_WITHIN, self.post(vec![entry(&stray)])).await {
            Ok(Some(())) => {
                self.state().strays.insert(stray);
                Ok(())
            }
            Ok(None) | Err(_) => Err(NotIgnored::Away),
        }
    }

    /// Leads the board for as long as a post takes.
    async fn post(&self, changed: Vec<(String, Option<Vec<u8>>)>) -> Option<()> {
        for _ in 0..TRIES {
            match self.shared.lead(TASK, &self.owner, LEASE).await.ok()? {
                Lead::Leader { term } => {
                    let post = Post { term, changed: changed.clone(), head: None };
                    let posted = self.shared.post(TASK, post).await.ok()?;
                    // Best effort: the lease ends anyway.
                    let _ = self.shared.resign(TASK, &self.owner).await;
                    if matches!(posted, Posted::Written { .. }) {
                        return Some(());
                    }
                }
                Lead::Follower { left } => tokio::time::sleep(left.min(TRY_WAIT)).await,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use meridian_ledger::shared::MemoryShared;

    use super::*;

    fn gateway(shared: &Arc<MemoryShared>, name: &str) -> Ignored {
        Ignored::new(Arc::clone(shared) as Arc<dyn Shared>, name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_gateway_is_told_all_know() {
        let (store, gz): (_, BackendId) = (Arc::new(MemoryShared::new()), "gz".parse().unwrap());
        let (a, b) = (gateway(&store, "a"), gateway(&store, "b"));
        let ids: Vec<CloudId> = (0..4).map(|n| format!("i-{n}").parse().unwrap()).collect();
        let (one, two) = tokio::join!(a.add(&gz, &ids[0]), b.add(&gz, &ids[1]));
        assert_eq!((one, two), (Ok(()), Ok(())));
        assert!(a.refresh().await && b.refresh().await);
        assert_eq!(a.of(&gz), ids[..2].iter().cloned().collect());
        assert_eq!(b.of(&gz), a.of(&gz));
        assert!(b.of(&"sh".parse().unwrap()).is_empty());

        // A store that has forgotten everything is told again.
        let store = Arc::new(MemoryShared::new());
        let (mut a, late) = (a, gateway(&store, "late"));
        a.shared = Arc::clone(&store) as Arc<dyn Shared>;
        late.add(&gz, &ids[2]).await.unwrap();
        assert!(a.refresh().await && late.refresh().await);
        assert_eq!(late.of(&gz), ids[..3].iter().cloned().collect());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_an_end_to_it() {
        let ignored = gateway(&Arc::new(MemoryShared::alone()), "a");
        let gz: BackendId = "gz".parse().unwrap();
        for n in 0..IGNORED_MAX {
            ignored.add(&gz, &format!("i-{n}").parse().unwrap()).await.unwrap();
        }
        assert_eq!(ignored.add(&gz, &"one-more".parse().unwrap()).await, Err(NotIgnored::Full));
        assert_eq!(ignored.add(&gz, &"i-7".parse().unwrap()).await, Ok(()), "again is the same");
    }
}
