//! Documents that declare tenants and policies, from files and from the API: read strictly, every fault with its JSON
//! pointer. What is a policy's own is in `policies::document`.

use meridian_model::{error::FieldError, ids::TenantId, instance::Labels, validate};
use meridian_policies::quota::tree::Tree;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    config::{self, Known, SettingsMistake, nearest, role_mistakes},
    dialects::rest::body::{fault, parse_typed},
    policies::document::{self as policy, Policy},
};

/// What documents of ours begin with.
pub const API_VERSION: &str = "meridian.dev/v1";
/// The kind of a tenant's document.
pub const TENANT: &str = "Tenant";
/// The kind of a policy's document.
pub const POLICY: &str = "Policy";

/// What a document declares.
#[derive(Debug)]
pub(super) enum Declaration {
    Tenant(Box<config::Tenant>),
    Policy(Policy),
}

/// Reads a document of either kind.
///
/// # Errors
/// As of [`tenant`] and of [`policy::read`].
pub(super) fn any(body: &Value, known: &Known) -> Result<Declaration, Vec<FieldError>> {
    is_kind(body, &[TENANT, POLICY])?;
    if body.get("kind").and_then(Value::as_str) == Some(POLICY) {
        policy::read(body, None).map(Declaration::Policy)
    } else {
        tenant(body, known).map(|tenant| Declaration::Tenant(Box::new(tenant)))
    }
}

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
    is_kind(body, &[TENANT])?;
    let bytes = serde_json::to_vec(body).map_err(|e| vec![fault("", "invalid", e.to_string())])?;
    let typed =
        parse_typed::<Document>(&bytes).map_err(|rejection| with_hints(rejection.refusal.problem.errors, FIELDS))?;
    let Document { metadata, spec, .. } = typed.value;
    let mut faults = with_hints(typed.unknown, FIELDS);
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

/// A tenant's document with a merge patch (RFC 7396) of its labels and its spec applied.
///
/// # Errors
/// The patch is of something else.
pub(crate) fn patched(manifest: &Value, patch: &Value) -> Result<Value, Vec<FieldError>> {
    let Some(members) = patch.as_object() else {
        return Err(vec![fault("", "invalid", "a patch of a tenant is an object with `labels` and `spec`")]);
    };
    let (mut next, mut faults) = (manifest.clone(), Vec::new());
    for (name, change) in members {
        let place = match name.as_str() {
            "labels" => next.get_mut("metadata").and_then(Value::as_object_mut),
            "spec" => next.as_object_mut(),
            _ => {
                let near = nearest(name, ["labels", "spec"].into_iter());
                let hint =
                    near.map_or_else(|| "labels and spec can be changed".to_owned(), |n| format!("did you mean {n}?"));
                let unknown = fault(format!("/{name}"), "unknown-field", format!("there is no field {name:?} here"));
                faults.push(FieldError { hint: Some(hint), ..unknown });
                continue;
            }
        };
        if let Some(place) = place {
            merge(place.entry(name.clone()).or_insert(Value::Null), change);
            place.retain(|_, value| !value.is_null());
        }
    }
    if faults.is_empty() { Ok(next) } else { Err(faults) }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        patch.clone_into(target);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, change) in patch {
        if change.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Whether a document is of one of these kinds.
///
/// # Errors
/// It is not, with what it is.
pub(crate) fn is_kind(body: &Value, kinds: &[&str]) -> Result<(), Vec<FieldError>> {
    let text = |key: &str| body.get(key).map(|v| v.as_str().unwrap_or("(not text)"));
    match (text("apiVersion"), text("kind")) {
        (Some(API_VERSION), Some(kind)) if kinds.contains(&kind) => Ok(()),
        (version, kind) => {
            let found = format!("{} {}", version.unwrap_or("(no apiVersion)"), kind.unwrap_or("(no kind)"));
            let mut wrong = fault("/kind", "unsupported-kind", format!("{found} is nothing that can be declared here"));
            wrong.hint = Some(format!("write apiVersion {API_VERSION} and kind {}", kinds.join(" or ")));
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

/// The fields of each object of a kind of document, by the pointer of the object; items of a list have `*`.
pub(crate) type Fields = &'static [(&'static str, &'static [&'static str])];

const FIELDS: Fields = &[
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
pub(crate) fn with_hints(mut faults: Vec<FieldError>, known: Fields) -> Vec<FieldError> {
    for fault in faults.iter_mut().filter(|fault| fault.code == "unknown-field") {
        let Some((parent, name)) = fault.pointer.rsplit_once('/') else { continue };
        let shape: Vec<&str> = parent.split('/').map(|s| if s.parse::<usize>().is_ok() { "*" } else { s }).collect();
        let fields = known.iter().find(|(object, _)| *object == shape.join("/")).map(|(_, fields)| *fields);
        let near = nearest(name, fields.unwrap_or_default().iter().copied());
        fault.hint = near.map(|near| format!("did you mean {near}?"));
    }
    for fault in faults.iter_mut().filter(|fault| fault.hint.is_none()) {
        fault.hint = cure(&fault.detail);
    }
    faults
}

/// What mends a fault that the parser told in its own words.
fn cure(detail: &str) -> Option<String> {
    if let Some((word, known)) = detail.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')) {
        let near = nearest(word, known.split('`').skip(1).step_by(2))?;
        return Some(format!("did you mean {near}?"));
    }
    let (field, _) = detail.strip_prefix("missing field `")?.split_once('`')?;
    Some(format!("add {field}"))
}
