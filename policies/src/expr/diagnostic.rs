//! What is wrong with an expression: where, what, and how to mend it.

use std::fmt;

/// Most faults told of one expression: more help nobody.
pub const DIAGNOSTICS_MAX: usize = 20;
/// Longest part of a line that is shown, in characters; what is wrong stays in view.
const SNIPPET_LEN_MAX: usize = 120;

/// Part of an expression, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

/// One fault of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code, for example `unknown-field`.
    pub code: &'static str,
    /// Line in the expression, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters underlined, at least one.
    pub len: usize,
    /// The line.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

impl Diagnostic {
    /// A fault at a place of an expression.
    #[must_use]
    pub fn new(
        code: &'static str,
        text: &str,
        place: Place,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let start = floor(text, place.start);
        let end = floor(text, place.end.max(start));
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let rest = text.get(line_start..).unwrap_or_default();
        let source = rest.lines().next().unwrap_or_default();
        let marked = text.get(start..end).unwrap_or_default().lines().next().unwrap_or_default();
        Self {
            code,
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            len: marked.chars().count().max(1),
            source: source.to_owned(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The same at a line and a column in characters, from 1, as the parser tells places.
    #[must_use]
    pub fn at(code: &'static str, text: &str, (line, column): (usize, usize), message: String, hint: String) -> Self {
        let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
        Self { code, line, column, len: 1, source, message, hint }
    }

    /// The line with carets under what is wrong: two lines, each behind a margin.
    #[must_use]
    pub fn snippet(&self) -> String {
        let skip = self.column.saturating_sub(SNIPPET_LEN_MAX / 2);
        let shown: String = self.source.chars().skip(skip).take(SNIPPET_LEN_MAX).collect();
        let indent = self.column.saturating_sub(1).saturating_sub(skip);
        let carets = self.len.min(SNIPPET_LEN_MAX.saturating_sub(indent)).max(1);
        format!("  | {shown}\n  | {}{}", " ".repeat(indent), "^".repeat(carets))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, code, message, hint, .. } = self;
        write!(f, "{line}:{column}: {message} [{code}]\n{}\n  fix: {hint}", self.snippet())
    }
}

/// The last boundary of a character that is not after `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The known word that differs least from `word`, if the difference can be a slip of the finger.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_lowercase();
    known
        .map(|k| (distance(&lower, &k.to_lowercase()), k))
        .filter(|(d, k)| *d <= TYPO_DISTANCE_MAX.min(k.len().div_ceil(2)))
        .min()
        .map(|(_, k)| k)
}

/// Most letters in which a slip of the finger differs from what was meant.
const TYPO_DISTANCE_MAX: usize = 3;

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (slot, cb) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *slot;
            *slot = (corner + usize::from(ca != cb)).min(above + 1).min(left + 1);
            corner = above;
            left = *slot;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// "did you mean ...?", or the known words.
pub(crate) fn mean<'k>(word: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are: {}", known.collect::<Vec<_>>().join(", ")),
    }
}
