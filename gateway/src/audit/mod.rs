//! The audit log: who changed what, and who was refused, in a chain of records that shows every later change to itself.
//!
//! Each gateway writes a chain of its own ([`chain`]), in files beside its ledger ([`mod@file`]), with one thread
//! (`writer`) that syncs many records at once. A request to change something is answered when its record is on the
//! disk (`http::audit`); effects at the clouds are added without waiting. What could be sent without end by somebody who
//! may do nothing is counted instead (`flood`). The heads of the chain are signed ([`key`]) each minute; [`verify`]
//! reads a chain and says what is wrong with it.
//!
//! Signals: a write that the disk refused, or did not end within `WRITTEN_WITHIN`, makes the log unwritable, and from
//! then on changes are refused before they are begun and reads go on. What was under way by then is answered as unknown,
//! and its records wait in memory. Only a probe that wrote, with room to spare, makes the log writable again; what waits
//! is written first. A record that found no place at all is counted, and the count is a record.

pub mod chain;
pub mod effect;
pub mod file;
mod flood;
pub mod key;
pub mod query;
pub mod record;
mod standing;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod witness;
mod writer;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use meridian_model::error::ErrorCode;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use self::{
    chain::{Sealed, SignedHead},
    file::Files,
    flood::Flood,
    record::{Actor, Entry, Reload, Request, Witness},
    standing::Standing,
    writer::{Command, Parts, Shown, Writer, Written},
};
pub use self::{
    file::{OpenError, Settings},
    standing::Trouble,
};
use crate::{
    clock::{Clock, Entropy},
    telemetry::audit::AuditMetrics,
};

