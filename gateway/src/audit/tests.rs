//! Whatever is done to a chain is found; what a crash does to it is told from that.

use std::{fs, path::Path, sync::atomic::Ordering, time::Duration};

use futures_util::FutureExt as _;
use meridian_model::time::Time;
use proptest::{prelude::*, sample::Index};
use tempfile::TempDir;

use super::{
    Audit,
    chain::{self, Link, SignedHead},
    file::{self, Files, Settings},
    key::SigningKey,
    query::Filter,
    record::{Actor, Decision, Entry, Head, Request, Start},
    verify,
    writer::Command,
};
use crate::{
    clock::{Clock, Entropy},
    telemetry::{Metrics, audit::AuditMetrics},
};

const BEGIN: Time = Time::from_unix_ms(1_767_225_600_000);
const SECOND: Duration = Duration::from_secs(1);

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        key_file: None,
        rotate_bytes: 2500,
        rotate_age: Duration::from_secs(3600),
        retention: Duration::from_secs(100_000),
    }
}

fn request(n: u32) -> Entry {
    Entry::Request(Box::new(Request {
        action: "create-instance".to_owned(),
        actor: Actor { credential: Some("acme-1".to_owned()), principal: "key:acme-1".to_owned(), role: None },
        code: None,
        decision: Decision::Accepted,
        granted_role: None,
        idempotency_key: Some(format!("key-{n}")),
        object: format!("tenants/acme/instances/web-{n}"),
        operation: None,
        request_id: format!("req_{n}"),
        source: "192.0.2.7".to_owned(),
        spec_digest: None,
        status: Some(201),
        tenant: Some("acme".to_owned()),
    }))
}

/// Writes so many requests, with a head after each third, and ends as a process does.
fn write(folder: &Path, requests: u32, close: bool) -> String {
    let (mut files, _) = Files::open(settings(folder), "c1".to_owned(), BEGIN).unwrap();
    for n in 0..requests {
        let now = BEGIN + SECOND * n;
        if files.is_due(now) {
            files.rotate(now).unwrap();
        }
        files.push(now, &request(n));
        if n % 3 == 2 {
            files.push_head(now, "minute");
        }
        files.flush().unwrap();
    }
    if close {
        files.push_head(BEGIN + SECOND * requests, "close");
        files.flush().unwrap();
    }
    files.public_key().to_owned()
}

fn verified(folder: &Path, key: &str) -> verify::Report {
    verify::folder(folder, &[key.to_owned()], &[]).unwrap()
}

fn paths(folder: &Path) -> Vec<std::path::PathBuf> {
    file::list(folder).unwrap().into_iter().map(|(_, path)| path).collect()
}

fn copied(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn put(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
}

#[test]
fn a_chain_goes_on_over_files_and_processes() {
    let folder = tempfile::tempdir().unwrap();
    let key = write(folder.path(), 20, true);
    let again = write(folder.path(), 7, false);
    assert_eq!(key, again);
    let report = verified(folder.path(), &key);
    assert!(report.is_whole(), "{:?}", report.findings);
    assert!(report.files > 4, "{report:?}");
    assert_eq!((report.chain.as_deref(), report.first), (Some("c1"), 1));
    assert_eq!(Some(report.records), report.last.map(|link| link.seq), "every record is read once");
    assert_eq!(report.unsigned, 1, "the last but one third ended with a head");
    let other = verify::folder(folder.path(), &["another".to_owned()], &[]).unwrap();
    assert!(other.findings.iter().all(|f| f.what.contains("key that was not given") || f.what.contains("forged")));
    assert!(!other.is_whole());
}

#[test]
fn what_a_crash_cuts_short_is_dropped_and_counted_wherever_it_cut() {
    let whole = tempfile::tempdir().unwrap();
    let key = write(whole.path(), 4, false);
    let last = paths(whole.path()).pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let begin = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for end in begin + 1..bytes.len() {
        let folder = copied(whole.path());
        let cut = folder.path().join(last.file_name().unwrap());
        fs::write(&cut, &bytes[..end]).unwrap();
        let report = verified(folder.path(), &key);
        assert!(report.is_whole(), "{end}: {:?}", report.findings);
        assert!(report.notes.iter().any(|n| n.what.contains("cut short by a crash")), "{end}: {:?}", report.notes);
        write(folder.path(), 2, true);
        let report = verified(folder.path(), &key);
        assert!(report.is_whole(), "{end}: {:?}", report.findings);
        assert!(report.notes.iter().any(|n| n.what.contains("were dropped")), "{end}: {:?}", report.notes);
    }
    // A block that was given to the file and never filled.
    let folder = copied(whole.path());
    let cut = folder.path().join(last.file_name().unwrap());
    fs::write(&cut, [&bytes[..begin + 40], &[0; 512]].concat()).unwrap();
    write(folder.path(), 2, true);
    assert!(verified(folder.path(), &key).is_whole());
}

#[test]
fn a_log_that_is_cut_short_is_found_by_any_head_that_is_known_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = write(folder.path(), 9, true);
    let head = file::read_head(folder.path()).unwrap();
    assert!(head.is_genuine());
    let last = paths(folder.path()).pop().unwrap();
    let kept = lines(&last);
    put(&last, &kept[..kept.len() - 1]);
    let report = verified(folder.path(), &key);
    assert!(report.findings.iter().any(|f| f.what.contains("cut short")), "{:?}", report.findings);
    fs::remove_file(folder.path().join(file::HEAD_FILE)).unwrap();
    assert!(verified(folder.path(), &key).is_whole(), "nothing that is left says that there was more");
    let report = verify::folder(folder.path(), std::slice::from_ref(&key), std::slice::from_ref(&head)).unwrap();
    assert!(!report.is_whole());
    let forged = SignedHead { seq: head.seq - 1, ..head };
    let report = verify::folder(folder.path(), &[key], &[forged]).unwrap();
    assert!(report.findings.iter().any(|f| f.what.contains("forged")), "{:?}", report.findings);
}

