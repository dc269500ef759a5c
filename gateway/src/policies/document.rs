//! Documents of kind Policy: read strictly and compiled, every fault with its JSON pointer and, where that leads to an
//! expression, its line and column there.

use std::sync::Arc;

use meridian_model::{error::FieldError, ids::ProfileName, instance::Labels, validate};
use meridian_policies::rules::{self, Finding, Findings, PolicySpec, Scope};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    dialects::rest::body::{fault, parse_typed},
    directory::document::{self, Fields, POLICY},
};

/// A policy as it is declared.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What it does.
    pub compiled: Arc<rules::Policy>,
    /// What its operators tell it by.
    pub labels: Labels,
    /// What it says.
    pub spec: Value,
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: PolicySpec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: ProfileName,
    #[serde(default)]
    labels: Labels,
}

/// Reads a policy's document; `of` is the scope of the place that it was sent to, if the place says one.
///
/// # Errors
/// Every fault: of the first field that has the wrong type and of those that do not exist, or of all values.
pub fn read(body: &Value, of: Option<&Scope>) -> Result<Policy, Vec<FieldError>> {
    document::is_kind(body, &[POLICY])?;
    let bytes = serde_json::to_vec(body).map_err(|e| vec![fault("", "invalid", e.to_string())])?;
    let typed = parse_typed::<Document>(&bytes);
    let typed = typed.map_err(|rejection| document::with_hints(rejection.refusal.problem.errors, FIELDS))?;
    let Document { metadata: Metadata { name, labels }, spec: says, .. } = typed.value;
    let mut faults = document::with_hints(typed.unknown, FIELDS);
    faults.extend(validate::labels(&labels, "/metadata/labels"));
    let scope = scope(says.scope.as_ref(), of).map_err(|fault| faults.push(*fault));
    // Without its scope a policy is compiled all the same, so that every fault is told at once.
    match rules::Policy::load(scope.clone().unwrap_or(Scope::Platform), &name, says) {
        Ok(compiled) if faults.is_empty() => {
            let spec = whole(body.get("spec"), compiled.scope());
            Ok(Policy { compiled: Arc::new(compiled), labels, spec })
        }
        compiled => {
            let Findings(findings) = compiled.err().unwrap_or_else(|| Findings(Vec::new()));
            faults.extend(findings.into_iter().map(told));
            Err(faults)
        }
    }
}

/// The spec with its scope, wherever that was said.
fn whole(spec: Option<&Value>, scope: &Scope) -> Value {
    let mut spec = spec.cloned().unwrap_or_default();
    if let Some(spec) = spec.as_object_mut() {
        spec.entry("scope").or_insert_with(|| match scope {
            Scope::Platform => Value::from("platform"),
            Scope::Tenant(tenant) => json!({ "tenant": tenant }),
            Scope::Project(tenant, project) => json!({ "tenant": tenant, "project": project }),
        });
    }
    spec
}

/// What stands for a policy that is there and cannot be read: nobody knows what it says, so it denies every create of
/// its scope.
pub(crate) fn unreadable(scope: Scope, name: &ProfileName) -> Option<Policy> {
    let rule = json!({
        "id": "unreadable",
        // Every instance has a name.
        "expression": "object.name == ''",
        "message": format!("this gateway cannot read the policy {}", scope.path(name)),
        "hint": "ask who looks after the gateways: a newer version may have written it",
    });
    let spec = json!({ "rules": [rule] });
    let compiled = rules::Policy::load(scope, name, serde_json::from_value(spec.clone()).ok()?).ok()?;
    Some(Policy { spec: whole(Some(&spec), compiled.scope()), compiled: Arc::new(compiled), labels: Labels::new() })
}

/// The scope that a document and its place come to.
fn scope(says: Option<&Scope>, of: Option<&Scope>) -> Result<Scope, Box<FieldError>> {
    let hinted = |code: &str, detail: String, hint: String| {
        Box::new(FieldError { hint: Some(hint), ..fault("/spec/scope", code, detail) })
    };
    match (says, of) {
        (Some(scope), None) | (None, Some(scope)) => Ok(scope.clone()),
        (Some(says), Some(of)) if says.tenant() == of.tenant() => Ok(says.clone()),
        (Some(says), Some(of)) => {
            let detail = format!("the policy is of scope {says}, and was sent to {of}");
            Err(hinted("mismatch", detail, "leave the scope out, or send the policy to its own place".to_owned()))
        }
        (None, None) => {
            let hint = "write `scope: platform`, or `scope: {tenant: NAME}` and perhaps a `project` in it".to_owned();
            Err(hinted("required", "the policy does not say whose requests it judges".to_owned(), hint))
        }
    }
}

fn told(Finding { pointer, diagnostic }: Finding) -> FieldError {
    let number = |n: usize| u32::try_from(n).ok();
    FieldError {
        hint: Some(diagnostic.hint),
        line: number(diagnostic.line),
        column: number(diagnostic.column),
        ..fault(format!("/spec{pointer}"), diagnostic.code, diagnostic.message)
    }
}

/// The fields of each object of a document, by the pointer of the object; items of a list have `*`.
const FIELDS: Fields = &[
    ("", &["apiVersion", "kind", "metadata", "spec"]),
    ("/metadata", &["name", "labels"]),
    ("/spec", &["description", "scope", "match", "params", "rules", "defaults", "mutations"]),
    ("/spec/match", &["operations", "condition"]),
    ("/spec/rules/*", &["id", "expression", "message", "messageExpression", "pointer", "hint", "mode"]),
    (
        "/spec/defaults",
        &[
            "labels",
            "annotations",
            "networkProfile",
            "imageProfile",
            "strategy",
            "regions",
            "placeTimeout",
            "activeDeadlineSeconds",
            "terminationGracePeriodSeconds",
        ],
    ),
    (
        "/spec/mutations",
        &[
            "labels",
            "annotations",
            "capacityType",
            "strategy",
            "registries",
            "activeDeadlineSecondsMax",
            "removePublicIp",
        ],
    ),
    ("/spec/mutations/registries/*", &["from", "to"]),
];
