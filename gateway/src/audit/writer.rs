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

/// What is answered for a record that was left out.
const NO_PLACE: &str = "more records wait for the disk than are kept for it";

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
                Command::Add(time, entry, reply) => match (self.add(time, &entry, 1), reply) {
                    (true, reply) => waiting.extend(reply),
                    // However the disk is by the end of the batch, this one is not on it.
                    (false, Some(reply)) => drop(reply.send(Err(NO_PLACE.to_owned()))),
                    (false, None) => {}
                },
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

    /// Adds a record that stands for `count`, which are lost for now when it finds no place; whether it found one.
    fn add(&mut self, time: Time, entry: &Entry, count: u64) -> bool {
        if self.files.push(time, entry) {
            self.metrics.record(entry.kind());
            return true;
        }
        self.parts.shown.lost.fetch_add(count, Ordering::Relaxed);
        if !matches!(entry, Entry::Gap(_)) {
            self.metrics.lost();
        }
        false
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

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Duration};

    use meridian_model::time::Time;

    use super::*;
    use crate::{audit::file::Settings, telemetry::Metrics};

    #[tokio::test]
    async fn what_was_left_out_is_not_answered_as_written_though_the_disk_is_well_again() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            folder: folder.path().to_owned(),
            key_file: None,
            rotate_bytes: 1024 * 1024,
            rotate_age: Duration::from_secs(3600),
            retention: Duration::from_secs(3600),
        };
        let blocked = folder.path().join("audit-00000000000000000001.jsonl");
        symlink("/nonexistent/log", &blocked).unwrap();
        let now = Time::from_unix_ms(1_767_225_600_000);
        let (files, _) = Files::open(settings, "c1".to_owned(), now).unwrap();
        let metrics = AuditMetrics::register(&Metrics::new());
        let standing = Arc::new(Standing::new(Arc::clone(&metrics)));
        let parts = Parts { shown: Arc::default(), standing, clock: Clock::from_fn(move || now) };
        let mut writer = Writer { files, parts, metrics, broken: None };
        let record = |reply| Command::Add(now, Entry::Gap(Gap { lost: 0 }), reply);
        // An outage that lasts: until there is no place for one more.
        while writer.parts.shown.lost.load(Ordering::Relaxed) == 0 {
            writer.work((0..BATCH_MAX).map(|_| record(None)));
        }
        fs::remove_file(blocked).unwrap();
        let ((of_record, left_out), (of_probe, probed)) = (oneshot::channel(), oneshot::channel());
        writer.work([record(Some(of_record)), Command::Probe(of_probe)].into_iter());
        assert_eq!(left_out.await.unwrap(), Err(NO_PLACE.to_owned()));
        assert_eq!(probed.await.unwrap(), Ok(()));
        let (of_record, written) = oneshot::channel();
        writer.work(std::iter::once(record(Some(of_record))));
        assert_eq!(written.await.unwrap(), Ok(()));
    }
}
