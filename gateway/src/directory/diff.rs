//! What changes from one set of declarations to another, for people. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{Snapshot, Source};
use crate::policies::document::Policy;

/// What a diff compares: everything that is declared, as JSON, by name. A key's secret is in it only as the first digits
/// of its hash, which tell one from another.
pub type Shown = BTreeMap<String, Value>;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is there and was not.
    Added(String),
    /// It is not there and was.
    Removed(String),
    /// A value of it differs: where, what it was and what it is.
    Changed(String, Value, Value),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added(what) => write!(f, "+ {what}"),
            Self::Removed(what) => write!(f, "- {what}"),
            Self::Changed(what, from, to) => write!(f, "~ {what}: {from} -> {to}"),
        }
    }
}

impl Snapshot {
    /// What is declared, to be compared.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let of = |(name, entry): (&meridian_model::ids::TenantId, &super::Entry)| {
            let mut value = serde_json::to_value(&*entry.settings).unwrap_or(Value::Null);
            if let Some(object) = value.as_object_mut() {
                object.remove("name");
                object.insert("source".to_owned(), Value::from(entry.source.to_string()));
                let keys = entry.settings.keys.iter().map(|key| {
                    let mut shown = serde_json::to_value(key).unwrap_or(Value::Null);
                    let hash: String = key.sha256.iter().take(4).map(|b| format!("{b:02x}")).collect();
                    if let Some(shown) = shown.as_object_mut() {
                        shown.insert("sha256".to_owned(), Value::from(format!("{hash}...")));
                    }
                    (key.id.clone(), shown)
                });
                object.insert("keys".to_owned(), Value::Object(keys.collect()));
            }
            (format!("tenants/{name}"), value)
        };
        let policy = |(path, (policy, source)): (&Arc<str>, &(Arc<Policy>, Source))| {
            let value = json!({ "labels": policy.labels, "spec": policy.spec, "source": source.to_string() });
            (path.to_string(), value)
        };
        self.tenants().map(of).chain(self.policies().iter().map(policy)).collect()
    }
}

/// Every change between the two, in the order of names.
#[must_use]
pub fn diff(before: &Shown, after: &Shown) -> Vec<Change> {
    let mut changes = Vec::new();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        match (before.get(name), after.get(name)) {
            (None, Some(_)) => changes.push(Change::Added(name.clone())),
            (Some(_), None) => changes.push(Change::Removed(name.clone())),
            (Some(from), Some(to)) => compare(name, from, to, &mut changes),
            (None, None) => {}
        }
    }
    changes
}

fn compare(path: &str, from: &Value, to: &Value, changes: &mut Vec<Change>) {
    match (from, to) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let null = Value::Null;
                let (from, to) = (a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null));
                compare(&format!("{path}.{name}"), from, to, changes);
            }
        }
        (from, to) if from == to => {}
        (from, to) => changes.push(Change::Changed(path.to_owned(), from.clone(), to.clone())),
    }
}
