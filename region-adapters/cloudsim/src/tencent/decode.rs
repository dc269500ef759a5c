//! Parameters: JSON or flattened text into one checked JSON object.
//!
//! Strict where the API definition is sure: a field it does not have is `UnknownParameter`, a required one that is
//! absent is `MissingParameter`, another type is `InvalidParameter`. Flattened values are text and are converted.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::error::TcError;

/// Most parts of a flattened name; the deepest known one has 6.
const DEPTH_MAX: usize = 16;
/// Longest list a flattened request may build.
const LIST_MAX: usize = 1_000;

#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: String,
    list: bool,
    required: bool,
}

/// The request objects of all actions.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    objects: BTreeMap<String, Vec<Field>>,
}

impl Schema {
    pub(crate) fn load() -> Self {
        let lines = include_str!("schema.txt").lines().filter(|l| !l.starts_with('#'));
        let objects = lines.filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?.to_owned();
            Some((name, words.filter_map(field).collect()))
        });
        Self { objects: objects.collect() }
    }

    /// Whether the action exists.
    pub(crate) fn knows(&self, action: &str) -> bool {
        self.objects.contains_key(&format!("{action}Request"))
    }

    /// Checks JSON parameters.
    pub(crate) fn check_json(&self, action: &str, value: Value) -> Result<Value, TcError> {
        self.object(&format!("{action}Request"), value, "", false)
    }

    /// Builds and checks flattened parameters.
    pub(crate) fn check_flat(&self, action: &str, pairs: &[(String, String)]) -> Result<Value, TcError> {
        let mut tree = Node::default();
        for (name, value) in pairs {
            let parts: Vec<&str> = name.split('.').collect();
            if parts.len() > DEPTH_MAX || !tree.put(&parts, value) {
                return Err(TcError::invalid(name, "is not a well-formed name"));
            }
        }
        self.object(&format!("{action}Request"), tree.into_value(), "", true)
    }

    fn object(&self, kind: &str, value: Value, path: &str, text: bool) -> Result<Value, TcError> {
        let Value::Object(mut given) = value else {
            return Err(TcError::invalid(if path.is_empty() { "body" } else { path }, "must be an object"));
        };
        let mut checked = Map::new();
        for field in self.objects.get(kind).into_iter().flatten() {
            let at = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            match given.remove(&field.name) {
                None | Some(Value::Null) if field.required => return Err(TcError::missing(&at)),
                None | Some(Value::Null) => {}
                Some(value) => {
                    let value = if field.list {
                        self.list(&field.kind, value, &at, text)?
                    } else {
                        self.value(&field.kind, value, &at, text)?
                    };
                    checked.insert(field.name.clone(), value);
                }
            }
        }
        match given.keys().next() {
            Some(name) if path.is_empty() => Err(TcError::unknown(name)),
            Some(name) => Err(TcError::unknown(&format!("{path}.{name}"))),
            None => Ok(Value::Object(checked)),
        }
    }

    fn list(&self, kind: &str, value: Value, at: &str, text: bool) -> Result<Value, TcError> {
        let items = match value {
            Value::Array(items) => items,
            // An empty object is how a list without entries looks when flattened.
            Value::Object(items) if text => indexed(items).ok_or_else(|| TcError::invalid(at, "must be a list"))?,
            Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(TcError::invalid(at, "must be a list"));
            }
        };
        let checked = items
            .into_iter()
            .enumerate()
            .map(|(i, item)| self.value(kind, item, &format!("{at}.{i}"), text))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Value::Array(checked))
    }

    fn value(&self, kind: &str, value: Value, at: &str, text: bool) -> Result<Value, TcError> {
        let wrong = |what: &str| TcError::invalid(at, &format!("must be {what}"));
        match (kind, value) {
            ("string", Value::String(s)) => Ok(Value::String(s)),
            ("string", _) => Err(wrong("a string")),
            ("integer", Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(Value::Number(n)),
            ("integer", Value::String(s)) if text => s.parse::<i64>().map(Value::from).map_err(|_| wrong("an integer")),
            ("integer", _) => Err(wrong("an integer")),
            ("float", Value::Number(n)) => Ok(Value::Number(n)),
            ("float", Value::String(s)) if text => {
                s.parse().ok().and_then(Number::from_f64).map(Value::Number).ok_or_else(|| wrong("a number"))
            }
            ("float", _) => Err(wrong("a number")),
            ("boolean", Value::Bool(b)) => Ok(Value::Bool(b)),
            ("boolean", Value::String(s)) if text => match s.as_str() {
                "True" | "true" => Ok(Value::Bool(true)),
                "False" | "false" => Ok(Value::Bool(false)),
                _ => Err(wrong("a boolean")),
            },
            ("boolean", _) => Err(wrong("a boolean")),
            (object, value) => self.object(object, value, at, text),
        }
    }
}

