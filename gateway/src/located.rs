//! Texts of YAML, JSON and TOML as JSON, with the place of every value in them.
//!
//! What reads a document refuses a field by its JSON pointer; people look for a line. JSON is read by the YAML parser, of
//! which it is a part.

use std::{collections::HashMap, fmt, ops::Range};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use toml::{
    Spanned as TomlSpanned,
    de::{DeTable, DeValue},
};

/// A document and where everything in it stands.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    /// The document as JSON.
    pub(crate) body: Value,
    /// Where it begins.
    pub(crate) at: (usize, usize),
    places: HashMap<String, Spot>,
}

/// A text that is no document.
#[derive(Debug, Clone)]
pub(crate) struct Syntax {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) what: String,
}

/// Where something stands: line and column from 1, and characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) len: usize,
    /// It is the place asked for, not that of a parent.
    pub(crate) exact: bool,
}

impl Located {
    /// A document of which nothing is known but itself.
    pub(crate) fn nowhere(body: Value) -> Self {
        Self { body, at: (1, 1), places: HashMap::new() }
    }

    /// Every document of a text of YAML or JSON.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn of_yaml(text: &str) -> Result<Vec<Self>, Syntax> {
        // The message alone: whoever shows it draws the place in one form for all faults.
        let options = serde_saphyr::options! { with_snippet: false };
        let nodes: Vec<Option<Node>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| {
            let (line, column) = e.location().map_or((1, 1), |l| {
                let n = |v: u64| usize::try_from(v).unwrap_or(1).max(1);
                (n(l.line()), n(l.column()))
            });
            Syntax { line, column, what: e.without_snippet().to_string() }
        })?;
        Ok(nodes.into_iter().flatten().map(Self::of).collect())
    }

    /// The document that a text of TOML is.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn of_toml(text: &str) -> Result<Self, Syntax> {
        let root = DeTable::parse(text).map_err(|e| {
            let (line, column) = line_column(text, e.span().map_or(0, |s| s.start));
            Syntax { line, column, what: e.message().trim().to_owned() }
        })?;
        let range = root.span();
        Ok(Self::of(node_of(text, &DeValue::Table(root.into_inner()), range)))
    }

    fn of(node: Node) -> Self {
        let (at, mut places) = (node.at, HashMap::new());
        let body = settle(node, "", None, &mut places);
        Self { body, at, places }
    }

    /// Where a pointer stands, or its nearest parent that is there; the key of a value where `key` is wished.
    pub(crate) fn find(&self, pointer: &str, key: bool) -> At {
        let mut nearest = pointer;
        let found = loop {
            if let Some(spot) = self.places.get(nearest) {
                break Some(*spot);
            }
            match nearest.rfind('/') {
                Some(end) => nearest = nearest.get(..end).unwrap_or(""),
                None => break None,
            }
        };
        let exact = nearest == pointer;
        let (line, column, len) = match found {
            None => (1, 1, 1),
            Some(Spot { key: Some(at), .. }) if key || !exact => at,
            Some(spot) => (spot.value.0, spot.value.1, spot.len),
        };
        At { line, column, len, exact }
    }
}

impl Located {
    /// Where a line and a column of the text that a pointer leads to stand in the text of the document. That is walked
    /// beside the value from where the value begins, whatever its style: quotes, escapes and indents are skipped, and white
    /// space is as good as any other. The beginning of the value, where the two do not go together.
    pub(crate) fn inside(&self, text: &str, value: &str, (pointer, place): (&str, (usize, usize))) -> At {
        let start = self.find(pointer, false);
        let at = aligned(text, (start.line, start.column), value, place).unwrap_or((start.line, start.column));
        let shown = text.lines().nth(at.0.saturating_sub(1)).unwrap_or_default().chars().skip(at.1.saturating_sub(1));
        let len = shown.take_while(|c| c.is_alphanumeric() || *c == '_').count().max(1);
        At { line: at.0, column: at.1, len, exact: start.exact }
    }
}

fn aligned(text: &str, start: (usize, usize), value: &str, place: (usize, usize)) -> Option<(usize, usize)> {
    let is_style = |c: char| c.is_whitespace() || matches!(c, '\\' | '"' | '\'');
    let wanted = byte_of(value, place)?;
    let mut at = byte_of(text, start)?;
    let mut done = 0;
    let mut chars = value.chars().peekable();
    while done < wanted {
        let next = *chars.peek()?;
        let found = text.get(at..)?.chars().next()?;
        if found == next || (next.is_whitespace() && found.is_whitespace()) {
            chars.next();
            done += next.len_utf8();
        } else if !is_style(found) {
            return None;
        }
        at += found.len_utf8();
    }
    let next = chars.peek().copied();
    while let Some(found) = text.get(at..)?.chars().next()
        && Some(found) != next
        && is_style(found)
    {
        at += found.len_utf8();
    }
    Some(line_column(text, at))
}

/// Byte of a line and a column in characters, both from 1.
fn byte_of(text: &str, (line, column): (usize, usize)) -> Option<usize> {
    let start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let rest = text.get(start..)?;
    Some(start + rest.chars().take(column.checked_sub(1)?).map(char::len_utf8).sum::<usize>())
}

fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or("").chars().count() + 1)
}

