//! The embedded ledger: one file, one writer thread, for a single gateway.
//!
//! *Writes* go through one bounded queue to one thread, which runs what waits in one transaction and answers
//! after one durable commit (group commit). Each command's checks and changes are one step of that transaction,
//! so no two writers ever interleave. *Reads* see the last commit, that is, every answered write.
//!
//! *Lock*: the store locks the file; a second process is refused. *Failure*: a failed commit stops the ledger for
//! good (see `writer`); the hook given at open is told, and the gateway exits. *Damage*: the start reads and
//! checks everything and refuses to run on a file that is damaged, rolled back or sealed with another key.
//!
//! Deliberately absent: the clock (times come with the commands), retries, and any decision about what the next
//! state of a record should be.

mod amounts;
mod check;
mod documents;
mod leases;
mod pots;
#[cfg(test)]
mod power;
mod steps;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use meridian_model::{
    ids::{InstanceName, OperationId, TenantId},
    operation::{OperationRecord, QuotaLimits},
    quota::QuotaTree,
    time::Time,
};
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
    TableHandle, backends::FileBackend,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use self::{
    check::{OpenReport, UsageDifference},
    writer::FatalHook,
};
use self::{
    leases::Leases,
    tables::{
        DUE, Fault, LIMITS, META, META_SCHEMA, META_SEAL, META_STORE, NAMES, OPERATIONS, POTS, SCHEMA_VERSION, SPECS,
        SPENDS, TOMBSTONES, TREES, Tables, USAGE,
    },
    writer::{Job, Store},
};
pub use crate::seal::{KeyError, SealKey};
use crate::{
    Books, Claim, Claimed, Ledger, LedgerError, LedgerFuture, RecordPage, Step, Stepped, TakeOver, TakenOver, Usage,
    seal::{self, Sealer},
};

/// Reads at the same time; more wait. Each takes a thread of the runtime's blocking pool for some microseconds.
const READS_MAX: usize = 8;
/// Most records on one page, so that a page is a few megabytes at most in practice.
const PAGE_MAX: usize = 1_000;
/// Page cache of the store if nothing else is asked for: all of a fleet of ten thousand instances.
pub const CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Up to this size the checksum of every page is verified at the start (about a second); beyond, a file that was
/// closed properly is believed, and reading the records finds most damage.
const INTEGRITY_CHECK_TO_BYTES: u64 = 256 * 1024 * 1024;
/// What `meta.seal` holds under the seal.
const SEAL_TEXT: &[u8] = b"meridian ledger";

/// How to open an embedded ledger.
pub struct Options {
    /// The database file; made if it is not there. Its folder must exist.
    pub path: PathBuf,
    /// Seals specs.
    pub key: SealKey,
    /// Page cache, bytes.
    pub cache_bytes: usize,
    /// Told once, from the writer thread, when the ledger cannot go on; the process must end then.
    pub fatal: FatalHook,
}

impl Options {
    /// Options with the default cache.
    pub fn new(path: impl Into<PathBuf>, key: SealKey, fatal: impl FnOnce(&str) + Send + 'static) -> Self {
        Self { path: path.into(), key, cache_bytes: CACHE_BYTES_DEFAULT, fatal: Box::new(fatal) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("path", &self.path).field("cache_bytes", &self.cache_bytes).finish()
    }
}

/// Why a ledger does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the ledger {0} is in use by another process; an embedded ledger serves one gateway only")]
    Locked(PathBuf),
    /// The file cannot be opened or made.
    #[error("the ledger {path} cannot be opened")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The key is not the one its specs are sealed with.
    #[error("the ledger {0} is sealed with another key; give the key it was made with")]
    WrongKey(PathBuf),
    /// A newer version wrote it.
    #[error("the ledger {path} has layout {found}, this version reads {known}; start the newer version")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: String,
        /// Ours.
        known: u16,
    },
    /// What it holds cannot be trusted.
    #[error(
        "the ledger {path} is damaged: {detail}; no record was changed. Keep the file, restore the last backup, and \
         let the gateway settle what is newer from the clouds before new creates"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The system gives no thread or random bytes, or refuses the key.
    #[error("the ledger {path} cannot be started: {detail}")]
    System {
        /// The file.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
}