#[test]
fn a_chain_made_anew_with_another_key_is_forged() {
    let folder = tempfile::tempdir().unwrap();
    let key = write(folder.path(), 6, true);
    let (away, path) = (tempfile::tempdir().unwrap(), folder.path().join("audit-00000000000000000001.jsonl"));
    let own = SigningKey::open(&away.path().join("key")).unwrap();
    // Says of itself that it is signed with the gateway's key, and is signed with another.
    let start = Start { chain: "c1".to_owned(), damaged: None, public_key: key.clone(), torn_bytes: 0, version: "1" };
    let first = chain::seal(&Link::GENESIS, BEGIN, &Entry::Start(start));
    let second = chain::seal(&first.link, BEGIN, &request(1));
    let text = chain::signed_text("c1", 3, &second.link.hash, &BEGIN.to_string());
    let head = Head { chain: "c1".to_owned(), cause: "minute", signature: own.sign(&text) };
    let third = chain::seal(&second.link, BEGIN, &Entry::Head(head));
    for old in paths(folder.path()) {
        fs::remove_file(old).unwrap();
    }
    put(&path, &[first.line, second.line, third.line]);
    fs::remove_file(folder.path().join(file::HEAD_FILE)).unwrap();
    let report = verified(folder.path(), &key);
    assert!(report.findings.iter().any(|f| f.what.contains("forged")), "{:?}", report.findings);
}

#[test]
fn only_what_is_older_than_the_retention_is_removed_and_the_chain_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let key = write(folder.path(), 30, true);
    let before = paths(folder.path()).len();
    let (mut files, _) = Files::open(settings(folder.path()), "c1".to_owned(), BEGIN).unwrap();
    let late = BEGIN + Duration::from_secs(100_000) + SECOND * 15;
    files.flush().unwrap();
    files.prune(late).unwrap();
    files.push_head(late, "close");
    files.flush().unwrap();
    drop(files);
    let after = paths(folder.path());
    assert!(after.len() > 2 && after.len() < before, "{before} {after:?}");
    let report = verified(folder.path(), &key);
    assert!(report.is_whole() && report.first > 1, "{:?}", report.findings);
    fs::remove_file(&after[0]).unwrap();
    let report = verified(folder.path(), &key);
    assert!(report.findings.iter().any(|f| f.what.contains("retention did not remove")), "{:?}", report.findings);
}

#[test]
fn a_damaged_log_is_gone_on_with_and_stays_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let key = write(folder.path(), 2, true);
    let path = paths(folder.path()).pop().unwrap();
    let mut edited = lines(&path);
    edited[1] = edited[1].replace("web-0", "web-9");
    put(&path, &edited);
    write(folder.path(), 2, true);
    let report = verified(folder.path(), &key);
    let told: Vec<String> = report.findings.iter().map(|f| f.what.clone()).collect();
    assert!(told.iter().any(|w| w.contains("was edited")), "{told:?}");
    assert!(told.iter().any(|w| w.contains("found the log damaged")), "{told:?}");
    // Not one record of its last file can be gone on from.
    fs::write(paths(folder.path()).pop().unwrap(), "garbage\n").unwrap();
    write(folder.path(), 2, true);
    assert!(verified(folder.path(), &key).findings.iter().any(|f| f.what.contains("line 1 is not a record")));
}

#[tokio::test]
async fn a_search_goes_from_memory_into_the_files_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 30, true);
    let clock = Clock::from_fn(|| BEGIN + SECOND * 100);
    let metrics = AuditMetrics::register(&Metrics::new());
    let audit = Audit::open(settings(folder.path()), clock, &Entropy::system(), metrics).unwrap();
    audit.sign("minute").await;
    let walked = async |filter: Filter| {
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = audit.search(filter.clone(), before, 4).await.unwrap();
            assert!(page.items.len() <= 4);
            seen.extend(page.items.iter().map(|r| r["seq"].as_u64().unwrap()));
            before = match page.before {
                Some(next) if before.is_none_or(|before| next < before) => Some(next),
                Some(next) => panic!("{next} comes no further"),
                None => return seen,
            };
        }
    };
    let all = walked(Filter::default()).await;
    assert!(all.len() > 40 && all.is_sorted_by(|a, b| a > b), "{all:?}");
    assert_eq!(all.last(), Some(&1), "the first is in a file that is not in memory");
    let acme = Filter { tenant: Some("acme".to_owned()), ..Filter::default() };
    assert_eq!(walked(acme.clone()).await.len(), 30);
    assert_eq!(walked(Filter { tenant: Some("lab".to_owned()), ..Filter::default() }).await.len(), 0);
    let some = Filter { since: Some(BEGIN + SECOND * 3), until: Some(BEGIN + SECOND * 8), ..acme.clone() };
    assert_eq!(walked(some).await.len(), 5);
    for (object, expected) in [("tenants/acme/instances/web-3", 1), ("tenants/acme/", 30), ("tenants/acm", 0)] {
        assert_eq!(
            walked(Filter { object: Some(object.to_owned()), ..acme.clone() }).await.len(),
            expected,
            "{object}"
        );
    }
    audit.close().await;
}

