//! `explain`: the decision record of an instance, or what an error code means.

use std::fmt::Write as _;

use meridian_model::error::ErrorCode;
use serde_json::{Value, json};

use super::{
    args::{Explain, Format},
    client::Client,
    failure::{Exit, Failure, attempt_line, exit_of, known_code},
    output::{self, Table, emit, items, one_line, scalar, short, text},
};

/// What is to be explained.
enum What {
    Instance(String),
    Error(String),
}

fn what(words: &[String]) -> Result<What, Failure> {
    match words {
        [name] => {
            let name = name.strip_prefix("inst/").or_else(|| name.strip_prefix("instance/")).unwrap_or(name);
            Ok(What::Instance(name.to_owned()))
        }
        [kind, code] if kind == "error" => Ok(What::Error(code.clone())),
        [kind, name] if ["placement", "instance", "inst"].contains(&kind.as_str()) => Ok(What::Instance(name.clone())),
        _ => Err(Failure::new(Exit::Usage, "explain takes [placement|instance] NAME or error CODE")),
    }
}

/// An error code is explained without a gateway.
///
/// # Errors
/// There is no such code.
pub(super) fn offline(args: &Explain) -> Result<bool, Failure> {
    let What::Error(code) = what(&args.what)? else { return Ok(false) };
    let Some(code) = known_code(&code) else {
        let all = ErrorCode::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(Exit::NotFound, format!("there is no error code {code:?}"))
            .next(format!("the codes are {all}")));
    };
    let value = json!({
        "code": code.as_str(), "title": code.title(), "status": code.status(), "retryable": code.retryable(),
        "advice": code.advice(), "exitCode": exit_of(code) as u8,
    });
    match args.output {
        Format::Json => emit(&output::json(&value))?,
        Format::Yaml => emit(&output::yaml(&value)?)?,
        Format::Name => emit(&format!("error/{}\n", code.as_str()))?,
        Format::Table | Format::Wide => {
            let again = if code.retryable() { "may succeed unchanged later" } else { "will not succeed unchanged" };
            emit(&format!(
                "{}: {}\n  HTTP status {}, exit code {}; the same request {again}.\n  {}\n",
                code.as_str(),
                code.title(),
                code.status(),
                exit_of(code) as u8,
                code.advice()
            ))?;
        }
    }
    Ok(true)
}

/// `meridian explain NAME`.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn placement(client: &Client, args: &Explain) -> Result<(), Failure> {
    let What::Instance(name) = what(&args.what)? else { return Ok(()) };
    // `acme/web`: the tenant may stand before the name; the path is built from both.
    let path = match name.split_once('/') {
        Some((tenant, name)) => {
            use super::client::encode;
            format!("/v1/tenants/{}/instances/{}", encode(tenant), encode(name))
        }
        None => client.instance_path(&name).await?,
    };
    let record = client.read_named(&format!("{path}:explain"), &format!("instance {}", one_line(&name))).await?;
    match args.output {
        Format::Json => emit(&output::json(&record)),
        Format::Yaml => emit(&output::yaml(&record)?),
        Format::Name => emit(&format!("instance/{}\n", short(text(&record, "/name")))),
        Format::Table | Format::Wide => emit(&shown(&record)),
    }
}