/// A ledger in one file. Dropping it waits for the writes under way and closes the file.
pub struct EmbeddedLedger {
    store: Arc<Store>,
    path: PathBuf,
    report: OpenReport,
    leases: Arc<Leases>,
    reads: Arc<Semaphore>,
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// The documents were counted since the store was opened.
    counted: Arc<AtomicBool>,
}

impl fmt::Debug for EmbeddedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLedger").field("path", &self.path).finish_non_exhaustive()
    }
}

impl EmbeddedLedger {
    /// Opens or makes a ledger and checks all of it. Blocks for as long as reading the file takes.
    ///
    /// # Errors
    /// [`OpenError`]; the file is left as it is, except that an unfinished commit is dropped.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: options.path.clone(), source };
        if std::fs::metadata(&options.path).is_ok_and(|file| file.len() == 0) {
            let detail =
                "it is empty; a ledger never is, but a copy that was cut short, or a full disk's. Remove it only \
                          if this deployment is new"
                    .to_owned();
            return Err(OpenError::Damaged { path: options.path, detail });
        }
        let (path, is_new) = (options.path.clone(), !options.path.exists());
        let file = seal::private_file(&path, false).map_err(failed)?;
        seal::sync_folder(&path).map_err(failed)?;
        let backend = FileBackend::new(file).map_err(|e| open_error(&path, e))?;
        let opened = Self::open_backend(options, backend);
        if is_new && opened.is_err() && std::fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
            // What this start made and wrote nothing into, for want of room, must not stop the next one.
            let _ = std::fs::remove_file(&path);
        }
        opened
    }

    fn open_backend(options: Options, backend: impl StorageBackend) -> Result<Self, OpenError> {
        let Options { path, key, cache_bytes, fatal } = options;
        let system = |detail: &str| OpenError::System { path: path.clone(), detail: detail.to_owned() };
        let sealer = Sealer::new(&key).ok_or_else(|| system("the key is refused"))?;
        // The store may panic on a file that is damaged where it does not look for damage.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let Opened { db, recovered, mended } = open_database(&path, backend, cache_bytes)?;
            let incarnation = read_meta(&path, &db, &sealer)?;
            let mut report = check_all(&path, &db, &sealer, &incarnation)?;
            report.recovered = recovered;
            if mended {
                report.index_differences.push("the store's list of free pages did not fit its content".to_owned());
            }
            Ok((db, incarnation, report))
        }));
        let (db, incarnation, report) = opened.unwrap_or_else(|_| {
            Err(OpenError::Damaged { path: path.clone(), detail: "the store panicked".to_owned() })
        })?;
        let store =
            Arc::new(Store { db, sealer, trees: pots::Trees::default(), incarnation, failure: OnceLock::new() });
        let (queue, waiting) = mpsc::channel(writer::QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn({
                let (store, path) = (Arc::clone(&store), path.clone());
                move || writer::write_loop(&store, &path, waiting, fatal)
            })
            .map_err(|e| system(&e.to_string()))?;
        let reads = Arc::new(Semaphore::new(READS_MAX));
        Ok(Self {
            store,
            path,
            report,
            leases: Arc::default(),
            reads,
            queue: Some(queue),
            writer: Some(writer),
            counted: Arc::default(),
        })
    }

    /// What the start found and repaired.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// The store's incarnation: the first part of every fence it gives out.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.store.incarnation
    }

    /// Queues a command and waits for its durable answer.
    async fn write<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(|| self.store.unavailable())?;
        queue.send(writer::job(run, reply)).await.map_err(|_| self.store.unavailable())?;
        // Its transaction was not seen to end: what the disk holds is not known.
        answer.await.map_err(|_| LedgerError::Unanswered(self.store.unavailable().to_string()))?
    }

    /// Reads from the last commit.
    async fn read<T: Send + 'static>(
        &self,
        run: impl FnOnce(&ReadTransaction, &Sealer) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let permit =
            Arc::clone(&self.reads).acquire_owned().await.map_err(|e| LedgerError::Unavailable(e.to_string()))?;
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if store.failure.get().is_some() {
                return Err(Fault::Command(store.unavailable()));
            }
            run(&store.db.begin_read()?, &store.sealer)
        });
        match done.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Fault::Command(error))) => Err(error),
            Ok(Err(Fault::Store(why))) => Err(LedgerError::Unavailable(why)),
            Err(lost) => Err(LedgerError::Unavailable(lost.to_string())),
        }
    }
}

