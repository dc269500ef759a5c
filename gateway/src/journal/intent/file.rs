//! The intent journal in a file.
//!
//! `intents.log` in a folder of this gateway alone (`intents.lock` is held while it runs). Each record is its length
//! and its CRC-32 (both little-endian) and its JSON. One thread writes: it takes what waits, appends it, syncs once and
//! answers all of it. When a file has grown and little of it is still open, what is open is written to a new file that
//! takes its place by rename. So it is after a write that failed, and for a probe, which also shows that there is room.
//!
//! At the start a record that is cut short at the end is dropped: nobody was told that it is there. A record whose CRC
//! does not fit is skipped and reported, at the end and before it: the journal is evidence, and what can still be read
//! of it is worth more than a refusal to start. A journal that can be read but not written is no reason to refuse
//! either: it is in memory then, and the next file has all of it.

use std::{
    fs::{File, OpenOptions},
    future::ready,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use meridian_model::{ids::CloudName, operation::OperationRecord, time::Time};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Intent, IntentError, IntentFuture, IntentLog, Kept};

/// The journal.
const FILE: &str = "intents.log";
/// The next journal while it is made.
const DRAFT: &str = "intents.new";
/// Held while a process uses the folder.
const LOCK: &str = "intents.lock";
/// Length and checksum before each record.
const HEAD_BYTES: usize = 8;
/// Longest record: an answer to what took very many attempts.
const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Entries that wait for the disk; further callers wait for room.
const QUEUE_MAX: usize = 1024;
/// Entries in one write.
const BATCH_MAX: usize = 256;
/// Size from which a file is written anew, if less than half of it is still open: what a gateway sends in ten seconds at
/// its fastest, and reads at its start in a tenth of one.
const ROTATE_BYTES: u64 = 16 * 1024 * 1024;
/// What a probe writes beside what is open: about a thousand intents. A disk with less room would be full again at once.
const ROOM_BYTES: usize = 1024 * 1024;
/// Longest journal that is read at the start. Kept are 200,000 intents and few more, of 640 bytes to a kilobyte, and
/// 10,000 answers of some kilobytes; a file has at most twice that before it is written anew.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What stands in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Arm(Box<Intent>),
    Settle(CloudName),
    Answer(Box<OperationRecord>),
    Forget(Time),
}

type Written = oneshot::Sender<Result<(), IntentError>>;

enum Command {
    /// What must be on the disk before the caller goes on.
    Keep(Entry, Written),
    /// What may be lost.
    Drop(Entry),
    /// Whether the disk takes writes, with room to spare.
    Probe(Written),
}

/// What was found when a journal was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Intents that were not settled.
    pub open: usize,
    /// Records that cannot be read, the torn one at the end apart.
    pub damaged: usize,
    /// Bytes of the torn record at the end.
    pub torn_bytes: usize,
}

type Shared = Arc<Mutex<Kept>>;

/// A journal in a file.
pub struct FileIntents {
    queue: Option<mpsc::Sender<Command>>,
    kept: Shared,
    writer: Option<JoinHandle<()>>,
    /// Why it could not be written when it was opened.
    unwritable: Option<String>,
}

impl std::fmt::Debug for FileIntents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileIntents").finish_non_exhaustive()
    }
}

fn lock(kept: &Shared) -> MutexGuard<'_, Kept> {
    // A poisoned lock means a panic between two complete states; the map is whole.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileIntents {
    /// Opens the journal in a folder, which is made when it is not there. One that can be read but not written is
    /// opened as well ([`IntentLog::unwritable`]). Blocks on the disk.
    ///
    /// # Errors
    /// The journal cannot be read or locked, or another process uses the folder.
    pub fn open(folder: &Path) -> io::Result<(Self, Found)> {
        std::fs::create_dir_all(folder)?;
        // A lock that is there can be held on a disk that takes no writes, too.
        let guard = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(folder.join(LOCK))
            .or_else(|error| File::open(folder.join(LOCK)).map_err(|_| error))?;
        guard.try_lock().map_err(|why| {
            io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is used by another gateway: {why}", folder.display()),
            )
        })?;
        let (open, found) = read(&folder.join(FILE))?;
        let kept: Shared = Arc::new(Mutex::new(open));
        // What was read is written anew, so that nothing torn stands before what follows.
        let (disk, unwritable) = match Disk::renew(folder, &kept, Room::Any) {
            Ok(disk) => (disk, None),
            Err(error) => (Disk::without(folder)?, Some(error.to_string())),
        };
        let mut log = Self::over(disk, kept, guard)?;
        log.unwritable = unwritable;
        Ok((log, found))
    }

    /// A journal that goes on with a file, while the lock is held.
    fn over(disk: Disk, kept: Shared, guard: File) -> io::Result<Self> {
        let (queue, commands) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::clone(&kept);
        let writer = std::thread::Builder::new().name("intents".to_owned()).spawn(move || {
            write_loop(disk, &shared, commands);
            drop(guard);
        })?;
        Ok(Self { queue: Some(queue), kept, writer: Some(writer), unwritable: None })
    }
}

