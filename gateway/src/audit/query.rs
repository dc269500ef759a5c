//! Looks records up, newest first: those in memory, then the files, a bounded part of them for each page.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use meridian_model::time::Time;
use serde_json::Value;

use super::{Audit, chain::Sealed, file};

/// Bytes of files that are read for one page, beyond which it is answered short and the next one goes on: a second's work.
/// One file is read in any case, so that every page comes further.
const SCAN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pages that are looked for in files at once: each has a file in memory.
pub(super) const SCANS_MAX: usize = 2;
/// How much older than its neighbours a record may say that it is: clocks are set back, by no more than this.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// Which records are asked for; all that is given must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Whose; all when none is named.
    pub tenant: Option<String>,
    /// From this time on.
    pub since: Option<Time>,
    /// Before this time.
    pub until: Option<Time>,
    /// Principal.
    pub actor: Option<String>,
    /// Action.
    pub action: Option<String>,
    /// Decision.
    pub decision: Option<String>,
    /// Path of the object or of what holds it.
    pub object: Option<String>,
    /// Request.
    pub request_id: Option<String>,
    /// Operation, which its effects name too.
    pub operation: Option<String>,
}

fn text<'v>(record: &'v Value, pointer: &str) -> Option<&'v str> {
    record.pointer(pointer).and_then(Value::as_str)
}

impl Filter {
    /// Whether a record is asked for. What is a tenant's is what names it.
    #[must_use]
    pub fn fits(&self, record: &Value) -> bool {
        let is = |wanted: &Option<String>, pointer: &str| {
            wanted.as_deref().is_none_or(|wanted| text(record, pointer) == Some(wanted))
        };
        let time = || text(record, "/time").and_then(|t| Time::parse(t).ok()).unwrap_or_default();
        let below = |object: &str| {
            let rest = text(record, "/object").and_then(|o| o.strip_prefix(object.trim_end_matches('/')));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        is(&self.tenant, "/tenant")
            && is(&self.actor, "/actor/principal")
            && is(&self.action, "/action")
            && is(&self.decision, "/decision")
            && is(&self.request_id, "/requestId")
            && is(&self.operation, "/operation")
            && self.object.as_deref().is_none_or(below)
            && self.since.is_none_or(|since| time() >= since)
            && self.until.is_none_or(|until| time() < until)
    }

    /// Whether nothing older than this record can be asked for.
    fn is_past(&self, record: &Value) -> bool {
        let Some(since) = self.since else { return false };
        text(record, "/time").and_then(|t| Time::parse(t).ok()).is_some_and(|time| time + CLOCK_SLACK < since)
    }
}

/// A page.
#[derive(Debug, Default)]
pub struct Found {
    /// Newest first.
    pub items: Vec<Value>,
    /// The next page is of records with lower numbers; none when there are no more.
    pub before: Option<u64>,
}

/// A search under way.
struct Search {
    filter: Filter,
    size: usize,
    before: u64,
    found: Found,
}

impl Search {
    /// Looks at a record; true when the page is full or nothing older can fit.
    fn look(&mut self, sealed: &Sealed) -> bool {
        if sealed.link.seq >= self.before {
            return false;
        }
        if self.found.items.len() == self.size {
            self.found.before = Some(self.before);
            return true;
        }
        self.before = sealed.link.seq;
        if self.filter.is_past(&sealed.value) {
            return true;
        }
        if self.filter.fits(&sealed.value) {
            self.found.items.push(sealed.value.clone());
        }
        false
    }

    /// Goes on in the files; blocks on the disk.
    fn in_files(mut self, folder: &std::path::Path) -> io::Result<Found> {
        let mut read = 0;
        let files: Vec<(u64, PathBuf)> = file::list(folder)?;
        for (first, path) in files.into_iter().rev() {
            if first >= self.before {
                continue;
            }
            if read >= SCAN_BYTES_MAX {
                self.found.before = Some(self.before);
                return Ok(self.found);
            }
            let bytes = match file::read(&path) {
                // The retention was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                bytes => bytes?,
            };
            read += bytes.len();
            for line in bytes.split(|b| *b == b'\n').rev() {
                // What cannot be read is not shown; `meridian audit verify` says where it stands.
                let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
                let Some(seq) = value.get("seq").and_then(Value::as_u64) else { continue };
                let link = super::chain::Link { seq, hash: [0; super::chain::HASH_LEN] };
                if self.look(&Sealed { link, value, line: String::new() }) {
                    return Ok(self.found);
                }
            }
            self.before = self.before.min(first);
        }
        Ok(self.found)
    }
}

impl Audit {
    /// A page of at most `size` records with numbers below `before`.
    ///
    /// # Errors
    /// The files cannot be read.
    ///
    /// # Cancel safety
    /// A dropped search ends with the file it reads.
    pub async fn search(&self, filter: Filter, before: Option<u64>, size: usize) -> io::Result<Found> {
        let Some(inner) = &self.0 else { return Ok(Found::default()) };
        let mut search = Search { filter, size, before: before.unwrap_or(u64::MAX), found: Found::default() };
        let recent: Vec<Arc<Sealed>> = self.recent();
        for sealed in recent.iter().rev() {
            if search.look(sealed) {
                return Ok(search.found);
            }
        }
        if recent.first().is_some_and(|oldest| oldest.link.seq <= 1) {
            return Ok(search.found);
        }
        let folder = inner.settings.folder.clone();
        let _turn = inner.scans.acquire().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(move || search.in_files(&folder)).await.map_err(io::Error::other)?
    }
}
