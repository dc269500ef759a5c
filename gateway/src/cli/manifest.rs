//! Manifests: files with YAML or JSON documents, and the place of each field in them.
//!
//! A document is sent to the gateway as it is; what this module adds is where each JSON pointer stands in the
//! source, so that a refused field can be shown with file, line and column.

use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    failure::{Exit, Failure, Fault, Place},
    output::text,
};
use crate::located::{At, Located, Syntax};

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
    /// Name of what it describes.
    pub name: String,
    source: std::rc::Rc<Source>,
    places: Located,
}

#[derive(Debug)]
struct Source {
    file: String,
    text: String,
}

impl Source {
    fn line(&self, number: usize) -> String {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or_default().to_owned()
    }
}

impl Document {
    /// Where a fault stands: at the key of a field that should not be there, in the value if it says where, else at the
    /// value; at the nearest parent of a field that is missing.
    #[must_use]
    pub(super) fn place(&self, fault: &Fault) -> Place {
        let number = |n: Option<u32>| n.and_then(|n| usize::try_from(n).ok());
        let value = self.body.pointer(&fault.pointer).and_then(Value::as_str);
        let At { line, column, len, exact } = match (value, number(fault.line), number(fault.column)) {
            (Some(value), Some(line), Some(column)) => {
                self.places.inside(&self.source.text, value, (&fault.pointer, (line, column)))
            }
            _ => self.places.find(&fault.pointer, fault.code == "unknown-field"),
        };
        let source = self.source.line(line);
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
        let source = std::rc::Rc::new(Source { file: String::new(), text: String::new() });
        Self { body, name: name.to_owned(), source, places: Located::nowhere(Value::Null) }
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

/// A file's name for people, and its text.
///
/// # Errors
/// It cannot be read, or is too large.
pub(super) fn read(path: &Path) -> Result<(String, String), Failure> {
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
    let source = std::rc::Rc::new(Source { file: file.to_owned(), text: text.to_owned() });
    let documents = Located::of_yaml(text).map_err(|Syntax { line, column, what }| {
        let mut failure = Failure::new(Exit::Error, format!("{file} is not valid YAML")).next("mend the place shown");
        let shown = source.line(line);
        let what = super::output::one_line(&what);
        failure.places.push(Place { file: file.to_owned(), line, column, source: shown, len: 1, what });
        failure
    })?;
    documents.into_iter().map(|located| document(located, &source)).collect()
}

fn document(mut located: Located, source: &std::rc::Rc<Source>) -> Result<Document, Failure> {
    let (at, body) = (located.at, std::mem::take(&mut located.body));
    let name = [text(&body, "/metadata/name"), text(&body, "/name")].into_iter().find(|n| !n.is_empty());
    if let Some(name) = name {
        return Ok(Document { name: name.to_owned(), body, source: std::rc::Rc::clone(source), places: located });
    }
    let mut failure = Failure::new(Exit::Error, "a document has no name").next("add metadata.name");
    failure.places.push(Place {
        file: source.file.clone(),
        line: at.0,
        column: at.1,
        source: source.line(at.0),
        len: 1,
        what: "it needs metadata.name".to_owned(),
    });
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "# a comment\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: main\n    image: nginx\n    resources:\n      limits: {cpu: 2, memory: 4Gx}\n    surprise: 1\n---\nname: two\nspec: {containers: [{name: a, image: b}]}\n";

    fn fault(pointer: &str, code: &str) -> Fault {
        Fault { pointer: pointer.to_owned(), code: code.to_owned(), detail: "no".to_owned(), ..Fault::default() }
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
