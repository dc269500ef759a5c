//! The settings of a backend, of which some stand elsewhere.
//!
//! A setting may be the text of a file. `credentials` are several settings at once, as a JSON object of texts in a file or
//! from a command: what belongs together, an id and its key, comes together and changes together.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::ExposeSecret as _;

use super::source::Source;

/// What a file of one setting is mended by.
const FILE_MEND: &str = "check the path and its permissions";
/// What credentials are mended by.
const CREDENTIALS_MEND: &str =
    "let the file or command give {\"SETTING\": \"TEXT\", ...} to the gateway's user, each setting once";

/// A setting that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct Unread {
    /// Its path below the backend, for example `settings.secretKey`.
    pub setting: String,
    /// Why, without a word of what was read.
    pub why: String,
    /// How to mend it.
    pub mend: &'static str,
}

/// A backend's settings as they are written, and where the others stand.
#[derive(Clone, Default)]
pub struct Settings {
    written: toml::Table,
    files: BTreeMap<String, PathBuf>,
    credentials: Option<Source>,
}

/// Settings as they were read together.
#[derive(Clone, Default, PartialEq)]
pub struct Read {
    /// All of them.
    pub settings: toml::Table,
    /// Those from `credentials`.
    credentials: BTreeMap<String, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, credentials, .. } = self;
        f.debug_struct("Settings").field("files", files).field("credentials", credentials).finish_non_exhaustive()
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}

impl Settings {
    /// Settings whose texts may be `file:PATH`, relative to `base`, and further ones from `credentials`.
    #[must_use]
    pub fn new(written: toml::Table, base: &Path, credentials: Option<Source>) -> Self {
        let mut files = BTreeMap::new();
        let written = written.into_iter().filter(|(name, value)| {
            let path = value.as_str().and_then(|text| text.strip_prefix("file:"));
            path.is_none_or(|path| {
                files.insert(name.clone(), base.join(path));
                false
            })
        });
        Self { written: written.collect(), files, credentials }
    }

    /// As they are written, for whoever looks for other faults when one of them cannot be read.
    #[must_use]
    pub fn as_written(&self) -> toml::Table {
        let mut settings = self.written.clone();
        settings
            .extend(self.files.iter().map(|(name, path)| (name.clone(), format!("file:{}", path.display()).into())));
        settings
    }

    /// What [`Settings::read`] gave when these were all of them.
    #[must_use]
    pub fn as_read(&self, settings: toml::Table) -> Read {
        let given =
            settings.iter().filter(|(name, _)| !self.written.contains_key(*name) && !self.files.contains_key(*name));
        let credentials = given.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        Read { settings, credentials }
    }

    /// Whether reading them again may show others.
    #[must_use]
    pub fn may_change(&self) -> bool {
        !self.files.is_empty() || self.credentials.is_some()
    }

    /// Whether some of them are in files, which may be read while they are written.
    #[must_use]
    pub fn has_files(&self) -> bool {
        !self.files.is_empty() || matches!(self.credentials, Some(Source::File(_)))
    }

    /// How often their command is to be run, if they have one.
    #[must_use]
    pub fn refresh(&self) -> Option<Duration> {
        match &self.credentials {
            Some(Source::Command(program)) => Some(program.refresh),
            Some(Source::File(_)) | None => None,
        }
    }

    /// Reads all of them; a command is not run where what it gave before is given. Blocks on the disk or the command.
    ///
    /// # Errors
    /// Every setting that cannot be had.
    pub fn read(&self, before: Option<&Read>) -> Result<Read, Vec<Unread>> {
        let mut unread = Vec::new();
        let mut settings = self.written.clone();
        for (name, path) in &self.files {
            match Source::File(path.clone()).fetch() {
                Ok(secret) => drop(settings.insert(name.clone(), secret.expose_secret().into())),
                Err(why) => unread.push(Unread { setting: format!("settings.{name}"), why, mend: FILE_MEND }),
            }
        }
        let credentials = self.credentials(before).unwrap_or_else(|why| {
            unread.push(Unread { setting: "credentials".to_owned(), why, mend: CREDENTIALS_MEND });
            BTreeMap::new()
        });
        if unread.is_empty() {
            settings.extend(credentials.iter().map(|(name, text)| (name.clone(), text.as_str().into())));
            return Ok(Read { settings, credentials });
        }
        Err(unread)
    }

