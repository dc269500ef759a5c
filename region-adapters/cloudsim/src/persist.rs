//! The state on disk: one JSON record a line, appended before a reply leaves, compacted at every start.
//!
//! A torn last line (the process was killed while writing) is dropped: its reply never left. Any other damage is
//! refused with file and line, because guessing would make the truth ledger lie.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::core::{Record, World};

const STATE_FILE: &str = "cloudsim.jsonl";
const PORTS_FILE: &str = "cloudsim-ports.json";

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk said no.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A line that is not a record, or does not fit the scenario.
    #[error("{}:{line}: {problem}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    move |source| StateError::Io { path: path.to_owned(), source }
}

/// The file is compacted while running when this much was appended, and more than [`GROWTH_MAX`] times what it began
/// with: rewriting stalls every call for a moment, so it must be rare.
const APPENDED_BYTES_MIN: u64 = 256 * 1024 * 1024;
const GROWTH_MAX: u64 = 4;

/// The open file.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    file: File,
    start_bytes: u64,
    appended_bytes: u64,
}

impl Journal {
    /// Reads the state into `world`, compacts the file, and opens it for more.
    pub(crate) fn open(dir: &Path, world: &mut World, now_ms: i64) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        let path = dir.join(STATE_FILE);
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error(&path)(error)),
        };
        load(&path, &text, world, now_ms)?;
        world.rebuild();
        let file = compact(dir, &world.snapshot(now_ms)).map_err(io_error(&path))?;
        let start_bytes = file.metadata().map_err(io_error(&path))?.len();
        Ok(Self { dir: dir.to_owned(), file, start_bytes, appended_bytes: 0 })
    }

    /// Appends records in one write: a kill can tear the last line, never mix two.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if !records.is_empty() {
            self.appended_bytes += write_records(&mut self.file, records)?;
        }
        Ok(())
    }

    /// Whether the file has grown enough to be worth [`Journal::rewrite`].
    pub(crate) fn has_grown(&self) -> bool {
        self.appended_bytes > APPENDED_BYTES_MIN.max(self.start_bytes * GROWTH_MAX)
    }

    /// Replaces the file by a snapshot.
    pub(crate) fn rewrite(&mut self, snapshot: &[Record]) -> io::Result<()> {
        self.file = compact(&self.dir, snapshot)?;
        self.start_bytes = self.file.metadata()?.len();
        self.appended_bytes = 0;
        Ok(())
    }
}

/// Writes beside and renames, so that a kill leaves the old file or the new one.
fn compact(dir: &Path, snapshot: &[Record]) -> io::Result<File> {
    let (path, fresh) = (dir.join(STATE_FILE), dir.join(format!("{STATE_FILE}.new")));
    let mut file = File::create(&fresh)?;
    write_records(&mut file, snapshot)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    OpenOptions::new().append(true).open(&path)
}

fn write_records(file: &mut File, records: &[Record]) -> io::Result<u64> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    Ok(u64::try_from(lines.len()).unwrap_or(u64::MAX))
}

fn load(path: &Path, text: &[u8], world: &mut World, now_ms: i64) -> Result<(), StateError> {
    // What follows the last line end is torn, or empty.
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(&[][..], |end| text.get(..end).unwrap_or_default());
    if whole.is_empty() {
        return Ok(());
    }
    for (index, line) in whole.split(|b| *b == b'\n').enumerate() {
        let damaged = |problem: String| StateError::Damaged { path: path.to_owned(), line: index + 1, problem };
        let record: Record = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
        world.restore(record, now_ms).map_err(damaged)?;
    }
    Ok(())
}

/// Ports used last time, by listener name, so that clients find the clouds again.
pub(crate) fn read_ports(dir: &Path) -> BTreeMap<String, u16> {
    // Losing this file only means other ports.
    let text = fs::read(dir.join(PORTS_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

pub(crate) fn write_ports(dir: &Path, ports: &BTreeMap<String, u16>) -> Result<(), StateError> {
    let path = dir.join(PORTS_FILE);
    let text = serde_json::to_vec_pretty(ports).unwrap_or_default();
    fs::write(&path, text).map_err(io_error(&path))
}
