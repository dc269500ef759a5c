//! What one set of policies would do with a request otherwise than another.

use meridian_model::instance::{InstanceSpec, Labels};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Broken, Decision, Mode, Request};

/// What differs between two decisions on one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Difference {
    /// What becomes of the request.
    pub fate: Fate,
    /// Rules that do not hold after and held, or were not there, before.
    pub broken: Vec<Broken>,
    /// Rules that did not hold before and hold, or are not there, after.
    pub mended: Vec<Broken>,
    /// Fields that are written otherwise.
    pub written: Vec<Write>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// What became of it before.
    #[default]
    Same,
    /// It passed before, and is denied after.
    Denied,
    /// It was denied before, and passes after.
    Passed,
}

/// A field that is written otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// JSON pointer into the request.
    pub pointer: String,
    /// Its value before, if it had one.
    pub before: Option<Value>,
    /// Its value after, if it has one.
    pub after: Option<Value>,
}

impl Difference {
    /// What differs between two decisions on a request.
    #[must_use]
    pub fn of(request: &Request<'_>, before: &Decision, after: &Decision) -> Self {
        let fate = match (before.denied(), after.denied()) {
            (false, true) => Fate::Denied,
            (true, false) => Fate::Passed,
            (true, true) | (false, false) => Fate::Same,
        };
        let written = if before.written == after.written {
            Vec::new()
        } else {
            let mut found = Vec::new();
            compare(String::new(), Some(&outcome(request, before)), Some(&outcome(request, after)), &mut found);
            // The order of an object's fields is nobody's choice.
            found.sort_by(|a, b| a.pointer.cmp(&b.pointer));
            found
        };
        Self { fate, broken: only(&after.broken, &before.broken), mended: only(&before.broken, &after.broken), written }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.fate == Fate::Same && self.broken.is_empty() && self.mended.is_empty() && self.written.is_empty()
    }

    /// Whether a rule of this mode does not hold only after.
    #[must_use]
    pub fn breaks(&self, mode: Mode) -> bool {
        self.broken.iter().any(|broken| broken.mode == mode)
    }
}

/// Those of `these` of which `those` has no like: the same rule in the same mode.
fn only(these: &[Broken], those: &[Broken]) -> Vec<Broken> {
    let like = |a: &Broken, b: &Broken| (&a.policy, &a.rule, a.mode) == (&b.policy, &b.rule, b.mode);
    these.iter().filter(|this| !those.iter().any(|that| like(this, that))).cloned().collect()
}

/// The request as it is after what was written.
fn outcome(request: &Request<'_>, decision: &Decision) -> Value {
    #[derive(Serialize)]
    struct Whole<'r> {
        labels: &'r Labels,
        annotations: &'r Labels,
        spec: &'r InstanceSpec,
    }
    let whole = match &decision.written {
        Some(written) => Whole { labels: &written.labels, annotations: &written.annotations, spec: &written.spec },
        None => Whole { labels: request.labels, annotations: request.annotations, spec: request.spec },
    };
    // Texts, numbers, lists and maps with texts as keys: nothing that JSON cannot hold.
    let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
    let InstanceSpec { network, capacity, placement, .. } = whole.spec;
    let sections = [
        ("network", json(serde_json::to_value(network))),
        ("capacity", json(serde_json::to_value(capacity))),
        ("placement", json(serde_json::to_value(placement))),
    ];
    let mut outcome = json(serde_json::to_value(&whole));
    // A section at its default is left out of a spec; beside one that is not, all of its fields would seem to be set.
    if let Some(spec) = outcome.get_mut("spec").and_then(Value::as_object_mut) {
        spec.extend(sections.map(|(name, section)| (name.to_owned(), section)));
    }
    outcome
}

/// Finds what differs below a pointer. A list whose length differs is one field.
fn compare(pointer: String, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Write>) {
    let below = |key: &str| format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
    let none = Map::new();
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(below(&i.to_string()), Some(a), Some(b), found);
            }
        }
        (Some(Value::Object(_)), Some(Value::Object(_)))
        | (Some(Value::Object(_)), None)
        | (None, Some(Value::Object(_)))
            if !is_all(before, after) =>
        {
            let [a, b] = [before, after].map(|side| side.and_then(Value::as_object).unwrap_or(&none));
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                compare(below(key), a.get(key), b.get(key), found);
            }
        }
        (before, after) => found.push(Write { pointer, before: before.cloned(), after: after.cloned() }),
    }
}

/// Whether an object without members is all that is on one side: there is no field below it that could differ.
fn is_all(before: Option<&Value>, after: Option<&Value>) -> bool {
    let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    match (before, after) {
        (Some(only), None) | (None, Some(only)) => is_empty(only),
        (Some(_), Some(_)) | (None, None) => false,
    }
}