/// Longest wait for the disk. A disk that takes longer is one that does not answer, and a caller has waited enough.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);
/// Between two heads: what may be cut off the end of a chain unseen by who has nothing but the chain.
const HEAD_INTERVAL: Duration = Duration::from_secs(60);
/// First and longest wait between two probes: a disk that was made room on is used again soon, a broken one is left
/// alone.
const PROBES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The audit log of this gateway; clones are handles. [`Audit::off`] records nothing and refuses nothing.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    queue: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shown: Arc<Shown>,
    flood: Mutex<Flood>,
    /// Newest heads of other gateways' chains, by chain and key.
    others: Mutex<BTreeMap<(String, String), SignedHead>>,
    standing: Arc<Standing>,
    clock: Clock,
    metrics: Arc<AuditMetrics>,
    settings: Settings,
    /// Searches in files; each has one in memory.
    scans: Arc<Semaphore>,
    chain: String,
    public_key: String,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = self.0.as_ref().map(|inner| inner.chain.as_str());
        f.debug_tuple("Audit").field(&chain).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a panic between two complete states.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// No log.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Goes on with the chain of a folder, or begins one. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]. A disk without room is none: the log is unwritable then, which [`Audit::trouble`] shows.
    pub fn open(
        settings: Settings,
        clock: Clock,
        entropy: &Entropy,
        metrics: Arc<AuditMetrics>,
    ) -> Result<Self, OpenError> {
        let name = format!("{:032x}", entropy.next());
        let (files, found) = Files::open(settings.clone(), name, clock.now())?;
        let (chain, public_key) = (files.chain().to_owned(), files.public_key().to_owned());
        let shown = Arc::new(Shown::default());
        shown.add(found);
        let standing = Arc::new(Standing::new(Arc::clone(&metrics)));
        let parts = Parts { shown: Arc::clone(&shown), standing: Arc::clone(&standing), clock: clock.clone() };
        let spawned = Writer::spawn(files, parts, Arc::clone(&metrics));
        let (queue, thread) = spawned.map_err(|source| OpenError::Io { path: settings.folder.clone(), source })?;
        Ok(Self(Some(Arc::new(Inner {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            shown,
            flood: Mutex::default(),
            others: Mutex::default(),
            standing,
            clock,
            metrics,
            settings,
            scans: Arc::new(Semaphore::new(query::SCANS_MAX)),
            chain,
            public_key,
        }))))
    }

    /// Whether there is a log.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What keeps this gateway from recording anything, and so from changing anything; none while it can.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.as_ref()?.standing.trouble()
    }

    /// Records a request; returns when the record is on the disk.
    ///
    /// # Errors
    /// The disk's words: it is not there, but it may yet come there.
    ///
    /// # Cancel safety
    /// Dropped, it is recorded without anybody waiting for it, as [`Audit::note`] does.
    pub async fn record(&self, request: Request) -> Result<(), String> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut held = Held { audit: self, entry: Some(Entry::Request(Box::new(request))) };
        let recorded =
            inner.ask(|reply| held.entry.take().map(|e| Command::Add(inner.clock.now(), e, Some(reply)))).await;
        if let Err(why) = &recorded {
            inner.standing.failed(why);
        }
        recorded
    }

    /// Adds a record without waiting for the disk. One that finds no place is counted.
    pub fn note(&self, entry: Entry) {
        let Some(inner) = &self.0 else { return };
        let command = Command::Add(inner.clock.now(), entry, None);
        let taken = lock(&inner.queue).as_ref().is_some_and(|queue| queue.try_send(command).is_ok());
        if !taken {
            inner.shown.lost.fetch_add(1, Ordering::Relaxed);
            inner.metrics.lost();
        }
    }

    /// Adds a record of what a folder that declares tenants has changed. It is not waited for: a file that takes a key
    /// away must not wait for a sick disk, and the file itself says what was done.
    pub fn reloaded(&self, folder: &Path, digest: &[u8; 32], changes: &[impl fmt::Display]) {
        if !changes.is_empty() {
            self.note(Entry::Reload(Reload::of(folder, digest, changes)));
        }
    }

    /// Counts a request without a valid credential.
    pub fn unauthenticated(&self, source: IpAddr) {
        let Some(inner) = &self.0 else { return };
        lock(&inner.flood).unauthenticated(&source.to_string(), inner.clock.now());
    }

    /// Counts a request whose credential is good and means nothing here.
    pub fn ungranted(&self, principal: &str) {
        let Some(inner) = &self.0 else { return };
        lock(&inner.flood).ungranted(&record::cut(principal), inner.clock.now());
    }

    /// Whether a refusal that no rate bounds is to be a record of its own; if not, it was counted.
    #[must_use]
    pub fn records_refusal(&self, actor: &Actor, tenant: Option<&str>, code: &'static str) -> bool {
        let Some(inner) = &self.0 else { return false };
        lock(&inner.flood).bounded(actor, tenant, code, inner.clock.now())
    }

    /// Counts a change that was refused because it could not have been recorded.
    pub fn unrecordable(&self, actor: &Actor, tenant: Option<&str>) {
        let Some(inner) = &self.0 else { return };
        let code = ErrorCode::StoreUnavailable.as_str();
        lock(&inner.flood).refused(actor, tenant, code, inner.clock.now());
    }

    /// The newest records, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Arc<Sealed>> {
        self.0.as_ref().map(|inner| inner.shown.recent()).unwrap_or_default()
    }

    /// The newest signed head.
    #[must_use]
    pub fn head(&self) -> Option<SignedHead> {
        self.0.as_ref()?.shown.head()
    }

    /// The newest signed heads that are known, this chain's first.
    #[must_use]
    pub fn heads(&self) -> Vec<SignedHead> {
        let Some(inner) = &self.0 else { return Vec::new() };
        self.head().into_iter().chain(lock(&inner.others).values().cloned()).collect()
    }

    /// Records the newest head of another gateway's chain, and keeps it.
    fn witness(&self, head: SignedHead) {
        let Some(inner) = &self.0 else { return };
        self.note(Entry::Witness(Witness {
            chain: head.chain.clone(),
            head_hash: head.prev_hash.clone(),
            head_seq: head.seq,
            head_time: head.time.clone(),
            public_key: head.public_key.clone(),
            signature: head.signature.clone(),
        }));
        lock(&inner.others).insert((head.chain.clone(), head.public_key.clone()), head);
    }

    /// Others know a head of this chain that its files do not reach.
    fn found_cut(&self, head: &SignedHead) {
        let Some(inner) = &self.0 else { return };
        inner.metrics.cut_short();
        tracing::error!(
            chain = head.chain,
            seq = head.seq,
            "the audit log of this gateway was cut short: other gateways know a later head of it"
        );
    }

    /// Name of the chain.
    #[must_use]
    pub fn chain(&self) -> Option<&str> {
        Some(&self.0.as_ref()?.chain)
    }

    /// The public key of its heads, in base64.
    #[must_use]
    pub fn public_key(&self) -> Option<&str> {
        Some(&self.0.as_ref()?.public_key)
    }

    /// Where its files are.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        Some(&self.0.as_ref()?.settings)
    }

    /// Signs a head each minute, writes what was counted, and sees to it that an unwritable log is noticed to be well
    /// again; ends with `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let Some(inner) = self.0.clone() else { return };
        let heads = async {
            let mut tick = tokio::time::interval(HEAD_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick.tick().await;
            loop {
                tick.tick().await;
                self.sign("minute").await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = heads => {}
            () = inner.probe_when_unwell() => {}
        }
    }

    /// Writes what was counted, and a head.
    pub async fn sign(&self, cause: &'static str) {
        let Some(inner) = &self.0 else { return };
        let tallies = lock(&inner.flood).take();
        for tally in tallies {
            self.note(Entry::Tally(tally));
        }
        let queue = lock(&inner.queue).clone();
        if let Some(queue) = queue {
            // A queue that stays full is a disk that does not answer; the next head signs what this one would have.
            let _ = queue.send_timeout(Command::Head(cause), WRITTEN_WITHIN).await;
        }
    }

    /// Ends the chain with a head and gives its folder free. What is added afterwards is lost.
    pub async fn close(&self) {
        let Some(inner) = &self.0 else { return };
        self.sign("close").await;
        drop(lock(&inner.queue).take());
        let thread = lock(&inner.thread).take();
        if let Some(thread) = thread {
            // It ends with the queue; a panic in it was reported there.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// A record that is not in the queue yet; however its wait for room ends, it is recorded or counted.
struct Held<'a> {
    audit: &'a Audit,
    entry: Option<Entry>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.audit.note(entry);
        }
    }
}

impl Inner {
    /// Asks the thread for what is made when there is room for it, and waits for the answer.
    async fn ask(&self, command: impl FnOnce(Written) -> Option<Command>) -> Result<(), String> {
        let closed = || "the audit log is closed".to_owned();
        let queue = lock(&self.queue).clone().ok_or_else(closed)?;
        let asked = async {
            let room = queue.reserve_owned().await.map_err(|_| closed())?;
            let (reply, answer) = oneshot::channel();
            if let Some(command) = command(reply) {
                drop(room.send(command));
            }
            answer.await.map_err(|_| closed())?
        };
        let unanswered = || format!("the disk did not answer within {} s", WRITTEN_WITHIN.as_secs());
        tokio::time::timeout(WRITTEN_WITHIN, asked).await.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn probe_when_unwell(&self) {
        loop {
            self.standing.unwell().await;
            let mut wait = PROBES.0;
            loop {
                tokio::time::sleep(wait).await;
                match self.ask(|reply| Some(Command::Probe(reply))).await {
                    Ok(()) => break,
                    Err(why) => self.standing.failed(&why),
                }
                wait = (wait * 2).min(PROBES.1);
            }
            self.standing.mended();
        }
    }
}
