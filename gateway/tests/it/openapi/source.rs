//! Reads the Rust source of the model and the views into JSON Schema.
//!
//! The description must come from the types and nothing else. A derive would put a second macro on each of some
//! hundred types and a schema library into every build; the types are written in one plain manner, so reading them
//! here is less. What this reader does not know makes it panic, which fails the test: it never guesses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

const SOURCES: [&str; 8] = [
    include_str!("../../../model/src/ids.rs"),
    include_str!("../../../model/src/instance.rs"),
    include_str!("../../../model/src/operation.rs"),
    include_str!("../../../model/src/status.rs"),
    include_str!("../../../model/src/error.rs"),
    include_str!("../../../model/src/capability.rs"),
    include_str!("../../../model/src/quantity.rs"),
    include_str!("../../../src/views.rs"),
];

/// Types whose wire form is not that of their declaration.
fn special(name: &str) -> Option<Value> {
    let text = |description: &str, example: &str| json!({ "type": "string", "description": description, "examples": [example] });
    Some(match name {
        "String" | "&'static str" => json!({ "type": "string" }),
        "bool" => json!({ "type": "boolean" }),
        "u16" | "u32" | "u64" | "usize" => json!({ "type": "integer", "minimum": 0 }),
        "i32" | "i64" => json!({ "type": "integer" }),
        "f64" => json!({ "type": "number" }),
        "Time" => {
            json!({ "type": "string", "format": "date-time", "description": "RFC 3339 in UTC with milliseconds." })
        }
        "AuditRecord" => json!({
            "type": "object",
            "description": "A record; later versions add kinds and members.",
            "properties": {
                "kind": { "type": "string", "examples": ["request", "effect", "tally"] },
                "time": { "type": "string", "format": "date-time" },
            },
            "required": ["kind", "time"],
        }),
        "SignedHead" => json!({
            "type": "object",
            "description": "The log up to a record, signed.",
            "properties": {
                "chain": { "type": "string" }, "seq": { "type": "integer" }, "prevHash": { "type": "string" },
                "time": { "type": "string" }, "publicKey": { "type": "string" }, "signature": { "type": "string" },
            },
            "required": ["chain", "seq", "prevHash", "time", "publicKey", "signature"],
        }),
        "Value" => json!({ "type": "object" }),
        "ShownOnce" => json!({ "type": "string", "description": "Not shown again." }),
        "Labels" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        "MilliCpu" => text("Processor time as a Kubernetes quantity.", "500m"),
        "MemoryMib" => text("Memory or disk as a Kubernetes quantity.", "2Gi"),
        "PricePerHour" => text("A decimal.", "0.0532"),
        "Span" => text("A duration.", "30s"),
        "Support" => text("`native`, or `implied: ` and why.", "native"),
        "PortRef" => json!({ "oneOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string" }] }),
        "GpuCount" => {
            json!({ "oneOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+$" }] })
        }
        _ => return None,
    })
}

