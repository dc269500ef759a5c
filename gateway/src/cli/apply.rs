//! `apply` and `create`: sends manifests, compares what is there already, follows the placement.

use meridian_model::instance::InstanceSpec;
use serde_json::{Map, Value, json};

use super::{
    args::{Apply, Create, Format, Waiting},
    client::{Answer, Ask, Client, encode},
    failure::{Exit, Failure, Fault, ProblemBody},
    manifest::{self, Document},
    output::{self, Environment, emit, note, scalar, text},
    progress::{Progress, follow},
};

/// Differing fields that are shown with their places; a wholly other spec differs in every line.
const DIFFERENCES_SHOWN: usize = 5;

/// Without `--wait` the gateway is asked to hold the answer this long: refusals come at once that way, and
/// small images often run by then.
const HOLD_SECONDS: u64 = 2;

/// On an answer that was given before.
const REPLAYED: &str = "idempotency-replayed";

/// What became of a document.
struct Done {
    name: String,
    kind: &'static str,
    verb: &'static str,
    /// The instance, the operation or the validation.
    value: Value,
    remark: String,
}

/// `meridian apply`.
///
/// # Errors
/// The first document's failure that failed; the others are sent all the same.
pub(super) async fn apply(client: &Client, args: &Apply, animate: bool) -> Result<(), Failure> {
    // Everything is read before anything is sent.
    let documents = manifest::load(&args.file)?;
    let several = documents.len() > 1;
    if several && args.waiting.idempotency_key.is_some() {
        return Err(Failure::new(Exit::Usage, "--idempotency-key is for one document; there are several"));
    }
    let mut first_failure: Option<Failure> = None;
    let mut values = Vec::new();
    for document in &documents {
        match send(client, document, &args.waiting, animate).await {
            Ok(done) => {
                report(&done, args.waiting.output)?;
                values.push(done.value);
            }
            Err(failure) if first_failure.is_none() => {
                if several {
                    note(&format!("instance/{}: ", output::one_line(&document.name)));
                    note(&failure.render(false));
                    let cause = "not every document was applied".to_owned();
                    first_failure =
                        Some(Failure { cause, places: Vec::new(), details: Vec::new(), next: None, ..failure });
                } else {
                    first_failure = Some(failure);
                }
            }
            Err(failure) => {
                note(&format!("instance/{}: ", output::one_line(&document.name)));
                note(&failure.render(false));
            }
        }
    }
    let value = if several { Some(json!({ "items": values })) } else { values.into_iter().next() };
    if let Some(value) = value {
        emit_value(&value, args.waiting.output)?;
    }
    first_failure.map_or(Ok(()), Err)
}

/// `meridian create`.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn create(client: &Client, args: &Create, animate: bool) -> Result<(), Failure> {
    let document = Document::of_flags(&args.name, body_of(args));
    let done = send(client, &document, &args.waiting, animate).await?;
    report(&done, args.waiting.output)?;
    emit_value(&done.value, args.waiting.output)
}

fn emit_value(value: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => emit(&output::json(value)),
        Format::Yaml => emit(&output::yaml(value)?),
        Format::Table | Format::Wide | Format::Name => Ok(()),
    }
}

fn report(done: &Done, format: Format) -> Result<(), Failure> {
    let name = output::one_line(&done.name);
    match format {
        Format::Table | Format::Wide => emit(&format!("{}/{name} {}{}\n", done.kind, done.verb, done.remark)),
        Format::Name => emit(&format!("{}/{name}\n", done.kind)),
        Format::Json | Format::Yaml => Ok(()),
    }
}

/// The path and the word of what a document declares; `None` for an instance.
async fn declared(client: &Client, document: &Document) -> Result<Option<(String, &'static str)>, Failure> {
    let (body, name) = (&document.body, encode(&document.name));
    let scope = |below: &str| text(body, &format!("/spec/scope{below}")).to_owned();
    Ok(match text(body, "/kind") {
        "Tenant" => Some((format!("/v1/tenants/{name}"), "tenant")),
        "Policy" if scope("") == "platform" => Some((format!("/v1/policies/{name}"), "policy")),
        "Policy" => {
            let own = scope("/tenant");
            let tenant = if own.is_empty() { client.tenant().await?.to_owned() } else { own };
            Some((format!("/v1/tenants/{}/policies/{name}", encode(&tenant)), "policy"))
        }
        _ => None,
    })
}

