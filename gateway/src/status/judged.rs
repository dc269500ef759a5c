//! What the reconciler of the leading gateway makes of a backend's sweeps, on its way to the others. Nothing here reads
//! it; it goes over the board (`board`) beside the sweep, and only from who leads.

use std::sync::{Arc, Mutex, PoisonError};

use meridian_ledger::shared::Post;
use meridian_model::time::Time;

use super::{
    board::JUDGED,
    lead::{Leadership, Role},
    poll::Poller,
};

/// The last that was said, and when by our clock.
#[derive(Debug, Default)]
pub struct Judged(Mutex<Option<(Time, Arc<[u8]>)>>);

impl Judged {
    /// Takes the place of what was said before.
    pub(super) fn keep(&self, at: Time, said: Vec<u8>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, said.into()));
    }

    fn last(&self) -> Option<(Time, Arc<[u8]>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Poller {
    /// What this gateway, or the one that leads, said last of the backend's sweeps, and when by our clock.
    #[must_use]
    pub fn judged(&self) -> Option<(Time, Arc<[u8]>)> {
        self.judged.last()
    }

    /// Says what the sweeps of a term come to, here and to the other gateways. What they did not get, the next
    /// sweep says again.
    pub async fn judge_so(&self, term: u64, said: Vec<u8>) {
        if self.term() != Some(term) {
            return;
        }
        self.judged.keep(self.clock.now(), said.clone());
        let Some(leadership) = self.leadership.as_ref().filter(|l| *l.role().borrow() == Role::Leader(term)) else {
            return;
        };
        leadership.post(Post { term, changed: vec![(JUDGED.to_owned(), Some(said))], head: None }).await;
    }

    /// The term in which this gateway sweeps the backend, 0 without others; none when it does not.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.leadership.as_ref().map_or(Some(0), |leadership| leadership.role().borrow().term())
    }

    /// This gateway certainly leads in a term, still or again without a pause.
    #[must_use]
    pub fn leads_in(&self, term: u64) -> bool {
        self.term() == Some(term) && self.leadership.as_ref().is_none_or(Leadership::leads)
    }

    /// Waits until this gateway does not sweep in a term any more.
    pub async fn term_over(&self, term: u64) {
        let Some(leadership) = &self.leadership else { return std::future::pending().await };
        let mut role = leadership.role();
        // The leadership outlives this wait, so the channel does not close.
        let _ = role.wait_for(|role| role.term() != Some(term)).await;
    }
}
