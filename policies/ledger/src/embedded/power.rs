//! Power cuts: a disk that, when cut off, keeps what was synced and a random part of what was not.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use redb::StorageBackend;

use super::{EmbeddedLedger, OpenError, Options, SealKey};
use crate::{
    Claimed, Ledger, Step, Stepped,
    conformance::{id, one_instance, sample_claim},
};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
const ROUNDS: usize = 60;
/// Calls of the disk until the power is cut, at most; opening takes some dozens.
const CALLS_MAX: u32 = 400;

#[derive(Debug)]
enum Change {
    Len(usize),
    Sector(usize, Vec<u8>),
}

#[derive(Debug)]
struct State {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What is on disk for certain.
    synced: Vec<u8>,
    /// Changes since.
    pending: Vec<Change>,
    /// Calls that are still answered.
    calls_left: u32,
}

#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn new(image: Vec<u8>, calls_left: u32) -> Self {
        Self(Arc::new(Mutex::new(State { seen: image.clone(), synced: image, pending: Vec::new(), calls_left })))
    }

    /// The state, if there is power; uses up one call.
    fn powered(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.0.lock().unwrap();
        state.calls_left = state.calls_left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(state)
    }

    /// What is found when the power is back.
    fn after_the_cut(&self, rng: &mut TestRng) -> Vec<u8> {
        let mut state = self.0.lock().unwrap();
        state.calls_left = 0;
        let mut image = state.synced.clone();
        for change in state.pending.iter().filter(|_| rng.next_u32().is_multiple_of(2)) {
            apply(&mut image, change);
        }
        image
    }
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Len(len) => image.resize(*len, 0),
        Change::Sector(at, bytes) => {
            let end = at + bytes.len();
            image.resize(image.len().max(end), 0);
            image[*at..end].copy_from_slice(bytes);
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = state.seen.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.powered()?;
        let len = usize::try_from(len).unwrap();
        state.seen.resize(len, 0);
        state.pending.push(Change::Len(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.powered()?;
        state.synced = state.seen.clone();
        state.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.powered()?;
        let mut at = usize::try_from(offset).unwrap();
        let mut rest = data;
        while !rest.is_empty() {
            let (sector, more) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            let change = Change::Sector(at, sector.to_vec());
            apply(&mut state.seen, &change);
            state.pending.push(change);
            at += sector.len();
            rest = more;
        }
        Ok(())
    }
}

fn open(disk: Disk) -> Result<EmbeddedLedger, OpenError> {
    EmbeddedLedger::open_backend(Options::new("not-a-file.redb", SealKey::new([1; 32]), |_| {}), disk)
}

/// Claims and steps until the power is gone; notes each acknowledged revision.
async fn work(ledger: &EmbeddedLedger, op: String, acks: &Mutex<BTreeMap<String, u64>>) {
    let Ok(Claimed::New(mut record)) = ledger.claim(sample_claim("acme", &op, &op)).await else { return };
    for cpu in 1..=u64::from(CALLS_MAX) {
        acks.lock().unwrap().insert(op.clone(), record.rev);
        record.charge = one_instance(cpu);
        let Ok(Stepped::Written(next)) = ledger.step(Step::within(record)).await else { return };
        record = next;
    }
}

#[tokio::test]
async fn acknowledged_steps_survive_power_cuts() {
    let mut seed = [0; 32];
    TestRunner::default().new_rng().fill_bytes(&mut seed);
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut image = Vec::new();
    let acks = Mutex::new(BTreeMap::new());
    let mut recovered = 0;
    for round in 0..ROUNDS {
        let disk = Disk::new(image, 1 + rng.next_u32() % CALLS_MAX);
        if let Ok(ledger) = open(disk.clone()) {
            let tasks = (0..6).map(|task| work(&ledger, format!("r{round}t{task}"), &acks));
            futures_util::future::join_all(tasks).await;
        }
        image = disk.after_the_cut(&mut rng);
        let ledger = open(Disk::new(image.clone(), u32::MAX))
            .unwrap_or_else(|error| panic!("a cut does not damage; round {round} of seed {seed:?}: {error}"));
        assert!(ledger.open_report().is_clean(), "{:?}", ledger.open_report());
        recovered += u32::from(ledger.open_report().recovered);
        let known = acks.lock().unwrap().clone();
        for (op, rev) in &known {
            let record = ledger.operation(&id("acme"), &id(op)).await.unwrap();
            let now = record.unwrap_or_else(|| panic!("{op} was acknowledged and is lost")).rev;
            assert!((*rev..=rev + 1).contains(&now), "{op}: {rev} was acknowledged, {now} is there");
        }
    }
    assert!(recovered > 0 && acks.lock().unwrap().len() > ROUNDS, "the cuts came too early to tell anything");
}