impl FileIntents {
    fn keep(&self, entry: Entry) -> IntentFuture<'_> {
        self.ask(|reply| Command::Keep(entry, reply))
    }

    fn ask<'a>(&'a self, command: impl FnOnce(Written) -> Command + Send + 'a) -> IntentFuture<'a> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let queue = self.queue.as_ref().ok_or(IntentError::Closed)?;
            queue.send(command(reply)).await.map_err(|_| IntentError::Closed)?;
            answer.await.map_err(|_| IntentError::Closed)?
        })
    }

    /// Notes what may be lost: in a full queue it is read as before at the next start, and dropped then.
    fn drop_entry(&self, entry: Entry) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Command::Drop(entry));
        }
    }
}

impl Drop for FileIntents {
    /// Writes what waits and gives the folder free.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            // It ends with the queue; a panic in it was reported there.
            let _ = writer.join();
        }
    }
}

impl IntentLog for FileIntents {
    fn arm(&self, intent: Intent) -> IntentFuture<'_> {
        self.keep(Entry::Arm(Box::new(intent)))
    }

    fn settle(&self, name: &CloudName) {
        if lock(&self.kept).intents.remove(name).is_some() {
            self.drop_entry(Entry::Settle(name.clone()));
        }
    }

    fn pending(&self) -> Vec<Intent> {
        lock(&self.kept).intents.values().cloned().collect()
    }

    fn armed_before(&self, time: Time, last: Option<&CloudName>, limit: usize) -> Vec<Intent> {
        lock(&self.kept).armed_before(time, last, limit)
    }

    fn count(&self) -> usize {
        lock(&self.kept).intents.len()
    }

    fn answer(&self, record: OperationRecord) -> IntentFuture<'_> {
        if lock(&self.kept).answers.has(&record) {
            return Box::pin(ready(Ok(())));
        }
        self.keep(Entry::Answer(Box::new(record)))
    }

    fn answers(&self) -> Vec<OperationRecord> {
        lock(&self.kept).answers.all()
    }

    fn forget(&self, before: Time) {
        let mut kept = lock(&self.kept);
        let had = kept.answers.0.len();
        kept.answers.forget(before);
        let fewer = kept.answers.0.len() < had;
        drop(kept);
        if fewer {
            self.drop_entry(Entry::Forget(before));
        }
    }

    fn probe(&self) -> IntentFuture<'_> {
        self.ask(Command::Probe)
    }

    fn unwritable(&self) -> Option<String> {
        self.unwritable.clone()
    }
}

/// What a new file must show beside that it can be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Any,
    /// [`ROOM_BYTES`] more.
    Ample,
}

/// The file being written.
struct Disk {
    folder: PathBuf,
    file: File,
    bytes: u64,
    /// Size right after it was begun.
    bytes_first: u64,
    /// What was written last may be torn, or in a file that has no name any more: nothing may follow it.
    broken: bool,
}

impl Disk {
    /// No file to write to yet; what stands there is left as it is.
    fn without(folder: &Path) -> io::Result<Self> {
        let file = File::open(folder)?;
        Ok(Self { folder: folder.to_owned(), file, bytes: 0, bytes_first: 0, broken: true })
    }

