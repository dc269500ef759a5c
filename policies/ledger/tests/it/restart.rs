use std::path::Path;

use meridian_ledger::{
    Ledger, LedgerError,
    conformance::*,
    embedded::{EmbeddedLedger, OpenError, Options, SealKey},
};
use meridian_model::operation::{Charge, OperationRecord};
use redb::{Database, ReadableTable, TableDefinition};

use crate::{open, open_clean, options, try_open};

type Raw = TableDefinition<'static, &'static [u8], &'static [u8]>;
type ByText = TableDefinition<'static, &'static str, &'static [u8]>;

/// Changes the file behind the ledger's back.
fn meddle(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = Database::open(path).unwrap();
    let tx = db.begin_write().unwrap();
    change(&tx);
    tx.commit().unwrap();
}

/// A ledger with one charged and one gone instance, closed.
async fn filled(path: &Path) -> (Box<OperationRecord>, Box<OperationRecord>) {
    let ledger = open_clean(path);
    let mut living = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    living.charge = one_instance(1500);
    let living = write(&ledger, living).await;
    let gone = claim_new(&ledger, sample_claim("acme", "op2", "db")).await;
    let gone = write(&ledger, failed(gone, at(3))).await;
    (living, gone)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let (living, gone) = filled(&path).await;
    let ledger = open_clean(&path);
    assert_eq!((ledger.open_report().records, ledger.open_report().recovered), (2, false));
    assert_eq!(ledger.operation(&living.tenant, &living.op_id).await.unwrap(), Some(living.clone()));
    assert_eq!(ledger.operation(&gone.tenant, &gone.op_id).await.unwrap(), Some(gone));
    assert_eq!(ledger.usage(&living.tenant).await.unwrap().used, one_instance(1500));
    assert_eq!(living.fence.store, ledger.incarnation(), "the incarnation outlives the process");
    ledger.expire(at(9), at(0), 10).await.unwrap();
    drop(ledger);
    let ledger = open_clean(&path);
    assert_eq!((ledger.open_report().records, ledger.open_report().tombstones), (1, 1));
}

#[tokio::test]
async fn a_second_opener_is_told_who_is_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let ledger = open_clean(&path);
    let error = try_open(&path).unwrap_err();
    assert!(matches!(&error, OpenError::Locked(p) if *p == path), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(ledger);
    open_clean(&path);
}

#[tokio::test]
async fn another_key_is_refused_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let (living, _) = filled(&path).await;
    let error = EmbeddedLedger::open(Options::new(&path, SealKey::new([8; 32]), |_| {})).unwrap_err();
    assert!(matches!(&error, OpenError::WrongKey(_)), "{error}");
    let ledger = open_clean(&path);
    assert_eq!(ledger.operation(&living.tenant, &living.op_id).await.unwrap().unwrap().spec, living.spec);
}

#[tokio::test]
async fn secrets_are_not_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let (living, _) = filled(&path).await;
    assert_eq!(living.spec.containers[0].env[0].value, "canary-op1");
    let file = std::fs::read(&path).unwrap();
    let holds = |needle: &str| file.windows(needle.len()).any(|w| w == needle.as_bytes());
    assert!(holds("fp-web"), "the file is read as it is: other fields are found");
    assert!(!holds("canary"), "a sealed value is in the file in clear");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn wrong_usage_is_reported_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    filled(&path).await;
    meddle(&path, |tx| {
        let mut usage = tx.open_table(ByText::new("usage")).unwrap();
        let wrong = serde_json::to_vec(&one_instance(7)).unwrap();
        usage.insert("acme", wrong.as_slice()).unwrap();
        usage.insert("nobody", wrong.as_slice()).unwrap();
    });
    let ledger = open(&path);
    let report = ledger.open_report();
    assert!(!report.is_clean() && report.index_differences.is_empty());
    let found: Vec<_> = report.usage_differences.iter().map(|d| (d.tenant.as_str(), d.stored, d.recomputed)).collect();
    let want = [("acme", one_instance(7), one_instance(1500)), ("nobody", one_instance(7), Charge::default())];
    assert_eq!(found, want);
    drop(ledger);
    assert_eq!(open_clean(&path).usage(&id("acme")).await.unwrap().used, one_instance(1500));
}

