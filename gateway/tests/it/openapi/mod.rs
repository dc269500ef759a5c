//! The OpenAPI description is what the types and routes give, and it tells the truth.
//!
//! To write it anew after a change: `MERIDIAN_WRITE_OPENAPI=1 cargo nextest run -p meridian-gateway openapi`.

mod source;

use std::{collections::BTreeSet, path::Path};

use meridian_gateway::dialects::{
    Class,
    rest::{Endpoint, ROUTES},
};
use meridian_model::error::ErrorCode;
use serde_json::{Map, Value, json};

use self::source::Source;
use crate::support::{Gateway, instance, long_operation, quota};

const COMMITTED: &str = include_str!("../../../openapi.json");

/// What the route table does not say of an endpoint.
struct Doc {
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    /// Status, description, schema of the answer.
    answers: &'static [(&'static str, &'static str, Answer)],
}

enum Answer {
    One(&'static str),
    List(&'static str),
    Any(&'static str),
    None,
}

use Answer::{Any, List, None as Nothing, One};

const PAGED: &[&str] = &["pageSize", "pageToken"];
const DRY: &[&str] = &["validateOnly"];

#[expect(clippy::too_many_lines, reason = "a table, one row per endpoint")]
fn doc(endpoint: Endpoint) -> Doc {
    let doc = |id, summary, query, answers| Doc { id, summary, query, answers };
    match endpoint {
        Endpoint::CreateInstance => doc(
            "createInstance",
            "Create an instance and wait until it runs, within the deadline",
            &["validateOnly", "fieldValidation"],
            &[
                ("201", "It runs.", One("Instance")),
                ("202", "It is still being placed.", One("Operation")),
                ("200", "With `validateOnly`: what a create would do.", One("Validation")),
            ],
        ),
        Endpoint::ListInstances => doc(
            "listInstances",
            "List instances from the gateway's own observations",
            &["pageSize", "pageToken", "labelSelector", "fieldSelector", "allowPartial", "minRevision"],
            &[("200", "A page, with what it could not see.", One("InstanceList"))],
        ),
        Endpoint::GetInstance => doc(
            "getInstance",
            "Read an instance as it was last observed",
            &["minRevision"],
            &[("200", "The instance.", One("Instance")), ("304", "Unchanged.", Nothing)],
        ),
        Endpoint::DeleteInstance => doc(
            "deleteInstance",
            "Delete an instance",
            &["allowMissing", "validateOnly"],
            &[
                ("202", "It is being removed.", One("Operation")),
                ("204", "It is proven gone.", Nothing),
                ("200", "With `validateOnly`: what a delete would do.", One("Validation")),
            ],
        ),
        Endpoint::ExplainInstance => doc(
            "explainInstance",
            "Say why an instance is where it is",
            &[],
            &[("200", "The decision record with every attempt.", One("Explanation"))],
        ),
        Endpoint::ListOperations => doc(
            "listOperations",
            "List the tenant's latest operations",
            PAGED,
            &[("200", "A page.", List("Operation"))],
        ),
        Endpoint::GetOperation => {
            doc("getOperation", "Read an operation", &[], &[("200", "The operation.", One("Operation"))])
        }
        Endpoint::ListQuotas => {
            doc("listQuotas", "List the tenant's quotas", &[], &[("200", "The quotas.", List("Quota"))])
        }
        Endpoint::GetProjectQuota => doc(
            "getProjectQuota",
            "Read what a project has, uses, borrows and lends",
            &[],
            &[("200", "The quota.", One("Quota"))],
        ),
        Endpoint::ListConsumers => doc(
            "listQuotaConsumers",
            "List the instances that use most of a project's quota, or of the tenant's (`default`)",
            &["line", "most"],
            &[("200", "Those that use most.", One("QuotaConsumers"))],
        ),
        Endpoint::GetQuota => doc("getQuota", "Read limits and usage", &[], &[("200", "The quota.", One("Quota"))]),
        Endpoint::ListTenants => {
            doc("listTenants", "List the tenants the caller may see", PAGED, &[("200", "The tenants.", List("Tenant"))])
        }
        Endpoint::GetTenant => doc("getTenant", "Read a tenant", &[], &[("200", "The tenant.", One("Tenant"))]),
        Endpoint::ListAudit | Endpoint::ListTenantAudit => doc(
            if endpoint == Endpoint::ListAudit { "listAudit" } else { "listTenantAudit" },
            "List who changed what, and who was refused, newest first",
            &[
                "since",
                "until",
                "actor",
                "action",
                "decision",
                "object",
                "requestId",
                "operation",
                "pageSize",
                "pageToken",
            ],
            &[("200", "A page of the log of the gateway that answers.", One("AuditPage"))],
        ),
        Endpoint::CreateTenant => doc(
            "createTenant",
            "Make a tenant",
            DRY,
            &[("201", "It is there.", One("Tenant")), ("200", "With `validateOnly`: it could be.", One("Tenant"))],
        ),
        Endpoint::PatchTenant => doc(
            "patchTenant",
            "Change a tenant's labels and spec by a merge patch (RFC 7396)",
            DRY,
            &[("200", "It was changed, or could be.", One("Tenant"))],
        ),
        Endpoint::PutTenant => doc(
            "putTenant",
            "Make a tenant, or replace what is declared of it",
            DRY,
            &[("200", "It was replaced.", One("Tenant")), ("201", "It was made.", One("Tenant"))],
        ),
        Endpoint::DeleteTenant => doc(
            "deleteTenant",
            "Remove a tenant that has no instances, with its keys, service accounts and policies",
            DRY,
            &[("204", "It is gone.", Nothing)],
        ),
        Endpoint::ListKeys => {
            doc("listKeys", "List a tenant's API keys", PAGED, &[("200", "A page, without secrets.", List("ApiKey"))])
        }
        Endpoint::CreateKey => doc(
            "createKey",
            "Make an API key",
            DRY,
            &[
                ("201", "The key with its secret, which is not shown again.", One("ApiKey")),
                ("200", "With `validateOnly`: the key that could be made, without a secret.", One("ApiKey")),
            ],
        ),
        Endpoint::GetKey => doc("getKey", "Read an API key", &[], &[("200", "It, without its secret.", One("ApiKey"))]),
        Endpoint::RotateKey => doc(
            "rotateKey",
            "Give a key another secret; the former one is good for a grace",
            DRY,
            &[("200", "The key with its new secret, which is not shown again.", One("ApiKey"))],
        ),
        Endpoint::RevokeKey => doc(
            "revokeKey",
            "End a key, at every gateway within a second",
            DRY,
            &[("204", "It opens nothing.", Nothing)],
        ),
        Endpoint::ListServiceAccounts => doc(
            "listServiceAccounts",
            "List a tenant's service accounts",
            PAGED,
            &[("200", "A page.", List("ServiceAccount"))],
        ),
        Endpoint::CreateServiceAccount => doc(
            "createServiceAccount",
            "Make a service account",
            DRY,
            &[
                ("201", "It may have keys.", One("ServiceAccount")),
                ("200", "With `validateOnly`: the account that could be made.", One("ServiceAccount")),
            ],
        ),
        Endpoint::GetServiceAccount => doc(
            "getServiceAccount",
            "Read a service account",
            &[],
            &[("200", "The service account.", One("ServiceAccount"))],
        ),
        Endpoint::DeleteServiceAccount => doc(
            "deleteServiceAccount",
            "Remove a service account; its keys open nothing from then on",
            DRY,
            &[("204", "It is gone.", Nothing)],
        ),
        Endpoint::WhoAmI => doc("whoAmI", "Say who the credential speaks for", &[], &[("200", "Who.", One("WhoAmI"))]),
        Endpoint::ListPolicies => {
            doc("listPolicies", "List a tenant's policies", PAGED, &[("200", "A page.", List("Policy"))])
        }
        Endpoint::ListPlatformPolicies => {
            doc("listPlatformPolicies", "List the platform's policies", PAGED, &[("200", "A page.", List("Policy"))])
        }
        Endpoint::GetPolicy => {
            doc("getPolicy", "Read a tenant's policy", &[], &[("200", "The policy.", One("Policy"))])
        }
        Endpoint::GetPlatformPolicy => {
            doc("getPlatformPolicy", "Read a policy of the platform", &[], &[("200", "The policy.", One("Policy"))])
        }
        Endpoint::PutPolicy | Endpoint::PutPlatformPolicy => doc(
            if endpoint == Endpoint::PutPolicy { "putPolicy" } else { "putPlatformPolicy" },
            "Make a policy, or replace it; it judges at every gateway within a second",
            DRY,
            &[("200", "It was replaced, or could be.", One("Policy")), ("201", "It was made.", One("Policy"))],
        ),
        Endpoint::DeletePolicy | Endpoint::DeletePlatformPolicy => doc(
            if endpoint == Endpoint::DeletePolicy { "deletePolicy" } else { "deletePlatformPolicy" },
            "Remove a policy",
            DRY,
            &[("204", "It judges no more, or could be removed.", Nothing)],
        ),
        Endpoint::TestPolicies => doc(
            "testPolicies",
            "Say what policies would change for requests that were made before",
            &[],
            &[("200", "Which would end otherwise; nothing is changed.", One("PolicyTest"))],
        ),
        Endpoint::ListRegions => doc(
            "listRegions",
            "List regions with health and freshness",
            &[],
            &[("200", "The regions.", List("Region"))],
        ),
        Endpoint::GetRegion => doc("getRegion", "Read a region", &[], &[("200", "The region.", One("Region"))]),
        Endpoint::ListZones => {
            doc("listZones", "List a region's zones with stock memory", &[], &[("200", "The zones.", List("Zone"))])
        }
        Endpoint::ListAdapters => {
            doc("listAdapters", "List what each adapter can do", &[], &[("200", "The adapters.", List("Adapter"))])
        }
        Endpoint::ListInstanceTypes => doc(
            "listInstanceTypes",
            "List sizes on sale with prices",
            &["region"],
            &[("200", "The sizes.", List("InstanceType"))],
        ),
        Endpoint::OpenApi => doc("getOpenApi", "This description", &[], &[("200", "OpenAPI 3.1.", Any("object"))]),
        Endpoint::Health => doc("getHealth", "The process answers", &[], &[("200", "It does.", Any("object"))]),
        Endpoint::Ready => doc(
            "getReady",
            "The gateway takes requests",
            &[],
            &[("200", "It does.", Any("object")), ("503", "It does not.", Any("object"))],
        ),
        Endpoint::Version => doc("getVersion", "The gateway's version", &[], &[("200", "The version.", Any("object"))]),
        Endpoint::NotFound | Endpoint::MethodNotAllowed(_) => panic!("not a route"),
    }
}

fn parameter(name: &str) -> Value {
    let (schema, description) = match name {
        "pageSize" => {
            (json!({ "type": "integer", "minimum": 0, "default": 50 }), "Items per page; above 1000 is 1000.")
        }
        "pageToken" => (
            json!({ "type": "string" }),
            "`nextPageToken` of the page before; valid for 15 minutes and this query only.",
        ),
        "labelSelector" => (json!({ "type": "string" }), "Kubernetes label selector."),
        "fieldSelector" => (
            json!({ "type": "string" }),
            "Kubernetes field selector over metadata.name, status.phase, status.region, status.zone, status.backend, status.adapter.",
        ),
        "allowPartial" => {
            (json!({ "type": "boolean", "default": true }), "False refuses a list that cannot see every region.")
        }
        "minRevision" => (
            json!({ "type": "string", "pattern": "^[0-9]+$" }),
            "`revision` or `Meridian-Revision` of a write: waits up to 2 s until that write shows here, else 503 `revision-not-reached`.",
        ),
        "validateOnly" => (json!({ "type": "boolean", "default": false }), "Only say what would happen."),
        "allowMissing" => (json!({ "type": "boolean", "default": false }), "A missing instance is success."),
        "fieldValidation" => (
            json!({ "type": "string", "enum": ["strict", "warn"] }),
            "`warn` lets unknown fields pass with a Warning header.",
        ),
        "since" => (json!({ "type": "string", "format": "date-time" }), "From this time on."),
        "until" => (json!({ "type": "string", "format": "date-time" }), "Before this time."),
        "actor" => (json!({ "type": "string" }), "Only of this principal, for example `key:acme-1`."),
        "action" => (json!({ "type": "string" }), "Only this action, for example `create-instance`."),
        "decision" => (
            json!({ "type": "string", "enum": ["accepted", "replayed", "denied", "failed", "unknown"] }),
            "Only what ended so.",
        ),
        "object" => (
            json!({ "type": "string" }),
            "Only this path and what is below it, for example `tenants/acme/instances/web`.",
        ),
        "requestId" => (json!({ "type": "string" }), "Only this request."),
        "operation" => (
            json!({ "type": "string" }),
            "Only this operation: the request that began it and what clouds were had to do.",
        ),
        "line" => (
            json!({ "type": "string", "default": "instances" }),
            "Of what: a resource, and after `@` the place where it counts, for example `cpu@region:ap-guangzhou`.",
        ),
        "most" => (json!({ "type": "integer", "minimum": 1, "maximum": 100, "default": 10 }), "So many at most."),
        "region" => (json!({ "type": "string" }), "Only this region."),
        other => panic!("query parameter {other} has no description"),
    };
    json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": description })
}

fn header(name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "header", "required": false, "schema": schema, "description": description })
}

fn headers(endpoint: Endpoint, class: Class) -> Vec<Value> {
    let text = || json!({ "type": "string" });
    let mut all = vec![
        header("X-Request-Id", json!({ "type": "string", "maxLength": 64 }), "Echoed; made when absent."),
        header(
            "X-Request-Timeout-Ms",
            json!({ "type": "integer", "minimum": 1, "maximum": 120_000, "default": 15_000 }),
            "Bound of the whole call, failover included.",
        ),
    ];
    match class {
        Class::Create => {
            let key = json!({ "type": "string", "minLength": 1, "maxLength": 255 });
            let what = "Repeating a request with the same key gives the same answer. A quoted string of structured \
                        fields, or bare text without quotes.";
            all.push(header("Idempotency-Key", key, what));
            all.push(header("Prefer", text(), "`wait=N` or `respond-async`."));
        }
        Class::Delete => all.push(header("Prefer", text(), "`wait=N` waits for the proof that it is gone.")),
        Class::Read if endpoint == Endpoint::GetInstance => {
            all.push(header("If-None-Match", text(), "The `ETag` of an earlier answer: 304 while nothing changed."));
        }
        Class::Change => {
            if matches!(endpoint, Endpoint::CreateKey | Endpoint::RotateKey) {
                let what = "Repeating the request with the same key within ten minutes gives the same answer.";
                all.push(header(
                    "Idempotency-Key",
                    json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
                    what,
                ));
            }
            if !matches!(endpoint, Endpoint::CreateTenant | Endpoint::CreateKey | Endpoint::CreateServiceAccount) {
                let what = "The `ETag` of what is to be changed: 412 when it has changed since. Required to replace a tenant, and for policies.";
                all.push(header("If-Match", text(), what));
            }
            if matches!(endpoint, Endpoint::PutTenant | Endpoint::PutPolicy | Endpoint::PutPlatformPolicy) {
                all.push(header("If-None-Match", text(), "`*` makes it only when it is not there."));
            }
        }
        Class::Read | Class::List => {}
        Class::Public => all.clear(),
    }
    all
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn operation(path: &str, endpoint: Endpoint, class: Class) -> Value {
    let Doc { id, summary, query, answers } = doc(endpoint);
    let in_path = path.split('{').skip(1).map(|p| p.split('}').next().unwrap());
    let mut parameters: Vec<Value> =
        in_path.map(|n| json!({ "name": n, "in": "path", "required": true, "schema": { "type": "string" } })).collect();
    parameters.extend(query.iter().map(|q| parameter(q)));
    parameters.extend(headers(endpoint, class));
    let mut responses = Map::new();
    for (status, description, answer) in answers {
        let schema = match answer {
            One(name) => Some(reference(name)),
            List(name) => Some(json!({
                "type": "object",
                "properties": { "items": { "type": "array", "items": reference(name) }, "nextPageToken": { "type": "string" } },
                "required": ["items"],
            })),
            Any(kind) => Some(json!({ "type": kind })),
            Nothing => None,
        };
        let mut response = json!({ "description": description });
        if matches!(endpoint, Endpoint::GetInstance | Endpoint::ListInstances | Endpoint::ExplainInstance) {
            response["headers"] = json!({ "Meridian-Ledger-Age": {
                "schema": { "type": "integer" },
                "description": "Seconds for which other gateways' writes were not heard of; only where there are others. \
                    From 2 on an instance's `status.stale` is true; above 600 the answer is 503.",
            } });
        }
        if let Some(schema) = schema {
            response["content"] = json!({ "application/json": { "schema": schema } });
        }
        responses.insert((*status).to_owned(), response);
    }
    if class != Class::Public {
        responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
    }
    let mut operation =
        json!({ "operationId": id, "summary": summary, "parameters": parameters, "responses": responses });
    if class == Class::Public {
        operation["security"] = json!([]);
    }
    let body = match endpoint {
        Endpoint::CreateInstance => Some(("CreateRequest", true)),
        Endpoint::CreateTenant | Endpoint::PutTenant => Some(("TenantDocument", true)),
        Endpoint::PatchTenant => Some(("TenantPatch", true)),
        Endpoint::CreateKey => Some(("NewApiKey", true)),
        Endpoint::RotateKey => Some(("Rotation", false)),
        Endpoint::CreateServiceAccount => Some(("NewServiceAccount", true)),
        Endpoint::PutPolicy | Endpoint::PutPlatformPolicy => Some(("PolicyDocument", true)),
        Endpoint::TestPolicies => Some(("PolicyTrial", true)),
        _ => None,
    };
    if let Some((name, required)) = body {
        let kind = if endpoint == Endpoint::PatchTenant { "application/merge-patch+json" } else { "application/json" };
        operation["requestBody"] = json!({ "required": required, "content": { kind: { "schema": reference(name) } } });
    }
    operation
}

fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for entry in ROUTES {
        let mut item = Map::new();
        for (method, endpoint, class) in entry.methods {
            let mut operation = operation(entry.path, *endpoint, *class);
            if item.values().any(|o: &Value| o["operationId"] == operation["operationId"]) {
                let id = format!("{}Post", operation["operationId"].as_str().unwrap());
                operation["operationId"] = Value::String(id);
            }
            item.insert(method.to_lowercase(), operation);
        }
        paths.insert(entry.path.to_owned(), Value::Object(item));
    }
    paths
}

/// Schemas of what is no type of its own.
#[expect(clippy::too_many_lines, reason = "a table, one block per schema")]
fn given() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let map = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let name = reference("InstanceName");
    let metadata = json!({
        "type": "object",
        "properties": {
            "name": name, "labels": map(), "annotations": map(), "namespace": text(),
            "project": reference("ProjectName"),
            "creationTimestamp": { "type": "null" },
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    let resource = |version: &str, kind: &str| {
        json!({
            "type": "object",
            "properties": {
                "apiVersion": { "const": version }, "kind": { "const": kind }, "metadata": metadata,
                "spec": reference("InstanceSpec"), "status": { "type": "object", "maxProperties": 0 },
            },
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "additionalProperties": false,
        })
    };
    let short = json!({
        "type": "object",
        "properties": {
            "name": name, "project": reference("ProjectName"), "labels": map(), "annotations": map(),
            "spec": reference("InstanceSpec"),
        },
        "required": ["name", "spec"],
        "additionalProperties": false,
    });
    let list = json!({
        "type": "object",
        "properties": {
            "items": { "type": "array", "items": reference("Instance") },
            "nextPageToken": text(),
            "revision": { "type": "string", "description": "Of one tenant only: what `minRevision` takes." },
            "unreachable": {
                "type": "array", "items": text(),
                "description": "Regions, and over all tenants tenants, with no usable data.",
            },
            "freshness": { "type": "array", "items": reference("Freshness") },
            "ledger": reference("LedgerFreshness"),
        },
        "required": ["items", "unreachable", "freshness"],
    });
    let problem = json!({
        "type": "object",
        "description": "RFC 9457. A 404 has neither `instance` nor `requestId`: it is the same whatever was asked for.",
        "properties": {
            "type": text(), "title": text(), "status": { "type": "integer" }, "code": reference("ErrorCode"),
            "detail": text(), "instance": text(), "requestId": text(), "retryable": { "type": "boolean" },
            "outcome": { "type": "string", "enum": ["unknown"], "description": "Work that was begun goes on." },
            "operation": reference("OperationId"),
            "violated-policies": { "type": "array", "items": text() },
            "errors": { "type": "array", "items": reference("FieldError") },
            "attempts": { "type": "array", "items": reference("AttemptView") },
            "quota": reference("QuotaShortage"),
            "retryAfterSeconds": { "type": "integer" },
        },
        "required": ["type", "title", "status", "code", "detail", "retryable"],
    });
    let create = json!({ "oneOf": [short, resource("meridian.dev/v1", "Instance"), resource("v1", "Pod")] });
    let object = |properties: Value, required: Value| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let time = || json!({ "type": "string", "format": "date-time" });
    let role = || json!({ "type": "string", "enum": ["viewer", "operator", "admin"] });
    let tenant = object(
        json!({
            "apiVersion": { "const": "meridian.dev/v1" }, "kind": { "const": "Tenant" },
            "metadata": object(json!({ "name": text(), "labels": map() }), json!(["name"])),
            "spec": { "type": "object", "description": "As `spec` of the tenant that is answered." },
        }),
        json!(["apiVersion", "kind", "metadata"]),
    );
    let tenant_patch = object(
        json!({
            "labels": { "type": "object", "additionalProperties": { "type": ["string", "null"] } },
            "spec": { "type": "object", "description": "What changes of it; null removes." },
        }),
        json!([]),
    );
    let key = object(
        json!({
            "displayName": text(), "role": role(), "project": text(), "serviceAccount": text(), "expires": time(),
            "permissions": { "type": "array", "items": text() },
            "ttl": { "type": "string", "description": "A duration, instead of `expires`." },
        }),
        json!([]),
    );
    let account = object(
        json!({ "name": text(), "role": role(), "project": text(), "expires": time(), "displayName": text() }),
        json!(["name", "role"]),
    );
    let policy = object(
        json!({
            "apiVersion": { "const": "meridian.dev/v1" }, "kind": { "const": "Policy" },
            "metadata": object(json!({ "name": text(), "labels": map() }), json!(["name"])),
            "spec": {
                "type": "object",
                "description": "`scope`, `match`, `params`, `rules`, `defaults` and `mutations`: see `meridian policy library`.",
            },
        }),
        json!(["apiVersion", "kind", "metadata", "spec"]),
    );
    let trial = object(
        json!({
            "policies": {
                "type": "array", "items": reference("PolicyDocument"), "minItems": 1, "maxItems": 20,
                "description": "Each takes the place of the policy of its name, if there is one.",
            },
            "window": { "type": "string", "description": "Only requests that are no older than this; all that are kept when absent." },
        }),
        json!(["policies"]),
    );
    let grace = json!({ "type": "string", "default": "24h", "description": "How long the former secret is good; at most 720h." });
    let given = [
        ("CreateRequest", create),
        ("InstanceList", list),
        ("Problem", problem),
        ("TenantDocument", tenant),
        ("TenantPatch", tenant_patch),
        ("NewApiKey", key),
        ("NewServiceAccount", account),
        ("PolicyDocument", policy),
        ("PolicyTrial", trial),
        ("Rotation", object(json!({ "grace": grace }), json!([]))),
    ];
    given.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

const ROOTS: [&str; 26] = [
    "Instance",
    "InstanceName",
    "InstanceSpec",
    "Operation",
    "Validation",
    "Explanation",
    "AuditPage",
    "Quota",
    "QuotaConsumers",
    "Tenant",
    "ApiKey",
    "ServiceAccount",
    "WhoAmI",
    "Policy",
    "PolicyTest",
    "Region",
    "Zone",
    "Adapter",
    "InstanceType",
    "Freshness",
    "LedgerFreshness",
    "ErrorCode",
    "OperationId",
    "FieldError",
    "AttemptView",
    "QuotaShortage",
];

fn description() -> Value {
    let schemas = Source::read().schemas(&ROOTS, &given());
    let errors: Vec<Value> = ErrorCode::ALL
        .into_iter()
        .map(|c| {
            json!({ "code": c.as_str(), "status": c.status(), "title": c.title(), "retryable": c.retryable(), "advice": c.advice() })
        })
        .collect();
    let limits = json!({
        "RateLimit": { "schema": { "type": "string" }, "description": "The limit closest to exhaustion." },
        "RateLimit-Policy": { "schema": { "type": "string" }, "description": "The tenant's limits." },
        "X-Request-Id": { "schema": { "type": "string" } },
        "Retry-After": { "schema": { "type": "integer" }, "description": "With 429 and 503." },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Meridian",
            "version": "1",
            "description": "One endpoint in front of regional serverless container services.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "apiKey": [] }],
        "paths": paths(),
        "components": {
            "securitySchemes": { "apiKey": { "type": "http", "scheme": "bearer", "description": "mrd_<env>_<id>_<secret><crc>" } },
            "responses": {
                "Problem": {
                    "description": "A refusal or failure; see x-meridian-errors.",
                    "headers": limits,
                    "content": { "application/problem+json": { "schema": reference("Problem") } },
                },
            },
            "schemas": schemas,
        },
        "x-meridian-errors": errors,
    })
}

#[test]
fn openapi_is_what_the_types_and_routes_give() {
    let made = serde_json::to_string_pretty(&description()).unwrap() + "\n";
    if std::env::var_os("MERIDIAN_WRITE_OPENAPI").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json"), &made).unwrap();
        return;
    }
    // Compared as values: the order of keys is a feature of serde_json that another crate may switch.
    let same = serde_json::from_str::<Value>(COMMITTED).unwrap() == description();
    let differs = made.lines().zip(COMMITTED.lines()).find(|(a, b)| a != b);
    assert!(same, "gateway/openapi.json is not what the types give; first difference: {differs:?}");
}

/// Everything a value has must be in its schema, and everything the schema requires in the value.
fn conforms(value: &Value, schema: &Value, at: &str, all: &Value) {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(path) => all.pointer(path.trim_start_matches('#')).unwrap_or_else(|| panic!("{at}: no {path}")),
        None => schema,
    };
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        if !value.is_null() {
            conforms(value, &any[0], at, all);
        }
        return;
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("");
    match value {
        Value::Object(members) if schema.get("properties").is_some() => {
            for required in schema["required"].as_array().unwrap() {
                assert!(members.contains_key(required.as_str().unwrap()), "{at}: {required} is missing");
            }
            for (name, member) in members {
                let schema = schema["properties"].get(name).unwrap_or_else(|| panic!("{at}: {name} is not described"));
                conforms(member, schema, &format!("{at}/{name}"), all);
            }
        }
        Value::Object(_) => assert_eq!(kind, "object", "{at}"),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                conforms(item, &schema["items"], &format!("{at}/{i}"), all);
            }
        }
        Value::String(text) => {
            assert!(kind == "string" || schema.get("oneOf").is_some(), "{at}: a string, not {kind}");
            if let Some(words) = schema.get("enum").and_then(Value::as_array) {
                assert!(words.contains(value), "{at}: {text:?} is not one of {words:?}");
            }
        }
        Value::Number(_) => {
            assert!(
                matches!(kind, "integer" | "number") || schema.get("oneOf").is_some(),
                "{at}: a number, not {kind}"
            );
        }
        Value::Bool(_) => assert_eq!(kind, "boolean", "{at}"),
        Value::Null => panic!("{at}: null"),
    }
}

