//! The three accepted shapes of a create: our own short form, our resource with `apiVersion`, and a v1 Pod.

use meridian_model::{
    error::FieldError,
    ids::{InstanceName, ProjectName, TenantId},
    instance::{InstanceSpec, Labels},
};
use serde::Deserialize;
use serde_json::Value;

use super::body::{Typed, fault, parse_typed, push_segment, refuse};
use crate::refusal::Rejection;

/// `{"name", "project", "labels", "annotations", "spec"}`.
#[derive(Debug, Deserialize)]
struct Short {
    #[serde(default)]
    name: Option<InstanceName>,
    #[serde(default)]
    project: Option<ProjectName>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Labels,
    spec: InstanceSpec,
}

/// A resource with `apiVersion`, `kind` and `metadata`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: InstanceSpec,
    /// What `kubectl create --dry-run` writes: an empty object. Anything in it is an unknown field.
    #[serde(default, rename = "status")]
    _status: Option<Empty>,
}

#[derive(Debug, Deserialize)]
struct Empty {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: Option<InstanceName>,
    #[serde(default)]
    namespace: Option<String>,
    /// Ours; Kubernetes has no such field.
    #[serde(default)]
    project: Option<ProjectName>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Labels,
    /// Written as null by Kubernetes' own tools; a real time is the server's to say.
    #[serde(default, rename = "creationTimestamp")]
    _creation_timestamp: Option<()>,
}

/// What every shape comes to.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) name: InstanceName,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) project: Option<ProjectName>,
    pub(super) spec: InstanceSpec,
    /// Where labels and annotations stand in the body.
    pub(super) metadata_pointer: &'static str,
    /// Fields outside of the model.
    pub(super) unknown: Vec<FieldError>,
}

/// Reads a create's body; `tree` is the same body, already parsed.
///
/// # Errors
/// `invalid-argument` with what is ill-typed or missing.
pub(super) fn parse(bytes: &[u8], tree: &Value, tenant: &TenantId) -> Result<Manifest, Rejection> {
    if !tree.is_object() {
        return Err(refuse(vec![fault("", "invalid", "the body must be a JSON object")]));
    }
    let text = |key: &str| tree.get(key).map(|v| v.as_str().unwrap_or("(not text)"));
    let manifest = match (text("apiVersion"), text("kind")) {
        (None, None) => short(bytes, tree)?,
        (Some("meridian.dev/v1"), Some("Instance")) | (Some("v1"), Some("Pod")) => resource(bytes, tree, tenant)?,
        (version, kind) => {
            let found = format!("{} {}", version.unwrap_or("(no apiVersion)"), kind.unwrap_or("(no kind)"));
            let mut wrong = fault("/kind", "unsupported-kind", format!("cannot create {found}"));
            wrong.hint = Some("send apiVersion meridian.dev/v1 with kind Instance, v1 with Pod, or neither".to_owned());
            return Err(refuse(vec![wrong]));
        }
    };
    refuse_positional(tree, &manifest)?;
    Ok(manifest)
}

/// serde takes an array for a struct, field by field in order of declaration. Nobody means that: where the model
/// has an object the body must have one.
fn refuse_positional(tree: &Value, manifest: &Manifest) -> Result<(), Rejection> {
    fn walk(given: &Value, meant: &Value, pointer: &mut String, faults: &mut Vec<FieldError>) {
        let len = pointer.len();
        match (given, meant) {
            (Value::Array(_), Value::Object(_)) => {
                faults.push(fault(pointer.clone(), "invalid", "an object is expected here, not an array"));
            }
            (Value::Array(given), Value::Array(meant)) => {
                for (i, (given, meant)) in given.iter().zip(meant).enumerate() {
                    push_segment(pointer, &i.to_string());
                    walk(given, meant, pointer, faults);
                    pointer.truncate(len);
                }
            }
            (Value::Object(given), Value::Object(meant)) => {
                for (key, given) in given {
                    if let Some(meant) = meant.get(key) {
                        push_segment(pointer, key);
                        walk(given, meant, pointer, faults);
                        pointer.truncate(len);
                    }
                }
            }
            _ => {}
        }
    }
    let meant = serde_json::to_value(&manifest.spec).unwrap_or(Value::Null);
    let mut faults = Vec::new();
    for object in ["metadata", "status"] {
        if tree.get(object).is_some_and(|v| !v.is_object() && !v.is_null()) {
            faults.push(fault(format!("/{object}"), "invalid", "an object is expected here"));
        }
    }
    walk(tree.get("spec").unwrap_or(&Value::Null), &meant, &mut "/spec".to_owned(), &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(refuse(faults)) }
}

fn short(bytes: &[u8], tree: &Value) -> Result<Manifest, Rejection> {
    let Typed { value, unknown } = parse_typed::<Short>(bytes)?;
    let Short { name, project, labels, annotations, spec } = value;
    let name = required(name, "/name", tree.get("generateName").is_some(), &unknown)?;
    Ok(Manifest { name, labels, annotations, project, spec, metadata_pointer: "", unknown })
}

fn resource(bytes: &[u8], tree: &Value, tenant: &TenantId) -> Result<Manifest, Rejection> {
    let Typed { value, mut unknown } = parse_typed::<Resource>(bytes)?;
    let Metadata { name, namespace, project, labels, annotations, .. } = value.metadata;
    if let Some(other) = namespace.filter(|n| n != tenant.as_str()) {
        let detail = format!("the namespace is {other:?}; leave it out or use the tenant {tenant}");
        unknown.push(fault("/metadata/namespace", "invalid", detail));
    }
    let generate = tree.pointer("/metadata/generateName").is_some();
    let name = required(name, "/metadata/name", generate, &unknown)?;
    if unknown.iter().any(|f| f.code != "unknown-field") {
        return Err(refuse(unknown));
    }
    let (spec, metadata_pointer) = (value.spec, "/metadata");
    Ok(Manifest { name, labels, annotations, project, spec, metadata_pointer, unknown })
}

/// The name, or what to do without one; faults found so far are reported with it.
fn required(
    name: Option<InstanceName>,
    pointer: &str,
    generate: bool,
    found: &[FieldError],
) -> Result<InstanceName, Rejection> {
    name.ok_or_else(|| {
        let mut missing = fault(pointer, "required", "the instance needs a name");
        if generate {
            missing.hint =
                Some("generateName is not supported: choose the name, so that a retry means the same".to_owned());
        }
        let mut faults = found.to_vec();
        faults.push(missing);
        refuse(faults)
    })
}
