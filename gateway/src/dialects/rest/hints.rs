//! "Did you mean": the fields that the model has where a request has an unknown one.
//!
//! The committed OpenAPI description knows every field at every place, so it is asked. It is read once, when the
//! first unknown field is refused; the good path never needs it.

use std::{collections::BTreeSet, sync::OnceLock};

use serde_json::Value;

use super::decode::OPENAPI;
use crate::config::nearest;

/// Schemas that refer to each other deeper than this are not followed.
const REFERENCES_MAX: usize = 8;

fn description() -> &'static Value {
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| serde_json::from_slice(OPENAPI).unwrap_or(Value::Null))
}

/// The field that was probably meant at a JSON pointer into a create's body.
pub(super) fn nearest_field(pointer: &str) -> Option<String> {
    let (parent, name) = pointer.rsplit_once('/')?;
    let root = description().pointer("/components/schemas/CreateRequest")?;
    let mut places = alternatives(root);
    for segment in parent.split('/').skip(1) {
        places = places.into_iter().flat_map(|schema| step(schema, segment)).collect();
    }
    let known: BTreeSet<&str> = places
        .iter()
        .filter_map(|s| s.get("properties")?.as_object())
        .flat_map(|p| p.keys().map(String::as_str))
        .collect();
    nearest(name, known.into_iter()).map(str::to_owned)
}

/// The schemas one level down.
fn step(schema: &'static Value, segment: &str) -> Vec<&'static Value> {
    let below = match segment.parse::<usize>() {
        Ok(_) => schema.get("items"),
        Err(_) => schema.get("properties").and_then(|p| p.get(segment)),
    };
    below.map(alternatives).unwrap_or_default()
}

/// The schemas that a schema stands for: its reference followed, its alternatives listed.
fn alternatives(schema: &'static Value) -> Vec<&'static Value> {
    let mut schema = schema;
    for _ in 0..REFERENCES_MAX {
        let Some(path) = schema.get("$ref").and_then(Value::as_str) else { break };
        match description().pointer(path.trim_start_matches('#')) {
            Some(target) => schema = target,
            None => return Vec::new(),
        }
    }
    let several = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    several.map_or_else(|| vec![schema], |all| all.iter().flat_map(alternatives).collect())
}

#[cfg(test)]
mod tests {
    use super::nearest_field;

    #[test]
    fn the_nearest_field_of_the_same_place_is_found() {
        for (pointer, meant) in [
            ("/sepc", Some("spec")),
            ("/spec/contianers", Some("containers")),
            ("/spec/containers/0/imagee", Some("image")),
            ("/spec/containers/3/resources/limits/memroy", Some("memory")),
            ("/metadata/lables", Some("labels")),
            ("/spec/volumes/0/emptydir", Some("emptyDir")),
            ("/spec/volumes/0/zzzzzzzzzz", None),
            ("/spec/nothing/here", None),
            ("", None),
        ] {
            assert_eq!(nearest_field(pointer).as_deref(), meant, "{pointer}");
        }
    }
}
