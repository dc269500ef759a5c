//! Looks records up, newest first: those in memory, then the files, a bounded part of them for each page.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use meridian_model::time::Time;
use serde_json::Value;
use tokio::sync::oneshot;

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

    /// Goes on in the files until nobody waits for it any more; blocks on the disk.
    fn in_files(mut self, folder: &std::path::Path, is_given_up: impl Fn() -> bool) -> io::Result<Found> {
        let mut read = 0;
        let files: Vec<(u64, PathBuf)> = file::list(folder)?;
        for (first, path) in files.into_iter().rev() {
            if first >= self.before {
                continue;
            }
            if read >= SCAN_BYTES_MAX || is_given_up() {
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
    /// A dropped search ends with the file it reads, and has its turn until then.
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
        let turn = Arc::clone(&inner.scans).acquire_owned().await.map_err(io::Error::other)?;
        let (found, answer) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let page = search.in_files(&folder, || found.is_closed());
            drop(turn);
            // Who does not wait any more needs no page.
            let _ = found.send(page);
        });
        answer.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::{
        audit::Settings,
        clock::{Clock, Entropy},
        telemetry::{Metrics, audit::AuditMetrics},
    };

    /// A log whose older records are in a file that is not in memory.
    fn log(folder: &std::path::Path) -> Audit {
        let settings = Settings {
            folder: folder.to_owned(),
            key_file: None,
            rotate_bytes: 1024 * 1024,
            rotate_age: CLOCK_SLACK,
            retention: CLOCK_SLACK,
        };
        let open = || {
            let metrics = AuditMetrics::register(&Metrics::new());
            Audit::open(settings.clone(), Clock::system(), &Entropy::system(), metrics).unwrap()
        };
        for _ in 0..2 {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(open().close());
        }
        open()
    }

    #[test]
    fn a_search_that_was_given_up_keeps_its_turn_until_it_ends_and_reads_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let audit = log(folder.path());
        let turns = &audit.0.as_ref().unwrap().scans;
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
        let _entered = runtime.enter();
        // The only thread that may block is busy, so the search stands where a slow disk would hold it.
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || wait.recv());
        let mut search = Box::pin(audit.search(Filter::default(), Some(2), 10));
        assert!(search.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(search);
        assert_eq!(turns.available_permits(), SCANS_MAX - 1, "its file is still to be read");
        drop(go_on);
        let all = u32::try_from(SCANS_MAX).unwrap();
        drop(runtime.block_on(turns.acquire_many(all)).unwrap());
        runtime.block_on(audit.close());
        let search = || Search { filter: Filter::default(), size: 10, before: u64::MAX, found: Found::default() };
        let given_up = search().in_files(folder.path(), || true).unwrap();
        assert!(given_up.items.is_empty() && given_up.before.is_some());
        assert!(!search().in_files(folder.path(), || false).unwrap().items.is_empty());
    }
}
