//! Reads a chain and says what is wrong with it.
//!
//! Each line must follow the one before; a line that does not is told, and the reading goes on behind it. Files must be
//! named by their first record. A head must bear the signature of the key it names, which should be the one that was told
//! from outside: whoever forges a chain can name a key of its own. A chain must reach as far as the newest head that is
//! known of it: the one beside it, those another gateway's chain witnesses, and those given by hand. What a crash leaves
//! at the end of the last file is noted and is no fault: nobody was told that it was there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

use meridian_model::time::Time;
use serde_json::Value;

use super::{
    chain::{self, Broken, Link, Sealed, SignedHead},
    file,
};

/// Faults that are told of a chain; one that was tampered with in so many places needs no longer list.
const FINDINGS_MAX: usize = 100;
/// Longest time that may lie between the newest head and the newest record: heads are signed each minute, and a disk may
/// have been unwell for some.
const UNSIGNED_MS_MAX: u64 = 5 * 60 * 1000;

/// A fault, or something to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file; the folder for what is missing.
    pub file: PathBuf,
    /// Line, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file.display(), self.what);
        }
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// What a chain showed.
#[derive(Debug, Default)]
pub struct Report {
    /// Its name.
    pub chain: Option<String>,
    /// Files.
    pub files: usize,
    /// Records.
    pub records: u64,
    /// Signed heads.
    pub heads: u64,
    /// Number of the first record.
    pub first: u64,
    /// The last record.
    pub last: Option<Link>,
    /// Its time.
    pub until: Option<String>,
    /// The keys that its heads name.
    pub keys: BTreeSet<String>,
    /// Records after the last head.
    pub unsigned: u64,
    /// Heads of other chains that this one witnesses.
    pub witnessed: Vec<SignedHead>,
    /// What is wrong with it; it is whole if this is empty.
    pub findings: Vec<Finding>,
    /// What is to be known of it and is not wrong.
    pub notes: Vec<Finding>,
}

impl Report {
    /// Nothing is wrong with it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }

    fn fault(&mut self, file: &Path, line: u64, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { file: file.to_owned(), line, what: what.into() });
        }
    }

    fn note(&mut self, file: &Path, line: u64, what: impl Into<String>) {
        self.notes.push(Finding { file: file.to_owned(), line, what: what.into() });
    }
}

/// The state of a reading.
struct Reader<'a> {
    report: Report,
    keys: &'a [String],
    prev: Option<Link>,
    /// The key that the process being read named.
    public_key: String,
    /// Numbers and previous hashes of the heads.
    heads: BTreeMap<u64, String>,
    /// Time of the last head or, before the first one, of the first record.
    signed_at: Option<Time>,
    /// What was removed as the retention says: the last record gone, with its hash.
    pruned: BTreeSet<(u64, String)>,
    /// What the first record that is there follows.
    begins_after: Option<(u64, String)>,
}

/// Reads the chain of a folder. `keys` are the public keys that may have signed it; with none, any.
///
/// # Errors
/// The folder or a file cannot be read. A folder without a chain is [`io::ErrorKind::NotFound`].
pub fn folder(path: &Path, keys: &[String], known: &[SignedHead]) -> io::Result<Report> {
    let files = file::list(path)?;
    if files.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no audit log"));
    }
    let mut reader = Reader {
        report: Report { files: files.len(), ..Report::default() },
        keys,
        prev: None,
        public_key: String::new(),
        heads: BTreeMap::new(),
        signed_at: None,
        pruned: BTreeSet::new(),
        begins_after: None,
    };
    let last = files.len() - 1;
    for (i, (seq, file)) in files.iter().enumerate() {
        reader.file(file, *seq, i == last, &file::read(file)?);
    }
    reader.end(path, file::read_head(path), known);
    Ok(reader.report)
}

