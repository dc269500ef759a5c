//! The files of a chain.
//!
//! `audit-SEQ.jsonl`, named by the number of its first record, which is a `start`; one of them is written to, by one
//! thread, and appended to only. What was written is on the disk when [`Files::flush`] returns. After a write or sync
//! that failed nothing is known of what stands behind the last good byte: the file is opened anew, cut there, and what
//! was not written is written again. A process begins a file of its own, so that a crash leaves at most one record cut
//! short, at the end of the file before; that is cut off and counted, because nobody was told that it was there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use meridian_model::time::Time;
use serde_json::Value;

use super::{
    chain::{self, Link, Sealed, SignedHead},
    key::SigningKey,
    record::{Entry, Head, Pruned, Start},
};

/// Held while a process writes the chain.
const LOCK: &str = "audit.lock";
/// The newest head, beside the chain: a chain that is shorter was cut.
pub const HEAD_FILE: &str = "head.json";
/// What a probe writes and removes.
const PROBE: &str = "audit.probe";
/// What a disk must have room for before it counts as well again: about fifteen hundred records.
const ROOM_BYTES: usize = 1024 * 1024;
/// Records that wait for a disk that takes none; those after them are only counted. What a gateway refuses to do while
/// its disk is unwell needs no record; these are of what was under way when it fell ill.
const PENDING_MAX: usize = 4096;
/// Largest file of a chain that is read: twice the largest size of rotation, with room for the batch that passed it.
pub const FILE_BYTES_MAX: u64 = 600 * 1024 * 1024;

/// Where a chain stands and how long it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its folder.
    pub folder: PathBuf,
    /// Its key; in the folder when none is named.
    pub key_file: Option<PathBuf>,
    /// Bytes after which a new file is begun.
    pub rotate_bytes: u64,
    /// Age after which a new file is begun.
    pub rotate_age: Duration,
    /// How long a file is kept after its last record.
    pub retention: Duration,
}

impl Settings {
    /// Where the key is.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.folder.join(super::key::KEY_FILE))
    }
}

/// Why a chain cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be used.
    #[error("the audit log in {path} cannot be used")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Its key cannot be used.
    #[error(transparent)]
    Key(#[from] super::key::KeyError),
}

/// The files of a folder with the numbers of their first records, in order.
///
/// # Errors
/// The system's.
pub fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A link would let somebody else say what is appended to.
        if !entry.file_type()?.is_file() {
            continue;
        }
        let path = entry.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let seq = name.strip_prefix("audit-").and_then(|n| n.strip_suffix(".jsonl"));
        if let Some(Ok(seq)) = seq.map(str::parse) {
            files.push((seq, path));
        }
    }
    files.sort();
    Ok(files)
}

/// A file of a chain, whole.
///
/// # Errors
/// It cannot be read, or is larger than any file of a chain.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any file of an audit log"));
    }
    Ok(bytes)
}

/// Whether what stands after the last line end can be what a crash left: the beginning of a record, or a whole one but
/// its line end, perhaps with blocks that were never filled.
#[must_use]
pub fn is_torn(tail: &[u8]) -> bool {
    let filled = tail.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let Some(text) = tail.get(..filled) else { return false };
    if !text.starts_with(b"{") {
        return text.is_empty();
    }
    match serde_json::from_slice::<Value>(text) {
        Ok(_) => true,
        // A character that was cut in two is the end of what was written as well.
        Err(error) => error.is_eof() || std::str::from_utf8(text).is_err_and(|e| e.error_len().is_none()),
    }
}

/// What a file shows to who goes on with its chain.
struct Found {
    link: Link,
    good_len: u64,
    torn: u64,
    damaged: Option<String>,
    chain: Option<String>,
    records: Vec<Sealed>,
}

fn find(path: &Path, bytes: &[u8]) -> Found {
    let mut found =
        Found { link: Link::GENESIS, good_len: 0, torn: 0, damaged: None, chain: None, records: Vec::new() };
    let (mut prev, mut rest, mut number) = (None, bytes, 0_u64);
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        number += 1;
        let (line, after) = rest.split_at(end);
        let followed = std::str::from_utf8(line).map_err(|_| chain::Broken::Malformed);
        match followed.and_then(|line| chain::follow(prev.as_ref(), line)) {
            Ok(sealed) => {
                if let Some(name) = sealed.value.get("chain").and_then(Value::as_str)
                    && matches!(sealed.value.get("kind").and_then(Value::as_str), Some("start" | "head"))
                {
                    found.chain = Some(name.to_owned());
                }
                prev = Some(sealed.link);
                found.link = sealed.link;
                found.records.push(sealed);
            }
            Err(why) => {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                found.damaged = Some(format!("{name}, line {number} {why}"));
                return found;
            }
        }
        found.good_len += u64::try_from(end).unwrap_or(0) + 1;
        rest = after.get(1..).unwrap_or_default();
    }
    if is_torn(rest) {
        found.torn = u64::try_from(rest.len()).unwrap_or(u64::MAX);
    } else {
        found.damaged = Some(format!("{}, its end is not what a crash leaves", path.display()));
    }
    found
}

