//! Standard output and standard error: forms of an answer, tables, ages, and what a terminal allows.

use std::io::{self, IsTerminal as _, Write as _};

use meridian_model::time::Time;
use serde_json::Value;

use super::failure::{Exit, Failure};

/// Looks up an environment variable.
pub type Variables = Box<dyn Fn(&str) -> Option<String>>;

/// What surrounds the program; read once, passed on, so that nothing below reads the environment.
pub struct Environment {
    /// Looks up an environment variable.
    pub var: Variables,
    /// Now.
    pub now: Time,
    /// How this program was called, to show commands that work when they are copied.
    pub program: String,
    /// Standard input is a person.
    pub stdin_is_terminal: bool,
    /// Standard error is a person.
    pub stderr_is_terminal: bool,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    /// The surroundings of this process.
    #[must_use]
    pub fn of_process(program: String, var: impl Fn(&str) -> Option<String> + 'static, now: Time) -> Self {
        Self {
            var: Box::new(var),
            now,
            program,
            stdin_is_terminal: io::stdin().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<String> {
        (self.var)(name).filter(|v| !v.is_empty())
    }

    /// Whether a line on stderr may be drawn over: only for a person at a terminal (`NO_COLOR` forbids colours, not
    /// motion; `CI` forbids both).
    #[must_use]
    pub fn may_animate(&self, no_input: bool) -> bool {
        self.stderr_is_terminal && !no_input && self.set("CI").is_none() && self.set("TERM").as_deref() != Some("dumb")
    }

    /// Whether colours may be used on stderr (no-color.org).
    #[must_use]
    pub fn may_color(&self) -> bool {
        self.may_animate(false) && self.set("NO_COLOR").is_none()
    }

    /// Whether a question will be answered.
    #[must_use]
    pub fn may_ask(&self, no_input: bool) -> bool {
        self.stdin_is_terminal && self.may_animate(no_input)
    }
}

/// Writes data to stdout.
///
/// # Errors
/// A silent failure when the reader went away, an error for a full disk.
pub fn emit(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(e) => Err(Failure::new(Exit::Error, format!("cannot write to stdout: {e}"))),
    }
}

/// Writes a note to stderr; a stderr that cannot be written is nobody's concern.
pub fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The value as indented JSON with a newline.
#[must_use]
pub(super) fn json(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// The value as YAML.
///
/// # Errors
/// Values that YAML cannot hold; there are none in JSON.
pub(super) fn yaml(value: &Value) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|e| Failure::new(Exit::Error, format!("the answer cannot be written as YAML: {e}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Columns for people: upper-case headers, no borders, two blanks between columns.
#[derive(Debug)]
pub(super) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub(super) fn new(headers: Vec<&'static str>) -> Self {
        Self { headers, rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Has no rows.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text.
    #[must_use]
    pub(super) fn render(&self) -> String {
        let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { one_line(text) };
        let head: Vec<String> = self.headers.iter().map(|h| (*h).to_owned()).collect();
        let rows: Vec<Vec<String>> =
            std::iter::once(head).chain(self.rows.iter().map(|row| row.iter().map(|c| cell(c)).collect())).collect();
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let fill = width.saturating_sub(cell.chars().count());
                line.push_str(cell);
                line.push_str(&" ".repeat(fill + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text from a server, fit for a terminal: no line breaks, no control characters.
#[must_use]
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An age in its largest unit, as Kubernetes shows it: `5s`, `5m`, `3h`, `2d`.
#[must_use]
pub(super) fn age(now: Time, then: Option<&str>) -> String {
    let Some(then) = then.and_then(|t| Time::parse(t).ok()) else { return String::new() };
    duration(now.since(then).as_secs())
}

/// Seconds in their largest unit.
#[must_use]
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The text at a path of keys, empty when there is none.
#[must_use]
pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The number or text at a path of keys, empty when there is none.
#[must_use]
pub(super) fn scalar(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Bool(b)) => b.to_string(),
        _ => String::new(),
    }
}

/// The items of a list, or of nothing.
#[must_use]
pub(super) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The last part of a resource name.
#[must_use]
pub(super) fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_at_a_terminal_sees_motion_colours_and_questions() {
        let at = |terminal: bool, var: &'static str| Environment {
            var: Box::new(move |name| (name == var).then(|| "1".to_owned())),
            now: Time::from_unix_ms(0),
            program: String::new(),
            stdin_is_terminal: terminal,
            stderr_is_terminal: terminal,
        };
        let allowed = |env: &Environment, no_input| (env.may_animate(no_input), env.may_color(), env.may_ask(no_input));
        assert_eq!(allowed(&at(true, ""), false), (true, true, true));
        assert_eq!(allowed(&at(true, "NO_COLOR"), false), (true, false, true));
        assert_eq!(allowed(&at(true, "CI"), false), (false, false, false));
        assert_eq!(allowed(&at(true, ""), true), (false, true, false));
        assert_eq!(allowed(&at(false, ""), false), (false, false, false));
    }

    #[test]
    fn tables_line_up_and_do_not_break() {
        let mut table = Table::new(vec!["NAME", "PHASE"]);
        table.row(vec!["web".to_owned(), "Running".to_owned()]);
        table.row(vec!["a\nb\x1b[31m".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME      PHASE\nweb       Running\na b [31m  -\n");
    }

    #[test]
    fn ages_use_one_unit() {
        for (seconds, expected) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
