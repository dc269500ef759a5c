//! The gateway's configuration: one TOML file, typed, every mistake reported at once with its place and its cure.
//!
//! [`Config::load`] reads the file, resolves secrets (`env:NAME`, `file:PATH` or the text itself; a backend's credentials may
//! come from a command too) and checks references between sections. Unknown keys are mistakes. Each default and its reason
//! stand beside the field.
//! This module and `main` are the only readers of the environment. Secrets serialise as `[redacted]`, so that
//! [`Config::redacted`] can be shown on the admin port.

mod audit;
mod check;
mod credentials;
mod directory;
mod identity;
mod keys;
mod ledger;
mod limits;
mod profiles;
pub mod quota;
mod reader;
mod reconcile;
mod sections;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use self::reader::{Report, Section};
pub use self::{
    audit::*, directory::*, identity::*, keys::*, ledger::*, limits::*, profiles::*, reconcile::*, sections::*,
};
pub(crate) use self::{check::Known, reader::nearest};
use crate::secrets::source::read_file;

/// Larger files are not configuration; the largest sensible one (64 backends, 200 tenants) stays below 200 KiB.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// One mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Dotted path of the setting; empty for a fault of syntax.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

/// Why a configuration cannot be used: every mistake that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    /// The file's name.
    pub file: String,
    /// The mistakes, by line.
    pub list: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, m) in self.list.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            let colon = if m.path.is_empty() { "" } else { ": " };
            write!(
                f,
                "{newline}{}:{}:{}: {}{colon}{}\n    fix: {}",
                self.file, m.line, m.column, m.path, m.what, m.mend
            )?;
        }
        Ok(())
    }
}

/// A fault in a backend's `settings`, told by its adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsMistake {
    /// Dotted path below the backend, for example `settings.endpoint` or `adapter`.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

/// Checks what only an adapter can check of a backend: that it exists and that its settings are right.
pub type CheckBackend<'a> = &'a dyn Fn(&Backend) -> Vec<SettingsMistake>;

/// Checks whether a folder can be written, and says why not.
pub type CheckFolder<'a> = &'a dyn Fn(&Path) -> Result<(), String>;

/// Where indirect values come from.
pub struct Sources<'a> {
    /// Directory that relative paths in the file start at.
    pub base: &'a Path,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'_> {
    /// Follows a reference; on failure says what is wrong and how to mend it.
    fn resolve(&self, text: &str) -> Result<String, (String, String)> {
        if let Some(name) = text.strip_prefix("env:") {
            return (self.env)(name).ok_or_else(|| {
                (format!("environment variable {name} is not set"), format!("export {name}, or use file:PATH"))
            });
        }
        let Some(path) = text.strip_prefix("file:") else { return Ok(text.to_owned()) };
        let content = read_file(&self.base.join(path));
        let content = content.map_err(|why| (why, "check the path and its permissions".to_owned()))?;
        Ok(content.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads, parses and checks a file. Relative paths in it are resolved against its directory.
    ///
    /// # Errors
    /// [`Mistakes`]: everything that is wrong with it; a file that cannot be read is one mistake.
    pub fn load(path: &Path, check: CheckBackend<'_>) -> Result<Self, Mistakes> {
        Self::load_checked(path, check, &|_| Ok(()))
    }

    /// The same, with a look at the folders that a gateway will write to. A gateway itself finds out when it opens them.
    ///
    /// # Errors
    /// [`Mistakes`].
    pub fn load_checked(path: &Path, check: CheckBackend<'_>, folder: CheckFolder<'_>) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let unreadable = |what: String| Mistakes {
            file: name.clone(),
            list: vec![Mistake {
                line: 1,
                column: 1,
                path: String::new(),
                what,
                mend: "give the path of a readable TOML file with --config".to_owned(),
            }],
        };
        let len = std::fs::metadata(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?.len();
        if len > FILE_LEN_MAX {
            return Err(unreadable(format!("is larger than {FILE_LEN_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let env = |name: &str| std::env::var(name).ok();
        Self::parse_checked((&text, &name), &Sources { base: &base, env: &env }, check, folder)
    }

    /// Parses and checks a text; `name` is what mistakes call it.
    ///
    /// # Errors
    /// [`Mistakes`].
    pub fn parse(text: &str, name: &str, check: CheckBackend<'_>) -> Result<Self, Mistakes> {
        let env = |name: &str| std::env::var(name).ok();
        Self::parse_with(text, name, &Sources { base: &PathBuf::new(), env: &env }, check)
    }

    /// The same with the caller's own environment and base directory.
    ///
    /// # Errors
    /// [`Mistakes`].
    pub fn parse_with(
        text: &str,
        name: &str,
        sources: &Sources<'_>,
        check: CheckBackend<'_>,
    ) -> Result<Self, Mistakes> {
        Self::parse_checked((text, name), sources, check, &|_| Ok(()))
    }

    fn parse_checked(
        (text, name): (&str, &str),
        sources: &Sources<'_>,
        check: CheckBackend<'_>,
        folder: CheckFolder<'_>,
    ) -> Result<Self, Mistakes> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let report = Report::new(text, &root, sources);
        if !errors.is_empty() {
            // A half-parsed document would be accused of things its author did write.
            for error in &errors {
                report.syntax(error);
            }
            return Err(Mistakes { file: name.to_owned(), list: report.into_mistakes() });
        }
        let config = Self::read(Section::root(&report, root.into_inner()));
        if let Some(config) = &config {
            check::references(config, &report);
            check::backends(config, &report, check);
            check::folders(config, &report, folder);
        }
        match (config, report.into_mistakes()) {
            (Some(config), list) if list.is_empty() => Ok(config),
            (_, list) => Err(Mistakes { file: name.to_owned(), list }),
        }
    }

    /// The effective configuration as JSON, defaults filled in, every secret replaced.
    #[must_use]
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}