/// Makes of a file what the next may follow: what was cut short goes, and so does a file that a crash left right after it
/// was begun. One that is damaged is left as it is; when nothing of it can be gone on from, its name is given free.
fn settle(path: &Path, found: &Found) -> io::Result<()> {
    if found.torn > 0 {
        cut(path, found.good_len)?;
    }
    match (found.records.is_empty(), &found.damaged) {
        (false, _) => Ok(()),
        (true, None) => fs::remove_file(path),
        (true, Some(_)) => fs::rename(path, path.with_extension("damaged")),
    }
}

/// The chain as its one writer sees it.
pub struct Files {
    settings: Settings,
    key: SigningKey,
    chain: String,
    /// The last record, written or not.
    link: Link,
    path: PathBuf,
    file: Option<File>,
    good_len: u64,
    begun_at: Time,
    /// Sealed, and not known to be on the disk.
    pending: Vec<Sealed>,
    /// Records since the last head.
    unsigned: u64,
    latest: Option<SignedHead>,
    _lock: File,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("path", &self.path).field("link", &self.link).finish_non_exhaustive()
    }
}

impl Files {
    /// Goes on with the chain of a folder, or begins one; `name` is what a new one is called. Returns the newest
    /// records too. Nothing is written yet but the key. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: Settings, name: String, now: Time) -> Result<(Self, Vec<Sealed>), OpenError> {
        let failed = |source| OpenError::Io { path: settings.folder.clone(), source };
        fs::create_dir_all(&settings.folder).map_err(failed)?;
        let lock = lock(&settings.folder).map_err(failed)?;
        let key = SigningKey::open(&settings.key_path())?;
        let mut files = list(&settings.folder).map_err(failed)?;
        let mut found =
            Found { link: Link::GENESIS, good_len: 0, torn: 0, damaged: None, chain: None, records: vec![] };
        while let Some((_, path)) = files.pop() {
            let bytes = read(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
            let (torn, damaged) = (found.torn, found.damaged.take());
            found = find(&path, &bytes);
            found.damaged = damaged.or(found.damaged);
            let mended = settle(&path, &found);
            mended.map_err(|source| OpenError::Io { path: path.clone(), source })?;
            found.torn += torn;
            if !found.records.is_empty() {
                break;
            }
        }
        let chain = found.chain.unwrap_or(name);
        let start = Start {
            chain: chain.clone(),
            damaged: found.damaged,
            public_key: key.public().to_owned(),
            torn_bytes: found.torn,
            version: env!("CARGO_PKG_VERSION"),
        };
        let latest = read_head(&settings.folder);
        let mut chained = Self {
            path: path_of(&settings.folder, found.link.seq.saturating_add(1)),
            settings,
            key,
            chain,
            link: found.link,
            file: None,
            good_len: 0,
            begun_at: now,
            pending: Vec::new(),
            unsigned: 0,
            latest,
            _lock: lock,
        };
        chained.push(now, &Entry::Start(start));
        Ok((chained, found.records))
    }

    /// The public key of its heads.
    #[must_use]
    pub fn public_key(&self) -> &str {
        self.key.public()
    }

    /// Its name.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// The newest head.
    #[must_use]
    pub fn latest_head(&self) -> Option<&SignedHead> {
        self.latest.as_ref()
    }

    /// Adds a record; false when so many wait for the disk already that it is left out.
    pub fn push(&mut self, time: Time, entry: &Entry) -> bool {
        if self.pending.len() >= PENDING_MAX {
            return false;
        }
        let sealed = chain::seal(&self.link, time, entry);
        self.link = sealed.link;
        self.unsigned = if matches!(entry, Entry::Head(_)) { 0 } else { self.unsigned + 1 };
        self.pending.push(sealed);
        true
    }

    /// Adds a signed head, unless nothing stands between it and the one before.
    pub fn push_head(&mut self, time: Time, cause: &'static str) {
        if self.unsigned == 0 {
            return;
        }
        let seq = self.link.seq.saturating_add(1);
        let text = chain::signed_text(&self.chain, seq, &self.link.hash, &time.to_string());
        let head = Head { chain: self.chain.clone(), cause, signature: self.key.sign(&text) };
        self.push(time, &Entry::Head(head));
    }

    /// Writes what was added; returns it when it is on the disk.
    ///
    /// # Errors
    /// The disk's; what was added is kept for the next time.
    pub fn flush(&mut self) -> io::Result<Vec<Sealed>> {
        if self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::with_capacity(self.pending.iter().map(|sealed| sealed.line.len() + 1).sum());
        for sealed in &self.pending {
            bytes.extend_from_slice(sealed.line.as_bytes());
            bytes.push(b'\n');
        }
        // Taken: on the way out by an error it is closed, and opened anew the next time.
        let file = match self.file.take() {
            Some(mut file) => {
                file.write_all(&bytes)?;
                file.sync_data()?;
                file
            }
            None => self.begin(&bytes)?,
        };
        self.file = Some(file);
        self.good_len += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = std::mem::take(&mut self.pending);
        let head = written.iter().rev().find_map(|s| SignedHead::of_record(&s.value, self.key.public()));
        if let Some(head) = head {
            // Beside the chain it only helps to find a cut: the chain itself is written.
            if let Err(error) = write_head(&self.settings.folder, &head) {
                tracing::debug!(%error, "the newest head was not written beside the chain");
            }
            self.latest = Some(head);
        }
        Ok(written)
    }

