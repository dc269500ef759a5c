//! Failures of the disk under a running ledger, which need a disk that fails on command.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use redb::{StorageBackend, backends::InMemoryBackend};

use super::{EmbeddedLedger, Options, SealKey};
use crate::{
    Ledger, LedgerError, Step,
    conformance::{at, claim_new, id, one_instance, sample_claim},
};

const HEALTHY: u8 = 0;
const SYNC_FAILS: u8 = 1;
const DISK_FULL: u8 = 2;
const PANICS: u8 = 3;

/// A disk in memory that fails in the given way from the moment it is told to.
#[derive(Debug, Clone)]
struct Disk {
    inner: Arc<InMemoryBackend>,
    mode: Arc<AtomicU8>,
    syncs: Arc<AtomicU32>,
}

impl Disk {
    fn new() -> Self {
        Self { inner: Arc::default(), mode: Arc::default(), syncs: Arc::default() }
    }

    fn fails(&self, mode: u8) -> bool {
        self.mode.load(Ordering::SeqCst) == mode
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        assert!(!self.fails(PANICS), "a planted panic");
        if self.fails(SYNC_FAILS) { Err(io::Error::from_raw_os_error(5)) } else { self.inner.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.fails(DISK_FULL) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write(offset, data)
    }
}

fn open(disk: &Disk) -> (EmbeddedLedger, mpsc::Receiver<String>) {
    let (told, fatal) = mpsc::channel();
    let hook = move |why: &str| told.send(why.to_owned()).unwrap();
    let options = Options::new("not-a-file.redb", SealKey::new([1; 32]), hook);
    (EmbeddedLedger::open_backend(options, disk.clone()).unwrap(), fatal)
}

async fn fails_for_good(mode: u8) {
    let disk = Disk::new();
    let (ledger, fatal) = open(&disk);
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    disk.mode.store(mode, Ordering::SeqCst);
    let waiting = (0..300).map(|i| ledger.claim(sample_claim("acme", &format!("x{i}"), &format!("x{i}"))));
    for answer in futures_util::future::join_all(waiting).await {
        match answer {
            // Those of the transaction that failed, and those behind it.
            Err(LedgerError::Unanswered(why) | LedgerError::Unavailable(why)) => {
                assert!(why.contains("ledger stopped"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    let why = fatal.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(why.contains("a write failed"), "{why}");
    // The disk is well again; the ledger is not, and does not try.
    disk.mode.store(HEALTHY, Ordering::SeqCst);
    let syncs = disk.syncs.load(Ordering::SeqCst);
    let mut next = record.clone();
    next.charge = one_instance(1);
    assert!(matches!(ledger.step(Step::within(next)).await, Err(LedgerError::Unavailable(_))));
    assert!(matches!(ledger.abandoned("owner-b", at(9), 1).await, Err(LedgerError::Unavailable(_))));
    assert!(matches!(ledger.operation(&id("acme"), &id("op1")).await, Err(LedgerError::Unavailable(_))));
    assert!(matches!(ledger.usage(&id("acme")).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs, "a failed fsync is never repeated");
    drop(ledger);
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs, "not even when it is closed");
    assert!(fatal.recv_timeout(Duration::from_secs(10)).is_err(), "the hook is called once");
}

#[tokio::test]
async fn a_failed_fsync_stops_the_ledger() {
    fails_for_good(SYNC_FAILS).await;
}

#[tokio::test]
async fn a_full_disk_stops_the_ledger() {
    fails_for_good(DISK_FULL).await;
}

#[tokio::test]
async fn a_panic_of_the_store_stops_the_ledger() {
    fails_for_good(PANICS).await;
}

#[tokio::test]
async fn refusals_and_replays_cost_no_fsync_and_waiting_commands_share_one() {
    let disk = Disk::new();
    let (ledger, _fatal) = open(&disk);
    let wish = sample_claim("acme", "op1", "web");
    claim_new(&ledger, wish.clone()).await;
    let before = disk.syncs.load(Ordering::SeqCst);
    for _ in 0..10 {
        ledger.claim(wish.clone()).await.unwrap();
        ledger.claim(sample_claim("acme", "op2", "web")).await.unwrap();
    }
    assert_eq!(disk.syncs.load(Ordering::SeqCst), before);
    let many = (0..200).map(|i| ledger.claim(sample_claim("acme", &format!("x{i}"), &format!("x{i}"))));
    futures_util::future::join_all(many).await;
    let used = disk.syncs.load(Ordering::SeqCst) - before;
    assert!(used < 200, "{used} syncs for 200 claims");
}

#[tokio::test]
async fn a_refusal_is_answered_although_the_disk_would_fail() {
    let disk = Disk::new();
    let (ledger, _fatal) = open(&disk);
    claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    disk.mode.store(SYNC_FAILS, Ordering::SeqCst);
    // A refusal writes nothing, so it is answered although the disk would fail.
    let taken = ledger.claim(sample_claim("acme", "op2", "web")).await;
    assert!(matches!(taken, Ok(crate::Claimed::NameTaken(_))), "{taken:?}");
}