/// TOML's values are JSON's, but for times, which become text.
fn node_of(text: &str, value: &DeValue<'_>, range: Range<usize>) -> Node {
    let below = |v: &TomlSpanned<DeValue<'_>>| node_of(text, v.get_ref(), v.span());
    let raw = match value {
        DeValue::String(s) => Raw::Scalar(Value::from(s.as_ref())),
        DeValue::Integer(n) => {
            let parsed = i64::from_str_radix(n.as_str(), n.radix());
            Raw::Scalar(parsed.map_or_else(|_| Value::from(n.as_str()), Value::from))
        }
        DeValue::Float(n) => {
            Raw::Scalar(n.as_str().parse::<f64>().map_or_else(|_| Value::from(n.as_str()), Value::from))
        }
        DeValue::Boolean(b) => Raw::Scalar(Value::Bool(*b)),
        DeValue::Datetime(at) => Raw::Scalar(Value::from(at.to_string())),
        DeValue::Array(items) => Raw::List(items.iter().map(below).collect()),
        DeValue::Table(table) => {
            let entry = |(key, value): (&TomlSpanned<std::borrow::Cow<'_, str>>, &TomlSpanned<DeValue<'_>>)| {
                let at = line_column(text, key.span().start);
                let name = key.get_ref().to_string();
                (Key { len: name.chars().count(), name, at }, below(value))
            };
            Raw::Map(table.iter().map(entry).collect())
        }
    };
    let len = text.get(range.clone()).map_or(1, |t| t.lines().next().unwrap_or("").chars().count().max(1));
    Node { raw, at: line_column(text, range.start), len }
}

/// Where a value, and the key it stands under, begin; from 1.
#[derive(Debug, Clone, Copy)]
struct Spot {
    value: (usize, usize),
    len: usize,
    key: Option<(usize, usize, usize)>,
}

/// A value with its place.
#[derive(Debug)]
struct Node {
    raw: Raw,
    at: (usize, usize),
    len: usize,
}

/// A key with its place.
#[derive(Debug)]
struct Key {
    name: String,
    at: (usize, usize),
    len: usize,
}

#[derive(Debug)]
enum Raw {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

fn spot<T>(spanned: &Spanned<T>) -> (usize, usize) {
    let at = &spanned.referenced;
    let n = |v: u64| usize::try_from(v).unwrap_or(0).max(1);
    (n(at.line()), n(at.column()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Raw>::deserialize(d)?;
        let len = usize::try_from(spanned.referenced.span().len()).unwrap_or(1);
        Ok(Self { at: spot(&spanned), len, raw: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> de::Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Raw, D::Error> {
        Raw::deserialize(d)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(v)))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::from(v)))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::from(v)))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::from(v)))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::from(v)))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            let (at, len) = (spot(&key), key.value.chars().count());
            entries.push((Key { name: key.value, at, len }, node));
        }
        Ok(Raw::Map(entries))
    }
}

/// Turns a node into JSON and notes where everything stood.
fn settle(node: Node, pointer: &str, key: Option<(usize, usize, usize)>, places: &mut HashMap<String, Spot>) -> Value {
    places.insert(pointer.to_owned(), Spot { value: node.at, len: node.len, key });
    match node.raw {
        Raw::Scalar(value) => value,
        Raw::List(list) => {
            let item = |(i, node)| settle(node, &format!("{pointer}/{i}"), None, places);
            Value::Array(list.into_iter().enumerate().map(item).collect())
        }
        Raw::Map(entries) => {
            let mut map = Map::new();
            for (key, node) in entries {
                let escaped = key.name.replace('~', "~0").replace('/', "~1");
                let at = (key.at.0, key.at.1, key.len);
                let value = settle(node, &format!("{pointer}/{escaped}"), Some(at), places);
                map.insert(key.name, value);
            }
            Value::Object(map)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn toml_and_yaml_are_the_same_document_each_with_its_places() {
        let yaml = "kind: Tenant\nspec:\n  quota:\n    cpu: 5\n  regions: [a, b]\n  at: 2027-01-01T00:00:00Z\n";
        let toml =
            "kind = \"Tenant\"\n[spec]\nregions = [\"a\", \"b\"]\nat = 2027-01-01T00:00:00Z\n[spec.quota]\ncpu = 5\n";
        let yaml = Located::of_yaml(yaml).unwrap().pop().unwrap();
        let toml = Located::of_toml(toml).unwrap();
        let expected = json!({
            "kind": "Tenant", "spec": { "quota": { "cpu": 5 }, "regions": ["a", "b"], "at": "2027-01-01T00:00:00Z" },
        });
        assert_eq!((&yaml.body, &toml.body), (&expected, &expected));
        let at = |located: &Located, pointer: &str, key| {
            let at = located.find(pointer, key);
            (at.line, at.column, at.exact)
        };
        for (pointer, key, in_yaml, in_toml) in [
            ("/spec/regions/1", false, (5, 16, true), (3, 17, true)),
            ("/spec/quota/cpu", true, (4, 5, true), (6, 1, true)),
            ("/spec/quota/cpu/x", false, (4, 5, false), (6, 1, false)),
            ("/other", false, (1, 1, false), (1, 1, false)),
        ] {
            assert_eq!(at(&yaml, pointer, key), in_yaml, "{pointer}");
            assert_eq!(at(&toml, pointer, key), in_toml, "{pointer}");
        }
        let error = Located::of_toml("a = 1\nb = = 2\n").unwrap_err();
        assert_eq!(error.line, 2, "{error:?}");
    }
}