#[tokio::test]
async fn wrong_indexes_are_reported_and_rebuilt() {
    for table in ["names", "due", "expiry"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.redb");
        filled(&path).await;
        meddle(&path, |tx| {
            let mut index = tx.open_table(Raw::new(table)).unwrap();
            index.retain(|_, _| false).unwrap();
            index.insert(b"acme\0ghost".as_slice(), b"op9".as_slice()).unwrap();
        });
        let ledger = open(&path);
        assert!(!ledger.open_report().index_differences.is_empty(), "{table}");
        let holder = ledger.instance(&id("acme"), &id("web")).await.unwrap();
        assert_eq!(holder.unwrap().op_id, id("op1"), "{table}");
        assert!(ledger.instance(&id("acme"), &id("ghost")).await.unwrap().is_none(), "{table}");
        assert_eq!(ledger.abandoned("owner-b", at(1), 10).await.unwrap().len(), 1, "{table}");
        assert_eq!(ledger.expire(at(9), at(0), 10).await.unwrap(), 1, "{table}");
        drop(ledger);
        open_clean(&path);
    }
}

#[tokio::test]
async fn a_spec_without_a_record_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    filled(&path).await;
    meddle(&path, |tx| {
        let mut specs = tx.open_table(Raw::new("specs")).unwrap();
        specs.insert(b"acme\0op9".as_slice(), b"left behind".as_slice()).unwrap();
    });
    assert!(!open(&path).open_report().is_clean());
    open_clean(&path);
}

/// Replaces the stored bytes of `acme/op1`.
fn replace_record(path: &Path, change: impl FnOnce(String) -> String) {
    let key = b"acme\0op1".as_slice();
    meddle(path, |tx| {
        let mut table = tx.open_table(Raw::new("operations")).unwrap();
        let old = String::from_utf8(table.get(key).unwrap().unwrap().value().to_vec()).unwrap();
        let new = change(old.clone());
        assert_ne!(old, new);
        table.insert(key, new.as_bytes()).unwrap();
    });
}

#[tokio::test]
async fn newer_and_broken_records_refuse_the_start_with_their_place() {
    type Change = fn(String) -> String;
    let changes: [(Change, &str); 4] = [
        (|r| r.replace("\"v\":1", "\"v\":2"), "newer version"),
        (|_| "{\"v\":9,\"shape\":\"unknown\"}".to_owned(), "newer version"),
        (|r| r[..r.len() / 2].to_owned(), "operations/acme/op1"),
        (|r| r.replace("\"opId\":\"op1\"", "\"opId\":\"op7\""), "belongs to another key"),
    ];
    for (change, want) in changes {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.redb");
        filled(&path).await;
        replace_record(&path, change);
        let error = try_open(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
        assert!(text.contains(want) && text.contains("ledger.redb") && text.contains("restore"), "{text}");
    }
}

#[tokio::test]
async fn a_moved_or_missing_spec_refuses_the_start() {
    for steal in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.redb");
        filled(&path).await;
        meddle(&path, |tx| {
            let mut specs = tx.open_table(Raw::new("specs")).unwrap();
            let other = specs.remove(b"acme\0op2".as_slice()).unwrap().unwrap().value().to_vec();
            if steal {
                specs.insert(b"acme\0op1".as_slice(), other.as_slice()).unwrap();
                specs.insert(b"acme\0op2".as_slice(), other.as_slice()).unwrap();
            }
        });
        let error = try_open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Damaged { detail, .. } if detail.contains("specs/acme/op")), "{error}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_said_to_be_newer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    filled(&path).await;
    meddle(&path, |tx| {
        tx.open_table(ByText::new("meta")).unwrap().insert("schema", b"2".as_slice()).unwrap();
    });
    assert!(matches!(try_open(&path).unwrap_err(), OpenError::Newer { known: 1, .. }));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_io_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = try_open(&folder.path().join("no/ledger.redb")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[tokio::test]
async fn too_large_a_record_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = EmbeddedLedger::open(options(&folder.path().join("ledger.redb"))).unwrap();
    let mut large = sample_claim("acme", "op1", "web");
    large.annotations.insert("note".to_owned(), "x".repeat(9 * 1024 * 1024));
    assert!(matches!(ledger.claim(large).await, Err(LedgerError::Invalid { .. })));
    let record = claim_new(&ledger, sample_claim("acme", "op1", "web")).await;
    assert_eq!(record.rev, 1);
}
