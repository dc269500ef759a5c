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
    #[error("{}: {source}", path.display())]
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

/// The open file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
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
        // Written beside and renamed, so that a kill here leaves the old file.
        let fresh = dir.join(format!("{STATE_FILE}.new"));
        let mut file = File::create(&fresh).map_err(io_error(&fresh))?;
        write_records(&mut file, &world.snapshot(now_ms)).map_err(io_error(&fresh))?;
        file.sync_all().map_err(io_error(&fresh))?;
        fs::rename(&fresh, &path).map_err(io_error(&path))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io_error(&path))?;
        Ok(Self { file })
    }

    /// Appends records in one write: a kill can tear the last line, never mix two.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() { Ok(()) } else { write_records(&mut self.file, records) }
    }
}

fn write_records(file: &mut File, records: &[Record]) -> io::Result<()> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    file.write_all(&lines)
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
