//! `settings` and `credentials` of a backend: what an adapter is made of, some of which stands elsewhere.

use std::time::Duration;

use meridian_model::quantity::Span;

use super::reader::{Section, join};
use crate::secrets::{
    settings::Settings,
    source::{Program, Source},
};

/// Time of a command that says none: one question to a store of secrets.
const TIMEOUT: Span = Span(Duration::from_secs(5));
/// A start waits for it, and so does a stop: shorter than service managers wait (`deploy/systemd`).
const TIMEOUT_MAX: Span = Span(Duration::from_secs(30));
const TIMEOUT_MIN: Span = Span(Duration::from_millis(100));
/// How often a command that does not say is run again: short-lived credentials live an hour and more.
const REFRESH: Span = Span(Duration::from_secs(300));
const REFRESH_MIN: Span = Span(Duration::from_secs(5));
const REFRESH_MAX: Span = Span(Duration::from_secs(86_400));

/// How credentials are written.
const FORM: &str =
    "write \"file:PATH\" or { command = [\"PROGRAM\", \"ARGUMENT\"] }; either gives a JSON object of settings";

/// The settings of a backend as they are written, with `env:NAME` followed.
pub(super) fn read(s: &mut Section<'_, '_>) -> Settings {
    let mut written: toml::Table = s.value("settings").unwrap_or_default();
    let path = s.at("settings");
    for (name, value) in &mut written {
        let named = value.as_str().filter(|text| text.starts_with("env:"));
        if let Some(text) = named.and_then(|text| s.resolve(&join(&path, name), text)) {
            *value = text.into();
        }
    }
    let credentials = source(s);
    Settings::new(written, s.report.base(), credentials)
}

fn source(s: &mut Section<'_, '_>) -> Option<Source> {
    if s.is_table("credentials") {
        return s.section("credentials").and_then(command);
    }
    let text = s.value::<String>("credentials")?;
    let path = text.strip_prefix("file:").map(|path| s.report.base().join(path));
    if path.is_none() {
        s.report.mistake(&s.at("credentials"), "neither a file nor a command", FORM);
    }
    path.map(Source::File)
}

fn command(mut s: Section<'_, '_>) -> Option<Source> {
    let command = s.required::<Vec<String>>("command", "[\"PROGRAM\", \"ARGUMENT\"]");
    let timeout = s.within("timeout", TIMEOUT, (TIMEOUT_MIN, TIMEOUT_MAX)).0;
    let refresh = s.within("refresh", REFRESH, (REFRESH_MIN, REFRESH_MAX)).0;
    if command.as_ref().is_some_and(|words| words.first().is_none_or(String::is_empty)) {
        s.report.mistake(&s.at("command"), "it has no program", FORM);
        return None;
    }
    s.finish();
    Some(Source::Command(Program { command: command?, timeout, refresh }))
}