fn text<'v>(record: &'v Value, member: &str) -> &'v str {
    record.get(member).and_then(Value::as_str).unwrap_or_default()
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, seq: u64, is_last: bool, bytes: &[u8]) {
        let (mut rest, mut number) = (bytes, 0);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            number += 1;
            let (line, after) = rest.split_at(end);
            self.line(path, number, std::str::from_utf8(line).map_err(|_| Broken::Malformed));
            if number == 1 && self.prev.is_some_and(|first| first.seq != seq) {
                self.report.fault(path, 1, "the file's name is not the number of its first record: files were swapped");
            }
            rest = after.get(1..).unwrap_or_default();
        }
        if rest.is_empty() {
            if number == 0 && !is_last {
                self.report.fault(path, 0, "the file is empty");
            }
            return;
        }
        let at = number + 1;
        if is_last && file::is_torn(rest) {
            let what = format!(
                "{} bytes of a record that was cut short by a crash; nobody was told that it is there",
                rest.len()
            );
            self.report.note(path, at, what);
        } else {
            self.report.fault(path, at, "the end of the file is not what a crash leaves: it was cut or edited");
        }
    }

    fn line(&mut self, path: &Path, number: u64, line: Result<&str, Broken>) {
        match line.and_then(|line| chain::follow(self.prev.as_ref(), line)) {
            Ok(sealed) => self.record(path, number, &sealed),
            Err(why) => {
                self.report.fault(path, number, format!("the record {why}"));
                // What it says of itself is where the next one goes on, if it can be read at all.
                let alone = line.ok().and_then(|line| chain::follow(None, line).ok());
                let said = line.ok().and_then(|line| serde_json::from_str::<Value>(line).ok());
                self.prev = match (alone, said) {
                    (Some(sealed), _) => {
                        self.record(path, number, &sealed);
                        Some(sealed.link)
                    }
                    (None, Some(value)) => {
                        let link = |seq| Some(Link { seq, hash: chain::unhex(text(&value, "hash"))? });
                        value.get("seq").and_then(Value::as_u64).and_then(link)
                    }
                    (None, None) => None,
                };
            }
        }
    }

    fn record(&mut self, path: &Path, number: u64, sealed: &Sealed) {
        let record = &sealed.value;
        self.prev = Some(sealed.link);
        self.report.records += 1;
        self.report.unsigned += 1;
        if self.report.last.is_none() {
            self.report.first = sealed.link.seq;
            self.begins_after = Some((sealed.link.seq.saturating_sub(1), text(record, "prevHash").to_owned()));
        }
        self.report.last = Some(sealed.link);
        self.report.until = Some(text(record, "time").to_owned());
        let time = Time::parse(text(record, "time")).ok();
        self.signed_at = self.signed_at.or(time);
        match text(record, "kind") {
            "start" => self.start(path, number, record),
            "head" => {
                self.head(path, number, record);
                self.signed_at = time.or(self.signed_at);
            }
            "pruned" => {
                let seq = record.get("upToSeq").and_then(Value::as_u64).unwrap_or(0);
                self.pruned.insert((seq, text(record, "upToHash").to_owned()));
            }
            "witness" => self.report.witnessed.extend(witnessed(record)),
            "gap" => {
                let lost = record.get("lost").and_then(Value::as_u64).unwrap_or(0);
                self.report.note(
                    path,
                    number,
                    format!("{lost} records are missing that the disk did not take in time"),
                );
            }
            _ => {}
        }
    }

    fn start(&mut self, path: &Path, number: u64, record: &Value) {
        self.public_key = text(record, "publicKey").to_owned();
        if !self.keys.is_empty() && !self.keys.contains(&self.public_key) {
            self.report.fault(path, number, "the gateway that wrote on from here signs with a key that was not given");
        }
        self.report.keys.insert(self.public_key.clone());
        let name = text(record, "chain");
        match self.report.chain.clone() {
            Some(known) if known != name => {
                self.report.fault(path, number, format!("here begins another chain, {name}"))
            }
            Some(_) => {}
            None => self.report.chain = Some(name.to_owned()),
        }
        if let Some(damaged) = record.get("damaged").and_then(Value::as_str) {
            self.report.fault(path, number, format!("the gateway found the log damaged when it started: {damaged}"));
        }
        if let Some(torn @ 1..) = record.get("tornBytes").and_then(Value::as_u64) {
            self.report.note(path, number, format!("{torn} bytes of a record that a crash had cut short were dropped"));
        }
    }

    fn head(&mut self, path: &Path, number: u64, record: &Value) {
        let head = SignedHead::of_record(record, &self.public_key).filter(SignedHead::is_genuine);
        let Some(head) = head else {
            self.report.fault(path, number, "the head is forged: its signature is not that of the gateway's key");
            return;
        };
        self.report.heads += 1;
        self.report.unsigned = 0;
        self.heads.insert(head.seq, head.prev_hash);
    }

    fn end(&mut self, folder: &Path, beside: Option<SignedHead>, known: &[SignedHead]) {
        if let Some((seq, hash)) = self.begins_after.take()
            && seq > 0
            && !self.pruned.contains(&(seq, hash))
        {
            self.report.fault(
                folder,
                0,
                format!("records 1 to {seq} are missing, and the retention did not remove them"),
            );
        }
        let until = self.report.until.as_deref().and_then(|t| Time::parse(t).ok());
        if let (Some(until), Some(signed)) = (until, self.signed_at)
            && until.since(signed).as_millis() > u128::from(UNSIGNED_MS_MAX)
        {
            let what = format!("the last {} records, from {signed} on, have no signed head", self.report.unsigned);
            self.report.fault(folder, 0, what);
        }
        self.reaches(folder, "beside the log", beside.as_ref());
        for head in known {
            self.reaches(folder, "given", Some(head));
        }
        if self.keys.is_empty() {
            let what = "no --key was given: the heads are checked against the key that the log itself names";
            self.report.note(folder, 0, what);
        }
        if self.report.unsigned > 0 {
            let what = format!("{} records follow the last signed head", self.report.unsigned);
            self.report.note(folder, 0, what);
        }
    }

    /// Whether the chain has a head that is known to have been in it.
    fn reaches(&mut self, folder: &Path, whence: &str, head: Option<&SignedHead>) {
        let Some(head) = head.filter(|head| Some(&head.chain) == self.report.chain.as_ref()) else { return };
        if !head.is_genuine() || (!self.keys.is_empty() && !self.keys.contains(&head.public_key)) {
            self.report.fault(folder, 0, format!("the head {} that is {whence} is forged", head.seq));
            return;
        }
        let is_pruned = head.seq < self.report.first;
        if !is_pruned && self.heads.get(&head.seq) != Some(&head.prev_hash) {
            let what = format!(
                "the head {} of {} that is {whence} is not in the log: it was cut short, or made anew",
                head.seq, head.time
            );
            self.report.fault(folder, 0, what);
        }
    }
}

fn witnessed(record: &Value) -> Option<SignedHead> {
    Some(SignedHead {
        chain: text(record, "chain").to_owned(),
        seq: record.get("headSeq")?.as_u64()?,
        prev_hash: text(record, "headHash").to_owned(),
        time: text(record, "headTime").to_owned(),
        public_key: text(record, "publicKey").to_owned(),
        signature: text(record, "signature").to_owned(),
    })
}