/// The record as text: every zone with its verdict, then the attempts in their order.
fn shown(record: &Value) -> String {
    let attempts = items(record, "/attempts");
    let chosen = text(record, "/chosen/zone");
    let mut table = Table::new(vec!["ZONE", "BACKEND", "VERDICT", "SCORE", "PRICE/H", "WHY"]);
    for candidate in items(record, "/decision/candidates") {
        let zone = text(candidate, "/zone");
        let tried = attempts.iter().rev().find(|a| text(a, "/zone") == zone);
        let (verdict, why) = match tried {
            Some(a) if text(a, "/outcome") == "running" => ("chosen", terms(candidate)),
            Some(a) if text(a, "/code") == "ok" => ("trying", terms(candidate)),
            Some(a) => ("tried", format!("{}: {}", text(a, "/code").replace('-', " "), text(a, "/message"))),
            None if zone == chosen => ("chosen", terms(candidate)),
            None => ("not tried", terms(candidate)),
        };
        let score = candidate.get("score").and_then(Value::as_f64).map(|s| format!("{s:.2}")).unwrap_or_default();
        let backend = text(candidate, "/backend").to_owned();
        table.row(vec![zone.to_owned(), backend, verdict.to_owned(), score, scalar(candidate, "/price"), why]);
    }
    for rejected in items(record, "/decision/rejected") {
        let reasons: Vec<String> = items(rejected, "/reasons")
            .iter()
            .map(|r| format!("{}: {}", text(r, "/filter"), text(r, "/detail")))
            .collect();
        let zone = text(rejected, "/zone");
        let zone = if zone.is_empty() { format!("{} (all)", text(rejected, "/region")) } else { zone.to_owned() };
        let backend = text(rejected, "/backend").to_owned();
        table.row(vec![zone, backend, "filtered".to_owned(), String::new(), String::new(), reasons.join("; ")]);
    }
    let mut out = format!("{}: {}\n", one_line(short(text(record, "/name"))), text(record, "/state"));
    if !table.is_empty() {
        let _ = write!(out, "\n{}", table.render());
    }
    if !attempts.is_empty() {
        out.push_str("\nAttempts, in order:\n");
        for attempt in attempts {
            let _ = writeln!(out, "  {}", one_line(&attempt_line(attempt)));
        }
    }
    if record.get("error").is_some_and(|e| !e.is_null()) {
        let (code, detail) = (text(record, "/error/code"), text(record, "/error/detail"));
        let _ = writeln!(out, "\nError: {code}: {}", one_line(detail));
    }
    out
}

/// `price 0.90 · spread 0.50`.
fn terms(candidate: &Value) -> String {
    let term = |t: &Value| {
        let value = t.get("value").and_then(Value::as_f64).unwrap_or(0.0);
        format!("{} {value:.2}", text(t, "/name"))
    };
    items(candidate, "/terms").iter().map(term).collect::<Vec<_>>().join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained() {
        let words = |w: &[&str]| what(&w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert!(matches!(words(&["web"]), Ok(What::Instance(n)) if n == "web"));
        assert!(matches!(words(&["inst/web"]), Ok(What::Instance(n)) if n == "web"));
        assert!(matches!(words(&["placement", "acme/web"]), Ok(What::Instance(n)) if n == "acme/web"));
        assert!(matches!(words(&["error", "no-capacity"]), Ok(What::Error(c)) if c == "no-capacity"));
        assert!(words(&["a", "b"]).is_err());
    }

    #[test]
    fn a_record_shows_every_zone_with_its_verdict() {
        let record = json!({"name": "tenants/acme/instances/web", "state": "succeeded", "chosen": {"zone": "z2"},
            "decision": {"candidates": [
                {"zone": "z1", "backend": "b", "score": 0.9, "terms": []},
                {"zone": "z2", "backend": "b", "score": 0.8, "price": "0.12", "terms": [{"name": "price", "value": 1.0}]},
                {"zone": "z3", "backend": "b", "score": 0.7, "terms": []}],
              "rejected": [{"region": "r9", "backend": "c", "reasons": [{"filter": "unsupported", "detail": "no GPU"}]}]},
            "attempts": [{"zone": "z1", "outcome": "absent", "code": "no-capacity", "message": "sold out", "durationMs": 2900},
                         {"zone": "z2", "outcome": "running", "code": "ok", "message": ""}]});
        let shown = shown(&record);
        let verdict = |zone: &str| {
            let line = shown.lines().find(|l| l.starts_with(zone)).unwrap();
            line.split("  ").filter(|c| !c.is_empty()).nth(2).unwrap().trim().to_owned()
        };
        assert_eq!(
            (verdict("z1").as_str(), verdict("z2").as_str(), verdict("z3").as_str()),
            ("tried", "chosen", "not tried")
        );
        assert_eq!(verdict("r9 (all)"), "filtered");
        assert!(shown.contains("tried z1") && shown.contains("2.9 s"), "{shown}");
    }
}