    /// A file with what is open, in the place of the one before.
    fn renew(folder: &Path, kept: &Shared, room: Room) -> io::Result<Self> {
        Self::draft(folder, kept, room).inspect_err(|_| {
            // What did fit would take the room from everybody else.
            let _ = std::fs::remove_file(folder.join(DRAFT));
        })
    }

    fn draft(folder: &Path, kept: &Shared, room: Room) -> io::Result<Self> {
        let draft = folder.join(DRAFT);
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&draft)?;
        let mut bytes = Vec::new();
        let (intents, answers) = {
            let kept = lock(kept);
            (kept.intents.values().cloned().collect::<Vec<_>>(), kept.answers.all())
        };
        for intent in intents {
            frame(&mut bytes, &Entry::Arm(Box::new(intent)))?;
        }
        for record in answers {
            frame(&mut bytes, &Entry::Answer(Box::new(record)))?;
        }
        file.write_all(&bytes)?;
        if room == Room::Ample {
            let end = file.stream_position()?;
            file.write_all(&vec![0; ROOM_BYTES])?;
            file.sync_all()?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
        }
        file.sync_all()?;
        std::fs::rename(&draft, folder.join(FILE))?;
        File::open(folder)?.sync_all()?;
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Self { folder: folder.to_owned(), file, bytes, bytes_first: bytes, broken: false })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.bytes > ROTATE_BYTES && self.bytes / 2 > self.bytes_first
    }
}

fn write_loop(mut disk: Disk, kept: &Shared, mut commands: mpsc::Receiver<Command>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while commands.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let Batch { bytes, waiting, probes, answers } = Batch::of(batch.drain(..), kept);
        // A failed write or sync says nothing of what is on the disk: a new file with all that is kept does.
        let written = !disk.broken && disk.append(&bytes).is_ok();
        disk.broken |= !written;
        let (mut refused, mut probed) = (None, None);
        // What nobody waits for may be missing in a broken file: the next one has what is kept by then.
        if !probes.is_empty() || if disk.broken { !waiting.is_empty() } else { disk.is_due() } {
            let room = if probes.is_empty() { Room::Any } else { Room::Ample };
            match Disk::renew(&disk.folder, kept, room) {
                Ok(renewed) => disk = renewed,
                Err(error) => {
                    tracing::debug!(%error, "the intent journal was not written anew");
                    probed = Some(error.to_string());
                    // What was appended before stays written, in the old file or in the new one.
                    refused = (!written).then(|| error.to_string());
                    disk.broken = true;
                }
            }
        }
        if refused.is_none() {
            let mut kept = lock(kept);
            answers.into_iter().for_each(|record| kept.answers.keep(record, true));
        }
        tell(waiting, refused.as_deref());
        tell(probes, probed.as_deref());
    }
}

/// What is written in one go.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    waiting: Vec<Written>,
    probes: Vec<Written>,
    answers: Vec<OperationRecord>,
}

impl Batch {
    /// The batch of some commands, whose entries are kept in memory from here on.
    fn of(commands: impl Iterator<Item = Command>, kept: &Shared) -> Self {
        let mut batch = Self::default();
        for command in commands {
            let (entry, reply) = match command {
                Command::Keep(entry, reply) => (entry, Some(reply)),
                Command::Drop(entry) => (entry, None),
                Command::Probe(reply) => {
                    batch.probes.push(reply);
                    continue;
                }
            };
            match (frame(&mut batch.bytes, &entry), reply) {
                (Ok(()), Some(reply)) => batch.waiting.push(reply),
                (Err(error), Some(reply)) => {
                    tell(vec![reply], Some(&error.to_string()));
                    continue;
                }
                // What is dropped is short; a failure would only keep it.
                (_, None) => {}
            }
            match entry {
                Entry::Arm(intent) => drop(lock(kept).intents.insert(intent.cloud_name.clone(), *intent)),
                Entry::Answer(record) => {
                    lock(kept).answers.keep((*record).clone(), false);
                    batch.answers.push(*record);
                }
                Entry::Settle(_) | Entry::Forget(_) => {}
            }
        }
        batch
    }
}