    /// Opens the file behind its last good byte and writes there.
    fn begin(&self, bytes: &[u8]) -> io::Result<File> {
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(false)).open(&self.path)?;
        file.set_len(self.good_len)?;
        file.seek(SeekFrom::Start(self.good_len))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        File::open(&self.settings.folder)?.sync_all()?;
        Ok(file)
    }

    /// Whether the disk takes a record again, with room for more after it.
    ///
    /// # Errors
    /// The disk's.
    pub fn probe(&mut self) -> io::Result<Vec<Sealed>> {
        let path = self.settings.folder.join(PROBE);
        let tried =
            private(OpenOptions::new().write(true).create(true).truncate(true)).open(&path).and_then(|mut file| {
                file.write_all(&vec![0; ROOM_BYTES])?;
                file.sync_all()
            });
        // What did fit would take the room from everybody else.
        let removed = fs::remove_file(&path);
        tried.and(removed)?;
        self.flush()
    }

    /// Whether the file is full or old.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.pending.is_empty()
            && self.good_len > 0
            && (self.good_len >= self.settings.rotate_bytes || now.since(self.begun_at) >= self.settings.rotate_age)
    }

    /// Ends the file with a head, begins the next and removes what is older than is to be kept.
    ///
    /// # Errors
    /// The disk's; what was not written is kept.
    pub fn rotate(&mut self, now: Time) -> io::Result<Vec<Sealed>> {
        self.push_head(now, "rotation");
        let mut written = self.flush()?;
        self.path = path_of(&self.settings.folder, self.link.seq.saturating_add(1));
        (self.file, self.good_len, self.begun_at) = (None, 0, now);
        let start = Start {
            chain: self.chain.clone(),
            damaged: None,
            public_key: self.key.public().to_owned(),
            torn_bytes: 0,
            version: env!("CARGO_PKG_VERSION"),
        };
        self.push(now, &Entry::Start(start));
        written.extend(self.flush()?);
        written.extend(self.prune(now)?);
        Ok(written)
    }

    /// Removes the files whose last record is older than the retention, and says so in the chain first.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&mut self, now: Time) -> io::Result<Vec<Sealed>> {
        let files = list(&self.settings.folder)?;
        let (mut old, mut last) = (Vec::new(), None);
        for pair in files.windows(2) {
            let [(_, path), (_, next)] = pair else { break };
            // What the next file begins with follows the last record of this one, and is no older than it.
            let Some(first) = first_record(next) else { break };
            if now.since(first.time) < self.settings.retention {
                break;
            }
            old.push(path.clone());
            last = Some(Pruned { up_to_seq: first.seq.saturating_sub(1), up_to_hash: first.prev_hash });
        }
        let Some(pruned) = last else { return Ok(Vec::new()) };
        self.push(now, &Entry::Pruned(pruned));
        let written = self.flush()?;
        for path in old {
            fs::remove_file(path)?;
        }
        Ok(written)
    }
}

/// What a file begins with.
struct First {
    seq: u64,
    prev_hash: String,
    time: Time,
}

fn first_record(path: &Path) -> Option<First> {
    use io::BufRead as _;
    /// Longest first line: a start has no text of a caller's.
    const LINE_LEN_MAX: u64 = 64 * 1024;
    let mut line = String::new();
    io::BufReader::new(File::open(path).ok()?.take(LINE_LEN_MAX)).read_line(&mut line).ok()?;
    let value: Value = serde_json::from_str(&line).ok()?;
    Some(First {
        seq: value.get("seq")?.as_u64()?,
        prev_hash: value.get("prevHash")?.as_str()?.to_owned(),
        time: Time::parse(value.get("time")?.as_str()?).ok()?,
    })
}

fn path_of(folder: &Path, seq: u64) -> PathBuf {
    folder.join(format!("audit-{seq:020}.jsonl"))
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = private(OpenOptions::new().write(true).create(true).truncate(false)).open(folder.join(LOCK))?;
    file.try_lock().map_err(|why| {
        let what = format!("{} is used by another gateway: {why}", folder.display());
        io::Error::new(io::ErrorKind::ResourceBusy, what)
    })?;
    Ok(file)
}

fn cut(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}

/// The head that was written beside a chain.
#[must_use]
pub fn read_head(folder: &Path) -> Option<SignedHead> {
    serde_json::from_slice(&fs::read(folder.join(HEAD_FILE)).ok()?).ok()
}

fn write_head(folder: &Path, head: &SignedHead) -> io::Result<()> {
    let draft = folder.join("head.new");
    crate::cli::write_private(&draft, &serde_json::to_vec(head)?)?;
    fs::rename(&draft, folder.join(HEAD_FILE))
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}
