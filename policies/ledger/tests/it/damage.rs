//! Files cut short and bytes changed: the ledger refuses, or has everything it acknowledged; never in between.

use std::{
    fs,
    path::{Path, PathBuf},
};

use meridian_ledger::{Ledger, conformance::*, embedded::OpenError};
use meridian_model::operation::OperationRecord;

use crate::{open, open_clean, try_open};

const RECORDS: usize = 40;

/// A closed ledger, and a copy of its file as it was while open (as a crash leaves it), with what both hold.
async fn closed_and_crashed(folder: &Path) -> (PathBuf, PathBuf, Vec<OperationRecord>) {
    let (closed, crashed) = (folder.join("closed.redb"), folder.join("crashed.redb"));
    let ledger = open_clean(&closed);
    for n in 0..RECORDS {
        let mut record = claim_new(&ledger, sample_claim("acme", &format!("op{n}"), &format!("n{n}"))).await;
        record.charge = one_instance(100);
        write(&ledger, record).await;
    }
    let records = ledger.records(None, 1000).await.unwrap().records;
    fs::copy(&closed, &crashed).unwrap();
    drop(ledger);
    (closed, crashed, records)
}

/// Opens a changed copy; true if it opened, and then with everything in it.
async fn opens_whole(path: &Path, want: &[OperationRecord], what: &str) -> bool {
    match try_open(path) {
        Ok(ledger) => {
            let report = ledger.open_report();
            assert!(report.usage_differences.is_empty(), "{what}: {report:?}");
            assert_eq!(ledger.records(None, 1000).await.unwrap().records, want, "{what}: lost without a word");
            true
        }
        Err(OpenError::Damaged { detail, .. }) => {
            assert!(!detail.is_empty());
            false
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[tokio::test]
async fn a_copy_taken_while_open_has_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (closed, crashed, records) = closed_and_crashed(folder.path()).await;
    assert!(opens_whole(&closed, &records, "closed").await);
    let ledger = open(&crashed);
    assert!(ledger.open_report().recovered);
    assert_eq!(ledger.records(None, 1000).await.unwrap().records, records);
}

#[tokio::test]
async fn a_file_cut_short_never_loses_silently() {
    let folder = tempfile::tempdir().unwrap();
    let (closed, crashed, records) = closed_and_crashed(folder.path()).await;
    let changed = folder.path().join("changed.redb");
    let mut refused = 0;
    for file in [&closed, &crashed] {
        let whole = fs::read(file).unwrap();
        let mut cuts: Vec<usize> = (1..32).map(|n| whole.len() / 32 * n).collect();
        cuts.extend([1, 9, 100, 4095, 4096, 4097, whole.len() - 1, whole.len() - 4096, whole.len() - 5000]);
        for cut in cuts {
            fs::write(&changed, &whole[..cut]).unwrap();
            refused += u32::from(!opens_whole(&changed, &records, &format!("{file:?} cut at {cut}")).await);
        }
    }
    assert!(refused > 0, "no cut was noticed");
}

#[tokio::test]
async fn changed_bytes_never_lose_silently() {
    let folder = tempfile::tempdir().unwrap();
    let (closed, crashed, records) = closed_and_crashed(folder.path()).await;
    let changed = folder.path().join("changed.redb");
    let mut refused = 0;
    for file in [&closed, &crashed] {
        let whole = fs::read(file).unwrap();
        // A prime stride meets every part of the pages; the header is met byte by byte.
        for place in (0..512).step_by(7).chain((512..whole.len()).step_by(7919)) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x55;
            fs::write(&changed, &bytes).unwrap();
            refused += u32::from(!opens_whole(&changed, &records, &format!("{file:?} byte {place}")).await);
        }
    }
    assert!(refused > 0, "no change was noticed");
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    for text in [String::new(), "#!/bin/sh\nexit 0\n".to_owned(), "x".repeat(1 << 16)] {
        fs::write(&path, &text).unwrap();
        let error = try_open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