/// Answers who waits: written, or why not.
fn tell(waiting: Vec<Written>, refused: Option<&str>) {
    for reply in waiting {
        // A caller that is gone needs no answer.
        let _ = reply.send(refused.map_or(Ok(()), |why| Err(IntentError::Disk(why.to_owned()))));
    }
}

/// Appends one record.
fn frame(bytes: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    let body = serde_json::to_vec(entry)?;
    if body.len() > RECORD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the intent is too long"));
    }
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(())
}

fn read(path: &Path) -> io::Result<(Kept, Found)> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => {
            let len = file.metadata()?.len();
            if len > FILE_BYTES_MAX {
                return Err(too_long(path, len));
            }
            file.read_to_end(&mut bytes)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(replay(&bytes))
}

fn too_long(path: &Path, len: u64) -> io::Error {
    let why = format!(
        "{} is {len} bytes long, and no gateway writes more than {FILE_BYTES_MAX}: see what it is, then move it away; \
         a rebuild of the ledger does not know then what this gateway sent in its last minutes",
        path.display()
    );
    io::Error::new(io::ErrorKind::FileTooLarge, why)
}

/// What a journal's bytes leave open.
fn replay(bytes: &[u8]) -> (Kept, Found) {
    let (mut open, mut found) = (Kept::default(), Found::default());
    let mut rest = bytes;
    while let Some((body, crc, after)) = split(rest) {
        match (crc32fast::hash(body) == crc).then(|| serde_json::from_slice(body)) {
            Some(Ok(Entry::Arm(intent))) => drop(open.intents.insert(intent.cloud_name.clone(), *intent)),
            Some(Ok(Entry::Settle(name))) => drop(open.intents.remove(&name)),
            Some(Ok(Entry::Answer(record))) => open.answers.keep(*record, true),
            Some(Ok(Entry::Forget(before))) => open.answers.forget(before),
            Some(Err(_)) | None => found.damaged += 1,
        }
        rest = after;
    }
    found.torn_bytes = rest.len();
    found.open = open.intents.len();
    (open, found)
}

/// The first record: body, checksum, what follows.
fn split(bytes: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (len, crc) = head.split_at_checked(size_of::<u32>())?;
    let len = usize::try_from(u32::from_le_bytes(len.try_into().ok()?)).ok()?;
    let crc = u32::from_le_bytes(crc.try_into().ok()?);
    // A length beyond any record is damage itself, and nothing after it can be found.
    let (body, after) = (len <= RECORD_BYTES_MAX).then(|| rest.split_at_checked(len))??;
    Some((body, crc, after))
}

