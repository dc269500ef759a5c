//! Reads a TOML document key by key, so that one pass finds every mistake and each knows its line.
//!
//! serde stops at the first fault of a document; an operator should see them all. Each leaf is still read by its
//! type's own `Deserialize`. Positions are found by path, which lets checks across sections point at a line too.

use std::{cell::RefCell, collections::BTreeMap, fmt::Display, ops::Range};

use secrecy::SecretString;
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{Mistake, Sources};

/// Longest distance at which a misspelt key is taken for a known one.
const TYPO_DISTANCE_MAX: usize = 3;

/// Where each path of a document stands, and what was found wrong so far.
pub(super) struct Report<'s> {
    text: &'s str,
    positions: BTreeMap<String, Range<usize>>,
    mistakes: RefCell<Vec<Mistake>>,
    sources: &'s Sources<'s>,
}

impl<'s> Report<'s> {
    pub(super) fn new(text: &'s str, root: &Spanned<DeTable<'_>>, sources: &'s Sources<'s>) -> Self {
        let mut positions = BTreeMap::new();
        locate_table(&mut positions, "", root.get_ref());
        Self { text, positions, mistakes: RefCell::default(), sources }
    }

    /// Notes a mistake at a path, or at the nearest parent that is in the file.
    pub(super) fn mistake(&self, path: &str, what: impl Into<String>, mend: impl Into<String>) {
        let (line, column) = self.line_column(self.position(path).map_or(0, |r| r.start));
        self.mistakes.borrow_mut().push(Mistake {
            line,
            column,
            path: path.to_owned(),
            what: what.into(),
            mend: mend.into(),
        });
    }

    /// Whether a mistake was noted at a path or below it.
    pub(super) fn has_mistake(&self, path: &str) -> bool {
        self.mistakes.borrow().iter().any(|mistake| mistake.path.starts_with(path))
    }

    /// Notes what the TOML parser itself refused.
    pub(super) fn syntax(&self, error: &toml::de::Error) {
        let (line, column) = self.line_column(error.span().map_or(0, |r| r.start));
        let what = error.message().trim().to_owned();
        let mend = "see https://toml.io for the syntax".to_owned();
        self.mistakes.borrow_mut().push(Mistake { line, column, path: String::new(), what, mend });
    }

