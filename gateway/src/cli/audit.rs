//! `meridian audit`: checks an audit log, without a gateway, and lists what one has recorded.

use std::path::{Path, PathBuf};

use meridian_model::{quantity::Span, time::Time};
use serde_json::{Value, json};

use super::{
    args::{AuditKey, AuditList, AuditVerify, Format},
    client::{Client, encode},
    failure::{Exit, Failure},
    local::{failed, load},
    output::{self, Table, emit, items, note, scalar, text},
};
use crate::audit::{
    chain::{SignedHead, hex},
    key::{KEY_FILE, SigningKey},
    verify::{self, Report},
};

/// Longest file with heads that is read.
const HEADS_LEN_MAX: u64 = 4 * 1024 * 1024;

/// `meridian audit key`.
///
/// # Errors
/// There is no key.
pub(super) fn key(args: &AuditKey) -> Result<(), Failure> {
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

/// `meridian audit verify`.
///
/// # Errors
/// A log cannot be read, or is not as it was written.
pub(super) fn check(args: &AuditVerify) -> Result<(), Failure> {
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

/// Records of one page: the gateway's largest.
const PAGE_SIZE: u32 = 1000;
/// Pages that are asked for; each comes further, however few records fit.
const PAGES_MAX: usize = 10_000;

/// A time, or so long before now.
fn time(flag: &str, given: &str, now: Time) -> Result<String, Failure> {
    if let Ok(span) = given.parse::<Span>() {
        return Ok((now - span.0).to_string());
    }
    Time::parse(given).map(|time| time.to_string()).map_err(|_| {
        let what = format!("--{flag} {given}: neither a time nor a duration");
        Failure::new(Exit::Usage, what).next("write it as 2027-01-01T00:00:00Z, 90s, 2h or 7d")
    })
}

/// `meridian audit list`.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn list(client: &Client, args: &AuditList, now: Time) -> Result<(), Failure> {
    let tenant = if args.all_tenants { None } else { Some(encode(client.tenant().await?)) };
    let path = tenant.map_or_else(|| "/v1/audit".to_owned(), |tenant| format!("/v1/tenants/{tenant}/audit"));
    let mut query = format!("pageSize={}", args.limit.min(PAGE_SIZE));
    for (flag, given) in [("since", &args.since), ("until", &args.until)] {
        if let Some(given) = given {
            query += &format!("&{flag}={}", encode(&time(flag, given, now)?));
        }
    }
    for (name, given) in [
        ("actor", &args.actor),
        ("action", &args.action),
        ("decision", &args.decision),
        ("object", &args.object),
        ("requestId", &args.request_id),
        ("operation", &args.operation),
    ] {
        if let Some(given) = given {
            query += &format!("&{name}={}", encode(given));
        }
    }
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut first, mut records, mut token) = (Value::Null, Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let next = if token.is_empty() { String::new() } else { format!("&pageToken={}", encode(&token)) };
        let page = client.read_named(&format!("{path}?{query}{next}"), "the audit log").await?;
        records.extend(items(&page, "/items").iter().take(limit - records.len()).cloned());
        text(&page, "/nextPageToken").clone_into(&mut token);
        if first.is_null() {
            first = page;
        }
        if records.len() >= limit || token.is_empty() {
            break;
        }
    }
    show(first, records, args)
}

fn show(mut answer: Value, records: Vec<Value>, args: &AuditList) -> Result<(), Failure> {
    let is_complete = answer.get("complete") != Some(&Value::Bool(false));
    match args.output {
        Format::Json | Format::Yaml => {
            if let Some(answer) = answer.as_object_mut() {
                answer.remove("nextPageToken");
                answer.insert("items".to_owned(), Value::Array(records));
            }
            let text = if args.output == Format::Json { output::json(&answer) } else { output::yaml(&answer)? };
            emit(&text)?;
        }
        Format::Name => emit(&records.iter().map(|r| format!("{}\n", scalar(r, "/requestId"))).collect::<String>())?,
        Format::Table | Format::Wide => emit(&table(&records, args.output == Format::Wide).render())?,
    }
    if !is_complete {
        note("! other gateways have records that are not shown: each keeps a log of its own\n");
    }
    Ok(())
}

pub(super) fn table(records: &[Value], wide: bool) -> Table {
    let mut headers = vec!["TIME", "WHO", "ACTION", "OBJECT", "DECISION", "CODE"];
    if wide {
        headers.extend(["SOURCE", "REQUEST", "OPERATION"]);
    }
    let mut table = Table::new(headers);
    for record in records {
        let either = |one: &str, other: &str| {
            let text = scalar(record, one);
            if text.is_empty() { scalar(record, other) } else { text }
        };
        let count = record.get("count").map(|n| format!(" ({n} times)")).unwrap_or_default();
        let mut cells = vec![
            scalar(record, "/time"),
            either("/actor/principal", "/kind"),
            either("/action", "/cause"),
            either("/object", "/cloudName"),
            either("/decision", "/state") + &count,
            scalar(record, "/code"),
        ];
        if wide {
            cells.extend(["/source", "/requestId", "/operation"].map(|pointer| scalar(record, pointer)));
        }
        table.row(cells);
    }
    table
}