fn field(word: &str) -> Option<Field> {
    let (name, kind) = word.split_once(':')?;
    let (kind, required) = kind.strip_suffix('!').map_or((kind, false), |k| (k, true));
    let (kind, list) = kind.strip_suffix("[]").map_or((kind, false), |k| (k, true));
    Some(Field { name: name.to_owned(), kind: kind.to_owned(), list, required })
}

/// A flattened name's tree: a leaf has text, a branch has children.
#[derive(Debug, Default)]
struct Node {
    text: Option<String>,
    children: BTreeMap<String, Node>,
}

impl Node {
    fn put(&mut self, parts: &[&str], value: &str) -> bool {
        match parts.split_first() {
            None if self.text.is_some() || !self.children.is_empty() => false,
            None => {
                self.text = Some(value.to_owned());
                true
            }
            Some((first, _)) if first.is_empty() || self.text.is_some() => false,
            Some((first, rest)) => self.children.entry((*first).to_owned()).or_default().put(rest, value),
        }
    }

    fn into_value(self) -> Value {
        match self.text {
            Some(text) => Value::String(text),
            None => Value::Object(self.children.into_iter().map(|(k, n)| (k, n.into_value())).collect()),
        }
    }
}

/// `{"0": a, "1": b}` as `[a, b]`: indices from 0, none left out.
fn indexed(items: Map<String, Value>) -> Option<Vec<Value>> {
    let mut by_index = BTreeMap::new();
    for (key, value) in items {
        by_index.insert(key.parse::<usize>().ok().filter(|i| *i < LIST_MAX)?, value);
    }
    let complete = by_index.keys().copied().eq(0..by_index.len());
    complete.then(|| by_index.into_values().collect())
}

/// Form-encoded pairs, decoded, in order. A name twice is refused: the signature would not say which one counts.
pub(crate) fn form_pairs(text: &str) -> Result<Vec<(String, String)>, TcError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (form_decode(name)?, form_decode(value)?);
        if !seen.insert(name.clone()) {
            return Err(TcError::invalid(&name, "is given twice"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn form_decode(text: &str) -> Result<String, TcError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
    decoded.map(|t| t.into_owned()).map_err(|_| TcError::new("InvalidRequest", "A parameter is not UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flattened_text_becomes_typed() {
        let pairs =
            form_pairs("Limit=20&Filters.0.Name=status&Filters.0.Values.0=a+b&Filters.0.Values.1=%E5%90%8D").unwrap();
        let value = Schema::load().check_flat("DescribeEKSContainerInstances", &pairs).unwrap();
        assert_eq!(value, json!({"Limit": 20, "Filters": [{"Name": "status", "Values": ["a b", "名"]}]}));
    }

    #[test]
    fn mistakes_get_the_documented_code() {
        let check = |action: &str, value: Value, want: (&str, &str)| {
            let error = Schema::load().check_json(action, value).unwrap_err();
            assert_eq!(error.code, want.0, "{error:?}");
            assert!(error.message.contains(want.1), "{error:?}");
        };
        check("DeleteEKSContainerInstances", json!({}), ("MissingParameter", "EksCiIds"));
        check("DeleteEKSContainerInstances", json!({"EksCiIds": [], "X": 1}), ("UnknownParameter", "X"));
        check("DeleteEKSContainerInstances", json!({"EksCiIds": "a"}), ("InvalidParameter", "EksCiIds"));
        check("DeleteEKSContainerInstances", json!({"EksCiIds": [1]}), ("InvalidParameter", "EksCiIds.0"));
        check("DescribeEKSContainerInstances", json!({"Limit": "20"}), ("InvalidParameter", "Limit"));
        let filters = json!({"Filters": [{"Name": "status"}]});
        check("DescribeEKSContainerInstances", filters, ("MissingParameter", "Filters.0.Values"));
        let deep = json!({"Filters": [{"Name": "status", "Values": [], "Op": "="}]});
        check("DescribeEKSContainerInstances", deep, ("UnknownParameter", "Filters.0.Op"));
        check("DeleteEKSContainerInstances", json!([]), ("InvalidParameter", "body"));
    }

    #[test]
    fn broken_names_are_refused() {
        let schema = Schema::load();
        let flat = |text: &str| schema.check_flat("DescribeEKSContainerInstances", &form_pairs(text).unwrap());
        assert!(flat("EksCiIds.1=a").is_err(), "indices start at 0");
        assert!(flat("EksCiIds.0=a&EksCiIds.0.x=b").is_err());
        assert!(flat("EksCiIds..0=a").is_err());
        assert!(flat("EksCiIds.x=a").is_err());
        assert!(form_pairs("A=1&A=2").is_err());
        assert!(form_pairs("A=%ff").is_err());
    }
}