    /// Directory that relative paths start at.
    pub(super) fn base(&self) -> &'s std::path::Path {
        self.sources.base
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
        mistakes
    }

    fn position(&self, path: &str) -> Option<&Range<usize>> {
        let mut path = path;
        loop {
            if let Some(range) = self.positions.get(path) {
                return Some(range);
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
    }

    fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or("").chars().count() + 1)
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn locate_table(positions: &mut BTreeMap<String, Range<usize>>, path: &str, table: &DeTable<'_>) {
    for (key, value) in table {
        let at = join(path, key.get_ref());
        positions.insert(at.clone(), key.span());
        locate(positions, &at, value);
    }
}

fn locate(positions: &mut BTreeMap<String, Range<usize>>, path: &str, value: &Spanned<DeValue<'_>>) {
    if let Some(table) = value.get_ref().as_table() {
        locate_table(positions, path, table);
    } else if let Some(array) = value.get_ref().as_array() {
        for (i, item) in array.iter().enumerate() {
            let at = format!("{path}[{i}]");
            positions.insert(at.clone(), item.span());
            locate(positions, &at, item);
        }
    }
}

/// One table of the document while it is being read; [`Section::finish`] reports what nobody asked for.
pub(super) struct Section<'r, 'i> {
    pub(super) report: &'r Report<'r>,
    pub(super) path: String,
    table: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'r, 'i> Section<'r, 'i> {
    pub(super) fn root(report: &'r Report<'r>, table: DeTable<'i>) -> Self {
        Self { report, path: String::new(), table, known: Vec::new() }
    }

    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key is there, and a table.
    pub(super) fn is_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_table())
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// The value of a key, if it is there and is what its type takes.
    pub(super) fn value<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let raw = self.take(key)?;
        match T::deserialize(ValueDeserializer::from(raw)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report.mistake(&self.at(key), error.message().trim(), "give a value of the form stated");
                None
            }
        }
    }

    /// The same, but its absence is a mistake.
    pub(super) fn required<T: DeserializeOwned>(&mut self, key: &'static str, example: &str) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.report.mistake(&self.path, format!("`{key}` is missing"), format!("add `{key} = {example}`"));
            return None;
        }
        self.value(key)
    }

    /// A value with a default and bounds.
    pub(super) fn within<T>(&mut self, key: &'static str, default: T, bounds: (T, T)) -> T
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        let (min, max) = bounds;
        match self.value::<T>(key) {
            None => default,
            Some(value) if value < min || value > max => {
                let what = format!("{value} is outside {min} to {max}");
                self.report.mistake(
                    &self.at(key),
                    what,
                    format!("choose a value in that range; the default is {default}"),
                );
                default
            }
            Some(value) => value,
        }
    }

    /// A value with bounds that may be left out.
    pub(super) fn optional_within<T>(&mut self, key: &'static str, (min, max): (T, T)) -> Option<T>
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        let value = self.value::<T>(key)?;
        if value < min || value > max {
            let what = format!("{value} is outside {min} to {max}");
            self.report.mistake(&self.at(key), what, "choose a value in that range, or leave it out");
            return None;
        }
        Some(value)
    }

    /// A table below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'r, 'i>> {
        let raw = self.take(key)?;
        self.below(self.at(key), raw)
    }

    /// The tables of an array of tables; none when the key is absent.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'r, 'i>> {
        let Some(raw) = self.take(key) else { return Vec::new() };
        let path = self.at(key);
        let found = raw.get_ref().type_str();
        let DeValue::Array(items) = raw.into_inner() else {
            let what = format!("expected an array of tables, found {found}");
            self.report.mistake(&path, what, format!("write it as [[{path}]]"));
            return Vec::new();
        };
        let item = |(i, item)| self.below(format!("{path}[{i}]"), item);
        items.into_iter().enumerate().filter_map(item).collect()
    }

    fn below(&self, path: String, raw: Spanned<DeValue<'i>>) -> Option<Section<'r, 'i>> {
        let found = raw.get_ref().type_str();
        let DeValue::Table(table) = raw.into_inner() else {
            let what = format!("expected a table, found {found}");
            self.report.mistake(&path, what, format!("write it as [{path}]"));
            return None;
        };
        Some(Section { report: self.report, path, table, known: Vec::new() })
    }

    /// A secret: the text itself, `env:NAME` or `file:PATH`.
    pub(super) fn secret(&mut self, key: &'static str, required: bool) -> Option<SecretString> {
        let example = "\"file:/run/secrets/NAME\"";
        let text: String = if required { self.required(key, example) } else { self.value(key) }?;
        self.resolve(&self.at(key), &text).map(SecretString::from)
    }

    /// Follows `env:NAME` and `file:PATH`; any other text stands for itself.
    pub(super) fn resolve(&self, path: &str, text: &str) -> Option<String> {
        match self.report.sources.resolve(text) {
            Ok(value) => Some(value),
            Err((what, mend)) => {
                self.report.mistake(path, what, mend);
                None
            }
        }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            let near = nearest(name, self.known.iter().copied());
            let mend = near.map_or_else(
                || format!("remove it; known keys here: {}", self.known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            self.report.mistake(&self.at(name), format!("unknown key `{name}`"), mend);
        }
    }
}

/// The known word that differs least from `word`, if the difference can be a slip of the finger.
pub(crate) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_lowercase();
    known
        .map(|k| (distance(&lower, &k.to_lowercase()), k))
        .filter(|(d, k)| *d <= TYPO_DISTANCE_MAX.min(k.len().div_ceil(2)))
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (slot, cb) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (*slot + 1).min(left + 1).min(corner + usize::from(ca != cb));
            corner = std::mem::replace(slot, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