/// Declares a tenant or a policy: what is there is replaced only as it was when it was read.
async fn declare(
    client: &Client,
    document: &Document,
    (path, kind): (String, &'static str),
    waiting: &Waiting,
) -> Result<Done, Failure> {
    let name = document.name.clone();
    let before = client.ask(Ask::get(&path)).await?;
    if !before.status.is_success() && before.status.as_u16() != 404 {
        client.good(&before)?;
    }
    let before = before.json();
    let tag = before.get("etag").and_then(Value::as_str);
    let query = if waiting.dry_run { "?validateOnly=true" } else { "" };
    let answer = client.ask(Ask::put(format!("{path}{query}"), &document.body, tag)).await?;
    if !answer.status.is_success() {
        let problem = ProblemBody::read(&answer.body);
        let failure = problem.failure(answer.status.as_u16(), client.verbose);
        return Err(with_places(&problem, failure, document));
    }
    let verb = match (waiting.dry_run, answer.status.as_u16(), tag) {
        (true, _, None) => "would be created (dry run)",
        (true, _, Some(_)) => "would be configured (dry run)",
        (false, 201, _) => "created",
        (false, ..) => "configured",
    };
    Ok(Done { name, kind, verb, value: answer.json(), remark: String::new() })
}

async fn send(client: &Client, document: &Document, waiting: &Waiting, animate: bool) -> Result<Done, Failure> {
    if let Some(place) = declared(client, document).await? {
        return declare(client, document, place, waiting).await;
    }
    let tenant = encode(client.tenant().await?);
    let query = if waiting.dry_run { "?validateOnly=true" } else { "" };
    let path = format!("/v1/tenants/{tenant}/instances{query}");
    let key = waiting.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let hold = if waiting.wait { 0 } else { HOLD_SECONDS };
    let mut progress = Progress::new(format!("instance/{}", output::one_line(&document.name)), animate && waiting.wait);
    let answer = client.ask(Ask::post(path, &document.body, &key).wait(hold)).await?;
    let name = document.name.clone();
    match answer.status.as_u16() {
        200 if waiting.dry_run => {
            let value = answer.json();
            let remark = would(&value);
            Ok(Done { name, kind: "instance", verb: "would be created (dry run)", value, remark })
        }
        200 | 201 => {
            let value = answer.json();
            if waiting.wait {
                progress.finish(&[], &phase(&value));
            }
            if waiting.idempotency_key.is_some() && answer.headers.contains_key(REPLAYED) {
                let remark = since(client, &name, &value, waiting.output).await?;
                return Ok(Done { name, kind: "instance", verb: "was created with this key before", value, remark });
            }
            let remark = place_of(&value);
            Ok(Done { name, kind: "instance", verb: "created", value, remark })
        }
        202 if waiting.wait => {
            let ended = follow(client, answer.json(), waiting.timeout.0, &mut progress).await;
            let ended = ended.map_err(|failure| located(failure, document))?;
            progress.finish(&ended.attempts, &phase(&ended.response));
            let remark = place_of(&ended.response);
            Ok(Done { name, kind: "instance", verb: "created", value: ended.response, remark })
        }
        202 => {
            let value = answer.json();
            let remark = format!("; follow it with `meridian wait {name} --for=phase=Running`");
            Ok(Done { name, kind: "instance", verb: "accepted, being placed", value, remark })
        }
        409 => {
            let done = existing(client, document, &answer).await?;
            let operation = text(&done.value, "/status/operation");
            if !waiting.wait || text(&done.value, "/status/phase") != "Pending" || operation.is_empty() {
                return Ok(done);
            }
            // Somebody's create of the same thing is under way: its end is what was to be waited for.
            let operation = client.read(&format!("/v1/tenants/{tenant}/operations/{}", encode(operation))).await?;
            let ended = follow(client, operation, waiting.timeout.0, &mut progress).await;
            let ended = ended.map_err(|failure| located(failure, document))?;
            progress.finish(&ended.attempts, &phase(&ended.response));
            let remark = place_of(&ended.response);
            Ok(Done { value: ended.response, remark, ..done })
        }
        status => {
            let problem = ProblemBody::read(&answer.body);
            Err(with_places(&problem, problem.failure(status, client.verbose), document))
        }
    }
}

/// What became of an instance since a replayed answer, which is of the time of its create. One that is gone is told of
/// beside the answer, too, where only that is shown.
async fn since(client: &Client, name: &str, created: &Value, format: Format) -> Result<String, Failure> {
    let now = client.ask(Ask::get(client.instance_path(name).await?)).await?;
    let there = now.json();
    if now.status.as_u16() != 404 && !now.status.is_success() {
        // The create is known all the same.
        return Ok("; what became of it cannot be told now".to_owned());
    }
    if now.status.is_success() && there.get("uid") == created.get("uid") {
        return Ok(place_of(&there));
    }
    if matches!(format, Format::Json | Format::Yaml | Format::Name) {
        let name = output::one_line(name);
        note(&format!("! instance/{name} was created with this key before, and is gone now\n"));
    }
    Ok(", and is gone now".to_owned())
}

fn phase(instance: &Value) -> String {
    let phase = text(instance, "/status/phase");
    if phase.is_empty() { "done".to_owned() } else { output::one_line(phase) }
}

fn place_of(instance: &Value) -> String {
    let zone = text(instance, "/status/zone");
    let (phase, backend) = (text(instance, "/status/phase"), text(instance, "/status/backend"));
    if zone.is_empty() { String::new() } else { output::one_line(&format!(": {phase} in {zone} ({backend})")) }
}

/// Where a dry run would place it first.
fn would(validation: &Value) -> String {
    let first = "/placement/candidates/0";
    let zone = text(validation, &format!("{first}/zone"));
    let price = scalar(validation, &format!("{first}/price"));
    match (zone.is_empty(), price.is_empty()) {
        (true, _) => String::new(),
        (false, true) => output::one_line(&format!(": first choice {zone}")),
        (false, false) => output::one_line(&format!(": first choice {zone} at {price}/h")),
    }
}

/// A name that is taken: fine if what is there is what was asked for.
async fn existing(client: &Client, document: &Document, answer: &Answer) -> Result<Done, Failure> {
    let problem = ProblemBody::read(&answer.body);
    let refused = problem.failure(409, client.verbose);
    if problem.code != "already-exists" || document.is_of_flags() {
        return Err(refused);
    }
    let path = client.instance_path(&document.name).await?;
    let Ok(there) = client.read(&path).await else { return Err(refused) };
    if text(&there, "/status/phase") == "Terminating" {
        let name = &document.name;
        let cause = format!("instance/{name} is being deleted, and its name is taken until it is gone");
        let mut failure = Failure::new(Exit::Conflict, cause);
        failure.code = refused.code;
        return Err(failure.next(format!("`meridian wait {name} --for=deleted`, then apply again")));
    }
    let differing = differences(&document.body, &there);
    if differing.is_empty() {
        let remark = place_of(&there);
        return Ok(Done { name: document.name.clone(), kind: "instance", verb: "unchanged", value: there, remark });
    }
    let more = differing.len().saturating_sub(DIFFERENCES_SHOWN);
    let more = if more > 0 { format!(" ({more} more differences)") } else { String::new() };
    let cause =
        format!("instance/{} exists with another spec; changing an instance is not offered yet{more}", document.name);
    let mut failure = Failure::new(Exit::Conflict, cause)
        .next(format!("delete it first (`meridian delete {}`), or apply under another name", document.name));
    failure.code = refused.code;
    failure.places = differing
        .iter()
        .take(DIFFERENCES_SHOWN)
        .map(|pointer| {
            let detail = "differs from what is there".to_owned();
            let (pointer, code) = (pointer.clone(), "differs".to_owned());
            document.place(&Fault { pointer, code, detail, ..Fault::default() })
        })
        .collect();
    Err(failure)
}

/// Pointers of the fields that the document sets otherwise than the instance has them. What the document leaves
/// out is the gateway's to default, so it is not compared.
fn differences(document: &Value, there: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = document.get("spec").cloned().unwrap_or(Value::Null);
    // Through the model and back, so that `1000m` and `1` are the same.
    let canonical =
        serde_json::from_value::<InstanceSpec>(spec.clone()).ok().and_then(|s| serde_json::to_value(s).ok());
    let canonical = canonical.unwrap_or_else(|| spec.clone());
    let stored = there.get("spec").cloned().unwrap_or(Value::Null);
    compare(&spec, "", &canonical, &stored, &mut found);
    let mut found: Vec<String> = found.into_iter().map(|p| format!("/spec{p}")).collect();
    let root = if document.get("metadata").is_some() { "/metadata" } else { "" };
    for kind in ["labels", "annotations"] {
        let pointer = format!("{root}/{kind}");
        let Some(Value::Object(wished)) = document.pointer(&pointer) else { continue };
        for (name, value) in wished {
            if there.get(kind).and_then(|l| l.get(name)) != Some(value) {
                found.push(format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")));
            }
        }
    }
    found
}

fn compare(written: &Value, pointer: &str, canonical: &Value, stored: &Value, found: &mut Vec<String>) {
    match written {
        Value::Object(map) => {
            for (key, value) in map {
                let below = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                compare(value, &below, canonical, stored, found);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                compare(value, &format!("{pointer}/{i}"), canonical, stored, found);
            }
            let len = |v: &Value| v.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
            if len(stored) != list.len() {
                found.push(pointer.to_owned());
            }
        }
        // What the model leaves out when it writes is its default, there as here.
        _ if canonical.pointer(pointer) != stored.pointer(pointer) => found.push(pointer.to_owned()),
        _ => {}
    }
}

/// Adds where in the file each fault stands, or lists the faults when there is no file.
fn with_places(problem: &ProblemBody, mut failure: Failure, document: &Document) -> Failure {
    for fault in &problem.errors {
        if document.is_of_flags() || !fault.pointer.starts_with('/') {
            failure.details.push(format!("{}: {}", flag_of(&fault.pointer), fault.line()));
        } else {
            failure.places.push(document.place(fault));
        }
    }
    failure
}

fn located(mut failure: Failure, document: &Document) -> Failure {
    if !document.is_of_flags() {
        failure.details.insert(0, format!("instance/{} of {}", document.name, document.file()));
    }
    failure
}

/// The flag of `create` that sets a field.
fn flag_of(pointer: &str) -> String {
    let flags = [
        ("/name", "NAME"),
        ("/labels", "--label"),
        ("/spec/containers/0/image", "--image"),
        ("/spec/containers/0/resources/limits/cpu", "--cpu"),
        ("/spec/containers/0/resources/limits/memory", "--memory"),
        ("/spec/containers/0/resources/limits/nvidia.com~1gpu", "--gpu"),
        ("/spec/containers/0/env", "--env"),
        ("/spec/containers/0/ports", "--port"),
        ("/spec/gpuType", "--gpu-type"),
        ("/spec/placement/regions", "--region"),
        ("/spec/placement/zones", "--zone"),
        ("/spec/placement/providers", "--provider"),
        ("/spec/placement/strategy", "--strategy"),
        ("/spec/placement/maxAttempts", "--max-attempts"),
        ("/spec/restartPolicy", "--restart"),
        ("/spec/network/profile", "--network"),
    ];
    let found = flags.iter().find(|(p, _)| pointer == *p || pointer.starts_with(&format!("{p}/")));
    found.map_or_else(|| pointer.to_owned(), |(_, flag)| (*flag).to_owned())
}

/// The body of a create from flags: only what was said.
fn body_of(args: &Create) -> Value {
    let mut limits = Map::new();
    for (name, amount) in [("cpu", &args.cpu), ("memory", &args.memory)] {
        if let Some(amount) = amount {
            limits.insert(name.to_owned(), json!(amount));
        }
    }
    if let Some(gpu) = args.gpu {
        limits.insert("nvidia.com/gpu".to_owned(), json!(gpu));
    }
    let mut container = Map::from_iter([("name".to_owned(), json!("main")), ("image".to_owned(), json!(args.image))]);
    let mut put = |key: &str, value: Value, said: bool| {
        if said {
            container.insert(key.to_owned(), value);
        }
    };
    put("resources", json!({ "limits": limits }), !limits.is_empty());
    let env: Vec<Value> = args.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    put("env", json!(env), !env.is_empty());
    let ports: Vec<Value> = args.port.iter().map(|(n, p)| json!({"containerPort": n, "protocol": p})).collect();
    put("ports", json!(ports), !ports.is_empty());
    put("command", json!(args.command), !args.command.is_empty());

    let mut placement = Map::new();
    let mut wish = |key: &str, value: Value, said: bool| {
        if said {
            placement.insert(key.to_owned(), value);
        }
    };
    wish("regions", json!(args.region), !args.region.is_empty());
    wish("zones", json!(args.zone), !args.zone.is_empty());
    wish("providers", json!(args.provider), !args.provider.is_empty());
    wish("strategy", json!(args.strategy), args.strategy.is_some());
    wish("maxAttempts", json!(args.max_attempts), args.max_attempts.is_some());

    let mut spec = Map::from_iter([("containers".to_owned(), json!([container]))]);
    let mut say = |key: &str, value: Value, said: bool| {
        if said {
            spec.insert(key.to_owned(), value);
        }
    };
    say("placement", json!(placement), !placement.is_empty());
    say("gpuType", json!(args.gpu_type), args.gpu_type.is_some());
    say("restartPolicy", json!(args.restart), args.restart.is_some());
    say("capacity", json!({"type": "spot"}), args.spot);
    let mut network = Map::new();
    if let Some(profile) = &args.network {
        network.insert("profile".to_owned(), json!(profile));
    }
    if args.public_ip {
        network.insert("publicIp".to_owned(), json!({}));
    }
    say("network", json!(network), !network.is_empty());

    let mut body = Map::from_iter([("name".to_owned(), json!(args.name)), ("spec".to_owned(), json!(spec))]);
    if !args.label.is_empty() {
        body.insert("labels".to_owned(), args.label.iter().map(|(k, v)| (k.clone(), json!(v))).collect());
    }
    Value::Object(body)
}

/// Whether progress may be drawn.
#[must_use]
pub(super) fn animate(env: &Environment, no_input: bool) -> bool {
    env.may_animate(no_input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_is_compared() {
        let document = json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
            "containers": [{"name": "m", "image": "i", "resources": {"limits": {"cpu": "1000m"}}}]}});
        let mut there = json!({"labels": {"app": "web", "more": "x"}, "spec": {
            "containers": [{"name": "m", "image": "i", "resources": {"limits": {"cpu": "1"}}, "imagePullPolicy": "Always"}],
            "restartPolicy": "Always", "network": {"profile": "default"}}});
        assert_eq!(differences(&document, &there), Vec::<String>::new());
        there["spec"]["containers"][0]["image"] = json!("j");
        there["labels"]["app"] = json!("other");
        assert_eq!(differences(&document, &there), ["/spec/containers/0/image", "/metadata/labels/app"]);
        there["spec"]["containers"] = json!([]);
        assert!(differences(&document, &there).contains(&"/spec/containers".to_owned()));
    }

    #[test]
    fn faults_name_the_flag() {
        assert_eq!(flag_of("/spec/containers/0/resources/limits/memory"), "--memory");
        assert_eq!(flag_of("/spec/containers/0/env/1/name"), "--env");
        assert_eq!(flag_of("/spec/other"), "/spec/other");
    }
}
