//! What went wrong, for people and for scripts: cause, place, next step, exit code (API-CONVENTIONS 10).

use std::fmt::Write as _;

use bytes::Bytes;
use meridian_model::error::{ErrorCode, FieldError};
use serde::Deserialize;
use serde_json::Value;

use super::output::one_line;

/// Exit codes of API-CONVENTIONS 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Any other error.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// It does not exist.
    NotFound = 3,
    /// Authentication or policy.
    Denied = 4,
    /// Quota, rate limit or no capacity.
    Exhausted = 5,
    /// The state does not allow it.
    Conflict = 6,
    /// Out of time, or the outcome is not known.
    Timeout = 7,
    /// Partial data with `--require-complete`.
    Partial = 8,
    /// Two things that were compared differ.
    Differs = 10,
}

/// Where in a manifest something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File name; `stdin` for `-`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The source line.
    pub source: String,
    /// Characters to underline, at least 1.
    pub len: usize,
    /// What is wrong there.
    pub what: String,
}

/// A command that did not succeed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// What happened, one line. Empty: the reader of stdout went away, nothing is to be said.
    pub cause: String,
    /// Where, in files.
    pub places: Vec<Place>,
    /// Further lines.
    pub details: Vec<String>,
    /// What to do next.
    pub next: Option<String>,
    /// Public error code, if the gateway answered with one.
    pub code: Option<ErrorCode>,
}

impl Failure {
    /// A failure with its cause.
    #[must_use]
    pub fn new(exit: Exit, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        Self { exit, cause, places: Vec::new(), details: Vec::new(), next: None, code: None }
    }

    /// The same with a next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Something differs, which was shown: `diff`'s answer, not an error.
    #[must_use]
    pub fn differs() -> Self {
        Self::new(Exit::Differs, "")
    }

    /// The reader of stdout went away: `meridian get inst | head -1` is no error.
    #[must_use]
    pub fn reader_gone() -> Self {
        Self::new(Exit::Ok, "")
    }

    /// The text for stderr; empty when nothing is to be said.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let mut text = String::new();
        if self.cause.is_empty() {
            return text;
        }
        let (on, off) = if color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        // Much of this comes from a server or a file: it must not move a terminal's cursor. Writing to a String
        // cannot fail.
        let _ = writeln!(text, "{on}error:{off} {} (exit {})", one_line(&self.cause), self.exit as u8);
        for place in &self.places {
            let head = format!("  --> {}:{}:{}", one_line(&place.file), place.line, place.column);
            let (source, what) = (one_line(&place.source), one_line(&place.what));
            if source.is_empty() {
                let _ = writeln!(text, "{head}   {what}");
                continue;
            }
            let shown = source.trim_start();
            let cut = source.chars().count() - shown.chars().count();
            let before = place.column.saturating_sub(1).saturating_sub(cut);
            let indent = head.chars().count() + 3 + before;
            let room = shown.chars().count().saturating_sub(before);
            let marks = "^".repeat(place.len.clamp(1, room.max(1)));
            let _ = writeln!(text, "{head}   {shown}");
            let _ = writeln!(text, "{}{marks} {what}", " ".repeat(indent));
        }
        for line in &self.details {
            let _ = writeln!(text, "  {}", one_line(line));
        }
        if let Some(next) = &self.next {
            let _ = writeln!(text, "  next: {}", one_line(next));
        }
        text
    }
}

/// A problem as the gateway sends it; also the `error` of an operation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ProblemBody {
    /// Stable code.
    pub code: String,
    /// Short title.
    pub title: String,
    /// What happened.
    pub detail: String,
    /// For the operator.
    pub request_id: String,
    /// Faults by field.
    pub errors: Vec<Fault>,
    /// What was tried.
    pub attempts: Vec<Value>,
    /// The operation whose outcome is open.
    pub operation: Option<String>,
    /// `unknown` when the request may still take effect.
    pub outcome: Option<String>,
}

/// One fault in a request body.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    /// JSON pointer into the body.
    pub pointer: String,
    /// Stable code of the fault.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// How to mend it.
    pub hint: Option<String>,
    /// Line in the value that the pointer leads to, from 1, where that is an expression.
    pub line: Option<u32>,
    /// Column in it, from 1.
    pub column: Option<u32>,
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Self {
        let FieldError { pointer, code, detail, hint, line, column, .. } = error;
        Self { pointer, code, detail, hint, line, column }
    }
}

impl Fault {
    /// The fault in one line, without its pointer.
    #[must_use]
    pub(super) fn line(&self) -> String {
        let detail = without_position(&self.detail);
        self.hint.as_ref().map_or_else(|| detail.to_owned(), |hint| format!("{detail} ({hint})"))
    }
}

impl ProblemBody {
    /// Reads a problem; anything else becomes one without a code.
    #[must_use]
    pub(super) fn read(body: &Bytes) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// The public code, if it is one this program knows.
    #[must_use]
    pub(super) fn known_code(&self) -> Option<ErrorCode> {
        known_code(&self.code)
    }

