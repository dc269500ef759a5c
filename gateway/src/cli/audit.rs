//! `meridian audit`: checks an audit log, without a gateway.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    args::{Audit, AuditKey, AuditVerify, Format},
    failure::{Exit, Failure},
    local::{failed, load},
    output::{self, emit, note},
};
use crate::audit::{
    chain::{SignedHead, hex},
    key::{KEY_FILE, SigningKey},
    verify::{self, Report},
};

/// Longest file with heads that is read.
const HEADS_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Runs a verb that needs no gateway.
pub(super) fn run(command: &Audit) -> Result<(), Failure> {
    match command {
        Audit::Verify(args) => check(args),
        Audit::Key(args) => key(args),
    }
}

fn key(args: &AuditKey) -> Result<(), Failure> {
    let path = match (&args.config, &args.path) {
        (Some(config), _) => {
            let settings = load(config)?.audit.settings();
            let none = || Failure::new(Exit::NotFound, "the configuration says that no audit log is written");
            settings.ok_or_else(none)?.key_path()
        }
        (None, Some(path)) if path.is_dir() => path.join(KEY_FILE),
        (None, Some(path)) => path.clone(),
        (None, None) => return Err(Failure::new(Exit::Usage, "say where: --config FILE or PATH")),
    };
    let key =
        SigningKey::read(&path).map_err(|error| failed("there is no key to show", super::local::chain(&error)))?;
    emit(&format!("{}\n", key.public()))
}

fn known_heads(path: &Path) -> Result<Vec<SignedHead>, Failure> {
    let unreadable = |why: String| Failure::new(Exit::Usage, format!("--heads {}: {why}", path.display()));
    let len = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    if len > HEADS_LEN_MAX {
        return Err(unreadable(format!("longer than {HEADS_LEN_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
    // A list, or an answer of the API that has one.
    let list = value.get("heads").cloned().unwrap_or(value);
    serde_json::from_value(list).map_err(|e| unreadable(e.to_string()))
}

fn check(args: &AuditVerify) -> Result<(), Failure> {
    let mut known = match &args.heads {
        Some(path) => known_heads(path)?,
        None => Vec::new(),
    };
    // What one chain witnesses of another is known of that one.
    let first = read_all(args, &[])?;
    known.extend(first.into_iter().flat_map(|(_, report)| report.witnessed));
    let reports = read_all(args, &known)?;
    let rows: Vec<Value> = reports.iter().map(|(path, report)| row(path, report)).collect();
    match args.output {
        Format::Json => emit(&output::json(&Value::Array(rows)))?,
        Format::Yaml => emit(&output::yaml(&Value::Array(rows))?)?,
        Format::Table | Format::Wide | Format::Name => {
            for (path, report) in &reports {
                emit(&told(path, report))?;
            }
        }
    }
    for (_, report) in &reports {
        for finding in &report.notes {
            note(&format!("note: {finding}\n"));
        }
    }
    for head in &known {
        if reports.iter().all(|(_, report)| report.chain.as_ref() != Some(&head.chain)) {
            note(&format!("note: chain {} reaches record {}, and is not among the logs given\n", head.chain, head.seq));
        }
    }
    let findings: Vec<String> = reports.iter().flat_map(|(_, r)| &r.findings).map(ToString::to_string).collect();
    if findings.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(Exit::Conflict, "the audit log is not as it was written");
    failure.details = findings;
    failure.next = Some("keep a copy of it as it is; the first fault is where to look".to_owned());
    Err(failure)
}

fn read_all<'a>(args: &'a AuditVerify, known: &[SignedHead]) -> Result<Vec<(&'a PathBuf, Report)>, Failure> {
    let read = |path: &'a PathBuf| {
        let report = verify::folder(path, &args.key, known).map_err(|error| {
            let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Error };
            Failure::new(exit, format!("{}: {error}", path.display()))
        })?;
        Ok((path, report))
    };
    args.path.iter().map(read).collect()
}

fn row(path: &Path, report: &Report) -> Value {
    json!({
        "path": path,
        "whole": report.is_whole(),
        "chain": report.chain,
        "files": report.files,
        "records": report.records,
        "heads": report.heads,
        "firstSeq": report.first,
        "lastSeq": report.last.map(|link| link.seq),
        "lastHash": report.last.map(|link| hex(&link.hash)),
        "until": report.until,
        "publicKeys": report.keys,
        "unsignedRecords": report.unsigned,
        "findings": report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "notes": report.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn told(path: &Path, report: &Report) -> String {
    let word = if report.is_whole() { "whole" } else { "NOT WHOLE" };
    let last = report.last.map_or(0, |link| link.seq);
    format!(
        "{}: {word}; records {} to {last} in {} files, {} signed heads, until {}\n",
        path.display(),
        report.first,
        report.files,
        report.heads,
        report.until.as_deref().unwrap_or("-"),
    )
}
