//! Coordination within one process: of one gateway with itself, or of several in a test.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_model::time::Time;
use meridian_policies::rate::{Bucket, Limit, reserve::Grant};
use tokio::{sync::Notify, time::Instant};

use super::{
    BOARD_PAGE_MAX, BOARD_REMOVED_MAX, BoardEntry, BoardHead, BoardPage, Lead, MEMBERS_MAX, Post, Posted, Shared,
    TOKENS_GOOD_FOR,
};
use crate::{LedgerError, LedgerFuture};

/// See the module.
#[derive(Debug)]
pub struct MemoryShared {
    others: bool,
    began: Instant,
    state: Mutex<State>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct State {
    tasks: BTreeMap<String, Task>,
    buckets: BTreeMap<String, Bucket>,
    members: BTreeMap<String, Instant>,
}

#[derive(Debug, Default)]
struct Task {
    term: u64,
    leader: Option<(String, Instant)>,
    board: Board,
}

#[derive(Debug, Default)]
struct Board {
    version: u64,
    entries: BTreeMap<String, Written>,
    by_version: BTreeMap<u64, String>,
    /// The last removal that was forgotten.
    floor: u64,
    head: Option<(Vec<u8>, Instant)>,
}

#[derive(Debug)]
struct Written {
    version: u64,
    value: Option<Vec<u8>>,
    at: Instant,
}

impl Board {
    fn write(&mut self, key: String, value: Option<Vec<u8>>, now: Instant) {
        if value.is_none() && !self.entries.contains_key(&key) {
            return;
        }
        self.version += 1;
        let written = Written { version: self.version, value, at: now };
        if let Some(before) = self.entries.insert(key.clone(), written) {
            self.by_version.remove(&before.version);
        }
        self.by_version.insert(self.version, key);
    }

    fn forget_removed(&mut self) {
        let gone = |w: &&Written| w.value.is_none();
        let mut removed: Vec<u64> = self.entries.values().filter(gone).map(|w| w.version).collect();
        removed.sort_unstable();
        let surplus = removed.len().saturating_sub(BOARD_REMOVED_MAX);
        for version in removed.into_iter().take(surplus) {
            if let Some(key) = self.by_version.remove(&version) {
                self.entries.remove(&key);
            }
            self.floor = version;
        }
    }

    fn page(&self, after: u64, now: Instant) -> BoardPage {
        let anew = after == 0 || after > self.version || after < self.floor;
        let after = if anew { 0 } else { after };
        let mut entries = Vec::new();
        let mut version = self.version;
        let mut complete = true;
        for (at, key) in self.by_version.range(after.saturating_add(1)..) {
            let Some(written) = self.entries.get(key).filter(|w| !anew || w.value.is_some()) else { continue };
            if entries.len() == BOARD_PAGE_MAX {
                complete = false;
                break;
            }
            let age = now.saturating_duration_since(written.at);
            entries.push((*at, BoardEntry { key: key.clone(), value: written.value.clone(), age }));
        }
        if !complete && let Some((last, _)) = entries.last() {
            version = *last;
        }
        let entries = entries.into_iter().map(|(_, entry)| entry).collect();
        let head = self.head.as_ref();
        let head = head.map(|(value, at)| BoardHead { value: value.clone(), age: now.saturating_duration_since(*at) });
        BoardPage { version, anew, entries, complete, head }
    }
}

fn ready<'a, T: Send + 'a>(answer: Result<T, LedgerError>) -> LedgerFuture<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl MemoryShared {
    /// For several gateways in one process.
    #[must_use]
    pub fn new() -> Self {
        let (state, posted) = (Mutex::default(), Notify::new());
        Self { others: true, began: Instant::now(), state, posted }
    }

    /// For a gateway that has no others beside it.
    #[must_use]
    pub fn alone() -> Self {
        Self { others: false, ..Self::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that the token arithmetic is told.
    fn now(&self) -> Time {
        Time::default() + self.began.elapsed()
    }
}

impl Default for MemoryShared {
    fn default() -> Self {
        Self::alone()
    }
}

impl Shared for MemoryShared {
    fn is_shared(&self) -> bool {
        self.others
    }

    fn lead<'a>(&'a self, task: &'a str, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Lead> {
        let now = Instant::now();
        let mut state = self.state();
        let task = state.tasks.entry(task.to_owned()).or_default();
        if let Some((leader, until)) = task.leader.as_ref().filter(|(_, until)| *until > now) {
            if leader != owner {
                return ready(Ok(Lead::Follower { left: *until - now }));
            }
        } else {
            task.term += 1;
        }
        task.leader = Some((owner.to_owned(), now + lease));
        ready(Ok(Lead::Leader { term: task.term }))
    }

    fn resign<'a>(&'a self, task: &'a str, owner: &'a str) -> LedgerFuture<'a, ()> {
        if let Some(task) = self.state().tasks.get_mut(task) {
            task.leader.take_if(|(leader, _)| leader == owner);
        }
        ready(Ok(()))
    }