    /// The failure it means. Faults by field stay in `details` until somebody finds their places.
    #[must_use]
    pub(super) fn failure(&self, status: u16, verbose: bool) -> Failure {
        let code = self.known_code();
        let exit = code.map_or_else(|| exit_of_status(status), exit_of);
        let cause = match (self.detail.is_empty(), self.code.is_empty()) {
            (false, false) => format!("{}: {}", self.code, without_position(&self.detail)),
            (false, true) => self.detail.clone(),
            (true, false) => self.code.clone(),
            (true, true) => format!("the server answered {status} without a problem document"),
        };
        let mut failure = Failure::new(exit, cause);
        failure.code = code;
        failure.details = self.attempts.iter().map(attempt_line).collect();
        if let Some(operation) = &self.operation {
            failure.details.push(format!("operation: meridian get op {operation}"));
        }
        if verbose {
            failure.details.push(format!("status {status}, request id {}", self.request_id));
        }
        failure.next = code.map(|c| c.advice().to_owned());
        failure
    }
}

/// The text without `at line 1 column 468`: that counts in the body as it was sent, which nobody wrote.
fn without_position(text: &str) -> &str {
    let is_position = |tail: &str| tail.chars().all(|c| c.is_ascii_digit() || " column".contains(c));
    text.rfind(" at line ")
        .and_then(|at| text.split_at_checked(at))
        .filter(|(_, tail)| is_position(tail.trim_start_matches(" at line ")))
        .map_or(text, |(head, _)| head)
}

/// One attempt as a line of text.
#[must_use]
pub(super) fn attempt_line(attempt: &Value) -> String {
    let text = |key: &str| attempt.get(key).and_then(Value::as_str).unwrap_or("");
    let ms = attempt.get("durationMs").and_then(Value::as_u64).unwrap_or(0);
    let line = format!(
        "tried {}  {}  {}  {}.{} s  {}",
        text("zone"),
        text("adapter"),
        text("code"),
        ms / 1000,
        ms % 1000 / 100,
        text("message")
    );
    line.trim_end().to_owned()
}

/// The code of that name.
#[must_use]
pub(super) fn known_code(name: &str) -> Option<ErrorCode> {
    ErrorCode::ALL.into_iter().find(|c| c.as_str() == name)
}

/// The exit code of a public error code; a new code breaks the build here, on purpose.
#[must_use]
pub(super) const fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::InvalidArgument
        | ErrorCode::UnknownField
        | ErrorCode::PageTokenInvalid
        | ErrorCode::MethodNotAllowed
        | ErrorCode::PageExpired
        | ErrorCode::PayloadTooLarge
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::Unplaceable
        | ErrorCode::RegionUnavailable
        | ErrorCode::StoreUnavailable
        | ErrorCode::StoreRecovering
        | ErrorCode::IssuerUnavailable
        | ErrorCode::RevisionNotReached
        | ErrorCode::BackendError
        | ErrorCode::Internal => Exit::Error,
        ErrorCode::NotFound => Exit::NotFound,
        ErrorCode::Unauthenticated | ErrorCode::PermissionDenied | ErrorCode::PolicyDenied => Exit::Denied,
        ErrorCode::QuotaExceeded | ErrorCode::RateLimited | ErrorCode::NoCapacity | ErrorCode::Overloaded => {
            Exit::Exhausted
        }
        ErrorCode::AlreadyExists
        | ErrorCode::Conflict
        | ErrorCode::EtagMismatch
        | ErrorCode::PreconditionRequired
        | ErrorCode::IdempotencyKeyReused
        | ErrorCode::Cancelled => Exit::Conflict,
        ErrorCode::DeadlineExceeded => Exit::Timeout,
    }
}

/// The exit code of a status whose body is no problem of ours, for example from a proxy.
const fn exit_of_status(status: u16) -> Exit {
    match status {
        401 | 403 => Exit::Denied,
        404 | 410 => Exit::NotFound,
        409 | 412 | 422 => Exit::Conflict,
        429 => Exit::Exhausted,
        504 => Exit::Timeout,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_underlined() {
        let mut failure = Failure::new(Exit::Denied, "policy-denied: no").next("ask");
        failure.places.push(Place {
            file: "bad.yaml".to_owned(),
            line: 14,
            column: 12,
            source: "    image: evil:1".to_owned(),
            len: 6,
            what: "not from an allowed registry".to_owned(),
        });
        let expected = "error: policy-denied: no (exit 4)\n  --> bad.yaml:14:12   image: evil:1\n                              ^^^^^^ not from an allowed registry\n  next: ask\n";
        assert_eq!(failure.render(false), expected);
    }

    #[test]
    fn answers_that_are_no_problem_have_an_exit_code_too() {
        let problem = ProblemBody::read(&Bytes::from_static(b"<html>"));
        assert_eq!(problem.failure(502, false).exit, Exit::Error);
        assert_eq!(problem.failure(403, false).exit, Exit::Denied);
    }

    #[test]
    fn a_server_cannot_move_the_cursor() {
        let mut failure = Failure::new(Exit::Error, "a\x1b[2Jb\nc");
        failure.details.push("d\re".to_owned());
        let shown = failure.render(false);
        assert_eq!(shown, "error: a [2Jb c (exit 1)\n  d e\n");
    }

    #[test]
    fn a_reader_that_went_away_is_not_mentioned() {
        assert_eq!(Failure::reader_gone().render(true), "");
    }
}