/// A declaration: its lines without the braces, and what stands above it.
#[derive(Debug)]
struct Item {
    kind: Kind,
    doc: String,
    rename_all: Option<String>,
    reads: bool,
    body: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Struct,
    Enum,
    Words,
    Id(&'static str),
}

/// The types by name.
#[derive(Debug)]
pub(crate) struct Source(BTreeMap<String, Item>);

/// A quoted attribute value, for example `camelCase` of `rename_all = "camelCase"`.
fn attribute(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{name} = \""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

impl Source {
    pub(crate) fn read() -> Self {
        let mut items = BTreeMap::new();
        for source in SOURCES {
            read_file(source.split("#[cfg(test)]").next().unwrap(), &mut items);
        }
        Self(items)
    }

    /// The schema of a Rust type as it stands in a field; types it refers to are added to `wanted`.
    pub(crate) fn of(&self, ty: &str, wanted: &mut BTreeSet<String>) -> Value {
        let ty = ty.trim();
        if let Some(schema) = special(ty) {
            return schema;
        }
        if let Some((outer, inner)) = ty.strip_suffix('>').and_then(|t| t.split_once('<')) {
            return match outer {
                "Option" => json!({ "anyOf": [self.of(inner, wanted), { "type": "null" }] }),
                "Box" | "Arc" => self.of(inner, wanted),
                "Vec" => json!({ "type": "array", "items": self.of(inner, wanted) }),
                "BTreeMap" => {
                    let (_, value) = inner.split_once(", ").unwrap();
                    json!({ "type": "object", "additionalProperties": self.of(value, wanted) })
                }
                _ => panic!("no schema for {ty}"),
            };
        }
        let name = ty.rsplit("::").next().unwrap();
        if name != ty {
            return self.of(name, wanted);
        }
        assert!(self.0.contains_key(name), "no declaration of {name}");
        wanted.insert(name.to_owned());
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// The schemas of these types and of all they refer to.
    pub(crate) fn schemas(&self, roots: &[&str], given: &Map<String, Value>) -> Map<String, Value> {
        let mut wanted: BTreeSet<String> = roots.iter().map(|r| (*r).to_owned()).collect();
        let mut schemas = given.clone();
        while let Some(name) = wanted.pop_first() {
            if !schemas.contains_key(&name) {
                let schema = self.schema(&name, &mut wanted);
                schemas.insert(name, schema);
            }
        }
        schemas
    }

    fn schema(&self, name: &str, wanted: &mut BTreeSet<String>) -> Value {
        let item = self.0.get(name).unwrap_or_else(|| panic!("no declaration of {name}"));
        let doc = item.doc.trim();
        match item.kind {
            Kind::Struct => self.structure(item, wanted),
            Kind::Words => json!({ "type": "string", "description": doc, "enum": words(&item.body) }),
            Kind::Enum => json!({ "type": "string", "description": doc, "enum": variants(item) }),
            Kind::Id(pattern) => json!({ "type": "string", "description": doc, "pattern": pattern }),
        }
    }

    fn structure(&self, item: &Item, wanted: &mut BTreeSet<String>) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        let (mut doc, mut serde) = (String::new(), String::new());
        for line in item.body.iter().map(|l| l.trim()) {
            if let Some(text) = line.strip_prefix("///") {
                doc += text;
            } else if line.starts_with("#[serde(") {
                assert!(line.ends_with(")]"), "an attribute over several lines: {line}");
                serde += line;
            } else if let Some((name, ty)) = line.strip_prefix("pub ").and_then(|l| l.split_once(": ")) {
                let (doc, serde) = (std::mem::take(&mut doc), std::mem::take(&mut serde));
                if serde.contains("skip)") {
                    continue;
                }
                let wire = attribute(&serde, "rename").unwrap_or_else(|| rename(name, item.rename_all.as_deref()));
                let ty = ty.trim_end_matches(',');
                let left_out = serde.contains("skip_serializing_if");
                let optional = if item.reads { serde.contains("default") } else { left_out };
                if !optional {
                    required.push(wire.clone());
                }
                let inner = ty.strip_prefix("Option<").and_then(|t| t.strip_suffix('>')).filter(|_| left_out);
                let schema = described(self.of(inner.unwrap_or(ty), wanted), doc.trim());
                properties.insert(wire, schema);
            } else {
                assert!(line.is_empty() || !line.starts_with("pub"), "not understood: {line}");
            }
        }
        json!({ "type": "object", "description": item.doc.trim(), "properties": properties, "required": required })
    }
}

/// The schema with a description of its own; OpenAPI 3.1 allows one beside a reference.
fn described(mut schema: Value, doc: &str) -> Value {
    schema.as_object_mut().unwrap().insert("description".to_owned(), Value::String(doc.to_owned()));
    schema
}

fn rename(name: &str, rule: Option<&str>) -> String {
    match rule {
        None => name.to_owned(),
        Some("camelCase") => {
            let mut parts = name.split('_');
            let first = parts.next().unwrap().to_owned();
            parts.fold(first, |done, part| done + &part[..1].to_uppercase() + &part[1..])
        }
        Some(rule) => panic!("rename_all = {rule} on a struct"),
    }
}

/// The words of a `word_enum!`: `Variant = "word",`.
fn words(body: &[String]) -> Vec<String> {
    let word = |l: &String| l.split_once(" = \"").and_then(|(_, r)| r.split_once('"')).map(|(w, _)| w.to_owned());
    body.iter().filter(|l| !l.trim_start().starts_with("//")).filter_map(word).collect()
}

/// The unit variants of an enum.
fn variants(item: &Item) -> Vec<String> {
    let lines =
        item.body.iter().map(|l| l.trim()).filter(|l| !l.starts_with("///") && !l.starts_with('#') && !l.is_empty());
    let name = |line: &str| {
        let name = line.trim_end_matches(',');
        assert!(name.chars().all(char::is_alphanumeric), "not a unit variant: {line}");
        match item.rename_all.as_deref() {
            Some("lowercase") => name.to_lowercase(),
            Some("kebab-case") => {
                let dashed =
                    name.chars().map(|c| if c.is_uppercase() { format!("-{}", c.to_lowercase()) } else { c.into() });
                dashed.collect::<String>().trim_start_matches('-').to_owned()
            }
            other => panic!("rename_all = {other:?} on an enum"),
        }
    };
    lines.map(name).collect()
}

/// What stands above a declaration.
#[derive(Default)]
struct Above {
    doc: String,
    attributes: String,
}

fn read_file(source: &str, items: &mut BTreeMap<String, Item>) {
    let (mut above, mut lines) = (Above::default(), source.lines());
    while let Some(line) = lines.next() {
        let text = line.trim();
        if let Some(doc) = text.strip_prefix("///") {
            above.doc += doc;
        } else if text.starts_with("#[") {
            above.attributes += text;
        } else if text == "word_enum!(" || text == "id!(" {
            above = Above::default();
        } else if let Some(rest) = text.strip_prefix("pub struct ").or_else(|| text.strip_prefix("pub enum ")) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let kind = if text.starts_with("pub struct") { Kind::Struct } else { Kind::Enum };
            if line.starts_with("pub") && rest.ends_with('{') {
                let body = lines.by_ref().take_while(|l| *l != "}").map(str::to_owned).collect();
                add(items, name, kind, std::mem::take(&mut above), body);
            }
            above = Above::default();
        } else if line.starts_with("    ") && text.ends_with(" {") && text.split(' ').count() == 2 {
            // Inside `word_enum!(`: the name of the enum.
            let name = text.trim_end_matches(" {").to_owned();
            if name.chars().all(char::is_alphanumeric) && above.doc.len() > 1 {
                let body = lines.by_ref().take_while(|l| *l != "    }").map(str::to_owned).collect();
                add(items, name, Kind::Words, std::mem::take(&mut above), body);
            }
            above = Above::default();
        } else if let Some((name, rule)) =
            text.split_once(", \"").filter(|_| text.ends_with("DNS_LABEL") || text.ends_with(", TOKEN"))
        {
            let dns = rule.contains("DNS_LABEL");
            let pattern = if dns { "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" } else { "^[-A-Za-z0-9._/:*+]{1,128}$" };
            add(items, name.to_owned(), Kind::Id(pattern), std::mem::take(&mut above), Vec::new());
        } else if !text.is_empty() {
            above = Above::default();
        }
    }
}

fn add(items: &mut BTreeMap<String, Item>, name: String, kind: Kind, above: Above, body: Vec<String>) {
    let Above { doc, attributes } = above;
    let serialised = attributes.contains("Serialize") || matches!(kind, Kind::Words | Kind::Id(_));
    if !serialised {
        return;
    }
    let item = Item {
        kind,
        doc,
        rename_all: attribute(&attributes, "rename_all"),
        reads: attributes.contains("Deserialize"),
        body,
    };
    assert!(items.insert(name.clone(), item).is_none(), "two types are called {name}");
}
