//! Manifests: files with YAML or JSON documents, and the place of each field in them.
//!
//! A document is sent to the gateway as it is; what this module adds is where each JSON pointer stands in the
//! source, so that a refused field can be shown with file, line and column. JSON is read by the YAML parser, of
//! which it is a part.

use std::{
    collections::HashMap,
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::{
    failure::{Exit, Failure, Fault, Place},
    output::text,
};

/// Larger files are not manifests: the gateway takes 1 MiB for one document.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Most documents of one call.
const DOCUMENTS_MAX: usize = 1000;
/// Most files of one directory.
const FILES_MAX: usize = 1000;

/// A document of a manifest file.
#[derive(Debug, Clone)]
pub(super) struct Document {
    /// The document as JSON.
    pub body: Value,
    /// Name of the instance.
    pub name: String,
    source: std::rc::Rc<Source>,
    places: HashMap<String, Spot>,
}

#[derive(Debug)]
struct Source {
    file: String,
    lines: Vec<String>,
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

#[derive(Debug)]
enum Raw {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
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
        while let Some(entry) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(entry);
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
                let escaped = key.value.replace('~', "~0").replace('/', "~1");
                let (line, column) = spot(&key);
                let at = (line, column, key.value.chars().count());
                let value = settle(node, &format!("{pointer}/{escaped}"), Some(at), places);
                map.insert(key.value, value);
            }
            Value::Object(map)
        }
    }
}

impl Document {
    /// Where a fault stands: at the key of a field that should not be there, else at the value; at the nearest
    /// parent of a field that is missing.
    #[must_use]
    pub(super) fn place(&self, fault: &Fault) -> Place {
        let mut pointer = fault.pointer.as_str();
        let found = loop {
            if let Some(spot) = self.places.get(pointer) {
                break Some(*spot);
            }
            match pointer.rfind('/') {
                Some(end) => pointer = pointer.get(..end).unwrap_or(""),
                None => break None,
            }
        };
        let exact = pointer == fault.pointer;
        let (line, column, len) = match found {
            None => (1, 1, 1),
            Some(Spot { key: Some((line, column, len)), .. }) if fault.code == "unknown-field" || !exact => {
                (line, column, len)
            }
            Some(spot) => (spot.value.0, spot.value.1, spot.len),
        };
        let source = self.source.lines.get(line.saturating_sub(1)).cloned().unwrap_or_default();
        let what = if exact { fault.line() } else { format!("{}: {}", fault.pointer, fault.line()) };
        Place { file: self.source.file.clone(), line, column, source, len, what }
    }

    /// Name of the file, for messages.
    #[must_use]
    pub(super) fn file(&self) -> &str {
        &self.source.file
    }

    /// A document that is in no file: the answer of `create`'s flags.
    #[must_use]
    pub(super) fn of_flags(name: &str, body: Value) -> Self {
        let source = std::rc::Rc::new(Source { file: String::new(), lines: Vec::new() });
        Self { body, name: name.to_owned(), source, places: HashMap::new() }
    }

    /// The document was made from flags.
    #[must_use]
    pub(super) fn is_of_flags(&self) -> bool {
        self.source.file.is_empty()
    }
}

/// Reads all documents of files, directories and stdin (`-`).
///
/// # Errors
/// A file that cannot be read, is not YAML, or has a document without a name.
pub(super) fn load(files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for file in files {
        for path in expand(file)? {
            let (name, text) = read(&path)?;
            documents.extend(parse(&name, &text)?);
            if documents.len() > DOCUMENTS_MAX {
                return Err(Failure::new(
                    Exit::Error,
                    format!("more than {DOCUMENTS_MAX} documents; apply them in parts"),
                ));
            }
        }
    }
    if documents.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no document to apply"));
    }
    Ok(documents)
}

fn unreadable(path: &Path, why: impl fmt::Display) -> Failure {
    Failure::new(Exit::Error, format!("{} cannot be read: {why}", path.display())).next("check the path given with -f")
}

fn expand(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if path.as_os_str() == "-" || !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| unreadable(path, e))? {
        let file = entry.map_err(|e| unreadable(path, e))?.path();
        let known = file.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
        if known && file.is_file() {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(unreadable(path, format!("it has more than {FILES_MAX} manifests")));
        }
    }
    // Directory order is the file system's; people expect the names'.
    files.sort();
    if files.is_empty() {
        return Err(unreadable(path, "it has no *.yaml, *.yml or *.json"));
    }
    Ok(files)
}