#[tokio::test]
async fn a_record_whose_wait_for_room_is_given_up_is_written_or_counted() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = AuditMetrics::register(&Metrics::new());
    let clock = Clock::from_fn(|| BEGIN);
    let audit = Audit::open(settings(folder.path()), clock, &Entropy::system(), metrics).unwrap();
    let inner = audit.0.clone().unwrap();
    // A thread that takes nothing.
    let (full, mut taken) = tokio::sync::mpsc::channel(1);
    *super::lock(&inner.queue) = Some(full);
    audit.note(request(1));
    let Entry::Request(record) = request(2) else { panic!("not a request") };
    let waiting = || {
        let mut waiting = Box::pin(audit.record((*record).clone()));
        assert!(waiting.as_mut().now_or_never().is_none());
        waiting
    };
    drop(waiting());
    assert_eq!(inner.shown.lost.load(Ordering::Relaxed), 1, "there was no room for it");
    let waiting = waiting();
    assert!(matches!(taken.recv().await, Some(Command::Add(_, _, None))), "the one before");
    drop(waiting);
    let Some(Command::Add(_, entry, None)) = taken.recv().await else { panic!("it is not there") };
    assert_eq!(entry, request(2));
    assert_eq!(inner.shown.lost.load(Ordering::Relaxed), 1);
}

/// What somebody does to a log.
#[derive(Debug, Clone)]
enum Deed {
    Edit(Index, u8),
    DropByte(Index),
    DropLine(Index),
    Double(Index, Index),
    Swap(Index, Index),
    SwapFiles(Index, Index),
    DropFile(Index),
    CutLines(Index),
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, to)| Deed::Edit(at, to)),
        any::<Index>().prop_map(Deed::DropByte),
        any::<Index>().prop_map(Deed::DropLine),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Deed::Double(a, b)),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Deed::Swap(a, b)),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Deed::SwapFiles(a, b)),
        any::<Index>().prop_map(Deed::DropFile),
        any::<Index>().prop_map(Deed::CutLines),
    ]
}

/// Does it to the file that `which` chooses; false when it changed nothing.
fn done(folder: &Path, which: Index, deed: &Deed) -> bool {
    let all = paths(folder);
    let path = &all[which.index(all.len())];
    let (bytes, text) = (fs::read(path).unwrap(), lines(path));
    let mut edited = text.clone();
    match deed {
        Deed::Edit(at, to) => {
            let (at, mut edited) = (at.index(bytes.len()), bytes.clone());
            edited[at] = *to;
            fs::write(path, &edited).unwrap();
            return edited != bytes;
        }
        Deed::DropByte(at) => {
            let mut edited = bytes.clone();
            edited.remove(at.index(bytes.len()));
            fs::write(path, edited).unwrap();
            return true;
        }
        Deed::SwapFiles(a, b) => {
            let (a, b) = (&all[a.index(all.len())], &all[b.index(all.len())]);
            let (in_a, in_b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
            fs::write(a, in_b).unwrap();
            fs::write(b, in_a).unwrap();
            return a != b;
        }
        Deed::DropFile(at) => {
            fs::remove_file(&all[at.index(all.len())]).unwrap();
            return true;
        }
        Deed::DropLine(at) => drop(edited.remove(at.index(text.len()))),
        Deed::Double(a, b) => edited.insert(b.index(text.len()), text[a.index(text.len())].clone()),
        Deed::Swap(a, b) => edited.swap(a.index(text.len()), b.index(text.len())),
        Deed::CutLines(at) => edited.truncate(at.index(text.len())),
    }
    put(path, &edited);
    edited != text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_log_is_found(which in any::<Index>(), deed in deeds()) {
        static WHOLE: std::sync::OnceLock<(TempDir, String)> = std::sync::OnceLock::new();
        let (whole, key) = WHOLE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let key = write(folder.path(), 12, true);
            (folder, key)
        });
        let folder = copied(whole.path());
        prop_assert!(verified(folder.path(), key).is_whole());
        prop_assume!(done(folder.path(), which, &deed));
        match verify::folder(folder.path(), std::slice::from_ref(key), &[]) {
            Ok(report) => prop_assert!(!report.is_whole(), "{:?} {:?}", deed, report.notes),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