impl Drop for EmbeddedLedger {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            // The thread catches its panics; there is nothing to learn from how it ended.
            let _ = writer.join();
        }
    }
}

impl Ledger for EmbeddedLedger {
    fn claim(&self, claim: Claim) -> LedgerFuture<'_, Claimed> {
        let leases = Arc::clone(&self.leases);
        Box::pin(self.write(move |t| steps::claim(t, &leases, claim)))
    }

    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped> {
        Box::pin(self.write(move |t| steps::step(t, step)))
    }

    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
        reason: Option<&str>,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, op, reason) = (tenant.clone(), op.clone(), reason.map(ToOwned::to_owned));
        Box::pin(self.write(move |t| steps::request_removal(t, (&tenant, &op), now, reason)))
    }

    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver> {
        let leases = Arc::clone(&self.leases);
        Box::pin(self.write(move |t| steps::take_over(t, &leases, wish)))
    }

    fn renew(&self, owner: &str, now: Time, lease: Duration) -> LedgerFuture<'_, ()> {
        self.leases.extend(owner, now + lease);
        Box::pin(std::future::ready(Ok(())))
    }

    fn release(&self, owner: &str) -> LedgerFuture<'_, ()> {
        self.leases.end(owner);
        Box::pin(std::future::ready(Ok(())))
    }

    fn abandoned(&self, except: &str, now: Time, limit: usize) -> LedgerFuture<'_, Vec<OperationRecord>> {
        let (except, leases) = (except.to_owned(), Arc::clone(&self.leases));
        Box::pin(self.read(move |tx, sealer| {
            let keys = steps::abandoned(&tx.open_table(DUE)?, &except, &leases, now, limit.min(PAGE_MAX))?;
            let read = |key: &Vec<u8>| read_record(tx, sealer, key).transpose().map(|r| r.map(|r| *r));
            keys.iter().filter_map(read).collect()
        }))
    }

    fn operation(&self, tenant: &TenantId, op: &OperationId) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let key = tables::record_key(tenant, op);
        Box::pin(self.read(move |tx, sealer| read_record(tx, sealer, &key)))
    }

    fn instance(&self, tenant: &TenantId, name: &InstanceName) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, name) = (tenant.clone(), name.clone());
        Box::pin(self.read(move |tx, sealer| {
            let key = tables::name_key(&tenant, &name);
            let Some(op) = tx.open_table(NAMES)?.get(key.as_slice())? else {
                return Ok(None);
            };
            let op = tables::decode_op("names", &key, op.value())?;
            read_record(tx, sealer, &tables::record_key(&tenant, &op))
        }))
    }

    fn records(&self, from: Option<(TenantId, OperationId)>, limit: usize) -> LedgerFuture<'_, RecordPage> {
        let from = from.map(|(tenant, op)| tables::record_key(&tenant, &op)).unwrap_or_default();
        Box::pin(self.read(move |tx, sealer| read_page(tx, sealer, &from, limit.clamp(1, PAGE_MAX))))
    }

    fn usage(&self, tenant: &TenantId) -> LedgerFuture<'_, Usage> {
        let tenant = tenant.clone();
        Box::pin(self.read(move |tx, _| {
            Ok(Usage {
                used: tables::read_json(&tx.open_table(USAGE)?, "usage", &tenant)?,
                limits: tables::read_json(&tx.open_table(LIMITS)?, "limits", &tenant)?,
            })
        }))
    }

    fn set_limits(&self, tenant: &TenantId, limits: QuotaLimits) -> LedgerFuture<'_, ()> {
        let tenant = tenant.clone();
        Box::pin(self.write(move |t| steps::set_limits(t, &tenant, &limits)))
    }

    fn books(&self, tenant: &TenantId) -> LedgerFuture<'_, Books> {
        let tenant = tenant.clone();
        Box::pin(self.read(move |tx, _| {
            let usage = Usage {
                used: tables::read_json(&tx.open_table(USAGE)?, "usage", &tenant)?,
                limits: tables::read_json(&tx.open_table(LIMITS)?, "limits", &tenant)?,
            };
            let lie = pots::read(&tx.open_table(POTS)?, &tenant)?;
            let tree = pots::read_tree(&tx.open_table(TREES)?, &tenant)?;
            Ok(Books { usage, pots: lie, tree, spends: pots::read_spends(&tx.open_table(SPENDS)?, &tenant)? })
        }))
    }

    fn set_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> LedgerFuture<'_, ()> {
        let (tenant, tree) = (tenant.clone(), tree.clone());
        Box::pin(self.write(move |t| pots::set_tree(t, &tenant, &tree, now)))
    }

    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize> {
        Box::pin(self.write(move |t| steps::expire(t, keep_until, forget_until, limit)))
    }
}