fn read(path: &Path) -> Result<(String, String), Failure> {
    let mut text = String::new();
    let (name, result) = if path.as_os_str() == "-" {
        ("stdin".to_owned(), std::io::stdin().lock().take(FILE_LEN_MAX + 1).read_to_string(&mut text))
    } else {
        let file = std::fs::File::open(path).map_err(|e| unreadable(path, e))?;
        (path.display().to_string(), file.take(FILE_LEN_MAX + 1).read_to_string(&mut text))
    };
    let len = result.map_err(|e| unreadable(path, e))?;
    if u64::try_from(len).unwrap_or(u64::MAX) > FILE_LEN_MAX {
        return Err(unreadable(path, format!("it is larger than {FILE_LEN_MAX} bytes")));
    }
    Ok((name, text))
}

/// Reads the documents of one text.
///
/// # Errors
/// It is not YAML, or a document has no name.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let source = std::rc::Rc::new(Source { file: file.to_owned(), lines: text.lines().map(str::to_owned).collect() });
    // The message alone: the snippet is drawn here, in one form for all faults.
    let options = serde_saphyr::options! { with_snippet: false };
    let nodes: Vec<Option<Node>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| {
        let (line, column) = e.location().map_or((1, 1), |l| {
            let n = |v: u64| usize::try_from(v).unwrap_or(1).max(1);
            (n(l.line()), n(l.column()))
        });
        let mut failure = Failure::new(Exit::Error, format!("{file} is not valid YAML")).next("mend the place shown");
        let shown = source.lines.get(line.saturating_sub(1)).cloned().unwrap_or_default();
        let what = super::output::one_line(&e.without_snippet().to_string());
        failure.places.push(Place { file: file.to_owned(), line, column, source: shown, len: 1, what });
        failure
    })?;
    nodes.into_iter().flatten().map(|node| document(node, &source)).collect()
}

fn document(node: Node, source: &std::rc::Rc<Source>) -> Result<Document, Failure> {
    let at = node.at;
    let mut places = HashMap::new();
    let body = settle(node, "", None, &mut places);
    let name = [text(&body, "/metadata/name"), text(&body, "/name")].into_iter().find(|n| !n.is_empty());
    if let Some(name) = name {
        return Ok(Document { name: name.to_owned(), body, source: std::rc::Rc::clone(source), places });
    }
    let mut failure = Failure::new(Exit::Error, "a document has no name").next("add metadata.name");
    failure.places.push(Place {
        file: source.file.clone(),
        line: at.0,
        column: at.1,
        source: source.lines.get(at.0.saturating_sub(1)).cloned().unwrap_or_default(),
        len: 1,
        what: "an instance needs metadata.name".to_owned(),
    });
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "# a comment\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: main\n    image: nginx\n    resources:\n      limits: {cpu: 2, memory: 4Gx}\n    surprise: 1\n---\nname: two\nspec: {containers: [{name: a, image: b}]}\n";

    fn fault(pointer: &str, code: &str) -> Fault {
        Fault { pointer: pointer.to_owned(), code: code.to_owned(), detail: "no".to_owned(), hint: None }
    }

    #[test]
    fn every_pointer_has_its_place() {
        let documents = parse("pod.yaml", POD).unwrap();
        assert_eq!(documents.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["web", "two"]);
        let at = |document: &Document, pointer, code| {
            let place = document.place(&fault(pointer, code));
            (place.line, place.column, place.len)
        };
        let web = &documents[0];
        assert_eq!(at(web, "/spec/containers/0/image", "invalid"), (9, 12, 5));
        assert_eq!(at(web, "/spec/containers/0/resources/limits/memory", "invalid"), (11, 32, 3));
        assert_eq!(at(web, "/spec/containers/0/surprise", "unknown-field"), (12, 5, 8), "the key, not the value");
        let missing = web.place(&fault("/spec/volumes/0", "required"));
        assert_eq!((missing.line, missing.what.as_str()), (6, "/spec/volumes/0: no"));
        assert_eq!(at(&documents[1], "/spec/containers/0/image", "invalid").0, 15);
    }

    #[test]
    fn documents_keep_their_types() {
        let body = &parse("pod.yaml", POD).unwrap()[0].body;
        assert_eq!(body["spec"]["containers"][0]["resources"]["limits"]["cpu"], 2);
        assert_eq!(body["spec"]["containers"][0]["image"], "nginx");
        let json = r#"{"name": "j", "spec": {"a": [true, null, 1.5, -3, "2"], "b/c": {}}}"#;
        let document = &parse("j.json", json).unwrap()[0];
        assert_eq!(document.body, serde_json::from_str::<Value>(json).unwrap());
        assert_eq!(document.place(&fault("/spec/b~1c", "invalid")).line, 1);
    }

    #[test]
    fn faults_of_syntax_have_a_place() {
        let failure = parse("x.yaml", "name: a\nspec: {a: [}\n").unwrap_err();
        assert_eq!((failure.exit, failure.places[0].line), (Exit::Error, 2), "{failure:?}");
        assert_eq!(parse("x.yaml", "spec: {}\n").unwrap_err().places[0].line, 1);
        assert!(parse("x.yaml", "a: 1\na: 2\n").is_err(), "a key given twice");
    }
}
