//! What is wrong with a text of documents: file, line, column, the line with carets, and the cure.

use std::fmt;

use serde_saphyr::Spanned;

use crate::expr::Diagnostic;

/// One fault, at its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the text: a file, or what a request is called.
    pub file: String,
    /// Where in the document, for example `policy baseline, rules[1].expression`.
    pub path: String,
    /// What, with line and column in the text.
    pub diagnostic: Diagnostic,
}

impl Finding {
    /// A text that cannot be read at all.
    #[must_use]
    pub fn unreadable(file: &str, why: &str) -> Self {
        let diagnostic =
            Diagnostic::at("unreadable", "", (1, 1), format!("cannot be read: {why}"), "check the path".to_owned());
        Self { file: file.to_owned(), path: String::new(), diagnostic }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { line, column, code, message, hint, .. } = &self.diagnostic;
        let colon = if self.path.is_empty() { "" } else { ": " };
        let Self { file, path, .. } = self;
        writeln!(f, "{file}:{line}:{column}: {path}{colon}{message} [{code}]")?;
        write!(f, "{}\n  fix: {hint}", self.diagnostic.snippet())
    }
}

/// Everything that is wrong, by place; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Findings(pub Vec<Finding>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{finding}")?;
        }
        Ok(())
    }
}

/// A text and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name of the text.
    pub file: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// A fault at a value of the text, or in it if `inner` is a fault of the value as an expression.
    pub(super) fn finding(&self, path: String, value: &Spanned<String>, inner: Diagnostic) -> Finding {
        let number = |n: u64| usize::try_from(n).unwrap_or(1).max(1);
        let start = (number(value.referenced.line()), number(value.referenced.column()));
        let at = self.aligned(start, &value.value, (inner.line, inner.column)).unwrap_or(start);
        Finding { file: self.file.clone(), path, diagnostic: self.shown(at, inner) }
    }

    /// A fault at a place of the text.
    pub(super) fn at(&self, path: String, at: (usize, usize), inner: Diagnostic) -> Finding {
        Finding { file: self.file.clone(), path, diagnostic: self.shown(at, inner) }
    }

    fn shown(&self, (line, column): (usize, usize), inner: Diagnostic) -> Diagnostic {
        let source = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
        let room = source.chars().count().saturating_sub(column - 1).max(1);
        Diagnostic { line, column, len: inner.len.min(room), source, ..inner }
    }

    /// Where a place of a value stands in the text. The value is walked beside the text from where it begins, whatever
    /// its style: quotes, escapes and indents of the text are skipped, and white space is as good as any other.
    fn aligned(&self, start: (usize, usize), value: &str, (line, column): (usize, usize)) -> Option<(usize, usize)> {
        let wanted = offset(value, (line, column))?;
        let mut at = offset(&self.text, start)?;
        let mut done = 0;
        let mut chars = value.chars().peekable();
        while done < wanted {
            let next = *chars.peek()?;
            let found = self.text.get(at..)?.chars().next()?;
            if found == next || (next.is_whitespace() && found.is_whitespace()) {
                chars.next();
                done += next.len_utf8();
                at += found.len_utf8();
            } else if found.is_whitespace() || matches!(found, '\\' | '"' | '\'') {
                at += found.len_utf8();
            } else {
                return None;
            }
        }
        let next = chars.peek().copied();
        while let Some(found) = self.text.get(at..)?.chars().next()
            && Some(found) != next
            && (found.is_whitespace() || matches!(found, '\\' | '"' | '\''))
        {
            at += found.len_utf8();
        }
        let before = self.text.get(..at)?;
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Some((before.matches('\n').count() + 1, before.get(line_start..)?.chars().count() + 1))
    }
}

/// Byte of a line and column, both from 1, columns in characters.
fn offset(text: &str, (line, column): (usize, usize)) -> Option<usize> {
    let start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let rest = text.get(start..)?;
    Some(start + rest.chars().take(column.checked_sub(1)?).map(char::len_utf8).sum::<usize>())
}
