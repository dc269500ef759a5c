//! The thread that writes the chain: it takes what waits, adds it, syncs once and answers all of it.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use meridian_model::time::Time;
use tokio::sync::{mpsc, oneshot};

use super::{
    chain::{Sealed, SignedHead},
    file::Files,
    record::{Entry, Gap},
    standing::Standing,
};
use crate::{clock::Clock, telemetry::audit::AuditMetrics};

/// Records that wait for the thread; who waits for a record waits for room, what nobody waits for is counted as lost.
pub(super) const QUEUE_MAX: usize = 4096;
/// Records in one write: at 700 bytes each a disk takes them as fast as one.
const BATCH_MAX: usize = 256;
/// Newest records kept in memory, about 15 MiB: what a person looks at is mostly there.
const RECENT_MAX: usize = 10_000;

/// The disk's answer, in its words.
pub(super) type Written = oneshot::Sender<Result<(), String>>;

/// What the thread is asked for.
pub(super) enum Command {
    /// A record, and who waits for it.
    Add(Time, Entry, Option<Written>),
    /// A signed head, if anything is new.
    Head(&'static str),
    /// Whether the disk takes records again.
    Probe(Written),
}

/// What the thread shares with who reads.
#[derive(Debug, Default)]
pub(super) struct Shown {
    recent: Mutex<VecDeque<Arc<Sealed>>>,
    head: Mutex<Option<SignedHead>>,
    /// Records that found no place, not yet in the chain as a gap.
    pub(super) lost: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a panic between two complete states.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shown {
    pub(super) fn add(&self, written: Vec<Sealed>) {
        let mut recent = lock(&self.recent);
        for sealed in written {
            if recent.len() >= RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(Arc::new(sealed));
        }
    }

    /// The newest records, oldest first.
    pub(super) fn recent(&self) -> Vec<Arc<Sealed>> {
        lock(&self.recent).iter().cloned().collect()
    }

    pub(super) fn head(&self) -> Option<SignedHead> {
        lock(&self.head).clone()
    }
}

/// What the thread works with, beside its files.
pub(super) struct Parts {
    pub(super) shown: Arc<Shown>,
    pub(super) standing: Arc<Standing>,
    pub(super) clock: Clock,
}

/// The thread's side.
pub(super) struct Writer {
    files: Files,
    parts: Parts,
    metrics: Arc<AuditMetrics>,
    /// The disk's words, while it takes nothing.
    broken: Option<String>,
}

impl Writer {
    /// Starts the thread; it ends with the queue.
    pub(super) fn spawn(
        files: Files,
        parts: Parts,
        metrics: Arc<AuditMetrics>,
    ) -> io::Result<(mpsc::Sender<Command>, JoinHandle<()>)> {
        let (queue, mut commands) = mpsc::channel(QUEUE_MAX);
        let mut writer = Self { files, parts, metrics, broken: None };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            writer.begin();
            let mut batch = Vec::with_capacity(BATCH_MAX);
            while commands.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
                writer.work(batch.drain(..));
            }
        })?;
        Ok((queue, thread))
    }

    /// The record of the start, and what the retention has ended.
    fn begin(&mut self) {
        let now = self.parts.clock.now();
        let written = self.files.flush().and_then(|mut written| {
            written.extend(self.files.prune(now)?);
            Ok(written)
        });
        self.note(written);
    }

    fn work(&mut self, batch: impl Iterator<Item = Command>) {
        let now = self.parts.clock.now();
        if self.broken.is_none() && self.files.is_due(now) {
            let written = self.files.rotate(now);
            self.note(written);
        }
        let (mut waiting, mut probes) = (Vec::new(), Vec::new());
        let lost = self.parts.shown.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.add(now, &Entry::Gap(Gap { lost }), lost);
        }
        for command in batch {
            match command {
                Command::Add(time, entry, reply) => {
                    self.add(time, &entry, 1);
                    waiting.extend(reply);
                }
                Command::Head(cause) => self.files.push_head(now, cause),
                Command::Probe(reply) => probes.push(reply),
            }
        }
        // A disk that refused is left alone until it is asked whether it is well: each try may take as long as it takes
        // a broken disk to say so.
        if !probes.is_empty() {
            let written = self.files.probe();
            self.note(written);
        } else if self.broken.is_none() {
            let written = self.files.flush();
            self.note(written);
        }
        let answer = self.broken.clone().map_or(Ok(()), Err);
        for reply in waiting.into_iter().chain(probes) {
            // Who does not wait any more needs no answer.
            let _ = reply.send(answer.clone());
        }
    }

    /// Adds a record that stands for `count`, which are lost for now when it finds no place.
    fn add(&mut self, time: Time, entry: &Entry, count: u64) {
        if self.files.push(time, entry) {
            self.metrics.record(entry.kind());
        } else {
            self.parts.shown.lost.fetch_add(count, Ordering::Relaxed);
            if !matches!(entry, Entry::Gap(_)) {
                self.metrics.lost();
            }
        }
    }

    fn note(&mut self, written: io::Result<Vec<Sealed>>) {
        match written {
            Ok(written) => {
                self.parts.shown.add(written);
                self.broken = None;
                (*lock(&self.parts.shown.head)).clone_from(&self.files.latest_head().cloned());
            }
            Err(error) => {
                let why = error.to_string();
                self.parts.standing.failed(&why);
                self.broken = Some(why);
            }
        }
    }
}