#[test]
fn openapi_describes_real_answers() {
    let all = description();
    let check = |name: &str, value: Value| conforms(&value, &reference(name), name, &all);
    check("Instance", serde_json::to_value(instance("web")).unwrap());
    check("Operation", serde_json::to_value(long_operation()).unwrap());
    check("Quota", serde_json::to_value(quota()).unwrap());
    let spec = json!({
        "containers": [{ "name": "c", "image": "i", "resources": { "limits": { "cpu": "1", "nvidia.com/gpu": 1 } },
            "ports": [{ "containerPort": 80 }], "env": [{ "name": "A", "value": "b" }],
            "livenessProbe": { "httpGet": { "path": "/", "port": "http" } },
            "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } }],
        "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }, { "name": "n", "nfs": { "server": "s", "path": "/" } }],
        "network": { "publicIp": { "bandwidthMbps": 5 } }, "capacity": { "type": "spot", "maxPricePerHour": "0.5" },
        "placement": { "strategy": "spread", "placeTimeout": "30s", "maxAttempts": 3 },
    });
    let parsed: meridian_model::instance::InstanceSpec = serde_json::from_value(spec).unwrap();
    check("InstanceSpec", serde_json::to_value(parsed).unwrap());
}

#[tokio::test]
async fn openapi_describes_real_problems_and_lists() {
    let all = description();
    let gateway = Gateway::usual().await;
    for path in ["/v1/x", "/v1/tenants/acme/instances?pageSize=x"] {
        conforms(&gateway.get(path).await.json(), &reference("Problem"), path, &all);
    }
    let list = gateway.get("/v1/tenants/-/instances?pageSize=2").await.json();
    conforms(&list, &reference("InstanceList"), "list", &all);
}

#[test]
fn openapi_refers_to_nothing_that_is_not_there() {
    fn walk(value: &Value, all: &Value, ids: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(path) = members.get("$ref").and_then(Value::as_str) {
                    assert!(all.pointer(path.trim_start_matches('#')).is_some(), "{path}");
                }
                if let Some(id) = members.get("operationId").and_then(Value::as_str) {
                    assert!(ids.insert(id.to_owned()), "operationId {id} twice");
                }
                members.values().for_each(|v| walk(v, all, ids));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, all, ids)),
            _ => {}
        }
    }
    let all = description();
    let mut ids = BTreeSet::new();
    walk(&all, &all, &mut ids);
    assert_eq!(ids.len(), ROUTES.iter().map(|r| r.methods.len()).sum::<usize>());
    assert_eq!(all["x-meridian-errors"].as_array().unwrap().len(), ErrorCode::ALL.len());
}
