//! `policy test`: what policies would change for requests that were made, at a gateway or in a file.

use std::{path::Path, sync::Arc};

use meridian_model::{
    ids::{InstanceName, ProjectName, TenantId},
    instance::{InstanceSpec, Labels},
    time::Time,
};
use meridian_policies::rules::RuleSet;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    args::Format,
    client::{Ask, Client, encode},
    failure::{Exit, Failure, Fault, ProblemBody},
    manifest::{self, Document},
    output::{self, Table, emit, items, note, one_line, short, text},
    policy::{self, Against, Test},
};
use crate::{
    located::{Located, Syntax},
    policies::replay::{Recorded, Replay},
};

/// Requests whose names are shown behind a rule.
const NAMES_SHOWN: usize = 5;

/// `policy test` against what a gateway keeps.
///
/// # Errors
/// What the gateway refuses with; 10 when anything would change.
pub(super) async fn on_gateway(client: &Client, args: &Test) -> Result<(), Failure> {
    let documents = manifest::load(&args.file)?;
    let mut body = json!({ "policies": documents.iter().map(|d| &d.body).collect::<Vec<_>>() });
    if let (Against::Gateway(Some(window)), Some(body)) = (&args.against, body.as_object_mut()) {
        body.insert("window".to_owned(), Value::from(window.to_string()));
    }
    let path = format!("/v1/tenants/{}/policies:test", encode(&whose(client, &documents).await?));
    let answer = client.ask(Ask::post(path, &body, &uuid::Uuid::new_v4().to_string())).await?;
    if !answer.status.is_success() {
        let problem = ProblemBody::read(&answer.body);
        return Err(placed(&problem, problem.failure(answer.status.as_u16(), client.verbose), &documents));
    }
    show(&answer.json(), args.output)
}

/// Whose requests are meant: the tenant that was said, or that of the documents; everybody's for the platform's.
async fn whose(client: &Client, documents: &[Document]) -> Result<String, Failure> {
    if let Some(said) = client.said_tenant() {
        return Ok(said.to_owned());
    }
    if documents.iter().any(|d| text(&d.body, "/spec/scope") == "platform") {
        return Ok("-".to_owned());
    }
    match documents.iter().map(|d| text(&d.body, "/spec/scope/tenant")).find(|name| !name.is_empty()) {
        Some(tenant) => Ok(tenant.to_owned()),
        None => client.tenant().await.map(str::to_owned),
    }
}

/// Adds where each fault stands; it begins with the place of its document among those that were sent.
fn placed(problem: &ProblemBody, mut failure: Failure, documents: &[Document]) -> Failure {
    for fault in &problem.errors {
        let found = fault.pointer.strip_prefix("/policies/").and_then(|rest| {
            let (n, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            Some((documents.get(n.parse::<usize>().ok()?)?, below))
        });
        match found {
            Some((document, pointer)) => {
                failure.places.push(document.place(&Fault { pointer: pointer.to_owned(), ..fault.clone() }));
            }
            None => failure.details.push(fault.line()),
        }
    }
    failure
}

/// `policy test` against a file of instances or manifests, without a gateway and with nothing in force before.
///
/// # Errors
/// A file cannot be read or a document is wrong; 10 when anything would change.
pub(super) fn on_file(args: &Test, tenant: Option<&str>, now: Time) -> Result<(), Failure> {
    let Against::File(file) = &args.against else { return Ok(()) };
    let candidates = policy::load(&args.file)?;
    let of_policies = candidates.iter().find_map(|policy| policy.scope().tenant()).cloned();
    let mut replay = Replay::new(RuleSet::default(), RuleSet::of(candidates));
    for request in requests(file)? {
        let recorded = recorded(&request, (tenant, of_policies.as_ref()), now).map_err(|what| {
            let name = one_line(short(text(&request, "/name")));
            Failure::new(Exit::Error, format!("{}: {name}: {what}", file.display()))
                .next("give instances as `meridian get inst -o json` prints them, or manifests")
        })?;
        if !replay.judge(&recorded) {
            break;
        }
    }
    let report = serde_json::to_value(replay.finish())
        .map_err(|e| Failure::new(Exit::Error, format!("the report cannot be written: {e}")))?;
    show(&report, args.output)
}

/// Every request of a file: its documents, and the items of lists in it.
fn requests(file: &Path) -> Result<Vec<Value>, Failure> {
    let (name, text) = manifest::read(file)?;
    let documents = Located::of_yaml(&text).map_err(|Syntax { line, column, what }| {
        Failure::new(Exit::Error, format!("{name}:{line}:{column}: {what}")).next("mend the place shown")
    })?;
    let all = documents.into_iter().map(|located| located.body);
    Ok(all
        .flat_map(|body| match body.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![body],
        })
        .collect())
}

fn read<T: DeserializeOwned>(body: &Value, pointers: &[&str]) -> Result<Option<T>, String> {
    let Some((pointer, value)) = pointers.iter().find_map(|p| Some((p, body.pointer(p)?))) else { return Ok(None) };
    serde_json::from_value(value.clone()).map(Some).map_err(|e| format!("{pointer}: {e}"))
}

