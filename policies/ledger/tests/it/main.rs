//! The embedded ledger on real files, with real processes where a crash is meant.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod crash;
mod damage;
mod documents;
mod fitness;
mod lockstep;
mod quota;
mod recovery;
mod redis;
mod restart;
mod shared;
mod suite;

use std::path::Path;

use meridian_ledger::embedded::{EmbeddedLedger, OpenError, Options, SealKey};

/// The key of every test's ledger.
fn key() -> SealKey {
    SealKey::new([7; 32])
}

fn options(path: &Path) -> Options {
    Options::new(path, key(), |why| panic!("the ledger failed: {why}"))
}

fn try_open(path: &Path) -> Result<EmbeddedLedger, OpenError> {
    EmbeddedLedger::open(options(path))
}

fn open(path: &Path) -> EmbeddedLedger {
    try_open(path).expect("the ledger opens")
}

/// Opens a ledger in which nothing may be wrong.
fn open_clean(path: &Path) -> EmbeddedLedger {
    let ledger = open(path);
    assert!(ledger.open_report().is_clean(), "{:?}", ledger.open_report());
    ledger
}