    fn credentials(&self, before: Option<&Read>) -> Result<BTreeMap<String, String>, String> {
        let source = match (&self.credentials, before) {
            (None, _) => return Ok(BTreeMap::new()),
            (Some(Source::Command(_)), Some(before)) => return Ok(before.credentials.clone()),
            (Some(source), _) => source,
        };
        let secret = source.fetch()?;
        let given: BTreeMap<String, String> = serde_json::from_str(secret.expose_secret()).map_err(|e| {
            // What serde says itself may quote a secret.
            format!("{source} gives no JSON object of texts (line {}, column {})", e.line(), e.column())
        })?;
        match given.keys().find(|name| self.written.contains_key(*name) || self.files.contains_key(*name)) {
            Some(name) => Err(format!("{source} gives `{name}`, which stands in `settings` too")),
            None => Ok(given),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::secrets::source::Program;

    fn written(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn settings_are_those_written_those_in_files_and_those_of_the_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("zone", "a\n");
        put("pair", "{\"id\": \"AK\", \"key\": \"one\"}\n");
        let table = written("region = \"r\"\nbound = 3\nzone = \"file:zone\"");
        let pair = Source::File(folder.path().join("pair"));
        let settings = Settings::new(table, folder.path(), Some(pair));
        assert!(settings.may_change() && settings.has_files() && settings.refresh().is_none());
        let read = settings.read(None).unwrap();
        assert_eq!(read.settings, written("region = \"r\"\nbound = 3\nzone = \"a\"\nid = \"AK\"\nkey = \"one\""));
        assert_eq!(settings.as_read(read.settings.clone()), read);
        put("pair", "{\"id\": \"AK\"}");
        let read = settings.read(Some(&read)).unwrap();
        assert_eq!(
            read.settings,
            written("region = \"r\"\nbound = 3\nzone = \"a\"\nid = \"AK\""),
            "files are read anew"
        );

        fs::remove_file(folder.path().join("zone")).unwrap();
        for (pair, why) in [
            ("hunter2", "gives no JSON object of texts (line 1, column 1)"),
            ("{\"key\": 4711}", "gives no JSON object of texts (line 1, column 12)"),
            ("{\"region\": \"x\"}", "gives `region`, which stands in `settings` too"),
            ("{\"zone\": \"x\"}", "gives `zone`, which stands in `settings` too"),
        ] {
            put("pair", pair);
            let unread = settings.read(None).unwrap_err();
            assert_eq!(unread.iter().map(|u| u.setting.as_str()).collect::<Vec<_>>(), ["settings.zone", "credentials"]);
            let told = unread[1].to_string();
            assert!(told.contains(why) && !told.contains("hunter2") && !told.contains("4711"), "{pair}: {told}");
        }
        assert!(!Settings::new(written("a = \"x\""), folder.path(), None).may_change());
    }

    #[test]
    fn a_command_is_run_when_it_is_time() {
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        let script =
            format!("echo >> {0}; echo \"{{\\\"key\\\": \\\"$(wc -l < {0} | tr -d ' ')\\\"}}\"", count.display());
        let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let (timeout, refresh) = (Duration::from_secs(60), Duration::from_secs(7));
        let credentials = Source::Command(Program { command, timeout, refresh });
        let settings = Settings::new(toml::Table::new(), folder.path(), Some(credentials));
        assert!(settings.may_change() && !settings.has_files() && settings.refresh() == Some(refresh));
        let first = settings.read(None).unwrap();
        assert_eq!(first.settings, written("key = \"1\""));
        assert_eq!(settings.read(Some(&first)).unwrap(), first);
        assert_eq!(settings.read(None).unwrap().settings, written("key = \"2\""));
    }
}
