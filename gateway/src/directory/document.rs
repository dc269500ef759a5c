//! Documents that declare tenants, from files and from the API: read strictly, every fault with its JSON pointer.

use meridian_model::{error::FieldError, ids::TenantId, instance::Labels, validate};
use meridian_policies::quota::tree::Tree;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    config::{self, Known, SettingsMistake, nearest, role_mistakes},
    dialects::rest::body::{fault, parse_typed},
};

/// What documents of ours begin with.
pub const API_VERSION: &str = "meridian.dev/v1";
/// The kind of a tenant's document.
pub const TENANT: &str = "Tenant";

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default, rename = "kind")]
    _kind: Option<String>,
    metadata: Metadata,
    #[serde(default)]
    spec: Option<config::Tenant>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: TenantId,
    #[serde(default)]
    labels: Labels,
}

/// Reads a tenant's document. Its references are checked against what the configuration has.
///
/// # Errors
/// Every fault: of the first field that has the wrong type and of those that do not exist, or of all values.
pub(crate) fn tenant(body: &Value, known: &Known) -> Result<config::Tenant, Vec<FieldError>> {
    kind(body)?;
    let bytes = serde_json::to_vec(body).map_err(|e| vec![fault("", "invalid", e.to_string())])?;
    let typed = parse_typed::<Document>(&bytes).map_err(|rejection| with_hints(rejection.refusal.problem.errors))?;
    let Document { metadata, spec, .. } = typed.value;
    let mut faults = with_hints(typed.unknown);
    let mut tenant = spec.unwrap_or_else(|| config::Tenant::new(metadata.name.clone()));
    faults.extend(validate::labels(&metadata.labels, "/metadata/labels"));
    (tenant.name, tenant.labels) = (metadata.name, metadata.labels);
    faults.extend(known.mistakes(&tenant).into_iter().map(|m| of_mistake("", m)));
    for (i, key) in tenant.keys.iter().enumerate() {
        let mistakes = role_mistakes(key.role, false, key.permissions.as_deref().unwrap_or_default());
        faults.extend(mistakes.into_iter().map(|m| of_mistake(&format!("keys[{i}]."), m)));
    }
    for (field, what) in tenant.rate.out_of_bounds() {
        faults.push(fault(format!("/spec/rate/{field}"), "out-of-range", what));
    }
    for of_tree in Tree::new(&tenant.projects).err().unwrap_or_default() {
        let mut fault = fault("/spec/projects", "invalid", format!("{}: {}", of_tree.place, of_tree.fault));
        fault.hint = Some(of_tree.mend);
        faults.push(fault);
    }
    if faults.is_empty() { Ok(tenant) } else { Err(faults) }
}

/// Reads a tenant's document that was checked when it was stored: what it refers to may be gone since, and what a newer
/// version knows is passed over.
pub(crate) fn stored(body: &Value) -> Option<config::Tenant> {
    let Document { metadata, spec, .. } = serde_json::from_value(body.clone()).ok()?;
    let mut tenant = spec.unwrap_or_else(|| config::Tenant::new(metadata.name.clone()));
    (tenant.name, tenant.labels) = (metadata.name, metadata.labels);
    Some(tenant)
}

fn kind(body: &Value) -> Result<(), Vec<FieldError>> {
    let text = |key: &str| body.get(key).map(|v| v.as_str().unwrap_or("(not text)"));
    match (text("apiVersion"), text("kind")) {
        (Some(API_VERSION), Some(TENANT)) => Ok(()),
        (version, kind) => {
            let found = format!("{} {}", version.unwrap_or("(no apiVersion)"), kind.unwrap_or("(no kind)"));
            let mut wrong = fault("/kind", "unsupported-kind", format!("{found} is nothing that can be declared here"));
            wrong.hint = Some(format!("write apiVersion {API_VERSION} and kind {TENANT}"));
            Err(vec![wrong])
        }
    }
}

/// A mistake of settings as a fault of the document's spec.
fn of_mistake(prefix: &str, SettingsMistake { path, what, mend }: SettingsMistake) -> FieldError {
    let pointer = format!("/spec/{prefix}{path}").replace(['.', '['], "/").replace(']', "");
    let mut fault = fault(pointer, "invalid", what);
    fault.hint = Some(mend);
    fault
}

/// The fields of each object of a document, by the pointer of the object; items of a list have `*`.
const FIELDS: [(&str, &[&str]); 6] = [
    ("", &["apiVersion", "kind", "metadata", "spec"]),
    ("/metadata", &["name", "labels"]),
    (
        "/spec",
        &[
            "keys",
            "quota",
            "projects",
            "rate",
            "limits",
            "weight",
            "regions",
            "providers",
            "networkProfiles",
            "defaultNetworkProfile",
            "imageProfiles",
            "secretProfiles",
            "strategy",
        ],
    ),
    ("/spec/rate", &["requestsPerMinute", "burst", "createsPerMinute", "createBurst"]),
    ("/spec/limits/*", &["name", "per", "class", "quota", "window", "burst", "cost", "shadow"]),
    ("/spec/keys/*", &["id", "sha256", "role", "project", "permissions", "expires"]),
];

/// Says of each unknown field which one was probably meant.
fn with_hints(mut faults: Vec<FieldError>) -> Vec<FieldError> {
    for fault in faults.iter_mut().filter(|fault| fault.code == "unknown-field") {
        let Some((parent, name)) = fault.pointer.rsplit_once('/') else { continue };
        let shape: Vec<&str> = parent.split('/').map(|s| if s.parse::<usize>().is_ok() { "*" } else { s }).collect();
        let fields = FIELDS.iter().find(|(object, _)| *object == shape.join("/")).map(|(_, fields)| *fields);
        let near = nearest(name, fields.unwrap_or_default().iter().copied());
        fault.hint = near.map(|near| format!("did you mean {near}?"));
    }
    faults
}