    fn post<'a>(&'a self, task: &'a str, post: Post) -> LedgerFuture<'a, Posted> {
        if let Some(error) = too_large(task, &post) {
            return ready(Err(error));
        }
        let mut state = self.state();
        let Some(task) = state.tasks.get_mut(task).filter(|t| t.term == post.term) else {
            return ready(Ok(Posted::Deposed));
        };
        let now = Instant::now();
        for (key, value) in post.changed {
            task.board.write(key, value, now);
        }
        if let Some(head) = post.head {
            task.board.version += 1;
            task.board.head = Some((head, now));
        }
        task.board.forget_removed();
        let version = task.board.version;
        drop(state);
        self.posted.notify_waiters();
        ready(Ok(Posted::Written { version }))
    }

    fn read<'a>(&'a self, task: &'a str, after: u64, wait: Duration) -> LedgerFuture<'a, BoardPage> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            loop {
                let mut posted = std::pin::pin!(self.posted.notified());
                // First the place to wait at, then the look: a post between the two is not missed.
                posted.as_mut().enable();
                let page = self.state().tasks.get(task).map(|t| t.board.page(after, Instant::now()));
                match page {
                    Some(page) if page.version != after => return Ok(page),
                    page => {
                        if tokio::time::timeout_at(until, posted).await.is_err() {
                            let nothing = BoardPage { version: after, complete: true, ..BoardPage::default() };
                            return Ok(page.unwrap_or(nothing));
                        }
                    }
                }
            }
        })
    }

    fn draw<'a>(&'a self, bucket: &'a str, limit: Limit, want: u32) -> LedgerFuture<'a, Grant> {
        let now = self.now();
        let mut state = self.state();
        let bucket = state.buckets.entry(bucket.to_owned()).or_insert_with(|| Bucket::new(limit, now));
        if bucket.limit() != limit {
            bucket.set_limit(limit, now);
        }
        let granted = bucket.take_up_to(want, now);
        let (left, next) = (bucket.remaining(), bucket.next_token());
        ready(Ok(Grant { granted, good_for: TOKENS_GOOD_FOR, left, next }))
    }

    fn attend<'a>(&'a self, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Vec<String>> {
        let now = Instant::now();
        let mut state = self.state();
        state.members.insert(owner.to_owned(), now + lease);
        state.members.retain(|_, until| *until > now);
        ready(Ok(state.members.keys().take(MEMBERS_MAX).cloned().collect()))
    }
}

/// Why a post is refused.
pub(crate) fn too_large(task: &str, post: &Post) -> Option<LedgerError> {
    (post.changed.len() > BOARD_PAGE_MAX).then(|| LedgerError::Invalid {
        place: task.to_owned(),
        detail: format!("{} entries in one post; {BOARD_PAGE_MAX} are allowed", post.changed.len()),
    })
}