/// Whether a journal can be kept in a folder, which may not be there yet. Leaves nothing behind: whoever asks may be
/// another user than the gateway, who could not write what was made here. Blocks on the disk.
///
/// # Errors
/// What the system says against it, with the path that it is about.
pub fn usable(folder: &Path) -> Result<(), String> {
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let nearest = place.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let Some(nearest) = nearest.into_iter().find(|p| p.symlink_metadata().is_ok()) else {
        return Err(format!("{} is below nothing that exists", place.display()));
    };
    let fault = |error: io::Error| format!("{}: {error}", nearest.display());
    if !std::fs::metadata(nearest).map_err(fault)?.is_dir() {
        return Err(format!("{} is no folder", nearest.display()));
    }
    let probe = nearest.join(format!(".meridian-check-{}", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = private(options.write(true).create_new(true)).open(&probe).map_err(fault)?;
    let written = file.write_all(&vec![0; ROOM_BYTES]).and_then(|()| file.sync_all());
    std::fs::remove_file(&probe).map_err(fault)?;
    written.map_err(fault)
}

fn private(options: &mut OpenOptions) -> &OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

#[cfg(test)]
mod tests {
    use meridian_ledger::conformance::{MemoryLedger, claim_new, failed, sample_claim};

    use super::*;
    use crate::journal::intent::{tests::intent, vouched};

    /// `/dev/full` stands for a disk without room: it takes no byte.
    #[tokio::test]
    async fn a_full_disk_is_said_and_a_probe_finds_out_that_there_is_room_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        std::os::unix::fs::symlink("/dev/full", at(DRAFT)).unwrap();
        let disk = Disk { folder: folder.path().to_owned(), file: full(), bytes: 0, bytes_first: 0, broken: false };
        let guard = File::create(at(LOCK)).unwrap();
        let log = FileIntents::over(disk, Shared::default(), guard).unwrap();
        let refused = log.arm(intent(1)).await.unwrap_err().to_string();
        assert!(refused.contains("No space left on device"), "{refused}");
        assert!(!at(DRAFT).is_symlink(), "what was begun takes no room");
        std::os::unix::fs::symlink("/dev/full", at(DRAFT)).unwrap();
        assert!(log.probe().await.is_err());
        assert!(!at(DRAFT).is_symlink(), "what was begun takes no room");
        log.probe().await.unwrap();
        log.arm(intent(2)).await.unwrap();
        assert!(std::fs::metadata(at(FILE)).unwrap().len() < ROOM_BYTES.try_into().unwrap(), "the room is given back");
        drop(log);
        let (log, found) = FileIntents::open(folder.path()).unwrap();
        assert_eq!((found.damaged, found.torn_bytes), (0, 0));
        assert_eq!(ns(&log), [1, 2], "what was refused is evidence all the same");
    }

    #[tokio::test]
    async fn a_broken_file_is_written_anew_only_for_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (log, _) = FileIntents::open(folder.path()).unwrap();
        for n in 1..=3 {
            log.arm(intent(n)).await.unwrap();
        }
        drop(log);
        let kept: Shared = Arc::new(Mutex::new(read(&at(FILE)).unwrap().0));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let disk = Disk { folder: folder.path().to_owned(), file: full, bytes: 0, bytes_first: 0, broken: false };
        let log = FileIntents::over(disk, kept, File::create(at(LOCK)).unwrap()).unwrap();
        let before = std::fs::read(at(FILE)).unwrap();
        log.settle(intent(1).key());
        log.settle(intent(2).key());
        while log.queue.as_ref().is_some_and(|queue| queue.capacity() < QUEUE_MAX) {
            tokio::task::yield_now().await;
        }
        assert_eq!(std::fs::read(at(FILE)).unwrap(), before);
        log.arm(intent(4)).await.unwrap();
        drop(log);
        assert_eq!(ns(&FileIntents::open(folder.path()).unwrap().0), [3, 4], "nothing that was forgotten comes back");
    }

    #[tokio::test]
    async fn a_journal_that_can_be_read_but_not_written_is_opened_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (log, _) = FileIntents::open(folder.path()).unwrap();
        log.arm(intent(1)).await.unwrap();
        drop(log);
        let before = std::fs::read(at(FILE)).unwrap();
        std::os::unix::fs::symlink("/dev/full", at(DRAFT)).unwrap();
        let (log, found) = FileIntents::open(folder.path()).unwrap();
        assert!(log.unwritable().is_some_and(|why| why.contains("No space left on device")));
        assert_eq!((found.open, ns(&log)), (1, vec![1]));
        std::os::unix::fs::symlink("/dev/full", at(DRAFT)).unwrap();
        assert!(log.arm(intent(2)).await.is_err());
        assert_eq!(std::fs::read(at(FILE)).unwrap(), before);
        log.probe().await.unwrap();
        log.arm(intent(3)).await.unwrap();
        drop(log);
        let (log, _) = FileIntents::open(folder.path()).unwrap();
        assert_eq!((ns(&log), log.unwritable()), (vec![1, 2, 3], None));
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        assert!(FileIntents::open(folder.path()).is_err());
    }

    #[test]
    fn a_journal_that_is_too_long_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let why = FileIntents::open(folder.path()).unwrap_err().to_string();
        assert!(why.contains("intents.log is 1073741825 bytes long"), "{why}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES_MAX + 1);
    }

    #[test]
    fn a_folder_is_tried_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!((usable(folder.path()), usable(&at("new/intents"))), (Ok(()), Ok(())));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
        for (path, part) in [("file", "file is no folder"), ("file/intents", "is no folder"), ("link", "No such file")]
        {
            let why = usable(&at(path)).unwrap_err();
            assert!(why.contains(part), "{path}: {why}");
        }
        assert!(usable(Path::new("/proc/intents")).is_err(), "nothing can be made there");
    }

    fn ns(log: &FileIntents) -> Vec<u32> {
        log.pending().iter().map(|i| i.n).collect()
    }

    #[tokio::test]
    async fn what_was_armed_and_not_settled_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (log, found) = FileIntents::open(folder.path()).unwrap();
        assert_eq!(found, Found::default());
        for n in 1..=5 {
            log.arm(intent(n)).await.unwrap();
        }
        log.settle(intent(2).key());
        assert!(FileIntents::open(folder.path()).is_err(), "one gateway at a time");
        drop(log);
        let (log, found) = FileIntents::open(folder.path()).unwrap();
        assert_eq!((found.open, found.damaged, found.torn_bytes), (4, 0, 0));
        assert_eq!(ns(&log), [1, 3, 4, 5]);
        assert_eq!(log.pending()[0], intent(1));
    }

    #[tokio::test]
    async fn an_answer_is_there_after_a_restart_until_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds: i64| Time::from_unix_ms(seconds * 1000);
        let ledger = MemoryLedger::new("store");
        let record = async |op: &str, rev: u64, updated_at| {
            let claimed = claim_new(&ledger, sample_claim("acme", op, op)).await;
            vouched(&OperationRecord { rev, ..*failed(claimed, updated_at) })
        };
        let (log, _) = FileIntents::open(folder.path()).unwrap();
        let (old, new) = (record("old", 3, at(10)).await, record("new", 5, at(20)).await);
        log.answer(old.clone()).await.unwrap();
        log.answer(new.clone()).await.unwrap();
        let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("canary"), "no secret of the wish is on the disk");
        log.answer(OperationRecord { rev: 4, ..new.clone() }).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), bytes, "what is there is not written again");
        drop(log);
        let (log, _) = FileIntents::open(folder.path()).unwrap();
        assert_eq!(log.answers(), [new.clone(), old.clone()]);
        log.answer(OperationRecord { rev: 1, ..old.clone() }).await.unwrap();
        assert_eq!(log.answers()[1].rev, 3, "a later answer counts");
        log.forget(at(15));
        assert_eq!(log.answers(), std::slice::from_ref(&new));
        drop(log);
        assert_eq!(FileIntents::open(folder.path()).unwrap().0.answers(), [new]);
    }

    #[tokio::test]
    async fn a_file_that_grew_is_written_anew_with_what_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = FileIntents::open(folder.path()).unwrap();
        for first in (1..=60_000).step_by(1000) {
            let armed: Vec<_> = (first..first + 1000).map(|n| log.arm(intent(n))).collect();
            for done in futures_util::future::join_all(armed).await {
                done.unwrap();
            }
            (first..first + 1000).filter(|n| *n != 1).for_each(|n| log.settle(intent(n).key()));
        }
        drop(log);
        assert!(std::fs::metadata(folder.path().join(FILE)).unwrap().len() < 2 * ROTATE_BYTES);
        assert_eq!(ns(&FileIntents::open(folder.path()).unwrap().0), [1]);
    }

    #[test]
    fn a_cut_at_any_byte_loses_only_what_stands_after_it() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for n in 1..=3 {
            frame(&mut bytes, &Entry::Arm(Box::new(intent(n)))).unwrap();
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let (open, found) = replay(&bytes[..cut]);
            assert_eq!(
                (open.intents.len(), found.damaged, found.torn_bytes),
                (whole, 0, cut - ends[whole]),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_changed_byte_costs_at_most_its_record_unless_it_is_in_a_length() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for n in 1..=3 {
            frame(&mut bytes, &Entry::Arm(Box::new(intent(n)))).unwrap();
            ends.push(bytes.len());
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            let (open, found) = replay(&changed);
            let record = ends.iter().filter(|end| **end <= at).count() - 1;
            let in_length = at - ends[record] < 4;
            assert!(found.damaged > 0 || found.torn_bytes > 0, "byte {at}");
            let open = open.intents;
            assert_eq!(open.len(), if in_length { open.len().min(2) } else { 2 }, "byte {at}");
            for n in 1..=u32::try_from(record).unwrap() {
                assert!(open.values().any(|i| i.n == n), "byte {at}: what stands before is read");
            }
        }
    }
}