fn read_record(tx: &ReadTransaction, sealer: &Sealer, key: &[u8]) -> Result<Option<Box<OperationRecord>>, Fault> {
    let operations = tx.open_table(OPERATIONS)?;
    tables::read_record(&operations, &tx.open_table(SPECS)?, &tx.open_table(TOMBSTONES)?, sealer, key)
}

fn read_page(tx: &ReadTransaction, sealer: &Sealer, from: &[u8], limit: usize) -> Result<RecordPage, Fault> {
    let operations = tx.open_table(OPERATIONS)?;
    let specs = tx.open_table(SPECS)?;
    let mut page = RecordPage::default();
    for entry in ReadableTable::range(&operations, from..)? {
        let (key, bytes) = entry?;
        let mut record = tables::decode_record("operations", key.value(), bytes.value())?;
        if page.records.len() == limit {
            page.next = Some((record.tenant, record.op_id));
            break;
        }
        tables::attach_spec(&specs, sealer, key.value(), &mut record)?;
        page.records.push(record);
    }
    Ok(page)
}

/// A store that was opened.
struct Opened {
    db: Database,
    /// The former process had left it open.
    recovered: bool,
    /// Its list of free pages or its counts were wrong.
    mended: bool,
}

/// Opens the store and verifies it.
fn open_database(path: &Path, backend: impl StorageBackend, cache_bytes: usize) -> Result<Opened, OpenError> {
    let recovered = Arc::new(AtomicBool::new(false));
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder.set_repair_callback({
        let recovered = Arc::clone(&recovered);
        move |_| recovered.store(true, Ordering::Relaxed)
    });
    let mut db = builder.create_with_backend(backend).map_err(|e| open_error(path, e))?;
    let recovered = recovered.load(Ordering::Relaxed);
    let small = std::fs::metadata(path).is_ok_and(|m| m.len() <= INTEGRITY_CHECK_TO_BYTES);
    // A recovery has just verified every page. Where a page of content is damaged this is an error, since every
    // commit was made in two phases; `false` means that only the store's own book-keeping was mended.
    let mended = small && !recovered && !db.check_integrity().map_err(|e| open_error(path, e))?;
    Ok(Opened { db, recovered, mended })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the store may add errors; each says that the file is no good")]
fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked(path),
        DatabaseError::UpgradeRequired(found) => {
            OpenError::Damaged { path, detail: format!("its file format {found} is older than any of ours") }
        }
        // `InvalidData` is how the store says that the file is none of its own.
        DatabaseError::Storage(StorageError::Io(source))
            if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            OpenError::Io { path, source }
        }
        other => OpenError::Damaged { path, detail: other.to_string() },
    }
}