/// A request as an instance of the API or a manifest tells it.
fn recorded(
    body: &Value,
    (said, of_policies): (Option<&str>, Option<&TenantId>),
    now: Time,
) -> Result<Recorded, String> {
    let name = read::<String>(body, &["/metadata/name", "/name"])?.ok_or("it has no name")?;
    let own = read::<TenantId>(body, &["/tenant", "/metadata/namespace"])?;
    let said = said.map(TenantId::new).transpose().map_err(|e| e.to_string())?;
    let tenant = said.or(own).or_else(|| of_policies.cloned());
    Ok(Recorded {
        tenant: tenant.ok_or("nobody says whose it is: give --tenant")?,
        projects: read::<ProjectName>(body, &["/project", "/metadata/project"])?.into_iter().collect(),
        name: InstanceName::new(short(&name)).map_err(|e| e.to_string())?,
        labels: read::<Labels>(body, &["/metadata/labels", "/labels"])?.unwrap_or_default(),
        annotations: read::<Labels>(body, &["/metadata/annotations", "/annotations"])?.unwrap_or_default(),
        spec: Arc::new(read::<InstanceSpec>(body, &["/spec"])?.ok_or("it has no spec")?),
        at: read::<Time>(body, &["/createTime"])?.unwrap_or(now),
    })
}

// ---- output

fn show(report: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => emit(&output::json(report))?,
        Format::Yaml => emit(&output::yaml(report)?)?,
        Format::Name => {
            let names = items(report, "/changes").iter().map(|c| format!("instance/{}\n", one_line(text(c, "/name"))));
            emit(&names.collect::<String>())?;
        }
        Format::Table | Format::Wide => in_words(report)?,
    }
    let is_same = ["denied", "passed", "warned", "written"].iter().all(|what| count(report, what) == 0)
        && items(report, "/rules").is_empty();
    if is_same { Ok(()) } else { Err(Failure::differs()) }
}

fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn in_words(report: &Value) -> Result<(), Failure> {
    let requests = count(report, "requests");
    let since = text(report, "/oldest");
    let since = if since.is_empty() { String::new() } else { format!(" since {}", one_line(since)) };
    emit(&format!(
        "{requests} requests{since}: {} would be denied, {} would pass, {} would be warned of, {} would be written otherwise\n",
        count(report, "denied"),
        count(report, "passed"),
        count(report, "warned"),
        count(report, "written"),
    ))?;
    if report.get("truncated") == Some(&Value::Bool(true)) {
        note("! there are more requests than were judged\n");
    }
    for rule in items(report, "/rules") {
        for (verb, list) in [("not hold", "broken"), ("hold again", "mended")] {
            let n = count(rule, list);
            if n > 0 {
                let what = one_line(&format!(
                    "rule {} ({}) of {}",
                    text(rule, "/rule"),
                    text(rule, "/mode"),
                    text(rule, "/policy")
                ));
                emit(&format!("{what}: would {verb} for {n} of {requests}{}\n", names(report, rule, list)))?;
            }
        }
    }
    let mut table = Table::new(vec!["VERDICT", "REQUEST", "POINTER", "WHAT"]);
    for change in items(report, "/changes") {
        let name = text(change, "/name").trim_start_matches("tenants/").replace("/instances/", "/");
        let mut row = |pointer: &str, what: String| {
            table.row(vec![text(change, "/verdict").to_owned(), name.clone(), pointer.to_owned(), what]);
        };
        for (sign, list) in [("+", "/broken"), ("-", "/mended")] {
            for rule in items(change, list) {
                row(text(rule, "/pointer"), format!("{sign} {}: {}", text(rule, "/rule"), text(rule, "/message")));
            }
        }
        for write in items(change, "/written") {
            let value = |side| write.get(side).and_then(Value::as_str).unwrap_or("none");
            row(text(write, "/pointer"), format!("{} -> {}", value("before"), value("after")));
        }
    }
    if table.is_empty() { Ok(()) } else { emit(&table.render()) }
}

/// The first requests for which a rule would judge otherwise.
fn names(report: &Value, rule: &Value, list: &str) -> String {
    let is_of = |other: &Value| ["/policy", "/rule", "/mode"].iter().all(|p| other.pointer(p) == rule.pointer(p));
    let of_rule = items(report, "/changes").iter().filter(|c| items(c, &format!("/{list}")).iter().any(is_of));
    let names: Vec<String> = of_rule
        .take(NAMES_SHOWN)
        .map(|c| one_line(&text(c, "/name").trim_start_matches("tenants/").replace("/instances/", "/")))
        .collect();
    match names.len() {
        0 => String::new(),
        shown if u64::try_from(shown).is_ok_and(|shown| shown < count(rule, list)) => {
            format!("   ({}, ...)", names.join(", "))
        }
        _ => format!("   ({})", names.join(", ")),
    }
}
