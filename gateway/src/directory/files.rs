//! A folder of files that declare tenants and policies: read whole, checked whole, and either all of it holds or nothing.
//!
//! [`read`] is the only part that touches the disk; `parse` is pure. What is wrong is said of every file at once, each
//! fault with file, line and column.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use meridian_model::error::FieldError;
use sha2::{Digest as _, Sha256};

use super::{
    Source,
    declared::Files,
    document::{self, Declaration},
};
use crate::{
    config::{Known, Mistake, Mistakes},
    located::{Located, Syntax},
};

/// Most files of a folder: one for each tenant of a large platform, and its policies.
const FILES_MAX: usize = 2000;
/// Most bytes of all of them together.
const LEN_MAX: u64 = 16 * 1024 * 1024;
/// What the names of files that are read end with.
const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "toml"];

/// Everything that is wrong with a folder, by file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Broken(pub Vec<Mistakes>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistakes) in self.0.iter().enumerate() {
            write!(f, "{}{mistakes}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl Broken {
    /// How many faults there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|m| m.list.len()).sum()
    }

    pub(super) fn of(file: &str, line: usize, column: usize, what: String, mend: &str) -> Self {
        Self(vec![Mistakes { file: file.to_owned(), list: vec![mistake(line, column, "", what, mend)] }])
    }
}

fn mistake(line: usize, column: usize, path: &str, what: String, mend: &str) -> Mistake {
    Mistake { line, column, path: path.to_owned(), what, mend: mend.to_owned() }
}

/// What tells without reading that a folder is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look(Vec<(PathBuf, u64, Option<SystemTime>)>);

/// The texts of a folder, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// How the folder looked before it was read.
    pub look: Look,
    files: Vec<(String, String)>,
}

impl Texts {
    /// Tells texts from others.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (name, text) in &self.files {
            for part in [name, text] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part.as_bytes());
            }
        }
        hash.finalize().into()
    }
}

fn unreadable(path: &Path, why: impl fmt::Display) -> Broken {
    let what = format!("cannot be read: {why}");
    Broken::of(&path.display().to_string(), 1, 1, what, "check the path and its permissions")
}

/// Looks at a folder without reading its files. Blocks.
///
/// # Errors
/// It cannot be read, or has more than is read.
pub fn look(folder: &Path) -> Result<Look, Broken> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))?;
    for entry in entries {
        let path = entry.map_err(|e| unreadable(folder, e))?.path();
        let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.contains(&e));
        let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
        if !known || hidden {
            continue;
        }
        let meta = std::fs::metadata(&path).map_err(|e| unreadable(&path, e))?;
        if meta.is_file() {
            found.push((path, meta.len(), meta.modified().ok()));
        }
        if found.len() > FILES_MAX {
            return Err(unreadable(folder, format!("it has more than {FILES_MAX} files")));
        }
    }
    if found.iter().map(|(_, len, _)| len).sum::<u64>() > LEN_MAX {
        return Err(unreadable(folder, format!("its files are larger than {LEN_MAX} bytes together")));
    }
    found.sort();
    Ok(Look(found))
}

/// Reads a folder. Blocks. `None` when it changed meanwhile: what was read may be half of a change.
///
/// # Errors
/// It, or a file of it, cannot be read.
pub fn read(folder: &Path) -> Result<Option<Texts>, Broken> {
    read_as(folder, look(folder)?)
}

/// What a folder that does not come to rest is.
pub(super) fn restless(folder: &Path) -> Broken {
    let what = "was changed while it was read".to_owned();
    Broken::of(&folder.display().to_string(), 1, 1, what, "try again when its files are written")
}

/// Reads a folder as it looked.
fn read_as(folder: &Path, seen: Look) -> Result<Option<Texts>, Broken> {
    let text = |(path, ..): &(PathBuf, u64, Option<SystemTime>)| {
        let text = read_bounded(path).map_err(|e| unreadable(path, e))?;
        Ok((path.display().to_string(), text))
    };
    let files = seen.0.iter().map(text).collect::<Result<_, Broken>>();
    // A file that is gone is a change as well.
    if look(folder)? != seen {
        return Ok(None);
    }
    Ok(Some(Texts { files: files?, look: seen }))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    // A file may grow between the look and the reading.
    std::fs::File::open(path)?.take(LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the documents of texts.
///
/// # Errors
/// Every fault of every file.
pub(crate) fn parse(texts: &Texts, known: &Known) -> Result<Files, Broken> {
    let (mut declared, mut broken) = (Files::default(), Vec::new());
    for (file, text) in &texts.files {
        let mut list = Vec::new();
        match documents(file, text) {
            Ok(documents) => {
                for located in documents {
                    let at = located.find("/metadata/name", false);
                    let source = Source::File { file: file.clone(), line: at.line, column: at.column };
                    match document::any(&located.body, known) {
                        Ok(Declaration::Tenant(tenant)) => declared.tenants.push((*tenant, source)),
                        Ok(Declaration::Policy(policy)) => declared.policies.push((Arc::new(policy), source)),
                        Err(faults) => list.extend(faults.into_iter().map(|fault| placed(text, &located, fault))),
                    }
                }
            }
            Err(Syntax { line, column, what }) => {
                list.push(mistake(line, column, "", what, "mend the syntax at that place"));
            }
        }
        if !list.is_empty() {
            list.sort_by_key(|m| (m.line, m.column));
            broken.push(Mistakes { file: file.clone(), list });
        }
    }
    if broken.is_empty() { Ok(declared) } else { Err(Broken(broken)) }
}

fn documents(file: &str, text: &str) -> Result<Vec<Located>, Syntax> {
    if file.ends_with(".toml") { Located::of_toml(text).map(|one| vec![one]) } else { Located::of_yaml(text) }
}

fn placed(text: &str, located: &Located, fault: FieldError) -> Mistake {
    let value = located.body.pointer(&fault.pointer).and_then(serde_json::Value::as_str);
    let at = match (value, inner(&fault)) {
        (Some(value), Some(place)) => located.inside(text, value, (&fault.pointer, place)),
        _ => located.find(&fault.pointer, fault.code == "unknown-field"),
    };
    let mend = fault.hint.unwrap_or_else(|| "give a value of the form stated".to_owned());
    // The parser's own place is that in the JSON which the text was made into.
    let detail = fault.detail.rfind(" at line ").and_then(|end| fault.detail.get(..end));
    let detail = detail.unwrap_or(&fault.detail).to_owned();
    mistake(at.line, at.column, fault.pointer.trim_start_matches('/'), detail, &mend)
}

/// The place in the value, if the fault has one.
fn inner(fault: &FieldError) -> Option<(usize, usize)> {
    Some((usize::try_from(fault.line?).ok()?, usize::try_from(fault.column?).ok()?))
}

#[cfg(test)]
mod tests;