/// Reads what the file says of itself, or writes it into a new file; returns the incarnation.
fn read_meta(path: &Path, db: &Database, sealer: &Sealer) -> Result<String, OpenError> {
    let damaged = |detail: String| OpenError::Damaged { path: path.to_owned(), detail };
    let mut tx = db.begin_write().map_err(|e| damaged(e.to_string()))?;
    writer::make_durable(&mut tx, false).map_err(damaged)?;
    let found = {
        let table = tx.open_table(META).map_err(|e| damaged(e.to_string()))?;
        let read = |name: &str| -> Result<Option<Vec<u8>>, OpenError> {
            Ok(table.get(name).map_err(|e| damaged(e.to_string()))?.map(|v| v.value().to_vec()))
        };
        (read(META_SCHEMA)?, read(META_STORE)?, read(META_SEAL)?)
    };
    match found {
        (None, None, None) => {
            let system = |detail: &str| OpenError::System { path: path.to_owned(), detail: detail.to_owned() };
            let store = seal::random_text().ok_or_else(|| system("there are no random bytes"))?;
            let seal = sealer.seal(META_SEAL.as_bytes(), SEAL_TEXT).map_err(|_| system("the key seals nothing"))?;
            write_meta(&tx, &store, &seal).map_err(|f| damaged(writer::reason(f)))?;
            tx.commit().map_err(|e| damaged(e.to_string()))?;
            Ok(store)
        }
        (Some(schema), Some(store), Some(seal)) => {
            tx.abort().map_err(|e| damaged(e.to_string()))?;
            if schema != SCHEMA_VERSION.to_string().as_bytes() {
                let found = String::from_utf8_lossy(&schema).into_owned();
                return Err(OpenError::Newer { path: path.to_owned(), found, known: SCHEMA_VERSION });
            }
            if sealer.open(META_SEAL.as_bytes(), &seal).is_err() {
                return Err(OpenError::WrongKey(path.to_owned()));
            }
            String::from_utf8(store).map_err(|e| damaged(e.to_string()))
        }
        _ => Err(damaged("its description is incomplete".to_owned())),
    }
}

/// Describes a new file and makes its tables.
fn write_meta(tx: &redb::WriteTransaction, store: &str, seal: &[u8]) -> Result<(), Fault> {
    let mut meta = tx.open_table(META)?;
    meta.insert(META_SCHEMA, SCHEMA_VERSION.to_string().as_bytes())?;
    meta.insert(META_STORE, store.as_bytes())?;
    meta.insert(META_SEAL, seal)?;
    tx.open_table(OPERATIONS)?;
    tx.open_table(SPECS)?;
    tx.open_table(TOMBSTONES)?;
    tx.open_table(NAMES)?;
    tx.open_table(DUE)?;
    tx.open_table(tables::EXPIRY)?;
    tx.open_table(USAGE)?;
    tx.open_table(LIMITS)?;
    tx.open_table(POTS)?;
    tx.open_table(TREES)?;
    tx.open_table(SPENDS)?;
    Ok(())
}

/// Checks everything and commits what had to be repaired.
fn check_all(path: &Path, db: &Database, sealer: &Sealer, store: &str) -> Result<OpenReport, OpenError> {
    let damaged = |detail: String| OpenError::Damaged { path: path.to_owned(), detail };
    let mut tx = db.begin_write().map_err(|e| damaged(e.to_string()))?;
    writer::make_durable(&mut tx, false).map_err(damaged)?;
    // A file of an older version lacks some.
    let is_whole = tx.list_tables().map_err(|e| damaged(e.to_string()))?.any(|table| table.name() == SPENDS.name());
    let (report, dirty) = {
        let trees = pots::Trees::default();
        let mut tables = Tables::open(&tx, (sealer, &trees), store).map_err(|f| damaged(writer::reason(f)))?;
        (check::check(&mut tables).map_err(|f| damaged(writer::reason(f)))?, tables.dirty || !is_whole)
    };
    if dirty {
        tx.commit().map_err(|e| damaged(e.to_string()))?;
    } else {
        tx.abort().map_err(|e| damaged(e.to_string()))?;
    }
    Ok(report)
}
